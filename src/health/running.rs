//! What is due is run: the timer says what that is; up to eight threads of their own, made when they are needed, run it.
//!
//! A check that hangs keeps its thread and is not started again. No lock is held while a check runs.

use std::{
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle, ThreadId},
    time::{Duration, Instant},
};

use super::{
    Status,
    check::{Check, Said},
    notices::Change,
    registry::{Pool, Registry},
    standing::{Standing, level},
};
use crate::{
    clock::deadline,
    error::{Error, Result},
    jobs::panic::{catch, discard},
};

const THREADS_MAX: usize = 8;
/// Of these for l0's own checks.
const OWN_THREADS: usize = 1;
/// Of the text of a status.
const WHY_BYTES_MAX: usize = 1_024;
/// A run that is asked for is waited for so much longer than it may take.
const GRACE: Duration = Duration::from_millis(500);
/// Who asks for a run waits so long for another that is recording changes, which may wait for room.
const EMIT_WITHIN: Duration = Duration::from_millis(50);

impl Registry {
    /// What is due is given to the threads; says when something is due again.
    pub(super) fn round(self: &Arc<Self>) -> Option<Duration> {
        if self.open().is_err() {
            return None;
        }
        let now_ns = self.clock.elapsed_ns();
        let next_ns = self.look(now_ns, |check| self.call(check));
        self.notices.emit_aside();
        let next_ns = next_ns?;
        Some(Duration::from_nanos(next_ns.saturating_sub(now_ns)))
    }

    /// Runs `due` on each check that is; says when the next is.
    fn look(&self, now_ns: u64, mut due: impl FnMut(&Arc<Check>)) -> Option<u64> {
        let mut next_ns = u64::MAX;
        for check in self.list.load().iter() {
            let mut at_ns = check.look_ns.load(Ordering::Acquire);
            if at_ns <= now_ns {
                // A run that begins or ends meanwhile says so behind this.
                check.look_ns.swap(u64::MAX, Ordering::AcqRel);
                at_ns = self.look_at(check, now_ns, &mut due);
                check.look_ns.fetch_min(at_ns, Ordering::AcqRel);
            }
            next_ns = next_ns.min(at_ns);
        }
        (next_ns != u64::MAX).then_some(next_ns)
    }

    /// Notes what time alone has changed of a check, and runs `due` if it is; says when to look again.
    fn look_at(&self, check: &Arc<Check>, now_ns: u64, due: &mut impl FnMut(&Arc<Check>)) -> u64 {
        if check.is_done() {
            return u64::MAX;
        }
        let running = check.running_since();
        let standing = check.standing.lock();
        let is_running = running.is_some() && check.running_since() == running;
        let mut aged = standing.clone();
        if let Some(since_ns) = running.filter(|_| is_running) {
            aged.while_running(since_ns, &check.terms, now_ns);
        }
        aged.grown_old(&check.terms, now_ns);
        let is_aged = aged != *standing;
        let until_ns = aged.seen_until(running, &check.terms, now_ns).saturating_add(1);
        drop(standing);
        if is_aged {
            let note = |standing: &mut Standing| {
                let since_ns = check.running_since().filter(|since| Some(*since) == running);
                let changed = since_ns.and_then(|since| standing.while_running(since, &check.terms, now_ns));
                standing.grown_old(&check.terms, now_ns).or(changed)
            };
            self.apply(check, note, || (), false);
        }
        let due_ns = check.due_ns.load(Ordering::Acquire);
        match due_ns {
            _ if is_running => until_ns,
            _ if due_ns <= now_ns => {
                due(check);
                until_ns.min(now_ns.saturating_add(ns(check.terms.every)))
            }
            _ => until_ns.min(due_ns),
        }
    }

    /// For tests: what is due is run on this thread; says how many checks that were.
    pub(super) fn run_due(&self) -> Result<usize> {
        self.open()?;
        let mut due = Vec::new();
        self.look(self.clock.elapsed_ns(), |check| due.push(Arc::clone(check)));
        let count = due.iter().filter(|check| self.run(check)).count();
        self.notices.emit(EMIT_WITHIN);
        Ok(count)
    }

