//! From one decoded record to rows: the writer's and recovery's common heart.
//!
//! An [`Applier`] lives as long as its run; between `begin` and `commit` or `rollback` it works within one transaction.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _};
use rustc_hash::FxHashMap;

use super::{
    callsite_plan::CallsitePlan,
    columns::{Columns, merge_payload},
    event_rows::{EventRow, Texts, is_about_the_value},
    inherited::Inherited,
    intern::Interner,
    limit_counts::LimitCounts,
    open_span::{OpenSpan, OpenSpans},
    removals::Removals,
    retention::{Marks, PAGE_BYTES, WARNING_BYTES, WARNING_TRACE_BYTES},
    rollup::{Rollups, SeriesKey},
    statements::Statements,
};
use crate::{
    clock::{Clock, Moment, Timeline},
    correlation,
    event::Severity,
    record::{Definition, Head, Kind, LimitTally, Record},
    redaction::Redactor,
};

/// The year 2115: views number events by twice their time.
const AT_MAX: i64 = 4_600_000_000_000_000_000;
const CLOSED: i64 = 0;
pub(super) const RUNNING: i64 = 1;
const INTERRUPTED: i64 = 2;

/// Applies the records of one run.
#[derive(Debug)]
pub(super) struct Applier {
    run: i64,
    run_key: u64,
    clock: Clock,
    redactor: Arc<Redactor>,
    definitions: FxHashMap<u32, Definition>,
    plans: FxHashMap<u32, Arc<CallsitePlan>>,
    interner: Interner,
    spans: OpenSpans,
    rollups: Rollups,
    limits: LimitCounts,
    marks: Marks,
    /// What the caches and open spans rely on, as of the last transaction's beginning.
    removed: Option<Removals>,
    /// What the transaction adds to the table of warnings.
    warning_bytes: i64,
    columns: Columns,
    /// Some span was told its tenant or actor after it was opened: those inside it ask it.
    has_late_context: bool,
    next_span_row: i64,
    /// The number of the run's last event.
    sequence: i64,
    /// Of `event` and `warning`: the nanoseconds known to be taken, first and one behind the last.
    taken: [(i64, i64); 2],
}

/// What a transaction came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Finished {
    /// Events that were refused after all, by severity.
    pub(super) refused: [u64; Severity::ALL.len()],
    /// What the tables of warnings and of rollups grew by.
    pub(super) warning_bytes: i64,
    pub(super) rollup_bytes: i64,
    /// The number of the run's last event.
    pub(super) sequence: i64,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// It has a row, or changed one.
    Stored,
    /// It does not parse, or refers to what is not there.
    Rejected,
}

impl Applier {
    pub(super) fn new(run: i64, run_key: u64, clock: Clock, redactor: Arc<Redactor>) -> Self {
        Self {
            run,
            run_key,
            clock,
            redactor,
            definitions: FxHashMap::default(),
            plans: FxHashMap::default(),
            interner: Interner::default(),
            spans: OpenSpans::default(),
            rollups: Rollups::default(),
            limits: LimitCounts::default(),
            marks: Marks::default(),
            removed: None,
            warning_bytes: 0,
            columns: Columns::default(),
            has_late_context: false,
            next_span_row: 1,
            sequence: 0,
            taken: [(0, 0); 2],
        }
    }

    /// Learns a callsite; what does not parse is not learnt, and its records are rejected.
    pub(super) fn define(&mut self, number: u32, definition: &[u8]) {
        if let Ok(definition) = Definition::decode(definition) {
            self.definitions.insert(number, definition);
        }
    }

    pub(super) fn spans(&mut self) -> &mut OpenSpans {
        &mut self.spans
    }

