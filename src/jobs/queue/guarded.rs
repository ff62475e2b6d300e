//! A queue of the application's, which may panic: its panics are errors to who asks it.

use std::sync::Arc;

use super::{
    super::{
        id::JobId,
        panic::catch,
        row::{JobFilter, JobRow, KindCounts},
    },
    Cancel, Claim, Enqueued, Exchanged, JobQueue, Listed, NewJob, Note, Owner, OwnerId, Rescued, ScheduleChange,
    Settle, StoredSchedule, WhichSchedules,
};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
};

/// Nothing that it does unwinds through a thread of l0's, or through who called l0.
#[derive(Debug)]
pub(in crate::jobs) struct Guarded(pub(in crate::jobs) Arc<dyn JobQueue>);

impl Guarded {
    fn step<R>(&self, step: impl FnOnce(&dyn JobQueue) -> Result<R>) -> Result<R> {
        catch(|| step(&*self.0))
            .unwrap_or_else(|panic| Err(Error::storage(format!("the queue of jobs panicked: {panic}"))))
    }
}

impl JobQueue for Guarded {
    fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        self.step(|queue| queue.enqueue(jobs))
    }

    fn exchange(&self, settle: Vec<Settle>, claim: Option<Claim>) -> Result<Exchanged> {
        self.step(|queue| queue.exchange(settle, claim))
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

    fn is_shared(&self) -> bool {
        self.step(|queue| Ok(queue.is_shared())).unwrap_or(false)
    }

    fn get(&self, id: JobId) -> Result<Option<JobRow>> {
        self.step(|queue| queue.get(id))
    }

    fn list(&self, filter: &JobFilter) -> Result<Listed> {
        self.step(|queue| queue.list(filter))
    }

    fn counts(&self) -> Result<Vec<KindCounts>> {
        self.step(JobQueue::counts)
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
