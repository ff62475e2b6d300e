//! What is known of a schedule that was given, and what a look at it comes to: pure rules of what is known and the time.

use std::{hash::Hasher as _, time::Duration};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::{Misfire, Overlap, Schedule, Timing};
use crate::{
    clock::Timestamp,
    jobs::queue::{NewJob, Terms},
};

/// What is no later than this is late, and not missed.
const LATE_MAX: Duration = Duration::from_secs(60);
/// Fire times that passed are counted up to here.
const COUNTED_MAX: u64 = 1_000;
const CATCH_UP_MAX: u32 = 1_000;
/// A clock that is set back by more is taken to have been wrong before. Debian's cron has the same bound.
const CORRECTION: Duration = Duration::from_secs(3 * 3_600);
/// Readings of a clock in two processes may differ by this.
const SLACK: Duration = Duration::from_secs(1);

/// A schedule that was given, with its job and its history; kept as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::jobs) struct Entry {
    pub(in crate::jobs) schedule: Schedule,
    pub(in crate::jobs) job: Template,
    /// Since when its times are these.
    since: Timestamp,
    is_paused: bool,
    /// While it is paused: when it was due, if it was.
    was_due: Option<Timestamp>,
    /// Times whose jobs are enqueued when the one before them has ended.
    held: Vec<Timestamp>,
    /// The latest time that was decided on.
    decided_at: Option<Timestamp>,
    /// The latest time whose job was enqueued, and when it was.
    pub(in crate::jobs) fired: Option<(Timestamp, Timestamp)>,
    pub(in crate::jobs) fires: u64,
    pub(in crate::jobs) missed: u64,
    pub(in crate::jobs) skipped: u64,
    /// Since the last fire it was skipped, or missed one.
    pub(in crate::jobs) is_skipping: bool,
    pub(in crate::jobs) is_missing: bool,
}

/// The job of a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::jobs) struct Template {
    pub(in crate::jobs) kind: String,
    pub(in crate::jobs) queue: String,
    pub(in crate::jobs) priority: i32,
    pub(in crate::jobs) payload: String,
    pub(in crate::jobs) terms: Terms,
    pub(in crate::jobs) unique: Option<String>,
    pub(in crate::jobs) delay: Duration,
    pub(in crate::jobs) start_within: Option<Duration>,
}

/// How a schedule stands in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::jobs) struct Standing {
    pub(in crate::jobs) next_at: Option<Timestamp>,
    /// Something of it is due when its jobs have ended.
    pub(in crate::jobs) waits: bool,
    /// Its jobs that are not final.
    pub(in crate::jobs) open: u64,
    /// When its latest job ended, if it did.
    pub(in crate::jobs) ended_at: Option<Timestamp>,
}

/// What a look at a schedule comes to.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::jobs) struct Looked {
    pub(in crate::jobs) entry: Entry,
    pub(in crate::jobs) next_at: Option<Timestamp>,
    pub(in crate::jobs) waits: bool,
    /// The times whose jobs are enqueued.
    pub(in crate::jobs) fires: Vec<Timestamp>,
    /// Times that passed with nobody there and are dropped; at least so many if `COUNTED_MAX` passed.
    pub(in crate::jobs) missed: u64,
    /// Times at which its job was still at work, and that are dropped.
    pub(in crate::jobs) skipped: u64,
}

/// Fire times that have come.
struct Due {
    /// Of those that may be run, the latest, in their order.
    times: Vec<Timestamp>,
    latest: Timestamp,
    count: u64,
}

impl Entry {
    pub(in crate::jobs) fn new(schedule: Schedule, job: Template, now: Timestamp) -> Self {
        Self {
            schedule,
            job,
            since: now,
            is_paused: false,
            was_due: None,
            held: Vec::new(),
            decided_at: None,
            fired: None,
            fires: 0,
            missed: 0,
            skipped: 0,
            is_skipping: false,
            is_missing: false,
        }
    }

    /// When it is due for the first time.
    pub(in crate::jobs) fn first(&self) -> Option<Timestamp> {
        match self.schedule.timing {
            Timing::Once(at) => Some(at),
            _ => self.schedule.next_after(self.since),
        }
    }

