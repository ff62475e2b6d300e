//! Finding records in bytes: whole ones, and those behind bytes that are damaged.
//!
//! ```text
//! record at position p (a multiple of 8):
//!     tag u64 = p ^ key | stamp u64 | body length u31, is counted u1 | checksum u32 | body, padded to 8
//! ```
//!
//! The tag says that a record begins here: positions are never used twice and the key is the run's own, so neither bytes
//! of an earlier lap nor a body's contents are taken for one. The checksum says that it is whole. Where a record is
//! damaged, the next one is found by its tag.

/// Bytes in front of each body.
pub(super) const HEADER_BYTES: usize = 24;
/// In the word of the length.
const COUNTED: u32 = 1 << 31;

/// The words behind the tag.
#[inline]
pub(super) fn fixed(tag: u64, stamp: u64, length: usize, is_counted: bool, sum: u64) -> [u8; 16] {
    let length = length as u32 | if is_counted { COUNTED } else { 0 };
    let mut fixed = [0; 16];
    fixed[..8].copy_from_slice(&stamp.to_le_bytes());
    fixed[8..12].copy_from_slice(&length.to_le_bytes());
    fixed[12..].copy_from_slice(&checksum(sum, tag, stamp, length).to_le_bytes());
    fixed
}

/// Of a body with this [`sum`]. Bytes that were overwritten at random pass as whole once in four billion times. The tag is part of it, because otherwise one changed bit in the tag of a record of
/// an earlier lap could make that record valid again.
#[inline]
fn checksum(sum: u64, tag: u64, stamp: u64, length: u32) -> u32 {
    let mixed = (sum ^ stamp.rotate_left(32)).wrapping_add(tag).wrapping_add(u64::from(length));
    // An odd factor keeps differences, and spreads them over the upper half.
    (mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 32) as u32
}

/// A hash over bytes, eight at a time. Each word is multiplied in, so that changes of two words do not cancel out, and their
/// order counts.
///
/// Whole blocks of 32 bytes, after the last 32 bytes, whatever of them is in a block too: so no byte needs a step of its own.
#[inline]
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let Some(last) = bytes.last_chunk::<32>() else { return sum_of_few(bytes) };
    bytes.as_chunks::<32>().0.iter().fold(add_block(bytes.len() as u64, last), add_block)
}

#[inline]
fn add_block(sum: u64, block: &[u8; 32]) -> u64 {
    block.as_chunks::<8>().0.iter().fold(sum, add_word)
}

#[inline]
fn add_word(sum: u64, word: &[u8; 8]) -> u64 {
    (sum.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[inline]
fn sum_of_few(bytes: &[u8]) -> u64 {
    match bytes.last_chunk::<8>() {
        Some(last) => bytes.as_chunks::<8>().0.iter().fold(add_word(bytes.len() as u64, last), add_word),
        None => bytes.iter().fold(bytes.len() as u64, |sum, byte| sum << 8 | u64::from(*byte)),
    }
}

/// What is known of the end of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The lane's last record ends there.
    Known,
    /// The lane goes on: the last record may be there only in part.
    Partial,
    /// It is a dead process's ring: behind its last record are bytes of an earlier lap.
    Unknown,
}

/// Iterates over the whole records.
#[derive(Clone, Debug)]
pub(super) struct Parse<'b> {
    bytes: &'b [u8],
    at: usize,
    position: u64,
    key: u64,
    largest: usize,
    end: End,
    gaps: u64,
}

/// One record: its stamp, its body's range in the parsed bytes, and the position behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) stamp: u64,
    pub(super) body: std::ops::Range<usize>,
    pub(super) next: u64,
    pub(super) is_counted: bool,
}

/// What stands at a position.
enum Found {
    Whole(Entry),
    /// The beginning of a record that may go on behind the bytes.
    Begins,
    /// No record, or a damaged one.
    Nothing,
}

impl<'b> Parse<'b> {
    /// Bytes that begin at `position`; no body is longer than `largest`.
    pub(super) fn new(bytes: &'b [u8], position: u64, key: u64, largest: usize, end: End) -> Self {
        Self { bytes, at: 0, position, key, largest, end, gaps: 0 }
    }

    /// Places at which bytes that had to be records were none, so far.
    pub(super) fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Behind what was looked at: after the last record, the position from which to go on.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    fn word(&self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }

