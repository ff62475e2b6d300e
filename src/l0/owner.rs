//! The owner: global installation, `Drop` and shutdown.

use std::{
    fmt,
    io::IsTerminal as _,
    ops::Deref,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing_subscriber::{layer::SubscriberExt as _, registry};

use super::{builder::Builder, handle::Handle};
use crate::{
    capture::{CaptureLayer, install_hook},
    clock::deadline,
    config::Console,
    database,
    error::{Error, Result},
};

static INSTALLED: OnceLock<Handle> = OnceLock::new();
/// One installation at a time, so that of two at once one is told what is wrong.
static INSTALLING: Mutex<()> = Mutex::new(());

/// How long dropping an owner may take.
const DROP_WITHIN: Duration = Duration::from_secs(5);

/// The handle that `init` or `install` set, once per process.
///
/// ```
/// assert!(l0::get().is_none(), "nothing was installed here");
/// ```
pub fn get() -> Option<&'static Handle> {
    INSTALLED.get()
}

/// Owns the recording of one store; derefs to [`Handle`], which can be cloned and sent.
///
/// After `start`, dropping it shuts down, within five seconds. After `init` or `install`, dropping it only flushes:
/// a forgotten guard never loses telemetry.
#[must_use = "dropping it ends the recording after start(); keep it, and shut it down at the end"]
pub struct L0 {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
    kind: Kind,
}

/// What dropping the owner means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Started,
    Installed,
}

impl L0 {
    pub(super) fn new(handle: Handle, thread: JoinHandle<()>, kind: Kind) -> Self {
        Self { handle, thread: Some(thread), kind }
    }

    /// Ends jobs, stores what is recorded, ends the run as `clean` and closes the store. What is recorded afterwards is only
    /// counted. Blocks for at most `timeout`.
    ///
    /// No durable job is begun any more. Those that run, and the closures that wait, have half of the time to be done, and a
    /// quarter to end when they are asked to: durable ones that do not are taken over by another process when this one is
    /// dead, or after half a minute, at no cost of an attempt.
    ///
    /// # Errors
    /// `is_timeout` or `is_storage` if the last records could not be stored in time; they stay in the flight file and
    /// are recovered by the next start. `is_closed` in a forked child.
    pub fn shutdown(mut self, timeout: Duration) -> Result<()> {
        self.end(timeout)
    }

    fn end(&mut self, timeout: Duration) -> Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let shared = self.handle.shared();
        if shared.flight.is_forked() {
            // The thread, and what it owns, exist only in the parent.
            std::mem::forget(thread);
            return Err(Error::closed());
        }
        let until = deadline(timeout);
        let left = || until.saturating_duration_since(Instant::now());
        self.handle.health().begin_end();
        // What runs has half of the time to be done, a quarter to heed that it should end; the writer has the rest.
        self.handle.jobs().stop(deadline(timeout / 2), deadline(timeout / 4 * 3));
        self.handle.health().stop(deadline(left() / 4));
        self.handle.timer().stop(left() / 4);
        while !self.handle.limits().tell_all(true) && left() > timeout / 8 {
            // There was no room in the flight recorder; unless the store is sick there soon is.
            if shared.ask().and_then(|ticket| shared.wait(ticket, left().min(timeout / 16))).is_err() {
                break;
            }
        }
        shared.flight.close();
        self.handle.source().close_idle();
        let outcome = shared.stop(left());
        database::waiting_within(left(), || self.handle.limits().finish(left()));
        self.handle.state().close(left());
        if outcome.is_ok() || thread.is_finished() {
            let _ = thread.join();
        }
        outcome
    }
}

impl Deref for L0 {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl fmt::Debug for L0 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("L0").field("dir", &self.handle.dir()).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Drop for L0 {
    fn drop(&mut self) {
        if self.thread.is_none() {
            return;
        }
        match self.kind {
            Kind::Started => {
                if std::thread::panicking() {
                    self.handle.shared().note_panicking();
                }
                // Whoever drops has nobody to tell; what could not be stored is recovered by the next start.
                let _ = self.end(DROP_WITHIN);
            }
            Kind::Installed if std::thread::panicking() => _ = self.handle.flush(),
            Kind::Installed => {
                let shared = self.handle.shared();
                if shared.flight.is_forked() {
                    return;
                }
                self.handle.limits().tell_all(false);
                let _ = shared.pause().and_then(|ticket| shared.wait(ticket, DROP_WITHIN));
            }
        }
    }
}

pub(super) fn install(builder: Builder) -> Result<L0> {
    let _installing = INSTALLING.lock();
    if let Some(handle) = get() {
        return Err(Error::already_initialized(format!(
            "l0 is already installed in this process and records into {}: use l0::get(), or builder().start() for a second store",
            handle.dir().display()
        )));
    }
    let config = builder.config().clone();
    let l0 = builder.start_as(Kind::Installed)?;
    let console = match config.console {
        Console::Off => false,
        Console::Stderr => true,
        Console::Auto => std::io::stderr().is_terminal(),
    };
    let lines = console.then(|| {
        let is_colored = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(is_colored).log_internal_errors(false)
    });
    let subscriber =
        registry().with(l0.handle.gate()).with(CaptureLayer::new(Arc::clone(l0.handle.capture()))).with(lines);
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        let _ = l0.shutdown(DROP_WITHIN);
        return Err(Error::already_initialized(
            "a tracing subscriber is already set in this process: attach l0 to it where it is made, with \
             .with(l0.layer()) after builder().start()",
        ));
    }
    if INSTALLED.set(l0.handle.clone()).is_err() {
        return Err(Error::already_initialized("l0 is already installed in this process: use l0::get()"));
    }
    bridge_log(&l0.handle);
    if config.panic_hook {
        install_hook(Arc::clone(l0.handle.capture()));
    }
    Ok(l0)
}

/// Records of the `log` crate become events; a logger that is already set keeps its place.
fn bridge_log(handle: &Handle) {
    let level = tracing_log::AsLog::as_log(&tracing::level_filters::LevelFilter::current());
    if tracing_log::LogTracer::builder().with_max_level(level).init().is_err() {
        handle
            .capture()
            .warn("l0.log_bridge", "another logger is set for the `log` crate: its records do not come here");
    }
}
