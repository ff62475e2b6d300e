//! A service with a dependency that flaps, a check that hangs and a step of its start: what its endpoints would answer, and what
//! is known of it afterwards.
//!
//! `cargo run --release --example health`; then `l0 health --dir <the directory it names>`.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use l0::health::{Format, Status};

const MILLIS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("l0-health-example-{}", std::process::id()));
    let l0 = l0::builder().dir(&dir).service("shop").version("1.4.2").start()?;
    let health = l0.health();
    health.on_change(|change| println!("  changed: {change}"));

    // Every third answer is missing; three failures in a row would be believed, single ones are not.
    let answers = Arc::new(AtomicU32::new(0));
    let asked = Arc::clone(&answers);
    let database = move || match asked.fetch_add(1, Ordering::Relaxed) % 3 {
        2 => Err("no answer"),
        _ => Ok(()),
    };
    health.check("database", database).every(10 * MILLIS).fail_after(3).register()?;
    // It hangs from the start.
    let is_over = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&is_over);
    let hang = move || {
        while !until.load(Ordering::Relaxed) {
            thread::park_timeout(10 * MILLIS);
        }
        Status::Healthy
    };
    health.check("mail", hang).optional().every(100 * MILLIS).timeout(50 * MILLIS).register()?;
    let is_migrated = Arc::new(AtomicBool::new(false));
    let migrated = Arc::clone(&is_migrated);
    let migrations = move || if migrated.load(Ordering::Relaxed) { Ok(()) } else { Err("2 of 3 are applied") };
    health.check("migrations", migrations).startup().every(10 * MILLIS).register()?;

    let page = |title: &str| {
        let page = health.ready().render(Format::Kubernetes);
        println!("\n{title}: HTTP {}\n{}", page.status_code, page.body);
    };
    page("/readyz at once");
    is_migrated.store(true, Ordering::Relaxed);
    l0.components().complete("migrations")?;
    l0.components().set("build", "release", &serde_json::json!({ "rustc": "1.95.0" }))?;
    while !health.is_ready() || answers.load(Ordering::Relaxed) < 12 {
        thread::sleep(10 * MILLIS);
    }
    page("/readyz when the start is over, mail hangs, and the database flaps");
    is_over.store(true, Ordering::Relaxed);
    while health.ready().status != Status::Healthy {
        thread::sleep(10 * MILLIS);
    }
    page("/readyz when mail is back");
    println!("/health: {}\n", health.ready().render(Format::HealthJson).body);

    for change in health.history("mail", HOUR)? {
        println!("{change}");
    }
    println!("mail was not unhealthy for {:.0} % of its time\n", health.uptime("mail", HOUR)? * 100.0);
    println!("{}", l0.status());
    l0.shutdown(Duration::from_secs(5))?;
    println!("l0 health mail --dir {}", dir.display());
    Ok(())
}
