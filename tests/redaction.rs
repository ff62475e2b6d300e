//! Secrets are gone, innocents are intact: a corpus of both, through every way in, to every place they could be kept.

mod support;

use std::{fs, path::Path};

use l0::{Redaction, TelemetryEvent, query::Reader};
use support::{builder, store};
use tracing::{Level, field::Empty, info, info_span, warn};

/// Lines of a data file: columns separated by tabs, `\n`, `\t` and `\\` escaped, `#` for comments.
fn corpus(name: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let unescape = |text: &str| {
        let mut out = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            out.push(match (c, c == '\\') {
                (_, true) => match chars.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some(other) => other,
                    None => '\\',
                },
                (c, false) => c,
            });
        }
        out
    };
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split('\t').map(unescape).collect()).collect()
}

/// As a message, or as a field of the payload.
fn event(field: &str, value: &str) -> TelemetryEvent {
    let event = TelemetryEvent::new("case");
    if field == "message" {
        return event.message(value);
    }
    event.payload(&serde_json::Map::from_iter([(field.to_owned(), value.into())]))
}

/// Every byte that the store keeps.
fn bytes(dir: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            all.extend(bytes(&entry));
        } else {
            all.extend(fs::read(entry).unwrap());
        }
    }
    all
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[test]
fn every_secret_is_gone_and_its_rule_named() {
    let cases = corpus("secrets.tsv");
    assert!(cases.len() > 200);
    let store = store();
    for case in &cases {
        store.l0.record(event(&case[0], &case[1]));
    }
    let rows = store.l0.events().oldest_first().limit(10_000).fetch().unwrap().items;
    assert_eq!(rows.len(), cases.len());
    let mut kept = Vec::new();
    for (row, case) in rows.iter().zip(&cases) {
        let escaped = serde_json::to_string(&case[2]).unwrap();
        let stored = format!("{}{}", row.message, row.payload);
        if stored.contains(&case[2]) || stored.contains(escaped.trim_matches('"')) || !stored.contains("[REDACTED:") {
            kept.push(format!("{}: {:?} -> {stored}", case[0], case[1]));
        }
    }
    assert!(kept.is_empty(), "{} of {} kept:\n{}", kept.len(), cases.len(), kept.join("\n"));
}

#[test]
fn every_innocent_is_intact_to_the_letter() {
    let cases = corpus("innocents.tsv");
    assert!(cases.len() > 400);
    let store = store();
    for case in &cases {
        store.l0.record(event(&case[0], &case[1]));
    }
    let rows = store.l0.events().oldest_first().limit(10_000).fetch().unwrap().items;
    assert_eq!(rows.len(), cases.len());
    let mut harmed = Vec::new();
    for (row, case) in rows.iter().zip(&cases) {
        let stored = if case[0] == "message" {
            row.message.clone()
        } else {
            row.payload_as::<serde_json::Map<String, serde_json::Value>>().unwrap()[&case[0]]
                .as_str()
                .unwrap()
                .to_owned()
        };
        if stored != case[1] {
            harmed.push(format!("{}: {:?} -> {stored:?}", case[0], case[1]));
        }
    }
    assert!(harmed.is_empty(), "{} of {} harmed:\n{}", harmed.len(), cases.len(), harmed.join("\n"));
}

/// A secret that no value rule knows: only its field's name tells.
const BY_NAME: &str = "opensesame-by-name";
const BY_VALUE: &str = "4111111111111111";

#[derive(Debug)]
struct Nested;

impl std::fmt::Display for Nested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "outer with {BY_VALUE}")
    }
}

impl std::error::Error for Nested {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        static INNER: std::sync::LazyLock<std::io::Error> =
            std::sync::LazyLock::new(|| std::io::Error::other(format!("inner with {BY_VALUE}")));
        Some(&*INNER)
    }
}

