//! The question "who was let pass, and who was refused?": the report of limits, and what a key used.

use std::{collections::BTreeMap, fmt, time::Duration};

use rusqlite::Connection;
use serde::Serialize;

use super::{
    EventRow, Events,
    periods::{self, Part},
    text::{cut, fit, harmless, human_duration},
    window::Window,
};
use crate::{
    clock::Timestamp,
    error::Result,
    store::{Asking, Source},
};

/// Keys of a scope, and events of each kind, that are shown.
const SHOWN: usize = 10;
/// Keys of a scope in the text.
const LINES: usize = 5;
/// Events of a kind that are looked through for those of scopes.
const LOOKED_AT: u32 = 100;

/// Limits at a glance: the security dashboard.
///
/// Counts are by whole minutes, and by whole hours where they are longer ago than 48 hours, as in a
/// [`Summary`](super::Summary). Keys are as they are told: hashed unless their scope's are public. `Display` is a page to be
/// read.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LimitReport {
    /// Scopes that were asked in the window, the one that refused the most first.
    pub scopes: Vec<ScopeReport>,
    /// The latest lock-outs, the newest first.
    pub lock_outs: Vec<EventRow>,
    /// The latest refusals that were told: the first of each minute and key, and sums; the newest first.
    pub violations: Vec<EventRow>,
    /// The latest warnings of budgets that are nearly used up, the newest first.
    pub warnings: Vec<EventRow>,
    /// The window's beginning, at a full minute.
    pub since: Timestamp,
    /// The window's end.
    pub until: Timestamp,
    /// As of [`Page`](super::Page).
    pub incomplete: Option<String>,
}

/// One scope's sums.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ScopeReport {
    /// The scope's name.
    pub scope: String,
    /// Its sums.
    pub counts: LimitCounts,
    /// Charges a second, passed or not.
    pub rate: f64,
    /// Its busiest keys with theirs: those that were refused the most, then those that used the most.
    pub top_keys: Vec<(String, LimitCounts)>,
}

/// What passed and what was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LimitCounts {
    /// Charges that passed.
    pub allowed: u64,
    /// Charges that were refused.
    pub denied: u64,
    /// Charges that passed only because the scope is in dry run.
    pub dry_run_denied: u64,
    /// Tokens of those that passed, as settled.
    pub used: u64,
}

impl LimitCounts {
    /// The share of charges that were refused, from 0 to 1; in dry run, that would have been.
    pub fn denied_share(&self) -> f64 {
        let (denied, all) = (self.denied + self.dry_run_denied, self.allowed + self.denied);
        if all == 0 { 0.0 } else { denied as f64 / all as f64 }
    }

    fn refused(&self) -> u64 {
        self.denied + self.dry_run_denied
    }

    fn of([allowed, denied, dry_run_denied, used]: [i64; 4]) -> Self {
        // Settling may take more out of a minute than was charged in it.
        let [allowed, denied, dry_run_denied, used] =
            [allowed, denied, dry_run_denied, used].map(|count| u64::try_from(count).unwrap_or(0));
        Self { allowed, denied, dry_run_denied, used }
    }
}

/// What a key of a scope used; as it is told, empty for all.
pub(crate) fn limit_usage(source: &Source, scope: &str, key: &str, window: Window) -> Result<u64> {
    let now = source.now();
    let (since, until) = window.bounds(now)?;
    source.ask(Asking::default(), "cannot sum up a limit's usage", |asked| {
        let until = until.map_or(now, Timestamp::from_unix_ns);
        let (parts, _) = periods::of_window(asked.connection, "limit_count", since, until)?;
        let mut used = 0_i64;
        for Part { period, from, until } in parts {
            let sql = "SELECT ifnull(sum(used), 0) FROM limit_count
                        WHERE period = ?1 AND start >= ?2 AND start < ?3 AND scope = ?4 AND key = ?5";
            let part: i64 = asked
                .connection
                .prepare_cached(sql)?
                .query_row(rusqlite::params![period, from, until, scope, key], |row| row.get(0))?;
            used = used.saturating_add(part);
        }
        Ok(u64::try_from(used).unwrap_or(0))
    })
}

