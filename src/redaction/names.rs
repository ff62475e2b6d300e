//! Secrets by the name of their field.
//!
//! A name is split into words (`accessToken`, `access-token` and `http.access_token` end alike). It is a secret's if its last
//! words are those of a pattern, perhaps followed by words that still mean the value itself: `password_hash`. So
//! `max_tokens`, `token_count` and `password_reset_url` are left alone.

use regex::Regex;

use crate::error::{Error, Result};

/// The built-in rules: name and patterns.
pub(super) const RULES: &[(&str, &[&str])] = &[
    (
        "password",
        &[
            "password",
            "passwords",
            "passwd",
            "pwd",
            "passphrase",
            "passcode",
            "pgpassword",
            "db pass",
            "user pass",
            "smtp pass",
            "mysql pass",
            "pg pass",
            "redis pass",
            "mail pass",
            "root pass",
            "admin pass",
            "userpass",
            "dbpass",
            "pgpassword",
        ],
    ),
    (
        "token",
        &[
            "token",
            "accesstoken",
            "authtoken",
            "refreshtoken",
            "idtoken",
            "sessiontoken",
            "access tokens",
            "refresh tokens",
            "api tokens",
            "bearer",
            "jwt",
            "jws",
            "tokens secret",
        ],
    ),
    ("secret", &["secret", "secrets", "secret key", "secret key base", "clientsecret", "appsecret"]),
    ("authorization", &["authorization", "authorisation", "auth header"]),
    ("cookie", &["cookie", "cookies", "setcookie", "jsessionid", "phpsessid"]),
    (
        "api_key",
        &[
            "api key",
            "api keys",
            "access key",
            "subscription key",
            "account key",
            "storage key",
            "auth key",
            "master key",
        ],
    ),
    (
        "private_key",
        &[
            "private key",
            "privkey",
            "signing key",
            "encryption key",
            "decryption key",
            "hmac key",
            "session key",
            "key pem",
        ],
    ),
    ("credentials", &["credential", "credentials", "creds"]),
    ("ssn", &["ssn", "social security", "social security number", "social insurance number"]),
    (
        "card",
        &[
            "card number",
            "card no",
            "cc number",
            "credit card",
            "debit card",
            "cvv",
            "cvv2",
            "cvc",
            "cvc2",
            "card code",
            "security code",
            "card pin",
        ],
    ),
    (
        "otp",
        &[
            "otp",
            "totp",
            "otp code",
            "one time password",
            "one time code",
            "mfa code",
            "2fa code",
            "verification code",
            "recovery code",
            "recovery codes",
            "backup codes",
        ],
    ),
];

/// Behind a pattern, these still mean the value.
const STILL_THE_VALUE: [&str; 16] = [
    "value",
    "values",
    "raw",
    "plain",
    "plaintext",
    "cleartext",
    "header",
    "hash",
    "base64",
    "b64",
    "hex",
    "confirm",
    "confirmation",
    "again",
    "new",
    "old",
];

/// Before `token`, these say that it is no secret: the tokens of parsers, pages and language models.
const HARMLESS_TOKENS: [&str; 36] = [
    "next",
    "prev",
    "previous",
    "page",
    "pagination",
    "continuation",
    "continue",
    "lookahead",
    "unexpected",
    "expected",
    "eos",
    "bos",
    "pad",
    "unk",
    "mask",
    "stop",
    "special",
    "cancellation",
    "cancel",
    "last",
    "first",
    "peek",
    "invalid",
    "per",
    "sync",
    "fencing",
    "lock",
    "lease",
    "resume",
    "cursor",
    "change",
    "ack",
    "watch",
    "snapshot",
    "syntax",
    "string",
];

/// A name that begins so asks about a secret.
const QUESTIONS: [&str; 12] =
    ["is", "has", "had", "show", "hide", "forgot", "needs", "requires", "require", "can", "should", "toggle"];

/// What a name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
    Plain,
    Allowed,
    Secret(&'a str),
}

