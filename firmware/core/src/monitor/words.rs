//! Words of a line, and how they are quoted: for commands ([`super::command`]), rows ([`super::reply`]) and the runner,
//! which reads and writes both.

use core::fmt::{self, Write};

/// Why a line is not made of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordError {
    /// It is not UTF-8.
    NotText,
    /// There is a control character outside quotes.
    Control,
    /// A backslash in quotes has something else behind it than a quote, a backslash or `n`.
    Escape,
    /// The last quote is not closed.
    OpenQuote,
}

impl fmt::Display for WordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotText => "the line is not UTF-8",
            Self::Control => "there is a control character outside quotes",
            Self::Escape => "a backslash in quotes goes before a quote, a backslash or n",
            Self::OpenQuote => "a quote is not closed",
        })
    }
}

/// A word without its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word<'a> {
    /// What it says.
    pub text: &'a str,
    /// Whether any of it was in quotes: such a value is text even if it looks like a number.
    pub is_quoted: bool,
}

/// The words of a line that have not been taken yet. Quotes are removed in place.
#[derive(Debug)]
pub struct Words<'a> {
    rest: &'a mut [u8],
}

impl<'a> Words<'a> {
    /// Starts at the first word of a line.
    pub fn new(line: &'a mut [u8]) -> Self {
        Self { rest: line }
    }

    /// Takes the next word; `None` behind the last.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the line.
    pub fn take(&mut self) -> Result<Option<Word<'a>>, WordError> {
        let line = core::mem::take(&mut self.rest);
        let Some(start) = line.iter().position(|&byte| byte != b' ') else { return Ok(None) };
        let (_, line) = line.split_at_mut(start);
        let (mut read, mut length) = (0, 0);
        let (mut in_quotes, mut is_quoted) = (false, false);
        while let Some(&byte) = line.get(read) {
            read += 1;
            let kept = match byte {
                b'"' => {
                    in_quotes = !in_quotes;
                    is_quoted = true;
                    continue;
                }
                b'\\' if in_quotes => {
                    let escaped = line.get(read).copied();
                    read += 1;
                    match escaped {
                        Some(b'n') => b'\n',
                        Some(byte @ (b'"' | b'\\')) => byte,
                        _ => return Err(WordError::Escape),
                    }
                }
                b' ' if !in_quotes => break,
                _ if byte.is_ascii_control() && !in_quotes => return Err(WordError::Control),
                _ => byte,
            };
            // What is read is at least as long as what it stands for.
            if let Some(place) = line.get_mut(length) {
                *place = kept;
            }
            length += 1;
        }
        if in_quotes {
            return Err(WordError::OpenQuote);
        }
        let (word, rest) = line.split_at_mut(read);
        self.rest = rest;
        let word: &'a [u8] = word;
        let text = word.get(..length).and_then(|word| core::str::from_utf8(word).ok());
        Ok(Some(Word { text: text.ok_or(WordError::NotText)?, is_quoted }))
    }
}

/// Writes text in quotes.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<T>(pub T);

impl<T: fmt::Display> fmt::Display for Quoted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        write!(Escaped(&mut *f), "{}", self.0)?;
        f.write_char('"')
    }
}

/// Writes text as a word that is read back as text: in quotes if it would fall apart, or look like a number or a truth value.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let falls_apart = |byte: u8| byte == b' ' || byte == b'"' || byte.is_ascii_control();
        let is_number = self.0.bytes().all(|byte| byte.is_ascii_digit());
        if is_number || matches!(self.0, "true" | "false") || self.0.bytes().any(falls_apart) {
            Quoted(self.0).fmt(f)
        } else {
            f.write_str(self.0)
        }
    }
}

/// What goes between quotes.
struct Escaped<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '"' | '\\' => self.0.write_char('\\').and_then(|()| self.0.write_char(character))?,
                '\n' => self.0.write_str("\\n")?,
                _ => self.0.write_char(character)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(line: &str) -> Result<Vec<(String, bool)>, WordError> {
        let mut line = line.as_bytes().to_vec();
        let mut words = Words::new(&mut line);
        let mut found = Vec::new();
        while let Some(word) = words.take()? {
            found.push((word.text.to_string(), word.is_quoted));
        }
        Ok(found)
    }

    fn texts(line: &str) -> Vec<String> {
        words(line).unwrap().into_iter().map(|(text, _)| text).collect()
    }

    #[test]
    fn spaces_are_between_words_and_not_in_quotes() {
        assert_eq!(texts("  clone  web "), ["clone", "web"]);
        assert_eq!(texts(r#"a "b c" d="e f"g"#), ["a", "b c", "d=e fg"]);
        assert_eq!(texts(r#""" x"#), ["", "x"]);
        assert!(texts("   ").is_empty());
    }

    #[test]
    fn escapes_count_in_quotes_only() {
        assert_eq!(texts(r#""a\"b\\c\nd" a\b"#), ["a\"b\\c\nd", r"a\b"]);
    }

    #[test]
    fn a_broken_line_is_refused() {
        assert_eq!(words("a \"b"), Err(WordError::OpenQuote));
        assert_eq!(words(r#""a\t""#), Err(WordError::Escape));
        assert_eq!(words(r#""a\"#), Err(WordError::Escape));
        assert_eq!(words("a\tb"), Err(WordError::Control));
        assert_eq!(Words::new(&mut [b'a', 0xff]).take(), Err(WordError::NotText));
    }

    #[test]
    fn text_that_looks_like_a_number_is_quoted() {
        for (text, written) in [("web", "web"), ("7", "\"7\""), ("true", "\"true\""), ("", "\"\""), ("v1.7", "v1.7")] {
            assert_eq!(Plain(text).to_string(), written);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_one_word_again(text in any::<String>()) {
            prop_assert_eq!(words(&Quoted(&text).to_string()), Ok(vec![(text.clone(), true)]));
            prop_assert_eq!(texts(&format!("{} x", Plain(&text))), vec![text, "x".into()]);
        }

        #[test]
        fn any_bytes_are_words_or_refused(mut line in proptest::collection::vec(any::<u8>(), 0..64)) {
            let length = line.len();
            let mut words = Words::new(&mut line);
            let mut taken = 0;
            while let Ok(Some(word)) = words.take() {
                taken += word.text.len();
            }
            prop_assert!(taken <= length);
        }
    }
}
