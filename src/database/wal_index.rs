//! What the shared memory of a write-ahead log says about its database, read without SQLite.
//!
//! The `-shm` file begins with two copies of a header and the checkpoint's progress, in the machine's own byte order. The
//! layout is part of SQLite's WAL format and has been the same since version 3.7.0: <https://sqlite.org/walformat.html>.

use std::path::Path;

use super::{PAGE_BYTES, beside, guard};

const VERSION: u32 = 3_007_000;
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
    guard::read_start(&beside(database, "-shm"), &mut bytes).ok()?;
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
        let missing = u64::from(index.pages).saturating_sub(length / PAGE_BYTES + pages_elsewhere);
        // Another process may have written between the two looks.
        (read(database)? == index).then_some(missing)
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
}
