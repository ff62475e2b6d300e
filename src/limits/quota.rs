//! How much may pass, and the arithmetic of it: pure functions of a bucket's level and a moment.
//!
//! The rule is GCRA, the generic cell rate algorithm (ITU-T I.371), which is a token bucket that remembers one time: when
//! it will be full again. A bucket whose time lies `debt` ahead of now has that much less than its burst. To take n
//! tokens pushes the time n intervals further, and is allowed if the debt then is within the burst.
//!
//! Invariants: a time only moves forward by what is taken, so a late or backward `now` denies and never mints; no sum or
//! product can overflow; an interval that is no whole number of units is rounded up, so a bucket is never faster than its quota.

use std::{fmt, time::Duration};

use crate::error::{Error, Result};

/// Units of time a nanosecond has at most: a token of a rate above this many a nanosecond takes one.
const SCALE_MAX: u64 = 8;
/// A token that takes longer is exact enough in nanoseconds.
const EXACT_ENOUGH_NS: u64 = 100_000_000;
/// What a bucket may owe, its burst included.
pub(super) const DEBT_MAX: u64 = 1 << 60;
/// The end of time; after it buckets do not fill any more. A process is thirteen years old then, or older.
const TIME_MAX: u64 = (1 << 62) - (1 << 60) - 1;
/// The same in nanoseconds, whatever the units.
pub(super) const TIME_MAX_NS: u64 = TIME_MAX / SCALE_MAX;
/// The longest burst: eighteen years, or two where a nanosecond has eight units.
const CAPACITY_MAX: u64 = 1 << 59;

/// A rate and a burst: so many tokens a period, and at most so many at once.
///
/// The burst is what a period brings unless set. In any time `t` no more than `burst + rate * t` passes; see
/// [`limits`](super) for why, and for what that means.
///
/// ```
/// use l0::limits::Quota;
/// const LOGIN: Quota = Quota::per_minute(10).burst(3);
/// assert_eq!(format!("{LOGIN:?}"), "Quota(10 per 60s, burst 3, one per 6s)");
/// ```
///
/// A quota of no tokens, or no burst, lets nothing pass: every charge is [`ExceedsBurst`](super::Denied::ExceedsBurst).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    tokens: u64,
    period_ns: u64,
    burst: u64,
}

impl Quota {
    /// `n` a second.
    pub const fn per_second(n: u64) -> Self {
        Self { tokens: n, period_ns: 1_000_000_000, burst: n }
    }

    /// `n` a minute.
    pub const fn per_minute(n: u64) -> Self {
        Self { tokens: n, period_ns: 60 * 1_000_000_000, burst: n }
    }

    /// `n` an hour.
    pub const fn per_hour(n: u64) -> Self {
        Self { tokens: n, period_ns: 3_600 * 1_000_000_000, burst: n }
    }

    /// `n` a day of 24 hours, that come back evenly: not at midnight.
    pub const fn per_day(n: u64) -> Self {
        Self { tokens: n, period_ns: 86_400 * 1_000_000_000, burst: n }
    }

    /// At most `n` at once.
    #[must_use]
    pub const fn burst(self, n: u64) -> Self {
        Self { burst: n, ..self }
    }

    /// `n` in any other period.
    ///
    /// ```
    /// use l0::limits::Quota;
    /// use std::time::Duration;
    /// let frames = Quota::try_per(30, Duration::from_millis(1001))?;
    /// assert!(Quota::try_per(30, Duration::ZERO).unwrap_err().is_invalid_input());
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn try_per(n: u64, period: Duration) -> Result<Self> {
        let Ok(period_ns) = u64::try_from(period.as_nanos()) else {
            return Err(Error::invalid_input(format!(
                "a quota of {n} per {period:?}: the period is longer than 584 years; use a shorter one"
            )));
        };
        let quota = Self { tokens: n, period_ns, burst: n };
        quota.validate().map(|()| quota)
    }

    /// Whether a bucket can keep it: the burst to the letter, the rate to the letter or, where a token takes no whole number of
    /// eighths of a nanosecond, less than a hundredth slower. One that it cannot is kept on the safe side: what is too fast is slower, what
    /// is too long has a smaller burst, and of nothing comes nothing.
    ///
    /// # Errors
    /// `is_invalid_input` for no tokens, no period, no burst, more than eight tokens a nanosecond, a rate that could only be
    /// kept more than a hundredth slower, or a burst that takes
    /// more than two years to come back (eighteen, where a token takes whole nanoseconds).
    pub fn validate(&self) -> Result<()> {
        let problem = if self.tokens == 0 {
            "nothing would ever pass; give a rate of at least 1, or block what is not to pass"
        } else if self.period_ns == 0 {
            "a period of no time has no rate; give one of at least a nanosecond"
        } else if self.burst == 0 {
            "with a burst of 0 nothing would ever pass; give a burst of at least 1"
        } else if u128::from(self.tokens) > u128::from(self.period_ns) * u128::from(SCALE_MAX) {
            "more than eight tokens a nanosecond cannot be told apart; count in larger units"
        } else if Rate::of(*self).is_slower_than(*self) {
            "it is no whole number of eighths of a nanosecond a token, and could only be kept more than a hundredth slower; \
             take a rate that divides, or count in larger units"
        } else if Rate::of(*self).burst() < self.burst {
            "its burst takes so many years to come back that it is no limit; give a smaller burst or a faster rate"
        } else {
            return Ok(());
        };
        Err(Error::invalid_input(format!("{self:?}: {problem}")))
    }

