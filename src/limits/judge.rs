//! One charge against one account, under the lock of its shard: decided, charged and counted in one go, and taken back if
//! another scope refuses.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    account::{Account, Common, Tally, Trial, Window},
    decision::{Decision, Denied},
    home::bounded,
    ledger::Held,
    notices::{Notice, WINDOW},
    scope::Inner,
    table::{Bucket as _, Place, Shard},
};

/// One charge: of which key, how much, when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'k> {
    pub(super) place: Place,
    pub(super) key: &'k str,
    pub(super) n: u64,
    pub(super) now_ns: u64,
}

/// What was done for who may pass; filled in where it lies, for it is taken back or held from there.
#[derive(Debug, Default)]
pub(super) struct Charged {
    pub(super) has_passed: bool,
    /// The account's level before, if it was charged.
    before: Option<u64>,
    n: u64,
    is_dry_run_denial: bool,
    is_warned: bool,
}

impl Inner {
    pub(super) fn check(&self, key: &str, n: u64) -> Result<Decision, Denied> {
        let key = bounded(key);
        let now_ns = self.home.clock.elapsed_ns();
        let asked = Asked { place: self.place(&key), key: &key, n, now_ns };
        let mut notices = Vec::new();
        let mut tell = |notice| notices.push(notice);
        let mut shard = self.accounts.lock(asked.place.shard);
        let judged = self.judge(&mut shard, asked, &mut Charged::default(), &mut tell);
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
    #[inline(always)]
    pub(super) fn judge(
        &self,
        shard: &mut Shard<String, Account>,
        asked: Asked<'_>,
        charged: &mut Charged,
        tell: &mut impl FnMut(Notice),
    ) -> Result<Decision, Denied> {
        let Asked { place, key, n, now_ns } = asked;
        charged.n = n;
        if now_ns >= shard.common.minute_until_ns {
            let (minute_s, until_ns) = self.home.minute(now_ns);
            shard.common.turn(minute_s, until_ns);
        }
        let own = self.charged(key);
        let is_other = own.len() != key.len();
        let mut blocked_until_ns = 0;
        // Not charged, but maybe blocked: then it has an account beside the one that all share.
        if is_other {
            let other = self.accounts.place(key);
            if let Some((account, _)) = self.accounts.find(shard, other, key) {
                blocked_until_ns = account.more.as_ref().map_or(0, |more| more.blocked_until_ns);
            }
        }
        let rate = shard.common.rate;
        let new = || self.account(own, rate, now_ns);
        let (account, common) = self.accounts.bucket(shard, place, own, now_ns, new);
        let rate = account.rate(common);
        let now = rate.time(now_ns);
        if let Some(more) = &account.more
            && !is_other
        {
            blocked_until_ns = more.blocked_until_ns;
        }
        if blocked_until_ns > now_ns {
            let left_ns = (blocked_until_ns != u64::MAX).then(|| blocked_until_ns - now_ns);
            let decision = Decision::new(rate, account.full_at, now);
            let denied = Denied::blocked(left_ns, self.home.wall(now_ns), decision);
            return self.refuse(account, common, Asked { key: own, ..asked }, denied, charged, tell);
        }
        if !self.exempt.is_empty() && self.exempt.contains(key) {
            account.count(common, own, passed(n));
            self.accounts.note(place.shard, account.is_new_at(common));
            let decision = Decision::new(rate, 0, now).of_scope(self.name);
            charged.has_passed = true;
            return Ok(decision);
        }
        let taken = if n == 0 { Ok(account.full_at) } else { rate.take(account.full_at, now, n) };
        match taken {
            Ok(full_at) => {
                let before = std::mem::replace(&mut account.full_at, full_at);
                if before == 0 {
                    self.accounts.note(place.shard, account.is_new_at(common));
                }
                account.count(common, own, passed(n));
                let decision = Decision::new(rate, full_at, now).of_scope(self.name);
                let warning = self.warning(account, decision, common.minute_until_ns);
                (charged.has_passed, charged.before, charged.is_warned) = (true, Some(before), warning.is_some());
                warning.into_iter().for_each(tell);
                Ok(decision)
            }
            Err(refused) => {
                let denied = Denied::new(refused, n, rate, Decision::new(rate, account.full_at, now));
                self.refuse(account, common, Asked { key: own, ..asked }, denied, charged, tell)
            }
        }
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
        let Asked { place, key, n, now_ns } = asked;
        if account.full_at == 0 {
            self.accounts.note(place.shard, now_ns);
        }
        let denied = denied.of_scope(self.name);
        let is_dry_run = self.config.is_dry_run;
        let tally =
            if is_dry_run { Tally { dry_run_denied: 1, ..passed(n) } } else { Tally { denied: 1, ..Tally::default() } };
        account.count(common, key, tally);
        let window = account.more.as_mut().and_then(|more| more.window.as_mut());
        if let Some(window) = window.filter(|window| now_ns < window.ends_ns) {
            window.denied += 1;
        } else {
            // One that nobody has closed yet ends here.
            let ended = account.more.as_mut().and_then(|more| more.window.take());
            let sum = ended.map(|window| Notice::Sum { denied: window.denied, limit: denied.decision().limit() });
            sum.into_iter().for_each(&mut *tell);
            if self.notices.may_tell(common.minute_until_ns) {
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
                self.home.is_urgent.store(true, Ordering::Relaxed);
            }
            let until = self.home.wall(now_ns).saturating_add(for_);
            if self.notices.may_tell_lock_out(common.minute_until_ns) {
                tell(Notice::LockedOut { denied, cost: n, until });
            }
        }
        if is_dry_run {
            (charged.has_passed, charged.is_dry_run_denial) = (true, true);
            return Ok(denied.decision().dry_run_denial(true));
        }
        Err(denied)
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

    /// Takes back what was charged and counted, for another scope refused.
    pub(super) fn undo(&self, shard: &mut Shard<String, Account>, asked: Asked<'_>, charged: &Charged) {
        let (place, key) = (asked.place, self.charged(asked.key));
        let (account, common) = self.accounts.known(shard, place, key);
        if let Some(before) = charged.before {
            account.full_at = before;
        }
        if charged.is_warned {
            account.more().is_warned = false;
        }
        let tally = if charged.is_dry_run_denial { dry_run_denied(charged.n) } else { passed(charged.n) };
        account.count(common, key, tally.negated());
        self.accounts.note(place.shard, account.is_new_at(common));
    }

    /// Right after a charge that passed: what of it may be given back, and whether its bucket is the one that keys without a
    /// place share.
    pub(super) fn hold(
        &self,
        shard: &mut Shard<String, Account>,
        asked: Asked<'_>,
        charged: &Charged,
    ) -> Option<(Held, bool)> {
        charged.before?;
        let (place, key) = (asked.place, self.charged(asked.key));
        let is_shared = self.accounts.find(shard, place, key).is_none();
        let (account, _) = self.accounts.known(shard, place, key);
        let full_at = account.full_at;
        let trial = account.more().trial.get_or_insert_with(Trial::default);
        trial.held += 1;
        Some((trial.ledger.hold(asked.n, full_at), is_shared))
    }

    /// Gives back what was not used of a charge, or charges what was used beyond it.
    pub(super) fn settle(&self, key: &str, held: Option<&(Held, bool)>, cost: u64, actual: u64) -> Decision {
        let key = self.charged(key);
        let now_ns = self.home.clock.elapsed_ns();
        let place = self.place(key);
        let mut shard = self.accounts.lock(place.shard);
        if now_ns >= shard.common.minute_until_ns {
            let (minute_s, until_ns) = self.home.minute(now_ns);
            shard.common.turn(minute_s, until_ns);
        }
        let (account, common) = match held {
            Some((_, true)) => shard.shared(),
            _ => self.accounts.known(&mut shard, place, key),
        };
        let rate = account.rate(common);
        let now = rate.time(now_ns);
        if let (Some((held, _)), Some(trial)) = (held, account.more.as_mut().and_then(|more| more.trial.as_mut())) {
            if actual > cost {
                account.full_at = rate.overdraw(account.full_at, now, actual - cost);
            } else {
                let units = trial.ledger.outstanding(held, cost - actual, rate, now_ns);
                trial.ledger.note_refund(units);
                account.full_at = account.full_at.saturating_sub(units);
            }
            trial.held -= 1;
            if trial.held == 0
                && let Some(more) = account.more.as_mut()
            {
                more.trial = None;
            }
        }
        let difference = i64::try_from(i128::from(actual) - i128::from(cost));
        let used = difference.unwrap_or(if actual > cost { i64::MAX } else { i64::MIN });
        account.count(common, key, Tally { used, ..Tally::default() });
        let decision = Decision::new(rate, account.full_at, now).of_scope(self.name);
        let notice = self.warning(account, decision, common.minute_until_ns);
        self.accounts.note(place.shard, now_ns);
        drop(shard);
        self.home.stir();
        notice.iter().for_each(|notice| self.tell(key, notice));
        decision
    }

    /// The share at which to warn is reached; it was not, or is long past.
    fn warning(&self, account: &mut Account, decision: Decision, minute_until_ns: u64) -> Option<Notice> {
        /// Below this part of the share one may be warned again.
        const WELL_BELOW: f64 = 0.8;
        let share = self.config.warn_at?;
        let used = decision.used_share();
        let is_warned = account.more.as_ref().is_some_and(|more| more.is_warned);
        if used >= share && !is_warned && self.notices.may_tell_warning(minute_until_ns) {
            account.more().is_warned = true;
            return Some(Notice::Warned { decision, share });
        }
        if is_warned && used < share * WELL_BELOW {
            account.more().is_warned = false;
        }
        None
    }
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
