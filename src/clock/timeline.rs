//! From ticks to time, whatever the clocks do: steps, slews, sleep, and threads that are preempted between two readings.
//!
//! A record is stamped with ticks. The writer takes an [`Anchor`] with each batch: ticks, monotonic time and wall time at
//! one moment. Between two anchors time is interpolated, so it is continuous from one batch to the next, and the ticks'
//! frequency need not be known. What ticks, monotonic and wall time should agree on, and do not, is a *break*:
//!
//! - Monotonic time stands still while the machine sleeps, and ticks go on. The missing time is put between the two records
//!   that are that far apart, else into the middle of the interval.
//! - Wall time that is set jumps. Records in the first half of the interval are dated by the anchor before it, those in
//!   the second half by the anchor behind it.
//!
//! Invariants, shown by the properties below: monotonic time never runs backwards. Wall time runs backwards only where it
//! was set back by more than [`TOLERANCE_NS`].

use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{Clock, Timestamp};

/// Clocks that differ by less, and a thousandth of the interval, are taken to agree: readings are not simultaneous, and NTP
/// slews by half of that.
const TOLERANCE_NS: i64 = 1_000_000;
/// Wall time that moves by more against the time that has passed is wrong, before or after.
const WRONG_NS: i64 = 3_600_000_000_000;
/// A shorter interval says too little of how long a tick is.
const PACE_NS_MIN: u64 = 10_000_000;

/// One moment on three clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) ticks: u64,
    pub(crate) mono_ns: u64,
    pub(crate) wall_ns: i64,
}

impl Anchor {
    /// This one, behind an earlier one: wall time that seems to have run backwards by less than the tolerance has not.
    pub(crate) fn following(self, before: Self) -> Self {
        let back_ns = before.wall_ns.saturating_sub(self.wall_ns);
        if (0..=TOLERANCE_NS).contains(&back_ns) { Self { wall_ns: before.wall_ns, ..self } } else { self }
    }
}

/// A moment in both times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) mono_ns: u64,
    pub(crate) wall_ns: i64,
}

/// How long ticks are, from an interval in which the machine did not sleep.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pace {
    ns_per_tick: Option<f64>,
}

impl Pace {
    /// Known better by another interval, if that is long and without a break.
    pub(crate) fn learn(&mut self, from: Anchor, to: Anchor) {
        let (ticks, ns) = (to.ticks.saturating_sub(from.ticks), to.mono_ns.saturating_sub(from.mono_ns));
        if ticks > 0 && ns >= PACE_NS_MIN && !Segment::new(from, to, *self).is_break() {
            self.ns_per_tick = Some(nanosecond_or(ns as f64 / ticks as f64));
        }
    }

    /// Of ticks that are nanoseconds.
    pub(crate) fn of_nanoseconds() -> Self {
        Self { ns_per_tick: Some(1.0) }
    }
}

/// A tick that is nearly a nanosecond is one.
fn nanosecond_or(ns_per_tick: f64) -> f64 {
    if (ns_per_tick - 1.0).abs() < 1e-3 { 1.0 } else { ns_per_tick }
}

/// The time between two anchors.
#[derive(Clone, Copy, Debug)]
struct Segment {
    from: Anchor,
    to: Anchor,
    /// A tick of monotonic and of wall time.
    mono_slope: f64,
    wall_slope: f64,
    /// How much longer the ticks say the interval was than monotonic time: the machine slept.
    slept_ns: u64,
    /// The last record before that, if it is known.
    slept_after: Option<u64>,
    /// How much wall time was set by.
    step_ns: i64,
}

