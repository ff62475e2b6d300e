//! How the command behaves among others: pipes, terminals, exit codes, hostile text, directories.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::Stdio,
    time::Duration,
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tracing_subscriber::prelude::*;

use crate::session::{answer, json, l0, l0_without_a_store, private_dir, shop, text, words};

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let dir = private_dir();
    shop(dir.path(), 150);
    for line in ["logs --limit 100000", "export", "logs --limit 100000 --json", "tail -n 100000 -f"] {
        let mut child = l0(dir.path(), &words(line)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        // As `head -1` does: the pipe is full, and then closed.
        BufReader::with_capacity(1, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((text(&output.stderr).as_str(), output.status.code()), ("", Some(0)), "{line}");
        assert!(!first.is_empty());
    }
}

/// Runs the command on a terminal of so many columns.
fn on_a_terminal(dir: &Path, line: &str, columns: u16, settings: &[(&str, &str)]) -> String {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).and_then(|()| unlockpt(&master)).unwrap();
    let slave = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = fs::File::options().read(true).write(true).open(slave).unwrap();
    let size = Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&slave, size).unwrap();
    let mut command = l0(dir, &words(line));
    command.env("TERM", "xterm-256color").envs(settings.iter().copied());
    let mut child = command.stdout(Stdio::from(slave.try_clone().unwrap())).stderr(Stdio::from(slave)).spawn().unwrap();
    drop(command);
    let reading = std::thread::spawn(move || {
        // Its end is an error on Linux.
        let (mut master, mut seen) = (fs::File::from(master), Vec::new());
        let _ = master.read_to_end(&mut seen);
        String::from_utf8_lossy(&seen).replace("\r\n", "\n")
    });
    assert!(child.wait().unwrap().success(), "{line}");
    reading.join().unwrap()
}

#[test]
fn tables_fit_the_terminal_and_only_there_are_colours() {
    let dir = private_dir();
    shop(dir.path(), 150);
    let status = "status --since 2026-11-20 --until 2026-11-21";
    for line in
        [status, "errors", "spans", "traces --slowest", "trace order-23", "runs", "sql 'SELECT * FROM spans LIMIT 3'"]
    {
        for columns in [60, 80, 133] {
            let shown = on_a_terminal(dir.path(), line, columns, &[]);
            assert!(shown.contains("\u{1b}["), "{line}: {shown}");
            let plain = console::strip_ansi_codes(&shown).into_owned();
            // Sentences go on in the next line.
            let sentences = ["l0: ", "nothing is recording", "1,167 events, 14 errors from", "/", "database "];
            for row in plain.lines().filter(|row| !sentences.iter().any(|start| row.starts_with(start))) {
                assert!(console::measure_text_width(row) <= usize::from(columns), "{line} in {columns}: {row:?}");
            }
        }
        for settings in [&[("NO_COLOR", "1")][..], &[("TERM", "dumb")]] {
            let shown = on_a_terminal(dir.path(), line, 80, settings);
            assert!(!shown.contains('\u{1b}'), "{line} {settings:?}: {shown:?}");
        }
        assert!(!answer(dir.path(), line, 0).contains('\u{1b}'));
        assert!(answer(dir.path(), &format!("{line} --color always"), 0).contains("\u{1b}["));
    }
    let never = on_a_terminal(dir.path(), "errors --color never", 80, &[]);
    assert!(!never.contains('\u{1b}'), "{never:?}");
}

