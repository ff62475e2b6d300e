//! Checks that are jobs: a closure with a schedule, a kind and a queue of its own.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{
    context::JobContext,
    error::JobError,
    id::{JobId, JobState},
    job::JobOptions,
    registry::{Jobs, checked},
    schedule::Schedule,
};
use crate::error::Result;

/// The queue of checks, and how many run at once.
pub(super) const CHECKS_QUEUE: &str = "checks";
pub(super) const CHECKS_CONCURRENCY: usize = 2;
/// What a check may take.
pub(crate) const CHECK_TIMEOUT: Duration = Duration::from_secs(60);
/// Of its latest jobs so many may have been cancelled, or be at work.
const LOOKED_AT: u32 = 20;

/// What the latest job of a check came to, in whichever process.
#[derive(Debug)]
pub(crate) struct LastCheck {
    pub(crate) id: JobId,
    /// Its result as JSON, or why it failed.
    pub(crate) said: std::result::Result<String, String>,
    pub(crate) took: Duration,
    pub(crate) age: Duration,
}

impl Jobs {
    /// Schedules a closure under this name, whose result is a job's like another.
    pub(crate) fn schedule_check(
        &self,
        name: &str,
        schedule: &Schedule,
        check: impl Fn(JobId) -> std::result::Result<String, JobError> + Send + Sync + 'static,
    ) -> Result<()> {
        checked("check", name)?;
        let kind = kind(name);
        // The next fire is the next attempt.
        let options = JobOptions::default().queue(CHECKS_QUEUE).max_attempts(1).timeout(CHECK_TIMEOUT);
        let new = self.prepare(&kind, &(), &options)?;
        schedule.check()?;
        // One that hangs has been given up, with its thread; it is not begun beside itself.
        let is_running = AtomicBool::new(false);
        let handler = Box::new(move |_: &str, cx: &JobContext| {
            if is_running.swap(true, Ordering::AcqRel) {
                return Err(JobError::fatal("an earlier run of this check hangs"));
            }
            let said = check(cx.id());
            is_running.store(false, Ordering::Release);
            said.map(Ok)
        });
        self.add_handler(&kind, CHECKS_QUEUE, handler)?;
        self.declare(name, schedule, new, &options).inspect_err(|_| self.forget_check(name))
    }

    /// Its jobs have no handler here any more.
    pub(crate) fn forget_check(&self, name: &str) {
        self.runner.remove_kind(&kind(name));
    }

    /// What a check last said, by the jobs that are kept.
    pub(crate) fn last_check(&self, name: &str) -> Result<Option<LastCheck>> {
        let now = self.runner.clock.now_by_hand();
        let latest = self.list().kind(&kind(name)).limit(LOOKED_AT).fetch()?.items;
        Ok(latest.into_iter().find_map(|row| {
            let ns = now.as_unix_ns().saturating_sub(row.finished_at?.as_unix_ns());
            let (took, age) = (row.run_time(now)?, Duration::from_nanos(u64::try_from(ns).unwrap_or(0)));
            let said = match row.state {
                JobState::Success => Ok(row.result?),
                JobState::Failed => Err(row.error?),
                _ => return None,
            };
            Some(LastCheck { id: row.id, said, took, age })
        }))
    }
}

fn kind(name: &str) -> String {
    format!("check.{name}")
}
