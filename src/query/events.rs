//! The question "which events?": filters, pages, counts.

use std::time::{Duration, Instant};

use rusqlite::{Connection, params_from_iter};

use super::{
    Cursor, EventRow, Page, Total, Value,
    filter::{Filter, Leg},
    page::{EVENTS, Place, TOTAL_EXACT_MAX, TOTAL_WITHIN},
    search,
    window::Window,
};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    event::Severity,
    store::{Asked, Asking, Source},
};

/// Rows on a page unless `limit` says otherwise, and at most.
const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 10_000;

/// A question about events: filters, then [`fetch`](Self::fetch) or [`count`](Self::count).
///
/// Newest first unless [`oldest_first`](Self::oldest_first). All filters must hold. What was audited is among them.
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
    pub(super) source: Source,
    pub(super) filters: Vec<Filter>,
    pub(super) window: Window,
    pub(super) asking: Asking,
    oldest_first: bool,
    limit: u32,
    after: Option<Cursor>,
}

impl Events {
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            filters: Vec::new(),
            window: Window::default(),
            asking: Asking::default(),
            oldest_first: false,
            limit: LIMIT_DEFAULT,
            after: None,
        }
    }

    /// Not older than this, by the store's clock, which is the system's unless a builder set another.
    pub fn last(mut self, d: Duration) -> Self {
        self.window.last = Some(d);
        self
    }

    /// At or after this time.
    pub fn since(mut self, t: Timestamp) -> Self {
        self.window.since = Some(t);
        self
    }

    /// Before this time.
    pub fn until(mut self, t: Timestamp) -> Self {
        self.window.until = Some(t);
        self
    }

    /// Of this severity or a higher one.
    pub fn at_least(self, s: Severity) -> Self {
        self.with(Filter::AtLeast(s))
    }

    /// Of exactly this type; `log` for plain `tracing` events.
    pub fn event_type(self, s: &str) -> Self {
        self.with(Filter::EventType(s.to_owned()))
    }

    /// From exactly this source, or target.
    pub fn source(self, s: &str) -> Self {
        self.with(Filter::Source(s.to_owned()))
    }

    /// Of exactly this category.
    pub fn category(self, s: &str) -> Self {
        self.with(Filter::Category(s.to_owned()))
    }

    /// Belonging to this correlation id, or to the trace with this UUID or hex id.
    pub fn correlation_id(self, s: &str) -> Self {
        let hashed = self.source.hashed(s);
        self.with(Filter::CorrelationId(s.to_owned(), hashed))
    }

    /// Of exactly this tenant.
    pub fn tenant_id(self, s: &str) -> Self {
        let hashed = self.source.hashed(s);
        self.with(Filter::TenantId(s.to_owned(), hashed))
    }

    /// By exactly this actor.
    pub fn actor_id(self, s: &str) -> Self {
        let hashed = self.source.hashed(s);
        self.with(Filter::ActorId(s.to_owned(), hashed))
    }

    /// With exactly this status.
    pub fn status(self, s: &str) -> Self {
        self.with(Filter::Status(s.to_owned()))
    }

    /// Whose message contains this text, case and all.
    pub fn message(self, contains: &str) -> Self {
        self.with(Filter::Message(contains.to_owned()))
    }

    /// Whose payload has this field with this value. Text equals text, a number equals a number of the same value.
    pub fn field(self, name: &str, equals: impl Into<Value>) -> Self {
        self.with(Filter::Field(name.to_owned(), equals.into()))
    }

    /// That match what a person types: words, `"phrases"`, `field:value`, numbers as `field:>100`, and each of these with
    /// a `-` for what must not be.
    ///
    /// - A word or phrase is looked for in the message and in the fields, their names included, whatever its case (of ASCII
    ///   letters).
    /// - `level:warn` is that or worse. `target:` (or `source:`) compares beginnings, `message:` looks for a part, `span:` is the
    ///   name of the span it is in, `trace:`, `tenant:`, `actor:`, `category:`, `type:` and `status:` are the columns;
    ///   `status:>=500` compares numbers.
    /// - `duration:>100ms` is about the event's own duration, or else that of the span it is in.
    /// - Every other name is a field of the payload, and so is `@name`; `name:*` asks whether there is such a field.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// # use l0::TelemetryEvent;
    /// let declined = TelemetryEvent::new("payment").message("card declined").payload(&serde_json::json!({"code": 402}));
    /// l0.record(declined);
    /// assert_eq!(l0.events().search("DECLINED code:>400 -retry")?.count()?, 1);
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// `is_invalid_input` for an open quote, an unknown level, a comparison with what is no number.
    pub fn search(mut self, text: &str) -> Result<Self> {
        self.filters.extend(search::parse(text, self.filters.len(), |id| self.source.hashed(id))?);
        Ok(self)
    }

    /// Oldest first.
    pub fn oldest_first(mut self) -> Self {
        self.oldest_first = true;
        self
    }

    /// At most this many rows on a page: 100 unless said otherwise, one at least, 10,000 at most.
    pub fn limit(mut self, n: u32) -> Self {
        self.limit = n.clamp(1, LIMIT_MAX);
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
        self.asking.fresh = flush_first;
        self
    }

    /// How long the answer may take: 30 seconds unless set.
    pub fn within(mut self, d: Duration) -> Self {
        self.asking.within = d;
        self
    }

    /// One page of events. Blocks for the flush and the query, both bounded. The total is exact up to 10,000 or as far as
    /// 25 ms of counting reach.
    ///
    /// # Errors
    /// `is_invalid_input` for a cursor or window that makes no sense, `is_storage` if the store cannot be read,
    /// `is_timeout` if the answer takes longer than it may, `is_closed` in a forked child.
    pub fn fetch(self) -> Result<Page<EventRow>> {
        let behind = self.after.as_ref().map(cursor_key).transpose()?;
        let legs = self.legs()?;
        let limit = self.limit as usize;
        self.source.clone().ask(self.asking, "cannot read events", |asked| {
            let mut rows = rows(asked, &legs, behind, self.oldest_first, limit + 1)?;
            let has_more = rows.len() > limit;
            rows.truncate(limit);
            let total = match behind {
                None if !has_more => Total::Exactly(rows.len() as u64),
                _ => total(asked, &legs)?.at_least(rows.len() as u64 + u64::from(has_more)),
            };
            let next = rows.last().filter(|_| has_more).map(|row| {
                let (at, leg) = row.key();
                Cursor::at(Place { kind: EVENTS, key: (at, leg as i64) })
            });
            Ok(Page { items: rows, total, next, incomplete: asked.incomplete.clone() })
        })
    }

    /// How many events there are, exactly. Reads every row in the window that the filters do not exclude by an index.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn count(self) -> Result<u64> {
        let legs = self.legs()?;
        self.source.ask(self.asking, "cannot count events", |asked| {
            let mut count = 0;
            for leg in &legs {
                let sql = format!("SELECT count(*) {}", leg.condition);
                count += read(asked.connection, &sql, &leg.values, |row| row.get::<_, i64>(0))?.iter().sum::<i64>();
            }
            Ok(count.cast_unsigned())
        })
    }

    pub(super) fn with(mut self, filter: Filter) -> Self {
        self.filters.push(filter);
        self
    }

    /// The tables that may have rows, each with its condition.
    pub(super) fn legs(&self) -> Result<Vec<Condition>> {
        let (since, until) = self.window.bounds(self.source.now())?;
        Ok(Leg::ALL.into_iter().filter_map(|leg| Condition::new(leg, &self.filters, since, until)).collect())
    }
}

