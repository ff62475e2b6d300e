//! `sql`: a question in SQL.

use std::io::Read as _;

use l0::query::Value;

use crate::{
    args::{Common, Sql},
    failure::{Failure, Outcome},
    json,
    place::Store,
    screen::{Screen, Text, Tone},
    when::Window,
};

pub(crate) fn sql(
    store: &Store,
    asked: &Sql,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let mut statement = asked.statement.clone();
    if statement == "-" {
        statement.clear();
        std::io::stdin()
            .read_to_string(&mut statement)
            .map_err(|error| Failure::Usage(format!("the statement cannot be read from standard input: {error}")))?;
    }
    // Open at a side that was not said.
    let end = |at: Option<l0::Timestamp>, open| Value::Integer(at.map_or(open, l0::Timestamp::as_unix_ns));
    let params = [(":since", end(window.since, i64::MIN)), (":until", end(window.until, i64::MAX))];
    for ((name, _), is_said) in params.iter().zip([window.since.is_some(), window.until.is_some()]) {
        if is_said && !statement.contains(name) {
            return Err(Failure::Usage(format!(
                "a statement has its own conditions: name {name} in it, in unix nanoseconds, as in WHERE at_unix_ns >= :since"
            )));
        }
    }
    let limit = common.limit.map_or(usize::MAX, |limit| limit as usize);
    // One more tells whether there are more.
    let mut table = store.reader.sql_named(&statement, &params, limit.saturating_add(1))?;
    let found = table.rows.len();
    table.rows.truncate(limit);
    if screen.is_json {
        let rows: Vec<_> = table.rows.iter().map(|row| json::table_row(&table.columns, row)).collect();
        screen.json_array(&rows)?;
    } else {
        let rows = table.rows.iter().map(|row| {
            let cells = row.iter().map(|cell| match cell {
                Value::Integer(_) | Value::Real(_) => Text::number(cell.to_string()),
                Value::Null => Text::plain("NULL").toned(Tone::Faint),
                cell => Text::plain(cell.to_string()),
            });
            cells.collect()
        });
        let headings: Vec<_> = table.columns.iter().map(|name| l0::query::harmless(name).into_owned()).collect();
        screen.table(&headings.iter().map(String::as_str).collect::<Vec<_>>(), &[], rows.collect())?;
    }
    if found > table.rows.len() {
        screen.note(&format!("the first {} rows; there are more: raise --limit", table.rows.len()));
    }
    Ok(Outcome::of_count(table.rows.len()))
}
