//! A value of a column or field, as SQLite knows them.

use std::fmt;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

/// A parameter or an answer: what an SQLite column can hold.
///
/// Booleans become 0 and 1; a `u64` beyond `i64` becomes its decimal text.
///
/// ```
/// use l0::query::Value;
/// assert_eq!(Value::from(7), Value::Integer(7));
/// assert_eq!(Value::from("x").to_string(), "x");
/// assert_eq!(Value::from(u64::MAX).to_string(), "18446744073709551615");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing there.
    Null,
    /// A whole number.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Text(text) => text.len(),
                Self::Blob(bytes) => bytes.len(),
                Self::Null | Self::Integer(_) | Self::Real(_) => 0,
            }
    }

    pub(super) fn from_ref(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(v) => Self::Integer(v),
            ValueRef::Real(v) => Self::Real(v),
            ValueRef::Text(v) => Self::Text(String::from_utf8_lossy(v).into_owned()),
            ValueRef::Blob(v) => Self::Blob(v.to_vec()),
        }
    }

    /// A field of a JSON payload; what is neither number, text nor null becomes its JSON.
    pub(super) fn from_json(json: &serde_json::value::RawValue) -> Self {
        match serde_json::from_str::<serde_json::Value>(json.get()) {
            Ok(serde_json::Value::Null) => Self::Null,
            Ok(serde_json::Value::Bool(v)) => Self::Integer(i64::from(v)),
            Ok(serde_json::Value::String(v)) => Self::Text(v),
            Ok(serde_json::Value::Number(v)) => match (v.as_i64(), v.as_f64()) {
                (Some(v), _) => Self::Integer(v),
                (None, Some(v)) if json.get().contains(['.', 'e', 'E']) => Self::Real(v),
                _ => Self::Text(json.get().to_owned()),
            },
            _ => Self::Text(json.get().to_owned()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Integer(v) => write!(f, "{v}"),
            Self::Real(v) => write!(f, "{v}"),
            Self::Text(v) => f.write_str(v),
            Self::Blob(v) => {
                f.write_str("x'")?;
                v.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("'")
            }
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(v) => ValueRef::Integer(*v),
            Self::Real(v) => ValueRef::Real(*v),
            Self::Text(v) => ValueRef::Text(v.as_bytes()),
            Self::Blob(v) => ValueRef::Blob(v),
        }))
    }
}

macro_rules! from_integer {
    ($($from:ty),*) => {$(
        impl From<$from> for Value {
            fn from(v: $from) -> Self {
                Self::Integer(i64::from(v))
            }
        }
    )*};
}

from_integer!(i8, i16, i32, i64, u8, u16, u32, bool);

impl From<u64> for Value {
    fn from(v: u64) -> Self {
        i64::try_from(v).map_or_else(|_| Self::Text(v.to_string()), Self::Integer)
    }
}

impl From<f64> for Value {
    fn from(v: f64) -> Self {
        Self::Real(v)
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::Text(v.to_owned())
    }
}

impl From<String> for Value {
    fn from(v: String) -> Self {
        Self::Text(v)
    }
}

impl From<Vec<u8>> for Value {
    fn from(v: Vec<u8>) -> Self {
        Self::Blob(v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_field_keeps_its_value() {
        let cases = [
            ("7", Value::Integer(7)),
            ("1.5", Value::Real(1.5)),
            ("1.0", Value::Real(1.0)),
            ("1e300", Value::Real(1e300)),
            ("18446744073709551615", Value::Text("18446744073709551615".into())),
            ("true", Value::Integer(1)),
            ("null", Value::Null),
            ("\"a\\nb\"", Value::Text("a\nb".into())),
            ("[1,2]", Value::Text("[1,2]".into())),
        ];
        for (json, value) in cases {
            let raw = serde_json::value::RawValue::from_string(json.to_owned()).unwrap();
            assert_eq!(Value::from_json(&raw), value, "{json}");
        }
    }
}
