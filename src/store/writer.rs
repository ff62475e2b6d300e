//! The writer: one step, and the thread around it.
//!
//! The step is a plain function of what is in the lanes. The thread waits, steps, and serves those who wait for a
//! flush. A step that fails leaves everything in the lanes and is tried again after a pause.

mod thread;

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    Opening, TELEMETRY,
    apply::{Applied, Applier},
    attachment::{Attachment, Opened},
    resumed::{positions, restore_spans, shed_sums},
    retention::{Blocked, Keeper, Look},
    run_row::{RunInfo, has_run, insert_run, mark_ended, stored_of},
    shared::{Shared, StoreChange},
    statements::Statements,
};
use crate::{
    clock::{Anchor, Clock, Pace, Timeline},
    database::{Displaced, waiting_within},
    error::{Error, Result},
    event::Severity,
    fail_point,
    flight::{Drain, Reason},
    record::Record,
    redaction::Redactor,
};

/// How long looking after ages and the like may take at the end of a run.
const TIDY_AT_END: Duration = Duration::from_millis(200);

/// A flush that makes no progress for this long has met bytes that do not parse.
const STUCK_AFTER: Duration = Duration::from_secs(1);

pub(crate) use thread::run_thread;

/// Owns the write connection of one run.
#[derive(Debug)]
pub(crate) struct Writer {
    dir: PathBuf,
    attachment: Attachment,
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
    /// Where ticks stood at the last commit, and when the writer woke up since.
    anchor: Anchor,
    woken: Option<Anchor>,
    /// How long ticks are.
    pace: Pace,
    shed_stored: Vec<u64>,
    /// Where each lane's last acknowledged transaction ended, with its counted records; and what the run's row then had stored.
    committed: Vec<(u64, u64)>,
    stored_in_database: u64,
    /// Of the current transaction, by severity.
    rejected: [u64; Severity::ALL.len()],
    /// The run's row says that it has ended.
    has_ended: bool,
    /// Keeps the store within its cap.
    keeper: Keeper,
    tidied: Instant,
}

impl Writer {
    /// Adds this run's row to a store that was opened for it.
    pub(crate) fn start(opening: Opening, shared: Arc<Shared>, info: &RunInfo) -> Result<Self> {
        let Opening { dir, connection, mut keeper, clock, redactor, .. } = opening;
        let anchor = clock.anchor();
        let run = insert_run(&connection, &shared.flight, &clock, info)
            .map_err(|error| Error::sqlite("cannot add this run to the store", error))?;
        keeper.set_run(run);
        let applier = Applier::new(run, shared.flight.key(), clock.clone(), Arc::clone(&redactor));
        shared.flight.set_first_anchor(anchor);
        shared.flight.set_anchors(anchor, [anchor, clock.anchor()]);
        shared.committed_at.store(anchor.wall_ns.cast_unsigned(), Ordering::Relaxed);
        let writer = Self {
            attachment: Attachment::new(&dir, connection, Arc::clone(&shared)),
            dir,
            info: info.clone(),
            shared,
            pace: clock.pace(),
            clock,
            redactor,
            run,
            applier,
            drain: Drain::default(),
            definitions_known: 0,
            first_anchor: anchor,
            anchor,
            woken: None,
            shed_stored: Vec::new(),
            committed: Vec::new(),
            stored_in_database: 0,
            rejected: [0; Severity::ALL.len()],
            has_ended: false,
            keeper,
            tidied: Instant::now(),
        };
        writer.publish();
        Ok(writer)
    }

