//! Limits: who may pass, how often, and what is told of it. An afternoon in a second, on a clock that is moved by hand.
//!
//! `cargo run --release --example limits`

use std::{error::Error, time::Duration};

use l0::{
    Clock, Timestamp,
    correlation::{self, CorrelationId},
    limits::{Denied, Quota, ScopeConfig, TokenBucket},
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

fn main() -> Result<(), Box<dyn Error>> {
    println!("-- a bucket by itself: no store, no thread");
    let bucket = TokenBucket::new(Quota::per_second(5).burst(3));
    for n in 1..=4 {
        match bucket.check() {
            Ok(decision) => println!("check {n}: passes, {} left", decision.remaining()),
            Err(denied) => println!("check {n}: {denied}"),
        }
    }

    let dir = std::env::temp_dir().join(format!("l0-limits-{}", std::process::id()));
    let (clock, time) = Clock::manual(Timestamp::from_unix_ns(1_700_000_000_000_000_000));
    let l0 = l0::builder().dir(&dir).service("shop").clock(clock).start()?;
    let limits = l0.limits();

    println!("\n-- one decision over three scopes: all are charged, or none");
    let (global, api) = (limits.scope("global")?, limits.scope("api")?);
    let reports = limits.define("reports", ScopeConfig::new(Quota::per_hour(4).burst(2)).keyed())?;
    for n in 1..=3 {
        let _scope = correlation::enter(format!("report-{n}").parse::<CorrelationId>()?);
        match limits.check_all(&[reports.key("acme"), api.key("acme"), global.all()]) {
            Ok(decision) => println!("report {n}: passes, tightest is {:?}", decision.scope().unwrap_or_default()),
            Err(denied) => {
                println!("report {n}: HTTP 429");
                for (name, value) in denied.headers() {
                    println!("    {name}: {value}");
                }
            }
        }
    }
    println!("charged on global: {}", 1_000 - global.peek("").remaining());

    println!("\n-- only failed logins count, and five of them within an hour lock out");
    let config = ScopeConfig::new(Quota::per_minute(10).burst(3)).keyed().public_keys().lock_out(5, HOUR, HOUR);
    let login = limits.define("login", config)?;
    let mut told = String::new();
    for attempt in 0..20 {
        for (who, password_is_right) in [("203.0.113.9", false), ("198.51.100.7", true)] {
            let answer = match login.reserve(Some(who), 1) {
                // A right password costs nothing: what was charged on trial is given back.
                Ok(attempt) if password_is_right => {
                    attempt.refund();
                    "welcome".to_owned()
                }
                Ok(attempt) => {
                    let _ = attempt.commit();
                    "wrong password".to_owned()
                }
                Err(Denied::Blocked { .. }) => "locked out".to_owned(),
                Err(denied) => denied.to_string(),
            };
            if !password_is_right && answer != told {
                println!("{who} at {:>2} s: {answer}", attempt * 2);
                told = answer;
            }
        }
        time.advance(Duration::from_secs(2));
    }
    println!("198.51.100.7 has {} of 3 left", login.peek("198.51.100.7").remaining());

    println!("\n-- a new limit is tried in dry run first, and a flood adds few rows");
    let search = limits.define("search", ScopeConfig::new(Quota::per_minute(60)).keyed().dry_run())?;
    let mut would_be_denied = 0;
    for n in 0..100_000_u32 {
        would_be_denied +=
            u32::from(search.check_key(&format!("10.0.0.{}", n % 50)).is_ok_and(|d| d.is_dry_run_denial()));
    }
    println!("{would_be_denied} of 100000 would have been denied; {} rows were recorded", l0.events().count()?);

    time.advance(MINUTE);
    println!("\n-- the report\n{}", limits.report(HOUR)?);
    l0.shutdown(Duration::from_secs(5))?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
