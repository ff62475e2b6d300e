//! Health through the public API: on a clock that is moved by hand, and with checks that hang, panic, flap and come back.

mod support;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
        mpsc,
    },
    time::{Duration, Instant},
};

use l0::{
    ManualClock, Timestamp,
    health::{Format, HealthReader, Status, Transition},
};
use parking_lot::Mutex;
use support::{builder, wait_for};
use tempfile::TempDir;

const S: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(20);

struct Scene {
    l0: l0::L0,
    time: ManualClock,
    dir: TempDir,
}

const START: Timestamp = Timestamp::from_unix_ns(1_800_000_000_000_000_000);

fn scene() -> Scene {
    open(tempfile::tempdir().unwrap(), START)
}

fn open(dir: TempDir, at: Timestamp) -> Scene {
    let (clock, time) = l0::Clock::manual(at);
    let l0 = builder(dir.path()).service("shop").version("1.2.3").clock(clock).start().unwrap();
    Scene { l0, time, dir }
}

/// A check that says what it is told to.
#[derive(Clone)]
struct Told(Arc<Mutex<Status>>);

impl Told {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Status::Healthy)))
    }

    fn set(&self, status: Status) {
        *self.0.lock() = status;
    }

    fn check(&self) -> impl Fn() -> Status + Send + Sync + 'static {
        let told = self.clone();
        move || told.0.lock().clone()
    }
}

fn bad() -> Status {
    Status::Unhealthy("no answer".to_owned())
}

impl Scene {
    fn pass(&self, d: Duration) {
        self.time.advance(d);
        self.l0.health().run_due().unwrap();
    }

    fn of(&self, name: &str) -> l0::health::CheckReport {
        self.l0.health().report().checks.into_iter().find(|check| check.name == name).unwrap()
    }
}

#[test]
fn ready_is_who_has_passed_its_checks_and_only_those_count() {
    let scene = scene();
    let health = scene.l0.health();
    assert!(health.ready().is_ok() && health.live().is_ok(), "who has no checks is ready");
    let (db, cache, live, begun) = (Told::new(), Told::new(), Told::new(), Told::new());
    health.register("db", db.check()).unwrap();
    health.check("cache", cache.check()).optional().tag("edge").register().unwrap();
    health.check("loop", live.check()).liveness().register().unwrap();
    begun.set(bad());
    health.check("migrations", begun.check()).startup().register().unwrap();
    assert!(!health.ready().is_ok() && !health.is_ready(), "nothing has run");
    assert!(health.live().is_ok() && health.is_live(), "a process that begins lives");
    assert!(health.ready().to_string().contains("has not run yet"));
    scene.pass(Duration::ZERO);
    assert_eq!(health.ready().status, Status::Unhealthy("migrations: no answer".to_owned()));
    begun.set(Status::Healthy);
    scene.pass(MINUTE);
    assert_eq!(health.ready().status, Status::Healthy);
    assert!(health.is_ready());
    begun.set(bad());
    cache.set(bad());
    scene.pass(MINUTE);
    // A step of the start is done once; what is optional degrades.
    assert_eq!(health.ready().status, Status::Degraded("cache: no answer".to_owned()));
    assert!(health.ready().is_ok() && health.is_ready());
    assert_eq!(health.tagged("edge").checks.len(), 1);
    live.set(bad());
    scene.pass(MINUTE);
    assert!(!health.live().is_ok() && !health.is_live() && health.ready().is_ok());
    assert_eq!(health.live().checks.len(), 1);
    let report = health.report();
    assert!(report.checks.iter().any(|check| check.name == "l0.writer" && check.status == Status::Healthy), "{report}");
    assert!(!health.ready().checks.iter().any(|check| check.name.starts_with("l0.")));
    assert!(health.tagged("l0").checks.len() >= 10, "{}", health.tagged("l0"));
    assert!(health.tagged("l0").is_ok(), "{}", health.tagged("l0"));
    assert!(health.unregister("loop") && !health.unregister("loop") && health.live().is_ok());
}

#[test]
fn results_grow_old() {
    let scene = scene();
    let health = scene.l0.health();
    health.check("db", || Status::Healthy).every(10 * S).stale_after(25 * S).register().unwrap();
    scene.pass(Duration::ZERO);
    scene.time.advance(25 * S);
    assert!(health.ready().is_ok() && health.is_ready());
    assert_eq!(scene.of("db").age, Some(25 * S));
    scene.time.advance(S);
    assert!(!health.ready().is_ok() && !health.is_ready());
    assert!(scene.of("db").status.why().unwrap().contains("has not run for longer than 25.0 s"));
    scene.pass(Duration::ZERO);
    assert!(health.is_ready());
}

