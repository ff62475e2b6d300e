//! One queue in this process: what was claimed, what is done, and the threads that work it off.
//!
//! A worker runs what was claimed; when nothing is left it settles what all have done and claims what is next, in one step.
//! Nobody polls: a worker without work sleeps until somebody brings news, or until the next job is due. Whoever begins a job
//! while others are ready, or something is to be claimed or watched, wakes another for it: so there is always somebody, while
//! there may be. What is done behind a handler that takes long is settled by the timer.
//!
//! Nothing that was claimed or done leaves this place but by a step of the queue that was taken.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    Runner,
    attempt::{Done, Run},
    owner::LEASE,
};
use crate::{
    clock::Timestamp,
    jobs::{
        id::JobId,
        queue::{Claimed, OwnerId},
    },
};

/// Wall time is looked at again after so long, for it may be set, and machines sleep.
pub(super) const DOZE_MAX: Duration = Duration::from_secs(30);
/// After a step that failed.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Threads that were given up beyond which none is replaced.
const GIVEN_UP_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: String,
    /// How many run at once.
    limit: AtomicUsize,
    /// Claims that were made.
    pub(super) claims: AtomicU32,
    inner: Mutex<Inner>,
    /// For workers that sleep.
    wake: Condvar,
    /// For who shuts down: something came to its end.
    quiet: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// Claimed, and not begun; with the moment of the claim.
    ready: VecDeque<(Claimed, u64)>,
    /// Run, or not to be run, and not settled.
    done: Vec<Done>,
    /// Handlers that run, but for those that were given up.
    running: usize,
    /// Workers that sleep, and calls to them that none has heard yet.
    idle: usize,
    calls: usize,
    threads: Vec<JoinHandle<()>>,
    alive: usize,
    given_up: usize,
    /// Somebody settles and claims; and which jobs were cancelled meanwhile.
    is_exchanging: bool,
    asked: Vec<JobId>,
    /// There may be something to claim.
    has_news: bool,
    next_due: Option<Timestamp>,
    /// The store did not take a step; not before this moment again, and how long the pause was.
    trouble: Option<(Instant, Duration)>,
}

/// What a look at a line shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) ready: usize,
    pub(super) done: usize,
    pub(super) running: usize,
}

impl Look {
    /// Whether anything here is under a lease of this process.
    pub(super) fn is_held(self) -> bool {
        self.ready + self.done + self.running > 0
    }
}

