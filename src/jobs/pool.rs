//! Closures in memory: a bounded queue, and threads that work it off.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence},
    },
    task::{Context, Poll},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_queue::ArrayQueue;
use parking_lot::{Condvar, Mutex};
use smol_str::SmolStr;

use super::{
    cell::{Cell, Stage, Taken},
    context::{CANCEL, Control, Controlled, INTERRUPT, JobContext, TIMED_OUT},
    error::{Ending, JobError, JobFailure, SubmitError},
    id::{JobId, JobState, Reason},
    panic::{catch, discard},
    queue::Progress,
    tell::{Attempt, Change, Facts, Tell, To, ms},
};
use crate::{
    clock::{Clock, Timestamp, duration_ns},
    correlation::{self, CorrelationId},
};

/// So many closures may wait.
const WAITING_MAX: usize = 16_384;
/// How often a worker without work looks again before it sleeps: first at once, then letting others run in between.
const LOOKS: u32 = 100;
const LOOKS_YIELDING: u32 = 60;

/// What a worker is at, and since when.
type Slot = Mutex<Option<(Arc<dyn Task>, u64)>>;

/// What all closures of one `L0` have in common.
pub(super) struct Pool {
    home: Arc<Home>,
}

/// A worker that finds nothing looks again for a while, one at a time, and then sleeps. So who comes wakes somebody only
/// if nobody is looking: each puts its task, or its wish to sleep, before it looks at what the other has put.
struct Home {
    clock: Clock,
    tell: Arc<Tell>,
    waiting: OnceLock<ArrayQueue<Arc<dyn Task>>>,
    /// By worker: what it is at.
    running: Box<[Slot]>,
    /// A worker looks for work.
    is_searched: AtomicBool,
    sleepers: AtomicUsize,
    /// Nobody may come any more.
    is_closed: AtomicBool,
    /// Nothing may begin any more.
    is_called_off: AtomicBool,
    threads: Mutex<Threads>,
    /// As many as there are, so that who comes need not look.
    alive: AtomicUsize,
    /// Somebody came, or all is over.
    wake: Condvar,
    numbers: AtomicU64,
    /// Wall and monotonic time when the pool was made.
    since: (Timestamp, u64),
    finished: AtomicU64,
    failed: AtomicU64,
}

#[derive(Default)]
struct Threads {
    handles: Vec<JoinHandle<()>>,
    ended: usize,
}

/// What the line sees of a closure.
trait Task: Send + Sync {
    fn run(self: Arc<Self>);
    /// It will not be run.
    fn stop(&self);
    /// Its process is to end.
    fn interrupt(&self);
    /// It runs, and is not waited for any more.
    fn abandon(&self);
    fn name(&self) -> &str;
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
    control: Control,
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
                waiting: OnceLock::new(),
                running: (0..threads_max).map(|_| Mutex::default()).collect(),
                is_searched: AtomicBool::new(false),
                sleepers: AtomicUsize::new(0),
                is_closed: AtomicBool::new(false),
                is_called_off: AtomicBool::new(false),
                threads: Mutex::default(),
                alive: AtomicUsize::new(0),
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
        if !home.tell.is_open() || home.is_closed.load(Ordering::Acquire) {
            return Err(SubmitError::Stopped);
        }
        let came_ns = home.clock.elapsed_ns();
        let id = home.new_id(came_ns);
        let spawned = Arc::new(Spawned {
            home: Arc::clone(home),
            id,
            name: SmolStr::new(name),
            correlation_id: correlation::current(),
            came_ns,
            control: Control::new(home.clock.clone(), u64::MAX, None),
            ended: AtomicU8::new(JobState::Pending as u8),
            cell: Cell::new(f),
        });
        let task = Arc::clone(&spawned) as Arc<dyn Task>;
        home.waiting().push(task).map_err(|_| SubmitError::Full)?;
        fence(Ordering::SeqCst);
        if home.is_closed.load(Ordering::Relaxed) {
            // The end may have looked before this came.
            home.call_off();
        } else if !home.is_searched.load(Ordering::Relaxed) {
            home.rouse();
        }
        Ok((id, spawned))
    }

    pub(super) fn stats(&self) -> SpawnStats {
        let home = &self.home;
        let now_ns = home.clock.elapsed_ns();
        let running = home.running.iter().filter_map(|slot| {
            let slot = slot.lock();
            let (task, since_ns) = slot.as_ref()?;
            Some((task.name().to_owned(), Duration::from_nanos(now_ns.saturating_sub(*since_ns))))
        });
        SpawnStats {
            waiting: home.waiting.get().map_or(0, ArrayQueue::len) as u64,
            running: running.collect(),
            finished: home.finished.load(Ordering::Relaxed),
            failed: home.failed.load(Ordering::Relaxed),
        }
    }

    /// Nobody comes any more.
    pub(super) fn close(&self) {
        self.home.is_closed.store(true, Ordering::SeqCst);
    }

    /// Nobody comes any more. What waits is worked off until `drain`, then called off; what runs is asked to end then, and
    /// waited for until `until`.
    pub(super) fn stop(&self, drain: Instant, until: Instant) {
        let home = &self.home;
        self.close();
        let mut is_ended = home.wait_ended(drain);
        home.is_called_off.store(true, Ordering::SeqCst);
        home.call_off();
        if !is_ended {
            home.each_running(|task| task.interrupt());
            is_ended = home.wait_ended(until);
        }
        if is_ended {
            let handles = std::mem::take(&mut home.threads.lock().handles);
            let own = std::thread::current().id();
            handles.into_iter().filter(|thread| thread.thread().id() != own).for_each(|thread| _ = thread.join());
        } else {
            home.each_running(|task| task.abandon());
        }
    }
}

