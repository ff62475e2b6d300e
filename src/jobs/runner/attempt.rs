//! One attempt of a durable job: from what was claimed to what is to be settled.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    super::{
        context::{Control, Controlled, JobContext, TIMED_OUT},
        error::JobError,
        id::Reason,
        outcome::{Attempt, End, decide},
        panic::catch,
        queue::{Claimed, Outcome, Settle},
        tell::{self, Change, Facts, To, ms},
    },
    Runner,
    line::Line,
};
use crate::clock::{Timestamp, duration_ns};

/// Kinds whose jobs take less than this are claimed ahead.
const QUICK_NS: u64 = 100_000;
/// Before that is known, so many must have run.
const SAMPLES: u64 = 4;
/// How long a handler has to end when its time is over, at most.
const GRACE_MAX: Duration = Duration::from_secs(5);

/// Decodes a payload, runs the handler, encodes its result; says in the first error that one of both could not be.
pub(in crate::jobs) type Handler =
    Box<dyn Fn(&str, &JobContext) -> Result<Result<String, String>, JobError> + Send + Sync>;

/// A kind of jobs that this process can run.
pub(super) struct Kind {
    pub(super) name: String,
    pub(super) queue: String,
    pub(super) handler: Handler,
    /// How long they take: a moving average, and of how many.
    average_ns: AtomicU64,
    samples: AtomicU64,
}

impl Kind {
    pub(super) fn new(name: &str, queue: String, handler: Handler) -> Self {
        Self { name: name.to_owned(), queue, handler, average_ns: AtomicU64::new(0), samples: AtomicU64::new(0) }
    }

    /// Whether its jobs are so short that to claim each costs more than to run it.
    pub(super) fn is_quick(&self) -> bool {
        self.samples.load(Ordering::Relaxed) >= SAMPLES && self.average_ns.load(Ordering::Relaxed) < QUICK_NS
    }

    fn took(&self, ns: u64) {
        let before = self.average_ns.load(Ordering::Relaxed);
        let samples = self.samples.fetch_add(1, Ordering::Relaxed);
        let average = if samples == 0 { ns } else { before - before / 8 + ns / 8 };
        self.average_ns.store(average, Ordering::Relaxed);
    }
}

/// A handler that runs.
pub(super) struct Run {
    pub(super) claimed: Claimed,
    pub(super) line: Arc<Line>,
    pub(super) control: Arc<Control>,
    pub(super) started_at: Timestamp,
    pub(super) started_ns: u64,
    /// When it is given up, by the clock's monotonic time.
    pub(super) give_up_ns: u64,
    /// Its beginning is written, which of one that was claimed ahead it is not at first.
    pub(super) is_noted: AtomicBool,
    /// It runs on a worker of its line, and not on the thread of a test.
    pub(super) is_on_worker: bool,
}

/// What an attempt came to, and what is told of it when that is committed.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) settle: Settle,
    pub(super) claimed: Claimed,
    run_time: Option<Duration>,
    queue_wait: Duration,
}

impl Runner {
    /// A handler is about to run: from here on it can be told to end.
    pub(super) fn begin(self: &Arc<Self>, line: &Arc<Line>, claimed: Claimed, is_on_worker: bool) -> Arc<Run> {
        let (started_at, started_ns) = (self.clock.now_by_hand(), self.clock.elapsed_ns());
        let timeout = claimed.terms.timeout;
        let deadline_ns = timeout.map_or(u64::MAX, |timeout| started_ns.saturating_add(ns(timeout)));
        let give_up_ns = timeout.map_or(u64::MAX, |timeout| deadline_ns.saturating_add(ns(timeout.min(GRACE_MAX))));
        let control = Arc::new(Control::new(self.clock.clone(), deadline_ns, claimed.checkpoint.clone()));
        let run = Arc::new(Run {
            is_noted: AtomicBool::new(!claimed.is_ahead),
            claimed,
            line: Arc::clone(line),
            control,
            started_at,
            started_ns,
            give_up_ns,
            is_on_worker,
        });
        self.running.lock().insert(run.claimed.lease, Arc::clone(&run));
        run
    }

    /// A handler has ended, or is given up; says whether this is the first to say so.
    pub(super) fn end(&self, run: &Run) -> bool {
        self.running.lock().remove(&run.claimed.lease).is_some()
    }

    /// Runs what was begun. `None` if it was given up meanwhile: others have settled it.
    pub(super) fn run(self: &Arc<Self>, run: &Arc<Run>, is_more_done: bool) -> Option<Done> {
        let claimed = &run.claimed;
        let Some(kind) = self.kind(&claimed.kind) else {
            return self.end(run).then(|| Done::unstarted(claimed.clone(), run.started_at));
        };
        let context = JobContext {
            id: claimed.lease.id,
            attempt: claimed.attempt,
            correlation_id: claimed.correlation_id.clone(),
            scheduled_for: claimed.scheduled_for,
            control: Arc::clone(&run.control) as Arc<dyn Controlled>,
            durable: Some((Arc::clone(&self.queue), claimed.lease)),
        };
        self.stir_for(run, is_more_done);
        let queue_wait = wait(claimed, run.started_at);
        let span = tell::Attempt {
            id: claimed.lease.id,
            kind: &kind.name,
            number: claimed.attempt,
            queue_wait,
            correlation_id: claimed.correlation_id.as_ref(),
        };
        let inside = || {
            let facts = Facts { queue_wait_ms: Some(ms(queue_wait)), ..self.facts(&run.line, claimed) };
            self.change(To::Started, claimed, facts);
            let ran = catch(|| (kind.handler)(&claimed.payload, &context));
            let is_failed = !matches!(ran, Ok(Ok(Ok(_))));
            (ran, is_failed)
        };
        // A layer of the application's may panic as well as a handler.
        let ran = catch(|| self.tell.inside(&span, inside)).unwrap_or_else(Err);
        let run_ns = self.clock.elapsed_ns().saturating_sub(run.started_ns);
        kind.took(run_ns);
        if !self.end(run) {
            return None;
        }
        let end = match ran {
            Ok(Ok(Ok(result))) => End::Returned(result),
            Ok(Ok(Err(undecodable))) => End::Undecodable(undecodable),
            Ok(Err(error)) => End::Failed(error),
            Err(panic) => End::Panicked(panic),
        };
        let at = self.clock.now_by_hand();
        let attempt = Attempt {
            attempt: claimed.attempt,
            terms: &claimed.terms,
            flags: run.control.flags(),
            now: at,
            chance: chance(),
        };
        let outcome = decide(end, &attempt).map(|outcome| self.without_secrets(outcome));
        // Its lease is void, so this changes nothing, and it is told that it was lost.
        let lost = Outcome::Again { reason: Reason::None, error: None, run_at: at, counts: true };
        Some(run.done(at, Duration::from_nanos(run_ns), outcome.unwrap_or(lost)))
    }

