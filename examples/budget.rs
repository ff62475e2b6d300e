//! Budgets: a million tokens a day for each tenant, charged before the cost is known and settled with what it was; over a
//! restart, too.
//!
//! `cargo run --release --example budget`

use std::{error::Error, path::Path, time::Duration};

use l0::{
    Clock, L0, ManualClock, Timestamp,
    limits::{Quota, Scope, ScopeConfig},
};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// What an answer costs at most: charged on trial.
const ANSWER_MAX: u64 = 8_000;
const MORNING: i64 = 1_700_035_200_000_000_000;

fn start(dir: &Path, at_unix_ns: i64) -> Result<(L0, ManualClock, Scope, Scope), Box<dyn Error>> {
    let (clock, time) = Clock::manual(Timestamp::from_unix_ns(at_unix_ns));
    let l0 = l0::builder().dir(dir).service("assistant").clock(clock).start()?;
    let budget = ScopeConfig::new(Quota::per_day(1_000_000)).keyed().public_keys().warn_at(0.8);
    let tokens = l0.limits().define("tokens", budget)?;
    let calls = l0.limits().define("calls", ScopeConfig::new(Quota::per_minute(600)))?;
    Ok((l0, time, tokens, calls))
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("l0-budget-{}", std::process::id()));
    let (l0, time, tokens, calls) = start(&dir, MORNING)?;
    tokens.set_key_quota("globex", Quota::per_day(3_000_000)); // who pays for more

    let (mut answered, mut failed, mut denied) = (0_u64, 0_u64, 0_u64);
    for question in 0..1_500_u64 {
        let tenant = ["acme", "globex", "initech"][question as usize % 3];
        // Both scopes are charged, or neither. Should the model fail, everything is given back.
        let permit = match l0.limits().reserve_all(&[tokens.key(tenant).cost(ANSWER_MAX), calls.all()]) {
            Ok(permit) => permit.refund_on_drop(),
            Err(no) => {
                denied += 1;
                if denied == 1 {
                    println!("{tenant} at question {question}: {no}");
                }
                continue;
            }
        };
        time.advance(Duration::from_secs(2));
        match model(question) {
            Some(cost) => {
                answered += 1;
                let _ = permit.commit_actual(cost);
            }
            None => failed += 1,
        }
    }
    let asked = answered + failed;
    println!("{answered} answered, {failed} failed and cost nothing, {denied} denied\n");

    println!("tenant    used in 24 h     left now   full again in");
    for tenant in ["acme", "globex", "initech"] {
        let now = tokens.peek(tenant);
        let (used, left) = (tokens.usage(tenant, DAY)?, now.remaining());
        println!("{tenant:<9} {used:>11} {left:>12}   {:>6.1} h", now.reset_after().as_secs_f64() / 3_600.0);
    }
    println!("\n{}", l0.limits().report(DAY)?);

    let before = tokens.peek("acme").remaining();
    l0.shutdown(Duration::from_secs(5))?;
    // Three hours later the program is started again: the day goes on where it was.
    let later = MORNING + (Duration::from_secs(asked * 2) + 3 * HOUR).as_nanos() as i64;
    let (l0, _time, tokens, _calls) = start(&dir, later)?;
    println!("acme had {before} left, and three hours and a restart later {}", tokens.peek("acme").remaining());
    l0.shutdown(Duration::from_secs(5))?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// What an answer costs; some fail.
fn model(question: u64) -> Option<u64> {
    (question % 19 != 7).then_some(1_000 + question * 7_919 % 5_000)
}
