//! What is the same for every resource. Before: [`http`](crate::http). After: [`table`].
//!
//! In this order: who asks, is there such a path, does the protocol fit, is there such a method, may they, what about
//! queries and ETags; then the resource's own function.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_json::Value;

use crate::appliance::Appliance;
use crate::audit::Audit;
use crate::auth::{Auth, Right, Stranger, Who};
use crate::events::Events;
use crate::events::journal::News;
use crate::events::subscription::Delivery;
use crate::flow::{Heard, Live, Sink, Then};
use crate::http::multipart::MULTIPART;
use crate::http::{Method, Request, Response, Serve};
use crate::hypervisor::{Answer, Hypervisor, MachinePower};
use crate::images::{self, Library};
use crate::media::fetch::Wire;
use crate::media::jobs::Jobs;
use crate::message::Failure;
use crate::peers::{self, Peer};
use crate::query::filter::Filter;
use crate::query::{Expand, Query};
use crate::resources::{Call, Outcome, accounts, schemas, tasks};
use crate::state;
use crate::systems::boot;
use crate::table;
use crate::tasks::{Tasks, Tools, fetch};
use crate::telemetry::Telemetry;
use crate::tls::certificate::Identity;
use crate::tls::keys::Keys;
use crate::updates::{Updates, Verdict, install};
use salp_provider::entropy::Entropy;

/// The realm that strangers are asked for.
const REALM: &str = "Basic realm=\"salp\", charset=\"UTF-8\"";

/// What a service knows of itself.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The service's UUID.
    pub uuid: [u8; 16],
    /// When it started, in seconds since 1970.
    pub started: u64,
}

/// The service.
pub struct Service {
    hypervisor: Box<dyn Hypervisor>,
    /// Accounts and sessions.
    pub auth: Auth,
    /// What new connections are shown.
    pub keys: Keys,
    /// Who changed what.
    pub audit: Audit,
    /// What has happened, and who is told.
    pub events: Events,
    /// What takes longer than a request.
    pub tasks: Tasks,
    /// Reports and thresholds.
    pub telemetry: Telemetry,
    /// Media under way.
    pub jobs: Jobs,
    /// The appliance itself.
    pub appliance: Appliance,
    /// Updates under way.
    pub updates: Updates,
    facts: Facts,
    requests: u64,
}

impl Service {
    /// Returns a service that manages what `hypervisor` lists, with no account.
    pub fn new(
        hypervisor: Box<dyn Hypervisor>,
        entropy: &'static dyn Entropy,
        identity: Identity,
        facts: Facts,
    ) -> Self {
        let (auth, keys) = (Auth::new(entropy), Keys::new(identity, entropy));
        Self {
            hypervisor,
            auth,
            keys,
            audit: Audit::default(),
            events: Events::default(),
            tasks: Tasks::default(),
            telemetry: Telemetry::default(),
            jobs: Jobs::default(),
            appliance: Appliance::default(),
            updates: Updates::default(),
            facts,
            requests: 0,
        }
    }

    /// Takes what was kept: keys, accounts and sessions; returns false if there are no accounts.
    pub fn recall(&mut self, now: u64) -> bool {
        state::recall_keys(&*self.hypervisor, &mut self.keys);
        state::recall_audit(&*self.hypervisor, &mut self.audit);
        self.appliance.recall(&*self.hypervisor);
        state::recall_events(&*self.hypervisor, &mut self.events, &mut self.tasks, &mut self.telemetry);
        self.events.look(&*self.hypervisor, now);
        state::recall_auth(&*self.hypervisor, &mut self.auth, now)
    }