    /// What becomes of a job whose handler did not end in time: it fails for good, since another attempt would run beside it.
    pub(super) fn given_up(&self, run: &Run) -> Done {
        run.control.raise(TIMED_OUT);
        let timeout = run.claimed.terms.timeout.unwrap_or_default();
        let error = format!(
            "it took longer than its timeout of {timeout:?} and did not end when it was asked to; it is not tried again beside itself"
        );
        let run_time = Duration::from_nanos(self.clock.elapsed_ns().saturating_sub(run.started_ns));
        run.done(self.clock.now_by_hand(), run_time, Outcome::Failed { reason: Reason::TimedOut, error })
    }

    fn without_secrets(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Failed { reason, error } => Outcome::Failed { reason, error: self.tell.redacted(error) },
            Outcome::Again { reason, error, run_at, counts } => {
                Outcome::Again { reason, error: error.map(|error| self.tell.redacted(error)), run_at, counts }
            }
            outcome => outcome,
        }
    }

    fn facts<'c>(&self, line: &'c Line, claimed: &'c Claimed) -> Facts<'c> {
        Facts {
            queue: &line.name,
            attempt: claimed.attempt,
            max_attempts: claimed.terms.max_attempts,
            ..Facts::default()
        }
    }

    fn change(&self, to: To, claimed: &Claimed, facts: Facts<'_>) {
        if self.tell.tells(to) {
            let correlation_id = claimed.correlation_id.as_ref();
            self.tell.change(&Change { to, id: claimed.lease.id, kind: &claimed.kind, correlation_id, facts });
        }
    }

    /// Tells what an attempt came to.
    pub(super) fn tell_done(&self, line: &Line, done: &Done, to: To) {
        if !self.tell.tells(to) {
            return;
        }
        let (error, retry_in) = match &done.settle.outcome {
            Outcome::Failed { error, .. } => (Some(error.as_str()), None),
            Outcome::Again { error, run_at, .. } => {
                let ahead_ns = run_at.as_unix_ns().saturating_sub(done.settle.at.as_unix_ns());
                (error.as_deref(), Some(Duration::from_nanos(u64::try_from(ahead_ns).unwrap_or(0))))
            }
            _ => (None, None),
        };
        let facts = Facts {
            queue_wait_ms: Some(ms(done.queue_wait)),
            run_ms: done.run_time.map(ms),
            retry_in_ms: retry_in.filter(|_| matches!(to, To::Again(_))).map(ms),
            error,
            ..self.facts(line, &done.claimed)
        };
        self.change(to, &done.claimed, facts);
    }
}

impl Run {
    fn done(&self, at: Timestamp, run_time: Duration, outcome: Outcome) -> Done {
        Done {
            settle: Settle {
                lease: self.claimed.lease,
                started_at: Some(self.started_at),
                at,
                progress: self.control.progress(),
                outcome,
            },
            run_time: Some(run_time),
            queue_wait: wait(&self.claimed, self.started_at),
            claimed: self.claimed.clone(),
        }
    }
}

impl Done {
    /// What was claimed and not begun is given back, at no cost.
    pub(super) fn unstarted(claimed: Claimed, at: Timestamp) -> Self {
        let run_at = claimed.run_at.min(at);
        Self::unrun(claimed, at, Outcome::Again { reason: Reason::None, error: None, run_at, counts: false })
    }

    /// What was claimed and not begun is not wanted any more.
    pub(super) fn cancelled(claimed: Claimed, at: Timestamp) -> Self {
        Self::unrun(claimed, at, Outcome::Cancelled)
    }

    fn unrun(claimed: Claimed, at: Timestamp, outcome: Outcome) -> Self {
        let settle = Settle { lease: claimed.lease, started_at: None, at, progress: None, outcome };
        Self { settle, queue_wait: wait(&claimed, at), claimed, run_time: None }
    }

    /// Whether a handler was at it.
    pub(super) fn was_run(&self) -> bool {
        self.run_time.is_some()
    }
}

fn wait(claimed: &Claimed, at: Timestamp) -> Duration {
    let ns = at.as_unix_ns().saturating_sub(claimed.run_at.as_unix_ns());
    Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}

fn ns(d: Duration) -> u64 {
    duration_ns(d).unsigned_abs()
}

/// From 0 to 1, by the generator that ids are made with.
fn chance() -> f64 {
    (uuid::Uuid::new_v4().as_u128() >> 96) as f64 / f64::from(u32::MAX)
}
