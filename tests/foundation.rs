//! The checklist of the platform that l0 grew out of, in one process: health, status and log; telemetry; limits; jobs.

mod support;

use std::time::Duration;

use l0::{
    Severity, TelemetryEvent,
    correlation::{self, CorrelationId},
    health::{Format, Status},
    jobs::{Job, JobContext, JobError, JobOptions, JobState, MemoryQueue, Schedule},
    limits::{Denied, Quota, ScopeConfig},
};
use serde::{Deserialize, Serialize};
use support::{builder, store};

const HOUR: Duration = Duration::from_secs(3_600);
const LONG: Duration = Duration::from_secs(20);

#[derive(Clone, Serialize, Deserialize)]
struct Report {
    of: String,
}
impl Job for Report {
    const KIND: &'static str = "report";
    type Output = String;
}

#[derive(Serialize, Deserialize)]
struct Train {
    model: String,
}
impl Job for Train {
    const KIND: &'static str = "train";
    type Output = f64;
    fn options() -> JobOptions {
        JobOptions::training()
    }
}

fn order() -> CorrelationId {
    "order-9".parse().unwrap()
}

#[test]
fn system_health_live() {
    let store = store();
    let l0 = &store.l0;
    let page = l0.health().live().render(Format::Kubernetes);
    assert_eq!((page.status_code, page.body.as_str()), (200, "livez check passed\n"));
    l0.health().register("db", || Err::<(), _>("it is down")).unwrap();
    l0.health().check_now("db").unwrap();
    assert!(l0.health().live().is_ok(), "what a program depends on does not restart it");
}

#[test]
fn system_health_ready() {
    let store = store();
    let l0 = &store.l0;
    l0.health().register("db", || Ok::<(), String>(())).unwrap();
    assert_eq!(l0.health().check_now("db").unwrap(), Status::Healthy);
    let page = l0.health().ready().render(Format::HealthJson);
    let body: serde_json::Value = serde_json::from_str(&page.body).unwrap();
    assert_eq!((page.status_code, body["status"].as_str()), (200, Some("pass")));
    l0.health().register("queue", || Err::<(), _>("no broker")).unwrap();
    l0.health().check_now("queue").unwrap();
    assert_eq!(l0.health().ready().render(Format::HealthJson).status_code, 503);
}

#[test]
fn system_log_write() {
    let store = store();
    store.l0.log(tracing::Level::WARN, "billing", "the invoice of order 9 is late");
    store.record(|| tracing::info!(category = "billing", "sent"));
    let lines = store.l0.logs().fetch().unwrap().items;
    assert_eq!(
        lines.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(),
        ["sent", "the invoice of order 9 is late"]
    );
    assert!(lines.iter().all(|line| line.category.as_deref() == Some("billing")));
}

#[test]
fn system_log_filters() {
    let store = store();
    let _scope = correlation::enter(order());
    store.l0.log(tracing::Level::INFO, "web", "a page");
    store.l0.log(tracing::Level::ERROR, "billing", "refused");
    store.l0.log(tracing::Level::WARN, "billing", "late");
    let logs = || store.l0.logs();
    assert_eq!(logs().level(tracing::Level::WARN).fetch().unwrap().items.len(), 2);
    assert_eq!(logs().category("billing").message("ref").fetch().unwrap().items.len(), 1);
    assert_eq!(logs().correlation_id("order-9").limit(2).fetch().unwrap().items.len(), 2);
    assert_eq!(logs().last(HOUR).target("l0.").fetch().unwrap().items.len(), 3);
    assert_eq!(logs().category("nothing").fetch().unwrap().items.len(), 0);
}

