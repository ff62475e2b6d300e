//! What changes jobs: each change of a running one names its lease.

use std::sync::LazyLock;

use rusqlite::{Connection, OptionalExtension as _, Statement, ToSql, params};

use super::{
    super::{Cancel, Ended, Enqueued, NewJob, Note, Outcome, OwnerId, Rescued, Settle, rules::after_death},
    id, number, unique_key,
};
use crate::{
    clock::{Timestamp, duration_ns},
    jobs::id::{JobId, JobState, Reason},
};

/// So many jobs are put in by one statement, which opens the table and its indexes once for all of them.
const AT_ONCE: usize = 32;
const COLUMNS: usize = 16;

pub(super) fn enqueue(connection: &Connection, jobs: &[NewJob]) -> rusqlite::Result<Vec<Enqueued>> {
    let mut lanes = Lanes { connection, last: None };
    let mut enqueued = Vec::with_capacity(jobs.len());
    let mut left = jobs;
    while !left.is_empty() {
        // None of them can be there already.
        let many = left.first_chunk::<AT_ONCE>().filter(|many| many.iter().all(|job| !may_be_known(job)));
        left = match (many, left) {
            (Some(many), _) => {
                insert_many(connection, &mut lanes, many, &mut enqueued)?;
                &left[AT_ONCE..]
            }
            (None, [job, rest @ ..]) => {
                enqueued.push(insert(connection, &mut lanes, job)?);
                rest
            }
            (None, []) => break,
        };
    }
    Ok(enqueued)
}

fn may_be_known(job: &NewJob) -> bool {
    job.unique.is_some() || job.schedule.is_some()
}

fn insert_many(
    connection: &Connection,
    lanes: &mut Lanes<'_>,
    jobs: &[NewJob; AT_ONCE],
    enqueued: &mut Vec<Enqueued>,
) -> rusqlite::Result<()> {
    static SQL: LazyLock<String> = LazyLock::new(|| insert_sql("INSERT", AT_ONCE));
    let mut insert = connection.prepare_cached(&SQL)?;
    for (job, first) in jobs.iter().zip((1..).step_by(COLUMNS)) {
        bind(&mut insert, first, lanes, job)?;
    }
    insert.raw_execute()?;
    // A new row has the number behind the highest.
    let first = connection.last_insert_rowid() - (AT_ONCE as i64 - 1);
    let new = (first..).zip(jobs).map(|(number, job)| Enqueued { id: id(number, enqueued_at(job)), is_new: true });
    enqueued.extend(new);
    Ok(())
}

fn insert(connection: &Connection, lanes: &mut Lanes<'_>, job: &NewJob) -> rusqlite::Result<Enqueued> {
    static SQL: LazyLock<String> = LazyLock::new(|| insert_sql("INSERT OR IGNORE", 1));
    let mut insert = connection.prepare_cached(&SQL)?;
    bind(&mut insert, 1, lanes, job)?;
    if insert.raw_execute()? == 1 {
        return Ok(Enqueued { id: id(connection.last_insert_rowid(), enqueued_at(job)), is_new: true });
    }
    let mut known = connection.prepare_cached(
        "SELECT number, enqueued_at FROM job WHERE unique_key = ?1 AND unique_key IS NOT NULL AND state < 2
         UNION ALL
         SELECT number, enqueued_at FROM job WHERE schedule = ?2 AND scheduled_for = ?3 AND schedule IS NOT NULL LIMIT 1",
    )?;
    let unique = job.unique.as_ref().map(|key| unique_key(&job.kind, key));
    let scheduled_for = job.scheduled_for.map(Timestamp::as_unix_ns);
    known.query_row(params![unique, job.schedule, scheduled_for], |row| {
        Ok(Enqueued { id: id(row.get(0)?, row.get(1)?), is_new: false })
    })
}

fn insert_sql(insert: &str, rows: usize) -> String {
    let row = format!("(0, {})", ["?"; COLUMNS].join(", "));
    format!(
        "{insert} INTO job (state, lane, priority, run_at, enqueued_at, max_attempts, backoff_first_ns, backoff_max_ns,
                            timeout_ns, start_by, yields, payload, unique_key, correlation_id, scheduled_for, since, schedule)
         VALUES {}",
        vec![row; rows].join(", ")
    )
}

