//! The console of a VM: read, followed, typed at, or a WebSocket. Before: [`table`](crate::table). After:
//! [`console`](crate::console).

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_hvc::manager::CONSOLE_SIZE;
use salp_json::json;

use super::fields::{Field, Shape, field};
use super::systems::{self, find};
use super::{Call, Outcome};
use crate::auth::Right;
use crate::console::terminal::Terminal;
use crate::console::{Follow, frame};
use crate::flow::{Flow, Live};
use crate::http::{Method, Request, Response};
use crate::message::Failure;
use crate::table::Place;

/// How many can be at consoles at the same time: one a connection.
pub const MOST: usize = crate::http::CONNECTIONS;

/// How much is read at a time.
const PIECE: usize = 16 << 10;

/// What reading a console is told.
pub const PARAMETERS: &[(Method, Place, Field)] = &[
    (Method::Get, Place::Query, field("position", Shape::Number(0, u64::MAX))),
    (Method::Get, Place::Query, field("follow", Shape::Word(&["", "1", "true"]))),
    (Method::Get, Place::Query, field("type", Shape::Word(&["text"]))),
];

/// Returns where the console of a VM is.
pub fn path(id: u64) -> String {
    systems::path(id) + "/Oem/Salp/Console"
}

fn parameter<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.query.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
}

/// Returns whether a list of words in a field has this one.
fn says(request: &Request, field: &'static str, word: &str) -> bool {
    let mut values = request.others.iter().filter(|(name, _)| *name == field);
    values.any(|(_, value)| value.split(',').any(|entry| entry.trim().eq_ignore_ascii_case(word)))
}

/// Answers the console: what is kept of it, or all that comes from now on, or a WebSocket.
pub fn read(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = find(call)?.id.get();
    let position = match parameter(call.request, "position") {
        Some(text) => {
            let malformed = |_| Failure::new(400, "QueryParameterValueFormatError", &[text, "position"]);
            text.parse().map_err(malformed)?
        }
        None => 0,
    };
    let mut follow = Follow { id, position };
    let live = |head: Response, flow: Box<dyn Flow>| Ok(Outcome::Answer(head.live(Live { flow, session: None })));
    if says(call.request, "upgrade", "websocket") {
        let head = shake_hands(call.request)?;
        let may_type = call.who.is_some_and(|who| who.role.has(Right::ConfigureComponents));
        let is_text = parameter(call.request, "type") == Some("text");
        return live(head, Box::new(Terminal::new(follow, may_type, is_text)));
    }
    let head = Response::new(200).field("X-Content-Type-Options", "nosniff");
    if parameter(call.request, "follow").is_some_and(|value| matches!(value, "" | "1" | "true")) {
        return live(head.field("Content-Type", "text/plain"), Box::new(follow));
    }
    let mut body = Vec::new();
    let what = |refused| Failure::refused(refused, &call.request.path);
    while body.len() < CONSOLE_SIZE {
        let most = PIECE.min(CONSOLE_SIZE - body.len());
        if follow.read(call.hypervisor, &mut body, most).map_err(what)? == 0 {
            break;
        }
    }
    let head = head.field("X-Salp-Position", follow.position.to_string());
    Ok(Outcome::Answer(head.content("text/plain", body)))
}

/// Returns the answer that makes a connection a WebSocket.
fn shake_hands(request: &Request) -> Result<Response, Failure> {
    if request.get("sec-websocket-version") != Some("13") {
        return Err(Failure::because(426, "Say Sec-WebSocket-Version: 13."));
    }
    // A browser sends what it remembers of a login for pages of others too, and says whose page it is.
    let is_foreign = |origin: &str| {
        let host = origin.split_once("://").map_or(origin, |(_, host)| host);
        !request.get("host").is_some_and(|own| own.eq_ignore_ascii_case(host))
    };
    if request.get("origin").is_some_and(is_foreign) {
        return Err(Failure::new(403, "InsufficientPrivilege", &[]));
    }
    let accept = request.get("sec-websocket-key").and_then(frame::accept);
    let accept = accept.ok_or_else(|| Failure::new(400, "HeaderInvalid", &["Sec-WebSocket-Key"]))?;
    if !says(request, "connection", "upgrade") {
        return Err(Failure::new(400, "HeaderInvalid", &["Connection"]));
    }
    let head = Response::new(101).field("Upgrade", "websocket").field("Connection", "Upgrade");
    Ok(head.field("Sec-WebSocket-Accept", accept))
}

