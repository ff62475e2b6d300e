//! The thread `l0-timer`: what is due at a time runs there, and nothing else wakes it.
//!
//! Rooms that have something to do later [`arm`](Timer::arm) their task. The thread is spawned with the first arming and
//! sleeps until the earliest task is due; without one it sleeps until it is told of one. A task that panics
//! is not due again until it is armed.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use crate::clock::deadline;

/// What runs when it is due; says when it is due again.
pub(crate) type Work = Box<dyn Fn() -> Option<Duration> + Send + Sync>;

/// Runs tasks when they are due.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    tasks: Vec<Task>,
    is_stopping: bool,
    has_ended: bool,
}

struct Task {
    due: Option<Instant>,
    work: Arc<Work>,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("due", &self.due).finish_non_exhaustive()
    }
}

impl Timer {
    /// Adds a task that is not due yet; its number arms it.
    pub(crate) fn add(&self, work: Work) -> usize {
        let mut state = self.shared.state.lock();
        state.tasks.push(Task { due: None, work: Arc::new(work) });
        state.tasks.len() - 1
    }

    /// Has the task run this much later, or earlier if it is due earlier already.
    pub(crate) fn arm(&self, task: usize, after: Duration) {
        let due = Instant::now().checked_add(after);
        let mut state = self.shared.state.lock();
        if state.is_stopping {
            return;
        }
        let mut is_news = false;
        if let Some(task) = state.tasks.get_mut(task) {
            let due = earlier(task.due, due);
            is_news = due != task.due;
            task.due = due;
        }
        drop(state);
        if is_news {
            self.shared.changed.notify_all();
        }
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            // Without a thread nothing is due: what tasks do, is done by who asks, and at the end.
            *thread = std::thread::Builder::new().name("l0-timer".to_owned()).spawn(move || run(&shared)).ok();
        }
    }

    /// Ends the thread, after the task it is at; a task that takes longer is left to itself.
    pub(crate) fn stop(&self, within: Duration) {
        let mut state = self.shared.state.lock();
        state.is_stopping = true;
        // Their captures go, too.
        let tasks = std::mem::take(&mut state.tasks);
        drop(state);
        drop(tasks);
        self.shared.changed.notify_all();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let until = deadline(within);
            let mut state = self.shared.state.lock();
            while !state.has_ended && !self.shared.changed.wait_until(&mut state, until).timed_out() {}
            if std::mem::take(&mut state.has_ended) {
                drop(state);
                let _ = thread.join();
            }
        }
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn run(shared: &Shared) {
    let mut state = shared.state.lock();
    while !state.is_stopping {
        let now = Instant::now();
        let next = state.tasks.iter().enumerate().filter_map(|(index, task)| task.due.map(|due| (due, index))).min();
        match next {
            Some((due, index)) if due <= now => {
                state.tasks[index].due = None;
                let work = Arc::clone(&state.tasks[index].work);
                drop(state);
                let again = catch_unwind(AssertUnwindSafe(|| work())).unwrap_or(None);
                drop(work);
                state = shared.state.lock();
                if let (Some(again), Some(task)) = (again, state.tasks.get_mut(index)) {
                    task.due = earlier(task.due, Instant::now().checked_add(again));
                }
            }
            Some((due, _)) => drop(shared.changed.wait_until(&mut state, due)),
            None => shared.changed.wait(&mut state),
        }
    }
    state.has_ended = true;
    shared.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn tasks_run_when_they_are_due_again_when_they_say_so_and_not_after_the_end() {
        let timer = Timer::default();
        let (tell, told) = mpsc::channel();
        let tell_again = tell.clone();
        let slow = timer.add(Box::new(move || {
            tell.send("slow").unwrap();
            None
        }));
        let left = Mutex::new(2);
        let quick = timer.add(Box::new(move || {
            tell_again.send("quick").unwrap();
            *left.lock() -= 1;
            (*left.lock() > 0).then_some(Duration::ZERO)
        }));
        assert!(timer.thread.lock().is_none(), "no thread before it is needed");
        timer.arm(slow, Duration::from_secs(3_600));
        timer.arm(quick, Duration::ZERO);
        timer.arm(slow, Duration::from_millis(20));
        let heard: Vec<_> = (0..3).map(|_| told.recv_timeout(Duration::from_secs(20)).unwrap()).collect();
        assert_eq!(heard, ["quick", "quick", "slow"]);
        let panics = timer.add(Box::new(|| panic!("a task of a test")));
        timer.arm(panics, Duration::ZERO);
        timer.arm(slow, Duration::from_millis(1));
        told.recv_timeout(Duration::from_secs(20)).unwrap();
        timer.stop(Duration::from_secs(20));
        timer.arm(slow, Duration::ZERO);
        assert!(told.recv().is_err(), "the tasks are gone");
    }
}
