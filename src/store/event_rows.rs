//! Inserting events: one statement for 64 rows where it can be, for a statement costs SQLite about as much as a row.

use std::ops::Range;

use rusqlite::{
    CachedStatement, Connection, ErrorCode, Statement, ffi,
    types::{ToSqlOutput, ValueRef},
};

use crate::event::Severity;

/// Rows that share a statement.
const ROWS: usize = 64;
/// Columns of a row without promoted ones.
const COLUMNS: usize = 9;
const KEY_TAKEN: [i32; 2] = [ffi::SQLITE_CONSTRAINT_PRIMARYKEY, ffi::SQLITE_CONSTRAINT_ROWID];

/// The columns of one row, but for its texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventRow {
    /// The key: its time, or the next free nanosecond.
    pub(super) at: i64,
    pub(super) run: i64,
    /// Its number among the events of the run.
    pub(super) sequence: i64,
    pub(super) severity: Severity,
    pub(super) callsite: Option<i64>,
    pub(super) span: Option<i64>,
    pub(super) trace: Option<i64>,
    /// event_type, source, category, tenant, actor, status, duration_ns
    pub(super) promoted: Option<[Option<i64>; 7]>,
}

/// Its texts; an empty payload is NULL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Texts<'a> {
    pub(super) message: Option<&'a [u8]>,
    pub(super) payload: &'a [u8],
}

