//! `status`: who records, how it goes, how large the store is, on one screen.

use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use l0::{
    Component, Components, Timestamp,
    health::CheckReport,
    jobs::{KindStats, ScheduleRow},
    limits::LimitCounts,
    query::{ScopeReport, Summary},
};
use serde_json::json;

use crate::{
    args::Common,
    failure::{Failure, Outcome},
    health, json,
    place::Store,
    runs::{self, Run},
    screen::{Screen, Tone},
    when::Window,
};

const HOUR: Duration = Duration::from_secs(3_600);
const RUNS: u32 = 5;

pub(crate) fn status(store: &Store, common: &Common, window: &Window, screen: &mut Screen) -> Result<Outcome, Failure> {
    // Who records comes first, however long ago it began.
    let mut runs = Run::running(store)?;
    let latest = Run::latest(store, window, common.limit.unwrap_or(RUNS))?;
    runs.extend(latest.into_iter().filter(|run| run.outcome != "running"));
    runs.truncate(common.limit.unwrap_or(RUNS).max(1) as usize);
    let (since, until) = last_hour(store, window)?;
    let summary = store.reader.summary_between(since, until)?;
    let size = store.reader.size()?;
    let (who, figures) = verdict(&runs, &summary, window);
    // Without its state there is still what was recorded.
    let (checks, components, schedules, kinds) = of_state(store).unwrap_or_else(|error| {
        screen.note(&error.to_string());
        Default::default()
    });
    let limits = match summary.since < summary.until {
        true => store.reader.limits(Some(summary.since), Some(summary.until))?.scopes,
        false => Vec::new(),
    };
    let maintenance = last_maintenance(store)?;
    let is_sick = checks.iter().any(health::is_sick);
    let well = of_checks(&checks);
    let schema = store.inspection.databases.first().and_then(|database| database.schema);
    if screen.is_json {
        screen.json(&json!({
            "dir": store.inspection.dir,
            "schema": schema,
            "verdict": format!("{who}; {figures}"),
            "size": {
                "bytes": size.bytes(),
                "max_bytes": size.max_bytes,
                "database_bytes": size.database_bytes,
                "free_bytes": size.free_bytes,
                "wal_bytes": size.wal_bytes,
                "flight_bytes": size.flight_bytes,
                "state_bytes": size.state_bytes,
            },
            "checks": json::readable(&checks),
            "components": json::readable(&components),
            "schedules": json::readable(&schedules),
            "jobs": json::readable(&kinds),
            "limits": json::readable(&limits),
            "last_maintenance": maintenance,
            "runs": runs,
            "summary": json::summary(&summary),
        }))?;
        return Ok(Outcome::Answered);
    }
    let is_bad = summary.errors > 0 || summary.shed > 0 || runs.first().is_some_and(|run| run.tone() == Tone::Bad);
    for text in [&who, &figures] {
        let line = screen.paint(&l0::query::harmless(text), if is_bad { Tone::Bad } else { Tone::Good });
        screen.line(&line)?;
    }
    let bytes = |bytes| HumanBytes(bytes).to_string();
    let of_cap = match size.max_bytes {
        0 => String::new(),
        cap => format!(" of {}", bytes(cap)),
    };
    let dir = l0::query::harmless(&store.dir.display().to_string()).into_owned();
    screen.line(&format!("{dir}: {}{of_cap}", bytes(size.bytes())))?;
    screen.line(&format!(
        "database {} ({} free), WAL {}, flight recorders {}{}\n",
        bytes(size.database_bytes),
        bytes(size.free_bytes),
        bytes(size.wal_bytes),
        bytes(size.flight_bytes),
        maintenance.map(|(at, why)| format!("; rows last removed at {at} ({why})")).unwrap_or_default(),
    ))?;
    if let Some(line) = well {
        let line = screen.paint(&l0::query::harmless(&line), if is_sick { Tone::Bad } else { Tone::Good });
        screen.line(&format!("{line}\n"))?;
    }
    let parts = [
        ("components", components.iter().map(|one| format!("{} {}", one.name, one.state)).collect::<Vec<_>>()),
        ("limits", limits.iter().map(of_scope).collect()),
        ("jobs", kinds.iter().map(of_kind).collect()),
        ("schedules", schedules.iter().map(|row| format!("{}{}", row.name, next(row, window))).collect()),
    ];
    for (name, parts) in parts.iter().filter(|(_, parts)| !parts.is_empty()) {
        screen.line_within(&l0::query::harmless(&format!("{name}: {}", parts.join("; "))))?;
    }
    if parts.iter().any(|(_, parts)| !parts.is_empty()) {
        screen.line("")?;
    }
    if !runs.is_empty() {
        runs::table(&runs, window, screen)?;
        screen.line("")?;
    }
    // Its own title is said above.
    let text = summary.to_string();
    for line in text.trim_end().lines().skip(1) {
        screen.line_within(line)?;
    }
    Ok(if summary.events == 0 { Outcome::Nothing } else { Outcome::Answered })
}

