//! Events as JSON lines, in the shape of `tracing_subscriber::fmt().json()`, with the ids of trace and span beside it.

use std::{collections::HashMap, io, sync::Arc};

use rusqlite::OptionalExtension as _;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    EventRow, Events,
    events::{Condition, rows},
    filter::Leg,
    text::json_line,
};
use crate::{
    correlation::trace_id_of,
    error::{Error, Result},
    event::Severity,
    store::Asked,
};

/// Rows read in one transaction: a long one would keep the WAL from being emptied.
const PAGE: usize = 2_000;
/// Lines held at once: each repeats the spans around it.
const PAGE_BYTES: usize = 4 << 20;
/// Spans remembered.
const SPANS_KEPT: usize = 20_000;
/// Around each other; more would be a mistake in the store.
const DEPTH_MAX: usize = 1_000;

impl Events {
    /// Writes all of them, oldest first, each as a line of JSON: what `tracing_subscriber::fmt().json()` would have written
    /// (`timestamp`, `level`, `fields`, `target`, `span`, `spans`), and `trace_id` and `span_id` as W3C writes them. Says how
    /// many; `each_page` is told how many so far.
    ///
    /// What became a column is a field again: `event_type`, `category`, `tenant_id`, `actor_id`, `correlation_id` (unless the
    /// span has the same), `status`, `duration_ms`, and `severity` where it is `critical`; ids and status are texts. A payload that is
    /// no object, or has a field of a column's name, stands whole under `payload`. Control characters are escaped, so
    /// that the lines are harmless on a terminal. Instead of the question's limit and cursor `at_most` bounds the lines. It is
    /// read in pieces, each a snapshot of its own.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// l0.log(tracing::Level::WARN, "billing", "late");
    /// let mut lines = Vec::new();
    /// assert_eq!(l0.events().write_json_lines(&mut lines, u64::MAX, |_| {})?, 1);
    /// let line: serde_json::Value = serde_json::from_slice(&lines).unwrap();
    /// assert_eq!((&line["level"], &line["fields"]["message"]), (&"WARN".into(), &"late".into()));
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch); `is_storage` if `out` cannot be written, with the cause as [`source`](std::error::Error::source).
    pub fn write_json_lines(
        mut self,
        mut out: impl io::Write,
        at_most: u64,
        mut each_page: impl FnMut(u64),
    ) -> Result<u64> {
        let legs = self.legs()?;
        let mut spans = Spans::default();
        let (mut behind, mut count) = (None, 0);
        loop {
            let (lines, is_last) = self
                .source
                .clone()
                .ask(self.asking, "cannot export events", |asked| spans.page(asked, &legs, behind))?;
            // What was recorded before the call was flushed before the first page.
            self.asking.fresh = false;
            for (key, line) in &lines {
                if count == at_most {
                    break;
                }
                let written = out.write_all(json_line(line).as_bytes()).and_then(|()| out.write_all(b"\n"));
                written.map_err(|error| Error::output("cannot write the exported lines", error))?;
                (behind, count) = (Some(*key), count + 1);
            }
            each_page(count);
            if is_last || count == at_most {
                return Ok(count);
            }
        }
    }
}

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'static str,
    fields: Box<RawValue>,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    span: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spans: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<&'a str>,
}

/// A JSON object: these entries, then the payload's to the letter, then a name.
fn object(entries: &[(&str, serde_json::Value)], payload: &str, name: Option<&str>) -> Box<RawValue> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let whole = |payload: &str| {
        let entries = entries.iter().map(|(name, value)| format!("{}:{value}", quoted(name)));
        let payload = Some(payload.to_owned()).filter(|payload| !payload.is_empty());
        let name = name.map(|name| format!("\"name\":{}", quoted(name)));
        let all: Vec<String> = entries.chain(payload).chain(name).collect();
        RawValue::from_string(format!("{{{}}}", all.join(",")))
    };
    let inside = payload.trim().strip_prefix('{').and_then(|inside| inside.strip_suffix('}')).map(str::trim);
    // A name that is a column's, too, would be there twice.
    let is_taken = |name: &str| payload.contains(&quoted(name)) && has_field(payload, name);
    let inside = inside.filter(|_| !entries.iter().any(|(name, _)| is_taken(name)));
    // What is no object stands there as a whole; what is too deep for JSON's readers as a text.
    let object = inside.and_then(|inside| whole(inside).ok());
    let object = object.or_else(|| whole(&format!("\"payload\":{payload}")).ok());
    object.or_else(|| whole(&format!("\"payload\":{}", quoted(payload))).ok()).unwrap_or_default()
}

