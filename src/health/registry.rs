//! All checks of one `L0`: who is registered, and how they are as a whole. What is due is run in `running`; readers look at
//! snapshots and wait for nobody.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{JoinHandle, ThreadId},
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex};

use super::{
    check::{Check, Kind},
    notices::{Change, Notices},
    report::CheckReport,
    standing::level,
};
use crate::{
    capture::Capture,
    clock::{Clock, Timestamp},
    error::{Error, Result},
    jobs::panic::discard,
    redaction::Redactor,
    timer::Timer,
};

const CHECKS_MAX: usize = 10_000;

pub(super) struct Registry {
    pub(super) clock: Clock,
    pub(super) capture: Arc<Capture>,
    pub(super) redactor: Arc<Redactor>,
    timer: Arc<Timer>,
    task: OnceLock<usize>,
    /// By name.
    pub(super) list: ArcSwap<Vec<Arc<Check>>>,
    /// Of who changes the list.
    pub(super) listing: Mutex<()>,
    /// Rises with everything that changes what a reader sees.
    changes: AtomicU64,
    pub(super) summary: ArcSwap<Summary>,
    pub(super) pool: Mutex<Pool>,
    pub(super) spawned: AtomicU64,
    /// Calls of `check_now`.
    pub(super) wishes: AtomicU64,
    /// A check is due, or has ended.
    pub(super) called: Condvar,
    pub(super) ended: Condvar,
    pub(super) notices: Arc<Notices>,
    /// The end has begun; nothing is sent here any more.
    pub(super) is_ending: AtomicBool,
    pub(super) is_stopped: AtomicBool,
}

#[derive(Default)]
pub(super) struct Pool {
    pub(super) queue: VecDeque<Arc<Check>>,
    pub(super) idle: usize,
    pub(super) threads: Vec<JoinHandle<()>>,
    /// What runs, unregistered or not, on which thread.
    pub(super) running: Vec<(ThreadId, Arc<Check>)>,
    /// Threads that have nothing to do any more but to end.
    pub(super) left: Vec<ThreadId>,
}

/// What is asked most often, and until when it holds if nothing changes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Summary {
    changes: u64,
    until_ns: u64,
    pub(super) is_live: bool,
    pub(super) is_ready: bool,
}

impl Registry {
    pub(super) fn new(
        clock: Clock,
        (capture, redactor): (Arc<Capture>, Arc<Redactor>),
        timer: Arc<Timer>,
        notices: Notices,
    ) -> Arc<Self> {
        let registry = Arc::new(Self {
            clock,
            capture,
            redactor,
            timer,
            task: OnceLock::new(),
            list: ArcSwap::default(),
            listing: Mutex::default(),
            // The summary is of no state yet.
            changes: AtomicU64::new(1),
            summary: ArcSwap::default(),
            pool: Mutex::default(),
            spawned: AtomicU64::new(0),
            wishes: AtomicU64::new(0),
            called: Condvar::new(),
            ended: Condvar::new(),
            notices: Arc::new(notices),
            is_ending: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
        });
        let weak: Weak<Self> = Arc::downgrade(&registry);
        let of = Weak::clone(&weak);
        registry.notices.set_picture(Box::new(move || of.upgrade().map(|registry| registry.picture())));
        let _ = registry.task.set(registry.timer.add(Box::new(move || weak.upgrade()?.round())));
        registry
    }

    pub(super) fn arm(&self, within: Duration) {
        // By a clock that is moved by hand nothing is due by itself.
        if let Some(task) = self.task.get().filter(|_| !self.clock.is_manual()) {
            self.timer.arm(*task, within);
        }
    }

    pub(super) fn open(&self) -> Result<()> {
        if self.is_stopped.load(Ordering::Acquire) || !self.capture.is_open() { Err(Error::closed()) } else { Ok(()) }
    }

