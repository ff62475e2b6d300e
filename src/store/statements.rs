//! The prepared statements of a transaction.

use rusqlite::{
    CachedStatement, Connection, Row, ffi, params,
    types::{ToSqlOutput, ValueRef},
};

use super::open_span::OpenSpan;

/// Each statement of the write path, taken from the connection's cache once per transaction.
pub(super) struct Statements<'c> {
    connection: &'c Connection,
    /// [event, warning] x [without promoted columns, with them].
    events: [[CachedStatement<'c>; 2]; 2],
    span: CachedStatement<'c>,
    trace: CachedStatement<'c>,
    link: CachedStatement<'c>,
    rollup_read: CachedStatement<'c>,
    rollup_write: CachedStatement<'c>,
    position: CachedStatement<'c>,
    shed: CachedStatement<'c>,
}

/// One row of `event` or `warning`.
#[derive(Debug, Default)]
pub(super) struct EventRow<'a> {
    pub(super) run: i64,
    pub(super) severity: i64,
    pub(super) callsite: Option<i64>,
    pub(super) span: Option<i64>,
    pub(super) trace: Option<i64>,
    pub(super) message: Option<&'a str>,
    pub(super) payload: &'a [u8],
    /// event_type, source, category, tenant, actor, status, duration_ns
    pub(super) promoted: Option<[Option<i64>; 7]>,
}

const KEY_TAKEN: [i32; 2] = [ffi::SQLITE_CONSTRAINT_PRIMARYKEY, ffi::SQLITE_CONSTRAINT_ROWID];

type RollupRow = (i64, i64, i64, i64, i64, Option<Vec<u8>>);

impl<'c> Statements<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        let event = |table: &str| -> rusqlite::Result<[CachedStatement<'c>; 2]> {
            let short = "at, run, severity, callsite, span, trace, message, payload";
            let long = "event_type, source, category, tenant, actor, status, duration_ns";
            Ok([
                connection.prepare_cached(&format!("INSERT INTO {table} ({short}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"))?,
                connection.prepare_cached(&format!(
                    "INSERT INTO {table} ({short}, {long}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)"
                ))?,
            ])
        };
        Ok(Self {
            connection,
            events: [event("event")?, event("warning")?],
            span: connection.prepare_cached(
                "INSERT INTO span (id, run, own, state, callsite, parent, trace, started_at, duration_ns, errors, payload,
                                   name, event_type, category, tenant, actor, status)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
                 ON CONFLICT (id) DO UPDATE SET state = ?4, trace = ?7, duration_ns = ?9, errors = ?10, payload = ?11,
                    name = ?12, event_type = ?13, category = ?14, tenant = ?15, actor = ?16, status = ?17",
            )?,
            trace: connection.prepare_cached("INSERT INTO trace (trace_id) VALUES (?1)")?,
            link: connection.prepare_cached("INSERT OR IGNORE INTO link (span, follows) VALUES (?1, ?2)")?,
            rollup_read: connection.prepare_cached(
                "SELECT count, errors, timed, total_ns, max_ns, durations FROM rollup
                  WHERE period = ?1 AND start = ?2 AND series = ?3",
            )?,
            rollup_write: connection.prepare_cached(
                "INSERT OR REPLACE INTO rollup (period, start, series, count, errors, timed, total_ns, max_ns, durations)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?,
            position: connection.prepare_cached("INSERT OR REPLACE INTO lane (run, lane, position) VALUES (?1, ?2, ?3)")?,
            shed: connection.prepare_cached(
                "INSERT INTO shed (run, minute, reason, severity, count) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET count = count + excluded.count",
            )?,
        })
    }

    /// Inserts under `at`; `Ok(false)` if another row has that nanosecond.
    pub(super) fn insert_event(&mut self, is_warning: bool, at: i64, row: &EventRow<'_>) -> rusqlite::Result<bool> {
        let statement = &mut self.events[usize::from(is_warning)][usize::from(row.promoted.is_some())];
        statement.raw_bind_parameter(1, at)?;
        statement.raw_bind_parameter(2, row.run)?;
        statement.raw_bind_parameter(3, row.severity)?;
        statement.raw_bind_parameter(4, row.callsite)?;
        statement.raw_bind_parameter(5, row.span)?;
        statement.raw_bind_parameter(6, row.trace)?;
        statement.raw_bind_parameter(7, row.message)?;
        statement.raw_bind_parameter(8, json(row.payload))?;
        for (index, value) in row.promoted.iter().flatten().enumerate() {
            statement.raw_bind_parameter(9 + index, value)?;
        }
        match statement.raw_execute() {
            Ok(_) => Ok(true),
            Err(rusqlite::Error::SqliteFailure(error, _)) if KEY_TAKEN.contains(&error.extended_code) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The first nanosecond from `at` on that no row of the table has.
    pub(super) fn next_free(&self, is_warning: bool, at: i64) -> rusqlite::Result<i64> {
        let table = if is_warning { "warning" } else { "event" };
        self.connection
            .prepare_cached(&format!(
                "SELECT a.at + 1 FROM {table} AS a WHERE a.at >= ?1
                    AND NOT EXISTS (SELECT 1 FROM {table} AS b WHERE b.at = a.at + 1) ORDER BY a.at LIMIT 1"
            ))?
            .query_row([at], |row| row.get(0))
    }

    pub(super) fn write_span(&mut self, run: i64, own: u64, state: i64, span: &OpenSpan) -> rusqlite::Result<()> {
        self.span.execute(params![
            span.row,
            run,
            own.cast_signed(),
            state,
            span.callsite,
            span.parent,
            span.trace,
            span.started_at,
            span.duration_ns,
            span.errors,
            json(&span.payload),
            span.name,
            span.event_type,
            span.category,
            span.tenant,
            span.actor,
            span.status,
        ])?;
        Ok(())
    }

    pub(super) fn insert_trace(&mut self, trace_id: &[u8; 16]) -> rusqlite::Result<i64> {
        self.trace.insert([trace_id.as_slice()])
    }

    pub(super) fn insert_link(&mut self, span: i64, follows: i64) -> rusqlite::Result<()> {
        self.link.execute([span, follows]).map(drop)
    }

    /// Replaces a rollup's row with what `sum` makes of the stored one.
    pub(super) fn add_rollup(
        &mut self,
        period: i64,
        start: i64,
        series: i64,
        sum: impl FnOnce(Option<&Row<'_>>) -> rusqlite::Result<RollupRow>,
    ) -> rusqlite::Result<()> {
        let (count, errors, timed, total_ns, max_ns, durations) = {
            let mut rows = self.rollup_read.query([period, start, series])?;
            sum(rows.next()?)?
        };
        self.rollup_write
            .execute(params![period, start, series, count, errors, timed, total_ns, max_ns, durations])
            .map(drop)
    }

    pub(super) fn write_position(&mut self, run: i64, lane: usize, position: u64) -> rusqlite::Result<()> {
        self.position.execute(params![run, lane as i64, position.cast_signed()]).map(drop)
    }

    pub(super) fn add_shed(
        &mut self,
        run: i64,
        minute: i64,
        reason: &str,
        severity: i64,
        count: u64,
    ) -> rusqlite::Result<()> {
        self.shed.execute(params![run, minute, reason, severity, count.cast_signed()]).map(drop)
    }
}

/// JSON bytes as text, NULL where there is nothing to say.
fn json(bytes: &[u8]) -> Option<ToSqlOutput<'_>> {
    (!bytes.is_empty()).then_some(ToSqlOutput::Borrowed(ValueRef::Text(bytes)))
}
