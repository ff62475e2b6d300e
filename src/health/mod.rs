//! Health: checks that run beside the program, and what they say, to be read without waiting.
//!
//! A check is a closure. It runs in the background, on at most eight threads of its own and never on one of a job's; who asks
//! [`ready`](Health::ready) or [`live`](Health::live) gets a snapshot and waits for nobody, whatever the checks do. A check that
//! hangs is reported as overdue and not started again, one that panics has failed, a result that grows old is stale, and a
//! program that has not run its readiness checks yet is not ready.
//!
//! What is reported follows the results as slowly as [`fail_after`](CheckBuilder::fail_after) and
//! [`pass_after`](CheckBuilder::pass_after) say. Each change is an event `health.changed`, a row of the view `health`, and a call
//! of those that asked for it with [`on_change`](Health::on_change).
//!
//! What a [system-check job](crate::Handle::schedule_check) says is in the report, too, with the tag `scheduled`.
//!
//! l0's own state is in checks of its own, with the tag `l0`, once a minute, some of them once a second: part of [`report`](Health::report), not of `ready`,
//! for a program whose telemetry is sick still serves. They are made when health is first asked for, by a report, a check or
//! [`Handle::status`](crate::Handle::status): a program that does not has no threads of health.
//!
//! What a check says is shown, told and kept without the secrets that redaction knows, and cut at a kilobyte; its name and tags
//! as they are.
//!
//! # Time
//!
//! Intervals go by the monotonic clock. On a manual clock nothing runs by itself: [`run_due`](Health::run_due) does.

mod check;
mod history;
mod notices;
mod outside;
mod registry;
mod render;
mod report;
mod running;
mod standing;
mod status;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

pub(crate) use check::Said;
use check::{Check, Kind, Terms};
pub use check::{CheckBuilder, Registration};
pub use history::HealthReader;
use notices::Notices;
use registry::Registry;
pub use render::{Format, Rendered};
pub use report::{CheckReport, Report, Transition};
pub use status::{IntoStatus, Status};

use crate::{
    capture::Capture,
    clock::Clock,
    error::{Error, Result},
    jobs::panic::discard,
    redaction::Redactor,
    state::State,
    timer::Timer,
};

/// The tag of l0's own checks.
const OWN: &str = "l0";
const READY: &str = "readyz";
/// The tag of checks that are jobs.
const SCHEDULED: &str = "scheduled";

/// One that a job is; forgotten by the registry when it is unregistered.
#[derive(Clone, Debug)]
pub(crate) struct ScheduledCheck(Arc<Check>);

/// Checks of an application, by [`Handle::health`](crate::Handle::health).
///
/// ```
/// # use std::time::Duration;
/// # let dir = tempfile::tempdir().unwrap();
/// # let l0 = l0::builder().dir(dir.path()).start()?;
/// use l0::health::Status;
/// let health = l0.health();
/// health.register("db", || "1".parse::<u8>().map(drop))?;      // any Result<(), impl Display>, or a Status
/// health.check("cache", || Status::Degraded("cold".into())).optional().every(Duration::from_secs(5)).fail_after(3).register()?;
/// health.check_now("db")?;
/// assert!(health.ready().checks.iter().any(|check| check.name == "db" && check.status == Status::Healthy));
/// # Ok::<(), l0::Error>(())
/// ```
pub struct Health {
    registry: Arc<Registry>,
    dir: PathBuf,
    service: String,
    version: Option<String>,
    /// l0's own checks, made with the first use: a program that asks for no health runs none.
    own: OnceLock<()>,
    make_own: OnceLock<MakeOwn>,
}

type MakeOwn = Box<dyn Fn(&Health) + Send + Sync>;

/// A result of one of l0's own checks that is older is stale.
const OWN_STALE_AFTER: Duration = Duration::from_secs(190);

impl Health {
    pub(crate) fn new(
        clock: Clock,
        capture: Arc<Capture>,
        redactor: Arc<Redactor>,
        timer: Arc<Timer>,
        state: Arc<State>,
        (service, version): (String, Option<String>),
    ) -> Self {
        let dir = state.dir().to_owned();
        let notices = Notices::new(state, Arc::clone(&capture));
        let registry = Registry::new(clock, (capture, redactor), timer, notices);
        Self { registry, dir, service, version, own: OnceLock::new(), make_own: OnceLock::new() }
    }

