//! What a scope is told when it is defined.

use std::time::Duration;

use super::{keyed::MAX_KEYS, quota::Quota};
use crate::error::{Error, Result};

/// Violations are remembered by their times, so many of each key.
const VIOLATIONS_MAX: u32 = 1_000;
const NAME_BYTES_MAX: usize = 64;

/// How a scope limits. Without a word more: one bucket for all, enforced.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let l0 = l0::builder().dir(dir.path()).start()?;
/// use l0::limits::{Quota, ScopeConfig};
/// use std::time::Duration;
/// let hour = Duration::from_secs(3600);
/// let login = ScopeConfig::new(Quota::per_minute(10)).keyed().lock_out(5, hour, hour).exempt("health-check");
/// let login = l0.limits().define("login", login)?;
/// assert!(login.check_key("203.0.113.9").is_ok());
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "give it to Limits::define"]
pub struct ScopeConfig {
    pub(super) quota: Quota,
    pub(super) is_keyed: bool,
    pub(super) max_keys: usize,
    pub(super) has_public_keys: bool,
    pub(super) is_dry_run: bool,
    pub(super) exempt: Vec<String>,
    pub(super) lock_out: Option<LockOut>,
    pub(super) warn_at: Option<f64>,
}

/// A key that is refused so often within some time is blocked for some.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LockOut {
    pub(super) violations: u32,
    pub(super) within: Duration,
    pub(super) for_: Duration,
}

impl ScopeConfig {
    /// One bucket with this quota.
    pub fn new(q: Quota) -> Self {
        Self {
            quota: q,
            is_keyed: false,
            max_keys: MAX_KEYS,
            has_public_keys: false,
            is_dry_run: false,
            exempt: Vec::new(),
            lock_out: None,
            warn_at: None,
        }
    }

    /// A bucket for each key. Who comes without one shares a bucket with all others who do.
    pub fn keyed(mut self) -> Self {
        self.is_keyed = true;
        self
    }

    /// How many keys are kept: 100,000 unless set. What happens beyond is what
    /// [`KeyedTokenBuckets`](super::KeyedTokenBuckets) does.
    pub fn max_keys(mut self, n: usize) -> Self {
        self.max_keys = n;
        self
    }

    /// Records keys as they are. Otherwise telemetry and `state.db` have keyed hashes of them, as of ids that look like
    /// secrets: so a denial is counted and told without the address or the API key it was about. Counts and `state.db` have public keys
    /// as they are, whatever [`Redaction`](crate::Redaction) says.
    pub fn public_keys(mut self) -> Self {
        self.has_public_keys = true;
        self
    }

    /// Lets everything pass, and records what would have been denied: to try a limit on real traffic.
    pub fn dry_run(mut self) -> Self {
        self.is_dry_run = true;
        self
    }

    /// Lets this key pass, always; only what the program blocks by hand stays blocked.
    pub fn exempt(mut self, key: &str) -> Self {
        self.exempt.push(key.to_owned());
        self
    }

    /// Blocks a key `for_` so long when it was refused `violations` times `within` so long: 1,000 times at most. Refusals
    /// while it is blocked do not count. In a scope that is not [`keyed`](Self::keyed) all are blocked, for they share the bucket.
    ///
    /// It is refusals that count, not failures: to lock out who fails, let a small burst be charged by failures alone, with
    /// [`Scope::reserve`](super::Scope::reserve) and [`Permit::refund`](super::Permit::refund), as the example `limits` does.
    pub fn lock_out(mut self, violations: u32, within: Duration, for_: Duration) -> Self {
        self.lock_out = Some(LockOut { violations, within, for_ });
        self
    }

    /// Records a warning when so large a share of the burst is used, as 0.8: once, until it has fallen well below.
    pub fn warn_at(mut self, share: f64) -> Self {
        self.warn_at = Some(share);
        self
    }

    pub(super) fn validate(&self, name: &str) -> Result<()> {
        let refused = |why: &str| Err(Error::invalid_input(format!("cannot define the scope {name:?}: {why}")));
        let is_sound = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_sound) {
            return refused(
                "a name has 1 to 64 printable ASCII characters, no quotes or backslashes: it goes into headers",
            );
        }
        if let Err(error) = self.quota.validate() {
            return refused(&error.to_string());
        }
        if self.max_keys == 0 {
            return refused("max_keys(0) leaves no key a bucket; give at least 1");
        }
        if let Some(LockOut { violations, within, for_ }) = self.lock_out {
            if violations == 0 || violations > VIOLATIONS_MAX {
                return refused("lock_out takes 1 to 1000 violations");
            }
            if within.is_zero() || for_.is_zero() {
                return refused("lock_out takes durations longer than zero");
            }
        }
        if let Some(share) = self.warn_at
            && !(share > 0.0 && share <= 1.0)
        {
            return refused("warn_at takes a share of the burst, above 0 and up to 1, as 0.8");
        }
        Ok(())
    }
}