    /// Gives a check to a thread, and makes one if there may be another.
    fn call(self: &Arc<Self>, check: &Arc<Check>) {
        self.call_in(&mut self.pool.lock(), check, false);
    }

    fn call_in(self: &Arc<Self>, pool: &mut Pool, check: &Arc<Check>, is_waited_for: bool) {
        let has_waited = check.is_waiting.swap(true, Ordering::AcqRel);
        if !has_waited {
            pool.queue.push_back(Arc::clone(check));
        }
        // Those of l0's own are in no hurry, unless the threads there are hang.
        let is_in_no_hurry = check.terms.is_own && !has_waited && !is_waited_for;
        let most = if is_in_no_hurry { OWN_THREADS } else { THREADS_MAX };
        if pool.idle < pool.queue.len() && pool.threads.len() < most {
            let registry = Arc::clone(self);
            let number = self.spawned.fetch_add(1, Ordering::Relaxed) + 1;
            let thread = std::thread::Builder::new().name(format!("l0-check-{number}"));
            // Without one those there are will do; without any, the check waits, and the next call tries again.
            pool.threads.extend(thread.spawn(move || registry.work()));
        }
        self.called.notify_one();
    }

    fn work(self: &Arc<Self>) {
        let mut pool = self.pool.lock();
        while !self.is_stopped() {
            match pool.queue.pop_front() {
                Some(check) => {
                    drop(pool);
                    self.run(&check);
                    self.notices.emit_aside();
                    // It may be the last that holds the application's closure.
                    discard(check);
                    pool = self.pool.lock();
                }
                None => {
                    pool.idle += 1;
                    self.called.wait(&mut pool);
                    pool.idle -= 1;
                }
            }
        }
        pool.left.push(thread::current().id());
        self.ended.notify_all();
    }

    /// One run; says whether it was one.
    fn run(&self, check: &Arc<Check>) -> bool {
        let mut pool = self.pool.lock();
        let began_ns = self.clock.elapsed_ns();
        check.is_waiting.store(false, Ordering::Release);
        if self.is_stopped() || check.is_gone.load(Ordering::Acquire) || !check.begin(began_ns) {
            return false;
        }
        check.begun.fetch_add(1, Ordering::Release);
        let own = thread::current().id();
        pool.running.push((own, Arc::clone(check)));
        drop(pool);
        self.changed();
        self.look_when_late(check, began_ns);
        let outcome = catch(|| (check.work)());
        let ended_ns = self.clock.elapsed_ns();
        let took = Duration::from_nanos(ended_ns.saturating_sub(began_ns));
        let every_ns = ns(check.terms.every);
        let due_ns = if took < check.terms.every { began_ns } else { ended_ns }.saturating_add(every_ns);
        check.due_ns.store(due_ns, Ordering::Release);
        let result = self.presentable(Status::of_run(outcome));
        let shown = || {
            check.look_ns.store(due_ns, Ordering::Release);
            check.end();
        };
        self.apply(check, |standing| standing.after(result, &check.terms, ended_ns, took), shown, false);
        let mut pool = self.pool.lock();
        pool.running.retain(|(thread, running)| *thread != own || !Arc::ptr_eq(running, check));
        check.ended.fetch_add(1, Ordering::Release);
        drop(pool);
        self.ended.notify_all();
        self.arm(Duration::from_nanos(due_ns.saturating_sub(ended_ns)));
        true
    }

    /// Without the secrets that redaction knows, and not longer than a line or two: so it is shown, told and kept.
    fn presentable(&self, status: Status) -> Status {
        let short = |why: String| {
            let mut why = self.redactor.text(&why).unwrap_or(why);
            if why.len() > WHY_BYTES_MAX {
                why.truncate(why.floor_char_boundary(WHY_BYTES_MAX));
                why.push('…');
            }
            why
        };
        match status {
            Status::Healthy => Status::Healthy,
            Status::Degraded(why) => Status::Degraded(short(why)),
            Status::Unhealthy(why) => Status::Unhealthy(short(why)),
        }
    }

