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
const COUNTED_MAX: u64 = 10_000;
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
    /// While it is paused: when it was due, if it was.
    paused: Option<Option<Timestamp>>,
    /// Times whose jobs are enqueued when the one before them has ended.
    held: Vec<Timestamp>,
    /// The latest time that was decided on.
    decided_at: Option<Timestamp>,
    /// The latest time whose job was enqueued, and when it was.
    pub(in crate::jobs) fired: Option<(Timestamp, Timestamp)>,
    pub(in crate::jobs) fires: u64,
    pub(in crate::jobs) missed: u64,
    pub(in crate::jobs) skipped: u64,
    /// Since the last fire it was skipped.
    pub(in crate::jobs) is_skipping: bool,
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
            paused: None,
            held: Vec::new(),
            decided_at: None,
            fired: None,
            fires: 0,
            missed: 0,
            skipped: 0,
            is_skipping: false,
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
            if changed.paused.is_some() {
                changed.paused = Some(changed.first());
            }
        }
        Some((changed, is_other))
    }

    pub(in crate::jobs) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Whether times wait for a job to end.
    pub(in crate::jobs) fn holds(&self) -> u64 {
        self.held.len() as u64
    }

    pub(in crate::jobs) fn paused(&self, next_at: Option<Timestamp>) -> Self {
        Self { paused: Some(next_at), ..self.clone() }
    }

    /// Goes on; what would have been due in between is not made up for. Says when it is due next.
    pub(in crate::jobs) fn resumed(&self, now: Timestamp) -> (Self, Option<Timestamp>) {
        let next_at = match (&self.schedule.timing, self.paused.flatten()) {
            (Timing::Every(d), Some(next)) if next <= now => Some(after_steps(next, *d, steps(next, now, *d) + 1)),
            (Timing::Every(_) | Timing::Once(_), Some(next)) if next > now => Some(next),
            (Timing::Once(_), _) => None,
            _ => self.schedule.next_after(now),
        };
        (Self { paused: None, decided_at: Some(now), ..self.clone() }, next_at)
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
            next_at = Some(ended_at.unwrap_or(now).saturating_add(d));
        }
        if open == 0 && !entry.held.is_empty() {
            fires.push(entry.held.remove(0));
            open += 1;
        }
        if let Some(first) = next_at.filter(|at| *at <= now) {
            let (within, at_most, is_catching_up) = match self.schedule.misfire {
                Misfire::Skip | Misfire::CatchUp { at_most: 0, .. } => (LATE_MAX, 1, false),
                Misfire::RunOnce { within } => (within.max(LATE_MAX), 1, false),
                Misfire::CatchUp { within, at_most } => (within.max(LATE_MAX), at_most.min(CATCH_UP_MAX), true),
            };
            let due = self.due(first, now, now.saturating_sub(within), at_most as usize);
            missed += due.count.saturating_sub(due.times.len() as u64);
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
                Timing::Every(d) => Some(after_steps(first, d, steps(first, now, d) + 1)),
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
        entry.fires += fires.len() as u64;
        entry.missed += missed;
        entry.skipped += skipped;
        Some(Looked { entry, next_at, waits: waits_now, fires, missed, skipped })
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

fn after_steps(from: Timestamp, d: Duration, steps: u64) -> Timestamp {
    let ns = d.as_nanos().saturating_mul(u128::from(steps));
    from.saturating_add(Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)))
}
