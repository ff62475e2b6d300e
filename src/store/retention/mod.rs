//! Retention: the store never takes more than its cap, at any moment, whoever writes.
//!
//! What grows, grows under the database's write lock: [`Keeper::begin`] takes it, sees what there is, and lets a
//! transaction begin only if the room for it is there; otherwise it makes room first, in transactions of its own. There is
//! no other lock: of two processes that both need room, the second finds what the first has made.
//!
//! Invariants:
//! - Database and WAL together stay within what [`Budget`] leaves them; the limit is SQLite's `max_page_count`, too.
//! - Every deletion is at the left edge of a table, in small transactions; pages that become free are used again, and given
//!   back only where the database is larger than its share.
//! - No transaction begins, or goes on, with a WAL past its mark: a reader that keeps the WAL from being emptied makes
//!   records wait in the lanes.

mod budget;
mod names;
mod rows;
mod space;
mod sums;
mod upkeep;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub(in crate::store) use crate::database::PAGE_BYTES;
use budget::{Budget, Files};
pub(in crate::store) use names::{Marks, mark_running};
pub(in crate::store) use rows::{WARNING_BYTES, WARNING_TRACE_BYTES};
use rusqlite::{Connection, ErrorCode};
use space::Room;
pub(crate) use space::free_disk;
use sums::Why;
pub(in crate::store) use sums::{LIMIT_COUNT_BYTES, ROLLUP_BYTES};

use super::{Cleanup, StoreSize};
use crate::{
    clock::{Timestamp, TrustedClock},
    config::Retention,
    database::{beside, set_number},
    error::{Error, Result},
};

/// How long one attempt to make room may take, and how often it is tried before records wait.
const ROOM_WITHIN: Duration = Duration::from_millis(100);
const ATTEMPTS: usize = 20;
/// Records between two looks at the WAL.
const RECORDS_BETWEEN_LOOKS: usize = 64;
/// On a full disk the database may still have this many pages.
const PAGES_MIN: i64 = 1_024;

/// What a transaction has come to since the WAL was looked at.
#[derive(Debug, Default)]
pub(super) struct Look {
    records: usize,
    scattered_pages: Option<u64>,
}

