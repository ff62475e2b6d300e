//! What a queue in memory holds, and its steps.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use super::super::{
    Claim, Claimed, Ended, Enqueued, Exchanged, Lease, NewJob, Outcome, Owner, OwnerId, Progress, ScheduleChange,
    Settle, StoredSchedule,
    rules::{Take, Taking},
};
use crate::{
    clock::Timestamp,
    jobs::{
        id::{JobId, JobState, Reason},
        row::JobRow,
    },
};

/// Which of the pending is next: by priority, time and number.
type Turn = (Reverse<i32>, Timestamp, u64);

#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) jobs: BTreeMap<u64, Job>,
    /// The pending, by queue and kind.
    pub(super) lanes: BTreeMap<(String, String), BTreeSet<Turn>>,
    /// By kind and unique key: the job that is pending or claimed.
    pub(super) unique: HashMap<(String, String), u64>,
    pub(super) owners: BTreeMap<OwnerId, Owner>,
    pub(super) schedules: BTreeMap<String, StoredSchedule>,
    /// By schedule and fire time: its job.
    pub(super) fires: BTreeMap<(String, Timestamp), u64>,
    pub(super) last_revision: u64,
    pub(super) last_number: u64,
    pub(super) last_owner: i64,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) new: NewJob,
    pub(super) state: JobState,
    pub(super) reason: Reason,
    pub(super) run_at: Timestamp,
    /// When that was said, unless the moment itself was.
    pub(super) since: Option<Timestamp>,
    pub(super) attempt: u32,
    pub(super) deaths: u32,
    pub(super) claims: i64,
    pub(super) owner: Option<OwnerId>,
    pub(super) is_interrupted: bool,
    pub(super) is_cancel_asked: bool,
    pub(super) started_at: Option<Timestamp>,
    pub(super) finished_at: Option<Timestamp>,
    pub(super) progress: Option<Progress>,
    pub(super) checkpoint: Option<String>,
    pub(super) result: Option<String>,
    pub(super) error: Option<String>,
}

impl Job {
    pub(super) fn number(&self) -> u64 {
        self.id.row().map_or(0, |(number, _)| number)
    }

    pub(super) fn lane(&self) -> (String, String) {
        (self.new.queue.clone(), self.new.kind.clone())
    }

    pub(super) fn correlation_id(&self) -> Option<crate::correlation::CorrelationId> {
        self.new.correlation_id.clone()
    }

    pub(super) fn ended(&self) -> Ended {
        Ended { id: self.id, kind: self.new.kind.clone(), correlation_id: self.correlation_id() }
    }

    /// As a reader sees it: what is claimed ahead of its beginning is pending.
    pub(super) fn seen(&self) -> JobState {
        if self.state == JobState::Running && self.started_at.is_none() { JobState::Pending } else { self.state }
    }

    pub(super) fn row(&self) -> JobRow {
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
    pub(super) fn leased(&mut self, lease: &Lease) -> Option<(u64, &mut Job)> {
        let (number, _) = lease.id.row()?;
        let job = self.jobs.get_mut(&number)?;
        let is_current = job.id == lease.id
            && job.state == JobState::Running
            && job.owner == Some(lease.owner)
            && job.claims == lease.token;
        is_current.then_some((number, job))
    }

    pub(super) fn find(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id.row()?.0).filter(|job| job.id == id)
    }

    /// Gives a job another state, and keeps the tables that lead to it.
    pub(super) fn put(&mut self, number: u64, state: JobState, reason: Reason, at: Timestamp) {
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
    pub(super) fn put_again(&mut self, number: u64, reason: Reason, run_at: Timestamp) {
        if let Some(job) = self.jobs.get_mut(&number) {
            job.run_at = run_at;
        }
        self.put(number, JobState::Pending, reason, run_at);
    }

    pub(super) fn claim(&mut self, claim: &Claim) -> Exchanged {
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

    pub(super) fn settle(&mut self, settle: Settle) -> Option<JobState> {
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

    pub(super) fn enqueue(&mut self, jobs: Vec<NewJob>) -> Vec<Enqueued> {
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
    pub(super) fn seen_schedule(&self, stored: &StoredSchedule) -> StoredSchedule {
        let of = |time| (stored.name.clone(), Timestamp::from_unix_ns(time));
        let jobs = self.fires.range(of(i64::MIN)..=of(i64::MAX)).filter_map(|(_, number)| self.jobs.get(number));
        let mut seen = StoredSchedule { open: 0, ended_at: None, ..stored.clone() };
        let mut last = 0;
        for job in jobs {
            seen.open += u64::from(!job.state.is_final());
            if job.number() > last {
                (last, seen.ended_at) = (job.number(), job.finished_at);
            }
        }
        seen
    }

    pub(super) fn change_schedule(&mut self, change: ScheduleChange) -> Option<Vec<Enqueued>> {
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
