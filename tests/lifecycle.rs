//! Beginning, flushing, ending: what is promised to the program around it.

mod support;

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use l0::{Clock, Flight, Overload, Severity, TelemetryEvent, Timestamp, query::Reader};
use support::{builder, store, texts, wait_for};
use tracing::{Dispatch, error, info, info_span};
use tracing_subscriber::prelude::*;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn shutdown_stores_everything_and_removes_the_flight_file() {
    let store = store();
    store.record(|| {
        let span = info_span!("open at the end");
        span.in_scope(|| info!("last words"));
        std::mem::forget(span);
    });
    let handle = store.l0.clone();
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(store.l0.layer()));
    store.l0.shutdown(SOON).unwrap();
    assert_eq!(std::fs::read_dir(store.dir.path().join("flight")).unwrap().count(), 0);
    let reader = Reader::open(store.dir.path()).unwrap();
    assert_eq!(
        texts(&reader.sql("SELECT outcome, stored, ended_at >= started_at FROM runs", &[]).unwrap()),
        [["clean", "2", "1"]]
    );
    assert_eq!(texts(&reader.sql("SELECT state FROM spans", &[]).unwrap()), [["interrupted"]]);

    tracing::dispatcher::with_default(&dispatch, || info!("too late"));
    handle.record(TelemetryEvent::new("too.late"));
    let stats = handle.stats();
    assert_eq!((stats.recorded, stats.stored, stats.shed, stats.ignored), (2, 2, 0, 2));
    assert!(handle.flush().unwrap_err().is_closed());
    assert_eq!(handle.events().count().unwrap(), 1, "questions are answered from what is there");
}

#[test]
fn dropping_a_started_owner_shuts_down() {
    let store = store();
    store.record(|| info!("kept"));
    drop(store.l0);
    let reader = Reader::open(store.dir.path()).unwrap();
    assert_eq!(texts(&reader.sql("SELECT outcome, stored FROM runs", &[]).unwrap()), [["clean", "1"]]);
}

#[test]
fn an_owner_dropped_by_a_panic_ends_the_run_as_panicked() {
    let store = store();
    let dir = store.dir;
    let l0 = store.l0;
    let outcome = std::thread::spawn(move || {
        let _l0 = l0;
        std::panic::resume_unwind(Box::new("as planned"));
    });
    assert!(outcome.join().is_err());
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(texts(&reader.sql("SELECT outcome FROM runs", &[]).unwrap()), [["panicked"]]);
}

#[test]
fn flush_covers_what_other_threads_recorded_before_it() {
    let store = store();
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (sender, handle) = (sender.clone(), store.l0.clone());
            scope.spawn(move || {
                for number in 0..500 {
                    handle.record(TelemetryEvent::new("n").payload(&number));
                    sender.send(()).unwrap();
                }
            });
        }
        drop(sender);
        let reader = Reader::open(store.dir.path()).unwrap();
        let mut known = 0;
        while receiver.recv().is_ok() {
            known += 1;
            if known % 100 == 0 {
                store.l0.flush().unwrap();
                let stored = reader.events().count().unwrap();
                assert!(stored >= known, "{known} records had returned, the flush stored {stored}");
            }
        }
    });
    let stats = store.l0.stats();
    assert_eq!(stats.recorded, 2_000);
    store.l0.flush().unwrap();
    assert_eq!((store.l0.stats().stored, store.l0.stats().shed), (2_000, 0));
}

#[test]
fn concurrent_flushes_share_commits() {
    let store = store();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let handle = store.l0.clone();
            scope.spawn(move || {
                for _ in 0..50 {
                    handle.record(TelemetryEvent::new("n"));
                    handle.flush().unwrap();
                }
            });
        }
    });
    let stats = store.l0.stats();
    assert_eq!(stats.stored, 400);
    assert!(stats.commits < 400, "{} commits for 400 flushes", stats.commits);
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn flush_async_completes_on_any_executor() {
    let store = store();
    store.l0.record(TelemetryEvent::new("n"));
    let flag = Arc::new(Flag(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&flag));
    let mut flush = pin!(store.l0.flush_async());
    loop {
        match flush.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => break outcome.unwrap(),
            Poll::Pending => wait_for("the waker", || flag.0.swap(false, Ordering::AcqRel)),
        }
    }
    assert_eq!(Reader::open(store.dir.path()).unwrap().events().count().unwrap(), 1);
}

