//! Limits: how much may pass.

mod account;
mod bucket;
mod config;
mod decide;
mod decision;
mod headers;
mod home;
mod judge;
mod keyed;
mod ledger;
mod level;
#[cfg(all(test, loom))]
mod loom_model;
mod notices;
mod permit;
mod quota;
mod registry;
mod scope;
mod snapshot;
mod table;
mod upkeep;

pub use bucket::TokenBucket;
pub use config::ScopeConfig;
pub use decision::{Decision, Denied};
pub use keyed::KeyedTokenBuckets;
pub use permit::Permit;
pub use quota::Quota;
pub use registry::{Limits, ScopeStats};
pub use scope::{Charge, Scope};

pub use crate::query::{LimitCounts, LimitReport, ScopeReport};
