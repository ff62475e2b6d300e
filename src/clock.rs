//! Time: [`Timestamp`] for people and rows, ticks for the hot path, and the [`Clock`] both come from.
//!
//! A record is stamped with *ticks* (the processor's counter, or nanoseconds of `Instant`); the writer turns ticks
//! into unix time with a pair of [`Anchor`]s, one taken before and one after the records it converts, so the counter's
//! frequency is never estimated: between two anchors time is interpolated, and only recovery extrapolates.
//! Invariant: anchors never run backwards within a process; wall time may.

use std::{
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

mod counter;
mod pace;

/// A point in time: nanoseconds since 1970-01-01T00:00:00Z, from the year 1677 to 2262.
///
/// ```
/// let t = l0::Timestamp::from_unix_ns(1_700_000_000_000_000_000);
/// assert_eq!(t.to_string(), "2023-11-14T22:13:20.000000000Z");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The system's wall time.
    pub fn now() -> Self {
        Self(wall_ns())
    }

    /// From nanoseconds since the epoch.
    pub const fn from_unix_ns(ns: i64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the epoch.
    pub const fn as_unix_ns(self) -> i64 {
        self.0
    }

    /// This much earlier, stopping at the earliest representable time.
    #[must_use]
    pub fn saturating_sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(duration_ns(d)))
    }

    /// This much later, stopping at the latest representable time.
    #[must_use]
    pub fn saturating_add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(duration_ns(d)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(time) => write!(f, "{time:.9}"),
            Err(_) => write!(f, "{} ns", self.0),
        }
    }
}

/// The moment a bound from now ends; bounds of more than a year are a year.
pub(crate) fn deadline(bound: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(bound.min(Duration::from_secs(365 * 24 * 3600))).unwrap_or(now)
}

/// A `Duration` in nanoseconds, capped at what a column holds (292 years).
pub(crate) fn duration_ns(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}

/// Where time comes from: the system, or a test's hand.
///
/// One concrete type, cheap to clone; clones of a manual clock show the same time.
///
/// ```
/// use std::time::Duration;
/// let (clock, time) = l0::Clock::manual(l0::Timestamp::from_unix_ns(1_000_000_000));
/// time.advance(Duration::from_secs(60));
/// assert_eq!(clock.now().as_unix_ns(), 61_000_000_000);
/// ```
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    /// The processor's counter: only where the kernel itself keeps time by it.
    Counter,
    Instant,
    Manual(Arc<Manual>),
}

/// Nanoseconds since the first use in this process; the base of monotonic time.
static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        LazyLock::force(&BASE);
        Self(if counter::is_trusted() { Source::Counter } else { Source::Instant })
    }

    /// A clock that stands still until its [`ManualClock`] moves it.
    ///
    /// To keep records in order, each record made while it stands still is one nanosecond after the last.
    pub fn manual(at: Timestamp) -> (Self, ManualClock) {
        // Zero stands for no stamp at all, so time begins at one.
        let manual = Arc::new(Manual {
            hand_ns: AtomicU64::new(1),
            stamps: AtomicU64::new(0),
            walls: Mutex::new(vec![(1, at.0)]),
            set: Mutex::new((1, at)),
        });
        (Self(Source::Manual(Arc::clone(&manual))), ManualClock(manual))
    }

    /// Wall time by this clock.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::Counter | Source::Instant => Timestamp::now(),
            Source::Manual(manual) => Timestamp(manual.wall_at(manual.mono_ns())),
        }
    }

    /// Wall time by which jobs are due; a manual clock's moves by its hand alone, not by records.
    pub(crate) fn now_by_hand(&self) -> Timestamp {
        match &self.0 {
            Source::Counter | Source::Instant => Timestamp::now(),
            Source::Manual(manual) => manual.wall_by_hand(),
        }
    }

    /// Monotonic nanoseconds, by which durations are told and limits decided; a manual clock's move by its hand alone.
    #[inline]
    pub(crate) fn elapsed_ns(&self) -> u64 {
        match &self.0 {
            Source::Counter => pace::PACE.now_ns(),
            Source::Instant => mono_ns(),
            Source::Manual(manual) => manual.hand_ns.load(Ordering::Acquire),
        }
    }

    /// Whether time passes by itself.
    pub(crate) fn is_manual(&self) -> bool {
        matches!(self.0, Source::Manual(_))
    }

    /// The stamp for a record. On a manual clock each call is one later than the last. A processor's counter that was set
    /// back is noticed by the next anchor; until then lanes keep their order by raising stamps.
    #[inline]
    pub(crate) fn ticks(&self) -> u64 {
        match &self.0 {
            Source::Counter => counter::read(),
            Source::Instant => mono_ns(),
            Source::Manual(manual) => manual.stamp(),
        }
    }

    /// Ties ticks to monotonic and wall time at this moment.
    pub(crate) fn anchor(&self) -> Anchor {
        match &self.0 {
            Source::Counter => {
                let before = counter::read_ordered();
                let mono_ns = mono_ns();
                let after = counter::read_ordered();
                Anchor { ticks: before + after.saturating_sub(before) / 2, mono_ns, wall_ns: wall_ns() }
            }
            Source::Instant => {
                let now_ns = mono_ns();
                Anchor { ticks: now_ns, mono_ns: now_ns, wall_ns: wall_ns() }
            }
            Source::Manual(manual) => {
                let now_ns = manual.mono_ns();
                Anchor { ticks: now_ns, mono_ns: now_ns, wall_ns: manual.wall_at(now_ns) }
            }
        }
    }

    /// Wall time of a monotonic moment, where the clock itself remembers its steps (the manual one does).
    pub(crate) fn wall_of(&self, mono_ns: u64) -> Option<i64> {
        match &self.0 {
            Source::Counter | Source::Instant => None,
            Source::Manual(manual) => Some(manual.wall_at(mono_ns)),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

/// The hand that moves a manual [`Clock`].
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Manual>);

impl ManualClock {
    /// Moves both wall and monotonic time forward.
    pub fn advance(&self, d: Duration) {
        let step = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let moved = |ns: u64| Some(ns.saturating_add(step).min(MANUAL_MAX_NS));
        let _ = self.0.hand_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, moved);
    }

    /// Sets wall time, in either direction, as an administrator or NTP would; monotonic time stands still.
    pub fn set_wall(&self, t: Timestamp) {
        let mut walls = self.0.walls.lock();
        let from_ns = self.0.mono_ns();
        walls.push((from_ns, t.0));
        *self.0.set.lock() = (self.0.hand_ns.load(Ordering::Acquire), t);
    }
}

