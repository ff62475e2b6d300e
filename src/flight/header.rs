//! The first page of a flight file, where everything has its fixed place.
//!
//! ```text
//!    0  magic          8 bytes "l0flight"       96  key            tag key of this run
//!    8  version  u32   lanes u32               104  flags          see `flag`
//!   16  file bytes                             112  anchors        which of the two pairs below is the latest
//!   24  lane bytes                             120  check          of bytes 0 to 103
//!   32  offset of definitions, 40 bytes        256  shed           [reason][severity] u64
//!   48  run id         16 bytes               1000  updates shed
//!   64  boot id        16 bytes               1008  definitions published, in bytes
//!   80  pid u32, 88 start time                1024  lanes          released, counted before that, counted and its complement
//! 2048  first anchor, check                   2208  breaks         how many were added
//! 2080  pair A, 2144 pair B: anchors, check   2216  16 breaks      the anchors around each, check
//! 3968  copy of bytes 0 to 127
//! ```
//! All integers are little-endian. An anchor is ticks, monotonic ns and wall ns. Words that change while the process lives
//! are written as atomics; the rest is written before the file has its name. What is written in several words ends with a
//! check of them, and a count carries sixteen bits of check itself: so damage is not taken for a value.

use super::{
    parse::{HEADER_BYTES, sum},
    process::Owner,
};
use crate::{clock::Anchor, event::Severity};

pub(super) const BYTES: usize = 4_096;
/// Lanes of a flight recorder.
pub(crate) const LANES_MAX: usize = 16;
const MAGIC: [u8; 8] = *b"l0flight";
const VERSION: u32 = 2;

pub(super) const FLAGS_AT: usize = 104;
pub(super) const ANCHORS_AT: usize = 112;
pub(super) const CHECK_AT: usize = 120;
const STATIC_BYTES: usize = 104;
const COPY_AT: usize = 3_968;
pub(super) const FIRST_AT: usize = 2_048;
pub(super) const PAIRS_AT: [usize; 2] = [2_080, 2_144];
pub(super) const BREAKS_AT: usize = 2_208;
pub(super) const BREAKS_MAX: u64 = 16;
pub(super) const UPDATES_SHED_AT: usize = 1_000;
pub(super) const DEFINED_AT: usize = 1_008;

pub(super) const fn shed_at(reason: Reason, severity: Severity) -> usize {
    256 + (reason as usize * Severity::ALL.len() + severity as usize) * 8
}

/// Of a lane: the position before which everything is stored, how many counted records that are, how many the lane has taken,
/// and the complement of that.
pub(super) const fn lane_line(lane: usize) -> [usize; 4] {
    let at = 1_024 + lane * 64;
    [at, at + 8, at + 16, at + 24]
}

pub(super) const fn break_at(index: u64) -> usize {
    BREAKS_AT + 8 + (index % BREAKS_MAX) as usize * 56
}

/// A count that tells whether it was damaged.
#[inline]
pub(super) fn checked_count(count: u64) -> u64 {
    count << 16 | count.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48
}

/// The count in a word; `None` if it is damaged.
pub(super) fn count_of(word: u64) -> Option<u64> {
    let count = word >> 16;
    (checked_count(count) == word).then_some(count)
}

/// Over words, so that one that is damaged is noticed.
pub(super) fn check_of(words: &[u64]) -> u64 {
    let sum = words.iter().fold(0x6C30_u64, |sum, word| sum.rotate_left(7).wrapping_add(*word));
    sum.wrapping_mul(0x9E37_79B9_7F4A_7C15)
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
    /// Something has damaged it in the flight recorder.
    Damaged,
}

impl Reason {
    pub(crate) const ALL: [Self; 6] =
        [Self::BufferFull, Self::TooLarge, Self::Rejected, Self::OtherBoot, Self::ReaderPinsWal, Self::Damaged];

    /// The name stored in the database.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::BufferFull => "buffer_full",
            Self::TooLarge => "too_large",
            Self::Rejected => "rejected",
            Self::OtherBoot => "other_boot",
            Self::ReaderPinsWal => "reader_pins_wal",
            Self::Damaged => "damaged",
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
    /// The first page, when nothing has been recorded yet.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; BYTES];
        let head = self.encode_static();
        page[..head.len()].copy_from_slice(&head);
        page[COPY_AT..COPY_AT + head.len()].copy_from_slice(&head);
        for lane in 0..self.lanes {
            let at = lane_line(lane)[3];
            page[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        }
        page
    }

    fn encode_static(&self) -> [u8; 128] {
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
        let check = static_check(&out);
        out[CHECK_AT..CHECK_AT + 8].copy_from_slice(&check.to_le_bytes());
        out
    }

