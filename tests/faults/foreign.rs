//! What another process does to a store: it reads, writes a checkpoint, truncates or overwrites a file.
//!
//! A process of its own is needed because closing a file cancels the POSIX locks that its process holds on that file.

use std::{
    fs::OpenOptions,
    io::{Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::Path,
    process::Command,
};

use rusqlite::Connection;

use super::roles::{role, run, text};

const TEST: &str = "foreign::foreign_process";
const READ: &str = "SELECT count(*) FROM sqlite_schema";

/// Opens both databases, reads them and closes them.
///
/// The `sqlite3` shell does it where it is installed. SQLite before 3.51 deletes the WAL when the locks of another process
/// were cancelled; later versions look at the locks of the `-shm` file, too.
pub fn visit(store: &Path) {
    for database in ["telemetry.db", "state.db"].map(|name| store.join(name)) {
        if !database.exists() {
            continue;
        }
        match Command::new("sqlite3").arg(&database).arg(READ).output() {
            Ok(output) => {
                // A database that has just lost its WAL may be unreadable: that is for the test to find out.
                let error = String::from_utf8_lossy(&output.stderr);
                if !output.status.success() {
                    println!("sqlite3 {}: {error}", database.display());
                }
            }
            Err(_) => _ = run(TEST, &["visit", text(&database)]),
        }
    }
}

/// Copies the WAL into the database and truncates the WAL.
pub fn checkpoint(database: &Path) {
    run(TEST, &["checkpoint", text(database)]);
}

pub fn truncate(file: &Path, bytes: u64) {
    run(TEST, &["truncate", text(file), &bytes.to_string()]);
}

/// Overwrites a range of bytes with a pattern that is no page of a database.
pub fn overwrite(file: &Path, range: Range<u64>) {
    run(TEST, &["overwrite", text(file), &range.start.to_string(), &range.end.to_string()]);
}

#[test]
fn foreign_process() {
    let Some(role) = role() else { return };
    let words: Vec<&str> = role.iter().map(String::as_str).collect();
    match words[..] {
        ["visit", database] => {
            let database = Connection::open(database).unwrap();
            let _ = database.query_row(READ, [], |row| row.get::<_, i64>(0));
        }
        ["checkpoint", database] => {
            let database = Connection::open(database).unwrap();
            let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
            let is_busy: i64 = database.query_row(sql, [], |row| row.get(0)).unwrap();
            assert_eq!(is_busy, 0, "the checkpoint was blocked");
        }
        ["truncate", file, bytes] => {
            let file = OpenOptions::new().write(true).open(file).unwrap();
            file.set_len(bytes.parse().unwrap()).unwrap();
        }
        ["overwrite", file, start, end] => {
            let [start, end] = [start, end].map(|number| number.parse::<u64>().unwrap());
            let mut file = OpenOptions::new().write(true).open(file).unwrap();
            file.seek(SeekFrom::Start(start)).unwrap();
            file.write_all(&vec![0xA5; (end - start) as usize]).unwrap();
        }
        _ => panic!("{role:?}"),
    }
}