#[derive(Debug)]
struct Manual {
    /// Where the hand stands.
    hand_ns: AtomicU64,
    /// How many records were stamped: each is a nanosecond of their time, though not of the hand's.
    stamps: AtomicU64,
    /// (from this monotonic moment, wall time there), ascending.
    walls: Mutex<Vec<(u64, i64)>>,
    /// Where the hand stood when wall time was set last, and to what.
    set: Mutex<(u64, Timestamp)>,
}

/// Where a manual clock stops.
const MANUAL_MAX_NS: u64 = u64::MAX / 2;

impl Manual {
    fn mono_ns(&self) -> u64 {
        self.hand_ns.load(Ordering::Acquire) + self.stamps.load(Ordering::Acquire)
    }

    fn stamp(&self) -> u64 {
        let before = self.stamps.fetch_add(1, Ordering::AcqRel);
        self.hand_ns.load(Ordering::Acquire) + before
    }

    fn wall_by_hand(&self) -> Timestamp {
        let (from_ns, wall) = *self.set.lock();
        let passed_ns = self.hand_ns.load(Ordering::Acquire).saturating_sub(from_ns);
        wall.saturating_add(Duration::from_nanos(passed_ns))
    }

    fn wall_at(&self, mono_ns: u64) -> i64 {
        let walls = self.walls.lock();
        let index = walls.partition_point(|(from, _)| *from <= mono_ns).saturating_sub(1);
        let (from_ns, wall_ns) = walls[index];
        wall_ns.saturating_add_unsigned(mono_ns.saturating_sub(from_ns))
    }
}

/// One moment on three clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) ticks: u64,
    pub(crate) mono_ns: u64,
    pub(crate) wall_ns: i64,
}

/// Turns ticks into time between (and, for recovery, beyond) two anchors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeline {
    from: Anchor,
    to: Anchor,
}

impl Timeline {
    pub(crate) fn new(from: Anchor, to: Anchor) -> Self {
        Self { from, to }
    }

    pub(crate) fn mono_ns(&self, ticks: u64) -> u64 {
        let span_ticks = i128::from(self.to.ticks) - i128::from(self.from.ticks);
        let span_ns = i128::from(self.to.mono_ns) - i128::from(self.from.mono_ns);
        let since = i128::from(ticks) - i128::from(self.from.ticks);
        // Equal spans (Instant, manual) are exact; without two distinct anchors a tick counts as a nanosecond.
        let ns = if span_ticks <= 0 || span_ticks == span_ns {
            since
        } else if let (Ok(since), Ok(ns), Ok(ticks)) =
            (u64::try_from(since), u64::try_from(span_ns), u64::try_from(span_ticks))
            && let Some(product) = since.checked_mul(ns)
        {
            i128::from(product / ticks)
        } else {
            since * span_ns / span_ticks
        };
        u64::try_from((i128::from(self.from.mono_ns) + ns).max(0)).unwrap_or(u64::MAX)
    }

    /// The monotonic moment of a wall time, the reverse of `wall_ns`.
    pub(crate) fn mono_of_wall(&self, wall_ns: i64) -> u64 {
        let offset = i128::from(self.to.wall_ns) - i128::from(self.to.mono_ns);
        u64::try_from((i128::from(wall_ns) - offset).max(0)).unwrap_or(u64::MAX)
    }

