//! Any bytes as what a peer says inside of TLS, cut anywhere: requests are whole and the same however the stream is cut, a
//! connection keeps no more than its bounds, and behind what is malformed nothing is answered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use salp_mgmt::flow::{Live, Sink};
use salp_mgmt::http::decoder::{Decoder, MAX_BODY, MAX_HEAD, Malformed, Step};
use salp_mgmt::http::{Connection, Request, Response, Serve};

/// Answers each request with what it was, and takes no streams.
struct Echo(Vec<String>);

impl Serve for Echo {
    fn handle(&mut self, request: &Request) -> Response {
        assert!(request.path.starts_with('/') && !request.path.contains('\n'));
        assert!(request.body.len() <= MAX_BODY);
        self.0.push(format!("{} {} {:?}", request.method, request.path, request.body));
        Response::new(200).field("X-Path", request.path.as_str()).content("text/plain", request.path.as_bytes())
    }

    fn take(&mut self, _: &mut dyn Sink, _: &[u8]) -> Result<(), Response> {
        unreachable!("nobody has a place for a body");
    }

    fn finish(&mut self, _: Box<dyn Sink>) -> Response {
        unreachable!("nobody has a place for a body");
    }

    fn drive(&mut self, _: &mut Live, _: &mut Vec<u8>, _: &mut Vec<u8>) -> bool {
        unreachable!("no answer goes on");
    }
}

/// Returns the requests of a stream, and why it ended if it did.
fn all(stream: &[u8], piece: usize) -> (Vec<String>, Option<Malformed>) {
    let (mut decoder, mut inbox, mut found) = (Decoder::default(), Vec::new(), Vec::new());
    for piece in stream.chunks(piece) {
        inbox.extend_from_slice(piece);
        loop {
            match decoder.next(&mut inbox) {
                Ok(Step::Head) => {
                    if let Err(why) = decoder.go_on(false) {
                        return (found, Some(why));
                    }
                }
                Ok(Step::Whole(whole)) => {
                    let request = &whole.request;
                    found.push(format!("{} {} {:?}", request.method, request.path, request.body));
                }
                Ok(Step::More) => break,
                Err(why) => return (found, Some(why)),
            }
        }
        assert!(inbox.len() <= MAX_HEAD + piece.len());
    }
    (found, None)
}

/// Returns how many final answers these bytes are: what they say may look like one.
fn answers(mut out: &[u8]) -> usize {
    let mut count = 0;
    while !out.is_empty() {
        let end = out.windows(4).position(|end| end == b"\r\n\r\n").expect("the end of a head");
        let head = std::str::from_utf8(&out[..end]).expect("a head of text");
        assert!(head.starts_with("HTTP/1.1 "), "{head:?}");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map(str::parse);
        count += usize::from(!head.starts_with("HTTP/1.1 100 "));
        out = &out[end + 4 + length.map_or(0, |length| length.expect("a length"))..];
    }
    count
}

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, stream) = (usize::from(input.0) + 1, input.1);
    let (found, why) = all(stream, usize::MAX);
    let (same, same_why) = all(stream, piece);
    // A stream that is malformed may be found to be so before or behind its last request.
    assert_eq!(found, same);
    assert_eq!(why.is_some(), same_why.is_some());

    let (mut echo, mut connection, mut out) = (Echo(Vec::new()), Connection::new(0), Vec::new());
    let mut rest = stream;
    loop {
        let (now, later) = rest.split_at(piece.min(connection.room()).min(rest.len()));
        connection.receive(now, 0);
        rest = later;
        connection.serve(0, &mut echo);
        let sent = connection.outgoing().len();
        out.extend_from_slice(connection.outgoing());
        connection.sent(sent, 0);
        if sent == 0 && (now.is_empty() || rest.is_empty()) {
            break;
        }
    }
    let answers = answers(&out);
    assert!(answers <= echo.0.len() + 1, "{answers} answers to {} requests", echo.0.len());
    if let Some(malformed) = why {
        assert!((400..600).contains(&malformed.status));
    }
});
