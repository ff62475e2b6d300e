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
use support::{builder, wait_for};

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

/// What is seen outside, as JSON, but for what goes by two clocks.
fn text(check: &CheckReport) -> serde_json::Value {
    let mut value = serde_json::json!(check);
    value.as_object_mut().unwrap().retain(|name, _| !["age", "running_for"].contains(&name.as_str()));
    value
}

fn state(dir: &Path) -> Connection {
    let state = Connection::open(dir.join("state.db")).unwrap();
    state.busy_timeout(LONG).unwrap();
    state
}

/// The program says no more how its checks stand than it has by then; nor that it lives.
fn hush(state: &Connection) {
    state
        .execute_batch(
            "CREATE TRIGGER hush BEFORE UPDATE ON health_run WHEN new.checks <> 'x' BEGIN SELECT raise(IGNORE); END",
        )
        .unwrap();
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
    // Soon, and without a sign of life that is asked for.
    let inside = health.report().checks;
    let same = |known: &[CheckReport]| known.iter().map(text).eq(inside.iter().map(text));
    wait_for("the same", || same(&outside(&l0)));
    let known = outside(&l0);
    for (inside, known) in inside.iter().zip(&known) {
        let (inside_age, age) = (inside.age.unwrap(), known.age.unwrap());
        assert!(age <= inside_age + LONG, "{age:?} instead of {inside_age:?} of {}", inside.name);
    }
    let kinds = ["db", "loop", "cache", "warm"].map(|name| named(&known, name).unwrap().kind);
    assert_eq!(kinds, ["readiness", "liveness", "readiness", "startup"]);
    assert_eq!(named(&known, "cache").unwrap().tags, ["a", "b"]);
    assert!(named(&known, "proves itself").unwrap().since.is_none(), "nothing has been reported of it");
    let db = named(&known, "db").unwrap();
    assert!(db.contiguous_failures >= 3, "{db}");
    assert!(db.took.is_some());
    let page = HealthReader::open(dir.path()).report().unwrap().render(Format::Kubernetes);
    assert_eq!(page.body.lines().last(), health.report().render(Format::Kubernetes).body.lines().last());
    // One that has not run is known when the process has said so, and gone likewise.
    health.register("late", || Status::Healthy).unwrap();
    wait_for("one that has not run", || named(&outside(&l0), "late").is_some_and(|late| late.since.is_none()));
    health.unregister("late");
    wait_for("its end", || named(&outside(&l0), "late").is_none());
    // What changes is known at once, by the change alone, even by a clock that was set back.
    hush(&state(dir.path()));
    is_well.store(true, SeqCst);
    time.set_wall(Timestamp::from_unix_ns(Timestamp::now().as_unix_ns() - 60_000_000_000));
    time.advance(Duration::from_secs(31));
    health.check_now("db").unwrap();
    let known = outside(&l0);
    let db = named(&known, "db").unwrap();
    assert_eq!(
        (&db.status, db.contiguous_failures, db.kind, &*db.tags),
        (&Status::Healthy, 0, "readiness", &["deep".to_owned()][..])
    );
    assert!(db.age.is_none(), "not said");
    assert_eq!(named(&known, "cache").unwrap().tags, ["a", "b"]);
    health.unregister("db");
    assert!(named(&outside(&l0), "db").is_none());
    l0.shutdown(LONG).unwrap();
    let report = HealthReader::open(dir.path()).report().unwrap();
    assert!(report.checks.is_empty());
    assert_eq!(report.render(Format::Plain).status_code, 503, "nothing is known: {}", report.status);
    let signs: i64 = state(dir.path()).query_row("SELECT count(*) FROM health_run", [], |row| row.get(0)).unwrap();
    assert_eq!(signs, 0);
}

