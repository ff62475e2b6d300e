//! The level of a bucket that threads share without a lock: one word, changed by compare-and-swap, and only by who may pass.
//!
//! The word is the time at which the bucket will be full, and in its last two bits which of four slots has the rate that
//! this time is told by. Whoever changes the rate fills the next slot, then moves the word: so a charge that was
//! computed by the rate before finds another word and is computed anew.

use crossbeam_utils::CachePadded;

use super::quota::{Quota, Rate, Refused};
use crate::sync::{AtomicU64, Ordering};

const VERSION_BITS: u32 = 2;
const VERSIONS: u64 = 1 << VERSION_BITS;

#[derive(Debug)]
pub(super) struct Level {
    word: CachePadded<AtomicU64>,
    slots: [Slot; VERSIONS as usize],
}

#[derive(Debug)]
struct Slot {
    cost: AtomicU64,
    capacity: AtomicU64,
    scale: AtomicU64,
}

/// A bucket at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) rate: Rate,
    pub(super) full_at: u64,
    pub(super) now: u64,
}

/// A change of quota, at its moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changed {
    pub(super) at_ns: u64,
    pub(super) from: Rate,
    pub(super) to: Rate,
    /// Tokens that are owed beyond what a bucket can.
    pub(super) excess: u64,
}

impl Level {
    /// Of a full bucket.
    pub(super) fn new(rate: Rate) -> Self {
        let slot = || Slot {
            cost: AtomicU64::new(rate.cost),
            capacity: AtomicU64::new(rate.capacity),
            scale: AtomicU64::new(rate.scale),
        };
        Self { word: CachePadded::new(AtomicU64::new(0)), slots: [slot(), slot(), slot(), slot()] }
    }

    #[inline]
    fn seen(&self, word: u64, now_ns: u64) -> Seen {
        // Filled before the word was moved to it, which the word's acquire load has seen.
        let slot = &self.slots[(word % VERSIONS) as usize];
        let rate = Rate {
            cost: slot.cost.load(Ordering::Relaxed),
            capacity: slot.capacity.load(Ordering::Relaxed),
            scale: slot.scale.load(Ordering::Relaxed),
        };
        Seen { rate, full_at: word >> VERSION_BITS, now: rate.time(now_ns) }
    }

    #[inline]
    pub(super) fn look(&self, now_ns: u64) -> Seen {
        self.seen(self.word.load(Ordering::Acquire), now_ns)
    }

    /// Moves the word by what `next` makes of the bucket, until nobody came between; says what it was moved to.
    fn swap<E>(&self, now_ns: impl Fn() -> u64, next: impl Fn(Seen) -> Result<u64, E>) -> Result<Seen, (E, Seen)> {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let seen = self.seen(word, now_ns());
            let full_at = next(seen).map_err(|error| (error, seen))?;
            match self.moves(word, full_at) {
                Ok(_) => return Ok(Seen { full_at, ..seen }),
                Err(other) => word = other,
            }
        }
    }

    /// Takes `n` tokens, if they are there and nobody comes between: what is worth a place in the caller's code.
    #[inline]
    pub(super) fn take_at_once(&self, now_ns: u64, n: u64) -> Option<Seen> {
        let word = self.word.load(Ordering::Acquire);
        let seen = self.seen(word, now_ns);
        let full_at = seen.rate.take(seen.full_at, seen.now, n).ok()?;
        self.moves(word, full_at).is_ok().then_some(Seen { full_at, ..seen })
    }

    /// Moves the word under the same rate. Release: the next to come sees what this one saw of the slots.
    #[inline]
    fn moves(&self, word: u64, full_at: u64) -> Result<u64, u64> {
        let moved = (full_at << VERSION_BITS) | (word % VERSIONS);
        self.word.compare_exchange_weak(word, moved, Ordering::AcqRel, Ordering::Acquire)
    }

    /// Takes `n` tokens. A refusal writes nothing.
    pub(super) fn take(&self, now_ns: u64, n: u64) -> Result<Seen, (Refused, Seen)> {
        self.swap(|| now_ns, |seen| seen.rate.take(seen.full_at, seen.now, n))
    }

    /// Takes `n` tokens that may only be used when the debt is within the burst.
    pub(super) fn take_ahead(&self, now_ns: u64, n: u64) -> Result<Seen, (Refused, Seen)> {
        self.swap(|| now_ns, |seen| seen.rate.take_ahead(seen.full_at, seen.now, n))
    }

    /// Charges what was spent already.
    pub(super) fn overdraw(&self, now_ns: u64, n: u64) -> Seen {
        let taken = self.swap(|| now_ns, |seen| Ok::<_, Refused>(seen.rate.overdraw(seen.full_at, seen.now, n)));
        taken.unwrap_or_else(|(_, seen)| seen)
    }

    /// Gives back the units that `outstanding` says; it is asked again, with the time, whenever somebody came between.
    pub(super) fn give_back(&self, now_ns: impl Fn() -> u64, outstanding: impl Fn(Rate, u64) -> u64) -> (u64, Seen) {
        let units = std::cell::Cell::new(0);
        let taken = self.swap(
            || 0,
            |seen| {
                units.set(outstanding(seen.rate, now_ns()).min(seen.full_at));
                if units.get() == 0 { Err(()) } else { Ok(seen.full_at - units.get()) }
            },
        );
        let seen = taken.unwrap_or_else(|((), seen)| seen);
        (units.get(), Seen { now: seen.rate.time(now_ns()), ..seen })
    }

    /// Another quota from this moment on; the debt stays, with the tokens that are owed beyond it. One caller at a time.
    pub(super) fn set_rate(&self, quota: Quota, excess: u64, now_ns: impl Fn() -> u64) -> Changed {
        let mut word = self.word.load(Ordering::Acquire);
        let rate = Rate::of(quota).after(self.seen(word, 0).rate);
        let version = (word % VERSIONS + 1) % VERSIONS;
        let slot = &self.slots[version as usize];
        slot.cost.store(rate.cost, Ordering::Relaxed);
        slot.capacity.store(rate.capacity, Ordering::Relaxed);
        slot.scale.store(rate.scale, Ordering::Relaxed);
        loop {
            // After the look: a charge of meanwhile is not taken for a debt of then.
            let at_ns = now_ns();
            let seen = self.seen(word, at_ns);
            let debt = Rate::debt(seen.full_at, seen.now);
            let (full_at, excess) = seen.rate.owed_under(debt, excess, rate, at_ns);
            match self.word.compare_exchange_weak(
                word,
                (full_at << VERSION_BITS) | version,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Changed { at_ns, from: seen.rate, to: rate, excess },
                Err(other) => word = other,
            }
        }
    }
}
