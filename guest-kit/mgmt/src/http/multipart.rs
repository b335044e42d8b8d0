//! Takes `multipart/form-data` (RFC 7578) apart as it comes. Before: a request whose [`Sink`](crate::flow::Sink) gets its body.
//! After: whoever wants its parts, piece by piece.
//!
//! Crates for this wait for bytes on a runtime, or want the body whole. Here bytes are given, and what is held back of them is at
//! most a boundary or the head of a part.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// The media type.
pub const MULTIPART: &str = "multipart/form-data";
/// The longest boundary (RFC 2046 section 5.1.1).
const MAX_BOUNDARY: usize = 70;
/// The longest head of a part, in bytes, and the most fields.
pub const MAX_HEAD: usize = 2048;
const MAX_FIELDS: usize = 16;
/// The most bytes before the first boundary.
const MAX_PREAMBLE: usize = 1024;

/// The body is not made of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A part with this name begins.
    Part(&'a str),
    /// Bytes of that part.
    Bytes(&'a [u8]),
    /// That part is whole.
    End,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Before the first boundary.
    Preamble,
    /// Behind a boundary: a part follows, or nothing.
    Boundary,
    Head,
    Body,
    /// Behind the last boundary.
    Over,
}

/// Where in a body its reader is.
#[derive(Debug)]
pub struct Reader {
    /// What stands between parts: a line's end, two dashes and the boundary.
    delimiter: Vec<u8>,
    state: State,
    /// What was not understood yet.
    held: Vec<u8>,
}

/// Returns the parameter of a field (RFC 9110 section 5.6.6): a word, or what is between quotes.
fn parameter(field: &str, name: &str) -> Option<String> {
    let mut rest = field.split_once(';')?.1;
    loop {
        let (key, value) = rest.split_once('=')?;
        let (text, behind) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = value.find(';').unwrap_or(value.len());
                (value[..end].trim().to_string(), &value[end..])
            }
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(text);
        }
        rest = behind.split_once(';')?.1;
    }
}

/// Returns a text up to the quote that ends it, and what stands behind that.
fn unquote(text: &str) -> Option<(String, &str)> {
    let (mut plain, mut characters) = (String::new(), text.char_indices());
    loop {
        match characters.next()? {
            (at, '"') => return Some((plain, &text[at + 1..])),
            (_, '\\') => plain.push(characters.next()?.1),
            (_, other) => plain.push(other),
        }
    }
}

/// Returns the name of the part with this head.
fn name(head: &[u8]) -> Option<String> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let httparse::Status::Complete((_, fields)) = httparse::parse_headers(head, &mut fields).ok()? else { return None };
    let field = fields.iter().find(|field| field.name.eq_ignore_ascii_case("Content-Disposition"))?;
    let field = str::from_utf8(field.value).ok()?;
    let is_form = field.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("form-data"));
    parameter(field, "name").filter(|_| is_form)
}

impl Reader {
    /// Returns a reader for a body of this type; none if that is another one.
    pub fn new(content_type: &str) -> Option<Self> {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        let boundary = parameter(content_type, "boundary").filter(|_| kind.eq_ignore_ascii_case(MULTIPART))?;
        let is_good = (1..=MAX_BOUNDARY).contains(&boundary.len())
            && boundary.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        let delimiter = ["\r\n--", &boundary].concat().into_bytes();
        // The first boundary has no line in front of it that had to end.
        is_good.then(|| Self { delimiter, state: State::Preamble, held: Vec::from(*b"\r\n") })
    }

    /// Returns whether the last boundary has come.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Takes the next bytes, and tells what they are.
    ///
    /// # Errors
    ///
    /// If they do not make sense, or what `tell` says.
    pub fn take<E: From<Malformed>>(
        &mut self,
        bytes: &[u8],
        mut tell: impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut held = core::mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let mut rest = &held[..];
        while let Some(left) = self.step(rest, &mut tell)? {
            rest = left;
        }
        self.held = rest.to_vec();
        Ok(())
    }

