//! Secrets by the look of their value.
//!
//! A text goes through three sieves, each dearer and met by fewer: one look at its bytes, one pass of all expressions
//! together, and only then the expression that found something, with its check (Luhn, modulo 97, is this a name?).

use std::sync::OnceLock;

use regex::{Captures, Regex, RegexSet};

use super::{
    checksum::{is_card, is_iban, is_ssn},
    json, marker,
    names::{Names, Verdict},
};
use crate::error::{Error, Result};

/// A secret shorter than this has no run of characters long enough to be a key.
const RUN_BYTES_MIN: usize = 12;
/// The fewest digits of a social security number.
const DIGITS_MIN: u32 = 9;

/// One way a secret looks.
struct Look {
    rule: &'static str,
    /// The secret is the group `secret`, else everything.
    regex: &'static str,
    check: fn(&Captures<'_>) -> bool,
}

/// In the order they are applied: what a longer look covers, a shorter one does not see any more.
const LOOKS: &[Look] = &[
    Look {
        rule: "private_key",
        regex: r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----|\z)",
        check: always,
    },
    Look {
        rule: "url_password",
        regex: r#"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/@:"'<>]*:(?<secret>[^\s/"'<>]+)@"#,
        check: always,
    },
    Look { rule: "jwt", regex: r"(?-u:\b)eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]+){1,4}\.?", check: always },
    Look {
        rule: "authorization",
        regex: r#"(?i)(?-u:\b)(?:proxy-)?authori[sz]ation\\?["']?\s*[:=]\s*\\?["']?(?<secret>(?:digest|aws4-hmac-sha256|hawk|oauth)\s[^\r\n]+|(?:token|apikey|negotiate|ntlm|basic|bearer)\s+[^\s"',;\\]+|[^\s"',;\\]{8,})"#,
        check: |found| has_scheme_or_digit(&found["secret"]),
    },
    Look {
        rule: "bearer",
        regex: r"(?i)(?-u:\b)bearer\s+(?<secret>[A-Za-z0-9._~+/=-]{6,})",
        check: |found| is_mixed(&found["secret"]),
    },
    Look {
        rule: "basic",
        regex: r"(?i)(?-u:\b)basic\s+(?<secret>[A-Za-z0-9+/]{8,}={0,2})",
        check: |found| is_base64_of_credentials(&found["secret"]),
    },
    Look {
        rule: "cookie",
        regex: r#"(?i)(?-u:\b)(?:set-)?cookie\\?["']?\s*[:=]\s*\\?["']?(?<secret>[^\s=;,"'\\]+=[^\s;,"'\\]*(?:;\s*[^\s=;,"'\\]+(?:=[^;"'\\\r\n]*)?)*)"#,
        check: always,
    },
    Look {
        rule: "api_key",
        regex: r"(?-u:\b)(?:(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}|xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{10,}|[srp]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/]{24,}|AIza[0-9A-Za-z_-]{35}|sk-(?:[a-z]{2,8}-)?(?:[a-z0-9]{2,8}-)?[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{30,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{30,}|do[opr]_v1_[0-9a-f]{64}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|key-[0-9a-f]{32}|dapi[0-9a-f]{32}|ya29\.[A-Za-z0-9_-]{20,}|AGE-SECRET-KEY-1[A-Z0-9]{50,}|hv[sb]\.[A-Za-z0-9_-]{24,}|lin_api_[A-Za-z0-9]{30,}|sq0(?:atp|csp)-[A-Za-z0-9_-]{22,})",
        check: |found| is_mixed(&found[0]),
    },
    Look {
        rule: "email",
        regex: r"[A-Za-z0-9][A-Za-z0-9._%+'-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?-u:\b)",
        check: |found| is_email(&found[0]),
    },
    Look { rule: "iban", regex: r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?", check: always },
    Look { rule: "card", regex: r"[0-9](?:[ -]?[0-9]){12,}", check: always },
    Look {
        rule: "ssn",
        regex: r"(?<area>[0-9]{3})[- ](?<group>[0-9]{2})[- ](?<serial>[0-9]{4})",
        check: |found| {
            let number = |group: &str| found[group].parse().unwrap_or(0);
            is_ssn(number("area"), number("group"), number("serial"))
        },
    },
];

/// What stands before `=` or `:` may be a secret's name. The expression behind [`Assignments`].
const ASSIGNMENT: &str = r#"(?<name>[A-Za-z][A-Za-z0-9_.-]{1,63})(?<close>\\?["'])?(?<sep>\s*(?:=>|[=:])\s*)(?:[A-Za-z]+\(\s*)?(?:\\"(?<escaped>(?:[^"\\]|\\[^"])*)(?:\\"|\z)|"(?<double>(?:[^"\\]|\\.)*)(?:"|\z)|'(?<single>(?:[^'\\]|\\.)*)'|(?<bare>[^\s,;&"'(){}\[\]<>\\]+))"#;

/// The names of the value rules.
pub(super) fn rules() -> impl Iterator<Item = &'static str> {
    LOOKS.iter().map(|look| look.rule)
}

