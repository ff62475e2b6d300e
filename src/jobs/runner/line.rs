//! One queue in this process: what was claimed, what is done, and the threads that work it off.
//!
//! A worker runs what was claimed; when nothing is left it settles what all have done and claims what is next, in one step.
//! Nobody polls: a worker without work sleeps until somebody brings news, or until the next job is due.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{Runner, attempt::Done};
use crate::{clock::Timestamp, jobs::queue::Claimed};

/// Wall time is looked at again after so long, for it may be set, and machines sleep.
const DOZE_MAX: Duration = Duration::from_secs(30);
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
    inner: Mutex<Inner>,
    /// Something changed for who sleeps.
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// Claimed, and not begun; with the moment of the claim.
    ready: VecDeque<(Claimed, u64)>,
    /// Run, and not settled.
    done: Vec<Done>,
    /// Handlers that run, but for those that were given up.
    running: usize,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    alive: usize,
    given_up: usize,
    /// Somebody settles and claims.
    is_exchanging: bool,
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

impl Line {
    pub(super) fn new(name: &str, limit: usize) -> Self {
        Self { name: name.to_owned(), limit: AtomicUsize::new(limit), inner: Mutex::default(), wake: Condvar::new() }
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
            Some(_) => return,
        }
        self.wake_one(&mut inner, runner);
    }

    /// Somebody who sleeps, or a thread that is not there yet.
    fn wake_one(self: &Arc<Self>, inner: &mut Inner, runner: &Arc<Runner>) {
        if inner.idle > 0 {
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
            if runner.is_claiming()
                && let Some((claimed, _)) = inner.ready.pop_front()
            {
                inner.running += 1;
                // Should this one take long, what is done before it is settled by the timer.
                let is_more_done = !inner.done.is_empty();
                drop(inner);
                let ran = runner.run(self, claimed, is_more_done);
                inner = self.inner.lock();
                match ran {
                    Some(done) => {
                        inner.running -= 1;
                        inner.done.push(done);
                    }
                    // It was given up, and this thread with it: another has its place.
                    None => {
                        inner.given_up -= 1;
                        return;
                    }
                }
                continue;
            }
            let is_in_trouble = inner.trouble.is_some_and(|(until, _)| Instant::now() < until);
            let has_cause = !inner.done.is_empty() || inner.has_news && runner.is_claiming();
            if has_cause && !inner.is_exchanging && !is_in_trouble {
                inner = self.exchange(inner, runner, true);
                if !runner.is_claiming() {
                    // Who shuts down may wait for this.
                    self.wake.notify_all();
                }
                continue;
            }
            // A store that does not take what is done now is closed: others run it again.
            if runner.is_over() && (inner.done.is_empty() || inner.trouble.is_some()) {
                inner.alive -= 1;
                self.wake.notify_all();
                return;
            }
            let until = self.sleep_until(&inner, runner, is_in_trouble);
            inner.idle += 1;
            let woken = match until {
                Some(until) => !self.wake.wait_until(&mut inner, until).timed_out(),
                None => {
                    self.wake.wait(&mut inner);
                    true
                }
            };
            inner.idle -= 1;
            // Is it due? Else wall time was looked at.
            if !woken && inner.next_due.is_some_and(|due| due <= runner.clock.now()) {
                inner.has_news = true;
            }
        }
    }

    /// Until when a worker may sleep.
    fn sleep_until(&self, inner: &Inner, runner: &Runner, is_in_trouble: bool) -> Option<Instant> {
        if inner.is_exchanging {
            // Whoever does wakes somebody, if there is more to do or a time to wait for.
            return None;
        }
        let trouble = inner.trouble.filter(|_| is_in_trouble).map(|(until, _)| until);
        // On a clock that is moved by hand nothing is due by itself.
        let due = inner.next_due.filter(|_| runner.is_claiming() && !runner.clock.is_manual()).map(|due| {
            let ahead_ns = due.as_unix_ns().saturating_sub(runner.clock.now().as_unix_ns());
            Instant::now() + Duration::from_nanos(u64::try_from(ahead_ns).unwrap_or(0)).min(DOZE_MAX)
        });
        trouble.into_iter().chain(due).min()
    }

    /// Settles what is done and, if `claims`, claims what is next.
    fn exchange<'i>(
        self: &'i Arc<Self>,
        mut inner: parking_lot::MutexGuard<'i, Inner>,
        runner: &Arc<Runner>,
        claims: bool,
    ) -> parking_lot::MutexGuard<'i, Inner> {
        inner.is_exchanging = true;
        let claims = claims && runner.is_claiming();
        let free = if claims { self.limit().saturating_sub(inner.running + inner.ready.len()) } else { 0 };
        if claims {
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
                    inner.next_due = exchanged.next_due;
                    let is_more = exchanged.next_due.is_some_and(|due| due <= runner.clock.now());
                    inner.has_news |= is_more;
                }
                let now_ns = runner.clock.elapsed_ns();
                inner.ready.extend(exchanged.claimed.into_iter().map(|claimed| (claimed, now_ns)));
            }
            Err((done, error)) => {
                let pause = inner.trouble.map_or(PAUSE_FIRST, |(_, pause)| (pause * 2).min(PAUSE_MAX));
                if inner.trouble.is_none() {
                    let name = &self.name;
                    runner.tell.warn("l0.jobs", format!("the queue {name} waits for the store: {error}"));
                }
                inner.trouble = Some((Instant::now() + pause, pause));
                inner.has_news |= claims;
                // Nothing of it is lost: it is settled when the store takes it.
                inner.done.splice(0..0, done);
            }
        }
        // This thread takes one; the others that were claimed, and what came to be done meanwhile, are for others.
        for _ in 1..inner.ready.len().min(self.limit()) {
            self.wake_one(&mut inner, runner);
        }
        if !inner.done.is_empty() || inner.trouble.is_some() || inner.next_due.is_some() {
            // This thread may be long at what it takes: somebody else is to look at the rest, and at the time.
            self.wake.notify_one();
        }
        inner
    }

    /// From the timer: settles what a worker has left behind because it is at something that takes long.
    pub(super) fn settle_left(self: &Arc<Self>, runner: &Arc<Runner>) {
        let inner = self.inner.lock();
        if !inner.done.is_empty() && !inner.is_exchanging && inner.trouble.is_none() {
            drop(self.exchange(inner, runner, false));
        }
    }

    /// Takes back what was claimed before this moment and not begun: others may be free for it.
    pub(super) fn take_back(&self, before_ns: u64) -> Vec<Claimed> {
        let mut inner = self.inner.lock();
        let mut back = Vec::new();
        while inner.ready.front().is_some_and(|(_, at)| *at < before_ns) {
            back.extend(inner.ready.pop_front().map(|(claimed, _)| claimed));
        }
        back
    }

    /// A handler does not end: its thread is not counted any more, and another may take its place.
    pub(super) fn give_up_one(self: &Arc<Self>, runner: &Arc<Runner>) {
        let mut inner = self.inner.lock();
        inner.running -= 1;
        inner.given_up += 1;
        inner.alive -= 1;
        inner.has_news = true;
        self.wake_one(&mut inner, runner);
    }

    /// Everybody looks up.
    pub(super) fn wake_all(&self) {
        // Under the lock, so that nobody is between looking and sleeping.
        let _inner = self.inner.lock();
        self.wake.notify_all();
    }

    /// Waits until all is settled, or this moment; says whether it is.
    pub(super) fn wait_settled(&self, until: Instant) -> bool {
        let mut inner = self.inner.lock();
        while inner.running > 0 || !inner.done.is_empty() || inner.is_exchanging {
            if self.wake.wait_until(&mut inner, until).timed_out() {
                return false;
            }
        }
        true
    }

    /// Waits for the threads, until this moment.
    pub(super) fn join(&self, until: Instant) {
        let mut inner = self.inner.lock();
        while inner.alive > 0 && !self.wake.wait_until(&mut inner, until).timed_out() {}
        let threads = std::mem::take(&mut inner.threads);
        let is_over = inner.alive == 0 && inner.given_up == 0;
        drop(inner);
        let own = std::thread::current().id();
        if is_over {
            threads.into_iter().filter(|thread| thread.thread().id() != own).for_each(|thread| _ = thread.join());
        }
    }
}
