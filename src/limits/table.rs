//! Many buckets by key, in bounded memory: shards of a hash table, each behind a lock.
//!
//! Keyed buckets and scopes keep theirs here. Nothing sweeps in the background: who adds a key looks at a few others in
//! passing, and when the table is full, removes those that are as good as new. A bucket that is full again is the same as
//! none, so to forget it changes no answer. When none is, all further keys share one bucket a shard: nobody gets a
//! fresh one by pushing others out, nobody is let through uncounted, and nobody who is known is shut out.

use std::{
    borrow::Borrow,
    hash::{BuildHasher, Hash, RandomState},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use crossbeam_utils::CachePadded;
use hashbrown::{HashTable, hash_table::Entry as Slot};
use parking_lot::{Mutex, MutexGuard};

/// Keys a shard has before there are two; and how many shards there are at most.
const SHARD_KEYS: usize = 256;
const SHARDS_MAX: usize = 64;
/// Shards that are swept for the sake of one key when the table is full.
const SWEPT_AT_ONCE: usize = 8;
/// A shard of more keys than this that was swept in vain is not swept again for so long: a flood of keys is not to be a
/// flood of sweeps.
const REST_FROM_KEYS: usize = 256;
const REST_NS: u64 = 1_000_000;

/// What is kept by key.
pub(super) trait Bucket<K> {
    /// What all buckets of a shard have in common: their quota, for one.
    type Common;

    /// The moment from which on it is as good as new, in nanoseconds; `MAX` if it is not to be forgotten.
    fn is_new_at(&self, common: &Self::Common) -> u64;

    /// It is about to be forgotten.
    fn forget(&mut self, _key: &K, _common: &mut Self::Common) {}

    /// It is made for a key that may have been charged to the shared one before.
    fn begin_as(&mut self, shared: &Self);
}

pub(super) struct Table<K, B: Bucket<K>> {
    shards: Box<[CachePadded<Cell<K, B>>]>,
    /// Outsiders choose keys: the hash has a secret of this table in it.
    hasher: RandomState,
    len: AtomicUsize,
    max_keys: usize,
    overflowed: AtomicU64,
}

struct Cell<K, B: Bucket<K>> {
    shard: Mutex<Shard<K, B>>,
    /// Before this moment a sweep finds nothing.
    worth_at: AtomicU64,
}

pub(super) struct Shard<K, B: Bucket<K>> {
    keys: HashTable<(K, B)>,
    overflow: B,
    pub(super) common: B::Common,
}

/// A key's bucket, and what it shares with the others of its shard.
pub(super) struct Found<'s, B, C> {
    pub(super) bucket: &'s mut B,
    pub(super) common: &'s mut C,
    /// The key found no place: the bucket is that of all who did not.
    pub(super) is_shared: bool,
    /// It was made just now: who charges it [notes](Table::note) when it will be as good as new again.
    pub(super) is_new: bool,
}

/// A key's place: which shard, and its hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) shard: usize,
    hash: u64,
}

impl<K, B: Bucket<K>> Shard<K, B> {
    /// Every bucket with its key, and at last the shared one, which has none.
    pub(super) fn each(&mut self, mut visit: impl FnMut(Option<&K>, &mut B, &mut B::Common)) {
        for (key, bucket) in &mut self.keys {
            visit(Some(key), bucket, &mut self.common);
        }
        visit(None, &mut self.overflow, &mut self.common);
    }

    /// The bucket of keys that find no place, as it is.
    pub(super) fn overflow(&self) -> &B {
        &self.overflow
    }

    /// The same, to be changed.
    pub(super) fn shared(&mut self) -> (&mut B, &mut B::Common) {
        (&mut self.overflow, &mut self.common)
    }
}

impl<K: Hash + Eq, B: Bucket<K>> Table<K, B> {
    /// Of so many keys at most, but for those that are pinned.
    pub(super) fn new(max_keys: usize, shard: impl Fn() -> (B, B::Common)) -> Self {
        Self::with_shards((max_keys / SHARD_KEYS).max(1).next_power_of_two().min(SHARDS_MAX), max_keys, shard)
    }

    /// For the few keys that a program itself names: in one shard, without a bound.
    pub(super) fn unbounded(shard: impl Fn() -> (B, B::Common)) -> Self {
        Self::with_shards(1, usize::MAX, shard)
    }

