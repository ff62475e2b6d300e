//! The identical harness for every peer: the same macros, the same batches, no loss.

use std::{
    fs::File,
    io::{self, Write},
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::{Dispatch, dispatcher::with_default, info, info_span};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{Layer, prelude::*, registry::LookupSpan};

/// Records between two pauses in which the peer's background thread catches up, untimed: no peer's buffer fills. Small
/// enough for l0's writer to rest meanwhile, as it does in a program that records less than some 2,000 a second.
pub const BATCH: u64 = 2_000;

/// One way of recording.
pub trait Peer {
    fn dispatch(&self) -> Dispatch;
    /// Hears how many events come before the next pause.
    fn expect(&mut self, _events: u64) {}
    /// Waits until everything recorded has been written; panics if anything was lost.
    fn catch_up(&mut self);
}

/// l0 with everything on: its filter, correlation, crash safety.
pub struct L0 {
    pub l0: l0::L0,
    dispatch: Dispatch,
    _dir: tempfile::TempDir,
}

impl L0 {
    pub fn new(overload: l0::Overload) -> Self {
        Self::with(overload, l0::Redaction::default())
    }

    pub fn with(overload: l0::Overload, redaction: l0::Redaction) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let builder = l0::builder().dir(dir.path()).filter("info").overload(overload).redaction(redaction);
        let l0 = builder.start().unwrap();
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(l0.layer()));
        Self { l0, dispatch, _dir: dir }
    }
}

impl Peer for L0 {
    fn dispatch(&self) -> Dispatch {
        self.dispatch.clone()
    }

    fn catch_up(&mut self) {
        self.l0.flush().unwrap();
        let stats = self.l0.stats();
        assert_eq!((stats.shed, stats.updates_shed), (0, 0), "a peer that loses records is not compared");
    }
}

/// A layer that does nothing: what `tracing` and the registry cost by themselves.
pub struct Noop(Dispatch);

struct NoopLayer;

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for NoopLayer {}

impl Noop {
    pub fn new() -> Self {
        Self(Dispatch::new(tracing_subscriber::registry().with(NoopLayer)))
    }
}

impl Peer for Noop {
    fn dispatch(&self) -> Dispatch {
        self.0.clone()
    }

    fn catch_up(&mut self) {}
}

/// `fmt().json()` into a file through `tracing_appender::non_blocking`.
pub struct Json {
    dispatch: Dispatch,
    written: Arc<AtomicU64>,
    dropped: ErrorCounter,
    expected: u64,
    guard: Option<WorkerGuard>,
    _dir: tempfile::TempDir,
}

struct CountingFile(io::BufWriter<File>, Arc<AtomicU64>);

impl Write for CountingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(line)?;
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Json {
    pub fn new(lossy: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let written = Arc::new(AtomicU64::new(0));
        let file = File::create(dir.path().join("log.jsonl")).unwrap();
        let file = CountingFile(io::BufWriter::new(file), Arc::clone(&written));
        let (writer, guard) = NonBlockingBuilder::default().lossy(lossy).finish(file);
        let dropped = writer.error_counter();
        let layer = tracing_subscriber::fmt::layer().json().with_writer(writer);
        let filter = tracing_subscriber::EnvFilter::new("info");
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer.with_filter(filter)));
        Self { dispatch, written, dropped, expected: 0, guard: Some(guard), _dir: dir }
    }

    /// Lines that have reached the file's buffer; the guard's drop waits for the rest.
    pub fn finish(mut self) -> u64 {
        drop(self.guard.take());
        self.written.load(Ordering::Relaxed)
    }
}

impl Peer for Json {
    fn dispatch(&self) -> Dispatch {
        self.dispatch.clone()
    }

    fn expect(&mut self, events: u64) {
        self.expected += events;
    }

    fn catch_up(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.written.load(Ordering::Relaxed) < self.expected {
            assert_eq!(self.dropped.dropped_lines(), 0, "a peer that loses records is not compared");
            assert!(Instant::now() < deadline, "the appender stands still");
            thread::yield_now();
        }
    }
}

/// The event that is measured: a message and three fields.
#[inline(never)]
pub fn event(order: u64) {
    info!(order, customer = "ada", paid = true, "order placed");
}

/// The same, in the span that is entered around it once per batch.
#[inline(never)]
pub fn event_in_span(order: u64) {
    thread_local!(static SPAN: std::cell::RefCell<Option<tracing::span::EnteredSpan>> = const { std::cell::RefCell::new(None) });
    if order == 0 {
        SPAN.with(|span| *span.borrow_mut() = Some(info_span!("request", id = 7).entered()));
    }
    event(order);
    if order == BATCH - 1 {
        SPAN.with(|span| drop(span.borrow_mut().take()));
    }
}

/// The span that is measured: two fields; new, enter, exit, close.
#[inline(never)]
pub fn span(order: u64) {
    let _span = info_span!("order", order, customer = "ada").entered();
}

/// A span that has an id of its own, as a request has.
#[inline(never)]
pub fn named_span(order: u64) {
    const IDS: [&str; 4] = ["order-0", "order-1", "order-2", "order-3"];
    let _span = info_span!("order", order, correlation_id = IDS[(order % 4) as usize]).entered();
}

/// What is measured, and how many events one round of it makes.
#[derive(Clone, Copy)]
pub struct Work {
    pub run: fn(u64),
    pub events: u64,
}

pub const EVENT: Work = Work { run: event, events: 1 };
pub const EVENT_IN_SPAN: Work = Work { run: event_in_span, events: 1 };
pub const SPAN: Work = Work { run: span, events: 0 };
pub const NAMED_SPAN: Work = Work { run: named_span, events: 0 };

/// Times `iterations` in whole batches with pauses between them, on each of `threads` threads that start before the
/// clock. The slower thread counts; its time is per iteration of its own.
pub fn timed(peer: &mut dyn Peer, threads: usize, iterations: u64, work: Work) -> Duration {
    let batches = iterations.div_ceil(BATCH);
    let gate = Barrier::new(threads + 1);
    let slowest = AtomicU64::new(0);
    let dispatch = peer.dispatch();
    let mut total_ns = 0;
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                with_default(&dispatch, || {
                    for _ in 0..batches {
                        gate.wait();
                        let start = Instant::now();
                        (0..BATCH).for_each(work.run);
                        slowest.fetch_max(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
                        gate.wait();
                        gate.wait();
                    }
                });
            });
        }
        for _ in 0..batches {
            peer.expect(BATCH * work.events * threads as u64);
            gate.wait();
            gate.wait();
            total_ns += slowest.swap(0, Ordering::Relaxed);
            peer.catch_up();
            gate.wait();
        }
    });
    Duration::from_nanos(total_ns).mul_f64(iterations as f64 / (batches * BATCH) as f64)
}
