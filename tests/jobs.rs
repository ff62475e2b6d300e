//! Durable jobs, through the public API: outcomes, retries, time, queues, bad input, telemetry, the end.

mod support;

use std::{
    collections::HashMap,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use l0::{
    Clock, JobHistory, ManualClock, Timestamp,
    jobs::{Backoff, Job, JobContext, JobError, JobFailure, JobOptions, JobState, MemoryQueue, Progress, Reason},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use support::{builder, wait_for};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(20);
const S: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Work {
    number: u32,
}
impl Job for Work {
    const KIND: &'static str = "work";
    type Output = u32;
}

#[derive(Serialize, Deserialize)]
struct Other;
impl Job for Other {
    const KIND: &'static str = "other";
    type Output = ();
}

struct Manual {
    l0: l0::L0,
    time: ManualClock,
    _dir: TempDir,
}

/// Where time is moved by hand.
fn manual() -> Manual {
    let dir = tempfile::tempdir().unwrap();
    let (clock, time) = Clock::manual(Timestamp::from_unix_ns(1_800_000_000_000_000_000));
    Manual { l0: builder(dir.path()).clock(clock).start().unwrap(), time, _dir: dir }
}

#[test]
fn a_job_runs_with_what_its_handler_was_given_and_its_result_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    let factor = 7;
    l0.jobs().register(move |job: Work, _| Ok(job.number * factor)).unwrap();
    let early = l0.jobs().enqueue(Work { number: 1 }).unwrap();
    assert_eq!(early.state().unwrap(), JobState::Pending, "nothing is claimed before the start");
    l0.jobs().start().unwrap();
    l0.jobs().start().unwrap();
    let batch = l0.jobs().enqueue_batch((2..5).map(|number| Work { number })).unwrap();
    assert_eq!(early.wait(), Ok(7));
    let ids: Vec<_> = batch.iter().map(|handle| handle.id()).collect();
    assert_eq!(batch.into_iter().map(|handle| handle.wait().unwrap()).collect::<Vec<_>>(), [14, 21, 28]);
    let row = l0.jobs().get(ids[0]).unwrap().unwrap();
    assert_eq!((row.state, row.result.as_deref(), row.attempt), (JobState::Success, Some("14"), 1));
    assert_eq!((&*row.payload, &*row.queue, row.reason), ("{\"number\":2}", "default", Reason::None));
    assert!(row.run_time(Timestamp::now()).is_some());
    // Handles of the same job, and one that waits twice.
    let job = l0.jobs().enqueue(Work { number: 9 }).unwrap();
    assert_eq!(job.wait_timeout(LONG), Some(Ok(63)));
    assert_eq!(job.wait_timeout(LONG), Some(Ok(63)));
}

#[test]
fn an_async_caller_never_waits_for_the_disk() {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    fn block_on<F: Future>(future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let waker = Arc::new(Unpark(thread::current())).into();
        let mut context = std::task::Context::from_waker(&waker);
        loop {
            match future.as_mut().poll(&mut context) {
                std::task::Poll::Ready(outcome) => return outcome,
                std::task::Poll::Pending => thread::park_timeout(LONG),
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    l0.jobs().register(|job: Work, _| Ok(job.number)).unwrap();
    l0.jobs().start().unwrap();
    let id: l0::correlation::CorrelationId = "order-9".parse().unwrap();
    let handle = l0.clone();
    let outcome = block_on(l0::correlation::scope(id, async move {
        let job = handle.jobs().enqueue_async(Work { number: 5 }).await.unwrap();
        assert_eq!(handle.jobs().get(job.id()).unwrap().unwrap().correlation_id.as_deref(), Some("order-9"));
        job.await
    }));
    assert_eq!(outcome, Ok(5));
    // One that nobody polls is under way all the same.
    drop(l0.jobs().enqueue_async(Work { number: 6 }));
    wait_for("the other", || l0.jobs().list().state(JobState::Success).fetch().unwrap().items.len() == 2);
    let handle = l0.clone();
    l0.shutdown(LONG).unwrap();
    assert!(block_on(handle.jobs().enqueue_async(Work { number: 7 })).unwrap_err().is_closed());
}

#[test]
fn failures_are_tried_again_after_pauses_that_double_until_the_attempts_are_used_up() {
    let Manual { l0, time, _dir } = manual();
    l0.jobs()
        .register(
            |job: Work, cx| if cx.attempt() > job.number { Ok(cx.attempt()) } else { Err(JobError::from("not yet")) },
        )
        .unwrap();
    let options = || JobOptions::default().max_attempts(3).backoff(Backoff::exponential(10 * S, 60 * S));
    let third = l0.jobs().enqueue_with(Work { number: 2 }, options()).unwrap();
    let never = l0.jobs().enqueue_with(Work { number: 9 }, options()).unwrap();
    assert_eq!(l0.jobs().run_due().unwrap(), 2);
    let row = l0.jobs().get(third.id()).unwrap().unwrap();
    assert_eq!((row.state, row.reason, row.error.as_deref()), (JobState::Pending, Reason::Error, Some("not yet")));
    time.advance(7 * S);
    assert_eq!(l0.jobs().run_due().unwrap(), 0, "three quarters of the pause at least");
    time.advance(3 * S);
    assert_eq!(l0.jobs().run_due().unwrap(), 2, "the whole pause at most");
    time.advance(10 * S);
    assert_eq!(l0.jobs().run_due().unwrap(), 0, "the second pause is longer");
    time.advance(10 * S);
    assert_eq!(l0.jobs().run_due().unwrap(), 2);
    assert_eq!((third.wait(), never.wait()), (Ok(3), Err(JobFailure::Failed("not yet".to_owned()))));
    // Once more, from the beginning.
    let failed = l0.jobs().list().state(JobState::Failed).fetch().unwrap().items.remove(0);
    assert_eq!((failed.attempt, failed.max_attempts), (3, 3));
    assert!(l0.jobs().retry(failed.id).unwrap());
    assert_eq!((l0.jobs().run_due().unwrap(), l0.jobs().get(failed.id).unwrap().unwrap().attempt), (1, 1));
}

#[test]
fn each_way_to_end_an_attempt_does_what_it_says() {
    let Manual { l0, time, _dir } = manual();
    l0.jobs()
        .register(|job: Work, cx| match job.number {
            0 => Err(JobError::fatal("for good")),
            1 if cx.attempt() == 1 => Err(JobError::retry_after("later", 100 * S)),
            2 if cx.resume::<u32>()?.is_none() => {
                cx.checkpoint(&1)?;
                Err(JobError::snooze(50 * S))
            }
            3 => Err(JobError::cancelled()),
            4 => panic!("password=hunter2"),
            _ => Ok(cx.attempt()),
        })
        .unwrap();
    let options = || JobOptions::default().max_attempts(2).backoff(Backoff::fixed(S));
    let jobs: Vec<_> = (0..5).map(|number| l0.jobs().enqueue_with(Work { number }, options()).unwrap()).collect();
    assert_eq!(l0.jobs().run_due().unwrap(), 5);
    time.advance(S);
    assert_eq!(l0.jobs().run_due().unwrap(), 1, "the one that panicked");
    time.advance(48 * S);
    assert_eq!(l0.jobs().run_due().unwrap(), 0);
    time.advance(S);
    assert_eq!(l0.jobs().run_due().unwrap(), 1, "the one that snoozed");
    time.advance(50 * S);
    assert_eq!(l0.jobs().run_due().unwrap(), 1, "the one that said when");
    let mut outcomes = jobs.into_iter().map(|job| job.wait());
    assert_eq!(outcomes.next().unwrap(), Err(JobFailure::Failed("for good".to_owned())));
    assert_eq!(outcomes.next().unwrap(), Ok(2));
    assert_eq!(outcomes.next().unwrap(), Ok(1), "to snooze costs no attempt");
    assert_eq!(outcomes.next().unwrap(), Err(JobFailure::Cancelled));
    let Some(Err(JobFailure::Panicked(text))) = outcomes.next() else { panic!("it panicked") };
    assert!(text.contains("jobs.rs") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_job_waits_for_its_time_and_not_longer_than_it_may() {
    let Manual { l0, time, _dir } = manual();
    l0.jobs().register(|job: Work, _| Ok(job.number)).unwrap();
    let now = 1_800_000_000_000_000_000;
    let at = Timestamp::from_unix_ns(now + 30_000_000_000);
    let later = l0.jobs().enqueue_with(Work { number: 1 }, JobOptions::default().run_at(at)).unwrap();
    let delayed = l0.jobs().enqueue_with(Work { number: 2 }, JobOptions::default().delay(20 * S)).unwrap();
    let missed = l0.jobs().enqueue_with(Work { number: 3 }, JobOptions::default().start_within(5 * S)).unwrap();
    time.advance(19 * S);
    assert_eq!(l0.jobs().run_due().unwrap(), 0);
    assert_eq!(missed.wait(), Err(JobFailure::MissedDeadline));
    time.advance(S);
    assert_eq!((l0.jobs().run_due().unwrap(), delayed.wait()), (1, Ok(2)));
    // A clock that is set back makes nothing run early, or twice, and holds up nothing but what named its moment.
    let at_once = l0.jobs().enqueue(Work { number: 4 }).unwrap();
    let in_a_while = l0.jobs().enqueue_with(Work { number: 5 }, JobOptions::default().delay(20 * S)).unwrap();
    time.set_wall(Timestamp::from_unix_ns(now - 3_600_000_000_000));
    assert_eq!((l0.jobs().run_due().unwrap(), at_once.wait(), later.state().unwrap()), (1, Ok(4), JobState::Pending));
    time.advance(19 * S);
    assert_eq!(l0.jobs().run_due().unwrap(), 0);
    time.advance(S);
    assert_eq!((l0.jobs().run_due().unwrap(), in_a_while.wait()), (1, Ok(5)));
    time.set_wall(Timestamp::from_unix_ns(now + 3_600_000_000_000));
    assert_eq!((l0.jobs().run_due().unwrap(), later.wait()), (1, Ok(1)));
}

#[test]
fn delayed_jobs_and_retries_start_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    l0.jobs()
        .register(|_: Work, cx| if cx.attempt() < 3 { Err(JobError::from("again")) } else { Ok(cx.attempt()) })
        .unwrap();
    l0.jobs().start().unwrap();
    let soon = Duration::from_millis(30);
    let options = JobOptions::default().delay(soon).backoff(Backoff::fixed(soon));
    let job = l0.jobs().enqueue_with(Work { number: 1 }, options).unwrap();
    assert_eq!(job.wait_timeout(LONG), Some(Ok(3)));
    let row = l0.jobs().list().fetch().unwrap().items.remove(0);
    assert!(row.finished_at.unwrap().as_unix_ns() - row.enqueued_at.as_unix_ns() >= 90_000_000);
}

#[test]
fn the_higher_priority_goes_first_and_the_lower_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).job_queue(MemoryQueue::default()).start().unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    l0.jobs()
        .register(move |job: Work, _| {
            seen.lock().push(job.number);
            Ok(job.number)
        })
        .unwrap();
    l0.jobs().enqueue_with(Work { number: 1 }, JobOptions::default().priority(-1)).unwrap();
    for _ in 0..40 {
        l0.jobs().enqueue_with(Work { number: 5 }, JobOptions::default().priority(5)).unwrap();
    }
    l0.jobs().run_due().unwrap();
    let order = order.lock();
    let place = order.iter().position(|number| *number == 1).unwrap();
    assert!((3..10).contains(&place), "the one that waits longest has every eighth turn: {place}");
}

#[test]
fn a_queue_runs_as_many_as_it_may_and_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    l0.jobs().queue("narrow", 2).unwrap();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let is_open = Arc::new(AtomicBool::new(false));
    let (running, peak, open) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&is_open));
    l0.jobs()
        .register(move |job: Work, cx| {
            peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            while !open.load(Ordering::SeqCst) {
                cx.check()?;
                thread::yield_now();
            }
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(job.number)
        })
        .unwrap();
    l0.jobs().register(|_: Other, _| Ok(())).unwrap();
    l0.jobs().start().unwrap();
    let narrow: Vec<_> = (0..6)
        .map(|number| l0.jobs().enqueue_with(Work { number }, JobOptions::default().queue("narrow")).unwrap())
        .collect();
    wait_for("two", || now.load(Ordering::SeqCst) == 2);
    // The rows agree, and other queues go on.
    l0.jobs().enqueue(Other).unwrap().wait().unwrap();
    let listed = |state| l0.jobs().list().queue("narrow").state(state).fetch().unwrap().items.len();
    assert_eq!((listed(JobState::Running), listed(JobState::Pending)), (2, 4));
    let stats = l0.jobs().stats().unwrap();
    let of_work = stats.kinds.iter().find(|kind| kind.kind == "work").unwrap();
    assert_eq!((of_work.running, of_work.pending, stats.running.len()), (2, 4, 2));
    is_open.store(true, Ordering::SeqCst);
    narrow.into_iter().for_each(|job| _ = job.wait().unwrap());
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[test]
fn of_a_key_one_job_is_pending_or_runs() {
    let Manual { l0, _dir, .. } = manual();
    l0.jobs().register(|job: Work, _| Ok(job.number)).unwrap();
    let unique = |number| l0.jobs().enqueue_with(Work { number }, JobOptions::default().unique("k")).unwrap();
    let (first, second) = (unique(1), unique(2));
    assert_eq!((first.is_new(), second.is_new(), first.id()), (true, false, second.id()));
    l0.jobs().run_due().unwrap();
    assert_eq!((first.wait(), second.wait()), (Ok(1), Ok(1)), "both handles are of one job");
    assert!(unique(3).is_new());
}

#[test]
fn a_running_job_is_asked_to_end_and_a_pending_one_never_begins() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    let (tell, told) = mpsc::channel();
    l0.jobs()
        .register(move |_: Work, cx: &JobContext| -> Result<u32, JobError> {
            cx.progress(3, 10, "three");
            let _ = tell.send(());
            loop {
                cx.check()?;
                thread::yield_now();
            }
        })
        .unwrap();
    l0.jobs().start().unwrap();
    let waits = l0.jobs().enqueue_with(Work { number: 1 }, JobOptions::default().delay(3_600 * S)).unwrap();
    let runs = l0.jobs().enqueue(Work { number: 2 }).unwrap();
    told.recv_timeout(LONG).unwrap();
    assert_eq!((runs.state().unwrap(), runs.progress()), (JobState::Running, Some(Progress::new(3, 10, "three"))));
    assert!(l0.jobs().cancel(runs.id()).unwrap() && waits.cancel().unwrap() && !waits.cancel().unwrap());
    assert_eq!(runs.wait_timeout(LONG), Some(Err(JobFailure::Cancelled)));
    let row = l0.jobs().get(waits.id()).unwrap().unwrap();
    assert_eq!((row.state, row.attempt), (JobState::Cancelled, 0));
    assert_eq!(waits.wait(), Err(JobFailure::Cancelled));
    let row =
        l0.jobs().list().state(JobState::Cancelled).fetch().unwrap().items.into_iter().find(|row| row.attempt == 1);
    assert_eq!(row.unwrap().progress, Some(Progress::new(3, 10, "three")), "the last it said is written");
}

