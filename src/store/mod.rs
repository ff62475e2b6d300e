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
mod attachment;
mod callsite_plan;
mod columns;
mod copy;
mod damage;
mod event_rows;
mod histogram;
mod inherited;
mod inspection;
mod intern;
mod limit_counts;
mod open_span;
mod reader;
mod opening;
mod recovery;
mod removals;
mod resumed;
mod retention;
mod rollup;
mod run_row;
mod salvage;
mod shared;
mod statements;
mod writer;

use crate::database::Database;
pub use copy::copy;
pub(crate) use damage::{SetAside, set_aside_files};
pub(crate) use histogram::Histogram;
pub use inspection::{DatabaseFile, FlightFile, FlightState, Inspection, StoreFile, inspect};
pub use opening::{Cleanup, cleanup, compact};
pub(crate) use opening::{Opening, cleanup_by, compact_by};
pub(crate) use reader::{Asked, Asking, Recording, Source};
pub use recovery::{Recovery, recover};
pub(crate) use retention::free_disk;
pub(crate) use run_row::RunInfo;
pub use salvage::{Salvage, SalvagedTable, salvage};
pub use shared::StoreSize;
pub(crate) use shared::{Shared, StoreChange};
pub(crate) use writer::{Writer, run_thread};

/// Events and spans: disposable, and so not synced with every commit.
pub(crate) const TELEMETRY: Database = Database {
    file: "telemetry.db",
    application_id: 0x6C30_7465, // "l0te"
    migrations: &[
        include_str!("schema/0001.sql"),
        include_str!("schema/0002.sql"),
        include_str!("schema/0003.sql"),
        include_str!("schema/0004.sql"),
        include_str!("schema/0005.sql"),
        include_str!("schema/0006.sql"),
    ],
    synchronous: ("NORMAL", "1"),
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::open_writer;

    #[test]
    fn a_store_of_the_first_schema_is_brought_up_to_date() {
        const FIRST: Database = Database { migrations: &[TELEMETRY.migrations[0]], ..TELEMETRY };
        let dir = tempfile::tempdir().unwrap();
        let connection = open_writer(&FIRST, dir.path()).unwrap();
        connection
            .execute_batch(
                "INSERT INTO run (uuid, boot, pid, process_started, started_at, outcome) VALUES (x'01', x'02', 1, 2, 3, 'clean');
                 INSERT INTO name (id, text) VALUES (1, 'error');
                 INSERT INTO callsite VALUES (1, 2, 2, 'shop', 'request', 'shop', 'a.rs', 1);
                 INSERT INTO trace VALUES (1, randomblob(16), 'order-9'), (2, randomblob(16), NULL);
                 INSERT INTO span (id, run, own, state, callsite, parent, trace, started_at, duration_ns, errors, status) VALUES
                    (1, 1, 1, 0, 1, NULL, 1, 10, 5, 0, NULL), (2, 1, 2, 0, 1, 1, 1, 11, 2, 3, NULL),
                    (3, 1, 3, 0, 1, 1, 2, 12, 2, 0, 1);
                 INSERT INTO series (callsite, severity, event_type, source) VALUES (1, 0, 0, 0);",
            )
            .unwrap();
        drop(connection);
        let connection = open_writer(&TELEMETRY, dir.path()).unwrap();
        let text = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
        assert_eq!(text("SELECT group_concat(is_root || is_failed, ' ') FROM span"), "10 01 11");
        assert_eq!(
            text("SELECT group_concat(name || ' of ' || correlation_id) FROM spans WHERE id = 1"),
            "request of order-9"
        );
        assert_eq!(text("SELECT group_concat(severity) FROM series WHERE callsite = 1"), "-1");
        assert_eq!(text("SELECT count(*) || '' FROM telemetry_events"), "0");
        assert_eq!(text("PRAGMA integrity_check"), "ok");
    }
}
