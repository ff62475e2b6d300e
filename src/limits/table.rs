//! Many buckets by key, in bounded memory: shards of a hash table, each behind a lock.
//!
//! Scopes keep their accounts here. When the table is full, and nobody in it is as good as new, all further keys share one
//! bucket a shard: nobody gets a fresh one by pushing others out, nobody is let through uncounted, and nobody who is known
//! is shut out.

use crossbeam_utils::CachePadded;
use hashbrown::{HashTable, hash_table::Entry as Slot};
use parking_lot::{Mutex, MutexGuard};
use smol_str::SmolStr;

use super::room::{KeyHash, Room, Swept};

/// What is kept by key.
pub(super) trait Bucket {
    /// What all buckets of a shard have in common: their quota, for one.
    type Common;

    /// The moment from which on it is as good as new, in nanoseconds; `MAX` if it is not to be forgotten.
    fn is_new_at(&self, common: &Self::Common) -> u64;

    /// It is about to be forgotten.
    fn forget(&mut self, _key: &str, _common: &mut Self::Common) {}

    /// It is made for a key that may have been charged to the shared one before.
    fn begin_as(&mut self, shared: &Self);
}

pub(super) struct Table<B: Bucket> {
    shards: Box<[CachePadded<Mutex<Shard<B>>>]>,
    hash: KeyHash,
    room: Room,
}

pub(super) struct Shard<B: Bucket> {
    keys: HashTable<Entry<B>>,
    overflow: B,
    pub(super) common: B::Common,
}

/// Most keys are short enough to be in it, and an account has room for one: to find it takes one line of the cache.
#[repr(align(64))]
pub(super) struct Entry<B> {
    key: SmolStr,
    bucket: B,
}

/// A key's bucket, and what it shares with the others of its shard.
pub(super) struct Found<'s, B, C> {
    pub(super) bucket: &'s mut B,
    pub(super) common: &'s mut C,
    /// The key found no place: the bucket is that of all who did not.
    pub(super) is_shared: bool,
    /// It was made just now: who charges it [notes](Room::note) when it will be as good as new again.
    pub(super) is_new: bool,
}

/// A key's place: which shard, and its hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) shard: usize,
    hash: u64,
}

impl<B: Bucket> Shard<B> {
    /// Every bucket with its key, and at last the shared one, which has none.
    pub(super) fn each(&mut self, mut visit: impl FnMut(Option<&SmolStr>, &mut B, &mut B::Common)) {
        for Entry { key, bucket } in &mut self.keys {
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

impl<B: Bucket> Table<B> {
    /// Of so many keys at most, but for those that are pinned.
    pub(super) fn new(max_keys: usize, shard: impl Fn() -> (B, B::Common)) -> Self {
        Self::with_shards(Room::shards(max_keys), max_keys, shard)
    }

    /// For the few keys that a program itself names: in one shard, without a bound.
    pub(super) fn unbounded(shard: impl Fn() -> (B, B::Common)) -> Self {
        Self::with_shards(1, usize::MAX, shard)
    }

    fn with_shards(shards: usize, max_keys: usize, shard: impl Fn() -> (B, B::Common)) -> Self {
        let shard = || {
            let (overflow, common) = shard();
            CachePadded::new(Mutex::new(Shard { keys: HashTable::new(), overflow, common }))
        };
        let room = Room::new(max_keys, shards);
        Self { shards: (0..shards).map(|_| shard()).collect(), hash: KeyHash::new(), room }
    }

    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    #[inline]
    pub(super) fn place(&self, key: &str) -> Place {
        let hash = self.hash.of(key);
        Place { shard: KeyHash::shard(hash, self.shards.len()), hash }
    }

    #[inline]
    pub(super) fn lock(&self, shard: usize) -> MutexGuard<'_, Shard<B>> {
        self.shards[shard].lock()
    }

    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The key's bucket, made if it has none; the shared one if there is no place.
    #[inline]
    pub(super) fn bucket<'s>(
        &self,
        shard: &'s mut Shard<B>,
        place: Place,
        key: &str,
        now_ns: u64,
        new: impl FnOnce() -> B,
    ) -> Found<'s, B, B::Common> {
        match shard.keys.find_bucket_index(place.hash, |entry| entry.key == key) {
            Some(index) => match shard.keys.get_bucket_mut(index) {
                Some(Entry { bucket, .. }) => {
                    Found { bucket, common: &mut shard.common, is_shared: false, is_new: false }
                }
                None => {
                    Found { bucket: &mut shard.overflow, common: &mut shard.common, is_shared: true, is_new: false }
                }
            },
            None => self.add(shard, place, key, now_ns, new),
        }
    }

