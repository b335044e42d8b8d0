//! What tests share: a service on the fake hypervisor, and random bytes that are none.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use crate::auth::Role;
use crate::fake::Fake;
use crate::fake::flash::Flash;
use crate::flow::{Live, Sink, Then};
use crate::http::{Method, Request, Response, Serve};
use crate::media::fetch::{Link, Wire};
use crate::media::url::Url;
use crate::service::{Facts, Service};
use crate::table::Route;
use crate::tls::certificate::Identity;
use salp_provider::entropy::Entropy;

/// Words that are never the same twice, and nothing more.
#[derive(Debug)]
pub struct Counting;

impl Entropy for Counting {
    fn fill(&self, out: &mut [u8]) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        for piece in out.chunks_mut(8) {
            let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            piece.copy_from_slice(&number.to_be_bytes()[..piece.len()]);
        }
    }
}

/// Who answers whole requests, and takes no streams.
pub struct Answering<F>(pub F);

impl<F: FnMut(&Request) -> Response> Serve for Answering<F> {
    fn handle(&mut self, request: &Request) -> Response {
        (self.0)(request)
    }

    fn take(&mut self, _: &mut dyn Sink, _: &[u8]) -> Result<(), Response> {
        Err(Response::new(500))
    }

    fn finish(&mut self, _: Box<dyn Sink>) -> Response {
        Response::new(500)
    }

    fn drive(&mut self, _: &mut Live, _: &mut Vec<u8>, _: &mut Vec<u8>) -> bool {
        false
    }
}

/// A client that is logged in.
pub struct Client {
    /// The service.
    pub service: Service,
    token: Option<String>,
    /// The time of requests.
    pub now: u64,
}

impl Client {
    /// Returns a client with this role.
    pub fn new(role: Role) -> Self {
        Self::of(Fake::default(), role)
    }

    /// Returns an administrator of a machine that was not started from a flash.
    pub fn without_flash() -> Self {
        let mut fake = Fake::default();
        fake.flash = Flash::none();
        Self::of(fake, Role::Administrator)
    }

    /// Returns an administrator of a machine on which images fail to take over, for this reason.
    pub fn with_images_that_fail(why: u32) -> Self {
        let mut fake = Fake::default();
        fake.flash.fails = why;
        Self::of(fake, Role::Administrator)
    }

    /// Returns an administrator of a machine with a watchdog, of which this is told: `WATCHDOG_…` bits.
    pub fn with_watchdog(watchdog: u32) -> Self {
        let mut fake = Fake::default();
        fake.watchdog = watchdog;
        Self::of(fake, Role::Administrator)
    }

