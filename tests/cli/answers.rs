//! What each sub-command answers, to the letter; what its JSON holds.

use serde_json::Value;

use crate::session::{answer, is_as_expected, json, private_dir, shop};

#[test]
fn a_day_of_a_shop() {
    let dir = private_dir();
    shop(dir.path(), 150);
    is_as_expected(
        "shop.txt",
        dir.path(),
        &[
            "status",
            "runs",
            "errors",
            "errors declined",
            "spans",
            "spans --since 2026-11-20T15:00 --limit 2",
            "traces --limit 3",
            "traces --slowest --limit 3",
            "traces --failed --limit 3",
            "trace order-23",
            "trace order-35 --local",
            "trace nothing",
            "logs --limit 3",
            "logs level:warn -refused",
            "logs packed 'shelf:>70' -item:1 --limit 4 --oldest-first",
            "logs --level warn --target shop --span check_stock --field left=8",
            "logs --all type:shop.closed",
            "logs --since 2026-11-20T09:27 --until '2026-11-20 09:28' --local",
            "logs nowhere",
            "logs nowhere --exit-code",
            "tail -n 2",
            "sql 'SELECT level, count(*) AS lines FROM logs GROUP BY level ORDER BY 2 DESC'",
            "sql 'SELECT count(*) FROM logs WHERE timestamp < 0 OR id IS NULL OR :until < :since' --since 2026-11-20 --until 2026-11-21",
            "export --limit 2",
            "doctor --limit 1",
        ],
    );
}

#[test]
fn what_is_removed_by_hand() {
    let dir = private_dir();
    shop(dir.path(), 150);
    is_as_expected(
        "upkeep.txt",
        dir.path(),
        &[
            "prune",
            "prune --older-than yesterday",
            "prune --since -3h --until -1h",
            "prune --until 2099-01-01",
            "prune --until 2026-11-20T12:00 --dry-run",
            "prune --older-than 1h --warnings-older-than 900000h --dry-run",
            "prune --older-than 1h --warnings-older-than 900000h",
            "logs --limit 3",
            "prune --older-than 1h --json",
            "logs",
            "compact",
        ],
    );
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

#[test]
fn json_is_one_document_with_the_names_of_the_views() {
    let dir = private_dir();
    shop(dir.path(), 150);
    let dir = dir.path();
    let status = json(dir, "status --since 2026-11-20 --until 2026-11-21");
    assert_eq!((&status["runs"][0]["outcome"], &status["schema"]), (&"clean".into(), &6.into()));
    assert_eq!(status["summary"]["shed"], 0);
    let errors = json(dir, "errors");
    assert_eq!(
        rows(&errors).iter().map(|row| row["count"].as_u64().unwrap()).sum::<u64>(),
        status["summary"]["errors"]
    );
    assert!(errors[0]["sample"]["payload"].is_object() && errors[0]["first"].as_str() <= errors[0]["last"].as_str());
    let spans = json(dir, "spans");
    let of = |name: &str| rows(&spans).iter().find(|row| row["name"] == name).unwrap().clone();
    assert_eq!((&of("order")["count"], &of("charge")["count"]), (&150.into(), &150.into()));
    let (total, own) = (of("charge")["total_ms"].as_f64().unwrap(), of("charge")["self_ms"].as_f64().unwrap());
    assert!((total - own).abs() < 1e-6 && of("order")["self_ms"].as_f64().unwrap() < 1.0);
    let slowest = json(dir, "traces --slowest --limit 1");
    let trace = json(dir, &format!("trace {}", slowest[0]["correlation_id"].as_str().unwrap()));
    assert_eq!(trace["spans"][0]["duration_ms"], slowest[0]["duration_ms"]);
    assert_eq!(rows(&trace["spans"][0]["children"]).len() as u64 + 1, slowest[0]["spans"]);
    assert_eq!(json(dir, "runs")[0]["shed"], 0);
    let logs = json(dir, "logs --limit 7 level:info");
    assert_eq!(rows(&logs).len(), 7);
    assert!(logs[0]["timestamp"].as_str().unwrap().ends_with('Z') && logs[0]["payload"].is_object());
    assert_eq!(json(dir, "sql 'SELECT 1 AS b, 2 AS a, NULL AS c'"), serde_json::json!([{"b": 1, "a": 2, "c": null}]));
    let doctor = json(dir, "doctor");
    assert_eq!(doctor["is_well"], true);
    assert!(rows(&doctor["findings"]).iter().all(|finding| finding["grade"] == "ok"), "{doctor}");
    for nothing in ["logs nowhere", "errors nowhere", "traces --until 1999-01-01", "runs --until 1999-01-01"] {
        assert_eq!(json(dir, nothing), serde_json::json!([]), "{nothing}");
    }
    for lines in ["tail -n 5 --json", "export --limit 5"] {
        let lines: Vec<Value> = answer(dir, lines, 0).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 5);
    }
}

#[test]
fn pages_and_limits_give_every_line_once() {
    let dir = private_dir();
    shop(dir.path(), 60);
    let all = answer(dir.path(), "logs --limit 100000", 0);
    let (mut paged, mut after) = (String::new(), String::new());
    loop {
        let output = crate::session::l0(dir.path(), &crate::session::words(&format!("logs --limit 97{after}")))
            .output()
            .unwrap();
        paged.push_str(&crate::session::text(&output.stdout));
        let note = crate::session::text(&output.stderr);
        let Some((_, next)) = note.split_once("--after ") else { break };
        after = format!(" --after {}", next.split(',').next().unwrap());
    }
    assert!(all.lines().count() > 300);
    assert_eq!(all, paged);
}

/// The README's session is of this store, and of a terminal of a hundred columns.
#[test]
fn the_readme_shows_what_is_answered() {
    let dir = private_dir();
    shop(dir.path(), 2_000);
    let readme = include_str!("../../README.md");
    let (_, session) = readme.split_once("$ export L0_DIR=/tmp/shop COLUMNS=100\n").unwrap();
    let (session, _) = session.split_once("```").unwrap();
    let mut answered = String::new();
    let lines: Vec<&str> = session.lines().filter_map(|line| line.strip_prefix("$ l0 ")).collect();
    assert!(lines.len() >= 6);
    for line in lines {
        let output =
            crate::session::l0(dir.path(), &crate::session::words(line)).env("COLUMNS", "100").output().unwrap();
        let (shown, notes) = (crate::session::text(&output.stdout), crate::session::text(&output.stderr));
        answered.push_str(&format!("$ l0 {line}\n{shown}{notes}"));
    }
    // Where a terminal shows both, they stand in this order.
    assert_eq!(answered, session, "the README is not what the command answers; write there:\n{answered}");
}