    /// The job of a check has begun on one of its threads.
    pub(super) fn begin_elsewhere(&self, check: &Check) {
        let now_ns = self.clock.elapsed_ns();
        if !check.is_gone.load(Ordering::Acquire) && check.begin(now_ns) {
            self.changed();
            self.look_when_late(check, now_ns);
        }
    }

    /// It has ended.
    pub(super) fn end_elsewhere(&self, check: &Check, said: Said) {
        if check.is_gone.load(Ordering::Acquire) {
            return;
        }
        if check.knows_later(said.job).0 {
            // Of a later job something was heard while this took its time.
            check.end();
            return self.changed();
        }
        let (result, now_ns) = (self.presentable(said.result), self.clock.elapsed_ns());
        let took = Duration::from_nanos(check.running_since().map_or(0, |since| now_ns.saturating_sub(since)));
        self.apply(check, |standing| standing.after(result, &check.terms, now_ns, took), || check.end(), false);
        self.notices.emit(EMIT_WITHIN);
    }

    /// It took so long and ended so long ago, here or in another process; what is known at a start is told to nobody. While it runs
    /// here, what that comes to is waited for.
    pub(super) fn hear(&self, check: &Check, said: Said, took: Duration, age: Duration) {
        if check.running_since().is_some() {
            return;
        }
        let seen = check.seen.load();
        let (is_later, is_same) = check.knows_later(said.job);
        // A job that was run again elsewhere has come to something else.
        let is_known = is_same && seen.latest.as_ref().is_some_and(|latest| level(latest) == level(&said.result));
        if is_later || is_known {
            return;
        }
        let (result, now_ns) = (self.presentable(said.result), self.clock.elapsed_ns());
        let at_ns = now_ns.saturating_sub(ns(age));
        let hear = |standing: &mut Standing| {
            let changed = standing.after(result, &check.terms, at_ns, took);
            standing.earlier = age.saturating_sub(Duration::from_nanos(now_ns - at_ns));
            changed
        };
        self.apply(check, hear, || (), !seen.has_run);
        self.notices.emit(EMIT_WITHIN);
    }

    /// Has kept what checks of these names are reported to be, which somebody took for ended.
    pub(super) fn say_again(&self, names: &[String]) {
        for check in names.iter().filter_map(|name| self.find(name)) {
            let standing = check.standing.lock();
            if let Some(to) = standing.reported.clone().filter(|_| !check.is_gone.load(Ordering::Acquire)) {
                let at = self.clock.now_by_hand();
                self.notices.tell(Change { check: &check, at, from: None, to: Some(to), is_quiet: true });
            }
        }
    }

    /// A run that began then is looked at when its time is over.
    fn look_when_late(&self, check: &Check, began_ns: u64) {
        let late_ns = began_ns.saturating_add(ns(check.terms.timeout)).saturating_add(1);
        check.look_ns.fetch_min(late_ns, Ordering::AcqRel);
        self.arm(Duration::from_nanos(late_ns.saturating_sub(began_ns)));
    }

    /// Changes how a check stands, shows that to readers, and has it told, one after the other.
    fn apply(
        &self,
        check: &Check,
        change: impl FnOnce(&mut Standing) -> Option<Status>,
        shown: impl FnOnce(),
        is_quiet: bool,
    ) {
        let mut standing = check.standing.lock();
        let from = standing.reported.clone();
        let to = change(&mut standing);
        let at = self.clock.now_by_hand();
        if to.is_some() {
            standing.since = Some(at);
        }
        check.seen.store(Arc::new(standing.clone()));
        // Under its lock: who finds it running for too long finds it running.
        shown();
        self.changed();
        if let Some(to) = to.filter(|_| !check.is_gone.load(Ordering::Acquire)) {
            let is_quiet = is_quiet || check.terms.is_own && from.is_none() && to == Status::Healthy;
            self.notices.tell(Change { check, at, from, to: Some(to), is_quiet });
        }
    }

