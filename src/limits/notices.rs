//! What a scope tells of refusals, boundedly: the first of a window and key, then one sum at the window's end; lock-outs;
//! budgets that are nearly used up. A flood of a million adds a few hundred rows a minute, whoever floods.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;

use super::{
    decision::{Decision, Denied},
    scope::Inner,
};
use crate::{
    clock::Timestamp,
    event::{Severity, TelemetryEvent},
};

/// Refusals of a key within this time are told as one.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// Keys of a scope whose refusals are told in a minute, and as many lock-outs and warnings; further ones are in the counts alone.
const TOLD_MAX: u32 = 100;

pub(super) mod kind {
    pub(crate) const VIOLATION: &str = "limit.violation";
    pub(crate) const VIOLATIONS: &str = "limit.violations";
    pub(crate) const LOCK_OUT: &str = "limit.lock_out";
    pub(crate) const WARNING: &str = "limit.warning";
}

/// Something to tell.
#[derive(Debug)]
pub(super) enum Notice {
    /// The first refusal of a window.
    Denied { denied: Denied, cost: u64 },
    /// A window has ended, in which so many were refused, the first included.
    Sum { denied: u64, limit: u64 },
    /// One refusal too many.
    LockedOut { denied: Denied, cost: u64, until: Timestamp },
    /// The share at which to warn is reached.
    Warned { decision: Decision, share: f64 },
}

/// What a scope has told in this minute, and whose windows are open.
#[derive(Debug, Default)]
pub(super) struct Notices {
    told: Mutex<Told>,
    is_over: AtomicBool,
    /// In the order in which they end.
    open: Mutex<VecDeque<(u64, Box<str>)>>,
}

#[derive(Debug, Default)]
struct Told {
    minute_s: i64,
    first: u32,
    lock_outs: u32,
    warnings: u32,
}

impl Notices {
    /// Nothing is told after this.
    pub(super) fn finish(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.open.lock().clear();
    }

    pub(super) fn may_tell(&self, minute_s: i64) -> bool {
        self.may(minute_s, |told| &mut told.first)
    }

    pub(super) fn may_tell_lock_out(&self, minute_s: i64) -> bool {
        self.may(minute_s, |told| &mut told.lock_outs)
    }

    pub(super) fn may_tell_warning(&self, minute_s: i64) -> bool {
        self.may(minute_s, |told| &mut told.warnings)
    }

    /// Whether there is one more in the minute that ends there; counts it.
    fn may(&self, minute_s: i64, count: impl Fn(&mut Told) -> &mut u32) -> bool {
        if self.is_over.load(Ordering::Relaxed) {
            return false;
        }
        let mut told = self.told.lock();
        if minute_s != told.minute_s {
            *told = Told { minute_s, ..Told::default() };
        }
        let count = count(&mut told);
        *count = count.saturating_add(1);
        *count <= TOLD_MAX
    }

    pub(super) fn open(&self, ends_ns: u64, key: &str) {
        self.open.lock().push_back((ends_ns, key.into()));
    }

    /// The next window that has ended, or any at the end; else when one will.
    fn next(&self, now_ns: u64, at_the_end: bool) -> Result<(u64, Box<str>), Option<u64>> {
        let mut open = self.open.lock();
        match open.front() {
            Some((ends_ns, _)) if *ends_ns <= now_ns || at_the_end => open.pop_front().ok_or(None),
            front => Err(front.map(|(ends_ns, _)| *ends_ns)),
        }
    }
}

/// The payload of what is told.
#[derive(Debug, Serialize)]
struct Payload<'a> {
    scope: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    key: &'a str,
    limit: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    denied: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_share: Option<f64>,
    dry_run: bool,
}

impl Inner {
    /// Records it, with the caller's correlation id. No lock is held.
    #[cold]
    pub(super) fn tell(&self, key: &str, notice: &Notice) {
        let shown = self.home.shown(key, self.config.has_public_keys);
        let mut payload = self.payload(&shown);
        let (kind, message) = match notice {
            Notice::Denied { denied, cost } => {
                payload.limit = denied.decision().limit();
                payload.cost = Some(*cost);
                payload.retry_after_ms = denied.retry_after().map(ceil_ms);
                (kind::VIOLATION, denied.to_string())
            }
            // The first was told by itself.
            Notice::Sum { denied: ..=1, .. } => return,
            Notice::Sum { denied, limit } => {
                (payload.limit, payload.denied) = (*limit, Some(*denied));
                (kind::VIOLATIONS, format!("{} denied {denied} times within a minute", self.name.0))
            }
            Notice::LockedOut { denied, cost, until } => {
                payload.limit = denied.decision().limit();
                payload.cost = Some(*cost);
                payload.until = Some(until.to_string());
                (kind::LOCK_OUT, format!("locked out of {} until {:.19}Z", self.name.0, until.to_string()))
            }
            Notice::Warned { decision, share } => {
                payload.limit = decision.limit();
                payload.used_share = Some(decision.used_share());
                let (left, of) = (decision.remaining(), decision.limit());
                (kind::WARNING, format!("{} of {} used up: {left} of {of} left", percent(*share), self.name.0))
            }
        };
        self.record(kind, &message, &payload);
    }

    fn payload<'a>(&'a self, key: &'a str) -> Payload<'a> {
        Payload {
            scope: self.name.0,
            key,
            limit: 0,
            cost: None,
            retry_after_ms: None,
            until: None,
            denied: None,
            used_share: None,
            dry_run: self.config.is_dry_run,
        }
    }

    fn record(&self, kind: &str, message: &str, payload: &Payload<'_>) {
        let status = match (kind, self.config.is_dry_run) {
            (kind::WARNING, _) => "warned",
            (_, true) => "dry_run",
            (_, false) => "denied",
        };
        let event = TelemetryEvent::new(kind)
            .source("l0.limits")
            .category("limits")
            .severity(Severity::Warning)
            .status(status)
            .message(message)
            .payload(payload);
        self.home.capture.direct(&event);
    }

    /// Tells the sums of windows that have ended; says when the next one will.
    pub(super) fn close_windows(&self, now_ns: u64, at_the_end: bool) -> Option<u64> {
        loop {
            let (ends_ns, key) = match self.notices.next(now_ns, at_the_end) {
                Ok(ended) => ended,
                Err(ends_ns) => return ends_ns,
            };
            let place = self.accounts.place(&key);
            let mut shard = self.accounts.lock(place.shard);
            let Some((account, common)) = self.accounts.find(&mut shard, place, &key) else { continue };
            let limit = account.rate(common).burst();
            let window = account.more.as_mut().map(|more| &mut more.window);
            // Another one may have begun since.
            let ended = window.and_then(|window| window.take_if(|window| window.ends_ns == ends_ns));
            self.accounts.room().note(place.shard, now_ns);
            drop(shard);
            if let Some(window) = ended {
                self.tell(&key, &Notice::Sum { denied: window.denied, limit });
            }
        }
    }
}

fn ceil_ms(d: Duration) -> u64 {
    u64::try_from(d.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 1_000.0).round() / 10.0)
}
