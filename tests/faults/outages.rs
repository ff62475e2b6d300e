//! A store that is away for a moment comes back: nothing is lost, health reports it in time, and so does its end.
//!
//! A thread records the whole time, at a rate that the flight recorder holds for longer than the outage.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use l0::{L0, TelemetryEvent, health::Status, query::Reader};
use rusqlite::ffi;

use super::{
    ledger::{Numbered, RECORDED, compare, difference_of_counts, events_in},
    roles::{holds_within, poll, role, rounds, run, text},
    vfs::{self, Fault, Operation},
};

const TEST: &str = "outages::child_process";
/// How long a store is away, at least.
const AWAY_FOR: Duration = Duration::from_millis(1500);
/// Within this time health reports a problem, and its end. It should take about a second.
const REPORTED_WITHIN: Duration = Duration::from_secs(3);
/// Within this time all that was recorded is stored again.
const STORED_WITHIN: Duration = Duration::from_secs(5);
const PAUSE_BETWEEN_RECORDS: Duration = Duration::from_millis(2);

/// What health must report while the store is away.
#[derive(Clone, Copy)]
enum Reported<'a> {
    /// A problem whose text contains one of these words.
    Problem(&'a [&'a str]),
    /// Nothing: the store repairs itself at once.
    Nothing,
}

pub fn start(store: &Path) -> L0 {
    l0::builder().dir(store).filter("off").commit_every(Duration::from_millis(50)).start().unwrap()
}

/// What health reports of the check `l0.writer`.
pub fn writer_status(l0: &L0) -> Option<Status> {
    let report = l0.health().report();
    report.checks.into_iter().find(|check| check.name == "l0.writer").map(|check| check.status)
}

fn is_healthy(l0: &L0) -> bool {
    writer_status(l0) == Some(Status::Healthy)
}

/// Records before, during and after the outage, and returns what went wrong.
fn problems_of(store: &Path, reported: Reported<'_>, begin: &dyn Fn(), end: &dyn Fn()) -> Vec<String> {
    let l0 = start(store);
    let (stop, recorded) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut problems = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let number = recorded.fetch_add(1, Ordering::Relaxed);
                l0.record(TelemetryEvent::new(RECORDED).payload(&Numbered { number }));
                std::thread::sleep(PAUSE_BETWEEN_RECORDS);
            }
        });
        let is_well = holds_within(STORED_WITHIN, || is_healthy(&l0) && l0.stats().stored > 20);
        for _ in 0..if is_well { rounds(1, 5) } else { 0 } {
            suffer(&l0, reported, begin, end, &mut problems);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(is_well, "not healthy before the outage: {:?}", writer_status(&l0));
    });
    look_at_the_end(&l0, store, recorded.into_inner(), &mut problems);
    problems
}

/// One outage: it lasts until health has reported it, but not for less than its length.
fn suffer(l0: &L0, reported: Reported<'_>, begin: &dyn Fn(), end: &dyn Fn(), problems: &mut Vec<String>) {
    let started = Instant::now();
    begin();
    if let Reported::Problem(words) = reported {
        let found = poll(REPORTED_WITHIN, || writer_status(l0).and_then(|status| Some(status.why()?.to_owned())));
        match found {
            None => problems.push(format!("health reported no problem of l0.writer within {REPORTED_WITHIN:?}")),
            Some(why) if !words.iter().any(|word| why.contains(word)) => {
                problems.push(format!("l0.writer does not name one of {words:?}: {why}"));
            }
            Some(_) => {}
        }
    }
    std::thread::sleep(AWAY_FOR.saturating_sub(started.elapsed()));
    end();
    if !holds_within(REPORTED_WITHIN, || is_healthy(l0)) {
        problems.push(format!("not healthy {REPORTED_WITHIN:?} after the outage: {:?}", writer_status(l0)));
    }
}

