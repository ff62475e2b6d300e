//! Jobs: closures in memory, and durable jobs that survive the process.
//!
//! Two ways in, and the type says which: [`Jobs::spawn`] runs a closure on a thread of l0's, in memory;
//! [`Jobs::enqueue`] puts a [`Job`] into the store, where it is when the call returns. Both give a [`JobHandle`], to be waited
//! for by a thread or awaited on any executor.
//!
//! # What a durable job goes through
//!
//! It is pending until it is due, a worker of its queue is free, and a process has a handler for its kind; then it runs; then it
//! is pending again (it failed and is to be tried again, asked to be called later, or its process ended), or final: success,
//! failed, cancelled. [`JobRow::reason`] says why it stands as it does. Each change is committed once, under a lease that the
//! claim has minted: a process that was taken for dead and comes back changes nothing any more.
//!
//! A job is run at least once. It is run again if its process died behind the work and before the commit, so what a handler does
//! should stand being done twice. A death counts as an attempt, the last of which ends the job as failed
//! ([`Reason::Abandoned`]); an orderly end of the process does not count.
//!
//! # What survives what
//!
//! With [`Durability::Full`](crate::Durability), the default, a job that was enqueued and an outcome that was told survive the
//! process and the power; with `Normal` they survive the process. A checkpoint is as durable as the job.
//! Payloads, results and checkpoints are kept as they are, in `state.db`, which only its user can read: put no secret there
//! that should not be. Errors are kept without the secrets that redaction knows.
//!
//! # What it costs
//!
//! Figures are in `benches/README.md`. Nothing polls: an idle program is not woken, unless something is scheduled; then the clock,
//! which may be set, is looked at every half minute. Jobs of kinds that take less than 100 µs are
//! claimed up to 63 ahead, and settled together. A process that dies so may cost jobs that it had claimed with the culprit
//! an attempt, but never the last one, and not twice: what was claimed when a process died is from then on claimed only to begin at
//! once, and nothing ahead beside it.
//!
//! # Again and again
//!
//! [`Jobs::schedule`] enqueues a job at the times of a [`Schedule`]: each time once, by whichever process has started.
//!
//! # Several processes
//!
//! share a store's jobs. What one enqueues, another that has started takes when it next looks: at once if it is at work, else
//! as soon as the system tells that the store has changed (Linux); where the system does not tell, it looks every second. Of a
//! process that died the others take over what it held within five seconds, or as soon as they start.
//!
//! # Time
//!
//! is the wall clock's. When that is set back, what was due, or due in so long, is due as long after; a job whose
//! [time was named](JobOptions::run_at) keeps it. Leases go by the monotonic clock of who watches.
//!
//! # After `fork`
//!
//! a child that does not `exec` has no jobs: calls say that l0 is closed.

mod cell;
mod checks;
mod context;
mod error;
mod handle;
mod id;
mod job;
mod list;
#[cfg(all(test, loom))]
mod loom_model;
mod outcome;
pub(crate) mod panic;
mod pool;
pub mod queue;
mod recurring;
mod registry;
mod row;
mod runner;
mod schedule;
mod spawned;
mod tell;

use std::{io, thread};

pub(crate) use checks::{CHECK_TIMEOUT, LastCheck};
pub use context::JobContext;
pub use error::{JobError, JobFailure, SubmitError};
pub use handle::JobHandle;
pub use id::{JobId, JobState, Reason};
pub use job::{Backoff, Job, JobOptions};
pub use list::{JobQuery, JobStats, KindStats};
pub use pool::SpawnStats;
pub use queue::{JobQueue, MemoryQueue, Progress, SqliteQueue};
pub(crate) use registry::Settings;
pub use registry::{JobReader, Jobs};
pub use row::{JobFilter, JobRow, KindCounts};
pub use schedule::{Misfire, Overlap, Schedule, ScheduleRow};

/// Where jobs wait that name no queue.
pub(crate) const DEFAULT_QUEUE: &str = "default";
/// Of a payload, a result, a checkpoint.
pub(crate) const BYTES_MAX: usize = 1 << 20;

/// A thread that runs handlers. They are numbered through, for there may be several pools.
fn worker_thread(work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    thread::Builder::new().name(format!("l0-worker-{number}")).spawn(work)
}
