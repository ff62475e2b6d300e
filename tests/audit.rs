//! Audit: on the disk when it returns, never changed, part of every answer.

mod support;

use std::{process::Command, sync::Barrier, thread, time::Duration};

use l0::{
    Severity, TelemetryEvent,
    correlation::{self, CorrelationId},
    query::{Reader, Total},
};
use support::{builder, store, texts};

/// The program that audits and is killed: this very test, as a child.
#[test]
fn what_was_audited_survives_a_kill_without_a_flight_recorder() {
    if let Some(dir) = std::env::var_os("L0_AUDIT_CHILD") {
        let l0 = builder(dir.as_ref()).flight(l0::Flight::Off).start().unwrap();
        for n in 0..20 {
            l0.audit(TelemetryEvent::new("refund").payload(&serde_json::json!({ "n": n }))).unwrap();
        }
        // SAFETY of the test: the process ends here, as by `kill -9`.
        let pid = std::process::id().to_string();
        let _ = Command::new("kill").args(["-9", &pid]).status();
        unreachable!("killed");
    }
    let dir = tempfile::tempdir().unwrap();
    let name = "what_was_audited_survives_a_kill_without_a_flight_recorder";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("L0_AUDIT_CHILD", dir.path())
        .output()
        .unwrap();
    #[cfg(unix)]
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.status), Some(9), "{child:?}");
    assert!(!child.status.success());
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(reader.events().event_type("refund").count().unwrap(), 20);
    assert_eq!(reader.events().field("n", 19).count().unwrap(), 1);
}

#[test]
fn audits_are_among_events_in_their_order_with_every_filter() {
    let store = store();
    store.l0.record(TelemetryEvent::new("first"));
    store.l0.flush().unwrap();
    let id: CorrelationId = "order-9".parse().unwrap();
    let event = TelemetryEvent::new("refund")
        .source("billing")
        .severity(Severity::Error)
        .category("money")
        .correlation_id(id)
        .tenant_id("acme")
        .actor_id("u-17")
        .message("refunded order 9")
        .status("ok")
        .duration(Duration::from_millis(5))
        .payload(&serde_json::json!({ "cents": 1250 }));
    store.l0.audit(event).unwrap();
    store.l0.record(TelemetryEvent::new("last"));
    let events = || store.l0.events();
    for (name, question) in [
        ("event_type", events().event_type("refund")),
        ("source", events().source("billing")),
        ("severity", events().at_least(Severity::Error)),
        ("category", events().category("money")),
        ("correlation", events().correlation_id("order-9")),
        ("tenant", events().tenant_id("acme")),
        ("actor", events().actor_id("u-17")),
        ("message", events().message("order 9")),
        ("status", events().status("ok")),
        ("field", events().field("cents", 1250)),
        ("last", events().last(Duration::from_secs(60)).event_type("refund")),
    ] {
        let page = question.clone().fetch().unwrap();
        assert_eq!((page.items.len(), page.total), (1, Total::Exactly(1)), "{name}");
        let row = &page.items[0];
        assert!(row.is_audit() && row.id < 0);
        assert_eq!(row.duration, Some(Duration::from_millis(5)));
        assert_eq!(question.count().unwrap(), 1, "{name}");
    }
    assert_eq!(events().source("elsewhere").count().unwrap(), 0);
    let types: Vec<String> = events().fetch().unwrap().items.into_iter().map(|row| row.event_type).collect();
    assert_eq!(types, ["last", "refund", "first"]);
    // One row a page, in both directions.
    for ascending in [false, true] {
        let question = || if ascending { events().oldest_first().limit(1) } else { events().limit(1) };
        let mut seen = Vec::new();
        let mut page = question().fetch().unwrap();
        loop {
            seen.push(page.items[0].event_type.clone());
            let Some(next) = page.next else { break };
            page = question().after(&next.to_string().parse().unwrap()).fetch().unwrap();
        }
        let mut expected = types.clone();
        if ascending {
            expected.reverse();
        }
        assert_eq!(seen, expected);
    }
    let trace = store.l0.trace("order-9").unwrap().unwrap();
    assert_eq!((trace.spans.len(), trace.events.len()), (0, 1));
    assert_eq!(store.l0.logs().fetch().unwrap().items.len(), 0);
    let table = store.l0.sql("SELECT event_type, severity, actor_id, duration_ms FROM audit_events", &[]).unwrap();
    assert_eq!(texts(&table), [["refund", "error", "u-17", "5"]]);
}

