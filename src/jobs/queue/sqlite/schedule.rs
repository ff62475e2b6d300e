//! Schedules: looked for by time, changed by revision, together with the jobs that are due by that.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{
    super::{Enqueued, ScheduleChange, SchedulePut, StoredSchedule, WhichSchedules},
    write,
};
use crate::clock::Timestamp;

/// Of those that are due.
const DUE_MAX: i64 = 1_000;

const COLUMNS: &str = "s.name, s.revision, s.next_at, s.waits, s.entry,
    (SELECT count(*) FROM job WHERE schedule = s.name AND schedule IS NOT NULL AND state < 2),
    (SELECT finished_at FROM job WHERE schedule = s.name AND schedule IS NOT NULL ORDER BY scheduled_for DESC LIMIT 1)";

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
    let (condition, value): (_, rusqlite::types::Value) = match which {
        WhichSchedules::All => ("?1 IS NULL ORDER BY s.name", rusqlite::types::Value::Null),
        WhichSchedules::Named(name) => ("s.name = ?1", name.clone().into()),
        WhichSchedules::Due(by) => {
            ("s.next_at <= ?1 AND s.next_at IS NOT NULL ORDER BY s.next_at", by.as_unix_ns().into())
        }
    };
    let ask = |condition: &str, value| -> rusqlite::Result<Vec<StoredSchedule>> {
        let sql = format!("SELECT {COLUMNS} FROM schedule AS s WHERE {condition}");
        connection.prepare_cached(&sql)?.query_map([value], row)?.collect()
    };
    let WhichSchedules::Due(_) = which else { return ask(condition, value) };
    let mut due = ask(&format!("{condition} LIMIT {DUE_MAX}"), value)?;
    let waiting = "s.waits = 1 AND NOT EXISTS (
        SELECT 1 FROM job WHERE schedule = s.name AND schedule IS NOT NULL AND state < 2) LIMIT ?1";
    let left = DUE_MAX - due.len() as i64;
    for waiting in ask(waiting, left.into())? {
        if due.iter().all(|due| due.name != waiting.name) {
            due.push(waiting);
        }
    }
    Ok(due)
}

pub(super) fn next_at(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let first: Option<i64> = connection
        .prepare_cached("SELECT min(next_at) FROM schedule WHERE next_at IS NOT NULL")?
        .query_row([], |row| row.get(0))?;
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
