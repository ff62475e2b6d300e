//! Jobs in memory: for tests, and for programs whose jobs may die with them.

mod held;

use std::{collections::BTreeMap, time::Duration};

use held::{Held, Job};
use parking_lot::Mutex;

use super::{
    Cancel, Claim, Enqueued, Exchanged, JobQueue, Listed, NewJob, Note, Owner, OwnerId, Rescued, ScheduleChange,
    Settle, StoredSchedule, WhichSchedules, rules::after_death,
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
        Ok(match which {
            WhichSchedules::All => held.schedules.values().map(|stored| held.seen_schedule(stored)).collect(),
            WhichSchedules::Named(name) => {
                held.schedules.get(name).map(|stored| held.seen_schedule(stored)).into_iter().collect()
            }
            WhichSchedules::Due { by, skip } => {
                let is_due = |stored: &StoredSchedule| stored.next_at.is_some_and(|at| at <= *by);
                let seen = held.schedules.values().filter(|stored| is_due(stored) || stored.waits);
                let seen = seen.map(|stored| held.seen_schedule(stored));
                let mut due: Vec<_> = seen.filter(|stored| is_due(stored) || stored.open == 0).collect();
                due.sort_by_key(|stored| (stored.next_at.unwrap_or(*by).min(*by), stored.name.clone()));
                due.into_iter().skip(*skip).take(DUE_MAX).collect()
            }
        })
    }

    fn next_schedule_at(&self, after: Timestamp) -> Result<Option<Timestamp>> {
        let held = self.held.lock();
        Ok(held.schedules.values().filter_map(|stored| stored.next_at).filter(|at| *at > after).min())
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
