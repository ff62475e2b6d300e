//! The limits of one `L0`: scopes by name, decisions over several of them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::{Mutex, RwLock};

use super::{
    config::ScopeConfig,
    decide::decide,
    decision::{Decision, Denied},
    home::Home,
    permit::Permit,
    quota::Quota,
    scope::{Charge, Inner, Scope},
    snapshot::Saved,
    upkeep::{self, Upkeep},
};
use crate::{
    capture::Capture,
    clock::Clock,
    error::{Error, Result},
    query::{self, LimitReport, Window},
    redaction::Redactor,
    state::{SavedAccount, State},
    store::Source,
    timer::Timer,
};

/// So many scopes may be defined.
const SCOPES_MAX: usize = 1_000;

/// Named limits of an application, by [`Handle::limits`](crate::Handle::limits).
///
/// Three scopes are there without a word: `global` (1,000 a minute for all), `api` (100 a minute and key) and `auth` (10 a
/// minute and key); [`define`](Self::define) adds others, and gives those three another configuration if it comes before
/// their first use.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let l0 = l0::builder().dir(dir.path()).start()?;
/// use l0::limits::{Quota, ScopeConfig};
/// let limits = l0.limits();
/// let (global, api) = (limits.scope("global")?, limits.scope("api")?);
/// let reports = limits.define("reports", ScopeConfig::new(Quota::per_hour(20).burst(5)).keyed())?;
/// match limits.check_all(&[reports.key("acme"), api.key("acme"), global.all()]) {
///     Ok(decision) => println!("{:?} is the tightest", decision.scope()),
///     Err(denied) => println!("{denied}"), // nothing was charged anywhere
/// }
/// # Ok::<(), l0::Error>(())
/// ```
pub struct Limits {
    registry: Arc<Registry>,
}

struct Registry {
    home: Arc<Home>,
    scopes: RwLock<BTreeMap<&'static str, Arc<Inner>>>,
    upkeep: Mutex<Upkeep>,
}

/// What a scope has done since the program started.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct ScopeStats {
    /// The scope's name.
    pub scope: String,
    /// Charges that passed.
    pub allowed: u64,
    /// Charges that were refused.
    pub denied: u64,
    /// Charges that passed only because the scope is in dry run.
    pub dry_run_denied: u64,
    /// Tokens of those that passed, as settled.
    pub used: u64,
    /// Keys that are kept.
    pub keys: usize,
    /// Charges whose key found no place, and shared a bucket.
    pub overflowed: u64,
}

impl Limits {
    pub(crate) fn new(
        clock: Clock,
        capture: Arc<Capture>,
        redactor: Arc<Redactor>,
        state: Arc<State>,
        source: Source,
        timer: &Arc<Timer>,
        left: Vec<SavedAccount>,
    ) -> Self {
        let registry = Arc::new_cyclic(|registry: &Weak<Registry>| {
            let due = Weak::clone(registry);
            let task = timer.add(Box::new(move || due.upgrade().and_then(|registry| registry.round())));
            let timer = (Arc::clone(timer), task);
            let home = Home::new(clock, capture, redactor, state, source, timer, Saved::by_key(left));
            Registry { home: Arc::new(home), scopes: RwLock::default(), upkeep: Mutex::default() }
        });
        Self { registry }
    }

    /// Defines a scope. To define it again in the same words is to look it up.
    ///
    /// # Errors
    /// `is_invalid_input` for a name, quota or setting that makes no sense, for a name that is defined otherwise, and for
    /// more than 1,000 scopes.
    pub fn define(&self, name: &str, config: ScopeConfig) -> Result<Scope> {
        config.validate(name)?;
        if !config.has_public_keys {
            // Its making may need the disk: not at the first refusal.
            self.registry.home.redactor.key();
        }
        let mut scopes = self.registry.scopes.write();
        if let Some(known) = scopes.get(name) {
            if known.config == config {
                return Ok(Scope { inner: Arc::clone(known) });
            }
            return Err(Error::invalid_input(format!(
                "the scope {name:?} is defined otherwise already: use scope({name:?}) and set_quota to change it, or define it before its first use"
            )));
        }
        if scopes.len() >= SCOPES_MAX {
            return Err(Error::invalid_input(format!(
                "cannot define the scope {name:?}: there are {SCOPES_MAX} already; a scope is a kind of limit, what differs from request to request is a key"
            )));
        }
        let name = names::kept(name);
        let inner = Arc::new(Inner::new(name, config, Arc::clone(&self.registry.home)));
        scopes.insert(name.0, Arc::clone(&inner));
        Ok(Scope { inner })
    }