#[test]
fn an_attempt_that_takes_too_long_is_told_so_and_one_that_does_not_listen_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).workers(1).start().unwrap();
    let deaf_may_end = Arc::new(AtomicBool::new(false));
    let may_end = Arc::clone(&deaf_may_end);
    l0.jobs()
        .register(move |job: Work, cx: &JobContext| {
            if job.number == 0 {
                loop {
                    cx.check()?;
                    thread::yield_now();
                }
            }
            while job.number == 1 && !may_end.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            Ok(cx.attempt())
        })
        .unwrap();
    l0.jobs().start().unwrap();
    let short = || {
        JobOptions::default().timeout(Duration::from_millis(40)).max_attempts(2).backoff(Backoff::fixed(Duration::ZERO))
    };
    let listens = l0.jobs().enqueue_with(Work { number: 0 }, short()).unwrap();
    let id = listens.id();
    assert_eq!(listens.wait_timeout(LONG), Some(Err(JobFailure::TimedOut)));
    assert_eq!(l0.jobs().get(id).unwrap().unwrap().attempt, 2, "it was tried again");
    let deaf = l0.jobs().enqueue_with(Work { number: 1 }, short()).unwrap();
    let id = deaf.id();
    assert_eq!(deaf.wait_timeout(LONG), Some(Err(JobFailure::TimedOut)));
    let row = l0.jobs().get(id).unwrap().unwrap();
    assert_eq!((row.state, row.reason, row.attempt), (JobState::Failed, Reason::TimedOut, 1), "not beside itself");
    let next = l0.jobs().enqueue(Work { number: 2 }).unwrap();
    assert_eq!(next.wait_timeout(LONG), Some(Ok(1)), "another thread has its place");
    deaf_may_end.store(true, Ordering::SeqCst);
    let handle = l0.clone();
    l0.shutdown(LONG).unwrap();
    assert_eq!(handle.jobs().get(id).unwrap().unwrap().state, JobState::Failed, "what it returns late counts nothing");
}

