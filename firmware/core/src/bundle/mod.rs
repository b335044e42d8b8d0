//! Release bundles: a SUIT envelope (draft-ietf-suit-manifest) in CBOR (RFC 8949) with a COSE signature (RFC 9052, Ed25519)
//! and the image as its integrated payload. Untrusted bytes: nothing but the frame is looked at before a signature of ours
//! has been found. Before: an upload, or a slot of the flash; after: [`crate::slots`].
//!
//! Commands of the manifest are compared, not interpreted: there is one way to install an image here, and a manifest that wants
//! another is refused. `write` is the other side, for whoever makes bundles.

mod write;

pub use write::{Contents, Full, write};

use crate::digest::{self, Hasher, Sha256};
use ed25519_compact::{PublicKey, Signature};
use minicbor::Decoder;
use minicbor::data::Tag;
use minicbor::decode::Error;
use salp_hvc::update::{
    Format, MAX_FORMATS, REFUSAL_BOARD, REFUSAL_COUNTER, REFUSAL_DIGEST, REFUSAL_FLASH, REFUSAL_FORMATS,
    REFUSAL_NOT_A_BUNDLE, REFUSAL_SIGNATURE, REFUSAL_TOO_LARGE, REFUSAL_TRUNCATED, SlotInfo, VERSION, refusal_word,
};

/// An Ed25519 public key.
pub type Key = [u8; 32];

/// The greatest size of what is in front of the image, in bytes.
pub const HEAD: usize = 4096;

/// The tag of an envelope, and the keys of its map.
const ENVELOPE: u64 = 107;
const AUTHENTICATION: u64 = 2;
const MANIFEST: u64 = 3;
const PAYLOAD: &str = "#image";

/// COSE: the tag of a signature by one key, the protected header {1: -8}, an algorithm (EdDSA), and what a digest's is
/// called (SHA-256).
const SIGN1: u64 = 18;
const PROTECTED: [u8; 3] = [0xa1, 0x01, 0x27];
const CONTEXT: &str = "Signature1";
const SHA_256: i64 = -16;

/// Keys of the manifest, those below zero of our own.
const MANIFEST_VERSION: u64 = 1;
const SEQUENCE: u64 = 2;
const COMMON: u64 = 3;
const VALIDATE: u64 = 7;
const INVOKE: u64 = 9;
const INSTALL: u64 = 20;
const OWN_VERSION: i64 = -1;
const OWN_FORMATS: i64 = -2;

/// Keys of what is common to all commands, and of parameters.
const COMPONENTS: u64 = 2;
const SHARED: u64 = 4;
const VENDOR: u64 = 1;
const CLASS: u64 = 2;
const IMAGE_DIGEST: u64 = 3;
const IMAGE_SIZE: u64 = 14;

/// The component: `[['image']]`.
const COMPONENT: &[u8] = b"\x81\x81\x45image";
/// directive-override-parameters, in front of its map.
const OVERRIDE: u64 = 20;
/// condition-vendor-identifier, condition-class-identifier, each reporting everything.
const IDENTIFY: &[u8] = &[0x01, 0x0f, 0x02, 0x0f];
/// condition-image-match.
const VALIDATE_COMMANDS: &[u8] = &[0x82, 0x03, 0x0f];
/// directive-invoke.
const INVOKE_COMMANDS: &[u8] = &[0x82, 0x17, 0x02];
/// directive-override-parameters {uri: "#image"}, directive-fetch, condition-image-match.
const INSTALL_COMMANDS: &[u8] = b"\x86\x14\xa1\x15\x66#image\x15\x02\x03\x0f";

