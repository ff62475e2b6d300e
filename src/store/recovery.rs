//! Bringing what dead processes left into the store.
//!
//! Through the same applier as the writer's and in transactions as small; then the file is removed. A death in between is
//! harmless: the committed positions say what is left to replay.

use std::{path::Path, sync::Arc};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    Opening,
    apply::{Applied, Applier},
    event_rows::is_about_the_value,
    inspection::{dead_runs, has_records},
    resumed::{positions, restore_spans, shed_sums},
    retention::{Blocked, Keeper, Look, mark_running},
    statements::Statements,
};
use crate::{
    clock::{Clock, Timeline},
    database::waiting_within,
    error::Result,
    event::Severity,
    fail_point,
    flight::{Image, Left, Orphan, Reason, Remains, limit_set_aside, orphans},
    record::Record,
    redaction::Redactor,
    state::{default_redactor, end_dead_runs},
};

/// How often a transaction that ran out of pages is tried with more of them.
const ATTEMPTS: usize = 8;

/// How long it waits for others who write into `state.db`.
const STATE_WITHIN: std::time::Duration = std::time::Duration::from_millis(200);

/// Spans of a vanished run that are ended in one transaction.
const VANISHED_AT_ONCE: u64 = 256;

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
    /// Events and spans that something had damaged in a flight file. They are counted as shed, for the reason `damaged`.
    pub damaged: u64,
    /// Flight files that could not be read; they are set aside as `flight/*.unreadable`, the latest of them, up to an
    /// eighth of the cap.
    pub unreadable: u32,
    /// Flight files that the system did not let this process read, remove or rename. They stay where they are, and the next
    /// start tries again; what was stored of them is not stored twice.
    pub failed: u32,
    /// Flight files that wait for the next start, because the disk or the cap leaves no room for them, or a reader that
    /// keeps its snapshot for long.
    pub postponed: u32,
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
    has_records(dir)?;
    Ok(Opening::open(dir, Clock::system(), default_redactor(dir)?, None)?.recovered())
}

pub(super) fn recover_with(
    dir: &Path,
    connection: &Connection,
    keeper: &mut Keeper,
    redactor: &Arc<Redactor>,
) -> Result<Recovery> {
    let (mut total, mut dead) = (Recovery::default(), Vec::new());
    for mut orphan in orphans(dir, &mut total.failed) {
        // One in shared memory takes nothing of the disk.
        keeper.set_going(if orphan.path().starts_with(dir) { orphan.bytes() } else { 0 });
        let image = match orphan.read() {
            Ok(Some(image)) => image,
            Ok(None) => {
                total.set_aside(orphan);
                continue;
            }
            Err(_) => {
                total.failed += 1;
                continue;
            }
        };
        match Replay::of(connection, keeper, &image, redactor) {
            Ok(found) => {
                total.runs += found.runs;
                total.records += found.records;
                total.interrupted_spans += found.interrupted_spans;
                total.damaged += found.damaged;
                dead.push(image.run().to_string());
                fail_point::hit("recovery.before_remove_flight_file");
                if orphan.remove().is_err() {
                    // The positions keep what is stored from being stored again.
                    total.failed += 1;
                    continue;
                }
                fail_point::hit("recovery.after_remove_flight_file");
                forget_positions(connection, image.run());
            }
            // There is something in it that the database does not take, now or later.
            Err(Blocked::Failed(error)) if is_about_the_value(&error) => total.set_aside(orphan),
            // There is no room for it at the moment: the file waits for the next start.
            Err(blocked) if blocked.is_for_want_of_room() => total.postponed += 1,
            Err(Blocked::Pinned | Blocked::Full) => total.postponed += 1,
            // The store cannot be written.
            Err(blocked) => return Err(blocked.into_error(&format!("cannot recover {}", orphan.path().display()))),
        }
    }
    keeper.set_going(0);
    // Where that fails now, a program that asks for health does it.
    let _ = waiting_within(STATE_WITHIN, || end_dead_runs(dir, &dead));
    limit_set_aside(dir, keeper.budget().max_bytes / 8);
    end_vanished(dir, connection, keeper, &mut total)
        .map_err(|blocked| blocked.into_error("cannot end vanished runs in the store"))?;
    Ok(total)
}

