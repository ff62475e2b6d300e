//! Scopes through the public API: what passes, what is refused, and what is told of it.

mod support;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use l0::{
    Clock, L0, ManualClock, Timestamp, correlation,
    limits::{Denied, Quota, ScopeConfig},
    query::Value,
};
use support::{builder, texts, wait_for};
use tempfile::TempDir;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// The beginning of an hour in 2023.
const START: Timestamp = Timestamp::from_unix_ns(1_700_002_800_000_000_000);

struct Limited {
    l0: L0,
    time: ManualClock,
    dir: TempDir,
}

fn limited() -> Limited {
    let dir = tempfile::tempdir().unwrap();
    let (clock, time) = Clock::manual(START);
    let l0 = builder(dir.path()).clock(clock).start().unwrap();
    Limited { l0, time, dir }
}

impl Limited {
    fn events(&self, kind: &str) -> Vec<l0::query::EventRow> {
        self.l0.events().event_type(kind).oldest_first().fetch().unwrap().items
    }
}

fn passed(mut check: impl FnMut() -> bool, times: usize) -> usize {
    (0..times).filter(|_| check()).count()
}

#[test]
fn three_scopes_are_there_without_a_word() {
    let Limited { l0, dir: _dir, .. } = limited();
    let limits = l0.limits();
    for (name, burst) in [("global", 1_000), ("api", 100), ("auth", 10)] {
        let scope = limits.scope(name).unwrap();
        assert_eq!(passed(|| scope.check().is_ok(), 2_000), burst, "{name}");
        let keyed = passed(|| scope.check_key("203.0.113.9").is_ok(), 2_000);
        assert_eq!(keyed, if name == "global" { 0 } else { burst }, "{name}: keys have buckets of their own");
    }
    let error = limits.scope("nope").unwrap_err();
    assert!(error.is_invalid_input() && error.to_string().contains("api, auth, global"), "{error}");
    let denied = limits.scope("auth").unwrap().check().unwrap_err();
    assert_eq!(denied.decision().scope(), Some("auth"));
    assert_eq!(
        denied.headers(),
        [
            ("X-RateLimit-Limit", "10".to_owned()),
            ("X-RateLimit-Remaining", "0".to_owned()),
            ("RateLimit-Policy", "\"auth\";q=10;w=60".to_owned()),
            ("RateLimit", "\"auth\";r=0;t=6".to_owned()),
            ("Retry-After", "6".to_owned()),
        ]
    );
}

#[test]
fn definitions_that_make_no_sense_are_errors_that_teach() {
    let Limited { l0, dir: _dir, .. } = limited();
    let limits = l0.limits();
    let config = || ScopeConfig::new(Quota::per_minute(1));
    for (name, config, hint) in [
        ("", config(), "1 to 64"),
        ("a\"b", config(), "quotes"),
        ("ä", config(), "ASCII"),
        (&"x".repeat(65), config(), "64"),
        ("a", ScopeConfig::new(Quota::per_minute(0)), "at least 1"),
        ("a", ScopeConfig::new(Quota::per_day(1).burst(u64::MAX)), "smaller burst"),
        ("a", config().keyed().max_keys(0), "at least 1"),
        ("a", config().lock_out(0, HOUR, HOUR), "1 to 1000"),
        ("a", config().lock_out(1, HOUR, Duration::ZERO), "longer than zero"),
        ("a", config().warn_at(f64::NAN), "0.8"),
        ("a", config().warn_at(1.5), "0.8"),
    ] {
        let error = limits.define(name, config).unwrap_err();
        assert!(error.is_invalid_input() && error.to_string().contains(hint), "{name}: {error}");
    }
    let first = limits.define("a", config()).unwrap();
    first.check().unwrap();
    assert!(limits.define("a", config()).unwrap().check().is_err(), "the same words are the same scope");
    let error = limits.define("a", config().dry_run()).unwrap_err();
    assert!(error.to_string().contains("defined otherwise"), "{error}");
}

#[test]
fn a_decision_over_several_scopes_charges_all_or_none() {
    let Limited { l0, time, dir: _dir } = limited();
    let limits = l0.limits();
    let small = limits.define("small", ScopeConfig::new(Quota::per_minute(2)).keyed()).unwrap();
    let slow = limits.define("slow", ScopeConfig::new(Quota::per_hour(3))).unwrap();
    let wide = limits.define("wide", ScopeConfig::new(Quota::per_minute(100))).unwrap();
    let left = || (small.peek("k").remaining(), slow.peek("").remaining(), wide.peek("").remaining());
    let all = [wide.all(), slow.all(), small.key("k")];
    let decision = limits.check_all(&all).unwrap();
    assert_eq!((decision.scope(), decision.remaining()), (Some("small"), 1), "the tightest");
    limits.check_all(&all).unwrap();
    let before = left();
    assert_eq!(before, (0, 1, 98));
    let denied = limits.check_all(&all).unwrap_err();
    assert_eq!((denied.decision().scope(), denied.retry_after()), (Some("small"), Some(30 * SECOND)));
    assert_eq!(left(), before);
    // Two scopes refuse: the answer is the longer wait, whichever comes first, and after it all pass.
    slow.check().unwrap();
    for charges in [[wide.all(), slow.all(), small.key("k")], [small.key("k"), slow.all(), wide.all()]] {
        let denied = limits.check_all(&charges).unwrap_err();
        assert_eq!((denied.decision().scope(), denied.retry_after()), (Some("slow"), Some(1_200 * SECOND)));
    }
    // What never can pass says so, even if another scope would have to be waited for.
    let denied = limits.check_all(&[slow.all(), small.key("k").cost(3)]).unwrap_err();
    assert!(matches!(denied, Denied::ExceedsBurst { cost: 3, burst: 2, .. }), "{denied}");
    time.advance(1_200 * SECOND - Duration::from_nanos(1));
    assert!(limits.check_all(&all).is_err());
    time.advance(Duration::from_nanos(1));
    limits.check_all(&all).unwrap();
    // The same bucket twice in one decision is charged for both, or for none.
    time.advance(DAY);
    limits.check_all(&[small.key("k"), wide.all(), small.key("k")]).unwrap();
    assert_eq!(left(), (0, 3, 99));
    let twice = [small.key("q").cost(1), small.key("q").cost(2)];
    assert!(limits.check_all(&twice).is_err());
    assert_eq!(small.peek("q").remaining(), 2);
    assert_eq!(limits.check_all(&[]).unwrap().limit(), 0);
}

