//! A lane in memory that is damaged as a fuzzer says, and what must still be true of it.

use std::{cell::RefCell, rc::Rc};

use super::{
    lane::{Lane, Memory},
    parse::{HEADER_BYTES, sum},
    recover::{Left, parse_ring},
};

const KEY: u64 = 0x5EED_CAFE_F00D_D00D;
const RING_BYTES: usize = 2_048;
const BODY_BYTES_MAX: usize = 120;

/// A lane's bytes.
#[derive(Clone, Debug)]
struct Bytes(Rc<RefCell<Vec<u8>>>);

impl Memory for Bytes {
    fn write(&self, at: usize, bytes: &[u8]) {
        self.0.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn seal(&self, at: usize, word: u64) {
        self.write(at, &word.to_le_bytes());
    }

    fn read(&self, at: usize, length: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.borrow()[at..at + length]);
    }

    fn store_released(&self, _: u64, _: u64) {}

    fn store_recorded(&self, _: u64) {}
}

/// The first byte says how many laps were written before, the next ones how long each record is, until one that is zero; what
/// follows are pairs of a place in the ring and a change of the byte there.
pub(crate) fn damage_a_lane(input: &[u8]) {
    let Some((laps, input)) = input.split_first() else { return };
    let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (lengths, damage) = input.split_at(end);
    let bytes = Bytes(Rc::new(RefCell::new(vec![0; RING_BYTES])));
    let lane = Lane::new(bytes.clone(), RING_BYTES, KEY, RING_BYTES, BODY_BYTES_MAX);
    let push = |stamp: u64, length: usize| {
        let body: Vec<u8> = (0..length).map(|index| (stamp as usize * 31 + index) as u8).collect();
        lane.push(&mut lane.lock(), stamp, (&body, sum(&body)), true, true).is_ok()
    };
    let (mut from, mut stamp) = (0, 0);
    for lap in 0..u64::from(*laps) {
        stamp += u64::from(push(stamp, lap as usize % BODY_BYTES_MAX));
        if lap % 7 != 6 {
            from = lane.release(lane.head(), stamp);
        }
    }
    from = lane.release(lane.head(), stamp).max(from);
    // What is in the ring now: each with its place, and how long it is.
    let first = stamp;
    let mut places = Vec::new();
    for length in lengths {
        let at = lane.head();
        let length = usize::from(*length) % BODY_BYTES_MAX;
        if push(stamp, length) {
            places.push((at, HEADER_BYTES + length));
            stamp += 1;
        }
    }
    let whole = bytes.0.borrow();
    let mut changed = whole.clone();
    for change in damage.chunks_exact(3) {
        changed[usize::from(u16::from_le_bytes([change[0], change[1]])) % RING_BYTES] ^= change[2];
    }
    // How many words of each record differ. Padding holds nothing.
    let is_changed = |position: u64| {
        let at = (position % RING_BYTES as u64) as usize;
        whole[at] != changed[at]
    };
    let changed_words = |(start, length): &(u64, usize)| {
        let offsets: Vec<u64> = (0..*length as u64).collect();
        offsets.chunks(8).filter(|word| word.iter().any(|offset| is_changed(start + offset))).count()
    };
    let changes: Vec<usize> = places.iter().map(changed_words).collect();
    let (left, gaps) = parse_ring(&changed, from, KEY, BODY_BYTES_MAX);
    let record_of = |left: &Left| {
        let start = left.next - (HEADER_BYTES + left.body.len().next_multiple_of(8)) as u64;
        places.iter().position(|(place, _)| *place == start)
    };
    // Two changed words of one record can cancel each other out in its checksum: a fuzzer finds such pairs, and they show
    // nothing about the parser. What such a record says is arbitrary, and its length hides those behind it.
    if left.iter().any(|left| record_of(left).is_some_and(|record| changes[record] > 1)) {
        return;
    }
    let found: Vec<u64> = left.iter().map(|left| left.stamp).collect();
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "in order, and none twice: {found:?}");
    assert!(found.iter().all(|found| (first..stamp).contains(found)), "no bytes of an earlier lap: {found:?}");
    for (index, changes) in changes.iter().enumerate() {
        let is_found = found.contains(&(first + index as u64));
        assert_eq!(is_found, *changes == 0, "record {index} has {changes} changed words; found: {found:?}");
    }
    let hit = changes.iter().filter(|changes| **changes > 0).count();
    assert!(gaps <= hit as u64, "{gaps} gaps where {hit} records are damaged");
    for left in left {
        let expected = (0..left.body.len()).map(|index| (left.stamp as usize * 31 + index) as u8);
        assert!(left.body.iter().copied().eq(expected), "a damaged record was taken for a whole one");
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whole_records_survive_any_damage(input in prop::collection::vec(any::<u8>(), 0..120)) {
            super::damage_a_lane(&input);
        }
    }
}
