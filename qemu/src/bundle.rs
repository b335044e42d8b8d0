//! Release bundles: `salp-VERSION.salp`, an image with what is signed of it in front.
//!
//! [`salp_core::bundle`] has the format, for reader and writer. After [`image`](crate::image) and [`keys`](crate::keys);
//! [`flash`](crate::flash) puts one into a flash image.

use crate::keys::Signer;
use anyhow::{Result, anyhow};
use salp_core::bundle::{Contents, HEAD, class_of, write};
use salp_core::digest;
use salp_hvc::update::{FORMATS, SECURITY_COUNTER};

/// The board that bundles are for: QEMU's `virt`, as its device tree names it.
pub const BOARD: &str = "linux,dummy-virt";

/// What a bundle says of its image, apart from size and digest.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// The version.
    pub version: &'a str,
    /// The security counter.
    pub counter: u64,
    /// The board, as its device tree names it.
    pub board: &'a str,
}

impl Release<'static> {
    /// Returns what the bundle of this source says.
    pub const fn this() -> Self {
        Self { version: env!("CARGO_PKG_VERSION"), counter: SECURITY_COUNTER, board: BOARD }
    }
}

/// Makes a bundle. The same image, release and key give the same bytes.
///
/// # Errors
///
/// What is said does not fit in front of the image.
pub fn make(image: &[u8], release: &Release<'_>, signer: &Signer) -> Result<Vec<u8>> {
    let contents = Contents {
        version: release.version,
        counter: release.counter,
        class: class_of(release.board),
        formats: FORMATS,
        size: image.len() as u64,
        digest: digest::of(image),
    };
    let mut head = [0; HEAD];
    let head = write(&contents, |message| signer.sign(message), &mut head);
    Ok([head.map_err(|_| anyhow!("the manifest has more than {HEAD} bytes"))?, image].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ciborium::Value;
    use coset::{CborSerializable, CoseSign1, TaggedCborSerializable, iana};
    use ed25519_compact::{PublicKey, Signature};
    use salp_core::bundle::open;

    fn made() -> Vec<u8> {
        make(&[5; 70_000], &Release::this(), &Signer::development()).expect("a bundle")
    }

    #[test]
    fn equal_releases_are_equal_to_the_bit() {
        assert!(made() == made());
    }

    #[test]
    fn a_machine_reads_what_was_made() {
        let bundle = made();
        let read = open(&bundle[..HEAD], &[Signer::development().public()]).expect("a bundle");
        assert_eq!((read.manifest.size, read.manifest.class), (70_000, class_of(BOARD)));
        assert_eq!(bundle.len() as u64, read.payload + 70_000);
    }

    /// Takes the value of a key out of a map.
    fn value(map: &Value, key: &Value) -> Value {
        let entry = map.as_map().expect("a map").iter().find(|(name, _)| name == key);
        entry.unwrap_or_else(|| panic!("{key:?}")).1.clone()
    }

    fn inner(bytes: &Value) -> Value {
        ciborium::from_reader(&bytes.as_bytes().expect("bytes")[..]).expect("CBOR")
    }

    #[test]
    fn others_find_an_envelope_of_suit_and_a_signature_of_cose() {
        let Value::Tag(107, envelope) = ciborium::from_reader(&made()[..]).expect("CBOR") else {
            panic!("no envelope")
        };
        let [authentication, manifest] = [2, 3].map(|key| value(&envelope, &Value::from(key)));
        let blocks = inner(&authentication);
        let [Value::Bytes(digest), Value::Bytes(sign1)] = &blocks.as_array().expect("blocks")[..] else { panic!() };
        let sign1 = CoseSign1::from_tagged_slice(sign1).expect("COSE");
        let algorithm = &sign1.protected.header.alg;
        assert_eq!(*algorithm, Some(coset::Algorithm::Assigned(iana::Algorithm::EdDSA)));
        let key = PublicKey::new(Signer::development().public());
        let verify = |signature: &[u8], message: &[u8]| key.verify(message, &Signature::from_slice(signature)?);
        sign1.verify_detached_signature(digest, b"", verify).expect("a good signature");

        // The digest is that of the manifest with its wrapper.
        let mut wrapped = Vec::new();
        ciborium::into_writer(&manifest, &mut wrapped).expect("CBOR");
        let signed = Value::from_slice(digest).expect("a digest");
        assert_eq!(signed.as_array().expect("a digest")[1], Value::Bytes(digest::of(&wrapped).to_vec()));
        let manifest = inner(&manifest);
        assert_eq!(value(&manifest, &Value::from(2)), Value::from(SECURITY_COUNTER));
        assert_eq!(value(&manifest, &Value::from(-1)), Value::from(env!("CARGO_PKG_VERSION")));
        assert_eq!(value(&envelope, &Value::from("#image")), Value::Bytes(vec![5; 70_000]));
    }
}
