//! Jobs: closures beside the pools people take for them, durable jobs against what the disk can do.

use std::{
    fs::File,
    io::Write as _,
    sync::{
        Arc, Barrier, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use l0::{
    Durability, JobEvents, Timestamp,
    jobs::{
        Job, JobContext, JobQueue as _, Schedule, SqliteQueue,
        queue::{ScheduleChange, SchedulePut, WhichSchedules},
    },
};
use serde::{Deserialize, Serialize};

/// Closures between two pauses, in which l0's writer catches up, untimed.
const BATCH: u64 = 10_000;
const THREADS: usize = 2;

/// Counts what ran, and tells when all did.
#[derive(Default)]
struct Done(AtomicU64);

impl Done {
    fn wait(&self, count: u64) {
        while self.0.load(Ordering::Acquire) < count {
            thread::yield_now();
        }
    }

    /// Leaves the processors to those who work.
    fn wait_aside(&self, count: u64) {
        while self.0.load(Ordering::Acquire) < count {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Spawns in batches; each is timed from the first spawn to the end of the last.
fn spawn_batches(iterations: u64, mut spawn: impl FnMut(Arc<Done>), mut pause: impl FnMut()) -> Duration {
    let mut elapsed = Duration::ZERO;
    let mut left = iterations;
    while left > 0 {
        let batch = left.min(BATCH);
        let done = Arc::new(Done::default());
        let start = Instant::now();
        for _ in 0..batch {
            spawn(Arc::clone(&done));
        }
        done.wait(batch);
        elapsed += start.elapsed();
        pause();
        left -= batch;
    }
    elapsed
}

fn run(done: &Done) {
    done.0.fetch_add(1, Ordering::Release);
}

fn job_spawn(c: &mut Criterion) {
    let mut group = c.benchmark_group("job_spawn");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    for (name, events) in [("l0", JobEvents::All), ("l0_no_telemetry", JobEvents::Off)] {
        let dir = tempfile::tempdir().unwrap();
        let l0 = l0::builder().dir(dir.path()).workers(THREADS).job_events(events).start().unwrap();
        // As a program has it: the subscriber is the process's own on every thread.
        let dispatch = tracing::Dispatch::new(tracing_subscriber::layer::SubscriberExt::with(
            tracing_subscriber::registry(),
            l0.layer(),
        ));
        tracing::dispatcher::with_default(&dispatch, || {
            group.bench_function(name, |b| {
                b.iter_custom(|iterations| {
                    let spawn = |done: Arc<Done>| {
                        let work = move |_: &JobContext| {
                            run(&done);
                            Ok(())
                        };
                        drop(l0.jobs().spawn("count", work).unwrap());
                    };
                    spawn_batches(iterations, spawn, || {
                        l0.flush().unwrap();
                        assert_eq!(l0.stats().shed, 0, "a peer that loses records is not compared");
                    })
                });
            });
        });
    }
    let pool = threadpool::ThreadPool::new(THREADS);
    group.bench_function("threadpool", |b| {
        b.iter_custom(|iterations| spawn_batches(iterations, |done| pool.execute(move || run(&done)), || {}));
    });
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().unwrap();
    group.bench_function("rayon", |b| {
        b.iter_custom(|iterations| spawn_batches(iterations, |done| pool.spawn_fifo(move || run(&done)), || {}));
    });
    group.finish();
}

#[derive(Serialize, Deserialize)]
struct Count {
    number: u64,
}

impl Job for Count {
    const KIND: &'static str = "count";
    type Output = ();
}

struct Store {
    l0: l0::L0,
    done: Arc<Done>,
    /// When the first handler began.
    began: Arc<OnceLock<Instant>>,
    _dir: tempfile::TempDir,
}

/// In the directory of the crate's build, for the system's may be memory.
fn store(durability: Durability) -> Store {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let l0 = l0::builder().dir(dir.path()).workers(THREADS).job_durability(durability).start().unwrap();
    let done = Arc::new(Done::default());
    let (counted, began) = (Arc::clone(&done), Arc::new(OnceLock::new()));
    let first = Arc::clone(&began);
    l0.jobs()
        .register(move |_: Count, _| {
            first.get_or_init(Instant::now);
            run(&counted);
            Ok(())
        })
        .unwrap();
    Store { l0, done, began, _dir: dir }
}

fn durable(c: &mut Criterion, name: &str, durability: Durability) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(3));
    let single = store(durability);
    group.bench_function("enqueue_single", |b| {
        b.iter(|| drop(single.l0.jobs().enqueue(Count { number: 1 }).unwrap()));
    });
    drop(single);
    let batch = store(durability);
    group.bench_function("enqueue_batch", |b| {
        b.iter_custom(|iterations| {
            let mut elapsed = Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                let count = left.min(1_000);
                let jobs = (0..count).map(|number| Count { number });
                let start = Instant::now();
                drop(batch.l0.jobs().enqueue_batch(jobs).unwrap());
                elapsed += start.elapsed();
                left -= count;
            }
            elapsed
        });
    });
    drop(batch);
    // From the beginning of the first handler to the end of the last; its settlement is that of the batch it is in.
    group.bench_function("process", |b| {
        b.iter_custom(|iterations| {
            let store = store(durability);
            let mut left = iterations;
            while left > 0 {
                let count = left.min(10_000);
                drop(store.l0.jobs().enqueue_batch((0..count).map(|number| Count { number })).unwrap());
                left -= count;
            }
            store.l0.flush().unwrap();
            store.l0.jobs().start().unwrap();
            store.done.wait_aside(iterations);
            store.began.get().unwrap().elapsed()
        });
    });
    if durability == Durability::Full {
        const CALLERS: usize = 16;
        let store = store(durability);
        group.bench_function("enqueue_16_callers", |b| {
            b.iter_custom(|iterations| {
                let each = iterations.div_ceil(CALLERS as u64);
                let start = Barrier::new(CALLERS + 1);
                let elapsed = thread::scope(|scope| {
                    let callers: Vec<_> = (0..CALLERS)
                        .map(|_| {
                            scope.spawn(|| {
                                start.wait();
                                for number in 0..each {
                                    drop(store.l0.jobs().enqueue(Count { number }).unwrap());
                                }
                            })
                        })
                        .collect();
                    start.wait();
                    let began = Instant::now();
                    callers.into_iter().for_each(|caller| caller.join().unwrap());
                    began.elapsed()
                });
                elapsed.mul_f64(iterations as f64 / (each * CALLERS as u64) as f64)
            });
        });
        // What the disk can do at most: 4 KiB and a sync.
        let mut file = File::create(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("fsync")).unwrap();
        group.bench_function("fsync", |b| {
            b.iter(|| {
                file.write_all(&[0; 4096]).unwrap();
                file.sync_data().unwrap();
            });
        });
    }
    group.finish();
}

fn job_durable_normal(c: &mut Criterion) {
    durable(c, "job_durable_normal", Durability::Normal);
}

fn job_durable_full(c: &mut Criterion) {
    durable(c, "job_durable_full", Durability::Full);
}

/// From the call of `enqueue` to the first line of the handler, on an idle program; and beside a flood of telemetry.
fn latency(_: &mut Criterion) {
    #[derive(Serialize, Deserialize)]
    struct Ping;
    impl Job for Ping {
        const KIND: &'static str = "ping";
        type Output = ();
    }
    for (durability, is_flooded) in
        [(Durability::Normal, false), (Durability::Normal, true), (Durability::Full, false), (Durability::Full, true)]
    {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let l0 = l0::builder().dir(dir.path()).workers(THREADS).job_durability(durability).start().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        l0.jobs().register(move |_: Ping, _| Ok(tell.send(Instant::now())?)).unwrap();
        l0.jobs().start().unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let times = thread::scope(|scope| {
            if is_flooded {
                let (handle, is_over) = (l0.clone(), &is_over);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        handle.log(tracing::Level::INFO, "flood", "as fast as can be");
                    }
                });
            }
            let mut times: Vec<(Duration, Duration)> = (0..1_000)
                .map(|_| {
                    let start = Instant::now();
                    let handle = l0.jobs().enqueue(Ping).unwrap();
                    let enqueued = start.elapsed();
                    let began = told.recv().unwrap();
                    handle.wait().unwrap();
                    (began - start, enqueued)
                })
                .collect();
            is_over.store(true, Ordering::Relaxed);
            times.sort();
            times
        });
        let mut enqueued: Vec<_> = times.iter().map(|(_, enqueued)| *enqueued).collect();
        enqueued.sort();
        println!(
            "job_latency/{durability:?}{}: begun p50 {:?}, p99 {:?}; enqueued p50 {:?}, p99 {:?}",
            if is_flooded { " in a flood" } else { "" },
            times[500].0,
            times[990].0,
            enqueued[500],
            enqueued[990]
        );
    }
}

