//! Which id a record belongs to: fields, spans, scopes, futures, headers, and what inherits from what.

mod support;

use std::{
    future::Future,
    task::{Context, Poll, Waker},
};

use l0::{
    TelemetryEvent,
    correlation::{self, CorrelationId, TraceContext},
};
use support::{Store, store};
use tracing::{error_span, field::Empty, info, info_span};

fn id(text: &str) -> CorrelationId {
    text.parse().unwrap()
}

/// The correlation id of the event with this message.
fn of(store: &Store, message: &str) -> Option<String> {
    let mut found = store.l0.events().message(message).fetch().unwrap().items;
    found.retain(|event| event.message == message);
    assert_eq!(found.len(), 1, "{message}");
    found.remove(0).correlation_id
}

fn run<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
}

#[test]
fn the_sources_of_an_id_in_their_order() {
    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let store = store();
    store.record(|| {
        info!("alone");
        let _scope = correlation::enter(id("scope"));
        info!("in the scope");
        info!(correlation_id = "own", "with a field of its own");
        info!(correlation_id = "not valid!", "with a field that is no id");
        let outer = info_span!("outer", correlation_id = "outer").entered();
        info!("in a named span");
        let inner = info_span!("inner", traceparent = HEADER).entered();
        info!("in a span inside");
        let renamed = info_span!("renamed", correlation_id = "renamed").entered();
        info!("in a span with another name");
        drop((renamed, inner, outer));
        let span = info_span!("unnamed in a scope").entered();
        info!("in a span that took the scope");
        let second = correlation::enter(id("second"));
        info!("in a later scope in that span");
        drop((second, span));
    });
    store.record(|| {
        let span = info_span!("remote", traceparent = HEADER).entered();
        info!("of a remote trace");
        let scope = correlation::enter(id("late"));
        info!("in a scope of a remote trace");
        drop((scope, span));
        let span = info_span!("root").entered();
        info!("generated");
        let scope = correlation::enter(id("inside"));
        info!("in a scope in an unnamed span");
        let child = info_span!("child").entered();
        info!("in a child that took that scope");
        drop((child, scope));
        info!("generated again");
        drop(span);
    });
    let hex = "0af7651916cd43dd8448eb211c80319c";
    for (message, expected) in [
        ("alone", None),
        ("in the scope", Some("scope")),
        ("with a field of its own", Some("own")),
        ("with a field that is no id", Some("scope")),
        ("in a named span", Some("outer")),
        ("in a span inside", Some("outer")),
        ("in a span with another name", Some("renamed")),
        ("in a span that took the scope", Some("scope")),
        ("in a later scope in that span", Some("scope")),
        ("of a remote trace", Some(hex)),
        ("in a scope of a remote trace", Some(hex)),
        ("in a scope in an unnamed span", Some("inside")),
        ("in a child that took that scope", Some("inside")),
    ] {
        assert_eq!(of(&store, message).as_deref(), expected, "{message}");
    }
    let generated = of(&store, "generated").unwrap();
    assert_eq!(uuid_version(&generated), Some('7'));
    assert_eq!(of(&store, "generated again"), Some(generated));
}

fn uuid_version(text: &str) -> Option<char> {
    (text.len() == 36).then(|| text.chars().nth(14)).flatten()
}

#[test]
fn current_is_what_a_record_would_get() {
    let store = store();
    let check = |what: &str| {
        let current = correlation::current();
        info!("{what}");
        (what.to_owned(), current.map(|id| id.to_string()))
    };
    let seen = store.record(|| {
        let mut seen = vec![check("outside")];
        let span = info_span!("root", correlation_id = Empty).entered();
        seen.push(check("generated"));
        let child = info_span!("child").entered();
        seen.push(check("generated, in a child"));
        let scope = correlation::enter(id("scope"));
        seen.push(check("a scope in an unnamed span"));
        drop((scope, child));
        let named = info_span!("named", correlation_id = "named").entered();
        let scope = correlation::enter(id("scope"));
        seen.push(check("a scope in a named span"));
        let inner = info_span!("inner").entered();
        seen.push(check("a span in a named span"));
        drop((inner, scope, named, span));
        let _scope = correlation::enter(id("scope"));
        let _span = info_span!("root").entered();
        seen.push(check("a span in a scope"));
        seen
    });
    for (what, current) in seen {
        let found = store.l0.events().fetch().unwrap().items;
        let stored = found.iter().find(|event| event.message == what).unwrap().correlation_id.clone();
        assert_eq!(current, stored, "{what}");
    }
}

