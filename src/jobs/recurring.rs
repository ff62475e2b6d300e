//! The schedules of one `L0`: what a program does with them.

use std::time::Duration;

use super::{
    job::{Job, JobOptions, When},
    queue::{JobQueue, WhichSchedules},
    registry::{JobReader, Jobs, checked},
    schedule::{Schedule, ScheduleRow, Template},
};
use crate::error::{Error, Result};

impl Jobs {
    /// Enqueues a job at each time of a schedule, from now on and after restarts, by whichever process has
    /// [started](Self::start). Blocks for a commit if something is new.
    ///
    /// A schedule is known by its name. Given again as it was, as a program does whenever it starts, it goes on undisturbed; with
    /// another job, misfire or overlap it goes on with these; with other times it begins anew. One that is not given any more goes
    /// on, and [`schedules`](Self::schedules) says so, until it is [unscheduled](Self::unschedule).
    ///
    /// Each fire time has one job, whatever dies in between and however many processes share the store; the next fire time is
    /// committed with it, and does not depend on what becomes of the job.
    /// [`JobContext::scheduled_for`](super::JobContext::scheduled_for) says which time a job is for. What happens to times at which
    /// nobody was there [`Misfire`](super::Misfire) says, and to those at which the job before is still at work
    /// [`Overlap`](super::Overlap).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[derive(Clone, serde::Serialize, serde::Deserialize)] struct Report;
    /// # impl l0::jobs::Job for Report { const KIND: &'static str = "report"; type Output = (); }
    /// use l0::jobs::Schedule;
    /// let (clock, time) = l0::Clock::manual(l0::Timestamp::from_unix_ns(1_774_600_000_000_000_000)); // 08:26:40
    /// # let dir = tempfile::tempdir().unwrap();
    /// let l0 = l0::builder().dir(dir.path()).clock(clock).start()?;
    /// l0.jobs().register(|_: Report, cx| {
    ///     assert!(cx.scheduled_for().unwrap().to_string().ends_with("T09:00:00.000000000Z"));
    ///     Ok(())
    /// })?;
    /// l0.jobs().schedule("daily report", Schedule::cron("0 9 * * *")?, Report)?;
    /// assert_eq!(l0.jobs().run_due()?, 0);
    /// time.advance(Duration::from_secs(3600));
    /// assert_eq!(l0.jobs().run_due()?, 1);
    /// # Ok::<(), l0::Error>(())
    /// ```
    ///
    /// # Errors
    /// `is_invalid_input` for a name that cannot be, an interval under a millisecond, options that name a time, or what
    /// [`enqueue`](Self::enqueue) refuses; `is_storage` or `is_timeout` if the store does not take it; `is_closed` after shutdown.
    pub fn schedule<J: Job + Clone>(&self, name: &str, schedule: Schedule, job: J) -> Result<()> {
        self.schedule_with(name, schedule, job, J::options())
    }

    /// The same, with jobs that are treated otherwise than the kind's options say. A delay is added to each fire time.
    ///
    /// # Errors
    /// As [`schedule`](Self::schedule).
    pub fn schedule_with<J: Job + Clone>(
        &self,
        name: &str,
        schedule: Schedule,
        job: J,
        options: JobOptions,
    ) -> Result<()> {
        let new = self.prepare(J::KIND, &job, &options)?;
        self.declare(name, &schedule, new, &options)
    }

    pub(super) fn declare(
        &self,
        name: &str,
        schedule: &Schedule,
        new: super::queue::NewJob,
        options: &JobOptions,
    ) -> Result<()> {
        checked("schedule", name)?;
        schedule.check()?;
        let delay = match options.when {
            When::Now => Duration::ZERO,
            When::In(delay) => delay,
            When::At(_) => {
                return Err(Error::invalid_input(format!(
                    "the jobs of the schedule {name:?} have times of their own: leave run_at out of their options"
                )));
            }
        };
        let terms = super::queue::Terms { start_by: None, ..new.terms };
        let job = Template {
            kind: new.kind,
            queue: new.queue,
            priority: new.priority,
            payload: new.payload,
            terms,
            unique: new.unique,
            delay,
            start_within: options.start_within,
        };
        self.readable()?;
        self.runner.declare(name, schedule, &job)
    }

    /// All schedules of the store, by name, with when they fire next and did last.
    ///
    /// # Errors
    /// `is_storage` if they cannot be read.
    pub fn schedules(&self) -> Result<Vec<ScheduleRow>> {
        let mut rows = rows(&*self.readable()?, self.runner.clock.now_by_hand())?;
        for row in &mut rows {
            row.is_declared = Some(self.runner.is_declared(&row.name));
        }
        Ok(rows)
    }

    /// A schedule fires no more, until it is [resumed](Self::resume), also after restarts. Its jobs that are pending are run.
    ///
    /// # Errors
    /// `is_invalid_input` if there is no such schedule, `is_storage` or `is_timeout` if the store does not take it, `is_closed` after
    /// shutdown.
    pub fn pause(&self, name: &str) -> Result<()> {
        self.readable()?;
        self.runner.pause(name)
    }

    /// A paused schedule goes on. Times that have passed meanwhile are not made up for.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn resume(&self, name: &str) -> Result<()> {
        self.readable()?;
        self.runner.resume(name)
    }

    /// Removes a schedule, if there is one of this name; its jobs that are pending are run.
    ///
    /// # Errors
    /// As [`pause`](Self::pause), but for a name that there is not.
    pub fn unschedule(&self, name: &str) -> Result<()> {
        self.readable()?;
        self.runner.unschedule(name)
    }
}

impl JobReader {
    /// As [`Jobs::schedules`].
    ///
    /// # Errors
    /// `is_storage` if they cannot be read.
    pub fn schedules(&self) -> Result<Vec<ScheduleRow>> {
        if self.queue.has_none()? { Ok(Vec::new()) } else { rows(&*self.queue, self.clock.now_by_hand()) }
    }
}

fn rows(queue: &dyn JobQueue, now: crate::clock::Timestamp) -> Result<Vec<ScheduleRow>> {
    Ok(queue.schedules(&WhichSchedules::All)?.into_iter().map(|stored| ScheduleRow::new(stored, now)).collect())
}
