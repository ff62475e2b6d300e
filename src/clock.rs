//! Time: [`Timestamp`] for people and rows, ticks for the hot path, and the [`Clock`] both come from.
//!
//! A record is stamped with *ticks*: the processor's counter, or nanoseconds that go on while the machine sleeps. The writer
//! turns ticks into time with [`Timeline`], between an [`Anchor`] before and one after the records.

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
mod timeline;

pub(crate) use timeline::{Anchor, Moment, Pace, Timeline, TrustedClock};

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

/// Readings of all clocks that took longer are not of one moment, and are taken again; so often at most.
const ANCHOR_NS: u64 = 1_000;
const ANCHOR_READINGS: usize = 8;

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
            asleep_ns: AtomicU64::new(0),
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
            Source::Instant => passed_ns(),
            Source::Manual(manual) => manual.stamp(),
        }
    }

    /// Ties ticks to monotonic and wall time at this moment.
    pub(crate) fn anchor(&self) -> Anchor {
        let ticks: fn() -> u64 = match &self.0 {
            Source::Counter => counter::read_ordered,
            Source::Instant => passed_ns,
            Source::Manual(manual) => {
                let (ticks, mono_ns) = manual.ticks_and_mono();
                return Anchor { ticks, mono_ns, wall_ns: manual.wall_at(mono_ns) };
            }
        };
        // A thread that is not running for a while between two readings would tie a moment to a later one.
        let readings = (0..ANCHOR_READINGS).map(|_| {
            let before_ns = mono_ns();
            let (ticks, wall_ns) = (ticks(), wall_ns());
            let took_ns = mono_ns().saturating_sub(before_ns);
            (took_ns, Anchor { ticks, mono_ns: before_ns + took_ns / 2, wall_ns })
        });
        let mut best: Option<(u64, Anchor)> = None;
        for (took_ns, anchor) in readings {
            if best.is_none_or(|(least, _)| took_ns < least) {
                best = Some((took_ns, anchor));
            }
            if took_ns <= ANCHOR_NS {
                break;
            }
        }
        best.map_or_else(Anchor::default, |(_, anchor)| anchor)
    }

    /// How long its ticks are, as far as that is known beforehand.
    pub(crate) fn pace(&self) -> Pace {
        match &self.0 {
            Source::Counter => Pace::default(),
            Source::Instant | Source::Manual(_) => Pace::of_nanoseconds(),
        }
    }

    /// Nanoseconds that have passed since some moment, those included in which the machine slept, where the system tells. A
    /// manual clock's move by its hand alone.
    pub(crate) fn passed_by_hand_ns(&self) -> u64 {
        match &self.0 {
            Source::Counter | Source::Instant => passed_ns(),
            Source::Manual(manual) => manual.hand_ns.load(Ordering::Acquire) + manual.asleep_ns.load(Ordering::Acquire),
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

    /// Lets the machine sleep for `d`: wall time advances, monotonic time stands still.
    pub fn sleep(&self, d: Duration) {
        let now = self.0.wall_by_hand();
        self.0
            .asleep_ns
            .fetch_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX).min(MANUAL_MAX_NS), Ordering::AcqRel);
        self.set_wall(now.saturating_add(d));
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
    /// How long the machine has slept.
    asleep_ns: AtomicU64,
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
        self.hand_ns.load(Ordering::Acquire) + before + self.asleep_ns.load(Ordering::Acquire)
    }

    /// Ticks go on while the machine sleeps.
    fn ticks_and_mono(&self) -> (u64, u64) {
        let mono_ns = self.mono_ns();
        (mono_ns + self.asleep_ns.load(Ordering::Acquire), mono_ns)
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

/// Monotonic nanoseconds that go on while the machine sleeps.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn passed_ns() -> u64 {
    // The call cannot fail for a clock that every kernel since 2.6.39 has.
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or_else(|_| mono_ns(), |now| u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}

/// Where there is no such clock, the time that the system calls monotonic.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn passed_ns() -> u64 {
    mono_ns()
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
        let line = Timeline::new(from, clock.anchor(), Pace::default());
        let elapsed = Duration::from_nanos(line.at(last).mono_ns - line.at(from.ticks).mono_ns);
        assert!((at_least.mul_f64(0.99)..at_most.mul_f64(1.01)).contains(&elapsed), "{elapsed:?} of {at_least:?}");
    }
}