#[test]
fn a_late_id_names_the_whole_trace() {
    let store = store();
    store.record(|| {
        let root = info_span!("root", correlation_id = Empty, tenant_id = Empty);
        let entered = root.clone().entered();
        info!("before");
        let child = info_span!("child").entered();
        info!("before, in a child");
        root.record("correlation_id", "order-9");
        root.record("tenant_id", "acme");
        info!("after, in the child");
        assert_eq!(correlation::current(), Some(id("order-9")));
        let scope = correlation::enter(id("scope"));
        info!("after, in a scope");
        drop((scope, child));
        info!("after");
        drop(entered);
        drop(root);
        // A second request of the same name is a second trace, found by the same name.
        let root = info_span!("root", correlation_id = Empty).entered();
        root.record("correlation_id", "order-9");
        info!("of the second");
    });
    for message in ["before, in a child", "after, in the child", "after, in a scope", "of the second"] {
        assert_eq!(of(&store, message).as_deref(), Some("order-9"), "{message}");
    }
    let trace = store.l0.trace("order-9").unwrap().unwrap();
    assert_eq!((trace.spans.len(), trace.all_events().len()), (2, 6));
    assert_eq!(store.one("SELECT tenant_id FROM telemetry_events WHERE message = 'after'"), "acme");
    assert_eq!(store.one("SELECT count(DISTINCT trace_id) FROM spans WHERE correlation_id = 'order-9'"), "2");
    // A span that is not the root and is named late begins a trace of its own there.
    store.record(|| {
        let _root = info_span!("root", correlation_id = "outer").entered();
        let inner = info_span!("inner", correlation_id = Empty).entered();
        inner.record("correlation_id", "inner");
        info!("in a renamed span");
        assert_eq!(correlation::current(), Some(id("inner")));
    });
    assert_eq!(of(&store, "in a renamed span").as_deref(), Some("inner"));
}

#[test]
fn a_late_name_is_committed_before_or_after_what_it_names() {
    let store = store();
    store.record(|| {
        let root = info_span!("root", correlation_id = Empty).entered();
        info!("early");
        store.l0.flush().unwrap();
        assert_eq!(uuid_version(&of(&store, "early").unwrap()), Some('7'));
        root.record("correlation_id", "order-9");
        store.l0.flush().unwrap();
        info!("late");
    });
    assert_eq!(of(&store, "early").as_deref(), Some("order-9"));
    assert_eq!(of(&store, "late").as_deref(), Some("order-9"));
}

#[test]
fn tenant_and_actor_are_inherited_and_overridden() {
    let store = store();
    store.record(|| {
        let _outer = info_span!("outer", tenant_id = "acme", actor_id = 17).entered();
        info!("outer");
        let _inner = info_span!("inner", actor_id = "ada").entered();
        info!("inner");
        info!(tenant_id = "other", "own");
        store.l0.record(TelemetryEvent::new("direct").message("direct"));
        store.l0.audit(TelemetryEvent::new("audited").message("audited")).unwrap();
    });
    for (message, tenant, actor) in [
        ("outer", "acme", "17"),
        ("inner", "acme", "ada"),
        ("own", "other", "ada"),
        ("direct", "acme", "ada"),
        ("audited", "acme", "ada"),
    ] {
        let event = store.l0.events().message(message).fetch().unwrap().items.remove(0);
        assert_eq!((event.tenant_id.as_deref(), event.actor_id.as_deref()), (Some(tenant), Some(actor)), "{message}");
    }
}

