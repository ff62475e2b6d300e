//! Removing rows: the oldest first, at the left edge of each table, so that whole pages become free.
//!
//! Events and spans go together, by time; warnings have a share of their own. Rows that seem to be of the far future,
//! recorded while the clock was wrong, go before all others. A trace goes with the last row that refers to it.

use rusqlite::{Connection, OptionalExtension as _, params};

/// About the bytes of a warning's row but for its texts, with its entries in indexes; and of the trace that is kept for it.
/// As the migration counts them.
pub(in crate::store) const WARNING_BYTES: i64 = 96;
pub(in crate::store) const WARNING_TRACE_BYTES: i64 = 160;

/// What may be removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Events and spans up to this time, and warnings up to that.
    pub(super) rows_until: i64,
    pub(super) warnings_until: i64,
    /// As many spans are looked at, in their order, for one that may go; all if none is given. Clocks that were set leave spans
    /// of a later date before those of an earlier one.
    pub(super) spans_looked_at: Option<i64>,
    /// Rows later than this are of the far future; they go first.
    pub(super) future: i64,
    /// While warnings take no more than this, events and spans go before them, however old they are.
    pub(super) warning_bytes_kept: i64,
    /// Spans that are still open go, too, when nothing else is left.
    pub(super) may_take_running: bool,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Removed {
    pub(super) rows: u64,
    /// The times of the first and of the last of them.
    pub(super) window: Option<(i64, i64)>,
    pub(super) warning_bytes: i64,
    pub(super) traces: u64,
    pub(super) running: u64,
}

impl Removed {
    pub(super) fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.warning_bytes += other.warning_bytes;
        self.traces += other.traces;
        self.running += other.running;
        if let Some((from, until)) = other.window {
            let (first, last) = self.window.unwrap_or((from, until));
            self.window = Some((first.min(from), last.max(until)));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Rows,
    Warnings,
    FutureEvents,
    FutureWarnings,
    Running,
}

/// Removes some rows, about `count` of each kind it takes; none if nothing may be removed.
///
/// `spans_from` is where the spans begin that are not open, as far as is known: there may be very many that are.
pub(super) fn remove_some(
    connection: &Connection,
    cut: &Cut,
    spans_from: &mut i64,
    count: i64,
) -> rusqlite::Result<Removed> {
    let mut victim = choose(connection, cut, spans_from)?;
    if matches!(victim, None | Some(Victim::Running)) && *spans_from > 0 && cut.spans_looked_at.is_none() {
        // Some may have closed since.
        *spans_from = 0;
        victim = choose(connection, cut, spans_from)?;
    }
    let Some(victim) = victim else { return Ok(Removed::default()) };
    match victim {
        Victim::Rows => remove_rows(connection, cut, *spans_from, count),
        Victim::Warnings => {
            let range = oldest(connection, "warning", cut.warnings_until, count)?;
            range.map_or(Ok(Removed::default()), |range| remove_events(connection, "warning", range))
        }
        Victim::FutureEvents => remove_future(connection, "event", cut.future, count),
        Victim::FutureWarnings => remove_future(connection, "warning", cut.future, count),
        Victim::Running => remove_spans(connection, (0, count), i64::MAX, i64::MAX, true),
    }
}

fn choose(connection: &Connection, cut: &Cut, spans_from: &mut i64) -> rusqlite::Result<Option<Victim>> {
    let time = |sql: &str| connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, Option<i64>>(0));
    if time("SELECT max(at) FROM event")?.is_some_and(|at| at > cut.future) {
        return Ok(Some(Victim::FutureEvents));
    }
    if time("SELECT max(at) FROM warning")?.is_some_and(|at| at > cut.future) {
        return Ok(Some(Victim::FutureWarnings));
    }
    let event = time("SELECT min(at) FROM event")?.filter(|at| *at <= cut.rows_until);
    let span = connection
        .prepare_cached(
            "SELECT id, started_at
               FROM (SELECT id, started_at, state FROM span
                      WHERE id >= ?1 AND (state <> 1 OR ?4 >= 0) AND id < (SELECT max(id) FROM span) ORDER BY id LIMIT ?4)
              WHERE state <> 1 AND (started_at <= ?2 OR started_at > ?3) LIMIT 1",
        )?
        .query_row([*spans_from, cut.rows_until, cut.future, cut.spans_looked_at.unwrap_or(-1)], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    *spans_from = match span {
        Some((id, _)) => id,
        None if cut.spans_looked_at.is_some() => *spans_from,
        None => time("SELECT max(id) FROM span")?.unwrap_or(0),
    };
    let span = span.map(|(_, at)| at);
    let warning = time("SELECT min(at) FROM warning")?.filter(|at| *at <= cut.warnings_until);
    let warning_bytes = time("SELECT sum(warning_bytes) FROM run")?.unwrap_or(0);
    let row = match (event, span) {
        (Some(event), Some(span)) => Some(event.min(span)),
        (event, span) => event.or(span),
    };
    Ok(match (row, warning) {
        (Some(row), Some(warning)) if warning_bytes > cut.warning_bytes_kept && warning < row => Some(Victim::Warnings),
        (Some(_), _) => Some(Victim::Rows),
        (None, Some(_)) => Some(Victim::Warnings),
        (None, None) if cut.may_take_running => Some(Victim::Running),
        (None, None) => None,
    })
}

/// Events and spans up to the earlier of where about `count` of either end.
fn remove_rows(connection: &Connection, cut: &Cut, spans_from: i64, count: i64) -> rusqlite::Result<Removed> {
    let events = oldest(connection, "event", cut.rows_until, count)?;
    let spans: Option<i64> = connection
        .prepare_cached(
            "SELECT max(started_at) FROM (SELECT started_at FROM span
                WHERE id >= ?3 AND state <> 1 AND id < (SELECT max(id) FROM span) ORDER BY id LIMIT ?1)
              WHERE started_at <= ?2",
        )?
        .query_row([count, cut.rows_until.min(cut.future), spans_from], |row| row.get(0))?;
    let until = match (events, spans) {
        (Some((_, event)), Some(span)) => event.min(span),
        (Some((_, event)), None) => event,
        (None, Some(span)) => span,
        // Only spans of the future are there.
        (None, None) => i64::MIN,
    };
    let mut removed = Removed::default();
    if let Some((first, last)) = events.filter(|(first, _)| *first <= until) {
        removed.add(remove_events(connection, "event", (first, last.min(until)))?);
    }
    removed.add(remove_spans(connection, (spans_from, count), until, cut.future, false)?);
    Ok(removed)
}

