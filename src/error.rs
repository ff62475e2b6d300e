//! The one error type of the crate, opaque, with predicates for what a caller may want to branch on.
//!
//! Everything that can fail returns [`Result`]. Third-party errors are kept as sources and never appear in a
//! signature, so a new version of SQLite's binding is not a breaking change of l0.

use std::{error::Error as StdError, fmt, io, path::Path, sync::Arc};

/// `std::result::Result` with l0's [`Error`] as the default error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, on what, and what to do about it.
///
/// Cheap to clone. Use the predicates to branch, `Display` for people and `source()` for the cause.
///
/// ```
/// let error = l0::builder().filter("shop=verbose").start().unwrap_err();
/// assert!(error.is_config());
/// assert!(error.to_string().contains("shop=verbose"));
/// ```
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

struct Inner {
    kind: Kind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    /// A database's file is damaged, though SQLite has not reported it.
    is_damage: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Storage,
    Config,
    Closed,
    Timeout,
    AlreadyInitialized,
    InvalidInput,
}

impl Error {
    /// The store could not be opened, read or written: directory, permissions, disk, database.
    pub fn is_storage(&self) -> bool {
        self.inner.kind == Kind::Storage
    }

    /// A setting is wrong: filter text, sizes, the directory's kind.
    pub fn is_config(&self) -> bool {
        self.inner.kind == Kind::Config
    }

    /// l0 was shut down, or this is a forked child: nothing is recorded or answered any more.
    pub fn is_closed(&self) -> bool {
        self.inner.kind == Kind::Closed
    }

    /// The bound of a blocking call passed before it was done.
    pub fn is_timeout(&self) -> bool {
        self.inner.kind == Kind::Timeout
    }

    /// l0, or another `tracing` subscriber, is already installed in this process.
    pub fn is_already_initialized(&self) -> bool {
        self.inner.kind == Kind::AlreadyInitialized
    }

    /// An argument of a call is malformed: an id, a cursor, SQL.
    pub fn is_invalid_input(&self) -> bool {
        self.inner.kind == Kind::InvalidInput
    }

    /// What SQLite reported, if it is the cause.
    pub(crate) fn sqlite_code(&self) -> Option<rusqlite::ErrorCode> {
        self.inner.source.as_ref()?.downcast_ref::<rusqlite::Error>()?.sqlite_error_code()
    }

    /// Whether SQLite found that a file is damaged, or is no database at all. An error of the disk is neither.
    pub(crate) fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        self.inner.is_damage || matches!(self.sqlite_code(), Some(DatabaseCorrupt | NotADatabase))
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { inner: Arc::new(Inner { kind, message: message.into(), source: None, is_damage: false }) }
    }

    fn with_source(kind: Kind, message: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { inner: Arc::new(Inner { kind, message: message.into(), source: Some(source.into()), is_damage: false }) }
    }

    #[cold]
    pub(crate) fn storage(message: impl Into<String>) -> Self {
        Self::new(Kind::Storage, message)
    }

    /// Of a file that is damaged in a way that SQLite has not noticed.
    #[cold]
    pub(crate) fn damage(message: impl Into<String>) -> Self {
        Self { inner: Arc::new(Inner { kind: Kind::Storage, message: message.into(), source: None, is_damage: true }) }
    }

    #[cold]
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }

    #[cold]
    pub(crate) fn closed() -> Self {
        Self::new(Kind::Closed, "l0 is closed: it was shut down, or this is a forked child process")
    }

    #[cold]
    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::new(Kind::Timeout, message)
    }

    #[cold]
    pub(crate) fn already_initialized(message: impl Into<String>) -> Self {
        Self::new(Kind::AlreadyInitialized, message)
    }

    #[cold]
    pub(crate) fn invalid_input(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidInput, message)
    }

    /// `what` says what was tried, as in "cannot create the store's directory".
    #[cold]
    pub(crate) fn io(what: &str, path: &Path, error: io::Error) -> Self {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "; choose a directory this user may write to, with builder().dir(..) or $L0_DIR"
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space and try again",
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "; a file stands where a directory is needed: move it or choose another directory"
            }
            _ => "",
        };
        Self::with_source(Kind::Storage, format!("{what} {}: {error}{hint}", path.display()), error)
    }

    /// Of a place that has no path: an output of the caller's.
    #[cold]
    pub(crate) fn output(what: &str, error: io::Error) -> Self {
        Self::with_source(Kind::Storage, format!("{what}: {error}"), error)
    }

    #[cold]
    pub(crate) fn sqlite(what: &str, error: rusqlite::Error) -> Self {
        let hint = match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => {
                "; free some space: what records goes on by itself then, what starts must be started again"
            }
            Some(rusqlite::ErrorCode::SystemIoFailure) => "; the disk may be full or failing",
            Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::CannotOpen) => {
                "; check that the directory and its files belong to this user and are writable"
            }
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                "; the file is damaged, or is not a database of l0: end the programs that use it, save what can be read with `l0 doctor --salvage FILE`, and move the file away"
            }
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                "; another process holds the database: close long transactions on it"
            }
            _ => "",
        };
        Self::with_source(Kind::Storage, format!("{what}: {error}{hint}"), error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?})", self.inner.kind, self.inner.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_thing_and_keeps_its_cause() {
        let error = Error::io(
            "cannot create",
            Path::new("/proc/x"),
            io::Error::new(io::ErrorKind::PermissionDenied, "permission denied"),
        );
        assert!(error.is_storage() && !error.is_config());
        assert!(error.to_string().contains("/proc/x") && error.to_string().contains("builder().dir"));
        assert!(error.source().is_some() && error.clone().source().is_some());
    }
}
