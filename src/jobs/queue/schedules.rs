//! Schedules as they cross the trait: a queue keeps them and changes them by revision, and knows nothing of what they mean.

use super::NewJob;
use crate::clock::Timestamp;

/// A schedule as it is kept: what of it is looked for, and the rest as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredSchedule {
    /// Names it.
    pub name: String,
    /// Another with each change.
    pub revision: u64,
    /// When it is due.
    pub next_at: Option<Timestamp>,
    /// Something of it is due when all its jobs are final.
    pub waits: bool,
    /// What it is, its job and its history, as JSON.
    pub entry: String,
    /// Its jobs that are not final.
    pub open: u64,
    /// When the job that was enqueued for it last became final, if it has.
    pub ended_at: Option<Timestamp>,
}

impl StoredSchedule {
    /// One of which there are no jobs.
    pub fn new(name: &str, revision: u64, to: &SchedulePut) -> Self {
        let SchedulePut { next_at, waits, entry } = to.clone();
        Self { name: name.to_owned(), revision, next_at, waits, entry, open: 0, ended_at: None }
    }
}

/// Which schedules are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhichSchedules {
    /// All.
    All,
    /// The one of this name.
    Named(String),
    /// Those that are due by then, and those that wait for the end of their jobs and have none any more; but for the first so
    /// many.
    Due {
        /// By when.
        by: Timestamp,
        /// How many are known, and stay due.
        skip: usize,
    },
}

/// What becomes of a schedule, and the jobs that are enqueued with that.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleChange {
    /// Of which.
    pub name: String,
    /// The revision that is known; 0 if there is none of this name.
    pub revision: u64,
    /// What it becomes; `None` if it is removed.
    pub to: Option<SchedulePut>,
    /// Enqueued in the same step.
    pub jobs: Vec<NewJob>,
}

/// What a schedule becomes. See [`StoredSchedule`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulePut {
    /// When it is due.
    pub next_at: Option<Timestamp>,
    /// Something of it is due when all its jobs are final.
    pub waits: bool,
    /// JSON.
    pub entry: String,
}
