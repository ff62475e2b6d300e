//! Secrets in a text by the name before them: `password=hunter2`, `"apiKey": "k"`, `Login { token: Some("t") }`,
//! `("cookie", "a=b")`, `--password p`, `<secret>s</secret>`.
//!
//! A scan in one direction: the places where a secret's name may stand come from one expression, names are looked up,
//! and what follows is read by hand, so that no text takes more time than its length.

use std::ops::Range;

use super::names::{Names, Verdict};

/// A name is no longer than this; of a longer one its end counts.
const NAME_BYTES_MAX: usize = 64;
/// As far as the close of a structure is looked for.
const STRUCTURE_BYTES_MAX: usize = 1 << 10;
/// As much of a value as is looked at to tell what it is.
const VALUE_BYTES_LOOKED_AT: usize = 512;

/// In text before a colon's `token`, as in a parser's complaint.
const BEFORE_A_WORD: [&str; 12] = [
    "unexpected",
    "expected",
    "invalid",
    "next",
    "unknown",
    "illegal",
    "bad",
    "found",
    "last",
    "previous",
    "current",
    "stray",
];

/// What stands for no secret, in text.
const STATES: [&str; 44] = [
    "true",
    "false",
    "none",
    "null",
    "nil",
    "undefined",
    "empty",
    "unset",
    "yes",
    "no",
    "ok",
    "on",
    "off",
    "set",
    "valid",
    "invalid",
    "missing",
    "present",
    "absent",
    "required",
    "optional",
    "expired",
    "revoked",
    "rotated",
    "changed",
    "unchanged",
    "wrong",
    "incorrect",
    "enabled",
    "disabled",
    "redacted",
    "hidden",
    "masked",
    "omitted",
    "omit",
    "include",
    "same-origin",
    "string",
    "str",
    "text",
    "bool",
    "default",
    "unknown",
    "failed",
];

/// Each value that stands behind a secret's name, with the rule.
pub(super) fn find<'n>(text: &str, names: &'n Names, mut found: impl FnMut(Range<usize>, &'n str)) {
    let mut behind = 0;
    for stem in names.stems(text) {
        if stem.start < behind {
            continue;
        }
        let name = whole_name(text, stem);
        behind = name.end;
        let Verdict::Secret(rule) = names.find(&text[name.clone()]) else { continue };
        let Some(value) = Separator::behind(text, &name) else { continue };
        let word_before = text[..name.start].trim_end().rsplit(|c: char| !c.is_ascii_alphabetic()).next();
        if value.is_plain_colon
            && rule == "token"
            && word_before.is_some_and(|word| BEFORE_A_WORD.contains(&word.to_ascii_lowercase().as_str()))
        {
            continue;
        }
        read_value(text, &value, rule, &text[name], &mut |range: Range<usize>, rule| {
            behind = behind.max(range.end);
            found(range, rule);
        });
    }
}

/// The name around a place: everything that may be in one.
fn whole_name(text: &str, stem: Range<usize>) -> Range<usize> {
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let bytes = text.as_bytes();
    let before = bytes[..stem.start].iter().rev().take(NAME_BYTES_MAX).take_while(|b| is_name(b)).count();
    let after = bytes[stem.end..].iter().take(NAME_BYTES_MAX).take_while(|b| is_name(b)).count();
    let mut range = stem.start - before..stem.end + after;
    // A sentence's full stop, and an option's dashes.
    while range.end > range.start && matches!(bytes[range.end - 1], b'.' | b'-') {
        range.end -= 1;
    }
    while range.start < range.end && matches!(bytes[range.start], b'.' | b'-') {
        range.start += 1;
    }
    range
}

/// What ties a name to its value.
struct Separator {
    value_at: usize,
    /// `name: value` as in prose, and in many other things.
    is_plain_colon: bool,
    /// `<name>value</name>`
    is_tag: bool,
}

