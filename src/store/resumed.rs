//! What a database knows of a run that goes on, or is recovered: positions of its lanes, open spans, counts.

use rusqlite::{Connection, params};
use rustc_hash::FxHashMap;

use super::{
    apply::Applier,
    open_span::{Covered, OpenSpan},
};
use crate::{
    clock::Timeline,
    event::Severity,
    flight::{LANES_MAX, Reason},
};

/// Spans among which children of running ones are looked for: about a tenth of a second, and 32 MiB.
const CHILDREN_LOOKED_AT: i64 = 500_000;
/// Where each lane's last transaction ended, and how many counted records were before that.
pub(super) fn positions(connection: &Connection, run: i64) -> rusqlite::Result<Vec<(u64, u64)>> {
    let mut positions = Vec::new();
    let mut statement =
        connection.prepare_cached("SELECT lane, position, recorded FROM lane WHERE run = ?1 ORDER BY lane")?;
    let mut rows = statement.query([run])?;
    while let Some(row) = rows.next()? {
        let Some(lane) = usize::try_from(row.get::<_, i64>(0)?).ok().filter(|lane| *lane < LANES_MAX) else { continue };
        positions.resize(lane + 1, (0, 0));
        positions[lane] = (row.get::<_, i64>(1)?.cast_unsigned(), row.get::<_, i64>(2)?.cast_unsigned());
    }
    Ok(positions)
}

/// The spans that the run's last transaction left running.
pub(super) fn restore_spans(
    connection: &Connection,
    run: i64,
    timeline: &Timeline,
    applier: &mut Applier,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT id, own, callsite, parent, trace, started_at, errors, payload, name, event_type, category, tenant, actor,
                status, status = (SELECT id FROM name WHERE text = 'error'),
                (SELECT correlation_id IS NOT NULL FROM trace WHERE id = span.trace), is_root,
                (SELECT p.own FROM span AS p WHERE p.id = span.parent), opened_mono_ns
           FROM span WHERE run = ?1 AND state = 1",
    )?;
    let mut children = children_of_running(connection, run, timeline)?;
    let mut rows = statement.query([run])?;
    while let Some(row) = rows.next()? {
        let (id, started_at) = (row.get(0)?, row.get(5)?);
        let span = OpenSpan {
            covered: Covered::of_rows(&children.remove(&id).unwrap_or_default()),
            row: id,
            callsite: row.get(2)?,
            parent: row.get(3)?,
            trace: row.get(4)?,
            started_at,
            // Rows of earlier versions do not have it.
            opened_mono_ns: row
                .get::<_, Option<i64>>(18)?
                .map_or_else(|| timeline.mono_of_wall(started_at), i64::cast_unsigned),
            errors: row.get(6)?,
            payload: row.get::<_, Option<String>>(7)?.unwrap_or_default().into_bytes(),
            name: row.get(8)?,
            event_type: row.get(9)?,
            category: row.get(10)?,
            tenant: row.get(11)?,
            actor: row.get(12)?,
            status: row.get(13)?,
            has_error_status: row.get::<_, Option<bool>>(14)?.unwrap_or(false),
            is_named: row.get::<_, Option<bool>>(15)?.unwrap_or(false),
            is_root: row.get(16)?,
            parent_own: row.get::<_, Option<i64>>(17)?.map_or(0, i64::cast_unsigned),
            may_name_trace: row.get::<_, Option<i64>>(3)?.is_none()
                && !row.get::<_, Option<bool>>(15)?.unwrap_or(false),
            ..OpenSpan::default()
        };
        applier.spans().restore(row.get::<_, i64>(1)?.cast_unsigned(), span);
    }
    Ok(())
}

/// When a span was open: its start, and its end if it has ended.
type Interval = (u64, Option<u64>);

/// When the children of the run's running spans were open, by parent. One pass: a parent may have very many. Only the latest
/// spans are looked at; a span that was running for longer loses what its earlier children covered, so that its own time
/// seems longer than it was.
fn children_of_running(
    connection: &Connection,
    run: i64,
    timeline: &Timeline,
) -> rusqlite::Result<FxHashMap<i64, Vec<Interval>>> {
    let mut statement = connection.prepare_cached(
        "SELECT parent, started_at, duration_ns FROM span
          WHERE id > max((SELECT min(id) FROM span WHERE run = ?1 AND state = 1), (SELECT max(id) FROM span) - ?2)
            AND run = ?1 AND parent IN (SELECT id FROM span WHERE run = ?1 AND state = 1)",
    )?;
    let mut rows = statement.query([run, CHILDREN_LOOKED_AT])?;
    let mut children: FxHashMap<i64, Vec<Interval>> = FxHashMap::default();
    while let Some(row) = rows.next()? {
        let start_ns = timeline.mono_of_wall(row.get(1)?);
        let duration_ns: Option<i64> = row.get(2)?;
        let end_ns = duration_ns.map(|ns| start_ns.saturating_add(ns.max(0).cast_unsigned()));
        children.entry(row.get(0)?).or_default().push((start_ns, end_ns));
    }
    Ok(children)
}

/// How many records of a run are counted as shed for this reason.
pub(super) fn shed_sums(
    connection: &Connection,
    run: i64,
    reason: Reason,
    severity: Severity,
) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT coalesce(sum(count), 0) FROM shed WHERE run = ?1 AND reason = ?2 AND severity = ?3")?
        .query_row(params![run, reason.as_str(), severity as i64], |row| row.get::<_, i64>(0))
        .map(i64::cast_unsigned)
}
