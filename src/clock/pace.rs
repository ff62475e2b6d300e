//! Monotonic nanoseconds for the price of the processor's counter, where that is trusted: what limits are decided by.
//!
//! The counter is tied to `Instant` by an anchor, and to its pace by two of them some time apart. Whoever reads later than
//! a second or so behind the anchor takes a new one. Until the pace is known, and whenever something does not add up,
//! `Instant` answers. Invariants: a reading is never ahead of `Instant` by more than the clock was slewed within a second, and
//! behind by a few microseconds at most; nobody waits for anybody.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use parking_lot::Mutex;

use super::{counter, mono_ns};

/// An anchor is good for this many ticks.
const ANCHOR_TICKS: u64 = 1 << 31;
/// The pace is taken over no less, so that it is right to some millionths, and over no more, for the machine may have slept.
const PACED_OVER_NS: std::ops::Range<u64> = 20_000_000..60_000_000_000;
/// Between two looks at `Instant`, one before and one behind the counter's, no more may pass: else the thread was kept waiting.
const BRACKET_NS: u64 = 2_000;
/// A pace that differs by more from the one before (2^-10) is not believed.
const BELIEVED_BITS: u32 = 10;

/// The process's only one.
pub(super) static PACE: Pace = Pace::new();

/// A sequence lock: odd while the three words behind it change.
#[derive(Debug)]
pub(super) struct Pace {
    sequence: AtomicU64,
    ticks: AtomicU64,
    ns: AtomicU64,
    /// Nanoseconds a tick, times 2^32; 0 while it is not known.
    ns_per_tick_32: AtomicU64,
    latest: Mutex<Option<Point>>,
}

/// The same moment by both: `Instant` stood between the two when the counter stood there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    ticks: u64,
    from_ns: u64,
    until_ns: u64,
}

impl Pace {
    const fn new() -> Self {
        Self {
            sequence: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            ns: AtomicU64::new(0),
            ns_per_tick_32: AtomicU64::new(0),
            latest: Mutex::new(None),
        }
    }

    #[inline]
    pub(super) fn now_ns(&self) -> u64 {
        let ticks = counter::read();
        let sequence = self.sequence.load(Ordering::Acquire);
        let since = ticks.wrapping_sub(self.ticks.load(Ordering::Relaxed));
        let ns = self.ns.load(Ordering::Relaxed);
        let pace = self.ns_per_tick_32.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if since < ANCHOR_TICKS && pace != 0 && sequence & 1 == 0 && sequence == self.sequence.load(Ordering::Relaxed) {
            // Less than 2^31 ticks of less than 2^33: no overflow.
            return ns + ((since * pace) >> 32);
        }
        self.anchor()
    }

    /// Answers by `Instant`, and takes a new anchor unless another thread is at it.
    #[cold]
    fn anchor(&self) -> u64 {
        let Some(mut latest) = self.latest.try_lock() else { return mono_ns() };
        let from_ns = mono_ns();
        let ticks = counter::read_ordered();
        let ns = mono_ns();
        let now = Point { ticks, from_ns, until_ns: ns };
        if ns - from_ns > BRACKET_NS {
            return ns;
        }
        let Some(before) = *latest else {
            *latest = Some(now);
            return ns;
        };
        let known = self.ns_per_tick_32.load(Ordering::Relaxed);
        if let Some(pace) = pace(before, now, known) {
            self.publish(now, pace);
            *latest = Some(now);
        }
        ns
    }

    fn publish(&self, at: Point, pace: u64) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        // The odd number is seen before what changes behind it.
        fence(Ordering::Release);
        self.ticks.store(at.ticks, Ordering::Relaxed);
        self.ns.store(at.from_ns, Ordering::Relaxed);
        self.ns_per_tick_32.store(pace, Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }
}

/// What the pace is after `now`: measured, or the known one where it cannot be; 0 to begin anew, `None` to wait.
fn pace(before: Point, now: Point, known: u64) -> Option<u64> {
    // The least that it can have been: so it never runs ahead.
    let ns = now.from_ns.saturating_sub(before.until_ns);
    if ns < PACED_OVER_NS.start {
        return None;
    }
    if ns >= PACED_OVER_NS.end {
        return Some(known);
    }
    let ticks = now.ticks.saturating_sub(before.ticks);
    let measured = (u128::from(ns) << 32).checked_div(u128::from(ticks)).and_then(|pace| u64::try_from(pace).ok());
    let measured = measured.unwrap_or(0);
    let is_believed = known == 0 || measured.abs_diff(known) <= known >> BELIEVED_BITS;
    Some(if is_believed && measured < 1 << 33 { measured } else { 0 })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_pace_is_measured_believed_and_doubted() {
        let second = 1_000_000_000_u64;
        let start = Point { ticks: 500, from_ns: 7, until_ns: 7 };
        let later = |ticks: u64, ns: u64| Point { ticks: 500 + ticks, from_ns: 7 + ns, until_ns: 7 + ns };
        let after = |ticks: u64, ns: u64| pace(start, later(ticks, ns), 0);
        assert_eq!(after(30_000_000, 10_000_000), None, "too soon");
        let third = after(3 * second, second).unwrap();
        assert_eq!(third, (1 << 32) / 3);
        let kept_waiting = Point { until_ns: 7 + second / 4, ..start };
        assert!(pace(kept_waiting, later(3 * second, second), 0).unwrap() < third, "in doubt it is slow");
        assert_eq!(after(0, second), Some(0), "a counter that stands");
        assert_eq!(after(second / 1_000, second), Some(0), "a counter that is slower than one tick a two nanoseconds");
        let known = |ticks: u64, ns: u64| pace(start, later(ticks, ns), third);
        assert_eq!(known(0, 3_600 * second), Some(third), "after a long rest");
        assert_eq!(known(2 * second, second), Some(0), "another machine");
        assert!(known(3 * second - 900_000, second).is_some_and(|pace| pace > third));
    }

    #[test]
    fn it_is_instant_never_ahead_and_hardly_behind() {
        if !counter::is_trusted() {
            return;
        }
        let pace = Pace::new();
        let until = Instant::now() + Duration::from_secs(20);
        while pace.ns_per_tick_32.load(Ordering::Relaxed) == 0 && Instant::now() < until {
            pace.now_ns();
        }
        assert_ne!(pace.ns_per_tick_32.load(Ordering::Relaxed), 0, "it finds its pace");
        let mut looks = 0;
        while looks < 100_000 {
            let before = mono_ns();
            let now = pace.now_ns();
            let after = mono_ns();
            assert!(now <= after + 1_000, "ahead by {} ns", now - after);
            assert!(now + 100_000 >= before, "behind by {} ns", before - now);
            looks += 1;
        }
    }
}
