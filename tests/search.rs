//! The search grammar, errors by place, and events as JSON lines, asked of a store.

mod support;

use std::time::Duration;

use l0::{Severity, TelemetryEvent, query::Total};
use serde_json::{Value, json};
use support::store;
use tracing::{debug, error, info, info_span, warn};

fn shop() -> support::Store {
    let store = store();
    store.record(|| {
        let order = info_span!("order", correlation_id = "order-9", tenant_id = "acme").entered();
        info!(target: "shop::cart", order = 9, customer = "Ada \"the\" first", "Order placed");
        warn!(target: "shop::stock", left = 3, share = 0.5, "stock is low");
        drop(order);
        error!(target: "shop::pay", code = 402, code_text = "402", "card DECLINED");
        debug!(target: "hyper::proto", "connection reset");
        info_span!("original", otel.name = "renamed").in_scope(|| info!(target: "web", "in a renamed span"));
        info!(target: "shop::pay", duration_ms = 250, "charged");
        info!(target: "shop::pay", duration_ms = 20, "charged");
    });
    store.l0.record(TelemetryEvent::new("http").source("web").status("503").message("answered"));
    store.l0.record(TelemetryEvent::new("http").source("web").status("301").message("moved"));
    store.l0.record(TelemetryEvent::new("order.shipped").source("depot").actor_id("u-7").status("done"));
    store.l0.audit(TelemetryEvent::new("refund.granted").source("desk").message("refunded order 9")).unwrap();
    store
}

#[test]
fn a_search_finds_what_it_says() {
    let store = shop();
    let found = |text: &str| {
        let page = store.l0.events().search(text).unwrap().oldest_first().fetch().unwrap();
        page.items
            .into_iter()
            .map(|row| if row.message.is_empty() { row.event_type } else { row.message })
            .collect::<Vec<_>>()
    };
    for (text, expected) in [
        ("declined", &["card DECLINED"][..]),
        ("\"is low\"", &["stock is low"]),
        ("ada", &["Order placed"]),
        ("order -placed", &["refunded order 9"]),
        ("level:warn", &["stock is low", "card DECLINED"]),
        ("level:WARN -level:error", &["stock is low"]),
        ("target:shop::pay level:error", &["card DECLINED"]),
        ("source:depot", &["order.shipped"]),
        ("source:desk", &["refunded order 9"]),
        ("-target:shop -target:hyper -target:web", &["order.shipped", "refunded order 9"]),
        ("order:9", &["Order placed"]),
        ("order:9.0", &["Order placed"]),
        ("code:402", &["card DECLINED"]),
        ("code_text:402", &["card DECLINED"]),
        ("left:>2 left:<=3", &["stock is low"]),
        ("left:>3", &[]),
        ("share:0.5", &["stock is low"]),
        ("code_text:>1", &[]),
        ("customer:*", &["Order placed"]),
        (r#"customer:"Ada \"the\" first""#, &["Order placed"]),
        ("trace:order-9 level:warn", &["stock is low"]),
        ("tenant:acme", &["Order placed", "stock is low"]),
        ("actor:u-7", &["order.shipped"]),
        ("status:done", &["order.shipped"]),
        ("type:refund.granted", &["refunded order 9"]),
        ("span:order left:*", &["stock is low"]),
        ("span:renamed", &["in a renamed span"]),
        ("span:original", &[]),
        ("duration:>100ms", &["charged"]),
        ("duration:<0.1s duration:>=20", &["charged"]),
        ("message:ORDER", &["Order placed", "refunded order 9"]),
        ("100% _", &[]),
        (r#""Ada \"the\" first""#, &["Order placed"]),
        ("status:>=500", &["answered"]),
        ("status:<400", &["moved"]),
        ("status:>=500 -status:503", &[]),
    ] {
        let found = found(text);
        assert_eq!(found, expected, "{text}");
    }
    assert_eq!(store.l0.logs().search("order").unwrap().fetch().unwrap().items.len(), 1, "audits are no log lines");
}

#[test]
fn a_line_in_a_slow_span_is_found_by_its_duration() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hand) = l0::Clock::manual(l0::Timestamp::from_unix_ns(1_700_000_000_000_000_000));
    let l0 = support::builder(dir.path()).clock(clock).start().unwrap();
    let store = support::Store { l0, dir };
    store.record(|| {
        for (name, ms) in [("quick", 5), ("slow", 500)] {
            let _span = info_span!("request").entered();
            info!("{name}");
            hand.advance(Duration::from_millis(ms));
        }
    });
    let found = store.l0.logs().search("duration:>100ms").unwrap().fetch().unwrap().items;
    assert_eq!(found.iter().map(|row| row.message.as_str()).collect::<Vec<_>>(), ["slow"]);
}