#[test]
fn hostile_text_is_shown_harmlessly() {
    const HOSTILE: &str =
        "\u{1b}[2J\u{1b}]0;owned\u{7}\rgone\n\u{202e}left\u{2066}\u{200f}\u{9b}31m\u{2028}\u{feff}\u{e0041}end";
    let dir = private_dir();
    let l0 = l0::builder().dir(dir.path()).service(HOSTILE).version(HOSTILE).start().unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(l0.layer()), || {
        let _span =
            tracing::error_span!("s", otel.name = HOSTILE, correlation_id = "order-1", text = HOSTILE).entered();
        tracing::error!(text = HOSTILE, tenant_id = HOSTILE, status = HOSTILE, category = HOSTILE, "{HOSTILE}");
    });
    l0.record(l0::TelemetryEvent::new(HOSTILE).source(HOSTILE).message(HOSTILE).severity(l0::Severity::Error));
    l0.audit(l0::TelemetryEvent::new(HOSTILE).source(HOSTILE).message(HOSTILE)).unwrap();
    l0.shutdown(Duration::from_secs(10)).unwrap();
    let is_hostile = |c: char| {
        c != '\n' && c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{e0041}')
    };
    for line in [
        "status",
        "runs",
        "logs --all",
        "tail",
        "errors",
        "traces",
        "trace order-1",
        "spans",
        "export",
        "doctor",
        "sql 'SELECT * FROM telemetry_events'",
        "sql 'SELECT * FROM spans'",
        "sql 'SELECT * FROM runs'",
    ] {
        for json in ["", " --json"] {
            let shown = answer(dir.path(), &format!("{line}{json}"), 0);
            assert!(!shown.contains(is_hostile), "{line}{json}: {shown:?}");
            assert!(shown.contains("gone") || line == "doctor", "{line}{json}: {shown}");
        }
    }
    assert_eq!(json(dir.path(), "logs")[0]["message"], HOSTILE, "JSON says what it was");
    // What is typed may come from elsewhere.
    let output = self::l0(dir.path(), &["trace", HOSTILE]).output().unwrap();
    assert!(!text(&output.stderr).contains(is_hostile), "{:?}", text(&output.stderr));
}

