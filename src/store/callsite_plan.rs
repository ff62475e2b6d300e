//! What the fields of a callsite mean to the writer, worked out once: which of them are columns, what redaction says of each.

use std::io::Write as _;

use rustc_hash::FxHashMap;

use crate::{
    record::{CallsiteKind, Definition, key},
    redaction::{FieldRule, Redactor},
};

/// What a stored callsite's fields mean.
#[derive(Debug)]
pub(super) struct CallsitePlan {
    pub(super) id: i64,
    pub(super) fields: Vec<FieldPlan>,
}

/// What one field means.
#[derive(Debug)]
pub(super) struct FieldPlan {
    pub(super) role: Role,
    /// `"name":`, escaped.
    pub(super) json_key: Vec<u8>,
    /// `"name.sources":`, for errors.
    pub(super) json_sources_key: Vec<u8>,
    pub(super) rule: FieldRule,
}

/// Where a field's value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Payload,
    Message,
    EventType,
    Source,
    Category,
    CorrelationId,
    Traceparent,
    Scope,
    TraceId,
    TenantId,
    ActorId,
    Status,
    DurationMs,
    DurationNs,
    Severity,
    SpanName,
    OtelStatus,
    WholePayload,
    CleanPayload,
    FieldsDropped,
}

impl Role {
    fn of(name: &str, kind: CallsiteKind) -> Self {
        match name {
            "message" if kind != CallsiteKind::Span => Self::Message,
            "event_type" => Self::EventType,
            "category" => Self::Category,
            "correlation_id" => Self::CorrelationId,
            "traceparent" => Self::Traceparent,
            "tenant_id" => Self::TenantId,
            "actor_id" => Self::ActorId,
            "status" => Self::Status,
            "duration_ms" if kind != CallsiteKind::Span => Self::DurationMs,
            "severity" if kind != CallsiteKind::Span => Self::Severity,
            "otel.name" if kind == CallsiteKind::Span => Self::SpanName,
            "otel.status_code" => Self::OtelStatus,
            _ => Self::Payload,
        }
    }

    pub(super) fn of_key(key: u16) -> Self {
        match key {
            key::EVENT_TYPE => Self::EventType,
            key::SOURCE => Self::Source,
            key::CATEGORY => Self::Category,
            key::CORRELATION_ID => Self::CorrelationId,
            key::TENANT_ID => Self::TenantId,
            key::ACTOR_ID => Self::ActorId,
            key::MESSAGE => Self::Message,
            key::STATUS => Self::Status,
            key::DURATION_NS => Self::DurationNs,
            key::PAYLOAD => Self::WholePayload,
            key::CLEAN_PAYLOAD => Self::CleanPayload,
            key::SCOPE => Self::Scope,
            key::TRACE_ID => Self::TraceId,
            _ => Self::FieldsDropped,
        }
    }
}

impl CallsitePlan {
    pub(super) fn new(id: i64, definition: &Definition, redactor: &Redactor) -> Self {
        let mut left: FxHashMap<&str, usize> = FxHashMap::default();
        for name in &definition.fields {
            *left.entry(name).or_default() += 1;
        }
        let totals = left.clone();
        let fields = definition
            .fields
            .iter()
            .map(|name| {
                // The last of several fields of one name has the name, as when JSON is parsed; the others get a number.
                let after = left.entry(name).or_default();
                *after -= 1;
                let rule = redactor.field(name);
                if *after == 0 {
                    FieldPlan::new(Role::of(name, definition.kind), name, rule)
                } else {
                    FieldPlan::new(Role::Payload, &format!("{name}#{}", totals[name.as_str()] - *after), rule)
                }
            })
            .collect();
        Self { id, fields }
    }
}

impl FieldPlan {
    fn new(role: Role, name: &str, rule: FieldRule) -> Self {
        let key = |name: &str| {
            let mut key = Vec::new();
            write_json(&mut key, &name);
            key.push(b':');
            key
        };
        // Raw identifiers are plain names to a reader.
        let name = name.strip_prefix("r#").unwrap_or(name);
        Self { role, json_key: key(name), json_sources_key: key(&format!("{name}.sources")), rule }
    }

    /// As its key has it, between the quotes.
    pub(super) fn name(&self) -> &str {
        std::str::from_utf8(&self.json_key).map_or("", |key| key.trim_matches(['"', ':']))
    }
}

/// A value as JSON; what JSON has no word for is null.
pub(super) fn write_json(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        // Plain numbers, booleans and strings into memory: not reached, and then still JSON.
        out.truncate(start);
        let _ = out.write_all(b"null");
    }
}