#[test]
fn system_status_complete() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).service("shop").version("1.2.3").start().unwrap();
    l0.components().complete("migrations").unwrap();
    l0.components().set("build", "release", &serde_json::json!({ "commit": "abc" })).unwrap();
    l0.health().register("db", || Status::Healthy).unwrap();
    l0.limits().scope("api").unwrap().check().unwrap();
    l0.jobs().register(|report: Report, _| Ok(report.of)).unwrap();
    l0.jobs().schedule("nightly", Schedule::cron("30 2 * * *").unwrap(), Report { of: "x".into() }).unwrap();
    l0.jobs().enqueue(Report { of: "y".into() }).unwrap();
    l0.record(TelemetryEvent::new("order.placed"));
    l0.flush().unwrap();
    let status = l0.status();
    assert_eq!(status.problems, [""; 0]);
    assert!(status.process.uptime > std::time::Duration::ZERO && status.recording.per_second > 0.0);
    assert_eq!(status.recording.stored, l0.stats().stored);
    assert!(status.recording.buffer_bytes > 0 && status.recording.durability.contains("may die without loss"));
    assert!(status.job_queues.iter().any(|(queue, _)| queue == "checks") && status.job_kinds == ["report"]);
    assert!(status.store.database_bytes > 0 && status.store.max_bytes > 0);
    let shown = status.to_string();
    for part in [
        "shop 1.2.3 (pid",
        "migrations complete",
        "build release {\"commit\":\"abc\"}",
        "db ",
        "l0.writer",
        "api ",
        "1 allowed",
        "report",
        "handlers for report",
        "nightly: report 30 2 * * * UTC",
        "recorded",
        "flight recorder: ",
        "MiB",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let json = serde_json::json!(status);
    assert_eq!(json["process"]["service"], "shop");
    assert_eq!(json["components"][1]["complete"], true);
    assert_eq!(json["schedules"][0]["name"], "nightly");
    assert_eq!(json["jobs"]["kinds"][0]["pending"], 1);
    assert!(json["health"]["checks"].as_array().unwrap().iter().any(|check| check["name"] == "db"));
    assert!(json["recording"]["recorded"].as_u64().unwrap() >= 1 && json["store"]["max_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn telemetry_write() {
    let store = store();
    let event = TelemetryEvent::new("order.placed")
        .source("checkout")
        .severity(Severity::Info)
        .tenant_id("acme")
        .actor_id("u-17");
    store.l0.record(event.status("ok").duration(Duration::from_millis(3)).payload(&serde_json::json!({ "total": 12 })));
    store.l0.record_batch((0..3).map(|_| TelemetryEvent::new("item.picked")));
    assert_eq!(store.l0.events().count().unwrap(), 4);
    let stats = store.l0.stats();
    assert_eq!((stats.recorded, stats.stored, stats.shed), (4, 4, 0));
}

#[test]
fn telemetry_query() {
    let store = store();
    for (number, severity) in [Severity::Info, Severity::Error, Severity::Critical].into_iter().enumerate() {
        let event = TelemetryEvent::new("order.placed").source("checkout").severity(severity).tenant_id("acme");
        store.l0.record(event.payload(&serde_json::json!({ "number": number })));
    }
    let events = || store.l0.events().last(HOUR);
    assert_eq!(events().at_least(Severity::Error).count().unwrap(), 2);
    assert_eq!(events().tenant_id("acme").source("checkout").event_type("order.placed").count().unwrap(), 3);
    assert_eq!(events().field("number", 1).fetch().unwrap().items[0].severity, Severity::Error);
    let first = events().oldest_first().limit(2).fetch().unwrap();
    let second = events().oldest_first().limit(2).after(&first.next.unwrap()).fetch().unwrap();
    assert_eq!((first.items.len(), second.items.len(), second.next.is_none()), (2, 1, true));
}

#[test]
fn telemetry_trace() {
    let store = store();
    store.record(|| {
        let request = tracing::info_span!("checkout", correlation_id = "order-9");
        let _request = request.enter();
        let _charge = tracing::info_span!("charge").entered();
        tracing::warn!("the card is slow");
    });
    let trace = store.l0.trace("order-9").unwrap().unwrap();
    assert_eq!((trace.spans[0].name.as_str(), trace.spans[0].children[0].name.as_str()), ("checkout", "charge"));
    assert_eq!(trace.spans[0].children[0].events[0].message, "the card is slow");
    assert!(store.l0.trace("order-10").unwrap().is_none());
}

#[test]
fn telemetry_summary() {
    let store = store();
    store.record(|| (0..10).for_each(|_| tracing::info_span!("charge").in_scope(|| tracing::info!("charged"))));
    store.l0.record(TelemetryEvent::new("order.failed").severity(Severity::Error));
    let summary = store.l0.summary(HOUR).unwrap();
    assert_eq!((summary.events, summary.errors), (11, 1));
    assert!(summary.by_type.contains(&("order.failed".to_owned(), 1)));
    assert_eq!((summary.spans[0].name.as_str(), summary.spans[0].count), ("charge", 10));
}

/// From a request's header through a span, a log line and a job to what the job logs.
#[test]
fn correlation_id_propagation() {
    let store = store();
    let l0 = &store.l0;
    l0.jobs()
        .register(|report: Report, cx: &JobContext| {
            assert_eq!(cx.correlation_id().map(CorrelationId::as_str), Some("order-9"));
            tracing::info!("inside the job");
            Ok(report.of)
        })
        .unwrap();
    store.record(|| {
        l0.jobs().start().unwrap();
        let request = tracing::info_span!("request", correlation_id = "order-9");
        let job = request.in_scope(|| {
            tracing::info!("received");
            assert_eq!(correlation::current().unwrap().as_str(), "order-9");
            l0.jobs().enqueue(Report { of: "x".into() }).unwrap()
        });
        assert_eq!(job.wait_timeout(LONG), Some(Ok("x".to_owned())));
    });
    let of = l0.events().correlation_id("order-9").fetch().unwrap().items;
    let messages: Vec<_> = of.iter().map(|event| event.message.as_str()).collect();
    assert!(messages.contains(&"received") && messages.contains(&"inside the job"), "{messages:?}");
    assert!(l0.trace("order-9").unwrap().unwrap().to_string().contains("inside the job"));
}

#[test]
fn rate_limit_helper() {
    let store = store();
    let l0 = &store.l0;
    for (scope, limit) in [("global", 1_000), ("api", 100), ("auth", 10)] {
        let decision = l0.limits().scope(scope).unwrap().check().unwrap();
        assert_eq!((decision.limit(), decision.remaining()), (limit, limit - 1), "{scope}");
    }
}

#[test]
fn rate_limit_denial_with_headers() {
    let store = store();
    let l0 = &store.l0;
    let auth = l0.limits().scope("auth").unwrap();
    (0..10).for_each(|_| _ = auth.check().unwrap());
    let denied = auth.check().unwrap_err();
    assert!(matches!(denied, Denied::RetryAfter { .. }) && denied.retry_after().unwrap() <= Duration::from_secs(6));
    let headers = denied.headers();
    let names: Vec<_> = headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    assert!(names.contains(&"retry-after".to_owned()), "{headers:?}");
    assert!(headers.iter().all(|(_, value)| !value.is_empty()));
}

#[test]
fn rate_limit_violation_telemetry() {
    let store = store();
    let l0 = &store.l0;
    let login = l0.limits().define("login", ScopeConfig::new(Quota::per_minute(1)).keyed().public_keys()).unwrap();
    let _scope = correlation::enter(order());
    login.check_key("203.0.113.9").unwrap();
    (0..5).for_each(|_| _ = login.check_key("203.0.113.9").unwrap_err());
    let told = l0.events().event_type("limit.violation").fetch().unwrap().items;
    assert_eq!(
        (told.len(), told[0].correlation_id.as_deref()),
        (1, Some("order-9")),
        "the first of a window, with its caller"
    );
    let report = l0.limits().report(HOUR).unwrap().to_string();
    assert!(report.contains("login") && report.contains("203.0.113.9"), "{report}");
}

#[test]
fn scheduled_job_create() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, time) = l0::Clock::manual(l0::Timestamp::from_unix_ns(1_774_600_000_000_000_000));
    let l0 = builder(dir.path()).clock(clock).start().unwrap();
    l0.jobs().register(|report: Report, _| Ok(report.of)).unwrap();
    l0.jobs().schedule("daily", Schedule::cron("@daily").unwrap(), Report { of: "day".into() }).unwrap();
    let rows = l0.jobs().schedules().unwrap();
    assert_eq!(
        (rows.len(), rows[0].name.as_str(), rows[0].kind.as_str(), rows[0].paused),
        (1, "daily", "report", false)
    );
    assert_eq!(rows[0].next_at.unwrap().to_string(), "2026-03-28T00:00:00.000000000Z");
    time.advance(24 * HOUR);
    assert_eq!(l0.jobs().run_due().unwrap(), 1);
    let job = l0.jobs().list().kind("report").fetch().unwrap().items.remove(0);
    assert_eq!(
        (job.state, job.schedule.as_deref(), job.result.as_deref()),
        (JobState::Success, Some("daily"), Some("\"day\""))
    );
}

