//! The question "which events?": filters, pages, counts.

use std::{fmt, str::FromStr, time::Duration};

use rusqlite::{Connection, params_from_iter};

use super::{EventRow, Value, row::COLUMNS};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    event::Severity,
    store::Source,
};

/// Rows on a page unless `limit` says otherwise, and at most.
const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 10_000;
/// A payload that SQLite takes for JSON: its own limit is a depth of 1,000.
const PAYLOAD: &str = "CASE WHEN json_valid(e.payload) THEN e.payload END";
/// A page's total is exact up to this many.
const TOTAL_EXACT_MAX: u64 = 10_000;

/// A question about events: filters, then [`fetch`](Self::fetch) or [`count`](Self::count).
///
/// Newest first unless [`oldest_first`](Self::oldest_first). All filters must hold.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let l0 = l0::builder().dir(dir.path()).start()?;
/// use l0::{Severity, TelemetryEvent};
/// l0.record(TelemetryEvent::new("order.placed").tenant_id("acme").payload(&serde_json::json!({"total": 12})));
/// let page = l0.events().tenant_id("acme").field("total", 12).fetch()?;
/// assert_eq!(page.items[0].event_type, "order.placed");
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a question is asked by fetch() or count()"]
pub struct Events {
    source: Source,
    conditions: Vec<String>,
    values: Vec<Value>,
    last: Option<Duration>,
    /// Warnings and above have a table of their own; the other need not be looked at.
    only_warnings: bool,
    oldest_first: bool,
    limit: u32,
    after: Option<Cursor>,
    fresh: bool,
}

/// One page of rows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// How many rows the question has in all.
    pub total: Total,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<Cursor>,
}

/// A count that stops counting where it would take long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    /// All rows were counted.
    Exactly(u64),
    /// There are more than could be counted quickly.
    AtLeast(u64),
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(count) => write!(f, "{count}"),
            Self::AtLeast(count) => write!(f, "at least {count}"),
        }
    }
}

