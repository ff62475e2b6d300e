//! The question "what happened in this request?": a trace as a tree.

use std::{collections::HashMap, time::Duration};

use serde::Serialize;

use super::{
    EventRow, Value,
    events::read,
    filter::{self, Leg},
    row::correlation_text,
};
use crate::{
    clock::Timestamp,
    error::Result,
    event::Severity,
    store::{Asked, Asking, Source},
};

/// Spans and events of one trace that are shown; the others are counted.
const SPANS_MAX: usize = 10_000;
const EVENTS_MAX: usize = 10_000;
/// Spans deeper than this are shown beside their parents.
const DEPTH_MAX: usize = 100;
/// Traces that share a name and are shown as one.
const TRACES_MAX: usize = 1_000;

/// Everything that belongs to one correlation id: spans as trees, each with its events, and what is in none of them.
///
/// Each event is in one place: in its span, or in `events`. `Display` draws the tree within 80 columns.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Trace {
    /// The caller's text, or the UUID of a trace that nobody named.
    pub correlation_id: String,
    /// W3C's: 32 hexadecimal digits.
    pub trace_id: String,
    /// The root spans, in the order they were opened.
    pub spans: Vec<SpanNode>,
    /// Events in none of its spans: those of a scope.
    pub events: Vec<EventRow>,
    /// Spans and events there were too many of: the latest ones.
    pub left_out: u64,
    /// As of [`Page`](super::Page).
    pub incomplete: Option<String>,
}

/// What became of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanState {
    /// It ended.
    Closed,
    /// It has not ended, as far as the store knows.
    Running,
    /// Its process vanished, or l0 was shut down, before it ended.
    Interrupted,
}

impl SpanState {
    /// As it is stored.
    pub(super) fn from_code(code: i64) -> Self {
        match code {
            0 => Self::Closed,
            1 => Self::Running,
            _ => Self::Interrupted,
        }
    }

    /// As the view `spans` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Running => "running",
            Self::Interrupted => "interrupted",
        }
    }
}

/// One span, with what is inside it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SpanNode {
    /// Its name; `otel.name` if it was given.
    pub name: String,
    /// The target of its callsite.
    pub target: String,
    /// What became of it.
    pub state: SpanState,
    /// When it was opened.
    pub started_at: Timestamp,
    /// From opening to close; `None` if it has not ended.
    pub duration: Option<Duration>,
    /// The part of its duration in which none of its children in this trace was open.
    pub self_time: Option<Duration>,
    /// The spans in it, in the order they were opened.
    pub children: Vec<SpanNode>,
    /// The events in it, in order.
    pub events: Vec<EventRow>,
    /// Its number in the view `spans`.
    pub id: i64,
    /// Its callsite's level.
    pub severity: Severity,
    /// Whether an error is directly in it, or its status says so.
    pub is_failed: bool,
    /// Its outcome.
    pub status: Option<String>,
    /// Its other fields, as a JSON object.
    pub payload: String,
    /// The spans it follows from, which may be of other traces.
    pub follows_from: Vec<Follows>,
}

/// A span that another follows from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Follows {
    /// Its number in the view `spans`.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// What it belongs to.
    pub correlation_id: Option<String>,
}

impl Trace {
    /// All spans, parents before their children.
    pub fn all_spans(&self) -> impl Iterator<Item = &SpanNode> {
        let mut left: Vec<&SpanNode> = self.spans.iter().rev().collect();
        std::iter::from_fn(move || {
            let span = left.pop()?;
            left.extend(span.children.iter().rev());
            Some(span)
        })
    }

    /// All events, those in spans and those in none, in order of time.
    pub fn all_events(&self) -> Vec<&EventRow> {
        let mut events: Vec<_> = self.all_spans().flat_map(|span| &span.events).chain(&self.events).collect();
        events.sort_by_key(|event| event.key());
        events
    }

    /// When the first of it began.
    pub fn started_at(&self) -> Option<Timestamp> {
        let spans = self.spans.iter().map(|span| span.started_at);
        spans.chain(self.events.iter().map(|event| event.at)).min()
    }

    /// When the last of it ended, as far as it has.
    pub fn ended_at(&self) -> Option<Timestamp> {
        let spans = self.all_spans().map(|span| span.started_at.saturating_add(span.duration.unwrap_or_default()));
        spans.chain(self.all_spans().flat_map(|span| &span.events).chain(&self.events).map(|event| event.at)).max()
    }

    /// Events of severity error and above, and failed spans that hold none.
    pub fn errors(&self) -> usize {
        let is_error = |event: &&EventRow| event.severity >= Severity::Error;
        let in_spans =
            self.all_spans().map(|span| span.events.iter().filter(is_error).count().max(usize::from(span.is_failed)));
        in_spans.sum::<usize>() + self.events.iter().filter(is_error).count()
    }
}

