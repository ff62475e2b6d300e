//! What must never be stored: secrets, known by the name of their field or by the look of their value.
//!
//! Names are decided once per callsite, before the value is formatted. Values are looked at by the writer, before SQLite
//! sees them, or with [`Redaction::strict`] before the flight recorder does. Capture, state and store ask a
//! [`Redactor`]; nobody else does.
//!
//! Invariant: a marker names the rule and never tells of the value; what has been redacted is left alone.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
};

mod assignment;
mod checksum;
mod json;
mod names;
mod numbers;
mod values;

use self::{names::Names, values::Values};
use crate::error::{Error, Result};

/// What is redacted: everything that looks like a secret, unless you say otherwise.
///
/// **By name**, whatever the value: a field whose last words are `password`, `token`, `secret`, `authorization`, `cookie`,
/// `api_key`, `private_key`, `ssn`, ... in snake_case, kebab-case, dotted or camelCase. `max_tokens` and `token_count` end
/// in other words and stay; so do numbers and booleans. Keys of JSON payloads are names, too, and so is what stands
/// before `=` or `:` in a text, as in `password=hunter2`.
///
/// **By value**, in every text: `card` (issuer prefix, length, Luhn), `email`, `bearer`, `basic`, `cookie`, `authorization`,
/// `jwt`, `private_key` (PEM), `url_password`, `api_key` (the shapes of well-known vendors' keys), `ssn`, `iban`.
///
/// In the place of a secret stands `[REDACTED:rule]`. A tenant, actor or correlation id that looks like a secret becomes
/// `hashed:..` with a key of this store (HMAC-SHA-256, 128 bits shown), so that its records can still be found, by the
/// same text as before; the trace id of such a correlation id is that of its hash. What a program records about a field is
/// decided by its name before the value is formatted; what stands in a text is looked at by the writer, and until then is
/// in the flight file (mode 0600), unless the rules are [`strict`](Redaction::strict).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use l0::{Redaction, TelemetryEvent};
/// let redaction = Redaction::default().field("iban").allow_field("csrf_token").value("ticket", r"TCK-\d{6}").without("email");
/// let l0 = l0::builder().dir(dir.path()).redaction(redaction).start()?;
/// l0.record(TelemetryEvent::new("login").message("mail from bob@example.com about TCK-123456, password=hunter2"));
/// let message = &l0.events().fetch()?.items[0].message;
/// assert_eq!(message, "mail from bob@example.com about [REDACTED:ticket], password=[REDACTED:password]");
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone, Default)]
#[must_use = "give it to Builder::redaction"]
pub struct Redaction {
    off: bool,
    fields: Vec<String>,
    allowed: Vec<String>,
    values: Vec<(String, String)>,
    without: Vec<String>,
    strict: bool,
    key: Option<Vec<u8>>,
}

impl Redaction {
    /// No rule at all; those of your own may be added.
    pub fn off() -> Self {
        Self { off: true, ..Self::default() }
    }

    /// Redacts fields of this name as well: those whose last words it is, or with `*` those whose whole name it matches.
    pub fn field(mut self, pattern: &str) -> Self {
        self.fields.push(pattern.to_owned());
        self
    }

    /// Leaves fields of this name alone, whatever they hold.
    pub fn allow_field(mut self, name: &str) -> Self {
        self.allowed.push(name.to_owned());
        self
    }

    /// Redacts whatever in a text matches this regular expression (of the `regex` crate), under this name. With a group
    /// named `secret`, only that.
    pub fn value(mut self, rule: &str, regex: &str) -> Self {
        self.values.push((rule.to_owned(), regex.to_owned()));
        self
    }

    /// Switches off the rule of this name, the one in the marker.
    pub fn without(mut self, rule: &str) -> Self {
        self.without.push(rule.to_owned());
        self
    }

    /// Looks at values before they reach the flight recorder, on the thread that records them: costs that thread a
    /// scan of every text. Otherwise a value stands in the flight file (mode 0600, removed when the run ends) until its
    /// place there is used again.
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Hashes tenants, actors and correlation ids that look like secrets with this key, so that they join across stores.
    /// Otherwise each store has a random key of its own, in `state.db`.
    pub fn hash_with(mut self, key: &[u8]) -> Self {
        self.key = Some(key.to_vec());
        self
    }

    /// The key that was given.
    pub(crate) fn key(&self) -> Option<[u8; 32]> {
        self.key.as_deref().map(hmac_sha256::Hash::hash)
    }

