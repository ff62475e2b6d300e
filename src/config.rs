//! The values a builder gathers, their defaults as constants, and their validation.

use std::{env, path::PathBuf, time::Duration};

use etcetera::BaseStrategy as _;

mod jobs;

pub use jobs::{Durability, JobEvents, JobHistory};

use crate::{
    capture::{Parsed, parse_filter},
    clock::Clock,
    error::{Error, Result},
    redaction::Redaction,
};

/// The level that is recorded where nothing says otherwise.
pub(crate) const FILTER_DEFAULT: &str = "info";
/// How long records may wait in the flight recorder before they are committed.
pub(crate) const COMMIT_EVERY_DEFAULT: Duration = Duration::from_secs(1);
/// Where nothing survives the process, a commit is due sooner.
pub(crate) const COMMIT_EVERY_IN_MEMORY: Duration = Duration::from_millis(50);
/// All of a flight recorder.
pub(crate) const BUFFER_BYTES_DEFAULT: u64 = 16 << 20;
pub(crate) const BUFFER_BYTES_MIN: u64 = 256 << 10;
const BUFFER_BYTES_MAX: u64 = 4 << 30;
const COMMIT_EVERY_MAX: Duration = Duration::from_secs(3600);
/// All of a store, but for `state.db`.
const MAX_BYTES_DEFAULT: u64 = 256 << 20;
pub(crate) const MAX_BYTES_MIN: u64 = 8 << 20;
pub(crate) const MAX_BYTES_MAX: u64 = 1 << 44;
/// What was audited, with its WAL.
const MAX_AUDIT_BYTES_DEFAULT: u64 = 1 << 30;
const MAX_AUDIT_BYTES_MIN: u64 = 1 << 20;

/// Threads of jobs.
const WORKERS_MAX: usize = 1_024;

/// Where human-readable lines go, beside the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Console {
    /// Nowhere: the builder's default.
    #[default]
    Off,
    /// To stderr.
    Stderr,
    /// To stderr if that is a terminal: what `init` does.
    Auto,
}

/// What the flight recorder's memory lives in, and so what records survive before they are committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flight {
    /// A file in the store's directory: survives the process. Where the file system copies on write, l0 takes shared
    /// memory instead, and `stats` says so.
    #[default]
    Directory,
    /// A file in `/dev/shm`: survives the process, but not the machine's restart, nor a container's end.
    SharedMemory,
    /// Plain memory: survives nothing, so records are committed every 50 ms.
    Off,
}

/// What happens to a record when every lane of the flight recorder is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overload {
    /// It is shed and counted; the last eighth of each lane is kept for warnings, errors and the ends of spans.
    #[default]
    Shed,
    /// The recording thread waits for room, at most this long; then the record is shed and counted.
    Block(Duration),
}

/// How much a store keeps, and for how long.
///
/// At the cap the oldest rows make room for new ones. Warnings and errors have a quarter of the database to themselves, so
/// that a flood of lesser events does not push them out; counts, rates and percentiles (`summary`) have a tenth and outlive
/// the rows they were made of. What is removed is in the view `maintenance`.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use std::time::Duration;
/// const DAY: Duration = Duration::from_secs(24 * 3600);
/// let retention = l0::Retention::default().max_bytes(64 << 20).max_age(7 * DAY).max_age_of_warnings(90 * DAY);
/// let l0 = l0::builder().dir(dir.path()).retention(retention).start()?;
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    pub(crate) max_bytes: u64,
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_age_of_warnings: Option<Duration>,
    pub(crate) min_free_disk: u64,
    pub(crate) max_audit_bytes: u64,
}

impl Default for Retention {
    /// 256 MiB, of any age, whatever is free on the disk; a GiB of audit.
    fn default() -> Self {
        Self {
            max_bytes: MAX_BYTES_DEFAULT,
            max_age: None,
            max_age_of_warnings: None,
            min_free_disk: 0,
            max_audit_bytes: MAX_AUDIT_BYTES_DEFAULT,
        }
    }
}

