//! The writer: one thread around one step.
//!
//! The step is a plain function of what is in the lanes. The thread waits, steps, and serves those who wait for a
//! flush. A step that fails leaves everything in the lanes and is tried again after a pause.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rusqlite::{Connection, params};

use super::{
    TELEMETRY,
    apply::{Applied, Applier},
    recovery::{Recovery, recover_with},
    shared::Shared,
    statements::Statements,
};
use crate::{
    clock::{Anchor, Clock, Timeline},
    config::create_directory,
    database::{identity, open_writer},
    error::{Error, Result},
    event::Severity,
    flight::{Drain, FlightRecorder, Reason},
    record::Record,
    redaction::Redactor,
};

/// After a failure the next attempt waits this long, doubling up to the second.
const RETRY_PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// A flush that makes no progress for this long has met bytes that do not parse.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// What a run's row says about the process.
#[derive(Clone, Debug)]
pub(crate) struct RunInfo {
    pub(crate) service: Option<String>,
    pub(crate) version: Option<String>,
}

/// Owns the write connection of one run.
#[derive(Debug)]
pub(crate) struct Writer {
    dir: PathBuf,
    connection: Connection,
    /// Which file the connection is to.
    identity: Option<(u64, u64)>,
    info: RunInfo,
    shared: Arc<Shared>,
    clock: Clock,
    redactor: Arc<Redactor>,
    run: i64,
    applier: Applier,
    drain: Drain,
    definitions_known: usize,
    /// Where ticks stood when the run began, for the file's sake: the longer the base, the better recovery extrapolates.
    first_anchor: Anchor,
    /// Where ticks stood at the last commit.
    anchor: Anchor,
    shed_stored: Vec<u64>,
    /// Of the current transaction, by severity.
    rejected: [u64; Severity::ALL.len()],
    recovered: Recovery,
}

impl Writer {
    /// Opens the database, recovers what dead processes left, and adds this run's row.
    pub(crate) fn start(
        dir: &Path,
        shared: Arc<Shared>,
        clock: Clock,
        redactor: Arc<Redactor>,
        info: &RunInfo,
    ) -> Result<Self> {
        let anchor = clock.anchor();
        let connection = open_writer(&TELEMETRY, dir)?;
        let recovered = recover_with(dir, &connection, &redactor)?;
        let run = insert_run(&connection, &shared.flight, &clock, info)
            .map_err(|error| Error::sqlite("cannot add this run to the store", error))?;
        let applier = Applier::new(run, shared.flight.key(), clock.clone(), Arc::clone(&redactor));
        shared.flight.set_anchors([anchor, clock.anchor()]);
        shared.committed_at.store(anchor.wall_ns.cast_unsigned(), Ordering::Relaxed);
        Ok(Self {
            dir: dir.to_owned(),
            connection,
            identity: identity(&TELEMETRY, dir),
            info: info.clone(),
            shared,
            clock,
            redactor,
            run,
            applier,
            drain: Drain::default(),
            definitions_known: 0,
            first_anchor: anchor,
            anchor,
            shed_stored: Vec::new(),
            rejected: [0; Severity::ALL.len()],
            recovered,
        })
    }

    /// What dead processes had left.
    pub(crate) fn recovered(&self) -> Recovery {
        self.recovered
    }

    /// Takes what is in the lanes, up to now, to the database. Returns how many records it took.
    pub(crate) fn step(&mut self) -> Result<usize> {
        let now = self.clock.anchor();
        let flight = Arc::clone(&self.shared.flight);
        flight.drain(now.ticks, &mut self.drain);
        let shed: Vec<_> = flight.shed_counts().collect();
        self.shed_stored.resize(shed.len(), 0);
        let shed_changed = shed.iter().zip(&self.shed_stored).any(|((_, _, count), stored)| count != stored);
        if self.drain.is_empty() && !shed_changed {
            return Ok(0);
        }
        if identity(&TELEMETRY, &self.dir) != self.identity {
            self.begin_anew()?;
        }
        flight.set_anchors([self.first_anchor, now]);
        let applier = &mut self.applier;
        self.definitions_known =
            flight.definitions(self.definitions_known, |number, definition| applier.define(number, definition));
        let timeline = Timeline::new(self.anchor, now);
        match self.transact(&timeline, now.wall_ns, &shed) {
            Ok(stored) => {
                self.applier.commit();
                self.shed_stored = shed.iter().map(|(_, _, count)| *count).collect();
                self.shared.stored.fetch_add(stored, Ordering::Relaxed);
                self.shared.commits.fetch_add(1, Ordering::Relaxed);
                self.shared.committed_at.store(now.wall_ns.cast_unsigned(), Ordering::Relaxed);
                flight.release(&mut self.drain);
                // Their rows are in the transaction; the counters follow.
                for ((reason, severity, _), stored) in shed.iter().copied().zip(&mut self.shed_stored) {
                    if reason == Reason::Rejected {
                        let count = std::mem::take(&mut self.rejected[severity as usize]);
                        flight.count_shed(reason, severity, count);
                        *stored += count;
                    }
                }
                self.anchor = now;
                Ok(self.drain.len())
            }
            Err(error) => {
                let _ = self.connection.execute_batch("ROLLBACK");
                self.applier.rollback();
                self.rejected = [0; Severity::ALL.len()];
                Err(Error::sqlite(&format!("cannot store telemetry in {}", self.dir.display()), error))
            }
        }
    }