/// Why a transaction cannot begin.
#[derive(Debug)]
pub(super) enum Blocked {
    /// A reader keeps the WAL from being emptied.
    Pinned,
    /// There is no room, and nothing that could be removed.
    Full,
    /// Something in this process has cancelled SQLite's lock for writing.
    LockLost,
    /// There is no connection at the moment.
    Detached,
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for Blocked {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

impl Blocked {
    /// Whether more pages may help: SQLite says the same of the page limit and of a full disk.
    pub(super) fn is_for_want_of_room(&self) -> bool {
        matches!(self, Self::Failed(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }

    pub(super) fn into_error(self, what: &str) -> Error {
        match self {
            Self::Pinned => Error::storage(format!(
                "{what}: a reader has kept its snapshot for so long that the WAL has reached its share of max_bytes; end that reader's transaction"
            )),
            Self::Full => Error::storage(format!(
                "{what}: max_bytes leaves no room, and there is nothing left to remove; raise Retention::max_bytes"
            )),
            Self::LockLost => Error::storage(format!(
                "{what}: this process has lost its lock on the database, because something in it has opened and closed one of \
                 the database's files; nothing was written, it is tried again"
            )),
            Self::Detached => Error::storage(format!("{what}: the database is not open; it is tried again")),
            Self::Failed(error) => Error::sqlite(what, error),
        }
    }
}

/// Ends a transaction: commits what was done, or takes it back.
fn commit<R>(connection: &Connection, outcome: rusqlite::Result<R>) -> rusqlite::Result<R> {
    let outcome = outcome.and_then(|done| connection.execute_batch("COMMIT").map(|()| done));
    if outcome.is_err() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    outcome
}

/// The store's cap; 0 if none was said yet.
fn max_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let mut cap = connection.prepare_cached("SELECT max_bytes FROM retention")?;
    cap.query_row([], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
}

/// How large a store is, as anyone may see it.
pub(super) fn size(dir: &Path, connection: &Connection) -> StoreSize {
    let files = Files::of(dir);
    StoreSize {
        max_bytes: max_bytes(connection).unwrap_or(0),
        database_bytes: files.database,
        free_bytes: space::pragma(connection, "freelist_count").map_or(0, |pages| pages.cast_unsigned() * PAGE_BYTES),
        wal_bytes: files.wal,
        shm_bytes: files.shm,
        flight_bytes: files.flight,
        state_bytes: files.state,
        removed: Cleanup::default(),
        last_maintenance: None,
    }
}

fn unread(error: rusqlite::Error) -> Error {
    Error::sqlite("cannot read the store's cap", error)
}

/// Keeps a store within its cap, by one write connection.
#[derive(Debug)]
pub(super) struct Keeper {
    dir: PathBuf,
    wal: PathBuf,
    retention: Retention,
    clock: TrustedClock,
    run: Option<i64>,
    budget: Budget,
    limit: Option<i64>,
    /// A flight file of so many bytes is about to be created.
    coming: u64,
    /// One of so many bytes is about to go.
    going: u64,
    /// A transaction needed more room than was thought: so many pages more.
    more_pages: i64,
    is_too_large: bool,
    /// Spans before this one are open, or were when it was looked for.
    spans_from: i64,
    /// Where the last look for spans that are too old ended.
    spans_looked_until: i64,
    /// As many rows are removed before the next look at what that has freed.
    rows_at_once: i64,
    sweep: Option<names::Sweep>,
    done: Cleanup,
    last: Option<(i64, Why)>,
}

impl Keeper {
    /// Of the store that `connection` is to, which keeps to the cap that the last program said.
    pub(super) fn open(
        dir: &Path,
        connection: &Connection,
        clock: TrustedClock,
        retention: &Retention,
    ) -> Result<Self> {
        let max_bytes = max_bytes(connection).map_err(unread)?;
        let mut keeper = Self {
            dir: dir.to_owned(),
            wal: beside(&dir.join(super::TELEMETRY.file), "-wal"),
            retention: retention.clone(),
            clock,
            run: None,
            budget: Budget::new(0),
            limit: None,
            coming: 0,
            going: 0,
            more_pages: 0,
            is_too_large: false,
            spans_from: 0,
            spans_looked_until: 0,
            rows_at_once: 1,
            sweep: None,
            done: Cleanup::default(),
            last: None,
        };
        keeper.adopt(connection, Budget::new(max_bytes))?;
        Ok(keeper)
    }

    /// The store began anew, by another connection; the cap is what it was.
    pub(super) fn renew(&mut self, connection: &Connection, run: i64) -> Result<()> {
        (self.run, self.limit, self.sweep, self.spans_from) = (Some(run), None, None, 0);
        self.retention.max_bytes = self.budget.max_bytes;
        self.say(connection)
    }

    /// How often ages must be looked at though nothing is recorded; `None` if there are none.
    pub(super) fn ages_every(&self) -> Option<Duration> {
        let age = [self.retention.max_age, self.retention.max_age_of_warnings].into_iter().flatten().min()?;
        Some((age / 8).clamp(Duration::from_secs(60), Duration::from_secs(3_600)))
    }

    /// What was done since the beginning.
    pub(super) fn done(&self) -> Cleanup {
        self.done
    }

    /// How many rows are too old, and about how many bytes they take.
    pub(super) fn count_too_old(&self, connection: &Connection) -> Result<(u64, u64), Blocked> {
        Ok(self.too_old().map_or(Ok((0, 0)), |cut| rows::count(connection, &cut))?)
    }

    /// Whose maintenance it is.
    pub(super) fn set_run(&mut self, run: i64) {
        self.run = Some(run);
    }

    /// What a program says of its cap becomes the store's.
    pub(super) fn say(&mut self, connection: &Connection) -> Result<()> {
        let said = self.retention.max_bytes;
        if max_bytes(connection).map_err(unread)? != said {
            connection
                .execute("UPDATE retention SET max_bytes = ?1", [said.cast_signed()])
                .map_err(|error| Error::sqlite("cannot set the store's cap", error))?;
        }
        self.adopt(connection, Budget::new(said))
    }

    pub(super) fn budget(&self) -> Budget {
        self.budget
    }

    /// A flight file of so many bytes is being recovered. One from a higher cap is above this one already, and soon gone:
    /// nothing needs to be removed for it.
    pub(super) fn set_going(&mut self, bytes: u64) {
        self.going = if bytes > self.budget.max_bytes / 16 { bytes } else { 0 };
    }

    fn files(&self) -> Files {
        Files::of(&self.dir)
    }

    /// How large the store is, and what was done to keep it so.
    pub(super) fn size(&self, connection: &Connection) -> StoreSize {
        StoreSize {
            max_bytes: self.budget.max_bytes,
            removed: self.done,
            last_maintenance: self.last.map(|(at, why)| (Timestamp::from_unix_ns(at), why.as_str())),
            ..size(&self.dir, connection)
        }
    }

    fn adopt(&mut self, connection: &Connection, budget: Budget) -> Result<()> {
        self.budget = budget;
        for (pragma, value) in [
            ("cache_size", -((budget.cache_bytes() / 1_024) as i64)),
            ("wal_autocheckpoint", budget.checkpoint_pages() as i64),
            ("journal_size_limit", budget.journal_size_limit() as i64),
        ] {
            set_number(connection, pragma, value)?;
        }
        Ok(())
    }

    /// Begins a transaction for which there are at least `pages` pages, after making that room if it must.
    pub(super) fn begin(&mut self, connection: &Connection, pages: i64) -> Result<(), Blocked> {
        let pages = pages + self.more_pages;
        for _ in 0..ATTEMPTS {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            let outcome = self.room(connection);
            let has_room = outcome.as_ref().is_ok_and(|room| room.left() >= pages);
            if has_room && !self.is_wal_full() {
                return Ok(());
            }
            connection.execute_batch("ROLLBACK")?;
            outcome?;
            self.make_room(connection, pages)?;
        }
        Err(Blocked::Full)
    }

    /// Whether a transaction should take no further record, for the sake of the WAL. Asked after each.
    pub(super) fn should_end(&self, look: &mut Look, pending_bytes: u64, scattered_pages: u64) -> bool {
        look.records += 1;
        if pending_bytes >= self.budget.pending_bytes() {
            return true;
        }
        let pages = scattered_pages - *look.scattered_pages.get_or_insert(scattered_pages);
        if look.records < RECORDS_BETWEEN_LOOKS && pages < self.budget.pages_between_looks() {
            return false;
        }
        *look = Look { records: 0, scattered_pages: Some(scattered_pages) };
        self.wal_bytes() + pending_bytes >= self.budget.wal_stop_bytes()
    }

    /// Runs `work` in a transaction for which there are at least `pages` pages.
    pub(super) fn transact_with_room<R>(
        &mut self,
        connection: &Connection,
        pages: i64,
        work: impl FnOnce(&Self) -> rusqlite::Result<R>,
    ) -> Result<R, Blocked> {
        self.begin(connection, pages)?;
        Ok(commit(connection, work(self))?)
    }

    pub(super) fn is_wal_full(&self) -> bool {
        self.wal_bytes() >= self.budget.wal_stop_bytes()
    }

    /// A transaction failed for want of pages: the next begins with more.
    pub(super) fn was_too_little(&mut self) {
        self.more_pages = (self.more_pages * 2).clamp(256, (self.budget.wal_bytes() / PAGE_BYTES) as i64);
    }

    /// A transaction had room enough.
    pub(super) fn was_enough(&mut self) {
        self.more_pages /= 2;
    }

    /// How many pages there are, and may be: asked under the write lock, so that no other process changes it.
    fn room(&mut self, connection: &Connection) -> Result<Room, Blocked> {
        let budget = Budget::new(max_bytes(connection)?);
        if budget != self.budget {
            // Another process has set another cap. What SQLite does not take stays as it was; the page limit is read back.
            let _ = self.adopt(connection, budget);
        }
        let pages = space::pragma(connection, "page_count")?;
        let free = space::pragma(connection, "freelist_count")?;
        let files = self.files();
        let mut limit = budget.database_pages((files.flight + self.coming).saturating_sub(self.going), files.state);
        if self.retention.min_free_disk > 0
            && free_disk(&self.dir).is_some_and(|free| free < self.retention.min_free_disk)
        {
            // What is free within goes back, but for what the next transactions need.
            let working = budget.pages_of(budget.batch_bytes()) * 2;
            limit = limit.min((pages - (free - working).max(0)).max(PAGES_MIN));
        }
        if self.limit != Some(limit) || pages > limit {
            // SQLite takes no less than there is.
            let took: i64 = connection
                .prepare(&format!("PRAGMA max_page_count = {}", limit.max(pages)))?
                .query_row([], |row| row.get(0))?;
            self.limit = (took == limit).then_some(limit);
        }
        let room = Room { pages, free, limit };
        self.is_too_large = room.excess() > 0;
        Ok(room)
    }

    /// Whether the database has more than its share, as far as is known.
    pub(super) fn is_too_large(&self) -> bool {
        self.is_too_large
    }

    /// Makes room for so many pages, within a tenth of a second; what is still missing then, the next attempt adds.
    fn make_room(&mut self, connection: &Connection, pages: i64) -> Result<(), Blocked> {
        let until = Instant::now() + ROOM_WITHIN;
        loop {
            self.unpin(connection)?;
            let room = self.room(connection)?;
            if room.left() >= pages || Instant::now() >= until {
                return Ok(());
            }
            // Names that nothing refers to are worth less than any row.
            if self.sweep.is_some() {
                self.sweep(connection)?;
                continue;
            }
            // A little more than is needed now, so that the next batches find it.
            let goal = pages - room.left() + room.limit / 64;
            if !self.remove(connection, Why::Cap, &self.oldest(room.limit), goal)? {
                return Err(Blocked::Full);
            }
        }
    }

    /// Empties a WAL that has reached its mark.
    fn unpin(&self, connection: &Connection) -> Result<(), Blocked> {
        if !self.is_wal_full() {
            return Ok(());
        }
        space::empty_wal(connection)?;
        if self.is_wal_full() { Err(Blocked::Pinned) } else { Ok(()) }
    }

    /// Has a flight file created, under the write lock and with room for it.
    pub(super) fn admit<R>(
        &mut self,
        connection: &Connection,
        wanted: u64,
        until: Instant,
        create: impl FnOnce(Option<u64>) -> R,
    ) -> Result<R, Blocked> {
        loop {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            // On a small disk the database needs the most of it.
            let wanted = free_disk(&self.dir).map_or(wanted, |free| wanted.min(free / 4));
            self.coming = self.budget.flight_bytes(wanted, self.files().flight).unwrap_or(0);
            let has_room = self
                .room(connection)
                .map(|room| room.excess() == 0 && self.files().database <= room.limit.cast_unsigned() * PAGE_BYTES);
            if matches!(has_room, Ok(true)) || self.coming == 0 || Instant::now() >= until {
                let bytes = (matches!(has_room, Ok(true)) && self.coming > 0).then_some(self.coming);
                let made = create(bytes);
                self.coming = 0;
                connection.execute_batch("ROLLBACK")?;
                return Ok(made);
            }
            connection.execute_batch("ROLLBACK")?;
            let outcome = has_room.and_then(|_| self.shrink(connection, until));
            if !matches!(outcome, Ok(_) | Err(Blocked::Pinned | Blocked::Full)) {
                self.coming = 0;
                outcome?;
            }
        }
    }
}
