//! For the sceptic: kills itself with SIGKILL in the middle of nested spans. No signal handler, no flush, no guard.
//!
//! Run it twice. The first run dies; the second finds what the first had recorded up to its last statement.

use std::time::Duration;

use tracing::{info, info_span, warn};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join("l0-crash-example");
    let l0 = l0::builder().dir(&dir).service("crash").commit_every(Duration::from_secs(60)).install()?;
    let recovered = l0.recovered();
    if recovered.runs > 0 {
        show(&l0, recovered)?;
        return Ok(l0.shutdown(Duration::from_secs(5))?);
    }

    println!(
        "This is process {}. It records 1,000 steps inside three nested spans, commits nothing",
        std::process::id()
    );
    println!("(the commit interval is set to a minute), and then kills itself with SIGKILL.\n");
    let _night = info_span!("night_job", host = "rig-7").entered();
    let _batch = info_span!("batch", number = 3).entered();
    let _upload = info_span!("upload", file = "measurements.bin").entered();
    for step in 1..=1_000 {
        info!(step, "chunk sent");
    }
    warn!(battery_percent = 2, "power is going");
    let rows = rows_in_database(&dir)?;
    println!("Rows of this run in the database at this moment: {rows}.");
    println!("Now: kill -9 {}. Run the example again.", std::process::id());
    kill();
    Err("still alive: this platform's way of killing is not known here".into())
}

fn show(l0: &l0::L0, recovered: l0::Recovery) -> Result<(), Box<dyn std::error::Error>> {
    println!("The last run was killed. This start recovered {} records", recovered.records);
    println!("and found {} spans that were open.\n", recovered.interrupted_spans);
    println!(
        "{}",
        l0.sql(
            "SELECT run_id, pid, started_at, ended_at, outcome, stored, shed FROM runs ORDER BY id DESC LIMIT 2",
            &[]
        )?
    );
    println!("Its spans, as they were when it died:");
    println!(
        "{}",
        l0.sql(
            "SELECT id, parent_id, name, state, payload FROM spans WHERE run_id = (SELECT max(id) - 1 FROM runs)",
            &[]
        )?
    );
    println!("Its last words:");
    for event in l0.events().source("crash").limit(3).fetch()?.items {
        println!("  {event}");
    }
    let steps = l0.sql(
        "SELECT count(*) AS steps, max(fields ->> 'step') AS last_step FROM logs
          WHERE message = 'chunk sent' AND run_id = (SELECT max(id) - 1 FROM runs)",
        &[],
    )?;
    println!("\nOf 1,000 steps:\n{steps}");
    println!("The store is {}; delete it to see the first run again.", l0.dir().display());
    Ok(())
}

/// Asked past l0, of the file itself.
fn rows_in_database(dir: &std::path::Path) -> l0::Result<l0::query::Value> {
    let table = l0::query::Reader::open(dir)?
        .sql("SELECT count(*) FROM telemetry_events WHERE run_id = (SELECT max(id) FROM runs)", &[])?;
    Ok(table.rows[0][0].clone())
}

#[cfg(unix)]
fn kill() {
    let pid = std::process::id().to_string();
    let _ = std::process::Command::new("kill").args(["-9", &pid]).status();
}

#[cfg(not(unix))]
fn kill() {
    std::process::abort();
}