    /// Keeps accounts, sessions and keys if they have changed.
    pub fn keep(&mut self) {
        let uuid = self.facts.uuid;
        if self.keys.has_changed() && state::keep_keys(&mut *self.hypervisor, &self.keys, uuid).is_err() {
            self.keys.mark_changed();
        }
        if self.audit.has_changed() && state::keep_audit(&mut *self.hypervisor, &self.audit).is_err() {
            self.audit.mark_changed();
        }
        state::keep_events(&mut *self.hypervisor, &mut self.events, &mut self.tasks, &mut self.telemetry);
        if self.auth.has_changed() && state::keep_auth(&mut *self.hypervisor, &self.auth).is_err() {
            // The next request tries again.
            self.auth.mark_changed();
        }
    }

    /// Keeps who has a connection.
    pub fn keep_peers(&mut self, peers: &mut dyn Iterator<Item = Peer>) {
        // What cannot be kept costs somebody patience, should this guest fail.
        let _ = peers::keep(&mut *self.hypervisor, peers);
    }

    /// Returns who had a connection.
    pub fn recall_peers(&self) -> Vec<Peer> {
        peers::recall(&*self.hypervisor)
    }

    /// Returns how many requests there were.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Removes what nobody waits for any more; to be called now and then.
    pub fn tidy(&mut self, now: u64) {
        images::sweep(&mut *self.hypervisor, now);
    }

    /// Takes note of what has happened, and does a little of what takes long; to be called on and on. Returns whether there is
    /// more to do at once.
    pub fn work(&mut self, now: u64) -> bool {
        self.events.look(&*self.hypervisor, now);
        let mut tools = Tools { hypervisor: &mut *self.hypervisor, jobs: &mut self.jobs, now };
        self.tasks.work(&mut tools, &mut self.events.journal);
        self.telemetry.work(&*self.hypervisor, &mut self.events, now);
        self.keep();
        self.tasks.is_busy(now)
    }

    /// Returns the next request to a listener, if one is due. [`delivered`](Self::delivered) has to be told how it went.
    pub fn next_delivery(&mut self, now: u64) -> Option<Delivery> {
        let mut subscriptions = core::mem::take(&mut self.events.subscriptions);
        let journal = core::mem::take(&mut self.events.journal);
        let reports = core::mem::take(&mut self.events.reports);
        let library = Library::default();
        let delivery = subscriptions.next(&Heard { journal: &journal, reports: &reports, now }, &mut |user, path| {
            let role = self.auth.account(user).filter(|account| account.is_enabled)?.role;
            let who = Who { user: user.to_string(), role, session: None, must_change: false };
            self.look_up(path, &Reading { who: Some(&who), library: &library, now })
        });
        self.events.subscriptions = subscriptions;
        (self.events.journal, self.events.reports) = (journal, reports);
        delivery
    }

    /// Takes note of how a request to a listener went: the status of the answer, or why there is none.
    pub fn delivered(&mut self, done: &Delivery, result: Result<u16, &str>, now: u64) {
        self.events.subscriptions.delivered(&mut self.events.journal, done, result, now);
        self.keep();
    }

    /// Goes on with what takes longer than a request: VMs that are to start when they are off, a machine that is to go when they
    /// are.
    pub fn go_on(&mut self, now: u64) {
        if self.appliance.is_leaving() {
            return self.appliance.go_on(&mut *self.hypervisor, now);
        }
        boot::go_on(&mut *self.hypervisor, now);
        let state = (self.appliance.is_reached(), self.tasks.running(install::KIND).is_some());
        let verdict = self.updates.go_on(&mut *self.hypervisor, &mut self.events.journal, state, now);
        if verdict == Verdict::GoBack {
            self.appliance.leave(&mut *self.hypervisor, MachinePower::Reset, false, now);
        }
    }

    /// Sets the machine's clock, which shows `now`, to a time in nanoseconds since 1970.
    ///
    /// # Errors
    ///
    /// If the hypervisor refuses.
    pub fn set_clock(&mut self, time: u64, now: u64) -> Answer<()> {
        self.hypervisor.clock(Some(time))?;
        self.auth.shift((time / 1_000_000_000) as i64 - now as i64);
        Ok(())
    }

