//! Where durable jobs are kept: the trait, what crosses it, and the implementations that come with l0.
//!
//! A queue knows nothing of threads, clocks or handlers: every moment it goes by is given to it, and each call is one
//! atomic step. The runner decides, the queue remembers.
//!
//! Invariants, which `l0::testing::job_queue` checks of any implementation:
//! - a job is in one state at a time; success, failed and cancelled are final but for `retry`;
//! - a claim mints a lease, and only who names the current lease of a running job changes it;
//! - of a kind's jobs with the same unique key, at most one is pending or running;
//! - what a call returned is there when the process dies behind it, as durable as the implementation says.

mod guarded;
mod memory;
mod rules;
mod schedules;
mod sqlite;

use std::{fmt, sync::Arc, time::Duration};

pub(super) use guarded::Guarded;
pub use memory::MemoryQueue;
pub use schedules::{ScheduleChange, SchedulePut, StoredSchedule, WhichSchedules};
use serde::{Deserialize, Serialize};
pub use sqlite::SqliteQueue;

use super::{
    id::{JobId, JobState, Reason},
    job::Backoff,
    row::{JobFilter, JobRow, KindCounts},
};
use crate::{clock::Timestamp, correlation::CorrelationId, error::Result};

/// Keeps durable jobs, and lends them to processes.
///
/// l0 keeps them in `state.db`, and [`MemoryQueue`] in memory; one of your own is given to
/// `Builder::job_queue`. `l0::testing::job_queue` runs the conformance suite on it.
///
/// Every method may be called from any thread, and is one atomic step.
///
/// # Errors
/// Of every method: `is_storage` if the step was not made, and nothing of it was.
pub trait JobQueue: fmt::Debug + Send + Sync + 'static {
    /// Puts jobs into the queue, all or none; answers in their order. Of one whose unique key is taken by a pending or
    /// running job of its kind, that one's id, and that it is not new.
    fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>>;

    /// Settles what was run and claims what is to be run next, in one step.
    ///
    /// A settlement whose lease is not current changes nothing, and is answered `None`. A job that is to be pending again is cancelled
    /// if somebody has asked for that; one that was not begun has no start then, and stays for the reason it was pending before.
    ///
    /// Of the jobs of the asked kinds in the asked queue that are due, the claim takes those of the highest priority, of these
    /// those due longest; or, if it asks for the oldest, those due longest of all. A due job whose `start_by` has passed fails as
    /// [`Reason::MissedDeadline`]; one that was begun loses that bound with its settlement or rescue. For an owner that is not known
    /// nothing is claimed.
    fn exchange(&self, settle: Vec<Settle>, claim: Option<Claim>) -> Result<Exchanged>;

    /// Writes progress and checkpoints of running jobs; `false` for a lease that is not current.
    fn note(&self, notes: Vec<Note>) -> Result<Vec<bool>>;

    /// Makes this process known as an owner of leases; ids are never used again. `process` says how it can be found out whether
    /// it lives, `kinds` what it can run.
    fn register(&self, process: &str, kinds: &[String]) -> Result<OwnerId>;

    /// Says that the owner lives, and asks which of its jobs are to be cancelled. `None` if it is not known (any more): its
    /// leases are gone.
    fn beat(&self, owner: OwnerId) -> Result<Option<Vec<JobId>>>;

    /// All owners.
    fn owners(&self) -> Result<Vec<Owner>>;

    /// Forgets an owner that is dead, unless it has made itself heard since `owner` was read, and ends its leases: each of its
    /// jobs is pending again at `now`, or has failed as [`Reason::Abandoned`] if that was its last attempt, or is cancelled if
    /// somebody had asked for that. The attempt counts, unless it was [noted](Note) as interrupted.
    fn rescue(&self, owner: &Owner, now: Timestamp) -> Result<Vec<Rescued>>;

    /// Cancels a pending job, and asks for it if it runs.
    fn cancel(&self, id: JobId, now: Timestamp) -> Result<Cancel>;

    /// Makes a failed or cancelled job pending again, with all its attempts; `false` for another, or if its unique key is taken.
    fn retry(&self, id: JobId, now: Timestamp) -> Result<bool>;

    /// The clock was set back, to `now`: pending jobs whose time was told by it before, as so long after a moment that is yet to
    /// come (by more than a second), are due as long after `now`. Those whose [time was named](NewJob::is_named) keep it. Says how
    /// many.
    fn rebase(&self, now: Timestamp) -> Result<u64>;

    /// Whether other processes may put jobs into it, too: then it is looked at every second, where the system does not tell what
    /// they write.
    fn is_shared(&self) -> bool {
        false
    }

    /// One job.
    fn get(&self, id: JobId) -> Result<Option<JobRow>>;

    /// Jobs, the latest enqueued first.
    fn list(&self, filter: &JobFilter) -> Result<Listed>;

    /// Counts by kind, in the kinds' order.
    fn counts(&self) -> Result<Vec<KindCounts>>;

    /// The schedules that are asked for, by name, or by time if it is the due ones; of these a thousand at most.
    fn schedules(&self, which: &WhichSchedules) -> Result<Vec<StoredSchedule>>;

    /// When the first schedule is due that is due later than this.
    fn next_schedule_at(&self, after: Timestamp) -> Result<Option<Timestamp>>;

    /// Changes schedules and enqueues jobs for them, in one step; each change by itself: it is made if the schedule's revision
    /// is the one that it names, and answered with its jobs, else nothing of it is, and it is answered `None`. A job whose
    /// [fire time](NewJob::scheduled_for) of that [schedule](NewJob::schedule) has a job already is not new.
    fn change_schedules(&self, changes: Vec<ScheduleChange>) -> Result<Vec<Option<Vec<Enqueued>>>>;

    /// Removes final jobs that ended before `before`, and of each queue, kind and final state all but the latest `keep`; at most
    /// `limit` at a time. The job that was enqueued last may stay. Says how many.
    fn prune(&self, before: Timestamp, keep: u64, limit: u64) -> Result<u64>;
}