    fn transact(
        &mut self,
        timeline: &Timeline,
        now_unix_ns: i64,
        shed: &[(Reason, Severity, u64)],
    ) -> rusqlite::Result<u64> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut statements = Statements::prepare(&self.connection)?;
        self.applier.begin(&self.connection)?;
        let mut stored = 0;
        for (stamp, bytes) in self.drain.pieces() {
            match self.applier.apply(&self.connection, &mut statements, timeline, stamp, bytes)? {
                Applied::Stored => stored += u64::from(is_counted(bytes)),
                Applied::Rejected if is_counted(bytes) => self.rejected[Record::severity_of(bytes) as usize] += 1,
                Applied::Rejected => {}
            }
        }
        for (refused, count) in self.rejected.iter_mut().zip(self.applier.finish(&self.connection, &mut statements)?) {
            *refused += count;
            stored -= count;
        }
        for (lane, (end, position)) in self.drain.ends().iter().zip(self.drain.positions()).enumerate() {
            if end != position {
                statements.write_position(self.run, lane, *end)?;
            }
        }
        let minute = now_unix_ns.div_euclid(60_000_000_000) * 60;
        for ((reason, severity, count), before) in shed.iter().zip(&self.shed_stored) {
            if count > before {
                statements.add_shed(self.run, minute, reason.as_str(), *severity as i64, count - before)?;
            }
        }
        for (severity, count) in Severity::ALL.into_iter().zip(self.rejected).filter(|(_, count)| *count > 0) {
            statements.add_shed(self.run, minute, Reason::Rejected.as_str(), severity as i64, count)?;
        }
        // A run whose owner was dropped, and which was taken for ended, goes on.
        self.connection
            .prepare_cached("UPDATE run SET stored = stored + ?2, outcome = 'running', ended_at = NULL WHERE id = ?1")?
            .execute(params![self.run, stored.cast_signed()])?;
        drop(statements);
        self.connection.execute_batch("COMMIT")?;
        Ok(stored)
    }

    /// Somebody removed the database, or put another in its place: goes on in a fresh one. It receives the run, the
    /// definitions and the counters again; spans that were open went with the old one.
    fn begin_anew(&mut self) -> Result<()> {
        create_directory(&self.dir)?;
        let connection = open_writer(&TELEMETRY, &self.dir)?;
        let identity = identity(&TELEMETRY, &self.dir);
        let run = insert_run(&connection, &self.shared.flight, &self.clock, &self.info)
            .map_err(|error| Error::sqlite("cannot add this run to the store", error))?;
        (self.connection, self.run) = (connection, run);
        let key = self.shared.flight.key();
        self.applier = Applier::new(self.run, key, self.clock.clone(), Arc::clone(&self.redactor));
        self.definitions_known = 0;
        self.shed_stored.fill(0);
        self.identity = identity;
        Ok(())
    }

    /// Steps until everything recorded before the call is stored.
    fn flush(&mut self) -> Result<()> {
        let heads = self.shared.flight.heads();
        let mut last_progress = Instant::now();
        loop {
            let taken = self.step()?;
            if heads.iter().zip(self.drain.positions()).all(|(head, position)| position >= head) {
                break;
            }
            if taken > 0 {
                last_progress = Instant::now();
            } else if last_progress.elapsed() > STUCK_AFTER {
                return Err(Error::storage(
                    "the flight recorder holds bytes that do not parse: something overwrote its memory",
                ));
            }
        }
        match self.shared.pause.swap(false, Ordering::AcqRel) {
            true => self.mark_ended("clean").map_err(|error| Error::sqlite("cannot mark the run in the store", error)),
            false => Ok(()),
        }
    }

    fn mark_ended(&self, outcome: &str) -> rusqlite::Result<()> {
        self.connection
            .execute(
                "UPDATE run SET ended_at = ?2, outcome = ?3 WHERE id = ?1",
                params![self.run, self.clock.now().as_unix_ns(), outcome],
            )
            .map(drop)
    }

    /// After a rest: what comes now may have to be recovered, and its time be extrapolated from here.
    fn refresh_anchors(&self) {
        self.shared.flight.set_anchors([self.first_anchor, self.clock.anchor()]);
    }

    fn is_idle(&self) -> bool {
        !self.shared.flight.has_more(self.drain.positions())
    }

    /// Ends the run: open spans stay as they are, interrupted; the flight file is removed.
    fn end(&mut self) -> Result<()> {
        self.flush()?;
        let failed = |error| Error::sqlite("cannot end the run in the store", error);
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        let outcome = (|| {
            let mut statements = Statements::prepare(&self.connection)?;
            self.applier.interrupt(&mut statements)?;
            drop(statements);
            self.mark_ended(if self.shared.panicking.load(Ordering::Acquire) { "panicked" } else { "clean" })?;
            self.connection.execute("DELETE FROM lane WHERE run = ?1", [self.run])?;
            self.connection.execute_batch("COMMIT")
        })();
        if let Err(error) = outcome {
            let _ = self.connection.execute_batch("ROLLBACK");
            return Err(failed(error));
        }
        self.shared.flight.remove_file()?;
        // Leaves one file that can be copied; a reader elsewhere may prevent it, and then the WAL stays beside it.
        let _ = self.connection.busy_timeout(Duration::ZERO);
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        Ok(())
    }
}

