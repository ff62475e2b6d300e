//! Checks that are jobs: what their jobs say is what health reports.

use std::sync::Arc;

use super::Handle;
use crate::{
    error::Result,
    health::{IntoStatus, Said, ScheduledCheck, Status},
    jobs::{CHECK_TIMEOUT, JobError, JobId, LastCheck, Schedule, panic::catch},
};

impl Handle {
    /// Schedules a check, as a job of its own kind and queue (`checks`, two at once): durable, once in all processes of the
    /// store, with a timeout of a minute. It is run after [`Jobs::start`](crate::jobs::Jobs::start). What it says is the job's
    /// result, and that of a check of this name in [`health().report()`](crate::health::Health::report): at once where it was run,
    /// within a minute in other processes that have it, and at the start of the next. Until it has run it is healthy; one that
    /// hangs is overdue. Blocks for two commits, ten seconds each at most.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// use l0::{health::Status, jobs::Schedule};
    /// l0.schedule_check("backups", Schedule::cron("0 6 * * *")?, || {
    ///     match std::fs::metadata("/var/backups/shop.tar") {
    ///         Ok(_) => Status::Healthy,
    ///         Err(error) => Status::Unhealthy(format!("no backup: {error}")),
    ///     }
    /// })?;
    /// assert_eq!(l0.jobs().schedules()?[0].kind, "check.backups");
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// `is_invalid_input` if this process has given a check of this name, or for a name that cannot be; as
    /// [`Jobs::schedule`](crate::jobs::Jobs::schedule).
    pub fn schedule_check<R: IntoStatus>(
        &self,
        name: &str,
        schedule: Schedule,
        check: impl Fn() -> R + Send + Sync + 'static,
    ) -> Result<()> {
        let of = Arc::downgrade(&self.inner);
        let (jobs, health) = (&self.inner.jobs, &self.inner.health);
        let scheduled = health.scheduled_check(name, CHECK_TIMEOUT)?;
        let own = scheduled.clone();
        // One of this name that was unregistered has left its handler.
        jobs.forget_check(name);
        let given = jobs.schedule_check(name, &schedule, move |id| {
            if let Some(inner) = of.upgrade() {
                inner.health.begin_scheduled(&own);
            }
            let outcome = catch(|| check().into_status());
            let result = Status::of_run(outcome.clone());
            let said = serde_json::json!(result).to_string();
            if let Some(inner) = of.upgrade() {
                inner.health.end_scheduled(&own, Said { job: key(id), result });
            }
            outcome.map_err(JobError::fatal)?;
            Ok(said)
        });
        // What is not scheduled says nothing.
        given.inspect_err(|_| _ = health.unregister(name))?;
        // What cannot be read now is heard within a minute.
        let _ = self.hear_scheduled(name, &scheduled);
        Ok(())
    }

    /// Takes over what a check that is a job last said, in whichever process.
    pub(super) fn hear_scheduled(&self, name: &str, check: &ScheduledCheck) -> Result<()> {
        if let Some(LastCheck { id, said, took, age }) = self.inner.jobs.last_check(name)? {
            let result = match said {
                Ok(json) => serde_json::from_str(&json).unwrap_or(Status::Unhealthy(json)),
                Err(error) => Status::Unhealthy(error),
            };
            self.inner.health.hear_scheduled(check, Said { job: key(id), result }, took, age);
        }
        Ok(())
    }
}

/// What tells later jobs from earlier ones; by the time in its id, if the queue has no numbers.
fn key(id: JobId) -> (i64, u64) {
    match id.row() {
        Some((number, enqueued_at)) => (enqueued_at.as_unix_ns(), number),
        None => ((id.as_uuid().as_u64_pair().0 >> 16).cast_signed().saturating_mul(1_000_000), 0),
    }
}
