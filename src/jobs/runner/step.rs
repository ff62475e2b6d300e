//! One step of a queue: what was run is settled, what is next is claimed, and who waits learns of it.

use std::sync::{Arc, atomic::Ordering};

use super::{
    super::{
        error::JobFailure,
        id::{JobState, Reason},
        outcome::told,
        queue::{Claim, Ended, Exchanged, Outcome},
        tell::{Change, Facts, To},
    },
    Runner,
    attempt::Done,
    line::Line,
    owner::LEASE,
};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
};

/// What may be claimed ahead of its beginning, of kinds whose jobs are short.
const AHEAD: usize = 63;
/// Every so manieth claim takes those that are due longest, whatever their priority.
const OLDEST_EVERY: u32 = 8;
/// A clock that shows so much less than before was set back.
const SET_BACK_NS: i64 = 1_000_000_000;
/// A call of `run_due` ends after so many.
const RUN_DUE_MAX: usize = 100_000;

impl Runner {
    /// Settles what is done and claims up to `free` jobs, and more of quick kinds. What was not taken comes back.
    pub(super) fn exchange(
        self: &Arc<Self>,
        line: &Arc<Line>,
        done: Vec<Done>,
        free: usize,
    ) -> std::result::Result<Exchanged, (Vec<Done>, Error)> {
        let claim = if free > 0 { self.claim(line, free, AHEAD) } else { Ok(None) };
        match claim {
            Ok(claim) => self.take(line, done, claim),
            Err(error) => Err((done, error)),
        }
    }

    /// One step of the queue, and what it came to is told.
    fn take(
        self: &Arc<Self>,
        line: &Arc<Line>,
        done: Vec<Done>,
        claim: Option<Claim>,
    ) -> std::result::Result<Exchanged, (Vec<Done>, Error)> {
        let settle = done.iter().map(|done| done.settle.clone()).collect();
        let owner = claim.as_ref().map(|claim| claim.owner);
        let exchanged = match self.queue.exchange(settle, claim) {
            Ok(exchanged) if exchanged.settled.len() != done.len() => {
                let (answers, settled) = (exchanged.settled.len(), done.len());
                return Err((
                    done,
                    Error::storage(format!("the queue of jobs gave {answers} answers to {settled} settlements")),
                ));
            }
            Ok(exchanged) => exchanged,
            Err(error) => return Err((done, error)),
        };
        if let Some(owner) = owner.filter(|_| exchanged.owner_is_unknown) {
            self.forget_owner(owner);
        }
        for (done, state) in done.iter().zip(&exchanged.settled) {
            self.settled(line, done, *state);
        }
        exchanged.missed.iter().for_each(|missed| self.missed(line, missed));
        Ok(exchanged)
    }

    /// A job could not be begun in time.
    fn missed(&self, line: &Line, missed: &Ended) {
        let to = To::Failed(Reason::MissedDeadline);
        let (correlation_id, facts) = (missed.correlation_id.as_ref(), Facts { queue: &line.name, ..Facts::default() });
        self.tell.change(&Change { to, id: missed.id, kind: &missed.kind, correlation_id, facts });
        self.waiters.tell(missed.id, &Err(JobFailure::MissedDeadline));
        self.rounds.ended.fetch_add(1, Ordering::Relaxed);
        self.look_at_schedules();
    }

    fn claim(&self, line: &Line, free: usize, ahead: usize) -> Result<Option<Claim>> {
        let kinds: Vec<_> = self.kinds.read().values().map(|kind| (kind.name.clone(), kind.is_quick())).collect();
        if kinds.is_empty() {
            return Ok(None);
        }
        let mut owner = self.owner()?;
        // One that was not heard for long makes itself heard first: others may be about to take it for dead.
        let real_ns = self.real.elapsed_ns();
        let heard_ns = self.owner.lock().current.map_or(0, |(_, at)| at);
        if real_ns.saturating_sub(heard_ns) >= (LEASE / 3).as_nanos() as u64 {
            self.beat();
            owner = self.owner()?;
        }
        let now = self.now()?;
        Ok(Some(Claim {
            owner,
            queue: line.name.clone(),
            ahead: if kinds.iter().any(|(_, is_quick)| *is_quick) { ahead } else { 0 },
            kinds: Arc::new(kinds),
            limit: free,
            oldest: line.claims.fetch_add(1, Ordering::Relaxed) % OLDEST_EVERY == OLDEST_EVERY - 1,
            now,
        }))
    }