    /// The same schedule, given again; `None` if nothing is different. Says as well whether its times are others.
    pub(in crate::jobs) fn changed(&self, schedule: &Schedule, job: &Template, now: Timestamp) -> Option<(Self, bool)> {
        if (&self.schedule, &self.job) == (schedule, job) {
            return None;
        }
        let is_other = (&self.schedule.timing, &self.schedule.zone) != (&schedule.timing, &schedule.zone);
        let mut changed = Self { schedule: schedule.clone(), job: job.clone(), ..self.clone() };
        if is_other {
            (changed.since, changed.decided_at) = (now, None);
            changed.held.clear();
            changed.was_due = changed.first().filter(|_| changed.is_paused);
        }
        Some((changed, is_other))
    }

    pub(in crate::jobs) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Whether times wait for a job to end.
    pub(in crate::jobs) fn holds(&self) -> u64 {
        self.held.len() as u64
    }

    pub(in crate::jobs) fn paused(&self, next_at: Option<Timestamp>) -> Self {
        Self { is_paused: true, was_due: next_at, ..self.clone() }
    }

    /// Goes on, with so many jobs at work; what would have been due in between is not made up for. Says when it is due next, and
    /// whether something is when its jobs have ended.
    pub(in crate::jobs) fn resumed(&self, open: u64, now: Timestamp) -> (Self, Option<Timestamp>, bool) {
        let next_at = match (&self.schedule.timing, self.was_due) {
            // The pause begins at the end of that.
            (Timing::AfterEach(_), _) if open > 0 => None,
            (Timing::Every(d), Some(next)) if next <= now => step_behind(next, now, *d),
            (Timing::Every(_) | Timing::Once(_), Some(next)) if next > now => Some(next),
            (Timing::Once(_), _) => None,
            _ => self.schedule.next_after(now),
        };
        let waits = !self.held.is_empty() || matches!(self.schedule.timing, Timing::AfterEach(_)) && next_at.is_none();
        (Self { is_paused: false, was_due: None, decided_at: Some(now), ..self.clone() }, next_at, waits)
    }

    /// When it is due instead, after the clock was set back or the rules of its zone have changed.
    pub(in crate::jobs) fn mended(&self, next_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let next = match &self.schedule.timing {
            Timing::Every(d) | Timing::AfterEach(d) => {
                let is_far = next_at > now.saturating_add(*d).saturating_add(SLACK);
                is_far.then(|| now.saturating_add(*d))
            }
            Timing::Cron(_) => {
                let seen = self.decided_at.map_or(self.since, |at| at.max(self.since));
                // What was fired an hour ago is not fired again because it is that hour once more.
                let is_certain = seen <= now && next_at > now || seen > now.saturating_add(CORRECTION);
                is_certain.then(|| self.schedule.next_after(now)).flatten()
            }
            Timing::Once(_) => None,
        };
        next.filter(|next| *next != next_at)
    }