/// Where a page ended. Its text may be given to a client and parsed again.
///
/// ```
/// assert!("nonsense".parse::<l0::query::Cursor>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn at(id: i64) -> Self {
        Self(format!("e{id}"))
    }

    fn id(&self) -> Result<i64> {
        self.0.strip_prefix('e').and_then(|id| id.parse().ok()).ok_or_else(|| {
            Error::invalid_input(format!("{:?} is not a cursor: pass on the `next` of a page unchanged", self.0))
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let cursor = Self(text.to_owned());
        cursor.id().map(|_| cursor)
    }
}

impl Events {
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            conditions: Vec::new(),
            values: Vec::new(),
            last: None,
            only_warnings: false,
            oldest_first: false,
            limit: LIMIT_DEFAULT,
            after: None,
            fresh: true,
        }
    }

    /// Not older than this, by the system's clock.
    pub fn last(mut self, d: Duration) -> Self {
        self.last = Some(d);
        self
    }

    /// At or after this time.
    pub fn since(self, t: Timestamp) -> Self {
        self.with("e.at >= ?", t.as_unix_ns())
    }

    /// Before this time.
    pub fn until(self, t: Timestamp) -> Self {
        self.with("e.at < ?", t.as_unix_ns())
    }

    /// Of this severity or a higher one.
    pub fn at_least(mut self, s: Severity) -> Self {
        self.only_warnings |= s >= Severity::Warning;
        self.with("e.severity >= ?", s as i64)
    }

    /// Of exactly this type; `log` for plain `tracing` events.
    pub fn event_type(self, s: &str) -> Self {
        if s == "log" {
            return self.with("(e.event_type IS NULL OR e.event_type = (SELECT id FROM name WHERE text = ?))", s);
        }
        self.with("e.event_type = (SELECT id FROM name WHERE text = ?)", s)
    }

    /// From exactly this source, or target.
    pub fn source(mut self, s: &str) -> Self {
        self.values.push(s.into());
        self.with(
            "(e.source = (SELECT id FROM name WHERE text = ?)
              OR e.source IS NULL AND e.callsite IN (SELECT id FROM callsite WHERE target = ?))",
            s,
        )
    }

    /// Of exactly this category.
    pub fn category(self, s: &str) -> Self {
        self.with("e.category = (SELECT id FROM name WHERE text = ?)", s)
    }

    /// Belonging to this correlation id, or to the trace with this UUID or hex id.
    pub fn correlation_id(mut self, s: &str) -> Self {
        match uuid::Uuid::parse_str(s) {
            Ok(id) => {
                self.values.push(s.into());
                self.with(
                    "e.trace IN (SELECT id FROM trace WHERE correlation_id = ? UNION ALL SELECT id FROM trace WHERE trace_id = ?)",
                    id.into_bytes().to_vec(),
                )
            }
            Err(_) => self.with("e.trace = (SELECT id FROM trace WHERE correlation_id = ?)", s),
        }
    }

    /// Of exactly this tenant.
    pub fn tenant_id(self, s: &str) -> Self {
        self.with("e.tenant = (SELECT id FROM name WHERE text = ?)", s)
    }

    /// By exactly this actor.
    pub fn actor_id(self, s: &str) -> Self {
        self.with("e.actor = (SELECT id FROM name WHERE text = ?)", s)
    }

    /// With exactly this status.
    pub fn status(self, s: &str) -> Self {
        self.with("e.status = (SELECT id FROM name WHERE text = ?)", s)
    }

    /// Whose message contains this text, case and all.
    pub fn message(self, contains: &str) -> Self {
        self.with("instr(e.message, ?) > 0", contains)
    }

    /// Whose payload has this field with this value. Text equals text, a number equals a number of the same value.
    pub fn field(mut self, name: &str, equals: impl Into<Value>) -> Self {
        // In a path's quotes everything but a quote and a backslash stands for itself; those two SQLite cannot find.
        let quoted: String = name.chars().filter(|c| !matches!(c, '"' | '\\')).collect();
        let path = format!("$.\"{quoted}\"");
        match equals.into() {
            Value::Null => self.with(&format!("json_type({PAYLOAD}, ?) = 'null'"), path),
            Value::Text(text) => {
                // A number too large for an integer column is read as its digits.
                self.values.extend([Value::from(path.clone()), text.clone().into(), path.into()]);
                self.with(&format!("(json_extract({PAYLOAD}, ?) = ? OR {PAYLOAD} -> ? = ?)"), text)
            }
            value => {
                self.values.push(path.into());
                self.with(&format!("json_extract({PAYLOAD}, ?) = ?"), value)
            }
        }
    }

    /// Oldest first.
    pub fn oldest_first(mut self) -> Self {
        self.oldest_first = true;
        self
    }

    /// At most this many rows on a page: 100 unless said otherwise, 10,000 at most.
    pub fn limit(mut self, n: u32) -> Self {
        self.limit = n.min(LIMIT_MAX);
        self
    }

    /// The page behind this cursor, with the same filters and order.
    pub fn after(mut self, c: &Cursor) -> Self {
        self.after = Some(c.clone());
        self
    }

    /// Whether to flush first, so that everything recorded before the call is seen: on by default, bounded by two
    /// seconds, without effect in another process.
    pub fn fresh(mut self, flush_first: bool) -> Self {
        self.fresh = flush_first;
        self
    }

    /// One page of events. Blocks for the flush (bounded) and the query.
    ///
    /// # Errors
    /// `is_invalid_input` for a cursor that is none, `is_storage` if the store cannot be read, `is_closed` in a forked
    /// child.
    pub fn fetch(self) -> Result<Page<EventRow>> {
        let behind = self.after.as_ref().map(Cursor::id).transpose()?;
        let limit = self.limit as usize;
        let order = if self.oldest_first { "ASC" } else { "DESC" };
        let (mut condition, values) = self.condition();
        let total = format!("SELECT count(*) FROM (SELECT 1 {condition} LIMIT {})", TOTAL_EXACT_MAX + 1);
        if let Some(id) = behind {
            let beyond = if self.oldest_first { ">" } else { "<" };
            condition = union(|table, is_warning| {
                let (at, same) = (id.div_euclid(2), id.rem_euclid(2));
                // Ids are twice the time, plus one for a warning.
                let edge = if self.oldest_first { is_warning > same } else { is_warning < same };
                let or_equal = if edge { "=" } else { "" };
                format!("{} AND e.at {beyond}{or_equal} {at}", self.filter(table))
            });
        }
        let rows = format!("SELECT e.* {condition} ORDER BY e.at {order}, e.is_warning {order} LIMIT {}", limit + 1);
        let sql = format!("WITH e AS ({rows}) SELECT {COLUMNS} FROM ({}) ORDER BY id {order}", named("e"));
        let (mut items, total) = self.source.ask(self.fresh, "cannot read events", |connection| {
            let total: i64 = bind(connection, &total, &values, |row| row.get(0))?.into_iter().next().unwrap_or(0);
            Ok((bind(connection, &sql, &values, EventRow::from_row)?, total.cast_unsigned()))
        })?;
        let next = (items.len() > limit).then(|| {
            items.truncate(limit);
            items.last().map(|row| Cursor::at(row.id))
        });
        let total = if total > TOTAL_EXACT_MAX { Total::AtLeast(TOTAL_EXACT_MAX) } else { Total::Exactly(total) };
        Ok(Page { items, total, next: next.flatten() })
    }

    /// How many events there are, exactly. Reads every row in the time range.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn count(self) -> Result<u64> {
        let (condition, values) = self.condition();
        let count = self.source.ask(self.fresh, "cannot count events", |connection| {
            bind(connection, &format!("SELECT count(*) {condition}"), &values, |row| row.get::<_, i64>(0))
        })?;
        Ok(count.first().map_or(0, |count| count.cast_unsigned()))
    }

    fn with(mut self, condition: &str, value: impl Into<Value>) -> Self {
        self.conditions.push(condition.to_owned());
        self.values.push(value.into());
        self
    }

    /// `FROM .. WHERE ..` over both tables, with its values once for each of them.
    fn condition(&self) -> (String, Vec<Value>) {
        let condition = union(|table, _| self.filter(table));
        (condition, [self.values.as_slice(), self.values.as_slice()].concat())
    }

    fn filter(&self, table: &str) -> String {
        let mut filter = format!("FROM {table} AS e WHERE true");
        if let Some(last) = self.last {
            let since = Timestamp::now().saturating_sub(last).as_unix_ns();
            filter.push_str(&format!(" AND e.at >= {since}"));
        }
        if self.only_warnings && table == "event" {
            filter.push_str(" AND false");
        }
        for condition in &self.conditions {
            filter.push_str(" AND ");
            filter.push_str(condition);
        }
        filter
    }
}

