//! The handle: recording and what it costs; what is asked is in `questions`, how it ends in `owner`.

use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tracing_core::Subscriber;
use tracing_subscriber::{Layer, registry::LookupSpan};

use crate::{
    capture::{Capture, CaptureLayer, Gate, parse_filter},
    clock::{Anchor, Clock, TrustedClock},
    components::Components,
    config::Retention,
    error::{Error, Result},
    event::{Severity, TelemetryEvent},
    flight::{Medium, Reason},
    health::Health,
    jobs::Jobs,
    limits::{Limits, ScopeStats},
    redaction::Redactor,
    state::{self, State},
    store::{self, Cleanup, Recovery, Shared, Source, StoreSize},
    timer::Timer,
};

/// How long `flush` waits.
const FLUSH_WITHIN: Duration = Duration::from_secs(10);

/// Records and answers; cheap to clone, can be sent anywhere.
///
/// From [`L0`](crate::L0) by `l0.clone()`, or from [`get`](crate::get).
#[derive(Clone)]
pub struct Handle {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) capture: Arc<Capture>,
    pub(super) shared: Arc<Shared>,
    pub(super) gate: Gate,
    pub(super) source: Source,
    pub(super) commit_every: Duration,
    pub(super) recovered: Recovery,
    pub(super) redactor: Arc<Redactor>,
    pub(super) clock: Clock,
    /// When it was started.
    pub(super) started: Anchor,
    /// Decides what is too old.
    pub(super) trusted: TrustedClock,
    pub(super) retention: Retention,
    pub(super) state: Arc<State>,
    pub(super) timer: Arc<Timer>,
    pub(super) limits: Limits,
    pub(super) jobs: Jobs,
    pub(super) health: Health,
    /// Its name and version.
    pub(super) service: (String, Option<String>),
    pub(super) components: Components,
    pub(super) audit_warned: AtomicBool,
}

/// How recording goes, in numbers.
///
/// After a flush, `recorded == stored + shed + damaged`: events and spans of this run that were recorded, that are committed,
/// that were shed, and that something else in the process has overwritten in the flight recorder. A late value or the end of a span belongs to its span and does not count by itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Events and spans that passed the filter.
    pub recorded: u64,
    /// Of these, committed to the database.
    pub stored: u64,
    /// Of these, shed, for the reasons in `shed_by`.
    pub shed: u64,
    /// Of these, overwritten in the flight recorder before they were stored: by a bug elsewhere in the process, or somebody who
    /// wrote into the file.
    pub damaged: u64,
    /// The shed by reason (`buffer_full`, `too_large`, `rejected`, `reader_pins_wal`, `other_boot`) and severity.
    pub shed_by: Vec<(&'static str, Severity, u64)>,
    /// Ends and late values of spans that found no room; their spans stay as they were.
    pub updates_shed: u64,
    /// Records made after shutdown or in a forked child.
    pub ignored: u64,
    /// Transactions of this run.
    pub commits: u64,
    /// Bytes waiting in the flight recorder.
    pub buffer_used_bytes: u64,
    /// Bytes of the flight recorder's lanes.
    pub buffer_bytes: u64,
    /// What each scope of limits let pass and refused.
    pub limits: Vec<ScopeStats>,
    /// How large the store is, and what was done to keep it so.
    pub store: StoreSize,
    /// What a death of the process and of the machine may lose.
    pub durability: String,
    /// Why the store does not take records at the moment, if so.
    pub last_error: Option<Error>,
}

