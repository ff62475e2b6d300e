//! What can be asked on the command line.

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgAction, Args as Group, CommandFactory as _, Parser, Subcommand, ValueEnum};

const EXIT_CODES: &str = "\
Exit codes:
  0  answered
  1  the answer is no: no such trace, the doctor or a check found something wrong, or with --exit-code: nothing was found
  2  the question makes no sense: arguments, a search, a time, SQL
  3  there is no store, or it cannot be read or written
  4  it took too long; narrow the question, or ask again

Times:  -3h  '2 days ago'  yesterday  10:30  2026-11-22  2026-11-22T10:30:00Z  (UTC, unless --local)
Search: word \"a phrase\" field:value field:>100 level:warn target:shop duration:>100ms span:name -not";

/// See what happened: logs, errors, traces and figures of a program that records with l0, while it runs or after it died.
#[derive(Debug, Parser)]
#[command(name = "l0", version, after_help = EXIT_CODES, max_term_width = 120)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// Of the process; ends it where they make no sense, or ask for help.
    pub(crate) fn of_process() -> Self {
        Self::parse_from(with_negations(std::env::args_os().collect()))
    }
}

/// Sub-commands with a search among their arguments.
const SEARCHING: [&str; 4] = ["logs", "tail", "errors", "export"];

/// `-term` among the words of a search is `--not=term`: the parser would take it for short options.
fn with_negations(args: Vec<OsString>) -> Vec<OsString> {
    let text = |arg: &OsString| arg.to_str().map(str::to_owned);
    let Some(command) = args.iter().filter_map(text).find(|arg| SEARCHING.contains(&arg.as_str())) else { return args };
    let root = Args::command();
    let known =
        || root.get_arguments().chain(root.find_subcommand(&command).into_iter().flat_map(|c| c.get_arguments()));
    let takes_value = |arg: &str| {
        known().any(|known| {
            let names = known.get_long_and_visible_aliases().unwrap_or_default();
            known.get_action().takes_values() && names.iter().any(|name| arg.strip_prefix("--") == Some(*name))
        })
    };
    // -h, -f, -n, -fn, -n5; what goes on otherwise is a word.
    let is_short = |arg: &str| {
        let letters = arg[1..].trim_end_matches(|c: char| c.is_ascii_digit());
        !letters.is_empty()
            && letters.chars().all(|c| matches!(c, 'h' | 'V') || known().any(|k| k.get_short() == Some(c)))
    };
    let (mut out, mut is_value, mut is_over) = (Vec::with_capacity(args.len()), false, false);
    for arg in args {
        let Some(said) = text(&arg).filter(|_| !is_value && !is_over) else {
            is_value = false;
            out.push(arg);
            continue;
        };
        is_over = said == "--";
        is_value = takes_value(&said) || is_short(&said) && said.ends_with('n');
        // As tail's users have it.
        if command == "tail" && said.strip_prefix('-').is_some_and(|count| count.parse::<u32>().is_ok()) {
            out.push(format!("-n{}", &said[1..]).into());
            continue;
        }
        let is_negation =
            said.len() > 1 && said.starts_with('-') && !said.starts_with("--") && said.is_char_boundary(1);
        out.push(if is_negation && !is_short(&said) { format!("--not={}", &said[1..]).into() } else { arg });
    }
    out
}

