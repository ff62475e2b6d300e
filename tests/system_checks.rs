//! Checks that are jobs: what health says of one that hangs, over restarts, and of several processes.

mod support;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use l0::{
    ManualClock, Timestamp,
    health::{Format, HealthReader, Status},
    jobs::{JobState, Schedule},
};
use parking_lot::Mutex;
use support::{builder, wait_for};

const HOUR: Duration = Duration::from_secs(3_600);
const LONG: Duration = Duration::from_secs(20);
const START: Timestamp = Timestamp::from_unix_ns(1_800_000_000_000_000_000);

fn open(dir: &Path, at: Timestamp) -> (l0::L0, ManualClock) {
    let (clock, time) = l0::Clock::manual(at);
    (builder(dir).clock(clock).start().unwrap(), time)
}

fn seen(l0: &l0::L0, name: &str) -> l0::health::CheckReport {
    l0.health().tagged("scheduled").checks.into_iter().find(|check| check.name == name).unwrap()
}

fn bad() -> Status {
    Status::Unhealthy("no backup".to_owned())
}

fn latest(dir: &Path, name: &str) -> Vec<Status> {
    let latest = HealthReader::open(dir).latest().unwrap().into_iter();
    latest.filter(|last| last.name == name).map(|last| last.to).collect()
}

#[test]
fn a_restart_goes_on_with_what_was_said_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut at = START;
    for restart in 0..3 {
        let (l0, time) = open(dir.path(), at);
        l0.schedule_check("backups", Schedule::every(2 * HOUR), bad).unwrap();
        if restart == 0 {
            assert_eq!(seen(&l0, "backups").status, Status::Healthy, "nothing is known");
            assert!(seen(&l0, "backups").age.is_none());
            time.advance(2 * HOUR);
            assert_eq!(l0.jobs().run_due().unwrap(), 1);
        }
        let check = seen(&l0, "backups");
        assert_eq!((check.status, check.contiguous_failures), (bad(), 1));
        assert_eq!(check.age, Some(HOUR / 2 * restart), "as old as it is");
        assert_eq!(l0.health().history("backups", 24 * HOUR).unwrap().len(), 1 + restart as usize, "of each process");
        assert_eq!(latest(dir.path(), "backups"), [bad()], "seen from outside");
        time.advance(HOUR / 2);
        assert_eq!(l0.health().uptime("backups", HOUR / 2).unwrap(), 0.0);
        at = if restart == 0 { START.saturating_add(5 * HOUR / 2) } else { at.saturating_add(HOUR / 2) };
        // What was known is no news.
        let events = l0.events().event_type("health.changed").message("backups is").count().unwrap();
        assert_eq!(events, 1);
        l0.shutdown(LONG).unwrap();
    }
}

#[test]
fn one_that_hangs_is_overdue() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, time) = open(dir.path(), START);
    let goes_on = Arc::new(AtomicBool::new(false));
    let (open, begun) = (Arc::clone(&goes_on), Arc::new(AtomicBool::new(false)));
    let begin = Arc::clone(&begun);
    let check = move || {
        begin.store(true, SeqCst);
        wait_for("the end of a check", || open.load(SeqCst));
        Status::Healthy
    };
    l0.schedule_check("backups", Schedule::every(HOUR), check).unwrap();
    time.advance(HOUR);
    let jobs: l0::Handle = l0.clone();
    let running = std::thread::spawn(move || jobs.jobs().run_due());
    wait_for("a run", || begun.load(SeqCst));
    assert_eq!(seen(&l0, "backups").status, Status::Healthy);
    assert_eq!(seen(&l0, "backups").running_for, Some(Duration::ZERO));
    time.advance(Duration::from_secs(61));
    let check = seen(&l0, "backups");
    assert_eq!(check.status, Status::Unhealthy("overdue: still running, its timeout is 60.0 s".to_owned()));
    assert!(check.to_string().contains("60.0 s (running for 61.0 s)"), "{check}");
    let page = l0.health().tagged("scheduled").render(Format::Kubernetes).body;
    assert!(
        page.starts_with("[-]backups failed: overdue: still running, its timeout is 60.0 s (running for 61.0 s)\n"),
        "{page}"
    );
    l0.health().run_due().unwrap();
    assert!(latest(dir.path(), "backups").first().is_some_and(|last| last.as_str() == "unhealthy"), "it is told, too");
    goes_on.store(true, SeqCst);
    running.join().unwrap().unwrap();
    assert!(seen(&l0, "backups").running_for.is_none());
    l0.shutdown(LONG).unwrap();
}

