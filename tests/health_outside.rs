//! Checks as another process knows them: the same as inside, as of a minute ago, with what has changed since.

mod support;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use l0::{
    Clock, ManualClock, Timestamp,
    health::{CheckReport, Format, HealthReader, Status},
};
use rusqlite::Connection;
use support::builder;

const MINUTE: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(20);

/// What another process knows has ages by the system's clock.
fn open(dir: &Path) -> (l0::L0, ManualClock) {
    let (clock, time) = Clock::manual(Timestamp::now());
    (builder(dir).clock(clock).start().unwrap(), time)
}

/// All that is kept is in the store.
fn outside(l0: &l0::L0) -> Vec<CheckReport> {
    l0.health().history("l0.state", MINUTE).unwrap();
    HealthReader::open(l0.dir()).report().unwrap().checks
}

fn named<'a>(checks: &'a [CheckReport], name: &str) -> Option<&'a CheckReport> {
    checks.iter().find(|check| check.name == name)
}

/// Has the process say that it lives.
fn say(l0: &l0::L0, time: &ManualClock) {
    time.advance(Duration::from_secs(1));
    assert_eq!(l0.health().check_now("l0.state").unwrap(), Status::Healthy);
}

#[test]
fn it_is_what_is_seen_inside() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, time) = open(dir.path());
    let is_well = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&is_well);
    let health = l0.health();
    health
        .check("db", move || if says.load(SeqCst) { Ok(()) } else { Err("no answer") })
        .tag("deep")
        .register()
        .unwrap();
    health.check("loop", || Status::Healthy).liveness().register().unwrap();
    health.check("cache", || Status::Degraded("cold".to_owned())).optional().tag("a").tag("b").register().unwrap();
    health.check("warm", || Status::Unhealthy("not yet".to_owned())).startup().register().unwrap();
    health.check("proves itself", || Status::Healthy).pass_after(100).register().unwrap();
    for _ in 0..3 {
        time.advance(MINUTE);
        health.run_due().unwrap();
    }
    // At once, and without a sign of life: what each is for, and how it is.
    let known = outside(&l0);
    let db = named(&known, "db").unwrap();
    assert_eq!((db.status.why(), db.kind, &*db.tags), (Some("no answer"), "readiness", &["deep".to_owned()][..]));
    let kinds = ["loop", "cache", "warm"].map(|name| named(&known, name).unwrap().kind);
    assert_eq!(kinds, ["liveness", "readiness", "startup"]);
    say(&l0, &time);
    let known = outside(&l0);
    let text = |check: &CheckReport| {
        let mut value = serde_json::json!(check);
        // By two clocks.
        value.as_object_mut().unwrap().retain(|name, _| !["age", "running_for"].contains(&name.as_str()));
        value
    };
    let inside = health.report().checks;
    assert_eq!(inside.len(), known.len());
    for (inside, known) in inside.iter().zip(&known).filter(|(inside, _)| inside.name != "l0.state") {
        assert_eq!(text(inside), text(known));
        let (inside_age, age) = (inside.age.unwrap(), known.age.unwrap());
        assert!(age <= inside_age + LONG, "{age:?} instead of {inside_age:?} of {}", inside.name);
    }
    let db = named(&known, "db").unwrap();
    assert!(db.contiguous_failures >= 3, "{db}");
    assert!(db.took.is_some());
    let page = HealthReader::open(dir.path()).report().unwrap().render(Format::Kubernetes);
    assert_eq!(page.body.lines().last(), health.report().render(Format::Kubernetes).body.lines().last());
    // What changes is known at once.
    is_well.store(true, SeqCst);
    time.advance(MINUTE);
    health.check_now("db").unwrap();
    assert_eq!(named(&outside(&l0), "db").unwrap().status, Status::Healthy);
    assert_eq!(named(&outside(&l0), "db").unwrap().contiguous_failures, 0);
    health.unregister("db");
    health.unregister("proves itself");
    assert!(named(&outside(&l0), "db").is_none());
    say(&l0, &time);
    assert!(named(&outside(&l0), "proves itself").is_none(), "of what had not run it is the next sign of life");
    l0.shutdown(LONG).unwrap();
    let reader = HealthReader::open(dir.path());
    assert!(reader.report().unwrap().checks.is_empty());
    assert!(reader.last_heard().unwrap().is_none());
}

