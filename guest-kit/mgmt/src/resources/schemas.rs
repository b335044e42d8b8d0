//! The schemas of what only Salp has, as CSDL: [`oem`] is the table, this writes it. Before: [`table`](crate::table),
//! [`root`](super::root)'s metadata. After: clients that check what they read.

pub mod oem;

use alloc::format;
use alloc::string::String;

use super::{Call, Outcome};
use crate::message::Failure;
use oem::{Access, Base, Kind, Property, SCHEMAS, Schema};

/// Where schemas are.
pub const SCHEMA_PATH: &str = "/redfish/v1/Schemas";

/// The version of all of our schemas.
pub const VERSION: &str = "v1_0_0";

/// Where the vocabularies of OData are.
macro_rules! odata {
    () => {
        "http://docs.oasis-open.org/odata/odata/v4.0/errata03/csd01/complete/vocabularies/"
    };
}

/// What every one of our schemas refers to.
const REFERENCES: [(&str, &[&str]); 6] = [
    (concat!(odata!(), "Org.OData.Core.V1.xml"), &["Org.OData.Core.V1\" Alias=\"OData"]),
    (concat!(odata!(), "Org.OData.Capabilities.V1.xml"), &["Org.OData.Capabilities.V1\" Alias=\"Capabilities"]),
    ("http://redfish.dmtf.org/schemas/v1/RedfishExtensions_v1.xml", &["RedfishExtensions.v1_0_0\" Alias=\"Redfish"]),
    ("http://redfish.dmtf.org/schemas/v1/Resource_v1.xml", &["Resource", "Resource.v1_0_0"]),
    ("http://redfish.dmtf.org/schemas/v1/ComputerSystem_v1.xml", &["ComputerSystem", "ComputerSystem.v1_0_0"]),
    (
        "http://redfish.dmtf.org/schemas/v1/AggregationService_v1.xml",
        &["AggregationService", "AggregationService.v1_0_0"],
    ),
];

/// Answers one schema.
pub fn schema(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let name = call.variables[0].strip_suffix("_v1.xml");
    let schema = SCHEMAS.iter().find(|schema| Some(schema.name) == name).ok_or_else(|| call.missing())?;
    Ok(Outcome::Text { kind: "application/xml", body: csdl(schema) })
}

/// Returns where a schema is.
pub fn path(schema: &str) -> String {
    format!("{SCHEMA_PATH}/{schema}_v1.xml")
}

/// Returns the references of the metadata document to our schemas.
pub fn references() -> String {
    SCHEMAS.iter().map(|schema| reference(&path(schema.name), &[schema.name, &schema.namespace()])).collect()
}

fn reference(uri: &str, namespaces: &[&str]) -> String {
    let mut text = format!("  <edmx:Reference Uri=\"{uri}\">\n");
    for namespace in namespaces {
        text += &format!("    <edmx:Include Namespace=\"{namespace}\"/>\n");
    }
    text + "  </edmx:Reference>\n"
}

impl Schema {
    /// Returns the namespace that its types are in.
    fn namespace(&self) -> String {
        if self.base == Base::Collection { self.name.into() } else { format!("{}.{VERSION}", self.name) }
    }

    /// Returns the name of a type, whole.
    fn type_name(&self, kind: Kind) -> String {
        let known = match kind {
            Kind::Text => "Edm.String",
            Kind::Number => "Edm.Int64",
            Kind::Flag => "Edm.Boolean",
            Kind::Time => "Edm.DateTimeOffset",
            Kind::Status => "Resource.Status",
            Kind::Texts => "Collection(Edm.String)",
            Kind::Part(name) => return format!("{}.{name}", self.namespace()),
            Kind::Link(name) => return format!("{name}.{name}"),
            Kind::Links(name) => return format!("Collection({name}.{name})"),
        };
        known.into()
    }

    fn property(&self, &(name, kind, access, what): &Property) -> String {
        let is_link = matches!(kind, Kind::Link(_) | Kind::Links(_));
        let element = if is_link { "NavigationProperty" } else { "Property" };
        let access = if access == Access::Write { "ReadWrite" } else { "Read" };
        let kind = self.type_name(kind);
        let mut text = format!("        <{element} Name=\"{name}\" Type=\"{kind}\" Nullable=\"false\">\n");
        text +=
            &format!("          <Annotation Term=\"OData.Permissions\" EnumMember=\"OData.Permission/{access}\"/>\n");
        text += &format!("          <Annotation Term=\"OData.Description\" String=\"{what}\"/>\n");
        if is_link {
            text += "          <Annotation Term=\"OData.AutoExpandReferences\"/>\n";
        }
        text + &format!("        </{element}>\n")
    }

    /// Returns a type with properties.
    fn structure(&self, element: &str, name: &str, base: &str, properties: &[Property]) -> String {
        let base = if base.is_empty() { "".into() } else { format!(" BaseType=\"{base}\"") };
        let mut text = format!("      <{element} Name=\"{name}\"{base}>\n");
        text += "        <Annotation Term=\"OData.AdditionalProperties\" Bool=\"false\"/>\n";
        properties.iter().for_each(|property| text += &self.property(property));
        text + &format!("      </{element}>\n")
    }