impl Segment {
    fn new(from: Anchor, to: Anchor, pace: Pace) -> Self {
        let ticks = to.ticks.saturating_sub(from.ticks);
        let mono_ns = to.mono_ns.saturating_sub(from.mono_ns);
        let wall_ns = to.wall_ns.saturating_sub(from.wall_ns);
        // Without any ticks between them one counts as a nanosecond.
        let own_slope = if ticks == 0 { 1.0 } else { mono_ns as f64 / ticks as f64 };
        let slope = pace.ns_per_tick.unwrap_or(own_slope);
        let passed_ns = (ticks as f64 * slope) as i64;
        let tolerance_ns = TOLERANCE_NS.saturating_add(passed_ns / 1_000);
        let slept_ns = passed_ns.saturating_sub_unsigned(mono_ns);
        let has_slept = slept_ns > tolerance_ns;
        let step_ns = wall_ns.saturating_sub(passed_ns);
        let is_set = step_ns.saturating_abs() > tolerance_ns || wall_ns < 0;
        Self {
            from,
            to,
            mono_slope: if has_slept { slope } else { own_slope },
            wall_slope: if is_set || ticks == 0 { slope } else { wall_ns as f64 / ticks as f64 },
            slept_ns: if has_slept { slept_ns.unsigned_abs() } else { 0 },
            slept_after: None,
            step_ns: if is_set { step_ns } else { 0 },
        }
    }

    fn is_break(&self) -> bool {
        self.slept_ns > 0 || self.step_ns != 0
    }

    /// The moment of ticks between the anchors.
    #[inline]
    fn at(&self, ticks: u64) -> Moment {
        let since = ticks.saturating_sub(self.from.ticks);
        if self.is_break() {
            return self.at_break(ticks);
        }
        let mono_ns = self.from.mono_ns.saturating_add(scaled(since, self.mono_slope));
        let wall_ns = self.from.wall_ns.saturating_add_unsigned(scaled(since, self.wall_slope));
        // Rounding must not lead past the anchor, where the next interval begins.
        Moment { mono_ns: mono_ns.min(self.to.mono_ns), wall_ns: wall_ns.min(self.to.wall_ns) }
    }

    #[cold]
    fn at_break(&self, ticks: u64) -> Moment {
        let (since, left) = (ticks.saturating_sub(self.from.ticks), self.to.ticks.saturating_sub(ticks));
        let mono_ns = match self.slept_ns {
            0 => self.from.mono_ns.saturating_add(scaled(since, self.mono_slope)),
            _ => {
                let middle_ns = self.from.mono_ns + self.to.mono_ns.saturating_sub(self.from.mono_ns) / 2;
                let after_from = self.from.mono_ns.saturating_add(scaled(since, self.mono_slope));
                let before_to = self.to.mono_ns.saturating_sub(scaled(left, self.mono_slope));
                match self.slept_after {
                    Some(last) if ticks <= last => after_from,
                    Some(_) => before_to.max(self.from.mono_ns),
                    None => after_from.min(middle_ns).max(before_to),
                }
            }
        };
        let wall_ns = match (self.step_ns, since <= left) {
            (0, _) => self.from.wall_ns.saturating_add_unsigned(scaled(since, self.wall_slope)).min(self.to.wall_ns),
            // A step forward leaves room between the two halves, a step back makes them overlap.
            (_, true) => self.from.wall_ns.saturating_add_unsigned(scaled(since, self.wall_slope)),
            (_, false) => self.to.wall_ns.saturating_sub_unsigned(scaled(left, self.wall_slope)),
        };
        Moment { mono_ns: mono_ns.min(self.to.mono_ns), wall_ns }
    }
}

#[inline]
fn scaled(ticks: u64, slope: f64) -> u64 {
    // Ticks that are nanoseconds stay exact, however many.
    if slope == 1.0 { ticks } else { (ticks as f64 * slope) as u64 }
}

/// Turns the ticks of a run into time.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    /// Each begins where the one before it ends; one at least.
    segments: SmallVec<[Segment; 1]>,
    ns_per_tick: f64,
}

impl Timeline {
    /// Between two anchors, and beyond them by the pace.
    pub(crate) fn new(from: Anchor, to: Anchor, pace: Pace) -> Self {
        let segment = Segment::new(from, to, pace);
        let ns_per_tick = pace.ns_per_tick.unwrap_or(segment.mono_slope);
        Self { segments: SmallVec::from_buf([segment]), ns_per_tick }
    }

