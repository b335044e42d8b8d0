//! Copies of VMs: clones, snapshots, and the way back. Before: [`table`](crate::table). After:
//! [`hypervisor`](crate::hypervisor).

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use salp_hvc::bootset::MAX_NICS;
use salp_hvc::calls::{MAX_CLONES, MAX_CONFIG};
use salp_json::{Value, json};

use super::body::Body;
use super::fields::{Field, NAME, RATE, SEGMENT, Shape, VLAN, field, needed, needed_link};
use super::nics::{self, Wish};
use super::systems::{act, find, path, value};
use super::{Call, Outcome, read_uuid, snapshots};
use crate::http::{Method, Request};
use crate::hypervisor::{self, Answer, Cloning, Hypervisor, is_name};
use crate::message::Failure;
use crate::tasks;

/// What clones are to be like.
pub const CLONE: &[Field] = &[
    field("Name", NAME),
    field("Count", Shape::Number(1, MAX_CLONES as u64)),
    field(
        "Config",
        Shape::List(
            MAX_CONFIG / 2,
            &[needed("Key", Shape::Text("^[!-<>-~]{1,100}$")), needed("Value", Shape::Text("^[ -~]{0,200}$"))],
        ),
    ),
    field("UUID", Shape::Text("^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")),
    field(
        "NicsToUpdate",
        Shape::List(
            MAX_NICS as usize,
            &[
                needed("Id", Shape::Text("^[0-9]$")),
                field("InterfaceEnabled", Shape::Flag),
                field("Segment", SEGMENT),
                VLAN,
                RATE,
            ],
        ),
    ),
    field("DisconnectAllNics", Shape::Flag),
];

/// What a snapshot is to be called.
pub const SNAPSHOT: &[Field] = &[needed("Name", NAME)];

/// What a VM goes back to.
pub const REVERT: &[Field] = &[needed_link("Snapshot")];

/// Makes clones of the VM of the path.
pub fn instant_clone(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let source = find(call)?.id.get();
    clones(call, source, "SalpComputerSystem.InstantClone")
}

/// What clones are asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The path of the request.
    pub target: String,
    /// The action.
    pub action: &'static str,
    /// The body of the request.
    pub body: String,
    /// What is cloned.
    pub source: u64,
    /// Where NICs belong.
    pub nics: Vec<(u64, Wish)>,
    /// Whether NICs stay unplugged that do not say otherwise.
    pub disconnected: bool,
    count: u32,
    name: String,
    config: String,
    uuid: Option<[u8; 16]>,
}

/// The actions by which clones are asked for.
const ACTIONS: [&str; 2] = ["SalpComputerSystem.InstantClone", "SalpSnapshot.InstantClone"];

impl Plan {
    /// Reads what a request asks for.
    fn new(request: &Request, action: &'static str, source: u64) -> Result<Self, Failure> {
        let mut body = Body::of_action(request, action)?;
        let name = body.text("Name", is_name);
        let count = body.number("Count", 1..=MAX_CLONES.into());
        let config = body.lines("Config");
        let uuid = body.parsed("UUID", read_uuid);
        let nics = body.each("NicsToUpdate", MAX_NICS as usize, |body| {
            let index = body.parsed("Id", nics::index);
            body.needed("Id", &index);
            (index.unwrap_or_default(), nics::wish(body))
        });
        let disconnected = body.flag("DisconnectAllNics").unwrap_or(false);
        body.finish()?;
        if uuid.is_some() && count.is_some_and(|count| count > 1) {
            return Err(Failure::because(400, "A UUID is that of one clone: leave Count away."));
        }
        Ok(Self {
            target: request.path.clone(),
            action,
            body: String::from_utf8_lossy(&request.body).into_owned(),
            source,
            nics: nics.unwrap_or_default(),
            disconnected,
            // The range above fits.
            count: count.unwrap_or(1) as u32,
            name: name.unwrap_or_default(),
            config: config.unwrap_or_default(),
            uuid,
        })
    }

    /// Reads a plan that was kept as its request.
    pub fn read(target: &str, action: &str, body: &str, source: u64) -> Option<Self> {
        let action = ACTIONS.into_iter().find(|known| *known == action)?;
        let request = Request { body: body.into(), ..Request::new(Method::Post, target) };
        Self::new(&request, action, source).ok()
    }

    /// Returns what the hypervisor is asked for.
    pub fn cloning(&self) -> Cloning<'_> {
        Cloning {
            source: self.source,
            count: self.count,
            name: &self.name,
            config: &self.config,
            uuid: self.uuid,
            // None of them speaks before it is where it belongs.
            disconnected: self.disconnected || !self.nics.is_empty(),
        }
    }
}

/// So many clones are made while the client waits; more are a task.
const AT_ONCE: u32 = 64;

