//! Jobs where the queue is slow, refuses steps or panics, where the store is locked, and at the very moment of the end: what is
//! held is never forgotten, and nobody sleeps over work.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    task::{Context, Wake, Waker},
    time::{Duration, Instant},
};

use l0::{
    Error, Result, Timestamp,
    jobs::{
        Job, JobError, JobFailure, JobFilter, JobId, JobOptions, JobQueue, JobRow, JobState, KindCounts, MemoryQueue,
        Progress, Reason,
        queue::{
            Cancel, Claim, Enqueued, Exchanged, Listed, NewJob, Note, Owner, OwnerId, Rescued, ScheduleChange, Settle,
            StoredSchedule, WhichSchedules,
        },
    },
};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use support::{builder, wait_for};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(20);
const MS: Duration = Duration::from_millis(1);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Work {
    number: u32,
}
impl Job for Work {
    const KIND: &'static str = "work";
    type Output = u32;
}

fn work(number: u32) -> Work {
    Work { number }
}

/// Those from here on hold their handlers until told.
const HELD: u32 = 100;

/// A queue in memory that can be made to trouble.
#[derive(Clone, Debug, Default)]
struct Troubled(Arc<Trouble>);

#[derive(Debug, Default)]
struct Trouble {
    queue: MemoryQueue,
    refuses: AtomicBool,
    panics: AtomicBool,
    steps: AtomicUsize,
    /// Steps that are made, and not answered.
    held: AtomicUsize,
    holds: Mutex<bool>,
    goes_on: Condvar,
}

fn any_error() -> Error {
    "no id".parse::<JobId>().unwrap_err()
}

impl Troubled {
    fn step<R>(&self, step: impl FnOnce(&MemoryQueue) -> Result<R>) -> Result<R> {
        assert!(!self.0.panics.load(SeqCst), "a queue that panics");
        if self.0.refuses.load(SeqCst) {
            return Err(any_error());
        }
        step(&self.0.queue)
    }

    /// From here on a step is made, but not answered until `go_on`.
    fn hold(&self) {
        *self.0.holds.lock() = true;
    }

    fn go_on(&self) {
        *self.0.holds.lock() = false;
        self.0.goes_on.notify_all();
    }

    fn wait_held(&self) {
        wait_for("a step that is held", || self.0.held.load(SeqCst) > 0);
    }
}

impl JobQueue for Troubled {
    fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        self.step(|queue| queue.enqueue(jobs))
    }
    fn exchange(&self, settle: Vec<Settle>, claim: Option<Claim>) -> Result<Exchanged> {
        self.0.steps.fetch_add(1, SeqCst);
        let answer = self.step(|queue| queue.exchange(settle, claim));
        let mut holds = self.0.holds.lock();
        self.0.held.fetch_add(1, SeqCst);
        while *holds {
            self.0.goes_on.wait(&mut holds);
        }
        self.0.held.fetch_sub(1, SeqCst);
        answer
    }
    fn note(&self, notes: Vec<Note>) -> Result<Vec<bool>> {
        self.step(|queue| queue.note(notes))
    }
    fn register(&self, process: &str, kinds: &[String]) -> Result<OwnerId> {
        self.step(|queue| queue.register(process, kinds))
    }
    fn beat(&self, owner: OwnerId) -> Result<Option<Vec<JobId>>> {
        self.step(|queue| queue.beat(owner))
    }
    fn owners(&self) -> Result<Vec<Owner>> {
        self.step(|queue| queue.owners())
    }
    fn rescue(&self, owner: &Owner, now: Timestamp) -> Result<Vec<Rescued>> {
        self.step(|queue| queue.rescue(owner, now))
    }
    fn cancel(&self, id: JobId, now: Timestamp) -> Result<Cancel> {
        self.step(|queue| queue.cancel(id, now))
    }
    fn retry(&self, id: JobId, now: Timestamp) -> Result<bool> {
        self.step(|queue| queue.retry(id, now))
    }
    fn rebase(&self, now: Timestamp) -> Result<u64> {
        self.step(|queue| queue.rebase(now))
    }
    fn get(&self, id: JobId) -> Result<Option<JobRow>> {
        self.step(|queue| queue.get(id))
    }
    fn list(&self, filter: &JobFilter) -> Result<Listed> {
        self.step(|queue| queue.list(filter))
    }
    fn counts(&self) -> Result<Vec<KindCounts>> {
        self.step(|queue| queue.counts())
    }
    fn schedules(&self, which: &WhichSchedules) -> Result<Vec<StoredSchedule>> {
        self.step(|queue| queue.schedules(which))
    }
    fn next_schedule_at(&self, after: Timestamp) -> Result<Option<Timestamp>> {
        self.step(|queue| queue.next_schedule_at(after))
    }
    fn change_schedules(&self, changes: Vec<ScheduleChange>) -> Result<Vec<Option<Vec<Enqueued>>>> {
        self.step(|queue| queue.change_schedules(changes))
    }
    fn prune(&self, before: Timestamp, keep: u64, limit: u64) -> Result<u64> {
        self.step(|queue| queue.prune(before, keep, limit))
    }
}

