//! The spans that are open, as the writer knows them, with the way back after a failed transaction.

use rustc_hash::FxHashMap;

use super::retention::{Marks, PAGE_BYTES};

/// A span that has a row, or gets one with the current transaction.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenSpan {
    pub(super) row: i64,
    pub(super) parent: Option<i64>,
    pub(super) trace: i64,
    /// It has no parent, or one of another trace.
    pub(super) is_root: bool,
    /// The trace began with it, without a name: one that it is given later names the whole trace.
    pub(super) may_name_trace: bool,
    /// Its parent's id within the run; 0 for none.
    pub(super) parent_own: u64,
    /// The trace had a name when the span was opened.
    pub(super) is_named: bool,
    pub(super) callsite: i64,
    pub(super) started_at: i64,
    pub(super) opened_mono_ns: u64,
    pub(super) tenant: Option<i64>,
    pub(super) actor: Option<i64>,
    pub(super) name: Option<i64>,
    pub(super) event_type: Option<i64>,
    pub(super) category: Option<i64>,
    pub(super) status: Option<i64>,
    /// Its status says error.
    pub(super) has_error_status: bool,
    /// Events of severity error and above directly in it.
    pub(super) errors: i64,
    pub(super) payload: Vec<u8>,
    /// How much of it its children have covered.
    pub(super) covered: Covered,
    /// Set by its close; the span leaves the table when the transaction has its row.
    pub(super) duration_ns: Option<i64>,
    /// Changed by the current transaction.
    pub(super) touched: bool,
}

/// The time in which some child of a span was open: told of openings and closes in their order, it counts what overlaps
/// once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Covered {
    /// Children that are open.
    open: u32,
    /// Since when there have been any.
    since_ns: u64,
    ns: u64,
}

impl Covered {
    pub(super) fn child_opens(&mut self, at_ns: u64) {
        if self.open == 0 {
            self.since_ns = at_ns;
        }
        self.open += 1;
    }

    pub(super) fn child_closes(&mut self, at_ns: u64) {
        self.ns = self.until(at_ns);
        self.since_ns = at_ns.max(self.since_ns);
        self.open = self.open.saturating_sub(1);
    }

    /// As the rows of children tell it, each with its start and, if it has ended, its end.
    pub(super) fn of_rows(children: &[(u64, Option<u64>)]) -> Self {
        let open = children.iter().filter(|(_, end_ns)| end_ns.is_none());
        let since_ns = open.clone().map(|(start_ns, _)| *start_ns).min().unwrap_or(u64::MAX);
        let mut closed: Vec<(u64, u64)> = children.iter().filter_map(|(start, end)| Some((*start, (*end)?))).collect();
        closed.sort_unstable();
        let (mut ns, mut until_ns) = (0, 0);
        for (start_ns, end_ns) in closed {
            let (from_ns, to_ns) = (start_ns.max(until_ns), end_ns.min(since_ns));
            if to_ns > from_ns {
                ns += to_ns - from_ns;
                until_ns = to_ns;
            }
        }
        Self { open: u32::try_from(open.count()).unwrap_or(u32::MAX), since_ns, ns }
    }

    /// Until now, those that are still open included.
    fn until(self, now_ns: u64) -> u64 {
        self.ns + if self.open > 0 { now_ns.saturating_sub(self.since_ns) } else { 0 }
    }
}

impl OpenSpan {
    /// The part of its duration in which none of its children was open, at its close.
    pub(super) fn self_ns(&self, closed_mono_ns: u64, duration_ns: i64) -> i64 {
        duration_ns.saturating_sub_unsigned(self.covered.until(closed_mono_ns)).max(0)
    }

    pub(super) fn is_failed(&self) -> bool {
        self.errors > 0 || self.has_error_status
    }

    /// Its row is written: what it refers to is in use.
    pub(super) fn mark(&self, marks: &mut Marks) {
        marks.callsite(false, self.callsite);
        let names = [self.name, self.event_type, self.category, self.tenant, self.actor, self.status];
        names.into_iter().flatten().for_each(|id| marks.name(false, id));
    }
}

/// Open spans by their id within the run.
#[derive(Debug, Default)]
pub(super) struct OpenSpans {
    spans: FxHashMap<u64, OpenSpan>,
    /// What the current transaction touched, in order of first touch, as it was before.
    touched: Vec<(u64, Option<OpenSpan>)>,
    /// How many of those were there before.
    touched_old: u64,
    /// Of spans that a child's opening or close was told in the current transaction, what it was before.
    covered: Vec<(u64, Covered)>,
    /// What their payloads take, all told.
    touched_bytes: u64,
}

impl OpenSpans {
    pub(super) fn get(&self, own: u64) -> Option<&OpenSpan> {
        self.spans.get(&own)
    }

    pub(super) fn insert(&mut self, own: u64, span: OpenSpan) {
        self.touched_bytes += span.payload.len() as u64;
        let before = self.spans.insert(own, OpenSpan { touched: true, ..span });
        self.touched.push((own, before));
    }

    /// A span whose row is stored already: found by recovery.
    pub(super) fn restore(&mut self, own: u64, span: OpenSpan) {
        self.spans.insert(own, span);
    }

    /// The span, to be changed; remembered as it was.
    pub(super) fn touch(&mut self, own: u64) -> Option<&mut OpenSpan> {
        let span = self.spans.get_mut(&own)?;
        if !span.touched {
            self.touched.push((own, Some(span.clone())));
            self.touched_old += 1;
            self.touched_bytes += span.payload.len() as u64;
            span.touched = true;
        }
        Some(span)
    }

