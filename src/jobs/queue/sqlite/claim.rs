//! Which jobs are next: the heads of the lanes, by priority and time.

use std::sync::LazyLock;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{
    super::{
        Claim, Claimed, Ended, Exchanged, Lease, Terms,
        rules::{Take, Taking},
    },
    id,
};
use crate::{
    clock::Timestamp,
    jobs::{
        id::{JobId, JobState, Reason},
        job::Backoff,
    },
};

/// A job that is due, in the order of its claim.
struct Due {
    number: i64,
    /// Index into the claim's kinds.
    kind: usize,
    priority: i32,
    run_at: i64,
}

/// What tells how a job is to be treated.
struct Candidate {
    id: JobId,
    attempt: u32,
    deaths: u32,
    claims: i64,
    terms: Terms,
    payload: String,
    checkpoint: Option<String>,
    correlation_id: Option<String>,
    schedule: Option<String>,
    scheduled_for: Option<i64>,
}

pub(super) fn claim(connection: &Connection, claim: &Claim) -> rusqlite::Result<Exchanged> {
    let is_known = connection
        .prepare_cached("SELECT 1 FROM job_owner WHERE id = ?1")?
        .query_row([claim.owner.0], |_| Ok(()))
        .optional()?;
    if is_known.is_none() {
        return Ok(Exchanged { owner_is_unknown: true, ..Exchanged::default() });
    }
    let (due, next_due) = due(connection, claim)?;
    let mut exchanged = Exchanged { next_due: next_due.map(Timestamp::from_unix_ns), ..Exchanged::default() };
    let mut taking = Taking::new(claim);
    let mut taken = [Vec::new(), Vec::new()];
    for due in due {
        let candidate = candidate(connection, due.number)?;
        let (kind, may_be_ahead) = &claim.kinds[due.kind];
        match taking.next(candidate.attempt, candidate.deaths, &candidate.terms, *may_be_ahead) {
            Take::Leave => {
                exchanged.next_due = Some(claim.now);
                break;
            }
            Take::Missed => {
                connection
                    .prepare_cached("UPDATE job SET state = ?2, reason = ?3, finished_at = ?4 WHERE number = ?1")?
                    .execute(params![
                        due.number,
                        JobState::Failed as i64,
                        Reason::MissedDeadline as i64,
                        claim.now.as_unix_ns()
                    ])?;
                exchanged.missed.push(Ended {
                    id: candidate.id,
                    kind: kind.clone(),
                    correlation_id: candidate.correlation_id.and_then(|id| id.parse().ok()),
                });
            }
            take @ (Take::Now | Take::Ahead) => {
                let is_ahead = take == Take::Ahead;
                taken[usize::from(is_ahead)].push(due.number);
                exchanged.claimed.push(Claimed {
                    lease: Lease { id: candidate.id, owner: claim.owner, token: candidate.claims + 1 },
                    kind: kind.clone(),
                    priority: due.priority,
                    attempt: candidate.attempt + 1,
                    payload: candidate.payload,
                    checkpoint: candidate.checkpoint,
                    terms: candidate.terms,
                    correlation_id: candidate.correlation_id.and_then(|id| id.parse().ok()),
                    schedule: candidate.schedule,
                    scheduled_for: candidate.scheduled_for.map(Timestamp::from_unix_ns),
                    run_at: Timestamp::from_unix_ns(due.run_at),
                    is_ahead,
                });
            }
        }
    }
    let [now, ahead] = taken;
    take(connection, claim, &now, Some(claim.now.as_unix_ns()))?;
    take(connection, claim, &ahead, None)?;
    Ok(exchanged)
}

/// Gives these jobs to who claims them.
fn take(connection: &Connection, claim: &Claim, numbers: &[i64], started_at: Option<i64>) -> rusqlite::Result<()> {
    // One statement opens the table and its indexes once for all its rows.
    const AT_ONCE: usize = 32;
    static SQL: LazyLock<[String; 2]> = LazyLock::new(|| [1, AT_ONCE].map(take_sql));
    for some in numbers.chunks(AT_ONCE) {
        let mut update = connection.prepare_cached(&SQL[usize::from(some.len() > 1)])?;
        // Numbers that are not bound are no job's.
        update.clear_bindings();
        update.raw_bind_parameter(1, claim.owner.0)?;
        update.raw_bind_parameter(2, started_at)?;
        (3..).zip(some).try_for_each(|(index, number)| update.raw_bind_parameter(index, number))?;
        update.raw_execute()?;
    }
    Ok(())
}