#[test]
fn what_is_checkpointed_is_where_the_next_attempt_begins() {
    let Manual { l0, time, _dir } = manual();
    l0.jobs()
        .register(|_: Work, cx| {
            let begun: u32 = cx.resume()?.unwrap_or(0);
            for done in begun..10 {
                cx.progress(u64::from(done), 10, "step");
                if done == 4 && cx.attempt() == 1 {
                    return Err(JobError::from("stumbled"));
                }
                cx.checkpoint(&(done + 1))?;
                assert_eq!(cx.resume::<u32>()?, Some(done + 1), "and it reads its own");
            }
            Ok(begun)
        })
        .unwrap();
    let job = l0.jobs().enqueue(Work { number: 1 }).unwrap();
    l0.jobs().run_due().unwrap();
    let row = l0.jobs().get(job.id()).unwrap().unwrap();
    assert_eq!((row.checkpoint.as_deref(), row.progress.unwrap().done), (Some("4"), 4));
    time.advance(2 * S);
    l0.jobs().run_due().unwrap();
    let row = l0.jobs().get(job.id()).unwrap().unwrap();
    assert_eq!((row.checkpoint, row.progress.unwrap().done), (None, 9), "a success needs none");
    assert_eq!(job.wait(), Ok(4));
}

#[test]
fn what_a_kind_is_not_made_of_fails_that_job_alone() {
    #[derive(Serialize, Deserialize)]
    struct Renamed {
        text: String,
    }
    impl Job for Renamed {
        const KIND: &'static str = "work";
        type Output = u32;
    }
    let Manual { l0, _dir, .. } = manual();
    l0.jobs()
        .register(|job: Work, cx| {
            if job.number == 2 {
                cx.checkpoint(&"a text")?;
                let _: Option<u32> = cx.resume()?;
            }
            Ok(job.number)
        })
        .unwrap();
    let bad = l0.jobs().enqueue(Renamed { text: "x".into() }).unwrap();
    let worse = l0.jobs().enqueue(Work { number: 2 }).unwrap();
    let good = l0.jobs().enqueue(Work { number: 3 }).unwrap();
    l0.jobs().run_due().unwrap();
    assert_eq!(good.wait(), Ok(3));
    for bad in [bad.wait(), worse.wait()] {
        let Err(JobFailure::Undecodable(why)) = bad else { panic!("{bad:?}") };
        assert!(why.contains("missing field `number`") || why.contains("checkpoint"), "{why}");
    }
    // A result that the reader does not know.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Answer(String);
    #[derive(Serialize, Deserialize)]
    struct Asked {
        number: u32,
    }
    impl Job for Asked {
        const KIND: &'static str = "work";
        type Output = Answer;
    }
    let asked = l0.jobs().enqueue(Asked { number: 3 }).unwrap();
    l0.jobs().run_due().unwrap();
    assert!(matches!(asked.wait(), Err(JobFailure::Undecodable(_))));
}

