//! VMs that are made and changed. Before: [`table`](crate::table). After: [`systems`](crate::systems).

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use salp_board::kernel::FlatPlace;
use salp_hvc::bootset::{MAX_NICS, MAX_RAM, MAX_VCPUS, NicRecord};
use salp_hvc::calls::STATE_OFF;

use super::body::Body;
use super::fields::{Field, NAME, RATE, SEGMENT, Shape, VLAN, field, needed};
use super::nics::{MAX_RATE, vlan};
use super::systems::{find, path, value};
use super::{Call, Outcome, boot};
use crate::hypervisor::{Hypervisor, is_name, is_segment, padded};
use crate::images::{self, Library};
use crate::message::Failure;
use crate::systems::build;
use crate::systems::definition::{Definition, MAX_COMMAND_LINE};
use crate::systems::notes::{self, Note};

/// The least RAM.
const MIN_RAM: u64 = 1 << 20;
/// The RAM of a VM that does not say how much it wants.
const DEFAULT_RAM: u64 = 512 << 20;

const COUNT: Field = field("ProcessorSummary", Shape::Object(&[field("Count", Shape::Number(1, MAX_VCPUS as u64))]));
const RAM: Field =
    field("MemorySummary", Shape::Object(&[field("TotalSystemMemoryGiB", Shape::Gibibytes(MIN_RAM, MAX_RAM))]));
const INITRD: Field = field("Initrd", Shape::LinkOrNull);
const COMMAND_LINE: Field = field("CommandLine", Shape::Text("^[^\\u0000-\\u001f\\u007f-\\u009f]{0,2047}$"));
const RESTARTS: Field = field("RestartPolicy", Shape::Word(&[restart_policy(false), restart_policy(true)]));
const SMALL_PAGES: Field = field("SmallPages", Shape::Flag);
const LOAD: Field = field("LoadAddress", Shape::Number(1, u64::MAX));
const ENTRY: Field = field("EntryAddress", Shape::Number(1, u64::MAX));
const NICS: Field = field(
    "NetworkInterfaces",
    Shape::List(
        MAX_NICS as usize,
        &[
            needed("Segment", SEGMENT),
            VLAN,
            field("MACAddress", Shape::Text("^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$")),
            field("IPv4Address", Shape::Text("^[0-9]{1,3}(\\.[0-9]{1,3}){3}$")),
            field("IPv6Address", Shape::Text("^[0-9a-fA-F:.]{2,45}$")),
            RATE,
        ],
    ),
);

/// What it is called in somebody's books, and what it is for.
const TAG: Field = field("AssetTag", Shape::Text("^[^\\u0000-\\u001f\\u007f-\\u009f]{0,63}$"));
const DESCRIPTION: Field = field("Description", Shape::Text("^[^\\u0000-\\u001f\\u007f-\\u009f]{0,255}$"));

/// What a VM is made of.
pub const NEW_SYSTEM: &[Field] = &[
    needed("Name", NAME),
    TAG,
    DESCRIPTION,
    COUNT,
    RAM,
    boot::FIELD,
    needed(
        "Oem",
        Shape::Object(&[needed(
            "Salp",
            Shape::Object(&[
                needed("Kernel", Shape::Link),
                INITRD,
                COMMAND_LINE,
                RESTARTS,
                SMALL_PAGES,
                LOAD,
                ENTRY,
                NICS,
            ]),
        )]),
    ),
];

/// What can be changed of a VM, most of it while it is off.
pub const SYSTEM: &[Field] = &[
    field("Name", NAME),
    TAG,
    DESCRIPTION,
    COUNT,
    RAM,
    boot::FIELD,
    field(
        "Oem",
        Shape::Object(&[field(
            "Salp",
            Shape::Object(&[
                field("Kernel", Shape::Link),
                INITRD,
                COMMAND_LINE,
                RESTARTS,
                SMALL_PAGES,
                LOAD,
                ENTRY,
                NICS,
            ]),
        )]),
    ),
];