#[test]
fn a_record_is_committed_within_the_interval_without_any_flush() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).commit_every(Duration::from_millis(20)).start().unwrap();
    let reader = Reader::open(dir.path()).unwrap();
    for round in 1..=5 {
        l0.record(TelemetryEvent::new("n"));
        wait_for("the commit", || reader.events().count().unwrap() == round);
    }
}

#[test]
fn pressure_commits_before_the_interval() {
    let store = store();
    let reader = Reader::open(store.dir.path()).unwrap();
    for _ in 0..400 {
        store.l0.record(TelemetryEvent::new("n").message("x".repeat(2_000)));
    }
    wait_for("the commit under pressure", || reader.events().count().unwrap() > 0);
}

#[test]
fn overload_sheds_the_newest_counts_it_and_keeps_the_reserve_for_errors() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).buffer_bytes(256 << 10).start().unwrap();
    // Another connection holds the database: nothing can be committed, the lane fills.
    let blocker = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let subscriber = tracing_subscriber::registry().with(l0.layer());
    tracing::subscriber::with_default(subscriber, || {
        while l0.stats().shed < 100 {
            info!(padding = "x".repeat(500), "info");
        }
        let shed = l0.stats().shed;
        for _ in 0..20 {
            error!("error");
        }
        assert_eq!(l0.stats().shed, shed, "the last eighth took the errors");
    });
    blocker.execute_batch("ROLLBACK").unwrap();
    wait_for("the store to heal", || l0.flush().is_ok());
    let stats = l0.stats();
    assert_eq!(stats.recorded, stats.stored + stats.shed);
    assert_eq!(stats.shed_by, [("buffer_full", Severity::Info, stats.shed)]);
    assert_eq!(l0.events().at_least(Severity::Error).count().unwrap(), 20);
    let stored = texts(&l0.sql("SELECT shed FROM runs", &[]).unwrap());
    assert_eq!(stored, [[stats.shed.to_string()]], "the loss is a row");
}

#[test]
fn overload_block_waits_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let l0 =
        builder(dir.path()).buffer_bytes(256 << 10).overload(Overload::Block(Duration::from_secs(60))).start().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let handle = l0.clone();
            scope.spawn(move || {
                for _ in 0..5_000 {
                    handle.record(TelemetryEvent::new("n").message("x".repeat(200)));
                }
            });
        }
    });
    l0.flush().unwrap();
    assert_eq!((l0.stats().stored, l0.stats().shed), (15_000, 0));
    assert!(l0.stats().commits > 5, "the lane was full more than once");
}

#[test]
fn overload_block_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let bound = Duration::from_millis(20);
    let l0 = builder(dir.path()).buffer_bytes(256 << 10).overload(Overload::Block(bound)).start().unwrap();
    let blocker = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    while l0.stats().shed == 0 {
        l0.record(TelemetryEvent::new("n").message("x".repeat(10_000)));
    }
    let started = Instant::now();
    l0.record(TelemetryEvent::new("n").message("x".repeat(10_000)));
    assert!(started.elapsed() >= bound, "it waited for room");
    blocker.execute_batch("ROLLBACK").unwrap();
}

