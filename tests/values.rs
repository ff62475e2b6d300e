//! Every kind of value, at its edges, as it comes back.

#![recursion_limit = "1024"] // three hundred fields in one macro

mod support;

use std::{error::Error, fmt};

use l0::{Severity, TelemetryEvent, query::Value};
use support::store;
use tracing::{Level, debug, error, event, info, info_span, trace, warn};

#[test]
fn numbers_at_their_edges() {
    let store = store();
    store.record(|| {
        info!(
            i64_min = i64::MIN,
            u64_max = u64::MAX,
            i128_min = i128::MIN,
            u128_max = u128::MAX,
            small = 7_i128,
            nan = f64::NAN,
            infinite = f64::INFINITY,
            negative = f64::NEG_INFINITY,
            tiny = f64::MIN_POSITIVE,
            third = 1.0 / 3.0,
            yes = true,
        );
    });
    let page = store.l0.events().fetch().unwrap();
    let event = &page.items[0];
    let expected: [(&str, Value); 11] = [
        ("i64_min", i64::MIN.into()),
        ("u64_max", "18446744073709551615".into()),
        ("i128_min", i128::MIN.to_string().into()),
        ("u128_max", u128::MAX.to_string().into()),
        ("small", 7.into()),
        ("nan", "NaN".into()),
        ("infinite", "inf".into()),
        ("negative", "-inf".into()),
        ("tiny", f64::MIN_POSITIVE.into()),
        ("third", (1.0 / 3.0).into()),
        ("yes", 1.into()),
    ];
    for (name, value) in expected {
        assert_eq!(event.field(name), Some(value.clone()), "{name}");
        assert_eq!(store.l0.events().field(name, value).count().unwrap(), 1, "found again by {name}");
    }
    assert_eq!(event.field("absent"), None);
}

#[test]
fn bytes_display_debug_and_optional_values() {
    let store = store();
    store.record(|| {
        let nothing: Option<u32> = None;
        info!(bytes = &[0_u8, 255][..], shown = %"a\"b", debugged = ?vec![1, 2], nothing, something = Some(3), "done {}", 1);
    });
    let event = store.l0.events().fetch().unwrap().items.remove(0);
    assert_eq!(event.message, "done 1");
    assert_eq!(
        event.payload_as::<serde_json::Value>().unwrap(),
        serde_json::json!({ "bytes": "[00 ff]", "shown": "a\"b", "debugged": "[1, 2]", "something": 3 })
    );
    assert!(event.payload_as::<Vec<u32>>().unwrap_err().is_invalid_input());
}

#[derive(Debug)]
struct Layered(&'static str, Option<Box<Layered>>);

impl fmt::Display for Layered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Layered {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.1.as_deref().map(|source| source as _)
    }
}

