//! Questions to a store from outside the process that records into it.

use std::{path::Path, time::Duration};

use super::{
    Check, Errors, Events, LimitReport, Logs, Summary, Table, Trace, Traces, Value, check, limits, summary,
    table::{self, Params},
    trace,
    window::Window,
};
use crate::{
    clock::Timestamp,
    error::Result,
    store::{Asking, Source, StoreSize},
};

/// Reads a store, live or dead, without ever writing to it; SQLite may leave an empty `-wal` and a `-shm` beside a database.
///
/// It sees what is committed: at most one commit interval (a second unless set otherwise) behind a living process. What
/// a dead process left in its flight file is seen after [`recover`](crate::recover).
///
/// ```no_run
/// let reader = l0::query::Reader::open("/var/lib/shop/.l0")?;
/// for event in reader.events().at_least(l0::Severity::Error).limit(20).fetch()?.items {
///     println!("{event}");
/// }
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Reader {
    source: Source,
}

impl Reader {
    /// Opens the store in this directory.
    ///
    /// # Errors
    /// `is_storage` if there is none, it cannot be read, or a later version of l0 wrote it.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let source = Source::new(dir.as_ref(), None);
        source.ask(Asking::default(), "cannot read the store", |_| Ok(()))?;
        Ok(Self { source })
    }

    /// Everything recorded as an event.
    pub fn events(&self) -> Events {
        Events::new(self.source.clone())
    }

    /// What was written for a reader: events of `tracing` and `log`, and lines of `l0.log`.
    pub fn logs(&self) -> Logs {
        Logs::new(self.source.clone())
    }

    /// Traces: the newest, the slowest, the failed.
    pub fn traces(&self) -> Traces {
        Traces::new(self.source.clone())
    }

    /// Everything that belongs to a correlation id, a trace's UUID or its hexadecimal id; `None` if nothing does.
    ///
    /// # Errors
    /// As [`Events::fetch`].
    pub fn trace(&self, id: &str) -> Result<Option<Trace>> {
        trace::trace(&self.source, id)
    }

    /// Counts, rates and percentiles of the last minutes, hours or days.
    ///
    /// # Errors
    /// As [`Events::fetch`].
    pub fn summary(&self, last: Duration) -> Result<Summary> {
        summary::summary(&self.source, Window::last(last))
    }

    /// What limits let pass and refused, with lock-outs and the latest violations; as far as the program has told: of keys it
    /// does at the end of each minute.
    ///
    /// # Errors
    /// As [`Events::fetch`].
    pub fn limits(&self, since: Option<Timestamp>, until: Option<Timestamp>) -> Result<LimitReport> {
        limits::limit_report(&self.source, Window::between(since, until))
    }

    /// The same of any window; a side that is `None` is open.
    ///
    /// # Errors
    /// As [`Events::fetch`].
    pub fn summary_between(&self, since: Option<Timestamp>, until: Option<Timestamp>) -> Result<Summary> {
        summary::summary(&self.source, Window::between(since, until))
    }

    /// Errors, grouped by place and message.
    pub fn errors(&self) -> Errors {
        Errors::new(self.source.clone())
    }

    /// Whether the store is sound, and what its tables take; see [`Handle::check`](crate::Handle::check).
    ///
    /// # Errors
    /// `is_storage` if it cannot be read at all, `is_timeout` after ten minutes.
    pub fn check(&self) -> Result<Check> {
        check::check(&self.source)
    }

    /// How large the store is. What it `removed` and its `last_maintenance` are known to the process that records; the view
    /// `maintenance` tells what all have done.
    ///
    /// # Errors
    /// `is_storage` if it cannot be read.
    pub fn size(&self) -> Result<StoreSize> {
        self.source.size()
    }

    /// Ends, with an error for which `is_timeout` holds, the questions that other threads are asking this reader.
    pub fn interrupt(&self) {
        self.source.interrupt();
    }

    /// Asks in SQL, over the views `telemetry_events`, `logs`, `spans`, `runs`, `maintenance`, the table `audit`, and `jobs`: see
    /// [`schema`](crate::schema).
    ///
    /// # Errors
    /// `is_invalid_input` for SQL that does not parse, would write, or has other parameters.
    pub fn sql(&self, sql: &str, params: &[Value]) -> Result<Table> {
        table::sql(&self.source, sql, Params::InOrder(params), usize::MAX)
    }

    /// The same with parameters by name (`:since`), of which the statement need not have all, and for so many rows at most.
    ///
    /// # Errors
    /// `is_invalid_input` for SQL that does not parse, would write, or has a parameter that is not given.
    pub fn sql_named(&self, sql: &str, params: &[(&str, Value)], at_most: usize) -> Result<Table> {
        table::sql(&self.source, sql, Params::Named(params), at_most)
    }
}
