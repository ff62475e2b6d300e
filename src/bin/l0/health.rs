//! `health`: how checks stand; and one check's changes.

use std::time::Duration;

use l0::{
    Timestamp,
    health::{CheckReport, Status, Transition},
    query::{harmless, human_duration},
};
use serde_json::json;

use crate::{
    args::{Common, Health},
    failure::{Failure, Outcome},
    json,
    place::Store,
    runs::Run,
    screen::{Screen, Text, Tone},
    when::Window,
};

/// How far back changes are shown unless said otherwise.
const LAST: Duration = Duration::from_secs(7 * 24 * 3_600);

pub(crate) fn health(
    store: &Store,
    asked: &Health,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    if let Some(name) = &asked.name {
        return changes(store, name, common, window, screen);
    }
    let checks = store.health.report()?.checks;
    let is_bad = checks.iter().any(is_sick);
    let components = l0::Components::read(&store.state)?;
    let now = Timestamp::now();
    if !checks.is_empty() && !Run::running(store)?.iter().any(Run::is_running) {
        screen.note("no program records here now: this is what checks said before the last one vanished");
    }
    if screen.is_json {
        screen.json(&json!({ "checks": json::readable(&checks), "components": json::readable(&components) }))?;
    } else {
        if checks.is_empty() {
            screen.note("no check is known here: none has run, or its program has ended");
        } else {
            table(&checks, now, window, screen)?;
        }
        for (index, component) in components.iter().enumerate() {
            if index == 0 && !checks.is_empty() {
                screen.line("")?;
            }
            screen.line(&format!("component {component}"))?;
        }
    }
    Ok(match (is_bad, checks.len()) {
        (true, _) => Outcome::No,
        (false, count) => Outcome::of_count(count + components.len()),
    })
}

fn table(checks: &[CheckReport], now: Timestamp, window: &Window, screen: &mut Screen) -> std::io::Result<()> {
    let rows = checks.iter().map(|check| {
        let at = check.since;
        vec![
            Text::plain(&check.name).toned(Tone::Name),
            Text::time(level(check)).toned(tone(&check.status, check.is_optional)),
            Text::number(at.map(|at| human_duration(since(at, now))).unwrap_or_default()),
            Text::time(at.map(|at| window.second(at)).unwrap_or_default()).toned(Tone::Faint),
            Text::number(check.age.map(human_duration).unwrap_or_default()),
            Text::plain(check.kind),
            Text::plain(check.status.why().unwrap_or_default()),
        ]
    });
    screen.table(&["check", "status", "for", "since", "ran", "kind", "why"], &["since", "kind"], rows.collect())
}

fn changes(
    store: &Store,
    name: &str,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let now = Timestamp::now();
    let last = window.since.map_or(LAST, |at| since(at, now));
    let mut changes = store.health.history(name, last)?;
    changes.retain(|change| window.until.is_none_or(|until| change.at <= until));
    let surplus = changes.len().saturating_sub(common.limit.map_or(usize::MAX, |limit| limit as usize));
    changes.drain(..surplus);
    let uptime = store.health.observed_uptime(name, last).ok();
    if screen.is_json {
        let (uptime, known) = (uptime.map(|(share, _)| share), uptime.map(|(_, known)| json::milliseconds(known)));
        let (count, changes) = (changes.len(), json::readable(&changes));
        screen.json(&json!({ "check": name, "uptime": uptime, "known_ms": known, "changes": changes }))?;
        return Ok(Outcome::of_count(count));
    }
    if changes.is_empty() && uptime.is_none() {
        screen.note(&format!("nothing is known of a check {}", harmless(name)));
        return Ok(Outcome::Nothing);
    }
    let rows = changes.iter().map(|change| row(change, window)).collect();
    screen.table(&["at", "from", "to", "after", "why"], &["from"], rows)?;
    if let Some((uptime, known)) = uptime {
        screen.line("")?;
        screen.line(&format!(
            "{} was not unhealthy for {:.3} % of the {} that are known of the last {}",
            harmless(name),
            uptime * 100.0,
            human_duration(known),
            human_duration(last)
        ))?;
    }
    Ok(Outcome::Answered)
}

fn row(change: &Transition, window: &Window) -> Vec<Text> {
    vec![
        Text::time(window.microsecond(change.at)).toned(Tone::Faint),
        Text::plain(change.from.as_ref().map_or("", Status::as_str)),
        Text::plain(change.to.as_str()).toned(tone(&change.to, change.is_optional)),
        Text::number(change.after.map(human_duration).unwrap_or_default()),
        Text::plain(change.to.why().unwrap_or_default()),
    ]
}

fn since(at: Timestamp, now: Timestamp) -> Duration {
    let ns = now.as_unix_ns().saturating_sub(at.as_unix_ns());
    Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}

/// Whether the program cannot do its work, by this check.
pub(crate) fn is_sick(check: &CheckReport) -> bool {
    matches!(check.status, Status::Unhealthy(_)) && !check.is_optional
}

fn level(check: &CheckReport) -> String {
    let is_worth_a_word = check.is_optional && check.status != Status::Healthy;
    format!("{}{}", check.status.as_str(), if is_worth_a_word { ", optional" } else { "" })
}

fn tone(status: &Status, is_optional: bool) -> Tone {
    match status {
        Status::Healthy => Tone::Good,
        Status::Unhealthy(_) if !is_optional => Tone::Bad,
        Status::Degraded(_) | Status::Unhealthy(_) => Tone::Warning,
    }
}
