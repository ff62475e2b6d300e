//! The public shape, as its users write it. It must compile against the crate, and each test must pass.
use std::{error::Error, time::Duration};

use l0::{
    Console, Handle, Retention, Severity, TelemetryEvent,
    correlation::{self, CorrelationId},
    health::{Format, Status},
    jobs::{Backoff, Job, JobContext, JobError, JobOptions, Misfire, Overlap, Schedule},
    limits::{Quota, ScopeConfig, TokenBucket},
};
use serde::{Deserialize, Serialize};
use tracing_subscriber::prelude::*;

/// One hour.
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone, Serialize, Deserialize)]
struct Invoice {
    id: u64,
}
impl Job for Invoice {
    const KIND: &'static str = "invoice";
    type Output = String;
    fn options() -> JobOptions {
        JobOptions::default()
            .queue("billing")
            .max_attempts(5)
            .backoff(Backoff::exponential(Duration::from_secs(1), HOUR))
    }
}

fn compose(dir: &std::path::Path) -> l0::Result<l0::L0> {
    let l0 = l0::builder()
        .dir(dir)
        .service("shop")
        .version("1.2.3")
        .default_filter("info,shop=debug")
        .console(Console::Off)
        .retention(Retention::default().max_bytes(64 << 20))
        .start()?;
    let subscriber = tracing_subscriber::registry()
        .with(l0.layer())
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::sink));
    drop(subscriber);
    Ok(l0)
}

fn limits(l0: &Handle) -> Result<(), Box<dyn Error>> {
    static LOGIN: Quota = Quota::per_minute(10).burst(10);
    let bucket = TokenBucket::new(LOGIN);
    let decision = bucket.check()?;
    assert!(decision.remaining() < decision.limit());
    bucket.reserve(3)?.commit_actual(1);
    let api = l0.limits().scope("api")?;
    let auth = l0.limits().define("login", ScopeConfig::new(LOGIN).keyed().lock_out(5, HOUR, HOUR))?;
    match l0.limits().check_all(&[api.all(), auth.key("203.0.113.9").cost(2)]) {
        Ok(decision) => drop(decision.headers()),
        Err(denied) => assert!(denied.retry_after().is_some() || !denied.headers().is_empty()),
    }
    println!("{}", l0.limits().report(HOUR)?);
    Ok(())
}

fn jobs(l0: &Handle) -> Result<(), Box<dyn Error>> {
    let prefix = String::from("invoice-");
    l0.jobs().queue("billing", 2)?;
    l0.jobs().register(move |job: Invoice, cx: &JobContext| {
        let done: u64 = cx.resume()?.unwrap_or(0);
        cx.progress(done + 1, 3, "render");
        cx.checkpoint(&(done + 1))?;
        let _: u32 = "7".parse()?;
        if cx.is_cancelled() {
            return Err(JobError::cancelled());
        }
        Ok(format!("{prefix}{}", job.id))
    })?;
    l0.jobs().start()?;
    let handle = l0.jobs().enqueue(Invoice { id: 7 })?;
    assert_eq!(handle.wait()?, "invoice-7");
    let sum = l0.jobs().spawn("sum", |_cx| Ok((1..=10).sum::<u32>()))?;
    assert_eq!(sum.wait()?, 55);
    let nightly = Schedule::cron("30 2 * * *")?
        .in_zone("Europe/Berlin")?
        .overlap(Overlap::Skip)
        .misfire(Misfire::RunOnce { within: HOUR });
    assert!(nightly.next_after(l0::Timestamp::now()).is_some());
    l0.jobs().schedule("nightly", nightly, Invoice { id: 0 })?;
    assert_eq!(l0.jobs().schedules()?.len(), 1);
    Ok(())
}

fn health(l0: &Handle) -> Result<(), Box<dyn Error>> {
    l0.health().register("db", || "1".parse::<u8>().map(drop))?;
    l0.health()
        .check("cache", || Status::Degraded("cold".into()))
        .optional()
        .every(HOUR)
        .timeout(Duration::from_secs(1))
        .fail_after(3)
        .tag("edge")
        .register()?;
    let page = l0.health().ready().render(Format::Kubernetes);
    assert!(page.status_code == 200 || page.status_code == 503);
    l0.components().complete("migrations")?;
    println!("{}\n{}", l0.health().report(), l0.status());
    Ok(())
}

fn questions(l0: &Handle) -> Result<(), Box<dyn Error>> {
    l0.record(
        TelemetryEvent::new("order.placed")
            .source("checkout")
            .severity(Severity::Info)
            .tenant_id("acme")
            .payload(&serde_json::json!({"total": 12})),
    );
    l0.audit(TelemetryEvent::new("refund.granted").actor_id("u-17").message("refunded order 9"))?;
    let page = l0.events().last(HOUR).at_least(Severity::Error).limit(50).fetch()?;
    for event in &page.items {
        println!("{event}");
    }
    if let Some(trace) = l0.trace("order-9")? {
        println!("{trace}");
    }
    println!("{}", l0.summary(HOUR)?);
    println!("{}", l0.sql("SELECT count(*) FROM telemetry_events WHERE severity = ?1", &["error".into()])?);
    Ok(())
}

#[test]
fn a_service_uses_everything() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("l0-api-{}", std::process::id()));
    let l0 = compose(&dir)?;
    let handle: Handle = l0.clone();
    let id: CorrelationId = "order-9".parse()?;
    {
        let _scope = correlation::enter(id);
        assert_eq!(correlation::current().as_ref().map(CorrelationId::as_str), Some("order-9"));
        limits(&handle)?;
        jobs(&handle)?;
        handle.log(tracing::Level::INFO, "api", "in the scope");
    }
    health(&l0)?;
    questions(&l0)?;
    l0.flush()?;
    l0.shutdown(Duration::from_secs(5))?;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

#[test]
fn a_test_asks_what_was_logged() -> Result<(), Box<dyn Error>> {
    let seen = l0::testing::capture(|| tracing::error!(order = 9, "card refused"));
    assert_eq!(seen.events().message("card refused").field("order", 9).count()?, 1);
    Ok(())
}

/// Futures cross threads: everything an async caller awaits is `Send`.
#[allow(dead_code)]
fn async_callers(l0: &Handle) {
    fn send<F: Future + Send>(_: F) {}
    let l0 = l0.clone();
    send(correlation::scope(CorrelationId::new(), async move {
        let handle = l0.jobs().enqueue_async(Invoice { id: 1 }).await?;
        l0.flush_async().await?;
        let _: String = handle.await?;
        Ok::<(), Box<dyn Error + Send + Sync>>(())
    }));
}
