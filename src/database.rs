//! Opening one of the store's databases: permissions, pragmas, owner, schema version, migrations.
//!
//! `store` opens `telemetry.db` with it, `state` opens `state.db`. A [`Database`] describes one of them. Database files
//! are only ever opened through SQLite, or through `guard`, which explains why.

use std::{
    cell::Cell,
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

mod guard;
mod wal_index;
mod writable;

pub(crate) use guard::{FileId, open_for_reading};
pub(crate) use wal_index::{missing_pages, missing_pages_exactly};
pub(crate) use writable::{Displaced, Left, WriteConnection};

use crate::error::{Error, Result};

/// What tells one database from another.
#[derive(Debug)]
pub(crate) struct Database {
    /// Its file in the store's directory.
    pub(crate) file: &'static str,
    /// In the file's header, says whose file it is.
    pub(crate) application_id: i64,
    /// Its schema is as many migrations old as there are.
    pub(crate) migrations: &'static [&'static str],
    /// `PRAGMA synchronous`, and what it reads back as.
    pub(crate) synchronous: (&'static str, &'static str),
}

/// Before 3.51.3 a checkpoint beside a second connection could lose commits (fixed in 3.50.7 and 3.44.6 as well).
const SQLITE_VERSION_MIN: i32 = 3_051_003;
const SQLITE_VERSIONS_FIXED: [i32; 2] = [3_050_007, 3_044_006];
/// Of every database, set when it is made.
pub(crate) const PAGE_BYTES: u64 = 4_096;
/// Another process's transaction is short; SQLite's own back-off would sleep far longer than that.
const BUSY_SLEEP: Duration = Duration::from_micros(300);
const BUSY_WITHIN: Duration = Duration::from_secs(2);

/// Creates the store's directory, private, with a `.gitignore` of everything.
pub(crate) fn create_directory(dir: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|error| Error::io("cannot create the store's directory", dir, error))?;
    let ignore = dir.join(".gitignore");
    if !ignore.exists() {
        // A convenience: a store whose directory cannot be written fails a moment later, with a reason.
        let _ = std::fs::write(ignore, "*\n");
    }
    Ok(())
}

/// Opens the database for writing, creating and migrating it as needed.
///
/// # Errors
/// Among others, if it can only be read: SQLite would open it all the same, and refuse each write for good.
pub(crate) fn open_writer(database: &Database, dir: &Path) -> Result<WriteConnection> {
    check_version(rusqlite::version_number())?;
    let path = dir.join(database.file);
    guard::create_private(&path).map_err(|error| Error::io("cannot create", &path, error))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let named = |error| Error::sqlite(&format!("cannot open {}", path.display()), error);
    let mut connection = Connection::open_with_flags(&path, flags).map_err(named)?;
    connection.busy_handler(Some(wait_for_writer)).map_err(named)?;
    check_identity(database, &connection, &path)?;
    prepare(database, &connection).map_err(|error| match error {
        Pragma::Failed(error) => named(error),
        Pragma::Refused(what) => Error::storage(format!("cannot open {}: {what}", path.display())),
    })?;
    migrate(database, &connection)
        .map_err(|error| Error::sqlite(&format!("cannot migrate {}", path.display()), error))?;
    connection.set_prepared_statement_cache_capacity(128);
    if connection.is_readonly(rusqlite::MAIN_DB).map_err(named)? {
        return Err(Error::storage(format!(
            "cannot open {}: it can only be read; make it and its directory writable for this user",
            path.display()
        )));
    }
    match missing_pages(&path).max(missing_pages_exactly(&path)) {
        0 => WriteConnection::new(connection, &path),
        pages => {
            // Closing as the last connection would fill the gap with zeros.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            Err(Error::damage(format!(
                "cannot open {}: the file is damaged, {pages} pages are missing at its end: end the programs that use it, save what can \
             be read with `l0 doctor --salvage FILE`, and move the file away",
                path.display()
            )))
        }
    }
}