impl Separator {
    fn behind(text: &str, name: &Range<usize>) -> Option<Self> {
        let rest = &text[name.end..];
        let closed = rest.trim_start_matches('\\').strip_prefix(['"', '\'']);
        let (rest, is_quoted) = closed.map_or((rest, false), |closed| (closed, true));
        let at = |rest: &str| text.len() - rest.trim_start().len();
        let of = |rest: &str, is_plain_colon| Some(Self { value_at: at(rest), is_plain_colon, is_tag: false });
        let before = &text[..name.start];
        if !is_quoted {
            if before.ends_with('<') && rest.starts_with('>') {
                return Some(Self { value_at: name.end + 1, is_plain_colon: false, is_tag: true });
            }
            if before.ends_with("--") && rest.starts_with(' ') {
                return of(rest, false);
            }
        }
        let rest = rest.trim_start_matches([' ', '\t']);
        // Comparisons and paths are no assignments.
        for none in ["==", "=~", "::"] {
            if rest.starts_with(none) {
                return None;
            }
        }
        for assigns in [":=", "=>", "="] {
            if let Some(rest) = rest.strip_prefix(assigns) {
                return of(rest, false);
            }
        }
        if let Some(rest) = rest.strip_prefix(':') {
            return of(rest, !is_quoted);
        }
        // A pair: the value, too, must be quoted.
        let rest = rest.strip_prefix(',').filter(|_| is_quoted)?.trim_start();
        let opened = before.trim_end_matches(['"', '\'', '\\']);
        let is_pair = opened.ends_with(['(', '[']) && rest.trim_start_matches('\\').starts_with(['"', '\'']);
        is_pair.then(|| of(rest, false)).flatten()
    }
}

fn read_value<'n>(
    text: &str,
    value: &Separator,
    rule: &'n str,
    name: &str,
    found: &mut impl FnMut(Range<usize>, &'n str),
) {
    let rest = &text[value.value_at..];
    if value.is_tag {
        let end = rest.find('<').unwrap_or(rest.len());
        return found(value.value_at..value.value_at + end, rule);
    }
    if let Some(quoted) = quoted(text, value.value_at) {
        if !is_state(&text[quoted.clone()]) && text[quoted.clone()].chars().any(char::is_alphanumeric) {
            found(quoted, rule);
        }
        return;
    }
    // `Some(Password("x"))`, `Password { inner: "x" }`, `["a", "b"]`: every text in it.
    let is_path = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'&');
    let ident = rest.bytes().take(NAME_BYTES_MAX).take_while(is_path).count();
    let opens = rest[ident..].trim_start_matches(' ');
    if opens.starts_with(['(', '{', '[']) && (opens.len() == rest.len() - ident || opens.starts_with('{')) {
        let from = text.len() - opens.len();
        let end = close_of(text, from);
        let mut at = from;
        let mut any = false;
        while at < end {
            match quoted(text, at) {
                Some(inner) => {
                    // A field's name in it is followed by a colon.
                    let is_key =
                        text[inner.end..].trim_start_matches(['\\', '"', '\'']).trim_start().starts_with([':', '=']);
                    if !is_key && !is_state(&text[inner.clone()]) {
                        found(inner.clone(), rule);
                    }
                    any = true;
                    // Behind the closing quote, which is escaped as the opening one is.
                    let closing = text[inner.end..].bytes().take_while(|b| *b == b'\\').count() + 1;
                    at = inner.end + closing;
                }
                None => at += text[at..].chars().next().map_or(1, char::len_utf8),
            }
        }
        // Without a text in it, a call: `lexer.next()`.
        if any || ident > 0 && text[end..].trim_start_matches([')', ';']).trim_start_matches(['\n', ' ']).is_empty() {
            return;
        }
    }
    let window = text.floor_char_boundary(value.value_at + VALUE_BYTES_LOOKED_AT);
    let mut bare = bare(&text[..window], value.value_at);
    let shown = &text[bare.clone()];
    if shown.is_empty() || is_no_secret(rule, shown) || value.is_plain_colon && !is_mixed_word(rule, name, shown) {
        return;
    }
    if bare.end == window {
        bare.end += text[window..].find(char::is_whitespace).unwrap_or(text.len() - window);
    }
    found(bare, rule);
}

