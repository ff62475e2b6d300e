//! What was charged on trial, and how much of it may be given back. A permit and its bucket ask; under the bucket's lock.
//!
//! To give back `n` tokens is not to move the bucket's time back by `n` intervals: a part of them may have come back by
//! themselves since, and what others gave back has moved the time, too. A naive refund mints tokens. The rule: of a
//! permit is outstanding what the bucket's time was right after its charge, less what permits from before it gave back since, less
//! now; and no more than that is given back. What later permits give back lies behind it and does not touch it. A change of
//! quota carries what is outstanding over, as it does the debt.

use std::collections::VecDeque;

use super::quota::Rate;

/// Of one bucket: its permits that are not settled, in the order of their charges.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    next: u64,
    /// Number, and when the bucket would be full if nothing had been charged since.
    open: VecDeque<(u64, u64)>,
}

/// One charge on trial.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) tokens: u64,
    number: u64,
}

impl Ledger {
    /// Right after the charge.
    pub(super) fn hold(&mut self, tokens: u64, full_at: u64) -> Held {
        let number = self.next;
        self.next += 1;
        self.open.push_back((number, full_at));
        Held { tokens, number }
    }

    /// When the bucket will be full, but for what was charged since `held`.
    pub(super) fn full_at(&self, held: &Held) -> u64 {
        self.find(held).map_or(0, |index| self.open[index].1)
    }

    /// Units of `held` that may be given back now, for `tokens` of it that were not used.
    pub(super) fn outstanding(&self, held: &Held, tokens: u64, rate: Rate, now_ns: u64) -> u64 {
        let Ok(index) = self.find(held) else { return 0 };
        let left = self.open[index].1.saturating_sub(rate.time(now_ns));
        left.min(rate.units(tokens.min(held.tokens)))
    }

    /// The permit is settled, and so many units of it were given back.
    pub(super) fn settle(&mut self, held: &Held, units: u64) {
        let Ok(index) = self.find(held) else { return };
        self.open.remove(index);
        if units > 0 {
            for (_, full_at) in self.open.range_mut(index..) {
                *full_at = full_at.saturating_sub(units);
            }
        }
    }

    /// Whether all permits are settled.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The quota changes: debts are carried over at this moment.
    pub(super) fn change(&mut self, at_ns: u64, from: Rate, to: Rate) {
        for (_, full_at) in &mut self.open {
            let left = full_at.saturating_sub(from.time(at_ns));
            // Rounded down: what is carried over is not more than it was.
            let carried = u128::from(left) * u128::from(to.cost) / u128::from(from.cost);
            *full_at = to.time(at_ns).saturating_add(u64::try_from(carried).unwrap_or(u64::MAX));
        }
    }

    fn find(&self, held: &Held) -> Result<usize, usize> {
        self.open.binary_search_by_key(&held.number, |(number, _)| *number)
    }
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
    fn mints(seed: u64, rule: impl Fn(&Ledger, &Held, u64, u64, Rate, u64) -> u64) -> bool {
        let rate = Rate::of(Quota::try_per(1, std::time::Duration::from_nanos(2)).unwrap().burst(5));
        let (mut random, mut ledger) = (Random(seed), Ledger::default());
        let (mut full_at, mut now) = (0, 0);
        let mut held: Vec<(Held, u64, usize)> = Vec::new();
        let mut used: Vec<(u64, u64)> = Vec::new();
        for _ in 0..60 {
            now += [0, 0, 0, 1, 1, 2, 3, 7][random.below(8) as usize];
            if random.below(10) < 7 || held.is_empty() {
                let n = 1 + random.below(3);
                if let Ok(after) = rate.take(full_at, now, n) {
                    full_at = after;
                    held.push((ledger.hold(n, full_at), full_at, used.len()));
                    used.push((now, n));
                }
            } else {
                let (permit, after, index) = held.swap_remove(random.below(held.len() as u64) as usize);
                let actual = random.below(permit.tokens + 1);
                let units = rule(&ledger, &permit, after, permit.tokens - actual, rate, now);
                ledger.settle(&permit, units);
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
        let sound = |ledger: &Ledger, held: &Held, _, tokens, rate, now| ledger.outstanding(held, tokens, rate, now);
        assert_eq!(schedules.clone().filter(|seed| mints(*seed, sound)).count(), 0);
        let naive = |_: &Ledger, _: &Held, _, tokens: u64, rate: Rate, _: u64| rate.units(tokens);
        assert!(schedules.clone().any(|seed| mints(seed, naive)), "all that was not used");
        let clamped = |_: &Ledger, _: &Held, after: u64, tokens: u64, rate: Rate, now: u64| {
            rate.units(tokens).min(after.saturating_sub(now))
        };
        assert!(schedules.clone().any(|seed| mints(seed, clamped)), "no more than its own debt");
    }

    #[test]
    fn in_whatever_order_permits_come_back_nothing_is_lost() {
        let rate = Rate::of(Quota::per_second(2).burst(100));
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
            let mut ledger = Ledger::default();
            let mut full_at = 0;
            let held: Vec<Held> = (1..5)
                .map(|n| {
                    full_at += rate.units(n);
                    ledger.hold(n, full_at)
                })
                .collect();
            for index in order {
                let units = ledger.outstanding(&held[index], held[index].tokens, rate, 0);
                ledger.settle(&held[index], units);
                full_at -= units;
            }
            assert_eq!((full_at, ledger.is_empty()), (0, true), "{order:?}");
        }
    }

    #[test]
    fn what_is_outstanding_is_carried_over_changes_of_quota() {
        let [slow, fast] = [2, 8].map(|n| Rate::of(Quota::per_second(n).burst(100)));
        let mut ledger = Ledger::default();
        let earlier = ledger.hold(1, slow.units(1));
        let held = ledger.hold(10, slow.units(11));
        assert_eq!(ledger.outstanding(&held, 10, slow, 0), slow.units(10));
        // A second brings two back; then eight a second.
        for _ in 0..50 {
            ledger.change(1_000_000_000, slow, fast);
            assert_eq!(ledger.outstanding(&held, 10, fast, 1_000_000_000), fast.units(9));
            assert_eq!(ledger.outstanding(&held, 3, fast, 1_500_000_000), fast.units(3));
            assert_eq!(ledger.outstanding(&held, 10, fast, 1_500_000_000), fast.units(5));
            ledger.change(1_000_000_000, fast, slow);
        }
        assert_eq!(ledger.outstanding(&held, 10, slow, 1_000_000_000), slow.units(9));
        ledger.settle(&earlier, slow.units(1));
        assert_eq!(ledger.outstanding(&held, 10, slow, 1_000_000_000), slow.units(8));
        assert_eq!(ledger.outstanding(&held, 10, slow, 9_000_000_000), 0);
        ledger.settle(&held, 0);
        assert_eq!(ledger.outstanding(&held, 10, slow, 0), 0, "once");
    }
}
