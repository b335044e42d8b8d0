//! Listeners that events are sent to, by POST, with retries. Before: [`events`](crate::resources::events), which makes them. After:
//! [`client`](crate::client), and [`state`](crate::state), which keeps them.
//!
//! Each has a place in the [`journal`](super::journal) and at most one request under way: one that does not answer costs the
//! others nothing.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use base64ct::{Base64, Encoding};
use salp_json::{Parsed, Value, json};

use super::choice::Choice;
use super::journal::{Event, Journal, News, record};
use super::payload;
use super::registry::Entry;
use crate::client::{Trust, Url};
use crate::flow::Heard;
use crate::resources::managers::SALP;

/// The most subscriptions.
pub const MOST: usize = 32;
/// The most requests under way.
const UNDER_WAY: usize = 8;
/// The most events and bytes in one request.
const BATCH: usize = 32;
const BODY: usize = 48 << 10;
/// The longest wait between two attempts, in seconds.
const LONGEST: u64 = 600;

/// What happens when a listener does not answer. In the order of [`POLICIES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The subscription ends.
    Terminate,
    /// Nothing is sent until somebody resumes it.
    Suspend,
    /// It is tried on and on.
    Forever,
    /// It is tried on and on, each time after twice the time.
    Backoff,
}

/// Their names, as the standard has them.
pub const POLICIES: [(&str, Policy); 4] = [
    ("TerminateAfterRetries", Policy::Terminate),
    ("SuspendRetries", Policy::Suspend),
    ("RetryForever", Policy::Forever),
    ("RetryForeverWithBackoff", Policy::Backoff),
];

impl Policy {
    /// Returns the policy of this name.
    pub fn of(name: &str) -> Option<Self> {
        POLICIES.iter().find(|(known, _)| *known == name).map(|&(_, policy)| policy)
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        POLICIES.iter().find(|(_, policy)| *policy == self).map_or("", |(name, _)| name)
    }
}

/// What somebody asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Where events are sent.
    pub url: Url,
    /// What is said with each of them.
    pub context: String,
    /// Which events.
    pub choice: Choice,
    /// Whether the resources that they are about are sent too.
    pub includes_origin: bool,
    /// What happens when the listener does not answer.
    pub policy: Policy,
    /// Fields of requests: secrets, often.
    pub headers: Vec<(String, String)>,
    /// Whether the listener's certificate is checked.
    pub verify: bool,
    /// Certificates that are trusted then (DER), by their numbers.
    pub certificates: BTreeMap<u64, Vec<u8>>,
}

/// A listener.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Who made it, and whose rights decide what is shown to it.
    pub user: String,
    /// What was asked for.
    pub wish: Wish,
    /// Whether nothing is sent.
    pub is_suspended: bool,
    /// How many events it has missed.
    pub lost: u64,
    /// The number of the next event.
    next: u64,
    /// How often the present request has failed.
    failures: u64,
    /// When the next attempt is due, in seconds since 1970.
    due: u64,
    is_under_way: bool,
}

impl Subscription {
    fn kept(&self) -> Value {
        let wish = &self.wish;
        let certificates: Vec<Value> =
            wish.certificates.iter().map(|(id, der)| json!([id, Base64::encode_string(der)])).collect();
        json!({
            "user": &self.user, "url": &wish.url.text, "context": &wish.context, "choice": wish.choice.kept(),
            "origin": wish.includes_origin, "policy": wish.policy.name(), "headers": &wish.headers, "verify": wish.verify,
            "certificates": certificates, "suspended": self.is_suspended, "lost": self.lost, "next": self.next,
        })
    }

