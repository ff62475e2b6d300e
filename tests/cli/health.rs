//! `l0 health`, and what `l0 status` says of it: of a program that lives, from beside it.

use std::{path::Path, time::Duration};

use l0::health::Status;

use crate::session::{answer, json, l0 as command, private_dir, text, wait_until, words};

/// It says nothing new for a minute then.
fn is_all_said(dir: &Path) -> bool {
    let checks = l0::health::HealthReader::open(dir).report().unwrap().checks;
    checks.len() > 1 && checks.iter().all(|check| check.age.is_some())
}

#[test]
fn what_checks_say_since_when_and_what_they_said_before() {
    let home = private_dir();
    let l0 = l0::builder().dir(home.path()).filter("info").start().unwrap();
    let output = command(home.path(), &words("health")).output().unwrap();
    assert!(text(&output.stderr).contains("no check is known here"), "{}", text(&output.stderr));
    let health = l0.health();
    health.register("db", || Status::Healthy).unwrap();
    health.check("cache", || Status::Unhealthy("cold \u{1b}[31m".to_owned())).tag("deep").register().unwrap();
    for name in ["db", "cache"] {
        health.check_now(name).unwrap();
    }
    l0.components().complete("migrations").unwrap();
    assert_eq!(health.history("cache", Duration::from_secs(60)).unwrap().len(), 1);
    wait_until("it has said how its checks stand", || is_all_said(home.path()));
    // A script sees that something is unhealthy.
    let output = command(home.path(), &words("health")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output.stdout);
    for part in ["cache", "unhealthy", "readiness", "cold", "db", "healthy", "component migrations complete"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains('\u{1b}'));
    let output = command(home.path(), &words("health --json")).output().unwrap();
    let rows: serde_json::Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    let row = rows["checks"].as_array().unwrap().iter().find(|row| row["name"] == "cache").unwrap();
    assert_eq!((&row["status"]["status"], &row["kind"]), (&"unhealthy".into(), &"readiness".into()));
    assert_eq!((&row["tags"], &row["is_optional"]), (&serde_json::json!(["deep"]), &false.into()));
    assert!(row["contiguous_failures"].as_u64() >= Some(1) && row["age_ms"].is_number(), "{row}");
    assert_eq!(rows["components"][0]["complete"], true);
    for at in [&row["since"], &rows["components"][0]["changed_at"]] {
        assert!(at.as_str().is_some_and(|at| at.starts_with("20") && at.ends_with('Z')), "{at}");
    }
    let status = answer(home.path(), "status", 0);
    assert!(status.contains("checks healthy; cache unhealthy: cold"), "{status}");
    let checks = json(home.path(), "status")["checks"].clone();
    assert_eq!(checks.as_array().unwrap().iter().find(|row| row["name"] == "cache").unwrap()["since"], row["since"]);
    // It is told, and no reason for a script to give up, what the program can do without.
    health.unregister("cache");
    health.check("cache", || Status::Unhealthy("cold".to_owned())).optional().register().unwrap();
    health.check_now("cache").unwrap();
    assert_eq!(health.history("cache", Duration::from_secs(60)).unwrap().len(), 2);
    let shown = answer(home.path(), "health", 0);
    assert!(shown.contains("unhealthy, optional"), "{shown}");
    health.unregister("cache");
    health.register("cache", || Status::Healthy).unwrap();
    health.check_now("cache").unwrap();
    let changes = answer(home.path(), "health cache", 0);
    for part in ["unhealthy", "healthy", "was not unhealthy for"] {
        assert!(changes.contains(part), "{part}: {changes}");
    }
    assert_eq!(json(home.path(), "health cache --limit 1")["changes"].as_array().unwrap().len(), 1);
    l0.shutdown(Duration::from_secs(5)).unwrap();
    // Of a program that has ended nothing is known any more, but what it said is.
    let output = command(home.path(), &words("health --exit-code")).output().unwrap();
    assert!(!text(&output.stdout).contains("cache"), "{}", text(&output.stdout));
    assert_eq!(text(&output.stdout), "component migrations complete\n");
    assert!(text(&output.stderr).contains("no check is known here"), "{}", text(&output.stderr));
    assert!(answer(home.path(), "health cache", 0).contains("unhealthy"));
}

#[test]
fn a_program_that_says_nothing_any_more_is_told() {
    let home = private_dir();
    let l0 = l0::builder().dir(home.path()).start().unwrap();
    l0.health().register("db", || Status::Healthy).unwrap();
    l0.health().check_now("db").unwrap();
    l0.health().check_now("l0.state").unwrap();
    l0.health().history("db", Duration::from_secs(60)).unwrap();
    wait_until("it has said how its checks stand", || is_all_said(home.path()));
    assert!(!answer(home.path(), "health", 0).contains("has said nothing"));
    let sql = "UPDATE health_run SET at = at - 600000000000; UPDATE health_change SET at = at - 600000000000";
    rusqlite::Connection::open(home.path().join("state.db")).unwrap().execute_batch(sql).unwrap();
    for line in ["health", "status"] {
        let output = text(&command(home.path(), &words(line)).output().unwrap().stdout);
        assert!(output.contains("its process has said nothing for 10"), "{output}");
    }
    assert_eq!(command(home.path(), &words("health")).output().unwrap().status.code(), Some(1));
}

#[test]
fn without_its_state_a_store_still_says_what_was_recorded() {
    let home = private_dir();
    let l0 = l0::builder().dir(home.path()).filter("info").start().unwrap();
    l0.record(l0::TelemetryEvent::new("order.placed"));
    l0.components().complete("migrations").unwrap();
    l0.shutdown(Duration::from_secs(5)).unwrap();
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(home.path().join(file));
    }
    std::fs::write(home.path().join("state.db"), "no database at all, though it has its name").unwrap();
    let output = command(home.path(), &words("status")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("order.placed"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("state.db"), "{}", text(&output.stderr));
    assert_eq!(json(home.path(), "status")["components"], serde_json::json!([]));
}