    /// Returns what the machine's clock shows, in nanoseconds since 1970.
    ///
    /// # Errors
    ///
    /// If the hypervisor refuses.
    pub fn clock(&mut self) -> Answer<u64> {
        self.hypervisor.clock(None)
    }

    /// Lets the medium at this place go on over its wire; `now` in milliseconds, `seconds` since 1970.
    pub fn drive_job(&mut self, place: usize, wire: &mut dyn Wire, now: u64, seconds: u64) {
        if self.jobs.drive(place, wire, &mut *self.hypervisor, now, seconds) {
            self.tasks.wake(fetch::KIND);
        }
    }

    /// Returns the service at `now`, in seconds since 1970.
    pub fn at(&mut self, now: u64) -> Serving<'_> {
        Serving { service: self, now }
    }

    /// Answers a request, and says who it was.
    fn answer(&mut self, request: &Request, now: u64, user: &mut Option<String>) -> Result<Response, Failure> {
        let found = table::find(&request.path);
        let method = found.as_ref().and_then(|(route, _)| route.method(request.method));
        let is_open = method.is_some_and(|(right, _)| right == Right::Open);
        let who = self.who(request, now);
        let who = match who {
            Ok(who) => {
                *user = who.as_ref().map(|who| who.user.clone());
                who
            }
            Err(Stranger) if is_open => None,
            Err(Stranger) => return Err(Failure::new(401, "NoValidSession", &[])),
        };
        if who.is_none() && !is_open {
            return Err(Failure::new(401, "NoValidSession", &[]));
        }
        let Some((route, variables)) = found else {
            return Err(Failure::new(404, "ResourceMissingAtURI", &[&request.path]));
        };
        if request.odata_version.as_deref().is_some_and(|version| version != "4.0") {
            return Err(Failure::new(412, "HeaderInvalid", &["OData-Version"]));
        }
        let Some((right, handler)) = method else {
            let failure = Failure::new(405, "OperationNotAllowed", &[]);
            return Ok(failure.response().field("Allow", route.allow()));
        };
        if let Some(who) = who.as_ref().filter(|who| who.must_change && !is_open) {
            // What is left to it: its account, and to leave.
            let is_own =
                route.pattern == table::ACCOUNT && variables[0] == who.user && request.method != Method::Delete;
            if !is_own && (route.pattern, request.method) != (table::SESSION, Method::Delete) {
                return Err(Failure::new(403, "PasswordChangeRequired", &[&accounts::path(&who.user)]));
            }
        }
        if who.as_ref().is_some_and(|who| !who.role.has(right)) {
            return Err(Failure::new(403, "InsufficientPrivilege", &[]));
        }
        if request.has_parts() && !route.media.contains(&MULTIPART) {
            return Err(Failure::because(415, "Send the body as application/json."));
        }
        let is_read = request.is_read();
        let query = if is_read { Query::new(request)? } else { Query::default() };
        let (library, later) = (&Library::default(), &Library::default());
        let mut call = Call {
            request,
            variables,
            who: who.as_ref(),
            now,
            auth: &mut self.auth,
            audit: &self.audit,
            events: &mut self.events,
            tasks: &mut self.tasks,
            telemetry: &mut self.telemetry,
            library,
            appliance: &mut self.appliance,
            updates: &mut self.updates,
            keys: &mut self.keys,
            hypervisor: &mut *self.hypervisor,
            facts: self.facts,
            requests: self.requests,
        };
        if let (false, Some(expected)) = (is_read, request.if_match.as_deref()) {
            // What is changed is compared as it is read.
            let (_, read) = route.method(Method::Get).ok_or(Failure::new(412, "PreconditionFailed", &[]))?;
            if let Outcome::Resource(value) = read(&mut call)?
                && !lists(expected, &etag_of(&value))
            {
                return Err(Failure::new(412, "PreconditionFailed", &[]));
            }
            // What was found before a change is not what is there behind it.
            call.library = later;
        }
        let response = match handler(&mut call)? {
            Outcome::Resource(value) if is_read => {
                self.read(request, &query, value, &Reading { who: who.as_ref(), library, now })?
            }
            Outcome::Answer(mut answer) => {
                if let Then::Flow(live) = &mut answer.then {
                    live.session = who.and_then(|who| who.session);
                }
                if answer.get("Cache-Control").is_some() { answer } else { answer.field("Cache-Control", "no-store") }
            }
            outcome => self.respond(outcome, now),
        };
        Ok(if is_read { response.field("Allow", route.allow()) } else { response })
    }

    /// Returns the answer with what a resource says, if that is no read.
    fn respond(&mut self, outcome: Outcome, now: u64) -> Response {
        match outcome {
            Outcome::Resource(value) => resource(200, value),
            Outcome::Created { value, location, token } => {
                let response = resource(201, value).field("Location", location);
                token.into_iter().fold(response, |response, token| response.field("X-Auth-Token", token))
            }
            Outcome::Accepted(value) => resource(202, value),
            Outcome::Text { kind, body } => plain(200).content(kind, body),
            Outcome::Body(sink) => Response { then: Then::Body(sink), ..plain(100) },
            Outcome::Task(order, job) => {
                let begun = tasks::begin(&mut self.tasks, order, job, &mut self.events.journal, now);
                begun.unwrap_or_else(|failure| failure.response())
            }
            Outcome::Answer(answer) => answer,
            Outcome::Done => plain(204),
        }
    }

    /// Lets a flow go on, as long as who began it is logged in.
    fn drive(&mut self, live: &mut Live, now: u64, input: &mut Vec<u8>, output: &mut Vec<u8>) -> bool {
        let is_welcome = live.session.as_deref().is_none_or(|session| self.auth.touch(session, now));
        let Events { journal, reports, .. } = &self.events;
        live.flow.hear(&Heard { journal, reports, now }, output);
        is_welcome && live.flow.drive(&mut *self.hypervisor, input, output)
    }

    /// Returns who sends a request; nobody where nothing is said.
    fn who(&mut self, request: &Request, now: u64) -> Result<Option<Who>, Stranger> {
        match (&request.token, &request.authorization) {
            (Some(token), _) => self.auth.token(token, now).map(Some),
            (None, Some(value)) => self.auth.basic(value, now).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Returns whose token this is.
    fn user_of(&mut self, token: &str, now: u64) -> Option<String> {
        self.auth.token(token, now).ok().map(|who| who.user)
    }

    /// Returns the answer to a read of `value`.
    fn read(
        &mut self,
        request: &Request,
        query: &Query,
        mut value: Value,
        reading: &Reading<'_>,
    ) -> Result<Response, Failure> {
        if query.only {
            let member = match value["Members"].as_array().map(|members| &members[..]) {
                Some([only]) => only["@odata.id"].as_str().map(ToString::to_string),
                Some(_) => None,
                None => return Err(Failure::new(400, "QueryNotSupported", &[])),
            };
            if let Some(other) = member.and_then(|path| self.look_up(&path, reading)) {
                value = other;
            }
        }
        if let Some(filter) = &query.filter {
            self.filter(&mut value, filter, reading)?;
        }
        query.page(request, &mut value);
        if let Some(expand) = query.expand {
            self.expand(&mut value, expand, true, reading);
        }
        if query.selects() {
            tag(&mut value);
            query.select(&mut value);
        }
        let response = resource(200, value);
        match (response.get("ETag"), &request.if_none_match, query.expand) {
            (Some(tag), Some(known), None) if lists(known, tag) => Ok(plain(304).field("ETag", tag)),
            _ => Ok(response),
        }
    }

    /// Returns the resource at a path, if `who` may read it.
    fn look_up(&mut self, path: &str, &Reading { who, library, now }: &Reading<'_>) -> Option<Value> {
        let (route, variables) = table::find(path)?;
        let (right, handler) = route.method(Method::Get)?;
        if right != Right::Open && !who.is_some_and(|who| who.role.has(right)) {
            return None;
        }
        let request = Request::new(Method::Get, path);
        let mut call = Call {
            request: &request,
            variables,
            who,
            now,
            auth: &mut self.auth,
            audit: &self.audit,
            events: &mut self.events,
            tasks: &mut self.tasks,
            telemetry: &mut self.telemetry,
            library,
            appliance: &mut self.appliance,
            updates: &mut self.updates,
            keys: &mut self.keys,
            hypervisor: &mut *self.hypervisor,
            facts: self.facts,
            requests: self.requests,
        };
        match handler(&mut call) {
            Ok(Outcome::Resource(mut value)) => {
                tag(&mut value);
                Some(value)
            }
            _ => None,
        }
    }

    /// Leaves the members of a collection that a filter takes.
    fn filter(&mut self, value: &mut Value, filter: &Filter, reading: &Reading<'_>) -> Result<(), Failure> {
        let unsupported = Failure::new(400, "QueryNotSupported", &[]);
        let members = value.get_mut("Members").and_then(Value::as_array_mut).ok_or(unsupported)?;
        members.retain(|member| match (member["@odata.id"].as_str(), member.get("@odata.type")) {
            // Entries of logs are there already.
            (_, Some(_)) => filter.takes(member),
            (Some(path), None) => self.look_up(path, reading).is_some_and(|resource| filter.takes(&resource)),
            (None, None) => false,
        });
        value["Members@odata.count"] = value["Members"].as_array().map_or(0, Vec::len).into();
        Ok(())
    }

    /// Puts resources in place of the links to them, one level deep.
    fn expand(&mut self, value: &mut Value, expand: Expand, is_root: bool, reading: &Reading<'_>) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.expand(item, expand, false, reading)),
            Value::Object(map) => {
                if let (false, 1, Some(Value::String(path))) = (is_root, map.len(), map.get("@odata.id")) {
                    if let Some(other) = self.look_up(&path.clone(), reading) {
                        *value = other;
                    }
                    return;
                }
                for (key, inner) in map.iter_mut() {
                    if key != "Actions" && expand.enters(key == "Links", is_root) {
                        self.expand(inner, expand, false, reading);
                    }
                }
            }
            _ => {}
        }
    }
}

