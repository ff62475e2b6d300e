//! Secrets by the look of their value.
//!
//! A text goes through three sieves, each dearer and met by fewer: one look at its bytes, one pass of all expressions
//! together, and only then the expression that found something, with its check (Luhn, modulo 97, is this a name?).

use std::{ops::Range, sync::OnceLock};

use regex::{Regex, RegexSet};

use super::{
    assignment,
    checksum::is_card,
    json, marker,
    names::{Names, speaks_of_card},
    numbers::{cards_in, iban_in, is_ssn_text},
};
use crate::error::{Error, Result};

/// A secret shorter than this has no run of characters long enough to be a key.
const RUN_BYTES_MIN: usize = 12;
/// The longest name of a rule that is looked for in a marker.
const RULE_BYTES_MAX: usize = 64;
/// The fewest digits of a social security number.
const DIGITS_MIN: u32 = 9;

/// One way a secret looks.
struct Look {
    rule: &'static str,
    /// The secret is the group `secret`, else everything.
    regex: &'static str,
    find: Find,
}

/// What makes secrets of a match.
#[derive(Clone, Copy)]
enum Find {
    /// The group `secret`, else everything, if it passes the check.
    Secret(fn(&str) -> bool),
    /// Those of these numbers in the match that pass their own check.
    Cards,
    Iban,
    Ssn,
}

const LOOKS: &[Look] = &[
    Look {
        rule: "private_key",
        regex: r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----|\z)",
        find: Find::Secret(always),
    },
    Look {
        rule: "url_password",
        regex: r#"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/:"'<>]*:(?<secret>[^\s/"'<>]+)@"#,
        find: Find::Secret(|secret| {
            !secret.split(',').next().is_some_and(|port| port.len() < secret.len() && is_digits(port))
        }),
    },
    Look { rule: "jwt", regex: r"(?-u:\b)eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*){1,4}", find: Find::Secret(always) },
    Look {
        rule: "authorization",
        regex: r#"(?i)(?-u:\b)(?:proxy-)?authori[sz]ation\\?["']?\s*[:=]\s*\\?["']?(?<secret>(?:digest|aws4-hmac-sha256|hawk|oauth)\s[^\r\n]+|(?:token|apikey|negotiate|ntlm|basic|bearer)\s+[^\s"',;\\]+|[^\s"',;\\]{8,})"#,
        find: Find::Secret(|secret| secret.contains(char::is_whitespace) || is_mixed(secret)),
    },
    Look {
        rule: "bearer",
        regex: r"(?i)(?-u:\b)bearer\s+(?<secret>[A-Za-z0-9._~+/=-]{6,})",
        find: Find::Secret(is_mixed),
    },
    Look {
        rule: "basic",
        regex: r"(?i)(?-u:\b)basic\s+(?<secret>[A-Za-z0-9+/]{8,}={0,2})",
        find: Find::Secret(is_base64_of_credentials),
    },
    Look {
        rule: "cookie",
        regex: r#"(?i)(?-u:\b)(?:set-)?cookie(?:\\*["']\s*:\s*(?:\[\s*)?\\*["'](?<secret>[^\s=;,"'\\]+=[^"'\r\n]*)|\s*:\s*(?<line>[^\s=;,"'\\]+=[^\r\n]*)|=(?<pairs>[^\s=;,"'\\]+=[^\s"'\\]*(?:;\s*[^\s=;,"'\\]+=[^\s;"'\\]*)*))"#,
        find: Find::Secret(always),
    },
    Look {
        rule: "api_key",
        regex: r"(?-u:\b)(?:(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}|xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{10,}|[srp]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/]{24,}|AIza[0-9A-Za-z_-]{35}|sk-(?:[a-z]{2,8}-)?(?:[a-z0-9]{2,8}-)?[A-Za-z0-9_]{20,}[A-Za-z0-9_-]*|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{30,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{30,}|do[opr]_v1_[0-9a-f]{64}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|dapi[0-9a-f]{32}|ya29\.[A-Za-z0-9_-]{20,}|AGE-SECRET-KEY-1[A-Z0-9]{50,}|hv[sb]\.[A-Za-z0-9_-]{24,}|lin_api_[A-Za-z0-9]{30,}|sq0(?:atp|csp)-[A-Za-z0-9_-]{22,})",
        find: Find::Secret(is_mixed),
    },
    Look { rule: "email", regex: r"\w[\w.%+'-]*@(?:\w[\w-]*\.)+[A-Za-z]{2,24}(?-u:\b)", find: Find::Secret(is_email) },
    Look { rule: "iban", regex: r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?", find: Find::Iban },
    Look { rule: "card", regex: r"[0-9](?:[ -]?[0-9]){12,}", find: Find::Cards },
    Look { rule: "ssn", regex: r"[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}", find: Find::Ssn },
];

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
    /// Rules of the program's own may match anything, so nothing can be ruled out by its bytes.
    has_own: bool,
}

