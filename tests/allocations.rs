//! In the steady state recording allocates nothing. This binary counts allocations, by thread.

mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use tracing::{info, info_span};

thread_local!(static ALLOCATIONS: Cell<u64> = const { Cell::new(0) });

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; the counter allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn recording_allocates_nothing_in_the_steady_state() {
    let store = support::store();
    let ids: Vec<String> = (0..100).map(|n| format!("order-{n}")).collect();
    let work = |rounds: u64| {
        for number in 0..rounds {
            let span = info_span!("request", number, path = "/orders", late = tracing::field::Empty);
            span.in_scope(|| info!(number, ok = true, text = %"displayed", "served {number}"));
            span.record("late", 2.5);
            info!(number, "outside");
            let id = ids[number as usize % ids.len()].as_str();
            let span = info_span!("named", correlation_id = id, tenant_id = "acme", traceparent = "not one");
            let inner = info_span!(parent: &span, "inner", actor_id = "ada");
            span.in_scope(|| inner.in_scope(|| info!("inside")));
            let span = info_span!("late", correlation_id = tracing::field::Empty);
            span.record("correlation_id", id);
        }
    };
    store.record(|| {
        work(2_000);
        let before = ALLOCATIONS.get();
        work(1_000);
        assert_eq!(ALLOCATIONS.get() - before, 0);
    });
    assert_eq!(store.l0.events().count().unwrap(), 9_000);
}