#[test]
fn what_another_process_found_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let says = Arc::new(Mutex::new(bad()));
    let check = |says: &Arc<Mutex<Status>>| {
        let says = Arc::clone(says);
        move || says.lock().clone()
    };
    let (one, one_time) = open(dir.path(), START);
    let (two, two_time) = open(dir.path(), START);
    for l0 in [&one, &two] {
        l0.schedule_check("backups", Schedule::every(HOUR), check(&says)).unwrap();
    }
    let pass = |runs: &l0::L0| {
        one_time.advance(HOUR);
        two_time.advance(HOUR);
        assert_eq!(runs.jobs().run_due().unwrap(), 1);
    };
    pass(&one);
    let both = || [seen(&one, "backups").status, seen(&two, "backups").status];
    assert_eq!(both(), [bad(), Status::Healthy]);
    let hear = |l0: &l0::L0| assert_eq!(l0.health().check_now("l0.jobs").unwrap(), Status::Healthy);
    hear(&two);
    assert_eq!(both(), [bad(), bad()]);
    hear(&two);
    assert_eq!(seen(&two, "backups").contiguous_failures, 1, "once");
    *says.lock() = Status::Healthy;
    pass(&two);
    hear(&one);
    assert_eq!(both(), [Status::Healthy, Status::Healthy]);
    // It is known by the job, whatever is in the history: one goes on to be well, and the other hears of it.
    *says.lock() = bad();
    pass(&two);
    *says.lock() = Status::Healthy;
    pass(&one);
    hear(&two);
    assert_eq!(both(), [Status::Healthy, Status::Healthy]);
    assert_eq!(two.health().history("backups", 24 * HOUR).unwrap().last().unwrap().to, Status::Healthy);
}

#[test]
fn a_name_is_free_again_when_its_check_was_unregistered() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, time) = open(dir.path(), START);
    l0.schedule_check("backups", Schedule::every(HOUR), bad).unwrap();
    let refused = l0.schedule_check("backups", Schedule::every(HOUR), || Status::Healthy).unwrap_err();
    assert!(refused.is_invalid_input(), "{refused}");
    assert!(l0.health().unregister("backups"));
    l0.schedule_check("backups", Schedule::every(HOUR), || Status::Healthy).unwrap();
    time.advance(HOUR);
    assert_eq!(l0.jobs().run_due().unwrap(), 1);
    assert_eq!(seen(&l0, "backups").status, Status::Healthy);
    assert!(seen(&l0, "backups").age.is_some());
    assert_eq!(l0.jobs().list().state(JobState::Success).fetch().unwrap().items.len(), 1);
}

#[test]
fn one_that_took_too_long_has_failed_whatever_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, time) = open(dir.path(), START);
    let hand = time.clone();
    let check = move || {
        hand.advance(Duration::from_secs(70));
        Status::Healthy
    };
    l0.schedule_check("backups", Schedule::every(HOUR), check).unwrap();
    time.advance(HOUR);
    assert_eq!(l0.jobs().run_due().unwrap(), 1);
    let why = seen(&l0, "backups").status.why().unwrap().to_owned();
    assert!(why.starts_with("took 70.0s, longer than its timeout"), "{why}");
    let history = l0.health().history("backups", HOUR).unwrap();
    assert_eq!(history.iter().map(|change| change.to.as_str()).collect::<Vec<_>>(), ["unhealthy"]);
}

