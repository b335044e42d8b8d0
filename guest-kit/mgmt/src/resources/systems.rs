//! VMs. Before: [`table`](crate::table). After: [`hypervisor`](crate::hypervisor).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use salp_hvc::calls::{MAX_CLONES, STATE_ENDING, STATE_FROZEN, STATE_NO_MEMORY, STATE_RUNNING, STATE_SNAPSHOT, VmInfo};
use serde_json::{Value, json};

use super::body::Body;
use super::managers::SALP;
use super::{Call, Outcome, collection, snapshots, uuid};
use crate::hypervisor::{self, Answer, Cloning, Hypervisor, is_name, name_text};
use crate::message::Failure;

const SYSTEMS: &str = "/redfish/v1/Systems";

/// What can be reset today.
const RESET_TYPES: [&str; 2] = ["Pause", "Resume"];

/// Returns where a VM is.
pub fn path(id: u64) -> String {
    format!("{SYSTEMS}/{id}")
}

/// Lists VMs.
pub fn list(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = hypervisor::all(call.hypervisor).filter(|info| info.state.get() != STATE_SNAPSHOT);
    let members = members.map(|info| path(info.id.get()));
    Ok(Outcome::Resource(collection(SYSTEMS, "ComputerSystemCollection", "Virtual machines", members)))
}

/// Returns the VM of the path.
fn find(call: &Call<'_>) -> Result<VmInfo, Failure> {
    hypervisor::vm(call.hypervisor, call.id()?).map_err(|refused| Failure::refused(refused, &call.request.path))
}

/// Answers a VM.
pub fn system(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Resource(value(&find(call)?)))
}

/// Returns a VM as it is shown.
fn value(info: &VmInfo) -> Value {
    let id = info.id.get();
    let path = path(id);
    let oem = |action: &str| json!({ "target": format!("{path}/Actions/Oem/SalpComputerSystem.{action}") });
    let (power, state, health) = match info.state.get() {
        STATE_RUNNING => ("On", "Enabled", "OK"),
        STATE_FROZEN => ("Paused", "Quiesced", "OK"),
        STATE_NO_MEMORY => ("Paused", "Quiesced", "Critical"),
        _ => ("PoweringOff", "Enabled", "OK"),
    };
    let mut value = json!({
        "@odata.id": path,
        "@odata.type": "#ComputerSystem.v1_27_0.ComputerSystem",
        "Id": format!("{id}"),
        "Name": name_text(&info.name),
        "SystemType": "Virtual",
        "UUID": uuid(&info.uuid),
        "PowerState": power,
        "Status": { "State": state, "Health": health },
        "ProcessorSummary": { "CoreCount": info.vcpus.get() },
        "MemorySummary": { "TotalSystemMemoryGiB": gibibytes(info.memory.get()) },
        "Links": { "ManagedBy": [{ "@odata.id": SALP }] },
        "Actions": {
            "#ComputerSystem.Reset": {
                "target": format!("{path}/Actions/ComputerSystem.Reset"),
                "ResetType@Redfish.AllowableValues": RESET_TYPES,
            },
            "Oem": {
                "#SalpComputerSystem.InstantClone": oem("InstantClone"),
                "#SalpComputerSystem.Freeze": oem("Freeze"),
                "#SalpComputerSystem.Unfreeze": oem("Unfreeze"),
                "#SalpComputerSystem.Snapshot": oem("Snapshot"),
                "#SalpComputerSystem.Revert": oem("Revert"),
            },
        },
        "Oem": { "Salp": {
            "@odata.type": "#SalpComputerSystem.v1_0_0.ComputerSystem",
            "FamilyId": format!("{}", info.family.get()),
            "GenerationId": uuid(&info.generation),
            "MACAddress": mac(&info.mac),
            "IdentityAcknowledged": info.acknowledged.get() == 1,
            "WaitsForMemory": info.state.get() == STATE_NO_MEMORY,
            "PromisedBytes": info.promised.get(),
            "Memory": { "@odata.id": format!("{path}/Oem/Salp/Memory") },
            "Statistics": {
                "Exits": info.exits.get(),
                "Faults": info.faults.get(),
                "CopiedPages": info.copied_pages.get(),
                "CopiedTables": info.copied_nodes.get(),
                "MergedPages": info.merged_pages.get(),
                "LastPauseNanoseconds": info.pause.get(),
            },
        } },
    });
    if info.source.get() != 0 {
        // The source may be gone: its identifier, not a link.
        value["Oem"]["Salp"]["SourceId"] = format!("{}", info.source.get()).into();
        value["Oem"]["Salp"]["CloneIndex"] = info.index.get().into();
    }
    value
}

