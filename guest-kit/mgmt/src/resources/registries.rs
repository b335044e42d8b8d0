//! Where the meaning of messages and types is published. Before: [`table`](crate::table). After: clients that look it up.

use alloc::format;
use alloc::string::{String, ToString};

use salp_json::{Map, json};

use super::root::SCHEMAS;
use super::{Call, Outcome, collection};
use crate::events::registry::{ENTRIES, Entry, REGISTRIES, Registry, SALP};
use crate::message::{Failure, REGISTRY};

const PATH: &str = "/redfish/v1/Registries";
const FILES: &str = "/redfish/v1/JsonSchemas";

/// Returns identifiers of registries, each with its version whole, and whether it is published here.
fn all() -> impl Iterator<Item = (String, String, bool)> {
    let base = (REGISTRY.to_string(), format!("{REGISTRY}.0"), false);
    let others = REGISTRIES.iter().map(|registry| {
        let Registry { prefix, version, whole } = registry;
        (format!("{prefix}.{version}"), format!("{prefix}.{whole}"), **registry == SALP)
    });
    core::iter::once(base).chain(others)
}

/// Lists registries of messages.
pub fn list(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = all().map(|(id, ..)| format!("{PATH}/{id}"));
    Ok(Outcome::Resource(collection(PATH, "MessageRegistryFileCollection", "Registries", members)))
}

/// Answers where a registry of messages is.
pub fn registry(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let wanted = call.variables[0];
    let (id, whole, is_ours) = all().find(|(id, ..)| id == wanted).ok_or_else(|| call.missing())?;
    let mut location = json!({ "Language": "en" });
    if is_ours {
        location["Uri"] = format!("{PATH}/{id}/{whole}.json").into();
    } else {
        location["PublicationUri"] = format!("http://redfish.dmtf.org/registries/{whole}.json").into();
    }
    Ok(Outcome::Resource(json!({
        "@odata.id": format!("{PATH}/{id}"),
        "@odata.type": "#MessageRegistryFile.v1_1_5.MessageRegistryFile",
        "Id": &id,
        "Name": "Messages",
        "Registry": id,
        "Languages": ["en"],
        "Location": [location],
    })))
}

/// Answers the registry of what only Salp tells.
pub fn messages(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let [id, file] = call.variables;
    let is_ours = |(known, whole, is_ours): (String, String, bool)| {
        is_ours && known == id && file.strip_suffix(".json") == Some(&*whole)
    };
    if !all().any(is_ours) {
        return Err(call.missing());
    }
    let ours = ENTRIES.iter().filter(|entry| *entry.registry == SALP);
    let message = |entry: &Entry| {
        let count = entry.arguments();
        let message = json!({
            "Description": entry.text,
            "Message": entry.text,
            "MessageSeverity": entry.severity,
            "NumberOfArgs": count,
            "ParamTypes": alloc::vec!["string"; count],
            "Resolution": entry.resolution,
        });
        (entry.key.to_string(), message)
    };
    // A registry is a document, not a resource: it has no path and no tag of its own.
    let body = json!({
        "@odata.type": "#MessageRegistry.v1_7_0.MessageRegistry",
        "Id": format!("{}.{}", SALP.prefix, SALP.whole),
        "Name": "Messages of Salp",
        "Language": "en",
        "RegistryPrefix": SALP.prefix,
        "RegistryVersion": SALP.whole,
        "OwningEntity": "Salp",
        "Messages": ours.map(message).collect::<Map>(),
    });
    Ok(Outcome::Resource(body))
}

/// Lists schemas of the standard that are in use.
pub fn files(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = SCHEMAS.iter().map(|(name, _)| format!("{FILES}/{name}"));
    Ok(Outcome::Resource(collection(FILES, "JsonSchemaFileCollection", "Schemas", members)))
}

/// Answers where a schema is.
pub fn file(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = call.variables[0];
    let &(name, version) = SCHEMAS.iter().find(|(name, _)| *name == id).ok_or_else(|| call.missing())?;
    let whole = if version.is_empty() { name.into() } else { format!("{name}.{version}") };
    Ok(Outcome::Resource(json!({
        "@odata.id": format!("{FILES}/{name}"),
        "@odata.type": "#JsonSchemaFile.v1_1_5.JsonSchemaFile",
        "Id": name,
        "Name": name,
        "Schema": format!("#{whole}.{name}"),
        "Languages": ["en"],
        "Location": [{
            "Language": "en",
            "PublicationUri": format!("http://redfish.dmtf.org/schemas/v1/{whole}.json"),
        }],
    })))
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::testing::Client;
    use serde_json::json;

    #[test]
    fn every_type_of_the_standard_says_where_its_schema_is() {
        let mut client = Client::new(Role::ReadOnly);
        let file = client.read("/redfish/v1/JsonSchemas/Role");
        assert_eq!(file["Location"][0]["PublicationUri"], "http://redfish.dmtf.org/schemas/v1/Role.v1_3_3.json");
        assert_eq!(client.get("/redfish/v1/JsonSchemas/SalpImage").status, 404);
        assert_eq!(client.get("/redfish/v1/Registries/Base.1.0").status, 404);
    }

    #[test]
    fn what_only_salp_tells_is_published_here() {
        let mut client = Client::new(Role::ReadOnly);
        let file = client.read("/redfish/v1/Registries/Salp.1.0");
        let registry = client.read(file["Location"][0]["Uri"].as_str().unwrap());
        let message = &registry["Messages"]["SystemCrashed"];
        assert_eq!((&message["NumberOfArgs"], &message["MessageSeverity"]), (&json!(2), &json!("Critical")));
        assert_eq!(client.get("/redfish/v1/Registries/Salp.1.0/Salp.1.0.1.json").status, 404);
        assert_eq!(client.get("/redfish/v1/Registries/Base.1.19/Base.1.19.0.json").status, 404);
    }
}
