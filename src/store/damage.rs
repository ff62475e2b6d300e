//! A damaged database: how it is told from one that cannot be read at the moment, and how it is set aside.
//!
//! A damaged file is not written to again. It gets another name in the same directory, with its write-ahead log, and a new
//! database takes its place. The first and the last file that were set aside are kept. [`salvage`](super::salvage) reads
//! what can still be read.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rusqlite::ErrorCode;

use super::TELEMETRY;
use crate::{
    clock::Timestamp,
    database::{Database, FileId, beside, missing_pages, open_any},
    error::{Error, Result},
};

/// How long a look for damage may take. It finds what is missing at once, and other damage as far as it comes.
const EXAMINE_WITHIN: Duration = Duration::from_millis(250);
const STEPS_BETWEEN_LOOKS: i32 = 1_000;
/// How long setting a file aside waits for another process that is doing the same.
const LOCK_WITHIN: Duration = Duration::from_secs(1);

/// What a look at a database found.
#[derive(Debug)]
pub(super) enum Condition {
    /// Nothing is wrong with it.
    Sound,
    /// Nothing is wrong with the part that could be looked at in time.
    SoundSoFar,
    /// SQLite cannot read all of it, and why.
    Damaged(String),
    /// It could not be looked at: an error of the disk or of permissions is no damage.
    Unknown(Error),
}

/// A damaged file that was moved out of the way.
#[derive(Clone, Debug)]
pub(crate) struct SetAside {
    pub(crate) path: PathBuf,
    pub(crate) why: String,
}

/// Looks at a database for a short time.
pub(super) fn examine(database: &Database, dir: &Path) -> Condition {
    let path = dir.join(database.file);
    if !path.is_file() {
        return Condition::Sound;
    }
    let condition_of = |error: Error| match error.is_damage() {
        true => Condition::Damaged(error.to_string()),
        false => Condition::Unknown(error),
    };
    let mut connection = match open_any(database, dir) {
        Ok(connection) => connection,
        Err(error) => return condition_of(error),
    };
    let pages = missing_pages(&path);
    if pages > 0 {
        return Condition::Damaged(format!("{pages} pages are missing at its end"));
    }
    let until = Instant::now() + EXAMINE_WITHIN;
    let looked = connection
        .progress_handler(STEPS_BETWEEN_LOOKS, Some(move || Instant::now() >= until))
        .and_then(|()| connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)));
    match looked {
        Ok(text) if text == "ok" => Condition::Sound,
        Ok(text) => Condition::Damaged(text),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Condition::SoundSoFar,
        Err(error) => condition_of(Error::sqlite("cannot look at the database", error)),
    }
}

/// Gives a damaged database and its write-ahead log another name. `id` is the file that was found damaged: one that has
/// taken its place is left alone.
pub(super) fn set_aside(database: &Database, dir: &Path, id: Option<FileId>, why: &str) -> Result<SetAside> {
    let path = dir.join(database.file);
    let failed = |error| Error::io("cannot set aside the damaged database", &path, error);
    let _lock = lock(dir)?;
    if FileId::at(&path) != id {
        return Err(Error::storage(format!(
            "{} was replaced while it was examined; it is looked at again",
            path.display()
        )));
    }
    let aside = free_name(database, dir, Timestamp::now());
    // With the log first: a database without one is whole as far as it goes, a log alone would be lost.
    for suffix in ["-wal", ""] {
        match fs::rename(beside(&path, suffix), beside(&aside, suffix)) {
            Err(error) if suffix == "-wal" && error.kind() == std::io::ErrorKind::NotFound => {}
            outcome => outcome.map_err(failed)?,
        }
    }
    let _ = fs::remove_file(beside(&path, "-shm"));
    keep_first_and_last(database, dir);
    Ok(SetAside { path: aside, why: why.to_owned() })
}

