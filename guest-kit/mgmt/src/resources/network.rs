//! How the host is reached: the protocol and the NICs of this guest. Before: [`table`](crate::table). After:
//! [`certificates`](super::certificates), [`hypervisor`](crate::hypervisor).

use alloc::format;

use salp_hvc::calls::VmInfo;
use serde_json::json;

use super::managers::SALP;
use super::{Call, Outcome, certificates, collection, nics};
use crate::hypervisor;
use crate::message::Failure;

/// Where HTTPS is.
pub const HTTPS: &str = "/redfish/v1/Managers/salp/NetworkProtocol/HTTPS";

/// Where NICs of this guest are.
const NICS: &str = "/redfish/v1/Managers/salp/EthernetInterfaces";

/// Answers what is spoken.
pub fn protocol(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Resource(json!({
        "@odata.id": format!("{SALP}/NetworkProtocol"),
        "@odata.type": "#ManagerNetworkProtocol.v1_12_0.ManagerNetworkProtocol",
        "Id": "NetworkProtocol",
        "Name": "What is spoken",
        "Status": { "State": "Enabled", "Health": "OK" },
        "HTTP": { "ProtocolEnabled": false },
        "HTTPS": {
            "ProtocolEnabled": true,
            "Port": 443,
            "Certificates": { "@odata.id": certificates::collection_path() },
        },
    })))
}

/// Returns this guest among VMs; none where there are no VMs.
fn own(call: &Call<'_>) -> Option<VmInfo> {
    let own = call.hypervisor.own_uuid()?;
    hypervisor::everything(call.hypervisor).find(|info| info.uuid == own)
}

/// Lists NICs of this guest.
pub fn list(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let count = own(call).map_or(0, |info| info.nics.get());
    let members = (0..count).map(|index| format!("{NICS}/{index}"));
    Ok(Outcome::Resource(collection(NICS, "EthernetInterfaceCollection", "NICs of the management guest", members)))
}

/// Answers a NIC of this guest. It is not changed here: who did could cut off the branch that everybody sits on.
pub fn nic(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let index = nics::index(call.variables[0]).ok_or_else(|| call.missing())?;
    let id = own(call).ok_or_else(|| call.missing())?.id.get();
    let nic = call.hypervisor.nic(id, index).map_err(|_| call.missing())?;
    Ok(Outcome::Resource(nics::value(NICS, index, &nic, None)))
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::testing::Client;

    #[test]
    fn the_host_tells_how_it_is_reached() {
        let mut client = Client::new(Role::ReadOnly);
        let protocol = client.read("/redfish/v1/Managers/salp/NetworkProtocol");
        assert_eq!((&protocol["HTTPS"]["Port"], &protocol["HTTP"]["ProtocolEnabled"]), (&443.into(), &false.into()));
        let nic = client.read("/redfish/v1/Managers/salp/EthernetInterfaces/0");
        assert_eq!(nic["MACAddress"], "52:54:00:00:00:01");
        assert_eq!(client.get("/redfish/v1/Managers/salp/EthernetInterfaces/1").status, 404);
    }
}
