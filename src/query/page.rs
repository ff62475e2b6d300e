//! One page of an answer: rows, how many there are in all, where the next page begins.

use std::{fmt, str::FromStr, time::Duration};

use crate::error::{Error, Result};

/// One page of rows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// How many rows the question has in all.
    pub total: Total,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<Cursor>,
    /// Why the answer may lack something, if so: a store that does not take records at the moment, and since when; an
    /// audit that cannot be read.
    pub incomplete: Option<String>,
}

/// A count that stops counting where it would take long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    /// All rows were counted.
    Exactly(u64),
    /// There are more than could be counted quickly.
    AtLeast(u64),
}

impl Total {
    /// With what is known without counting.
    pub(super) fn at_least(self, known: u64) -> Self {
        match self {
            Self::AtLeast(count) => Self::AtLeast(count.max(known)),
            exactly => exactly,
        }
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(count) => write!(f, "{count}"),
            Self::AtLeast(count) => write!(f, "at least {count}"),
        }
    }
}

/// Where a page ended. Its text may be given to a client and parsed again.
///
/// ```
/// assert!("nonsense".parse::<l0::query::Cursor>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(String);

/// What a cursor stands behind: a kind of answer, and two numbers that order its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) kind: char,
    pub(super) key: (i64, i64),
}

/// A page's total is exact up to this many, if they are counted within this time.
pub(super) const TOTAL_EXACT_MAX: u64 = 10_000;
pub(super) const TOTAL_WITHIN: Duration = Duration::from_millis(25);

/// Kinds of answers; a cursor of one is none of another.
pub(super) const EVENTS: char = 'e';
pub(super) const NEWEST_TRACES: char = 'n';
pub(super) const SLOWEST_TRACES: char = 's';
pub(super) const FAILED_TRACES: char = 'f';
const JOBS: char = 'j';

impl Cursor {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn at(place: Place) -> Self {
        let Place { kind, key: (first, second) } = place;
        Self(format!("{kind}{first}.{second}"))
    }

    /// Behind the job of this number.
    pub(crate) fn of_job(number: u64) -> Self {
        Self::at(Place { kind: JOBS, key: (number.cast_signed(), 0) })
    }

    /// The job's number.
    pub(crate) fn job(&self) -> Result<u64> {
        self.key(JOBS).map(|(number, _)| number.cast_unsigned())
    }

    fn place(&self) -> Option<Place> {
        let kind = self
            .0
            .chars()
            .next()
            .filter(|kind| [EVENTS, NEWEST_TRACES, SLOWEST_TRACES, FAILED_TRACES, JOBS].contains(kind))?;
        let (first, second) = self.0[1..].split_once('.')?;
        Some(Place { kind, key: (first.parse().ok()?, second.parse().ok()?) })
    }

    /// The numbers, if the cursor is of this kind of answer.
    pub(super) fn key(&self, kind: char) -> Result<(i64, i64)> {
        let place = self.place().filter(|place| place.kind == kind);
        place.map(|place| place.key).ok_or_else(|| {
            Error::invalid_input(format!(
                "{:?} is not a cursor of this question: pass on the `next` of a page unchanged, with the same filters",
                self.0
            ))
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let cursor = Self(text.to_owned());
        match cursor.place() {
            Some(_) => Ok(cursor),
            None => {
                Err(Error::invalid_input(format!("{text:?} is not a cursor: pass on the `next` of a page unchanged")))
            }
        }
    }
}