    /// As [`new`](Self::new), with a third anchor between the two.
    pub(crate) fn with(from: Anchor, between: Anchor, to: Anchor, pace: Pace) -> Self {
        let mut line = Self::new(between, to, pace);
        line.segments.insert(0, Segment::new(from, between, pace));
        line
    }

    /// Through all anchors that are known of a run, in any order. One whose clocks contradict the ticks is left out.
    pub(crate) fn through(mut anchors: Vec<Anchor>) -> Self {
        anchors.sort_by_key(|anchor| (anchor.ticks, anchor.mono_ns));
        let mut last = 0;
        anchors.retain(|anchor| {
            let is_later = anchor.mono_ns >= last;
            last = last.max(anchor.mono_ns);
            is_later
        });
        anchors.dedup_by_key(|anchor| anchor.ticks);
        let mut pace = Pace::default();
        let intervals = || anchors.windows(2).map(|pair| (pair[0], pair[1]));
        // In the interval with the longest ticks the machine slept least.
        let ns_per_tick =
            |(from, to): &(Anchor, Anchor)| (to.mono_ns - from.mono_ns) as f64 / (to.ticks - from.ticks).max(1) as f64;
        let is_long = |(from, to): &(Anchor, Anchor)| to.mono_ns - from.mono_ns >= PACE_NS_MIN;
        let awake = intervals().filter(is_long).max_by(|a, b| ns_per_tick(a).total_cmp(&ns_per_tick(b)));
        if let Some((from, to)) = awake.or_else(|| intervals().next()) {
            pace.ns_per_tick = Some(nanosecond_or(ns_per_tick(&(from, to)))).filter(|ns| *ns > 0.0);
        }
        let first = anchors.first().copied().unwrap_or_default();
        let mut segments: SmallVec<[Segment; 1]> =
            intervals().map(|(from, to)| Segment::new(from, to.following(from), pace)).collect();
        if segments.is_empty() {
            segments.push(Segment::new(first, first, pace));
        }
        Self { segments, ns_per_tick: pace.ns_per_tick.unwrap_or(1.0) }
    }

    /// Finds out between which records the machine slept; the stamps are given in their order.
    pub(crate) fn place_sleeps(&mut self, stamps: impl Iterator<Item = u64>) {
        if self.segments.iter().all(|segment| segment.slept_ns == 0) {
            return;
        }
        let mut before: Option<u64> = None;
        for stamp in stamps {
            if let Some(before) = before.filter(|before| *before < stamp) {
                let holds = |segment: &&mut Segment| {
                    let is_within = segment.from.ticks <= before && stamp <= segment.to.ticks;
                    segment.slept_ns > 0 && is_within && scaled(stamp - before, segment.mono_slope) >= segment.slept_ns
                };
                if let Some(segment) = self.segments.iter_mut().find(holds) {
                    segment.slept_after = Some(before);
                }
            }
            before = Some(stamp);
        }
    }

    /// Whether clocks disagree between the anchors.
    pub(crate) fn has_break(&self) -> bool {
        self.segments.iter().any(Segment::is_break)
    }

    /// The moment of ticks.
    #[inline]
    pub(crate) fn at(&self, ticks: u64) -> Moment {
        let holds = |segment: &&Segment| ticks >= segment.from.ticks && ticks <= segment.to.ticks;
        match self.segments.iter().rev().find(holds) {
            Some(segment) => segment.at(ticks),
            None => self.at_elsewhere(ticks),
        }
    }

    #[cold]
    fn at_elsewhere(&self, ticks: u64) -> Moment {
        let (first, last) = (self.segments[0].from, self.segments[self.segments.len() - 1].to);
        if ticks > last.ticks {
            let since_ns = scaled(ticks - last.ticks, self.ns_per_tick);
            return Moment {
                mono_ns: last.mono_ns.saturating_add(since_ns),
                wall_ns: last.wall_ns.saturating_add_unsigned(since_ns),
            };
        }
        if ticks < first.ticks {
            let before_ns = scaled(first.ticks - ticks, self.ns_per_tick);
            return Moment {
                mono_ns: first.mono_ns.saturating_sub(before_ns),
                wall_ns: first.wall_ns.saturating_sub_unsigned(before_ns),
            };
        }
        let index = self.segments.partition_point(|segment| segment.to.ticks < ticks);
        self.segments[index.min(self.segments.len() - 1)].at(ticks)
    }