/// One table's part of a question.
pub(super) struct Condition {
    pub(super) leg: Leg,
    /// `FROM .. WHERE ..`
    pub(super) condition: String,
    pub(super) values: Vec<Value>,
}

impl Condition {
    fn new(leg: Leg, filters: &[Filter], since: Option<i64>, until: Option<i64>) -> Option<Self> {
        let mut values = Vec::new();
        let mut condition = format!("{} WHERE true", leg.from());
        for (sign, bound) in [(">=", since), ("<", until)] {
            if let Some(bound) = bound {
                condition.push_str(&format!(" AND e.at {sign} ?"));
                values.push(bound.into());
            }
        }
        for filter in filters {
            condition.push_str(" AND ");
            condition.push_str(&filter.sql(leg, &mut values)?);
        }
        Some(Self { leg, condition, values })
    }

    /// The SQL of one page, behind a row or from the beginning, up to a time or to the end.
    pub(super) fn page(
        &self,
        behind: Option<(i64, Leg)>,
        upto: Option<i64>,
        oldest_first: bool,
        limit: usize,
    ) -> (String, Vec<Value>) {
        let (columns, condition) = (self.leg.columns(), &self.condition);
        let mut values = self.values.clone();
        let (order, beyond) = if oldest_first { ("ASC", ">") } else { ("DESC", "<") };
        let behind = behind.map_or_else(String::new, |(at, leg)| {
            values.push(at.into());
            // Rows of one nanosecond are ordered by table.
            let includes_its_time = if oldest_first { self.leg > leg } else { self.leg < leg };
            format!(" AND e.at {beyond}{} ?", if includes_its_time { "=" } else { "" })
        });
        let upto = upto.map_or_else(String::new, |at| {
            values.push(at.into());
            format!(" AND e.at {} ?", if oldest_first { "<=" } else { ">=" })
        });
        (format!("SELECT {columns} {condition}{behind}{upto} ORDER BY e.at {order} LIMIT {limit}"), values)
    }
}

