//! `l0 jobs` and `l0 job`: of a store whose program lives, from beside it.

use std::time::Duration;

use l0::{
    Timestamp,
    jobs::{Job, JobError, JobOptions, Schedule},
};
use serde::{Deserialize, Serialize};

use crate::session::{answer, json, l0 as command, private_dir, text, words};

#[derive(Clone, Serialize, Deserialize)]
struct Invoice {
    order: u64,
}
impl Job for Invoice {
    const KIND: &'static str = "invoice";
    type Output = u64;
    fn options() -> JobOptions {
        JobOptions::default().max_attempts(1)
    }
}

#[derive(Serialize, Deserialize)]
struct Parcel {
    to: String,
}
impl Job for Parcel {
    const KIND: &'static str = "parcel";
    type Output = ();
}

#[test]
fn jobs_by_kind_the_latest_of_them_and_one_in_full() {
    let home = private_dir();
    let l0 = l0::builder().dir(home.path()).filter("info").start().unwrap();
    // What is no answer is told beside it.
    let told = |line: &str, exit_code: i32| {
        let output = command(home.path(), &words(line)).output().unwrap();
        assert_eq!(output.status.code(), Some(exit_code), "{line}");
        text(&output.stderr)
    };
    assert!(told("jobs", 0).contains("no job was enqueued here"));
    l0.jobs()
        .register(|invoice: Invoice, cx| {
            cx.progress(1, 2, "half \u{1b}[31m");
            if invoice.order == 3 { Err(JobError::from("out of paper\nand of ink")) } else { Ok(invoice.order) }
        })
        .unwrap();
    l0.jobs().start().unwrap();
    let id: l0::correlation::CorrelationId = "order-9".parse().unwrap();
    let jobs = {
        let _scope = l0::correlation::enter(id);
        l0.jobs().enqueue_batch((1..=3).map(|order| Invoice { order })).unwrap()
    };
    let failed = jobs[2].id();
    jobs.into_iter().for_each(|job| _ = job.wait());
    l0.jobs().enqueue(Parcel { to: "\u{1b}]0;evil".into() }).unwrap();
    l0.flush().unwrap();

    let shown = answer(home.path(), "jobs", 0);
    for part in ["invoice", "parcel", "waits for a handler", "failed", "1/1", "out of paper", "pending", "0/10"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let all = json(home.path(), "jobs");
    assert_eq!((all["kinds"][0]["success"].as_u64(), all["kinds"][0]["failed"].as_u64()), (Some(2), Some(1)));
    assert_eq!(all["jobs"].as_array().unwrap().len(), 4);
    let of_kind = json(home.path(), "jobs --kind invoice --state failed --limit 5");
    assert_eq!(of_kind["jobs"][0]["id"].as_str(), Some(&*failed.to_string()));
    assert_eq!((of_kind["jobs"].as_array().unwrap().len(), of_kind["kinds"].as_array().unwrap().len()), (1, 1));
    let page = json(home.path(), "jobs --limit 3");
    let rest = json(home.path(), &format!("jobs --limit 3 --after {}", page["next"].as_str().unwrap()));
    assert_eq!((rest["jobs"].as_array().unwrap().len(), rest["next"].is_null()), (1, true));

    let shown = answer(home.path(), &format!("job {failed}"), 0);
    for part in
        ["invoice failed", "attempt        1 of 1", "error          out of paper", "and of ink", "l0 trace order-9"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains('\u{1b}'), "what a job says is made harmless");
    assert_eq!(json(home.path(), &format!("job {failed}"))[0]["reason"].as_str(), Some("error"));
    assert!(told(&format!("job {}", uuid::Uuid::nil()), 1).contains("there is no job"));
    assert!(told("job seven", 2).contains("UUID"));
    assert!(told("jobs --state done", 2).contains("success"));
    assert!(told("jobs --after e1.2", 2).contains("cursor"));
    let sql = answer(home.path(), "sql \"SELECT kind, state, count(*) FROM jobs GROUP BY 1, 2 ORDER BY 1, 2\"", 0);
    assert!(sql.contains("invoice  failed") && sql.contains("parcel   pending"), "{sql}");
    let by_sql = answer(home.path(), &format!("sql \"SELECT reason FROM jobs WHERE id = '{failed}'\""), 0);
    assert!(by_sql.contains("error"), "the view's ids are those of the handles: {by_sql}");
    assert!(answer(home.path(), "trace order-9", 0).contains("out of paper"));
}

#[test]
fn schedules_with_their_times_and_what_is_wrong_with_them() {
    let home = private_dir();
    let hour = Duration::from_secs(3_600);
    // As of an hour ago; the command asks now.
    let (clock, time) = l0::Clock::manual(Timestamp::now().saturating_sub(2 * hour));
    let l0 = l0::builder().dir(home.path()).filter("info").clock(clock).start().unwrap();
    let output = command(home.path(), &words("schedules --exit-code")).output().unwrap();
    assert!(text(&output.stderr).contains("nothing is scheduled here") && output.status.code() == Some(1));
    l0.jobs().register(|_: Invoice, _| Ok(7)).unwrap();
    let zoned = Schedule::cron("30 2 * * MON-FRI").unwrap().in_zone("Europe/Berlin").unwrap();
    l0.jobs().schedule("nightly", zoned, Invoice { order: 1 }).unwrap();
    l0.jobs().schedule("late", Schedule::every(hour), Invoice { order: 2 }).unwrap();
    l0.jobs().schedule("resting", Schedule::after_each(24 * hour), Invoice { order: 3 }).unwrap();
    l0.jobs().pause("resting").unwrap();
    time.advance(hour / 2);
    l0.jobs().run_due().unwrap();
    time.advance(hour / 2);
    l0.jobs().run_due().unwrap();
    let shown = answer(home.path(), "schedules", 0);
    for part in ["nightly", "30 2 * * MON-FRI Europe/Berlin", "invoice", "every 1h", "24h after each", "paused"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(answer(home.path(), "schedules --local", 0).contains("nightly"));
    let rows = json(home.path(), "schedules");
    assert_eq!((rows[0]["name"].as_str(), rows[0]["fires"].as_u64()), (Some("late"), Some(1)));
    assert_eq!(json(home.path(), "schedules --limit 1").as_array().unwrap().len(), 1);
    let by_sql =
        json(home.path(), "sql \"SELECT name, schedule, zone, paused, fires, next_at FROM schedules ORDER BY name\"");
    assert_eq!(by_sql[1]["schedule"].as_str(), Some("30 2 * * MON-FRI"));
    assert_eq!((by_sql[1]["zone"].as_str(), by_sql[2]["paused"].as_i64()), (Some("Europe/Berlin"), Some(1)));
    assert_eq!((by_sql[0]["schedule"].as_str(), by_sql[0]["paused"].as_i64()), (Some("every 3600 s"), Some(0)));
    assert!(by_sql[0]["next_at"].as_str().unwrap().ends_with('Z') && by_sql[2]["next_at"].is_null());
    let of = json(home.path(), "sql \"SELECT schedule, scheduled_for FROM jobs\"");
    assert_eq!(of[0]["schedule"].as_str(), Some("late"));
    assert_eq!(of[0]["scheduled_for"], rows[0]["last_at"]);
    // In two hours nobody will have fired what was due in one.
    drop(l0);
    let row = l0::jobs::JobReader::open(home.path()).schedules().unwrap().remove(0);
    assert!(!row.is_late && row.notes().is_empty(), "{row}");
}
