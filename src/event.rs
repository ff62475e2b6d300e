//! The public vocabulary of an event: [`Severity`], and [`TelemetryEvent`] for what is recorded without `tracing`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{clock::duration_ns, correlation::CorrelationId, error::Error};

/// How serious an event is; ordered.
///
/// The first five are `tracing`'s levels; `Critical` is set with a field (`severity = "critical"`) or by l0 itself for a
/// panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Very detailed, off by default.
    Trace,
    /// For whoever works on the program.
    Debug,
    /// What happened; the default.
    #[default]
    Info,
    /// Unexpected, and handled.
    Warning,
    /// Something failed.
    Error,
    /// The program, or much of it, cannot go on.
    Critical,
}

impl Severity {
    pub(crate) const ALL: [Self; 6] =
        [Self::Trace, Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical];

    /// The name stored in views: `trace`, `debug`, `info`, `warning`, `error` or `critical`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }

    pub(crate) fn from_code(code: i64) -> Self {
        usize::try_from(code).ok().and_then(|index| Self::ALL.get(index).copied()).unwrap_or(Self::Critical)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Severity {
    type Err = Error;

    /// Reads the stored names, `warn` and upper case included.
    fn from_str(text: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|severity| severity.as_str().eq_ignore_ascii_case(text));
        known.or_else(|| text.eq_ignore_ascii_case("warn").then_some(Self::Warning)).ok_or_else(|| {
            Error::invalid_input(format!(
                "{text:?} is not a severity: use trace, debug, info, warning, error or critical"
            ))
        })
    }
}

impl From<tracing::Level> for Severity {
    fn from(level: tracing::Level) -> Self {
        match level {
            tracing::Level::TRACE => Self::Trace,
            tracing::Level::DEBUG => Self::Debug,
            tracing::Level::INFO => Self::Info,
            tracing::Level::WARN => Self::Warning,
            tracing::Level::ERROR => Self::Error,
        }
    }
}

/// An event recorded directly, with [`Handle::record`](crate::Handle::record): a business fact with a type and a payload.
///
/// ```
/// use l0::{Severity, TelemetryEvent};
/// let event = TelemetryEvent::new("order.placed")
///     .source("checkout")
///     .severity(Severity::Info)
///     .tenant_id("acme")
///     .payload(&serde_json::json!({"order": 9, "total_cents": 1250}));
/// # drop(event);
/// ```
#[derive(Clone, Debug)]
#[must_use = "an event is stored by Handle::record"]
pub struct TelemetryEvent {
    pub(crate) event_type: String,
    pub(crate) severity: Severity,
    pub(crate) source: Option<String>,
    pub(crate) category: Option<String>,
    pub(crate) correlation_id: Option<CorrelationId>,
    pub(crate) tenant_id: Option<String>,
    pub(crate) actor_id: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) status: Option<String>,
    pub(crate) duration_ns: Option<i64>,
    pub(crate) payload: Option<String>,
    /// The payload is l0's own: no secret is looked for in it.
    pub(crate) is_clean: bool,
}

impl TelemetryEvent {
    /// An event of this type, as in `order.placed`; severity is [`Severity::Info`].
    pub fn new(event_type: impl Into<String>) -> Self {
        Self {
            event_type: event_type.into(),
            severity: Severity::Info,
            source: None,
            category: None,
            correlation_id: None,
            tenant_id: None,
            actor_id: None,
            message: None,
            status: None,
            duration_ns: None,
            payload: None,
            is_clean: false,
        }
    }

    /// The part of the program it comes from; `tracing` events have their target here.
    pub fn source(mut self, s: impl Into<String>) -> Self {
        self.source = Some(s.into());
        self
    }

    /// How serious it is.
    pub fn severity(mut self, s: Severity) -> Self {
        self.severity = s;
        self
    }

    /// A grouping of your own.
    pub fn category(mut self, s: impl Into<String>) -> Self {
        self.category = Some(s.into());
        self
    }

    /// What it belongs to; without it, that of the current span.
    pub fn correlation_id(mut self, id: impl Into<CorrelationId>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// For whom; without it, that of the current span.
    pub fn tenant_id(mut self, s: impl Into<String>) -> Self {
        self.tenant_id = Some(s.into());
        self
    }

    /// By whom; without it, that of the current span.
    pub fn actor_id(mut self, s: impl Into<String>) -> Self {
        self.actor_id = Some(s.into());
        self
    }

    /// A sentence for a reader.
    pub fn message(mut self, s: impl Into<String>) -> Self {
        self.message = Some(s.into());
        self
    }

    /// An outcome, as in `ok` or `402`.
    pub fn status(mut self, s: impl Into<String>) -> Self {
        self.status = Some(s.into());
        self
    }

    /// How long it took.
    pub fn duration(mut self, d: Duration) -> Self {
        self.duration_ns = Some(duration_ns(d));
        self
    }

    /// Anything serialisable, stored as JSON.
    ///
    /// A value that cannot be serialised leaves `{"l0.payload_error": "..."}` in its place.
    pub fn payload(mut self, p: &impl Serialize) -> Self {
        self.payload = Some(
            serde_json::to_string(p)
                .unwrap_or_else(|error| serde_json::json!({ "l0.payload_error": error.to_string() }).to_string()),
        );
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_severity_reads_its_own_name() {
        for severity in Severity::ALL {
            assert_eq!(severity.as_str().parse::<Severity>().unwrap(), severity);
            assert_eq!(Severity::from_code(severity as i64), severity);
        }
        assert_eq!("WARN".parse::<Severity>().unwrap(), Severity::Warning);
        assert!("loud".parse::<Severity>().unwrap_err().is_invalid_input());
    }

    #[test]
    fn a_payload_that_fails_says_so() {
        let bad = std::collections::BTreeMap::from([((1, 2), 3)]);
        let event = TelemetryEvent::new("x").payload(&bad);
        assert!(event.payload.unwrap().contains("l0.payload_error"));
    }
}
