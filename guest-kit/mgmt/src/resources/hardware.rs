//! What VMs and the host consist of: processors, memory, a chassis. Before: [`table`](crate::table). After:
//! [`hypervisor`](crate::hypervisor).

use alloc::format;
use alloc::string::String;

use salp_json::json;

use super::managers::SALP;
use super::systems::{self, find, path};
use super::{Call, Outcome, collection, nics};
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

/// Answers the host's chassis.
pub fn chassis(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Resource(json!({
        "@odata.id": CHASSIS,
        "@odata.type": "#Chassis.v1_28_0.Chassis",
        "Id": "1",
        "Name": "Host",
        "ChassisType": "StandAlone",
        "PowerState": "On",
        "Status": { "State": "Enabled", "Health": "OK" },
        "Processors": { "@odata.id": format!("{CHASSIS}/Processors") },
        "Memory": { "@odata.id": format!("{CHASSIS}/Memory") },
        "Links": {
            "ComputerSystems": systems::links(call.hypervisor),
            "ManagedBy": [{ "@odata.id": SALP }],
            "ManagersInChassis": [{ "@odata.id": SALP }],
        },
    })))
}

/// Lists the machine's CPUs.
pub fn cpus(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let path = format!("{CHASSIS}/Processors");
    let count = (0..).take_while(|&index| call.hypervisor.cpu(index).is_ok()).count();
    let members = (0..count).map(|index| format!("{path}/{index}"));
    Ok(Outcome::Resource(collection(&path, "ProcessorCollection", "CPUs", members)))
}

/// Who makes CPUs, by MIDR_EL1 (Arm ARM).
const MAKERS: [(u64, &str); 7] = [
    (0x41, "Arm"),
    (0x42, "Broadcom"),
    (0x43, "Cavium"),
    (0x48, "HiSilicon"),
    (0x4e, "NVIDIA"),
    (0x51, "Qualcomm"),
    (0xc0, "Ampere"),
];

/// What Arm's cores are called, by the part number in MIDR_EL1.
const CORES: [(u64, &str); 14] = [
    (0xd03, "Cortex-A53"),
    (0xd04, "Cortex-A35"),
    (0xd05, "Cortex-A55"),
    (0xd07, "Cortex-A57"),
    (0xd08, "Cortex-A72"),
    (0xd09, "Cortex-A73"),
    (0xd0a, "Cortex-A75"),
    (0xd0b, "Cortex-A76"),
    (0xd0c, "Neoverse N1"),
    (0xd40, "Neoverse V1"),
    (0xd49, "Neoverse N2"),
    (0xd4f, "Neoverse V2"),
    (0xd84, "Neoverse V3"),
    (0xd8e, "Neoverse N3"),
];

/// Answers one of the machine's CPUs.
pub fn cpu(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let index = nics::index(call.variables[0]).ok_or_else(|| call.missing())?;
    let cpu = call.hypervisor.cpu(index).map_err(|_| call.missing())?;
    let (maker, part) = (cpu.model >> 24 & 0xff, cpu.model >> 4 & 0xfff);
    let known =
        |table: &[(u64, &'static str)], number| table.iter().find(|(known, _)| *known == number).map(|&(_, name)| name);
    let mut value = json!({
        "@odata.id": format!("{CHASSIS}/Processors/{index}"),
        "@odata.type": "#Processor.v1_22_0.Processor",
        "Id": format!("{index}"),
        "Name": format!("CPU {index}"),
        "ProcessorType": "CPU",
        "ProcessorArchitecture": "ARM",
        "InstructionSet": "ARM-A64",
        "TotalCores": 1,
        "TotalThreads": 1,
        "ProcessorId": {
            "VendorId": format!("{maker:#04x}"),
            "IdentificationRegisters": format!("{:#010x}", cpu.model),
            "EffectiveModel": format!("{part:#05x}"),
            "Step": format!("{:#x}", cpu.model & 0xf),
        },
        "Status": { "State": "Enabled", "Health": "OK" },
    });
    if let Some(maker) = known(&MAKERS, maker) {
        value["Manufacturer"] = maker.into();
    }
    if let Some(core) = known(&CORES, part).filter(|_| maker == MAKERS[0].0) {
        value["Model"] = core.into();
    }
    Ok(Outcome::Resource(value))
}

/// Lists the machine's memory: one piece.
pub fn machine_memories(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let path = format!("{CHASSIS}/Memory");
    let members = [format!("{path}/1")].into_iter();
    Ok(Outcome::Resource(collection(&path, "MemoryCollection", "Memory", members)))
}

/// Answers the machine's memory.
pub fn machine_memory(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let machine = call.hypervisor.machine().map_err(|refused| Failure::refused(refused, CHASSIS))?;
    Ok(Outcome::Resource(json!({
        "@odata.id": format!("{CHASSIS}/Memory/1"),
        "@odata.type": "#Memory.v1_23_0.Memory",
        "Id": "1",
        "Name": "RAM",
        "MemoryType": "DRAM",
        "CapacityMiB": machine.total.get() >> 20,
        "Status": { "State": "Enabled", "Health": "OK" },
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

    #[test]
    fn the_machine_has_its_cpus_and_its_ram() {
        let mut client = Client::new(Role::ReadOnly);
        let cpu = client.read("/redfish/v1/Chassis/1/Processors/0");
        assert_eq!((&cpu["Manufacturer"], &cpu["Model"]), (&"Arm".into(), &"Neoverse N1".into()));
        assert_eq!(cpu["ProcessorId"]["IdentificationRegisters"], "0x410fd0c1");
        assert_eq!(client.read("/redfish/v1/Chassis/1/Memory/1")["CapacityMiB"], 4096);
        assert_eq!(
            client.read("/redfish/v1/Chassis/1")["Links"]["ComputerSystems"][0]["@odata.id"],
            "/redfish/v1/Systems/2"
        );
        assert_eq!(client.get("/redfish/v1/Chassis/1/Processors/1").status, 404);
    }
}
