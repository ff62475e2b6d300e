//! l0's own checks: whether its parts do what they should. They depend on what they look at by a weak reference.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use super::handle::{Handle, Inner};
use crate::{
    error::{Error, Result},
    flight::{FlightState, Medium},
    health::{Health, IntoStatus as _, Status},
    query::{Reader, human_duration},
    state,
    store::{free_disk, inspect, set_aside_files},
};

/// How long a check waits for a commit.
const COMMIT_WITHIN: Duration = Duration::from_secs(5);
/// Free disk below which nothing is well, and below which it is not as it should be.
const DISK_LOW: u64 = 16 << 20;
const DISK_SHORT: u64 = 256 << 20;
/// A job that has been due for longer waits for something that does not come.
const JOB_LATE: Duration = Duration::from_secs(300);

/// A process that has not said for so long that it lives is dead; it says so each minute.
const SILENT: Duration = Duration::from_secs(600);
/// One that is noted as killed, and has not said for so long that it lives, is dead.
const BEATS: Duration = Duration::from_secs(150);
/// Over which new sheds and overflows are told.
const WINDOW: Duration = Duration::from_secs(60);

const LOOKS_MAX: usize = 120;

/// How much a counter has grown within the window, however often it is looked at; at first, since the start.
#[derive(Default)]
struct Window(VecDeque<(Duration, u64)>);

impl Window {
    /// The growth, and over how long.
    fn grown(&mut self, now: Duration, count: u64) -> (u64, Duration) {
        let Self(looks) = self;
        if looks.is_empty() {
            looks.push_back((Duration::ZERO, 0));
        }
        while looks.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW) {
            looks.pop_front();
        }
        let (since, before) = looks[0];
        let is_news = |(at, known): &(Duration, u64)| now.saturating_sub(*at) >= WINDOW / 60 || *known != count;
        if looks.back().is_none_or(is_news) {
            looks.push_back((now, count));
        }
        if looks.len() > LOOKS_MAX {
            looks.remove(1);
        }
        (count.saturating_sub(before), now.saturating_sub(since))
    }
}

/// How often a check looks: at what may be gone for a moment, and at the rest.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(60);

/// When a check that looks often last did all of its work, unless that found something wrong.
#[derive(Default)]
struct Thorough {
    at: Option<Duration>,
    /// How often somebody had called `check_now` then.
    wishes: u64,
}

impl Thorough {
    /// A cheap look in between, where the last thorough one is not long ago and found nothing wrong; else a thorough one.
    fn or_look(&mut self, handle: &Handle, is_well: impl FnOnce() -> bool, look: impl FnOnce() -> Status) -> Status {
        let (now, wishes) = (handle.uptime(), handle.health().wishes());
        let is_wished = std::mem::replace(&mut self.wishes, wishes) != wishes;
        if !is_wished && self.at.is_some_and(|at| now.saturating_sub(at) < SELDOM) && is_well() {
            return Status::Healthy;
        }
        let status = look();
        self.at = (status == Status::Healthy).then_some(now);
        status
    }
}

/// Registers them. A file that is gone or a full disk is found within a second; what costs a write is done once a minute.
pub(super) fn register(health: &Health, of: &Weak<Inner>) {
    fn own<M: Default + Send + 'static>(
        (health, of): (&Health, &Weak<Inner>),
        (name, every): (&str, Duration),
        check: fn(&Handle, &mut M) -> Status,
    ) {
        let of = Weak::clone(of);
        let memory = parking_lot::Mutex::new(M::default());
        health.own_check(name, every, move || match of.upgrade() {
            Some(inner) => check(&Handle { inner }, &mut memory.lock()),
            None => Status::Healthy,
        });
    }
    let to = (health, of);
    own(to, ("l0.writer", OFTEN), writer);
    own(to, ("l0.state", OFTEN), state);
    own(to, ("l0.disk", OFTEN), |handle, (): &mut ()| disk(handle));
    own(to, ("l0.reader", SELDOM), |handle, (): &mut ()| reader(handle));
    own(to, ("l0.flight", SELDOM), |handle, (): &mut ()| flight(handle));
    own(to, ("l0.size", SELDOM), |handle, (): &mut ()| size(handle));
    own(to, ("l0.audit", SELDOM), |handle, (): &mut ()| audit(handle));
    own(to, ("l0.jobs", SELDOM), |handle, (): &mut ()| jobs(handle));
    own(to, ("l0.shed", SELDOM), shed);
    own(to, ("l0.limits", SELDOM), limits);
}

