//! A bucket that threads share, and the slots of many, under every interleaving that loom can think of. Time is what each thread brings.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release --lib loom_model`.

use loom::{sync::Arc, thread};

use super::{
    bucket::SharedBucket,
    quota::{Quota, Rate},
    slots::Slots,
};

const SECOND: u64 = 1_000_000_000;

fn passed(bucket: &SharedBucket, now_ns: u64, n: u64) -> u64 {
    if bucket.take(now_ns, n).is_ok() { n } else { 0 }
}

fn left(bucket: &SharedBucket, now_ns: u64) -> u64 {
    bucket.look(now_ns).remaining()
}

#[test]
fn threads_share_exactly_the_burst() {
    loom::model(|| {
        let bucket = Arc::new(SharedBucket::new(Quota::per_second(1).burst(3)));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let bucket = Arc::clone(&bucket);
                thread::spawn(move || passed(&bucket, 5, 1) + passed(&bucket, 5, 1))
            })
            .collect();
        let sum: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!((sum, left(&bucket, 5)), (3, 0));
    });
}

#[test]
fn a_charge_while_the_quota_changes_is_owed_in_the_new_one() {
    loom::model(|| {
        let bucket = Arc::new(SharedBucket::new(Quota::per_second(10).burst(4)));
        let charger = {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || passed(&bucket, SECOND, 3) + passed(&bucket, SECOND, 1))
        };
        bucket.set_quota(|| SECOND, Quota::per_hour(1).burst(5));
        bucket.set_quota(|| SECOND, Quota::per_second(7).burst(5));
        let sum = charger.join().unwrap();
        assert_eq!((sum, left(&bucket, SECOND)), (4, 1), "what passed is owed, whenever it did");
    });
}

#[test]
fn permits_and_charges_add_up() {
    loom::model(|| {
        let bucket = Arc::new(SharedBucket::new(Quota::per_second(1).burst(5)));
        let trial = {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || match bucket.reserve(9, 4) {
                Ok((_, held)) => {
                    let _ = bucket.settle(|| 9, &held, 1);
                    1
                }
                Err(_) => 0,
            })
        };
        let charged = passed(&bucket, 9, 2);
        let sum = trial.join().unwrap() + charged;
        assert_eq!(left(&bucket, 9), 5 - sum);
        assert!(sum >= 1);
    });
}

#[test]
fn two_refunds_while_time_passes_mint_nothing() {
    loom::model(|| {
        let bucket = Arc::new(SharedBucket::new(Quota::per_second(1).burst(4)));
        let (_, first) = bucket.reserve(0, 2).unwrap();
        let (_, second) = bucket.reserve(0, 2).unwrap();
        let refund = {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || drop(bucket.settle(|| SECOND, &first, 0)))
        };
        let charged = passed(&bucket, SECOND, 1);
        drop(bucket.settle(|| SECOND, &second, 0));
        refund.join().unwrap();
        // Of four, one had come back by itself; of the two permits the rest is given back, in whatever order; what passed is owed.
        assert_eq!(left(&bucket, SECOND), 4 - charged);
    });
}

fn rate() -> Rate {
    Rate::of(Quota::per_second(1).burst(3))
}

fn slots(max_keys: usize) -> Arc<Slots> {
    Arc::new(Slots::new(max_keys, rate()))
}

/// As a bucket of many does it: at once, or else aside.

fn charged(slots: &Slots, tag: u64, now_ns: u64) -> u64 {
    let at_once = slots.find(tag).and_then(|slot| slot.take_at_once(tag, rate(), rate().time(now_ns), 1));
    u64::from(at_once.is_some() || takes(slots, tag, now_ns, 1) == 1)
}

fn takes(slots: &Slots, tag: u64, now_ns: u64, n: u64) -> u64 {
    if slots.take(tag, now_ns, n).refused.is_none() { n } else { 0 }
}

#[test]
fn a_key_that_two_bring_at_once_has_one_slot() {
    loom::model(|| {
        let slots = slots(8);
        let other = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || charged(&slots, 7, SECOND) + charged(&slots, 7, SECOND))
        };
        let sum = charged(&slots, 7, SECOND) + charged(&slots, 7, SECOND) + other.join().unwrap();
        assert_eq!((sum, slots.room().len()), (3, 1));
    });
}

