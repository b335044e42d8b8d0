//! Any JSON as the body of any request of somebody who may do everything: it is carried out, or refused and nothing has
//! changed; nothing is the server's fault.
#![no_main]

use libfuzzer_sys::{arbitrary, fuzz_target};
use salp_mgmt::auth::Role;
use salp_mgmt::fake::Fake;
use salp_mgmt::flow::Then;
use salp_mgmt::http::{Method, Request, Response, Serve};
use salp_mgmt::service::{Facts, Service};
use salp_mgmt::state::{KeptAccount, KeptSession};
use salp_mgmt::tls::certificate::Identity;
use salp_provider::entropy::Entropy;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words that are never the same twice, and nothing more.
#[derive(Debug)]
struct Counting;

impl Entropy for Counting {
    fn fill(&self, out: &mut [u8]) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        for piece in out.chunks_mut(8) {
            let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            piece.copy_from_slice(&number.to_be_bytes()[..piece.len()]);
        }
    }
}

#[derive(arbitrary::Arbitrary, Debug)]
enum Json {
    Null,
    Bool(bool),
    Integer(i64),
    Small(u8),
    Float(f64),
    Text(String),
    /// A text that means something somewhere.
    Word(u8),
    List(Vec<Json>),
    /// Properties: a name that is known, or any.
    Object(Vec<(Result<u8, String>, Json)>),
}

const WORDS: &[&str] = &[
    "new",
    "web",
    "base",
    "admin",
    "secret",
    "Administrator",
    "ReadOnly",
    "On",
    "ForceOff",
    "Pause",
    "Resume",
    "Always",
    "OnCrash",
    "lan",
    "52:54:00:00:00:99",
    "00112233-4455-4677-8899-aabbccddeeff",
    "/redfish/v1/Oem/Salp/Images/k",
    "/redfish/v1/Systems/2",
    "/redfish/v1/Oem/Salp/Snapshots/5",
    "key",
    "http://h/x",
    "OnChange",
    "PT5S",
    "SystemVcpus",
    "/redfish/v1/Managers/salp#/Oem/Salp/Statistics/FreeBytes",
    "RedfishEvent",
];

const NAMES: &[&str] = &[
    "Name",
    "ProcessorSummary",
    "Count",
    "MemorySummary",
    "TotalSystemMemoryGiB",
    "Oem",
    "Salp",
    "Kernel",
    "Initrd",
    "CommandLine",
    "RestartPolicy",
    "LoadAddress",
    "EntryAddress",
    "NetworkInterfaces",
    "Segment",
    "VLAN",
    "VLANId",
    "VLANEnable",
    "MACAddress",
    "RateBytesPerSecond",
    "NicsToUpdate",
    "Id",
    "Config",
    "Key",
    "Value",
    "UUID",
    "DisconnectAllNics",
    "InterfaceEnabled",
    "UserName",
    "Password",
    "RoleId",
    "Enabled",
    "Locked",
    "SessionTimeout",
    "ResetType",
    "Snapshot",
    "@odata.id",
    "TargetVMs",
    "Links",
    "ServiceEnabled",
    "Description",
    "NICs",
    "AssetTag",
    "Image",
    "ImageURI",
    "Kind",
    "TargetURIs",
    "Filter",
    "Destination",
    "Context",
    "HttpHeaders",
    "MetricReportDefinitionType",
    "Schedule",
    "RecurrenceInterval",
    "Metrics",
    "MetricId",
    "MetricProperties",
    "NumericThresholds",
    "UpperWarning",
    "Reading",
    "MetricReportName",
];

const TARGETS: &[(Method, &str)] = &[
    (Method::Post, "/redfish/v1/Systems"),
    (Method::Patch, "/redfish/v1/Systems/4"),
    (Method::Patch, "/redfish/v1/Systems/2"),
    (Method::Post, "/redfish/v1/Systems/2/Actions/Oem/SalpComputerSystem.InstantClone"),
    (Method::Post, "/redfish/v1/Systems/3/Actions/Oem/SalpComputerSystem.InstantClone"),
    (Method::Post, "/redfish/v1/Systems/2/Actions/Oem/SalpComputerSystem.Snapshot"),
    (Method::Post, "/redfish/v1/Systems/2/Actions/Oem/SalpComputerSystem.Revert"),
    (Method::Post, "/redfish/v1/Systems/4/Actions/ComputerSystem.Reset"),
    (Method::Post, "/redfish/v1/Systems/2/Actions/Oem/SalpComputerSystem.Freeze"),
    (Method::Patch, "/redfish/v1/Systems/2/EthernetInterfaces/0"),
    (Method::Post, "/redfish/v1/SessionService/Sessions"),
    (Method::Patch, "/redfish/v1/SessionService"),
    (Method::Patch, "/redfish/v1/AccountService/Accounts/admin"),
    (Method::Post, "/redfish/v1/Oem/Salp/Snapshots/5/Actions/SalpSnapshot.InstantClone"),
    (Method::Post, "/redfish/v1/SessionService/Sessions/Members"),
    (Method::Post, "/redfish/v1/Oem/Salp/Images"),
    (Method::Post, "/redfish/v1/Systems/2/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia"),
    (Method::Post, "/redfish/v1/EventService/Subscriptions"),
    (Method::Post, "/redfish/v1/EventService/Actions/EventService.SubmitTestEvent"),
    (Method::Post, "/redfish/v1/TelemetryService/MetricReportDefinitions"),
    (Method::Post, "/redfish/v1/TelemetryService/Triggers"),
    (Method::Post, "/redfish/v1/TelemetryService/Actions/TelemetryService.SubmitTestMetricReport"),
    (Method::Post, "/redfish/v1/AggregationService/Actions/AggregationService.Reset"),
    (Method::Post, "/redfish/v1/AggregationService/Actions/Oem/SalpAggregationService.DeleteSystems"),
];

