//! Who is told what happens: subscriptions and streams. Before: [`table`](crate::table). After: [`events`](crate::events).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_json::{Value, json};

use super::body::Body;
use super::fields::{Field, LINE, SHORT, Shape, field, names, needed};
use super::{Call, Outcome, certificates, collection};
use crate::client::Url;
use crate::events::choice::{self, Choice, LISTS};
use crate::events::journal::News;
use crate::events::registry::{self, Entry, REGISTRIES, SEVERITIES};
use crate::events::stream::{Seat, Stream};
use crate::events::subscription::{POLICIES, Policy, Subscription, Wish};
use crate::flow::Live;
use crate::http::Response;
use crate::message::Failure;
use crate::query::filter::Filter;
use crate::tls::x509;

/// The service of events.
pub const SERVICE: &str = "/redfish/v1/EventService";
const SUBSCRIPTIONS: &str = "/redfish/v1/EventService/Subscriptions";
const STREAM: &str = "/redfish/v1/EventService/SSE";
const TEST: &str = "EventService.SubmitTestEvent";

/// The most texts in a list, and the longest.
const MOST: usize = 16;
const LONGEST: usize = 256;
/// The most fields of requests.
const FIELDS: usize = 8;
/// The most certificates of a subscription.
const CERTIFICATES: usize = 4;

/// How often it is tried to reach listeners.
pub const SERVICE_FIELDS: &[Field] = &[
    field("DeliveryRetryAttempts", Shape::Number(0, 100)),
    field("DeliveryRetryIntervalSeconds", Shape::Number(1, 3600)),
];

/// An event that says what somebody wants.
pub const TEST_EVENT: &[Field] = &[
    field("MessageId", Shape::Text("^(ResourceEvent\\.1\\.4\\.(TestMessage|ResourceChanged)|Salp\\.1\\.0\\.GuestUp)$")),
    field("MessageArgs", Shape::Texts(4, "^[ -~]{0,40}$")),
    field("OriginOfCondition", Shape::Text("^/[ -~]{0,200}$")),
    field("Message", SHORT),
    field("EventId", SHORT),
    field("EventTimestamp", SHORT),
    field("EventType", SHORT),
    field("MessageSeverity", Shape::Word(&SEVERITIES)),
    field("Severity", Shape::Word(&SEVERITIES)),
    field("EventGroupId", Shape::Number(0, i64::MAX as u64)),
];

const ORIGINS: Field = field("IncludeOriginOfCondition", Shape::Flag);
const CONTEXT: Field = field("Context", SHORT);
const POLICY: Field = field("DeliveryRetryPolicy", Shape::Word(&names(&POLICIES)));
const HEADERS: Field = field("HttpHeaders", Shape::Pairs(FIELDS));
const VERIFY: Field = field("VerifyCertificate", Shape::Flag);
const PEM: &str = "^-----BEGIN CERTIFICATE-----";
const PREFIXES: &str = "^(ResourceEvent|TaskEvent|Salp)$";

/// A subscription.
pub const SUBSCRIPTION: &[Field] = &[
    needed("Destination", Shape::Text("^https?://[a-z]{1,20}(:[1-9][0-9]{0,3})?(/[a-z]{0,20})?$")),
    field("Protocol", Shape::Word(&["Redfish"])),
    field("SubscriptionType", Shape::Word(&["RedfishEvent"])),
    field("Name", SHORT),
    CONTEXT,
    field("SubordinateResources", Shape::Flag),
    field("RegistryPrefixes", Shape::Texts(REGISTRIES.len(), PREFIXES)),
    field("ExcludeRegistryPrefixes", Shape::Texts(REGISTRIES.len(), PREFIXES)),
    field("ResourceTypes", Shape::Texts(MOST, "^(ComputerSystem|Manager|Task|SalpImage)$")),
    field("MessageIds", Shape::Texts(MOST, LINE)),
    field("ExcludeMessageIds", Shape::Texts(MOST, LINE)),
    field("OriginResources", Shape::Links(MOST)),
    field("Severities", Shape::Words(&SEVERITIES)),
    field("EventFormatType", Shape::Word(&[choice::EVENT, choice::REPORT])),
    field("MetricReportDefinitions", Shape::Links(MOST)),
    ORIGINS,
    POLICY,
    HEADERS,
    VERIFY,
    field("Certificates", Shape::Text(PEM)),
];

