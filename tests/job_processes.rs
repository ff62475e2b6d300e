//! Several processes on one store: they share its jobs, hear of each other's, and take over what a dead one held.
#![cfg(target_os = "linux")]

mod support;

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use l0::jobs::{Backoff, Job, JobFailure, JobOptions, JobState};
use serde::{Deserialize, Serialize};
use support::{builder, wait_for};

const DIR: &str = "L0_JOB_PROCESS_DIR";
const LONG: Duration = Duration::from_secs(20);

#[derive(Serialize, Deserialize)]
struct Work {
    number: u32,
}
impl Job for Work {
    const KIND: &'static str = "work";
    type Output = u32;
}

const ENDLESS: u32 = 1_000_000;

/// Who has a handler; what it did is in a file.
fn start(dir: &Path) -> l0::L0 {
    let l0 = builder(dir).workers(2).start().unwrap();
    let log = dir.join("log");
    l0.jobs()
        .register(move |work: Work, cx| {
            let mut file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
            file.write_all(format!("{} {} {}\n", std::process::id(), work.number, cx.attempt()).as_bytes()).unwrap();
            if work.number == ENDLESS {
                loop {
                    cx.check()?;
                    thread::yield_now();
                }
            }
            Ok(work.number)
        })
        .unwrap();
    l0
}

fn child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["two_processes_share_the_work_and_no_attempt_is_made_twice", "--exact", "--nocapture"])
        .env(DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lines of the log: who did what, in which attempt.
fn log(dir: &Path) -> Vec<(u32, u32, u32)> {
    let text = fs::read_to_string(dir.join("log")).unwrap_or_default();
    let line = |line: &str| {
        let mut numbers = line.split(' ').map(|number| number.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap(), numbers.next().unwrap())
    };
    text.lines().map(line).collect()
}

#[test]
fn two_processes_share_the_work_and_no_attempt_is_made_twice() {
    if let Some(dir) = std::env::var_os(DIR) {
        let l0 = start(Path::new(&dir));
        l0.jobs().start().unwrap();
        fs::write(Path::new(&dir).join(format!("started-{}", std::process::id())), "").unwrap();
        // Until the parent closes its end.
        let _ = std::io::read_to_string(std::io::stdin());
        return l0.shutdown(LONG).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let l0 = start(dir.path());
    let jobs = l0.jobs().enqueue_batch((0..600).map(|number| Work { number })).unwrap();
    let mut other = child(dir.path());
    l0.jobs().start().unwrap();
    for (number, job) in jobs.into_iter().enumerate() {
        assert_eq!(job.wait_timeout(LONG), Some(Ok(number as u32)));
    }
    let mut done: Vec<_> = log(dir.path()).iter().map(|(_, number, attempt)| (*number, *attempt)).collect();
    done.sort_unstable();
    assert_eq!(done, (0..600).map(|number| (number, 1)).collect::<Vec<_>>());
    drop(other.stdin.take());
    assert!(other.wait().unwrap().success());
}

#[test]
fn an_idle_process_hears_of_jobs_and_wishes_and_the_other_of_their_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = child(dir.path());
    wait_for("the other", || dir.path().join(format!("started-{}", other.id())).exists());
    // This one only enqueues.
    let l0 = builder(dir.path()).start().unwrap();
    for number in 0..5 {
        assert_eq!(l0.jobs().enqueue(Work { number }).unwrap().wait_timeout(LONG), Some(Ok(number)));
    }
    assert!(log(dir.path()).iter().all(|(pid, ..)| *pid == other.id()));
    let endless = l0.jobs().enqueue(Work { number: ENDLESS }).unwrap();
    wait_for("its beginning", || endless.state().unwrap() == JobState::Running);
    assert!(endless.cancel().unwrap());
    assert_eq!(endless.wait_timeout(LONG), Some(Err(JobFailure::Cancelled)));
    drop(other.stdin.take());
    assert!(other.wait().unwrap().success());
}

#[test]
fn what_a_dead_process_held_is_taken_over_by_one_that_lives() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = child(dir.path());
    wait_for("the other", || dir.path().join(format!("started-{}", other.id())).exists());
    let l0 = start(dir.path());
    let options = || JobOptions::default().backoff(Backoff::fixed(Duration::ZERO));
    let goes_on = l0.jobs().enqueue_with(Work { number: ENDLESS }, options()).unwrap();
    let is_over = l0.jobs().enqueue_with(Work { number: ENDLESS }, options().max_attempts(1)).unwrap();
    wait_for("both", || log(dir.path()).len() == 2);
    l0.jobs().start().unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(is_over.wait_timeout(LONG), Some(Err(JobFailure::Abandoned)), "it was its last attempt");
    wait_for("the next attempt", || log(dir.path()).last() == Some(&(std::process::id(), ENDLESS, 2)));
    assert!(goes_on.cancel().unwrap());
    assert_eq!(goes_on.wait_timeout(LONG), Some(Err(JobFailure::Cancelled)));
    let told = l0.events().event_type("job.rescued").fetch().unwrap().items;
    assert_eq!(told.len(), 1);
    assert!(told[0].message.contains("its process died"), "{}", told[0].message);
}

/// Context switches of l0's threads but for the writer's, of which the pipeline's own tests tell.
fn switches() -> Vec<(String, u64)> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let mut counts: Vec<_> = tasks
        .filter_map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned();
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?;
            let count = line.split_whitespace().nth(1)?.parse().ok()?;
            let is_counted = name.starts_with("l0-") && name != "l0-writer";
            is_counted.then(|| (format!("{name} {}", task.file_name().to_string_lossy()), count))
        })
        .collect();
    counts.sort();
    counts
}

#[test]
fn an_idle_process_is_not_woken() {
    const ALONE: &str = "L0_JOB_IDLE";
    if std::env::var_os(ALONE).is_none() {
        // In a process of its own, whose threads are its own.
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["an_idle_process_is_not_woken", "--exact", "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let l0 = start(dir.path());
    l0.jobs().start().unwrap();
    l0.jobs().enqueue(Work { number: 1 }).unwrap().wait().unwrap();
    l0.jobs().spawn("one", |_| Ok(())).unwrap().wait().unwrap();
    drop(l0.jobs().enqueue_with(Work { number: 2 }, JobOptions::default().delay(Duration::from_secs(3_600))).unwrap());
    // What follows the work comes to rest; then a second shows nothing.
    let second = Duration::from_secs(1);
    let mut quiet = 0;
    for _ in 0..10 {
        let before = switches();
        thread::park_timeout(second);
        quiet = if switches() == before { quiet + 1 } else { 0 };
        if quiet == 2 {
            break;
        }
    }
    assert_eq!(quiet, 2, "threads that are woken: {:?}", switches());
    assert!(switches().len() >= 3, "workers, timer, watch: {:?}", switches());
}
