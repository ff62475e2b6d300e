//! l0 beside another layer: the console shows warnings, the store keeps everything of this program down to debug.

use std::time::Duration;

use tracing::{debug, info, info_span, warn};
use tracing_subscriber::{EnvFilter, prelude::*};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let l0 = l0::builder().service("compose").filter("warn,compose=debug").start()?;
    let console = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(std::io::stdout)
        .with_filter(EnvFilter::new("warn"));
    tracing_subscriber::registry().with(l0.layer()).with(console).init();

    println!("The console's filter is \"warn\", so of the five events below it prints one:\n");
    let span = info_span!("import", file = "prices.csv");
    span.in_scope(|| {
        info!(rows = 3, "opened");
        for row in 1..=3 {
            debug!(row, "parsed");
        }
        warn!(row = 2, "price is zero");
    });
    drop(span);

    println!("\nl0's filter is \"warn,compose=debug\", so it kept all of them, oldest first:\n");
    for event in l0.events().last(Duration::from_secs(60)).oldest_first().fetch()?.items {
        println!("  {event}");
    }
    l0.set_filter("warn")?;
    info!("after set_filter(\"warn\") this is recorded nowhere");
    println!("\nThe store is {}.", l0.dir().display());
    l0.shutdown(Duration::from_secs(5))?;
    Ok(())
}
