//! Child processes, seen from the parent.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufReader, PipeReader, Read as _},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::{Duration, Instant},
};

use super::plan::{Death, EXIT_CODE, Frame, Kind, PANIC_CODE, PLAN, Plan, Role, Way};

/// No child is silent for longer.
const SILENCE: Duration = Duration::from_secs(120);

const KILL: i32 = 9;
const ABORT: i32 = 6;

/// A child that may still run.
#[derive(Debug)]
pub struct Running {
    plan: Plan,
    child: Child,
    frames: Receiver<Frame>,
    acknowledged: BTreeMap<(Kind, u32), Vec<u64>>,
}

/// What a child that is dead reported, and how it ended.
#[derive(Clone, Debug)]
pub struct Witness {
    pub plan: Plan,
    pub status: ExitStatus,
    pub stderr: String,
    /// Numbers by kind and thread, in the order of their frames.
    pub acknowledged: BTreeMap<(Kind, u32), Vec<u64>>,
}

impl Running {
    pub fn spawn(plan: Plan) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::child_process", "--nocapture"])
            .env(PLAN, serde_json::to_string(&plan).unwrap())
            .stdin(writer)
            .stdout(Stdio::null())
            .stderr(File::create(stderr_of(&plan)).unwrap())
            .spawn()
            .unwrap();
        Self { plan, child, frames: frames_of(reader), acknowledged: BTreeMap::new() }
    }

    /// The next frame; `None` when the child has ended, or at the moment `until`.
    fn next(&mut self, until: Option<Instant>) -> Option<Frame> {
        let within = until.map_or(SILENCE, |until| until.saturating_duration_since(Instant::now()));
        match self.frames.recv_timeout(within) {
            Ok(frame) => {
                self.acknowledged.entry((frame.kind, frame.thread)).or_default().push(frame.number);
                Some(frame)
            }
            Err(RecvTimeoutError::Timeout) if until.is_none() => {
                let _ = self.child.kill();
                panic!("no frame for {SILENCE:?}: {:?}\n{}", self.plan, read_stderr(&self.plan));
            }
            Err(_) => None,
        }
    }

    /// Reads this number of frames, or fewer if the child ends before.
    pub fn read(&mut self, count: u64) {
        for _ in 0..count {
            if self.next(None).is_none() {
                break;
            }
        }
    }

    /// Reads frames for this time, or until the child ends.
    pub fn read_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while self.next(Some(until)).is_some() {}
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits for the child's end and reads what is left in the pipe.
    pub fn wait(mut self) -> Witness {
        while self.next(None).is_some() {}
        let status = self.child.wait().unwrap();
        let stderr = read_stderr(&self.plan);
        Witness { acknowledged: std::mem::take(&mut self.acknowledged), plan: self.plan.clone(), status, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn frames_of(pipe: PipeReader) -> Receiver<Frame> {
    // Bounded, so that a fast child waits for the parent.
    let (sender, receiver) = sync_channel(256);
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut bytes = [0; Frame::BYTES];
        while pipe.read_exact(&mut bytes).is_ok() && sender.send(Frame::decode(&bytes)).is_ok() {}
    });
    receiver
}

fn stderr_of(plan: &Plan) -> std::path::PathBuf {
    plan.dir.with_file_name(format!("stderr-{}", plan.child))
}

fn read_stderr(plan: &Plan) -> String {
    let text = fs::read(stderr_of(plan)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    text.chars().take(2_000).collect()
}

impl Witness {
    pub fn reported(&self, kind: Kind) -> bool {
        self.acknowledged.contains_key(&(kind, 0))
    }

    /// Whether it ended before its role was done.
    pub fn died(&self) -> bool {
        !self.status.success()
    }

    /// Runs of dead processes that it recovered.
    pub fn recovered_runs(&self) -> u64 {
        let of = |kind| self.acknowledged.get(&(kind, 0)).map_or(0, |numbers| numbers[0]);
        of(Kind::Started) + of(Kind::Recovered)
    }

    /// How the process ended otherwise than planned.
    pub fn wrong_end(&self) -> Option<String> {
        let (signal, code) = (self.status.signal(), self.status.code());
        let is_right = match self.plan.death {
            Death::None => code == Some(0),
            // A child may be done before it is killed, or before it reaches the point.
            Death::ByParent | Death::AtPoint { .. } => {
                signal == Some(KILL) || code == Some(0) && self.plan.role != Role::RecordUntilDeath
            }
            Death::AtRecord { way: Way::Exit, .. } => code == Some(EXIT_CODE),
            Death::AtRecord { way: Way::Unwind, .. } => code == Some(PANIC_CODE),
            Death::AtRecord { .. } => signal == Some(ABORT),
        };
        (!is_right).then(|| format!("child {} ended with {}: {}", self.plan.child, self.status, self.stderr))
    }

    /// The outcomes that its run may have.
    pub fn outcomes(&self) -> &'static [&'static str] {
        let hook_marks = self.plan.installs && self.plan.threads == 1;
        match &self.plan.death {
            _ if !self.died() || self.reported(Kind::Ended) => &["clean"],
            Death::AtRecord { way: Way::Unwind, .. } => &["panicked"],
            Death::AtRecord { way: Way::PanicInDrop | Way::AbortingHook, .. } if hook_marks => &["panicked"],
            // The run is marked as ended before its flight file is removed.
            Death::AtPoint { name, .. } if name.starts_with("writer") && name.ends_with("_remove_flight_file") => {
                &["clean"]
            }
            _ if self.reported(Kind::Ending) => &["killed", "clean"],
            _ => &["killed"],
        }
    }
}
