//! `schedules`: what is due again and again.

use l0::query::human_duration;

use crate::{
    args::Common,
    failure::{Failure, Outcome},
    json,
    place::Store,
    screen::{Screen, Text, Tone},
    when::Window,
};

pub(crate) fn schedules(
    store: &Store,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let mut rows = store.jobs.schedules()?;
    let count = rows.len();
    rows.truncate(common.limit.map_or(usize::MAX, |limit| limit as usize));
    if screen.is_json {
        screen.json(&json::readable(&rows))?;
        return Ok(Outcome::of_count(count));
    }
    if rows.is_empty() {
        screen.note("nothing is scheduled here");
        return Ok(Outcome::Nothing);
    }
    let table = rows.iter().map(|row| {
        let has_trouble = row.is_late || row.problem.is_some();
        let tone = if has_trouble { Tone::Bad } else { Tone::Warning };
        vec![
            Text::plain(&row.name).toned(Tone::Name),
            Text::plain(&row.kind),
            Text::plain(&row.schedule),
            Text::time(row.next_at.map(|at| window.second(at)).unwrap_or_default()),
            Text::time(row.last_at.map(|at| window.second(at)).unwrap_or_default()).toned(Tone::Faint),
            Text::number(row.lateness().filter(|late| late.as_millis() > 0).map(human_duration).unwrap_or_default())
                .toned(Tone::Faint),
            Text::number(row.fires),
            Text::plain(row.notes()).toned(tone),
        ]
    });
    screen.table(
        &["name", "kind", "schedule", "next", "last", "late", "fires", ""],
        &["late", "kind", "fires"],
        table.collect(),
    )?;
    if count > rows.len() {
        screen.note(&format!("{} of {count} schedules; more with --limit", rows.len()));
    }
    Ok(Outcome::Answered)
}
