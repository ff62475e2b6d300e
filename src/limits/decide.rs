//! One decision over several scopes: all pass and are charged, or none is.
//!
//! Every lock that is needed is taken first, always in the same order (by scope, then by shard), so two decisions cannot wait
//! for each other and nobody sees a charge that is taken back. Then each charge is judged in the caller's order; the first
//! refusal does not end it, for the answer is the longest wait of all that refuse.

use std::{borrow::Cow, sync::Arc};

use parking_lot::MutexGuard;
use smallvec::SmallVec;

use super::{
    account::Account,
    decision::{Decision, Denied},
    home::{Home, bounded, is_bounded},
    judge::{Asked, Charged},
    ledger::Held,
    notices::Notice,
    scope::{Charge, Inner},
    table::Shard,
};

/// Scopes that are decided over without an allocation.
const USUAL: usize = 4;

/// One charge of a decision.
struct Step<'c> {
    inner: &'c Arc<Inner>,
    asked: Asked<'c>,
    is_given: bool,
    /// Which of the locks is its shard's.
    lock: usize,
    charged: Charged,
}

struct Lock<'a> {
    scope: u64,
    shard: usize,
    guard: MutexGuard<'a, Shard<Account>>,
}

/// What was charged on trial, over all scopes.
pub(super) struct Trial(Vec<Part>);

struct Part {
    scope: Arc<Inner>,
    key: Box<str>,
    held: Option<(Held, bool)>,
    cost: u64,
    /// The cost was given, not the one that everything has.
    is_given: bool,
}

