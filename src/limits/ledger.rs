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

#[cfg(test)]
mod tests {
    use super::{super::quota::Quota, *};

    /// A generator that is the same everywhere.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % n
        }
    }

    /// Whether in some window of a random schedule of charges, and of permits that are partly given back, more was used than
    /// the burst and what comes back: by what `rule` makes of what is outstanding.
    fn mints(seed: u64, rule: impl Fn(&Ledger, &Held, u64, Rate, u64) -> u64) -> bool {
        let rate = Rate::of(Quota::try_per(1, std::time::Duration::from_nanos(2)).unwrap().burst(5));
        let (mut random, mut ledger) = (Random(seed), Ledger::default());
        let (mut full_at, mut now) = (0, 0);
        let mut held: Vec<(Held, usize)> = Vec::new();
        let mut used: Vec<(u64, u64)> = Vec::new();
        for _ in 0..60 {
            now += [0, 0, 0, 1, 1, 2, 3, 7][random.below(8) as usize];
            if random.below(10) < 7 || held.is_empty() {
                let n = 1 + random.below(3);
                if let Ok(after) = rate.take(full_at, now, n) {
                    full_at = after;
                    held.push((ledger.hold(n, full_at), used.len()));
                    used.push((now, n));
                }
            } else {
                let (permit, index) = held.swap_remove(random.below(held.len() as u64) as usize);
                let actual = random.below(permit.tokens + 1);
                let units = rule(&ledger, &permit, permit.tokens - actual, rate, now);
                ledger.note_refund(units);
                full_at -= units.min(full_at);
                used[index].1 = actual;
            }
        }
        (0..used.len()).any(|first| {
            let mut sum = 0;
            used[first..].iter().any(|(at, n)| {
                sum += n;
                sum * 2 > 5 * 2 + (at - used[first].0)
            })
        })
    }

    #[test]
    fn what_is_given_back_mints_nothing_where_simpler_rules_do() {
        let schedules = 0..20_000;
        let sound = |ledger: &Ledger, held: &Held, tokens, rate, now| ledger.outstanding(held, tokens, rate, now);
        assert_eq!(schedules.clone().filter(|seed| mints(*seed, sound)).count(), 0);
        let naive = |_: &Ledger, _: &Held, tokens: u64, rate: Rate, _: u64| rate.units(tokens);
        assert!(schedules.clone().any(|seed| mints(seed, naive)), "all that was not used");
        let clamped = |_: &Ledger, held: &Held, tokens: u64, rate: Rate, now: u64| {
            rate.units(tokens).min(held.full_at.saturating_sub(now))
        };
        assert!(schedules.clone().any(|seed| mints(seed, clamped)), "no more than its own debt");
    }

    #[test]
    fn what_is_outstanding_is_carried_over_changes_of_quota_and_in_the_end_forgotten() {
        let [slow, fast] = [2, 8].map(|n| Rate::of(Quota::per_second(n).burst(100)));
        let mut ledger = Ledger::default();
        let held = ledger.hold(10, slow.units(10));
        assert_eq!(ledger.outstanding(&held, 10, slow, 0), slow.units(10));
        // A second brings two back; then eight a second.
        ledger.change(1_000_000_000, slow, fast);
        assert_eq!(ledger.outstanding(&held, 10, fast, 1_000_000_000), fast.units(8));
        assert_eq!(ledger.outstanding(&held, 3, fast, 1_500_000_000), fast.units(3));
        assert_eq!(ledger.outstanding(&held, 10, fast, 1_500_000_000), fast.units(4));
        ledger.note_refund(fast.units(1));
        assert_eq!(ledger.outstanding(&held, 10, fast, 1_500_000_000), fast.units(3));
        assert_eq!(ledger.outstanding(&held, 10, fast, 9_000_000_000), 0);
        (0..CHANGES_KEPT).for_each(|_| ledger.change(1_500_000_000, fast, fast));
        assert_eq!(ledger.outstanding(&held, 10, fast, 1_500_000_000), 0, "too many changes ago");
    }
}
