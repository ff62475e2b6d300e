//! Traces as trees and in lists, and the summary: what a person asks of a store.

mod support;

use std::{thread, time::Duration};

use l0::{
    Clock, Severity, TelemetryEvent, Timestamp,
    query::{Reader, SpanState, Total},
};
use support::{Store, builder, store};
use tracing::{error, info, info_span, warn};
use tracing_subscriber::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);

/// A store whose clock stands at a full hour.
fn at_a_full_hour() -> (Store, l0::ManualClock) {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hand) =
        Clock::manual(Timestamp::from_unix_ns(1_700_000_000_000_000_000 / 3_600_000_000_000 * 3_600_000_000_000));
    let l0 = builder(dir.path()).clock(clock).start().unwrap();
    (Store { l0, dir }, hand)
}

#[test]
fn a_tree_has_every_event_once_with_times_that_add_up() {
    let (store, hand) = at_a_full_hour();
    let ms = Duration::from_millis;
    store.record(|| {
        let root = info_span!("GET /orders", correlation_id = "order-9", method = "GET").entered();
        hand.advance(ms(1));
        info!("begin");
        info_span!("auth").in_scope(|| hand.advance(ms(2)));
        let query = info_span!("query", otel.name = "SELECT orders").entered();
        hand.advance(ms(5));
        error!(rows = 3, "timed out");
        drop(query);
        hand.advance(ms(2));
        let follower = info_span!("follower");
        let other = info_span!(parent: None, "elsewhere");
        follower.follows_from(&other);
        drop((follower, other));
        store.l0.record(TelemetryEvent::new("order.failed").severity(Severity::Warning).message("gave up"));
        store.l0.audit(TelemetryEvent::new("refund").message("nothing taken")).unwrap();
        drop(root);
        let _scope = l0::correlation::enter("order-9".parse().unwrap());
        store.l0.audit(TelemetryEvent::new("refund").message("in no span either")).unwrap();
        info!("in no span");
    });
    let trace = store.l0.trace("order-9").unwrap().unwrap();
    assert_eq!(trace.correlation_id, "order-9");
    assert_eq!(trace.spans.len(), 1);
    let root = &trace.spans[0];
    assert_eq!((root.name.as_str(), root.state, root.is_failed), ("GET /orders", SpanState::Closed, false));
    let names: Vec<&str> = root.children.iter().map(|child| child.name.as_str()).collect();
    assert_eq!(names, ["auth", "SELECT orders", "follower"]);
    let near = |found: Option<Duration>, expected: u64| {
        let ns = found.unwrap().as_nanos().abs_diff(u128::from(expected) * 1_000_000);
        assert!(ns < 1_000, "{found:?} for {expected} ms: a manual clock ticks a nanosecond a record");
    };
    near(root.duration, 10);
    near(root.self_time, 3);
    near(root.children[1].self_time, 5);
    assert!(root.children[1].is_failed);
    assert_eq!(root.children[1].events[0].message, "timed out");
    assert_eq!(root.children[2].follows_from[0].name, "elsewhere");
    let texts: Vec<&str> = root.events.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(texts, ["begin", "gave up", "nothing taken"]);
    let texts: Vec<&str> = trace.events.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(texts, ["in no span", "in no span either"], "of one nanosecond, telemetry first");
    assert_eq!((trace.all_events().len(), trace.errors(), trace.left_out), (6, 1, 0));
    assert_eq!(root.payload, r#"{"method":"GET"}"#);

    let text = trace.to_string();
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
        assert_eq!(line, line.trim_end());
    }
    for part in [
        "trace order-9",
        "├─ auth",
        "SELECT orders !",
        "ERROR timed out",
        "AUDIT [refund]",
        "follows elsewhere",
        "1 error",
        "██",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    // Serialised, it is the same tree.
    let json = serde_json::to_value(&trace).unwrap();
    assert_eq!(json["spans"][0]["children"][1]["events"][0]["message"], "timed out");
}

#[test]
fn running_and_interrupted_spans_show_as_such() {
    let Store { l0, dir } = store();
    let subscriber = tracing_subscriber::registry().with(l0.layer());
    tracing::subscriber::with_default(subscriber, || {
        let _root = info_span!("long", correlation_id = "job-1").entered();
        let _child = info_span!("step").entered();
        let trace = l0.trace("job-1").unwrap().unwrap();
        assert_eq!(trace.spans[0].state, SpanState::Running);
        assert_eq!((trace.spans[0].duration, trace.spans[0].self_time), (None, None));
        assert!(trace.to_string().contains("running"), "{trace}");
        assert_eq!(l0.traces().fetch().unwrap().items[0].duration, None);
        assert!(l0.traces().slowest().fetch().unwrap().items.is_empty());
        l0.shutdown(Duration::from_secs(5)).unwrap();
    });
    let trace = Reader::open(dir.path()).unwrap().trace("job-1").unwrap().unwrap();
    assert_eq!(trace.spans[0].children[0].state, SpanState::Interrupted);
    assert!(trace.to_string().contains("cut short"), "{trace}");
}

#[test]
fn a_trace_is_found_by_every_form_of_its_id_and_an_unknown_one_is_none() {
    let store = store();
    store.record(|| info_span!("unnamed").in_scope(|| info!("x")));
    let uuid = store.l0.events().fetch().unwrap().items[0].correlation_id.clone().unwrap();
    let hex = store.one("SELECT trace_id FROM spans");
    assert_eq!(uuid.replace('-', ""), hex);
    for id in [uuid.clone(), hex.clone(), hex.to_uppercase()] {
        assert_eq!(store.l0.trace(&id).unwrap().unwrap().correlation_id, uuid, "{id}");
    }
    let long = "x".repeat(100_000);
    for unknown in ["", "order-9", "' OR 1=1 --", "\0", &long, "00000000-0000-0000-0000-000000000000"] {
        assert!(store.l0.trace(unknown).unwrap().is_none(), "{unknown:.20}");
    }
}

#[test]
fn names_of_any_script_stay_within_eighty_columns() {
    let store = store();
    store.record(|| {
        let _root = info_span!("r", otel.name = "請求".repeat(40), correlation_id = "c").entered();
        for _ in 0..12 {
            let span = info_span!("s", otel.name = "\u{1b}[31mred\u{202e}".repeat(9));
            let _span = span.enter();
            warn!("{}", "長い文\n".repeat(50));
        }
        let _deep: Vec<_> = (0..40).map(|_| info_span!("deep").entered()).collect();
        error!("at the bottom");
    });
    let text = store.l0.trace("c").unwrap().unwrap().to_string();
    for line in text.lines() {
        assert!(unicode_width::UnicodeWidthStr::width(line) <= 80, "{line}");
        assert!(!line.contains(['\u{1b}', '\u{202e}']), "{line}");
    }
    assert!(text.contains("at the bottom"));
}

#[test]
fn lists_of_traces_by_age_duration_and_failure_page_without_gaps() {
    let (store, hand) = at_a_full_hour();
    store.record(|| {
        for n in 0..30_u64 {
            let _span = info_span!("request", correlation_id = format!("r{n}")).entered();
            // Durations in another order than time.
            hand.advance(Duration::from_millis(1 + n * 7 % 30));
            if n % 10 == 0 {
                info_span!("inner").in_scope(|| error!("failed"));
            }
        }
        // One trace of many roots is one trace.
        for n in 0..5_u64 {
            let _span = info_span!("part", correlation_id = "session").entered();
            hand.advance(Duration::from_millis(100 + n));
        }
        info_span!("status", correlation_id = "by status", otel.status_code = "ERROR").in_scope(|| {});
        let _ = info_span!("status", correlation_id = "by-status", otel.status_code = "ERROR").entered();
    });
    let all = |question: l0::query::Traces| {
        let mut ids = Vec::new();
        let mut cursor = None;
        loop {
            let question = question.clone().limit(4);
            let page = cursor.as_ref().map_or(question.clone(), |cursor| question.after(cursor)).fetch().unwrap();
            ids.extend(page.items.into_iter().map(|row| row.correlation_id));
            match page.next {
                Some(next) => cursor = Some(next),
                None => return ids,
            }
        }
    };
    let newest = all(store.l0.traces());
    assert_eq!(newest.len(), 33);
    assert_eq!(newest[0], "by-status");
    assert_eq!(newest[2..4], ["session", "r29"]);
    let slowest = all(store.l0.traces().slowest());
    assert_eq!(slowest.len(), 33);
    assert_eq!(slowest[0], "session");
    let expected: Vec<String> = {
        let mut by: Vec<u64> = (0..30).collect();
        by.sort_by_key(|n| std::cmp::Reverse(n * 7 % 30));
        by.into_iter().map(|n| format!("r{n}")).collect()
    };
    assert_eq!(slowest[1..31], expected);
    let failed = all(store.l0.traces().failed());
    assert_eq!(failed[0], "by-status");
    assert_eq!(failed[2..], ["r20", "r10", "r0"]);
    let page = store.l0.traces().failed().fetch().unwrap();
    assert_eq!((page.items[2].root.as_str(), page.items[2].spans, page.items[2].errors), ("request", 2, 1));
    assert_eq!(page.total, Total::Exactly(5));
    let session = store.l0.traces().slowest().limit(1).fetch().unwrap().items.remove(0);
    assert_eq!((session.spans, session.duration.unwrap().as_millis()), (5, 104));
    assert!(session.to_string().contains("part"));

    let events = store.l0.events().limit(1).fetch().unwrap().next.unwrap();
    let error = store.l0.traces().after(&events).fetch().unwrap_err();
    assert!(error.is_invalid_input() && error.to_string().contains("cursor of this question"), "{error}");
    assert!(store.l0.traces().last(Duration::MAX).fetch().unwrap_err().is_invalid_input());
}

#[test]
fn a_summary_agrees_with_the_rows_whatever_its_window() {
    let (store, hand) = at_a_full_hour();
    let mut seed = 7_u64;
    let mut next = move || {
        seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        seed >> 33
    };
    // Five hours and a half, in uneven steps.
    store.record(|| {
        for _ in 0..3_000 {
            let span = info_span!("work", otel.name = ["fast", "slow"][(next() % 2) as usize]).entered();
            hand.advance(Duration::from_micros(100 + next() % 20_000));
            match next() % 10 {
                0 => error!("failed"),
                1 => warn!(event_type = "retry", "again"),
                _ => info!("done"),
            }
            drop(span);
            hand.advance(Duration::from_millis(next() % 13_000));
            if next() % 50 == 0 {
                store.l0.record(TelemetryEvent::new("order.placed").source("shop"));
            }
            if next() % 500 == 0 {
                store.l0.flush().unwrap();
            }
        }
    });
    for minutes in [1, 59, 60, 61, 119, 137, 240, 333, 1_000] {
        let summary = store.l0.summary(Duration::from_secs(minutes * 60)).unwrap();
        let since = summary.since.as_unix_ns();
        assert_eq!(since % 60_000_000_000, 0);
        let count = |condition: &str| -> u64 {
            let sql = format!("SELECT count(*) FROM telemetry_events WHERE at_unix_ns >= {since} AND {condition}");
            store.one(&sql).parse().unwrap()
        };
        assert_eq!(summary.events, count("true"), "{minutes} minutes");
        assert_eq!(summary.errors, count("severity = 'error'"), "{minutes} minutes");
        for (severity, found) in &summary.by_severity {
            assert_eq!(*found, count(&format!("severity = '{}'", severity.as_str())));
        }
        for (kind, found) in &summary.by_type {
            assert_eq!(*found, count(&format!("event_type = '{kind}'")), "{kind}");
        }
        for (source, found) in &summary.by_source {
            assert_eq!(*found, count(&format!("source = '{source}'")), "{source}");
        }
        for span in &summary.spans {
            // A span counts when it ends.
            let sql = format!(
                "SELECT duration_ms FROM spans WHERE name = '{}' AND state = 'closed'
                    AND started_at_ns + duration_ms * 1e6 >= {since} ORDER BY 1",
                span.name
            )
            .replace("started_at_ns", "(SELECT started_at FROM span AS own WHERE own.id = spans.id)");
            let exact: Vec<f64> = store.ask(&sql).iter().map(|row| row[0].parse::<f64>().unwrap() / 1e3).collect();
            assert_eq!(span.count as usize, exact.len(), "{} in {minutes} minutes", span.name);
            for (share, found) in [(0.5, span.p50), (0.95, span.p95), (0.99, span.p99), (1.0, span.max)] {
                let rank = ((exact.len() as f64 * share).ceil() as usize).max(1) - 1;
                let (exact, found) = (exact[rank], found.as_secs_f64());
                assert!((found - exact).abs() <= exact * 0.05, "{} p{share}: {found} for {exact}", span.name);
            }
        }
        let rows = store.ask(&format!(
            "SELECT printf('%.3f', duration_ms * 1e3) FROM spans WHERE (SELECT started_at FROM span AS own WHERE own.id = spans.id) + duration_ms * 1e6
                >= {since} ORDER BY duration_ms DESC LIMIT 5"
        ));
        let slowest: Vec<Vec<String>> = summary
            .slowest
            .iter()
            .map(|row| vec![format!("{:.3}", row.duration.unwrap().as_secs_f64() * 1e6)])
            .collect();
        assert_eq!(slowest, rows, "{minutes} minutes");
        let latest: Vec<i64> = summary.latest_errors.iter().map(|event| event.id).collect();
        let rows = store.ask(&format!(
            "SELECT id FROM telemetry_events WHERE severity = 'error' AND at_unix_ns >= {since} ORDER BY id DESC LIMIT 5"
        ));
        assert_eq!(latest, rows.iter().map(|row| row[0].parse::<i64>().unwrap()).collect::<Vec<_>>());
    }
    let text = store.l0.summary(HOUR * 24).unwrap().to_string();
    for part in ["events", "p99", "slow", "latest errors", "slowest traces", "retry"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 84), "{text}");
    for absurd in [Duration::ZERO, Duration::MAX] {
        let error = store.l0.summary(absurd).unwrap_err();
        assert!(error.is_invalid_input() && error.to_string().contains("units"), "{error}");
    }
}

