//! Questions: every filter, pages in both directions, totals, SQL, and another process's view.

mod support;

use std::time::Duration;

use l0::{
    Clock, Severity, TelemetryEvent, Timestamp,
    query::{Cursor, Events, Reader, Total, Value},
};
use support::{Store, builder, store};

fn filled() -> Store {
    let dir = tempfile::tempdir().unwrap();
    let (clock, time) = Clock::manual(Timestamp::from_unix_ns(1_000_000_000));
    let l0 = builder(dir.path()).clock(clock).start().unwrap();
    for number in 0..30_u32 {
        let severity = if number % 3 == 0 { Severity::Error } else { Severity::Info };
        l0.record(
            TelemetryEvent::new(if number % 2 == 0 { "even" } else { "odd" })
                .source(format!("part-{}", number % 5))
                .severity(severity)
                .category("numbers")
                .correlation_id(format!("c-{}", number / 10).parse::<l0::correlation::CorrelationId>().unwrap())
                .tenant_id(if number < 15 { "low" } else { "high" })
                .actor_id("counter")
                .status("ok")
                .message(format!("number {number}"))
                .payload(&serde_json::json!({ "number": number, "half": f64::from(number) / 2.0, "name": format!("n{number}") })),
        );
        time.advance(Duration::from_secs(1));
    }
    Store { l0, dir }
}

fn numbers(events: Events) -> Vec<i64> {
    events
        .fetch()
        .unwrap()
        .items
        .iter()
        .map(|event| event.payload_as::<serde_json::Value>().unwrap()["number"].as_i64().unwrap())
        .collect()
}

#[test]
fn every_filter_filters() {
    let store = filled();
    let events = || store.l0.events().oldest_first();
    let second = |n: i64| Timestamp::from_unix_ns(1_000_000_000 + n * 1_000_000_000);
    let cases: [(&str, Events, Vec<i64>); 14] = [
        ("since", events().since(second(27)), vec![27, 28, 29]),
        ("until", events().until(second(3)), vec![0, 1, 2]),
        ("at_least", events().at_least(Severity::Warning).until(second(10)), vec![0, 3, 6, 9]),
        ("event_type", events().event_type("odd").until(second(6)), vec![1, 3, 5]),
        ("source", events().source("part-4"), vec![4, 9, 14, 19, 24, 29]),
        ("category", events().category("other"), vec![]),
        ("correlation_id", events().correlation_id("c-2").until(second(23)), vec![20, 21, 22]),
        ("tenant_id", events().tenant_id("low").since(second(12)), vec![12, 13, 14]),
        ("actor_id", events().actor_id("counter").until(second(1)), vec![0]),
        ("status", events().status("ok").until(second(1)), vec![0]),
        ("message", events().message("number 2"), vec![2, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29]),
        ("field integer", events().field("number", 7), vec![7]),
        ("field real", events().field("half", 3.5), vec![7]),
        ("field text", events().field("name", "n7"), vec![7]),
    ];
    for (name, question, expected) in cases {
        assert_eq!(question.clone().count().unwrap(), expected.len() as u64, "{name}");
        assert_eq!(numbers(question), expected, "{name}");
    }
    assert_eq!(
        store.l0.events().last(Duration::from_secs(3600)).count().unwrap(),
        30,
        "windows end now by the store's clock"
    );
}

#[test]
fn pages_in_both_directions_meet_every_row_once() {
    let store = filled();
    for limit in [1, 3, 7, 10, 29, 30, 31] {
        for oldest_first in [false, true] {
            let question = || {
                let events = store.l0.events().limit(limit);
                if oldest_first { events.oldest_first() } else { events }
            };
            let mut seen = Vec::new();
            let mut page = question().fetch().unwrap();
            loop {
                assert_eq!(page.total, Total::Exactly(30));
                assert!(page.items.len() <= limit as usize);
                seen.extend(page.items.iter().map(|event| event.field("number").unwrap()));
                let Some(next) = page.next else { break };
                let next: Cursor = next.to_string().parse().unwrap();
                page = question().after(&next).fetch().unwrap();
            }
            let mut expected: Vec<Value> = (0..30).map(Value::from).collect();
            if !oldest_first {
                expected.reverse();
            }
            assert_eq!(seen, expected, "limit {limit}, oldest first {oldest_first}");
        }
    }
}

#[test]
fn a_total_stops_counting_where_it_would_take_long() {
    let store = store();
    store.l0.record_batch((0..10_050).map(|_| TelemetryEvent::new("n")));
    let page = store.l0.events().limit(2).fetch().unwrap();
    assert_eq!((page.items.len(), page.total), (2, Total::AtLeast(10_000)));
    assert_eq!(page.total.to_string(), "at least 10000");
    assert_eq!(store.l0.events().count().unwrap(), 10_050);
}

