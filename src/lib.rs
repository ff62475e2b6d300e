//! l0 records what a program does: every `tracing` span and event of the process, in an SQLite file beside it, that
//! survives `kill -9` and can be asked questions on the spot.
//!
//! # Quick start
//!
//! ```no_run
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let l0 = l0::init()?; // records into ./.l0 from here on
//!     tracing::info!(order = 9, customer = "ada", "order placed");
//!     for event in l0.events().limit(10).fetch()?.items {
//!         println!("{event}");
//!     }
//!     l0.shutdown(std::time::Duration::from_secs(5))?;
//!     Ok(())
//! }
//! ```
//!
//! Libraries go on using `tracing` (or `log`) alone. These fields become columns: `event_type`, `category`,
//! `correlation_id`, `tenant_id`, `actor_id`, `status`, `duration_ms`, and `severity = "critical"`; what is inside a span
//! inherits its correlation, tenant and actor. The rest is the JSON payload.
//!
//! [`correlation`] tells how ids come in and go out, [`Redaction`] what is taken for a secret and not recorded, and
//! [`testing::capture`] lets a test ask what its code recorded.
//!
//! - [`init`] for programs; [`builder`] for everything that can be set; [`Handle::layer`] beside layers of your own.
//! - [`Handle::events`], [`logs`](Handle::logs), [`errors`](Handle::errors), [`trace`](Handle::trace),
//!   [`traces`](Handle::traces), [`summary`](Handle::summary) and [`sql`](Handle::sql) ask in process, [`query::Reader`] from another process, `sqlite3` from
//!   a shell. The command `l0` (feature `cli`) is for people.
//! - [`jobs`]: closures on threads of l0's, and durable jobs that survive the process, by [`Handle::jobs`].
//! - [`limits`]: token buckets, and named scopes by [`Handle::limits`] that tell what they refuse.
//! - [`Handle::record`] for business facts without `tracing`, [`Handle::audit`] for those that must not be lost.
//!
//! # What it costs
//!
//! Recording an event costs the calling thread about 0.2 microseconds, a span about half a microsecond, whatever the disk
//! does; figures, with
//! the machine they were measured on, are in `benches/README.md`. Memory: 16 MiB of flight recorder, settable with
//! [`Builder::buffer_bytes`], 4 KiB a thread, SQLite's page cache of 8 MiB, and what one commit carries. An idle program is not woken.
//!
//! # Durability
//!
//! A record is in the *flight recorder*, a file mapped into memory, before its macro returns. SIGKILL, abort,
//! `process::exit`, a panic: the next [`init`], or [`recover`], finds it there. The database is written once a second
//! ([`Builder::commit_every`]) or when 256 KiB wait, with `synchronous=NORMAL`: only a power loss loses that window.
//! Where the file system copies on write, the flight recorder lives in shared memory; [`Handle::stats`] names what is in
//! force. Spans that were open when the process died are in the view `spans` as `interrupted`.
//!
//! # How much is kept
//!
//! Database, WAL and flight files of all processes together never take more than [`Retention::max_bytes`], 256 MiB unless
//! set. At the cap the oldest events and spans go; warnings and errors have a quarter of the database to themselves, and
//! counts, rates and percentiles a tenth. Ages can be set beside it. What was removed is in the view `maintenance`, how large
//! the store is in [`Stats::store`]. [`Handle::cleanup`], [`compact`](Handle::compact) and [`check`](Handle::check) are for
//! the hand; [`cleanup`], [`compact`], [`copy`] and [`inspect`] for a store whose program does not run.
//!
//! # When things go wrong
//!
//! *The store is away for a moment*: the disk is full or reports errors, the database is locked, moved, replaced or
//! read-only. Recording goes on into the flight recorder, and the store is tried again every half second until it takes
//! records. A database that was moved may come back for ten seconds, or until half of the flight recorder is full; then a
//! new one is begun in its place. One that was removed is begun anew at once. Calls that write to `state.db` fail
//! meanwhile, and say why: what returned `Ok` is in the files that everybody finds at their paths.
//!
//! *The database is damaged*: SQLite cannot read it, or pages are missing at its end. `telemetry.db` is renamed to
//! `telemetry.damaged-<time>.db`, with its write-ahead log, and a new one is begun. An event of severity critical and of type
//! `l0.damage` reports it; the check `l0.writer`, [`Handle::status`] and `l0 doctor` name the file for as long as it is there.
//! [`salvage`] reads what can be read into a new store. At most two such files are kept, the first and the last, beyond
//! `max_bytes`. `state.db` is never set aside: the program starts without jobs and audits, and each call says what to do.
//! An error of the disk is not damage.
//!
//! *The flight recorder is damaged*, by a bug elsewhere in the process or on the disk: each record has a checksum, what is
//! damaged is counted in [`Stats::damaged`], and the records behind it are found.
//!
//! *The flight recorder is full*: the newest records are shed (or, with
//! [`Overload::Block`], threads wait); the last eighth of it is kept for warnings, errors and the ends of spans. What is
//! shed is counted by reason and severity, in [`Stats`] and in the view `runs`. A reader that keeps one snapshot for so long
//! that the WAL reaches its share makes records wait, then be shed as `reader_pins_wal`. l0 does not panic, does not print (but for
//! the console lines you ask for), and never waits without a bound.
//!
//! # Troubleshooting
//!
//! - *Nothing is recorded*: the filter is `info` unless `L0_LOG` or `RUST_LOG` says otherwise; a subscriber of your own
//!   needs [`Handle::layer`].
//! - *`init` says that a subscriber is set*: some library or test harness installed one; use `builder().start()` and attach
//!   the layer where that subscriber is made.
//! - *The last run shows as `killed`*: it ended without [`L0::shutdown`], by a signal or `process::exit`.
//! - *A check says that files were removed or replaced*: something moves or deletes the store's files while the program runs.
//!   Copy a store with [`copy`], which works while programs record.
//! - *A file in `flight/` ends in `.unreadable`*: it was not a flight file, or the database refused what is in it; look at
//!   it or delete it.
//!
//! The page [`architecture`] tells how it works, the page [`schema`] what there is to ask in SQL.

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod error;
#[doc(hidden)]
pub mod fail_point;
mod sync;
mod clock;
pub mod correlation;
mod event;
mod redaction;
mod record;
mod flight;
mod capture;
mod config;
mod timer;
mod database;
mod state;
mod store;
pub mod query;
pub mod limits;
pub mod jobs;
pub mod health;
mod components;
mod status;
mod l0;
pub mod testing;
#[cfg(any(fuzzing, all(test, not(loom))))]
#[doc(hidden)]
pub mod fuzzing;

pub use clock::{Clock, ManualClock, Timestamp};
pub use components::{Component, Components};
pub use config::{Console, Durability, Flight, JobEvents, JobHistory, Overload, Retention};
pub use error::{Error, Result};
pub use event::{Severity, TelemetryEvent};
pub use l0::{Builder, Handle, L0, Stats, builder, get, init};
pub use redaction::Redaction;
pub use status::{Process, Recording, Status};
pub use store::{
    Cleanup, DatabaseFile, FlightFile, FlightState, Inspection, Recovery, Salvage, SalvagedTable, StoreFile, StoreSize,
    cleanup, compact, copy, inspect, recover, salvage,
};

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("schema.md")]
pub mod schema {}

/// Its examples are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
