//! Gets what an address leads to into an image at EL2, or into the flash, piece by piece. Before: [`jobs`](super::jobs). After:
//! [`Wire`], which is a TCP connection, [`Upload`], which writes the image and knows its digest, and [`Stream`].
//!
//! One request at a time, each on a connection of its own. A connection that breaks is followed by one that asks for the rest, as
//! long as there is progress; redirections are followed, but not from TLS to plain text.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_hvc::manager::MAX_IMAGE;

use super::url::Url;
use crate::flow::Sink;
use crate::hypervisor::Hypervisor;
use crate::images::label::{Kind, Label};
use crate::images::upload::{Plan, Upload, content_range};
use crate::images::{self, IMAGES};
use crate::message::Failure;
use crate::updates::stream::Stream;

/// How long nothing may come, in milliseconds.
const PATIENCE: u64 = 15_000;
/// How often it is tried again without a byte more, and after how many milliseconds.
const ATTEMPTS: u32 = 4;
const PAUSE: u64 = 1000;
/// How many redirections are followed.
const REDIRECTIONS: u32 = 8;
/// The longest head of an answer, in bytes, and the most fields.
const MAX_HEAD: usize = 16 << 10;
const MAX_FIELDS: usize = 64;
/// How many bytes are taken at a time.
pub const PIECE: usize = 64 << 10;

/// What is with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It is being made.
    Opening,
    /// Bytes can be sent, and may come.
    Open,
    /// The peer sends no more.
    Closed,
    /// There is none: why.
    Failed(&'static str),
}

/// A connection to a server, one after the other.
pub trait Wire {
    /// Begins a connection in place of the one before.
    fn open(&mut self, url: &Url);
    /// Returns what is with it.
    fn link(&mut self) -> Link;
    /// Sends bytes; returns how many were taken.
    fn send(&mut self, bytes: &[u8]) -> usize;
    /// Appends what has come, at most so many bytes.
    fn receive(&mut self, to: &mut Vec<u8>, most: usize);
    /// Ends it.
    fn close(&mut self);
}

/// What is to be fetched.
#[derive(Clone, Debug)]
pub struct Order {
    /// From where.
    pub url: Url,
    /// The value of `Authorization`, for this host only.
    pub authorization: Option<String>,
    /// The SHA-256 that it is to have.
    pub digest: Option<[u8; 32]>,
    /// The name and the kind of the image that it becomes; one that goes when it is in no drive, if nothing is said.
    pub image: Option<(String, Kind)>,
}

#[derive(Debug)]
enum State {
    /// A connection is begun at this time.
    Pause(u64),
    Opening,
    Sending(Vec<u8>),
    Head,
    Body,
    Done(Result<u64, Failure>),
}

/// A fetch under way.
#[derive(Debug)]
pub struct Fetch {
    order: Order,
    /// Where it is now, after redirections.
    url: Url,
    redirections: u32,
    attempts: u32,
    state: State,
    inbox: Vec<u8>,
    /// Where it goes, as soon as something comes.
    target: Option<Target>,
    /// It goes into the flash.
    is_bundle: bool,
    received: u64,
    size: Option<u64>,
    /// What says whether it is still the same.
    tag: Option<String>,
    since: u64,
}

/// Where bytes go.
#[derive(Debug)]
enum Target {
    /// Into an image, which this writes.
    Image(u64, Box<Upload>),
    /// Into the flash.
    Flash(Stream),
}

/// The head of an answer.
#[derive(Debug)]
struct Head {
    status: u16,
    length: Option<u64>,
    is_chunked: bool,
    range: Option<(u64, u64, u64)>,
    location: Option<String>,
    tag: Option<String>,
}

/// Reads the head of an answer; returns how many bytes it has. `None` if more are to come.
fn head(bytes: &[u8]) -> Result<Option<(Head, usize)>, ()> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    let size = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        _ => return Err(()),
    };
    let text = |name: &str| {
        let mut all = answer.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        all.next().and_then(|field| str::from_utf8(field.value).ok()).map(|value| value.trim().to_string())
    };
    let length = match text("Content-Length") {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().map_err(|_| ())?),
        Some(_) => return Err(()),
        None => None,
    };
    let head = Head {
        status: answer.code.ok_or(())?,
        length,
        is_chunked: text("Transfer-Encoding").is_some(),
        range: text("Content-Range").and_then(|range| content_range(&range)),
        location: text("Location"),
        tag: text("ETag").filter(|tag| !tag.starts_with("W/")).or(text("Last-Modified")),
    };
    Ok(Some((head, size)))
}

