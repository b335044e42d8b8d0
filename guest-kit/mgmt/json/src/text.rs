//! The text of a tree, and a hash of it. Before: [`Value::to_hashed_vec`].

use alloc::vec::Vec;

use crate::Value;

/// What has been written so far, and a hash of the parts of it that stay.
pub struct Writer<'a> {
    text: Vec<u8>,
    hash: u64,
    /// Up to where it was looked at for the hash.
    seen: usize,
    stays: &'a dyn Fn(&str) -> bool,
}

impl<'a> Writer<'a> {
    /// Returns a writer for which members of objects stay, or do not, by their names.
    pub fn new(stays: &'a dyn Fn(&str) -> bool) -> Self {
        // Most resources are no longer than that.
        Self { text: Vec::with_capacity(4096), hash: 0xcbf2_9ce4_8422_2325, seen: 0, stays }
    }

    /// Returns the text and the hash.
    pub fn finish(mut self) -> (Vec<u8>, u64) {
        self.stay();
        (self.text, self.hash)
    }

    /// Takes what was written since the last look into the hash: FxHash, eight bytes at a time.
    fn stay(&mut self) {
        let new = &self.text[self.seen..];
        let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        let (words, rest) = new.as_chunks::<8>();
        let hash = words.iter().fold(self.hash, |hash, word| mix(hash, u64::from_le_bytes(*word)));
        let rest = rest.iter().fold(new.len() as u64, |word, byte| word << 8 | u64::from(*byte));
        (self.hash, self.seen) = (mix(hash, rest), self.text.len());
    }

    /// Appends a value.
    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.text.extend_from_slice(b"null"),
            Value::Bool(is_true) => self.text.extend_from_slice(if *is_true { b"true" } else { b"false" }),
            Value::Number(number) => self.text.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
            Value::Other(number) => self.text.extend_from_slice(alloc::format!("{number}").as_bytes()),
            Value::String(text) => self.string(text),
            Value::Array(items) => {
                let mut before = b'[';
                for item in items {
                    self.text.push(core::mem::replace(&mut before, b','));
                    self.value(item);
                }
                self.text.extend_from_slice(if before == b'[' { b"[]" } else { b"]" });
            }
            Value::Object(map) => {
                let mut before = b'{';
                for (name, value) in map {
                    let is_new = !(self.stays)(name);
                    if is_new {
                        self.stay();
                    }
                    self.text.push(core::mem::replace(&mut before, b','));
                    self.string(name);
                    self.text.push(b':');
                    if is_new {
                        let all = core::mem::replace(&mut self.stays, &|_| true);
                        self.value(value);
                        (self.stays, self.seen) = (all, self.text.len());
                    } else {
                        self.value(value);
                    }
                }
                self.text.extend_from_slice(if before == b'{' { b"{}" } else { b"}" });
            }
        }
    }

    /// Appends a text with what RFC 8259, section 7, has escaped.
    fn string(&mut self, text: &str) {
        self.text.push(b'"');
        if has_nothing_to_escape(text.as_bytes()) {
            self.text.extend_from_slice(text.as_bytes());
        } else {
            self.escaped(text);
        }
        self.text.push(b'"');
    }

    #[cold]
    fn escaped(&mut self, text: &str) {
        for &byte in text.as_bytes() {
            match byte {
                b'"' | b'\\' => self.text.extend_from_slice(&[b'\\', byte]),
                b'\n' => self.text.extend_from_slice(b"\\n"),
                b'\r' => self.text.extend_from_slice(b"\\r"),
                b'\t' => self.text.extend_from_slice(b"\\t"),
                0..0x20 => self.text.extend_from_slice(alloc::format!("\\u{byte:04x}").as_bytes()),
                _ => self.text.push(byte),
            }
        }
    }
}

/// Returns whether no byte is a control character, a quotation mark or a backslash.
fn has_nothing_to_escape(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // Eight bytes at a time: the highest bit of each is set where it is less than a bound, and where it is zero.
    let is_less = |word: u64, bound: u8| word.wrapping_sub(ONES * u64::from(bound)) & !word & HIGHS;
    let is = |word: u64, byte: u8| is_less(word ^ (ONES * u64::from(byte)), 1);
    let escapes = |word: u64| is_less(word, 0x20) | is(word, b'"') | is(word, b'\\');
    let (words, rest) = bytes.as_chunks::<8>();
    let found = words.iter().fold(0, |found, word| found | escapes(u64::from_le_bytes(*word)));
    // What is left over, as the last of the eight bytes that end there, or with spaces before it.
    let last = bytes.last_chunk::<8>().map(|last| u64::from_le_bytes(*last));
    let last =
        last.unwrap_or_else(|| rest.iter().fold(ONES * u64::from(b' '), |word, byte| word << 8 | u64::from(*byte)));
    found | escapes(last) == 0
}
