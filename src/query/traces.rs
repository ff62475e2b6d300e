//! The question "which traces?": the newest, the slowest, the failed.

use std::{collections::HashSet, fmt, time::Duration};

use rusqlite::OptionalExtension as _;
use serde::Serialize;

use super::{
    Cursor, Page, SpanState, Total, Value,
    events::read,
    page::{FAILED_TRACES, NEWEST_TRACES, Place, SLOWEST_TRACES, TOTAL_EXACT_MAX, TOTAL_WITHIN},
    row::correlation_text,
    text,
    window::Window,
};
use crate::{
    clock::Timestamp,
    error::Result,
    store::{Asked, Asking, Source},
};

const LIMIT_DEFAULT: u32 = 20;
const LIMIT_MAX: u32 = 1_000;
/// Spans taken at one look.
const BATCH_MAX: usize = 20_000;

/// A question about traces: the newest ones, unless it asks for the [`slowest`](Self::slowest) or the
/// [`failed`](Self::failed).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let l0 = l0::builder().dir(dir.path()).start()?;
/// # use tracing_subscriber::prelude::*;
/// # let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(l0.layer()));
/// tracing::info_span!("request", correlation_id = "order-9").in_scope(|| tracing::error!("card refused"));
/// let failed = l0.traces().failed().fetch()?;
/// assert_eq!((failed.items[0].correlation_id.as_str(), failed.items[0].errors), ("order-9", 1));
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a question is asked by fetch()"]
pub struct Traces {
    source: Source,
    window: Window,
    asking: Asking,
    order: Order,
    limit: u32,
    after: Option<Cursor>,
}

/// Which come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Newest,
    Slowest,
    Failed,
}

/// One trace in a list. A trace of several root spans is listed once: by its newest, or its slowest.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TraceRow {
    /// The caller's text, or the UUID of a trace that nobody named.
    pub correlation_id: String,
    /// The root span's name.
    pub root: String,
    /// When the root span was opened.
    pub started_at: Timestamp,
    /// The root span's duration; `None` if it has not ended.
    pub duration: Option<Duration>,
    /// What became of the root span.
    pub state: SpanState,
    /// Spans of the trace.
    pub spans: u32,
    /// Events of severity error and above in the trace, and failed spans that hold none.
    pub errors: u32,
}

impl Traces {
    pub(crate) fn new(source: Source) -> Self {
        let (window, asking) = (Window::default(), Asking::default());
        Self { source, window, asking, order: Order::Newest, limit: LIMIT_DEFAULT, after: None }
    }

    /// That began not longer ago than this.
    pub fn last(mut self, d: Duration) -> Self {
        self.window.last = Some(d);
        self
    }

    /// That began at or after this time.
    pub fn since(mut self, t: Timestamp) -> Self {
        self.window.since = Some(t);
        self
    }

    /// That began before this time.
    pub fn until(mut self, t: Timestamp) -> Self {
        self.window.until = Some(t);
        self
    }

    /// By duration, the longest first; those that have not ended are not among them. Looks at every root span in the
    /// window: a million take about a tenth of a second.
    pub fn slowest(mut self) -> Self {
        self.order = Order::Slowest;
        self
    }

    /// Only those with an error in a span, or a span whose status is `error`; the newest first.
    pub fn failed(mut self) -> Self {
        self.order = Order::Failed;
        self
    }

    /// At most this many: 20 unless said otherwise, one at least, 1,000 at most.
    pub fn limit(mut self, n: u32) -> Self {
        self.limit = n.clamp(1, LIMIT_MAX);
        self
    }

    /// The page behind this cursor, with the same window and order.
    pub fn after(mut self, c: &Cursor) -> Self {
        self.after = Some(c.clone());
        self
    }

    /// As [`Events::fresh`](super::Events::fresh).
    pub fn fresh(mut self, flush_first: bool) -> Self {
        self.asking.fresh = flush_first;
        self
    }

    /// As [`Events::within`](super::Events::within).
    pub fn within(mut self, d: Duration) -> Self {
        self.asking.within = d;
        self
    }

    /// One page of traces.
    ///
    /// # Errors
    /// As [`Events::fetch`](super::Events::fetch).
    pub fn fetch(self) -> Result<Page<TraceRow>> {
        let behind = self.after.as_ref().map(|cursor| cursor.key(self.order.cursor_kind())).transpose()?;
        let (since, until) = self.window.bounds(self.source.now())?;
        let (since, until) = (since.unwrap_or(i64::MIN), until.unwrap_or(i64::MAX));
        self.source.clone().ask(self.asking, "cannot read traces", |asked| self.page(asked, behind, since, until))
    }