impl Retention {
    /// The cap in bytes: database, WAL, shared memory file and the flight files of all the directory's processes together
    /// never take more. From 8 MiB to 16 TiB; 256 MiB unless set.
    ///
    /// It belongs to the store: of several processes on one directory, the last to start decides for all. A start with a
    /// lower cap removes what is too much before it returns, for at most five seconds, and then goes on beside recording; a
    /// process that started under a higher cap keeps its flight file until it ends. `state.db` is not counted.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Events and spans older than this are removed; by default only the cap removes them.
    ///
    /// Looked for every minute while the program records, at shutdown, and by [`cleanup`](crate::Handle::cleanup). Paused
    /// while the wall clock has moved by more than an hour against the monotonic one: then one of the two times is wrong,
    /// and nobody knows which.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// As `max_age`, for events of severity warning and above; as long as `max_age` unless set, and not less.
    #[must_use]
    pub fn max_age_of_warnings(mut self, age: Duration) -> Self {
        self.max_age_of_warnings = Some(age);
        self
    }

    /// While less than this many bytes are free on the disk, the store does not grow: new rows take the place of the oldest,
    /// and what is free within the database is given back. 0, never, unless set.
    ///
    /// It does not shrink further than that: otherwise whoever fills the disk would wipe out the record of it.
    #[must_use]
    pub fn min_free_disk(mut self, bytes: u64) -> Self {
        self.min_free_disk = bytes;
        self
    }

    /// The limit of `state.db` in bytes, at which [`audit`](crate::Handle::audit) refuses, for what was audited is never
    /// evicted. 1 GiB unless set.
    #[must_use]
    pub fn max_audit_bytes(mut self, bytes: u64) -> Self {
        self.max_audit_bytes = bytes;
        self
    }

    fn validate(&self) -> Result<()> {
        if !(MAX_BYTES_MIN..=MAX_BYTES_MAX).contains(&self.max_bytes) {
            return Err(Error::config(format!(
                "Retention::max_bytes({}) must be between {MAX_BYTES_MIN} (8 MiB) and {MAX_BYTES_MAX} (16 TiB)",
                self.max_bytes
            )));
        }
        for (name, age) in [("max_age", self.max_age), ("max_age_of_warnings", self.max_age_of_warnings)] {
            if age.is_some_and(|age| age.is_zero()) {
                return Err(Error::config(format!("Retention::{name}(0) would keep nothing: give it a longer time")));
            }
        }
        if let (Some(age), Some(of_warnings)) = (self.max_age, self.max_age_of_warnings)
            && of_warnings < age
        {
            return Err(Error::config(format!(
                "Retention::max_age_of_warnings({of_warnings:?}) must not be less than max_age({age:?})"
            )));
        }
        if self.max_audit_bytes < MAX_AUDIT_BYTES_MIN {
            return Err(Error::config(format!(
                "Retention::max_audit_bytes({}) must be at least {MAX_AUDIT_BYTES_MIN} (1 MiB)",
                self.max_audit_bytes
            )));
        }
        Ok(())
    }
}

/// Everything a builder was told.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) dir: Option<PathBuf>,
    pub(crate) app_id: Option<String>,
    pub(crate) service: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) filter: Directives,
    pub(crate) console: Console,
    pub(crate) flight: Flight,
    pub(crate) buffer_bytes: u64,
    pub(crate) commit_every: Duration,
    pub(crate) overload: Overload,
    pub(crate) clock: Clock,
    pub(crate) panic_hook: bool,
    pub(crate) redaction: Redaction,
    pub(crate) retention: Retention,
    pub(crate) workers: usize,
    pub(crate) job_durability: Durability,
    pub(crate) job_events: JobEvents,
    pub(crate) job_history: JobHistory,
}

/// Filter directives, and whether the environment may replace them.
#[derive(Clone, Debug)]
pub(crate) enum Directives {
    Fixed(String),
    Default(String),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: None,
            app_id: None,
            service: None,
            version: None,
            filter: Directives::Default(FILTER_DEFAULT.to_owned()),
            console: Console::default(),
            flight: Flight::default(),
            buffer_bytes: BUFFER_BYTES_DEFAULT,
            commit_every: COMMIT_EVERY_DEFAULT,
            overload: Overload::default(),
            clock: Clock::system(),
            panic_hook: false,
            redaction: Redaction::default(),
            retention: Retention::default(),
            workers: jobs::workers_default(),
            job_durability: Durability::default(),
            job_events: JobEvents::default(),
            job_history: JobHistory::default(),
        }
    }
}

