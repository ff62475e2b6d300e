//! A week of a shop's schedules across the change to summer time in Berlin, on a clock that is moved by hand: what fires when,
//! what a laptop that slept for a day makes up for, and what is skipped because the job before is still at work.
//!
//! `cargo run --release --example schedule`; then `l0 schedules --dir <the directory it names>`.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use l0::jobs::{Job, JobContext, JobOptions, Misfire, Overlap, Schedule};
use serde::{Deserialize, Serialize};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

#[derive(Clone, Serialize, Deserialize)]
struct Task {
    name: String,
}
impl Job for Task {
    const KIND: &'static str = "task";
    type Output = ();
    fn options() -> JobOptions {
        JobOptions::default().max_attempts(1)
    }
}

/// By day and task: the times on the wall at which it ran, and how late.
type Week = BTreeMap<Date, BTreeMap<String, Vec<String>>>;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("l0-schedule-example-{}", std::process::id()));
    let berlin = TimeZone::get("Europe/Berlin")?;
    // Thursday; at two on Sunday the clock is put forward to three.
    let begin: Timestamp = "2026-03-26T00:00[Europe/Berlin]".parse::<jiff::Zoned>()?.timestamp();
    let now = l0::Timestamp::from_unix_ns(i64::try_from(begin.as_nanosecond())?);
    let (clock, time) = l0::Clock::manual(now);
    let l0 = l0::builder().dir(&dir).service("shop").clock(clock).start()?;
    let jobs = l0.jobs();

    let week = Arc::new(Mutex::new(Week::new()));
    let seen = Arc::clone(&week);
    let zone = berlin.clone();
    jobs.register(move |task: Task, cx: &JobContext| {
        let at = cx.scheduled_for().ok_or("not by a schedule")?;
        let wall = Timestamp::from_nanosecond(at.as_unix_ns().into())?.to_zoned(zone.clone());
        let mut week = seen.lock().map_err(|_| "a task before has panicked")?;
        let day = week.entry(wall.date()).or_default();
        day.entry(task.name).or_default().push(wall.strftime("%H:%M").to_string());
        Ok(())
    })?;
    let mut given: Vec<(&str, Schedule)> = vec![
        (
            "backup",
            Schedule::cron("30 2 * * *")?.in_zone("Europe/Berlin")?.misfire(Misfire::RunOnce { within: 12 * HOUR }),
        ),
        ("report", Schedule::cron("0 9 * * MON-FRI")?.in_zone("Europe/Berlin")?.misfire(Misfire::Skip)),
        ("last day", Schedule::cron("0 18 L * *")?.in_zone("Europe/Berlin")?),
        ("poll", Schedule::cron("0 */4 * * *")?.in_zone("Europe/Berlin")?),
        ("rotate", Schedule::every(36 * HOUR).misfire(Misfire::CatchUp { within: 48 * HOUR, at_most: 3 })),
    ];
    given.push(("reminder", Schedule::once(now.saturating_add(100 * HOUR)).overlap(Overlap::Allow)));
    for (name, schedule) in &given {
        jobs.schedule(name, schedule.clone(), Task { name: (*name).to_owned() })?;
    }

    for quarter in 0..(7 * 24 * 4) {
        // The lid is closed on Tuesday from one to eleven.
        let is_asleep = ((5 * 24 + 1) * 4..(5 * 24 + 11) * 4).contains(&quarter);
        time.advance(15 * MINUTE);
        if !is_asleep {
            jobs.run_due()?;
        }
    }

    let names: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
    println!(
        "{:<15}{:<9}{:<9}{:<10}{:<38}{:<9}reminder",
        "day in Berlin", names[0], names[1], names[2], names[3], names[4]
    );
    for (day, ran) in week.lock().map_err(|_| "a task has panicked")?.iter() {
        let cell = |name: &str| ran.get(name).map(|times| times.join(" ")).unwrap_or_default();
        println!(
            "{:<15}{:<9}{:<9}{:<10}{:<38}{:<9}{}",
            day.strftime("%a %Y-%m-%d").to_string(),
            cell("backup"),
            cell("report"),
            cell("last day"),
            cell("poll"),
            cell("rotate"),
            cell("reminder"),
        );
    }
    println!(
        "\nOn Sunday 02:30 does not exist: the backup ran at the end of the gap. On Tuesday the lid was closed from"
    );
    println!("01:00 to 11:00: the backup was made up for, the report was not, of the polls the latest was.\n");
    for row in jobs.schedules()? {
        println!("{row}");
    }
    let next = &given[0].1;
    let mut at = now.saturating_add(7 * 24 * HOUR);
    print!("\nThe next backups:");
    for _ in 0..3 {
        let Some(following) = next.next_after(at) else { break };
        at = following;
        print!(
            " {}",
            Timestamp::from_nanosecond(at.as_unix_ns().into())?.to_zoned(berlin.clone()).strftime("%F %H:%M")
        );
    }
    println!("\n");
    l0.shutdown(Duration::from_secs(5))?;
    println!("l0 schedules --dir {}", dir.display());
    Ok(())
}
