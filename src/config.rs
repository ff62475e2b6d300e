//! The values a builder gathers, their defaults as constants, and their validation.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use etcetera::BaseStrategy as _;

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
const BUFFER_BYTES_MIN: u64 = 256 << 10;
const BUFFER_BYTES_MAX: u64 = 4 << 30;
const COMMIT_EVERY_MAX: Duration = Duration::from_secs(3600);

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
        Ok(())
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

/// Creates the store's directory, private, with a `.gitignore` of everything.
pub(crate) fn create_directory(dir: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|error| Error::io("cannot create the store's directory", dir, error))?;
    let ignore = dir.join(".gitignore");
    if !ignore.exists() {
        // A convenience: a store whose directory cannot be written fails a moment later, with a reason.
        let _ = std::fs::write(ignore, "*\n");
    }
    Ok(())
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
