//! The line that a person types at the serial console. Before: the console's keys; after: [`super::parse`].

use super::MAX_LINE;

const CTRL_C: u8 = 0x03;
const BACKSPACE: u8 = 0x08;
const CTRL_U: u8 = 0x15;
const ESCAPE: u8 = 0x1b;
const DELETE: u8 = 0x7f;

/// What a key did, for whoever owns the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditorEvent {
    /// Nothing that can be seen.
    Nothing,
    /// Show this byte.
    Echo(u8),
    /// Take so many characters off the screen.
    Erase(usize),
    /// There is no room: ring the bell.
    Full,
    /// The line was given up.
    Cancelled,
    /// The line is complete: [`Editor::line`].
    Line,
}

/// Where in an escape sequence of a cursor or function key the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sequence {
    Outside,
    /// Behind ESC.
    Begun,
    /// Behind `ESC [` or `ESC O`, up to the first byte from `@` on.
    Inside,
}

/// A line as it is typed.
#[derive(Clone, Debug)]
pub struct Editor {
    bytes: [u8; MAX_LINE],
    length: usize,
    sequence: Sequence,
    /// The line was complete with the last key.
    is_complete: bool,
    /// The last key was a carriage return: a line feed behind it belongs to it.
    after_return: bool,
}

impl Default for Editor {
    fn default() -> Self {
        Self::new()
    }
}

impl Editor {
    /// Returns an empty line.
    pub const fn new() -> Self {
        Self { bytes: [0; MAX_LINE], length: 0, sequence: Sequence::Outside, is_complete: false, after_return: false }
    }

    /// Returns what has been typed; after [`EditorEvent::Line`] it is the complete line, until the next key.
    pub fn line(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.length).unwrap_or_default()
    }

    /// Takes a key.
    pub fn key(&mut self, key: u8) -> EditorEvent {
        if core::mem::take(&mut self.is_complete) {
            self.length = 0;
        }
        let after_return = core::mem::replace(&mut self.after_return, key == b'\r');
        match (self.sequence, key) {
            (Sequence::Begun, b'[' | b'O') => {
                self.sequence = Sequence::Inside;
                return EditorEvent::Nothing;
            }
            // ESC, and a key with Alt.
            (Sequence::Begun, 0x20..=0x7e) | (Sequence::Inside, 0x40..=0x7e) => {
                self.sequence = Sequence::Outside;
                return EditorEvent::Nothing;
            }
            (Sequence::Inside, 0x20..0x40) => return EditorEvent::Nothing,
            _ => self.sequence = Sequence::Outside,
        }
        match key {
            b'\n' if after_return => EditorEvent::Nothing,
            b'\r' | b'\n' => {
                self.is_complete = true;
                EditorEvent::Line
            }
            BACKSPACE | DELETE => self.erase(1),
            CTRL_U => self.erase(usize::MAX),
            CTRL_C => {
                self.length = 0;
                EditorEvent::Cancelled
            }
            ESCAPE => {
                self.sequence = Sequence::Begun;
                EditorEvent::Nothing
            }
            _ if key.is_ascii_control() => EditorEvent::Nothing,
            _ => match self.bytes.get_mut(self.length) {
                Some(place) => {
                    *place = key;
                    self.length += 1;
                    EditorEvent::Echo(key)
                }
                None => EditorEvent::Full,
            },
        }
    }

    /// Removes as many characters from the end, or all.
    fn erase(&mut self, limit: usize) -> EditorEvent {
        let mut erased = 0;
        while erased < limit {
            let Some((&last, _)) = self.line().split_last() else { break };
            self.length -= 1;
            // The other bytes of a UTF-8 character follow its first.
            if last & 0xc0 != 0x80 {
                erased += 1;
            }
        }
        if erased == 0 { EditorEvent::Nothing } else { EditorEvent::Erase(erased) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Types keys; returns what the screen shows of the line, and every complete line.
    fn typed(keys: &[u8]) -> (String, Vec<String>) {
        let mut editor = Editor::new();
        let (mut screen, mut lines) = (Vec::new(), Vec::new());
        for &key in keys {
            match editor.key(key) {
                EditorEvent::Echo(byte) => screen.push(byte),
                EditorEvent::Erase(count) => {
                    let text = String::from_utf8(screen).unwrap();
                    screen = text.chars().take(text.chars().count() - count).collect::<String>().into_bytes();
                }
                EditorEvent::Line => {
                    lines.push(String::from_utf8(editor.line().to_vec()).unwrap());
                    screen.clear();
                }
                EditorEvent::Cancelled => screen.clear(),
                EditorEvent::Nothing | EditorEvent::Full => {}
            }
        }
        (String::from_utf8(screen).unwrap(), lines)
    }

    #[test]
    fn what_is_typed_is_shown_and_becomes_a_line() {
        assert_eq!(typed(b"list\rinfo w"), ("info w".into(), vec!["list".into()]));
        assert_eq!(typed(b"a\r\nb\n\nc\r\r").1, ["a", "b", "", "c", ""]);
    }

    #[test]
    fn mistakes_are_taken_back() {
        assert_eq!(typed("lüü\x7f\x7fist\r".as_bytes()).1, ["list"]);
        assert_eq!(typed(b"\x08x\x7f\x7flog\r").1, ["log"]);
        assert_eq!(typed("wröng\x15list\r".as_bytes()).1, ["list"]);
        assert_eq!(typed(b"destroy web\x03list\r").1, ["list"]);
    }

    #[test]
    fn cursor_keys_leave_no_letters() {
        assert_eq!(typed(b"li\x1b[A\x1bOB\x1b[1;5C\x1bxst\t\r").1, ["list"]);
        assert_eq!(typed(b"li\x1b\rst").1, ["li"]);
    }

    #[test]
    fn a_full_line_takes_no_more() {
        let mut editor = Editor::new();
        assert!((0..MAX_LINE).all(|_| editor.key(b'x') == EditorEvent::Echo(b'x')));
        assert_eq!(editor.key(b'x'), EditorEvent::Full);
        assert_eq!(editor.key(DELETE), EditorEvent::Erase(1));
        assert_eq!(editor.key(b'y'), EditorEvent::Echo(b'y'));
        assert_eq!(editor.key(b'\r'), EditorEvent::Line);
        assert_eq!((editor.line().len(), editor.line().last()), (MAX_LINE, Some(&b'y')));
    }

    proptest! {
        #[test]
        fn the_screen_shows_the_line(keys in "[a-zé\\x7f\\x15\\x03\\x1b\\[\\r\\n\\t]{0,40}") {
            let mut editor = Editor::new();
            for &key in keys.as_bytes() {
                if editor.key(key) == EditorEvent::Line {
                    editor = Editor::new();
                }
            }
            let (screen, _) = typed(keys.as_bytes());
            prop_assert_eq!(screen.as_bytes(), editor.line());
        }
    }
}
