//! A bucket that threads share, under every interleaving that loom can think of. Time is what each thread brings.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release --lib loom_model`.

use loom::{sync::Arc, thread};

use super::{bucket::SharedBucket, quota::Quota};

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
