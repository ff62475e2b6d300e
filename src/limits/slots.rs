//! The levels of very many keys. Who is known is found and charged without a lock, in one line of the cache for the most part.
//!
//! A key is known by 64 bits of its hash, its tag, and is in the [line](super::line) that its tag says or soon behind it. Who does
//! not find it there asks again under the lock of the shard, which all have who add, move or remove keys.

use std::{hash::Hash, sync::OnceLock};

use crossbeam_utils::CachePadded;
use hashbrown::{HashTable, hash_table::Entry};

use super::{
    line::{self, Charged, FIRST_TAG, Line, SLOTS, Slot},
    quota::{Rate, Refused},
    room::{KeyHash, Room, Swept},
};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Of the first segment of a shard; each further one is twice as large.
const FIRST_LINES: usize = if cfg!(loom) { 1 } else { 4 };
const SEGMENTS_MAX: u32 = 26;
/// Who comes again within so long finds its slot if there was room for it: to be found costs less than to be added.
const LONG_NS: u64 = 60_000_000_000;

pub(super) struct Slots {
    shards: Box<[CachePadded<Shard>]>,
    room: Room,
    hash: KeyHash,
    /// Of keys that have none of their own.
    pub(super) rate: Rate,
}

struct Shard {
    /// The segment that is in use; 0 if there is none yet. Those before it are kept, for somebody may still look into them.
    current: AtomicU64,
    segments: Box<[OnceLock<Box<[Line]>>]>,
    book: Mutex<Book>,
}

struct Book {
    /// The level that keys share which found no place.
    shared: u64,
    /// The last moment at which a slot was taken from a key: readings of the clock come late, and who is given the slot
    /// must begin above the level that it had.
    latest_ns: u64,
    own: HashTable<Own>,
}

/// A key with a quota of its own.
struct Own {
    tag: u64,
    rate: Rate,
    full_at: u64,
    /// Tokens that are owed beyond what a bucket can.
    excess: u64,
}

impl Slots {
    /// For so many keys at most, but for those that have a quota of their own.
    pub(super) fn new(max_keys: usize, rate: Rate) -> Self {
        Self::with_shards(Room::shards(max_keys), max_keys, rate)
    }

