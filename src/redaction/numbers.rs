//! Cards, accounts and social security numbers among the digits of a text: where a number begins and ends, and whether the
//! text around it lets it be one.

use std::ops::Range;

use super::checksum::{is_card, is_iban, is_ssn};

/// Neither side continues it as a number, a word or a path would.
fn stands_alone(text: &str, range: &Range<usize>) -> bool {
    let joins = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let before = text[..range.start].chars().next_back();
    let mut after = text[range.end..].chars();
    let next = after.next();
    let is_decimal = |c: Option<char>, d: Option<char>| c == Some('.') && d.is_some_and(|d| d.is_ascii_digit());
    // `visa-4111..` is joined, and yet a card's.
    let word = text[..range.start]
        .trim_end_matches(['-', '_'])
        .rsplit(|c: char| !c.is_ascii_alphabetic())
        .next()
        .unwrap_or("");
    let is_named =
        ["visa", "card", "pan", "cc", "amex", "mastercard"].iter().any(|name| word.eq_ignore_ascii_case(name));
    let is_joined = before.is_some_and(joins) && !is_named;
    let digit_before_dot = before == Some('.') && text[..range.start - 1].ends_with(|c: char| c.is_ascii_digit());
    !is_joined && !next.is_some_and(joins) && !is_decimal(next, after.next()) && !digit_before_dot
}

/// The cards' numbers in a run of digits: in one piece or in groups with one kind of separator, standing alone.
pub(super) fn cards_in(text: &str, run: Range<usize>, add: &mut impl FnMut(Range<usize>)) {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let digits = run.clone().filter(|at| text.as_bytes()[*at].is_ascii_digit());
    for at in digits {
        match groups.last_mut() {
            Some(group) if group.end == at => group.end += 1,
            _ => groups.push(at..at + 1),
        }
    }
    // A run of hundreds of digits is no card, and is not looked at again and again.
    let is_card_at = |first: usize| {
        (first..groups.len().min(first + 5))
            .map(|last| (&groups[first..=last], groups[first].start..groups[last].end))
            .find(|(groups, range)| {
                range.len() < 40 && is_grouped(groups) && stands_alone(text, range) && is_card_text(text, range)
            })
    };
    let mut first = 0;
    while first < groups.len() {
        match is_card_at(first) {
            Some((taken, range)) => {
                first += taken.len();
                add(range);
            }
            None => first += 1,
        }
    }
}

/// In one piece, 4-6-5 as American Express has it, or in fours.
fn is_grouped(groups: &[Range<usize>]) -> bool {
    let mut lengths = groups.iter().map(Range::len);
    match groups.len() {
        1 => true,
        3 if lengths.clone().eq([4, 6, 5]) || lengths.clone().eq([4, 6, 4]) => true,
        count => lengths.by_ref().take(count - 1).all(|length| length == 4) && lengths.all(|last| last <= 4),
    }
}

fn is_card_text(text: &str, range: &Range<usize>) -> bool {
    let found = &text[range.clone()];
    let digits: Vec<u8> = found.bytes().filter(u8::is_ascii_digit).map(|b| b - b'0').collect();
    if found.contains(' ') && found.contains('-') || !is_card(&digits) || text[..range.start].ends_with('+') {
        return false;
    }
    // In one piece, thirteen digits are far more often those of goods, and more than sixteen a number of 64 bits: the text
    // beside must speak of a card.
    if digits.len() < found.len() || matches!(digits.len(), 14..=16) {
        return true;
    }
    let from = text.floor_char_boundary(range.start.saturating_sub(64));
    let around = text[from..text.floor_char_boundary(range.end + 64)].to_ascii_lowercase();
    ["card", "pay", "paid", "bank", "charge", "visa", "pan"].iter().any(|word| around.contains(word))
}

/// With dashes, or where the text says what it is.
pub(super) fn is_ssn_text(text: &str, range: Range<usize>) -> bool {
    let found = &text[range.clone()];
    let number = |range: Range<usize>| found[range].parse().unwrap_or(0);
    let says_so = || {
        let text = text.to_ascii_lowercase();
        text.contains("ssn") || text.contains("social sec")
    };
    let is_dashed = found.as_bytes()[3] == b'-' && found.as_bytes()[6] == b'-';
    is_ssn(number(0..3), number(4..6), number(7..11)) && stands_alone(text, &range) && (is_dashed || says_so())
}

/// An account's number: the longest beginning that passes its check, for the next word may look like a group.
pub(super) fn iban_in(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    if text[..range.start].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let found = &text[range.clone()];
    let ends = found.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
    ends.filter(|end| !text[range.start + end..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        .find(|end| {
            let plain: Vec<u8> = found[..*end].bytes().filter(|b| *b != b' ').collect();
            is_iban(&plain)
        })
        .map(|end| range.start..range.start + end)
}