/// The writer answers, and `telemetry.db` takes a write. A damaged database that was set aside is reported for as long as it
/// is in the directory.
fn writer(handle: &Handle, thorough: &mut Thorough) -> Status {
    let shared = handle.shared();
    let is_well = || shared.last_error().is_none() && shared.is_in_place(handle.dir());
    let probe = || shared.probe().and_then(|ticket| shared.wait(ticket, COMMIT_WITHIN)).into_status();
    let status = thorough.or_look(handle, is_well, probe);
    match damaged_files(handle.dir()).last() {
        Some(text) if status == Status::Healthy => Status::Degraded(text.clone()),
        _ => status,
    }
}

/// Damaged databases that were set aside in this directory, each with what to do about it.
pub(super) fn damaged_files(dir: &Path) -> Vec<String> {
    let text = |(path, at): (PathBuf, Option<String>)| {
        format!(
            "telemetry.db was damaged, and set aside as {}{}: bring what can be read into a new store with `l0 doctor --salvage {}`, \
             then move the file away",
            path.display(),
            at.map_or_else(String::new, |at| format!(" at {at}")),
            path.display(),
        )
    };
    set_aside_files(dir).into_iter().map(text).collect()
}

/// `state.db` takes a row.
fn state(handle: &Handle, thorough: &mut Thorough) -> Status {
    thorough.or_look(handle, || handle.inner.state.is_in_place(), || note_life(handle))
}

/// Writes that this run lives. What runs said that are dead by now is ended, where that can be found out.
fn note_life(handle: &Handle) -> Status {
    let (run, at) = (handle.shared().flight.run().to_string(), handle.inner.clock.now_by_hand().as_unix_ns());
    let noted = state::note_life(&handle.inner.state, run, at, COMMIT_WITHIN);
    if noted.is_ok() {
        let _ = end_the_dead(handle, at);
    }
    noted.into_status()
}

/// A process that vanished has said nothing of the end of its checks: what it said holds until its last sign of life.
fn end_the_dead(handle: &Handle, now: i64) -> Result<()> {
    let own = handle.shared().flight.run().to_string();
    let (mine, mut open): (Vec<_>, Vec<_>) =
        state::latest_health(handle.dir())?.into_iter().partition(|row| row.run == own);
    // This one lives, whatever another has found: one that was stopped for a while, or that is in another container.
    let ended: Vec<_> = mine.into_iter().filter(|row| row.after.is_none()).map(|row| row.name).collect();
    handle.health().say_again(&ended);
    open.retain(|row| row.after.is_some());
    let mut dead: HashMap<String, i64> = HashMap::new();
    for row in &open {
        let last = dead.entry(row.run.clone()).or_insert(row.at);
        *last = row.at.max(*last);
    }
    // The times of changes tell only of one that has given no sign.
    dead.extend(state::last_signs(handle.dir())?);
    dead.remove(&own);
    if dead.is_empty() {
        return Ok(());
    }
    let outcomes = outcomes(handle)?;
    let (left, held) = flight_files(handle)?;
    dead.retain(|run, last| {
        let silence = Duration::from_nanos(u64::try_from(now.saturating_sub(*last)).unwrap_or(0));
        let is_over = match outcomes.get(run).map(String::as_str) {
            // By a look from another container, perhaps, at one that lives.
            Some("killed") => silence > BEATS,
            Some(_) => true,
            None => silence > SILENT,
        };
        // Who holds its flight file lives, however long it has been stopped.
        left.contains(run) || is_over && !held.contains(run)
    });
    if dead.is_empty() { Ok(()) } else { state::end_silent_runs(&handle.inner.state, dead.into_iter().collect()) }
}

/// What is noted of the end of runs.
fn outcomes(handle: &Handle) -> Result<HashMap<String, String>> {
    let ended = handle.sql("SELECT run_id, outcome FROM runs WHERE outcome <> 'running'", &[])?;
    let ended = ended.rows.into_iter().filter_map(|row| <[_; 2]>::try_from(row).ok());
    Ok(ended.map(|[run, outcome]| (run.to_string(), outcome.to_string())).collect())
}