#[test]
fn dry_runs_exemptions_and_blocks() {
    let Limited { l0, time, dir: _dir } = limited();
    let limits = l0.limits();
    let dry = limits.define("dry", ScopeConfig::new(Quota::per_minute(2)).dry_run()).unwrap();
    let answers: Vec<_> = (0..4).map(|_| dry.check().unwrap().is_dry_run_denial()).collect();
    assert_eq!(answers, [false, false, true, true]);
    let hard = limits.define("hard", ScopeConfig::new(Quota::per_minute(1)).keyed().exempt("root")).unwrap();
    let decision = limits.check_all(&[dry.all(), hard.key("k")]).unwrap();
    assert!(decision.is_dry_run_denial() && hard.check_key("k").is_err());
    assert_eq!(passed(|| hard.check_key("root").is_ok(), 50), 50);
    hard.block("root", None);
    assert!(matches!(hard.check_key("root"), Err(Denied::Blocked { until: None, .. })));
    assert!(hard.check_key("root").unwrap_err().headers().iter().all(|(name, _)| *name != "Retry-After"));
    hard.unblock("root");
    hard.check_key("root").unwrap();
    hard.block("x", Some(HOUR));
    let denied = hard.check_key("x").unwrap_err();
    assert_eq!(denied.retry_after(), Some(HOUR));
    assert!(matches!(denied, Denied::Blocked { until: Some(at), .. } if at == START.saturating_add(HOUR)), "{denied}");
    time.advance(HOUR - Duration::from_nanos(1));
    assert_eq!(hard.check_key("x").unwrap_err().headers().last().unwrap().1, "1");
    time.advance(Duration::from_nanos(1));
    hard.check_key("x").unwrap();
    // In a scope that all share, a key may be blocked all the same.
    let shared = limits.define("shared", ScopeConfig::new(Quota::per_minute(5))).unwrap();
    shared.block("evil", Some(MINUTE));
    assert!(matches!(shared.check_key("evil"), Err(Denied::Blocked { .. })));
    assert_eq!(shared.check_key("good").unwrap().remaining(), 4);
}

#[test]
fn so_many_violations_within_some_time_lock_a_key_out() {
    let Limited { l0, time, dir: _dir } = limited();
    let config = ScopeConfig::new(Quota::per_hour(1)).keyed().public_keys().lock_out(3, MINUTE, 10 * MINUTE);
    let login = l0.limits().define("login", config).unwrap();
    login.check_key("ada").unwrap();
    let is_blocked = || matches!(login.check_key("ada"), Err(Denied::Blocked { .. }));
    assert!(!is_blocked() && !is_blocked());
    time.advance(MINUTE);
    assert!(!is_blocked() && !is_blocked(), "the first two are a minute ago");
    assert!(!is_blocked(), "the third is the last one that is refused as any other");
    assert!(is_blocked());
    assert!(!matches!(login.check_key("bob"), Err(Denied::Blocked { .. })), "another key");
    time.advance(10 * MINUTE - Duration::from_nanos(1));
    assert!(is_blocked());
    time.advance(Duration::from_nanos(1));
    assert!(!is_blocked(), "the refusals while it was locked out do not count");
    let report = l0.limits().report(HOUR).unwrap();
    assert_eq!(report.lock_outs.len(), 1);
    assert_eq!(report.lock_outs[0].field("key"), Some(Value::Text("ada".into())));
    login.unblock("ada");
    time.advance(HOUR);
    login.check_key("ada").unwrap();
}

#[test]
fn quotas_change_at_run_time_and_debts_stay() {
    let Limited { l0, time, dir: _dir } = limited();
    let scope = l0.limits().define("s", ScopeConfig::new(Quota::per_minute(10)).keyed()).unwrap();
    assert_eq!(passed(|| scope.check_key("k").is_ok(), 20), 10);
    scope.set_quota(Quota::per_minute(100));
    assert_eq!(scope.peek("k").remaining(), 90, "ten are owed");
    scope.set_quota(Quota::per_minute(10));
    assert_eq!(scope.peek("k").remaining(), 0, "a change there and back refills nothing");
    scope.set_key_quota("vip", Quota::per_minute(50));
    assert_eq!(passed(|| scope.check_key("vip").is_ok(), 99), 50);
    scope.set_quota(Quota::per_minute(20));
    assert_eq!(scope.peek("vip").limit(), 50, "a quota of its own stays");
    assert_eq!(scope.peek("new").limit(), 20);
    let permit = scope.reserve(Some("p"), 10).unwrap();
    scope.set_quota(Quota::per_minute(40));
    time.advance(MINUTE / 40 * 2);
    let left = permit.commit_actual(4).remaining();
    assert_eq!(left, 40 - 4 + 2, "six are given back; two have come back by themselves");
}

