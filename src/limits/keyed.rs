//! A bucket for every key.

use std::{borrow::Borrow, fmt, hash::Hash};

use super::{
    decision::{Decision, Denied},
    quota::{Quota, Rate, TIME_MAX_NS},
    table::{Bucket, Found, Table},
};
use crate::clock::Clock;

/// Keys a table holds unless told otherwise.
pub(super) const MAX_KEYS: usize = 100_000;

/// A token bucket for each key, in bounded memory.
///
/// At most [`max_keys`](Self::max_keys) keys are kept, 100,000 unless set. When there is no room for another one, keys whose
/// bucket is full again are forgotten, which changes no answer. When there are none, all further keys share one bucket a
/// shard (of up to 64), so that neither a flood of keys opens the gate, nor does it push out those who are known, nor shut
/// out everyone new; [`overflowed`](Self::overflowed) counts what went there. No thread is needed for any of it.
///
/// ```
/// use l0::limits::{KeyedTokenBuckets, Quota};
/// let buckets: KeyedTokenBuckets<String> = KeyedTokenBuckets::new(Quota::per_minute(2));
/// buckets.set_quota("ada".to_owned(), Quota::per_minute(3));
/// let passed = |key: &str| (0..9).filter(|_| buckets.check(key).is_ok()).count();
/// assert_eq!((passed("bob"), passed("ada")), (2, 3));
/// ```
pub struct KeyedTokenBuckets<K> {
    table: Table<K, Level>,
    rate: Rate,
    quota: Quota,
    clock: Clock,
}

/// One key's.
struct Level {
    full_at: u64,
    own: Option<Box<Own>>,
}

/// A quota of its own, and tokens that are owed beyond what a bucket can.
struct Own {
    rate: Rate,
    excess: u64,
}

impl<K> Bucket<K> for Level {
    type Common = Rate;

    fn is_new_at(&self, common: &Rate) -> u64 {
        // A quota of its own is not to be forgotten.
        if self.own.is_some() { u64::MAX } else { common.ns(self.full_at) }
    }

    fn begin_as(&mut self, shared: &Self) {
        self.full_at = shared.full_at;
    }
}

impl Level {
    fn new() -> Self {
        Self { full_at: 0, own: None }
    }

    fn rate(&self, common: Rate) -> Rate {
        self.own.as_ref().map_or(common, |own| own.rate)
    }
}

impl<K: Hash + Eq + Clone + Send + Sync> KeyedTokenBuckets<K> {
    /// Each key with this quota, on the system's clock.
    pub fn new(q: Quota) -> Self {
        Self::with_clock(q, Clock::system())
    }

    /// Each key with this quota, on this clock.
    pub fn with_clock(q: Quota, c: Clock) -> Self {
        let rate = Rate::of(q);
        Self { table: Self::table(MAX_KEYS, rate), rate, quota: q, clock: c }
    }

    /// How many keys are kept; those that came before are forgotten.
    #[must_use]
    pub fn max_keys(self, n: usize) -> Self {
        Self { table: Self::table(n, self.rate), ..self }
    }

    fn table(max_keys: usize, rate: Rate) -> Table<K, Level> {
        Table::new(max_keys, || (Level::new(), rate))
    }

    /// May one of this key pass? Never blocks for longer than a look at another key takes.
    ///
    /// # Errors
    /// [`Denied`], and nothing is taken.
    #[inline]
    pub fn check<Q>(&self, key: &Q) -> Result<Decision, Denied>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.check_n(key, 1)
    }

    /// May `n` of this key pass at once? All or none of them. Of 0 the answer is yes, and costs nothing.
    ///
    /// # Errors
    /// [`Denied`], and nothing is taken; [`ExceedsBurst`](Denied::ExceedsBurst) if it never can.
    #[inline]
    pub fn check_n<Q>(&self, key: &Q, n: u64) -> Result<Decision, Denied>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        if n == 0 {
            return Ok(self.peek(key));
        }
        let now_ns = self.now_ns();
        let place = self.table.place(key);
        let mut shard = self.table.lock(place.shard);
        let Found { bucket: level, common, is_new, .. } = self.table.bucket(&mut shard, place, key, now_ns, Level::new);
        let rate = level.rate(*common);
        let now = rate.time(now_ns);
        let taken = rate.take(level.full_at, now, n);
        level.full_at = taken.unwrap_or(level.full_at);
        let decision = Decision::new(rate, level.full_at, now);
        if is_new {
            self.table.note(place.shard, rate.ns(level.full_at));
        }
        taken.map(|_| decision).map_err(|refused| Denied::new(refused, n, rate, decision))
    }

    /// The key's bucket as it is; takes nothing, and keeps nothing of a key that is not known.
    pub fn peek<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Decision
    where
        K: Borrow<Q>,
    {
        let now_ns = self.now_ns();
        let place = self.table.place(key);
        let mut shard = self.table.lock(place.shard);
        let (rate, full_at) = match self.table.find(&mut shard, place, key) {
            Some((level, common)) => (level.rate(*common), level.full_at),
            // It would begin as the bucket that it shared with others, or share it.
            None => (self.rate, shard.overflow().full_at),
        };
        Decision::new(rate, full_at, rate.time(now_ns))
    }

    /// The quota of keys that have none of their own.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Another quota for one key, from now on; what it owes stays owed, in tokens. Such a key is kept for ever, beyond
    /// [`max_keys`](Self::max_keys) if need be.
    pub fn set_quota(&self, key: K, q: Quota) {
        let place = self.table.place(&key);
        let mut shard = self.table.lock(place.shard);
        // Under the lock: a charge of meanwhile is not taken for a debt of then.
        let now_ns = self.now_ns();
        let (level, common) = self.table.pinned(&mut shard, place, key, Level::new);
        let before = level.rate(*common);
        let rate = Rate::of(q).after(before);
        let (debt, excess) =
            (Rate::debt(level.full_at, before.time(now_ns)), level.own.as_ref().map_or(0, |own| own.excess));
        let (full_at, excess) = before.owed_under(debt, excess, rate, now_ns);
        level.full_at = full_at;
        level.own = Some(Box::new(Own { rate, excess }));
    }

    fn now_ns(&self) -> u64 {
        self.clock.elapsed_ns().min(TIME_MAX_NS)
    }

    /// How many keys are kept.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no key is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many charges went to a shared bucket, for there was no room for their key.
    pub fn overflowed(&self) -> u64 {
        self.table.overflowed()
    }
}

impl<K> fmt::Debug for KeyedTokenBuckets<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedTokenBuckets").field("quota", &self.quota).finish_non_exhaustive()
    }
}