    /// Returns the type that has no version: where resources are, and what can be done to them.
    fn abstraction(&self, base: &str, is_abstract: bool) -> String {
        let (name, end) = (self.name, if is_abstract { " Abstract=\"true\"" } else { "" });
        let mut text = format!("      <EntityType Name=\"{name}\" BaseType=\"{base}\"{end}>\n");
        for (term, key, can) in [
            ("Insert", "Insertable", self.can[0]),
            ("Update", "Updatable", self.can[1]),
            ("Delete", "Deletable", self.can[2]),
        ] {
            text += &format!("        <Annotation Term=\"Capabilities.{term}Restrictions\"><Record>");
            text += &format!("<PropertyValue Property=\"{key}\" Bool=\"{can}\"/></Record></Annotation>\n");
        }
        text += "        <Annotation Term=\"Redfish.Uris\"><Collection>";
        self.uris.iter().for_each(|uri| text += &format!("<String>{uri}</String>"));
        text += "</Collection></Annotation>\n";
        if !is_abstract {
            self.properties.iter().for_each(|property| text += &self.property(property));
        }
        text + "      </EntityType>\n"
    }

    fn actions(&self) -> String {
        let mut text = String::new();
        for (name, parameters) in self.actions {
            let (bound, kind) = match self.base {
                Base::Object => (self.of, format!("{}.v1_0_0.OemActions", self.of)),
                _ => (self.name, format!("{}.Actions", self.namespace())),
            };
            text += &format!("      <Action Name=\"{name}\" IsBound=\"true\">\n");
            text += &format!("        <Parameter Name=\"{bound}\" Type=\"{kind}\"/>\n");
            for (name, kind, what) in *parameters {
                text += &format!("        <Parameter Name=\"{name}\" Type=\"{kind}\">\n");
                text += &format!("          <Annotation Term=\"OData.Description\" String=\"{what}\"/>\n");
                text += "        </Parameter>\n";
            }
            text += "      </Action>\n";
        }
        text
    }
}

fn namespace(name: &str, contents: &str) -> String {
    let xmlns = "http://docs.oasis-open.org/odata/ns/edm";
    format!("    <Schema xmlns=\"{xmlns}\" Namespace=\"{name}\">\n{contents}    </Schema>\n")
}