/// Everything of the correlation id, UUID or hexadecimal trace id; `None` if there is nothing.
pub(crate) fn trace(source: &Source, id: &str) -> Result<Option<Trace>> {
    let hashed = source.hashed(id);
    source.ask(Asking::default(), "cannot read the trace", |asked| load(asked, id, &hashed))
}

/// A span's row, with the row of its parent, and its run and own id in it.
struct Loaded {
    parent: Option<i64>,
    own: (i64, i64),
    node: SpanNode,
}

fn load(asked: &Asked<'_>, id: &str, hashed: &[String]) -> rusqlite::Result<Option<Trace>> {
    let mut values = Vec::new();
    let found = filter::traces(id, hashed, &mut values);
    // A trace found by its hexadecimal id brings in the others of its name.
    values.extend(values.clone());
    let sql = format!(
        "SELECT id, trace_id, correlation_id FROM trace WHERE id IN ({found}) UNION
         SELECT id, trace_id, correlation_id FROM trace WHERE correlation_id IN (SELECT correlation_id FROM trace WHERE id IN ({found}))
         ORDER BY id LIMIT {TRACES_MAX}"
    );
    let rows = read(asked.connection, &sql, &values, |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Option<String>>(2)?))
    })?;
    let first = rows.first();
    let name = rows.iter().find_map(|(_, _, name)| name.clone());
    let trace_id = first.and_then(|(_, trace_id, _)| uuid::Uuid::from_slice(trace_id).ok());
    let correlation_id = name.or_else(|| trace_id.map(|id| id.to_string())).unwrap_or_else(|| id.to_owned());
    let trace_id = trace_id.unwrap_or_else(|| uuid::Uuid::from_bytes(crate::correlation::trace_id_of(&correlation_id)));

    let ids: Vec<Value> = rows.iter().map(|(id, ..)| Value::Integer(*id)).collect();
    let marks = vec!["?"; ids.len()].join(", ");
    let spans = spans(asked, &marks, &ids)?;
    let mut events = Vec::new();
    let condition = format!("e.trace IN ({marks})");
    let mut left_out = count_beyond(asked, "FROM span AS e", &condition, &ids, spans.len(), SPANS_MAX)?;
    for leg in [Leg::Event, Leg::Warning] {
        let found = events_of(asked, leg, &condition, &ids)?;
        left_out += count_beyond(asked, leg.from(), &condition, &ids, found.len(), EVENTS_MAX)?;
        events.extend(found);
    }
    let mut audit: Vec<Value> = vec![id.into(), correlation_id.as_str().into(), trace_id.to_string().into()];
    let made = rows.iter().filter_map(|(_, trace_id, _)| uuid::Uuid::from_slice(trace_id).ok());
    audit.extend(made.map(|made| made.to_string().into()));
    audit.extend(hashed.iter().map(|hashed| Value::from(hashed.as_str())));
    let condition = format!("e.correlation_id IN ({})", vec!["?"; audit.len()].join(", "));
    let mut audited = events_of(asked, Leg::Audit, &condition, &audit)?;
    place_audited(asked, &condition, &audit, &spans, &mut audited)?;
    left_out += count_beyond(asked, Leg::Audit.from(), &condition, &audit, audited.len(), EVENTS_MAX)?;
    events.extend(audited);
    if spans.is_empty() && events.is_empty() {
        return Ok(None);
    }
    events.sort_by_key(EventRow::key);
    let trace_id = trace_id.simple().to_string();
    let (spans, events) = tree(spans, events);
    let incomplete = asked.incomplete.clone();
    Ok(Some(Trace { correlation_id, trace_id, spans, events, left_out, incomplete }))
}

