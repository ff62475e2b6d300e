//! Where answers go: standard output, as text or JSON; notes, errors and progress to standard error.

use std::{
    io::{self, BufWriter, IsTerminal as _, Stdout, Write as _},
    time::Duration,
};

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, Width, presets};
use console::{Alignment, Style, Term};
use indicatif::{ProgressBar, ProgressStyle};
use l0::query::{Total, harmless, harmless_json};
#[cfg(unix)]
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};
use serde::Serialize;

use crate::{
    args::{Colour, Common},
    failure::Failure,
};

/// A narrower table says nothing.
const WIDTH_MIN: usize = 40;
/// Columns a cell needs to say something, with the space behind it.
const COLUMN_MIN: usize = 6;
/// A text that is cut to less says nothing.
const TEXT_MIN: usize = 20;
/// A cell of more bytes does not stand in a column.
const CELL_MAX: usize = 10_000;
/// Between two columns.
const SPACE: usize = 2;

/// What a text is, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Heading,
    Faint,
    Good,
    Warning,
    Bad,
    Name,
}

/// One cell of a table.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) tone: Tone,
    /// Numbers stand at the right.
    pub(crate) is_number: bool,
    /// Numbers and times say nothing when they are cut.
    pub(crate) is_whole: bool,
}

impl Text {
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Tone::Plain, is_number: false, is_whole: false }
    }

    pub(crate) fn number(text: impl ToString) -> Self {
        Self { text: text.to_string(), tone: Tone::Plain, is_number: true, is_whole: true }
    }

    /// A time, or a word that is one of a few.
    pub(crate) fn time(text: impl Into<String>) -> Self {
        Self { is_whole: true, ..Self::plain(text) }
    }

    pub(crate) fn toned(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

#[derive(Debug)]
pub(crate) struct Screen {
    out: BufWriter<Stdout>,
    pub(crate) is_json: bool,
    has_colours: bool,
    /// Of the terminal, or as COLUMNS says; a pipe takes any width.
    width: Option<usize>,
}

impl Screen {
    pub(crate) fn new(common: &Common) -> Self {
        let has_colours = match common.color {
            Colour::Auto => console::colors_enabled() && io::stdout().is_terminal(),
            Colour::Always => true,
            Colour::Never => false,
        };
        let of_terminal = Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
        let said = || std::env::var("COLUMNS").ok()?.parse().ok();
        let width = of_terminal.filter(|_| io::stdout().is_terminal()).or_else(said);
        Self {
            out: BufWriter::new(io::stdout()),
            is_json: common.json,
            has_colours,
            width: width.map(|width| width.max(WIDTH_MIN)),
        }
    }

    /// Columns there are for a drawing.
    pub(crate) fn width_or(&self, width: usize) -> usize {
        self.width.unwrap_or(width)
    }

    /// The text in its tone's colour, if there are colours.
    pub(crate) fn paint(&self, text: &str, tone: Tone) -> String {
        let style = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Heading => Style::new().bold(),
            Tone::Faint => Style::new().dim(),
            Tone::Good => Style::new().green(),
            Tone::Warning => Style::new().yellow(),
            Tone::Bad => Style::new().red(),
            Tone::Name => Style::new().cyan(),
        };
        style.force_styling(self.has_colours).apply_to(text).to_string()
    }

    /// A line of the answer. What comes from a store is made harmless before.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// A line of a table that is laid out already, cut where the screen ends.
    pub(crate) fn line_within(&mut self, text: &str) -> io::Result<()> {
        match self.width {
            Some(width) => writeln!(self.out, "{}", console::truncate_str(text, width, "…")),
            None => self.line(text),
        }
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The answer's own stream, for what is written as it is.
    pub(crate) fn stream(&mut self) -> &mut impl io::Write {
        &mut self.out
    }

    /// A table within the screen's width. Where that is too narrow the dispensable columns go, in that order; then texts
    /// are cut, never broken over lines. One of so many columns that nothing would be left of them is written row by row.
    pub(crate) fn table(
        &mut self,
        headings: &[&str],
        dispensable: &[&str],
        mut rows: Vec<Vec<Text>>,
    ) -> io::Result<()> {
        let mut headings = headings.to_vec();
        let Some(width) = self.width else {
            // Laying out a text of megabytes takes its time, and nobody reads it in a column.
            let is_long = rows.iter().flatten().any(|cell| cell.text.len() > CELL_MAX);
            return if is_long { self.records(&headings, &rows, usize::MAX) } else { self.grid(&headings, &rows, &[]) };
        };
        for cell in rows.iter_mut().flatten() {
            // More does not fit into any column.
            cell.text.truncate(cell.text.floor_char_boundary(width * 8));
        }
        if headings.len() * COLUMN_MIN > width {
            return self.records(&headings, &rows, width);
        }
        let mut dispensable = dispensable.iter();
        loop {
            let widths = widths(&headings, &rows);
            let needed = |(whole, content): &(bool, usize)| if *whole { *content } else { (*content).min(TEXT_MIN) };
            if widths.iter().map(needed).sum::<usize>() + SPACE * (widths.len() - 1) <= width {
                let whole: Vec<_> = widths.into_iter().map(|(whole, content)| whole.then_some(content)).collect();
                return self.grid(&headings, &rows, &whole);
            }
            let Some(gone) = dispensable.next() else { return self.grid(&headings, &rows, &[]) };
            if let Some(index) = headings.iter().position(|heading| heading == gone) {
                headings.remove(index);
                rows.iter_mut().for_each(|row| drop(row.remove(index)));
            }
        }
    }

    fn records(&mut self, headings: &[&str], rows: &[Vec<Text>], width: usize) -> io::Result<()> {
        let name_width = headings.iter().map(|heading| console::measure_text_width(heading)).max().unwrap_or(0);
        for (index, row) in rows.iter().enumerate() {
            let title = self.paint(&format!("row {}", index + 1), Tone::Heading);
            writeln!(self.out, "{title}")?;
            for (heading, cell) in headings.iter().zip(row) {
                let name = console::pad_str(heading, name_width, Alignment::Left, None);
                let line =
                    format!("  {}  {}", self.paint(&name, Tone::Faint), self.paint(&harmless(&cell.text), cell.tone));
                let line = if width < usize::MAX { console::truncate_str(&line, width, "…") } else { line.into() };
                writeln!(self.out, "{}", line.trim_end())?;
            }
        }
        Ok(())
    }

    fn grid(&mut self, headings: &[&str], rows: &[Vec<Text>], whole: &[Option<usize>]) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        if let Some(width) = self.width {
            table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
        } else {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
        let is_number = |index: usize| rows.iter().any(|row| row.get(index).is_some_and(|cell| cell.is_number));
        let alignment = |is_number| if is_number { CellAlignment::Right } else { CellAlignment::Left };
        let heading = headings.iter().enumerate().map(|(index, heading)| {
            Cell::new(self.paint(heading, Tone::Heading)).set_alignment(alignment(is_number(index)))
        });
        table.set_header(Row::from(heading.collect::<Vec<_>>()));
        for row in rows {
            let cells = row.iter().map(|cell| {
                Cell::new(self.paint(&harmless(&cell.text), cell.tone)).set_alignment(alignment(cell.is_number))
            });
            let mut row = Row::from(cells.collect::<Vec<_>>());
            row.max_height(1);
            table.add_row(row);
        }
        let last = headings.len().saturating_sub(1);
        for (index, column) in table.column_iter_mut().enumerate() {
            let space = if index == last { 0 } else { SPACE as u16 };
            column.set_padding((0, space));
            if let Some(Some(width)) = whole.get(index) {
                let width = u16::try_from(*width).unwrap_or(u16::MAX).saturating_add(space);
                column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width)));
            }
        }
        for line in table.lines() {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    /// A JSON document: one object.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let json = serde_json::to_string_pretty(value)?;
        writeln!(self.out, "{}", harmless_json(&json))
    }

    /// A JSON document: an array, an element a line.
    pub(crate) fn json_array(&mut self, rows: &[impl Serialize]) -> io::Result<()> {
        for (index, row) in rows.iter().enumerate() {
            let json = serde_json::to_string(row)?;
            write!(self.out, "{}{}", if index == 0 { "[\n" } else { ",\n" }, harmless_json(&json))?;
        }
        writeln!(self.out, "{}", if rows.is_empty() { "[]" } else { "\n]" })
    }

    /// A line of JSON.
    pub(crate) fn json_line(&mut self, row: &impl Serialize) -> io::Result<()> {
        let json = serde_json::to_string(row)?;
        writeln!(self.out, "{}", harmless_json(&json))
    }

    /// Something beside the answer that a person should know.
    pub(crate) fn note(&mut self, text: &str) {
        // In its place among the lines, where both go to one terminal. Whoever cannot read it goes without.
        let _ = self.out.flush();
        let _ = writeln!(io::stderr(), "l0: {}", harmless(text));
    }

    /// That there is more than was shown, and how to get it.
    pub(crate) fn more(&mut self, shown: usize, total: Total, what: &str, next: &str) {
        let of = match total {
            Total::AtLeast(count) if count <= shown as u64 + 1 => "more".to_owned(),
            total => total.to_string(),
        };
        self.note(&format!("{shown} of {of} {what}; the next with --after {next}, more at once with --limit"));
    }

    /// Whether whoever reads the answer is still there: one who waits for the next line would not notice otherwise.
    #[cfg(unix)]
    pub(crate) fn is_read(&self) -> Result<(), Failure> {
        let stdout = io::stdout();
        let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let is_gone = poll(&mut polled, Some(&now)).is_ok()
            && polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
        if is_gone { Err(Failure::ClosedPipe) } else { Ok(()) }
    }

    #[cfg(not(unix))]
    pub(crate) fn is_read(&self) -> Result<(), Failure> {
        Ok(())
    }

    pub(crate) fn error(&mut self, failure: &Failure) {
        self.note(&failure.to_string());
    }

    /// Why an answer may lack something.
    pub(crate) fn incomplete(&mut self, why: Option<&str>) {
        if let Some(why) = why {
            self.note(why);
        }
    }

    /// Shows on a terminal that something takes its time, until it is dropped.
    pub(crate) fn busy(&self, what: &'static str) -> Progress {
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(Duration::from_millis(120));
        Progress(bar)
    }

    /// A bar of how much is done, until it is dropped.
    pub(crate) fn progress(&self, what: &'static str, total: u64) -> Progress {
        let bar = ProgressBar::new(total).with_message(what);
        if let Ok(style) =
            ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {per_sec}, {eta} left")
        {
            bar.set_style(style);
        }
        Progress(bar)
    }

    /// Whether progress would be seen.
    pub(crate) fn shows_progress(&self) -> bool {
        io::stderr().is_terminal()
    }
}

/// Of each column, whether its cells are to be whole, and how wide it would be.
fn widths(headings: &[&str], rows: &[Vec<Text>]) -> Vec<(bool, usize)> {
    let of_column = |(index, heading): (usize, &&str)| {
        let cells = || rows.iter().filter_map(|row| row.get(index));
        let widest = cells().map(|cell| console::measure_text_width(&harmless(&cell.text))).max().unwrap_or(0);
        (cells().all(|cell| cell.is_whole), widest.max(console::measure_text_width(heading)))
    };
    headings.iter().enumerate().map(of_column).collect()
}

/// Goes away when dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn at(&self, done: u64) {
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
