//! What is about spans: `traces`, `trace`, `spans`.

use l0::query::{SpanState, TraceLineKind, Traces, human_duration};

use crate::{
    args::{self, Common},
    failure::{Failure, Outcome},
    json,
    pages::pages,
    place::Store,
    screen::{Screen, Text, Tone},
    when::Window,
};

const TRACES: u32 = 20;
/// Columns of a tree where no terminal says.
const COLUMNS: usize = 100;

pub(crate) fn traces(
    store: &Store,
    asked: &args::Traces,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let mut traces = store.reader.traces();
    if asked.slowest {
        traces = traces.slowest();
    }
    if asked.failed {
        traces = traces.failed();
    }
    let traces = window.within(traces, Traces::since, Traces::until);
    let after = asked.after.as_deref().map(str::parse).transpose()?;
    let (items, next, total) = pages(common.limit.unwrap_or(TRACES), after, screen, |after, limit| {
        let traces = traces.clone().limit(limit);
        after.map_or(traces.clone(), |after| traces.after(after)).fetch()
    })?;
    if screen.is_json {
        screen.json_array(&items.iter().map(json::trace_row).collect::<Vec<_>>())?;
    } else if items.is_empty() {
        screen.note("no trace matches");
    } else {
        let rows = items.iter().map(|trace| {
            vec![
                Text::time(window.second(trace.started_at)).toned(Tone::Faint),
                match (trace.state, trace.duration) {
                    (SpanState::Interrupted, _) => Text::number("cut short").toned(Tone::Bad),
                    (_, Some(duration)) => Text::number(human_duration(duration)),
                    (_, None) => Text::number("running").toned(Tone::Warning),
                },
                Text::number(trace.spans),
                match trace.errors {
                    0 => Text::number(""),
                    errors => Text::number(errors).toned(Tone::Bad),
                },
                Text::plain(&trace.root),
                Text::plain(&trace.correlation_id).toned(Tone::Name),
            ]
        });
        screen.table(
            &["started", "time", "spans", "errors", "root", "trace"],
            &["spans", "started"],
            rows.collect(),
        )?;
    }
    if let Some(next) = &next {
        screen.more(items.len(), total, "traces", next.as_str());
    }
    Ok(Outcome::of_count(items.len()))
}

pub(crate) fn trace(
    store: &Store,
    asked: &args::Trace,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let Some(mut trace) = store.reader.trace(&asked.id)? else {
        screen.note(&format!("there is no trace {:?}: l0 traces lists them", asked.id));
        return Ok(Outcome::No);
    };
    // Of a long-lived correlation id only the roots, and the events in none, that began in the window.
    let is_within = |at| window.since.is_none_or(|since| at >= since) && window.until.is_none_or(|until| at < until);
    let limit = common.limit.map_or(usize::MAX, |limit| limit as usize);
    trace.spans.retain(|span| is_within(span.started_at));
    trace.events.retain(|event| is_within(event.at));
    let is_empty = trace.spans.is_empty() && trace.events.is_empty();
    if screen.is_json {
        screen.json(&json::trace(&trace))?;
        return Ok(if is_empty { Outcome::Nothing } else { Outcome::Answered });
    }
    if is_empty {
        screen.note("nothing of this trace began then");
        return Ok(Outcome::Nothing);
    }
    let lines = trace.lines(screen.width_or(COLUMNS));
    for line in lines.iter().take(limit) {
        let tone = match line.about {
            TraceLineKind::Title => Tone::Heading,
            TraceLineKind::Span(_, true) => Tone::Bad,
            TraceLineKind::Span(SpanState::Running | SpanState::Interrupted, _) => Tone::Warning,
            TraceLineKind::Event(severity) if severity >= l0::Severity::Error => Tone::Bad,
            TraceLineKind::Event(l0::Severity::Warning) => Tone::Warning,
            TraceLineKind::Note | TraceLineKind::Event(_) => Tone::Faint,
            _ => Tone::Plain,
        };
        // The one time among its figures.
        let text = match trace.started_at() {
            Some(at) if line.about == TraceLineKind::Note => {
                line.text.replacen(&at.to_string(), &window.microsecond(at), 1)
            }
            _ => line.text.clone(),
        };
        let line = screen.paint(&text, tone);
        screen.line(&line)?;
    }
    if lines.len() > limit {
        screen.note(&format!("{limit} of {} lines; more with --limit", lines.len()));
    }
    Ok(Outcome::Answered)
}

pub(crate) fn spans(store: &Store, common: &Common, window: &Window, screen: &mut Screen) -> Result<Outcome, Failure> {
    let summary = store.reader.summary_between(window.since, window.until)?;
    screen.incomplete(summary.incomplete.as_deref());
    let mut spans = summary.spans;
    let names = spans.len();
    // Where the time goes comes first.
    spans.sort_by(|a, b| b.self_time.cmp(&a.self_time).then_with(|| b.total.cmp(&a.total)));
    spans.truncate(common.limit.map_or(usize::MAX, |limit| limit as usize));
    if screen.is_json {
        screen.json_array(&spans.iter().map(json::span_summary).collect::<Vec<_>>())?;
        return Ok(Outcome::of_count(spans.len()));
    }
    if spans.is_empty() {
        screen.note("no span has ended");
        return Ok(Outcome::Nothing);
    }
    let rows = spans.iter().map(|span| {
        let share = span.errors as f64 / span.count.max(1) as f64 * 100.0;
        let time = |d| Text::number(human_duration(d));
        vec![
            Text::plain(&span.name).toned(Tone::Name),
            Text::number(span.count),
            match span.errors {
                0 => Text::number(""),
                _ => Text::number(format!("{share:.1} %")).toned(Tone::Bad),
            },
            time(span.p50),
            time(span.p95),
            time(span.p99),
            time(span.max),
            time(span.total),
            span.self_time.map_or(Text::number("-"), time),
        ]
    });
    let headings = ["span", "count", "failed", "p50", "p95", "p99", "max", "total", "self"];
    screen.table(&headings, &["p95", "total", "p50", "max"], rows.collect())?;
    if names > spans.len() {
        screen.note(&format!("{} of {names} names; more with --limit", spans.len()));
    }
    Ok(Outcome::Answered)
}
