//! How an application thread wakes the writer, and how the writer sleeps.
//!
//! The writer is *asleep* when it has nothing to do at all; then the first record after a drain rings. While it waits
//! out a commit interval it is only *waiting*, and just pressure, a flush or the end ring. So an idle program causes no
//! wake-ups, and a busy one at most one per drain.
//!
//! Why no ring is lost: the writer raises `asleep` before it looks at the lanes a last time, each under its lock; a
//! thread publishes a record under the same lock and looks at `asleep` after it took it. Whoever has the lock second
//! sees what the other did before.

use std::time::Instant;

use crate::sync::{AtomicBool, Condvar, Mutex, Ordering};

/// A bell with one listener.
#[derive(Debug)]
pub(crate) struct Bell {
    asleep: AtomicBool,
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Bell {
    pub(crate) fn new() -> Self {
        Self { asleep: AtomicBool::new(false), rung: Mutex::new(false), wake: Condvar::new() }
    }

    /// Whether the writer must be rung for the first record; asked after taking the lane's lock.
    #[inline]
    pub(super) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// Wakes the writer, now or when it next waits.
    #[cold]
    pub(crate) fn ring(&self) {
        *self.rung.lock() = true;
        self.wake.notify_all();
    }

    /// Waits for a ring, at most until `due`; says whether it rang.
    pub(crate) fn wait_until(&self, due: Instant) -> bool {
        let mut rung = self.rung.lock();
        while !*rung {
            let timed_out;
            (rung, timed_out) = self.wake.wait_until(rung, due);
            if timed_out {
                break;
            }
        }
        std::mem::take(&mut *rung)
    }

    /// Sleeps until rung, unless `is_idle`, which looks at every lane under its lock, says there is work; until then at
    /// most, if it is given.
    pub(crate) fn sleep_while(&self, until: Option<Instant>, is_idle: impl FnOnce() -> bool) {
        self.asleep.store(true, Ordering::Relaxed);
        if is_idle() {
            let mut rung = self.rung.lock();
            while !*rung {
                let mut timed_out = false;
                (rung, timed_out) = match until {
                    Some(until) => self.wake.wait_until(rung, until),
                    None => (self.wake.wait(rung), timed_out),
                };
                if timed_out {
                    break;
                }
            }
            *rung = false;
        }
        self.asleep.store(false, Ordering::Relaxed);
    }
}
