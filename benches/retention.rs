//! Recording at the cap beside recording below it, and into a store of ten million events beside an empty one: from the
//! first macro until the last row can be asked for, nothing shed.

#[allow(dead_code, unreachable_pub)]
mod support;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use l0::{L0, Overload, Retention};
use support::event;
use tempfile::TempDir;
use tracing::{Dispatch, dispatcher::with_default, info, info_span};
use tracing_subscriber::prelude::*;

const EVENTS: u64 = 200_000;
/// The default.
const CAP: u64 = 256 << 20;
/// Never reached here.
const NO_CAP: u64 = 64 << 30;

struct Store {
    l0: L0,
    dispatch: Dispatch,
    _dir: TempDir,
}

impl Store {
    fn new(max_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let builder = l0::builder().dir(dir.path()).filter("info").overload(Overload::Block(Duration::from_secs(60)));
        // The same flight recorder for every cap: a sixteenth of the smaller one.
        let builder = builder.retention(Retention::default().max_bytes(max_bytes)).buffer_bytes(CAP / 16);
        let l0 = builder.start().unwrap();
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(l0.layer()));
        Self { l0, dispatch, _dir: dir }
    }

    fn with(max_bytes: u64, events: u64, each: impl Fn(u64)) -> Self {
        let store = Self::new(max_bytes);
        store.ingest(events, each);
        // What building it has left to the disk is not measured.
        let _ = std::process::Command::new("sync").status();
        store
    }

    fn ingest(&self, events: u64, each: impl Fn(u64)) -> Duration {
        let start = Instant::now();
        with_default(&self.dispatch, || (0..events).for_each(each));
        self.l0.flush().unwrap();
        let elapsed = start.elapsed();
        assert_eq!(self.l0.stats().shed, 0);
        elapsed
    }
}

/// A request as a server has it: a span with a trace of its own, and nine events in it.
fn in_requests(number: u64) {
    if number.is_multiple_of(10) {
        info_span!("request", number).in_scope(|| (1..10).for_each(|step| info!(number, step, "served")));
    }
}

fn retention(c: &mut Criterion) {
    let mut group = c.benchmark_group("retention");
    group.throughput(Throughput::Elements(EVENTS)).sample_size(20).measurement_time(Duration::from_secs(10));
    let (below, at) = (Store::with(NO_CAP, EVENTS, event), Store::with(CAP, 5_000_000, event));
    assert!(at.l0.stats().store.removed.rows > 1_000_000 && below.l0.stats().store.removed.rows == 0);
    for (name, store) in [("ingest_below_cap", &below), ("ingest_at_cap", &at)] {
        group.bench_function(name, |b| b.iter_custom(|n| (0..n).map(|_| store.ingest(EVENTS, event)).sum()));
    }
    group.finish();
}

fn at_size(c: &mut Criterion) {
    let mut group = c.benchmark_group("ingest_at_size");
    group.throughput(Throughput::Elements(EVENTS)).sample_size(10).measurement_time(Duration::from_secs(10));
    for (kind, each) in [("events", event as fn(u64)), ("requests", in_requests)] {
        group.bench_function(BenchmarkId::new("empty", kind), |b| {
            b.iter_custom(|n| (0..n).map(|_| Store::new(NO_CAP).ingest(EVENTS, each)).sum());
        });
        let store = Store::with(NO_CAP, 10_000_000, each);
        group.bench_function(BenchmarkId::new("10m", kind), |b| {
            b.iter_custom(|n| (0..n).map(|_| store.ingest(EVENTS, each)).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, retention, at_size);
criterion_main!(benches);
