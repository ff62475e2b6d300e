//! Locks and atomics that threads meet at: parking_lot's and the standard library's, or loom's where a model is checked.

#[cfg(not(loom))]
pub(crate) use real::{AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, Ordering};

#[cfg(loom)]
pub(crate) use model::{AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, Ordering};

#[cfg(not(loom))]
mod real {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Instant;

    pub(crate) use parking_lot::{Mutex, MutexGuard};

    /// parking_lot's, with guards passed by value.
    #[derive(Debug)]
    pub(crate) struct Condvar(parking_lot::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(parking_lot::Condvar::new())
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        pub(crate) fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(&mut guard);
            guard
        }

        /// Says as well whether the time came first.
        pub(crate) fn wait_until<'a, T>(
            &self,
            mut guard: MutexGuard<'a, T>,
            due: Instant,
        ) -> (MutexGuard<'a, T>, bool) {
            let timed_out = self.0.wait_until(&mut guard, due).timed_out();
            (guard, timed_out)
        }
    }
}

#[cfg(loom)]
mod model {
    use std::time::Instant;

    pub(crate) use loom::sync::{
        MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    };

    const ALIVE: &str = "no thread of a model panics while it holds a lock";

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect(ALIVE)
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }

    #[derive(Debug)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(guard).expect(ALIVE)
        }

        /// Time does not pass in a model: a wait that nobody ends is a deadlock, which loom reports.
        pub(crate) fn wait_until<'a, T>(&self, guard: MutexGuard<'a, T>, _: Instant) -> (MutexGuard<'a, T>, bool) {
            (self.wait(guard), false)
        }
    }
}
