//! One bucket: checks without a lock, waits in line, charges on trial.

use std::{fmt, time::Duration};

use parking_lot::{Condvar, Mutex};

use super::{
    decision::{Decision, Denied},
    ledger::{Held, Ledger},
    level::{Changed, Level, Seen},
    permit::Permit,
    quota::{Quota, Rate, Refused},
};
use crate::{
    clock::{Clock, deadline},
    sync::{AtomicU64, Ordering},
};

/// How often who waits looks at a clock that is moved by hand.
const MANUAL_LOOKS: Duration = Duration::from_millis(1);

/// A token bucket: so many at once, so many a period, decided in a few nanoseconds by any number of threads.
///
/// Works by itself: no store, no [`L0`](crate::L0). Begins full.
///
/// ```
/// use l0::limits::{Quota, TokenBucket};
/// use std::time::Duration;
///
/// let (clock, time) = l0::Clock::manual(l0::Timestamp::from_unix_ns(0));
/// let bucket = TokenBucket::with_clock(Quota::per_second(10).burst(2), clock);
/// assert!(bucket.check().is_ok() && bucket.check().is_ok());
/// let denied = bucket.check().unwrap_err();
/// assert_eq!(denied.retry_after(), Some(Duration::from_millis(100)));
/// time.advance(Duration::from_millis(100));
/// assert!(bucket.check().is_ok());
/// ```
pub struct TokenBucket {
    shared: SharedBucket,
    clock: Clock,
    /// Held from a look at the level to the wait for its move.
    looking: Mutex<()>,
    moved: Condvar,
    /// How many wait.
    waiting: AtomicU64,
}

/// What threads meet at; time is given by the caller.
#[derive(Debug)]
pub(super) struct SharedBucket {
    level: Level,
    /// Who charges on trial, gives back or changes the quota has it.
    book: crate::sync::Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    quota: Quota,
    ledger: Ledger,
    /// Tokens that are owed beyond what a bucket can.
    excess: u64,
}

impl SharedBucket {
    pub(super) fn new(quota: Quota) -> Self {
        let book = Book { quota, ledger: Ledger::default(), excess: 0 };
        Self { level: Level::new(Rate::of(quota)), book: crate::sync::Mutex::new(book) }
    }

    #[inline]
    pub(super) fn take(&self, now_ns: u64, n: u64) -> Result<Decision, Denied> {
        match self.level.take_at_once(now_ns, n) {
            Some(Seen { rate, full_at, now }) => Ok(Decision::new(rate, full_at, now)),
            None => self.take_aside(now_ns, n),
        }
    }

    #[inline(never)]
    fn take_aside(&self, now_ns: u64, n: u64) -> Result<Decision, Denied> {
        decided(self.level.take(now_ns, n), n)
    }

    pub(super) fn look(&self, now_ns: u64) -> Decision {
        let seen = self.level.look(now_ns);
        Decision::new(seen.rate, seen.full_at, seen.now)
    }

    pub(super) fn reserve(&self, now_ns: u64, n: u64) -> Result<(Decision, Held), Denied> {
        let mut book = self.book.lock();
        let taken = self.level.take(now_ns, n);
        decided(taken, n).map(|decision| (decision, book.ledger.hold(n, full_at(taken))))
    }

    /// The same of who waits until its turn has come: all before it are in the level, and nobody behind it can pass.
    fn reserve_ahead(&self, now_ns: u64, n: u64) -> Result<Held, Denied> {
        let mut book = self.book.lock();
        let taken = self.level.take_ahead(now_ns, n);
        decided(taken, n).map(|_| book.ledger.hold(n, full_at(taken)))
    }

    /// How long until the turn of who reserved ahead has come; a refusal if it never will, for the quota has changed.
    fn turn(&self, now_ns: u64, held: &Held) -> Result<u64, Refused> {
        let book = self.book.lock();
        let Seen { rate, now, .. } = self.level.look(now_ns);
        if rate.is_too_much(held.tokens) {
            return Err(Refused::TooLarge);
        }
        Ok(rate.ns(Rate::debt(book.ledger.full_at(held), now).saturating_sub(rate.capacity)))
    }

    /// Gives back what was not used of a charge, or charges what was used beyond it.
    pub(super) fn settle(&self, now_ns: impl Fn() -> u64, held: &Held, actual: u64) -> Decision {
        let mut book = self.book.lock();
        let (units, seen) = if actual > held.tokens {
            (0, self.level.overdraw(now_ns(), actual - held.tokens))
        } else {
            let unused = held.tokens - actual;
            let outstanding = |rate, now_ns| book.ledger.outstanding(held, unused, rate, now_ns);
            self.level.give_back(now_ns, outstanding)
        };
        book.ledger.settle(held, units);
        Decision::new(seen.rate, seen.full_at, seen.now)
    }

    pub(super) fn set_quota(&self, now_ns: impl Fn() -> u64, quota: Quota) {
        let mut book = self.book.lock();
        let Changed { at_ns, from, to, excess } = self.level.set_rate(quota, book.excess, now_ns);
        book.ledger.change(at_ns, from, to);
        (book.quota, book.excess) = (quota, excess);
    }
}

fn full_at<E>(taken: Result<Seen, (E, Seen)>) -> u64 {
    taken.map_or_else(|(_, seen)| seen.full_at, |seen| seen.full_at)
}

fn decided(taken: Result<Seen, (Refused, Seen)>, n: u64) -> Result<Decision, Denied> {
    let of = |seen: Seen| Decision::new(seen.rate, seen.full_at, seen.now);
    match taken {
        Ok(seen) => Ok(of(seen)),
        Err((refused, seen)) => Err(Denied::new(refused, n, seen.rate, of(seen))),
    }
}