    fn put_back(kept: &Parsed) -> Option<Self> {
        let text = |name: &str| kept[name].as_str().map(ToString::to_string);
        let items = |name: &str| kept[name].as_array().into_iter().flatten();
        let pair = |pair: &Parsed| Some((pair[0].as_str()?.to_string(), pair[1].as_str()?.to_string()));
        let certificate = |pair: &Parsed| Some((pair[0].as_u64()?, Base64::decode_vec(pair[1].as_str()?).ok()?));
        let wish = Wish {
            url: Url::new(kept["url"].as_str()?)?,
            context: text("context")?,
            choice: Choice::put_back(&kept["choice"]),
            includes_origin: kept["origin"] == true,
            policy: Policy::of(kept["policy"].as_str()?)?,
            headers: items("headers").filter_map(pair).collect(),
            verify: kept["verify"] == true,
            certificates: items("certificates").filter_map(certificate).collect(),
        };
        Some(Self {
            user: text("user")?,
            wish,
            is_suspended: kept["suspended"] == true,
            lost: kept["lost"].as_u64()?,
            next: kept["next"].as_u64()?,
            failures: 0,
            due: 0,
            is_under_way: false,
        })
    }

    /// Returns the request with a body.
    fn request(&self, body: &str) -> Vec<u8> {
        let url = &self.wish.url;
        let mut head = alloc::format!("POST {} HTTP/1.1\r\nHost: {}\r\n", url.target, url.authority());
        for (name, value) in &self.wish.headers {
            head += &alloc::format!("{name}: {value}\r\n");
        }
        head += "OData-Version: 4.0\r\nContent-Type: application/json\r\nConnection: close\r\n";
        head += &alloc::format!("Content-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body.as_bytes()].concat()
    }
}

/// A request to a listener.
#[derive(Debug)]
pub struct Delivery {
    /// The subscription.
    pub subscription: u64,
    /// Where it goes.
    pub url: Url,
    /// Who is believed to be the listener.
    pub trust: Trust,
    /// The request, whole.
    pub request: Vec<u8>,
    /// The number of the event behind the last one in it.
    upto: u64,
    /// How many events are told to be lost in it.
    lost: u64,
}

/// All listeners, and how often it is tried to reach them.
#[derive(Debug)]
pub struct Subscriptions {
    all: BTreeMap<u64, Subscription>,
    last: u64,
    /// How often a request is sent again.
    pub attempts: u64,
    /// How long it is waited in between, in seconds.
    pub interval: u64,
    is_changed: bool,
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self { all: BTreeMap::new(), last: 0, attempts: 3, interval: 30, is_changed: false }
    }
}

/// Shows the resource at a path to a user, if that may see it.
pub type Show<'a> = &'a mut dyn FnMut(&str, &str) -> Option<Value>;

impl Subscriptions {
    /// Adds a listener that gets events from `next` on, and returns its number; none if there are too many.
    pub fn add(&mut self, user: &str, wish: Wish, next: u64) -> Option<u64> {
        if self.all.len() >= MOST {
            return None;
        }
        self.last += 1;
        let user = user.to_string();
        let (is_suspended, is_under_way) = (false, false);
        let subscription = Subscription { user, wish, is_suspended, lost: 0, next, failures: 0, due: 0, is_under_way };
        self.all.insert(self.last, subscription);
        self.is_changed = true;
        Some(self.last)
    }

    /// Returns all listeners.
    pub fn all(&self) -> impl Iterator<Item = (u64, &Subscription)> {
        self.all.iter().map(|(&number, subscription)| (number, subscription))
    }

    /// Returns a listener.
    pub fn get(&self, number: u64) -> Option<&Subscription> {
        self.all.get(&number)
    }

