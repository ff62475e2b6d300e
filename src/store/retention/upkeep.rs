//! Maintenance: what goes, in which order, and in how small pieces.

use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::{
    super::Cleanup,
    Blocked, Keeper, PAGE_BYTES, commit, names, rows, space,
    sums::{self, Why},
};
use crate::clock::duration_ns;

/// Maintenance holds the write lock for about this long at a time.
const PIECE: Duration = Duration::from_millis(10);
/// How often giving pages back may find none before it is left for later.
const IN_VAIN_MAX: u32 = 50;
/// Spans that are looked at for one that is too old: about ten milliseconds.
const SPANS_LOOKED_AT: i64 = 20_000;
/// Time that differs by more is wrong.
const WRONG_NS: i64 = 3_600_000_000_000;

impl Keeper {
    /// What goes for the cap.
    pub(super) fn oldest(&self, limit: i64) -> rows::Cut {
        rows::Cut {
            rows_until: i64::MAX,
            warnings_until: i64::MAX,
            spans_looked_at: None,
            future: self.clock.now().as_unix_ns().saturating_add(WRONG_NS),
            warning_bytes_kept: limit / 4 * PAGE_BYTES as i64,
            may_take_running: true,
        }
    }

    /// What is too old; `None` if nothing can be, or time is not to be trusted.
    pub(super) fn too_old(&self) -> Option<rows::Cut> {
        let now = self.clock.trusted_now_ns()?;
        let before = |age: Duration| now.saturating_sub(duration_ns(age));
        let rows_until = self.retention.max_age.map(before);
        let warnings_until = self.retention.max_age_of_warnings.map(before).or(rows_until);
        if rows_until.is_none() && warnings_until.is_none() {
            return None;
        }
        let ages = [self.retention.max_age, self.retention.max_age_of_warnings];
        let longest = ages.into_iter().flatten().max().map_or(WRONG_NS, duration_ns).max(WRONG_NS);
        Some(rows::Cut {
            rows_until: rows_until.unwrap_or(i64::MIN),
            warnings_until: warnings_until.unwrap_or(i64::MIN),
            // What is dated in the future was recorded by a clock that was wrong. It ages by its date like anything else, unless
            // it would be kept for more than twice its time.
            spans_looked_at: Some(SPANS_LOOKED_AT),
            future: now.saturating_add(longest),
            warning_bytes_kept: 0,
            may_take_running: false,
        })
    }

    /// Removes rows until `goal` pages are free, but for about ten milliseconds at most. Says whether it removed any.
    pub(super) fn remove(
        &mut self,
        connection: &Connection,
        why: Why,
        cut: &rows::Cut,
        goal: i64,
    ) -> Result<bool, Blocked> {
        let started = Instant::now();
        self.unpin(connection)?;
        let (rows, freed) = self.transact(connection, |keeper| {
            let before = space::pragma(connection, "freelist_count")?;
            let mut removed = rows::Removed::default();
            let mut freed = 0;
            loop {
                let some = rows::remove_some(connection, cut, &mut keeper.spans_from, keeper.rows_at_once)?;
                removed.add(some);
                let freed_before = freed;
                freed = space::pragma(connection, "freelist_count")? - before;
                // A few rows of a megabyte are as much as thousands of small ones: no more goes than must.
                let most = keeper.budget.rows_between_looks();
                let is_much = (freed - freed_before).saturating_mul(8) > goal;
                keeper.rows_at_once =
                    (if is_much { keeper.rows_at_once / 2 } else { keeper.rows_at_once * 2 }).clamp(1, most);
                if some.rows == 0 || freed >= goal || started.elapsed() >= PIECE || keeper.is_wal_full() {
                    break;
                }
            }
            connection
                .prepare_cached(
                    "UPDATE run SET warning_bytes = warning_bytes - ?2
                      WHERE id = ifnull(?1, (SELECT max(id) FROM run)) AND ?2 <> 0",
                )?
                .execute(params![keeper.run, removed.warning_bytes])?;
            connection
                .prepare_cached(
                    "UPDATE retention SET traces_removed = traces_removed + ?1, running_removed = running_removed + ?2
                      WHERE ?1 + ?2 > 0",
                )?
                .execute([removed.traces.cast_signed(), removed.running.cast_signed()])?;
            // A look from elsewhere says nothing of the first spans.
            let first = if cut.spans_looked_at.is_some() { 0 } else { keeper.spans_from };
            if names::turn(connection, first)? {
                // One that is under way goes on; the next finds the rest.
                keeper.sweep.get_or_insert_default();
            }
            let freed = freed.max(0).cast_unsigned() * PAGE_BYTES;
            if removed.rows > 0 {
                let done = Cleanup { rows: removed.rows, bytes: freed, returned_bytes: 0 };
                keeper.note(connection, why, done, removed.window, started)?;
            }
            Ok((removed.rows, freed))
        })?;
        self.done.rows += rows;
        self.done.bytes += freed;
        Ok(rows > 0)
    }

    fn note(
        &mut self,
        connection: &Connection,
        why: Why,
        done: Cleanup,
        window: Option<(i64, i64)>,
        started: Instant,
    ) -> rusqlite::Result<()> {
        let at_unix_ns = self.clock.now().as_unix_ns();
        self.last = Some((at_unix_ns, why));
        let took_ns = duration_ns(started.elapsed());
        sums::note(connection, &sums::Piece { why, run: self.run, at_unix_ns, done, window, took_ns })
    }

