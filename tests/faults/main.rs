//! Faults from outside: processes that die, disks and files that fail, locks that other code cancels, damaged databases.
//!
//! `L0_FAULTS_LONG=1 cargo test --release --test faults` runs more rounds. With `L0_FAULTS_KILLS=5000` and `-- --nocapture`
//! more processes die, and tables of what was lost and found are printed.
#![cfg(unix)]
#![allow(unreachable_pub, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod campaign;
mod check;
mod check_tests;
mod child;
mod clock;
mod combined;
mod damage;
mod damaged_state;
mod deaths;
mod foreign;
mod ledger;
mod locks;
mod outages;
mod plan;
mod points;
mod process;

mod roles;
mod salvage;
mod vfs;
