//! Names of classes as strangers give them.

use super::refusal::Refusal;

/// Characters that turn the direction of text, are not seen, or end a line: a name with them looks like another one.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The name without blanks around it. It may hold any visible character: it is text, and never part of a path.
///
/// # Errors
/// 422 for an empty or long name and for characters that are not seen.
pub fn class_name(given: &str, chars: usize) -> Result<String, Refusal> {
    let name = given.trim();
    let count = name.chars().count();
    if count == 0 || count > chars {
        return Err(Refusal::unusable(format!(
            "name: 1 to {chars} characters were wanted, found {count}: give the class a name that people read"
        )));
    }
    if let Some(c) = name.chars().find(|c| is_hidden(*c)) {
        return Err(Refusal::unusable(format!(
            "name: visible characters were wanted, found U+{:04X}: leave it out",
            u32::from(c)
        )));
    }
    Ok(name.to_string())
}

#[cfg(test)]
mod tests {
    use super::class_name;

    #[test]
    fn names_are_text_that_can_be_seen() {
        for fine in
            ["zebra", "  Großer Panda ", "7", "../../etc/passwd", "<img src=x onerror=alert(1)>", "猫"]
        {
            assert_eq!(class_name(fine, 100).expect(fine), fine.trim());
        }
        let long = "x".repeat(101);
        for bad in ["", " \t ", "a\nb", "a\u{0}b", "abc\u{202e}gpj", "\u{feff}a", "a\u{200b}b", &long] {
            assert_eq!(class_name(bad, 100).expect_err("refused").status, 422, "{bad:?}");
        }
    }
}
