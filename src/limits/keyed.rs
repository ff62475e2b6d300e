//! A bucket for every key.

use std::{borrow::Borrow, fmt, hash::Hash, marker::PhantomData};

use super::{
    decision::{Decision, Denied},
    line::Charged,
    quota::{Quota, Rate, TIME_MAX_NS},
    slots::Slots,
};
use crate::clock::Clock;

/// Keys a table holds unless told otherwise.
pub(super) const MAX_KEYS: usize = 100_000;

/// A token bucket for each key, in bounded memory.
///
/// At most [`max_keys`](Self::max_keys) keys are kept, 100,000 unless set. When there is no room for another one, keys whose
/// bucket is full again are forgotten, which lets nobody pass who would not; those whose bucket has been full for a minute are forgotten in
/// passing even before. When there are none, all further keys share one bucket a shard (of up to 64), so that neither a flood
/// of keys opens the gate, nor does it push out those who are known, nor shut out everyone new;
/// [`overflowed`](Self::overflowed) counts what went there. No thread is needed for any of it, and no lock to check a key that
/// is known and has no quota of its own.
///
/// A key itself is not kept, whatever its size: it is known by 64 bits of a keyed hash (SipHash-1-3 with a secret of this
/// table, for outsiders choose keys), and takes 60 to 80 bytes. Two of 100,000 keys have the same with a chance of one in four
/// thousand million, of a million with one in 37 million; they then share one quota.
///
/// ```
/// use l0::limits::{KeyedTokenBuckets, Quota};
/// let buckets: KeyedTokenBuckets<String> = KeyedTokenBuckets::new(Quota::per_minute(2));
/// buckets.set_quota("ada".to_owned(), Quota::per_minute(3));
/// let passed = |key: &str| (0..9).filter(|_| buckets.check(key).is_ok()).count();
/// assert_eq!((passed("bob"), passed("ada")), (2, 3));
/// ```
pub struct KeyedTokenBuckets<K> {
    slots: Slots,
    quota: Quota,
    clock: Clock,
    keys: PhantomData<fn(&K)>,
}

impl<K: Hash + Eq + Clone + Send + Sync> KeyedTokenBuckets<K> {
    /// Each key with this quota, on the system's clock.
    pub fn new(q: Quota) -> Self {
        Self::with_clock(q, Clock::system())
    }

    /// Each key with this quota, on this clock.
    pub fn with_clock(q: Quota, c: Clock) -> Self {
        Self { slots: Slots::new(MAX_KEYS, Rate::of(q)), quota: q, clock: c, keys: PhantomData }
    }

    /// How many keys are kept; those that came before are forgotten.
    #[must_use]
    pub fn max_keys(self, n: usize) -> Self {
        Self { slots: Slots::new(n, self.slots.rate), ..self }
    }

    /// May one of this key pass? A key that is known, with the quota of all, never waits; others for no longer than it takes to
    /// add another key, and to move the keys of a shard when it grows.
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
        let tag = self.slots.tag(key);
        let slot = self.slots.find(tag);
        // While the line is on its way from memory.
        let now_ns = self.now_ns();
        let rate = self.slots.rate;
        let now = rate.time(now_ns);
        match slot.and_then(|slot| slot.take_at_once(tag, rate, now, n)) {
            Some(full_at) => Ok(Decision::new(rate, full_at, now)),
            None => self.take(tag, now_ns, n),
        }
    }

    /// Where the key is not to be found, is refused, or somebody came between.
    #[cold]
    fn take(&self, tag: u64, now_ns: u64, n: u64) -> Result<Decision, Denied> {
        let charged = self.slots.take(tag, now_ns, n);
        let decision = decision(charged, now_ns);
        match charged.refused {
            None => Ok(decision),
            Some(refused) => Err(Denied::new(refused, n, charged.rate, decision)),
        }
    }

    /// The key's bucket as it is; takes nothing, and keeps nothing of a key that is not known.
    pub fn peek<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Decision
    where
        K: Borrow<Q>,
    {
        let now_ns = self.now_ns();
        decision(self.slots.look(self.slots.tag(key)), now_ns)
    }

    /// The quota of keys that have none of their own.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Another quota for one key, from now on; what it owes stays owed, in tokens. Such a key is kept for ever, beyond
    /// [`max_keys`](Self::max_keys) if need be.
    pub fn set_quota(&self, key: K, q: Quota) {
        self.slots.set_rate(self.slots.tag(&key), || self.now_ns(), |before| Rate::of(q).after(before));
    }

    fn now_ns(&self) -> u64 {
        self.clock.elapsed_ns().min(TIME_MAX_NS)
    }

    /// How many keys are kept.
    pub fn len(&self) -> usize {
        self.slots.room().len()
    }

    /// Whether no key is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many charges went to a shared bucket, for there was no room for their key.
    pub fn overflowed(&self) -> u64 {
        self.slots.room().overflowed()
    }
}

fn decision(charged: Charged, now_ns: u64) -> Decision {
    Decision::new(charged.rate, charged.full_at, charged.rate.time(now_ns))
}

impl<K> fmt::Debug for KeyedTokenBuckets<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedTokenBuckets").field("quota", &self.quota).finish_non_exhaustive()
    }
}
