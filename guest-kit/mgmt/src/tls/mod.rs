//! TLS 1.3 by rustls, on byte streams that somebody else moves. Before: TCP. After: [`http`](crate::http).
//!
//! [`salp_provider`] is the cryptography, made of RustCrypto's crates; [`certificate`] makes the server's key and its
//! self-signed certificate, [`client`] is what is believed of others, [`x509`] reads their certificates, [`keys`] holds them;
//! [`secure`] joins TLS with an HTTP connection. [`stream`] is the client's side, for media that are fetched; [`records`] is what both
//! sides do alike.

pub mod certificate;
pub mod client;
pub mod keys;
pub mod records;
pub mod secure;
pub mod stream;
pub mod x509;

use alloc::sync::Arc;
use alloc::vec::Vec;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;

use certificate::Identity;
use salp_provider::entropy::Entropy;

/// No certificate of a client is checked, and no ticket is given out: nobody asks for the time.
#[derive(Debug)]
struct NoTime;

impl TimeProvider for NoTime {
    fn current_time(&self) -> Option<UnixTime> {
        None
    }
}

#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Returns how a server with this identity speaks.
///
/// # Errors
///
/// If rustls finds the provider incomplete.
pub fn server(identity: &Identity, entropy: &'static dyn Entropy) -> Result<Arc<ServerConfig>, rustls::Error> {
    let all = x509::split(&identity.certificate).unwrap_or_default();
    let chain = all.iter().map(|certificate| CertificateDer::from(certificate.to_vec())).collect();
    let key = CertifiedKey::new(chain, Arc::new(salp_provider::Key::new(identity.key.clone())));
    let builder = ServerConfig::builder_with_details(Arc::new(salp_provider::new(entropy)), Arc::new(NoTime));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13])?.with_no_client_auth();
    let mut config = builder.with_cert_resolver(Arc::new(Only(Arc::new(key))));
    config.ignore_client_order = true;
    config.send_tls13_tickets = 0;
    config.alpn_protocols = Vec::from([b"http/1.1".to_vec()]);
    Ok(Arc::new(config))
}