/// Returns the word for what happens when a VM crashes.
pub const fn restart_policy(restarts: bool) -> &'static str {
    if restarts { "OnCrash" } else { "Never" }
}

/// What somebody wants a VM to be.
#[derive(Default)]
struct Wish {
    name: Option<String>,
    vcpus: Option<u64>,
    memory: Option<u64>,
    oem: Option<Oem>,
}

#[derive(Default)]
struct Oem {
    kernel: Option<String>,
    initrd: Option<Option<String>>,
    command_line: Option<String>,
    restarts: Option<bool>,
    small_pages: Option<bool>,
    load: Option<u64>,
    entry: Option<u64>,
    nics: Option<Vec<NicRecord>>,
}

/// What is to be said of a VM.
struct Saying {
    tag: Option<String>,
    description: Option<String>,
}

/// Reads what is to be said of a VM.
fn saying(body: &mut Body) -> Saying {
    let is_line = |text: &str, most: usize| text.chars().count() <= most && !text.contains(|c: char| c.is_control());
    Saying {
        tag: body.text("AssetTag", |text| is_line(text, 63)),
        description: body.text("Description", |text| is_line(text, 255)),
    }
}

impl Saying {
    fn apply(self, hypervisor: &mut dyn Hypervisor, id: u64) -> Result<(), Failure> {
        let change = |note: &mut Note| {
            note.tag = self.tag.unwrap_or(core::mem::take(&mut note.tag));
            note.description = self.description.unwrap_or(core::mem::take(&mut note.description));
        };
        notes::change(hypervisor, id, change).map_err(|refused| Failure::refused(refused, &path(id)))
    }
}

/// Reads what is wanted; a new VM needs a name and a kernel.
fn wish(body: &mut Body, is_new: bool) -> Wish {
    let wish = Wish {
        name: body.text("Name", is_name),
        vcpus: body.inside("ProcessorSummary", |body| body.number("Count", 1..=MAX_VCPUS.into())).flatten(),
        memory: body
            .inside("MemorySummary", |body| body.gibibytes("TotalSystemMemoryGiB", MIN_RAM..=MAX_RAM))
            .flatten(),
        oem: body.inside("Oem", |body| body.inside("Salp", oem)).flatten(),
    };
    if is_new {
        body.needed("Name", &wish.name);
        body.needed("Oem/Salp/Kernel", &wish.oem.as_ref().and_then(|oem| oem.kernel.as_ref()));
    }
    wish
}

fn oem(body: &mut Body) -> Oem {
    let is_line = |text: &str| text.len() <= MAX_COMMAND_LINE && !text.contains(|c: char| c.is_control());
    Oem {
        kernel: body.link("Kernel"),
        initrd: body.link_or_none("Initrd"),
        command_line: body.text("CommandLine", is_line),
        restarts: body.parsed("RestartPolicy", |text| [true, false].into_iter().find(|&on| restart_policy(on) == text)),
        small_pages: body.flag("SmallPages"),
        load: body.number("LoadAddress", 1..=u64::MAX),
        entry: body.number("EntryAddress", 1..=u64::MAX),
        nics: body.each("NetworkInterfaces", MAX_NICS as usize, nic),
    }
}

fn nic(body: &mut Body) -> NicRecord {
    let segment = body.text("Segment", is_segment);
    body.needed("Segment", &segment);
    NicRecord {
        vm: 0.into(),
        vlan: vlan(body).unwrap_or(0).into(),
        mac: body.parsed("MACAddress", read_mac).unwrap_or_default(),
        segment: padded(segment.as_deref().unwrap_or_default()),
        ipv4: body.parsed("IPv4Address", |text| text.parse::<Ipv4Addr>().ok()).map_or([0; 4], |ip| ip.octets()),
        vlans: Default::default(),
        ipv6: body.parsed("IPv6Address", |text| text.parse::<Ipv6Addr>().ok()).map_or([0; 16], |ip| ip.octets()),
        rate: body.number("RateBytesPerSecond", 0..=MAX_RATE).unwrap_or(0).into(),
    }
}

