//! From where VMs start, as the standard shows it. Before: [`systems`](super::systems), [`making`](super::making). After:
//! [`systems::boot`](crate::systems::boot).

use alloc::format;
use alloc::string::{String, ToString};

use salp_json::{Value, json};

use super::body::Body;
use super::fields::{Field, Shape, field, names};
use super::systems::{find, path};
use super::{Call, Outcome, collection};
use crate::hypervisor::Hypervisor;
use crate::media::url::Url;
use crate::message::Failure;
use crate::systems::boot::{self, Boot, Enabled, Target, name_of, named};

/// What a VM may have in its order: what it is called there, its alias, and what it is.
const OPTIONS: [(&str, &str, &str); 2] =
    [("Images", "Hdd", "The VM's own images"), ("Cd", "Cd", "The medium in the drive")];

/// There is no other way on this architecture.
const MODES: [&str; 1] = ["UEFI"];

fn options_path(id: u64) -> String {
    path(id) + "/BootOptions"
}

/// What can be said of it when a VM is made or changed.
pub const FIELD: Field = field(
    "Boot",
    Shape::Object(&[
        field("BootSourceOverrideMode", Shape::Word(&MODES)),
        field("BootOrder", Shape::Words(&[OPTIONS[0].0, OPTIONS[1].0])),
        field("BootSourceOverrideEnabled", Shape::Word(&names(&Enabled::ALL))),
        field("BootSourceOverrideTarget", Shape::Word(&names(&Target::ALL))),
        field("HttpBootUri", Shape::TextOrNull(ADDRESS)),
    ]),
);

/// A text that [`Url`] reads, or none.
const ADDRESS: &str = "^(https?://[!-~]+)?$";

/// Returns from where a VM starts, as it is shown.
pub fn value(id: u64, boot: &Boot) -> Value {
    let mut order = [OPTIONS[0].0, OPTIONS[1].0];
    if boot.is_cd_first {
        order.reverse();
    }
    json!({
        "BootOptions": { "@odata.id": options_path(id) },
        "BootOrder": order,
        "BootSourceOverrideEnabled": name_of(&Enabled::ALL, &boot.enabled),
        "BootSourceOverrideEnabled@Redfish.AllowableValues": names(&Enabled::ALL),
        "BootSourceOverrideTarget": name_of(&Target::ALL, &boot.target),
        "BootSourceOverrideTarget@Redfish.AllowableValues": names(&Target::ALL),
        "BootSourceOverrideMode": MODES[0],
        "BootSourceOverrideMode@Redfish.AllowableValues": MODES,
        "HttpBootUri": &boot.address,
    })
}

/// What somebody wants `Boot` to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    enabled: Option<Enabled>,
    target: Option<Target>,
    address: Option<String>,
    is_cd_first: Option<bool>,
}

/// Reads `Boot`.
pub fn wish(body: &mut Body) -> Wish {
    let wish = body.inside("Boot", |body| {
        body.word("BootSourceOverrideMode", &MODES);
        let order = body.texts("BootOrder", OPTIONS.len(), |text| OPTIONS.iter().any(|(name, ..)| *name == text));
        let is_whole = order.as_ref().is_none_or(|order| order.len() == OPTIONS.len() && order[0] != order[1]);
        if !is_whole {
            body.refuse("BootOrder", "Each of the boot options once.");
        }
        Wish {
            enabled: body
                .word("BootSourceOverrideEnabled", &names(&Enabled::ALL))
                .and_then(|word| named(&Enabled::ALL, &word)),
            target: body
                .word("BootSourceOverrideTarget", &names(&Target::ALL))
                .and_then(|word| named(&Target::ALL, &word)),
            // sushy says null with every target that wants none.
            address: body.text_or_none("HttpBootUri", |text| text.is_empty() || Url::parse(text).is_some()),
            is_cd_first: order.map(|order| order.first().is_some_and(|first| first == OPTIONS[1].0)),
        }
    });
    wish.unwrap_or_default()
}

impl Wish {
    /// Carries it out.
    ///
    /// # Errors
    ///
    /// If there is no room for it.
    pub fn apply(self, hypervisor: &mut dyn Hypervisor, id: u64) -> Result<(), Failure> {
        let change = |boot: &mut Boot| {
            boot.address = self.address.unwrap_or(core::mem::take(&mut boot.address));
            boot.is_cd_first = self.is_cd_first.unwrap_or(boot.is_cd_first);
            boot.target = self.target.unwrap_or(boot.target);
            // A target alone means the next start, as clients expect it.
            let implied = match self.target {
                Some(Target::None) => Enabled::Disabled,
                Some(_) if boot.enabled == Enabled::Disabled => Enabled::Once,
                _ => boot.enabled,
            };
            boot.enabled = self.enabled.unwrap_or(implied);
            if boot.enabled == Enabled::Disabled {
                boot.target = Target::None;
            }
        };
        boot::change(hypervisor, id, change).map_err(|refused| Failure::refused(refused, &path(id)))
    }
}

