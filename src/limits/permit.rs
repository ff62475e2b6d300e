//! A charge on trial.

use std::fmt;

use super::{bucket::TokenBucket, decide::Trial, decision::Decision, ledger::Held};

/// A charge that was made before the cost is known, to be settled with what it did cost.
///
/// Dropped, it counts as used; [`refund_on_drop`](Self::refund_on_drop) makes it the other way, for work that may fail.
///
/// What is given back is what has not come back by itself meanwhile: so whoever reserves and gives back can never make more
/// pass than the quota says (`burst + rate * t`), however it is interleaved.
///
/// ```
/// use l0::limits::{Quota, TokenBucket};
/// let failures = TokenBucket::new(Quota::per_minute(10));
/// let attempt = failures.reserve(1)?;
/// let password_is_right = true;
/// if password_is_right {
///     attempt.refund(); // only failures count
/// }
/// assert_eq!(failures.peek().remaining(), 10);
/// # Ok::<(), l0::limits::Denied>(())
/// ```
#[must_use = "a permit that is dropped counts as used"]
pub struct Permit<'a> {
    of: Of<'a>,
    decision: Decision,
    is_refunded_on_drop: bool,
}

enum Of<'a> {
    Bucket(&'a TokenBucket, Held),
    Scopes(Trial),
    Settled,
}

impl<'a> Permit<'a> {
    pub(super) fn of_bucket(bucket: &'a TokenBucket, held: Held, decision: Decision) -> Self {
        Self { of: Of::Bucket(bucket, held), decision, is_refunded_on_drop: false }
    }
}

impl Permit<'static> {
    pub(super) fn of_scopes(trial: Trial, decision: Decision) -> Self {
        Self { of: Of::Scopes(trial), decision, is_refunded_on_drop: false }
    }
}

impl Permit<'_> {
    /// What was left right after the charge.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// All of it was used.
    pub fn commit(mut self) -> Decision {
        self.settle(None)
    }

    /// `n` were used: the rest is given back, or what is missing is charged, even beyond the burst; then who comes next
    /// waits for longer. Of several charges those that were given a cost are settled so; what costs one as everything does
    /// stays, unless nothing was used at all.
    pub fn commit_actual(mut self, n: u64) -> Decision {
        self.settle(Some(n))
    }

    /// Nothing was used.
    pub fn refund(mut self) {
        let _ = self.settle(Some(0));
    }

    /// Gives everything back should the permit be dropped without a commit, as by `?` or a panic.
    pub fn refund_on_drop(mut self) -> Self {
        self.is_refunded_on_drop = true;
        self
    }

    fn settle(&mut self, actual: Option<u64>) -> Decision {
        match std::mem::replace(&mut self.of, Of::Settled) {
            Of::Bucket(bucket, held) => bucket.settle(&held, actual.unwrap_or(held.tokens)),
            Of::Scopes(trial) => trial.settle(actual, self.decision),
            Of::Settled => self.decision,
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let _ = self.settle(self.is_refunded_on_drop.then_some(0));
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("decision", &self.decision).finish_non_exhaustive()
    }
}
