//! From filters to SQL, for each of the places where events are: `event`, `warning`, `audit`.
//!
//! Telemetry rows hold small integers for texts, audit rows hold the texts. Whatever a caller says is bound, never
//! spliced.

use super::Value;
use crate::event::Severity;

/// A table of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Leg {
    Event = 0,
    Warning = 1,
    Audit = 2,
}

impl Leg {
    pub(super) const ALL: [Self; 3] = [Self::Event, Self::Warning, Self::Audit];

    pub(super) fn of(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|leg| *leg as i64 == number)
    }

    /// `FROM` with everything that conditions and columns may name.
    pub(super) fn from(self) -> &'static str {
        match self {
            Self::Event => "FROM event AS e LEFT JOIN callsite AS c ON c.id = e.callsite",
            Self::Warning => "FROM warning AS e LEFT JOIN callsite AS c ON c.id = e.callsite",
            Self::Audit => "FROM audit AS e",
        }
    }

    /// The columns of `EventRow`.
    pub(super) fn columns(self) -> &'static str {
        match self {
            Self::Event | Self::Warning => {
                "e.at, e.severity, coalesce(e.message, ''), coalesce((SELECT text FROM name WHERE id = e.event_type), 'log'),
                 coalesce((SELECT text FROM name WHERE id = e.source), c.target, ''),
                 (SELECT text FROM name WHERE id = e.category),
                 (SELECT coalesce(correlation_id, trace_id) FROM trace WHERE id = e.trace),
                 (SELECT text FROM name WHERE id = e.tenant), (SELECT text FROM name WHERE id = e.actor),
                 (SELECT text FROM name WHERE id = e.status), e.duration_ns, coalesce(e.payload, '{}'), e.span,
                 nullif(c.file, ''), nullif(c.line, 0)"
            }
            Self::Audit => {
                "e.at, e.severity, coalesce(e.message, ''), e.event_type, coalesce(e.source, ''), e.category, e.correlation_id,
                 e.tenant_id, e.actor_id, e.status, e.duration_ns, coalesce(e.payload, '{}'), NULL, NULL, NULL"
            }
        }
    }
}

/// A payload that SQLite takes for JSON: its own limit is a depth of 1,000.
const PAYLOAD: &str = "CASE WHEN json_valid(e.payload) THEN e.payload END";

/// How a number is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Comparison {
    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::More => ">",
            Self::AtLeast => ">=",
        }
    }
}

/// One condition; all of a question's must hold.
#[derive(Clone, Debug)]
pub(super) enum Filter {
    AtLeast(Severity),
    EventType(String),
    Source(String),
    TargetPrefix(String),
    Category(String),
    /// A text, and its hashes.
    CorrelationId(String, Vec<String>),
    TenantId(String, Vec<String>),
    ActorId(String, Vec<String>),
    Status(String),
    Message(String),
    Field(String, Value),
    /// Message or fields contain the text, in whatever case (of ASCII).
    Text(String),
    MessageAnyCase(String),
    /// The source, or target, begins with the text.
    SourcePrefix(String),
    /// In a span of this name.
    InSpan(String),
    /// Its own duration, or else that of the span it is in, in nanoseconds.
    Duration(Comparison, i64),
    /// A field that is a number.
    Compare(String, Comparison, Value),
    /// The status, where it is a number.
    StatusCompare(Comparison, Value),
    HasField(String),
    AnyOf(Vec<Filter>),
    Not(Box<Filter>),
    /// Written for a reader.
    IsLog,
}

impl Filter {
    /// The condition on rows of this table, with its values; `None` if no row of it can meet it.
    pub(super) fn sql(&self, leg: Leg, values: &mut Vec<Value>) -> Option<String> {
        match self {
            Self::Not(filter) => Some(match filter.sql(leg, values) {
                Some(condition) => format!("NOT ifnull(({condition}), false)"),
                None => "true".to_owned(),
            }),
            Self::AnyOf(filters) => {
                let some: Vec<String> = filters.iter().filter_map(|filter| filter.sql(leg, values)).collect();
                (!some.is_empty()).then(|| format!("({})", some.join(" OR ")))
            }
            filter if leg == Leg::Audit => filter.audit(values),
            filter => filter.telemetry(leg, values),
        }
    }

