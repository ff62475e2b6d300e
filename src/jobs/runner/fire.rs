//! Schedules: those that are due are looked at, and what a look comes to is committed together with the jobs it enqueues.
//!
//! Any process that has started fires any schedule of its store. Each change names the revision that it was decided on, so of
//! several processes one fires; the next fire time is committed in the same step, whatever becomes of the job.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::json;

use super::{
    super::{
        queue::{Enqueued, NewJob, SchedulePut, StoredSchedule, WhichSchedules},
        schedule::{Entry, Looked, Schedule, Standing, Template},
        tell::ms,
    },
    Runner,
    line::DOZE_MAX,
};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    event::{Severity, TelemetryEvent},
    jobs::queue::ScheduleChange,
    query::human_duration,
};

/// A change that others were quicker with is decided anew.
const ATTEMPTS: u32 = 16;
/// After a look that the store refused.
const PAUSE: Duration = Duration::from_secs(5);

/// What this process knows of schedules.
#[derive(Debug)]
pub(super) struct Schedules {
    /// When to look, by the wall clock; the end of time if there is nothing to look for.
    due_ns: AtomicI64,
    /// Given by this process.
    declared: Mutex<BTreeSet<String>>,
    /// Cannot fire, and that was told.
    problems: Mutex<BTreeSet<String>>,
    is_refused: AtomicBool,
}

impl Default for Schedules {
    fn default() -> Self {
        Self {
            due_ns: AtomicI64::new(i64::MAX),
            declared: Mutex::default(),
            problems: Mutex::default(),
            is_refused: AtomicBool::new(false),
        }
    }
}

impl Runner {
    /// Something has changed: they are looked at in the next round.
    pub(super) fn look_at_schedules(&self) {
        if self.is_claiming() {
            self.schedules.due_ns.store(i64::MIN, Ordering::Release);
            self.stir(Duration::ZERO);
        }
    }

    /// Fires what is due; says when to look again.
    pub(super) fn fire_if_due(self: &Arc<Self>) -> Option<Duration> {
        if !self.is_claiming() {
            return None;
        }
        let fired = self.now().and_then(|now| {
            let is_due = now.as_unix_ns() >= self.schedules.due_ns.load(Ordering::Acquire);
            if is_due { self.fire(now).map(|_| now) } else { Ok(now) }
        });
        match fired {
            Ok(now) => {
                self.schedules.is_refused.store(false, Ordering::Relaxed);
                let due_ns = self.schedules.due_ns.load(Ordering::Acquire);
                let ahead_ns = due_ns.saturating_sub(now.as_unix_ns()).max(0).unsigned_abs();
                // By a clock that is moved by hand nothing is due by itself.
                (due_ns != i64::MAX && !self.clock.is_manual()).then(|| Duration::from_nanos(ahead_ns).min(DOZE_MAX))
            }
            Err(error) => {
                if !self.schedules.is_refused.swap(true, Ordering::Relaxed) {
                    self.tell.warn("l0.jobs", format!("schedules wait for the store: {error}"));
                }
                self.schedules.due_ns.store(i64::MIN, Ordering::Release);
                Some(PAUSE)
            }
        }
    }

    /// Enqueues the jobs of all fire times that have come; says how many.
    pub(super) fn fire(self: &Arc<Self>, now: Timestamp) -> Result<usize> {
        let mut count = 0;
        // Who changes something from here on says so.
        self.schedules.due_ns.store(i64::MAX, Ordering::Release);
        loop {
            let due = self.queue.schedules(&WhichSchedules::Due(now))?;
            let looked: Vec<_> = due.into_iter().filter_map(|stored| self.look(stored, now)).collect();
            if looked.is_empty() {
                break;
            }
            let mut changes = Vec::with_capacity(looked.len());
            for (stored, _, looked) in &looked {
                let jobs = looked.fires.iter().map(|time| looked.entry.job(&stored.name, *time, now)).collect();
                changes.push(change(stored, put(&looked.entry, looked.next_at, looked.waits)?, jobs));
            }
            let coming: Vec<_> = changes.iter().map(|change| self.coming(&change.jobs)).collect();
            let answers = self.queue.change_schedules(changes)?;
            for (((stored, before, looked), coming), answer) in looked.iter().zip(coming).zip(answers) {
                // Another process was quicker: what is left for this one is seen by the next look.
                let Some(enqueued) = answer else { continue };
                count += enqueued.iter().filter(|enqueued| enqueued.is_new).count();
                self.tell_looked(&stored.name, before, looked, &enqueued, now);
                self.came(coming, &enqueued);
            }
        }
        if let Some(next) = self.queue.next_schedule_at()? {
            // One that is due and cannot be fired is no reason to look again and again.
            let next = if next > now { next } else { now.saturating_add(DOZE_MAX) };
            self.schedules.due_ns.fetch_min(next.as_unix_ns(), Ordering::AcqRel);
        }
        Ok(count)
    }