#[test]
fn flapping_is_slowed_and_each_change_is_told_kept_and_called_back_for() {
    let Scene { l0, time, dir } = scene();
    let scene = Scene { l0, time, dir };
    let health = scene.l0.health();
    let (tell, told) = mpsc::channel();
    health.on_change(|_| panic!("a callback of a test"));
    health.on_change(move |change: &Transition| {
        if change.name == "db" {
            let _ = tell.send((change.from.clone(), change.to.clone()));
        }
    });
    let db = Told::new();
    health.check("db", db.check()).every(S).fail_after(3).pass_after(2).register().unwrap();
    let mut seen = Vec::new();
    for status in [0, 0, 2, 2, 0, 2, 2, 2, 0, 2, 0, 0] {
        db.set(if status == 0 { Status::Healthy } else { bad() });
        scene.pass(S);
        seen.push(u8::from(health.is_ready()));
    }
    assert_eq!(seen, [0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1]);
    let next = || told.recv_timeout(LONG).unwrap();
    assert_eq!(next(), (None, Status::Healthy));
    assert_eq!(next(), (Some(Status::Healthy), bad()));
    assert_eq!(next(), (Some(bad()), Status::Healthy));
    let history = health.history("db", MINUTE).unwrap();
    let times: Vec<_> =
        history.iter().map(|change| (change.at.as_unix_ns() - START.as_unix_ns()) / 1_000_000_000).collect();
    assert_eq!(times, [2, 8, 12]);
    assert_eq!(history.iter().map(|change| change.after).collect::<Vec<_>>(), [None, Some(6 * S), Some(4 * S)]);
    assert_eq!(health.history("db", 5 * S).unwrap().len(), 2);
    scene.time.advance(8 * S);
    // Healthy from 2 to 8 and from 12 to 20, unhealthy in between.
    assert!((health.uptime("db", MINUTE).unwrap() - 14.0 / 18.0).abs() < 1e-9);
    assert!((health.uptime("db", 10 * S).unwrap() - 0.8).abs() < 1e-9);
    assert!(health.uptime("nobody", MINUTE).unwrap_err().is_invalid_input());
    let events = scene.l0.events().event_type("health.changed").message("db is").oldest_first().fetch().unwrap().items;
    assert_eq!(events.len(), 3);
    assert_eq!((events[1].severity, events[1].message.as_str()), (l0::Severity::Error, "db is unhealthy: no answer"));
    // A restart keeps it, and knows nothing of the time in between.
    let Scene { l0, dir, .. } = scene;
    l0.components().set("build", "release", &serde_json::json!({ "commit": "abc" })).unwrap();
    l0.components().complete("migrations").unwrap();
    l0.shutdown(LONG).unwrap();
    let scene = open(dir, START.saturating_add(100 * S));
    let health = scene.l0.health();
    assert_eq!(health.history("db", 2 * MINUTE).unwrap().len(), 3);
    health.check("db", db.check()).every(S).register().unwrap();
    scene.pass(Duration::ZERO);
    scene.time.advance(20 * S);
    // 2 to 8 and 12 to 20 of the first process, 100 to 120 of the second; 8 to 12 down.
    assert!(
        (health.uptime("db", 5 * MINUTE).unwrap() - 34.0 / 38.0).abs() < 1e-9,
        "{:?}",
        health.uptime("db", 5 * MINUTE)
    );
    let components = scene.l0.components().list().unwrap();
    assert_eq!(
        components.iter().map(|one| (one.name.as_str(), one.complete)).collect::<Vec<_>>(),
        [("build", false), ("migrations", true)]
    );
    assert_eq!(components[0].metadata_as::<serde_json::Value>().unwrap()["commit"], "abc");
    let rows = scene.l0.sql("SELECT name, status FROM health WHERE name = 'db' ORDER BY timestamp", &[]).unwrap();
    assert_eq!(
        support::texts(&rows).into_iter().map(|row| row[1].clone()).collect::<Vec<_>>(),
        ["healthy", "unhealthy", "healthy", "ended", "healthy"]
    );
    assert_eq!(support::texts(&scene.l0.sql("SELECT name, state, complete FROM components", &[]).unwrap()).len(), 2);
}

#[test]
fn a_panic_is_a_failure_like_another_and_the_thread_lives() {
    let scene = scene();
    scene.l0.health().register("boom", || -> Status { panic!("out of luck") }).unwrap();
    scene.pass(Duration::ZERO);
    let why = scene.of("boom").status.why().unwrap().to_owned();
    assert!(why.starts_with("panicked: out of luck at tests/health.rs"), "{why}");
    assert_eq!(scene.l0.health().check_now("boom").unwrap().as_str(), "unhealthy");
    assert_eq!(scene.of("boom").contiguous_failures, 2);
}

