//! The `l0` command: what happened, from a store that is live, dead, or a copy, within a minute.
//!
//! `args` says what can be asked, `place` finds the store and opens it, `screen` writes the answer; each of the others is
//! one sub-command, or a few of a kind. They ask through the library's public questions only.

mod args;
mod doctor;
mod failure;
mod health;
mod jobs;
mod json;
mod limits;
mod lines;
mod pages;
mod place;
mod runs;
mod salvage;
mod schedules;
mod screen;
mod spans;
mod status;
mod table;
mod tail;
mod upkeep;
mod when;

use std::process::ExitCode;

use crate::{
    args::{Args, Command},
    failure::{Failure, Outcome},
    place::Place,
    screen::Screen,
};

fn main() -> ExitCode {
    let args = Args::of_process();
    let mut screen = Screen::new(&args.common);
    let outcome = answer(&args, &mut screen).and_then(|outcome| Ok(screen.flush().map(|()| outcome)?));
    match outcome {
        Ok(Outcome::Answered) => ExitCode::SUCCESS,
        Ok(Outcome::Nothing) if args.common.exit_code => ExitCode::FAILURE,
        Ok(Outcome::Nothing) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::FAILURE,
        // Nobody reads any more: what was wanted was had.
        Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(failure) => {
            // What was answered so far stands before the reason that there is no more.
            let _ = screen.flush();
            screen.error(&failure);
            failure.exit_code()
        }
    }
}

fn answer(args: &Args, screen: &mut Screen) -> Result<Outcome, Failure> {
    let common = &args.common;
    let window = when::Window::of(common)?;
    let given = common.dir.clone().or_else(|| std::env::var_os("L0_DIR").filter(|dir| !dir.is_empty()).map(Into::into));
    let find = || Place::find(given.as_deref());
    // These look at the store as it is, or change it.
    match &args.command {
        Command::Doctor(doctor) => match &doctor.salvage {
            Some(file) => return salvage::salvage(file, doctor.into.as_deref(), screen),
            None => return doctor::doctor(&find()?, common, &window, screen),
        },
        Command::Prune(prune) => return upkeep::prune(&find()?, prune, common, &window, screen),
        Command::Compact => return upkeep::compact(&find()?, common, screen),
        _ => {}
    }
    let store = find()?.open(!common.no_recover, screen)?;
    match &args.command {
        Command::Status => status::status(&store, common, &window, screen),
        Command::Logs(filters) => lines::logs(&store, filters, common, &window, screen),
        Command::Tail(tail) => tail::tail(&store, tail, common, &window, screen),
        Command::Export(export) => lines::export(&store, export, common, &window, screen),
        Command::Errors(search) => lines::errors(&store, search, common, &window, screen),
        Command::Traces(traces) => spans::traces(&store, traces, common, &window, screen),
        Command::Trace(trace) => spans::trace(&store, trace, common, &window, screen),
        Command::Spans => spans::spans(&store, common, &window, screen),
        Command::Limits => limits::limits(&store, common, &window, screen),
        Command::Health(health) => health::health(&store, health, common, &window, screen),
        Command::Schedules => schedules::schedules(&store, common, &window, screen),
        Command::Jobs(jobs) => jobs::jobs(&store, jobs, common, &window, screen),
        Command::Job(job) => jobs::job(&store, job, &window, screen),
        Command::Runs => runs::runs(&store, common, &window, screen),
        Command::Sql(sql) => table::sql(&store, sql, common, &window, screen),
        Command::Doctor(_) | Command::Prune(_) | Command::Compact => Ok(Outcome::Answered),
    }
}
