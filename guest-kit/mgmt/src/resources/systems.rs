//! VMs: what they are. [`power`](super::power), [`clones`](super::clones), [`making`](super::making) and
//! [`nics`](super::nics) are what can be done to them. Before: [`table`](crate::table). After:
//! [`hypervisor`](crate::hypervisor).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_hvc::calls::{
    STATE_ENDING, STATE_FROZEN, STATE_NO_MEMORY, STATE_OFF, STATE_RUNNING, STATE_SNAPSHOT, VmInfo, state_word,
};
use salp_hvc::manager::ImageInfo;
use salp_json::{Value, json};

use super::managers::SALP;
use super::power::RESET_TYPES;
use super::{Call, Outcome, boot, collection, console, hardware, logs, making, media, nics, uuid};
use crate::agent;
use crate::hypervisor::{self, Answer, Hypervisor, name_text};
use crate::images::label::Label;
use crate::images::{self, Library};
use crate::message::Failure;
use crate::systems;
use crate::telemetry::figures;

/// Where VMs are.
pub const SYSTEMS: &str = "/redfish/v1/Systems";

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

/// Returns links to all VMs.
pub fn links(hypervisor: &dyn Hypervisor) -> Vec<Value> {
    let vms = hypervisor::all(hypervisor).filter(|info| info.state.get() != STATE_SNAPSHOT);
    vms.map(|info| json!({ "@odata.id": path(info.id.get()) })).collect()
}

/// Returns the VM of the path.
pub fn find(call: &Call<'_>) -> Result<VmInfo, Failure> {
    hypervisor::vm(call.hypervisor, call.id()?).map_err(|refused| Failure::refused(refused, &call.request.path))
}

/// Answers a VM.
pub fn system(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let info = find(call)?;
    Ok(Outcome::Resource(value(call.hypervisor, call.library, &info)))
}

/// Returns a VM as it is shown.
pub fn value(hypervisor: &dyn Hypervisor, library: &Library, info: &VmInfo) -> Value {
    let id = info.id.get();
    let path = path(id);
    let oem = |action: &str| json!({ "target": format!("{path}/Actions/Oem/SalpComputerSystem.{action}") });
    let (power, state, health) = match info.state.get() {
        STATE_RUNNING => ("On", "Enabled", "OK"),
        STATE_FROZEN => ("Paused", "Quiesced", "OK"),
        STATE_NO_MEMORY => ("Paused", "Quiesced", "Critical"),
        STATE_OFF => ("Off", "StandbyOffline", "OK"),
        _ => ("PoweringOff", "Enabled", "OK"),
    };
    let mut value = json!({
        "@odata.id": &path,
        "@odata.type": "#ComputerSystem.v1_27_0.ComputerSystem",
        "Id": format!("{id}"),
        "Name": name_text(&info.name).to_string(),
        "SystemType": "Virtual",
        "Manufacturer": "Salp",
        "Model": "Virtual machine",
        "UUID": uuid(&info.uuid),
        "PowerState": power,
        "Status": { "State": state, "Health": health },
        "ProcessorSummary": { "Count": info.vcpus.get(), "CoreCount": info.vcpus.get() },
        "MemorySummary": { "TotalSystemMemoryGiB": gibibytes(info.memory.get()) },
        "EthernetInterfaces": { "@odata.id": nics::collection_path(id) },
        "SerialConsole": {
            "MaxConcurrentSessions": console::MOST,
            "WebSocket": { "ServiceEnabled": true, "ConsoleURI": console::path(id), "Interactive": true },
        },
        "GraphicalConsole": { "ServiceEnabled": false, "MaxConcurrentSessions": 0, "ConnectTypesSupported": [] },
        "Processors": { "@odata.id": hardware::processors_path(id) },
        "Memory": { "@odata.id": hardware::memory_path(id) },
        "LogServices": { "@odata.id": logs::path(&path) },
        "Links": { "ManagedBy": [{ "@odata.id": SALP }], "Chassis": [{ "@odata.id": hardware::CHASSIS }] },
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
            "@odata.type": "#SalpComputerSystem.v1_0_0.SalpComputerSystem",
            "State": state_word(info.state.get()),
            "FamilyId": format!("{}", info.family.get()),
            "GenerationId": uuid(&info.generation),
            "MACAddress": mac(&info.mac),
            "IdentityAcknowledged": info.acknowledged.get() == 1,
            "ConsoleURI": console::path(id),
            "WaitsForMemory": info.state.get() == STATE_NO_MEMORY,
            "PromisedBytes": info.promised.get(),
            "Memory": { "@odata.id": format!("{path}/Oem/Salp/Memory") },
            "Statistics": figures::of_vm(hypervisor, info),
        } },
    });
    let note = library.notes(hypervisor).of(id);
    value["AssetTag"] = note.tag.into();
    if !note.description.is_empty() {
        value["Description"] = note.description.into();
    }
    value["Boot"] = boot::value(id, &library.boots(hypervisor).of(id));
    value["VirtualMedia"] = json!({ "@odata.id": media::collection_path(id) });
    if info.source.get() != 0 {
        // The source may be gone: its identifier, not a link.
        value["Oem"]["Salp"]["SourceId"] = format!("{}", info.source.get()).into();
        value["Oem"]["Salp"]["CloneIndex"] = info.index.get().into();
    }
    if let Some(told) = agent::find(hypervisor, info) {
        value["HostName"] = agent::host_name(&told.report).to_string().into();
        value["Oem"]["Salp"]["Agent"] = agent::value(&told);
    }
    if let Some(definition) = systems::definition(hypervisor, library, info) {
        let oem = &mut value["Oem"]["Salp"];
        for (name, image) in [("Kernel", Some(definition.kernel)), ("Initrd", definition.initrd)] {
            let known = |(info, label): &&(ImageInfo, Label)| image == Some(info.id.get()) && label.kind().is_visible();
            if let Some((_, label)) = library.all(hypervisor).iter().find(known) {
                oem[name] = json!({ "@odata.id": images::path(label) });
            }
        }
        oem["CommandLine"] = definition.command_line.into();
        oem["RestartPolicy"] = making::restart_policy(definition.restarts).into();
        oem["SmallPages"] = definition.small_pages.into();
        for (name, address) in [("LoadAddress", definition.flat.load), ("EntryAddress", definition.flat.entry)] {
            if let Some(address) = address {
                oem[name] = address.into();
            }
        }
    }
    value
}

