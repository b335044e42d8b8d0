//! Reads request bodies: JSON objects of which every member is asked for, and nothing else is there. Before: resources
//! that take a body. After: their functions.
//!
//! A body is read whole before anything is done: all that is wrong with it is said at once.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde_json::{Map, Value};

use super::Outcome;
use crate::http::Request;
use crate::message::{Failure, Message};
use crate::service;

#[cfg(test)]
std::thread_local! {
    /// Members that a test's thread has asked bodies for.
    pub static ASKED: core::cell::RefCell<alloc::collections::BTreeSet<String>> = Default::default();
}

/// The members of a body that have not been asked for, and what is wrong so far.
#[derive(Debug)]
pub struct Body {
    /// The action whose parameters these are; none for properties of a resource.
    action: Option<&'static str>,
    /// The way here from the outermost object, each name with a slash behind it.
    way: String,
    members: Map<String, Value>,
    wrong: Vec<Message>,
    /// What was not asked for.
    unknown: Vec<Message>,
    /// How many members were asked for and there.
    taken: usize,
}

impl Body {
    /// Returns the parameters of an action. No body stands for no parameters.
    pub fn of_action(request: &Request, action: &'static str) -> Result<Self, Failure> {
        Self::new(request, Some(action))
    }

    /// Returns properties of a resource.
    pub fn of_resource(request: &Request) -> Result<Self, Failure> {
        Self::new(request, None)
    }

