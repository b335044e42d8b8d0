//! The [`table`](crate::table) as an OpenAPI 3.1 document: paths, parameters, bodies, and each status that an answer can have.
//! Before: [`root`](crate::resources::root). After: programs that make clients and tests of such documents.
//!
//! What resources say is left to the schemas of DMTF and to our own, which each answer names.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde_json::{Map, Value, json};

use crate::auth::Right;
use crate::http::Method;
use crate::http::multipart::MULTIPART;
use crate::resources::fields::{Field, Shape};
use crate::resources::root::SCHEMAS;
use crate::resources::schemas;
use crate::table::{JSON, Place, ROUTES, Route};
use crate::updates::push::SAID;

/// The media type of the document, which is written as JSON, a part of YAML.
pub const MEDIA: &str = "application/yaml";

/// Parameters of reads: name, schema, what it does.
const QUERIES: [(&str, &str, &str); 6] = [
    ("$expand", r"^[*.~](\(\$levels=1\))?$", "Puts resources in place of links to them."),
    ("$select", "^[A-Za-z/@.,]+$", "Leaves these properties."),
    ("$filter", "^[A-Za-z]+ (eq|ne) '[a-z]*'$", "Leaves members for which this is so."),
    ("$skip", "^[0-9]{1,9}$", "Leaves out so many members."),
    ("$top", "^[0-9]{1,9}$", "Shows at most so many members."),
    ("only", "^$", "Shows the only member in place of its collection."),
];

/// Returns the document.
pub fn document() -> Value {
    let paths: Map<String, Value> = ROUTES.iter().map(|route| (route.path(), path(route))).collect();
    let mut schemas = Map::new();
    for kind in ROUTES.iter().map(|route| route.kind).filter(|kind| !kind.is_empty()) {
        schemas.insert(kind.into(), resource(kind));
    }
    schemas.insert("Object".into(), json!({ "type": "object" }));
    schemas.insert("Link".into(), object(&[needed_text("@odata.id")]));
    let message = object(&[needed_text("MessageId"), needed_text("Message"), needed_text("MessageSeverity")]);
    let error = json!({
        "type": "object",
        "required": ["code", "message", "@Message.ExtendedInfo"],
        "properties": { "@Message.ExtendedInfo": { "type": "array", "minItems": 1, "items": message } },
    });
    schemas.insert(
        "Error".into(),
        json!({
            "type": "object", "required": ["error"], "properties": { "error": error },
        }),
    );
    let mut parameters = Map::new();
    for (name, pattern, what) in QUERIES {
        let schema = json!({ "type": "string", "pattern": pattern });
        parameters.insert(key(name), json!({ "name": name, "in": "query", "description": what, "schema": schema }));
    }
    for name in ["If-Match", "If-None-Match"] {
        let schema = json!({ "type": "string", "pattern": "^(\\*|W/\"[0-9a-f]{16}\")$" });
        parameters.insert(key(name), json!({ "name": name, "in": "header", "schema": schema }));
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Salp", "version": env!("CARGO_PKG_VERSION"), "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" } },
        "security": [{ "Basic": [] }, { "Session": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "Basic": { "type": "http", "scheme": "basic" },
                "Session": { "type": "apiKey", "in": "header", "name": "X-Auth-Token" },
            },
            "parameters": parameters,
            "schemas": schemas,
            "responses": {
                "Error": { "description": "It was refused, and nothing has changed.", "content": content(&[JSON], "Error") },
                "Nothing": { "description": "There is nothing to say." },
            },
        },
    })
}

fn needed_text(name: &'static str) -> Field {
    crate::resources::fields::needed(name, Shape::Text(""))
}

/// Returns a name as keys of components are written.
fn key(name: &str) -> String {
    name.trim_start_matches('$').into()
}

fn content(media: &[&str], schema: &str) -> Value {
    let one = |kind: &&str| {
        let schema = if *kind == JSON { reference("schemas", schema) } else { json!({ "type": "string" }) };
        (kind.to_string(), json!({ "schema": schema }))
    };
    media.iter().map(one).collect::<Map<_, _>>().into()
}

fn reference(group: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{group}/{name}") })
}

/// Returns what a resource of a schema has in any case, and where the schema is.
fn resource(kind: &str) -> Value {
    let url = match SCHEMAS.iter().find(|(name, _)| *name == kind) {
        Some((_, "")) => format!("http://redfish.dmtf.org/schemas/v1/{kind}.json"),
        Some((_, version)) => format!("http://redfish.dmtf.org/schemas/v1/{kind}.{version}.json"),
        None => schemas::path(kind),
    };
    // The only member may stand for its collection.
    let pattern = if kind.ends_with("Collection") { "^#".to_string() } else { format!("^#{kind}\\.") };
    json!({
        "type": "object",
        "required": ["@odata.id", "@odata.type"],
        "properties": {
            "@odata.id": { "type": "string", "pattern": "^/redfish/v1" },
            "@odata.type": { "type": "string", "pattern": pattern },
        },
        "externalDocs": { "url": url },
    })
}