/// Whether a connection on which this failed should be closed, and the database opened again for the next attempt. A full
/// disk and the locks of others go away by themselves; a value that is refused is no trouble of the connection.
pub(crate) fn needs_reopening(error: &Error) -> bool {
    use ErrorCode::{
        CannotOpen, DatabaseCorrupt, FileLockingProtocolFailed, InternalMalfunction, NotADatabase, NotFound,
        PermissionDenied, ReadOnly, SchemaChanged, SystemIoFailure, Unknown,
    };
    matches!(
        error.sqlite_code(),
        Some(
            CannotOpen
                | DatabaseCorrupt
                | FileLockingProtocolFailed
                | InternalMalfunction
                | NotADatabase
                | NotFound
                | PermissionDenied
                | ReadOnly
                | SchemaChanged
                | SystemIoFailure
                | Unknown
        )
    )
}

/// Identifies the files of a database that readers have open: when one changes, their connections are out of date.
pub(crate) fn identity(database: &Database, dir: &Path) -> [Option<FileId>; 3] {
    let path = dir.join(database.file);
    ["", "-wal", "-shm"].map(|suffix| FileId::at(&beside(&path, suffix)))
}

/// Removes a WAL whose database is gone, before another is opened beside it and takes it for its own.
pub(crate) fn remove_wal(database: &Database, dir: &Path) -> Result<()> {
    for suffix in ["-wal", "-shm"] {
        let path = beside(&dir.join(database.file), suffix);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("cannot remove what is left of a database", &path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A file that SQLite keeps beside a database.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(suffix);
    beside.into()
}

/// Opens the database for reading only, in the version this l0 writes.
pub(crate) fn open_reader(database: &Database, dir: &Path) -> Result<Connection> {
    let connection = open_any(database, dir)?;
    let path = dir.join(database.file);
    let named = |error| Error::sqlite(&format!("cannot read {}", path.display()), error);
    let version = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    let version = connection.pragma_query_value(None, "user_version", version).map_err(named)?;
    if version < database.migrations.len() as i64 {
        return Err(Error::storage(format!(
            "{} has schema {version}, which this l0 brings up to date when it next writes there: start the program, or call l0::recover",
            path.display()
        )));
    }
    connection.pragma_update(None, "query_only", true).map_err(named)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Whether the database is there, and of an l0 before the one that made this version of it.
pub(crate) fn is_before(database: &Database, dir: &Path, version_wanted: i64) -> Result<bool> {
    if !dir.join(database.file).exists() {
        return Ok(false);
    }
    let version = open_any(database, dir)?.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    let version = version.map_err(|error| Error::sqlite(&format!("cannot read {}", database.file), error))?;
    Ok(version < version_wanted)
}

/// Brings the database up to date, if it is there.
pub(crate) fn bring_up_to_date(database: &Database, dir: &Path) -> Result<()> {
    let current = database.migrations.len() as i64;
    if !is_before(database, dir, current)? {
        return Ok(());
    }
    open_writer(database, dir).map(drop)
}

/// Copies the database as it is now, from under whoever writes it, or from where it cannot even be opened.
pub(crate) fn copy(database: &Database, from: &Path, to: &Path) -> Result<()> {
    let (source, target) = (from.join(database.file), to.join(database.file));
    let failed = |error| Error::io("cannot copy the store to", &target, error);
    match open_any(database, from) {
        Ok(connection) => {
            create_private_file(&target)?;
            let Some(target) = target.to_str() else {
                return Err(Error::storage(format!("{} is no text: choose another directory", target.display())));
            };
            let copied = connection.execute("VACUUM INTO ?1", [target]);
            return copied
                .map(drop)
                .map_err(|error| Error::sqlite(&format!("cannot copy {}", source.display()), error));
        }
        // Where no file can be made beside the WAL, and none is there to share it by, nobody writes.
        Err(_) if has_wal(&source) && !may_make_files(from) => {}
        Err(error) => return Err(error),
    }
    for suffix in ["", "-wal"] {
        let (source, target) = (beside(&source, suffix), beside(&target, suffix));
        if source.exists() {
            create_private_file(&target)?;
            let mut target = OpenOptions::new().write(true).truncate(true).open(&target).map_err(failed)?;
            let source = guard::open_for_reading(&source).map_err(|error| Error::io("cannot read", &source, error))?;
            io::Seek::rewind(&mut &*source).and_then(|()| io::copy(&mut &*source, &mut target)).map_err(failed)?;
        }
    }
    Ok(())
}

/// Opens the database for reading only, in whatever version up to this l0's.
pub(crate) fn open_any(database: &Database, dir: &Path) -> Result<Connection> {
    check_version(rusqlite::version_number())?;
    let dir = &std::path::absolute(dir).map_err(|error| Error::io("cannot find the directory", dir, error))?;
    let path = dir.join(database.file);
    if !path.is_file() {
        return Err(Error::storage(format!(
            "there is no l0 store in {}: {} is missing; give the directory a program records into",
            dir.display(),
            database.file
        )));
    }
    let named = |error| Error::sqlite(&format!("cannot read {}", path.display()), error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let open = |uri: &str| {
        let mut connection = Connection::open_with_flags(uri, flags)?;
        connection.busy_handler(Some(wait_for_writer))?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    let uri = uri(&path);
    let immutable = format!("{uri}?immutable=1");
    let connection = match is_protected(&path) {
        // Whoever may do everything would make files beside it all the same.
        true if has_wal(&path) => {
            return Err(Error::storage(format!(
                "{} is write-protected, and part of it is in its WAL, which can only be read where files may be made beside it: \
                 copy the directory, or let l0::copy do it, and ask the copy",
                path.display()
            )));
        }
        true => open(&immutable),
        false => match open(&uri) {
            // A copy on a read-only medium: nobody can be writing it, and no shared-memory file can be made beside it.
            Err(error) if is_cannot_open(&error) && !has_wal(&path) => open(&immutable),
            outcome => outcome,
        },
    }
    .map_err(named)?;
    check_identity(database, &connection, &path)?;
    Ok(connection)
}

fn is_cannot_open(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied))
}

/// Whether permissions and the file system let this user make files in a directory.
pub(crate) fn may_make_files(dir: &Path) -> bool {
    #[cfg(unix)]
    let is_let = rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok();
    #[cfg(not(unix))]
    let is_let = true;
    is_let && !fs::metadata(dir).is_ok_and(|metadata| metadata.permissions().readonly())
}

/// Whether nobody may write it, nor make files beside it.
fn is_protected(path: &Path) -> bool {
    [Some(path), path.parent()]
        .into_iter()
        .flatten()
        .all(|path| fs::metadata(path).is_ok_and(|metadata| metadata.permissions().readonly()))
}

/// Whether a part of the database may be in its WAL.
pub(crate) fn has_wal(path: &Path) -> bool {
    fs::metadata(beside(path, "-wal")).is_ok_and(|metadata| metadata.len() > 0)
}

/// A path as SQLite's URI: what has a meaning there is escaped.
pub(crate) fn uri(path: &Path) -> String {
    let mut uri = String::from("file://");
    if !path.has_root() || path.as_os_str().as_encoded_bytes().first() != Some(&b'/') {
        uri.push('/');
    }
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

fn check_version(version: i32) -> Result<()> {
    let fixed = version >= SQLITE_VERSION_MIN
        || SQLITE_VERSIONS_FIXED.iter().any(|fix| version >= *fix && version / 1_000 == fix / 1_000);
    if fixed {
        return Ok(());
    }
    Err(Error::config(format!(
        "SQLite {} can lose commits (its WAL-reset bug): link 3.51.3 or later, or use l0's feature `bundled`",
        rusqlite::version()
    )))
}

/// Creates the file of a copy, which nobody in this process can have open. SQLite gives the database's mode to the WAL and
/// shared-memory files it makes.
fn create_private_file(path: &Path) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::io("cannot create", path, error)),
    }
}

/// Refuses what is not l0's and what a later l0 has written.
fn check_identity(database: &Database, connection: &Connection, path: &Path) -> Result<()> {
    let read = |pragma: &str| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
            .map_err(|error| Error::sqlite(&format!("cannot read {}", path.display()), error))
    };
    let has_tables: bool = connection
        .query_row("SELECT count(*) > 0 FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|error| Error::sqlite(&format!("cannot read {}", path.display()), error))?;
    // After that: whoever makes the tables says with them whose they are.
    let (id, version) = (read("application_id")?, read("user_version")?);
    if has_tables && id != database.application_id {
        return Err(Error::storage(format!(
            "{} is an SQLite database of another program: choose another directory",
            path.display()
        )));
    }
    let known = database.migrations.len() as i64;
    if version > known {
        return Err(Error::storage(format!(
            "{} has schema {version}, this l0 knows up to {known}: use the l0 that wrote it or a later one, or another directory",
            path.display()
        )));
    }
    Ok(())
}

/// Whether an attached database is this one, in a version that can be read.
pub(crate) fn is_known_version(database: &Database, connection: &Connection, schema: &str) -> bool {
    let read = |pragma| connection.pragma_query_value(Some(schema), pragma, |row| row.get::<_, i64>(0)).ok();
    let version = read("user_version").unwrap_or(0);
    read("application_id") == Some(database.application_id) && (1..=database.migrations.len() as i64).contains(&version)
}

/// Whether nothing is in an attached database yet: whoever makes it is at it.
pub(crate) fn is_empty(connection: &Connection, schema: &str) -> bool {
    let sql = format!("SELECT count(*) = 0 FROM {schema}.sqlite_schema");
    connection.query_row(&sql, [], |row| row.get(0)).unwrap_or(false)
}

enum Pragma {
    Failed(rusqlite::Error),
    Refused(String),
}

impl From<rusqlite::Error> for Pragma {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

/// SQLite ignores a pragma it does not know, so each is read back.
fn prepare(database: &Database, connection: &Connection) -> Result<(), Pragma> {
    let is_new: bool = connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))?;
    if is_new {
        set(connection, "page_size", "4096", "4096")?;
        set(connection, "auto_vacuum", "INCREMENTAL", "2")?;
    }
    until_free(|| set(connection, "journal_mode", "WAL", "wal"))?;
    let (synchronous, reads) = database.synchronous;
    set(connection, "synchronous", synchronous, reads)?;
    for (pragma, value, reads) in [
        ("journal_size_limit", "4194304", "4194304"),
        ("wal_autocheckpoint", "1000", "1000"),
        ("cache_size", "-8192", "-8192"),
        ("temp_store", "MEMORY", "2"),
        ("foreign_keys", "OFF", "0"),
    ] {
        set(connection, pragma, value, reads)?;
    }
    Ok(())
}

