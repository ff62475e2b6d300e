//! Stores in every state a person may find one in.

use std::{
    collections::BTreeMap,
    fs,
    hash::{Hash as _, Hasher as _},
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    time::Duration,
};

use crate::session::{Living, answer, example, is_as_expected, json, l0, private_dir, shop, text, wait_until, words};

/// The store that the example `crash` leaves: nothing was committed but its spans.
fn killed(home: &Path) -> std::path::PathBuf {
    let output = example("crash").env("TMPDIR", home).output().unwrap();
    assert!(!output.status.success(), "it kills itself");
    home.join("l0-crash-example")
}

/// Name of every file, and a number that tells its content.
fn content(dir: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let name = entry.file_name().to_str().unwrap().to_owned();
        if entry.path().is_dir() {
            found.extend(content(&entry.path()).into_iter().map(|(inner, hash)| (format!("{name}/{inner}"), hash)));
        } else {
            let mut hasher = std::hash::DefaultHasher::new();
            fs::read(entry.path()).unwrap().hash(&mut hasher);
            found.insert(name, hasher.finish());
        }
    }
    found
}

#[test]
fn a_killed_process() {
    let home = private_dir();
    let dir = killed(home.path());
    is_as_expected(
        "killed.txt",
        &dir,
        &[
            "logs --no-recover",
            "runs --no-recover",
            "logs --limit 2",
            "runs",
            "logs 'power is going'",
            "spans",
            "traces",
            "sql \"SELECT name, state FROM spans\"",
            "errors",
        ],
    );
    let trace = json(&dir, "traces")[0]["correlation_id"].as_str().unwrap().to_owned();
    let tree = answer(&dir, &format!("trace {trace} --limit 5"), 0);
    assert!(tree.contains("night_job") && tree.contains("cut short") && tree.contains('░'), "{tree}");
    assert_eq!(json(&dir, "logs chunk --limit 5000").as_array().unwrap().len(), 1_000);
}

#[test]
fn an_empty_store() {
    let dir = private_dir();
    ::l0::builder().dir(dir.path()).service("idle").start().unwrap().shutdown(Duration::from_secs(10)).unwrap();
    let lines = [
        "runs",
        "logs",
        "tail",
        "errors",
        "traces",
        "spans",
        "sql 'SELECT message FROM logs'",
        "export",
        "trace x",
        "prune --older-than 1h",
        "compact",
        "errors --exit-code",
    ];
    is_as_expected("empty.txt", dir.path(), &lines);
    for line in lines.iter().filter(|line| !line.contains("export")) {
        let output = l0(dir.path(), &words(&format!("{line} --json"))).output().unwrap();
        let answer = text(&output.stdout);
        assert!(answer.is_empty() || serde_json::from_str::<serde_json::Value>(&answer).is_ok(), "{line}: {answer}");
    }
    assert_eq!(json(dir.path(), "status")["summary"]["events"], 0);
}

#[test]
fn limits_of_an_hour() {
    use ::l0::limits::{Quota, ScopeConfig};
    let dir = private_dir();
    let (clock, time) = ::l0::Clock::manual(::l0::Timestamp::from_unix_ns(1_700_002_800_000_000_000));
    let l0 = ::l0::builder().dir(dir.path()).clock(clock).start().unwrap();
    let minute = Duration::from_secs(60);
    let define = |name: &str, config: ScopeConfig| l0.limits().define(name, config).unwrap();
    let api = define("api", ScopeConfig::new(Quota::per_minute(3)).keyed().public_keys());
    let login = ScopeConfig::new(Quota::per_minute(1)).keyed().public_keys().lock_out(2, minute, minute * 60);
    let login = define("login", login);
    let search = define("search", ScopeConfig::new(Quota::per_minute(2)).dry_run().warn_at(0.9));
    for n in 0..5 {
        let _scope = ::l0::correlation::enter(format!("request-{n}").parse().unwrap());
        let _ = (api.check_key("ada"), login.check_key("eve \x1b[2J"), search.check());
        time.advance(Duration::from_secs(1));
    }
    l0.shutdown(Duration::from_secs(10)).unwrap();
    let lines = ["limits", "limits --until 2020-01-01", "limits --since 2023-11-14T23:00:00Z --limit 1"];
    is_as_expected("limits.txt", dir.path(), &lines);
    let report = json(dir.path(), "limits");
    assert_eq!((&report["scopes"][0]["scope"], &report["scopes"][0]["counts"]["denied"]), (&"login".into(), &4.into()));
    assert_eq!(report["lock_outs"][0]["event_type"], "limit.lock_out");
}

