//! A store seen from outside, without opening it for questions: its files, whose they are, what dead processes left.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use serde::Serialize;

use super::{TELEMETRY, damage::set_aside_files};
use crate::{
    database::{Database, may_make_files, open_any},
    error::{Error, Result},
    flight,
    state::STATE,
};
pub use flight::{FlightFile, FlightState};

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
    /// Damaged `telemetry.db`s that were set aside, the earliest first. [`salvage`](crate::salvage) reads what can be read of one.
    pub set_aside: Vec<PathBuf>,
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
        set_aside: set_aside_files(&dir).into_iter().map(|(path, _)| path).collect(),
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
        Err(error) => (None, Some(error.to_string())),
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

/// Runs noted as running whose process is gone: each with whether it left no file.
pub(super) fn dead_runs(dir: &Path, connection: &Connection) -> rusqlite::Result<Vec<(i64, bool)>> {
    let mut statement =
        connection.prepare_cached("SELECT id, uuid, boot, pid, process_started FROM run WHERE outcome = 'running'")?;
    let running = statement
        .query_map([], |row| {
            let owner = flight::Owner {
                boot: row.get::<_, Vec<u8>>(2)?.try_into().unwrap_or([0; 16]),
                pid: row.get(3)?,
                started: row.get::<_, i64>(4)?.cast_unsigned(),
            };
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, owner))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let left_nothing = |uuid: &[u8]| !uuid::Uuid::from_slice(uuid).is_ok_and(|uuid| flight::has_file(dir, uuid));
    let dead = running.into_iter().filter(|(_, _, owner)| !owner.may_be_alive());
    Ok(dead.map(|(run, uuid, _)| (run, left_nothing(&uuid))).collect())
}