#[test]
fn checks_that_hang_hold_up_nobody_and_are_not_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    let health = l0.health();
    let (goes_on, began, runs) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let hang = |name: &str| {
        let (goes_on, began) = (Arc::clone(&goes_on), Arc::clone(&began));
        let check = move || {
            began.fetch_add(1, SeqCst);
            while !goes_on.load(SeqCst) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            Status::Healthy
        };
        health
            .check(name, check)
            .every(20 * Duration::from_millis(1))
            .timeout(Duration::from_millis(30))
            .register()
            .unwrap();
    };
    (1..=7).for_each(|number| hang(&format!("hanging {number}")));
    wait_for("seven that hang", || began.load(SeqCst) == 7);
    // The eighth thread is free for the others.
    let counted = Arc::clone(&runs);
    let quick = move || {
        counted.fetch_add(1, SeqCst);
        Status::Healthy
    };
    health.check("quick", quick).every(Duration::from_millis(10)).register().unwrap();
    wait_for("a check beside them", || runs.load(SeqCst) > 5);
    wait_for("that they are overdue", || {
        let report = health.ready();
        report.checks.iter().filter(|check| check.status.why().is_some_and(|why| why.starts_with("overdue"))).count()
            == 7
    });
    assert_eq!(began.load(SeqCst), 7, "none is started again");
    let changes = || l0.events().event_type("health.changed").message("overdue").count().unwrap();
    wait_for("that it is told", || changes() == 7);
    hang("hanging 8");
    wait_for("all threads at what hangs", || began.load(SeqCst) == 8);
    let before = runs.load(SeqCst);
    health.check("late", || Status::Healthy).timeout(Duration::from_millis(50)).register().unwrap();
    assert!(health.check_now("late").unwrap().why().unwrap().contains("all threads"));
    assert!(
        health.ready().checks.iter().any(|check| check.name == "late" && check.status.why() == Some("has not run yet"))
    );
    assert!(runs.load(SeqCst) - before <= 1);
    // A read waits for none of it.
    let mut times: Vec<_> = (0..1_001)
        .map(|_| {
            let start = Instant::now();
            assert!(!health.is_ready());
            start.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[500] < Duration::from_micros(50), "{:?}", times[500]);
    let mut times: Vec<_> = (0..101)
        .map(|_| {
            let start = Instant::now();
            assert!(!health.ready().is_ok());
            start.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[50] < Duration::from_millis(2), "{:?}", times[50]);
    goes_on.store(true, SeqCst);
    wait_for("that they come back", || health.ready().is_ok());
    l0.shutdown(LONG).unwrap();
}

#[test]
fn the_end_does_not_wait_for_what_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let hang = move || -> Status {
        let _ = tell.lock().send(());
        loop {
            std::thread::park();
        }
    };
    l0.health().register("hanging", hang).unwrap();
    told.recv_timeout(LONG).unwrap();
    let handle: l0::Handle = l0.clone();
    let start = Instant::now();
    l0.shutdown(Duration::from_secs(2)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(handle.health().register("late", || Status::Healthy).unwrap_err().is_closed());
    assert!(handle.health().check_now("hanging").is_err());
    let health = handle.health();
    assert!(
        !health.ready().is_ok() && !health.is_ready() && health.live().is_ok(),
        "nobody sends it anything any more"
    );
    assert!(handle.components().complete("late").unwrap_err().is_closed());
}

/// A check that hangs until it is let go, and tells that it has begun.
fn hanging(goes_on: &Arc<AtomicBool>) -> (impl Fn() -> Status + Send + Sync + 'static, mpsc::Receiver<()>) {
    let (tell, told) = mpsc::channel();
    let (tell, goes_on) = (Mutex::new(tell), Arc::clone(goes_on));
    let check = move || {
        let _ = tell.lock().send(());
        while !goes_on.load(SeqCst) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Status::Healthy
    };
    (check, told)
}

#[test]
fn the_end_does_not_wait_for_what_was_unregistered_and_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    let goes_on = Arc::new(AtomicBool::new(false));
    let (check, begun) = hanging(&goes_on);
    l0.health().check("gone", check).timeout(Duration::from_millis(50)).register().unwrap();
    begun.recv_timeout(LONG).unwrap();
    assert!(l0.health().unregister("gone"));
    let (check, begun) = hanging(&goes_on);
    let guard = l0.health().check("guarded", check).timeout(Duration::from_millis(50)).register_scoped().unwrap();
    begun.recv_timeout(LONG).unwrap();
    drop(guard);
    let start = Instant::now();
    l0.shutdown(2 * LONG).unwrap();
    assert!(start.elapsed() < LONG / 2, "nor for a quarter of its time: {:?}", start.elapsed());
    goes_on.store(true, SeqCst);
}

#[test]
fn the_end_waits_for_a_check_that_is_at_work_and_the_program_is_not_ready_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    let goes_on = Arc::new(AtomicBool::new(false));
    let (check, begun) = hanging(&goes_on);
    l0.health().check("slow", check).optional().timeout(MINUTE).register().unwrap();
    begun.recv_timeout(LONG).unwrap();
    let handle: l0::Handle = l0.clone();
    let ending = std::thread::spawn(move || l0.shutdown(2 * LONG));
    wait_for("that it is not ready", || !handle.health().is_ready());
    assert!(!handle.health().ready().is_ok(), "both say so");
    assert!(!ending.is_finished());
    goes_on.store(true, SeqCst);
    ending.join().unwrap().unwrap();
    let history = HealthReader::open(dir.path()).history("slow", MINUTE).unwrap();
    assert_eq!(history.last().map(|last| last.to.clone()), Some(Status::Healthy), "what it said is kept");
}

#[test]
fn who_asks_for_a_run_is_not_told_of_an_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    let (start, flip) = (Instant::now(), AtomicU32::new(0));
    // It says when it ended, and each time something else than before, which is then told.
    let check = move || {
        let now = start.elapsed().as_nanos().to_string();
        if flip.fetch_add(1, SeqCst) % 2 == 0 { Status::Degraded(now) } else { Status::Unhealthy(now) }
    };
    let health = l0.health();
    health.check("time", check).every(Duration::from_millis(10)).register().unwrap();
    let mut early = 0;
    for _ in 0..200 {
        let mut before = Duration::ZERO;
        wait_for("a result", || {
            let age = health.ready().checks[0].age.unwrap_or(Duration::MAX);
            age < std::mem::replace(&mut before, age)
        });
        wait_for("the end of its run", || health.ready().checks[0].running_for.is_none());
        let asked = start.elapsed().as_nanos();
        let said = health.check_now("time").unwrap();
        early += u32::from(said.why().unwrap().parse::<u128>().unwrap() < asked);
    }
    // One that was at its very end when it was asked may have answered.
    assert!(early < 4, "{early} of 200 runs had ended before they were asked for");
}