impl Recovery {
    fn set_aside(&mut self, orphan: Orphan) {
        match orphan.set_aside() {
            Ok(()) => self.unreadable += 1,
            Err(_) => self.failed += 1,
        }
    }
}

/// With the file gone nobody needs them; left behind, they harm nobody.
fn forget_positions(connection: &Connection, run: uuid::Uuid) {
    let sql = "DELETE FROM lane WHERE run = (SELECT id FROM run WHERE uuid = ?1)";
    let _ = connection.execute(sql, [run.as_bytes().as_slice()]);
}

/// One flight file on its way into the store, in transactions as small as the writer's. Each carries the positions it has
/// come to, so that a death in between costs nothing.
struct Replay<'a> {
    connection: &'a Connection,
    keeper: &'a mut Keeper,
    image: &'a Image,
    timeline: Timeline,
    run: i64,
    applier: Applier,
    is_lost: bool,
    /// As what records count that the database refuses.
    refused: Reason,
    tally: Tally,
}

/// What was counted so far; a transaction that fails counts for nothing.
#[derive(Clone)]
struct Tally {
    stored: u64,
    damaged: u64,
    /// Of the latest transaction alone, which carries it.
    shed: Vec<(Reason, Severity, u64)>,
    positions: Vec<(u64, u64)>,
    end_unix_ns: i64,
}

impl<'a> Replay<'a> {
    fn of(
        connection: &'a Connection,
        keeper: &'a mut Keeper,
        image: &'a Image,
        redactor: &Arc<Redactor>,
    ) -> Result<Recovery, Blocked> {
        let mut timeline = image.timeline();
        let pages = keeper.budget().pages_of(0);
        let found = keeper.transact_with_room(connection, pages, |_| {
            let found = find_or_insert_run(connection, image, &timeline)?;
            if let Some((run, _)) = &found {
                store_sheds(connection, *run, &timeline, image.shed_counts())?;
            }
            Ok(found)
        })?;
        let Some((run, outcome)) = found else {
            // It died between creating its file and adding its run.
            return Ok(Recovery::default());
        };
        let mut applier = Applier::new(run, image.key(), Clock::system(), Arc::clone(redactor));
        let has_all_definitions = image.definitions(|number, definition| applier.define(number, definition));
        restore_spans(connection, run, &timeline, &mut applier)?;
        let Remains { records, starts, ends, damaged } = image.records(&positions(connection, run)?);
        timeline.place_sleeps(records.iter().map(|left| left.stamp));
        let end_unix_ns = timeline.end_unix_ns();
        let tally = Tally { stored: 0, damaged, shed: Vec::new(), positions: starts, end_unix_ns };
        // A record whose callsite cannot be read is as good as damaged.
        let refused = if has_all_definitions { Reason::Rejected } else { Reason::Damaged };
        let is_lost = !image.is_of_this_boot();
        let mut replay = Self { connection, keeper, image, timeline, run, applier, is_lost, refused, tally };
        let mut rest = &records[..];
        let mut attempts = 0;
        while !rest.is_empty() {
            match replay.some(rest) {
                Ok(done) => rest = &rest[done..],
                Err(blocked) if blocked.is_for_want_of_room() && attempts < ATTEMPTS => {
                    attempts += 1;
                    replay.keeper.was_too_little();
                }
                Err(blocked) => return Err(blocked),
            }
        }
        replay.end(&outcome, records.is_empty(), &ends)
    }

