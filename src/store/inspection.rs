//! A store seen from outside, without opening it for questions: its files, whose they are, what dead processes left.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{TELEMETRY, recovery::dead_runs};
use crate::{
    config::create_directory,
    database::{self, Database, may_make_files, open_any},
    error::{Error, Result},
    flight,
    state::STATE,
};
pub use flight::{FlightFile, FlightState};

/// A copy is begun anew when something was recovered while it was made.
const COPY_ATTEMPTS: usize = 5;

/// What there is in a store's directory. From [`inspect`].
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The directory, absolute.
    pub dir: PathBuf,
    /// Whether it belongs to this user.
    pub is_own: bool,
    /// Whether this user may write to it: as far as permissions tell, for who may do everything, too.
    pub is_writable: bool,
    /// Its files and the directory itself, flight files excepted.
    pub files: Vec<StoreFile>,
    /// The flight files of this store, in its directory and in shared memory.
    pub flight_files: Vec<FlightFile>,
    /// Runs (`runs.id`) that are noted as running, but whose process is gone.
    pub dead_runs: Vec<i64>,
    /// Whether one of them left no flight file: it kept its flight recorder in memory.
    pub has_vanished_runs: bool,
    /// The databases.
    pub databases: Vec<DatabaseFile>,
    /// The SQLite in this program.
    pub sqlite_version: &'static str,
}

/// One file of a store.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StoreFile {
    /// Its name within the directory; empty for the directory itself.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Whether others may neither read nor write it; `None` where the system does not say.
    pub is_private: Option<bool>,
}

/// One of a store's databases.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DatabaseFile {
    /// `telemetry.db` or `state.db`.
    pub name: &'static str,
    /// The version of its schema; `None` if that cannot be read.
    pub schema: Option<i64>,
    /// The version this l0 writes.
    pub known_schema: i64,
    /// Why it cannot be asked where it is, if so.
    pub problem: Option<String>,
}

impl Inspection {
    /// Whether [`recover`](crate::recover) has something to do.
    pub fn needs_recovery(&self) -> bool {
        self.has_vanished_runs || self.flight_files.iter().any(|file| file.state == FlightState::Orphaned)
    }

    /// Whether an earlier l0 wrote it, and no later one has brought it up to date yet.
    pub fn is_of_earlier_schema(&self) -> bool {
        self.databases.iter().any(|database| database.schema.is_some_and(|schema| schema < database.known_schema))
    }
}