#[test]
fn a_permit_is_settled_over_all_its_scopes() {
    let Limited { l0, time, dir: _dir } = limited();
    let limits = l0.limits();
    let tokens = limits.define("tokens", ScopeConfig::new(Quota::per_day(1_000)).keyed().public_keys()).unwrap();
    let calls = limits.define("calls", ScopeConfig::new(Quota::per_day(10))).unwrap();
    let left = || (tokens.peek("a").remaining(), calls.peek("").remaining());
    let reserve = || limits.reserve_all(&[tokens.key("a").cost(400), calls.all()]).unwrap();
    reserve().commit_actual(150);
    assert_eq!(left(), (850, 9), "a call stays a call");
    reserve().refund();
    assert_eq!(left(), (850, 9));
    drop(reserve());
    assert_eq!(left(), (450, 8), "dropped, it was used");
    drop(reserve().refund_on_drop());
    assert_eq!(left(), (450, 8));
    reserve().commit();
    assert_eq!(left(), (50, 7));
    assert!(limits.reserve_all(&[calls.all(), tokens.key("a").cost(51)]).is_err());
    assert_eq!(left(), (50, 7));
    // More than was reserved is owed, beyond the burst.
    let permit = tokens.reserve(Some("a"), 50).unwrap();
    assert_eq!(permit.commit_actual(300).remaining(), 0);
    time.advance(DAY / 4 - SECOND);
    assert_eq!(tokens.peek("a").remaining(), 0);
    time.advance(SECOND + DAY / 1_000);
    assert_eq!(tokens.peek("a").remaining(), 1);
    assert_eq!(tokens.usage("a", 2 * DAY).unwrap(), 150 + 400 + 400 + 300);
    assert_eq!(calls.usage("", 2 * DAY).unwrap(), 3);
}

#[test]
fn a_million_denials_a_minute_add_a_bounded_number_of_rows_and_are_all_counted() {
    let Limited { l0, time, dir: _dir } = limited();
    let scope = l0.limits().define("s", ScopeConfig::new(Quota::per_hour(5)).keyed()).unwrap();
    let keys: Vec<String> = (0..5_000).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect();
    let mut allowed = 0;
    for round in 0..200 {
        let _scope = correlation::enter("attack-1".parse().unwrap());
        for key in &keys {
            allowed += u64::from(scope.check_key(key).is_ok());
        }
        if round == 100 {
            time.advance(MINUTE);
        }
    }
    assert_eq!(allowed, 5 * 5_000);
    let report = l0.limits().report(HOUR).unwrap();
    let counts = report.scopes[0].counts;
    assert_eq!((counts.allowed, counts.denied, counts.used), (25_000, 975_000, 25_000));
    assert_eq!(l0.stats().limits[0].denied, 975_000);
    let rows = l0.events().count().unwrap();
    assert!((200..=400).contains(&rows), "{rows} rows: the first of a key and window, and sums");
    assert!(l0.events().event_type("limit.violation").count().unwrap() <= 200);
    assert_eq!(l0.events().event_type("limit.violation").correlation_id("attack-1").count().unwrap(), 200);
    let keyed = "SELECT count(*) <= 257 * 2, sum(denied), min(key LIKE 'hashed:%' OR key = '(other)') FROM limits
                  WHERE period_s = 60 AND key IS NOT NULL";
    let texts = texts(&l0.sql(keyed, &[]).unwrap());
    assert_eq!(texts, [["1", "975000", "1"]], "keys are told by their hashes, and those that are too many together");
}

#[test]
fn violations_are_told_once_and_summed_up_with_the_callers_correlation() {
    let limited = limited();
    let Limited { l0, time, .. } = &limited;
    let scope = l0.limits().define("s", ScopeConfig::new(Quota::per_hour(1)).keyed().public_keys()).unwrap();
    scope.check_key("k").unwrap();
    {
        let _scope = correlation::enter("order-9".parse().unwrap());
        for _ in 0..7 {
            assert!(scope.check_key("k").is_err());
        }
    }
    let first = &limited.events("limit.violation")[0];
    assert_eq!(first.correlation_id.as_deref(), Some("order-9"));
    assert_eq!((first.source.as_str(), first.status.as_deref()), ("l0.limits", Some("denied")));
    assert_eq!(first.field("retry_after_ms"), Some(Value::Integer(3_600_000)));
    assert!(first.message.contains("by s: retry after 3600s"), "{}", first.message);
    assert!(limited.events("limit.violations").is_empty());
    time.advance(MINUTE);
    l0.flush().unwrap();
    let sums = limited.events("limit.violations");
    assert_eq!((sums.len(), sums[0].field("denied")), (1, Some(Value::Integer(7))));
    // One alone has no sum, and a window that nobody has closed is by the next refusal.
    for refused in [1, 3, 1] {
        (0..refused).for_each(|_| assert!(scope.check_key("k").is_err()));
        time.advance(2 * MINUTE);
    }
    l0.flush().unwrap();
    assert_eq!(limited.events("limit.violation").len(), 4);
    let sums: Vec<_> = limited.events("limit.violations").iter().map(|event| event.field("denied")).collect();
    assert_eq!(sums, [Some(Value::Integer(7)), Some(Value::Integer(3))]);
    let trace = l0.trace("order-9").unwrap().unwrap();
    assert_eq!(trace.events[0].event_type, "limit.violation");
}

