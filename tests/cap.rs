//! The cap holds at every moment: a second process adds up the sizes of all files every ten milliseconds, while others
//! flood the store, read it for long, and are killed.
//!
//! `L0_CAP_SECONDS=120 cargo test --release --test cap -- --nocapture` floods for longer and prints the maxima.
#![cfg(unix)]

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use l0::{Overload, Retention};
use support::is_consistent;
use tracing::{error, info, info_span};
use tracing_subscriber::prelude::*;

const ROLE: &str = "L0_CAP_TEST_ROLE";
const DIR: &str = "L0_CAP_TEST_DIR";
const MIB: u64 = 1 << 20;
/// In the place of a seed.
const LARGE_SPANS: u64 = 0;

/// The other processes: this very test, as a child.
#[test]
fn child() {
    let (Ok(role), Ok(dir)) = (std::env::var(ROLE), std::env::var(DIR)) else { return };
    match role.split_once(' ') {
        None => watch(Path::new(&dir)),
        Some((seed, cap)) => flood(Path::new(&dir), seed.parse().unwrap(), cap.parse().unwrap()),
    }
}

fn spawn(role: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(ROLE, role)
        .env(DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Adds up the files until its input ends; then says what the most was, and how often it looked.
fn watch(dir: &Path) {
    let (closed, waits) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        closed.send(()).unwrap();
    });
    let (mut most, mut looks, mut what) = (0, 0, String::new());
    while waits.recv_timeout(Duration::from_millis(10)).is_err() {
        let (bytes, files) = sum(dir);
        looks += 1;
        if bytes > most {
            (most, what) = (bytes, files);
        }
    }
    println!("\nMOST {most} {looks} {what}");
}

fn sum(dir: &Path) -> (u64, String) {
    let (mut bytes, mut files) = (0, String::new());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let length = if metadata.is_dir() { sum(&entry.path()).0 } else { metadata.len() };
        bytes += length;
        files += &format!("{}={} ", entry.file_name().to_string_lossy(), length);
    }
    (bytes, files)
}

/// Two threads of everything a store takes: plain events, large ones, requests with ids of their own, errors.
fn flood(dir: &Path, seed: u64, cap: u64) {
    let l0 = l0::builder()
        .dir(dir)
        .filter("trace")
        .retention(Retention::default().max_bytes(cap))
        .overload(Overload::Block(Duration::from_secs(60)))
        .commit_every(Duration::from_millis(20))
        .start()
        .unwrap();
    println!("\nSTARTED {}", sum(dir).0);
    if seed == LARGE_SPANS {
        return end_large_spans(&l0);
    }
    let large = "x".repeat(6_000);
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (l0, large) = (&l0, large.as_str());
            scope.spawn(move || {
                let subscriber = tracing_subscriber::registry().with(l0.layer());
                tracing::subscriber::with_default(subscriber, || {
                    for number in 0_u64.. {
                        let id = format!("{seed}-{thread}-{number}");
                        match number % 8 {
                            0 | 1 => info!(number, large, "large"),
                            2 => info_span!("request", correlation_id = id.as_str(), actor_id = id.as_str())
                                .in_scope(|| error!(number, "failed")),
                            3 => info_span!("request", tenant_id = id.as_str()).in_scope(|| info!(number, "served")),
                            _ => info!(number, user = "ada", "order placed"),
                        }
                    }
                });
            });
        }
    });
}

/// Many large spans end at once, again and again; at last some are left open.
fn end_large_spans(l0: &l0::L0) {
    let text = "x".repeat(16_000);
    let subscriber = tracing_subscriber::registry().with(l0.layer());
    tracing::subscriber::with_default(subscriber, || {
        let open = || info_span!("large", first = text.as_str(), second = text.as_str(), third = text.as_str());
        for _ in 0..12 {
            let spans: Vec<_> = (0..50).map(|_| open()).collect();
            l0.flush().unwrap();
            drop(spans);
            l0.flush().unwrap();
        }
        (0..100).for_each(|_| std::mem::forget(open()));
        l0.flush().unwrap();
    });
}

