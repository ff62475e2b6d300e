//! A day of requests, simulated: what questions are asked of.

use std::time::Duration;

use l0::{Clock, Overload, Timestamp};
use tempfile::TempDir;
use tracing::{error, info, info_span, warn};
use tracing_subscriber::prelude::*;

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(crate) const EVENTS_A_REQUEST: u64 = 10;

/// A day that ends now, of requests of two spans and ten events each, one in a hundred failing.
pub(crate) fn store(requests: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hand) = Clock::manual(Timestamp::now().saturating_sub(DAY));
    let l0 = l0::builder()
        .dir(dir.path())
        .filter("info")
        .clock(clock)
        .retention(l0::Retention::default().max_bytes(64 << 30))
        .overload(Overload::Block(Duration::from_secs(60)))
        .start()
        .unwrap();
    let step = Duration::from_nanos(u64::try_from(DAY.as_nanos()).unwrap() / requests.max(1) / 4);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(l0.layer()), || {
        for n in 0..requests {
            let _request = info_span!("request", correlation_id = format!("request-{n}"), tenant_id = "acme").entered();
            info!(target: "shop::web", method = "GET", path = "/orders", "request began");
            hand.advance(step);
            {
                let _query = info_span!("query", table = "orders").entered();
                for row in 0..4 {
                    info!(target: "shop::store", row, "row read");
                }
                hand.advance(step + Duration::from_nanos(n % 1_000 * 100));
            }
            info!(target: "shop::billing", order = n, cents = n * 7 % 10_000, "order {n} billed");
            info!(target: "shop::mail", "mail queued");
            if n % 100 == 0 {
                error!(target: "shop::billing", "card refused");
            } else {
                info!(target: "shop::billing", "card charged");
            }
            if n % 20 == 0 {
                warn!(target: "shop::stock", left = n % 5, "stock is low");
            } else {
                info!(target: "shop::stock", "stock counted");
            }
            hand.advance(step);
            info!(target: "shop::web", status = 200, "request ended");
        }
    });
    l0.flush().unwrap();
    let stats = l0.stats();
    assert_eq!((stats.shed, stats.stored), (0, requests * (EVENTS_A_REQUEST + 2)), "nothing is left out");
    l0.shutdown(Duration::from_secs(60)).unwrap();
    dir
}