fn take_sql(numbers: usize) -> String {
    format!(
        "UPDATE job SET state = 1, owner = ?1, claims = claims + 1, attempt = attempt + 1, started_at = ?2, is_interrupted = 0
          WHERE number IN ({})",
        (3..3 + numbers).map(|index| format!("?{index}")).collect::<Vec<_>>().join(", ")
    )
}

/// The jobs that are due, as many as are wanted and a few for those that are missed, in their order; and if there are no more
/// than wanted, when the next will be.
fn due(connection: &Connection, claim: &Claim) -> rusqlite::Result<(Vec<Due>, Option<i64>)> {
    let now = claim.now.as_unix_ns();
    let want = Taking::want(claim).max(1);
    let limit = i64::try_from(want).unwrap_or(i64::MAX);
    let mut due = Vec::new();
    let mut next_due: Option<i64> = None;
    let mut lanes = connection.prepare_cached("SELECT id, kind FROM job_lane WHERE queue = ?1")?;
    // One priority after the other, each by its time: so jobs of the future are not walked over.
    let mut priorities = connection.prepare_cached(
        "SELECT priority FROM job WHERE lane = ?1 AND state = 0 AND priority < ?2 ORDER BY priority DESC LIMIT 1",
    )?;
    let mut heads = connection.prepare_cached(
        "SELECT number, run_at FROM job WHERE lane = ?1 AND state = 0 AND priority = ?2 AND run_at <= ?3
          ORDER BY run_at, number LIMIT ?4",
    )?;
    let mut later = connection.prepare_cached(
        "SELECT run_at FROM job WHERE lane = ?1 AND state = 0 AND priority = ?2 AND run_at > ?3 ORDER BY run_at LIMIT 1",
    )?;
    let mut rows = lanes.query([&claim.queue])?;
    while let Some(row) = rows.next()? {
        let (lane, name): (i64, _) = (row.get(0)?, row.get_ref(1)?.as_str()?);
        let Some(kind) = claim.kinds.iter().position(|(kind, _)| kind == name) else { continue };
        let (mut below, mut found) = (i64::MAX, 0);
        while let Some(priority) = priorities.query_row(params![lane, below], |row| row.get::<_, i64>(0)).optional()? {
            below = priority;
            let mut rows = heads.query(params![lane, priority, now, limit])?;
            while let Some(row) = rows.next()? {
                let priority = i32::try_from(priority).unwrap_or(0);
                due.push(Due { number: row.get(0)?, kind, priority, run_at: row.get(1)? });
                found += 1;
            }
            if found >= want && !claim.oldest {
                break;
            }
            let next = later.query_row(params![lane, priority, now], |row| row.get::<_, i64>(0)).optional()?;
            next_due = next_due.into_iter().chain(next).min();
        }
    }
    due.sort_by_key(|due| (if claim.oldest { 0 } else { -i64::from(due.priority) }, due.run_at, due.number));
    due.truncate(want);
    // Those that stay are due now.
    let next_due = if due.len() >= want { Some(now) } else { next_due };
    Ok((due, next_due))
}

fn candidate(connection: &Connection, number: i64) -> rusqlite::Result<Candidate> {
    let sql = "SELECT number, enqueued_at, attempt, deaths, claims, payload, checkpoint, correlation_id, scheduled_for,
                      max_attempts, backoff_first_ns, backoff_max_ns, timeout_ns, start_by, yields, schedule
                 FROM job WHERE number = ?1";
    connection.prepare_cached(sql)?.query_row([number], |row| {
        Ok(Candidate {
            id: id(row.get(0)?, row.get(1)?),
            attempt: row.get(2)?,
            deaths: row.get(3)?,
            claims: row.get(4)?,
            payload: row.get(5)?,
            checkpoint: row.get(6)?,
            correlation_id: row.get(7)?,
            scheduled_for: row.get(8)?,
            terms: terms(row, 9)?,
            schedule: row.get(15)?,
        })
    })
}

/// The terms in a row, from this column on.
fn terms(row: &Row<'_>, first: usize) -> rusqlite::Result<Terms> {
    let ns = |ns: i64| std::time::Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
    Ok(Terms {
        max_attempts: row.get(first)?,
        backoff: Backoff { first: ns(row.get(first + 1)?), max: row.get::<_, Option<i64>>(first + 2)?.map(ns) },
        timeout: row.get::<_, Option<i64>>(first + 3)?.map(ns),
        start_by: row.get::<_, Option<i64>>(first + 4)?.map(Timestamp::from_unix_ns),
        yields: row.get(first + 5)?,
    })
}
