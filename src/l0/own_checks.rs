//! l0's own checks: whether its parts do what they should. They depend on what they look at by a weak reference.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use super::handle::{Handle, Inner};
use crate::{
    error::Result,
    flight::Medium,
    health::{Health, Status},
    query::Value,
    state::{self, HealthRow},
    store::{free_disk, inspect},
};

/// How long a check waits for a commit.
const COMMIT_WITHIN: Duration = Duration::from_secs(5);
/// Free disk below which nothing is well, and below which it is not as it should be.
const DISK_LOW: u64 = 16 << 20;
const DISK_SHORT: u64 = 256 << 20;
/// A job that has been due for longer waits for something that does not come.
const JOB_LATE: Duration = Duration::from_secs(300);

/// Registers them; they are run once a minute.
pub(super) fn register(health: &Health, of: &Weak<Inner>) {
    let own = |name: &str, check: fn(&Handle, &mut u64) -> Status| {
        let of = Weak::clone(of);
        let before = parking_lot::Mutex::new(u64::MAX);
        health.own_check(name, move || match of.upgrade() {
            Some(inner) => check(&Handle { inner }, &mut before.lock()),
            None => Status::Healthy,
        });
    };
    own("l0.writer", writer);
    own("l0.state", state);
    own("l0.reader", reader);
    own("l0.flight", flight);
    own("l0.shed", shed);
    own("l0.disk", disk);
    own("l0.size", size);
    own("l0.audit", audit);
    own("l0.jobs", jobs);
    own("l0.limits", limits);
}

/// The writer answers, and the database takes what is recorded.
fn writer(handle: &Handle, _: &mut u64) -> Status {
    let shared = handle.shared();
    match shared.ask().and_then(|ticket| shared.wait(ticket, COMMIT_WITHIN)) {
        Ok(()) => Status::Healthy,
        Err(error) => Status::Unhealthy(error.to_string()),
    }
}

/// `state.db` takes a row. What runs said that are dead by now is ended.
fn state(handle: &Handle, _: &mut u64) -> Status {
    let at = handle.inner.clock.now_by_hand().as_unix_ns();
    match end_the_dead(handle).and_then(|()| state::probe(&handle.inner.state, at, COMMIT_WITHIN)) {
        Ok(()) => Status::Healthy,
        Err(error) => Status::Unhealthy(error.to_string()),
    }
}

