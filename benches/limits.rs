//! What a decision costs, beside the crates people take for it. Every peer has the same quota, the same keys in the same
//! order, and lets everything pass unless the group says otherwise.

use std::{
    hint::black_box,
    num::NonZeroU32,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, RateLimiter};
use l0::limits::{KeyedTokenBuckets, Quota, ScopeConfig, TokenBucket};

/// More than a loop can take.
const PLENTY: u32 = 100_000_000;
const DAILY: u32 = 1_000_000;
const KEYS: usize = 100_000;

/// So slow that a key is not full again between two of its checks, and so much that none is refused.
fn daily() -> Quota {
    Quota::per_day(DAILY.into())
}

fn daily_of_governor() -> governor::Quota {
    let burst = NonZeroU32::new(DAILY).unwrap();
    governor::Quota::with_period(Duration::from_secs(86_400) / DAILY).unwrap().allow_burst(burst)
}

fn plenty() -> governor::Quota {
    governor::Quota::per_second(NonZeroU32::new(PLENTY).unwrap())
}

fn direct(c: &mut Criterion) {
    let mut group = c.benchmark_group("limit_direct");
    group.throughput(Throughput::Elements(1));
    let bucket = TokenBucket::new(Quota::per_second(PLENTY.into()));
    group.bench_function("l0", |b| b.iter(|| assert!(black_box(&bucket).check().is_ok())));
    let limiter = DefaultDirectRateLimiter::direct(plenty());
    group.bench_function("governor", |b| b.iter(|| assert!(black_box(&limiter).check().is_ok())));
    let limiter = ratelimit::Ratelimiter::builder(PLENTY.into()).initial_available(PLENTY.into()).build().unwrap();
    group.bench_function("ratelimit", |b| b.iter(|| assert!(black_box(&limiter).try_wait().is_ok())));
    group.finish();

    let mut group = c.benchmark_group("limit_denied");
    group.throughput(Throughput::Elements(1));
    let bucket = TokenBucket::new(Quota::per_hour(1));
    let _ = bucket.check();
    group.bench_function("l0", |b| b.iter(|| assert!(black_box(&bucket).check().is_err())));
    let limiter = DefaultDirectRateLimiter::direct(governor::Quota::per_hour(NonZeroU32::MIN));
    let _ = limiter.check();
    group.bench_function("governor", |b| b.iter(|| assert!(black_box(&limiter).check().is_err())));
    let limiter = ratelimit::Ratelimiter::builder(1).period(Duration::from_secs(3_600)).build().unwrap();
    group.bench_function("ratelimit", |b| b.iter(|| assert!(black_box(&limiter).try_wait().is_err())));
    group.finish();
}

/// Numbers from 0 in an order that no prefetcher guesses.
fn shuffled() -> Vec<u64> {
    let mut numbers: Vec<u64> = (0..KEYS as u64).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for index in (1..numbers.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        numbers.swap(index, (state >> 33) as usize % (index + 1));
    }
    numbers
}

fn text(number: u64) -> String {
    format!("203.0.{}.{}", number / 256, number % 256)
}

/// Times the loop over the keys, which all have been seen before.
fn over_keys<K>(c: &mut Criterion, group: &str, id: &str, keys: &[K], check: impl Fn(&K) -> bool) {
    assert!(keys.iter().all(&check));
    let mut group = c.benchmark_group(group);
    group.throughput(Throughput::Elements(1));
    let mut next = 0;
    group.bench_function(id, |b| {
        b.iter(|| {
            next = if next + 1 == keys.len() { 0 } else { next + 1 };
            assert!(check(&keys[next]));
        });
    });
    group.finish();
}

fn keyed(c: &mut Criterion) {
    let numbers = shuffled();
    let texts: Vec<String> = numbers.iter().map(|number| text(*number)).collect();
    let buckets = KeyedTokenBuckets::<u64>::new(daily());
    over_keys(c, "limit_keyed_100k", "l0/u64", &numbers, |key| buckets.check(key).is_ok());
    let limiter = DefaultKeyedRateLimiter::<u64>::keyed(daily_of_governor());
    over_keys(c, "limit_keyed_100k", "governor/u64", &numbers, |key| limiter.check_key(key).is_ok());
    let buckets = KeyedTokenBuckets::<String>::new(daily());
    over_keys(c, "limit_keyed_100k", "l0/string", &texts, |key| buckets.check(key.as_str()).is_ok());
    let limiter: DefaultKeyedRateLimiter<String> = RateLimiter::keyed(daily_of_governor());
    over_keys(c, "limit_keyed_100k", "governor/string", &texts, |key| limiter.check_key(key).is_ok());
}

