//! What is done beside the running, on the timer's thread: heartbeats, timeouts, progress, rescue, pruning.
//!
//! A round is due while something runs, is waited for, or other processes share the queue; else nothing is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    super::{
        context::{CANCEL, LOST},
        id::JobState,
        queue::Note,
        tell::{Change, Facts, To},
    },
    Runner,
    attempt::{Done, Run},
    owner::LEASE,
};
use crate::{clock::Timestamp, jobs::id::Reason};

/// While handlers run: how soon others see how far they are.
const ROUND: Duration = Duration::from_millis(500);
/// What is done behind a handler that takes long is settled after so long.
const LEFT_BEHIND: Duration = Duration::from_millis(10);
/// How often others are looked at for signs of life, and jobs that others may run for their ends.
const OTHERS: Duration = Duration::from_secs(5);
/// What they write, where the system does not tell.
const OUTSIDE: Duration = Duration::from_secs(1);
const WAITED_FOR: Duration = Duration::from_secs(1);
/// What was claimed and not begun within so long is given back.
const READY_MAX: Duration = Duration::from_secs(1);
/// How often finished jobs are pruned; sooner if there are many.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNE_AFTER: u64 = 5_000;
/// Rows of one step, so that it is short.
const PRUNE_STEP: u64 = 1_000;
const PRUNE_STEPS: u64 = 20;

/// When what is due, by a clock that no hand moves.
#[derive(Debug)]
pub(super) struct Rounds {
    next_ns: AtomicU64,
    others_ns: AtomicU64,
    prune_ns: AtomicU64,
    /// Jobs that became final since the last pruning.
    pub(super) ended: AtomicU64,
}

impl Default for Rounds {
    fn default() -> Self {
        Self {
            next_ns: AtomicU64::new(u64::MAX),
            others_ns: AtomicU64::new(0),
            prune_ns: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }
}

impl Runner {
    /// Has a round come within so long.
    pub(super) fn stir(&self, within: Duration) {
        let due_ns = self.real.elapsed_ns().saturating_add(within.as_nanos() as u64);
        if due_ns < self.rounds.next_ns.load(Ordering::Relaxed)
            && due_ns < self.rounds.next_ns.fetch_min(due_ns, Ordering::AcqRel)
        {
            self.arm(within);
        }
    }

    /// The same for a handler that begins.
    pub(super) fn stir_for(&self, run: &Run, timeout: Option<Duration>, is_more_done: bool) {
        let within = timeout.map_or(ROUND, |timeout| timeout.min(ROUND));
        let is_left_behind = is_more_done || run.claimed.is_ahead;
        self.stir(if is_left_behind { within.min(LEFT_BEHIND) } else { within });
    }

    /// One round; says when the next is due.
    pub(super) fn round(self: &Arc<Self>) -> Option<Duration> {
        self.rounds.next_ns.store(u64::MAX, Ordering::Release);
        if !self.tell.is_open() || self.is_over() {
            return None;
        }
        let (now_ns, real_ns) = (self.clock.elapsed_ns(), self.real.elapsed_ns());
        let mut dues = vec![self.look_at_handlers(now_ns)];
        for line in self.lines() {
            line.settle_left(self);
            let back = line.take_back(now_ns.saturating_sub(READY_MAX.as_nanos() as u64));
            if !back.is_empty() {
                let now = self.clock.now();
                let done = back.into_iter().map(|claimed| Done::unstarted(claimed, now, Reason::None)).collect();
                // If the store does not take it, they stay with this process until it runs them or is rescued.
                if self.exchange(&line, done, 0).is_ok() {
                    line.news(self, None);
                }
            }
            let look = line.look();
            let is_busy = look.ready + look.done + look.running > 0;
            dues.push(is_busy.then_some(ROUND));
        }
        dues.push(self.beat_if_due(real_ns));
        dues.push(self.look_at_others_if_due(real_ns));
        dues.push(self.look_at_waited_for());
        dues.push(self.prune_if_due(real_ns));
        let next = dues.into_iter().flatten().min()?;
        self.rounds.next_ns.fetch_min(real_ns.saturating_add(next.as_nanos() as u64), Ordering::AcqRel);
        Some(next)
    }