    /// Runs a check on a thread of l0's, or waits for the run it is at; what it said, or that it is overdue.
    pub(super) fn check_now(self: &Arc<Self>, check: &Arc<Check>) -> Result<Status> {
        self.open()?;
        self.wishes.fetch_add(1, Ordering::AcqRel);
        let until = deadline(check.terms.timeout.saturating_add(GRACE));
        let mut pool = self.pool.lock();
        let mut wanted = check.begun.load(Ordering::Acquire);
        if check.running_since().is_none() {
            wanted += 1;
            self.call_in(&mut pool, check, true);
        }
        let mut is_late = false;
        loop {
            if check.ended.load(Ordering::Acquire) >= wanted {
                drop(pool);
                // Who asks is to find what it has come to.
                self.notices.emit(EMIT_WITHIN);
                return Ok(check.seen.load().latest.clone().unwrap_or(Status::Healthy));
            }
            self.open()?;
            if check.is_gone.load(Ordering::Acquire) {
                return Err(Error::invalid_input(format!("the check {:?} was unregistered meanwhile", check.name)));
            }
            if is_late {
                let is_running = check.running_since().is_some();
                let what = if is_running { "it is still running" } else { "all threads are at checks that hang" };
                return Ok(Status::Unhealthy(format!("overdue: {what} after {:?}", check.terms.timeout)));
            }
            is_late = self.ended.wait_until(&mut pool, until).timed_out();
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// The program is not ready any more.
    pub(super) fn begin_end(&self) {
        self.is_ending.store(true, Ordering::Release);
        self.changed();
    }

    /// Nothing is run any more; what runs, but for what hangs, is waited for until then.
    pub(super) fn stop(&self, until: Instant) {
        let listing = self.listing.lock();
        let mut pool = self.pool.lock();
        self.is_stopped.store(true, Ordering::Release);
        self.begin_end();
        let checks = self.list.load_full();
        drop(listing);
        let waiting = std::mem::take(&mut pool.queue);
        self.called.notify_all();
        self.ended.notify_all();
        while let Some(left) = self.still_to_end(&pool)
            && Instant::now() < until
        {
            self.ended.wait_until(&mut pool, deadline(left).min(until));
        }
        let has_left = |thread: &JoinHandle<()>, pool: &Pool| pool.left.contains(&thread.thread().id());
        let (ended, _) = std::mem::take(&mut pool.threads).into_iter().partition::<Vec<_>, _>(|it| has_left(it, &pool));
        drop(pool);
        discard(waiting);
        let known = checks.iter().filter(|check| check.standing.lock().reported.is_some());
        let known: Vec<_> = known.cloned().collect();
        self.notices.stop(&known, self.clock.now_by_hand(), until);
        // One that is at a check that hangs is left to itself.
        ended.into_iter().for_each(|thread| drop(thread.join()));
        self.list.store(Arc::default());
        self.changed();
        discard(checks);
    }

    /// How long at most threads but this one are at something that does not hang; nothing if they are not.
    fn still_to_end(&self, pool: &Pool) -> Option<Duration> {
        let (own, now_ns) = (thread::current().id(), self.clock.elapsed_ns());
        let left = |check: &Check| match check.running_since() {
            Some(since_ns) => since_ns.saturating_add(ns(check.terms.timeout)).checked_sub(now_ns),
            // All but said.
            None => Some(u64::MAX),
        };
        let at_checks = pool.running.iter().filter(|(thread, _)| *thread != own);
        let longest_ns = at_checks.filter_map(|(_, check)| left(check)).max();
        let is_at = |id: ThreadId| pool.left.contains(&id) || pool.running.iter().any(|(thread, _)| *thread == id);
        let is_between = pool.threads.iter().map(|thread| thread.thread().id()).any(|id| id != own && !is_at(id));
        // What one that runs nothing is at has no end that is known.
        let longest_ns = if is_between { Some(u64::MAX) } else { longest_ns };
        longest_ns.map(|ns| Duration::from_nanos(ns).saturating_add(Duration::from_millis(1)))
    }
}

fn ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