struct Scene {
    l0: l0::L0,
    queue: Troubled,
    told: mpsc::Receiver<u32>,
    is_open: Arc<AtomicBool>,
    _dir: TempDir,
}

/// Workers, and a handler that tells of its beginning.
fn scene(workers: usize) -> Scene {
    let (dir, queue) = (tempfile::tempdir().unwrap(), Troubled::default());
    let l0 = builder(dir.path()).workers(workers).job_queue(queue.clone()).start().unwrap();
    let (tell, told) = mpsc::channel();
    let is_open = Arc::new(AtomicBool::new(false));
    let open = Arc::clone(&is_open);
    l0.jobs()
        .register(move |work: Work, cx| {
            cx.progress(work.number.into(), 0, "begun");
            let _ = tell.send(work.number);
            wait_for("the end of a handler", || work.number < HELD || open.load(SeqCst));
            Ok(work.number)
        })
        .unwrap();
    l0.jobs().start().unwrap();
    Scene { l0, queue, told, is_open, _dir: dir }
}

impl Scene {
    fn enqueue(&self, number: u32) -> l0::jobs::JobHandle<u32> {
        self.l0.jobs().enqueue(work(number)).unwrap()
    }

    fn begins(&self) -> u32 {
        self.told.recv_timeout(LONG).unwrap()
    }
}

#[test]
fn what_comes_while_a_step_is_made_is_not_slept_over() {
    let scene = scene(4);
    scene.enqueue(1).wait().unwrap();
    scene.queue.hold();
    let held = scene.enqueue(HELD);
    scene.queue.wait_held();
    let second = scene.enqueue(2);
    scene.queue.go_on();
    assert_eq!(second.wait_timeout(LONG / 4), Some(Ok(2)), "others are free, though one is at something long");
    scene.is_open.store(true, SeqCst);
    held.wait().unwrap();
}

#[test]
fn what_becomes_due_behind_something_long_begins_beside_it() {
    let scene = scene(4);
    scene.enqueue(1).wait().unwrap();
    let delayed = scene.l0.jobs().enqueue_with(work(2), JobOptions::default().delay(200 * MS)).unwrap();
    let held = scene.enqueue(HELD);
    assert_eq!(delayed.wait_timeout(LONG / 4), Some(Ok(2)));
    scene.is_open.store(true, SeqCst);
    held.wait().unwrap();
}

#[test]
fn as_many_begin_at_once_as_may_and_as_many_more_as_are_allowed_later() {
    let scene = scene(4);
    scene.enqueue(1).wait().unwrap();
    let batch = scene.l0.jobs().enqueue_batch((0..6).map(|number| work(HELD + number))).unwrap();
    let began = |count: usize| (0..count).map(|_| scene.begins()).collect::<Vec<_>>().len();
    assert_eq!((scene.begins(), began(4)), (1, 4), "one after the other would not come to four");
    scene.l0.jobs().queue("default", 6).unwrap();
    assert_eq!(began(2), 2);
    // With fewer than run, nobody looks again and again.
    scene.l0.jobs().queue("default", 1).unwrap();
    let soon = scene.l0.jobs().enqueue_with(work(2), JobOptions::default().delay(20 * MS)).unwrap();
    let before = scene.queue.0.steps.load(SeqCst);
    assert_eq!(soon.wait_timeout(300 * MS), None);
    let steps = scene.queue.0.steps.load(SeqCst) - before;
    assert!(steps < 20, "{steps} steps for nothing");
    scene.is_open.store(true, SeqCst);
    batch.into_iter().for_each(|job| _ = job.wait().unwrap());
    assert_eq!(soon.wait_timeout(LONG), Some(Ok(2)));
}

