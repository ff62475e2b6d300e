//! A forked child has none of l0's threads: everything in it is inert, and the parent does not notice.
#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use l0::TelemetryEvent;

#[test]
#[allow(unsafe_code)]
fn a_forked_child_is_inert_and_the_parent_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = l0::builder().dir(dir.path()).start().unwrap();
    l0.record(TelemetryEvent::new("before"));
    assert_eq!(l0.events().count().unwrap(), 1);
    // SAFETY: the child only calls l0, which must cope, and leaves with _exit.
    let scope = l0.limits().scope("global").unwrap();
    scope.check().unwrap();
    let child = unsafe { libc::fork() };
    if child == 0 {
        let started = Instant::now();
        l0.record(TelemetryEvent::new("in.the.child"));
        let inert = l0.stats().ignored == 1
            && l0.flush().is_err_and(|error| error.is_closed())
            && l0.stats().limits.is_empty()
            && l0.limits().report(Duration::from_secs(60)).is_err_and(|error| error.is_closed())
            && scope.usage("", Duration::from_secs(60)).is_err_and(|error| error.is_closed())
            && l0.events().count().is_err_and(|error| error.is_closed())
            && l0.sql("SELECT 1", &[]).is_err_and(|error| error.is_closed());
        drop(l0);
        let at_once = started.elapsed() < Duration::from_secs(5);
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(if inert && at_once { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for the child above.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0, "the child was not inert");
    assert_eq!(scope.usage("", Duration::from_secs(60)).unwrap(), 1, "what the parent counted is told by it");
    l0.record(TelemetryEvent::new("after"));
    assert_eq!(l0.events().count().unwrap(), 2);
    assert_eq!((l0.stats().recorded, l0.stats().ignored), (2, 0));
    l0.shutdown(Duration::from_secs(10)).unwrap();
}
