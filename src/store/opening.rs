//! A store that is opened for writing, before there is a run: recovered, within its cap, with room for a flight file.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{
    TELEMETRY,
    damage::{self, SetAside},
    inspection::is_store,
    recovery::{Recovery, recover_with},
    retention::{Blocked, Keeper},
};
use crate::{
    clock::{Clock, TrustedClock},
    config::Retention,
    database::{FileId, WriteConnection, bring_up_to_date, open_reader, open_writer},
    error::{Error, Result},
    redaction::Redactor,
    state::STATE,
};

/// How long a start may take to bring a store down to a lower cap; the rest is done beside recording.
const SHRINK_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take to make room for a flight file.
const ADMIT_WITHIN: Duration = Duration::from_secs(2);
/// How often a damaged database is set aside before an error is final.
const SET_ASIDE_ATTEMPTS: usize = 5;
/// How long maintenance by hand may take.
const BY_HAND_WITHIN: Duration = Duration::from_secs(60);

/// A database and who keeps it in bounds.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(super) dir: PathBuf,
    pub(super) connection: WriteConnection,
    pub(super) keeper: Keeper,
    pub(super) clock: Clock,
    pub(super) redactor: Arc<Redactor>,
    recovered: Recovery,
    set_aside: Option<SetAside>,
    trusted: TrustedClock,
}

impl Opening {
    /// Opens the database, recovers what dead processes left, and brings it down to its cap.
    ///
    /// Without a `retention` the store keeps to what the last program said.
    pub(crate) fn open(
        dir: &Path,
        clock: Clock,
        redactor: Arc<Redactor>,
        retention: Option<&Retention>,
    ) -> Result<Self> {
        let (connection, set_aside) = open_or_set_aside(dir)?;
        let trusted = TrustedClock::new(clock.clone());
        let mut keeper = Keeper::open(dir, &connection, trusted.clone(), &retention.cloned().unwrap_or_default())?;
        if retention.is_some() {
            keeper.say(&connection)?;
        }
        let recovered = recover_with(dir, &connection, &mut keeper, &redactor)?;
        // Where that fails now, who asks it is told, and who writes there tries again.
        let _ = bring_up_to_date(&STATE, dir);
        match keeper.shrink(&connection, Instant::now() + SHRINK_WITHIN) {
            // A reader elsewhere, or no room: recording goes on, and so does the shrinking.
            Ok(_) | Err(Blocked::Pinned | Blocked::Full) => {}
            Err(blocked) => return Err(blocked.into_error("cannot bring the store down to its cap")),
        }
        Ok(Self { dir: dir.to_owned(), connection, keeper, clock, redactor, recovered, set_aside, trusted })
    }

    /// A damaged database that was found at the path, and where it is now.
    pub(crate) fn set_aside(&self) -> Option<&SetAside> {
        self.set_aside.as_ref()
    }

    /// What decides which rows are too old.
    pub(crate) fn trusted_clock(&self) -> TrustedClock {
        self.trusted.clone()
    }

    /// What dead processes had left.
    pub(crate) fn recovered(&self) -> Recovery {
        self.recovered
    }

    /// Creates a flight file of up to `wanted` bytes, in whose size the cap has a say; `None` if there is no room for one.
    pub(crate) fn admit<R>(&mut self, wanted: u64, create: impl FnOnce(Option<u64>) -> R) -> Result<R> {
        self.keeper
            .admit(&self.connection, wanted, Instant::now() + ADMIT_WITHIN, create)
            .map_err(|blocked| blocked.into_error("cannot make room for the flight file"))
    }
}

/// Opens the database, in the place of one that is damaged if need be.
fn open_or_set_aside(dir: &Path) -> Result<(WriteConnection, Option<SetAside>)> {
    let path = dir.join(TELEMETRY.file);
    for _ in 0..SET_ASIDE_ATTEMPTS {
        let id = FileId::at(&path);
        match open_writer(&TELEMETRY, dir) {
            // Where that fails, another process was quicker.
            Err(error) if error.is_damage() => {
                if let Ok(set_aside) = damage::set_aside(&TELEMETRY, dir, id, &error.to_string()) {
                    return Ok((open_writer(&TELEMETRY, dir)?, Some(set_aside)));
                }
            }
            outcome => return Ok((outcome?, None)),
        }
    }
    Ok((open_writer(&TELEMETRY, dir)?, None))
}

