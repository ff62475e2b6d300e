//! Read connections: opened when needed, kept, read-only.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::{TELEMETRY, shared::Shared};
use crate::{
    database::{identity, open_reader},
    error::{Error, Result},
};

/// Idle connections that are kept.
const CONNECTIONS_KEPT: usize = 4;
/// How long a question waits for what was just recorded, before it answers from what is committed.
const FRESH_WITHIN: Duration = Duration::from_secs(2);

/// Where questions are answered from.
#[derive(Clone, Debug)]
pub(crate) struct Source(Arc<Inner>);

type Idle = (Option<(u64, u64)>, Connection);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// The writer to flush first, in the process that records.
    writer: Option<Arc<Shared>>,
    /// Idle connections, each with the file it is to.
    idle: Mutex<Vec<Idle>>,
}

impl Source {
    pub(crate) fn new(dir: &Path, writer: Option<Arc<Shared>>) -> Self {
        Self(Arc::new(Inner { dir: dir.to_owned(), writer, idle: Mutex::new(Vec::new()) }))
    }

    /// Closes the connections that wait for questions; the next question opens one.
    pub(crate) fn close_idle(&self) {
        self.0.idle.lock().clear();
    }

    /// Runs `question` on a read connection, after a bounded flush if `fresh`.
    ///
    /// A sick store does not stop a question: it is answered from what is committed.
    pub(crate) fn ask<R>(
        &self,
        fresh: bool,
        what: &str,
        question: impl FnOnce(&Connection) -> rusqlite::Result<R>,
    ) -> Result<R> {
        if let Some(writer) = &self.0.writer {
            if writer.flight.is_forked() {
                return Err(Error::closed());
            }
            if fresh && let Ok(ticket) = writer.ask() {
                let _ = writer.wait(ticket, FRESH_WITHIN);
            }
        }
        let identity = identity(&TELEMETRY, &self.0.dir);
        let idle = self.0.idle.lock().pop();
        let connection = match idle {
            Some((of, connection)) if of == identity => connection,
            _ => open_reader(&TELEMETRY, &self.0.dir)?,
        };
        let answer = question(&connection).map_err(|error| Error::sqlite(what, error))?;
        let mut idle = self.0.idle.lock();
        if idle.len() < CONNECTIONS_KEPT && connection.is_autocommit() {
            idle.push((identity, connection));
        }
        Ok(answer)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Closing a connection that a forked child inherited would release the parent's locks.
        if self.writer.as_ref().is_some_and(|writer| writer.flight.is_forked()) {
            std::mem::forget(std::mem::take(&mut *self.idle.lock()));
        }
    }
}
