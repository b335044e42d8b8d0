//! What the server shows to new connections, and the key that waits for its certificate. Before:
//! [`certificates`](crate::resources::certificates). After: the program's network, which serves with it.

use p256::ecdsa::SigningKey;

use super::certificate::{Identity, Subject, new_key, request};
use super::x509;
use salp_provider::entropy::Entropy;

/// Keys and certificates of the server.
pub struct Keys {
    entropy: &'static dyn Entropy,
    identity: Identity,
    /// The key of the last request for a certificate.
    pending: Option<SigningKey>,
    /// Whether the network serves with another identity than this.
    is_new: bool,
    /// Whether something is another than what was kept.
    is_changed: bool,
}

/// The certificate is of no key that is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign;

impl Keys {
    /// Returns the keys of a server that is served with this identity.
    pub fn new(identity: Identity, entropy: &'static dyn Entropy) -> Self {
        Self { entropy, identity, pending: None, is_new: false, is_changed: false }
    }

    /// Returns who the server is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the key that waits for a certificate.
    pub fn pending(&self) -> Option<&SigningKey> {
        self.pending.as_ref()
    }

    /// Puts what was kept in place of what is here.
    pub fn put_back(&mut self, identity: Identity, pending: Option<SigningKey>) {
        self.is_new = identity.certificate != self.identity.certificate;
        (self.identity, self.pending, self.is_changed) = (identity, pending, false);
    }

    /// Returns, once, who the server has become.
    pub fn renewed(&mut self) -> Option<&Identity> {
        core::mem::take(&mut self.is_new).then_some(&self.identity)
    }

    /// Returns, once, whether something is another than what was kept.
    pub fn has_changed(&mut self) -> bool {
        core::mem::take(&mut self.is_changed)
    }

    /// Says that something is another than what was kept.
    pub fn mark_changed(&mut self) {
        self.is_changed = true;
    }

    /// Makes a key and a request for a certificate of it, DER. The key before it, if it had no certificate yet, is gone.
    pub fn request(&mut self, subject: &Subject) -> alloc::vec::Vec<u8> {
        let key = new_key(self.entropy);
        let request = request(&key, subject);
        self.pending = Some(key);
        self.is_changed = true;
        request
    }

    /// Takes another chain: of the present key, or of the one that waits.
    ///
    /// # Errors
    ///
    /// If the first certificate is of another key.
    pub fn replace(&mut self, chain: alloc::vec::Vec<u8>) -> Result<(), Foreign> {
        let first = x509::split(&chain).and_then(|all| x509::read(all.first()?)).ok_or(Foreign)?;
        let is_of = |key: &&SigningKey| key.verifying_key().to_sec1_point(false).as_bytes() == first.key;
        let key = [Some(&self.identity.key), self.pending.as_ref()].into_iter().flatten().find(is_of);
        let key = key.ok_or(Foreign)?.clone();
        self.pending = self.pending.take().filter(|pending| *pending != key);
        self.identity = Identity { key, certificate: chain };
        (self.is_new, self.is_changed) = (true, true);
        Ok(())
    }
}