#[test]
fn a_summary_counts_what_was_shed() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).buffer_bytes(256 << 10).commit_every(HOUR).start().unwrap();
    let store = Store { l0, dir };
    store.record(|| {
        // Faster than any writer: some of it is shed.
        let text = "x".repeat(8_000);
        while store.l0.stats().shed == 0 {
            for _ in 0..200 {
                info!(text, "flood");
            }
        }
    });
    store.l0.flush().unwrap();
    let stats = store.l0.stats();
    let summary = store.l0.summary(HOUR).unwrap();
    assert_eq!((summary.shed, summary.events), (stats.shed, stats.stored));
    assert_eq!(summary.shed_by[0].0, "buffer_full");
    assert!(summary.to_string().contains("shed"));
}

#[test]
fn more_series_than_are_kept_apart_are_counted_together_and_not_lost() {
    let store = store();
    for n in 0..3_000 {
        let severity = if n % 3 == 0 { Severity::Error } else { Severity::Info };
        store.l0.record(TelemetryEvent::new(format!("type {n}")).severity(severity));
    }
    store.record(|| {
        for n in 0..100 {
            info_span!("s", otel.name = format!("span {n}")).in_scope(|| {});
        }
    });
    let summary = store.l0.summary(HOUR).unwrap();
    assert_eq!((summary.events, summary.errors), (3_000, 1_000));
    assert_eq!(summary.spans.iter().map(|span| span.count).sum::<u64>(), 100);
    assert!(store.one("SELECT count(*) FROM series").parse::<u64>().unwrap() <= 2_010);
}