/// A record that counts in `Stats`, by its first byte.
fn is_counted(bytes: &[u8]) -> bool {
    Record::kind_of(bytes).is_some_and(crate::record::Kind::is_counted)
}

fn insert_run(
    connection: &Connection,
    flight: &FlightRecorder,
    clock: &Clock,
    info: &RunInfo,
) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "INSERT INTO run (uuid, boot, pid, process_started, service, version, host, started_at, span_key, outcome)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'running')
             ON CONFLICT (uuid) DO UPDATE SET outcome = 'running' RETURNING id",
        )?
        .query_row(
            params![
                flight.run().as_bytes(),
                flight.owner().boot,
                flight.owner().pid,
                flight.owner().started.cast_signed(),
                info.service,
                info.version,
                host(),
                clock.now().as_unix_ns(),
                flight.key().cast_signed(),
            ],
            |row| row.get(0),
        )
}

#[cfg(unix)]
fn host() -> Option<String> {
    Some(rustix::system::uname().nodename().to_string_lossy().into_owned())
}

#[cfg(not(unix))]
fn host() -> Option<String> {
    std::env::var("COMPUTERNAME").ok()
}

/// The writer's thread. Ends when `Shared::stop` asks for it, after everything is stored.
pub(crate) fn run_thread(writer: Writer, commit_every: Duration) {
    let shared = Arc::clone(&writer.shared);
    if catch_unwind(AssertUnwindSafe(|| run(writer, commit_every))).is_err() {
        shared.abandon();
    }
}

fn run(mut writer: Writer, commit_every: Duration) {
    let shared = Arc::clone(&writer.shared);
    let bell = shared.flight.bell();
    *shared.writer_thread.lock() = Some(std::thread::current().id());
    let mut pause = RETRY_PAUSES[0];
    let mut due: Option<Instant> = None;
    let mut is_failing = false;
    loop {
        match due {
            Some(due) => _ = bell.wait_until(due),
            None => bell.sleep_while(|| writer.is_idle()),
        }
        let stopping = shared.stop.load(Ordering::Acquire);
        let (asked, is_asked) = shared.asked();
        let outcome = if stopping {
            let outcome = writer.end();
            if outcome.is_err() && shared.may_try_again() {
                due = Some(Instant::now() + RETRY_PAUSES[0]);
                continue;
            }
            outcome
        } else if is_asked {
            writer.flush()
        } else if is_failing && due.is_some_and(|due| Instant::now() < due) {
            // Pressure does not make a sick store well.
            continue;
        } else if due.is_none() {
            // The first record after a rest: others will follow within the interval.
            writer.refresh_anchors();
            // Unless so many came before this thread woke that their ring was this one, too.
            if !shared.flight.is_pressed() {
                due = Some(Instant::now() + commit_every);
                continue;
            }
            writer.step().map(drop)
        } else {
            writer.step().map(drop)
        };
        shared.last_error.lock().clone_from(&outcome.as_ref().err().cloned());
        if stopping {
            return shared.serve(asked, outcome.err(), true);
        }
        is_failing = outcome.is_err();
        if is_failing {
            due = Some(Instant::now() + pause);
            pause = (pause * 2).min(RETRY_PAUSES[1]);
        } else {
            pause = RETRY_PAUSES[0];
            let rests = writer.drain.is_empty() && writer.is_idle();
            due = (!rests).then(|| Instant::now() + commit_every);
        }
        if is_asked {
            shared.serve(asked, outcome.err(), false);
        }
    }
}
