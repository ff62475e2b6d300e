//! Schedules: those that are due are looked at, and what a look comes to is committed together with the jobs it enqueues.
//!
//! Any process that has started fires any schedule of its store. Each change names the revision that it was decided on, so of
//! several processes one fires; the next fire time is committed in the same step, whatever becomes of the job.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
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
/// What was looked at is committed after so long, whatever is left.
const LOOK_MAX: Duration = Duration::from_millis(200);

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
            if is_due { self.fire(now) } else { Ok(0) }
        });
        match fired {
            Ok(_) => {
                self.schedules.is_refused.store(false, Ordering::Relaxed);
                let due_ns = self.schedules.due_ns.load(Ordering::Acquire);
                // To fire has taken its time.
                let now_ns = self.clock.now_by_hand().as_unix_ns();
                let ahead_ns = due_ns.saturating_sub(now_ns).max(0).unsigned_abs();
                // By a clock that is moved by hand nothing is due by itself.
                (due_ns != i64::MAX && !self.clock.is_manual()).then(|| Duration::from_nanos(ahead_ns).min(DOZE_MAX))
            }
            Err(error) => {
                if !self.schedules.is_refused.swap(true, Ordering::Relaxed) {
                    self.tell.warn("l0.jobs", format!("schedules wait for the store: {error}"));
                }
                Some(PAUSE)
            }
        }
    }

    /// Enqueues the jobs of all fire times that have come; says how many.
    pub(super) fn fire(self: &Arc<Self>, now: Timestamp) -> Result<usize> {
        // Who changes something from here on says so.
        self.schedules.due_ns.store(i64::MAX, Ordering::Release);
        self.fire_all(now).inspect_err(|_| self.schedules.due_ns.store(i64::MIN, Ordering::Release))
    }

    fn fire_all(self: &Arc<Self>, now: Timestamp) -> Result<usize> {
        let (mut count, mut stay) = (0, 0);
        // What is due again although it was looked at is so by some mistake, or a clock's: it has time until the next round.
        let mut looked_at = HashSet::new();
        while self.open().is_ok() {
            let due = self.queue.schedules(&WhichSchedules::Due { by: now, skip: stay })?;
            let (found, begin) = (due.len(), Instant::now());
            let mut looked = Vec::new();
            for stored in due {
                if begin.elapsed() > LOOK_MAX && !looked.is_empty() {
                    break;
                }
                let is_new = looked_at.insert(stored.name.clone());
                match self.look(stored, now).filter(|_| is_new) {
                    Some(one) => looked.push(one),
                    None => stay += 1,
                }
            }
            count += self.commit(&looked, now)?;
            if found == 0 {
                break;
            }
        }
        let next = self.queue.next_schedule_at(now)?;
        let again = (stay > 0).then(|| now.saturating_add(DOZE_MAX));
        if let Some(next) = next.into_iter().chain(again).min() {
            self.schedules.due_ns.fetch_min(next.as_unix_ns(), Ordering::AcqRel);
        }
        Ok(count)
    }

    /// Commits what looks came to, with their jobs, in one step; says how many jobs that were.
    fn commit(self: &Arc<Self>, looked: &[(StoredSchedule, Entry, Looked)], now: Timestamp) -> Result<usize> {
        if looked.is_empty() {
            return Ok(0);
        }
        let mut changes = Vec::with_capacity(looked.len());
        for (stored, _, looked) in looked {
            let jobs = looked.fires.iter().map(|time| looked.entry.job(&stored.name, *time, now)).collect();
            changes.push(change(stored, put(&looked.entry, looked.next_at, looked.waits)?, jobs));
        }
        let coming: Vec<_> = changes.iter().map(|change| self.coming(&change.jobs)).collect();
        let answers = self.change_schedules(changes)?;
        let mut count = 0;
        for (((stored, before, looked), coming), answer) in looked.iter().zip(coming).zip(answers) {
            // Another process was quicker: what is left for this one is seen by a later look.
            let Some(enqueued) = answer else {
                self.schedules.due_ns.fetch_min(now.as_unix_ns(), Ordering::AcqRel);
                continue;
            };
            let new = enqueued.iter().filter(|enqueued| enqueued.is_new).count();
            count += new;
            self.tell_looked(&stored.name, before, looked, &enqueued, now);
            self.came(coming, &enqueued);
            if new < looked.fires.len() {
                self.unfire(&stored.name, (looked.fires.len() - new) as u64, now)?;
            }
        }
        Ok(count)
    }

    /// Some of what was fired has no job of its own.
    fn unfire(&self, name: &str, count: u64, now: Timestamp) -> Result<()> {
        self.amend(name, |known| {
            let Some((stored, entry)) = known.and_then(|stored| Some((stored, read(stored).ok()?))) else {
                return Ok(None);
            };
            let (entry, next_at, waits) = entry.unfired(count, &standing(stored), now);
            put(&entry, next_at, waits).map(|put| Some(Some(put)))
        })
        .map(drop)
    }

    /// One step of the queue, whose answers are as many as they should be.
    fn change_schedules(&self, changes: Vec<ScheduleChange>) -> Result<Vec<Option<Vec<Enqueued>>>> {
        let count = changes.len();
        let answers = self.queue.change_schedules(changes)?;
        if answers.len() == count {
            return Ok(answers);
        }
        let answers = answers.len();
        Err(Error::storage(format!("the queue of jobs gave {answers} answers to {count} changes of schedules")))
    }

    fn look(&self, stored: StoredSchedule, now: Timestamp) -> Option<(StoredSchedule, Entry, Looked)> {
        let entry = match read(&stored) {
            Ok(entry) => entry,
            Err(error) => {
                if self.schedules.problems.lock().insert(stored.name.clone()) {
                    self.tell.warn("l0.jobs", format!("the schedule {} cannot fire: {error}", stored.name));
                }
                return None;
            }
        };
        let looked = entry.look(&standing(&stored), now)?;
        Some((stored, entry, looked))
    }

    /// What becomes of schedules whose clock was set back, or whose zone has other rules than when they were last looked at.
    pub(super) fn mend_schedules(&self, now: Timestamp) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let mut changes = Vec::new();
            for stored in self.queue.schedules(&WhichSchedules::All)? {
                let Some(next_at) = stored.next_at else { continue };
                let Ok(entry) = read(&stored) else { continue };
                if let Some(next_at) = entry.mended(next_at, now) {
                    let to = SchedulePut { next_at: Some(next_at), waits: stored.waits, entry: stored.entry.clone() };
                    changes.push(change(&stored, to, Vec::new()));
                }
            }
            // Those that another process has changed meanwhile are looked at again.
            if changes.is_empty() || self.change_schedules(changes)?.iter().all(Option::is_some) {
                break;
            }
        }
        // By the time that was, nothing may have been due for long.
        self.look_at_schedules();
        Ok(())
    }

    // ---- by name

    /// Gives a schedule: makes it, or makes the one of this name this one.
    pub(in crate::jobs) fn declare(&self, name: &str, schedule: &Schedule, job: &Template) -> Result<()> {
        let mut event_type = "";
        self.amend(name, |known| {
            let now = self.clock.now_by_hand();
            event_type = if known.is_some() { "schedule.changed" } else { "schedule.created" };
            let Some((stored, entry)) = known.and_then(|stored| Some((stored, read(stored).ok()?))) else {
                let entry = Entry::new(schedule.clone(), job.clone(), now);
                // One that cannot be read may say at least that it is paused.
                let entry = if known.is_some_and(is_paused) { entry.paused(entry.first()) } else { entry };
                let next_at = entry.first().filter(|_| !entry.is_paused());
                return put(&entry, next_at, false).map(|put| Some(Some(put)));
            };
            let Some((changed, is_other)) = entry.changed(schedule, job, now) else {
                event_type = "";
                return Ok(None);
            };
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
            let (stored, entry) = self.known(name, known)?;
            if !entry.is_paused() {
                return Ok(None);
            }
            let (entry, next_at, waits) = entry.resumed(stored.open, self.clock.now_by_hand());
            put(&entry, next_at, waits).map(|put| Some(Some(put)))
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
        let entry = read(stored).map_err(|error| {
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
            if self.change_schedules(vec![change])?.iter().any(Option::is_some) {
                self.look_at_schedules();
                return Ok(true);
            }
        }
        Err(Error::timeout(format!("the schedule {name:?} is changed by others all the time: try again")))
    }

    // ---- telling

    fn tell_looked(&self, name: &str, before: &Entry, looked: &Looked, enqueued: &[Enqueued], now: Timestamp) {
        let kind = &looked.entry.job.kind;
        // Of several in a row the first.
        if looked.missed > 0 && !before.is_missing {
            let count = looked.missed;
            let times = if count == 1 { "a fire time".to_owned() } else { format!("{count} fire times") };
            let message = format!("{name} missed {times}: nobody was there to fire it in time");
            self.tell_schedule("schedule.missed", Severity::Warning, name, message, kind);
        }
        if looked.skipped > 0 && !before.is_skipping {
            let message = format!("{name} is skipped: a job of its own is still at work");
            self.tell_schedule("schedule.skipped", Severity::Warning, name, message, kind);
        }
        for (time, Enqueued { id, is_new }) in looked.fires.iter().zip(enqueued) {
            let late_ns = now.as_unix_ns().saturating_sub(time.as_unix_ns());
            let late = Duration::from_nanos(u64::try_from(late_ns).unwrap_or(0));
            if !*is_new {
                let message = format!("{name} is skipped: another job has its unique key, or it was fired before");
                self.tell_schedule("schedule.skipped", Severity::Warning, name, message, kind);
            } else if self.tell.tells_severity(Severity::Info) {
                let message = format!("{name} fires, {} after its time", human_duration(late));
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

fn read(stored: &StoredSchedule) -> serde_json::Result<Entry> {
    serde_json::from_str(&stored.entry)
}

fn is_paused(stored: &StoredSchedule) -> bool {
    serde_json::from_str::<serde_json::Value>(&stored.entry).is_ok_and(|entry| entry["is_paused"] == true)
}

fn standing(stored: &StoredSchedule) -> Standing {
    let StoredSchedule { next_at, waits, open, ended_at, .. } = *stored;
    Standing { next_at, waits, open, ended_at }
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