/// Types at the console: the bytes of the body, as they are.
pub fn write(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = find(call)?.id.get();
    let (mut taken, bytes) = (0, &call.request.body[..]);
    while taken < bytes.len() {
        let what = |refused| Failure::refused(refused, &call.request.path);
        match call.hypervisor.write_console(id, &bytes[taken..]).map_err(what)? {
            0 => break,
            count => taken += count,
        }
    }
    Ok(Outcome::Resource(json!({ "AcceptedBytes": taken, "Bytes": bytes.len() })))
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::http::Method;
    use crate::testing::{Client, json};
    use alloc::vec::Vec;
    use serde_json::json;

    const CONSOLE: &str = "/redfish/v1/Systems/2/Oem/Salp/Console";

    #[test]
    fn a_console_is_read_and_typed_at() {
        let mut client = Client::new(Role::Operator);
        let read = client.get(CONSOLE);
        assert_eq!((read.status, &read.body[..], read.get("X-Salp-Position")), (200, &b"web login: "[..], Some("11")));
        assert_eq!(json(&client.post(CONSOLE, "root\n"))["AcceptedBytes"], 5);
        let read = client.get("/redfish/v1/Systems/2/Oem/Salp/Console?position=11");
        assert_eq!((&read.body[..], read.get("X-Salp-Position")), (&b"root\n"[..], Some("16")));
        assert_eq!(client.get("/redfish/v1/Systems/2/Oem/Salp/Console?position=x").status, 400);
        assert_eq!(client.get("/redfish/v1/Systems/9/Oem/Salp/Console").status, 404);
        assert_eq!(Client::new(Role::ReadOnly).post(CONSOLE, "x").status, 403);
    }

    #[test]
    fn a_console_that_is_followed_goes_on_until_logout() {
        let mut client = Client::new(Role::Operator);
        let mut answer = client.get("/redfish/v1/Systems/2/Oem/Salp/Console?follow=1");
        assert_eq!(client.drive(&mut answer, &mut Vec::new()), (b"web login: ".to_vec(), true));
        client.post(CONSOLE, "x");
        assert_eq!(client.drive(&mut answer, &mut Vec::new()), (b"x".to_vec(), true));
        let sessions = client.service.auth.sessions();
        client.service.auth.close(&sessions[0]);
        assert!(!client.drive(&mut answer, &mut Vec::new()).1);
    }

    #[test]
    fn a_websocket_is_agreed_on_by_the_rules() {
        let mut client = Client::new(Role::Operator);
        let fields = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("host", "salp"),
            ("origin", "https://salp"),
        ];
        let mut shake = |changed: Option<(&str, &'static str)>| {
            let mut request = client.request(Method::Get, CONSOLE, "");
            for (name, value) in fields {
                let value = changed.filter(|(other, _)| *other == name).map_or(value, |(_, value)| value);
                request.others.push((name, value.into()));
            }
            client.send(&request)
        };
        let answer = shake(None);
        assert_eq!((answer.status, answer.get("Sec-WebSocket-Accept")), (101, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        for (name, value, status) in [
            ("sec-websocket-version", "8", 426),
            ("sec-websocket-key", "x", 400),
            ("connection", "close", 400),
            ("origin", "https://evil", 403),
            ("upgrade", "h2c", 200),
        ] {
            assert_eq!(shake(Some((name, value))).status, status, "{name}");
        }
        let websocket = client.read("/redfish/v1/Systems/2")["SerialConsole"]["WebSocket"].clone();
        assert_eq!(websocket["ConsoleURI"], json!(CONSOLE));
    }
}
