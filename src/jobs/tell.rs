//! What is told of jobs: each change of state is an event, and a run is a span that goes on where the job was enqueued.

use std::{fmt, sync::Arc, sync::OnceLock, time::Duration};

use serde::Serialize;
use tracing::{Dispatch, dispatcher};

use super::id::{JobId, Reason};
use crate::{
    capture::Capture,
    config::JobEvents,
    correlation::{self, CorrelationId},
    event::{Severity, TelemetryEvent},
    query::human_duration,
    redaction::Redactor,
};

/// The target of spans, and the source of events.
const SOURCE: &str = "l0.jobs";

pub(super) struct Tell {
    capture: Arc<Capture>,
    redactor: Arc<Redactor>,
    events: JobEvents,
    /// Of the thread that started jobs, if it was of that thread alone: handlers then record as that one did.
    dispatch: OnceLock<Option<Dispatch>>,
}

/// One change of a job's state.
#[derive(Debug)]
pub(super) struct Change<'c> {
    pub(super) to: To,
    pub(super) id: JobId,
    pub(super) kind: &'c str,
    /// What it belongs to; else a durable job is a trace of its own, and a closure belongs to the span it runs in.
    pub(super) correlation_id: Option<&'c CorrelationId>,
    pub(super) facts: Facts<'c>,
}

/// What a job became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    Enqueued,
    Started,
    Succeeded,
    Failed(Reason),
    Cancelled,
    /// Pending again, for this reason.
    Again(Reason),
    /// Another has it: what this attempt did is not kept.
    LeaseLost,
}

/// The payload of an event.
#[derive(Serialize)]
struct Payload<'c> {
    job_id: &'c str,
    kind: &'c str,
    #[serde(flatten)]
    facts: &'c Facts<'c>,
}

/// What is known of it where it happens. Times are milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Facts<'c> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) queue: &'c str,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) attempt: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) max_attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue_wait_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) run_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retry_in_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<&'c str>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// As an event's payload has it.
pub(super) fn ms(d: Duration) -> f64 {
    d.as_nanos() as f64 / 1e6
}

impl Tell {
    pub(super) fn new(capture: Arc<Capture>, redactor: Arc<Redactor>, events: JobEvents) -> Self {
        Self { capture, redactor, events, dispatch: OnceLock::new() }
    }

    /// Whether l0 was not shut down, and this is no forked child, in which locks stand as they did in the parent.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.capture.is_open()
    }

    /// Handlers record as this thread does.
    pub(super) fn adopt(&self) {
        self.dispatch.get_or_init(|| {
            let current = dispatcher::get_default(Dispatch::clone);
            // The process's own is every thread's; to name it anyway would slow all of them down.
            format!("{current:?}").starts_with("Dispatch::Scoped").then_some(current)
        });
    }

    /// An error without the secrets in it, as it is kept and told.
    pub(super) fn redacted(&self, error: String) -> String {
        self.redactor.text(&error).unwrap_or(error)
    }

    pub(super) fn warn(&self, event_type: &str, message: String) {
        self.capture.warn(event_type, message);
    }

    /// Whether such a change is told.
    pub(super) fn tells(&self, to: To) -> bool {
        self.tells_severity(to.severity())
    }

    /// The same of a schedule's changes.
    pub(super) fn tells_severity(&self, severity: Severity) -> bool {
        match self.events {
            JobEvents::All => true,
            JobEvents::Failures => severity >= Severity::Warning,
            JobEvents::Off => false,
        }
    }

    /// Names of kinds, queues and schedules are the program's, and errors have lost their secrets before.
    pub(super) fn direct(&self, mut event: TelemetryEvent) {
        event.is_clean = true;
        self.capture.direct(&event);
    }

    /// Whether runs are spans.
    pub(super) fn has_spans(&self) -> bool {
        self.events != JobEvents::Off
    }

    pub(super) fn change(&self, change: &Change<'_>) {
        if !self.tells(change.to) {
            return;
        }
        let Change { to, id, kind, correlation_id, facts } = change;
        let mut buffer = uuid::Uuid::encode_buffer();
        let id_text: &str = id.as_uuid().hyphenated().encode_lower(&mut buffer);
        let run_time = facts.run_ms.map(|ms| Duration::from_secs_f64(ms.max(0.0) / 1e3));
        let mut message = format!("{kind} {}", to.phrase());
        if let Some(run_time) = run_time.filter(|_| *to == To::Succeeded) {
            message.push_str(&format!(" in {}", human_duration(run_time)));
        }
        if let To::Failed(_) | To::Again(Reason::Error | Reason::Panicked | Reason::TimedOut) = to {
            message.push_str(&format!(", attempt {} of {}", facts.attempt, facts.max_attempts));
        }
        if let Some(again) = facts.retry_in_ms {
            message.push_str(&format!(", again in {}", human_duration(Duration::from_secs_f64(again.max(0.0) / 1e3))));
        }
        if let Some(error) = facts.error {
            message.push_str(": ");
            message.push_str(error.lines().next().unwrap_or_default());
        }
        let mut event = TelemetryEvent::new(to.event_type())
            .source(SOURCE)
            .category("job")
            .severity(to.severity())
            .message(message)
            .payload(&Payload { job_id: id_text, kind, facts });
        if let Some(belongs_to) = belongs_to(*id, *correlation_id) {
            event = event.correlation_id(belongs_to);
        }
        let status = to.status();
        if !status.is_empty() {
            event = event.status(status);
        }
        if let Some(run_time) = run_time {
            event = event.duration(run_time);
        }
        self.direct(event);
    }

    /// Runs `f` in the span of an attempt; what it says of its end, besides what it returns, is whether it failed.
    pub(super) fn inside<R>(&self, attempt: &Attempt<'_>, f: impl FnOnce() -> (R, bool)) -> R {
        let Attempt { id, kind, number, queue_wait, correlation_id } = *attempt;
        let run = || {
            let _scope = belongs_to(id, correlation_id).map(correlation::enter);
            if !self.has_spans() {
                return f().0;
            }
            let span = tracing::info_span!(
                target: "l0.jobs",
                "job",
                otel.name = kind,
                job_id = %id,
                attempt = number,
                queue_wait_ms = ms(queue_wait),
                otel.status_code = tracing::field::Empty,
            );
            let (outcome, is_failed) = span.in_scope(f);
            if is_failed {
                span.record("otel.status_code", "ERROR");
            }
            outcome
        };
        match self.dispatch.get() {
            Some(Some(dispatch)) => dispatcher::with_default(dispatch, run),
            _ => run(),
        }
    }
}