pub(crate) fn limit_report(source: &Source, window: Window) -> Result<LimitReport> {
    let now = source.now();
    let (since, until) = window.bounds(now)?;
    let until = until.map_or(now, Timestamp::from_unix_ns);
    let (scopes, since, incomplete) = source.ask(Asking::default(), "cannot report on limits", |asked| {
        let (parts, since) = periods::of_window(asked.connection, "limit_count", since, until)?;
        let seconds = (until.as_unix_ns().saturating_sub(since.as_unix_ns()) as f64 / 1e9).max(1.0);
        Ok((scopes(asked.connection, &parts, seconds)?, since, asked.incomplete.clone()))
    })?;
    // The flush is done; what was flushed is seen.
    let of = |kind: &str| {
        let events = Events::new(source.clone()).fresh(false).since(since).event_type(kind);
        let events = if until < now { events.until(until) } else { events };
        events.limit(LOOKED_AT).fetch().map(|page| page.items)
    };
    let mut violations = of("limit.violation")?;
    violations.extend(of("limit.violations")?);
    violations.sort_by_key(|event| std::cmp::Reverse(event.at));
    let (mut lock_outs, mut warnings) = (of("limit.lock_out")?, of("limit.warning")?);
    for events in [&mut violations, &mut lock_outs, &mut warnings] {
        events.truncate(SHOWN);
    }
    Ok(LimitReport { scopes, lock_outs, violations, warnings, since, until, incomplete })
}

fn scopes(connection: &Connection, parts: &[Part], seconds: f64) -> rusqlite::Result<Vec<ScopeReport>> {
    let mut sums: BTreeMap<String, BTreeMap<String, [i64; 4]>> = BTreeMap::new();
    for Part { period, from, until } in parts {
        let mut statement = connection.prepare_cached(
            "SELECT scope, key, sum(allowed), sum(denied), sum(dry_run_denied), sum(used) FROM limit_count
              WHERE period = ?1 AND start >= ?2 AND start < ?3 GROUP BY scope, key",
        )?;
        let mut rows = statement.query([period, from, until])?;
        while let Some(row) = rows.next()? {
            let sum = sums.entry(row.get(0)?).or_default().entry(row.get(1)?).or_default();
            for (index, sum) in sum.iter_mut().enumerate() {
                *sum = sum.saturating_add(row.get(index + 2)?);
            }
        }
    }
    let mut scopes: Vec<ScopeReport> = sums
        .into_iter()
        .map(|(scope, mut keys)| {
            let counts = keys.remove("").map_or_else(LimitCounts::default, LimitCounts::of);
            let mut top_keys: Vec<_> = keys.into_iter().map(|(key, sum)| (key, LimitCounts::of(sum))).collect();
            let rank = |counts: &LimitCounts| (counts.refused(), counts.used);
            top_keys.sort_by(|a, b| rank(&b.1).cmp(&rank(&a.1)).then_with(|| a.0.cmp(&b.0)));
            top_keys.truncate(SHOWN);
            let rate = (counts.allowed + counts.denied) as f64 / seconds;
            ScopeReport { scope, counts, rate, top_keys }
        })
        .collect();
    scopes.sort_by(|a, b| b.counts.refused().cmp(&a.counts.refused()).then_with(|| a.scope.cmp(&b.scope)));
    Ok(scopes)
}

impl fmt::Display for LimitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window_ns = self.until.as_unix_ns().saturating_sub(self.since.as_unix_ns()).max(0);
        let window = human_duration(Duration::from_nanos(window_ns.unsigned_abs()));
        writeln!(f, "limits of {window}, until {:.19}Z", self.until.to_string())?;
        if let Some(incomplete) = &self.incomplete {
            writeln!(f, "{incomplete}")?;
        }
        if self.scopes.is_empty() {
            return writeln!(f, "no scope was asked");
        }
        let head = ["allowed", "denied", "dry run", "used"].map(|name| format!(" {name:>10}")).concat();
        writeln!(f, "\n{}{head} {:>8} {:>9}", fit("scope, and its busiest keys", 41), "refused", "charges/s")?;
        for scope in &self.scopes {
            line(f, &scope.scope, &scope.counts)?;
            writeln!(f, " {:>9.2}", scope.rate)?;
            for (key, counts) in scope.top_keys.iter().take(LINES) {
                line(f, &format!("  {key}"), counts)?;
                writeln!(f)?;
            }
        }
        for (title, events) in
            [("lock-outs", &self.lock_outs), ("latest violations", &self.violations), ("warnings", &self.warnings)]
        {
            if !events.is_empty() {
                writeln!(f, "\n{title}")?;
            }
            for event in events {
                let key = match event.field("key") {
                    Some(super::Value::Text(key)) => format!(" {key}"),
                    _ => String::new(),
                };
                let dry_run = if event.status.as_deref() == Some("dry_run") { " (dry run)" } else { "" };
                let of = event.correlation_id.as_ref().map(|id| format!(" [{id}]")).unwrap_or_default();
                let line = format!("{:.19}Z{key} {}{dry_run}{of}", event.at.to_string(), event.message);
                writeln!(f, "{}", cut(&harmless(&line), 160))?;
            }
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, counts: &LimitCounts) -> fmt::Result {
    write!(f, "{}", fit(&harmless(name), 41))?;
    for count in [counts.allowed, counts.denied, counts.dry_run_denied, counts.used] {
        write!(f, " {count:>10}")?;
    }
    write!(f, " {:>6.1} %", counts.denied_share() * 100.0)
}