    fn new(request: &Request, action: Option<&'static str>) -> Result<Self, Failure> {
        let kind = request.content_type.as_deref().and_then(|kind| kind.split(';').next()).map(str::trim);
        if !request.body.is_empty() && kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("application/json")) {
            return Err(Failure::because(415, "Send the body as application/json."));
        }
        let members = if request.body.is_empty() && action.is_some() {
            Map::new()
        } else {
            match serde_json::from_slice(&request.body) {
                Ok(Value::Object(members)) => members,
                Ok(_) => return Err(Failure::new(400, "UnrecognizedRequestBody", &[])),
                Err(_) => return Err(Failure::new(400, "MalformedJSON", &[])),
            }
        };
        Ok(Self { action, way: String::new(), members, wrong: Vec::new(), unknown: Vec::new(), taken: 0 })
    }

    /// Says that the value of a member is wrong: of another type, or in another way.
    fn complain(&mut self, what: &str, name: &str, value: &Value) {
        let name = &*(self.way.clone() + name);
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let key = |action, property| if self.action.is_some() { action } else { property };
        let key = match what {
            "type" => key("ActionParameterValueTypeError", "PropertyValueTypeError"),
            "list" => key("ActionParameterValueNotInList", "PropertyValueNotInList"),
            _ => key("ActionParameterValueFormatError", "PropertyValueFormatError"),
        };
        let message = Message::new(key, &[&value, name, self.action.unwrap_or_default()]);
        self.wrong.push(if self.action.is_some() { message } else { message.about(name) });
    }

    /// Says why what was read of a member is no good all the same.
    pub fn refuse(&mut self, name: &str, why: &str) {
        self.complain("format", name, &Value::from(why));
    }

    /// Says that a member has to be there.
    fn require<T>(&mut self, name: &str, value: Option<T>) -> Option<T> {
        if value.is_none() && self.wrong.is_empty() {
            let name = &*(self.way.clone() + name);
            self.wrong.push(match self.action {
                Some(action) => Message::new("ActionParameterMissing", &[action, name]),
                None => Message::new("PropertyMissing", &[name]).about(name),
            });
        }
        value
    }

    /// Removes a member and returns it, if it is there.
    fn ask(&mut self, name: &str) -> Option<Value> {
        #[cfg(test)]
        ASKED.with_borrow_mut(|asked| asked.insert(self.way.clone() + name));
        self.members.remove(name)
    }

    /// Takes a member that `read` makes something of, if it is there.
    fn take<T>(&mut self, name: &str, read: impl FnOnce(&Value) -> Result<T, &'static str>) -> Option<T> {
        let value = self.ask(name)?;
        self.taken += 1;
        read(&value).map_err(|what| self.complain(what, name, &value)).ok()
    }

    /// Takes a text that fits.
    pub fn text(&mut self, name: &str, fits: impl FnOnce(&str) -> bool) -> Option<String> {
        self.take(name, |value| {
            let text = value.as_str().ok_or("type")?;
            if fits(text) { Ok(text.to_string()) } else { Err("format") }
        })
    }

    /// Takes a text that fits; null stands for an empty one.
    pub fn text_or_none(&mut self, name: &str, fits: impl FnOnce(&str) -> bool) -> Option<String> {
        self.take(name, |value| {
            let text = if value.is_null() { "" } else { value.as_str().ok_or("type")? };
            if fits(text) { Ok(text.to_string()) } else { Err("format") }
        })
    }

    /// Takes a text that fits and has to be there.
    pub fn needed_text(&mut self, name: &str, fits: impl FnOnce(&str) -> bool) -> Option<String> {
        let text = self.text(name, fits);
        self.require(name, text)
    }

    /// Takes one of these words.
    pub fn word(&mut self, name: &str, words: &[&str]) -> Option<String> {
        self.take(name, |value| {
            let text = value.as_str().ok_or("type")?;
            if words.contains(&text) { Ok(text.to_string()) } else { Err("list") }
        })
    }

    /// Takes one of these words, which has to be there.
    pub fn needed_word(&mut self, name: &str, words: &[&str]) -> Option<String> {
        let word = self.word(name, words);
        self.require(name, word)
    }

    /// Takes a whole number in a range.
    pub fn number(&mut self, name: &str, range: core::ops::RangeInclusive<u64>) -> Option<u64> {
        self.take(name, |value| {
            let number = value.as_u64().ok_or(if value.is_number() { "format" } else { "type" })?;
            if range.contains(&number) { Ok(number) } else { Err("format") }
        })
    }

    /// Takes yes or no.
    pub fn flag(&mut self, name: &str) -> Option<bool> {
        self.take(name, |value| value.as_bool().ok_or("type"))
    }

    /// Takes yes or no, which can be only this.
    pub fn only_flag(&mut self, name: &str, only: bool) -> Option<bool> {
        self.take(name, |value| {
            value.as_bool().ok_or("type").and_then(|flag| if flag == only { Ok(flag) } else { Err("list") })
        })
    }

    /// Takes a list of words, each one of these.
    pub fn words(&mut self, name: &str, words: &[&str]) -> Option<()> {
        self.take(name, |value| {
            let items = value.as_array().ok_or("type")?;
            let is_known = |item: &Value| item.as_str().is_some_and(|word| words.contains(&word));
            if items.iter().all(is_known) { Ok(()) } else { Err("list") }
        })
    }

    /// Takes GiB, as bytes: whole pages, in a range.
    pub fn gibibytes(&mut self, name: &str, range: core::ops::RangeInclusive<u64>) -> Option<u64> {
        const PAGES: f64 = (1u64 << 18) as f64;
        self.take(name, |value| {
            let pages = value.as_f64().ok_or("type")? * PAGES;
            // What is no number of pages, or none of them, becomes another number on its way there and back.
            let bytes = (pages as u64).checked_mul(4096).filter(|bytes| range.contains(bytes));
            if (pages as u64) as f64 == pages { bytes.ok_or("format") } else { Err("format") }
        })
    }

    /// Takes a text that `read` makes something of.
    pub fn parsed<T>(&mut self, name: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        self.take(name, |value| read(value.as_str().ok_or("type")?).ok_or("format"))
    }

    /// Takes a text that `read` makes something of, and that has to be there.
    pub fn needed_parsed<T>(&mut self, name: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.parsed(name, read);
        self.require(name, value)
    }

    /// Takes a list of texts that fit, at most so many.
    pub fn texts(&mut self, name: &str, most: usize, fits: impl Fn(&str) -> bool) -> Option<Vec<String>> {
        self.take(name, |value| {
            let items = value.as_array().ok_or("type")?;
            let text = |item: &Value| item.as_str().filter(|text| fits(text)).map(ToString::to_string);
            items.iter().map(text).collect::<Option<Vec<_>>>().filter(|texts| texts.len() <= most).ok_or("format")
        })
    }

    /// Takes a list of words, each one of these.
    pub fn known(&mut self, name: &str, words: &[&str]) -> Option<Vec<String>> {
        self.take(name, |value| {
            let items = value.as_array().ok_or("type")?.iter().map(Value::as_str);
            let items = items.collect::<Option<Vec<&str>>>().ok_or("type")?;
            if !items.iter().all(|item| words.contains(item)) {
                return Err("list");
            }
            // What is said twice is said once.
            let once = words.iter().filter(|word| items.contains(word));
            Ok(once.map(ToString::to_string).collect())
        })
    }

    /// Takes a list of links, at most so many.
    pub fn links(&mut self, name: &str, most: usize) -> Option<Vec<String>> {
        self.take(name, |value| {
            let items = value.as_array().ok_or("type")?;
            let links = items.iter().map(link).collect::<Option<Vec<_>>>().ok_or("type")?;
            if links.len() <= most { Ok(links) } else { Err("format") }
        })
    }

    /// Takes a list of objects of names and texts that fit, at most so many pairs.
    pub fn pairs(
        &mut self,
        name: &str,
        most: usize,
        fits: impl Fn(&str, &str) -> bool,
    ) -> Option<Vec<(String, String)>> {
        self.take(name, |value| {
            let mut pairs = Vec::new();
            for object in value.as_array().ok_or("type")? {
                for (name, value) in object.as_object().ok_or("type")? {
                    let value = value.as_str().filter(|value| fits(name, value)).ok_or("format")?;
                    pairs.push((name.clone(), value.to_string()));
                }
            }
            if pairs.len() <= most { Ok(pairs) } else { Err("format") }
        })
    }

    /// Takes a list of texts that fit, at most so many, in place of what is there: null removes what is at its place, an empty
    /// object leaves it as it is (DSP0266).
    pub fn texts_over(
        &mut self,
        name: &str,
        most: usize,
        there: &[String],
        fits: impl Fn(&str) -> bool,
    ) -> Option<Vec<String>> {
        self.take(name, |value| {
            let mut texts = Vec::new();
            for (index, item) in value.as_array().ok_or("type")?.iter().enumerate() {
                match item {
                    Value::Null => {}
                    Value::Object(nothing) if nothing.is_empty() => texts.extend(there.get(index).cloned()),
                    item => texts.push(item.as_str().filter(|text| fits(text)).ok_or("format")?.to_string()),
                }
            }
            if texts.len() <= most { Ok(texts) } else { Err("format") }
        })
    }

    /// Returns true if nothing was said here: what is there stays as it is.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Takes a link.
    pub fn link(&mut self, name: &str) -> Option<String> {
        self.take(name, |value| link(value).ok_or("type"))
    }

    /// Takes a link, or null.
    pub fn link_or_none(&mut self, name: &str) -> Option<Option<String>> {
        self.take(name, |value| if value.is_null() { Ok(None) } else { link(value).map(Some).ok_or("type") })
    }

    /// Takes a link, which has to be there.
    pub fn needed_link(&mut self, name: &str) -> Option<String> {
        let link = self.link(name);
        self.require(name, link)
    }

    /// Says that a member has to be there, if what was read of it is not, and nothing else is wrong.
    pub fn needed<T>(&mut self, name: &str, value: &Option<T>) {
        self.require(name, value.as_ref());
    }

    /// Takes an object and reads its members.
    pub fn inside<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let value = self.ask(name)?;
        self.enter(name, value, read)
    }

    fn enter<T>(&mut self, name: &str, value: Value, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let Value::Object(members) = value else {
            self.complain("type", name, &value);
            return None;
        };
        let way = [&self.way, name, "/"].concat();
        let mut inner = Self { action: self.action, way, members, wrong: Vec::new(), unknown: Vec::new(), taken: 0 };
        let result = read(&mut inner);
        inner.reject();
        self.wrong.append(&mut inner.wrong);
        self.unknown.append(&mut inner.unknown);
        self.taken += inner.taken;
        Some(result)
    }

    /// Takes a list of objects, at most so many, and reads the members of each.
    pub fn each<T>(&mut self, name: &str, most: usize, mut read: impl FnMut(&mut Self) -> T) -> Option<Vec<T>> {
        let value = self.ask(name)?;
        let Value::Array(items) = value else {
            self.complain("type", name, &value);
            return None;
        };
        if items.len() > most {
            self.complain("format", name, &Value::from(items.len()));
            return None;
        }
        self.taken += usize::from(items.is_empty());
        let place = |index| alloc::format!("{name}/{index}");
        items.into_iter().enumerate().map(|(index, item)| self.enter(&place(index), item, &mut read)).collect()
    }

    /// Takes a list of `{"Key": …, "Value": …}`, as lines `key=value`.
    pub fn lines(&mut self, name: &str) -> Option<String> {
        self.take(name, |value| {
            let mut lines = String::new();
            for pair in value.as_array().ok_or("type")? {
                let member = |name| pair.get(name).and_then(Value::as_str);
                let (Some(key), Some(value)) = (member("Key"), member("Value")) else { return Err("type") };
                if key.contains(['=', '\n'])
                    || value.contains('\n')
                    || pair.as_object().is_none_or(|map| map.len() != 2)
                {
                    return Err("format");
                }
                lines.extend([key, "=", value, "\n"]);
            }
            if crate::hypervisor::is_config(&lines) { Ok(lines) } else { Err("format") }
        })
    }

    /// Complains about what was not asked for.
    fn reject(&mut self) {
        for name in self.members.keys().filter(|name| !name.starts_with('@')) {
            let name = &*(self.way.clone() + name);
            self.unknown.push(match self.action {
                Some(action) => Message::new("ActionParameterUnknown", &[action, name]),
                None => Message::new("PropertyUnknown", &[name]).about(name),
            });
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// If anything was wrong, or there is a member that was not asked for.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.reject();
        self.wrong.append(&mut self.unknown);
        if self.wrong.is_empty() { Ok(()) } else { Err(Failure { status: 400, messages: self.wrong }) }
    }

    /// Ends the reading of a change, which is carried out though there is more in it than can be changed; returns what was
    /// left out.
    ///
    /// # Errors
    ///
    /// If a value was wrong, or nothing can be changed.
    pub fn finish_change(mut self) -> Result<Ignored, Failure> {
        self.reject();
        if self.wrong.is_empty() && self.taken > 0 {
            return Ok(Ignored(self.unknown));
        }
        if self.wrong.is_empty() && self.unknown.is_empty() {
            return Err(Failure::new(400, "NoOperation", &[]));
        }
        self.wrong.append(&mut self.unknown);
        Err(Failure { status: 400, messages: self.wrong })
    }
}