/// Returns a schema as a document.
fn csdl(schema: &Schema) -> String {
    let mut text = String::from(concat!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
        "<edmx:Edmx xmlns:edmx=\"http://docs.oasis-open.org/odata/ns/edmx\" Version=\"4.0\">\n",
    ));
    REFERENCES.iter().for_each(|(uri, namespaces)| text += &reference(uri, namespaces));
    for other in SCHEMAS {
        let leads = |&(_, kind, ..): &Property| kind == Kind::Link(other.name) || kind == Kind::Links(other.name);
        if schema.properties.iter().any(leads) {
            text += &reference(&path(other.name), &[other.name]);
        }
    }
    text += "  <edmx:DataServices>\n";
    let mut types = String::new();
    for &(name, properties) in schema.parts {
        types += &schema.structure("ComplexType", name, "", properties);
    }
    for (name, words) in schema.words {
        types += &format!("      <EnumType Name=\"{name}\">\n");
        words.iter().for_each(|word| types += &format!("        <Member Name=\"{word}\"/>\n"));
        types += "      </EnumType>\n";
    }
    match schema.base {
        Base::Object => {
            types += &schema.structure("ComplexType", schema.name, "Resource.OemObject", schema.properties);
            text += &namespace(schema.name, &schema.actions());
        }
        Base::Resource => {
            let base = format!("{0}.{0}", schema.name);
            types += &schema.structure("EntityType", schema.name, &base, schema.properties);
            text +=
                &namespace(schema.name, &(schema.abstraction("Resource.v1_0_0.Resource", true) + &schema.actions()));
        }
        Base::Collection => {
            text += &namespace(schema.name, &schema.abstraction("Resource.v1_0_0.ResourceCollection", false));
        }
    }
    if schema.base != Base::Collection {
        text += &namespace(&schema.namespace(), &types);
    }
    text + "  </edmx:DataServices>\n</edmx:Edmx>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::http::Method;
    use crate::testing::{Client, walk};
    use alloc::string::ToString;
    use serde_json::Value;
    use std::collections::BTreeMap;

    /// Returns the value of an attribute of an element.
    fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
        element.split_once(&format!(" {name}=\""))?.1.split('"').next()
    }

    /// Returns the properties of the types of a document, whose elements have to be balanced.
    fn types(document: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        let (mut open, mut types) = (std::vec::Vec::new(), BTreeMap::<_, BTreeMap<_, _>>::new());
        let (mut space, mut current) = (String::new(), String::new());
        for element in document.split('<').skip(2).filter_map(|rest| rest.split('>').next()) {
            let name = element.split([' ', '/']).next().unwrap();
            if let Some(name) = element.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
                continue;
            }
            if !element.ends_with('/') {
                open.push(name);
            }
            let word = |attribute_name| attribute(element, attribute_name).unwrap().into();
            match name {
                "Schema" => space = word("Namespace"),
                "EntityType" | "ComplexType" | "EnumType" => {
                    current = space.clone() + "." + &word("Name");
                    types.entry(current.clone()).or_default();
                }
                "Property" | "NavigationProperty" => {
                    types.get_mut(&current).unwrap().insert(word("Name"), word("Type"));
                }
                "Member" => drop(types.get_mut(&current).unwrap().insert(word("Name"), "Member".into())),
                _ => {}
            }
        }
        assert!(open.is_empty());
        types
    }

    fn fits(value: &Value, kind: &str, types: &BTreeMap<String, BTreeMap<String, String>>, place: &str) {
        let is_good = match kind {
            "Edm.String" | "Edm.DateTimeOffset" => value.is_string(),
            "Edm.Int64" => value.is_i64() || value.is_u64(),
            "Edm.Boolean" => value.is_boolean(),
            "Resource.Status" => value["State"].is_string(),
            kind if kind.starts_with("Collection(") => value.is_array(),
            kind => match types.get(kind) {
                Some(known) => match value {
                    Value::String(word) => known.get(word).is_some_and(|kind| kind == "Member"),
                    value => {
                        check(value, known, types, place);
                        true
                    }
                },
                None => value["@odata.id"].is_string(),
            },
        };
        assert!(is_good, "{place}: {value} is no {kind}");
    }

    fn check(
        value: &Value,
        known: &BTreeMap<String, String>,
        types: &BTreeMap<String, BTreeMap<String, String>>,
        place: &str,
    ) {
        for (name, value) in value.as_object().unwrap() {
            // What every resource has.
            if !name.contains('@') && !matches!(&**name, "Id" | "Name" | "Actions") {
                let kind = known.get(name).unwrap_or_else(|| panic!("{place}: {name} is in no schema"));
                fits(value, kind, types, place);
            }
        }
    }

    fn objects(value: &Value, seen: &mut impl FnMut(&str, &Value)) {
        match value {
            Value::Object(map) => {
                if let Some(kind) =
                    map.get("@odata.type").and_then(Value::as_str).filter(|kind| kind.starts_with("#Salp"))
                {
                    seen(&kind[1..], value);
                }
                map.values().for_each(|inner| objects(inner, seen));
            }
            Value::Array(items) => items.iter().for_each(|item| objects(item, seen)),
            _ => {}
        }
    }

    #[test]
    fn what_is_served_is_what_its_schema_says() {
        let mut client = Client::full();
        let metadata = String::from_utf8(client.get("/redfish/v1/$metadata").body).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for (path, value) in walk(&mut client) {
            objects(&value, &mut |kind, value| {
                let name = kind.split('.').next().unwrap();
                let document_path = super::path(name);
                assert!(metadata.contains(&format!("Uri=\"{document_path}\"")), "{document_path}");
                let mut reader = Client::new(Role::ReadOnly);
                let document = reader.get(&document_path);
                assert_eq!((document.status, document.get("Content-Type")), (200, Some("application/xml")));
                let types = types(str::from_utf8(&document.body).unwrap());
                let known = types.get(kind).unwrap_or_else(|| panic!("{kind} is not in {document_path}"));
                check(value, known, &types, &path);
                seen.insert(name.to_string());
            });
        }
        let all = SCHEMAS.iter().map(|schema| schema.name.to_string()).collect();
        assert_eq!(seen, all);
    }

    #[test]
    fn every_action_of_ours_is_in_a_schema() {
        let mut client = Client::full();
        for (path, value) in walk(&mut client) {
            for actions in [&value["Actions"], &value["Actions"]["Oem"]] {
                for name in
                    actions.as_object().into_iter().flat_map(|map| map.keys()).filter(|name| name.starts_with("#Salp"))
                {
                    let (schema, action) = name[1..].split_once('.').unwrap();
                    let known = SCHEMAS.iter().find(|known| known.name == schema).unwrap();
                    assert!(known.actions.iter().any(|(known, _)| *known == action), "{path}: {name}");
                }
            }
        }
    }

    #[test]
    fn what_a_schema_says_can_be_done_is_what_the_table_lets_be_done() {
        for schema in SCHEMAS.iter() {
            for uri in schema.uris {
                let path = uri.replace(['{', '}'], "");
                let (route, _) = crate::table::find(&path).unwrap();
                let can = [Method::Post, Method::Patch, Method::Delete].map(|method| route.method(method).is_some());
                assert_eq!(schema.can, can, "{uri}");
            }
        }
    }

    #[test]
    fn there_is_no_other_schema() {
        let mut client = Client::new(Role::ReadOnly);
        for name in ["", "SalpImage", "ComputerSystem_v1.xml", "SalpImage_v2.xml"] {
            assert_eq!(client.get(&format!("{SCHEMA_PATH}/{name}")).status, 404, "{name}");
        }
    }
}
