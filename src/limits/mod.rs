//! How much may pass: token buckets alone, by key, and as named scopes of an application that tell what they refuse.
//!
//! - [`TokenBucket`] and [`KeyedTokenBuckets`] work by themselves: no store, no [`L0`](crate::L0), no thread.
//! - [`Limits`], by [`Handle::limits`](crate::Handle::limits), has [`Scope`]s with names: decided together, tried in dry run,
//!   locked out of, counted, reported, and remembered across restarts.
//! - [`Permit`]s charge what will be known later, and are settled with what it was.
//!
//! # What passes
//!
//! In any time `t`, however it is cut out, a bucket lets pass
//!
//! ```text
//! passed <= burst + rate * t
//! ```
//!
//! and in the long run exactly `rate * t` of those who ask often enough. A quota of 100 a minute (whose burst is 100 unless
//! [set](Quota::burst)) so lets 100 pass at once, and up to 200 within a minute that begins with a full bucket: one that may
//! never see more than 100 within a minute is `per_minute(100).burst(1)`, with its charges spread. What comes back, comes back
//! evenly, one token each interval, not at the turn of a minute or of a day.
//!
//! Why it holds: a bucket remembers one time, at which it will be full again. To pass `n` moves that time `n` intervals further,
//! counted from now at the earliest, and is allowed if it then lies no further ahead than `burst` intervals. So whatever passed
//! since a moment `a` has moved the time by its intervals from `a` on, and the last to pass, at `b`, left it no further than
//! `b + burst` intervals: together no more than `(b - a) / interval + burst`. The time only moves forward (but for what a
//! permit gives back, which is less than what it took), so no clock that runs late or backward mints anything; arithmetic
//! saturates or is refused; intervals that are no whole number of an eighth of a nanosecond are rounded up. This is GCRA (ITU-T
//! I.371, annex A), and so is exact: [`Denied::retry_after`] is the first nanosecond at which the same charge passes.
//!
//! With [`Permit::commit_actual`] a caller may spend more than it reserved; what is beyond is owed, and only delays who comes next.
//!
//! # Several processes, restarts
//!
//! Buckets are of their process. Scopes save what they owe to `state.db` every ten seconds while it changes, blocks within a
//! second, and everything at [`shutdown`](crate::L0::shutdown): so a restart refills nothing, and a kill at most what was charged
//! since the last saving (buckets that are full again within ten seconds are not worth saving). Times are saved by wall clock and
//! clamped when they come back: if it was set meanwhile, a bucket is never fuller than full nor emptier than it was. Of several
//! processes on one directory the last to save a key is remembered; that a warning was told, and refusals on the way to a
//! lock-out, are not. A scope whose [`public_keys`](ScopeConfig::public_keys) changes does not know its keys again.
//!
//! A child of `fork` that goes on without `exec` has the locks as they stood: it must not use limits of its parent if other
//! threads of it did at that moment.
//!
//! # What is told
//!
//! Of each scope what passed and was refused is counted by minute, at most a second later, and so are its 256 busiest keys, at
//! the end of the minute: a kill loses what had not been told. Further keys are `(other)`; of an hour 1,024 are kept by name, and
//! counts by key are the first to go when the rollups' share of the cap is used up. Refusals are
//! events, boundedly: `limit.violation` for the first of a key within a minute, with the caller's correlation id,
//! `limit.violations` for their sum at its end, `limit.lock_out`, `limit.warning`; of each scope at most a hundred keys a minute.
//! Keys are keyed hashes there unless the scope's are [public](ScopeConfig::public_keys).

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
mod line;
#[cfg(all(test, loom))]
mod loom_model;
mod notices;
mod permit;
mod quota;
mod registry;
mod room;
mod scope;
mod slots;
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
