//! Hours of work that survive: a training job with progress and checkpoints. The first run kills itself half-way, with SIGKILL;
//! run it again, and it goes on from its last checkpoint.
//!
//! `cargo run --release --example training`, twice.

use std::{
    error::Error,
    io::{IsTerminal as _, Write as _},
    thread,
    time::Duration,
};

use l0::jobs::{Job, JobOptions, JobState};
use serde::{Deserialize, Serialize};

/// How many rounds the model takes.
const EPOCHS: u64 = 40;

#[derive(Serialize, Deserialize)]
struct Train {
    model: String,
}
impl Job for Train {
    const KIND: &'static str = "train";
    /// The loss at the end.
    type Output = f64;
    fn options() -> JobOptions {
        // Of a model, one training at a time: so the second run finds the first one's job.
        JobOptions::training().unique("digits")
    }
}

/// What a checkpoint holds.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Model {
    epoch: u64,
    weight: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join("l0-training-example");
    let l0 = l0::builder().dir(&dir).service("trainer").install()?;
    let jobs = l0.jobs();
    jobs.register(|train: Train, cx| {
        let mut model = cx.resume()?.unwrap_or(Model { epoch: 0, weight: 0.0 });
        if model.epoch > 0 {
            println!("attempt {}: {} goes on from epoch {}", cx.attempt(), train.model, model.epoch);
        }
        while model.epoch < EPOCHS {
            cx.check()?;
            thread::sleep(Duration::from_millis(25));
            // Newton's way to the square root of two, in small steps.
            model.weight -= 0.3 * (model.weight * model.weight - 2.0) / (2.0 * model.weight).max(1.0);
            model.epoch += 1;
            cx.progress(model.epoch, EPOCHS, &format!("loss {:.6}", (model.weight - 2_f64.sqrt()).abs()));
            cx.checkpoint(&model)?;
            if model.epoch == EPOCHS / 2 && cx.attempt() == 1 {
                println!("\nkilling this process at epoch {}; run the example again", model.epoch);
                kill_this_process();
            }
        }
        Ok((model.weight - 2_f64.sqrt()).abs())
    })?;

    let handle = jobs.enqueue(Train { model: "digits".into() })?;
    let id = handle.id();
    println!("{} {id} in {}", if handle.is_new() { "enqueued" } else { "found" }, dir.display());
    jobs.start()?;
    while !handle.state()?.is_final() {
        if let Some(progress) = handle.progress() {
            bar(progress.share().unwrap_or(0.0), &progress.message);
        }
        thread::sleep(Duration::from_millis(50));
    }
    bar(1.0, "");
    println!("\nthe loss is {:.6}", handle.wait()?);
    let row = jobs.get(id)?.ok_or("the job is gone")?;
    assert_eq!(row.state, JobState::Success);
    println!("{row}\n\n{}", jobs.stats()?);
    l0.shutdown(Duration::from_secs(5))?;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

/// One line that is drawn over on a terminal.
fn bar(share: f64, message: &str) {
    const WIDTH: usize = 40;
    let full = (share * WIDTH as f64) as usize;
    if std::io::stdout().is_terminal() {
        print!("\r[{}{}] {:>3.0} % {message:<20}", "#".repeat(full), ".".repeat(WIDTH - full), share * 100.0);
        let _ = std::io::stdout().flush();
    }
}

#[cfg(unix)]
fn kill_this_process() {
    use rustix::process::{Signal, getpid, kill_process};
    let _ = kill_process(getpid(), Signal::KILL);
}

#[cfg(not(unix))]
fn kill_this_process() {
    std::process::abort();
}
