//! The search grammar: from what a person types to filters.
//!
//! ```text
//! timeout "card refused" level:warn order:9 duration:>100ms -target:hyper
//! ```

use std::time::Duration;

use super::{
    Value,
    filter::{Comparison, Filter},
};
use crate::{
    error::{Error, Result},
    event::Severity,
};

/// More would be a mistake.
const TERMS_MAX: usize = 100;

/// Columns that are texts.
const TEXTS: [&str; 17] = [
    "level",
    "severity",
    "target",
    "source",
    "message",
    "type",
    "event_type",
    "category",
    "span",
    "trace",
    "trace_id",
    "correlation",
    "correlation_id",
    "tenant",
    "tenant_id",
    "actor",
    "actor_id",
];

/// One term, before its meaning is known.
#[derive(Debug, PartialEq, Eq)]
struct Term {
    is_negated: bool,
    field: Option<String>,
    comparison: Option<Comparison>,
    value: String,
    is_quoted: bool,
}

/// All filters of a search, beside so many that the question has; `hashed` tells as what else an id may be stored.
pub(super) fn parse(text: &str, known: usize, hashed: impl Fn(&str) -> Vec<String>) -> Result<Vec<Filter>> {
    let terms = terms(text)?;
    let count = terms.len() + known;
    if count > TERMS_MAX {
        return Err(Error::invalid_input(format!("a question has {TERMS_MAX} terms at most, this has {count}")));
    }
    terms.into_iter().map(|term| filter(term, &hashed)).collect()
}

fn terms(text: &str) -> Result<Vec<Term>> {
    let mut terms = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let is_negated = rest.starts_with('-') && rest[1..].starts_with(|c: char| !c.is_whitespace());
        rest = if is_negated { &rest[1..] } else { rest };
        let (field, comparison, behind) = field(rest);
        let (value, is_quoted, behind) = value(behind, text)?;
        if let Some(field) = field
            && value.is_empty()
            && !is_quoted
        {
            return Err(Error::invalid_input(format!(
                "the search {text:?} does not say what {field} is to be: write {field}:value, or quote a text with a colon"
            )));
        }
        terms.push(Term { is_negated, field: field.map(str::to_owned), comparison, value, is_quoted });
        rest = behind.trim_start();
    }
    Ok(terms)
}

/// `name:`, and a comparison behind it, where the text begins with one. `shop::db` and `https://x` are words.
fn field(text: &str) -> (Option<&str>, Option<Comparison>, &str) {
    let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '@' | '#');
    let length = text.find(|c| !is_of_name(c)).unwrap_or(text.len());
    let Some(behind) = text[length..].strip_prefix(':') else { return (None, None, text) };
    if length == 0 || behind.starts_with(':') || behind.starts_with("//") {
        return (None, None, text);
    }
    let comparisons =
        [(">=", Comparison::AtLeast), ("<=", Comparison::AtMost), (">", Comparison::More), ("<", Comparison::Less)];
    for (sign, comparison) in comparisons {
        if let Some(behind) = behind.strip_prefix(sign) {
            return (Some(&text[..length]), Some(comparison), behind);
        }
    }
    (Some(&text[..length]), None, behind)
}

/// A word, or what stands in quotes, where a backslash takes the next character as it is.
fn value<'t>(text: &'t str, whole: &str) -> Result<(String, bool, &'t str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return Ok((text[..end].to_owned(), false, &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, true, &quoted[at + 1..])),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    Err(Error::invalid_input(format!("the search {whole:?} has a quote that is not closed: add a \" at its end")))
}