#[test]
fn a_check_that_is_asked_for_has_a_thread_though_others_hang() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    // l0's own have had their thread, and are not due.
    wait_for("l0's own", || l0.health().tagged("l0").checks.iter().all(|check| check.age.is_some()));
    let goes_on = Arc::new(AtomicBool::new(false));
    let (check, begun) = hanging(&goes_on);
    l0.health().check("hanging", check).register().unwrap();
    begun.recv_timeout(LONG).unwrap();
    assert_ne!(l0.health().check_now("l0.disk").unwrap().as_str(), "unhealthy");
    assert_eq!(l0.health().check_now("l0.audit").unwrap(), Status::Healthy);
    goes_on.store(true, SeqCst);
}

#[test]
fn a_liveness_check_that_is_never_looked_at_says_so_where_it_is_told() {
    let scene = scene();
    let health = scene.l0.health();
    let (goes_on, (tell, told)) = (Arc::new(AtomicBool::new(false)), mpsc::channel());
    health.on_change(move |change: &Transition| {
        let _ = tell.send((change.name.clone(), change.to.clone()));
    });
    // All runs are at this one.
    let (check, begun) = hanging(&goes_on);
    health.check("hanging", check).every(MINUTE).register().unwrap();
    let handle: l0::Handle = scene.l0.clone();
    let running = std::thread::spawn(move || handle.health().run_due());
    begun.recv_timeout(LONG).unwrap();
    health.check("loop", || Status::Healthy).liveness().every(MINUTE).stale_after(2 * MINUTE).register().unwrap();
    scene.time.advance(3 * MINUTE);
    assert!(!health.is_live() && !health.live().is_ok());
    let handle: l0::Handle = scene.l0.clone();
    let looking = std::thread::spawn(move || handle.health().run_due());
    let why = loop {
        let (name, to) = told.recv_timeout(LONG).unwrap();
        if name == "loop" && to != Status::Healthy {
            break to.why().unwrap().to_owned();
        }
    };
    assert!(why.starts_with("has not run for longer than"), "{why}");
    goes_on.store(true, SeqCst);
    running.join().unwrap().unwrap();
    looking.join().unwrap().unwrap();
}

#[test]
fn a_process_that_lives_is_not_restarted_over_hysteresis() {
    let scene = scene();
    let health = scene.l0.health();
    let live = Told::new();
    health.check("loop", live.check()).liveness().every(S).pass_after(3).fail_after(3).register().unwrap();
    for _ in 0..4 {
        assert!(health.is_live() && health.live().is_ok(), "{}", health.live());
        scene.pass(S);
    }
    live.set(bad());
    for is_live in [true, true, false] {
        scene.pass(S);
        assert_eq!((health.is_live(), health.live().is_ok()), (is_live, is_live));
    }
    // The first result says no, and is not believed either.
    health.check("new", bad).liveness().every(S).fail_after(2).register().unwrap();
    scene.pass(Duration::ZERO);
    assert_eq!(scene.of("new").status, Status::Healthy);
    scene.pass(S);
    assert_eq!(scene.of("new").status, bad());
}

#[test]
fn a_result_that_is_stale_says_what_it_was() {
    let scene = scene();
    let health = scene.l0.health();
    // It is given that it grows old before it is run again, and says what to do about it.
    health.check("db", || Status::Healthy).every(30 * S).stale_after(10 * S).register().unwrap();
    scene.pass(Duration::ZERO);
    scene.pass(20 * S);
    scene.time.advance(5 * S);
    let why = scene.of("db").status.why().unwrap().to_owned();
    let expected =
        "has not run for longer than 10.0 s, and was healthy then: its stale_after is to be longer than its interval";
    assert_eq!(why, expected);
}

#[test]
fn callbacks_that_are_slow_cost_no_memory_and_those_that_were_not_called_are_counted() {
    let scene = scene();
    let health = scene.l0.health();
    let goes_on = Arc::new(AtomicBool::new(false));
    let (calls, open, (tell, told)) = (Arc::new(AtomicU32::new(0)), Arc::clone(&goes_on), mpsc::channel());
    let (counted, tell) = (Arc::clone(&calls), Mutex::new(tell));
    health.on_change(move |_| {
        let _ = tell.lock().send(());
        counted.fetch_add(1, SeqCst);
        wait_for("the end of a callback", || open.load(SeqCst));
    });
    let db = Told::new();
    health.check("db", db.check()).every(S).register().unwrap();
    let flap = |number: u32| {
        db.set(if number.is_multiple_of(2) { Status::Healthy } else { bad() });
        scene.pass(S);
    };
    flap(0);
    told.recv_timeout(LONG).unwrap();
    (1..1_101).for_each(flap);
    assert_eq!(health.dropped_changes(), 100);
    goes_on.store(true, SeqCst);
    wait_for("all others", || calls.load(SeqCst) == 1_001);
}

