//! The server's certificate: shown, asked for, replaced. Before: [`table`](crate::table). After: [`keys`](crate::tls::keys).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::body::Body;
use super::fields::{Field, Shape, field, needed, needed_link};
use super::network::HTTPS;
use super::{Call, Outcome, collection, time};
use crate::message::Failure;
use crate::tls::certificate::{NAMES, Subject, pem};
use crate::tls::x509;

const SERVICE: &str = "/redfish/v1/CertificateService";

/// The longest chain, in bytes: it is kept as one record with the key.
const MOST: usize = 12 << 10;

/// The most alternative names.
const MOST_NAMES: usize = 16;

/// Returns where certificates of the server are.
pub fn collection_path() -> String {
    format!("{HTTPS}/Certificates")
}

/// Where the certificate of the server is.
pub const SERVER: &str = "/redfish/v1/Managers/salp/NetworkProtocol/HTTPS/Certificates/1";

fn path() -> String {
    SERVER.into()
}

/// Answers the service of certificates.
pub fn service(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let target = |action: &str| format!("{SERVICE}/Actions/CertificateService.{action}");
    Ok(Outcome::Resource(json!({
        "@odata.id": SERVICE,
        "@odata.type": "#CertificateService.v1_2_1.CertificateService",
        "Id": "CertificateService",
        "Name": "Certificates",
        "CertificateLocations": { "@odata.id": format!("{SERVICE}/CertificateLocations") },
        "Actions": {
            "#CertificateService.GenerateCSR": {
                "target": target("GenerateCSR"),
                "KeyPairAlgorithm@Redfish.AllowableValues": [ALGORITHM],
                "KeyCurveId@Redfish.AllowableValues": [CURVE],
            },
            "#CertificateService.ReplaceCertificate": {
                "target": target("ReplaceCertificate"),
                "CertificateType@Redfish.AllowableValues": TYPES,
            },
        },
    })))
}

const ALGORITHM: &str = "TPM_ALG_ECDSA";
const CURVE: &str = "TPM_ECC_NIST_P256";
const TYPES: [&str; 2] = ["PEM", "PEMchain"];
/// An attribute of a certificate's subject.
const ATTRIBUTE: Shape = Shape::Text("^[^\\u0000-\\u001f\\u007f-\\u009f]{1,64}$");

/// What a certificate is asked for with.
pub const REQUEST: &[Field] = &[
    needed_link("CertificateCollection"),
    field("Country", Shape::Text("^[A-Za-z]{2}$")),
    field("State", ATTRIBUTE),
    field("City", ATTRIBUTE),
    field("Organization", ATTRIBUTE),
    field("OrganizationalUnit", ATTRIBUTE),
    needed("CommonName", ATTRIBUTE),
    field("AlternativeNames", Shape::Texts(MOST_NAMES, "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,64}$")),
    field("KeyPairAlgorithm", Shape::Word(&[ALGORITHM])),
    field("KeyCurveId", Shape::Word(&[CURVE])),
];

/// What a certificate is replaced by.
pub const REPLACEMENT: &[Field] = &[
    needed_link("CertificateUri"),
    needed("CertificateType", Shape::Word(&TYPES)),
    needed("CertificateString", Shape::Text("^-----BEGIN CERTIFICATE-----")),
];

/// Answers where certificates are.
pub fn locations(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Resource(json!({
        "@odata.id": format!("{SERVICE}/CertificateLocations"),
        "@odata.type": "#CertificateLocations.v1_0_4.CertificateLocations",
        "Id": "CertificateLocations",
        "Name": "Where certificates are",
        "Links": { "Certificates": [{ "@odata.id": path() }] },
    })))
}

/// Lists certificates.
pub fn list(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = [path()].into_iter();
    Ok(Outcome::Resource(collection(&collection_path(), "CertificateCollection", "Certificates", members)))
}

/// Returns bytes as Redfish writes those of certificates.
fn pairs(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// Returns a chain of certificates (DER) as it is shown.
pub fn value(path: &str, id: &str, chain: &[u8]) -> Value {
    let all = x509::split(chain).unwrap_or_default();
    let first = all.first().copied().unwrap_or_default();
    // What is kept was read before.
    let facts = x509::read(first).unwrap_or_default();
    let name = |attributes: &[(&str, String)]| {
        attributes.iter().map(|(name, text)| (name.to_string(), json!(text))).collect::<Map>()
    };
    json!({
        "@odata.id": path.to_string(),
        "@odata.type": "#Certificate.v1_11_0.Certificate",
        "Id": id.to_string(),
        "Name": "Certificate",
        "CertificateString": all.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect::<String>(),
        "CertificateType": TYPES[usize::from(all.len() > 1)],
        "CertificateUsageTypes": ["Web"],
        "Issuer": name(&facts.issuer),
        "Subject": name(&facts.subject),
        "SerialNumber": pairs(&facts.serial),
        "ValidNotBefore": facts.from,
        "ValidNotAfter": facts.until,
        "Fingerprint": pairs(&Sha256::digest(first)),
        "FingerprintHashAlgorithm": "TPM_ALG_SHA256",
    })
}

/// Answers the certificate.
pub fn certificate(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Resource(value(SERVER, "1", &call.keys.identity().certificate)))
}

