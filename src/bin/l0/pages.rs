//! As many rows as are wanted: the library gives them in pages.

use l0::query::{Cursor, Page, Total};

use crate::{failure::Failure, screen::Screen};

/// Asks for page after page, each behind the last and of what is still wanted, of which the library may give less. Says where
/// the next begins, and how many there are in all.
pub(crate) fn pages<T>(
    wanted: u32,
    mut after: Option<Cursor>,
    screen: &mut Screen,
    page: impl Fn(Option<&Cursor>, u32) -> l0::Result<Page<T>>,
) -> Result<(Vec<T>, Option<Cursor>, Total), Failure> {
    let (mut rows, mut left) = (Vec::new(), wanted);
    loop {
        let found = page(after.as_ref(), left)?;
        left = left.saturating_sub(u32::try_from(found.items.len()).unwrap_or(u32::MAX));
        if rows.is_empty() {
            screen.incomplete(found.incomplete.as_deref());
        }
        rows.extend(found.items);
        match found.next {
            Some(next) if left > 0 => after = Some(next),
            next => return Ok((rows, next, found.total)),
        }
    }
}
