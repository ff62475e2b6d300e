//! Another process's store: this program starts itself as a child that records, and asks its store while it lives.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use l0::{Severity, query::Reader};
use tracing::{error, info, info_span};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match std::env::args().nth(1) {
        Some(dir) => record(&dir),
        None => read(),
    }
}

/// The child: records, says so, and waits to be told to end.
fn record(dir: &str) -> Result<(), Box<dyn std::error::Error>> {
    let l0 = l0::builder().dir(dir).service("recorder").install()?;
    let span = info_span!("import", source = "sensors").entered();
    for reading in 0..500 {
        info!(reading, celsius = 20.0 + f64::from(reading % 7) / 2.0, "reading stored");
    }
    error!(sensor = "north", "sensor does not answer");
    l0.flush()?;
    println!("recorded");
    std::io::stdin().read_line(&mut String::new())?;
    drop(span);
    l0.shutdown(Duration::from_secs(5))?;
    Ok(())
}

fn read() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("l0-read-back-{}", std::process::id()));
    let mut child =
        Command::new(std::env::current_exe()?).arg(&dir).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().ok_or("the child has no stdout")?;
    BufReader::new(stdout).read_line(&mut String::new())?;

    println!("Process {} is recording. This is process {}, which only reads.\n", child.id(), std::process::id());
    let reader = Reader::open(&dir)?;
    println!("{}", reader.sql("SELECT pid, service, outcome, stored FROM runs", &[])?);
    println!("{}", reader.sql("SELECT name, state, started_at, payload FROM spans", &[])?);
    let page = reader.events().at_least(Severity::Warning).fetch()?;
    println!("Warnings and above: {}", page.total);
    for event in &page.items {
        println!("  {event}");
    }
    println!("\nThe mean, by SQL over the payloads:");
    println!(
        "{}",
        reader.sql(
            "SELECT count(*) AS readings, round(avg(fields ->> 'celsius'), 3) AS celsius FROM logs WHERE message = ?1",
            &["reading stored".into()]
        )?
    );
    match reader.sql("DELETE FROM event", &[]) {
        Err(error) => println!("A reader never writes: {error}"),
        Ok(_) => return Err("the reader wrote".into()),
    }
    drop(child.stdin.take());
    child.wait()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
