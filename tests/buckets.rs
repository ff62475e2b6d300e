//! Buckets by themselves: what they promise as properties, beside an oracle and beside governor, and under real threads.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use governor::{RateLimiter, clock::FakeRelativeClock};
use l0::{
    Clock, ManualClock, Timestamp,
    limits::{Denied, KeyedTokenBuckets, Permit, Quota, TokenBucket},
};
use proptest::prelude::*;

fn manual() -> (Clock, ManualClock) {
    Clock::manual(Timestamp::from_unix_ns(1_700_000_000_000_000_000))
}

/// A rate from one a day to hundreds of millions a second, and a burst.
fn quotas() -> impl Strategy<Value = Quota> {
    let period = prop_oneof![
        Just(Duration::from_secs(1)),
        Just(Duration::from_secs(60)),
        Just(Duration::from_secs(86_400)),
        (1_u64..10_000_000_000).prop_map(Duration::from_nanos),
    ];
    let tokens = prop_oneof![1_u64..50, 1_u64..5_000_000];
    (tokens, period, 1_u64..40).prop_filter_map("a quota that can be kept", |(tokens, period, burst)| {
        Quota::try_per(tokens, period).ok().map(|quota| quota.burst(burst)).filter(|quota| quota.validate().is_ok())
    })
}

/// Tokens with the moment at which they were taken, in nanoseconds since the beginning.
#[derive(Debug, Default)]
struct Taken(Vec<(u128, u64)>);

impl Taken {
    /// In every window no more than `burst + rate * t` was taken, to the nanosecond; the sides of it as they were.
    fn is_within(&self, burst: u64, tokens: u64, period: Duration) {
        for (first, (from, _)) in self.0.iter().enumerate() {
            let mut sum = 0_u128;
            for (at, n) in &self.0[first..] {
                sum += u128::from(*n);
                let passed = (at - from) * u128::from(tokens);
                let most = u128::from(burst) * period.as_nanos() + passed;
                assert!(sum * period.as_nanos() <= most, "{sum} within {} ns", at - from);
            }
        }
    }
}

/// Steps that mean something whatever the rate: parts of the time a token takes.
fn steps() -> impl Strategy<Value = Vec<(u32, u64)>> {
    prop::collection::vec((prop_oneof![Just(0_u32), 0_u32..5, 0_u32..3_000], 0_u64..6), 1..60)
}

fn interval_ns(quota: Quota) -> u128 {
    (quota.period().as_nanos() / u128::from(quota.tokens())).max(1)
}

