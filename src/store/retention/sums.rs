//! What outlives the rows, and its own bounds: rollups, the slowest roots, the shed, runs, the record of maintenance.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{super::Cleanup, PAGE_BYTES};

/// Bytes of a rollup's row but for its histogram; as the migration counts them.
pub(in crate::store) const ROLLUP_BYTES: i64 = 48;
/// Bytes of a row of `limit_count` but for its texts.
pub(in crate::store) const LIMIT_COUNT_BYTES: i64 = 40;
const HOUR_S: i64 = 3_600;
/// Minutes are kept this long, hours that.
const MINUTES_KEPT_S: i64 = 48 * HOUR_S;
const HOURS_KEPT_S: i64 = 400 * 24 * HOUR_S;
/// At their share's end rollups by minute go before those by hour, but for the latest.
const MINUTES_KEPT_AT_LEAST_S: i64 = 2 * HOUR_S;
const RUNS_KEPT: i64 = 10_000;
const MAINTENANCE_KEPT: i64 = 1_000;

/// Removes one period's rollups and counts of limits if they are too old, or take too much; without a time to trust only the latter. Says
/// whether there may be more to remove.
pub(super) fn trim_rollups(
    connection: &Connection,
    run: Option<i64>,
    now_s: Option<i64>,
    bytes_kept: i64,
) -> rusqlite::Result<bool> {
    let oldest = |period: i64| -> rusqlite::Result<Option<i64>> {
        connection
            .prepare_cached(
                "SELECT min(start) FROM (SELECT min(start) AS start FROM rollup WHERE period = ?1 UNION ALL
                                         SELECT min(start) FROM limit_count WHERE period = ?1)",
            )?
            .query_row([period], |row| row.get(0))
    };
    let bytes: i64 =
        connection.prepare_cached("SELECT ifnull(sum(rollup_bytes), 0) FROM run")?.query_row([], |row| row.get(0))?;
    let is_too_much = bytes > bytes_kept;
    // Keys are outsiders' words: they go before anything that the program itself has counted.
    if is_too_much && trim_keys(connection, run)? {
        return Ok(true);
    }
    let (minute, hour) = (oldest(60)?, oldest(HOUR_S)?);
    let older = |start: Option<i64>, kept_s: i64| {
        start.filter(|start| now_s.is_some_and(|now_s| now_s.saturating_sub(*start) > kept_s))
    };
    let victim = older(minute, MINUTES_KEPT_S)
        .map(|start| (60, start))
        .or(older(hour, HOURS_KEPT_S).map(|start| (HOUR_S, start)))
        .or(older(minute, MINUTES_KEPT_AT_LEAST_S).filter(|_| is_too_much).map(|start| (60, start)))
        .or(older(hour, HOUR_S).filter(|_| is_too_much).map(|start| (HOUR_S, start)))
        .or(minute.filter(|_| is_too_much).map(|start| (60, start)));
    let Some((period, start)) = victim else { return Ok(false) };
    let which = [period, start];
    let bytes: Option<i64> = connection
        .prepare_cached(
            "SELECT (SELECT ifnull(sum(?3 + ifnull(octet_length(durations), 0)), 0) FROM rollup
                      WHERE period = ?1 AND start = ?2)
                  + (SELECT ifnull(sum(?4 + octet_length(scope) + octet_length(key)), 0) FROM limit_count
                      WHERE period = ?1 AND start = ?2)",
        )?
        .query_row([period, start, ROLLUP_BYTES, LIMIT_COUNT_BYTES], |row| row.get(0))?;
    connection.prepare_cached("DELETE FROM rollup WHERE period = ?1 AND start = ?2")?.execute(which)?;
    connection.prepare_cached("DELETE FROM limit_count WHERE period = ?1 AND start = ?2")?.execute(which)?;
    connection.prepare_cached("DELETE FROM slow WHERE period = ?1 AND start <= ?2")?.execute(which)?;
    give_back(connection, run, bytes.unwrap_or(0))?;
    Ok(true)
}

/// Removes the oldest period's counts by key. Says whether there were any.
fn trim_keys(connection: &Connection, run: Option<i64>) -> rusqlite::Result<bool> {
    let oldest: Option<(i64, i64)> = connection
        .prepare_cached("SELECT period, start FROM limit_count WHERE key <> '' ORDER BY period, start LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((period, start)) = oldest else { return Ok(false) };
    let bytes: i64 = connection
        .prepare_cached(
            "SELECT ifnull(sum(?3 + octet_length(scope) + octet_length(key)), 0) FROM limit_count
              WHERE period = ?1 AND start = ?2 AND key <> ''",
        )?
        .query_row([period, start, LIMIT_COUNT_BYTES], |row| row.get(0))?;
    connection
        .prepare_cached("DELETE FROM limit_count WHERE period = ?1 AND start = ?2 AND key <> ''")?
        .execute([period, start])?;
    give_back(connection, run, bytes)?;
    Ok(true)
}

/// The rollups' tables have become smaller.
fn give_back(connection: &Connection, run: Option<i64>, bytes: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE run SET rollup_bytes = rollup_bytes - ?2 WHERE id = ifnull(?1, (SELECT max(id) FROM run))",
        )?
        .execute(params![run, bytes])
        .map(drop)
}

