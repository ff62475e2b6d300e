//! The question "how does it go?": counts, rates and percentiles of a window, from the rollups.

use std::{collections::HashMap, fmt, time::Duration};

use serde::Serialize;

use super::{
    EventRow, Events, TraceRow,
    events::read,
    periods::{self, Part},
    text::{cut, fit, human_duration},
    traces,
    window::Window,
};
use crate::{
    clock::Timestamp,
    error::Result,
    event::Severity,
    store::{Asked, Asking, Histogram, Source},
};

/// Traces and errors that are shown.
const SHOWN: usize = 5;
/// Stands for all that were too many to be kept apart.
const OTHER: &str = "(other)";
/// Lines of each table of the text.
const LINES: usize = 8;

/// A window's counts, rates and percentiles.
///
/// Counts come from the rollups, which are kept longer than rows: by whole minutes at both ends, and by whole hours where the
/// minutes are not kept any more (after 48 hours), so the window is that much longer than asked for. `Display` is a page to be read at a glance.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Events recorded, of every kind but audits.
    pub events: u64,
    /// Of these, of severity error and above.
    pub errors: u64,
    /// Records shed: see `shed_by`.
    pub shed: u64,
    /// Events by severity, the most severe first; only those that occurred.
    pub by_severity: Vec<(Severity, u64)>,
    /// Events by type, the most frequent first; `log` for plain `tracing` events.
    pub by_type: Vec<(String, u64)>,
    /// Events by source or target, the most frequent first.
    pub by_source: Vec<(String, u64)>,
    /// Closed spans by name, by the time they took in all, the longest first.
    pub spans: Vec<SpanSummary>,
    /// The slowest traces that ended in the window.
    pub slowest: Vec<TraceRow>,
    /// The latest errors.
    pub latest_errors: Vec<EventRow>,
    /// Records shed, by reason.
    pub shed_by: Vec<(String, u64)>,
    /// The window's beginning, at a full minute.
    pub since: Timestamp,
    /// The window's end.
    pub until: Timestamp,
    /// As of [`Page`](super::Page).
    pub incomplete: Option<String>,
}

/// Spans of one name.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SpanSummary {
    /// The name.
    pub name: String,
    /// How many ended.
    pub count: u64,
    /// Of these, failed: with an error in them, or a status of `error`.
    pub errors: u64,
    /// Half of them took no longer; percentiles are within 3.1 % of the exact ones.
    pub p50: Duration,
    /// 95 % took no longer.
    pub p95: Duration,
    /// 99 % took no longer.
    pub p99: Duration,
    /// The longest, exactly.
    pub max: Duration,
    /// All of them together.
    pub total: Duration,
    /// The part of `total` in which none of a span's children, of whatever trace, was open: where the time goes. `None` if the
    /// window has counts from before l0 counted it.
    pub self_time: Option<Duration>,
}

impl Summary {
    /// The share of events that are errors, from 0 to 1.
    pub fn error_rate(&self) -> f64 {
        if self.events == 0 { 0.0 } else { self.errors as f64 / self.events as f64 }
    }
}

/// One series' sums.
struct Sum {
    count: i64,
    errors: i64,
    total_ns: i64,
    self_ns: Option<i64>,
    max_ns: i64,
    durations: Histogram,
}

impl Default for Sum {
    fn default() -> Self {
        Self { count: 0, errors: 0, total_ns: 0, self_ns: Some(0), max_ns: 0, durations: Histogram::default() }
    }
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.errors += other.errors;
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.self_ns = self.self_ns.zip(other.self_ns).map(|(own, other)| own.saturating_add(other));
        self.max_ns = self.max_ns.max(other.max_ns);
        self.durations.merge(&other.durations);
    }
}

/// Of a window that `since` may leave open at its beginning, and that ends now unless `until` says otherwise.
pub(crate) fn summary(source: &Source, window: Window) -> Result<Summary> {
    let now = source.now();
    let (since, until) = window.bounds(now)?;
    let until = until.map_or(now, Timestamp::from_unix_ns);
    let (mut summary, since) = source.ask(Asking::default(), "cannot summarise", |asked| {
        let (parts, since) = periods::of_window(asked.connection, "rollup", since, until)?;
        Ok((summarise(asked, &parts, since, until)?, since))
    })?;
    // The flush is done; what was flushed is seen.
    let errors = Events::new(source.clone()).fresh(false).since(since).at_least(Severity::Error);
    let errors = if until < now { errors.until(until) } else { errors };
    summary.latest_errors = errors.limit(SHOWN as u32 * 4).fetch()?.items;
    summary.latest_errors.retain(|error| !error.is_audit());
    summary.latest_errors.truncate(SHOWN);
    Ok(summary)
}