/// Whether an object has a field of this name.
fn has_field(object: &str, name: &str) -> bool {
    let fields = serde_json::from_str::<HashMap<String, serde::de::IgnoredAny>>(object);
    fields.is_ok_and(|fields| fields.contains_key(name))
}

/// A span, as it stands in the lines of its events.
struct Span {
    parent: Option<i64>,
    object: Box<RawValue>,
    id: String,
    trace_id: String,
    /// What its events inherit, and do not say themselves.
    inherited: [Option<String>; 3],
}

/// Lines, each with the key of its row.
type Lines = Vec<((i64, Leg), String)>;

#[derive(Default)]
struct Spans {
    known: HashMap<i64, Option<Arc<Span>>>,
}

impl Spans {
    /// Some lines, and whether they are the last.
    fn page(
        &mut self,
        asked: &Asked<'_>,
        legs: &[Condition],
        behind: Option<(i64, Leg)>,
    ) -> rusqlite::Result<(Lines, bool)> {
        // A span may have been told more since the last page.
        self.known.clear();
        let rows = rows(asked, legs, behind, true, PAGE)?;
        let (count, mut bytes, mut lines) = (rows.len(), 0, Vec::with_capacity(rows.len()));
        for row in rows {
            let (key, line) = (row.key(), self.line(asked, row)?);
            bytes += line.len();
            lines.push((key, line));
            if bytes >= PAGE_BYTES {
                break;
            }
        }
        let is_last = count < PAGE && lines.len() == count;
        Ok((lines, is_last))
    }

    fn line(&mut self, asked: &Asked<'_>, row: EventRow) -> rusqlite::Result<String> {
        let mut spans = Vec::new();
        let mut next = row.span_id;
        while let Some(id) = next.filter(|_| spans.len() < DEPTH_MAX) {
            let Some(span) = self.span(asked, id)? else { break };
            next = span.parent;
            spans.push(span);
        }
        spans.reverse();
        let span = spans.last();
        let trace_id = match span {
            Some(span) if span.inherited[0] == row.correlation_id => Some(span.trace_id.clone()),
            _ => row.correlation_id.as_deref().map(|id| uuid::Uuid::from_bytes(trace_id_of(id)).simple().to_string()),
        };
        let line = Line {
            timestamp: timestamp(row.at.as_unix_ns()),
            level: match row.severity {
                Severity::Trace => "TRACE",
                Severity::Debug => "DEBUG",
                Severity::Info => "INFO",
                Severity::Warning => "WARN",
                Severity::Error | Severity::Critical => "ERROR",
            },
            target: row.source.clone(),
            fields: fields(row, span.map(Arc::as_ref)),
            span: span.map(|span| &*span.object),
            spans: spans.iter().map(|span| &*span.object).collect(),
            trace_id: trace_id.as_deref(),
            span_id: span.map(|span| span.id.as_str()),
        };
        // Texts and what is JSON already: that cannot fail.
        Ok(serde_json::to_string(&line).unwrap_or_default())
    }

    fn span(&mut self, asked: &Asked<'_>, id: i64) -> rusqlite::Result<Option<Arc<Span>>> {
        if let Some(span) = self.known.get(&id) {
            return Ok(span.clone());
        }
        let span = load(asked, id)?.map(Arc::new);
        if self.known.len() >= SPANS_KEPT {
            self.known.clear();
        }
        self.known.insert(id, span.clone());
        Ok(span)
    }
}

