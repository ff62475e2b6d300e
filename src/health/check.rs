//! One check: what it is, how it is treated, and what is known of it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{IntoStatus, Status, registry::Registry, standing::Standing};
use crate::{
    error::{Error, Result},
    jobs::panic::discard,
};

const NAME_BYTES_MAX: usize = 128;
const EVERY: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Checks are not run more often than this.
const EVERY_MIN: Duration = Duration::from_millis(10);

/// What a check is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whether the program can serve.
    Readiness,
    /// Whether it must be restarted.
    Liveness,
    /// Whether it has begun; passed once, it is not run again.
    Startup,
    /// A job is the check, and says what it says when it has run.
    Scheduled,
}

/// How a check is treated.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) kind: Kind,
    pub(super) is_optional: bool,
    /// It is one of l0's own.
    pub(super) is_own: bool,
    pub(super) every: Duration,
    pub(super) timeout: Duration,
    pub(super) fail_after: u32,
    pub(super) pass_after: u32,
    pub(super) stale_after: Duration,
    pub(super) tags: Vec<String>,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Readiness, Self::Liveness, Self::Startup, Self::Scheduled];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
            Self::Startup => "startup",
            Self::Scheduled => "scheduled",
        }
    }

    /// Of its word; a word of a later l0 is taken for that of a check like most.
    pub(super) fn of(word: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).unwrap_or(Self::Readiness)
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            kind: Kind::Readiness,
            is_optional: false,
            is_own: false,
            every: EVERY,
            timeout: TIMEOUT,
            fail_after: 1,
            pass_after: 1,
            stale_after: 3 * EVERY + TIMEOUT,
            tags: Vec::new(),
        }
    }
}

/// What a job said that is a check.
#[derive(Debug)]
pub(crate) struct Said {
    /// When the job was enqueued, and its number: a later one has a higher number, unless the store was replaced.
    pub(crate) job: (i64, u64),
    pub(crate) result: Status,
}

pub(super) type Work = Box<dyn Fn() -> Status + Send + Sync>;

/// A check that is registered.
pub(super) struct Check {
    pub(super) name: Arc<str>,
    pub(super) terms: Terms,
    pub(super) work: Work,
    /// When it is due, by the monotonic clock.
    pub(super) due_ns: AtomicU64,
    /// Before then a look at it finds nothing to do.
    pub(super) look_ns: AtomicU64,
    /// When its run began, and one more; 0 if it does not run.
    running_ns: AtomicU64,
    /// It waits for a thread.
    pub(super) is_waiting: AtomicBool,
    pub(super) is_gone: AtomicBool,
    /// Runs that have begun, and those of which all is said; counted under the pool's lock.
    pub(super) begun: AtomicU64,
    pub(super) ended: AtomicU64,
    /// The job whose result is known, of one that is a job.
    job: Mutex<(i64, u64)>,
    /// Of who changes it.
    pub(super) standing: Mutex<Standing>,
    /// Of who reads it.
    pub(super) seen: ArcSwap<Standing>,
}

impl Check {
    pub(super) fn running_since(&self) -> Option<u64> {
        self.running_ns.load(Ordering::Acquire).checked_sub(1)
    }