/// Reads the MAC address of one NIC.
fn read_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

/// Returns the image that a link leads to.
fn image(hypervisor: &dyn Hypervisor, link: &str) -> Result<u64, Failure> {
    let (info, _) =
        images::by_link(hypervisor, link).ok_or_else(|| Failure::new(400, "ResourceNotFound", &["SalpImage", link]))?;
    match info.finished.get() {
        1 => Ok(info.id.get()),
        _ => Err(Failure::because(409, "The image is not whole yet.")),
    }
}

impl Wish {
    /// Returns whether nothing is wanted that is not so already.
    fn is_nothing(&self) -> bool {
        self.name.is_none() && self.vcpus.is_none() && self.memory.is_none() && self.oem.is_none()
    }

    /// Makes a definition what is wanted.
    fn apply(self, definition: &mut Definition, hypervisor: &dyn Hypervisor) -> Result<(), Failure> {
        let oem = self.oem.unwrap_or_default();
        if let Some(link) = oem.kernel {
            definition.kernel = image(hypervisor, &link)?;
            // The place of the old one is not that of the new one.
            definition.flat = FlatPlace::default();
        }
        if let Some(link) = oem.initrd {
            definition.initrd = link.map(|link| image(hypervisor, &link)).transpose()?;
        }
        definition.name = self.name.unwrap_or(core::mem::take(&mut definition.name));
        // The ranges above fit.
        definition.vcpus = self.vcpus.map_or(definition.vcpus, |count| count as u32);
        definition.memory = self.memory.unwrap_or(definition.memory);
        definition.command_line = oem.command_line.unwrap_or(core::mem::take(&mut definition.command_line));
        definition.restarts = oem.restarts.unwrap_or(definition.restarts);
        definition.small_pages = oem.small_pages.unwrap_or(definition.small_pages);
        definition.flat.load = oem.load.or(definition.flat.load);
        definition.flat.entry = oem.entry.or(definition.flat.entry);
        definition.nics = oem.nics.unwrap_or(core::mem::take(&mut definition.nics));
        Ok(())
    }
}

/// Makes a VM. It is off.
pub fn create(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_resource(call.request)?;
    let (wish, boot, saying) = (wish(&mut body, true), boot::wish(&mut body), saying(&mut body));
    body.finish()?;
    let mut definition = Definition {
        name: String::new(),
        vcpus: 1,
        memory: DEFAULT_RAM,
        kernel: 0,
        initrd: None,
        command_line: String::new(),
        flat: FlatPlace::default(),
        restarts: false,
        small_pages: false,
        nics: Vec::new(),
    };
    wish.apply(&mut definition, call.hypervisor)?;
    let id = build::create(call.hypervisor, &definition, call.now)?;
    if let Err(failure) = boot.apply(call.hypervisor, id).and_then(|()| saying.apply(call.hypervisor, id)) {
        // It is made as was asked, or not at all.
        let _ = call.hypervisor.destroy(id);
        images::sweep(call.hypervisor, call.now);
        return Err(failure);
    }
    let info = call.hypervisor.find(id).map_err(|refused| Failure::refused(refused, &call.request.path))?;
    Ok(Outcome::Created { value: value(call.hypervisor, call.library, &info), location: path(id), token: None })
}