    pub(super) fn with_shards(shards: usize, max_keys: usize, rate: Rate) -> Self {
        // Keys are not spread evenly, and are not put far from their line.
        let doublings = (max_keys / shards).div_ceil(FIRST_LINES * SLOTS).max(1).ilog2() + 4;
        let shard = || {
            CachePadded::new(Shard {
                segments: (0..doublings.min(SEGMENTS_MAX)).map(|_| OnceLock::new()).collect(),
                current: AtomicU64::new(0),
                book: Mutex::new(Book { shared: 0, latest_ns: 0, own: HashTable::new() }),
            })
        };
        Self {
            shards: (0..shards).map(|_| shard()).collect(),
            room: Room::new(max_keys, shards),
            hash: KeyHash::new(),
            rate,
        }
    }

    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    #[inline]
    pub(super) fn tag<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        self.hash.of(key).max(FIRST_TAG)
    }

    #[inline]
    fn index(&self, tag: u64) -> usize {
        KeyHash::shard(tag, self.shards.len())
    }

    /// Where the key is, if it is found without a lock.
    #[inline]
    pub(super) fn find(&self, tag: u64) -> Option<Slot<'_>> {
        line::find(self.shards[self.index(tag)].lines(), tag)
    }

    /// Takes `n` tokens of this key's bucket. A refusal writes nothing.
    pub(super) fn take(&self, tag: u64, now_ns: u64, n: u64) -> Charged {
        let taken = self.find(tag).and_then(|slot| slot.take(tag, self.rate, now_ns, n));
        taken.unwrap_or_else(|| self.take_under_lock(tag, now_ns, n))
    }

    fn take_under_lock(&self, tag: u64, now_ns: u64, n: u64) -> Charged {
        let (index, rate) = (self.index(tag), self.rate);
        let shard = &self.shards[index];
        let mut book = shard.book.lock();
        if let Some(own) = book.own.find_mut(tag, |own| own.tag == tag) {
            let charged = Charged::new(own.rate, own.full_at, own.rate.take(own.full_at, own.rate.time(now_ns), n));
            own.full_at = charged.full_at;
            return charged;
        }
        if let Some(charged) = line::find(shard.lines(), tag).and_then(|slot| slot.take(tag, rate, now_ns, n)) {
            return charged;
        }
        let now_ns = now_ns.max(book.latest_ns);
        let now = rate.time(now_ns);
        // It may just have been charged there: a place of its own is no second burst.
        let charged = Charged::new(rate, book.shared, rate.take(book.shared, now, n));
        let is_kept = match charged.refused {
            None => self.add(index, &mut book, tag, now_ns, charged.full_at),
            // It can never pass; who can is refused by what the others took.
            Some(refused) => refused == Refused::TooLarge,
        };
        if !is_kept {
            self.room.overflow();
            book.shared = charged.full_at;
        }
        charged
    }

    /// The key's bucket as it is; keeps nothing of a key that is not known.
    pub(super) fn look(&self, tag: u64) -> Charged {
        let shard = &self.shards[self.index(tag)];
        let known = || line::find(shard.lines(), tag).and_then(|slot| slot.level_of(tag));
        let seen = |rate, full_at| Charged { rate, full_at, refused: None };
        if let Some(full_at) = known() {
            return seen(self.rate, full_at);
        }
        let book = shard.book.lock();
        match book.own.find(tag, |own| own.tag == tag) {
            Some(own) => seen(own.rate, own.full_at),
            // Who has no place would begin as the bucket that is shared, or share it.
            None => seen(self.rate, known().unwrap_or(book.shared)),
        }
    }

    /// Another rate for one key, made of the one before; what it owes stays owed, in tokens.
    pub(super) fn set_rate(&self, tag: u64, now_ns: impl Fn() -> u64, rate: impl Fn(Rate) -> Rate) {
        let shard = &self.shards[self.index(tag)];
        let mut book = shard.book.lock();
        let book = &mut *book;
        let own = match book.own.entry(tag, |own| own.tag == tag, |own| own.tag) {
            Entry::Occupied(own) => own.into_mut(),
            Entry::Vacant(place) => {
                let full_at = line::find(shard.lines(), tag).map(Slot::close);
                if full_at.is_none() {
                    self.room.pin();
                }
                let full_at = full_at.unwrap_or(book.shared);
                place.insert(Own { tag, rate: self.rate, full_at, excess: 0 }).into_mut()
            }
        };
        // Nobody charges it now: a charge of meanwhile is not taken for a debt of then.
        let (before, now_ns) = (own.rate, now_ns());
        own.rate = rate(before);
        let debt = Rate::debt(own.full_at, before.time(now_ns));
        (own.full_at, own.excess) = before.owed_under(debt, own.excess, own.rate, now_ns);
    }

    /// Gives a key a slot and its level, which is not reached yet, if there is room.
    fn add(&self, index: usize, book: &mut Book, tag: u64, now_ns: u64, full_at: u64) -> bool {
        book.latest_ns = now_ns;
        let shard = &self.shards[index];
        let in_passing = |full_by| line::take_from_idle(shard.lines(), tag, full_by);
        let slot = in_passing(self.long_ago(now_ns))
            .or_else(|| self.room.take().then(|| self.take_free(index, tag, now_ns))?)
            .or_else(|| in_passing(self.rate.time(now_ns)))
            .or_else(|| {
                let has_room = self.room.make(index, now_ns, |other| {
                    if other == index {
                        self.sweep(index, book, now_ns);
                    } else if let Some(mut book) = self.shards[other].book.try_lock() {
                        // Never waits for a second lock.
                        self.sweep(other, &mut book, now_ns);
                    }
                });
                has_room.then(|| self.take_free(index, tag, now_ns))?
            });
        let Some(slot) = slot else { return false };
        slot.give(tag, full_at);
        self.room.note(index, self.rate.ns(full_at));
        true
    }

    /// Whose bucket was full by then is forgotten in passing, though there may be room.
    fn long_ago(&self, now_ns: u64) -> u64 {
        now_ns.checked_sub(LONG_NS).map_or(0, |then_ns| self.rate.time(then_ns))
    }

    /// A slot that nobody has, for a key that there is room for.
    fn take_free(&self, index: usize, tag: u64, now_ns: u64) -> Option<Slot<'_>> {
        let free = || line::free(self.shards[index].lines(), tag);
        let slot = free().or_else(|| self.grow(index, now_ns).then(free)?);
        if slot.is_none() {
            self.room.leave();
        }
        slot
    }

    /// Forgets the keys of a shard that are as good as new.
    fn sweep(&self, index: usize, book: &mut Book, now_ns: u64) {
        book.latest_ns = book.latest_ns.max(now_ns);
        let (shard, now) = (&self.shards[index], self.rate.time(now_ns));
        let mut swept = Swept::default();
        for slot in line::used(shard.lines()) {
            let is_forgotten = slot.take_from_idle(now);
            if is_forgotten {
                slot.clear();
            }
            swept.saw((!is_forgotten).then(|| self.rate.ns(slot.level())));
        }
        self.room.swept(index, now_ns, &swept);
    }

    /// Moves the keys of a shard to a segment that is larger, but for those of long ago.
    fn grow(&self, index: usize, now_ns: u64) -> bool {
        let (shard, long_ago) = (&self.shards[index], self.long_ago(now_ns));
        let Some(next) = shard.segments.get(shard.current.load(Ordering::Relaxed) as usize) else { return false };
        let mut kept = Vec::new();
        for slot in line::used(shard.lines()) {
            if slot.take_from_idle(long_ago) {
                self.room.leave();
            } else {
                kept.push((slot.tag(), slot.close()));
            }
        }
        let mut size = (shard.lines().len() * 2).max(FIRST_LINES);
        let lines = loop {
            let lines: Box<[Line]> = (0..size).map(|_| Line::new()).collect();
            let has_place =
                |(tag, level): &(u64, u64)| line::free(&lines, *tag).map(|slot| slot.give(*tag, *level)).is_some();
            if kept.iter().all(has_place) {
                break lines;
            }
            size *= 2;
        };
        let is_next = next.set(lines).is_ok();
        shard.current.fetch_add(u64::from(is_next), Ordering::Release);
        is_next
    }
}

