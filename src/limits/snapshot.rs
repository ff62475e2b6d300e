//! What limits remember across restarts: buckets that will not be full for a while, and blocks.
//!
//! Monotonic time ends with the process, so a debt is saved in tokens, with the wall time of the saving and that at which
//! it will have come back. Wall time may have been set since: what is restored is the share of the debt whose time is not
//! over, never more than was saved, whatever the clock says.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use smol_str::SmolStr;

use super::{
    account::Account,
    home::Home,
    quota::{DEBT_MAX, Rate},
    scope::Inner,
    table::{Bucket as _, Place},
};
use crate::{
    error::Result,
    state::{SavedAccount, save_accounts},
};

/// How often it is saved while it changes; what is full again sooner is not worth it.
pub(super) const SAVE_EVERY: Duration = Duration::from_secs(10);

/// What an earlier run left of one key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Saved {
    saved_at: i64,
    debt: f64,
    full_at: i64,
    blocked_until: Option<i64>,
}

impl Saved {
    pub(super) fn by_key(accounts: Vec<SavedAccount>) -> HashMap<(String, String), Self> {
        let saved = accounts.into_iter().map(|account| {
            let SavedAccount { scope, key, saved_at, debt, full_at, blocked_until } = account;
            ((scope, key), Self { saved_at, debt, full_at, blocked_until })
        });
        saved.collect()
    }

    pub(super) fn matters_at(&self, now_unix_ns: i64) -> bool {
        self.full_at > now_unix_ns || self.blocked_until.is_some_and(|until| until > now_unix_ns)
    }

    /// Tokens that have not come back yet.
    fn debt_at(&self, now_unix_ns: i64) -> f64 {
        let whole = self.full_at.saturating_sub(self.saved_at);
        let left = self.full_at.saturating_sub(now_unix_ns).clamp(0, whole.max(0));
        if whole > 0 { self.debt.max(0.0) * (left as f64 / whole as f64) } else { 0.0 }
    }

    /// Of a new account; all times are clamped to what they were when it was saved.
    pub(super) fn restore(&self, account: &mut Account, rate: Rate, now_ns: u64, now_unix_ns: i64) {
        // Not cut to the burst: a quota of its own, or the one before the restart, may be told yet.
        let units = (self.debt_at(now_unix_ns) * rate.cost as f64).ceil();
        // A number that no bucket has is not believed.
        let units = if units.is_finite() { (units as u64).min(DEBT_MAX) } else { rate.capacity };
        account.full_at = rate.time(now_ns) + units;
        (account.is_saved, account.is_changed) = (true, true);
        let Some(until) = self.blocked_until else { return };
        if until == i64::MAX {
            let more = account.more();
            (more.blocked_until_ns, more.is_pinned) = (u64::MAX, true);
            return;
        }
        let whole = until.saturating_sub(self.saved_at).max(0);
        let left_ns = until.saturating_sub(now_unix_ns).clamp(0, whole);
        if left_ns > 0 {
            account.more().blocked_until_ns = now_ns.saturating_add(left_ns.cast_unsigned());
        }
    }
}

/// An account whose row is to change: where it is, its key, and what is to stand there.
type Row = (Arc<Inner>, Place, SmolStr, Option<SavedAccount>);