    /// `None` if this is not a flight file of this version, or its sizes contradict each other. `bytes` are all of the file's.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        Self::decode_head(bytes).filter(|header| header.file_bytes == bytes.len() as u64)
    }

    /// From the first page: the header, or its copy.
    pub(super) fn decode_head(page: &[u8]) -> Option<Self> {
        let head = page.get(..128).and_then(Self::decode_static);
        head.or_else(|| page.get(COPY_AT..COPY_AT + 128).and_then(Self::decode_static))
    }

    fn decode_static(bytes: &[u8]) -> Option<Self> {
        let version = u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
        if bytes.get(..8)? != MAGIC || version != VERSION || word(bytes, CHECK_AT)? != static_check(bytes) {
            return None;
        }
        let header = Self {
            file_bytes: word(bytes, 16)?,
            lanes: u32::from_le_bytes(*bytes.get(12..)?.first_chunk()?) as usize,
            lane_bytes: word(bytes, 24)?,
            definitions_at: word(bytes, 32)?,
            definitions_bytes: word(bytes, 40)?,
            run: *bytes.get(48..)?.first_chunk()?,
            owner: Owner {
                boot: *bytes.get(64..)?.first_chunk()?,
                pid: u32::from_le_bytes(*bytes.get(80..)?.first_chunk()?),
                started: word(bytes, 88)?,
            },
            key: word(bytes, 96)?,
        };
        let lanes = (header.lanes as u64).checked_mul(header.lane_bytes)?;
        let end = header.definitions_at.checked_add(header.definitions_bytes)?.checked_add(lanes)?;
        let sane = (1..=LANES_MAX).contains(&header.lanes)
            && header.lane_bytes > 0
            && header.lane_bytes.is_multiple_of(8)
            && header.definitions_at == BYTES as u64
            && end == header.file_bytes;
        sane.then_some(header)
    }

    /// The largest body that a lane takes.
    pub(super) fn record_bytes_max(&self) -> usize {
        (self.lane_bytes as usize / 8).saturating_sub(HEADER_BYTES).min(1 << 20)
    }

    pub(super) fn lane_at(&self, lane: usize) -> usize {
        (self.definitions_at + self.definitions_bytes) as usize + lane * self.lane_bytes as usize
    }
}

pub(super) fn is_of_later_version(bytes: &[u8]) -> bool {
    let version = bytes.get(8..).and_then(|rest| rest.first_chunk()).map(|version| u32::from_le_bytes(*version));
    let is_later = bytes.starts_with(&MAGIC) && version.is_some_and(|version| version > VERSION);
    // A header of this version whose version is damaged has a copy that is whole.
    is_later && Header::decode_head(bytes).is_none()
}

fn static_check(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.get(..STATIC_BYTES).unwrap_or_default().as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    check_of(&words)
}

/// All anchors that are whole: of the run's beginning, around breaks, and the latest.
pub(super) fn anchors(bytes: &[u8]) -> Vec<Anchor> {
    let latest = word(bytes, ANCHORS_AT).unwrap_or(0);
    let pairs = [latest, latest.wrapping_add(1)].map(|index| PAIRS_AT[(index % 2) as usize]);
    // The other one is the one before, or was being written.
    let pair = pairs.into_iter().map(|at| anchors_at(bytes, at, 2)).find(|pair| !pair.is_empty()).unwrap_or_default();
    let mut all = anchors_at(bytes, FIRST_AT, 1);
    all.extend(pair);
    (0..BREAKS_MAX).for_each(|index| all.extend(anchors_at(bytes, break_at(index), 2)));
    all
}

/// Reads `count` anchors; none if they are damaged or were never written.
fn anchors_at(bytes: &[u8], at: usize, count: usize) -> Vec<Anchor> {
    let words: Option<Vec<u64>> = (0..count * 3).map(|index| word(bytes, at + index * 8)).collect();
    let words = words.filter(|words| word(bytes, at + count * 24) == Some(check_of(words))).unwrap_or_default();
    let (anchors, _) = words.as_chunks::<3>();
    anchors
        .iter()
        .map(|[ticks, mono, wall]| Anchor { ticks: *ticks, mono_ns: *mono, wall_ns: wall.cast_signed() })
        .collect()
}

/// The words of anchors, with their check.
pub(super) fn anchor_words(anchors: &[Anchor]) -> Vec<u64> {
    let mut words: Vec<u64> =
        anchors.iter().flat_map(|anchor| [anchor.ticks, anchor.mono_ns, anchor.wall_ns.cast_unsigned()]).collect();
    words.push(check_of(&words));
    words
}

/// In front of each definition: its number, its length, and the sum over it and both.
pub(super) const DEFINITION_HEADER_BYTES: usize = 16;

pub(super) fn definition_header(number: u32, definition: &[u8]) -> [u8; DEFINITION_HEADER_BYTES] {
    let mut header = [0; DEFINITION_HEADER_BYTES];
    header[..4].copy_from_slice(&number.to_le_bytes());
    header[4..8].copy_from_slice(&(definition.len() as u32).to_le_bytes());
    let both = u64::from_le_bytes(*header.first_chunk().unwrap_or(&[0; 8]));
    header[8..].copy_from_slice(&check_of(&[both, sum(definition)]).to_le_bytes());
    header
}

/// Walks over definitions, each padded to 8 bytes. Says whether all of them were whole.
pub(super) fn each_definition(mut rest: &[u8], mut each: impl FnMut(u32, &[u8])) -> bool {
    let mut are_whole = true;
    while let Some((header, tail)) = rest.split_first_chunk::<DEFINITION_HEADER_BYTES>() {
        let [a, b, c, d, e, f, g, h, ..] = *header;
        let length = u32::from_le_bytes([e, f, g, h]) as usize;
        let Some((definition, _)) = tail.split_at_checked(length) else { return false };
        let number = u32::from_le_bytes([a, b, c, d]);
        if definition_header(number, definition) == *header {
            each(number, definition);
        } else {
            are_whole = false;
        }
        rest = tail.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    are_whole
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

const _: () = assert!(shed_at(Reason::Damaged, Severity::Critical) + 8 <= UPDATES_SHED_AT);
const _: () = assert!(lane_line(LANES_MAX - 1)[3] + 8 <= FIRST_AT);
const _: () = assert!(break_at(BREAKS_MAX - 1) + 56 <= COPY_AT);
