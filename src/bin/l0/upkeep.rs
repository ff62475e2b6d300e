//! What changes a store: `prune`, `compact`.

use indicatif::{HumanBytes, HumanCount};
use l0::{Cleanup, Retention};
use serde_json::json;

use crate::{
    args::{Common, Prune},
    failure::{Failure, Outcome},
    place::Place,
    screen::Screen,
    when::{self, Window},
};

pub(crate) fn prune(
    place: &Place,
    asked: &Prune,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    not_taken(&[("--limit", common.limit.is_some())], "prune")?;
    if window.since.is_some() {
        return Err(Failure::Usage(
            "the oldest go first: prune takes --until or --older-than, and no --since".to_owned(),
        ));
    }
    let age = match &asked.older_than {
        Some(age) => when::age("--older-than", age)?,
        None => window.age_of_end()?,
    };
    let mut retention = Retention::default().max_age(age);
    if let Some(text) = &asked.warnings_older_than {
        retention = retention.max_age_of_warnings(when::age("--warnings-older-than", text)?);
    }
    if asked.dry_run {
        // A store of an earlier schema is looked at in a copy, which goes when it is dropped.
        let (_, copy) = place.reader(&l0::inspect(&place.dir)?, false, screen)?;
        let would = l0::cleanup(copy.as_ref().map_or(place.dir.as_path(), |copy| copy.path()), &retention, true)?;
        tell(
            &would,
            &format!("{} rows would be removed, about {}", HumanCount(would.rows), HumanBytes(would.bytes)),
            screen,
        )?;
        return Ok(Outcome::Answered);
    }
    writable(place)?;
    let would = l0::cleanup(&place.dir, &retention, true).map_or(0, |would| would.rows);
    let mut done = to_the_end(screen, "pruning", || l0::cleanup(&place.dir, &retention, false))?;
    done.rows = done.rows.max(would);
    let text = format!(
        "{} rows removed; {} free for new ones, {} given back to the file system",
        HumanCount(done.rows),
        HumanBytes(done.bytes),
        HumanBytes(done.returned_bytes)
    );
    tell(&done, &text, screen)?;
    if done.rows > 0 && done.returned_bytes < done.bytes && !screen.is_json {
        screen.note("l0 compact gives free pages back to the file system");
    }
    Ok(Outcome::Answered)
}

pub(crate) fn compact(place: &Place, common: &Common, screen: &mut Screen) -> Result<Outcome, Failure> {
    let options =
        [("--limit", common.limit.is_some()), ("--since", common.since.is_some()), ("--until", common.until.is_some())];
    not_taken(&options, "compact")?;
    writable(place)?;
    let done = to_the_end(screen, "compacting", || l0::compact(&place.dir))?;
    let bytes: u64 = l0::inspect(&place.dir)?.files.iter().map(|file| file.bytes).sum();
    let text = format!(
        "{} given back to the file system; the store's databases take {}",
        HumanBytes(done.returned_bytes),
        HumanBytes(bytes)
    );
    tell(&done, &text, screen)?;
    Ok(Outcome::Answered)
}

/// What would change nothing is not taken for what it says.
fn not_taken(options: &[(&str, bool)], command: &str) -> Result<(), Failure> {
    match options.iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => Err(Failure::Usage(format!("{command} works on the whole store and takes no {option}"))),
        None => Ok(()),
    }
}

/// A store of another user, or one that is protected, is not changed, though we could.
fn writable(place: &Place) -> Result<(), Failure> {
    let found = l0::inspect(&place.dir)?;
    let why = match (found.is_own, found.is_writable) {
        (false, _) => "it belongs to another user: ask as that user",
        (_, false) => "it is write-protected: work on a copy",
        _ => return Ok(()),
    };
    Err(Failure::Other(format!("{} is not changed: {why}", place.dir.display())))
}

/// The library works for a minute at a time; of what took several the last step alone is told.
fn to_the_end(screen: &Screen, what: &'static str, step: impl Fn() -> l0::Result<Cleanup>) -> Result<Cleanup, Failure> {
    let _busy = screen.busy(what);
    loop {
        match step() {
            Err(error) if error.is_timeout() => {}
            outcome => return Ok(outcome?),
        }
    }
}

fn tell(done: &Cleanup, text: &str, screen: &mut Screen) -> Result<(), Failure> {
    if screen.is_json {
        let Cleanup { rows, bytes, returned_bytes, .. } = done;
        screen.json(&json!({"rows": rows, "freed_bytes": bytes, "returned_bytes": returned_bytes}))?;
        return Ok(());
    }
    Ok(screen.line(text)?)
}
