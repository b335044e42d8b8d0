//! Where a server is (RFC 3986), as far as HTTP needs it. Before: requests. After: [`exchange`](super::exchange).

use alloc::string::{String, ToString};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest URL.
pub const MOST: usize = 1024;

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name of the DNS, in small letters.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// An `http` or `https` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// As it was written.
    pub text: String,
    /// Whether it is `https`.
    pub is_secure: bool,
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// Path and query, as a request says them.
    pub target: String,
}

fn name(text: &str) -> Option<Host> {
    let is_label = |label: &str| {
        (1..64).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    // What looks like an address and is none, is no name either.
    let is_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    (name.len() < 254 && !is_number && name.split('.').all(is_label)).then(|| Host::Name(name.to_ascii_lowercase()))
}

impl Url {
    /// Reads a URL without a user and a fragment.
    pub fn new(text: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&byte);
        if text.len() > MOST || !text.bytes().all(is_plain) {
            return None;
        }
        let (scheme, rest) = text.split_once("://")?;
        let is_secure = match () {
            () if scheme.eq_ignore_ascii_case("https") => true,
            () if scheme.eq_ignore_ascii_case("http") => false,
            () => return None,
        };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        let (host, port) = match authority.strip_prefix('[') {
            Some(inner) => {
                let (address, port) = inner.split_once(']')?;
                (Host::Address(address.parse::<Ipv6Addr>().ok()?.into()), port)
            }
            None => {
                let at = authority.find(':').unwrap_or(authority.len());
                let (host, port) = authority.split_at(at);
                let address = host.parse::<Ipv4Addr>().map(|address| Host::Address(address.into()));
                (address.ok().or_else(|| name(host))?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(digits) => digits.parse().ok().filter(|&port| port > 0)?,
            None if port.is_empty() => {
                if is_secure {
                    443
                } else {
                    80
                }
            }
            None => return None,
        };
        let target = if target.starts_with('/') { target.to_string() } else { alloc::format!("/{target}") };
        Some(Self { text: text.to_string(), is_secure, host, port, target })
    }

    /// Returns host and port as a request names them.
    pub fn authority(&self) -> String {
        let usual = if self.is_secure { 443 } else { 80 };
        if self.port == usual { self.host.to_string() } else { alloc::format!("{}:{}", self.host, self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_url_is_taken_apart() {
        for (text, is_secure, authority, port, target) in [
            ("http://10.0.0.5", false, "10.0.0.5", 80, "/"),
            ("HTTPS://Listener.Example.:8443/a/b?c=%20", true, "listener.example:8443", 8443, "/a/b?c=%20"),
            ("https://[fd00::1]:443?x", true, "[fd00::1]", 443, "/?x"),
        ] {
            let url = Url::new(text).unwrap();
            let found = (url.is_secure, &*url.authority(), url.port, &*url.target);
            assert_eq!(found, (is_secure, authority, port, target), "{text}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in [
            "",
            "ftp://x/",
            "http://",
            "http:///x",
            "http://a:b@c/",
            "http://x:0/",
            "http://x:65536/",
            "http://x:/",
            "http://[::1/",
            "http://[::1]x/",
            "http://1.2.3/",
            "http://1.2.3.400/",
            "http://a..b/",
            "http://-a/",
            "http://x/#f",
            "http://x/\r\nHost: y",
            "http://x/ y",
        ] {
            assert_eq!(Url::new(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(http://)?[a-z0-9.:/?\\[\\]%@]{0,40}|\\PC{0,40}") {
            if let Some(url) = Url::new(&text) {
                prop_assert!(url.target.starts_with('/') && url.port > 0);
            }
        }
    }
}