fn enqueued_at(job: &NewJob) -> i64 {
    job.enqueued_at.as_unix_ns().max(0)
}

/// Binds a job's columns from this parameter on.
fn bind(insert: &mut Statement<'_>, first: usize, lanes: &mut Lanes<'_>, job: &NewJob) -> rusqlite::Result<()> {
    let unique = job.unique.as_ref().map(|key| unique_key(&job.kind, key));
    let columns: [&dyn ToSql; COLUMNS] = [
        &lanes.of(job)?,
        &job.priority,
        &job.run_at.as_unix_ns(),
        &enqueued_at(job),
        &job.terms.max_attempts,
        &duration_ns(job.terms.backoff.first),
        &job.terms.backoff.max.map(duration_ns),
        &job.terms.timeout.map(duration_ns),
        &job.terms.start_by.map(Timestamp::as_unix_ns),
        &job.terms.yields,
        &job.payload,
        &unique,
        &job.correlation_id.as_ref().map(|id| id.as_str()),
        &job.scheduled_for.map(Timestamp::as_unix_ns),
        &(!job.is_named).then_some(enqueued_at(job)),
        &job.schedule,
    ];
    bind_from(insert, first, &columns)
}

fn bind_from(statement: &mut Statement<'_>, first: usize, columns: &[&dyn ToSql]) -> rusqlite::Result<()> {
    (first..).zip(columns).try_for_each(|(index, column)| statement.raw_bind_parameter(index, column))
}

/// Numbers of lanes; the latest is known.
struct Lanes<'a> {
    connection: &'a Connection,
    last: Option<(String, String, i64)>,
}

impl Lanes<'_> {
    fn of(&mut self, job: &NewJob) -> rusqlite::Result<i64> {
        if let Some((queue, kind, id)) = &self.last
            && *queue == job.queue
            && *kind == job.kind
        {
            return Ok(*id);
        }
        let id = lane(self.connection, &job.queue, &job.kind)?;
        self.last = Some((job.queue.clone(), job.kind.clone(), id));
        Ok(id)
    }
}

fn lane(connection: &Connection, queue: &str, kind: &str) -> rusqlite::Result<i64> {
    let known = connection
        .prepare_cached("SELECT id FROM job_lane WHERE queue = ?1 AND kind = ?2")?
        .query_row([queue, kind], |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    connection.prepare_cached("INSERT INTO job_lane (queue, kind) VALUES (?1, ?2)")?.execute([queue, kind])?;
    Ok(connection.last_insert_rowid())
}

/// The columns of a job that has ended: its lease, then what is said of it.
const ENDED: usize = 12;

/// What a row of a [`Settle`] has in common, whatever its outcome.
struct Facts<'a> {
    at: i64,
    started_at: Option<i64>,
    progress: [Option<i64>; 2],
    message: Option<&'a str>,
}

impl<'a> Facts<'a> {
    fn of(settle: &'a Settle) -> Self {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let progress = settle.progress.as_ref();
        Self {
            at: settle.at.as_unix_ns(),
            started_at: settle.started_at.map(Timestamp::as_unix_ns),
            progress: [progress.map(|progress| count(progress.done)), progress.map(|progress| count(progress.total))],
            message: progress.map(|progress| progress.message.as_str()),
        }
    }
}

