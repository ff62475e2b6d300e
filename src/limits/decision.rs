//! The answers: what is left after a charge, or why there was none. A few words; figures are computed when asked for.

use std::{error::Error as StdError, fmt, time::Duration};

use super::{
    headers,
    quota::{Rate, Refused},
};
use crate::clock::Timestamp;

/// A scope's name, kept for the rest of the process, so that a decision carries it in one word.
#[derive(Debug)]
pub(super) struct ScopeName(pub(super) &'static str);

/// The state of a bucket at the moment of an answer; of the tightest one, where several decided.
///
/// ```
/// use l0::limits::{Quota, TokenBucket};
/// let bucket = TokenBucket::new(Quota::per_hour(100));
/// let decision = bucket.check()?;
/// assert_eq!((decision.limit(), decision.remaining()), (100, 99));
/// # Ok::<(), l0::limits::Denied>(())
/// ```
#[derive(Clone, Copy)]
pub struct Decision {
    cost: u64,
    capacity: u64,
    debt: u64,
    scope: Option<&'static ScopeName>,
    /// Of a key that is blocked: how much longer; `MAX` until it is unblocked.
    blocked_ns: u64,
    scale: u32,
    is_dry_run_denial: bool,
}

impl Decision {
    #[inline]
    pub(super) fn new(rate: Rate, full_at: u64, now: u64) -> Self {
        let Rate { cost, capacity, scale } = rate;
        let debt = Rate::debt(full_at, now);
        // A scale is 8 at most.
        Self { cost, capacity, debt, scope: None, blocked_ns: 0, scale: scale as u32, is_dry_run_denial: false }
    }

    /// Where nothing was asked for.
    pub(super) fn of_nothing() -> Self {
        Self::new(Rate { cost: 1, capacity: 0, scale: 1 }, 0, 0)
    }

    #[inline]
    pub(super) fn of_scope(self, scope: &'static ScopeName) -> Self {
        Self { scope: Some(scope), ..self }
    }

    pub(super) fn dry_run_denial(self, is_one: bool) -> Self {
        Self { is_dry_run_denial: self.is_dry_run_denial || is_one, ..self }
    }

    fn rate(&self) -> Rate {
        Rate { cost: self.cost, capacity: self.capacity, scale: self.scale.into() }
    }

    /// Whether this bucket has a smaller share left than the other.
    pub(super) fn is_tighter_than(&self, other: &Self) -> bool {
        let left = |decision: &Self| u128::from(decision.capacity.saturating_sub(decision.debt));
        left(self) * u128::from(other.capacity) < left(other) * u128::from(self.capacity)
    }

    /// What the bucket holds when it is full: the quota's burst.
    pub fn limit(&self) -> u64 {
        self.rate().burst()
    }

    /// How many further checks of one would pass at that moment.
    pub fn remaining(&self) -> u64 {
        self.rate().remaining(self.debt)
    }

    /// How long until the bucket is full again, if nothing more is taken.
    pub fn reset_after(&self) -> Duration {
        Duration::from_nanos(self.rate().ns(self.debt))
    }

    /// The scope that decided, if it was one: of several the tightest.
    pub fn scope(&self) -> Option<&str> {
        self.scope.map(|scope| scope.0)
    }

    /// Whether a scope in dry run would have denied.
    pub fn is_dry_run_denial(&self) -> bool {
        self.is_dry_run_denial
    }

    /// Names and values for an answer over HTTP: `X-RateLimit-Limit`, `X-RateLimit-Remaining`, and `RateLimit-Policy` and
    /// `RateLimit` of the [IETF draft](https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/) (structured
    /// fields, as of version 10): the burst as quota, the time in which an empty bucket fills as window.
    ///
    /// ```
    /// # use l0::limits::{Quota, TokenBucket};
    /// let decision = TokenBucket::new(Quota::per_minute(100)).check()?;
    /// for (name, value) in decision.headers() {
    ///     println!("{name}: {value}");
    /// }
    /// # Ok::<(), l0::limits::Denied>(())
    /// ```
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        headers::of_allowed(self)
    }

    /// Seconds in which an empty bucket fills.
    pub(super) fn window(&self) -> Duration {
        Duration::from_nanos(self.rate().ns(self.capacity))
    }

    pub(super) fn used_share(&self) -> f64 {
        if self.capacity == 0 { 1.0 } else { self.debt as f64 / self.capacity as f64 }
    }
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Decision");
        if let Some(scope) = self.scope {
            text.field("scope", &scope.0);
        }
        text.field("limit", &self.limit())
            .field("remaining", &self.remaining())
            .field("reset_after", &self.reset_after());
        if self.is_dry_run_denial {
            text.field("is_dry_run_denial", &true);
        }
        text.finish()
    }
}

