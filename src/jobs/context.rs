//! What a handler is given: who it is, whether it is to end, and where it says how far it is.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    BYTES_MAX,
    error::{Ending, JobError},
    id::{JobId, Reason},
    queue::{JobQueue, Lease, Note, Progress},
};
use crate::{
    clock::{Clock, Timestamp},
    correlation::CorrelationId,
};

/// What a handler knows of its job, and says of it.
///
/// A handler that takes long looks at [`check`](Self::check) now and then: it fails when somebody has cancelled the job, when
/// its time is over, and when the program shuts down and the job should yield.
pub struct JobContext {
    pub(super) id: JobId,
    pub(super) attempt: u32,
    pub(super) correlation_id: Option<CorrelationId>,
    pub(super) scheduled_for: Option<Timestamp>,
    pub(super) control: Arc<dyn Controlled>,
    /// Where a durable job's checkpoints go.
    pub(super) durable: Option<(Arc<dyn JobQueue>, Lease)>,
}

/// What others tell a running job, and what it tells others.
#[derive(Debug)]
pub(super) struct Control {
    clock: Clock,
    flags: AtomicU8,
    /// By the clock's monotonic time; `u64::MAX` for never.
    deadline_ns: AtomicU64,
    progress: Mutex<Option<Progress>>,
    /// It said something of its progress that is not written yet.
    has_news: AtomicBool,
    checkpoint: Mutex<Option<String>>,
}

/// What has a control: itself, or a closure in memory, whose is a part of it.
pub(super) trait Controlled: Send + Sync {
    fn control(&self) -> &Control;
}

impl Controlled for Control {
    fn control(&self) -> &Control {
        self
    }
}

/// Somebody wants it to end.
pub(super) const CANCEL: u8 = 1;
/// Its process is to end.
pub(super) const INTERRUPT: u8 = 2;
/// Its time is over.
pub(super) const TIMED_OUT: u8 = 4;
/// Another has it.
pub(super) const LOST: u8 = 8;

impl Control {
    pub(super) fn new(clock: Clock, deadline_ns: u64, checkpoint: Option<String>) -> Self {
        Self {
            clock,
            flags: AtomicU8::new(0),
            deadline_ns: AtomicU64::new(deadline_ns),
            progress: Mutex::default(),
            has_news: AtomicBool::new(false),
            checkpoint: Mutex::new(checkpoint),
        }
    }

    pub(super) fn raise(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
    }

    /// What holds now; time is looked at, too, so that no thread need be in time to tell it.
    pub(super) fn flags(&self) -> u8 {
        let deadline_ns = self.deadline_ns.load(Ordering::Relaxed);
        if deadline_ns != u64::MAX && self.clock.elapsed_ns() >= deadline_ns {
            self.raise(TIMED_OUT);
        }
        self.flags.load(Ordering::Acquire)
    }

    pub(super) fn progress(&self) -> Option<Progress> {
        self.progress.lock().clone()
    }

    /// What is to be written of its progress.
    pub(super) fn take_news(&self) -> Option<Progress> {
        self.has_news.swap(false, Ordering::AcqRel).then(|| self.progress()).flatten()
    }

    /// What was taken was not written.
    pub(super) fn renew_news(&self) {
        if self.progress.lock().is_some() {
            self.has_news.store(true, Ordering::Release);
        }
    }

    pub(super) fn has_news(&self) -> bool {
        self.has_news.load(Ordering::Acquire)
    }
}

impl JobContext {
    /// The job's id.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The how manieth attempt this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether the handler should end: [`check`](Self::check) says why.
    pub fn is_cancelled(&self) -> bool {
        self.control.control().flags() != 0
    }

