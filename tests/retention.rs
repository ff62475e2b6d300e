//! What retention removes, in which order, and what it leaves alone.

mod support;

use std::{fs, path::Path, time::Duration};

use l0::{Clock, L0, ManualClock, Overload, Retention, Severity, TelemetryEvent, Timestamp, query::Reader};
use support::{builder, is_consistent, texts, wait_for};
use tracing::{error, info, info_span};
use tracing_subscriber::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MIB: u64 = 1 << 20;

fn keep() -> Retention {
    Retention::default()
}

/// A store of eight megabytes, in which nothing is shed.
fn small(dir: &Path) -> L0 {
    builder(dir)
        .retention(keep().max_bytes(8 * MIB))
        .overload(Overload::Block(Duration::from_secs(60)))
        .start()
        .unwrap()
}

fn with<R>(l0: &L0, f: impl FnOnce() -> R) -> R {
    tracing::subscriber::with_default(tracing_subscriber::registry().with(l0.layer()), f)
}

fn one(l0: &L0, sql: &str) -> String {
    texts(&l0.sql(sql, &[]).unwrap()).remove(0).remove(0)
}

/// Records large events until the cap has removed so many rows.
fn flood(l0: &L0, rows: u64) {
    let large = "x".repeat(3_000);
    let mut number = 0;
    while l0.stats().store.removed.rows < rows {
        for _ in 0..200 {
            number += 1;
            l0.record(TelemetryEvent::new("flood").message(large.as_str()).payload(&number));
        }
        assert!(number < 200_000, "nothing is removed: {:?}", l0.stats().store);
    }
    l0.flush().unwrap();
}

fn bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| if entry.path().is_dir() { bytes(&entry.path()) } else { entry.metadata().unwrap().len() })
        .sum()
}

/// A store on a clock that is moved by hand.
fn by_hand(dir: &Path, retention: Retention) -> (L0, ManualClock) {
    let (clock, hand) = Clock::manual(Timestamp::from_unix_ns(1_760_000_000_000_000_000));
    (builder(dir).clock(clock).retention(retention).start().unwrap(), hand)
}

#[test]
fn a_flood_of_lesser_events_leaves_warnings_and_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = small(dir.path());
    with(&l0, || {
        for number in 0..200 {
            let id = format!("order-{number}");
            let request = info_span!("request", correlation_id = id.as_str(), category = "of spans only");
            request.in_scope(|| error!(actor_id = "ada", number, "refused"));
        }
    });
    flood(&l0, 5_000);
    assert_eq!(one(&l0, "SELECT count(*) FROM logs WHERE level = 'error'"), "200");
    assert_eq!(
        one(&l0, "SELECT count(DISTINCT correlation_id) || ' of ' || max(actor_id) FROM logs WHERE level = 'error'"),
        "200 of ada",
        "what they refer to is kept with them"
    );
    assert_eq!(
        one(&l0, "SELECT count(*) || max(category) FROM spans"),
        "1of spans only",
        "the last span stays for its number"
    );
    let numbers = "SELECT count(*) = max(payload) - min(payload) + 1 FROM telemetry_events WHERE event_type = 'flood'";
    assert_eq!(one(&l0, numbers), "1", "from the oldest on, without a hole");
    let maintenance = l0.sql("SELECT sum(rows), sum(freed_bytes) > 0, max(removed_until) > min(removed_from) FROM maintenance WHERE reason = 'cap'", &[]);
    let removed = l0.stats().store.removed;
    assert_eq!(texts(&maintenance.unwrap()), [[removed.rows.to_string(), "1".into(), "1".into()]]);
    assert!(bytes(dir.path()) <= 8 * MIB && l0.stats().store.bytes() <= 8 * MIB, "{:?}", l0.stats().store);
    l0.shutdown(Duration::from_secs(10)).unwrap();
    is_consistent(dir.path());
}

