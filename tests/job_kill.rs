//! SIGKILL around durable jobs: no committed job is lost, none is finished twice, and a death in the last attempt is an end.
//!
//! First at every step of the queue: a child's queue counts the steps and kills its process before or behind the n-th, for
//! every n there is. Then at random moments, two processes at a time: `L0_KILLS=1000 cargo test --release --test job_kill`
//! kills more often.
#![cfg(unix)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use l0::{
    Durability, Timestamp,
    jobs::{Backoff, Job, JobError, JobFilter, JobOptions, JobQueue as _, JobRow, JobState, Reason, SqliteQueue},
};
use serde::{Deserialize, Serialize};
use support::deadly::Deadly;

const DIR: &str = "L0_JOB_KILL_DIR";
/// Steps until the kill; 0 for none.
const AT: &str = "L0_JOB_KILL_AT";
const ROLE: &str = "L0_JOB_KILL_ROLE";
const LONG: Duration = Duration::from_secs(30);

#[derive(Serialize, Deserialize)]
struct Step {
    number: u32,
}
impl Job for Step {
    const KIND: &'static str = "step";
    type Output = u32;
}

/// One line, whole, whatever happens to the process behind it.
fn log(dir: &Path, line: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn options(number: u32) -> JobOptions {
    let options = JobOptions::default().backoff(Backoff::fixed(Duration::ZERO));
    match number % 4 {
        // Its first death is its last.
        3 => options.max_attempts(1),
        _ => options.max_attempts(4),
    }
}

/// Where a process keeps its telemetry, which is not what this is about.
fn own_store(dir: &Path, pid: u32) -> PathBuf {
    dir.join(format!("telemetry-{pid}"))
}

fn start(dir: &Path, at: u32) -> l0::L0 {
    let queue = Deadly::new(SqliteQueue::open(dir, Durability::Normal).unwrap(), at);
    let own = own_store(dir, std::process::id());
    // Nothing is pruned: what was enqueued is counted at the end.
    let history = l0::JobHistory::default().max_count(u64::MAX);
    let l0 = l0::builder().dir(own).workers(2).job_history(history).job_queue(queue).start().unwrap();
    let dir = dir.to_owned();
    l0.jobs()
        .register(move |step: Step, cx| {
            let (id, attempt) = (cx.id(), cx.attempt());
            log(&dir, &format!("begin {id} {attempt} {}", std::process::id()));
            if step.number % 4 == 1 && cx.resume::<u32>()?.is_none() {
                cx.checkpoint(&step.number)?;
                return Err(JobError::from("the first half"));
            }
            Ok(step.number)
        })
        .unwrap();
    l0
}

/// Six jobs, of which some fail first, one is cancelled; then all of them to their ends.
fn scenario(dir: &Path, at: u32) {
    let l0 = start(dir, at);
    if !dir.join("enqueued").exists() {
        for number in 0..6 {
            let job = l0.jobs().enqueue_with(Step { number }, options(number)).unwrap();
            log(dir, &format!("enqueued {} {number}", job.id()));
        }
        let job = l0.jobs().enqueue_with(Step { number: 6 }, options(6).delay(LONG)).unwrap();
        job.cancel().unwrap();
        log(dir, &format!("enqueued {} 6", job.id()));
        File::create(dir.join("enqueued")).unwrap();
    }
    l0.jobs().start().unwrap();
    wait_all(&l0, dir);
    l0.shutdown(LONG).unwrap();
}

fn wait_all(l0: &l0::L0, dir: &Path) {
    let until = Instant::now() + LONG;
    loop {
        let rows = l0.jobs().list().limit(10_000).fetch().unwrap().items;
        // The job of a scenario that was cut short before its cancellation waits for half a minute.
        let open = rows.iter().filter(|row| !row.state.is_final() && row.run_at <= Timestamp::now());
        if open.count() == 0 {
            return;
        }
        assert!(Instant::now() < until, "jobs that do not come to their end in {}", dir.display());
        std::thread::yield_now();
    }
}

#[test]
fn a_kill_at_any_step_loses_nothing_and_ends_nothing_twice() {
    if let Some(dir) = std::env::var_os(DIR) {
        let at = std::env::var(AT).unwrap().parse().unwrap();
        return match std::env::var(ROLE).as_deref() {
            Ok("for ever") => for_ever(Path::new(&dir)),
            _ => scenario(Path::new(&dir), at),
        };
    }
    let mut at = 0;
    loop {
        at += 1;
        let dir = tempfile::tempdir().unwrap();
        let was_killed = !child(dir.path(), at, "scenario").wait().unwrap().success();
        // Whoever comes next brings all to its end.
        assert!(child(dir.path(), 0, "scenario").wait().unwrap().success(), "after a kill at step {at}");
        check(dir.path(), u32::from(was_killed));
        if !was_killed {
            break;
        }
    }
    println!("killed at each of {} boundaries", at - 1);
    assert!(at > 30, "the scenario has more steps than {at}");
}

fn child(dir: &Path, at: u32, role: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["a_kill_at_any_step_loses_nothing_and_ends_nothing_twice", "--exact", "--nocapture"])
        .envs([(DIR, dir.as_os_str()), (ROLE, role.as_ref())])
        .env(AT, at.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whatever happened before: what was told to be enqueued is there and final, each attempt was begun once, and who ended
/// as given up had no attempt left.
fn check(dir: &Path, kills: u32) {
    let queue = SqliteQueue::open(dir, Durability::Normal).unwrap();
    let rows = queue.list(&JobFilter::latest(1_000_000)).unwrap().rows;
    let rows: BTreeMap<String, JobRow> = rows.into_iter().map(|row| (row.id.to_string(), row)).collect();
    let mut begun = BTreeMap::<(String, u32), u32>::new();
    let mut told = BTreeSet::new();
    for line in BufReader::new(File::open(dir.join("log")).unwrap()).lines() {
        let line = line.unwrap();
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["enqueued", id, _] => _ = told.insert(id.to_owned()),
            ["begin", id, attempt, _] => *begun.entry((id.to_owned(), attempt.parse().unwrap())).or_default() += 1,
            _ => panic!("{line}"),
        }
    }
    for id in &told {
        assert!(rows.contains_key(id), "a job that was enqueued is gone");
    }
    for ((id, attempt), count) in &begun {
        assert_eq!(*count, 1, "attempt {attempt} of {id} was begun {count} times");
    }
    for (id, row) in &rows {
        let number: Step = serde_json::from_str(&row.payload).unwrap();
        assert!(row.state.is_final() || row.run_at > Timestamp::now() || number.number == 6, "{id} is {}", row.state);
        match (row.state, row.reason) {
            (JobState::Success, _) => assert_eq!(row.result.as_deref(), Some(&*number.number.to_string())),
            (JobState::Failed, Reason::Abandoned) => {
                assert!(row.attempt == row.max_attempts && kills >= 1, "{id} was given up after {}", row.attempt);
            }
            (JobState::Failed, _) => assert_eq!(row.error.as_deref(), Some("the first half"), "{id}"),
            _ => assert!(number.number == 6, "{id} is {} for {}", row.state, row.reason),
        }
    }
    assert!(queue.owners().unwrap().is_empty(), "nobody is left as an owner");
}

/// Enqueues and runs until it is killed.
fn for_ever(dir: &Path) {
    let l0 = start(dir, 0);
    l0.jobs().start().unwrap();
    let mut number = 0_u32;
    loop {
        // The seventh kind is only of the scenario.
        number = (number + 1) % 6;
        let job = l0.jobs().enqueue_with(Step { number }, options(number)).unwrap();
        log(dir, &format!("enqueued {} {number}", job.id()));
    }
}

/// How many runs began behind a death: attempts beyond those that the jobs themselves asked for.
fn begun_anew(dir: &Path) -> u64 {
    let mut attempts = BTreeMap::<String, u64>::new();
    for line in BufReader::new(File::open(dir.join("log")).unwrap()).lines() {
        if let ["begin", id, ..] = line.unwrap().split(' ').collect::<Vec<_>>()[..] {
            *attempts.entry(id.to_owned()).or_default() += 1;
        }
    }
    let queue = SqliteQueue::open(dir, Durability::Normal).unwrap();
    let rows = queue.list(&JobFilter::latest(1_000_000)).unwrap().rows;
    let own = |row: &JobRow| 1 + u64::from(serde_json::from_str::<Step>(&row.payload).unwrap().number % 4 == 1);
    rows.iter().map(|row| attempts.get(&row.id.to_string()).map_or(0, |count| count.saturating_sub(own(row)))).sum()
}

#[test]
fn kills_at_random_moments_of_two_processes_lose_nothing_and_begin_no_attempt_twice() {
    let wanted: u32 = std::env::var("L0_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let dir = tempfile::tempdir().unwrap();
    let mut kills = 0;
    let mut random = 0x9E37_79B9_u64;
    let size = |dir: &Path| fs::metadata(dir.join("log")).map_or(0, |file| file.len());
    let mut peers = [child(dir.path(), 0, "for ever"), child(dir.path(), 0, "for ever")];
    // Most runs are over in microseconds: goes on until a kill hit one.
    while kills < wanted || (begun_anew(dir.path()) == 0 && kills < 50 * wanted) {
        for peer in &mut peers {
            random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            let before = size(dir.path());
            let until = before + 200 + (random >> 33) % 20_000;
            support::wait_for("work", || size(dir.path()) >= until);
            peer.kill().unwrap();
            peer.wait().unwrap();
            // A thousand of them would fill the disk.
            let _ = fs::remove_dir_all(own_store(dir.path(), peer.id()));
            kills += 1;
            *peer = child(dir.path(), 0, "for ever");
        }
    }
    for peer in &mut peers {
        peer.kill().unwrap();
        peer.wait().unwrap();
    }
    // Nobody is left; one who comes brings all to its end.
    let l0 = start(dir.path(), 0);
    l0.jobs().start().unwrap();
    wait_all(&l0, dir.path());
    l0.shutdown(LONG).unwrap();
    let queue = SqliteQueue::open(dir.path(), Durability::Normal).unwrap();
    let counts = queue.counts().unwrap();
    let [success, failed] = [counts[0].success, counts[0].failed];
    let begun_anew = begun_anew(dir.path());
    println!("{kills} kills: {success} jobs succeeded, {begun_anew} runs after a death, {failed} jobs given up");
    check(dir.path(), kills);
    assert!(begun_anew + failed > 0, "no kill hit a job");
}
