//! Recomputes the checks of a flight file that a fuzzer has mutated.
//!
//! Called by `fuzzing.rs`. Without this, the checks stop nearly every mutation at the first word, and the code behind them is
//! never fuzzed. One byte of the first page that nothing else uses says which checks stay as the fuzzer left them.

use super::{
    header::{self, BYTES, DEFINITION_HEADER_BYTES, Header, LANES_MAX, check_of, checked_count, word},
    parse::{HEADER_BYTES, fixed, sum},
    process::Owner,
};

/// Where the byte is whose bits say which checks stay as they are.
const KEEP_AT: usize = 128;
const KEEP_COUNTS: u8 = 1;
const KEEP_ANCHORS: u8 = 2;
const KEEP_DEFINITIONS: u8 = 4;
const KEEP_RECORDS: u8 = 8;

/// Makes the header valid for this number of bytes, and then every other check that its byte does not exempt. `committed` is
/// what [`Image::records`](super::Image::records) will be called with. In a valid file only unused space changes.
pub(crate) fn reseal(bytes: &mut Vec<u8>, committed: &[(u64, u64)]) {
    bytes.truncate(bytes.len() & !7);
    let Some(header) = reseal_header(bytes) else { return };
    let keep = bytes[KEEP_AT];
    if keep & KEEP_COUNTS == 0 {
        reseal_counts(bytes, header.lanes);
    }
    if keep & KEEP_ANCHORS == 0 {
        reseal_anchors(bytes);
    }
    let lanes_at = header.lane_at(0);
    if keep & KEEP_DEFINITIONS == 0 {
        reseal_definitions(&mut bytes[BYTES..lanes_at]);
    }
    if keep & KEEP_RECORDS == 0 {
        for lane in 0..header.lanes {
            let released = word(bytes, header::lane_line(lane)[0]).and_then(header::count_of).unwrap_or(0);
            let start = header.lane_at(lane);
            let ring = &mut bytes[start..start + header.lane_bytes as usize];
            for from in [released, committed.get(lane).map_or(0, |committed| committed.0)] {
                reseal_records(ring, from & !7, &header);
            }
        }
    }
}

/// Makes the sizes agree with each other and with the number of bytes; `None` if there is no room for a lane.
fn reseal_header(bytes: &mut [u8]) -> Option<Header> {
    let room = bytes.len().checked_sub(BYTES).filter(|room| *room >= 8)?;
    let lanes = u32::from_le_bytes(*bytes.get(12..)?.first_chunk()?) as usize;
    let lanes = (lanes.wrapping_sub(1) % LANES_MAX + 1).min(room / 8);
    let lane_bytes = ((word(bytes, 24)? % (room / lanes + 1) as u64) & !7).max(8);
    let header = Header {
        file_bytes: bytes.len() as u64,
        lanes,
        lane_bytes,
        definitions_at: BYTES as u64,
        definitions_bytes: room as u64 - lanes as u64 * lane_bytes,
        run: *bytes.get(48..)?.first_chunk()?,
        owner: Owner {
            boot: *bytes.get(64..)?.first_chunk()?,
            pid: u32::from_le_bytes(*bytes.get(80..)?.first_chunk()?),
            started: word(bytes, 88)?,
        },
        key: word(bytes, 96)?,
    };
    let page = header.encode();
    for part in [0..header::FLAGS_AT, header::CHECK_AT..header::CHECK_AT + 8] {
        bytes[part.clone()].copy_from_slice(&page[part]);
    }
    Some(header)
}

fn reseal_counts(bytes: &mut [u8], lanes: usize) {
    for [released, before, taken, complement] in (0..lanes).map(header::lane_line) {
        for at in [released, before] {
            let count = word(bytes, at).unwrap_or(0) >> 16;
            put(bytes, at, checked_count(count));
        }
        put(bytes, complement, !word(bytes, taken).unwrap_or(0));
    }
}

/// Anchors that are all zeros were never written, and stay so.
fn reseal_anchors(bytes: &mut [u8]) {
    let pairs = header::PAIRS_AT.into_iter().chain((0..header::BREAKS_MAX).map(header::break_at));
    for (at, count) in pairs.map(|at| (at, 6)).chain([(header::FIRST_AT, 3)]) {
        let words: Vec<u64> = (0..count).map(|index| word(bytes, at + index * 8).unwrap_or(0)).collect();
        if words.iter().any(|word| *word != 0) {
            put(bytes, at + count * 8, check_of(&words));
        }
    }
}

fn reseal_definitions(mut rest: &mut [u8]) {
    while let Some((header, tail)) = rest.split_first_chunk_mut::<DEFINITION_HEADER_BYTES>() {
        let [a, b, c, d, e, f, g, h, ..] = *header;
        let length = u32::from_le_bytes([e, f, g, h]) as usize;
        let Some(definition) = tail.get(..length) else { return };
        *header = header::definition_header(u32::from_le_bytes([a, b, c, d]), definition);
        rest = tail.get_mut(length.next_multiple_of(8)..).unwrap_or_default();
    }
}

/// Wherever a tag is right and the length possible, the checksum becomes right.
fn reseal_records(ring: &mut [u8], from: u64, header: &Header) {
    let turned = (from % ring.len() as u64) as usize;
    ring.rotate_left(turned);
    let mut at = 0;
    while at + HEADER_BYTES <= ring.len() {
        let third = word(ring, at + 16).unwrap_or(0) as u32;
        let (length, is_counted) = ((third & !(1 << 31)) as usize, third >> 31 != 0);
        let start = at + HEADER_BYTES;
        let tag = from.wrapping_add(at as u64) ^ header.key;
        let is_record = word(ring, at) == Some(tag) && length <= header.record_bytes_max().min(ring.len() - start);
        if is_record {
            let stamp = word(ring, at + 8).unwrap_or(0);
            let words = fixed(tag, stamp, length, is_counted, sum(&ring[start..start + length]));
            ring[at + 8..start].copy_from_slice(&words);
            at = start + length.next_multiple_of(8);
        } else {
            at += 8;
        }
    }
    ring.rotate_right(turned);
}

fn put(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
}