/// Returns bytes as GiB: a whole number where it is one.
fn gibibytes(bytes: u64) -> Value {
    if bytes.is_multiple_of(1 << 30) { json!(bytes >> 30) } else { json!(bytes as f64 / (1u64 << 30) as f64) }
}

/// Returns a MAC address as text.
fn mac(bytes: &[u8; 6]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(":")
}

/// Answers what a VM has of memory, counted now.
pub fn memory(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = find(call)?.id.get();
    let memory = call.hypervisor.memory(id).map_err(|refused| Failure::refused(refused, &call.request.path))?;
    Ok(Outcome::Resource(json!({
        "@odata.id": format!("{}/Oem/Salp/Memory", path(id)),
        "@odata.type": "#SalpMemory.v1_0_0.Memory",
        "Id": "Memory",
        "Name": "Memory, shared and private",
        "Statistics": {
            "PrivateBytes": memory.private.get(),
            "SharedBytes": memory.shared.get(),
            "OverheadBytes": memory.overhead.get(),
            "SavedBytes": memory.saved.get(),
        },
    })))
}

/// Carries out `act` on the VM of the path.
fn act(call: &mut Call<'_>, act: impl FnOnce(&mut dyn Hypervisor, u64) -> Answer<()>) -> Result<Outcome, Failure> {
    let info = find(call)?;
    if info.state.get() == STATE_ENDING {
        return Err(Failure::new(409, "ResourceInUse", &[]));
    }
    act(call.hypervisor, info.id.get()).map_err(|refused| Failure::refused(refused, &call.request.path))?;
    Ok(Outcome::Done)
}

/// Removes a VM.
pub fn delete(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    act(call, |hypervisor, id| hypervisor.destroy(id))
}

/// Pauses and resumes.
pub fn reset(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_action(call.request, "ComputerSystem.Reset")?;
    let kind = body.needed_word("ResetType", &RESET_TYPES);
    body.finish()?;
    act(
        call,
        |hypervisor, id| if kind.as_deref() == Some("Pause") { hypervisor.freeze(id) } else { hypervisor.unfreeze(id) },
    )
}

/// Freezes a VM.
pub fn freeze(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Body::of_action(call.request, "SalpComputerSystem.Freeze")?.finish()?;
    act(call, |hypervisor, id| hypervisor.freeze(id))
}

/// Lets a frozen VM go on.
pub fn unfreeze(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Body::of_action(call.request, "SalpComputerSystem.Unfreeze")?.finish()?;
    act(call, |hypervisor, id| hypervisor.unfreeze(id))
}

/// Makes clones of the VM of the path.
pub fn instant_clone(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let source = find(call)?.id.get();
    clones(call, source, "SalpComputerSystem.InstantClone")
}