    /// Takes what is in the lanes, up to now, to the database. Returns how many records it took.
    pub(crate) fn step(&mut self) -> Result<usize> {
        let now = self.clock.anchor().following(self.woken.unwrap_or(self.anchor));
        let flight = Arc::clone(&self.shared.flight);
        flight.drain(now.ticks, self.keeper.budget().batch_bytes(), &mut self.drain);
        let shed: Vec<_> = flight.shed_counts().collect();
        self.shed_stored.resize(shed.len(), 0);
        let shed_changed = shed.iter().zip(&self.shed_stored).any(|((_, _, count), stored)| count != stored);
        if self.drain.is_empty() && !shed_changed {
            return Ok(0);
        }
        if self.attach()? {
            // Some of it may have been stored by a transaction that was not acknowledged.
            flight.drain(now.ticks, self.keeper.budget().batch_bytes(), &mut self.drain);
            self.shed_stored.resize(shed.len(), 0);
        }
        flight.set_anchors(self.first_anchor, [self.woken.unwrap_or(self.anchor), now]);
        let applier = &mut self.applier;
        self.definitions_known =
            flight.definitions(self.definitions_known, |number, definition| applier.define(number, definition));
        let mut timeline = match self.woken {
            Some(woken) => Timeline::with(self.anchor, woken, now, self.pace),
            None => Timeline::new(self.anchor, now, self.pace),
        };
        timeline.place_sleeps(self.drain.pieces().map(|(stamp, _)| stamp));
        match self.transact(&timeline, now.wall_ns, &shed) {
            Ok(stored) => {
                if let Err(error) = self.attachment.check_commit() {
                    // Whether it was kept is found out when the database is opened again.
                    self.forget_transaction();
                    return Err(error);
                }
                self.applier.commit();
                self.stored_in_database += stored;
                self.committed.resize(self.drain.ends().len(), (0, 0));
                for ((committed, end), position) in
                    self.committed.iter_mut().zip(self.drain.ends()).zip(self.drain.positions())
                {
                    if end.0 != *position {
                        *committed = *end;
                    }
                }
                self.shed_stored = shed.iter().map(|(_, _, count)| *count).collect();
                self.shared.stored.fetch_add(stored, Ordering::Relaxed);
                self.shared.commits.fetch_add(1, Ordering::Relaxed);
                self.shared.committed_at.store(now.wall_ns.cast_unsigned(), Ordering::Relaxed);
                flight.release(&mut self.drain);
                fail_point::hit("writer.after_release");
                flight.set_pinned(false);
                self.publish();
                // Their rows are in the transaction; the counters follow.
                for ((reason, severity, _), stored) in shed.iter().copied().zip(&mut self.shed_stored) {
                    if reason == Reason::Rejected {
                        let count = std::mem::take(&mut self.rejected[severity as usize]);
                        flight.count_shed(reason, severity, count);
                        *stored += count;
                    }
                }
                if timeline.has_break() && self.woken.is_none() {
                    flight.add_break([self.anchor, now]);
                }
                self.pace.learn(self.woken.take().unwrap_or(self.anchor), now);
                self.anchor = now;
                Ok(self.drain.len())
            }
            Err(blocked) => {
                if let Some(connection) = self.attachment.get() {
                    let _ = connection.execute_batch("ROLLBACK");
                }
                self.forget_transaction();
                flight.set_pinned(matches!(blocked, Blocked::Pinned));
                if blocked.is_for_want_of_room() {
                    self.keeper.was_too_little();
                }
                let error = blocked.into_error(&format!("cannot store telemetry in {}", self.dir.display()));
                self.attachment.failed(&error);
                Err(error)
            }
        }
    }

    fn forget_transaction(&mut self) {
        self.applier.rollback();
        self.rejected = [0; Severity::ALL.len()];
    }

