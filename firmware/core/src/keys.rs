//! The public keys that an image and its first stage believe, compiled in. Before: whoever builds; after: [`crate::bundle`].

use crate::bundle::Key;

/// The greatest number of keys.
const MAX: usize = 4;

/// Keys from text: 64 hexadecimal digits each, with a comma between them.
pub struct Keys {
    keys: [Key; MAX],
    count: usize,
}

impl Keys {
    /// Reads keys; none of no text, so that no bundle is accepted. At compile time, so that a key that makes no sense is no key of a machine.
    ///
    /// # Panics
    ///
    /// The text makes no sense.
    pub const fn parse(text: Option<&str>) -> Self {
        const DIGITS: usize = 64;
        let mut keys = Self { keys: [[0; 32]; MAX], count: 0 };
        let Some(text) = text else { return keys };
        let text = text.as_bytes();
        assert!((text.len() + 1).is_multiple_of(DIGITS + 1), "a key has 64 hexadecimal digits, then a comma");
        keys.count = (text.len() + 1) / (DIGITS + 1);
        assert!(keys.count <= MAX, "too many keys");
        let mut key = 0;
        while key < keys.count {
            let mut at = 0;
            while at < DIGITS {
                let digit = match text[key * (DIGITS + 1) + at] {
                    digit @ b'0'..=b'9' => digit - b'0',
                    digit @ b'a'..=b'f' => digit - b'a' + 10,
                    _ => panic!("a key is hexadecimal"),
                };
                keys.keys[key][at / 2] = keys.keys[key][at / 2] << 4 | digit;
                at += 1;
            }
            key += 1;
        }
        keys
    }

    /// Returns them.
    pub fn list(&self) -> &[Key] {
        self.keys.get(..self.count).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_text() {
        assert!(Keys::parse(None).list().is_empty());
        let text = format!("{},{}", "0f".repeat(32), "a0".repeat(32));
        assert_eq!(Keys::parse(Some(&text)).list(), [[0x0f; 32], [0xa0; 32]]);
    }

    #[test]
    #[should_panic(expected = "64 hexadecimal digits")]
    fn half_a_key_is_none() {
        Keys::parse(Some("0f0f"));
    }
}
