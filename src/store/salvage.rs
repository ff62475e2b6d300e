//! Reads what can still be read from a damaged database into a new store.
//!
//! The damaged file is copied first and never opened itself. Each table is walked by its key. Where SQLite cannot read
//! on, the walk looks for the next key from which it can: so one damaged page costs the rows on that page, and not those
//! behind it.

use std::{
    fs,
    io::{self, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, params_from_iter, types::Value};
use serde::Serialize;

use super::TELEMETRY;
use crate::{
    database::{Database, beside, create_directory, open_for_reading, open_writer},
    error::{Error, Result},
    state::STATE,
};

/// Rows that are written in one transaction.
const ROWS_AT_ONCE: u64 = 10_000;
/// Bytes at a database's beginning that describe it as a whole.
const HEADER_BYTES: usize = 100;

/// What was brought from a damaged database into a new store. From [`salvage`].
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Salvage {
    /// The new store's directory.
    pub dir: PathBuf,
    /// Which of a store's databases the file was: `telemetry.db` or `state.db`.
    pub database: &'static str,
    /// Rows that were read, of all tables.
    pub rows: u64,
    /// Places at which rows could not be read, of all tables. How many rows were there is not known.
    pub gaps: u64,
    /// Each table that had rows or gaps.
    pub tables: Vec<SalvagedTable>,
}

/// One table of a damaged database.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SalvagedTable {
    /// Its name, as in the [schema](crate::schema).
    pub name: String,
    /// Rows that were read.
    pub rows: u64,
    /// Places at which rows could not be read.
    pub gaps: u64,
}

/// Brings what can be read from a damaged `telemetry.db` or `state.db` into a new store. The file may have any name, as
/// one that was set aside; its write-ahead log is expected beside it. It is not changed.
///
/// The directory is created, or must be empty. It needs room for twice the file.
///
/// ```no_run
/// let salvage = l0::salvage("/var/lib/shop/.l0/telemetry.damaged-20260131T235959.123Z.db", "/tmp/salvaged")?;
/// println!("{} rows, {} gaps", salvage.rows, salvage.gaps);
/// # Ok::<(), l0::Error>(())
/// ```
///
/// # Errors
/// `is_storage` if the file cannot be read, is no database of l0 or so damaged that its tables are unknown, or if the
/// directory cannot be written or is not empty.
pub fn salvage(file: impl AsRef<Path>, dir: impl AsRef<Path>) -> Result<Salvage> {
    let (file, dir) = (file.as_ref(), dir.as_ref());
    if !file.is_file() {
        return Err(Error::storage(format!(
            "{} is not a file: give a damaged telemetry.db or state.db",
            file.display()
        )));
    }
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::storage(format!(
            "{} is not empty: choose a new directory for the new store",
            dir.display()
        )));
    }
    create_directory(dir)?;
    let copy = dir.join("damaged.db");
    let outcome = copy_of(file, &copy).and_then(|()| salvage_copy(file, &copy, dir));
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(beside(&copy, suffix));
    }
    outcome
}

fn copy_of(file: &Path, copy: &Path) -> Result<()> {
    for suffix in ["", "-wal"] {
        let (from, to) = (beside(file, suffix), beside(copy, suffix));
        if !from.exists() {
            continue;
        }
        let copied = open_for_reading(&from).and_then(|from| {
            let mut to = fs::OpenOptions::new().write(true).create_new(true).open(to)?;
            (&*from).rewind()?;
            io::copy(&mut &*from, &mut to)
        });
        copied.map_err(|error| Error::io("cannot copy", &from, error))?;
    }
    Ok(())
}

