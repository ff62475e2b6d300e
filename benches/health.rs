//! Health: what a look costs, with a hundred checks.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use l0::health::Status;

const CHECKS: usize = 100;

fn health_read(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let l0 = l0::builder().dir(dir.path()).start().unwrap();
    let health = l0.health();
    for number in 0..CHECKS {
        health
            .check(&format!("check {number}"), || Status::Healthy)
            .every(Duration::from_secs(3_600))
            .register()
            .unwrap();
    }
    while !health.is_ready() {
        std::thread::yield_now();
    }
    let mut group = c.benchmark_group("health_read");
    group.bench_function("l0", |b| b.iter(|| health.is_ready()));
    group.bench_function("report", |b| b.iter(|| health.ready()));
    group.finish();
}

criterion_group!(health, health_read);
criterion_main!(health);