type OfState = (Vec<CheckReport>, Vec<Component>, Vec<ScheduleRow>, Vec<KindStats>);

fn of_state(store: &Store) -> l0::Result<OfState> {
    let components = Components::read(&store.state)?;
    Ok((store.health.report()?.checks, components, store.jobs.schedules()?, store.jobs.stats()?.kinds))
}

/// Of the jobs of a kind how many there are in each state.
fn of_kind(kind: &KindStats) -> String {
    let KindStats { pending, running, success, failed, cancelled, .. } = kind;
    let states = [
        (pending, "pending"),
        (running, "running"),
        (success, "success"),
        (failed, "failed"),
        (cancelled, "cancelled"),
    ];
    counted(&kind.kind, &states)
}

/// What was let pass and refused in a scope.
fn of_scope(scope: &ScopeReport) -> String {
    let LimitCounts { allowed, denied, dry_run_denied, .. } = &scope.counts;
    counted(&scope.scope, &[(allowed, "allowed"), (denied, "denied"), (dry_run_denied, "would be denied")])
}

fn counted(name: &str, counts: &[(&u64, &str)]) -> String {
    let counts: Vec<_> = counts
        .iter()
        .filter(|(count, _)| **count > 0)
        .map(|(count, what)| format!("{} {what}", HumanCount(**count)))
        .collect();
    format!("{name} {}", counts.join(", "))
}

/// When retention last removed something, and why.
fn last_maintenance(store: &Store) -> Result<Option<(String, String)>, Failure> {
    let found = store.reader.sql("SELECT minute, reason FROM maintenance ORDER BY minute DESC LIMIT 1", &[])?;
    let last = found.rows.into_iter().next().and_then(|row| <[_; 2]>::try_from(row).ok());
    Ok(last.map(|[minute, reason]| (minute.to_string(), reason.to_string())))
}

/// When a schedule fires next, or why it does not.
fn next(row: &ScheduleRow, window: &Window) -> String {
    match row.next_at {
        Some(at) => format!(" at {}", window.second(at)),
        None if row.paused => " paused".to_owned(),
        None => String::new(),
    }
}

/// What is to be said of checks, if any is known.
fn of_checks(checks: &[CheckReport]) -> Option<String> {
    let of = |wanted: &str| checks.iter().filter(|check| check.status.as_str() == wanted).collect::<Vec<_>>();
    let names = |wanted: &str| {
        let names: Vec<_> = of(wanted).iter().map(|check| format!("{} {}", check.name, check.status)).collect();
        if names.is_empty() { String::new() } else { format!("; {}", names.join("; ")) }
    };
    let healthy = of("healthy").len();
    (!checks.is_empty())
        .then(|| format!("{healthy} of {} checks healthy{}{}", checks.len(), names("unhealthy"), names("degraded")))
}

/// What was asked for, or the hour until now; where nothing was recorded in that, the hour until the last record.
fn last_hour(store: &Store, window: &Window) -> Result<(Option<Timestamp>, Option<Timestamp>), Failure> {
    if window.since.is_some() || window.until.is_some() {
        return Ok((window.since, window.until));
    }
    let now = Timestamp::now();
    let since = now.saturating_sub(HOUR);
    let newest = store.reader.events().limit(1).fetch()?.items.first().map(|event| event.at);
    Ok(match newest {
        Some(newest) if newest < since => (Some(newest.saturating_sub(HOUR)), Some(newest)),
        _ => (Some(since), Some(now)),
    })
}

/// The whole, in a sentence of two halves: who records, and how it goes.
fn verdict(runs: &[Run], summary: &Summary, window: &Window) -> (String, String) {
    let running: Vec<String> =
        runs.iter().filter(|run| run.is_running()).map(|run| format!("{} (pid {})", run.name(), run.pid)).collect();
    let who = match (running.is_empty(), runs.first()) {
        (false, _) => format!("{} recording", running.join(", ")),
        (true, Some(last)) if last.is_dead => {
            format!("nothing is recording, {} vanished, and what it left is not recovered", last.name())
        }
        (true, Some(last)) => format!("nothing is recording, {} ended: {}", last.name(), last.outcome),
        (true, None) => "nothing recorded then".to_owned(),
    };
    let shed = if summary.shed > 0 { format!(", {} records shed", HumanCount(summary.shed)) } else { String::new() };
    let figures = format!(
        "{} events, {} errors{shed} from {} until {}",
        HumanCount(summary.events),
        HumanCount(summary.errors),
        window.second(summary.since),
        window.second(summary.until)
    );
    (who, figures)
}