#[test]
fn of_very_many_the_changes_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, _time) = open(dir.path());
    for number in 0..1_000 {
        l0.health().check(&format!("check {number}"), || Status::Unhealthy("x".repeat(1_000))).register().unwrap();
    }
    l0.health().run_due().unwrap();
    let known = outside(&l0);
    assert_eq!(
        known.iter().filter(|check| check.name.starts_with("check ") && check.status != Status::Healthy).count(),
        1_000
    );
}

#[test]
fn a_run_that_has_ended_leaves_no_sign_of_life() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..30 {
        let (l0, _time) = open(dir.path());
        l0.health().check("proves itself", || Status::Healthy).pass_after(2).register().unwrap();
        if round % 3 == 0 {
            l0.health().check_now("l0.state").unwrap();
            l0.health().report().checks.iter().for_each(|check| assert!(l0.health().unregister(&check.name)));
        }
        l0.shutdown(LONG).unwrap();
        let signs: i64 =
            state(dir.path()).query_row("SELECT count(*) FROM health_run", [], |row| row.get(0)).unwrap_or(0);
        assert_eq!(signs, 0, "in round {round}");
    }
}

#[test]
fn of_two_processes_the_worse_and_of_one_that_left_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (one, _one_time) = open(dir.path());
    let (two, _two_time) = open(dir.path());
    one.health().register("db", || Status::Healthy).unwrap();
    two.health().check("db", || Status::Unhealthy("of two".to_owned())).tag("two").register().unwrap();
    // The program cannot do without the one, though both are unhealthy.
    two.health().register("disk", || Status::Degraded("of two".to_owned())).unwrap();
    one.health().check("disk", || Status::Unhealthy("of one".to_owned())).optional().register().unwrap();
    two.health().check("bus", || Status::Unhealthy("of two".to_owned())).register().unwrap();
    one.health().check("bus", || Status::Unhealthy("of one".to_owned())).optional().register().unwrap();
    let both = || {
        outside(&one);
        outside(&two)
    };
    // Who is better off speaks last.
    for l0 in [&two, &one] {
        for name in ["db", "disk", "bus"] {
            l0.health().check_now(name).unwrap();
        }
    }
    let are_worst = |known: &[CheckReport]| {
        assert_eq!(known.iter().filter(|check| check.name == "db").count(), 1);
        assert_eq!(named(known, "db").unwrap().tags, ["two"]);
        assert_eq!(named(known, "disk").unwrap().status.why(), Some("of one"));
        assert_eq!(named(known, "bus").unwrap().status.why(), Some("of two"), "which it cannot do without");
    };
    are_worst(&both());
    wait_for("what both say", || named(&both(), "db").unwrap().took.is_some());
    are_worst(&both());
    two.shutdown(LONG).unwrap();
    let known = outside(&one);
    assert_eq!((&named(&known, "db").unwrap().status, named(&known, "db").unwrap().tags.len()), (&Status::Healthy, 0));
}