fn summarise(asked: &Asked<'_>, parts: &[Part], since: Timestamp, until: Timestamp) -> rusqlite::Result<Summary> {
    let mut sums: HashMap<i64, Sum> = HashMap::new();
    for part in parts {
        add(asked, part, &mut sums)?;
    }
    let mut by_severity: HashMap<Severity, i64> = HashMap::new();
    let mut by_type: HashMap<String, i64> = HashMap::new();
    let mut by_source: HashMap<String, i64> = HashMap::new();
    let mut spans: HashMap<String, Sum> = HashMap::new();
    let sql = "SELECT s.id, s.severity, (SELECT text FROM name WHERE id = s.event_type),
                      (SELECT text FROM name WHERE id = s.source), c.target, c.name, s.callsite
                 FROM series AS s LEFT JOIN callsite AS c ON c.id = s.callsite";
    let mut statement = asked.connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Some(sum) = sums.remove(&row.get(0)?) else { continue };
        let text = |index| row.get::<_, Option<String>>(index);
        let severity: i64 = row.get(1)?;
        if severity < 0 {
            let name = text(3)?.or(text(5)?).unwrap_or_else(|| OTHER.to_owned());
            spans.entry(name).or_default().add(&sum);
            continue;
        }
        *by_severity.entry(Severity::from_code(severity)).or_default() += sum.count;
        // Counted together when there were too many to be kept apart.
        let is_other = row.get::<_, i64>(6)? < 0;
        let (no_type, no_source) = if is_other { (OTHER, OTHER) } else { ("log", "") };
        *by_type.entry(text(2)?.unwrap_or_else(|| no_type.to_owned())).or_default() += sum.count;
        *by_source.entry(text(3)?.or(text(4)?).unwrap_or_else(|| no_source.to_owned())).or_default() += sum.count;
    }
    let shed_by = read(
        asked.connection,
        "SELECT reason, sum(count) FROM shed WHERE minute >= ?1 AND minute <= ?2 GROUP BY reason ORDER BY 2 DESC",
        &[since, until].map(|t| t.as_unix_ns().div_euclid(1_000_000_000).into()),
        |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?.cast_unsigned())),
    )?;
    let mut spans: Vec<SpanSummary> = spans.into_iter().map(|(name, sum)| of_span(name, &sum)).collect();
    spans.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.name.cmp(&b.name)));
    let mut by_severity: Vec<_> =
        by_severity.into_iter().map(|(severity, count)| (severity, count.cast_unsigned())).collect();
    by_severity.sort_by_key(|(severity, _)| std::cmp::Reverse(*severity));
    let of = |wanted: fn(Severity) -> bool| {
        by_severity.iter().filter(|(severity, _)| wanted(*severity)).map(|(_, count)| count).sum()
    };
    Ok(Summary {
        events: of(|_| true),
        errors: of(|severity| severity >= Severity::Error),
        shed: shed_by.iter().map(|(_, count)| count).sum(),
        by_severity,
        by_type: by_count(by_type),
        by_source: by_count(by_source),
        spans,
        slowest: slowest(asked, parts)?,
        latest_errors: Vec::new(),
        shed_by,
        since,
        until,
        incomplete: asked.incomplete.clone(),
    })
}

fn add(asked: &Asked<'_>, part: &Part, sums: &mut HashMap<i64, Sum>) -> rusqlite::Result<()> {
    let mut statement = asked.connection.prepare_cached(
        "SELECT series, count, errors, total_ns, self_ns, max_ns, durations FROM rollup
          WHERE period = ?1 AND start >= ?2 AND start < ?3",
    )?;
    let mut rows = statement.query([part.period, part.from, part.until])?;
    while let Some(row) = rows.next()? {
        let sum = sums.entry(row.get(0)?).or_default();
        sum.count += row.get::<_, i64>(1)?;
        sum.errors += row.get::<_, i64>(2)?;
        sum.total_ns = sum.total_ns.saturating_add(row.get(3)?);
        sum.self_ns = sum.self_ns.zip(row.get::<_, Option<i64>>(4)?).map(|(sum, ns)| sum.saturating_add(ns));
        sum.max_ns = sum.max_ns.max(row.get(5)?);
        if let Some(durations) = row.get_ref(6)?.as_blob_or_null()? {
            sum.durations.merge(&Histogram::decode(durations));
        }
    }
    Ok(())
}

