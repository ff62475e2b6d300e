//! The question "what goes wrong, and how often?": errors, grouped by place and normalised message.

use std::{collections::HashMap, time::Duration};

use rusqlite::params_from_iter;
use serde::Serialize;

use super::{
    EventRow, Events, Page, Total,
    events::{Condition, read},
    filter::Leg,
};
use crate::{
    clock::Timestamp,
    error::Result,
    event::Severity,
    store::{Asked, Source},
};

const LIMIT_DEFAULT: u32 = 20;
const LIMIT_MAX: u32 = 1_000;
/// Further messages are counted together, for each place.
const GROUPS_MAX: usize = 100_000;
const OTHERS: &str = "(others)";
/// What is behind tells no two messages apart.
const MESSAGE_BYTES: usize = 512;
/// A run of letters and digits that is as long is an id.
const ID_BYTES: usize = 16;
/// So is a shorter one of hexadecimal digits.
const HEX_ID_BYTES: usize = 4;

/// A question about errors: events of severity error and above, those of one place and one message together, the most
/// frequent first.
///
/// Messages are compared with their numbers and ids taken out: `order 7 refused` and `order 9 refused` are both
/// `order <n> refused`. Where there is no message, the fields are compared.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let l0 = l0::builder().dir(dir.path()).start()?;
/// for order in 0..3 {
///     l0.log(tracing::Level::ERROR, "billing", &format!("order {order} refused"));
/// }
/// let group = &l0.errors().fetch()?.items[0];
/// assert_eq!((group.message.as_str(), group.count), ("order <n> refused", 3));
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a question is asked by fetch()"]
pub struct Errors {
    events: Events,
    limit: u32,
}

/// Errors of one place and one message.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ErrorGroup {
    /// `file:line` of the macro, or the source of what has none.
    pub place: String,
    /// The message, with `<n>` for numbers and `<id>` for ids.
    pub message: String,
    /// How many.
    pub count: u64,
    /// When the first was recorded.
    pub first: Timestamp,
    /// When the last was recorded.
    pub last: Timestamp,
    /// The last of them that belongs to a trace, or else the last.
    pub sample: EventRow,
}

impl Errors {
    pub(crate) fn new(source: Source) -> Self {
        Self { events: Events::new(source).at_least(Severity::Error), limit: LIMIT_DEFAULT }
    }

    fn and(self, change: impl FnOnce(Events) -> Events) -> Self {
        Self { events: change(self.events), ..self }
    }

    /// Not older than this, by the store's clock.
    pub fn last(self, d: Duration) -> Self {
        self.and(|events| events.last(d))
    }

    /// At or after this time.
    pub fn since(self, t: Timestamp) -> Self {
        self.and(|events| events.since(t))
    }

    /// Before this time.
    pub fn until(self, t: Timestamp) -> Self {
        self.and(|events| events.until(t))
    }

    /// That match what a person types; see [`Events::search`].
    ///
    /// # Errors
    /// As there.
    pub fn search(self, text: &str) -> Result<Self> {
        Ok(Self { events: self.events.search(text)?, ..self })
    }

    /// At most this many groups: 20 unless said otherwise, one at least, 1,000 at most.
    pub fn limit(mut self, n: u32) -> Self {
        self.limit = n.clamp(1, LIMIT_MAX);
        self
    }

    /// As [`Events::fresh`].
    pub fn fresh(self, flush_first: bool) -> Self {
        self.and(|events| events.fresh(flush_first))
    }

    /// As [`Events::within`].
    pub fn within(self, d: Duration) -> Self {
        self.and(|events| events.within(d))
    }

    /// The groups; `total` tells how many there are beyond the limit. Reads every error in the window: ten
    /// thousand take some twenty milliseconds.
    ///
    /// # Errors
    /// As [`Events::fetch`].
    pub fn fetch(self) -> Result<Page<ErrorGroup>> {
        let legs = self.events.legs()?;
        let limit = self.limit as usize;
        self.events.source.clone().ask(self.events.asking, "cannot read errors", |asked| {
            let mut groups = Groups::default();
            for leg in &legs {
                groups.gather(asked, leg)?;
            }
            let mut found = groups.all;
            let total = Total::Exactly(found.len() as u64);
            found.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| b.last.cmp(&a.last)));
            found.truncate(limit);
            let items = found.into_iter().filter_map(|group| group.row(asked).transpose());
            Ok(Page {
                items: items.collect::<Result<_, _>>()?,
                total,
                next: None,
                incomplete: asked.incomplete.clone(),
            })
        })
    }
}

/// A group as it is counted.
#[derive(Debug)]
struct Group {
    leg: Leg,
    message: String,
    count: u64,
    first: i64,
    last: i64,
    last_in_trace: Option<i64>,
}