/// What is looked at before and after.
const STATE: [&str; 5] = [
    "/redfish/v1/Systems?$expand=.",
    "/redfish/v1/Systems/2/EthernetInterfaces?$expand=.",
    "/redfish/v1/SessionService?$expand=*",
    "/redfish/v1/AccountService/Accounts?$expand=.",
    "/redfish/v1/Oem/Salp/Snapshots?$expand=.",
];

impl Json {
    fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(is_true) => out.push_str(if *is_true { "true" } else { "false" }),
            Self::Integer(number) => out.push_str(&number.to_string()),
            Self::Small(number) => out.push_str(&number.to_string()),
            Self::Float(number) => out.push_str(&format!("{number:e}")),
            Self::Text(text) => out.push_str(&quoted(text)),
            Self::Word(word) => out.push_str(&quoted(WORDS[usize::from(*word) % WORDS.len()])),
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(properties) => {
                out.push('{');
                for (index, (name, value)) in properties.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    let name =
                        name.as_ref().map_or_else(|any| &**any, |known| NAMES[usize::from(*known) % NAMES.len()]);
                    out.push_str(&quoted(name));
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// Returns a text as JSON has it.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out + "\""
}

/// A client that has logged in once, for all runs: passwords are slow.
struct Login {
    accounts: Vec<KeptAccount>,
    sessions: Vec<KeptSession>,
    token: String,
}

fn service() -> (Service, &'static str) {
    static LOGIN: OnceLock<Login> = OnceLock::new();
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    let new = || {
        let identity = IDENTITY.get_or_init(|| Identity::new(&Counting, 0, &["salp"], &[])).clone();
        Service::new(Box::<Fake>::default(), &Counting, identity, Facts { uuid: [0x11; 16], started: 0 })
    };
    let login = LOGIN.get_or_init(|| {
        let mut service = new();
        assert!(service.auth.set("admin", "secret", Role::Administrator));
        let (_, token) = service.auth.open("admin", "secret", 1000).expect("the password").expect("room");
        let (accounts, sessions) = service.auth.kept();
        Login { accounts, sessions, token }
    });
    let mut service = new();
    assert!(service.auth.put_back(&login.accounts, &login.sessions, 1000));
    (service, &login.token)
}

fn send(service: &mut Service, token: &str, method: Method, target: &str, body: Vec<u8>) -> Response {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request::new(method, path);
    request.query.extend(query.split_once('=').map(|(key, value)| (key.into(), value.into())));
    request.token = Some(token.into());
    request.content_type = Some("application/json".into());
    request.length = Some(body.len() as u64);
    request.body = body;
    let mut serving = service.at(1000);
    let response = serving.handle(&request);
    let Then::Body(mut sink) = response.then else { return response };
    match serving.take(&mut *sink, &request.body) {
        Ok(()) => serving.finish(sink),
        Err(response) => response,
    }
}

fn state(service: &mut Service, token: &str) -> Vec<Vec<u8>> {
    STATE.iter().map(|path| send(service, token, Method::Get, path, Vec::new()).body).collect()
}

fuzz_target!(|steps: Vec<(u8, Json)>| {
    let (mut service, token) = service();
    let image = send(&mut service, token, Method::Put, "/redfish/v1/Oem/Salp/Images/k", vec![0x80; 100]);
    assert_eq!(image.status, 201);
    let order = br#"{"Name":"made","Oem":{"Salp":{"Kernel":{"@odata.id":"/redfish/v1/Oem/Salp/Images/k"}}}}"#;
    assert_eq!(send(&mut service, token, Method::Post, "/redfish/v1/Systems", order.to_vec()).status, 201);
    for (target, json) in steps.iter().take(4) {
        let (method, path) = TARGETS[usize::from(*target) % TARGETS.len()];
        let mut body = String::new();
        json.write(&mut body);
        let before = state(&mut service, token);
        let answer = send(&mut service, token, method, path, body.clone().into_bytes());
        let is_fault = answer.status >= 500 && !matches!(answer.status, 503 | 507);
        assert!((200..600).contains(&answer.status) && !is_fault, "{} {path} {body}: {answer:?}", method);
        if answer.status >= 400 {
            assert!(state(&mut service, token) == before, "{method} {path} {body}: refused, and something has changed");
        }
    }
});
