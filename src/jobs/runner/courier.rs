//! Enqueues for those who must not wait for the disk: one thread, spawned with first use, that takes what has come and
//! enqueues it in one step.

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{
    super::{
        cell::Cell,
        queue::{Enqueued, NewJob},
    },
    Runner,
};
use crate::error::{Error, Result};

/// Jobs of one step.
const STEP: usize = 1_000;
/// So many may be on their way.
const WAITING_MAX: usize = 100_000;
/// How long the end waits for the thread at least.
const END_WITHIN: Duration = Duration::from_millis(100);

pub(in crate::jobs) type Receipt = Arc<Cell<Result<Enqueued>>>;

#[derive(Debug, Default)]
pub(super) struct Courier {
    line: Mutex<Line>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Line {
    waiting: Vec<(NewJob, Receipt)>,
    thread: Option<JoinHandle<()>>,
    is_closed: bool,
    is_over: bool,
}

impl Courier {
    /// Takes a job; the receipt is filled when it is enqueued.
    pub(super) fn take(&self, runner: &Arc<Runner>, job: NewJob) -> Receipt {
        let receipt = Arc::new(Cell::new(()));
        let mut line = self.line.lock();
        if line.is_closed {
            receipt.finish(Err(Error::closed()));
            return receipt;
        }
        if line.waiting.len() >= WAITING_MAX {
            let error =
                format!("{WAITING_MAX} jobs wait to be enqueued: the store is slow, or does not take them; try later");
            receipt.finish(Err(Error::timeout(error)));
            return receipt;
        }
        line.waiting.push((job, Arc::clone(&receipt)));
        if line.thread.is_none() {
            let runner = Arc::clone(runner);
            let thread = std::thread::Builder::new().name("l0-enqueue".to_owned());
            match thread.spawn(move || runner.courier.carry(&runner)) {
                Ok(thread) => line.thread = Some(thread),
                Err(error) => {
                    line.waiting.pop();
                    receipt.finish(Err(Error::storage(format!("cannot start the thread l0-enqueue: {error}"))));
                }
            }
        }
        drop(line);
        self.came.notify_all();
        receipt
    }

    fn carry(&self, runner: &Arc<Runner>) {
        let mut line = self.line.lock();
        loop {
            if line.waiting.is_empty() {
                if line.is_closed {
                    line.is_over = true;
                    drop(line);
                    self.came.notify_all();
                    return;
                }
                self.came.wait(&mut line);
                continue;
            }
            let count = line.waiting.len().min(STEP);
            let (jobs, receipts): (Vec<_>, Vec<_>) = line.waiting.drain(..count).unzip();
            drop(line);
            match runner.enqueue_now(jobs) {
                Ok(enqueued) => {
                    receipts.iter().zip(enqueued).for_each(|(receipt, enqueued)| _ = receipt.finish(Ok(enqueued)));
                }
                Err(error) => receipts.iter().for_each(|receipt| _ = receipt.finish(Err(error.clone()))),
            }
            line = self.line.lock();
        }
    }

    /// Takes nothing more, and waits for what is on its way.
    pub(super) fn stop(&self, until: Instant) {
        let mut line = self.line.lock();
        line.is_closed = true;
        self.came.notify_all();
        let Some(thread) = line.thread.take() else { return };
        let until = until.max(Instant::now() + END_WITHIN);
        while !line.is_over && !self.came.wait_until(&mut line, until).timed_out() {}
        let is_over = line.is_over;
        let left = std::mem::take(&mut line.waiting);
        drop(line);
        for (_, receipt) in left {
            receipt.finish(Err(Error::closed()));
        }
        if is_over {
            let _ = thread.join();
        }
    }
}
