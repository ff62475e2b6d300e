//! Secrets are gone, innocents are intact: a corpus of both, through every way in, to every place they could be kept.

mod support;

use std::{fs, path::Path};

use l0::{Redaction, TelemetryEvent};
use support::{builder, store};

/// Lines of a data file: columns separated by tabs, `\n`, `\t` and `\\` escaped, `#` for comments.
fn corpus(name: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let unescape = |text: &str| {
        let mut out = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            out.push(match (c, c == '\\') {
                (_, true) => match chars.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some(other) => other,
                    None => '\\',
                },
                (c, false) => c,
            });
        }
        out
    };
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split('\t').map(unescape).collect()).collect()
}

/// As a message, or as a field of the payload.
fn event(field: &str, value: &str) -> TelemetryEvent {
    let event = TelemetryEvent::new("case");
    if field == "message" {
        return event.message(value);
    }
    event.payload(&serde_json::Map::from_iter([(field.to_owned(), value.into())]))
}

/// Every byte that the store keeps.
fn bytes(dir: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            all.extend(bytes(&entry));
        } else {
            all.extend(fs::read(entry).unwrap());
        }
    }
    all
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[test]
fn every_secret_is_gone_and_its_rule_named() {
    let cases = corpus("secrets.tsv");
    assert!(cases.len() > 200);
    let store = store();
    for case in &cases {
        store.l0.record(event(&case[0], &case[1]));
    }
    let rows = store.l0.events().oldest_first().limit(10_000).fetch().unwrap().items;
    assert_eq!(rows.len(), cases.len());
    let mut kept = Vec::new();
    for (row, case) in rows.iter().zip(&cases) {
        let escaped = serde_json::to_string(&case[2]).unwrap();
        let stored = format!("{}{}", row.message, row.payload);
        if stored.contains(&case[2]) || stored.contains(escaped.trim_matches('"')) || !stored.contains("[REDACTED:") {
            kept.push(format!("{}: {:?} -> {stored}", case[0], case[1]));
        }
    }
    assert!(kept.is_empty(), "{} of {} kept:\n{}", kept.len(), cases.len(), kept.join("\n"));
}

#[test]
fn every_innocent_is_intact_to_the_letter() {
    let cases = corpus("innocents.tsv");
    assert!(cases.len() > 400);
    let store = store();
    for case in &cases {
        store.l0.record(event(&case[0], &case[1]));
    }
    let rows = store.l0.events().oldest_first().limit(10_000).fetch().unwrap().items;
    assert_eq!(rows.len(), cases.len());
    let mut harmed = Vec::new();
    for (row, case) in rows.iter().zip(&cases) {
        let stored = if case[0] == "message" {
            row.message.clone()
        } else {
            row.payload_as::<serde_json::Map<String, serde_json::Value>>().unwrap()[&case[0]]
                .as_str()
                .unwrap()
                .to_owned()
        };
        if stored != case[1] {
            harmed.push(format!("{}: {:?} -> {stored:?}", case[0], case[1]));
        }
    }
    assert!(harmed.is_empty(), "{} of {} harmed:\n{}", harmed.len(), cases.len(), harmed.join("\n"));
}