#[test]
fn an_error_keeps_its_source_chain() {
    let store = store();
    let failure =
        Layered("cannot pay", Some(Box::new(Layered("no answer", Some(Box::new(Layered("timed out", None)))))));
    store.record(|| {
        error!(error = &failure as &(dyn Error + 'static), "order failed");
        error!(message = &failure as &(dyn Error + 'static));
    });
    let events = store.l0.events().oldest_first().fetch().unwrap().items;
    let expected = serde_json::json!({ "error": "cannot pay", "error.sources": ["no answer", "timed out"] });
    assert_eq!(events[0].payload_as::<serde_json::Value>().unwrap(), expected);
    assert_eq!(events[1].message, "cannot pay");
    assert_eq!(events[1].payload, r#"{"message.sources":["no answer","timed out"]}"#);
}

#[test]
fn duplicate_names_are_all_kept() {
    let store = store();
    store.record(|| info!(a = 1, a = 2, r#type = "x", "said"));
    let event = store.l0.events().fetch().unwrap().items.remove(0);
    assert_eq!(event.payload, r##"{"a#1":1,"a":2,"type":"x"}"##);
}

#[test]
fn well_known_fields_become_columns() {
    let store = store();
    store.record(|| {
        info!(
            event_type = "order.paid",
            category = "billing",
            status = 200,
            duration_ms = 12.5,
            tenant_id = "acme",
            "paid"
        );
        warn!(severity = "critical", "the safe is open");
        info!(severity = "loud", correlation_id = "not valid!", "misfits stay in the payload");
    });
    assert_eq!(
        store.ask("SELECT event_type, category, status, duration_ms, tenant_id, severity, payload FROM telemetry_events ORDER BY at_unix_ns"),
        [
            ["order.paid", "billing", "200", "12.5", "acme", "info", "{}"],
            ["log", "NULL", "NULL", "NULL", "NULL", "critical", "{}"],
            ["log", "NULL", "NULL", "NULL", "NULL", "info", r#"{"severity":"loud","correlation_id":"not valid!"}"#],
        ]
    );
    assert_eq!(store.l0.events().at_least(Severity::Critical).count().unwrap(), 1);
}

macro_rules! many_fields {
    ($($name:ident)*) => {
        info!($($name = 1,)* "many")
    };
}

#[test]
fn three_hundred_fields() {
    let store = store();
    store.record(|| {
        many_fields!(
            f000 f001 f002 f003 f004 f005 f006 f007 f008 f009 f010 f011 f012 f013 f014 f015 f016 f017 f018 f019
            f020 f021 f022 f023 f024 f025 f026 f027 f028 f029 f030 f031 f032 f033 f034 f035 f036 f037 f038 f039
            f040 f041 f042 f043 f044 f045 f046 f047 f048 f049 f050 f051 f052 f053 f054 f055 f056 f057 f058 f059
            f060 f061 f062 f063 f064 f065 f066 f067 f068 f069 f070 f071 f072 f073 f074 f075 f076 f077 f078 f079
            f080 f081 f082 f083 f084 f085 f086 f087 f088 f089 f090 f091 f092 f093 f094 f095 f096 f097 f098 f099
            f100 f101 f102 f103 f104 f105 f106 f107 f108 f109 f110 f111 f112 f113 f114 f115 f116 f117 f118 f119
            f120 f121 f122 f123 f124 f125 f126 f127 f128 f129 f130 f131 f132 f133 f134 f135 f136 f137 f138 f139
            f140 f141 f142 f143 f144 f145 f146 f147 f148 f149 f150 f151 f152 f153 f154 f155 f156 f157 f158 f159
            f160 f161 f162 f163 f164 f165 f166 f167 f168 f169 f170 f171 f172 f173 f174 f175 f176 f177 f178 f179
            f180 f181 f182 f183 f184 f185 f186 f187 f188 f189 f190 f191 f192 f193 f194 f195 f196 f197 f198 f199
            f200 f201 f202 f203 f204 f205 f206 f207 f208 f209 f210 f211 f212 f213 f214 f215 f216 f217 f218 f219
            f220 f221 f222 f223 f224 f225 f226 f227 f228 f229 f230 f231 f232 f233 f234 f235 f236 f237 f238 f239
            f240 f241 f242 f243 f244 f245 f246 f247 f248 f249 f250 f251 f252 f253 f254 f255 f256 f257 f258 f259
            f260 f261 f262 f263 f264 f265 f266 f267 f268 f269 f270 f271 f272 f273 f274 f275 f276 f277 f278 f279
            f280 f281 f282 f283 f284 f285 f286 f287 f288 f289 f290 f291 f292 f293 f294 f295 f296 f297 f298 f299
        );
    });
    let fields: std::collections::BTreeMap<String, u32> =
        store.l0.events().fetch().unwrap().items[0].payload_as().unwrap();
    assert_eq!((fields.len(), fields["f000"], fields["f299"]), (300, 1, 1));
}

#[test]
fn huge_values_are_cut_visibly_and_harm_no_other_field() {
    let store = store();
    let huge = "x".repeat(10 << 20);
    store.record(|| {
        info!(before = 1, huge, bytes = &vec![7_u8; 1 << 20][..], debugged = ?huge, after = 2, "{huge}");
        let _span = info_span!("huge", huge).entered();
    });
    store.l0.record(TelemetryEvent::new("huge").message(&huge).payload(&serde_json::json!({ "huge": huge })));
    let page = store.l0.events().oldest_first().fetch().unwrap();
    let fields: serde_json::Value = page.items[0].payload_as().unwrap();
    assert_eq!((&fields["before"], &fields["after"]), (&1.into(), &2.into()));
    assert!(fields["huge"].as_str().unwrap().ends_with("x...[10469376 more bytes truncated]"), "the size is told");
    assert!(fields["bytes"].as_str().unwrap().ends_with("more bytes truncated]]"));
    assert!(fields["debugged"].as_str().unwrap().ends_with("...[truncated]"));
    assert!(page.items[0].message.ends_with("...[truncated]"));
    assert_eq!(page.items[1].payload_as::<serde_json::Value>().unwrap()["l0.total_bytes"], (10 << 20) + 11);
    assert_eq!(store.one("SELECT count(*) FROM spans WHERE length(payload) > 16000"), "1");
    assert_eq!(store.l0.stats().shed, 0);
}

#[test]
fn levels_become_severities_and_text_survives_as_it_is() {
    let store = store();
    let text = "naïve \u{1F600} \u{202E}rtl \x1b[31mred\x1b[0m \"quoted\" back\\slash\nline\0nul";
    store.record(|| {
        trace!(text, "{text}");
        debug!("");
        event!(Level::INFO, x = 1);
        error!("e");
    });
    let events = store.l0.events().oldest_first().fetch().unwrap().items;
    let severities: Vec<Severity> = events.iter().map(|event| event.severity).collect();
    assert_eq!(severities, [Severity::Trace, Severity::Debug, Severity::Info, Severity::Error]);
    assert_eq!((events[0].message.as_str(), events[0].field("text")), (text, Some(text.into())));
    assert_eq!(events[1].message, "");
    assert!(!events[0].to_string().contains(['\x1b', '\u{202E}', '\n']), "a terminal is not harmed by what was logged");
}

#[test]
fn what_is_recorded_directly_has_every_column() {
    let store = store();
    store.l0.record_batch([
        TelemetryEvent::new("order.placed")
            .source("checkout")
            .severity(Severity::Warning)
            .category("shop")
            .correlation_id("order-9".parse::<l0::correlation::CorrelationId>().unwrap())
            .tenant_id("acme")
            .actor_id("u-1")
            .message("placed")
            .status("ok")
            .duration(std::time::Duration::from_micros(1500))
            .payload(&serde_json::json!({ "total": 12 })),
        TelemetryEvent::new("bare"),
    ]);
    assert_eq!(
        store.ask(
            "SELECT event_type, source, severity, category, correlation_id, tenant_id, actor_id, message, payload, status, duration_ms
               FROM telemetry_events ORDER BY at_unix_ns"
        ),
        [
            ["order.placed", "checkout", "warning", "shop", "order-9", "acme", "u-1", "placed", r#"{"total":12}"#, "ok", "1.5"],
            ["bare", "", "info", "NULL", "NULL", "NULL", "NULL", "", "{}", "NULL", "NULL"],
        ]
    );
    assert_eq!(store.one("SELECT count(*) FROM logs"), "0", "logs are what was written for a reader");
}