#[test]
fn a_failed_transaction_is_undone_and_tried_again() {
    let store = store();
    let blocker = rusqlite::Connection::open(store.dir.path().join("telemetry.db")).unwrap();
    store.record(|| {
        let span = info_span!("over the failure", step = 1).entered();
        store.l0.flush().unwrap();
        blocker.execute_batch("CREATE TRIGGER refuse BEFORE INSERT ON warning BEGIN SELECT json('{no'); END").unwrap();
        span.record("step", 2);
        info!("between");
        info_span!("born in the failure").in_scope(|| error!(new_name = "n", category = "new", "refused"));
        drop(span);
        assert!(store.l0.flush().unwrap_err().is_storage());
        assert!(store.l0.stats().last_error.is_some());
        blocker.execute_batch("DROP TRIGGER refuse").unwrap();
    });
    wait_for("the store to heal", || store.l0.flush().is_ok());
    assert!(store.l0.stats().last_error.is_none());
    assert_eq!(
        store.ask("SELECT name, state, payload, errors FROM spans ORDER BY id"),
        [["over the failure", "closed", r#"{"step":2}"#, "0"], ["born in the failure", "closed", "{}", "1"]]
    );
    assert_eq!(store.ask("SELECT message, category FROM logs ORDER BY id"), [["between", "NULL"], ["refused", "new"]]);
    let stats = store.l0.stats();
    assert_eq!((stats.recorded, stats.stored, stats.shed), (4, 4, 0));
}

#[test]
fn several_processes_and_several_owners_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let owners: Vec<_> = (0..3).map(|_| builder(dir.path()).start().unwrap()).collect();
    std::thread::scope(|scope| {
        for l0 in &owners {
            let handle: l0::Handle = (*l0).clone();
            scope.spawn(move || {
                for number in 0..300 {
                    handle.record(TelemetryEvent::new("n").payload(&number));
                    if number % 50 == 0 {
                        handle.flush().unwrap();
                    }
                }
                handle.flush().unwrap();
            });
        }
    });
    assert_eq!(owners[0].events().count().unwrap(), 900);
    assert_eq!(owners[0].recovered(), l0::Recovery::default(), "files of the living are left alone");
    for l0 in owners {
        l0.shutdown(SOON).unwrap();
    }
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(texts(&reader.sql("SELECT outcome, stored FROM runs", &[]).unwrap()), [["clean", "300"]; 3]);
}

#[test]
fn every_medium_records_and_says_what_it_survives() {
    for (flight, word) in
        [(Flight::Directory, "power loss"), (Flight::SharedMemory, "restart"), (Flight::Off, "any death")]
    {
        let dir = tempfile::tempdir().unwrap();
        let l0 = builder(dir.path()).flight(flight).start().unwrap();
        l0.record(TelemetryEvent::new("n"));
        assert_eq!(l0.events().count().unwrap(), 1, "{flight:?}");
        assert!(l0.stats().durability.contains(word), "{}", l0.stats().durability);
        l0.shutdown(SOON).unwrap();
    }
}

#[test]
fn a_manual_clock_stamps_rows_and_steps_back_without_harm() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, time) = Clock::manual(Timestamp::from_unix_ns(1_000_000_000_000));
    let l0 = builder(dir.path()).clock(clock).start().unwrap();
    let at = |l0: &l0::L0| -> Vec<i64> {
        l0.events().oldest_first().fetch().unwrap().items.iter().map(|event| event.at.as_unix_ns()).collect()
    };
    l0.record(TelemetryEvent::new("first"));
    time.advance(Duration::from_secs(5));
    l0.record(TelemetryEvent::new("second"));
    time.set_wall(Timestamp::from_unix_ns(2_000));
    l0.record(TelemetryEvent::new("third"));
    let times = at(&l0);
    assert!((2_000..2_100).contains(&times[0]), "the clock went back, and the row says so: {times:?}");
    assert!((1_000_000_000_000..1_000_000_000_100).contains(&times[1]), "{times:?}");
    assert!((1_005_000_000_000..1_005_000_000_100).contains(&times[2]), "{times:?}");
}

#[test]
fn events_of_one_nanosecond_all_get_a_row() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        // Each run's clock begins at the same moment, so every row meets one that is there.
        let (clock, time) = Clock::manual(Timestamp::from_unix_ns(1_000));
        let l0 = builder(dir.path()).clock(clock).start().unwrap();
        for _ in 0..200 {
            time.set_wall(Timestamp::from_unix_ns(1_000));
            l0.record(TelemetryEvent::new("n"));
        }
        l0.shutdown(SOON).unwrap();
    }
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(reader.events().count().unwrap(), 600);
}