impl TokenBucket {
    /// A full bucket, on the system's clock.
    pub fn new(q: Quota) -> Self {
        Self::with_clock(q, Clock::system())
    }

    /// A full bucket on this clock.
    pub fn with_clock(q: Quota, c: Clock) -> Self {
        Self {
            shared: SharedBucket::new(q),
            clock: c,
            looking: Mutex::default(),
            moved: Condvar::new(),
            waiting: AtomicU64::new(0),
        }
    }

    /// May one pass? Never blocks.
    ///
    /// # Errors
    /// [`Denied`], and nothing is taken.
    #[inline]
    pub fn check(&self) -> Result<Decision, Denied> {
        self.check_n(1)
    }

    /// May `n` pass at once? All or none of them. Of 0 the answer is yes, and costs nothing.
    ///
    /// # Errors
    /// [`Denied`], and nothing is taken; [`ExceedsBurst`](Denied::ExceedsBurst) if it never can.
    #[inline]
    pub fn check_n(&self, n: u64) -> Result<Decision, Denied> {
        if n == 0 {
            return Ok(self.peek());
        }
        self.shared.take(self.clock.elapsed_ns(), n)
    }

    /// The bucket as it is; takes nothing.
    pub fn peek(&self) -> Decision {
        self.shared.look(self.clock.elapsed_ns())
    }

    /// Waits until `n` may pass, at most `timeout`. Who comes first is served first, however much those behind ask for;
    /// who does not wait is denied while somebody does.
    ///
    /// Blocks the thread. On a manual clock it waits for the hand, and for no longer than `timeout` of real time either.
    ///
    /// ```
    /// use l0::limits::{Quota, TokenBucket};
    /// use std::time::Duration;
    /// let uploads = TokenBucket::new(Quota::per_second(200).burst(1));
    /// for _ in 0..4 {
    ///     uploads.acquire(1, Duration::from_secs(1))?; // one every 5 ms
    /// }
    /// # Ok::<(), l0::limits::Denied>(())
    /// ```
    ///
    /// # Errors
    /// [`Denied`] if it would take longer, at once where that is known; nothing is taken then.
    pub fn acquire(&self, n: u64, timeout: Duration) -> Result<Decision, Denied> {
        match self.check_n(n) {
            Err(Denied::RetryAfter { .. }) if !timeout.is_zero() => {}
            done => return done,
        }
        let (until, until_ns) = (deadline(timeout), self.clock.elapsed_ns().saturating_add(ns(timeout)));
        let held = self.shared.reserve_ahead(self.clock.elapsed_ns(), n)?;
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let mut looking = self.looking.lock();
        let has_come = loop {
            let now_ns = self.clock.elapsed_ns();
            let wait_ns = match self.shared.turn(now_ns, &held) {
                Ok(0) => break true,
                Ok(wait_ns) if now_ns.saturating_add(wait_ns) <= until_ns => wait_ns,
                _ => break false,
            };
            // On a manual clock the time until then says nothing.
            let look = if self.clock.is_manual() { MANUAL_LOOKS } else { Duration::from_nanos(wait_ns) };
            let look = deadline(look).min(until);
            if self.moved.wait_until(&mut looking, look).timed_out() && look >= until && self.clock.is_manual() {
                break false;
            }
        };
        drop(looking);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        let decision = self.settle(&held, if has_come { n } else { 0 });
        if has_come { Ok(decision) } else { Err(self.not_now(n)) }
    }

    /// Nothing was taken: it would take too long.
    fn not_now(&self, n: u64) -> Denied {
        let Seen { rate, full_at, now } = self.shared.level.look(self.clock.elapsed_ns());
        let refused = rate.take(full_at, now, n).err().unwrap_or(Refused::Wait(1));
        Denied::new(refused, n, rate, Decision::new(rate, full_at, now))
    }

    /// Takes `n` on trial: the permit is settled with what was really used, or given back.
    ///
    /// ```
    /// use l0::limits::{Quota, TokenBucket};
    /// let tokens = TokenBucket::new(Quota::per_day(1_000_000));
    /// let permit = tokens.reserve(4_000)?; // what the answer may cost
    /// let left = permit.commit_actual(1_234); // what it did cost
    /// assert_eq!(left.remaining(), 1_000_000 - 1_234);
    /// # Ok::<(), l0::limits::Denied>(())
    /// ```
    ///
    /// # Errors
    /// [`Denied`], and nothing is taken.
    pub fn reserve(&self, n: u64) -> Result<Permit<'_>, Denied> {
        let (decision, held) = self.shared.reserve(self.clock.elapsed_ns(), n)?;
        Ok(Permit::of_bucket(self, held, decision))
    }

    /// The quota in force.
    pub fn quota(&self) -> Quota {
        self.shared.book.lock().quota
    }

    /// Another quota from now on. What is owed stays owed, in tokens: a change refills nothing and forgives nothing.
    pub fn set_quota(&self, q: Quota) {
        self.shared.set_quota(|| self.clock.elapsed_ns(), q);
        self.moved();
    }

    pub(super) fn settle(&self, held: &Held, actual: u64) -> Decision {
        let decision = self.shared.settle(|| self.clock.elapsed_ns(), held, actual);
        self.moved();
        decision
    }

    /// The level may have moved otherwise than by time: who waits looks again.
    fn moved(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            drop(self.looking.lock());
            self.moved.notify_all();
        }
    }
}

fn ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Debug for TokenBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenBucket")
            .field("quota", &self.quota())
            .field("now", &self.peek())
            .field("waiting", &self.waiting.load(Ordering::Acquire))
            .finish()
    }
}
