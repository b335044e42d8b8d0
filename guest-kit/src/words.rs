//! Boot arguments: words separated by spaces, each `key` or `key=value`. Before: `machine`, which finds the text in the
//! device tree. After: the guests.

/// Returns the value of the last word `key=value`; a bare `key` has the value "".
pub fn get<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split_ascii_whitespace()
        .filter_map(|word| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            (name == key).then_some(value)
        })
        .next_back()
}

/// Returns the value of `key=NUMBER`, decimal or `0x…`, if it is there and a number.
pub fn number(text: &str, key: &str) -> Option<u64> {
    let value = get(text, key)?;
    match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    }
}

/// Returns true if the list `key=NAME,NAME…` holds `name`, or if there is no such list.
pub fn selects(text: &str, key: &str, name: &str) -> bool {
    get(text, key).is_none_or(|list| list.split(',').any(|entry| entry == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_wins() {
        assert_eq!(get("a=1 b a=2", "a"), Some("2"));
        assert_eq!(get("a=1 b a=2", "b"), Some(""));
        assert_eq!(get("a=1 b a=2", "c"), None);
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(number("n=10 m=0x10 k=ten", "n"), Some(10));
        assert_eq!(number("n=10 m=0x10 k=ten", "m"), Some(16));
        assert_eq!(number("n=10 m=0x10 k=ten", "k"), None);
    }

    #[test]
    fn without_a_list_everything_is_selected() {
        assert!(selects("", "only", "x"));
        assert!(selects("only=x,y", "only", "y"));
        assert!(!selects("only=xy", "only", "x"));
    }
}
