//! What readers get: the checks at a moment, and changes.

use std::{borrow::Cow, fmt, time::Duration};

use serde::Serialize;

use super::{Status, check::Check, standing::level};
use crate::{
    clock::{Clock, Timestamp},
    query::{harmless, human_duration},
};

/// How the checks of a question stood when it was asked.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The worst of them; an optional check that is unhealthy counts as degraded. It names the checks that decided.
    pub status: Status,
    /// By name.
    pub checks: Vec<CheckReport>,
    /// As of when.
    pub at: Timestamp,
    /// What was asked: `livez`, `readyz` or `healthz`.
    #[serde(skip)]
    pub(super) question: &'static str,
    #[serde(skip)]
    pub(super) service: Option<String>,
    #[serde(skip)]
    pub(super) version: Option<String>,
    #[serde(skip)]
    pub(super) hides_details: bool,
}

/// How one check stood.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CheckReport {
    /// Its name.
    pub name: String,
    /// What is reported of it: its results, slowed by `fail_after` and `pass_after`; or that it is overdue, stale, or has not run.
    pub status: Status,
    /// Since when it is reported to be that; `None` if nothing has been reported.
    pub since: Option<Timestamp>,
    /// How old its latest result is; `None` if there is none, or that is not known.
    pub age: Option<Duration>,
    /// Results in a row that were unhealthy.
    pub contiguous_failures: u32,
    /// How long its latest run took.
    pub took: Option<Duration>,
    /// How long the run takes that it is at.
    pub running_for: Option<Duration>,
    /// Whether the program can do without.
    pub is_optional: bool,
    /// `readiness`, `liveness`, `startup` or `scheduled`.
    pub kind: &'static str,
    /// Its tags.
    pub tags: Vec<String>,
    #[serde(skip)]
    pub(super) is_overdue: bool,
}

/// A check that is reported otherwise than before.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Transition {
    /// The check.
    pub name: String,
    /// When.
    pub at: Timestamp,
    /// What it was; `None` if nothing was known, as at the start of a process. In the history without its reason, which is that of
    /// the change before.
    pub from: Option<Status>,
    /// What it is.
    pub to: Status,
    /// How long it had been what it was, where the history tells.
    pub after: Option<Duration>,
    /// Whether the program can do without the check.
    pub is_optional: bool,
}

impl CheckReport {
    pub(super) fn of(check: &Check, now_ns: u64) -> Self {
        // In this order: what is at work and has ended meanwhile is shown as it was at work.
        let running_since = check.running_since();
        let standing = check.seen.load();
        let ago = |at_ns: u64| Duration::from_nanos(now_ns.saturating_sub(at_ns));
        Self {
            name: check.name.to_string(),
            status: standing.seen(running_since, &check.terms, now_ns),
            since: standing.since,
            age: standing.has_run.then(|| ago(standing.ended_ns).saturating_add(standing.earlier)),
            contiguous_failures: standing.failures,
            took: standing.has_run.then_some(standing.took),
            running_for: running_since.map(ago),
            is_overdue: running_since.is_some_and(|since| ago(since) > check.terms.timeout),
            is_optional: check.terms.is_optional,
            kind: check.terms.kind.as_str(),
            tags: check.terms.tags.clone(),
        }
    }

    /// Why it is not healthy; of one that hangs, for how long it has by now.
    pub(super) fn why(&self) -> Option<Cow<'_, str>> {
        let why = self.status.why()?;
        Some(match self.running_for.filter(|_| self.is_overdue && level(&self.status) == 2) {
            Some(running_for) => format!("{why} (running for {})", human_duration(running_for)).into(),
            None => why.into(),
        })
    }

    /// What it counts in the whole.
    pub(super) fn weight(&self) -> u8 {
        level(&self.status).min(if self.is_optional { 1 } else { 2 })
    }
}

impl Report {
    pub(super) fn new(question: &'static str, checks: Vec<CheckReport>, clock: &Clock) -> Self {
        let worst = checks.iter().map(CheckReport::weight).max().unwrap_or(0);
        let deciding = checks.iter().filter(|check| check.weight() == worst);
        let why = || {
            let names: Vec<_> = deciding
                .map(|check| match check.status.why() {
                    Some(why) if !why.is_empty() => format!("{}: {why}", check.name),
                    _ => check.name.clone(),
                })
                .collect();
            names.join("; ")
        };
        let status = match worst {
            0 => Status::Healthy,
            1 => Status::Degraded(why()),
            _ => Status::Unhealthy(why()),
        };
        Self { status, checks, at: clock.now_by_hand(), question, service: None, version: None, hides_details: false }
    }

    /// Whether it is not unhealthy.
    pub fn is_ok(&self) -> bool {
        level(&self.status) < 2
    }

    /// The same for strangers: which checks there are and why they fail is not in it, nor in what is rendered of it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// use l0::health::Format;
    /// let page = l0.health().ready().without_details().render(Format::HealthJson);
    /// assert_eq!(page.body, r#"{"status":"pass"}"#);
    /// # Ok::<(), l0::Error>(())
    /// ```
    #[must_use]
    pub fn without_details(mut self) -> Self {
        self.status = match self.status {
            Status::Healthy => Status::Healthy,
            Status::Degraded(_) => Status::Degraded(String::new()),
            Status::Unhealthy(_) => Status::Unhealthy(String::new()),
        };
        self.checks.clear();
        self.hides_details = true;
        self
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = harmless(&self.name);
        write!(f, "{name:<24} {}", self.status.as_str())?;
        if let Some(why) = self.why().filter(|why| !why.is_empty()) {
            write!(f, ": {}", harmless(&why))?;
        }
        if let Some(age) = self.age {
            write!(f, " ({} ago", human_duration(age))?;
            if let Some(took) = self.took {
                write!(f, ", took {}", human_duration(took))?;
            }
            f.write_str(")")?;
        }
        if self.contiguous_failures > 1 {
            write!(f, " {} failures in a row", self.contiguous_failures)?;
        }
        if self.is_optional {
            f.write_str(", optional")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.status)?;
        self.checks.iter().try_for_each(|check| writeln!(f, "  {check}"))
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, at, from, to, after, .. } = self;
        write!(f, "{:.19}Z {} ", at.to_string(), harmless(name))?;
        if let Some(from) = from {
            write!(f, "{} -> ", from.as_str())?;
        }
        write!(f, "{to}")?;
        after.map_or(Ok(()), |after| write!(f, " (after {})", human_duration(after)))
    }
}
