//! What VMs and the host consist of: processors, memory, a chassis. Before: [`table`](crate::table). After:
//! [`hypervisor`](crate::hypervisor).

use alloc::format;
use alloc::string::String;

use serde_json::json;

use super::managers::SALP;
use super::systems::{find, path};
use super::{Call, Outcome, collection};
use crate::message::Failure;

/// Where the host's chassis is.
pub const CHASSIS: &str = "/redfish/v1/Chassis/1";

/// Returns where the processors of a VM are.
pub fn processors_path(id: u64) -> String {
    path(id) + "/Processors"
}

/// Returns where the memory of a VM is.
pub fn memory_path(id: u64) -> String {
    path(id) + "/Memory"
}

/// Lists the processors of a VM: one with all vCPUs.
pub fn processors(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let path = processors_path(find(call)?.id.get());
    let members = [format!("{path}/1")].into_iter();
    Ok(Outcome::Resource(collection(&path, "ProcessorCollection", "Processors", members)))
}

/// Answers the processor of a VM.
pub fn processor(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let info = find(call)?;
    let count = info.vcpus.get();
    Ok(Outcome::Resource(json!({
        "@odata.id": processors_path(info.id.get()) + "/1",
        "@odata.type": "#Processor.v1_22_0.Processor",
        "Id": "1",
        "Name": "vCPUs",
        "ProcessorType": "CPU",
        "ProcessorArchitecture": "ARM",
        "InstructionSet": "ARM-A64",
        "TotalCores": count,
        "TotalEnabledCores": count,
        "TotalThreads": count,
        "Status": { "State": "Enabled", "Health": "OK" },
    })))
}

/// Lists the memory of a VM: one piece.
pub fn memories(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let path = memory_path(find(call)?.id.get());
    let members = [format!("{path}/1")].into_iter();
    Ok(Outcome::Resource(collection(&path, "MemoryCollection", "Memory", members)))
}

/// Answers the memory of a VM.
pub fn memory(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let info = find(call)?;
    Ok(Outcome::Resource(json!({
        "@odata.id": memory_path(info.id.get()) + "/1",
        "@odata.type": "#Memory.v1_23_0.Memory",
        "Id": "1",
        "Name": "RAM",
        "MemoryType": "DRAM",
        "CapacityMiB": info.memory.get() >> 20,
        "Status": { "State": "Enabled", "Health": "OK" },
    })))
}

/// Lists chassis.
pub fn chassis_list(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = [CHASSIS.into()].into_iter();
    Ok(Outcome::Resource(collection("/redfish/v1/Chassis", "ChassisCollection", "Chassis", members)))
}

/// Answers the host's chassis, of which nothing is known but that it is on.
pub fn chassis(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Resource(json!({
        "@odata.id": CHASSIS,
        "@odata.type": "#Chassis.v1_28_0.Chassis",
        "Id": "1",
        "Name": "Host",
        "ChassisType": "StandAlone",
        "PowerState": "On",
        "Status": { "State": "Enabled", "Health": "OK" },
        "Links": { "ManagedBy": [{ "@odata.id": SALP }], "ManagersInChassis": [{ "@odata.id": SALP }] },
    })))
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::testing::Client;

    #[test]
    fn a_vm_has_its_vcpus_and_its_ram() {
        let mut client = Client::new(Role::ReadOnly);
        assert_eq!(client.read("/redfish/v1/Systems/2/Processors/1")["TotalThreads"], 1);
        assert_eq!(client.read("/redfish/v1/Systems/2/Memory/1")["CapacityMiB"], 512);
        for path in ["Systems/9/Processors", "Systems/2/Processors/0", "Systems/9/Memory/1", "Chassis/2"] {
            assert_eq!(client.get(&alloc::format!("/redfish/v1/{path}")).status, 404, "{path}");
        }
    }
}
