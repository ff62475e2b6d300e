//! The command, run as a person runs it: what is typed, what is answered, and with which exit code.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{OnceLock, mpsc},
    time::{Duration, Instant},
};

/// What a process chose by itself has a name in the expectations.
fn redactions(dir: &Path) -> snapbox::Redactions {
    let mut redactions = snapbox::Redactions::new();
    let regex = |pattern: &str| regex::Regex::new(pattern).unwrap();
    redactions.insert("[DIR]", dir.to_path_buf()).unwrap();
    for (name, pattern) in [
        ("[TIME]", r"20(?:2[7-9]|26-11-(?:2[1-9]|30)|26-12|[3-9]\d)[-0-9]*T\d\d:\d\d:\d\d(?:\.\d+)?Z"),
        ("[UUID]", r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
        ("[SIZE]", r" *\d+(?:\.\d+)? (?:[KM]i)?B\b"),
        ("[CURSOR]", r"--after (?<redacted>[enfs]\d+\.\d+)"),
        ("[LASTED]", r"(?<redacted> +\d+(?:\.\d+)? (?:ns|µs|ms|s)) +(?:running|killed|clean)"),
        ("[LASTING]", r"started(?<redacted> +lasted)"),
        ("[BEGUN]", r"started(?<redacted> +time)"),
        ("[FIGURES]", r"(?m)^event (?<redacted>.* %)$"),
        ("[TABLES]", r"indexes(?<redacted> +size.*)"),
        ("[TOTAL]", r"of (?<redacted>at least \d+|more) "),
        ("[PID]", r"\b(?:pid|process) (?<redacted>\d+)"),
        // In a table the widths of columns, too.
        ("[ITSPID]", r"(?:1\.4\.2|0\.0\.1|crash|idle)(?<redacted> +\d+)  "),
        ("[SPANID]", r#""span_id":"(?<redacted>[0-9a-f]{16})""#),
        ("[PIDS]", r"program(?<redacted> +pid)"),
    ] {
        redactions.insert(name, regex(pattern)).unwrap();
    }
    redactions
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_l0"));
    for name in ["L0_DIR", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS"] {
        command.env_remove(name);
    }
    command.env("TZ", "America/New_York").stdin(Stdio::null());
    command
}

/// The command, asked of a store.
pub fn l0(dir: &Path, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = command();
    command.env("L0_DIR", dir).args(args);
    command
}

pub fn l0_without_a_store(args: &[&str]) -> Command {
    let mut command = command();
    command.args(args);
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Asks; what it answers, and whether it ended with this exit code.
pub fn answer(dir: &Path, line: &str, exit_code: i32) -> String {
    let output = l0(dir, &words(line)).output().unwrap();
    assert_eq!(output.status.code(), Some(exit_code), "{line}: {}", text(&output.stderr));
    text(&output.stdout)
}

pub fn json(dir: &Path, line: &str) -> serde_json::Value {
    let output = l0(dir, &words(&format!("{line} --json"))).output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{line}: {error}: {} {}", text(&output.stdout), text(&output.stderr)))
}

/// As a shell would take them apart: quotes keep a word together.
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Waits until something holds; fails the test after a minute.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
    }
}

/// One command of a session, as it stands in an expectation.
pub fn asked(line: &str, output: &Output) -> String {
    let mut text = format!("$ l0 {line}\n{}", self::text(&output.stdout));
    for note in self::text(&output.stderr).lines() {
        text.push_str(&format!("! {note}\n"));
    }
    match output.status.code() {
        Some(0) => {}
        code => text.push_str(&format!("? {code:?}\n")),
    }
    text + "\n"
}

/// Compares a whole session with the file of this name; `SNAPSHOTS=overwrite` writes it anew.
pub fn is_as_expected(name: &str, dir: &Path, lines: &[&str]) {
    let session: String = lines.iter().map(|line| asked(line, &l0(dir, &words(line)).output().unwrap())).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cli").join(name);
    snapbox::Assert::new()
        .action_env("SNAPSHOTS")
        .redact_with(redactions(dir))
        .eq(session, snapbox::Data::read_from(&path, None));
}

/// One of the crate's examples, built as this test is.
pub fn example(name: &str) -> Command {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let examples = BUILT.get_or_init(|| {
        let profile = Path::new(env!("CARGO_BIN_EXE_l0")).parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--features", "cli", "--example", "shop", "--example", "crash"]);
        cargo.arg("--target-dir").arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(built.status.success(), "{}", text(&built.stderr));
        profile.join("examples")
    });
    let mut command = Command::new(examples.join(name));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).env_remove("L0_LOG").env_remove("RUST_LOG");
    command
}

/// A directory as private as a store's own.
pub fn private_dir() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap()
}

/// A store of so many orders of one simulated day, the same each time.
pub fn shop(dir: &Path, orders: u32) {
    let output = example("shop").env("L0_DIR", dir).args([&orders.to_string(), "2026-11-20T08:00:00Z"]).output();
    assert!(output.unwrap().status.success());
}

/// A process that is killed when the test is over, and what it prints.
pub struct Living {
    child: Child,
    lines: mpsc::Receiver<String>,
    notes: mpsc::Receiver<String>,
}

impl Living {
    pub fn start(command: &mut Command) -> Self {
        fn follow(pipe: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
            let (tell, lines) = mpsc::channel();
            let pipe = BufReader::new(pipe).lines().map_while(Result::ok);
            std::thread::spawn(move || pipe.map(|line| tell.send(line)).all(|told| told.is_ok()));
            lines
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, notes) = (follow(child.stdout.take().unwrap()), follow(child.stderr.take().unwrap()));
        Self { child, lines, notes }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line it prints; fails the test after a minute.
    pub fn line(&mut self) -> String {
        self.lines.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|error| {
            let (ended, notes) = (self.child.try_wait(), self.notes.try_iter().collect::<Vec<_>>());
            panic!("no further line is printed: {error}; it ended: {ended:?}; it said {notes:?}")
        })
    }

    /// With SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
