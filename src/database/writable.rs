//! A connection that writes, and the proof that its files are the ones that everybody else finds.
//!
//! A commit is only kept if the database, its write-ahead log and the log's shared memory are still at their paths: a
//! file that was moved or removed takes what is written to it along. SQLite does not look. So the owner of a
//! [`WriteConnection`] calls [`check`](WriteConnection::check) before each transaction,
//! [`check_lock`](WriteConnection::check_lock) before each commit, and [`check_files`](WriteConnection::check_files)
//! after it, and acknowledges nothing that fails.

use std::{
    cell::Cell,
    fmt,
    fs::File,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::{Connection, config::DbConfig};

use super::{
    beside,
    guard::{self, DEAD_MAN_SWITCH, FileId, Guard, SHARED},
    missing_pages, missing_pages_exactly, waiting_within,
};
use crate::error::{Error, Result};

/// How often missing pages are looked for before a transaction.
const CHECK_EVERY: Duration = Duration::from_millis(10);
/// How long leaving files waits for readers that keep the log from being copied into the database.
const RESCUE_WITHIN: Duration = Duration::from_millis(200);

/// Why what a connection writes may not be found by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Displaced {
    /// The database is not at its path.
    Missing,
    /// Another file is at its path.
    Replaced,
    /// The write-ahead log was removed or replaced.
    Log,
    /// The shared memory of the log was removed or replaced.
    SharedMemory,
    /// Pages are missing at the database's end.
    Shorter,
    /// The files are in place, and the connection does not work: an error of the disk, damage.
    Failing,
}

impl fmt::Display for Displaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "was moved away or removed",
            Self::Replaced => "was replaced by another file",
            Self::Log => "has lost its write-ahead log: the -wal file was removed or replaced",
            Self::SharedMemory => "has lost its shared memory: the -shm file was removed or replaced",
            Self::Shorter => "is damaged: pages are missing at its end",
            Self::Failing => "does not take a transaction",
        })
    }
}

/// The three files of a database in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Files {
    database: FileId,
    log: FileId,
    shared_memory: FileId,
}

/// The one connection through which a part of l0 writes to a database.
pub(crate) struct WriteConnection {
    /// Taken out by `drop` alone, after the guards are released.
    connection: Option<Connection>,
    path: PathBuf,
    log: PathBuf,
    shared_memory: PathBuf,
    files: Files,
    file: Arc<File>,
    guards: Vec<Guard>,
    /// When `check` last looked, and how long the database was then.
    checked_at: Cell<Option<Instant>>,
    length: Cell<u64>,
    pid: u32,
}

impl WriteConnection {
    /// Of a connection that has read from the database, and so has its files open.
    pub(super) fn new(connection: Connection, path: &Path) -> Result<Self> {
        let (log, shared_memory) = (beside(path, "-wal"), beside(path, "-shm"));
        let failed = |error| Error::io("cannot lock", path, error);
        let found = (FileId::at(path), FileId::at(&log), FileId::at(&shared_memory));
        let (Some(database), Some(log_id), Some(shared_memory_id)) = found else {
            return Err(Error::storage(format!(
                "cannot open {}: its files are being moved or removed, or this process still reads it through files that \
                 were removed; it is tried again",
                path.display()
            )));
        };
        let files = Files { database, log: log_id, shared_memory: shared_memory_id };
        let mut guards = Vec::new();
        for (path, range, id) in
            [(path, SHARED, files.database), (&*shared_memory, DEAD_MAN_SWITCH, files.shared_memory)]
        {
            let guard = Guard::lock(path, range).map_err(failed)?;
            if guard.as_ref().is_some_and(|guard| guard.id() != id) {
                return Err(Error::storage(format!(
                    "cannot open {}: it was replaced at this moment; it is tried again",
                    path.display()
                )));
            }
            guards.extend(guard);
        }
        let file = guard::open_for_reading(path).map_err(failed)?;
        Ok(Self {
            file,
            connection: Some(connection),
            path: path.to_owned(),
            log,
            shared_memory,
            files,
            guards,
            checked_at: Cell::new(None),
            length: Cell::new(0),
            pid: std::process::id(),
        })
    }

    /// Which file the database is.
    pub(crate) fn id(&self) -> FileId {
        self.files.database
    }

    /// A descriptor of the database, by which it is known whether the file was moved or removed. As long as it is held, no other
    /// file is given its number.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// All its files: the database, its log, and the log's shared memory.
    pub(crate) fn identity(&self) -> [Option<FileId>; 3] {
        [self.files.database, self.files.log, self.files.shared_memory].map(Some)
    }