    /// Begins to work in a transaction, which shuts out other processes.
    pub(super) fn begin(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let last: Option<i64> =
            connection.prepare_cached("SELECT max(id) FROM span")?.query_row([], |row| row.get(0))?;
        self.next_span_row = last.unwrap_or(0) + 1;
        let mut sequence = connection.prepare_cached("SELECT sequence FROM run WHERE id = ?1")?;
        self.sequence = sequence.query_row([self.run], |row| row.get(0)).optional()?.unwrap_or(0);
        let (now, generations) = Removals::read(connection)?;
        self.marks.begin(generations);
        let before = self.removed.replace(now).unwrap_or(now);
        if before.names != now.names {
            self.interner.forget();
            self.plans.clear();
            self.rollups.forget_series();
        } else if before.traces != now.traces {
            self.interner.forget_correlations();
        }
        if before.running != now.running {
            let mut exists = connection.prepare_cached("SELECT 1 FROM span WHERE id = ?1")?;
            self.spans.retain(|span| exists.exists([span.row]))?;
        }
        Ok(())
    }

    /// About the bytes of pages that `finish` will change: of spans, two rollups for each tally, a page for each mark.
    pub(super) fn pending_bytes(&self) -> u64 {
        self.spans.touched_bytes()
            + (self.rollups.tallies() + self.limits.len()) * 512
            + self.marks.new_marks() * PAGE_BYTES
    }

    /// Pages here and there that were changed so far, by this and earlier transactions.
    pub(super) fn scattered_pages(&self) -> u64 {
        self.interner.scattered_pages()
    }

    /// Applies one record. What SQLite refuses for what it holds is rejected alone; what it refuses for its own state
    /// fails the transaction.
    pub(super) fn apply(
        &mut self,
        connection: &Connection,
        statements: &mut Statements<'_>,
        timeline: &Timeline,
        stamp: u64,
        bytes: &[u8],
    ) -> rusqlite::Result<Applied> {
        match self.try_apply(connection, statements, timeline, stamp, bytes) {
            Err(error) if is_about_the_value(&error) => Ok(Applied::Rejected),
            outcome => outcome,
        }
    }

    fn try_apply(
        &mut self,
        connection: &Connection,
        statements: &mut Statements<'_>,
        timeline: &Timeline,
        stamp: u64,
        bytes: &[u8],
    ) -> rusqlite::Result<Applied> {
        let Ok(mut record) = Record::decode(bytes) else { return Ok(Applied::Rejected) };
        let head = record.head;
        if head.kind == Kind::Limit {
            let tally = LimitTally::decode(&mut record);
            return Ok(tally.map_or(Applied::Rejected, |tally| {
                self.limits.add(&tally);
                Applied::Stored
            }));
        }
        let plan = match record.definition.take() {
            Some(definition) => Some(self.interner.callsite(connection, definition, &self.redactor)?),
            None if head.callsite == 0 => None,
            None => match self.plan(connection, head.callsite)? {
                Some(plan) => Some(plan),
                None => return Ok(Applied::Rejected),
            },
        };
        if self.columns.read(&mut record, plan.as_deref(), &self.redactor).is_err() {
            return Ok(Applied::Rejected);
        }
        let Moment { mono_ns, wall_ns } = timeline.at(stamp);
        let at = self.clock.wall_of(mono_ns).unwrap_or(wall_ns).clamp(-AT_MAX, AT_MAX);
        let plan = plan.as_deref();
        match head.kind {
            Kind::Event | Kind::Direct => self.event(connection, statements, head, plan, at)?,
            Kind::Open => return self.open(connection, statements, head, plan, at, mono_ns),
            Kind::Update => return self.update(connection, head),
            Kind::Close => return Ok(self.close(head, at, mono_ns)),
            // Read above.
            Kind::Limit => {}
            Kind::Link => {
                if let (Some(span), Some(follows)) = (self.spans.get(head.span), self.spans.get(head.other)) {
                    statements.insert_link(span.row, follows.row)?;
                }
            }
        }
        Ok(Applied::Stored)
    }

