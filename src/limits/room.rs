//! How many keys there is room for, and where some may be forgotten.
//!
//! Nothing sweeps in the background: when there is no room for a key, who brings it looks for keys whose bucket is full
//! again, in a few shards that may have some. A full bucket is the same as none, so to forget it changes no answer; but if
//! there is no room when it comes back, or the bucket of those who found none still owes, it is one of them.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use crossbeam_utils::CachePadded;
use siphasher::sip::SipHasher13;

use crate::sync::{AtomicU64, Ordering};

/// Keys a shard has before there are two; and how many shards there are at most.
const SHARD_KEYS: usize = 256;
const SHARDS_MAX: usize = 64;
/// Shards that are swept for the sake of one key when there is no room.
const SWEPT_AT_ONCE: usize = 8;
/// A shard of more keys than this that was swept in vain is not swept again for so long: a flood of keys is not to be a
/// flood of sweeps.
const REST_FROM_KEYS: usize = 256;
const REST_NS: u64 = 1_000_000;

pub(super) struct Room {
    len: AtomicU64,
    max_keys: u64,
    overflowed: AtomicU64,
    /// For each shard: before this moment a sweep finds nothing.
    worth_at: Box<[CachePadded<AtomicU64>]>,
}

/// What a sweep has seen of a shard.
#[derive(Default)]
pub(super) struct Swept {
    kept: usize,
    forgotten: usize,
    /// When the first of those that stay is as good as new.
    worth_at: Option<u64>,
}

impl Swept {
    /// A key that is as good as new from then on, or was forgotten.
    pub(super) fn saw(&mut self, new_at: Option<u64>) {
        match new_at {
            Some(at) => {
                (self.kept, self.worth_at) = (self.kept + 1, Some(self.worth_at.map_or(at, |first| first.min(at))))
            }
            None => self.forgotten += 1,
        }
    }
}

impl Room {
    /// For so many keys at most, but for those that are pinned.
    pub(super) fn new(max_keys: usize, shards: usize) -> Self {
        Self {
            len: AtomicU64::new(0),
            max_keys: max_keys as u64,
            overflowed: AtomicU64::new(0),
            worth_at: (0..shards).map(|_| CachePadded::new(AtomicU64::new(u64::MAX))).collect(),
        }
    }

    /// How many shards so many keys are spread over: a power of two.
    pub(super) fn shards(max_keys: usize) -> usize {
        (max_keys / SHARD_KEYS).max(1).next_power_of_two().min(SHARDS_MAX)
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed) as usize
    }

    /// Charges that went to a shared bucket, for there was no room for their key.
    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// One more of them.
    pub(super) fn overflow(&self) {
        self.overflowed.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a place for one key, if there is one.
    pub(super) fn take(&self) -> bool {
        let one_more = |len| (len < self.max_keys).then_some(len + 1);
        self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Takes a place in any case.
    pub(super) fn pin(&self) {
        self.len.fetch_add(1, Ordering::Relaxed);
    }

    /// A place is free again.
    pub(super) fn leave(&self) {
        self.len.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a place for a key of this shard, and has shards swept where that may make one.
    pub(super) fn make(&self, own: usize, now_ns: u64, mut sweep: impl FnMut(usize)) -> bool {
        if self.take() {
            return true;
        }
        let shards = self.worth_at.len();
        let worth = (0..shards).map(|step| (own + step) % shards).filter(|shard| self.is_worth_it(*shard, now_ns));
        for shard in worth.take(SWEPT_AT_ONCE) {
            sweep(shard);
            if self.take() {
                return true;
            }
        }
        false
    }

    /// A bucket of this shard is as good as new from then on, be it sooner than it was.
    pub(super) fn note(&self, shard: usize, new_at: u64) {
        self.worth_at[shard].fetch_min(new_at, Ordering::Relaxed);
    }

    pub(super) fn is_worth_it(&self, shard: usize, now_ns: u64) -> bool {
        self.worth_at[shard].load(Ordering::Relaxed) <= now_ns
    }

    /// A shard was swept.
    pub(super) fn swept(&self, shard: usize, now_ns: u64, swept: &Swept) {
        let Swept { kept, forgotten, worth_at } = *swept;
        let worth_at = worth_at.unwrap_or(u64::MAX);
        let is_in_vain = forgotten == 0 && kept > REST_FROM_KEYS;
        let worth_at = if is_in_vain { worth_at.max(now_ns.saturating_add(REST_NS)) } else { worth_at };
        self.len.fetch_sub(forgotten as u64, Ordering::Relaxed);
        self.worth_at[shard].store(worth_at, Ordering::Relaxed);
    }
}

/// `SipHash-1-3` with a secret of its own, for outsiders choose keys.
pub(super) struct KeyHash(SipHasher13);

impl KeyHash {
    pub(super) fn new() -> Self {
        let random = RandomState::new();
        Self(SipHasher13::new_with_keys(random.hash_one(0), random.hash_one(1)))
    }

    #[inline]
    pub(super) fn of<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        let mut hasher = self.0;
        key.hash(&mut hasher);
        hasher.finish()
    }

    /// Which of so many shards, a power of two, a key of this hash is in: not by the bits that places in it are told by.
    #[inline]
    pub(super) fn shard(hash: u64, shards: usize) -> usize {
        (hash >> 32) as usize & (shards - 1)
    }
}
