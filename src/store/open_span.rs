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
    /// Set by its close; the span leaves the table when the transaction has its row.
    pub(super) duration_ns: Option<i64>,
    /// Changed by the current transaction.
    pub(super) touched: bool,
}

impl OpenSpan {
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