/// What every sub-command takes.
#[derive(Debug, Group)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Common {
    /// The store's directory [env: L0_DIR] [default: .l0 here, or in the nearest directory above]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Only what is not older: -3h, '2 days ago', yesterday, 10:30, 2026-11-22
    #[arg(long, global = true, value_name = "WHEN", allow_hyphen_values = true)]
    pub(crate) since: Option<String>,
    /// Only what is older
    #[arg(long, global = true, value_name = "WHEN", allow_hyphen_values = true)]
    pub(crate) until: Option<String>,
    /// At most this many rows
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// One JSON document instead of text; from `tail` and `export` one a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show and read times in the local zone, not in UTC
    #[arg(long, global = true)]
    pub(crate) local: bool,
    /// Do not bring in what a dead process left in its flight file
    #[arg(long, global = true)]
    pub(crate) no_recover: bool,
    /// Exit with 1 if nothing was found
    #[arg(long, global = true)]
    pub(crate) exit_code: bool,
    /// Colours; auto respects NO_COLOR and pipes
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Colour,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Who records, how it goes, how large the store is
    Status,
    /// Log lines, the newest first
    Logs(Logs),
    /// The last log lines, oldest first; with -f those to come, too
    Tail(Tail),
    /// Errors, grouped by place and message
    Errors(Search),
    /// Traces: the newest, the slowest or the failed
    Traces(Traces),
    /// One trace as a tree: by correlation id, UUID or hexadecimal id
    Trace(Trace),
    /// Spans by name: counts, percentiles, and where the time goes
    Spans,
    /// What limits let pass and refused, by scope and key
    Limits,
    /// Jobs by kind, and the latest of them
    Jobs(Jobs),
    /// Health: what each check last said, and since when; with a name, its changes
    Health(Health),
    /// Schedules: when each fires next and did last, what is late, missed, skipped or paused
    Schedules,
    /// One job in full
    Job(Job),
    /// Each time a program recorded, and how it ended
    Runs,
    /// A question in SQL, over telemetry_events, logs, spans, limits, runs, maintenance, audit, jobs
    Sql(Sql),
    /// Events as JSON lines, in the shape of tracing-subscriber's
    Export(Export),
    /// Whether the store is well, and what to do if not
    Doctor(Doctor),
    /// Remove what is old
    Prune(Prune),
    /// Give free pages back to the file system
    Compact,
}

#[derive(Debug, Group)]
pub(crate) struct Search {
    /// Words, field:value, field:>100, level:warn, duration:>100ms, and phrases in quotes that the shell leaves: '"not found"'; -
    /// before what must not be
    #[arg(value_name = "SEARCH")]
    search: Vec<String>,
    /// What must not match; among the words, -TERM is the same
    #[arg(long, value_name = "TERM", allow_hyphen_values = true)]
    not: Vec<String>,
}

impl Search {
    /// All of it as one search.
    pub(crate) fn text(&self) -> String {
        // A shell took the quotes of a phrase: without them its second word would be wanted.
        let not = self.not.iter().map(|term| match term.split_once(':') {
            _ if term.contains('"') || !term.contains(char::is_whitespace) => format!("-{term}"),
            Some((field, text)) if !field.contains(char::is_whitespace) => format!("-{field}:\"{text}\""),
            _ => format!("-\"{term}\""),
        });
        self.search.iter().cloned().chain(not).collect::<Vec<_>>().join(" ")
    }
}

#[derive(Debug, Group)]
#[command(next_help_heading = "Filters")]
pub(crate) struct Filters {
    #[command(flatten)]
    pub(crate) search: Search,
    /// Of this level or worse: trace, debug, info, warn, error, critical
    #[arg(long)]
    pub(crate) level: Option<String>,
    /// Whose target, or source, begins with this
    #[arg(long, visible_alias = "source")]
    pub(crate) target: Option<String>,
    /// Whose message contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// Of this correlation id, or trace
    #[arg(long, visible_alias = "correlation-id", value_name = "ID")]
    pub(crate) trace: Option<String>,
    /// In a span of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) span: Option<String>,
    /// Of this tenant
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// By this actor
    #[arg(long)]
    pub(crate) actor: Option<String>,
    /// Of this category
    #[arg(long)]
    pub(crate) category: Option<String>,
    /// Of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// With this status
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// With this field of this value; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) field: Vec<String>,
}

#[derive(Debug, Group)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) filters: Filters,
    /// What was recorded without `tracing` or `log`, and what was audited, too
    #[arg(long)]
    pub(crate) all: bool,
    /// Oldest first
    #[arg(long, visible_alias = "reverse")]
    pub(crate) oldest_first: bool,
    /// The page behind this cursor, with the same filters
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
}

#[derive(Debug, Group)]
pub(crate) struct Tail {
    #[command(flatten)]
    pub(crate) filters: Filters,
    /// Go on with the lines to come, until interrupted
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many of the last lines
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub(crate) lines: u32,
}

#[derive(Debug, Group)]
pub(crate) struct Traces {
    /// By duration, the longest first
    #[arg(long)]
    pub(crate) slowest: bool,
    /// Only those with an error
    #[arg(long, conflicts_with = "slowest")]
    pub(crate) failed: bool,
    /// The newest first, which is the default
    #[arg(long, conflicts_with_all = ["slowest", "failed"])]
    pub(crate) newest: bool,
    /// The page behind this cursor, with the same order
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
}

