//! What is told of changes: an event, a row in `state.db` by a thread of its own, and the application's callbacks by another, so
//! that a slow callback costs no history. That thread also has kept how the checks stand: once a minute, and soon after they have
//! changed; it depends on no check's thread, which all may hang.
//!
//! Whoever notes a change waits for nothing: recording an event may have to wait for room, and so is done by a thread for the
//! purpose, or by who asked for a run, where no lock is held. The threads are made when they are needed. Rows that the store does
//! not take are kept and tried again; of changes so many may wait for callbacks, then the oldest are not called back for, and are
//! counted.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{Status, check::Check, report::Transition};
use crate::{
    capture::Capture,
    clock::{Timestamp, deadline},
    correlation, database,
    event::{Severity, TelemetryEvent},
    jobs::panic::{catch, discard},
    state::{self, HealthRow, Said, SignOfLife, State},
};

const CALLS_MAX: usize = 1_000;
/// Rows that wait for a store that does not take them.
const ROWS_MAX: usize = 10_000;
/// How long a thread that does nothing else waits for another that is recording changes.
const EMIT_ASIDE_WITHIN: Duration = Duration::from_secs(60);
/// After a store refused rows.
const PAUSE: Duration = Duration::from_secs(2);
/// How often a process says that it lives, and how its checks stand.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// After a change it does so at once, if it has not lately: at most so many bytes a second.
const SAID_BYTES_PER_SECOND: u32 = 16 << 10;
/// What it says at most: that of a thousand checks. Of more than that only the changes are known outside.
const SAID_BYTES_MAX: usize = 256 << 10;
/// How long a question waits for what is on its way.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);

/// A check is reported otherwise than before; to nothing if it is not registered any more.
#[derive(Clone, Debug)]
pub(super) struct Change<'a> {
    pub(super) check: &'a Check,
    pub(super) at: Timestamp,
    pub(super) from: Option<Status>,
    pub(super) to: Option<Status>,
    /// It is kept, and nobody is told: one of l0's own that has begun as it should, or an end.
    pub(super) is_quiet: bool,
}

type Callback = Arc<dyn Fn(&Transition) + Send + Sync>;
/// How all checks stand, as JSON, and when; nothing if nobody has them any more.
type Picture = Box<dyn Fn() -> Option<(Timestamp, String)> + Send + Sync>;

pub(super) struct Notices {
    state: Arc<State>,
    capture: Arc<Capture>,
    /// Of this process's run, by which its rows are told from others'.
    run: String,
    picture: OnceLock<Picture>,
    /// Of who records events, in their order.
    emitting: Mutex<()>,
    line: Mutex<Line>,
    came: Condvar,
    settled: Condvar,
}

#[derive(Default)]
struct Line {
    rows: VecDeque<HealthRow>,
    /// Not recorded yet.
    events: VecDeque<TelemetryEvent>,
    calls: VecDeque<Transition>,
    callbacks: Vec<Callback>,
    dropped: u64,
    /// Some rows are being saved, or a callback is called.
    is_saving: bool,
    is_calling: bool,
    /// A thread of its own records events.
    is_emitting: bool,
    is_refused: bool,
    /// How the checks stand has changed since that was said; and when it may be said again.
    is_unsaid: bool,
    said_next: Option<Instant>,
    is_closed: bool,
    saver: Option<JoinHandle<()>>,
    caller: Option<JoinHandle<()>>,
}

impl Line {
    /// When how the checks stand is to be said; nothing: at once, for the first time.
    fn said_due(&self) -> Option<Instant> {
        self.said_next.map(|next| if self.is_unsaid { next } else { next + SAID_EVERY })
    }
}

/// After so many bytes nothing is said for so long.
fn pause_after(bytes: usize) -> Duration {
    Duration::from_secs(1).max(Duration::from_secs(bytes as u64) / SAID_BYTES_PER_SECOND)
}

/// What is said of them, if it is not too much.
fn bounded(checks: String) -> String {
    if checks.len() <= SAID_BYTES_MAX { checks } else { "[]".to_owned() }
}

impl Notices {
    pub(super) fn new(state: Arc<State>, capture: Arc<Capture>) -> Self {
        let run = capture.run().to_string();
        let (line, emitting, picture) = (Mutex::default(), Mutex::default(), OnceLock::new());
        Self { state, capture, run, picture, emitting, line, came: Condvar::new(), settled: Condvar::new() }
    }

    /// Whom to ask how the checks stand.
    pub(super) fn set_picture(&self, picture: Picture) {
        let _ = self.picture.set(picture);
    }