#[test]
fn who_has_been_silent_is_not_believed_and_who_writes_otherwise_is_read_by_its_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (l0, time) = open(dir.path());
    l0.health().check("db", || Status::Unhealthy("no answer".to_owned())).optional().register().unwrap();
    l0.health().register("well", || Status::Healthy).unwrap();
    for name in ["db", "well", "l0.state"] {
        l0.health().check_now(name).unwrap();
        time.advance(Duration::from_secs(5));
    }
    let took = |name: &str| named(&outside(&l0), name).and_then(|check| check.took);
    wait_for("all it says", || took("db").and(took("well")).and(took("l0.state")).is_some());
    let (state, reader) = (state(dir.path()), HealthReader::open(dir.path()));
    hush(&state);
    let known = |name: &str| named(&reader.report().unwrap().checks, name).unwrap().clone();
    assert_eq!(known("well").status, Status::Healthy);
    assert!((l0.health().uptime("well", MINUTE).unwrap() - 1.0).abs() < 1e-9);
    // Ten minutes without a word.
    let silent =
        "DROP TRIGGER hush; UPDATE health_run SET at = at - 660000000000, checks_at = checks_at - 660000000000;
                  UPDATE health_change SET at = at - 660000000000";
    state.execute_batch(silent).unwrap();
    hush(&state);
    let well = known("well");
    assert!(well.status.why().unwrap().starts_with("its process has said nothing for 10m"), "{well}");
    assert!(well.status.why().unwrap().ends_with("before that: healthy"), "{well}");
    let age = well.age.unwrap();
    assert!((600..680).contains(&age.as_secs()), "{age:?}");
    let (_, observed) = reader.observed_uptime("well", 12 * MINUTE).unwrap();
    assert!((5..=10).contains(&observed.as_secs()), "nobody knows how it was since: {observed:?}");
    assert!(l0.health().uptime("well", 9 * MINUTE).is_ok(), "but it does");
    assert!(reader.uptime("well", 9 * MINUTE).is_err());
    // By a later l0.
    state
        .execute_batch(
            "DROP TRIGGER hush; UPDATE health_run SET at = at + 660000000000, checks = '[{\"name\":\"db\"}]'",
        )
        .unwrap();
    hush(&state);
    let db = known("db");
    assert_eq!((db.status.why(), db.is_optional, db.contiguous_failures), (Some("no answer"), true, 1));
    drop(l0);
    // One that has given no sign has been heard of by its changes.
    let row = "INSERT INTO health_change (name, run, at, after) VALUES ('old', 'old', ?1, '{\"status\":\"healthy\"}')";
    state.execute(row, [Timestamp::now().as_unix_ns()]).unwrap();
    assert_eq!(known("old").status, Status::Healthy);
    state.execute_batch("UPDATE health_change SET at = at - 660000000000 WHERE name = 'old'").unwrap();
    assert!(known("old").status.why().unwrap().contains("has said nothing for 11m"), "{}", known("old"));
    // One that has is not believed by a change of a time to come, as before a clock was set back.
    let sign = "INSERT INTO health_run (run, at) SELECT run, at FROM health_change WHERE name = 'old';
                UPDATE health_change SET at = at + 3600000000000 WHERE name = 'old'";
    state.execute_batch(sign).unwrap();
    assert!(known("old").status.why().unwrap().contains("has said nothing for 11m"), "{}", known("old"));
    state.execute_batch("DELETE FROM health_change WHERE name = 'old'").unwrap();
    // What a run left that has said nothing of any check is nothing.
    let left = "INSERT INTO health_run (run, at, checks, checks_at, change) VALUES ('gone', 0, ?1, 0, 9)";
    let one = serde_json::json!([{ "name": "ghost", "status": { "status": "healthy" }, "since": null, "age": null, "took": null,
        "contiguous_failures": 0, "is_optional": false, "kind": "readiness", "tags": [] }]);
    state.execute(left, [one.to_string()]).unwrap();
    assert!(reader.report().unwrap().checks.is_empty());
}

#[test]
fn eight_checks_that_hang_do_not_keep_a_process_from_saying_how_they_stand() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    let goes_on = Arc::new(AtomicBool::new(false));
    for number in 0..8 {
        let open = Arc::clone(&goes_on);
        let hang = move || {
            wait_for("the end of a check", || open.load(SeqCst));
            Status::Healthy
        };
        l0.health().check(&format!("hung {number}"), hang).timeout(Duration::from_millis(20)).register().unwrap();
    }
    wait_for("eight that hang", || {
        let known = outside(&l0);
        known.iter().filter(|check| check.name.starts_with("hung") && check.status.as_str() == "unhealthy").count() == 8
    });
    l0.health().register("ninth", || Status::Healthy).unwrap();
    wait_for("that the ninth has not run", || named(&outside(&l0), "ninth").is_some_and(|ninth| ninth.age.is_none()));
    goes_on.store(true, SeqCst);
}
