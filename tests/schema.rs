//! The page about SQL names every view and column, its questions have answers; stores of earlier schemas open.

mod support;

use std::{fs, path::Path, time::Duration};

use l0::{
    Components, TelemetryEvent,
    health::HealthReader,
    jobs::{Job, JobReader, Schedule},
    query::Reader,
};
use rusqlite::Connection;
use support::{builder, is_consistent, texts};
use tracing::{error, info, info_span};
use tracing_subscriber::prelude::*;

const PAGE: &str = include_str!("../src/schema.md");

/// A run that has ended with an open span, and another one, after a cleanup.
fn shop(dir: &Path) {
    for run in 0..2 {
        let retention = l0::Retention::default().max_age(Duration::from_secs(1));
        let l0 = builder(dir).service("shop").retention(retention).start().unwrap();
        let subscriber = tracing_subscriber::registry().with(l0.layer());
        let open = tracing::subscriber::with_default(subscriber, || {
            for order in 0..20 {
                let id = format!("order-{order}");
                let _request = info_span!("request", correlation_id = id.as_str(), tenant_id = "acme").entered();
                info!(order, customer = "ada", "order placed");
                if order % 7 == 0 {
                    error!(order, "card refused");
                }
            }
            info_span!("still open", run)
        });
        l0.audit(TelemetryEvent::new("refund.granted")).unwrap();
        l0.record(TelemetryEvent::new("old").message("x".repeat(9_000)));
        l0.shutdown(Duration::from_secs(10)).unwrap();
        drop(open);
    }
    // A row of maintenance needs a removal: rows of 1970 are old enough.
    let store = Connection::open(dir.join("telemetry.db")).unwrap();
    store.execute("INSERT INTO event (at, run, severity) VALUES (1000, 1, 2)", []).unwrap();
    let l0 = builder(dir).retention(l0::Retention::default().max_age(Duration::from_secs(9_999))).start().unwrap();
    assert_eq!(l0.cleanup(false).unwrap().rows, 1);
}

#[test]
fn the_page_names_every_view_and_every_column_in_its_order() {
    let dir = tempfile::tempdir().unwrap();
    shop(dir.path());
    let store = Connection::open(dir.path().join("telemetry.db")).unwrap();
    store.execute("ATTACH ?1 AS state", [dir.path().join("state.db").to_str().unwrap()]).unwrap();
    let list = |sql: &str| -> Vec<String> {
        store.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let mut views = list(
        "SELECT name FROM sqlite_schema WHERE type = 'view' UNION ALL SELECT name FROM state.sqlite_schema WHERE type = 'view'",
    );
    let sections: Vec<_> = PAGE.split("\n## `").skip(1).collect();
    let mut named: Vec<_> = sections.iter().map(|section| section.split('`').next().unwrap().to_owned()).collect();
    for section in &sections {
        let (view, rest) = section.split_once('`').unwrap();
        let rows = rest.lines().filter_map(|line| line.strip_prefix("| `"));
        let columns: Vec<_> = rows.map(|row| row.split('`').next().unwrap().to_owned()).collect();
        assert_eq!(columns, list(&format!("SELECT name FROM pragma_table_info('{view}')")), "{view}");
    }
    views.sort();
    named.sort();
    assert_eq!(views, named);
}

#[test]
fn times_before_1970_are_times() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, _hand) = l0::Clock::manual(l0::Timestamp::from_unix_ns(-500_000_001));
    let l0 = builder(dir.path()).clock(clock).start().unwrap();
    l0.record(TelemetryEvent::new("n"));
    let sql = "SELECT substr(started_at, 1, 23), (SELECT substr(timestamp, 1, 23) FROM telemetry_events) FROM runs";
    assert_eq!(texts(&l0.sql(sql, &[]).unwrap()), [["1969-12-31T23:59:59.499"; 2]]);
}

#[test]
fn the_questions_of_the_page_have_answers() {
    let dir = tempfile::tempdir().unwrap();
    shop(dir.path());
    let reader = Reader::open(dir.path()).unwrap();
    let questions: Vec<_> = PAGE.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(questions.len(), 10);
    for question in questions {
        let answer = reader.sql(question, &[]).unwrap();
        assert!(!answer.rows.is_empty(), "{question}");
    }
}

