//! The conformance suite of job queues: what any [`JobQueue`] must do, told by a model that is too simple to be wrong.

mod batches;
mod cases;
mod model;

use crate::jobs::JobQueue;

/// Runs the conformance suite on queues that `make` makes, each new and empty. It is the one that l0's own pass.
///
/// ```
/// l0::testing::job_queue(l0::jobs::MemoryQueue::default);
/// ```
///
/// # Panics
/// Where the queue does not do what [`JobQueue`] says.
pub fn job_queue<Q: JobQueue>(make: impl Fn() -> Q) {
    cases::run(&make);
    for seed in 1..=40 {
        model::run(&make(), seed, 150);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use crate::{
        config::Durability,
        jobs::{MemoryQueue, SqliteQueue},
    };

    #[test]
    fn memory_conforms() {
        super::job_queue(MemoryQueue::default);
    }

    #[test]
    fn sqlite_conforms() {
        let dir = tempfile::tempdir().unwrap();
        let numbers = AtomicU32::new(0);
        super::job_queue(|| {
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            SqliteQueue::open(dir.path().join(number.to_string()), Durability::Normal).unwrap()
        });
    }
}
