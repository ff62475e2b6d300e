//! `doctor --salvage`: what can be read of a damaged database becomes a new store.

use std::path::Path;

use indicatif::HumanCount;

use crate::{
    failure::{Failure, Outcome},
    screen::{Screen, Text},
};

pub(crate) fn salvage(file: &Path, into: Option<&Path>, screen: &mut Screen) -> Result<Outcome, Failure> {
    let default = file.with_extension("salvaged");
    let salvage = {
        let _busy = screen.busy("reading what can be read");
        l0::salvage(file, into.unwrap_or(&default))?
    };
    let found = if salvage.rows > 0 { Outcome::Answered } else { Outcome::Nothing };
    if screen.is_json {
        screen.json(&salvage)?;
        return Ok(found);
    }
    let rows = salvage.tables.iter().map(|table| {
        vec![Text::plain(&table.name), Text::number(HumanCount(table.rows)), Text::number(HumanCount(table.gaps))]
    });
    screen.table(&["table", "rows", "gaps"], &[], rows.collect())?;
    let dir = salvage.dir.display();
    screen.line(&format!(
        "\n{} rows of {} are in the new store {dir}; {} places could not be read",
        HumanCount(salvage.rows),
        salvage.database,
        HumanCount(salvage.gaps)
    ))?;
    screen.note(&format!("look at it with: l0 status --dir {dir}"));
    Ok(found)
}
