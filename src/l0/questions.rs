//! What a handle can be asked: each question begins here, and is answered in `query`.

use std::time::Duration;

use super::Handle;
use crate::{
    clock::Timestamp,
    error::Result,
    query::{self, Check, Errors, Events, Logs, Params, Summary, Table, Trace, Traces, Value, Window},
};

impl Handle {
    /// Which events were recorded? See [`Events`].
    pub fn events(&self) -> Events {
        Events::new(self.inner.source.clone())
    }

    /// What was written for a reader? See [`Logs`].
    pub fn logs(&self) -> Logs {
        Logs::new(self.inner.source.clone())
    }

    /// Which traces are the newest, the slowest, the failed? See [`Traces`].
    pub fn traces(&self) -> Traces {
        Traces::new(self.inner.source.clone())
    }

    /// Which errors were there, grouped by place and message? See [`Errors`].
    pub fn errors(&self) -> Errors {
        Errors::new(self.inner.source.clone())
    }

    /// Everything that belongs to a correlation id, or to a trace by its UUID or hexadecimal id, as a tree; `None` if
    /// nothing does. Flushes first, bounded.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// # use tracing_subscriber::prelude::*;
    /// # let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(l0.layer()));
    /// tracing::info_span!("request", correlation_id = "order-9").in_scope(|| tracing::info!("placed"));
    /// let trace = l0.trace("order-9")?.unwrap();
    /// assert_eq!(trace.spans[0].name, "request");
    /// assert_eq!(trace.spans[0].events[0].message, "placed");
    /// println!("{trace}");
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Events::fetch`].
    pub fn trace(&self, id: &str) -> Result<Option<Trace>> {
        query::trace(&self.inner.source, id)
    }

    /// Counts, rates and percentiles of the last minutes, hours or days. Flushes first, bounded.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// l0.log(tracing::Level::ERROR, "billing", "the printer is on fire");
    /// let summary = l0.summary(std::time::Duration::from_secs(3600))?;
    /// assert_eq!((summary.events, summary.errors), (1, 1));
    /// println!("{summary}");
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Events::fetch`].
    pub fn summary(&self, last: Duration) -> Result<Summary> {
        query::summary(&self.inner.source, Window::last(last))
    }

    /// The same of any window; a side that is `None` is open.
    ///
    /// # Errors
    /// As [`Events::fetch`].
    pub fn summary_between(&self, since: Option<Timestamp>, until: Option<Timestamp>) -> Result<Summary> {
        query::summary(&self.inner.source, Window::between(since, until))
    }

    /// Ends, with an error for which `is_timeout` holds, the questions that other threads are asking this l0.
    pub fn interrupt(&self) {
        self.inner.source.interrupt();
    }

    /// Asks in SQL, over the views `telemetry_events`, `logs`, `spans`, `limits`, `runs`, `maintenance`, the table `audit`, and `jobs`: the page
    /// [`schema`](crate::schema) has every column, and ten questions to begin with. Flushes first, and takes at most 30
    /// seconds.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// let table = l0.sql("SELECT count(*) AS errors FROM telemetry_events WHERE severity = ?1", &["error".into()])?;
    /// assert_eq!(table.rows[0][0], l0::query::Value::Integer(0));
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// `is_invalid_input` for SQL that does not parse, would write, or has other parameters; `is_storage` if the store
    /// cannot be read; `is_closed` in a forked child.
    pub fn sql(&self, sql: &str, params: &[Value]) -> Result<Table> {
        query::sql(&self.inner.source, sql, Params::InOrder(params), usize::MAX)
    }

    /// Whether the store is sound by SQLite's own check, what its tables take, and what in them is free, unused or out of
    /// order.
    ///
    /// Reads the whole store, in one snapshot, for at most ten minutes: of a store of many gigabytes rather ask a copy, for
    /// meanwhile the WAL is not emptied.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// let check = l0.check()?;
    /// assert!(check.is_sound(), "{check}");
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// `is_storage` if it cannot be read at all, `is_timeout` after ten minutes.
    pub fn check(&self) -> Result<Check> {
        query::check(&self.inner.source)
    }
}