/// What retention removed, or would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Cleanup {
    /// Events and spans.
    pub rows: u64,
    /// Bytes that became free within the database, for new rows; of a dry run, about what the rows take.
    pub bytes: u64,
    /// Bytes that the database gave back to the file system.
    pub returned_bytes: u64,
}

impl Cleanup {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            bytes: self.bytes + other.bytes,
            returned_bytes: self.returned_bytes + other.returned_bytes,
        }
    }
}

impl fmt::Display for Cleanup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, bytes, returned_bytes } = self;
        write!(f, "{rows} rows removed, {bytes} bytes free for new ones, {returned_bytes} bytes given back")
    }
}

/// Removes what is older than the ages in `retention`, and gives back what the store has too much, without a program that
/// records; a dry run only says what it would remove. The cap is the one that the store has: the last program said it.
///
/// A program that does record goes on meanwhile. Takes at most a minute.
///
/// ```no_run
/// let week = std::time::Duration::from_secs(7 * 24 * 3600);
/// println!("{}", l0::cleanup("/var/lib/shop/.l0", &l0::Retention::default().max_age(week), true)?);
/// # Ok::<(), l0::Error>(())
/// ```
///
/// # Errors
/// `is_storage` if there is no store or it cannot be written, `is_timeout` if a minute is too short: what was done is done
/// then, and another call goes on.
pub fn cleanup(dir: impl AsRef<Path>, retention: &Retention, dry_run: bool) -> Result<Cleanup> {
    is_store(dir.as_ref())?;
    cleanup_by(dir.as_ref(), TrustedClock::new(Clock::system()), retention, dry_run)
}

/// Gives all free pages of a store back to the file system, without a program that records; see
/// [`Handle::compact`](crate::Handle::compact).
///
/// # Errors
/// As [`cleanup`].
pub fn compact(dir: impl AsRef<Path>) -> Result<Cleanup> {
    is_store(dir.as_ref())?;
    compact_by(dir.as_ref(), TrustedClock::new(Clock::system()), &Retention::default())
}

/// Removes what is too old, and gives pages back that are too many, as the writer does from time to time; or says what
/// would be removed.
pub(crate) fn cleanup_by(dir: &Path, clock: TrustedClock, retention: &Retention, dry_run: bool) -> Result<Cleanup> {
    const WHAT: &str = "cannot clean up the store";
    if dry_run {
        let connection = open_reader(&TELEMETRY, dir)?;
        let keeper = Keeper::open(dir, &connection, clock, retention)?;
        let (rows, bytes) = keeper.count_too_old(&connection).map_err(|blocked| blocked.into_error(WHAT))?;
        return Ok(Cleanup { rows, bytes, returned_bytes: 0 });
    }
    by_hand(dir, clock, retention, WHAT, |connection, keeper, until| {
        let is_done = keeper.tidy(connection, until)?;
        Ok((is_done, keeper.done()))
    })
}

/// Gives all free pages back to the file system.
pub(crate) fn compact_by(dir: &Path, clock: TrustedClock, retention: &Retention) -> Result<Cleanup> {
    by_hand(dir, clock, retention, "cannot compact the store", |connection, keeper, until| {
        let is_done = keeper.compact(connection, until)?;
        Ok((is_done, keeper.done()))
    })
}

/// On a connection of its own, beside the writer's.
fn by_hand(
    dir: &Path,
    clock: TrustedClock,
    retention: &Retention,
    what: &str,
    work: impl FnOnce(&Connection, &mut Keeper, Instant) -> Result<(bool, Cleanup), Blocked>,
) -> Result<Cleanup> {
    let connection = open_writer(&TELEMETRY, dir)?;
    let mut keeper = Keeper::open(dir, &connection, clock, retention)?;
    match work(&connection, &mut keeper, Instant::now() + BY_HAND_WITHIN) {
        Ok((true, cleanup)) => Ok(cleanup),
        Ok((false, cleanup)) => Err(Error::timeout(format!(
            "{what}: after {BY_HAND_WITHIN:?} it is not at its end; {cleanup}; call it again for the rest"
        ))),
        Err(blocked) => Err(blocked.into_error(what)),
    }
}