/// One read of possibly many resources.
struct Reading<'a> {
    who: Option<&'a Who>,
    library: &'a Library,
    now: u64,
}

/// The service at some moment, as connections see it.
pub struct Serving<'a> {
    service: &'a mut Service,
    now: u64,
}

impl Serve for Serving<'_> {
    fn handle(&mut self, request: &Request) -> Response {
        self.service.requests += 1;
        let mut user = None;
        let answer = self.service.answer(request, self.now, &mut user);
        let mut response = answer.unwrap_or_else(|failure| failure.response());
        if (200..300).contains(&response.status) && response.status != 202 {
            self.service.events.note(request, response.get("Location"), self.now);
            // What was read has changed nothing, and the next turn looks anyway.
            if !request.is_read() {
                self.service.events.look(&*self.service.hypervisor, self.now);
            }
        }
        // Who logs in is somebody from then on.
        if let Some(user) = user.or_else(|| self.service.user_of(response.get("X-Auth-Token")?, self.now)) {
            self.service.audit.note(self.now, &user, request.method, &request.path, response.status);
            response.is_known = true;
        }
        if response.status == 401 {
            response = response.field("WWW-Authenticate", REALM);
        }
        self.service.keep();
        response
    }

    fn is_ready(&mut self, sink: &mut dyn Sink) -> bool {
        sink.is_ready(&mut *self.service.hypervisor)
    }

    fn take(&mut self, sink: &mut dyn Sink, bytes: &[u8]) -> Result<(), Response> {
        sink.take(&mut *self.service.hypervisor, self.now, bytes).map_err(|failure| failure.response())
    }

    fn finish(&mut self, sink: Box<dyn Sink>) -> Response {
        let outcome = sink.finish(&mut *self.service.hypervisor, self.now);
        if let Ok(Outcome::Created { location, .. }) = &outcome {
            self.service.events.journal.tell(News::new("ResourceCreated", &[], location), self.now);
        }
        outcome.map_or_else(|failure| failure.response(), |outcome| self.service.respond(outcome, self.now))
    }

    fn poll(&mut self, task: u64) -> Option<Response> {
        match self.service.tasks.get(task) {
            Some(known) if known.is_running() => None,
            Some(known) => Some(tasks::answer(task, known)),
            None => Some(Failure::because(500, "What became of it is not known any more.").response()),
        }
    }

    fn drive(&mut self, live: &mut Live, input: &mut Vec<u8>, output: &mut Vec<u8>) -> bool {
        self.service.drive(live, self.now, input, output)
    }
}

