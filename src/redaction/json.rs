//! Secrets in JSON: a scan that changes only the strings it must and leaves every other byte as it is.
//!
//! The JSON is a serialiser's output or a caller's own; what does not parse is treated as one string of text by the
//! caller. No recursion, so depth costs nothing.

use super::{
    marker,
    names::{Names, Verdict},
    values::Values,
};

/// The JSON without its secrets, if it has any.
pub(super) fn redact(json: &str, by_name: Option<&Names>, by_value: Option<(&Values, &Names)>) -> Option<String> {
    let mut out = String::new();
    let mut copied = 0;
    let bytes = json.as_bytes();
    let mut stack: Vec<Level> = Vec::new();
    // What the rules said of the key whose value comes next, and whether it speaks of a card.
    let mut verdict = Inside::Plain;
    let mut key = String::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => {
                let inherited = verdict.or(stack.last());
                stack.push(Level { is_object: *byte == b'{', awaits_key: *byte == b'{', inside: inherited });
                verdict = Inside::Plain;
            }
            b'}' | b']' => _ = stack.pop(),
            b',' => {
                verdict = Inside::Plain;
                if let Some(level) = stack.last_mut() {
                    level.awaits_key = level.is_object;
                }
            }
            b'"' => {
                let end = end_of_string(bytes, at)?;
                let literal = json.get(at..end)?;
                let is_key = stack.last().is_some_and(|level| level.awaits_key);
                if is_key {
                    if let Some(level) = stack.last_mut() {
                        level.awaits_key = false;
                    }
                    key = unescaped(literal)?;
                    verdict = verdict_of(&key, by_name.or(by_value.map(|(_, names)| names)));
                }
                let replaced = if is_key {
                    by_value.and_then(|(values, names)| values.redact(&unescaped(literal)?, names))
                } else {
                    match (verdict.or(stack.last()), by_name, by_value) {
                        (Inside::Secret(rule), Some(_), _) => {
                            Some(marker(rule)).filter(|marker| literal[1..literal.len() - 1] != **marker)
                        }
                        (Inside::Plain | Inside::Secret(_), _, Some((values, names))) => {
                            values.may_occur(literal).then(|| values.redact(&unescaped(literal)?, names)).flatten()
                        }
                        _ => None,
                    }
                };
                if let Some(replaced) = replaced {
                    out.push_str(&json[copied..at]);
                    out.push_str(&serde_json::to_string(&replaced).ok()?);
                    copied = end;
                }
                at = end;
                continue;
            }
            b'0'..=b'9' => {
                let end = at + bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
                let number = &json[at..end];
                let is_whole = at.checked_sub(1).is_none_or(|before| !matches!(bytes[before], b'.' | b'-' | b'+'))
                    && !matches!(bytes.get(end), Some(b'.' | b'e' | b'E'));
                if let Some((values, _)) = by_value
                    && is_whole
                    && values.is_card_number(&key, number)
                {
                    out.push_str(&json[copied..at]);
                    out.push_str(&format!("\"{}\"", marker("card")));
                    copied = end;
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    (copied > 0).then(|| out + &json[copied..])
}

struct Level<'a> {
    is_object: bool,
    awaits_key: bool,
    inside: Inside<'a>,
}

/// What the keys around a value say.
#[derive(Clone, Copy)]
enum Inside<'a> {
    Plain,
    Allowed,
    Secret(&'a str),
}

impl<'a> Inside<'a> {
    /// The nearest key that says something.
    fn or(self, level: Option<&Level<'a>>) -> Self {
        match (self, level) {
            (Self::Plain, Some(level)) => level.inside,
            (own, _) => own,
        }
    }
}

fn verdict_of<'a>(key: &str, names: Option<&'a Names>) -> Inside<'a> {
    let Some(names) = names else { return Inside::Plain };
    match names.find(key) {
        Verdict::Plain => Inside::Plain,
        Verdict::Allowed => Inside::Allowed,
        Verdict::Secret(rule) => Inside::Secret(rule),
    }
}

