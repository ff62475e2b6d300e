//! Clocks that are set, run at another pace, or stand still while the machine sleeps.

use std::{path::Path, thread, time::Duration};

use l0::{Clock, L0, ManualClock, Overload, Retention, Timestamp, query::Value};
use tracing_subscriber::prelude::*;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const START: Timestamp = Timestamp::from_unix_ns(1_760_000_000_000_000_000);

fn start(dir: &Path, max_age: Duration) -> (L0, ManualClock) {
    let (clock, hand) = Clock::manual(START);
    let retention = Retention::default().max_age(max_age);
    let l0 =
        l0::builder().dir(dir).clock(clock).retention(retention).filter("trace").commit_every(HOUR).start().unwrap();
    (l0, hand)
}

fn with<R>(l0: &L0, work: impl FnOnce() -> R) -> R {
    tracing::subscriber::with_default(tracing_subscriber::registry().with(l0.layer()), work)
}

fn number(l0: &L0, sql: &str) -> i64 {
    match l0.sql(sql, &[]).unwrap().rows.remove(0).remove(0) {
        Value::Integer(number) => number,
        other => panic!("{other:?}"),
    }
}

fn events(l0: &L0) -> i64 {
    number(l0, "SELECT count(*) FROM telemetry_events")
}

#[test]
fn ages_count_through_a_sleep() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, hand) = start(dir.path(), DAY);
    with(&l0, || tracing::info!("before the sleep"));
    assert_eq!(l0.cleanup(false).unwrap().rows, 0);
    hand.sleep(2 * DAY);
    assert_eq!(l0.cleanup(false).unwrap().rows, 1, "it is two days old");
}

#[test]
fn ages_pause_for_an_hour_after_the_clock_was_set_and_then_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, hand) = start(dir.path(), DAY);
    with(&l0, || tracing::info!("by the wrong clock"));
    assert_eq!(l0.cleanup(false).unwrap().rows, 0);
    hand.set_wall(START.saturating_add(400 * DAY));
    for _ in 0..6 {
        assert_eq!(l0.cleanup(false).unwrap().rows, 0, "nobody knows yet which time is right");
        hand.advance(10 * MINUTE);
    }
    assert_eq!(l0.cleanup(false).unwrap().rows, 1, "it has been right for an hour");
    with(&l0, || tracing::info!("by the right clock"));
    hand.advance(DAY / 2);
    assert_eq!(l0.cleanup(false).unwrap().rows, 0);
    hand.advance(DAY);
    assert_eq!(l0.cleanup(false).unwrap().rows, 1);
}

#[test]
fn spans_from_the_future_do_not_stop_removal_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, hand) = start(dir.path(), DAY);
    let spans = |count: usize| with(&l0, || (0..count).for_each(|_| drop(tracing::info_span!("work").entered())));
    // Within the next two days nothing dated so is too old, nor too far away to be true.
    hand.set_wall(START.saturating_add(DAY / 2));
    spans(20);
    hand.set_wall(START);
    spans(100);
    l0.flush().unwrap();
    hand.advance(2 * HOUR);
    assert_eq!(l0.cleanup(false).unwrap().rows, 0);
    hand.advance(DAY);
    let kept = || number(&l0, "SELECT count(*) FROM spans");
    assert_eq!(l0.cleanup(false).unwrap().rows, 99, "all of the right time, but for the last span of all");
    assert_eq!(kept(), 21);
    hand.advance(DAY);
    spans(1);
    l0.cleanup(false).unwrap();
    assert_eq!(kept(), 1, "and those of the wrong time when their date is a day ago");
}

#[test]
fn the_slowest_traces_stay_listed_after_the_clock_was_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, hand) = start(dir.path(), 400 * DAY);
    let span = || {
        with(&l0, || {
            let span = tracing::info_span!("request").entered();
            hand.advance(Duration::from_millis(50));
            drop(span);
        });
        l0.flush().unwrap();
    };
    hand.set_wall(START.saturating_add(DAY));
    span();
    hand.set_wall(START);
    span();
    l0.cleanup(false).unwrap();
    let slowest = l0.summary(HOUR).unwrap().slowest;
    assert_eq!(slowest.len(), 1, "the one of the earlier time");
}

