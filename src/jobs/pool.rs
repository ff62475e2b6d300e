//! Closures in memory: a bounded queue, and threads that work it off.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_queue::ArrayQueue;
use parking_lot::{Condvar, Mutex};

use super::{
    context::JobContext,
    error::{JobError, SubmitError},
    id::JobId,
    panic::discard,
    spawned::{InMemory, Spawned},
    tell::Tell,
};
use crate::clock::{Clock, Timestamp};

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
pub(super) struct Home {
    pub(super) clock: Clock,
    pub(super) tell: Arc<Tell>,
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
    pub(super) finished: AtomicU64,
    pub(super) failed: AtomicU64,
}

#[derive(Default)]
struct Threads {
    handles: Vec<JoinHandle<()>>,
    ended: usize,
}

/// What the pool sees of a closure.
pub(super) trait Task: Send + Sync {
    fn run(self: Arc<Self>);
    /// It will not be run.
    fn stop(&self);
    /// Its process is to end.
    fn interrupt(&self);
    /// It runs, and is not waited for any more.
    fn abandon(&self);
    fn name(&self) -> &str;
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
        let since = (clock.now_by_hand(), clock.elapsed_ns());
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
        let spawned = Arc::new(Spawned::new(home, id, name, came_ns, f));
        let task = Arc::clone(&spawned) as Arc<dyn Task>;
        home.waiting().push(task).map_err(|_| SubmitError::Full)?;
        fence(Ordering::SeqCst);
        if home.is_closed.load(Ordering::Relaxed) {
            // The end may have looked before this came: then nobody begins it.
            if spawned.call_off() {
                return Err(SubmitError::Stopped);
            }
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

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads_max", &self.home.running.len()).finish_non_exhaustive()
    }
}