/// A process that vanished has said nothing of the end of its checks.
fn end_the_dead(handle: &Handle) -> Result<()> {
    let own = handle.shared().flight.run().to_string();
    let mut open = state::latest_health(handle.dir())?;
    open.retain(|row| row.after.is_some() && row.run != own);
    if open.is_empty() {
        return Ok(());
    }
    let dead = inspect(handle.dir())?.dead_runs;
    let runs = handle.sql("SELECT run_id, id, ended_at FROM runs", &[])?;
    let runs: HashMap<_, _> = runs
        .rows
        .into_iter()
        .filter_map(|row| <[_; 3]>::try_from(row).ok())
        .map(|[run, id, ended_at]| (run.to_string(), (id, ended_at)))
        .collect();
    let now = handle.inner.clock.now_by_hand().as_unix_ns();
    let ended_at = |row: &HealthRow| match runs.get(&row.run) {
        // Its telemetry is gone: it said nothing for long.
        None => Some(row.at),
        Some((_, Value::Text(at))) => {
            at.parse::<jiff::Timestamp>().ok().and_then(|at| i64::try_from(at.as_nanosecond()).ok())
        }
        Some((Value::Integer(id), _)) => dead.contains(id).then_some(now),
        Some(_) => None,
    };
    let rows = open.into_iter().filter_map(|row| {
        let at = ended_at(&row)?.max(row.at);
        Some(HealthRow { at, before: None, after: None, ..row })
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() { Ok(()) } else { state::save_health(&handle.inner.state, rows) }
}

fn reader(handle: &Handle, _: &mut u64) -> Status {
    match handle.sql("SELECT count(*) FROM runs", &[]) {
        Ok(_) => Status::Healthy,
        Err(error) => Status::Unhealthy(error.to_string()),
    }
}

fn flight(handle: &Handle, _: &mut u64) -> Status {
    let stats = handle.stats();
    let percent = stats.buffer_used_bytes * 100 / stats.buffer_bytes.max(1);
    if percent >= 75 {
        return Status::Degraded(format!(
            "the flight recorder is {percent} % full: the store is slower than what is recorded"
        ));
    }
    match handle.shared().flight.medium() {
        Medium::Directory => Status::Healthy,
        _ if handle.shared().flight.fallback().is_none() => Status::Healthy,
        _ => Status::Degraded(format!("the flight recorder is not where it was asked for: {}", stats.durability)),
    }
}

/// Since the look before.
fn shed(handle: &Handle, before: &mut u64) -> Status {
    let shed = handle.stats().shed;
    let new = shed.saturating_sub(std::mem::replace(before, shed));
    if new == 0 { Status::Healthy } else { Status::Degraded(format!("{new} records were shed in the last minute")) }
}

fn disk(handle: &Handle, _: &mut u64) -> Status {
    let Some(free) = free_disk(handle.dir()) else { return Status::Healthy };
    let text =
        |wanted: u64| format!("{} MiB are free in {}, {} should be", free >> 20, handle.dir().display(), wanted >> 20);
    let short = handle.inner.retention.min_free_disk.max(DISK_SHORT);
    match free {
        _ if free < DISK_LOW => Status::Unhealthy(text(DISK_LOW)),
        _ if free < short => Status::Degraded(text(short)),
        _ => Status::Healthy,
    }
}

fn size(handle: &Handle, _: &mut u64) -> Status {
    let size = handle.stats().store;
    if size.max_bytes > 0 && size.bytes() > size.max_bytes {
        return Status::Degraded(format!("the store has {} bytes, its cap is {}", size.bytes(), size.max_bytes));
    }
    Status::Healthy
}

fn audit(handle: &Handle, _: &mut u64) -> Status {
    let (bytes, limit) = (handle.inner.state.bytes(), handle.inner.retention.max_audit_bytes);
    let text = || format!("state.db has {bytes} bytes of Retention::max_audit_bytes({limit})");
    match bytes {
        _ if bytes >= limit => Status::Unhealthy(format!("{}: audits are refused", text())),
        _ if bytes > limit / 5 * 4 => Status::Degraded(text()),
        _ => Status::Healthy,
    }
}

/// Jobs that wait in vain, and schedules that nobody fires.
fn jobs(handle: &Handle, _: &mut u64) -> Status {
    let jobs = handle.jobs();
    let (stats, schedules) = match jobs.stats().and_then(|stats| Ok((stats, jobs.schedules()?))) {
        Ok(found) => found,
        Err(error) => return Status::Unhealthy(error.to_string()),
    };
    let mut trouble: Vec<String> = Vec::new();
    for kind in &stats.kinds {
        // A web process has no handlers for what its workers do.
        let Some(late) = kind.oldest_pending.filter(|late| *late > JOB_LATE) else { continue };
        if kind.waits_for_handler {
            trouble.push(format!("{} jobs of the kind {} wait for a handler", kind.pending, kind.kind));
        } else {
            trouble.push(format!(
                "a job of the kind {} has been due for {}",
                kind.kind,
                crate::query::human_duration(late)
            ));
        }
    }
    for row in schedules.iter().filter(|row| row.is_late || row.problem.is_some()) {
        trouble.push(format!("the schedule {} {}", row.name, row.problem.as_deref().unwrap_or("is late")));
    }
    if trouble.is_empty() { Status::Healthy } else { Status::Degraded(trouble.join("; ")) }
}

/// Since the look before.
fn limits(handle: &Handle, before: &mut u64) -> Status {
    let overflowed: u64 = handle.limits().stats().iter().map(|scope| scope.overflowed).sum();
    let new = overflowed.saturating_sub(std::mem::replace(before, overflowed));
    if new == 0 {
        return Status::Healthy;
    }
    Status::Degraded(format!("{new} charges of the last minute shared a bucket: scopes have more keys than they may"))
}

/// What is registered when health is first asked for.
pub(super) fn attach(inner: &Arc<Inner>) {
    let of = Arc::downgrade(inner);
    inner.health.set_own(Box::new(move |health| register(health, &of)));
}
