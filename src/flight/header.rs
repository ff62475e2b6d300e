//! The first page of a flight file, where everything has its fixed place.
//!
//! ```text
//!    0  magic          8 bytes "l0flight"       96  key            tag key of this run
//!    8  version  u32   lanes u32               104  flags          see `flag`
//!   16  file bytes                             112  anchors        which of the two pairs below is whole
//!   24  lane bytes                             128  pair A         2 x (ticks, monotonic ns, wall ns)
//!   32  offset of definitions, 40 bytes        176  pair B
//!   48  run id         16 bytes                256  shed           [reason][severity] u64
//!   64  boot id        16 bytes               1008  definitions published, in bytes
//!   80  pid u32, 88 start time                1024  released       one u64 per lane, 64 bytes apart
//! ```
//! Words that change while the process lives are written as atomics; the rest is written before the file has its name.

use super::process::Owner;
use crate::{clock::Anchor, event::Severity};

pub(super) const BYTES: usize = 4_096;
pub(super) const LANES_MAX: usize = 16;
const MAGIC: [u8; 8] = *b"l0flight";
const VERSION: u32 = 1;

pub(super) const FLAGS_AT: usize = 104;
pub(super) const ANCHORS_AT: usize = 112;
pub(super) const PAIRS_AT: [usize; 2] = [128, 176];
pub(super) const UPDATES_SHED_AT: usize = 1_000;
pub(super) const DEFINED_AT: usize = 1_008;

pub(super) const fn shed_at(reason: Reason, severity: Severity) -> usize {
    256 + (reason as usize * Severity::ALL.len() + severity as usize) * 8
}

pub(super) const fn released_at(lane: usize) -> usize {
    1_024 + lane * 64
}

/// What a process says about its end before it comes.
pub(super) mod flag {
    /// The main thread panicked.
    pub(crate) const PANICKED: u64 = 1;
}

/// Why a record was shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Every lane was full.
    BufferFull,
    /// The record was larger than a lane takes.
    TooLarge,
    /// The store refused this record.
    Rejected,
    /// It was in the file of a process that died before the machine restarted.
    OtherBoot,
    /// A lane was full because a reader kept its snapshot for so long that the WAL had reached its bound.
    ReaderPinsWal,
}

impl Reason {
    pub(crate) const ALL: [Self; 5] =
        [Self::BufferFull, Self::TooLarge, Self::Rejected, Self::OtherBoot, Self::ReaderPinsWal];

    /// The name stored in the database.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::BufferFull => "buffer_full",
            Self::TooLarge => "too_large",
            Self::Rejected => "rejected",
            Self::OtherBoot => "other_boot",
            Self::ReaderPinsWal => "reader_pins_wal",
        }
    }
}

/// The part that never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) file_bytes: u64,
    pub(super) lanes: usize,
    pub(super) lane_bytes: u64,
    pub(super) definitions_at: u64,
    pub(super) definitions_bytes: u64,
    pub(super) run: [u8; 16],
    pub(super) owner: Owner,
    pub(super) key: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; 128] {
        let mut out = [0; 128];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&(self.lanes as u32).to_le_bytes());
        for (at, word) in [
            (16, self.file_bytes),
            (24, self.lane_bytes),
            (32, self.definitions_at),
            (40, self.definitions_bytes),
            (88, self.owner.started),
            (96, self.key),
        ] {
            out[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        out[48..64].copy_from_slice(&self.run);
        out[64..80].copy_from_slice(&self.owner.boot);
        out[80..84].copy_from_slice(&self.owner.pid.to_le_bytes());
        out
    }

    /// `None` if this is not a flight file of this version, or its sizes contradict each other.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let version = u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
        if bytes.get(..8)? != MAGIC || version != VERSION || bytes.len() < BYTES {
            return None;
        }
        let header = Self {
            file_bytes: word(bytes, 16)?,
            lanes: u32::from_le_bytes(*bytes.get(12..)?.first_chunk()?) as usize,
            lane_bytes: word(bytes, 24)?,
            definitions_at: word(bytes, 32)?,
            definitions_bytes: word(bytes, 40)?,
            run: *bytes.get(48..)?.first_chunk()?,
            owner: Self::decode_owner(bytes)?,
            key: word(bytes, 96)?,
        };
        let lanes = (header.lanes as u64).checked_mul(header.lane_bytes)?;
        let end = header.definitions_at.checked_add(header.definitions_bytes)?.checked_add(lanes)?;
        let sane = (1..=LANES_MAX).contains(&header.lanes)
            && header.lane_bytes > 0
            && header.lane_bytes.is_multiple_of(8)
            && header.definitions_at == BYTES as u64
            && end == header.file_bytes
            && header.file_bytes == bytes.len() as u64;
        sane.then_some(header)
    }

    /// The owner alone, readable from the first page.
    pub(super) fn decode_owner(bytes: &[u8]) -> Option<Owner> {
        if bytes.get(..8)? != MAGIC {
            return None;
        }
        Some(Owner {
            boot: *bytes.get(64..)?.first_chunk()?,
            pid: u32::from_le_bytes(*bytes.get(80..)?.first_chunk()?),
            started: word(bytes, 88)?,
        })
    }

    pub(super) fn lane_at(&self, lane: usize) -> usize {
        (self.definitions_at + self.definitions_bytes) as usize + lane * self.lane_bytes as usize
    }
}

pub(super) fn is_of_later_version(bytes: &[u8]) -> bool {
    let version = bytes.get(8..).and_then(|rest| rest.first_chunk()).map(|version| u32::from_le_bytes(*version));
    bytes.starts_with(&MAGIC) && version.is_some_and(|version| version > VERSION)
}

/// The two anchors that were whole when the process died.
pub(super) fn anchors(bytes: &[u8]) -> Option<[Anchor; 2]> {
    let at = PAIRS_AT[(word(bytes, ANCHORS_AT)? % 2) as usize];
    let anchor = |at: usize| {
        Some(Anchor { ticks: word(bytes, at)?, mono_ns: word(bytes, at + 8)?, wall_ns: word(bytes, at + 16)? as i64 })
    };
    Some([anchor(at)?, anchor(at + 24)?])
}

/// Walks over definitions: number u32, length u32, bytes padded to 8.
pub(super) fn each_definition(mut rest: &[u8], mut each: impl FnMut(u32, &[u8])) {
    while let Some(([a, b, c, d, e, f, g, h], tail)) = rest.split_first_chunk::<8>() {
        let length = u32::from_le_bytes([*e, *f, *g, *h]) as usize;
        let Some((definition, _)) = tail.split_at_checked(length) else { return };
        each(u32::from_le_bytes([*a, *b, *c, *d]), definition);
        rest = tail.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

const _: () = assert!(shed_at(Reason::OtherBoot, Severity::Critical) + 8 <= UPDATES_SHED_AT);
const _: () = assert!(released_at(LANES_MAX - 1) + 8 <= BYTES);
