//! When recurring work is due: schedules, and the pure rules of what a look at one comes to.
//!
//! `parse` and `cron` know civil times, `zone` knows when those are, `entry` decides; nothing here reads a clock or a store.

mod cron;
mod entry;
mod parse;
mod row;
mod zone;

use std::{fmt, time::Duration};

use cron::Cron;
pub(super) use entry::{Entry, Looked, Standing, Template};
use jiff::tz::TimeZone;
pub use row::ScheduleRow;
use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    error::{Error, Result},
};

/// When a job is enqueued again and again, given to [`Jobs::schedule`](super::Jobs::schedule).
///
/// ```
/// use l0::{Timestamp, jobs::{Misfire, Overlap, Schedule}};
/// use std::time::Duration;
///
/// let nightly = Schedule::cron("30 2 * * MON-FRI")?
///     .in_zone("Europe/Berlin")?
///     .misfire(Misfire::RunOnce { within: Duration::from_secs(3600) })
///     .overlap(Overlap::Skip);
/// // Friday, 2026-03-27, 02:30 in Berlin; the next is on Monday, by then an hour earlier in UTC.
/// let friday = Timestamp::from_unix_ns(1_774_575_000_000_000_000);
/// let monday = nightly.next_after(friday).unwrap();
/// assert_eq!(monday.to_string(), "2026-03-30T00:30:00.000000000Z");
/// # Ok::<(), l0::Error>(())
/// ```
///
/// # The syntax of cron lines
///
/// Five fields, `minute hour day-of-month month day-of-week`, or six with the second in front. Each takes numbers, names
/// (`JAN`, `MON`), ranges (`9-17`, also over the end: `FRI-MON`), steps (`*/15`, `9-17/2`, and `5/15` for from 5 on) and lists;
/// Sunday is 0 or 7. Days of the month also take `L` (the last), `L-3`, `15W` (the weekday nearest to the 15th, in the same
/// month) and `LW`; days of the week `5L` (the last Friday) and `5#2` (the second). `?` is a `*` for days. And there are
/// `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly` and `@annually`. If either day field begins with a star a
/// day must be named by both, else by either of them, as in Vixie's cron: `0 0 13 * FRI` is each 13th and each Friday. A step
/// that is longer than its field, as in `*/90`, is an error, and so are days that there are never.
///
/// # Daylight saving
///
/// A line whose minute and hour both are fixed (neither begins with a star) names times of the day, and each comes once a day:
/// one that the zone skips is due at the end of the gap (02:30 at 03:00; several together once), one that it repeats is due the first
/// time. A line with a star there goes by real time: `*/15 * * * *` is due every quarter of an hour, whatever the wall shows. The length of
/// a gap does not matter. Crons take a change of three hours or more for a correction of the clock, which a zone's rules never are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[must_use = "a schedule is given to jobs().schedule(..)"]
pub struct Schedule {
    timing: Timing,
    #[serde(with = "zone_name")]
    zone: TimeZone,
    misfire: Misfire,
    overlap: Overlap,
    jitter: Duration,
}

/// What its times are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Timing {
    Cron(Cron),
    Every(Duration),
    AfterEach(Duration),
    Once(Timestamp),
}

/// What becomes of fire times that passed while no process was there to fire them.
///
/// What is a minute late, or less, is late and not missed, unless its successor is due, too. What is dropped is counted and told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Misfire {
    /// They are dropped.
    Skip,
    /// The latest of them is run, unless it is longer ago than this; the others are dropped.
    RunOnce {
        /// How long ago it may be.
        within: Duration,
    },
    /// Those that are not longer ago than this are run, the latest so many of them at most, in their order. Unless the schedule
    /// may [overlap](Overlap::Allow) itself, each begins when the one before it has ended.
    CatchUp {
        /// How long ago they may be.
        within: Duration,
        /// How many at most, the one that is due with them among them; a thousand in any case.
        at_most: u32,
    },
}

/// What becomes of a fire time at which a job of the same schedule is still pending or runs, or waits for its next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Overlap {
    /// It is skipped; that is counted and told.
    Skip,
    /// It waits until that job has ended; one at a time, further ones are skipped.
    QueueOne,
    /// Its job is enqueued beside.
    Allow,
}

/// A week off costs no weekly job.
const MISFIRE: Misfire = Misfire::RunOnce { within: Duration::from_secs(7 * 24 * 3_600) };

impl Schedule {
    fn of(timing: Timing) -> Self {
        Self { timing, zone: TimeZone::UTC, misfire: MISFIRE, overlap: Overlap::Skip, jitter: Duration::ZERO }
    }

    /// At the times that a cron line names, in UTC unless [`in_zone`](Self::in_zone) says otherwise. See [above](Schedule) for
    /// the syntax.
    ///
    /// # Errors
    /// `is_invalid_input`, with the field that is wrong, why, and what would be valid.
    pub fn cron(expr: &str) -> Result<Self> {
        parse::parse(expr).map(|cron| Self::of(Timing::Cron(cron))).map_err(Error::invalid_input)
    }

