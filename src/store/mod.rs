//! The database: from drained records to committed rows, and read connections.
//!
//! One writer thread owns the one write connection of `telemetry.db`. Its step is: cut, drain, merge by time, one
//! transaction, commit, release. Rows, rollups, counters and the drained positions are one transaction, so that after
//! any death a record is either stored or still in the flight file behind its lane's committed position.
//!
//! Invariants:
//! - What a failed transaction changed in memory is undone before the next attempt.
//! - The writer never waits for application code.
//! - Every pragma is read back.

mod apply;
mod columns;
mod event_rows;
mod histogram;
mod intern;
mod open_span;
mod reader;
mod recovery;
mod rollup;
mod shared;
mod statements;
mod writer;

use crate::database::Database;
pub(crate) use histogram::Histogram;
pub(crate) use reader::{Asked, Asking, Recording, Source};
pub use recovery::{Recovery, recover};
pub(crate) use shared::Shared;
pub(crate) use writer::{RunInfo, Writer, run_thread};

/// Events and spans: disposable, and so not synced with every commit.
pub(crate) const TELEMETRY: Database = Database {
    file: "telemetry.db",
    application_id: 0x6C30_7465, // "l0te"
    migrations: &[include_str!("schema/0001.sql")],
    synchronous: ("NORMAL", "1"),
};