pub(super) fn decide(charges: &[Charge<'_>], on_trial: bool) -> Result<(Decision, Trial), Denied> {
    // Of keys of any length that are told apart by their hash.
    let keys: SmallVec<[Cow<'_, str>; USUAL]>;
    let mut steps: SmallVec<[Step<'_>; USUAL]> = SmallVec::new();
    if charges.iter().all(|charge| is_bounded(charge.key)) {
        charges.iter().for_each(|charge| steps.push(Step::new(charge, charge.key)));
    } else {
        keys = charges.iter().map(|charge| bounded(charge.key)).collect();
        charges.iter().zip(&keys).for_each(|(charge, key)| steps.push(Step::new(charge, key)));
    }
    tell_repeated(&mut steps);
    let mut locks = lock_all(&mut steps);
    look_at_the_clock(&mut steps);
    let mut notices: Vec<(usize, Notice)> = Vec::new();
    let mut worst: Option<Denied> = None;
    let mut tightest: Option<Decision> = None;
    let mut is_dry_run_denial = false;
    for (index, step) in steps.iter_mut().enumerate() {
        let shard = &mut *locks[step.lock].guard;
        let mut tell = |notice| notices.push((index, notice));
        match step.inner.decide(shard, step.asked, &mut step.charged, &mut tell) {
            Ok(decision) => {
                is_dry_run_denial |= decision.is_dry_run_denial();
                if tightest.is_none_or(|tightest| decision.is_tighter_than(&tightest)) {
                    tightest = Some(decision);
                }
            }
            Err(denied) if worst.is_none_or(|worst| denied.outlasts(&worst)) => worst = Some(denied),
            Err(_) => {}
        }
    }
    let mut trial = Trial(Vec::new());
    if worst.is_some() {
        // In reverse: a bucket that was charged twice is what it was before the first.
        for step in steps.iter().rev() {
            if step.charged.is_to_be_undone() {
                step.inner.undo(&mut locks[step.lock].guard, step.asked, &step.charged);
            }
        }
        // What was taken back was not used up.
        notices.retain(|(_, notice)| !matches!(notice, Notice::Warned { .. }));
    } else if on_trial {
        trial.0.extend(steps.iter().map(|step| step.hold(&mut locks[step.lock].guard)));
    }
    drop(locks);
    steps.iter().for_each(|step| step.inner.home.stir());
    for (index, notice) in notices {
        steps[index].inner.tell(steps[index].asked.key, &notice);
    }
    match worst {
        Some(denied) => Err(denied),
        None => {
            let decision = tightest.unwrap_or_else(Decision::of_nothing).dry_run_denial(is_dry_run_denial);
            Ok((decision, trial))
        }
    }
}

/// Of a bucket that is asked more than once, each says what was asked before.
fn tell_repeated(steps: &mut SmallVec<[Step<'_>; USUAL]>) {
    for index in 1..steps.len() {
        let (before, rest) = steps.split_at_mut(index);
        let step = &mut rest[0];
        let is_same = |other: &&mut Step<'_>| {
            other.inner.id == step.inner.id && other.inner.is_same(other.asked.key, step.asked.key)
        };
        for other in before.iter_mut().filter(is_same) {
            other.asked.before.get_or_insert(0);
            step.asked.before = Some(step.asked.before.unwrap_or(0).saturating_add(other.asked.n));
        }
    }
}

/// One moment for all, or for those of one `L0`.
fn look_at_the_clock(steps: &mut SmallVec<[Step<'_>; USUAL]>) {
    let mut last: Option<(&Arc<Home>, u64)> = None;
    for step in steps {
        let home = &step.inner.home;
        let now_ns = match last {
            Some((known, now_ns)) if Arc::ptr_eq(known, home) => now_ns,
            _ => home.now_ns(),
        };
        (step.asked.now_ns, last) = (now_ns, Some((home, now_ns)));
    }
}

/// Each lock once, in their order.
fn lock_all<'c>(steps: &mut SmallVec<[Step<'c>; USUAL]>) -> SmallVec<[Lock<'c>; USUAL]> {
    let mut order: SmallVec<[(u64, usize, usize); USUAL]> = SmallVec::new();
    for (index, step) in steps.iter().enumerate() {
        let of = (step.inner.id, step.asked.place.shard, index);
        // They are few: what is already there is moved by one.
        let at = order.iter().rposition(|before| *before < of).map_or(0, |before| before + 1);
        order.insert(at, of);
    }
    let mut locks: SmallVec<[Lock<'c>; USUAL]> = SmallVec::new();
    for (_, _, index) in order {
        let step = &mut steps[index];
        let (inner, scope, shard): (&'c Arc<Inner>, _, _) = (step.inner, step.inner.id, step.asked.place.shard);
        if locks.last().is_none_or(|last| (last.scope, last.shard) != (scope, shard)) {
            locks.push(Lock { scope, shard, guard: inner.accounts.lock(shard) });
        }
        step.lock = locks.len() - 1;
    }
    locks
}

impl<'c> Step<'c> {
    #[inline]
    fn new(charge: &Charge<'c>, key: &'c str) -> Self {
        let inner = &charge.scope.inner;
        let asked = Asked { place: inner.place(key), key, n: charge.cost.unwrap_or(1), now_ns: 0, before: None };
        Self { inner, asked, is_given: charge.cost.is_some(), lock: 0, charged: Charged::default() }
    }

    fn hold(&self, shard: &mut Shard<Account>) -> Part {
        Part {
            scope: Arc::clone(self.inner),
            key: Box::from(self.asked.key),
            held: self.inner.hold(shard, self.asked, &self.charged),
            cost: self.asked.n,
            is_given: self.is_given,
        }
    }
}

impl Trial {
    /// Settles with what was used of the charges whose cost was given, if any was; of those that cost one as everything does
    /// nothing is known.
    pub(super) fn settle(self, actual: Option<u64>, decision: Decision) -> Decision {
        let is_any_given = self.0.iter().any(|part| part.is_given);
        let settled = self.0.into_iter().map(|part| {
            let actual = match actual {
                Some(0) => 0,
                Some(actual) if part.is_given || !is_any_given => actual,
                _ => part.cost,
            };
            part.scope.settle(&part.key, part.held.as_ref(), part.cost, actual)
        });
        settled.reduce(|a, b| if b.is_tighter_than(&a) { b } else { a }).unwrap_or(decision)
    }
}
