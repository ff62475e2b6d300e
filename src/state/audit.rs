//! Audit: facts of which none may be lost, as of money and permissions.

use rusqlite::params;

use super::{COMMIT_WITHIN, State};
use crate::{clock::Timestamp, error::Result, event::TelemetryEvent, redaction::Redactor};

/// Appends one event of this run's span; it is on the disk when this returns.
pub(crate) fn audit(
    state: &State,
    redactor: &Redactor,
    at: Timestamp,
    span: Option<(uuid::Uuid, u64)>,
    event: TelemetryEvent,
) -> Result<()> {
    let column = |name: &str, text: Option<String>| text.map(|text| redactor.column_text(name, text));
    let payload = event.payload.map(|payload| redactor.json_by_name(&payload).unwrap_or(payload));
    let payload = payload.map(|payload| redactor.json_by_value(&payload).unwrap_or(payload));
    let event_type = redactor.column_text("event_type", event.event_type);
    let (source, category) = (column("source", event.source), column("category", event.category));
    let correlation_id = column("correlation_id", event.correlation_id.map(String::from));
    let (tenant_id, actor_id) = (column("tenant_id", event.tenant_id), column("actor_id", event.actor_id));
    let (message, status) = (column("message", event.message), column("status", event.status));
    let (severity, duration_ns) = (event.severity as i64, event.duration_ns);
    state.commit("cannot append to the audit", COMMIT_WITHIN, move |connection| {
        connection
            .prepare_cached(
                "INSERT INTO audit (at, severity, event_type, source, category, correlation_id, tenant_id, actor_id,
                                    message, payload, status, duration_ns, run, span)
                 VALUES (
                    coalesce((SELECT a.at + 1 FROM audit AS a WHERE a.at >= ?1 AND EXISTS (SELECT 1 FROM audit WHERE at = ?1)
                                 AND NOT EXISTS (SELECT 1 FROM audit AS b WHERE b.at = a.at + 1) ORDER BY a.at LIMIT 1), ?1),
                    ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            )?
            .execute(params![
                at.as_unix_ns(),
                severity,
                event_type,
                source,
                category,
                correlation_id,
                tenant_id,
                actor_id,
                message,
                payload,
                status,
                duration_ns,
                span.map(|(run, _)| run.into_bytes()),
                span.map(|(_, own)| own.cast_signed()),
            ])
            .map(drop)
    })
}
