//! What a builder is told of jobs.

use std::{num::NonZeroUsize, thread, time::Duration};

/// Fewer would let a job that waits for something hold up all others.
const WORKERS_MIN: usize = 4;

/// As many as there are processors, and four at least.
pub(super) fn workers_default() -> usize {
    thread::available_parallelism().map_or(WORKERS_MIN, NonZeroUsize::get).clamp(WORKERS_MIN, super::WORKERS_MAX)
}

/// What a job that was enqueued survives, and so what enqueueing costs.
///
/// Either way nothing is lost when the process dies, however it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// `enqueue` returns before the disk is told: a power loss, or a crash of the system, may lose what was enqueued, and run
    /// again what was finished, in the last moments before it. The database stays sound.
    Normal,
    /// `enqueue` returns, and an outcome is told, when the disk has it: SQLite's `synchronous=FULL`, one sync for all who
    /// enqueue at the same time. Survives what the disk survives.
    Full,
}

impl Default for Durability {
    /// Full.
    fn default() -> Self {
        Self::Full
    }
}

/// What is told of jobs as telemetry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobEvents {
    /// Each change of a durable job's state is an event, and each attempt a span. Of a closure its run is a span, and that it
    /// failed an event.
    #[default]
    All,
    /// Attempts are spans; only what fails, is tried again or is rescued is an event.
    Failures,
    /// Nothing; what handlers record still belongs to what the job belongs to.
    Off,
}

/// How many finished jobs are kept, and for how long.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// let history = l0::JobHistory::default().max_count(1_000);
/// let l0 = l0::builder().dir(dir.path()).job_history(history).start()?;
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobHistory {
    pub(crate) max_age: Duration,
    pub(crate) max_count: u64,
}

impl Default for JobHistory {
    /// Seven days; of each kind, 10,000 that succeeded, as many that failed, and as many that were cancelled.
    fn default() -> Self {
        Self { max_age: Duration::from_secs(7 * 24 * 3600), max_count: 10_000 }
    }
}

impl JobHistory {
    /// Jobs that finished longer ago are removed.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// Of each kind and each final state, only so many are kept: the latest.
    #[must_use]
    pub fn max_count(mut self, count: u64) -> Self {
        self.max_count = count;
        self
    }
}
