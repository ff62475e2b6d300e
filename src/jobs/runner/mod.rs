//! Runs durable jobs: between a [`JobQueue`], which remembers, and the handlers of this process.
//!
//! `line` is one queue with its threads, `step` what it settles and claims, `attempt` one run of a handler, `tend` what is done
//! beside, `watch` what others write, `owner` who this process is to them, `waiters` who waits for what, `courier` who
//! enqueues without waiting.

mod attempt;
mod courier;
mod fire;
mod line;
mod owner;
mod step;
mod tend;
mod waiters;
mod watch;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};

pub(super) use self::{
    attempt::Handler,
    courier::Receipt,
    waiters::{Ended, Place},
};
use self::{
    attempt::{Kind, Run},
    courier::Courier,
    fire::Schedules,
    line::Line,
    owner::Ownership,
    tend::Rounds,
    waiters::Waiters,
};
use super::{
    context::{CANCEL, INTERRUPT},
    error::JobFailure,
    id::JobId,
    outcome::told,
    queue::{Cancel, Enqueued, JobQueue, Lease, NewJob, Note, OwnerId, Progress},
    tell::{Change, Facts, Tell, To},
};
use crate::{
    clock::{Clock, Timestamp},
    config::JobHistory,
    correlation::CorrelationId,
    database,
    error::{Error, Result},
    state::State,
    timer::Timer,
};

/// Where a runner is in its life.
const NEW: u8 = 0;
const CLAIMING: u8 = 1;
/// Nothing is begun any more.
const STOPPING: u8 = 2;
const OVER: u8 = 3;

pub(super) struct Runner {
    pub(super) queue: Arc<dyn JobQueue>,
    pub(super) clock: Clock,
    /// For what is due whatever a test's hand does.
    real: Clock,
    pub(super) tell: Arc<Tell>,
    timer: Arc<Timer>,
    task: OnceLock<usize>,
    /// If the queue is in it, and others share it.
    state: Option<Arc<State>>,
    /// What others had written when it was last looked at.
    seen_version: Mutex<Option<i64>>,
    #[cfg(target_os = "linux")]
    watch: Mutex<Option<watch::Watch>>,
    history: JobHistory,
    kinds: RwLock<BTreeMap<String, Arc<Kind>>>,
    lines: RwLock<BTreeMap<String, Arc<Line>>>,
    /// Handlers that run, and were not given up.
    running: Mutex<HashMap<Lease, Arc<Run>>>,
    owner: Mutex<Ownership>,
    /// Who this process is among the owners, for who holds another lock; 0 for nobody.
    owner_now: AtomicI64,
    waiters: Waiters,
    schedules: Schedules,
    courier: Courier,
    rounds: Rounds,
    phase: AtomicU8,
    /// The latest the wall clock has shown, in unix nanoseconds.
    latest: AtomicI64,
}

/// What there is to say of jobs that come: of each its kind, queue and correlation, of each queue the earliest time.
struct Coming {
    told: Vec<(String, String, Option<CorrelationId>)>,
    dues: Vec<(String, Timestamp)>,
}

/// What a runner is made of.
pub(super) struct Parts {
    pub(super) queue: Arc<dyn JobQueue>,
    pub(super) clock: Clock,
    pub(super) tell: Arc<Tell>,
    pub(super) timer: Arc<Timer>,
    /// If the queue is in it.
    pub(super) state: Option<Arc<State>>,
    pub(super) history: JobHistory,
}

