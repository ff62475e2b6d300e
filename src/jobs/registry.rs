//! The jobs of one `L0`: what a program does with them.

use std::{
    fmt,
    future::Future,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::Instant,
};

use serde::Serialize;

use super::{
    BYTES_MAX, DEFAULT_QUEUE,
    cell::Taken,
    checks::{CHECKS_CONCURRENCY, CHECKS_QUEUE},
    context::{JobContext, to_json},
    error::{JobError, SubmitError},
    handle::JobHandle,
    id::JobId,
    job::{Job, JobOptions, When},
    list::{JobQuery, JobStats},
    pool::Pool,
    queue::{Enqueued, Guarded, JobQueue, NewJob, SqliteQueue, Terms},
    row::JobRow,
    runner::{Handler, Parts, Receipt, Runner, unknown_queue},
    tell::Tell,
};
use crate::{
    capture::Capture,
    clock::{Clock, Timestamp, duration_ns},
    config::{Durability, JobEvents, JobHistory},
    correlation,
    error::{Error, Result},
    redaction::Redactor,
    state::State,
    timer::Timer,
};

/// Queues of a program.
const QUEUES_MAX: usize = 1_000;
const CONCURRENCY_MAX: usize = 1_024;
/// Of kinds, queues and unique keys.
const NAME_BYTES_MAX: usize = 128;
const KEY_BYTES_MAX: usize = 1_024;
/// Of the queue of training jobs unless it is made otherwise.
const TRAINING_CONCURRENCY: usize = 1;

/// Jobs of an application, by [`Handle::jobs`](crate::Handle::jobs).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let l0 = l0::builder().dir(dir.path()).start()?;
/// use l0::jobs::Job;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Thumbnail { image: String }
/// impl Job for Thumbnail {
///     const KIND: &'static str = "thumbnail";
///     type Output = u32;
/// }
///
/// let jobs = l0.jobs();
/// jobs.register(|job: Thumbnail, cx| {
///     cx.progress(1, 1, &job.image);
///     Ok(64)
/// })?;
/// jobs.start()?;
/// let thumbnail = jobs.enqueue(Thumbnail { image: "a.png".into() })?; // on the disk
/// let sum = jobs.spawn("sum", |_cx| Ok((1..=10).sum::<u32>()))?;      // in memory
/// assert_eq!((thumbnail.wait()?, sum.wait()?), (64, 55));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Jobs {
    pub(super) runner: Arc<Runner>,
    pool: Pool,
    /// It is prepared for reading with the first question.
    sqlite: Option<Arc<SqliteQueue>>,
}

/// What the builder says of jobs.
pub(crate) struct Settings {
    pub(crate) workers: usize,
    pub(crate) durability: Durability,
    pub(crate) events: JobEvents,
    pub(crate) history: JobHistory,
    /// Instead of that in `state.db`.
    pub(crate) queue: Option<Arc<dyn JobQueue>>,
}

impl Jobs {
    pub(crate) fn new(
        settings: Settings,
        clock: Clock,
        capture: Arc<Capture>,
        redactor: Arc<Redactor>,
        state: Arc<State>,
        timer: Arc<Timer>,
    ) -> Self {
        let tell = Arc::new(Tell::new(capture, redactor, settings.events));
        let pool = Pool::new(clock.clone(), Arc::clone(&tell), settings.workers);
        let state = settings.queue.is_none().then_some(state);
        let sqlite = state.as_ref().map(|state| Arc::new(SqliteQueue::new(Arc::clone(state), settings.durability)));
        let queue = match (&sqlite, settings.queue) {
            (Some(sqlite), _) => Arc::clone(sqlite) as Arc<dyn JobQueue>,
            (None, Some(queue)) => Arc::new(Guarded(queue)),
            (None, None) => Arc::new(super::MemoryQueue::default()),
        };
        let runner = Runner::new(Parts { queue, clock, tell, timer, state, history: settings.history });
        runner.set_line(DEFAULT_QUEUE, settings.workers);
        runner.set_line("training", TRAINING_CONCURRENCY);
        runner.set_line(CHECKS_QUEUE, CHECKS_CONCURRENCY);
        Self { runner, pool, sqlite }
    }

