//! The crossing from application threads to the writer, in memory that outlives the process.
//!
//! Capture calls [`FlightRecorder::push`]; the store's writer calls `drain` and `release`; recovery reads what a dead
//! process left with [`orphans`]. The flight recorder knows bytes, positions and stamps, not what they mean.
//!
//! Invariants:
//! - Positions are 64-bit, logical and never reset; a record begins with its own position mixed with the run's key, so
//!   bytes of an earlier lap never parse.
//! - Space is released only after the transaction that stored it has committed.
//! - A lane is sorted by stamp; no code holds two lane locks, and none runs user code under one.
//! - Nothing here blocks longer than the bound it was given.

mod bell;
mod drain;
#[cfg(any(fuzzing, all(test, not(loom))))]
mod damage_oracle;
mod file;
mod header;
mod lane;
#[cfg(all(test, loom))]
mod loom_model;
#[cfg(all(test, not(loom)))]
mod model;
mod parse;
mod place;
mod process;
mod recorder;
mod recover;
#[cfg(any(fuzzing, all(test, not(loom))))]
mod reseal;
mod survey;

#[cfg(any(fuzzing, all(test, not(loom))))]
pub(crate) use damage_oracle::damage_a_lane;
pub(crate) use drain::Drain;
pub(crate) use file::Medium;
pub(crate) use header::{LANES_MAX, Reason};
pub(crate) use place::Shape;
pub(crate) use process::Owner;
pub(crate) use recorder::{FlightRecorder, Pushable, next_lane};
pub(crate) use recover::{Image, Left, Orphan, Remains, has_file, is_own, limit_set_aside, orphans};
#[cfg(any(fuzzing, all(test, not(loom))))]
pub(crate) use reseal::reseal;
pub use survey::{FlightFile, FlightState};
pub(crate) use survey::{copy_files, survey};