/// One attempt, as its span has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'a> {
    pub(super) id: JobId,
    pub(super) kind: &'a str,
    pub(super) number: u32,
    pub(super) queue_wait: Duration,
    pub(super) correlation_id: Option<&'a CorrelationId>,
}

fn belongs_to(id: JobId, given: Option<&CorrelationId>) -> Option<CorrelationId> {
    given.cloned().or_else(|| id.row().is_some().then(|| id.as_uuid().into()))
}

impl To {
    fn event_type(self) -> &'static str {
        match self {
            Self::Enqueued => "job.enqueued",
            Self::Started => "job.started",
            Self::Succeeded => "job.succeeded",
            Self::Failed(_) => "job.failed",
            Self::Cancelled => "job.cancelled",
            Self::Again(Reason::Snoozed) => "job.snoozed",
            Self::Again(Reason::Interrupted) => "job.interrupted",
            Self::Again(Reason::Abandoned) => "job.rescued",
            Self::Again(_) => "job.retrying",
            Self::LeaseLost => "job.lease_lost",
        }
    }

    fn severity(self) -> Severity {
        match self {
            Self::Failed(_) => Severity::Error,
            Self::Again(Reason::Snoozed | Reason::Interrupted) => Severity::Info,
            Self::Again(_) | Self::LeaseLost => Severity::Warning,
            _ => Severity::Info,
        }
    }

    /// The reason, or else the state.
    fn status(self) -> &'static str {
        match self {
            Self::Enqueued => "pending",
            Self::Started => "running",
            Self::Succeeded => "success",
            Self::Failed(reason) | Self::Again(reason) => reason.as_str(),
            Self::Cancelled => "cancelled",
            Self::LeaseLost => "lease_lost",
        }
    }

    fn phrase(self) -> &'static str {
        match self {
            Self::Enqueued => "is enqueued",
            Self::Started => "begins",
            Self::Succeeded => "succeeded",
            Self::Failed(Reason::Panicked) => "panicked",
            Self::Failed(Reason::TimedOut) => "took too long",
            Self::Failed(Reason::Abandoned) => "is given up: its process died in its last attempt",
            Self::Failed(Reason::MissedDeadline) => "could not be begun in time",
            Self::Failed(_) => "failed",
            Self::Cancelled => "was cancelled",
            Self::Again(Reason::Snoozed) => "is put off",
            Self::Again(Reason::Interrupted) => "was interrupted by the end of its process",
            Self::Again(Reason::Abandoned) => "is pending again: its process died",
            Self::Again(Reason::Panicked) => "panicked",
            Self::Again(Reason::TimedOut) => "took too long",
            Self::Again(_) => "failed",
            Self::LeaseLost => "was taken by another process, which thought this one dead",
        }
    }
}

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tell").field("events", &self.events).finish_non_exhaustive()
    }
}
