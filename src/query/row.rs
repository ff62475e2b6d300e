//! One event, as read back.

use std::{collections::BTreeMap, fmt, time::Duration};

use rusqlite::{Row, types::ValueRef};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{Value, filter::Leg, text::harmless};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    event::Severity,
};

/// One recorded event.
///
/// `Display` is one line, in the style of a log file.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EventRow {
    /// When; unique among events of its severity class, so possibly some nanoseconds late.
    pub at: Timestamp,
    /// How serious.
    pub severity: Severity,
    /// The sentence for a reader; empty if there is none.
    pub message: String,
    /// `log` for `tracing` and `log` events that name no other.
    pub event_type: String,
    /// The target of a `tracing` event.
    pub source: String,
    /// The caller's grouping.
    pub category: Option<String>,
    /// What it belongs to: the caller's text, or the trace's UUID.
    pub correlation_id: Option<String>,
    /// For whom.
    pub tenant_id: Option<String>,
    /// By whom.
    pub actor_id: Option<String>,
    /// An outcome.
    pub status: Option<String>,
    /// How long it took.
    pub duration: Option<Duration>,
    /// The other fields, as a JSON object.
    pub payload: String,
    /// The row's number in the view `telemetry_events`; negative for what was audited.
    pub id: i64,
    /// The number of the span it is in, in the view `spans`.
    pub span_id: Option<i64>,
    /// The source file of a `tracing` or `log` event.
    pub file: Option<String>,
    /// The line in `file`.
    pub line: Option<u32>,
    #[serde(skip)]
    pub(super) leg: Leg,
}

impl EventRow {
    /// Reads a row of `Leg::columns`.
    pub(super) fn from_row(row: &Row<'_>, leg: Leg) -> rusqlite::Result<Self> {
        let at: i64 = row.get(0)?;
        Ok(Self {
            at: Timestamp::from_unix_ns(at),
            severity: Severity::from_code(row.get(1)?),
            message: row.get(2)?,
            event_type: row.get(3)?,
            source: row.get(4)?,
            category: row.get(5)?,
            correlation_id: correlation_text(row.get_ref(6)?),
            tenant_id: row.get(7)?,
            actor_id: row.get(8)?,
            status: row.get(9)?,
            duration: row.get::<_, Option<i64>>(10)?.map(|ns| Duration::from_nanos(ns.unsigned_abs())),
            payload: row.get(11)?,
            id: if leg == Leg::Audit { at.saturating_neg() } else { at.saturating_mul(2).saturating_add(leg as i64) },
            span_id: row.get(12)?,
            file: row.get(13)?,
            line: row.get(14)?,
            leg,
        })
    }

    /// What orders rows of all tables.
    pub(super) fn key(&self) -> (i64, Leg) {
        (self.at.as_unix_ns(), self.leg)
    }

    /// Whether it was audited.
    pub fn is_audit(&self) -> bool {
        self.leg == Leg::Audit
    }

    /// The payload as a type of your own.
    ///
    /// # Errors
    /// `is_invalid_input` if the payload has another shape.
    pub fn payload_as<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.payload).map_err(|error| {
            Error::invalid_input(format!(
                "the payload of event {} does not fit {}: {error}",
                self.id,
                std::any::type_name::<T>()
            ))
        })
    }

    /// One field of the payload, or one of the columns by its name; `None` if there is no such field.
    pub fn field(&self, name: &str) -> Option<Value> {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(&self.payload).unwrap_or_default();
        if let Some(value) = fields.get(name) {
            return Some(Value::from_json(value));
        }
        let text = match name {
            "message" => Some(&self.message),
            "event_type" => Some(&self.event_type),
            "source" => Some(&self.source),
            "category" => self.category.as_ref(),
            "correlation_id" => self.correlation_id.as_ref(),
            "tenant_id" => self.tenant_id.as_ref(),
            "actor_id" => self.actor_id.as_ref(),
            "status" => self.status.as_ref(),
            "severity" => return Some(self.severity.as_str().into()),
            "duration_ms" => return self.duration.map(|duration| Value::Real(duration.as_nanos() as f64 / 1e6)),
            _ => None,
        };
        text.map(|text| text.as_str().into())
    }
}

impl fmt::Display for EventRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:>8} {}", self.at, self.severity.as_str(), harmless(&self.source))?;
        if self.event_type != "log" {
            write!(f, " [{}]", harmless(&self.event_type))?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", harmless(&self.message))?;
        }
        if let Some(duration) = self.duration {
            write!(f, " ({duration:?})")?;
        }
        if self.payload != "{}" {
            write!(f, " {}", harmless(&self.payload))?;
        }
        if let Some(id) = &self.correlation_id {
            write!(f, " <{}>", harmless(id))?;
        }
        Ok(())
    }
}

/// A trace's name: its text, or the UUID of one that nobody named.
pub(super) fn correlation_text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(id) => uuid::Uuid::from_slice(id).ok().map(|id| id.to_string()),
        _ => None,
    }
}