    /// The monotonic moment of a wall time, by the last anchor.
    pub(crate) fn mono_of_wall(&self, wall_ns: i64) -> u64 {
        let last = self.segments[self.segments.len() - 1].to;
        let offset = i128::from(last.wall_ns) - i128::from(last.mono_ns);
        u64::try_from((i128::from(wall_ns) - offset).max(0)).unwrap_or(u64::MAX)
    }

    /// Wall time of the first anchor.
    pub(crate) fn start_unix_ns(&self) -> i64 {
        self.segments[0].from.wall_ns
    }

    /// Wall time of the last anchor.
    pub(crate) fn end_unix_ns(&self) -> i64 {
        self.segments[self.segments.len() - 1].to.wall_ns
    }
}

/// Decides whether wall time may be used to remove old rows. After a step of more than an hour, wall time is not trusted until
/// it has advanced in step with monotonic time for an hour.
#[derive(Clone, Copy, Debug)]
struct WallTrust {
    /// Wall time, and time that passes, sleep included.
    seen: (i64, u64),
    distrusted_since_ns: Option<u64>,
}

impl WallTrust {
    fn new(wall_ns: i64, passed_ns: u64) -> Self {
        Self { seen: (wall_ns, passed_ns), distrusted_since_ns: None }
    }

    /// Wall time, if it is trusted.
    fn look(&mut self, wall_ns: i64, passed_ns: u64) -> Option<i64> {
        let (wall_before, passed_before) = std::mem::replace(&mut self.seen, (wall_ns, passed_ns));
        let moved_ns =
            wall_ns.saturating_sub(wall_before).saturating_sub_unsigned(passed_ns.saturating_sub(passed_before));
        if moved_ns.saturating_abs() > WRONG_NS {
            self.distrusted_since_ns = Some(passed_ns);
        }
        if let Some(since_ns) = self.distrusted_since_ns {
            if passed_ns.saturating_sub(since_ns) < WRONG_NS.unsigned_abs() {
                return None;
            }
            self.distrusted_since_ns = None;
        }
        Some(wall_ns)
    }
}

/// A clock that knows whether its wall time is trusted for removing old rows. Clones share that state.
#[derive(Clone, Debug)]
pub(crate) struct TrustedClock {
    clock: Clock,
    trust: Arc<Mutex<WallTrust>>,
}

