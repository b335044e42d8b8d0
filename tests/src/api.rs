//! A client of the management endpoint, as programs of others are: another TLS and another HTTP than the endpoint's own.
//!
//! Comes after [`machine`](crate::machine), whose console says how the endpoint is reached.

use base64ct::{Base64, Encoding};
use salp_qemu::management::Contact;
use serde_json::Value;
use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use ureq::http::request::Builder;
use ureq::http::{Method, Request, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectionDetails, Connector, DefaultConnector, Transport};
use ureq::{Agent, Body, SendBody};

/// A client that is logged in, as the first administrator if nothing else was said.
#[derive(Clone, Debug)]
pub struct Api {
    agent: Agent,
    tls: TlsConfig,
    origin: String,
    /// The certificate in its encoding.
    certificate: Vec<u8>,
    /// The field by which it says who it is.
    login: (&'static str, String),
    user: String,
    password: String,
}

/// What the endpoint answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The `Location`, if there is one.
    pub location: Option<String>,
    /// The `ETag`, if there is one.
    pub etag: Option<String>,
    /// The token of a new session.
    pub token: Option<String>,
    /// The body.
    pub bytes: Vec<u8>,
}

impl Answer {
    /// Returns the body as JSON.
    ///
    /// # Panics
    ///
    /// If it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Panics unless the status is this.
    ///
    /// # Panics
    ///
    /// As it says, with the body.
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

impl Api {
    /// Returns a client for this endpoint.
    ///
    /// # Panics
    ///
    /// If its certificate is none.
    pub fn new(contact: &Contact) -> Self {
        let pem = std::fs::read(&contact.ca).unwrap_or_else(|error| panic!("{}: {error}", contact.ca.display()));
        let certificate = Certificate::from_pem(&pem).unwrap_or_else(|error| panic!("{error}"));
        let der = certificate.der().to_vec();
        let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[certificate])).build();
        let agent = agent(tls.clone(), 120);
        let origin = contact.url.trim_end_matches("/redfish/v1/").into();
        let (user, password) = (contact.user.clone(), contact.password.clone());
        Self { agent, tls, origin, certificate: der, login: basic(&user, &password), user, password }
    }

    /// Returns a client that logs in as someone else.
    pub fn with_login(&self, user: &str, password: &str) -> Self {
        Self { login: basic(user, password), ..self.clone() }
    }

    /// Returns a client that has a session of its own.
    ///
    /// # Panics
    ///
    /// If it gets none.
    pub fn with_session(&self) -> Self {
        let login = serde_json::json!({ "UserName": self.user, "Password": self.password });
        let made = self.post("/redfish/v1/SessionService/Sessions", &login).is(201);
        Self { login: ("X-Auth-Token", made.token.expect("a token")), ..self.clone() }
    }

    /// Returns a client whose connections are its own, and which waits so many seconds for an answer.
    pub fn with_own_connections(&self, seconds: u64) -> Self {
        Self { agent: agent(self.tls.clone(), seconds), ..self.clone() }
    }

    /// Returns the same client for the same endpoint behind another port of the host's.
    pub fn at(&self, port: u16) -> Self {
        Self { origin: format!("https://127.0.0.1:{port}"), ..self.clone() }
    }

    /// Returns where it is: a host and a port.
    pub fn address(&self) -> &str {
        self.origin.trim_start_matches("https://")
    }

    /// Returns its certificate (DER), for clients that do what this one does not.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Sends a request with these further fields.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub fn send(&self, method: &str, path: &str, fields: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        self.try_send(method, path, fields, body.into()).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Sends a request with these further fields.
    ///
    /// # Errors
    ///
    /// There is no answer.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, ureq::Error> {
        let request = self.request(method, path, fields);
        let answer: Response<Body> = if body.is_empty() {
            self.agent.run(request.body(SendBody::none())?)?
        } else {
            self.agent.run(request.body(body)?)?
        };
        let field = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(String::from);
        let (status, location, etag) = (answer.status().as_u16(), field("Location"), field("ETag"));
        let token = field("X-Auth-Token");
        let bytes = answer.into_body().with_config().limit(64 << 20).read_to_vec()?;
        Ok(Answer { status, location, etag, token, bytes })
    }

    /// Returns the head of a request.
    fn request(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Builder {
        let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
        let request = Request::builder().method(method).uri(format!("{}{path}", self.origin));
        let login = (self.login.0, &*self.login.1);
        fields.iter().copied().chain([login]).fold(request, |request, (name, value)| request.header(name, value))
    }

    /// Gets an answer that goes on and on.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn follow(&self, path: &str, fields: &[(&str, &str)]) -> impl Read + Send + use<> {
        let request =
            self.request("GET", path, fields).body(SendBody::none()).unwrap_or_else(|error| panic!("{error}"));
        let answer = self.agent.run(request).unwrap_or_else(|error| panic!("GET {path}: {error}"));
        assert_eq!(answer.status().as_u16(), 200, "GET {path}");
        answer.into_body().into_reader()
    }

    /// Gets a resource.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], [])
    }

    /// Deletes a resource.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], [])
    }

    /// Posts JSON.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[("Content-Type", "application/json")], body.to_string())
    }

    /// Patches by JSON.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send("PATCH", path, &[("Content-Type", "application/json")], body.to_string())
    }

    /// Uploads an image.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Answer {
        self.send("PUT", path, &[("Content-Type", "application/octet-stream")], bytes)
    }
}

/// Returns once nobody else connects to a machine. QEMU's forwarded ports have room for one connection or two that QEMU has not taken
/// yet. Of more at once the host drops packets: it sends them again after 1, 3, 7, 15, … seconds, or believes a connection to be
/// there that ends with a reset.
pub fn turn_to_connect() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects when it is its turn.
#[derive(Debug)]
struct InTurn(DefaultConnector);

impl Connector for InTurn {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<()>) -> Result<Option<Self::Out>, ureq::Error> {
        let _turn = turn_to_connect();
        self.0.connect(details, chained)
    }
}

fn agent(tls: TlsConfig, seconds: u64) -> Agent {
    let config = Agent::config_builder().tls_config(tls).http_status_as_error(false).max_redirects(0);
    let config = config.timeout_global(Some(Duration::from_secs(seconds))).build();
    Agent::with_parts(config, InTurn(DefaultConnector::new()), DefaultResolver::default())
}

/// Returns the field of basic authentication (RFC 7617).
fn basic(user: &str, password: &str) -> (&'static str, String) {
    ("Authorization", format!("Basic {}", Base64::encode_string(format!("{user}:{password}").as_bytes())))
}
