//! `l0::testing::capture`: tests that ask what their code recorded, side by side.

use std::thread;

use l0::{Severity, correlation, testing::capture};
use tracing::{dispatcher, error, info, info_span, trace};

fn code(n: usize) -> usize {
    let _span = info_span!("work", n).entered();
    trace!("detail {n}");
    error!(n, password = "hunter2", "failed");
    n * 2
}

#[test]
fn captures_side_by_side_see_their_own_records_only() {
    // Threads without a subscriber meet the same callsites first: nobody is turned deaf by that.
    thread::scope(|scope| {
        for n in 0..8 {
            scope.spawn(move || {
                code(n);
                for _ in 0..5 {
                    let seen = capture(|| code(n));
                    assert_eq!(seen.result, n * 2);
                    assert_eq!(seen.events().count().unwrap(), 2);
                    let page = seen.events().at_least(Severity::Error).field("n", n as u64).fetch().unwrap();
                    assert_eq!(page.items[0].message, "failed");
                    assert_eq!(page.items[0].field("password"), Some("[REDACTED:password]".into()));
                    let span = &seen.traces().fetch().unwrap().items[0];
                    assert_eq!((span.root.as_str(), span.errors), ("work", 1));
                }
            });
        }
    });
}

#[test]
fn threads_that_get_the_dispatcher_are_seen() {
    let seen = capture(|| {
        let here = dispatcher::get_default(Clone::clone);
        let id = correlation::CorrelationId::new();
        thread::scope(|scope| {
            for n in 0..4 {
                let (here, id) = (&here, id.clone());
                scope.spawn(move || {
                    dispatcher::with_default(here, || {
                        let _scope = correlation::enter(id);
                        info!(n, "from a worker");
                    });
                });
            }
        });
        thread::spawn(|| info!("from a thread that did not get it")).join().unwrap();
        id.to_string()
    });
    assert_eq!(seen.logs().correlation_id(&seen.result).fetch().unwrap().items.len(), 4);
    assert_eq!(seen.events().count().unwrap(), 4);
}

#[test]
fn the_store_goes_with_the_value_and_a_panic_comes_out() {
    let seen = capture(|| info!("x"));
    let dir = seen.dir().to_owned();
    assert!(dir.exists());
    drop(seen);
    assert!(!dir.exists());
    assert!(std::panic::catch_unwind(|| capture(|| panic!("the code's own"))).is_err());
}

#[test]
fn nested_captures_each_see_what_is_theirs() {
    let outer = capture(|| {
        info!("outer");
        let inner = capture(|| info!("inner"));
        info!("outer again");
        inner.events().count().unwrap()
    });
    assert_eq!((outer.result, outer.events().count().unwrap()), (1, 2));
}

#[test]
fn much_is_recorded_as_well_as_little() {
    let seen = capture(|| (0..20_000).for_each(|n| info!(n, "line")));
    assert_eq!((seen.events().count().unwrap(), seen.stats().shed), (20_000, 0));
}
