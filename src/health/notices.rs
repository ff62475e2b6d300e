//! What is told of changes: an event at once, a row in `state.db` by a thread of its own, and the application's callbacks by
//! another, so that a slow callback costs no history.
//!
//! The threads are made when they are needed. Rows that the store does not take are kept and tried again; of changes so many may
//! wait for callbacks, then the oldest are not called back for, and are counted.

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{Status, report::Transition};
use crate::{
    capture::Capture,
    clock::{Timestamp, deadline},
    database,
    event::{Severity, TelemetryEvent},
    jobs::panic::{catch, discard},
    state::{self, HealthRow, State},
};

const CALLS_MAX: usize = 1_000;
/// Rows that wait for a store that does not take them.
const ROWS_MAX: usize = 10_000;
/// After a store refused rows.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a question waits for what is on its way.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);

/// A check is reported otherwise than before; to nothing if it is not registered any more.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) name: Arc<str>,
    pub(super) at: Timestamp,
    pub(super) from: Option<Status>,
    pub(super) to: Option<Status>,
    pub(super) is_optional: bool,
    /// It is kept, and nobody is told: one of l0's own that has begun as it should, or an end.
    pub(super) is_quiet: bool,
}

type Callback = Arc<dyn Fn(&Transition) + Send + Sync>;

pub(super) struct Notices {
    state: Arc<State>,
    /// Of this process's run, by which its rows are told from others'.
    run: String,
    line: Mutex<Line>,
    came: Condvar,
    settled: Condvar,
}

#[derive(Default)]
struct Line {
    rows: VecDeque<HealthRow>,
    calls: VecDeque<Transition>,
    callbacks: Vec<Callback>,
    dropped: u64,
    /// Some rows are being saved, or a callback is called.
    is_saving: bool,
    is_calling: bool,
    is_refused: bool,
    is_closed: bool,
    saver: Option<JoinHandle<()>>,
    caller: Option<JoinHandle<()>>,
}

impl Notices {
    pub(super) fn new(state: Arc<State>, run: String) -> Self {
        Self { state, run, line: Mutex::default(), came: Condvar::new(), settled: Condvar::new() }
    }

    pub(super) fn add_callback(&self, callback: Callback) {
        let mut line = self.line.lock();
        if line.is_closed {
            drop(line);
            return discard(callback);
        }
        line.callbacks.push(callback);
    }

    pub(super) fn tell(self: &Arc<Self>, capture: &Capture, change: Change) {
        if let Some(to) = change.to.as_ref().filter(|_| !change.is_quiet) {
            record(capture, &change, to);
        }
        let mut line = self.line.lock();
        if line.is_closed {
            return;
        }
        if line.rows.len() >= ROWS_MAX {
            line.rows.pop_front();
        }
        line.rows.push_back(self.row(&change));
        if line.saver.is_none() {
            let notices = Arc::clone(self);
            // Without a thread the events tell.
            line.saver = thread("l0-health", move || notices.save());
        }
        if !change.is_quiet
            && !line.callbacks.is_empty()
            && let Some(to) = change.to
        {
            if line.calls.len() >= CALLS_MAX {
                line.calls.pop_front();
                line.dropped += 1;
            }
            let Change { name, at, from, is_optional, .. } = change;
            line.calls.push_back(Transition { name: name.to_string(), at, from, to, after: None, is_optional });
            if line.caller.is_none() {
                let notices = Arc::clone(self);
                line.caller = thread("l0-health-calls", move || notices.call());
            }
        }
        drop(line);
        self.came.notify_all();
    }

    /// As it is kept.
    fn row(&self, Change { name, at, from, to, is_optional, .. }: &Change) -> HealthRow {
        HealthRow {
            name: name.to_string(),
            run: self.run.clone(),
            at: at.as_unix_ns(),
            before: from.as_ref().map(|from| from.as_str().to_owned()),
            after: to.as_ref().map(|to| serde_json::json!(to).to_string()),
            is_optional: *is_optional,
        }
    }

