//! A lane in memory that is damaged as a fuzzer says, and what must still be true of it.

use std::{cell::RefCell, rc::Rc};

use super::{
    lane::{Lane, Memory},
    parse::{HEADER_BYTES, sum},
    recover::parse_ring,
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
    let mut is_hit = vec![false; places.len()];
    let mut changed = bytes.0.borrow().clone();
    for pair in damage.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([pair[0], pair[1]])) % RING_BYTES;
        changed[at] ^= pair[2];
        // Padding holds nothing.
        let touched = places.iter().position(|(start, length)| {
            let place = (at as u64 + RING_BYTES as u64 - start % RING_BYTES as u64) % RING_BYTES as u64;
            place < *length as u64
        });
        if let Some(record) = touched {
            is_hit[record] = true;
        }
    }
    let (left, gaps) = parse_ring(&changed, from, KEY, BODY_BYTES_MAX);
    let found: Vec<u64> = left.iter().map(|left| left.stamp).collect();
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "in order, and none twice: {found:?}");
    assert!(found.iter().all(|found| (first..stamp).contains(found)), "no bytes of an earlier lap: {found:?}");
    for (index, is_hit) in is_hit.iter().enumerate() {
        assert!(*is_hit || found.contains(&(first + index as u64)), "a whole record is missing: {index} of {found:?}");
    }
    assert!(gaps <= is_hit.iter().filter(|is_hit| **is_hit).count() as u64, "a gap where nothing was damaged");
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
