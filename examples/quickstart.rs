//! A shop's morning: three workers take orders, some of which fail. Then the store is asked what happened.

use std::{thread, time::Duration};

use l0::{Severity, TelemetryEvent};
use tracing::{error, info, info_span, instrument, warn};

const ORDERS: u64 = 300;
const HOUR: Duration = Duration::from_secs(3600);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let l0 = l0::init()?;

    thread::scope(|scope| {
        for worker in 0..3 {
            scope.spawn(move || {
                let _worker = info_span!("worker", worker).entered();
                for order in (0..ORDERS).filter(|order| order % 3 == worker) {
                    take(order);
                }
            });
        }
    });
    l0.record(
        TelemetryEvent::new("shop.closed").source("quickstart").payload(&serde_json::json!({ "orders": ORDERS })),
    );

    println!("What was recorded, by severity:");
    println!(
        "{}",
        l0.sql(
            "SELECT severity, count(*) AS events FROM telemetry_events GROUP BY severity ORDER BY events DESC",
            &[]
        )?
    );
    println!("Spans, by name:");
    println!(
        "{}",
        l0.sql(
            "SELECT name, count(*) AS spans, printf('%.3f', avg(duration_ms)) AS mean_ms, printf('%.3f', max(duration_ms)) AS max_ms
               FROM spans WHERE state = 'closed' GROUP BY name ORDER BY spans DESC",
            &[]
        )?
    );
    let errors = l0.events().last(HOUR).at_least(Severity::Error).limit(3).fetch()?;
    println!("The latest of {} errors of the last hour:", errors.total);
    for event in &errors.items {
        println!("  {event}");
    }
    let stats = l0.stats();
    println!("\nRecorded {}, stored {}, shed {}; {}.", stats.recorded, stats.stored, stats.shed, stats.durability);
    println!("The store is {}. What to try next:", l0.dir().display());
    println!(
        "  sqlite3 {}/telemetry.db 'SELECT timestamp, level, message, fields FROM logs LIMIT 5'",
        l0.dir().display()
    );
    println!("  cargo run --release --features cli -- status --dir {}", l0.dir().display());
    println!("  cargo run --release --example crash     (kills itself with SIGKILL; run it twice)");
    println!("  cargo run --release --example read_back (asks a store from another process)");
    l0.shutdown(Duration::from_secs(5))?;
    Ok(())
}

#[instrument(fields(customer = order % 40, total_cents))]
fn take(order: u64) {
    let total_cents = 500 + order * 7 % 3000;
    tracing::Span::current().record("total_cents", total_cents);
    info!(items = order % 5 + 1, "order placed");
    match charge(order, total_cents) {
        Ok(()) => info!(total_cents, "order paid"),
        Err(error) => error!(error = &error as &dyn std::error::Error, "order refused"),
    }
}

#[instrument]
fn charge(order: u64, total_cents: u64) -> Result<(), ChargeError> {
    if order % 50 == 7 {
        return Err(ChargeError { source: "the card has expired".parse::<u64>().unwrap_err() });
    }
    if total_cents > 2500 {
        warn!(total_cents, "large order, checked by hand");
    }
    Ok(())
}

#[derive(Debug)]
struct ChargeError {
    source: std::num::ParseIntError,
}

impl std::fmt::Display for ChargeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the card was refused")
    }
}

impl std::error::Error for ChargeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