#[test]
fn a_budget_warns_once_when_a_share_of_it_is_used() {
    let limited = limited();
    let config = ScopeConfig::new(Quota::per_day(1_000_000)).keyed().public_keys().warn_at(0.8);
    let budget = limited.l0.limits().define("budget", config).unwrap();
    let warnings = || limited.events("limit.warning").len();
    budget.reserve(Some("acme"), 799_999).unwrap().commit();
    assert_eq!(warnings(), 0);
    budget.reserve(Some("acme"), 10_000).unwrap().commit_actual(1);
    assert_eq!(warnings(), 1);
    budget.reserve(Some("acme"), 1_000).unwrap().commit();
    assert_eq!(warnings(), 1);
    let warning = &limited.events("limit.warning")[0];
    assert_eq!(warning.status.as_deref(), Some("warned"));
    limited.time.advance(DAY);
    budget.reserve(Some("acme"), 1_000).unwrap().commit();
    budget.reserve(Some("acme"), 900_000).unwrap().commit();
    assert_eq!(warnings(), 2, "after it had fallen well below");
}

#[test]
fn usage_is_by_window_key_and_scope() {
    let limited = limited();
    let scope = limited.l0.limits().define("s", ScopeConfig::new(Quota::per_hour(100)).keyed()).unwrap();
    for (key, n, later) in [("a", 5, 10 * MINUTE), ("b", 7, HOUR), ("a", 11, 3 * DAY), ("a", 1, SECOND)] {
        scope.reserve(Some(key), n).unwrap().commit();
        limited.time.advance(later);
    }
    let usage = |key: &str, last| scope.usage(key, last).unwrap();
    assert_eq!([usage("a", MINUTE), usage("a", 4 * DAY), usage("b", 4 * DAY), usage("c", DAY)], [1, 17, 7, 0]);
    assert_eq!(usage("", 4 * DAY), 24);
    // What all share is counted once, from minute to minute, taken back and settled.
    let shared = limited.l0.limits().define("shared", ScopeConfig::new(Quota::per_hour(1_000))).unwrap();
    for _ in 0..5 {
        let permit = limited.l0.limits().reserve_all(&[shared.all().cost(3), scope.key("z")]).unwrap();
        let _ = permit.commit_actual(2);
        assert!(limited.l0.limits().check_all(&[shared.all(), scope.key("z").cost(200)]).is_err());
        limited.time.advance(MINUTE);
    }
    assert_eq!((shared.usage("", HOUR).unwrap(), scope.usage("z", HOUR).unwrap()), (10, 5));
    let report = limited.l0.limits().report(HOUR).unwrap();
    let counts = |name: &str| report.scopes.iter().find(|scope| scope.scope == name).unwrap().counts;
    assert_eq!((counts("shared").allowed, counts("shared").denied, counts("s").denied), (5, 0, 5));
    assert!(scope.usage("a", Duration::ZERO).unwrap_err().is_invalid_input());
}

#[test]
fn the_report_is_a_page_and_a_value() {
    let limited = limited();
    let limits = limited.l0.limits();
    let api = limits.define("api", ScopeConfig::new(Quota::per_minute(3)).keyed().public_keys()).unwrap();
    let dry = limits.define("dry", ScopeConfig::new(Quota::per_minute(1)).dry_run()).unwrap();
    let config = ScopeConfig::new(Quota::per_minute(1)).keyed().public_keys().lock_out(2, MINUTE, HOUR);
    let login = limits.define("login", config).unwrap();
    for _ in 0..5 {
        let _ = (api.check_key("ada"), dry.check(), login.check_key("eve"));
    }
    let _ = api.check_key("bob\x1b[31m");
    let report = limits.report(HOUR).unwrap();
    let text = report.to_string();
    for expected in ["login", "ada", "eve", "lock-outs", "latest violations", "(dry run)", "40.0 %", "80.0 %"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!text.contains('\x1b'), "a key is an outsider's text");
    let json = serde_json::to_value(&report).unwrap();
    let of_api = json["scopes"].as_array().unwrap().iter().find(|scope| scope["scope"] == "api").unwrap();
    assert_eq!(of_api["counts"], serde_json::json!({"allowed": 4, "denied": 2, "dry_run_denied": 0, "used": 4}));
    assert_eq!(of_api["top_keys"][0][0], "ada");
    limited.time.advance(2 * HOUR);
    assert!(limits.report(HOUR).unwrap().to_string().contains("no scope was asked"));
}