/// Of each, the state it came to; `None` if its lease is not current.
pub(super) fn settle(connection: &Connection, settle: &[Settle]) -> rusqlite::Result<Vec<Option<JobState>>> {
    let mut states = vec![None; settle.len()];
    let mut ended = Vec::with_capacity(settle.len());
    for (index, settle) in settle.iter().enumerate() {
        match &settle.outcome {
            Outcome::Again { reason, error, run_at, counts } => {
                states[index] = again(connection, settle, (*reason, error.as_deref(), *run_at, *counts))?;
            }
            Outcome::Success { result } => {
                ended.push((index, JobState::Success, Reason::None, None, Some(result.as_str())));
            }
            Outcome::Failed { reason, error } => {
                ended.push((index, JobState::Failed, *reason, Some(error.as_str()), None));
            }
            Outcome::Cancelled => ended.push((index, JobState::Cancelled, Reason::Cancelled, None, None)),
        }
    }
    // One statement opens the table and its indexes once for all its rows.
    static SQL: LazyLock<[String; 2]> = LazyLock::new(|| [1, AT_ONCE / 2].map(end_sql));
    for some in ended.chunks(AT_ONCE / 2) {
        let mut end = connection.prepare_cached(&SQL[usize::from(some.len() > 1)])?;
        // Rows that are not bound are no job's.
        end.clear_bindings();
        for ((index, state, reason, error, result), first) in some.iter().zip((1..).step_by(ENDED)) {
            let (lease, facts) = (&settle[*index].lease, Facts::of(&settle[*index]));
            let columns: [&dyn ToSql; ENDED] = [
                &number(lease.id),
                &lease.owner.0,
                &lease.token,
                &(*state as i64),
                &(*reason as i64),
                error,
                result,
                &facts.at,
                &facts.started_at,
                &facts.progress[0],
                &facts.progress[1],
                &facts.message,
            ];
            bind_from(&mut end, first, &columns)?;
        }
        let mut rows = end.raw_query();
        while let Some(row) = rows.next()? {
            let changed: (i64, i64) = (row.get(0)?, row.get(1)?);
            // Of a lease that was given twice one has ended it.
            if let Some((index, state, ..)) =
                some.iter().find(|(index, ..)| (number(settle[*index].lease.id), settle[*index].lease.token) == changed)
            {
                states[*index] = Some(*state);
            }
        }
    }
    Ok(states)
}

fn end_sql(rows: usize) -> String {
    let row = format!("({})", ["?"; ENDED].join(", "));
    format!(
        "UPDATE job SET state = v.column4, reason = v.column5, error = v.column6, result = v.column7, finished_at = v.column8,
                started_at = v.column9, owner = NULL,
                checkpoint = CASE WHEN v.column4 = 2 THEN NULL ELSE checkpoint END,
                progress_done = coalesce(v.column10, progress_done), progress_total = coalesce(v.column11, progress_total),
                progress_message = coalesce(v.column12, progress_message)
           FROM (VALUES {}) AS v
          WHERE number = v.column1 AND +state = 1 AND +owner = v.column2 AND claims = v.column3
         RETURNING number, claims",
        vec![row; rows].join(", ")
    )
}

/// One that is to be tried again, or was not begun.
fn again(
    connection: &Connection,
    settle: &Settle,
    (reason, error, run_at, counts): (Reason, Option<&str>, Timestamp, bool),
) -> rusqlite::Result<Option<JobState>> {
    // Somebody may have asked for its end while it ran. What was not begun stays for the reason it was pending.
    let mut again = connection.prepare_cached(
        "UPDATE job SET state = CASE WHEN is_cancel_asked THEN 4 ELSE 0 END,
                reason = CASE WHEN is_cancel_asked THEN ?13 WHEN ?9 IS NULL THEN reason ELSE ?4 END,
                finished_at = CASE WHEN is_cancel_asked THEN ?8 ELSE NULL END,
                error = coalesce(?5, error), run_at = ?6, since = ?8, attempt = attempt - ?7,
                started_at = ?9, owner = NULL,
                start_by = CASE WHEN ?9 IS NULL THEN start_by END,
                progress_done = coalesce(?10, progress_done), progress_total = coalesce(?11, progress_total),
                progress_message = coalesce(?12, progress_message)
          WHERE number = ?1 AND state = 1 AND owner = ?2 AND claims = ?3
         RETURNING state",
    )?;
    let (lease, facts) = (&settle.lease, Facts::of(settle));
    let columns = params![
        number(lease.id),
        lease.owner.0,
        lease.token,
        reason as i64,
        error,
        run_at.as_unix_ns(),
        !counts,
        facts.at,
        facts.started_at,
        facts.progress[0],
        facts.progress[1],
        facts.message,
        Reason::Cancelled as i64
    ];
    again.query_row(columns, |row| row.get(0).map(JobState::from_code)).optional()
}

