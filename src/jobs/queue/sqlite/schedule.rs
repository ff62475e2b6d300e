//! Schedules: looked for by time, changed by revision, together with the jobs that are due by that.

use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter, types::Value};

use super::{
    super::{Enqueued, ScheduleChange, SchedulePut, StoredSchedule, WhichSchedules},
    write,
};
use crate::clock::Timestamp;

/// Of those that are due.
const DUE_MAX: i64 = 1_000;

const COLUMNS: &str = "s.name, s.revision, s.next_at, s.waits, s.entry,
    (SELECT count(*) FROM job WHERE schedule = s.name AND schedule IS NOT NULL AND state < 2),
    (SELECT finished_at FROM job WHERE schedule = s.name AND schedule IS NOT NULL ORDER BY number DESC LIMIT 1)";

fn row(row: &Row<'_>) -> rusqlite::Result<StoredSchedule> {
    let time = |index| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(index)?.map(Timestamp::from_unix_ns));
    Ok(StoredSchedule {
        name: row.get(0)?,
        revision: row.get::<_, i64>(1)?.cast_unsigned(),
        next_at: time(2)?,
        waits: row.get(3)?,
        entry: row.get(4)?,
        open: row.get::<_, i64>(5)?.cast_unsigned(),
        ended_at: time(6)?,
    })
}

pub(super) fn schedules(connection: &Connection, which: &WhichSchedules) -> rusqlite::Result<Vec<StoredSchedule>> {
    let ask = |condition: &str, values: &[Value]| -> rusqlite::Result<Vec<StoredSchedule>> {
        let sql = format!("SELECT {COLUMNS} FROM schedule AS s WHERE {condition}");
        connection.prepare_cached(&sql)?.query_map(params_from_iter(values), row)?.collect()
    };
    let (by, skip) = match which {
        WhichSchedules::All => return ask("true ORDER BY s.name", &[]),
        WhichSchedules::Named(name) => return ask("s.name = ?1", &[Value::Text(name.clone())]),
        WhichSchedules::Due { by, skip } => (by.as_unix_ns(), i64::try_from(*skip).unwrap_or(i64::MAX)),
    };
    // First those that are due, then those that wait for the end of their jobs.
    ask(
        "s.name IN (
            SELECT name FROM (
                SELECT name, next_at AS at FROM schedule WHERE next_at <= ?1 AND next_at IS NOT NULL
                UNION
                SELECT name, coalesce(min(next_at, ?1), ?1) FROM schedule AS w WHERE waits = 1 AND NOT EXISTS (
                    SELECT 1 FROM job WHERE schedule = w.name AND schedule IS NOT NULL AND state < 2)
                 ORDER BY at, name LIMIT ?2 OFFSET ?3))
         ORDER BY coalesce(min(s.next_at, ?1), ?1), s.name",
        &[Value::Integer(by), Value::Integer(DUE_MAX), Value::Integer(skip)],
    )
}

pub(super) fn next_at(connection: &Connection, after: Timestamp) -> rusqlite::Result<Option<Timestamp>> {
    let first: Option<i64> = connection
        .prepare_cached("SELECT min(next_at) FROM schedule WHERE next_at > ?1 AND next_at IS NOT NULL")?
        .query_row([after.as_unix_ns()], |row| row.get(0))?;
    Ok(first.map(Timestamp::from_unix_ns))
}

pub(super) fn change(
    connection: &Connection,
    changes: &[ScheduleChange],
) -> rusqlite::Result<Vec<Option<Vec<Enqueued>>>> {
    changes.iter().map(|change| one(connection, change)).collect()
}

fn one(connection: &Connection, change: &ScheduleChange) -> rusqlite::Result<Option<Vec<Enqueued>>> {
    let ScheduleChange { name, revision, to, jobs } = change;
    let known: Option<i64> = connection
        .prepare_cached("SELECT revision FROM schedule WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    if known.map_or(0, i64::cast_unsigned) != *revision {
        return Ok(None);
    }
    match to {
        Some(SchedulePut { next_at, waits, entry }) => {
            // No number comes again, not even of one that was removed in between.
            connection
                .prepare_cached(
                    "INSERT INTO schedule (name, revision, next_at, waits, entry) VALUES (?1, random() | 1, ?2, ?3, ?4)
                     ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, next_at = excluded.next_at,
                                                      waits = excluded.waits, entry = excluded.entry",
                )?
                .execute(params![name, next_at.map(Timestamp::as_unix_ns), waits, entry])?;
        }
        None => _ = connection.prepare_cached("DELETE FROM schedule WHERE name = ?1")?.execute([name])?,
    }
    write::enqueue(connection, jobs).map(Some)
}