/// The value rules. An expression is compiled when a text first needs it: all at once take longer than a program should
/// wait for its start.
pub(super) struct Values {
    rules: Vec<Rule>,
    /// All of them in one pass; `None` if they are too large for one.
    set: OnceLock<Option<RegexSet>>,
    assignment: OnceLock<Option<Regex>>,
    /// Rules of the program's own may match anything, so nothing can be ruled out by its bytes.
    has_own: bool,
}

struct Rule {
    name: String,
    pattern: String,
    regex: OnceLock<Option<Regex>>,
    check: fn(&Captures<'_>) -> bool,
}

impl Values {
    pub(super) fn compile(is_on: impl Fn(&str) -> bool, own: &[(String, String)]) -> Result<Self> {
        let mut rules = Vec::new();
        for (rule, pattern) in own {
            if rule.is_empty() || !rule.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
                return Err(Error::config(format!(
                    "redaction value({rule:?}, ..): a rule's name, which the marker shows, has letters, digits, - or _"
                )));
            }
            let regex = Regex::new(pattern)
                .map_err(|error| Error::config(format!("redaction value({rule:?}, ..): {error}")))?;
            if regex.is_match("") {
                return Err(Error::config(format!("redaction value({rule:?}, {pattern:?}) matches the empty text")));
            }
            let regex = OnceLock::from(Some(regex));
            rules.push(Rule { name: rule.clone(), pattern: pattern.clone(), regex, check: always });
        }
        rules.extend(LOOKS.iter().filter(|look| is_on(look.rule)).map(|look| Rule {
            name: look.rule.to_owned(),
            pattern: look.regex.to_owned(),
            regex: OnceLock::new(),
            check: look.check,
        }));
        Ok(Self { rules, set: OnceLock::new(), assignment: OnceLock::new(), has_own: !own.is_empty() })
    }

    /// The rules whose expressions match somewhere.
    fn matching(&self, text: &str) -> impl Iterator<Item = &Rule> {
        let set = self.set.get_or_init(|| RegexSet::new(self.rules.iter().map(|rule| &rule.pattern)).ok());
        let found = set.as_ref().map(|set| set.matches(text));
        self.rules
            .iter()
            .enumerate()
            .filter(move |(index, _)| found.as_ref().is_none_or(|found| found.matched(*index)))
            .map(|(_, rule)| rule)
    }

    /// Whether a text may hold a secret, by its bytes alone.
    pub(super) fn may_occur(&self, text: &str) -> bool {
        self.has_own || is_suspicious(text.as_bytes())
    }

    /// The text without its secrets, if it has any.
    pub(super) fn redact(&self, text: &str, names: &Names) -> Option<String> {
        if text.starts_with(['{', '[']) && self.may_occur(text) && is_json(text) {
            return json::redact(text, Some(names), Some((self, names)));
        }
        let mut redacted: Option<String> = None;
        self.find(text, names, |rule, replace| {
            let current = redacted.as_deref().unwrap_or(text);
            if let Some(new) = replace(current, rule) {
                redacted = Some(new);
            }
            false
        });
        redacted
    }

    /// The first rule by which the text holds a secret.
    pub(super) fn first_rule(&self, text: &str, names: &Names) -> Option<String> {
        let mut first = None;
        self.find(text, names, |rule, replace| {
            if replace(text, rule).is_some() {
                first = Some(rule.to_owned());
            }
            first.is_some()
        });
        first
    }

