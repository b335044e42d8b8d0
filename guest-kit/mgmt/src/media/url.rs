//! Addresses of media: `http://HOST[:PORT]/PATH`, and the same with `https`. Before: requests, and redirections of servers.
//! After: [`fetch`](super::fetch).

use alloc::format;
use alloc::string::{String, ToString};

/// The longest address.
pub const MAX: usize = 480;

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Whether it is `https`.
    pub is_secure: bool,
    /// A name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Path and query, from the slash on.
    pub path: String,
}

impl Url {
    /// Reads an address. One with a user in it is none: passwords do not belong there.
    pub fn parse(text: &str) -> Option<Self> {
        let is_good = text.len() <= MAX && text.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
        let (scheme, rest) = text.split_once("://").filter(|_| is_good)?;
        let is_secure = match () {
            () if scheme.eq_ignore_ascii_case("http") => false,
            () if scheme.eq_ignore_ascii_case("https") => true,
            () => return None,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<core::net::Ipv6Addr>().ok()?;
                (host, port)
            }
            None => {
                let end = authority.find(':').unwrap_or(authority.len());
                let (host, port) = authority.split_at(end);
                let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
                if host.is_empty() || host.len() > 253 || !host.bytes().all(is_host) {
                    return None;
                }
                (host, port)
            }
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => {
                if is_secure {
                    443
                } else {
                    80
                }
            }
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|&port| port != 0)?
            }
            _ => return None,
        };
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
        Some(Self { is_secure, host: host.to_ascii_lowercase(), port, path })
    }

    /// Returns the address that a redirection leads to from here.
    pub fn join(&self, text: &str) -> Option<Self> {
        if text.contains("://") {
            return Self::parse(text);
        }
        let scheme = if self.is_secure { "https" } else { "http" };
        if let Some(rest) = text.strip_prefix("//") {
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        let base = self.path.split('?').next().unwrap_or_default();
        let directory = base.rsplit_once('/').map_or("", |(directory, _)| directory);
        let path = if text.starts_with('/') { text.to_string() } else { format!("{directory}/{text}") };
        Self::parse(&format!("{scheme}://{}{path}", self.authority()))
    }

    /// Returns host and port, as the `Host` field has them.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.is_secure { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }

    /// Returns the last name of the path.
    pub fn file_name(&self) -> &str {
        let path = self.path.split('?').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_is_taken_apart() {
        let url = Url::parse("http://Example.org:8080/a/b.iso?x=1#y").unwrap();
        assert_eq!((&*url.host, url.port, &*url.path, url.is_secure), ("example.org", 8080, "/a/b.iso?x=1", false));
        assert_eq!((url.authority(), url.file_name()), ("example.org:8080".into(), "b.iso"));
        let url = Url::parse("https://[fd00::1]").unwrap();
        assert_eq!((&*url.host, url.port, &*url.path, url.authority()), ("fd00::1", 443, "/", "[fd00::1]".into()));
        for bad in [
            "",
            "ftp://a/b",
            "http://",
            "http:///a",
            "http://a b/",
            "http://u:p@h/",
            "http://h:0/",
            "http://h:x/",
            "http://h:99999/",
            "http://[::1",
            "http://[x]/",
            "http://h/\r\nX: y",
            "/a",
            "http://h:+8/",
        ] {
            assert_eq!(Url::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_redirection_may_be_relative() {
        let url = Url::parse("https://h:444/a/b?c").unwrap();
        let to = |text: &str| url.join(text).map(|url| (url.is_secure, url.authority(), url.path));
        assert_eq!(to("/x"), Some((true, "h:444".into(), "/x".into())));
        assert_eq!(to("x"), Some((true, "h:444".into(), "/a/x".into())));
        assert_eq!(to("//other/x"), Some((true, "other".into(), "/x".into())));
        assert_eq!(to("http://other/x"), Some((false, "other".into(), "/x".into())));
    }

    proptest! {
        #[test]
        fn what_was_read_reads_the_same_again(text in "https?://[a-z0-9.\\[\\]:@%-]{0,20}(/[ -~]{0,20})?", other in "[ -~]{0,30}") {
            if let Some(url) = Url::parse(&text) {
                let scheme = if url.is_secure { "https" } else { "http" };
                let again = Url::parse(&format!("{scheme}://{}{}", url.authority(), url.path));
                prop_assert_eq!(again.as_ref(), Some(&url));
                let _ = url.join(&other);
            }
        }
    }
}