fn spans(asked: &Asked<'_>, marks: &str, ids: &[Value]) -> rusqlite::Result<Vec<Loaded>> {
    let sql = format!(
        "SELECT s.id, s.parent, s.started_at, s.duration_ns, s.state, s.is_failed, coalesce(s.payload, '{{}}'),
                coalesce((SELECT text FROM name WHERE id = s.name), c.name), c.target, c.severity,
                (SELECT text FROM name WHERE id = s.status), s.run, s.own
           FROM span AS s JOIN callsite AS c ON c.id = s.callsite
          WHERE s.trace IN ({marks}) ORDER BY s.id LIMIT {SPANS_MAX}"
    );
    let mut loaded = read(asked.connection, &sql, ids, |row| {
        let node = SpanNode {
            id: row.get(0)?,
            started_at: Timestamp::from_unix_ns(row.get(2)?),
            duration: row.get::<_, Option<i64>>(3)?.map(|ns| Duration::from_nanos(ns.unsigned_abs())),
            state: SpanState::from_code(row.get(4)?),
            is_failed: row.get(5)?,
            payload: row.get(6)?,
            name: row.get(7)?,
            target: row.get(8)?,
            severity: Severity::from_code(row.get(9)?),
            status: row.get(10)?,
            self_time: None,
            children: Vec::new(),
            events: Vec::new(),
            follows_from: Vec::new(),
        };
        Ok(Loaded { parent: row.get(1)?, own: (row.get(11)?, row.get(12)?), node })
    })?;
    let sql = format!(
        "SELECT l.span, s.id, coalesce((SELECT text FROM name WHERE id = s.name), c.name),
                (SELECT coalesce(correlation_id, trace_id) FROM trace WHERE id = s.trace)
           FROM span AS own JOIN link AS l ON l.span = own.id JOIN span AS s ON s.id = l.follows
           JOIN callsite AS c ON c.id = s.callsite WHERE own.trace IN ({marks}) LIMIT {SPANS_MAX}"
    );
    for (span, follows) in read(asked.connection, &sql, ids, |row| {
        let correlation_id = correlation_text(row.get_ref(3)?);
        Ok((row.get::<_, i64>(0)?, Follows { id: row.get(1)?, name: row.get(2)?, correlation_id }))
    })? {
        if let Ok(index) = loaded.binary_search_by_key(&span, |loaded| loaded.node.id) {
            loaded[index].node.follows_from.push(follows);
        }
    }
    Ok(loaded)
}

fn events_of(asked: &Asked<'_>, leg: Leg, condition: &str, values: &[Value]) -> rusqlite::Result<Vec<EventRow>> {
    let (columns, from) = (leg.columns(), leg.from());
    let sql = format!("SELECT {columns} {from} WHERE {condition} ORDER BY e.at LIMIT {EVENTS_MAX}");
    read(asked.connection, &sql, values, |row| EventRow::from_row(row, leg))
}

/// Finds the spans in which events were audited: they name them by run and own id, not by row.
fn place_audited(
    asked: &Asked<'_>,
    condition: &str,
    values: &[Value],
    spans: &[Loaded],
    audited: &mut [EventRow],
) -> rusqlite::Result<()> {
    if audited.is_empty() {
        return Ok(());
    }
    let rows: HashMap<(i64, i64), i64> = spans.iter().map(|span| (span.own, span.node.id)).collect();
    let sql = format!(
        "SELECT (SELECT id FROM run WHERE uuid = e.run), e.span FROM audit AS e WHERE {condition} ORDER BY e.at LIMIT {EVENTS_MAX}"
    );
    let own =
        read(asked.connection, &sql, values, |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?)))?;
    for (event, own) in audited.iter_mut().zip(own) {
        event.span_id = own.0.zip(own.1).and_then(|own| rows.get(&own).copied());
    }
    Ok(())
}

/// How many rows there are beyond those that were read.
fn count_beyond(
    asked: &Asked<'_>,
    from: &str,
    condition: &str,
    values: &[Value],
    read_rows: usize,
    max: usize,
) -> rusqlite::Result<u64> {
    if read_rows < max {
        return Ok(0);
    }
    let sql = format!("SELECT count(*) {from} WHERE {condition}");
    let count: i64 = read(asked.connection, &sql, values, |row| row.get::<_, i64>(0))?.iter().sum();
    Ok(count.cast_unsigned().saturating_sub(read_rows as u64))
}

/// Puts events into their spans and spans into their parents; returns the roots and the events that are in none. Rows
/// are in order of their numbers, and a parent's number is the smaller one.
fn tree(loaded: Vec<Loaded>, events: Vec<EventRow>) -> (Vec<SpanNode>, Vec<EventRow>) {
    let index_of: HashMap<i64, usize> = loaded.iter().enumerate().map(|(index, l)| (l.node.id, index)).collect();
    let mut parents: Vec<Option<usize>> = Vec::with_capacity(loaded.len());
    let mut depths: Vec<usize> = Vec::with_capacity(loaded.len());
    for (index, span) in loaded.iter().enumerate() {
        let parent = span.parent.and_then(|row| index_of.get(&row).copied()).filter(|parent| *parent < index);
        // At the greatest depth a child stands beside its parent.
        let parent = match parent {
            Some(parent) if depths[parent] >= DEPTH_MAX => parents[parent],
            parent => parent,
        };
        depths.push(parent.map_or(0, |parent| depths[parent] + 1));
        parents.push(parent);
    }
    let mut nodes: Vec<Option<SpanNode>> = loaded.into_iter().map(|loaded| Some(loaded.node)).collect();
    let mut outside = Vec::new();
    for event in events {
        let node = event.span_id.and_then(|row| index_of.get(&row)).and_then(|index| nodes[*index].as_mut());
        match node {
            Some(node) => node.events.push(event),
            None => outside.push(event),
        }
    }
    let mut roots = Vec::new();
    for index in (0..nodes.len()).rev() {
        let Some(mut node) = nodes[index].take() else { continue };
        // In the order they were opened, which no clock's step changes.
        node.children.sort_by_key(|child| child.id);
        node.self_time = node.duration.map(|duration| duration.saturating_sub(covered(&node, duration)));
        match parents[index].and_then(|parent| nodes[parent].as_mut()) {
            Some(parent) => parent.children.push(node),
            None => roots.push(node),
        }
    }
    roots.sort_by_key(|root| root.id);
    (roots, outside)
}