#[test]
fn a_recorder_that_has_no_room_holds_up_no_check() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path())
        .buffer_bytes(256 << 10)
        .overload(l0::Overload::Block(LONG))
        .flight(l0::Flight::Off)
        .start()
        .unwrap();
    l0.flush().unwrap();
    let other = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let handle: l0::Handle = l0.clone();
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let filling = std::thread::spawn(move || {
        while !over.load(SeqCst) {
            handle.record(l0::TelemetryEvent::new("filling").severity(l0::Severity::Critical));
        }
    });
    wait_for("a full recorder", || {
        let stats = l0.stats();
        stats.buffer_used_bytes * 100 > stats.buffer_bytes * 97
    });
    // What each of them has to tell finds no room.
    let (check, begun) = hanging(&is_over);
    let millis = Duration::from_millis(1);
    l0.health().check("hanging", check).timeout(20 * millis).register().unwrap();
    begun.recv_timeout(LONG).unwrap();
    for number in 0..4 {
        let count = Arc::new(AtomicU32::new(0));
        let check = move || match count.fetch_add(1, SeqCst) % 2 {
            0 => Err("x".repeat(1_000)),
            _ => Ok(()),
        };
        let name = format!("flapping {number}");
        l0.health().check(&name, check).every(10 * millis).timeout(20 * millis).register().unwrap();
    }
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let quick = move || {
        counted.fetch_add(1, SeqCst);
        Status::Healthy
    };
    l0.health().check("quick", quick).every(10 * millis).register().unwrap();
    wait_for("a check beside them", || runs.load(SeqCst) > 200);
    for _ in 0..4 {
        // They have other things to tell than that they hang.
        let said = l0.health().check_now("flapping 1").unwrap();
        assert!(said.why().is_none_or(|why| why.starts_with("xxx")), "{said}");
    }
    is_over.store(true, SeqCst);
    other.execute_batch("ROLLBACK").unwrap();
    filling.join().unwrap();
    l0.shutdown(2 * LONG).unwrap();
}

#[test]
fn a_guard_unregisters_also_while_its_check_runs() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    let health = l0.health();
    let goes_on = Arc::new(AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    let (open, tell) = (Arc::clone(&goes_on), Mutex::new(tell));
    let check = move || {
        let _ = tell.lock().send(());
        wait_for("the end of a check", || open.load(SeqCst));
        Status::Unhealthy("it should be heard no more".to_owned())
    };
    let guard = health.check("scoped", check).register_scoped().unwrap();
    told.recv_timeout(LONG).unwrap();
    drop(guard);
    assert!(!health.ready().checks.iter().any(|check| check.name == "scoped"));
    // Its name is free again.
    health.register("scoped", || Status::Healthy).unwrap();
    goes_on.store(true, SeqCst);
    wait_for("the other of its name", || health.ready().is_ok());
    assert!(health.history("scoped", MINUTE).unwrap().iter().all(|change| change.to == Status::Healthy));
}

#[test]
fn a_thousand_checks_are_run_and_read() {
    let scene = scene();
    let health = scene.l0.health();
    for number in 0..1_000 {
        health.check(&format!("check {number:03}"), || Status::Healthy).every(S).register().unwrap();
    }
    assert!(scene.l0.health().run_due().unwrap() >= 1_000);
    assert!(health.is_ready());
    let report = health.ready();
    assert_eq!((report.checks.len(), report.checks[7].name.as_str()), (1_000, "check 007"));
    scene.pass(S);
    assert_eq!(scene.of("check 999").age, Some(Duration::ZERO));
}

#[test]
fn what_a_check_says_is_kept_without_its_secrets_and_not_at_any_length() {
    let scene = scene();
    let health = scene.l0.health();
    let said = || format!("postgres://shop:hunter2secret@db said {}", "no ".repeat(100_000));
    health.register("db", move || Err::<(), _>(said())).unwrap();
    health.register("cache", move || Status::Degraded(said())).unwrap();
    scene.pass(Duration::ZERO);
    let history = health.history("db", MINUTE).unwrap();
    let why = history[0].to.why().unwrap();
    assert!(why.contains("said no no") && why.len() < 2_000, "{} bytes", why.len());
    for text in [
        why,
        scene.of("db").status.why().unwrap(),
        scene.of("cache").status.why().unwrap(),
        &health.ready().render(Format::Plain).body,
    ] {
        assert!(!text.contains("hunter2secret"), "{text:.100}");
    }
    let Scene { l0, dir, .. } = scene;
    l0.shutdown(LONG).unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        let bytes = std::fs::read(entry.path()).unwrap();
        assert!(!bytes.windows(13).any(|window| window == b"hunter2secret"), "{:?}", entry.path());
    }
}

