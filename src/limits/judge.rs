//! One charge against one account, under the lock of its shard: decided, charged and counted in one go, and taken back if
//! another scope refuses.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    account::{Account, Common, OTHER, Tally, Window},
    decision::{Decision, Denied},
    home::bounded,
    ledger::Held,
    notices::{Notice, WINDOW},
    quota::Refused,
    scope::Inner,
    table::{Bucket as _, Found, Place, Shard},
};

/// One charge: of which key, how much, when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'k> {
    pub(super) place: Place,
    pub(super) key: &'k str,
    pub(super) n: u64,
    pub(super) now_ns: u64,
    /// What the same decision asks of the same bucket before; `None` where it asks once.
    pub(super) before: Option<u64>,
}

/// What was done for who may pass; filled in where it lies, for it is taken back or held from there.
#[derive(Debug, Default)]
pub(super) struct Charged {
    pub(super) has_passed: bool,
    /// The account's level before, if it was moved.
    before: Option<u64>,
    /// The account is that of all who find no place.
    is_shared: bool,
    is_dry_run_denial: bool,
    is_warned: bool,
}

impl Charged {
    /// Whether anything was done that a refusal of another scope takes back.
    pub(super) fn is_to_be_undone(&self) -> bool {
        self.has_passed || self.before.is_some()
    }
}

impl Inner {
    /// Whether two keys have the same bucket.
    pub(super) fn is_same(&self, one: &str, other: &str) -> bool {
        self.charged(one) == self.charged(other)
    }

    pub(super) fn check(&self, key: &str, n: u64) -> Result<Decision, Denied> {
        let key = bounded(key);
        let place = self.place(&key);
        let mut notices = Vec::new();
        let mut tell = |notice| notices.push(notice);
        let mut shard = self.accounts.lock(place.shard);
        // Under the lock: nobody has been forgotten as being full at a later moment.
        let asked = Asked { place, key: &key, n, now_ns: self.home.now_ns(), before: None };
        let judged = self.decide(&mut shard, asked, &mut Charged::default(), &mut tell);
        drop(shard);
        self.home.stir();
        notices.iter().for_each(|notice| self.tell(&key, notice));
        judged
    }

    /// Where a charge of this key goes.
    pub(super) fn place(&self, key: &str) -> Place {
        if self.config.is_keyed { self.accounts.place(key) } else { self.shared_place }
    }