/// The time both threads need for so many decisions each.
fn by_two(iterations: u64, work: impl Fn(u64, usize) + Sync) -> Duration {
    let start = Barrier::new(3);
    thread::scope(|scope| {
        for thread in 0..2 {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                start.wait();
                for iteration in 0..iterations {
                    work(iteration, thread);
                }
                start.wait();
            });
        }
        start.wait();
        let began = Instant::now();
        start.wait();
        began.elapsed()
    })
}

fn contended(c: &mut Criterion) {
    let mut run = |id: &str, work: &(dyn Fn(u64, usize) + Sync)| {
        let mut group = c.benchmark_group("limit_contended");
        group.throughput(Throughput::Elements(2));
        group.bench_function(id, |b| b.iter_custom(|iterations| by_two(iterations, work)));
        group.finish();
    };
    let bucket = TokenBucket::new(Quota::per_second(PLENTY.into()));
    run("l0/one", &|_, _| assert!(bucket.check().is_ok()));
    let limiter = DefaultDirectRateLimiter::direct(plenty());
    run("governor/one", &|_, _| assert!(limiter.check().is_ok()));
    let keys = shuffled();
    let key = |iteration: u64, thread: usize| &keys[(iteration as usize + thread * KEYS / 2) % KEYS];
    let buckets = KeyedTokenBuckets::<u64>::new(daily());
    run("l0/100k", &|iteration, thread| assert!(buckets.check(key(iteration, thread)).is_ok()));
    let limiter = DefaultKeyedRateLimiter::<u64>::keyed(daily_of_governor());
    run("governor/100k", &|iteration, thread| assert!(limiter.check_key(key(iteration, thread)).is_ok()));
}

/// A decision over three scopes, one of them keyed, beside what it is made of.
fn scopes(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let l0 = l0::builder().dir(dir.path()).start().unwrap();
    let define = |name: &str, config: ScopeConfig| l0.limits().define(name, config).unwrap();
    let config = || ScopeConfig::new(Quota::per_second(PLENTY.into()));
    let (all, wide, keyed) =
        (define("all", config()), define("wide", config()), define("keyed", ScopeConfig::new(daily()).keyed()));
    // One key is asked more often than a day's quota allows.
    let busy = define("busy", config().keyed());
    let texts: Vec<String> = shuffled().iter().map(|number| text(*number)).collect();
    assert!(texts.iter().all(|key| keyed.check_key(key).is_ok()));
    let mut group = c.benchmark_group("limit_scopes");
    group.throughput(Throughput::Elements(1));
    let bucket = TokenBucket::new(Quota::per_second(PLENTY.into()));
    group.bench_function("direct", |b| b.iter(|| assert!(black_box(&bucket).check().is_ok())));
    group.bench_function("one", |b| b.iter(|| assert!(black_box(&all).check().is_ok())));
    let mut next = 0;
    group.bench_function("one_of_100k_keys", |b| {
        b.iter(|| {
            next = if next + 1 == KEYS { 0 } else { next + 1 };
            assert!(keyed.check_key(&texts[next]).is_ok());
        });
    });
    group.bench_function("l0", |b| {
        b.iter(|| {
            next = if next + 1 == KEYS { 0 } else { next + 1 };
            let charges = [all.all(), wide.all(), keyed.key(&texts[next])];
            assert!(l0.limits().check_all(&charges).is_ok());
        });
    });
    group.bench_function("one_key", |b| {
        b.iter(|| {
            let charges = [all.all(), wide.all(), busy.key(black_box(&texts[0]))];
            assert!(l0.limits().check_all(&charges).is_ok());
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = direct, keyed, contended, scopes
}
criterion_main!(benches);