    /// What is to be done now; `None` if nothing is.
    pub(in crate::jobs) fn look(&self, at: &Standing, now: Timestamp) -> Option<Looked> {
        if self.is_paused() {
            return None;
        }
        let mut entry = self.clone();
        let Standing { mut next_at, waits, mut open, ended_at } = *at;
        let (mut fires, mut missed, mut skipped) = (Vec::new(), 0, 0);
        if let Timing::AfterEach(d) = self.schedule.timing
            && next_at.is_none()
            && open == 0
            && self.held.is_empty()
        {
            // By a clock that was set back since it may have ended in what is the future now.
            next_at = Some(ended_at.unwrap_or(now).min(now).saturating_add(d));
        }
        let (within, at_most, catches_up) = match self.schedule.misfire {
            Misfire::Skip | Misfire::CatchUp { at_most: 0, .. } => (LATE_MAX, 1, false),
            Misfire::RunOnce { within } => (within.max(LATE_MAX), 1, false),
            Misfire::CatchUp { within, at_most } => (within.max(LATE_MAX), at_most.min(CATCH_UP_MAX), true),
        };
        let floor = now.saturating_sub(within);
        if catches_up {
            // What was held for too long is not caught up with any more.
            let before = entry.held.len();
            entry.held.retain(|time| *time >= floor);
            missed += (before - entry.held.len()) as u64;
        }
        if open == 0 && !entry.held.is_empty() {
            fires.push(entry.held.remove(0));
            open += 1;
        }
        if let Some(first) = next_at.filter(|at| *at <= now) {
            let due = self.due(first, now, floor, at_most as usize);
            missed += due.count.saturating_sub(due.times.len() as u64);
            // What is due now, and nothing else, is no catching up.
            let is_late = |time: &Timestamp| time.saturating_add(LATE_MAX) < now;
            let is_catching_up = catches_up && (due.times.len() > 1 || due.times.iter().any(is_late));
            for time in due.times {
                if self.schedule.overlap == Overlap::Allow || open == 0 && entry.held.is_empty() {
                    fires.push(time);
                    open += 1;
                } else if is_catching_up || self.schedule.overlap == Overlap::QueueOne && entry.held.is_empty() {
                    entry.held.push(time);
                } else {
                    skipped += 1;
                }
            }
            // Of what waits, too, no more than may be caught up with.
            let surplus = entry.held.len().saturating_sub(at_most as usize);
            entry.held.drain(..surplus);
            missed += surplus as u64;
            entry.decided_at = Some(due.latest);
            next_at = match self.schedule.timing {
                Timing::Cron(_) => self.schedule.next_after(now),
                Timing::Every(d) => step_behind(first, now, d),
                Timing::AfterEach(d) => (open == 0).then(|| now.saturating_add(d)),
                Timing::Once(_) => None,
            };
        }
        let is_pausing = matches!(self.schedule.timing, Timing::AfterEach(_)) && next_at.is_none();
        let waits_now = !entry.held.is_empty() || is_pausing;
        if fires.is_empty() && missed + skipped == 0 && (next_at, waits_now) == (at.next_at, waits) {
            return None;
        }
        if let Some(time) = fires.last() {
            entry.fired = Some((*time, now));
            entry.is_skipping = false;
        }
        entry.is_skipping |= skipped > 0;
        entry.is_missing = missed > 0 || entry.is_missing && fires.is_empty();
        entry.fires += fires.len() as u64;
        entry.missed += missed;
        entry.skipped += skipped;
        Some(Looked { entry, next_at, waits: waits_now, fires, missed, skipped })
    }

    /// Of what this look has fired, so many times have no job of their own: another has their unique key, or they were fired
    /// before. Says when it is due next, and whether something is when its jobs have ended.
    pub(in crate::jobs) fn unfired(
        &self,
        count: u64,
        at: &Standing,
        now: Timestamp,
    ) -> (Self, Option<Timestamp>, bool) {
        let mut entry = self.clone();
        entry.fires = entry.fires.saturating_sub(count);
        entry.skipped += count;
        entry.is_skipping = true;
        match self.schedule.timing {
            // Nothing ends of which it could be so long after.
            Timing::AfterEach(d) if at.open == 0 => (entry, Some(now.saturating_add(d)), !self.held.is_empty()),
            _ => (entry, at.next_at, at.waits),
        }
    }

    /// The times from `first` to `now`; of those not before `floor` the latest so many.
    fn due(&self, first: Timestamp, now: Timestamp, floor: Timestamp, at_most: usize) -> Due {
        match self.schedule.timing {
            Timing::Once(_) | Timing::AfterEach(_) => {
                let times = if first >= floor { vec![first] } else { Vec::new() };
                Due { times, latest: first, count: 1 }
            }
            Timing::Every(d) => {
                let last = steps(first, now, d);
                let from = last.saturating_sub(at_most as u64 - 1);
                let times = (from..=last).map(|step| after_steps(first, d, step)).filter(|time| *time >= floor);
                Due { times: times.collect(), latest: after_steps(first, d, last), count: last + 1 }
            }
            Timing::Cron(_) => {
                let mut times = vec![first];
                while let Some(next) = self.schedule.next_after(times[times.len() - 1]).filter(|next| *next <= now)
                    && (times.len() as u64) < COUNTED_MAX
                {
                    times.push(next);
                }
                let count = times.len() as u64;
                if count >= COUNTED_MAX {
                    times = self.latest(first, now, at_most);
                }
                let latest = times.last().copied().unwrap_or(first);
                times.retain(|time| *time >= floor);
                times.drain(..times.len().saturating_sub(at_most));
                Due { times, latest, count }
            }
        }
    }