#[test]
fn training_job_enqueue() {
    let store = store();
    let l0 = &store.l0;
    l0.jobs().register(|_: Train, _| Ok(0.9)).unwrap();
    let job = l0.jobs().enqueue(Train { model: "digits".into() }).unwrap();
    let row = l0.jobs().get(job.id()).unwrap().unwrap();
    assert_eq!((row.state, row.queue.as_str(), row.attempt), (JobState::Pending, "training", 0));
    l0.jobs().start().unwrap();
    assert_eq!(job.wait_timeout(LONG), Some(Ok(0.9)));
}

#[test]
fn training_job_status() {
    let store = store();
    let l0 = &store.l0;
    let (tell, told) = std::sync::mpsc::channel();
    let (go, goes) = std::sync::mpsc::channel::<()>();
    let goes = std::sync::Mutex::new(goes);
    l0.jobs()
        .register(move |_: Train, cx: &JobContext| {
            cx.progress(3, 10, "epoch 3");
            cx.checkpoint(&3)?;
            tell.send(())?;
            goes.lock().map_err(|_| "poisoned")?.recv()?;
            cx.check()?;
            Err(JobError::fatal("it does not converge"))
        })
        .unwrap();
    l0.jobs().start().unwrap();
    let job = l0.jobs().enqueue(Train { model: "digits".into() }).unwrap();
    let other = l0.jobs().enqueue(Train { model: "letters".into() }).unwrap();
    told.recv_timeout(LONG).unwrap();
    let row = l0.jobs().get(job.id()).unwrap().unwrap();
    let progress = row.progress.as_ref().unwrap();
    assert_eq!(
        (row.state, progress.done, progress.total, progress.message.as_str()),
        (JobState::Running, 3, 10, "epoch 3")
    );
    let of = |state| l0.jobs().list().queue("training").state(state).fetch().unwrap().items;
    assert_eq!((of(JobState::Running).len(), of(JobState::Pending)[0].id), (1, other.id()), "one at a time");
    assert!(other.cancel().unwrap());
    go.send(()).unwrap();
    assert!(job.wait_timeout(LONG).unwrap().unwrap_err().to_string().contains("it does not converge"));
    assert_eq!((of(JobState::Failed)[0].id, of(JobState::Cancelled).len()), (job.id(), 1));
}

#[test]
fn job_queue_adapter() {
    l0::testing::job_queue(MemoryQueue::default);
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).job_queue(MemoryQueue::default()).start().unwrap();
    l0.jobs().register(|report: Report, _| Ok(report.of)).unwrap();
    l0.jobs().start().unwrap();
    assert_eq!(l0.jobs().enqueue(Report { of: "x".into() }).unwrap().wait_timeout(LONG), Some(Ok("x".to_owned())));
    assert!(!dir.path().join("state.db").exists(), "nothing of it is on the disk");
}
