//! A shop's background work: durable jobs of three kinds, retries, priorities, a unique key, a panic, and closures beside them.
//!
//! `cargo run --release --example jobs`; then `l0 jobs --dir <the directory it names>`.

use std::{error::Error, thread, time::Duration};

use l0::jobs::{Backoff, Job, JobError, JobOptions, JobState};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Invoice {
    order: u64,
}
impl Job for Invoice {
    const KIND: &'static str = "invoice";
    type Output = String;
    fn options() -> JobOptions {
        let millis = Duration::from_millis;
        JobOptions::default().queue("billing").max_attempts(3).backoff(Backoff::exponential(millis(20), millis(200)))
    }
}

#[derive(Serialize, Deserialize)]
struct Mail {
    to: String,
}
impl Job for Mail {
    const KIND: &'static str = "mail";
    type Output = ();
    fn options() -> JobOptions {
        JobOptions::default().max_attempts(1)
    }
}

/// Nobody has a handler for it here.
#[derive(Serialize, Deserialize)]
struct Parcel {
    order: u64,
}
impl Job for Parcel {
    const KIND: &'static str = "parcel";
    type Output = ();
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("l0-jobs-example-{}", std::process::id()));
    let l0 = l0::builder().dir(&dir).service("shop").install()?;
    let jobs = l0.jobs();
    // The panic below is a part of the show; its place on the terminal is not.
    std::panic::set_hook(Box::new(|_| {}));

    jobs.queue("billing", 2)?;
    jobs.register(|invoice: Invoice, cx| {
        tracing::info!(order = invoice.order, attempt = cx.attempt(), "rendering");
        if invoice.order.is_multiple_of(5) && cx.attempt() == 1 {
            return Err(JobError::from("the printer is out of paper"));
        }
        thread::sleep(Duration::from_millis(3));
        Ok(format!("invoice-{}.pdf", invoice.order))
    })?;
    jobs.register(|mail: Mail, _| {
        assert!(mail.to.contains('@'), "{} is no address", mail.to);
        Ok(())
    })?;
    jobs.start()?;

    // Each request's jobs belong to its trace.
    let mut invoices = Vec::new();
    for order in 1..=12 {
        let request = tracing::info_span!("checkout", correlation_id = format!("order-{order}"));
        request.in_scope(|| -> Result<(), Box<dyn Error>> {
            invoices.push(jobs.enqueue(Invoice { order })?);
            jobs.enqueue(Mail { to: if order == 7 { "nowhere".into() } else { format!("{order}@example.org") } })?;
            Ok(())
        })?;
    }
    jobs.enqueue_batch((1..=3).map(|order| Parcel { order }))?;
    let reminder = || JobOptions::default().unique("order-3").delay(Duration::from_secs(3_600)).queue("billing");
    let first = jobs.enqueue_with(Invoice { order: 3 }, reminder())?;
    let second = jobs.enqueue_with(Invoice { order: 3 }, reminder())?;
    println!("a second reminder is the first: {}", first.id() == second.id() && !second.is_new());

    // In memory, for what need not outlive the program.
    let sum = jobs.spawn("sum", |cx| {
        let mut sum = 0_u64;
        for number in 1..=1_000 {
            cx.progress(number, 1_000, "adding");
            sum += number;
        }
        Ok(sum)
    })?;
    println!("a closure returned {}", sum.wait()?);

    for invoice in invoices {
        let id = invoice.id();
        let file = invoice.wait()?;
        let attempts = jobs.get(id)?.map_or(0, |row| row.attempt);
        if attempts > 1 {
            println!("{file} took {attempts} attempts");
        }
    }
    while jobs.stats()?.kinds.iter().any(|kind| kind.kind == "mail" && kind.pending + kind.running > 0) {
        thread::yield_now();
    }
    for failed in jobs.list().state(JobState::Failed).fetch()?.items {
        println!("{failed}");
    }
    println!("\n{}", jobs.stats()?);
    println!("{}", l0.trace("order-5")?.ok_or("the trace is gone")?);
    l0.shutdown(Duration::from_secs(5))?;
    println!("l0 jobs --dir {}", dir.display());
    Ok(())
}
