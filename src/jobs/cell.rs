//! What a job came to, for who waits: a place that is filled once, taken once, and wakes threads and tasks.
//!
//! The job in memory goes through it from end to end, so its races are those of this file; `loom_model` checks them.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Poll, Waker},
    time::Instant,
};

use super::panic::discard;
use crate::sync::{Condvar, Mutex};

/// A place for one outcome. `W` is what is to be done while nobody has begun it; `()` where others do it.
#[derive(Debug)]
pub(super) struct Cell<T, W = ()> {
    inner: Mutex<Inner<T, W>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner<T, W> {
    phase: Phase<T, W>,
    /// Of the task that polled last.
    waker: Option<Waker>,
}

#[derive(Debug)]
enum Phase<T, W> {
    Pending(W),
    Running,
    Done(T),
    /// Its outcome was taken.
    Over,
}

/// Where a job in memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Pending,
    Running,
    Done,
}

impl<T, W> Cell<T, W> {
    pub(super) fn new(work: W) -> Self {
        Self { inner: Mutex::new(Inner { phase: Phase::Pending(work), waker: None }), changed: Condvar::new() }
    }

    /// Takes the work, if nobody has begun or ended it.
    pub(super) fn begin(&self) -> Option<W> {
        let mut inner = self.inner.lock();
        match mem::replace(&mut inner.phase, Phase::Running) {
            Phase::Pending(work) => Some(work),
            other => {
                inner.phase = other;
                None
            }
        }
    }

    /// Fills it with the outcome of a run. Says whether it was the first.
    pub(super) fn finish(&self, outcome: T) -> bool {
        self.end(outcome, |_| true)
    }

    /// Fills it with an outcome unless a run has begun. Says whether it did.
    pub(super) fn call_off(&self, outcome: T) -> bool {
        self.end(outcome, |phase| matches!(phase, Phase::Pending(_)))
    }

    fn end(&self, outcome: T, may: impl FnOnce(&Phase<T, W>) -> bool) -> bool {
        let mut inner = self.inner.lock();
        if matches!(inner.phase, Phase::Done(_) | Phase::Over) || !may(&inner.phase) {
            return false;
        }
        let before = mem::replace(&mut inner.phase, Phase::Done(outcome));
        let waker = inner.waker.take();
        drop(inner);
        self.changed.notify_all();
        // Wakers, and work that is not to be done, are the application's: they go outside the lock, and may panic.
        let _ = catch_unwind(AssertUnwindSafe(|| waker.map(Waker::wake)));
        discard(before);
        true
    }

    pub(super) fn stage(&self) -> Stage {
        match self.inner.lock().phase {
            Phase::Pending(_) => Stage::Pending,
            Phase::Running => Stage::Running,
            Phase::Done(_) | Phase::Over => Stage::Done,
        }
    }

    /// Waits for the outcome, until then at the latest, and takes it. `Err` if it was taken before.
    pub(super) fn take_until(&self, until: Option<Instant>) -> Option<Result<T, Taken>> {
        let mut inner = self.inner.lock();
        loop {
            match mem::replace(&mut inner.phase, Phase::Over) {
                Phase::Done(outcome) => return Some(Ok(outcome)),
                Phase::Over => return Some(Err(Taken)),
                other => inner.phase = other,
            }
            inner = match until {
                None => self.changed.wait(inner),
                Some(until) => match self.changed.wait_until(inner, until) {
                    (inner, true) if !matches!(inner.phase, Phase::Done(_)) => return None,
                    (inner, _) => inner,
                },
            };
        }
    }

    /// As a future does.
    pub(super) fn poll_take(&self, context: &mut Context<'_>) -> Poll<Result<T, Taken>> {
        let mut inner = self.inner.lock();
        match mem::replace(&mut inner.phase, Phase::Over) {
            Phase::Done(outcome) => Poll::Ready(Ok(outcome)),
            Phase::Over => Poll::Ready(Err(Taken)),
            other => {
                inner.phase = other;
                match &mut inner.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => inner.waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

/// The outcome was taken before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_outcome_is_filled_once_and_taken_once() {
        let cell = Cell::<u8, &str>::new("work");
        assert_eq!(cell.stage(), Stage::Pending);
        assert_eq!(cell.take_until(Some(Instant::now())), None);
        assert_eq!((cell.begin(), cell.begin()), (Some("work"), None));
        assert_eq!(cell.stage(), Stage::Running);
        assert!(!cell.call_off(1), "it runs");
        assert!(cell.finish(2) && !cell.finish(3) && !cell.call_off(4));
        assert_eq!(cell.take_until(None), Some(Ok(2)));
        assert_eq!(cell.take_until(Some(Instant::now() + Duration::from_secs(9))), Some(Err(Taken)));
        assert_eq!(cell.stage(), Stage::Done);
    }

    #[test]
    fn what_was_called_off_is_never_begun() {
        let cell = Cell::<u8, &str>::new("work");
        assert!(cell.call_off(1));
        assert_eq!((cell.begin(), cell.take_until(None)), (None, Some(Ok(1))));
    }
}
