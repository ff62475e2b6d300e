//! One decision over several scopes: all pass and are charged, or none is.
//!
//! Every lock that is needed is taken first, always in the same order (by scope, then by shard), so two decisions cannot wait
//! for each other and nobody sees a charge that is taken back. Then each charge is judged in the caller's order; the first
//! refusal does not end it, for the answer is the longest wait of all that refuse.

use std::sync::Arc;

use parking_lot::MutexGuard;
use smallvec::SmallVec;

use super::{
    account::Account,
    decision::{Decision, Denied},
    home::bounded,
    judge::Verdict,
    ledger::Held,
    scope::{Charge, Inner},
    table::{Place, Shard},
};

type Guard<'a> = MutexGuard<'a, Shard<String, Account>>;

/// What was charged on trial, over all scopes.
pub(super) struct Trial(SmallVec<[Part; 2]>);

struct Part {
    scope: Arc<Inner>,
    key: Box<str>,
    held: Option<(Held, bool)>,
    cost: u64,
    /// The cost was given, not the one that everything has.
    is_given: bool,
}

pub(super) fn decide(charges: &[Charge<'_>], on_trial: bool) -> Result<(Decision, Trial), Denied> {
    let keys: SmallVec<[_; 4]> = charges.iter().map(|charge| bounded(charge.key)).collect();
    let places: SmallVec<[Place; 4]> =
        charges.iter().zip(&keys).map(|(charge, key)| charge.scope.inner.place(key)).collect();
    let lock_of = |index: usize| (charges[index].scope.inner.id, places[index].shard);
    let now_ns = charges.first().map_or(0, |charge| charge.scope.inner.home.clock.elapsed_ns());
    let mut order: SmallVec<[usize; 4]> = (0..charges.len()).collect();
    order.sort_unstable_by_key(|index| lock_of(*index));
    order.dedup_by_key(|index| lock_of(*index));
    let mut guards: SmallVec<[((u64, usize), Guard<'_>); 4]> = order
        .iter()
        .map(|index| (lock_of(*index), charges[*index].scope.inner.accounts.lock(places[*index].shard)))
        .collect();
    let guard_of = |index: usize, guards: &[((u64, usize), Guard<'_>)]| {
        guards.iter().position(|(lock, _)| *lock == lock_of(index)).unwrap_or_default()
    };
    let mut verdicts: SmallVec<[Verdict; 4]> = SmallVec::new();
    let mut worst: Option<Denied> = None;
    let mut tightest: Option<Decision> = None;
    let mut is_dry_run_denial = false;
    for (index, charge) in charges.iter().enumerate() {
        let guard = guard_of(index, &guards);
        let shard = &mut *guards[guard].1;
        let verdict = charge.scope.inner.judge(shard, places[index], &keys[index], charge.cost.unwrap_or(1), now_ns);
        match &verdict.result {
            Ok(decision) => {
                is_dry_run_denial |= decision.is_dry_run_denial();
                if tightest.is_none_or(|tightest| decision.is_tighter_than(&tightest)) {
                    tightest = Some(*decision);
                }
            }
            Err(denied) if worst.is_none_or(|worst| denied.outlasts(&worst)) => worst = Some(*denied),
            Err(_) => {}
        }
        verdicts.push(verdict);
    }
    let mut trial = Trial(SmallVec::new());
    // In reverse: a bucket that was charged twice is what it was before the first.
    for (index, charge) in charges.iter().enumerate().rev() {
        let (verdict, inner) = (&verdicts[index], &charge.scope.inner);
        let guard = guard_of(index, &guards);
        let shard = &mut *guards[guard].1;
        if worst.is_some() {
            if verdict.result.is_ok() {
                inner.undo(shard, places[index], &keys[index], verdict);
            }
        } else if on_trial {
            let cost = charge.cost.unwrap_or(1);
            trial.0.push(Part {
                scope: Arc::clone(inner),
                key: Box::from(&*keys[index]),
                held: inner.hold(shard, places[index], &keys[index], cost, verdict),
                cost,
                is_given: charge.cost.is_some(),
            });
        }
    }
    drop(guards);
    for ((charge, key), verdict) in charges.iter().zip(&keys).zip(&verdicts) {
        let inner = &charge.scope.inner;
        inner.home.stir();
        // What was taken back was not used up.
        if worst.is_none() || verdict.result.is_err() {
            inner.tell_all(key, &verdict.notices);
        }
    }
    match worst {
        Some(denied) => Err(denied),
        None => {
            let decision = tightest.unwrap_or_else(Decision::of_nothing).dry_run_denial(is_dry_run_denial);
            Ok((decision, trial))
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