fn path(route: &Route) -> Value {
    let text = json!({ "type": "string" });
    let variable = |name| json!({ "name": name, "in": "path", "required": true, "schema": text });
    let mut item = Map::new();
    let variables: Vec<Value> = route.variables().into_iter().map(variable).collect();
    if !variables.is_empty() {
        item.insert("parameters".into(), variables.into());
    }
    for &(method, right, _) in route.methods {
        item.insert(method.to_string().to_lowercase(), operation(route, method, right));
        if method == Method::Get {
            item.insert("head".into(), operation(route, Method::Head, right));
        }
    }
    item.into()
}

fn operation(route: &Route, method: Method, right: Right) -> Value {
    let name: String = route.path().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '/').collect();
    let mut operation = json!({
        "operationId": format!("{}{}", method.to_string().to_lowercase(), name.replace('/', "_")),
        "summary": route.summary,
        "parameters": parameters(route, method),
        "responses": responses(route, method, right),
    });
    if right == Right::Open {
        operation["security"] = json!([]);
    } else {
        operation["x-redfish-privilege"] = format!("{right:?}").into();
    }
    if let Some(body) = body(route, method) {
        operation["requestBody"] = body;
    }
    operation
}

fn parameters(route: &Route, method: Method) -> Vec<Value> {
    let is_read = matches!(method, Method::Get | Method::Head);
    let mut parameters = Vec::new();
    if is_read && !route.kind.is_empty() {
        parameters.extend(QUERIES.map(|(name, ..)| reference("parameters", &key(name))));
        parameters.push(reference("parameters", "If-None-Match"));
    } else if matches!(method, Method::Patch | Method::Delete) {
        parameters.push(reference("parameters", "If-Match"));
    }
    for (_, place, field) in route.parameters.iter().filter(|(of, ..)| *of == method) {
        let place = if *place == Place::Query { "query" } else { "header" };
        let (name, schema) = (field.name, schema(field.shape));
        parameters.push(json!({ "name": name, "in": place, "required": field.is_needed, "schema": schema }));
    }
    parameters
}

fn responses(route: &Route, method: Method, right: Right) -> Value {
    let is_read = matches!(method, Method::Get | Method::Head);
    let own = if method == Method::Head { Method::Get } else { method };
    let done: &[u16] = match route.answers.iter().find(|(of, _)| *of == own) {
        Some((_, statuses)) => statuses,
        None => match method {
            Method::Post if route.pattern.contains("/Actions/") => &[204],
            Method::Post => &[201],
            Method::Delete => &[204],
            _ => &[200],
        },
    };
    let mut responses = Map::new();
    for &status in done.iter().filter(|&&status| status < 300) {
        let schema = if is_read && !route.kind.is_empty() { route.kind } else { "Object" };
        // What is written in another form is answered as a resource all the same.
        let media = if is_read { route.media } else { &[JSON][..] };
        let answer = match status {
            101 | 204 => reference("responses", "Nothing"),
            _ if method == Method::Head => reference("responses", "Nothing"),
            _ => json!({ "description": "It is done.", "content": content(media, schema) }),
        };
        responses.insert(status.to_string(), answer);
    }
    let has = |condition, statuses: &'static [u16]| if condition { statuses } else { &[] };
    let refusals = [
        &[400, 412, 431][..],
        has(right != Right::Open || !is_read, &[401]),
        has(right != Right::Open, &[403]),
        has(!route.variables().is_empty(), &[404, 409]),
        has(is_read, &[501]),
        has(!is_read, &[409, 413, 415, 507]),
    ];
    for status in refusals.into_iter().flatten().chain(done.iter().filter(|status| **status >= 400)) {
        let refusal = if method == Method::Head { "Nothing" } else { "Error" };
        responses.insert(status.to_string(), reference("responses", refusal));
    }
    if is_read && !route.kind.is_empty() {
        responses.insert("304".into(), reference("responses", "Nothing"));
    }
    responses.into()
}

fn body(route: &Route, method: Method) -> Option<Value> {
    let fields = route.takes.iter().find(|(of, _)| *of == method).map(|(_, fields)| *fields);
    let takes_bytes = route.methods.iter().any(|(of, ..)| *of == Method::Put);
    let (media, schema) = match (method, fields) {
        (Method::Post | Method::Patch, Some(fields)) => (JSON, object(fields)),
        (Method::Put | Method::Patch, None) if takes_bytes => ("application/octet-stream", json!({})),
        (Method::Post, None) if route.media == [MULTIPART] => (MULTIPART, form()),
        (Method::Post | Method::Patch, None) if route.media == [JSON] => (JSON, reference("schemas", "Object")),
        (Method::Post | Method::Patch, None) => (route.media[0], json!({ "type": "string" })),
        _ => return None,
    };
    let is_needed = fields.is_none_or(|fields| fields.iter().any(|field| field.is_needed)) || method == Method::Patch;
    Some(json!({ "required": is_needed, "content": { media: { "schema": schema } } }))
}