#[test]
fn errors_are_grouped_by_place_and_message() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hand) = l0::Clock::manual(l0::Timestamp::from_unix_ns(1_700_000_000_000_000_000));
    let l0 = support::builder(dir.path()).clock(clock.clone()).start().unwrap();
    let store = support::Store { l0, dir };
    let mut times = Vec::new();
    store.record(|| {
        for order in 0..5 {
            times.push(clock.now());
            let id = format!("order-{order}");
            let _order = (order < 3).then(|| info_span!("order", correlation_id = id.as_str()).entered());
            error!("order {order} refused after {}.5 ms", order * 7);
            if order == 3 {
                error!(error = "disk 7 is full");
                error!(error = "disk 8 is full");
                warn!("not an error");
            }
            hand.advance(Duration::from_secs(60));
        }
    });
    store
        .l0
        .record(TelemetryEvent::new("sync.failed").source("depot").severity(Severity::Critical).message("no route"));
    store.l0.record(TelemetryEvent::new("sync.failed").source("attic").severity(Severity::Error).message("no route"));
    store.l0.record(TelemetryEvent::new("ping.failed").source("attic").severity(Severity::Error).message("no route"));
    store.l0.audit(TelemetryEvent::new("login.failed").source("desk").severity(Severity::Error)).unwrap();
    let page = store.l0.errors().fetch().unwrap();
    let groups: Vec<_> = page.items.iter().map(|group| (group.message.as_str(), group.count)).collect();
    assert_eq!(groups[0], ("order <n> refused after <n> ms", 5));
    assert_eq!(groups.len(), 7, "{groups:?}");
    assert_eq!(page.total, Total::Exactly(7));
    let group = &page.items[0];
    assert!(group.place.contains("tests/search.rs:"));
    let off = |at: l0::Timestamp, of: l0::Timestamp| (at.as_unix_ns() - of.as_unix_ns()).abs();
    assert!(off(group.first, times[0]) < 1_000 && off(group.last, times[4]) < 1_000, "{group:?}");
    assert_eq!(group.sample.correlation_id.as_deref(), Some("order-2"), "the last that belongs to a trace");
    let of = |message: &str| page.items.iter().find(|group| group.message.contains(message)).unwrap();
    // Without a message the fields are compared; the two are of two places.
    assert_eq!(of("disk <n> is full").count, 1);
    let routes = page.items.iter().filter(|group| group.message == "no route");
    let mut routes: Vec<_> = routes.map(|group| (group.place.as_str(), group.sample.event_type.as_str())).collect();
    routes.sort_unstable();
    assert_eq!(routes, [("attic", "ping.failed"), ("attic", "sync.failed"), ("depot", "sync.failed")]);
    assert!(page.items.iter().any(|group| group.sample.is_audit() && group.place == "desk"));

    assert_eq!(store.l0.errors().limit(2).fetch().unwrap().items.len(), 2);
    assert_eq!(store.l0.errors().until(times[2]).fetch().unwrap().items[0].count, 2);
    assert_eq!(store.l0.errors().search("refused trace:order-1").unwrap().fetch().unwrap().items[0].count, 1);
    assert!(
        store.l0.errors().since(times[4].saturating_add(Duration::from_secs(7200))).fetch().unwrap().items.is_empty()
    );
}

fn exported(events: l0::query::Events) -> Vec<Value> {
    let mut out = Vec::new();
    let count = events.write_json_lines(&mut out, u64::MAX, |_| {}).unwrap();
    let lines: Vec<Value> =
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len() as u64, count);
    lines
}

#[test]
fn columns_are_fields_again_unless_they_are_inherited() {
    let store = store();
    store.record(|| {
        let _outer = info_span!("outer", correlation_id = "order-9", tenant_id = "acme", a = 1).entered();
        let _inner = info_span!("inner", otel.name = "renamed", actor_id = "u-1", status = "error").entered();
        error!(
            severity = "critical",
            category = "pay",
            duration_ms = 1.5,
            actor_id = "u-2",
            z = 1,
            b = "é",
            "m\u{1b}[1m"
        );
        info!(correlation_id = "other", event_type = "order.placed");
    });
    store.l0.record(TelemetryEvent::new("n").payload(&json!([1, 2])).tenant_id("globex"));
    store.l0.record(TelemetryEvent::new("n").status("ok").payload(&json!({"status": 5, "a": "status"})));
    let raw = serde_json::value::RawValue::from_string("{\t\"a\":\r\n1}".into()).unwrap();
    store.l0.record(TelemetryEvent::new("n").payload(&raw));
    let lines = exported(store.l0.events());
    assert_eq!(lines[0]["level"], "ERROR");
    assert_eq!(
        lines[0]["fields"],
        json!({"message": "m\u{1b}[1m", "severity": "critical", "category": "pay", "duration_ms": 1.5, "actor_id": "u-2", "z": 1, "b": "é"})
    );
    assert_eq!(
        lines[0]["span"],
        json!({"name": "inner", "otel.name": "renamed", "actor_id": "u-1", "status": "error"})
    );
    let outer = json!({"name": "outer", "correlation_id": "order-9", "tenant_id": "acme", "a": 1});
    assert_eq!(lines[0]["spans"], json!([outer, lines[0]["span"]]));
    assert_eq!(lines[1]["fields"], json!({"correlation_id": "other", "event_type": "order.placed"}));
    assert_ne!(lines[0]["trace_id"], lines[1]["trace_id"]);
    let trace = store.l0.trace("order-9").unwrap().unwrap();
    assert_eq!(lines[0]["trace_id"], trace.trace_id);
    let id = store.one("SELECT w3c_span_id FROM spans WHERE name = 'renamed'");
    assert_eq!((lines[0]["span_id"].as_str(), lines[1]["span_id"].as_str()), (Some(id.as_str()), Some(id.as_str())));
    assert_eq!(lines[2]["fields"], json!({"event_type": "n", "tenant_id": "globex", "payload": [1, 2]}));
    assert_eq!(lines[2].as_object().unwrap().keys().collect::<Vec<_>>(), ["fields", "level", "target", "timestamp"]);
    assert_eq!(lines[3]["fields"]["payload"], json!({"status": 5, "a": "status"}));
    assert_eq!((&lines[3]["fields"]["status"], &lines[4]["fields"]["a"]), (&"ok".into(), &1.into()));
    let mut raw = Vec::new();
    store.l0.events().write_json_lines(&mut raw, u64::MAX, |_| {}).unwrap();
    assert!(!raw.contains(&0x1b));
}

