//! What is told of changes: an event at once, and on a thread of its own a row in `state.db` and the application's callbacks.
//!
//! The thread is made with the first change. So many may wait; then the oldest are not called back for, and are counted.

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, RwLock};

use super::{Status, report::Transition};
use crate::{
    capture::Capture,
    clock::{Timestamp, deadline},
    database,
    event::{Severity, TelemetryEvent},
    jobs::panic::catch,
    state::{self, State},
};

const WAITING_MAX: usize = 1_000;
/// How long a question waits for what is on its way.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);

/// A check is reported otherwise than before.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) name: Arc<str>,
    pub(super) at: Timestamp,
    pub(super) from: Option<Status>,
    pub(super) to: Status,
    /// It is kept, and nobody is told: one of l0's own that has begun as it should.
    pub(super) is_quiet: bool,
}

type Callback = Arc<dyn Fn(&Transition) + Send + Sync>;

pub(super) struct Notices {
    state: Arc<State>,
    callbacks: RwLock<Vec<Callback>>,
    line: Mutex<Line>,
    came: Condvar,
    settled: Condvar,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Change>,
    dropped: u64,
    /// It is at some that are not in `waiting` any more.
    is_busy: bool,
    is_closed: bool,
    thread: Option<JoinHandle<()>>,
}

impl Notices {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self {
            state,
            callbacks: RwLock::default(),
            line: Mutex::default(),
            came: Condvar::new(),
            settled: Condvar::new(),
        }
    }

    pub(super) fn add_callback(&self, callback: Callback) {
        self.callbacks.write().push(callback);
    }

    pub(super) fn tell(self: &Arc<Self>, capture: &Capture, change: Change) {
        if !change.is_quiet {
            Self::record(capture, &change);
        }
        let mut line = self.line.lock();
        if line.is_closed {
            return;
        }
        if line.waiting.len() >= WAITING_MAX {
            line.waiting.pop_front();
            line.dropped += 1;
        }
        line.waiting.push_back(change);
        if line.thread.is_none() {
            let notices = Arc::clone(self);
            // Without a thread the events tell.
            line.thread = std::thread::Builder::new().name("l0-health".to_owned()).spawn(move || notices.work()).ok();
        }
        drop(line);
        self.came.notify_all();
    }

    fn record(capture: &Capture, change: &Change) {
        let severity = match change.to {
            Status::Healthy => Severity::Info,
            Status::Degraded(_) => Severity::Warning,
            Status::Unhealthy(_) => Severity::Error,
        };
        let before = change.from.as_ref().map_or("unknown", Status::as_str);
        let event = TelemetryEvent::new("health.changed")
            .source("l0.health")
            .category("health")
            .severity(severity)
            .status(change.to.as_str())
            .message(format!("{} is {}", change.name, change.to))
            .payload(&serde_json::json!({ "check": &*change.name, "from": before, "to": change.to.as_str() }));
        capture.direct(&event);
    }

    fn work(&self) {
        let mut line = self.line.lock();
        loop {
            if line.waiting.is_empty() {
                line.is_busy = false;
                self.settled.notify_all();
                if line.is_closed {
                    return;
                }
                self.came.wait(&mut line);
                continue;
            }
            line.is_busy = true;
            let changes: Vec<_> = line.waiting.drain(..).collect();
            drop(line);
            let rows = changes.iter().map(row).collect();
            // What the store does not take now is in the events.
            let _ = state::save_health(&self.state, rows);
            for change in changes.into_iter().filter(|change| !change.is_quiet) {
                let Change { name, at, from, to, .. } = change;
                let transition = Transition { name: name.to_string(), at, from, to, after: None };
                // Not under the lock: one may add another.
                let callbacks = self.callbacks.read().clone();
                for callback in callbacks {
                    let _ = catch(|| callback(&transition));
                }
            }
            line = self.line.lock();
        }
    }

    /// Waits for what is on its way, not for long.
    pub(super) fn settle(&self) {
        let until = deadline(SETTLE_WITHIN);
        let mut line = self.line.lock();
        while (line.is_busy || !line.waiting.is_empty()) && !self.settled.wait_until(&mut line, until).timed_out() {}
    }

    /// Changes that nobody was called back for.
    pub(super) fn dropped(&self) -> u64 {
        self.line.lock().dropped
    }

    /// Nothing comes any more; of these checks nothing is known from now on.
    pub(super) fn stop(&self, names: Vec<Arc<str>>, at: Timestamp, until: Instant) {
        let mut line = self.line.lock();
        line.is_closed = true;
        self.came.notify_all();
        while (line.is_busy || !line.waiting.is_empty()) && !self.settled.wait_until(&mut line, until).timed_out() {}
        let thread = line.thread.take();
        let is_idle = !line.is_busy && line.waiting.is_empty();
        drop(line);
        self.callbacks.write().clear();
        if is_idle {
            if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
                let _ = thread.join();
            }
            if !names.is_empty() {
                let rows = names.iter().map(|name| (name.to_string(), at.as_unix_ns(), None, None)).collect();
                let left = until.saturating_duration_since(Instant::now());
                let _ = database::waiting_within(left, || state::save_health(&self.state, rows));
            }
        }
    }
}

/// As it is kept.
fn row(change: &Change) -> state::HealthRow {
    let json = |status: &Status| serde_json::json!(status).to_string();
    (change.name.to_string(), change.at.as_unix_ns(), change.from.as_ref().map(json), Some(json(&change.to)))
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").finish_non_exhaustive()
    }
}