/// Returns an answer without a body.
pub fn plain(status: u16) -> Response {
    Response::new(status).field("OData-Version", "4.0").field("Cache-Control", "no-cache")
}

/// Returns the answer with a resource, its tag and its schema.
pub fn resource(status: u16, value: Value) -> Response {
    let mut response = plain(status);
    let (mut text, hash) = value.to_hashed_vec(&stays);
    if let Some(own) = value["@odata.etag"].as_str() {
        response = response.field("ETag", own);
    } else if value.get("@odata.id").is_some() {
        let tag = tag_of(hash);
        text.pop();
        text.extend_from_slice(format!(",\"@odata.etag\":{}}}", Value::from(&tag)).as_bytes());
        response = response.field("ETag", tag);
    }
    if let Some(schema) = value["@odata.type"].as_str().and_then(schema_of) {
        response = response.field("Link", format!("<{schema}>; rel=describedby"));
    }
    response.content("application/json", text)
}

/// Gives a resource its tag.
pub fn tag(value: &mut Value) {
    if value.get("@odata.id").is_some() && value.get("@odata.etag").is_none() {
        value["@odata.etag"] = etag_of(value).into();
    }
}

/// Returns where the schema of a type is: of the version if the type has one.
fn schema_of(kind: &str) -> Option<String> {
    let name = kind.strip_prefix('#')?.rsplit_once('.')?.0;
    if name.starts_with("Salp") {
        return Some(schemas::path(name.split('.').next()?));
    }
    Some(format!("http://redfish.dmtf.org/schemas/v1/{name}.json"))
}

