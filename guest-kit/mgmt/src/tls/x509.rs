//! Reads certificates (RFC 5280) as far as people are shown them, and the text that they come in (RFC 7468). Before:
//! [`certificates`](crate::resources::certificates). After: nothing.
//!
//! What is read was sent by somebody: nothing is believed, every length is checked.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use base64ct::{Base64, Encoding};

use super::certificate::{NAMES, SEQUENCE};

/// The most certificates in a chain.
const MOST: usize = 4;

/// What a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The serial number.
    pub serial: Vec<u8>,
    /// Who signed it: attributes by their names in Redfish.
    pub issuer: Vec<(&'static str, String)>,
    /// Whose it is.
    pub subject: Vec<(&'static str, String)>,
    /// From when on it is valid (RFC 3339).
    pub from: String,
    /// Until when it is valid.
    pub until: String,
    /// The public key, as it is in the certificate: for P-256 the uncompressed point.
    pub key: Vec<u8>,
}

/// Takes one DER element from the front: its tag and its contents.
fn take<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let count = usize::from(first & 0x7f);
    let (length, rest) = match first {
        0..=0x7f => (count, rest),
        // Nothing here has more than 64 KiB.
        0x81 | 0x82 => {
            let (digits, rest) = rest.split_at_checked(count)?;
            (digits.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some((tag, contents))
}

/// Takes an element that has to have this tag.
fn expect<'a>(bytes: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    take(bytes).filter(|(found, _)| *found == tag).map(|(_, contents)| contents)
}

/// Splits certificates that follow each other.
pub fn split(mut chain: &[u8]) -> Option<Vec<&[u8]>> {
    let mut certificates = Vec::new();
    while !chain.is_empty() {
        let before = chain;
        expect(&mut chain, SEQUENCE)?;
        certificates.push(&before[..before.len() - chain.len()]);
    }
    Some(certificates)
}

/// Reads a name.
fn name(mut sets: &[u8]) -> Option<Vec<(&'static str, String)>> {
    let mut attributes = Vec::new();
    while !sets.is_empty() {
        let (_, mut set) = take(&mut sets)?;
        let mut pair = expect(&mut set, SEQUENCE)?;
        let kind = expect(&mut pair, 6)?;
        let (_, text) = take(&mut pair)?;
        let known = NAMES.iter().find(|(_, id)| kind == [0x55, 4, *id]);
        if let (Some((name, _)), Ok(text)) = (known, str::from_utf8(text)) {
            attributes.push((*name, text.into()));
        }
    }
    Some(attributes)
}

/// Reads a time of either form.
fn moment(bytes: &mut &[u8]) -> Option<String> {
    let (tag, digits) = take(bytes)?;
    let text = str::from_utf8(digits).ok()?.strip_suffix('Z')?;
    let text = match tag {
        0x17 if text.len() == 12 => format!("{}{text}", if text < "50" { "20" } else { "19" }),
        0x18 if text.len() == 14 => text.into(),
        _ => return None,
    };
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (date, time) = text.split_at(8);
    Some(format!("{}-{}-{}T{}:{}:{}Z", &date[..4], &date[4..6], &date[6..], &time[..2], &time[2..4], &time[4..]))
}

/// Reads a certificate.
pub fn read(mut certificate: &[u8]) -> Option<Facts> {
    let mut whole = expect(&mut certificate, SEQUENCE)?;
    let mut body = expect(&mut whole, SEQUENCE)?;
    let (tag, mut serial) = take(&mut body)?;
    // The version is left away in the first one.
    if tag == 0xa0 {
        serial = take(&mut body)?.1;
    }
    expect(&mut body, SEQUENCE)?;
    let issuer = name(expect(&mut body, SEQUENCE)?)?;
    let mut validity = expect(&mut body, SEQUENCE)?;
    let (from, until) = (moment(&mut validity)?, moment(&mut validity)?);
    let subject = name(expect(&mut body, SEQUENCE)?)?;
    let mut public = expect(&mut body, SEQUENCE)?;
    expect(&mut public, SEQUENCE)?;
    let key = expect(&mut public, 3)?.strip_prefix(&[0])?.to_vec();
    Some(Facts { serial: serial.to_vec(), issuer, subject, from, until, key })
}

/// Reads certificates as text, one or a chain of them, and returns them one behind the other.
pub fn from_pem(text: &str) -> Option<Vec<u8>> {
    let mut chain = Vec::new();
    let mut parts = text.split("-----BEGIN CERTIFICATE-----");
    parts.next()?;
    for (index, part) in parts.enumerate() {
        let (body, _) = part.split_once("-----END CERTIFICATE-----").filter(|_| index < MOST)?;
        let body: String = body.chars().filter(|character| !character.is_ascii_whitespace()).collect();
        chain.extend(Base64::decode_vec(&body).ok()?);
    }
    let all = split(&chain)?;
    (!all.is_empty() && all.len() <= MOST && all.iter().all(|certificate| read(certificate).is_some())).then_some(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Counting;
    use crate::tls::certificate::Identity;
    use proptest::prelude::*;

    #[test]
    fn a_certificate_is_read_as_it_was_made() {
        let identity = Identity::new(&Counting, 1_795_697_226, &["salp"], &[]);
        let facts = read(&identity.certificate).unwrap();
        assert_eq!(facts.subject, [("CommonName", "salp".into())]);
        assert_eq!((&facts.issuer, facts.serial.len()), (&facts.subject, 16));
        assert_eq!((&*facts.from, &*facts.until), ("2026-11-26T12:47:06Z", "2036-11-26T12:47:06Z"));
        assert_eq!(facts.key, identity.key.verifying_key().to_sec1_point(false).as_bytes());
        let chain = [&identity.certificate[..], &identity.certificate].concat();
        assert_eq!(split(&chain).unwrap().len(), 2);
        assert_eq!(from_pem(&(identity.pem() + &identity.pem())), Some(chain));
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        for text in [
            "",
            "x",
            "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nx",
        ] {
            assert_eq!(from_pem(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_change_of_a_certificate_is_survived(at in 0usize..400, to in any::<u8>(), cut in 0usize..500) {
            let mut bytes = Identity::new(&Counting, 0, &["salp"], &[]).certificate;
            let at = at % bytes.len();
            bytes[at] = to;
            bytes.truncate(bytes.len() - cut % bytes.len());
            let _ = (read(&bytes), split(&bytes));
        }
    }
}