#[test]
fn malformed_questions_are_clear_errors() {
    let store = filled();
    assert!("x7".parse::<Cursor>().unwrap_err().is_invalid_input());
    for (sql, params, hint) in [
        ("SELEC 1", vec![], "syntax error"),
        ("SELECT * FROM nowhere", vec![], "nowhere"),
        ("DELETE FROM event", vec![], "would write"),
        ("BEGIN", vec![], "only questions"),
        ("PRAGMA query_only = 0", vec![], "only questions"),
        ("PRAGMA hard_heap_limit = 300000", vec![], "only questions"),
        ("PRAGMA case_sensitive_like = 1", vec![], "only questions"),
        ("ATTACH DATABASE ':memory:' AS x", vec![], "only questions"),
        ("SELECT load_extension('x')", vec![], "not authorized"),
        ("SELECT 1; DELETE FROM event", vec![], ""),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, randomblob(1 << 20) FROM n",
            vec![],
            "LIMIT",
        ),
        ("", vec![], "no question"),
        ("SELECT ?1, ?2", vec![Value::Null], "2 parameters"),
        ("SELECT json_extract('not json', '$.a')", vec![], "malformed JSON"),
    ] {
        let error = store.l0.sql(sql, &params).unwrap_err();
        assert!(error.is_invalid_input() && error.to_string().contains(hint), "{sql}: {error}");
    }
    assert_eq!(store.one("SELECT count(*) FROM telemetry_events WHERE message LIKE 'NUMBER%'"), "30");
    assert_eq!(store.ask("PRAGMA table_info(run)")[0][1], "id");
    assert_eq!(store.l0.events().field("no\"such$.field", 1).count().unwrap(), 0);
    assert_eq!(store.l0.events().field("a\\", 1).count().unwrap(), 0);
    assert_eq!(store.l0.events().correlation_id("").count().unwrap(), 0);
    // Deeper than SQLite reads JSON: such a payload is not found by its fields, and harms no other.
    let deep = format!("{}{}", "[".repeat(1_500), "]".repeat(1_500));
    store.l0.record(TelemetryEvent::new("deep").payload(&serde_json::value::RawValue::from_string(deep).unwrap()));
    assert_eq!(store.l0.events().field("number", 7).count().unwrap(), 1);
}

#[test]
fn a_reader_elsewhere_sees_what_is_committed_and_never_writes() {
    let store = filled();
    store.l0.flush().unwrap();
    let before = std::fs::metadata(store.dir.path().join("telemetry.db")).unwrap().modified().unwrap();
    let reader = Reader::open(store.dir.path()).unwrap();
    assert_eq!(reader.events().count().unwrap(), 30);
    store.l0.record(TelemetryEvent::new("one more"));
    assert_eq!(store.l0.events().count().unwrap(), 31);
    assert_eq!(reader.events().count().unwrap(), 31);
    assert!(reader.sql("CREATE TABLE x (y)", &[]).unwrap_err().is_invalid_input());
    assert_eq!(std::fs::metadata(store.dir.path().join("telemetry.db")).unwrap().modified().unwrap(), before);
}

#[test]
fn a_read_only_copy_can_be_read() {
    let store = filled();
    let copy = tempfile::tempdir().unwrap();
    let from = store.dir.path().join("telemetry.db");
    store.l0.shutdown(Duration::from_secs(10)).unwrap();
    std::fs::copy(from, copy.path().join("telemetry.db")).unwrap();
    assert_eq!(Reader::open(copy.path()).unwrap().events().count().unwrap(), 30);
}

#[test]
fn an_ordinary_sqlite_shell_reads_the_views() {
    let store = filled();
    store.l0.flush().unwrap();
    // Any SQLite will do; what matters is that no function or extension of l0's is needed.
    let shell = rusqlite::Connection::open(store.dir.path().join("telemetry.db")).unwrap();
    for view in ["telemetry_events", "logs", "spans", "runs"] {
        let rows: i64 =
            shell.query_row(&format!("SELECT count(*) FROM (SELECT * FROM {view})"), [], |row| row.get(0)).unwrap();
        assert_eq!(rows > 0, ["telemetry_events", "runs"].contains(&view), "{view}");
    }
    let row: (String, String, String, f64) = shell
        .query_row(
            "SELECT timestamp, severity, correlation_id, payload ->> 'half' FROM telemetry_events ORDER BY id LIMIT 1",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .unwrap();
    assert_eq!(row, ("1970-01-01T00:00:01.000000000Z".into(), "error".into(), "c-0".into(), 0.0));
}

#[test]
fn tables_align_and_are_harmless_to_a_terminal() {
    let store = store();
    let table = store.l0.sql("SELECT 'a' AS long_name, 'x' || char(27) || '[31m' AS b, NULL AS c", &[]).unwrap();
    assert_eq!(
        table.to_string(),
        "long_name  b            c\n---------  -----------  ----\na          x\\u{1b}[31m  NULL\n"
    );
}

#[test]
fn rollups_count_what_was_recorded() {
    let store = filled();
    assert_eq!(
        store.ask("SELECT period, sum(count), sum(errors) FROM rollup GROUP BY period"),
        [["60", "30", "10"], ["3600", "30", "10"]]
    );
    store.record(|| (0..50).for_each(|_| drop(tracing::info_span!("timed"))));
    store.l0.flush().unwrap();
    store.record(|| drop(tracing::info_span!("timed")));
    assert_eq!(
        store.one(
            "SELECT sum(r.timed) FROM rollup AS r JOIN series AS s ON s.id = r.series JOIN callsite AS c ON c.id = s.callsite
              WHERE c.name = 'timed' AND r.period = 3600"
        ),
        "51"
    );
}