    /// How l0's own checks are registered when they are.
    pub(crate) fn set_own(&self, make: MakeOwn) {
        let _ = self.make_own.set(make);
    }

    fn used(&self) -> &Arc<Registry> {
        self.own.get_or_init(|| {
            if let Some(make) = self.make_own.get().filter(|_| self.registry.open().is_ok()) {
                make(self);
            }
        });
        &self.registry
    }

    /// A check of l0's own.
    pub(crate) fn own_check<R: IntoStatus>(
        &self,
        name: &str,
        every: Duration,
        check: impl Fn() -> R + Send + Sync + 'static,
    ) {
        let mut builder = CheckBuilder::new(&self.registry, name, check).optional().tag(OWN);
        builder.terms.is_own = true;
        builder.terms.every = every;
        // All of them share a thread, and one may wait for a disk.
        let _ = builder.stale_after(OWN_STALE_AFTER).register();
    }

    /// How often `check_now` was called.
    pub(crate) fn wishes(&self) -> u64 {
        self.registry.wishes()
    }

    /// Has l0's own checks run now, because something has changed that they report.
    pub(crate) fn run_own_checks(&self) {
        self.registry.run_own_checks();
    }

    /// A check that a job is, which may take so long.
    pub(crate) fn scheduled_check(&self, name: &str, timeout: Duration) -> Result<ScheduledCheck> {
        let mut builder = CheckBuilder::new(self.used(), name, || Status::Healthy).tag(SCHEDULED);
        builder.terms.kind = Kind::Scheduled;
        builder.timeout(timeout).every(timeout).add().map(ScheduledCheck)
    }

    /// The checks that are jobs, by name.
    pub(crate) fn scheduled(&self) -> Vec<(String, ScheduledCheck)> {
        let checks = self.registry.checks();
        let scheduled = checks.iter().filter(|check| check.terms.kind == Kind::Scheduled);
        scheduled.map(|check| (check.name.to_string(), ScheduledCheck(Arc::clone(check)))).collect()
    }

    /// Its job begins here.
    pub(crate) fn begin_scheduled(&self, check: &ScheduledCheck) {
        self.registry.begin_elsewhere(&check.0);
    }

    /// It has ended here.
    pub(crate) fn end_scheduled(&self, check: &ScheduledCheck, said: Said) {
        self.registry.end_elsewhere(&check.0, said);
    }

    /// It took so long and ended so long ago, perhaps in another process: that is known already, or is news.
    pub(crate) fn hear_scheduled(&self, check: &ScheduledCheck, said: Said, took: Duration, age: Duration) {
        self.registry.hear(&check.0, said, took, age);
    }

    /// Has kept what these checks are reported to be, which somebody took for ended.
    pub(crate) fn say_again(&self, names: &[String]) {
        self.registry.say_again(names);
    }

    /// Registers a check with what [`CheckBuilder`] says unless set.
    ///
    /// # Errors
    /// As [`CheckBuilder::register`].
    pub fn register<R: IntoStatus>(&self, name: &str, check: impl Fn() -> R + Send + Sync + 'static) -> Result<()> {
        self.check(name, check).register()
    }

    /// A check that is to be registered: a closure that returns a [`Status`], or a `Result` whose error says why it is unhealthy.
    pub fn check<R: IntoStatus>(&self, name: &str, check: impl Fn() -> R + Send + Sync + 'static) -> CheckBuilder {
        CheckBuilder::new(self.used(), name, check)
    }

    /// Forgets a check; a run that it is at may end, and says nothing any more. Says whether there was one.
    pub fn unregister(&self, name: &str) -> bool {
        let Some(check) = self.registry.find(name) else { return false };
        let is_removed = self.registry.remove(&check);
        discard(check);
        is_removed
    }

    /// Runs a check now, on a thread of l0's, or waits for the run it is at; says what it said, not what is reported. Blocks for
    /// its timeout and half a second at most, and is unhealthy then.
    ///
    /// # Errors
    /// `is_invalid_input` if there is no such check, `is_closed` after shutdown.
    pub fn check_now(&self, name: &str) -> Result<Status> {
        let registry = self.used();
        let found = registry.find(name).filter(|check| check.terms.kind != Kind::Scheduled);
        let Some(check) = found else {
            let names: Vec<_> = registry.checks().iter().map(|check| check.name.to_string()).collect();
            return Err(Error::invalid_input(format!(
                "there is no check {name:?} that can be run: there are {}",
                names.join(", ")
            )));
        };
        registry.check_now(&check)
    }