/// Makes clones of a VM or a snapshot: one is answered as itself, some as links, many as a task.
pub fn clones(call: &mut Call<'_>, source: u64, action: &'static str) -> Result<Outcome, Failure> {
    let plan = Plan::new(call.request, action, source)?;
    let unknown = |&&(index, _): &&(u64, Wish)| call.hypervisor.nic(source, index).is_err();
    if let Some((index, _)) = plan.nics.iter().find(unknown) {
        return Err(Failure::new(400, "ResourceNotFound", &["EthernetInterface", &alloc::format!("{index}")]));
    }
    if plan.count > AT_ONCE {
        return call.start("Make clones", tasks::clones::KIND, Box::new(tasks::clones::Clones::new(plan)));
    }
    let what = |refused| Failure::refused(refused, &call.request.path);
    let (first, last) = call.hypervisor.clone_vm(&plan.cloning()).map_err(what)?;
    if !plan.nics.is_empty()
        && let Err(refused) =
            (first..=last).try_for_each(|id| plug(call.hypervisor, id, &plan.nics, !plan.disconnected))
    {
        // All or none.
        (first..=last).for_each(|id| _ = call.hypervisor.destroy(id));
        return Err(what(refused));
    }
    let value = if first == last {
        // It may have ended itself already: it was made, and that is answered.
        let found = call.hypervisor.find(first);
        found.map_or_else(|_| json!({ "@odata.id": path(first) }), |info| value(call.hypervisor, call.library, &info))
    } else {
        links(first, last)
    };
    Ok(Outcome::Created { value, location: path(first), token: None })
}

/// Returns links to many systems.
pub fn links(first: u64, last: u64) -> Value {
    let members: Vec<Value> = (first..=last).map(|id| json!({ "@odata.id": path(id) })).collect();
    json!({ "Members@odata.count": members.len(), "Members": members })
}

/// Puts the NICs of a clone where they belong, and connects all of them if that is wanted.
pub fn plug(hypervisor: &mut dyn Hypervisor, id: u64, wishes: &[(u64, Wish)], connected: bool) -> Answer<()> {
    let count = match hypervisor.find(id) {
        Ok(info) => info.nics.get(),
        // It has ended itself already.
        Err(_) => return Ok(()),
    };
    (0..u64::from(count)).try_for_each(|index| {
        let now = hypervisor.nic(id, index)?;
        let wish = wishes.iter().find(|(wished, _)| *wished == index).map(|(_, wish)| wish);
        let mut change = wish.unwrap_or(&Wish::default()).change(&now);
        let wants = wish.and_then(|wish| wish.enabled).unwrap_or(connected);
        change.connected = u16::from(wants).into();
        hypervisor.change_nic(id, index, &change)
    })
}

/// Keeps the present state of a VM.
pub fn snapshot(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let info = find(call)?;
    let mut body = Body::of_action(call.request, "SalpComputerSystem.Snapshot")?;
    let name = body.needed_text("Name", is_name);
    body.finish()?;
    let name = name.unwrap_or_default();
    let what = |refused| Failure::refused(refused, &call.request.path);
    let id = call.hypervisor.snapshot(info.id.get(), &name).map_err(what)?;
    let kept = call.hypervisor.find(id).map_err(what)?;
    Ok(Outcome::Created { value: snapshots::value(&kept), location: snapshots::path(id), token: None })
}