impl Line {
    pub(super) fn new(name: &str, limit: usize) -> Self {
        Self {
            name: name.to_owned(),
            limit: AtomicUsize::new(limit),
            claims: AtomicU32::new(0),
            inner: Mutex::default(),
            wake: Condvar::new(),
            quiet: Condvar::new(),
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(super) fn look(&self) -> Look {
        let inner = self.inner.lock();
        Look { ready: inner.ready.len(), done: inner.done.len(), running: inner.running }
    }

    /// There may be something to claim, now or at this moment.
    pub(super) fn news(self: &Arc<Self>, runner: &Arc<Runner>, due: Option<Timestamp>) {
        let mut inner = self.inner.lock();
        match due {
            None => inner.has_news = true,
            Some(due) if inner.next_due.is_none_or(|next| due < next) => inner.next_due = Some(due),
            Some(_) => {}
        }
        self.wake_one(&mut inner, runner);
    }

    /// Calls a worker that sleeps, or makes one, if there may be another.
    fn wake_one(self: &Arc<Self>, inner: &mut Inner, runner: &Arc<Runner>) {
        if inner.idle > inner.calls {
            inner.calls += 1;
            self.wake.notify_one();
        } else if inner.alive + inner.given_up.saturating_sub(GIVEN_UP_MAX) < self.limit() && runner.is_claiming() {
            self.add_thread(inner, runner);
        }
    }

    fn add_thread(self: &Arc<Self>, inner: &mut Inner, runner: &Arc<Runner>) {
        let (line, for_thread) = (Arc::clone(self), Arc::clone(runner));
        inner.threads.retain(|thread| !thread.is_finished());
        match crate::jobs::worker_thread(move || line.work(&for_thread)) {
            Ok(thread) => {
                inner.alive += 1;
                inner.threads.push(thread);
            }
            Err(error) if inner.alive == 0 => {
                let name = &self.name;
                runner.tell.warn("l0.jobs", format!("no thread can be had for the queue {name}, which waits: {error}"));
            }
            Err(_) => {}
        }
    }

    /// A worker's life.
    fn work(self: &Arc<Self>, runner: &Arc<Runner>) {
        let mut inner = self.inner.lock();
        loop {
            if let Some((run, is_more_done)) = self.begin(&mut inner, runner) {
                drop(inner);
                let done = runner.run(&run, is_more_done);
                inner = self.inner.lock();
                let Some(done) = done else {
                    // It was given up, and this thread with it: another has its place.
                    inner.given_up -= 1;
                    self.quiet.notify_all();
                    return;
                };
                inner.running -= 1;
                inner.done.push(done);
            } else if self.may_exchange(&inner, runner) {
                inner = self.exchange(inner, runner, true);
                if !runner.is_claiming() {
                    self.quiet.notify_all();
                }
            } else if self.is_superfluous(&inner, runner) {
                inner.alive -= 1;
                self.quiet.notify_all();
                return;
            } else {
                self.sleep(&mut inner, runner);
            }
        }
    }

    /// Takes a job that was claimed, if there is one and it may begin; says as well whether more is done and not settled.
    fn begin(self: &Arc<Self>, inner: &mut Inner, runner: &Arc<Runner>) -> Option<(Arc<Run>, bool)> {
        if !runner.is_claiming() || inner.running >= self.limit() {
            return None;
        }
        let claimed = loop {
            let (claimed, at_ns) = inner.ready.pop_front()?;
            if !runner.is_owner(claimed.lease.owner) {
                // The lease is void: it is another's.
                continue;
            }
            if runner.clock.elapsed_ns().saturating_sub(at_ns) < LEASE.as_nanos() as u64 / 2 {
                break claimed;
            }
            // This process stood still: others may be about to take it for dead.
            inner.done.push(Done::unstarted(claimed, runner.clock.now_by_hand()));
        };
        inner.running += 1;
        // Under the lock: who looks for a job finds it here or there.
        let run = runner.begin(self, claimed, true);
        if !inner.ready.is_empty() || inner.has_news || inner.next_due.is_some() {
            self.wake_one(inner, runner);
        }
        Some((run, !inner.done.is_empty()))
    }

    fn is_in_trouble(inner: &Inner) -> bool {
        inner.trouble.is_some_and(|(until, _)| Instant::now() < until)
    }

    /// How many more could begin.
    fn free(&self, inner: &Inner) -> usize {
        self.limit().saturating_sub(inner.running + inner.ready.len())
    }

    fn may_exchange(&self, inner: &Inner, runner: &Runner) -> bool {
        let has_cause = !inner.done.is_empty() || inner.has_news && runner.is_claiming() && self.free(inner) > 0;
        has_cause && !inner.is_exchanging && !Self::is_in_trouble(inner)
    }

    /// Whether this thread is one too many, or all is over. What a store did not take then, others run again.
    fn is_superfluous(&self, inner: &Inner, runner: &Runner) -> bool {
        runner.is_over() && (inner.done.is_empty() || inner.trouble.is_some()) || inner.alive > self.limit()
    }

    fn sleep(&self, inner: &mut MutexGuard<'_, Inner>, runner: &Runner) {
        let until = self.sleep_until(inner, runner);
        inner.idle += 1;
        let is_late = match until {
            Some(until) => self.wake.wait_until(inner, until).timed_out(),
            None => {
                self.wake.wait(inner);
                false
            }
        };
        inner.idle -= 1;
        inner.calls = inner.calls.saturating_sub(1).min(inner.idle);
        // Is it due? Else wall time was looked at.
        let is_due = |due| due <= runner.clock.now_by_hand() || runner.is_set_back();
        if is_late && inner.next_due.is_some_and(is_due) {
            inner.has_news = true;
        }
    }

    /// Until when a worker may sleep.
    fn sleep_until(&self, inner: &Inner, runner: &Runner) -> Option<Instant> {
        // Whoever exchanges goes on here, and wakes another if it takes a job.
        if inner.is_exchanging {
            return None;
        }
        let trouble = inner.trouble.filter(|_| Self::is_in_trouble(inner)).map(|(until, _)| until);
        // On a clock that is moved by hand nothing is due by itself; and nobody is free for more than may run.
        let may_begin = runner.is_claiming() && !runner.clock.is_manual() && self.free(inner) > 0;
        let due = inner.next_due.filter(|_| may_begin).map(|due| {
            let ahead_ns = due.as_unix_ns().saturating_sub(runner.clock.now_by_hand().as_unix_ns());
            Instant::now() + Duration::from_nanos(u64::try_from(ahead_ns).unwrap_or(0)).min(DOZE_MAX)
        });
        trouble.into_iter().chain(due).min()
    }

    /// Settles what is done and, if `claims`, claims what is next.
    fn exchange<'i>(
        self: &'i Arc<Self>,
        mut inner: MutexGuard<'i, Inner>,
        runner: &Arc<Runner>,
        claims: bool,
    ) -> MutexGuard<'i, Inner> {
        inner.is_exchanging = true;
        let free = if claims && runner.is_claiming() { self.free(&inner) } else { 0 };
        if free > 0 {
            inner.has_news = false;
        }
        let done = std::mem::take(&mut inner.done);
        drop(inner);
        let outcome = runner.exchange(self, done, free);
        let mut inner = self.inner.lock();
        inner.is_exchanging = false;
        match outcome {
            Ok(exchanged) => {
                inner.trouble = None;
                if free > 0 {
                    // News may have come meanwhile.
                    let next_due = exchanged.next_due;
                    inner.next_due = inner
                        .next_due
                        .filter(|due| *due > runner.clock.now_by_hand())
                        .into_iter()
                        .chain(next_due)
                        .min();
                    inner.has_news |=
                        exchanged.owner_is_unknown || next_due.is_some_and(|due| due <= runner.clock.now_by_hand());
                }
                let now_ns = runner.clock.elapsed_ns();
                let asked = std::mem::take(&mut inner.asked);
                for claimed in exchanged.claimed {
                    if asked.contains(&claimed.lease.id) {
                        inner.done.push(Done::cancelled(claimed, runner.clock.now_by_hand()));
                    } else {
                        inner.ready.push_back((claimed, now_ns));
                    }
                }
                if !runner.is_claiming() {
                    self.give_back(&mut inner, u64::MAX, runner.clock.now_by_hand());
                }
            }
            Err((done, error)) => {
                let pause = inner.trouble.map_or(PAUSE_FIRST, |(_, pause)| (pause * 2).min(PAUSE_MAX));
                if inner.trouble.is_none() {
                    let name = &self.name;
                    runner.tell.warn("l0.jobs", format!("the queue {name} waits for the store: {error}"));
                }
                inner.trouble = Some((Instant::now() + pause, pause));
                inner.has_news |= free > 0;
                // Nothing of it is lost: it is settled when the store takes it.
                inner.done.splice(0..0, done);
            }
        }
        inner
    }

