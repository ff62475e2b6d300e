//! Closures in memory: outcomes, panics, bounds, cancellation, the end.

mod support;

use std::{
    pin::pin,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use l0::jobs::{JobError, JobFailure, JobState, Progress, SubmitError};
use support::{builder, store, wait_for};

const LONG: Duration = Duration::from_secs(20);

#[test]
fn an_outcome_comes_back_and_an_error_says_why() {
    let store = store();
    let jobs = store.l0.jobs();
    assert_eq!(jobs.spawn("sum", |_| Ok((1..=10).sum::<u32>())).unwrap().wait(), Ok(55));
    let failed = jobs.spawn("parse", |_| Ok("x".parse::<u8>()?)).unwrap().wait();
    assert_eq!(failed, Err(JobFailure::Failed("invalid digit found in string".to_owned())));
    let text = jobs.spawn("text", |cx| Ok(format!("{} {}", cx.attempt(), cx.is_cancelled()))).unwrap();
    assert_eq!(text.wait_timeout(LONG), Some(Ok("1 false".to_owned())));
    assert!(matches!(text.wait_timeout(LONG), Some(Err(JobFailure::Failed(_)))), "an outcome is given once");
    assert_eq!(text.state().unwrap(), JobState::Success);
    assert!(text.is_new() && text.id().row().is_none());
}

#[test]
fn a_panic_is_an_outcome_with_message_and_backtrace_and_the_thread_lives_on() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).workers(1).start().unwrap();
    let thread = |_: &l0::jobs::JobContext| Ok(thread::current().id());
    let before = l0.jobs().spawn("who", thread).unwrap().wait().unwrap();
    for number in 0..3 {
        let outcome =
            l0.jobs().spawn("boom", move |_| -> Result<(), JobError> { panic!("boom {number}") }).unwrap().wait();
        let Err(JobFailure::Panicked(text)) = outcome else { panic!("{outcome:?}") };
        assert!(text.starts_with(&format!("boom {number} at ")) && text.contains("spawn.rs"), "{text}");
        assert!(text.lines().count() > 3, "no backtrace");
    }
    // Its value's and its closure's own drop may panic, too.
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !thread::panicking() {
                panic!("at the end");
            }
        }
    }
    let bomb = Bomb;
    let held = l0.jobs().spawn("bomb", move |_| Ok(_ = &bomb)).unwrap().wait();
    assert!(matches!(held, Err(JobFailure::Panicked(_))), "it is dropped where it is run");
    drop(l0.jobs().spawn("left", |_| Ok(Bomb)).unwrap());
    let after = l0.jobs().spawn("who", thread).unwrap().wait().unwrap();
    assert_eq!(before, after);
    assert_eq!(l0.jobs().stats().unwrap().spawned.failed, 4);
}

#[test]
fn as_many_run_as_there_are_workers_and_as_many_wait_as_may() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).workers(2).start().unwrap();
    let (gate, began) = (Arc::new(Barrier::new(3)), Arc::new(AtomicUsize::new(0)));
    let held: Vec<_> = (0..2)
        .map(|_| {
            let (gate, began) = (Arc::clone(&gate), Arc::clone(&began));
            let wait = move |_: &l0::jobs::JobContext| {
                began.fetch_add(1, Ordering::SeqCst);
                gate.wait();
                Ok(())
            };
            l0.jobs().spawn("held", wait).unwrap()
        })
        .collect();
    wait_for("both workers", || began.load(Ordering::SeqCst) == 2);
    let mut waiting = Vec::new();
    let refused = loop {
        match l0.jobs().spawn("waits", |_| Ok(())) {
            Ok(handle) => waiting.push(handle),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused, waiting.len()), (SubmitError::Full, 16_384));
    let stats = l0.jobs().stats().unwrap().spawned;
    assert_eq!((stats.waiting, stats.running.len(), &*stats.running[0].0), (16_384, 2, "held"));
    gate.wait();
    for handle in held.into_iter().chain(waiting) {
        handle.wait().unwrap();
    }
    assert!(l0.jobs().spawn("again", |_| Ok(())).is_ok(), "there is room again");
}

#[test]
fn what_waits_can_be_called_off_and_what_runs_be_asked_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).workers(1).start().unwrap();
    let (tell, told) = mpsc::channel();
    let running = l0
        .jobs()
        .spawn("loops", move |cx| -> Result<(), JobError> {
            cx.progress(1, 3, "looping");
            tell.send(()).unwrap();
            loop {
                cx.check()?;
                thread::yield_now();
            }
        })
        .unwrap();
    let pending = l0.jobs().spawn("never", |_| -> Result<(), JobError> { panic!("it was called off") }).unwrap();
    told.recv_timeout(LONG).unwrap();
    assert_eq!((running.state().unwrap(), pending.state().unwrap()), (JobState::Running, JobState::Pending));
    assert_eq!(running.progress(), Some(Progress::new(1, 3, "looping")));
    assert_eq!(running.wait_timeout(Duration::from_millis(1)), None);
    assert!(pending.cancel().unwrap() && !pending.cancel().unwrap());
    assert_eq!((pending.state().unwrap(), pending.wait()), (JobState::Cancelled, Err(JobFailure::Cancelled)));
    assert!(running.cancel().unwrap());
    assert_eq!(running.wait_timeout(LONG), Some(Err(JobFailure::Cancelled)));
    assert_eq!(running.state().unwrap(), JobState::Cancelled);
    // Who does not heed it succeeds.
    let gate = Arc::new(Barrier::new(2));
    let inside = Arc::clone(&gate);
    let deaf = l0
        .jobs()
        .spawn("deaf", move |_| {
            inside.wait();
            inside.wait();
            Ok(7)
        })
        .unwrap();
    gate.wait();
    assert!(deaf.cancel().unwrap());
    gate.wait();
    assert_eq!(deaf.wait(), Ok(7));
}