/// Why a bundle is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Refusal {
    /// It is no bundle, or one that asks for something else.
    NotABundle = REFUSAL_NOT_A_BUNDLE,
    /// It ends too early.
    Truncated = REFUSAL_TRUNCATED,
    /// None of our keys has signed it.
    Signature = REFUSAL_SIGNATURE,
    /// It is for another board.
    Board = REFUSAL_BOARD,
    /// Its security counter is too low.
    Counter = REFUSAL_COUNTER,
    /// It does not read records that are there.
    Formats = REFUSAL_FORMATS,
    /// The image does not fit.
    TooLarge = REFUSAL_TOO_LARGE,
    /// The image is not the one that was signed.
    Digest = REFUSAL_DIGEST,
    /// The flash does not keep what is written.
    Flash = REFUSAL_FLASH,
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(refusal_word(*self as u32))
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        if error.is_end_of_input() { Self::Truncated } else { Self::NotABundle }
    }
}

/// A format of records, as a bundle lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listed {
    name: [u8; 16],
    reads: [u32; 2],
}

/// What a signed bundle says of its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The version, padded with zeros.
    pub version: [u8; VERSION],
    /// The security counter.
    pub counter: u64,
    /// The kind of board that it is for ([`class_of`]).
    pub class: [u8; 16],
    /// The size of the image, in bytes.
    pub size: u64,
    /// The SHA-256 of the image.
    pub digest: [u8; 32],
    formats: [Option<Listed>; MAX_FORMATS],
}

/// What a machine asks of bundles.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// Who may sign.
    pub keys: &'a [Key],
    /// The kinds of board that this is.
    pub classes: &'a [[u8; 16]],
    /// The records that it has written.
    pub formats: &'a [Format],
    /// The greatest size of an image, in bytes.
    pub room: u64,
}

/// A bundle whose signature is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// What it says.
    pub manifest: Manifest,
    /// Where the image starts in it.
    pub payload: u64,
}

/// Returns the kind of board that `compatible` names: a UUID made from a hash (RFC 9562, version 8).
pub fn class_of(compatible: &str) -> [u8; 16] {
    let mut hash = Sha256::default();
    hash.update(b"Salp board: ");
    hash.update(compatible.as_bytes());
    let mut class = [0; 16];
    class.copy_from_slice(&hash.finish()[..16]);
    class[6] = class[6] & 0x0f | 0x80;
    class[8] = class[8] & 0x3f | 0x80;
    class
}

/// How much of an image is read between two steps of its digest, in bytes.
const PART: usize = 4096;

/// Copies the image of the bundle whose bytes `read` gives, from an offset on, to the start of `memory`, if it is good for this
/// machine, which takes no lower security counter than `floor`.
///
/// # Errors
///
/// Why it is not; what is in `memory` then is not to be started.
pub fn load<H: Hasher>(
    read: &dyn Fn(u64, &mut [u8]),
    host: &Host<'_>,
    floor: u64,
    memory: &mut [u8],
) -> Result<Bundle, Refusal> {
    let mut head = [0; HEAD];
    read(0, &mut head);
    let bundle = open(&head, host.keys)?;
    bundle.manifest.check(host, floor)?;
    let size = usize::try_from(bundle.manifest.size).map_err(|_| Refusal::TooLarge)?;
    let memory = memory.get_mut(..size).ok_or(Refusal::TooLarge)?;
    let mut hash = H::default();
    for (part, offset) in memory.chunks_mut(PART).zip((0..).step_by(PART)) {
        read(bundle.payload + offset, part);
        hash.update(part);
    }
    if hash.finish() == bundle.manifest.digest { Ok(bundle) } else { Err(Refusal::Digest) }
}