    /// For tests, on a manual clock: runs what is due on this thread; says how many checks that were.
    ///
    /// # Errors
    /// `is_closed` after shutdown.
    pub fn run_due(&self) -> Result<usize> {
        self.used().run_due()
    }

    /// Whether the program must be restarted: its liveness checks. Without any it is healthy.
    pub fn live(&self) -> Report {
        self.of("livez", |terms| !terms.is_own && terms.kind == Kind::Liveness)
    }

    /// Whether the program can serve: its readiness checks and the steps of its start. Without any it is, until l0 is shut down.
    pub fn ready(&self) -> Report {
        self.of(READY, |terms| !terms.is_own && matches!(terms.kind, Kind::Readiness | Kind::Startup))
    }

    /// All checks, l0's own among them.
    pub fn report(&self) -> Report {
        self.of("healthz", |_| true)
    }

    /// The checks with this tag.
    pub fn tagged(&self, tag: &str) -> Report {
        self.of("healthz", |terms| terms.tags.iter().any(|known| known == tag))
    }

    /// [`live`](Self::live)`().is_ok()` at the price of some tens of nanoseconds, however many checks there are.
    pub fn is_live(&self) -> bool {
        self.registry.summary().is_live
    }

    /// [`ready`](Self::ready)`().is_ok()`, at the price of some tens of nanoseconds, however many checks there are, unless one of them
    /// has run since it was last asked.
    pub fn is_ready(&self) -> bool {
        self.registry.summary().is_ready
    }

    fn of(&self, question: &'static str, which: impl Fn(&Terms) -> bool) -> Report {
        let registry = self.used();
        let now_ns = registry.clock.elapsed_ns();
        let checks = registry.checks();
        let checks = checks.iter().filter(|check| which(&check.terms)).map(|check| CheckReport::of(check, now_ns));
        let mut report = Report::new(question, checks.collect(), &registry.clock);
        if question == READY && registry.is_ending() {
            report.status = Status::Unhealthy("l0 is shut down".to_owned());
        }
        report.service = Some(self.service.clone());
        report.version.clone_from(&self.version);
        report
    }

    /// The changes of a check in this time, the earliest first, of this and other processes; the latest thousand at most. Waits for
    /// what is on its way into the store, two seconds at most.
    ///
    /// # Errors
    /// `is_storage` if they cannot be read.
    pub fn history(&self, name: &str, last: Duration) -> Result<Vec<Transition>> {
        self.kept().history(name, last)
    }

    /// The share of this time, from 0 to 1, in which a check was not unhealthy; of the time in which something was known of it,
    /// which is not before its first result, nor between the end of a process and the first result of the next. Of several
    /// processes that have such a check all must be well. What a process said that was killed holds until its last sign of life, which
    /// it gives every minute; of one that hangs likewise, while it does. Waits as [`history`](Self::history) does.
    ///
    /// # Errors
    /// `is_storage` if the history cannot be read, `is_invalid_input` if nothing is known of such a check in this time.
    pub fn uptime(&self, name: &str, last: Duration) -> Result<f64> {
        self.kept().uptime(name, last)
    }

    /// What is kept, with what is on its way.
    fn kept(&self) -> HealthReader {
        self.registry.notices.settle();
        let own = Some(self.registry.capture.run().to_string());
        HealthReader { dir: self.dir.clone(), clock: self.registry.clock.clone(), own }
    }

    /// Calls `f` with each change from now on, on a thread of l0's, one after the other. A thousand changes may wait for callbacks
    /// that are slow; then the oldest are not called back for. They are in the history and the events all the same.
    pub fn on_change(&self, f: impl Fn(&Transition) + Send + Sync + 'static) {
        self.used().notices.add_callback(Arc::new(f));
    }

    /// Changes that nobody was called back for, since callbacks were slow.
    pub fn dropped_changes(&self) -> u64 {
        self.registry.notices.dropped()
    }

    /// The end begins: whoever sends the program something is to stop that.
    pub(crate) fn begin_end(&self) {
        self.registry.begin_end();
    }

    pub(crate) fn stop(&self, until: Instant) {
        self.registry.stop(until);
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("registry", &self.registry).finish_non_exhaustive()
    }
}