/// Looks at a store and changes nothing of it: for a diagnosis, or to see whether there is something to recover. SQLite may
/// leave an empty `-wal` and a `-shm` beside a database, as with every reader.
///
/// ```no_run
/// let found = l0::inspect("/var/lib/shop/.l0")?;
/// println!("{} flight files, something to recover: {}", found.flight_files.len(), found.needs_recovery());
/// # Ok::<(), l0::Error>(())
/// ```
///
/// # Errors
/// `is_storage` if the directory holds no store, or cannot be read.
pub fn inspect(dir: impl AsRef<Path>) -> Result<Inspection> {
    let dir = dir.as_ref();
    has_records(dir)?;
    let dir = std::path::absolute(dir).map_err(|error| Error::io("cannot find the directory", dir, error))?;
    let metadata = fs::metadata(&dir).map_err(|error| Error::io("cannot look at", &dir, error))?;
    // Without a database there may be a flight file, from which one is made.
    let database = fs::metadata(dir.join(TELEMETRY.file)).unwrap_or_else(|_| metadata.clone());
    let mut files = vec![file(String::new(), &metadata)];
    let entries = fs::read_dir(&dir).map_err(|error| Error::io("cannot list", &dir, error))?;
    for entry in entries.flatten() {
        if let Ok(metadata) = entry.metadata()
            && metadata.is_file()
        {
            files.push(file(entry.file_name().to_string_lossy().into_owned(), &metadata));
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let dead = open_any(&TELEMETRY, &dir).ok().and_then(|connection| dead_runs(&dir, &connection).ok());
    let dead = dead.unwrap_or_default();
    let databases = [&TELEMETRY, &STATE].into_iter().filter(|database| dir.join(database.file).exists());
    Ok(Inspection {
        is_own: flight::is_own(&metadata) && flight::is_own(&database),
        is_writable: !database.permissions().readonly() && may_make_files(&dir),
        files,
        flight_files: flight::survey(&dir),
        has_vanished_runs: dead.iter().any(|(_, left_nothing)| *left_nothing),
        dead_runs: dead.into_iter().map(|(run, _)| run).collect(),
        databases: databases.map(|database| look(database, &dir)).collect(),
        sqlite_version: rusqlite::version(),
        dir,
    })
}

/// That there is a store in the directory, or a flight file of which one can be made.
pub(super) fn has_records(dir: &Path) -> Result<()> {
    let has_flight = || flight::survey(dir).iter().any(|file| file.state == FlightState::Orphaned);
    is_store(dir).or_else(|error| if has_flight() { Ok(()) } else { Err(error) })
}

/// That there is a store in the directory.
pub(super) fn is_store(dir: &Path) -> Result<()> {
    if dir.join(TELEMETRY.file).is_file() {
        return Ok(());
    }
    Err(Error::storage(format!(
        "there is no l0 store in {}: {} is missing; give the directory a program records into",
        dir.display(),
        TELEMETRY.file
    )))
}

fn look(what: &Database, dir: &Path) -> DatabaseFile {
    let version = open_any(what, dir).and_then(|connection| {
        let version = connection.pragma_query_value(None, "user_version", |row| row.get(0));
        version.map_err(|error| Error::sqlite("cannot read its version", error))
    });
    let (schema, problem) = match version {
        Ok(version) => (Some(version), None),
        Err(error) => (database::version_in_header(&dir.join(what.file)), Some(error.to_string())),
    };
    DatabaseFile { name: what.file, schema, known_schema: what.migrations.len() as i64, problem }
}

fn file(name: String, metadata: &fs::Metadata) -> StoreFile {
    #[cfg(unix)]
    let is_private = Some(std::os::unix::fs::MetadataExt::mode(metadata) & 0o077 == 0);
    #[cfg(not(unix))]
    let is_private = None;
    StoreFile { name, bytes: metadata.len(), is_private }
}

/// Copies a store into another directory, while programs record into it or from where nothing can be written: what is
/// committed and, if `recover` says so, what dead processes left. To keep it, to send it, or to look at it with a `Reader`: the
/// copy has this l0's schema, whatever the store's is.
///
/// The directory is created, or must be empty. A program that records is noted in the copy as running, and where its process is
/// not known, as killed.
///
/// # Errors
/// `is_storage` if there is no store, it cannot be read, or the other directory cannot be written or is not empty.
///
/// ```no_run
/// l0::copy("/var/lib/shop/.l0", "/tmp/for-support", true)?;
/// # Ok::<(), l0::Error>(())
/// ```
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>, recover: bool) -> Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    has_records(from)?;
    if fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::storage(format!("{} is not empty: choose a new directory for the copy", to.display())));
    }
    let copied = try_copy(from, to, recover);
    if copied.is_err() {
        // Nothing was there before.
        let _ = fs::remove_dir_all(to);
    }
    copied
}

fn try_copy(from: &Path, to: &Path, recover: bool) -> Result<()> {
    for _ in 0..COPY_ATTEMPTS {
        create_directory(to)?;
        let orphans = if recover { orphaned(from) } else { Vec::new() };
        let mut is_whole = flight::copy_files(&orphans, to)?;
        for database in [&TELEMETRY, &STATE].into_iter().filter(|database| from.join(database.file).exists()) {
            database::copy(database, from, to)?;
        }
        // Nobody has recovered one meanwhile: each record is in the file or in the database, not in both or in none.
        is_whole &= !recover || orphaned(from) == orphans;
        if is_whole {
            return super::recover(to).map(drop);
        }
        fs::remove_dir_all(to).map_err(|error| Error::io("cannot begin the copy anew in", to, error))?;
    }
    Err(Error::storage(format!("cannot copy {}: its flight files are being recovered; try again", from.display())))
}

fn orphaned(dir: &Path) -> Vec<PathBuf> {
    let files = flight::survey(dir).into_iter().filter(|file| file.state == FlightState::Orphaned);
    files.map(|file| file.path).collect()
}