    /// When the earlier anchor was taken.
    pub(crate) fn start_unix_ns(&self) -> i64 {
        self.from.wall_ns
    }

    /// When the later anchor was taken.
    pub(crate) fn end_unix_ns(&self) -> i64 {
        self.to.wall_ns
    }

    /// Wall time of a monotonic moment by the later anchor: one offset per batch.
    pub(crate) fn wall_ns(&self, mono_ns: u64) -> i64 {
        let offset = i128::from(self.to.wall_ns) - i128::from(self.to.mono_ns);
        i64::try_from(offset + i128::from(mono_ns)).unwrap_or(i64::MAX)
    }
}

/// Wall time for an id: milliseconds, some seconds wrong a day, for the price of a multiplication.
#[derive(Debug, Default)]
pub(crate) struct CoarseWall {
    /// An `f64`'s bits; set once.
    ms_per_tick: AtomicU64,
    offset_ms: AtomicU64,
}

impl CoarseWall {
    /// Puts it right, by two anchors of this run.
    pub(crate) fn set(&self, [from, to]: [Anchor; 2]) {
        let mut ms_per_tick = f64::from_bits(self.ms_per_tick.load(Ordering::Relaxed));
        if ms_per_tick == 0.0 {
            let ticks = to.ticks.saturating_sub(from.ticks);
            // Without two distinct anchors a tick counts as a nanosecond, as in a timeline.
            let ns_per_tick =
                if ticks == 0 { 1.0 } else { to.mono_ns.saturating_sub(from.mono_ns) as f64 / ticks as f64 };
            ms_per_tick = ns_per_tick / 1e6;
            self.ms_per_tick.store(ms_per_tick.to_bits(), Ordering::Relaxed);
        }
        let offset_ms = to.wall_ns / 1_000_000 - (to.ticks as f64 * ms_per_tick) as i64;
        self.offset_ms.store(offset_ms.cast_unsigned(), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn unix_ms(&self, ticks: u64) -> u64 {
        let since = (ticks as f64 * f64::from_bits(self.ms_per_tick.load(Ordering::Relaxed))) as i64;
        let unix_ms = self.offset_ms.load(Ordering::Relaxed).cast_signed().saturating_add(since);
        u64::try_from(unix_ms).unwrap_or(0)
    }
}

fn mono_ns() -> u64 {
    u64::try_from(BASE.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn wall_ns() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => duration_ns(since),
        Err(before) => -duration_ns(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_interpolates_and_extrapolates() {
        let from = Anchor { ticks: 1_000, mono_ns: 0, wall_ns: 50 };
        let to = Anchor { ticks: 3_000, mono_ns: 1_000, wall_ns: 1_050 };
        let line = Timeline::new(from, to);
        assert_eq!(
            [500, 1_000, 2_000, 3_000, 5_000].map(|t| line.mono_ns(t)),
            [0, 0, 500, 1_000, 2_000],
            "half a nanosecond a tick, before, inside and after the anchors"
        );
        assert_eq!(line.wall_ns(500), 550);
        let hour = 3_600_000_000_000;
        let long = Timeline::new(Anchor::default(), Anchor { ticks: 24 * hour * 3, mono_ns: 24 * hour, wall_ns: 0 });
        assert_eq!(long.mono_ns(12 * hour * 3), 12 * hour, "the wide product does not overflow");
    }

    #[test]
    fn a_manual_clock_remembers_its_steps() {
        let (clock, hand) = Clock::manual(Timestamp(1_000));
        assert_eq!(clock.ticks(), 1);
        hand.advance(Duration::from_nanos(9));
        let before = clock.ticks();
        hand.set_wall(Timestamp(5));
        let after = clock.ticks();
        assert_eq!(clock.wall_of(before), Some(1_010));
        assert_eq!(clock.elapsed_ns(), 10, "stamps do not move the hand");
        assert_eq!(clock.wall_of(after), Some(5));
    }

    #[test]
    fn system_ticks_never_run_backwards_and_agree_with_instant() {
        let clock = Clock::system();
        let before = Instant::now();
        let from = clock.anchor();
        let mut last = clock.ticks();
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(5) {
            let now = clock.ticks();
            assert!(now >= last);
            last = now;
        }
        // However long this thread was not running: the ticks lie between two looks at the other clock.
        let at_least = started.elapsed();
        let last = clock.ticks();
        let at_most = before.elapsed();
        let line = Timeline::new(from, clock.anchor());
        let elapsed = Duration::from_nanos(line.mono_ns(last) - line.mono_ns(from.ticks));
        assert!((at_least.mul_f64(0.99)..at_most.mul_f64(1.01)).contains(&elapsed), "{elapsed:?} of {at_least:?}");
    }
}
