//! Bringing what dead processes left into the store.
//!
//! One transaction per flight file, through the same applier as the writer's; then the file is removed. A death in
//! between is harmless: the committed positions say that nothing is left to replay.

use std::{path::Path, sync::Arc};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    TELEMETRY,
    apply::{Applied, Applier},
    event_rows::is_about_the_value,
    open_span::OpenSpan,
    statements::Statements,
};
use crate::{
    clock::{Clock, Timeline},
    database::open_writer,
    error::{Error, Result},
    event::Severity,
    flight::{Image, Orphan, Owner, Reason, has_file, orphans},
    record::Record,
    redaction::Redactor,
    state::default_redactor,
};

/// What recovery found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Runs whose processes had vanished.
    pub runs: u32,
    /// Events and spans that were not in the database yet and now are.
    pub records: u64,
    /// Spans that were open when their process vanished.
    pub interrupted_spans: u64,
    /// Flight files that could not be read; they are set aside as `flight/*.unreadable`.
    pub unreadable: u32,
}

/// Brings the flight files of dead processes in `dir` into its store.
///
/// `init`, `start` and the command line do this by themselves; call it to read a dead process's store without starting
/// a new run. Files of living processes are left alone. Redaction is the built-in one: rules of the program's own are
/// applied by its next start, which recovers by itself.
///
/// # Errors
/// `is_storage` if the directory holds no store, or it cannot be written.
///
/// ```no_run
/// let found = l0::recover("/var/lib/shop/.l0")?;
/// println!("{} records of {} runs", found.records, found.runs);
/// # Ok::<(), l0::Error>(())
/// ```
pub fn recover(dir: impl AsRef<Path>) -> Result<Recovery> {
    let dir = dir.as_ref();
    if !dir.join(TELEMETRY.file).is_file() {
        return Err(Error::storage(format!(
            "there is no l0 store in {}: {} is missing; give the directory a program records into",
            dir.display(),
            TELEMETRY.file
        )));
    }
    recover_with(dir, &open_writer(&TELEMETRY, dir)?, &default_redactor(dir)?)
}

pub(super) fn recover_with(dir: &Path, connection: &Connection, redactor: &Arc<Redactor>) -> Result<Recovery> {
    let mut total = Recovery::default();
    for mut orphan in orphans(dir)? {
        let Some(image) = orphan.read()? else {
            total.unreadable += 1;
            orphan.set_aside()?;
            continue;
        };
        match replay(connection, &orphan, &image, redactor) {
            Ok(found) => {
                total.runs += found.runs;
                total.records += found.records;
                total.interrupted_spans += found.interrupted_spans;
                orphan.remove()?;
                forget_positions(connection, image.run());
            }
            // The store cannot be written at the moment: the file waits for a better one.
            Err(Replay::Failed(error)) => return Err(error),
            Err(Replay::Refused) => {
                total.unreadable += 1;
                orphan.set_aside()?;
            }
        }
    }
    end_vanished(dir, connection, &mut total)
        .map_err(|error| Error::sqlite("cannot end vanished runs in the store", error))?;
    Ok(total)
}

/// With the file gone nobody needs them; left behind, they harm nobody.
fn forget_positions(connection: &Connection, run: uuid::Uuid) {
    let sql = "DELETE FROM lane WHERE run = (SELECT id FROM run WHERE uuid = ?1)";
    let _ = connection.execute(sql, [run.as_bytes().as_slice()]);
}

/// Why a file was not replayed.
enum Replay {
    Failed(Error),
    /// There is something in it that the database does not take, now or later.
    Refused,
}

fn replay(
    connection: &Connection,
    orphan: &Orphan,
    image: &Image,
    redactor: &Arc<Redactor>,
) -> Result<Recovery, Replay> {
    let failed = |error: rusqlite::Error| {
        if is_about_the_value(&error) {
            return Replay::Refused;
        }
        Replay::Failed(Error::sqlite(&format!("cannot recover {}", orphan.path().display()), error))
    };
    connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    replay_in_transaction(connection, image, redactor)
        .and_then(|found| connection.execute_batch("COMMIT").map(|()| found))
        .map_err(|error| {
            let _ = connection.execute_batch("ROLLBACK");
            failed(error)
        })
}

