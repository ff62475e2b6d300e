//! What a scope keeps of a key, and what a shard of keys has in common.

use std::collections::VecDeque;

use super::{
    ledger::Ledger,
    quota::{Quota, Rate},
    table::{Bucket, Entry},
};

/// Tallies of keys that a shard keeps of minutes that have ended; further ones are counted together.
const CLOSED_MAX: usize = 1_024;
const MINUTE_S: i64 = 60;
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

/// A key's bucket, and what else is known of it: with its key one line of the cache.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// When the bucket is full, in units of its rate.
    pub(super) full_at: u64,
    counted: Counted,
    /// In which minute that was: minutes of the Unix clock, whose nanoseconds are 64 bits.
    minute: i32,
    /// It has a row in the snapshot; and is not as it was then.
    pub(super) is_saved: bool,
    pub(super) is_changed: bool,
    pub(super) more: Option<Box<More>>,
}

const _: () = assert!(size_of::<Entry<Account>>() == 64);

/// What passed and what was refused since it was told last, within a minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    used: i64,
    allowed: i32,
    /// In dry run they passed as well.
    refused: i32,
}

impl Counted {
    fn add(&mut self, tally: Tally) {
        // Less than 2^31 decisions a minute are made under one lock.
        self.allowed = self.allowed.saturating_add(tally.allowed as i32);
        self.refused = self.refused.saturating_add((tally.denied + tally.dry_run_denied) as i32);
        self.used = self.used.saturating_add(tally.used);
    }

    fn tally(self, is_dry_run: bool) -> Tally {
        let (allowed, refused) = (self.allowed.into(), self.refused.into());
        let (denied, dry_run_denied) = if is_dry_run { (0, refused) } else { (refused, 0) };
        Tally { allowed, denied, dry_run_denied, used: self.used }
    }
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

impl More {
    /// `MAX` for as long as nobody says otherwise.
    fn matters_until_ns(&self) -> u64 {
        let is_held = !self.trial.is_empty() || self.window.is_some() || self.excess > 0;
        if self.is_pinned || self.own.is_some() || is_held {
            return u64::MAX;
        }
        self.blocked_until_ns.max(self.remembers_until_ns)
    }
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
    is_dry_run: bool,
    minute: i32,
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

impl Bucket for Account {
    type Common = Common;

    fn is_new_at(&self, common: &Common) -> u64 {
        // Its row goes before it is forgotten.
        if self.is_saved {
            return u64::MAX;
        }
        let matters_until_ns = self.more.as_ref().map_or(0, |more| more.matters_until_ns());
        common.rate.ns(self.full_at).max(matters_until_ns)
    }

    fn forget(&mut self, key: &str, common: &mut Common) {
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
        if self.minute != common.minute {
            self.turn(common, key);
        }
        self.counted.add(tally);
    }

    #[cold]
    fn turn(&mut self, common: &mut Common, key: &str) {
        self.close(common, key);
        self.minute = common.minute;
    }

    /// Its tally waits to be told.
    fn close(&mut self, common: &mut Common, key: &str) {
        if let Some((minute_s, tally)) = self.take_tally(common)
            // What all share is the scope's own sum.
            && !key.is_empty()
        {
            common.close(minute_s, key, tally);
        }
    }

    /// What is to be told of it, and of which minute.
    pub(super) fn take_tally(&mut self, common: &Common) -> Option<(i64, Tally)> {
        let tally = std::mem::take(&mut self.counted).tally(common.is_dry_run);
        (!tally.is_zero()).then_some((i64::from(self.minute) * MINUTE_S, tally))
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

    /// What few keys have is forgotten when it does not matter any more.
    pub(super) fn tidy(&mut self, now_ns: u64) {
        if self.more.as_ref().is_some_and(|more| more.matters_until_ns() <= now_ns && !more.is_warned) {
            self.more = None;
        }
    }

    pub(super) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

impl Common {
    pub(super) fn new(rate: Rate, is_dry_run: bool) -> Self {
        Self {
            rate,
            is_dry_run,
            minute: 0,
            minute_until_ns: 0,
            tally: Tally::default(),
            told: Tally::default(),
            closed: Vec::new(),
            is_over: false,
        }
    }

    /// When the minute began.
    pub(super) fn minute_s(&self) -> i64 {
        i64::from(self.minute) * MINUTE_S
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
        (self.minute, self.minute_until_ns) = ((minute_s / MINUTE_S) as i32, until_ns);
    }

    fn close(&mut self, minute_s: i64, key: &str, tally: Tally) {
        if !self.is_over {
            add_bounded(&mut self.closed, CLOSED_MAX, (minute_s, key, tally));
        }
    }

    /// Adds to the tallies of a key that is forgotten, and of the scope.
    pub(super) fn count_gone(&mut self, key: &str, tally: Tally) {
        self.tally.add(tally);
        if !key.is_empty() {
            self.close(self.minute_s(), key, tally);
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
            self.close(self.minute_s(), "", tally);
        }
    }
}
