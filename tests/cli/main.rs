//! The command `l0`, against stores that the examples make: live, killed, empty, of an earlier schema, protected, large.
//!
//! Whole sessions are compared with `tests/data/cli/*.txt`; `SNAPSHOTS=overwrite cargo test --features cli --test cli`
//! writes those anew, to be read before they are committed.
#![cfg(unix)] // terminals, permissions, kills
#![allow(unreachable_pub, missing_docs)]

mod answers;
mod behaviour;
mod health;
mod jobs;
mod session;
mod stores;