fn replay_in_transaction(
    connection: &Connection,
    image: &Image,
    redactor: &Arc<Redactor>,
) -> rusqlite::Result<Recovery> {
    let timeline = image.timeline().unwrap_or_else(|| Timeline::new(Default::default(), Default::default()));
    let Some((run, outcome)) = find_or_insert_run(connection, image, &timeline)? else {
        // It died between creating its file and adding its run.
        return Ok(Recovery::default());
    };
    let mut applier = Applier::new(run, image.key(), Clock::system(), Arc::clone(redactor));
    image.definitions(|number, definition| applier.define(number, definition));
    restore_spans(connection, run, &timeline, &mut applier)?;
    let mut statements = Statements::prepare(connection)?;
    applier.begin(connection)?;

    let (records, ends) = image.records(&positions(connection, run)?);
    let is_lost = !image.is_of_this_boot();
    let mut shed: Vec<_> = image.shed_counts().collect();
    let mut lose = |reason: Reason, bytes: &[u8]| {
        let severity = Record::severity_of(bytes);
        if let Some((_, _, count)) = shed.iter_mut().find(|shed| shed.0 == reason && shed.1 == severity) {
            *count += 1;
        }
    };
    let mut stored = 0;
    let mut end_unix_ns = timeline.end_unix_ns();
    for (stamp, bytes) in &records {
        let is_counted = Record::kind_of(bytes).is_some_and(crate::record::Kind::is_counted);
        if is_lost {
            if is_counted {
                lose(Reason::OtherBoot, bytes);
            }
            continue;
        }
        end_unix_ns = end_unix_ns.max(timeline.wall_ns(timeline.mono_ns(*stamp)));
        match applier.apply(connection, &mut statements, &timeline, *stamp, bytes)? {
            Applied::Stored => stored += u64::from(is_counted),
            Applied::Rejected if is_counted => lose(Reason::Rejected, bytes),
            Applied::Rejected => {}
        }
    }
    for (severity, count) in Severity::ALL.into_iter().zip(applier.finish(connection, &mut statements)?) {
        stored -= count;
        if let Some((_, _, shed)) = shed.iter_mut().find(|shed| shed.0 == Reason::Rejected && shed.1 == severity) {
            *shed += count;
        }
    }
    applier.commit();
    let interrupted_spans = applier.interrupt(&mut statements)?;
    // Should this process die before it removes the file, a second replay finds nothing behind these.
    for (lane, end) in ends.into_iter().enumerate() {
        statements.write_position(run, lane, end)?;
    }
    store_sheds(connection, &mut statements, run, end_unix_ns, shed)?;
    let outcome = match outcome.as_str() {
        "clean" if records.is_empty() => "clean",
        _ if image.panicked() => "panicked",
        _ => "killed",
    };
    connection
        .prepare_cached(
            "UPDATE run SET ended_at = coalesce(ended_at, ?2), outcome = ?3, stored = stored + ?4 WHERE id = ?1",
        )?
        .execute(params![run, end_unix_ns, outcome, stored.cast_signed()])?;
    Ok(Recovery { runs: 1, records: stored, interrupted_spans, unreadable: 0 })
}