    /// Looks a scope up: at start-up, once.
    ///
    /// # Errors
    /// `is_invalid_input` if it is not defined.
    pub fn scope(&self, name: &str) -> Result<Scope> {
        if let Some(known) = self.registry.scopes.read().get(name) {
            return Ok(Scope { inner: Arc::clone(known) });
        }
        match preset(name) {
            // Of two at once the second finds the first's.
            Some(config) => self.define(name, config),
            None => {
                let scopes = self.registry.scopes.read();
                let mut known: Vec<&str> = PRESETS.iter().copied().chain(scopes.keys().copied()).collect();
                known.sort_unstable();
                known.dedup();
                let known = known.join(", ");
                Err(Error::invalid_input(format!(
                    "there is no scope {name:?}: define it first, with limits().define(..); there are {known}"
                )))
            }
        }
    }

    /// May all of them pass? Then all are charged; otherwise none is, and the answer names the scope that takes the
    /// longest. What others do at the same time comes before or after, not between.
    ///
    /// # Errors
    /// [`Denied`], and nothing is taken anywhere.
    pub fn check_all(&self, charges: &[Charge<'_>]) -> Result<Decision, Denied> {
        decide(charges, false).map(|(decision, _)| decision)
    }

    /// The same on trial.
    ///
    /// # Errors
    /// [`Denied`], and nothing is taken anywhere.
    pub fn reserve_all(&self, charges: &[Charge<'_>]) -> Result<Permit<'static>, Denied> {
        let (decision, trial) = decide(charges, true)?;
        Ok(Permit::of_scopes(trial, decision))
    }

    /// What was let pass and refused in the last so long, by scope and key, with lock-outs and the latest violations; this
    /// run's and earlier ones'.
    ///
    /// # Errors
    /// As [`Events::fetch`](crate::query::Events::fetch).
    pub fn report(&self, last: Duration) -> Result<LimitReport> {
        self.tell(true);
        query::limit_report(&self.registry.home.source, Window::last(last))
    }

    /// What each scope has done since the program started.
    pub fn stats(&self) -> Vec<ScopeStats> {
        let scopes: Vec<_> = self.registry.scopes();
        let stats = scopes.iter().map(|scope| {
            let mut total = super::account::Tally::default();
            (0..scope.accounts.shards()).for_each(|index| total.add(scope.accounts.lock(index).common.total()));
            let [allowed, denied, dry_run_denied, used] = total.counts().map(|count| u64::try_from(count).unwrap_or(0));
            ScopeStats {
                scope: scope.name.0.to_owned(),
                allowed,
                denied,
                dry_run_denied,
                used,
                keys: scope.accounts.room().len(),
                overflowed: scope.accounts.room().overflowed(),
            }
        });
        stats.collect()
    }

    /// Hands over what was counted, of keys as well if asked, and what windows have ended.
    pub(crate) fn tell(&self, with_keys: bool) {
        let now_ns = self.registry.home.now_ns();
        for scope in self.registry.scopes() {
            scope.tell_counts(with_keys);
            scope.close_windows(now_ns, false);
        }
    }

    /// Hands over everything, open windows as well at the end; says whether there was room for it.
    pub(crate) fn tell_all(&self, at_the_end: bool) -> bool {
        upkeep::tell_all(&self.registry.home, &self.registry.scopes(), at_the_end)
    }

    /// Nothing is told after this; what is owed and who is blocked is saved.
    pub(crate) fn finish(&self, within: Duration) {
        upkeep::finish(&self.registry.home, &self.registry.scopes(), within);
    }
}

impl Registry {
    /// All of them; none in a forked child, where a lock may be held for ever.
    fn scopes(&self) -> Vec<Arc<Inner>> {
        if self.home.capture.is_forked() {
            return Vec::new();
        }
        self.scopes.read().values().cloned().collect()
    }

    fn round(&self) -> Option<Duration> {
        upkeep::round(&self.upkeep, &self.home, &self.scopes())
    }
}

const PRESETS: [&str; 3] = ["global", "api", "auth"];

fn preset(name: &str) -> Option<ScopeConfig> {
    match name {
        "global" => Some(ScopeConfig::new(Quota::per_minute(1_000))),
        "api" => Some(ScopeConfig::new(Quota::per_minute(100)).keyed()),
        "auth" => Some(ScopeConfig::new(Quota::per_minute(10)).keyed()),
        _ => None,
    }
}

mod names {
    use std::collections::BTreeMap;

    use parking_lot::Mutex;

    use super::super::decision::ScopeName;

    static KEPT: Mutex<BTreeMap<&'static str, &'static ScopeName>> = Mutex::new(BTreeMap::new());

    /// The name for the rest of the process, so that a decision can carry it for nothing. Scopes are few and of the
    /// program's own making.
    pub(super) fn kept(name: &str) -> &'static ScopeName {
        let mut kept = KEPT.lock();
        if let Some(known) = kept.get(name) {
            return known;
        }
        let name: &'static str = Box::leak(Box::from(name));
        let kept_name: &'static ScopeName = Box::leak(Box::new(ScopeName(name)));
        kept.insert(name, kept_name);
        kept_name
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").field("scopes", &self.registry.scopes.read().keys().collect::<Vec<_>>()).finish()
    }
}
