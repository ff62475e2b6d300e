//! l0 records what a program does, into an SQLite file beside it.

mod capture;
mod clock;
mod config;
pub mod correlation;
mod error;
mod event;
mod flight;
mod l0;
pub mod query;
mod record;
mod store;

pub use clock::{Clock, ManualClock, Timestamp};
pub use config::{Console, Flight, Overload};
pub use error::{Error, Result};
pub use event::{Severity, TelemetryEvent};
pub use l0::{Builder, Handle, L0, Stats, builder, get, init};
pub use store::{Recovery, recover};