    /// Offers each rule that may apply, with what it makes of a text; until `done`.
    fn find(
        &self,
        text: &str,
        names: &Names,
        mut done: impl FnMut(&str, &dyn Fn(&str, &str) -> Option<String>) -> bool,
    ) {
        if !self.may_occur(text) {
            return;
        }
        for rule in self.matching(text) {
            if done(&rule.name, &|text, name| rule.replace(text, name)) {
                return;
            }
        }
        if text.contains(['=', ':']) && names.may_occur(text) {
            done("password", &|text, _| self.assignments(text, names));
        }
    }

    /// `password=hunter2`, `"apiKey": "k"`, `Login { token: "t" }`: the values that stand behind a secret's name.
    fn assignments(&self, text: &str, names: &Names) -> Option<String> {
        let mut out = String::new();
        let mut copied = 0;
        let mut from = 0;
        let assignment = self.assignment.get_or_init(|| Regex::new(ASSIGNMENT).ok()).as_ref()?;
        while let Some(found) = assignment.captures_at(text, from) {
            let (name, separator) = (found.name("name")?, found.name("sep")?);
            // Another assignment may begin in what this one took for its value.
            from = separator.end();
            let Verdict::Secret(rule) = names.find(name.as_str()) else { continue };
            let quoted = found.name("escaped").or_else(|| found.name("double")).or_else(|| found.name("single"));
            let value = match (quoted, found.name("bare")) {
                (Some(value), _) => value,
                (None, Some(value)) => {
                    let is_plain = separator.as_str().trim() == ":" && found.name("close").is_none();
                    if is_no_secret(value.as_str()) || is_plain && !is_mixed_word(rule, name.as_str(), value.as_str()) {
                        continue;
                    }
                    value
                }
                (None, None) => continue,
            };
            from = value.end();
            let marker = marker(rule);
            if value.as_str().is_empty() || value.as_str().starts_with("[REDACTED:") {
                continue;
            }
            out.push_str(&text[copied..value.start()]);
            out.push_str(&marker);
            copied = value.end();
        }
        (copied > 0).then(|| out + &text[copied..])
    }
}

impl Rule {
    /// The text with this rule's secrets replaced, if it has any.
    fn replace(&self, text: &str, name: &str) -> Option<String> {
        let mut out = String::new();
        let mut copied = 0;
        let mut from = 0;
        // The built-in ones compile: a test has them all match.
        let regex = self.regex.get_or_init(|| Regex::new(&self.pattern).ok()).as_ref()?;
        while let Some(found) = regex.captures_at(text, from) {
            let whole = found.get_match();
            let secret = found.name("secret").unwrap_or(whole);
            let secret = match self.name.as_str() {
                "card" => card_in(text, whole.range()),
                "iban" => iban_in(text, whole.range()),
                "ssn" => stands_alone(text, &whole.range()).then(|| whole.range()),
                _ => Some(secret.range()),
            };
            let secret = secret.filter(|range| (self.check)(&found) && !text[range.clone()].contains("[REDACTED:"));
            if let Some(secret) = secret {
                out.push_str(&text[copied..secret.start]);
                out.push_str(&marker(name));
                copied = secret.end;
            }
            // A run of digits may hold several cards.
            from = if self.name == "card" && copied > from { copied } else { whole.end().max(copied) };
        }
        (copied > 0).then(|| out + &text[copied..])
    }
}

/// One look at the bytes: is there an `@`, an assignment, a run of characters as in a key, or many digits?
fn is_suspicious(text: &[u8]) -> bool {
    let (mut run, mut digits) = (0, 0);
    for byte in text {
        match CLASS[usize::from(*byte)] {
            Class::Sign => return true,
            Class::Digit => {
                digits += 1;
                run += 1;
            }
            Class::Word => run += 1,
            Class::Other => run = 0,
        }
        if run >= RUN_BYTES_MIN || digits >= DIGITS_MIN {
            return true;
        }
    }
    false
}

#[derive(Clone, Copy)]
enum Class {
    Other,
    Word,
    Digit,
    Sign,
}

const CLASS: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0_usize;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'@' | b'=' | b':' => Class::Sign,
            b'0'..=b'9' => Class::Digit,
            b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'-' | b'.' | b'+' | b'/' => Class::Word,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

fn always(_: &Captures<'_>) -> bool {
    true
}

