//! Cuts a byte stream into requests. Before: [`connection`](super::connection). After: [`request`](super::request).
//!
//! Where two readers of HTTP could understand a stream differently, this one understands nothing and ends the connection:
//! lines that end in a bare line feed, two lengths, a length and chunks, codings other than `chunked`, spaces around a
//! field's name. The rest is httparse's strict defaults.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::request::{Method, Request};

/// The greatest size of a request line with all fields, in bytes.
pub const MAX_HEAD: usize = 8192;
/// The greatest size of a body, in bytes.
pub const MAX_BODY: usize = 65536;
/// The greatest number of fields.
pub const MAX_FIELDS: usize = 64;
/// The greatest size of the line before a chunk, and of all the lines behind the last, in bytes.
const MAX_LINE: usize = 256;

/// Why a stream cannot be understood any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The status code of the answer, which is the last.
    pub status: u16,
    /// What to change, for people.
    pub why: &'static str,
}

const fn malformed(status: u16, why: &'static str) -> Malformed {
    Malformed { status, why }
}

const CHUNK: Malformed = malformed(400, "A chunk of the body is malformed.");
const TOO_LARGE: Malformed = malformed(413, "The body is larger than 65,536 bytes.");

/// A request, and what it asks of the connection.
#[derive(Debug)]
pub struct Decoded {
    /// The request.
    pub request: Request,
    /// Whether the connection ends with the answer.
    pub close: bool,
    /// Whether the peer knows chunks: HTTP/1.0 does not.
    pub knows_chunks: bool,
}

/// How far a reader has come.
#[derive(Debug)]
pub enum Step {
    /// More bytes have to come.
    More,
    /// A head is here: [`Decoder::go_on`] says what becomes of the body.
    Head,
    /// A request is whole.
    Whole(Box<Decoded>),
}

#[derive(Debug)]
enum State {
    Head,
    /// So many bytes of the body are to come.
    Length(usize),
    /// The line before a chunk comes next.
    ChunkLine,
    /// So many bytes of a chunk are to come, and the end of its line.
    Chunk(usize),
    /// Lines behind the last chunk.
    Trailer,
    /// The body is whole.
    Whole,
}

/// Where in a stream its reader is.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    pending: Option<Decoded>,
    expects: bool,
    /// The body is taken away as it comes.
    streams: bool,
    /// An empty line before the request was forgiven.
    has_forgiven: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Head, pending: None, expects: false, streams: false, has_forgiven: false }
    }
}

impl Decoder {
    /// Returns true if no byte of the next request has been taken.
    pub fn is_between(&self) -> bool {
        matches!(self.state, State::Head)
    }

    /// Returns true, once, if the peer waits for a word before it sends the body.
    pub fn wants_continue(&mut self) -> bool {
        core::mem::take(&mut self.expects) && !matches!(self.state, State::Whole | State::Head)
    }

    /// Returns the request whose head is here.
    pub fn request(&self) -> Option<&Request> {
        self.pending.as_ref().map(|pending| &pending.request)
    }

