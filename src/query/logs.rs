//! The question "what was written for a reader?": events of `tracing` and `log`, and lines of `l0.log`.

use std::time::Duration;

use super::{Cursor, EventRow, Events, Page, Tail, filter::Filter};
use crate::{clock::Timestamp, error::Result, event::Severity, store::Source};

/// A question about log lines: filters, then [`fetch`](Self::fetch), or [`tail`](Self::tail) to follow.
///
/// Newest first unless [`oldest_first`](Self::oldest_first). What l0's own rooms and
/// [`record`](crate::Handle::record) write is not among them.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let l0 = l0::builder().dir(dir.path()).start()?;
/// use tracing::Level;
/// l0.log(Level::WARN, "billing", "the invoice of order 9 is late");
/// l0.log(Level::INFO, "billing", "the invoice of order 9 is paid");
/// let page = l0.logs().level(Level::WARN).message("order 9").fetch()?;
/// assert_eq!(page.items.len(), 1);
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a question is asked by fetch() or tail()"]
pub struct Logs {
    events: Events,
}

impl Logs {
    pub(crate) fn new(source: Source) -> Self {
        Self { events: Events::new(source).with(Filter::IsLog) }
    }

    fn and(self, change: impl FnOnce(Events) -> Events) -> Self {
        Self { events: change(self.events) }
    }

    /// Not older than this, by the store's clock.
    pub fn last(self, d: Duration) -> Self {
        self.and(|events| events.last(d))
    }

    /// At or after this time.
    pub fn since(self, t: Timestamp) -> Self {
        self.and(|events| events.since(t))
    }

    /// Before this time.
    pub fn until(self, t: Timestamp) -> Self {
        self.and(|events| events.until(t))
    }

    /// Of this level or a more severe one.
    pub fn level(self, at_least: tracing::Level) -> Self {
        self.and(|events| events.at_least(Severity::from(at_least)))
    }

    /// Of exactly this category.
    pub fn category(self, s: &str) -> Self {
        self.and(|events| events.category(s))
    }

    /// Whose target begins with this text.
    pub fn target(self, prefix: &str) -> Self {
        self.and(|events| events.with(Filter::TargetPrefix(prefix.to_owned())))
    }

    /// Whose message contains this text, case and all.
    pub fn message(self, contains: &str) -> Self {
        self.and(|events| events.message(contains))
    }

    /// Belonging to this correlation id, or to the trace with this UUID or hex id.
    pub fn correlation_id(self, s: &str) -> Self {
        self.and(|events| events.correlation_id(s))
    }

    /// That match what a person types; see [`Events::search`].
    ///
    /// # Errors
    /// As there.
    pub fn search(self, text: &str) -> Result<Self> {
        Ok(Self { events: self.events.search(text)? })
    }

    /// Oldest first.
    pub fn oldest_first(self) -> Self {
        self.and(Events::oldest_first)
    }

    /// At most this many lines on a page: 100 unless said otherwise, 10,000 at most.
    pub fn limit(self, n: u32) -> Self {
        self.and(|events| events.limit(n))
    }

    /// The page behind this cursor, with the same filters and order.
    pub fn after(self, c: &Cursor) -> Self {
        self.and(|events| events.after(c))
    }

    /// As [`Events::fresh`].
    pub fn fresh(self, flush_first: bool) -> Self {
        self.and(|events| events.fresh(flush_first))
    }

    /// As [`Events::within`].
    pub fn within(self, d: Duration) -> Self {
        self.and(|events| events.within(d))
    }

    /// One page of lines.
    ///
    /// # Errors
    /// As [`Events::fetch`].
    pub fn fetch(self) -> Result<Page<EventRow>> {
        self.events.fetch()
    }

    /// Follows: an iterator over the lines recorded from now on, or with [`last`](Self::last) or [`since`](Self::since) from
    /// then on, oldest first, that waits for the next one. See [`Tail`].
    pub fn tail(self) -> Tail {
        Tail::new(self.events)
    }
}