#[test]
fn a_handle_is_a_future_of_any_executor() {
    struct Flag(AtomicUsize);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let store = store();
    let gate = Arc::new(Barrier::new(2));
    let inside = Arc::clone(&gate);
    let mut handle = pin!(
        store
            .l0
            .jobs()
            .spawn("gated", move |_| {
                inside.wait();
                Ok("done")
            })
            .unwrap()
    );
    let flag = Arc::new(Flag(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&flag));
    let mut context = Context::from_waker(&waker);
    assert!(handle.as_mut().poll(&mut context).is_pending());
    assert!(handle.as_mut().poll(&mut context).is_pending());
    gate.wait();
    wait_for("the waker", || flag.0.load(Ordering::SeqCst) == 1);
    assert_eq!(handle.as_mut().poll(&mut context), Poll::Ready(Ok("done")));
}

#[test]
fn the_end_works_off_what_waits_asks_what_runs_and_takes_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).workers(1).start().unwrap();
    let handle = l0.clone();
    let count = Arc::new(AtomicUsize::new(0));
    let counted: Vec<_> = (0..100)
        .map(|_| {
            let count = Arc::clone(&count);
            let add = move |_: &l0::jobs::JobContext| Ok(count.fetch_add(1, Ordering::SeqCst));
            l0.jobs().spawn("count", add).unwrap()
        })
        .collect();
    l0.shutdown(LONG).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 100);
    assert!(counted.into_iter().all(|handle| handle.wait().is_ok()));
    assert_eq!(handle.jobs().spawn("late", |_| Ok(())).unwrap_err(), SubmitError::Stopped);
    // What does not end by itself is asked, and what waits behind it is called off.
    let l0 = builder(dir.path()).workers(1).start().unwrap();
    let endless = l0
        .jobs()
        .spawn("endless", |cx| -> Result<(), JobError> {
            loop {
                cx.check()?;
                thread::yield_now();
            }
        })
        .unwrap();
    let behind = l0.jobs().spawn("behind", |_| Ok(())).unwrap();
    l0.shutdown(Duration::from_millis(400)).unwrap();
    assert_eq!((endless.wait(), behind.wait()), (Err(JobFailure::Stopped), Err(JobFailure::Stopped)));
}

#[test]
fn a_run_is_a_span_that_goes_on_where_it_was_spawned_and_a_failure_an_event() {
    let store = store();
    store.record(|| {
        let span = tracing::info_span!("request", correlation_id = "order-9");
        let _entered = span.enter();
        let work = |cx: &l0::jobs::JobContext| -> Result<(), JobError> {
            tracing::info!("inside");
            Err(JobError::from(format!("password=hunter2 for {}", cx.correlation_id().unwrap())))
        };
        drop(store.l0.jobs().spawn("mail", work).unwrap().wait());
    });
    let trace = store.l0.trace("order-9").unwrap().unwrap();
    let names: Vec<_> = trace.spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["request", "mail"]);
    let messages: Vec<_> = trace.spans[1].events.iter().map(|event| &*event.message).collect();
    assert_eq!(messages[0], "inside");
    assert!(
        messages[1].starts_with("mail failed, attempt 1 of 1: ") && messages[1].ends_with("order-9"),
        "{messages:?}"
    );
    assert!(!messages[1].contains("hunter2"), "{messages:?}");
    assert_eq!(store.one("SELECT count(*) FROM telemetry_events WHERE payload LIKE '%hunter2%'"), "0");
}

#[test]
fn threads_that_spawn_and_cancel_at_once_lose_no_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).workers(3).start().unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    let (mut done, mut cancelled) = (0, 0);
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (l0, ran) = (&l0, &ran);
                scope.spawn(move || {
                    let spawned = (0..500).map(|number| {
                        let ran = Arc::clone(ran);
                        let handle = l0.jobs().spawn("race", move |_| Ok(ran.fetch_add(1, Ordering::SeqCst))).unwrap();
                        if number % 2 == 0 {
                            handle.cancel().unwrap();
                        }
                        handle
                    });
                    spawned.collect::<Vec<_>>().into_iter().map(|handle| handle.wait()).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    for outcome in outcomes {
        match outcome {
            Ok(_) => done += 1,
            Err(JobFailure::Cancelled) => cancelled += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((done, done + cancelled), (ran.load(Ordering::SeqCst), 2_000));
}

#[test]
fn whoever_comes_at_the_moment_of_the_end_takes_nobody_along() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let l0 = builder(dir.path()).workers(1).start().unwrap();
        let (handle, begun) = (l0.clone(), Arc::new(Barrier::new(2)));
        let started = Arc::clone(&begun);
        let spawner = thread::spawn(move || {
            let mut taken = Vec::new();
            loop {
                match handle.jobs().spawn("count", |_| Ok(())) {
                    Ok(closure) => taken.push(closure),
                    Err(SubmitError::Full) => thread::yield_now(),
                    Err(_) => return taken,
                }
                if taken.len() == 100 {
                    started.wait();
                }
            }
        });
        begun.wait();
        l0.shutdown(LONG).unwrap();
        let taken = spawner.join().unwrap();
        assert!(taken.len() >= 100);
        assert!(taken.into_iter().all(|closure| closure.wait() == Ok(())), "what was taken is worked off");
    }
}
