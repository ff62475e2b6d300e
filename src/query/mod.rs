//! Typed questions over the store, in the process that records or in another.
//!
//! [`Handle::events`](crate::Handle::events) asks in process and flushes first; a [`Reader`] asks from another process,
//! never writes, and sees what is committed: at most one commit interval behind. Every question runs on a read
//! connection of its own, in one short read transaction.

mod events;
mod reader;
mod row;
mod table;
mod value;

pub use events::{Cursor, Events, Page, Total};
pub use reader::Reader;
pub use row::EventRow;
pub use table::Table;
pub use value::Value;

pub(crate) use table::sql;
