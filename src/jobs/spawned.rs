//! One closure in memory, from its coming to its outcome: what its handle and the pool see of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use smol_str::SmolStr;

use super::{
    cell::{Cell, Stage, Taken},
    context::{CANCEL, Control, Controlled, INTERRUPT, JobContext, TIMED_OUT},
    error::{Ending, JobError, JobFailure},
    id::{JobId, JobState, Reason},
    panic::{catch, discard},
    pool::{Home, Task},
    queue::Progress,
    tell::{Attempt, Change, Facts, To, ms},
};
use crate::{
    clock::duration_ns,
    correlation::{self, CorrelationId},
};

/// What a handle sees of a closure.
pub(super) trait InMemory<T>: Send + Sync {
    fn take_until(&self, until: Option<Instant>) -> Option<Result<T, JobFailure>>;
    fn poll_take(&self, context: &mut Context<'_>) -> Poll<Result<T, JobFailure>>;
    fn state(&self) -> JobState;
    fn cancel(&self) -> bool;
    fn progress(&self) -> Option<Progress>;
}

/// A closure, from its coming to its outcome.
pub(super) struct Spawned<T, F> {
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

impl<T, F> Spawned<T, F> {
    pub(super) fn new(home: &Arc<Home>, id: JobId, name: &str, came_ns: u64, work: F) -> Self {
        Self {
            home: Arc::clone(home),
            id,
            name: SmolStr::new(name),
            correlation_id: correlation::current(),
            came_ns,
            control: Control::new(home.clock.clone(), u64::MAX, None),
            ended: AtomicU8::new(JobState::Pending as u8),
            cell: Cell::new(work),
        }
    }

    /// It will not be run. Says whether it was not begun.
    pub(super) fn call_off(&self) -> bool {
        self.cell.call_off(Err(JobFailure::Stopped))
    }

    /// Its final state is told once.
    fn end_as(&self, state: JobState) -> bool {
        let pending = JobState::Pending as u8;
        self.ended.compare_exchange(pending, state as u8, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

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
        if self.end_as(state) {
            self.cell.finish(outcome);
        } else {
            // Nobody waits for it any more.
            discard(outcome);
        }
    }

    fn stop(&self) {
        self.call_off();
    }

    fn interrupt(&self) {
        self.control.raise(INTERRUPT);
    }

    fn abandon(&self) {
        if self.end_as(JobState::Failed) {
            self.cell.finish(Err(JobFailure::Stopped));
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