    /// Writes what was gathered: spans, rollups, the last events, marks.
    pub(super) fn finish(
        &mut self,
        connection: &Connection,
        statements: &mut Statements<'_>,
    ) -> rusqlite::Result<Finished> {
        for (own, span) in self.spans.touched() {
            let state = if span.duration_ns.is_some() { CLOSED } else { RUNNING };
            span.mark(&mut self.marks);
            match statements.write_span(self.run, own, state, span) {
                Err(error) if is_about_the_value(&error) => {}
                outcome => outcome?,
            }
        }
        let rollup_bytes = self.rollups.store(connection, statements)? + self.limits.store(connection)?;
        self.marks.store(connection)?;
        let refused = statements.events.finish()?;
        let warning_bytes = std::mem::take(&mut self.warning_bytes);
        Ok(Finished { refused, warning_bytes, rollup_bytes, sequence: self.sequence })
    }

    /// Marks some of the spans that are still open as interrupted, of about so many bytes, in a transaction of its own;
    /// says how many.
    pub(super) fn interrupt_some(&mut self, connection: &Connection, bytes: u64) -> rusqlite::Result<u64> {
        let mut statements = Statements::prepare(connection)?;
        self.begin(connection)?;
        let open = self.spans.some(bytes);
        for own in &open {
            if let Some(span) = self.spans.touch(*own) {
                span.mark(&mut self.marks);
                statements.write_span(self.run, *own, INTERRUPTED, span)?;
            }
        }
        self.marks.store(connection)?;
        open.iter().for_each(|own| self.spans.forget(*own));
        Ok(open.len() as u64)
    }

    pub(super) fn commit(&mut self) {
        self.spans.commit();
        self.rollups.clear();
        self.limits.clear();
    }

    pub(super) fn rollback(&mut self) {
        self.spans.rollback();
        self.rollups.forget();
        self.limits.clear();
        self.interner.forget();
        self.plans.clear();
        self.marks.forget();
        self.warning_bytes = 0;
        self.taken = [(0, 0); 2];
    }

    fn plan(&mut self, connection: &Connection, number: u32) -> rusqlite::Result<Option<Arc<CallsitePlan>>> {
        if let Some(plan) = self.plans.get(&number) {
            return Ok(Some(Arc::clone(plan)));
        }
        let Some(definition) = self.definitions.get(&number) else { return Ok(None) };
        let plan = self.interner.callsite(connection, definition.clone(), &self.redactor)?;
        self.plans.insert(number, Arc::clone(&plan));
        Ok(Some(plan))
    }

    fn event(
        &mut self,
        connection: &Connection,
        statements: &mut Statements<'_>,
        head: Head,
        plan: Option<&CallsitePlan>,
        at: i64,
    ) -> rusqlite::Result<()> {
        let severity = self.columns.severity.unwrap_or(head.severity);
        let is_error = severity >= Severity::Error;
        if is_error && let Some(span) = self.spans.touch(head.span) {
            span.errors += 1;
        }
        let inherited = self.inherited(head.span);
        let mut own = Inherited::default();
        let mut promoted = [None; 7];
        if self.columns.is_promoted {
            // A span's `traceparent` names a trace; an event's does not move it elsewhere.
            let is_named = inherited.is_named || inherited.trace.is_some();
            own = self.own_context(connection, &Inherited { is_named, ..inherited })?;
            promoted = self.promoted(connection)?;
        }
        promoted[3] = own.tenant.or(inherited.tenant);
        promoted[4] = own.actor.or(inherited.actor);
        let key = SeriesKey {
            callsite: plan.map_or(0, |plan| plan.id),
            severity: severity as i64,
            event_type: promoted[0].unwrap_or(0),
            source: promoted[1].unwrap_or(0),
        };
        let (first, behind) = &mut self.taken[usize::from(severity >= Severity::Warning)];
        let free = if (*first..*behind).contains(&at) { *behind } else { at };
        (*first, *behind) = if free == *behind { (*first, *behind + 1) } else { (free, free + 1) };
        self.sequence += 1;
        let row = EventRow {
            at: free,
            run: self.run,
            sequence: self.sequence,
            severity,
            callsite: plan.map(|plan| plan.id),
            span: inherited.row,
            trace: own.trace.or(inherited.trace),
            promoted: promoted.iter().any(Option::is_some).then_some(promoted),
        };
        let is_warning = severity >= Severity::Warning;
        if let Some(callsite) = row.callsite {
            self.marks.callsite(is_warning, callsite);
        }
        // The last of them is a duration.
        for id in row.promoted.iter().flat_map(|columns| &columns[..6]).flatten() {
            self.marks.name(is_warning, *id);
        }
        let message = self.columns.message.get().map(str::as_bytes);
        if is_warning {
            let texts = message.map_or(0, <[u8]>::len) + self.columns.payload.len();
            let trace = if row.trace.is_some() { WARNING_TRACE_BYTES } else { 0 };
            self.warning_bytes += WARNING_BYTES + trace + texts as i64;
        }
        statements.events.insert(row, Texts { message, payload: &self.columns.payload })?;
        self.rollups.count(key, at, is_error, self.columns.duration_ns);
        Ok(())
    }