/// Returns the tag that a resource has given itself, or that it gets.
fn etag_of(value: &Value) -> String {
    value["@odata.etag"].as_str().map_or_else(|| tag_of(value.to_hashed_vec(&stays).1), ToString::to_string)
}

/// Returns the tag of a resource with this hash.
fn tag_of(hash: u64) -> String {
    format!("W/\"{hash:016x}\"")
}

/// Returns whether a property of this name is part of what a tag stands for: it does not change by itself.
fn stays(name: &str) -> bool {
    !matches!(name, "DateTime" | "Statistics" | "@odata.etag")
}

/// Returns whether a list of tags has this one.
fn lists(list: &str, tag: &str) -> bool {
    let weak = |text: &str| text.trim().trim_start_matches("W/").to_string();
    list.split(',').any(|entry| entry.trim() == "*" || weak(entry) == weak(tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::testing::{Client, json, keys};
    use serde_json::json;

    const WEB: &str = "/redfish/v1/Systems/2";

    #[test]
    fn strangers_get_what_is_open_and_nothing_else() {
        let mut client = Client::stranger();
        for route in table::ROUTES {
            let path = route.pattern.replace("{}", "2");
            let is_open = route.method(Method::Get).is_some_and(|(right, _)| right == Right::Open);
            let answer = client.get(&path);
            assert_eq!(answer.status == 200, is_open, "{path}");
            assert!(
                is_open || (answer.status == 401 && answer.get("WWW-Authenticate").is_some()),
                "{path}: {answer:?}"
            );
        }
        assert_eq!(client.get("/redfish/v1/Nothing").status, 401);
    }

    #[test]
    fn a_wrong_token_is_not_a_missing_one() {
        let mut client = Client::new(Role::Administrator);
        let mut request = client.request(Method::Get, WEB, "");
        request.token = Some("wrong".to_string());
        request.odata_version = Some("9".to_string());
        assert_eq!(client.send(&request).status, 401);
    }

    #[test]
    fn roles_have_their_rights() {
        let mut reader = Client::new(Role::ReadOnly);
        assert_eq!(reader.get(WEB).status, 200);
        let target = "/redfish/v1/Systems/2/Actions/ComputerSystem.Reset";
        let answer = reader.post(target, r#"{"ResetType":"Pause"}"#);
        assert_eq!((answer.status, keys(&answer)), (403, Vec::from(["InsufficientPrivilege".to_string()])));
        assert_eq!(Client::new(Role::Operator).post(target, r#"{"ResetType":"Pause"}"#).status, 204);
        let patch = reader.request(Method::Patch, "/redfish/v1/SessionService", r#"{"SessionTimeout":60}"#);
        assert_eq!(Client::new(Role::Operator).send(&patch).status, 401);
    }

    #[test]
    fn every_answer_has_the_fields_of_the_protocol() {
        let mut client = Client::new(Role::Administrator);
        for path in ["/redfish/v1", WEB, "/redfish/v1/Systems", "/redfish/v1/$metadata", "/redfish/v1/Nothing"] {
            let answer = client.get(path);
            for field in ["OData-Version", "Cache-Control", "Content-Type"] {
                assert!(answer.get(field).is_some(), "{path} has no {field}");
            }
        }
        let answer = client.get(WEB);
        assert_eq!(answer.get("Allow"), Some("GET, HEAD, PATCH, DELETE"));
        assert_eq!(answer.get("ETag"), json(&answer)["@odata.etag"].as_str());
        let schema = "<http://redfish.dmtf.org/schemas/v1/ComputerSystem.v1_27_0.json>; rel=describedby";
        assert_eq!(answer.get("Link"), Some(schema));
    }

    #[test]
    fn what_cannot_be_done_is_405_with_what_can() {
        let mut client = Client::new(Role::Administrator);
        for method in [Method::Put, Method::Post, Method::Other] {
            let answer = client.send(&client.request(method, WEB, ""));
            assert_eq!((answer.status, answer.get("Allow")), (405, Some("GET, HEAD, PATCH, DELETE")), "{method}");
        }
    }

    #[test]
    fn queries_are_known_refused_or_ignored() {
        let mut client = Client::new(Role::Administrator);
        let mut status = |target: &str| client.get(target).status;
        assert_eq!(status("/redfish/v1/Systems?rain=yes"), 200);
        assert_eq!(status("/redfish/v1/Systems?$rain=yes"), 501);
        assert_eq!(status("/redfish/v1/Systems?only=foo"), 400);
        assert_eq!(status("/redfish/v1/Systems/2?only"), 400);
        assert_eq!(status("/redfish/v1/Systems?only&$top=1"), 400);
        assert_eq!(status("/redfish/v1/Systems?$top=-1"), 400);
        assert_eq!(status("/redfish/v1/Systems?$expand=x"), 400);
        assert_eq!(status("/redfish/v1/Systems?$expand=.($levels=9)"), 400);
    }

    #[test]
    fn only_is_the_only_member_or_the_collection() {
        let mut client = Client::new(Role::Administrator);
        assert_eq!(client.read("/redfish/v1/Managers?only")["Id"], "salp");
        assert_eq!(client.read("/redfish/v1/Systems?only")["Members@odata.count"], 2);
    }

    #[test]
    fn members_come_in_pages() {
        let mut client = Client::new(Role::Administrator);
        let page = client.read("/redfish/v1/Systems?$top=1");
        assert_eq!((page["Members"].as_array().map(Vec::len), &page["Members@odata.count"]), (Some(1), &json!(2)));
        let next = page["Members@odata.nextLink"].as_str().unwrap();
        let page = client.read(next);
        assert_eq!(page["Members"][0]["@odata.id"], "/redfish/v1/Systems/3");
        assert!(page.get("Members@odata.nextLink").is_none());
    }

    #[test]
    fn members_are_filtered_and_properties_selected() {
        let mut client = Client::new(Role::Administrator);
        let systems = client.read("/redfish/v1/Systems?$filter=MemorySummary/TotalSystemMemoryGiB lt 0.5");
        assert_eq!(
            (&systems["Members@odata.count"], &systems["Members"][0]["@odata.id"]),
            (&json!(1), &json!("/redfish/v1/Systems/3"))
        );
        let query = "$filter=PowerState eq 'On'&$expand=.&$select=Name,Oem/Salp/State";
        let systems = client.read(&format!("/redfish/v1/Systems?{query}"));
        let web = systems["Members"][0].as_object().unwrap();
        assert_eq!(
            web["Oem"],
            json!({ "Salp": { "@odata.type": "#SalpComputerSystem.v1_0_0.SalpComputerSystem", "State": "running" } })
        );
        let names: Vec<&String> = web.keys().collect();
        assert_eq!(names, ["@odata.etag", "@odata.id", "@odata.type", "Name", "Oem"]);
        let mut status = |target: &str| client.get(target).status;
        assert_eq!(status("/redfish/v1/Systems?$filter=rain"), 400);
        assert_eq!(status("/redfish/v1/Systems/2?$filter=Name eq 'web'"), 400);
        assert_eq!(status("/redfish/v1/Systems?$select="), 400);
    }

    #[test]
    fn expanding_puts_members_in_place_of_links() {
        let mut client = Client::new(Role::Administrator);
        let systems = client.read("/redfish/v1/Systems?$expand=.($levels=1)");
        assert_eq!(systems["Members"][0]["Name"], "web");
        assert!(systems["Members"][0]["@odata.etag"].is_string());
        assert_eq!(systems["Members"][0]["Links"]["ManagedBy"][0]["@odata.id"], "/redfish/v1/Managers/salp");
        let links = client.read("/redfish/v1/Systems/2?$expand=~");
        assert_eq!(links["Links"]["ManagedBy"][0]["Id"], "salp");
    }

    #[test]
    fn a_tag_changes_with_the_resource_and_not_by_itself() {
        let mut client = Client::new(Role::Administrator);
        let tag = |client: &mut Client, path| client.get(path).get("ETag").map(ToString::to_string);
        let before = tag(&mut client, "/redfish/v1/Managers/salp");
        let web = tag(&mut client, WEB);
        client.now += 100;
        assert_eq!(tag(&mut client, "/redfish/v1/Managers/salp"), before);
        client.post("/redfish/v1/Systems/2/Actions/ComputerSystem.Reset", r#"{"ResetType":"Pause"}"#);
        assert_ne!(tag(&mut client, WEB), web);
    }

    #[test]
    fn a_stale_tag_changes_nothing() {
        let mut client = Client::new(Role::Administrator);
        let mut request = client.request(Method::Delete, WEB, "");
        request.if_match = Some("W/\"0\"".to_string());
        let answer = client.send(&request);
        assert_eq!((answer.status, keys(&answer)), (412, Vec::from(["PreconditionFailed".to_string()])));
        let tag = client.get(WEB).get("ETag").map(ToString::to_string);
        request.if_match = tag;
        assert_eq!(client.send(&request).status, 204);
    }

    #[test]
    fn what_is_known_is_not_sent_again() {
        let mut client = Client::new(Role::Administrator);
        let mut request = client.request(Method::Get, WEB, "");
        request.if_none_match = client.get(WEB).get("ETag").map(ToString::to_string);
        let answer = client.send(&request);
        assert_eq!((answer.status, answer.body.len()), (304, 0));
    }
}