#[test]
fn debts_and_blocks_survive_a_restart_and_wrong_clocks_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let start_in = |dir: &std::path::Path, at: Timestamp| {
        let (clock, time) = Clock::manual(at);
        let l0 = builder(dir).clock(clock).start().unwrap();
        let config = ScopeConfig::new(Quota::per_day(24)).keyed();
        let scope = l0.limits().define("s", config).unwrap();
        (l0, time, scope)
    };
    let start = |at: Timestamp| start_in(dir.path(), at);
    let (l0, time, scope) = start(START);
    assert_eq!(passed(|| scope.check_key("k").is_ok(), 99), 24);
    scope.block("evil", Some(DAY));
    scope.block("worse", None);
    time.advance(HOUR);
    l0.shutdown(10 * SECOND).unwrap();
    let stored = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    let keys: String = stored.query_row("SELECT group_concat(key) FROM limit_account", [], |row| row.get(0)).unwrap();
    assert!(!keys.contains("evil") && keys.contains("hashed:"), "{keys}");
    // When it was, hours after it, long before it, long after it: never more than full, never less than it was.
    let hour = |hours: i64| Timestamp::from_unix_ns(START.as_unix_ns() + hours * HOUR.as_nanos() as i64);
    for (at, left) in [(hour(1), 1), (hour(7), 7), (hour(-1_000), 1), (hour(20), 20)] {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(dir.path().join("state.db"), copy.path().join("state.db")).unwrap();
        let (_l0, _, scope) = start_in(copy.path(), at);
        assert_eq!(scope.peek("k").remaining(), left, "at {at}");
        assert_eq!(scope.peek("other").remaining(), 24);
        assert!(matches!(scope.check_key("evil"), Err(Denied::Blocked { until: Some(_), .. })));
        assert!(matches!(scope.check_key("worse"), Err(Denied::Blocked { until: None, .. })));
    }
    let (l0, _, scope) = start(hour(1_000));
    assert_eq!(scope.peek("k").remaining(), 24);
    scope.check_key("evil").unwrap();
    scope.unblock("worse");
    scope.check_key("worse").unwrap();
    l0.shutdown(10 * SECOND).unwrap();
    let (_l0, _, scope) = start(hour(1_001));
    scope.check_key("worse").unwrap();
}

#[test]
fn a_block_is_saved_at_once_and_counts_come_without_being_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = l0::builder().dir(dir.path()).commit_every(Duration::from_millis(10)).start().unwrap();
    let scope = l0.limits().define("s", ScopeConfig::new(Quota::per_day(2)).keyed().public_keys()).unwrap();
    scope.block("evil", None);
    let _ = (scope.check_key("a"), scope.check_key("a"), scope.check_key("a"));
    let count = |db: &str, sql: &str| {
        let open =
            rusqlite::Connection::open_with_flags(dir.path().join(db), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
        open.and_then(|db| db.query_row(sql, [], |row| row.get::<_, i64>(0))).unwrap_or(0)
    };
    wait_for("the block", || count("state.db", "SELECT count(*) FROM limit_account WHERE key = 'evil'") == 1);
    wait_for("the counts", || {
        count("telemetry.db", "SELECT sum(allowed + denied) FROM limits WHERE period_s = 60") == 3
    });
    // As after a kill: the first is never told of its end.
    let next = l0::builder().dir(dir.path()).start().unwrap();
    let again = next.limits().define("s", ScopeConfig::new(Quota::per_day(2)).keyed().public_keys()).unwrap();
    assert!(matches!(again.check_key("evil"), Err(Denied::Blocked { .. })));
    std::mem::forget(l0);
}

/// The process that dies; does nothing unless it is told where.
#[test]
fn one_that_dies() {
    let Some(dir) = std::env::var_os("L0_TEST_DIES_IN").map(std::path::PathBuf::from) else { return };
    let l0 = builder(&dir).start().unwrap();
    let scope = l0.limits().define("s", ScopeConfig::new(Quota::per_day(2)).keyed().public_keys()).unwrap();
    let _scope = correlation::enter("order-9".parse().unwrap());
    for _ in 0..5 {
        let _ = scope.check_key("ada");
    }
    scope.block("evil", None);
    let is_saved = || {
        let state = rusqlite::Connection::open(dir.join("state.db")).unwrap();
        let saved = "SELECT count(*) FROM limit_account";
        state.query_row(saved, [], |row| row.get::<_, i64>(0)).unwrap_or(0) == 2
    };
    wait_for("the first saving", is_saved);
    std::process::abort();
}

#[test]
fn a_death_forgets_at_most_what_came_after_the_last_saving() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "one_that_dies", "--nocapture"]).env("L0_TEST_DIES_IN", dir.path());
    let output = child.output().unwrap();
    assert!(!output.status.success(), "it dies");
    let l0 = builder(dir.path()).start().unwrap();
    let scope = l0.limits().define("s", ScopeConfig::new(Quota::per_day(2)).keyed().public_keys()).unwrap();
    assert!(matches!(scope.check_key("ada"), Err(Denied::RetryAfter { .. })), "no free refill");
    assert!(matches!(scope.check_key("evil"), Err(Denied::Blocked { .. })));
    let report = l0.limits().report(HOUR).unwrap();
    let counts = report.scopes[0].counts;
    assert_eq!((counts.allowed, counts.denied), (2, 3 + 2), "what was counted before the death is there once");
    let told = l0.events().event_type("limit.violation").correlation_id("order-9").count().unwrap();
    assert_eq!(told, 1, "what was told survives as any record");
}

