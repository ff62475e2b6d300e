//! The child process: it records from several threads, acknowledges each record, and dies as planned.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    hint::black_box,
    io::{Write as _, stdin},
    os::fd::AsFd as _,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use l0::{L0, TelemetryEvent, jobs::Job};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::{Span, info, info_span, warn};
use tracing_subscriber::prelude::*;

use super::plan::{BURST, Death, EXIT_CODE, Frame, Kind, PLAN, Plan, Role, Way};

/// A parent waits longer than this for a frame, so a child that hangs is reported by the parent.
const LONG: Duration = Duration::from_secs(60);
/// Events in one span.
const EVENTS_PER_SPAN: u64 = 50;

/// A durable job without a handler: it stays pending.
#[derive(Serialize, Deserialize)]
pub struct Pending {
    pub child: u32,
    pub thread: u32,
    pub number: u64,
}

impl Job for Pending {
    const KIND: &'static str = "pending";
    type Output = ();
}

/// Does nothing in the parent's process.
#[test]
fn child_process() {
    let Ok(plan) = std::env::var(PLAN) else { return };
    let plan: Plan = serde_json::from_str(&plan).unwrap();
    set_fail_points(&plan);
    let recorder = Recorder::new(plan);
    // The panic hook takes a panic of the thread `main` for the end of the process.
    let main = std::thread::Builder::new().name("main".to_owned()).spawn(move || recorder.run()).unwrap();
    if let Err(panic) = main.join() {
        resume_unwind(panic);
    }
}

fn set_fail_points(plan: &Plan) {
    let death = plan.death.clone();
    let log = plan.log_points_to.as_ref();
    let log = log.map(|path| OpenOptions::new().create(true).append(true).open(path).unwrap());
    let hits = Mutex::new(HashMap::<&str, u64>::new());
    l0::fail_point::set(move |name| {
        if let Some(mut log) = log.as_ref() {
            log.write_all(format!("{name}\n").as_bytes()).unwrap();
        }
        if let Death::AtPoint { name: wanted, hit } = &death
            && wanted == name
        {
            let mut hits = hits.lock();
            let count = hits.entry(name).or_default();
            *count += 1;
            if count == hit {
                kill_self();
            }
        }
    });
}

fn kill_self() -> ! {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    loop {
        std::thread::park();
    }
}

struct Recorder {
    plan: Plan,
    /// The write end of a pipe. Standard output and standard error carry texts of the test harness.
    pipe: File,
    records: AtomicU64,
    stops: AtomicBool,
}

impl Recorder {
    fn new(plan: Plan) -> Self {
        let pipe = File::from(stdin().as_fd().try_clone_to_owned().unwrap());
        Self { plan, pipe, records: AtomicU64::new(0), stops: AtomicBool::new(false) }
    }

    fn report(&self, kind: Kind, thread: u32, number: u64) {
        self.write(&Frame { kind, thread, number }.encode());
    }

    /// One call for at most [`BURST`] frames: a pipe does not mix them with those of other threads.
    fn write(&self, frames: &[u8]) {
        (&self.pipe).write_all(frames).unwrap();
    }

    fn run(&self) {
        self.report(Kind::Ready, 0, 0);
        if let Some(gate) = &self.plan.gate {
            File::open(gate).unwrap().lock_shared().unwrap();
        }
        if self.plan.role == Role::Recover {
            let found = l0::recover(&self.plan.dir).unwrap();
            assert_eq!((found.unreadable, found.postponed), (0, 0));
            return self.report(Kind::Recovered, 0, found.runs.into());
        }
        let l0 = self.open();
        self.report(Kind::Started, 0, l0.recovered().runs.into());
        let dispatch =
            (!self.plan.installs).then(|| tracing::Dispatch::new(tracing_subscriber::registry().with(l0.layer())));
        let record = |thread| match &dispatch {
            Some(dispatch) => tracing::dispatcher::with_default(dispatch, || self.record(&l0, thread)),
            None => self.record(&l0, thread),
        };
        match self.plan.threads {
            1 => record(0),
            threads => std::thread::scope(|scope| {
                for thread in 0..threads {
                    scope.spawn(move || record(thread));
                }
            }),
        }
        self.report(Kind::Ending, 0, 0);
        l0.shutdown(LONG).unwrap();
        self.report(Kind::Ended, 0, 0);
    }