#[test]
fn a_future_keeps_its_id_across_threads_and_pauses() {
    let store = store();
    let mut polls = 0;
    let mut paused = Box::pin(correlation::scope(id("job"), async {
        info!("first part");
        std::future::poll_fn(|_| {
            polls += 1;
            if polls == 1 { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        let span = info_span!("part");
        let _entered = span.enter();
        info!("second part");
    }));
    store.record(|| {
        assert!(paused.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        info!("between");
    });
    let l0 = store.l0.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use tracing_subscriber::prelude::*;
            let subscriber = tracing_subscriber::registry().with(l0.layer());
            tracing::subscriber::with_default(subscriber, || run(paused.as_mut()));
        });
    });
    assert_eq!(of(&store, "first part").as_deref(), Some("job"));
    assert_eq!(of(&store, "second part").as_deref(), Some("job"));
    assert_eq!(of(&store, "between"), None);
}

#[test]
fn a_header_that_comes_in_goes_out_again_and_is_found() {
    let store = store();
    let incoming = correlation::from_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
    let outgoing = store.record(|| {
        let _scope = correlation::enter(incoming.into());
        let _span = info_span!("handle").entered();
        info!("handled");
        TraceContext::current().unwrap()
    });
    assert_eq!(outgoing.trace_id(), incoming.trace_id());
    assert_ne!(outgoing.span_id(), incoming.span_id());
    let row = store.ask("SELECT trace_id, w3c_span_id FROM spans");
    assert_eq!(row, [[outgoing.trace_id(), outgoing.span_id()]]);
    assert!(store.l0.trace(&outgoing.trace_id()).unwrap().is_some());
}

#[test]
fn the_way_out_of_any_trace_is_how_the_store_has_it() {
    let store = store();
    let names = ["order-9", "0af7651916cd43dd8448eb211c80319d", "6f2d1c1e-7b1a-7cc0-8000-000000000001"];
    let contexts: Vec<TraceContext> = store.record(|| {
        let mut contexts = Vec::new();
        for name in names {
            let _span = info_span!("named", correlation_id = name).entered();
            contexts.push(TraceContext::current().unwrap());
        }
        let _root = info_span!("unnamed").entered();
        let _inner = error_span!("inner").entered();
        contexts.push(TraceContext::current().unwrap());
        contexts
    });
    let rows = store.ask("SELECT trace_id, w3c_span_id FROM spans WHERE name IN ('named', 'inner') ORDER BY id");
    let expected: Vec<Vec<String>> =
        contexts.iter().map(|context| vec![context.trace_id(), context.span_id()]).collect();
    assert_eq!(rows, expected);
}

#[test]
fn a_generated_id_passed_to_another_thread_joins() {
    let store = store();
    store.record(|| {
        let _span = info_span!("root").entered();
        let passed_on = correlation::current().unwrap();
        let l0 = store.l0.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _scope = correlation::enter(passed_on);
                l0.record(TelemetryEvent::new("there").message("there"));
            });
        });
        info!("here");
    });
    assert_eq!(of(&store, "there"), of(&store, "here"));
    let trace = store.l0.trace(&of(&store, "here").unwrap()).unwrap().unwrap();
    assert_eq!((trace.spans[0].events.len(), trace.events.len()), (1, 1));
}

#[test]
fn an_id_does_not_outlive_its_span() {
    // Contexts are keyed by l0's own ids: a later span with the registry id of an earlier one takes nothing from it.
    let store = store();
    store.record(|| {
        for round in 0..200 {
            info_span!("request", correlation_id = format!("order-{round}")).in_scope(|| {
                assert_eq!(correlation::current(), Some(id(&format!("order-{round}"))));
            });
            info_span!("other").in_scope(|| {
                assert!(correlation::current().is_some_and(|id| !id.as_str().starts_with("order")));
            });
        }
    });
}

