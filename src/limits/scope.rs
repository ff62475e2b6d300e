//! A named limit of an application: checked alone or together with others, and told.

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    account::{Account, Common, Tallies},
    config::ScopeConfig,
    decide::decide,
    decision::{Decision, Denied, ScopeName},
    home::{Home, bounded},
    notices::Notices,
    permit::Permit,
    quota::{Quota, Rate},
    table::{Bucket as _, Found, Place, Table},
};
use crate::{
    error::Result,
    query::{self, Window},
};

/// A scope of [`Limits`](super::Limits): look it up once, and keep it. Cheap to clone.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let l0 = l0::builder().dir(dir.path()).start()?;
/// let auth = l0.limits().scope("auth")?; // ten a minute and key
/// match auth.check_key("203.0.113.9") {
///     Ok(decision) => println!("{} left", decision.remaining()),
///     Err(denied) => println!("{denied}: {:?}", denied.headers()),
/// }
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone)]
pub struct Scope {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    /// The order in which locks of several scopes are taken.
    pub(super) id: u64,
    pub(super) name: &'static ScopeName,
    pub(super) config: ScopeConfig,
    pub(super) exempt: HashSet<String>,
    /// Nobody is exempt, and nothing is told of who passes.
    pub(super) is_plain: bool,
    pub(super) accounts: Table<Account>,
    /// Of the bucket that all share, or those without a key.
    pub(super) shared_place: Place,
    pub(super) home: Arc<Home>,
    pub(super) notices: Notices,
    /// Tallies that found no room in the flight recorder.
    pub(super) untold: Mutex<Tallies>,
    quota: Mutex<Quota>,
}

impl Inner {
    pub(super) fn new(name: &'static ScopeName, config: ScopeConfig, home: Arc<Home>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let rate = Rate::of(config.quota);
        let shard = || (Account::default(), Common::new(rate, config.is_dry_run));
        let accounts = if config.is_keyed { Table::new(config.max_keys, shard) } else { Table::unbounded(shard) };
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name,
            is_plain: config.exempt.is_empty() && config.warn_at.is_none(),
            exempt: config.exempt.iter().map(|key| bounded(key).into_owned()).collect(),
            shared_place: accounts.place(""),
            accounts,
            home,
            notices: Notices::default(),
            untold: Mutex::default(),
            quota: Mutex::new(config.quota),
            config,
        }
    }

    /// Changes what is kept of a key, whether there is room for it or not.
    fn pinned<R>(&self, key: &str, change: impl FnOnce(&mut Account, &mut Common, u64) -> R) -> R {
        let key = bounded(key);
        let place = self.accounts.place(&key);
        let mut shard = self.accounts.lock(place.shard);
        let now_ns = self.home.now_ns();
        let rate = shard.common.rate;
        let new = || self.account(&key, rate, now_ns);
        let (account, common) = self.accounts.pinned(&mut shard, place, &key, new);
        let result = change(account, common, now_ns);
        account.is_changed = true;
        self.accounts.room().note(place.shard, account.is_new_at(common));
        result
    }

    /// A new account: full, or as an earlier run left it.
    pub(super) fn account(&self, key: &str, rate: Rate, now_ns: u64) -> Account {
        let mut account = Account::default();
        if let Some(saved) = self.home.take_left(self.name.0, key, self.config.has_public_keys) {
            saved.restore(&mut account, rate, now_ns, self.home.wall(now_ns).as_unix_ns());
        }
        account
    }
}

/// What a decision over several scopes is to charge. See [`Limits::check_all`](super::Limits::check_all).
#[derive(Clone, Copy, Debug)]
#[must_use = "give it to Limits::check_all or reserve_all"]
pub struct Charge<'a> {
    pub(super) scope: &'a Scope,
    pub(super) key: &'a str,
    pub(super) cost: Option<u64>,
}

impl Charge<'_> {
    /// Costs `n` instead of one.
    pub fn cost(self, n: u64) -> Self {
        Self { cost: Some(n), ..self }
    }
}

impl Scope {
    /// The scope's name.
    pub fn name(&self) -> &str {
        self.inner.name.0
    }

    /// The quota in force, of keys that have none of their own.
    pub fn quota(&self) -> Quota {
        *self.inner.quota.lock()
    }

    /// May one pass? In a keyed scope, of those who have no key.
    ///
    /// # Errors
    /// [`Denied`], and nothing is taken.
    pub fn check(&self) -> Result<Decision, Denied> {
        self.inner.check("", 1)
    }

    /// May one of this key pass? In a scope that is not keyed all share one bucket, and the key tells only who is exempt or
    /// blocked.
    ///
    /// # Errors
    /// [`Denied`], and nothing is taken.
    pub fn check_key(&self, key: &str) -> Result<Decision, Denied> {
        self.inner.check(key, 1)
    }

    /// The bucket of a key (`""` for those without) as it is; takes nothing.
    pub fn peek(&self, key: &str) -> Decision {
        let inner = &*self.inner;
        let key = if inner.config.is_keyed { bounded(key) } else { "".into() };
        let now_ns = inner.home.now_ns();
        let place = inner.accounts.place(&key);
        let mut shard = inner.accounts.lock(place.shard);
        let rate = shard.common.rate;
        let (rate, full_at) = match inner.accounts.find(&mut shard, place, &key) {
            Some((account, common)) => (account.rate(common), account.full_at),
            None if inner.home.has_left() => {
                let new = || inner.account(&key, rate, now_ns);
                let Found { bucket: account, common, .. } = inner.accounts.bucket(&mut shard, place, &key, now_ns, new);
                inner.accounts.room().note(place.shard, account.is_new_at(common));
                (account.rate(common), account.full_at)
            }
            // It would begin as the bucket that it shared with others, or share it.
            None => (rate, shard.overflow().full_at),
        };
        Decision::new(rate, full_at, rate.time(now_ns)).of_scope(inner.name)
    }

