//! The thread around the writer's step: when it steps, how it waits after a failure, and whom it serves.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{super::shared::StoreChange, Writer};

/// After a failure the next attempt waits for the first of these, doubling up to the second.
const RETRY_PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];

/// How often ages and the like are looked at while records come.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How long that may keep records waiting.
const TIDY_WITHIN: Duration = Duration::from_millis(20);
/// The writer's thread. Ends when `Shared::stop` asks for it, after everything is stored.
pub(crate) fn run_thread(writer: Writer, commit_every: Duration) {
    let shared = Arc::clone(&writer.shared);
    if catch_unwind(AssertUnwindSafe(|| run(writer, commit_every))).is_err() {
        shared.abandon();
    }
}

fn run(mut writer: Writer, commit_every: Duration) {
    let shared = Arc::clone(&writer.shared);
    let bell = shared.flight.bell();
    *shared.writer_thread.lock() = Some(std::thread::current().id());
    let mut pause = RETRY_PAUSES[0];
    let mut due: Option<Instant> = None;
    let mut is_failing = false;
    loop {
        match due {
            Some(due) => _ = bell.wait_until(due),
            None => {
                let until = writer.keeper.ages_every().map(|every| writer.tidied + every);
                bell.sleep_while(until, || writer.is_idle());
            }
        }
        let stopping = shared.stop.load(Ordering::Acquire);
        let (asked, is_asked) = shared.asked();
        if shared.is_suspect.swap(false, Ordering::AcqRel) {
            writer.attachment.suspect();
            // Nothing may be recorded for a while.
            if let Err(error) = writer.attach() {
                writer.attachment.failed(&error);
            }
        }
        let outcome = if stopping {
            let outcome = writer.end();
            if outcome.is_err() && shared.may_try_again() {
                due = Some(Instant::now() + RETRY_PAUSES[0]);
                continue;
            }
            outcome
        } else if is_asked {
            writer.flush()
        } else if is_failing && due.is_some_and(|due| Instant::now() < due) {
            // Pressure does not make a sick store well.
            continue;
        } else if due.is_none() {
            // The first record after a rest: others will follow within the interval.
            writer.refresh_anchors();
            // Unless so many came before this thread woke that their ring was this one, too.
            if !shared.flight.is_pressed() {
                due = Some(Instant::now() + commit_every);
                continue;
            }
            writer.step().map(drop)
        } else {
            writer.step().map(drop)
        };
        shared.last_error.lock().clone_from(&outcome.as_ref().err().cloned());
        if stopping {
            return shared.serve(asked, outcome.err(), true);
        }
        if is_failing != outcome.is_err() {
            shared.notify(&StoreChange::Health);
        }
        is_failing = outcome.is_err();
        if is_failing {
            due = Some(Instant::now() + pause);
            // A reader ends sooner than a disk heals.
            if !shared.flight.is_pinned() {
                pause = (pause * 2).min(RETRY_PAUSES[1]);
            }
        } else {
            pause = RETRY_PAUSES[0];
            let is_due = writer.tidied.elapsed() >= TIDY_EVERY || writer.keeper.is_too_large();
            let is_tidy = !is_due || writer.tidy(TIDY_WITHIN).unwrap_or(true);
            let goes_on = writer.drain.is_partial() || !is_tidy;
            let rests = writer.drain.is_empty() && writer.is_idle() && !goes_on;
            due = (!rests).then(|| Instant::now() + if goes_on { Duration::ZERO } else { commit_every });
        }
        if is_asked {
            shared.serve(asked, outcome.err(), false);
        }
    }
}