    fn with_shards(shards: usize, max_keys: usize, shard: impl Fn() -> (B, B::Common)) -> Self {
        let cell = || {
            let (overflow, common) = shard();
            let shard = Mutex::new(Shard { keys: HashTable::new(), overflow, common });
            CachePadded::new(Cell { shard, worth_at: AtomicU64::new(u64::MAX) })
        };
        Self {
            shards: (0..shards).map(|_| cell()).collect(),
            hasher: RandomState::new(),
            len: AtomicUsize::new(0),
            max_keys,
            overflowed: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(super) fn place<Q: Hash + ?Sized>(&self, key: &Q) -> Place
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        // The table within uses the lowest bits and the highest.
        Place { shard: (hash >> 32) as usize & (self.shards.len() - 1), hash }
    }

    #[inline]
    pub(super) fn lock(&self, shard: usize) -> MutexGuard<'_, Shard<K, B>> {
        self.shards[shard].shard.lock()
    }

    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Charges that went to a shared bucket, for there was no place for their key.
    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// The key's bucket, made if it has none; the shared one if there is no place.
    #[inline]
    pub(super) fn bucket<'s, Q>(
        &self,
        shard: &'s mut Shard<K, B>,
        place: Place,
        key: &Q,
        now_ns: u64,
        new: impl FnOnce() -> B,
    ) -> Found<'s, B, B::Common>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        match shard.keys.find_bucket_index(place.hash, |(known, _)| known.borrow() == key) {
            Some(index) => match shard.keys.get_bucket_mut(index) {
                Some((_, bucket)) => Found { bucket, common: &mut shard.common, is_shared: false, is_new: false },
                None => {
                    Found { bucket: &mut shard.overflow, common: &mut shard.common, is_shared: true, is_new: false }
                }
            },
            None => self.add(shard, place, key, now_ns, new),
        }
    }

    #[cold]
    fn add<'s, Q>(
        &self,
        shard: &'s mut Shard<K, B>,
        place: Place,
        key: &Q,
        now_ns: u64,
        new: impl FnOnce() -> B,
    ) -> Found<'s, B, B::Common>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let (key, mut bucket) = (key.to_owned(), new());
        // What an earlier run left of a key has a place in any case.
        let has_past = bucket.is_new_at(&shard.common) > now_ns;
        if has_past {
            self.len.fetch_add(1, Ordering::Relaxed);
        } else if !self.has_room(shard, place.shard, now_ns) {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            return Found { bucket: &mut shard.overflow, common: &mut shard.common, is_shared: true, is_new: false };
        } else {
            // It may just have been charged there: a place of its own is no second burst.
            bucket.begin_as(&shard.overflow);
        }
        let (bucket, common) = self.entry(shard, place, key, || bucket);
        Found { bucket, common, is_shared: false, is_new: true }
    }

    /// The key's bucket, made whether there is room or not: for what the program itself says of a key.
    pub(super) fn pinned<'s>(
        &self,
        shard: &'s mut Shard<K, B>,
        place: Place,
        key: K,
        new: impl FnOnce() -> B,
    ) -> (&'s mut B, &'s mut B::Common) {
        if shard.keys.find(place.hash, |(known, _)| *known == key).is_none() {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
        self.entry(shard, place, key, new)
    }

    fn entry<'s>(
        &self,
        shard: &'s mut Shard<K, B>,
        place: Place,
        key: K,
        new: impl FnOnce() -> B,
    ) -> (&'s mut B, &'s mut B::Common) {
        let hash = |(known, _): &(K, B)| self.hasher.hash_one(known);
        let bucket = match shard.keys.entry(place.hash, |(known, _)| *known == key, hash) {
            Slot::Occupied(slot) => slot.into_mut(),
            Slot::Vacant(slot) => slot.insert((key, new())).into_mut(),
        };
        (&mut bucket.1, &mut shard.common)
    }

    /// The key's bucket if it has one, and what it shares.
    pub(super) fn find<'s, Q: Hash + Eq + ?Sized>(
        &self,
        shard: &'s mut Shard<K, B>,
        place: Place,
        key: &Q,
    ) -> Option<(&'s mut B, &'s mut B::Common)>
    where
        K: Borrow<Q>,
    {
        let (_, bucket) = shard.keys.find_mut(place.hash, |(known, _)| known.borrow() == key)?;
        Some((bucket, &mut shard.common))
    }

    /// A bucket of this shard is as good as new from then on, be it sooner than it was.
    pub(super) fn note(&self, shard: usize, new_at: u64) {
        self.shards[shard].worth_at.fetch_min(new_at, Ordering::Relaxed);
    }

    /// Takes a place for one key more, and makes it if it must.
    fn has_room(&self, shard: &mut Shard<K, B>, own: usize, now_ns: u64) -> bool {
        // Before it grows: what is as good as new need not move.
        let grows = shard.keys.len() == shard.keys.capacity();
        if grows && self.is_worth_it(own, now_ns) {
            self.sweep(shard, own, now_ns);
        }
        if self.take_place() {
            return true;
        }
        if !grows && self.is_worth_it(own, now_ns) {
            self.sweep(shard, own, now_ns);
        }
        let others = (1..self.shards.len()).map(|step| (own + step) % self.shards.len());
        let worth = others.filter(|other| self.is_worth_it(*other, now_ns)).take(SWEPT_AT_ONCE);
        for other in worth {
            if self.take_place() {
                return true;
            }
            // Never waits for a second lock.
            if let Some(mut shard) = self.shards[other].shard.try_lock() {
                self.sweep(&mut shard, other, now_ns);
            }
        }
        self.take_place()
    }

    fn take_place(&self) -> bool {
        let one_more = |len| (len < self.max_keys).then_some(len + 1);
        self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn is_worth_it(&self, shard: usize, now_ns: u64) -> bool {
        self.shards[shard].worth_at.load(Ordering::Relaxed) <= now_ns
    }

    fn sweep(&self, shard: &mut Shard<K, B>, index: usize, now_ns: u64) {
        let Shard { keys, common, .. } = shard;
        let (before, mut worth_at) = (keys.len(), u64::MAX);
        keys.retain(|(key, bucket)| {
            let new_at = bucket.is_new_at(common);
            if new_at > now_ns {
                worth_at = worth_at.min(new_at);
                return true;
            }
            bucket.forget(key, common);
            false
        });
        if keys.len() == before && before > REST_FROM_KEYS {
            worth_at = worth_at.max(now_ns.saturating_add(REST_NS));
        }
        self.len.fetch_sub(before - keys.len(), Ordering::Relaxed);
        self.shards[index].worth_at.store(worth_at, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Until(u64);

    impl Bucket<u64> for Until {
        type Common = ();

        fn is_new_at(&self, (): &()) -> u64 {
            self.0
        }

        fn begin_as(&mut self, _shared: &Self) {}
    }

    fn add(table: &Table<u64, Until>, key: u64, now_ns: u64, until: u64) -> bool {
        let place = table.place(&key);
        let mut shard = table.lock(place.shard);
        let before = table.overflowed();
        table.bucket(&mut shard, place, &key, now_ns, || Until(0)).bucket.0 = until;
        table.note(place.shard, until);
        table.overflowed() == before
    }

    #[test]
    fn a_full_table_forgets_what_is_as_good_as_new_and_nothing_else() {
        for max in [1, 4, 300, 5_000] {
            let table = Table::new(max, || (Until(0), ()));
            for key in 0..max as u64 {
                assert!(add(&table, key, 1, if key % 4 == 0 { 10 } else { 1_000 }));
            }
            assert_eq!(table.len(), max);
            assert!(!add(&table, 1 << 40, 9, 99), "nothing is to be forgotten yet, of {max}");
            assert!(add(&table, 0, 9, 10), "who is known is not shut out");
            assert_eq!(table.overflowed(), 1);
            let freed = max.div_ceil(4) as u64;
            for key in 0..freed {
                assert!(add(&table, 1 << 41 | key, 10, 1_000), "{key} of {max}");
            }
            assert_eq!(table.len(), max);
            assert!(!add(&table, 1 << 42, 10, 1_000), "all places are taken by the living");
            assert!(max == 1 || add(&table, 1, 999, 1_000), "who lives is still known");
        }
    }

    #[test]
    fn a_table_that_grows_sweeps_first() {
        let table = Table::new(100_000, || (Until(0), ()));
        for key in 0..1_000_000_u64 {
            assert!(add(&table, key, key * 10, key * 10 + 5));
        }
        assert!(table.len() < 2_000, "{} are kept of a million that each lived for a moment", table.len());
    }
}