#[test]
fn five_thousand_short_threads() {
    let store = store();
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(store.l0.layer()));
    for batch in 0..50 {
        std::thread::scope(|scope| {
            for thread in 0..100 {
                let dispatch = &dispatch;
                scope.spawn(move || {
                    tracing::dispatcher::with_default(dispatch, || {
                        info_span!("short").in_scope(|| info!(thread = batch * 100 + thread, "lived"));
                    });
                });
            }
        });
    }
    assert_eq!(store.one("SELECT count(DISTINCT fields ->> 'thread') FROM logs WHERE span = 'short'"), "5000");
    assert_eq!(store.l0.stats().shed, 0);
}

#[test]
fn a_record_in_a_dying_threads_locals_is_kept() {
    struct LogsInDrop(l0::Handle);
    impl Drop for LogsInDrop {
        fn drop(&mut self) {
            self.0.record(TelemetryEvent::new("from.drop"));
        }
    }
    thread_local!(static LAST: std::cell::RefCell<Option<LogsInDrop>> = const { std::cell::RefCell::new(None) });
    let store = store();
    let handle = store.l0.clone();
    std::thread::spawn(move || {
        LAST.with(|last| *last.borrow_mut() = Some(LogsInDrop(handle.clone())));
        // Used after the local above was registered, so l0's own local is destroyed before it.
        handle.record(TelemetryEvent::new("before"));
    })
    .join()
    .unwrap();
    assert_eq!(store.l0.events().event_type("from.drop").count().unwrap(), 1);
}

#[test]
fn a_record_made_before_the_writer_first_sleeps_is_committed() {
    for _ in 0..50 {
        let dir = tempfile::tempdir().unwrap();
        let l0 = builder(dir.path()).commit_every(Duration::from_millis(1)).start().unwrap();
        l0.record(TelemetryEvent::new("first"));
        wait_for("the commit", || l0.stats().stored == 1);
    }
}

#[test]
fn many_new_correlation_ids_at_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, time) = Clock::manual(Timestamp::from_unix_ns(5_000_000_000));
    let l0 = builder(dir.path()).clock(clock).start().unwrap();
    let subscriber = tracing_subscriber::registry().with(l0.layer());
    tracing::subscriber::with_default(subscriber, || {
        let span = info_span!("renamed", correlation_id = "a");
        span.record("correlation_id", "b");
        for number in 0..200 {
            time.set_wall(Timestamp::from_unix_ns(5_000_000_000));
            info!(correlation_id = format!("c-{number}"), "new");
        }
    });
    l0.flush().unwrap();
    assert_eq!(l0.events().correlation_id("c-199").count().unwrap(), 1);
    assert_eq!(texts(&l0.sql("SELECT correlation_id FROM spans", &[]).unwrap()), [["b"]]);
    assert_eq!((l0.stats().stored, l0.stats().shed), (201, 0));
}

#[test]
fn a_record_that_sqlite_refuses_is_rejected_alone() {
    let store = store();
    let other = rusqlite::Connection::open(store.dir.path().join("telemetry.db")).unwrap();
    other
        .execute_batch(
            "CREATE TRIGGER refuse BEFORE INSERT ON event WHEN new.message = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        .unwrap();
    store.record(|| ["good", "bad", "good"].iter().for_each(|message| info!("{message}")));
    store.l0.flush().unwrap();
    let stats = store.l0.stats();
    assert_eq!((stats.recorded, stats.stored, stats.shed), (3, 2, 1));
    assert_eq!(stats.shed_by, [("rejected", Severity::Info, 1)]);
    assert_eq!(store.one("SELECT shed FROM runs"), "1");
}

#[test]
fn shutdown_does_not_wait_for_readers() {
    let store = store();
    store.l0.record(TelemetryEvent::new("n"));
    store.l0.flush().unwrap();
    let reader = rusqlite::Connection::open(store.dir.path().join("telemetry.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM event").unwrap();
    store.l0.record(TelemetryEvent::new("n"));
    store.l0.shutdown(Duration::from_secs(1)).unwrap();
    assert_eq!(std::fs::read_dir(store.dir.path().join("flight")).unwrap().count(), 0);
}

#[test]
fn bounds_beyond_all_time_are_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).buffer_bytes(256 << 10).overload(Overload::Block(Duration::MAX)).start().unwrap();
    for _ in 0..500 {
        l0.record(TelemetryEvent::new("n").message("x".repeat(2_000)));
    }
    assert_eq!(l0.events().count().unwrap(), 500);
    l0.shutdown(Duration::MAX).unwrap();
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a broken executor");
    }
}

