//! What the writer's thread shares with everyone else: tickets for flushes, the end, and what is stored.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{Cleanup, TELEMETRY, damage::SetAside};
use crate::{
    clock::{Timestamp, deadline},
    database::{FileId, identity, missing_pages},
    error::{Error, Result},
    flight::FlightRecorder,
};

/// How large a store is, and what was done to keep it so; as of the last commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct StoreSize {
    /// The cap: [`Retention::max_bytes`](crate::Retention::max_bytes), as the last start on this directory said.
    pub max_bytes: u64,
    /// Bytes of `telemetry.db`.
    pub database_bytes: u64,
    /// Of these, bytes of free pages: new rows go there first.
    pub free_bytes: u64,
    /// Bytes of its write-ahead log.
    pub wal_bytes: u64,
    /// Bytes of the file by which processes share the WAL.
    pub shm_bytes: u64,
    /// Bytes of all flight files in the directory.
    pub flight_bytes: u64,
    /// Bytes of `state.db` and its WAL, which do not count against the cap.
    pub state_bytes: u64,
    /// What this process has removed, by itself and by hand.
    pub removed: Cleanup,
    /// When its writer last removed something, and why: `cap`, `age` or `shrink`.
    pub last_maintenance: Option<(Timestamp, &'static str)>,
}

impl StoreSize {
    /// What counts against `max_bytes`.
    pub fn bytes(&self) -> u64 {
        self.database_bytes + self.wal_bytes + self.shm_bytes + self.flight_bytes
    }
}

/// What the writer and everyone else both see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) flight: Arc<FlightRecorder>,
    /// Records whose rows are committed.
    pub(super) stored: AtomicU64,
    pub(super) commits: AtomicU64,
    /// When the last commit, or the start, was.
    pub(super) committed_at: AtomicU64,
    /// Whether this thread may not wait for itself.
    pub(super) writer_thread: Mutex<Option<std::thread::ThreadId>>,
    pub(super) stop: AtomicBool,
    /// The owner was dropped: the next flush marks the run as ended, should nothing follow.
    pub(super) pause: AtomicBool,
    pub(super) probe: AtomicBool,
    /// Until when the end may be tried.
    stop_until: Mutex<Option<Instant>>,
    /// The owner was dropped by a panic.
    pub(super) panicking: AtomicBool,
    size: Mutex<StoreSize>,
    by_hand: Mutex<Cleanup>,
    requests: Mutex<Requests>,
    served: Condvar,
    pub(super) last_error: Mutex<Option<Error>>,
    /// A reader met damage: the writer looks at the file.
    pub(super) is_suspect: AtomicBool,
    observer: Hook<dyn Fn(&StoreChange) + Send + Sync>,
    readers: Hook<dyn Fn() + Send + Sync>,
    /// The files that the writer uses, and that should be at the store's paths.
    files: Mutex<Option<[Option<FileId>; 3]>>,
}

/// A function that is called by the writer's thread, once it is set.
struct Hook<F: ?Sized>(OnceLock<Box<F>>);

impl<F: ?Sized> std::fmt::Debug for Hook<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hook").field("is_set", &self.0.get().is_some()).finish()
    }
}

/// What the writer has to report.
#[derive(Debug)]
pub(crate) enum StoreChange {
    /// The store does not take records, or takes them again.
    Health,
    SetAside(SetAside),
}

/// Who waits for a flush.
#[derive(Debug, Default)]
struct Requests {
    asked: u64,
    served: u64,
    /// The tickets of the latest failed flush, first and last, and why.
    failed: Option<(u64, u64, Error)>,
    wakers: Vec<Waker>,
    ended: bool,
    /// How the end went.
    end: Option<Error>,
}