    fn transact<R>(
        &mut self,
        connection: &Connection,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<R>,
    ) -> Result<R, Blocked> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        Ok(commit(connection, work(self))?)
    }

    /// Brings a database that is larger than its share down to it. Says whether it is.
    pub(in crate::store) fn shrink(&mut self, connection: &Connection, until: Instant) -> Result<bool, Blocked> {
        let mut in_vain = 0;
        loop {
            match self.unpin(connection) {
                Err(Blocked::Pinned) if Instant::now() < until => {
                    std::thread::sleep(space::ANOTHER_TRY);
                    continue;
                }
                outcome => outcome?,
            }
            let room = self.room(connection)?;
            let working = self.budget.pages_of(self.budget.batch_bytes());
            if room.excess() == 0 {
                let is_long = |keeper: &Self| keeper.files().database > room.limit.cast_unsigned() * PAGE_BYTES;
                if is_long(self) {
                    // The file gets shorter when the WAL is empty.
                    space::empty_wal(connection)?;
                }
                if !is_long(self) {
                    return Ok(true);
                }
                if Instant::now() >= until {
                    return Err(Blocked::Pinned);
                }
                std::thread::sleep(space::ANOTHER_TRY);
                continue;
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            if room.left() < working {
                let goal = working - room.left() + room.limit / 64;
                if !self.remove(connection, Why::Shrink, &self.oldest(room.limit), goal)? {
                    return Err(Blocked::Full);
                }
            } else if !self.give_back(connection, Why::Shrink, room.excess())? {
                // Another process has filled the free pages meanwhile.
                in_vain += 1;
                if in_vain > IN_VAIN_MAX {
                    return Ok(false);
                }
                std::thread::sleep(space::ANOTHER_TRY);
            }
        }
    }

    /// Gives some free pages back, `pages` at most. Says whether there were any.
    fn give_back(&mut self, connection: &Connection, why: Why, pages: i64) -> Result<bool, Blocked> {
        let started = Instant::now();
        self.unpin(connection)?;
        let at_once = self.budget.pages_between_looks().cast_signed();
        let returned = self.transact(connection, |keeper| {
            let mut sum = 0;
            while sum < pages && started.elapsed() < PIECE && !keeper.is_wal_full() {
                match space::give_back(connection, at_once.min(pages - sum))?.max(0) {
                    0 => break,
                    some => sum += some,
                }
            }
            let returned = sum.cast_unsigned() * PAGE_BYTES;
            if returned > 0 {
                let done = Cleanup { returned_bytes: returned, ..Cleanup::default() };
                keeper.note(connection, why, done, None, started)?;
            }
            Ok(returned)
        })?;
        self.done.returned_bytes += returned;
        Ok(returned > 0)
    }

    /// What is to be done from time to time: ages, what outlives the rows, names. Says whether it came to its end.
    pub(in crate::store) fn tidy(&mut self, connection: &Connection, until: Instant) -> Result<bool, Blocked> {
        if let Some(cut) = self.too_old() {
            // From the first span, and then from where the last look ended: that finds what stands behind younger ones.
            for from in [0, self.spans_looked_until] {
                self.spans_from = from;
                while self.remove(connection, Why::Age, &cut, i64::MAX)? {
                    if Instant::now() >= until {
                        return Ok(false);
                    }
                }
            }
            let behind = "SELECT max(id) FROM (SELECT id FROM span WHERE id >= ?1 ORDER BY id LIMIT ?2)";
            let looked = connection
                .prepare_cached(behind)?
                .query_row([self.spans_from, SPANS_LOOKED_AT], |row| row.get::<_, Option<i64>>(0))?;
            self.spans_looked_until = looked.filter(|last| *last > self.spans_from).unwrap_or(0);
        }
        self.spans_from = 0;
        let now_s = self.clock.trusted_now_ns().map(|now| now.div_euclid(1_000_000_000));
        let limit = self.room(connection)?.limit;
        let bytes_kept = limit / 10 * PAGE_BYTES as i64;
        loop {
            self.unpin(connection)?;
            let is_more = self.transact(connection, |keeper| {
                let started = Instant::now();
                while sums::trim_rollups(connection, keeper.run, now_s, bytes_kept)? {
                    if started.elapsed() >= PIECE || keeper.is_wal_full() {
                        return Ok(true);
                    }
                }
                Ok(false)
            })?;
            if !is_more {
                break;
            }
            if Instant::now() >= until {
                return Ok(false);
            }
        }
        self.transact(connection, |keeper| {
            sums::trim_small(connection)?;
            if let Some(now_s) = now_s {
                sums::gather_shed(connection, now_s)?;
            }
            sums::trim_runs(connection, keeper.run, limit)?;
            if names::turn(connection, 0)? {
                keeper.sweep.get_or_insert_default();
            }
            Ok(())
        })?;
        while self.sweep.is_some() {
            self.unpin(connection)?;
            self.sweep(connection)?;
            if Instant::now() >= until {
                return Ok(false);
            }
        }
        self.shrink(connection, until)
    }

    /// Removes some of the names that nothing refers to.
    pub(super) fn sweep(&mut self, connection: &Connection) -> Result<(), Blocked> {
        let Some(mut sweep) = self.sweep else { return Ok(()) };
        let (started, names) = (Instant::now(), self.budget.rows_between_looks());
        let is_done = self.transact(connection, |keeper| {
            while !names::sweep(connection, &mut sweep, names)? {
                if started.elapsed() >= PIECE || keeper.is_wal_full() {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        self.sweep = (!is_done).then_some(sweep);
        Ok(())
    }

    /// Gives every free page back, beyond the share, too.
    pub(in crate::store) fn compact(&mut self, connection: &Connection, until: Instant) -> Result<bool, Blocked> {
        while self.give_back(connection, Why::Compact, i64::MAX)? {
            if Instant::now() >= until {
                return Ok(false);
            }
        }
        space::empty_wal(connection)?;
        Ok(true)
    }
}