    /// Makes a queue whose jobs run beside those of others, so many at once in this process; or changes how many. `default`
    /// (as many as there are [workers](crate::Builder::workers)) and `training` (one) are there without a word.
    ///
    /// # Errors
    /// `is_invalid_input` for a name or a number that cannot be, `is_closed` after shutdown.
    pub fn queue(&self, name: &str, concurrency: usize) -> Result<()> {
        self.runner.open()?;
        checked("queue", name)?;
        if !(1..=CONCURRENCY_MAX).contains(&concurrency) {
            return Err(Error::invalid_input(format!(
                "the queue {name} cannot run {concurrency} jobs at once: from 1 to {CONCURRENCY_MAX} are possible"
            )));
        }
        if !self.runner.has_line(name) && self.runner.line_names().len() >= QUEUES_MAX {
            return Err(Error::invalid_input(format!(
                "there are {QUEUES_MAX} queues already: use fewer, with priorities"
            )));
        }
        self.runner.set_line(name, concurrency);
        Ok(())
    }

    /// The queues, by name, and how many jobs of each run at once in this process.
    pub fn queues(&self) -> Vec<(String, usize)> {
        self.runner.line_limits()
    }

    /// The kinds that this process has handlers for, by name.
    pub fn kinds(&self) -> Vec<String> {
        self.runner.kind_names()
    }

    /// Says what is done for jobs of a kind. This process claims no others: those of a kind without a handler wait.
    ///
    /// The handler may be called by several threads at once, and again for the same job, after a failure or the death of a
    /// process: what it does should stand being done twice.
    ///
    /// # Errors
    /// `is_invalid_input` if the kind has a handler, or no proper name; `is_closed` after shutdown.
    pub fn register<J: Job>(
        &self,
        handler: impl Fn(J, &JobContext) -> Result<J::Output, JobError> + Send + Sync + 'static,
    ) -> Result<()> {
        self.runner.open()?;
        checked("kind", J::KIND)?;
        let handler: Handler = Box::new(move |payload, cx| {
            let job = match serde_json::from_str::<J>(payload) {
                Ok(job) => job,
                Err(error) => {
                    return Ok(Err(format!("its payload is not what the kind {} is made of: {error}", J::KIND)));
                }
            };
            Ok(to_json("result", &handler(job, cx)?))
        });
        self.add_handler(J::KIND, &J::options().queue, handler)
    }

    pub(super) fn add_handler(&self, kind: &str, queue: &str, handler: Handler) -> Result<()> {
        if self.runner.add_kind(kind, queue.to_owned(), handler) {
            return Ok(());
        }
        Err(Error::invalid_input(format!(
            "jobs of the kind {kind:?} have a handler already: register it once, or give the other type a KIND of its own"
        )))
    }

    /// Begins to run jobs of the registered kinds, and takes over what dead processes have left. Further calls do nothing.
    ///
    /// # Errors
    /// `is_invalid_input` if a registered kind's queue was not made, `is_storage` if the queue cannot be opened, `is_closed`
    /// after shutdown.
    pub fn start(&self) -> Result<()> {
        self.runner.start()
    }

    /// Puts a job into the store; it is there when this returns, as durable as [`Durability`](crate::Durability) says. Blocks
    /// for a commit, ten seconds at most.
    ///
    /// # Errors
    /// `is_invalid_input` for a payload that is no JSON or larger than a MiB, or a queue that was not made; `is_storage` or
    /// `is_timeout` if the store does not take it, and then it is not there; `is_closed` after shutdown.
    pub fn enqueue<J: Job>(&self, job: J) -> Result<JobHandle<J::Output>> {
        self.enqueue_with(job, J::options())
    }