    /// Takes what it can from the front, and returns what is left; none if more bytes have to come. Those stay.
    fn step<'a, E: From<Malformed>>(
        &mut self,
        bytes: &'a [u8],
        tell: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<Option<&'a [u8]>, E> {
        match self.state {
            State::Preamble => {
                let Some(at) = find(bytes, &self.delimiter) else {
                    return if bytes.len() > MAX_PREAMBLE { Err(Malformed.into()) } else { Ok(None) };
                };
                self.state = State::Boundary;
                Ok(Some(&bytes[at + self.delimiter.len()..]))
            }
            State::Boundary => {
                // Spaces may stand behind a boundary (RFC 2046 section 5.1.1).
                let spaces = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
                match bytes[spaces..] {
                    [b'-', b'-', ..] if spaces == 0 => self.state = State::Over,
                    [b'\r', b'\n', ..] => self.state = State::Head,
                    [] | [b'\r'] if spaces <= MAX_BOUNDARY => return Ok(None),
                    [b'-'] if spaces == 0 => return Ok(None),
                    _ => return Err(Malformed.into()),
                }
                // A head without fields is an empty line, whose end is that of the boundary's line.
                Ok(Some(if self.state == State::Over { &[] } else { &bytes[spaces..] }))
            }
            State::Head => {
                let Some(end) = find(bytes, b"\r\n\r\n") else {
                    return if bytes.len() > MAX_HEAD { Err(Malformed.into()) } else { Ok(None) };
                };
                let name =
                    bytes.get(2..end + 4).filter(|head| head.len() <= MAX_HEAD).and_then(name).ok_or(Malformed)?;
                tell(Event::Part(&name))?;
                self.state = State::Body;
                // What is empty ends with the line's end that the boundary begins with.
                Ok(Some(&bytes[end + 4..]))
            }
            State::Body => match find(bytes, &self.delimiter) {
                Some(at) => {
                    if at > 0 {
                        tell(Event::Bytes(&bytes[..at]))?;
                    }
                    tell(Event::End)?;
                    self.state = State::Boundary;
                    Ok(Some(&bytes[at + self.delimiter.len()..]))
                }
                None => {
                    let whole = bytes.len() - begun(bytes, &self.delimiter);
                    if whole == 0 {
                        return Ok(None);
                    }
                    tell(Event::Bytes(&bytes[..whole]))?;
                    Ok(Some(&bytes[whole..]))
                }
            },
            // What follows means nothing.
            State::Over => Ok(if bytes.is_empty() { None } else { Some(&[]) }),
        }
    }
}

/// Returns where `what` is.
fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let first = *what.first()?;
    let mut from = 0;
    loop {
        from += bytes.get(from..)?.iter().position(|&byte| byte == first)?;
        if bytes[from..].starts_with(what) {
            return Some(from);
        }
        from += 1;
    }
}