#[test]
fn kinds_without_a_handler_wait_and_are_shown_as_such() {
    let Manual { l0, _dir, .. } = manual();
    l0.jobs().register(|job: Work, _| Ok(job.number)).unwrap();
    let waits = l0.jobs().enqueue(Other).unwrap();
    let work = l0.jobs().enqueue(Work { number: 1 }).unwrap();
    assert_eq!(l0.jobs().run_due().unwrap(), 1);
    assert_eq!(work.wait(), Ok(1));
    let stats = l0.jobs().stats().unwrap();
    let waiting: HashMap<_, _> = stats.kinds.iter().map(|kind| (&*kind.kind, kind.waits_for_handler)).collect();
    assert_eq!((waiting["other"], waiting["work"]), (true, false));
    assert!(stats.to_string().contains("waits for a handler"));
    l0.jobs().register(|_: Other, _| Ok(())).unwrap();
    assert_eq!(l0.jobs().run_due().unwrap(), 1);
    assert_eq!(waits.wait(), Ok(()));
}

#[test]
fn bad_input_is_refused_with_advice() {
    #[derive(Serialize, Deserialize)]
    struct Large(String);
    impl Job for Large {
        const KIND: &'static str = "large";
        type Output = String;
    }
    #[derive(Serialize, Deserialize)]
    struct NoJson(std::collections::BTreeMap<(u8, u8), u8>);
    impl Job for NoJson {
        const KIND: &'static str = "no_json";
        type Output = ();
    }
    #[derive(Serialize, Deserialize)]
    struct Nameless;
    impl Job for Nameless {
        const KIND: &'static str = "";
        type Output = ();
    }
    #[derive(Serialize, Deserialize)]
    struct Elsewhere;
    impl Job for Elsewhere {
        const KIND: &'static str = "elsewhere";
        type Output = ();
        fn options() -> JobOptions {
            JobOptions::default().queue("nowhere")
        }
    }
    let Manual { l0, _dir, .. } = manual();
    let jobs = l0.jobs();
    jobs.register(|large: Large, _| Ok(large.0.repeat(2))).unwrap();
    let says = |error: l0::Error, words: &[&str]| {
        let text = error.to_string();
        assert!(error.is_invalid_input() && words.iter().all(|word| text.contains(word)), "{text}");
    };
    says(jobs.enqueue(Large("x".repeat(1 << 20))).unwrap_err(), &["large", "1048576", "file"]);
    says(jobs.enqueue(NoJson([((1, 2), 3)].into())).unwrap_err(), &["no_json", "JSON"]);
    says(jobs.enqueue(Elsewhere).unwrap_err(), &["nowhere", "jobs().queue(\"nowhere\"", "default"]);
    says(jobs.enqueue(Nameless).unwrap_err(), &["kind", "128"]);
    says(jobs.enqueue_with(Other, JobOptions::default().unique("")).unwrap_err(), &["unique key"]);
    says(jobs.register(|_: Large, _| Ok(String::new())).unwrap_err(), &["large", "already"]);
    says(jobs.queue("q", 0).unwrap_err(), &["q", "1024"]);
    says(jobs.queue("a\nb", 1).unwrap_err(), &["queue", "control"]);
    assert_eq!(jobs.list().fetch().unwrap().items.len(), 0, "and nothing of it is there");
    jobs.register(|_: Elsewhere, _| Ok(())).unwrap();
    says(jobs.start().unwrap_err(), &["nowhere"]);
    jobs.queue("nowhere", 1).unwrap();
    jobs.enqueue(Elsewhere).unwrap();
    // A result that is too large fails its job.
    let large = jobs.enqueue(Large("x".repeat(600 << 10))).unwrap();
    jobs.run_due().unwrap();
    let Err(JobFailure::Undecodable(why)) = large.wait() else { panic!("it was kept") };
    assert!(why.contains("result") && why.contains("1048576"), "{why}");
    let cursor: l0::query::Cursor = "e1.2".parse().unwrap();
    assert!(jobs.list().after(&cursor).fetch().unwrap_err().is_invalid_input());
    assert_eq!(jobs.get(uuid::Uuid::nil().into()).unwrap(), None);
    assert!(!jobs.cancel(uuid::Uuid::now_v7().into()).unwrap());
    let handle = l0.clone();
    l0.shutdown(LONG).unwrap();
    assert!(handle.jobs().enqueue(Other).unwrap_err().is_closed());
    assert!(handle.jobs().start().unwrap_err().is_closed() && handle.jobs().run_due().unwrap_err().is_closed());
    assert!(handle.jobs().register(|_: Other, _| Ok(())).unwrap_err().is_closed());
}