#[test]
fn two_processes_count_into_one_report() {
    let dir = tempfile::tempdir().unwrap();
    let start = || builder(dir.path()).clock(Clock::manual(START).0).start().unwrap();
    let (one, other) = (start(), start());
    for l0 in [&one, &other] {
        let scope = l0.limits().define("s", ScopeConfig::new(Quota::per_day(3)).keyed().public_keys()).unwrap();
        assert_eq!(passed(|| scope.check_key("k").is_ok(), 5), 3, "each has its own buckets");
        l0.flush().unwrap();
    }
    one.shutdown(10 * SECOND).unwrap();
    let report = other.limits().report(HOUR).unwrap();
    assert_eq!((report.scopes[0].counts.allowed, report.scopes[0].counts.denied), (6, 4));
    assert_eq!(report.scopes[0].top_keys[0].1, report.scopes[0].counts);
}

#[test]
fn after_the_end_limits_go_on_and_nothing_is_told() {
    let Limited { l0, time, dir: _dir } = limited();
    let handle = l0.clone();
    let scope = handle.limits().define("s", ScopeConfig::new(Quota::per_second(2))).unwrap();
    l0.shutdown(10 * SECOND).unwrap();
    assert_eq!(passed(|| scope.check().is_ok(), 5), 2);
    time.advance(SECOND);
    assert_eq!(passed(|| scope.check().is_ok(), 5), 2);
    assert!(handle.limits().report(HOUR).unwrap().scopes.is_empty(), "the store has what was told before the end");
    assert_eq!(handle.stats().limits[0].denied, 6);
}

#[test]
fn a_flood_of_keys_locks_nobody_out_who_did_nothing_and_gives_nobody_a_second_burst() {
    let Limited { l0, time, dir: _dir } = limited();
    let config = ScopeConfig::new(Quota::per_minute(3)).keyed().max_keys(1).lock_out(3, MINUTE, HOUR);
    let scope = l0.limits().define("s", config).unwrap();
    scope.check_key("first").unwrap();
    let flood = passed(|| scope.check_key("flood").is_ok(), 20);
    assert_eq!(flood, 3, "the bucket of those without a place");
    assert!(matches!(scope.check_key("stranger"), Err(Denied::RetryAfter { .. })), "drained, not locked out");
    time.advance(20 * SECOND);
    // The first key is forgotten, and the flood gets its place: with what it owes.
    assert_eq!(passed(|| scope.check_key("flood").is_ok(), 20), 1);
    time.advance(MINUTE);
    assert_eq!(l0.stats().limits[0].keys, 1);
}

#[test]
fn what_is_taken_back_is_taken_back_where_it_was_charged() {
    let Limited { l0, dir: _dir, .. } = limited();
    let limits = l0.limits();
    let scope = limits.define("s", ScopeConfig::new(Quota::per_minute(3)).keyed().max_keys(1)).unwrap();
    let none = limits.define("none", ScopeConfig::new(Quota::per_day(1))).unwrap();
    scope.check_key("a").unwrap();
    none.check().unwrap();
    assert_eq!(passed(|| scope.check_key("b").is_ok(), 9), 3);
    for _ in 0..3 {
        assert!(limits.check_all(&[scope.key("z").cost(0), scope.key("b"), none.all()]).is_err());
        assert!(limits.check_all(&[scope.key("a"), scope.key("c").cost(0), none.all()]).is_err());
    }
    assert_eq!((passed(|| scope.check_key("b").is_ok(), 9), scope.peek("a").remaining()), (0, 2));
}

#[test]
fn a_bucket_that_is_asked_twice_in_one_decision_says_when_both_pass() {
    let Limited { l0, time, dir: _dir } = limited();
    let limits = l0.limits();
    let scope = limits.define("s", ScopeConfig::new(Quota::per_minute(3))).unwrap();
    let too_much = limits.check_all(&[scope.all().cost(2), scope.all().cost(2)]).unwrap_err();
    assert!(matches!(too_much, Denied::ExceedsBurst { .. }), "{too_much}");
    assert_eq!(passed(|| scope.check().is_ok(), 2), 2);
    let denied = limits.check_all(&[scope.all().cost(2), scope.all()]).unwrap_err();
    assert_eq!((denied.retry_after(), scope.peek("").remaining()), (Some(40 * SECOND), 1));
    time.advance(40 * SECOND);
    limits.check_all(&[scope.all().cost(2), scope.all()]).unwrap();
}

#[test]
fn in_a_scope_that_all_share_a_lock_out_is_of_all_and_a_block_of_one_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let start = |at: Timestamp| builder(dir.path()).clock(Clock::manual(at).0).start().unwrap();
    let define = |l0: &L0| {
        let shared = ScopeConfig::new(Quota::per_minute(2)).lock_out(2, MINUTE, HOUR);
        let keyed = ScopeConfig::new(Quota::per_day(100)).keyed().max_keys(2);
        (l0.limits().define("shared", shared).unwrap(), l0.limits().define("keyed", keyed).unwrap())
    };
    let l0 = start(START);
    let (shared, keyed) = define(&l0);
    shared.block("evil", None);
    keyed.block("evil", None);
    keyed.set_key_quota("vip", Quota::per_day(3_000));
    keyed.reserve(Some("vip"), 2_900).unwrap().commit();
    l0.shutdown(10 * SECOND).unwrap();
    let l0 = start(START.saturating_add(MINUTE));
    let (shared, keyed) = define(&l0);
    let is_blocked = |answer: Result<_, Denied>| matches!(answer, Err(Denied::Blocked { .. }));
    assert!(is_blocked(shared.check_key("evil")) && shared.check_key("good").is_ok());
    (0..9).for_each(|n| assert!(!is_blocked(keyed.check_key(&format!("flood-{n}")))));
    assert!(is_blocked(keyed.check_key("evil")), "a full table forgets no block");
    keyed.set_key_quota("vip", Quota::per_day(3_000));
    assert!((100..110).contains(&keyed.peek("vip").remaining()), "a quota of its own is no refill");
    while !is_blocked(shared.check()) {}
    assert!(is_blocked(shared.check_key("good")), "the bucket that all share is locked");
    shared.unblock("");
    shared.unblock("evil");
    keyed.unblock("evil");
    l0.shutdown(10 * SECOND).unwrap();
    let l0 = start(START.saturating_add(2 * MINUTE));
    let (shared, keyed) = define(&l0);
    assert!(!is_blocked(shared.check_key("evil")) && !is_blocked(keyed.check_key("evil")));
}

