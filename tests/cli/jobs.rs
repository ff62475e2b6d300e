//! `l0 jobs` and `l0 job`: of a store whose program lives, from beside it.

use l0::jobs::{Job, JobError, JobOptions};
use serde::{Deserialize, Serialize};

use crate::session::{answer, json, l0 as command, private_dir, text, words};

#[derive(Serialize, Deserialize)]
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
