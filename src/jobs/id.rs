//! What a job is called, and how it stands.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    error::{Error, Result},
};

/// Names one job of a store: a UUIDv7 (RFC 9562) made of the nanosecond it was enqueued and its number.
///
/// Ids sort by the time of enqueueing, and lead to their row without an index.
///
/// ```
/// let id: l0::jobs::JobId = "0193c8f2-7d1a-7f42-8000-0000071a2b3c".parse()?;
/// assert_eq!(id.to_string(), "0193c8f2-7d1a-7f42-8000-0000071a2b3c");
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct JobId(Uuid);

/// Bits of the id behind version and variant: one that tells jobs in memory from rows, 41 of a number, 20 of nanoseconds.
const IN_MEMORY: u64 = 1 << 61;
const NUMBER_MAX: u64 = (1 << 41) - 1;
const NS_PER_MS: i64 = 1_000_000;

impl JobId {
    /// The id of the row with this number. A queue of your own may number its jobs so, from 1.
    pub fn of_row(number: u64, enqueued_at: Timestamp) -> Self {
        Self::new(number & NUMBER_MAX, enqueued_at)
    }

    pub(super) fn in_memory(number: u64, at: Timestamp) -> Self {
        Self::new(number & NUMBER_MAX | IN_MEMORY >> 20, at)
    }

    fn new(number: u64, at: Timestamp) -> Self {
        let ns = at.as_unix_ns().max(0);
        let (ms, below) = ((ns / NS_PER_MS).unsigned_abs(), (ns % NS_PER_MS).unsigned_abs());
        let high = (ms & 0xFFFF_FFFF_FFFF) << 16 | 0x7000 | below >> 8;
        let low = 0b10 << 62 | number << 20 | below;
        Self(Uuid::from_u64_pair(high, low))
    }

    /// The number of its row and when it was enqueued; `None` for a job that is in memory only.
    pub fn row(self) -> Option<(u64, Timestamp)> {
        let (high, low) = self.0.as_u64_pair();
        if low & IN_MEMORY != 0 {
            return None;
        }
        let below = (low & 0xF_FFFF).cast_signed();
        let ns = (high >> 16).cast_signed().checked_mul(NS_PER_MS)?.checked_add(below)?;
        Some((low >> 20 & NUMBER_MAX, Timestamp::from_unix_ns(ns)))
    }

    /// The UUID.
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for JobId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl From<JobId> for Uuid {
    fn from(id: JobId) -> Self {
        id.0
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for JobId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

impl FromStr for JobId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Uuid::try_parse(text).map(Self).map_err(|_| {
            let shown: String = text.chars().take(40).collect();
            Error::invalid_input(format!(
                "{shown:?} is not a job's id: that is a UUID, as `l0 jobs` and a handle's id() show it"
            ))
        })
    }
}

/// How a job stands. The last three are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobState {
    /// It waits for its time, for a free worker, or for a process that has a handler for its kind.
    Pending,
    /// A handler is at it.
    Running,
    /// It is done, and its result is kept.
    Success,
    /// It will not be tried again.
    Failed,
    /// It was cancelled before it was done.
    Cancelled,
}

impl JobState {
    pub(super) const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Success, Self::Failed, Self::Cancelled];

    /// As in the store: `pending`, `running`, `success`, `failed`, `cancelled`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it will not change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Success | Self::Failed | Self::Cancelled)
    }

    /// The one of this number in the store.
    pub(crate) fn from_code(code: i64) -> Self {
        usize::try_from(code).ok().and_then(|code| Self::ALL.get(code).copied()).unwrap_or(Self::Failed)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            Error::invalid_input(format!(
                "{text:?} is no state of jobs: use pending, running, success, failed or cancelled"
            ))
        })
    }
}

/// Why a job stands as it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Nothing out of the ordinary.
    #[default]
    None,
    /// Its handler returned an error.
    Error,
    /// Its handler panicked.
    Panicked,
    /// An attempt took longer than it may.
    TimedOut,
    /// The process that ran it died.
    Abandoned,
    /// Its payload, or its result, is not what its kind is made of.
    Undecodable,
    /// It could not be begun in time.
    MissedDeadline,
    /// Somebody cancelled it, or its handler did.
    Cancelled,
    /// Its process shut down in an orderly way; that costs no attempt.
    Interrupted,
    /// Its handler asked to be called later; that costs no attempt.
    Snoozed,
}

impl Reason {
    const ALL: [Self; 10] = [
        Self::None,
        Self::Error,
        Self::Panicked,
        Self::TimedOut,
        Self::Abandoned,
        Self::Undecodable,
        Self::MissedDeadline,
        Self::Cancelled,
        Self::Interrupted,
        Self::Snoozed,
    ];

    /// As in the store, as in `timed_out`; empty for none.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Error => "error",
            Self::Panicked => "panicked",
            Self::TimedOut => "timed_out",
            Self::Abandoned => "abandoned",
            Self::Undecodable => "undecodable",
            Self::MissedDeadline => "missed_deadline",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Snoozed => "snoozed",
        }
    }

    pub(crate) fn from_code(code: i64) -> Self {
        usize::try_from(code).ok().and_then(|code| Self::ALL.get(code).copied()).unwrap_or(Self::None)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_leads_back_to_its_row(number in 0..=NUMBER_MAX, ns in 0..i64::MAX) {
            let at = Timestamp::from_unix_ns(ns);
            let id = JobId::of_row(number, at);
            prop_assert_eq!(id.row(), Some((number, at)));
            prop_assert_eq!(id.as_uuid().get_version_num(), 7);
            prop_assert_eq!(id.as_uuid().get_variant(), uuid::Variant::RFC4122);
            prop_assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
            prop_assert_eq!(JobId::in_memory(number, at).row(), None);
        }

        #[test]
        fn ids_sort_by_time(a in 0..i64::MAX / 2, b in 0..i64::MAX / 2) {
            let of = |ns| JobId::of_row(1, Timestamp::from_unix_ns(ns));
            prop_assert_eq!(of(a).cmp(&of(b)), a.cmp(&b));
        }
    }

    #[test]
    fn names_and_numbers_lead_back() {
        for (code, state) in JobState::ALL.into_iter().enumerate() {
            assert_eq!(state.as_str().parse::<JobState>().unwrap(), state);
            assert_eq!((JobState::from_code(code as i64), state as usize), (state, code));
        }
        for (code, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!((Reason::from_code(code as i64), reason as usize), (reason, code));
        }
        assert!("done".parse::<JobState>().unwrap_err().is_invalid_input());
        assert!("7".parse::<JobId>().unwrap_err().to_string().contains("UUID"));
    }
}
