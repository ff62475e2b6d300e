//! What threads share in the crossing, under every interleaving that loom can think of.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release --lib loom_model`.

use loom::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::{
    bell::Bell,
    lane::{Lane, Memory, Wake},
    parse::{End, sum},
};

const CAPACITY: usize = 128;

/// A lane's bytes as relaxed words: a read that no lock orders behind its write may see the old word.
#[derive(Clone)]
struct Words(Arc<Vec<AtomicU64>>);

impl Words {
    fn new() -> Self {
        Self(Arc::new((0..CAPACITY / 8).map(|_| AtomicU64::new(0)).collect()))
    }
}

impl Memory for Words {
    fn write(&self, at: usize, bytes: &[u8]) {
        for (index, word) in bytes.chunks(8).enumerate() {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            self.0[at / 8 + index].store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
    }

    fn seal(&self, at: usize, word: u64) {
        self.0[at / 8].store(word, Ordering::Release);
    }

    fn read(&self, at: usize, length: usize, out: &mut Vec<u8>) {
        for word in &self.0[at / 8..(at + length) / 8] {
            out.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
    }

    fn store_released(&self, _: u64, _: u64) {}

    fn store_recorded(&self, _: u64) {}
}

fn drain(lane: &Lane<Words>, from: &mut u64, found: &mut Vec<u8>) {
    let mut bytes = Vec::new();
    let (head, _) = lane.copy(*from, u64::MAX, &mut bytes);
    let mut end = *from;
    for entry in lane.parse(&bytes, *from, End::Known) {
        found.push(bytes[entry.body][0]);
        end = entry.next;
    }
    assert_eq!(end, head, "everything published is whole");
    if end != *from {
        *from = lane.release(end, 0);
    }
}

#[test]
fn two_threads_and_a_writer_lose_nothing() {
    loom::model(|| {
        let lane = Arc::new(Lane::new(Words::new(), CAPACITY, 7, 64, CAPACITY));
        let pushers: Vec<_> = (1..=2_u8)
            .map(|number| {
                let lane = Arc::clone(&lane);
                thread::spawn(move || {
                    lane.push(&mut lane.lock(), 1, (&[number; 8], sum(&[number; 8])), true, true).is_ok()
                })
            })
            .collect();
        let (mut from, mut found) = (0, Vec::new());
        drain(&lane, &mut from, &mut found);
        let pushed = pushers.into_iter().map(|pusher| pusher.join().unwrap()).filter(|ok| *ok).count();
        drain(&lane, &mut from, &mut found);
        found.sort_unstable();
        assert_eq!((pushed, found), (2, vec![1, 2]));
    });
}

#[test]
fn the_first_record_wakes_a_sleeping_writer() {
    loom::model(|| {
        let lane = Arc::new(Lane::new(Words::new(), CAPACITY, 7, 64, CAPACITY));
        let bell = Arc::new(Bell::new());
        let pusher = {
            let (lane, bell) = (Arc::clone(&lane), Arc::clone(&bell));
            thread::spawn(move || {
                let mut state = lane.lock();
                let pushed = lane.push(&mut state, 1, (&[1; 8], sum(&[1; 8])), true, true).unwrap();
                drop(state);
                if pushed.wake == Wake::First && bell.is_asleep() {
                    bell.ring();
                }
            })
        };
        let (mut from, mut found) = (0, Vec::new());
        while found.is_empty() {
            // A lost wake-up leaves this asleep for ever, which loom reports as a deadlock.
            bell.sleep_while(None, || !lane.has_more(from));
            drain(&lane, &mut from, &mut found);
        }
        pusher.join().unwrap();
    });
}