fn advance(time: &ManualClock, quota: Quota, step: u32) -> u128 {
    // A hundredth of an interval each, and a nanosecond or so.
    let ns = interval_ns(quota) * u128::from(step) / 100 + u128::from(step % 3);
    time.advance(Duration::from_nanos(u64::try_from(ns).unwrap()));
    ns
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_window_has_more_than_its_burst_and_rate_and_waits_are_exact(quota in quotas(), steps in steps()) {
        let (clock, time) = manual();
        let bucket = TokenBucket::with_clock(quota, clock);
        let (mut now, mut taken) = (0_u128, Taken::default());
        for (step, n) in steps {
            now += advance(&time, quota, step);
            let before = bucket.peek();
            match bucket.check_n(n) {
                Ok(decision) => {
                    taken.0.push((now, n));
                    prop_assert!(n == 0 || decision.remaining() < before.limit());
                }
                Err(Denied::RetryAfter { wait, decision }) => {
                    prop_assert_eq!(decision.remaining(), before.remaining(), "a refusal changes nothing");
                    prop_assert!(before.remaining() < n && n <= quota.max_burst());
                    time.advance(wait - Duration::from_nanos(1));
                    prop_assert!(bucket.check_n(n).is_err(), "a nanosecond before the time");
                    time.advance(Duration::from_nanos(1));
                    now += wait.as_nanos();
                    prop_assert!(bucket.check_n(n).is_ok(), "at the time");
                    taken.0.push((now, n));
                }
                Err(Denied::ExceedsBurst { cost, burst, .. }) => prop_assert!(cost == n && n > burst),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
        taken.is_within(quota.max_burst(), quota.tokens(), quota.period());
        let left = bucket.peek().remaining();
        let more = (0..=left).filter(|_| bucket.check().is_ok()).count() as u64;
        prop_assert_eq!(more, left, "what remains is how many more pass");
        time.advance(bucket.peek().reset_after());
        prop_assert_eq!(bucket.peek().remaining(), quota.max_burst());
    }

    #[test]
    fn permits_mint_nothing(quota in quotas(), steps in steps(), choices in prop::collection::vec(any::<u32>(), 60)) {
        let (clock, time) = manual();
        let bucket = TokenBucket::with_clock(quota, clock);
        let (mut now, mut taken) = (0_u128, Taken::default());
        let mut held: Vec<(Permit<'_>, usize)> = Vec::new();
        for ((step, n), choice) in steps.into_iter().zip(choices) {
            now += advance(&time, quota, step);
            if choice % 10 < 6 || held.is_empty() {
                if let Ok(permit) = bucket.reserve(n) {
                    taken.0.push((now, n));
                    held.push((permit, taken.0.len() - 1));
                }
            } else {
                let (permit, index) = held.swap_remove(choice as usize % held.len());
                let used = u64::from(choice / 10) % (taken.0[index].1 + 1);
                let _ = permit.commit_actual(used);
                taken.0[index].1 = used;
            }
        }
        held.into_iter().for_each(|(permit, _)| drop(permit));
        taken.is_within(quota.max_burst(), quota.tokens(), quota.period());
    }

    #[test]
    fn to_reserve_and_give_back_at_once_changes_nothing(quota in quotas(), steps in steps()) {
        let (clock, time) = manual();
        let bucket = TokenBucket::with_clock(quota, clock);
        for (step, n) in steps {
            advance(&time, quota, step);
            let before = bucket.peek();
            if let Ok(permit) = bucket.reserve(n) {
                permit.refund();
            }
            let after = bucket.peek();
            prop_assert_eq!((after.remaining(), after.reset_after()), (before.remaining(), before.reset_after()));
            let _ = bucket.check();
        }
    }

    #[test]
    fn a_change_of_quota_refills_nothing(first in quotas(), second in quotas(), steps in steps()) {
        let (clock, time) = manual();
        let bucket = TokenBucket::with_clock(first, clock);
        let (mut now, mut taken) = (0_u128, Taken::default());
        for (index, (step, n)) in steps.into_iter().enumerate() {
            now += advance(&time, if index % 2 == 0 { first } else { second }, step);
            if step % 4 == 0 {
                bucket.set_quota(if index % 3 == 0 { first } else { second });
            }
            if bucket.check_n(n).is_ok() {
                taken.0.push((now, n));
            }
        }
        let faster = if u128::from(first.tokens()) * second.period().as_nanos()
            >= u128::from(second.tokens()) * first.period().as_nanos() { first } else { second };
        taken.is_within(first.max_burst().max(second.max_burst()), faster.tokens(), faster.period());
    }

    #[test]
    fn whoever_asks_often_gets_the_rate(quota in quotas(), every in 1_u64..5_000, polls in 100_u64..2_000) {
        let (clock, time) = manual();
        let bucket = TokenBucket::with_clock(quota, clock);
        while bucket.check().is_ok() {}
        let every = Duration::from_nanos(every * 1_000);
        let mut passed = 0;
        for _ in 0..polls {
            time.advance(every);
            while bucket.check().is_ok() {
                passed += 1;
            }
        }
        // Between two polls no more than a burst can gather.
        let gained = (every.as_nanos() * u128::from(quota.tokens())) as f64 / quota.period().as_nanos() as f64;
        if gained <= quota.max_burst() as f64 - 1.0 {
            // Rounding up costs an eighth of a nanosecond a token at most, where a token takes less than a tenth of a second.
            let least = gained * polls as f64 * (1.0 - 1.0 / (8.0 * interval_ns(quota) as f64)) - 1.0;
            prop_assert!(passed as f64 >= least, "{passed} of {least}");
        }
    }

    #[test]
    fn governor_says_the_same(
        interval in prop_oneof![1_u64..50, 1_u64..100_000_000_000],
        burst in 1_u32..30,
        steps in prop::collection::vec((0_u64..400, 1_u32..35), 1..120),
    ) {
        let interval = Duration::from_nanos(interval);
        let theirs = governor::Quota::with_period(interval).unwrap().allow_burst(NonZeroU32::new(burst).unwrap());
        let their_clock = FakeRelativeClock::default();
        let governor = RateLimiter::direct_with_clock(theirs, their_clock.clone());
        let (clock, time) = manual();
        let bucket = TokenBucket::with_clock(Quota::try_per(1, interval).unwrap().burst(burst.into()), clock);
        for (step, n) in steps {
            let step = interval * u32::try_from(step).unwrap() / 100;
            their_clock.advance(step);
            time.advance(step);
            let said = governor.check_n(NonZeroU32::new(n).unwrap());
            match bucket.check_n(n.into()) {
                Ok(_) => prop_assert!(matches!(said, Ok(Ok(())))),
                Err(Denied::RetryAfter { wait, .. }) => {
                    let Ok(Err(not_until)) = said else { return Err(TestCaseError::fail("governor lets it pass")) };
                    let now = governor::clock::Clock::now(&their_clock);
                    prop_assert_eq!(not_until.wait_time_from(now), wait);
                }
                Err(_) => prop_assert!(said.is_err(), "more than the burst"),
            }
        }
    }

    #[test]
    fn a_table_of_keys_is_a_bucket_each(quota in quotas(), steps in prop::collection::vec((0_u32..300, 0_u8..6, 0_u64..4), 1..150)) {
        let (clock, time) = manual();
        let table: KeyedTokenBuckets<String> = KeyedTokenBuckets::with_clock(quota, clock.clone()).max_keys(6);
        let own = quota.burst(quota.max_burst() + 3);
        table.set_quota("5".to_owned(), own);
        let each: Vec<_> = (0..6)
            .map(|key| TokenBucket::with_clock(if key == 5 { own } else { quota }, clock.clone()))
            .collect();
        for (step, key, n) in steps {
            advance(&time, quota, step);
            let (found, expected) = (table.check_n(key.to_string().as_str(), n), each[usize::from(key)].check_n(n));
            prop_assert_eq!(format!("{found:?}"), format!("{expected:?}"));
            let peeked = table.peek(key.to_string().as_str());
            prop_assert_eq!(format!("{peeked:?}"), format!("{:?}", each[usize::from(key)].peek()));
        }
        prop_assert_eq!(table.overflowed(), 0);
    }
}

/// Has this many threads do it at the same time, again and again; the sum of what they say.
fn together(threads: usize, work: impl Fn(usize) -> u64 + Sync) -> u64 {
    let (start, sum) = (Barrier::new(threads), AtomicU64::new(0));
    thread::scope(|scope| {
        for index in 0..threads {
            let (start, sum, work) = (&start, &sum, &work);
            scope.spawn(move || {
                start.wait();
                sum.fetch_add(work(index), Ordering::Relaxed);
            });
        }
    });
    sum.into_inner()
}

#[test]
fn threads_on_a_clock_that_stands_still_share_exactly_the_burst() {
    const BURST: u64 = 30_000;
    let quota = Quota::per_second(7).burst(BURST);
    let (clock, _time) = manual();
    let bucket = TokenBucket::with_clock(quota, clock.clone());
    assert_eq!(together(8, |_| (0..BURST).filter(|_| bucket.check().is_ok()).count() as u64), BURST);
    let table = KeyedTokenBuckets::<u64>::with_clock(quota, clock.clone());
    let sum = together(8, |_| (0..BURST * 3).filter(|n| table.check(&(n % 3)).is_ok()).count() as u64);
    assert_eq!(sum, BURST * 3);
    // With permits that come and go, and quotas that change, those that stay are the burst.
    let bucket = TokenBucket::with_clock(quota, clock);
    let sum = together(8, |thread| {
        let mut used = 0;
        for n in 0..BURST {
            let Ok(permit) = bucket.reserve(1 + n % 3) else { continue };
            if thread == 0 && n % 64 == 0 {
                bucket.set_quota(Quota::per_second(7 + n % 2).burst(BURST));
            }
            match n % 4 {
                0 => permit.refund(),
                1 => {
                    let _ = permit.commit_actual(1);
                    used += 1;
                }
                _ => {
                    drop(permit);
                    used += 1 + n % 3;
                }
            }
        }
        used
    });
    let left = bucket.peek().remaining();
    assert!(left < 3 && sum + left <= BURST && sum + left + 64 >= BURST, "{sum} used, {left} left");
}

#[test]
fn extremes_are_refused_or_kept_and_never_pass_by_an_overflow() {
    let huge = [1, 2, 9, 1 << 31, 1 << 32, 1 << 62, u64::MAX / 2, u64::MAX - 1, u64::MAX];
    let mut quotas = vec![Quota::per_second(0), Quota::per_minute(5).burst(0), Quota::per_day(1).burst(300_000)];
    for n in huge {
        quotas.extend([
            Quota::per_second(n),
            Quota::per_day(n),
            Quota::per_hour(1).burst(n),
            Quota::per_second(n).burst(3),
        ]);
    }
    for period in [Duration::from_nanos(1), Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_secs(1 << 34)]
    {
        for n in huge {
            quotas.extend(Quota::try_per(n, period));
        }
    }
    for quota in quotas {
        for advance in [Duration::ZERO, Duration::from_secs(1), Duration::MAX] {
            let (clock, time) = manual();
            time.advance(advance);
            let bucket = TokenBucket::with_clock(quota, clock);
            let limit = bucket.peek().limit();
            assert!(limit <= quota.max_burst(), "{quota:?}");
            for n in huge {
                let left = bucket.peek().remaining();
                match bucket.check_n(n) {
                    Ok(decision) => {
                        assert!(n <= left && decision.remaining() == left - n, "{quota:?} took {n} of {left}")
                    }
                    Err(Denied::ExceedsBurst { burst, .. }) => assert!(n > limit && burst == limit, "{quota:?}: {n}"),
                    Err(Denied::RetryAfter { wait, .. }) => assert!(n > left && n <= limit && !wait.is_zero()),
                    Err(other) => panic!("{other}"),
                }
                bucket.peek().headers();
                assert!(!format!("{bucket:?}").is_empty());
            }
            if let Ok(permit) = bucket.reserve(1) {
                let _ = permit.commit_actual(u64::MAX);
            }
            bucket.set_quota(Quota::per_second(1));
            bucket.set_quota(quota);
            assert!(bucket.peek().remaining() <= limit);
        }
    }
    let error = bucket_error(Quota::per_minute(10), 11);
    assert!(error.to_string().contains("exceeds the burst of 10"), "{error}");
    assert!(error.retry_after().is_none() && error.headers().iter().all(|(name, _)| *name != "Retry-After"));
    assert!(bucket_error(Quota::per_minute(0), 1).to_string().contains("nothing may pass"));
}

fn bucket_error(quota: Quota, n: u64) -> Denied {
    TokenBucket::new(quota).check_n(n).unwrap_err()
}

#[test]
fn retry_after_in_whole_seconds_is_enough() {
    for (quota, millis) in
        [(Quota::per_second(1_000), 1), (Quota::per_minute(40), 1_500), (Quota::per_second(1), 1_000)]
    {
        let (clock, time) = manual();
        let bucket = TokenBucket::with_clock(quota.burst(1), clock);
        bucket.check().unwrap();
        let denied = bucket.check().unwrap_err();
        assert_eq!(denied.retry_after(), Some(Duration::from_millis(millis)));
        let (_, seconds) = denied.headers().into_iter().find(|(name, _)| *name == "Retry-After").unwrap();
        let seconds: u64 = seconds.parse().unwrap();
        assert!(seconds >= 1 && seconds * 1_000 >= millis && seconds * 1_000 < millis + 1_000);
        time.advance(Duration::from_secs(seconds));
        bucket.check().unwrap();
    }
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        thread::yield_now();
    }
}

#[test]
fn who_waits_is_served_in_the_order_of_coming_however_much_others_ask_for() {
    let (clock, time) = manual();
    let bucket = Arc::new(TokenBucket::with_clock(Quota::per_second(1).burst(5), clock));
    while bucket.check().is_ok() {}
    let served = Arc::new(Mutex::new(Vec::new()));
    let wants = [5, 1, 3, 1];
    let waiting: Vec<_> = wants
        .iter()
        .enumerate()
        .map(|(index, n)| {
            let (own, served, n) = (Arc::clone(&bucket), Arc::clone(&served), *n);
            let waiting = thread::spawn(move || {
                own.acquire(n, Duration::from_secs(60)).unwrap();
                served.lock().unwrap().push(index);
            });
            // It is in line when it can be seen there.
            let line = format!("waiting: {}", index + 1);
            wait_for("a place in line", || format!("{bucket:?}").contains(&line));
            waiting
        })
        .collect();
    assert!(bucket.check().is_err(), "who does not wait does not overtake");
    for (seconds, expected) in [(4, 0), (1, 1), (1, 2), (3, 3), (1, 4)] {
        assert!(served.lock().unwrap().len() <= expected);
        time.advance(Duration::from_secs(seconds));
        wait_for("who is next", || served.lock().unwrap().len() >= expected);
    }
    waiting.into_iter().for_each(|waiting| waiting.join().unwrap());
    assert_eq!(*served.lock().unwrap(), [0, 1, 2, 3]);
    assert_eq!(bucket.peek().remaining(), 0);
}

#[test]
fn a_wait_ends_by_its_timeout_and_leaves_nothing_behind() {
    let (clock, _time) = manual();
    let bucket = TokenBucket::with_clock(Quota::per_hour(1).burst(4), clock);
    let denied = bucket.acquire(5, Duration::MAX).unwrap_err();
    assert!(matches!(denied, Denied::ExceedsBurst { .. }));
    bucket.acquire(4, Duration::ZERO).unwrap();
    let before = bucket.peek();
    let denied = bucket.acquire(2, Duration::from_secs(3_600)).unwrap_err();
    assert_eq!(denied.retry_after(), Some(Duration::from_secs(7_200)), "known at once to take longer");
    let denied = bucket.acquire(1, Duration::from_millis(1)).unwrap_err();
    assert_eq!(denied.retry_after(), Some(Duration::from_secs(3_600)));
    assert_eq!(bucket.peek().reset_after(), before.reset_after());
}

#[test]
fn what_is_given_back_serves_who_waits() {
    let bucket = TokenBucket::new(Quota::per_day(1).burst(2));
    let permit = bucket.reserve(2).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| bucket.acquire(2, Duration::from_secs(86_400 * 3)));
        wait_for("the wait", || format!("{bucket:?}").contains("waiting: 1"));
        permit.refund();
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(bucket.peek().remaining(), 0);
}

#[test]
fn a_flood_of_keys_neither_opens_the_gate_nor_shuts_it() {
    let (clock, time) = manual();
    let table = KeyedTokenBuckets::<u64>::with_clock(Quota::per_minute(3), clock).max_keys(1_000);
    let known: Vec<_> = (0..1_000).map(|key| (0..9).filter(|_| table.check(&key).is_ok()).count()).collect();
    assert_eq!(known, vec![3; 1_000]);
    // A million more: they share three charges a shard, nobody who is known gets a fresh bucket.
    let passed = (1_000..1_001_000_u64).filter(|key| table.check(key).is_ok()).count();
    assert!((1..=3 * 64).contains(&passed), "{passed}");
    assert_eq!((table.len(), table.overflowed()), (1_000, 1_000_000));
    assert!((0..1_000_u64).all(|key| table.check(&key).is_err()));
    time.advance(Duration::from_secs(20));
    assert!((0..1_000_u64).all(|key| table.check(&key).is_ok()), "who is known goes on");
    time.advance(Duration::from_secs(60));
    assert!((5_000_000..5_001_000_u64).all(|key| table.check(&key).is_ok()), "who is full again makes room");
    assert_eq!(table.len(), 1_000);
}

#[test]
fn keys_that_come_and_go_between_threads_get_no_more_than_theirs() {
    // In a table of two shards, and in one.
    for (keys, max_keys) in [(600, 512), (60, 40)] {
        let (clock, time) = manual();
        let quota = Quota::per_second(10).burst(3);
        let table = KeyedTokenBuckets::<usize>::with_clock(quota, clock).max_keys(max_keys);
        let passed: Vec<AtomicU64> = (0..keys).map(|_| AtomicU64::new(0)).collect();
        let rounds = keys * 200;
        together(4, |thread| {
            let mut state = thread as u64 + 1;
            for round in 0..rounds {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let key = (state >> 33) as usize % keys;
                passed[key].fetch_add(u64::from(table.check(&key).is_ok()), Ordering::Relaxed);
                // Ten steps, of one token each; few get a quota of their own, the same.
                if thread == 0 && round % (rounds / 10) == rounds / 20 {
                    time.advance(Duration::from_millis(100));
                    table.set_quota(key, quota);
                }
            }
            0
        });
        assert!(table.overflowed() > 0);
        for (key, passed) in passed.iter().enumerate() {
            let passed = passed.load(Ordering::Relaxed);
            assert!(passed <= 3 + 10, "{passed} of key {key} of {keys}, asked some 800 times");
        }
        let sum: u64 = passed.iter().map(|passed| passed.load(Ordering::Relaxed)).sum();
        assert!(sum > 3 * max_keys as u64, "{sum} passed");
    }
}

#[test]
fn permits_come_back_in_any_order_and_in_any_thread() {
    let (clock, _time) = manual();
    let bucket = TokenBucket::with_clock(Quota::per_minute(10), clock);
    for seed in 0..200_usize {
        let mut held: Vec<_> = (0..10).map(|_| bucket.reserve(1).unwrap()).collect();
        while !held.is_empty() {
            held.swap_remove((seed * 7 + held.len() * 13) % held.len()).refund();
        }
        assert_eq!(bucket.peek().remaining(), 10, "{seed}");
    }
    let refused = together(4, |_| (0..5_000).filter(|_| bucket.reserve(1).map(Permit::refund).is_err()).count() as u64);
    assert_eq!((refused, bucket.peek().remaining()), (0, 10), "four at a time are never more than ten");
    // A wait that fails leaves what others hold as it was.
    let permit = bucket.reserve(6).unwrap();
    assert!(bucket.acquire(5, Duration::ZERO).is_err());
    permit.refund();
    assert_eq!(bucket.peek().remaining(), 10);
}

#[test]
fn a_quota_of_nothing_or_next_to_nothing_forgives_nothing() {
    let (clock, time) = manual();
    for (quota, clamp) in [
        (Quota::per_day(1_000), Quota::per_second(0)),
        (Quota::per_day(1_000_000), Quota::per_hour(1)),
        (Quota::per_second(1_000).burst(100_000), Quota::per_day(1)),
        (Quota::per_day(1_000), Quota::per_minute(5).burst(0)),
    ] {
        let bucket = TokenBucket::with_clock(quota, clock.clone());
        let keyed = KeyedTokenBuckets::<u8>::with_clock(quota, clock.clone());
        bucket.check_n(quota.max_burst()).unwrap();
        keyed.check_n(&1, quota.max_burst()).unwrap();
        bucket.set_quota(clamp);
        keyed.set_quota(1, clamp);
        assert!(bucket.check().is_err() && keyed.check(&1).is_err());
        bucket.set_quota(quota);
        keyed.set_quota(1, quota);
        assert_eq!((bucket.peek().remaining(), keyed.peek(&1).remaining()), (0, 0), "{quota:?} by way of {clamp:?}");
        time.advance(quota.period());
        assert!(bucket.peek().remaining() > quota.max_burst() / 2 || quota.period() < Duration::from_secs(60));
    }
}

#[test]
fn who_can_never_pass_does_not_wait_and_who_does_not_wait_does_not_overtake() {
    let (clock, time) = manual();
    let bucket = TokenBucket::with_clock(Quota::per_second(1).burst(2), clock);
    while bucket.check().is_ok() {}
    thread::scope(|scope| {
        let waiting: Vec<_> = (1..=2)
            .map(|place| {
                let waiting = scope.spawn(|| bucket.acquire(1, Duration::from_secs(60)));
                wait_for("a place in line", || format!("{bucket:?}").contains(&format!("waiting: {place}")));
                waiting
            })
            .collect();
        assert!(matches!(bucket.acquire(100, Duration::MAX), Err(Denied::ExceedsBurst { .. })), "at once");
        time.advance(Duration::from_secs(2));
        let overtook = bucket.check().is_ok() && !waiting.iter().all(|waiting| waiting.is_finished());
        assert!(!overtook);
        waiting.into_iter().for_each(|waiting| assert!(waiting.join().unwrap().is_ok()));
    });
    // One who stands in line for more than the bucket will ever hold from now on is told so.
    thread::scope(|scope| {
        let waiting = scope.spawn(|| bucket.acquire(2, Duration::from_secs(60)));
        wait_for("a place in line", || format!("{bucket:?}").contains("waiting: 1"));
        bucket.set_quota(Quota::per_second(0));
        assert!(matches!(waiting.join().unwrap(), Err(Denied::ExceedsBurst { .. })));
    });
}

#[test]
fn waits_on_the_systems_clock_are_woken_and_keep_their_order() {
    let bucket = TokenBucket::new(Quota::per_second(200).burst(1));
    let served = Mutex::new(Vec::new());
    bucket.check().unwrap();
    let permit = bucket.reserve(0);
    drop(permit);
    thread::scope(|scope| {
        for place in 0..3 {
            let (bucket, served) = (&bucket, &served);
            scope.spawn(move || {
                bucket.acquire(1, Duration::from_secs(30)).unwrap();
                served.lock().unwrap().push(place);
            });
            wait_for("a place in line", || {
                format!("{bucket:?}").contains("waiting: ") && !format!("{bucket:?}").contains("waiting: 0")
                    || served.lock().unwrap().len() > place
            });
        }
    });
    assert_eq!(served.into_inner().unwrap().len(), 3);
}