impl Shared {
    pub(crate) fn new(flight: Arc<FlightRecorder>) -> Self {
        Self {
            flight,
            stored: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            committed_at: AtomicU64::new(0),
            writer_thread: Mutex::new(None),
            stop: AtomicBool::new(false),
            pause: AtomicBool::new(false),
            probe: AtomicBool::new(false),
            stop_until: Mutex::new(None),
            panicking: AtomicBool::new(false),
            size: Mutex::new(StoreSize::default()),
            by_hand: Mutex::new(Cleanup::default()),
            requests: Mutex::new(Requests::default()),
            served: Condvar::new(),
            last_error: Mutex::new(None),
            is_suspect: AtomicBool::new(false),
            observer: Hook(OnceLock::new()),
            readers: Hook(OnceLock::new()),
            files: Mutex::default(),
        }
    }

    /// Who is called when the store stops or begins to take records, and when a database is set aside.
    pub(crate) fn set_observer(&self, observer: impl Fn(&StoreChange) + Send + Sync + 'static) {
        let _ = self.observer.0.set(Box::new(observer));
    }

    pub(super) fn notify(&self, change: &StoreChange) {
        if let Some(observer) = self.observer.0.get() {
            let _ = catch_unwind(AssertUnwindSafe(|| observer(change)));
        }
    }

    /// How this process's idle read connections are closed. They keep files open, and SQLite shares the memory of a
    /// write-ahead log among all connections of a process.
    pub(crate) fn set_readers(&self, close: impl Fn() + Send + Sync + 'static) {
        let _ = self.readers.0.set(Box::new(close));
    }

    pub(super) fn close_readers(&self) {
        if let Some(close) = self.readers.0.get() {
            close();
        }
    }

    /// The files that the writer uses from now on; none while it has no connection.
    pub(super) fn set_files(&self, files: Option<[Option<FileId>; 3]>) {
        *self.files.lock() = files;
    }

    /// Whether a look at the directory finds the files that the writer uses. Cheap enough for once a second.
    pub(crate) fn is_in_place(&self, dir: &Path) -> bool {
        *self.files.lock() == Some(identity(&TELEMETRY, dir)) && missing_pages(&dir.join(TELEMETRY.file)) == 0
    }

    /// A reader of this process met damage: has the writer look at the file.
    pub(crate) fn suspect(&self) {
        if !self.is_suspect.swap(true, Ordering::AcqRel) {
            self.flight.bell().ring();
        }
    }

    pub(crate) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    pub(crate) fn size(&self) -> StoreSize {
        // In a forked child the lock may be held by a thread that is not there.
        if self.flight.is_forked() {
            return StoreSize::default();
        }
        let mut size = *self.size.lock();
        size.removed = size.removed.plus(*self.by_hand.lock());
        size
    }

    /// What was removed beside the writer.
    pub(crate) fn add_removed(&self, cleanup: Cleanup) {
        let mut by_hand = self.by_hand.lock();
        *by_hand = by_hand.plus(cleanup);
    }

    pub(super) fn set_size(&self, size: StoreSize) {
        *self.size.lock() = size;
    }

    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    pub(crate) fn committed_at_unix_ns(&self) -> i64 {
        self.committed_at.load(Ordering::Relaxed).cast_signed()
    }

    pub(crate) fn last_error(&self) -> Option<Error> {
        if self.flight.is_forked() {
            return Some(Error::closed());
        }
        self.last_error.lock().clone()
    }

    /// Asks for a flush of all that is recorded by now; several callers share one commit.
    pub(crate) fn ask(&self) -> Result<u64> {
        if self.flight.is_forked() {
            return Err(Error::closed());
        }
        if *self.writer_thread.lock() == Some(std::thread::current().id()) {
            return Err(Error::invalid_input(
                "flush was called on l0's own writer thread, which cannot wait for itself",
            ));
        }
        let ticket = {
            let mut requests = self.requests.lock();
            if requests.ended {
                return Err(Error::closed());
            }
            requests.asked += 1;
            requests.asked
        };
        self.flight.bell().ring();
        Ok(ticket)
    }

    /// Waits until the flush with this ticket is done.
    pub(crate) fn wait(&self, ticket: u64, bound: Duration) -> Result<()> {
        let deadline = deadline(bound);
        let mut requests = self.requests.lock();
        loop {
            if let Some(outcome) = requests.outcome_of(ticket) {
                return outcome;
            }
            if self.served.wait_until(&mut requests, deadline).timed_out() {
                return requests.outcome_of(ticket).unwrap_or_else(|| {
                    Err(Error::timeout(format!(
                        "the store did not commit within {bound:?}; nothing is lost, it goes on trying"
                    )))
                });
            }
        }
    }