    fn open(
        &mut self,
        connection: &Connection,
        statements: &mut Statements<'_>,
        head: Head,
        plan: Option<&CallsitePlan>,
        at: i64,
        mono_ns: u64,
    ) -> rusqlite::Result<Applied> {
        let Some(plan) = plan else { return Ok(Applied::Rejected) };
        let mut inherited = self.inherited(head.other);
        if self.columns.remote.get().is_some() && !inherited.is_named {
            // It may have been named since the parent was opened.
            let find = "SELECT 1 FROM trace WHERE id = ?1 AND correlation_id IS NOT NULL";
            inherited.is_named = connection.prepare_cached(find)?.exists([inherited.trace])?;
        }
        let own = self.own_context(connection, &inherited)?;
        let trace = match own.trace.or(inherited.trace) {
            Some(trace) => trace,
            None => {
                let unix_ms = u64::try_from(at / 1_000_000).unwrap_or(0);
                let made = || correlation::trace_id(self.run_key, head.span, unix_ms);
                statements.insert_trace(&self.columns.trace_id.unwrap_or_else(made))?
            }
        };
        let mut span = OpenSpan {
            row: self.next_span_row,
            parent: inherited.row,
            trace,
            is_root: inherited.trace != Some(trace),
            parent_own: if inherited.row.is_some() { head.other } else { 0 },
            may_name_trace: own.trace.or(inherited.trace).is_none(),
            is_named: own.trace.is_some() || inherited.is_named,
            callsite: plan.id,
            started_at: at,
            opened_mono_ns: mono_ns,
            tenant: own.tenant.or(inherited.tenant),
            actor: own.actor.or(inherited.actor),
            payload: self.columns.payload.clone(),
            ..OpenSpan::default()
        };
        self.next_span_row += 1;
        self.span_columns(connection, &mut span)?;
        self.spans.cover(span.parent_own, |covered| covered.child_opens(mono_ns));
        self.spans.insert(head.span, span);
        Ok(Applied::Stored)
    }

    fn update(&mut self, connection: &Connection, head: Head) -> rusqlite::Result<Applied> {
        let Some(mut span) = self.spans.touch(head.span).cloned() else { return Ok(Applied::Rejected) };
        match self.columns.correlation_id.get() {
            // Named late, the whole trace has the name.
            Some(text) if span.may_name_trace => {
                connection
                    .prepare_cached("UPDATE trace SET correlation_id = ?2 WHERE id = ?1")?
                    .execute((span.trace, text))?;
            }
            Some(text) => {
                span.trace = self.interner.correlation(connection, text)?;
                span.is_named = true;
                span.is_root = true;
            }
            None => {}
        }
        // A late `traceparent` names nothing.
        let tenant = name(&mut self.interner, connection, self.columns.tenant_id.get())?;
        let actor = name(&mut self.interner, connection, self.columns.actor_id.get())?;
        span.tenant = tenant.or(span.tenant);
        span.actor = actor.or(span.actor);
        self.has_late_context |= tenant.is_some() || actor.is_some();
        if !self.columns.payload.is_empty() {
            span.payload = merge_payload(&span.payload, &self.columns.payload);
            self.spans.count_bytes(self.columns.payload.len());
        }
        self.span_columns(connection, &mut span)?;
        if let Some(place) = self.spans.touch(head.span) {
            *place = span;
        }
        Ok(Applied::Stored)
    }