/// Runs whose flight file nobody holds any more, and those whose somebody does: one whose process is not to be seen, and who holds
/// it, is in another container.
fn flight_files(handle: &Handle) -> Result<(HashSet<String>, HashSet<String>)> {
    let is_held = |path: &Path| !File::open(path).is_ok_and(|file| file.try_lock_shared().is_ok());
    let (mut left, mut held) = (HashSet::new(), HashSet::new());
    for file in inspect(handle.dir())?.flight_files {
        let Some(run) = file.path.file_stem().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        if is_held(&file.path) {
            held.insert(run);
        } else if file.state == FlightState::Orphaned {
            left.insert(run);
        }
    }
    Ok((left, held))
}

/// Who opens the store anew can read it.
fn reader(handle: &Handle) -> Status {
    let read = Reader::open(handle.dir()).and_then(|reader| reader.sql("SELECT count(*) FROM runs", &[]));
    if read.as_ref().is_err_and(Error::is_damage) {
        handle.shared().suspect();
    }
    read.map(drop).into_status()
}

fn flight(handle: &Handle) -> Status {
    let stats = handle.stats();
    let percent = stats.buffer_used_bytes * 100 / stats.buffer_bytes.max(1);
    if percent >= 75 {
        return Status::Degraded(format!(
            "the flight recorder is {percent} % full: the store is slower than what is recorded"
        ));
    }
    let flight = &handle.shared().flight;
    let is_where_asked = flight.medium() == Medium::Directory || flight.fallback().is_none();
    if is_where_asked && flight.path().is_none_or(|path| path.exists()) {
        return Status::Healthy;
    }
    Status::Degraded(format!("the flight recorder is not where it was asked for: {}", stats.durability))
}

fn shed(handle: &Handle, window: &mut Window) -> Status {
    match window.grown(handle.uptime(), handle.stats().shed) {
        (0, _) => Status::Healthy,
        (new, over) => Status::Degraded(format!("{new} records were shed within {}", human_duration(over))),
    }
}

fn disk(handle: &Handle) -> Status {
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

fn size(handle: &Handle) -> Status {
    let size = handle.stats().store;
    if size.max_bytes > 0 && size.bytes() > size.max_bytes {
        return Status::Degraded(format!("the store has {} bytes, its cap is {}", size.bytes(), size.max_bytes));
    }
    Status::Healthy
}

fn audit(handle: &Handle) -> Status {
    let (bytes, limit) = (handle.inner.state.bytes(), handle.inner.retention.max_audit_bytes);
    let text = || format!("state.db has {bytes} bytes of Retention::max_audit_bytes({limit})");
    match bytes {
        _ if bytes >= limit => Status::Unhealthy(format!("{}: audits are refused", text())),
        _ if bytes > limit / 5 * 4 => Status::Degraded(text()),
        _ => Status::Healthy,
    }
}

/// Jobs that wait in vain, and schedules that nobody fires. What checks have said that are jobs of other processes is heard, too.
fn jobs(handle: &Handle) -> Status {
    let jobs = handle.jobs();
    if let Err(error) =
        handle.health().scheduled().iter().try_for_each(|(name, check)| handle.hear_scheduled(name, check))
    {
        return Status::Unhealthy(error.to_string());
    }
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
            trouble.push(format!("a job of the kind {} has been due for {}", kind.kind, human_duration(late)));
        }
    }
    for row in &stats.running {
        let Some((timeout, ran)) = row.timeout.zip(row.run_time(stats.at)) else { continue };
        if ran.saturating_sub(timeout) > JOB_LATE {
            let (kind, ran) = (&row.kind, human_duration(ran));
            trouble.push(format!("the job {} of the kind {kind} has run for {ran}, and nobody has ended it", row.id));
        }
    }
    for row in schedules.iter().filter(|row| row.is_late || row.problem.is_some()) {
        trouble.push(format!("the schedule {} {}", row.name, row.problem.as_deref().unwrap_or("is late")));
    }
    if trouble.is_empty() { Status::Healthy } else { Status::Degraded(trouble.join("; ")) }
}

fn limits(handle: &Handle, window: &mut Window) -> Status {
    let overflowed: u64 = handle.limits().stats().iter().map(|scope| scope.overflowed).sum();
    match window.grown(handle.uptime(), overflowed) {
        (0, _) => Status::Healthy,
        (new, over) => Status::Degraded(format!(
            "{new} charges shared a bucket within {}: scopes have more keys than they may",
            human_duration(over)
        )),
    }
}

/// What is registered when health is first asked for.
pub(super) fn attach(inner: &Arc<Inner>) {
    let of = Arc::downgrade(inner);
    inner.health.set_own(Box::new(move |health| register(health, &of)));
}