/// Checks that all events are stored exactly once, that the counts agree, and that the outage was reported only once.
fn look_at_the_end(l0: &L0, store: &Path, recorded: u64, problems: &mut Vec<String>) {
    let mut outcome = Ok(());
    let is_flushed = holds_within(STORED_WITHIN, || {
        outcome = l0.flush();
        outcome.is_ok()
    });
    if !is_flushed {
        problems.push(format!("flush still fails after {STORED_WITHIN:?}: {outcome:?}"));
    }
    let expected: BTreeSet<u64> = (0..recorded).collect();
    problems.extend(compare("events", &expected, events_in(store, RECORDED)));
    problems.extend(difference_of_counts(l0, STORED_WITHIN));
    let stats = l0.stats();
    if stats.shed > 0 {
        problems.push(format!("shed {}", stats.shed));
    }
    if let Some(error) = stats.last_error {
        problems.push(format!("last_error: {error}"));
    }
    // The small file system of one test makes `l0.disk` report its size before and after, too.
    let sql = "SELECT event_type, payload ->> 'check', count(*), max(message) FROM telemetry_events
        WHERE severity IN ('warning', 'error', 'critical') AND payload ->> 'check' IS NOT 'l0.disk' GROUP BY 1, 2 HAVING count(*) > ?1";
    match Reader::open(store).and_then(|reader| reader.sql(sql, &[(rounds(1, 5) as i64).into()])) {
        Ok(repeated) if repeated.rows.is_empty() => {}
        Ok(repeated) => problems.push(format!("one outage is reported more than once: {:?}", repeated.rows)),
        Err(error) => problems.push(format!("the store cannot be read: {error}")),
    }
}