#[test]
fn questions_are_bounded_and_can_be_interrupted() {
    let store = store();
    store.l0.log(tracing::Level::INFO, "c", "m");
    store.l0.flush().unwrap();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let handle = store.l0.clone();
    let asking = thread::spawn(move || handle.sql(endless, &[]));
    while !asking.is_finished() {
        store.l0.interrupt();
        thread::yield_now();
    }
    let error = asking.join().unwrap().unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("interrupted"), "{error}");
    // The next question is not harmed.
    assert_eq!(store.l0.logs().fetch().unwrap().items.len(), 1);
    // So many rows that somebody looks at the clock.
    (0..3_000).for_each(|n| store.l0.record(TelemetryEvent::new("x").payload(&serde_json::json!({ "n": n }))));
    let error = store.l0.events().within(Duration::ZERO).field("n", 1).count().unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("within(..)"), "{error}");
}

#[test]
fn one_name_with_very_many_spans_is_one_trace_and_found_at_once() {
    let store = store();
    store.record(|| {
        for n in 0..6_000 {
            info_span!("turn", correlation_id = "session").in_scope(|| {
                if n % 2 == 0 {
                    error!("failed");
                }
            });
        }
        info_span!("other", correlation_id = "before the session?".replace([' ', '?'], "-"))
            .in_scope(|| error!("failed"));
        for _ in 0..3 {
            let span = info_span!("late", correlation_id = tracing::field::Empty).entered();
            span.record("correlation_id", "named-late");
        }
    });
    // Once for each of 6,000 it would take minutes.
    for (question, expected) in
        [(store.l0.traces(), 3), (store.l0.traces().slowest(), 3), (store.l0.traces().failed(), 2)]
    {
        let mut ids: Vec<String> = Vec::new();
        let mut page = question.clone().limit(1).fetch().unwrap();
        loop {
            // A machine that is busy counts them in part.
            let (Total::Exactly(count) | Total::AtLeast(count)) = page.total;
            let is_right = if page.total == Total::Exactly(count) { count == expected } else { count <= expected };
            assert!(is_right, "{:?} of {expected}: traces are counted, not spans", page.total);
            ids.extend(page.items.iter().map(|row| row.correlation_id.clone()));
            let Some(next) = page.next else { break };
            page = question.clone().limit(1).after(&next).fetch().unwrap();
        }
        let listed = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!((listed, ids.len()), (expected as usize, expected as usize), "each once, on whatever page");
        assert_eq!(question.fetch().unwrap().items.len() as u64, expected);
    }
    let late = store.l0.traces().fetch().unwrap().items.remove(0);
    assert_eq!((late.correlation_id.as_str(), late.spans), ("named-late", 3));
}