impl Config {
    /// Checks what can be checked without touching the system.
    pub(crate) fn validate(&self) -> Result<()> {
        if !(BUFFER_BYTES_MIN..=BUFFER_BYTES_MAX).contains(&self.buffer_bytes) {
            return Err(Error::config(format!(
                "buffer_bytes({}) must be between {BUFFER_BYTES_MIN} (256 KiB) and {BUFFER_BYTES_MAX} (4 GiB)",
                self.buffer_bytes
            )));
        }
        if self.commit_every.is_zero() || self.commit_every > COMMIT_EVERY_MAX {
            return Err(Error::config(format!(
                "commit_every({:?}) must be more than nothing and at most an hour",
                self.commit_every
            )));
        }
        if !(1..=WORKERS_MAX).contains(&self.workers) {
            return Err(Error::config(format!("workers({}) must be between 1 and {WORKERS_MAX}", self.workers)));
        }
        self.retention.validate()
    }

    /// The filter to begin with, and what is wrong with the environment's, if something is.
    pub(crate) fn filter(&self) -> Result<(Parsed, Option<String>)> {
        let text = match &self.filter {
            Directives::Fixed(text) => return Ok((parse_filter(text)?, None)),
            Directives::Default(text) => text,
        };
        let default = parse_filter(text)?;
        for variable in ["L0_LOG", "RUST_LOG"] {
            let Some(value) = env::var_os(variable).filter(|value| !value.is_empty()) else { continue };
            let outcome = match value.to_str() {
                Some(value) => parse_filter(value),
                None => Err(Error::config("it is not valid UTF-8")),
            };
            return Ok(match outcome {
                Ok(filter) => (filter, None),
                Err(error) => (default, Some(format!("{variable} is ignored, {text:?} is used instead: {error}"))),
            });
        }
        Ok((default, None))
    }

    /// The store's directory, absolute.
    pub(crate) fn directory(&self) -> Result<PathBuf> {
        let dir = match (&self.dir, &self.app_id) {
            (Some(dir), _) => dir.clone(),
            (None, Some(id)) => app_directory(id)?,
            (None, None) => {
                env::var_os("L0_DIR").filter(|dir| !dir.is_empty()).map_or_else(|| PathBuf::from(".l0"), PathBuf::from)
            }
        };
        std::path::absolute(&dir).map_err(|error| Error::io("cannot find the directory", &dir, error))
    }

    /// The service's name: what was said, else the executable's.
    pub(crate) fn service(&self) -> Option<String> {
        self.service.clone().or_else(|| {
            let executable = env::current_exe().ok()?;
            Some(executable.file_stem()?.to_string_lossy().into_owned())
        })
    }
}

/// The platform's place for an application's state.
fn app_directory(id: &str) -> Result<PathBuf> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if id.is_empty() || id.starts_with('.') || !id.chars().all(is_plain) {
        return Err(Error::config(format!(
            "app_id({id:?}) must be a plain name as in \"com.acme.Editor\": letters, digits, dots, dashes, underscores"
        )));
    }
    let base = etcetera::base_strategy::choose_native_strategy().map_err(|error| {
        Error::config(format!("app_id({id:?}): the home directory is unknown ({error}); use dir(..)"))
    })?;
    Ok(base.state_dir().unwrap_or_else(|| base.data_dir()).join(id).join("l0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_out_of_range_are_refused() {
        for bytes in [0, BUFFER_BYTES_MIN - 1, BUFFER_BYTES_MAX + 1] {
            let error = Config { buffer_bytes: bytes, ..Config::default() }.validate().unwrap_err();
            assert!(error.is_config() && error.to_string().contains(&bytes.to_string()));
        }
        for every in [Duration::ZERO, COMMIT_EVERY_MAX * 2] {
            assert!(Config { commit_every: every, ..Config::default() }.validate().unwrap_err().is_config());
        }
        assert!(Config::default().validate().is_ok());
    }

    #[test]
    fn an_app_id_is_one_plain_name() {
        for bad in ["", "a/b", "..", "a b", "../x"] {
            assert!(app_directory(bad).unwrap_err().is_config(), "{bad}");
        }
        assert!(app_directory("com.acme.Editor").unwrap().ends_with("com.acme.Editor/l0"));
    }
}