#[test]
fn a_waker_that_panics_does_not_end_the_writer() {
    let store = store();
    let waker = Waker::from(Arc::new(Panics));
    let mut flush = pin!(store.l0.flush_async());
    while flush.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        std::thread::yield_now();
    }
    store.l0.record(TelemetryEvent::new("n"));
    store.l0.flush().unwrap();
}

#[test]
fn times_beyond_the_calendar_are_kept_within_it() {
    for wall_ns in [i64::MAX - 10, i64::MIN + 10, 5_000_000_000_000_000_000, -1] {
        let dir = tempfile::tempdir().unwrap();
        let (clock, _) = Clock::manual(Timestamp::from_unix_ns(wall_ns));
        let l0 = builder(dir.path()).clock(clock).start().unwrap();
        l0.record_batch((0..20).map(|_| TelemetryEvent::new("n")));
        assert_eq!(l0.events().fetch().unwrap().items.len(), 20, "{wall_ns}");
        l0.shutdown(SOON).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn a_store_that_is_replaced_by_another_goes_on_in_that_one() {
    let other = store();
    other.record(|| (0..50).for_each(|number| info!(number, padding = "x".repeat(2_000), "of the other")));
    let path = other.dir.path().join("telemetry.db");
    other.l0.shutdown(SOON).unwrap();

    let store = store();
    store.record(|| (0..50).for_each(|number| info!(number, padding = "x".repeat(2_000), "gone")));
    store.l0.flush().unwrap();
    let place = store.dir.path().join("telemetry.db");
    std::fs::copy(path, place.with_extension("new")).unwrap();
    std::fs::rename(place.with_extension("new"), &place).unwrap();
    store.record(|| info!("and on"));
    store.l0.flush().unwrap();
    assert_eq!(
        store.ask("SELECT message, count(*) FROM logs GROUP BY message ORDER BY message"),
        [["and on", "1"], ["of the other", "50"]]
    );
    assert_eq!(store.ask("SELECT outcome FROM runs ORDER BY id"), [["clean"], ["running"]]);
    assert!(store.l0.check().unwrap().is_sound(), "{}", store.l0.check().unwrap());
    store.l0.shutdown(SOON).unwrap();
}

#[cfg(unix)]
#[test]
fn a_store_that_is_removed_while_it_is_in_use_begins_anew() {
    let store = store();
    store.record(|| {
        let span = info_span!("open").entered();
        info!("gone with the directory");
        store.l0.flush().unwrap();
        std::fs::remove_dir_all(store.dir.path()).unwrap();
        info!("in the new store");
        drop(span);
    });
    store.l0.flush().unwrap();
    assert_eq!(store.ask("SELECT message FROM logs"), [["in the new store"]]);
    assert_eq!(store.ask("SELECT outcome FROM runs"), [["running"]]);
    store.record(|| info_span!("new").in_scope(|| info!("and on")));
    assert_eq!(store.ask("SELECT message, span FROM logs ORDER BY id DESC LIMIT 1"), [["and on", "new"]]);
    store.l0.shutdown(SOON).unwrap();
    let reader = Reader::open(store.dir.path()).unwrap();
    assert_eq!(texts(&reader.sql("SELECT outcome FROM runs", &[]).unwrap()), [["clean"]]);
}
