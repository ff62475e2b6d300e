//! The command `l0` as a whole process, from its start to its exit, on a day of a million events.

#[path = "support/day.rs"]
mod day;

use std::{process::Command, time::Duration};

use criterion::Criterion;
use day::{EVENTS_A_REQUEST, store};

const EVENTS: u64 = 1_000_000;

fn main() {
    let store = store(EVENTS / EVENTS_A_REQUEST);
    let mut criterion = Criterion::default().configure_from_args().measurement_time(Duration::from_secs(5));
    let mut group = criterion.benchmark_group("cli");
    for (id, args, expected) in [
        ("errors", &["errors"][..], "card refused"),
        ("trace", &["trace", "request-70000"], "order 70000 billed"),
        ("spans", &["spans"], "query"),
        ("status", &["status"], "nothing is recording"),
        ("logs_page", &["logs", "level:warn"], "stock is low"),
        ("traces_slowest", &["traces", "--slowest"], "request-"),
        ("search_day", &["logs", "70000 billed"], "order 70000 billed"),
        ("nothing", &["--version"], "l0 "),
    ] {
        group.bench_function(id, |b| {
            b.iter(|| {
                let output =
                    Command::new(env!("CARGO_BIN_EXE_l0")).args(args).env("L0_DIR", store.path()).output().unwrap();
                assert!(String::from_utf8_lossy(&output.stdout).contains(expected), "{id}: {output:?}");
            })
        });
    }
    group.finish();
    criterion.final_summary();
}
