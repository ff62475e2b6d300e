//! Schedules through the public API, on a clock that is moved by hand: what fires, once; what is late, missed, skipped, held.

mod support;

use std::{sync::Arc, time::Duration};

use l0::{
    Durability, ManualClock, Timestamp,
    health::Status,
    jobs::{
        Job, JobContext, JobError, JobOptions, JobQueue as _, JobState, Misfire, Overlap, Schedule, SqliteQueue,
        queue::{ScheduleChange, SchedulePut},
    },
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use support::builder;
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Tick {
    of: String,
}
impl Job for Tick {
    const KIND: &'static str = "tick";
    type Output = ();
    fn options() -> JobOptions {
        JobOptions::default().max_attempts(1)
    }
}

fn tick(of: &str) -> Tick {
    Tick { of: of.to_owned() }
}

/// A store on a clock that stands at 2026-03-02 (a Monday), 00:00 UTC; and the fire times whose jobs ran, in their order.
struct Scene {
    l0: l0::L0,
    time: ManualClock,
    ran: Arc<Mutex<Vec<(String, Timestamp)>>>,
    dir: TempDir,
}

fn at(text: &str) -> Timestamp {
    let at: jiff::Timestamp = text.parse().unwrap();
    Timestamp::from_unix_ns(i64::try_from(at.as_nanosecond()).unwrap())
}

fn begin() -> Timestamp {
    at("2026-03-02T00:00:00Z")
}

fn scene() -> Scene {
    open(tempfile::tempdir().unwrap(), begin(), Arc::default())
}

fn open(dir: TempDir, now: Timestamp, ran: Arc<Mutex<Vec<(String, Timestamp)>>>) -> Scene {
    let (clock, time) = l0::Clock::manual(now);
    let l0 = builder(dir.path()).workers(2).clock(clock).start().unwrap();
    let seen = Arc::clone(&ran);
    l0.jobs()
        .register(move |tick: Tick, cx: &JobContext| {
            seen.lock().push((tick.of, cx.scheduled_for().ok_or("no fire time")?));
            Ok(())
        })
        .unwrap();
    Scene { l0, time, ran, dir }
}

impl Scene {
    fn schedule(&self, name: &str, schedule: Schedule) {
        self.l0.jobs().schedule(name, schedule, tick(name)).unwrap();
    }

    /// Goes on by this much, and runs what is due.
    fn pass(&self, d: Duration) {
        self.time.advance(d);
        self.l0.jobs().run_due().unwrap();
    }

    /// The fire times that ran since this was last asked, without their date.
    fn ran(&self) -> Vec<String> {
        let ran = std::mem::take(&mut *self.ran.lock());
        ran.into_iter().map(|(_, at)| at.to_string()[5..19].to_owned()).collect()
    }

    /// Ends the process, and begins another after so long.
    fn restart_after(self, d: Duration) -> Self {
        let Self { l0, time, ran, dir } = self;
        time.advance(d);
        let now = l0.jobs().stats().unwrap().at;
        l0.shutdown(Duration::from_secs(5)).unwrap();
        open(dir, now, ran)
    }

    fn row(&self, name: &str) -> l0::jobs::ScheduleRow {
        self.l0.jobs().schedules().unwrap().into_iter().find(|row| row.name == name).unwrap()
    }

    fn events(&self, event_type: &str) -> Vec<l0::query::EventRow> {
        self.l0.events().event_type(event_type).oldest_first().limit(1_000).fetch().unwrap().items
    }
}

#[test]
fn a_cron_line_fires_at_its_times_and_each_job_knows_which() {
    let scene = scene();
    scene.schedule("half past two", Schedule::cron("30 2 * * *").unwrap());
    assert_eq!(scene.row("half past two").next_at, Some(at("2026-03-02T02:30:00Z")));
    scene.pass(2 * HOUR);
    assert_eq!(scene.ran(), [""; 0]);
    scene.pass(30 * MINUTE);
    assert_eq!(scene.ran(), ["03-02T02:30:00"]);
    scene.l0.jobs().run_due().unwrap();
    assert_eq!(scene.ran(), [""; 0], "once");
    scene.pass(DAY);
    assert_eq!(scene.ran(), ["03-03T02:30:00"]);
    let row = scene.row("half past two");
    assert_eq!((row.fires, row.missed, row.skipped, row.open), (2, 0, 0, 0));
    assert_eq!((row.last_at, row.next_at), (Some(at("2026-03-03T02:30:00Z")), Some(at("2026-03-04T02:30:00Z"))));
    let fired = scene.events("schedule.fired");
    assert_eq!(fired.len(), 2);
    let job = scene.l0.jobs().list().fetch().unwrap().items.remove(0);
    assert_eq!(job.schedule.as_deref(), Some("half past two"));
    let trace = scene.l0.trace(&job.id.to_string()).unwrap().unwrap();
    let types: Vec<_> = trace.events.iter().map(|event| event.event_type.as_str()).collect();
    assert!(types.contains(&"schedule.fired") && types.contains(&"job.succeeded"), "one trace of both: {types:?}");
}

#[test]
fn a_fixed_rate_has_no_drift_and_a_fixed_pause_begins_at_the_end() {
    let scene = scene();
    let pause = Duration::from_secs(10);
    scene.schedule("rate", Schedule::every(Duration::from_secs(60)));
    scene.pass(Duration::from_secs(67));
    scene.pass(Duration::from_secs(60));
    assert_eq!(scene.ran(), ["03-02T00:01:00", "03-02T00:02:00"], "not seven seconds later each time");
    scene.l0.jobs().unschedule("rate").unwrap();
    scene.schedule("pause", Schedule::after_each(pause));
    scene.pass(pause);
    assert_eq!(scene.ran(), ["03-02T00:02:17"]);
    assert_eq!(scene.row("pause").next_at, Some(at("2026-03-02T00:02:27Z")), "so long after its end, which is now");
    scene.pass(3 * pause);
    assert_eq!(scene.ran(), ["03-02T00:02:27"]);
    scene.pass(pause);
    assert_eq!(scene.ran(), ["03-02T00:02:57"]);
}

#[test]
fn once_is_once_also_when_it_is_given_again() {
    let scene = scene();
    let once = || Schedule::once(begin().saturating_add(HOUR));
    scene.schedule("once", once());
    scene.pass(HOUR);
    assert_eq!(scene.ran(), ["03-02T01:00:00"]);
    scene.schedule("once", once());
    scene.pass(DAY);
    let scene = scene.restart_after(DAY);
    scene.schedule("once", once());
    scene.pass(DAY);
    assert_eq!(scene.ran(), [""; 0]);
    assert_eq!(scene.row("once").next_at, None);
    scene.schedule("just missed", Schedule::once(begin()));
    scene.schedule("long ago", Schedule::once(at("2020-01-01T00:00:00Z")));
    scene.pass(Duration::ZERO);
    assert_eq!(scene.ran(), ["03-02T00:00:00"], "within a week, as misfires are");
    assert_eq!(scene.row("long ago").missed, 1);
}

#[test]
fn what_was_missed_is_treated_as_was_said() {
    let two_weeks = 14 * DAY;
    for (misfire, expected, missed) in [
        (Misfire::Skip, &[][..], 14),
        (Misfire::RunOnce { within: 12 * HOUR }, &["03-15T12:00:00"], 13),
        (Misfire::RunOnce { within: HOUR }, &[], 14),
        (Misfire::CatchUp { within: 3 * DAY, at_most: 9 }, &["03-13T12:00:00", "03-14T12:00:00", "03-15T12:00:00"], 11),
        (Misfire::CatchUp { within: two_weeks, at_most: 2 }, &["03-14T12:00:00", "03-15T12:00:00"], 12),
        (Misfire::CatchUp { within: two_weeks, at_most: 0 }, &[], 14),
    ] {
        for overlap in [Overlap::Skip, Overlap::QueueOne, Overlap::Allow] {
            let scene = scene();
            let noon = || Schedule::cron("0 12 * * *").unwrap().misfire(misfire).overlap(overlap);
            scene.schedule("noon", noon());
            // A laptop asleep for two weeks; it wakes at midnight.
            let scene = scene.restart_after(two_weeks);
            scene.schedule("noon", noon());
            scene.pass(Duration::ZERO);
            assert_eq!(scene.ran(), expected, "{misfire:?} {overlap:?}");
            assert_eq!(scene.row("noon").missed, missed, "{misfire:?}");
            assert_eq!(scene.events("schedule.missed").len(), 1);
            // And from then on as ever.
            scene.pass(12 * HOUR);
            assert_eq!(scene.ran(), ["03-16T12:00:00"]);
        }
    }
}

#[test]
fn what_is_late_is_not_missed() {
    let scene = scene();
    scene.schedule("hourly", Schedule::cron("@hourly").unwrap().misfire(Misfire::Skip));
    scene.pass(HOUR + Duration::from_secs(60));
    assert_eq!(scene.ran(), ["03-02T01:00:00"]);
    assert_eq!(scene.row("hourly").lateness(), Some(Duration::from_secs(60)));
    scene.pass(HOUR + Duration::from_secs(1));
    assert_eq!((scene.ran().len(), scene.row("hourly").missed), (0, 1), "a second more is missed");
    // Of two that are due at once the first was missed.
    scene.schedule("often", Schedule::every(Duration::from_secs(10)).misfire(Misfire::Skip));
    scene.pass(Duration::from_secs(25));
    assert_eq!((scene.ran().len(), scene.row("often").missed), (1, 1));
}

#[test]
fn a_job_that_is_still_at_work_is_treated_as_was_said() {
    for (overlap, fires, skipped) in [(Overlap::Skip, 1, 4), (Overlap::QueueOne, 1, 3), (Overlap::Allow, 5, 0)] {
        let scene = scene();
        // In a queue whose only kind nobody handles, jobs are pending.
        let schedule = Schedule::every(MINUTE).overlap(overlap);
        scene.l0.jobs().schedule("slow", schedule, Slow {}).unwrap();
        for _ in 0..5 {
            scene.pass(MINUTE);
        }
        let row = scene.row("slow");
        assert_eq!((row.fires, row.skipped, row.open), (fires, skipped, fires), "{overlap:?}");
        assert_eq!(row.waiting, u64::from(overlap == Overlap::QueueOne));
        // A row of skips is told once.
        assert_eq!(scene.events("schedule.skipped").len(), usize::from(skipped > 0));
        scene.l0.jobs().register(|_: Slow, _| Ok(())).unwrap();
        scene.l0.jobs().run_due().unwrap();
        let row = scene.row("slow");
        let expected = if overlap == Overlap::QueueOne { 2 } else { fires };
        assert_eq!((row.fires, row.open, row.waiting), (expected, 0, 0), "what was held is run at the end of it");
        scene.pass(MINUTE);
        assert_eq!(scene.row("slow").fires, expected + 1);
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Slow {}
impl Job for Slow {
    const KIND: &'static str = "slow";
    type Output = ();
}

#[test]
fn the_next_time_does_not_depend_on_what_becomes_of_the_job() {
    let scene = scene();
    scene.l0.jobs().register(|_: Slow, _| Err::<(), _>(JobError::fatal("it fails each time"))).unwrap();
    scene.l0.jobs().schedule("failing", Schedule::cron("0 * * * *").unwrap(), Slow {}).unwrap();
    for _ in 0..4 {
        scene.pass(HOUR);
    }
    let failed = scene.l0.jobs().list().state(JobState::Failed).fetch().unwrap().items;
    assert_eq!((failed.len(), scene.row("failing").fires), (4, 4));
}

#[test]
fn pauses_hold_over_restarts_and_are_not_made_up_for() {
    let scene = scene();
    for (name, schedule) in [
        ("cron", Schedule::cron("0 * * * *").unwrap()),
        ("rate", Schedule::every(HOUR)),
        ("pause", Schedule::after_each(HOUR)),
    ] {
        scene.schedule(name, schedule);
        scene.l0.jobs().pause(name).unwrap();
        scene.l0.jobs().pause(name).unwrap();
    }
    scene.pass(5 * HOUR);
    let scene = scene.restart_after(5 * HOUR);
    scene.schedule("cron", Schedule::cron("0 * * * *").unwrap());
    scene.pass(30 * MINUTE);
    assert_eq!(scene.ran(), [""; 0]);
    assert!(scene.row("cron").paused && scene.row("cron").next_at.is_none());
    for name in ["cron", "rate", "pause"] {
        scene.l0.jobs().resume(name).unwrap();
        assert!(!scene.row(name).paused);
    }
    assert_eq!(scene.row("rate").next_at, Some(at("2026-03-02T11:00:00Z")), "on its grid");
    assert_eq!(scene.row("pause").next_at, Some(at("2026-03-02T11:30:00Z")));
    scene.pass(30 * MINUTE);
    assert_eq!(scene.ran(), ["03-02T11:00:00", "03-02T11:00:00"]);
    let error = scene.l0.jobs().pause("crom").unwrap_err();
    assert!(error.is_invalid_input() && error.to_string().contains("there are cron, pause, rate"), "{error}");
    let changes = ["schedule.created", "schedule.paused", "schedule.resumed"].map(|of| scene.events(of).len());
    assert_eq!(changes, [3, 3, 3]);
}

#[test]
fn given_again_it_goes_on_and_with_other_times_it_begins_anew() {
    let scene = scene();
    scene.schedule("rate", Schedule::every(DAY));
    scene.schedule("gone", Schedule::every(DAY));
    let scene = scene.restart_after(20 * HOUR);
    scene.schedule("rate", Schedule::every(DAY));
    assert_eq!(scene.row("rate").next_at, Some(at("2026-03-03T00:00:00Z")), "frequent deploys do not put it off");
    // Another job and another policy do not either.
    scene.l0.jobs().schedule("rate", Schedule::every(DAY).overlap(Overlap::Allow), tick("changed")).unwrap();
    assert_eq!(scene.row("rate").next_at, Some(at("2026-03-03T00:00:00Z")));
    assert_eq!((scene.row("rate").is_declared, scene.row("gone").is_declared), (Some(true), Some(false)));
    assert!(scene.row("gone").to_string().contains("not given by this program any more"));
    scene.pass(4 * HOUR);
    let mut ran = std::mem::take(&mut *scene.ran.lock());
    ran.sort();
    assert_eq!(
        ran.iter().map(|(of, _)| of.as_str()).collect::<Vec<_>>(),
        ["changed", "gone"],
        "it is not deleted silently"
    );
    scene.schedule("rate", Schedule::every(HOUR));
    assert_eq!(scene.row("rate").next_at, Some(at("2026-03-03T01:00:00Z")));
    scene.l0.jobs().unschedule("gone").unwrap();
    scene.l0.jobs().unschedule("gone").unwrap();
    assert_eq!(scene.l0.jobs().schedules().unwrap().len(), 1);
}

#[test]
fn a_clock_that_is_set_back_fires_nothing_twice_and_silences_nothing_for_long() {
    let scene = scene();
    scene.schedule("cron", Schedule::cron("0 * * * *").unwrap());
    scene.schedule("rate", Schedule::every(10 * MINUTE));
    scene.pass(2 * HOUR);
    scene.ran();
    // The hour from one to two again: it was fired, and is not fired again.
    scene.time.set_wall(begin().saturating_add(HOUR));
    scene.l0.jobs().run_due().unwrap();
    scene.pass(11 * MINUTE);
    let rate: Vec<_> = scene.ran.lock().drain(..).map(|(of, _)| of).collect();
    assert_eq!(rate, ["rate"], "an interval goes on by the new time, the hour not yet");
    scene.pass(49 * MINUTE);
    assert!(!scene.ran.lock().iter().any(|(of, _)| of == "cron"), "two o'clock was fired before");
    scene.pass(HOUR);
    assert!(scene.ran.lock().iter().any(|(of, at)| of == "cron" && at.to_string().contains("T03:00")));
    // A clock that was years ahead.
    scene.time.set_wall(at("2036-01-01T00:30:00Z"));
    scene.l0.jobs().run_due().unwrap();
    scene.ran();
    scene.time.set_wall(at("2026-03-02T04:30:00Z"));
    scene.l0.jobs().run_due().unwrap();
    scene.ran();
    scene.pass(30 * MINUTE);
    assert!(scene.ran().contains(&"03-02T05:00:00".to_owned()), "nobody waits ten years");
}

#[test]
fn jitter_puts_jobs_off_by_as_much_everywhere() {
    let scene = scene();
    scene.schedule("spread", Schedule::cron("0 * * * *").unwrap().jitter(10 * MINUTE).overlap(Overlap::Allow));
    let mut delays = Vec::new();
    for _ in 0..24 {
        scene.pass(HOUR);
        let job = scene.l0.jobs().list().limit(1).fetch().unwrap().items.remove(0);
        delays.push(job.run_at.as_unix_ns() - job.scheduled_for.unwrap().as_unix_ns());
    }
    assert!(delays.iter().all(|delay| (0..=600_000_000_000).contains(delay)), "{delays:?}");
    assert!(delays.iter().max().unwrap() - delays.iter().min().unwrap() > 120_000_000_000, "spread: {delays:?}");
}

#[test]
fn a_check_is_a_job_whose_result_is_what_it_says() {
    let scene = scene();
    let count = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&count);
    let check = move || {
        *counted.lock() += 1;
        match *counted.lock() {
            1 => Status::Healthy,
            2 => Status::Degraded("half full".to_owned()),
            3 => Status::Unhealthy("full".to_owned()),
            _ => panic!("out of order"),
        }
    };
    scene.l0.schedule_check("disk", Schedule::every(HOUR), check).unwrap();
    assert!(scene.l0.schedule_check("disk", Schedule::every(HOUR), || Status::Healthy).unwrap_err().is_invalid_input());
    for _ in 0..4 {
        scene.pass(HOUR);
    }
    let jobs = scene.l0.jobs().list().kind("check.disk").fetch().unwrap().items;
    let results: Vec<Option<Status>> =
        jobs.iter().rev().map(|job| serde_json::from_str(job.result.as_ref()?).ok()).collect();
    let [degraded, full] = [Status::Degraded("half full".to_owned()), Status::Unhealthy("full".to_owned())];
    assert_eq!(results, [Some(Status::Healthy), Some(degraded), Some(full), None]);
    assert_eq!((jobs[0].state, jobs[0].queue.as_str()), (JobState::Failed, "checks"));
    let changes: Vec<_> = scene.events("health.changed").into_iter().map(|event| event.message).collect();
    assert_eq!(changes, ["disk is healthy", "disk is degraded: half full", "disk is unhealthy: full"]);
    let health = scene.l0.health();
    let seen = health.tagged("scheduled").checks;
    assert!(seen[0].status.why().unwrap().starts_with("panicked: out of order"), "{}", seen[0]);
    assert_eq!((seen[0].contiguous_failures, seen[0].kind), (2, "scheduled"));
    assert!(health.ready().is_ok() && !health.report().is_ok(), "a check of the night does not make a program unready");
}

#[test]
fn a_fixed_pause_is_paused_and_resumed_while_its_job_is_at_work() {
    let scene = scene();
    scene.l0.jobs().schedule("slow", Schedule::after_each(MINUTE), Slow {}).unwrap();
    scene.pass(MINUTE);
    let row = scene.row("slow");
    assert_eq!((row.open, row.next_at), (1, None));
    scene.l0.jobs().pause("slow").unwrap();
    assert!(scene.row("slow").paused, "though nothing was due");
    let scene = scene.restart_after(HOUR);
    scene.pass(HOUR);
    assert!(scene.row("slow").paused);
    scene.l0.jobs().resume("slow").unwrap();
    assert_eq!(scene.row("slow").next_at, None, "its pause begins when the job has ended");
    scene.l0.jobs().register(|_: Slow, _| Ok(())).unwrap();
    scene.pass(Duration::ZERO);
    assert_eq!(scene.row("slow").next_at, Some(at("2026-03-02T02:02:00Z")));
    scene.pass(MINUTE);
    assert_eq!((scene.row("slow").fires, scene.row("slow").skipped), (2, 0));
    // One that is over, too.
    scene.schedule("over", Schedule::once(at("2026-03-02T02:03:00Z")));
    scene.pass(MINUTE);
    scene.l0.jobs().pause("over").unwrap();
    scene.schedule("over", Schedule::once(at("2026-03-02T05:00:00Z")));
    assert!(scene.row("over").paused && scene.row("over").next_at.is_none());
    scene.l0.jobs().resume("over").unwrap();
    assert_eq!(scene.row("over").next_at, Some(at("2026-03-02T05:00:00Z")));
}

#[test]
fn whose_unique_key_another_job_has_is_skipped_and_tried_again() {
    let scene = scene();
    let options = || JobOptions::default().unique("the one");
    let held = scene.l0.jobs().enqueue_with(Slow {}, options()).unwrap();
    for (name, schedule) in [("pause", Schedule::after_each(MINUTE)), ("rate", Schedule::every(MINUTE))] {
        scene.l0.jobs().schedule_with(name, schedule, Slow {}, options()).unwrap();
    }
    for _ in 0..5 {
        scene.pass(MINUTE);
    }
    for name in ["pause", "rate"] {
        let row = scene.row(name);
        assert_eq!((row.fires, row.skipped, row.open), (0, 5, 0), "{row}");
    }
    assert_eq!(scene.events("schedule.fired").len(), 0);
    held.cancel().unwrap();
    scene.pass(MINUTE);
    assert_eq!(scene.row("pause").fires + scene.row("rate").fires, 1, "whoever comes first has the key now");
}

#[test]
fn catching_up_does_not_hold_what_is_due_while_its_job_is_at_work() {
    let scene = scene();
    let misfire = Misfire::CatchUp { within: HOUR, at_most: 5 };
    scene.l0.jobs().schedule("slow", Schedule::every(MINUTE).misfire(misfire), Slow {}).unwrap();
    for _ in 0..10 {
        scene.pass(MINUTE);
    }
    let row = scene.row("slow");
    assert_eq!((row.fires, row.skipped, row.missed, row.waiting), (1, 9, 0, 0), "{row}");
    // What waits for its turn does not wait longer than it may be late.
    let scene = scene.restart_after(4 * MINUTE);
    scene.pass(Duration::ZERO);
    let row = scene.row("slow");
    assert_eq!((row.waiting, row.skipped), (4, 9), "{row}");
    scene.pass(2 * HOUR);
    scene.l0.jobs().register(|_: Slow, _| Ok(())).unwrap();
    scene.l0.jobs().run_due().unwrap();
    assert!(scene.row("slow").missed >= 4, "{}", scene.row("slow"));
}

#[test]
fn a_pause_goes_on_whatever_the_clock_said_when_its_job_ended() {
    let scene = scene();
    scene.schedule("pause", Schedule::after_each(10 * MINUTE));
    scene.pass(10 * MINUTE);
    assert_eq!(scene.ran().len(), 1);
    // Little more than its pause, while it waits; and by ten years.
    for back in [11 * MINUTE, 3_650 * DAY] {
        scene.pass(10 * MINUTE);
        let now = scene.l0.jobs().stats().unwrap().at;
        scene.time.set_wall(now.saturating_sub(back));
        scene.l0.jobs().run_due().unwrap();
        scene.ran();
        let mut ran = 0;
        for _ in 0..4 {
            scene.pass(10 * MINUTE);
            ran += scene.ran().len();
        }
        assert!(ran >= 3, "{ran} in forty minutes, set back by {back:?}: {}", scene.row("pause"));
    }
}

#[test]
fn workers_that_have_started_follow_a_clock_that_is_set_back() {
    let scene = scene();
    scene.l0.jobs().register(|_: Slow, _| Ok(())).unwrap();
    scene.l0.jobs().start().unwrap();
    for (name, schedule) in [("rate", Schedule::every(MINUTE)), ("cron", Schedule::cron("* * * * *").unwrap())] {
        scene.schedule(name, schedule);
    }
    // What makes a process look at its clock is a job that comes; schedules hear of it from nobody else.
    let job = || scene.l0.jobs().enqueue(Slow {}).unwrap().wait().unwrap();
    job();
    scene.time.set_wall(at("2016-03-02T00:00:30Z"));
    job();
    support::wait_for("the clock to be followed", || {
        scene.row("rate").next_at == Some(at("2016-03-02T00:01:30Z"))
            && scene.row("cron").next_at == Some(at("2016-03-02T00:01:00Z"))
    });
    scene.time.advance(MINUTE);
    support::wait_for("both to be fired", || {
        job();
        scene.row("rate").fires == 1 && scene.row("cron").fires == 1
    });
}

#[test]
fn what_cannot_be_read_is_shown_and_holds_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let queue = SqliteQueue::open(dir.path(), Durability::Normal).unwrap();
    let of_a_later_l0 = (0..1_500).map(|number| ScheduleChange {
        name: format!("strange {number:04}"),
        revision: 0,
        to: Some(SchedulePut {
            next_at: Some(begin()),
            waits: number % 2 == 0,
            entry: format!("{{\"is_paused\":{},\"new\":1}}", number == 7),
        }),
        jobs: Vec::new(),
    });
    queue.change_schedules(of_a_later_l0.collect()).unwrap();
    drop(queue);
    let scene = open(dir, begin(), Arc::default());
    scene.schedule("good", Schedule::every(MINUTE));
    scene.pass(MINUTE);
    assert_eq!(scene.ran(), ["03-02T00:01:00"]);
    let row = scene.row("strange 0001");
    assert!(row.problem.is_some() && row.notes().contains("cannot fire") && row.is_late, "{row}");
    assert!(scene.l0.jobs().pause("strange 0001").unwrap_err().to_string().contains("give it again"));
    scene.schedule("strange 0001", Schedule::every(MINUTE));
    scene.schedule("strange 0007", Schedule::every(MINUTE));
    assert!(!scene.row("strange 0001").paused && scene.row("strange 0007").paused, "it said so");
    scene.pass(MINUTE);
    assert_eq!(scene.ran().len(), 2);
    assert!(scene.l0.logs().message("cannot fire").fetch().is_ok());
}

#[test]
fn a_check_that_was_refused_can_be_given_again() {
    let scene = scene();
    let check = || scene.l0.schedule_check("disk", Schedule::every(Duration::ZERO), || Status::Healthy);
    assert!(check().unwrap_err().to_string().contains("at least 1ms"));
    scene.l0.schedule_check("disk", Schedule::every(HOUR), || Status::Healthy).unwrap();
    scene.pass(HOUR);
    assert_eq!(scene.row("disk").fires, 1);
}

#[test]
fn bad_input_is_refused_with_advice() {
    let scene = scene();
    let jobs = scene.l0.jobs();
    let refused = |result: l0::Result<()>| {
        let error = result.unwrap_err();
        assert!(error.is_invalid_input(), "{error:?}");
        error.to_string()
    };
    assert!(refused(jobs.schedule("", Schedule::every(HOUR), tick("x"))).contains("no name of a schedule"));
    assert!(refused(jobs.schedule("x", Schedule::every(Duration::ZERO), tick("x"))).contains("at least 1ms"));
    for (schedule, part) in [
        (Schedule::every(Duration::MAX), "hundred years"),
        (Schedule::after_each(200 * 365 * DAY), "hundred years"),
        (Schedule::every(HOUR).jitter(Duration::MAX), "a jitter"),
    ] {
        assert!(refused(jobs.schedule("x", schedule, tick("x"))).contains(part));
    }
    for zone in ["Etc/Unknown", "localtime", "Factory", "", "../../etc/passwd"] {
        refused(Schedule::every(HOUR).in_zone(zone).map(drop));
    }
    let options = JobOptions::default().run_at(begin());
    assert!(refused(jobs.schedule_with("x", Schedule::every(HOUR), tick("x"), options)).contains("run_at"));
    let options = JobOptions::default().queue("nowhere");
    assert!(
        refused(jobs.schedule_with("x", Schedule::every(HOUR), tick("x"), options)).contains("no queue \"nowhere\"")
    );
    assert!(refused(Schedule::cron("0 25 * * *").map(drop)).contains("hour: 25 is not from 0 to 23"));
    for (zone, near) in [
        ("Europe/Berln", "Europe/Berlin"),
        ("berlin", "Europe/Berlin"),
        ("America/New York", "America/New_York"),
        ("Tokio", "Asia/Tokyo"),
    ] {
        let error = refused(Schedule::every(HOUR).in_zone(zone).map(drop));
        assert!(error.contains(near), "{error}");
    }
    let handle: l0::Handle = scene.l0.clone();
    scene.l0.shutdown(Duration::from_secs(5)).unwrap();
    assert!(handle.jobs().schedule("x", Schedule::every(HOUR), tick("x")).unwrap_err().is_closed());
}

#[test]
fn a_thousand_schedules_fire_in_a_few_commits() {
    let scene = scene();
    for number in 0..1_000 {
        scene.schedule(&format!("number {number}"), Schedule::cron("0 * * * *").unwrap());
    }
    scene.pass(HOUR);
    assert_eq!(scene.ran().len(), 1_000);
    scene.pass(HOUR);
    assert_eq!(scene.ran().len(), 1_000);
}

#[test]
fn a_schedule_of_every_second_that_slept_for_a_year_is_no_flood() {
    let scene = scene();
    let second = || Schedule::cron("* * * * * *").unwrap().misfire(Misfire::CatchUp { within: 365 * DAY, at_most: 3 });
    scene.schedule("second", second());
    scene.schedule("rate", Schedule::every(Duration::from_millis(1)));
    let scene = scene.restart_after(365 * DAY);
    scene.pass(Duration::ZERO);
    assert_eq!(scene.row("second").fires, 3);
    assert_eq!(scene.row("rate").fires, 1);
    assert!(scene.row("second").missed >= 990 && scene.row("rate").missed > 31_000_000_000);
}
