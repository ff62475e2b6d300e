//! The prepared statements of a transaction.

use rusqlite::{CachedStatement, Connection, Row, params};

use super::{
    apply::{Finished, RUNNING},
    event_rows::{EventRows, text},
    open_span::OpenSpan,
};

/// Each statement of the write path, taken from the connection's cache once per transaction.
pub(super) struct Statements<'c> {
    pub(super) events: EventRows<'c>,
    span: CachedStatement<'c>,
    trace: CachedStatement<'c>,
    link: CachedStatement<'c>,
    rollup_read: CachedStatement<'c>,
    rollup_write: CachedStatement<'c>,
    position: CachedStatement<'c>,
    run: CachedStatement<'c>,
    shed: CachedStatement<'c>,
}

type RollupRow = (i64, i64, i64, i64, Option<i64>, i64, Option<Vec<u8>>);

impl<'c> Statements<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            events: EventRows::prepare(connection)?,
            span: connection.prepare_cached(
                "INSERT INTO span (id, run, own, state, callsite, parent, trace, started_at, duration_ns, errors, payload,
                                   name, event_type, category, tenant, actor, status, is_failed, is_root, opened_mono_ns)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)
                 ON CONFLICT (id) DO UPDATE SET state = ?4, trace = ?7, duration_ns = ?9, errors = ?10, payload = ?11,
                    name = ?12, event_type = ?13, category = ?14, tenant = ?15, actor = ?16, status = ?17, is_failed = ?18, is_root = ?19,
                    opened_mono_ns = ?20",
            )?,
            trace: connection.prepare_cached(
                "INSERT INTO trace (trace_id) VALUES (?1) ON CONFLICT (trace_id) DO UPDATE SET trace_id = ?1 RETURNING id",
            )?,
            link: connection.prepare_cached("INSERT OR IGNORE INTO link (span, follows) VALUES (?1, ?2)")?,
            rollup_read: connection.prepare_cached(
                "SELECT count, errors, timed, total_ns, self_ns, max_ns, durations FROM rollup
                  WHERE period = ?1 AND start = ?2 AND series = ?3",
            )?,
            rollup_write: connection.prepare_cached(
                "INSERT OR REPLACE INTO rollup (period, start, series, count, errors, timed, total_ns, self_ns, max_ns, durations)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?,
            position: connection.prepare_cached("INSERT OR REPLACE INTO lane (run, lane, position, recorded) VALUES (?1, ?2, ?3, ?4)")?,
            run: connection.prepare_cached(
                "UPDATE run SET stored = stored + ?2, warning_bytes = warning_bytes + ?3, rollup_bytes = rollup_bytes + ?4,
                    sequence = ?5
                  WHERE id = ?1",
            )?,
            shed: connection.prepare_cached(
                "INSERT INTO shed (run, minute, reason, severity, count) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET count = count + excluded.count",
            )?,
        })
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
            text(&span.payload),
            span.name,
            span.event_type,
            span.category,
            span.tenant,
            span.actor,
            span.status,
            span.is_failed(),
            span.is_root,
            (state == RUNNING).then_some(span.opened_mono_ns.cast_signed()),
        ])?;
        Ok(())
    }

    pub(super) fn insert_trace(&mut self, trace_id: &[u8; 16]) -> rusqlite::Result<i64> {
        self.trace.query_row([trace_id.as_slice()], |row| row.get(0))
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
        let (count, errors, timed, total_ns, self_ns, max_ns, durations) = {
            let mut rows = self.rollup_read.query([period, start, series])?;
            sum(rows.next()?)?
        };
        self.rollup_write
            .execute(params![period, start, series, count, errors, timed, total_ns, self_ns, max_ns, durations])
            .map(drop)
    }

    /// Where a lane is stored up to, and how many counted records that are.
    pub(super) fn write_position(
        &mut self,
        run: i64,
        lane: usize,
        (position, recorded): (u64, u64),
    ) -> rusqlite::Result<()> {
        self.position.execute(params![run, lane as i64, position.cast_signed(), recorded.cast_signed()]).map(drop)
    }

    /// Counts what a transaction came to.
    pub(super) fn add_to_run(&mut self, run: i64, stored: u64, finished: &Finished) -> rusqlite::Result<()> {
        let Finished { warning_bytes, rollup_bytes, sequence, .. } = finished;
        self.run.execute(params![run, stored.cast_signed(), warning_bytes, rollup_bytes, sequence]).map(drop)
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