fn of_span(name: String, sum: &Sum) -> SpanSummary {
    let ns = |ns: i64| Duration::from_nanos(ns.max(0).unsigned_abs());
    let max = ns(sum.max_ns);
    let quantile = |share| Duration::from_nanos(sum.durations.quantile(share)).min(max);
    SpanSummary {
        name,
        count: sum.count.cast_unsigned(),
        errors: sum.errors.cast_unsigned(),
        p50: quantile(0.50),
        p95: quantile(0.95),
        p99: quantile(0.99),
        max,
        total: ns(sum.total_ns),
        self_time: sum.self_ns.map(ns),
    }
}

fn by_count(counts: HashMap<String, i64>) -> Vec<(String, u64)> {
    let mut counts: Vec<_> = counts.into_iter().map(|(name, count)| (name, count.cast_unsigned())).collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts
}

/// Each period keeps its slowest roots: the slowest of all are among them.
fn slowest(asked: &Asked<'_>, parts: &[Part]) -> rusqlite::Result<Vec<TraceRow>> {
    let mut roots: Vec<(i64, i64)> = Vec::new();
    for part in parts {
        let sql = "SELECT duration_ns, span FROM slow WHERE period = ?1 AND start >= ?2 AND start < ?3";
        let values = [part.period.into(), part.from.into(), part.until.into()];
        roots.extend(read(asked.connection, sql, &values, |row| Ok((row.get(0)?, row.get(1)?)))?);
    }
    roots.sort_unstable_by(|a, b| b.cmp(a));
    let mut rows: Vec<TraceRow> = Vec::new();
    for (_, span) in roots {
        if rows.len() >= SHOWN {
            break;
        }
        // A row that retention has taken is gone.
        if let Some(row) = traces::by_span(asked, span)?
            && !rows.iter().any(|known| known.correlation_id == row.correlation_id)
        {
            rows.push(row);
        }
    }
    Ok(rows)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window_ns = self.until.as_unix_ns().saturating_sub(self.since.as_unix_ns()).max(0);
        writeln!(
            f,
            "summary of {}, until {:.19}Z",
            human_duration(Duration::from_nanos(window_ns.unsigned_abs())),
            self.until.to_string()
        )?;
        if let Some(incomplete) = &self.incomplete {
            writeln!(f, "{incomplete}")?;
        }
        write!(
            f,
            "{} events, {} errors ({:.2} %), {} shed",
            self.events,
            self.errors,
            self.error_rate() * 100.0,
            self.shed
        )?;
        for (reason, count) in &self.shed_by {
            write!(f, ", {count} {reason}")?;
        }
        writeln!(f)?;
        let severities: Vec<String> =
            self.by_severity.iter().map(|(severity, count)| format!("{} {count}", severity.as_str())).collect();
        if !severities.is_empty() {
            writeln!(f, "{}", severities.join(", "))?;
        }
        counts(f, "type", &self.by_type)?;
        counts(f, "source", &self.by_source)?;
        if !self.spans.is_empty() {
            writeln!(
                f,
                "\n{} {:>7} {:>6} {:>8} {:>8} {:>8} {:>8}",
                fit("span", 29),
                "count",
                "errors",
                "p50",
                "p95",
                "p99",
                "max"
            )?;
            for span in self.spans.iter().take(LINES) {
                let times = [span.p50, span.p95, span.p99, span.max].map(human_duration);
                let [p50, p95, p99, max] = &times;
                writeln!(
                    f,
                    "{} {:>7} {:>6} {p50:>8} {p95:>8} {p99:>8} {max:>8}",
                    fit(&span.name, 29),
                    span.count,
                    span.errors
                )?;
            }
            more(f, self.spans.len())?;
        }
        if !self.slowest.is_empty() {
            writeln!(f, "\nslowest traces")?;
            self.slowest.iter().try_for_each(|trace| writeln!(f, "{trace}"))?;
        }
        if !self.latest_errors.is_empty() {
            writeln!(f, "\nlatest errors")?;
            for error in &self.latest_errors {
                let line =
                    format!("{:.19}Z {}: {} {}", error.at.to_string(), error.source, error.message, error.payload);
                writeln!(f, "{}", cut(line.trim_end_matches(" {}"), 80))?;
            }
        }
        Ok(())
    }
}

fn counts(f: &mut fmt::Formatter<'_>, what: &str, counts: &[(String, u64)]) -> fmt::Result {
    if counts.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{} {:>10}", fit(what, 40), "events")?;
    for (name, count) in counts.iter().take(LINES) {
        writeln!(f, "{} {count:>10}", fit(name, 40))?;
    }
    more(f, counts.len())
}

fn more(f: &mut fmt::Formatter<'_>, count: usize) -> fmt::Result {
    if count > LINES { writeln!(f, "... and {} more", count - LINES) } else { Ok(()) }
}
