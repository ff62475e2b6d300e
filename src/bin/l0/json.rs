//! Rows as JSON, under the names and in the units of the SQL views: `timestamp`, `duration_ms`, ..

use std::time::Duration;

use l0::{
    Timestamp,
    query::{ErrorGroup, EventRow, SpanNode, SpanSummary, Summary, Trace, TraceRow, Value as Cell},
};
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};

pub(crate) fn milliseconds(d: Duration) -> Value {
    (d.as_nanos() as f64 / 1e6).into()
}

fn optional_milliseconds(d: Option<Duration>) -> Value {
    d.map_or(Value::Null, milliseconds)
}

fn time(at: Timestamp) -> Value {
    at.to_string().into()
}

/// A payload as the object it is; as a text where its numbers or depth are beyond what JSON's readers agree on.
fn payload(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// Names of times, which l0's own types have in nanoseconds.
const TIMES: [&str; 12] = [
    "at",
    "since",
    "until",
    "changed_at",
    "enqueued_at",
    "run_at",
    "started_at",
    "finished_at",
    "next_at",
    "last_at",
    "last_fired_at",
    "scheduled_for",
];

/// Names of durations that may be missing.
const DURATIONS: [&str; 9] = ["after", "age", "oldest_pending", "p50", "p95", "p99", "running_for", "timeout", "took"];

/// A type of l0's with times and durations as everywhere here: ISO 8601, and milliseconds under a name that says so.
pub(crate) fn readable(row: &impl Serialize) -> Value {
    plain(json!(row))
}

fn plain(value: Value) -> Value {
    match value {
        Value::Array(rows) => rows.into_iter().map(plain).collect(),
        Value::Object(fields) => Value::Object(fields.into_iter().map(|(name, value)| field(name, value)).collect()),
        other => other,
    }
}

fn field(name: String, value: Value) -> (String, Value) {
    if let Some(ns) = value.as_i64().filter(|_| TIMES.contains(&name.as_str())) {
        return (name, time(Timestamp::from_unix_ns(ns)));
    }
    if let Some(d) = duration(&value) {
        return (format!("{name}_ms"), milliseconds(d));
    }
    if value.is_null() && DURATIONS.contains(&name.as_str()) {
        return (format!("{name}_ms"), value);
    }
    match value {
        Value::String(text) if name == "metadata" => (name, payload(&text)),
        other => (name, plain(other)),
    }
}

fn duration(value: &Value) -> Option<Duration> {
    let fields = value.as_object().filter(|fields| fields.len() == 2)?;
    Some(Duration::new(fields.get("secs")?.as_u64()?, u32::try_from(fields.get("nanos")?.as_u64()?).ok()?))
}

pub(crate) fn event(row: &EventRow) -> Value {
    json!({
        "id": row.id,
        "timestamp": time(row.at),
        "severity": row.severity.as_str(),
        "event_type": row.event_type,
        "source": row.source,
        "message": row.message,
        "payload": payload(&row.payload),
        "category": row.category,
        "correlation_id": row.correlation_id,
        "tenant_id": row.tenant_id,
        "actor_id": row.actor_id,
        "status": row.status,
        "duration_ms": optional_milliseconds(row.duration),
        "span_id": row.span_id,
        "file": row.file,
        "line": row.line,
        "is_audit": row.is_audit(),
    })
}

pub(crate) fn error(group: &ErrorGroup) -> Value {
    json!({
        "count": group.count,
        "place": group.place,
        "message": group.message,
        "first": time(group.first),
        "last": time(group.last),
        "correlation_id": group.sample.correlation_id,
        "sample": event(&group.sample),
    })
}

pub(crate) fn trace_row(row: &TraceRow) -> Value {
    json!({
        "correlation_id": row.correlation_id,
        "root": row.root,
        "started_at": time(row.started_at),
        "duration_ms": optional_milliseconds(row.duration),
        "state": row.state.as_str(),
        "spans": row.spans,
        "errors": row.errors,
    })
}

fn span(node: &SpanNode) -> Value {
    let follows = node.follows_from.iter();
    json!({
        "id": node.id,
        "name": node.name,
        "target": node.target,
        "severity": node.severity.as_str(),
        "state": node.state.as_str(),
        "started_at": time(node.started_at),
        "duration_ms": optional_milliseconds(node.duration),
        "self_ms": optional_milliseconds(node.self_time),
        "is_failed": node.is_failed,
        "status": node.status,
        "payload": payload(&node.payload),
        "follows_from": follows.map(|of| json!({"id": of.id, "name": of.name, "correlation_id": of.correlation_id}))
            .collect::<Vec<_>>(),
        "events": node.events.iter().map(event).collect::<Vec<_>>(),
        // As deep as the tree, which is a hundred spans at most.
        "children": node.children.iter().map(span).collect::<Vec<_>>(),
    })
}

pub(crate) fn trace(trace: &Trace) -> Value {
    json!({
        "correlation_id": trace.correlation_id,
        "trace_id": trace.trace_id,
        "started_at": trace.started_at().map(time),
        "ended_at": trace.ended_at().map(time),
        "errors": trace.errors(),
        "left_out": trace.left_out,
        "incomplete": trace.incomplete,
        "spans": trace.spans.iter().map(span).collect::<Vec<_>>(),
        "events": trace.events.iter().map(event).collect::<Vec<_>>(),
    })
}

pub(crate) fn span_summary(span: &SpanSummary) -> Value {
    json!({
        "name": span.name,
        "count": span.count,
        "errors": span.errors,
        "p50_ms": milliseconds(span.p50),
        "p95_ms": milliseconds(span.p95),
        "p99_ms": milliseconds(span.p99),
        "max_ms": milliseconds(span.max),
        "total_ms": milliseconds(span.total),
        "self_ms": optional_milliseconds(span.self_time),
    })
}

pub(crate) fn summary(summary: &Summary) -> Value {
    let counts = |counts: &[(String, u64)]| counts.iter().map(|(name, n)| (name.clone(), (*n).into())).collect();
    let by_severity: Map<String, Value> =
        summary.by_severity.iter().map(|(severity, n)| (severity.as_str().to_owned(), (*n).into())).collect();
    let (by_type, by_source): (Map<String, Value>, Map<String, Value>) =
        (counts(&summary.by_type), counts(&summary.by_source));
    let shed_by: Map<String, Value> = counts(&summary.shed_by);
    json!({
        "since": time(summary.since),
        "until": time(summary.until),
        "events": summary.events,
        "errors": summary.errors,
        "error_rate": summary.error_rate(),
        "shed": summary.shed,
        "by_severity": by_severity,
        "by_type": by_type,
        "by_source": by_source,
        "shed_by": shed_by,
        "spans": summary.spans.iter().map(span_summary).collect::<Vec<_>>(),
        "slowest": summary.slowest.iter().map(trace_row).collect::<Vec<_>>(),
        "latest_errors": summary.latest_errors.iter().map(event).collect::<Vec<_>>(),
        "incomplete": summary.incomplete,
    })
}

/// A row of an SQL answer. Of columns of one name the later are numbered; a blob is its hexadecimal digits.
pub(crate) fn table_row(columns: &[String], row: &[Cell]) -> Box<RawValue> {
    let mut names: Vec<String> = Vec::with_capacity(columns.len());
    for column in columns {
        let is_taken = |name: &String| names.contains(name);
        let numbered = || (2..).map(|n| format!("{column}_{n}")).find(|name| !is_taken(name));
        let name = if is_taken(column) { numbered() } else { None };
        names.push(name.unwrap_or_else(|| column.clone()));
    }
    let entries = names.iter().zip(row).map(|(name, cell)| {
        let value: Value = match cell {
            Cell::Null => Value::Null,
            Cell::Integer(v) => (*v).into(),
            Cell::Real(v) => (*v).into(),
            Cell::Text(v) => v.as_str().into(),
            Cell::Blob(v) => v.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
        };
        format!("{}:{value}", Value::from(name.as_str()))
    });
    // In the order of the columns, which a map would not keep.
    RawValue::from_string(format!("{{{}}}", entries.collect::<Vec<_>>().join(","))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_keep_their_order_and_their_values() {
        let columns = ["b", "a", "b", "b_2", "x"].map(str::to_owned);
        let row =
            [Cell::Integer(1), Cell::Real(f64::NAN), Cell::Text("\"".into()), Cell::Null, Cell::Blob(vec![0, 255])];
        assert_eq!(table_row(&columns, &row).get(), r#"{"b":1,"a":null,"b_2":"\"","b_2_2":null,"x":"00ff"}"#);
    }
}
