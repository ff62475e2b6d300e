//! Log lines: filters, pages, and following them.

mod support;

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use l0::{
    Severity, TelemetryEvent,
    query::{EventRow, Reader, Total},
};
use support::{builder, store, wait_for};
use tracing::{Level, debug, error, info, warn};

fn messages(rows: &[EventRow]) -> Vec<&str> {
    rows.iter().map(|row| row.message.as_str()).collect()
}

#[test]
fn lines_are_what_was_written_for_a_reader() {
    let store = store();
    store.record(|| {
        info!(category = "web", correlation_id = "order-9", "from tracing");
        debug!(target: "shop::cart", "detail");
        warn!(target: "shop::till", "low on change");
        error!(target: "shopping", "no money");
    });
    store.l0.log(Level::WARN, "billing", "from l0.log");
    store.l0.record(TelemetryEvent::new("order.placed").category("web").message("a fact, not a line"));
    let logs = || store.l0.logs().oldest_first();
    for (name, question, expected) in [
        ("all", logs(), vec!["from tracing", "detail", "low on change", "no money", "from l0.log"]),
        ("level", logs().level(Level::WARN), vec!["low on change", "no money", "from l0.log"]),
        ("category", logs().category("billing"), vec!["from l0.log"]),
        ("target", logs().target("shop::"), vec!["detail", "low on change"]),
        ("prefix", logs().target("shop"), vec!["detail", "low on change", "no money"]),
        ("own", logs().target("l0.log"), vec!["from l0.log"]),
        ("message", logs().message("from"), vec!["from tracing", "from l0.log"]),
        ("correlation", logs().correlation_id("order-9"), vec!["from tracing"]),
        ("window", logs().last(Duration::from_secs(60)).message("detail"), vec!["detail"]),
        ("none", logs().target("%"), vec![]),
    ] {
        let page = question.fetch().unwrap();
        assert_eq!(messages(&page.items), expected, "{name}");
        assert_eq!(page.total, Total::Exactly(expected.len() as u64), "{name}");
    }
    let line = store.l0.logs().category("billing").fetch().unwrap().items.remove(0);
    assert_eq!((line.severity, line.source.as_str()), (Severity::Warning, "l0.log"));
    assert_eq!(store.one("SELECT count(*) FROM logs"), "5");

    let mut seen = Vec::new();
    let mut page = logs().limit(2).fetch().unwrap();
    loop {
        assert_eq!(page.total, Total::Exactly(5));
        seen.extend(page.items.iter().map(|row| row.message.clone()));
        let Some(next) = &page.next else { break };
        page = logs().limit(2).after(next).fetch().unwrap();
    }
    assert_eq!(seen.len(), 5);
}

#[test]
fn a_line_of_l0_belongs_to_the_span_around_it() {
    let store = store();
    store.record(|| {
        let _span = tracing::info_span!("request", correlation_id = "order-9").entered();
        store.l0.log(Level::ERROR, "billing", "in a span");
    });
    let trace = store.l0.trace("order-9").unwrap().unwrap();
    assert_eq!(messages(&trace.spans[0].events), ["in a span"]);
    assert!(trace.spans[0].is_failed);
}

#[test]
fn a_tail_tells_each_line_once_in_order_from_its_beginning() {
    let store = store();
    store.l0.log(Level::INFO, "c", "before");
    store.l0.flush().unwrap();
    let mut tail = store.l0.logs().category("c").tail();
    let mut from_before = store.l0.logs().last(Duration::from_secs(3600)).tail();
    assert_eq!(tail.next_within(Duration::ZERO).unwrap().map(|row| row.message), None);
    let l0 = store.l0.clone();
    let (told, heard) = mpsc::channel();
    let follower = thread::spawn(move || {
        for row in tail {
            told.send(row.unwrap().message).unwrap();
        }
    });
    for n in 0..2_500 {
        l0.log(Level::INFO, "c", &n.to_string());
        l0.log(Level::INFO, "other", "not this");
    }
    // The commit interval is an hour: the tail does not wait for it.
    let mut lines = Vec::new();
    while lines.len() < 2_500 {
        lines.push(heard.recv_timeout(Duration::from_secs(20)).unwrap());
    }
    assert_eq!(lines, (0..2_500).map(|n| n.to_string()).collect::<Vec<_>>());
    l0.log(Level::INFO, "c", "the last");
    // The end ends it, after what was recorded before.
    store.l0.shutdown(Duration::from_secs(5)).unwrap();
    assert_eq!(heard.recv_timeout(Duration::from_secs(20)).unwrap(), "the last");
    follower.join().unwrap();
    assert!(heard.recv().is_err());

    let first = from_before.next().unwrap().unwrap();
    assert_eq!(first.message, "before");
    assert_eq!(from_before.count(), 5_001);
}