#[test]
fn a_flood_of_warnings_removes_by_age_beyond_its_share() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = small(dir.path());
    with(&l0, || (0..1_000).for_each(|number| info!(number, "before")));
    l0.flush().unwrap();
    let large = "x".repeat(3_000);
    let warn = || {
        (0..200).for_each(|_| l0.record(TelemetryEvent::new("w").severity(Severity::Warning).message(large.as_str())));
        l0.flush().unwrap();
    };
    while l0.stats().store.removed.rows < 1_000 {
        warn();
    }
    assert_eq!(one(&l0, "SELECT count(*) FROM logs"), "0", "they were older");
    let warnings = one(&l0, "SELECT count(*) FROM telemetry_events").parse::<u64>().unwrap();
    assert!(warnings > 1_000, "warnings take what nobody else needs: {warnings}");
    (0..5).for_each(|_| warn());
    l0.shutdown(Duration::from_secs(10)).unwrap();
    is_consistent(dir.path());
}

#[test]
fn names_and_traces_go_with_the_last_row_that_refers_to_them() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = small(dir.path());
    with(&l0, || {
        let padding = "x".repeat(700);
        let long_open = info_span!("long open", tenant_id = "the tenant of the open span");
        for number in 0..24_000 {
            let id = format!("somebody-{number}");
            let span = info_span!("request", correlation_id = id.as_str(), actor_id = id.as_str());
            span.in_scope(|| info!(number, padding, "served"));
            if number % 2_000 == 0 {
                l0.flush().unwrap();
            }
        }
        long_open.in_scope(|| info!("late"));
    });
    l0.flush().unwrap();
    let store = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    let count = |table: &str| -> i64 {
        store.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    let (names, traces, spans) = (count("name"), count("trace"), count("span"));
    assert!(spans < 8_000 && traces <= spans + 1, "{traces} traces for {spans} spans");
    assert!(names < 16_000, "{names} names for {spans} spans");
    assert_eq!(one(&l0, "SELECT tenant_id FROM logs WHERE message = 'late'"), "the tenant of the open span");
    assert_eq!(
        one(&l0, "SELECT state || ' ' || tenant_id FROM spans WHERE name = 'long open'"),
        "closed the tenant of the open span"
    );
    l0.shutdown(Duration::from_secs(10)).unwrap();
    is_consistent(dir.path());
}

#[test]
fn spans_that_never_close_do_not_stop_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = small(dir.path());
    let padding = "x".repeat(2_000);
    with(&l0, || {
        for number in 0..8_000 {
            std::mem::forget(info_span!("leaked", padding = padding.as_str(), number));
            if number % 200 == 0 {
                l0.flush().unwrap();
            }
        }
        info_span!("after").in_scope(|| info!("still recorded"));
    });
    assert_eq!(one(&l0, "SELECT span FROM logs WHERE message = 'still recorded'"), "after");
    assert!(bytes(dir.path()) <= 8 * MIB);
    let leaked =
        one(&l0, "SELECT count(*) FROM spans WHERE name = 'leaked' AND state = 'running'").parse::<u32>().unwrap();
    assert!((1_000..7_000).contains(&leaked), "{leaked}");
    l0.shutdown(Duration::from_secs(10)).unwrap();
    is_consistent(dir.path());
}

#[test]
fn ages_remove_events_and_later_warnings_and_a_dry_run_says_how_many() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, hand) = by_hand(dir.path(), keep().max_age(7 * DAY).max_age_of_warnings(30 * DAY));
    let record = |what: &'static str| {
        with(&l0, || info_span!("work", what).in_scope(|| info!(what, "worked")));
        with(&l0, || error!(what, "failed"));
    };
    record("old");
    hand.advance(5 * DAY);
    record("young");
    assert_eq!((l0.cleanup(true).unwrap().rows, l0.cleanup(false).unwrap().rows), (0, 0));
    hand.advance(3 * DAY);
    let dry = l0.cleanup(true).unwrap();
    assert_eq!(dry.rows, 2, "an event and a span");
    assert!(dry.bytes > 0);
    assert_eq!(one(&l0, "SELECT count(*) FROM logs"), "4", "nothing was removed");
    assert_eq!(l0.cleanup(false).unwrap().rows, 2);
    assert_eq!(
        texts(&l0.sql("SELECT message || ' ' || json_extract(fields, '$.what') FROM logs ORDER BY id", &[]).unwrap())
            .concat(),
        ["failed old", "worked young", "failed young"]
    );
    assert_eq!(one(&l0, "SELECT group_concat(json_extract(payload, '$.what')) FROM spans"), "young");
    hand.advance(23 * DAY);
    assert_eq!(
        l0.cleanup(true).unwrap().rows,
        2,
        "one old warning, one young event; the last span stays for its number"
    );
    l0.cleanup(false).unwrap();
    assert_eq!(one(&l0, "SELECT group_concat(message) FROM logs"), "failed");
    assert_eq!(one(&l0, "SELECT sum(rows) FROM maintenance WHERE reason = 'age'"), "4");
    let summary = l0.summary(60 * DAY).unwrap();
    assert_eq!((summary.events, summary.errors), (4, 2), "what was counted outlives the rows");
    l0.shutdown(Duration::from_secs(10)).unwrap();
    is_consistent(dir.path());
}

