//! What was charged on trial, and how much of it may be given back. A permit and its bucket ask; under the bucket's lock.
//!
//! To give back `n` tokens is not to move the bucket's time back by `n` intervals: a part of them may have come back by
//! themselves since, and what others gave back has moved the time, too. A naive refund mints tokens. The rule: of a
//! permit is outstanding what the bucket's time was right after its charge, less what was given back to the bucket since, less now;
//! and no more than that is given back. A change of quota carries what is outstanding over, as it does the debt.

use std::collections::VecDeque;

use super::quota::Rate;

/// Changes of quota that a permit may live through; one that saw more gives nothing back.
const CHANGES_KEPT: usize = 16;

/// Of one bucket.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    generation: u64,
    /// Units given back in this generation.
    refunded: u128,
    changes: VecDeque<Change>,
}

/// The end of a generation.
#[derive(Debug)]
struct Change {
    at_ns: u64,
    from: Rate,
    to: Rate,
    refunded: u128,
}

/// One charge on trial.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) tokens: u64,
    /// When the bucket would have been full right after.
    full_at: u64,
    generation: u64,
    refunded: u128,
}

impl Ledger {
    /// Right after the charge.
    pub(super) fn hold(&self, tokens: u64, full_at: u64) -> Held {
        Held { tokens, full_at, generation: self.generation, refunded: self.refunded }
    }

    /// Units of `held` that may be given back now, for `tokens` of it that were not used.
    pub(super) fn outstanding(&self, held: &Held, tokens: u64, rate: Rate, now_ns: u64) -> u64 {
        let Some(seen) = usize::try_from(self.generation - held.generation).ok().filter(|n| *n <= self.changes.len())
        else {
            return 0;
        };
        let (mut full_at, mut refunded) = (held.full_at, held.refunded);
        for change in self.changes.range(self.changes.len() - seen..) {
            let left = less(full_at, change.refunded - refunded).saturating_sub(change.from.time(change.at_ns));
            // Rounded down: what is carried over is not more than it was.
            let carried = u128::from(left) * u128::from(change.to.cost) / u128::from(change.from.cost);
            full_at = change.to.time(change.at_ns).saturating_add(u64::try_from(carried).unwrap_or(u64::MAX));
            refunded = 0;
        }
        let left = less(full_at, self.refunded - refunded).saturating_sub(rate.time(now_ns));
        left.min(rate.units(tokens.min(held.tokens)))
    }

    pub(super) fn note_refund(&mut self, units: u64) {
        self.refunded += u128::from(units);
    }

    /// The quota changes: debts are carried over at this moment.
    pub(super) fn change(&mut self, at_ns: u64, from: Rate, to: Rate) {
        if self.changes.len() == CHANGES_KEPT {
            self.changes.pop_front();
        }
        self.changes.push_back(Change { at_ns, from, to, refunded: std::mem::take(&mut self.refunded) });
        self.generation += 1;
    }
}

fn less(full_at: u64, refunded: u128) -> u64 {
    u64::try_from(u128::from(full_at).saturating_sub(refunded)).unwrap_or(u64::MAX)
}