/// The times of the oldest `count` rows up to `until`, first and last.
fn oldest(connection: &Connection, table: &str, until: i64, count: i64) -> rusqlite::Result<Option<(i64, i64)>> {
    let sql = format!("SELECT min(at), max(at) FROM (SELECT at FROM {table} WHERE at <= ?1 ORDER BY at LIMIT ?2)");
    connection.prepare_cached(&sql)?.query_row([until, count], |row| Ok(row.get::<_, Option<i64>>(0)?.zip(row.get(1)?)))
}

fn remove_future(connection: &Connection, table: &str, future: i64, count: i64) -> rusqlite::Result<Removed> {
    let sql = format!("SELECT min(at), max(at) FROM (SELECT at FROM {table} WHERE at > ?1 ORDER BY at DESC LIMIT ?2)");
    let range = connection
        .prepare_cached(&sql)?
        .query_row([future, count], |row| Ok(row.get::<_, Option<i64>>(0)?.zip(row.get(1)?)))?;
    range.map_or(Ok(Removed::default()), |range| remove_events(connection, table, range))
}

fn remove_events(connection: &Connection, table: &str, (first, last): (i64, i64)) -> rusqlite::Result<Removed> {
    let range = [first, last];
    // By the key: an index would visit what stays.
    let sql =
        format!("SELECT DISTINCT trace FROM {table} NOT INDEXED WHERE at BETWEEN ?1 AND ?2 AND trace IS NOT NULL");
    let traces = numbers(connection, &sql, range)?;
    let warning_bytes = if table == "warning" {
        connection
            .prepare_cached(
                "SELECT sum(?3 + ?4 * (trace IS NOT NULL) + ifnull(octet_length(message), 0) + ifnull(octet_length(payload), 0))
                   FROM warning WHERE at BETWEEN ?1 AND ?2",
            )?
            .query_row(params![first, last, WARNING_BYTES, WARNING_TRACE_BYTES], |row| row.get::<_, Option<i64>>(0))?
            .unwrap_or(0)
    } else {
        0
    };
    let sql = format!("DELETE FROM {table} WHERE at BETWEEN ?1 AND ?2");
    let rows = connection.prepare_cached(&sql)?.execute(range)? as u64;
    let traces = remove_traces(connection, &traces)?;
    Ok(Removed { rows, window: (rows > 0).then_some((first, last)), warning_bytes, traces, running: 0 })
}