    fn telemetry(&self, leg: Leg, values: &mut Vec<Value>) -> Option<String> {
        let mut name = |column: &str, texts: &[&str]| {
            values.extend(texts.iter().map(|text| Value::from(*text)));
            let marks = vec!["?"; texts.len()].join(", ");
            format!("e.{column} IN (SELECT id FROM name WHERE text IN ({marks}))")
        };
        Some(match self {
            Self::AtLeast(severity) if leg == Leg::Event && *severity >= Severity::Warning => return None,
            Self::EventType(text) if text == "log" => {
                format!("(e.event_type IS NULL OR {})", name("event_type", &["log"]))
            }
            Self::EventType(text) => name("event_type", &[text]),
            Self::Source(text) => {
                let named = name("source", &[text]);
                values.push(text.as_str().into());
                format!("({named} OR e.source IS NULL AND e.callsite IN (SELECT id FROM callsite WHERE target = ?))")
            }
            Self::TargetPrefix(text) => {
                values.extend([Value::from(text.as_str()), text.as_str().into()]);
                "e.callsite IN (SELECT id FROM callsite WHERE substr(target, 1, length(?)) = ?)".to_owned()
            }
            Self::Category(text) => name("category", &[text]),
            Self::TenantId(text, hashed) => name("tenant", &both(text, hashed)),
            Self::ActorId(text, hashed) => name("actor", &both(text, hashed)),
            Self::Status(text) => name("status", &[text]),
            Self::CorrelationId(text, hashed) => {
                let traces = traces(text, hashed, values);
                format!("e.trace IN ({traces})")
            }
            Self::SourcePrefix(text) => {
                values.extend(vec![Value::from(text.as_str()); 4]);
                "(e.source IN (SELECT id FROM name WHERE substr(text, 1, length(?)) = ?) OR e.source IS NULL
                    AND e.callsite IN (SELECT id FROM callsite WHERE substr(target, 1, length(?)) = ?))"
                    .to_owned()
            }
            Self::InSpan(text) => {
                values.extend(vec![Value::from(text.as_str()); 2]);
                "e.span IN (SELECT s.id FROM span AS s WHERE s.id = e.span
                    AND (s.name IN (SELECT id FROM name WHERE text = ?)
                      OR s.name IS NULL AND s.callsite IN (SELECT id FROM callsite WHERE name = ?)))"
                    .to_owned()
            }
            Self::Duration(comparison, ns) => {
                values.push((*ns).into());
                let own = "coalesce(e.duration_ns, (SELECT duration_ns FROM span WHERE id = e.span))";
                format!("{own} {} ?", comparison.sign())
            }
            Self::StatusCompare(comparison, number) => {
                values.push(number.clone());
                let compared = format!("CAST(text AS REAL) {} ?", comparison.sign());
                format!("e.status IN (SELECT id FROM name WHERE text GLOB '[0-9]*' AND {compared})")
            }
            Self::IsLog => "e.callsite IS NOT NULL".to_owned(),
            other => return other.common(values),
        })
    }

    fn audit(&self, values: &mut Vec<Value>) -> Option<String> {
        let mut text_is = |column: &str, texts: &[&str]| {
            values.extend(texts.iter().map(|text| Value::from(*text)));
            format!("e.{column} IN ({})", vec!["?"; texts.len()].join(", "))
        };
        Some(match self {
            Self::EventType(text) => text_is("event_type", &[text]),
            Self::Source(text) => text_is("source", &[text]),
            Self::Category(text) => text_is("category", &[text]),
            Self::TenantId(text, hashed) => text_is("tenant_id", &both(text, hashed)),
            Self::ActorId(text, hashed) => text_is("actor_id", &both(text, hashed)),
            Self::Status(text) => text_is("status", &[text]),
            Self::CorrelationId(text, hashed) => {
                let own = text_is("correlation_id", &both(text, hashed));
                let traces = traces(text, hashed, values);
                let named = format!("SELECT correlation_id FROM trace WHERE id IN ({traces})");
                format!("({own} OR e.correlation_id IN ({named}))")
            }
            Self::SourcePrefix(text) => {
                values.extend(vec![Value::from(text.as_str()); 2]);
                "substr(e.source, 1, length(?)) = ?".to_owned()
            }
            Self::StatusCompare(comparison, number) => {
                values.push(number.clone());
                format!("e.status GLOB '[0-9]*' AND CAST(e.status AS REAL) {} ?", comparison.sign())
            }
            Self::Duration(comparison, ns) => {
                values.push((*ns).into());
                format!("e.duration_ns {} ?", comparison.sign())
            }
            Self::TargetPrefix(_) | Self::InSpan(_) | Self::IsLog => return None,
            other => return other.common(values),
        })
    }

    /// Conditions on columns that all tables have.
    fn common(&self, values: &mut Vec<Value>) -> Option<String> {
        Some(match self {
            // Literal, so that an index on errors alone is seen to fit.
            Self::AtLeast(Severity::Critical) => "e.severity >= 5 AND e.severity >= 4".to_owned(),
            Self::AtLeast(severity) => format!("e.severity >= {}", *severity as i64),
            Self::Message(text) => {
                values.push(text.as_str().into());
                "instr(e.message, ?) > 0".to_owned()
            }
            Self::Text(text) => {
                // As it stands in JSON, without the quotes around it.
                let json = serde_json::Value::from(text.as_str()).to_string();
                values.extend([text.as_str().into(), json[1..json.len() - 1].into()]);
                "(instr(lower(e.message), lower(?)) > 0 OR instr(lower(e.payload), lower(?)) > 0)".to_owned()
            }
            Self::MessageAnyCase(text) => {
                values.push(text.as_str().into());
                "instr(lower(e.message), lower(?)) > 0".to_owned()
            }
            Self::HasField(name) => {
                values.push(path(name)?);
                format!("json_type({PAYLOAD}, ?) IS NOT NULL")
            }
            Self::Compare(name, comparison, number) => {
                let path = path(name)?;
                values.extend([path.clone(), path, number.clone()]);
                let is_number = format!("json_type({PAYLOAD}, ?) IN ('integer', 'real')");
                format!("({is_number} AND json_extract({PAYLOAD}, ?) {} ?)", comparison.sign())
            }
            Self::Field(name, equals) => {
                let path = path(name)?;
                match equals {
                    Value::Null => {
                        values.push(path);
                        format!("json_type({PAYLOAD}, ?) = 'null'")
                    }
                    Value::Text(_) => {
                        // A number too large for an integer column is read as its digits.
                        values.extend([path.clone(), equals.clone(), path, equals.clone()]);
                        format!("(json_extract({PAYLOAD}, ?) = ? OR {PAYLOAD} -> ? = ?)")
                    }
                    equals => {
                        values.extend([path, equals.clone()]);
                        format!("json_extract({PAYLOAD}, ?) = ?")
                    }
                }
            }
            _ => return None,
        })
    }
}

/// A field's path in the payload. In its quotes everything but a quote and a backslash stands for itself; those two SQLite
/// cannot find.
fn path(name: &str) -> Option<Value> {
    (!name.contains(['"', '\\'])).then(|| Value::from(format!("$.\"{name}\"")))
}

/// The rows of `trace` that a caller's text means: those it names, and the one whose UUID or hexadecimal id it is.
pub(super) fn traces(text: &str, hashed: &[String], values: &mut Vec<Value>) -> String {
    let texts = both(text, hashed);
    values.extend(texts.iter().map(|text| Value::from(*text)));
    let named = format!("SELECT id FROM trace WHERE correlation_id IN ({})", vec!["?"; texts.len()].join(", "));
    let Ok(id) = uuid::Uuid::parse_str(text) else { return named };
    values.push(id.into_bytes().to_vec().into());
    format!("{named} UNION ALL SELECT id FROM trace WHERE trace_id = ?")
}

fn both<'t>(text: &'t str, hashed: &'t [String]) -> Vec<&'t str> {
    std::iter::once(text).chain(hashed.iter().map(String::as_str)).collect()
}