/// Why something may not pass now. Nothing was charged.
///
/// ```
/// use l0::limits::{Denied, Quota, TokenBucket};
/// let bucket = TokenBucket::new(Quota::per_minute(1));
/// bucket.check()?;
/// match bucket.check() {
///     Err(Denied::RetryAfter { wait, .. }) => println!("again in {wait:?}"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Denied>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Denied {
    /// There is not enough left: after `wait` there is, unless somebody else takes it first.
    RetryAfter {
        /// How long until the same charge would pass; of several scopes that deny, the longest.
        wait: Duration,
        /// The bucket as it is.
        decision: Decision,
    },
    /// It costs more than the bucket ever holds: waiting does not help.
    ExceedsBurst {
        /// What was asked for.
        cost: u64,
        /// What the bucket holds when it is full.
        burst: u64,
        /// The bucket as it is.
        decision: Decision,
    },
    /// The key is blocked, by hand or by a lock-out.
    Blocked {
        /// Until when; `None` until it is unblocked.
        until: Option<Timestamp>,
        /// The bucket as it is.
        decision: Decision,
    },
}

impl Denied {
    /// Of this bucket, for `n` tokens.
    #[cold]
    pub(super) fn new(refused: Refused, n: u64, rate: Rate, decision: Decision) -> Self {
        match refused {
            Refused::Wait(units) => Self::RetryAfter { wait: Duration::from_nanos(rate.ns(units)), decision },
            Refused::TooLarge => Self::ExceedsBurst { cost: n, burst: rate.burst(), decision },
        }
    }

    /// Of a blocked key, for so much longer, `None` until it is unblocked.
    #[cold]
    pub(super) fn blocked(left_ns: Option<u64>, now: Timestamp, decision: Decision) -> Self {
        let until = left_ns.map(|ns| now.saturating_add(Duration::from_nanos(ns)));
        Self::Blocked { until, decision: Decision { blocked_ns: left_ns.unwrap_or(u64::MAX), ..decision } }
    }

    /// Whether of two denials this one says more: that waiting does not help, or that it takes longer.
    pub(super) fn outlasts(&self, other: &Self) -> bool {
        let wait = |denied: &Self| match denied {
            Self::ExceedsBurst { .. } => (2, Duration::ZERO),
            Self::RetryAfter { wait, .. } => (0, *wait),
            Self::Blocked { until: None, .. } => (1, Duration::ZERO),
            Self::Blocked { decision, .. } => (0, Duration::from_nanos(decision.blocked_ns)),
        };
        wait(self) > wait(other)
    }

    pub(super) fn of_scope(mut self, scope: &'static ScopeName) -> Self {
        let (Self::RetryAfter { decision, .. } | Self::ExceedsBurst { decision, .. } | Self::Blocked { decision, .. }) =
            &mut self;
        *decision = decision.of_scope(scope);
        self
    }

    /// The bucket that denied, and the scope it belongs to.
    pub fn decision(&self) -> &Decision {
        let (Self::RetryAfter { decision, .. } | Self::ExceedsBurst { decision, .. } | Self::Blocked { decision, .. }) =
            self;
        decision
    }

    /// How long to wait before the same would pass: `None` where waiting does not help, or nobody knows.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RetryAfter { wait, .. } => Some(*wait),
            Self::ExceedsBurst { .. } => None,
            Self::Blocked { until, decision } => until.map(|_| Duration::from_nanos(decision.blocked_ns)),
        }
    }

    /// Names and values for an answer over HTTP, status 429: those of [`Decision::headers`] with nothing remaining, and
    /// `Retry-After` in whole seconds, rounded up and at least 1 (RFC 9110, section 10.2.3), where waiting helps. Without it,
    /// as for a cost beyond the burst, 413 or 403 tell a client more.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        headers::of_denied(self)
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self.decision().scope().map(|scope| format!(" by {scope}")).unwrap_or_default();
        match self {
            Self::RetryAfter { wait, .. } => write!(f, "rate limited{by}: retry after {:?}", in_full(*wait)),
            Self::ExceedsBurst { cost, burst: 0, .. } => {
                write!(f, "rate limited{by}: a cost of {cost} where nothing may pass")
            }
            Self::ExceedsBurst { cost, burst, .. } => {
                write!(f, "rate limited{by}: a cost of {cost} exceeds the burst of {burst}; ask for less at once")
            }
            Self::Blocked { until: Some(until), .. } => write!(f, "rate limited{by}: blocked until {until}"),
            Self::Blocked { until: None, .. } => write!(f, "rate limited{by}: blocked"),
        }
    }
}

/// To be read: up to a full millisecond.
fn in_full(wait: Duration) -> Duration {
    let ms = wait.as_nanos().div_ceil(1_000_000);
    u64::try_from(ms).map_or(wait, Duration::from_millis)
}

impl StdError for Denied {}