#[test]
fn a_callback_that_hangs_costs_no_history_and_does_not_hold_up_the_end() {
    let scene = scene();
    let health = scene.l0.health();
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    health.on_change(move |_| {
        let _ = tell.lock().send(());
        loop {
            std::thread::park();
        }
    });
    let db = Told::new();
    health.check("db", db.check()).every(S).register().unwrap();
    for number in 0..6 {
        db.set(if number % 2 == 0 { Status::Healthy } else { bad() });
        scene.pass(S);
    }
    told.recv_timeout(LONG).unwrap();
    assert_eq!(health.history("db", MINUTE).unwrap().len(), 6);
    let Scene { l0, dir, .. } = scene;
    let start = Instant::now();
    l0.shutdown(Duration::from_secs(2)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
    let reader = HealthReader::open(dir.path());
    assert_eq!(reader.latest().unwrap().len(), 0, "all have ended");
}

#[test]
fn what_is_unregistered_has_ended_in_the_history_too() {
    let scene = scene();
    let health = scene.l0.health();
    let guard = health.check("conn 7", bad).register_scoped().unwrap();
    scene.pass(Duration::ZERO);
    let reader = HealthReader::open(scene.dir.path());
    health.history("conn 7", MINUTE).unwrap();
    assert_eq!(reader.latest().unwrap().into_iter().filter(|last| last.name == "conn 7").count(), 1);
    drop(guard);
    scene.time.advance(MINUTE);
    assert_eq!(health.history("conn 7", 2 * MINUTE).unwrap().len(), 1);
    assert_eq!(reader.latest().unwrap().into_iter().filter(|last| last.name == "conn 7").count(), 0);
    assert!(health.uptime("conn 7", MINUTE / 2).unwrap_err().is_invalid_input(), "nothing is known since");
}

#[test]
fn a_store_that_refuses_rows_gets_the_history_when_it_takes_them_again() {
    let scene = scene();
    let health = scene.l0.health();
    let db = Told::new();
    health.check("db", db.check()).every(S).register().unwrap();
    scene.pass(Duration::ZERO);
    assert_eq!(health.history("db", MINUTE).unwrap().len(), 1);
    // Nobody can write: the table is away.
    let other = rusqlite::Connection::open(scene.dir.path().join("state.db")).unwrap();
    other.execute_batch("ALTER TABLE health_change RENAME TO away").unwrap();
    db.set(bad());
    scene.pass(S);
    assert!(health.history("db", MINUTE).is_err());
    assert!(!health.is_ready(), "who reads the present is told");
    other.execute_batch("ALTER TABLE away RENAME TO health_change").unwrap();
    drop(other);
    wait_for("the row", || health.history("db", MINUTE).unwrap().len() == 2);
}

#[test]
fn of_several_processes_each_has_its_own_history_and_the_worst_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let one = builder(dir.path()).start().unwrap();
    let two = builder(dir.path()).start().unwrap();
    one.health().register("db", bad).unwrap();
    one.health().check_now("db").unwrap();
    two.health().register("db", || Status::Healthy).unwrap();
    two.health().check_now("db").unwrap();
    let count = || one.health().history("db", MINUTE).unwrap().len();
    wait_for("both", || count() == 2 && two.health().history("db", MINUTE).unwrap().len() == 2);
    assert_eq!(two.health().uptime("db", MINUTE).unwrap(), 0.0, "one of them is unhealthy all the time");
    let reader = HealthReader::open(dir.path());
    let last = || reader.latest().unwrap().into_iter().find(|last| last.name == "db").map(|last| last.to);
    assert_eq!(last(), Some(bad()));
    two.shutdown(LONG).unwrap();
    assert_eq!(last(), Some(bad()), "the other goes on");
    one.shutdown(LONG).unwrap();
    assert_eq!(last(), None);
}

/// Where the child records that is to be killed.
const CHILD: &str = "L0_HEALTH_TEST_DIR";

