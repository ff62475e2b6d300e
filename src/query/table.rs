//! The answer to plain SQL.

use std::fmt;

use rusqlite::{ErrorCode, Statement};

use super::{Value, text::harmless};
use crate::{
    error::{Error, Result},
    store::{Asking, Source},
};

/// An answer is held in memory.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Rows of an SQL question; `Display` aligns them in columns.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Table {
    /// The columns' names.
    pub columns: Vec<String>,
    /// The rows, each as long as `columns`.
    pub rows: Vec<Vec<Value>>,
}

/// What a statement's parameters are.
#[derive(Clone, Copy)]
pub(crate) enum Params<'a> {
    InOrder(&'a [Value]),
    /// Each by its name, sign and all; a statement need not name them all.
    Named(&'a [(&'a str, Value)]),
}

impl Params<'_> {
    fn bind(self, sql: &str, statement: &mut Statement<'_>) -> rusqlite::Result<Result<()>> {
        let count = statement.parameter_count();
        match self {
            Self::InOrder(params) if params.len() != count => {
                return Ok(Err(Error::invalid_input(format!(
                    "{sql:?} has {count} parameters, {} were given",
                    params.len()
                ))));
            }
            Self::InOrder(params) => {
                for (index, value) in params.iter().enumerate() {
                    statement.raw_bind_parameter(index + 1, value)?;
                }
            }
            Self::Named(params) => {
                for index in 1..=count {
                    let name = statement.parameter_name(index).unwrap_or("?").to_owned();
                    let Some((_, value)) = params.iter().find(|(known, _)| *known == name) else {
                        let known: Vec<_> = params.iter().map(|(name, _)| *name).collect();
                        return Ok(Err(Error::invalid_input(format!(
                            "{sql:?} has the parameter {name}; those that are known here are {}",
                            known.join(" and ")
                        ))));
                    };
                    statement.raw_bind_parameter(index, value)?;
                }
            }
        }
        Ok(Ok(()))
    }
}

/// Asks one read-only statement, for so many rows at most.
pub(crate) fn sql(source: &Source, sql: &str, params: Params<'_>, at_most: usize) -> Result<Table> {
    source.ask(Asking::default(), "cannot answer the SQL question", |asked| {
        let mut statement = match asked.prepare_guarded(sql) {
            Ok(statement) => statement,
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::AuthorizationForStatementDenied) => {
                return Ok(Err(Error::invalid_input(format!(
                    "{sql:?} would write, or change how the store is read: only questions are answered here"
                ))));
            }
            Err(error) => return Ok(Err(invalid(sql, &error))),
        };
        if statement.column_count() == 0 && statement.readonly() {
            return Ok(Err(Error::invalid_input(format!("{sql:?} is no question: it has no columns to answer with"))));
        }
        if !statement.readonly() {
            return Ok(Err(Error::invalid_input(format!("{sql:?} would write: only questions are answered here"))));
        }
        if let Err(error) = params.bind(sql, &mut statement)? {
            return Ok(Err(error));
        }
        #[allow(clippy::useless_conversion)] // an iterator in one version of rusqlite, a Vec in another
        let columns: Vec<String> = statement.column_names().into_iter().map(ToOwned::to_owned).collect();
        let mut rows = statement.raw_query();
        let mut found = Vec::new();
        let mut bytes = 0;
        loop {
            if found.len() == at_most {
                return Ok(Ok(Table { columns, rows: found }));
            }
            match rows.next() {
                Ok(Some(row)) => {
                    let values: Vec<Value> = (0..columns.len())
                        .map(|index| row.get_ref(index).map(Value::from_ref))
                        .collect::<Result<_, _>>()?;
                    bytes += values.iter().map(Value::bytes).sum::<usize>();
                    if bytes > ANSWER_BYTES_MAX {
                        return Ok(Err(Error::invalid_input(format!(
                            "{sql:?} answers with more than {} MiB: narrow it, or take it in parts with LIMIT",
                            ANSWER_BYTES_MAX >> 20
                        ))));
                    }
                    found.push(values);
                }
                Ok(None) => return Ok(Ok(Table { columns, rows: found })),
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::Unknown) => {
                    return Ok(Err(invalid(sql, &error)));
                }
                Err(error) => return Err(error),
            }
        }
    })?
}

fn invalid(sql: &str, error: &rusqlite::Error) -> Error {
    Error::invalid_input(format!("{sql:?}: {error}"))
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |value: &Value| harmless(&value.to_string()).into_owned();
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(cell).collect()).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|index| {
                let cells = rows.iter().map(|row| row[index].chars().count());
                cells.chain([self.columns[index].chars().count()]).max().unwrap_or(0)
            })
            .collect();
        let mut line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())
        };
        line(&self.columns)?;
        line(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>())?;
        rows.iter().try_for_each(|row| line(row))
    }
}