#[test]
fn without_an_age_of_their_own_warnings_have_that_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, hand) = by_hand(dir.path(), keep().max_age(HOUR));
    with(&l0, || error!("failed"));
    hand.advance(2 * HOUR);
    assert_eq!(l0.cleanup(true).unwrap().rows, 1);
    assert_eq!(l0.cleanup(false).unwrap().rows, 1);
}

#[test]
fn ages_are_looked_at_when_a_program_ends_and_not_while_time_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, hand) = by_hand(dir.path(), keep().max_age(DAY));
    with(&l0, || info!("one"));
    l0.flush().unwrap();
    hand.set_wall(Timestamp::from_unix_ns(1_770_000_000_000_000_000));
    with(&l0, || info!("two"));
    l0.shutdown(Duration::from_secs(10)).unwrap();
    let count = || Reader::open(dir.path()).unwrap().logs().fetch().unwrap().items.len();
    assert_eq!(count(), 2, "116 days passed on one clock only");

    let (clock, hand) = Clock::manual(Timestamp::from_unix_ns(1_770_000_000_000_000_000));
    let l0 = builder(dir.path()).clock(clock).retention(keep().max_age(DAY)).start().unwrap();
    hand.advance(HOUR);
    l0.shutdown(Duration::from_secs(10)).unwrap();
    assert_eq!(count(), 1, "this run sees no difference between its clocks");
}

#[test]
fn rows_of_the_far_future_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hand) = Clock::manual(Timestamp::from_unix_ns(4_000_000_000_000_000_000));
    let retention = keep().max_bytes(8 * MIB);
    let l0 = builder(dir.path()).clock(clock).retention(retention).overload(Overload::Block(DAY)).start().unwrap();
    let large = "x".repeat(3_000);
    with(&l0, || {
        for _ in 0..700 {
            info_span!("in the future", large).in_scope(|| info!("in the future"));
            error!(large, "in the future");
        }
    });
    l0.flush().unwrap();
    hand.set_wall(Timestamp::from_unix_ns(1_760_000_000_000_000_000));
    with(&l0, || info!("now"));
    flood(&l0, 1);
    let count = || one(&l0, "SELECT count(*) FROM logs WHERE message = 'in the future'").parse::<u32>().unwrap();
    assert!(count() < 1_400, "{}", count());
    assert_eq!(one(&l0, "SELECT count(*) FROM logs WHERE message = 'now'"), "1");
    flood(&l0, 5_000);
    assert_eq!(count(), 0);
    assert_eq!(one(&l0, "SELECT count(*) FROM spans"), "1");
    is_consistent(dir.path());
}

#[test]
fn a_reader_that_pins_the_wal_makes_records_wait_and_then_be_shed_for_that() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).retention(keep().max_bytes(8 * MIB)).start().unwrap();
    l0.record(TelemetryEvent::new("first"));
    l0.flush().unwrap();
    let reader = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM run").unwrap();
    let large = "x".repeat(3_000);
    wait_for("records to be shed for the reader", || {
        (0..100).for_each(|_| l0.record(TelemetryEvent::new("n").message(large.as_str())));
        l0.stats().shed_by.iter().any(|(reason, ..)| *reason == "reader_pins_wal")
    });
    assert!(fs::metadata(dir.path().join("telemetry.db-wal")).unwrap().len() <= MIB, "an eighth of the cap");
    let error = l0.flush().unwrap_err();
    assert!(error.is_storage() && error.to_string().contains("a reader has kept its snapshot"), "{error}");
    assert!(l0.events().fetch().unwrap().incomplete.is_some(), "questions are answered from what is committed");
    // It does not stop another start.
    let second = builder(dir.path()).retention(keep().max_bytes(8 * MIB)).start().unwrap();
    drop(second);
    reader.execute_batch("COMMIT").unwrap();
    wait_for("the store to go on", || l0.flush().is_ok());
    let stats = l0.stats();
    assert_eq!(stats.recorded, stats.stored + stats.shed, "{stats:?}");
    assert!(one(&l0, "SELECT sum(shed) FROM runs") != "0");
    is_consistent(dir.path());
}