#[test]
fn a_trace_shows_the_request_its_job_and_what_the_job_logged() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    let subscriber = tracing_subscriber::layer::SubscriberExt::with(tracing_subscriber::registry(), l0.layer());
    let (id, alone) = tracing::subscriber::with_default(subscriber, || {
        l0.jobs()
            .register(|job: Work, cx| {
                tracing::info!(order = 9, "rendering");
                if cx.attempt() < job.number { Err(JobError::from("no paper, api_key=sk-123456")) } else { Ok(1) }
            })
            .unwrap();
        l0.jobs().start().unwrap();
        let job = tracing::info_span!("request", correlation_id = "order-9").in_scope(|| {
            let options = JobOptions::default().backoff(Backoff::fixed(Duration::ZERO));
            l0.jobs().enqueue_with(Work { number: 2 }, options).unwrap()
        });
        let alone = l0.jobs().enqueue(Work { number: 0 }).unwrap();
        let ids = (job.id(), alone.id());
        job.wait().unwrap();
        alone.wait().unwrap();
        ids
    });
    let told = |correlation: &str| {
        let trace = l0.trace(correlation).unwrap().unwrap();
        let spans: Vec<_> = trace.spans.iter().map(|span| span.name.to_string()).collect();
        let mut events = trace.all_events();
        events.sort_by_key(|event| event.at);
        let types: Vec<_> = events.iter().map(|event| event.event_type.clone()).collect();
        (spans, types, trace.to_string())
    };
    wait_for("the last event", || told("order-9").1.iter().any(|kind| kind == "job.succeeded"));
    let (spans, types, text) = told("order-9");
    assert_eq!(spans, ["request", "work", "work"]);
    let mut jobs: Vec<_> = types.iter().filter(|kind| kind.starts_with("job.")).collect();
    // It is told when the commit has returned; a worker may be quicker.
    jobs[..2].sort();
    assert_eq!(jobs, ["job.enqueued", "job.started", "job.retrying", "job.started", "job.succeeded"]);
    assert_eq!(text.matches("rendering").count(), 2, "{text}");
    assert!(text.contains("attempt 1 of 10") && !text.contains("sk-123456"), "{text}");
    // One that nobody's request made is a trace of its own, by its id.
    wait_for("the other", || told(&alone.to_string()).1.iter().any(|kind| kind == "job.succeeded"));
    assert_eq!(told(&alone.to_string()).0, ["work"]);
    let facts = l0
        .sql(
            "SELECT payload ->> 'kind', payload ->> 'attempt', payload ->> 'queue', duration_ms > 0,
                    payload ->> 'queue_wait_ms' > 0, status, payload ->> 'job_id'
               FROM telemetry_events WHERE event_type = 'job.succeeded' AND correlation_id = 'order-9'",
            &[],
        )
        .unwrap();
    assert_eq!(support::texts(&facts)[0], ["work", "2", "default", "1", "1", "success", &id.to_string()]);
}