#[test]
fn a_trace_that_begins_inside_another_span_is_listed() {
    let store = store();
    store.record(|| {
        let _worker = info_span!("worker").entered();
        info_span!("job", correlation_id = "job-7").in_scope(|| error!("failed"));
    });
    for question in [store.l0.traces(), store.l0.traces().slowest(), store.l0.traces().failed()] {
        assert!(question.fetch().unwrap().items.iter().any(|row| row.correlation_id == "job-7"));
    }
    assert!(store.l0.summary(HOUR).unwrap().slowest.iter().any(|row| row.correlation_id == "job-7"));
}

#[test]
fn a_step_of_the_clock_leaves_the_order_of_spans() {
    let (store, hand) = at_a_full_hour();
    store.record(|| {
        let _root = info_span!("root", correlation_id = "c").entered();
        info_span!("first").in_scope(|| hand.advance(Duration::from_secs(1)));
        hand.set_wall(Timestamp::from_unix_ns(1_700_000_000_000_000_000 - 7_200_000_000_000));
        info_span!("second").in_scope(|| hand.advance(Duration::from_secs(1)));
    });
    let trace = store.l0.trace("c").unwrap().unwrap();
    let names: Vec<&str> = trace.spans[0].children.iter().map(|child| child.name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    assert!(!trace.to_string().is_empty());
}