    /// Returns a listener, to change it.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Subscription> {
        self.is_changed = true;
        self.all.get_mut(&number)
    }

    /// Removes a listener; returns false if there is none.
    pub fn remove(&mut self, number: u64) -> bool {
        self.is_changed = true;
        self.all.remove(&number).is_some()
    }

    /// Lets a suspended listener have events again: what it has missed, or what comes from `next` on.
    pub fn resume(&mut self, number: u64, next: Option<u64>) {
        if let Some(subscription) = self.get_mut(number) {
            (subscription.is_suspended, subscription.failures, subscription.due) = (false, 0, 0);
            subscription.next = next.unwrap_or(subscription.next);
        }
    }

    /// Returns the next request that is due, if there is one. [`delivered`](Self::delivered) has to be told how it went.
    pub fn next(&mut self, heard: &Heard<'_>, show: Show<'_>) -> Option<Delivery> {
        if self.all.values().filter(|subscription| subscription.is_under_way).count() >= UNDER_WAY {
            return None;
        }
        for (&number, subscription) in &mut self.all {
            if subscription.is_under_way || subscription.is_suspended || subscription.due > heard.now {
                continue;
            }
            if let Some((body, upto, lost)) = batch(subscription, heard, show) {
                subscription.is_under_way = true;
                let wish = &subscription.wish;
                let trust = || Trust::These(wish.certificates.values().cloned().collect());
                return Some(Delivery {
                    subscription: number,
                    url: wish.url.clone(),
                    trust: if wish.verify { trust() } else { Trust::Any },
                    request: subscription.request(&body),
                    upto,
                    lost,
                });
            }
        }
        None
    }

    /// Takes note of how a request went: the status of the answer, or why there is none.
    pub fn delivered(&mut self, journal: &mut Journal, done: &Delivery, result: Result<u16, &str>, now: u64) {
        let (attempts, interval) = (self.attempts, self.interval);
        let number = done.subscription;
        // Somebody may have removed it.
        let Some(subscription) = self.all.get_mut(&number) else { return };
        subscription.is_under_way = false;
        let status;
        let why = match result {
            Ok(200..300) => {
                subscription.next = subscription.next.max(done.upto);
                subscription.lost += done.lost;
                (subscription.failures, subscription.due) = (0, 0);
                self.is_changed = true;
                return;
            }
            Ok(code) => {
                status = alloc::format!("the listener answered {code}");
                &*status
            }
            Err(why) => why,
        };
        subscription.failures += 1;
        let (failures, policy) = (subscription.failures, subscription.wish.policy);
        let doublings = if policy == Policy::Backoff { (failures - 1).min(10) } else { 0 };
        let wait = (interval << doublings).min(LONGEST.max(interval));
        subscription.due = now + wait;
        if failures > attempts && matches!(policy, Policy::Terminate | Policy::Suspend) {
            let path = crate::resources::events::path(&number.to_string());
            if policy == Policy::Suspend {
                subscription.is_suspended = true;
            } else {
                self.all.remove(&number);
            }
            self.is_changed = true;
            journal.tell(News::new("SubscriptionFailed", &[&number.to_string(), why], &path), now);
            if policy == Policy::Terminate {
                journal.tell(News::new("ResourceRemoved", &[], &path), now);
            }
        }
    }

    /// Returns when the next attempt is due, if one waits.
    pub fn due(&self) -> Option<u64> {
        let waits = |subscription: &&Subscription| !subscription.is_under_way && !subscription.is_suspended;
        self.all.values().filter(waits).map(|subscription| subscription.due).filter(|&due| due > 0).min()
    }

    /// Returns, once, whether there is something that was not kept.
    pub fn has_changed(&mut self) -> bool {
        core::mem::take(&mut self.is_changed)
    }

    /// Says that there is something that was not kept.
    pub fn mark_changed(&mut self) {
        self.is_changed = true;
    }

    /// Returns them as they are kept.
    pub fn kept(&self) -> Value {
        let all: Vec<Value> = self.all.iter().map(|(number, one)| json!([number, one.kept()])).collect();
        json!({ "last": self.last, "attempts": self.attempts, "interval": self.interval, "all": all })
    }

    /// Puts what was kept in place of what is here. What was under way is sent again.
    pub fn put_back(&mut self, kept: &Parsed) {
        *self = Self::default();
        let number = |name: &str, usual| kept[name].as_u64().unwrap_or(usual);
        (self.last, self.attempts, self.interval) =
            (number("last", 0), number("attempts", self.attempts), number("interval", self.interval));
        let one = |pair: &Parsed| Some((pair[0].as_u64()?, Subscription::put_back(&pair[1])?));
        self.all = kept["all"].as_array().into_iter().flatten().filter_map(one).collect();
    }
}

