//! The cryptography of TLS: two cipher suites, one key exchange, one kind of signature. Before: rustls. After:
//! RustCrypto's crates.
//!
//! Records, hashes and signatures use the CPU's instructions for AES and SHA where it has them. Where it has none for AES, ChaCha20 is
//! preferred.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod entropy;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use aes_gcm::Aes128Gcm;
use aes_gcm::aead::array::Array;
use aes_gcm::aead::{AeadInOut, KeyInit, KeySizeUser};
use chacha20poly1305::ChaCha20Poly1305;
use hmac::Mac;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter, Nonce,
    OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm, UnsupportedOperationError,
    make_tls13_aad,
};
use rustls::crypto::tls13::HkdfUsingHmac;
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, SharedSecret, SupportedKxGroup,
    WebPkiSupportedAlgorithms, hash, hmac as tls_hmac,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::{
    CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, NamedGroup, ProtocolVersion,
    SignatureAlgorithm, SignatureScheme, SupportedCipherSuite, Tls13CipherSuite, sign,
};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};

use entropy::Entropy;

const TAG: usize = 16;

/// Returns the suites for a CPU with instructions for AES or without, the preferred first.
fn suites(has_aes: bool) -> Vec<SupportedCipherSuite> {
    let mut suites = Vec::from([&AES128, &CHACHA20].map(SupportedCipherSuite::Tls13));
    if !has_aes {
        suites.reverse();
    }
    suites
}

/// Returns the provider. What it allocates stays for good: call it once.
pub fn new(entropy: &'static dyn Entropy) -> CryptoProvider {
    CryptoProvider {
        cipher_suites: suites(aes_gcm::aes::hardware_accelerated()),
        kx_groups: Vec::from([&*Box::leak(Box::new(X25519(entropy))) as &dyn SupportedKxGroup]),
        // Clients show no certificates.
        signature_verification_algorithms: WebPkiSupportedAlgorithms { all: &[], mapping: &[] },
        secure_random: Box::leak(Box::new(Random(entropy))),
        key_provider: &NoFiles,
    }
}

static CHACHA20: Tls13CipherSuite = Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        hash_provider: &Sha,
        confidentiality_limit: u64::MAX,
    },
    hkdf_provider: &HkdfUsingHmac(&HmacSha),
    aead_alg: &Aead::<ChaCha20Poly1305>(core::marker::PhantomData),
    quic: None,
};

static AES128: Tls13CipherSuite = Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_AES_128_GCM_SHA256,
        hash_provider: &Sha,
        // RFC 8446 section 5.5.
        confidentiality_limit: 1 << 24,
    },
    hkdf_provider: &HkdfUsingHmac(&HmacSha),
    aead_alg: &Aead::<Aes128Gcm>(core::marker::PhantomData),
    quic: None,
};

#[derive(Debug)]
struct Random(&'static dyn Entropy);

impl SecureRandom for Random {
    fn fill(&self, out: &mut [u8]) -> Result<(), GetRandomFailed> {
        self.0.fill(out);
        Ok(())
    }
}

/// Keys are made here and never read from anywhere.
#[derive(Debug)]
struct NoFiles;

impl KeyProvider for NoFiles {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn sign::SigningKey>, Error> {
        Err(Error::General("keys are not loaded".into()))
    }
}

struct Sha;

impl hash::Hash for Sha {
    fn start(&self) -> Box<dyn hash::Context> {
        Box::new(ShaContext(Sha256::new()))
    }

    fn hash(&self, data: &[u8]) -> hash::Output {
        hash::Output::new(&Sha256::digest(data))
    }

    fn output_len(&self) -> usize {
        32
    }

    fn algorithm(&self) -> hash::HashAlgorithm {
        hash::HashAlgorithm::SHA256
    }
}

struct ShaContext(Sha256);

impl hash::Context for ShaContext {
    fn fork_finish(&self) -> hash::Output {
        hash::Output::new(&self.0.clone().finalize())
    }

    fn fork(&self) -> Box<dyn hash::Context> {
        Box::new(Self(self.0.clone()))
    }

    fn finish(self: Box<Self>) -> hash::Output {
        hash::Output::new(&self.0.finalize())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }
}

struct HmacSha;

impl tls_hmac::Hmac for HmacSha {
    fn with_key(&self, key: &[u8]) -> Box<dyn tls_hmac::Key> {
        // Any length is a key of HMAC.
        Box::new(HmacKey(hmac::Hmac::new_from_slice(key).unwrap_or_else(|_| hmac::Hmac::new(&Array::default()))))
    }

    fn hash_output_len(&self) -> usize {
        32
    }
}

struct HmacKey(hmac::Hmac<Sha256>);

impl tls_hmac::Key for HmacKey {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> tls_hmac::Tag {
        let mut mac = self.0.clone();
        mac.update(first);
        middle.iter().for_each(|part| mac.update(part));
        mac.update(last);
        tls_hmac::Tag::new(&mac.finalize().into_bytes())
    }

    fn tag_len(&self) -> usize {
        32
    }
}

/// An AEAD with a nonce of 12 bytes and a tag of 16, for records.
struct Aead<C>(core::marker::PhantomData<fn() -> C>);

/// What [`Aead`] and its records need of a cipher.
trait Cipher: KeyInit + AeadInOut + Send + Sync + 'static {
    fn secrets(key: AeadKey, iv: Iv) -> ConnectionTrafficSecrets;
}