#[test]
fn a_lower_cap_holds_from_the_start_and_the_newest_stay() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).overload(Overload::Block(DAY)).start().unwrap();
    let large = "x".repeat(3_000);
    for number in 0..8_000 {
        l0.record(TelemetryEvent::new("n").message(large.as_str()).payload(&number));
    }
    l0.shutdown(Duration::from_secs(30)).unwrap();
    assert!(bytes(dir.path()) > 24 * MIB);
    let l0 = small(dir.path());
    assert!(bytes(dir.path()) <= 8 * MIB, "{} bytes", bytes(dir.path()));
    assert_eq!(one(&l0, "SELECT max(payload) FROM telemetry_events"), "7999");
    let kept = one(&l0, "SELECT count(*) FROM telemetry_events").parse::<u32>().unwrap();
    assert!((500..2_000).contains(&kept), "{kept}");
    let returned =
        one(&l0, "SELECT sum(returned_bytes) FROM maintenance WHERE reason = 'shrink'").parse::<u64>().unwrap();
    assert!(returned > 16 * MIB, "{returned}");
    is_consistent(dir.path());
}

#[test]
fn the_last_start_decides_for_all_processes() {
    let dir = tempfile::tempdir().unwrap();
    let large =
        builder(dir.path()).retention(keep().max_bytes(64 * MIB)).overload(Overload::Block(DAY)).start().unwrap();
    let lower = small(dir.path());
    flood(&large, 1);
    assert_eq!(large.stats().store.max_bytes, 8 * MIB);
    assert!(large.stats().store.database_bytes < 8 * MIB);
    drop((large, lower));
    l0::recover(dir.path()).unwrap();
    let stored = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    let cap: i64 = stored.query_row("SELECT max_bytes FROM retention", [], |row| row.get(0)).unwrap();
    assert_eq!(cap, 8 << 20, "who only recovers says nothing");
}

#[test]
fn flight_files_have_their_share_and_late_comers_do_without() {
    let dir = tempfile::tempdir().unwrap();
    let owners: Vec<_> = (0..6).map(|_| small(dir.path())).collect();
    let in_files = bytes(&dir.path().join("flight"));
    assert!(in_files <= 2 * MIB, "{in_files}");
    let durability: Vec<_> = owners.iter().map(|l0| l0.stats().durability).collect();
    assert!(durability[0].contains("a power loss loses"), "{durability:?}");
    assert!(durability[5].contains("restart of the machine"), "{durability:?}");
    let log = owners[5].events().event_type("l0.flight").fetch().unwrap();
    assert!(log.items[0].message.contains("max_bytes leaves no room"), "{log:?}");
    assert!(bytes(dir.path()) <= 8 * MIB);
}

#[test]
fn while_the_disk_is_low_the_store_does_not_grow_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    // No disk has that much.
    let retention = keep().max_bytes(64 * MIB).min_free_disk(u64::MAX);
    let l0 = builder(dir.path()).retention(retention).overload(Overload::Block(DAY)).start().unwrap();
    flood(&l0, 3_000);
    let database = l0.stats().store.database_bytes;
    assert!((2 * MIB..=4 * MIB).contains(&database), "{database}");
    l0.shutdown(Duration::from_secs(10)).unwrap();

    // What was there before stays.
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).overload(Overload::Block(DAY)).start().unwrap();
    let large = "x".repeat(3_000);
    (0..4_000).for_each(|_| l0.record(TelemetryEvent::new("before").message(large.as_str())));
    l0.shutdown(Duration::from_secs(30)).unwrap();
    let before = fs::metadata(dir.path().join("telemetry.db")).unwrap().len();
    let l0 = builder(dir.path()).retention(keep().min_free_disk(u64::MAX)).start().unwrap();
    assert_eq!(l0.events().event_type("before").count().unwrap(), 4_000);
    l0.shutdown(Duration::from_secs(10)).unwrap();
    assert_eq!(fs::metadata(dir.path().join("telemetry.db")).unwrap().len(), before);
}

