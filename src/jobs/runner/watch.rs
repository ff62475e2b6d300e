//! What other processes write into the store: noticed as soon as the system tells, without looking again and again.
//!
//! On Linux a thread sleeps until the WAL of `state.db` is written to; whether that was by another process, SQLite's data
//! version says. Elsewhere it is looked at every second.

use std::sync::Arc;

use super::Runner;
use crate::jobs::context::CANCEL;

impl Runner {
    /// If others have written since this was last asked, there may be jobs to claim, wishes to cancel, outcomes waited for. It is
    /// only read: what is written here is heard by the others.
    pub(super) fn look_outside(self: &Arc<Self>) {
        if let Some(state) = &self.state {
            let Some(version) = state.foreign_version() else { return };
            if self.seen_version.lock().replace(version) == Some(version) {
                return;
            }
        }
        for line in self.lines() {
            line.news(self, None);
        }
        let running: Vec<_> = self.running.lock().values().cloned().collect();
        for run in running {
            if self.queue.get(run.claimed.lease.id).is_ok_and(|row| row.is_some_and(|row| row.is_cancel_asked)) {
                run.control.raise(CANCEL);
            }
        }
        self.waiters.waited_for().into_iter().for_each(|id| self.look_up_end(id));
        if !self.owner.lock().has_others() {
            self.look_at_others();
        }
        self.look_at_schedules();
    }

    /// Whether the system tells what others write.
    pub(super) fn hears_others(&self) -> bool {
        #[cfg(target_os = "linux")]
        return self.watch.lock().as_ref().is_some_and(Watch::is_alive);
        #[cfg(not(target_os = "linux"))]
        return false;
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::Watch;

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        io,
        mem::MaybeUninit,
        os::fd::OwnedFd,
        path::Path,
        sync::{Arc, Weak},
        thread::JoinHandle,
        time::Duration,
    };

    use rustix::{
        event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
        fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
        io::Errno,
    };

    use crate::{jobs::runner::Runner, state};

    /// A look at what others wrote is not repeated sooner.
    const REST: Duration = Duration::from_millis(10);
    /// What is written is not committed yet: that ends with a sync of the disk, of which nobody tells. So it is looked at again
    /// after these pauses.
    const AGAIN_MS: [u64; 5] = [10, 50, 250, 1_000, 5_000];

    /// The thread, until it is dropped.
    #[derive(Debug)]
    pub(in crate::jobs::runner) struct Watch {
        stop: Arc<OwnedFd>,
        thread: Option<JoinHandle<()>>,
    }

    impl Watch {
        /// Watches the store in this directory, whose WAL is there.
        pub(in crate::jobs::runner) fn start(dir: &Path, runner: &Arc<Runner>) -> io::Result<Self> {
            let files = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            inotify::add_watch(&files, state::wal(dir), WatchFlags::MODIFY)?;
            let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
            let (stopped, runner) = (Arc::clone(&stop), Arc::downgrade(runner));
            let thread = std::thread::Builder::new().name("l0-jobs-watch".to_owned());
            let thread = thread.spawn(move || watch(&files, &stopped, &runner))?;
            Ok(Self { stop, thread: Some(thread) })
        }
    }

    impl Watch {
        pub(in crate::jobs::runner) fn is_alive(&self) -> bool {
            self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
            // One that is at work ends by itself: nobody waits for it.
            if let Some(thread) = self.thread.take().filter(JoinHandle::is_finished) {
                let _ = thread.join();
            }
        }
    }

    fn watch(files: &OwnedFd, stop: &OwnedFd, runner: &Weak<Runner>) {
        let mut looks = AGAIN_MS.len();
        loop {
            let is_written = match wait([files, stop], AGAIN_MS.get(looks).map(|ms| Duration::from_millis(*ms))) {
                None | Some([_, true]) => return,
                Some([is_written, _]) => is_written,
            };
            looks = if is_written { 0 } else { looks + 1 };
            if is_written && is_gone(files) {
                return;
            }
            let Some(runner) = runner.upgrade() else { return };
            runner.look_outside();
            drop(runner);
            if wait([stop, stop], Some(REST)) != Some([false, false]) {
                return;
            }
        }
    }

    /// Which of them can be read; `None` if nobody can say.
    fn wait(fds: [&OwnedFd; 2], within: Option<Duration>) -> Option<[bool; 2]> {
        let within = within
            .map(|within| Timespec { tv_sec: within.as_secs().cast_signed(), tv_nsec: within.subsec_nanos().into() });
        let mut polled = fds.map(|fd| PollFd::new(fd, PollFlags::IN));
        match poll(&mut polled, within.as_ref()) {
            Ok(_) => Some([0, 1].map(|index| !polled[index].revents().is_empty())),
            Err(Errno::INTR) => Some([false, false]),
            Err(_) => None,
        }
    }

    /// Takes the events; says whether the file is gone, and with it the store.
    fn is_gone(files: &OwnedFd) -> bool {
        let mut buffer = [const { MaybeUninit::uninit() }; 1_024];
        let mut events = inotify::Reader::new(files, &mut buffer);
        while let Ok(event) = events.next() {
            if event.events().contains(ReadFlags::IGNORED) {
                return true;
            }
        }
        false
    }
}