    /// Stores as many of the first records as fit into a transaction; says how many.
    fn some(&mut self, records: &[Left]) -> Result<usize, Blocked> {
        let budget = self.keeper.budget();
        let mut bytes = 0;
        let count = records.iter().take_while(|left| {
            bytes += left.body.len() as u64;
            bytes <= budget.batch_bytes()
        });
        let records = &records[..count.count().max(1)];
        let (connection, pages) = (self.connection, budget.pages_of(bytes));
        let outcome = self.keeper.transact_with_room(connection, pages, |keeper| {
            let mut tally = Tally { shed: Vec::new(), ..self.tally.clone() };
            let mut statements = Statements::prepare(connection)?;
            self.applier.begin(connection)?;
            let (mut done, mut look) = (0, Look::default());
            for Left { stamp, body, lane, next, counted, .. } in records {
                let is_counted = Record::kind_of(body).is_some_and(crate::record::Kind::is_counted);
                if self.is_lost {
                    tally.lose(Reason::OtherBoot, body);
                } else {
                    tally.end_unix_ns = tally.end_unix_ns.max(self.timeline.at(*stamp).wall_ns);
                    match self.applier.apply(connection, &mut statements, &self.timeline, *stamp, body)? {
                        Applied::Stored => tally.stored += u64::from(is_counted),
                        Applied::Rejected => tally.lose(self.refused, body),
                    }
                }
                tally.positions[*lane] = (*next, *counted);
                done += 1;
                let (pending, scattered) = (self.applier.pending_bytes(), self.applier.scattered_pages());
                if keeper.should_end(&mut look, pending, scattered) {
                    break;
                }
            }
            let finished = self.applier.finish(connection, &mut statements)?;
            for (severity, count) in Severity::ALL.into_iter().zip(finished.refused) {
                tally.stored -= count;
                tally.add(Reason::Rejected, severity, count);
            }
            // Should this process die before it removes the file, another replay begins behind these.
            for (lane, position) in tally.positions.iter().enumerate() {
                statements.write_position(self.run, lane, *position)?;
            }
            let minute = minute_of(self.timeline.end_unix_ns());
            for (reason, severity, count) in &tally.shed {
                statements.add_shed(self.run, minute, reason.as_str(), *severity as i64, *count)?;
            }
            let stored = tally.stored - self.tally.stored;
            statements.add_to_run(self.run, stored, &finished)?;
            fail_point::hit("recovery.before_commit");
            Ok((tally, done))
        });
        match outcome {
            Ok((tally, done)) => {
                fail_point::hit("recovery.after_commit");
                self.tally = tally;
                self.applier.commit();
                Ok(done)
            }
            Err(blocked) => {
                self.applier.rollback();
                Err(blocked)
            }
        }
    }

    /// What was open is interrupted, and the run has ended.
    fn end(mut self, outcome: &str, had_nothing: bool, ends: &[u64]) -> Result<Recovery, Blocked> {
        let connection = self.connection;
        let (pages, bytes) = self.keeper.budget().of_ending_spans();
        let mut interrupted_spans = 0;
        loop {
            let some = self
                .keeper
                .transact_with_room(connection, pages, |_| self.applier.interrupt_some(connection, bytes))?;
            self.applier.commit();
            interrupted_spans += some;
            if some == 0 {
                break;
            }
        }
        let outcome = match outcome {
            "clean" if had_nothing => "clean",
            _ if self.image.panicked() => "panicked",
            _ => "killed",
        };
        let minute = minute_of(self.timeline.end_unix_ns());
        let Tally { stored, damaged, positions, shed, end_unix_ns } = self.tally;
        let damaged_of_definitions: u64 =
            shed.iter().filter(|(reason, ..)| *reason == Reason::Damaged).map(|(.., count)| count).sum();
        self.keeper.transact_with_room(connection, pages, |_| {
            // With the counts that say so, so that another replay does not count them again.
            if damaged > 0 {
                let mut statements = Statements::prepare(connection)?;
                for (lane, ((position, _), recorded)) in positions.iter().zip(ends).enumerate() {
                    statements.write_position(self.run, lane, (*position, *recorded))?;
                }
                let severity = Severity::Info as i64;
                statements.add_shed(self.run, minute, Reason::Damaged.as_str(), severity, damaged)?;
            }
            connection
                .prepare_cached("UPDATE run SET ended_at = coalesce(ended_at, ?2), outcome = ?3 WHERE id = ?1")?
                .execute(params![self.run, end_unix_ns, outcome])
                .map(drop)
        })?;
        let damaged = damaged + damaged_of_definitions;
        Ok(Recovery { runs: 1, records: stored, interrupted_spans, damaged, ..Recovery::default() })
    }
}