#[derive(Debug, Group)]
pub(crate) struct Trace {
    /// A correlation id, a UUID, or 32 hexadecimal digits
    #[arg(allow_hyphen_values = true)]
    pub(crate) id: String,
}

#[derive(Debug, Group)]
pub(crate) struct Jobs {
    /// Of this kind
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// In this state: pending, running, success, failed, cancelled
    #[arg(long)]
    pub(crate) state: Option<String>,
    /// Of this queue
    #[arg(long)]
    pub(crate) queue: Option<String>,
    /// The page behind this cursor, with the same filters
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
}

#[derive(Debug, Group)]
pub(crate) struct Health {
    /// The changes of this check, and its uptime
    pub(crate) name: Option<String>,
}

#[derive(Debug, Group)]
pub(crate) struct Job {
    /// As `l0 jobs` shows it
    pub(crate) id: String,
}

#[derive(Debug, Group)]
pub(crate) struct Sql {
    /// One statement that reads; `-` reads it from standard input. :since and :until in it are the window in unix nanoseconds,
    /// to compare with at_unix_ns
    #[arg(value_name = "STATEMENT", allow_hyphen_values = true)]
    pub(crate) statement: String,
}

#[derive(Debug, Group)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) filters: Filters,
    /// The format
    #[arg(long, default_value = "jsonl")]
    pub(crate) format: Format,
    /// Into this file, which must not exist yet, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Format {
    /// The lines of tracing_subscriber::fmt().json(), with trace_id and span_id
    Jsonl,
}

#[derive(Debug, Group)]
pub(crate) struct Doctor {
    /// Read what can be read of a damaged telemetry.db or state.db into a new store; the file is not changed
    #[arg(long, value_name = "FILE")]
    pub(crate) salvage: Option<PathBuf>,
    /// The directory of the new store; it must be empty or missing [default: FILE with the ending .salvaged]
    #[arg(long, value_name = "DIR", requires = "salvage")]
    pub(crate) into: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct Prune {
    /// Events and spans that are older than this: 7d, '2 weeks'; or give a moment with --until
    #[arg(
        long,
        value_name = "AGE",
        required_unless_present = "until",
        conflicts_with = "until",
        allow_hyphen_values = true
    )]
    pub(crate) older_than: Option<String>,
    /// Warnings and errors that are older than this [default: as the others]
    #[arg(long, value_name = "AGE", allow_hyphen_values = true)]
    pub(crate) warnings_older_than: Option<String>,
    /// Only say what would be removed
    #[arg(long, action = ArgAction::SetTrue)]
    pub(crate) dry_run: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Args {
        Args::parse_from(with_negations(line.split(' ').map(OsString::from).collect()))
    }

    #[test]
    fn the_arguments_are_well_defined() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_minus_before_a_term_negates_it() {
        let search = |line: &str| match parsed(line).command {
            Command::Logs(logs) => logs.filters.search.text(),
            Command::Tail(tail) => format!("{} {} {}", tail.filters.search.text(), tail.lines, tail.follow),
            Command::Errors(search) => search.text(),
            other => panic!("{other:?}"),
        };
        assert_eq!(search("l0 logs timeout -retry level:warn --limit 5 -hello"), "timeout level:warn -retry -hello");
        assert_eq!(search("l0 --since -3h logs -level:warn --until -1h"), "-level:warn");
        assert_eq!(search("l0 tail -f -n 5 -needle -füllen"), "-needle -füllen 5 true");
        assert_eq!(search("l0 tail -n5 a -f"), "a 5 true");
        assert_eq!(search("l0 tail -fn 5 a"), "a 5 true");
        assert_eq!(search("l0 tail -20"), " 20 false");
        assert_eq!(search("l0 errors -- -x"), "-x");
        let phrases = Search { search: vec![], not: ["a b", "message:a b", "x:\"a b\"", "a"].map(String::from).into() };
        assert_eq!(phrases.text(), r#"-"a b" -message:"a b" -x:"a b" -a"#);
        assert_eq!(parsed("l0 logs --since -3h").common.since.as_deref(), Some("-3h"));
        assert_eq!(parsed("l0 trace -7").common.since, None);
    }
}