/// Changes a VM: that is off, unless only from where it starts and what is said of it changes.
pub fn patch(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let info = find(call)?;
    let mut body = Body::of_resource(call.request)?;
    let (wish, boot, saying) = (wish(&mut body, false), boot::wish(&mut body), saying(&mut body));
    let ignored = body.finish_change()?;
    if wish.is_nothing() {
        boot.apply(call.hypervisor, info.id.get())?;
        saying.apply(call.hypervisor, info.id.get())?;
        return Ok(ignored.tell(Outcome::Resource(value(call.hypervisor, call.library, &info))));
    }
    if info.state.get() != STATE_OFF {
        return Err(Failure::because(409, "The VM has to be off for that. NICs can be changed at any time."));
    }
    let why = "The VM was started with the machine, not made here: delete it and make one.";
    let mut definition = crate::systems::definition(call.hypervisor, &Library::default(), &info)
        .ok_or_else(|| Failure::because(409, why))?;
    wish.apply(&mut definition, call.hypervisor)?;
    build::change(call.hypervisor, info.id.get(), &definition, call.now)?;
    boot.apply(call.hypervisor, info.id.get())?;
    saying.apply(call.hypervisor, info.id.get())?;
    let info = find(call)?;
    Ok(ignored.tell(Outcome::Resource(value(call.hypervisor, call.library, &info))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::http::{Method, Response};
    use crate::testing::{Client, json, keys};
    use alloc::format;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const KERNEL: &str = r#""Kernel":{"@odata.id":"/redfish/v1/Oem/Salp/Images/k"}"#;

    fn client() -> Client {
        let mut client = Client::new(Role::Operator);
        for name in ["k", "i"] {
            let mut request = client.request(Method::Put, &format!("/redfish/v1/Oem/Salp/Images/{name}"), "");
            request.body = [0x80; 100].into();
            request.length = Some(100);
            assert_eq!(client.send(&request).status, 201);
        }
        client
    }

    fn make(client: &mut Client, oem: &str, rest: &str) -> Response {
        client.post("/redfish/v1/Systems", &format!(r#"{{"Name":"new","Oem":{{"Salp":{{{KERNEL}{oem}}}}}{rest}}}"#))
    }

    #[test]
    fn what_is_said_of_a_vm_is_kept_while_it_runs_and_is_not_said_of_its_clones() {
        let mut client = Client::new(Role::Operator);
        let mut patch = |body: &str| {
            let answer = client.send(&client.request(Method::Patch, "/redfish/v1/Systems/2", body));
            (answer.status, json(&answer))
        };
        let (status, system) = patch(r#"{"AssetTag":"rack 7","Description":"The shop's first."}"#);
        assert_eq!((status, &system["AssetTag"], &system["PowerState"]), (200, &json!("rack 7"), &json!("On")));
        assert_eq!(patch(r#"{"AssetTag":"7"}"#).1["Description"], "The shop's first.");
        let long = "x".repeat(64);
        for bad in [r#"{"AssetTag":"\u0007"}"#, &format!(r#"{{"AssetTag":"{long}"}}"#), r#"{"Description":7}"#] {
            assert_eq!(patch(bad).0, 400, "{bad}");
        }
        client.forget();
        assert_eq!(client.read("/redfish/v1/Systems/2")["AssetTag"], "7");
        let clone = "/redfish/v1/Systems/2/Actions/Oem/SalpComputerSystem.InstantClone";
        let made = client.post(clone, r#"{"Name":"clone"}"#);
        assert_eq!(json(&made)["AssetTag"], "");
        for id in 0..1000 {
            let body = format!(r#"{{"Description":"{}"}}"#, "y".repeat(200));
            let made = client.post(clone, &format!(r#"{{"Name":"c{id}"}}"#));
            let path = made.get("Location").unwrap();
            if client.send(&client.request(Method::Patch, path, &body)).status == 507 {
                assert!(id > 50);
                return;
            }
        }
        panic!("there is room without end");
    }

    fn patch(client: &mut Client, body: &str) -> Response {
        client.send(&client.request(Method::Patch, "/redfish/v1/Systems/4", body))
    }

    #[test]
    fn a_vm_is_what_was_asked_for() {
        let mut client = client();
        let oem = r#","Initrd":{"@odata.id":"/redfish/v1/Oem/Salp/Images/i"},"CommandLine":"quiet","RestartPolicy":"OnCrash",
            "NetworkInterfaces":[{"Segment":"lan","VLAN":{"VLANId":7},"MACAddress":"52:54:00:00:00:99","RateBytesPerSecond":5}]"#;
        let rest = r#","ProcessorSummary":{"Count":2},"MemorySummary":{"TotalSystemMemoryGiB":0.25}"#;
        let answer = make(&mut client, oem, rest);
        assert_eq!((answer.status, answer.get("Location")), (201, Some("/redfish/v1/Systems/4")), "{answer:?}");
        let vm = client.read("/redfish/v1/Systems/4");
        assert_eq!((&vm["PowerState"], &vm["ProcessorSummary"]["Count"]), (&json!("Off"), &json!(2)));
        assert_eq!(vm["MemorySummary"]["TotalSystemMemoryGiB"], 0.25);
        let salp = &vm["Oem"]["Salp"];
        assert_eq!((&salp["CommandLine"], &salp["RestartPolicy"]), (&json!("quiet"), &json!("OnCrash")));
        assert_eq!(salp["Initrd"]["@odata.id"], "/redfish/v1/Oem/Salp/Images/i");
        let nic = client.read("/redfish/v1/Systems/4/EthernetInterfaces/0");
        assert_eq!((&nic["MACAddress"], &nic["VLAN"]["VLANId"]), (&json!("52:54:00:00:00:99"), &json!(7)));
    }

    #[test]
    fn images_are_in_use_until_their_vm_is_removed() {
        let mut client = client();
        assert_eq!(make(&mut client, "", "").status, 201);
        // A flat binary lies at a page boundary: it is used as it is.
        let image = client.request(Method::Delete, "/redfish/v1/Oem/Salp/Images/k", "");
        assert_eq!(client.send(&image).status, 409);
        assert_eq!(client.send(&client.request(Method::Delete, "/redfish/v1/Systems/4", "")).status, 204);
        assert_eq!(client.send(&image).status, 204);
        assert_eq!(client.read("/redfish/v1/Oem/Salp/Images")["Members@odata.count"], 1);
    }

    #[test]
    fn an_image_is_in_use_though_no_byte_of_it_is_used_as_it_is() {
        let mut client = client();
        // It lies between pages: it is laid out anew.
        assert_eq!(make(&mut client, r#","LoadAddress":1075838992"#, "").status, 201);
        assert_eq!(client.read("/redfish/v1/Oem/Salp/Images/k")["Users"], 1);
        let delete = client.request(Method::Delete, "/redfish/v1/Oem/Salp/Images/k", "");
        assert_eq!(client.send(&delete).status, 409);
    }

    #[test]
    fn a_vm_is_changed_while_it_is_off() {
        let mut client = client();
        make(&mut client, r#","CommandLine":"old""#, "");
        let answer =
            patch(&mut client, r#"{"ProcessorSummary":{"Count":4},"Oem":{"Salp":{"RestartPolicy":"OnCrash"}}}"#);
        let vm = json(&answer);
        assert_eq!((answer.status, &vm["ProcessorSummary"]["Count"]), (200, &json!(4)), "{answer:?}");
        assert_eq!((&vm["Oem"]["Salp"]["CommandLine"], &vm["Name"]), (&json!("old"), &json!("new")));
        client.post("/redfish/v1/Systems/4/Actions/ComputerSystem.Reset", r#"{"ResetType":"On"}"#);
        assert_eq!(patch(&mut client, r#"{"ProcessorSummary":{"Count":1}}"#).status, 409);
        assert_eq!(client.read("/redfish/v1/Systems/4")["ProcessorSummary"]["Count"], 4);
    }

    #[test]
    fn a_bad_vm_is_refused_with_all_that_is_wrong() {
        let mut client = client();
        let answer = client.post("/redfish/v1/Systems", r#"{"Name":"a b","Speed":1,"Oem":{"Salp":{"Kernel":7}}}"#);
        assert_eq!(keys(&answer), ["PropertyValueFormatError", "PropertyValueTypeError", "PropertyUnknown"]);
        for (oem, rest, status) in [
            ("", r#","ProcessorSummary":{"Count":9}"#, 400),
            ("", r#","ProcessorSummary":2"#, 400),
            ("", r#","MemorySummary":{"TotalSystemMemoryGiB":1e300}"#, 400),
            ("", r#","MemorySummary":{"TotalSystemMemoryGiB":-1}"#, 400),
            ("", r#","MemorySummary":{"TotalSystemMemoryGiB":0.0000001}"#, 400),
            (r#","CommandLine":"a\nb""#, "", 400),
            (r#","Initrd":{"@odata.id":"/redfish/v1/Oem/Salp/Images/x"}"#, "", 400),
            (r#","Initrd":{"@odata.id":"/redfish/v1/Systems/2"}"#, "", 400),
            (r#","LoadAddress":16"#, "", 400),
            (r#","NetworkInterfaces":[{}]"#, "", 400),
            (r#","NetworkInterfaces":[{"Segment":"a","MACAddress":"ff:ff:ff:ff:ff:ff"}]"#, "", 400),
            (r#","NetworkInterfaces":[1]"#, "", 400),
        ] {
            let answer = make(&mut client, oem, rest);
            assert_eq!(answer.status, status, "{oem} {rest} {answer:?}");
        }
        let long = format!(r#","CommandLine":"{}""#, "x".repeat(MAX_COMMAND_LINE + 1));
        assert_eq!(make(&mut client, &long, "").status, 400);
        let five = r#"{"Segment":"a"}"#;
        let five = format!(r#","NetworkInterfaces":[{}]"#, [five; 5].join(","));
        assert_eq!(make(&mut client, &five, "").status, 400);
        assert_eq!(client.read("/redfish/v1/Systems")["Members@odata.count"], 2);
        assert_eq!(crate::hypervisor::images(&crate::fake::Fake::default()).count(), 0);
        assert_eq!(make(&mut client, "", "").status, 201);
        assert_eq!(make(&mut client, "", "").status, 409);
        assert_eq!(patch(&mut client, "{}").status, 400);
        assert_eq!(patch(&mut client, r#"{"UUID":"x"}"#).status, 400);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[ -~]{0,12}".prop_map(Value::from),
            Just(json!({ "@odata.id": "/redfish/v1/Oem/Salp/Images/k" })),
        ];
        let name = prop::sample::select(
            &[
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
                "NicsToUpdate",
                "Id",
                "Config",
                "Key",
                "Value",
                "UUID",
                "DisconnectAllNics",
                "InterfaceEnabled",
                "X",
            ][..],
        );
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name.clone(), inner), 0..6)
                    .prop_map(|pairs| pairs.into_iter().map(|(name, value)| (String::from(name), value)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_body_is_carried_out_or_refused_and_changes_nothing_then(body in any_json(), which in 0usize..4) {
            let mut client = client();
            make(&mut client, "", "");
            let (method, target) = [
                (Method::Post, "/redfish/v1/Systems"),
                (Method::Patch, "/redfish/v1/Systems/4"),
                (Method::Post, "/redfish/v1/Systems/2/Actions/Oem/SalpComputerSystem.InstantClone"),
                (Method::Patch, "/redfish/v1/Systems/2/EthernetInterfaces/0"),
            ][which];
            let before = client.read("/redfish/v1/Systems?$expand=.");
            let answer = client.send(&client.request(method, target, &format!("{body}")));
            prop_assert!(matches!(answer.status, 200 | 201 | 400 | 409 | 507), "{} {answer:?}", body);
            if answer.status >= 400 {
                prop_assert_eq!(client.read("/redfish/v1/Systems?$expand=."), before);
            }
        }
    }
}
