//! All that `tracing` says of spans, as rows.

mod support;

use std::sync::{Arc, Barrier};

use support::{Store, store};
use tracing::{Dispatch, Span, field::Empty, info, info_span, span};
use tracing_subscriber::{EnvFilter, Layer, prelude::*};

fn tree(store: &Store) -> Vec<Vec<String>> {
    store.ask(
        "SELECT s.name, coalesce(p.name, '-') FROM spans AS s LEFT JOIN spans AS p ON p.id = s.parent_id ORDER BY s.id",
    )
}

fn events(store: &Store) -> Vec<Vec<String>> {
    store.ask("SELECT message, coalesce(span, '-') FROM logs ORDER BY id")
}

#[test]
fn parents_are_contextual_explicit_or_none() {
    let store = store();
    store.record(|| {
        let outer = info_span!("outer");
        let other = info_span!(parent: None, "other");
        let _entered = outer.enter();
        let inner = info_span!("inner");
        let explicit = info_span!(parent: &other, "explicit");
        let root = info_span!(parent: None, "root");
        info!("in outer");
        info!(parent: &other, "in other");
        info!(parent: None, "in none");
        inner.in_scope(|| info!("in inner"));
        drop((explicit, root));
    });
    assert_eq!(
        tree(&store),
        [["outer", "-"], ["other", "-"], ["inner", "outer"], ["explicit", "other"], ["root", "-"]]
    );
    assert_eq!(events(&store), [["in outer", "outer"], ["in other", "other"], ["in none", "-"], ["in inner", "inner"]]);
    assert_eq!(store.one("SELECT count(*) FROM spans WHERE state = 'closed' AND duration_ms > 0"), "5");
}

#[test]
fn span_ids_used_again_are_different_spans() {
    let store = store();
    store.record(|| {
        let mut ids = std::collections::HashSet::new();
        for turn in 0..2_000 {
            let span = info_span!("again", turn);
            ids.insert(span.id().unwrap().into_u64() & 0xFFFF_FFFF);
            span.in_scope(|| info!(turn, "here"));
        }
        assert!(ids.len() < 2_000, "the registry used ids again, which is what this test is about");
    });
    assert_eq!(
        store.one(
            "SELECT count(*) FROM logs AS e JOIN spans AS s ON s.id = e.span_id
              WHERE e.fields ->> 'turn' = s.payload ->> 'turn'"
        ),
        "2000"
    );
    assert_eq!(store.one("SELECT count(DISTINCT trace_id) FROM spans"), "2000");
}

