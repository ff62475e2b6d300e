//! Words that threads meet at without a lock: lines of the cache with tags of keys and their levels.
//!
//! The level of a slot only grows: a charge moves it on, and another key gets the slot only when the level has passed, and
//! begins above it. So a compare-and-swap of a level after whose reading the tag was the right one charges this key and
//! no other. A slot that is taken from its key has the level [`UNDER_LOCK`] until another gets it.

use super::quota::{Rate, Refused};
use crate::sync::{AtomicU64, Ordering};

pub(super) const SLOTS: usize = 4;
/// A key is not further from its line than this.
const WINDOW: usize = 16;

/// Tags of no key: of a slot that never had one, behind which a search does not go on, and of one that has none now.
const EMPTY: u64 = 0;
const GONE: u64 = 1;
pub(super) const FIRST_TAG: u64 = 2;

/// Higher than any level.
const UNDER_LOCK: u64 = u64::MAX;

#[repr(align(64))]
pub(super) struct Line {
    tags: [AtomicU64; SLOTS],
    levels: [AtomicU64; SLOTS],
}

/// A place in a line.
#[derive(Clone, Copy)]
pub(super) struct Slot<'s> {
    tag: &'s AtomicU64,
    level: &'s AtomicU64,
}

/// A bucket at a moment, and whether it let somebody pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charged {
    pub(super) rate: Rate,
    pub(super) full_at: u64,
    pub(super) refused: Option<Refused>,
}

/// Where this key is, if it is here. Not behind a slot that never had a key.
#[inline]
pub(super) fn find(lines: &[Line], tag: u64) -> Option<Slot<'_>> {
    let mask = lines.len().wrapping_sub(1);
    let line = lines.get(tag as usize & mask)?;
    match line.find(tag) {
        Some(slot) => Some(slot),
        None => find_further(lines, tag),
    }
}

#[cold]
fn find_further(lines: &[Line], tag: u64) -> Option<Slot<'_>> {
    had_keys(lines, tag).find(|slot| slot.tag() == tag)
}

/// Where this tag may be, nearest first.
#[inline]
fn window(lines: &[Line], tag: u64) -> impl Iterator<Item = Slot<'_>> {
    let mask = lines.len().wrapping_sub(1);
    (0..WINDOW.min(lines.len())).flat_map(move |step| lines[(tag as usize).wrapping_add(step) & mask].slots())
}

fn had_keys(lines: &[Line], tag: u64) -> impl Iterator<Item = Slot<'_>> {
    window(lines, tag).take_while(|slot| slot.tag() != EMPTY)
}

/// The nearest slot that nobody has.
pub(super) fn free(lines: &[Line], tag: u64) -> Option<Slot<'_>> {
    window(lines, tag).find(|slot| matches!(slot.tag(), EMPTY | GONE))
}

/// The nearest slot of a key whose bucket was full by then, taken from it.
pub(super) fn take_from_idle(lines: &[Line], tag: u64, full_by: u64) -> Option<Slot<'_>> {
    had_keys(lines, tag).find(|slot| slot.take_from_idle(full_by))
}

/// All that keys have.
pub(super) fn used(lines: &[Line]) -> impl Iterator<Item = Slot<'_>> {
    lines.iter().flat_map(Line::slots).filter(Slot::is_used)
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            tags: std::array::from_fn(|_| AtomicU64::new(EMPTY)),
            levels: std::array::from_fn(|_| AtomicU64::new(UNDER_LOCK)),
        }
    }

    #[inline]
    fn slots(&self) -> impl Iterator<Item = Slot<'_>> {
        self.tags.iter().zip(&self.levels).map(|(tag, level)| Slot { tag, level })
    }

    /// Without a branch for each slot, which nobody could predict.
    #[inline]
    fn find(&self, tag: u64) -> Option<Slot<'_>> {
        let is = |slot: usize| u32::from(self.tags[slot].load(Ordering::Acquire) == tag) << slot;
        let found = is(0) | is(1) | is(2) | is(3);
        let slot = found.trailing_zeros() as usize % SLOTS;
        (found != 0).then(|| Slot { tag: &self.tags[slot], level: &self.levels[slot] })
    }
}

impl Slot<'_> {
    /// Acquire: who sees another key's tag sees that the level is not the last key's any more.
    #[inline]
    pub(super) fn tag(&self) -> u64 {
        self.tag.load(Ordering::Acquire)
    }

    pub(super) fn level(&self) -> u64 {
        self.level.load(Ordering::Relaxed)
    }

    fn is_used(&self) -> bool {
        self.tag() >= FIRST_TAG && self.level() != UNDER_LOCK
    }

    /// The level of this tag's key, if it is here.
    #[inline]
    pub(super) fn level_of(self, tag: u64) -> Option<u64> {
        let level = self.level.load(Ordering::Acquire);
        self.is_of(tag, level).then_some(level)
    }

    /// Whether this level, which was read before, is that of this tag's key. Who gives the slot away writes the tag first.
    #[inline]
    fn is_of(self, tag: u64, level: u64) -> bool {
        level != UNDER_LOCK && self.tag.load(Ordering::Relaxed) == tag
    }

    /// Takes `n` tokens, if the key is still here, has them and nobody comes between; says when the bucket will be full.
    #[inline]
    pub(super) fn take_at_once(self, tag: u64, rate: Rate, now: u64, n: u64) -> Option<u64> {
        let level = self.level_of(tag)?;
        let full_at = rate.take(level, now, n).ok()?;
        self.swap(level, full_at).is_ok().then_some(full_at)
    }

    #[inline]
    fn swap(self, level: u64, full_at: u64) -> Result<u64, u64> {
        self.level.compare_exchange_weak(level, full_at, Ordering::AcqRel, Ordering::Acquire)
    }

    /// Takes `n` tokens, if the key is still here.
    pub(super) fn take(self, tag: u64, rate: Rate, now_ns: u64, n: u64) -> Option<Charged> {
        let now = rate.time(now_ns);
        let mut level = self.level_of(tag)?;
        loop {
            let charged = Charged::new(rate, level, rate.take(level, now, n));
            if charged.refused.is_some() {
                return Some(charged);
            }
            match self.swap(level, charged.full_at) {
                Ok(_) => return Some(charged),
                Err(other) if self.is_of(tag, other) => level = other,
                Err(_) => return None,
            }
        }
    }

    /// Takes the slot from its key, if that is as good as new.
    pub(super) fn take_from_idle(self, now: u64) -> bool {
        let level = self.level();
        level <= now && self.level.compare_exchange(level, UNDER_LOCK, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The slot was taken from its key, which is forgotten.
    pub(super) fn clear(self) {
        self.tag.store(GONE, Ordering::Release);
    }

    /// Takes the slot from its key for good, and says the level; to be found elsewhere, or under the lock.
    pub(super) fn close(self) -> u64 {
        let level = self.level.swap(UNDER_LOCK, Ordering::AcqRel);
        debug_assert_ne!(level, UNDER_LOCK, "who takes slots from keys has the lock");
        level
    }

    pub(super) fn give(self, tag: u64, full_at: u64) {
        self.tag.store(tag, Ordering::Release);
        self.level.store(full_at, Ordering::Release);
    }
}

impl Charged {
    #[inline]
    pub(super) fn new(rate: Rate, full_at: u64, taken: Result<u64, Refused>) -> Self {
        match taken {
            Ok(full_at) => Self { rate, full_at, refused: None },
            Err(refused) => Self { rate, full_at, refused: Some(refused) },
        }
    }
}
