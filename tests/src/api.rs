//! A client of the management endpoint, as programs of others are: another TLS and another HTTP than the endpoint's own.
//!
//! Comes after [`machine`](crate::machine), whose console says how the endpoint is reached.

use base64ct::{Base64, Encoding};
use salp_qemu::management::Contact;
use serde_json::Value;
use std::time::Duration;
use ureq::http::{Method, Request, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, SendBody};

/// A client that is logged in as the first administrator.
#[derive(Clone, Debug)]
pub struct Api {
    agent: Agent,
    origin: String,
    authorization: String,
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
        let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[certificate])).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_secs(120)))
            .build();
        let origin = contact.url.trim_end_matches("/redfish/v1/").into();
        Self { agent: config.into(), origin, authorization: basic(&contact.user, &contact.password) }
    }

    /// Returns a client that logs in as someone else.
    pub fn with_login(&self, user: &str, password: &str) -> Self {
        Self { authorization: basic(user, password), ..self.clone() }
    }

    /// Returns a client whose connections are its own.
    pub fn with_own_connections(&self) -> Self {
        Self { agent: Agent::new_with_config(self.agent.config().clone()), ..self.clone() }
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
        let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.origin));
        request = request.header("Authorization", &self.authorization);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let answer: Response<Body> = if body.is_empty() {
            self.agent.run(request.body(SendBody::none())?)?
        } else {
            self.agent.run(request.body(body)?)?
        };
        let field = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(String::from);
        let (status, location, etag) = (answer.status().as_u16(), field("Location"), field("ETag"));
        let bytes = answer.into_body().with_config().limit(64 << 20).read_to_vec()?;
        Ok(Answer { status, location, etag, bytes })
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

/// Returns the value of `Authorization` (RFC 7617).
fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", Base64::encode_string(format!("{user}:{password}").as_bytes()))
}