/// Tries again while another connection makes the database a WAL, or as the last one removes that: SQLite says so at once, without
/// the busy handler, for each might wait for the other.
fn until_free(mut work: impl FnMut() -> Result<(), Pragma>) -> Result<(), Pragma> {
    let until = Instant::now() + at_most(BUSY_WITHIN);
    loop {
        match work() {
            Err(Pragma::Failed(error))
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < until =>
            {
                std::thread::sleep(BUSY_SLEEP);
            }
            outcome => return outcome,
        }
    }
}

/// Sets a pragma of a number that reads back as it is set.
pub(crate) fn set_number(connection: &Connection, pragma: &str, value: i64) -> Result<()> {
    set(connection, pragma, &value.to_string(), &value.to_string()).map_err(|error| match error {
        Pragma::Failed(error) => Error::sqlite(&format!("cannot set PRAGMA {pragma}"), error),
        Pragma::Refused(what) => Error::storage(what),
    })
}

/// Whether a commit waits for the disk; not within a transaction.
pub(crate) fn set_synchronous(connection: &Connection, is_full: bool) -> Result<()> {
    set_number(connection, "synchronous", if is_full { 2 } else { 1 })
}

fn set(connection: &Connection, pragma: &str, value: &str, reads: &str) -> Result<(), Pragma> {
    connection.execute_batch(&format!("PRAGMA {pragma} = {value}"))?;
    let got = connection.pragma_query_value(None, pragma, |row| {
        Ok(match row.get_ref(0)? {
            rusqlite::types::ValueRef::Integer(number) => number.to_string(),
            other => other.as_str().unwrap_or("").to_owned(),
        })
    })?;
    if got == reads {
        return Ok(());
    }
    Err(Pragma::Refused(format!(
        "PRAGMA {pragma} = {value} was not taken, it reads {got}; is the file system able to lock and share memory?"
    )))
}