/// Returns the body of the next request, the number of the event behind the last one in it, and how many were lost before. What
/// the listener does not want is passed over.
fn batch(subscription: &mut Subscription, heard: &Heard<'_>, show: Show<'_>) -> Option<(String, u64, u64)> {
    let (lost, events) = heard.journal.since(subscription.next);
    let mut wanted: Vec<&Event> = Vec::new();
    let (mut upto, mut size) = (subscription.next + lost, 0);
    for event in events {
        if subscription.wish.choice.takes(event) {
            // A report is a request of its own.
            let is_full = wanted.len() >= BATCH || size + event.record.len() > BODY;
            if !wanted.is_empty() && (is_full || event.report().is_some() || wanted[0].report().is_some()) {
                break;
            }
            size += event.record.len();
            wanted.push(event);
        }
        upto = event.number + 1;
    }
    let context = Some(&*subscription.wish.context);
    if let Some(report) = wanted.first().and_then(|event| event.report()) {
        match heard.report(report).and_then(|report| serde_json::from_str::<Parsed>(report).ok()) {
            Some(mut report) => {
                report["Context"] = context.into();
                return Some((report.to_string(), upto, lost));
            }
            None => wanted.clear(),
        }
    }
    let told = (lost > 0).then(|| Entry::find("EventsLost")).flatten();
    let told = told.map(|entry| record(upto - 1, heard.now, entry, &[lost.to_string()], SALP).to_string());
    if wanted.is_empty() && told.is_none() {
        subscription.next = upto;
        return None;
    }
    let whole: Vec<String> = if subscription.wish.includes_origin {
        wanted.iter().map(|event| with_origin(event, &subscription.user, show)).collect()
    } else {
        Vec::new()
    };
    let mut records: Vec<&str> = told.iter().map(|told| &**told).collect();
    if subscription.wish.includes_origin {
        records.extend(whole.iter().map(|record| &**record));
    } else {
        records.extend(wanted.iter().map(|event| &*event.record));
    }
    Some((payload(upto - 1, context, &records), upto, lost))
}