struct Rule {
    name: String,
    pattern: String,
    regex: OnceLock<Option<Regex>>,
    find: Find,
}

/// A part of a text that must not be stored.
struct Secret<'r> {
    range: Range<usize>,
    rule: &'r str,
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
            rules.push(Rule { name: rule.clone(), pattern: pattern.clone(), regex, find: Find::Secret(always) });
        }
        rules.extend(LOOKS.iter().filter(|look| is_on(look.rule)).map(|look| Rule {
            name: look.rule.to_owned(),
            pattern: look.regex.to_owned(),
            regex: OnceLock::new(),
            find: look.find,
        }));
        Ok(Self { rules, set: OnceLock::new(), has_own: !own.is_empty() })
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
        self.has_own || is_suspicious(text)
    }

    /// The text without its secrets, if it has any.
    pub(super) fn redact(&self, text: &str, names: &Names) -> Option<String> {
        if !self.may_occur(text) {
            return None;
        }
        if text.starts_with(['{', '[']) && is_json(text) {
            return json::redact(text, Some(names), Some((self, names)));
        }
        let mut out = String::new();
        let mut copied = 0;
        for secret in self.secrets(text, names) {
            out.push_str(&text[copied..secret.range.start]);
            out.push_str(&marker(secret.rule));
            copied = secret.range.end;
        }
        (copied > 0).then(|| out + &text[copied..])
    }

    /// Whether a number, in a field of this name, is a card's.
    pub(super) fn is_card_number(&self, name: &str, digits: &str) -> bool {
        let is_on = self.rules.iter().any(|rule| matches!(rule.find, Find::Cards));
        is_on
            && speaks_of_card(name)
            && is_digits(digits)
            && is_card(&digits.bytes().map(|b| b - b'0').collect::<Vec<_>>())
    }

    /// Whether the text holds a secret.
    pub(super) fn matches(&self, text: &str, names: &Names) -> bool {
        self.redact(text, names).is_some()
    }

    /// All secrets, in order and apart: what overlaps is one, by the rule that found most of it. A marker is none.
    fn secrets<'r>(&'r self, text: &str, names: &'r Names) -> Vec<Secret<'r>> {
        let markers = markers(text);
        let mut all: Vec<Secret<'r>> = Vec::new();
        let mut add = |range: Range<usize>, rule: &'r str| {
            if range.is_empty() {
                return;
            }
            // A match that cuts a marker takes all of it; one within a marker is none.
            let first = markers.partition_point(|marker| marker.end <= range.start);
            let behind = markers.partition_point(|marker| marker.start < range.end);
            let range = match markers.get(first..behind) {
                Some([marker, ..]) if marker.start <= range.start && range.end <= marker.end => return,
                Some([marker, .., last]) => range.start.min(marker.start)..range.end.max(last.end),
                Some([marker]) => range.start.min(marker.start)..range.end.max(marker.end),
                _ => range,
            };
            all.push(Secret { range, rule });
        };
        for rule in self.matching(text) {
            rule.secrets(text, |range| add(range, &rule.name));
        }
        if names.may_occur(text) {
            assignment::find(text, names, &mut add);
        }
        all.sort_by_key(|secret| (secret.range.start, std::cmp::Reverse(secret.range.end)));
        let mut apart: Vec<Secret<'r>> = Vec::with_capacity(all.len());
        for secret in all {
            match apart.last_mut() {
                Some(last) if secret.range.start < last.range.end => {
                    if secret.range.len() > last.range.len() {
                        last.rule = secret.rule;
                    }
                    last.range.end = last.range.end.max(secret.range.end);
                }
                _ => apart.push(secret),
            }
        }
        apart
    }
}

