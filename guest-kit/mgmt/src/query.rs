//! What a read is asked for besides its path: parameters of the query (DSP0266 section 7.3). Before:
//! [`service`](crate::service). After: [`filter`].

pub mod filter;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_json::{Map, Value, json};

use crate::http::Request;
use crate::message::Failure;
use filter::Filter;

/// How many members a page has, if the client does not say.
pub const PAGE: usize = 200;

/// Which links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expand {
    /// All.
    All,
    /// Those in `Links`.
    Links,
    /// The others.
    Subordinate,
}

impl Expand {
    /// Returns whether links in a property are followed.
    pub fn enters(self, is_links: bool, is_root: bool) -> bool {
        match self {
            Self::All => true,
            Self::Links => is_links || !is_root,
            Self::Subordinate => !is_links,
        }
    }
}

/// Query parameters of a read.
#[derive(Debug, Default)]
pub struct Query {
    /// Links that are followed.
    pub expand: Option<Expand>,
    /// Whether the only member stands for its collection.
    pub only: bool,
    /// Which members.
    pub filter: Option<Filter>,
    /// Which properties.
    select: Option<Vec<String>>,
    skip: usize,
    top: Option<usize>,
}

impl Query {
    /// Reads the parameters of a request.
    ///
    /// # Errors
    ///
    /// If one that is known has another form, or one that is unknown may not be ignored.
    pub fn new(request: &Request) -> Result<Self, Failure> {
        let mut query = Self::default();
        for (key, value) in &request.query {
            let malformed = || Failure::new(400, "QueryParameterValueFormatError", &[value, key]);
            let number = || value.parse::<usize>().map_err(|_| malformed());
            match &**key {
                "only" if value.is_empty() => query.only = true,
                "only" => return Err(malformed()),
                "$expand" => {
                    let kind = value.strip_suffix("($levels=1)").unwrap_or(value);
                    query.expand = Some(match kind {
                        "*" => Expand::All,
                        "~" => Expand::Links,
                        "." => Expand::Subordinate,
                        _ => return Err(malformed()),
                    });
                }
                "$skip" => query.skip = number()?,
                "$top" => query.top = Some(number()?),
                "$select" => {
                    let names: Vec<String> = value.split(',').map(|name| name.trim().to_string()).collect();
                    if names.iter().any(|name| name.is_empty() || name.split('/').any(str::is_empty)) {
                        return Err(malformed());
                    }
                    query.select = Some(names);
                }
                "$filter" => query.filter = Some(Filter::new(value).ok_or_else(malformed)?),
                key if key.starts_with('$') => return Err(Failure::new(501, "QueryNotSupported", &[])),
                _ => {}
            }
        }
        let is_more = query.expand.is_some() || query.skip > 0 || query.top.is_some() || query.filter.is_some();
        if query.only && is_more {
            return Err(Failure::new(400, "QueryNotSupported", &[]));
        }
        Ok(query)
    }

    /// Cuts the members that are asked for out of a collection, or its next page.
    pub fn page(&self, request: &Request, value: &mut Value) {
        let Some(members) = value.get_mut("Members").and_then(Value::as_array_mut) else { return };
        members.drain(..self.skip.min(members.len()));
        let top = self.top.unwrap_or(PAGE);
        if top < members.len() {
            members.truncate(top);
            let others = request.query.iter().filter(|(key, _)| key != "$skip");
            let others = others.map(|(key, value)| format!("&{}={}", encoded(key), encoded(value)));
            let next = format!("{}?$skip={}{}", request.path, self.skip + top, others.collect::<String>());
            value["Members@odata.nextLink"] = json!(next);
        }
    }

    /// Returns whether not all properties are asked for.
    pub fn selects(&self) -> bool {
        self.select.is_some()
    }

    /// Leaves the properties that are asked for: of a resource, or of each member that is there as a whole.
    pub fn select(&self, value: &mut Value) {
        let Some(names) = &self.select else { return };
        match value.get_mut("Members").and_then(Value::as_array_mut) {
            Some(members) if self.expand.is_some() => {
                members.iter_mut().for_each(|member| *member = pick(member, names))
            }
            _ => *value = pick(value, names),
        }
    }
}

/// Returns the properties of a resource with these names, and what says which resource it is.
fn pick(value: &Value, names: &[String]) -> Value {
    let Some(members) = value.as_object() else { return value.clone() };
    let mut picked = Map::default();
    for (name, inner) in members {
        let (property, annotation) = name.split_once('@').unwrap_or((name, ""));
        if property.is_empty() && annotation.starts_with("odata.") || names.iter().any(|wanted| wanted == property) {
            picked.insert(name.clone(), inner.clone());
            continue;
        }
        let inside = |wanted: &String| Some(wanted.strip_prefix(property)?.strip_prefix('/')?.to_string());
        let inner_names: Vec<String> = names.iter().filter_map(inside).collect();
        if annotation.is_empty() && !inner_names.is_empty() && inner.is_object() {
            picked.insert(name.clone(), pick(inner, &inner_names));
        }
    }
    picked.into()
}

/// Returns a text as it is in a query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'$' | b'-' | b'.' | b'_' | b'~' | b'*' | b'/' | b',' => out.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => out.push(byte.into()),
            byte => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_picked_says_what_it_is() {
        let value = json!({
            "@odata.id": "/x", "@odata.etag": "e", "A": 1, "A@Redfish.AllowableValues": [1], "B": { "C": 2, "D": 3 }, "E": 4,
        });
        let names = ["A", "B/C"].map(ToString::to_string);
        let expected = json!({
            "@odata.id": "/x", "@odata.etag": "e", "A": 1, "A@Redfish.AllowableValues": [1], "B": { "C": 2 },
        });
        assert_eq!(pick(&value, &names), expected);
    }

    #[test]
    fn a_collection_comes_in_pages_and_the_next_link_asks_for_the_same() {
        let mut request = Request::new(crate::http::Method::Get, "/x");
        request.query = Vec::from([("$filter".to_string(), "A eq 'b c'".to_string())]);
        let mut value = json!({ "Members": (0..450).collect::<Vec<_>>() });
        let query = Query::new(&request).unwrap();
        query.page(&request, &mut value);
        assert_eq!(value["Members"].as_array().map(Vec::len), Some(PAGE));
        assert_eq!(value["Members@odata.nextLink"], "/x?$skip=200&$filter=A%20eq%20%27b%20c%27");
        request.query.push(("$skip".to_string(), "400".to_string()));
        let mut value = json!({ "Members": (0..450).collect::<Vec<_>>() });
        Query::new(&request).unwrap().page(&request, &mut value);
        assert_eq!((&value["Members"][0], value.get("Members@odata.nextLink")), (&json!(400), None));
    }
}