    /// Now by the wall clock; jobs follow one that was set back.
    pub(super) fn now(&self) -> Result<Timestamp> {
        let now = self.clock.now_by_hand();
        self.latest.fetch_max(now.as_unix_ns(), Ordering::Relaxed);
        if self.is_set_back() {
            self.queue.rebase(now)?;
            self.mend_schedules(now)?;
            self.latest.store(now.as_unix_ns(), Ordering::Relaxed);
        }
        Ok(now)
    }

    /// Whether the clock was set back, and jobs have not followed yet.
    pub(super) fn is_set_back(&self) -> bool {
        self.clock.now_by_hand().as_unix_ns() < self.latest.load(Ordering::Relaxed).saturating_sub(SET_BACK_NS)
    }

    /// What a settlement came to: it is told, and who waits learns of it.
    fn settled(self: &Arc<Self>, line: &Arc<Line>, done: &Done, state: Option<JobState>) {
        let id = done.settle.lease.id;
        match (state, &done.settle.outcome) {
            (None, _) => {
                if done.was_run() {
                    self.tell_done(line, done, To::LeaseLost);
                }
                return;
            }
            (Some(JobState::Success), Outcome::Success { result }) => {
                self.tell_done(line, done, To::Succeeded);
                self.waiters.tell(id, &Ok(result.clone()));
            }
            (Some(JobState::Failed), Outcome::Failed { reason, error }) => {
                self.tell_done(line, done, To::Failed(*reason));
                self.waiters.tell(id, &told(JobState::Failed, *reason, Some(error), None));
            }
            (Some(JobState::Pending), Outcome::Again { reason, run_at, .. }) => {
                // Nobody was told that it had been claimed.
                if done.was_run() {
                    self.tell_done(line, done, To::Again(*reason));
                }
                if self.is_claiming() {
                    line.news(self, Some(*run_at));
                }
                return;
            }
            (Some(_), _) => {
                self.tell_done(line, done, To::Cancelled);
                self.waiters.tell(id, &Err(JobFailure::Cancelled));
            }
        }
        self.rounds.ended.fetch_add(1, Ordering::Relaxed);
        if done.claimed.schedule.is_some() {
            self.look_at_schedules();
        }
    }

    /// Runs what is due on this thread, until nothing is; says how many it was.
    pub(in crate::jobs) fn run_due(self: &Arc<Self>) -> Result<usize> {
        self.open()?;
        self.tell.adopt();
        self.owner()?;
        self.look_at_others();
        let mut count = 0;
        loop {
            let before = count;
            // What they enqueue is run below.
            let is_fired = self.fire(self.now()?)? > 0;
            for line in self.lines() {
                let mut done = Vec::new();
                loop {
                    // What is done is settled even if nothing may be claimed any more.
                    let claim = if self.open().is_ok() { self.claim(&line, 1, 0) } else { Ok(None) };
                    let step = match claim {
                        Ok(None) if done.is_empty() => break,
                        Ok(claim) => self.take(&line, std::mem::take(&mut done), claim),
                        Err(error) => Err((std::mem::take(&mut done), error)),
                    };
                    let exchanged = step.map_err(|(done, error)| {
                        line.keep(self, done);
                        error
                    })?;
                    if exchanged.claimed.is_empty() && exchanged.missed.is_empty() && !exchanged.owner_is_unknown {
                        break;
                    }
                    for claimed in exchanged.claimed {
                        count += 1;
                        let run = self.begin(&line, claimed, false);
                        done.extend(self.run(&run, false));
                    }
                    if count >= RUN_DUE_MAX {
                        line.keep(self, done);
                        break;
                    }
                }
                line.settle_left(self);
            }
            if count == before && !is_fired || count >= RUN_DUE_MAX {
                return Ok(count);
            }
        }
    }
}