#[test]
fn a_run_that_hangs_is_not_talked_over_by_another_process_nor_by_one_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let (one, one_time) = open(dir.path(), START);
    let (two, two_time) = open(dir.path(), START);
    let (goes_on, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (open, begin) = (Arc::clone(&goes_on), Arc::clone(&begun));
    let hang = move || {
        begin.store(true, SeqCst);
        wait_for("the end of a check", || open.load(SeqCst));
        Status::Degraded("of the old one".to_owned())
    };
    one.schedule_check("backups", Schedule::every(HOUR), hang).unwrap();
    two.schedule_check("backups", Schedule::every(HOUR), || Status::Healthy).unwrap();
    let pass = |d: Duration| {
        one_time.advance(d);
        two_time.advance(d);
    };
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    one.health().on_change(move |change| {
        if change.name == "backups" {
            heard.lock().push(change.to.as_str());
        }
    });
    pass(HOUR);
    let jobs: l0::Handle = one.clone();
    let running = std::thread::spawn(move || jobs.jobs().run_due());
    wait_for("a run", || begun.load(SeqCst));
    pass(HOUR);
    two.jobs().run_due().unwrap();
    assert_eq!(seen(&two, "backups").status, Status::Healthy);
    one.health().run_due().unwrap();
    one.health().check_now("l0.jobs").unwrap();
    assert_eq!(seen(&one, "backups").status.as_str(), "unhealthy", "it still hangs here");
    wait_for("what is told here", || !told.lock().is_empty());
    assert_eq!(*told.lock(), ["unhealthy"]);
    // Another of its name has nothing to do with it.
    one.health().unregister("backups");
    one.schedule_check("backups", Schedule::every(HOUR), || Status::Healthy).unwrap();
    assert_eq!(seen(&one, "backups").status, Status::Healthy, "it hears of the other process");
    goes_on.store(true, SeqCst);
    running.join().unwrap().unwrap();
    assert_eq!(seen(&one, "backups").status, Status::Healthy);
}

#[test]
fn jobs_of_a_store_that_was_replaced_are_later() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, time) = open(dir.path(), START);
    let says = Arc::new(Mutex::new(Status::Healthy));
    let said = Arc::clone(&says);
    let schedule = |l0: &l0::L0, said: Arc<Mutex<Status>>| {
        l0.schedule_check("backups", Schedule::every(HOUR), move || said.lock().clone()).unwrap();
    };
    schedule(&l0, said);
    for _ in 0..3 {
        time.advance(HOUR);
        assert_eq!(l0.jobs().run_due().unwrap(), 1);
    }
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        std::fs::remove_file(dir.path().join(file)).unwrap();
    }
    // Another process has found something, in the new one.
    let (other, other_time) = open(dir.path(), START.saturating_add(4 * HOUR));
    schedule(&other, Arc::new(Mutex::new(bad())));
    other_time.advance(HOUR);
    assert_eq!(other.jobs().run_due().unwrap(), 1);
    time.advance(2 * HOUR);
    assert_eq!(l0.health().check_now("l0.jobs").unwrap(), Status::Healthy);
    assert_eq!(seen(&l0, "backups").status, bad());
}

#[test]
fn a_job_that_is_run_again_says_what_it_comes_to() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, time) = open(dir.path(), START);
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let check = move || if well.load(SeqCst) { Status::Healthy } else { panic!("out of order") };
    l0.schedule_check("backups", Schedule::every(HOUR), check).unwrap();
    time.advance(HOUR);
    assert_eq!(l0.jobs().run_due().unwrap(), 1);
    assert_eq!(seen(&l0, "backups").status.as_str(), "unhealthy");
    is_well.store(true, SeqCst);
    let (other, other_time) = open(dir.path(), START.saturating_add(HOUR));
    other.schedule_check("backups", Schedule::every(HOUR), || Status::Healthy).unwrap();
    assert_eq!(seen(&other, "backups").status.as_str(), "unhealthy");
    assert!(l0.jobs().retry(l0.jobs().list().kind("check.backups").fetch().unwrap().items[0].id).unwrap());
    assert_eq!(l0.jobs().run_due().unwrap(), 1);
    assert_eq!(seen(&l0, "backups").status, Status::Healthy);
    // Another process hears of it, though it knows the job.
    other_time.advance(Duration::from_secs(60));
    other.health().check_now("l0.jobs").unwrap();
    assert_eq!(seen(&other, "backups").status, Status::Healthy);
}
