//! The server's key and the certificate that it signs for itself (RFC 5280). Before: the first start. After:
//! [`server`](super::server), and the people who are told to trust it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use base64ct::{Base64, Encoding};
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use sha2::{Digest, Sha256};

use super::x509;
use crate::resources::time;
use salp_provider::entropy::Entropy;

/// A key and the certificate of it.
#[derive(Clone)]
pub struct Identity {
    /// The key.
    pub key: SigningKey,
    /// The certificate, DER, and behind it those that lead to it.
    pub certificate: Vec<u8>,
}

/// How long a certificate is valid, in seconds: ten years. Nobody is there to renew it.
const VALID: u64 = 3653 * 86400;

/// The tag of a list.
pub const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const GENERALIZED_TIME: u8 = 0x18;
const UTC_TIME: u8 = 0x17;

/// Object identifiers, whole.
const ECDSA_WITH_SHA256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const EC_PUBLIC_KEY: &[u8] = &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const PRIME256V1: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
/// 1.2.840.113549.1.9.14: the extensions that a certificate shall have.
const EXTENSION_REQUEST: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];
const SERVER_AUTH: &[u8] = &[0x06, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1];
const TRUE: &[u8] = &[0x01, 1, 0xff];

/// Attributes of names: what Redfish calls them, and the last part of their object identifiers, 2.5.4.x.
pub const NAMES: [(&str, u8); 6] =
    [("Country", 6), ("State", 8), ("City", 7), ("Organization", 10), ("OrganizationalUnit", 11), ("CommonName", 3)];

/// Whose a certificate shall be.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Attributes, by numbers of [`NAMES`].
    pub attributes: Vec<(u8, String)>,
    /// Names and addresses of the server.
    pub alternatives: Vec<String>,
}

/// Returns a name.
fn name(attributes: &[(u8, String)]) -> Vec<u8> {
    let attribute = |(id, text): &(u8, String)| {
        // A country is two letters of the old alphabet.
        let tag = if *id == 6 { PRINTABLE_STRING } else { UTF8_STRING };
        let pair = element(SEQUENCE, &[&[0x06, 3, 0x55, 4, *id], &element(tag, &[text.as_bytes()])]);
        element(SET, &[&pair])
    };
    element(SEQUENCE, &[&attributes.iter().flat_map(attribute).collect::<Vec<u8>>()])
}

/// Returns what a certificate says of a key.
fn public(key: &SigningKey) -> Vec<u8> {
    let point = key.verifying_key().to_sec1_point(false);
    let point = element(BIT_STRING, &[&[0], point.as_bytes()]);
    element(SEQUENCE, &[&element(SEQUENCE, &[EC_PUBLIC_KEY, PRIME256V1]), &point])
}

/// Returns a body with its signature.
fn signed(key: &SigningKey, body: &[u8]) -> Vec<u8> {
    let signature: Signature = key.sign(body);
    let signature = element(BIT_STRING, &[&[0], signature.to_der().as_bytes()]);
    element(SEQUENCE, &[body, &element(SEQUENCE, &[ECDSA_WITH_SHA256]), &signature])
}

/// Makes a key.
pub fn new_key(entropy: &dyn Entropy) -> SigningKey {
    loop {
        let mut bytes = [0; 32];
        entropy.fill(&mut bytes);
        // One number in 2^32 is no key.
        if let Ok(key) = SigningKey::from_slice(&bytes) {
            return key;
        }
    }
}

/// Returns a request for a certificate of a key (RFC 2986), DER.
pub fn request(key: &SigningKey, subject: &Subject) -> Vec<u8> {
    let alternative = |text: &String| match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => element(0x87, &[&address.octets()]),
        Ok(IpAddr::V6(address)) => element(0x87, &[&address.octets()]),
        Err(_) => element(0x82, &[text.as_bytes()]),
    };
    let alternatives: Vec<u8> = subject.alternatives.iter().flat_map(alternative).collect();
    let extensions = element(SEQUENCE, &[&extension(17, false, &element(SEQUENCE, &[&alternatives]))]);
    let attribute = element(SEQUENCE, &[EXTENSION_REQUEST, &element(SET, &[&extensions])]);
    let version = element(INTEGER, &[&[0]]);
    let parts = [&version, &name(&subject.attributes), &public(key), &element(0xa0, &[&attribute])];
    signed(key, &element(SEQUENCE, &parts.map(|part| &part[..])))
}

/// Returns bytes as text (RFC 7468).
pub fn pem(kind: &str, bytes: &[u8]) -> String {
    let base64 = Base64::encode_string(bytes);
    let mut pem = format!("-----BEGIN {kind}-----\n");
    // Base64 is ASCII.
    for line in base64.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|&byte| char::from(byte)).chain(['\n']));
    }
    pem + &format!("-----END {kind}-----\n")
}