    /// Before a transaction: whether what it would write can be found by others. Missing pages are looked for only if the last
    /// look was not within milliseconds.
    pub(crate) fn check(&self) -> Result<(), Displaced> {
        self.check_files()?;
        if self.checked_at.get().is_some_and(|at| at.elapsed() < CHECK_EVERY) {
            return Ok(());
        }
        let before = self.length.get();
        let now = std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        // Giving pages back makes a database shorter, too; then it has no more pages than its file.
        if missing_pages(&self.path) > 0 || now < before && missing_pages_exactly(&self.path) > 0 {
            return Err(Displaced::Shorter);
        }
        self.length.set(now);
        self.checked_at.set(Some(Instant::now()));
        Ok(())
    }

    /// After a commit: whether the files it went to are the ones at their paths.
    pub(crate) fn check_files(&self) -> Result<(), Displaced> {
        match FileId::at(&self.path) {
            None => return Err(Displaced::Missing),
            Some(id) if id != self.files.database => return Err(Displaced::Replaced),
            Some(_) => {}
        }
        if FileId::at(&self.log) != Some(self.files.log) {
            return Err(Displaced::Log);
        }
        if FileId::at(&self.shared_memory) != Some(self.files.shared_memory) {
            return Err(Displaced::SharedMemory);
        }
        Ok(())
    }

    /// Within a transaction that has written: whether nobody else can be writing. Something in this process may have
    /// cancelled SQLite's lock.
    pub(crate) fn check_lock(&self) -> bool {
        self.guards.iter().filter(|guard| guard.id() == self.files.shared_memory).all(Guard::is_writing)
    }

    /// Whether a database that was written to was moved rather than removed: it has at least one link.
    pub(crate) fn was_moved(file: &File) -> bool {
        guard::is_linked(file)
    }

    /// Closes the connection without touching the files at the paths, which may belong to others by now. What is only in a log
    /// that was removed or moved is copied into the database first, if nobody can have begun another log.
    pub(crate) fn leave(self, why: Displaced) -> Left {
        self.keep_log_on_close();
        if self.check_files().is_ok() {
            // The log is where it was, and others find what is in it.
            return if why == Displaced::Shorter { Left::Abandoned } else { Left::Saved };
        }
        let log = FileId::at(&self.log);
        let shared_memory = FileId::at(&self.shared_memory);
        let has_own_memory = shared_memory.is_none() || shared_memory == Some(self.files.shared_memory);
        // With another shared memory, others may be writing into the same log.
        let is_nobodys = log.is_none() || is_empty(&self.log) || log == Some(self.files.log) && has_own_memory;
        match is_nobodys.then(|| self.copy_log()) {
            None | Some(Err(())) => return Left::Abandoned,
            Some(Ok(false)) => return Left::Waiting(Box::new(self)),
            Some(Ok(true)) => {}
        }
        match FileId::at(&self.path) {
            Some(id) if id == self.files.database => return Left::Saved,
            Some(_) if log == Some(self.files.log) => {
                // SQLite would take it for the log of the database that is there now.
                let _ = std::fs::remove_file(&self.log);
                let _ = std::fs::remove_file(&self.shared_memory);
            }
            _ => {}
        }
        Left::Elsewhere
    }

    fn keep_log_on_close(&self) {
        let _ = self.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }

    /// Copies the log into the database. Says whether all of it was; an error if it cannot be.
    fn copy_log(&self) -> Result<bool, ()> {
        let until = Instant::now() + RESCUE_WITHIN;
        loop {
            let frames = waiting_within(Duration::ZERO, || {
                self.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
                })
            });
            match frames {
                Ok((0, in_log, copied)) if in_log == copied => return Ok(true),
                // A reader has not come to the log's end, or another connection is at it.
                Ok(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                Ok(_) => return Ok(false),
                Err(_) => return Err(()),
            }
        }
    }
}

/// What became of what was committed, when a connection was left.
#[derive(Debug)]
pub(crate) enum Left {
    /// It is in the database at its path, or in the log beside it.
    Saved,
    /// It is in the database, which is not at its path.
    Elsewhere,
    /// It could not be saved, or nothing had to be.
    Abandoned,
    /// A reader keeps the log from being copied. Closing the connection would lose what is only there: it is left again later.
    Waiting(Box<WriteConnection>),
}

fn is_empty(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0)
}

impl Deref for WriteConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("it is there until it is dropped")
    }
}

impl fmt::Debug for WriteConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteConnection").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for WriteConnection {
    fn drop(&mut self) {
        // A forked child must neither write to its parent's database nor release its parent's locks.
        if self.pid != std::process::id() {
            return std::mem::forget(self.connection.take());
        }
        if self.check_files().is_err() || missing_pages(&self.path) > 0 {
            self.keep_log_on_close();
        }
        // The last connection of all removes the log, for which it needs the ranges that the guards hold.
        self.guards.clear();
        drop(self.connection.take());
    }
}