    /// At a fixed rate: so long after it was first given to [`schedule`](super::Jobs::schedule), twice as long after it, and so on,
    /// however long the jobs take. A clock that is set back does not make it wait longer than once.
    pub fn every(d: Duration) -> Self {
        Self::of(Timing::Every(d))
    }

    /// With a fixed pause: so long after it was first given to [`schedule`](super::Jobs::schedule), and then so long after the
    /// end of each job.
    pub fn after_each(d: Duration) -> Self {
        Self::of(Timing::AfterEach(d))
    }

    /// Once, at this time. One that has passed when it is given is one that was [missed](Self::misfire).
    pub fn once(t: Timestamp) -> Self {
        Self::of(Timing::Once(t))
    }

    /// In which time zone a cron line is meant. The rules of zones are those of the system's database (tzdata); with the feature
    /// `bundled-tz` those that were compiled into the program, where it has none.
    ///
    /// # Errors
    /// `is_invalid_input` if there is no such zone; names that are near are suggested.
    pub fn in_zone(mut self, iana: &str) -> Result<Self> {
        self.zone = zone::find(iana).map_err(Error::invalid_input)?;
        Ok(self)
    }

    /// What becomes of times that passed while no process was there; [`RunOnce`](Misfire::RunOnce) within a week unless set.
    pub fn misfire(mut self, m: Misfire) -> Self {
        self.misfire = m;
        self
    }

    /// What becomes of times at which its job is still at work; [`Skip`](Overlap::Skip) unless set.
    pub fn overlap(mut self, o: Overlap) -> Self {
        self.overlap = o;
        self
    }

    /// Each job is due up to so much later than its fire time, so that not everybody comes at the full hour. How much is told
    /// by the schedule's name and the fire time: it is the same in every process. With [`Overlap::Skip`], a jitter that is longer than the interval skips most of the times.
    pub fn jitter(mut self, d: Duration) -> Self {
        self.jitter = d;
        self
    }

    /// The first fire time that is later than `t`, without jitter; `None` if there is none. Of an interval it is `t` and the
    /// interval, for it begins when it is given to [`schedule`](super::Jobs::schedule).
    pub fn next_after(&self, t: Timestamp) -> Option<Timestamp> {
        match &self.timing {
            Timing::Cron(cron) => {
                let after = jiff::Timestamp::from_nanosecond(t.as_unix_ns().into()).ok()?;
                let next = zone::next(cron, &self.zone, after)?;
                i64::try_from(next.as_nanosecond()).ok().map(Timestamp::from_unix_ns)
            }
            Timing::Every(d) | Timing::AfterEach(d) => {
                let ns = i64::try_from(d.as_nanos()).ok()?;
                t.as_unix_ns().checked_add(ns).map(Timestamp::from_unix_ns)
            }
            Timing::Once(at) => (*at > t).then_some(*at),
        }
    }

    /// Why it cannot be used, if it cannot.
    pub(super) fn check(&self) -> Result<()> {
        /// Each fire is a commit.
        const SHORTEST: Duration = Duration::from_millis(1);
        const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);
        const JITTER_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);
        match &self.timing {
            Timing::Every(d) | Timing::AfterEach(d) if *d < SHORTEST => Err(Error::invalid_input(format!(
                "a schedule cannot fire every {d:?}: at least {SHORTEST:?} lie between two times"
            ))),
            Timing::Every(d) | Timing::AfterEach(d) if *d > LONGEST => {
                Err(Error::invalid_input(format!("a schedule that fires every {d:?} does not in a hundred years")))
            }
            _ if self.jitter > JITTER_MAX => {
                Err(Error::invalid_input(format!("a jitter of {:?} is longer than {JITTER_MAX:?}", self.jitter)))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.timing {
            Timing::Cron(cron) => write!(f, "{} {}", cron.text, zone_name::of(&self.zone)),
            Timing::Every(d) => write!(f, "every {}", interval(*d)),
            Timing::AfterEach(d) => write!(f, "{} after each", interval(*d)),
            Timing::Once(at) => write!(f, "once at {:.19}Z", at.to_string()),
        }
    }
}

/// Exact, as in `1h 30m`.
fn interval(d: Duration) -> String {
    jiff::SignedDuration::try_from(d).map_or_else(|_| format!("{d:?}"), |d| format!("{d:#}"))
}

impl Serialize for Cron {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Cron {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A zone is kept by its name.
mod zone_name {
    use super::{Deserialize, TimeZone};

    pub(super) fn of(zone: &TimeZone) -> &str {
        zone.iana_name().unwrap_or("UTC")
    }

    pub(super) fn serialize<S: serde::Serializer>(zone: &TimeZone, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(of(zone))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<TimeZone, D::Error> {
        let name = String::deserialize(deserializer)?;
        // UTC is known without a database.
        if name == "UTC" {
            return Ok(TimeZone::UTC);
        }
        super::zone::find(&name).map_err(serde::de::Error::custom)
    }
}
