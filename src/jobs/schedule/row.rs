//! A schedule as it is listed.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::Entry;
use crate::{
    clock::Timestamp,
    jobs::queue::StoredSchedule,
    query::{harmless, human_duration},
};

/// What is due later than this is late where it is listed.
const LATE: Duration = Duration::from_secs(5);

/// One schedule, as its queue has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ScheduleRow {
    /// Names it.
    pub name: String,
    /// Of its jobs.
    pub kind: String,
    /// Where its jobs wait.
    pub queue: String,
    /// When it fires, in words: the cron line with its zone, or the interval.
    pub schedule: String,
    /// When it fires next, without jitter; `None` if it does not, or not before a job of its own has ended.
    pub next_at: Option<Timestamp>,
    /// It was [paused](crate::jobs::Jobs::pause).
    pub paused: bool,
    /// It should have fired by now, and has not: no process that has started shares its store, or the store is sick.
    pub is_late: bool,
    /// The fire time whose job was enqueued last.
    pub last_at: Option<Timestamp>,
    /// When that was done.
    pub last_fired_at: Option<Timestamp>,
    /// Its jobs that are pending or run.
    pub open: u64,
    /// Fire times that wait for a job of its own to end.
    pub waiting: u64,
    /// Jobs that were enqueued for it.
    pub fires: u64,
    /// Fire times that were dropped since nobody was there.
    pub missed: u64,
    /// Fire times that were dropped since a job of its own was still at work.
    pub skipped: u64,
    /// Whether this process has given it since its start; `None` if a [`JobReader`](crate::jobs::JobReader) answers. One that
    /// no program gives any more goes on until it is [unscheduled](crate::jobs::Jobs::unschedule).
    pub is_declared: Option<bool>,
    /// Why it cannot fire: this machine does not know its zone, or this l0 not what a later one has written.
    pub problem: Option<String>,
}

impl ScheduleRow {
    pub(in crate::jobs) fn new(stored: StoredSchedule, now: Timestamp) -> Self {
        let mut row = Self {
            name: stored.name,
            kind: String::new(),
            queue: String::new(),
            schedule: String::new(),
            next_at: stored.next_at,
            paused: false,
            is_late: stored.next_at.is_some_and(|at| at.saturating_add(LATE) < now),
            last_at: None,
            last_fired_at: None,
            open: stored.open,
            waiting: 0,
            fires: 0,
            missed: 0,
            skipped: 0,
            is_declared: None,
            problem: None,
        };
        match serde_json::from_str::<Entry>(&stored.entry) {
            Ok(entry) => {
                row.paused = entry.is_paused();
                row.waiting = entry.holds();
                row.schedule = entry.schedule.to_string();
                (row.kind, row.queue) = (entry.job.kind, entry.job.queue);
                (row.last_at, row.last_fired_at) = entry.fired.unzip();
                (row.fires, row.missed, row.skipped) = (entry.fires, entry.missed, entry.skipped);
            }
            Err(error) => row.problem = Some(error.to_string()),
        }
        row
    }

    /// How long after its fire time the latest job was enqueued.
    pub fn lateness(&self) -> Option<Duration> {
        let ns = self.last_fired_at?.as_unix_ns().saturating_sub(self.last_at?.as_unix_ns());
        Some(Duration::from_nanos(u64::try_from(ns).unwrap_or(0)))
    }

    /// What there is to know of it beyond its times, in a few words; empty if there is nothing.
    pub fn notes(&self) -> String {
        let mut notes = Vec::new();
        if let Some(problem) = &self.problem {
            notes.push(format!("cannot fire: {problem}"));
        }
        if self.paused {
            notes.push("paused".to_owned());
        }
        if self.is_late {
            notes.push("late: nobody fires it".to_owned());
        }
        if self.open > 0 {
            notes.push(format!("{} at work", self.open));
        }
        if self.waiting > 0 {
            notes.push(format!("{} waiting for the end of one", self.waiting));
        }
        for (count, what) in [(self.missed, "missed"), (self.skipped, "skipped")] {
            if count > 0 {
                notes.push(format!("{count} {what}"));
            }
        }
        if let Some(lateness) = self.lateness().filter(|lateness| *lateness > LATE) {
            notes.push(format!("the last {} late", human_duration(lateness)));
        }
        if self.is_declared == Some(false) {
            notes.push("not given by this program any more".to_owned());
        }
        notes.join(", ")
    }
}

impl fmt::Display for ScheduleRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kind, schedule, .. } = self;
        write!(f, "{}: {} {}", harmless(name), harmless(kind), harmless(schedule))?;
        if let Some(next) = self.next_at {
            write!(f, ", next {:.19}Z", next.to_string())?;
        }
        let notes = self.notes();
        if !notes.is_empty() {
            write!(f, ", {}", harmless(&notes))?;
        }
        Ok(())
    }
}