/// What a literal says. Half an emoji, as JavaScript leaves it, is no reason to look away.
fn unescaped(literal: &str) -> Option<String> {
    if let Ok(text) = serde_json::from_str(literal) {
        return Some(text);
    }
    let mut whole = String::with_capacity(literal.len());
    let mut rest = literal;
    while let Some(at) = rest.find("\\u") {
        let escape = rest.get(at..at + 6);
        let is_escaped = rest[..at].bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1;
        let code = escape.and_then(|escape| u32::from_str_radix(&escape[2..], 16).ok());
        whole.push_str(&rest[..at]);
        match code {
            Some(0xD800..=0xDFFF) if !is_escaped => whole.push('\u{FFFD}'),
            _ => whole.push_str(escape.unwrap_or("")),
        }
        rest = rest.get(at + 6..).unwrap_or("");
    }
    whole.push_str(rest);
    Some(serde_json::from_str(&whole).unwrap_or_else(|_| literal.trim_matches('"').to_owned()))
}

/// Behind the closing quote of the string that begins at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    static RULES: LazyLock<(Names, Values)> = LazyLock::new(|| {
        let names = Names::compile(|_| true, &[], &["kept_token".to_owned()]).unwrap();
        (names, Values::compile(|_| true, &[]).unwrap())
    });

    fn both(json: &str) -> String {
        let (names, values) = &*RULES;
        let named = redact(json, Some(names), None).unwrap_or_else(|| json.to_owned());
        redact(&named, None, Some((values, names))).unwrap_or(named)
    }

    #[test]
    fn nested_names_and_values_go_and_everything_else_stays_to_the_letter() {
        for (json, expected) in [
            (
                r#"{"a": 1.50, "password" : "x\"y", "b":[1,2]}"#,
                r#"{"a": 1.50, "password" : "[REDACTED:password]", "b":[1,2]}"#,
            ),
            (r#"{"token":5,"secret":true,"cookie":null}"#, r#"{"token":5,"secret":true,"cookie":null}"#),
            (
                r#"{"credentials":{"user":"bob","n":[1,"two"]},"x":"y"}"#,
                r#"{"credentials":{"user":"[REDACTED:credentials]","n":[1,"[REDACTED:credentials]"]},"x":"y"}"#,
            ),
            (r#"[{"deep":{"api_key":"k"}}]"#, r#"[{"deep":{"api_key":"[REDACTED:api_key]"}}]"#),
            (r#"{"to":"a@example.com"}"#, r#"{"to":"[REDACTED:email]"}"#),
            (r#"{"a@example.com":1}"#, r#"{"[REDACTED:email]":1}"#),
            (r#"{"kept_token":"a@example.com"}"#, r#"{"kept_token":"a@example.com"}"#),
            (r#""a@example.com""#, r#""[REDACTED:email]""#),
            (r#"{"pan":4111111111111111,"n":4111111111111111}"#, r#"{"pan":"[REDACTED:card]","n":4111111111111111}"#),
            (r#"{"user":"\ud83d a@example.com"}"#, "{\"user\":\"\u{FFFD} [REDACTED:email]\"}"),
            (r#"{"pass\u0077ord":"x"}"#, r#"{"pass\u0077ord":"[REDACTED:password]"}"#),
        ] {
            assert_eq!(both(json), expected);
            assert_eq!(both(expected), expected, "once is enough");
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Into::into),
            any::<bool>().prop_map(Into::into),
            "\\PC{0,12}".prop_map(Into::into),
            Just(serde_json::json!("mail a@example.com")),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map("(token|name|\\PC{0,5})", inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_comes_out_parses_and_holds_no_secret(value in json()) {
            let out = both(&value.to_string());
            prop_assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{}", out);
            prop_assert!(!out.contains("a@example.com"), "{}", out);
        }

        #[test]
        fn garbage_is_survived(text in "\\PC{0,40}") {
            let (names, values) = &*RULES;
            let _ = redact(&text, Some(names), Some((values, names)));
        }
    }
}