/// What a flooding child says first.
fn started(child: &mut Child) -> u64 {
    for line in BufReader::new(child.stdout.as_mut().unwrap()).lines() {
        if let Some(bytes) = line.unwrap().strip_prefix("STARTED ") {
            return bytes.parse().unwrap();
        }
    }
    panic!("the child did not start: {:?}", child.wait());
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Runs `during` beside a watching process; the sum of all files must never have been above the cap.
fn below(name: &str, cap: u64, dir: &Path, during: impl FnOnce()) {
    let watch = spawn("watch", dir);
    during();
    let output = watch.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("MOST ")).unwrap_or_else(|| panic!("{text}"));
    let mut words = line.split(' ');
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    let (most, looks) = (number(), number());
    println!("{name}: {most} of {cap} bytes at most, {:.3}, in {looks} looks: {line}", most as f64 / cap as f64);
    assert!(looks > 20, "it looked {looks} times");
    assert!(most <= cap, "{name}: {most} bytes are more than {cap}: {line}");
    assert!(most > cap / 2, "{name}: the store was not filled: {line}");
}

fn seconds(short: f64) -> Duration {
    let long = std::env::var("L0_CAP_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(long.unwrap_or(short))
}

fn wait(duration: Duration) {
    let until = Instant::now() + duration;
    while Instant::now() < until {
        std::thread::park_timeout(until - Instant::now());
    }
}

/// A store that is as full as it gets.
fn filled(dir: &Path, cap: u64) {
    let mut child = spawn(&format!("1 {cap}"), dir);
    started(&mut child);
    let is_full = || {
        let reader = l0::query::Reader::open(dir);
        reader
            .and_then(|reader| reader.sql("SELECT 1 FROM maintenance WHERE reason = 'cap'", &[]))
            .is_ok_and(|table| !table.rows.is_empty())
    };
    let until = Instant::now() + Duration::from_secs(120);
    while !is_full() {
        assert!(Instant::now() < until, "the store did not fill");
        wait(Duration::from_millis(20));
    }
    kill(child);
}

#[test]
fn while_it_is_flooded_and_read_for_long() {
    let (dir, cap) = (tempfile::tempdir().unwrap(), 16 * MIB);
    filled(dir.path(), cap);
    below("flood and readers", cap, dir.path(), || {
        let mut child = spawn(&format!("2 {cap}"), dir.path());
        started(&mut child);
        let until = Instant::now() + seconds(3.0);
        while Instant::now() < until {
            let reader = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
            reader.execute_batch("BEGIN; SELECT count(*) FROM run").unwrap();
            wait(Duration::from_millis(300));
        }
        kill(child);
    });
    is_consistent(dir.path());
}

#[test]
fn while_processes_are_killed_in_the_middle_of_maintenance() {
    let (dir, cap) = (tempfile::tempdir().unwrap(), 16 * MIB);
    filled(dir.path(), cap);
    below("kills", cap, dir.path(), || {
        let until = Instant::now() + seconds(4.0);
        let mut random = 9_u64;
        while Instant::now() < until {
            let mut child = spawn(&format!("{random} {cap}"), dir.path());
            started(&mut child);
            random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            wait(Duration::from_millis(50 + (random >> 33) % 300));
            kill(child);
        }
    });
    l0::recover(dir.path()).unwrap();
    is_consistent(dir.path());
}

#[test]
fn while_two_processes_write() {
    let (dir, cap) = (tempfile::tempdir().unwrap(), 16 * MIB);
    filled(dir.path(), cap);
    below("two processes", cap, dir.path(), || {
        let mut children = [2, 3].map(|seed| spawn(&format!("{seed} {cap}"), dir.path()));
        children.iter_mut().for_each(|child| _ = started(child));
        wait(seconds(3.0));
        children.into_iter().for_each(kill);
    });
    is_consistent(dir.path());
}

#[test]
fn while_many_large_spans_end_at_once() {
    let (dir, cap) = (tempfile::tempdir().unwrap(), 16 * MIB);
    below("large spans", cap, dir.path(), || {
        // The first leaves its last ones to its shutdown, the second finds what a kill has left.
        let child = spawn(&format!("{LARGE_SPANS} {cap}"), dir.path());
        assert!(child.wait_with_output().unwrap().status.success());
        let mut child = spawn(&format!("{LARGE_SPANS} {cap}"), dir.path());
        started(&mut child);
        wait(Duration::from_millis(700));
        kill(child);
        l0::recover(dir.path()).unwrap();
    });
    is_consistent(dir.path());
}

#[test]
fn after_it_was_lowered() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 40 * MIB);
    let cap = 10 * MIB;
    let mut child = spawn(&format!("2 {cap}"), dir.path());
    let bytes = started(&mut child);
    assert!(bytes <= cap, "{bytes} bytes after the start");
    below("lowered", cap, dir.path(), || wait(seconds(2.0)));
    kill(child);
    is_consistent(dir.path());
}
