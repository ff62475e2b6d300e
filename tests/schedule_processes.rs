//! Schedules where processes die and share: each fire time has one job, and none is lost.
#![cfg(target_os = "linux")]

mod support;

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use l0::{
    Durability, Timestamp,
    jobs::{Job, JobContext, JobQueue as _, JobState, Misfire, Overlap, Schedule, SqliteQueue, queue::WhichSchedules},
};
use serde::{Deserialize, Serialize};
use support::{deadly::Deadly, wait_for};

const DIR: &str = "L0_SCHEDULE_DIR";
const AT: &str = "L0_SCHEDULE_AT";
const HOUR: Duration = Duration::from_secs(3_600);
const HOURS: u32 = 4;
const START: Timestamp = Timestamp::from_unix_ns(1_800_000_000_000_000_000);

#[derive(Clone, Serialize, Deserialize)]
struct Tick;
impl Job for Tick {
    const KIND: &'static str = "tick";
    type Output = ();
}

fn note(dir: &Path, line: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn register(l0: &l0::L0, dir: &Path) {
    let dir = dir.to_owned();
    let handler = move |_: Tick, cx: &JobContext| {
        let time = cx.scheduled_for().ok_or("no fire time")?;
        note(&dir, &format!("{} {}", time.as_unix_ns(), cx.attempt()));
        Ok(())
    };
    l0.jobs().register(handler).unwrap();
}

fn child(dir: &Path, test: &str, at: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(DIR, dir)
        .env(AT, at.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// How often each attempt for each fire time was begun.
fn begun(dir: &Path) -> BTreeMap<(i64, u32), u32> {
    let mut begun = BTreeMap::new();
    for line in fs::read_to_string(dir.join("log")).unwrap_or_default().lines() {
        if let Some((time, attempt)) = line.split_once(' ') {
            *begun.entry((time.parse().unwrap(), attempt.parse().unwrap())).or_default() += 1;
        }
    }
    begun
}

/// Some hours of an hourly schedule, on a clock that is moved by hand; killed at the n-th step of its queue.
fn hours(dir: &Path, at: u32, from: u32) {
    let queue = Deadly::new(SqliteQueue::open(dir, Durability::Normal).unwrap(), at);
    let (clock, time) = l0::Clock::manual(START.saturating_add(from * HOUR));
    let own = tempfile::tempdir().unwrap();
    let l0 = l0::builder().dir(own.path()).clock(clock).job_queue(queue).start().unwrap();
    register(&l0, dir);
    // What is due while a job is open waits for its end.
    let all = Misfire::CatchUp { within: 1_000 * HOUR, at_most: 100 };
    let hourly = Schedule::cron("0 * * * *").unwrap().misfire(all).overlap(Overlap::QueueOne);
    l0.jobs().schedule("hourly", hourly, Tick).unwrap();
    note(dir, "given");
    for _ in from..HOURS {
        time.advance(HOUR);
        l0.jobs().run_due().unwrap();
    }
    l0.jobs().run_due().unwrap();
    l0.shutdown(Duration::from_secs(5)).unwrap();
}

#[test]
fn a_kill_at_any_step_loses_no_fire_time_and_fires_none_twice() {
    if let Some(dir) = std::env::var_os(DIR) {
        let at: u32 = std::env::var(AT).unwrap().parse().unwrap();
        return hours(Path::new(&dir), at, if at == 0 { HOURS } else { 0 });
    }
    let test = "a_kill_at_any_step_loses_no_fire_time_and_fires_none_twice";
    let (mut at, mut caught_up) = (0, 0);
    loop {
        at += 1;
        let dir = tempfile::tempdir().unwrap();
        let was_killed = !child(dir.path(), test, at).wait().unwrap().success();
        let was_given = fs::read_to_string(dir.path().join("log")).is_ok_and(|log| log.starts_with("given"));
        let before = begun(dir.path()).len();
        // The next process comes when all hours have passed.
        assert!(child(dir.path(), test, 0).wait().unwrap().success(), "after a kill at step {at}");
        let begun = begun(dir.path());
        caught_up += begun.len() - before;
        assert!(begun.values().all(|count| *count == 1), "killed at {at}: {begun:?}");
        let queue = SqliteQueue::open(dir.path(), Durability::Normal).unwrap();
        let jobs = queue.list(&l0::jobs::JobFilter::latest(100)).unwrap().rows;
        assert!(jobs.iter().all(|job| job.state == JobState::Success), "killed at {at}: {jobs:?}");
        let mut times: Vec<_> = jobs.iter().map(|job| job.scheduled_for.unwrap()).collect();
        times.sort();
        // It may have been killed before it was given, or behind the commit and before it could say so.
        if was_given || !times.is_empty() {
            let expected: Vec<_> = (1..=HOURS).map(|hour| START.saturating_add(hour * HOUR)).collect();
            assert_eq!(times, expected, "killed at {at}");
        }
        if !was_killed {
            break;
        }
    }
    println!("killed at each of {} boundaries", at - 1);
    assert!(at > 15 && caught_up > 10, "{at} {caught_up}");
}

/// Fires as fast as it can until it is killed.
fn ticking(dir: &Path) {
    let l0 = l0::builder().dir(dir).workers(1).start().unwrap();
    register(&l0, dir);
    let every = Schedule::every(Duration::from_millis(5)).overlap(Overlap::Allow);
    l0.jobs().schedule("ticking", every, Tick).unwrap();
    l0.jobs().start().unwrap();
    let _ = std::io::read_to_string(std::io::stdin());
    l0.shutdown(Duration::from_secs(5)).unwrap();
}

#[test]
fn of_two_processes_one_fires_each_time_also_when_they_are_killed() {
    if let Some(dir) = std::env::var_os(DIR) {
        return ticking(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let test = "of_two_processes_one_fires_each_time_also_when_they_are_killed";
    let mut peers = [child(dir.path(), test, 0), child(dir.path(), test, 0)];
    for round in 0..6 {
        let count = begun(dir.path()).len() + 60;
        wait_for("fires", || begun(dir.path()).len() >= count);
        let peer = &mut peers[round % 2];
        peer.kill().unwrap();
        peer.wait().unwrap();
        *peer = child(dir.path(), test, 0);
    }
    for peer in &mut peers {
        drop(peer.stdin.take());
        assert!(peer.wait().unwrap().success());
    }
    let begun = begun(dir.path());
    assert!(begun.values().all(|count| *count == 1), "an attempt was begun twice");
    let queue = SqliteQueue::open(dir.path(), Durability::Normal).unwrap();
    let jobs = queue.list(&l0::jobs::JobFilter::latest(100_000)).unwrap().rows;
    let mut times: Vec<_> = jobs.iter().map(|job| job.scheduled_for.unwrap().as_unix_ns()).collect();
    times.sort_unstable();
    let count = times.len();
    times.dedup();
    assert_eq!(times.len(), count, "two jobs of one fire time");
    assert!(times.iter().all(|time| (time - times[0]) % 5_000_000 == 0), "off its grid");
    let stored = queue.schedules(&WhichSchedules::All).unwrap().remove(0);
    let entry: serde_json::Value = serde_json::from_str(&stored.entry).unwrap();
    assert_eq!(entry["fires"].as_u64(), Some(count as u64), "what it says it fired is what there is");
}
