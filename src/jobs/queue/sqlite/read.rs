//! What is asked about jobs.

use std::{collections::BTreeMap, time::Duration};

use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter, types::Value};

use super::{
    super::{Listed, Owner, OwnerId, Progress},
    id, number,
};
use crate::{
    clock::Timestamp,
    jobs::{
        id::{JobId, JobState, Reason},
        row::{JobFilter, JobRow, KindCounts},
    },
};

/// Successes whose run times are looked at.
const RUN_TIMES: i64 = 1_000;

const COLUMNS: &str =
    "number, enqueued_at, kind, queue, CASE WHEN state = 1 AND started_at IS NULL THEN 0 ELSE state END,
    reason, priority, attempt, max_attempts, payload, run_at, started_at, finished_at, progress_done, progress_total,
    progress_message, checkpoint, result, error, unique_key, correlation_id, scheduled_for, is_cancel_asked,
    schedule, timeout_ns";

fn row(row: &Row<'_>) -> rusqlite::Result<JobRow> {
    let time = |index| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(index)?.map(Timestamp::from_unix_ns));
    let unsigned = |count: i64| u64::try_from(count).unwrap_or(0);
    let progress = match row.get::<_, Option<i64>>(13)? {
        Some(done) => Some(Progress {
            done: unsigned(done),
            total: unsigned(row.get::<_, Option<i64>>(14)?.unwrap_or(0)),
            message: row.get::<_, Option<String>>(15)?.unwrap_or_default(),
        }),
        None => None,
    };
    let enqueued_at: i64 = row.get(1)?;
    let unique: Option<String> = row.get(19)?;
    Ok(JobRow {
        id: id(row.get(0)?, enqueued_at),
        enqueued_at: Timestamp::from_unix_ns(enqueued_at),
        kind: row.get(2)?,
        queue: row.get(3)?,
        state: JobState::from_code(row.get(4)?),
        reason: Reason::from_code(row.get(5)?),
        priority: row.get(6)?,
        attempt: row.get(7)?,
        max_attempts: row.get(8)?,
        payload: row.get(9)?,
        run_at: Timestamp::from_unix_ns(row.get(10)?),
        started_at: time(11)?,
        finished_at: time(12)?,
        progress,
        checkpoint: row.get(16)?,
        result: row.get(17)?,
        error: row.get(18)?,
        unique: unique.and_then(|key| key.split_once('\u{1f}').map(|(_, key)| key.to_owned())),
        correlation_id: row.get(20)?,
        scheduled_for: time(21)?,
        is_cancel_asked: row.get(22)?,
        schedule: row.get(23)?,
        timeout: row.get::<_, Option<i64>>(24)?.map(|ns| Duration::from_nanos(unsigned(ns))),
    })
}

pub(super) fn get(connection: &Connection, id: JobId) -> rusqlite::Result<Option<JobRow>> {
    let sql = format!("SELECT {COLUMNS} FROM job JOIN job_lane AS l ON l.id = lane WHERE number = ?1");
    let found = connection.prepare_cached(&sql)?.query_row([number(id)], row).optional()?;
    // A number without the time it was given at is another job's.
    Ok(found.filter(|row| row.id == id))
}