/// Not a plain word: it has a digit and a letter, or both cases inside, or is long.
fn is_mixed(text: &str) -> bool {
    let has = |test: fn(&u8) -> bool| text.as_bytes().iter().any(|b| test(b));
    let has_digit = has(u8::is_ascii_digit);
    let inner_upper = text.bytes().skip(1).any(|b| b.is_ascii_uppercase()) && has(u8::is_ascii_lowercase);
    text.len() >= 6 && (has_digit && has(u8::is_ascii_alphabetic) || inner_upper || has_digit && text.len() >= 12)
}

fn has_scheme_or_digit(value: &str) -> bool {
    value.contains(char::is_whitespace) || is_mixed(value)
}

/// `user:password` in base64 (RFC 7617).
fn is_base64_of_credentials(text: &str) -> bool {
    let padded = text.trim_end_matches('=');
    let decoded: Option<Vec<u8>> = decode_base64(padded);
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    text.is_some_and(|text| text.contains(':') && !text.contains(char::is_control))
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let (mut bits, mut held) = (0_u32, 0);
    for byte in text.bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

/// Behind `=`, these are no secrets: numbers, switches, stars, and what says that there is none.
fn is_no_secret(value: &str) -> bool {
    value.parse::<f64>().is_ok()
        || value.bytes().all(|b| b == b'*' || b == b'.' || b == b'x' || b == b'-')
        || value.starts_with('$')
        || ["true", "false", "none", "null", "nil", "some", "undefined", "empty", "unset", "yes", "no"]
            .iter()
            .any(|word| value.eq_ignore_ascii_case(word))
}

/// In prose a word behind a colon is a word ("password: expired"); a secret has digits among its letters. A parser's tokens
/// have, too: there the name must be longer, as in `x-auth-token`.
fn is_mixed_word(rule: &str, name: &str, value: &str) -> bool {
    let value = value.trim_end_matches(['.', '!', '?', ':']);
    let has_digit = value.bytes().any(|b| b.is_ascii_digit());
    let has_letter = value.bytes().any(|b| b.is_ascii_alphabetic());
    let is_prose = name.len() == rule.len() && matches!(rule, "token" | "cookie" | "authorization");
    !is_prose && has_digit && has_letter || is_mixed(value) && value.len() >= 20
}

/// Neither side continues it as a number, a word or a path would.
fn stands_alone(text: &str, range: &std::ops::Range<usize>) -> bool {
    let joins = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let before = text[..range.start].chars().next_back();
    let mut after = text[range.end..].chars();
    let next = after.next();
    let is_decimal = |c: Option<char>, d: Option<char>| c == Some('.') && d.is_some_and(|d| d.is_ascii_digit());
    let digit_before_dot = before == Some('.') && text[..range.start - 1].ends_with(|c: char| c.is_ascii_digit());
    !before.is_some_and(joins) && !next.is_some_and(joins) && !is_decimal(next, after.next()) && !digit_before_dot
}

/// The first card's number in a run of digits: in one piece or in groups with one kind of separator, standing alone.
fn card_in(text: &str, run: std::ops::Range<usize>) -> Option<std::ops::Range<usize>> {
    let found = &text[run.clone()];
    let mut groups: Vec<std::ops::Range<usize>> = Vec::new();
    for (at, c) in found.char_indices() {
        match groups.last_mut() {
            Some(group) if c.is_ascii_digit() && group.end == run.start + at => group.end += 1,
            _ if c.is_ascii_digit() => groups.push(run.start + at..run.start + at + 1),
            _ => {}
        }
    }
    let ranges =
        (0..groups.len()).flat_map(|first| (first..groups.len().min(first + 5)).map(move |last| (first, last)));
    ranges
        .map(|(first, last)| (&groups[first..=last], groups[first].start..groups[last].end))
        .find(|(groups, range)| {
            is_grouped(groups) && stands_alone(text, range) && is_card_text(text, &text[range.clone()])
        })
        .map(|(_, range)| range)
}

/// In one piece, 4-6-5 as American Express has it, or in fours.
fn is_grouped(groups: &[std::ops::Range<usize>]) -> bool {
    let mut lengths = groups.iter().map(std::ops::Range::len);
    match groups.len() {
        1 => true,
        3 if lengths.clone().eq([4, 6, 5]) || lengths.clone().eq([4, 6, 4]) => true,
        count => lengths.by_ref().take(count - 1).all(|length| length == 4) && lengths.all(|last| last <= 4),
    }
}

fn is_card_text(around: &str, text: &str) -> bool {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_digit).map(|b| b - b'0').collect();
    if text.contains(' ') && text.contains('-') || !is_card(&digits) {
        return false;
    }
    // In one piece, more than sixteen digits are far more often a number of 64 bits: the text must speak of a card.
    let is_long_number = digits.len() == text.len() && digits.len() > 16;
    let around = around.to_ascii_lowercase();
    !is_long_number || ["card", "pay", "paid", "bank", "charge"].iter().any(|word| around.contains(word))
}

