//! Writing bundles: what [`open`](super::open) reads, made from the same constants.

use super::{
    AUTHENTICATION, CLASS, COMMON, COMPONENT, COMPONENTS, CONTEXT, ENVELOPE, HEAD, IDENTIFY, IMAGE_DIGEST, IMAGE_SIZE,
    INSTALL, INSTALL_COMMANDS, INVOKE, INVOKE_COMMANDS, MANIFEST, MANIFEST_VERSION, OVERRIDE, OWN_FORMATS, OWN_VERSION,
    PAYLOAD, PROTECTED, SEQUENCE, SHA_256, SHARED, SIGN1, VALIDATE, VALIDATE_COMMANDS, VENDOR,
};
use crate::digest;
use minicbor::Encoder;
use minicbor::data::Tag;
use minicbor::encode::Error;
use minicbor::encode::write::{Cursor, EndOfSlice};
use salp_hvc::update::Format;

/// The greatest size of what is signed, in bytes.
pub(super) const MESSAGE: usize = 128;

/// What a bundle is to say.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The version.
    pub version: &'a str,
    /// The security counter.
    pub counter: u64,
    /// The kind of board that it is for ([`class_of`](super::class_of)).
    pub class: [u8; 16],
    /// What the image reads and writes.
    pub formats: &'a [Format],
    /// The image's size, in bytes.
    pub size: u64,
    /// The image's SHA-256.
    pub digest: [u8; 32],
}

/// Says that a bundle's head has more than [`HEAD`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl From<Error<EndOfSlice>> for Full {
    fn from(_: Error<EndOfSlice>) -> Self {
        Self
    }
}

type Writer<'a, 'b> = Encoder<&'a mut Cursor<&'b mut [u8]>>;

/// Writes into `buffer`, and returns what was written.
fn filled(
    buffer: &mut [u8],
    fill: impl FnOnce(&mut Writer<'_, '_>) -> Result<(), Error<EndOfSlice>>,
) -> Result<&[u8], Full> {
    let mut cursor = Cursor::new(&mut *buffer);
    fill(&mut Encoder::new(&mut cursor))?;
    let length = cursor.position();
    buffer.get(..length).ok_or(Full)
}

/// Writes what is in front of the image into `buffer`, and returns it; `sign` makes the signature. The image follows.
///
/// # Errors
///
/// There is too much of it.
pub fn write<'b>(
    contents: &Contents<'_>,
    sign: impl FnOnce(&[u8]) -> [u8; 64],
    buffer: &'b mut [u8; HEAD],
) -> Result<&'b [u8], Full> {
    let (mut manifest, mut wrapped) = ([0; HEAD], [0; HEAD]);
    let manifest = manifest_of(contents, &mut manifest)?;
    let wrapped = filled(&mut wrapped, |out| out.bytes(manifest)?.ok())?;
    let mut digest = [0; MESSAGE];
    let digest = suit_digest(&digest::of(wrapped), &mut digest)?;
    let mut message = [0; MESSAGE];
    let signature = sign(signature_message(digest, &mut message).ok_or(Full)?);

    let mut sign1 = [0; MESSAGE];
    let sign1 = filled(&mut sign1, |out| {
        out.tag(Tag::new(SIGN1))?.array(4)?.bytes(&PROTECTED)?.map(0)?.null()?.bytes(&signature)?.ok()
    })?;
    let mut authentication = [0; 2 * MESSAGE];
    let authentication = filled(&mut authentication, |out| out.array(2)?.bytes(digest)?.bytes(sign1)?.ok())?;
    filled(buffer, |out| {
        out.tag(Tag::new(ENVELOPE))?.map(3)?;
        out.u64(AUTHENTICATION)?.bytes(authentication)?.u64(MANIFEST)?.bytes(manifest)?;
        out.str(PAYLOAD)?.bytes_len(contents.size)?.ok()
    })
}

/// Writes a SUIT_Digest.
fn suit_digest<'b>(value: &[u8; 32], buffer: &'b mut [u8]) -> Result<&'b [u8], Full> {
    filled(buffer, |out| out.array(2)?.i64(SHA_256)?.bytes(value)?.ok())
}

/// Writes what is signed (RFC 9052, 4.4): the digest under the protected header, nothing else.
pub(super) fn signature_message<'b>(digest: &[u8], buffer: &'b mut [u8; MESSAGE]) -> Option<&'b [u8]> {
    filled(buffer, |out| out.array(4)?.str(CONTEXT)?.bytes(&PROTECTED)?.bytes(&[])?.bytes(digest)?.ok()).ok()
}

fn manifest_of<'b>(contents: &Contents<'_>, buffer: &'b mut [u8]) -> Result<&'b [u8], Full> {
    let mut digest = [0; MESSAGE];
    let digest = suit_digest(&contents.digest, &mut digest)?;
    let mut shared = [0; 2 * MESSAGE];
    let shared = filled(&mut shared, |out| {
        out.array(6)?.u64(OVERRIDE)?.map(4)?.u64(VENDOR)?.bytes(&crate::calls::vendor::UUID)?;
        out.u64(CLASS)?
            .bytes(&contents.class)?
            .u64(IMAGE_DIGEST)?
            .bytes(digest)?
            .u64(IMAGE_SIZE)?
            .u64(contents.size)?;
        IDENTIFY.iter().try_for_each(|&command| out.u8(command)?.ok())
    })?;
    let mut common = [0; 3 * MESSAGE];
    let common = filled(&mut common, |out| {
        // `[['image']]`, as it is compared.
        out.map(2)?.u64(COMPONENTS)?.array(1)?.array(1)?.bytes(COMPONENT.get(3..).unwrap_or_default())?;
        out.u64(SHARED)?.bytes(shared)?.ok()
    })?;
    filled(buffer, |out| {
        out.map(8)?.u64(MANIFEST_VERSION)?.u64(1)?.u64(SEQUENCE)?.u64(contents.counter)?.u64(COMMON)?.bytes(common)?;
        for (key, commands) in [(VALIDATE, VALIDATE_COMMANDS), (INVOKE, INVOKE_COMMANDS), (INSTALL, INSTALL_COMMANDS)] {
            out.u64(key)?.bytes(commands)?;
        }
        out.i64(OWN_VERSION)?.str(contents.version)?.i64(OWN_FORMATS)?.array(contents.formats.len() as u64)?;
        for format in contents.formats {
            out.array(4)?.str(format.name)?.u32(format.reads[0])?.u32(format.reads[1])?.u32(format.writes)?;
        }
        out.ok()
    })
}