    /// Whether the run is over and everything stored.
    pub(crate) fn has_ended(&self) -> bool {
        self.requests.lock().ended
    }

    /// Waits until a flush is served, at most this long.
    pub(crate) fn wait_for_commit(&self, at_most: Duration) {
        let mut requests = self.requests.lock();
        if !requests.ended {
            self.served.wait_for(&mut requests, at_most);
        }
    }

    /// As `wait`, for a future.
    pub(crate) fn poll(&self, ticket: u64, waker: &Waker) -> Option<Result<()>> {
        if self.flight.is_forked() {
            return Some(Err(Error::closed()));
        }
        let mut requests = self.requests.lock();
        let outcome = requests.outcome_of(ticket);
        if outcome.is_none() && !requests.wakers.iter().any(|known| known.will_wake(waker)) {
            requests.wakers.push(waker.clone());
        }
        outcome
    }

    /// The owner is gone, recording goes on: asks for a flush after which the run counts as ended, until more comes.
    pub(crate) fn pause(&self) -> Result<u64> {
        self.pause.store(true, Ordering::Release);
        self.ask()
    }

    /// Asks for a flush that writes, whether there is something to store or not.
    pub(crate) fn probe(&self) -> Result<u64> {
        self.probe.store(true, Ordering::Release);
        self.ask()
    }

    /// The run ends because of a panic.
    pub(crate) fn note_panicking(&self) {
        self.panicking.store(true, Ordering::Release);
    }

    /// Ends the run: what is in the lanes is stored, then the thread ends. Waits for that.
    pub(crate) fn stop(&self, bound: Duration) -> Result<()> {
        let deadline = deadline(bound);
        *self.stop_until.lock() = Some(deadline);
        self.stop.store(true, Ordering::Release);
        self.flight.bell().ring();
        let mut requests = self.requests.lock();
        while !requests.ended {
            if self.served.wait_until(&mut requests, deadline).timed_out() && !requests.ended {
                return Err(Error::timeout(format!(
                    "the store did not take the last records within {bound:?}; they are in the flight file and will be recovered"
                )));
            }
        }
        requests.end.clone().map_or(Ok(()), Err)
    }

    /// The writer's thread is gone, by a bug: whoever waits is told.
    pub(super) fn abandon(&self) {
        let error = Error::storage("l0's writer thread ended by a panic; what is recorded stays in the flight file");
        *self.last_error.lock() = Some(error.clone());
        let asked = self.requests.lock().asked;
        self.serve(asked, Some(error), true);
    }

    /// Whether whoever waits for the end still does.
    pub(super) fn may_try_again(&self) -> bool {
        self.stop_until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// The latest ticket, and whether it is still to be served.
    pub(super) fn asked(&self) -> (u64, bool) {
        let requests = self.requests.lock();
        (requests.asked, requests.asked > requests.served)
    }

    pub(super) fn serve(&self, ticket: u64, outcome: Option<Error>, ended: bool) {
        let wakers = {
            let mut requests = self.requests.lock();
            if ended {
                requests.end.clone_from(&outcome);
            }
            if let Some(error) = outcome {
                requests.failed = Some((requests.served + 1, ticket, error));
            }
            requests.served = ticket;
            requests.ended |= ended;
            std::mem::take(&mut requests.wakers)
        };
        self.served.notify_all();
        for waker in wakers {
            // An executor's code: a panic of its own must not end the writer.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }
}

impl Requests {
    fn outcome_of(&self, ticket: u64) -> Option<Result<()>> {
        if self.served >= ticket {
            return Some(match &self.failed {
                Some((first, last, error)) if (first..=last).contains(&&ticket) => Err(error.clone()),
                _ => Ok(()),
            });
        }
        self.ended.then(|| Err(Error::closed()))
    }
}