/// A job that is put into a queue.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NewJob {
    /// [`Job::KIND`](super::Job::KIND).
    pub kind: String,
    /// Where it waits.
    pub queue: String,
    /// Higher is sooner.
    pub priority: i32,
    /// JSON.
    pub payload: String,
    /// Now.
    pub enqueued_at: Timestamp,
    /// When it is due.
    pub run_at: Timestamp,
    /// That moment itself was named, not a pause from now.
    pub is_named: bool,
    /// How its attempts are treated.
    pub terms: Terms,
    /// See [`JobOptions::unique`](super::JobOptions::unique).
    pub unique: Option<String>,
    /// What it belongs to.
    pub correlation_id: Option<CorrelationId>,
    /// The schedule that it is of, by name.
    pub schedule: Option<String>,
    /// The fire time of the schedule that it is for.
    pub scheduled_for: Option<Timestamp>,
}

impl NewJob {
    /// A job of this kind and payload that is due at once, with default options.
    pub fn new(kind: &str, payload: &str, now: Timestamp) -> Self {
        Self {
            kind: kind.to_owned(),
            queue: super::DEFAULT_QUEUE.to_owned(),
            priority: 0,
            payload: payload.to_owned(),
            enqueued_at: now,
            run_at: now,
            is_named: false,
            terms: Terms::default(),
            unique: None,
            correlation_id: None,
            schedule: None,
            scheduled_for: None,
        }
    }
}

/// How a job's attempts are treated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Terms {
    /// How many there may be.
    pub max_attempts: u32,
    /// The pause between them.
    pub backoff: Backoff,
    /// How long each may take.
    pub timeout: Option<Duration>,
    /// Until when the first may begin.
    pub start_by: Option<Timestamp>,
    /// It is asked to end as soon as its process is to.
    pub yields: bool,
}

impl Default for Terms {
    fn default() -> Self {
        let options = super::JobOptions::default();
        Self {
            max_attempts: options.max_attempts,
            backoff: options.backoff,
            timeout: options.timeout,
            start_by: None,
            yields: false,
        }
    }
}

/// What `enqueue` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// The job, or the one that has its unique key.
    pub id: JobId,
    /// Whether it was put there now.
    pub is_new: bool,
}

/// A process that claims jobs, from its registration to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(pub i64);

/// What is known of an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id.
    pub id: OwnerId,
    /// What it was registered with.
    pub process: String,
    /// What it can run.
    pub kinds: Vec<String>,
    /// How often it has made itself heard.
    pub beat: u64,
}

/// The right to change a running job: minted by a claim, void with the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Of which job.
    pub id: JobId,
    /// Who has it.
    pub owner: OwnerId,
    /// Which claim of the job it is of.
    pub token: i64,
}

/// What is to be claimed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Claim {
    /// For whom.
    pub owner: OwnerId,
    /// Of which queue.
    pub queue: String,
    /// Of which kinds; with `true` those of which jobs may be claimed ahead.
    pub kinds: Arc<Vec<(String, bool)>>,
    /// How many can begin at once.
    pub limit: usize,
    /// How many more may be claimed ahead of their beginning, for throughput: never one in its last attempt, nor one whose
    /// process has died before, nor any beside such a one. Those are pending to a reader until a [`Note`] says that they run.
    pub ahead: usize,
    /// Those that are due longest, whatever their priority.
    pub oldest: bool,
    /// Now.
    pub now: Timestamp,
}

impl Claim {
    /// Up to so many jobs of a queue, none ahead.
    pub fn new(owner: OwnerId, queue: &str, kinds: &[&str], limit: usize, now: Timestamp) -> Self {
        let kinds = kinds.iter().map(|kind| ((*kind).to_owned(), false)).collect();
        Self { owner, queue: queue.to_owned(), kinds: Arc::new(kinds), limit, ahead: 0, oldest: false, now }
    }
}

