//! A shop to look at with the command `l0`: it takes orders until it is stopped, or so many on a simulated day.
//!
//! ```text
//! shop                              an order every 50 ms, until Ctrl-C or kill -9
//! shop 2000                         two thousand orders of a day that ends now, as fast as they can be recorded
//! shop 2000 2026-11-20T08:00:00Z    the same of a day that begins then, the same on every machine
//! ```

use std::{env, fmt, thread, time::Duration};

use l0::{Clock, ManualClock, Overload, Retention, TelemetryEvent, Timestamp};
use tracing::{Span, debug, error, field, info, info_span, warn};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
    let orders: Option<u64> = args.next().map(|text| text.parse()).transpose()?;
    let begin: Option<jiff::Timestamp> = args.next().map(|text| text.parse()).transpose()?;
    let builder = l0::builder().service("shop").version("1.4.2").default_filter("info");
    let (builder, time) = match orders {
        None => (builder, Time::Real),
        Some(_) => {
            let begin = match begin {
                Some(begin) => Timestamp::from_unix_ns(i64::try_from(begin.as_nanosecond())?),
                None => Timestamp::now().saturating_sub(DAY),
            };
            let (clock, hand) = Clock::manual(begin);
            // A day in a second is more than the writer stores in one: wait for it rather than shed.
            let builder = builder.clock(clock).overload(Overload::Block(Duration::from_secs(60)));
            (builder.retention(Retention::default().max_bytes(1 << 30)), Time::Simulated(hand))
        }
    };
    let l0 = builder.install()?;
    let dir = l0.dir().display().to_string();
    match orders {
        None => {
            println!("Process {} takes orders into {dir}, until Ctrl-C. In another shell:", std::process::id());
            println!("  cargo run --release --features cli -- tail -f --dir {dir}");
            let mut shop = Shop { time, numbers: 7 };
            for order in 1.. {
                shop.take(order);
                shop.time.pass(Duration::from_millis(50));
            }
            Ok(())
        }
        Some(orders) => {
            let mut shop = Shop { time, numbers: 7 };
            for order in 1..=orders {
                shop.take(order);
                // Two thirds of the day are work.
                shop.time.pass(DAY / u32::try_from(orders)?.max(1) / 3);
            }
            l0.record(
                TelemetryEvent::new("shop.closed").source("shop").payload(&serde_json::json!({ "orders": orders })),
            );
            // However long the disk takes.
            let handle = (*l0).clone();
            l0.shutdown(Duration::from_secs(600))?;
            let stats = handle.stats();
            println!(
                "{orders} orders: {} records stored, {} shed, into {dir}. What to try next:",
                stats.stored, stats.shed
            );
            for question in ["status", "errors", "spans", "traces --slowest", "trace order-7", "logs level:warn"] {
                println!("  cargo run --release --features cli -- {question} --dir {dir}");
            }
            Ok(())
        }
    }
}

enum Time {
    Real,
    Simulated(ManualClock),
}

impl Time {
    fn pass(&self, d: Duration) {
        match self {
            Self::Real => thread::sleep(d),
            Self::Simulated(hand) => hand.advance(d),
        }
    }
}

struct Shop {
    time: Time,
    numbers: u64,
}

impl Shop {
    /// The same numbers each time: what is found in one store is found in another.
    fn number(&mut self, below: u64) -> u64 {
        self.numbers = self.numbers.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (self.numbers >> 33) % below
    }

    fn work(&mut self, from_us: u64, to_us: u64) {
        let us = from_us + self.number(to_us - from_us);
        self.time.pass(Duration::from_micros(us));
    }

    fn take(&mut self, order: u64) {
        let id = format!("order-{order}");
        let tenant = ["north", "south", "web"][(order % 3) as usize];
        let span = info_span!("order", correlation_id = id, tenant_id = tenant, order, status = field::Empty).entered();
        let items = 3 + self.number(7);
        info!(items, "order placed");
        self.check_stock(items);
        let cents = 500 + self.number(20_000);
        match self.charge(order, cents) {
            Ok(()) => {
                self.pack(items);
                info!(cents, "order shipped");
            }
            Err(cause) => {
                Span::current().record("status", "error");
                error!(error = &cause as &dyn std::error::Error, "order refused");
            }
        }
        drop(span);
    }

    fn check_stock(&mut self, items: u64) {
        let _span = info_span!("check_stock", items).entered();
        debug!("asking the warehouse");
        self.work(500, 4_000);
        let left = self.number(400);
        if left < 10 {
            warn!(left, item = self.number(80), "stock is low");
        }
    }

    fn charge(&mut self, order: u64, cents: u64) -> Result<(), Refused> {
        let _span = info_span!("charge", cents).entered();
        self.work(8_000, 60_000);
        match self.number(100) {
            0 => {
                self.work(2_900_000, 3_000_000);
                error!("the gateway did not answer order {order} within 3000 ms");
                Err(Refused("no answer from the gateway"))
            }
            1..4 => {
                error!(card = "ends in 42", "card declined for {cents} cents");
                Err(Refused("the card was declined"))
            }
            _ => Ok(()),
        }
    }

    fn pack(&mut self, items: u64) {
        let _span = info_span!("pack").entered();
        for item in 1..=items {
            self.work(300, 2_500);
            info!(item, shelf = self.number(80), "item packed");
        }
    }
}

#[derive(Debug)]
struct Refused(&'static str);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Refused {}
