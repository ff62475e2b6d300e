//! Every interleaving of who runs, cancels, stops and waits for a job in memory, within bounds.

use std::sync::Arc;

use loom::{sync::atomic::AtomicUsize, sync::atomic::Ordering::SeqCst, thread};

use super::cell::{Cell, Stage};

const RAN: u8 = 1;
const CANCELLED: u8 = 2;
const STOPPED: u8 = 3;

/// A worker begins and finishes, one thread cancels, another stops, a fourth waits: one outcome, which agrees with whether
/// the work was done, and the waiter gets it.
#[test]
fn loom_model_ends_in_one_state() {
    loom::model(|| {
        let (cell, runs) = (Arc::new(Cell::<u8, ()>::new(())), Arc::new(AtomicUsize::new(0)));
        let worker = {
            let (cell, runs) = (Arc::clone(&cell), Arc::clone(&runs));
            thread::spawn(move || {
                if cell.begin().is_some() {
                    runs.fetch_add(1, SeqCst);
                    assert!(cell.finish(RAN), "a run that has begun ends as it ends");
                }
            })
        };
        let canceller = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || cell.call_off(CANCELLED))
        };
        let stopped = cell.call_off(STOPPED);
        let outcome = cell.take_until(None);
        worker.join().unwrap();
        let cancelled = canceller.join().unwrap();
        let expected = match (runs.load(SeqCst), cancelled, stopped) {
            (1, false, false) => RAN,
            (0, true, false) => CANCELLED,
            (0, false, true) => STOPPED,
            other => panic!("{other:?}"),
        };
        assert_eq!(outcome, Some(Ok(expected)));
        assert_eq!(cell.stage(), Stage::Done);
    });
}

/// Two workers come upon the same job: one does it.
#[test]
fn loom_model_begins_once() {
    loom::model(|| {
        let cell = Arc::new(Cell::<u8, ()>::new(()));
        let begin = |cell: &Arc<Cell<u8, ()>>| {
            let cell = Arc::clone(cell);
            thread::spawn(move || cell.begin().is_some_and(|()| cell.finish(RAN)))
        };
        let (one, other) = (begin(&cell), begin(&cell));
        assert_eq!(cell.take_until(None), Some(Ok(RAN)));
        assert!(one.join().unwrap() ^ other.join().unwrap());
    });
}

/// A task that polls is woken if it found nothing.
#[test]
fn loom_model_wakes_a_task() {
    struct Count(AtomicUsize);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    loom::model(|| {
        let cell = Arc::new(Cell::<u8, ()>::new(()));
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let worker = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || cell.begin().is_some_and(|()| cell.finish(RAN)))
        };
        let waker = std::task::Waker::from(Arc::clone(&woken));
        let first = cell.poll_take(&mut std::task::Context::from_waker(&waker));
        assert!(worker.join().unwrap());
        assert!(first.is_ready() ^ (woken.0.load(SeqCst) == 1), "ready at once, or woken later");
    });
}
