//! Header names and values, as text: no HTTP library is needed to send them.

use std::time::Duration;

use super::decision::{Decision, Denied};

/// What the draft calls a bucket that belongs to no scope.
const NO_SCOPE: &str = "default";
/// The largest integer of a structured field (RFC 9651, section 3.3.1).
const INTEGER_MAX: u64 = 999_999_999_999_999;

pub(super) fn of_allowed(decision: &Decision) -> Vec<(&'static str, String)> {
    let reset = decision.reset_after();
    fields(decision, decision.remaining(), (!reset.is_zero()).then(|| seconds_up(reset)))
}

pub(super) fn of_denied(denied: &Denied) -> Vec<(&'static str, String)> {
    let retry = denied.retry_after().map(|wait| seconds_up(wait).max(1));
    let mut headers = fields(denied.decision(), 0, retry);
    headers.extend(retry.map(|seconds| ("Retry-After", seconds.to_string())));
    headers
}

fn fields(decision: &Decision, remaining: u64, reset_s: Option<u64>) -> Vec<(&'static str, String)> {
    let name = decision.scope().unwrap_or(NO_SCOPE);
    let (limit, remaining) = (decision.limit().min(INTEGER_MAX), remaining.min(INTEGER_MAX));
    let window_s = seconds_up(decision.window()).max(1);
    let reset = reset_s.map(|seconds| format!(";t={seconds}")).unwrap_or_default();
    vec![
        ("X-RateLimit-Limit", limit.to_string()),
        ("X-RateLimit-Remaining", remaining.to_string()),
        ("RateLimit-Policy", format!("\"{name}\";q={limit};w={window_s}")),
        ("RateLimit", format!("\"{name}\";r={remaining}{reset}")),
    ]
}

fn seconds_up(d: Duration) -> u64 {
    d.as_secs().saturating_add(u64::from(d.subsec_nanos() > 0)).min(INTEGER_MAX)
}
