//! The context of a record: its span, trace, tenant and actor.

use super::open_span::OpenSpan;

/// What a record takes from the span around it, or names itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inherited {
    pub(super) row: Option<i64>,
    pub(super) trace: Option<i64>,
    pub(super) is_named: bool,
    pub(super) tenant: Option<i64>,
    pub(super) actor: Option<i64>,
}

impl Inherited {
    pub(super) fn of(span: Option<&OpenSpan>) -> Self {
        span.map_or(Self::default(), |span| Self {
            row: Some(span.row),
            trace: Some(span.trace),
            is_named: span.is_named,
            tenant: span.tenant,
            actor: span.actor,
        })
    }
}