/// Returns a name for an image that comes from there, which no other one has.
fn free_name(hypervisor: &dyn Hypervisor, url: &Url) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = url.file_name().chars().map(plain).take(images::MAX_NAME - 8).collect();
    let name = name.trim_start_matches('.');
    let name = if name.is_empty() { "medium" } else { name };
    let mut all = core::iter::once(name.to_string()).chain((2..).map(|number| format!("{name}-{number}")));
    all.find(|name| images::find(hypervisor, name).is_none()).unwrap_or_default()
}

impl Fetch {
    /// Returns a fetch that has not begun.
    pub fn new(order: Order) -> Self {
        let url = order.url.clone();
        Self {
            order,
            url,
            redirections: 0,
            attempts: 0,
            state: State::Pause(0),
            inbox: Vec::new(),
            target: None,
            is_bundle: false,
            received: 0,
            size: None,
            tag: None,
            since: 0,
        }
    }

    /// Returns one of a bundle, for the flash.
    pub fn of_bundle(order: Order) -> Self {
        Self { is_bundle: true, ..Self::new(order) }
    }

    /// Returns how many bytes have come, and of how many.
    pub fn progress(&self) -> (u64, Option<u64>) {
        (self.received, self.size)
    }

    /// Returns the image (0 for a bundle, which is in the flash), or why there is none, if it is over.
    pub fn outcome(&self) -> Option<&Result<u64, Failure>> {
        match &self.state {
            State::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Ends it, if it is not over.
    pub fn stop(&mut self, wire: &mut dyn Wire, hypervisor: &mut dyn Hypervisor) {
        if self.outcome().is_none() {
            self.fail(wire, hypervisor, "nobody wants it any more.");
        }
    }

    fn request(&self) -> Vec<u8> {
        let mut text = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: salp\r\nAccept: */*\r\nAccept-Encoding: identity\r\nConnection: close\r\n",
            self.url.path,
            self.url.authority()
        );
        let is_same = self.url.host == self.order.url.host && self.url.is_secure == self.order.url.is_secure;
        if let Some(login) = self.order.authorization.as_ref().filter(|_| is_same) {
            text += &format!("Authorization: {login}\r\n");
        }
        if self.received > 0 {
            text += &format!("Range: bytes={}-\r\n", self.received);
            if let Some(tag) = &self.tag {
                text += &format!("If-Range: {tag}\r\n");
            }
        }
        (text + "\r\n").into_bytes()
    }

    fn fail(&mut self, wire: &mut dyn Wire, hypervisor: &mut dyn Hypervisor, why: &str) {
        let why = format!("Not fetched: {why}");
        self.end(wire, hypervisor, Err(Failure::because(400, &why)));
    }

    fn end(&mut self, wire: &mut dyn Wire, hypervisor: &mut dyn Hypervisor, outcome: Result<u64, Failure>) {
        wire.close();
        if let (Err(_), Some(Target::Image(id, _))) = (&outcome, self.target.take()) {
            // Nobody uses what is of it.
            let _ = hypervisor.delete_image(id);
        }
        self.inbox = Vec::new();
        self.state = State::Done(outcome);
    }

    /// Begins another connection later, unless that was of no use for too long.
    fn retry(&mut self, wire: &mut dyn Wire, hypervisor: &mut dyn Hypervisor, why: &str, now: u64) {
        wire.close();
        self.attempts += 1;
        if self.attempts >= ATTEMPTS {
            return self.fail(wire, hypervisor, why);
        }
        self.inbox.clear();
        self.state = State::Pause(now + PAUSE);
    }

    /// Goes on; `now` in milliseconds, `seconds` since 1970. To be called until there is an [outcome](Self::outcome); each call is
    /// bounded.
    pub fn drive(&mut self, wire: &mut dyn Wire, hypervisor: &mut dyn Hypervisor, now: u64, seconds: u64) {
        match &mut self.state {
            State::Done(_) => return,
            State::Pause(until) if now < *until => return,
            State::Pause(_) => {
                wire.open(&self.url);
                (self.state, self.since) = (State::Opening, now);
                return;
            }
            _ => {}
        }
        if let Some(Target::Flash(stream)) = &mut self.target {
            match stream.drain(hypervisor) {
                Ok(true) if Some(self.received) == self.size => return self.end(wire, hypervisor, Ok(0)),
                Ok(true) => {}
                // What comes meanwhile waits at the peer.
                Ok(false) => {
                    self.since = now;
                    return;
                }
                Err(failure) => return self.end(wire, hypervisor, Err(failure)),
            }
        }
        let link = wire.link();
        let before = self.inbox.len();
        if link != Link::Opening {
            wire.receive(&mut self.inbox, PIECE);
        }
        let has_come = self.inbox.len() > before;
        match (&mut self.state, link) {
            (_, Link::Failed(why)) if !has_come => return self.retry(wire, hypervisor, why, now),
            (State::Opening, Link::Open) => {
                (self.state, self.since) = (State::Sending(self.request()), now);
            }
            _ => {}
        }
        if has_come {
            self.since = now;
        }
        if let State::Sending(rest) = &mut self.state {
            let sent = wire.send(rest);
            rest.drain(..sent.min(rest.len()));
            if rest.is_empty() {
                self.state = State::Head;
            }
        }
        if let State::Head = self.state {
            match head(&self.inbox) {
                Ok(Some((head, size))) => {
                    self.inbox.drain(..size);
                    self.read_head(wire, hypervisor, head, now, seconds);
                }
                Ok(None) => {}
                Err(()) => return self.fail(wire, hypervisor, "the answer is malformed."),
            }
        }
        if let State::Body = self.state {
            self.read_body(wire, hypervisor, seconds);
        }
        let is_over = matches!(self.state, State::Done(_) | State::Pause(_));
        if !is_over && !has_come {
            match link {
                Link::Closed => self.retry(wire, hypervisor, "the server ends the connection too early.", now),
                _ if now.saturating_sub(self.since) > PATIENCE => {
                    self.retry(wire, hypervisor, "the server does not answer.", now);
                }
                _ => {}
            }
        }
    }

    fn read_head(&mut self, wire: &mut dyn Wire, hypervisor: &mut dyn Hypervisor, head: Head, now: u64, seconds: u64) {
        match head.status {
            100..200 => {}
            301 | 302 | 303 | 307 | 308 => {
                let next = head.location.and_then(|location| self.url.join(&location));
                self.redirections += 1;
                match next.filter(|next| next.is_secure || !self.url.is_secure) {
                    Some(next) if self.redirections <= REDIRECTIONS => {
                        wire.close();
                        self.url = next;
                        self.inbox.clear();
                        self.state = State::Pause(now);
                    }
                    Some(_) => self.fail(wire, hypervisor, "too many redirections."),
                    None => self.fail(wire, hypervisor, "it is redirected to where this service does not follow."),
                }
            }
            206 if self.target.is_some() => match (head.range, self.size) {
                (Some((first, _, size)), Some(known)) if first == self.received && size == known => {
                    self.state = State::Body;
                }
                _ => self.fail(wire, hypervisor, "the server sends another part than the one asked for."),
            },
            200 => self.begin(wire, hypervisor, &head, seconds),
            500..600 => self.retry(wire, hypervisor, &format!("the server answers {}.", head.status), now),
            status => self.fail(wire, hypervisor, &format!("the server answers {status}.")),
        }
    }

    /// Begins, or begins anew.
    fn begin(&mut self, wire: &mut dyn Wire, hypervisor: &mut dyn Hypervisor, head: &Head, seconds: u64) {
        if let Some(Target::Image(id, _)) = self.target.take() {
            // It is not the same any more, or comes whole again.
            let _ = hypervisor.delete_image(id);
        }
        self.received = 0;
        let Some(size) = head.length.filter(|_| !head.is_chunked) else {
            return self.fail(wire, hypervisor, "the server does not say how long it is.");
        };
        (self.size, self.tag) = (Some(size), head.tag.clone());
        if self.is_bundle {
            // One that is too large is refused before anything of it has come.
            match Stream::begin(hypervisor, size.max(1)) {
                Ok(stream) => (self.target, self.state) = (Some(Target::Flash(stream)), State::Body),
                Err(failure) => self.end(wire, hypervisor, Err(failure)),
            }
            return;
        }
        if !(1..=MAX_IMAGE).contains(&size) {
            return self.fail(wire, hypervisor, "a medium has 1 byte to 1 GiB.");
        }
        images::sweep(hypervisor, seconds);
        let label = match &self.order.image {
            Some((name, kind)) => {
                match images::find(hypervisor, name) {
                    Some((info, _)) if info.finished.get() == 1 => {
                        return self.end(wire, hypervisor, Err(images::taken(name)));
                    }
                    // What is left of one that was broken off; it begins anew.
                    Some((info, _)) => drop(hypervisor.delete_image(info.id.get())),
                    None => {}
                }
                Label::new(*kind, name, seconds)
            }
            None => Label::new(Kind::Fetched, &free_name(hypervisor, &self.order.url), seconds),
        };
        let plan = Plan { first: 0, length: Some(size), size, digest: self.order.digest };
        let made = hypervisor.create_image(size, &label.bytes());
        match made.and_then(|id| Ok((id, Upload::new(hypervisor, id, plan)?))) {
            Ok((id, upload)) => {
                self.target = Some(Target::Image(id, Box::new(upload)));
                self.state = State::Body;
            }
            Err(refused) => self.end(wire, hypervisor, Err(Failure::refused(refused, IMAGES))),
        }
    }

    fn read_body(&mut self, wire: &mut dyn Wire, hypervisor: &mut dyn Hypervisor, seconds: u64) {
        let Some(target) = &mut self.target else { return };
        let left = self.size.unwrap_or(0) - self.received;
        let count = (self.inbox.len() as u64).min(left) as usize;
        if count > 0 {
            let bytes = &self.inbox[..count];
            let taken = match target {
                Target::Image(_, upload) => upload.take(hypervisor, seconds, bytes),
                Target::Flash(stream) => stream.push(hypervisor, bytes),
            };
            if let Err(failure) = taken {
                return self.end(wire, hypervisor, Err(failure));
            }
            self.received += count as u64;
            self.inbox.drain(..count);
            // There is progress.
            self.attempts = 0;
        }
        if Some(self.received) == self.size
            && let Some(Target::Image(id, upload)) = self.target.take_if(|target| matches!(target, Target::Image(..)))
        {
            let outcome = upload.finish(hypervisor, seconds).map(|_| id);
            self.end(wire, hypervisor, outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use alloc::vec;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// A server that gives these answers, one a connection, in pieces.
    #[derive(Default)]
    struct Server {
        answers: VecDeque<Vec<u8>>,
        now: Vec<u8>,
        asked: Vec<String>,
        hosts: Vec<String>,
        piece: usize,
    }

    impl Wire for Server {
        fn open(&mut self, url: &Url) {
            self.hosts.push(url.authority());
            self.asked.push(String::new());
            self.now = self.answers.pop_front().unwrap_or_default();
        }
        fn link(&mut self) -> Link {
            if self.now.is_empty() { Link::Closed } else { Link::Open }
        }
        fn send(&mut self, bytes: &[u8]) -> usize {
            let count = bytes.len().min(7);
            self.asked.last_mut().unwrap().push_str(str::from_utf8(&bytes[..count]).unwrap());
            count
        }
        fn receive(&mut self, to: &mut Vec<u8>, most: usize) {
            if self.asked.last().is_some_and(|asked| asked.ends_with("\r\n\r\n")) {
                let count = self.now.len().min(self.piece.max(1)).min(most);
                to.extend(self.now.drain(..count));
            }
        }
        fn close(&mut self) {
            self.now.clear();
        }
    }

    fn body(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 7) as u8).collect()
    }

    fn answer(head: &str, body: &[u8]) -> Vec<u8> {
        [format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), body].concat()
    }

    fn order(url: &str) -> Order {
        Order { url: Url::parse(url).unwrap(), authorization: Some("Basic eA==".into()), digest: None, image: None }
    }

    fn run(order: Order, server: &mut Server, fake: &mut Fake) -> Result<u64, Failure> {
        let mut fetch = Fetch::new(order);
        for now in 0..20_000 {
            fetch.drive(server, fake, now * 10, 5);
            if let Some(outcome) = fetch.outcome() {
                return outcome.clone();
            }
        }
        panic!("it does not end: {fetch:?}");
    }

    fn server(answers: &[Vec<u8>]) -> Server {
        Server { answers: answers.iter().cloned().collect(), piece: 1000, ..Server::default() }
    }

    fn bytes(fake: &Fake, id: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        fake.read_image(id, 0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn an_address_becomes_an_image() {
        let mut server = server(&[answer("200 OK\r\nContent-Length: 5000", &body(5000))]);
        let mut fake = Fake::default();
        let id = run(order("http://h:81/d/x y.iso".replace(' ', "%20").as_str()), &mut server, &mut fake).unwrap();
        assert_eq!(bytes(&fake, id, 5000), body(5000));
        let (info, label) = images::find(&fake, "x-20y.iso").unwrap();
        assert_eq!((info.finished.get(), label.kind()), (1, Kind::Fetched));
        let asked = &server.asked[0];
        assert!(asked.starts_with("GET /d/x%20y.iso HTTP/1.1\r\nHost: h:81\r\n"), "{asked}");
        assert!(asked.contains("Authorization: Basic eA==\r\n") && !asked.contains("Range"), "{asked}");
    }

    #[test]
    fn a_broken_connection_is_followed_by_one_for_the_rest() {
        let whole = body(9000);
        let mut server = server(&[
            answer("200 OK\r\nETag: \"a\"\r\nContent-Length: 9000", &whole[..4000]),
            answer(
                "206 Partial Content\r\nContent-Range: bytes 4000-8999/9000\r\nContent-Length: 5000",
                &whole[4000..7000],
            ),
            answer(
                "206 Partial Content\r\nContent-Range: bytes 7000-8999/9000\r\nContent-Length: 2000",
                &whole[7000..],
            ),
        ]);
        let mut fake = Fake::default();
        let id = run(order("http://h/x"), &mut server, &mut fake).unwrap();
        assert_eq!(bytes(&fake, id, 9000), whole);
        assert!(server.asked[1].contains("Range: bytes=4000-\r\nIf-Range: \"a\"\r\n"), "{:?}", server.asked);
    }

    #[test]
    fn what_has_changed_meanwhile_is_fetched_from_the_start() {
        let whole = body(3000);
        let mut server = server(&[
            answer("200 OK\r\nContent-Length: 5000", &[1; 2000]),
            answer("200 OK\r\nContent-Length: 3000", &whole),
        ]);
        let mut fake = Fake::default();
        let id = run(order("http://h/x"), &mut server, &mut fake).unwrap();
        assert_eq!((bytes(&fake, id, 3000), crate::hypervisor::images(&fake).count()), (whole, 1));
    }

    #[test]
    fn redirections_are_followed_and_keep_the_password_at_its_host() {
        let mut server = server(&[
            answer("302 Found\r\nLocation: /y", b""),
            answer("307 Temporary Redirect\r\nLocation: http://other/z", b""),
            answer("200 OK\r\nContent-Length: 3", b"abc"),
        ]);
        let mut fake = Fake::default();
        run(order("http://h/x"), &mut server, &mut fake).unwrap();
        assert_eq!(server.hosts, ["h", "h", "other"]);
        assert!(server.asked[1].contains("Authorization") && !server.asked[2].contains("Authorization"));
    }

    #[test]
    fn what_cannot_be_fetched_is_said_and_leaves_nothing() {
        for (answers, why) in [
            (vec![answer("404 Not Found\r\nContent-Length: 0", b"")], "answers 404"),
            (vec![answer("503 No\r\nContent-Length: 0", b""); 9], "answers 503"),
            (vec![answer("200 OK\r\nTransfer-Encoding: chunked", b"0\r\n\r\n")], "how long"),
            (vec![answer("200 OK\r\nContent-Length: 0", b"")], "1 byte to 1 GiB"),
            (vec![answer("200 OK\r\nContent-Length: 99999999999", b"")], "1 byte to 1 GiB"),
            (vec![answer("302 Found\r\nLocation: /x", b""); 99], "too many"),
            (vec![answer("302 Found\r\nLocation: file:///x", b"")], "does not follow"),
            (vec![b"SSH-2.0\r\n\r\n".to_vec()], "malformed"),
            (vec![], "too early"),
            (vec![answer("200 OK\r\nContent-Length: 50", b"x"); 9], "too early"),
        ] {
            let mut fake = Fake::default();
            let failure = run(order("http://h/x"), &mut server(&answers), &mut fake).unwrap_err();
            let text = format!("{:?}", failure.messages);
            assert!(text.contains(why), "{text} {why}");
            assert_eq!(crate::hypervisor::images(&fake).count(), 0, "{why}");
        }
        let secure = &mut server(&[answer("302 Found\r\nLocation: http://h/x", b"")]);
        assert!(run(order("https://h/x"), secure, &mut Fake::default()).is_err(), "TLS is not given up");
        let wrong = Order { digest: Some([7; 32]), ..order("http://h/x") };
        let mut fake = Fake::default();
        let other = &mut server(&[answer("200 OK\r\nContent-Length: 3", b"abc")]);
        assert!(run(wrong, other, &mut fake).is_err());
        assert_eq!(crate::hypervisor::images(&fake).count(), 0);
    }

    proptest! {
        #[test]
        fn any_answer_comes_to_an_end(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            status in "(HTTP/1.1 (200|206|302|100|404) \r\n)?(Content-Length: [0-9]{1,12}\r\n)?(Location: [ -~]{0,20}\r\n)?(\r\n)?",
            piece in 1usize..50,
        ) {
            let answer = [status.as_bytes(), &bytes].concat();
            let mut server = Server { answers: vec![answer; 40].into(), piece, ..Server::default() };
            let _ = run(order("http://h/x"), &mut server, &mut Fake::default());
        }
    }
}
