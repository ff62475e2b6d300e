//! Components: steps of a start that are complete, versions and build data; kept in `state.db`.

use std::{fmt, path::Path, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    capture::Capture,
    clock::{Clock, Timestamp},
    error::{Error, Result},
    query::harmless,
    redaction::Redactor,
    state::{self, State},
};

const NAME_BYTES_MAX: usize = 128;
const STATE_BYTES_MAX: usize = 1_024;
const METADATA_BYTES_MAX: usize = 64 << 10;

/// What a program is made of, and how far its parts are, by [`Handle::components`](crate::Handle::components).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let l0 = l0::builder().dir(dir.path()).start()?;
/// let components = l0.components();
/// components.set("build", "release", &serde_json::json!({ "commit": "f45888a", "rustc": "1.95.0" }))?;
/// components.complete("migrations")?;
/// assert!(components.get("migrations")?.is_some_and(|step| step.complete));
/// assert_eq!(components.list()?.len(), 2);
/// # Ok::<(), l0::Error>(())
/// ```
pub struct Components {
    state: Arc<State>,
    clock: Clock,
    capture: Arc<Capture>,
    redactor: Arc<Redactor>,
}

/// One component. It is kept over restarts, until it is set anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Component {
    /// Its name.
    pub name: String,
    /// As the program said: `complete` if it was marked so.
    pub state: String,
    /// Whether it was marked complete.
    pub complete: bool,
    /// JSON.
    pub metadata: String,
    /// When that was said.
    pub changed_at: Timestamp,
}

impl Component {
    /// What it was given, as a type.
    ///
    /// # Errors
    /// `is_invalid_input` if it is not of this type.
    pub fn metadata_as<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.metadata).map_err(|error| {
            Error::invalid_input(format!("the metadata of {:?} is not of this type: {error}", self.name))
        })
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", harmless(&self.name), harmless(&self.state))?;
        if self.metadata == "null" { Ok(()) } else { write!(f, " {}", harmless(&self.metadata)) }
    }
}

impl Components {
    /// All components of the store in this directory, whose program may live or be dead, by name.
    ///
    /// # Errors
    /// `is_storage` if they cannot be read.
    pub fn read(dir: impl AsRef<Path>) -> Result<Vec<Component>> {
        read(dir.as_ref(), None)
    }

    pub(crate) fn new(state: Arc<State>, clock: Clock, capture: Arc<Capture>, redactor: Arc<Redactor>) -> Self {
        Self { state, clock, capture, redactor }
    }

    /// Says how a component is, with whatever else there is to know of it. Blocks for a commit, ten seconds at most.
    ///
    /// Secrets that redaction knows, by their names or how they look, are not kept, as with a payload.
    ///
    /// # Errors
    /// `is_invalid_input` for a name, a state or metadata that cannot be kept; `is_storage` or `is_timeout` if the store does not
    /// take it; `is_closed` after shutdown.
    pub fn set(&self, name: &str, state: &str, metadata: &impl Serialize) -> Result<()> {
        self.open()?;
        checked(name)?;
        if state.len() > STATE_BYTES_MAX {
            return Err(Error::invalid_input(format!("the state of {name:?} has more than {STATE_BYTES_MAX} bytes")));
        }
        let metadata = serde_json::to_string(metadata)
            .map_err(|error| Error::invalid_input(format!("the metadata of {name:?} does not become JSON: {error}")))?;
        if metadata.len() > METADATA_BYTES_MAX {
            let bytes = metadata.len();
            return Err(Error::invalid_input(format!(
                "the metadata of {name:?} has {bytes} bytes, more than {METADATA_BYTES_MAX}: keep it in a file, and its name here"
            )));
        }
        let metadata = self.redactor.json_by_name(&metadata).unwrap_or(metadata);
        let metadata = self.redactor.json_by_value(&metadata).unwrap_or(metadata);
        let state = self.redactor.text(state).unwrap_or_else(|| state.to_owned());
        let row = (name.to_owned(), state, false, metadata, self.clock.now_by_hand().as_unix_ns());
        state::put_component(&self.state, row)
    }

    /// Marks a component complete, as a step of the start; its metadata stays.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn complete(&self, name: &str) -> Result<()> {
        self.open()?;
        checked(name)?;
        state::complete_component(&self.state, name.to_owned(), self.clock.now_by_hand().as_unix_ns())
    }

    /// Refuses what comes after the end, or in a forked child, which must leave the parent's connections alone.
    fn open(&self) -> Result<()> {
        if self.capture.is_open() { Ok(()) } else { Err(Error::closed()) }
    }

    /// One component.
    ///
    /// # Errors
    /// `is_storage` if it cannot be read.
    pub fn get(&self, name: &str) -> Result<Option<Component>> {
        Ok(read(self.state.dir(), Some(name))?.pop())
    }

    /// All components, by name.
    ///
    /// # Errors
    /// `is_storage` if they cannot be read.
    pub fn list(&self) -> Result<Vec<Component>> {
        read(self.state.dir(), None)
    }
}

fn read(dir: &Path, name: Option<&str>) -> Result<Vec<Component>> {
    let rows = state::components(dir, name)?.into_iter();
    Ok(rows
        .map(|(name, state, complete, metadata, at)| Component {
            name,
            state,
            complete,
            metadata,
            changed_at: Timestamp::from_unix_ns(at),
        })
        .collect())
}

fn checked(name: &str) -> Result<()> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let shown: String = name.chars().take(40).collect();
    Err(Error::invalid_input(format!(
        "{shown:?} is no name of a component: use 1 to {NAME_BYTES_MAX} bytes without control characters"
    )))
}

impl fmt::Debug for Components {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Components").field("dir", &self.state.dir()).finish_non_exhaustive()
    }
}
