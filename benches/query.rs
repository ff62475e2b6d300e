//! Questions over a day of a million events (`L0_BENCH_EVENTS` raises it), asked as from another process.

use std::{hint::black_box, time::Duration};

use criterion::Criterion;
use l0::{Clock, Overload, Severity, Timestamp, query::Reader};
use tempfile::TempDir;
use tracing::{error, info, info_span, warn};
use tracing_subscriber::prelude::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const EVENTS_A_REQUEST: u64 = 10;

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

/// A day that ends now, of requests of two spans and ten events each, one in a hundred failing.
fn store(requests: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hand) = Clock::manual(Timestamp::now().saturating_sub(DAY));
    let l0 = l0::builder()
        .dir(dir.path())
        .filter("info")
        .clock(clock)
        .retention(l0::Retention::default().max_bytes(64 << 30))
        .overload(Overload::Block(Duration::from_secs(60)))
        .start()
        .unwrap();
    let step = Duration::from_nanos(u64::try_from(DAY.as_nanos()).unwrap() / requests.max(1) / 4);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(l0.layer()), || {
        for n in 0..requests {
            let _request = info_span!("request", correlation_id = format!("request-{n}"), tenant_id = "acme").entered();
            info!(target: "shop::web", method = "GET", path = "/orders", "request began");
            hand.advance(step);
            {
                let _query = info_span!("query", table = "orders").entered();
                for row in 0..4 {
                    info!(target: "shop::store", row, "row read");
                }
                hand.advance(step + Duration::from_nanos(n % 1_000 * 100));
            }
            info!(target: "shop::billing", order = n, cents = n * 7 % 10_000, "order {n} billed");
            info!(target: "shop::mail", "mail queued");
            if n % 100 == 0 {
                error!(target: "shop::billing", "card refused");
            } else {
                info!(target: "shop::billing", "card charged");
            }
            if n % 20 == 0 {
                warn!(target: "shop::stock", left = n % 5, "stock is low");
            } else {
                info!(target: "shop::stock", "stock counted");
            }
            hand.advance(step);
            info!(target: "shop::web", status = 200, "request ended");
        }
    });
    l0.flush().unwrap();
    let stats = l0.stats();
    assert_eq!((stats.shed, stats.stored), (0, requests * (EVENTS_A_REQUEST + 2)), "nothing is left out");
    l0.shutdown(Duration::from_secs(60)).unwrap();
    dir
}