    /// Returns whether the request whose head is here asks for the end of the connection, or brings a body.
    pub fn is_last(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.close) || !matches!(self.state, State::Whole)
    }

    /// Says what becomes of the body: it is collected, or taken away as it comes.
    ///
    /// # Errors
    ///
    /// If it is too large to be collected.
    pub fn go_on(&mut self, streams: bool) -> Result<(), Malformed> {
        self.streams = streams;
        match self.state {
            State::Length(length) if !streams && length > MAX_BODY => Err(TOO_LARGE),
            _ => Ok(()),
        }
    }

    /// Takes away what has come of the body.
    pub fn take_body(&mut self) -> Vec<u8> {
        self.pending.as_mut().map(|pending| core::mem::take(&mut pending.request.body)).unwrap_or_default()
    }

    /// Forgets the request whose head is here, and is between requests again.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Takes from the front of `inbox` what belongs to the next request.
    ///
    /// # Errors
    ///
    /// For a stream that means nothing, or more than one thing, from here on.
    pub fn next(&mut self, inbox: &mut Vec<u8>) -> Result<Step, Malformed> {
        loop {
            let body = self.pending.as_mut().map(|pending| &mut pending.request.body);
            match (&mut self.state, body) {
                (State::Head, _) | (_, None) => return Ok(if self.head(inbox)? { Step::Head } else { Step::More }),
                (State::Length(0), _) => self.state = State::Whole,
                (State::Length(left), Some(body)) => {
                    let taken = (*left).min(inbox.len());
                    body.extend(inbox.drain(..taken));
                    *left -= taken;
                    if *left > 0 {
                        return Ok(Step::More);
                    }
                }
                (State::ChunkLine, Some(body)) => {
                    let Some(line) = line(inbox)? else { return Ok(Step::More) };
                    let size = chunk_size(&line)?;
                    if !self.streams && size > MAX_BODY - body.len() {
                        return Err(TOO_LARGE);
                    }
                    self.state = if size == 0 { State::Trailer } else { State::Chunk(size) };
                }
                (State::Chunk(0), _) => match inbox.get(..2) {
                    Some(b"\r\n") => {
                        inbox.drain(..2);
                        self.state = State::ChunkLine;
                    }
                    Some(_) => return Err(CHUNK),
                    None => return Ok(Step::More),
                },
                (State::Chunk(left), Some(body)) => {
                    let taken = (*left).min(inbox.len());
                    body.extend(inbox.drain(..taken));
                    *left -= taken;
                    if *left > 0 {
                        return Ok(Step::More);
                    }
                }
                (State::Trailer, _) => match line(inbox)? {
                    // Nobody asked for fields here.
                    Some(line) if !line.is_empty() => {
                        return Err(malformed(400, "Fields behind the body are refused."));
                    }
                    Some(_) => self.state = State::Whole,
                    None => return Ok(Step::More),
                },
                (State::Whole, _) => {
                    let whole = self.pending.take();
                    self.forget();
                    return Ok(whole.map_or(Step::More, |whole| Step::Whole(Box::new(whole))));
                }
            }
        }
    }

    /// Takes a head, if it is whole.
    fn head(&mut self, inbox: &mut Vec<u8>) -> Result<bool, Malformed> {
        // One empty line before a request is forgiven (RFC 9112 section 2.2).
        while inbox.starts_with(b"\r\n") {
            if core::mem::replace(&mut self.has_forgiven, true) {
                return Err(malformed(400, "There is more than one empty line in front of the request."));
            }
            inbox.drain(..2);
        }
        let Some(length) = head_length(inbox)? else { return Ok(false) };
        let (decoded, state, expects) = parse(&inbox[..length])?;
        inbox.drain(..length);
        (self.pending, self.state, self.expects) = (Some(decoded), state, expects);
        Ok(true)
    }
}

/// Returns how long the head at the front is, if it is whole.
fn head_length(inbox: &[u8]) -> Result<Option<usize>, Malformed> {
    let head = &inbox[..inbox.len().min(MAX_HEAD)];
    for (at, &byte) in head.iter().enumerate() {
        let before = |back: usize| at.checked_sub(back).map(|at| head[at]);
        if byte == b'\n' {
            if before(1) != Some(b'\r') {
                return Err(malformed(400, "A line of the head does not end in CR LF."));
            }
            if (before(2), before(3)) == (Some(b'\n'), Some(b'\r')) {
                return Ok(Some(at + 1));
            }
        } else if before(1) == Some(b'\r') || byte == 0 {
            return Err(malformed(400, "A control character is in the head."));
        }
    }
    if inbox.len() >= MAX_HEAD {
        return Err(malformed(431, "The request line and its fields are larger than 8,192 bytes."));
    }
    Ok(None)
}

/// Understands a whole head.
fn parse(head: &[u8]) -> Result<(Decoded, State, bool), Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(malformed(431, "There are more than 64 fields.")),
        Err(httparse::Error::Version) => return Err(malformed(505, "HTTP/1.1 is spoken here.")),
        _ => return Err(malformed(400, "The head of the request is malformed.")),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(malformed(400, "The request line is malformed."));
    };
    let mut request = Request::new(Method::new(method), "");
    request.set_target(target).ok_or(malformed(400, "The target of the request is malformed."))?;
    let (mut hosts, mut length, mut is_chunked, mut expects) = (0, None, false, false);
    let mut close = version == 0;
    for field in parsed.headers {
        let text = str::from_utf8(field.value).ok().filter(|text| !text.bytes().any(|byte| byte.is_ascii_control()));
        let Some(text) = text else {
            // Fields that nobody reads may hold any text.
            if !request.keeps(field.name) && !is_framing(field.name) {
                continue;
            }
            return Err(malformed(400, "A field is no text."));
        };
        let text = text.trim_matches(' ');
        if field.name.eq_ignore_ascii_case("host") {
            hosts += 1;
            request.keep(field.name, text);
        } else if field.name.eq_ignore_ascii_case("content-length") {
            let digits = !text.is_empty() && text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
            let (true, Ok(value), None) = (digits, text.parse::<usize>(), length) else {
                return Err(malformed(400, "Content-Length is not one number."));
            };
            length = Some(value);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if is_chunked || version == 0 {
                return Err(malformed(400, "Transfer-Encoding is given twice, or in HTTP/1.0."));
            }
            if !text.eq_ignore_ascii_case("chunked") {
                return Err(malformed(501, "The only transfer coding is chunked."));
            }
            is_chunked = true;
        } else if field.name.eq_ignore_ascii_case("connection") {
            close |= text.split(',').any(|option| option.trim().eq_ignore_ascii_case("close"));
            request.keep(field.name, text);
        } else if field.name.eq_ignore_ascii_case("expect") {
            if !text.eq_ignore_ascii_case("100-continue") {
                return Err(malformed(417, "The only expectation is 100-continue."));
            }
            expects = version == 1;
        } else if !request.keep(field.name, text) {
            return Err(malformed(400, "A field that can be given once is given twice."));
        }
    }
    if hosts > 1 || (hosts == 0 && version == 1) {
        return Err(malformed(400, "Host must be given once."));
    }
    request.length = if is_chunked { None } else { Some(length.unwrap_or(0) as u64) };
    let state = match (length, is_chunked) {
        (Some(_), true) => return Err(malformed(400, "Content-Length and Transfer-Encoding exclude each other.")),
        (Some(length), false) => State::Length(length),
        (None, true) => State::ChunkLine,
        (None, false) => State::Whole,
    };
    Ok((Decoded { request, close, knows_chunks: version == 1 }, state, expects))
}