/// Returns the parts of the form that a bundle comes in.
fn form() -> Value {
    json!({
        "type": "object",
        "properties": { "UpdateParameters": object(SAID), "UpdateFile": { "type": "string", "format": "binary" } },
        "required": ["UpdateFile"],
    })
}

fn object(fields: &[Field]) -> Value {
    let properties: Map<String, Value> = fields.iter().map(|field| (field.name.into(), schema(field.shape))).collect();
    let needed: Vec<&str> = fields.iter().filter(|field| field.is_needed).map(|field| field.name).collect();
    json!({ "type": "object", "properties": properties, "required": needed })
}

/// Returns the JSON schema of a value.
fn schema(shape: Shape) -> Value {
    const GIB: f64 = (1u64 << 30) as f64;
    match shape {
        Shape::Text("") => json!({ "type": "string" }),
        Shape::Text(pattern) => json!({ "type": "string", "pattern": pattern }),
        Shape::TextOrNull(pattern) => json!({ "type": ["string", "null"], "pattern": pattern }),
        Shape::Word(words) => json!({ "type": "string", "enum": words }),
        Shape::Words(words) => json!({ "type": "array", "items": { "type": "string", "enum": words } }),
        Shape::Texts(most, pattern) => {
            json!({ "type": "array", "maxItems": most, "items": { "type": "string", "pattern": pattern } })
        }
        Shape::Number(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Shape::Gibibytes(from, to) => {
            json!({ "type": "number", "minimum": from as f64 / GIB, "maximum": to as f64 / GIB })
        }
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Only(only) => json!({ "const": only }),
        Shape::Link => reference("schemas", "Link"),
        Shape::LinkOrNull => json!({ "anyOf": [reference("schemas", "Link"), { "type": "null" }] }),
        Shape::Links(most) => json!({ "type": "array", "maxItems": most, "items": reference("schemas", "Link") }),
        Shape::Pairs(most) => {
            let pair = json!({ "type": "object", "maxProperties": 1, "additionalProperties": { "type": "string" } });
            json!({ "type": "array", "maxItems": most, "items": pair })
        }
        Shape::Object(fields) => object(fields),
        Shape::List(most, fields) => json!({ "type": "array", "maxItems": most, "items": object(fields) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::body::ASKED;
    use crate::testing::{Client, concrete, walk};
    use alloc::collections::BTreeSet;

    /// Returns a value with every member that a body can have.
    fn full(fields: &[Field]) -> Value {
        let value = |shape| match shape {
            Shape::Object(fields) => full(fields),
            Shape::List(_, fields) => json!([full(fields)]),
            _ => json!([]),
        };
        fields.iter().map(|field| (field.name.to_string(), value(field.shape))).collect::<Map<_, _>>().into()
    }

    /// Notes the places of members.
    fn places(fields: &[Field], way: &str, found: &mut BTreeSet<String>) {
        for field in fields {
            let place = format!("{way}{}", field.name);
            match field.shape {
                Shape::Object(fields) => places(fields, &format!("{place}/"), found),
                Shape::List(_, fields) => places(fields, &format!("{place}/0/"), found),
                _ => {}
            }
            found.insert(place);
        }
    }

    #[test]
    fn bodies_hold_what_is_published_and_nothing_else() {
        let mut client = Client::full();
        let all = walk(&mut client);
        for route in ROUTES {
            for &(method, fields) in route.takes {
                let (mut published, path) = (BTreeSet::new(), concrete(route, &all));
                places(fields, "", &mut published);
                ASKED.take();
                let answer = client.send(&client.request(method, &path, &full(fields).to_string()));
                let asked: BTreeSet<String> = ASKED.take();
                // Lists of keys and values are read in one go.
                published.retain(|place| !place.starts_with("Config/"));
                assert_eq!(asked, published, "{method} {path}: {answer:?}");
            }
        }
    }

    #[test]
    fn resources_are_what_the_table_says() {
        let mut client = Client::full();
        let all = walk(&mut client);
        for (path, value) in &all {
            let (route, _) = crate::table::find(path).unwrap();
            let kind = value["@odata.type"].as_str().unwrap().trim_start_matches('#').split('.').next();
            assert_eq!(kind, Some(route.kind), "{path}");
            let known = SCHEMAS.iter().map(|(name, _)| *name);
            let known =
                known.chain(schemas::oem::SCHEMAS.iter().map(|schema| schema.name)).any(|name| name == route.kind);
            assert!(known, "{} is no schema", route.kind);
        }
    }

    fn references(value: &Value, found: &mut impl FnMut(&str)) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| match value {
                Value::String(to) if key == "$ref" => found(to),
                value => references(value, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        let mut client = Client::stranger();
        let answer = client.get("/redfish/v1/openapi.yaml");
        assert_eq!((answer.status, answer.get("Content-Type")), (200, Some(MEDIA)));
        let document = crate::testing::json(&answer);
        let mut count = 0;
        references(&document, &mut |to| {
            count += 1;
            assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
        });
        assert!(count > 100);
    }
}
