//! One picture of a program: its process, parts, checks, limits, jobs, schedules and store; and a catalogue of what it has.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{
    clock::Timestamp,
    components::Component,
    health::Report,
    jobs::{JobStats, ScheduleRow},
    limits::ScopeStats,
    query::{harmless, human_duration},
    store::StoreSize,
};

/// How everything is, by [`Handle::status`](crate::Handle::status). `Display` is a page to be read at a glance.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// As of when.
    pub at: Timestamp,
    /// Who.
    pub process: Process,
    /// All checks, l0's own among them.
    pub health: Report,
    /// What the program is made of, by name.
    pub components: Vec<Component>,
    /// Scopes of limits.
    pub limits: Vec<ScopeStats>,
    /// Jobs, by kind; `None` if they cannot be read.
    pub jobs: Option<JobStats>,
    /// Kinds of jobs that this process has handlers for.
    pub job_kinds: Vec<String>,
    /// Queues of jobs, and how many of each run at once here.
    pub job_queues: Vec<(String, usize)>,
    /// By name.
    pub schedules: Vec<ScheduleRow>,
    /// What was recorded, and what became of it.
    pub recording: Recording,
    /// How large the store is.
    pub store: StoreSize,
    /// What could not be read, and why.
    pub problems: Vec<String>,
}

/// A process.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// As the builder has it.
    pub service: String,
    /// As the builder has it.
    pub version: Option<String>,
    /// Of l0.
    pub l0_version: &'static str,
    /// When l0 was started.
    pub started_at: Timestamp,
    /// For how long it has run.
    pub uptime: Duration,
    /// The store's directory.
    pub dir: String,
}

/// What was recorded. See [`Stats`](crate::Stats).
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Recording {
    /// Events and spans.
    pub recorded: u64,
    /// Of these, in the database.
    pub stored: u64,
    /// Of these, shed.
    pub shed: u64,
    /// Of these per second, since the start.
    pub per_second: f64,
    /// Bytes that wait in the flight recorder.
    pub buffer_used_bytes: u64,
    /// Its size.
    pub buffer_bytes: u64,
    /// What a death of the process and of the machine may lose.
    pub durability: String,
    /// Why the store does not take records at the moment, if so.
    pub last_error: Option<String>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Process { pid, service, version, started_at, uptime, dir, .. } = &self.process;
        let version = version.as_deref().map(|version| format!(" {version}")).unwrap_or_default();
        let name = format!("{service}{version}");
        let since = started_at.to_string();
        writeln!(f, "{} (pid {pid}), up {}, since {since:.19}Z, in {dir}", harmless(&name), human_duration(*uptime))?;
        writeln!(f, "\nhealth: {}", self.health.status)?;
        for check in &self.health.checks {
            writeln!(f, "  {check}")?;
        }
        if !self.components.is_empty() {
            writeln!(f, "\ncomponents")?;
            self.components.iter().try_for_each(|component| writeln!(f, "  {component}"))?;
        }
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let Recording { recorded, stored, shed, per_second, buffer_used_bytes, buffer_bytes, durability, last_error } =
            &self.recording;
        writeln!(
            f,
            "\nrecording: {recorded} recorded ({per_second:.1}/s), {stored} stored, {shed} shed; {durability}"
        )?;
        writeln!(f, "flight recorder: {:.1} of {:.0} MiB wait", mib(*buffer_used_bytes), mib(*buffer_bytes))?;
        if let Some(error) = last_error {
            writeln!(f, "  the store does not take it now: {}", harmless(error))?;
        }
        let store = &self.store;
        write!(
            f,
            "store: {:.1} of {:.0} MiB, {:.1} free in it",
            mib(store.bytes()),
            mib(store.max_bytes),
            mib(store.free_bytes)
        )?;
        match store.last_maintenance {
            Some((at, why)) => writeln!(f, "; rows last removed at {:.19}Z ({why})", at.to_string())?,
            None => writeln!(f)?,
        }
        for (index, scope) in self.limits.iter().enumerate() {
            if index == 0 {
                writeln!(f, "\nlimits")?;
            }
            let ScopeStats { scope, allowed, denied, keys, .. } = scope;
            writeln!(f, "  {:<24} {allowed} allowed, {denied} denied, {keys} keys", harmless(scope))?;
        }
        if let Some(jobs) = self.jobs.as_ref().filter(|jobs| !jobs.kinds.is_empty() || jobs.spawned.finished > 0) {
            write!(f, "\n{jobs}")?;
        } else if !self.job_kinds.is_empty() {
            writeln!(f, "\njobs")?;
        }
        if !self.job_kinds.is_empty() {
            writeln!(f, "  handlers for {}", harmless(&self.job_kinds.join(", ")))?;
        }
        if !self.schedules.is_empty() {
            writeln!(f, "\nschedules")?;
            self.schedules.iter().try_for_each(|schedule| writeln!(f, "  {schedule}"))?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(f, "\nnot known: {}", harmless(problem)))
    }
}