fn is_framing(name: &str) -> bool {
    ["host", "content-length", "transfer-encoding", "connection", "expect"]
        .iter()
        .any(|framing| name.eq_ignore_ascii_case(framing))
}

/// Takes a line of the body's framing, without its end, if it is whole.
fn line(inbox: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Malformed> {
    let window = &inbox[..inbox.len().min(MAX_LINE)];
    let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
        return if inbox.len() >= MAX_LINE { Err(CHUNK) } else { Ok(None) };
    };
    let mut line: Vec<u8> = inbox.drain(..=end).collect();
    line.pop();
    if line.pop_if(|byte| *byte == b'\r').is_none() || line.iter().any(u8::is_ascii_control) {
        return Err(CHUNK);
    }
    Ok(Some(line))
}

/// Returns the size in front of a chunk. Extensions are ignored, as they must be.
fn chunk_size(line: &[u8]) -> Result<usize, Malformed> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
    let text = str::from_utf8(digits).map_err(|_| CHUNK)?;
    if !(1..=8).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(CHUNK);
    }
    usize::from_str_radix(text, 16).map_err(|_| CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;
    use proptest::prelude::*;

    /// Returns what `stream` says in pieces of these sizes: requests as text, and why it ended if it did.
    fn all(stream: &[u8], pieces: impl Iterator<Item = usize>) -> (Vec<String>, Option<Malformed>) {
        let (mut decoder, mut inbox, mut found, mut rest) = (Decoder::default(), Vec::new(), Vec::new(), stream);
        for piece in pieces.chain([usize::MAX]) {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            inbox.extend_from_slice(now);
            rest = later;
            loop {
                match decoder.next(&mut inbox) {
                    Ok(Step::Head) => match decoder.go_on(false) {
                        Ok(()) => {}
                        Err(why) => return (found, Some(why)),
                    },
                    Ok(Step::Whole(whole)) => found.push(format!(
                        "{} {} {:?} {}",
                        whole.request.method,
                        whole.request.path,
                        String::from_utf8_lossy(&whole.request.body),
                        whole.close
                    )),
                    Ok(Step::More) => break,
                    Err(why) => return (found, Some(why)),
                }
            }
            assert!(inbox.len() <= MAX_HEAD.max(stream.len()));
        }
        (found, None)
    }

    #[test]
    fn one_empty_line_is_forgiven_however_the_stream_is_cut() {
        for (lines, is_fine) in [(1, true), (2, false), (3, false)] {
            let stream = "\r\n".repeat(lines) + "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
            for piece in [1, 2, 100] {
                let (found, why) = all(stream.as_bytes(), core::iter::repeat_n(piece, stream.len()));
                assert_eq!((found.len() == 1, why.is_none()), (is_fine, is_fine), "{lines} lines, {piece} at a time");
            }
        }
    }

    fn whole(stream: &str) -> (Vec<String>, Option<u16>) {
        let (found, why) = all(stream.as_bytes(), [].into_iter());
        (found, why.map(|why| why.status))
    }

    fn refused(stream: &str) -> u16 {
        let (found, why) = whole(stream);
        assert!(found.is_empty(), "{stream:?}: {found:?}");
        why.unwrap_or_else(|| panic!("{stream:?} is accepted"))
    }

    #[test]
    fn requests_in_one_piece_are_cut_apart() {
        let stream = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n\r\nPOST /b HTTP/1.1\r\nhost:x\r\nContent-Length: 3\r\n\r\nabc\
             DELETE /c HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n";
        assert_eq!(
            whole(stream).0,
            [r#"GET /a "" false"#, r#"POST /b "abc" false"#, r#"DELETE /c "" true"#].map(String::from)
        );
    }

    #[test]
    fn a_chunked_body_is_put_together() {
        let stream = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0a\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(whole(stream), (Vec::from([String::from(r#"POST / "abc0123456789" false"#)]), None));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let post = |fields: &str| refused(&format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n0\r\n\r\n"));
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: 0x5",
            "Content-Length: ",
            "Content-Length: 5 5",
            "Content-Length : 5",
            " Content-Length: 5",
            "Content-Length: 5\r\n folded",
            "Content-Length: 18446744073709551621",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "X: a\rContent-Length: 5",
            "X: a\nContent-Length: 5",
            "X: a\0b",
            "Host: y",
            "Transfer-Encoding\t: chunked",
        ] {
            assert_eq!(post(fields), 400, "{fields:?}");
        }
        for fields in ["Transfer-Encoding: gzip, chunked", "Transfer-Encoding: xchunked", "Transfer-Encoding: identity"]
        {
            assert_eq!(post(fields), 501, "{fields:?}");
        }
        assert_eq!(refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400);
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for body in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            " 1\r\n",
            "1 \r\n",
            "0x1\r\n",
            "1\nab",
            "1\r\nab\r\n",
            "fffffffff\r\n",
            "1\r\r\n",
        ] {
            let stream = format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert_eq!(refused(&stream), 400, "{body:?}");
        }
        let trailer = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(refused(trailer), 400);
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_has_come() {
        let long = "a".repeat(MAX_HEAD);
        assert_eq!(refused(&format!("GET /{long}")), 431);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{}\r\n", "a:b\r\n".repeat(MAX_FIELDS + 1))), 431);
        assert_eq!(refused("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n"), 413);
        assert_eq!(refused("PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n"), 413);
    }

    #[test]
    fn other_versions_and_no_host_are_refused() {
        assert_eq!(refused("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), 505);
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(refused("GET /\r\n\r\n"), 400);
        assert_eq!(whole("GET / HTTP/1.0\r\n\r\n").0, [r#"GET / "" true"#]);
    }

    #[test]
    fn who_waits_with_the_body_is_told_once() {
        let (mut decoder, mut inbox) = (Decoder::default(), Vec::new());
        inbox.extend_from_slice(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
        assert!(matches!(decoder.next(&mut inbox), Ok(Step::Head)));
        assert!(matches!(decoder.next(&mut inbox), Ok(Step::More)));
        assert!(decoder.wants_continue());
        assert!(!decoder.wants_continue());
        inbox.extend_from_slice(b"ab");
        let Ok(Step::Whole(decoded)) = decoder.next(&mut inbox) else { panic!("the request is whole") };
        assert_eq!(decoded.request.body, b"ab");
        assert_eq!(refused("PUT / HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\n\r\n"), 417);
    }

    #[test]
    fn a_body_that_is_streamed_may_be_larger_than_what_is_collected() {
        for (head, behind) in [
            ("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n", ""),
            ("PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n30d40\r\n", "\r\n0\r\n\r\n"),
        ] {
            let (mut decoder, mut inbox, mut body) = (Decoder::default(), Vec::from(head), 0);
            assert!(matches!(decoder.next(&mut inbox), Ok(Step::Head)));
            decoder.go_on(true).unwrap();
            for _ in 0..200 {
                inbox.extend_from_slice(&[7; 1000]);
                assert!(matches!(decoder.next(&mut inbox), Ok(Step::More | Step::Whole(_))));
                body += decoder.take_body().len();
            }
            inbox.extend_from_slice(behind.as_bytes());
            assert!(behind.is_empty() || matches!(decoder.next(&mut inbox), Ok(Step::Whole(_))));
            assert!(body == 200_000 || behind.is_empty() && body == 199_000, "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_requests_or_a_refusal(stream in proptest::collection::vec(any::<u8>(), 0..400)) {
            all(&stream, [].into_iter());
        }

        #[test]
        fn cuts_do_not_change_what_a_stream_means(
            parts in proptest::collection::vec(proptest::sample::select(&[
                "GET /a HTTP/1.1\r\nHost: x\r\n\r\n", "PUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi",
                "POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "\r\n", "\n", "0\r\n",
                "HTTP/1.1", " ", "Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n", "GET / HTTP/1.1\r\n", "Host: x\r\n",
            ][..]), 0..12),
            pieces in proptest::collection::vec(1usize..30, 0..40),
        ) {
            let stream: String = parts.concat();
            prop_assert_eq!(all(stream.as_bytes(), pieces.into_iter()), all(stream.as_bytes(), [].into_iter()));
        }
    }
}