    /// # Errors
    /// `is_config` for a pattern, regular expression or rule name that makes no sense.
    pub(crate) fn compile(&self, find_key: impl Fn() -> [u8; 32] + Send + Sync + 'static) -> Result<Redactor> {
        let mut rules: Vec<&str> = names::RULES.iter().map(|(rule, _)| *rule).chain(values::rules()).collect();
        rules.extend(self.values.iter().map(|(rule, _)| rule.as_str()).chain(self.fields.iter().map(String::as_str)));
        rules.sort_unstable();
        rules.dedup();
        for without in &self.without {
            if !rules.contains(&without.as_str()) {
                let known = rules.join(", ");
                return Err(Error::config(format!(
                    "redaction has no rule {without:?} to switch off; the rules are {known}"
                )));
            }
        }
        let is_named = |rule: &str| !self.without.iter().any(|without| without == rule);
        let is_on = |rule: &str| !self.off && is_named(rule);
        let fields: Vec<_> = self.fields.iter().filter(|field| is_named(field)).cloned().collect();
        let own: Vec<_> = self.values.iter().filter(|(rule, _)| is_named(rule)).cloned().collect();
        let names = Names::compile(is_on, &fields, &self.allowed)?;
        let values = Values::compile(is_on, &own)?;
        if self.key.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::config(
                "redaction hash_with(b\"\"): give a key that nobody else knows, of 16 bytes or more",
            ));
        }
        let key = self.key().map_or_else(OnceLock::new, OnceLock::from);
        let columns = COLUMNS.map(|name| rule_of(&names, name));
        Ok(Redactor { names, values, columns, is_strict: self.strict, key, find_key: Arc::new(find_key) })
    }
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redaction")
            .field("off", &self.off)
            .field("fields", &self.fields)
            .field("allowed", &self.allowed)
            .field("values", &self.values)
            .field("without", &self.without)
            .field("strict", &self.strict)
            .field("has_key", &self.key.is_some())
            .finish()
    }
}

/// The rules, ready to be applied.
pub(crate) struct Redactor {
    names: Names,
    values: Values,
    columns: [FieldRule; COLUMNS.len()],
    is_strict: bool,
    key: OnceLock<[u8; 32]>,
    find_key: Arc<dyn Fn() -> [u8; 32] + Send + Sync>,
}

/// The columns that a caller may fill without `tracing`, by the names that rules know them by.
const COLUMNS: [&str; 8] =
    ["event_type", "source", "category", "correlation_id", "tenant_id", "actor_id", "message", "status"];

/// What the rules say of a field, by its name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FieldRule {
    /// Its value may hold secrets.
    Checked,
    /// Its value is none of the rules' business.
    Allowed,
    /// Its value is not recorded; this stands in its place.
    Redacted(Arc<str>),
}

impl Redactor {
    /// What to do with the values of a field.
    pub(crate) fn field(&self, name: &str) -> FieldRule {
        rule_of(&self.names, name)
    }

    /// Whether a number in a field of this name is a card's.
    pub(crate) fn is_card_number(&self, name: &str, digits: &str) -> bool {
        self.values.is_card_number(name, digits)
    }

    /// As `field`, for one of the columns.
    pub(crate) fn column(&self, name: &str) -> &FieldRule {
        let index = COLUMNS.iter().position(|column| *column == name);
        index.map_or(&FieldRule::Checked, |index| &self.columns[index])
    }

    /// A column's text as it is to be stored.
    pub(crate) fn column_text(&self, name: &str, text: String) -> String {
        match self.column(name) {
            FieldRule::Allowed => text,
            FieldRule::Redacted(marker) => marker.to_string(),
            FieldRule::Checked if ["correlation_id", "tenant_id", "actor_id"].contains(&name) => {
                self.id(&text).into_owned()
            }
            FieldRule::Checked => self.text(&text).unwrap_or(text),
        }
    }

    /// Whether values are to be looked at before they reach the flight recorder.
    pub(crate) fn is_strict(&self) -> bool {
        self.is_strict
    }

    /// The text without its secrets, if it has any.
    pub(crate) fn text(&self, text: &str) -> Option<String> {
        self.values.redact(text, &self.names)
    }