    /// The same, treated otherwise than the kind's options say.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Invoice { order: u64 }
    /// # impl l0::jobs::Job for Invoice { const KIND: &'static str = "invoice"; type Output = (); }
    /// use l0::jobs::{Job, JobOptions};
    /// let options = || JobOptions::default().priority(5).unique("order-9").delay(std::time::Duration::from_secs(60));
    /// let first = l0.jobs().enqueue_with(Invoice { order: 9 }, options())?;
    /// let again = l0.jobs().enqueue_with(Invoice { order: 9 }, options())?;
    /// assert_eq!((first.id(), again.is_new()), (again.id(), false));
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub fn enqueue_with<J: Job>(&self, job: J, options: JobOptions) -> Result<JobHandle<J::Output>> {
        let job = self.prepare(J::KIND, &job, &options)?;
        let enqueued = self.runner.enqueue(vec![job])?;
        let Some(Enqueued { id, is_new }) = enqueued.into_iter().next() else {
            return Err(Error::storage("the queue of jobs did not answer"));
        };
        Ok(JobHandle::durable(id, is_new, Arc::clone(&self.runner)))
    }

    /// Puts jobs into the store in one transaction: all or none.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub fn enqueue_batch<J: Job>(&self, jobs: impl IntoIterator<Item = J>) -> Result<Vec<JobHandle<J::Output>>> {
        let options = J::options();
        let jobs: Vec<_> = jobs.into_iter().map(|job| self.prepare(J::KIND, &job, &options)).collect::<Result<_>>()?;
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let handle = |Enqueued { id, is_new }| JobHandle::durable(id, is_new, Arc::clone(&self.runner));
        Ok(self.runner.enqueue(jobs)?.into_iter().map(handle).collect())
    }

    /// As [`enqueue`](Self::enqueue), for who must not block: a thread of l0's enqueues, and this awaits it, on any executor.
    /// The job is under way when this returns, whether or not the future is polled.
    pub fn enqueue_async<J: Job>(
        &self,
        job: J,
    ) -> impl Future<Output = Result<JobHandle<J::Output>>> + Send + 'static + use<J> {
        let taken = self.prepare(J::KIND, &job, &J::options()).and_then(|job| self.runner.enqueue_later(job));
        let runner = Arc::clone(&self.runner);
        Underway { taken, make: move |Enqueued { id, is_new }| JobHandle::durable(id, is_new, Arc::clone(&runner)) }
    }

    /// Runs a closure on a thread of l0's: in memory, once, and gone with the process. `name` is what telemetry calls it.
    ///
    /// Never blocks. As many run at once as there are [workers](crate::Builder::workers), beside durable jobs; 16,384 may
    /// wait. Needs no [`start`](Self::start).
    ///
    /// # Errors
    /// If as many wait as may, or l0 is shut down.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        f: impl FnOnce(&JobContext) -> Result<T, JobError> + Send + 'static,
    ) -> Result<JobHandle<T>, SubmitError> {
        let (id, job) = self.pool.spawn(name, f)?;
        Ok(JobHandle::in_memory(id, job))
    }

    /// A durable job; `None` if there is none of this id, or not any more. Closures are not rows.
    ///
    /// # Errors
    /// `is_storage` if it cannot be read.
    pub fn get(&self, id: JobId) -> Result<Option<JobRow>> {
        let row = self.readable()?.get(id)?;
        Ok(row.map(|row| self.lively(row)))
    }

    /// Which durable jobs are there? See [`JobQuery`].
    pub fn list(&self) -> JobQuery {
        JobQuery::new(self.readable())
    }

    /// Cancels a durable job by its id, as [`JobHandle::cancel`] does.
    ///
    /// # Errors
    /// As there.
    pub fn cancel(&self, id: JobId) -> Result<bool> {
        self.runner.cancel(id)
    }

    /// Makes a job that failed, or was cancelled, pending again, with all its attempts. Says whether it was one, and its unique
    /// key is free.
    ///
    /// # Errors
    /// `is_storage` if it cannot be changed, `is_closed` after shutdown.
    pub fn retry(&self, id: JobId) -> Result<bool> {
        self.runner.retry(id)
    }

    /// For tests: runs what is due by the clock on this thread, one after the other and with what becomes due by that, until
    /// nothing is; says how many handlers ran. Needs no [`start`](Self::start).
    ///
    /// ```
    /// use std::time::Duration;
    /// # use l0::jobs::{Job, JobError, JobState};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Ping;
    /// # impl Job for Ping { const KIND: &'static str = "ping"; type Output = (); }
    /// let (clock, time) = l0::Clock::manual(l0::Timestamp::now());
    /// # let dir = tempfile::tempdir().unwrap();
    /// let l0 = l0::builder().dir(dir.path()).clock(clock).start()?;
    /// l0.jobs().register(|_: Ping, cx| if cx.attempt() < 2 { Err(JobError::from("no answer")) } else { Ok(()) })?;
    /// let ping = l0.jobs().enqueue(Ping)?;
    /// assert_eq!((l0.jobs().run_due()?, ping.state()?), (1, JobState::Pending));
    /// time.advance(Duration::from_secs(2)); // the pause before its second attempt
    /// assert_eq!((l0.jobs().run_due()?, ping.state()?), (1, JobState::Success));
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// `is_storage` if the queue does not take a step, `is_closed` after shutdown.
    pub fn run_due(&self) -> Result<usize> {
        self.runner.run_due()
    }

    /// Counts by kind and state, what runs, and what waits.
    ///
    /// # Errors
    /// `is_storage` if the queue cannot be read.
    pub fn stats(&self) -> Result<JobStats> {
        let queue = self.readable()?;
        let mut stats = JobStats::of(&*queue, self.runner.clock.now_by_hand(), |kind| self.runner.handles(kind))?;
        stats.running = stats.running.into_iter().map(|row| self.lively(row)).collect();
        stats.spawned = self.pool.stats();
        Ok(stats)
    }

    /// Nothing is begun any more; what runs may end until `drain`, is then asked to, and waited for until `until`.
    pub(crate) fn stop(&self, drain: Instant, until: Instant) {
        self.pool.close();
        thread::scope(|scope| {
            // Both have the same time.
            let beside = thread::Builder::new().spawn_scoped(scope, || self.pool.stop(drain, until));
            self.runner.stop(drain, until);
            if beside.is_err() {
                self.pool.stop(drain, until);
            }
        });
    }

    /// What a job that runs here has said, and the store does not know yet.
    fn lively(&self, mut row: JobRow) -> JobRow {
        if let Some(progress) = self.runner.live(row.id) {
            row.state = super::JobState::Running;
            row.progress = progress.or(row.progress);
        }
        row
    }

    /// The queue, of a version that can be read.
    pub(super) fn readable(&self) -> Result<Arc<dyn JobQueue>> {
        if let Some(sqlite) = &self.sqlite {
            sqlite.prepare()?;
        }
        Ok(Arc::clone(&self.runner.queue))
    }

    /// A job of this kind and payload, as it is put into the queue.
    pub(super) fn prepare(&self, kind: &str, payload: &impl Serialize, options: &JobOptions) -> Result<NewJob> {
        self.runner.open()?;
        checked("kind", kind)?;
        if !self.runner.has_line(&options.queue) {
            return Err(unknown_queue(&options.queue, &self.runner.line_names()));
        }
        if let Some(key) = &options.unique
            && (key.is_empty() || key.len() > KEY_BYTES_MAX)
        {
            let bytes = key.len();
            return Err(Error::invalid_input(format!(
                "a unique key has 1 to {KEY_BYTES_MAX} bytes, not {bytes}: use a hash of it"
            )));
        }
        let payload = to_json("payload", payload).map_err(|why| Error::invalid_input(format!("{kind}: {why}")))?;
        debug_assert!(payload.len() <= BYTES_MAX);
        let now = self.runner.clock.now_by_hand();
        let after = |from: Timestamp, d| Timestamp::from_unix_ns(from.as_unix_ns().saturating_add(duration_ns(d)));
        let run_at = match options.when {
            When::Now => now,
            When::At(at) => at,
            When::In(delay) => after(now, delay),
        };
        Ok(NewJob {
            kind: kind.to_owned(),
            queue: options.queue.clone(),
            priority: options.priority,
            payload,
            enqueued_at: now,
            run_at,
            is_named: matches!(options.when, When::At(_)),
            terms: Terms {
                max_attempts: options.max_attempts,
                backoff: options.backoff,
                timeout: options.timeout,
                start_by: options.start_within.map(|within| after(run_at, within)),
                yields: options.yields,
            },
            unique: options.unique.clone(),
            correlation_id: correlation::current(),
            schedule: None,
            scheduled_for: None,
        })
    }
}