/// How much of the span some child covers; children may overlap or outlive it.
fn covered(node: &SpanNode, duration: Duration) -> Duration {
    let begin = node.started_at.as_unix_ns();
    let end = node.started_at.saturating_add(duration).as_unix_ns();
    let mut covered_to = begin;
    let mut covered_ns = 0;
    let mut children: Vec<&SpanNode> = node.children.iter().collect();
    children.sort_by_key(|child| child.started_at);
    for child in children {
        let from = child.started_at.as_unix_ns().max(covered_to);
        let to = child.duration.map_or(end, |duration| child.started_at.saturating_add(duration).as_unix_ns().min(end));
        if to > from {
            covered_ns += to - from;
            covered_to = to;
        }
    }
    Duration::from_nanos(covered_ns.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loaded(id: i64, parent: Option<i64>, from: i64, ns: Option<u64>) -> Loaded {
        let node = SpanNode {
            id,
            name: format!("s{id}"),
            target: String::new(),
            state: SpanState::Closed,
            started_at: Timestamp::from_unix_ns(from),
            duration: ns.map(Duration::from_nanos),
            self_time: None,
            children: Vec::new(),
            events: Vec::new(),
            severity: Severity::Info,
            is_failed: false,
            status: None,
            payload: "{}".into(),
            follows_from: Vec::new(),
        };
        Loaded { parent, own: (1, id), node }
    }

    #[test]
    fn self_time_counts_overlaps_once_and_only_inside() {
        let spans = vec![
            loaded(1, None, 0, Some(100)),
            loaded(2, Some(1), 10, Some(30)),
            loaded(3, Some(1), 20, Some(40)),
            loaded(4, Some(1), 90, Some(500)),
            loaded(5, Some(2), 15, None),
        ];
        let (roots, _) = tree(spans, Vec::new());
        // 10..60 and 90..100 are covered.
        assert_eq!(roots[0].self_time, Some(Duration::from_nanos(40)));
        // Its child has not ended: it covers what is left.
        assert_eq!(roots[0].children[0].self_time, Some(Duration::from_nanos(5)));
        assert_eq!(roots[0].children[0].children[0].self_time, None);
    }

    /// Spans inside each other.
    fn chain(count: i64) -> Trace {
        let spans = (1..=count).map(|id| loaded(id, (id > 1).then_some(id - 1), id, Some(1))).collect();
        let (spans, events) = tree(spans, Vec::new());
        let (correlation_id, trace_id) = (String::new(), String::new());
        Trace { correlation_id, trace_id, spans, events, left_out: 0, incomplete: None }
    }

    #[test]
    fn a_chain_deeper_than_the_cap_loses_nothing() {
        let trace = chain(20_000);
        assert_eq!(trace.all_spans().count(), 20_000);
        assert!(!trace.to_string().is_empty());
    }

    #[test]
    fn a_tree_is_as_wide_as_it_is_asked_to_be() {
        let trace = chain(150);
        for width in [0, 60, 80, 120, 300] {
            let text = format!("{trace:width$}");
            assert_eq!(text.lines().count(), 150 + 3);
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width.max(60), "{widest} of {width}");
            assert!(text.contains("s150"), "however deep, there is room for its name");
        }
        assert_eq!(trace.to_string(), format!("{trace:80}"));
        assert_eq!(trace.lines(usize::MAX).len(), 150 + 3);
    }

    proptest! {
        #[test]
        fn self_time_is_what_a_walk_through_time_counts(
            children in prop::collection::vec((0_i64..120, prop::option::of(0_u64..120)), 0..12),
        ) {
            let mut spans = vec![loaded(1, None, 0, Some(100))];
            spans.extend(children.iter().enumerate().map(|(i, (from, ns))| loaded(i as i64 + 2, Some(1), *from, *ns)));
            let (roots, _) = tree(spans, Vec::new());
            let is_covered = |t: i64| children.iter().any(|(from, ns)| *from <= t && ns.is_none_or(|ns| t < from + ns as i64));
            let walked = (0..100).filter(|t| !is_covered(*t)).count() as u64;
            prop_assert_eq!(roots[0].self_time, Some(Duration::from_nanos(walked)));
        }
    }
}