    fn page(
        &self,
        asked: &Asked<'_>,
        after: Option<(i64, i64)>,
        since: i64,
        until: i64,
    ) -> rusqlite::Result<Page<TraceRow>> {
        let limit = self.limit as usize;
        let mut found: Vec<(Place, TraceRow)> = Vec::new();
        let mut seen: HashSet<String> = HashSet::new();
        let mut behind = after;
        let mut batch = limit + 1;
        // One more tells whether there is another page.
        while found.len() <= limit {
            let candidates = self.candidates(asked, behind, since, until, batch)?;
            behind = candidates.last().map(|candidate| candidate.key);
            let is_last = candidates.len() < batch;
            for candidate in candidates {
                if found.len() > limit || !seen.insert(candidate.name.clone()) {
                    continue;
                }
                let is_known = match after {
                    Some(after) => self.was_listed(asked, &candidate.name, after, since, until)?,
                    None => false,
                };
                if !is_known {
                    let place = Place { kind: self.order.cursor_kind(), key: candidate.key };
                    found.extend(by_span(asked, candidate.key.1)?.map(|row| (place, row)));
                }
            }
            if is_last {
                break;
            }
            // One name may have very many spans: each look goes farther than the last.
            batch = (batch * 4).min(BATCH_MAX);
        }
        let has_more = found.len() > limit;
        found.truncate(limit);
        let total = if after.is_none() && !has_more {
            Total::Exactly(found.len() as u64)
        } else {
            self.total(asked, since, until, found.len() as u64)?
        };
        let next = found.last().filter(|_| has_more).map(|(place, _)| Cursor::at(*place));
        let items = found.into_iter().map(|(_, row)| row).collect();
        Ok(Page { items, total, next, incomplete: asked.incomplete.clone() })
    }

    /// Spans in order, the first of each trace among them.
    fn candidates(
        &self,
        asked: &Asked<'_>,
        behind: Option<(i64, i64)>,
        since: i64,
        until: i64,
        batch: usize,
    ) -> rusqlite::Result<Vec<Candidate>> {
        let (among, key) = (self.order.among(), self.order.key());
        let mut values: Vec<Value> = vec![since.into(), until.into()];
        let mut beyond = String::new();
        if let Some((first, second)) = behind {
            values.extend([first, first, second].map(Value::from));
            beyond = format!("AND {key} <= ?3 AND ({key} < ?4 OR id < ?5)");
        }
        // The keys alone, which the index holds; then the rows.
        let sql = format!(
            "SELECT k.key, k.id, {NAME} FROM (SELECT {key} AS key, id FROM span
                 WHERE {among} AND started_at >= ?1 AND started_at < ?2 {beyond}
                 ORDER BY {key} DESC, id DESC LIMIT {batch}) AS k JOIN span ON span.id = k.id
              ORDER BY k.key DESC, k.id DESC"
        );
        read(asked.connection, &sql, &values, |row| {
            Ok(Candidate { key: (row.get(0)?, row.get(1)?), name: row.get(2)? })
        })
    }

    /// Whether an earlier page, up to this place, has the trace.
    fn was_listed(
        &self,
        asked: &Asked<'_>,
        name: &str,
        upto: (i64, i64),
        since: i64,
        until: i64,
    ) -> rusqlite::Result<bool> {
        let (among, key) = (self.order.among(), self.order.key());
        // `+` keeps SQLite to the index of traces.
        let sql = format!(
            "SELECT 1 FROM span WHERE trace IN ({NAMED}) AND +{among} AND +started_at >= ?2 AND +started_at < ?3
                AND (+{key} > ?4 OR +{key} = ?4 AND id >= ?5) LIMIT 1"
        );
        asked.connection.prepare_cached(&sql)?.exists((name, since, until, upto.0, upto.1))
    }

    fn total(&self, asked: &Asked<'_>, since: i64, until: i64, at_least: u64) -> rusqlite::Result<Total> {
        let among = self.order.among();
        let sql = format!(
            "SELECT count(*), count(DISTINCT name) FROM (SELECT {NAME} AS name FROM span WHERE {among} AND started_at >= ?1
                AND started_at < ?2 LIMIT {})",
            TOTAL_EXACT_MAX + 1
        );
        let counted = asked.briefly(TOTAL_WITHIN, |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            statement.query_row([since, until], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        })?;
        Ok(match counted {
            Some((roots, traces)) if roots.cast_unsigned() <= TOTAL_EXACT_MAX => Total::Exactly(traces.cast_unsigned()),
            Some((_, traces)) => Total::AtLeast(traces.cast_unsigned()),
            None => Total::AtLeast(at_least),
        })
    }
}