impl Runner {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let Parts { queue, clock, tell, timer, state, history } = parts;
        let runner = Arc::new(Self {
            queue,
            clock,
            real: Clock::system(),
            tell,
            task: OnceLock::new(),
            timer,
            state,
            seen_version: Mutex::default(),
            #[cfg(target_os = "linux")]
            watch: Mutex::default(),
            history,
            kinds: RwLock::default(),
            lines: RwLock::default(),
            running: Mutex::default(),
            owner: Mutex::default(),
            owner_now: AtomicI64::new(0),
            waiters: Waiters::default(),
            schedules: Schedules::default(),
            courier: Courier::default(),
            rounds: Rounds::default(),
            phase: AtomicU8::new(NEW),
            latest: AtomicI64::new(i64::MIN),
        });
        let weak = Arc::downgrade(&runner);
        let task = runner.timer.add(Box::new(move || weak.upgrade()?.round()));
        let _ = runner.task.set(task);
        runner
    }

    fn arm(&self, within: Duration) {
        if let Some(task) = self.task.get() {
            self.timer.arm(*task, within);
        }
    }

    pub(super) fn is_claiming(&self) -> bool {
        self.phase.load(Ordering::Acquire) == CLAIMING
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.phase.load(Ordering::Acquire) >= STOPPING
    }

    fn is_over(&self) -> bool {
        self.phase.load(Ordering::Acquire) == OVER
    }

    /// Refuses what comes after the end, or in a forked child.
    pub(super) fn open(&self) -> Result<()> {
        if self.is_stopped() || !self.tell.is_open() { Err(Error::closed()) } else { Ok(()) }
    }

    // ---- queues and kinds

    pub(super) fn set_line(self: &Arc<Self>, name: &str, limit: usize) {
        let mut lines = self.lines.write();
        let line = lines.entry(name.to_owned()).or_insert_with(|| Arc::new(Line::new(name, limit)));
        line.set_limit(limit);
        let line = Arc::clone(line);
        drop(lines);
        if self.is_claiming() {
            // There is room for more; or who is too many ends.
            line.news(self, None);
            line.wake_all();
        }
    }

    pub(super) fn has_line(&self, name: &str) -> bool {
        self.lines.read().contains_key(name)
    }

    fn line(&self, name: &str) -> Option<Arc<Line>> {
        self.lines.read().get(name).cloned()
    }

    fn lines(&self) -> Vec<Arc<Line>> {
        self.lines.read().values().cloned().collect()
    }

    pub(super) fn line_names(&self) -> Vec<String> {
        self.lines.read().keys().cloned().collect()
    }

    pub(super) fn line_limits(&self) -> Vec<(String, usize)> {
        self.lines.read().iter().map(|(name, line)| (name.clone(), line.limit())).collect()
    }

    pub(super) fn kind_names(&self) -> Vec<String> {
        self.kinds.read().keys().cloned().collect()
    }

    /// Says whether the kind had no handler yet.
    pub(super) fn add_kind(self: &Arc<Self>, name: &str, queue: String, handler: Handler) -> bool {
        let mut kinds = self.kinds.write();
        if kinds.contains_key(name) {
            return false;
        }
        kinds.insert(name.to_owned(), Arc::new(Kind::new(name, queue, handler)));
        drop(kinds);
        if self.is_claiming() {
            self.lines().iter().for_each(|line| line.news(self, None));
        }
        true
    }

    /// A kind without a handler again.
    pub(super) fn remove_kind(&self, name: &str) {
        self.kinds.write().remove(name);
    }

    fn kind(&self, name: &str) -> Option<Arc<Kind>> {
        self.kinds.read().get(name).cloned()
    }

    pub(super) fn handles(&self, kind: &str) -> bool {
        self.kinds.read().contains_key(kind)
    }

    // ---- life

    /// Claims from now on.
    pub(super) fn start(self: &Arc<Self>) -> Result<()> {
        self.open()?;
        for kind in self.kinds.read().values() {
            if self.line(&kind.queue).is_none() {
                return Err(unknown_queue(&kind.queue, &self.line_names()));
            }
        }
        self.owner()?;
        self.tell.adopt();
        if self.phase.compare_exchange(NEW, CLAIMING, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return self.open();
        }
        #[cfg(target_os = "linux")]
        if let Some(state) = &self.state {
            match watch::Watch::start(state.dir(), self) {
                Ok(watch) => {
                    *self.watch.lock() = Some(watch);
                    if self.is_stopped() {
                        drop(self.watch.lock().take());
                    }
                }
                Err(error) => {
                    let why = format!("what other processes enqueue is seen only while this one is at work: {error}");
                    self.tell.warn("l0.jobs", why);
                }
            }
        }
        self.look_at_others();
        if let Err(error) = self.mend_schedules(self.clock.now_by_hand()) {
            self.tell.warn("l0.jobs", format!("schedules are not adjusted to the clock: {error}"));
        }
        self.lines().iter().for_each(|line| line.news(self, None));
        self.look_at_schedules();
        Ok(())
    }

    /// Nothing is begun any more: what was claimed and not begun is given back, what runs may end until `drain`, is then
    /// asked to, and waited for until `until`.
    pub(super) fn stop(self: &Arc<Self>, drain: Instant, until: Instant) {
        self.phase.fetch_max(STOPPING, Ordering::AcqRel);
        #[cfg(target_os = "linux")]
        drop(self.watch.lock().take());
        self.courier.stop(drain);
        let lines = self.lines();
        for line in &lines {
            within(drain, || line.take_back(self, u64::MAX));
            line.wake_all();
        }
        within(drain, || self.interrupt(|run| run.claimed.terms.yields));
        let settled: Vec<_> = lines.iter().map(|line| line.wait_settled(drain)).collect();
        if settled.contains(&false) {
            within(until, || self.interrupt(|_| true));
            lines.iter().for_each(|line| _ = line.wait_settled(until));
        }
        self.phase.store(OVER, Ordering::Release);
        for line in &lines {
            line.wake_all();
            line.join(until);
        }
        self.waiters.tell_all(&Err(JobFailure::Stopped));
        within(until, || self.leave());
    }

    /// Asks handlers to end, and notes that their end is an orderly one.
    fn interrupt(&self, which: impl Fn(&Run) -> bool) {
        let runs: Vec<_> = self.running.lock().values().filter(|run| which(run)).cloned().collect();
        if runs.is_empty() {
            return;
        }
        runs.iter().for_each(|run| run.control.raise(INTERRUPT));
        let notes = runs.iter().map(|run| Note {
            is_interrupted: true,
            progress: run.control.take_news(),
            started_at: Some(run.started_at),
            ..Note::new(run.claimed.lease)
        });
        if self.queue.note(notes.collect()).is_err() {
            // It costs an attempt, should the handler not end.
            runs.iter().for_each(|run| run.control.renew_news());
        }
    }

    /// Whether anything is under a lease of this process.
    fn holds_any(&self) -> bool {
        !self.running.lock().is_empty() || self.lines().iter().any(|line| line.look().is_held())
    }

    /// Is no owner any more, if nothing is held: else others see that by the death of the process.
    fn leave(&self) {
        let Some((id, _)) = self.owner.lock().current else { return };
        if self.holds_any() {
            return;
        }
        let own = self.queue.owners().ok().and_then(|owners| owners.into_iter().find(|owner| owner.id == id));
        if let Some(own) = own {
            let _ = self.queue.rescue(&own, self.clock.now_by_hand());
        }
        self.owner.lock().leave();
        self.owner_now.store(0, Ordering::Release);
    }

    /// As whom this process claims; registered with the first claim.
    fn owner(&self) -> Result<OwnerId> {
        let mut owner = self.owner.lock();
        if let Some((id, _)) = owner.current {
            return Ok(id);
        }
        // What is there may have been put by a clock that has been set back since.
        self.queue.rebase(self.clock.now_by_hand())?;
        let id = self.queue.register(&owner::process(), &self.kind_names())?;
        if let Some(state) = &self.state
            && let Err(error) = owner.hold_lock(state.dir(), id)
        {
            self.tell.warn("l0.jobs", format!("other processes may take this one for dead: {error}"));
        }
        owner.current = Some((id, self.real.elapsed_ns()));
        self.owner_now.store(id.0, Ordering::Release);
        Ok(id)
    }

    /// Whether a lease of this owner is this process's.
    fn is_owner(&self, id: OwnerId) -> bool {
        self.owner_now.load(Ordering::Acquire) == id.0
    }

    // ---- enqueueing

    pub(super) fn enqueue(self: &Arc<Self>, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        self.open()?;
        self.enqueue_now(jobs)
    }

    fn enqueue_now(self: &Arc<Self>, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        let coming = self.coming(&jobs);
        let enqueued = self.queue.enqueue(jobs)?;
        self.came(coming, &enqueued);
        Ok(enqueued)
    }

    /// What is told of jobs when they are in the queue.
    fn coming(&self, jobs: &[NewJob]) -> Coming {
        let mut dues: Vec<(String, Timestamp)> = Vec::new();
        if let Some(job) = jobs.first() {
            self.latest.fetch_max(job.enqueued_at.as_unix_ns(), Ordering::Relaxed);
        }
        for job in jobs {
            match dues.iter_mut().find(|(queue, _)| *queue == job.queue) {
                Some((_, due)) => *due = (*due).min(job.run_at),
                None => dues.push((job.queue.clone(), job.run_at)),
            }
        }
        let of = |job: &NewJob| (job.kind.clone(), job.queue.clone(), job.correlation_id.clone());
        let told: Vec<_> = if self.tell.tells(To::Enqueued) { jobs.iter().map(of).collect() } else { Vec::new() };
        Coming { told, dues }
    }

    /// Jobs are in the queue: that is told, and who may run them hears of it.
    fn came(self: &Arc<Self>, Coming { told, dues }: Coming, enqueued: &[Enqueued]) {
        for (Enqueued { id, .. }, (kind, queue, correlation_id)) in
            enqueued.iter().zip(&told).filter(|(enqueued, _)| enqueued.is_new)
        {
            let (correlation_id, facts) = (correlation_id.as_ref(), Facts { queue, ..Facts::default() });
            self.tell.change(&Change { to: To::Enqueued, id: *id, kind, correlation_id, facts });
        }
        if self.is_claiming() {
            let now = self.clock.now_by_hand();
            for (queue, due) in dues {
                if let Some(line) = self.line(&queue) {
                    line.news(self, (due > now).then_some(due));
                }
            }
        }
    }

    /// The same, without waiting.
    pub(super) fn enqueue_later(self: &Arc<Self>, job: NewJob) -> Result<Receipt> {
        self.open()?;
        Ok(self.courier.take(self, job))
    }

    // ---- asking

    /// Cancels a pending job, or asks a running one to end. Says whether it was not final yet.
    pub(super) fn cancel(self: &Arc<Self>, id: JobId) -> Result<bool> {
        self.open()?;
        match self.queue.cancel(id, self.clock.now_by_hand())? {
            Cancel::Done(ended) => {
                let (correlation_id, kind) = (ended.correlation_id.as_ref(), &ended.kind);
                self.tell.change(&Change { to: To::Cancelled, id, kind, correlation_id, facts: Facts::default() });
                self.waiters.tell(id, &Err(JobFailure::Cancelled));
                self.rounds.ended.fetch_add(1, Ordering::Relaxed);
                self.look_at_schedules();
                Ok(true)
            }
            Cancel::Asked => {
                // A worker moves it from there to here under the line's lock.
                if !self.lines().iter().any(|line| line.cancel_ready(self, id))
                    && let Some(run) = self.run_of(id)
                {
                    run.control.raise(CANCEL);
                }
                Ok(true)
            }
            Cancel::TooLate => Ok(false),
        }
    }

    pub(super) fn retry(self: &Arc<Self>, id: JobId) -> Result<bool> {
        self.open()?;
        let is_retried = self.queue.retry(id, self.clock.now_by_hand())?;
        if is_retried && self.is_claiming() {
            self.lines().iter().for_each(|line| line.news(self, None));
        }
        Ok(is_retried)
    }

    /// A place that is filled when the job is final.
    pub(super) fn wait_for(&self, id: JobId) -> Arc<Place> {
        let place = self.waiters.add(id);
        // First the place, then the look: what ends between them is seen by one of both.
        self.look_up_end(id);
        if self.is_over() || !self.tell.is_open() {
            place.finish(Err(JobFailure::Stopped));
        } else {
            self.stir(Duration::from_secs(1));
        }
        place
    }

    /// Tells who waits for a job if it is final, or is not kept any more.
    fn look_up_end(&self, id: JobId) {
        match self.queue.get(id) {
            Ok(Some(row)) if row.state.is_final() => {
                self.waiters.tell(id, &told(row.state, row.reason, row.error.as_deref(), row.result.as_deref()));
            }
            Ok(None) => {
                let error = format!("the job {id} is not kept any more, or is of another store");
                self.waiters.tell(id, &Err(JobFailure::Failed(error)));
            }
            // Not yet, or it cannot be read now.
            _ => {}
        }
    }

    fn run_of(&self, id: JobId) -> Option<Arc<Run>> {
        self.running.lock().values().find(|run| run.claimed.lease.id == id).cloned()
    }

    /// What a job that runs here says of itself, which the store may not know yet.
    pub(super) fn live(&self, id: JobId) -> Option<Option<Progress>> {
        self.run_of(id).map(|run| run.control.progress())
    }
}

/// Runs `step`, in which SQLite waits for others no longer than until then.
fn within<R>(until: Instant, step: impl FnOnce() -> R) -> R {
    database::waiting_within(until.saturating_duration_since(Instant::now()), step)
}

pub(super) fn unknown_queue(name: &str, known: &[String]) -> Error {
    Error::invalid_input(format!(
        "there is no queue {name:?}: make it with jobs().queue({name:?}, concurrency) before; there are {}",
        known.join(", ")
    ))
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").field("queue", &self.queue).finish_non_exhaustive()
    }
}