/// What errors of one place share: of telemetry the numbers of callsite, source and type, of audits their texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    leg: Leg,
    numbers: [i64; 3],
    texts: String,
}

#[derive(Debug, Default)]
struct Groups {
    all: Vec<Group>,
    /// By place, then by message.
    known: HashMap<Place, HashMap<String, usize>>,
}

impl Groups {
    fn gather(&mut self, asked: &Asked<'_>, leg: &Condition) -> rusqlite::Result<()> {
        // Only what tells groups apart; the texts come with the few that are shown.
        let place_and_trace = match leg.leg {
            Leg::Event | Leg::Warning => {
                "ifnull(e.callsite, 0), ifnull(e.source, 0), ifnull(e.event_type, 0), '', e.trace IS NOT NULL"
            }
            Leg::Audit => "0, 0, 0, ifnull(e.source, '') || ' ' || e.event_type, e.correlation_id IS NOT NULL",
        };
        let sql = format!("SELECT e.at, ifnull(nullif(e.message, ''), e.payload), {place_and_trace} {}", leg.condition);
        let mut statement = asked.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(&leg.values))?;
        let mut message = String::new();
        let mut place = Place { leg: leg.leg, numbers: [0; 3], texts: String::new() };
        while let Some(row) = rows.next()? {
            let at = row.get(0)?;
            normalise(row.get_ref(1)?.as_str_or_null()?.unwrap_or_default(), &mut message);
            place.numbers = [row.get(2)?, row.get(3)?, row.get(4)?];
            place.texts.clear();
            place.texts.push_str(row.get_ref(5)?.as_str()?);
            if !self.known.contains_key(&place) {
                self.known.insert(place.clone(), HashMap::new());
            }
            let Some(messages) = self.known.get_mut(&place) else { continue };
            let known = messages.get(message.as_str()).or_else(|| {
                let is_full = self.all.len() >= GROUPS_MAX;
                is_full.then(|| messages.get(OTHERS)).flatten()
            });
            let index = match known {
                Some(index) => *index,
                None => {
                    if self.all.len() >= GROUPS_MAX {
                        OTHERS.clone_into(&mut message);
                    }
                    messages.insert(message.clone(), self.all.len());
                    self.all.push(Group {
                        leg: leg.leg,
                        message: message.clone(),
                        count: 0,
                        first: at,
                        last: at,
                        last_in_trace: None,
                    });
                    self.all.len() - 1
                }
            };
            let group = &mut self.all[index];
            group.count += 1;
            group.first = group.first.min(at);
            group.last = group.last.max(at);
            if row.get(6)? {
                group.last_in_trace = group.last_in_trace.max(Some(at));
            }
        }
        Ok(())
    }
}

impl Group {
    fn row(self, asked: &Asked<'_>) -> rusqlite::Result<Option<ErrorGroup>> {
        let sql = format!("SELECT {} {} WHERE e.at = ?", self.leg.columns(), self.leg.from());
        let at = self.last_in_trace.unwrap_or(self.last);
        let sample = read(asked.connection, &sql, &[at.into()], |row| EventRow::from_row(row, self.leg))?.pop();
        Ok(sample.map(|sample| ErrorGroup {
            place: match (&sample.file, sample.line) {
                (Some(file), Some(line)) => format!("{file}:{line}"),
                (Some(file), None) => file.clone(),
                _ => sample.source.clone(),
            },
            message: self.message,
            count: self.count,
            first: Timestamp::from_unix_ns(self.first),
            last: Timestamp::from_unix_ns(self.last),
            sample,
        }))
    }
}

/// The text with `<n>` in the place of numbers and `<id>` in that of ids.
///
/// A number is a run of digits, with points between digits. An id is a UUID; `0x` and hexadecimal digits; three or more groups
/// of those with colons between; four or more of them, digits and letters both; any sixteen digits and letters, both. Groups and
/// runs of nothing but digits are numbers, of nothing but letters words.
fn normalise(text: &str, out: &mut String) {
    out.clear();
    let text = &text[..text.floor_char_boundary(MESSAGE_BYTES)];
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let word = run(bytes, at, u8::is_ascii_alphanumeric);
        if word == 0 {
            // Everything up to the next word; of a character of several bytes none is taken for a letter.
            let other = run(bytes, at, |byte| !byte.is_ascii_alphanumeric());
            out.push_str(&text[at..at + other]);
            at += other;
            continue;
        }
        if let Some(length) = id(bytes, at, word) {
            out.push_str("<id>");
            at += length;
            continue;
        }
        let end = at + word;
        while at < end {
            let digits = number(bytes, at);
            if digits > 0 {
                out.push_str("<n>");
                at += digits;
            } else {
                let letters = run(&bytes[..end], at, u8::is_ascii_alphabetic);
                out.push_str(&text[at..at + letters]);
                at += letters;
            }
        }
    }
}