#[test]
fn of_very_many_the_changes_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, time) = open(dir.path());
    for number in 0..1_000 {
        l0.health().check(&format!("check {number}"), || Status::Unhealthy("x".repeat(1_000))).register().unwrap();
    }
    l0.health().run_due().unwrap();
    say(&l0, &time);
    let known = outside(&l0);
    assert_eq!(
        known.iter().filter(|check| check.name.starts_with("check ") && check.status != Status::Healthy).count(),
        1_000
    );
    let state = Connection::open(dir.path().join("state.db")).unwrap();
    let bytes: i64 = state.query_row("SELECT max(length(checks)) FROM health_run", [], |row| row.get(0)).unwrap();
    assert!(bytes <= 256 << 10, "{bytes} bytes each minute");
}

#[test]
fn of_two_processes_the_worse_and_of_one_that_left_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (one, one_time) = open(dir.path());
    let (two, two_time) = open(dir.path());
    one.health().register("db", || Status::Healthy).unwrap();
    two.health().check("db", || Status::Unhealthy("of two".to_owned())).tag("two").register().unwrap();
    let both = |one: &l0::L0, two: &l0::L0| {
        outside(one);
        outside(two)
    };
    // The one that is well speaks last.
    for l0 in [&two, &one] {
        l0.health().check_now("db").unwrap();
    }
    let known = both(&one, &two);
    assert_eq!(known.iter().filter(|check| check.name == "db").count(), 1);
    assert_eq!(named(&known, "db").unwrap().tags, ["two"]);
    say(&one, &one_time);
    assert_eq!(named(&both(&one, &two), "db").unwrap().tags, ["two"], "the other's sign of life is none of its");
    say(&two, &two_time);
    assert_eq!(named(&both(&one, &two), "db").unwrap().status.why(), Some("of two"));
    two.shutdown(LONG).unwrap();
    let known = outside(&one);
    assert_eq!((&named(&known, "db").unwrap().status, named(&known, "db").unwrap().tags.len()), (&Status::Healthy, 0));
}

#[test]
fn who_has_been_silent_is_known_and_who_writes_otherwise_is_read_by_its_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, time) = open(dir.path());
    l0.health().check("db", || Status::Unhealthy("no answer".to_owned())).optional().register().unwrap();
    l0.health().check_now("db").unwrap();
    say(&l0, &time);
    outside(&l0);
    let state = Connection::open(dir.path().join("state.db")).unwrap();
    let reader = HealthReader::open(dir.path());
    // By a later l0.
    state.execute("UPDATE health_run SET checks = '[{\"name\":\"db\"}]'", ()).unwrap();
    let known = reader.report().unwrap();
    let db = named(&known.checks, "db").unwrap();
    assert_eq!((db.status.why(), db.is_optional, db.contiguous_failures), (Some("no answer"), true, 1));
    // Ten minutes without a word.
    let before = Timestamp::from_unix_ns(Timestamp::now().as_unix_ns() - 600_000_000_000);
    state.execute("UPDATE health_run SET at = ?1", [before.as_unix_ns()]).unwrap();
    assert!(reader.last_heard().unwrap() > Some(before), "its changes are later");
    state.execute("UPDATE health_change SET at = ?1", [before.as_unix_ns() - 1]).unwrap();
    assert_eq!(reader.last_heard().unwrap(), Some(before));
    let age = named(&reader.report().unwrap().checks, "db").unwrap().age.unwrap();
    assert!((600..660).contains(&age.as_secs()), "{age:?}");
}
