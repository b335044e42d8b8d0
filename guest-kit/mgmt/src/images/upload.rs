//! Bytes on their way into an image. Before: [`resources::images`](crate::resources::images). After: EL2.
//!
//! All that is known of an upload stands in the image's label after each piece, so it can go on after a broken connection,
//! and after this guest was brought back to its checkpoint. An upload that finds the label changed by another one ends.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;

use salp_hvc::manager::MAX_COPY;

use super::Library;
use super::hash::{BLOCK, Hash};
use super::label::Label;
use crate::flow::Sink;
use crate::hypervisor::{self, Answer, Hypervisor, Refused};
use crate::message::Failure;
use crate::resources::{Outcome, images};

/// What is to come, as the request says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The position of the first byte.
    pub first: u64,
    /// How many bytes, if that was said.
    pub length: Option<u64>,
    /// The size of the whole image.
    pub size: u64,
    /// The SHA-256 that the whole image is to have.
    pub digest: Option<[u8; 32]>,
}

/// An upload.
#[derive(Debug)]
pub struct Upload {
    id: u64,
    plan: Plan,
    hash: Hash,
    received: u64,
}

/// Returns the label of an image that is not finished.
fn label(hypervisor: &dyn Hypervisor, id: u64) -> Answer<Label> {
    let info = hypervisor::image(hypervisor, id)?;
    Label::read(&info.label).filter(|_| info.finished.get() == 0).ok_or(Refused(salp_hvc::status::WRONG_STATE))
}

impl Upload {
    /// Returns the upload that goes on where the image is.
    pub fn new(hypervisor: &dyn Hypervisor, id: u64, plan: Plan) -> Answer<Self> {
        let label = label(hypervisor, id)?;
        let received = label.received.get();
        let mut rest = [0; BLOCK];
        let held = (received % BLOCK as u64) as usize;
        if held > 0 {
            hypervisor.read_image(id, received - held as u64, &mut rest[..held])?;
        }
        let hash = Hash::resume(&label.digest, received, &rest[..held]);
        Ok(Self { id, plan, hash, received })
    }

    fn refused(refused: Refused) -> Failure {
        match refused.0 {
            salp_hvc::status::NOT_FOUND | salp_hvc::status::WRONG_STATE => Self::overtaken(),
            _ => Failure::refused(refused, super::IMAGES),
        }
    }

    fn overtaken() -> Failure {
        Failure::because(409, "Somebody else has removed the image, or sends it too.")
    }
}

impl Sink for Upload {
    fn take(&mut self, hypervisor: &mut dyn Hypervisor, now: u64, bytes: &[u8]) -> Result<(), Failure> {
        let mut label = label(hypervisor, self.id).map_err(Self::refused)?;
        if label.received.get() != self.received {
            return Err(Self::overtaken());
        }
        if bytes.len() as u64 > self.plan.size - self.received {
            return Err(Failure::because(400, "More bytes come than the image is to have."));
        }
        for piece in bytes.chunks(MAX_COPY as usize) {
            hypervisor.write_image(self.id, self.received, piece).map_err(Self::refused)?;
            self.hash.update(piece);
            self.received += piece.len() as u64;
        }
        label.received = self.received.into();
        label.digest = self.hash.state();
        label.time = now.into();
        hypervisor.label_image(self.id, &label.bytes()).map_err(Self::refused)
    }

    fn finish(self: Box<Self>, hypervisor: &mut dyn Hypervisor, now: u64) -> Result<Outcome, Failure> {
        let mut label = label(hypervisor, self.id).map_err(Self::refused)?;
        let came = self.received - self.plan.first;
        if self.plan.length.is_some_and(|length| length != came) {
            return Err(Failure::because(400, "Content-Range and the length of the body differ."));
        }
        if self.received < self.plan.size {
            let info = hypervisor::image(hypervisor, self.id).map_err(Self::refused)?;
            return Ok(Outcome::Accepted(images::value(hypervisor, &Library::default(), &info, &label)));
        }
        let digest = self.hash.finish();
        if let Some(expected) = self.plan.digest.filter(|&expected| expected != digest) {
            // It is of no use to anybody.
            let _ = hypervisor.delete_image(self.id);
            let (came, expected) = (crate::auth::hex(&digest), crate::auth::hex(&expected));
            let why = format!("The image is removed: its SHA-256 is {came}, not {expected}.");
            return Err(Failure::because(400, &why));
        }
        (label.digest, label.time) = (digest, now.into());
        // The label first: an image that is finished and says a wrong digest would stay.
        hypervisor.label_image(self.id, &label.bytes()).map_err(Self::refused)?;
        hypervisor.finish_image(self.id).map_err(Self::refused)?;
        let info = hypervisor::image(hypervisor, self.id).map_err(Self::refused)?;
        let location = super::path(&label);
        Ok(Outcome::Created {
            value: images::value(hypervisor, &Library::default(), &info, &label),
            location,
            token: None,
        })
    }
}

