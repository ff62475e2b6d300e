//! The picture of everything: what each room says of itself, put together.

use std::time::Duration;

use super::{Handle, own_checks::damaged_files};
use crate::{
    error::Result,
    status::{Process, Recording, Status},
};

impl Handle {
    /// How everything is: process, checks, components, limits, jobs, schedules, recording and store, to be shown or serialised.
    /// Reads `state.db`, in short transactions; what cannot be read is in [`problems`](Status::problems). Waits for nothing else.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).service("shop").start()?;
    /// let status = l0.status();
    /// assert_eq!((status.process.service.as_str(), status.problems.len()), ("shop", 0));
    /// println!("{status}");
    /// println!("{}", serde_json::json!(status));
    /// # Ok::<(), l0::Error>(())
    /// ```
    pub fn status(&self) -> Status {
        let (inner, stats) = (&self.inner, self.stats());
        let mut problems = Vec::new();
        let uptime = self.uptime();
        let mut or_problem = |what: &str, error: crate::Error| problems.push(format!("{what}: {error}"));
        fn read<T>(asked: Result<T>, what: &str, tell: &mut impl FnMut(&str, crate::Error)) -> Option<T> {
            asked.map_err(|error| tell(what, error)).ok()
        }
        let jobs = read(inner.jobs.stats(), "jobs", &mut or_problem);
        let schedules = read(inner.jobs.schedules(), "schedules", &mut or_problem).unwrap_or_default();
        let components = read(inner.components.list(), "components", &mut or_problem).unwrap_or_default();
        problems.extend(damaged_files(&inner.dir));
        Status {
            at: inner.clock.now_by_hand(),
            process: Process {
                pid: std::process::id(),
                service: inner.service.0.clone(),
                version: inner.service.1.clone(),
                l0_version: env!("CARGO_PKG_VERSION"),
                started_at: crate::Timestamp::from_unix_ns(inner.started.wall_ns),
                uptime,
                dir: inner.dir.display().to_string(),
            },
            health: inner.health.report(),
            components,
            limits: stats.limits,
            jobs,
            job_kinds: inner.jobs.kinds(),
            job_queues: inner.jobs.queues(),
            schedules,
            recording: Recording {
                recorded: stats.recorded,
                stored: stats.stored,
                shed: stats.shed,
                per_second: stats.recorded as f64 / uptime.as_secs_f64().max(1e-3),
                buffer_used_bytes: stats.buffer_used_bytes,
                buffer_bytes: stats.buffer_bytes,
                durability: stats.durability,
                last_error: stats.last_error.map(|error| error.to_string()),
            },
            store: stats.store,
            problems,
        }
    }

    /// Since l0 was started.
    pub(super) fn uptime(&self) -> Duration {
        Duration::from_nanos(self.inner.clock.anchor().mono_ns.saturating_sub(self.inner.started.mono_ns))
    }
}
