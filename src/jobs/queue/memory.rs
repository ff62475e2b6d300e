//! Jobs in memory: for tests, and for programs whose jobs may die with them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    Cancel, Claim, Claimed, Ended, Enqueued, Exchanged, JobQueue, Lease, Listed, NewJob, Note, Outcome, Owner, OwnerId,
    Progress, Rescued, ScheduleChange, Settle, StoredSchedule, WhichSchedules,
    rules::{Take, Taking, after_death},
};
use crate::{
    clock::Timestamp,
    error::Result,
    jobs::{
        id::{JobId, JobState, Reason},
        row::{JobFilter, JobRow, KindCounts},
    },
};

/// A queue that dies with the process, and in all else does what that in `state.db` does.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// let l0 = l0::builder().dir(dir.path()).job_queue(l0::jobs::MemoryQueue::default()).start()?;
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct MemoryQueue {
    held: Mutex<Held>,
}

/// Schedules that are due at a time.
const DUE_MAX: usize = 1_000;

/// Which of the pending is next: by priority, time and number.
type Turn = (Reverse<i32>, Timestamp, u64);

#[derive(Debug, Default)]
struct Held {
    jobs: BTreeMap<u64, Job>,
    /// The pending, by queue and kind.
    lanes: BTreeMap<(String, String), BTreeSet<Turn>>,
    /// By kind and unique key: the job that is pending or claimed.
    unique: HashMap<(String, String), u64>,
    owners: BTreeMap<OwnerId, Owner>,
    schedules: BTreeMap<String, StoredSchedule>,
    /// By schedule and fire time: its job.
    fires: BTreeMap<(String, Timestamp), u64>,
    last_revision: u64,
    last_number: u64,
    last_owner: i64,
}

#[derive(Debug)]
struct Job {
    id: JobId,
    new: NewJob,
    state: JobState,
    reason: Reason,
    run_at: Timestamp,
    /// When that was said, unless the moment itself was.
    since: Option<Timestamp>,
    attempt: u32,
    deaths: u32,
    claims: i64,
    owner: Option<OwnerId>,
    is_interrupted: bool,
    is_cancel_asked: bool,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    progress: Option<Progress>,
    checkpoint: Option<String>,
    result: Option<String>,
    error: Option<String>,
}

impl Job {
    fn number(&self) -> u64 {
        self.id.row().map_or(0, |(number, _)| number)
    }

    fn lane(&self) -> (String, String) {
        (self.new.queue.clone(), self.new.kind.clone())
    }

    fn correlation_id(&self) -> Option<crate::correlation::CorrelationId> {
        self.new.correlation_id.clone()
    }

    fn ended(&self) -> Ended {
        Ended { id: self.id, kind: self.new.kind.clone(), correlation_id: self.correlation_id() }
    }

    /// As a reader sees it: what is claimed ahead of its beginning is pending.
    fn seen(&self) -> JobState {
        if self.state == JobState::Running && self.started_at.is_none() { JobState::Pending } else { self.state }
    }

    fn row(&self) -> JobRow {
        JobRow {
            state: self.seen(),
            reason: self.reason,
            attempt: self.attempt,
            run_at: self.run_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            progress: self.progress.clone(),
            checkpoint: self.checkpoint.clone(),
            result: self.result.clone(),
            error: self.error.clone(),
            is_cancel_asked: self.is_cancel_asked,
            ..JobRow::new(self.id, &self.new)
        }
    }
}

impl Held {
    /// The job, with its number, if this lease of it is current.
    fn leased(&mut self, lease: &Lease) -> Option<(u64, &mut Job)> {
        let (number, _) = lease.id.row()?;
        let job = self.jobs.get_mut(&number)?;
        let is_current = job.id == lease.id
            && job.state == JobState::Running
            && job.owner == Some(lease.owner)
            && job.claims == lease.token;
        is_current.then_some((number, job))
    }