impl Handle {
    pub(super) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// A layer for a subscriber of your own, with l0's filter as its own: what l0 records and what other layers see do
    /// not touch each other. Attach it once; a second one on the same subscriber records nothing.
    ///
    /// ```
    /// use tracing_subscriber::prelude::*;
    /// # let dir = tempfile::tempdir().unwrap();
    /// let l0 = l0::builder().dir(dir.path()).filter("debug").start()?;
    /// let subscriber = tracing_subscriber::registry().with(l0.layer());
    /// tracing::subscriber::with_default(subscriber, || tracing::debug!(answer = 42, "found"));
    /// assert_eq!(l0.events().field("answer", 42).count()?, 1);
    /// # Ok::<(), l0::Error>(())
    /// ```
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + 'static + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        CaptureLayer::new(Arc::clone(&self.inner.capture)).with_filter(self.inner.gate.clone())
    }

    /// Replaces the filter at run time, for every callsite.
    ///
    /// # Errors
    /// `is_config` if the directives cannot be read; the filter then stays as it was.
    pub fn set_filter(&self, directives: &str) -> Result<()> {
        self.inner.gate.set(parse_filter(directives)?);
        if super::get().is_some_and(|installed| Arc::ptr_eq(&installed.inner, &self.inner)) {
            let level = tracing::level_filters::LevelFilter::current();
            tracing_log::log::set_max_level(tracing_log::AsLog::as_log(&level));
        }
        Ok(())
    }

    /// Records an event directly, without `tracing`. Filters do not apply. It belongs to the current span.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// l0.record(l0::TelemetryEvent::new("order.placed").source("checkout").message("order 9"));
    /// assert_eq!(l0.events().event_type("order.placed").count()?, 1);
    /// # Ok::<(), l0::Error>(())
    /// ```
    pub fn record(&self, event: TelemetryEvent) {
        self.inner.capture.direct(&event);
    }

    /// Records several events, in their order.
    pub fn record_batch(&self, events: impl IntoIterator<Item = TelemetryEvent>) {
        events.into_iter().for_each(|event| self.record(event));
    }

    /// Records a line for a reader, as of a `tracing` event: with a level, a category and a message. Filters do not apply.
    /// Its target is `l0.log`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// l0.log(tracing::Level::WARN, "billing", "the invoice of order 9 is late");
    /// assert_eq!(l0.logs().category("billing").fetch()?.items.len(), 1);
    /// # Ok::<(), l0::Error>(())
    /// ```
    pub fn log(&self, level: tracing::Level, category: &str, message: &str) {
        self.inner.capture.log(level, category, message);
    }

    /// Appends an event that must not be lost or evicted, as of money and permissions: it is on the disk, synced, when
    /// this returns. It takes correlation, tenant and actor from the current span unless it names them, and is part of
    /// [`events`](Self::events) and [`trace`](Self::trace). Retention of telemetry does not touch it.
    ///
    /// Blocks for a sync of the disk, about a millisecond; callers at the same time share one. Waits at most ten seconds
    /// for others, and two for another process.
    ///
    /// What was audited is never evicted, so it has a limit of its own, [`Retention::max_audit_bytes`], at which this
    /// refuses. At four fifths of it a warning is recorded, once a run, of type `l0.audit`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// l0.audit(l0::TelemetryEvent::new("refund.granted").actor_id("u-17").message("refunded order 9"))?;
    /// assert_eq!(l0.events().event_type("refund.granted").count()?, 1);
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// `is_storage` if it could not be written, or the limit is reached; `is_timeout` if it had to wait too long: in both
    /// cases it is not there.
    /// `is_closed` after shutdown and in a forked child.
    pub fn audit(&self, mut event: TelemetryEvent) -> Result<()> {
        if self.inner.shared.flight.is_forked() {
            return Err(Error::closed());
        }
        let span = self.inner.capture.complete(&mut event).map(|own| (self.inner.shared.flight.run(), own));
        let limit = self.inner.retention.max_audit_bytes;
        let bytes = self.inner.state.bytes();
        if bytes >= limit {
            return Err(Error::storage(format!(
                "the audit is full: state.db has {bytes} bytes, Retention::max_audit_bytes is {limit}; give it more; or end the program and move state.db away, after which hashed ids have another key"
            )));
        }
        if bytes > limit / 5 * 4 && !self.inner.audit_warned.swap(true, Ordering::Relaxed) {
            let warning = format!(
                "state.db has {bytes} bytes of Retention::max_audit_bytes({limit}), at which audits are refused"
            );
            self.inner.capture.warn("l0.audit", warning);
        }
        state::audit(&self.inner.state, &self.inner.redactor, self.inner.clock.now(), span, event)
    }

    /// Named limits: scopes, decisions over several of them, the report. See [`Limits`].
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Jobs: closures in memory, durable jobs, what became of them. See [`Jobs`].
    pub fn jobs(&self) -> &Jobs {
        &self.inner.jobs
    }

    /// Checks and what they say. See [`Health`].
    pub fn health(&self) -> &Health {
        &self.inner.health
    }

    /// What the program is made of, and how far its parts are. See [`Components`].
    pub fn components(&self) -> &Components {
        &self.inner.components
    }

    /// Removes now what [`Retention`] says is too old, and gives back what the store has too much; a dry run only says what
    /// it would remove. Retention does both by itself; this is for those who want it done, or to see it first.
    ///
    /// Flushes first. Takes at most a minute; recording goes on meanwhile.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// println!("a cleanup would remove {} rows", l0.cleanup(true)?.rows);
    /// println!("{}", l0.cleanup(false)?);
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// `is_storage` if the store cannot be written, `is_timeout` if a minute is too short: what was done is done then, and
    /// another call goes on. `is_closed` after shutdown and in a forked child.
    pub fn cleanup(&self, dry_run: bool) -> Result<Cleanup> {
        self.flush()?;
        let clock = self.inner.trusted.clone();
        let cleanup = store::cleanup_by(&self.inner.dir, clock, &self.inner.retention, dry_run)?;
        if !dry_run {
            self.inner.shared.add_removed(cleanup);
        }
        Ok(cleanup)
    }

    /// Gives every free page of the database back to the file system, in steps that need no more room than the WAL's share
    /// of the cap; recording goes on meanwhile. A store at its cap needs none of it: it uses its free pages again.
    ///
    /// # Errors
    /// As [`cleanup`](Self::cleanup).
    pub fn compact(&self) -> Result<Cleanup> {
        self.flush()?;
        let clock = self.inner.trusted.clone();
        let cleanup = store::compact_by(&self.inner.dir, clock, &self.inner.retention)?;
        self.inner.shared.add_removed(cleanup);
        Ok(cleanup)
    }

    /// Commits everything that was recorded on any thread before the call. Blocks for at most ten seconds; calls at
    /// the same time share one commit.
    ///
    /// # Errors
    /// `is_storage` if the store does not take it (nothing is lost, it is tried again), `is_timeout` if it takes longer,
    /// `is_closed` after shutdown and in a forked child, `is_invalid_input` on l0's own writer thread.
    pub fn flush(&self) -> Result<()> {
        self.inner.limits.tell(false);
        let ticket = self.inner.shared.ask()?;
        self.inner.shared.wait(ticket, FLUSH_WITHIN)
    }

    /// As [`flush`](Self::flush), for any executor; needs no runtime. The flush is asked for at once, not when first
    /// polled.
    ///
    /// # Errors
    /// As `flush`.
    pub fn flush_async(&self) -> impl Future<Output = Result<()>> + Send + 'static + use<> {
        Flush { ticket: self.inner.shared.ask(), shared: Arc::clone(&self.inner.shared) }
    }

    /// How recording goes. Never blocks on the store.
    pub fn stats(&self) -> Stats {
        let flight = &self.inner.shared.flight;
        let shed_by: Vec<_> = flight
            .shed_counts()
            .filter(|(reason, _, count)| *count > 0 && *reason != Reason::Damaged)
            .map(|(reason, severity, count)| (reason.as_str(), severity, count))
            .collect();
        let sum = |is_one: fn(Reason) -> bool| -> u64 {
            flight.shed_counts().filter(|(reason, ..)| is_one(*reason)).map(|(.., count)| count).sum()
        };
        // The others were in a lane.
        let shed_before_lanes = sum(|reason| !matches!(reason, Reason::Rejected | Reason::Damaged));
        let (buffer_used_bytes, buffer_bytes) = flight.fill();
        Stats {
            recorded: flight.recorded_in_lanes() + shed_before_lanes,
            stored: self.inner.shared.stored(),
            shed: shed_by.iter().map(|(_, _, count)| count).sum(),
            damaged: sum(|reason| reason == Reason::Damaged),
            shed_by,
            updates_shed: flight.updates_shed(),
            ignored: flight.ignored(),
            commits: self.inner.shared.commits(),
            buffer_used_bytes,
            buffer_bytes,
            limits: self.inner.limits.stats(),
            store: self.inner.shared.size(),
            durability: self.durability(),
            last_error: self.inner.shared.last_error(),
        }
    }

    /// What the start of this run found of runs that had vanished.
    pub fn recovered(&self) -> Recovery {
        self.inner.recovered
    }

    /// The store's directory, absolute.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    fn durability(&self) -> String {
        let every = self.inner.commit_every;
        if self.inner.shared.flight.path().is_some_and(|path| !path.exists()) {
            return format!(
                "the flight file was removed: a death of the process loses up to {every:?}; restart to have one"
            );
        }
        match self.inner.shared.flight.medium() {
            Medium::Directory => format!("the process may die without loss; a power loss loses up to {every:?}"),
            Medium::SharedMemory => format!(
                "the process may die without loss; a restart of the machine or the end of a container loses up to {every:?}"
            ),
            Medium::Memory => format!("the flight recorder is plain memory: any death loses up to {every:?}"),
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(super) fn capture(&self) -> &Arc<Capture> {
        &self.inner.capture
    }

    pub(super) fn source(&self) -> &Source {
        &self.inner.source
    }

    pub(super) fn state(&self) -> &State {
        &self.inner.state
    }

    pub(super) fn timer(&self) -> &Timer {
        &self.inner.timer
    }

    pub(super) fn gate(&self) -> Gate {
        self.inner.gate.clone()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

const _: fn() = || {
    fn travels<T: Clone + Send + Sync + 'static>() {}
    travels::<Handle>();
};

/// A flush on its way.
struct Flush {
    ticket: Result<u64>,
    shared: Arc<Shared>,
}

impl Future for Flush {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &self.ticket {
            Err(error) => Poll::Ready(Err(error.clone())),
            Ok(ticket) => self.shared.poll(*ticket, cx.waker()).map_or(Poll::Pending, Poll::Ready),
        }
    }
}