#[test]
fn usage_and_refunds_outlive_that_a_key_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, time) = Clock::manual(START);
    let l0 = builder(dir.path()).clock(clock).start().unwrap();
    let config = || ScopeConfig::new(Quota::per_second(100)).keyed().public_keys();
    let scope = l0.limits().define("s", config()).unwrap();
    let daily = l0.limits().define("daily", ScopeConfig::new(Quota::per_day(100)).keyed().max_keys(2)).unwrap();
    scope.reserve(Some("acme"), 50).unwrap().commit();
    let permit = daily.reserve(Some("acme"), 100).unwrap();
    l0.limits().report(HOUR).unwrap();
    permit.refund();
    time.advance(2 * SECOND);
    for n in 0..300 {
        let _ = (scope.check_key(&format!("other-{n}")), daily.check_key(&format!("other-{n}")));
    }
    assert_eq!(scope.usage("acme", HOUR).unwrap(), 50);
    l0.shutdown(10 * SECOND).unwrap();
    let l0 = builder(dir.path()).clock(Clock::manual(START.saturating_add(MINUTE)).0).start().unwrap();
    let daily = l0.limits().define("daily", ScopeConfig::new(Quota::per_day(100)).keyed().max_keys(2)).unwrap();
    assert_eq!(daily.peek("acme").remaining(), 100);
}

#[test]
fn a_flood_of_keys_into_a_small_store_leaves_room_for_everything_else() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, time) = Clock::manual(START);
    let retention = l0::Retention::default().max_bytes(8 << 20);
    let l0 = builder(dir.path()).clock(clock).retention(retention).start().unwrap();
    let scope = l0.limits().define("s", ScopeConfig::new(Quota::per_minute(5)).keyed()).unwrap();
    l0.record(l0::TelemetryEvent::new("before"));
    for minute in 0..40_u64 {
        for poll in 0..3 {
            for n in 0..500 {
                let _ = scope.check_key(&format!("{minute}-{poll}-{n}"));
            }
            l0.limits().report(MINUTE).unwrap();
        }
        time.advance(MINUTE);
    }
    l0.flush().unwrap();
    l0.cleanup(false).unwrap();
    let most = "SELECT max(n) FROM (SELECT count(*) AS n FROM limits WHERE period_s = 60 GROUP BY start_unix_s)";
    assert!(l0.sql(most, &[]).unwrap().rows[0][0].to_string().parse::<u32>().unwrap() <= 258);
    let report = l0.limits().report(2 * HOUR).unwrap();
    assert_eq!(report.scopes[0].counts.allowed, 40 * 3 * 500, "the scope's own sum stays");
    assert_eq!(l0.events().event_type("before").count().unwrap(), 1);
    assert!(l0.summary(2 * HOUR).unwrap().by_type.iter().any(|(kind, _)| kind == "before"));
    assert!(l0.stats().store.bytes() <= 8 << 20);
    let store = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    let size = "SELECT (SELECT sum(rollup_bytes) FROM run),
                       (SELECT sum(48 + ifnull(octet_length(durations), 0)) FROM rollup)
                     + (SELECT sum(40 + octet_length(scope) + octet_length(key)) FROM limit_count)";
    let (counted, real): (i64, i64) = store.query_row(size, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(counted, real, "the size is known without looking");
    assert!(real <= (8 << 20) / 10);
}

