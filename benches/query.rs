//! Questions over a day of a million events (`L0_BENCH_EVENTS` raises it), asked as from another process.

#[path = "support/day.rs"]
mod day;

use std::{hint::black_box, time::Duration};

use criterion::Criterion;
use day::{DAY, EVENTS_A_REQUEST, store};
use l0::{Severity, query::Reader};

fn main() {
    let events: u64 = std::env::var("L0_BENCH_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let requests = events / EVENTS_A_REQUEST;
    let store = store(requests);
    let reader = Reader::open(store.path()).unwrap();
    let mut criterion = Criterion::default().configure_from_args().measurement_time(Duration::from_secs(5));
    let group = if events >= 10_000_000 { "query_10m" } else { "query_1m" };
    let mut group = criterion.benchmark_group(group);
    let mut next = 0;
    group.bench_function("trace", |b| {
        b.iter(|| {
            next = (next + 7_919) % requests;
            let trace = reader.trace(&format!("request-{next}")).unwrap().unwrap();
            assert_eq!(trace.all_events().len() as u64, EVENTS_A_REQUEST);
            black_box(trace)
        })
    });
    group.bench_function("errors_page", |b| {
        b.iter(|| {
            let page = reader.events().at_least(Severity::Error).limit(50).fetch().unwrap();
            assert_eq!(page.items.len(), 50);
            black_box(page)
        })
    });
    group.bench_function("events_page_by_source", |b| {
        b.iter(|| {
            let page = reader.events().source("shop::billing").limit(50).fetch().unwrap();
            assert_eq!(page.items.len(), 50);
            black_box(page)
        })
    });
    group.sample_size(10).bench_function("text_search_day", |b| {
        b.iter(|| {
            // In one message of the day.
            let needle = format!("order {} ", requests / 2);
            let page = reader.events().last(DAY * 2).message(&needle).fetch().unwrap();
            assert_eq!(page.items.len(), 1);
            black_box(page)
        })
    });
    group.sample_size(50).bench_function("summary_24h", |b| {
        b.iter(|| {
            let summary = reader.summary(DAY).unwrap();
            assert!(summary.events > events * 9 / 10);
            black_box(summary)
        })
    });
    group.bench_function("traces_slowest", |b| b.iter(|| black_box(reader.traces().slowest().fetch().unwrap())));
    group.bench_function("traces_failed", |b| b.iter(|| black_box(reader.traces().failed().fetch().unwrap())));
    group.finish();
    criterion.final_summary();
}
