//! Closures in memory: a bounded line, and threads that work it off.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use smol_str::SmolStr;

use super::{
    cell::{Cell, Stage, Taken},
    context::{CANCEL, Control, INTERRUPT, JobContext, TIMED_OUT},
    error::{Ending, JobError, JobFailure, SubmitError},
    id::{JobId, JobState, Reason},
    panic::{catch, discard},
    queue::Progress,
    tell::{Change, Facts, Tell, To, ms},
};
use crate::{
    clock::{Clock, Timestamp, duration_ns},
    correlation::{self, CorrelationId},
};

/// So many closures may wait.
const WAITING_MAX: usize = 65_536;
/// How often a worker without work looks again before it sleeps.
const LOOKS: u32 = 40;

/// What all closures of one `L0` have in common.
pub(super) struct Pool {
    home: Arc<Home>,
}

struct Home {
    clock: Clock,
    tell: Arc<Tell>,
    threads_max: usize,
    line: Mutex<Line>,
    /// Somebody came, or all is over.
    wake: Condvar,
    numbers: AtomicU64,
    /// Wall and monotonic time when the pool was made.
    since: (Timestamp, u64),
    finished: AtomicU64,
    failed: AtomicU64,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Arc<dyn Task>>,
    /// By worker: what it is at.
    running: Vec<Option<Arc<dyn Task>>>,
    threads: Vec<JoinHandle<()>>,
    idle: usize,
    /// Nobody may come any more.
    is_closed: bool,
}

/// What the line sees of a closure.
trait Task: Send + Sync {
    fn run(&self);
    /// It will not be run.
    fn stop(&self);
    /// Its process is to end.
    fn interrupt(&self);
    fn name(&self) -> (JobId, &str, u64);
}

/// What a handle sees of a closure.
pub(super) trait InMemory<T>: Send + Sync {
    fn take_until(&self, until: Option<Instant>) -> Option<Result<T, JobFailure>>;
    fn poll_take(&self, context: &mut Context<'_>) -> Poll<Result<T, JobFailure>>;
    fn state(&self) -> JobState;
    fn cancel(&self) -> bool;
    fn progress(&self) -> Option<Progress>;
}

/// A closure, from its coming to its outcome.
struct Spawned<T, F> {
    home: Arc<Home>,
    id: JobId,
    name: SmolStr,
    correlation_id: Option<CorrelationId>,
    came_ns: u64,
    control: Arc<Control>,
    /// The final state; pending before.
    ended: AtomicU8,
    cell: Cell<Result<T, JobFailure>, F>,
}

/// How many closures there are and were.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct SpawnStats {
    /// That wait.
    pub waiting: u64,
    /// Those that run, with their names, and for how long.
    pub running: Vec<(String, Duration)>,
    /// That returned, or failed, since the start.
    pub finished: u64,
    /// Of these, those that failed or panicked.
    pub failed: u64,
}

impl Pool {
    pub(super) fn new(clock: Clock, tell: Arc<Tell>, threads_max: usize) -> Self {
        let since = (clock.now(), clock.elapsed_ns());
        Self {
            home: Arc::new(Home {
                clock,
                tell,
                threads_max,
                line: Mutex::default(),
                wake: Condvar::new(),
                numbers: AtomicU64::new(0),
                since,
                finished: AtomicU64::new(0),
                failed: AtomicU64::new(0),
            }),
        }
    }

