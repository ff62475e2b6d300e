//! `jobs` and `job`: what is to be done, is being done and was done; and one job in full.

use std::time::Duration;

use l0::{
    Timestamp,
    jobs::{JobId, JobRow, JobState, KindStats, Reason},
    query::{harmless, human_duration},
};
use serde_json::json;

use crate::{
    args::{Common, Job, Jobs},
    failure::{Failure, Outcome},
    json,
    place::Store,
    screen::{Screen, Text, Tone},
    when::Window,
};

const JOBS: u32 = 20;

pub(crate) fn jobs(
    store: &Store,
    jobs: &Jobs,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let mut stats = store.jobs.stats()?;
    let mut query = store.jobs.list().limit(common.limit.unwrap_or(JOBS));
    if let Some(kind) = &jobs.kind {
        query = query.kind(kind);
        stats.kinds.retain(|stats| stats.kind == *kind);
    }
    if let Some(state) = &jobs.state {
        query = query.state(state.parse::<JobState>()?);
    }
    if let Some(queue) = &jobs.queue {
        query = query.queue(queue);
    }
    if let Some(after) = &jobs.after {
        query = query.after(&after.parse()?);
    }
    let page = query.fetch()?;
    let outcome = Outcome::of_count(page.items.len());
    let next = page.next.as_ref().map(|next| next.as_str().to_owned());
    if screen.is_json {
        screen.json(
            &json!({ "kinds": json::readable(&stats.kinds), "jobs": json::readable(&page.items), "next": next }),
        )?;
        return Ok(outcome);
    }
    if stats.kinds.is_empty() {
        screen.note("no job was enqueued here");
        return Ok(outcome);
    }
    if jobs.after.is_none() {
        let rows = stats.kinds.iter().map(kind).collect();
        let headings =
            ["kind", "pending", "running", "success", "failed", "cancelled", "p50", "p95", "p99", "oldest due for", ""];
        screen.table(&headings, &["p99", "p95", "cancelled"], rows)?;
        screen.line("")?;
    }
    let rows = page.items.iter().map(|job| row(job, stats.at, window)).collect();
    screen.table(&["enqueued", "job", "kind", "state", "attempt", "took", "what"], &["took", "attempt"], rows)?;
    if let Some(next) = next {
        screen.more(page.items.len(), page.total, "jobs", &next);
    }
    Ok(outcome)
}

fn kind(stats: &KindStats) -> Vec<Text> {
    let some = |count: u64| if count == 0 { Text::number("") } else { Text::number(count) };
    let time = |time: Option<Duration>| Text::number(time.map(human_duration).unwrap_or_default());
    vec![
        Text::plain(&stats.kind).toned(Tone::Name),
        some(stats.pending),
        some(stats.running).toned(Tone::Good),
        some(stats.success),
        some(stats.failed).toned(if stats.failed > 0 { Tone::Bad } else { Tone::Plain }),
        some(stats.cancelled),
        time(stats.p50),
        time(stats.p95),
        time(stats.p99),
        time(stats.oldest_pending),
        Text::plain(if stats.waits_for_handler { "waits for a handler" } else { "" }).toned(Tone::Warning),
    ]
}

fn row(job: &JobRow, now: Timestamp, window: &Window) -> Vec<Text> {
    vec![
        Text::time(window.second(job.enqueued_at)).toned(Tone::Faint),
        Text::plain(job.id.to_string()),
        Text::plain(&job.kind).toned(Tone::Name),
        Text::time(job.state.as_str()).toned(tone(job.state)),
        Text::number(format!("{}/{}", job.attempt, job.max_attempts)),
        Text::number(job.run_time(now).map(human_duration).unwrap_or_default()),
        Text::plain(what(job, now)),
    ]
}

fn tone(state: JobState) -> Tone {
    match state {
        JobState::Running => Tone::Good,
        JobState::Failed => Tone::Bad,
        JobState::Cancelled => Tone::Warning,
        _ => Tone::Plain,
    }
}

/// What there is to know beyond its state, in a line.
fn what(job: &JobRow, now: Timestamp) -> String {
    let mut parts = Vec::new();
    if job.reason != Reason::None {
        parts.push(job.reason.to_string());
    }
    if job.state == JobState::Pending && job.run_at > now {
        let ahead_ns = job.run_at.as_unix_ns().saturating_sub(now.as_unix_ns());
        parts.push(format!("due in {}", human_duration(Duration::from_nanos(ahead_ns.unsigned_abs()))));
    }
    if job.is_cancel_asked && !job.state.is_final() {
        parts.push("asked to end".to_owned());
    }
    if let Some(progress) = job.progress.as_ref().filter(|_| !job.state.is_final()) {
        parts.push(match progress.share() {
            Some(share) => format!("{:.0} % {}", share * 100.0, progress.message),
            None => format!("{} {}", progress.done, progress.message),
        });
    }
    if let Some(error) = &job.error {
        parts.push(error.lines().next().unwrap_or_default().to_owned());
    }
    parts.join(", ")
}

pub(crate) fn job(store: &Store, job: &Job, window: &Window, screen: &mut Screen) -> Result<Outcome, Failure> {
    let id: JobId = job.id.parse()?;
    let Some(job) = store.jobs.get(id)? else {
        screen.note(&format!("there is no job {id}, or not any more"));
        return Ok(Outcome::No);
    };
    if screen.is_json {
        screen.json(&json::readable(&[&job]))?;
        return Ok(Outcome::Answered);
    }
    let now = Timestamp::now();
    let time = |at: Option<Timestamp>| at.map(|at| window.microsecond(at));
    let heading = format!(
        "{} {}",
        screen.paint(&harmless(&job.kind), Tone::Name),
        screen.paint(job.state.as_str(), tone(job.state))
    );
    screen.line(&heading)?;
    let progress = job.progress.as_ref().map(|said| format!("{} of {} {}", said.done, said.total, said.message));
    let facts = [
        ("why", Some(job.reason.to_string()).filter(|reason| !reason.is_empty())),
        ("id", Some(job.id.to_string())),
        ("queue", Some(format!("{}, priority {}", job.queue, job.priority))),
        ("attempt", Some(format!("{} of {}", job.attempt, job.max_attempts))),
        ("enqueued", time(Some(job.enqueued_at))),
        ("due", time(Some(job.run_at))),
        ("scheduled for", time(job.scheduled_for)),
        ("started", time(job.started_at)),
        ("finished", time(job.finished_at)),
        ("took", job.run_time(now).map(human_duration)),
        ("progress", progress),
        ("unique key", job.unique.clone()),
        ("payload", Some(job.payload.clone())),
        ("checkpoint", job.checkpoint.clone()),
        ("result", job.result.clone()),
        ("error", job.error.clone()),
    ];
    for (name, fact) in facts {
        let Some(fact) = fact else { continue };
        for (index, line) in fact.lines().enumerate() {
            let name = if index == 0 { name } else { "" };
            screen.line(&format!("  {name:<14} {}", harmless(line)))?;
        }
    }
    let trace = job.correlation_id.unwrap_or_else(|| job.id.to_string());
    screen.line("")?;
    screen.line(&format!("  l0 trace {trace}   shows what led to it and what it logged"))?;
    Ok(Outcome::Answered)
}
