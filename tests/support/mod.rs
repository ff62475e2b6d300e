//! What the behaviour tests share: a throw-away store, and recording into it on this thread only.
#![allow(dead_code, unreachable_pub)]

#[cfg(unix)]
pub mod deadly;

use std::{path::Path, time::Duration};

use l0::{L0, query::Value};
use tempfile::TempDir;
use tracing_subscriber::prelude::*;

/// A store in a directory that goes away with the value.
pub struct Store {
    pub l0: L0,
    pub dir: TempDir,
}

pub fn store() -> Store {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    Store { l0, dir }
}

pub fn builder(dir: &Path) -> l0::Builder {
    l0::builder().dir(dir).filter("trace").commit_every(Duration::from_secs(3600))
}

impl Store {
    /// Runs `f` with a subscriber of this thread's own that records into the store.
    pub fn record<R>(&self, f: impl FnOnce() -> R) -> R {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(self.l0.layer()), f)
    }

    /// The answer to a question, as text.
    pub fn ask(&self, sql: &str) -> Vec<Vec<String>> {
        texts(&self.l0.sql(sql, &[]).unwrap())
    }

    pub fn one(&self, sql: &str) -> String {
        self.ask(sql)[0][0].clone()
    }
}

pub fn texts(table: &l0::query::Table) -> Vec<Vec<String>> {
    table.rows.iter().map(|row| row.iter().map(Value::to_string).collect()).collect()
}

/// Waits until `condition` holds; fails the test after ten seconds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// That SQLite finds nothing wrong with the store, and that whatever a row refers to is there.
pub fn is_consistent(dir: &Path) {
    let store = rusqlite::Connection::open(dir.join("telemetry.db")).unwrap();
    let one = |sql: &str| store.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(one("PRAGMA integrity_check"), "ok");
    let mut checks = Vec::new();
    for table in ["event", "warning", "span"] {
        for (column, to) in [("run", "run"), ("callsite", "callsite"), ("trace", "trace")] {
            checks.push((table, column, to));
        }
        for column in ["event_type", "category", "tenant", "actor", "status"] {
            checks.push((table, column, "name"));
        }
    }
    checks.extend([("event", "source", "name"), ("warning", "source", "name"), ("span", "name", "name")]);
    checks.extend([("link", "span", "span"), ("rollup", "series", "series")]);
    for (table, column, to) in checks {
        let dangling = one(&format!(
            "SELECT count(*) || '' FROM {table} WHERE {column} IS NOT NULL AND {column} NOT IN (SELECT id FROM {to})"
        ));
        assert_eq!(dangling, "0", "rows of {table} whose {column} is not in {to}");
    }
    let series = "SELECT count(*) || '' FROM series WHERE callsite > 0 AND callsite NOT IN (SELECT id FROM callsite)
        OR event_type <> 0 AND event_type NOT IN (SELECT id FROM name) OR source <> 0 AND source NOT IN (SELECT id FROM name)";
    assert_eq!(one(series), "0", "series whose callsite or name is gone");
    let unused = "SELECT count(*) || '' FROM trace WHERE id NOT IN (SELECT trace FROM span) AND id NOT IN
        (SELECT trace FROM event WHERE trace IS NOT NULL) AND id NOT IN (SELECT trace FROM warning WHERE trace IS NOT NULL)";
    assert_eq!(one(unused), "0", "traces that nothing refers to");
}

/// Changes what the header of a flight file says, and puts the check of it and the copy right.
pub fn change_header(bytes: &mut [u8], change: impl FnOnce(&mut [u8])) {
    change(&mut bytes[..104]);
    let words = bytes[..104].as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    let sum = words.fold(0x6C30_u64, |sum, word| sum.rotate_left(7).wrapping_add(word));
    bytes[120..128].copy_from_slice(&sum.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    bytes.copy_within(..128, 3_968);
}
