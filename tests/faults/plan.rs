//! What a child process is asked to do, and the frames in which it reports what it did.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The environment variable with a child's [`Plan`] as JSON.
pub const PLAN: &str = "L0_FAULTS_PLAN";

/// How a child records or recovers, and how it dies.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The store's directory.
    pub dir: PathBuf,
    /// Identifies the child in its records, and names its run: the service is `child-N`.
    pub child: u32,
    pub role: Role,
    pub threads: u32,
    pub death: Death,
    pub commit_every_ms: u64,
    /// The flight file is in shared memory.
    pub shared_memory: bool,
    /// Threads wait for room in the buffer. Otherwise the buffer is small, a full buffer sheds records, and a thread
    /// acknowledges up to [`BURST`] records at once so that it is faster than the writer.
    pub blocks: bool,
    /// The child calls `install` instead of `start`, with the panic hook.
    pub installs: bool,
    /// The store's cap in bytes. A small cap makes recovery use small transactions.
    pub max_bytes: u64,
    /// The child waits for a shared lock on this file before it opens the store.
    pub gate: Option<PathBuf>,
    /// The child appends the name of each fail point that it reaches to this file.
    pub log_points_to: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Records until it dies.
    RecordUntilDeath,
    /// Makes this number of steps on each thread, flushes half-way, and shuts down.
    RecordAndShutDown { steps: u64 },
    /// Calls `l0::recover`.
    Recover,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Death {
    /// The child lives until its role is done.
    None,
    /// The parent sends SIGKILL.
    ByParent,
    /// The thread that makes record number `record` ends the process.
    AtRecord { way: Way, record: u64 },
    /// SIGKILL at a fail point, when it is reached for the `hit`-th time.
    AtPoint { name: String, hit: u64 },
}

/// Ways in which a process ends itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    Abort,
    Exit,
    /// A recording thread panics, and the panic ends the thread that owns the store, too.
    Unwind,
    /// A destructor panics while its thread unwinds.
    PanicInDrop,
    /// The panic hook aborts.
    AbortingHook,
    StackOverflow,
}

impl Way {
    pub const ALL: [Self; 6] =
        [Self::Abort, Self::Exit, Self::Unwind, Self::PanicInDrop, Self::AbortingHook, Self::StackOverflow];
}

/// Frames that a pipe takes with one indivisible write.
pub const BURST: usize = 200;

/// Exit code of [`Way::Exit`].
pub const EXIT_CODE: i32 = 7;
/// Exit code of a test binary with a test that panicked.
pub const PANIC_CODE: i32 = 101;

/// What a frame reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The child is about to open the store, or to wait at the gate.
    Ready,
    /// The start returned; `number` runs of dead processes were recovered.
    Started,
    /// Event `number` of `thread` was recorded.
    Event,
    /// Span `number` of `thread` was opened.
    Span,
    /// Audit `number` of `thread` returned `Ok`.
    Audit,
    /// Audit `number` of `thread` returned an error.
    RefusedAudit,
    /// Job `number` of `thread` was enqueued.
    Job,
    /// All records were made and the shutdown begins.
    Ending,
    /// The shutdown returned `Ok`.
    Ended,
    /// `l0::recover` returned; `number` runs of dead processes were recovered.
    Recovered,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Ready,
        Self::Started,
        Self::Event,
        Self::Span,
        Self::Audit,
        Self::RefusedAudit,
        Self::Job,
        Self::Ending,
        Self::Ended,
        Self::Recovered,
    ];

    /// Kinds that must be in the store once they are acknowledged.
    pub const RECORDS: [Self; 4] = [Self::Event, Self::Span, Self::Audit, Self::Job];
}

/// One report. It is written with one call, which a pipe never divides.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub kind: Kind,
    pub thread: u32,
    pub number: u64,
}

impl Frame {
    pub const BYTES: usize = 16;

    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = self.kind as u8;
        bytes[4..8].copy_from_slice(&self.thread.to_le_bytes());
        bytes[8..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            kind: Kind::ALL[usize::from(bytes[0])],
            thread: u32::from_le_bytes(*bytes[4..].first_chunk().unwrap()),
            number: u64::from_le_bytes(*bytes[8..].first_chunk().unwrap()),
        }
    }
}