/// Reads a bundle whose first bytes are `head`: all of it, or [`HEAD`] of them.
///
/// # Errors
///
/// Why it is refused. What the machine may have against a bundle of ours [`Manifest::check`] says.
pub fn open(head: &[u8], keys: &[Key]) -> Result<Bundle, Refusal> {
    let mut envelope = Decoder::new(head);
    let is_envelope = envelope.tag()? == Tag::new(ENVELOPE) && envelope.map()? == Some(3);
    expect(is_envelope && envelope.u64()? == AUTHENTICATION)?;
    let authentication = envelope.bytes()?;
    expect(envelope.u64()? == MANIFEST)?;
    let start = envelope.position();
    let manifest = envelope.bytes()?;
    // The digest covers the wrapper too (draft-ietf-suit-manifest, 8.3).
    let wrapped = head.get(start..envelope.position()).ok_or(Refusal::NotABundle)?;
    let signed = signed_digest(authentication, keys)?;
    if digest::of(wrapped) != signed {
        return Err(Refusal::Signature);
    }
    let manifest = Manifest::parse(manifest)?;
    expect(envelope.str()? == PAYLOAD)?;
    let (length, payload) = payload(head, envelope.position())?;
    expect(length == manifest.size)?;
    Ok(Bundle { manifest, payload })
}

/// Returns an error unless it is as it has to be.
fn expect(is_so: bool) -> Result<(), Refusal> {
    if is_so { Ok(()) } else { Err(Refusal::NotABundle) }
}

/// Returns the digest that one of `keys` has signed.
fn signed_digest(authentication: &[u8], keys: &[Key]) -> Result<[u8; 32], Refusal> {
    let mut blocks = Decoder::new(authentication);
    expect(blocks.array()? == Some(2))?;
    let digest = blocks.bytes()?;
    let mut sign1 = Decoder::new(blocks.bytes()?);
    is_all(&blocks)?;
    expect(sign1.tag()? == Tag::new(SIGN1) && sign1.array()? == Some(4))?;
    expect(sign1.bytes()? == PROTECTED && sign1.map()? == Some(0))?;
    sign1.null()?;
    let signature = Signature::from_slice(sign1.bytes()?).map_err(|_| Refusal::Signature)?;
    is_all(&sign1)?;
    let value = sha_256(digest)?;
    let mut message = [0; write::MESSAGE];
    let message = write::signature_message(digest, &mut message).ok_or(Refusal::NotABundle)?;
    let is_ours = |key: &Key| PublicKey::new(*key).verify(message, &signature).is_ok();
    if keys.iter().any(is_ours) { Ok(value) } else { Err(Refusal::Signature) }
}

/// Returns an error if something follows.
fn is_all(decoder: &Decoder<'_>) -> Result<(), Refusal> {
    expect(decoder.position() == decoder.input().len())
}

/// Reads a SUIT_Digest.
fn sha_256(bytes: &[u8]) -> Result<[u8; 32], Refusal> {
    let mut digest = Decoder::new(bytes);
    expect(digest.array()? == Some(2) && digest.i64()? == SHA_256)?;
    let value = digest.bytes()?.try_into().map_err(|_| Refusal::NotABundle)?;
    is_all(&digest)?;
    Ok(value)
}

/// Returns how long the byte string at `at` is, and where its bytes start: they need not be there yet.
fn payload(head: &[u8], at: usize) -> Result<(u64, u64), Refusal> {
    let rest = head.get(at..).unwrap_or_default();
    let (&first, rest) = rest.split_first().ok_or(Refusal::Truncated)?;
    let size = match first {
        0x58..=0x5b => 1 << (first - 0x58),
        _ => return Err(Refusal::NotABundle),
    };
    let length = rest.get(..size).ok_or(Refusal::Truncated)?;
    let length = length.iter().fold(0, |length, &byte| length << 8 | u64::from(byte));
    Ok((length, (at + 1 + size) as u64))
}

/// Returns text padded with zeros; at least one of them, so that the end is always found.
fn padded<const N: usize>(text: &str) -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    let is_sound = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    expect(is_sound && text.len() < N)?;
    bytes.iter_mut().zip(text.bytes()).for_each(|(place, byte)| *place = byte);
    Ok(bytes)
}