#[test]
fn earlier_schemas_are_read_and_left_as_they_are() {
    for schema in ["schema-1", "schema-2", "schema-3", "schema-4"] {
        let dir = private_dir();
        let path = dir.path().join("telemetry.db");
        let fixture = fs::read_to_string(format!("{}/tests/data/{schema}.sql", env!("CARGO_MANIFEST_DIR"))).unwrap();
        rusqlite::Connection::open(&path).unwrap().execute_batch(&fixture).unwrap();
        let before = content(dir.path());
        is_as_expected(
            "earlier.txt",
            dir.path(),
            &[
                "sql 'SELECT name, count(*) AS spans FROM spans GROUP BY name'",
                "sql 'SELECT service, version, outcome, stored, shed FROM runs'",
                "sql 'SELECT severity, count(*) AS events FROM telemetry_events GROUP BY severity'",
            ],
        );
        let errors = json(dir.path(), "errors");
        assert_eq!((&errors[0]["count"], &errors[0]["message"]), (&3.into(), &"card refused".into()));
        let trace = errors[0]["correlation_id"].as_str().unwrap();
        assert!(answer(dir.path(), &format!("trace {trace}"), 0).contains("card refused"));
        assert_eq!(json(dir.path(), "traces --failed").as_array().unwrap().len(), 3);
        assert!(answer(dir.path(), "spans", 0).contains("charge"));
        assert!(answer(dir.path(), "status", 0).contains("fixture 0.0.1"));
        assert_eq!(answer(dir.path(), "export", 0).lines().count(), 61);
        assert!(answer(dir.path(), "doctor", 0).contains("brings it up to date"));
        assert_eq!(content(dir.path()), before, "{schema}");
    }
}

#[test]
fn a_protected_copy_of_a_killed_store_tells_all_and_is_not_touched() {
    let home = private_dir();
    let dir = killed(home.path());
    let protect = |mode| {
        for path in [dir.join("flight"), dir.clone()] {
            for entry in fs::read_dir(&path).unwrap().flatten().filter(|entry| entry.path().is_file()) {
                fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode)).unwrap();
            }
            fs::set_permissions(path, fs::Permissions::from_mode(mode | (mode & 0o400) >> 2)).unwrap();
        }
    };
    protect(0o400);
    let before = content(&dir);
    assert!(before.keys().any(|name| name.ends_with(".flight")) && before.contains_key("telemetry.db-wal"));
    assert_eq!(json(&dir, "logs chunk --limit 5000").as_array().unwrap().len(), 1_000);
    assert_eq!(json(&dir, "runs")[0]["outcome"], "killed");
    assert_eq!(json(&dir, "logs --no-recover").as_array().unwrap().len(), 0);
    for refused in ["prune --older-than 1h", "compact"] {
        let output = l0(&dir, &words(refused)).output().unwrap();
        assert!(text(&output.stderr).contains("write-protected"), "{refused}: {}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(3));
    }
    assert_eq!(content(&dir), before);
    protect(0o600);
}

#[test]
fn another_users_store_is_read_and_nothing_is_recovered() {
    // Only root can give a store away, and read it then.
    if rustix::process::geteuid().is_root() {
        let home = private_dir();
        let dir = killed(home.path());
        chown(&dir, Some(12_345), Some(12_345)).unwrap();
        let output = l0(&dir, &["logs"]).output().unwrap();
        assert!(text(&output.stderr).contains("belongs to another user"), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty() && output.status.success());
        let status = answer(&dir, "status", 0);
        assert!(status.contains("vanished") && !status.contains(" recording;"), "{status}");
        assert_eq!(fs::read_dir(dir.join("flight")).unwrap().count(), 1);
        let output = l0(&dir, &["prune", "--older-than", "1h"]).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
    }
}