/// The statements that insert events, and the rows that wait for one to be full.
pub(super) struct EventRows<'c> {
    connection: &'c Connection,
    /// [event, warning] x [without promoted columns, with them].
    single: [[CachedStatement<'c>; 2]; 2],
    many: CachedStatement<'c>,
    waiting: Vec<(EventRow, Option<Range<usize>>, Range<usize>)>,
    texts: Vec<u8>,
    /// Rows that SQLite refused for what they hold, by severity.
    refused: [u64; Severity::ALL.len()],
}

impl<'c> EventRows<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        let short = "run, at, severity, callsite, span, trace, message, payload, seq";
        let long = "event_type, source, category, tenant, actor, status, duration_ns";
        let single = |table: &str| -> rusqlite::Result<[CachedStatement<'c>; 2]> {
            Ok([
                connection
                    .prepare_cached(&format!("INSERT INTO {table} ({short}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"))?,
                connection.prepare_cached(&format!(
                    "INSERT INTO {table} ({short}, {long}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                ))?,
            ])
        };
        // All rows are of one run, which is bound once.
        let row = |row: usize| {
            let own: Vec<_> = (2..=COLUMNS).map(|column| format!("?{}", row * (COLUMNS - 1) + column)).collect();
            format!("(?1, {})", own.join(", "))
        };
        let many = format!("INSERT INTO event ({short}) VALUES {}", (0..ROWS).map(row).collect::<Vec<_>>().join(", "));
        Ok(Self {
            connection,
            single: [single("event")?, single("warning")?],
            many: connection.prepare_cached(&many)?,
            waiting: Vec::with_capacity(ROWS),
            texts: Vec::new(),
            refused: [0; Severity::ALL.len()],
        })
    }

    /// Inserts the row, now or with the next that fill a statement.
    pub(super) fn insert(&mut self, row: EventRow, texts: Texts<'_>) -> rusqlite::Result<()> {
        if row.severity >= Severity::Warning || row.promoted.is_some() {
            return self.insert_single(row, texts);
        }
        let message = texts.message.map(|message| append(&mut self.texts, message));
        let payload = append(&mut self.texts, texts.payload);
        self.waiting.push((row, message, payload));
        if self.waiting.len() < ROWS {
            return Ok(());
        }
        for (index, (row, message, payload)) in self.waiting.iter().enumerate() {
            let texts = Texts {
                message: message.clone().map(|range| &self.texts[range]),
                payload: &self.texts[payload.clone()],
            };
            bind(&mut self.many, index * (COLUMNS - 1), row, texts)?;
        }
        match self.many.raw_execute() {
            Ok(_) => {
                self.waiting.clear();
                self.texts.clear();
                Ok(())
            }
            // One of them meets a key that is taken, or is refused: each finds its own way.
            Err(error) if is_about_the_value(&error) => self.insert_waiting(),
            Err(error) => Err(error),
        }
    }

    /// Inserts what waits. Says what was refused since the transaction began.
    pub(super) fn finish(&mut self) -> rusqlite::Result<[u64; Severity::ALL.len()]> {
        self.insert_waiting()?;
        Ok(std::mem::take(&mut self.refused))
    }

    fn insert_waiting(&mut self) -> rusqlite::Result<()> {
        let (waiting, texts) = (std::mem::take(&mut self.waiting), std::mem::take(&mut self.texts));
        for (row, message, payload) in waiting {
            let texts = Texts { message: message.map(|range| &texts[range]), payload: &texts[payload] };
            self.insert_single(row, texts)?;
        }
        Ok(())
    }

    fn insert_single(&mut self, mut row: EventRow, texts: Texts<'_>) -> rusqlite::Result<()> {
        let is_warning = row.severity >= Severity::Warning;
        loop {
            let statement = &mut self.single[usize::from(is_warning)][usize::from(row.promoted.is_some())];
            bind(statement, 0, &row, texts)?;
            match statement.raw_execute() {
                Ok(_) => return Ok(()),
                Err(rusqlite::Error::SqliteFailure(error, _)) if KEY_TAKEN.contains(&error.extended_code) => {
                    row.at = self.next_free(is_warning, row.at)?;
                }
                Err(error) if is_about_the_value(&error) => {
                    self.refused[row.severity as usize] += 1;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The first nanosecond from `at` on that no row of the table has.
    fn next_free(&self, is_warning: bool, at: i64) -> rusqlite::Result<i64> {
        let table = if is_warning { "warning" } else { "event" };
        self.connection
            .prepare_cached(&format!(
                "SELECT a.at + 1 FROM {table} AS a WHERE a.at >= ?1
                    AND NOT EXISTS (SELECT 1 FROM {table} AS b WHERE b.at = a.at + 1) ORDER BY a.at LIMIT 1"
            ))?
            .query_row([at], |row| row.get(0))
    }
}

/// Whether another record may well be stored: a constraint, a type, a size. A statement that fails so has no effect.
pub(super) fn is_about_the_value(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::TooBig
                | ErrorCode::ParameterOutOfRange
        )
    )
}

/// Bytes as text, NULL where there are none.
pub(super) fn text(bytes: &[u8]) -> Option<ToSqlOutput<'_>> {
    (!bytes.is_empty()).then_some(ToSqlOutput::Borrowed(ValueRef::Text(bytes)))
}

fn append(texts: &mut Vec<u8>, text: &[u8]) -> Range<usize> {
    let start = texts.len();
    texts.extend_from_slice(text);
    start..texts.len()
}

/// Binds the columns of a row that come behind `before` others; the first is the run, which all rows share.
fn bind(statement: &mut Statement<'_>, before: usize, row: &EventRow, texts: Texts<'_>) -> rusqlite::Result<()> {
    if before == 0 {
        statement.raw_bind_parameter(1, row.run)?;
    }
    statement.raw_bind_parameter(before + 2, row.at)?;
    statement.raw_bind_parameter(before + 3, row.severity as i64)?;
    statement.raw_bind_parameter(before + 4, row.callsite)?;
    statement.raw_bind_parameter(before + 5, row.span)?;
    statement.raw_bind_parameter(before + 6, row.trace)?;
    statement.raw_bind_parameter(before + 7, texts.message.map(|text| ToSqlOutput::Borrowed(ValueRef::Text(text))))?;
    statement.raw_bind_parameter(before + 8, text(texts.payload))?;
    statement.raw_bind_parameter(before + 9, row.sequence)?;
    for (index, value) in row.promoted.iter().flatten().enumerate() {
        statement.raw_bind_parameter(before + 10 + index, value)?;
    }
    Ok(())
}