    fn open(&self) -> L0 {
        let plan = &self.plan;
        let builder = l0::builder()
            .dir(&plan.dir)
            .service(&format!("child-{}", plan.child))
            .filter("info")
            .buffer_bytes(if plan.blocks { 2500 << 10 } else { 256 << 10 })
            .commit_every(Duration::from_millis(plan.commit_every_ms))
            .flight(if plan.shared_memory { l0::Flight::SharedMemory } else { l0::Flight::Directory })
            .overload(if plan.blocks { l0::Overload::Block(LONG) } else { l0::Overload::Shed })
            .retention(l0::Retention::default().max_bytes(plan.max_bytes))
            .panic_hook(true)
            .console(l0::Console::Off);
        let l0 = if plan.installs { builder.install() } else { builder.start() };
        let l0 = l0.unwrap();
        if matches!(plan.death, Death::AtRecord { way: Way::AbortingHook, .. }) {
            let previous = Arc::new(std::panic::take_hook());
            std::panic::set_hook(Box::new(move |info| {
                previous(info);
                std::process::abort();
            }));
        }
        l0
    }

    /// One thread's records. The step's number is the record's number.
    fn record(&self, l0: &L0, thread: u32) {
        let child = self.plan.child;
        let steps = match self.plan.role {
            Role::RecordAndShutDown { steps } => steps,
            Role::RecordUntilDeath | Role::Recover => u64::MAX,
        };
        let (mut span, mut burst) = (Span::none(), Vec::new());
        let mut acknowledge = |kind, number| self.acknowledge(&mut burst, Frame { kind, thread, number });
        for number in 0..steps {
            if self.stops.load(Ordering::Relaxed) {
                return;
            }
            if number % EVENTS_PER_SPAN == 0 {
                // Closes the last span before it opens the next, so that a thread has at most one open span.
                drop(std::mem::replace(&mut span, Span::none()));
                span = info_span!("fifty", child, thread, number);
                acknowledge(Kind::Span, number);
            }
            let begins_at = number - number % EVENTS_PER_SPAN;
            let shifted = number + 7 * u64::from(thread);
            if shifted % 61 == 5 {
                let payload = serde_json::json!({"child": child, "thread": thread, "number": number});
                match span.in_scope(|| l0.audit(TelemetryEvent::new("audited").payload(&payload))) {
                    Ok(()) => acknowledge(Kind::Audit, number),
                    Err(_) => acknowledge(Kind::RefusedAudit, number),
                }
            } else if shifted % 97 == 11 {
                l0.jobs().enqueue(Pending { child, thread, number }).unwrap();
                acknowledge(Kind::Job, number);
            } else {
                let padding = "x".repeat(shifted as usize * 31 % 200);
                span.in_scope(|| match number % 10 {
                    3 => warn!(child, thread, number, begins_at, padding, "recorded"),
                    _ => info!(child, thread, number, begins_at, padding, "recorded"),
                });
                acknowledge(Kind::Event, number);
            }
            if thread == 0 && number == steps / 2 {
                l0.flush().unwrap();
            }
        }
    }

    /// Counts a record and reports it, at once or with the thread's burst. The last record may be the process's end.
    fn acknowledge(&self, burst: &mut Vec<u8>, frame: Frame) {
        burst.extend(frame.encode());
        // Many threads have small bursts, so that each reports something before a death.
        let frames = if self.plan.blocks { 1 } else { BURST / self.plan.threads.min(20) as usize };
        if burst.len() == frames * Frame::BYTES {
            self.write(burst);
            burst.clear();
        }
        let count = self.records.fetch_add(1, Ordering::Relaxed) + 1;
        match self.plan.death {
            Death::AtRecord { way, record } if count == record => self.die(way),
            _ => {}
        }
    }

    fn die(&self, way: Way) {
        struct PanicsWhenDropped;
        impl Drop for PanicsWhenDropped {
            fn drop(&mut self) {
                panic!("a destructor panics");
            }
        }
        match way {
            Way::Abort => std::process::abort(),
            Way::Exit => std::process::exit(EXIT_CODE),
            Way::Unwind => {
                self.stops.store(true, Ordering::Relaxed);
                panic!("a recording thread panics");
            }
            Way::PanicInDrop => {
                let _dropped = PanicsWhenDropped;
                panic!("a recording thread panics");
            }
            Way::AbortingHook => panic!("the panic hook aborts"),
            Way::StackOverflow => _ = black_box(overflow(1)),
        }
    }
}

fn overflow(depth: u64) -> u64 {
    let block = black_box([depth; 256]);
    if depth == u64::MAX { 0 } else { overflow(depth + 1) + black_box(block)[7] }
}