fn cursor_key(cursor: &Cursor) -> Result<(i64, Leg)> {
    let (at, leg) = cursor.key(EVENTS)?;
    let leg = Leg::of(leg).ok_or_else(|| Error::invalid_input(format!("{cursor:?} is not a cursor")))?;
    Ok((at, leg))
}

/// The first rows of all tables behind a row, or from the beginning, in order.
pub(super) fn rows(
    asked: &Asked<'_>,
    legs: &[Condition],
    behind: Option<(i64, Leg)>,
    oldest_first: bool,
    limit: usize,
) -> rusqlite::Result<Vec<EventRow>> {
    let mut rows = Vec::new();
    // Behind the last row of a full page no other table's row is wanted.
    let mut upto = None;
    for leg in legs {
        let (sql, values) = leg.page(behind, upto, oldest_first, limit);
        let found = read(asked.connection, &sql, &values, |row| EventRow::from_row(row, leg.leg))?;
        upto = found.get(limit - 1).map(|row: &EventRow| row.at.as_unix_ns()).or(upto);
        rows.extend(found);
    }
    rows.sort_unstable_by_key(EventRow::key);
    if !oldest_first {
        rows.reverse();
    }
    rows.truncate(limit);
    Ok(rows)
}

/// Counts as far as it may.
fn total(asked: &Asked<'_>, legs: &[Condition]) -> rusqlite::Result<Total> {
    let until = Instant::now() + TOTAL_WITHIN;
    let mut count = 0;
    for leg in legs {
        let left = until.saturating_duration_since(Instant::now());
        let counted = asked.briefly(left, |connection| {
            let mut statement = connection.prepare_cached(&format!("SELECT 1 {}", leg.condition))?;
            let mut rows = statement.query(params_from_iter(&leg.values))?;
            while count < TOTAL_EXACT_MAX && rows.next()?.is_some() {
                count += 1;
            }
            // One more tells whether there is one more.
            Ok(count < TOTAL_EXACT_MAX || rows.next()?.is_none())
        })?;
        if counted != Some(true) {
            return Ok(Total::AtLeast(count));
        }
    }
    Ok(Total::Exactly(count))
}

pub(super) fn read<T>(
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
