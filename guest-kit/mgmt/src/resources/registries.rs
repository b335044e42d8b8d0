//! Where the meaning of messages and types is published. Before: [`table`](crate::table). After: clients that look it up.

use alloc::format;

use serde_json::json;

use super::root::SCHEMAS;
use super::{Call, Outcome, collection};
use crate::message::{Failure, REGISTRY};

const REGISTRIES: &str = "/redfish/v1/Registries";
const FILES: &str = "/redfish/v1/JsonSchemas";

/// Lists registries of messages.
pub fn list(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = [format!("{REGISTRIES}/{REGISTRY}")].into_iter();
    Ok(Outcome::Resource(collection(REGISTRIES, "MessageRegistryFileCollection", "Registries", members)))
}

/// Answers where the registry of all our messages is.
pub fn registry(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    if call.variables[0] != REGISTRY {
        return Err(call.missing());
    }
    Ok(Outcome::Resource(json!({
        "@odata.id": format!("{REGISTRIES}/{REGISTRY}"),
        "@odata.type": "#MessageRegistryFile.v1_1_5.MessageRegistryFile",
        "Id": REGISTRY,
        "Name": "Messages",
        "Registry": REGISTRY,
        "Languages": ["en"],
        "Location": [{
            "Language": "en",
            "PublicationUri": format!("http://redfish.dmtf.org/registries/{REGISTRY}.0.json"),
        }],
    })))
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

    #[test]
    fn every_type_of_the_standard_says_where_its_schema_is() {
        let mut client = Client::new(Role::ReadOnly);
        let file = client.read("/redfish/v1/JsonSchemas/Role");
        assert_eq!(file["Location"][0]["PublicationUri"], "http://redfish.dmtf.org/schemas/v1/Role.v1_3_3.json");
        assert_eq!(client.get("/redfish/v1/JsonSchemas/SalpImage").status, 404);
        assert_eq!(client.get("/redfish/v1/Registries/Base.1.0").status, 404);
    }
}