    fn transact(
        &mut self,
        timeline: &Timeline,
        now_unix_ns: i64,
        shed: &[(Reason, Severity, u64)],
    ) -> Result<u64, Blocked> {
        let Some(connection) = self.attachment.get() else { return Err(Blocked::Detached) };
        let pages = self.keeper.budget().pages_of(self.drain.bytes());
        self.keeper.begin(connection, pages)?;
        let mut statements = Statements::prepare(connection)?;
        self.applier.begin(connection)?;
        let (mut stored, mut taken, mut look) = (0, 0, Look::default());
        for (stamp, bytes) in self.drain.pieces() {
            match self.applier.apply(connection, &mut statements, timeline, stamp, bytes)? {
                Applied::Stored => stored += u64::from(is_counted(bytes)),
                Applied::Rejected if is_counted(bytes) => self.rejected[Record::severity_of(bytes) as usize] += 1,
                Applied::Rejected => {}
            }
            taken += 1;
            let (pending, scattered) = (self.applier.pending_bytes(), self.applier.scattered_pages());
            if self.keeper.should_end(&mut look, pending, scattered) {
                break;
            }
        }
        self.drain.keep(taken);
        let finished = self.applier.finish(connection, &mut statements)?;
        for (refused, count) in self.rejected.iter_mut().zip(finished.refused) {
            *refused += count;
            stored -= count;
        }
        for (lane, (end, position)) in self.drain.ends().iter().zip(self.drain.positions()).enumerate() {
            if end.0 != *position {
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
        statements.add_to_run(self.run, stored, &finished)?;
        drop(statements);
        if self.has_ended {
            // A run whose owner was dropped, and which was taken for ended, goes on.
            connection.execute("UPDATE run SET outcome = 'running', ended_at = NULL WHERE id = ?1", [self.run])?;
        }
        if !connection.check_lock() {
            return Err(Blocked::LockLost);
        }
        fail_point::hit("writer.before_commit");
        connection.execute_batch("COMMIT")?;
        fail_point::hit("writer.after_commit");
        self.has_ended = false;
        self.keeper.was_enough();
        Ok(stored)
    }

    /// Tells everyone else how large the store is, and what was done to keep it so.
    fn publish(&self) {
        if let Some(connection) = self.attachment.get() {
            self.shared.set_size(self.keeper.size(connection));
        }
    }

    /// What is to be done from time to time, a piece of it. Says whether that was all.
    fn tidy(&mut self, within: Duration) -> Result<bool> {
        let connection = self.attachment.connection()?;
        let outcome = self.keeper.tidy(connection, Instant::now() + within);
        self.publish();
        match outcome {
            Ok(is_done) => {
                if is_done {
                    self.tidied = Instant::now();
                }
                Ok(is_done)
            }
            // Another minute.
            Err(Blocked::Pinned | Blocked::Full) => {
                self.tidied = Instant::now();
                Ok(true)
            }
            Err(blocked) => {
                self.tidied = Instant::now();
                let error = blocked.into_error("cannot tidy up the store");
                self.attachment.failed(&error);
                Err(error)
            }
        }
    }

    /// Makes sure of a database whose files are at their paths. Says whether it was opened again just now.
    fn attach(&mut self) -> Result<bool> {
        let (used, bytes) = self.shared.flight.fill();
        match self.attachment.open(used > bytes / 2)? {
            Opened::Before => Ok(false),
            Opened::Anew => match self.resume() {
                Ok(()) => Ok(true),
                Err(error) => {
                    self.attachment.leave(Displaced::Failing, error.to_string());
                    Err(error)
                }
            },
        }
    }

    /// Goes on in a database that was opened just now. It may be the one from before, with or without the transaction that
    /// was not acknowledged; an earlier copy of it; or another. Its own counters say what it has.
    fn resume(&mut self) -> Result<()> {
        if let Some(set_aside) = self.attachment.take_set_aside() {
            self.shared.notify(&StoreChange::SetAside(set_aside));
        }
        let connection = self.attachment.connection()?;
        let failed = |error| Error::sqlite("cannot add this run to the store", error);
        let flight = &self.shared.flight;
        let has_run = has_run(connection, flight).map_err(failed)?;
        let run = insert_run(connection, flight, &self.clock, &self.info).map_err(failed)?;
        let (found, stored) = (|| Ok((positions(connection, run)?, stored_of(connection, run)?)))().map_err(failed)?;
        let lanes = self.committed.len().max(found.len());
        let at = |positions: &[(u64, u64)], lane| positions.get(lane).map_or(0, |(position, _)| *position);
        let has_more = (0..lanes).any(|lane| at(&found, lane) > at(&self.committed, lane));
        let has_less = (0..lanes).any(|lane| at(&found, lane) < at(&self.committed, lane));
        if !has_run || has_more || has_less || run != self.run {
            let redactor = Arc::clone(&self.redactor);
            self.applier = Applier::new(run, flight.key(), self.clock.clone(), redactor);
            self.definitions_known = 0;
            let timeline = Timeline::new(self.first_anchor, self.clock.anchor(), self.pace);
            restore_spans(connection, run, &timeline, &mut self.applier).map_err(failed)?;
        } else {
            self.applier.rollback();
        }
        if has_more {
            self.shared.stored.fetch_add(stored.saturating_sub(self.stored_in_database), Ordering::Relaxed);
            flight.release_up_to(&found, &mut self.drain);
        }
        self.shed_stored.clear();
        for (reason, severity, count) in flight.shed_counts().collect::<Vec<_>>() {
            let known = shed_sums(connection, run, reason, severity).map_err(failed)?;
            // Counted by a transaction that was not acknowledged.
            if reason == Reason::Rejected && known > count {
                flight.count_shed(reason, severity, known - count);
            }
            self.shed_stored.push(known);
        }
        (self.run, self.committed, self.stored_in_database) = (run, found, stored);
        self.keeper.renew(connection, run)
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
        if self.shared.probe.swap(false, Ordering::AcqRel) {
            self.probe()?;
        }
        match self.shared.pause.swap(false, Ordering::AcqRel) {
            true => {
                self.has_ended = true;
                mark_ended(self.attachment.connection()?, self.run, &self.clock, "clean")
                    .map_err(|error| Error::sqlite("cannot mark the run in the store", error))?;
                self.attachment.check_commit()
            }
            false => Ok(()),
        }
    }

    /// Writes into the database, and changes nothing of it. SQLite does not write what it finds to be the same, so it is another
    /// for a moment.
    fn probe(&mut self) -> Result<()> {
        self.attach()?;
        let (run, connection) = (self.run, self.attachment.connection()?);
        let written = connection.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             UPDATE run SET stored = stored + 1 WHERE id = {run};
             UPDATE run SET stored = stored - 1 WHERE id = {run};
             COMMIT"
        ));
        if let Err(error) = written {
            let _ = connection.execute_batch("ROLLBACK");
            let error = Error::sqlite(&format!("cannot write into {}", TELEMETRY.file), error);
            self.attachment.failed(&error);
            return Err(error);
        }
        self.attachment.check_commit()
    }

