//! The checks that tell a card, an account or a social security number from other digits.

/// A payment card: issuer prefix, its length, and the Luhn check (ISO/IEC 7812-1, annex B). Takes digits only.
pub(super) fn is_card(digits: &[u8]) -> bool {
    let prefix = |n: usize| digits.iter().take(n).fold(0_u32, |sum, d| sum * 10 + u32::from(*d));
    let (two, three, four) = (prefix(2), prefix(3), prefix(4));
    let is_issued = match digits.len() {
        13 => digits[0] == 4, // none was issued for decades
        14 => matches!(two, 36 | 38 | 39) || matches!(three, 300..=305) || three == 309,
        15 => matches!(two, 34 | 37),
        16 => {
            digits[0] == 4
                || matches!(two, 51..=55 | 65)
                || matches!(four, 2200..=2204 | 2221..=2720 | 3528..=3589 | 6011)
                || matches!(three, 644..=649)
                || two == 62
        }
        17 | 18 => two == 62,
        19 => two == 62 || digits[0] == 4,
        _ => false,
    };
    is_issued && luhn(digits)
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(index, digit)| {
            let value = u32::from(*digit) << (index % 2);
            if value > 9 { value - 9 } else { value }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// An international bank account number: the check modulo 97 (ISO 13616). Takes letters and digits only.
pub(super) fn is_iban(text: &[u8]) -> bool {
    if !(15..=34).contains(&text.len()) {
        return false;
    }
    let rotated = text[4..].iter().chain(&text[..4]);
    rotated.fold(0_u32, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte.to_ascii_uppercase().saturating_sub(b'A')) + 10) % 97,
    }) == 1
}

/// A social security number that may have been issued (SSA, since 2011): area, group, serial.
pub(super) fn is_ssn(area: u32, group: u32, serial: u32) -> bool {
    !matches!(area, 0 | 666 | 900..) && group != 0 && serial != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(text: &str) -> Vec<u8> {
        text.bytes().map(|b| b - b'0').collect()
    }

    #[test]
    fn published_test_numbers_pass_and_near_misses_fail() {
        for card in [
            "4111111111111111",
            "4222222222222",
            "5555555555554444",
            "2223003122003222",
            "378282246310005",
            "6011111111111117",
            "3530111333300000",
            "30569309025904",
            "38520000023237",
            "6200000000000005",
        ] {
            assert!(is_card(&digits(card)), "{card}");
        }
        for not in
            ["4111111111111112", "1234567812345670", "411111111111111", "9999999999999995", "1700000000000000000"]
        {
            assert!(!is_card(&digits(not)), "{not}");
        }
        assert!(is_iban(b"DE89370400440532013000") && is_iban(b"GB29NWBK60161331926819"));
        assert!(!is_iban(b"DE88370400440532013000") && !is_iban(b"DE89"));
        assert!(is_ssn(123, 45, 6789) && !is_ssn(666, 45, 6789) && !is_ssn(123, 0, 6789) && !is_ssn(900, 1, 1));
    }
}