#[test]
fn the_end_lets_what_runs_be_done_and_interrupts_the_rest_at_no_cost() {
    let dir = tempfile::tempdir().unwrap();
    let (tell, told) = mpsc::channel();
    let gate = Arc::new(Barrier::new(2));
    let start = || {
        let l0 = builder(dir.path()).workers(4).start().unwrap();
        let (tell, gate) = (tell.clone(), Arc::clone(&gate));
        l0.jobs()
            .register(move |job: Work, cx| {
                tell.send(job.number).unwrap();
                match job.number {
                    // It is done when the program shuts down.
                    1 => {
                        gate.wait();
                        Ok(cx.attempt())
                    }
                    // It heeds that, by either way.
                    2 if cx.resume::<u32>()?.is_none() => {
                        cx.checkpoint(&1)?;
                        loop {
                            cx.check()?;
                            thread::yield_now();
                        }
                    }
                    3 if cx.resume::<u32>()?.is_none() => {
                        cx.checkpoint(&1)?;
                        while !cx.is_cancelled() {
                            thread::yield_now();
                        }
                        Err(JobError::cancelled())
                    }
                    _ => Ok(cx.attempt()),
                }
            })
            .unwrap();
        l0.jobs().start().unwrap();
        l0
    };
    let l0 = start();
    let jobs: Vec<_> = (1..4).map(|number| l0.jobs().enqueue(Work { number }).unwrap()).collect();
    let later =
        l0.jobs().enqueue_with(Work { number: 4 }, JobOptions::default().delay(Duration::from_millis(1))).unwrap();
    let mut begun: Vec<_> = (0..4).map(|_| told.recv_timeout(LONG).unwrap()).collect();
    begun.sort_unstable();
    assert_eq!(begun, [1, 2, 3, 4]);
    let ids: Vec<_> = jobs.iter().map(|job| job.id()).collect();
    let ender = thread::spawn({
        let gate = Arc::clone(&gate);
        move || gate.wait()
    });
    l0.shutdown(Duration::from_secs(2)).unwrap();
    ender.join().unwrap();
    let outcomes: Vec<_> = jobs.into_iter().map(|job| job.wait()).collect();
    assert_eq!(outcomes, [Ok(1), Err(JobFailure::Stopped), Err(JobFailure::Stopped)]);
    drop(later);
    let l0 = start();
    for id in &ids[1..] {
        wait_for("the interrupted", || l0.jobs().get(*id).unwrap().unwrap().state == JobState::Success);
        assert_eq!(l0.jobs().get(*id).unwrap().unwrap().attempt, 1, "it cost no attempt");
    }
}

