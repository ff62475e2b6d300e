//! Small integers for texts that repeat: names, callsites, traces.
//!
//! The maps are caches of what is stored: bounded, cleared when full, forgotten after a rollback.

use std::sync::Arc;

use rusqlite::{Connection, params};
use rustc_hash::FxHashMap;

use super::callsite_plan::CallsitePlan;
use crate::{
    correlation,
    record::{CallsiteKind, Definition},
    redaction::Redactor,
};

/// A cache that grows past this is cleared; the next use of a name costs one look-up.
const CACHED_MAX: usize = 8_192;

/// What is known to be stored, by text.
#[derive(Debug, Default)]
pub(super) struct Interner {
    names: FxHashMap<String, i64>,
    correlations: FxHashMap<String, i64>,
    callsites: FxHashMap<Definition, Arc<CallsitePlan>>,
    /// How many pages its insertions have changed, at most: a new text has its place anywhere in an index.
    scattered_pages: u64,
}

impl Interner {
    /// After a rollback, in which what was new was not stored; and when rows of `name` or `callsite` are gone.
    pub(super) fn forget(&mut self) {
        *self = Self { scattered_pages: self.scattered_pages, ..Self::default() };
    }

    pub(super) fn scattered_pages(&self) -> u64 {
        self.scattered_pages
    }

    /// Rows of `trace` are gone.
    pub(super) fn forget_correlations(&mut self) {
        self.correlations.clear();
    }

    pub(super) fn name(&mut self, connection: &Connection, text: &str) -> rusqlite::Result<i64> {
        if let Some(id) = self.names.get(text) {
            return Ok(*id);
        }
        let find = "SELECT id FROM name WHERE text = ?1";
        let found = connection.prepare_cached(find)?.query([text])?.next()?.map(|row| row.get(0)).transpose()?;
        let id = match found {
            Some(id) => id,
            None => {
                self.scattered_pages += 2;
                connection.prepare_cached("INSERT INTO name (text) VALUES (?1)")?.insert([text])?
            }
        };
        remember(&mut self.names, text, id);
        Ok(id)
    }

    /// The trace that goes by a caller's text, with the id that every store and service gives it. Traces that were named
    /// late keep the ids they began with; questions by name find them all.
    pub(super) fn correlation(&mut self, connection: &Connection, text: &str) -> rusqlite::Result<i64> {
        if let Some(id) = self.correlations.get(text) {
            return Ok(*id);
        }
        let trace_id = correlation::trace_id_of(text);
        let find = "SELECT id FROM trace WHERE trace_id = ?1 AND correlation_id IS NOT NULL";
        let found =
            connection.prepare_cached(find)?.query([trace_id.as_slice()])?.next()?.map(|row| row.get(0)).transpose()?;
        let id = match found {
            Some(id) => id,
            None => {
                self.scattered_pages += 3;
                connection
                    .prepare_cached(
                        "INSERT INTO trace (trace_id, correlation_id) VALUES (?1, ?2)
                     ON CONFLICT (trace_id) DO UPDATE SET correlation_id = coalesce(correlation_id, ?2) RETURNING id",
                    )?
                    .query_row(params![trace_id.as_slice(), text], |row| row.get(0))?
            }
        };
        remember(&mut self.correlations, text, id);
        Ok(id)
    }

    /// The stored callsite of a definition, and what its fields mean.
    pub(super) fn callsite(
        &mut self,
        connection: &Connection,
        definition: Definition,
        redactor: &Redactor,
    ) -> rusqlite::Result<Arc<CallsitePlan>> {
        if let Some(plan) = self.callsites.get(&definition) {
            return Ok(Arc::clone(plan));
        }
        let known_as = definition.clone();
        let mut definition = definition;
        // The place of a `log` record is the program's text, made at run time.
        if definition.kind == CallsiteKind::Log {
            let texts = [Some(&mut definition.target), definition.module_path.as_mut(), definition.file.as_mut()];
            for text in texts.into_iter().flatten() {
                if let Some(redacted) = redactor.text(text) {
                    *text = redacted;
                }
            }
        }
        let values = params![
            definition.kind as i64,
            definition.severity as i64,
            definition.target,
            definition.name,
            definition.module_path.as_deref().unwrap_or(""),
            definition.file.as_deref().unwrap_or(""),
            definition.line.unwrap_or(0),
        ];
        connection
            .prepare_cached(
                "INSERT INTO callsite (kind, severity, target, name, module_path, file, line)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
            )?
            .execute(values)?;
        let id = connection
            .prepare_cached(
                "SELECT id FROM callsite WHERE kind = ?1 AND severity = ?2 AND target = ?3 AND name = ?4
                    AND module_path = ?5 AND file = ?6 AND line = ?7",
            )?
            .query_row(values, |row| row.get(0))?;
        let plan = Arc::new(CallsitePlan::new(id, &definition, redactor));
        if self.callsites.len() >= CACHED_MAX {
            self.callsites.clear();
        }
        self.callsites.insert(known_as, Arc::clone(&plan));
        Ok(plan)
    }
}

fn remember(cache: &mut FxHashMap<String, i64>, text: &str, id: i64) {
    if cache.len() >= CACHED_MAX {
        cache.clear();
    }
    cache.insert(text.to_owned(), id);
}