fn survives(reported: Reported<'_>, begin: impl Fn(&Path), end: impl Fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    assert_none(&problems_of(&store, reported, &|| begin(&store), &|| end(&store)));
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{problems:#?}");
}

/// Moves a file or directory. A directory that stands in the new place is removed first.
fn replace(from: &Path, to: &Path) {
    if from.is_dir() {
        let _ = fs::remove_dir_all(to);
    }
    fs::rename(from, to).unwrap();
}

fn kept(store: &Path) -> PathBuf {
    store.join("keep")
}

fn database(store: &Path) -> PathBuf {
    store.join("telemetry.db")
}

#[test]
fn a_database_that_is_moved_away_and_back_loses_nothing() {
    survives(
        Reported::Problem(&["telemetry.db"]),
        |store| replace(&database(store), &kept(store)),
        |store| replace(&kept(store), &database(store)),
    );
}

#[test]
fn a_directory_that_is_moved_away_and_back_loses_nothing() {
    survives(
        Reported::Problem(&["store"]),
        |store| replace(store, &store.with_extension("away")),
        |store| replace(&store.with_extension("away"), store),
    );
}

#[test]
fn garbage_in_the_place_of_the_database_for_a_moment_loses_nothing() {
    survives(
        Reported::Problem(&["telemetry.db"]),
        |store| {
            replace(&database(store), &kept(store));
            fs::write(database(store), "garbage\n").unwrap();
        },
        |store| replace(&kept(store), &database(store)),
    );
}

#[test]
fn a_directory_in_the_place_of_the_database_for_a_moment_loses_nothing() {
    survives(
        Reported::Problem(&["telemetry.db"]),
        |store| {
            replace(&database(store), &kept(store));
            fs::create_dir(database(store)).unwrap();
        },
        |store| {
            fs::remove_dir(database(store)).unwrap();
            replace(&kept(store), &database(store));
        },
    );
}

#[test]
fn a_wal_that_is_removed_loses_nothing() {
    survives(Reported::Nothing, |store| fs::remove_file(store.join("telemetry.db-wal")).unwrap(), |_| {});
}

/// A file system of its own, unmounted when the value is dropped.
struct Mount(PathBuf);

impl Mount {
    /// `None`, with a printed reason, where this user or system may not mount.
    fn tmpfs(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let arguments = ["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"];
        match Command::new("mount").args(arguments).arg(at).output() {
            Ok(output) if output.status.success() => Some(Self(at.to_owned())),
            outcome => {
                println!("skipped: a tmpfs cannot be mounted: {outcome:?}");
                None
            }
        }
    }

    /// Writes a file until the file system is full.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("ballast")).unwrap();
        let error = io::copy(&mut io::repeat(7), &mut file).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    fn free(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_that_is_freed_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(&dir.path().join("disk"), "32m") else { return };
    let store = mount.0.join("store");
    assert_none(&problems_of(&store, Reported::Problem(&["full"]), &|| mount.fill(), &|| mount.free()));
}

/// The faults of an outage, and words of which the report of health must contain one.
fn faults(name: &str) -> (Vec<Fault>, &'static [&'static str]) {
    const IO: &[&str] = &["I/O", "telemetry.db"];
    let fails = |files: &[&'static str], operations: &[Operation], code: Option<i32>| {
        let fault = |file, operation: Operation| Fault::fails(file, operation, code.unwrap_or(operation.io_error()));
        files.iter().flat_map(|file| operations.iter().map(|operation| fault(*file, *operation))).collect()
    };
    const FILES: [&str; 2] = ["telemetry.db", "telemetry.db-wal"];
    use Operation::{Lock, Open, Read, Sync, Truncate, Write};
    match name {
        "all" => (fails(&FILES, &[Open, Read, Write, Sync, Truncate, Lock], None), IO),
        // The writer has its pages in memory, so it may not meet these.
        "read" => (fails(&FILES, &[Read], None), &[]),
        "write" => (fails(&FILES, &[Write], None), IO),
        "lock" => (fails(&FILES, &[Lock], None), IO),
        "full" => (fails(&FILES, &[Write], Some(ffi::SQLITE_FULL)), &["full"]),
        "permissions" => {
            let mut faults: Vec<Fault> = fails(&FILES, &[Write], Some(ffi::SQLITE_READONLY));
            faults.extend(fails(&FILES, &[Open], Some(ffi::SQLITE_CANTOPEN)));
            (faults, &["readonly", "read-only", "permission", "writable", "open"])
        }
        "slow" => {
            let delay = Duration::from_millis(100);
            let operations = [Write, Sync].map(|operation| Fault::delays("telemetry.db-wal", operation, delay));
            (operations.into(), &[])
        }
        _ => panic!("{name}"),
    }
}

/// The child: SQLite fails as the role says.
#[test]
fn child_process() {
    let Some(role) = role() else { return };
    let [store, name] = &role[..] else { panic!("{role:?}") };
    vfs::install();
    let (faults, words) = faults(name);
    let reported = if words.is_empty() { Reported::Nothing } else { Reported::Problem(words) };
    let store = Path::new(store);
    let before = vfs::hits();
    let begin = || {
        vfs::set(faults.clone());
        // A new connection reads from the file.
        let _ = Reader::open(store);
    };
    let mut problems = problems_of(store, reported, &begin, &|| vfs::set(Vec::new()));
    if vfs::hits() == before {
        problems.push("no operation was failed or delayed".to_owned());
    }
    assert_none(&problems);
}

fn survives_faults(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    run(TEST, &[text(&dir.path().join("store")), name]);
}

macro_rules! faults {
    ($($name:ident: $fault:literal,)*) => {
        $(
            #[test]
            fn $name() {
                survives_faults($fault);
            }
        )*
    };
}

faults! {
    io_errors_of_every_operation_for_a_moment_lose_nothing: "all",
    io_errors_of_reads_for_a_moment_lose_nothing: "read",
    io_errors_of_writes_for_a_moment_lose_nothing: "write",
    io_errors_of_locks_for_a_moment_lose_nothing: "lock",
    a_full_disk_for_a_moment_loses_nothing: "full",
    permissions_that_are_withdrawn_for_a_moment_lose_nothing: "permissions",
    a_slow_disk_for_a_moment_loses_nothing: "slow",
}