/// Reads `bytes FIRST-LAST/SIZE`; returns the position of the first byte, how many, and the size of the whole.
pub fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let number = |text: &str| {
        let is_plain = !text.is_empty() && text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_plain { text.parse::<u64>().ok() } else { None }
    };
    let (unit, rest) = text.split_once(' ')?;
    let (range, size) = rest.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size) = (number(first)?, number(last)?, number(size)?);
    (unit.eq_ignore_ascii_case("bytes") && first <= last && last < size).then(|| (first, last - first + 1, size))
}

/// A text is no SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoDigest;

/// Reads a SHA-256 out of a list as RFC 9530 (`sha-256=:BASE64:`) or RFC 3230 (`SHA-256=BASE64`) writes it; none if it has
/// none.
///
/// # Errors
///
/// If what it has is malformed.
pub fn digest(list: &str) -> Result<Option<[u8; 32]>, NoDigest> {
    use base64ct::{Base64, Encoding};
    for entry in list.split(',') {
        let (algorithm, value) = entry.trim().split_once('=').ok_or(NoDigest)?;
        if algorithm.eq_ignore_ascii_case("sha-256") {
            let value = value.strip_prefix(':').and_then(|value| value.strip_suffix(':')).unwrap_or(value);
            let mut bytes = [0; 33];
            let bytes = Base64::decode(value, &mut bytes).map_err(|_| NoDigest)?;
            return bytes.try_into().map(Some).map_err(|_| NoDigest);
        }
    }
    Ok(None)
}

/// Reads a SHA-256 as hexadecimal digits.
///
/// # Errors
///
/// If it is malformed.
pub fn hex_digest(text: &str) -> Result<[u8; 32], NoDigest> {
    let digits: Option<alloc::vec::Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let bytes: alloc::vec::Vec<u8> = digits
        .ok_or(NoDigest)?
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |sum, digit| sum << 4 | *digit as u8))
        .collect();
    if text.len() == 64 { bytes.try_into().map_err(|_| NoDigest) } else { Err(NoDigest) }
}

/// Returns a SHA-256 as RFC 9530 writes it.
pub fn digest_field(digest: &[u8; 32]) -> String {
    use base64ct::{Base64, Encoding};
    format!("sha-256=:{}:", Base64::encode_string(digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_is_a_part_of_a_whole() {
        assert_eq!(content_range("bytes 0-9/20"), Some((0, 10, 20)));
        assert_eq!(content_range("bytes 19-19/20"), Some((19, 1, 20)));
        for text in [
            "",
            "bytes",
            "bytes 0-9",
            "bytes 9-0/20",
            "bytes 0-20/20",
            "bytes 0-9/*",
            "bytes */20",
            "lines 0-9/20",
            "bytes +0-9/20",
            "bytes 0-9/20 ",
            "bytes -9/20",
            "bytes 0-9999999999999999999/20",
        ] {
            assert_eq!(content_range(text), None, "{text:?}");
        }
    }

    #[test]
    fn digests_are_read_as_both_standards_write_them() {
        let field = digest_field(&[7; 32]);
        assert_eq!(digest(&field), Ok(Some([7; 32])));
        assert_eq!(digest(&field.replace(':', "").replace("sha", "SHA")), Ok(Some([7; 32])));
        assert_eq!(digest("md5=x, unixsum=1"), Ok(None));
        assert_eq!(digest("sha-256=:AAAA:"), Err(NoDigest));
        assert_eq!(digest("sha-256"), Err(NoDigest));
        assert_eq!(hex_digest(&"07".repeat(32)), Ok([7; 32]));
        assert_eq!(hex_digest(&"é".repeat(32)), Err(NoDigest));
        assert_eq!(hex_digest("07"), Err(NoDigest));
    }

    proptest! {
        #[test]
        fn any_text_is_a_range_inside_the_whole_or_nothing(
            text in "(bytes )?[0-9+* -]{0,12}-?[0-9]{0,20}/?[0-9*]{0,20}",
        ) {
            if let Some((first, length, size)) = content_range(&text) {
                prop_assert!(length > 0 && first + length <= size);
            }
            let _ = digest(&text);
            let _ = hex_digest(&text);
        }
    }
}
