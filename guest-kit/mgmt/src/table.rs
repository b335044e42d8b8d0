//! Every path of this service: what can be done to it, who may, and the function that does it. Before:
//! [`service`](crate::service). After: [`resources`].
//!
//! `Allow`, 405, HEAD, rights and the answers to strangers all follow from this one table, and so do the published document
//! ([`openapi`](crate::openapi)) and the list in `docs/api.md` ([`listing`]); a resource that is not here does not exist.

use alloc::string::String;
use alloc::vec::Vec;

use crate::auth::Right::{self, ConfigureComponents, ConfigureManager, ConfigureSelf, Login, Open};
use crate::http::Method::{self, Delete, Get, Patch, Post, Put};
use crate::http::multipart::MULTIPART;
use crate::openapi;
use crate::resources::fields::{Field, NOTHING};
use crate::resources::{
    Handler, accounts, aggregation, boot, certificates, clones, console, events, hardware, images, logs, making,
    managers, media, metrics, network, nics, power, registries, root, schemas, sessions, snapshots, software, systems,
    tasks, telemetry, updates,
};

/// One path.
pub struct Route {
    /// The path without a slash at its end; `{}` stands for one segment.
    pub pattern: &'static str,
    /// What can be done to it.
    pub methods: &'static [(Method, Right, Handler)],
    /// The name of the schema of what GET answers; none if that is no resource.
    pub kind: &'static str,
    /// What it is, for people.
    pub summary: &'static str,
    /// What bodies hold, of methods that take JSON.
    pub takes: &'static [(Method, &'static [Field])],
    /// What a method answers besides what every method may ([`openapi`](crate::openapi)), where that is not what follows from
    /// the method.
    pub answers: &'static [(Method, &'static [u16])],
    /// Media types of what is read, and of what is written where that is no JSON.
    pub media: &'static [&'static str],
    /// What a method is told besides the body, where that is not the same everywhere.
    pub parameters: &'static [(Method, Place, Field)],
}

/// Where a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the query.
    Query,
    /// In a field of the head.
    Header,
}

/// A path of which nothing is said.
pub const ROUTE: Route = Route {
    pattern: "",
    methods: &[],
    kind: "",
    summary: "",
    takes: &[],
    answers: &[],
    media: &[JSON],
    parameters: &[],
};

/// The media type of resources.
pub const JSON: &str = "application/json";
const XML: &str = "application/xml";
const TEXT: &str = "text/plain";
/// The media type of an answer that does not end.
pub const EVENTS: &str = "text/event-stream";

/// The greatest number of `{}` in a pattern.
pub const MAX_VARIABLES: usize = 2;

/// One account, which its user may always change.
pub const ACCOUNT: &str = "/redfish/v1/AccountService/Accounts/{}";
/// One session, which its user may always end.
pub const SESSION: &str = "/redfish/v1/SessionService/Sessions/{}";