/// What can be changed of one.
pub const CHANGES: &[Field] = &[CONTEXT, POLICY, HEADERS, VERIFY];
/// What is done with what was missed.
pub const RESUMPTION: &[Field] = &[field("DeliverBufferedEventDuringSuspension", Shape::Flag)];
/// One more certificate that a subscription trusts.
pub const CERTIFICATE: &[Field] =
    &[needed("CertificateString", Shape::Text(PEM)), field("CertificateType", Shape::Word(&["PEM"]))];

/// Returns where a subscription is.
pub fn path(id: &str) -> String {
    format!("{SUBSCRIPTIONS}/{id}")
}

/// Answers the service of events.
pub fn service(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    // The standard does not want to hear of event types any more.
    let filters = choice::PROPERTIES.iter().filter(|name| **name != "EventType");
    let subscriptions = &call.events.subscriptions;
    let mut value = json!({
        "@odata.id": SERVICE,
        "@odata.type": "#EventService.v1_12_0.EventService",
        "Id": "EventService",
        "Name": "Events",
        "ServiceEnabled": true,
        "Status": { "State": "Enabled", "Health": "OK" },
        "DeliveryRetryAttempts": subscriptions.attempts,
        "DeliveryRetryIntervalSeconds": subscriptions.interval,
        "ServerSentEventUri": STREAM,
        "RegistryPrefixes": REGISTRIES.map(|registry| registry.prefix),
        "ResourceTypes": registry::types(),
        "EventFormatTypes": [choice::EVENT, choice::REPORT],
        "Severities": SEVERITIES,
        "SubordinateResourcesSupported": true,
        "IncludeOriginOfConditionSupported": true,
        "SSEIncludeOriginOfConditionSupported": false,
        "OriginResourcesSupported": true,
        "ExcludeRegistryPrefix": true,
        "ExcludeMessageId": true,
        "SSEFilterPropertiesSupported": { "SubordinateResources": false },
        "Subscriptions": { "@odata.id": SUBSCRIPTIONS },
        "Actions": { (format!("#{TEST}")): { "target": format!("{SERVICE}/Actions/{TEST}") } },
    });
    filters.for_each(|name| value["SSEFilterPropertiesSupported"][*name] = true.into());
    Ok(Outcome::Resource(value))
}

/// Changes how often it is tried to reach listeners.
pub fn patch_service(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_resource(call.request)?;
    let attempts = body.number("DeliveryRetryAttempts", 0..=100);
    let interval = body.number("DeliveryRetryIntervalSeconds", 1..=3600);
    let ignored = body.finish_change()?;
    let subscriptions = &mut call.events.subscriptions;
    subscriptions.attempts = attempts.unwrap_or(subscriptions.attempts);
    subscriptions.interval = interval.unwrap_or(subscriptions.interval);
    subscriptions.mark_changed();
    service(call).map(|outcome| ignored.tell(outcome))
}

/// Tells an event that says what somebody wants.
pub fn test(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_action(call.request, TEST)?;
    let short = |text: &str| text.len() <= LONGEST;
    let id = body.text("MessageId", |text| find(text).is_some());
    let arguments = body.texts("MessageArgs", 4, short).unwrap_or_default();
    let origin = body.text("OriginOfCondition", |text| short(text) && text.starts_with('/')).unwrap_or_default();
    let mut said = Vec::new();
    for name in ["Message", "EventId", "EventTimestamp", "EventType"] {
        said.extend(body.text(name, short).map(|text| (name, Value::from(text))));
    }
    let severity = body.word("MessageSeverity", &SEVERITIES).or(body.word("Severity", &SEVERITIES));
    said.extend(severity.map(|word| ("MessageSeverity", word.into())));
    said.extend(body.number("EventGroupId", 0..=i64::MAX as u64).map(|number| ("EventGroupId", number.into())));
    body.finish()?;
    let entry = id.as_deref().and_then(find).map_or("TestMessage", |entry| entry.key);
    let arguments: Vec<&str> = arguments.iter().map(|argument| &**argument).collect();
    call.events.journal.tell(News::new(entry, &arguments, &origin).saying(&said), call.now);
    Ok(Outcome::Done)
}