/// Makes a key, and the request for a certificate of it. The present one is served until the new one comes.
pub fn generate(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_action(call.request, "CertificateService.GenerateCSR")?;
    let to = body.needed_link("CertificateCollection");
    let is_text = |text: &str| (1..=64).contains(&text.len()) && !text.contains(|c: char| c.is_control());
    let mut attributes = Vec::new();
    for (name, id) in NAMES {
        let fits = |text: &str| if name == "Country" { text.len() == 2 && is_text(text) } else { is_text(text) };
        if let Some(text) = body.text(name, fits) {
            attributes.push((id, text));
        }
    }
    let common = attributes.iter().find(|(id, _)| *id == 3).map(|(_, text)| text.clone());
    body.needed("CommonName", &common);
    let alternatives = body.texts("AlternativeNames", MOST_NAMES, is_text);
    body.word("KeyPairAlgorithm", &[ALGORITHM]);
    body.word("KeyCurveId", &[CURVE]);
    body.finish()?;
    let (to, common) = (to.unwrap_or_default(), common.unwrap_or_default());
    if to != collection_path() {
        return Err(Failure::new(400, "ResourceNotFound", &["CertificateCollection", &to]));
    }
    let alternatives = alternatives.filter(|names| !names.is_empty()).unwrap_or(Vec::from([common]));
    let request = call.keys.request(&Subject { attributes, alternatives });
    Ok(Outcome::Resource(json!({
        "CertificateCollection": { "@odata.id": to },
        "CSRString": pem("CERTIFICATE REQUEST", &request),
    })))
}

/// Takes another certificate with those that lead to it. New connections see it at once.
pub fn replace(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_action(call.request, "CertificateService.ReplaceCertificate")?;
    let link = body.needed_link("CertificateUri");
    body.needed_word("CertificateType", &TYPES);
    let chain =
        body.needed_parsed("CertificateString", |text| x509::from_pem(text).filter(|chain| chain.len() <= MOST));
    body.finish()?;
    let link = link.unwrap_or_default();
    if link != path() {
        return Err(Failure::new(400, "ResourceNotFound", &["Certificate", &link]));
    }
    let chain = chain.unwrap_or_default();
    let facts = x509::split(&chain).and_then(|all| x509::read(all.first()?));
    if facts.is_none_or(|facts| facts.until <= time(call.now)) {
        return Err(Failure::because(400, "The certificate has expired."));
    }
    let why = "The certificate is of no key that is here: make a request with GenerateCSR and have that signed.";
    call.keys.replace(chain).map_err(|_| Failure::because(400, why))?;
    Ok(Outcome::Answer(super::located(&value(SERVER, "1", &call.keys.identity().certificate), path())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::testing::{Client, Counting, json as body_of};
    use crate::tls::certificate::Identity;
    use serde_json::{Value, json};

    fn action(client: &mut Client, name: &str, body: &Value) -> crate::http::Response {
        client.post(&format!("{SERVICE}/Actions/CertificateService.{name}"), &format!("{body}"))
    }

    fn replace(client: &mut Client, chain: &str) -> u16 {
        let body = json!({
            "CertificateString": chain, "CertificateType": "PEM", "CertificateUri": { "@odata.id": path() },
        });
        action(client, "ReplaceCertificate", &body).status
    }

    #[test]
    fn the_certificate_is_shown() {
        let certificate = Client::new(Role::ReadOnly).read(&path());
        assert_eq!(
            (&certificate["Subject"]["CommonName"], &certificate["CertificateType"]),
            (&json!("salp"), &json!("PEM"))
        );
        assert!(certificate["CertificateString"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----\n"));
    }

    #[test]
    fn another_certificate_of_a_key_that_was_asked_for_is_served_and_kept() {
        let mut client = Client::new(Role::Administrator);
        let order = json!({
            "CertificateCollection": { "@odata.id": collection_path() }, "CommonName": "host.example", "Country": "DE",
            "AlternativeNames": ["host.example", "10.0.0.1"], "KeyPairAlgorithm": ALGORITHM,
        });
        let answer = action(&mut client, "GenerateCSR", &order);
        let text = body_of(&answer)["CSRString"].as_str().map(String::from).unwrap();
        assert!(text.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"), "{text}");
        let key = client.service.keys.pending().unwrap().clone();
        assert!(client.service.keys.renewed().is_none());
        let made = Identity::of(key, &Counting, client.now, &["host.example"], &[]);
        assert_eq!(replace(&mut client, &made.pem()), 200);
        assert_eq!(client.read(&path())["Subject"]["CommonName"], "host.example");
        assert_eq!(client.service.keys.renewed().unwrap().certificate, made.certificate);
        assert!(client.service.keys.renewed().is_none() && client.service.keys.pending().is_none());
        let now = client.now;
        assert!(client.service.recall(now));
        assert_eq!(client.service.keys.identity().certificate, made.certificate);
    }

    #[test]
    fn a_certificate_that_does_not_fit_changes_nothing() {
        let mut client = Client::new(Role::Administrator);
        let before = client.read(&path());
        let foreign = Identity::new(&Counting, client.now, &["evil"], &[]);
        let key = client.service.keys.identity().key.clone();
        client.now = 4_000_000_000;
        client.service.auth.timeout = u64::MAX;
        let old = Identity::of(key, &Counting, 0, &["old"], &[]);
        for chain in [&*foreign.pem(), &*old.pem(), "", "text"] {
            assert_eq!(replace(&mut client, chain), 400, "{chain}");
        }
        assert_eq!(client.read(&path()), before);
        let mut operator = Client::new(Role::Operator);
        assert_eq!(replace(&mut operator, &foreign.pem()), 403);
    }
}