    fn of(fake: Fake, role: Role) -> Self {
        let identity = Identity::new(&Counting, 0, &["salp"], &[]);
        let facts = Facts { uuid: [0x11; 16], started: 0 };
        let mut service = Service::new(Box::new(fake), &Counting, identity, facts);
        assert!(service.auth.set("admin", "secret", role));
        let mut client = Self { service, token: None, now: 1000 };
        let login = client.post("/redfish/v1/SessionService/Sessions", r#"{"UserName":"admin","Password":"secret"}"#);
        assert_eq!(login.status, 201);
        client.token = login.get("X-Auth-Token").map(ToString::to_string);
        client
    }

    /// Returns an administrator of a service that has one of everything.
    pub fn full() -> Self {
        let mut client = Self::new(Role::Administrator);
        for name in ["k", "i"] {
            let mut request = client.request(Method::Put, &alloc::format!("/redfish/v1/Oem/Salp/Images/{name}"), "");
            (request.body, request.length) = ([0x80; 100].into(), Some(100));
            assert_eq!(client.send(&request).status, 201);
        }
        let link = |name| alloc::format!(r#"{{"@odata.id":"/redfish/v1/Oem/Salp/Images/{name}"}}"#);
        let (kernel, initrd) = (link("k"), link("i"));
        let flat = r#""LoadAddress":1074266112,"EntryAddress":1074266112,"RestartPolicy":"OnCrash""#;
        let body =
            alloc::format!(r#"{{"Name":"new","Oem":{{"Salp":{{"Kernel":{kernel},"Initrd":{initrd},{flat}}}}}}}"#);
        for (path, body) in [
            ("/redfish/v1/Systems", &*body),
            ("/redfish/v1/Systems/2/Actions/Oem/SalpComputerSystem.Snapshot", r#"{"Name":"kept"}"#),
            ("/redfish/v1/Systems/2/Actions/Oem/SalpComputerSystem.InstantClone", r#"{"Name":"clone"}"#),
            (
                "/redfish/v1/EventService/Subscriptions",
                r#"{"Destination":"https://listener/","VerifyCertificate":true}"#,
            ),
            ("/redfish/v1/TelemetryService/MetricReportDefinitions", r#"{"Metrics":[{"MetricId":"SystemExits"}]}"#),
            (
                "/redfish/v1/TelemetryService/Triggers",
                r#"{"NumericThresholds":{"LowerCritical":{"Reading":1}},"MetricProperties":["/redfish/v1/Managers/salp#/Oem/Salp/Statistics/FreeBytes"]}"#,
            ),
        ] {
            let answer = client.post(path, body);
            assert_eq!(answer.status, 201, "{path}: {}", String::from_utf8_lossy(&answer.body));
        }
        let reset = "/redfish/v1/AggregationService/Actions/AggregationService.Reset";
        let body = r#"{"ResetType":"On","TargetURIs":[{"@odata.id":"/redfish/v1/Systems/2"}]}"#;
        assert_eq!(client.post(reset, body).status, 202);
        while client.service.work(client.now) {}
        client
    }

    /// Takes the service back to its start, as after a crash: what it knows then is what it has kept.
    pub fn forget(&mut self) {
        (self.service.events, self.service.tasks, self.service.telemetry) = Default::default();
        assert!(self.service.recall(self.now));
    }

    /// Returns a client that nobody knows.
    pub fn stranger() -> Self {
        Self { token: None, ..Self::new(Role::Administrator) }
    }

    /// Goes on as a new user with this role.
    pub fn become_user(&mut self, user: &str, role: Role) {
        assert!(self.service.auth.set(user, "secret", role));
        let (_, token) = self.service.auth.open(user, "secret", self.now).unwrap().unwrap();
        self.token = Some(token);
    }

    /// Goes on as somebody whom nobody knows.
    pub fn log_out(&mut self) {
        self.token = None;
    }

    /// Returns a request of this client.
    pub fn request(&self, method: Method, target: &str, body: &str) -> Request {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Request::new(method, path);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            request.query.push((key.to_string(), value.to_string()));
        }
        request.token = self.token.clone();
        request.body = body.as_bytes().to_vec();
        if !body.is_empty() {
            request.content_type = Some("application/json".to_string());
        }
        request
    }

    /// Sends any request; a body that is streamed goes where it is to go, in pieces.
    pub fn send(&mut self, request: &Request) -> Response {
        let mut serving = self.service.at(self.now);
        let response = serving.handle(request);
        let Then::Body(mut sink) = response.then else { return response };
        for piece in request.body.chunks(1000) {
            if let Err(response) = serving.take(&mut *sink, piece) {
                return response;
            }
        }
        serving.finish(sink)
    }

    /// Lets the flow of an answer go on once, and returns what it said and whether it goes on.
    pub fn drive(&mut self, response: &mut Response, input: &mut Vec<u8>) -> (Vec<u8>, bool) {
        let Then::Flow(live) = &mut response.then else { panic!("no flow: {response:?}") };
        let mut output = Vec::new();
        let goes_on = self.service.at(self.now).drive(live, input, &mut output);
        (output, goes_on)
    }

    /// Sends GET.
    pub fn get(&mut self, target: &str) -> Response {
        self.send(&self.request(Method::Get, target, ""))
    }

    /// Sends POST.
    pub fn post(&mut self, target: &str, body: &str) -> Response {
        self.send(&self.request(Method::Post, target, body))
    }

    /// Sends GET, which has to succeed, and returns the body.
    pub fn read(&mut self, target: &str) -> Value {
        let response = self.get(target);
        assert_eq!(response.status, 200, "{target}: {}", String::from_utf8_lossy(&response.body));
        json(&response)
    }
}

/// Returns the body.
pub fn json(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {response:?}"))
}

/// Returns the keys of the messages of a failure, without the registry.
pub fn keys(response: &Response) -> alloc::vec::Vec<String> {
    let body = json(response);
    let messages = body["error"]["@Message.ExtendedInfo"].as_array().cloned().unwrap_or_default();
    let key = |message: &Value| message["MessageId"].as_str()?.rsplit('.').next().map(ToString::to_string);
    messages.iter().filter_map(key).collect()
}

fn links(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, inner)| match inner {
            // Links of entries of a collection lead into it.
            Value::String(path) if key == "@odata.id" => drop(found.insert(path.clone())),
            inner => links(inner, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| links(item, found)),
        _ => {}
    }
}

/// Returns everything that links lead to from the root.
pub fn walk(client: &mut Client) -> BTreeMap<String, Value> {
    let (mut seen, mut open) = (BTreeMap::new(), BTreeSet::from([String::from("/redfish/v1/")]));
    while let Some(path) = open.pop_first() {
        let value = client.read(&path);
        links(&value, &mut open);
        seen.insert(path, value);
        open.retain(|path| !seen.contains_key(path));
    }
    seen
}

/// Returns a path of a route, whose variables are those of something that is there.
pub fn concrete(route: &Route, all: &BTreeMap<String, Value>) -> String {
    let Some((place, rest)) = route.pattern.rsplit_once("{}") else { return route.pattern.to_string() };
    let count = place.split('/').count();
    let fits = |path: &&String| {
        let segments: Vec<&str> = path.split('/').collect();
        let is_same = |(pattern, segment): (&str, &&str)| pattern == "{}" || pattern == *segment;
        segments.len() >= count && place.split('/').zip(&segments).take(count - 1).all(is_same)
    };
    // The last one, which nothing else is made from.
    let known = all.keys().rfind(fits);
    let known = known.map(|path| path.split('/').take(count).collect::<Vec<_>>().join("/"));
    // What no link leads to, a schema's text, is found by name.
    known.unwrap_or_else(|| alloc::format!("{place}SalpImage_v1.xml")) + rest
}

/// A server that answers everything with these bytes.
#[derive(Debug)]
pub struct Server(pub Vec<u8>);

impl Wire for Server {
    fn open(&mut self, _: &Url) {}
    fn link(&mut self) -> Link {
        if self.0.is_empty() { Link::Closed } else { Link::Open }
    }
    fn send(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }
    fn receive(&mut self, to: &mut Vec<u8>, most: usize) {
        let count = self.0.len().min(most);
        to.extend(self.0.drain(..count));
    }
    fn close(&mut self) {}
}