/// A span by which a trace may be listed.
struct Candidate {
    key: (i64, i64),
    /// The trace's text, or its id in hexadecimal: traces of one text are one.
    name: String,
}

/// The name of the trace of a row of `span`.
const NAME: &str = "(SELECT coalesce(correlation_id, hex(trace_id)) FROM trace WHERE id = span.trace)";

/// The traces of a candidate's name.
const NAMED: &str = "SELECT id FROM trace WHERE correlation_id = ?1 UNION ALL
    SELECT id FROM trace WHERE correlation_id IS NULL AND length(?1) = 32 AND trace_id = unhex(?1)";

impl Order {
    fn cursor_kind(self) -> char {
        match self {
            Self::Newest => NEWEST_TRACES,
            Self::Slowest => SLOWEST_TRACES,
            Self::Failed => FAILED_TRACES,
        }
    }

    /// Which spans a trace may be listed by.
    fn among(self) -> &'static str {
        match self {
            Self::Newest => "is_root",
            Self::Slowest => "is_root AND duration_ns IS NOT NULL",
            Self::Failed => "is_failed",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Newest | Self::Failed => "started_at",
            Self::Slowest => "duration_ns",
        }
    }
}

/// The row of the trace that a span is in: by that span if it is a root, else by the trace's slowest root.
pub(super) fn by_span(asked: &Asked<'_>, span: i64) -> rusqlite::Result<Option<TraceRow>> {
    // `+`: compared with the conditions of partial indexes, a bare parameter would have the statement compiled anew each time.
    let sql = "
        WITH s AS (SELECT id, trace, is_root FROM span WHERE id = +?1),
             named AS (SELECT trace AS id FROM s UNION
                       SELECT id FROM trace
                        WHERE correlation_id = (SELECT correlation_id FROM trace WHERE id = (SELECT trace FROM s))),
             r AS (SELECT * FROM span WHERE id = (SELECT CASE WHEN s.is_root THEN s.id ELSE coalesce(
                       (SELECT id FROM span WHERE trace = s.trace AND +is_root ORDER BY +duration_ns DESC LIMIT 1),
                       s.id) END FROM s))
        SELECT (SELECT coalesce(correlation_id, trace_id) FROM trace WHERE id = r.trace),
               coalesce((SELECT text FROM name WHERE id = r.name), c.name), r.started_at, r.duration_ns,
               (SELECT count(*) FROM span WHERE trace IN named),
               (SELECT coalesce(sum(max(errors, is_failed)), 0) FROM span WHERE trace IN named)
                 + (SELECT count(*) FROM warning WHERE trace IN named AND severity >= 4 AND span IS NULL),
               r.state
          FROM r JOIN callsite AS c ON c.id = r.callsite";
    let count = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
    asked
        .connection
        .prepare_cached(sql)?
        .query_row([span], |row| {
            Ok(TraceRow {
                correlation_id: correlation_text(row.get_ref(0)?).unwrap_or_default(),
                root: row.get(1)?,
                started_at: Timestamp::from_unix_ns(row.get(2)?),
                duration: row.get::<_, Option<i64>>(3)?.map(|ns| Duration::from_nanos(ns.unsigned_abs())),
                spans: count(row.get(4)?),
                errors: count(row.get(5)?),
                state: SpanState::from_code(row.get(6)?),
            })
        })
        .optional()
}

impl fmt::Display for TraceRow {
    /// One line: duration, root, correlation id, spans, errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = match (self.state, self.duration) {
            (SpanState::Interrupted, _) => "cut short".to_owned(),
            (_, duration) => duration.map_or_else(|| "running".to_owned(), text::human_duration),
        };
        let plural = |count: u32, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let errors = if self.errors > 0 { format!("  {}", plural(self.errors, "error")) } else { String::new() };
        let name = text::cut(&self.root, 20);
        let (id, spans) = (text::harmless(&self.correlation_id), plural(self.spans, "span"));
        write!(f, "{time:>9}  {name}  {id}  {spans}{errors}")
    }
}