    /// Their time, and how far they are.
    fn look_at_handlers(self: &Arc<Self>, now_ns: u64) -> Option<Duration> {
        let runs: Vec<_> = self.running.lock().values().cloned().collect();
        let mut next: Option<u64> = None;
        let mut notes = Vec::new();
        for run in &runs {
            let flags = run.control.flags();
            let timeout_ns = run.claimed.terms.timeout.map(|timeout| timeout.as_nanos() as u64);
            if now_ns >= run.give_up_ns {
                // Whoever takes it out of the table says what became of it.
                let is_taken = self.running.lock().remove(&run.claimed.lease.id).is_some();
                if is_taken {
                    let done = self.give_up(run);
                    let _ = self.exchange(&run.line, vec![done], 0);
                    run.line.give_up_one(self);
                }
                continue;
            }
            let deadline_ns = timeout_ns.map_or(u64::MAX, |timeout| run.started_ns.saturating_add(timeout));
            let due_ns = if now_ns < deadline_ns { deadline_ns } else { run.give_up_ns };
            next = next.into_iter().chain((due_ns != u64::MAX).then_some(due_ns)).min();
            if flags & LOST == 0 {
                let is_new = !run.is_noted.swap(true, Ordering::Relaxed);
                let progress = if run.control.has_news() { run.control.take_news() } else { None };
                if is_new || progress.is_some() {
                    let started_at = is_new.then_some(run.started_at);
                    notes.push((run, Note { progress, started_at, ..Note::new(run.claimed.lease) }));
                }
            }
        }
        if !notes.is_empty() {
            let (noted, notes): (Vec<_>, Vec<_>) = notes.into_iter().unzip();
            if let Ok(current) = self.queue.note(notes) {
                for (run, _) in noted.iter().zip(current).filter(|(_, is_current)| !is_current) {
                    run.control.raise(LOST);
                }
            }
        }
        // By a clock that is moved by hand nothing is due by itself.
        next.filter(|_| !self.clock.is_manual())
            .map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(now_ns)).min(ROUND))
    }

    /// Says that this process lives, if it holds anything.
    fn beat_if_due(&self, real_ns: u64) -> Option<Duration> {
        let every = LEASE / 3;
        let holds = !self.running.lock().is_empty() || self.lines().iter().any(|line| line.look().ready > 0);
        if !holds {
            return None;
        }
        let since = { self.owner.lock().current?.1 };
        if real_ns.saturating_sub(since) >= every.as_nanos() as u64 {
            self.beat();
        }
        Some(every)
    }

    /// Says that this process lives, and hears which of its jobs are to end.
    pub(super) fn beat(&self) {
        let Some((id, _)) = self.owner.lock().current else { return };
        let Ok(heard) = self.queue.beat(id) else { return };
        let mut owner = self.owner.lock();
        match heard {
            Some(asked) => {
                if let Some(current) = owner.current.as_mut().filter(|current| current.0 == id) {
                    current.1 = self.real.elapsed_ns();
                }
                drop(owner);
                let running = self.running.lock();
                asked.iter().filter_map(|id| running.get(id)).for_each(|run| run.control.raise(CANCEL));
            }
            None => {
                // Others took this process for dead: what it held is theirs, and it begins anew.
                owner.leave();
                drop(owner);
                let runs = self.running.lock();
                runs.values().filter(|run| run.claimed.lease.owner == id).for_each(|run| run.control.raise(LOST));
            }
        }
    }

    fn look_at_others_if_due(self: &Arc<Self>, real_ns: u64) -> Option<Duration> {
        if !self.is_claiming() {
            return None;
        }
        if real_ns >= self.rounds.others_ns.load(Ordering::Relaxed) {
            self.look_at_others();
        }
        let has_others = self.owner.lock().has_others();
        if has_others && !cfg!(target_os = "linux") {
            self.look_outside();
            return Some(OUTSIDE);
        }
        has_others.then_some(OTHERS)
    }

    /// Rescues what dead processes held.
    pub(super) fn look_at_others(self: &Arc<Self>) {
        let real_ns = self.real.elapsed_ns();
        self.rounds.others_ns.store(real_ns.saturating_add(OTHERS.as_nanos() as u64), Ordering::Relaxed);
        let Ok(owners) = self.queue.owners() else { return };
        let dead = self.owner.lock().dead(owners, self.state.as_ref().map(|state| state.dir()), real_ns);
        for owner in dead {
            let Ok(rescued) = self.queue.rescue(&owner, self.clock.now()) else { continue };
            for rescued in rescued {
                let to = match rescued.state {
                    JobState::Cancelled => To::Cancelled,
                    JobState::Failed => To::Failed(Reason::Abandoned),
                    _ => To::Again(Reason::Abandoned),
                };
                let facts = Facts { queue: &rescued.queue, attempt: rescued.attempt, ..Facts::default() };
                let correlation_id = rescued.correlation_id.as_ref();
                self.tell.change(&Change { to, id: rescued.id, kind: &rescued.kind, correlation_id, facts });
                if rescued.state.is_final() {
                    self.look_up_end(rescued.id);
                }
                if let Some(line) = self.line(&rescued.queue) {
                    line.news(self, None);
                }
            }
        }
    }

    /// Of jobs that somebody waits for and that are not run here, whether they have come to their end.
    fn look_at_waited_for(&self) -> Option<Duration> {
        let waited_for = self.waiters.waited_for();
        for id in &waited_for {
            if !self.running.lock().contains_key(id) {
                self.look_up_end(*id);
            }
        }
        (!waited_for.is_empty()).then_some(WAITED_FOR)
    }

    fn prune_if_due(&self, real_ns: u64) -> Option<Duration> {
        let ended = self.rounds.ended.load(Ordering::Relaxed);
        if ended == 0 {
            return None;
        }
        let due_ns = self.rounds.prune_ns.load(Ordering::Relaxed);
        if real_ns >= due_ns || ended >= PRUNE_AFTER {
            self.rounds.ended.fetch_sub(ended, Ordering::Relaxed);
            self.prune();
            self.rounds.prune_ns.store(real_ns.saturating_add(PRUNE_EVERY.as_nanos() as u64), Ordering::Relaxed);
            return None;
        }
        Some(Duration::from_nanos(due_ns - real_ns))
    }

    /// Removes finished jobs beyond what is kept.
    pub(super) fn prune(&self) {
        let age_ns = i64::try_from(self.history.max_age.as_nanos()).unwrap_or(i64::MAX);
        let before = Timestamp::from_unix_ns(self.clock.now().as_unix_ns().saturating_sub(age_ns));
        for _ in 0..PRUNE_STEPS {
            match self.queue.prune(before, self.history.max_count, PRUNE_STEP) {
                Ok(PRUNE_STEP..) => {}
                _ => return,
            }
        }
    }
}