impl TrustedClock {
    /// Wall time is trusted to begin with.
    pub(crate) fn new(clock: Clock) -> Self {
        let trust = WallTrust::new(clock.now_by_hand().as_unix_ns(), clock.passed_by_hand_ns());
        Self { clock, trust: Arc::new(Mutex::new(trust)) }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Unix nanoseconds, if wall time is trusted. To be asked from time to time, for it notices what has changed since the
    /// last time.
    pub(crate) fn trusted_now_ns(&self) -> Option<i64> {
        self.trust.lock().look(self.clock.now_by_hand().as_unix_ns(), self.clock.passed_by_hand_ns())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn anchor(ticks: u64, mono_ns: u64, wall_ns: i64) -> Anchor {
        Anchor { ticks, mono_ns, wall_ns }
    }

    #[test]
    fn time_is_interpolated_between_anchors_and_goes_on_beyond_them() {
        let line = Timeline::new(anchor(1_000, 0, 50), anchor(3_000, 1_000, 1_050), Pace::default());
        let mono = [500, 1_000, 2_000, 3_000, 5_000].map(|ticks| line.at(ticks).mono_ns);
        assert_eq!(mono, [0, 0, 500, 1_000, 2_000], "half a nanosecond a tick, before, inside and after the anchors");
        assert_eq!(line.at(2_000).wall_ns, 550);
        let hour = 3_600 * SECOND;
        let long = Timeline::new(Anchor::default(), anchor(24 * hour * 3, 24 * hour, 0), Pace::default());
        assert_eq!(long.at(12 * hour * 3).mono_ns, 12 * hour);
    }

    #[test]
    fn hostile_anchors_do_not_overflow() {
        let ends = [0, 1, i64::MAX as u64, u64::MAX - 1, u64::MAX];
        let walls = [i64::MIN, -1, 0, i64::MAX];
        let anchors: Vec<_> =
            ends.iter().flat_map(|a| ends.iter().flat_map(move |b| walls.map(|wall| anchor(*a, *b, wall)))).collect();
        for from in &anchors {
            for to in &anchors {
                for line in [Timeline::new(*from, *to, Pace::default()), Timeline::through(vec![*from, *to])] {
                    ends.iter().for_each(|ticks| _ = line.at(*ticks));
                    let _ = line.mono_of_wall(i64::MIN);
                }
            }
        }
        Timeline::through(Vec::new()).at(u64::MAX);
    }

    #[test]
    fn records_around_a_sleep_keep_their_time() {
        let (hour, ms) = (3_600 * SECOND, 1_000_000);
        let mut pace = Pace::default();
        pace.learn(anchor(0, 0, 0), anchor(SECOND, SECOND, SECOND as i64));
        // Ticks go on in the eight hours of sleep, monotonic time does not.
        let from = anchor(SECOND, SECOND, SECOND as i64);
        let to = anchor(2 * SECOND + 8 * hour, 2 * SECOND, (2 * SECOND + 8 * hour) as i64);
        let line = Timeline::new(from, to, pace);
        assert!(line.has_break());
        assert_eq!(line.at(SECOND + 300 * ms), Moment { mono_ns: 1_300 * ms, wall_ns: 1_300 * ms as i64 });
        let late = 2 * SECOND + 8 * hour - 300 * ms;
        assert_eq!(line.at(late), Moment { mono_ns: 1_700 * ms, wall_ns: late as i64 });
    }

    #[test]
    fn a_sleep_is_placed_between_the_records_that_are_that_far_apart() {
        let ms = 1_000_000;
        let pace = Pace::of_nanoseconds();
        let from = anchor(SECOND, SECOND, SECOND as i64);
        let to = anchor(13 * SECOND, 3 * SECOND, 13 * SECOND as i64);
        // Awake for 1.9 seconds, asleep for ten, awake for the rest.
        let stamps = [1_100, 2_900, 12_950].map(|at| at * ms);
        let mut line = Timeline::new(from, to, pace);
        line.place_sleeps(stamps.into_iter());
        assert_eq!(stamps.map(|stamp| line.at(stamp).mono_ns / ms), [1_100, 2_900, 2_950]);
        assert_eq!(stamps.map(|stamp| line.at(stamp).wall_ns as u64 / ms), [1_100, 2_900, 12_950]);
    }

    #[test]
    fn a_clock_that_was_set_is_trusted_after_an_hour() {
        let minute = 60 * SECOND;
        let mut trust = WallTrust::new(0, 0);
        assert_eq!(trust.look(minute as i64, minute), Some(minute as i64));
        let year = 365 * 24 * 60 * minute as i64;
        assert_eq!(trust.look(year, 2 * minute), None, "the first step of NTP");
        for minutes in 1..60 {
            assert_eq!(trust.look(year + (minutes * minute) as i64, (2 + minutes) * minute), None);
        }
        assert!(trust.look(year + 60 * minute as i64, 62 * minute).is_some());
        let night = 8 * 60 * minute;
        assert!(trust.look(year + 60 * minute as i64 + night as i64, 62 * minute + night).is_some(), "a sleep");
        assert_eq!(trust.look(0, 63 * minute + night), None, "set back");
    }

    /// What happens to the machine between two batches.
    #[derive(Clone, Copy, Debug)]
    enum Change {
        Nothing,
        /// Wall time is set by so many nanoseconds.
        Step(i64),
        /// Wall time runs faster or slower by so many millionths.
        Slew(i64),
        /// The machine sleeps; ticks go on, or not.
        Sleep {
            ns: u64,
            with_ticks: bool,
        },
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            4 => Just(Change::Nothing),
            1 => (-20_000_000_000_i64..20_000_000_000).prop_map(Change::Step),
            2 => (-500_i64..500).prop_map(Change::Slew),
            1 => (1_000_000_000_u64..100_000_000_000_000, any::<bool>())
                .prop_map(|(ns, with_ticks)| Change::Sleep { ns, with_ticks }),
        ]
    }

    /// The true clocks, of which anchors see a little more or less.
    #[derive(Clone, Copy, Debug)]
    struct World {
        ticks_per_us: u64,
        ticks: u64,
        mono_ns: u64,
        wall_ns: i64,
        slew: i64,
    }

    impl World {
        fn pass(&mut self, us: u64) {
            self.ticks += us * self.ticks_per_us;
            self.mono_ns += us * 1_000;
            self.wall_ns += (us * 1_000) as i64 + us as i64 * self.slew / 1_000;
        }

        /// As the writer reads it: preempted for so long between the readings.
        fn anchor(&self, preempted_ns: u64) -> Anchor {
            anchor(self.ticks, self.mono_ns, self.wall_ns + preempted_ns as i64)
        }
    }

    proptest! {
        #[test]
        fn order_and_times_survive_whatever_clocks_do(
            ticks_per_us in prop_oneof![Just(1_000_u64), 24_u64..5_000],
            batches in prop::collection::vec((change(), 100_u64..2_000_000, 0_u64..500_000, 1_u64..8), 2..30),
        ) {
            let mut world = World { ticks_per_us, ticks: 1, mono_ns: 1, wall_ns: 1_700_000_000_000_000_000, slew: 0 };
            let mut pace = Pace::default();
            let first = world.anchor(0);
            world.pass(50_000);
            let mut before = world.anchor(0);
            pace.learn(first, before);
            let mut last = Moment { mono_ns: 0, wall_ns: i64::MIN };
            for (change, us, preempted_ns, records) in batches {
                // Records, then what happens, then records.
                let mut truth = Vec::new();
                let mut record = |world: &mut World| {
                    for _ in 0..records {
                        world.pass(us / 2 / records);
                        truth.push((world.ticks, world.mono_ns, world.wall_ns));
                    }
                };
                record(&mut world);
                match change {
                    Change::Nothing => {}
                    Change::Step(ns) => world.wall_ns += ns,
                    Change::Slew(ppm) => world.slew = ppm,
                    Change::Sleep { ns, with_ticks } => {
                        world.wall_ns += ns as i64;
                        world.ticks += if with_ticks { ns / 1_000 * world.ticks_per_us } else { 0 };
                    }
                }
                record(&mut world);
                let now = world.anchor(preempted_ns).following(before);
                let line = Timeline::new(before, now, pace);
                let is_step_back = matches!(change, Change::Step(ns) if ns < -900_000);
                for (ticks, mono_ns, wall_ns) in truth {
                    let moment = line.at(ticks);
                    prop_assert!(moment.mono_ns >= last.mono_ns, "monotonic time ran backwards");
                    prop_assert!(moment.wall_ns >= last.wall_ns || is_step_back, "{change:?}: {moment:?} after {last:?}");
                    // An interval is never wrong by more than itself, and the part of a reading that took long.
                    let is_quiet = !matches!(change, Change::Step(_) | Change::Sleep { .. });
                    let slack = 2_000_000 + us / 500 + preempted_ns + if is_quiet { 0 } else { us * 1_000 };
                    prop_assert!(moment.mono_ns.abs_diff(mono_ns) <= slack, "{change:?}: {} of {mono_ns}", moment.mono_ns);
                    let is_dated = is_quiet || matches!(change, Change::Sleep { .. });
                    prop_assert!(!is_dated || moment.wall_ns.abs_diff(wall_ns) <= slack, "{change:?}: {} of {wall_ns}", moment.wall_ns);
                    last = moment;
                }
                if is_step_back {
                    last.wall_ns = now.wall_ns;
                }
                pace.learn(before, now);
                before = now;
            }
        }
    }
}