impl Cipher for ChaCha20Poly1305 {
    fn secrets(key: AeadKey, iv: Iv) -> ConnectionTrafficSecrets {
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }
    }
}

impl Cipher for Aes128Gcm {
    fn secrets(key: AeadKey, iv: Iv) -> ConnectionTrafficSecrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
    }
}

struct Records<C> {
    cipher: Option<C>,
    iv: Iv,
}

impl<C: Cipher> Records<C> {
    fn new(key: &AeadKey, iv: Iv) -> Box<Self> {
        // rustls gives a key of `key_len` bytes; should it ever not, no record passes.
        Box::new(Self { cipher: C::new_from_slice(key.as_ref()).ok(), iv })
    }
}

impl<C: Cipher> Tls13AeadAlgorithm for Aead<C> {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Records::<C>::new(&key, iv)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Records::<C>::new(&key, iv)
    }

    fn key_len(&self) -> usize {
        <C as KeySizeUser>::key_size()
    }

    fn extract_keys(&self, key: AeadKey, iv: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok(C::secrets(key, iv))
    }
}

impl<C: Cipher> MessageEncrypter for Records<C> {
    fn encrypt(&mut self, message: OutboundPlainMessage<'_>, seq: u64) -> Result<OutboundOpaqueMessage, Error> {
        let length = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(length);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&message.typ.to_array());
        let nonce = Array::try_from(&Nonce::new(&self.iv, seq).0[..]).map_err(|_| Error::EncryptError)?;
        let cipher = self.cipher.as_ref().ok_or(Error::EncryptError)?;
        let tag = cipher
            .encrypt_inout_detached(&nonce, &make_tls13_aad(length), payload.as_mut().into())
            .map_err(|_| Error::EncryptError)?;
        payload.extend_from_slice(&tag);
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, payload))
    }

    fn encrypted_payload_len(&self, length: usize) -> usize {
        length + 1 + TAG
    }
}

impl<C: Cipher> MessageDecrypter for Records<C> {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        seq: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let payload = &mut message.payload;
        let aad = make_tls13_aad(payload.len());
        let plain = payload.len().checked_sub(TAG).ok_or(Error::DecryptError)?;
        let nonce = Array::try_from(&Nonce::new(&self.iv, seq).0[..]).map_err(|_| Error::DecryptError)?;
        let (text, tag) = payload.split_at_mut(plain);
        let tag = Array::try_from(&*tag).map_err(|_| Error::DecryptError)?;
        let cipher = self.cipher.as_ref().ok_or(Error::DecryptError)?;
        cipher.decrypt_inout_detached(&nonce, &aad, text.into(), &tag).map_err(|_| Error::DecryptError)?;
        payload.truncate(plain);
        message.into_tls13_unpadded_message()
    }
}

#[derive(Debug)]
struct X25519(&'static dyn Entropy);

impl SupportedKxGroup for X25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut bytes = [0; 32];
        self.0.fill(&mut bytes);
        let secret = StaticSecret::from(bytes);
        let public = PublicKey::from(&secret);
        Ok(Box::new(Exchange { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    secret: StaticSecret,
    public: PublicKey,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer: [u8; 32] = peer.try_into().map_err(|_| rustls::PeerMisbehaved::InvalidKeyShare)?;
        let shared = self.secret.diffie_hellman(&PublicKey::from(peer));
        // A point of low order would make the secret known (RFC 8446 section 7.4.2).
        if !shared.was_contributory() {
            return Err(rustls::PeerMisbehaved::InvalidKeyShare.into());
        }
        Ok(SharedSecret::from(&shared.as_bytes()[..]))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// The key that the server signs with: ECDSA on P-256.
#[derive(Clone)]
pub struct Key(Arc<SigningKey>);

impl Key {
    /// Returns the key for rustls.
    pub fn new(key: SigningKey) -> Self {
        Self(Arc::new(key))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl sign::SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn sign::Signer>> {
        offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256).then(|| Box::new(self.clone()) as _)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl sign::Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        // With the nonce of RFC 6979: it needs no random number, and a bad one cannot give the key away.
        let signature: Signature = self.0.try_sign(message).map_err(|_| Error::General("signing failed".into()))?;
        Ok(signature.to_der().as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_without_instructions_for_aes_prefers_chacha20() {
        let names = |has_aes| suites(has_aes).iter().map(SupportedCipherSuite::suite).collect::<Vec<_>>();
        let (aes, chacha) = (CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        assert_eq!(names(true), [aes, chacha]);
        assert_eq!(names(false), [chacha, aes]);
    }
}