/// What a store of an earlier schema said when its program ended, as text.
fn opened(schema: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let fixture = fs::read_to_string(format!("{}/tests/data/{schema}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let store = Connection::open(dir.path().join("telemetry.db")).unwrap();
    store.pragma_update(None, "auto_vacuum", "INCREMENTAL").unwrap();
    store.execute_batch(&fixture).unwrap();
    dir
}

#[test]
fn stores_of_earlier_schemas_open_with_all_they_hold() {
    for schema in ["schema-1.sql", "schema-2.sql", "schema-3.sql", "schema-4.sql"] {
        let dir = opened(schema);
        let refused = Reader::open(dir.path()).unwrap_err();
        assert!(refused.is_storage() && refused.to_string().contains("which this l0 brings up to date"), "{refused}");
        l0::recover(dir.path()).unwrap();
        let l0 = builder(dir.path()).start().unwrap();
        let ask = |sql: &str| texts(&l0.sql(sql, &[]).unwrap());
        assert_eq!(ask("SELECT count(*), sum(severity = 'error') FROM telemetry_events"), [["61", "3"]], "{schema}");
        assert_eq!(
            ask("SELECT name, count(*) FROM spans GROUP BY name"),
            [["charge", "20"], ["take", "20"], ["worker", "3"]]
        );
        assert_eq!(ask("SELECT service, outcome FROM runs ORDER BY id LIMIT 1"), [["fixture", "clean"]]);
        assert_eq!(
            ask("SELECT correlation_id FROM logs WHERE message = 'order placed' ORDER BY id LIMIT 1"),
            [["order-0"]]
        );
        let trace = l0.trace("order-19").unwrap().unwrap();
        assert_eq!(trace.spans[0].name, "take");
        assert_eq!(l0.traces().failed().fetch().unwrap().items.len(), 3);
        let summary = l0.summary(Duration::from_secs(3600 * 24 * 365 * 50)).unwrap();
        assert_eq!(summary.events, 61);
        let is_counted = schema == "schema-4.sql";
        assert!(summary.spans.iter().all(|span| span.self_time.is_some() == is_counted), "before it was not: {schema}");
        // It goes on as a store of today: what was there is counted, and removed in its time.
        let counted = "SELECT sum(warning_bytes) > 0 AND sum(rollup_bytes) > 0 FROM run";
        let store = Connection::open(dir.path().join("telemetry.db")).unwrap();
        assert!(store.query_row(counted, [], |row| row.get::<_, bool>(0)).unwrap());
        l0.shutdown(Duration::from_secs(10)).unwrap();
        is_consistent(dir.path());
        let retention = l0::Retention::default().max_age(Duration::from_secs(1));
        let l0 = builder(dir.path()).retention(retention).start().unwrap();
        l0.cleanup(false).unwrap();
        assert_eq!(texts(&l0.sql("SELECT count(*) FROM telemetry_events", &[]).unwrap()), [["0"]]);
        l0.shutdown(Duration::from_secs(10)).unwrap();
        is_consistent(dir.path());
    }
}

/// A job that nobody has a handler for.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Nobody {
    number: u32,
}

impl Job for Nobody {
    const KIND: &'static str = "nobody";
    type Output = ();
}

/// A store whose `state.db` is of the schema before this one.
fn with_earlier_state() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    l0.components().complete("migrations").unwrap();
    let job = Nobody { number: 1 };
    l0.jobs().enqueue(job.clone()).unwrap();
    l0.jobs().schedule("report", Schedule::every(Duration::from_secs(3_600)), job).unwrap();
    l0.health().register("db", || Err::<(), _>("no answer")).unwrap();
    l0.health().check_now("db").unwrap();
    l0.shutdown(Duration::from_secs(10)).unwrap();
    let state = Connection::open(dir.path().join("state.db")).unwrap();
    let earlier = "DROP VIEW health; ALTER TABLE health_change DROP COLUMN is_optional;
                   ALTER TABLE health_change DROP COLUMN kind; ALTER TABLE health_change DROP COLUMN tags; DROP TABLE health_run;
                   CREATE TABLE health_probe (at INTEGER NOT NULL) STRICT;
                   CREATE VIEW health AS SELECT name FROM health_change; PRAGMA user_version = 5";
    state.execute_batch(earlier).unwrap();
    dir
}