    /// Fails if the handler should end; meant to be passed on with `?`, which leaves what becomes of the job to l0: cancelled,
    /// timed out, or, where the program shuts down, pending for another process at no cost of an attempt.
    ///
    /// ```
    /// use l0::jobs::{JobContext, JobError};
    /// fn crunch(parts: &[u64], cx: &JobContext) -> Result<u64, JobError> {
    ///     let mut sum = 0;
    ///     for (done, part) in parts.iter().enumerate() {
    ///         cx.check()?;
    ///         sum += part;
    ///         cx.progress(done as u64 + 1, parts.len() as u64, "summing");
    ///     }
    ///     Ok(sum)
    /// }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// assert_eq!(l0.jobs().spawn("crunch", |cx| crunch(&[1, 2, 3], cx))?.wait()?, 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If the handler should end.
    pub fn check(&self) -> Result<(), JobError> {
        let flags = self.control.control().flags();
        let ending = match flags {
            0 => return Ok(()),
            _ if flags & LOST != 0 => Ending::LeaseLost,
            _ if flags & CANCEL != 0 => Ending::Cancelled,
            _ if flags & TIMED_OUT != 0 => Ending::TimedOut,
            _ => Ending::Interrupted,
        };
        Err(JobError(ending))
    }

    /// Says how far the job is: so much of so much (0 if nobody knows), and what it is at. Cheap: the store hears of it twice a
    /// second at most, and of the last at the job's end.
    pub fn progress(&self, done: u64, total: u64, message: &str) {
        let mut progress = self.control.control().progress.lock();
        match &mut *progress {
            Some(said) => {
                (said.done, said.total) = (done, total);
                message.clone_into(&mut said.message);
            }
            None => *progress = Some(Progress::new(done, total, message)),
        }
        drop(progress);
        self.control.control().has_news.store(true, Ordering::Release);
    }

    /// Keeps what the next attempt may begin with: it is in the store when this returns, as durable as jobs are. Of a closure
    /// in memory it is kept in memory.
    ///
    /// # Errors
    /// If it is no JSON or larger than a MiB (the job fails), if it cannot be written, or if another process has the job by now,
    /// because this one seemed to be dead: end then, nothing of this attempt counts any more.
    pub fn checkpoint(&self, state: &impl Serialize) -> Result<(), JobError> {
        let json = to_json("checkpoint", state).map_err(JobError::fatal)?;
        if let Some((queue, lease)) = &self.durable {
            let control = self.control.control();
            let note = Note { checkpoint: Some(json.clone()), progress: control.take_news(), ..Note::new(*lease) };
            let noted = queue.note(vec![note]).inspect_err(|_| control.renew_news())?;
            if noted != [true] {
                self.control.control().raise(LOST);
                return Err(JobError(Ending::LeaseLost));
            }
        }
        *self.control.control().checkpoint.lock() = Some(json);
        Ok(())
    }

    /// What was kept by the latest [`checkpoint`](Self::checkpoint), of this attempt or an earlier one.
    ///
    /// # Errors
    /// If it is not of this type: the job fails, for a further attempt would find the same.
    pub fn resume<T: DeserializeOwned>(&self) -> Result<Option<T>, JobError> {
        let checkpoint = self.control.control().checkpoint.lock();
        let Some(json) = &*checkpoint else { return Ok(None) };
        serde_json::from_str(json).map(Some).map_err(|error| {
            let error = format!("its checkpoint is not what this program keeps: {error}");
            JobError(Ending::Fatal { error, reason: Reason::Undecodable })
        })
    }

    /// What the job belongs to: the correlation id in force where it was enqueued.
    pub fn correlation_id(&self) -> Option<&CorrelationId> {
        self.correlation_id.as_ref()
    }

    /// The moment of a schedule that it is for.
    pub fn scheduled_for(&self) -> Option<Timestamp> {
        self.scheduled_for
    }
}

impl fmt::Debug for JobContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobContext").field("id", &self.id).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

/// What a job keeps, as JSON of bounded size.
pub(super) fn to_json(what: &str, value: &impl Serialize) -> Result<String, String> {
    match serde_json::to_string(value) {
        Ok(json) if json.len() <= BYTES_MAX => Ok(json),
        Ok(json) => Err(format!(
            "the {what} has {} bytes of JSON, more than {BYTES_MAX}: keep it in a file or a table, and its name in the job",
            json.len()
        )),
        Err(error) => Err(format!("the {what} does not become JSON: {error}")),
    }
}