/// The name rules, ready to be applied.
pub(super) struct Names {
    patterns: Vec<Pattern>,
    globs: Vec<(String, Regex)>,
    allowed: Vec<Vec<String>>,
    allowed_globs: Vec<Regex>,
    /// Whether any pattern may be in a text.
    stems: Regex,
}

struct Pattern {
    rule: String,
    words: Vec<String>,
    /// The words written as one, as in `apikey`.
    joined: String,
}

impl Names {
    pub(super) fn compile(is_on: impl Fn(&str) -> bool, own: &[String], allowed: &[String]) -> Result<Self> {
        let mut patterns = Vec::new();
        let mut globs = Vec::new();
        for (rule, texts) in RULES.iter().filter(|(rule, _)| is_on(rule)) {
            patterns.extend(texts.iter().map(|text| Pattern::new(rule, words(text))));
        }
        let mut stems: Vec<String> = patterns.iter().map(|pattern| pattern.stem()).collect();
        for text in own {
            let split = words(text);
            if split.is_empty() {
                return Err(no_name("field", text));
            }
            if text.contains('*') {
                globs.push((text.clone(), glob("field", text)?));
                stems.push(String::new());
            } else {
                patterns.push(Pattern::new(text, split));
                stems.extend(patterns.last().map(Pattern::stem));
            }
        }
        let mut allowed_names = Vec::new();
        let mut allowed_globs = Vec::new();
        for name in allowed {
            match words(name) {
                split if split.is_empty() => return Err(no_name("allow_field", name)),
                _ if name.contains('*') => allowed_globs.push(glob("allow_field", name)?),
                split => allowed_names.push(split),
            }
        }
        stems.sort_unstable();
        stems.dedup();
        let stems = if stems.is_empty() { "[^\\s\\S]".to_owned() } else { format!("(?i)(?:{})", stems.join("|")) };
        let stems = Regex::new(&stems).map_err(|error| Error::config(format!("redaction fields: {error}")))?;
        Ok(Self { patterns, globs, allowed: allowed_names, allowed_globs, stems })
    }

    /// Whether a text may hold a secret's name. Cheap, and often wrong in the affirmative.
    pub(super) fn may_occur(&self, text: &str) -> bool {
        self.stems.is_match(text)
    }

    /// Where a secret's name may stand.
    pub(super) fn stems(&self, text: &str) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.stems.find_iter(text).map(|found| found.range())
    }

    pub(super) fn find(&self, name: &str) -> Verdict<'_> {
        let name = name.strip_prefix("r#").unwrap_or(name);
        let all = words(name);
        if self.allowed.contains(&all) || self.allowed_globs.iter().any(|glob| glob.is_match(name)) {
            return Verdict::Allowed;
        }
        if let Some((rule, _)) = self.globs.iter().find(|(_, glob)| glob.is_match(name)) {
            return Verdict::Secret(rule);
        }
        let mut words = all.as_slice();
        // Whether there is one, or what to do about it, is not the secret.
        if words.len() > 1 && QUESTIONS.contains(&words[0].as_str()) {
            return Verdict::Plain;
        }
        loop {
            if let Some(pattern) = self.patterns.iter().find(|pattern| pattern.ends(words)) {
                return Verdict::Secret(&pattern.rule);
            }
            match words.split_last() {
                Some((last, rest)) if !rest.is_empty() && is_still_the_value(last) => words = rest,
                _ => return Verdict::Plain,
            }
        }
    }
}

impl Pattern {
    fn new(rule: &str, words: Vec<String>) -> Self {
        Self { rule: rule.to_owned(), joined: words.concat(), words }
    }

    fn ends(&self, name: &[String]) -> bool {
        let Some(last) = name.last() else { return false };
        // `password2` is a password, and `cvv2` its own word.
        let plain = last.trim_end_matches(|c: char| c.is_ascii_digit());
        // `userpassword`, `csrftoken`, `consumersecret`
        let ends_joined = ["password", "passwd", "secret", "token"].contains(&self.joined.as_str())
            && plain.strip_suffix(&self.joined).is_some_and(|before| !HARMLESS_TOKENS.contains(&before));
        if *last == self.joined || plain == self.joined || ends_joined {
            let before = name.len().checked_sub(2).map(|index| name[index].as_str());
            return self.joined != "token" || before.is_none_or(|word| !HARMLESS_TOKENS.contains(&word));
        }
        self.words.len() > 1 && name.ends_with(&self.words)
    }