    /// Says whether it did not run.
    pub(super) fn begin(&self, now_ns: u64) -> bool {
        self.running_ns.compare_exchange(0, now_ns.saturating_add(1), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn end(&self) {
        self.running_ns.store(0, Ordering::Release);
    }

    /// Whether the result of a later job is known; if not, this one's is from now on. With that, whether it was already: a job that
    /// is run again is the same.
    pub(super) fn knows_later(&self, job: (i64, u64)) -> (bool, bool) {
        let mut known = self.job.lock();
        let is_same = *known == job;
        let is_later = !is_same && job.0 <= known.0 && job.1 <= known.1;
        if !is_later {
            *known = job;
        }
        (is_later, is_same)
    }

    pub(super) fn is_done(&self) -> bool {
        self.seen.load().is_done(&self.terms)
    }
}

/// A check that is to be registered. See [`Health::check`](super::Health::check).
///
/// Unless set: a readiness check that is critical, run every 30 seconds, with a timeout of ten; one result is believed; a result
/// is stale after three intervals and the timeout.
#[must_use = "a check runs when it is registered"]
pub struct CheckBuilder {
    pub(super) registry: Arc<Registry>,
    pub(super) name: String,
    pub(super) terms: Terms,
    pub(super) stale_after: Option<Duration>,
    pub(super) work: Work,
}

impl CheckBuilder {
    pub(super) fn new<R: IntoStatus>(
        registry: &Arc<Registry>,
        name: &str,
        check: impl Fn() -> R + Send + Sync + 'static,
    ) -> Self {
        Self {
            registry: Arc::clone(registry),
            name: name.to_owned(),
            terms: Terms::default(),
            stale_after: None,
            work: Box::new(move || check().into_status()),
        }
    }

    /// The program can do without: unhealthy, it makes the whole degraded.
    pub fn optional(mut self) -> Self {
        self.terms.is_optional = true;
        self
    }

    /// Whether the program must be restarted: part of [`live`](super::Health::live), and not of `ready`. It should depend on nothing
    /// but the process, or a database that is down restarts everything. Before its first run it counts as healthy.
    pub fn liveness(mut self) -> Self {
        self.terms.kind = Kind::Liveness;
        self
    }

    /// A step of the start: part of [`ready`](super::Health::ready) until it passes, which it does once; then it is not run again.
    pub fn startup(mut self) -> Self {
        self.terms.kind = Kind::Startup;
        self
    }

    /// How often it is run; ten milliseconds at least.
    pub fn every(mut self, d: Duration) -> Self {
        self.terms.every = d.max(EVERY_MIN);
        self
    }

    /// How long a run may take. One that takes longer has failed; while it hangs it is not started again, and each interval (of
    /// half a second at least) is a further failure.
    pub fn timeout(mut self, d: Duration) -> Self {
        self.terms.timeout = d;
        self
    }

    /// So many results in a row that are worse than what is reported change that.
    pub fn fail_after(mut self, n: u32) -> Self {
        self.terms.fail_after = n.max(1);
        self
    }

    /// So many results in a row that are better than what is reported change that; before the first, so many are needed to pass.
    pub fn pass_after(mut self, n: u32) -> Self {
        self.terms.pass_after = n.max(1);
        self
    }

    /// A result that is older than this says nothing any more: the check is unhealthy. To be longer than the interval and what a
    /// run takes, or the check is unhealthy before each run.
    pub fn stale_after(mut self, d: Duration) -> Self {
        self.stale_after = Some(d);
        self
    }

    /// Part of [`tagged`](super::Health::tagged) reports for this tag.
    pub fn tag(mut self, t: &str) -> Self {
        self.terms.tags.push(t.to_owned());
        self
    }

    /// Registers it, until it is unregistered. It is run at once, on a thread of l0's.
    ///
    /// # Errors
    /// `is_invalid_input` if there is a check of this name, or for a name that cannot be; `is_closed` after shutdown.
    pub fn register(self) -> Result<()> {
        self.add().map(drop)
    }

    /// Registers it until the guard is dropped.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn register_scoped(self) -> Result<Registration> {
        let registry = Arc::clone(&self.registry);
        self.add().map(|check| Registration { registry, check: Some(check) })
    }

    pub(super) fn add(mut self) -> Result<Arc<Check>> {
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || self.name.chars().any(char::is_control) {
            let shown: String = self.name.chars().take(40).collect();
            return Err(Error::invalid_input(format!(
                "{shown:?} is no name of a check: use 1 to {NAME_BYTES_MAX} bytes without control characters"
            )));
        }
        let Terms { every, timeout, .. } = self.terms;
        self.terms.stale_after = self.stale_after.unwrap_or_else(|| every.saturating_mul(3).saturating_add(timeout));
        if timeout.is_zero() {
            let name = &self.name;
            let why = format!("the check {name:?} would never be healthy: give it a timeout that is not zero");
            return Err(Error::invalid_input(why));
        }
        let standing = Standing::at(self.registry.clock.elapsed_ns());
        let due_ns = if self.terms.kind == Kind::Scheduled { u64::MAX } else { 0 };
        let check = Arc::new(Check {
            name: self.name.into(),
            terms: self.terms,
            work: self.work,
            due_ns: AtomicU64::new(due_ns),
            look_ns: AtomicU64::new(0),
            running_ns: AtomicU64::new(0),
            is_waiting: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            job: Mutex::new((i64::MIN, 0)),
            seen: ArcSwap::from_pointee(standing.clone()),
            standing: Mutex::new(standing),
        });
        self.registry.add(Arc::clone(&check))?;
        Ok(check)
    }
}

/// A check that is unregistered when this is dropped.
#[must_use = "dropping it unregisters the check"]
pub struct Registration {
    registry: Arc<Registry>,
    check: Option<Arc<Check>>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(check) = self.check.take() {
            self.registry.remove(&check);
            // What it holds is the application's.
            discard(check);
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("name", &self.name).field("terms", &self.terms).finish_non_exhaustive()
    }
}

impl fmt::Debug for CheckBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckBuilder").field("name", &self.name).field("terms", &self.terms).finish_non_exhaustive()
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("check", &self.check).finish_non_exhaustive()
    }
}