#[test]
fn compaction_gives_free_pages_back_beside_recording() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, hand) = by_hand(dir.path(), keep().max_age(DAY));
    let large = "x".repeat(3_000);
    (0..4_000).for_each(|_| l0.record(TelemetryEvent::new("old").message(large.as_str())));
    hand.advance(2 * DAY);
    l0.record(TelemetryEvent::new("new"));
    let cleanup = l0.cleanup(false).unwrap();
    assert_eq!((cleanup.rows, cleanup.returned_bytes), (4_000, 0));
    let before = fs::metadata(dir.path().join("telemetry.db")).unwrap().len();
    assert!(l0.stats().store.database_bytes > 10 * MIB);
    let compacted = l0.compact().unwrap();
    assert!(compacted.returned_bytes > 10 * MIB, "{compacted}");
    let after = fs::metadata(dir.path().join("telemetry.db")).unwrap().len();
    assert!(before > 10 * MIB && after < MIB, "{before} {after}");
    assert_eq!(l0.compact().unwrap().returned_bytes, 0);
    l0.record(TelemetryEvent::new("newer"));
    assert_eq!(l0.events().count().unwrap(), 2);
    is_consistent(dir.path());
}

#[test]
fn rollups_keep_to_their_tenth_and_the_newest_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, hand) = by_hand(dir.path(), keep().max_bytes(8 * MIB));
    for minute in 0..300 {
        for kind in 0..60 {
            let millis = Duration::from_millis(1 + minute * kind % 977);
            l0.record(TelemetryEvent::new(format!("kind-{kind}")).duration(millis));
        }
        hand.advance(Duration::from_secs(60));
        l0.flush().unwrap();
    }
    let store = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    let size = || -> (i64, i64, i64) {
        let sql = "SELECT (SELECT sum(rollup_bytes) FROM run), (SELECT sum(48 + ifnull(octet_length(durations), 0)) FROM rollup),
                          (SELECT count(*) FROM rollup WHERE period = 60)";
        store.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
    };
    let (counted, real, minutes) = size();
    assert_eq!(counted, real, "the size is known without looking");
    assert_eq!(minutes, 300 * 60);
    l0.cleanup(false).unwrap();
    let (counted, real, minutes) = size();
    assert_eq!(counted, real);
    assert!(real <= 8 * MIB as i64 / 10 && minutes < 300 * 60, "{real} bytes, {minutes} rows");
    assert!(minutes >= 119 * 60, "two hours stay by the minute: {minutes}");
    assert_eq!(l0.summary(24 * HOUR).unwrap().events, 18_000, "hours know the rest");
    hand.advance(3 * DAY);
    l0.cleanup(false).unwrap();
    assert_eq!(size().2, 0, "minutes are kept for two days");
    assert_eq!(l0.summary(7 * DAY).unwrap().events, 18_000);
    is_consistent(dir.path());
}

#[test]
fn very_many_runs_are_not_kept_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    builder(dir.path()).retention(keep().max_bytes(8 * MIB)).start().unwrap().shutdown(HOUR).unwrap();
    let store = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    store
        .execute_batch(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
             INSERT INTO run (uuid, boot, pid, process_started, started_at, ended_at, outcome, warning_bytes)
             SELECT randomblob(16), x'00', 1, 1, i, i, 'killed', 1 FROM n;
             INSERT INTO shed SELECT id, 60, 'buffer_full', 2, 1 FROM run",
        )
        .unwrap();
    let l0 = small(dir.path());
    l0.cleanup(false).unwrap();
    assert!(one(&l0, "SELECT count(*) FROM runs").parse::<u32>().unwrap() < 4_000);
    let count = |sql: &str| store.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT sum(warning_bytes) FROM run"), 20_000, "what they counted is still counted");
    assert_eq!(count("SELECT count(*) FROM shed WHERE run NOT IN (SELECT id FROM run)"), 0);
}

#[test]
fn an_audit_that_is_full_refuses_and_says_so_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).retention(keep().max_audit_bytes(MIB)).start().unwrap();
    let mut audited = 0;
    let error = loop {
        match l0.audit(TelemetryEvent::new("refund").message("x".repeat(20_000))) {
            Ok(()) => audited += 1,
            Err(error) => break error,
        }
        assert!(audited < 100);
    };
    assert!(error.is_storage() && error.to_string().contains("max_audit_bytes"), "{error}");
    assert_eq!(l0.events().event_type("l0.audit").count().unwrap(), 1);
    assert_eq!(l0.events().event_type("refund").count().unwrap(), audited);
    assert!((40..60).contains(&audited), "by what was audited, not by what its WAL takes: {audited}");
    drop(l0);
    let l0 = builder(dir.path()).start().unwrap();
    l0.audit(TelemetryEvent::new("refund")).unwrap();
}