    fn save(&self) {
        let mut line = self.line.lock();
        loop {
            if line.rows.is_empty() {
                line.is_saving = false;
                self.settled.notify_all();
                if line.is_closed {
                    return;
                }
                self.came.wait(&mut line);
                continue;
            }
            line.is_saving = true;
            let rows: Vec<_> = line.rows.drain(..).collect();
            drop(line);
            let saved = state::save_health(&self.state, rows.clone());
            line = self.line.lock();
            line.is_refused = saved.is_err();
            if line.is_refused {
                // Nothing of it is lost while this process lives.
                rows.into_iter().rev().for_each(|row| line.rows.push_front(row));
                let surplus = line.rows.len().saturating_sub(ROWS_MAX);
                line.rows.drain(..surplus);
                line.is_saving = false;
                self.settled.notify_all();
                if line.is_closed {
                    return;
                }
                self.came.wait_for(&mut line, PAUSE);
            }
        }
    }

    fn call(&self) {
        let mut line = self.line.lock();
        loop {
            let Some(transition) = line.calls.pop_front() else {
                if line.is_closed {
                    return;
                }
                self.came.wait(&mut line);
                continue;
            };
            line.is_calling = true;
            let callbacks = line.callbacks.clone();
            drop(line);
            for callback in callbacks {
                let _ = catch(|| callback(&transition));
                discard(callback);
            }
            line = self.line.lock();
            line.is_calling = false;
            self.settled.notify_all();
        }
    }

    /// Waits until what has come is saved, or was refused; not for long.
    pub(super) fn settle(&self) {
        let until = deadline(SETTLE_WITHIN);
        let mut line = self.line.lock();
        while (line.is_saving || !line.rows.is_empty() && !line.is_refused)
            && !self.settled.wait_until(&mut line, until).timed_out()
        {}
    }

    /// Changes that nobody was called back for.
    pub(super) fn dropped(&self) -> u64 {
        self.line.lock().dropped
    }

    /// Nothing comes any more; of these checks nothing is known from now on.
    pub(super) fn stop(&self, names: Vec<Arc<str>>, at: Timestamp, until: Instant) {
        let mut line = self.line.lock();
        for name in names {
            let end = Change { name, at, from: None, to: None, is_optional: false, is_quiet: true };
            line.rows.push_back(self.row(&end));
        }
        line.is_closed = true;
        self.came.notify_all();
        let own = std::thread::current().id();
        let is_caller = line.caller.as_ref().is_some_and(|thread| thread.thread().id() == own);
        while (line.is_saving || line.is_calling && !is_caller || !line.calls.is_empty() && !is_caller)
            && !self.settled.wait_until(&mut line, until).timed_out()
        {}
        let rows: Vec<_> = line.rows.drain(..).collect();
        let (is_saving, is_calling) = (line.is_saving, line.is_calling);
        let (saver, caller) = (line.saver.take(), line.caller.take());
        let callbacks = std::mem::take(&mut line.callbacks);
        line.calls.clear();
        drop(line);
        discard(callbacks);
        if !rows.is_empty() {
            // Those that no thread has saved.
            let left = until.saturating_duration_since(Instant::now());
            let _ = database::waiting_within(left, || state::save_health(&self.state, rows));
        }
        for thread in saver.filter(|_| !is_saving).into_iter().chain(caller.filter(|_| !is_calling)) {
            let _ = thread.join();
        }
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).ok()
}

fn record(capture: &Capture, change: &Change, to: &Status) {
    let severity = match to {
        Status::Healthy => Severity::Info,
        Status::Degraded(_) => Severity::Warning,
        Status::Unhealthy(_) => Severity::Error,
    };
    let before = change.from.as_ref().map_or("unknown", Status::as_str);
    let event = TelemetryEvent::new("health.changed")
        .source("l0.health")
        .category("health")
        .severity(severity)
        .status(to.as_str())
        .message(format!("{} is {to}", change.name))
        .payload(&serde_json::json!({ "check": &*change.name, "from": before, "to": to.as_str() }));
    capture.direct(&event);
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").finish_non_exhaustive()
    }
}