    /// The latest so many times up to now, though there are very many: looked for in windows that grow backwards.
    fn latest(&self, first: Timestamp, now: Timestamp, at_most: usize) -> Vec<Timestamp> {
        let mut window = LATE_MAX;
        loop {
            let from = now.saturating_sub(window).max(first);
            let mut times = Vec::new();
            let mut at = Timestamp::from_unix_ns(from.as_unix_ns().saturating_sub(1));
            while let Some(next) = self.schedule.next_after(at).filter(|next| *next <= now) {
                times.push(next);
                at = next;
            }
            if times.len() >= at_most || from == first {
                return times;
            }
            window = window.saturating_mul(4);
        }
    }

    /// The job of a fire time of the schedule of this name.
    pub(in crate::jobs) fn job(&self, name: &str, time: Timestamp, now: Timestamp) -> NewJob {
        let Template { kind, queue, priority, payload, terms, unique, delay, start_within } = self.job.clone();
        let run_at = time.saturating_add(jitter(self.schedule.jitter, name, time)).saturating_add(delay).max(now);
        let start_by = start_within.map(|within| run_at.saturating_add(within));
        NewJob {
            queue,
            priority,
            run_at,
            is_named: true,
            terms: Terms { start_by, ..terms },
            unique,
            scheduled_for: Some(time),
            schedule: Some(name.to_owned()),
            ..NewJob::new(&kind, &payload, now)
        }
    }
}

/// Up to this long, by chance that is the same for everybody.
fn jitter(at_most: Duration, name: &str, time: Timestamp) -> Duration {
    let Ok(range) = u64::try_from(at_most.as_nanos()) else { return Duration::ZERO };
    let mut hasher = SipHasher13::new();
    hasher.write(name.as_bytes());
    hasher.write_i64(time.as_unix_ns());
    Duration::from_nanos(hasher.finish() % range.saturating_add(1).max(1))
}

/// Whole intervals from one moment to a later one.
fn steps(from: Timestamp, to: Timestamp, d: Duration) -> u64 {
    let ns = i128::from(to.as_unix_ns()) - i128::from(from.as_unix_ns());
    u64::try_from(ns.max(0).unsigned_abs() / d.as_nanos().max(1)).unwrap_or(u64::MAX)
}

/// The first moment of the grid that is later; `None` if time ends before.
fn step_behind(from: Timestamp, now: Timestamp, d: Duration) -> Option<Timestamp> {
    Some(after_steps(from, d, steps(from, now, d).saturating_add(1))).filter(|next| *next > now)
}

