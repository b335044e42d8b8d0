//! Where clients begin: the root, the OData documents. Before: [`table`](crate::table). After: nothing.

use alloc::format;
use alloc::string::String;

use salp_json::json;

use super::{Call, Outcome, schemas, uuid};
use crate::message::Failure;
use crate::openapi;
use miniz_oxide::inflate::decompress_to_vec;

/// The document that the table makes: made beforehand, as that takes longer than a request may, and packed (RFC 1951) by build.rs.
const OPENAPI: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/openapi.deflate"));

/// Schemas of resources with their versions, and of collections without.
pub const SCHEMAS: &[(&str, &str)] = &[
    ("ServiceRoot", "v1_20_0"),
    ("SessionService", "v1_2_0"),
    ("SessionCollection", ""),
    ("AccountService", "v1_18_1"),
    ("ManagerAccountCollection", ""),
    ("ManagerAccount", "v1_14_1"),
    ("RoleCollection", ""),
    ("Role", "v1_3_3"),
    ("Session", "v1_8_0"),
    ("ManagerCollection", ""),
    ("Manager", "v1_24_0"),
    ("ComputerSystemCollection", ""),
    ("ComputerSystem", "v1_27_0"),
    ("EthernetInterfaceCollection", ""),
    ("EthernetInterface", "v1_12_4"),
    ("ManagerNetworkProtocol", "v1_12_0"),
    ("CertificateService", "v1_2_1"),
    ("CertificateLocations", "v1_0_4"),
    ("CertificateCollection", ""),
    ("Certificate", "v1_11_0"),
    ("ChassisCollection", ""),
    ("Chassis", "v1_28_0"),
    ("ProcessorCollection", ""),
    ("Processor", "v1_22_0"),
    ("MemoryCollection", ""),
    ("Memory", "v1_23_0"),
    ("BootOptionCollection", ""),
    ("BootOption", "v1_0_6"),
    ("VirtualMediaCollection", ""),
    ("VirtualMedia", "v1_6_5"),
    ("LogServiceCollection", ""),
    ("LogService", "v1_9_0"),
    ("LogEntryCollection", ""),
    ("LogEntry", "v1_21_0"),
    ("EventService", "v1_12_0"),
    ("EventDestinationCollection", ""),
    ("EventDestination", "v1_16_0"),
    ("Event", "v1_13_0"),
    ("TaskService", "v1_3_0"),
    ("TaskCollection", ""),
    ("Task", "v1_7_4"),
    ("Message", "v1_3_0"),
    ("AggregationService", "v1_0_3"),
    ("TelemetryService", "v1_4_1"),
    ("MetricDefinitionCollection", ""),
    ("MetricDefinition", "v1_3_5"),
    ("MetricReportDefinitionCollection", ""),
    ("MetricReportDefinition", "v1_4_7"),
    ("MetricReportCollection", ""),
    ("MetricReport", "v1_5_2"),
    ("TriggersCollection", ""),
    ("Triggers", "v1_4_0"),
    ("UpdateService", "v1_17_0"),
    ("SoftwareInventoryCollection", ""),
    ("SoftwareInventory", "v1_13_0"),
    ("Settings", "v1_4_0"),
    ("MessageRegistry", "v1_7_0"),
    ("MessageRegistryFileCollection", ""),
    ("MessageRegistryFile", "v1_1_5"),
    ("JsonSchemaFileCollection", ""),
    ("JsonSchemaFile", "v1_1_5"),
];

/// Answers `/redfish`.
pub fn versions(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Resource(json!({ "v1": "/redfish/v1/" })))
}

/// Answers the root.
pub fn root(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Resource(json!({
        "@odata.id": "/redfish/v1/",
        "@odata.type": "#ServiceRoot.v1_20_0.ServiceRoot",
        "Id": "RootService",
        "Name": "Salp",
        "RedfishVersion": "1.21.0",
        "UUID": uuid(&call.facts.uuid),
        "Vendor": "Salp",
        "Product": "Salp",
        "ProtocolFeaturesSupported": {
            "ExcerptQuery": false,
            "FilterQuery": true,
            "OnlyMemberQuery": true,
            "SelectQuery": true,
            "TopSkipQuery": true,
            "ExpandQuery": { "ExpandAll": true, "Levels": true, "Links": true, "NoLinks": true, "MaxLevels": 1 },
        },
        "Systems": { "@odata.id": "/redfish/v1/Systems" },
        "Managers": { "@odata.id": "/redfish/v1/Managers" },
        "Chassis": { "@odata.id": "/redfish/v1/Chassis" },
        "Registries": { "@odata.id": "/redfish/v1/Registries" },
        "JsonSchemas": { "@odata.id": "/redfish/v1/JsonSchemas" },
        "SessionService": { "@odata.id": "/redfish/v1/SessionService" },
        "AccountService": { "@odata.id": "/redfish/v1/AccountService" },
        "CertificateService": { "@odata.id": "/redfish/v1/CertificateService" },
        "EventService": { "@odata.id": "/redfish/v1/EventService" },
        "Tasks": { "@odata.id": "/redfish/v1/TaskService" },
        "AggregationService": { "@odata.id": "/redfish/v1/AggregationService" },
        "TelemetryService": { "@odata.id": "/redfish/v1/TelemetryService" },
        "UpdateService": { "@odata.id": "/redfish/v1/UpdateService" },
        "Links": { "Sessions": { "@odata.id": "/redfish/v1/SessionService/Sessions" } },
        "Oem": { "Salp": {
            "@odata.type": "#SalpServiceRoot.v1_0_0.SalpServiceRoot",
            "Images": { "@odata.id": "/redfish/v1/Oem/Salp/Images" },
            "Snapshots": { "@odata.id": "/redfish/v1/Oem/Salp/Snapshots" },
        } },
    })))
}

