//! The host: the one manager. Before: [`table`](crate::table). After: [`hypervisor`](crate::hypervisor).

use alloc::format;

use serde_json::json;

use super::hardware::CHASSIS;
use super::{Call, Outcome, collection, logs, time, uuid};
use crate::message::Failure;

/// Where the host is.
pub const SALP: &str = "/redfish/v1/Managers/salp";

/// Lists managers.
pub fn list(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = [SALP.into()].into_iter();
    Ok(Outcome::Resource(collection("/redfish/v1/Managers", "ManagerCollection", "Managers", members)))
}

/// Answers the host.
pub fn salp(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let machine = call.hypervisor.machine().map_err(|refused| Failure::refused(refused, SALP))?;
    Ok(Outcome::Resource(json!({
        "@odata.id": SALP,
        "@odata.type": "#Manager.v1_24_0.Manager",
        "Id": "salp",
        "Name": "Salp",
        "ManagerType": "Service",
        "UUID": uuid(&call.facts.uuid),
        "FirmwareVersion": env!("CARGO_PKG_VERSION"),
        "PowerState": "On",
        "Status": { "State": "Enabled", "Health": if machine.starved.get() == 0 { "OK" } else { "Warning" } },
        "DateTime": time(call.now),
        "DateTimeLocalOffset": "+00:00",
        "ServiceIdentification": "salp",
        "LogServices": { "@odata.id": logs::path(SALP) },
        "Links": { "ManagerForChassis": [{ "@odata.id": CHASSIS }], "ManagerInChassis": { "@odata.id": CHASSIS } },
        "NetworkProtocol": { "@odata.id": format!("{SALP}/NetworkProtocol") },
        "EthernetInterfaces": { "@odata.id": format!("{SALP}/EthernetInterfaces") },
        "Oem": { "Salp": {
            "@odata.type": "#SalpManager.v1_0_0.SalpManager",
            "Statistics": {
                "TotalBytes": machine.total.get(),
                "FreeBytes": machine.free.get(),
                "PromisedBytes": machine.promised.get(),
                "GuestBytes": machine.guests.get(),
                "TableBytes": machine.nodes.get(),
                "HypervisorBytes": machine.hypervisor.get(),
                "ImageBytes": machine.images.get(),
                "VirtualMachines": machine.vms.get(),
                "WaitingForMemory": machine.starved.get(),
                "Processors": machine.cpus.get(),
                "UptimeNanoseconds": machine.uptime.get(),
                "IdleNanoseconds": machine.idle.get(),
            },
        } },
    })))
}
