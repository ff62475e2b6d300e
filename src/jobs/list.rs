//! Questions about durable jobs: pages of rows, and sums by kind.

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    id::JobState,
    pool::SpawnStats,
    queue::JobQueue,
    row::{JobFilter, JobRow, KindCounts},
};
use crate::{
    clock::Timestamp,
    error::Result,
    query::{Cursor, Page, Total, harmless, human_duration},
};

const LIMIT: u32 = 50;
/// Running jobs that are shown.
const RUNNING: u32 = 100;

/// Which durable jobs are there? From [`Jobs::list`](super::Jobs::list); the latest enqueued first, 50 to a page unless set.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let l0 = l0::builder().dir(dir.path()).start()?;
/// use l0::jobs::JobState;
/// for job in l0.jobs().list().state(JobState::Failed).limit(10).fetch()?.items {
///     println!("{job}");
/// }
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "fetch() asks"]
pub struct JobQuery {
    queue: Result<Arc<dyn JobQueue>>,
    filter: JobFilter,
    after: Option<Cursor>,
}

impl JobQuery {
    pub(super) fn new(queue: Result<Arc<dyn JobQueue>>) -> Self {
        Self { queue, filter: JobFilter { limit: LIMIT, ..JobFilter::default() }, after: None }
    }

    /// Of this kind.
    pub fn kind(mut self, k: &str) -> Self {
        self.filter.kind = Some(k.to_owned());
        self
    }

    /// In this state.
    pub fn state(mut self, s: JobState) -> Self {
        self.filter.state = Some(s);
        self
    }

    /// Of this queue.
    pub fn queue(mut self, q: &str) -> Self {
        self.filter.queue = Some(q.to_owned());
        self
    }

    /// So many to a page, 10,000 at most.
    pub fn limit(mut self, n: u32) -> Self {
        self.filter.limit = n.clamp(1, 10_000);
        self
    }

    /// The page behind the one that ended here.
    pub fn after(mut self, c: &Cursor) -> Self {
        self.after = Some(c.clone());
        self
    }

    /// Asks.
    ///
    /// # Errors
    /// `is_storage` if the queue cannot be read, `is_invalid_input` for a cursor of another question.
    pub fn fetch(mut self) -> Result<Page<JobRow>> {
        let queue = self.queue?;
        self.filter.before = self.after.as_ref().map(Cursor::job).transpose()?;
        let listed = queue.list(&self.filter)?;
        let total = match (listed.next, self.filter.before, &self.filter.queue) {
            (None, None, _) => Total::Exactly(listed.rows.len() as u64),
            (.., None) => Total::Exactly(self.filter.count_of(&queue.counts()?)),
            _ => Total::AtLeast(listed.rows.len() as u64 + u64::from(listed.next.is_some())),
        };
        Ok(Page { items: listed.rows, total, next: listed.next.map(Cursor::of_job), incomplete: None })
    }
}

impl JobFilter {
    /// How many there are in all, of any queue.
    fn count_of(&self, counts: &[KindCounts]) -> u64 {
        let of_kind = counts.iter().filter(|counts| self.kind.as_ref().is_none_or(|kind| *kind == counts.kind));
        of_kind
            .map(|counts| match self.state {
                None => counts.pending + counts.running + counts.success + counts.failed + counts.cancelled,
                Some(JobState::Pending) => counts.pending,
                Some(JobState::Running) => counts.running,
                Some(JobState::Success) => counts.success,
                Some(JobState::Failed) => counts.failed,
                Some(JobState::Cancelled) => counts.cancelled,
            })
            .sum()
    }
}

/// Jobs at a glance: sums by kind, what runs and how far it is. `Display` is a page to be read.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct JobStats {
    /// By kind.
    pub kinds: Vec<KindStats>,
    /// The jobs that run, the latest enqueued first; a hundred at most.
    pub running: Vec<JobRow>,
    /// Closures of this process.
    pub spawned: SpawnStats,
    /// As of when.
    pub at: Timestamp,
}