pub(super) fn list(connection: &Connection, filter: &JobFilter) -> rusqlite::Result<Listed> {
    let mut sql = format!("SELECT {COLUMNS} FROM job JOIN job_lane AS l ON l.id = lane WHERE number < ?1");
    let before = filter.before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX));
    let mut params = vec![Value::Integer(before)];
    // Each state has an index of its own, and lanes are few.
    match filter.state {
        None => {}
        Some(JobState::Pending) => sql.push_str(" AND (state = 0 OR state = 1 AND started_at IS NULL)"),
        Some(JobState::Running) => {
            sql.push_str(" AND number IN (SELECT number FROM job WHERE state = 1 AND started_at IS NOT NULL)");
        }
        Some(state) => {
            params.push(Value::Integer(state as i64));
            sql.push_str(
                " AND number IN (SELECT number FROM job WHERE lane IN (SELECT id FROM job_lane) AND state >= 2 AND state = +?2)",
            );
        }
    }
    for (column, text) in [("kind", &filter.kind), ("queue", &filter.queue)] {
        if let Some(text) = text {
            params.push(Value::Text(text.clone()));
            sql.push_str(&format!(" AND l.{column} = ?{}", params.len()));
        }
    }
    let limit = i64::from(filter.limit.max(1));
    params.push(Value::Integer(limit + 1));
    sql.push_str(&format!(" ORDER BY number DESC LIMIT ?{}", params.len()));
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows: Vec<JobRow> = statement.query_map(params_from_iter(params), row)?.collect::<rusqlite::Result<_>>()?;
    let has_more = rows.len() as i64 > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next = rows.last().filter(|_| has_more).and_then(|row| row.id.row()).map(|(number, _)| number);
    Ok(Listed { rows, next })
}

pub(super) fn owners(connection: &Connection) -> rusqlite::Result<Vec<Owner>> {
    let mut statement = connection.prepare_cached("SELECT id, process, kinds, beat FROM job_owner ORDER BY id")?;
    let owners = statement.query_map([], |row| {
        let kinds = row.get_ref(2)?.as_str()?;
        Ok(Owner {
            id: OwnerId(row.get(0)?),
            process: row.get(1)?,
            kinds: serde_json::from_str(kinds).unwrap_or_default(),
            beat: row.get::<_, i64>(3)?.cast_unsigned(),
        })
    })?;
    owners.collect()
}

pub(super) fn counts(connection: &Connection) -> rusqlite::Result<Vec<KindCounts>> {
    let mut counts: BTreeMap<String, KindCounts> = BTreeMap::new();
    let unsigned = |count: i64| u64::try_from(count).unwrap_or(0);
    let mut lanes = connection.prepare_cached("SELECT id, kind FROM job_lane")?;
    let mut pending =
        connection.prepare_cached("SELECT count(*), min(run_at) FROM job WHERE lane = ?1 AND state = 0")?;
    let mut claimed = connection.prepare_cached(
        "SELECT count(*), count(started_at) FROM job WHERE owner IN (SELECT id FROM job_owner) AND state = 1 AND lane = ?1",
    )?;
    let mut ended =
        connection.prepare_cached("SELECT count(*) FROM job WHERE lane = ?1 AND state >= 2 AND state = +?2")?;
    let mut run_times = connection.prepare_cached(
        "SELECT finished_at - started_at FROM job WHERE lane = ?1 AND state >= 2 AND state = 2 AND started_at IS NOT NULL
          ORDER BY finished_at DESC LIMIT ?2",
    )?;
    let mut rows = lanes.query([])?;
    while let Some(row) = rows.next()? {
        let (lane, kind): (i64, String) = (row.get(0)?, row.get(1)?);
        let of = counts.entry(kind).or_insert_with_key(|kind| KindCounts::new(kind));
        let (waiting, oldest): (i64, Option<i64>) = pending.query_row([lane], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (held, running): (i64, i64) = claimed.query_row([lane], |row| Ok((row.get(0)?, row.get(1)?)))?;
        of.pending += unsigned(waiting + held - running);
        of.running += unsigned(running);
        of.oldest_pending = of.oldest_pending.into_iter().chain(oldest.map(Timestamp::from_unix_ns)).min();
        for (state, count) in [
            (JobState::Success, &mut of.success),
            (JobState::Failed, &mut of.failed),
            (JobState::Cancelled, &mut of.cancelled),
        ] {
            *count += unsigned(ended.query_row(params![lane, state as i64], |row| row.get(0))?);
        }
        let mut times = run_times.query(params![lane, RUN_TIMES])?;
        while let Some(row) = times.next()? {
            of.run_times.push(Duration::from_nanos(unsigned(row.get(0)?)));
        }
    }
    Ok(counts.into_values().collect())
}
