//! Checks as they are known from outside: by the last sign of life of each process, which says how they stood, and by what has
//! changed since. Who has been silent for too long is not believed.

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
    query::human_duration,
    state::{self, HealthRow, SignOfLife},
};

/// A process that lives says so once a minute.
const SILENT: Duration = Duration::from_secs(150);

/// A check in a sign of life, as [`CheckReport`] is written.
#[derive(Deserialize)]
struct Noted {
    name: String,
    status: Status,
    since: Option<i64>,
    age: Option<Duration>,
    contiguous_failures: u32,
    took: Option<Duration>,
    is_optional: bool,
    kind: String,
    tags: Vec<String>,
}

/// What a run said of all its checks, and when it was last heard of.
#[derive(Default)]
struct Run {
    checks: HashMap<String, Noted>,
    checks_at: i64,
    /// The last change that is in it.
    change: i64,
    heard: i64,
    has_given_sign: bool,
    /// Something holds that it said.
    is_open: bool,
}

impl HealthReader {
    /// All checks of all processes that have the store: how they stood when their process last said so, which it does every minute
    /// and soon after a change, and what has changed since, which is kept at once. Of one that several have, it is the worst. The
    /// checks of a process that has said nothing for two and a half minutes are unhealthy: it hangs, or has vanished. Without any
    /// check the report is unhealthy, too, for nothing is known. Of very many checks, more than a thousand or so, only the changes
    /// are known.
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
        let now = self.clock.now_by_hand().as_unix_ns();
        let mut runs = self.runs()?;
        let mut checks = BTreeMap::new();
        let rows = state::latest_health(&self.dir)?;
        for row in rows.iter().filter(|row| row.after.is_some()) {
            let run = runs.entry(row.run.clone()).or_default();
            run.is_open = true;
            if !run.has_given_sign {
                run.heard = run.heard.max(row.at);
            }
        }
        for row in rows {
            let run = runs.entry(row.run.clone()).or_default();
            let silence = run.silence(now);
            match run.checks.remove(&row.name).filter(|_| run.change >= row.id) {
                Some(noted) => take(&mut checks, noted.report(since(run.checks_at, now), silence)),
                None => changed(row, silence).into_iter().for_each(|report| take(&mut checks, report)),
            }
        }
        // Those of which nothing has been reported yet.
        for run in runs.values_mut().filter(|run| run.is_open) {
            let (ago, silence) = (since(run.checks_at, now), run.silence(now));
            run.checks.drain().for_each(|(_, noted)| take(&mut checks, noted.report(ago, silence)));
        }
        let mut report = Report::new("healthz", checks.into_values().collect(), &self.clock);
        if report.checks.is_empty() {
            report.status = Status::Unhealthy("no check is known: none has run, or its program has ended".to_owned());
        }
        Ok(report)
    }

    /// Of each run that has said so how its checks stood.
    fn runs(&self) -> Result<HashMap<String, Run>> {
        // Before the changes are read: what changes meanwhile is later.
        let signs = state::signs_of_life(&self.dir)?.into_iter();
        Ok(signs
            .map(|SignOfLife { run, at, checks, checks_at, change }| {
                // Of a later l0, perhaps: then the changes tell.
                let checks: Vec<Noted> = serde_json::from_str(&checks).unwrap_or_default();
                let checks = checks.into_iter().map(|noted| (noted.name.clone(), noted)).collect();
                (run, Run { checks, checks_at, change, heard: at, has_given_sign: true, is_open: false })
            })
            .collect())
    }

    /// Until when runs are known to have lived that have been silent for too long by then; but for the one that asks.
    pub(super) fn silent_since(&self, now: Timestamp) -> Result<HashMap<String, i64>> {
        let signs = state::last_signs(&self.dir)?.into_iter().filter(|(run, _)| self.own.as_ref() != Some(run));
        Ok(signs.filter(|(_, at)| since(*at, now.as_unix_ns()) > SILENT).collect())
    }
}

/// Of one that several processes have, the worst; of two as bad, what is known for longer.
fn take(checks: &mut BTreeMap<String, CheckReport>, report: CheckReport) {
    let badness = |report: &CheckReport| (report.weight(), level(&report.status), report.age);
    match checks.get(&report.name) {
        Some(other) if badness(other) >= badness(&report) => {}
        _ => _ = checks.insert(report.name.clone(), report),
    }
}

fn since(at: i64, now: i64) -> Duration {
    Duration::from_nanos(u64::try_from(now.saturating_sub(at)).unwrap_or(0))
}

/// What a change says, unless that it has ended. Whether that is of a result, and how old that is, it does not say.
fn changed(row: HealthRow, silence: Option<Duration>) -> Option<CheckReport> {
    let status: Status = serde_json::from_str(&row.after?).ok()?;
    let noted = Noted {
        name: row.name,
        contiguous_failures: u32::from(level(&status) == 2),
        status,
        since: Some(row.at),
        age: None,
        took: None,
        is_optional: row.is_optional,
        kind: row.kind,
        tags: serde_json::from_str(&row.tags).unwrap_or_default(),
    };
    Some(noted.report(Duration::ZERO, silence))
}

impl Run {
    /// For how long it has said nothing, if that is too long.
    fn silence(&self, now: i64) -> Option<Duration> {
        Some(since(self.heard, now)).filter(|silence| *silence > SILENT)
    }
}

impl Noted {
    /// As it was so long ago.
    fn report(self, ago: Duration, silence: Option<Duration>) -> CheckReport {
        let Self { name, status, since, age, contiguous_failures, took, is_optional, kind, tags } = self;
        let status = match silence {
            Some(silence) => {
                let silence = human_duration(silence);
                Status::Unhealthy(format!("its process has said nothing for {silence}; before that: {status}"))
            }
            None => status,
        };
        CheckReport {
            name,
            status,
            since: since.map(Timestamp::from_unix_ns),
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