impl Tally {
    /// Counts a record that has no row, if it is one of those that count.
    fn lose(&mut self, reason: Reason, bytes: &[u8]) {
        if Record::kind_of(bytes).is_some_and(crate::record::Kind::is_counted) {
            self.add(reason, Record::severity_of(bytes), 1);
        }
    }

    fn add(&mut self, reason: Reason, severity: Severity, count: u64) {
        match self.shed.iter_mut().find(|shed| shed.0 == reason && shed.1 == severity) {
            Some((_, _, sum)) => *sum += count,
            None if count > 0 => self.shed.push((reason, severity, count)),
            None => {}
        }
    }
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

/// The file's counters, less what is stored of them. A dead process's do not change: what a replay adds later, because
/// records were refused or of another boot, is added with the positions behind those records, once.
fn store_sheds(
    connection: &Connection,
    run: i64,
    timeline: &Timeline,
    counts: impl Iterator<Item = (Reason, Severity, u64)>,
) -> rusqlite::Result<()> {
    let mut statements = Statements::prepare(connection)?;
    for (reason, severity, count) in counts.filter(|(_, _, count)| *count > 0) {
        let new = count.saturating_sub(shed_sums(connection, run, reason, severity)?);
        if new > 0 {
            let minute = minute_of(timeline.end_unix_ns());
            statements.add_shed(run, minute, reason.as_str(), severity as i64, new)?;
        }
    }
    Ok(())
}

fn minute_of(unix_ns: i64) -> i64 {
    unix_ns.div_euclid(60_000_000_000) * 60
}

/// Runs that kept their flight in memory leave no file: they ended if their process is gone.
fn end_vanished(dir: &Path, connection: &Connection, keeper: &mut Keeper, total: &mut Recovery) -> Result<(), Blocked> {
    // A file that is still there is being recovered by someone else.
    for (run, _) in dead_runs(dir, connection)?.into_iter().filter(|(_, left_nothing)| *left_nothing) {
        let (pages, _) = keeper.budget().of_ending_spans();
        // The run may have ended properly since it was read.
        let ended = keeper.transact_with_room(connection, pages, |_| {
            mark_running(connection, run)?;
            connection
                .prepare_cached(
                    "UPDATE run SET outcome = 'killed', ended_at = started_at WHERE id = ?1 AND outcome = 'running'",
                )?
                .execute([run])
        })?;
        if ended == 0 {
            continue;
        }
        total.runs += 1;
        loop {
            let some = keeper.transact_with_room(connection, pages, |keeper| {
                let mut update = connection.prepare_cached(
                    "UPDATE span SET state = 2 WHERE id IN (SELECT id FROM span WHERE run = ?1 AND state = 1 LIMIT 8)",
                )?;
                let mut sum = 0;
                loop {
                    let some = update.execute([run])? as u64;
                    sum += some;
                    if some == 0 || sum >= VANISHED_AT_ONCE || keeper.is_wal_full() {
                        return Ok(sum);
                    }
                }
            })?;
            total.interrupted_spans += some;
            if some == 0 {
                break;
            }
        }
    }
    Ok(())
}