impl Rule {
    /// Finds this rule's secrets, each once and in order.
    fn secrets(&self, text: &str, mut add: impl FnMut(Range<usize>)) {
        // The built-in ones compile: a test has them all compiled.
        let Some(regex) = self.regex.get_or_init(|| Regex::new(&self.pattern).ok()) else { return };
        match self.find {
            Find::Secret(check) if regex.captures_len() == 1 => {
                regex.find_iter(text).filter(|found| check(found.as_str())).for_each(|found| add(found.range()));
            }
            Find::Secret(check) => {
                for found in regex.captures_iter(text) {
                    let named = found.name("secret").or_else(|| found.name("line")).or_else(|| found.name("pairs"));
                    let is_grouped = regex.capture_names().flatten().any(|name| name == "secret");
                    let secret = if is_grouped { named } else { found.get(0) };
                    if let Some(secret) = secret.filter(|secret| check(secret.as_str())) {
                        add(secret.range());
                    }
                }
            }
            Find::Cards => regex.find_iter(text).for_each(|found| cards_in(text, found.range(), &mut add)),
            Find::Iban => regex.find_iter(text).filter_map(|found| iban_in(text, found.range())).for_each(add),
            Find::Ssn => regex
                .find_iter(text)
                .filter(|found| is_ssn_text(text, found.range()))
                .for_each(|found| add(found.range())),
        }
    }
}

/// One look at the bytes: is there an `@`, an assignment, a run of characters as in a key, many digits, or one of the two
/// words before a short secret?
fn is_suspicious(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (mut run, mut digits) = (0, 0);
    for (at, byte) in bytes.iter().enumerate() {
        match CLASS[usize::from(*byte)] {
            Class::Sign => return true,
            Class::Digit => {
                digits += 1;
                run += 1;
            }
            Class::Word => run += 1,
            // An option.
            Class::Dash if at > 0 && bytes[at - 1] == b'-' => return true,
            Class::Dash => run += 1,
            Class::Other => {
                run = 0;
                if *byte == b' ' && ends_a_scheme(&bytes[..at]) || *byte == b'<' && bytes.get(at + 1) == Some(&b'/') {
                    return true;
                }
            }
        }
        if run >= RUN_BYTES_MIN || digits >= DIGITS_MIN {
            return true;
        }
    }
    false
}

/// `Bearer` or `Basic`, before the blank behind it.
fn ends_a_scheme(before: &[u8]) -> bool {
    let ends =
        |word: &[u8]| before.len() >= word.len() && before[before.len() - word.len()..].eq_ignore_ascii_case(word);
    match before.last() {
        Some(b'r' | b'R') => ends(b"bearer"),
        Some(b'c' | b'C') => ends(b"basic"),
        _ => false,
    }
}

#[derive(Clone, Copy)]
enum Class {
    Other,
    Word,
    Digit,
    Dash,
    Sign,
}

const CLASS: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0_usize;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'@' | b'=' | b':' => Class::Sign,
            b'0'..=b'9' => Class::Digit,
            b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'.' | b'+' | b'/' => Class::Word,
            b'-' => Class::Dash,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

/// Where markers stand already.
fn markers(text: &str) -> Vec<Range<usize>> {
    const BEGIN: &str = "[REDACTED:";
    let rule = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'*' | b'-');
    text.match_indices(BEGIN)
        .filter_map(|(start, _)| {
            let name = start + BEGIN.len();
            let end = name + text.as_bytes()[name..].iter().take(RULE_BYTES_MAX).take_while(|b| rule(b)).count();
            (end > name && text.as_bytes().get(end) == Some(&b']')).then_some(start..end + 1)
        })
        .collect()
}

fn always(_: &str) -> bool {
    true
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Not a plain word: it has a digit and a letter, or both cases inside, or is long.
fn is_mixed(text: &str) -> bool {
    let has = |test: fn(&u8) -> bool| text.as_bytes().iter().any(&test);
    let has_digit = has(u8::is_ascii_digit);
    let inner_upper = text.bytes().skip(1).any(|b| b.is_ascii_uppercase()) && has(u8::is_ascii_lowercase);
    text.len() >= 6 && (has_digit && has(u8::is_ascii_alphabetic) || inner_upper || has_digit && text.len() >= 12)
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

/// Whether a text is JSON as a whole.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
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
        for pattern in values.rules.iter().map(|rule| rule.pattern.as_str()) {
            assert!(Regex::new(pattern).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn the_look_at_the_bytes_rules_out_no_secret() {
        for text in ["a@b.co", "x=y", "k: v", "123-45-6789", "AKIAIOSFODNN7EXAMPLE", "Bearer abcdef123456"] {
            assert!(is_suspicious(text), "{text}");
        }
        assert!(!is_suspicious("order 17 placed for ada, 3 items"));
    }
}