/// What a schedule costs: to be read, to be asked for its next time, and to be found among ten thousand of which ten are due.
fn schedule(c: &mut Criterion) {
    let mut group = c.benchmark_group("schedule");
    group.bench_function("parse", |b| {
        b.iter(|| Schedule::cron(std::hint::black_box("*/15 9-17 * * MON-FRI")).unwrap());
    });
    for (name, line, zone) in [
        ("next_after", "30 2 * * MON-FRI", "Europe/Berlin"),
        ("next_after_wild", "*/15 * * * *", "Europe/Berlin"),
        ("next_after_utc", "30 2 * * MON-FRI", "UTC"),
    ] {
        let schedule = Schedule::cron(line).unwrap().in_zone(zone).unwrap();
        let mut at = Timestamp::now();
        group.bench_function(name, |b| {
            b.iter(|| {
                at = schedule.next_after(at).unwrap_or_else(Timestamp::now);
                // A year on, and again.
                if at > Timestamp::from_unix_ns(2_000_000_000_000_000_000) {
                    at = Timestamp::from_unix_ns(1_800_000_000_000_000_000);
                }
                at
            });
        });
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let queue = SqliteQueue::open(dir.path(), Durability::Normal).unwrap();
    let entry = "x".repeat(600);
    let changes = (0..10_000_i64).map(|number| ScheduleChange {
        name: format!("schedule {number}"),
        revision: 0,
        to: Some(SchedulePut { next_at: Some(Timestamp::from_unix_ns(number)), waits: false, entry: entry.clone() }),
        jobs: Vec::new(),
    });
    queue.change_schedules(changes.collect()).unwrap();
    let due = WhichSchedules::Due { by: Timestamp::from_unix_ns(9), skip: 0 };
    assert_eq!(queue.schedules(&due).unwrap().len(), 10);
    group.bench_function("due_of_10k", |b| b.iter(|| queue.schedules(&due).unwrap()));
    group.finish();
}

criterion_group!(jobs, job_spawn, job_durable_normal, job_durable_full, schedule, latency);
criterion_main!(jobs);