    /// To charge all of the scope, or in a keyed one those without a key.
    pub fn all(&self) -> Charge<'_> {
        self.key("")
    }

    /// To charge this key.
    pub fn key<'a>(&'a self, key: &'a str) -> Charge<'a> {
        Charge { scope: self, key, cost: None }
    }

    /// Another quota from now on, for every key that has none of its own. What is owed stays owed, in tokens.
    pub fn set_quota(&self, q: Quota) {
        let inner = &*self.inner;
        let mut quota = inner.quota.lock();
        for index in 0..inner.accounts.shards() {
            let mut shard = inner.accounts.lock(index);
            // Under the lock: a charge of meanwhile is not taken for a debt of then.
            let (now_ns, before) = (inner.home.now_ns(), shard.common.rate);
            let rate = Rate::of(q).after(before);
            shard.common.rate = rate;
            shard.each(|_, account, _| {
                if account.more.as_ref().is_none_or(|more| more.own.is_none()) {
                    account.change_rate(now_ns, before, rate);
                }
            });
            inner.accounts.room().note(index, now_ns);
        }
        *quota = q;
    }

    /// Another quota for one key, from now on and for as long as the process lives. What it owes stays owed, in tokens.
    pub fn set_key_quota(&self, key: &str, q: Quota) {
        let key = if self.inner.config.is_keyed { key } else { "" };
        self.inner.pinned(key, |account, common, now_ns| {
            let before = account.rate(common);
            let rate = Rate::of(q).after(before);
            account.change_rate(now_ns, before, rate);
            account.more().own = Some((q, rate));
        });
    }

    /// Refuses this key, for so long or until it is unblocked. Survives a restart, as lock-outs do.
    pub fn block(&self, key: &str, for_: Option<Duration>) {
        self.inner.pinned(key, |account, _, now_ns| {
            let ns = for_.map_or(u64::MAX, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
            let more = account.more();
            more.blocked_until_ns = now_ns.saturating_add(ns);
            more.is_pinned = for_.is_none();
        });
        self.inner.home.is_urgent.store(true, Ordering::Relaxed);
        self.inner.home.stir();
    }

    /// Ends a block or a lock-out of this key, and forgets its violations.
    pub fn unblock(&self, key: &str) {
        let inner = &*self.inner;
        let key = bounded(key);
        let place = inner.accounts.place(&key);
        let mut shard = inner.accounts.lock(place.shard);
        let (rate, now_ns) = (shard.common.rate, inner.home.now_ns());
        if inner.accounts.find(&mut shard, place, &key).is_none() {
            // An earlier run may have blocked it.
            let account = inner.account(&key, rate, now_ns);
            if account.more.is_some() {
                inner.accounts.pinned(&mut shard, place, &key, || account);
            }
        }
        if let Some((account, common)) = inner.accounts.find(&mut shard, place, &key) {
            if let Some(more) = account.more.as_mut() {
                more.blocked_until_ns = 0;
                more.violations.clear();
                more.remembers_until_ns = 0;
                more.is_pinned = false;
            }
            account.is_changed = true;
            inner.accounts.room().note(place.shard, account.is_new_at(common));
        }
        drop(shard);
        self.inner.home.is_urgent.store(true, Ordering::Relaxed);
        self.inner.home.stir();
    }

    /// Takes `n` on trial, of a key or of all: the permit is settled with what was really used, or given back.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// use l0::limits::{Quota, ScopeConfig};
    /// let budget = ScopeConfig::new(Quota::per_day(1_000_000)).keyed().public_keys().warn_at(0.8);
    /// let tokens = l0.limits().define("tokens", budget)?;
    /// let permit = tokens.reserve(Some("acme"), 4_000).unwrap();
    /// permit.commit_actual(1_234);
    /// assert_eq!(tokens.usage("acme", std::time::Duration::from_secs(3600))?, 1_234);
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Denied`], and nothing is taken.
    pub fn reserve(&self, key: Option<&str>, n: u64) -> Result<Permit<'static>, Denied> {
        let charge = self.key(key.unwrap_or_default()).cost(n);
        let (decision, trial) = decide(&[charge], true)?;
        Ok(Permit::of_scopes(trial, decision))
    }

    /// How many tokens a key used in the last so long, as settled, by whole minutes (by whole hours where it is longer ago
    /// than 48 hours); with `""` all keys of the scope. Of keys that were too many in their minute only the scope has the sum:
    /// each minute keeps the 256 that used, or were refused, the most.
    ///
    /// Reads the store, after telling it what was counted: for an invoice or a page, not for each request. Survives restarts, and
    /// is evicted with the rollups.
    ///
    /// # Errors
    /// As [`Events::fetch`](crate::query::Events::fetch).
    pub fn usage(&self, key: &str, last: Duration) -> Result<u64> {
        let inner = &*self.inner;
        if !inner.home.capture.is_forked() {
            inner.tell_counts(true);
        }
        let key = inner.home.shown(&bounded(key), inner.config.has_public_keys).into_owned();
        query::limit_usage(&inner.home.source, inner.name.0, &key, Window::last(last))
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("name", &self.inner.name.0).field("quota", &self.quota()).finish_non_exhaustive()
    }
}
