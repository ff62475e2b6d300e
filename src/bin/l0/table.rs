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
    let params = params(&statement, window)?;
    let mut table = store.reader.sql(&statement, &params)?;
    let found = table.rows.len();
    table.rows.truncate(common.limit.map_or(usize::MAX, |limit| limit as usize));
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
        screen.note(&format!("{} of {found} rows; more with --limit", table.rows.len()));
    }
    Ok(Outcome::of_count(table.rows.len()))
}

/// The window's ends, in the order in which the statement first names them.
fn params(statement: &str, window: &Window) -> Result<Vec<Value>, Failure> {
    let ends = [(":since", window.since, i64::MIN), (":until", window.until, i64::MAX)];
    let mut named = Vec::new();
    for (name, at, open) in ends {
        match statement.find(name) {
            Some(place) => named.push((place, Value::Integer(at.map_or(open, l0::Timestamp::as_unix_ns)))),
            None if at.is_some() => {
                return Err(Failure::Usage(format!(
                    "a statement has its own conditions: name {name} in it, in unix nanoseconds, as in WHERE at_unix_ns >= :since"
                )));
            }
            None => {}
        }
    }
    named.sort_by_key(|(place, _)| *place);
    Ok(named.into_iter().map(|(_, value)| value).collect())
}