/// The inside of a quoted text that begins here, at whatever depth of escaping; one that is not closed goes to the end.
fn quoted(text: &str, at: usize) -> Option<Range<usize>> {
    let rest = &text[at..];
    let escapes = rest.bytes().take_while(|b| *b == b'\\').count();
    let quote = *rest.as_bytes().get(escapes)?;
    if !matches!(quote, b'"' | b'\'') {
        return None;
    }
    let start = at + escapes + 1;
    let bytes = text.as_bytes();
    let mut slashes = 0;
    for (index, byte) in bytes[start..].iter().enumerate() {
        match *byte {
            b'\\' => slashes += 1,
            // An escaped quote has more slashes before it than the one that opened.
            byte if byte == quote && slashes <= escapes => return Some(start..start + index - slashes),
            _ => slashes = 0,
        }
    }
    Some(start..text.len())
}

/// Behind the bracket that closes the one at `from`, or as far as it is looked for.
fn close_of(text: &str, from: usize) -> usize {
    let mut depth = 0_usize;
    let mut in_quotes = false;
    let mut end = from;
    for (index, c) in text[from..].char_indices().take_while(|(index, _)| *index < STRUCTURE_BYTES_MAX) {
        end = from + index + c.len_utf8();
        match c {
            '"' => in_quotes = !in_quotes,
            '(' | '{' | '[' if !in_quotes => depth += 1,
            ')' | '}' | ']' if !in_quotes => {
                depth -= 1;
                if depth == 0 {
                    return end;
                }
            }
            _ => {}
        }
    }
    end
}

/// A value without quotes: to the next blank, less the signs that end a sentence or a list, and to the next assignment.
fn bare(text: &str, at: usize) -> Range<usize> {
    let rest = &text[at..];
    let mut end = rest.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\\')).unwrap_or(rest.len());
    for (index, c) in rest[..end].char_indices().filter(|(_, c)| matches!(c, '&' | ',' | ';')) {
        let next = &rest[index + c.len_utf8()..end];
        let name = next.bytes().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')).count();
        if name > 0 && next[name..].starts_with(['=', ':']) {
            end = index;
            break;
        }
    }
    let mut shown = rest[..end].trim_end_matches([',', ';', ':', '!', '\'']);
    shown = shown.strip_suffix('.').unwrap_or(shown);
    // A bracket that was opened before.
    for (open, close) in [('(', ')'), ('[', ']'), ('{', '}'), ('<', '>')] {
        while shown.ends_with(close) && shown.matches(close).count() > shown.matches(open).count() {
            shown = &shown[..shown.len() - 1];
        }
    }
    at..at + shown.len()
}

fn is_state(value: &str) -> bool {
    let value = value.trim_matches(['<', '>', '(', ')', '[', ']', '*', '-', ' ']);
    value.is_empty() || STATES.iter().any(|state| value.eq_ignore_ascii_case(state))
}

/// Numbers, switches, stars, parameters of a statement, variables, calls. Where only digits are to be expected, they count.
fn is_no_secret(rule: &str, value: &str) -> bool {
    let is_number = value.parse::<f64>().is_ok() || value.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let is_code = match rule {
        "password" | "card" | "ssn" => value.len() >= 3 && value.bytes().all(|b| b.is_ascii_digit()),
        "otp" => (4..=10).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit()),
        _ => false,
    };
    let is_word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'{' | b'}'))
    };
    let is_parameter =
        value.strip_prefix(['?', ':', '@', '%', '$']).is_some_and(|rest| rest.is_empty() || is_word(rest));
    let is_version = rule == "otp" && value.starts_with(|c: char| c.is_ascii_digit()) && value.contains('.');
    let is_call =
        value.ends_with(['(', ')']) && value.starts_with(|c: char| c.is_ascii_alphabetic()) && value.contains('(');
    let is_masked = value.bytes().all(|b| matches!(b, b'*' | b'.' | b'x' | b'X' | b'-' | b'_' | b'#'));
    is_number && !is_code
        || is_parameter
        || is_version
        || is_call
        || is_masked
        || value.starts_with("0x")
        || is_state(value)
}