fn after_steps(from: Timestamp, d: Duration, steps: u64) -> Timestamp {
    let ns = d.as_nanos().saturating_mul(u128::from(steps));
    from.saturating_add(Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: i64 = 1_000_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ns(1_800_000_000 * S + seconds * S)
    }

    fn template() -> Template {
        Template {
            kind: "kind".to_owned(),
            queue: "default".to_owned(),
            priority: 0,
            payload: "{}".to_owned(),
            terms: Terms::default(),
            unique: None,
            delay: Duration::ZERO,
            start_within: None,
        }
    }

    fn schedule(timing: usize, misfire: usize, overlap: usize) -> Schedule {
        let minute = Duration::from_secs(60);
        let schedule = match timing {
            0 => Schedule::cron("*/3 * * * *").unwrap().in_zone("Europe/Berlin").unwrap(),
            1 => Schedule::every(minute),
            2 => Schedule::after_each(minute),
            _ => Schedule::once(at(100)),
        };
        let misfire = match misfire {
            0 => Misfire::Skip,
            1 => Misfire::RunOnce { within: 10 * minute },
            _ => Misfire::CatchUp { within: 20 * minute, at_most: 4 },
        };
        schedule.misfire(misfire).overlap([Overlap::Skip, Overlap::QueueOne, Overlap::Allow][overlap])
    }

    proptest! {
        /// Whatever comes (looks, ends of jobs, pauses, a clock that goes on and back): what is kept is read as it was, no time is
        /// fired twice, nothing overlaps that may not, and whoever is not over and not paused has something to wait for.
        #[test]
        fn a_life_of_a_schedule(
            timing in 0_usize..4, misfire in 0_usize..3, overlap in 0_usize..3,
            steps in proptest::collection::vec((0_u8..8, 0_i64..400), 1..80),
        ) {
            let schedule = schedule(timing, misfire, overlap);
            let mut now = at(0);
            let mut entry = Entry::new(schedule.clone(), template(), now);
            let mut standing = Standing { next_at: entry.first(), waits: false, open: 0, ended_at: None };
            let (mut fired, mut latest) = (std::collections::BTreeSet::new(), now);
            for (kind, seconds) in steps {
                match kind {
                    0 if standing.open > 0 => {
                        standing.open -= 1;
                        standing.ended_at = Some(now);
                    }
                    1 if !entry.is_paused() => {
                        entry = entry.paused(standing.next_at);
                        (standing.next_at, standing.waits) = (None, false);
                    }
                    2 if entry.is_paused() => {
                        let resumed = entry.resumed(standing.open, now);
                        (entry, standing.next_at, standing.waits) = resumed;
                    }
                    3 if seconds < 20 => {
                        now = now.saturating_sub(Duration::from_secs(20_000));
                        standing.next_at = standing.next_at.map(|next| entry.mended(next, now).unwrap_or(next));
                        // By the new time the same may be due; the queue keeps its jobs apart.
                        fired.clear();
                    }
                    _ => now = now.saturating_add(Duration::from_secs(seconds.unsigned_abs())),
                }
                let text = serde_json::to_string(&entry).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Entry>(&text).unwrap(), &entry);
                latest = latest.max(now);
                if let Some(looked) = entry.look(&standing, now) {
                    prop_assert!(!entry.is_paused(), "it is paused");
                    for time in &looked.fires {
                        prop_assert!(fired.insert(*time), "{:?} twice", time);
                    }
                    if overlap != 2 {
                        prop_assert!(looked.fires.len() as u64 + standing.open <= 1 || looked.fires.is_empty());
                    }
                    standing.open += looked.fires.len() as u64;
                    prop_assert!(looked.next_at.is_none_or(|next| next > now));
                    (entry, standing.next_at, standing.waits) = (looked.entry, looked.next_at, looked.waits);
                    let again = entry.look(&standing, now);
                    prop_assert!(again.is_none(), "a second look finds nothing: {:?}", again);
                }
                let is_over = timing == 3 && standing.next_at.is_none() && entry.held.is_empty();
                let is_waiting = standing.next_at.is_some() || standing.waits;
                prop_assert!(is_waiting || entry.is_paused() || is_over, "nothing would ever fire it again");
            }
        }
    }

    /// It ended by a clock that was years ahead, and is looked at by one that is right.
    #[test]
    fn a_pause_after_an_end_in_the_future_begins_now() {
        let minute = Duration::from_secs(60);
        let entry = Entry::new(Schedule::after_each(minute), template(), at(0));
        let standing = Standing { next_at: None, waits: true, open: 0, ended_at: Some(at(300_000_000)) };
        let looked = entry.look(&standing, at(100)).unwrap();
        assert_eq!((looked.next_at, looked.fires.len()), (Some(at(160)), 0));
    }

    #[test]
    fn at_the_end_of_time_nothing_is_due_for_ever() {
        let end = Timestamp::from_unix_ns(i64::MAX);
        let entry = Entry::new(Schedule::every(Duration::from_secs(60)), template(), at(0));
        let standing = Standing { next_at: entry.first(), waits: false, open: 0, ended_at: None };
        let looked = entry.look(&standing, end).unwrap();
        assert_eq!(looked.next_at, None);
        assert!(looked.missed > 100_000_000);
    }

    #[test]
    fn jitter_is_the_same_for_everybody_and_within_its_bound() {
        let bound = Duration::from_secs(10);
        let all: Vec<_> = (0..100).map(|second| jitter(bound, "a", at(second))).collect();
        assert!(all.iter().all(|jitter| *jitter <= bound));
        assert_eq!(all, (0..100).map(|second| jitter(bound, "a", at(second))).collect::<Vec<_>>());
        assert!(all.iter().max().unwrap().saturating_sub(*all.iter().min().unwrap()) > bound / 2);
        assert_eq!(jitter(Duration::ZERO, "a", at(0)), Duration::ZERO);
    }
}