/// Whether a text is JSON as a whole.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// An account's number: the longest beginning that passes its check, for the next word may look like a group.
fn iban_in(text: &str, range: std::ops::Range<usize>) -> Option<std::ops::Range<usize>> {
    if text[..range.start].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let found = &text[range.clone()];
    let ends = found.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
    ends.filter(|end| !text[range.start + end..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        .find(|end| {
            let plain: Vec<u8> = found[..*end].bytes().filter(|b| *b != b' ').collect();
            is_iban(&plain)
        })
        .map(|end| range.start..range.start + end)
}

/// An address of mail, and not a unit of systemd, a repository, a version or an image's scale.
fn is_email(text: &str) -> bool {
    const NO_DOMAINS: [&str; 22] = [
        "service",
        "socket",
        "target",
        "timer",
        "mount",
        "automount",
        "slice",
        "scope",
        "device",
        "path",
        "swap",
        "png",
        "jpg",
        "jpeg",
        "gif",
        "svg",
        "webp",
        "so",
        "dll",
        "jar",
        "log",
        "conf",
    ];
    let Some((local, domain)) = text.split_once('@') else { return false };
    let first = domain.split('.').next().unwrap_or_default();
    let last = domain.rsplit('.').next().unwrap_or_default();
    !matches!(local, "git" | "hg") && !first.bytes().all(|b| b.is_ascii_digit()) && !NO_DOMAINS.contains(&last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redact(text: &str) -> String {
        let names = Names::compile(|_| true, &[], &[]).unwrap();
        let values = Values::compile(|_| true, &[]).unwrap();
        values.redact(text, &names).unwrap_or_else(|| text.to_owned())
    }

    #[test]
    fn the_marker_stands_where_the_secret_stood() {
        for (text, expected) in [
            ("to bob@example.com, twice bob@example.com", "to [REDACTED:email], twice [REDACTED:email]"),
            ("paid with 4111 1111 1111 1111.", "paid with [REDACTED:card]."),
            ("postgres://shop:hunter2@db:5432/shop", "postgres://shop:[REDACTED:url_password]@db:5432/shop"),
            ("Authorization: Bearer abc123def456", "Authorization: [REDACTED:authorization]"),
            ("sent Bearer abc123def456 on", "sent Bearer [REDACTED:bearer] on"),
            (
                "Login { user: \"bob\", password: \"hunter2\" }",
                "Login { user: \"bob\", password: \"[REDACTED:password]\" }",
            ),
            ("{\\\"password\\\":\\\"hunter2\\\"}", "{\\\"password\\\":\\\"[REDACTED:password]\\\"}"),
            ("GET /?token=abc&x=1", "GET /?token=[REDACTED:token]&x=1"),
            ("secret: Some(\"x\")", "secret: Some(\"[REDACTED:secret]\")"),
            ("IBAN DE89 3704 0044 0532 0130 00 WITH LOVE", "IBAN [REDACTED:iban] WITH LOVE"),
            ("ssn 123-45-6789", "ssn [REDACTED:ssn]"),
        ] {
            assert_eq!(redact(text), expected);
            assert_eq!(redact(expected), expected, "once is enough");
        }
    }

    #[test]
    fn every_built_in_expression_compiles() {
        let values = Values::compile(|_| true, &[]).unwrap();
        values.matching("").for_each(drop);
        assert!(values.set.get().is_some_and(Option::is_some), "as one set, too");
        for pattern in values.rules.iter().map(|rule| rule.pattern.as_str()).chain([ASSIGNMENT]) {
            assert!(Regex::new(pattern).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn the_look_at_the_bytes_rules_out_no_secret() {
        for text in ["a@b.co", "x=y", "k: v", "123-45-6789", "AKIAIOSFODNN7EXAMPLE", "Bearer abcdef123456"] {
            assert!(is_suspicious(text.as_bytes()), "{text}");
        }
        assert!(!is_suspicious(b"order 17 placed for ada, 3 items"));
    }
}
