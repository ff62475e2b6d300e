//! Child processes: the test binary runs itself again, as one named test, with a role in the environment.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

const ROLE: &str = "L0_FAULTS_ROLE";
/// Separates the words of a role.
const SEPARATOR: char = '\n';
/// Replies begin with it, because the test harness prints to the same pipe.
const MARK: char = '@';
/// How long a child may take for a reply.
const REPLY_WITHIN: Duration = Duration::from_secs(60);
/// The pause between two polls.
const POLL_EVERY: Duration = Duration::from_millis(5);

/// The role of this process and its arguments; `None` in the process that runs the tests.
pub fn role() -> Option<Vec<String>> {
    let role = std::env::var(ROLE).ok()?;
    Some(role.split(SEPARATOR).map(str::to_owned).collect())
}

/// How many rounds a test runs: `short`, or `long` with `L0_FAULTS_LONG=1`.
pub fn rounds(short: usize, long: usize) -> usize {
    if std::env::var_os("L0_FAULTS_LONG").is_some() { long } else { short }
}

/// Polls until `probe` returns a value, at most `within`.
pub fn poll<R>(within: Duration, mut probe: impl FnMut() -> Option<R>) -> Option<R> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL_EVERY);
    }
}

/// As [`poll`], for a condition.
pub fn holds_within(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    poll(within, || condition().then_some(())).is_some()
}

/// A path as an argument of a role.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of throw-away directories are UTF-8")
}

fn command(test: &str, role: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ROLE, role.join(&SEPARATOR.to_string()));
    command
}

/// Runs `test` in a child with this role, to its end. Panics with its output if it fails.
pub fn run(test: &str, role: &[&str]) -> String {
    let output = command(test, role).stdin(Stdio::null()).output().unwrap();
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "child {role:?}: {}\n{stderr}", output.status);
    stdout.into_owned()
}

/// Sends a reply to the parent.
pub fn reply(text: &str) {
    println!("\n{MARK}{}", text.replace('\n', " "));
}

/// The commands of the parent, in their order.
pub fn commands() -> impl Iterator<Item = String> {
    std::io::stdin().lines().map_while(Result::ok)
}

/// A child that takes commands. It is killed when the value is dropped.
pub struct Child {
    process: std::process::Child,
    input: ChildStdin,
    replies: Receiver<String>,
}

impl Child {
    pub fn start(test: &str, role: &[&str]) -> Self {
        let mut process = command(test, role).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, replies) = channel();
        let output = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(reply) = line.strip_prefix(MARK) {
                    let _ = sender.send(reply.to_owned());
                }
            }
        });
        Self { input: process.stdin.take().unwrap(), process, replies }
    }

    /// Sends a command and waits for its reply.
    pub fn ask(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").unwrap();
        let reply = self.replies.recv_timeout(REPLY_WITHIN);
        reply.unwrap_or_else(|error| panic!("no reply to {command:?}: {error}; {:?}", self.process.try_wait()))
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends the child with SIGKILL.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
