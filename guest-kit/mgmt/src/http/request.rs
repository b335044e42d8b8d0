//! One request, taken apart. Before: [`decoder`](super::decoder). After: [`service`](crate::service).

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use super::multipart::MULTIPART;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Read.
    Get,
    /// Read, without the body.
    Head,
    /// Create, or carry an action out.
    Post,
    /// Change.
    Patch,
    /// Replace.
    Put,
    /// Remove.
    Delete,
    /// Something that no resource knows.
    Other,
}

impl Method {
    /// Returns the method of this name.
    pub fn new(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PATCH" => Self::Patch,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Other => "OTHER",
        })
    }
}

/// A request. Of its fields only those are kept that anybody asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is to be done.
    pub method: Method,
    /// To what: percent-decoded, from the first slash to the query.
    pub path: String,
    /// Parameters of the query, percent-decoded, in their order.
    pub query: Vec<(String, String)>,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// `X-Auth-Token`.
    pub token: Option<String>,
    /// `If-Match`.
    pub if_match: Option<String>,
    /// `If-None-Match`.
    pub if_none_match: Option<String>,
    /// `OData-Version`.
    pub odata_version: Option<String>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// Fields of [`OTHERS`].
    pub others: Vec<(&'static str, String)>,
    /// How long the body is, if that was said.
    pub length: Option<u64>,
    /// The body; what is [streamed](Self::is_streamed) has none here.
    pub body: Vec<u8>,
}

/// Names of fields that few resources ask for.
const OTHERS: [&str; 16] = [
    "accept",
    "content-digest",
    "content-range",
    "digest",
    "last-event-id",
    "prefer",
    "repr-digest",
    "sec-websocket-key",
    "sec-websocket-version",
    "upgrade",
    "x-content-sha256",
    "x-salp-kind",
    "x-salp-size",
    "connection",
    "host",
    "origin",
];

impl Request {
    /// Returns whether it only asks.
    pub fn is_read(&self) -> bool {
        matches!(self.method, Method::Get | Method::Head)
    }

    /// Returns a request without fields and body.
    pub fn new(method: Method, path: &str) -> Self {
        Self {
            method,
            path: path.to_string(),
            query: Vec::new(),
            authorization: None,
            token: None,
            if_match: None,
            if_none_match: None,
            odata_version: None,
            content_type: None,
            others: Vec::new(),
            length: None,
            body: Vec::new(),
        }
    }

    /// Returns the value of one of [`OTHERS`].
    pub fn get(&self, name: &str) -> Option<&str> {
        self.others.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }

    /// Returns whether the body is bytes that are taken as they come, not a document: of PUT, of PATCH that says which part of the
    /// whole it brings, and of POST that brings parts.
    pub fn is_streamed(&self) -> bool {
        match self.method {
            Method::Put => true,
            Method::Patch => self.get("content-range").is_some(),
            Method::Post => self.has_parts(),
            _ => false,
        }
    }

    /// Returns whether the body is made of [parts](super::multipart).
    pub fn has_parts(&self) -> bool {
        let kind = self.content_type.as_deref().and_then(|kind| kind.split(';').next());
        kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(MULTIPART))
    }

    /// Returns whether the field of this name is kept.
    pub(super) fn keeps(&mut self, name: &str) -> bool {
        self.field(name).is_some() || OTHERS.iter().any(|other| name.eq_ignore_ascii_case(other))
    }

    /// Keeps a field, if it is one that anybody asks for; returns false if it was there before.
    pub(super) fn keep(&mut self, name: &str, value: &str) -> bool {
        if let Some(place) = self.field(name) {
            return place.replace(value.to_string()).is_none();
        }
        let Some(&name) = OTHERS.iter().find(|other| name.eq_ignore_ascii_case(other)) else { return true };
        let is_new = self.get(name).is_none();
        self.others.push((name, value.to_string()));
        // Lists may be given in parts.
        is_new || matches!(name, "accept" | "connection" | "upgrade")
    }

    /// Returns where the field of this name is kept, if it has a place of its own.
    fn field(&mut self, name: &str) -> Option<&mut Option<String>> {
        let kept = [
            ("authorization", &mut self.authorization),
            ("x-auth-token", &mut self.token),
            ("if-match", &mut self.if_match),
            ("if-none-match", &mut self.if_none_match),
            ("odata-version", &mut self.odata_version),
            ("content-type", &mut self.content_type),
        ];
        kept.into_iter().find(|(kept, _)| name.eq_ignore_ascii_case(kept)).map(|(_, place)| place)
    }

    /// Takes a request target apart: origin form, or absolute form, of which the authority is ignored.
    pub(super) fn set_target(&mut self, target: &str) -> Option<()> {
        let target = match target.find("://") {
            Some(at) if !target.starts_with('/') => {
                let rest = &target[at + 3..];
                rest.find('/').map_or("/", |slash| &rest[slash..])
            }
            _ => target,
        };
        if !target.starts_with('/') || target.contains('#') {
            return None;
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        self.path = decode(path, false)?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            self.query.push((decode(key, true)?, decode(value, true)?));
        }
        Some(())
    }
}

/// Decodes `%XX`, and `+` in a query. None for what is malformed, no UTF-8, a control character or a hidden slash.
fn decode(text: &str, is_query: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let byte = (digit()? << 4 | digit()?) as u8;
                if byte.is_ascii_control() || (byte == b'/' && !is_query) {
                    return None;
                }
                byte
            }
            b'+' if is_query => b' ',
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(target: &str) -> Option<String> {
        let mut request = Request::new(Method::Get, "");
        request.set_target(target).map(|()| request.path)
    }

    #[test]
    fn a_path_is_decoded_once() {
        assert_eq!(path("/a%20b/%24metadata").as_deref(), Some("/a b/$metadata"));
        assert_eq!(path("/a%2520").as_deref(), Some("/a%20"));
    }

    #[test]
    fn the_authority_of_an_absolute_target_is_ignored() {
        assert_eq!(path("http://host:1/redfish").as_deref(), Some("/redfish"));
        assert_eq!(path("https://host").as_deref(), Some("/"));
        assert_eq!(path("/a?b=http://c/d").as_deref(), Some("/a"));
    }

    #[test]
    fn a_malformed_target_is_none() {
        for target in ["", "*", "host:443", "/%", "/%4", "/%zz", "/%+1", "/a%2fb", "/%00", "/%0a", "/%ff", "/a#b"] {
            assert_eq!(path(target), None, "{target}");
        }
    }

    #[test]
    fn a_query_is_pairs_in_their_order() {
        let mut request = Request::new(Method::Get, "");
        request.set_target("/x?$expand=.%28%29&only&a=b+c=d&&").unwrap();
        let pairs: Vec<_> = request.query.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(pairs, [("$expand", ".()"), ("only", ""), ("a", "b c=d")]);
    }
}