/// Returns bytes as GiB: a whole number where it is one.
fn gibibytes(bytes: u64) -> Value {
    if bytes.is_multiple_of(1 << 30) { json!(bytes >> 30) } else { json!(bytes as f64 / (1u64 << 30) as f64) }
}

/// Returns a MAC address as text.
pub fn mac(bytes: &[u8; 6]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(":")
}

/// Answers what a VM has of memory, counted now.
pub fn memory(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = find(call)?.id.get();
    let memory = call.hypervisor.memory(id).map_err(|refused| Failure::refused(refused, &call.request.path))?;
    Ok(Outcome::Resource(json!({
        "@odata.id": format!("{}/Oem/Salp/Memory", path(id)),
        "@odata.type": "#SalpMemory.v1_0_0.SalpMemory",
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
pub fn act(call: &mut Call<'_>, act: impl FnOnce(&mut dyn Hypervisor, u64) -> Answer<()>) -> Result<Outcome, Failure> {
    let info = find(call)?;
    if info.state.get() == STATE_ENDING {
        return Err(Failure::new(409, "ResourceInUse", &[]));
    }
    act(call.hypervisor, info.id.get()).map_err(|refused| Failure::refused(refused, &call.request.path))?;
    Ok(Outcome::Done)
}

/// Removes a VM.
pub fn delete(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let done = act(call, |hypervisor, id| hypervisor.destroy(id))?;
    // What was made for it alone goes with it.
    images::sweep(call.hypervisor, call.now);
    Ok(done)
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::http::Method;
    use crate::testing::Client;
    use alloc::format;

    #[test]
    fn vms_are_listed_without_the_one_that_lists_them() {
        let systems = Client::new(Role::ReadOnly).read("/redfish/v1/Systems");
        assert_eq!(systems["Members@odata.count"], 2);
        assert_eq!(systems["Members"][0]["@odata.id"], "/redfish/v1/Systems/2");
        assert_eq!(Client::new(Role::ReadOnly).get("/redfish/v1/Systems/1").status, 404);
    }

    #[test]
    fn many_vms_cost_one_look_at_the_images() {
        let mut client = Client::full();
        let clone = "/redfish/v1/Systems/4/Actions/ComputerSystem.Reset";
        assert_eq!(client.post(clone, r#"{"ResetType":"On"}"#).status, 204);
        let clone = "/redfish/v1/Systems/4/Actions/Oem/SalpComputerSystem.InstantClone";
        assert_eq!(client.post(clone, r#"{"Name":"many","Count":50}"#).status, 201);
        let before = crate::fake::LOOKS.get();
        let systems = client.read("/redfish/v1/Systems?$expand=.");
        let members = systems["Members"].as_array().unwrap();
        let made =
            |vm: &&serde_json::Value| vm["Oem"]["Salp"]["Kernel"]["@odata.id"] == "/redfish/v1/Oem/Salp/Images/k";
        assert_eq!(members.iter().filter(made).count(), 51);
        assert_eq!(crate::fake::LOOKS.get() - before, 1);
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
    fn a_vm_that_is_removed_is_gone() {
        let mut client = Client::new(Role::Operator);
        let delete = client.request(Method::Delete, "/redfish/v1/Systems/3", "");
        assert_eq!(client.send(&delete).status, 204);
        assert_eq!(client.get("/redfish/v1/Systems/3").status, 404);
        assert_eq!(client.send(&delete).status, 404);
    }
}
