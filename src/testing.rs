//! For tests: what did my code record?
//!
//! [`capture`] runs a closure and records everything it tells `tracing` into a store of its own, which the test then asks
//! like any other: typed questions, traces, SQL. Nothing global is touched, so tests run in parallel.
//!
//! ```
//! fn charge(order: u64) -> Result<(), &'static str> {
//!     tracing::error!(order, "card refused");
//!     Err("refused")
//! }
//!
//! let seen = l0::testing::capture(|| charge(9));
//! assert!(seen.result.is_err());
//! assert_eq!(seen.events().message("card refused").field("order", 9).count().unwrap(), 1);
//! ```
//!
//! Threads that the code starts record into the subscriber they inherit, which is none: pass the dispatcher on, as for
//! any scoped subscriber.
//!
//! ```
//! use tracing::dispatcher;
//! let seen = l0::testing::capture(|| {
//!     let here = dispatcher::get_default(Clone::clone);
//!     let worker = std::thread::spawn(move || dispatcher::with_default(&here, || tracing::info!("from the worker")));
//!     worker.join().unwrap();
//! });
//! assert_eq!(seen.logs().message("from the worker").fetch().unwrap().items.len(), 1);
//! ```
//!
//! A future is run inside, on an executor that polls it on this thread: `capture(|| block_on(future))`. Of a program that
//! has called [`init`](crate::init) a capture sees what the closure tells `tracing`, and the global subscriber does not.

mod job_queue;

pub use job_queue::job_queue;

use std::{fmt, ops::Deref, path::PathBuf, sync::OnceLock, time::Duration};

use tracing_core::{Dispatch, dispatcher, subscriber::NoSubscriber};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::{
    config::{Flight, Overload},
    l0::{Handle, L0, builder},
};

/// Small: a test records little, and many run at once.
const BUFFER_BYTES: u64 = 1 << 20;
/// Every question flushes; nothing else needs to.
const COMMIT_EVERY: Duration = Duration::from_secs(60);

/// What a closure recorded, and its result; derefs to [`Handle`] for questions. The store goes with the value.
#[derive(Debug)]
pub struct Captured<R> {
    /// What the closure returned.
    pub result: R,
    store: Store,
}

impl<R> Deref for Captured<R> {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.store.handle
    }
}

/// A throw-away store.
struct Store {
    /// Dropped, and with it shut down, before the directory goes.
    owner: Option<L0>,
    handle: Handle,
    dir: PathBuf,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.owner.take());
        // Left behind it is a few kilobytes in the system's directory for such things.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Runs `f` on this thread and records what it tells `tracing`, at every level, whatever the environment says. Redaction
/// is on, so a test can show that a secret is not recorded.
///
/// # Panics
/// If the system's directory for temporary files cannot be written; and as `f` does.
pub fn capture<R>(f: impl FnOnce() -> R) -> Captured<R> {
    let dir = std::env::temp_dir().join(format!("l0-capture-{}", uuid::Uuid::now_v7()));
    let started = builder()
        .dir(&dir)
        .filter("trace")
        .flight(Flight::Off)
        .buffer_bytes(BUFFER_BYTES)
        .commit_every(COMMIT_EVERY)
        .overload(Overload::Block(Duration::from_secs(30)))
        .start();
    let owner = match started {
        Ok(owner) => owner,
        Err(error) => panic!("l0::testing::capture needs a store in {}: {error}", dir.display()),
    };
    let store = Store { handle: owner.clone(), owner: Some(owner), dir };
    ask_every_thread();
    let subscriber = Dispatch::new(tracing_subscriber::registry().with(store.handle.layer()));
    let result = dispatcher::with_default(&subscriber, f);
    Captured { result, store }
}

/// While a process has a single dispatcher, `tracing-core` asks only the thread that meets a callsite first whether anyone
/// wants it: in a parallel test that has no subscriber, the answer is no for all. A second dispatcher makes it ask all.
fn ask_every_thread() {
    static SECOND: OnceLock<Dispatch> = OnceLock::new();
    SECOND.get_or_init(|| Dispatch::new(NoSubscriber::new()));
}
