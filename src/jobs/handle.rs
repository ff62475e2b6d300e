//! A job that was given to l0, for who gave it: its state, its outcome, its end.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::{
    cell::Taken,
    error::JobFailure,
    id::{JobId, JobState},
    queue::Progress,
    runner::{Ended, Place, Runner},
    spawned::InMemory,
};
use crate::{
    clock::deadline,
    error::{Error, Result},
};

/// A job, and the way to its outcome. Dropping it cancels nothing.
///
/// It is a future, too, that any executor may poll.
pub struct JobHandle<T> {
    id: JobId,
    is_new: bool,
    way: Way<T>,
}

enum Way<T> {
    Memory(Arc<dyn InMemory<T>>),
    Durable {
        runner: Arc<Runner>,
        /// Made when somebody waits, and again for who waits after the outcome was taken.
        place: Mutex<Option<Arc<Place>>>,
        decode: fn(&str) -> Result<T, String>,
    },
}

impl<T> JobHandle<T> {
    pub(super) fn in_memory(id: JobId, job: Arc<dyn InMemory<T>>) -> Self {
        Self { id, is_new: true, way: Way::Memory(job) }
    }

    pub(super) fn durable(id: JobId, is_new: bool, runner: Arc<Runner>) -> Self
    where
        T: DeserializeOwned,
    {
        let decode = |json: &str| serde_json::from_str(json).map_err(|error| error.to_string());
        Self { id, is_new, way: Way::Durable { runner, place: Mutex::default(), decode } }
    }

    /// The job's id.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Whether this call made the job; false if it found another with the same [unique](super::JobOptions::unique) key.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// How the job stands.
    ///
    /// # Errors
    /// `is_storage` if a durable job cannot be read, `is_invalid_input` if it is not kept any more.
    pub fn state(&self) -> Result<JobState> {
        match &self.way {
            Way::Memory(job) => Ok(job.state()),
            Way::Durable { runner, .. } if runner.live(self.id).is_some() => Ok(JobState::Running),
            Way::Durable { runner, .. } => match runner.queue.get(self.id)? {
                Some(row) => Ok(row.state),
                None => Err(Error::invalid_input(format!("the job {} is not kept any more", self.id))),
            },
        }
    }

    /// Waits for the outcome, however long that takes: until the job is final, or l0 is shut down.
    ///
    /// A handler that waits for a job of its own queue may wait for ever, if all its workers do.
    ///
    /// # Errors
    /// Why there is no result.
    pub fn wait(self) -> Result<T, JobFailure> {
        let outcome = self.take_until(None);
        outcome.unwrap_or(Err(JobFailure::Stopped))
    }

    /// Waits for the outcome, at most so long; `None` if it is not there then. Of a closure the outcome is given once.
    pub fn wait_timeout(&self, d: Duration) -> Option<Result<T, JobFailure>> {
        self.take_until(Some(deadline(d)))
    }

    fn take_until(&self, until: Option<Instant>) -> Option<Result<T, JobFailure>> {
        match &self.way {
            Way::Memory(job) => job.take_until(until),
            Way::Durable { runner, place, decode } => {
                let known = Arc::clone(place.lock().get_or_insert_with(|| runner.wait_for(self.id)));
                let ended = known.take_until(until)?;
                *place.lock() = None;
                match ended {
                    Ok(ended) => Some(read(ended, *decode)),
                    // Another thread waited through this handle, too.
                    Err(Taken) => self.take_until(until),
                }
            }
        }
    }

    /// Cancels the job if it is pending. One that runs is asked to end: it is cancelled when its handler heeds
    /// [`JobContext::check`](super::JobContext::check), and succeeds if it is done before. Says whether it was not final yet.
    ///
    /// # Errors
    /// `is_storage` if a durable job cannot be changed, `is_closed` after shutdown.
    pub fn cancel(&self) -> Result<bool> {
        match &self.way {
            Way::Memory(job) => Ok(job.cancel()),
            Way::Durable { runner, .. } => runner.cancel(self.id),
        }
    }

    /// How far the job said to be, if it said anything; of one that another process runs, half a second late.
    pub fn progress(&self) -> Option<Progress> {
        match &self.way {
            Way::Memory(job) => job.progress(),
            Way::Durable { runner, .. } => match runner.live(self.id) {
                Some(Some(progress)) => Some(progress),
                _ => runner.queue.get(self.id).ok().flatten()?.progress,
            },
        }
    }
}

fn read<T>(ended: Ended, decode: fn(&str) -> Result<T, String>) -> Result<T, JobFailure> {
    decode(&ended?)
        .map_err(|error| JobFailure::Undecodable(format!("its result is not what this program knows: {error}")))
}

// Nothing in it is pinned.
impl<T> Unpin for JobHandle<T> {}

impl<T> Future for JobHandle<T> {
    type Output = Result<T, JobFailure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &self.way {
            Way::Memory(job) => job.poll_take(cx),
            Way::Durable { runner, place, decode } => {
                let known = Arc::clone(place.lock().get_or_insert_with(|| runner.wait_for(self.id)));
                known.poll_take(cx).map(|ended| {
                    *place.lock() = None;
                    ended.map_or(Err(JobFailure::Stopped), |ended| read(ended, *decode))
                })
            }
        }
    }
}

impl<T> fmt::Debug for JobHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobHandle").field("id", &self.id).finish_non_exhaustive()
    }
}