impl Shard {
    #[inline]
    fn lines(&self) -> &[Line] {
        let current = self.current.load(Ordering::Acquire) as usize;
        current.checked_sub(1).and_then(|last| self.segments[last].get()).map_or(&[], |lines| lines)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::limits::quota::Quota;

    const BURST: u64 = 1_000_000;

    /// So many tokens a nanosecond.
    fn rate(scale: u64) -> Rate {
        Rate::of(Quota::per_second(scale * 1_000_000_000).burst(BURST))
    }

    /// A token is a nanosecond: so many taken are full again after so many.
    fn slots(max_keys: usize) -> Slots {
        Slots::new(max_keys, rate(1))
    }

    fn used(slots: &Slots) -> usize {
        slots.shards.iter().flat_map(|shard| line::used(shard.lines())).count()
    }

    fn charge(slots: &Slots, key: u64, now_ns: u64, n: u64) -> bool {
        let before = slots.room().overflowed();
        assert!(slots.take(slots.tag(&key), now_ns, n).refused.is_none());
        slots.room().overflowed() == before
    }

    #[test]
    fn who_is_full_again_makes_room_and_nobody_else_does() {
        for max in [1, 4, 300, 5_000] {
            let slots = slots(max);
            for key in 0..max as u64 {
                assert!(charge(&slots, key, 1, if key % 4 == 0 { 9 } else { 999 }));
            }
            assert_eq!(slots.room().len(), max);
            assert!(!charge(&slots, 1 << 40, 9, 1), "nobody is full again yet, of {max}");
            assert!(charge(&slots, 0, 9, 1), "who is known is not shut out");
            let freed = max.div_ceil(4) as u64;
            for key in 0..freed {
                assert!(charge(&slots, 1 << 41 | key, 11, 990), "{key} of {max}");
            }
            assert_eq!(slots.room().len(), max);
            assert!(!charge(&slots, 1 << 42, 11, 990), "all places are taken by those who owe");
            assert!(max == 1 || charge(&slots, 1, 999, 1), "who owes is still known");
            assert_eq!(slots.room().overflowed(), 2);
        }
    }

    #[test]
    fn levels_are_kept_while_a_table_grows() {
        let slots = slots(100_000);
        for key in 0..10_000 {
            assert!(charge(&slots, key, 1, key + 1));
            for known in [0, key / 3, key] {
                assert_eq!(slots.look(slots.tag(&known)).full_at, known + 2);
            }
        }
        assert_eq!(slots.room().len(), 10_000);
        for key in 0..10_000 {
            assert_eq!(slots.look(slots.tag(&key)).full_at, key + 2);
        }
    }

    #[test]
    fn keys_of_long_ago_are_forgotten_though_there_is_room() {
        let slots = slots(10_000_000);
        for key in 0..100_000 {
            assert!(charge(&slots, key, key * LONG_NS / 1_000, 1));
        }
        let len = slots.room().len();
        assert!((1_000..10_000).contains(&len), "{len} are kept of 100,000, of whom 1,000 were here lately");
        assert_eq!(used(&slots), len);
    }

    #[test]
    fn a_quota_of_its_own_holds_wherever_the_key_is() {
        let slots = slots(64);
        let own = |slots: &Slots, key: u64| {
            slots.set_rate(slots.tag(&key), || 1, |_| Rate::of(Quota::per_hour(2)));
            (0..5).filter(|_| slots.take(slots.tag(&key), 1, 1).refused.is_none()).count()
        };
        assert_eq!(own(&slots, 1_000), 2, "of a key that is not known");
        (0..63).for_each(|key| assert!(charge(&slots, key, 1, 1)));
        assert_eq!(own(&slots, 1_001), 2, "of one that there is no room for");
        assert_eq!(own(&slots, 5), 1, "of one that owes one already");
        assert_eq!(own(&slots, 5), 0, "of one that had one");
        assert_eq!(slots.room().len(), 65);
        for key in [1_000_u64, 1_001, 5] {
            let seen = slots.look(slots.tag(&key));
            assert_eq!((seen.rate.burst(), seen.rate.remaining(Rate::debt(seen.full_at, 1))), (2, 0));
        }
    }

    #[test]
    fn who_reads_the_clock_and_rests_begins_when_the_slot_was_taken() {
        for stranger in [8, 5, 1 << 32 | 5] {
            let slots = Slots::with_shards(2, 1, rate(1));
            let take = |tag, now_ns, n| slots.take(tag, now_ns, n).refused.is_none();
            assert!(take(4, 1, BURST));
            assert!(take(stranger, BURST + 1, 1), "4 was full again, and is forgotten: in passing, or by a sweep");
            assert!(take(4, 1, BURST), "who comes with a time of before begins now");
            assert!(!take(4, BURST + 1, 1), "three bursts in the time of one");
        }
    }

    #[test]
    fn room_is_made_in_other_shards_whatever_the_units() {
        for scale in 1..=8 {
            let slots = Slots::with_shards(2, 4, rate(scale));
            let full_ns = 1 + BURST.div_ceil(scale);
            let take_n = |tag: u64, now_ns, n| {
                assert!(slots.take(tag, now_ns, n).refused.is_none());
                slots.room().overflowed()
            };
            let take = |tag, now_ns| take_n(tag, now_ns, BURST);
            (2..6).for_each(|tag| assert_eq!(take(tag, if tag < 4 { 1 } else { 100 }), 0));
            assert_eq!(take_n(1 << 32 | 2, full_ns - 1, 1), 1, "scale {scale}: all owe for a moment more");
            (4..6).for_each(|tag| assert_eq!(take(1 << 32 | tag, full_ns), 1, "scale {scale}: two are full"));
            (6..8).for_each(|tag| assert_eq!(take(1 << 32 | tag, full_ns + 99), 1, "scale {scale}: and two more"));
            assert_eq!(take(9, full_ns + 99), 2, "scale {scale}: there are four, of now");
        }
    }

    #[test]
    fn a_table_that_grows_forgets_who_was_here_long_ago() {
        let slots = Slots::with_shards(1, 1_000, rate(1));
        let take = |tag, now_ns, n| assert!(slots.take(tag, now_ns, n).refused.is_none());
        // One more than are put near a line: it shares, but there are as many lines again now, and some keys there.
        (1..=65).for_each(|key| take(key << 16, 1, 1));
        (1..=9).for_each(|key| take(key << 16 | 20, 1, 1));
        assert_eq!((used(&slots), slots.room().len()), (73, 73));
        (101..=165).for_each(|key| take(key << 16, 2 * LONG_NS, BURST));
        assert_eq!((used(&slots), slots.room().len()), (64, 64));
    }

    #[test]
    fn a_table_that_is_swept_again_and_again_does_not_grow() {
        let slots = Slots::with_shards(2, 8, rate(1));
        for round in 0..1_000 {
            // Those of the other shard are full again, and swept.
            (2..10).for_each(|key| {
                let tag = (round % 2) << 32 | round << 8 | key;
                assert!(slots.take(tag, 1 + 10 * round, 9).refused.is_none());
            });
            assert_eq!((slots.room().len(), slots.room().overflowed()), (8, 0));
        }
        assert!(slots.shards.iter().all(|shard| shard.lines().len() == FIRST_LINES));
    }

    #[test]
    fn what_a_bucket_cannot_owe_is_owed_all_the_same() {
        let slots = slots(4);
        assert!(charge(&slots, 1, 1, BURST));
        let tag = slots.tag(&1_u64);
        slots.set_rate(tag, || 1, |_| Rate::of(Quota::per_day(1)));
        slots.set_rate(tag, || 1, |_| rate(1));
        assert!(slots.take(tag, 1, 1).refused.is_some());
        // In whole tokens, upwards.
        assert!(slots.take(tag, 4, 1).refused.is_none());
    }

    #[test]
    fn who_is_refused_takes_no_place() {
        let slots = Slots::with_shards(1, 2, rate(1));
        let take = |tag, now_ns, n| slots.take(tag, now_ns, n).refused.is_none();
        assert!(take(4, 1, 1) && take(5, 1, 1));
        assert!(take(6, 1, BURST), "from the shared level");
        assert!(!take(7, 2, 2) && !take(8, 2, BURST + 1));
        assert!(slots.find(4).is_some() && slots.find(5).is_some(), "nobody was put out for them");
        assert_eq!((slots.room().len(), slots.room().overflowed()), (2, 2), "what can never pass is not counted");
    }

    #[test]
    fn a_stranger_that_gets_a_quota_of_its_own_owes_what_it_took() {
        let slots = Slots::with_shards(1, 1, rate(1));
        assert!(slots.take(4, 1, 1).refused.is_none() && slots.take(5, 1, BURST).refused.is_none());
        slots.set_rate(5, || 1, |before| before);
        assert!(slots.take(5, 1, 1).refused.is_some());
    }
}