/// Reads the jobs of a store from outside, live or dead, without writing to it. See [`Jobs`] for what is asked.
#[derive(Debug)]
pub struct JobReader {
    pub(super) queue: Arc<SqliteQueue>,
    pub(super) clock: Clock,
}

impl JobReader {
    /// Of the store in this directory, which may have no jobs.
    pub fn open(dir: impl AsRef<Path>) -> Self {
        let state = Arc::new(State::new(dir.as_ref()));
        Self { queue: Arc::new(SqliteQueue::new(state, Durability::Full)), clock: Clock::system() }
    }

    /// As [`Jobs::get`].
    ///
    /// # Errors
    /// `is_storage` if it cannot be read.
    pub fn get(&self, id: JobId) -> Result<Option<JobRow>> {
        if self.queue.has_none()? { Ok(None) } else { self.queue.get(id) }
    }

    /// As [`Jobs::list`].
    pub fn list(&self) -> JobQuery {
        let queue: Result<Arc<dyn JobQueue>> = match self.queue.has_none() {
            Ok(true) => Ok(Arc::new(super::MemoryQueue::default())),
            Ok(false) => Ok(Arc::clone(&self.queue) as Arc<dyn JobQueue>),
            Err(error) => Err(error),
        };
        JobQuery::new(queue)
    }