fn filter(term: Term, hashed: &impl Fn(&str) -> Vec<String>) -> Result<Filter> {
    let Term { is_negated, field, comparison, value, is_quoted } = term;
    let filter = match (field.as_deref(), comparison) {
        (None, _) => Filter::Text(value),
        (Some("duration" | "duration_ms"), comparison) => {
            let Some(comparison) = comparison else {
                return Err(Error::invalid_input(format!(
                    "duration:{value} compares with nothing: write duration:>{value} or duration:<{value}"
                )));
            };
            Filter::Duration(comparison, duration_ns(&value)?)
        }
        (Some("level" | "severity"), None | Some(Comparison::AtLeast)) => Filter::AtLeast(value.parse::<Severity>()?),
        (Some(field), Some(_)) if TEXTS.contains(&field) => {
            return Err(Error::invalid_input(format!(
                "{field} is no number: write {field}:{value}, or -{field}:{value} for what it must not be"
            )));
        }
        (Some(field), Some(comparison)) => match value.parse::<f64>() {
            Ok(number) if number.is_finite() && field == "status" => {
                Filter::StatusCompare(comparison, value_of(&value, number))
            }
            Ok(number) if number.is_finite() => {
                Filter::Compare(payload_field(field), comparison, value_of(&value, number))
            }
            _ => {
                return Err(Error::invalid_input(format!(
                    "{field} is compared with {value:?}, which is no number: write for instance {field}:>100"
                )));
            }
        },
        (Some("target" | "source"), None) => Filter::SourcePrefix(value),
        (Some("message"), None) => Filter::MessageAnyCase(value),
        (Some("type" | "event_type"), None) => Filter::EventType(value),
        (Some("category"), None) => Filter::Category(value),
        (Some("status"), None) => Filter::Status(value),
        (Some("span"), None) => Filter::InSpan(value),
        (Some("trace" | "trace_id" | "correlation" | "correlation_id"), None) => {
            let hashed = hashed(&value);
            Filter::CorrelationId(value, hashed)
        }
        (Some("tenant" | "tenant_id"), None) => {
            let hashed = hashed(&value);
            Filter::TenantId(value, hashed)
        }
        (Some("actor" | "actor_id"), None) => {
            let hashed = hashed(&value);
            Filter::ActorId(value, hashed)
        }
        (Some(field), None) => {
            let field = payload_field(field);
            match value.parse::<f64>() {
                _ if value == "*" && !is_quoted => Filter::HasField(field),
                // Twelve is `12`, `12.0` and `"12"`.
                Ok(number) if number.is_finite() => Filter::AnyOf(vec![
                    Filter::Field(field.clone(), value_of(&value, number)),
                    Filter::Field(field, Value::Text(value)),
                ]),
                _ => Filter::Field(field, Value::Text(value)),
            }
        }
    };
    Ok(if is_negated { Filter::Not(Box::new(filter)) } else { filter })
}

/// Its name without the mark that says it is no column.
fn payload_field(name: &str) -> String {
    name.strip_prefix('@').unwrap_or(name).to_owned()
}

fn value_of(text: &str, number: f64) -> Value {
    text.parse().map_or(Value::Real(number), Value::Integer)
}

/// `100ms`, `1.5s`, `2m`; a number alone is milliseconds.
fn duration_ns(text: &str) -> Result<i64> {
    let ms = text.parse::<f64>().ok().filter(|ms| ms.is_finite() && *ms >= 0.0);
    let duration = match ms {
        Some(ms) => Duration::try_from_secs_f64(ms / 1e3).ok(),
        None => text.parse::<jiff::SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok()),
    };
    duration.and_then(|duration| i64::try_from(duration.as_nanos()).ok()).ok_or_else(|| {
        Error::invalid_input(format!("{text:?} is no duration: write for instance duration:>100ms or duration:<1.5s"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape(text: &str) -> Vec<String> {
        let terms = terms(text).unwrap().into_iter();
        terms
            .map(|term| {
                let sign = if term.is_negated { "-" } else { "" };
                let comparison = term.comparison.map_or(String::new(), |comparison| comparison.sign().to_owned());
                format!("{sign}{}|{comparison}|{}", term.field.unwrap_or_default(), term.value)
            })
            .collect()
    }

    #[test]
    fn terms_are_told_apart() {
        for (text, terms) in [
            ("", vec![]),
            ("  timeout  ", vec!["||timeout"]),
            (r#""card refused" -retry"#, vec!["||card refused", "-||retry"]),
            ("level:warn order:9", vec!["level||warn", "order||9"]),
            ("duration:>100ms size:<=5", vec!["duration|>|100ms", "size|<=|5"]),
            ("shop::db https://x:80/ a:b:c", vec!["||shop::db", "||https://x:80/", "a||b:c"]),
            (r#"-customer:"ada \"the\" first""#, vec![r#"-customer||ada "the" first"#]),
            ("- --x :y", vec!["||-", "-||-x", "||:y"]),
            (r#"name:"" ünï:ç"#, vec!["name||", "ünï||ç"]),
        ] {
            assert_eq!(shape(text), terms, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_advice() {
        for (text, advice) in [
            (r#""open"#, "closed"),
            ("level:", "level:value"),
            ("level:loud", "warn"),
            ("duration:5ms", "duration:>5ms"),
            ("duration:>soon", "100ms"),
            ("duration:>-5", "100ms"),
            ("order:>many", "order:>100"),
            ("level:<warn", "-level:warn"),
            ("tenant:>5", "tenant:5"),
            (&"x ".repeat(101), "100 terms"),
        ] {
            let error = parse(text, 0, |_| Vec::new()).unwrap_err();
            assert!(error.is_invalid_input() && error.to_string().contains(advice), "{text}: {error}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, ns) in [("100ms", 100_000_000), ("1.5s", 1_500_000_000), ("2m", 120_000_000_000), ("0.5", 500_000)] {
            assert_eq!(duration_ns(text).unwrap(), ns, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_search_or_an_error(text in "(\\PC|[-:\"\\\\ <>=@*a]){0,40}") {
            let _ = parse(&text, 0, |_| Vec::new());
        }
    }
}