/// Lists what a VM can start from by itself.
pub fn options(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let path = options_path(find(call)?.id.get());
    let members = OPTIONS.iter().map(|(name, ..)| format!("{path}/{name}"));
    Ok(Outcome::Resource(collection(&path, "BootOptionCollection", "Boot options", members)))
}

/// Answers one of them.
pub fn option(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = find(call)?.id.get();
    let is_it = |(name, ..): &&(&str, &str, &str)| *name == call.variables[1];
    let (name, alias, what) = OPTIONS.iter().find(is_it).ok_or_else(|| call.missing())?;
    Ok(Outcome::Resource(json!({
        "@odata.id": format!("{}/{name}", options_path(id)),
        "@odata.type": "#BootOption.v1_0_6.BootOption",
        "Id": name,
        "Name": what,
        "DisplayName": what,
        "BootOptionReference": name.to_string(),
        "BootOptionEnabled": true,
        "Alias": alias,
    })))
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::http::Method;
    use crate::testing::{Client, json, keys};
    use alloc::string::String;
    use serde_json::{Value, json};

    fn patch(client: &mut Client, boot: &str) -> (u16, Value) {
        let body = alloc::format!(r#"{{"Boot":{boot}}}"#);
        let answer = client.send(&client.request(Method::Patch, "/redfish/v1/Systems/2", &body));
        (answer.status, json(&answer)["Boot"].clone())
    }

    fn reset(client: &mut Client, kind: &str) -> u16 {
        let body = alloc::format!(r#"{{"ResetType":"{kind}"}}"#);
        client.post("/redfish/v1/Systems/2/Actions/ComputerSystem.Reset", &body).status
    }

    fn console(client: &mut Client) -> String {
        String::from_utf8(client.get("/redfish/v1/Systems/2/Oem/Salp/Console").body).unwrap()
    }

    /// Puts a medium that is a kernel into the drive.
    fn insert(client: &mut Client) {
        let mut request = client.request(Method::Put, "/redfish/v1/Oem/Salp/Images/cd", "");
        request.body = [&b"MZ"[..], &[0; 14], &0x10_0000u64.to_le_bytes(), &[0; 32], b"ARM\x64", &[0; 4]].concat();
        request.length = Some(request.body.len() as u64);
        assert_eq!(client.send(&request).status, 201);
        let insert = "/redfish/v1/Systems/2/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia";
        assert_eq!(client.post(insert, r#"{"Image":"/redfish/v1/Oem/Salp/Images/cd"}"#).status, 204);
    }

    #[test]
    fn an_override_for_once_is_over_after_one_start() {
        let mut client = Client::new(Role::Operator);
        insert(&mut client);
        let (status, boot) =
            patch(&mut client, r#"{"BootSourceOverrideTarget":"Cd","BootSourceOverrideEnabled":"Once"}"#);
        assert_eq!((status, &boot["BootSourceOverrideTarget"]), (200, &json!("Cd")));
        assert_eq!(reset(&mut client, "ForceRestart"), 204);
        assert!(console(&mut client).starts_with("started from something else"));
        let boot = &client.read("/redfish/v1/Systems/2")["Boot"];
        assert_eq!(
            (&boot["BootSourceOverrideTarget"], &boot["BootSourceOverrideEnabled"]),
            (&json!("None"), &json!("Disabled"))
        );
        assert_eq!(reset(&mut client, "ForceRestart"), 204);
        assert_eq!(reset(&mut client, "ForceOff"), 204);
        assert_eq!(reset(&mut client, "On"), 204);
        assert_eq!(console(&mut client), "");
    }

    #[test]
    fn an_override_for_good_stays_and_so_does_an_order() {
        let mut client = Client::new(Role::Operator);
        insert(&mut client);
        patch(&mut client, r#"{"BootSourceOverrideTarget":"Cd","BootSourceOverrideEnabled":"Continuous"}"#);
        for _ in 0..2 {
            assert_eq!((reset(&mut client, "ForceOff"), reset(&mut client, "On")), (204, 204));
            assert!(console(&mut client).starts_with("started from something else"));
        }
        let (_, boot) = patch(&mut client, r#"{"BootSourceOverrideEnabled":"Disabled","BootOrder":["Cd","Images"]}"#);
        assert_eq!((&boot["BootSourceOverrideTarget"], &boot["BootOrder"][0]), (&json!("None"), &json!("Cd")));
        assert_eq!(reset(&mut client, "PowerCycle"), 204);
        assert!(console(&mut client).starts_with("started from something else"));
        client.post("/redfish/v1/Systems/2/VirtualMedia/Cd/Actions/VirtualMedia.EjectMedia", "");
        assert_eq!(reset(&mut client, "PowerCycle"), 204, "without a medium it starts from what comes next");
        assert_eq!(console(&mut client), "");
    }

    #[test]
    fn null_is_no_address() {
        let mut client = Client::new(Role::Operator);
        let (_, boot) = patch(&mut client, r#"{"BootSourceOverrideTarget":"UefiHttp","HttpBootUri":"http://h/k"}"#);
        assert_eq!(boot["HttpBootUri"], "http://h/k");
        let (status, boot) = patch(&mut client, r#"{"BootSourceOverrideTarget":"Cd","HttpBootUri":null}"#);
        assert_eq!((status, &boot["HttpBootUri"]), (200, &json!("")));
    }

    #[test]
    fn a_vm_that_cannot_start_as_it_is_to_says_why() {
        let mut client = Client::new(Role::Operator);
        for target in ["Cd", "UefiHttp"] {
            patch(&mut client, &alloc::format!(r#"{{"BootSourceOverrideTarget":"{target}"}}"#));
            assert_eq!(reset(&mut client, "ForceRestart"), 409, "{target}");
            assert_eq!(client.read("/redfish/v1/Systems/2")["PowerState"], "On", "it goes on");
        }
        let mut bad = |boot: &str| {
            let body = alloc::format!(r#"{{"Boot":{boot}}}"#);
            let answer = client.send(&client.request(Method::Patch, "/redfish/v1/Systems/2", &body));
            (answer.status, keys(&answer).concat())
        };
        let not_in_list = (400, String::from("PropertyValueNotInList"));
        assert_eq!(bad(r#"{"BootSourceOverrideTarget":"Floppy"}"#), not_in_list);
        assert_eq!(bad(r#"{"BootSourceOverrideMode":"Legacy"}"#), not_in_list);
        assert_eq!(bad(r#"{"BootOrder":["Cd","Cd"]}"#).0, 400);
        assert_eq!(bad(r#"{"BootOrder":["Cd"]}"#).0, 400);
        assert_eq!(bad(r#"{"BootOrder":[]}"#).0, 400);
        assert_eq!(bad(r#"{"HttpBootUri":"ftp://x"}"#).0, 400);
    }

    #[test]
    fn a_guest_that_is_asked_to_shut_down_first_starts_as_it_is_to() {
        let mut client = Client::new(Role::Operator);
        insert(&mut client);
        patch(&mut client, r#"{"BootSourceOverrideTarget":"Cd"}"#);
        assert_eq!(reset(&mut client, "GracefulRestart"), 204);
        let now = client.now;
        client.service.go_on(now);
        assert!(console(&mut client).starts_with("started from something else"));
    }

    #[test]
    fn an_override_for_once_that_leads_nowhere_else_is_over_after_any_restart() {
        for (target, kind) in
            [("Pxe", "ForceRestart"), ("Pxe", "GracefulRestart"), ("Hdd", "GracefulRestart"), ("Hdd", "PowerCycle")]
        {
            let mut client = Client::new(Role::Operator);
            patch(&mut client, &alloc::format!(r#"{{"BootSourceOverrideTarget":"{target}"}}"#));
            assert_eq!(reset(&mut client, kind), 204, "{target} {kind}");
            client.service.go_on(client.now);
            let system = client.read("/redfish/v1/Systems/2");
            assert_eq!(
                (&system["Boot"]["BootSourceOverrideEnabled"], &system["PowerState"]),
                (&json!("Disabled"), &json!("On")),
                "{target} {kind}"
            );
        }
    }

    #[test]
    fn boot_options_are_what_the_order_is_made_of() {
        let mut client = Client::new(Role::ReadOnly);
        let order = client.read("/redfish/v1/Systems/2")["Boot"]["BootOrder"].clone();
        for name in order.as_array().unwrap() {
            let option = client.read(&alloc::format!("/redfish/v1/Systems/2/BootOptions/{}", name.as_str().unwrap()));
            assert_eq!(&option["BootOptionReference"], name);
        }
        assert_eq!(client.get("/redfish/v1/Systems/2/BootOptions/Usb").status, 404);
    }
}