impl Manifest {
    /// Reads a manifest, whoever signed it.
    ///
    /// # Errors
    ///
    /// It makes no sense.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut map = Decoder::new(bytes);
        expect(map.map()? == Some(8))?;
        expect(map.u64()? == MANIFEST_VERSION && map.u64()? == 1)?;
        expect(map.u64()? == SEQUENCE)?;
        let counter = map.u64()?;
        expect(map.u64()? == COMMON)?;
        let (class, digest, size) = Self::common(map.bytes()?)?;
        for (key, commands) in [(VALIDATE, VALIDATE_COMMANDS), (INVOKE, INVOKE_COMMANDS), (INSTALL, INSTALL_COMMANDS)] {
            expect(map.u64()? == key && map.bytes()? == commands)?;
        }
        expect(map.i64()? == OWN_VERSION)?;
        let version = padded(map.str()?)?;
        expect(map.i64()? == OWN_FORMATS)?;
        let count = map.array()?.ok_or(Refusal::NotABundle)?;
        let mut formats = [None; MAX_FORMATS];
        let places = usize::try_from(count).ok().and_then(|count| formats.get_mut(..count));
        for place in places.ok_or(Refusal::NotABundle)? {
            expect(map.array()? == Some(4))?;
            let name = padded(map.str()?)?;
            let reads = [map.u32()?, map.u32()?];
            let written = map.u32()?;
            expect((reads[0]..=reads[1]).contains(&written))?;
            *place = Some(Listed { name, reads });
        }
        is_all(&map)?;
        Ok(Self { version, counter, class, size, digest, formats })
    }

    /// Reads what is common to all commands: for which board, which image, how long.
    fn common(bytes: &[u8]) -> Result<([u8; 16], [u8; 32], u64), Refusal> {
        let mut common = Decoder::new(bytes);
        expect(common.map()? == Some(2) && common.u64()? == COMPONENTS)?;
        let components = common.position()..common.position() + COMPONENT.len();
        expect(bytes.get(components.clone()) == Some(COMPONENT))?;
        common.set_position(components.end);
        expect(common.u64()? == SHARED)?;
        let shared = common.bytes()?;
        is_all(&common)?;

        let mut shared = Decoder::new(shared);
        expect(shared.array()? == Some(6) && shared.u64()? == OVERRIDE && shared.map()? == Some(4))?;
        expect(shared.u64()? == VENDOR && shared.bytes()? == crate::calls::vendor::UUID)?;
        expect(shared.u64()? == CLASS)?;
        let class = shared.bytes()?.try_into().map_err(|_| Refusal::NotABundle)?;
        expect(shared.u64()? == IMAGE_DIGEST)?;
        let digest = sha_256(shared.bytes()?)?;
        expect(shared.u64()? == IMAGE_SIZE)?;
        let size = shared.u64()?;
        expect(shared.input().get(shared.position()..) == Some(IDENTIFY))?;
        Ok((class, digest, size))
    }

    /// Checks that the image may be started on this machine, which accepts security counters from `floor` on.
    ///
    /// # Errors
    ///
    /// What the machine has against it.
    pub fn check(&self, host: &Host<'_>, floor: u64) -> Result<(), Refusal> {
        if !host.classes.contains(&self.class) {
            return Err(Refusal::Board);
        }
        if self.counter < floor {
            return Err(Refusal::Counter);
        }
        if !host.formats.iter().all(|format| self.reads(format)) {
            return Err(Refusal::Formats);
        }
        if self.size > host.room || self.size == 0 {
            return Err(Refusal::TooLarge);
        }
        Ok(())
    }

    /// Returns whether the image reads what is written in this format.
    fn reads(&self, format: &Format) -> bool {
        let name = padded(format.name);
        let is_it = |listed: &&Listed| name.is_ok_and(|name| name == listed.name);
        let listed = self.formats.iter().flatten().find(is_it);
        listed.is_some_and(|listed| (listed.reads[0]..=listed.reads[1]).contains(&format.writes))
    }

    /// Returns what is told of it.
    pub fn info(&self) -> SlotInfo {
        let (counter, size) = (self.counter.into(), self.size.into());
        SlotInfo { version: self.version, counter, size, digest: self.digest }
    }
}

#[cfg(test)]
mod tests;