fn run(bytes: &[u8], at: usize, is_of_it: impl Fn(&u8) -> bool) -> usize {
    bytes[at..].iter().take_while(|byte| is_of_it(byte)).count()
}

/// Digits, with points between them.
fn number(bytes: &[u8], at: usize) -> usize {
    let mut length = run(bytes, at, u8::is_ascii_digit);
    while length > 0 && bytes.get(at + length) == Some(&b'.') {
        match run(bytes, at + length + 1, u8::is_ascii_digit) {
            0 => break,
            more => length += 1 + more,
        }
    }
    length
}

/// The length of the id that begins here with a word of so many bytes, if one does.
fn id(bytes: &[u8], at: usize, word: usize) -> Option<usize> {
    const UUID: [usize; 5] = [8, 4, 4, 4, 12];
    let mut place = at;
    let is_uuid = word == UUID[0]
        && UUID.iter().enumerate().all(|(index, length)| {
            let is_here = run(bytes, place, u8::is_ascii_hexdigit) == *length
                && (index == 4 || bytes.get(place + length) == Some(&b'-'));
            place += length + 1;
            is_here
        });
    if is_uuid {
        return Some(36);
    }
    if let Some(length) = colons(bytes, at) {
        return Some(length);
    }
    let word = &bytes[at..at + word];
    if word.len() > 2 && word.starts_with(b"0x") && word[2..].iter().all(u8::is_ascii_hexdigit) {
        return Some(word.len());
    }
    let is_long = word.len() >= ID_BYTES || word.len() >= HEX_ID_BYTES && word.iter().all(u8::is_ascii_hexdigit);
    (has_both(word) && is_long).then_some(word.len())
}

/// Addresses of networks and of their cards: at least three groups of at most four hexadecimal digits, with colons between.
fn colons(bytes: &[u8], at: usize) -> Option<usize> {
    let (mut end, mut groups) = (at, 0);
    loop {
        let digits = run(bytes, end, u8::is_ascii_hexdigit);
        if digits == 0 || digits > 4 || bytes.get(end + digits).is_some_and(u8::is_ascii_alphanumeric) {
            return None;
        }
        (end, groups) = (end + digits, groups + 1);
        let colons = run(bytes, end, |byte| *byte == b':');
        let goes_on = matches!(colons, 1 | 2) && bytes.get(end + colons).is_some_and(u8::is_ascii_hexdigit);
        if !goes_on {
            return (groups >= 3 && has_both(&bytes[at..end])).then_some(end - at);
        }
        end += colons;
    }
}

/// Both digits and letters.
fn has_both(word: &[u8]) -> bool {
    word.iter().any(u8::is_ascii_digit) && word.iter().any(u8::is_ascii_alphabetic)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normalised(text: &str) -> String {
        let mut out = String::new();
        normalise(text, &mut out);
        out
    }

    #[test]
    fn numbers_and_ids_go() {
        for (text, expected) in [
            ("card refused", "card refused"),
            ("order 7 refused", "order <n> refused"),
            ("took 1.5ms of 15ms", "took <n>ms of <n>ms"),
            ("10.0.0.1:8080 refused", "<n>:<n> refused"),
            ("version 2.", "version <n>."),
            ("key 550e8400-e29b-41d4-a716-446655440000 is gone", "key <id> is gone"),
            ("550e8400-e29b is short", "<id>-<id> is short"),
            ("bad pointer 0x7ffd3a10", "bad pointer <id>"),
            ("from fe80::1:a2b3 via 3a:ff:01:9c:00:d4", "from <id> via <id>"),
            ("at 10:15:30 in shop::a::b9 c3", "at <n>:<n>:<n> in shop::a::b<n> c<n>"),
            ("commit a1b2c3d of 1f", "commit <id> of <n>f"),
            ("commit deadbeef1", "commit <id>"),
            ("deadbeef is a word", "deadbeef is a word"),
            ("token sk4mXq81LpZr9TvB", "token <id>"),
            ("größe 12 ünï9", "größe <n> ünï<n>"),
            ("{\"error\":\"timeout\",\"after\":30}", "{\"error\":\"timeout\",\"after\":<n>}"),
            ("", ""),
        ] {
            assert_eq!(normalised(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_normalised_has_no_digits_and_stays_so(text in "(\\PC|[0-9a-f.-]){0,80}") {
            let once = normalised(&text);
            prop_assert!(!once.contains(|c: char| c.is_ascii_digit()), "{}", once);
            prop_assert_eq!(normalised(&once), once);
        }
    }
}