    /// How the checks stand has changed, though nothing is to be told of it.
    pub(super) fn say(self: &Arc<Self>) {
        let mut line = self.line.lock();
        self.say_soon(&mut line);
        drop(line);
        self.came.notify_all();
    }

    fn say_soon(self: &Arc<Self>, line: &mut Line) {
        line.is_unsaid = true;
        if line.saver.is_none() && !line.is_closed {
            let notices = Arc::clone(self);
            // Without a thread the events tell, and the end tries again.
            line.saver = thread("l0-health", move || notices.save());
        }
    }

    pub(super) fn add_callback(&self, callback: Callback) {
        let mut line = self.line.lock();
        if line.is_closed {
            drop(line);
            return discard(callback);
        }
        line.callbacks.push(callback);
    }

    /// Waits for nothing; [`emit`](Self::emit) is to be called behind it.
    pub(super) fn tell(self: &Arc<Self>, change: Change<'_>) {
        let event = change.to.as_ref().filter(|_| !change.is_quiet).map(|to| event(&change, to));
        let mut line = self.line.lock();
        if line.is_closed {
            return;
        }
        if line.rows.len() >= ROWS_MAX {
            line.rows.pop_front();
        }
        if line.events.len() >= ROWS_MAX {
            line.events.pop_front();
        }
        line.events.extend(event);
        line.rows.push_back(self.row(&change));
        self.say_soon(&mut line);
        if !change.is_quiet
            && !line.callbacks.is_empty()
            && let Some(to) = change.to
        {
            if line.calls.len() >= CALLS_MAX {
                line.calls.pop_front();
                line.dropped += 1;
            }
            let Change { check, at, from, .. } = change;
            let (name, is_optional) = (check.name.to_string(), check.terms.is_optional);
            line.calls.push_back(Transition { name, at, from, to, after: None, is_optional });
            if line.caller.is_none() {
                let notices = Arc::clone(self);
                line.caller = thread("l0-health-calls", move || notices.call());
            }
        }
        drop(line);
        self.came.notify_all();
    }

    /// Records what has been told by now, unless another thread is at it for so long.
    pub(super) fn emit(&self, within: Duration) {
        let left = self.line.lock().events.len();
        self.emit_some(within, left);
    }

    fn emit_some(&self, within: Duration, most: usize) {
        let Some(_emitting) = self.emitting.try_lock_for(within) else { return };
        let next = || self.line.lock().events.pop_front();
        for event in (0..most).map_while(|_| next()) {
            self.capture.direct_aside(&event);
        }
        self.settled.notify_all();
    }

    /// Has it recorded by a thread, for as long as there is something.
    pub(super) fn emit_aside(self: &Arc<Self>) {
        let mut line = self.line.lock();
        if line.events.is_empty() || line.is_emitting {
            return;
        }
        let notices = Arc::clone(self);
        let emitter = thread("l0-health-events", move || {
            loop {
                notices.emit_some(EMIT_ASIDE_WITHIN, usize::MAX);
                let mut line = notices.line.lock();
                // What came at the very end is not left behind.
                if line.events.is_empty() || line.is_closed {
                    line.is_emitting = false;
                    break;
                }
            }
            notices.settled.notify_all();
        });
        // Without a thread the next who asks for a run does it.
        line.is_emitting = emitter.is_some();
    }

    /// As it is kept.
    fn row(&self, Change { check, at, from, to, .. }: &Change<'_>) -> HealthRow {
        HealthRow {
            id: 0,
            name: check.name.to_string(),
            run: self.run.clone(),
            at: at.as_unix_ns(),
            before: from.as_ref().map(|from| from.as_str().to_owned()),
            after: to.as_ref().map(|to| serde_json::json!(to).to_string()),
            is_optional: check.terms.is_optional,
            kind: check.terms.kind.as_str().to_owned(),
            tags: serde_json::json!(check.terms.tags).to_string(),
        }
    }