/// Returns an event with the resource that it is about, as it is now.
fn with_origin(event: &Event, user: &str, show: Show<'_>) -> String {
    let origin = if event.origin.is_empty() { None } else { show(user, &event.origin) };
    match (origin, serde_json::from_str::<Parsed>(&event.record)) {
        (Some(origin), Ok(record)) => {
            let mut record = Value::from(record);
            record["OriginOfCondition"] = origin;
            record.to_string()
        }
        _ => event.record.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wish(policy: Policy) -> Wish {
        Wish {
            url: Url::new("https://listener:8443/events").unwrap(),
            context: "rack \"7\"".into(),
            choice: Choice::default(),
            includes_origin: false,
            policy,
            headers: Vec::from([("Authorization".into(), "Bearer secret".into())]),
            verify: true,
            certificates: BTreeMap::from([(1, Vec::from(*b"DER"))]),
        }
    }

    struct World {
        journal: Journal,
        subscriptions: Subscriptions,
        now: u64,
    }

    impl World {
        fn new(policy: Policy) -> Self {
            let mut subscriptions = Subscriptions::default();
            assert_eq!(subscriptions.add("admin", wish(policy), 1), Some(1));
            Self { journal: Journal::default(), subscriptions, now: 1000 }
        }

        fn tell(&mut self, count: usize) {
            let news = || News::new("ResourceChanged", &[], "/redfish/v1/Systems/2");
            (0..count).for_each(|_| self.journal.tell(news(), self.now));
        }

        fn next(&mut self) -> Option<Delivery> {
            let heard = Heard { journal: &self.journal, reports: &BTreeMap::new(), now: self.now };
            self.subscriptions.next(&heard, &mut |_, _| None)
        }

        fn finish(&mut self, delivery: &Delivery, result: Result<u16, &str>) {
            self.subscriptions.delivered(&mut self.journal, delivery, result, self.now);
        }
    }

    /// Returns the numbers of the events in a request, and its body.
    fn events(delivery: &Delivery) -> (Vec<String>, Parsed) {
        let text = str::from_utf8(&delivery.request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /events HTTP/1.1\r\nHost: listener:8443\r\nAuthorization: Bearer secret\r\n"));
        assert!(head.contains(&alloc::format!("\r\nContent-Length: {}", body.len())));
        let body: Parsed = serde_json::from_str(body).unwrap();
        let numbers = body["Events"].as_array().unwrap().iter();
        (numbers.map(|event| event["EventId"].as_str().unwrap().to_string()).collect(), body)
    }

    #[test]
    fn events_are_sent_once_and_in_their_order() {
        let mut world = World::new(Policy::Forever);
        assert!(world.next().is_none());
        world.tell(2);
        let delivery = world.next().unwrap();
        let (numbers, body) = events(&delivery);
        assert_eq!((&numbers[..], &body["Context"]), (&["1".to_string(), "2".to_string()][..], &json!("rack \"7\"")));
        assert_eq!(delivery.trust, Trust::These(Vec::from([Vec::from(*b"DER")])));
        world.tell(1);
        assert!(world.next().is_none(), "one request at a time");
        world.finish(&delivery, Ok(204));
        let delivery = world.next().unwrap();
        assert_eq!(events(&delivery).0, ["3"]);
        world.finish(&delivery, Ok(200));
        assert!(world.next().is_none());
    }

    #[test]
    fn a_request_that_fails_is_sent_again_after_the_interval() {
        let mut world = World::new(Policy::Forever);
        world.tell(1);
        for result in [Ok(500), Err("no route"), Ok(404), Ok(301), Ok(503)] {
            let delivery = world.next().unwrap();
            world.finish(&delivery, result);
            assert_eq!((world.next().is_none(), world.subscriptions.due()), (true, Some(world.now + 30)));
            world.now += 30;
        }
        let delivery = world.next().unwrap();
        world.finish(&delivery, Ok(200));
        assert_eq!((world.next().is_none(), world.subscriptions.due()), (true, None));
    }

    #[test]
    fn back_off_waits_twice_as_long_each_time() {
        let mut world = World::new(Policy::Backoff);
        world.tell(1);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let delivery = world.next().unwrap();
            world.finish(&delivery, Ok(500));
            let due = world.subscriptions.due().unwrap();
            waits.push(due - world.now);
            world.now = due;
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn who_never_answers_is_given_up_or_suspended() {
        for policy in [Policy::Terminate, Policy::Suspend] {
            let mut world = World::new(policy);
            world.subscriptions.attempts = 2;
            world.tell(1);
            for _ in 0..3 {
                let delivery = world.next().unwrap();
                world.finish(&delivery, Err("no route"));
                world.now += 30;
            }
            assert!(world.next().is_none());
            assert_eq!(world.subscriptions.get(1).is_none(), policy == Policy::Terminate);
            let last = world.journal.since(2).1.next().unwrap();
            assert_eq!((last.entry.key, &last.arguments[1][..]), ("SubscriptionFailed", "no route"));
            world.subscriptions.resume(1, None);
            assert_eq!(world.next().is_some(), policy == Policy::Suspend);
        }
    }

    #[test]
    fn a_slow_listener_learns_how_many_events_it_has_missed() {
        let mut world = World::new(Policy::Forever);
        world.tell(super::super::journal::MOST + 5);
        let delivery = world.next().unwrap();
        let (numbers, body) = events(&delivery);
        assert_eq!((&*numbers[0], &*numbers[1]), ("37", "6"));
        assert_eq!(
            (&body["Events"][0]["MessageId"], &body["Events"][0]["MessageArgs"][0]),
            (&json!("Salp.1.0.EventsLost"), &json!("5"))
        );
        world.finish(&delivery, Ok(200));
        assert_eq!((world.subscriptions.get(1).unwrap().lost, &*events(&world.next().unwrap()).0[0]), (5, "38"));
    }

    #[test]
    fn a_subscription_outlives_the_guest_and_goes_on_where_it_was() {
        let mut world = World::new(Policy::Backoff);
        world.tell(3);
        let delivery = world.next().unwrap();
        world.finish(&delivery, Ok(200));
        world.tell(1);
        assert!(world.next().is_some());
        let kept = world.subscriptions.kept().to_string();
        world.subscriptions.put_back(&serde_json::from_str(&kept).unwrap());
        assert_eq!(world.subscriptions.kept().to_string(), kept);
        assert_eq!(events(&world.next().unwrap()).0, ["4"]);
    }
}
