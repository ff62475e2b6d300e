//! What recording costs the calling thread, beside a layer that does nothing and the JSON file most people have.

#[allow(dead_code, unreachable_pub)]
mod support;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{EVENT, EVENT_IN_SPAN, Json, L0, Noop, Peer, SPAN, Work, timed};

fn compare(c: &mut Criterion, name: &str, threads: usize, work: Work) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    let mut run = |peer: &mut dyn Peer, id: &str| {
        group.bench_function(id, |b| b.iter_custom(|iterations| timed(peer, threads, iterations, work)));
    };
    run(&mut L0::new(l0::Overload::Shed), "l0");
    run(&mut Noop::new(), "noop_layer");
    run(&mut Json::new(true), "fmt_json_non_blocking");
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
    targets = capture
}
criterion_main!(benches);