    #[cold]
    fn add<'s>(
        &self,
        shard: &'s mut Shard<B>,
        place: Place,
        key: &str,
        now_ns: u64,
        new: impl FnOnce() -> B,
    ) -> Found<'s, B, B::Common> {
        let mut bucket = new();
        // What an earlier run left of a key has a place in any case.
        let has_past = bucket.is_new_at(&shard.common) > now_ns;
        if has_past {
            self.room.pin();
        } else if !self.has_room(shard, place.shard, now_ns) {
            self.room.overflow();
            return Found { bucket: &mut shard.overflow, common: &mut shard.common, is_shared: true, is_new: false };
        } else {
            // It may just have been charged there: a place of its own is no second burst.
            bucket.begin_as(&shard.overflow);
        }
        let (bucket, common) = self.entry(shard, place, key, |_| bucket);
        Found { bucket, common, is_shared: false, is_new: true }
    }

    /// The key's bucket, made whether there is room or not: for what the program itself says of a key.
    pub(super) fn pinned<'s>(
        &self,
        shard: &'s mut Shard<B>,
        place: Place,
        key: &str,
        new: impl FnOnce() -> B,
    ) -> (&'s mut B, &'s mut B::Common) {
        self.entry(shard, place, key, |shared| {
            self.room.pin();
            let mut bucket = new();
            bucket.begin_as(shared);
            bucket
        })
    }

    /// The key's bucket, made beside the shared one if it has none.
    fn entry<'s>(
        &self,
        shard: &'s mut Shard<B>,
        place: Place,
        key: &str,
        new: impl FnOnce(&B) -> B,
    ) -> (&'s mut B, &'s mut B::Common) {
        let Shard { keys, overflow, common } = shard;
        let hash = |entry: &Entry<B>| self.hash.of(entry.key.as_str());
        let entry = match keys.entry(place.hash, |entry| entry.key == key, hash) {
            Slot::Occupied(slot) => slot.into_mut(),
            Slot::Vacant(slot) => slot.insert(Entry { key: key.into(), bucket: new(overflow) }).into_mut(),
        };
        (&mut entry.bucket, common)
    }

    /// The key's bucket if it has one, and what it shares.
    pub(super) fn find<'s>(
        &self,
        shard: &'s mut Shard<B>,
        place: Place,
        key: &str,
    ) -> Option<(&'s mut B, &'s mut B::Common)> {
        let Entry { bucket, .. } = shard.keys.find_mut(place.hash, |entry| entry.key == key)?;
        Some((bucket, &mut shard.common))
    }

    /// Takes a place for one key more, and makes it if it must.
    fn has_room(&self, shard: &mut Shard<B>, own: usize, now_ns: u64) -> bool {
        // Before it grows: what is as good as new need not move.
        if shard.keys.len() == shard.keys.capacity() && self.room.is_worth_it(own, now_ns) {
            self.sweep(shard, own, now_ns);
        }
        self.room.make(own, now_ns, |index| {
            if index == own {
                self.sweep(shard, own, now_ns);
            } else if let Some(mut other) = self.shards[index].try_lock() {
                // Never waits for a second lock.
                self.sweep(&mut other, index, now_ns);
            }
        })
    }

    fn sweep(&self, shard: &mut Shard<B>, index: usize, now_ns: u64) {
        let Shard { keys, common, .. } = shard;
        let mut swept = Swept::default();
        keys.retain(|Entry { key, bucket }| {
            let new_at = Some(bucket.is_new_at(common)).filter(|new_at| *new_at > now_ns);
            swept.saw(new_at);
            if new_at.is_none() {
                bucket.forget(key, common);
            }
            new_at.is_some()
        });
        self.room.swept(index, now_ns, &swept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Until(u64);

    impl Bucket for Until {
        type Common = ();

        fn is_new_at(&self, (): &()) -> u64 {
            self.0
        }

        fn begin_as(&mut self, _shared: &Self) {}
    }

    fn add(table: &Table<Until>, key: u64, now_ns: u64, until: u64) -> bool {
        let key = &key.to_string();
        let place = table.place(key);
        let mut shard = table.lock(place.shard);
        let before = table.room().overflowed();
        table.bucket(&mut shard, place, key, now_ns, || Until(0)).bucket.0 = until;
        table.room().note(place.shard, until);
        table.room().overflowed() == before
    }

    #[test]
    fn a_full_table_forgets_what_is_as_good_as_new_and_nothing_else() {
        for max in [1, 4, 300, 5_000] {
            let table = Table::new(max, || (Until(0), ()));
            for key in 0..max as u64 {
                assert!(add(&table, key, 1, if key % 4 == 0 { 10 } else { 1_000 }));
            }
            assert_eq!(table.room().len(), max);
            assert!(!add(&table, 1 << 40, 9, 99), "nothing is to be forgotten yet, of {max}");
            assert!(add(&table, 0, 9, 10), "who is known is not shut out");
            assert_eq!(table.room().overflowed(), 1);
            let freed = max.div_ceil(4) as u64;
            for key in 0..freed {
                assert!(add(&table, 1 << 41 | key, 10, 1_000), "{key} of {max}");
            }
            assert_eq!(table.room().len(), max);
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
        assert!(
            table.room().len() < 2_000,
            "{} are kept of a million that each lived for a moment",
            table.room().len()
        );
    }
}