/// A job that was claimed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Claimed {
    /// The right to change it.
    pub lease: Lease,
    /// Its kind.
    pub kind: String,
    /// Its priority.
    pub priority: i32,
    /// The how manieth attempt this is, from 1.
    pub attempt: u32,
    /// JSON.
    pub payload: String,
    /// What the latest attempt that said so left, as JSON.
    pub checkpoint: Option<String>,
    /// How its attempts are treated.
    pub terms: Terms,
    /// What it belongs to.
    pub correlation_id: Option<CorrelationId>,
    /// The schedule that it is of, by name.
    pub schedule: Option<String>,
    /// The fire time of the schedule that it is for.
    pub scheduled_for: Option<Timestamp>,
    /// When it was due.
    pub run_at: Timestamp,
    /// It was claimed ahead of its beginning.
    pub is_ahead: bool,
}

impl Claimed {
    /// A job that is claimed for the first time.
    pub fn new(lease: Lease, new: &NewJob) -> Self {
        Self {
            lease,
            kind: new.kind.clone(),
            priority: new.priority,
            attempt: 1,
            payload: new.payload.clone(),
            checkpoint: None,
            terms: new.terms.clone(),
            correlation_id: new.correlation_id.clone(),
            schedule: new.schedule.clone(),
            scheduled_for: new.scheduled_for,
            run_at: new.run_at,
            is_ahead: false,
        }
    }
}

/// How a run of a job ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Settle {
    /// The right to say so.
    pub lease: Lease,
    /// When it was begun; `None` if it was not.
    pub started_at: Option<Timestamp>,
    /// Now.
    pub at: Timestamp,
    /// Its latest progress, if it said any.
    pub progress: Option<Progress>,
    /// How.
    pub outcome: Outcome,
}

/// How a run of a job ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// With this result, as JSON.
    Success {
        /// JSON.
        result: String,
    },
    /// For good.
    Failed {
        /// Why.
        reason: Reason,
        /// In words.
        error: String,
    },
    /// By somebody's wish.
    Cancelled,
    /// It is pending again.
    Again {
        /// Why.
        reason: Reason,
        /// In words, if it was an error.
        error: Option<String>,
        /// When it is due.
        run_at: Timestamp,
        /// Whether the attempt counts.
        counts: bool,
    },
}

/// What `exchange` answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exchanged {
    /// Of each settlement, the state the job came to; `None` if its lease was not current.
    pub settled: Vec<Option<JobState>>,
    /// What was claimed: first what can begin at once, then what was claimed ahead.
    pub claimed: Vec<Claimed>,
    /// The claim was for an owner that is not known (any more): nothing was claimed.
    pub owner_is_unknown: bool,
    /// Jobs that failed because they could not be begun in time.
    pub missed: Vec<Ended>,
    /// When there may be something to claim again: not later than the next job of the asked kinds is due; `None` if there is
    /// none.
    pub next_due: Option<Timestamp>,
}

/// A job that ended without running.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The job.
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// What it belongs to.
    pub correlation_id: Option<CorrelationId>,
}

/// Something a running job says of itself. What is `None` stays as it is.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Note {
    /// The right to say so.
    pub lease: Lease,
    /// How far it is.
    pub progress: Option<Progress>,
    /// What its next attempt may begin with, as JSON.
    pub checkpoint: Option<String>,
    /// When it was begun, of a job that was claimed ahead.
    pub started_at: Option<Timestamp>,
    /// Its process shuts down in an orderly way: if the job is rescued, this attempt does not count.
    pub is_interrupted: bool,
}

impl Note {
    /// Says nothing yet.
    pub fn new(lease: Lease) -> Self {
        Self { lease, progress: None, checkpoint: None, started_at: None, is_interrupted: false }
    }
}

/// What became of a dead owner's job.
#[derive(Clone, Debug, PartialEq)]
pub struct Rescued {
    /// The job.
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// Where it waits.
    pub queue: String,
    /// The attempt during which its process died.
    pub attempt: u32,
    /// How it stands now.
    pub state: JobState,
    /// What it belongs to.
    pub correlation_id: Option<CorrelationId>,
}

/// What `cancel` came to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Cancel {
    /// It was pending, and is cancelled.
    Done(Ended),
    /// It runs; who runs it learns of it.
    Asked,
    /// There is no such job, or it is final.
    TooLate,
}

/// One page of jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed {
    /// The rows.
    pub rows: Vec<JobRow>,
    /// The number behind which the next page begins, if there is one.
    pub next: Option<u64>,
}

/// How far a job is. See [`JobContext::progress`](super::JobContext::progress).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// Of `total`.
    pub done: u64,
    /// 0 if nobody knows.
    pub total: u64,
    /// What it is at.
    pub message: String,
}

impl Progress {
    /// So much of so much, and what it is at.
    pub fn new(done: u64, total: u64, message: &str) -> Self {
        Self { done, total, message: message.to_owned() }
    }

    /// From 0 to 1; `None` if nobody knows.
    pub fn share(&self) -> Option<f64> {
        (self.total > 0).then(|| (self.done as f64 / self.total as f64).min(1.0))
    }
}