#[test]
fn a_sleep_between_two_commits_changes_no_duration_and_no_date() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, hand) = start(dir.path(), 400 * DAY);
    with(&l0, || {
        tracing::info!("first");
        l0.flush().unwrap();
        let span = tracing::info_span!("work").entered();
        tracing::info!("before");
        hand.advance(Duration::from_millis(300));
        drop(span);
        hand.sleep(8 * HOUR);
        tracing::info!("after");
    });
    l0.flush().unwrap();
    let at = |message: &str| {
        number(
            &l0,
            &format!("SELECT at_unix_ns - {} FROM telemetry_events WHERE message = '{message}'", START.as_unix_ns()),
        )
    };
    let ms = 1_000_000;
    assert!(at("before") < ms && at("after") > 8 * 3_600_000 * ms, "{} {}", at("before"), at("after"));
    let duration = number(&l0, "SELECT CAST(duration_ms AS INTEGER) FROM spans");
    assert_eq!(duration, 300);
}

#[test]
fn a_recovered_span_does_not_take_a_step_of_the_clock_into_its_duration() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hand) = Clock::manual(START);
    let l0 = l0::builder().dir(dir.path()).clock(clock).filter("trace").commit_every(HOUR).start().unwrap();
    let dispatch = tracing::Dispatch::new(tracing_subscriber::registry().with(l0.layer()));
    tracing::dispatcher::with_default(&dispatch, || {
        let span = tracing::info_span!("work").entered();
        l0.flush().unwrap();
        hand.advance(Duration::from_secs(2));
        hand.set_wall(START.saturating_add(5 * HOUR));
        hand.advance(Duration::from_secs(1));
        drop(span);
        tracing::info!("last");
    });
    // As if the process had died here: its flight file, and the database as it is, in another directory.
    let copy = tempfile::tempdir().unwrap();
    let flight = std::fs::read_dir(dir.path().join("flight")).unwrap().next().unwrap().unwrap().path();
    std::fs::create_dir(copy.path().join("flight")).unwrap();
    std::fs::copy(&flight, copy.path().join("flight").join(flight.file_name().unwrap())).unwrap();
    let database = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    let to = copy.path().join("telemetry.db");
    database.execute("VACUUM INTO ?1", [to.to_str().unwrap()]).unwrap();
    l0::recover(copy.path()).unwrap();
    let reader = l0::query::Reader::open(copy.path()).unwrap();
    let duration =
        reader.sql("SELECT CAST(round(duration_ms) AS INTEGER) FROM spans", &[]).unwrap().rows.remove(0).remove(0);
    assert!(matches!(duration, Value::Integer(3_000)), "{duration:?}");
}

#[test]
fn records_of_one_thread_keep_their_order_across_commits() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = l0::builder()
        .dir(dir.path())
        .filter("info")
        .commit_every(Duration::from_millis(1))
        .overload(Overload::Block(MINUTE))
        .start()
        .unwrap();
    let numbers = super::roles::rounds(60_000, 600_000) as u64;
    let is_over = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            // The writer is preempted again and again.
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        with(&l0, || (0..numbers).for_each(|number| tracing::info!(number, "recorded")));
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    l0.flush().unwrap();
    let inversions = |order: &str| {
        number(
            &l0,
            &format!(
                "SELECT count(*) FROM (SELECT payload ->> 'number' - lag(payload ->> 'number') OVER (ORDER BY {order}) AS step
                   FROM telemetry_events) WHERE step < 0"
            ),
        )
    };
    assert_eq!(events(&l0), numbers as i64);
    assert_eq!((inversions("at_unix_ns"), inversions("sequence")), (0, 0));
    assert_eq!(number(&l0, "SELECT count(DISTINCT sequence) FROM telemetry_events"), numbers as i64);
}

#[test]
fn the_order_is_in_the_rows_whatever_the_clock_does() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, hand) = start(dir.path(), 400 * DAY);
    for number in 0..40_u64 {
        with(&l0, || tracing::info!(number, "recorded"));
        match number % 4 {
            0 => hand.set_wall(START.saturating_add(Duration::from_secs(number * 7_919 % 50_000))),
            1 => l0.flush().unwrap(),
            2 => hand.sleep(MINUTE),
            _ => hand.advance(Duration::from_millis(number)),
        }
    }
    l0.flush().unwrap();
    let rows = l0.sql("SELECT payload ->> 'number' FROM telemetry_events ORDER BY sequence", &[]).unwrap().rows;
    let found: Vec<String> = rows.iter().map(|row| row[0].to_string()).collect();
    let expected: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    assert_eq!(found, expected);
}