    /// Tokens a period.
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The period.
    pub const fn period(&self) -> Duration {
        Duration::from_nanos(self.period_ns)
    }

    /// At most so many at once, if it is [valid](Self::validate).
    pub const fn max_burst(&self) -> u64 {
        self.burst
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quota({} per {:?}, burst {}, one per ", self.tokens, self.period(), self.burst)?;
        match self.period_ns.checked_div(self.tokens) {
            None => f.write_str("never)"),
            Some(0) => f.write_str("less than 1ns)"),
            Some(ns) => write!(f, "{:?})", Duration::from_nanos(ns)),
        }
    }
}

/// A quota as buckets count: time in units of a nanosecond, or of a part of one where tokens are no whole number of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// Units a token takes.
    pub(super) cost: u64,
    /// The burst's, a multiple of `cost`.
    pub(super) capacity: u64,
    /// Units a nanosecond has.
    pub(super) scale: u64,
}

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Units until it can be.
    Wait(u64),
    /// It never can.
    TooLarge,
}

impl Rate {
    /// Of no tokens a period.
    const NOTHING: Self = Self { cost: 1, capacity: 0, scale: 1 };

    pub(super) fn of(quota: Quota) -> Self {
        let Quota { tokens, period_ns, burst } = quota;
        if tokens == 0 || period_ns == 0 {
            return Self::NOTHING;
        }
        let parts = tokens / gcd(tokens, period_ns);
        let scale = match parts {
            1..=SCALE_MAX => parts,
            _ if period_ns / tokens >= EXACT_ENOUGH_NS => 1,
            _ => SCALE_MAX,
        };
        let cost = (u128::from(period_ns) * u128::from(scale)).div_ceil(u128::from(tokens));
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        // 2^59 at most.
        Self { cost, capacity: burst.min(CAPACITY_MAX / cost) * cost, scale }
    }

    /// By more than a hundredth.
    fn is_slower_than(self, quota: Quota) -> bool {
        let kept = u128::from(quota.tokens) * u128::from(self.cost);
        kept * 100 > u128::from(quota.period_ns) * u128::from(self.scale) * 101
    }

    pub(super) fn burst(self) -> u64 {
        self.capacity / self.cost
    }

    /// Whether so many can never pass at once.
    pub(super) fn is_too_much(self, n: u64) -> bool {
        n.checked_mul(self.cost).is_none_or(|cost| cost > self.capacity)
    }

    /// The moment in units.
    #[inline]
    pub(super) fn time(self, now_ns: u64) -> u64 {
        if self.scale == 1 { now_ns.min(TIME_MAX) } else { now_ns.saturating_mul(self.scale).min(TIME_MAX) }
    }

    /// What a bucket that will be full at `full_at` owes.
    #[inline]
    pub(super) fn debt(full_at: u64, now: u64) -> u64 {
        full_at.saturating_sub(now)
    }

    /// When it will be full after `n` tokens more.
    #[inline]
    pub(super) fn take(self, full_at: u64, now: u64, n: u64) -> Result<u64, Refused> {
        let after = self.take_ahead(full_at, now, n)?;
        let debt = after - now;
        // Of an overdrawn bucket nothing can be taken, and that is always possible.
        if debt <= self.capacity || n == 0 { Ok(after) } else { Err(Refused::Wait(debt - self.capacity)) }
    }

    /// The same of who will wait until the debt is within the burst.
    #[inline]
    pub(super) fn take_ahead(self, full_at: u64, now: u64, n: u64) -> Result<u64, Refused> {
        let cost = if n == 1 { self.cost } else { n.checked_mul(self.cost).ok_or(Refused::TooLarge)? };
        if cost > self.capacity {
            return Err(Refused::TooLarge);
        }
        let after = full_at.max(now) + cost;
        if after - now > DEBT_MAX { Err(Refused::Wait(after - now - self.capacity)) } else { Ok(after) }
    }

    /// When it will be full after `n` tokens that were already spent, whatever it owes.
    pub(super) fn overdraw(self, full_at: u64, now: u64, n: u64) -> u64 {
        let base = full_at.max(now);
        base.saturating_add(n.saturating_mul(self.cost)).min(now + DEBT_MAX).max(base)
    }

    /// The rate of a quota that follows this one. Of nothing a period there is no interval: time goes on as it did.
    pub(super) fn after(self, before: Self) -> Self {
        if self == Self::NOTHING { Self { capacity: 0, ..before } } else { self }
    }