pub(super) fn note(connection: &Connection, notes: &[Note]) -> rusqlite::Result<Vec<bool>> {
    let mut update = connection.prepare_cached(
        "UPDATE job SET progress_done = coalesce(?4, progress_done), progress_total = coalesce(?5, progress_total),
                progress_message = coalesce(?6, progress_message), checkpoint = coalesce(?7, checkpoint),
                started_at = coalesce(?8, started_at), is_interrupted = max(is_interrupted, ?9)
          WHERE number = ?1 AND state = 1 AND owner = ?2 AND claims = ?3",
    )?;
    let noted = notes.iter().map(|note| {
        let progress = note.progress.as_ref();
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let changed = update.execute(params![
            number(note.lease.id),
            note.lease.owner.0,
            note.lease.token,
            progress.map(|progress| count(progress.done)),
            progress.map(|progress| count(progress.total)),
            progress.map(|progress| &progress.message),
            note.checkpoint,
            note.started_at.map(Timestamp::as_unix_ns),
            note.is_interrupted,
        ])?;
        Ok(changed == 1)
    });
    noted.collect()
}

pub(super) fn beat(connection: &Connection, owner: OwnerId) -> rusqlite::Result<Option<Vec<JobId>>> {
    if connection.prepare_cached("UPDATE job_owner SET beat = beat + 1 WHERE id = ?1")?.execute([owner.0])? == 0 {
        return Ok(None);
    }
    let sql = "SELECT number, enqueued_at FROM job WHERE owner = ?1 AND state = 1 AND is_cancel_asked = 1";
    let mut asked = connection.prepare_cached(sql)?;
    let asked = asked.query_map([owner.0], |row| Ok(id(row.get(0)?, row.get(1)?)))?;
    asked.collect::<rusqlite::Result<_>>().map(Some)
}

pub(super) fn rescue(
    connection: &Connection,
    owner: OwnerId,
    beat: u64,
    now: Timestamp,
) -> rusqlite::Result<Vec<Rescued>> {
    let forget = "DELETE FROM job_owner WHERE id = ?1 AND beat = ?2";
    let is_known = "SELECT count(*) FROM job_owner WHERE id = ?1";
    if connection.prepare_cached(forget)?.execute(params![owner.0, beat.cast_signed()])? == 0
        && connection.prepare_cached(is_known)?.query_row([owner.0], |row| row.get::<_, i64>(0))? > 0
    {
        return Ok(Vec::new());
    }
    let mut update = connection.prepare_cached(
        "UPDATE job SET state = ?2, reason = ?3, attempt = attempt - ?4, deaths = deaths + ?5, owner = NULL,
                run_at = min(run_at, ?6), since = ?6, start_by = CASE WHEN started_at IS NULL THEN start_by END,
                finished_at = CASE WHEN ?2 = 0 THEN NULL ELSE ?6 END
          WHERE number = ?1",
    )?;
    let mut held = connection.prepare_cached(
        "SELECT number, enqueued_at, attempt, max_attempts, is_interrupted, is_cancel_asked, kind, queue, correlation_id
           FROM job JOIN job_lane AS l ON l.id = lane WHERE owner = ?1 AND state = 1 ORDER BY number",
    )?;
    let mut rows = held.query([owner.0])?;
    let mut rescued = Vec::new();
    while let Some(row) = rows.next()? {
        let (number, attempt) = (row.get(0)?, row.get(2)?);
        let (state, reason, counts) = after_death(attempt, row.get(3)?, row.get(4)?, row.get(5)?);
        rescued.push((
            number,
            reason,
            counts,
            Rescued {
                id: id(number, row.get(1)?),
                kind: row.get(6)?,
                queue: row.get(7)?,
                attempt,
                state,
                correlation_id: row.get::<_, Option<String>>(8)?.and_then(|id| id.parse().ok()),
            },
        ));
    }
    for (number, reason, counts, rescued) in &rescued {
        let state = rescued.state as i64;
        update.execute(params![number, state, *reason as i64, !counts, counts, now.as_unix_ns()])?;
    }
    Ok(rescued.into_iter().map(|(.., rescued)| rescued).collect())
}

