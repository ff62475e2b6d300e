//! l0's own checks: each is made to see what it is there for.

mod support;

use std::{fs, time::Duration};

use l0::{
    ManualClock, Retention, TelemetryEvent, Timestamp,
    health::{HealthReader, Status},
    jobs::{Job, JobOptions, Schedule},
    limits::{Quota, ScopeConfig},
};
use support::{builder, wait_for};
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);
const START: Timestamp = Timestamp::from_unix_ns(1_800_000_000_000_000_000);

/// One of l0's own checks, run now.
fn says(l0: &l0::L0, name: &str) -> Status {
    l0.health().check_now(name).unwrap()
}

/// That it says this, for this reason.
fn expect(l0: &l0::L0, name: &str, wanted: &str, part: &str) {
    let status = says(l0, name);
    assert!(status.as_str() == wanted && status.why().unwrap_or_default().contains(part), "{name} {status}");
}

fn by_hand(retention: Retention) -> (l0::L0, ManualClock, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (clock, time) = l0::Clock::manual(START);
    (builder(dir.path()).clock(clock).retention(retention).start().unwrap(), time, dir)
}

#[test]
fn a_program_that_is_well_says_so_of_all_its_parts() {
    let (l0, _, _dir) = by_hand(Retention::default());
    let names: Vec<_> = l0.health().tagged("l0").checks.iter().map(|check| check.name.clone()).collect();
    let all = ["audit", "disk", "flight", "jobs", "limits", "reader", "shed", "size", "state", "writer"];
    assert_eq!(names, all.map(|name| format!("l0.{name}")));
    for name in names {
        assert_eq!(says(&l0, &name), Status::Healthy, "{name}");
    }
}

#[test]
fn a_database_that_is_gone_or_garbage_is_noticed_without_anything_to_store() {
    let (l0, _, dir) = by_hand(Retention::default());
    l0.flush().unwrap();
    let path = dir.path().join("telemetry.db");
    // What has it open sees its pages as they were; who comes anew does not.
    let files = [path.clone(), dir.path().join("telemetry.db-wal")];
    let whole = files.each_ref().map(|file| fs::read(file).unwrap());
    for (file, whole) in files.iter().zip(&whole) {
        fs::write(file, vec![7; whole.len()]).unwrap();
    }
    expect(&l0, "l0.reader", "unhealthy", "telemetry.db");
    // The reader has the writer look, which sets it aside.
    expect(&l0, "l0.writer", "degraded", "telemetry.damaged-");
    assert_eq!(says(&l0, "l0.reader"), Status::Healthy);
    for file in l0::inspect(dir.path()).unwrap().set_aside {
        fs::remove_file(file).unwrap();
    }
    assert_eq!(says(&l0, "l0.writer"), Status::Healthy);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    expect(&l0, "l0.writer", "unhealthy", "telemetry.db");
    expect(&l0, "l0.reader", "unhealthy", "");
    fs::remove_dir(&path).unwrap();
    // It heals by itself.
    assert_eq!(says(&l0, "l0.writer"), Status::Healthy);
    assert_eq!(says(&l0, "l0.reader"), Status::Healthy);
}

#[test]
fn the_writer_writes_whether_there_is_something_to_store_or_not() {
    let (l0, _, dir) = by_hand(Retention::default());
    l0.flush().unwrap();
    let wal = || fs::metadata(dir.path().join("telemetry.db-wal")).unwrap().len();
    let (before, stored) = (wal(), l0.sql("SELECT stored FROM runs", &[]).unwrap());
    assert_eq!(says(&l0, "l0.writer"), Status::Healthy);
    assert!(wal() > before, "{} bytes before and behind", before);
    assert_eq!(l0.sql("SELECT stored FROM runs", &[]).unwrap().rows, stored.rows, "and changes nothing");
}

