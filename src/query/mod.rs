//! Typed questions over the store, in the process that records or in another.
//!
//! [`Handle`](crate::Handle) asks in process and flushes first; a [`Reader`] asks from another process, never writes, and sees
//! what is committed: at most one commit interval behind. Every question runs on a read connection of its own, in one
//! read transaction, and is bounded in time: [`within`](Events::within) sets how long it may take,
//! [`Handle::interrupt`](crate::Handle::interrupt) ends it at once.

mod check;
mod errors;
mod events;
mod filter;
mod json_lines;
mod limits;
mod logs;
mod page;
mod periods;
mod reader;
mod row;
mod search;
mod summary;
mod table;
mod tail;
mod text;
mod trace;
mod traces;
mod tree;
mod value;
mod window;

pub use check::{Check, TableSize};
pub use errors::{ErrorGroup, Errors};
pub use events::Events;
pub use limits::{LimitCounts, LimitReport, ScopeReport};
pub use logs::Logs;
pub use page::{Cursor, Page, Total};
pub use reader::Reader;
pub use row::EventRow;
pub use summary::{SpanSummary, Summary};
pub use table::Table;
pub use tail::Tail;
pub use text::{harmless, harmless_json, human_duration};
pub use trace::{Follows, SpanNode, SpanState, Trace};
pub use traces::{TraceRow, Traces};
pub use tree::{TraceLine, TraceLineKind};
pub use value::Value;

pub(crate) use check::check;
pub(crate) use limits::{limit_report, limit_usage};
pub(crate) use summary::summary;
pub(crate) use table::{Params, sql};
pub(crate) use trace::trace;
pub(crate) use window::Window;
