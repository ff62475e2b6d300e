//! `limits`: what was let pass and refused, by scope and key, and what was told of it.

use l0::{
    limits::LimitCounts,
    query::{EventRow, Value},
};

use crate::{
    args::Common,
    failure::{Failure, Outcome},
    json,
    place::Store,
    screen::{Screen, Text, Tone},
    when::Window,
};

/// Keys of a scope.
const KEYS: usize = 5;

pub(crate) fn limits(store: &Store, common: &Common, window: &Window, screen: &mut Screen) -> Result<Outcome, Failure> {
    let report = store.reader.limits(window.since, window.until)?;
    screen.incomplete(report.incomplete.as_deref());
    let outcome = Outcome::of_count(report.scopes.len());
    if screen.is_json {
        screen.json(&json::readable(&report))?;
        return Ok(outcome);
    }
    if report.scopes.is_empty() {
        screen.note("no limit was asked");
        return Ok(outcome);
    }
    let keys = common.limit.map_or(KEYS, |limit| limit as usize);
    let mut rows = Vec::new();
    for scope in &report.scopes {
        let mut row = row(Text::plain(&scope.scope).toned(Tone::Name), &scope.counts);
        row.push(Text::number(format!("{:.2}", scope.rate)));
        rows.push(row);
        for (key, counts) in scope.top_keys.iter().take(keys) {
            let mut row = self::row(Text::plain(format!("  {key}")), counts);
            row.push(Text::number(""));
            rows.push(row);
        }
    }
    let headings = ["scope, its busiest keys", "allowed", "denied", "refused", "dry run", "used", "per second"];
    screen.table(&headings, &["per second", "used"], rows)?;
    for (title, events, tone) in [
        ("lock-outs", &report.lock_outs, Tone::Bad),
        ("latest violations", &report.violations, Tone::Warning),
        ("warnings", &report.warnings, Tone::Warning),
    ] {
        if events.is_empty() {
            continue;
        }
        let heading = screen.paint(title, Tone::Heading);
        screen.line("")?;
        screen.line(&heading)?;
        let rows = events.iter().map(|event| told(event, window, tone)).collect();
        screen.table(&["at", "key", "what", "trace"], &["trace"], rows)?;
    }
    Ok(outcome)
}

fn row(name: Text, counts: &LimitCounts) -> Vec<Text> {
    let share = match counts.denied + counts.dry_run_denied {
        0 => Text::number(""),
        _ => Text::number(format!("{:.1} %", counts.denied_share() * 100.0)).toned(Tone::Bad),
    };
    let some = |count: u64| if count == 0 { Text::number("") } else { Text::number(count) };
    vec![
        name,
        Text::number(counts.allowed),
        some(counts.denied),
        share,
        some(counts.dry_run_denied),
        Text::number(counts.used),
    ]
}

fn told(event: &EventRow, window: &Window, tone: Tone) -> Vec<Text> {
    let key = match event.field("key") {
        Some(Value::Text(key)) => key,
        _ => String::new(),
    };
    let dry_run = if event.status.as_deref() == Some("dry_run") { " (dry run)" } else { "" };
    vec![
        Text::time(window.second(event.at)).toned(Tone::Faint),
        Text::plain(key),
        Text::plain(format!("{}{dry_run}", event.message)).toned(tone),
        Text::plain(event.correlation_id.clone().unwrap_or_default()).toned(Tone::Name),
    ]
}