/// Brings a VM back to the state of a snapshot.
pub fn revert(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    const ACTION: &str = "SalpComputerSystem.Revert";
    let mut body = Body::of_action(call.request, ACTION)?;
    let link = body.needed_link("Snapshot");
    body.finish()?;
    let link = link.unwrap_or_default();
    let unknown = || Failure::new(400, "ResourceNotFound", &["SalpSnapshot", &link]);
    let id = snapshots::id_of(&link).ok_or_else(unknown)?;
    hypervisor::snapshot(call.hypervisor, id).map_err(|_| unknown())?;
    act(call, |hypervisor, vm| hypervisor.revert(vm, id))
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::http::Method;
    use crate::testing::{Client, json};
    use alloc::format;
    use serde_json::json;

    fn action(name: &str) -> alloc::string::String {
        format!("/redfish/v1/Systems/2/Actions/Oem/SalpComputerSystem.{name}")
    }

    #[test]
    fn one_clone_is_answered_as_itself() {
        let mut client = Client::new(Role::Operator);
        let body = r#"{"Name":"w","Config":[{"Key":"role","Value":"worker"}]}"#;
        let answer = client.post(&action("InstantClone"), body);
        assert_eq!((answer.status, answer.get("Location")), (201, Some("/redfish/v1/Systems/4")));
        assert_eq!((&json(&answer)["Name"], &json(&answer)["Oem"]["Salp"]["SourceId"]), (&json!("w"), &json!("2")));
    }

    #[test]
    fn many_clones_are_answered_as_links() {
        let mut client = Client::new(Role::Operator);
        let answer = client.post(&action("InstantClone"), r#"{"Name":"w","Count":10}"#);
        assert_eq!((answer.status, &json(&answer)["Members@odata.count"]), (201, &json!(10)));
        assert_eq!(client.read("/redfish/v1/Systems")["Members@odata.count"], 12);
        assert_eq!(client.read("/redfish/v1/Systems/13")["Name"], "w-10");
    }

    #[test]
    fn a_bad_clone_makes_nothing() {
        let mut client = Client::new(Role::Operator);
        for (body, status) in [
            (r#"{"Name":"web"}"#, 409),
            (r#"{"Name":""}"#, 400),
            (r#"{"Name":"a b"}"#, 400),
            (r#"{"Name":"abcdefghijabcdefghijabcdefghijab"}"#, 400),
            (r#"{"Name":"x","Count":0}"#, 400),
            (r#"{"Name":"x","Count":1001}"#, 400),
            (r#"{"Name":"x","Count":1.5}"#, 400),
            (r#"{"Name":"x","Count":"1"}"#, 400),
            (r#"{"Name":"x","Config":{"a":"b"}}"#, 400),
            (r#"{"Name":"x","Config":[{"Key":"a b","Value":""}]}"#, 400),
            (r#"{"Name":"x","Config":[{"Key":"a","Value":"b\nc=d"}]}"#, 400),
            (r#"{"Name":"x","UUID":"y"}"#, 400),
            (r#"{"Name":"x","Count":2,"UUID":"12345678-9abc-4def-8123-456789abcdef"}"#, 400),
            (r#"{"Name":"x","NicsToUpdate":[{"Id":"1","Segment":"a"}]}"#, 400),
            (r#"{"Name":"x","NicsToUpdate":[{"Segment":"a"}]}"#, 400),
            (r#"{"Name":"x","NicsToUpdate":[{"Id":"0","Segment":"a b"}]}"#, 400),
            (r#"{"Name":"x","NicsToUpdate":[{"Id":"0","Speed":1}]}"#, 400),
            (r#"{"Name":"x","DisconnectAllNics":1}"#, 400),
            (r#"{"Name":"x"} {}"#, 400),
        ] {
            assert_eq!(client.post(&action("InstantClone"), body).status, status, "{body}");
        }
        let mut request = client.request(Method::Post, &action("InstantClone"), "{}");
        request.content_type = Some("text/plain".into());
        assert_eq!(client.send(&request).status, 415);
        assert_eq!(client.read("/redfish/v1/Systems")["Members@odata.count"], 2);
    }

    #[test]
    fn a_snapshot_is_kept_reverted_to_cloned_and_removed() {
        let mut client = Client::new(Role::Operator);
        let answer = client.post(&action("Snapshot"), r#"{"Name":"before"}"#);
        assert_eq!((answer.status, answer.get("Location")), (201, Some("/redfish/v1/Oem/Salp/Snapshots/4")));
        assert_eq!(client.read("/redfish/v1/Systems")["Members@odata.count"], 2);
        assert_eq!(client.read("/redfish/v1/Oem/Salp/Snapshots")["Members@odata.count"], 1);
        let revert = |client: &mut Client, link: &str| {
            client.post(&action("Revert"), &format!(r#"{{"Snapshot":{{"@odata.id":"{link}"}}}}"#)).status
        };
        assert_eq!(revert(&mut client, "/redfish/v1/Oem/Salp/Snapshots/4"), 204);
        assert_eq!(revert(&mut client, "/redfish/v1/Oem/Salp/Snapshots/5"), 400);
        assert_eq!(revert(&mut client, "/redfish/v1/Systems/4"), 400);
        let clone = "/redfish/v1/Oem/Salp/Snapshots/4/Actions/SalpSnapshot.InstantClone";
        assert_eq!(client.post(clone, r#"{"Name":"again"}"#).get("Location"), Some("/redfish/v1/Systems/5"));
        let delete = client.request(Method::Delete, "/redfish/v1/Oem/Salp/Snapshots/4", "");
        assert_eq!(client.send(&delete).status, 204);
        assert_eq!(client.send(&delete).status, 404);
        assert_eq!(revert(&mut client, "/redfish/v1/Oem/Salp/Snapshots/4"), 400);
    }

    #[test]
    fn a_clone_has_the_uuid_and_the_segment_that_it_is_given() {
        let mut client = Client::new(Role::Operator);
        let uuid = "12345678-9abc-4def-8123-456789abcdef";
        let body = format!(r#"{{"Name":"w","UUID":"{uuid}","NicsToUpdate":[{{"Id":"0","Segment":"dmz"}}]}}"#);
        let answer = client.post(&action("InstantClone"), &body);
        assert_eq!((answer.status, &json(&answer)["UUID"]), (201, &json!(uuid)));
        let nic = client.read("/redfish/v1/Systems/4/EthernetInterfaces/0");
        assert_eq!((&nic["Oem"]["Salp"]["Segment"], &nic["InterfaceEnabled"]), (&json!("dmz"), &json!(true)));
        let body = r#"{"Name":"x","DisconnectAllNics":true}"#;
        assert_eq!(client.post(&action("InstantClone"), body).status, 201);
        assert_eq!(client.read("/redfish/v1/Systems/5/EthernetInterfaces/0")["InterfaceEnabled"], false);
    }
}