/// Returns the message with this identifier.
fn find(id: &str) -> Option<&'static Entry> {
    registry::ENTRIES.iter().find(|entry| entry.id() == id)
}

/// Lists who is told.
pub fn list(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let sent = call.events.subscriptions.all().map(|(number, _)| path(&number.to_string()));
    let connected = call.events.streams.seats().map(|seat| path(&stream_id(&seat)));
    let members: Vec<String> = sent.chain(connected).collect();
    Ok(Outcome::Resource(collection(SUBSCRIPTIONS, "EventDestinationCollection", "Listeners", members.into_iter())))
}

fn stream_id(seat: &Seat) -> String {
    format!("SSE{}", seat.number)
}

fn head(id: &str, kind: &'static str) -> Value {
    json!({
        "@odata.id": path(id),
        "@odata.type": "#EventDestination.v1_16_0.EventDestination",
        "Id": id.to_string(),
        "Name": "Listener",
        "SubscriptionType": kind,
        "Protocol": "Redfish",
    })
}

fn value(id: &str, subscription: &Subscription) -> Value {
    let Subscription { wish, is_suspended, lost, .. } = subscription;
    let path = path(id);
    let mut value = head(id, "RedfishEvent");
    wish.choice.show(&mut value);
    value["Destination"] = (&wish.url.text).into();
    value["Context"] = (&wish.context).into();
    value["DeliveryRetryPolicy"] = wish.policy.name().into();
    value["IncludeOriginOfCondition"] = wish.includes_origin.into();
    value["VerifyCertificate"] = wish.verify.into();
    value["Certificates"] = json!({ "@odata.id": format!("{path}/Certificates") });
    // They may be secrets.
    value["HttpHeaders"] = json!([]);
    let state = if *is_suspended { "Disabled" } else { "Enabled" };
    value["Status"] = json!({ "State": state, "Health": if *is_suspended { "Warning" } else { "OK" } });
    value["Oem"] = json!({ "Salp": {
        "@odata.type": "#SalpEventDestination.v1_0_0.SalpEventDestination",
        "UserName": &subscription.user,
        "LostEvents": lost,
    } });
    let action = |name: &str| json!({ "target": format!("{path}/Actions/EventDestination.{name}") });
    value["Actions"] = json!({
        "#EventDestination.SuspendSubscription": action("SuspendSubscription"),
        "#EventDestination.ResumeSubscription": action("ResumeSubscription"),
    });
    value
}

/// Returns a listener that is connected as it is shown.
fn stream_value(seat: &Seat) -> Value {
    let mut value = head(&stream_id(seat), "SSE");
    value["Context"] = "".into();
    value["Status"] = json!({ "State": "Enabled", "Health": "OK" });
    value["Oem"] = json!({ "Salp": {
        "@odata.type": "#SalpEventDestination.v1_0_0.SalpEventDestination",
        "UserName": &seat.user,
    } });
    if let Some(filter) = &seat.filter {
        value["Oem"]["Salp"]["Filter"] = filter.into();
    }
    value
}

/// Returns the number of the subscription of the path.
fn number(call: &Call<'_>) -> Result<u64, Failure> {
    let id = call.id()?;
    call.events.subscriptions.get(id).map(|_| id).ok_or_else(|| call.missing())
}

fn one(call: &Call<'_>, id: u64) -> Result<Value, Failure> {
    let subscription = call.events.subscriptions.get(id).ok_or_else(|| call.missing())?;
    Ok(value(&id.to_string(), subscription))
}

/// Answers who is told.
pub fn subscription(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = call.variables[0];
    if let Some(seat) = call.events.streams.seats().find(|seat| stream_id(seat) == id) {
        return Ok(Outcome::Resource(stream_value(&seat)));
    }
    one(call, number(call)?).map(Outcome::Resource)
}