/// Keeps other processes from setting aside in this directory at the same time.
fn lock(dir: &Path) -> Result<Option<fs::File>> {
    // Elsewhere a directory cannot be opened as a file, and an open database not be renamed.
    if !cfg!(unix) {
        return Ok(None);
    }
    let failed = |error| Error::io("cannot lock the directory", dir, error);
    let file = fs::File::open(dir).map_err(failed)?;
    let until = Instant::now() + LOCK_WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// The part of a name before the time, as in `telemetry.damaged-20260131T235959.123Z.db`.
fn prefix(database: &Database) -> String {
    format!("{}.damaged-", database.file.trim_end_matches(".db"))
}

fn free_name(database: &Database, dir: &Path, mut at: Timestamp) -> PathBuf {
    // Later than all others, whatever the clock says: the order of names is the order of time.
    let last = found(database, dir).pop();
    loop {
        let time: String = at.to_string().chars().take(23).filter(|c| !matches!(c, '-' | ':')).collect();
        let path = dir.join(format!("{}{time}Z.db", prefix(database)));
        if !path.exists() && last.as_ref().is_none_or(|last| path > *last) {
            return path;
        }
        at = at.saturating_add(Duration::from_millis(1));
    }
}

/// The damaged `telemetry.db`s that were set aside in a directory, the earliest first, each with when that was.
pub(crate) fn set_aside_files(dir: &Path) -> Vec<(PathBuf, Option<String>)> {
    let prefix = prefix(&TELEMETRY);
    let at = |path: &Path| {
        let name = path.file_name()?.to_str()?.strip_prefix(&prefix)?;
        let part =
            |from: usize, to: usize| name.get(from..to).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
        let (hour, minute, second) = (part(9, 11)?, part(11, 13)?, part(13, 15)?);
        Some(format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"))
    };
    found(&TELEMETRY, dir).into_iter().map(|path| (path.clone(), at(&path))).collect()
}

/// The files that were set aside, the earliest first.
pub(super) fn found(database: &Database, dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_one = |name: &str| name.starts_with(&prefix(database)) && name.ends_with(".db");
    let mut found: Vec<_> =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(is_one)).map(|e| e.path()).collect();
    found.sort();
    found
}

/// The first has the longest history, the last what happened just now. What was set aside between the two is removed, so
/// that a failing disk does not fill itself.
fn keep_first_and_last(database: &Database, dir: &Path) {
    let found = found(database, dir);
    for path in found.iter().skip(1).rev().skip(1) {
        for suffix in ["", "-wal"] {
            let _ = fs::remove_file(beside(path, suffix));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::open_writer;

    #[test]
    fn a_sound_database_is_not_damaged_and_a_cut_one_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(examine(&TELEMETRY, dir.path()), Condition::Sound), "there is none");
        drop(open_writer(&TELEMETRY, dir.path()).unwrap());
        assert!(matches!(examine(&TELEMETRY, dir.path()), Condition::Sound));
        let path = dir.path().join(TELEMETRY.file);
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8_192).unwrap();
        assert!(matches!(examine(&TELEMETRY, dir.path()), Condition::Damaged(_)));
        fs::write(&path, "no database at all, but long enough to be taken for one".repeat(40)).unwrap();
        assert!(matches!(examine(&TELEMETRY, dir.path()), Condition::Damaged(_)));
    }

    #[test]
    fn the_first_and_the_last_that_were_set_aside_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TELEMETRY.file);
        for content in ["first", "second", "third", "fourth"] {
            fs::write(&path, content).unwrap();
            fs::write(beside(&path, "-wal"), content).unwrap();
            let aside = set_aside(&TELEMETRY, dir.path(), FileId::at(&path), "a test").unwrap();
            assert_eq!(fs::read_to_string(&aside.path).unwrap(), content);
            assert!(!path.exists());
        }
        let contents: Vec<_> =
            found(&TELEMETRY, dir.path()).iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        assert_eq!(contents, ["first", "fourth"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "each with its log");
        fs::write(&path, "another").unwrap();
        assert!(set_aside(&TELEMETRY, dir.path(), None, "a test").unwrap_err().to_string().contains("was replaced"));
    }
}
