//! A queue that ends its process with SIGKILL at a step that can be chosen.

use std::sync::atomic::{AtomicU32, Ordering};

use l0::{
    Timestamp,
    jobs::{
        JobFilter, JobId, JobQueue, JobRow, KindCounts, SqliteQueue,
        queue::{
            Cancel, Claim, Enqueued, Exchanged, Listed, NewJob, Note, Owner, OwnerId, Rescued, ScheduleChange, Settle,
            StoredSchedule, WhichSchedules,
        },
    },
};

/// Does what the queue in it does, and kills the process before or behind the n-th step.
#[derive(Debug)]
pub struct Deadly {
    queue: SqliteQueue,
    steps: AtomicU32,
    at: u32,
}

impl Deadly {
    pub fn new(queue: SqliteQueue, at: u32) -> Self {
        Self { queue, steps: AtomicU32::new(0), at }
    }

    fn step<R>(&self, step: impl FnOnce(&SqliteQueue) -> R) -> R {
        self.boundary();
        let outcome = step(&self.queue);
        self.boundary();
        outcome
    }

    fn boundary(&self) {
        if self.steps.fetch_add(1, Ordering::SeqCst) + 1 == self.at {
            die();
        }
    }
}

fn die() -> ! {
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
    loop {
        std::thread::park();
    }
}

impl JobQueue for Deadly {
    fn enqueue(&self, jobs: Vec<NewJob>) -> l0::Result<Vec<Enqueued>> {
        self.step(|queue| queue.enqueue(jobs))
    }
    fn exchange(&self, settle: Vec<Settle>, claim: Option<Claim>) -> l0::Result<Exchanged> {
        self.step(|queue| queue.exchange(settle, claim))
    }
    fn note(&self, notes: Vec<Note>) -> l0::Result<Vec<bool>> {
        self.step(|queue| queue.note(notes))
    }
    fn register(&self, process: &str, kinds: &[String]) -> l0::Result<OwnerId> {
        self.step(|queue| queue.register(process, kinds))
    }
    fn beat(&self, owner: OwnerId) -> l0::Result<Option<Vec<JobId>>> {
        self.step(|queue| queue.beat(owner))
    }
    fn owners(&self) -> l0::Result<Vec<Owner>> {
        self.queue.owners()
    }
    fn rescue(&self, owner: &Owner, now: Timestamp) -> l0::Result<Vec<Rescued>> {
        self.step(|queue| queue.rescue(owner, now))
    }
    fn cancel(&self, id: JobId, now: Timestamp) -> l0::Result<Cancel> {
        self.step(|queue| queue.cancel(id, now))
    }
    fn retry(&self, id: JobId, now: Timestamp) -> l0::Result<bool> {
        self.step(|queue| queue.retry(id, now))
    }
    fn rebase(&self, now: Timestamp) -> l0::Result<u64> {
        self.step(|queue| queue.rebase(now))
    }
    fn get(&self, id: JobId) -> l0::Result<Option<JobRow>> {
        self.queue.get(id)
    }
    fn list(&self, filter: &JobFilter) -> l0::Result<Listed> {
        self.queue.list(filter)
    }
    fn counts(&self) -> l0::Result<Vec<KindCounts>> {
        self.queue.counts()
    }
    fn schedules(&self, which: &WhichSchedules) -> l0::Result<Vec<StoredSchedule>> {
        self.queue.schedules(which)
    }
    fn next_schedule_at(&self, after: Timestamp) -> l0::Result<Option<Timestamp>> {
        self.queue.next_schedule_at(after)
    }
    fn change_schedules(&self, changes: Vec<ScheduleChange>) -> l0::Result<Vec<Option<Vec<Enqueued>>>> {
        self.step(|queue| queue.change_schedules(changes))
    }
    fn prune(&self, before: Timestamp, keep: u64, limit: u64) -> l0::Result<u64> {
        self.step(|queue| queue.prune(before, keep, limit))
    }
}