/// Saves the accounts of all scopes that are not as they were when they were saved last; waits so long for others.
pub(super) fn save(home: &Home, scopes: &[Arc<Inner>], within: Duration) -> Result<()> {
    home.is_urgent.store(false, Ordering::Relaxed);
    let mut rows: Vec<Row> = Vec::new();
    for scope in scopes {
        for index in 0..scope.accounts.shards() {
            let mut shard = scope.accounts.lock(index);
            let now_ns = home.now_ns();
            let now_unix_ns = home.wall(now_ns).as_unix_ns();
            shard.each(|key, account, common| {
                let Some(key) = key else { return };
                let rate = account.rate(common);
                let blocked_until_ns = account.more.as_ref().map_or(0, |more| more.blocked_until_ns);
                let is_over = account.is_saved && rate.ns(account.full_at).max(blocked_until_ns) <= now_ns;
                if !account.is_changed && !is_over {
                    return;
                }
                account.is_changed = false;
                let state = state_of(account, rate, now_ns, now_unix_ns);
                if state.is_some() || account.is_saved {
                    account.is_saved = true;
                    rows.push((Arc::clone(scope), scope.accounts.place(key.as_str()), key.clone(), state));
                }
            });
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    // Hashing is slow, and no lock is held here.
    let (mut saved, mut gone) = (Vec::new(), Vec::new());
    for (scope, _, key, state) in &rows {
        let name = scope.name.0.to_owned();
        let key = home.shown(key, scope.config.has_public_keys).into_owned();
        match state {
            Some(state) => saved.push(SavedAccount { scope: name, key, ..state.clone() }),
            None => gone.push((name, key)),
        }
    }
    let now_unix_ns = home.wall(home.now_ns()).as_unix_ns();
    let outcome = save_accounts(&home.state, now_unix_ns, within, saved, gone);
    for (scope, place, key, state) in rows {
        let mut shard = scope.accounts.lock(place.shard);
        if let Some((account, common)) = scope.accounts.find(&mut shard, place, key.as_str()) {
            // What could not be written is tried again; what has no row may be forgotten.
            account.is_changed |= outcome.is_err();
            if outcome.is_ok() && state.is_none() && !account.is_changed {
                account.is_saved = false;
                scope.accounts.room().note(place.shard, account.is_new_at(common));
            }
        }
    }
    outcome
}

/// What is to be saved of an account, if anything.
fn state_of(account: &Account, rate: Rate, now_ns: u64, now_unix_ns: i64) -> Option<SavedAccount> {
    let debt = Rate::debt(account.full_at, rate.time(now_ns));
    let full_in_ns = rate.ns(debt);
    let blocked_until_ns = account.more.as_ref().map_or(0, |more| more.blocked_until_ns);
    let blocked_until = match blocked_until_ns {
        u64::MAX => Some(i64::MAX),
        until if until > now_ns => Some(now_unix_ns.saturating_add_unsigned(until - now_ns)),
        _ => None,
    };
    if u128::from(full_in_ns) < SAVE_EVERY.as_nanos() && blocked_until.is_none() {
        return None;
    }
    Some(SavedAccount {
        scope: String::new(),
        key: String::new(),
        saved_at: now_unix_ns,
        debt: debt as f64 / rate.cost as f64,
        full_at: now_unix_ns.saturating_add_unsigned(full_in_ns),
        blocked_until,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::quota::Quota, *};

    const DAY: i64 = 86_400_000_000_000;

    #[test]
    fn what_is_restored_is_never_more_than_was_saved() {
        let rate = Rate::of(Quota::per_day(100));
        let saved = Saved { saved_at: DAY, debt: 50.0, full_at: DAY + DAY / 2, blocked_until: Some(DAY + DAY / 4) };
        for (now, tokens, blocked_ns) in [
            (DAY, 50, DAY / 4),
            (DAY + DAY / 8, 38, DAY / 8),
            (DAY + DAY / 2, 0, 0),
            (i64::MAX, 0, 0),
            (0, 50, DAY / 4),
            (i64::MIN, 50, DAY / 4),
        ] {
            let mut account = Account::default();
            saved.restore(&mut account, rate, 7_000, now);
            let debt = Rate::debt(account.full_at, rate.time(7_000));
            assert_eq!(debt.div_ceil(rate.cost), tokens, "at {now}");
            let until = account.more.as_ref().map_or(0, |more| more.blocked_until_ns);
            assert_eq!(until, if blocked_ns == 0 { 0 } else { 7_000 + blocked_ns.cast_unsigned() });
        }
        for (debt, most) in [(1e300, DEBT_MAX), (f64::INFINITY, rate.capacity), (f64::NAN, 0), (-5.0, 0)] {
            let mut account = Account::default();
            Saved { debt, ..saved }.restore(&mut account, rate, 0, DAY);
            assert!(Rate::debt(account.full_at, 0) <= most, "{debt}");
        }
    }
}