/// Returns how many bytes at the end may be the begin of `what`.
fn begun(bytes: &[u8], what: &[u8]) -> usize {
    let most = bytes.len().min(what.len() - 1);
    (1..=most).rev().find(|&count| bytes.ends_with(&what[..count])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    const TYPE: &str = "multipart/form-data; charset=x; boundary=\"a b\"";

    /// Names and bytes of parts, and whether the body was whole.
    type Parts = (Vec<(String, Vec<u8>)>, bool);

    /// Returns the parts of a body that comes in pieces of this size.
    fn parts(content_type: &str, body: &[u8], piece: usize) -> Result<Parts, Malformed> {
        let (mut reader, mut parts, mut open) = (Reader::new(content_type).ok_or(Malformed)?, Vec::new(), false);
        for piece in body.chunks(piece) {
            reader.take(piece, |event| {
                match event {
                    Event::Part(name) => parts.push((name.to_string(), Vec::new())),
                    Event::Bytes(bytes) => parts.last_mut().unwrap().1.extend_from_slice(bytes),
                    Event::End => assert!(open),
                }
                open = event != Event::End;
                Ok::<_, Malformed>(())
            })?;
            assert!(reader.held.len() <= MAX_PREAMBLE.max(MAX_HEAD) + reader.delimiter.len());
        }
        Ok((parts, reader.is_over()))
    }

    fn part(boundary: &str, name: &str, bytes: &[u8]) -> Vec<u8> {
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; filename=\"x;\\\"\"; name=\"{name}\"\r\nContent-Type: a/b\r\n\r\n"
        );
        [head.as_bytes(), bytes, b"\r\n"].concat()
    }

    #[test]
    fn parts_come_with_their_names_and_bytes() {
        let body =
            [&part("a b", "UpdateParameters", b"{}")[..], &part("a b", "UpdateFile", b"\r\n--a\r\n-"), b"--a b--\r\n"]
                .concat();
        for piece in 1..body.len() {
            let (found, is_over) = parts(TYPE, &body, piece).unwrap();
            let expected =
                [("UpdateParameters".into(), b"{}".to_vec()), ("UpdateFile".into(), b"\r\n--a\r\n-".to_vec())];
            assert!(found == expected && is_over, "{piece}: {found:?}");
        }
    }

    #[test]
    fn a_body_that_ends_too_early_is_not_over() {
        let body = part("a b", "x", b"abc");
        assert_eq!(parts(TYPE, &body, 7), Ok((Vec::from([("x".into(), b"abc".to_vec())]), false)));
    }

    #[test]
    fn what_is_not_made_of_parts_is_refused() {
        for bad in [
            "application/json",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"a",
        ] {
            assert!(Reader::new(bad).is_none(), "{bad}");
        }
        let nameless = "--a b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--a b--";
        let other = "--a b\r\nContent-Disposition: attachment; name=x\r\n\r\nx\r\n--a b--";
        let endless = format!("--a b\r\nX: {}", "y".repeat(MAX_HEAD));
        for bad in [nameless, other, "--a b\r\n\r\nx\r\n--a b--", "--a bx\r\n", &endless, &"x".repeat(2000)] {
            assert_eq!(parts(TYPE, bad.as_bytes(), 100), Err(Malformed), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_was_put_together_comes_apart_the_same_however_it_is_cut(
            boundary in "[0-9A-Za-z'()+_,./:=?-]{1,70}",
            bodies in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), any::<u8>()], 0..80), 0..4),
            piece in 1usize..100,
            preamble in "[a-z]{0,20}",
        ) {
            let delimiter = format!("\r\n--{boundary}");
            prop_assume!(bodies.iter().all(|body| find(&[body, &b"\r\n"[..]].concat(), delimiter.as_bytes()).is_none()));
            let mut whole = if preamble.is_empty() { Vec::new() } else { format!("{preamble}\r\n").into_bytes() };
            bodies.iter().enumerate().for_each(|(at, body)| whole.extend(part(&boundary, &format!("p{at}"), body)));
            whole.extend(format!("--{boundary}--\r\n").as_bytes());
            let expected: Vec<_> = bodies.into_iter().enumerate().map(|(at, body)| (format!("p{at}"), body)).collect();
            let kind = format!("multipart/form-data; boundary=\"{boundary}\"");
            prop_assert_eq!(parts(&kind, &whole, piece), Ok((expected, true)));
        }

        #[test]
        fn any_bytes_are_parts_or_malformed_and_the_same_however_they_are_cut(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'a'), any::<u8>()], 0..200),
            piece in 1usize..20,
        ) {
            let body = [b"--a\r\nContent-Disposition: form-data; name=x\r\n\r\n", &bytes[..]].concat();
            let kind = "Multipart/Form-Data;boundary=a";
            prop_assert_eq!(parts(kind, &body, piece).is_err(), parts(kind, &body, usize::MAX).is_err());
        }
    }
}