    fn find(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id.row()?.0).filter(|job| job.id == id)
    }

    /// Gives a job another state, and keeps the tables that lead to it.
    fn put(&mut self, number: u64, state: JobState, reason: Reason, at: Timestamp) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let place = (Reverse(job.new.priority), job.run_at, number);
        if job.state == JobState::Pending
            && let Some(lane) = self.lanes.get_mut(&job.lane())
        {
            lane.remove(&place);
        }
        job.state = state;
        job.reason = reason;
        job.finished_at = state.is_final().then_some(at);
        if state != JobState::Running {
            job.owner = None;
        }
        let key = job.new.unique.clone().map(|key| (job.new.kind.clone(), key));
        if state == JobState::Pending {
            let lane = job.lane();
            self.lanes.entry(lane).or_default().insert(place);
        }
        match key {
            Some(key) if state.is_final() => _ = self.unique.remove(&key),
            Some(key) => _ = self.unique.insert(key, number),
            None => {}
        }
    }

    /// The same, due at another time.
    fn put_again(&mut self, number: u64, reason: Reason, run_at: Timestamp) {
        if let Some(job) = self.jobs.get_mut(&number) {
            job.run_at = run_at;
        }
        self.put(number, JobState::Pending, reason, run_at);
    }

    fn claim(&mut self, claim: &Claim) -> Exchanged {
        if !self.owners.contains_key(&claim.owner) {
            return Exchanged { owner_is_unknown: true, ..Exchanged::default() };
        }
        let want = Taking::want(claim).max(1);
        let mut due = Vec::new();
        let mut next_due = None;
        for (kind, may_be_ahead) in claim.kinds.iter() {
            let Some(lane) = self.lanes.get(&(claim.queue.clone(), kind.clone())) else { continue };
            let mut from = lane.first();
            while let Some(&(priority, ..)) = from {
                let heads = (priority, Timestamp::from_unix_ns(i64::MIN), 0)..=(priority, claim.now, u64::MAX);
                due.extend(lane.range(heads).take(want).map(|head| (*head, *may_be_ahead)));
                let later = lane
                    .range((std::ops::Bound::Excluded((priority, claim.now, u64::MAX)), std::ops::Bound::Unbounded));
                let next = later.clone().next().filter(|(of, ..)| *of == priority).map(|(_, at, _)| *at);
                next_due = next_due.into_iter().chain(next).min();
                let behind = (priority, Timestamp::from_unix_ns(i64::MAX), u64::MAX);
                from = lane.range((std::ops::Bound::Excluded(behind), std::ops::Bound::Unbounded)).next();
            }
        }
        due.sort_by_key(|((priority, at, number), _)| {
            (if claim.oldest { Reverse(0) } else { *priority }, *at, *number)
        });
        due.truncate(want);
        let mut exchanged =
            Exchanged { next_due: if due.len() >= want { Some(claim.now) } else { next_due }, ..Exchanged::default() };
        let mut taking = Taking::new(claim);
        for ((.., number), may_be_ahead) in due {
            let Some(job) = self.jobs.get(&number) else { continue };
            match taking.next(job.attempt, job.deaths, &job.new.terms, may_be_ahead) {
                Take::Leave => {
                    exchanged.next_due = Some(claim.now);
                    break;
                }
                Take::Missed => {
                    exchanged.missed.push(job.ended());
                    self.put(number, JobState::Failed, Reason::MissedDeadline, claim.now);
                }
                take => {
                    let reason = job.reason;
                    self.put(number, JobState::Running, reason, claim.now);
                    let Some(job) = self.jobs.get_mut(&number) else { continue };
                    job.owner = Some(claim.owner);
                    job.claims += 1;
                    job.attempt += 1;
                    job.is_interrupted = false;
                    job.started_at = (take == Take::Now).then_some(claim.now);
                    exchanged.claimed.push(Claimed {
                        attempt: job.attempt,
                        checkpoint: job.checkpoint.clone(),
                        run_at: job.run_at,
                        is_ahead: take == Take::Ahead,
                        ..Claimed::new(Lease { id: job.id, owner: claim.owner, token: job.claims }, &job.new)
                    });
                }
            }
        }
        exchanged
    }

    fn settle(&mut self, settle: Settle) -> Option<JobState> {
        let Settle { lease, started_at, at, progress, outcome } = settle;
        let (number, job) = self.leased(&lease)?;
        job.started_at = started_at;
        job.progress = progress.or(job.progress.take());
        let (is_cancel_asked, pending_for) = (job.is_cancel_asked, job.reason);
        match outcome {
            Outcome::Success { result } => {
                (job.result, job.error, job.checkpoint) = (Some(result), None, None);
                self.put(number, JobState::Success, Reason::None, at);
            }
            Outcome::Failed { reason, error } => {
                job.error = Some(error);
                self.put(number, JobState::Failed, reason, at);
            }
            Outcome::Cancelled => {
                job.error = None;
                self.put(number, JobState::Cancelled, Reason::Cancelled, at);
            }
            Outcome::Again { reason, error, run_at, counts } => {
                if started_at.is_some() {
                    job.new.terms.start_by = None;
                }
                job.error = error.or(job.error.take());
                job.attempt -= u32::from(!counts);
                (job.run_at, job.since) = (run_at, Some(at));
                if is_cancel_asked {
                    self.put(number, JobState::Cancelled, Reason::Cancelled, at);
                } else {
                    // What was not begun stays for the reason it was pending.
                    self.put_again(number, if started_at.is_some() { reason } else { pending_for }, run_at);
                }
            }
        }
        self.jobs.get(&number).map(|job| job.state)
    }

    fn enqueue(&mut self, jobs: Vec<NewJob>) -> Vec<Enqueued> {
        let enqueued = jobs.into_iter().map(|new| {
            let key = new.unique.clone().map(|key| (new.kind.clone(), key));
            let fire = new.schedule.clone().zip(new.scheduled_for);
            let taken = key.and_then(|key| self.unique.get(&key));
            let taken = taken.or_else(|| self.fires.get(fire.as_ref()?));
            if let Some(taken) = taken.and_then(|number| self.jobs.get(number)) {
                return Enqueued { id: taken.id, is_new: false };
            }
            self.last_number += 1;
            let number = self.last_number;
            if let Some(fire) = fire {
                self.fires.insert(fire, number);
            }
            let id = JobId::of_row(number, new.enqueued_at);
            let run_at = new.run_at;
            let job = Job {
                id,
                since: (!new.is_named).then_some(new.enqueued_at),
                new,
                // So that it is put where it belongs.
                state: JobState::Running,
                reason: Reason::None,
                run_at,
                attempt: 0,
                deaths: 0,
                claims: 0,
                owner: None,
                is_interrupted: false,
                is_cancel_asked: false,
                started_at: None,
                finished_at: None,
                progress: None,
                checkpoint: None,
                result: None,
                error: None,
            };
            self.jobs.insert(number, job);
            self.put_again(number, Reason::None, run_at);
            Enqueued { id, is_new: true }
        });
        enqueued.collect()
    }

    /// The schedule, with what there is to know of its jobs.
    fn seen_schedule(&self, stored: &StoredSchedule) -> StoredSchedule {
        let of = |time| (stored.name.clone(), Timestamp::from_unix_ns(time));
        let jobs = self.fires.range(of(i64::MIN)..=of(i64::MAX)).filter_map(|(_, number)| self.jobs.get(number));
        let mut seen = StoredSchedule { open: 0, ended_at: None, ..stored.clone() };
        for job in jobs {
            seen.open += u64::from(!job.state.is_final());
            seen.ended_at = job.finished_at;
        }
        seen
    }

    fn change_schedule(&mut self, change: ScheduleChange) -> Option<Vec<Enqueued>> {
        let known = self.schedules.get(&change.name).map_or(0, |stored| stored.revision);
        if known != change.revision {
            return None;
        }
        match change.to {
            Some(to) => {
                self.last_revision += 1;
                let stored = StoredSchedule::new(&change.name, self.last_revision, &to);
                self.schedules.insert(change.name, stored);
            }
            None => _ = self.schedules.remove(&change.name),
        }
        Some(self.enqueue(change.jobs))
    }
}