impl Home {
    #[inline]
    fn waiting(&self) -> &ArrayQueue<Arc<dyn Task>> {
        self.waiting.get_or_init(|| {
            self.tell.adopt();
            ArrayQueue::new(WAITING_MAX)
        })
    }

    fn new_id(&self, now_ns: u64) -> JobId {
        let (wall, mono_ns) = self.since;
        let ns = wall.as_unix_ns().saturating_add_unsigned(now_ns.saturating_sub(mono_ns));
        JobId::in_memory(self.numbers.fetch_add(1, Ordering::Relaxed), Timestamp::from_unix_ns(ns))
    }

    /// Wakes a worker, or makes one.
    #[inline]
    fn rouse(self: &Arc<Self>) {
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            // Under the lock, so that a sleeper is either seen by this, or sees what has come.
            let _threads = self.threads.lock();
            self.wake.notify_one();
        } else if self.alive.load(Ordering::Relaxed) < self.running.len() {
            self.add_thread();
        }
    }

    #[cold]
    fn add_thread(self: &Arc<Self>) {
        let mut threads = self.threads.lock();
        let index = threads.handles.len();
        if index >= self.running.len() || self.is_closed.load(Ordering::Relaxed) {
            return;
        }
        let home = Arc::clone(self);
        match super::worker_thread(move || home.work(index)) {
            Ok(thread) => {
                threads.handles.push(thread);
                self.alive.store(threads.handles.len(), Ordering::Relaxed);
            }
            Err(error) if index == 0 => {
                self.tell.warn("l0.jobs", format!("no thread can be had for closures, which wait: {error}"));
            }
            Err(_) => {}
        }
    }

    /// A worker's life.
    fn work(self: Arc<Self>, index: usize) {
        let waiting = self.waiting();
        let mut has_searched = true;
        loop {
            if let Some(task) = waiting.pop() {
                if std::mem::take(&mut has_searched) && !waiting.is_empty() {
                    self.rouse();
                }
                *self.running[index].lock() = Some((Arc::clone(&task), self.clock.elapsed_ns()));
                fence(Ordering::SeqCst);
                // Whoever called off looked before this was there to be seen, or sees it.
                if self.is_called_off.load(Ordering::Relaxed) {
                    task.stop()
                } else {
                    task.run()
                }
                let left = self.running[index].lock().take();
                // The last to hold it may be this thread, and what it holds is the application's.
                discard(left);
            } else if self.is_closed.load(Ordering::Acquire) {
                let mut threads = self.threads.lock();
                threads.ended += 1;
                self.wake.notify_all();
                return;
            } else {
                has_searched = true;
                if !self.search(waiting) {
                    self.sleep(waiting);
                }
            }
        }
    }

    /// Looks for work for a while, unless another does. Says whether there is some.
    fn search(&self, waiting: &ArrayQueue<Arc<dyn Task>>) -> bool {
        if self.is_searched.swap(true, Ordering::Relaxed) {
            return false;
        }
        for look in 0..LOOKS + LOOKS_YIELDING {
            if !waiting.is_empty() || self.is_closed.load(Ordering::Relaxed) {
                break;
            }
            if look < LOOKS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        self.is_searched.store(false, Ordering::Relaxed);
        // Who came meanwhile left it to this thread.
        fence(Ordering::SeqCst);
        !waiting.is_empty()
    }

    fn sleep(&self, waiting: &ArrayQueue<Arc<dyn Task>>) {
        let mut threads = self.threads.lock();
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if waiting.is_empty() && !self.is_closed.load(Ordering::Relaxed) {
            self.wake.wait(&mut threads);
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn each_running(&self, tell: impl Fn(&dyn Task)) {
        for slot in &self.running {
            let task = slot.lock().as_ref().map(|(task, _)| Arc::clone(task));
            task.iter().for_each(|task| tell(&**task));
        }
    }

    /// What waits is not run any more.
    fn call_off(&self) {
        while let Some(task) = self.waiting.get().and_then(ArrayQueue::pop) {
            task.stop();
            discard(task);
        }
    }

    /// Waits until all threads have ended, or this moment.
    fn wait_ended(&self, until: Instant) -> bool {
        let mut threads = self.threads.lock();
        self.wake.notify_all();
        while threads.ended < self.alive.load(Ordering::Relaxed) {
            if self.wake.wait_until(&mut threads, until).timed_out() {
                return false;
            }
        }
        true
    }
}

impl<T, F> Spawned<T, F> {
    /// Its success is told by its span.
    #[cold]
    fn tell_failure(&self, failure: &JobFailure, queue_wait: Duration, run_time: Duration) {
        let tell = &self.home.tell;
        let (reason, error) = match failure {
            JobFailure::Panicked(text) => (Reason::Panicked, text.clone()),
            JobFailure::Stopped => (Reason::Interrupted, failure.to_string()),
            JobFailure::TimedOut => (Reason::TimedOut, failure.to_string()),
            JobFailure::Failed(error) => (Reason::Error, error.clone()),
            other => (Reason::Error, other.to_string()),
        };
        let error = tell.redacted(error);
        let facts = Facts {
            attempt: 1,
            max_attempts: 1,
            queue_wait_ms: Some(ms(queue_wait)),
            run_ms: Some(ms(run_time)),
            error: Some(&error),
            ..Facts::default()
        };
        self.tell(To::Failed(reason), facts);
    }

    fn tell(&self, to: To, facts: Facts<'_>) {
        let correlation_id = self.correlation_id.as_ref();
        self.home.tell.change(&Change { to, id: self.id, kind: &self.name, correlation_id, facts });
    }
}

impl<T: Send, F: Send> Controlled for Spawned<T, F> {
    fn control(&self) -> &Control {
        &self.control
    }
}

impl<T, F> Task for Spawned<T, F>
where
    T: Send + 'static,
    F: FnOnce(&JobContext) -> Result<T, JobError> + Send + 'static,
{
    fn run(self: Arc<Self>) {
        let Some(work) = self.cell.begin() else { return };
        let home = &self.home;
        let started_ns = home.clock.elapsed_ns();
        let queue_wait = Duration::from_nanos(started_ns.saturating_sub(self.came_ns));
        let context = JobContext {
            id: self.id,
            attempt: 1,
            correlation_id: self.correlation_id.clone(),
            scheduled_for: None,
            control: Arc::clone(&self) as Arc<dyn Controlled>,
            durable: None,
        };
        let attempt = Attempt {
            id: self.id,
            kind: &self.name,
            number: 1,
            queue_wait,
            correlation_id: self.correlation_id.as_ref(),
        };
        let inside = || {
            let outcome = match catch(|| work(&context)) {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err(failure(error, self.control.flags())),
                Err(panic) => Err(JobFailure::Panicked(panic)),
            };
            let failure = outcome.as_ref().err().filter(|failure| **failure != JobFailure::Cancelled);
            if let Some(failure) = failure {
                let run_time = Duration::from_nanos(home.clock.elapsed_ns().saturating_sub(started_ns));
                self.tell_failure(failure, queue_wait, run_time);
            }
            let is_failed = failure.is_some();
            (outcome, is_failed)
        };
        // A layer of the application's may panic as well as the closure.
        let outcome =
            catch(|| home.tell.inside(&attempt, inside)).unwrap_or_else(|panic| Err(JobFailure::Panicked(panic)));
        let state = match &outcome {
            Ok(_) => JobState::Success,
            Err(JobFailure::Cancelled) => JobState::Cancelled,
            Err(_) => JobState::Failed,
        };
        home.finished.fetch_add(1, Ordering::Relaxed);
        if state == JobState::Failed {
            home.failed.fetch_add(1, Ordering::Relaxed);
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

    fn abandon(&self) {
        if self.cell.finish(Err(JobFailure::Stopped)) {
            self.ended.store(JobState::Failed as u8, Ordering::Release);
        }
    }

    fn name(&self) -> &str {
        &self.name
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
                self.tell(To::Cancelled, Facts::default());
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
        f.debug_struct("Pool").field("threads_max", &self.home.running.len()).finish_non_exhaustive()
    }
}