/// Brings the schema up to date, in one transaction: two processes starting together migrate once.
fn migrate(database: &Database, connection: &Connection) -> rusqlite::Result<()> {
    let target = database.migrations.len() as i64;
    let version = || connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    if version()? == target {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let outcome = (|| {
        let done = usize::try_from(version()?).unwrap_or(0);
        for migration in database.migrations.iter().skip(done) {
            connection.execute_batch(migration)?;
        }
        connection.execute_batch(&format!(
            "PRAGMA application_id = {}; PRAGMA user_version = {target}; COMMIT",
            database.application_id
        ))
    })();
    if outcome.is_err() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    outcome
}

thread_local! {
    /// How long this thread waits for another connection, if it was said.
    static WITHIN: Cell<Option<Duration>> = const { Cell::new(None) };
    static SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs `work`, in which SQLite waits for other connections no longer than this.
pub(crate) fn waiting_within<R>(within: Duration, work: impl FnOnce() -> R) -> R {
    let before = WITHIN.replace(Some(within));
    let outcome = work();
    WITHIN.set(before);
    outcome
}

/// How long a wait of this thread may take, of which `usual` is the most.
pub(crate) fn at_most(usual: Duration) -> Duration {
    WITHIN.get().map_or(usual, |within| within.min(usual))
}

fn wait_for_writer(sleeps: i32) -> bool {
    if sleeps == 0 {
        SINCE.set(Some(Instant::now()));
    }
    if SINCE.get().is_none_or(|since| since.elapsed() >= WITHIN.get().unwrap_or(BUSY_WITHIN)) {
        return false;
    }
    std::thread::sleep(BUSY_SLEEP);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Database = Database {
        file: "any.db",
        application_id: 7,
        migrations: &["CREATE TABLE a (x)", "CREATE TABLE b (x)"],
        synchronous: ("FULL", "2"),
    };

    #[test]
    fn many_that_make_it_at_once_all_have_it() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let start = std::sync::Barrier::new(6);
            std::thread::scope(|scope| {
                for number in 0..6 {
                    let (start, dir) = (&start, dir.path());
                    scope.spawn(move || {
                        start.wait();
                        for _ in 0..10 {
                            match number % 2 {
                                0 => drop(open_writer(&ANY, dir).unwrap()),
                                _ => drop(open_reader(&ANY, dir)),
                            }
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn versions_with_the_wal_reset_bug_are_refused() {
        for (version, fine) in [
            (3_051_003, true),
            (3_054_001, true),
            (3_050_007, true),
            (3_044_006, true),
            (3_051_002, false),
            (3_050_006, false),
            (3_045_000, false),
        ] {
            assert_eq!(check_version(version).is_ok(), fine, "{version}");
        }
    }

    #[test]
    fn a_pragma_that_is_not_taken_is_an_error() {
        let connection = Connection::open_in_memory().unwrap();
        assert!(matches!(set(&connection, "journal_mode", "WAL", "wal"), Err(Pragma::Refused(_))));
        assert!(set(&connection, "cache_size", "-100", "-100").is_ok());
    }

    #[test]
    fn opening_twice_migrates_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = Database { migrations: &ANY.migrations[..1], ..ANY };
        drop(open_writer(&first, dir.path()).unwrap());
        let error = open_reader(&ANY, dir.path()).unwrap_err();
        assert!(error.is_storage() && error.to_string().contains("has schema 1"), "{error}");
        drop(open_writer(&ANY, dir.path()).unwrap());
        assert!(open_reader(&first, dir.path()).unwrap_err().to_string().contains("a later one"));
        let connection = open_writer(&ANY, dir.path()).unwrap();
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        let vacuum: i64 = connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0)).unwrap();
        assert_eq!((version, vacuum), (2, 2));
    }

    #[test]
    fn a_uri_escapes_what_has_a_meaning() {
        assert_eq!(uri(Path::new("/a b/c?d#e%.db")), "file:///a%20b/c%3Fd%23e%25.db");
    }
}