    /// What every name that it matches has in it, whatever stands between the words.
    fn stem(&self) -> String {
        self.words.iter().map(|word| regex::escape(word)).collect::<Vec<_>>().join("[^A-Za-z0-9]{0,3}")
    }
}

fn is_still_the_value(word: &str) -> bool {
    STILL_THE_VALUE.contains(&word) || word.strip_prefix('v').unwrap_or(word).bytes().all(|b| b.is_ascii_digit())
}

/// Whether the name of a number speaks of a card.
pub(super) fn speaks_of_card(name: &str) -> bool {
    words(name).iter().any(|word| matches!(word.as_str(), "card" | "pan" | "cc" | "creditcard" | "cardnumber"))
}

/// A whole name, with `*` for any part of it.
fn glob(what: &str, pattern: &str) -> Result<Regex> {
    let regex = format!("(?i)^{}$", regex::escape(pattern).replace("\\*", ".*"));
    Regex::new(&regex).map_err(|error| Error::config(format!("redaction {what}({pattern:?}): {error}")))
}

fn no_name(what: &str, name: &str) -> Error {
    Error::config(format!(
        "redaction {what}({name:?}): give the name of a field, as in \"iban\", or a part of it, as in \"*_nr\""
    ))
}

/// The words of a name, in lower case: split at everything but letters and digits, and where case says so.
fn words(name: &str) -> Vec<String> {
    let chars: Vec<char> = name.chars().collect();
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    for (index, c) in chars.iter().enumerate() {
        if !c.is_alphanumeric() {
            words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
            continue;
        }
        let before = index.checked_sub(1).map(|index| chars[index]);
        let after_is_lower = chars.get(index + 1).is_some_and(|c| c.is_lowercase());
        let begins = c.is_uppercase()
            && before.is_some_and(|before| {
                !before.is_uppercase() && before.is_alphanumeric() || before.is_uppercase() && after_is_lower
            });
        if begins && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        word.extend(c.to_lowercase());
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_words() {
        for (name, expected) in [
            ("accessToken", "access token"),
            ("X-API-Key", "x api key"),
            ("APIKey", "api key"),
            ("http.request.header.set-cookie", "http request header set cookie"),
            ("OAuth2Token", "o auth2 token"),
            ("user_id", "user id"),
            ("__", ""),
        ] {
            assert_eq!(words(name).join(" "), expected, "{name}");
        }
    }

    #[test]
    fn secrets_are_known_by_their_last_words() {
        let names = Names::compile(|_| true, &[], &[]).unwrap();
        for (name, rule) in [
            ("password", "password"),
            ("userPassword", "password"),
            ("password2", "password"),
            ("new_password_confirmation", "password"),
            ("db.passwd", "password"),
            ("token", "token"),
            ("access_token", "token"),
            ("csrf-token", "token"),
            ("x-api-key", "api_key"),
            ("apikey", "api_key"),
            ("client_secret", "secret"),
            ("Set-Cookie", "cookie"),
            ("proxy-authorization", "authorization"),
            ("privateKey", "private_key"),
            ("SSN", "ssn"),
            ("cvv", "card"),
            ("r#token", "token"),
            ("password_hash", "password"),
        ] {
            assert_eq!(names.find(name), Verdict::Secret(rule), "{name}");
            assert!(names.may_occur(name), "{name}");
        }
        for name in [
            "max_tokens",
            "token_count",
            "tokens",
            "tokenizer",
            "next_token",
            "secretary",
            "public_key",
            "primary_key",
            "key",
            "author",
            "password_reset_url",
            "password_changed_at",
            "cookie_policy",
            "compass",
            "bypass",
            "passed",
            "authorization_id",
            "monkey",
        ] {
            assert_eq!(names.find(name), Verdict::Plain, "{name}");
        }
    }
}
