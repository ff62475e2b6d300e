//! What is done beside the decisions, on the timer's thread: counts are told, windows closed, debts saved.
//!
//! Nothing is due while nothing is decided: a scope that counts again after a rest arms the timer, once.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use smol_str::SmolStr;

use super::{
    account::{Account, Common, OTHER, Tallies, Tally, add_bounded},
    home::{Home, TELL_EVERY},
    scope::Inner,
    snapshot::{self, SAVE_EVERY},
};
use crate::record::LimitTally;

/// Keys of a scope that are told by name at a time, as many as the store keeps apart in a minute; the others together.
const KEYS_TOLD: usize = 256;
/// Tallies that wait for room in the flight recorder.
const UNTOLD_MAX: usize = 1_024;
/// How long saving waits for others.
const SAVE_WITHIN: Duration = Duration::from_secs(2);

/// When what was done last, on the clock that limits go by.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// The minute whose keys have not been told yet ends here; 0 if there are none.
    keys_until_ns: u64,
    /// Something was decided since it was saved; and when that was.
    is_changed: bool,
    saved_ns: Option<u64>,
}

/// One round; says when the next is due.
pub(super) fn round(upkeep: &Mutex<Upkeep>, home: &Home, scopes: &[Arc<Inner>]) -> Option<Duration> {
    let mut upkeep = upkeep.lock();
    let is_stirred = home.settle_down();
    let now_ns = home.now_ns();
    if is_stirred {
        upkeep.is_changed = true;
        if upkeep.keys_until_ns == 0 {
            upkeep.keys_until_ns = home.minute(now_ns).1;
        }
    }
    let are_keys_due = upkeep.keys_until_ns > 0 && now_ns >= upkeep.keys_until_ns;
    for scope in scopes {
        scope.tell_counts(are_keys_due);
    }
    if are_keys_due {
        upkeep.keys_until_ns = 0;
    }
    let window_ns = scopes.iter().filter_map(|scope| scope.close_windows(now_ns, false)).min();
    let every_ns = SAVE_EVERY.as_nanos() as u64;
    let save_at = upkeep.saved_ns.map_or(now_ns, |at| at.saturating_add(every_ns));
    let is_urgent = home.is_urgent.load(Ordering::Relaxed);
    if is_urgent || (upkeep.is_changed && now_ns >= save_at) {
        upkeep.saved_ns = Some(now_ns);
        // A disk that is full now may not be at the next round; until then it is said in the health of the store.
        upkeep.is_changed = snapshot::save(home, scopes, SAVE_WITHIN).is_err();
        home.forget_left(home.wall(now_ns).as_unix_ns());
    }
    let dues = [
        (upkeep.keys_until_ns > 0).then_some(upkeep.keys_until_ns),
        window_ns,
        scopes.iter().any(|scope| scope.has_untold()).then_some(now_ns),
        upkeep.is_changed.then(|| upkeep.saved_ns.map_or(now_ns, |at| at.saturating_add(every_ns))),
    ];
    // On a clock that is moved by hand nothing is due by itself.
    let next_ns = dues.into_iter().flatten().min().filter(|_| !home.clock.is_manual())?;
    Some(Duration::from_nanos(next_ns.saturating_sub(now_ns)).max(TELL_EVERY))
}

/// Everything is told; says whether that was all.
pub(super) fn tell_all(home: &Home, scopes: &[Arc<Inner>], at_the_end: bool) -> bool {
    let now_ns = home.now_ns();
    for scope in scopes {
        scope.tell_counts(true);
        scope.close_windows(now_ns, at_the_end);
    }
    !scopes.iter().any(|scope| scope.has_untold())
}

/// Nothing is told after this, and everything is saved, if that can be done within so long.
pub(super) fn finish(home: &Home, scopes: &[Arc<Inner>], within: Duration) {
    for scope in scopes {
        scope.notices.finish();
        (0..scope.accounts.shards()).for_each(|index| scope.accounts.lock(index).common.finish());
    }
    // Nobody is left to be told.
    let _ = snapshot::save(home, scopes, within);
}

impl Inner {
    /// Hands what was counted to the flight recorder: of the scope, and if asked of its keys. What finds no room there is
    /// told the next time.
    pub(super) fn tell_counts(&self, with_keys: bool) {
        let mut untold = self.untold.lock();
        let mut tallies = std::mem::take(&mut *untold);
        let mut keys = Tallies::new();
        for index in 0..self.accounts.shards() {
            let mut shard = self.accounts.lock(index);
            let mut of_key = |key: Option<&SmolStr>, account: &mut Account, common: &mut Common| {
                let key = key.map_or(OTHER, SmolStr::as_str);
                if let Some((minute_s, tally)) = account.take_tally(common)
                    && !key.is_empty()
                {
                    keys.push((minute_s, key.into(), tally));
                }
            };
            if with_keys {
                shard.each(&mut of_key);
            }
            for (minute_s, key, tally) in shard.common.take_tallies() {
                if key.is_empty() {
                    add(&mut tallies, minute_s, "", tally);
                } else {
                    keys.push((minute_s, key, tally));
                }
            }
        }
        keys.sort_unstable_by_key(|(.., tally)| {
            std::cmp::Reverse(tally.used.unsigned_abs().max(tally.denied.unsigned_abs()))
        });
        for (rank, (minute_s, key, tally)) in keys.into_iter().enumerate() {
            if rank < KEYS_TOLD {
                let key = self.home.shown(&key, self.config.has_public_keys);
                tallies.push((minute_s, key.into(), tally));
            } else {
                add(&mut tallies, minute_s, OTHER, tally);
            }
        }
        let mut is_full = false;
        for (minute_s, key, tally) in tallies {
            let told = LimitTally { scope: self.name.0, key: &key, minute_s, counts: tally.counts() };
            is_full = is_full || !self.home.capture.limit(&told);
            if is_full {
                add_bounded(&mut untold, UNTOLD_MAX, (minute_s, &key, tally));
            }
        }
    }

    pub(super) fn has_untold(&self) -> bool {
        !self.untold.lock().is_empty()
    }
}

fn add(tallies: &mut Tallies, minute_s: i64, key: &str, tally: Tally) {
    match tallies.iter_mut().find(|(minute, known, _)| *minute == minute_s && **known == *key) {
        Some((.., known)) => known.add(tally),
        None => tallies.push((minute_s, key.into(), tally)),
    }
}