    /// When a bucket that owes so much under this rate, and so many tokens beyond, will be full under another; and the
    /// tokens that are owed beyond what a bucket can.
    pub(super) fn owed_under(self, debt: u64, excess: u64, other: Self, now_ns: u64) -> (u64, u64) {
        let now = other.time(now_ns);
        let cost = u128::from(other.cost);
        let converted = (u128::from(debt) * cost).div_ceil(u128::from(self.cost)) + u128::from(excess) * cost;
        let kept = converted.min(u128::from(DEBT_MAX));
        let beyond = (converted - kept).div_ceil(cost);
        // 2^60 at most.
        (now + kept as u64, u64::try_from(beyond).unwrap_or(u64::MAX))
    }

    /// Tokens that are left for now.
    pub(super) fn remaining(self, debt: u64) -> u64 {
        self.capacity.saturating_sub(debt) / self.cost
    }

    /// Nanoseconds until so many units have passed.
    pub(super) fn ns(self, units: u64) -> u64 {
        if self.scale == 1 { units } else { units.div_ceil(self.scale) }
    }

    /// So many units that `n` tokens take.
    pub(super) fn units(self, n: u64) -> u64 {
        n.saturating_mul(self.cost).min(DEBT_MAX)
    }
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_exact_or_on_the_safe_side() {
        for (quota, cost, scale) in [
            (Quota::per_minute(100), 600_000_000, 1),
            (Quota::per_second(3_000_000), 1_000, 3),
            (Quota::per_second(700_000_000), 10, 7),
            (Quota::per_second(1_000_000_000), 1, 1),
            (Quota::per_second(8_000_000_000), 1, 8),
            (Quota::per_second(u64::MAX), 1, 8),
            (Quota::per_hour(11), 327_272_727_273, 1),
            (Quota::per_second(1_100), 7_272_728, 8),
        ] {
            let rate = Rate::of(quota);
            assert_eq!((rate.cost, rate.scale), (cost, scale), "{quota:?}");
            assert!(
                u128::from(quota.tokens) * u128::from(rate.cost)
                    >= u128::from(quota.period_ns) * u128::from(rate.scale)
                    || quota.tokens == u64::MAX,
                "{quota:?} is not faster than it says"
            );
        }
    }

    #[test]
    fn quotas_that_cannot_be_kept_are_errors_and_let_nothing_too_much_pass() {
        for (quota, hint) in [
            (Quota::per_second(0), "at least 1"),
            (Quota::per_second(5).burst(0), "burst of at least 1"),
            (Quota::per_second(u64::MAX), "larger units"),
            (Quota::per_day(1).burst(300_000), "smaller burst"),
            (Quota { tokens: 1, period_ns: u64::MAX, burst: 1 }, "faster rate"),
            (Quota { tokens: 1, period_ns: 0, burst: 1 }, "nanosecond"),
        ] {
            let error = quota.validate().unwrap_err();
            assert!(error.is_invalid_input() && error.to_string().contains(hint), "{error}");
            assert!(Rate::of(quota).burst() <= quota.burst);
        }
        for (n, period) in [(0, 1), (1, 0)] {
            assert!(Quota::try_per(n, Duration::from_secs(period)).unwrap_err().is_invalid_input());
        }
        assert!(Quota::try_per(5, Duration::MAX).unwrap_err().to_string().contains("584 years"));
        Quota::per_day(1_000_000).validate().unwrap();
        Quota::per_second(8_000_000_000).validate().unwrap();
    }

    proptest::proptest! {
        /// Of any moments in any order, as threads bring them that read the clock and then rested, no more passes than
        /// between the first and the last.
        #[test]
        fn late_and_backward_moments_mint_nothing(
            tokens in 1_u64..2_000,
            burst in 1_u64..20,
            moments in proptest::collection::vec((0_u64..10_000_000, 1_u64..5), 1..80),
        ) {
            let quota = Quota::per_second(tokens * 1_000).burst(burst);
            let rate = Rate::of(quota);
            let (mut full_at, mut passed) = (0, 0_u128);
            for (now_ns, n) in &moments {
                if let Ok(after) = rate.take(full_at, rate.time(*now_ns), *n) {
                    proptest::prop_assert!(after > full_at, "a charge only moves forward");
                    full_at = after;
                    passed += u128::from(*n);
                }
            }
            let (first, last) = (moments.iter().map(|m| m.0).min(), moments.iter().map(|m| m.0).max());
            let window_ns = u128::from(last.unwrap() - first.unwrap());
            proptest::prop_assert!(passed * 1_000_000 <= u128::from(burst) * 1_000_000 + window_ns * u128::from(tokens));
        }
    }

    #[test]
    fn a_quota_shows_rate_burst_and_interval() {
        for (quota, text) in [
            (Quota::per_second(1_000), "Quota(1000 per 1s, burst 1000, one per 1ms)"),
            (Quota::per_day(2).burst(1), "Quota(2 per 86400s, burst 1, one per 43200s)"),
            (Quota::per_second(0), "Quota(0 per 1s, burst 0, one per never)"),
            (Quota::per_second(5_000_000_000), "Quota(5000000000 per 1s, burst 5000000000, one per less than 1ns)"),
        ] {
            assert_eq!(format!("{quota:?}"), text);
        }
    }
}