fn salvage_copy(file: &Path, copy: &Path, dir: &Path) -> Result<Salvage> {
    let failed = |error| Error::sqlite(&format!("cannot read the tables of {}", file.display()), error);
    let (damaged, database) = match open_copy(copy) {
        Ok(opened) => opened,
        // Perhaps only the description at its beginning is damaged.
        Err(_) => replace_header(copy, dir).and_then(|()| open_copy(copy).map_err(failed))?,
    };
    // A store has both.
    drop(open_writer(&TELEMETRY, dir)?);
    let target = open_writer(database, dir)?;
    let mut salvage = Salvage { dir: dir.to_owned(), database: database.file, rows: 0, gaps: 0, tables: Vec::new() };
    let written = |error| Error::sqlite(&format!("cannot write into {}", dir.display()), error);
    let names: Vec<String> =
        column(&target, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
            .map_err(written)?;
    for name in names {
        let table = Table::of(&damaged, &target, &name).map_err(written)?;
        let Some(table) = table else { continue };
        let mut copy = Copy { target: &target, insert: table.insert(), rows: 0 };
        target.execute_batch("BEGIN").map_err(written)?;
        let gaps = table.walk(&damaged, &mut copy).map_err(written)?;
        target.execute_batch("COMMIT").map_err(written)?;
        salvage.rows += copy.rows;
        salvage.gaps += gaps;
        if copy.rows + gaps > 0 {
            salvage.tables.push(SalvagedTable { name, rows: copy.rows, gaps });
        }
    }
    if salvage.rows == 0 && salvage.gaps > 0 {
        return Err(Error::storage(format!("nothing of {} can be read: no table of it is intact", file.display())));
    }
    Ok(salvage)
}

/// Opens the copy, with its log, and finds out which database it is.
fn open_copy(copy: &Path) -> rusqlite::Result<(Connection, &'static Database)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(copy, flags)?;
    let tables: Vec<String> = column(&connection, "SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let has = |name: &str| tables.iter().any(|table| table == name);
    let database = match (has("event"), has("secret")) {
        (true, _) => &TELEMETRY,
        (_, true) => &STATE,
        _ => return Err(rusqlite::Error::QueryReturnedNoRows),
    };
    Ok((connection, database))
}

/// Gives the copy the description of a new, empty database, with as many pages as the copy has.
fn replace_header(copy: &Path, dir: &Path) -> Result<()> {
    let failed = |error| Error::io("cannot mend the copy of the damaged database in", dir, error);
    let scratch = dir.join("scratch");
    create_directory(&scratch)?;
    drop(open_writer(&TELEMETRY, &scratch)?);
    let mut header = fs::read(scratch.join(TELEMETRY.file)).map_err(failed)?;
    fs::remove_dir_all(&scratch).map_err(failed)?;
    header.truncate(HEADER_BYTES);
    let mut file = fs::OpenOptions::new().read(true).write(true).open(copy).map_err(failed)?;
    let pages = u32::try_from(file.metadata().map_err(failed)?.len() / 4_096).unwrap_or(u32::MAX);
    if let Some(place) = header.get_mut(28..32) {
        place.copy_from_slice(&pages.to_be_bytes());
    }
    // No page is known to be free.
    if let Some(place) = header.get_mut(32..40) {
        place.fill(0);
    }
    file.rewind().and_then(|()| file.write_all(&header)).map_err(failed)
}

fn column(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(sql)?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// A table that is in both databases.
#[derive(Debug)]
struct Table {
    name: String,
    /// Those that both have.
    columns: Vec<String>,
    /// Of its primary key.
    key: Vec<String>,
    has_rowid: bool,
}

/// Where rows go.
struct Copy<'a> {
    target: &'a Connection,
    insert: String,
    rows: u64,
}

impl Copy<'_> {
    fn row(&mut self, values: Vec<Value>) -> rusqlite::Result<()> {
        // What is damaged without looking so may violate a constraint.
        if self.target.prepare_cached(&self.insert)?.execute(params_from_iter(values)).is_ok() {
            self.rows += 1;
            if self.rows.is_multiple_of(ROWS_AT_ONCE) {
                self.target.execute_batch("COMMIT; BEGIN")?;
            }
        }
        Ok(())
    }
}

impl Table {
    fn of(damaged: &Connection, target: &Connection, name: &str) -> rusqlite::Result<Option<Self>> {
        let columns = |connection: &Connection| {
            column(connection, &format!("SELECT name FROM pragma_table_info('{name}') ORDER BY cid"))
        };
        let known = columns(target)?;
        let Ok(found) = columns(damaged) else { return Ok(None) };
        let columns: Vec<String> = known.into_iter().filter(|column| found.contains(column)).collect();
        let key = column(target, &format!("SELECT name FROM pragma_table_info('{name}') WHERE pk > 0 ORDER BY pk"))?;
        let without = format!("SELECT wr || '' FROM pragma_table_list('{name}') WHERE schema = 'main'");
        let has_rowid = column(target, &without)?.first().is_some_and(|without| without == "0");
        let table = Self { name: name.to_owned(), columns, key, has_rowid };
        Ok((!table.columns.is_empty()).then_some(table))
    }

    fn insert(&self) -> String {
        let places = vec!["?"; self.columns.len()].join(", ");
        format!("INSERT OR REPLACE INTO {} ({}) VALUES ({places})", self.name, self.columns.join(", "))
    }

    /// Reads rows in the order of a key, as long as SQLite can. Returns the last key that was read, and whether that was all.
    fn read(
        &self,
        damaged: &Connection,
        rest: &str,
        from: Option<i64>,
        copy: &mut Copy<'_>,
    ) -> rusqlite::Result<(Option<i64>, bool)> {
        let rowid = if self.has_rowid { "rowid" } else { "0" };
        let sql = format!("SELECT {rowid}, {} FROM {} NOT INDEXED {rest}", self.columns.join(", "), self.name);
        let mut last = None;
        let Ok(mut statement) = damaged.prepare(&sql) else { return Ok((None, false)) };
        let Ok(mut rows) = statement.query(params_from_iter(from)) else { return Ok((None, false)) };
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    // A page that stands in the wrong place leads back to keys that were read already.
                    let key = row.get(0)?;
                    if self.has_rowid && (last.is_some_and(|last| key <= last) || from.is_some_and(|from| key < from)) {
                        continue;
                    }
                    let Ok(values) = (0..self.columns.len()).map(|index| row.get(index + 1)).collect() else {
                        continue;
                    };
                    copy.row(values)?;
                    last = Some(key);
                }
                Ok(None) => return Ok((last, true)),
                Err(_) => return Ok((last, false)),
            }
        }
    }

    /// Copies every row that can be read. Returns at how many places rows could not be.
    fn walk(&self, damaged: &Connection, copy: &mut Copy<'_>) -> rusqlite::Result<u64> {
        if !self.has_rowid {
            // From both ends, as far as either goes.
            let key =
                |order: &str| self.key.iter().map(|column| format!("{column} {order}")).collect::<Vec<_>>().join(", ");
            for order in ["ASC", "DESC"] {
                if self.read(damaged, &format!("ORDER BY {}", key(order)), None, copy)?.1 {
                    return Ok(u64::from(order == "DESC"));
                }
            }
            return Ok(1);
        }
        let (mut from, mut gaps) = (i64::MIN, 0);
        loop {
            let (last, is_all) = self.read(damaged, "WHERE rowid >= ?1 ORDER BY rowid", Some(from), copy)?;
            if is_all {
                return Ok(gaps);
            }
            gaps += 1;
            let behind = last.map_or(from, |last| last.saturating_add(1));
            match self.next_readable(damaged, behind) {
                Some(next) => from = next.max(from.saturating_add(1)),
                None => return Ok(gaps),
            }
        }
    }

    /// The first key from which on a row can be read, behind a place where none can.
    fn next_readable(&self, damaged: &Connection, behind: i64) -> Option<i64> {
        let sql = format!(
            "SELECT {} FROM {} NOT INDEXED WHERE rowid >= ?1 ORDER BY rowid LIMIT 1",
            self.columns.join(", "),
            self.name
        );
        let is_readable = |from: i64| {
            let mut statement = damaged.prepare_cached(&sql).ok()?;
            let mut rows = statement.query([from]).ok()?;
            rows.next().ok().map(|row| row.is_some())
        };
        // Some(false): no row is behind that key, so the damage reaches to the end.
        let (mut bad, mut step) = (behind, 1_i64);
        let mut good = loop {
            let key = behind.checked_add(step)?;
            match is_readable(key) {
                Some(true) => break key,
                Some(false) => return None,
                None => (bad, step) = (key, step.checked_mul(2)?),
            }
        };
        while good - bad > 1 {
            let middle = bad + (good - bad) / 2;
            match is_readable(middle) {
                Some(true) => good = middle,
                _ => bad = middle,
            }
        }
        Some(good)
    }
}