    /// After a rest: the clocks may have been set meanwhile, and the machine may have slept. What comes now is dated from here,
    /// and so is what may have to be recovered.
    fn refresh_anchors(&mut self) {
        let now = self.clock.anchor().following(self.anchor);
        if Timeline::new(self.anchor, now, self.pace).has_break() {
            self.shared.flight.add_break([self.anchor, now]);
        }
        self.pace.learn(self.anchor, now);
        self.shared.flight.set_anchors(self.first_anchor, [self.anchor, now]);
        self.woken = Some(now);
    }

    fn is_idle(&self) -> bool {
        !self.shared.flight.has_more(self.drain.positions())
    }

    /// Ends the run: open spans stay as they are, interrupted; the flight file is removed.
    fn end(&mut self) -> Result<()> {
        self.flush()?;
        // What is due anyway: a program that never runs for a minute has its ages looked at, too.
        let _ = self.tidy(TIDY_AT_END);
        let what = "cannot end the run in the store";
        let (pages, bytes) = self.keeper.budget().of_ending_spans();
        // With nothing to store, nobody has looked yet.
        self.attach()?;
        let connection = self.attachment.connection()?;
        loop {
            let applier = &mut self.applier;
            let some = self
                .keeper
                .transact_with_room(connection, pages, |_| applier.interrupt_some(connection, bytes))
                .inspect_err(|_| applier.rollback())
                .map_err(|blocked| blocked.into_error(what))?;
            self.applier.commit();
            if some == 0 {
                break;
            }
        }
        let outcome = if self.shared.panicking.load(Ordering::Acquire) { "panicked" } else { "clean" };
        self.keeper
            .transact_with_room(connection, pages, |_| mark_ended(connection, self.run, &self.clock, outcome))
            .map_err(|blocked| blocked.into_error(what))?;
        self.attachment.check_commit()?;
        fail_point::hit("writer.before_remove_flight_file");
        self.shared.flight.remove_file()?;
        fail_point::hit("writer.after_remove_flight_file");
        // Leaves one file that can be copied; a reader elsewhere may prevent it, and then the WAL stays beside it.
        let connection = self.attachment.connection()?;
        let _ = connection.execute("DELETE FROM lane WHERE run = ?1", [self.run]);
        let _ =
            waiting_within(Duration::ZERO, || connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
        self.publish();
        Ok(())
    }
}

/// A record that counts in `Stats`, by its first byte.
fn is_counted(bytes: &[u8]) -> bool {
    Record::kind_of(bytes).is_some_and(crate::record::Kind::is_counted)
}