/// Takes fields of requests: objects of names and texts.
fn headers(body: &mut Body) -> Option<Vec<(String, String)>> {
    // Those that say how the request is read are not the subscriber's.
    const OWN: [&str; 7] =
        ["connection", "content-length", "content-type", "host", "odata-version", "transfer-encoding", "expect"];
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
            && !OWN.iter().any(|own| name.eq_ignore_ascii_case(own))
    };
    let is_value =
        |value: &str| value.len() <= LONGEST && value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    body.pairs("HttpHeaders", FIELDS, |name, value| name.len() <= 64 && is_name(name) && is_value(value))
}

fn choice(body: &mut Body) -> Choice {
    let mut choice = Choice { subordinate: body.flag("SubordinateResources").unwrap_or(false), ..Choice::default() };
    for (name, list) in LISTS.iter().zip(&mut choice.lists) {
        *list = match *name {
            "OriginResources" => body.links(name, MOST).unwrap_or_default(),
            "RegistryPrefixes" | "ExcludeRegistryPrefixes" => {
                body.known(name, &REGISTRIES.map(|registry| registry.prefix)).unwrap_or_default()
            }
            "ResourceTypes" => body.known(name, &registry::types()).unwrap_or_default(),
            "Severities" => body.known(name, &SEVERITIES).unwrap_or_default(),
            _ => body.texts(name, MOST, |text| text.len() <= LONGEST).unwrap_or_default(),
        };
    }
    choice.wants_reports =
        body.word("EventFormatType", &[choice::EVENT, choice::REPORT]).as_deref() == Some(choice::REPORT);
    choice.reports = body.links("MetricReportDefinitions", MOST).unwrap_or_default();
    choice
}

/// Makes a subscription.
pub fn create(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_resource(call.request)?;
    let url = body.needed_parsed("Destination", Url::new);
    body.word("Protocol", &["Redfish"]);
    body.word("SubscriptionType", &["RedfishEvent"]);
    body.text("Name", |text| text.len() <= LONGEST);
    let context = body.text("Context", |text| text.len() <= LONGEST);
    let choice = choice(&mut body);
    let includes_origin = body.flag("IncludeOriginOfCondition").unwrap_or(false);
    let policy = body.word("DeliveryRetryPolicy", &POLICIES.map(|(name, _)| name));
    let headers = headers(&mut body);
    let verify = body.flag("VerifyCertificate").unwrap_or(false);
    let pem = body.text("Certificates", |text| text.len() <= 12 << 10 && x509::from_pem(text).is_some());
    body.finish()?;
    let url = url.ok_or(Failure::new(400, "UnrecognizedRequestBody", &[]))?;
    let chain = pem.as_deref().and_then(x509::from_pem).unwrap_or_default();
    let all = x509::split(&chain).unwrap_or_default();
    let wish = Wish {
        url,
        context: context.unwrap_or_default(),
        choice,
        includes_origin,
        policy: policy.as_deref().and_then(Policy::of).unwrap_or(Policy::Terminate),
        headers: headers.unwrap_or_default(),
        verify,
        certificates: (1..).zip(all.iter().map(|certificate| certificate.to_vec())).collect(),
    };
    let user = call.who.map_or("", |who| &who.user).to_string();
    let next = call.events.journal.next();
    let full = || Failure::new(507, "CreateLimitReachedForResource", &[]);
    let id = call.events.subscriptions.add(&user, wish, next).ok_or_else(full)?;
    if !call.fits() {
        call.events.subscriptions.remove(id);
        return Err(full());
    }
    Ok(Outcome::Created { value: one(call, id)?, location: path(&id.to_string()), token: None })
}

/// Changes a subscription.
pub fn patch(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = number(call)?;
    let mut body = Body::of_resource(call.request)?;
    let context = body.text("Context", |text| text.len() <= LONGEST);
    let policy = body.word("DeliveryRetryPolicy", &POLICIES.map(|(name, _)| name));
    let headers = headers(&mut body);
    let verify = body.flag("VerifyCertificate");
    let ignored = body.finish_change()?;
    let Some(subscription) = call.events.subscriptions.get_mut(id) else { return Err(call.missing()) };
    let before = subscription.clone();
    let wish = &mut subscription.wish;
    wish.context = context.unwrap_or_else(|| wish.context.clone());
    wish.policy = policy.as_deref().and_then(Policy::of).unwrap_or(wish.policy);
    wish.headers = headers.unwrap_or_else(|| wish.headers.clone());
    wish.verify = verify.unwrap_or(wish.verify);
    if !call.fits() {
        if let Some(subscription) = call.events.subscriptions.get_mut(id) {
            *subscription = before;
        }
        return Err(Failure::new(507, "ResourceExhaustion", &[SUBSCRIPTIONS]));
    }
    one(call, id).map(|value| ignored.tell(Outcome::Resource(value)))
}

