//! Reads request bodies: JSON objects of which every member is asked for, and nothing else is there. Before: resources
//! that take a body. After: their functions.
//!
//! A body is read whole before anything is done: all that is wrong with it is said at once.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde_json::{Map, Value};

use crate::http::Request;
use crate::message::{Failure, Message};

/// The members of a body that have not been asked for, and what is wrong so far.
#[derive(Debug)]
pub struct Body {
    /// The action whose parameters these are; none for properties of a resource.
    action: Option<&'static str>,
    members: Map<String, Value>,
    wrong: Vec<Message>,
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
        Ok(Self { action, members, wrong: Vec::new() })
    }

    /// Says that the value of a member is wrong: of another type, or in another way.
    fn complain(&mut self, what: &str, name: &str, value: &Value) {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let key = |action, property| if self.action.is_some() { action } else { property };
        let key = match what {
            "type" => key("ActionParameterValueTypeError", "PropertyValueTypeError"),
            "list" => key("ActionParameterValueNotInList", "PropertyValueFormatError"),
            _ => key("ActionParameterValueFormatError", "PropertyValueFormatError"),
        };
        let message = Message::new(key, &[&value, name, self.action.unwrap_or_default()]);
        self.wrong.push(if self.action.is_some() { message } else { message.about(name) });
    }

    /// Says that a member has to be there.
    fn require<T>(&mut self, name: &str, value: Option<T>) -> Option<T> {
        if value.is_none() && self.wrong.is_empty() {
            self.wrong.push(match self.action {
                Some(action) => Message::new("ActionParameterMissing", &[action, name]),
                None => Message::new("PropertyMissing", &[name]).about(name),
            });
        }
        value
    }

    /// Takes a member that `read` makes something of, if it is there.
    fn take<T>(&mut self, name: &str, read: impl FnOnce(&Value) -> Result<T, &'static str>) -> Option<T> {
        let value = self.members.remove(name)?;
        read(&value).map_err(|what| self.complain(what, name, &value)).ok()
    }

    /// Takes a text that fits.
    pub fn text(&mut self, name: &str, fits: impl FnOnce(&str) -> bool) -> Option<String> {
        self.take(name, |value| {
            let text = value.as_str().ok_or("type")?;
            if fits(text) { Ok(text.to_string()) } else { Err("format") }
        })
    }

    /// Takes a text that fits and has to be there.
    pub fn needed_text(&mut self, name: &str, fits: impl FnOnce(&str) -> bool) -> Option<String> {
        let text = self.text(name, fits);
        self.require(name, text)
    }

    /// Takes one of these words, which has to be there.
    pub fn needed_word(&mut self, name: &str, words: &[&str]) -> Option<String> {
        let word = self.take(name, |value| {
            let text = value.as_str().ok_or("type")?;
            if words.contains(&text) { Ok(text.to_string()) } else { Err("list") }
        });
        self.require(name, word)
    }

    /// Takes a whole number in a range.
    pub fn number(&mut self, name: &str, range: core::ops::RangeInclusive<u64>) -> Option<u64> {
        self.take(name, |value| {
            let number = value.as_u64().ok_or(if value.is_number() { "format" } else { "type" })?;
            if range.contains(&number) { Ok(number) } else { Err("format") }
        })
    }

    /// Takes a link, which has to be there.
    pub fn needed_link(&mut self, name: &str) -> Option<String> {
        let link = self.take(name, |value| {
            let path = value.as_object().filter(|map| map.len() == 1).and_then(|map| map.get("@odata.id"));
            path.and_then(Value::as_str).map(ToString::to_string).ok_or("type")
        });
        self.require(name, link)
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

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// If anything was wrong, or there is a member that was not asked for.
    pub fn finish(mut self) -> Result<(), Failure> {
        for name in self.members.keys().filter(|name| !name.starts_with('@')) {
            self.wrong.push(match self.action {
                Some(action) => Message::new("ActionParameterUnknown", &[action, name]),
                None => Message::new("PropertyUnknown", &[name]).about(name),
            });
        }
        if self.wrong.is_empty() { Ok(()) } else { Err(Failure { status: 400, messages: self.wrong }) }
    }
}