    fn save(&self) {
        let mut line = self.line.lock();
        loop {
            let due = line.said_due();
            let is_due = !line.is_closed && due.is_none_or(|due| due <= Instant::now());
            if line.rows.is_empty() && !is_due {
                line.is_saving = false;
                self.settled.notify_all();
                if line.is_closed {
                    return;
                }
                match due {
                    Some(due) => _ = self.came.wait_until(&mut line, due),
                    None => self.came.wait(&mut line),
                }
                continue;
            }
            line.is_saving = true;
            line.is_unsaid &= !is_due;
            let (rows, is_end): (Vec<_>, _) = (line.rows.drain(..).collect(), line.is_closed);
            drop(line);
            // After the rows were taken: all that they tell is in it.
            let picture = if is_due { self.picture.get().and_then(|picture| picture()) } else { None };
            let bytes = picture.as_ref().map_or(0, |(_, checks)| checks.len());
            let sign = picture.map(|picture| self.sign(picture));
            let saved = state::save_health(&self.state, Said { sign, ..self.said(rows.clone(), is_end) });
            line = self.line.lock();
            if is_due {
                line.said_next = Some(deadline(pause_after(bytes)));
            }
            line.is_refused = saved.is_err();
            if line.is_refused {
                // Nothing of it is lost while this process lives.
                rows.into_iter().rev().for_each(|row| line.rows.push_front(row));
                let surplus = line.rows.len().saturating_sub(ROWS_MAX);
                line.rows.drain(..surplus);
                line.is_unsaid |= is_due;
                line.is_saving = false;
                self.settled.notify_all();
                if line.is_closed {
                    return;
                }
                let until = deadline(PAUSE);
                while !line.is_closed && !self.came.wait_until(&mut line, until).timed_out() {}
            }
        }
    }

    /// What is to be kept; at the end, that it is one.
    fn said(&self, rows: Vec<HealthRow>, is_end: bool) -> Said {
        Said { rows, sign: None, ended: is_end.then(|| self.run.clone()) }
    }

    fn sign(&self, (at, checks): (Timestamp, String)) -> SignOfLife {
        let at = at.as_unix_ns();
        SignOfLife { run: self.run.clone(), at, checks: bounded(checks), checks_at: at, change: 0 }
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
        while (line.is_saving || !line.events.is_empty() || !line.rows.is_empty() && !line.is_refused)
            && !self.settled.wait_until(&mut line, until).timed_out()
        {}
    }

    /// Changes that nobody was called back for.
    pub(super) fn dropped(&self) -> u64 {
        self.line.lock().dropped
    }

    /// Nothing comes any more; of these checks nothing is known from now on.
    pub(super) fn stop(self: &Arc<Self>, checks: &[Arc<Check>], at: Timestamp, until: Instant) {
        self.emit_aside();
        let mut line = self.line.lock();
        for check in checks {
            let end = Change { check, at, from: None, to: None, is_quiet: true };
            line.rows.push_back(self.row(&end));
        }
        line.is_closed = true;
        self.came.notify_all();
        let own = std::thread::current().id();
        let is_caller = line.caller.as_ref().is_some_and(|thread| thread.thread().id() == own);
        let is_at_calls = |line: &Line| !is_caller && (line.is_calling || !line.calls.is_empty());
        while (line.is_saving || line.is_emitting || is_at_calls(&line))
            && !self.settled.wait_until(&mut line, until).timed_out()
        {}
        // What a saver that is at it will save comes behind what it has.
        let rows: Vec<_> = if line.is_saving { Vec::new() } else { line.rows.drain(..).collect() };
        let (is_saving, is_calling) = (line.is_saving, line.is_calling);
        // That it has ended is to be said if it has said anything.
        let is_to_be_said = line.saver.is_some() && !is_saving;
        let (saver, caller) = (line.saver.take(), line.caller.take());
        let callbacks = std::mem::take(&mut line.callbacks);
        line.calls.clear();
        drop(line);
        discard(callbacks);
        if is_to_be_said || !rows.is_empty() {
            // With those that no thread has saved.
            let left = until.saturating_duration_since(Instant::now());
            let _ = database::waiting_within(left, || state::save_health(&self.state, self.said(rows, true)));
        }
        for thread in saver.filter(|_| !is_saving).into_iter().chain(caller.filter(|_| !is_calling)) {
            let _ = thread.join();
        }
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).ok()
}

fn event(change: &Change<'_>, to: &Status) -> TelemetryEvent {
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
        .message(format!("{} is {to}", change.check.name))
        .payload(&serde_json::json!({ "check": &*change.check.name, "from": before, "to": to.as_str() }));
    // Whoever records it may be in another's scope.
    match correlation::current() {
        Some(id) => event.correlation_id(id),
        None => event,
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_at_once_at_first_soon_after_a_change_and_every_minute() {
        let mut line = Line::default();
        assert_eq!(line.said_due(), None);
        let next = Instant::now();
        line.said_next = Some(next);
        assert_eq!(line.said_due(), Some(next + Duration::from_secs(60)));
        line.is_unsaid = true;
        assert_eq!(line.said_due(), Some(next));
        assert_eq!(pause_after(2_000), Duration::from_secs(1));
        assert_eq!(pause_after(1 << 20), Duration::from_secs(64), "16 KiB a second");
        assert_eq!(bounded("x".repeat(256 << 10)).len(), 256 << 10);
        assert_eq!(bounded("x".repeat((256 << 10) + 1)), "[]");
    }
}