#[test]
fn rows_of_one_nanosecond_in_several_tables_are_on_one_page_each() {
    let support::Store { l0, dir } = store();
    l0.shutdown(Duration::from_secs(10)).unwrap();
    let rows = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    for at in 1_000..1_006_usize {
        for (table, severity) in [("event", 2), ("warning", 4)].into_iter().take(2 - at % 2) {
            let sql = format!(
                "INSERT INTO {table} (at, run, severity, message) VALUES ({at}, 1, {severity}, '{table} {at}')"
            );
            rows.execute(&sql, []).unwrap();
        }
    }
    let reader = l0::query::Reader::open(dir.path()).unwrap();
    for oldest_first in [true, false] {
        for limit in 1..8 {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let mut question = reader.events().limit(limit);
                question = if oldest_first { question.oldest_first() } else { question };
                let page = match &after {
                    Some(after) => question.after(after).fetch().unwrap(),
                    None => question.fetch().unwrap(),
                };
                seen.extend(page.items.into_iter().map(|row| row.message));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            if !oldest_first {
                seen.reverse();
            }
            let tables = |at: usize| ["event", "warning"].into_iter().take(2 - at % 2);
            let all = (1_000..1_006).flat_map(|at| tables(at).map(move |table| format!("{table} {at}")));
            assert_eq!(seen, all.collect::<Vec<_>>(), "oldest first: {oldest_first}, {limit} on a page");
        }
    }
}

#[test]
fn a_page_of_large_lines_is_bounded_and_nothing_is_left_out() {
    let store = store();
    store.record(|| {
        let text = "x".repeat(10_000);
        let mut spans: Vec<_> = (0..50).map(|depth| info_span!("deep", depth, text).entered()).collect();
        for n in 0..30 {
            info!(n, "in all of them");
        }
        while spans.pop().is_some() {}
    });
    let lines = exported(store.l0.events());
    assert_eq!(
        lines.iter().map(|line| line["fields"]["n"].as_u64().unwrap()).collect::<Vec<_>>(),
        (0..30).collect::<Vec<_>>()
    );
    assert!(lines.iter().all(|line| line["spans"].as_array().unwrap().len() == 50));
    let mut pages = 0;
    store.l0.events().write_json_lines(std::io::sink(), u64::MAX, |_| pages += 1).unwrap();
    assert!(pages > 2, "{pages}");
}

#[test]
fn everything_is_exported_once_and_in_order_over_many_pages() {
    let store = store();
    store.record(|| {
        for n in 0..5_000 {
            if n % 10 == 0 { warn!(n, "w") } else { info!(n, "i") }
        }
    });
    let numbers: Vec<_> =
        exported(store.l0.events()).iter().map(|line| line["fields"]["n"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (0..5_000).collect::<Vec<_>>());
    assert_eq!(exported(store.l0.events().search("level:warn").unwrap()).len(), 500);
    let (mut some, mut told) = (Vec::new(), Vec::new());
    assert_eq!(store.l0.events().write_json_lines(&mut some, 3_001, |count| told.push(count)).unwrap(), 3_001);
    assert_eq!((some.iter().filter(|byte| **byte == b'\n').count(), told), (3_001, vec![2_000, 3_001]));

    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let error = store.l0.events().write_json_lines(Full, u64::MAX, |_| {}).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert!(error.is_storage() && cause.kind() == std::io::ErrorKind::StorageFull, "{error}");
}