/// Makes clones of a VM or a snapshot: one is answered as itself, more as links.
pub fn clones(call: &mut Call<'_>, source: u64, action: &'static str) -> Result<Outcome, Failure> {
    let mut body = Body::of_action(call.request, action)?;
    let name = body.text("Name", is_name);
    let count = body.number("Count", 1..=MAX_CLONES.into());
    let config = body.lines("Config");
    body.finish()?;
    let request = Cloning {
        source,
        // The range above fits.
        count: count.unwrap_or(1) as u32,
        name: name.as_deref().unwrap_or_default(),
        config: config.as_deref().unwrap_or_default(),
        uuid: None,
        disconnected: false,
    };
    let what = |refused| Failure::refused(refused, &call.request.path);
    let (first, last) = call.hypervisor.clone_vm(&request).map_err(what)?;
    let value = if first == last {
        // It may have ended itself already: it was made, and that is answered.
        call.hypervisor.find(first).map_or_else(|_| json!({ "@odata.id": path(first) }), |info| value(&info))
    } else {
        let members: Vec<Value> = (first..=last).map(|id| json!({ "@odata.id": path(id) })).collect();
        json!({ "Members@odata.count": members.len(), "Members": members })
    };
    Ok(Outcome::Created { value, location: path(first), token: None })
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
    use crate::testing::{Client, json, keys};
    use alloc::format;

    fn action(name: &str) -> alloc::string::String {
        format!("/redfish/v1/Systems/2/Actions/Oem/SalpComputerSystem.{name}")
    }

    #[test]
    fn vms_are_listed_without_the_one_that_lists_them() {
        let systems = Client::new(Role::ReadOnly).read("/redfish/v1/Systems");
        assert_eq!(systems["Members@odata.count"], 2);
        assert_eq!(systems["Members"][0]["@odata.id"], "/redfish/v1/Systems/2");
        assert_eq!(Client::new(Role::ReadOnly).get("/redfish/v1/Systems/1").status, 404);
    }

    #[test]
    fn a_vm_is_found_by_its_number_as_it_is_written() {
        let mut client = Client::new(Role::ReadOnly);
        assert_eq!(client.read("/redfish/v1/Systems/2")["MemorySummary"]["TotalSystemMemoryGiB"], 0.5);
        for id in ["0", "02", "+2", "-2", "2a", "web", "99", "18446744073709551615", "18446744073709551616", ""] {
            assert_eq!(client.get(&format!("/redfish/v1/Systems/{id}/")).status, 404, "{id:?}");
        }
    }

    #[test]
    fn pausing_and_resuming_follow_each_other() {
        let mut client = Client::new(Role::Operator);
        let reset = "/redfish/v1/Systems/2/Actions/ComputerSystem.Reset";
        assert_eq!(client.post(reset, r#"{"ResetType":"Pause"}"#).status, 204);
        assert_eq!(client.read("/redfish/v1/Systems/2")["PowerState"], "Paused");
        assert_eq!(client.post(reset, r#"{"ResetType":"Pause"}"#).status, 409);
        assert_eq!(client.post(reset, r#"{"ResetType":"Resume"}"#).status, 204);
        assert_eq!(client.post(&action("Freeze"), "").status, 204);
        assert_eq!(client.post(&action("Unfreeze"), "{}").status, 204);
        assert_eq!(client.read("/redfish/v1/Systems/2")["PowerState"], "On");
    }

    #[test]
    fn a_bad_reset_says_what_to_change() {
        let mut client = Client::new(Role::Operator);
        let mut reset = |body: &str| {
            let answer = client.post("/redfish/v1/Systems/2/Actions/ComputerSystem.Reset", body);
            (answer.status, keys(&answer).concat())
        };
        assert_eq!(reset("{}"), (400, "ActionParameterMissing".into()));
        assert_eq!(reset(r#"{"ResetType":"Nmi"}"#), (400, "ActionParameterValueNotInList".into()));
        assert_eq!(reset(r#"{"ResetType":7}"#), (400, "ActionParameterValueTypeError".into()));
        assert_eq!(reset(r#"{"ResetType":"Pause","X":1}"#), (400, "ActionParameterUnknown".into()));
    }

    #[test]
    fn one_clone_is_answered_as_itself() {
        let mut client = Client::new(Role::Operator);
        let body = r#"{"Name":"w","Config":[{"Key":"role","Value":"worker"}]}"#;
        let answer = client.post(&action("InstantClone"), body);
        assert_eq!((answer.status, answer.get("Location")), (201, Some("/redfish/v1/Systems/4")));
        assert_eq!((&json(&answer)["Name"], &json(&answer)["Oem"]["Salp"]["SourceId"]), (&json!("w"), &json!("2")));
    }

    use serde_json::json;

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
            (r#"{"Name":"x","Count":1000}"#, 507),
            (r#"{"Name":"x","Config":{"a":"b"}}"#, 400),
            (r#"{"Name":"x","Config":[{"Key":"a b","Value":""}]}"#, 400),
            (r#"{"Name":"x","Config":[{"Key":"a","Value":"b\nc=d"}]}"#, 400),
            (r#"{"Name":"x","UUID":"y"}"#, 400),
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
    fn a_vm_that_is_removed_is_gone() {
        let mut client = Client::new(Role::Operator);
        let delete = client.request(Method::Delete, "/redfish/v1/Systems/3", "");
        assert_eq!(client.send(&delete).status, 204);
        assert_eq!(client.get("/redfish/v1/Systems/3").status, 404);
        assert_eq!(client.send(&delete).status, 404);
    }
}
