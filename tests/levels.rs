//! l0 turns no level on that nobody wants. This binary has one test: with subscribers of other tests beside it,
//! `tracing` asks each of them anew, and then answers for all filters of a process.

mod support;

use support::store;
use tracing::{info, level_filters::LevelFilter};

#[test]
fn a_level_nobody_wants_stays_off() {
    let store = store();
    store.l0.set_filter("info,chatty=off").unwrap();
    let computed = std::cell::Cell::new(0);
    let count_up = |cell: &std::cell::Cell<u32>| {
        cell.set(cell.get() + 1);
        cell.get()
    };
    store.record(|| {
        assert_eq!(LevelFilter::current(), LevelFilter::INFO);
        assert!(tracing::enabled!(tracing::Level::INFO));
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        assert!(!tracing::enabled!(target: "chatty", tracing::Level::ERROR));
        info!(target: "chatty", never = count_up(&computed), "x");
    });
    assert_eq!(
        (store.l0.events().count().unwrap(), computed.get()),
        (0, 0),
        "not even the values of a disabled event are computed"
    );
}
