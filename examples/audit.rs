//! Audit: facts that must not be lost. Each is on the disk when `audit` returns, beside the telemetry of its request.
//!
//! `cargo run --release --example audit`

use std::{error::Error, time::Instant};

use l0::{
    TelemetryEvent,
    correlation::{self, CorrelationId},
};
use serde::{Deserialize, Serialize};
use tracing::{info, info_span};
use tracing_subscriber::prelude::*;

#[derive(Debug, Serialize, Deserialize)]
struct Refund {
    order: u64,
    cents: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("l0-audit-{}", std::process::id()));
    let l0 = l0::builder().dir(&dir).service("billing").start()?;
    tracing_subscriber::registry().with(l0.layer()).init();

    let id: CorrelationId = "refund-of-order-9".parse()?;
    {
        let _scope = correlation::enter(id);
        let _span = info_span!("refund", tenant_id = "acme", actor_id = "ada@example.com").entered();
        info!("asked the bank");
        // Who, for whom and in which request comes from the span. A payment that cannot be noted is not made.
        l0.audit(
            TelemetryEvent::new("refund.granted")
                .message("refunded order 9")
                .payload(&Refund { order: 9, cents: 1250 }),
        )?;
        info!("told the customer");
    }

    println!("-- the audit, newest first");
    for event in l0.events().event_type("refund.granted").fetch()?.items {
        let refund: Refund = event.payload_as()?;
        println!("{event}\n   {refund:?}");
    }
    // An address looks like a secret: it is stored as its hash, and found by itself.
    println!("-- by ada: {}", l0.events().actor_id("ada@example.com").event_type("refund.granted").count()?);

    println!("-- in its trace");
    if let Some(trace) = l0.trace("refund-of-order-9")? {
        println!("{trace}");
    }

    println!("-- sixteen threads share the disk's syncs");
    let started = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let l0 = &l0;
            scope.spawn(move || (0..20).try_for_each(|n| l0.audit(TelemetryEvent::new("grant").payload(&[thread, n]))));
        }
    });
    let took = started.elapsed();
    println!("{} grants on the disk, {:?} each", l0.events().event_type("grant").count()?, took / 320);
    let error = l0.sql("DELETE FROM audit", &[]).unwrap_err();
    println!("-- and nobody deletes one: {error}");

    drop(l0);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