#[test]
fn jobs_schedules_health_and_components_of_an_earlier_schema_are_all_there() {
    let all = |dir: &Path| {
        let health = HealthReader::open(dir);
        assert_eq!(health.history("db", Duration::from_secs(60)).unwrap().len(), 1);
        assert!(Components::read(dir).unwrap()[0].complete);
        let jobs = JobReader::open(dir);
        assert_eq!(jobs.stats().unwrap().kinds[0].pending, 1);
        assert_eq!(jobs.schedules().unwrap()[0].name, "report");
    };
    // From outside it is not changed, and not said to be empty.
    let dir = with_earlier_state();
    for refused in [
        JobReader::open(dir.path()).stats().map(drop),
        JobReader::open(dir.path()).schedules().map(drop),
        HealthReader::open(dir.path()).latest().map(drop),
        Components::read(dir.path()).map(drop),
    ] {
        let refused = refused.unwrap_err();
        assert!(refused.is_storage() && refused.to_string().contains("which this l0 brings up to date"), "{refused}");
    }
    // Neither is a copy, which has this l0's schema.
    let copy = tempfile::tempdir().unwrap();
    l0::copy(dir.path(), copy.path().join("copy"), true).unwrap();
    all(&copy.path().join("copy"));
    // Who starts brings it up to date.
    let l0 = builder(dir.path()).start().unwrap();
    assert!(l0.components().get("migrations").unwrap().unwrap().complete);
    assert_eq!(l0.health().history("db", Duration::from_secs(60)).unwrap().len(), 1);
    assert_eq!(l0.status().problems, [""; 0]);
    all(dir.path());
    assert_eq!(texts(&l0.sql("SELECT name, optional FROM health WHERE name = 'db'", &[]).unwrap())[0], ["db", "0"]);
}

#[test]
fn a_store_of_a_later_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    shop(dir.path());
    let path = dir.path().join("telemetry.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&path).unwrap();
    for error in [
        builder(dir.path()).start().unwrap_err(),
        Reader::open(dir.path()).unwrap_err(),
        l0::recover(dir.path()).unwrap_err(),
    ] {
        assert!(error.is_storage() && error.to_string().contains("has schema 99"), "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_damaged_store_is_told_from_a_sound_one() {
    let dir = tempfile::tempdir().unwrap();
    shop(dir.path());
    let check = Reader::open(dir.path()).unwrap().check().unwrap();
    assert!(check.is_sound() && check.bytes > check.free_bytes, "{check}");
    assert!(check.tables.iter().any(|table| table.name == "event" && table.bytes >= 4_096));
    assert!(check.to_string().starts_with("sound; "), "{check}");
    // A row that an index does not know.
    let store = Connection::open(dir.path().join("telemetry.db")).unwrap();
    let sql = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'WHERE trace IS NOT NULL', 'WHERE trace IS NULL')
                WHERE name = 'event_by_trace'";
    store.execute_batch(sql).unwrap();
    drop(store);
    let check = Reader::open(dir.path()).unwrap().check().unwrap();
    assert!(!check.is_sound() && check.to_string().contains("event_by_trace"), "{check}");
}

#[test]
fn whoever_only_recovers_cuts_nothing() {
    let dir = opened("schema-2.sql");
    // Larger than a cap of today by default, from when there was none.
    let store = Connection::open(dir.path().join("telemetry.db")).unwrap();
    store
        .execute_batch(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
             INSERT INTO event (at, run, severity, message) SELECT i, 1, 2, hex(zeroblob(500000)) FROM n",
        )
        .unwrap();
    drop(store);
    l0::recover(dir.path()).unwrap();
    let count = Reader::open(dir.path()).unwrap().events().count().unwrap();
    assert_eq!(count, 361);
    let l0 = builder(dir.path()).start().unwrap();
    let size = l0.stats().store;
    assert!(size.bytes() <= size.max_bytes && size.max_bytes == 256 << 20, "{size:?}");
    let kept = l0.events().count().unwrap();
    assert!((190..361).contains(&kept), "rows of a megabyte, no more of them gone than must: {kept}");
}