#[test]
fn what_a_queue_refuses_is_settled_when_it_takes_it_again() {
    let scene = scene(2);
    let job = scene.enqueue(HELD);
    scene.begins();
    scene.queue.0.refuses.store(true, SeqCst);
    scene.is_open.store(true, SeqCst);
    assert_eq!(job.wait_timeout(300 * MS), None);
    // In this order, so that the queue takes nothing between the two.
    scene.queue.0.panics.store(true, SeqCst);
    scene.queue.0.refuses.store(false, SeqCst);
    assert_eq!(job.wait_timeout(300 * MS), None, "nor does one that panics end anything");
    scene.queue.0.panics.store(false, SeqCst);
    assert_eq!(job.wait_timeout(LONG), Some(Ok(HELD)));
    let row = scene.l0.jobs().list().fetch().unwrap().items.remove(0);
    assert_eq!(
        row.progress,
        Some(Progress::new(HELD.into(), 0, "begun")),
        "the last it said, though a note was refused"
    );
    let told = scene.l0.events().search("waits for the store").unwrap().fetch().unwrap().items;
    assert!(!told.is_empty() && told.len() <= 2, "it is told once each time: {}", told.len());
}

#[test]
fn a_handler_that_is_given_up_in_trouble_is_settled_later_and_a_retry_is_a_run_of_its_own() {
    let scene = scene(1);
    let short = JobOptions::default().timeout(30 * MS);
    let job = scene.l0.jobs().enqueue_with(work(HELD), short).unwrap();
    scene.begins();
    scene.queue.0.refuses.store(true, SeqCst);
    assert_eq!(job.wait_timeout(300 * MS), None);
    scene.queue.0.refuses.store(false, SeqCst);
    assert_eq!(job.wait_timeout(LONG), Some(Err(JobFailure::TimedOut)));
    assert!(scene.l0.jobs().retry(job.id()).unwrap());
    assert_eq!(scene.begins(), HELD, "another thread has its place");
    scene.is_open.store(true, SeqCst);
    assert_eq!(job.wait_timeout(LONG), Some(Ok(HELD)), "the first, which ends now, too, takes nothing from it");
    assert_eq!(scene.enqueue(3).wait_timeout(LONG), Some(Ok(3)), "and its place is free");
}

#[test]
fn a_job_that_was_claimed_ahead_is_cancelled_before_it_begins() {
    let scene = scene(1);
    // So that its kind is known to be quick.
    for number in 0..40 {
        scene.enqueue(number).wait().unwrap();
        scene.begins();
    }
    let jobs = scene.l0.jobs().enqueue_batch([work(HELD), work(50)]).unwrap();
    assert_eq!(scene.begins(), HELD);
    assert_eq!(jobs[1].state().unwrap(), JobState::Pending);
    assert!(jobs[1].cancel().unwrap());
    assert_eq!(jobs[1].wait_timeout(LONG), Some(Err(JobFailure::Cancelled)));
    scene.is_open.store(true, SeqCst);
    assert_eq!(jobs[0].wait_timeout(LONG), Some(Ok(HELD)));
    assert!(scene.told.try_recv().is_err(), "it never ran");
}

#[test]
fn a_waker_that_panics_harms_nobody_else() {
    struct Bomb;
    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {
            panic!("a waker of an executor that is gone");
        }
    }
    let scene = scene(1);
    let waker = Waker::from(Arc::new(Bomb));
    let mut job = std::pin::pin!(scene.enqueue(HELD));
    let is_open = Arc::clone(&scene.is_open);
    let closure = scene
        .l0
        .jobs()
        .spawn("held", move |_| {
            wait_for("the end", || is_open.load(SeqCst));
            Ok(())
        })
        .unwrap();
    let mut closure = std::pin::pin!(closure);
    assert!(job.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(closure.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    scene.is_open.store(true, SeqCst);
    assert_eq!(scene.enqueue(2).wait_timeout(LONG), Some(Ok(2)));
    assert_eq!(scene.l0.jobs().spawn("next", |_| Ok(3)).unwrap().wait_timeout(LONG), Some(Ok(3)));
}

#[test]
fn an_end_at_any_moment_costs_no_attempt_of_what_did_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let ran = Arc::new(Mutex::new(Vec::new()));
    let mut ids = Vec::new();
    let begun = Instant::now();
    for round in 0..30 {
        let l0 = builder(dir.path()).workers(2).job_durability(l0::Durability::Normal).start().unwrap();
        let seen = Arc::clone(&ran);
        l0.jobs()
            .register(move |work: Work, cx| {
                seen.lock().push(cx.id());
                Ok(work.number)
            })
            .unwrap();
        l0.jobs().start().unwrap();
        for number in 0..3 {
            let last = JobOptions::default().max_attempts(1);
            ids.push(l0.jobs().enqueue_with(work(round * 10 + number), last).unwrap().id());
        }
        l0.shutdown(LONG).unwrap();
    }
    let l0 = builder(dir.path()).start().unwrap();
    for id in &ids {
        let row = l0.jobs().get(*id).unwrap().unwrap();
        let has_run = ran.lock().contains(id);
        let expected = if has_run { (JobState::Success, 1) } else { (JobState::Pending, 0) };
        assert_eq!((row.state, row.attempt), expected, "{row}, after {:?}", begun.elapsed());
        assert_eq!((row.reason, row.started_at.is_some()), (Reason::None, has_run), "{row}");
    }
}

