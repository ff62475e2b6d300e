//! What a scope keeps of a key, and what a shard of keys has in common.

use std::collections::VecDeque;

use super::{
    ledger::Ledger,
    quota::{Quota, Rate},
    table::Bucket,
};

/// Tallies of keys that a shard keeps of minutes that have ended; further ones are counted together.
const CLOSED_MAX: usize = 1_024;
/// Stands for the keys that were too many.
pub(super) const OTHER: &str = "(other)";

/// What passed and what was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) allowed: i64,
    pub(super) denied: i64,
    pub(super) dry_run_denied: i64,
    pub(super) used: i64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.allowed += other.allowed;
        self.denied += other.denied;
        self.dry_run_denied += other.dry_run_denied;
        self.used = self.used.saturating_add(other.used);
    }

    pub(super) fn negated(self) -> Self {
        Self {
            allowed: -self.allowed,
            denied: -self.denied,
            dry_run_denied: -self.dry_run_denied,
            used: self.used.saturating_neg(),
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn counts(&self) -> [i64; 4] {
        [self.allowed, self.denied, self.dry_run_denied, self.used]
    }
}

/// Tallies that wait to be told: minute, key, tally.
pub(super) type Tallies = Vec<(i64, Box<str>, Tally)>;

/// Adds a tally to those that wait; beyond so many, to those of the other keys, of whatever minute.
pub(super) fn add_bounded(tallies: &mut Tallies, max: usize, (minute_s, key, tally): (i64, &str, Tally)) {
    let key = if tallies.len() < max || key.is_empty() { key } else { OTHER };
    let is_same = |(_, known, _): &&mut (i64, Box<str>, Tally)| **known == *key;
    // Beyond the bound there are two: of the scope and of the others.
    if tallies.len() >= max
        && let Some((.., known)) = tallies.iter_mut().skip(max).find(is_same)
    {
        known.add(tally);
    } else {
        tallies.push((minute_s, key.into(), tally));
    }
}

/// A key's bucket, and what else is known of it.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// When the bucket is full, in units of its rate.
    pub(super) full_at: u64,
    /// Since it was told last; of `minute`.
    tally: Tally,
    minute_s: i64,
    /// It has a row in the snapshot; and is not as it was then.
    pub(super) is_saved: bool,
    pub(super) is_changed: bool,
    pub(super) more: Option<Box<More>>,
}

/// What few keys have.
#[derive(Debug, Default)]
pub(super) struct More {
    pub(super) own: Option<(Quota, Rate)>,
    /// Until when it is blocked; `MAX` until it is unblocked.
    pub(super) blocked_until_ns: u64,
    /// What was charged on trial and is not settled yet.
    pub(super) trial: Ledger,
    /// Tokens that are owed beyond what a bucket can.
    pub(super) excess: u64,
    /// When it was refused, for a lock-out.
    pub(super) violations: VecDeque<u64>,
    /// Until then they matter.
    pub(super) remembers_until_ns: u64,
    /// The window in which its refusals are told as one.
    pub(super) window: Option<Window>,
    pub(super) is_warned: bool,
    /// The program has said something of it: it is not forgotten.
    pub(super) is_pinned: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) ends_ns: u64,
    pub(super) denied: u64,
}

/// Of the keys of one shard.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) rate: Rate,
    pub(super) minute_s: i64,
    /// The minute ends here, on the clock that limits go by.
    pub(super) minute_until_ns: u64,
    /// Of this minute, since it was told last.
    tally: Tally,
    /// Before that.
    told: Tally,
    /// Of minutes that have ended and of keys that were forgotten: minute, key, tally.
    closed: Tallies,
    /// Nobody is told any more: only sums are kept.
    is_over: bool,
}

impl Bucket<String> for Account {
    type Common = Common;

    fn is_new_at(&self, common: &Common) -> u64 {
        // Its row goes before it is forgotten.
        if self.is_saved {
            return u64::MAX;
        }
        let Some(more) = &self.more else { return common.rate.ns(self.full_at) };
        if more.is_pinned || more.own.is_some() || !more.trial.is_empty() || more.window.is_some() || more.excess > 0 {
            return u64::MAX;
        }
        common.rate.ns(self.full_at).max(more.blocked_until_ns).max(more.remembers_until_ns)
    }

    fn forget(&mut self, key: &String, common: &mut Common) {
        self.close(common, key);
    }

    fn begin_as(&mut self, shared: &Self) {
        self.full_at = self.full_at.max(shared.full_at);
    }
}

impl Account {
    pub(super) fn rate(&self, common: &Common) -> Rate {
        self.more.as_ref().and_then(|more| more.own).map_or(common.rate, |(_, rate)| rate)
    }

    /// Adds to the tallies of this key and of its scope.
    #[inline]
    pub(super) fn count(&mut self, common: &mut Common, key: &str, tally: Tally) {
        common.tally.add(tally);
        if self.minute_s != common.minute_s {
            self.turn(common, key);
        }
        self.tally.add(tally);
    }

    #[cold]
    fn turn(&mut self, common: &mut Common, key: &str) {
        self.close(common, key);
        self.minute_s = common.minute_s;
    }

    /// Its tally waits to be told.
    fn close(&mut self, common: &mut Common, key: &str) {
        let tally = std::mem::take(&mut self.tally);
        // What all share is the scope's own sum.
        if !tally.is_zero() && !key.is_empty() {
            common.close(self.minute_s, key, tally);
        }
    }

    /// What is to be told of it.
    pub(super) fn take_tally(&mut self) -> Option<(i64, Tally)> {
        let tally = std::mem::take(&mut self.tally);
        (!tally.is_zero()).then_some((self.minute_s, tally))
    }

    /// The quota in force changes for this key: what it owes stays owed.
    pub(super) fn change_rate(&mut self, now_ns: u64, from: Rate, to: Rate) {
        let debt = Rate::debt(self.full_at, from.time(now_ns));
        let excess = self.more.as_ref().map_or(0, |more| more.excess);
        let (full_at, excess) = from.owed_under(debt, excess, to, now_ns);
        (self.full_at, self.is_changed) = (full_at, true);
        if excess > 0 {
            self.more().excess = excess;
        } else if let Some(more) = &mut self.more {
            more.excess = 0;
        }
        if let Some(more) = &mut self.more {
            more.trial.change(now_ns, from, to);
        }
    }

    pub(super) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

impl Common {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            minute_s: 0,
            minute_until_ns: 0,
            tally: Tally::default(),
            told: Tally::default(),
            closed: Vec::new(),
            is_over: false,
        }
    }

    /// All since the beginning.
    pub(super) fn total(&self) -> Tally {
        let mut total = self.told;
        total.add(self.tally);
        total
    }

    /// Nothing is told after this.
    pub(super) fn finish(&mut self) {
        self.is_over = true;
    }

    /// Another minute has begun.
    pub(super) fn turn(&mut self, minute_s: i64, until_ns: u64) {
        self.close_own();
        (self.minute_s, self.minute_until_ns) = (minute_s, until_ns);
    }

    fn close(&mut self, minute_s: i64, key: &str, tally: Tally) {
        if !self.is_over {
            add_bounded(&mut self.closed, CLOSED_MAX, (minute_s, key, tally));
        }
    }

    /// What is to be told of the scope, and of minutes that have ended.
    pub(super) fn take_tallies(&mut self) -> Tallies {
        self.close_own();
        std::mem::take(&mut self.closed)
    }

    fn close_own(&mut self) {
        let tally = std::mem::take(&mut self.tally);
        if !tally.is_zero() {
            self.told.add(tally);
            self.close(self.minute_s, "", tally);
        }
    }
}