#[test]
fn who_lives_is_not_taken_for_dead_and_says_so_again_if_it_was() {
    let (l0, _, dir) = by_hand(Retention::default());
    l0.health().register("db", || Err::<(), _>("no answer")).unwrap();
    l0.health().check_now("db").unwrap();
    assert_eq!(l0.health().history("db", MINUTE).unwrap().len(), 1);
    let state = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    let now = START.as_unix_ns();
    // Others, of whose processes nothing is to be seen from here: one that has spoken of late, and one that has not.
    let sql = "INSERT INTO health_change (name, run, at, after) VALUES (?1, ?1, ?2, '{\"status\":\"healthy\"}')";
    for (name, at) in [("speaks", now - MINUTE.as_nanos() as i64), ("silent", now - 11 * MINUTE.as_nanos() as i64)] {
        state.execute(sql, (name, now - 60 * MINUTE.as_nanos() as i64)).unwrap();
        state.execute("INSERT INTO health_run (run, at) VALUES (?1, ?2)", (name, at)).unwrap();
    }
    // What a run left that has nothing that holds.
    let left = now - 11 * MINUTE.as_nanos() as i64;
    state.execute("INSERT INTO health_run (run, at) VALUES ('left', ?1)", [left]).unwrap();
    // One that has come to its end, and could not say so here.
    builder(dir.path()).start().unwrap().shutdown(MINUTE).unwrap();
    let ended = l0.sql("SELECT run_id FROM runs WHERE outcome = 'clean'", &[]).unwrap().rows[0][0].to_string();
    state.execute(sql, (&ended, now)).unwrap();
    state.execute("INSERT INTO health_run (run, at) VALUES (?1, ?2)", (&ended, now)).unwrap();
    // One of them has found this one dead.
    let sql = "INSERT INTO health_change (name, run, at) SELECT name, run, at FROM health_change WHERE name = 'db'";
    state.execute_batch(sql).unwrap();
    let latest = || {
        let latest = HealthReader::open(dir.path()).latest().unwrap().into_iter();
        latest.map(|last| last.name).filter(|name| !name.starts_with("l0.")).collect::<Vec<_>>()
    };
    assert_eq!(latest(), [&ended, "silent", "speaks"]);
    assert_eq!(says(&l0, "l0.state"), Status::Healthy);
    l0.health().history("db", MINUTE).unwrap();
    assert_eq!(latest(), ["db", "speaks"]);
    let signs = || state.query_row("SELECT count(*) FROM health_run", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(signs(), 2, "those that have ended have none any more");
    l0.shutdown(MINUTE).unwrap();
    assert_eq!((latest(), signs()), (vec!["speaks".to_owned()], 1));
}

#[test]
fn who_holds_its_flight_file_lives_however_long_it_was_silent() {
    let dir = tempfile::tempdir().unwrap();
    let one = builder(dir.path()).start().unwrap();
    let two = builder(dir.path()).start().unwrap();
    one.health().register("db", || Err::<(), _>("no answer")).unwrap();
    one.health().check_now("db").unwrap();
    one.health().history("db", MINUTE).unwrap();
    let state = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    state.busy_timeout(MINUTE).unwrap();
    let hour = "UPDATE health_change SET at = at - 3600000000000; UPDATE health_run SET at = at - 3600000000000;
                CREATE TRIGGER stopped BEFORE UPDATE ON health_run BEGIN SELECT raise(IGNORE); END";
    state.execute_batch(hour).unwrap();
    assert_eq!(says(&two, "l0.state"), Status::Healthy);
    let latest = HealthReader::open(dir.path()).latest().unwrap();
    assert!(latest.iter().any(|last| last.name == "db"), "{latest:?}");
}

#[test]
fn a_state_that_takes_nothing_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("state.db")).unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    expect(&l0, "l0.state", "unhealthy", "state.db");
    fs::remove_dir(dir.path().join("state.db")).unwrap();
    assert_eq!(says(&l0, "l0.state"), Status::Healthy);
    // What was refused is said again, not only in a minute.
    let is_said = || {
        let known = HealthReader::open(dir.path()).report().unwrap();
        known.checks.iter().any(|check| check.name == "l0.state" && check.took.is_some())
    };
    wait_for("how the checks stand", is_said);
    let signs = "SELECT count(*) FROM state.health_run";
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    connection.execute("ATTACH ?1 AS state", [dir.path().join("state.db").to_str()]).unwrap();
    assert_eq!(connection.query_row(signs, [], |row| row.get::<_, i64>(0)).unwrap(), 1, "it has written");
}

#[test]
fn a_flight_recorder_that_is_full_or_gone_is_noticed_and_so_is_what_was_shed() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).buffer_bytes(256 << 10).start().unwrap();
    l0.flush().unwrap();
    let other = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    while l0.stats().shed == 0 {
        l0.record(TelemetryEvent::new("filling").message("x".repeat(1_000)));
    }
    // What is there before anybody asks is seen, and goes on to be for a minute.
    expect(&l0, "l0.flight", "degraded", "% full");
    expect(&l0, "l0.shed", "degraded", "records were shed within");
    expect(&l0, "l0.shed", "degraded", "records were shed within");
    other.execute_batch("ROLLBACK").unwrap();
    l0.flush().unwrap();
    assert_eq!(says(&l0, "l0.flight"), Status::Healthy);
    for entry in fs::read_dir(dir.path().join("flight")).unwrap().flatten() {
        fs::remove_file(entry.path()).unwrap();
    }
    expect(&l0, "l0.flight", "degraded", "the flight file was removed");
}