/// Removes what refers to spans that are gone, and the oldest records of maintenance.
pub(super) fn trim_small(connection: &Connection) -> rusqlite::Result<()> {
    // By number, which rises whatever the clock does.
    connection.prepare_cached("DELETE FROM slow WHERE span < (SELECT min(id) FROM span)")?.execute([])?;
    let last: Option<i64> = connection
        .prepare_cached("SELECT minute FROM maintenance_run ORDER BY minute DESC LIMIT 1 OFFSET ?1")?
        .query_row([MAINTENANCE_KEPT], |row| row.get(0))
        .optional()?;
    if let Some(minute) = last {
        connection.prepare_cached("DELETE FROM maintenance_run WHERE minute <= ?1")?.execute([minute])?;
    }
    Ok(())
}

/// Brings old counts of the shed together by hour.
pub(super) fn gather_shed(connection: &Connection, now_s: i64) -> rusqlite::Result<()> {
    let old = now_s - MINUTES_KEPT_S;
    if connection.prepare_cached("SELECT 1 FROM shed WHERE minute < ?1 AND minute % 3600 <> 0")?.exists([old])? {
        connection
            .prepare_cached(
                "INSERT INTO shed (run, minute, reason, severity, count)
                 SELECT run, minute - minute % 3600, reason, severity, sum(count) FROM shed
                  WHERE minute < ?1 AND minute % 3600 <> 0 GROUP BY 1, 2, 3, 4
                 ON CONFLICT DO UPDATE SET count = count + excluded.count",
            )?
            .execute([old])?;
        connection.prepare_cached("DELETE FROM shed WHERE minute < ?1 AND minute % 3600 <> 0")?.execute([old])?;
    }
    Ok(())
}

/// Removes the oldest ended runs of which no rows are left, when there are very many. What they counted goes to `run`.
pub(super) fn trim_runs(connection: &Connection, run: Option<i64>, database_pages: i64) -> rusqlite::Result<()> {
    let kept = RUNS_KEPT.min(database_pages * PAGE_BYTES as i64 / 2_048);
    let last: Option<i64> = connection
        .prepare_cached("SELECT id FROM run ORDER BY id DESC LIMIT 1 OFFSET ?1")?
        .query_row([kept], |row| row.get(0))
        .optional()?;
    let Some(last) = last else { return Ok(()) };
    let gone = "id <= ?1 AND outcome <> 'running'
        AND ended_at < ifnull((SELECT min(at) FROM event), 9e18) AND ended_at < ifnull((SELECT min(at) FROM warning), 9e18)
        AND ended_at < ifnull((SELECT started_at FROM span ORDER BY id LIMIT 1), 9e18)";
    connection
        .prepare_cached(&format!(
            "UPDATE run SET
                warning_bytes = warning_bytes + (SELECT ifnull(sum(warning_bytes), 0) FROM run WHERE {gone}),
                rollup_bytes = rollup_bytes + (SELECT ifnull(sum(rollup_bytes), 0) FROM run WHERE {gone})
              WHERE id = ifnull(?2, (SELECT max(id) FROM run))"
        ))?
        .execute(params![last, run])?;
    for table in ["shed", "lane"] {
        let sql = format!("DELETE FROM {table} WHERE run IN (SELECT id FROM run WHERE {gone})");
        connection.prepare_cached(&sql)?.execute([last])?;
    }
    connection.prepare_cached(&format!("DELETE FROM run WHERE {gone}"))?.execute([last])?;
    Ok(())
}

/// Why something was removed, as the view `maintenance` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The cap.
    Cap,
    /// Its age.
    Age,
    /// A database larger than its share.
    Shrink,
    /// By hand.
    Compact,
}

impl Why {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Cap => "cap",
            Self::Age => "age",
            Self::Shrink => "shrink",
            Self::Compact => "compact",
        }
    }
}

/// One piece of maintenance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) why: Why,
    pub(super) run: Option<i64>,
    pub(super) at_unix_ns: i64,
    pub(super) done: Cleanup,
    pub(super) window: Option<(i64, i64)>,
    pub(super) took_ns: i64,
}

/// Notes it, in its own transaction.
pub(super) fn note(connection: &Connection, piece: &Piece) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO maintenance_run (minute, reason, run, rows, freed, returned, from_at, until_at, duration_ns)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT DO UPDATE SET rows = rows + excluded.rows, freed = freed + excluded.freed,
                returned = returned + excluded.returned, duration_ns = duration_ns + excluded.duration_ns,
                from_at = min(ifnull(from_at, excluded.from_at), ifnull(excluded.from_at, from_at)),
                until_at = max(ifnull(until_at, excluded.until_at), ifnull(excluded.until_at, until_at))",
        )?
        .execute(params![
            piece.at_unix_ns.div_euclid(60_000_000_000) * 60,
            piece.why.as_str(),
            piece.run.unwrap_or(0),
            piece.done.rows.cast_signed(),
            piece.done.bytes.cast_signed(),
            piece.done.returned_bytes.cast_signed(),
            piece.window.map(|(from, _)| from),
            piece.window.map(|(_, until)| until),
            piece.took_ns,
        ])
        .map(drop)
}