#[test]
fn a_reader_elsewhere_follows_what_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).commit_every(Duration::from_millis(20)).start().unwrap();
    let reader = Reader::open(dir.path()).unwrap();
    let mut tail = reader.logs().level(Level::WARN).tail();
    let mut lines = Vec::new();
    for n in 0..5 {
        l0.log(Level::WARN, "c", &n.to_string());
        l0.log(Level::INFO, "c", "quiet");
        lines.push(tail.next_within(Duration::from_secs(20)).unwrap().unwrap().message);
    }
    assert_eq!(lines, ["0", "1", "2", "3", "4"]);
    let started = Instant::now();
    assert!(tail.next_within(Duration::from_millis(30)).unwrap().is_none());
    assert!(started.elapsed() >= Duration::from_millis(30));
}

#[test]
fn a_tail_notices_lines_that_arrive_late() {
    // Two processes share a store; one commits later what is earlier. Here two owners do.
    let dir = tempfile::tempdir().unwrap();
    let slow = builder(dir.path()).start().unwrap();
    let quick = builder(dir.path()).start().unwrap();
    let reader = Reader::open(dir.path()).unwrap();
    let mut tail = reader.logs().tail();
    slow.log(Level::INFO, "c", "recorded first, committed last");
    quick.log(Level::INFO, "c", "recorded last");
    quick.flush().unwrap();
    let next = |tail: &mut l0::query::Tail| tail.next_within(Duration::from_secs(20)).unwrap().unwrap().message;
    assert_eq!(next(&mut tail), "recorded last");
    slow.flush().unwrap();
    assert_eq!(next(&mut tail), "recorded first, committed last");
    assert!(tail.next_within(Duration::from_millis(5)).unwrap().is_none());
    wait_for("nothing more", || tail.next_within(Duration::ZERO).unwrap().is_none());
}

#[test]
fn a_tail_of_a_question_that_makes_no_sense_says_so() {
    let store = store();
    let mut tail = store.l0.logs().last(Duration::MAX).tail();
    let error = tail.next().unwrap().unwrap_err();
    assert!(error.is_invalid_input(), "{error}");
}

#[test]
fn a_tail_that_is_interrupted_or_whose_clock_steps_back_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let start = l0::Timestamp::from_unix_ns(1_700_000_000_000_000_000);
    let (clock, hand) = l0::Clock::manual(start);
    let l0 = builder(dir.path()).clock(clock).start().unwrap();
    let mut tail = l0.logs().message("needle").tail();
    let next = |tail: &mut l0::query::Tail| tail.next_within(Duration::from_secs(20)).unwrap().unwrap().message;
    for n in 0..3_000 {
        l0.log(Level::INFO, "c", "hay");
        if n == 1_500 {
            l0.log(Level::INFO, "c", "first needle");
        }
    }
    assert_eq!(next(&mut tail), "first needle");
    hand.advance(Duration::from_secs(3600));
    l0.log(Level::INFO, "c", "second needle");
    assert_eq!(next(&mut tail), "second needle");
    hand.set_wall(start);
    l0.log(Level::INFO, "c", "needle of an hour before");
    assert_eq!(next(&mut tail), "needle of an hour before");
    assert!(tail.next_within(Duration::from_millis(120)).unwrap().is_none());
}

#[test]
fn a_tail_of_a_window_that_ends_ends() {
    let store = store();
    let now = l0::Timestamp::now();
    let tail = store.l0.logs().since(now).until(now.saturating_add(Duration::from_millis(1))).tail();
    assert_eq!(tail.count(), 0);
}