pub(super) fn cancel(connection: &Connection, asked: JobId, now: Timestamp) -> rusqlite::Result<Cancel> {
    let found = connection
        .prepare_cached(
            "SELECT enqueued_at, state, kind, correlation_id FROM job JOIN job_lane AS l ON l.id = lane WHERE number = ?1",
        )?
        .query_row([number(asked)], |row| {
            let correlation_id: Option<String> = row.get(3)?;
            Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get(2)?, correlation_id))
        })
        .optional()?;
    let Some((enqueued_at, state, kind, correlation_id)) = found else { return Ok(Cancel::TooLate) };
    if id(number(asked), enqueued_at) != asked {
        return Ok(Cancel::TooLate);
    }
    match JobState::from_code(state) {
        JobState::Pending => {
            connection
                .prepare_cached("UPDATE job SET state = ?2, reason = ?3, finished_at = ?4 WHERE number = ?1")?
                .execute(params![
                    number(asked),
                    JobState::Cancelled as i64,
                    Reason::Cancelled as i64,
                    now.as_unix_ns()
                ])?;
            Ok(Cancel::Done(Ended { id: asked, kind, correlation_id: correlation_id.and_then(|id| id.parse().ok()) }))
        }
        JobState::Running => {
            connection
                .prepare_cached("UPDATE job SET is_cancel_asked = 1 WHERE number = ?1")?
                .execute([number(asked)])?;
            Ok(Cancel::Asked)
        }
        _ => Ok(Cancel::TooLate),
    }
}

pub(super) fn retry(connection: &Connection, asked: JobId, now: Timestamp) -> rusqlite::Result<bool> {
    let Some((_, enqueued_at)) = asked.row() else { return Ok(false) };
    // A unique key that another job has taken meanwhile makes the statement do nothing.
    let sql =
        "UPDATE OR IGNORE job SET state = 0, reason = 0, attempt = 0, deaths = 0, run_at = ?3, since = ?3, finished_at = NULL,
                      is_cancel_asked = 0, start_by = NULL
                WHERE number = ?1 AND enqueued_at = ?2 AND state IN (3, 4)";
    let changed =
        connection.prepare_cached(sql)?.execute(params![number(asked), enqueued_at.as_unix_ns(), now.as_unix_ns()])?;
    Ok(changed == 1)
}

pub(super) fn rebase(connection: &Connection, now: Timestamp) -> rusqlite::Result<u64> {
    let sql =
        "UPDATE job SET run_at = ?1 + max(run_at - since, 0), since = ?1 WHERE state = 0 AND since > ?1 + 1000000000";
    Ok(connection.prepare_cached(sql)?.execute([now.as_unix_ns()])? as u64)
}

pub(super) fn prune(connection: &Connection, before: Timestamp, keep: u64, limit: u64) -> rusqlite::Result<u64> {
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let mut lanes = connection.prepare_cached("SELECT id FROM job_lane")?;
    let lanes: Vec<i64> = lanes.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut count =
        connection.prepare_cached("SELECT count(*) FROM job WHERE lane = ?1 AND state >= 2 AND state = +?2")?;
    // The highest number stays, so that none is used again.
    let mut delete = connection.prepare_cached(
        "DELETE FROM job WHERE number < (SELECT max(number) FROM job) AND number IN (
            SELECT number FROM job WHERE lane = ?1 AND state >= 2 AND state = +?2 AND finished_at < ?3
             ORDER BY finished_at, number LIMIT ?4)",
    )?;
    let mut left = signed(limit);
    for lane in lanes {
        for state in [JobState::Success, JobState::Failed, JobState::Cancelled].map(|state| state as i64) {
            let count: i64 = count.query_row([lane, state], |row| row.get(0))?;
            let surplus = count.saturating_sub(signed(keep)).clamp(0, left);
            left -= delete.execute([lane, state, i64::MAX, surplus])? as i64;
            left -= delete.execute([lane, state, before.as_unix_ns(), left])? as i64;
        }
    }
    Ok(limit.saturating_sub(left.unsigned_abs()))
}
