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
    // Eight that hang, and nothing else: what a look costs that finds nothing as it was.
    drop(l0);
    let dir = tempfile::tempdir().unwrap();
    let l0 = l0::builder().dir(dir.path()).start().unwrap();
    let health = l0.health();
    for number in 0..8 {
        let hang = || -> Status {
            loop {
                std::thread::park();
            }
        };
        let hour = Duration::from_secs(3_600);
        health
            .check(&format!("hanging {number}"), hang)
            .every(hour)
            .timeout(Duration::from_millis(1))
            .register()
            .unwrap();
    }
    let is_overdue = |status: &Status| status.why().is_some_and(|why| why.starts_with("overdue"));
    while !health.ready().checks.iter().all(|check| is_overdue(&check.status)) {
        std::thread::yield_now();
    }
    let mut group = c.benchmark_group("health_read_hung");
    group.bench_function("l0", |b| b.iter(|| health.is_ready()));
    group.bench_function("report", |b| b.iter(|| health.ready()));
    group.finish();
}

criterion_group!(health, health_read);
criterion_main!(health);