    pub(super) fn checks(&self) -> arc_swap::Guard<Arc<Vec<Arc<Check>>>> {
        self.list.load()
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<Check>> {
        let list = self.list.load();
        list.binary_search_by(|check| (*check.name).cmp(name)).ok().map(|index| Arc::clone(&list[index]))
    }

    pub(super) fn add(&self, check: Arc<Check>) -> Result<()> {
        let _listing = self.listing.lock();
        self.open()?;
        let mut list = Vec::clone(&self.list.load());
        match list.binary_search_by(|known| known.name.cmp(&check.name)) {
            Ok(_) => {
                return Err(Error::invalid_input(format!(
                    "there is a check {:?} already: unregister it first, or give this one another name",
                    check.name
                )));
            }
            Err(_) if list.len() >= CHECKS_MAX => {
                return Err(Error::invalid_input(format!("there are {CHECKS_MAX} checks already: unregister some")));
            }
            Err(index) => list.insert(index, check),
        }
        self.list.store(Arc::new(list));
        self.changed();
        self.notices.say();
        self.arm(Duration::ZERO);
        Ok(())
    }

    /// The number of calls of `check_now`. A check with a cheap probe runs its full one after each of them.
    pub(super) fn wishes(&self) -> u64 {
        self.wishes.load(Ordering::Acquire)
    }

    /// Makes l0's own checks due now.
    pub(super) fn run_own_checks(&self) {
        let list = self.list.load();
        let own = list.iter().filter(|check| check.terms.is_own);
        own.for_each(|check| {
            check.due_ns.store(0, Ordering::Release);
            check.look_ns.store(0, Ordering::Release);
        });
        if list.iter().any(|check| check.terms.is_own) {
            self.arm(Duration::ZERO);
        }
    }

    /// How all checks stand, for other processes.
    fn picture(&self) -> (Timestamp, String) {
        // Not later than what is seen.
        let (at, now_ns) = (self.clock.now_by_hand(), self.clock.elapsed_ns());
        let checks: Vec<_> = self.checks().iter().map(|check| CheckReport::of(check, now_ns)).collect();
        (at, serde_json::json!(checks).to_string())
    }

    /// Says whether it was registered.
    pub(super) fn remove(self: &Arc<Self>, check: &Arc<Check>) -> bool {
        let listing = self.listing.lock();
        let mut list = Vec::clone(&self.list.load());
        let Some(index) = list.iter().position(|known| Arc::ptr_eq(known, check)) else { return false };
        let removed = list.remove(index);
        self.list.store(Arc::new(list));
        // Nothing is told of it from here on, but that it has ended.
        let standing = check.standing.lock();
        check.is_gone.store(true, Ordering::Release);
        if let Some(from) = standing.reported.clone() {
            let at = self.clock.now_by_hand();
            self.notices.tell(Change { check, at, from: Some(from), to: None, is_quiet: true });
        }
        drop(standing);
        drop(listing);
        self.changed();
        self.notices.say();
        let mut pool = self.pool.lock();
        pool.queue.retain(|waiting| !Arc::ptr_eq(waiting, check));
        drop(pool);
        self.ended.notify_all();
        discard(removed);
        true
    }

    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Liveness and readiness: a look at a snapshot, unless something has changed since it was taken.
    pub(super) fn summary(&self) -> Summary {
        let now_ns = self.clock.elapsed_ns();
        let known = **self.summary.load();
        if known.changes == self.changes.load(Ordering::Acquire) && now_ns < known.until_ns {
            return known;
        }
        // What changes while this looks makes it void.
        let mut summary = Summary {
            changes: self.changes.load(Ordering::Acquire),
            until_ns: u64::MAX,
            is_live: true,
            is_ready: !self.is_ending(),
        };
        for check in self.list.load().iter().filter(|check| !check.terms.is_own) {
            let running = check.running_since();
            let standing = check.seen.load();
            let status = standing.seen(running, &check.terms, now_ns);
            let is_failing = level(&status) == 2 && !check.terms.is_optional;
            match check.terms.kind {
                Kind::Liveness => summary.is_live &= !is_failing,
                Kind::Readiness | Kind::Startup => summary.is_ready &= !is_failing,
                Kind::Scheduled => {}
            }
            let until_ns = standing.seen_until(running, &check.terms, now_ns).saturating_add(1);
            summary.until_ns = summary.until_ns.min(until_ns);
        }
        self.summary.store(Arc::new(summary));
        summary
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("checks", &self.list.load().len()).finish_non_exhaustive()
    }
}