#[test]
fn errors_say_what_to_do_and_scripts_can_tell_them_apart() {
    let dir = private_dir();
    shop(dir.path(), 20);
    for (line, code, advice) in [
        ("logs level:loud", 2, "use trace, debug"),
        ("logs \"'open\"", 0, ""),
        ("logs 'say \"open'", 2, "closed"),
        ("logs --since soon", 2, "'2 days ago'"),
        ("logs --since 5", 2, "'2 days ago'"),
        ("prune --older-than 1h --limit 3", 2, "no --limit"),
        ("compact --since -3h", 2, "no --since"),
        ("prune --older-than 10:30:00", 2, "7d"),
        ("sql 'SELECT :sincere'", 2, ":since and :until"),
        ("trace order-7 --since 2099-01-01 --exit-code", 1, "began then"),
        ("status --since 2099-01-01 --exit-code", 1, ""),
        ("trace --help", 0, ""),
        ("help", 0, ""),
        ("logs --since -1h --until -2h", 2, "swap"),
        ("logs --after nonsense", 2, "cursor"),
        ("logs --limit 0", 2, "--limit"),
        ("logs --field order", 2, "--field order=9"),
        ("sql 'DROP TABLE event'", 2, "only questions"),
        ("sql 'SELECT nowhere'", 2, "no such column"),
        ("sql 'SELECT 1' --since -3h", 2, "at_unix_ns >= :since"),
        ("prune --older-than old", 2, "7d"),
        ("trace nothing", 1, "l0 traces"),
        ("errors nowhere", 0, "no errors"),
        ("errors nowhere --exit-code", 1, "no errors"),
        ("frobnicate", 2, "help"),
        ("export --output /nowhere/at/all.jsonl", 3, "choose another file"),
    ] {
        let output = l0(dir.path(), &words(line)).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        assert!(said.contains(advice), "{line}: {said}");
    }
    let path = dir.path().join("telemetry.db");
    let mut bytes = fs::read(&path).unwrap();
    for byte in &mut bytes[8_192..40_960] {
        *byte = 0xAA;
    }
    fs::write(&path, bytes).unwrap();
    let output = l0(dir.path(), &["doctor"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("PROBLEM") && text(&output.stdout).contains("doctor --salvage"));
    fs::write(&path, "").unwrap();
    let output = l0(dir.path(), &["logs"]).output().unwrap();
    assert!(text(&output.stderr).contains("nothing was ever recorded"), "{}", text(&output.stderr));
    fs::write(&path, "no database, but as long as a header of one would have to be, or longer than that: it is")
        .unwrap();
    let output = l0(dir.path(), &["logs"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("not a database of l0"), "{}", text(&output.stderr));
    assert_eq!(l0(dir.path(), &["doctor"]).output().unwrap().status.code(), Some(1));
}

#[test]
fn parameters_are_bound_by_name_and_a_limit_is_a_limit() {
    let dir = private_dir();
    shop(dir.path(), 20);
    let sql =
        "sql \"SELECT ':until' AS x, :until AS u, /* :since */ :since AS s\" --since 2026-11-20 --until 2026-11-21";
    let row = &json(dir.path(), sql)[0];
    assert_eq!((&row["s"], &row["u"]), (&1_795_132_800_000_000_000_i64.into(), &1_795_219_200_000_000_000_i64.into()));
    // More than an answer may have, but for the limit.
    let sql = "sql 'WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, hex(zeroblob(9999)) FROM n' --limit 3";
    assert_eq!(json(dir.path(), sql).as_array().unwrap().len(), 3);
    let shown = answer(dir.path(), "sql 'SELECT hex(zeroblob(1000000)) AS long'", 0);
    assert_eq!(shown.matches('0').count(), 2_000_000);
}

#[test]
fn phrases_are_phrases_also_when_they_are_negated() {
    let dir = private_dir();
    shop(dir.path(), 150);
    let count = |line: &str| json(dir.path(), &format!("logs --limit 10000 {line}")).as_array().unwrap().len();
    let (all, placed) = (count(""), count("'\"order placed\"'"));
    assert_eq!(placed, 150);
    for without in ["'-order placed'", "--not 'order placed'", "'-message:order placed'", "'-\"order placed\"'"] {
        assert_eq!(count(without), all - placed, "{without}");
    }
}

#[test]
fn a_follower_ends_when_nobody_reads() {
    let dir = private_dir();
    shop(dir.path(), 2);
    let mut child = l0(dir.path(), &["tail", "-f", "-n", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    // Nothing more will be recorded: it must notice by itself.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(child.wait().unwrap().success() && first.contains("order shipped"), "{first}");
}

#[test]
fn the_store_is_found_from_where_one_is() {
    let home = private_dir();
    let deep = home.path().join("src/deep");
    fs::create_dir_all(&deep).unwrap();
    let run = |args: &[&str], dir: &Path| l0_without_a_store(args).current_dir(dir).output().unwrap();
    let output = run(&["logs"], &deep);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("--dir"), "{}", text(&output.stderr));
    shop(&home.path().join(".l0"), 3);
    let found = |output: std::process::Output| {
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().count()
    };
    let lines = found(run(&["logs"], &deep));
    assert!(lines > 10);
    assert_eq!(found(run(&["logs"], &home.path().join(".l0"))), lines);
    assert_eq!(found(run(&["logs", "--dir", home.path().to_str().unwrap()], Path::new("/"))), lines);
    let other = private_dir();
    shop(other.path(), 1);
    let by_environment = l0(other.path(), &["logs"]).current_dir(&deep).output().unwrap();
    assert!(found(by_environment) < lines, "$L0_DIR goes before what is found");
    let output = run(&["logs", "--dir", "/nowhere"], &deep);
    assert!(output.status.code() == Some(3) && text(&output.stderr).contains("/nowhere"));
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(text(&run(&["logs", "--dir", file.to_str().unwrap()], &deep).stderr).contains("no directory"));
    let by_empty_variable = l0(Path::new(""), &["logs"]).current_dir(&deep).output().unwrap();
    assert_eq!(found(by_empty_variable), lines);
}

#[test]
fn every_sub_command_has_help_that_names_the_common_options() {
    let help = text(&l0_without_a_store(&["--help"]).output().unwrap().stdout);
    for name in [
        "status", "logs", "tail", "errors", "traces", "trace", "spans", "runs", "sql", "export", "doctor", "prune",
        "compact",
    ] {
        assert!(help.contains(&format!("\n  {name} ")), "{name} in {help}");
        let output = l0_without_a_store(&[name, "--help"]).output().unwrap();
        for option in ["--since", "--until", "--json", "--limit", "--dir", "--no-recover"] {
            assert!(text(&output.stdout).contains(option), "{name} {option}");
        }
    }
    assert!(help.contains("Exit codes"));
}
