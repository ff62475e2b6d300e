//! What a durable job is made of: its payload's type, and how it is to be treated.

use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::DEFAULT_QUEUE;
use crate::clock::Timestamp;

/// A durable job's payload.
///
/// What a job is to do is said where its handler is registered, so that it can use what the program has.
///
/// ```
/// use l0::jobs::{Job, JobOptions};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Invoice { order: u64 }
///
/// impl Job for Invoice {
///     const KIND: &'static str = "invoice";
///     type Output = String; // the file's name
///     fn options() -> JobOptions {
///         JobOptions::default().queue("billing").max_attempts(5)
///     }
/// }
/// ```
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// Names the kind in the store: keep it when the type is renamed.
    const KIND: &'static str;

    /// What its handler returns, kept as JSON with the job.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// How jobs of this kind are treated unless `enqueue_with` says otherwise.
    fn options() -> JobOptions {
        JobOptions::default()
    }
}

/// How a job is treated: where it waits, how often and how long it is tried.
///
/// Unless set: queue `default`, priority 0, ten attempts with a pause of a second that doubles up to an hour, an hour for each
/// attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "options are given to enqueue_with, or returned by Job::options"]
pub struct JobOptions {
    pub(super) queue: String,
    pub(super) priority: i32,
    pub(super) max_attempts: u32,
    pub(super) backoff: Backoff,
    pub(super) timeout: Option<Duration>,
    pub(super) unique: Option<String>,
    pub(super) when: When,
    pub(super) start_within: Option<Duration>,
    pub(super) yields: bool,
}

/// When a job is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Now,
    At(Timestamp),
    In(Duration),
}

const MAX_ATTEMPTS: u32 = 10;
const TIMEOUT: Duration = Duration::from_secs(3_600);
/// The queue of training jobs.
const TRAINING_QUEUE: &str = "training";

impl Default for JobOptions {
    fn default() -> Self {
        Self {
            queue: DEFAULT_QUEUE.to_owned(),
            priority: 0,
            max_attempts: MAX_ATTEMPTS,
            backoff: Backoff::exponential(Duration::from_secs(1), Duration::from_secs(3_600)),
            timeout: Some(TIMEOUT),
            unique: None,
            when: When::Now,
            start_within: None,
            yields: false,
        }
    }
}

impl JobOptions {
    /// The queue it waits in: named queues run beside each other, each with its own [`concurrency`](super::Jobs::queue).
    pub fn queue(mut self, q: &str) -> Self {
        q.clone_into(&mut self.queue);
        self
    }

    /// Of the jobs of a queue that are due, those of a higher priority are begun first; of the same, the one that is due
    /// longest. Every eighth time it is the one that is due longest whatever its priority, so that none waits for ever.
    pub fn priority(mut self, p: i32) -> Self {
        self.priority = p;
        self
    }

    /// How often it is tried, at least once. An attempt during which the process dies counts; one that ends because its process
    /// shuts down in an orderly way, or that snoozes, does not.
    pub fn max_attempts(mut self, n: u32) -> Self {
        self.max_attempts = n.clamp(1, i32::MAX.unsigned_abs());
        self
    }

    /// How long it pauses before the next attempt.
    pub fn backoff(mut self, b: Backoff) -> Self {
        self.backoff = b;
        self
    }

    /// How long an attempt may take. Then its handler is asked to end ([`JobContext::check`](super::JobContext::check) fails,
    /// [`is_cancelled`](super::JobContext::is_cancelled) is true), and the attempt counts as timed out.
    ///
    /// A handler that does not end within as long again, at most five seconds, is given up: the job fails for good, since a
    /// further attempt would run beside it, and another thread takes the place of its thread.
    pub fn timeout(mut self, d: Duration) -> Self {
        self.timeout = Some(d);
        self
    }

    /// An attempt may take as long as it takes.
    pub fn no_timeout(mut self) -> Self {
        self.timeout = None;
        self
    }

    /// Of the jobs of a kind with this key, at most one is pending or running: enqueueing another returns the handle of that
    /// one, whose [`is_new`](super::JobHandle::is_new) is false.
    pub fn unique(mut self, key: impl Into<String>) -> Self {
        self.unique = Some(key.into());
        self
    }

    /// It is due at this time, by the wall clock.
    pub fn run_at(mut self, t: Timestamp) -> Self {
        self.when = When::At(t);
        self
    }

    /// It is due in so long; the time is kept as one of the wall clock.
    pub fn delay(mut self, d: Duration) -> Self {
        self.when = When::In(d);
        self
    }

    /// If no attempt was begun within so long after it was due, it fails with
    /// [`MissedDeadline`](super::JobFailure::MissedDeadline) instead. Further attempts are not bound by it.
    pub fn start_within(mut self, d: Duration) -> Self {
        self.start_within = Some(d);
        self
    }

    /// For work of hours: the queue `training` (one at a time unless [`queue`](super::Jobs::queue) says otherwise), no timeout.
    /// When the program shuts down such a job is asked to end at once, so keep [checkpoints](super::JobContext::checkpoint);
    /// that costs no attempt.
    pub fn training() -> Self {
        Self { queue: TRAINING_QUEUE.to_owned(), timeout: None, yields: true, ..Self::default() }
    }
}

/// How long a job pauses between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    pub(super) first: Duration,
    /// `None` if it is always the first.
    pub(super) max: Option<Duration>,
}

impl Backoff {
    /// The first pause, doubled with every attempt up to `max`; of each only three to four quarters, by chance, so that jobs
    /// that failed together do not come back together.
    pub fn exponential(first: Duration, max: Duration) -> Self {
        Self { first, max: Some(max.max(first)) }
    }

    /// Always as long, exactly.
    pub fn fixed(d: Duration) -> Self {
        Self { first: d, max: None }
    }

    /// The pause after this many attempts; `chance` is from 0 to 1.
    pub(super) fn pause(&self, attempts: u32, chance: f64) -> Duration {
        const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);
        let Some(max) = self.max else { return self.first };
        let doublings = attempts.saturating_sub(1);
        let double = |pause: Duration, times: u32| pause.checked_mul(1 << times.min(31)).unwrap_or(max).min(max);
        let full = double(double(self.first, doublings), doublings.saturating_sub(31));
        full.min(LONGEST).mul_f64(0.75 + 0.25 * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_their_bound_and_lose_up_to_a_quarter() {
        let backoff = Backoff::exponential(S, 60 * S);
        let full: Vec<_> = (1..=8).map(|attempts| backoff.pause(attempts, 1.0).as_secs()).collect();
        assert_eq!(full, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.pause(3, 0.0), 3 * S);
        assert_eq!(backoff.pause(u32::MAX, 1.0), 60 * S);
        assert!(Backoff::exponential(Duration::MAX, Duration::MAX).pause(9, 0.5) > S);
        assert_eq!(Backoff::fixed(7 * S).pause(5, 0.0), 7 * S);
        assert_eq!(Backoff::exponential(9 * S, S).pause(1, 1.0), 9 * S, "the first pause is never cut");
    }
}