#[test]
fn generations_end_once_in_the_life_of_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = small(dir.path());
    let generations = || {
        let store = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
        let sql = "SELECT row_generation, warning_generation FROM retention";
        store.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).unwrap()
    };
    assert_eq!(generations(), (2, 2));
    (0..5).for_each(|_| _ = l0.cleanup(false).unwrap());
    assert_eq!(generations(), (2, 2), "nothing was there");
    flood(&l0, 6_000);
    let (rows, warnings) = generations();
    let kept = one(&l0, "SELECT count(*) FROM telemetry_events").parse::<i64>().unwrap();
    assert!((3..=3 + 6_000 / kept + 1).contains(&rows), "{rows} for {kept} rows at a time");
    assert_eq!(warnings, 2);
}

#[test]
fn a_name_and_a_trace_that_went_come_back_with_their_next_use() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = small(dir.path());
    let once = |what: &'static str| {
        with(&l0, || info!(correlation_id = "order-9", actor_id = "ada", category = "shop", what, "used"));
        l0.flush().unwrap();
    };
    once("first");
    for _ in 0..3 {
        let removed = l0.stats().store.removed.rows;
        flood(&l0, removed + 3_000);
    }
    once("second");
    assert_eq!(
        texts(&l0.sql("SELECT correlation_id, actor_id, category, fields ->> 'what' FROM logs", &[]).unwrap()),
        [["order-9", "ada", "shop", "second"]]
    );
    assert_eq!(l0.trace("order-9").unwrap().unwrap().all_events().len(), 1);
    l0.shutdown(Duration::from_secs(10)).unwrap();
    is_consistent(dir.path());
}

#[test]
fn a_lower_cap_holds_without_a_flight_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).overload(Overload::Block(DAY)).start().unwrap();
    let large = "x".repeat(3_000);
    (0..6_000).for_each(|_| l0.record(TelemetryEvent::new("n").message(large.as_str())));
    l0.shutdown(Duration::from_secs(30)).unwrap();
    assert!(bytes(dir.path()) > 18 * MIB);
    let retention = keep().max_bytes(8 * MIB);
    let _l0 = builder(dir.path()).retention(retention).flight(l0::Flight::Off).start().unwrap();
    assert!(bytes(dir.path()) <= 8 * MIB, "{} bytes", bytes(dir.path()));
}

#[test]
fn a_trace_that_went_while_all_names_stayed_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, hand) = by_hand(dir.path(), keep().max_age_of_warnings(DAY));
    let once = || with(&l0, || error!(correlation_id = "order-9", "used"));
    with(&l0, || info!("stays"));
    assert_eq!(l0.cleanup(false).unwrap().rows, 0);
    once();
    hand.advance(2 * DAY);
    assert_eq!(l0.cleanup(false).unwrap().rows, 1);
    once();
    assert_eq!(l0.trace("order-9").unwrap().unwrap().all_events().len(), 1);
    is_consistent(dir.path());
}

#[test]
fn a_step_that_was_cut_short_goes_on_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let builder = builder(dir.path()).retention(keep().max_bytes(8 * MIB)).commit_every(Duration::from_secs(4));
    let l0 = builder.overload(Overload::Block(DAY)).start().unwrap();
    l0.record(TelemetryEvent::new("first"));
    l0.flush().unwrap();
    let blocker = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Several transactions' worth; nobody flushes. With one of them in every interval it would take longer than is waited.
    (0..1_000).for_each(|number| l0.record(TelemetryEvent::new("n").message("x".repeat(200)).payload(&number)));
    blocker.execute_batch("COMMIT").unwrap();
    wait_for("everything to be stored", || l0.stats().stored == 1_001);
    assert!(l0.stats().commits > 2, "{:?}", l0.stats());
}