fn union(filter: impl Fn(&str, i64) -> String) -> String {
    format!(
        "FROM (SELECT 0 AS is_warning, e.* {} UNION ALL SELECT 1, e.* {}) AS e",
        filter("event", 0),
        filter("warning", 1)
    )
}

/// The columns of [`EventRow`] for rows of the named common table expression.
fn named(rows: &str) -> String {
    format!(
        "SELECT e.at AS at_unix_ns, e.severity, coalesce(e.message, '') AS message,
                coalesce((SELECT text FROM name WHERE id = e.event_type), 'log') AS event_type,
                coalesce((SELECT text FROM name WHERE id = e.source), c.target, '') AS source,
                (SELECT text FROM name WHERE id = e.category) AS category,
                (SELECT coalesce(correlation_id,
                        lower(substr(hex(trace_id), 1, 8) || '-' || substr(hex(trace_id), 9, 4) || '-'
                           || substr(hex(trace_id), 13, 4) || '-' || substr(hex(trace_id), 17, 4) || '-'
                           || substr(hex(trace_id), 21))) FROM trace WHERE id = e.trace) AS correlation_id,
                (SELECT text FROM name WHERE id = e.tenant) AS tenant_id,
                (SELECT text FROM name WHERE id = e.actor) AS actor_id,
                (SELECT text FROM name WHERE id = e.status) AS status,
                e.duration_ns, coalesce(e.payload, '{{}}') AS payload, e.at * 2 + e.is_warning AS id, e.span AS span_id,
                nullif(c.file, '') AS file, nullif(c.line, 0) AS line
           FROM {rows} AS e LEFT JOIN callsite AS c ON c.id = e.callsite"
    )
}

fn bind<T>(
    connection: &Connection,
    sql: &str,
    values: &[Value],
    read: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}