    /// As [`Jobs::stats`]; a kind waits for a handler if no process that claims jobs had one when it started. One that has been
    /// idle for half a minute beside others is not known until it is at work again.
    ///
    /// # Errors
    /// `is_storage` if it cannot be read.
    pub fn stats(&self) -> Result<JobStats> {
        if self.queue.has_none()? {
            return Ok(JobStats::none(self.clock.now_by_hand()));
        }
        let handled: Vec<String> = self.queue.owners()?.into_iter().flat_map(|owner| owner.kinds).collect();
        JobStats::of(&*self.queue, self.clock.now_by_hand(), |kind| handled.iter().any(|handled| handled == kind))
    }
}

pub(super) fn checked(what: &str, name: &str) -> Result<()> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let shown: String = name.chars().take(40).collect();
    Err(Error::invalid_input(format!(
        "{shown:?} is no name of a {what}: use 1 to {NAME_BYTES_MAX} bytes without control characters"
    )))
}

/// A job on its way into the store.
struct Underway<F> {
    taken: Result<Receipt>,
    make: F,
}

impl<T, F: Fn(Enqueued) -> JobHandle<T> + Unpin> Future for Underway<F> {
    type Output = Result<JobHandle<T>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &self.taken {
            Err(error) => Poll::Ready(Err(error.clone())),
            Ok(receipt) => receipt.poll_take(cx).map(|enqueued| match enqueued {
                Ok(enqueued) => enqueued.map(&self.make),
                Err(Taken) => Err(Error::invalid_input("this future was ready before: await it once")),
            }),
        }
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("runner", &self.runner).finish_non_exhaustive()
    }
}