/// Of the first `count` spans from `from` on, those that began up to `until`, or in the future. The last one of all stays,
/// so that its number is not given again.
fn remove_spans(
    connection: &Connection,
    (from, count): (i64, i64),
    until: i64,
    future: i64,
    even_running: bool,
) -> rusqlite::Result<Removed> {
    let found = connection
        .prepare_cached(
            "SELECT max(id), min(started_at), max(started_at) FROM (SELECT id, started_at FROM span
                WHERE id >= ?3 AND (state <> 1 OR ?2) AND id < (SELECT max(id) FROM span) ORDER BY id LIMIT ?1)",
        )?
        .query_row(params![count, even_running, from], |row| {
            Ok(row.get::<_, Option<i64>>(0)?.map(|id| (id, row.get::<_, i64>(1), row.get::<_, i64>(2))))
        })?;
    let Some((last, oldest, newest)) = found else { return Ok(Removed::default()) };
    let which = "id BETWEEN ?5 AND ?1 AND (state <> 1 OR ?4) AND (started_at <= ?2 OR started_at > ?3)";
    let range = params![last, until, future, even_running, from];
    let sql = format!("SELECT DISTINCT trace FROM span NOT INDEXED WHERE {which}");
    let traces = numbers(connection, &sql, range)?;
    let rows = connection.prepare_cached(&format!("DELETE FROM span WHERE {which}"))?.execute(range)? as u64;
    connection
        .prepare_cached(
            "DELETE FROM link WHERE span BETWEEN ?2 AND ?1 AND NOT EXISTS (SELECT 1 FROM span WHERE id = link.span)",
        )?
        .execute([last, from])?;
    let traces = remove_traces(connection, &traces)?;
    Ok(Removed {
        rows,
        window: (rows > 0).then_some((oldest?, newest?.min(until))),
        warning_bytes: 0,
        traces,
        running: if even_running { rows } else { 0 },
    })
}

/// Those to which no row refers any more.
fn remove_traces(connection: &Connection, traces: &[i64]) -> rusqlite::Result<u64> {
    let mut remove = connection.prepare_cached(
        "DELETE FROM trace WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM event WHERE trace = ?1)
            AND NOT EXISTS (SELECT 1 FROM span WHERE trace = ?1) AND NOT EXISTS (SELECT 1 FROM warning WHERE trace = ?1)",
    )?;
    traces.iter().try_fold(0, |removed, trace| Ok(removed + remove.execute([trace])? as u64))
}

/// How many rows that are too old there are, and about how many bytes they take.
pub(super) fn count(connection: &Connection, cut: &Cut) -> rusqlite::Result<(u64, u64)> {
    let texts = "ifnull(octet_length(message), 0) + ifnull(octet_length(payload), 0)";
    let mut sum = (0, 0);
    for (sql, until) in [
        (format!("SELECT count(*), ifnull(sum(?2 + {texts}), 0) FROM event WHERE at <= ?1"), cut.rows_until),
        (format!("SELECT count(*), ifnull(sum(?2 + {texts}), 0) FROM warning WHERE at <= ?1"), cut.warnings_until),
        (
            "SELECT count(*), ifnull(sum(?2 + ifnull(octet_length(payload), 0)), 0) FROM span
              WHERE started_at <= ?1 AND state <> 1 AND id < (SELECT max(id) FROM span)"
                .to_owned(),
            cut.rows_until,
        ),
    ] {
        let (rows, bytes): (i64, i64) =
            connection.query_row(&sql, [until, WARNING_BYTES], |row| Ok((row.get(0)?, row.get(1)?)))?;
        sum = (sum.0 + rows.cast_unsigned(), sum.1 + bytes.cast_unsigned());
    }
    Ok(sum)
}

/// A column of numbers, without its NULLs.
fn numbers(connection: &Connection, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached(sql)?;
    let found =
        statement.query_map(params, |row| row.get::<_, Option<i64>>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(found.into_iter().flatten().collect())
}
