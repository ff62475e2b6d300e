//! What is done beside the running, on the timer's thread: heartbeats, timeouts, progress, rescue, pruning.
//!
//! A round is due while something runs, is waited for, or other processes share the queue; else nothing is.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    super::{
        context::{CANCEL, LOST},
        id::{JobId, JobState},
        queue::{Note, OwnerId},
        tell::{Change, Facts, To},
    },
    Runner,
    attempt::Run,
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
const PRUNE_STEPS: u64 = 5;

/// When what is due, by a clock that no hand moves.
#[derive(Debug)]
pub(super) struct Rounds {
    next_ns: AtomicU64,
    others_ns: AtomicU64,
    outside_ns: AtomicU64,
    waited_for_ns: AtomicU64,
    prune_ns: AtomicU64,
    /// Jobs that became final since the last pruning.
    pub(super) ended: AtomicU64,
}

impl Default for Rounds {
    fn default() -> Self {
        Self {
            next_ns: AtomicU64::new(u64::MAX),
            others_ns: AtomicU64::new(0),
            outside_ns: AtomicU64::new(0),
            waited_for_ns: AtomicU64::new(0),
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
    pub(super) fn stir_for(&self, run: &Run, is_more_done: bool) {
        let within = run.claimed.terms.timeout.map_or(ROUND, |timeout| timeout.min(ROUND));
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
            // Others may be free for what lies here.
            line.take_back(self, now_ns.saturating_sub(READY_MAX.as_nanos() as u64));
            dues.push(line.look().is_held().then_some(ROUND));
        }
        dues.push(self.beat_if_due(real_ns));
        dues.push(self.look_at_others_if_due(real_ns));
        dues.push(self.look_at_waited_for(real_ns));
        dues.push(self.prune_if_due(real_ns));
        dues.push(self.fire_if_due());
        let next = dues.into_iter().flatten().min()?;
        // The round has taken its time.
        let real_ns = self.real.elapsed_ns();
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
                run.line.give_up(self, run);
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
            match self.queue.note(notes) {
                Ok(current) => {
                    for (run, _) in noted.iter().zip(current).filter(|(_, is_current)| !is_current) {
                        run.control.raise(LOST);
                    }
                }
                // What the store did not take is said again.
                Err(_) => noted.iter().for_each(|run| {
                    run.control.renew_news();
                    run.is_noted.store(false, Ordering::Relaxed);
                }),
            }
        }
        // By a clock that is moved by hand nothing is due by itself.
        next.filter(|_| !self.clock.is_manual())
            .map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(now_ns)).min(ROUND))
    }

    /// Says that this process lives, if it holds anything.
    fn beat_if_due(&self, real_ns: u64) -> Option<Duration> {
        let every = LEASE / 3;
        if !self.holds_any() {
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
                let is_asked = |run: &&Arc<Run>| asked.contains(&run.claimed.lease.id);
                running.values().filter(is_asked).for_each(|run| run.control.raise(CANCEL));
            }
            None => {
                drop(owner);
                self.forget_owner(id);
            }
        }
    }

    /// Others took this process for dead: what it held is theirs, and it begins anew.
    pub(super) fn forget_owner(&self, id: OwnerId) {
        let mut owner = self.owner.lock();
        if owner.current.is_some_and(|(current, _)| current == id) {
            owner.leave();
            self.owner_now.store(0, Ordering::Release);
        }
        drop(owner);
        self.lines().iter().for_each(|line| line.forget(id));
        let runs = self.running.lock();
        runs.values().filter(|run| run.claimed.lease.owner == id).for_each(|run| run.control.raise(LOST));
    }

    fn look_at_others_if_due(self: &Arc<Self>, real_ns: u64) -> Option<Duration> {
        if !self.is_claiming() {
            return None;
        }
        if real_ns >= self.rounds.others_ns.load(Ordering::Relaxed) {
            self.look_at_others();
        }
        if self.queue.is_shared() && !self.hears_others() {
            self.look_outside_if_due(real_ns);
            return Some(OUTSIDE);
        }
        self.owner.lock().has_others().then_some(OTHERS)
    }

    fn look_outside_if_due(self: &Arc<Self>, real_ns: u64) {
        if real_ns >= self.rounds.outside_ns.load(Ordering::Relaxed) {
            let next_ns = real_ns.saturating_add(OUTSIDE.as_nanos() as u64);
            self.rounds.outside_ns.store(next_ns, Ordering::Relaxed);
            self.look_outside();
        }
    }

    /// Rescues what dead processes held.
    pub(super) fn look_at_others(self: &Arc<Self>) {
        let real_ns = self.real.elapsed_ns();
        self.rounds.others_ns.store(real_ns.saturating_add(OTHERS.as_nanos() as u64), Ordering::Relaxed);
        let Ok(owners) = self.queue.owners() else { return };
        let dead = self.owner.lock().dead(owners, self.state.as_ref().map(|state| state.dir()), real_ns);
        for owner in dead {
            let Ok(rescued) = self.queue.rescue(&owner, self.clock.now_by_hand()) else { continue };
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
                    self.look_at_schedules();
                }
                if let Some(line) = self.line(&rescued.queue) {
                    line.news(self, None);
                }
            }
        }
    }

    /// Of jobs that somebody waits for and that are not run here, whether they have come to their end.
    fn look_at_waited_for(&self, real_ns: u64) -> Option<Duration> {
        let waited_for = self.waiters.waited_for();
        // Of what this process does it knows, and of what others do it hears.
        let hears_all = self.is_claiming() && (self.hears_others() || !self.queue.is_shared());
        if waited_for.is_empty() || hears_all {
            return None;
        }
        let due_ns = self.rounds.waited_for_ns.load(Ordering::Relaxed);
        if real_ns < due_ns {
            return Some(Duration::from_nanos(due_ns - real_ns));
        }
        let own: HashSet<JobId> = self.running.lock().keys().map(|lease| lease.id).collect();
        waited_for.iter().filter(|id| !own.contains(id)).for_each(|id| self.look_up_end(*id));
        let next_ns = self.real.elapsed_ns().saturating_add(WAITED_FOR.as_nanos() as u64);
        self.rounds.waited_for_ns.store(next_ns, Ordering::Relaxed);
        Some(WAITED_FOR)
    }

    fn prune_if_due(&self, real_ns: u64) -> Option<Duration> {
        let ended = self.rounds.ended.load(Ordering::Relaxed);
        if ended == 0 {
            return None;
        }
        let due_ns = self.rounds.prune_ns.load(Ordering::Relaxed);
        if real_ns >= due_ns || ended >= self.history.max_count.clamp(1, PRUNE_AFTER) {
            self.rounds.ended.fetch_sub(ended, Ordering::Relaxed);
            let is_all = self.prune();
            let every = if is_all { PRUNE_EVERY } else { ROUND };
            self.rounds.ended.fetch_add(u64::from(!is_all), Ordering::Relaxed);
            self.rounds.prune_ns.store(real_ns.saturating_add(every.as_nanos() as u64), Ordering::Relaxed);
            return (!is_all).then_some(every);
        }
        Some(Duration::from_nanos(due_ns - real_ns))
    }

    /// Removes finished jobs beyond what is kept, as far as it takes little time; says whether that was all.
    fn prune(&self) -> bool {
        let age_ns = i64::try_from(self.history.max_age.as_nanos()).unwrap_or(i64::MAX);
        let before = Timestamp::from_unix_ns(self.clock.now_by_hand().as_unix_ns().saturating_sub(age_ns));
        for _ in 0..PRUNE_STEPS {
            match self.queue.prune(before, self.history.max_count, PRUNE_STEP) {
                Ok(PRUNE_STEP..) => {}
                _ => return true,
            }
        }
        false
    }
}