#[test]
fn the_second_late_name_replaces_the_first_for_all_of_the_trace() {
    let store = store();
    store.record(|| {
        let root = info_span!("root", correlation_id = Empty).entered();
        let child = info_span!("child").entered();
        root.record("correlation_id", "first");
        info!("in the child");
        root.record("correlation_id", "second");
        assert_eq!(correlation::current(), Some(id("second")));
        drop(child);
    });
    assert_eq!(of(&store, "in the child").as_deref(), Some("second"));
    assert!(store.l0.trace("first").unwrap().is_none());
    assert_eq!(store.l0.trace("second").unwrap().unwrap().all_spans().count(), 2);
}

#[test]
fn a_late_tenant_reaches_spans_that_are_open_already() {
    let store = store();
    store.record(|| {
        let root = info_span!("root", tenant_id = Empty, actor_id = Empty).entered();
        let child = info_span!("child").entered();
        root.record("tenant_id", "acme");
        info!("in the child");
        let _grandchild = info_span!("grandchild").entered();
        root.record("actor_id", "ada");
        info!("in the grandchild");
        store.l0.audit(TelemetryEvent::new("audited").message("audited")).unwrap();
        drop(child);
    });
    let audited = store.l0.events().message("audited").fetch().unwrap().items.remove(0);
    assert_eq!((audited.tenant_id.as_deref(), audited.actor_id.as_deref()), (Some("acme"), Some("ada")));
    let tenants = store.ask("SELECT tenant_id, actor_id FROM telemetry_events ORDER BY id");
    assert_eq!(tenants, [["acme", "NULL"], ["acme", "ada"]]);
}

#[test]
fn a_traceparent_names_a_span_in_an_unnamed_trace_only() {
    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let store = store();
    store.record(|| {
        let root = info_span!("root", correlation_id = Empty).entered();
        root.record("correlation_id", "named");
        let _child = info_span!("child", traceparent = HEADER).entered();
        info!("in a child of a trace named late");
        assert_eq!(correlation::current(), Some(id("named")));
    });
    assert_eq!(of(&store, "in a child of a trace named late").as_deref(), Some("named"));
    store.record(|| {
        let _root = info_span!("root").entered();
        info!(traceparent = HEADER, "an event with a header");
        info!("beside it");
    });
    assert_eq!(of(&store, "an event with a header"), of(&store, "beside it"));
}

#[test]
fn a_name_given_on_another_thread_counts_where_the_span_is_entered() {
    let store = store();
    store.record(|| {
        let _root = info_span!("root").entered();
        let child = info_span!("child", correlation_id = Empty, tenant_id = Empty);
        let entered = child.clone().entered();
        let here = tracing::dispatcher::get_default(Clone::clone);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                tracing::dispatcher::with_default(&here, || {
                    child.record("correlation_id", "from-there");
                    child.record("tenant_id", "acme");
                });
            });
        });
        let _scope = correlation::enter(id("scope"));
        info!("here");
        assert_eq!(correlation::current(), Some(id("from-there")));
        store.l0.audit(TelemetryEvent::new("audited").message("audited")).unwrap();
        drop(entered);
    });
    for message in ["here", "audited"] {
        let event = store.l0.events().message(message).fetch().unwrap().items.remove(0);
        assert_eq!(
            (event.correlation_id.as_deref(), event.tenant_id.as_deref()),
            (Some("from-there"), Some("acme")),
            "{message}"
        );
    }
}

#[test]
fn an_opening_with_a_name_that_came_late_before_goes_out_as_the_store_has_it() {
    let store = store();
    let context = store.record(|| {
        info_span!("late", correlation_id = Empty).in_scope(|| {
            tracing::Span::current().record("correlation_id", "order-9");
        });
        let _second = info_span!("second", correlation_id = "order-9").entered();
        TraceContext::current().unwrap()
    });
    assert_eq!(store.one("SELECT trace_id FROM spans WHERE name = 'second'"), context.trace_id());
    assert_eq!(context.trace_id(), id("order-9").trace_id());
    assert_eq!(store.l0.trace(&context.trace_id()).unwrap().unwrap().spans.len(), 2);
}