    /// The text, or if it looks like a secret its keyed hash.
    pub(crate) fn id<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if text.starts_with(HASHED) || !self.values.matches(text, &self.names) {
            return Cow::Borrowed(text);
        }
        Cow::Owned(hashed(text, self.key()))
    }

    /// The key of hashed ids.
    pub(crate) fn key(&self) -> &[u8; 32] {
        self.key.get_or_init(|| (self.find_key)())
    }

    /// The JSON without the values of secret keys, if it has any.
    pub(crate) fn json_by_name(&self, json: &str) -> Option<String> {
        // An escaped letter hides a name from the first look.
        (self.names.may_occur(json) || json.contains("\\u"))
            .then(|| json::redact(json, Some(&self.names), None))
            .flatten()
    }

    /// The JSON without secret values, if it has any.
    pub(crate) fn json_by_value(&self, json: &str) -> Option<String> {
        self.values.may_occur(json).then(|| json::redact(json, None, Some((&self.values, &self.names)))).flatten()
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").field("is_strict", &self.is_strict).finish_non_exhaustive()
    }
}

/// An id as it is stored in the place of one that looks like a secret: 128 bits of its HMAC-SHA-256.
pub(crate) fn hashed(text: &str, key: &[u8; 32]) -> String {
    let hash = hmac_sha256::HMAC::mac(text.as_bytes(), key);
    hash[..16].iter().fold(HASHED.to_owned(), |hex, byte| hex + &format!("{byte:02x}"))
}

const HASHED: &str = "hashed:";

/// A key that nobody knows.
pub(crate) fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    key[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    hmac_sha256::Hash::hash(&key)
}

fn rule_of(names: &Names, name: &str) -> FieldRule {
    match names.find(name) {
        names::Verdict::Plain => FieldRule::Checked,
        names::Verdict::Allowed => FieldRule::Allowed,
        names::Verdict::Secret(rule) => FieldRule::Redacted(marker(rule).into()),
    }
}

fn marker(rule: &str) -> String {
    format!("[REDACTED:{rule}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor(redaction: Redaction) -> Redactor {
        redaction.compile(|| [7; 32]).unwrap()
    }

    #[test]
    fn rules_that_make_no_sense_are_refused_and_errors_teach() {
        for (bad, hint) in [
            (Redaction::default().without("emial"), "email"),
            (Redaction::default().value("x", "("), "\"x\""),
            (Redaction::default().value("", "a"), "name"),
            (Redaction::default().value("x", "a*"), "empty"),
            (Redaction::default().field(""), "field"),
            (Redaction::default().allow_field("--"), "field"),
        ] {
            let error = bad.compile(|| [0; 32]).unwrap_err();
            assert!(error.is_config() && error.to_string().contains(hint), "{error}");
        }
    }

    #[test]
    fn own_rules_join_the_built_in_ones_and_each_can_be_switched_off() {
        let own = redactor(
            Redaction::default().field("*_nr").field("iban").value("ticket", r"T-(?<secret>\d+)").without("email"),
        );
        assert_eq!(own.field("customer_nr"), FieldRule::Redacted("[REDACTED:*_nr]".into()));
        assert_eq!(own.field("my.iban"), FieldRule::Redacted("[REDACTED:iban]".into()));
        assert_eq!(own.text("T-77 a@example.com").unwrap(), "T-[REDACTED:ticket] a@example.com");
        let allowed = redactor(Redaction::default().allow_field("csrfToken").without("cookie"));
        assert_eq!(allowed.field("csrf_token"), FieldRule::Allowed);
        assert_eq!(allowed.field("cookie"), FieldRule::Checked);
        assert_eq!(
            allowed.json_by_name(r#"{"csrf-token":"a","token":"b"}"#).unwrap(),
            r#"{"csrf-token":"a","token":"[REDACTED:token]"}"#
        );
        let off = redactor(Redaction::off().value("only", "only this"));
        assert_eq!(off.text("password=hunter2"), None);
        assert_eq!(off.text("only this").unwrap(), "[REDACTED:only]");
    }

    #[test]
    fn an_id_that_is_a_secret_is_hashed_and_still_joins() {
        let redactor = redactor(Redaction::default());
        let hashed = redactor.id("bob@example.com");
        assert!(hashed.starts_with("hashed:") && hashed.len() == 39, "{hashed}");
        assert!(crate::correlation::is_valid(&hashed));
        assert_eq!(hashed, redactor.id("bob@example.com"));
        assert_ne!(hashed, redactor.id("eve@example.com"));
        assert_eq!(redactor.id(&hashed), hashed, "a hash is no secret");
        assert_eq!(redactor.id("acme"), "acme");
        let other = Redaction::default().hash_with(b"key").compile(|| [7; 32]).unwrap();
        assert_ne!(other.id("bob@example.com"), hashed);
    }
}