#[test]
fn a_dry_run_of_one_program_changes_nothing_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let first = small(dir.path());
    let retention = keep().max_bytes(64 * MIB);
    let second = builder(dir.path()).retention(retention).overload(Overload::Block(DAY)).start().unwrap();
    let large = "x".repeat(3_000);
    (0..4_000).for_each(|_| second.record(TelemetryEvent::new("n").message(large.as_str())));
    second.flush().unwrap();
    assert_eq!(first.cleanup(true).unwrap().rows, 0);
    assert_eq!(first.cleanup(false).unwrap().rows, 0);
    assert_eq!(second.events().event_type("n").count().unwrap(), 4_000);
    second.record(TelemetryEvent::new("last"));
    second.flush().unwrap();
    assert_eq!(second.stats().store.max_bytes, 64 * MIB);
}

#[test]
fn a_clock_that_jumps_ahead_and_back_costs_no_summary() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, hand) = by_hand(dir.path(), keep().max_age(7 * DAY));
    with(&l0, || (0..10).for_each(|_| info_span!("work").in_scope(|| error!("failed"))));
    let now = l0.summary(HOUR).unwrap();
    hand.set_wall(Timestamp::from_unix_ns(1_760_000_000_000_000_000).saturating_add(500 * DAY));
    assert_eq!((l0.cleanup(true).unwrap().rows, l0.cleanup(false).unwrap().rows), (0, 0));
    hand.set_wall(Timestamp::from_unix_ns(1_760_000_000_000_000_000).saturating_add(Duration::from_secs(1)));
    let then = l0.summary(HOUR).unwrap();
    assert_eq!((then.events, then.errors, then.slowest.len()), (now.events, 10, now.slowest.len()));
}

#[test]
fn a_flight_file_from_a_higher_cap_costs_no_rows() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).overload(Overload::Block(DAY)).start().unwrap();
    let large = "x".repeat(3_000);
    (0..1_000).for_each(|_| l0.record(TelemetryEvent::new("n").message(large.as_str())));
    l0.flush().unwrap();
    let file = fs::read_dir(dir.path().join("flight")).unwrap().next().unwrap().unwrap().path();
    let bytes_left = fs::read(&file).unwrap();
    let name = file.file_name().unwrap().to_owned();
    l0.shutdown(Duration::from_secs(10)).unwrap();
    fs::create_dir_all(dir.path().join("flight")).unwrap();
    fs::write(dir.path().join("flight").join(name), bytes_left).unwrap();
    let l0 = small(dir.path());
    assert_eq!(l0.events().event_type("n").count().unwrap(), 1_000);
    assert!(bytes(dir.path()) <= 8 * MIB);
}

#[test]
fn two_writers_are_no_reader_that_pins_the_wal() {
    let dir = tempfile::tempdir().unwrap();
    let owners = [small(dir.path()), small(dir.path())];
    std::thread::scope(|scope| {
        for l0 in &owners {
            scope.spawn(move || {
                for number in 0..20_000 {
                    l0.record(TelemetryEvent::new("n").message("x".repeat(300)).payload(&number));
                    if number % 1_000 == 0 {
                        l0.flush().unwrap();
                    }
                }
                l0.flush().unwrap();
            });
        }
    });
    for l0 in &owners {
        assert_eq!((l0.stats().stored, l0.stats().shed), (20_000, 0), "{:?}", l0.stats());
    }
    is_consistent(dir.path());
}

#[test]
fn names_that_outnumber_the_rows_leave_room_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = small(dir.path());
    with(&l0, || {
        for number in 0..16_000 {
            let [tenant, actor, kind] = ["tenant", "actor", "kind"].map(|what| format!("{what}-{number}"));
            let (tenant, actor, kind) = (tenant.as_str(), actor.as_str(), kind.as_str());
            tracing::warn!(
                tenant_id = tenant,
                actor_id = actor,
                event_type = kind,
                category = kind,
                status = kind,
                "named"
            );
            if number % 1_000 == 0 {
                l0.flush().unwrap();
            }
        }
    });
    l0.flush().unwrap();
    let store = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    let count = |sql: &str| store.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let (warnings, names) = (count("SELECT count(*) FROM warning"), count("SELECT count(*) FROM name"));
    // Each has three of its own, of two generations; series have some more.
    assert!(warnings > 2_000 && names < 3 * 2 * warnings + 6_000, "{names} names for {warnings} warnings");
    is_consistent(dir.path());
}