    pub(super) fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        f: impl FnOnce(&JobContext) -> Result<T, JobError> + Send + 'static,
    ) -> Result<(JobId, Arc<dyn InMemory<T>>), SubmitError> {
        let home = &self.home;
        if home.tell.is_forked() {
            return Err(SubmitError::Stopped);
        }
        home.tell.adopt();
        let came_ns = home.clock.elapsed_ns();
        let id = home.new_id(came_ns);
        let spawned = Arc::new(Spawned {
            home: Arc::clone(home),
            id,
            name: SmolStr::new(name),
            correlation_id: correlation::current(),
            came_ns,
            control: Arc::new(Control::new(home.clock.clone(), u64::MAX, None)),
            ended: AtomicU8::new(JobState::Pending as u8),
            cell: Cell::new(f),
        });
        // Before it can begin, so that what is told of it is in order.
        let is_told = home.tell.tells(To::Enqueued);
        if is_told {
            home.tell.change(&spawned.change(To::Enqueued, Facts::default()));
        }
        let task = Arc::clone(&spawned) as Arc<dyn Task>;
        let refused = {
            let mut line = home.line.lock();
            let refused = if line.is_closed {
                Some(SubmitError::Stopped)
            } else if line.waiting.len() >= WAITING_MAX {
                Some(SubmitError::Full)
            } else {
                line.waiting.push_back(task);
                None
            };
            if refused.is_none() {
                if line.idle > 0 {
                    home.wake.notify_one();
                } else if line.threads.len() < home.threads_max {
                    home.add_thread(&mut line);
                }
            }
            refused
        };
        match refused {
            None => Ok((id, spawned)),
            Some(refused) => {
                if is_told {
                    home.tell.change(&spawned.change(To::Cancelled, Facts::default()));
                }
                spawned.stop();
                Err(refused)
            }
        }
    }

    pub(super) fn stats(&self) -> SpawnStats {
        let home = &self.home;
        let line = home.line.lock();
        let running: Vec<_> = line.running.iter().flatten().cloned().collect();
        let waiting = line.waiting.len() as u64;
        drop(line);
        let now_ns = home.clock.elapsed_ns();
        let running = running.iter().map(|task| {
            let (_, name, came_ns) = task.name();
            (name.to_owned(), Duration::from_nanos(now_ns.saturating_sub(came_ns)))
        });
        SpawnStats {
            waiting,
            running: running.collect(),
            finished: home.finished.load(Ordering::Relaxed),
            failed: home.failed.load(Ordering::Relaxed),
        }
    }

    /// Nobody comes any more. What waits is worked off until `drain`, then called off; what runs is asked to end then, and
    /// waited for until `until`.
    pub(super) fn stop(&self, drain: Instant, until: Instant) {
        let home = &self.home;
        let mut line = home.line.lock();
        line.is_closed = true;
        home.wake.notify_all();
        while !line.is_empty() && !home.wake.wait_until(&mut line, drain).timed_out() {}
        let left = std::mem::take(&mut line.waiting);
        let running: Vec<_> = line.running.iter().flatten().cloned().collect();
        drop(line);
        left.iter().for_each(|task| task.stop());
        discard(left);
        running.iter().for_each(|task| task.interrupt());
        drop(running);
        home.wake.notify_all();
        let mut line = home.line.lock();
        while line.running.iter().any(Option::is_some) && !home.wake.wait_until(&mut line, until).timed_out() {}
        let is_over = line.running.iter().all(Option::is_none);
        let threads = std::mem::take(&mut line.threads);
        drop(line);
        if is_over {
            let own = std::thread::current().id();
            threads.into_iter().filter(|thread| thread.thread().id() != own).for_each(|thread| _ = thread.join());
        }
    }
}

impl Home {
    fn new_id(&self, now_ns: u64) -> JobId {
        let (wall, mono_ns) = self.since;
        let ns = wall.as_unix_ns().saturating_add_unsigned(now_ns.saturating_sub(mono_ns));
        JobId::in_memory(self.numbers.fetch_add(1, Ordering::Relaxed), Timestamp::from_unix_ns(ns))
    }

    fn add_thread(self: &Arc<Self>, line: &mut Line) {
        let index = line.threads.len();
        let home = Arc::clone(self);
        match super::worker_thread(move || home.work(index)) {
            Ok(thread) => {
                line.running.push(None);
                line.threads.push(thread);
            }
            Err(error) if line.threads.is_empty() => {
                self.tell.warn("l0.jobs", format!("no thread can be had for closures, which wait: {error}"));
            }
            Err(_) => {}
        }
    }

    fn work(&self, index: usize) {
        let mut looks = 0;
        loop {
            let mut line = self.line.lock();
            let task = loop {
                if let Some(slot) = line.running.get_mut(index) {
                    *slot = None;
                }
                if let Some(task) = line.waiting.pop_front() {
                    break task;
                }
                if line.is_closed {
                    drop(line);
                    self.wake.notify_all();
                    return;
                }
                if looks < LOOKS {
                    looks += 1;
                    drop(line);
                    std::thread::yield_now();
                    line = self.line.lock();
                    continue;
                }
                line.idle += 1;
                self.wake.wait(&mut line);
                line.idle -= 1;
            };
            if let Some(slot) = line.running.get_mut(index) {
                *slot = Some(Arc::clone(&task));
            }
            drop(line);
            looks = 0;
            task.run();
            // The last to hold it may be this thread, and what it holds is the application's.
            discard(task);
        }
    }
}

impl Line {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.iter().all(Option::is_none)
    }
}

impl<T, F> Spawned<T, F> {
    fn change<'c>(&'c self, to: To, facts: Facts<'c>) -> Change<'c> {
        Change { to, id: self.id, kind: &self.name, correlation_id: self.correlation_id.as_ref(), facts }
    }
}