#[test]
fn a_queue_that_panics_is_an_error_to_who_asks_it() {
    let (dir, queue) = (tempfile::tempdir().unwrap(), Troubled::default());
    let l0 = builder(dir.path()).workers(1).job_queue(queue.clone()).start().unwrap();
    let jobs = l0.jobs();
    jobs.register(|work: Work, _| Ok(work.number)).unwrap();
    queue.0.panics.store(true, SeqCst);
    let refused = jobs.start().unwrap_err();
    assert!(refused.is_storage() && refused.to_string().contains("a queue that panics"), "{refused}");
    assert!(jobs.enqueue(work(1)).unwrap_err().is_storage() && jobs.list().fetch().unwrap_err().is_storage());
    assert!(jobs.run_due().unwrap_err().is_storage() && jobs.stats().unwrap_err().is_storage());
    queue.0.panics.store(false, SeqCst);
    jobs.start().unwrap();
    assert_eq!(jobs.enqueue(work(2)).unwrap().wait(), Ok(2), "and it goes on when the queue does");
}

#[test]
fn workers_follow_a_clock_that_is_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3_600);
    let (clock, time) = l0::Clock::manual(Timestamp::now());
    let begin = clock.now();
    let l0 = builder(dir.path()).workers(1).clock(clock).start().unwrap();
    let jobs = l0.jobs();
    jobs.register(|work: Work, _| Ok(work.number)).unwrap();
    jobs.start().unwrap();
    assert_eq!(jobs.enqueue(work(1)).unwrap().wait(), Ok(1));
    let soon = jobs.enqueue_with(work(2), JobOptions::default().delay(Duration::from_secs(60))).unwrap();
    time.set_wall(begin.saturating_sub(hour));
    // By a clock that shows an hour less than the one before, this one is the latest, and nothing else is due.
    assert_eq!(jobs.enqueue(work(3)).unwrap().wait_timeout(LONG), Some(Ok(3)));
    assert_eq!(soon.state().unwrap(), JobState::Pending);
    let due = jobs.get(soon.id()).unwrap().unwrap().run_at;
    let after_ns = due.as_unix_ns() - begin.saturating_sub(hour).as_unix_ns();
    assert_eq!(after_ns / 1_000_000_000, 60, "as long after the new time as after the old");
    time.advance(Duration::from_secs(61));
    assert_eq!(jobs.enqueue(work(4)).unwrap().wait_timeout(LONG), Some(Ok(4)));
    assert_eq!(soon.wait_timeout(LONG), Some(Ok(2)), "not an hour later");
}

#[test]
fn the_end_keeps_its_bound_on_a_store_that_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    let (tell, told) = mpsc::channel();
    l0.jobs()
        .register(move |_: Work, cx| -> std::result::Result<u32, JobError> {
            let _ = tell.send(());
            loop {
                cx.check()?;
                std::thread::yield_now();
            }
        })
        .unwrap();
    l0.jobs().start().unwrap();
    let job = l0.jobs().enqueue(work(1)).unwrap();
    told.recv_timeout(LONG).unwrap();
    let locks = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    locks.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    let _ = l0.shutdown(Duration::from_secs(1));
    // Its steps would wait for two seconds each.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(job.wait_timeout(LONG), Some(Err(JobFailure::Stopped)));
    drop(locks);
    let l0 = builder(dir.path()).start().unwrap();
    let row = l0.jobs().list().fetch().unwrap().items.remove(0);
    // A worker may yet have said that it was interrupted, when the lock went.
    assert!(!row.state.is_final() && row.attempt <= 1, "{row}");
}