#[test]
fn a_handler_that_ignores_the_end_costs_no_attempt_either() {
    let dir = tempfile::tempdir().unwrap();
    let may_end = Arc::new(AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    let l0 = builder(dir.path()).start().unwrap();
    let end = Arc::clone(&may_end);
    l0.jobs()
        .register(move |_: Work, _| {
            tell.send(()).unwrap();
            while !end.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            Ok(1)
        })
        .unwrap();
    l0.jobs().start().unwrap();
    let job = l0.jobs().enqueue(Work { number: 1 }).unwrap();
    let id = job.id();
    told.recv_timeout(LONG).unwrap();
    l0.shutdown(Duration::from_secs(1)).unwrap();
    assert_eq!(job.wait(), Err(JobFailure::Stopped));
    // Its process lives, so nobody else runs it; were it dead, the attempt would not count.
    let l0 = builder(dir.path()).start().unwrap();
    let row = l0.jobs().get(id).unwrap().unwrap();
    assert_eq!((row.state, row.attempt), (JobState::Running, 1));
    may_end.store(true, Ordering::SeqCst);
}

#[test]
fn history_is_kept_as_long_and_as_much_as_it_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).job_history(JobHistory::default().max_count(3)).start().unwrap();
    l0.jobs().register(|job: Work, _| Ok(job.number)).unwrap();
    l0.jobs().start().unwrap();
    let jobs = l0.jobs().enqueue_batch((0..20).map(|number| Work { number })).unwrap();
    let first = jobs[0].id();
    jobs.into_iter().for_each(|job| _ = job.wait());
    wait_for("pruning", || {
        let kept = l0.jobs().list().fetch().unwrap().items.len();
        (3..=4).contains(&kept)
    });
    assert_eq!(l0.jobs().get(first).unwrap(), None);
}

#[test]
fn pages_go_on_where_they_ended() {
    let Manual { l0, _dir, .. } = manual();
    l0.jobs().enqueue_batch((0..25).map(|number| Work { number })).unwrap();
    l0.jobs().enqueue(Other).unwrap();
    let mut seen = Vec::new();
    let mut page = l0.jobs().list().kind("work").limit(10).fetch().unwrap();
    assert_eq!(page.total, l0::query::Total::Exactly(25));
    loop {
        seen.extend(page.items.iter().map(|row| row.payload.clone()));
        let Some(next) = page.next else { break };
        let next: l0::query::Cursor = next.as_str().parse().unwrap();
        page = l0.jobs().list().kind("work").limit(10).after(&next).fetch().unwrap();
    }
    let expected: Vec<_> = (0..25).rev().map(|number| format!("{{\"number\":{number}}}")).collect();
    assert_eq!(seen, expected);
}