/// Ends a subscription, or a stream.
pub fn delete(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let stream = call.variables[0].strip_prefix("SSE").and_then(|number| number.parse().ok());
    if let Some(stream) = stream {
        return if call.events.streams.close(stream) { Ok(Outcome::Done) } else { Err(call.missing()) };
    }
    let id = number(call)?;
    call.events.subscriptions.remove(id);
    Ok(Outcome::Done)
}

/// Sends nothing to a listener until it is resumed.
pub fn suspend(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = number(call)?;
    Body::of_action(call.request, "EventDestination.SuspendSubscription")?.finish()?;
    if let Some(subscription) = call.events.subscriptions.get_mut(id) {
        subscription.is_suspended = true;
    }
    Ok(Outcome::Done)
}

/// Sends events to a listener again.
pub fn resume(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = number(call)?;
    let mut body = Body::of_action(call.request, "EventDestination.ResumeSubscription")?;
    let wants_old = body.flag("DeliverBufferedEventDuringSuspension").unwrap_or(true);
    body.finish()?;
    let next = (!wants_old).then(|| call.events.journal.next());
    call.events.subscriptions.resume(id, next);
    Ok(Outcome::Done)
}

/// Returns the certificates of the subscription of the path.
fn certificates_of<'a>(call: &'a Call<'_>) -> Result<(String, &'a BTreeMap<u64, Vec<u8>>), Failure> {
    let id = number(call)?;
    let subscription = call.events.subscriptions.get(id).ok_or_else(|| call.missing())?;
    Ok((format!("{}/Certificates", path(&id.to_string())), &subscription.wish.certificates))
}

/// Lists whom a subscription trusts.
pub fn list_certificates(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let (path, all) = certificates_of(call)?;
    let members = all.keys().map(|id| format!("{path}/{id}"));
    Ok(Outcome::Resource(collection(&path, "CertificateCollection", "Certificates", members)))
}

/// Answers one certificate that a subscription trusts.
pub fn certificate(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let (path, all) = certificates_of(call)?;
    let id = call.variables[1];
    let der = id.parse().ok().and_then(|id: u64| all.get(&id)).ok_or_else(|| call.missing())?;
    Ok(Outcome::Resource(certificates::value(&format!("{path}/{id}"), id, der)))
}

/// Trusts one more certificate.
pub fn add_certificate(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = number(call)?;
    let mut body = Body::of_resource(call.request)?;
    let pem = body.needed_text("CertificateString", |text| text.len() <= 12 << 10 && x509::from_pem(text).is_some());
    body.word("CertificateType", &["PEM"]);
    body.finish()?;
    let der = pem.as_deref().and_then(x509::from_pem).unwrap_or_default();
    let full = || Failure::new(507, "CreateLimitReachedForResource", &[]);
    let Some(subscription) = call.events.subscriptions.get_mut(id) else { return Err(call.missing()) };
    let all = &mut subscription.wish.certificates;
    if all.len() >= CERTIFICATES || x509::split(&der).is_none_or(|all| all.len() != 1) {
        return Err(full());
    }
    let number = all.keys().next_back().map_or(1, |last| last + 1);
    all.insert(number, der.clone());
    if !call.fits() {
        if let Some(subscription) = call.events.subscriptions.get_mut(id) {
            subscription.wish.certificates.remove(&number);
        }
        return Err(full());
    }
    let location = format!("{}/Certificates/{number}", path(&id.to_string()));
    let value = certificates::value(&location, &number.to_string(), &der);
    Ok(Outcome::Created { value, location, token: None })
}