#[test]
fn run_due_keeps_what_a_queue_refuses() {
    let (dir, queue) = (tempfile::tempdir().unwrap(), Troubled::default());
    let l0 = builder(dir.path()).job_queue(queue.clone()).start().unwrap();
    let refuses = queue.clone();
    l0.jobs()
        .register(move |work: Work, _| {
            refuses.0.refuses.store(true, SeqCst);
            Ok(work.number)
        })
        .unwrap();
    let job = l0.jobs().enqueue(work(7)).unwrap();
    assert!(l0.jobs().run_due().is_err());
    queue.0.refuses.store(false, SeqCst);
    l0.jobs().run_due().unwrap();
    assert_eq!(job.wait_timeout(LONG), Some(Ok(7)), "it was done once, and is settled now");
}

#[test]
fn a_handler_that_is_given_up_within_run_due_leaves_the_queue_as_it_was() {
    let (dir, queue) = (tempfile::tempdir().unwrap(), Troubled::default());
    let l0 = builder(dir.path()).workers(1).job_queue(queue.clone()).start().unwrap();
    let seen = queue.clone();
    l0.jobs()
        .register(move |work: Work, cx| {
            let is_over = || seen.0.queue.get(cx.id()).unwrap().unwrap().state == JobState::Failed;
            wait_for("the end of patience", || work.number < HELD || is_over());
            Ok(work.number)
        })
        .unwrap();
    let job = l0.jobs().enqueue_with(work(HELD), JobOptions::default().timeout(30 * MS)).unwrap();
    assert_eq!(l0.jobs().run_due().unwrap(), 1);
    assert_eq!(job.wait_timeout(LONG), Some(Err(JobFailure::TimedOut)));
    l0.jobs().start().unwrap();
    assert_eq!(l0.jobs().enqueue(work(2)).unwrap().wait_timeout(LONG), Some(Ok(2)));
}

#[test]
fn what_another_ends_that_runs_nothing_itself_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let runs = builder(dir.path()).start().unwrap();
    runs.jobs().register(|work: Work, _| Ok(work.number)).unwrap();
    runs.jobs().start().unwrap();
    let other = builder(dir.path()).start().unwrap();
    let job = runs.jobs().enqueue_with(work(1), JobOptions::default().delay(LONG * 100)).unwrap();
    assert_eq!(job.wait_timeout(50 * MS), None);
    assert!(other.jobs().cancel(job.id()).unwrap());
    assert_eq!(job.wait_timeout(LONG), Some(Err(JobFailure::Cancelled)));
}

#[test]
fn two_that_run_something_long_leave_the_store_in_peace() {
    let dir = tempfile::tempdir().unwrap();
    let is_open = Arc::new(AtomicBool::new(false));
    let start = |number| {
        let l0 = builder(dir.path()).workers(1).job_durability(l0::Durability::Normal).start().unwrap();
        let (tell, told) = mpsc::channel();
        let open = Arc::clone(&is_open);
        l0.jobs()
            .register(move |work: Work, _| {
                tell.send(()).unwrap();
                wait_for("the end of a handler", || open.load(SeqCst));
                Ok(work.number)
            })
            .unwrap();
        l0.jobs().start().unwrap();
        let job = l0.jobs().enqueue(work(number)).unwrap();
        (l0, job, told)
    };
    let (one, other) = (start(1), start(2));
    let begun = Instant::now();
    while one.2.try_recv().is_err() || other.2.try_recv().is_err() {
        // Either may have taken both: then it runs one after the other.
        if begun.elapsed() > Duration::from_millis(500) {
            break;
        }
    }
    let bytes = || std::fs::metadata(dir.path().join("state.db-wal")).unwrap().len();
    // What follows the beginning comes to rest.
    assert_eq!(one.1.wait_timeout(Duration::from_secs(2)), None);
    let before = bytes();
    assert_eq!(one.1.wait_timeout(Duration::from_secs(2)), None);
    let written = bytes().abs_diff(before);
    assert!(written < 100_000, "{written} bytes of WAL in two seconds in which nothing happens");
    is_open.store(true, SeqCst);
    assert!(one.1.wait_timeout(LONG).is_some() && other.1.wait_timeout(LONG).is_some());
}
