//! Checks as they are known from outside: by the last sign of life of each process, which says how they stood, and by what has
//! changed since.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde::Deserialize;

use super::{
    HealthReader, Status,
    check::Kind,
    report::{CheckReport, Report},
    standing::level,
};
use crate::{
    clock::Timestamp,
    error::Result,
    state::{self, HealthRow, SignOfLife},
};

/// A check in a sign of life, as [`CheckReport`] is written.
#[derive(Deserialize)]
struct Noted {
    name: String,
    status: Status,
    age: Option<Duration>,
    contiguous_failures: u32,
    took: Option<Duration>,
    is_optional: bool,
    kind: String,
    tags: Vec<String>,
}

/// What a run said last.
struct Sign {
    at: i64,
    checks: HashMap<String, Noted>,
    /// When it was last heard of; nothing if all has ended that it said.
    heard: Option<i64>,
}

impl HealthReader {
    /// All checks of all processes that have the store: how they stood at the last sign of life of their process, which it gives
    /// every minute once health is used, and what has changed since, which is kept at once. Of one that several have, it is the
    /// worst. An age is what it can be at most: a check that says the same again is heard with the next sign of life.
    /// Of more than some thousand checks only the changes are known.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// # l0.health().check("db", || Err::<(), _>("no answer")).tag("deep").register()?;
    /// # l0.health().check_now("db")?;
    /// # l0.health().history("db", std::time::Duration::from_secs(60))?;
    /// use l0::health::{Format, HealthReader};
    /// let report = HealthReader::open(dir.path()).report()?;
    /// let db = report.checks.iter().find(|check| check.name == "db").unwrap();
    /// assert_eq!((db.kind, &*db.tags, db.status.why()), ("readiness", &["deep".to_owned()][..], Some("no answer")));
    /// assert_eq!(report.render(Format::Kubernetes).status_code, 503);
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// `is_storage` if they cannot be read.
    pub fn report(&self) -> Result<Report> {
        let now = self.clock.now_by_hand();
        let (checks, _) = self.known(now)?;
        Ok(Report::new("healthz", checks, &self.clock))
    }

    /// When the processes whose checks are known last said something of themselves: of these, the one that has been silent for
    /// longest. One that lives does so every minute. `None` if there is none.
    ///
    /// # Errors
    /// `is_storage` if that cannot be read.
    pub fn last_heard(&self) -> Result<Option<Timestamp>> {
        let (_, heard) = self.known(self.clock.now_by_hand())?;
        Ok(heard.map(Timestamp::from_unix_ns))
    }

    fn known(&self, now: Timestamp) -> Result<(Vec<CheckReport>, Option<i64>)> {
        // In this order: what changes meanwhile is later than the sign.
        let signs = state::signs_of_life(&self.dir)?.into_iter();
        let mut signs: HashMap<String, Sign> = signs.map(|sign| (sign.run.clone(), Sign::read(&sign))).collect();
        let mut checks = BTreeMap::new();
        for row in state::latest_health(&self.dir)? {
            let sign = signs.entry(row.run.clone()).or_insert_with(Sign::none);
            if row.after.is_some() {
                sign.heard = sign.heard.max(Some(row.at.max(sign.at)));
            }
            match sign.checks.remove(&row.name).filter(|_| sign.at > row.at) {
                Some(noted) => take(&mut checks, noted.report(since(sign.at, now))),
                None => changed(row, now).into_iter().for_each(|report| take(&mut checks, report)),
            }
        }
        // Those of which nothing has been reported yet.
        for sign in signs.values_mut().filter(|sign| sign.heard.is_some()) {
            let since = since(sign.at, now);
            sign.checks.drain().for_each(|(_, noted)| take(&mut checks, noted.report(since)));
        }
        let heard = signs.values().filter_map(|sign| sign.heard).min();
        Ok((checks.into_values().collect(), heard))
    }
}

/// Of one that several processes have, the worst.
fn take(checks: &mut BTreeMap<String, CheckReport>, report: CheckReport) {
    let badness = |report: &CheckReport| (report.weight(), level(&report.status));
    match checks.get(&report.name) {
        Some(other) if badness(other) > badness(&report) => {}
        _ => _ = checks.insert(report.name.clone(), report),
    }
}

fn since(at: i64, now: Timestamp) -> Duration {
    Duration::from_nanos(u64::try_from(now.as_unix_ns().saturating_sub(at)).unwrap_or(0))
}

/// What a change says, unless that it has ended.
fn changed(row: HealthRow, now: Timestamp) -> Option<CheckReport> {
    let status: Status = serde_json::from_str(&row.after?).ok()?;
    let noted = Noted {
        name: row.name,
        contiguous_failures: u32::from(level(&status) == 2),
        status,
        age: Some(Duration::ZERO),
        took: None,
        is_optional: row.is_optional,
        kind: row.kind,
        tags: serde_json::from_str(&row.tags).unwrap_or_default(),
    };
    Some(noted.report(since(row.at, now)))
}

impl Sign {
    fn none() -> Self {
        Self { at: i64::MIN, checks: HashMap::new(), heard: None }
    }

    fn read(sign: &SignOfLife) -> Self {
        // Of a later l0, perhaps: then the changes tell.
        let checks: Vec<Noted> = serde_json::from_str(&sign.checks).unwrap_or_default();
        let checks = checks.into_iter().map(|noted| (noted.name.clone(), noted)).collect();
        Self { at: sign.at, checks, heard: None }
    }
}

impl Noted {
    /// As it was so long ago.
    fn report(self, ago: Duration) -> CheckReport {
        let Self { name, status, age, contiguous_failures, took, is_optional, kind, tags } = self;
        CheckReport {
            name,
            status,
            age: age.map(|age| age.saturating_add(ago)),
            contiguous_failures,
            took,
            running_for: None,
            is_optional,
            kind: Kind::of(&kind).as_str(),
            tags,
            is_overdue: false,
        }
    }
}
