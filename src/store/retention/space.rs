//! Pages and the WAL: how much room there is, giving pages back, emptying the WAL.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{Keeper, budget::length};
use crate::database::waiting_within;

/// How long emptying the WAL waits for another process's transaction, and for readers: the next try comes soon.
const OTHERS_WITHIN: Duration = Duration::from_millis(100);
/// What another process does cannot be waited for, only looked at again.
pub(super) const ANOTHER_TRY: Duration = Duration::from_millis(1);

/// The database's pages, and how many it may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) pages: i64,
    pub(super) free: i64,
    pub(super) limit: i64,
}

impl Room {
    /// The pages that may still be filled.
    pub(super) fn left(self) -> i64 {
        self.free + self.limit - self.pages
    }

    /// The pages that are too many.
    pub(super) fn excess(self) -> i64 {
        (self.pages - self.limit).max(0)
    }
}

pub(super) fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.prepare_cached(&format!("PRAGMA {name}"))?.query_row([], |row| row.get(0))
}

/// Gives up to `pages` free pages back; the file itself gets shorter with the next checkpoint. Says how many.
pub(super) fn give_back(connection: &Connection, pages: i64) -> rusqlite::Result<i64> {
    let before = pragma(connection, "page_count")?;
    {
        // Each step of the statement frees one page.
        let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(before - pragma(connection, "page_count")?)
}

/// Empties the WAL as far as readers let it: what is in it goes to the database, then its file is cut to nothing.
pub(super) fn empty_wal(connection: &Connection) -> rusqlite::Result<()> {
    let until = Instant::now() + OTHERS_WITHIN;
    loop {
        let frames: i64 = waiting_within(OTHERS_WITHIN, || {
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(1))
        })?;
        // Another process is at it: SQLite says so at once, and does not ask how long to wait.
        if frames >= 0 || Instant::now() >= until {
            return Ok(());
        }
        std::thread::sleep(ANOTHER_TRY);
    }
}

impl Keeper {
    /// How long the WAL's file is.
    pub(super) fn wal_bytes(&self) -> u64 {
        length(&self.wal)
    }
}

/// Bytes that this user may still fill on the disk of `dir`; `None` where the system does not say.
#[cfg(unix)]
pub(crate) fn free_disk(dir: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(dir).ok()?;
    Some(found.f_bavail * found.f_frsize)
}

#[cfg(not(unix))]
pub(crate) fn free_disk(_: &Path) -> Option<u64> {
    None
}
