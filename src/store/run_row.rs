//! The row of a run: what tells one process's time with the store from another's.

use rusqlite::{Connection, params};

use crate::{clock::Clock, flight::FlightRecorder};

/// What a run's row says about the process.
#[derive(Clone, Debug)]
pub(crate) struct RunInfo {
    pub(crate) service: Option<String>,
    pub(crate) version: Option<String>,
}

pub(super) fn mark_ended(connection: &Connection, run: i64, clock: &Clock, outcome: &str) -> rusqlite::Result<()> {
    connection
        .execute(
            "UPDATE run SET ended_at = ?2, outcome = ?3 WHERE id = ?1",
            params![run, clock.now().as_unix_ns(), outcome],
        )
        .map(drop)
}

/// Whether the database knows this run.
pub(super) fn has_run(connection: &Connection, flight: &FlightRecorder) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM run WHERE uuid = ?1")?.exists([flight.run().as_bytes().as_slice()])
}

/// How many records of the run the database has stored.
pub(super) fn stored_of(connection: &Connection, run: i64) -> rusqlite::Result<u64> {
    let mut stored = connection.prepare_cached("SELECT stored FROM run WHERE id = ?1")?;
    stored.query_row([run], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
}

pub(super) fn insert_run(
    connection: &Connection,
    flight: &FlightRecorder,
    clock: &Clock,
    info: &RunInfo,
) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "INSERT INTO run (uuid, boot, pid, process_started, service, version, host, started_at, span_key, outcome)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'running')
             ON CONFLICT (uuid) DO UPDATE SET outcome = 'running' RETURNING id",
        )?
        .query_row(
            params![
                flight.run().as_bytes(),
                flight.owner().boot,
                flight.owner().pid,
                flight.owner().started.cast_signed(),
                info.service,
                info.version,
                host(),
                clock.now().as_unix_ns(),
                flight.key().cast_signed(),
            ],
            |row| row.get(0),
        )
}

#[cfg(unix)]
fn host() -> Option<String> {
    Some(rustix::system::uname().nodename().to_string_lossy().into_owned())
}

#[cfg(not(unix))]
fn host() -> Option<String> {
    std::env::var("COMPUTERNAME").ok()
}