/// In prose a word behind a colon is a word ("password: expired"); a secret has digits among its letters. A parser's tokens
/// have, too: there the name must be longer, as in `x-auth-token`.
fn is_mixed_word(rule: &str, name: &str, value: &str) -> bool {
    let has_digit = value.bytes().any(|b| b.is_ascii_digit());
    let has_letter = value.bytes().any(|b| b.is_ascii_alphabetic());
    let is_prose = name.len() == rule.len() && matches!(rule, "token" | "cookie" | "authorization");
    let is_key = value.len() >= 20 && has_digit && has_letter;
    !is_prose && has_digit && (has_letter || matches!(rule, "password" | "card" | "ssn" | "otp")) || is_key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redact(text: &str) -> String {
        let names = Names::compile(|_| true, &[], &[]).unwrap();
        let mut ranges = Vec::new();
        find(text, &names, |range, _| ranges.push(range));
        let mut out = text.to_owned();
        ranges.into_iter().rev().for_each(|range| out.replace_range(range, "#"));
        out
    }

    #[test]
    fn the_value_behind_a_name_is_found_in_every_notation() {
        for (text, expected) in [
            ("password=hunter2 x=1", "password=# x=1"),
            ("password=P@ss,word1, next", "password=#, next"),
            ("GET /?token=abc&x=1", "GET /?token=#&x=1"),
            ("{\"apiKey\": \"k\\\"k\", \"n\": 1}", "{\"apiKey\": \"#\", \"n\": 1}"),
            ("{\\\"password\\\":\\\"hunter2\\\",\\\"a\\\":1}", "{\\\"password\\\":\\\"#\\\",\\\"a\\\":1}"),
            ("{\\\\\\\"password\\\\\\\":\\\\\\\"hunter2\\\\\\\"}", "{\\\\\\\"password\\\\\\\":\\\\\\\"#\\\\\\\"}"),
            (
                "Login { password: Some(Password(\"hunter2\")), n: 1 }",
                "Login { password: Some(Password(\"#\")), n: 1 }",
            ),
            (
                "Login { password: Password { inner: \"x1\" }, user: \"bob\" }",
                "Login { password: Password { inner: \"#\" }, user: \"bob\" }",
            ),
            ("Cfg { passwords: [\"a1\", \"b2\"], n: 2 }", "Cfg { passwords: [\"#\", \"#\"], n: 2 }"),
            (
                "{\"credentials\":{\"user\":\"bob\",\"pass\":\"h2\"}}",
                "{\"credentials\":{\"user\":\"#\",\"pass\":\"#\"}}",
            ),
            (r#"{ passwords: [\"a1\", \"b2\"], user: \"bob\" }"#, r##"{ passwords: [\"#\", \"#\"], user: \"bob\" }"##),
            ("[(\"x-api-key\", \"k3y\"), (\"accept\", \"*/*\")]", "[(\"x-api-key\", \"#\"), (\"accept\", \"*/*\")]"),
            ("API Key = k3yfake77abc", "API Key = #"),
            ("curl --password hunter2 url", "curl --password # url"),
            ("<password>hunter2</password>", "<password>#</password>"),
            ("password := \"hunter2\"", "password := \"#\""),
            ("password='hunter2 (not closed)", "password='#"),
            ("password=12345678 otp=482913", "password=# otp=#"),
            ("password=$2b$12$KIXQ4", "password=#"),
            ("password={Hunter2}", "password=#"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }

    #[test]
    fn what_only_looks_like_an_assignment_stays() {
        for text in [
            "SELECT * FROM users WHERE token = ?",
            "token = ?1 AND secret = :secret AND password = $2",
            "if token == null { return; }",
            "let token = lexer.next();",
            "parse error: unexpected token: \"}\" at line 3",
            "unexpected token: 'identifier'",
            "ovs: cookie=0x0, duration=1.2s",
            "Erlang/OTP=26.2.1",
            "fetch(url, {credentials: 'include'})",
            "authorization=enabled",
            "password=\"***\"",
            "password: expired",
            "token: String",
            "Password: required.",
            "max_tokens=4096",
            "token=17",
            "secret::Key",
            "the password is",
            "password:",
            "token",
            "",
        ] {
            assert_eq!(redact(text), text);
        }
    }
}
