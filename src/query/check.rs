//! The question "is the store sound?": SQLite's own check, sizes, and what is free or wasted in them.

use std::{fmt, time::Duration};

use rusqlite::Connection;
use serde::Serialize;

use crate::{
    error::Result,
    query::Table,
    store::{Asking, Source},
};

/// A large store takes a while.
const WITHIN: Duration = Duration::from_secs(600);
/// Tables of one page are not listed one by one.
const SMALL_BYTES: u64 = 4_096;
/// More would say the same.
const PROBLEMS_MAX: usize = 100;

/// How sound a store is, and what its tables take. From [`Handle::check`](crate::Handle::check) or
/// [`Reader::check`](crate::query::Reader::check).
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// What SQLite finds wrong with the database; nothing, if all is well.
    pub problems: Vec<String>,
    /// Bytes of the database's pages.
    pub bytes: u64,
    /// Of these, bytes of free pages, which new rows take first.
    pub free_bytes: u64,
    /// Tables and indexes, the largest first; empty where SQLite was built without `dbstat`.
    pub tables: Vec<TableSize>,
}

/// What one table or index takes.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TableSize {
    /// Its name in the schema.
    pub name: String,
    /// Bytes of its pages.
    pub bytes: u64,
    /// Of these, bytes that hold nothing.
    pub unused_bytes: u64,
    /// The part of its leaf pages that does not lie behind the one before, from 0 to 1: what `sqlite3_analyzer` calls
    /// fragmentation.
    pub fragmentation: f64,
}

impl Check {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            0 => writeln!(f, "sound; {} bytes, of which {} are free", self.bytes, self.free_bytes)?,
            count => writeln!(f, "{count} problems; {} bytes, of which {} are free", self.bytes, self.free_bytes)?,
        }
        self.problems.iter().try_for_each(|problem| writeln!(f, "  {problem}"))?;
        let (small, large): (Vec<_>, Vec<_>) = self.tables.iter().partition(|table| table.bytes <= SMALL_BYTES);
        let rows = large.into_iter().map(|table| {
            let part = |part: f64| format!("{:.1} %", part * 100.0).into();
            vec![
                table.name.as_str().into(),
                (table.bytes.cast_signed()).into(),
                part(table.unused_bytes as f64 / table.bytes.max(1) as f64),
                part(table.fragmentation),
            ]
        });
        let columns = ["table", "bytes", "unused", "fragmented"].map(str::to_owned).into();
        write!(f, "{}", Table { columns, rows: rows.collect() })?;
        if small.is_empty() { Ok(()) } else { writeln!(f, "and {} others of a page each", small.len()) }
    }
}

pub(crate) fn check(source: &Source) -> Result<Check> {
    source.ask(Asking { fresh: true, within: WITHIN }, "cannot check the store", |asked| {
        let connection = asked.connection;
        let number = |pragma: &str| {
            connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
        };
        let page_bytes = number("page_size")?;
        let mut problems = problems(connection, "main")?;
        if connection
            .query_row("SELECT count(*) FROM pragma_database_list WHERE name = 'state'", [], |row| row.get(0))?
        {
            let of_state = self::problems(connection, "state")?;
            problems.extend(of_state.into_iter().map(|problem| format!("state.db: {problem}")));
        }
        Ok(Check {
            problems,
            bytes: number("page_count")? * page_bytes,
            free_bytes: number("freelist_count")? * page_bytes,
            tables: tables(connection)?,
        })
    })
}

fn problems(connection: &Connection, schema: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA {schema}.integrity_check({PROBLEMS_MAX})"))?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    loop {
        match rows.next() {
            Ok(Some(row)) => found.extend(row.get::<_, String>(0)?.lines().map(str::to_owned)),
            Ok(None) => break,
            // The check itself cannot go on: that is what it has found.
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
                found.push(error.to_string());
                break;
            }
            Err(error) => return Err(error),
        }
    }
    // "*** in database main ***" is a heading.
    found.retain(|line| line != "ok" && !line.starts_with("***"));
    Ok(found)
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<TableSize>> {
    let sql = "SELECT name, sum(pgsize), sum(unused),
                      ifnull(avg(pageno <> previous + 1) FILTER (WHERE pagetype = 'leaf' AND previous IS NOT NULL), 0.0)
                 FROM (SELECT *, lag(pageno) OVER (PARTITION BY name, pagetype ORDER BY path) AS previous FROM dbstat)
                GROUP BY name ORDER BY 2 DESC, name";
    let Ok(mut statement) = connection.prepare(sql) else { return Ok(Vec::new()) };
    let tables = statement.query_map([], |row| {
        Ok(TableSize {
            name: row.get(0)?,
            bytes: row.get::<_, i64>(1)?.cast_unsigned(),
            unused_bytes: row.get::<_, i64>(2)?.cast_unsigned(),
            fragmentation: row.get(3)?,
        })
    });
    match tables.and_then(Iterator::collect) {
        // Tables that are damaged have no size; what is wrong is said above.
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt) => Ok(Vec::new()),
        outcome => outcome,
    }
}