#[test]
fn audits_cannot_be_changed_and_of_one_nanosecond_all_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, _hand) = l0::Clock::manual(l0::Timestamp::from_unix_ns(1_700_000_000_000_000_000));
    let l0 = builder(dir.path()).clock(clock).start().unwrap();
    for n in 0..50 {
        l0.audit(TelemetryEvent::new("grant").payload(&n)).unwrap();
    }
    assert_eq!(l0.events().event_type("grant").count().unwrap(), 50);
    let connection = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    for sql in ["UPDATE audit SET message = 'x'", "DELETE FROM audit"] {
        assert!(connection.execute_batch(sql).unwrap_err().to_string().contains("append-only"));
    }
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn many_threads_audit_at_once_and_nothing_is_lost() {
    let store = store();
    let start = Barrier::new(16);
    thread::scope(|scope| {
        for worker in 0..16 {
            let (l0, start) = (&store.l0, &start);
            scope.spawn(move || {
                start.wait();
                for n in 0..25 {
                    let id: CorrelationId = format!("w{worker}").parse().unwrap();
                    let _scope = correlation::enter(id);
                    l0.audit(TelemetryEvent::new("grant").payload(&serde_json::json!({ "n": n }))).unwrap();
                }
            });
        }
    });
    assert_eq!(store.l0.events().event_type("grant").count().unwrap(), 400);
    for worker in 0..16 {
        assert_eq!(store.l0.trace(&format!("w{worker}")).unwrap().unwrap().events.len(), 25);
    }
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_and_telemetry_goes_on() {
    let store = store();
    // A directory stands where the database should be.
    std::fs::create_dir(store.dir.path().join("state.db")).unwrap();
    let error = store.l0.audit(TelemetryEvent::new("grant")).unwrap_err();
    assert!(error.is_storage() && error.to_string().contains("state.db"), "{error}");
    store.l0.record(TelemetryEvent::new("goes on"));
    assert_eq!(store.l0.events().count().unwrap(), 1);
    std::fs::remove_dir(store.dir.path().join("state.db")).unwrap();
    store.l0.audit(TelemetryEvent::new("grant")).unwrap();
    assert_eq!(store.l0.events().count().unwrap(), 2);
}

#[test]
fn a_database_of_someone_else_or_of_later_is_refused_and_not_read() {
    for (sql, hint) in [("CREATE TABLE x (y)", "another program"), ("PRAGMA user_version = 999", "schema 999")] {
        let store = store();
        if hint.contains("999") {
            store.l0.audit(TelemetryEvent::new("grant")).unwrap();
        }
        let state = store.dir.path().join("state.db");
        rusqlite::Connection::open(&state).unwrap().execute_batch(sql).unwrap();
        let other = builder(store.dir.path()).start().unwrap();
        let error = other.audit(TelemetryEvent::new("grant")).unwrap_err();
        assert!(error.is_storage() && error.to_string().contains(hint), "{error}");
        let page = other.events().event_type("grant").fetch().unwrap();
        assert!(
            page.items.is_empty() && page.incomplete.unwrap().contains("state.db"),
            "the answer says what it lacks"
        );
    }
}

#[test]
fn after_the_end_it_is_closed() {
    let store = store();
    store.l0.audit(TelemetryEvent::new("grant")).unwrap();
    let handle = store.l0.clone();
    store.l0.shutdown(Duration::from_secs(5)).unwrap();
    assert!(handle.audit(TelemetryEvent::new("grant")).unwrap_err().is_closed());
    assert!(!store.dir.path().join("state.db-wal").exists(), "one file that can be copied");
    assert_eq!(Reader::open(store.dir.path()).unwrap().events().count().unwrap(), 1);
}

#[test]
fn who_asks_while_state_db_is_made_sees_it_when_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    // Its file is there, and nothing in it yet.
    std::fs::File::create(dir.path().join("state.db")).unwrap();
    let before = l0.events().fetch().unwrap();
    assert_eq!((before.items.len(), before.incomplete), (0, None));
    assert_eq!(l0::jobs::JobReader::open(dir.path()).list().fetch().unwrap().items.len(), 0);
    let queue = l0::jobs::SqliteQueue::open(dir.path(), l0::Durability::Normal).unwrap();
    assert_eq!(l0::jobs::JobQueue::counts(&queue).unwrap(), [], "nothing is in it, and that is no fault");
    l0.audit(TelemetryEvent::new("refund")).unwrap();
    let after = l0.events().event_type("refund").fetch().unwrap();
    assert_eq!((after.items.len(), after.incomplete), (1, None));
    assert!(l0.sql("SELECT * FROM health", &[]).is_ok());
}
