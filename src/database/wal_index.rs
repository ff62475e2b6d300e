//! What the shared memory of a write-ahead log says about its database, read without SQLite.
//!
//! The `-shm` file begins with two copies of a header and the checkpoint's progress, in the machine's own byte order. The
//! layout is part of SQLite's WAL format and has been the same since version 3.7.0: <https://sqlite.org/walformat.html>.

use std::path::Path;

use rustc_hash::FxHashSet;

use super::{PAGE_BYTES, beside, guard};

const VERSION: u32 = 3_007_000;
/// Of the log, and of each frame in it.
const LOG_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: u64 = 24;
/// Holds SQLite's lock bytes, and is never written.
const LOCK_PAGE: u64 = 0x4000_0000 / PAGE_BYTES + 1;
/// Of one copy of the header.
const HEADER_BYTES: usize = 48;

/// The state of a write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WalIndex {
    /// Frames in the log.
    frames: u32,
    /// Pages of the database, as of the last commit.
    pages: u32,
    /// Frames whose pages have been copied into the database's file.
    copied: u32,
}

/// Reads the state; `None` where there is none, or it is being changed at the moment.
fn read(database: &Path) -> Option<WalIndex> {
    let mut bytes = [0; 2 * HEADER_BYTES + 4];
    guard::read_at(&beside(database, "-shm"), 0, &mut bytes).ok()?;
    let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let is_whole = bytes[..HEADER_BYTES] == bytes[HEADER_BYTES..2 * HEADER_BYTES] && word(0)? == VERSION;
    // Behind version, a reserved word, a change counter and four bytes of flags.
    is_whole.then_some(WalIndex { frames: word(16)?, pages: word(20)?, copied: word(2 * HEADER_BYTES)? })
}

/// How many pages are missing at the end of a database that is open, here or in another process. Pages that are not in its
/// file must be in frames of the log that have not been copied yet.
pub(crate) fn missing_pages(database: &Path) -> u64 {
    let missing = || {
        let index = read(database)?;
        let length = std::fs::metadata(database).ok()?.len();
        let pages_elsewhere = u64::from(index.frames.saturating_sub(index.copied));
        let written =
            u64::from(index.pages) - u64::from(u64::from(index.pages) > LOCK_PAGE && length / PAGE_BYTES < LOCK_PAGE);
        let missing = written.saturating_sub(length / PAGE_BYTES + pages_elsewhere);
        // Another process may have written between the two looks.
        (read(database)? == index).then_some(missing)
    };
    missing().unwrap_or(0)
}

/// As [`missing_pages`], by the page numbers in the log: frames of the same page are one page. Reads a header of each frame.
pub(crate) fn missing_pages_exactly(database: &Path) -> u64 {
    let missing = || {
        let index = read(database)?;
        let pages_in_file = std::fs::metadata(database).ok()?.len() / PAGE_BYTES;
        let behind = pages_in_file + 1..=u64::from(index.pages);
        if behind.is_empty() {
            return Some(0);
        }
        let log = beside(database, "-wal");
        let mut in_log = FxHashSet::default();
        for frame in u64::from(index.copied)..u64::from(index.frames) {
            let mut number = [0; 4];
            guard::read_at(&log, LOG_HEADER_BYTES + frame * (FRAME_HEADER_BYTES + PAGE_BYTES), &mut number).ok()?;
            let number = u64::from(u32::from_be_bytes(number));
            if behind.contains(&number) && number != LOCK_PAGE {
                in_log.insert(number);
            }
        }
        let wanted = behind.clone().count() as u64 - u64::from(behind.contains(&LOCK_PAGE));
        (read(database)? == index).then_some(wanted - in_log.len() as u64)
    };
    missing().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn pages_are_missing_only_if_no_frame_can_have_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("any.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE a (x)").unwrap();
        let insert = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 50)
            INSERT INTO a SELECT randomblob(3000) FROM n";
        connection.execute_batch(insert).unwrap();
        assert_eq!(missing_pages(&path), 0, "they are in the log");
        let index = read(&path).unwrap();
        let pages: u32 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        assert_eq!((index.pages, index.copied), (pages, 0));
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        let index = read(&path).unwrap();
        assert_eq!(index.copied, index.frames);
        assert_eq!(missing_pages(&path), 0, "they are in the file");
        connection.execute_batch(insert).unwrap();
        assert_eq!(missing_pages(&path), 0, "some are in each");
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(2 * PAGE_BYTES).unwrap();
        assert_eq!(missing_pages(&path), u64::from(read(&path).unwrap().pages) - 2);
        std::mem::forget(file);
    }

    #[test]
    fn a_page_that_is_in_many_frames_is_one_page() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("any.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE a (x); CREATE TABLE b (x)").unwrap();
        connection.execute_batch("INSERT INTO a SELECT randomblob(3000) FROM pragma_function_list LIMIT 40").unwrap();
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        (0..9).for_each(|_| connection.execute_batch("INSERT INTO b VALUES (1)").unwrap());
        assert_eq!(missing_pages_exactly(&path), 0);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        for cut in [1, 5, 12] {
            file.set_len(length - cut * PAGE_BYTES).unwrap();
            assert_eq!(missing_pages_exactly(&path), cut);
        }
        std::mem::forget(file);
    }
}
