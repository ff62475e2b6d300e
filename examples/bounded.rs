//! A store of eight megabytes is flooded for three seconds: it stays below its cap, keeps its errors, and tells what it
//! removed.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use l0::{Overload, Retention};
use tracing::{error, info};
use tracing_subscriber::prelude::*;

const CAP: u64 = 8 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("l0-bounded-example-{}", std::process::id()));
    let l0 = l0::builder()
        .dir(&dir)
        .retention(Retention::default().max_bytes(CAP))
        .overload(Overload::Block(Duration::from_secs(10)))
        .start()?;
    tracing_subscriber::registry().with(l0.layer()).init();

    println!("A flood into a store with a cap of {} KiB:\n", CAP >> 10);
    println!("  seconds   recorded    KiB on disk");
    let start = Instant::now();
    let (mut number, mut most) = (0_u64, 0);
    for line in 1..=12 {
        while start.elapsed() < Duration::from_millis(250) * line {
            for _ in 0..100 {
                number += 1;
                info!(number, customer = "ada", "order placed");
                if number.is_multiple_of(100_000) {
                    error!(number, "the printer is on fire");
                }
            }
            most = most.max(bytes(&dir)?);
        }
        println!("  {:7.2} {number:10} {:14}", start.elapsed().as_secs_f64(), bytes(&dir)? >> 10);
    }
    l0.flush()?;

    println!("\nThe most it ever took: {} KiB. Every error is still there:\n", most >> 10);
    println!(
        "{}",
        l0.sql(
            "SELECT level, count(*) AS kept, min(fields ->> 'number') AS first, max(fields ->> 'number') AS last
               FROM logs GROUP BY level ORDER BY level",
            &[]
        )?
    );
    println!("What was removed, and what that took:\n");
    println!("{}", l0.sql("SELECT reason, rows, freed_bytes, removed_until, duration_ms FROM maintenance", &[])?);
    println!("{}", l0.check()?);
    let stats = l0.stats();
    println!("Recorded {}, stored {}, shed {}.", stats.recorded, stats.stored, stats.shed);
    l0.shutdown(Duration::from_secs(10))?;
    fs::remove_dir_all(&dir)?;
    assert!(most <= CAP, "{most} bytes");
    Ok(())
}

fn bytes(dir: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let metadata = entry?.metadata();
        sum += metadata.map_or(0, |metadata| if metadata.is_dir() { 0 } else { metadata.len() });
    }
    let flight = fs::read_dir(dir.join("flight"))?.flatten();
    Ok(sum + flight.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum::<u64>())
}