#[test]
fn threads_on_scopes_add_up_while_permits_come_and_go() {
    let Limited { l0, dir: _dir, .. } = limited();
    let limits = l0.limits();
    let wide = limits.define("wide", ScopeConfig::new(Quota::per_second(1).burst(3_000))).unwrap();
    let keyed = limits.define("keyed", ScopeConfig::new(Quota::per_second(1).burst(500)).keyed()).unwrap();
    let used: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4_u64)
            .map(|thread| {
                let (wide, keyed) = (&wide, &keyed);
                scope.spawn(move || {
                    let mut used = 0;
                    for n in 0..2_000_u64 {
                        let key = format!("k{}", (n + thread) % 5);
                        // In different orders: no two wait for each other.
                        let charges = [wide.all(), keyed.key(&key)];
                        let charges = if thread % 2 == 0 { charges } else { [charges[1], charges[0]] };
                        let Ok(permit) = limits.reserve_all(&charges) else { continue };
                        if n % 2 == 0 {
                            permit.refund();
                        } else {
                            used += 1;
                            let _ = permit.commit();
                        }
                    }
                    used
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let left: u64 = (0..5).map(|key| keyed.peek(&format!("k{key}")).remaining()).sum();
    assert_eq!((used + left, used + wide.peek("").remaining()), (2_500, 3_000));
}

#[test]
fn decisions_over_two_stores_go_by_their_own_clocks() {
    let (one, other) = (limited(), limited());
    let config = || ScopeConfig::new(Quota::per_minute(1));
    let (a, b) = (one.l0.limits().define("a", config()).unwrap(), other.l0.limits().define("b", config()).unwrap());
    b.check().unwrap();
    one.time.advance(365 * DAY);
    let denied = one.l0.limits().check_all(&[a.all(), b.all()]).unwrap_err();
    assert_eq!((denied.decision().scope(), denied.retry_after()), (Some("b"), Some(MINUTE)));
    assert_eq!(a.peek("").remaining(), 1);
}

#[test]
fn a_state_that_is_locked_does_not_hold_up_the_end() {
    let Limited { l0, dir, .. } = limited();
    let scope = l0.limits().define("s", ScopeConfig::new(Quota::per_day(5))).unwrap();
    scope.check().unwrap();
    scope.block("evil", None);
    let other = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    l0.shutdown(SECOND).unwrap();
    let told = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    let counted: i64 =
        told.query_row("SELECT sum(allowed) FROM limits WHERE period_s = 60", [], |row| row.get(0)).unwrap();
    assert_eq!(counted, 1, "what was counted does not depend on it");
}

#[test]
fn what_strangers_used_is_told_of_nobody_by_name() {
    let Limited { l0, time, dir: _dir } = limited();
    let config = ScopeConfig::new(Quota::per_hour(10)).keyed().public_keys().max_keys(1);
    let scope = l0.limits().define("narrow", config).unwrap();
    scope.check_key("first").unwrap();
    // There is no room for these.
    assert_eq!(passed(|| scope.check_key("second").is_ok(), 3) + passed(|| scope.check_key("third").is_ok(), 2), 5);
    time.advance(MINUTE);
    scope.check_key("fourth").unwrap();
    scope.reserve(Some("fifth"), 3).unwrap().commit_actual(1);
    time.advance(MINUTE);
    let used = |key: &str| scope.usage(key, HOUR).unwrap();
    let told = ["first", "second", "third", "fourth", "fifth", "(other)", ""].map(used);
    assert_eq!(told, [1, 0, 0, 0, 0, 7, 8]);
}

#[test]
fn a_decision_that_is_refused_counts_nothing_though_an_account_of_it_is_gone() {
    let Limited { l0, dir: _dir, .. } = limited();
    let limits = l0.limits();
    let narrow = ScopeConfig::new(Quota::per_hour(10)).keyed().exempt("free").max_keys(1);
    let narrow = limits.define("narrow", narrow).unwrap();
    let used_up = limits.define("used-up", ScopeConfig::new(Quota::per_hour(1))).unwrap();
    used_up.check().unwrap();
    // Who is exempt owes nothing, so the second key takes its place.
    limits.check_all(&[narrow.key("free"), narrow.key("other"), used_up.all()]).unwrap_err();
    let unasked = limits.define("unasked", ScopeConfig::new(Quota::per_hour(10)).keyed().max_keys(1)).unwrap();
    limits.check_all(&[unasked.all().cost(0), unasked.key("other"), used_up.all()]).unwrap_err();
    let stats = limits.stats();
    let of = |name: &str| stats.iter().find(|stats| stats.scope == name).map(|stats| (stats.allowed, stats.used));
    assert_eq!([of("narrow"), of("unasked"), of("used-up")], [Some((0, 0)), Some((0, 0)), Some((1, 1))]);
    // One that does pass is told, and no less for those before.
    unasked.check().unwrap();
    for of in limits.report(HOUR).unwrap().scopes {
        let expected = if of.scope == "narrow" { (0, 0) } else { (1, 1) };
        assert_eq!((of.counts.allowed, of.counts.used), expected, "{}", of.scope);
    }
}

#[test]
fn keys_of_a_scope_that_come_and_go_between_threads_get_no_more_than_theirs() {
    const KEYS: usize = 60;
    const STEPS: usize = 10;
    let Limited { l0, time, dir: _dir } = limited();
    let config = ScopeConfig::new(Quota::per_second(10).burst(3)).keyed().max_keys(40);
    let scope = l0.limits().define("busy", config).unwrap();
    let passed: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let rounds = KEYS * 100;
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let (scope, time, passed) = (&scope, &time, &passed);
            threads.spawn(move || {
                let mut state = thread + 1_u64;
                for round in 0..rounds {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let key = (state >> 33) as usize % KEYS;
                    passed[key].fetch_add(u64::from(scope.check_key(&key.to_string()).is_ok()), Ordering::Relaxed);
                    if thread == 0 && round % (rounds / STEPS) == rounds / STEPS / 2 {
                        time.advance(Duration::from_millis(100));
                    }
                }
            });
        }
    });
    let most = passed.iter().map(|passed| passed.load(Ordering::Relaxed)).max().unwrap();
    assert!(most <= 3 + STEPS as u64, "{most} of a key that was asked for some 400 times");
    let stats = l0.limits().stats();
    let sum: u64 = passed.iter().map(|passed| passed.load(Ordering::Relaxed)).sum();
    assert_eq!((stats[0].allowed, stats[0].allowed + stats[0].denied), (sum, 4 * rounds as u64));
}
