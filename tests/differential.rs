//! The same program under l0 and under `fmt().json()`, in one subscriber: more than 10,000 events of every value kind,
//! in nested spans on several threads, compared event by event.

mod support;

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex},
};

use serde_json::{Map, Value};
use support::store;
use tracing::{Dispatch, debug, error, info, info_span, trace, warn};
use tracing_subscriber::prelude::*;

const THREADS: u64 = 4;
const ROUNDS: u64 = 350;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Failure;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it \"failed\"\n\tbadly")
    }
}

impl std::error::Error for Failure {}

/// Numbers from a seed: the program is the same each time, and no two rounds are alike.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        self.0 ^ (self.0 >> 29)
    }
}

fn program(thread: u64) {
    let mut numbers = Numbers(thread);
    let texts = ["", "plain", "naïve \u{1F600}", "\"quoted\" \\ \u{0}\u{1b}\r\n\t", "x".repeat(3_000).leak()];
    for round in 0..ROUNDS {
        let n = numbers.next();
        let key = thread * ROUNDS + round;
        let text = texts[(n % 5) as usize];
        let request = info_span!("request", key, text, late = tracing::field::Empty);
        let _request = request.enter();
        trace!(key, a = n as i64, b = n, c = n as u32, d = n as i8, "integers");
        debug!(key, f = f64::from_bits(n), g = n as f64 / 7.0, h = -0.0, whole = 3.0, "floats {round}");
        info!(key, yes = n.is_multiple_of(2), text, display = %text, debugged = ?text, "texts {text}");
        request.record("late", n);
        warn!(key, wide = n as i128 * -3, wider = u128::from(n) * 5, bytes = &n.to_le_bytes()[..], "wide");
        error!(key, error = &Failure as &dyn std::error::Error, option = ?n.is_multiple_of(3).then_some(n), "error");
        let inner = info_span!("inner", round).entered();
        info!(target: "elsewhere", key, nested.name = "dotted", r#type = 1, "in two spans");
        info!(key, "no fields, inner {}", numbers.next());
        drop(inner);
        info!(parent: None, key, repeated = 1, repeated = 2, "in none");
    }
}

#[test]
fn every_event_is_the_same_as_in_the_json_file() {
    let store = store();
    let lines = Lines::default();
    let writer = lines.clone();
    let json = tracing_subscriber::fmt::layer()
        .json()
        .with_span_list(true)
        .with_writer(Mutex::new(writer))
        .with_file(true)
        .with_line_number(true);
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(store.l0.layer()).with(json));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let dispatch = &dispatch;
            scope.spawn(move || tracing::dispatcher::with_default(dispatch, || program(thread)));
        }
    });

    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let mut expected: BTreeMap<(u64, String), Map<String, Value>> = BTreeMap::new();
    for line in text.lines() {
        let line: Map<String, Value> = serde_json::from_str(line).unwrap();
        let fields = line["fields"].as_object().unwrap();
        let key = fields["key"].as_u64().unwrap();
        let before = expected.insert((key, fields["message"].as_str().unwrap().to_owned()), line.clone());
        assert!(before.is_none(), "the program's events are distinct");
    }
    assert!(expected.len() > 10_000, "{} events", expected.len());
    exported_lines_are_the_same(&store, &expected);

    let rows = store.l0.sql(
        "SELECT e.message, e.fields, e.level, e.target, e.file, e.line, s.name, s.payload, p.name, p.payload
           FROM logs AS e LEFT JOIN spans AS s ON s.id = e.span_id LEFT JOIN spans AS p ON p.id = s.parent_id",
        &[],
    );
    let rows = support::texts(&rows.unwrap());
    assert_eq!(rows.len(), expected.len());
    for row in rows {
        let [message, fields, level, target, file, line, span, span_fields, parent, parent_fields] = &row[..] else {
            unreachable!("ten columns")
        };
        let fields: Map<String, Value> = serde_json::from_str(fields).unwrap();
        let key = fields["key"].as_u64().unwrap();
        let json = expected
            .remove(&(key, message.clone()))
            .unwrap_or_else(|| panic!("{key} {message} is not in the file, or is in the store twice"));
        assert_eq!(level, &severity(json["level"].as_str().unwrap()));
        assert_eq!(target, json["target"].as_str().unwrap());
        assert_eq!(
            (file.as_str(), line.parse().ok()),
            (json["filename"].as_str().unwrap(), json["line_number"].as_u64())
        );
        compare(&fields, json["fields"].as_object().unwrap(), message);
        let spans: Vec<&Map<String, Value>> = json
            .get("spans")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|span| span.as_object().unwrap())
            .collect();
        let ours = [(parent, parent_fields), (span, span_fields)];
        let ours: Vec<_> = ours.into_iter().filter(|(name, _)| *name != "NULL").collect();
        if message == "in none" {
            // The file shows the thread's current span for an event that says it has none.
            assert!(ours.is_empty());
            continue;
        }
        assert_eq!(ours.len(), spans.len(), "{message}");
        for ((name, fields), span) in ours.into_iter().zip(spans) {
            assert_eq!(name, span["name"].as_str().unwrap());
            let mut fields: Map<String, Value> = serde_json::from_str(fields).unwrap();
            // The file's line was written when the event happened, the span's row knows what came later.
            let late = fields.remove("late");
            if let Some(theirs) = span.get("late") {
                assert_eq!(late.as_ref(), Some(theirs));
            }
            let mut theirs = span.clone();
            theirs.retain(|name, _| name != "name" && name != "late");
            compare(&fields, &theirs, message);
        }
    }
    assert!(expected.is_empty(), "{} events are missing", expected.len());
    assert_eq!(store.l0.stats().shed, 0);
}