/// The fields of an event: its columns are fields again, but for what it has from its span.
fn fields(row: EventRow, span: Option<&Span>) -> Box<RawValue> {
    let mut columns: Vec<(&'static str, serde_json::Value)> = Vec::new();
    if !row.message.is_empty() {
        columns.push(("message", row.message.into()));
    }
    if row.event_type != "log" {
        columns.push(("event_type", row.event_type.into()));
    }
    columns.extend(row.category.map(|category| ("category", category.into())));
    let own = [("correlation_id", row.correlation_id), ("tenant_id", row.tenant_id), ("actor_id", row.actor_id)];
    for (index, (name, value)) in own.into_iter().enumerate() {
        let inherited = span.and_then(|span| span.inherited[index].as_ref());
        columns.extend(value.filter(|value| Some(value) != inherited).map(|value| (name, value.into())));
    }
    columns.extend(row.status.map(|status| ("status", status.into())));
    columns.extend(row.duration.map(|duration| ("duration_ms", milliseconds(duration.as_nanos()))));
    if row.severity == Severity::Critical {
        columns.push(("severity", "critical".into()));
    }
    object(&columns, &row.payload, None)
}

fn load(asked: &Asked<'_>, id: i64) -> rusqlite::Result<Option<Span>> {
    // `+`: compared with the conditions of partial indexes, a bare parameter would have the statement compiled anew each time.
    let sql = "
        SELECT s.parent, c.name, coalesce(s.payload, '{}'), (s.own | r.span_key) - (s.own & r.span_key),
               t.trace_id, t.correlation_id, (SELECT text FROM name WHERE id = s.name),
               (SELECT text FROM name WHERE id = s.event_type), (SELECT text FROM name WHERE id = s.category),
               (SELECT text FROM name WHERE id = s.tenant), (SELECT text FROM name WHERE id = s.actor),
               (SELECT text FROM name WHERE id = s.status),
               p.trace IS NOT s.trace, p.tenant IS NOT s.tenant, p.actor IS NOT s.actor
          FROM span AS s JOIN callsite AS c ON c.id = s.callsite JOIN run AS r ON r.id = s.run
          JOIN trace AS t ON t.id = s.trace LEFT JOIN span AS p ON p.id = s.parent
         WHERE s.id = +?1";
    asked
        .connection
        .prepare_cached(sql)?
        .query_row([id], |row| {
            let text = |index: usize| row.get::<_, Option<String>>(index);
            let trace_id = row.get_ref(4)?.as_blob().map(uuid::Uuid::from_slice);
            let trace_id = trace_id.ok().and_then(Result::ok).unwrap_or_default();
            let named = text(5)?;
            let said = |index: usize, value: Option<String>| -> rusqlite::Result<_> {
                Ok(if row.get(index)? { value } else { None })
            };
            let (tenant, actor) = (text(9)?, text(10)?);
            let columns = [
                ("event_type", text(7)?),
                ("category", text(8)?),
                ("correlation_id", said(12, named.clone())?),
                ("tenant_id", said(13, tenant.clone())?),
                ("actor_id", said(14, actor.clone())?),
                ("status", text(11)?),
                ("otel.name", text(6)?),
            ];
            let columns: Vec<_> = columns.into_iter().filter_map(|(name, value)| Some((name, value?.into()))).collect();
            let (name, payload): (String, String) = (row.get(1)?, row.get(2)?);
            Ok(Span {
                parent: row.get(0)?,
                object: object(&columns, &payload, Some(&name)),
                id: format!("{:016x}", row.get::<_, i64>(3)?),
                trace_id: trace_id.simple().to_string(),
                inherited: [Some(named.unwrap_or_else(|| trace_id.to_string())), tenant, actor],
            })
        })
        .optional()
}

/// Microseconds, as `tracing_subscriber` writes them.
fn timestamp(unix_ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(unix_ns.into()).map_or_else(|_| unix_ns.to_string(), |at| format!("{at:.6}"))
}

/// A whole number where it is one.
fn milliseconds(ns: u128) -> serde_json::Value {
    match u64::try_from(ns / 1_000_000) {
        Ok(ms) if ns.is_multiple_of(1_000_000) => ms.into(),
        _ => (ns as f64 / 1e6).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_microseconds() {
        assert_eq!(timestamp(1_700_000_000_123_456_789), "2023-11-14T22:13:20.123456Z");
        assert_eq!(timestamp(1_700_000_000_000_000_000), "2023-11-14T22:13:20.000000Z");
    }
}