    /// What was claimed before this moment and not begun is to be pending again, at no cost.
    fn give_back(&self, inner: &mut Inner, before_ns: u64, now: Timestamp) {
        while inner.ready.front().is_some_and(|(_, at)| *at < before_ns) {
            let back = inner.ready.pop_front().map(|(claimed, _)| Done::unstarted(claimed, now));
            inner.done.extend(back);
        }
    }

    /// The same, from elsewhere; it is settled at once, if the store takes it.
    pub(super) fn take_back(self: &Arc<Self>, runner: &Arc<Runner>, before_ns: u64) {
        let mut inner = self.inner.lock();
        self.give_back(&mut inner, before_ns, runner.clock.now_by_hand());
        drop(inner);
        self.settle_left(runner);
    }

    /// Settles what a worker has left behind because it is at something that takes long.
    pub(super) fn settle_left(self: &Arc<Self>, runner: &Arc<Runner>) {
        let mut inner = self.inner.lock();
        if !inner.done.is_empty() && !inner.is_exchanging && !Self::is_in_trouble(&inner) {
            inner = self.exchange(inner, runner, false);
            // Who looked meanwhile sleeps, however much is left, and whatever is due.
            if inner.idle > 0 {
                inner.calls = inner.idle;
                self.wake.notify_all();
            } else if inner.has_news || inner.next_due.is_some() || !inner.done.is_empty() {
                self.wake_one(&mut inner, runner);
            }
            self.quiet.notify_all();
        }
    }