impl JobQueue for MemoryQueue {
    fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        Ok(self.held.lock().enqueue(jobs))
    }

    fn exchange(&self, settle: Vec<Settle>, claim: Option<Claim>) -> Result<Exchanged> {
        let mut held = self.held.lock();
        let settled = settle.into_iter().map(|settle| held.settle(settle)).collect();
        let exchanged = claim.map_or_else(Exchanged::default, |claim| held.claim(&claim));
        Ok(Exchanged { settled, ..exchanged })
    }

    fn note(&self, notes: Vec<Note>) -> Result<Vec<bool>> {
        let mut held = self.held.lock();
        let noted = notes.into_iter().map(|note| {
            let Some((_, job)) = held.leased(&note.lease) else { return false };
            job.progress = note.progress.or(job.progress.take());
            job.checkpoint = note.checkpoint.or(job.checkpoint.take());
            job.started_at = note.started_at.or(job.started_at);
            job.is_interrupted |= note.is_interrupted;
            true
        });
        Ok(noted.collect())
    }

    fn register(&self, process: &str, kinds: &[String]) -> Result<OwnerId> {
        let mut held = self.held.lock();
        held.last_owner += 1;
        let id = OwnerId(held.last_owner);
        held.owners.insert(id, Owner { id, process: process.to_owned(), kinds: kinds.to_vec(), beat: 0 });
        Ok(id)
    }

    fn beat(&self, owner: OwnerId) -> Result<Option<Vec<JobId>>> {
        let mut held = self.held.lock();
        let Some(known) = held.owners.get_mut(&owner) else { return Ok(None) };
        known.beat += 1;
        let asked = held.jobs.values().filter(|job| job.owner == Some(owner) && job.is_cancel_asked);
        Ok(Some(asked.map(|job| job.id).collect()))
    }

    fn owners(&self) -> Result<Vec<Owner>> {
        Ok(self.held.lock().owners.values().cloned().collect())
    }

    fn rescue(&self, owner: &Owner, now: Timestamp) -> Result<Vec<Rescued>> {
        let mut held = self.held.lock();
        if held.owners.get(&owner.id).is_some_and(|known| known.beat != owner.beat) {
            return Ok(Vec::new());
        }
        held.owners.remove(&owner.id);
        let numbers: Vec<_> = held.jobs.values().filter(|job| job.owner == Some(owner.id)).map(Job::number).collect();
        let rescued = numbers.into_iter().filter_map(|number| {
            let job = held.jobs.get_mut(&number)?;
            let attempt = job.attempt;
            let (state, reason, counts) =
                after_death(attempt, job.new.terms.max_attempts, job.is_interrupted, job.is_cancel_asked);
            job.attempt -= u32::from(!counts);
            job.deaths += u32::from(counts);
            let rescued = Rescued {
                id: job.id,
                kind: job.new.kind.clone(),
                queue: job.new.queue.clone(),
                attempt,
                state,
                correlation_id: job.correlation_id(),
            };
            if job.started_at.is_some() {
                job.new.terms.start_by = None;
            }
            (job.run_at, job.since) = (job.run_at.min(now), Some(now));
            let run_at = job.run_at;
            if state == JobState::Pending {
                held.put_again(number, reason, run_at);
            } else {
                held.put(number, state, reason, now);
            }
            Some(rescued)
        });
        Ok(rescued.collect())
    }

    fn cancel(&self, id: JobId, now: Timestamp) -> Result<Cancel> {
        let mut held = self.held.lock();
        let Some(job) = held.find(id) else { return Ok(Cancel::TooLate) };
        let (number, ended) = (job.number(), job.ended());
        match job.state {
            JobState::Pending => {
                held.put(number, JobState::Cancelled, Reason::Cancelled, now);
                Ok(Cancel::Done(ended))
            }
            JobState::Running => {
                held.jobs.entry(number).and_modify(|job| job.is_cancel_asked = true);
                Ok(Cancel::Asked)
            }
            _ => Ok(Cancel::TooLate),
        }
    }

    fn retry(&self, id: JobId, now: Timestamp) -> Result<bool> {
        let mut held = self.held.lock();
        let Some(job) = held.find(id) else { return Ok(false) };
        let key = job.new.unique.clone().map(|key| (job.new.kind.clone(), key));
        let is_taken = key.is_some_and(|key| held.unique.contains_key(&key));
        if is_taken || !matches!(job.state, JobState::Failed | JobState::Cancelled) {
            return Ok(false);
        }
        let number = job.number();
        if let Some(job) = held.jobs.get_mut(&number) {
            (job.attempt, job.deaths, job.is_cancel_asked, job.new.terms.start_by) = (0, 0, false, None);
            job.since = Some(now);
        }
        held.put_again(number, Reason::None, now);
        Ok(true)
    }

    fn rebase(&self, now: Timestamp) -> Result<u64> {
        let mut held = self.held.lock();
        let told_later = now.as_unix_ns().saturating_add(1_000_000_000);
        let numbers: Vec<_> = held
            .jobs
            .iter()
            .filter(|(_, job)| {
                job.state == JobState::Pending && job.since.is_some_and(|at| at.as_unix_ns() > told_later)
            })
            .map(|(number, _)| *number)
            .collect();
        for number in &numbers {
            let Some(job) = held.jobs.get_mut(number) else { continue };
            let pause_ns = job.since.map_or(0, |since| job.run_at.as_unix_ns() - since.as_unix_ns()).max(0);
            let (reason, run_at) = (job.reason, Timestamp::from_unix_ns(now.as_unix_ns() + pause_ns));
            job.since = Some(now);
            // Out of its place in the lane, and back into another.
            held.put(*number, JobState::Running, reason, now);
            held.put_again(*number, reason, run_at);
        }
        Ok(numbers.len() as u64)
    }

    fn get(&self, id: JobId) -> Result<Option<JobRow>> {
        Ok(self.held.lock().find(id).map(Job::row))
    }

    fn list(&self, filter: &JobFilter) -> Result<Listed> {
        let held = self.held.lock();
        let is = |wanted: &Option<String>, have: &String| wanted.as_ref().is_none_or(|wanted| wanted == have);
        let limit = usize::try_from(filter.limit.max(1)).unwrap_or(usize::MAX);
        let mut wanted = held.jobs.range(..filter.before.unwrap_or(u64::MAX)).rev().map(|(_, job)| job).filter(|job| {
            is(&filter.kind, &job.new.kind)
                && is(&filter.queue, &job.new.queue)
                && filter.state.is_none_or(|state| state == job.seen())
        });
        let rows: Vec<JobRow> = wanted.by_ref().take(limit).map(Job::row).collect();
        let has_more = wanted.next().is_some();
        let next = rows.last().filter(|_| has_more).and_then(|row| row.id.row()).map(|(number, _)| number);
        Ok(Listed { rows, next })
    }

    fn counts(&self) -> Result<Vec<KindCounts>> {
        let held = self.held.lock();
        let mut counts: BTreeMap<&str, KindCounts> = BTreeMap::new();
        for job in held.jobs.values() {
            let of = counts.entry(&job.new.kind).or_insert_with(|| KindCounts::new(&job.new.kind));
            match job.seen() {
                JobState::Pending => {
                    of.pending += 1;
                    if job.state == JobState::Pending {
                        of.oldest_pending = of.oldest_pending.into_iter().chain(Some(job.run_at)).min();
                    }
                }
                JobState::Running => of.running += 1,
                JobState::Success => {
                    of.success += 1;
                    if let (Some(from), Some(to)) = (job.started_at, job.finished_at) {
                        let ns = to.as_unix_ns().saturating_sub(from.as_unix_ns());
                        of.run_times.push(Duration::from_nanos(u64::try_from(ns).unwrap_or(0)));
                    }
                }
                JobState::Failed => of.failed += 1,
                JobState::Cancelled => of.cancelled += 1,
            }
        }
        Ok(counts.into_values().collect())
    }

    fn schedules(&self, which: &WhichSchedules) -> Result<Vec<StoredSchedule>> {
        let held = self.held.lock();
        let all = held.schedules.values().map(|stored| held.seen_schedule(stored));
        let is_due =
            |stored: &StoredSchedule, by| stored.next_at.is_some_and(|at| at <= by) || stored.waits && stored.open == 0;
        Ok(match which {
            WhichSchedules::All => all.collect(),
            WhichSchedules::Named(name) => {
                held.schedules.get(name).map(|stored| held.seen_schedule(stored)).into_iter().collect()
            }
            WhichSchedules::Due(by) => {
                let mut due: Vec<_> = all.filter(|stored| is_due(stored, *by)).collect();
                due.sort_by_key(|stored| (stored.next_at.is_none(), stored.next_at));
                due.truncate(DUE_MAX);
                due
            }
        })
    }

    fn next_schedule_at(&self) -> Result<Option<Timestamp>> {
        Ok(self.held.lock().schedules.values().filter_map(|stored| stored.next_at).min())
    }

    fn change_schedules(&self, changes: Vec<ScheduleChange>) -> Result<Vec<Option<Vec<Enqueued>>>> {
        let mut held = self.held.lock();
        Ok(changes.into_iter().map(|change| held.change_schedule(change)).collect())
    }

    fn prune(&self, before: Timestamp, keep: u64, limit: u64) -> Result<u64> {
        let mut held = self.held.lock();
        let mut ended: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (number, job) in &held.jobs {
            if let Some(at) = job.finished_at {
                ended.entry((job.lane(), job.state)).or_default().push((at, *number));
            }
        }
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let mut surplus = Vec::new();
        for mut jobs in ended.into_values() {
            jobs.sort_unstable();
            let kept_from = jobs.len().saturating_sub(keep);
            surplus.extend(
                jobs.iter()
                    .enumerate()
                    .filter(|(index, (at, _))| *index < kept_from || *at < before)
                    .map(|(_, (_, number))| *number),
            );
        }
        surplus.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        for number in &surplus {
            let removed = held.jobs.remove(number);
            if let Some(fire) = removed.and_then(|job| job.new.schedule.zip(job.new.scheduled_for)) {
                held.fires.remove(&fire);
            }
        }
        Ok(surplus.len() as u64)
    }
}