/// The export has the shape of the file: the same keys, but for two ids more, and without the options the file was given.
fn exported_lines_are_the_same(store: &support::Store, expected: &BTreeMap<(u64, String), Map<String, Value>>) {
    let mut lines = Vec::new();
    let count = store.l0.events().write_json_lines(&mut lines, u64::MAX, |_| {}).unwrap();
    assert_eq!(count, expected.len() as u64);
    for line in String::from_utf8(lines).unwrap().lines() {
        let mut ours: Map<String, Value> = serde_json::from_str(line).unwrap();
        let fields = ours["fields"].as_object().unwrap().clone();
        let message = fields["message"].as_str().unwrap();
        let theirs = &expected[&(fields["key"].as_u64().unwrap(), message.to_owned())];
        assert_eq!((&ours["level"], &ours["target"]), (&theirs["level"], &theirs["target"]));
        let mut own = fields.clone();
        own.remove("message");
        compare(&own, theirs["fields"].as_object().unwrap(), message);
        let digits = |value: &Value| value.as_str().unwrap().bytes().filter(u8::is_ascii_hexdigit).count();
        let shape = |value: &Value| {
            let text = value.as_str().unwrap().to_owned();
            text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect::<String>()
        };
        assert_eq!(shape(&ours["timestamp"]), shape(&theirs["timestamp"]));
        let mut keys: Vec<_> = theirs.keys().map(String::as_str).collect();
        keys.retain(|key| !["filename", "line_number"].contains(key));
        if message == "in none" {
            // The file shows the thread's current span for an event that says it has none.
            keys.retain(|key| !["span", "spans"].contains(key));
        } else {
            assert_eq!((digits(&ours["trace_id"]), digits(&ours["span_id"])), (32, 16));
            let late = |spans: &Value| -> Vec<Map<String, Value>> {
                let spans = spans.as_array().unwrap().iter().map(|span| span.as_object().unwrap().clone());
                let without = |mut span: Map<String, Value>| {
                    span.remove("late");
                    span
                };
                spans.map(without).collect()
            };
            let (ours_spans, theirs_spans) = (late(&ours["spans"]), late(&theirs["spans"]));
            assert_eq!(ours_spans.len(), theirs_spans.len());
            for (ours, theirs) in ours_spans.iter().zip(&theirs_spans) {
                compare(ours, theirs, message);
            }
            assert_eq!(Some(&ours["span"]), ours["spans"].as_array().unwrap().last());
            ours.remove("trace_id");
            ours.remove("span_id");
        }
        let mut own: Vec<_> = ours.keys().map(String::as_str).collect();
        own.sort_unstable();
        keys.sort_unstable();
        assert_eq!(own, keys, "{message}");
    }
}

fn severity(level: &str) -> String {
    if level == "WARN" { "warning".into() } else { level.to_ascii_lowercase() }
}

/// Field by field. Where l0 keeps more than the file does, the difference is spelt out.
fn compare(ours: &Map<String, Value>, theirs: &Map<String, Value>, message: &str) {
    for (name, theirs) in theirs.iter().filter(|(name, _)| *name != "message") {
        let ours = ours.get(name).unwrap_or_else(|| panic!("{name} of {message:?} is missing in {ours:?}"));
        let same = ours == theirs
            // The file has null for what JSON cannot say.
            || theirs.is_null() && matches!(ours.as_str(), Some("NaN" | "inf" | "-inf"))
            // The file has text for every 128-bit number, l0 for those that need it.
            || ours.is_number() && theirs.as_str() == Some(&ours.to_string());
        assert!(same, "{name} of {message:?}: {ours} here, {theirs} in the file");
    }
    let more: Vec<_> = ours.keys().filter(|name| !theirs.contains_key(*name) && *name != "repeated#1").collect();
    assert!(more.is_empty(), "{more:?} of {message:?} are only here");
}
