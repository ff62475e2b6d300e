//! What the behaviour tests share: a throw-away store, and recording into it on this thread only.
#![allow(dead_code, unreachable_pub)]

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