    fn look(&self, stored: StoredSchedule, now: Timestamp) -> Option<(StoredSchedule, Entry, Looked)> {
        let entry = match serde_json::from_str::<Entry>(&stored.entry) {
            Ok(entry) => entry,
            Err(error) => {
                if self.schedules.problems.lock().insert(stored.name.clone()) {
                    self.tell.warn("l0.jobs", format!("the schedule {} cannot fire: {error}", stored.name));
                }
                return None;
            }
        };
        let StoredSchedule { next_at, waits, open, ended_at, .. } = stored;
        let looked = entry.look(&Standing { next_at, waits, open, ended_at }, now)?;
        Some((stored, entry, looked))
    }

    /// What becomes of schedules whose clock was set back, or whose zone has other rules than when they were last looked at.
    pub(super) fn mend_schedules(&self, now: Timestamp) -> Result<()> {
        let mut changes = Vec::new();
        for stored in self.queue.schedules(&WhichSchedules::All)? {
            let Some(next_at) = stored.next_at else { continue };
            let Ok(entry) = serde_json::from_str::<Entry>(&stored.entry) else { continue };
            if let Some(next_at) = entry.mended(next_at, now) {
                let to = SchedulePut { next_at: Some(next_at), waits: stored.waits, entry: stored.entry.clone() };
                changes.push(change(&stored, to, Vec::new()));
            }
        }
        if !changes.is_empty() {
            self.queue.change_schedules(changes)?;
        }
        Ok(())
    }

    // ---- by name

    /// Gives a schedule: makes it, or makes the one of this name this one.
    pub(in crate::jobs) fn declare(&self, name: &str, schedule: &Schedule, job: &Template) -> Result<()> {
        let mut event_type = "";
        self.amend(name, |known| {
            let now = self.clock.now_by_hand();
            let entry = known.and_then(|stored| serde_json::from_str::<Entry>(&stored.entry).ok());
            let (Some(stored), Some(entry)) = (known, entry) else {
                event_type = "schedule.created";
                let entry = Entry::new(schedule.clone(), job.clone(), now);
                return put(&entry, entry.first(), false).map(|put| Some(Some(put)));
            };
            event_type = "";
            let Some((changed, is_other)) = entry.changed(schedule, job, now) else { return Ok(None) };
            event_type = "schedule.changed";
            let (next_at, waits) = match is_other {
                true if changed.is_paused() => (None, false),
                true => (changed.first(), false),
                false => (stored.next_at, stored.waits),
            };
            put(&changed, next_at, waits).map(|put| Some(Some(put)))
        })?;
        self.schedules.problems.lock().remove(name);
        self.schedules.declared.lock().insert(name.to_owned());
        if !event_type.is_empty() {
            self.tell_schedule(event_type, Severity::Info, name, format!("{name} is given: {schedule}"), &job.kind);
        }
        Ok(())
    }

    pub(in crate::jobs) fn is_declared(&self, name: &str) -> bool {
        self.schedules.declared.lock().contains(name)
    }

    pub(in crate::jobs) fn pause(&self, name: &str) -> Result<()> {
        let is_changed = self.amend(name, |known| {
            let (stored, entry) = self.known(name, known)?;
            let paused = (!entry.is_paused()).then(|| put(&entry.paused(stored.next_at), None, false));
            paused.transpose().map(|put| put.map(Some))
        })?;
        self.told_of(is_changed, "schedule.paused", name, "is paused");
        Ok(())
    }

    pub(in crate::jobs) fn resume(&self, name: &str) -> Result<()> {
        let is_changed = self.amend(name, |known| {
            let (_, entry) = self.known(name, known)?;
            if !entry.is_paused() {
                return Ok(None);
            }
            let (entry, next_at) = entry.resumed(self.clock.now_by_hand());
            // What it held waits on.
            put(&entry, next_at, entry.holds() > 0).map(|put| Some(Some(put)))
        })?;
        self.told_of(is_changed, "schedule.resumed", name, "goes on");
        Ok(())
    }

    pub(in crate::jobs) fn unschedule(&self, name: &str) -> Result<()> {
        let is_changed = self.amend(name, |known| Ok(known.map(|_| None)))?;
        self.schedules.declared.lock().remove(name);
        self.told_of(is_changed, "schedule.removed", name, "is removed");
        Ok(())
    }

