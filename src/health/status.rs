//! What a check says: healthy, degraded, unhealthy.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How something is, by a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", content = "why", rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Healthy,
    /// It works, not as it should; why.
    Degraded(String),
    /// It does not work; why.
    Unhealthy(String),
}

/// What a check may return: a [`Status`], or a `Result` whose error is why it is unhealthy.
///
/// ```
/// use l0::health::{IntoStatus, Status};
/// assert_eq!(Ok::<(), String>(()).into_status(), Status::Healthy);
/// assert_eq!("x".parse::<u8>().map(drop).into_status().why(), Some("invalid digit found in string"));
/// ```
pub trait IntoStatus {
    /// As a status.
    fn into_status(self) -> Status;
}

impl IntoStatus for Status {
    fn into_status(self) -> Status {
        self
    }
}

impl<E: fmt::Display> IntoStatus for Result<(), E> {
    fn into_status(self) -> Status {
        match self {
            Ok(()) => Status::Healthy,
            Err(error) => Status::Unhealthy(error.to_string()),
        }
    }
}

impl Status {
    /// What a run came to: what it said, or that it panicked.
    pub(crate) fn of_run(outcome: Result<Self, String>) -> Self {
        outcome
            .unwrap_or_else(|panic| Self::Unhealthy(format!("panicked: {}", panic.lines().next().unwrap_or_default())))
    }

    /// `healthy`, `degraded` or `unhealthy`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded(_) => "degraded",
            Self::Unhealthy(_) => "unhealthy",
        }
    }

    /// Why it is not healthy.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Healthy => None,
            Self::Degraded(why) | Self::Unhealthy(why) => Some(why),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self.why() {
            Some(why) if !why.is_empty() => write!(f, ": {}", crate::query::harmless(why)),
            _ => Ok(()),
        }
    }
}