#[test]
#[cfg(unix)]
fn what_a_killed_process_said_ends_when_another_finds_it_dead() {
    use std::io::Read as _;
    if let Some(dir) = std::env::var_os(CHILD) {
        let l0 = builder(Path::new(&dir)).start().unwrap();
        l0.health().register("db", bad).unwrap();
        l0.health().check_now("db").unwrap();
        assert!(!l0.health().history("db", MINUTE).unwrap().is_empty(), "kept");
        println!("\u{1}");
        loop {
            std::thread::park();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let child = || {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_a_killed_process_said_ends_when_another_finds_it_dead", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let said = std::io::BufReader::new(child.stdout.take().unwrap()).bytes().any(|byte| byte.unwrap() == 1);
        assert!(said, "the child ended early");
        child
    };
    let latest =
        || HealthReader::open(dir.path()).latest().unwrap().into_iter().filter(|last| last.name == "db").count();
    // Whoever recovers what it left has found it dead.
    let mut killed = child();
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(latest(), 1, "nobody has looked");
    assert_eq!(l0::recover(dir.path()).unwrap().runs, 1);
    assert_eq!(latest(), 0);
    assert!(HealthReader::open(dir.path()).report().unwrap().checks.is_empty());
    assert_eq!(HealthReader::open(dir.path()).history("db", MINUTE).unwrap().len(), 1);
    // So does a program beside it.
    let l0 = builder(dir.path()).start().unwrap();
    let mut child = child();
    l0.health().check_now("l0.state").unwrap();
    assert_eq!(latest(), 1, "it lives");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(latest(), 1, "nobody has looked");
    assert_eq!(l0.health().check_now("l0.state").unwrap(), Status::Healthy);
    assert_eq!(latest(), 0);
    assert_eq!(l0.health().history("db", MINUTE).unwrap().len(), 2);
}

#[test]
fn a_check_that_is_always_in_one_state_is_not_forgotten_over_one_that_flaps() {
    let scene = scene();
    let health = scene.l0.health();
    let flapping = Told::new();
    health.register("stable", || Status::Healthy).unwrap();
    health.check("flapping", flapping.check()).every(Duration::from_millis(10)).register().unwrap();
    for number in 0..1_300 {
        flapping.set(if number % 2 == 0 { Status::Healthy } else { bad() });
        scene.pass(Duration::from_millis(10));
    }
    assert_eq!(health.history("flapping", 60 * MINUTE).unwrap().len(), 1_000);
    assert_eq!(health.history("stable", 60 * MINUTE).unwrap().len(), 1);
    assert!((health.uptime("stable", 60 * MINUTE).unwrap() - 1.0).abs() < 1e-9);
    // Nor what another process says, over the changes of this one.
    let other = builder(scene.dir.path()).start().unwrap();
    other.health().register("flapping", || Status::Degraded("of the other".to_owned())).unwrap();
    other.health().check_now("flapping").unwrap();
    assert!(other.health().history("flapping", MINUTE).unwrap().iter().any(|change| change.to.as_str() == "degraded"));
    for number in 0..1_100 {
        flapping.set(if number % 2 == 0 { bad() } else { Status::Healthy });
        scene.pass(Duration::from_millis(10));
    }
    assert_eq!(scene.of("flapping").status, Status::Healthy);
    health.history("flapping", MINUTE).unwrap();
    let latest = HealthReader::open(scene.dir.path()).latest().unwrap();
    let last = latest.iter().find(|last| last.name == "flapping").unwrap();
    assert_eq!(last.to, Status::Degraded("of the other".to_owned()));
}

#[test]
fn checks_that_come_and_go_do_not_fill_the_store() {
    let scene = scene();
    let health = scene.l0.health();
    health.register("db", || Status::Healthy).unwrap();
    scene.pass(Duration::ZERO);
    assert_eq!(health.history("db", MINUTE).unwrap().len(), 1);
    let state = rusqlite::Connection::open(scene.dir.path().join("state.db")).unwrap();
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000)
                INSERT INTO health_change (id, name, run, at) SELECT 100000 + i, 'conn ' || i, 'run', 0 FROM n";
    state.execute_batch(many).unwrap();
    state.execute_batch("UPDATE health_change SET id = 125999 WHERE id = 125000").unwrap();
    health.register("another", || Status::Healthy).unwrap();
    scene.pass(Duration::ZERO);
    assert_eq!(health.history("another", MINUTE).unwrap().len(), 1);
    let count: i64 = state.query_row("SELECT count(*) FROM health_change", [], |row| row.get(0)).unwrap();
    assert!((20_000..20_100).contains(&count), "{count}");
    assert_eq!(health.history("db", MINUTE).unwrap().len(), 1, "what holds is kept, however old");
}

#[test]
fn who_waits_for_a_check_is_answered_when_it_is_gone_or_run_elsewhere() {
    let scene = scene();
    let health = scene.l0.health();
    let (goes_on, began) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (open, seen) = (Arc::clone(&goes_on), Arc::clone(&began));
    let check = move || {
        seen.store(true, SeqCst);
        wait_for("the end of a check", || open.load(SeqCst));
        Status::Healthy
    };
    health.check("slow", check).timeout(MINUTE).register().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| health.run_due().unwrap());
        wait_for("a run on a thread of the test", || began.load(SeqCst));
        let waiting = scope.spawn(|| health.check_now("slow"));
        goes_on.store(true, SeqCst);
        assert_eq!(waiting.join().unwrap().unwrap(), Status::Healthy, "not a second run");
        goes_on.store(false, SeqCst);
        began.store(false, SeqCst);
        let waiting = scope.spawn(|| health.check_now("slow"));
        wait_for("another run", || began.load(SeqCst));
        assert!(health.unregister("slow"));
        let error = waiting.join().unwrap().unwrap_err();
        assert!(error.is_invalid_input() && error.to_string().contains("unregistered"), "{error}");
        goes_on.store(true, SeqCst);
    });
}

#[test]
fn a_step_of_the_start_is_not_undone_and_names_that_collide_are_both_shown() {
    let scene = scene();
    let health = scene.l0.health();
    let step = Told::new();
    health.check("step", step.check()).startup().register().unwrap();
    health.register("db:a", bad).unwrap();
    health.check("db_a", || Status::Healthy).register().unwrap();
    scene.pass(Duration::ZERO);
    step.set(bad());
    assert_eq!(health.check_now("step").unwrap(), bad(), "what it says");
    assert_eq!(scene.of("step").status, Status::Healthy, "is not what counts");
    let page: serde_json::Value = serde_json::from_str(&health.ready().render(Format::HealthJson).body).unwrap();
    let both: Vec<_> =
        page["checks"]["db_a:responseTime"].as_array().unwrap().iter().map(|one| one["status"].clone()).collect();
    assert_eq!(both, ["fail", "pass"]);
    let refused = health.check("x", || Status::Healthy).timeout(Duration::ZERO);
    assert!(refused.register().unwrap_err().to_string().contains("never be healthy"));
}

#[test]
fn a_panic_of_what_a_check_holds_costs_no_thread() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a bomb of a test");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    let health = l0.health();
    for number in 0..12 {
        let (bomb, (tell, told)) = (Bomb, mpsc::channel());
        let (tell, name) = (Mutex::new(tell), format!("bomb {number}"));
        let check = move || {
            let _ = &bomb;
            let _ = tell.lock().send(());
            Status::Healthy
        };
        health.check(&name, check).register().unwrap();
        told.recv_timeout(LONG).unwrap();
        health.unregister(&name);
    }
    health.register("after", || Status::Healthy).unwrap();
    assert_eq!(health.check_now("after").unwrap(), Status::Healthy);
}