    /// The key that is charged: in a scope that is not keyed, the one that all share.
    fn charged<'k>(&self, key: &'k str) -> &'k str {
        if self.config.is_keyed { key } else { "" }
    }

    /// Decides, charges and counts. What is to be told of it is told when no lock is held any more.
    #[inline]
    pub(super) fn decide(
        &self,
        shard: &mut Shard<Account>,
        asked: Asked<'_>,
        charged: &mut Charged,
        tell: &mut impl FnMut(Notice),
    ) -> Result<Decision, Denied> {
        match self.pass_at_once(shard, asked, charged) {
            Some(decision) => Ok(decision),
            None => self.judge(shard, asked, charged, tell),
        }
    }

    /// Lets pass, charges and counts who is known and nothing more is known of; what most decisions are.
    #[inline]
    fn pass_at_once(&self, shard: &mut Shard<Account>, asked: Asked<'_>, charged: &mut Charged) -> Option<Decision> {
        let Asked { place, key, n, now_ns, before } = asked;
        let is_plain = self.is_plain && before.is_none() && n > 0 && now_ns < shard.common.minute_until_ns;
        if !is_plain || !(self.config.is_keyed || key.is_empty()) {
            return None;
        }
        let (account, common) = self.accounts.find(shard, place, key)?;
        if account.more.is_some() {
            return None;
        }
        let (rate, now) = (common.rate, common.rate.time(now_ns));
        let full_at = rate.take(account.full_at, now, n).ok()?;
        charge(account, common, key, n, full_at, charged);
        Some(Decision::new(rate, full_at, now).of_scope(self.name))
    }

    /// The same of everybody.
    fn judge(
        &self,
        shard: &mut Shard<Account>,
        asked: Asked<'_>,
        charged: &mut Charged,
        tell: &mut dyn FnMut(Notice),
    ) -> Result<Decision, Denied> {
        let Asked { place, key, n, now_ns, .. } = asked;
        self.turn(&mut shard.common, now_ns);
        let own = self.charged(key);
        let blocked_ns = if own.len() == key.len() { 0 } else { self.blocked_beside(shard, key, now_ns) };
        let rate = shard.common.rate;
        let new = || self.account(own, rate, now_ns);
        let Found { bucket: account, common, is_shared, is_new } = self.accounts.bucket(shard, place, own, now_ns, new);
        charged.is_shared = is_shared;
        let counted = counted_as(own, is_shared);
        let rate = account.rate(common);
        let now = rate.time(now_ns);
        let blocked_until_ns = account.more.as_ref().map_or(0, |more| more.blocked_until_ns).max(blocked_ns);
        let taken = match asked.before {
            Some(before) if rate.is_too_much(before.saturating_add(n)) => Err(Refused::TooLarge),
            _ if n == 0 => Ok(account.full_at),
            _ => rate.take(account.full_at, now, n),
        };
        let judged = if blocked_until_ns > now_ns {
            let left_ns = (blocked_until_ns != u64::MAX).then(|| blocked_until_ns - now_ns);
            // It would not pass before the bucket lets it, either.
            let left_ns = left_ns.map(|left_ns| match taken {
                Err(Refused::Wait(units)) => left_ns.max(rate.ns(units)),
                _ => left_ns,
            });
            let denied = Denied::blocked(left_ns, self.home.wall(now_ns), Decision::new(rate, account.full_at, now));
            self.refuse(account, common, Asked { key: own, ..asked }, denied, charged, tell)
        } else if !self.exempt.is_empty() && self.exempt.contains(key) {
            account.count(common, counted, passed(n));
            charged.has_passed = true;
            Ok(Decision::new(rate, 0, now).of_scope(self.name))
        } else {
            match taken {
                Ok(full_at) => {
                    account.tidy(now_ns);
                    charge(account, common, counted, n, full_at, charged);
                    let decision = Decision::new(rate, full_at, now).of_scope(self.name);
                    let warning = self.warning(account, decision, common.minute_s());
                    charged.is_warned = warning.is_some();
                    warning.into_iter().for_each(&mut *tell);
                    Ok(decision)
                }
                Err(refused) => {
                    let denied = Denied::new(refused, n, rate, Decision::new(rate, account.full_at, now));
                    if asked.before.is_some()
                        && let Ok(full_at) = rate.take_ahead(account.full_at, now, n)
                    {
                        // What the decision asks of it besides waits behind this; all of it is taken back.
                        charged.before = Some(std::mem::replace(&mut account.full_at, full_at));
                    }
                    self.refuse(account, common, Asked { key: own, ..asked }, denied, charged, tell)
                }
            }
        };
        if is_new {
            self.accounts.room().note(place.shard, account.is_new_at(common));
        }
        judged
    }

    /// Another minute may have begun.
    #[inline]
    fn turn(&self, common: &mut Common, now_ns: u64) {
        if now_ns >= common.minute_until_ns {
            let (minute_s, until_ns) = self.home.minute(now_ns);
            common.turn(minute_s, until_ns);
        }
    }

    /// Until when a key of a scope that all share is blocked: it has an account beside theirs then.
    fn blocked_beside(&self, shard: &mut Shard<Account>, key: &str, now_ns: u64) -> u64 {
        let place = self.accounts.place(key);
        if self.accounts.find(shard, place, key).is_none() && self.home.has_left() {
            let account = self.account(key, shard.common.rate, now_ns);
            if account.more.is_some() {
                self.accounts.pinned(shard, place, key, || account);
            }
        }
        let found = self.accounts.find(shard, place, key);
        found.and_then(|(account, _)| account.more.as_ref()).map_or(0, |more| more.blocked_until_ns)
    }

    /// Counts a refusal. The first of a window is told, and one too many locks the key out.
    #[cold]
    fn refuse(
        &self,
        account: &mut Account,
        common: &mut Common,
        asked: Asked<'_>,
        denied: Denied,
        charged: &mut Charged,
        tell: &mut dyn FnMut(Notice),
    ) -> Result<Decision, Denied> {
        let Asked { key, n, now_ns, .. } = asked;
        let denied = denied.of_scope(self.name);
        let is_dry_run = self.config.is_dry_run;
        let tally =
            if is_dry_run { Tally { dry_run_denied: 1, ..passed(n) } } else { Tally { denied: 1, ..Tally::default() } };
        account.count(common, counted_as(key, charged.is_shared), tally);
        if charged.is_shared {
            // Of many keys: who they are is not known, and nobody is locked out for what others do.
            return self.refused(denied, charged);
        }
        let window = account.more.as_mut().and_then(|more| more.window.as_mut());
        if let Some(window) = window.filter(|window| now_ns < window.ends_ns) {
            window.denied += 1;
        } else {
            // One that nobody has closed yet ends here.
            let ended = account.more.as_mut().and_then(|more| more.window.take());
            let sum = ended.map(|window| Notice::Sum { denied: window.denied, limit: denied.decision().limit() });
            sum.into_iter().for_each(&mut *tell);
            if self.notices.may_tell(common.minute_s()) {
                let ends_ns = now_ns.saturating_add(WINDOW.as_nanos() as u64);
                account.more().window = Some(Window { ends_ns, denied: 1 });
                self.notices.open(ends_ns, key);
                tell(Notice::Denied { denied, cost: n });
            }
        }
        if !matches!(denied, Denied::Blocked { .. })
            && let Some(for_) = self.violates(account, now_ns)
        {
            if !is_dry_run {
                let until_ns = now_ns.saturating_add(ns(for_));
                account.more().blocked_until_ns = until_ns;
                account.is_changed = true;
                self.home.is_urgent.store(true, Ordering::Relaxed);
            }
            // It is remembered for less long now, perhaps.
            self.accounts.room().note(asked.place.shard, account.is_new_at(common));
            let until = self.home.wall(now_ns).saturating_add(for_);
            if self.notices.may_tell_lock_out(common.minute_s()) {
                tell(Notice::LockedOut { denied, cost: n, until });
            }
        }
        self.refused(denied, charged)
    }

    fn refused(&self, denied: Denied, charged: &mut Charged) -> Result<Decision, Denied> {
        if !self.config.is_dry_run {
            return Err(denied);
        }
        (charged.has_passed, charged.is_dry_run_denial) = (true, true);
        Ok(denied.decision().dry_run_denial(true))
    }

    /// Remembers a violation; one too many says for how long the key is locked out.
    fn violates(&self, account: &mut Account, now_ns: u64) -> Option<Duration> {
        let lock_out = self.config.lock_out?;
        let within_ns = ns(lock_out.within);
        let more = account.more();
        while more.violations.front().is_some_and(|at| now_ns.saturating_sub(*at) >= within_ns) {
            more.violations.pop_front();
        }
        more.violations.push_back(now_ns);
        more.remembers_until_ns = now_ns.saturating_add(within_ns);
        if more.violations.len() < lock_out.violations as usize {
            return None;
        }
        more.violations.clear();
        more.remembers_until_ns = 0;
        Some(lock_out.for_)
    }

    /// The account that a charge of this decision went to; none if it was forgotten since, being as good as new.
    fn charged_account<'s>(
        &self,
        shard: &'s mut Shard<Account>,
        asked: Asked<'_>,
        charged: &Charged,
    ) -> Option<(&'s mut Account, &'s mut Common)> {
        if charged.is_shared {
            return Some(shard.shared());
        }
        self.accounts.find(shard, asked.place, self.charged(asked.key))
    }

    /// Takes back what was charged and counted, for another scope refused.
    pub(super) fn undo(&self, shard: &mut Shard<Account>, asked: Asked<'_>, charged: &Charged) {
        let key = counted_as(self.charged(asked.key), charged.is_shared);
        let tally = if charged.is_dry_run_denial { dry_run_denied(asked.n) } else { passed(asked.n) };
        let Some((account, common)) = self.charged_account(shard, asked, charged) else {
            // It owed nothing, and another step of the same decision had no room.
            if charged.has_passed {
                shard.common.count_gone(key, tally.negated());
            }
            return;
        };
        if let Some(before) = charged.before {
            account.full_at = before;
        }
        if charged.is_warned {
            account.more().is_warned = false;
        }
        if charged.has_passed {
            account.count(common, key, tally.negated());
        }
        self.accounts.room().note(asked.place.shard, account.is_new_at(common));
    }

    /// Right after a charge that passed: what of it may be given back, and whether its bucket is the one that keys without a
    /// place share.
    pub(super) fn hold(&self, shard: &mut Shard<Account>, asked: Asked<'_>, charged: &Charged) -> Option<(Held, bool)> {
        charged.before?;
        let (account, _) = self.charged_account(shard, asked, charged)?;
        let full_at = account.full_at;
        Some((account.more().trial.hold(asked.n, full_at), charged.is_shared))
    }

    /// Gives back what was not used of a charge, or charges what was used beyond it.
    pub(super) fn settle(&self, key: &str, held: Option<&(Held, bool)>, cost: u64, actual: u64) -> Decision {
        let key = self.charged(key);
        let place = self.place(key);
        let mut shard = self.accounts.lock(place.shard);
        // Under the lock: who charged meanwhile has not looked later.
        let now_ns = self.home.now_ns();
        self.turn(&mut shard.common, now_ns);
        let rate = shard.common.rate;
        let (account, common, is_shared) = match held {
            Some((_, true)) => {
                let (account, common) = shard.shared();
                (account, common, true)
            }
            _ => {
                let new = || self.account(key, rate, now_ns);
                let Found { bucket, common, is_shared, .. } = self.accounts.bucket(&mut shard, place, key, now_ns, new);
                (bucket, common, is_shared)
            }
        };
        let rate = account.rate(common);
        let now = rate.time(now_ns);
        if let (Some((held, _)), Some(more)) = (held, account.more.as_mut()) {
            let units = if actual > cost {
                account.full_at = rate.overdraw(account.full_at, now, actual - cost);
                0
            } else {
                more.trial.outstanding(held, cost - actual, rate, now_ns)
            };
            more.trial.settle(held, units);
            account.full_at = account.full_at.saturating_sub(units);
            account.is_changed = true;
        }
        let difference = i64::try_from(i128::from(actual) - i128::from(cost));
        let used = difference.unwrap_or(if actual > cost { i64::MAX } else { i64::MIN });
        account.count(common, counted_as(key, is_shared), Tally { used, ..Tally::default() });
        let decision = Decision::new(rate, account.full_at, now).of_scope(self.name);
        let notice = self.warning(account, decision, common.minute_s());
        self.accounts.room().note(place.shard, now_ns);
        drop(shard);
        self.home.stir();
        notice.iter().for_each(|notice| self.tell(key, notice));
        decision
    }

    /// The share at which to warn is reached; it was not, or is long past.
    fn warning(&self, account: &mut Account, decision: Decision, minute_s: i64) -> Option<Notice> {
        /// Below this part of the share one may be warned again.
        const WELL_BELOW: f64 = 0.8;
        let share = self.config.warn_at?;
        let used = decision.used_share();
        let is_warned = account.more.as_ref().is_some_and(|more| more.is_warned);
        if used >= share && !is_warned && self.notices.may_tell_warning(minute_s) {
            account.more().is_warned = true;
            return Some(Notice::Warned { decision, share });
        }
        if is_warned && used < share * WELL_BELOW {
            account.more().is_warned = false;
        }
        None
    }
}

/// Whose count it is: of those who share a bucket nobody is told by name.
fn counted_as(key: &str, is_shared: bool) -> &str {
    if is_shared { OTHER } else { key }
}

/// Takes what may be taken, and counts it.
#[inline]
fn charge(account: &mut Account, common: &mut Common, key: &str, n: u64, full_at: u64, charged: &mut Charged) {
    charged.before = Some(std::mem::replace(&mut account.full_at, full_at));
    charged.has_passed = true;
    account.is_changed = true;
    account.count(common, key, passed(n));
}

fn passed(n: u64) -> Tally {
    Tally { allowed: 1, used: i64::try_from(n).unwrap_or(i64::MAX), ..Tally::default() }
}

fn dry_run_denied(n: u64) -> Tally {
    Tally { dry_run_denied: 1, ..passed(n) }
}

fn ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