/// Members of a change that cannot be changed.
#[derive(Debug)]
pub struct Ignored(Vec<Message>);

impl Ignored {
    /// Says so in the answer: all of it in the outermost object, and beside each property where there is one.
    pub fn tell(&self, outcome: Outcome) -> Outcome {
        let Outcome::Resource(mut value) = outcome else { return outcome };
        // The annotation is of this answer, not of the resource.
        service::tag(&mut value);
        for message in &self.0 {
            let (place, name) = message.property().rsplit_once('/').unwrap_or(("", message.property()));
            let steps = place.split('/').filter(|step| !step.is_empty());
            let pointer: String = steps.flat_map(|step| ["/", step]).collect();
            let place = if value.pointer_mut(&pointer).is_some_and(|place| place.is_object()) { &*pointer } else { "" };
            if let Some(object) = value.pointer_mut(place) {
                let name = alloc::format!("{name}@Message.ExtendedInfo");
                *object.member(name.into()) = Vec::from([message.value()]).into();
            }
        }
        if !self.0.is_empty() {
            value["@Message.ExtendedInfo"] = self.0.iter().map(Message::value).collect();
        }
        Outcome::Resource(value)
    }
}

fn link(value: &Value) -> Option<String> {
    let path = value.as_object().filter(|map| map.len() == 1).and_then(|map| map.get("@odata.id"));
    path.and_then(Value::as_str).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::http::Method;
    use crate::testing::{Client, json, keys};

    #[test]
    fn a_change_is_made_as_far_as_it_can_be_and_says_what_it_left_out() {
        let mut client = Client::new(Role::Administrator);
        let nic = "/redfish/v1/Systems/2/EthernetInterfaces/0";
        let mut patch = |body: &str| client.send(&client.request(Method::Patch, nic, body));
        let some = r#"{"InterfaceEnabled":false,"MACAddress":"x","Oem":{"Salp":{"Color":"red"},"Acme":1}}"#;
        let answer = patch(some);
        let body = json(&answer);
        assert_eq!((answer.status, &body["InterfaceEnabled"]), (200, &false.into()));
        for (object, name) in [(&body, "MACAddress"), (&body["Oem"]["Salp"], "Color"), (&body["Oem"], "Acme")] {
            let message = &object[alloc::format!("{name}@Message.ExtendedInfo")][0]["MessageId"];
            assert_eq!(message, "Base.1.19.PropertyUnknown", "{name}");
        }
        assert_eq!(body["@Message.ExtendedInfo"].as_array().map_or(0, |all| all.len()), 3);
        let tag = answer.get("ETag").map(alloc::string::String::from);
        assert_eq!((client.get(nic).get("ETag").map(alloc::string::String::from), tag.is_some()), (tag, true));
    }

    #[test]
    fn a_change_of_nothing_is_refused() {
        let mut client = Client::new(Role::Administrator);
        for (body, key) in [
            (r#"{"MACAddress":"x"}"#, "PropertyUnknown"),
            (r#"{"@odata.id":"x"}"#, "NoOperation"),
            ("{}", "NoOperation"),
            (r#"{"InterfaceEnabled":1}"#, "PropertyValueTypeError"),
        ] {
            let patch = client.request(Method::Patch, "/redfish/v1/Systems/2/EthernetInterfaces/0", body);
            let answer = client.send(&patch);
            assert_eq!((answer.status, keys(&answer).concat()), (400, key.into()), "{body}");
        }
    }
}