/// Every way a value comes in.
fn record_everything(store: &support::Store) {
    struct Unformatted;
    impl std::fmt::Debug for Unformatted {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("the value of a secret's field is formatted")
        }
    }
    store.record(|| {
        // Bridged records are made by the thread's own subscriber, too.
        let _ = tracing_log::LogTracer::init();
        let target = format!("account.{BY_VALUE}");
        log::info!(target: &target, "from log with {BY_VALUE}");
        let error = &Nested as &(dyn std::error::Error + 'static);
        info!(password = BY_NAME, token = %BY_NAME, secret = ?BY_NAME, r#cookie = Some(BY_NAME), "kinds {BY_VALUE}");
        info!(api_key = BY_NAME.as_bytes(), private_key = ?Unformatted, credentials = error, "more kinds");
        info!(text = BY_VALUE, display = %BY_VALUE, debug = ?BY_VALUE, error, message = error);
        info!(max_tokens = 4096, token_count = "12", token = 17, secret = true, "innocents");
        let span = info_span!("span", password = BY_NAME, note = BY_VALUE, access_token = Empty, late = Empty);
        span.record("access_token", BY_NAME);
        span.record("late", BY_VALUE);
        let _span = span.entered();
        warn!(status = BY_VALUE, category = BY_VALUE, event_type = BY_VALUE, otel.name = BY_VALUE, "columns");
    });
    store.l0.log(Level::INFO, BY_VALUE, &format!("line with {BY_VALUE}"));
    let payload = serde_json::json!({
        "user": { "name": "ada", "Password": BY_NAME, "tokens": [{ "refreshToken": BY_NAME }] },
        "card": BY_VALUE, "text": "password=opensesame-in-text", "credentials": [BY_NAME, 5],
    });
    let event = || {
        TelemetryEvent::new("facts")
            .message(format!("paid by {BY_VALUE}"))
            .source(BY_VALUE)
            .status(BY_VALUE)
            .payload(&payload)
    };
    store.l0.record(event());
    store.l0.audit(event()).unwrap();
}

#[test]
fn by_name_nothing_reaches_any_file_and_by_value_nothing_a_database() {
    for (redaction, is_strict) in [(Redaction::default(), false), (Redaction::default().strict(), true)] {
        let dir = tempfile::tempdir().unwrap();
        let l0 = builder(dir.path()).redaction(redaction).start().unwrap();
        let store = support::Store { l0, dir };
        record_everything(&store);
        // Not committed yet: it is in the flight file.
        let flight = bytes(&store.dir.path().join("flight"));
        assert!(contains(&flight, "kinds"));
        assert!(!contains(&flight, BY_NAME), "strict: {is_strict}");
        assert_eq!(contains(&flight, BY_VALUE), !is_strict, "strict looks before the flight recorder");
        store.l0.flush().unwrap();
        let rows = store.l0.events().oldest_first().fetch().unwrap().items;
        assert_eq!(
            rows[1].payload,
            r#"{"password":"[REDACTED:password]","token":"[REDACTED:token]","secret":"[REDACTED:secret]","cookie":"[REDACTED:cookie]"}"#
        );
        assert_eq!(rows[1].message, "kinds [REDACTED:card]");
        assert_eq!(rows[3].field("error.sources"), Some(r#"["inner with [REDACTED:card]"]"#.into()));
        assert_eq!(rows[4].payload, r#"{"max_tokens":4096,"token_count":"12","token":17,"secret":true}"#);
        assert_eq!(
            (rows[0].source.as_str(), rows[0].message.as_str()),
            ("account.[REDACTED:card]", "from log with [REDACTED:card]")
        );
        let facts = store.l0.events().event_type("facts").fetch().unwrap().items;
        assert_eq!(facts.len(), 2);
        for fact in facts {
            assert_eq!(fact.message, "paid by [REDACTED:card]");
            let payload: serde_json::Value = fact.payload_as().unwrap();
            assert_eq!(payload["user"]["name"], "ada");
            assert_eq!(payload["user"]["tokens"][0]["refreshToken"], "[REDACTED:token]");
            assert_eq!(payload["credentials"][1], 5);
        }
        let support::Store { l0, dir } = store;
        l0.shutdown(std::time::Duration::from_secs(5)).unwrap();
        let all = bytes(dir.path());
        assert!(contains(&all, "[REDACTED:card]"));
        for secret in [BY_NAME, BY_VALUE, "opensesame-in-text"] {
            assert!(!contains(&all, secret), "{secret}, strict: {is_strict}");
        }
    }
}

#[test]
fn more_fields_than_bits_and_repeated_names_are_looked_up() {
    let store = store();
    macro_rules! wide {
        ($($name:ident)*) => { info!($($name = "x",)* api_key = BY_NAME, token = BY_NAME, token = BY_NAME, "wide") };
    }
    store.record(|| {
        wide!(a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 b0 b1 b2 b3 b4 b5 b6 b7 b8 b9 c0 c1 c2 c3 c4 c5 c6 c7 c8 c9 d0 d1 d2 d3 d4 d5
              d6 d7 d8 d9 e0 e1 e2 e3 e4 e5 e6 e7 e8 e9 f0 f1 f2 f3 f4 f5 f6 f7 f8 f9 g0 g1 g2 g3 g4 g5 g6 g7 g8 g9);
    });
    let row = store.l0.events().fetch().unwrap().items.remove(0);
    assert_eq!(row.field("api_key"), Some("[REDACTED:api_key]".into()));
    assert_eq!(row.field("token"), Some("[REDACTED:token]".into()));
    assert!(!row.payload.contains(BY_NAME), "{}", row.payload);
}

#[test]
fn ids_that_are_secrets_are_hashed_and_still_found_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    let store = support::Store { l0, dir };
    // Open before there is anything hashed.
    let early = Reader::open(store.dir.path()).unwrap();
    assert_eq!(early.events().actor_id("ada@example.com").count().unwrap(), 0);
    store.record(|| {
        let _span = info_span!(
            "request",
            tenant_id = "bob@example.com",
            actor_id = "ada@example.com",
            correlation_id = BY_VALUE
        )
        .entered();
        info!("by ada");
        store.l0.record(TelemetryEvent::new("direct").actor_id("ada@example.com"));
        store.l0.audit(TelemetryEvent::new("audited")).unwrap();
    });
    let hashed = store.l0.events().fetch().unwrap().items[0].actor_id.clone().unwrap();
    assert!(hashed.starts_with("hashed:"), "{hashed}");
    let check = |events: &dyn Fn() -> l0::query::Events| {
        assert_eq!(events().actor_id("ada@example.com").count().unwrap(), 3);
        assert_eq!(events().actor_id(&hashed).count().unwrap(), 3);
        assert_eq!(events().tenant_id("bob@example.com").count().unwrap(), 3);
        assert_eq!(events().correlation_id(BY_VALUE).count().unwrap(), 3);
        assert_eq!(events().actor_id("eve@example.com").count().unwrap(), 0);
    };
    check(&|| store.l0.events());
    let reader = Reader::open(store.dir.path()).unwrap();
    check(&|| reader.events());
    check(&|| early.events());
    let trace = reader.trace(BY_VALUE).unwrap().unwrap();
    assert_eq!((trace.all_spans().count(), trace.all_events().len()), (1, 3));
    // The next run of the store has the same key, another store has not.
    let support::Store { l0, dir } = store;
    l0.shutdown(std::time::Duration::from_secs(5)).unwrap();
    assert!(!contains(&bytes(dir.path()), "ada@example.com"));
    let again = builder(dir.path()).start().unwrap();
    again.record(TelemetryEvent::new("later").actor_id("ada@example.com"));
    assert_eq!(again.events().actor_id("ada@example.com").count().unwrap(), 4);
    let elsewhere = self::store();
    elsewhere.l0.record(TelemetryEvent::new("x").actor_id("ada@example.com"));
    assert_ne!(elsewhere.l0.events().fetch().unwrap().items[0].actor_id, Some(hashed));
}

#[test]
fn what_is_allowed_or_switched_off_is_stored_as_it_is() {
    for (redaction, field, value) in [
        (Redaction::default().allow_field("csrf_token"), "csrf_token", BY_NAME),
        (Redaction::default().allow_field("support"), "support", "help@example.com"),
        (Redaction::default().without("email"), "any", "help@example.com"),
        (Redaction::default().without("password"), "password", BY_NAME),
        (Redaction::off(), "password", "password=hunter2 bob@example.com"),
        (Redaction::off().strict(), "password", "password=hunter2 bob@example.com"),
        (Redaction::default().allow_field("support").strict(), "support", "help@example.com"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let l0 = builder(dir.path()).redaction(redaction).start().unwrap();
        l0.record(event(field, value));
        let row = l0.events().fetch().unwrap().items.remove(0);
        assert_eq!(row.field(field), Some(value.into()), "{field}");
    }
}

#[test]
fn settings_that_make_no_sense_stop_the_start() {
    let dir = tempfile::tempdir().unwrap();
    for bad in
        [Redaction::default().without("emial"), Redaction::default().value("x", "("), Redaction::default().field("")]
    {
        let error = builder(dir.path()).redaction(bad).start().unwrap_err();
        assert!(error.is_config() && error.to_string().contains("redaction"), "{error}");
    }
    assert!(!format!("{:?}", Redaction::default().hash_with(b"swordfish")).contains("swordfish"));
}

/// A scan that is not linear does not end here: 64 KiB took it minutes.
#[test]
fn hostile_texts_are_read_in_one_pass() {
    let store = store();
    let patterns = [
        "aa:",
        "aa=",
        "token aa:",
        "tokenaa=",
        "aa=token",
        "token=",
        "token:",
        "cookie:",
        "cookie=",
        "authorization:",
        "password=\"",
        "password='",
        "password=[",
        "password=\\\"",
        "{\"password\":",
        "token http://a:",
        "a@",
        "a@b.",
        "4111111111111111 ",
        "4111 ",
        "41",
        "eyJ",
        "Bearer ",
        "://a:",
        "-----BEGIN PRIVATE KEY-----",
        "[REDACTED:",
        "DE89 ",
        "1-2-",
        "(\"token\",",
        "--password ",
    ];
    for pattern in patterns {
        let text = pattern.repeat((64 << 10) / pattern.len());
        store.l0.audit(TelemetryEvent::new("hostile").message(text.as_str())).unwrap();
        store.l0.audit(TelemetryEvent::new("hostile").message(format!("token {text}"))).unwrap();
    }
    assert_eq!(store.l0.events().event_type("hostile").count().unwrap(), 2 * patterns.len() as u64);
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    store.l0.audit(TelemetryEvent::new("deep").message(deep)).unwrap();
}
