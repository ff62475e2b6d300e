//! Health: what a look costs, with a hundred checks.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use l0::health::{Health, Status};

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
    drop(l0);
    // What a look costs that finds nothing as it was.
    let mut group = c.benchmark_group("health_read_hung");
    for (hanging, is_ready, report) in [(1, "is_ready_1", "report_1"), (8, "is_ready_8", "report_8")] {
        let dir = tempfile::tempdir().unwrap();
        let l0 = l0::builder().dir(dir.path()).start().unwrap();
        hang(l0.health(), hanging);
        group.bench_function(is_ready, |b| b.iter(|| l0.health().is_ready()));
        group.bench_function(report, |b| b.iter(|| l0.health().ready()));
    }
    group.finish();
}

/// Registers checks that never return, and waits until they are overdue.
fn hang(health: &Health, count: usize) {
    for number in 0..count {
        let hang = || -> Status {
            loop {
                std::thread::park();
            }
        };
        let check = health.check(&format!("hanging {number}"), hang);
        check.every(Duration::from_secs(3_600)).timeout(Duration::from_millis(1)).register().unwrap();
    }
    let is_overdue = |status: &Status| status.why().is_some_and(|why| why.starts_with("overdue"));
    while !health.ready().checks.iter().all(|check| is_overdue(&check.status)) {
        std::thread::yield_now();
    }
}

criterion_group!(health, health_read);
criterion_main!(health);