/// Answers the OData service document.
pub fn odata(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let children = [
        ("Service", "/redfish/v1/"),
        ("Systems", "/redfish/v1/Systems"),
        ("Managers", "/redfish/v1/Managers"),
        ("Chassis", "/redfish/v1/Chassis"),
        ("Registries", "/redfish/v1/Registries"),
        ("JsonSchemas", "/redfish/v1/JsonSchemas"),
        ("SessionService", "/redfish/v1/SessionService"),
        ("AccountService", "/redfish/v1/AccountService"),
        ("CertificateService", "/redfish/v1/CertificateService"),
        ("EventService", "/redfish/v1/EventService"),
        ("Tasks", "/redfish/v1/TaskService"),
        ("AggregationService", "/redfish/v1/AggregationService"),
        ("TelemetryService", "/redfish/v1/TelemetryService"),
        ("UpdateService", "/redfish/v1/UpdateService"),
        ("Sessions", "/redfish/v1/SessionService/Sessions"),
    ];
    let value = children.map(|(name, url)| json!({ "name": name, "kind": "Singleton", "url": url }));
    Ok(Outcome::Resource(json!({ "@odata.context": "/redfish/v1/$metadata", "value": value })))
}

/// Answers the metadata document: which schemas there are, and where they are kept.
pub fn metadata(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = String::from(concat!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
        "<edmx:Edmx xmlns:edmx=\"http://docs.oasis-open.org/odata/ns/edmx\" Version=\"4.0\">\n",
    ));
    for &(name, version) in SCHEMAS {
        body += &format!("  <edmx:Reference Uri=\"http://redfish.dmtf.org/schemas/v1/{name}_v1.xml\">\n");
        body += &format!("    <edmx:Include Namespace=\"{name}\"/>\n");
        if !version.is_empty() {
            body += &format!("    <edmx:Include Namespace=\"{name}.{version}\"/>\n");
        }
        body += "  </edmx:Reference>\n";
    }
    body += &schemas::references();
    body += concat!(
        "  <edmx:DataServices>\n",
        "    <Schema xmlns=\"http://docs.oasis-open.org/odata/ns/edm\" Namespace=\"Service\">\n",
        "      <EntityContainer Name=\"Service\" Extends=\"ServiceRoot.v1_20_0.ServiceContainer\"/>\n",
        "    </Schema>\n",
        "  </edmx:DataServices>\n",
        "</edmx:Edmx>\n",
    );
    Ok(Outcome::Text { kind: "application/xml", body })
}

/// Answers the description of this service for programs that read such.
pub fn openapi(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let body = decompress_to_vec(OPENAPI).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    body.map(|body| Outcome::Text { kind: openapi::MEDIA, body })
        .ok_or_else(|| Failure::because(500, "The document is damaged."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Client, walk};
    use alloc::string::ToString;

    #[test]
    fn the_published_document_is_that_of_the_table() {
        let (made, path) =
            (openapi::document().to_string(), concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json"));
        if std::env::var_os("SALP_WRITE_DOCS").is_some() {
            return std::fs::write(path, made).unwrap();
        }
        let served = Client::stranger().get("/redfish/v1/openapi.yaml").body;
        assert!(served == std::fs::read(path).unwrap(), "another document is served");
        assert!(
            made.as_bytes() == served,
            "docs/openapi.json is stale: SALP_WRITE_DOCS=1 cargo test -p salp-mgmt published"
        );
    }

    #[test]
    fn the_versions_are_exactly_what_the_standard_says() {
        assert_eq!(Client::stranger().get("/redfish").body, br#"{"v1":"/redfish/v1/"}"#);
    }

    #[test]
    fn the_root_is_the_same_with_and_without_a_slash() {
        let mut client = Client::stranger();
        assert_eq!(client.read("/redfish/v1"), client.read("/redfish/v1/"));
    }

    #[test]
    fn every_link_leads_somewhere_and_every_type_is_in_the_metadata() {
        let mut client = Client::full();
        let metadata = String::from_utf8(client.get("/redfish/v1/$metadata").body).unwrap();
        let all = walk(&mut client);
        for (path, value) in &all {
            assert_eq!(value["@odata.id"], **path);
            assert!(value["Name"].is_string(), "{path} has no name");
            let kind = value["@odata.type"].as_str().and_then(|kind| kind.rsplit_once('.')).unwrap().0;
            let namespace = format!("Namespace=\"{}\"", kind.trim_start_matches('#'));
            assert!(metadata.contains(&namespace), "{kind} of {path} is not in the metadata");
        }
        assert!(all.len() > 10, "{all:?}");
    }
}