/// All paths.
pub const ROUTES: &[Route] = &[
    Route {
        pattern: "/redfish",
        methods: &[(Get, Open, root::versions)],
        summary: "where versions of the API are",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1",
        methods: &[(Get, Open, root::root)],
        kind: "ServiceRoot",
        summary: "the root",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/odata",
        methods: &[(Get, Open, root::odata)],
        summary: "the OData service document",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/$metadata",
        methods: &[(Get, Open, root::metadata)],
        summary: "the OData metadata document, XML",
        media: &[XML],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/openapi.yaml",
        methods: &[(Get, Open, root::openapi)],
        summary: "this table as an OpenAPI 3.1 document",
        media: &[openapi::MEDIA],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Schemas/{}",
        methods: &[(Get, Login, schemas::schema)],
        summary: "CSDL of what only Salp has, XML",
        media: &[XML],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/SessionService",
        methods: &[(Get, Login, sessions::service), (Patch, ConfigureManager, sessions::patch_service)],
        kind: "SessionService",
        summary: "`SessionTimeout`, 30 to 86,400 s",
        takes: &[(Patch, sessions::SERVICE_FIELDS)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/SessionService/Sessions",
        methods: &[(Get, Login, sessions::list), (Post, Open, sessions::create)],
        kind: "SessionCollection",
        summary: "sessions: POST logs in",
        takes: &[(Post, sessions::LOGIN)],
        answers: &[(Post, &[201, 503])],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/SessionService/Sessions/Members",
        methods: &[(Post, Open, sessions::create)],
        summary: "the same",
        takes: &[(Post, sessions::LOGIN)],
        answers: &[(Post, &[201, 503])],
        ..ROUTE
    },
    Route {
        pattern: SESSION,
        methods: &[(Get, ConfigureSelf, sessions::session), (Delete, ConfigureSelf, sessions::delete)],
        kind: "Session",
        summary: "a session: DELETE logs out",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/AccountService",
        methods: &[(Get, Login, accounts::service), (Patch, ConfigureManager, accounts::patch_service)],
        kind: "AccountService",
        summary: "length of passwords, lock-out: see below",
        takes: &[(Patch, accounts::SERVICE_FIELDS)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/AccountService/Accounts",
        methods: &[(Get, ConfigureManager, accounts::list), (Post, ConfigureManager, accounts::create)],
        kind: "ManagerAccountCollection",
        summary: "accounts; at most 64",
        takes: &[(Post, accounts::NEW_ACCOUNT)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/AccountService/Accounts/Members",
        methods: &[(Post, ConfigureManager, accounts::create)],
        summary: "the same",
        takes: &[(Post, accounts::NEW_ACCOUNT)],
        ..ROUTE
    },
    Route {
        pattern: ACCOUNT,
        methods: &[
            (Get, ConfigureSelf, accounts::account),
            (Patch, ConfigureSelf, accounts::patch),
            (Delete, ConfigureManager, accounts::delete),
        ],
        kind: "ManagerAccount",
        summary: "an account; everybody may change the own password",
        takes: &[(Patch, accounts::ACCOUNT_FIELDS)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/AccountService/Roles",
        methods: &[(Get, Login, accounts::roles)],
        kind: "RoleCollection",
        summary: "Administrator, Operator, ReadOnly",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/AccountService/Roles/{}",
        methods: &[(Get, Login, accounts::role)],
        kind: "Role",
        summary: "what a role may",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers",
        methods: &[(Get, Login, managers::list)],
        kind: "ManagerCollection",
        summary: "the host, and nothing else",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp",
        methods: &[(Get, Login, managers::salp), (Patch, ConfigureManager, managers::patch)],
        kind: "Manager",
        summary: "the host; memory of the machine; `DateTime` sets the clock, `ActiveSoftwareImage` goes back",
        takes: &[(Patch, managers::FIELDS)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/NetworkProtocol",
        methods: &[(Get, Login, network::protocol), (Patch, ConfigureManager, network::patch_protocol)],
        kind: "ManagerNetworkProtocol",
        summary: "what is spoken; `HostName`, `NTP`",
        takes: &[(Patch, network::PROTOCOL_FIELDS)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/Actions/Manager.Reset",
        methods: &[(Post, ConfigureManager, managers::reset)],
        summary: "`ResetType`: see below",
        takes: &[(Post, managers::RESET)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/NetworkProtocol/HTTPS/Certificates",
        methods: &[(Get, Login, certificates::list)],
        kind: "CertificateCollection",
        summary: "with which certificate",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/NetworkProtocol/HTTPS/Certificates/1",
        methods: &[(Get, Login, certificates::certificate)],
        kind: "Certificate",
        summary: "the certificate",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/EthernetInterfaces",
        methods: &[(Get, Login, network::list)],
        kind: "EthernetInterfaceCollection",
        summary: "NICs of the management guest",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/EthernetInterfaces/{}",
        methods: &[(Get, Login, network::nic), (Patch, ConfigureManager, network::patch)],
        kind: "EthernetInterface",
        summary: "one of them; the addresses of the first",
        takes: &[(Patch, network::FIELDS)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/CertificateService",
        methods: &[(Get, Login, certificates::service)],
        kind: "CertificateService",
        summary: "what can be done with certificates",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/CertificateService/CertificateLocations",
        methods: &[(Get, Login, certificates::locations)],
        kind: "CertificateLocations",
        summary: "where certificates are",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/CertificateService/Actions/CertificateService.GenerateCSR",
        methods: &[(Post, ConfigureManager, certificates::generate)],
        summary: "see below",
        takes: &[(Post, certificates::REQUEST)],
        answers: &[(Post, &[200])],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/CertificateService/Actions/CertificateService.ReplaceCertificate",
        methods: &[(Post, ConfigureManager, certificates::replace)],
        summary: "see below",
        takes: &[(Post, certificates::REPLACEMENT)],
        answers: &[(Post, &[200])],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/LogServices",
        methods: &[(Get, Login, logs::of_manager)],
        kind: "LogServiceCollection",
        summary: "logs of the host",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/LogServices/Audit",
        methods: &[(Get, ConfigureManager, logs::audit)],
        kind: "LogService",
        summary: "who changed what",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/LogServices/Audit/Entries",
        methods: &[(Get, ConfigureManager, logs::audit_entries)],
        kind: "LogEntryCollection",
        summary: "its entries",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/LogServices/Audit/Entries/{}",
        methods: &[(Get, ConfigureManager, logs::audit_entry)],
        kind: "LogEntry",
        summary: "one of them",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/UpdateService",
        methods: &[(Get, Login, updates::service)],
        kind: "UpdateService",
        summary: "updates of the machine's image",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/UpdateService/update-multipart",
        methods: &[(Post, ConfigureManager, updates::push)],
        summary: "a bundle, as a form: see below",
        answers: &[(Post, &[202, 503])],
        media: &[MULTIPART],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/UpdateService/Actions/UpdateService.SimpleUpdate",
        methods: &[(Post, ConfigureManager, updates::simple)],
        summary: "fetches a bundle",
        takes: &[(Post, updates::SIMPLE_UPDATE)],
        answers: &[(Post, &[202, 503])],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/UpdateService/Actions/UpdateService.StartUpdate",
        methods: &[(Post, ConfigureManager, updates::start)],
        summary: "starts what is staged",
        takes: &[(Post, NOTHING)],
        answers: &[(Post, &[202, 503])],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/UpdateService/Actions/UpdateService.Activate",
        methods: &[(Post, ConfigureManager, updates::activate)],
        summary: "lets the next reset start an image",
        takes: &[(Post, updates::TARGETS)],
        answers: &[(Post, &[200, 503])],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/UpdateService/FirmwareInventory",
        methods: &[(Get, Login, software::firmware)],
        kind: "SoftwareInventoryCollection",
        summary: "images of the machine",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/UpdateService/FirmwareInventory/{}",
        methods: &[(Get, Login, software::image)],
        kind: "SoftwareInventory",
        summary: "the image in a slot: version, digest, whether it runs or waits",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/UpdateService/SoftwareInventory",
        methods: &[(Get, Login, software::software)],
        kind: "SoftwareInventoryCollection",
        summary: "what else there is",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/UpdateService/SoftwareInventory/{}",
        methods: &[(Get, Login, software::guest)],
        kind: "SoftwareInventory",
        summary: "the management guest",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Chassis",
        methods: &[(Get, Login, hardware::chassis_list)],
        kind: "ChassisCollection",
        summary: "the machine, and nothing else",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Chassis/1",
        methods: &[(Get, Login, hardware::chassis)],
        kind: "Chassis",
        summary: "the host's, for who looks there",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Registries",
        methods: &[(Get, Login, registries::list)],
        kind: "MessageRegistryFileCollection",
        summary: "registries of messages",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Registries/{}",
        methods: &[(Get, Login, registries::registry)],
        kind: "MessageRegistryFile",
        summary: "where one is published",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/JsonSchemas",
        methods: &[(Get, Login, registries::files)],
        kind: "JsonSchemaFileCollection",
        summary: "types of resources",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/JsonSchemas/{}",
        methods: &[(Get, Login, registries::file)],
        kind: "JsonSchemaFile",
        summary: "where one is published",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/EventService",
        methods: &[(Get, Login, events::service), (Patch, ConfigureManager, events::patch_service)],
        kind: "EventService",
        summary: "events: how often it is tried to reach listeners",
        takes: &[(Patch, events::SERVICE_FIELDS)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/EventService/SSE",
        methods: &[(Get, Login, events::stream)],
        summary: "events as they come (SSE)",
        media: &[EVENTS],
        answers: &[(Get, &[200, 503])],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/EventService/Actions/EventService.SubmitTestEvent",
        methods: &[(Post, ConfigureManager, events::test)],
        summary: "sends one",
        takes: &[(Post, events::TEST_EVENT)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/EventService/Subscriptions",
        methods: &[(Get, Login, events::list), (Post, ConfigureComponents, events::create)],
        kind: "EventDestinationCollection",
        summary: "listeners that events are sent to, and those that are connected",
        takes: &[(Post, events::SUBSCRIPTION)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/EventService/Subscriptions/Members",
        methods: &[(Post, ConfigureComponents, events::create)],
        summary: "the same",
        takes: &[(Post, events::SUBSCRIPTION)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/EventService/Subscriptions/{}",
        methods: &[
            (Get, Login, events::subscription),
            (Patch, ConfigureComponents, events::patch),
            (Delete, ConfigureComponents, events::delete),
        ],
        kind: "EventDestination",
        summary: "one of them",
        takes: &[(Patch, events::CHANGES)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/EventService/Subscriptions/{}/Actions/EventDestination.SuspendSubscription",
        methods: &[(Post, ConfigureComponents, events::suspend)],
        summary: "nothing is sent until it is resumed",
        takes: &[(Post, NOTHING)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/EventService/Subscriptions/{}/Actions/EventDestination.ResumeSubscription",
        methods: &[(Post, ConfigureComponents, events::resume)],
        summary: "goes on, with what was missed if that is wanted",
        takes: &[(Post, events::RESUMPTION)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/EventService/Subscriptions/{}/Certificates",
        methods: &[(Get, Login, events::list_certificates), (Post, ConfigureComponents, events::add_certificate)],
        kind: "CertificateCollection",
        summary: "whom a subscription trusts",
        takes: &[(Post, events::CERTIFICATE)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/EventService/Subscriptions/{}/Certificates/{}",
        methods: &[(Get, Login, events::certificate), (Delete, ConfigureComponents, events::remove_certificate)],
        kind: "Certificate",
        summary: "one of them",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TaskService",
        methods: &[(Get, Login, tasks::service)],
        kind: "TaskService",
        summary: "what takes longer than a request",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TaskService/Tasks",
        methods: &[(Get, Login, tasks::list)],
        kind: "TaskCollection",
        summary: "tasks",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TaskService/Tasks/{}",
        methods: &[(Get, Login, tasks::task), (Delete, ConfigureComponents, tasks::delete)],
        kind: "Task",
        summary: "a task: DELETE cancels it, or forgets it",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TaskService/TaskMonitors/{}",
        methods: &[(Get, Login, tasks::monitor), (Delete, ConfigureComponents, tasks::delete)],
        summary: "202 while it goes on, then the operation's own answer",
        answers: &[(Get, &[200, 201, 202, 204, 500, 507])],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/AggregationService",
        methods: &[(Get, Login, aggregation::service)],
        kind: "AggregationService",
        summary: "the same for many VMs",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/AggregationService/Actions/AggregationService.Reset",
        methods: &[(Post, ConfigureComponents, aggregation::reset)],
        summary: "power of many VMs",
        takes: &[(Post, aggregation::RESET_MANY)],
        answers: &[(Post, &[202, 503])],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/AggregationService/Actions/Oem/SalpAggregationService.DeleteSystems",
        methods: &[(Post, ConfigureComponents, aggregation::delete)],
        summary: "deletes many VMs",
        takes: &[(Post, aggregation::DELETE_MANY)],
        answers: &[(Post, &[202, 503])],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TelemetryService",
        methods: &[(Get, Login, telemetry::service)],
        kind: "TelemetryService",
        summary: "what is counted and measured",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TelemetryService/Actions/TelemetryService.SubmitTestMetricReport",
        methods: &[(Post, ConfigureManager, telemetry::test)],
        summary: "sends one",
        takes: &[(Post, telemetry::TEST_REPORT)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TelemetryService/MetricDefinitions",
        methods: &[(Get, Login, telemetry::metrics)],
        kind: "MetricDefinitionCollection",
        summary: "metrics",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TelemetryService/MetricDefinitions/{}",
        methods: &[(Get, Login, telemetry::metric)],
        kind: "MetricDefinition",
        summary: "one of them",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TelemetryService/MetricReportDefinitions",
        methods: &[(Get, Login, telemetry::definitions), (Post, ConfigureManager, telemetry::create_definition)],
        kind: "MetricReportDefinitionCollection",
        summary: "reports on request or again and again",
        takes: &[(Post, telemetry::DEFINITION)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TelemetryService/MetricReportDefinitions/Members",
        methods: &[(Post, ConfigureManager, telemetry::create_definition)],
        summary: "the same",
        takes: &[(Post, telemetry::DEFINITION)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TelemetryService/MetricReportDefinitions/{}",
        methods: &[
            (Get, Login, telemetry::definition),
            (Patch, ConfigureManager, telemetry::patch_definition),
            (Delete, ConfigureManager, telemetry::delete_definition),
        ],
        kind: "MetricReportDefinition",
        summary: "one of them",
        takes: &[(Patch, telemetry::DEFINITION_CHANGES)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TelemetryService/MetricReports",
        methods: &[(Get, Login, telemetry::reports)],
        kind: "MetricReportCollection",
        summary: "reports",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TelemetryService/MetricReports/{}",
        methods: &[(Get, Login, telemetry::one_report)],
        kind: "MetricReport",
        summary: "one of them, made now if it is on request",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TelemetryService/Triggers",
        methods: &[(Get, Login, telemetry::triggers), (Post, ConfigureManager, telemetry::create_trigger)],
        kind: "TriggersCollection",
        summary: "thresholds",
        takes: &[(Post, telemetry::TRIGGER)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TelemetryService/Triggers/Members",
        methods: &[(Post, ConfigureManager, telemetry::create_trigger)],
        summary: "the same",
        takes: &[(Post, telemetry::TRIGGER)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/TelemetryService/Triggers/{}",
        methods: &[
            (Get, Login, telemetry::trigger),
            (Patch, ConfigureManager, telemetry::patch_trigger),
            (Delete, ConfigureManager, telemetry::delete_trigger),
        ],
        kind: "Triggers",
        summary: "one of them",
        takes: &[(Patch, telemetry::TRIGGER_CHANGES)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Registries/{}/{}",
        methods: &[(Get, Login, registries::messages)],
        summary: "messages that only Salp has",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/LogServices/Hypervisor",
        methods: &[(Get, Login, logs::hypervisor)],
        kind: "LogService",
        summary: "EL2's own log",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/LogServices/Hypervisor/Actions/LogService.ClearLog",
        methods: &[(Post, ConfigureManager, logs::clear_hypervisor)],
        summary: "forgets what is older",
        takes: &[(Post, NOTHING)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/LogServices/Hypervisor/Entries",
        methods: &[(Get, Login, logs::hypervisor_entries)],
        kind: "LogEntryCollection",
        summary: "its lines",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Managers/salp/LogServices/Hypervisor/Entries/{}",
        methods: &[(Get, Login, logs::hypervisor_entry)],
        kind: "LogEntry",
        summary: "one of them",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Chassis/1/Processors",
        methods: &[(Get, Login, hardware::cpus)],
        kind: "ProcessorCollection",
        summary: "the machine's CPUs",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Chassis/1/Processors/{}",
        methods: &[(Get, Login, hardware::cpu)],
        kind: "Processor",
        summary: "one of them",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Chassis/1/Memory",
        methods: &[(Get, Login, hardware::machine_memories)],
        kind: "MemoryCollection",
        summary: "the machine's RAM, in one entry",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Chassis/1/Memory/1",
        methods: &[(Get, Login, hardware::machine_memory)],
        kind: "Memory",
        summary: "that entry",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems",
        methods: &[(Get, Login, systems::list), (Post, ConfigureComponents, making::create)],
        kind: "ComputerSystemCollection",
        summary: "VMs; the management guest is not one",
        takes: &[(Post, making::NEW_SYSTEM)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}",
        methods: &[
            (Get, Login, systems::system),
            (Patch, ConfigureComponents, making::patch),
            (Delete, ConfigureComponents, systems::delete),
        ],
        kind: "ComputerSystem",
        summary: "a VM; PATCH while it is off",
        takes: &[(Patch, making::SYSTEM)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Actions/ComputerSystem.Reset",
        methods: &[(Post, ConfigureComponents, power::reset)],
        summary: "`ResetType`: see below",
        takes: &[(Post, power::RESET)],
        answers: &[(Post, &[202, 204, 503])],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Actions/Oem/SalpComputerSystem.InstantClone",
        methods: &[(Post, ConfigureComponents, clones::instant_clone)],
        summary: "`Name`, `Count`, `Config`, `UUID`, `NicsToUpdate`, `DisconnectAllNics`",
        takes: &[(Post, clones::CLONE)],
        answers: &[(Post, &[201, 202, 503])],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Actions/Oem/SalpComputerSystem.Freeze",
        methods: &[(Post, ConfigureComponents, power::freeze)],
        summary: "the same as Pause",
        takes: &[(Post, NOTHING)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Actions/Oem/SalpComputerSystem.Unfreeze",
        methods: &[(Post, ConfigureComponents, power::unfreeze)],
        summary: "the same as Resume",
        takes: &[(Post, NOTHING)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Actions/Oem/SalpComputerSystem.Snapshot",
        methods: &[(Post, ConfigureComponents, clones::snapshot)],
        summary: "`Name`",
        takes: &[(Post, clones::SNAPSHOT)],
        answers: &[(Post, &[201])],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Actions/Oem/SalpComputerSystem.Revert",
        methods: &[(Post, ConfigureComponents, clones::revert)],
        summary: "`Snapshot`: a link",
        takes: &[(Post, clones::REVERT)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Processors",
        methods: &[(Get, Login, hardware::processors)],
        kind: "ProcessorCollection",
        summary: "vCPUs, in one entry",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Processors/1",
        methods: &[(Get, Login, hardware::processor)],
        kind: "Processor",
        summary: "that entry",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Memory",
        methods: &[(Get, Login, hardware::memories)],
        kind: "MemoryCollection",
        summary: "RAM, in one entry",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Memory/1",
        methods: &[(Get, Login, hardware::memory)],
        kind: "Memory",
        summary: "that entry",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/LogServices",
        methods: &[(Get, Login, logs::of_system)],
        kind: "LogServiceCollection",
        summary: "logs of a VM",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/LogServices/Console",
        methods: &[(Get, Login, logs::console)],
        kind: "LogService",
        summary: "the kept console, line by line",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/BootOptions",
        methods: &[(Get, Login, boot::options)],
        kind: "BootOptionCollection",
        summary: "what a VM can start from",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/BootOptions/{}",
        methods: &[(Get, Login, boot::option)],
        kind: "BootOption",
        summary: "one of them",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/VirtualMedia",
        methods: &[(Get, Login, media::list)],
        kind: "VirtualMediaCollection",
        summary: "drives of a VM",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/VirtualMedia/{}",
        methods: &[(Get, Login, media::drive)],
        kind: "VirtualMedia",
        summary: "one drive",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/VirtualMedia/{}/Actions/VirtualMedia.InsertMedia",
        methods: &[(Post, ConfigureComponents, media::insert)],
        summary: "puts a medium into it",
        takes: &[(Post, media::INSERT)],
        answers: &[(Post, &[202, 204, 503])],
        parameters: &[tasks::PREFERENCE],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/VirtualMedia/{}/Actions/VirtualMedia.EjectMedia",
        methods: &[(Post, ConfigureComponents, media::eject)],
        summary: "takes it out",
        takes: &[(Post, NOTHING)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/LogServices/Console/Entries",
        methods: &[(Get, Login, logs::console_entries)],
        kind: "LogEntryCollection",
        summary: "its lines",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/LogServices/Console/Entries/{}",
        methods: &[(Get, Login, logs::console_entry)],
        kind: "LogEntry",
        summary: "one of them",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/LogServices/Events",
        methods: &[(Get, Login, logs::events)],
        kind: "LogService",
        summary: "changes of its state, as seen here",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/LogServices/Events/Entries",
        methods: &[(Get, Login, logs::event_entries)],
        kind: "LogEntryCollection",
        summary: "its entries",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/LogServices/Events/Entries/{}",
        methods: &[(Get, Login, logs::event_entry)],
        kind: "LogEntry",
        summary: "one of them",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/EthernetInterfaces",
        methods: &[(Get, Login, nics::list)],
        kind: "EthernetInterfaceCollection",
        summary: "NICs of a VM",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/EthernetInterfaces/{}",
        methods: &[(Get, Login, nics::nic), (Patch, ConfigureComponents, nics::patch)],
        kind: "EthernetInterface",
        summary: "`InterfaceEnabled`, `VLAN`, segment and rate",
        takes: &[(Patch, nics::FIELDS)],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Oem/Salp/Console",
        methods: &[(Get, Login, console::read), (Post, ConfigureComponents, console::write)],
        summary: "read, follow, type; WebSocket",
        answers: &[(Get, &[101, 200, 426]), (Post, &[200])],
        media: &[TEXT],
        parameters: console::PARAMETERS,
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Systems/{}/Oem/Salp/Memory",
        methods: &[(Get, Login, systems::memory)],
        kind: "SalpMemory",
        summary: "private, shared, saved bytes, counted now",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Oem/Salp/Images",
        methods: &[(Get, Login, images::list), (Post, ConfigureComponents, images::fetch)],
        kind: "SalpImageCollection",
        summary: "what VMs are made from; POST fetches one, as a task",
        takes: &[(Post, images::FETCHED)],
        answers: &[(Post, &[202, 503])],
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Oem/Salp/Images/{}",
        methods: &[
            (Get, Login, images::image),
            (Put, ConfigureComponents, images::put),
            (Patch, ConfigureComponents, images::patch),
            (Delete, ConfigureComponents, images::delete),
        ],
        kind: "SalpImage",
        summary: "bytes, whole or in parts",
        answers: &[(Put, &[201, 202, 411, 413, 416]), (Patch, &[201, 202, 411, 413, 416])],
        parameters: images::PARAMETERS,
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Oem/Salp/Snapshots",
        methods: &[(Get, Login, snapshots::list)],
        kind: "SalpSnapshotCollection",
        summary: "snapshots",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Oem/Salp/Snapshots/{}",
        methods: &[(Get, Login, snapshots::snapshot), (Delete, ConfigureComponents, snapshots::delete)],
        kind: "SalpSnapshot",
        summary: "a snapshot; it may outlive its VM",
        ..ROUTE
    },
    Route {
        pattern: "/redfish/v1/Oem/Salp/Snapshots/{}/Actions/SalpSnapshot.InstantClone",
        methods: &[(Post, ConfigureComponents, snapshots::instant_clone)],
        summary: "as for a VM",
        takes: &[(Post, clones::CLONE)],
        answers: &[(Post, &[201, 202, 503])],
        ..ROUTE
    },
    Route {
        pattern: "/metrics",
        methods: &[(Get, Login, metrics::metrics)],
        summary: "for Prometheus: OpenMetrics to who accepts it, else its text format",
        media: &[TEXT, metrics::OPEN_METRICS],
        ..ROUTE
    },
    Route { pattern: "/healthz", methods: &[(Get, Open, metrics::health)], summary: "`ok`", media: &[TEXT], ..ROUTE },
];

/// The segments of a path that stand where a pattern has `{}`.
pub type Variables<'a> = [&'a str; MAX_VARIABLES];

/// Returns the route of a path.
pub fn find(path: &str) -> Option<(&'static Route, Variables<'_>)> {
    let path = path.strip_suffix('/').unwrap_or(path);
    ROUTES.iter().find_map(|route| matches(route.pattern, path).map(|variables| (route, variables)))
}

/// What nearly all paths begin with; no pattern has a variable in it.
const ROOT: &str = "/redfish/v1/";

fn matches<'a>(pattern: &str, path: &'a str) -> Option<Variables<'a>> {
    // Most differ in the first letter below the root already.
    let (expected, byte) = (pattern.as_bytes().get(ROOT.len()), path.as_bytes().get(ROOT.len()));
    if expected.is_some_and(|&expected| expected != b'{') && expected != byte {
        return None;
    }
    // Nearly all differ before the first variable.
    let difference = pattern.bytes().zip(path.bytes()).find(|(expected, byte)| expected != byte);
    if difference.is_some_and(|(expected, _)| expected != b'{') {
        return None;
    }
    let mut variables = [""; MAX_VARIABLES];
    let (mut free, mut segments) = (variables.iter_mut(), path.split('/'));
    for expected in pattern.split('/') {
        let segment = segments.next()?;
        if expected == "{}" {
            *free.next()? = segment;
        } else if expected != segment {
            return None;
        }
    }
    segments.next().is_none().then_some(variables)
}

impl Route {
    /// Returns who may do `method` to it and the function, if it can be done; HEAD is GET.
    pub fn method(&self, method: Method) -> Option<(Right, Handler)> {
        let method = if method == Method::Head { Get } else { method };
        self.methods.iter().find(|(known, ..)| *known == method).map(|&(_, right, handler)| (right, handler))
    }

    /// Returns the value of `Allow`.
    pub fn allow(&self) -> String {
        let mut allow = String::new();
        for (method, ..) in self.methods {
            let words = if *method == Get { "GET, HEAD" } else { &alloc::format!("{method}") };
            allow.push_str(if allow.is_empty() { "" } else { ", " });
            allow.push_str(words);
        }
        allow
    }
}

/// Returns the name of the variable behind a segment: `SystemId` behind `Systems`, `PartId` behind another variable.
fn variable(segment: &str) -> String {
    let segment = if segment == "{}" { "Parts" } else { segment };
    let one = match segment.strip_suffix("ies") {
        Some(stem) => String::from(stem) + "y",
        None => String::from(segment.strip_suffix('s').unwrap_or(segment)),
    };
    one + "Id"
}

impl Route {
    /// Returns the names of the variables of the pattern.
    pub fn variables(&self) -> Vec<String> {
        let segments: Vec<&str> = self.pattern.split('/').collect();
        segments.windows(2).filter(|pair| pair[1] == "{}").map(|pair| variable(pair[0])).collect()
    }

    /// Returns the pattern with names in it.
    pub fn path(&self) -> String {
        let fill = |path: String, name: String| path.replacen("{}", &alloc::format!("{{{name}}}"), 1);
        self.variables().into_iter().fold(self.pattern.into(), fill)
    }
}

/// Returns the table for people, in Markdown: paths, what can be done, by whom, and what it is.
pub fn listing() -> String {
    let mut text = String::from("| path | methods | schema | |\n|---|---|---|---|\n");
    for route in ROUTES {
        let methods: Vec<String> = route
            .methods
            .iter()
            .map(|(method, right, _)| {
                let who = match right {
                    Open => " (everybody)",
                    Login | ConfigureSelf => "",
                    ConfigureComponents => " (Operator)",
                    ConfigureManager => " (Administrator)",
                };
                alloc::format!("{method}{who}")
            })
            .collect();
        let (path, methods, kind, summary) = (route.path(), methods.join(", "), route.kind, route.summary);
        text += &alloc::format!("| `{path}` | {methods} | {kind} | {summary} |\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::testing::{Client, concrete, walk};
    use alloc::collections::BTreeMap;
    use serde_json::Value;

    const METHODS: [Method; 7] = [Get, Method::Head, Post, Patch, Put, Delete, Method::Other];

    #[test]
    fn no_variable_is_so_early_that_paths_are_compared_wrongly() {
        assert!(ROUTES.iter().all(|route| route.pattern.find('{').is_none_or(|at| at >= ROOT.len())));
        assert!(ROUTES.iter().all(|route| find(&route.pattern.replace("{}", "x")).is_some()));
    }

    #[test]
    fn a_fixed_path_comes_before_one_with_a_variable() {
        let (route, _) = find("/redfish/v1/SessionService/Sessions/Members").unwrap();
        assert_eq!(route.allow(), "POST");
        let (route, [id, _]) = find("/redfish/v1/SessionService/Sessions/x/").unwrap();
        assert_eq!((route.allow().as_str(), id), ("GET, HEAD, DELETE", "x"));
    }

    #[test]
    fn no_pattern_hides_a_later_one() {
        for (index, route) in ROUTES.iter().enumerate() {
            let hides = |earlier: &&Route| matches(earlier.pattern, route.pattern).is_some();
            assert!(ROUTES[..index].iter().find(hides).is_none(), "{}", route.pattern);
        }
    }

    /// Returns a client of a service that has one of everything, and what there is.
    fn client(role: Option<Role>) -> (Client, BTreeMap<String, Value>) {
        let mut client = Client::full();
        let all = walk(&mut client);
        match role {
            Some(role) => client.become_user("somebody", role),
            None => client.log_out(),
        }
        (client, all)
    }

    #[test]
    fn everybody_may_what_the_table_says_and_nothing_else() {
        for role in [None, Some(Role::ReadOnly), Some(Role::Operator), Some(Role::Administrator)] {
            let (mut client, mut all) = self::client(role);
            for (route, method) in ROUTES.iter().flat_map(|route| METHODS.map(|method| (route, method))) {
                let path = concrete(route, &all);
                let body = if matches!(method, Get | Method::Head) { "" } else { "{}" };
                let status = client.send(&client.request(method, &path, body)).status;
                let place = alloc::format!("{role:?} {method} {path}: {status}");
                match (role, route.method(method).map(|(right, _)| right)) {
                    (_, Some(Open)) => assert!(!matches!(status, 401 | 403 | 405), "{place}"),
                    (None, _) => assert_eq!(status, 401, "{place}"),
                    (Some(_), None) => assert_eq!(status, 405, "{place}"),
                    // What is there is somebody else's.
                    (Some(role), Some(ConfigureSelf)) if role != Role::Administrator => {
                        assert_eq!(status, 403, "{place}");
                    }
                    (Some(role), Some(right)) if role.has(right) => {
                        assert!(!matches!(status, 401 | 403 | 405), "{place}");
                    }
                    (Some(_), Some(_)) => assert_eq!(status, 403, "{place}"),
                }
                if status < 300 && !body.is_empty() {
                    (client, all) = self::client(role);
                }
            }
        }
    }

    #[test]
    fn who_may_only_read_changes_nothing_but_what_is_the_own() {
        for route in ROUTES {
            for &(method, right, _) in route.methods {
                let is_own = [SESSION, ACCOUNT].contains(&route.pattern) || route.pattern.contains("/Sessions");
                let may = Role::ReadOnly.has(right);
                assert!(!may || method == Get || is_own, "{method} {}", route.pattern);
                let is_vm =
                    ["/redfish/v1/Systems", "/redfish/v1/Oem"].iter().any(|place| route.pattern.starts_with(place));
                assert!(!is_vm || Role::Operator.has(right), "{method} {}", route.pattern);
            }
        }
    }

    #[test]
    fn the_manual_lists_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md");
        let manual = std::fs::read_to_string(path).unwrap();
        let (begin, end) = ("<!-- table.rs -->\n", "<!-- end -->\n");
        let (before, rest) = manual.split_once(begin).unwrap();
        let (old, after) = rest.split_once(end).unwrap();
        if old != listing() && std::env::var_os("SALP_WRITE_DOCS").is_some() {
            std::fs::write(path, [before, begin, &listing(), end, after].concat()).unwrap();
            return;
        }
        assert!(old == listing(), "docs/api.md is stale: SALP_WRITE_DOCS=1 cargo test -p salp-mgmt the_manual");
    }

    #[test]
    fn variables_of_a_path_have_names_of_their_own() {
        for route in ROUTES {
            let names = route.variables();
            assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric())), "{names:?}");
            assert!(names.len() < 2 || names[0] != names[1], "{names:?}");
        }
    }

    #[test]
    fn other_paths_are_nothing() {
        for path in
            ["", "/", "//", "/redfish/v2", "/redfish/v1//", "/redfish/v1/Systems/1/", "/redfish//v1", "redfish/v1"]
        {
            assert_eq!(find(path).is_some(), path == "/redfish/v1/Systems/1/", "{path}");
        }
    }
}