    fn look(&self, at: usize, position: u64) -> Found {
        let tag = position ^ self.key;
        let Some(header) = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<HEADER_BYTES>()) else {
            return if self.word(at) == Some(tag) { Found::Begins } else { Found::Nothing };
        };
        let words = header.as_chunks::<8>().0;
        let [found, stamp, third] = [0, 1, 2].map(|word: usize| u64::from_le_bytes(words[word]));
        if found != tag {
            return Found::Nothing;
        }
        let (length, expected) = (third as u32, (third >> 32) as u32);
        let is_counted = length & COUNTED != 0;
        let bytes = (length & !COUNTED) as usize;
        if bytes > self.largest {
            return Found::Nothing;
        }
        let start = at + HEADER_BYTES;
        let Some(body) = self.bytes.get(start..start + bytes) else { return Found::Begins };
        if checksum(sum(body), tag, stamp, length) != expected {
            return Found::Nothing;
        }
        let need = (HEADER_BYTES + bytes.next_multiple_of(8)) as u64;
        Found::Whole(Entry { stamp, body: start..start + bytes, next: position.wrapping_add(need), is_counted })
    }

    fn take(&mut self, entry: Entry) -> Entry {
        self.at = entry.body.start + entry.body.len().next_multiple_of(8);
        self.position = entry.next;
        entry
    }

    /// Behind bytes that are no record: the next one.
    #[cold]
    fn resynchronise(&mut self) -> Option<Entry> {
        let behind = |parse: &Self, at: usize| parse.position.wrapping_add((at - parse.at) as u64);
        let mut at = self.at + 8;
        while at + 8 <= self.bytes.len() {
            match self.look(at, behind(self, at)) {
                Found::Whole(entry) => {
                    self.gaps += 1;
                    return Some(self.take(entry));
                }
                Found::Begins if self.end == End::Partial => {
                    self.gaps += 1;
                    (self.position, self.at) = (behind(self, at), at);
                    return None;
                }
                Found::Begins | Found::Nothing => at += 8,
            }
        }
        // Nothing is behind it. Of a dead process's ring that is the end, unless its counts say otherwise.
        let skipped = match self.end {
            End::Unknown => return None,
            End::Known => self.bytes.len(),
            // A record may begin in the last bytes, whose beginning does not tell.
            End::Partial => (self.bytes.len().saturating_sub(HEADER_BYTES) & !7).max(self.at),
        };
        self.gaps += u64::from(skipped > self.at);
        (self.position, self.at) = (behind(self, skipped), skipped);
        None
    }
}

impl Iterator for Parse<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        if self.at >= self.bytes.len() {
            return None;
        }
        match self.look(self.at, self.position) {
            Found::Whole(entry) => Some(self.take(entry)),
            Found::Begins if self.end == End::Partial => None,
            Found::Begins | Found::Nothing => self.resynchronise(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: u64 = 0x0123_4567_89AB_CDEF;

    /// Records as a lane writes them, from a position on, and where each begins.
    fn written(bodies: &[Vec<u8>], mut position: u64) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for (stamp, body) in bodies.iter().enumerate() {
            starts.push(bytes.len());
            let tag = position ^ KEY;
            bytes.extend(tag.to_le_bytes());
            bytes.extend(fixed(tag, stamp as u64, body.len(), true, sum(body)));
            bytes.extend(body);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            position += (HEADER_BYTES + body.len().next_multiple_of(8)) as u64;
        }
        (bytes, starts)
    }

    proptest! {
        #[test]
        fn damage_costs_the_records_it_touches_and_no_other(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..20),
            damage in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 0..4),
            from in (0_u64..1_000).prop_map(|words| words * 8),
            end in prop_oneof![Just(End::Known), Just(End::Unknown), Just(End::Partial)],
        ) {
            let (mut bytes, starts) = written(&bodies, from);
            let mut is_hit = vec![false; bodies.len()];
            for (at, change) in damage {
                let at = at.index(bytes.len());
                let record = starts.partition_point(|start| *start <= at) - 1;
                // Padding holds nothing.
                if at < starts[record] + HEADER_BYTES + bodies[record].len() {
                    let before = bytes[at];
                    bytes[at] ^= change;
                    is_hit[record] |= bytes[at] != before;
                }
            }
            let found: Vec<_> = Parse::new(&bytes, from, KEY, 100, end).map(|entry| entry.stamp as usize).collect();
            let whole: Vec<_> = (0..bodies.len()).filter(|record| !is_hit[*record]).collect();
            // Two changes of one record may cancel out.
            prop_assert!(whole.iter().all(|record| found.contains(record)), "{found:?} of {whole:?}");
            prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(found.len() <= bodies.len());
        }

        #[test]
        fn the_sum_notices_every_change_of_one_word(
            mut body in prop::collection::vec(any::<u8>(), 1..1_200),
            at in any::<prop::sample::Index>(),
            change in 1_u64..,
        ) {
            let before = sum(&body);
            let word = at.index(body.len()) & !7;
            let end = body.len().min(word + 8);
            let changes = change.to_le_bytes();
            body[word..end].iter_mut().zip(changes).for_each(|(byte, change)| *byte ^= change);
            let is_changed = changes[..end - word].iter().any(|change| *change != 0);
            prop_assert_eq!(before != sum(&body), is_changed);
        }
    }

    #[test]
    fn a_changed_bit_is_noticed_at_every_length() {
        for length in 1..600 {
            let mut body: Vec<u8> = (0..length).map(|at| (at * 151 + length * 7) as u8).collect();
            let before = checksum(sum(&body), KEY, 7, length as u32);
            for bit in 0..length * 8 {
                body[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(checksum(sum(&body), KEY, 7, length as u32), before, "bit {bit} of {length} bytes");
                body[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn a_record_of_an_earlier_lap_stays_invalid_when_its_tag_changes() {
        let (mut bytes, _) = written(&[vec![1; 40]], 64);
        for lap in 1..1_000 {
            let position = 64 + lap * 4_096;
            bytes[..8].copy_from_slice(&(position ^ KEY).to_le_bytes());
            assert_eq!(Parse::new(&bytes, position, KEY, 100, End::Unknown).next(), None);
        }
    }

    #[test]
    fn a_record_in_part_waits_for_the_rest() {
        let (bytes, starts) = written(&[vec![1; 40], vec![2; 40]], 64);
        for length in starts[1] + 8..bytes.len() {
            let mut parse = Parse::new(&bytes[..length & !7], 64, KEY, 100, End::Partial);
            assert_eq!(parse.by_ref().count(), 1);
            assert_eq!((parse.position(), parse.gaps()), (64 + starts[1] as u64, 0));
        }
    }
}