#[test]
fn what_was_shed_is_told_for_a_minute() {
    let (l0, time, dir) = by_hand(Retention::default());
    let other = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    while l0.stats().shed == 0 {
        l0.record(TelemetryEvent::new("filling").message("x".repeat(100_000)));
    }
    other.execute_batch("ROLLBACK").unwrap();
    l0.flush().unwrap();
    assert_eq!(says(&l0, "l0.shed").as_str(), "degraded");
    time.advance(MINUTE / 2);
    assert_eq!(says(&l0, "l0.shed").as_str(), "degraded");
    time.advance(MINUTE / 2);
    assert_eq!(says(&l0, "l0.shed"), Status::Healthy);
}

#[test]
#[cfg(unix)]
fn a_flight_recorder_elsewhere_than_asked_for_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    // Its directory is somebody else's.
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("flight")).unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    expect(&l0, "l0.flight", "degraded", "not where it was asked for");
    // Who asked for none has what he asked for.
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).flight(l0::Flight::Off).start().unwrap();
    assert_eq!(says(&l0, "l0.flight"), Status::Healthy);
}

#[test]
fn a_disk_that_is_short_a_store_over_its_cap_and_a_full_audit_are_noticed() {
    let (l0, _, dir) = by_hand(Retention::default().min_free_disk(u64::MAX).max_audit_bytes(1 << 20));
    expect(&l0, "l0.disk", "degraded", "MiB are free in");
    assert_eq!(says(&l0, "l0.audit"), Status::Healthy);
    let audit = || l0.audit(TelemetryEvent::new("refund").message("x".repeat(30_000)));
    while says(&l0, "l0.audit") == Status::Healthy {
        audit().unwrap();
    }
    expect(&l0, "l0.audit", "degraded", "max_audit_bytes");
    while audit().is_ok() {}
    expect(&l0, "l0.audit", "unhealthy", "audits are refused");
    // Another process gives the store a cap that the flight file of this one does not fit into.
    let other = builder(dir.path()).retention(Retention::default().max_bytes(8 << 20)).start().unwrap();
    expect(&other, "l0.size", "degraded", "its cap is 8388608");
}

/// A job that nobody has a handler for.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Nobody;

impl Job for Nobody {
    const KIND: &'static str = "nobody";
    type Output = ();
}

/// A job that has one.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Somebody;

impl Job for Somebody {
    const KIND: &'static str = "somebody";
    type Output = ();

    fn options() -> JobOptions {
        JobOptions::default().timeout(MINUTE)
    }
}

#[test]
fn jobs_that_are_late_stuck_or_nobodys_are_noticed() {
    let (l0, time, dir) = by_hand(Retention::default());
    let jobs = l0.jobs();
    jobs.register(|_: Somebody, _| Ok(())).unwrap();
    jobs.enqueue(Somebody).unwrap();
    time.advance(4 * MINUTE);
    assert_eq!(says(&l0, "l0.jobs"), Status::Healthy);
    time.advance(2 * MINUTE);
    expect(&l0, "l0.jobs", "degraded", "a job of the kind somebody has been due for 6");
    while jobs.run_due().unwrap() > 0 {}
    assert_eq!(says(&l0, "l0.jobs"), Status::Healthy);
    jobs.enqueue(Nobody).unwrap();
    time.advance(6 * MINUTE);
    expect(&l0, "l0.jobs", "degraded", "1 jobs of the kind nobody wait for a handler");
    jobs.cancel(jobs.list().kind("nobody").fetch().unwrap().items[0].id).unwrap();
    assert_eq!(says(&l0, "l0.jobs"), Status::Healthy);
    // As a process leaves one that has stopped, is not dead, and does not come back.
    jobs.enqueue(Somebody).unwrap();
    let state = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    let stuck = "UPDATE job SET state = 1, owner = 99, attempt = 1, started_at = ?1 WHERE state = 0";
    state.execute(stuck, [START.as_unix_ns()]).unwrap();
    expect(&l0, "l0.jobs", "degraded", "has run for");
    state.execute_batch("UPDATE job SET state = 2, owner = NULL, finished_at = started_at WHERE state = 1").unwrap();
    assert_eq!(says(&l0, "l0.jobs"), Status::Healthy);
    jobs.schedule("report", Schedule::every(MINUTE), Somebody).unwrap();
    time.advance(10 * MINUTE);
    expect(&l0, "l0.jobs", "degraded", "the schedule report is late");
}

#[test]
fn scopes_with_too_many_keys_are_noticed_for_a_minute() {
    let (l0, time, _dir) = by_hand(Retention::default());
    let scope = l0.limits().define("api", ScopeConfig::new(Quota::per_second(1)).keyed().max_keys(8)).unwrap();
    for number in 0..1_000 {
        let _ = scope.check_key(&number.to_string());
    }
    expect(&l0, "l0.limits", "degraded", "more keys than they may");
    expect(&l0, "l0.limits", "degraded", "more keys than they may");
    time.advance(2 * MINUTE);
    assert_eq!(says(&l0, "l0.limits"), Status::Healthy);
}