    fn close(&mut self, head: Head, at: i64, mono_ns: u64) -> Applied {
        let Some(span) = self.spans.touch(head.span) else { return Applied::Rejected };
        let duration_ns = i64::try_from(mono_ns.saturating_sub(span.opened_mono_ns)).unwrap_or(i64::MAX);
        span.duration_ns = Some(duration_ns);
        let key = SeriesKey::of_span(span.callsite, span.event_type, span.name);
        let is_error = span.is_failed();
        if span.is_root {
            self.rollups.root(at, duration_ns, span.row);
        }
        self.rollups.close(key, at, is_error, duration_ns, span.self_ns(mono_ns, duration_ns));
        let parent = span.parent_own;
        self.spans.cover(parent, |covered| covered.child_closes(mono_ns));
        Applied::Stored
    }

    /// What is inherited in a span: what it says itself, else what those around it have been told since.
    fn inherited(&self, own: u64) -> Inherited {
        let mut inherited = Inherited::of(self.spans.get(own));
        let mut around = self.spans.get(own).map_or(0, |span| span.parent_own);
        while self.has_late_context && around != 0 && (inherited.tenant.is_none() || inherited.actor.is_none()) {
            let Some(span) = self.spans.get(around) else { break };
            inherited.tenant = inherited.tenant.or(span.tenant);
            inherited.actor = inherited.actor.or(span.actor);
            around = span.parent_own;
        }
        inherited
    }

    /// Correlation, tenant and actor that the record itself names.
    fn own_context(&mut self, connection: &Connection, inherited: &Inherited) -> rusqlite::Result<Inherited> {
        let remote = self.columns.remote.get().filter(|_| !inherited.is_named);
        let correlation_id = self.columns.correlation_id.get().or(self.columns.scope.get()).or(remote);
        let trace = correlation_id.map(|text| self.interner.correlation(connection, text)).transpose()?;
        let tenant = name(&mut self.interner, connection, self.columns.tenant_id.get())?;
        let actor = name(&mut self.interner, connection, self.columns.actor_id.get())?;
        Ok(Inherited { trace, tenant, actor, ..Inherited::default() })
    }

    fn promoted(&mut self, connection: &Connection) -> rusqlite::Result<[Option<i64>; 7]> {
        let columns = &self.columns;
        let mut name = |text| name(&mut self.interner, connection, text);
        Ok([
            name(columns.event_type.get())?,
            name(columns.source.get())?,
            name(columns.category.get())?,
            None,
            None,
            name(columns.status.get())?,
            columns.duration_ns,
        ])
    }

    fn span_columns(&mut self, connection: &Connection, span: &mut OpenSpan) -> rusqlite::Result<()> {
        let columns = &self.columns;
        let mut set = |place: &mut Option<i64>, text: Option<&str>| -> rusqlite::Result<()> {
            *place = name(&mut self.interner, connection, text)?.or(*place);
            Ok(())
        };
        set(&mut span.name, columns.span_name.get())?;
        set(&mut span.event_type, columns.event_type.get())?;
        set(&mut span.category, columns.category.get())?;
        set(&mut span.status, columns.status.get())?;
        if let Some(status) = columns.status.get() {
            span.has_error_status = status == "error";
        }
        Ok(())
    }
}

fn name(interner: &mut Interner, connection: &Connection, text: Option<&str>) -> rusqlite::Result<Option<i64>> {
    text.map(|text| interner.name(connection, text)).transpose()
}