#[test]
fn pages_are_as_their_formats_say() {
    let scene = scene();
    let health = scene.l0.health();
    let cache = Told::new();
    health.register("db:primary", || Status::Healthy).unwrap();
    health.check("cache", cache.check()).optional().register().unwrap();
    cache.set(Status::Degraded("cold\nand \u{1b}[31mred".to_owned()));
    scene.pass(Duration::ZERO);
    scene.time.advance(S);
    let page = health.ready().render(Format::HealthJson);
    assert_eq!((page.status_code, page.content_type), (200, "application/health+json"));
    assert_eq!(
        page.headers(),
        [("content-type", "application/health+json".to_owned()), ("cache-control", "no-store".to_owned())]
    );
    let json: serde_json::Value = serde_json::from_str(&page.body).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "status": "warn",
            "version": "1",
            "releaseId": "1.2.3",
            "serviceId": "shop",
            "output": "cache: cold\nand \u{1b}[31mred",
            "checks": {
                "cache:responseTime": [{
                    "componentId": "cache", "componentType": "component", "status": "warn",
                    "observedValue": 0.0, "observedUnit": "ms",
                    "time": "2027-01-15T08:00:00.000000000Z", "output": "cold\nand \u{1b}[31mred",
                }],
                "db_primary:responseTime": [{
                    "componentId": "db:primary", "componentType": "component", "status": "pass",
                    "observedValue": 0.0, "observedUnit": "ms", "time": "2027-01-15T08:00:00.000000000Z",
                }],
            },
        })
    );
    let page = health.ready().render(Format::Kubernetes);
    assert_eq!(page.content_type, "text/plain; charset=utf-8");
    assert_eq!(page.body, "[+]cache ok: degraded: cold\n[+]db:primary ok\nreadyz check passed\n");
    assert_eq!(health.live().render(Format::Kubernetes).body, "livez check passed\n");
    health.check("odd", || Status::Unhealthy("\n\n what is the matter \n".to_owned())).tag("odd").register().unwrap();
    health.check("mute", || Status::Unhealthy(String::new())).tag("odd").register().unwrap();
    scene.pass(Duration::ZERO);
    let page = health.tagged("odd").render(Format::Kubernetes).body;
    assert_eq!(page, "[-]mute failed\n[-]odd failed: what is the matter\nhealthz check failed\n");
    health.unregister("odd");
    health.unregister("mute");
    let plain = health.ready().render(Format::Plain).body;
    assert!(plain.starts_with("degraded: cache: cold") && !plain.contains('\u{1b}'), "{plain}");
    cache.set(bad());
    health.unregister("db:primary");
    health.register("db", bad).unwrap();
    scene.pass(MINUTE);
    let failed = health.ready();
    for format in [Format::HealthJson, Format::Kubernetes, Format::Plain] {
        assert_eq!(failed.render(format).status_code, 503);
    }
    assert_eq!(
        failed.render(Format::Kubernetes).body,
        "[-]cache failed: no answer\n[-]db failed: no answer\nreadyz check failed\n"
    );
    let hidden = failed.without_details();
    assert_eq!(hidden.render(Format::HealthJson).body, r#"{"status":"fail"}"#);
    assert_eq!(hidden.render(Format::Kubernetes).body, "readyz check failed\n");
    assert_eq!(hidden.render(Format::Plain).body, "unhealthy\n");
}

#[test]
fn bad_input_is_refused_with_advice() {
    let scene = scene();
    let health = scene.l0.health();
    health.register("db", || Status::Healthy).unwrap();
    for (name, part) in [("", "no name of a check"), ("a\nb", "no name of a check"), ("db", "unregister it first")] {
        let error = health.register(name, || Status::Healthy).unwrap_err();
        assert!(error.is_invalid_input() && error.to_string().contains(part), "{error}");
    }
    assert!(health.check_now("bd").unwrap_err().to_string().contains("there are db"));
    let components = scene.l0.components();
    for error in [
        components.set("", "x", &()),
        components.set("x", &"y".repeat(2_000), &()),
        components.set("x", "y", &"z".repeat(70_000)),
    ] {
        assert!(error.unwrap_err().is_invalid_input());
    }
    assert_eq!(components.get("nothing").unwrap(), None);
    // A step keeps what is known of it, is done until it is set anew, and is kept without secrets.
    let known =
        serde_json::json!({ "password": "hunter2secret", "commit": "2f1c7b9e4d5a6f708192a3b4c5d6e7f801234567" });
    components.set("db", "migrating", &known).unwrap();
    components.complete("db").unwrap();
    let step = components.get("db").unwrap().unwrap();
    assert_eq!((step.state.as_str(), step.complete), ("complete", true));
    let kept: serde_json::Value = step.metadata_as().unwrap();
    assert_eq!(kept["commit"], known["commit"]);
    assert!(!step.metadata.contains("hunter2secret"), "{}", step.metadata);
    components.set("db", "migrating", &known).unwrap();
    assert!(!components.get("db").unwrap().unwrap().complete);
}
