//! What the scopes of one `L0` have in common: the clock, where they tell what happened, and what an earlier run left.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{quota::TIME_MAX_NS, snapshot::Saved};
use crate::{
    capture::Capture,
    clock::{Clock, Timestamp},
    redaction::{Redactor, hashed},
    state::State,
    store::Source,
    timer::Timer,
};

/// How long what was counted waits until it is told.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(1);
/// Keys are kept up to this length; of longer ones their hash is the key.
const KEY_BYTES_MAX: usize = 256;

pub(super) struct Home {
    pub(super) clock: Clock,
    pub(super) capture: Arc<Capture>,
    pub(super) redactor: Arc<Redactor>,
    pub(super) state: Arc<State>,
    pub(super) source: Source,
    timer: Arc<Timer>,
    task: usize,
    /// The timer knows that there is something to tell.
    is_stirred: AtomicBool,
    /// Something is to be saved soon: a block.
    pub(super) is_urgent: AtomicBool,
    /// What an earlier run left, by scope and key; taken by the first who comes with the key.
    pub(super) left: Mutex<HashMap<(String, String), Saved>>,
    left_count: AtomicUsize,
}

impl Home {
    pub(super) fn new(
        clock: Clock,
        capture: Arc<Capture>,
        redactor: Arc<Redactor>,
        state: Arc<State>,
        source: Source,
        (timer, task): (Arc<Timer>, usize),
        left: HashMap<(String, String), Saved>,
    ) -> Self {
        Self {
            clock,
            capture,
            redactor,
            state,
            source,
            timer,
            task,
            is_stirred: AtomicBool::new(false),
            is_urgent: AtomicBool::new(false),
            left_count: AtomicUsize::new(left.len()),
            left: Mutex::new(left),
        }
    }

    /// Now, on the clock that limits go by.
    #[inline]
    pub(super) fn now_ns(&self) -> u64 {
        self.clock.elapsed_ns().min(TIME_MAX_NS)
    }

    /// Something was counted: it is told within a second.
    #[inline]
    pub(super) fn stir(&self) {
        if !self.is_stirred.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        if !self.is_stirred.swap(true, Ordering::Relaxed) {
            self.timer.arm(self.task, TELL_EVERY);
        }
    }

    /// What was counted until now is about to be told. Says whether anything was.
    pub(super) fn settle_down(&self) -> bool {
        self.is_stirred.swap(false, Ordering::Relaxed)
    }

    /// The wall time of a moment on the clock that limits go by.
    pub(super) fn wall(&self, now_ns: u64) -> Timestamp {
        let anchor = self.clock.anchor();
        let ahead_ns = now_ns.cast_signed().saturating_sub(anchor.mono_ns.cast_signed());
        Timestamp::from_unix_ns(anchor.wall_ns.saturating_add(ahead_ns))
    }

    /// The minute of this moment: its beginning in unix seconds, and where it ends on the clock.
    pub(super) fn minute(&self, now_ns: u64) -> (i64, u64) {
        const MINUTE_NS: i64 = 60_000_000_000;
        let wall_ns = self.wall(now_ns).as_unix_ns();
        let left_ns = MINUTE_NS - wall_ns.rem_euclid(MINUTE_NS);
        (wall_ns.div_euclid(MINUTE_NS) * 60, now_ns.saturating_add(left_ns.cast_unsigned()))
    }

    /// A key as it is told and saved.
    pub(super) fn shown<'k>(&self, key: &'k str, is_public: bool) -> Cow<'k, str> {
        if is_public || key.is_empty() || key == super::account::OTHER {
            return Cow::Borrowed(key);
        }
        Cow::Owned(hashed(key, self.redactor.key()))
    }

    /// Whether an earlier run left anything that nobody has taken yet.
    pub(super) fn has_left(&self) -> bool {
        self.left_count.load(Ordering::Relaxed) > 0
    }

    /// What an earlier run left of this key, once.
    pub(super) fn take_left(&self, scope: &str, key: &str, is_public: bool) -> Option<Saved> {
        if !self.has_left() {
            return None;
        }
        let of = (scope.to_owned(), self.shown(key, is_public).into_owned());
        let mut left = self.left.lock();
        let saved = left.remove(&of);
        self.left_count.store(left.len(), Ordering::Relaxed);
        saved
    }

    /// What an earlier run left and is over by now is forgotten.
    pub(super) fn forget_left(&self, now_unix_ns: i64) {
        if self.has_left() {
            let mut left = self.left.lock();
            left.retain(|_, saved| saved.matters_at(now_unix_ns));
            self.left_count.store(left.len(), Ordering::Relaxed);
        }
    }
}

/// Whether a key is kept as it is.
#[inline]
pub(super) fn is_bounded(key: &str) -> bool {
    key.len() <= KEY_BYTES_MAX
}

/// A key of bounded length.
#[inline]
pub(super) fn bounded(key: &str) -> Cow<'_, str> {
    if is_bounded(key) { Cow::Borrowed(key) } else { Cow::Owned(digest(key)) }
}

#[cold]
fn digest(key: &str) -> String {
    let hash = hmac_sha256::Hash::hash(key.as_bytes());
    hash.iter().fold("sha256:".to_owned(), |hex, byte| hex + &format!("{byte:02x}"))
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").field("clock", &self.clock).finish_non_exhaustive()
    }
}
