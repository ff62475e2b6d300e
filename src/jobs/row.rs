//! What can be seen of jobs: rows, counts, and the question for them.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{
    id::{JobId, JobState, Reason},
    queue::{NewJob, Progress},
};
use crate::clock::Timestamp;

/// One durable job, as its queue has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct JobRow {
    /// Names it.
    pub id: JobId,
    /// [`Job::KIND`](super::Job::KIND).
    pub kind: String,
    /// Where it waits, or waited.
    pub queue: String,
    /// How it stands.
    pub state: JobState,
    /// Why; of a pending job, why it is so again.
    pub reason: Reason,
    /// Higher is sooner.
    pub priority: i32,
    /// Attempts that were begun and count; the running one among them.
    pub attempt: u32,
    /// How many there may be.
    pub max_attempts: u32,
    /// JSON.
    pub payload: String,
    /// When it was enqueued.
    pub enqueued_at: Timestamp,
    /// When it is, or was, due.
    pub run_at: Timestamp,
    /// When its latest attempt was begun.
    pub started_at: Option<Timestamp>,
    /// When it became final.
    pub finished_at: Option<Timestamp>,
    /// The latest it said of itself.
    pub progress: Option<Progress>,
    /// What its next attempt may begin with, as JSON.
    pub checkpoint: Option<String>,
    /// Of a success, as JSON.
    pub result: Option<String>,
    /// Of the latest attempt that failed.
    pub error: Option<String>,
    /// Its unique key.
    pub unique: Option<String>,
    /// What it belongs to.
    pub correlation_id: Option<String>,
    /// The schedule that it is of, by name.
    pub schedule: Option<String>,
    /// The fire time of the schedule that it is for.
    pub scheduled_for: Option<Timestamp>,
    /// Somebody asked for it to be cancelled while it runs.
    pub is_cancel_asked: bool,
    /// How long an attempt may take.
    pub timeout: Option<Duration>,
}

impl JobRow {
    /// A job as it comes into a queue.
    pub fn new(id: JobId, new: &NewJob) -> Self {
        Self {
            id,
            kind: new.kind.clone(),
            queue: new.queue.clone(),
            state: JobState::Pending,
            reason: Reason::None,
            priority: new.priority,
            attempt: 0,
            max_attempts: new.terms.max_attempts,
            payload: new.payload.clone(),
            enqueued_at: new.enqueued_at,
            run_at: new.run_at,
            started_at: None,
            finished_at: None,
            progress: None,
            checkpoint: None,
            result: None,
            error: None,
            unique: new.unique.clone(),
            correlation_id: new.correlation_id.clone().map(String::from),
            schedule: new.schedule.clone(),
            scheduled_for: new.scheduled_for,
            is_cancel_asked: false,
            timeout: new.terms.timeout,
        }
    }

    /// How long its latest attempt took, or has taken by `now`.
    pub fn run_time(&self, now: Timestamp) -> Option<Duration> {
        let until = if self.state == JobState::Running { now } else { self.finished_at? };
        let ns = until.as_unix_ns().saturating_sub(self.started_at?.as_unix_ns());
        Some(Duration::from_nanos(u64::try_from(ns).unwrap_or(0)))
    }
}

impl fmt::Display for JobRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, kind, state, attempt, max_attempts, .. } = self;
        write!(f, "{id} {state:<9} {} attempt {attempt}/{max_attempts}", crate::query::harmless(kind))?;
        if self.reason != Reason::None {
            write!(f, " {}", self.reason)?;
        }
        if let Some(progress) = &self.progress {
            write!(f, " {}/{} {}", progress.done, progress.total, crate::query::harmless(&progress.message))?;
        }
        if let Some(error) = &self.error {
            write!(f, ": {}", crate::query::harmless(error.lines().next().unwrap_or_default()))?;
        }
        Ok(())
    }
}

/// Which jobs are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobFilter {
    /// Of this kind.
    pub kind: Option<String>,
    /// In this state.
    pub state: Option<JobState>,
    /// Of this queue.
    pub queue: Option<String>,
    /// Those with lower numbers than this: where the page before ended.
    pub before: Option<u64>,
    /// So many at most.
    pub limit: u32,
}

impl JobFilter {
    /// The latest so many of all jobs.
    pub fn latest(limit: u32) -> Self {
        Self { limit, ..Self::default() }
    }
}

/// How many jobs of a kind there are.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KindCounts {
    /// The kind.
    pub kind: String,
    /// That wait.
    pub pending: u64,
    /// That run.
    pub running: u64,
    /// That succeeded and are kept.
    pub success: u64,
    /// That failed and are kept.
    pub failed: u64,
    /// That were cancelled and are kept.
    pub cancelled: u64,
    /// When the pending one was due that is due longest.
    pub oldest_pending: Option<Timestamp>,
    /// Run times of the latest successes, a thousand or so.
    #[serde(skip)]
    pub run_times: Vec<Duration>,
}

impl KindCounts {
    /// None yet.
    pub fn new(kind: &str) -> Self {
        Self { kind: kind.to_owned(), ..Self::default() }
    }
}