    /// Keeps what the store did not take from elsewhere; a worker settles it.
    pub(super) fn keep(self: &Arc<Self>, runner: &Arc<Runner>, done: Vec<Done>) {
        let mut inner = self.inner.lock();
        inner.done.extend(done);
        self.wake_one(&mut inner, runner);
    }

    /// Cancels a job that was claimed and not begun. Says whether it was here.
    pub(super) fn cancel_ready(self: &Arc<Self>, runner: &Arc<Runner>, id: JobId) -> bool {
        let mut inner = self.inner.lock();
        let index = inner.ready.iter().position(|(claimed, _)| claimed.lease.id == id);
        let Some((claimed, _)) = index.and_then(|index| inner.ready.remove(index)) else {
            // It may be on its way here.
            if inner.is_exchanging {
                inner.asked.push(id);
            }
            return false;
        };
        inner.done.push(Done::cancelled(claimed, runner.clock.now_by_hand()));
        drop(inner);
        self.settle_left(runner);
        true
    }

    /// Forgets what was claimed under a lease that is void.
    pub(super) fn forget(&self, owner: OwnerId) {
        self.inner.lock().ready.retain(|(claimed, _)| claimed.lease.owner != owner);
    }

    /// A handler does not end: what it was at is `done` in another way, its thread is not counted any more, and another may
    /// take its place.
    pub(super) fn give_up(self: &Arc<Self>, runner: &Arc<Runner>, run: &Run) {
        let mut inner = self.inner.lock();
        // Whoever takes it out of the table says what became of it.
        if runner.end(run) {
            if run.is_on_worker {
                inner.running -= 1;
                inner.given_up += 1;
                inner.alive -= 1;
            }
            inner.done.push(runner.given_up(run));
            inner.has_news = true;
            self.wake_one(&mut inner, runner);
            drop(inner);
            self.settle_left(runner);
        }
    }

    /// Everybody looks up.
    pub(super) fn wake_all(&self) {
        let mut inner = self.inner.lock();
        inner.calls = inner.idle;
        self.wake.notify_all();
    }

    /// Waits until all is settled, or this moment; says whether it is.
    pub(super) fn wait_settled(&self, until: Instant) -> bool {
        let mut inner = self.inner.lock();
        while inner.running + inner.done.len() + inner.ready.len() > 0 || inner.is_exchanging {
            if self.quiet.wait_until(&mut inner, until).timed_out() {
                return false;
            }
        }
        true
    }

    /// Waits for the threads, until this moment.
    pub(super) fn join(&self, until: Instant) {
        let mut inner = self.inner.lock();
        while inner.alive > 0 && !self.quiet.wait_until(&mut inner, until).timed_out() {}
        let threads = std::mem::take(&mut inner.threads);
        let is_over = inner.alive == 0 && inner.given_up == 0;
        drop(inner);
        let own = std::thread::current().id();
        if is_over {
            threads.into_iter().filter(|thread| thread.thread().id() != own).for_each(|thread| _ = thread.join());
        }
    }
}
