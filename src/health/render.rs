//! A report as an endpoint answers it, for whatever server a program has.

use serde_json::{Map, Value, json};

use super::{Report, Status};
use crate::query::harmless;

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// `application/health+json`, as draft-inadarei-api-health-check-06 has it.
    HealthJson,
    /// As Kubernetes writes `/readyz?verbose`.
    Kubernetes,
    /// The status, and a line for each check.
    Plain,
}

/// An answer to a question over HTTP, but for the server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rendered {
    /// 200, or 503 if the report is unhealthy.
    pub status_code: u16,
    /// Of the body.
    pub content_type: &'static str,
    /// The text.
    pub body: String,
}

impl Rendered {
    /// The headers that belong to it: its content type, and that nobody keeps it.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        vec![("content-type", self.content_type.to_owned()), ("cache-control", "no-store".to_owned())]
    }
}

impl Report {
    /// The report in a format, with its status code and headers.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let l0 = l0::builder().dir(dir.path()).start()?;
    /// use l0::health::Format;
    /// l0.health().register("db", || Err::<(), _>("no answer"))?;
    /// l0.health().check_now("db")?;
    /// let page = l0.health().ready().render(Format::Kubernetes);
    /// assert_eq!((page.status_code, page.body.as_str()), (503, "[-]db failed: no answer\nreadyz check failed\n"));
    /// assert_eq!(page.headers()[1], ("cache-control", "no-store".to_owned()));
    /// # Ok::<(), l0::Error>(())
    /// ```
    pub fn render(&self, format: Format) -> Rendered {
        let (content_type, body) = match format {
            Format::HealthJson => ("application/health+json", self.health_json().to_string()),
            Format::Kubernetes => ("text/plain; charset=utf-8", self.kubernetes()),
            Format::Plain => ("text/plain; charset=utf-8", self.to_string()),
        };
        Rendered { status_code: if self.is_ok() { 200 } else { 503 }, content_type, body }
    }

    fn health_json(&self) -> Value {
        let mut whole = Map::new();
        whole.insert("status".to_owned(), json!(word(&self.status)));
        if self.hides_details {
            return Value::Object(whole);
        }
        if let Some(version) = &self.version {
            whole.insert("version".to_owned(), json!(major(version)));
            whole.insert("releaseId".to_owned(), json!(version));
        }
        if let Some(service) = &self.service {
            whole.insert("serviceId".to_owned(), json!(service));
        }
        // Not on a pass.
        if let Some(why) = self.status.why() {
            whole.insert("output".to_owned(), json!(why));
        }
        let mut checks = Map::new();
        for check in &self.checks {
            let mut one = Map::new();
            one.insert("componentId".to_owned(), json!(check.name));
            one.insert("componentType".to_owned(), json!("component"));
            one.insert("status".to_owned(), json!(word(&check.status)));
            if let Some(took) = check.took {
                one.insert("observedValue".to_owned(), json!(took.as_secs_f64() * 1e3));
                one.insert("observedUnit".to_owned(), json!("ms"));
            }
            if let Some(age) = check.age {
                one.insert("time".to_owned(), json!(self.at.saturating_sub(age).to_string()));
            }
            if let Some(why) = check.why() {
                one.insert("output".to_owned(), json!(why));
            }
            // A colon stands between a component and what is measured.
            let component = check.name.replace(':', "_");
            let key = format!("{component}:responseTime");
            // Two names may come to the same.
            if let Value::Array(of) = checks.entry(key).or_insert_with(|| json!([])) {
                of.push(Value::Object(one));
            }
        }
        whole.insert("checks".to_owned(), Value::Object(checks));
        Value::Object(whole)
    }

    fn kubernetes(&self) -> String {
        let mut text = String::new();
        for check in &self.checks {
            let name = harmless(&check.name);
            let why = check.why().map(|why| because(&why)).unwrap_or_default();
            text.push_str(&match &check.status {
                Status::Unhealthy(_) => format!("[-]{name} failed{why}\n"),
                Status::Degraded(_) => format!("[+]{name} ok: degraded{why}\n"),
                Status::Healthy => format!("[+]{name} ok\n"),
            });
        }
        text.push_str(&format!("{} check {}\n", self.question, if self.is_ok() { "passed" } else { "failed" }));
        text
    }
}

/// The first line that says something.
fn because(why: &str) -> String {
    let line = why.lines().find(|line| !line.trim().is_empty());
    line.map(|line| format!(": {}", harmless(line.trim()))).unwrap_or_default()
}

/// As the draft has it.
fn word(status: &Status) -> &'static str {
    match status {
        Status::Healthy => "pass",
        Status::Degraded(_) => "warn",
        Status::Unhealthy(_) => "fail",
    }
}

/// The public version of a service is the first of its numbers.
fn major(version: &str) -> &str {
    version.split('.').next().unwrap_or(version)
}