    /// A child of the span opens or closes. That alone changes no row.
    pub(super) fn cover(&mut self, own: u64, change: impl FnOnce(&mut Covered)) {
        if let Some(span) = self.spans.get_mut(&own) {
            self.covered.push((own, span.covered));
            change(&mut span.covered);
        }
    }

    /// The spans this transaction must write, in order of first touch.
    pub(super) fn touched(&self) -> impl Iterator<Item = (u64, &OpenSpan)> {
        self.touched.iter().filter_map(|(own, _)| self.spans.get(own).map(|span| (*own, span)))
    }

    /// A payload grew.
    pub(super) fn count_bytes(&mut self, bytes: usize) {
        self.touched_bytes += bytes as u64;
    }

    /// About the bytes of pages that writing them will change: a row at the table's end, or a page of the table and of two
    /// indexes where the row is old; and what its payload had, and has.
    pub(super) fn touched_bytes(&self) -> u64 {
        let old = self.touched_old;
        (self.touched.len() as u64 - old) * 512 + old * 3 * PAGE_BYTES + self.touched_bytes * 2
    }

    /// Drops those that do not fulfil the condition: their rows are gone.
    pub(super) fn retain(
        &mut self,
        mut condition: impl FnMut(&OpenSpan) -> rusqlite::Result<bool>,
    ) -> rusqlite::Result<()> {
        let mut gone = Vec::new();
        for (own, span) in &self.spans {
            if !condition(span)? {
                gone.push(*own);
            }
        }
        for own in gone {
            self.spans.remove(&own);
        }
        Ok(())
    }

    /// Some that are open, of about so many bytes, for the end of a run.
    pub(super) fn some(&self, bytes: u64) -> Vec<u64> {
        let mut sum = 0;
        let open = self.spans.iter().take_while(|(_, span)| {
            let is_within = sum < bytes;
            sum += 3 * PAGE_BYTES + span.payload.len() as u64;
            is_within
        });
        open.map(|(own, _)| *own).collect()
    }

    /// It is over; a rollback brings it back.
    pub(super) fn forget(&mut self, own: u64) {
        self.spans.remove(&own);
    }

    pub(super) fn commit(&mut self) {
        self.covered.clear();
        (self.touched_old, self.touched_bytes) = (0, 0);
        for (own, _) in self.touched.drain(..) {
            match self.spans.get_mut(&own) {
                Some(span) if span.duration_ns.is_some() => {
                    self.spans.remove(&own);
                }
                Some(span) => span.touched = false,
                None => {}
            }
        }
    }

    pub(super) fn rollback(&mut self) {
        (self.touched_old, self.touched_bytes) = (0, 0);
        for (own, before) in self.touched.drain(..).rev() {
            match before {
                Some(span) => self.spans.insert(own, span),
                None => self.spans.remove(&own),
            };
        }
        for (own, before) in self.covered.drain(..).rev() {
            if let Some(span) = self.spans.get_mut(&own) {
                span.covered = before;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_children_cover_is_counted_once_and_taken_back_by_a_rollback() {
        let mut spans = OpenSpans::default();
        spans.insert(1, OpenSpan { row: 1, opened_mono_ns: 100, ..OpenSpan::default() });
        spans.commit();
        for (at, opens) in [(110, true), (120, true), (130, false), (140, false), (150, true)] {
            spans.cover(1, |covered| if opens { covered.child_opens(at) } else { covered.child_closes(at) });
        }
        assert!(spans.touched().next().is_none(), "no row is written for that");
        // 110..140, and 150 until its close.
        assert_eq!(spans.get(1).unwrap().self_ns(200, 100), 20);
        spans.rollback();
        assert_eq!(spans.get(1).unwrap().self_ns(200, 100), 100);
        spans.cover(1, |covered| covered.child_closes(150));
        assert_eq!(spans.get(1).unwrap().self_ns(200, 100), 100, "a close without an opening covers nothing");
    }

    #[test]
    fn rows_tell_the_same_as_openings_and_closes() {
        let rows = [(110, Some(130)), (120, Some(140)), (160, None), (150, Some(170)), (180, Some(190))];
        let mut told = Covered::default();
        for (at, opens) in [(110, 1), (120, 1), (130, 0), (140, 0), (150, 1), (160, 1), (170, 0), (180, 1), (190, 0)] {
            if opens == 1 { told.child_opens(at) } else { told.child_closes(at) }
        }
        let of_rows = Covered::of_rows(&rows);
        assert_eq!((of_rows.until(200), of_rows.open), (told.until(200), 1));
        assert_eq!(Covered::of_rows(&[]), Covered { since_ns: u64::MAX, ..Covered::default() });
    }

    #[test]
    fn a_rollback_restores_and_a_commit_drops_the_closed() {
        let mut spans = OpenSpans::default();
        spans.insert(1, OpenSpan { row: 1, ..OpenSpan::default() });
        spans.commit();
        spans.insert(2, OpenSpan { row: 2, ..OpenSpan::default() });
        spans.touch(1).unwrap().errors = 5;
        spans.touch(1).unwrap().duration_ns = Some(1);
        assert_eq!(spans.touched().map(|(own, _)| own).collect::<Vec<_>>(), [2, 1]);
        spans.rollback();
        assert_eq!((spans.some(99_999), spans.get(1).unwrap().errors), (vec![1], 0));
        spans.touch(1).unwrap().duration_ns = Some(1);
        spans.commit();
        assert!(spans.some(99_999).is_empty());
    }
}