    fn told_of(&self, is_changed: bool, event_type: &str, name: &str, what: &str) {
        if is_changed {
            self.tell_schedule(event_type, Severity::Info, name, format!("{name} {what}"), "");
        }
    }

    fn known<'s>(&self, name: &str, known: Option<&'s StoredSchedule>) -> Result<(&'s StoredSchedule, Entry)> {
        let Some(stored) = known else {
            let names: Vec<String> =
                self.queue.schedules(&WhichSchedules::All)?.into_iter().map(|stored| stored.name).take(20).collect();
            let there =
                if names.is_empty() { "there is none".to_owned() } else { format!("there are {}", names.join(", ")) };
            return Err(Error::invalid_input(format!("there is no schedule {name:?}: {there}")));
        };
        let entry = serde_json::from_str(&stored.entry).map_err(|error| {
            Error::storage(format!("the schedule {name:?} cannot be read: {error}; give it again, or unschedule it"))
        })?;
        Ok((stored, entry))
    }

    /// Changes one schedule to what `decide` says of it, which is nothing (`None`) or what it becomes (`None` if it is removed);
    /// anew if another process was quicker. Says whether there was anything to change.
    fn amend(
        &self,
        name: &str,
        mut decide: impl FnMut(Option<&StoredSchedule>) -> Result<Option<Option<SchedulePut>>>,
    ) -> Result<bool> {
        self.open()?;
        for _ in 0..ATTEMPTS {
            let known = self.queue.schedules(&WhichSchedules::Named(name.to_owned()))?.pop();
            let Some(to) = decide(known.as_ref())? else { return Ok(false) };
            let revision = known.map_or(0, |stored| stored.revision);
            let change = ScheduleChange { name: name.to_owned(), revision, to, jobs: Vec::new() };
            if self.queue.change_schedules(vec![change])?.iter().any(Option::is_some) {
                self.look_at_schedules();
                return Ok(true);
            }
        }
        Err(Error::timeout(format!("the schedule {name:?} is changed by others all the time: try again")))
    }

    // ---- telling

    fn tell_looked(&self, name: &str, before: &Entry, looked: &Looked, enqueued: &[Enqueued], now: Timestamp) {
        let kind = &looked.entry.job.kind;
        if looked.missed > 0 {
            let count = looked.missed;
            let times = if count == 1 { "a fire time".to_owned() } else { format!("{count} fire times") };
            let message = format!("{name} missed {times}: no process was there to fire it");
            self.tell_schedule("schedule.missed", Severity::Warning, name, message, kind);
        }
        // The first of several in a row.
        if looked.skipped > 0 && !before.is_skipping {
            let message = format!("{name} is skipped: a job of its own is still at work");
            self.tell_schedule("schedule.skipped", Severity::Warning, name, message, kind);
        }
        for (time, Enqueued { id, is_new }) in looked.fires.iter().zip(enqueued) {
            let late_ns = now.as_unix_ns().saturating_sub(time.as_unix_ns());
            let late = Duration::from_nanos(u64::try_from(late_ns).unwrap_or(0));
            let message = if *is_new {
                format!("{name} fires, {} after its time", human_duration(late))
            } else {
                format!("{name} fires, and has its job already")
            };
            if self.tell.tells_severity(Severity::Info) {
                let event = schedule_event("schedule.fired", Severity::Info, message).payload(&json!({
                    "schedule": name,
                    "kind": kind,
                    "scheduled_for": time.to_string(),
                    "late_ms": ms(late),
                    "job_id": id.to_string(),
                }));
                self.tell.direct(event.correlation_id(id.as_uuid()));
            }
        }
    }

    fn tell_schedule(&self, event_type: &str, severity: Severity, name: &str, message: String, kind: &str) {
        if self.tell.tells_severity(severity) {
            let payload = json!({ "schedule": name, "kind": kind });
            self.tell.direct(schedule_event(event_type, severity, message).payload(&payload));
        }
    }
}

fn schedule_event(event_type: &str, severity: Severity, message: String) -> TelemetryEvent {
    TelemetryEvent::new(event_type).source("l0.jobs").category("schedule").severity(severity).message(message)
}

fn put(entry: &Entry, next_at: Option<Timestamp>, waits: bool) -> Result<SchedulePut> {
    let entry = serde_json::to_string(entry)
        .map_err(|error| Error::storage(format!("a schedule does not become JSON: {error}")))?;
    Ok(SchedulePut { next_at, waits, entry })
}

fn change(stored: &StoredSchedule, to: SchedulePut, jobs: Vec<NewJob>) -> ScheduleChange {
    ScheduleChange { name: stored.name.clone(), revision: stored.revision, to: Some(to), jobs }
}