#[test]
fn a_living_process_is_followed_to_its_last_words() {
    let dir = private_dir();
    let mut shop = Living::start(example("shop").env("L0_DIR", dir.path()));
    assert!(shop.line().contains("takes orders"));
    let mut tail = Living::start(&mut l0(dir.path(), &["tail", "-f", "-n", "0", "--json"]));
    let mut last = 0;
    let mut order_of = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let id = row["correlation_id"].as_str().unwrap().strip_prefix("order-").unwrap().parse::<u64>().unwrap();
        assert!(id >= last, "in their order");
        last = id;
        id
    };
    let first = order_of(&tail.line());
    while order_of(&tail.line()) < first + 3 {}
    assert!(answer(dir.path(), "status", 0).contains("recording"));
    assert_eq!(json(dir.path(), "runs")[0]["pid"], shop.pid());
    let doctor = json(dir.path(), "doctor");
    assert_eq!(doctor["flight_files"][0]["state"], "in_use", "{doctor}");
    shop.kill();
    // What it had not committed is recovered by who follows it.
    wait_until("its run has ended", || json(dir.path(), "runs --no-recover")[0]["outcome"] == "killed");
    let rows = json(dir.path(), "logs --limit 100000 --no-recover");
    let newest = rows[0]["correlation_id"].as_str().unwrap().strip_prefix("order-").unwrap().parse::<u64>().unwrap();
    while order_of(&tail.line()) < newest {}
    assert_eq!(json(dir.path(), "doctor")["flight_files"], serde_json::json!([]));
}

#[test]
fn the_last_words_are_told_beside_those_who_go_on() {
    let dir = private_dir();
    let mut one = Living::start(example("shop").env("L0_DIR", dir.path()));
    let mut other = Living::start(example("shop").env("L0_DIR", dir.path()));
    assert!(one.line().contains("takes orders") && other.line().contains("takes orders"));
    let mut tail = Living::start(&mut l0(dir.path(), &["tail", "-f", "-n", "0", "--json"]));
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_i64().unwrap();
    let first = id(&tail.line());
    let run = json(dir.path(), &format!("sql 'SELECT id FROM runs WHERE pid = {}'", one.pid()))[0]["id"].clone();
    one.kill();
    // Its lines, once they are recovered by who follows.
    let ended = format!("sql \"SELECT count(*) AS n FROM runs WHERE id = {run} AND outcome = 'killed'\" --no-recover");
    wait_until("its run has ended", || json(dir.path(), &ended)[0]["n"] != 0);
    let lines =
        json(dir.path(), &format!("sql 'SELECT id FROM logs WHERE run_id = {run} AND id >= {first}' --no-recover"));
    let mut missing: std::collections::BTreeSet<i64> =
        lines.as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect();
    assert!(!missing.is_empty());
    missing.remove(&first);
    while !missing.is_empty() {
        missing.remove(&id(&tail.line()));
    }
    // Who records is told, however many have come and gone.
    for _ in 0..6 {
        shop(dir.path(), 1);
    }
    assert!(answer(dir.path(), "status", 0).contains(&format!("(pid {}) recording", other.pid())));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes long without --release")]
fn a_million_events() {
    let dir = private_dir();
    shop(dir.path(), 130_000);
    let count = answer(dir.path(), "sql 'SELECT count(*) AS events FROM telemetry_events'", 0);
    let count: u64 = count.lines().nth(1).unwrap().trim().parse().unwrap();
    assert!(count > 1_000_000, "{count}");
    is_as_expected(
        "million.txt",
        dir.path(),
        &[
            "errors",
            "spans",
            "traces --slowest --limit 3",
            "trace order-77777",
            "logs 'left:<2' --limit 3",
            "status",
            "runs",
            "tail -n 1",
            "sql 'SELECT severity, count(*) AS events FROM telemetry_events GROUP BY severity'",
        ],
    );
    let exported = dir.path().join("all.jsonl");
    let output = l0(dir.path(), &["export", "--output", exported.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines = fs::read_to_string(&exported).unwrap();
    assert_eq!(lines.lines().count() as u64, count);
    assert!(json(dir.path(), "doctor")["is_well"].as_bool().unwrap());
}