#[test]
fn late_and_repeated_values_win_and_empty_fields_are_absent() {
    let store = store();
    store.record(|| {
        let span = info_span!("late", first = 1, status = Empty, never = Empty, tenant_id = Empty);
        span.in_scope(|| info!("before"));
        store.l0.flush().unwrap();
        span.record("status", "ok");
        span.record("status", "paid");
        span.record("first", 2.5);
        span.record("tenant_id", "acme");
        span.in_scope(|| info!("after"));
    });
    assert_eq!(
        store.ask("SELECT status, payload, tenant_id, state FROM spans"),
        [["paid", r#"{"first":2.5}"#, "acme", "closed"]]
    );
    assert_eq!(
        store.ask("SELECT message, coalesce(tenant_id, '-') FROM logs ORDER BY id"),
        [["before", "-"], ["after", "acme"]]
    );
}

#[test]
fn follows_from_links_only_recorded_spans() {
    let store = store();
    store.record(|| {
        let first = info_span!("first");
        let second = info_span!("second");
        let third = info_span!("third");
        third.follows_from(&first);
        third.follows_from(&second);
        third.follows_from(&first);
        let gone = first.id();
        drop(first);
        second.follows_from(gone);
    });
    assert_eq!(
        store.ask("SELECT name, follows_from FROM spans ORDER BY id"),
        [["first", "[]"], ["second", "[]"], ["third", "[1,2]"]]
    );
}

#[test]
fn a_running_span_has_a_row_before_it_closes() {
    let store = store();
    store.record(|| {
        let span = info_span!("long", step = 1);
        assert_eq!(store.ask("SELECT name, state, duration_ms FROM spans"), [["long", "running", "NULL"]]);
        span.record("step", 2);
        assert_eq!(store.ask("SELECT state, payload FROM spans"), [["running", r#"{"step":2}"#]]);
        drop(span);
        assert_eq!(store.ask("SELECT state FROM spans"), [["closed"]]);
    });
}

#[test]
fn a_span_is_entered_on_several_threads_at_once() {
    let store = store();
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(store.l0.layer()));
    let shared = tracing::dispatcher::with_default(&dispatch, || info_span!("shared"));
    let both_inside = Arc::new(Barrier::new(2));
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (dispatch, shared, both_inside) = (dispatch.clone(), shared.clone(), Arc::clone(&both_inside));
            scope.spawn(move || {
                tracing::dispatcher::with_default(&dispatch, || {
                    shared.in_scope(|| {
                        both_inside.wait();
                        let child = info_span!("child", worker);
                        child.in_scope(|| info!(worker, "inside"));
                        both_inside.wait();
                    });
                    drop(shared);
                });
            });
        }
    });
    tracing::dispatcher::with_default(&dispatch, || drop(shared));
    assert_eq!(
        store.ask("SELECT name, count(*), count(parent_id), min(state) FROM spans GROUP BY name ORDER BY name"),
        [["child", "2", "2", "closed"], ["shared", "1", "0", "closed"]]
    );
    assert_eq!(store.one("SELECT count(*) FROM logs WHERE span = 'child'"), "2");
}

#[test]
fn entering_twice_and_leaving_out_of_order_keeps_the_current_span() {
    let store = store();
    store.record(|| {
        let a = info_span!("a");
        let b = info_span!("b");
        let a1 = a.enter();
        let b1 = b.enter();
        let a2 = a.enter();
        info!("b stays current");
        drop(a1);
        info!("still b");
        drop(b1);
        drop(a2);
        info!("outside");
    });
    assert_eq!(events(&store), [["b stays current", "b"], ["still b", "b"], ["outside", "-"]]);
}

#[test]
fn closing_is_late_when_a_child_lives_on() {
    let store = store();
    store.record(|| {
        let parent = info_span!("parent");
        let child = info_span!(parent: &parent, "child");
        drop(parent);
        assert_eq!(
            store.ask("SELECT name, state FROM spans ORDER BY id"),
            [["parent", "running"], ["child", "running"]]
        );
        drop(child);
    });
    assert_eq!(store.one("SELECT count(*) FROM spans WHERE state = 'closed'"), "2");
}

#[test]
fn per_layer_filters_beside_it_do_not_touch_it() {
    let store = store();
    let narrow = tracing_subscriber::fmt::layer().with_writer(std::io::sink).with_filter(EnvFilter::new("warn"));
    let subscriber = tracing_subscriber::registry().with(narrow).with(store.l0.layer());
    tracing::subscriber::with_default(subscriber, || {
        let span = info_span!("seen_by_l0_only");
        span.in_scope(|| info!("inside"));
    });
    assert_eq!(events(&store), [["inside", "seen_by_l0_only"]]);
}

#[test]
fn a_span_that_its_filter_excludes_is_skipped_not_a_break() {
    let store = store();
    store.l0.set_filter("info,hidden=off").unwrap();
    let wide = tracing_subscriber::fmt::layer().with_writer(std::io::sink);
    let subscriber = tracing_subscriber::registry().with(wide).with(store.l0.layer());
    tracing::subscriber::with_default(subscriber, || {
        let outer = info_span!("outer").entered();
        let hidden = info_span!(target: "hidden", "hidden").entered();
        let inner = info_span!("inner").entered();
        info!("deep");
        drop(inner);
        info!("in the hidden span");
        hidden.follows_from(&*outer);
        hidden.record("nothing", 1);
        info!(parent: &*hidden, "the hidden span is named");
        drop((hidden, outer));
    });
    assert_eq!(tree(&store), [["outer", "-"], ["inner", "outer"]]);
    assert_eq!(
        events(&store),
        [["deep", "inner"], ["in the hidden span", "outer"], ["the hidden span is named", "-"]],
        "the registry tells a filtered layer nothing of an excluded span, its parent included"
    );
}

#[test]
fn a_second_layer_on_one_subscriber_records_nothing_twice() {
    let store = store();
    let subscriber = tracing_subscriber::registry().with(store.l0.layer()).with(store.l0.layer());
    tracing::subscriber::with_default(subscriber, || info_span!("once").in_scope(|| info!("once")));
    // Another subscriber is another matter: each event goes to one of them.
    store.record(|| info!("elsewhere"));
    assert_eq!(events(&store), [["once", "once"], ["elsewhere", "-"]]);
    assert_eq!(store.l0.events().event_type("l0.duplicate_layer").count().unwrap(), 1);
}

#[test]
fn two_stores_on_one_subscriber_each_record_everything() {
    let (left, right) = (store(), store());
    let subscriber = tracing_subscriber::registry().with(left.l0.layer()).with(right.l0.layer());
    tracing::subscriber::with_default(subscriber, || info_span!("both").in_scope(|| info!("both")));
    assert_eq!(events(&left), [["both", "both"]]);
    assert_eq!(events(&right), [["both", "both"]]);
}

#[test]
fn context_is_inherited_and_a_field_of_its_own_wins() {
    let store = store();
    store.record(|| {
        let request = info_span!("request", correlation_id = "order-9", tenant_id = "acme", actor_id = "u-1");
        request.in_scope(|| {
            info_span!("step").in_scope(|| {
                info!("inherits");
                info!(tenant_id = "other", correlation_id = "order-10", "wins");
                store.l0.record(l0::TelemetryEvent::new("order.paid").message("direct"));
            });
        });
    });
    assert_eq!(
        store.ask("SELECT message, correlation_id, tenant_id, actor_id FROM telemetry_events ORDER BY id"),
        [
            ["inherits", "order-9", "acme", "u-1"],
            ["wins", "order-10", "other", "u-1"],
            ["direct", "order-9", "acme", "u-1"]
        ]
    );
    assert_eq!(store.ask("SELECT DISTINCT correlation_id, tenant_id FROM spans"), [["order-9", "acme"]]);
}

#[test]
fn otel_fields_name_the_span_and_its_status() {
    let store = store();
    store.record(|| drop(info_span!("http", otel.name = "GET /orders/{id}", otel.status_code = "ERROR")));
    assert_eq!(store.ask("SELECT name, status FROM spans"), [["GET /orders/{id}", "error"]]);
}

#[test]
fn spans_of_every_level_and_of_none() {
    let store = store();
    store.l0.set_filter("debug").unwrap();
    store.record(|| {
        drop(span!(tracing::Level::TRACE, "too detailed"));
        drop(span!(tracing::Level::DEBUG, "fine"));
        Span::none().in_scope(|| info!("in no span"));
        assert!(Span::current().is_none());
    });
    assert_eq!(tree(&store), [["fine", "-"]]);
    assert_eq!(events(&store), [["in no span", "-"]]);
}

#[test]
fn what_l0_leaves_out_other_layers_see() {
    let store = store();
    store.l0.set_filter("warn").unwrap();
    let other = support::store();
    let subscriber = tracing_subscriber::registry().with(store.l0.layer()).with(other.l0.layer());
    tracing::subscriber::with_default(subscriber, || info_span!("fine").in_scope(|| info!("fine")));
    assert_eq!((events(&store).len(), tree(&store).len()), (0, 0));
    assert_eq!(events(&other), [["fine", "fine"]]);
}

#[test]
fn a_callsite_is_stored_once() {
    let store = store();
    store.record(|| (0..1_000).for_each(|number| info_span!("counted").in_scope(|| info!(number, "again"))));
    assert_eq!(store.ask("SELECT kind, count(*) FROM callsite GROUP BY kind"), [["1", "1"], ["2", "1"]]);
    assert_eq!(store.one("SELECT count(DISTINCT callsite) FROM event"), "1");
}