/// Trusts a certificate no more.
pub fn remove_certificate(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = number(call)?;
    let certificate: Option<u64> = call.variables[1].parse().ok();
    let subscription = call.events.subscriptions.get_mut(id);
    let removed = subscription.zip(certificate).and_then(|(one, number)| one.wish.certificates.remove(&number));
    removed.map(|_| Outcome::Done).ok_or_else(|| call.missing())
}

/// Answers with events, as they come.
pub fn stream(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let text = call.request.query.iter().find(|(key, _)| key == "$filter").map(|(_, value)| &**value);
    let filter = text.map(|text| {
        let known = Filter::new(text).filter(|filter| choice::unknown(filter).is_none());
        known.ok_or_else(|| Failure::new(400, "QueryParameterValueFormatError", &[text, "$filter"]))
    });
    let filter = filter.transpose()?;
    // Who was here before goes on behind the last event that it has seen.
    let (next, seen) = (call.events.journal.next(), call.request.get("last-event-id"));
    let next = seen.and_then(|id| id.trim().parse::<u64>().ok()).map_or(next, |id| id.saturating_add(1).min(next));
    let user = call.who.map_or("", |who| &who.user);
    let full = || Failure::new(503, "CreateLimitReachedForResource", &[]);
    let seat = call.events.streams.open(user, text).ok_or_else(full)?;
    let head = Response::new(200).field("Content-Type", "text/event-stream").field("X-Content-Type-Options", "nosniff");
    let flow = Box::new(Stream::new(seat, filter, next, call.now));
    Ok(Outcome::Answer(head.live(Live { flow, session: None })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::http::Method;
    use crate::testing::{Client, keys};
    use serde_json::{Value, json};

    fn subscribe(client: &mut Client, body: &str) -> String {
        let answer = client.post(SUBSCRIPTIONS, body);
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        answer.get("Location").unwrap().to_string()
    }

    fn reset(client: &mut Client, kind: &str) {
        let body = format!(r#"{{"ResetType":"{kind}"}}"#);
        assert_eq!(client.post("/redfish/v1/Systems/2/Actions/ComputerSystem.Reset", &body).status, 204);
    }

    /// Returns the events of the next request to a listener.
    fn delivered(client: &mut Client) -> Option<Vec<Value>> {
        let delivery = client.service.next_delivery(client.now)?;
        client.service.delivered(&delivery, Ok(204), client.now);
        let text = String::from_utf8(delivery.request).unwrap();
        let body: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        body["Events"].as_array().cloned()
    }

    #[test]
    fn a_subscription_is_shown_without_its_secrets_and_changed_and_ended() {
        let mut client = Client::new(Role::Operator);
        let headers = r#""HttpHeaders":[{"Authorization":"Bearer secret"}]"#;
        let made = subscribe(&mut client, &format!(r#"{{"Destination":"https://listener/","Context":"c",{headers}}}"#));
        let shown = client.read(&made);
        assert!(!shown.to_string().contains("secret"));
        assert_eq!(
            (&shown["HttpHeaders"], &shown["DeliveryRetryPolicy"]),
            (&json!([]), &json!("TerminateAfterRetries"))
        );
        let mut patch = |body: &str| client.send(&client.request(Method::Patch, &made, body)).status;
        assert_eq!(patch(r#"{"Context":"d","DeliveryRetryPolicy":"RetryForever"}"#), 200);
        assert_eq!(patch(r#"{"Destination":"https://other/"}"#), 400);
        client.forget();
        assert_eq!(client.read(&made)["Context"], "d");
        let delete = client.request(Method::Delete, &made, "");
        assert_eq!((client.send(&delete).status, client.send(&delete).status), (204, 404));
    }

    #[test]
    fn a_bad_subscription_says_what_to_change() {
        let mut client = Client::new(Role::Operator);
        for (body, key) in [
            (r#"{}"#, "PropertyMissing"),
            (r#"{"Destination":"ftp://x/"}"#, "PropertyValueFormatError"),
            (r#"{"Destination":"http://x/","Protocol":"SMTP"}"#, "PropertyValueNotInList"),
            (r#"{"Destination":"http://x/","RegistryPrefixes":["Nothing"]}"#, "PropertyValueNotInList"),
            (r#"{"Destination":"http://x/","HttpHeaders":[{"Host":"y"}]}"#, "PropertyValueFormatError"),
            (r#"{"Destination":"http://x/","HttpHeaders":[{"A":"b\r\nC: d"}]}"#, "PropertyValueFormatError"),
            (r#"{"Destination":"http://x/","Color":"red"}"#, "PropertyUnknown"),
        ] {
            let answer = client.post(SUBSCRIPTIONS, body);
            assert_eq!((answer.status, keys(&answer).concat()), (400, key.to_string()), "{body}");
        }
        assert_eq!(Client::new(Role::ReadOnly).post(SUBSCRIPTIONS, r#"{"Destination":"http://x/"}"#).status, 403);
    }

    #[test]
    fn subscriptions_are_bounded_and_what_is_kept_of_them_too() {
        let mut client = Client::new(Role::Operator);
        let long = format!(r#"{{"Destination":"http://x/{}"}}"#, "y".repeat(900));
        let made = (0..40).filter(|_| client.post(SUBSCRIPTIONS, &long).status == 201).count();
        assert!((5..32).contains(&made), "{made}");
        assert_eq!(client.read(SUBSCRIPTIONS)["Members@odata.count"], made);
    }

    #[test]
    fn changes_of_every_kind_are_told_with_what_they_are_about() {
        let mut client = Client::new(Role::Administrator);
        subscribe(
            &mut client,
            r#"{"Destination":"http://x/","IncludeOriginOfCondition":true,"SubordinateResources":true}"#,
        );
        let account = r#"{"UserName":"ops","Password":"a first one","RoleId":"Operator"}"#;
        assert_eq!(client.post("/redfish/v1/AccountService/Accounts", account).status, 201);
        reset(&mut client, "Pause");
        let nic = client.request(
            Method::Patch,
            "/redfish/v1/Systems/2/EthernetInterfaces/0",
            r#"{"InterfaceEnabled":false}"#,
        );
        assert_eq!(client.send(&nic).status, 200);
        let delete = client.request(Method::Delete, "/redfish/v1/AccountService/Accounts/ops", "");
        assert_eq!(client.send(&delete).status, 204);
        let told = delivered(&mut client).unwrap();
        let told: Vec<(&str, &str)> = told
            .iter()
            .map(|event| {
                let id = event["MessageId"].as_str().unwrap().rsplit('.').next().unwrap();
                (id, event["OriginOfCondition"]["@odata.id"].as_str().unwrap())
            })
            .collect();
        let expected = [
            ("ResourceCreated", "/redfish/v1/EventService/Subscriptions/1"),
            ("ResourceCreated", "/redfish/v1/AccountService/Accounts/ops"),
            ("ResourcePaused", "/redfish/v1/Systems/2"),
            ("ResourceChanged", "/redfish/v1/Systems/2/EthernetInterfaces/0"),
            ("ResourceRemoved", "/redfish/v1/AccountService/Accounts/ops"),
        ];
        assert_eq!(told, expected);
        reset(&mut client, "Resume");
        let told = delivered(&mut client).unwrap();
        assert_eq!(told[0]["OriginOfCondition"]["PowerState"], "On");
        assert!(delivered(&mut client).is_none());
    }

    #[test]
    fn a_listener_goes_on_where_it_was_after_a_failure_of_the_guest() {
        let mut client = Client::new(Role::Operator);
        subscribe(&mut client, r#"{"Destination":"http://x/","ResourceTypes":["ComputerSystem"]}"#);
        reset(&mut client, "Pause");
        assert_eq!(delivered(&mut client).unwrap().len(), 1);
        reset(&mut client, "Resume");
        let delivery = client.service.next_delivery(client.now);
        assert!(delivery.is_some(), "it is under way when the guest fails");
        client.forget();
        let told = delivered(&mut client).unwrap();
        assert_eq!((told.len(), &told[0]["MessageId"]), (1, &json!("Salp.1.0.SystemResumed")));
        assert!(delivered(&mut client).is_none());
    }

    #[test]
    fn a_test_event_says_what_was_asked_for() {
        let mut client = Client::new(Role::Administrator);
        subscribe(&mut client, r#"{"Destination":"http://x/","RegistryPrefixes":["TaskEvent"]}"#);
        let test = format!("{SERVICE}/Actions/{TEST}");
        assert_eq!(client.post(&test, "{}").status, 204);
        let body = r#"{"MessageId":"TaskEvent.1.0.TaskStarted","MessageArgs":["7"],"Message":"x","EventGroupId":5}"#;
        assert_eq!(client.post(&test, body).status, 204);
        let told = delivered(&mut client).unwrap();
        assert_eq!((told.len(), &told[0]["Message"], &told[0]["EventGroupId"]), (1, &json!("x"), &json!(5)));
        assert_eq!(client.post(&test, r#"{"MessageId":"Nothing.1.0.X"}"#).status, 400);
    }

    fn stream(client: &mut Client, query: &str, last: Option<&str>) -> Response {
        let mut request = client.request(Method::Get, &format!("{STREAM}{query}"), "");
        request.others.extend(last.map(|last| ("last-event-id", last.to_string())));
        client.send(&request)
    }

    fn heard(client: &mut Client, stream: &mut Response) -> (String, bool) {
        let (bytes, goes_on) = client.drive(stream, &mut Vec::new());
        (String::from_utf8(bytes).unwrap(), goes_on)
    }

    #[test]
    fn a_stream_has_events_as_they_come_and_goes_on_behind_the_last_one_seen() {
        let mut client = Client::new(Role::Operator);
        let mut first = stream(&mut client, "?$filter=ResourceType eq 'ComputerSystem'", None);
        assert_eq!((first.status, first.get("Content-Type")), (200, Some("text/event-stream")));
        assert_eq!(heard(&mut client, &mut first), (String::new(), true));
        reset(&mut client, "Pause");
        let (text, _) = heard(&mut client, &mut first);
        let id = text.strip_prefix("id: ").unwrap().split('\n').next().unwrap().to_string();
        assert!(text.contains("ResourceEvent.1.4.ResourcePaused") && text.ends_with("}\n\n"), "{text}");
        client.now += 15;
        assert_eq!(heard(&mut client, &mut first), (":\n\n".into(), true));
        reset(&mut client, "Resume");
        let mut second = stream(&mut client, "", Some(&id));
        let (text, _) = heard(&mut client, &mut second);
        assert!(text.contains("Salp.1.0.SystemResumed") && !text.contains("ResourcePaused"), "{text}");
        assert_eq!(stream(&mut client, "?$filter=Color eq 'red'", None).status, 400);
    }

    #[test]
    fn who_reads_a_stream_too_slowly_learns_how_many_were_lost() {
        let mut client = Client::new(Role::Operator);
        let mut slow = stream(&mut client, "", None);
        for _ in 0..1500 {
            reset(&mut client, "Pause");
            reset(&mut client, "Resume");
        }
        let (text, _) = heard(&mut client, &mut slow);
        // The first thing that happened is the request for the session, before the stream was there.
        let lost = 3000 - crate::events::journal::MOST;
        assert!(text.contains(&format!(r#""MessageArgs":["{lost}"]"#)) && text.contains("EventsLost"), "{text:.600}");
        assert!(text.len() < 32 << 10);
    }

    #[test]
    fn streams_are_listed_and_end_with_their_session_or_when_somebody_ends_them() {
        let mut client = Client::new(Role::Operator);
        let mut first = stream(&mut client, "", None);
        let mut second = stream(&mut client, "", None);
        assert_eq!(client.read(SUBSCRIPTIONS)["Members@odata.count"], 2);
        let path = format!("{SUBSCRIPTIONS}/SSE1");
        assert_eq!(client.read(&path)["SubscriptionType"], "SSE");
        let delete = client.request(Method::Delete, &path, "");
        assert_eq!(client.send(&delete).status, 204);
        assert!(!heard(&mut client, &mut first).1 && heard(&mut client, &mut second).1);
        drop(first);
        let sessions = client.service.auth.sessions();
        client.service.auth.close(&sessions[0]);
        assert!(!heard(&mut client, &mut second).1);
    }
}