/// One kind's sums. Of final jobs, what the history [keeps](crate::JobHistory).
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct KindStats {
    /// The kind.
    pub kind: String,
    /// That wait for their time, a worker or a handler.
    pub pending: u64,
    /// That run.
    pub running: u64,
    /// That succeeded.
    pub success: u64,
    /// That failed.
    pub failed: u64,
    /// That were cancelled.
    pub cancelled: u64,
    /// Nobody has a handler for it: its jobs wait.
    pub waits_for_handler: bool,
    /// How long the pending one that is due longest has been due; `None` if none is due.
    pub oldest_pending: Option<Duration>,
    /// Of those that succeeded or failed, the share that succeeded.
    pub success_rate: Option<f64>,
    /// Run times of the latest thousand successes: half took at most this long.
    pub p50: Option<Duration>,
    /// 95 of a hundred.
    pub p95: Option<Duration>,
    /// 99 of a hundred.
    pub p99: Option<Duration>,
}

impl JobStats {
    /// Of a store without jobs.
    pub(super) fn none(at: Timestamp) -> Self {
        Self { kinds: Vec::new(), running: Vec::new(), spawned: SpawnStats::default(), at }
    }

    pub(super) fn of(queue: &dyn JobQueue, now: Timestamp, is_handled: impl Fn(&str) -> bool) -> Result<Self> {
        let kinds = queue.counts()?.into_iter().map(|counts| {
            let waits_for_handler = counts.pending > 0 && !is_handled(&counts.kind);
            KindStats::of(counts, now, waits_for_handler)
        });
        let filter = JobFilter { state: Some(JobState::Running), limit: RUNNING, ..JobFilter::default() };
        Ok(Self { kinds: kinds.collect(), running: queue.list(&filter)?.rows, ..Self::none(now) })
    }
}

impl KindStats {
    fn of(counts: KindCounts, now: Timestamp, waits_for_handler: bool) -> Self {
        let KindCounts { kind, pending, running, success, failed, cancelled, oldest_pending, mut run_times } = counts;
        run_times.sort_unstable();
        // The nearest rank: of n values in order, number ceil(p n).
        let percentile = |percent: usize| {
            let rank = (run_times.len() * percent).div_ceil(100);
            run_times.get(rank.checked_sub(1)?).copied()
        };
        let due_ns = oldest_pending.map(|at| now.as_unix_ns().saturating_sub(at.as_unix_ns()));
        Self {
            pending,
            running,
            success,
            failed,
            cancelled,
            waits_for_handler,
            oldest_pending: due_ns.and_then(|ns| u64::try_from(ns).ok()).map(Duration::from_nanos),
            success_rate: (success + failed > 0).then(|| success as f64 / (success + failed) as f64),
            p50: percentile(50),
            p95: percentile(95),
            p99: percentile(99),
            kind,
        }
    }
}

impl fmt::Display for JobStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "jobs, as of {:.19}Z", self.at.to_string())?;
        if self.kinds.is_empty() {
            writeln!(f, "none was enqueued")?;
        } else {
            let head =
                ["pending", "running", "success", "failed", "cancelled"].map(|name| format!(" {name:>9}")).concat();
            writeln!(f, "{:<24}{head} {:>9} {:>9}", "kind", "p50", "p95")?;
        }
        for kind in &self.kinds {
            write!(f, "{:<24}", harmless(&kind.kind))?;
            for count in [kind.pending, kind.running, kind.success, kind.failed, kind.cancelled] {
                write!(f, " {count:>9}")?;
            }
            for time in [kind.p50, kind.p95] {
                write!(f, " {:>9}", time.map(human_duration).unwrap_or_default())?;
            }
            if let Some(oldest) = kind.oldest_pending {
                write!(f, "  due for {}", human_duration(oldest))?;
            }
            if kind.waits_for_handler {
                write!(f, "  waits for a handler")?;
            }
            writeln!(f)?;
        }
        for row in &self.running {
            writeln!(f, "{row}")?;
        }
        let SpawnStats { waiting, running, finished, failed } = &self.spawned;
        if waiting + finished > 0 || !running.is_empty() {
            writeln!(
                f,
                "closures: {waiting} waiting, {} running, {finished} finished, {failed} failed",
                running.len()
            )?;
        }
        Ok(())
    }
}