/// Returns one DER element: tag, length, contents.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let length = contents.len();
    let mut out = Vec::from([tag]);
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x100 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(contents);
    out
}

/// Returns an extension: 2.5.29.`id`.
fn extension(id: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { TRUE } else { &[] };
    element(SEQUENCE, &[&[0x06, 3, 0x55, 0x1d, id], critical, &element(OCTET_STRING, &[value])])
}

/// Returns a time as certificates have it: two digits of the year before 2050.
fn moment(seconds: u64) -> Vec<u8> {
    let digits: Vec<u8> = time(seconds).bytes().filter(|byte| byte.is_ascii_digit()).chain([b'Z']).collect();
    if &digits[..4] < b"2050" { element(UTC_TIME, &[&digits[2..]]) } else { element(GENERALIZED_TIME, &[&digits]) }
}

impl Identity {
    /// Makes a key, and a certificate from `now` on for these names and addresses (of 4 or 16 bytes).
    pub fn new(entropy: &dyn Entropy, now: u64, names: &[&str], addresses: &[&[u8]]) -> Self {
        Self::of(new_key(entropy), entropy, now, names, addresses)
    }

    /// Makes a certificate of a key.
    pub fn of(key: SigningKey, entropy: &dyn Entropy, now: u64, names: &[&str], addresses: &[&[u8]]) -> Self {
        let mut serial = [0; 16];
        entropy.fill(&mut serial);
        // Positive, and as long as it says.
        serial[0] = serial[0] & 0x7f | 0x40;
        let point = key.verifying_key().to_sec1_point(false);
        let point = point.as_bytes();
        let id = &Sha256::digest(point)[..20];
        let common = names.first().copied().unwrap_or("salp");
        let name = name(&[(3, common.into())]);
        let mut alternatives = Vec::new();
        names.iter().for_each(|name| alternatives.extend(element(0x82, &[name.as_bytes()])));
        addresses.iter().for_each(|address| alternatives.extend(element(0x87, &[address])));
        let extensions = element(
            SEQUENCE,
            &[
                // It signs itself, and is what clients are given to trust. It is no authority: some clients would not take
                // one for a server.
                &extension(19, true, &element(SEQUENCE, &[])),
                // Digital signature.
                &extension(15, true, &element(BIT_STRING, &[&[7, 0x80]])),
                &extension(37, false, &element(SEQUENCE, &[SERVER_AUTH])),
                &extension(17, false, &element(SEQUENCE, &[&alternatives])),
                &extension(14, false, &element(OCTET_STRING, &[id])),
                &extension(35, false, &element(SEQUENCE, &[&element(0x80, &[id])])),
            ],
        );
        let algorithm = element(SEQUENCE, &[ECDSA_WITH_SHA256]);
        let body = element(
            SEQUENCE,
            &[
                &[0xa0, 3, INTEGER, 1, 2],
                &element(INTEGER, &[&serial]),
                &algorithm,
                &name,
                &element(SEQUENCE, &[&moment(now), &moment(now + VALID)]),
                &name,
                &public(&key),
                &element(0xa3, &[&extensions]),
            ],
        );
        Self { certificate: signed(&key, &body), key }
    }

    /// Returns the certificate as text (PEM), and those that lead to it.
    pub fn pem(&self) -> String {
        let all = x509::split(&self.certificate).unwrap_or_default();
        all.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Counting;

    #[test]
    fn lengths_are_as_short_as_they_can_be() {
        assert_eq!(element(4, &[&[0; 127]])[..2], [4, 127]);
        assert_eq!(element(4, &[&[0; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(element(4, &[&[0; 256]])[..4], [4, 0x82, 1, 0]);
    }

    #[test]
    fn times_change_their_form_in_2050() {
        assert_eq!(moment(1_795_697_226), [&[0x17, 13][..], b"261126124706Z"].concat());
        assert_eq!(moment(2_524_608_000), [&[0x18, 15][..], b"20500101000000Z"].concat());
    }

    #[test]
    fn a_certificate_is_one_element_and_signed_by_its_own_key() {
        use p256::ecdsa::signature::Verifier;
        let identity = Identity::new(&Counting, 0, &["salp"], &[&[127, 0, 0, 1]]);
        let der = &identity.certificate;
        assert_eq!(der.len(), 4 + usize::from(u16::from_be_bytes([der[2], der[3]])));
        let body = &der[4..][..4 + usize::from(u16::from_be_bytes([der[6], der[7]]))];
        let rest = &der[4 + body.len() + 12..];
        let signature = Signature::from_der(&rest[3..]).unwrap();
        identity.key.verifying_key().verify(body, &signature).unwrap();
        assert!(identity.pem().ends_with("\n-----END CERTIFICATE-----\n"));
    }
}
