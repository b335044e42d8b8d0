//! TLS as a client: what is believed of servers. Before: [`exchange`](crate::client::exchange). After: rustls, and webpki in it,
//! which checks chains (RFC 5280).

use alloc::sync::Arc;
use alloc::vec::Vec;

use p256::ecdsa::signature::Verifier;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, ServerName, SignatureVerificationAlgorithm, UnixTime, alg_id,
};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::Digest;

use salp_provider::entropy::Entropy;

/// What is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// Whatever the server shows.
    Any,
    /// One of these certificates (DER), or one that they lead to.
    These(Vec<Vec<u8>>),
}

/// Makes connections.
#[derive(Debug)]
pub struct Tls(Arc<CryptoProvider>);

/// The time at which a connection begins.
#[derive(Debug)]
struct At(u64);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(core::time::Duration::from_secs(self.0)))
    }
}

impl Tls {
    /// Returns what makes connections. What it allocates stays for good: call it once.
    pub fn new(entropy: &'static dyn Entropy) -> Self {
        Self(Arc::new(CryptoProvider { signature_verification_algorithms: ALGORITHMS, ..salp_provider::new(entropy) }))
    }

    /// Returns how a client speaks to a server that it believes so.
    ///
    /// # Errors
    ///
    /// If a certificate is none.
    pub fn config(&self, certificates: &Certificates, now: u64) -> Result<ClientConfig, Error> {
        let builder = ClientConfig::builder_with_details(self.0.clone(), Arc::new(At(now)));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13])?;
        let verifier: Arc<dyn ServerCertVerifier> = match certificates {
            Certificates::Any => Arc::new(Trusting),
            Certificates::These(all) => {
                let mut roots = RootCertStore::empty();
                for certificate in all {
                    roots.add(CertificateDer::from(certificate.clone()))?;
                }
                let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.0.clone()).build();
                let chain = chain.map_err(|_| Error::General("no certificate".into()))?;
                Arc::new(Known { named: all.clone(), chain })
            }
        };
        let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.alpn_protocols = Vec::from([b"http/1.1".to_vec()]);
        // Each event comes on a connection of its own, and nothing of it is remembered.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}

/// Believes certificates that were named, whatever they say of themselves, and those that webpki finds good.
#[derive(Debug)]
struct Known {
    named: Vec<Vec<u8>>,
    chain: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // One that signs itself and is no authority leads to none: it is believed because it was named.
        if self.named.iter().any(|named| **named == **end) {
            return Ok(ServerCertVerified::assertion());
        }
        self.chain.verify_server_cert(end, between, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Believes everybody: whoever subscribed did not ask for more.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // A signature by somebody who may be anybody says nothing.
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        use SignatureScheme::{
            ECDSA_NISTP256_SHA256, ECDSA_NISTP384_SHA384, ED25519, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
        };
        let all =
            [ECDSA_NISTP256_SHA256, ECDSA_NISTP384_SHA384, ED25519, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512];
        Vec::from(all)
    }
}

/// Signatures of certificates and of servers that can be checked.
const ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[&P256, &RSA_CERTIFICATE, &RSA_SERVER],
    mapping: &[
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[&P256]),
        (SignatureScheme::RSA_PSS_SHA256, &[&RSA_SERVER]),
        (SignatureScheme::RSA_PKCS1_SHA256, &[&RSA_CERTIFICATE]),
    ],
};

static P256: Ecdsa = Ecdsa;
static RSA_CERTIFICATE: Rsa = Rsa { is_pss: false };
static RSA_SERVER: Rsa = Rsa { is_pss: true };

/// ECDSA on P-256 with SHA-256.
#[derive(Debug)]
struct Ecdsa;

impl SignatureVerificationAlgorithm for Ecdsa {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }

    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key).map_err(|_| InvalidSignature)?;
        let signature = p256::ecdsa::Signature::from_der(signature).map_err(|_| InvalidSignature)?;
        key.verify(message, &signature).map_err(|_| InvalidSignature)
    }
}

/// RSA with SHA-256: PKCS #1 1.5 as certificates have it, PSS as servers sign.
#[derive(Debug)]
struct Rsa {
    is_pss: bool,
}

impl SignatureVerificationAlgorithm for Rsa {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        if self.is_pss { alg_id::RSA_PSS_SHA256 } else { alg_id::RSA_PKCS1_SHA256 }
    }

    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        use rsa::pkcs1::DecodeRsaPublicKey;
        let key = rsa::PublicKey::from_pkcs1_der(key).map_err(|_| InvalidSignature)?;
        let hash = sha2::Sha256::digest(message);
        let verified = if self.is_pss {
            key.verify(rsa::Pss::<sha2::Sha256>::new(), &hash, signature)
        } else {
            key.verify(rsa::Pkcs1v15Sign::new::<sha2::Sha256>(), &hash, signature)
        };
        verified.map_err(|_| InvalidSignature)
    }
}