/// The run's row; a database that was deleted meanwhile gets a new one from the file's header.
fn find_or_insert_run(
    connection: &Connection,
    image: &Image,
    timeline: &Timeline,
) -> rusqlite::Result<Option<(i64, String)>> {
    let uuid = image.run();
    let found = connection
        .prepare_cached("SELECT id, outcome FROM run WHERE uuid = ?1")?
        .query_row([uuid.as_bytes().as_slice()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if found.is_some() || image.is_empty() {
        return Ok(found);
    }
    let owner = image.owner();
    let id = connection
        .prepare_cached(
            "INSERT INTO run (uuid, boot, pid, process_started, started_at, span_key, outcome)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'running')",
        )?
        .insert(params![
            uuid.as_bytes().as_slice(),
            owner.boot,
            owner.pid,
            owner.started.cast_signed(),
            timeline.start_unix_ns(),
            image.key().cast_signed(),
        ])?;
    Ok(Some((id, "running".to_owned())))
}

fn positions(connection: &Connection, run: i64) -> rusqlite::Result<Vec<u64>> {
    let mut positions = Vec::new();
    let mut statement = connection.prepare_cached("SELECT lane, position FROM lane WHERE run = ?1 ORDER BY lane")?;
    let mut rows = statement.query([run])?;
    while let Some(row) = rows.next()? {
        let lane = usize::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
        positions.resize(lane + 1, 0);
        positions[lane] = row.get::<_, i64>(1)?.cast_unsigned();
    }
    Ok(positions)
}

/// The spans that the run's last transaction left running.
fn restore_spans(
    connection: &Connection,
    run: i64,
    timeline: &Timeline,
    applier: &mut Applier,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT id, own, callsite, parent, trace, started_at, errors, payload, name, event_type, category, tenant, actor,
                status, status = (SELECT id FROM name WHERE text = 'error'),
                (SELECT correlation_id IS NOT NULL FROM trace WHERE id = span.trace), is_root,
                (SELECT p.own FROM span AS p WHERE p.id = span.parent)
           FROM span WHERE run = ?1 AND state = 1",
    )?;
    let mut rows = statement.query([run])?;
    while let Some(row) = rows.next()? {
        let started_at = row.get(5)?;
        let span = OpenSpan {
            row: row.get(0)?,
            callsite: row.get(2)?,
            parent: row.get(3)?,
            trace: row.get(4)?,
            started_at,
            opened_mono_ns: timeline.mono_of_wall(started_at),
            errors: row.get(6)?,
            payload: row.get::<_, Option<String>>(7)?.unwrap_or_default().into_bytes(),
            name: row.get(8)?,
            event_type: row.get(9)?,
            category: row.get(10)?,
            tenant: row.get(11)?,
            actor: row.get(12)?,
            status: row.get(13)?,
            has_error_status: row.get::<_, Option<bool>>(14)?.unwrap_or(false),
            is_named: row.get::<_, Option<bool>>(15)?.unwrap_or(false),
            is_root: row.get(16)?,
            parent_own: row.get::<_, Option<i64>>(17)?.map_or(0, i64::cast_unsigned),
            may_name_trace: row.get::<_, Option<i64>>(3)?.is_none()
                && !row.get::<_, Option<bool>>(15)?.unwrap_or(false),
            ..OpenSpan::default()
        };
        applier.spans().restore(row.get::<_, i64>(1)?.cast_unsigned(), span);
    }
    Ok(())
}

/// The file's counters, less what is stored of them.
fn store_sheds(
    connection: &Connection,
    statements: &mut Statements<'_>,
    run: i64,
    at_unix_ns: i64,
    counts: Vec<(Reason, Severity, u64)>,
) -> rusqlite::Result<()> {
    let minute = at_unix_ns.div_euclid(60_000_000_000) * 60;
    let mut sum = connection
        .prepare_cached("SELECT coalesce(sum(count), 0) FROM shed WHERE run = ?1 AND reason = ?2 AND severity = ?3")?;
    for (reason, severity, count) in counts.into_iter().filter(|(_, _, count)| *count > 0) {
        let stored: i64 = sum.query_row(params![run, reason.as_str(), severity as i64], |row| row.get(0))?;
        let new = count.saturating_sub(stored.cast_unsigned());
        if new > 0 {
            statements.add_shed(run, minute, reason.as_str(), severity as i64, new)?;
        }
    }
    Ok(())
}

/// Runs that kept their flight in memory leave no file: they ended if their process is gone.
fn end_vanished(dir: &Path, connection: &Connection, total: &mut Recovery) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("SELECT id, uuid, boot, pid, process_started FROM run WHERE outcome = 'running'")?;
    let running = statement
        .query_map([], |row| {
            let owner = Owner {
                boot: row.get::<_, Vec<u8>>(2)?.try_into().unwrap_or([0; 16]),
                pid: row.get(3)?,
                started: row.get::<_, i64>(4)?.cast_unsigned(),
            };
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, owner))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for (run, uuid, owner) in running {
        // A file that is still there belongs to the living, or is being recovered by someone else.
        if owner.may_be_alive() || uuid::Uuid::from_slice(&uuid).is_ok_and(|uuid| has_file(dir, uuid)) {
            continue;
        }
        // The run may have ended properly since it was read.
        let ended = connection
            .prepare_cached(
                "UPDATE run SET outcome = 'killed', ended_at = started_at WHERE id = ?1 AND outcome = 'running'",
            )?
            .execute([run])?;
        if ended > 0 {
            total.runs += 1;
            total.interrupted_spans += connection
                .prepare_cached("UPDATE span SET state = 2 WHERE run = ?1 AND state = 1")?
                .execute([run])? as u64;
        }
    }
    Ok(())
}
