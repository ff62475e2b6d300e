//! What recording costs the calling thread, beside a layer that does nothing and the JSON file most people have.

#[allow(dead_code, unreachable_pub)]
mod support;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use l0::{Overload, Redaction};
use support::{EVENT, EVENT_IN_SPAN, Json, L0, NAMED_SPAN, Noop, Peer, SPAN, Work, timed};

fn compare(c: &mut Criterion, name: &str, threads: usize, work: Work) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    let mut run = |peer: &mut dyn Peer, id: &str| {
        group.bench_function(id, |b| b.iter_custom(|iterations| timed(peer, threads, iterations, work)));
    };
    run(&mut L0::new(Overload::Shed), "l0");
    run(&mut Noop::new(), "noop_layer");
    run(&mut Json::new(true), "fmt_json_non_blocking");
    group.finish();
}

/// What redaction costs the thread that records, and the writer.
fn redaction(c: &mut Criterion) {
    let mut group = c.benchmark_group("capture_event_redaction");
    group.throughput(Throughput::Elements(1));
    for (id, redaction) in
        [("off", Redaction::off()), ("default", Redaction::default()), ("strict", Redaction::default().strict())]
    {
        let mut peer = L0::with(Overload::Shed, redaction);
        group.bench_function(id, |b| b.iter_custom(|iterations| timed(&mut peer, 1, iterations, EVENT)));
    }
    group.finish();
    let mut group = c.benchmark_group("capture_span_named");
    group.throughput(Throughput::Elements(1));
    let mut peer = L0::new(Overload::Shed);
    group.bench_function("l0", |b| b.iter_custom(|iterations| timed(&mut peer, 1, iterations, NAMED_SPAN)));
    group.finish();
}

fn capture(c: &mut Criterion) {
    compare(c, "capture_event", 1, EVENT);
    compare(c, "capture_event_in_span", 1, EVENT_IN_SPAN);
    compare(c, "capture_span", 1, SPAN);
    compare(c, "capture_event_2_threads", 2, EVENT);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = capture, redaction
}
criterion_main!(benches);