#[test]
fn a_slot_that_is_given_away_is_charged_for_its_new_key_alone() {
    loom::model(|| {
        let slots = slots(1);
        assert_eq!(charged(&slots, 7, 1), 1);
        let known = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || charged(&slots, 7, 5 * SECOND) + charged(&slots, 7, 5 * SECOND))
        };
        let stranger = charged(&slots, 9, 5 * SECOND);
        // One of them has the slot, the other the shared level, and each its burst.
        assert_eq!(known.join().unwrap(), 2);
        let more = |tag| (0..3).map(|_| charged(&slots, tag, 5 * SECOND)).sum::<u64>();
        assert_eq!((stranger, more(9), more(7)), (1, 2, 1));
    });
}

#[test]
fn a_key_that_moves_while_it_is_charged_owes_what_it_owed() {
    loom::model(|| {
        let slots = slots(8);
        (2..6).for_each(|tag| assert_eq!(charged(&slots, tag, SECOND), 1));
        let charger = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || charged(&slots, 2, SECOND) + charged(&slots, 2, SECOND))
        };
        // The first segment has four slots.
        assert_eq!(charged(&slots, 6, SECOND), 1);
        assert_eq!((charger.join().unwrap(), charged(&slots, 2, SECOND), slots.room().len()), (2, 0, 5));
    });
}

#[test]
fn a_key_that_gets_a_quota_of_its_own_while_it_is_charged_owes_what_it_owed() {
    loom::model(|| {
        let slots = slots(8);
        assert_eq!(charged(&slots, 7, SECOND), 1);
        let charger = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || charged(&slots, 7, SECOND) + charged(&slots, 7, SECOND))
        };
        slots.set_rate(7, || SECOND, |_| Rate::of(Quota::per_hour(1).burst(5)));
        assert_eq!(charger.join().unwrap(), 2);
        let left = (0..5).map(|_| charged(&slots, 7, SECOND)).sum::<u64>();
        assert_eq!(left, 2, "three of five are owed");
    });
}

#[test]
fn a_charge_aside_of_a_slot_that_is_given_away_is_no_strangers() {
    loom::model(|| {
        let slots = slots(1);
        assert_eq!(takes(&slots, 7, 1, 1), 1);
        let known = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || takes(&slots, 7, 5 * SECOND, 1))
        };
        assert_eq!(takes(&slots, 9, 5 * SECOND, 1), 1);
        assert_eq!(known.join().unwrap(), 1);
        let more = |tag| (0..3).map(|_| takes(&slots, tag, 5 * SECOND, 1)).sum::<u64>();
        assert_eq!((more(9), more(7)), (2, 2));
    });
}

/// In another shard than those of less.
const FAR: u64 = 1 << 32 | 3;

/// Two shards have more interleavings than there is time for: those with up to three preemptions.
fn of_two_shards(max_keys: usize, model: impl Fn(Arc<Slots>) + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 20_000;
    builder.check(move || model(Arc::new(Slots::with_shards(2, max_keys, rate()))));
}

#[test]
fn a_sweep_of_another_shard_admits_nobody_twice() {
    of_two_shards(2, |slots| {
        assert_eq!(takes(&slots, 4, SECOND, 1) + takes(&slots, 5, SECOND, 1), 2);
        let stranger = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || takes(&slots, FAR, 5 * SECOND, 3))
        };
        let sum = takes(&slots, 4, 5 * SECOND, 2) + takes(&slots, 4, 5 * SECOND, 2);
        stranger.join().unwrap();
        assert!(sum <= 3, "{sum} passed at one moment of a burst of 3");
    });
}

#[test]
fn a_key_that_gets_a_quota_while_its_shard_is_swept_owes_no_more_than_it_took() {
    of_two_shards(1, |slots| {
        assert_eq!(takes(&slots, 4, SECOND, 1), 1);
        let stranger = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || takes(&slots, FAR, 5 * SECOND, 1))
        };
        slots.set_rate(4, || 5 * SECOND, |before| before);
        stranger.join().unwrap();
        assert!(slots.look(4).full_at <= 5 * SECOND);
    });
}

#[test]
fn a_shard_that_grows_while_it_is_swept_has_each_key_once() {
    of_two_shards(5, |slots| {
        (4..8).for_each(|tag| assert_eq!(takes(&slots, tag, SECOND, 1), 1));
        let strangers = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || takes(&slots, FAR, 5 * SECOND, 1) + takes(&slots, FAR + 1, 5 * SECOND, 1))
        };
        takes(&slots, 8, 5 * SECOND, 1);
        strangers.join().unwrap();
        let sum = (0..4).map(|_| takes(&slots, 4, 5 * SECOND, 2)).sum::<u64>();
        assert!(sum <= 3, "{sum} passed at one moment of a burst of 3");
    });
}