impl<T, F> Task for Spawned<T, F>
where
    T: Send + 'static,
    F: FnOnce(&JobContext) -> Result<T, JobError> + Send + 'static,
{
    fn run(&self) {
        let home = &self.home;
        let Some(work) = self.cell.begin() else { return };
        let started_ns = home.clock.elapsed_ns();
        let queue_wait_ms = ms(Duration::from_nanos(started_ns.saturating_sub(self.came_ns)));
        let facts = || Facts { attempt: 1, max_attempts: 1, queue_wait_ms, ..Facts::default() };
        if home.tell.tells(To::Started) {
            home.tell.change(&self.change(To::Started, facts()));
        }
        let context = JobContext {
            id: self.id,
            attempt: 1,
            correlation_id: self.correlation_id.clone(),
            scheduled_for: None,
            control: Arc::clone(&self.control),
            durable: None,
        };
        let outcome = home.tell.inside(
            (self.id, &self.name, 1),
            self.correlation_id.as_ref(),
            || catch(|| work(&context)),
            |outcome| !matches!(outcome, Ok(Ok(_))),
        );
        let flags = self.control.flags();
        let outcome = match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(failure(error, flags)),
            Err(panic) => Err(JobFailure::Panicked(panic)),
        };
        let (state, to, error) = match &outcome {
            Ok(_) => (JobState::Success, To::Succeeded, None),
            Err(JobFailure::Cancelled) => (JobState::Cancelled, To::Cancelled, None),
            Err(JobFailure::Panicked(text)) => (JobState::Failed, To::Failed(Reason::Panicked), Some(text.clone())),
            Err(JobFailure::Stopped) => (JobState::Failed, To::Failed(Reason::Interrupted), None),
            Err(failure) => (JobState::Failed, To::Failed(Reason::Error), Some(failure.to_string())),
        };
        home.finished.fetch_add(1, Ordering::Relaxed);
        home.failed.fetch_add(u64::from(state == JobState::Failed), Ordering::Relaxed);
        if home.tell.tells(to) {
            let error = error.map(|error| home.tell.redacted(error));
            let run_ms = ms(Duration::from_nanos(home.clock.elapsed_ns().saturating_sub(started_ns)));
            home.tell.change(&self.change(to, Facts { run_ms, error: error.as_deref(), ..facts() }));
        }
        self.ended.store(state as u8, Ordering::Release);
        self.cell.finish(outcome);
    }

    fn stop(&self) {
        self.ended.store(JobState::Cancelled as u8, Ordering::Release);
        discard(catch(|| self.cell.call_off(Err(JobFailure::Stopped))));
    }

    fn interrupt(&self) {
        self.control.raise(INTERRUPT);
    }

    fn name(&self) -> (JobId, &str, u64) {
        (self.id, &self.name, self.came_ns)
    }
}

/// What a closure's own ending is to who waits: it is tried once.
fn failure(JobError(ending): JobError, flags: u8) -> JobFailure {
    match ending {
        Ending::Again { error, .. } | Ending::Fatal { error, .. } => JobFailure::Failed(error),
        Ending::TimedOut => JobFailure::TimedOut,
        Ending::Interrupted | Ending::LeaseLost => JobFailure::Stopped,
        Ending::Cancelled if flags & (CANCEL | TIMED_OUT) == 0 && flags & INTERRUPT != 0 => JobFailure::Stopped,
        Ending::Cancelled => JobFailure::Cancelled,
        Ending::Snooze(pause) => JobFailure::Failed(format!(
            "a closure cannot be called again in {} ns: what is to be tried again is a Job",
            duration_ns(pause)
        )),
    }
}

impl<T, F> InMemory<T> for Spawned<T, F>
where
    T: Send + 'static,
    F: FnOnce(&JobContext) -> Result<T, JobError> + Send + 'static,
{
    fn take_until(&self, until: Option<Instant>) -> Option<Result<T, JobFailure>> {
        self.cell.take_until(until).map(taken)
    }

    fn poll_take(&self, context: &mut Context<'_>) -> Poll<Result<T, JobFailure>> {
        self.cell.poll_take(context).map(taken)
    }

    fn state(&self) -> JobState {
        match (self.cell.stage(), JobState::from_code(self.ended.load(Ordering::Acquire).into())) {
            (Stage::Pending, _) => JobState::Pending,
            (Stage::Running, _) => JobState::Running,
            (Stage::Done, JobState::Pending) => JobState::Cancelled,
            (Stage::Done, ended) => ended,
        }
    }

    fn cancel(&self) -> bool {
        // What is running may heed it, or be done before.
        match self.cell.stage() {
            Stage::Done => false,
            _ if self.cell.call_off(Err(JobFailure::Cancelled)) => {
                if self.home.tell.tells(To::Cancelled) {
                    self.home.tell.change(&self.change(To::Cancelled, Facts::default()));
                }
                true
            }
            _ => {
                self.control.raise(CANCEL);
                self.cell.stage() != Stage::Done
            }
        }
    }

    fn progress(&self) -> Option<Progress> {
        self.control.progress()
    }
}

fn taken<T>(taken: Result<Result<T, JobFailure>, Taken>) -> Result<T, JobFailure> {
    taken.unwrap_or_else(|Taken| Err(JobFailure::Failed("its outcome was taken before".to_owned())))
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads_max", &self.home.threads_max).finish_non_exhaustive()
    }
}
