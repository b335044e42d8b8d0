//! What agents tell of their guests, as clients see it. Before: [`hypervisor`](crate::hypervisor). After:
//! [`systems`](crate::resources::systems), [`nics`](crate::resources::nics), [`events`](crate::events).

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use salp_hvc::agent::{AGENT_APPLICATION, AGENT_WATCHES, AgentInfo, AgentReport};
use salp_hvc::calls::{STATE_ENDING, STATE_OFF, STATE_SNAPSHOT, VmInfo};
use salp_json::{Value, json};

use crate::hypervisor::{Hypervisor, name_text};

/// After how long without a heartbeat a guest is silent, in nanoseconds.
const PATIENCE: u64 = 30 * SECOND;
const SECOND: u64 = 1_000_000_000;

/// Whether a guest and its application are up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Its agent tells that it lives.
    pub guest: bool,
    /// Its agent tells that the application lives.
    pub application: bool,
}

/// Returns what a VM's agent has told; nothing if there is none, or nobody whom it tells of.
pub fn find(hypervisor: &dyn Hypervisor, info: &VmInfo) -> Option<AgentInfo> {
    if matches!(info.state.get(), STATE_OFF | STATE_ENDING | STATE_SNAPSHOT) {
        return None;
    }
    hypervisor.agent(info.id.get()).ok().filter(|told| told.report.version.get() != 0)
}

/// Returns whether a VM's guest and its application are up.
pub fn life(hypervisor: &dyn Hypervisor, info: &VmInfo) -> Life {
    find(hypervisor, info).map(|told| of(&told)).unwrap_or_default()
}

fn of(told: &AgentInfo) -> Life {
    let guest = told.age.get() <= PATIENCE;
    Life { guest, application: guest && told.report.flags.get() & AGENT_APPLICATION != 0 }
}

/// Returns the host name that a guest tells.
pub fn host_name(report: &AgentReport) -> &str {
    name_text(&report.host_name)
}

/// Returns the IPv4 and IPv6 addresses that a guest tells of the NIC with this MAC address, or of all.
pub fn addresses(report: &AgentReport, mac: Option<&[u8; 6]>) -> (Vec<String>, Vec<String>) {
    let mut found = (Vec::new(), Vec::new());
    for nic in report.nics.iter().filter(|nic| mac.is_none_or(|mac| *mac == nic.mac)) {
        if nic.ipv4 != [0; 4] {
            found.0.push(Ipv4Addr::from(nic.ipv4).to_string());
        }
        if nic.ipv6 != [0; 16] {
            found.1.push(Ipv6Addr::from(nic.ipv6).to_string());
        }
    }
    found
}

/// Returns what an agent has told as it is shown.
pub fn value(told: &AgentInfo) -> Value {
    let life = of(told);
    let (mut all, six) = addresses(&told.report, None);
    all.extend(six);
    let mut value = json!({
        "GuestState": if life.guest { "Up" } else { "Silent" },
        "HostName": host_name(&told.report).to_string(),
        "Addresses": all,
        "Statistics": {
            "Heartbeats": told.heartbeats.get(),
            "HeartbeatAgeSeconds": told.age.get() / SECOND,
        },
    });
    if told.report.flags.get() & AGENT_WATCHES != 0 {
        value["ApplicationState"] = if life.application { "Up" } else { "Down" }.into();
        if told.application_age.get() != u64::MAX {
            value["Statistics"]["ApplicationHeartbeatAgeSeconds"] = (told.application_age.get() / SECOND).into();
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::testing::Client;
    use serde_json::json;

    #[test]
    fn a_vm_shows_what_its_agent_tells_and_a_clone_does_not() {
        let mut client = Client::new(Role::Operator);
        let web = client.read("/redfish/v1/Systems/2");
        let agent = &web["Oem"]["Salp"]["Agent"];
        assert_eq!((&web["HostName"], &agent["GuestState"]), (&json!("web.example"), &json!("Up")));
        assert_eq!((&agent["ApplicationState"], &agent["Addresses"]), (&json!("Up"), &json!(["10.0.0.3", "fd00::3"])));
        let nic = client.read("/redfish/v1/Systems/2/EthernetInterfaces/0");
        // What it was seen with, and what it tells.
        assert_eq!(nic["IPv4Addresses"], json!([{ "Address": "10.0.0.2" }, { "Address": "10.0.0.3" }]));
        assert_eq!(nic["IPv6Addresses"], json!([{ "Address": "fd00::3" }]));
        let action = "/redfish/v1/Systems/2/Actions/Oem/SalpComputerSystem.InstantClone";
        assert_eq!(client.post(action, r#"{"Name":"copy"}"#).status, 201);
        let clone = client.read("/redfish/v1/Systems/4");
        assert_eq!((clone.get("HostName"), clone["Oem"]["Salp"].get("Agent")), (None, None));
    }

    #[test]
    fn a_vm_that_is_off_has_no_agent_and_a_new_start_waits_for_its_own() {
        let mut client = Client::new(Role::Operator);
        for kind in ["ForceOff", "On"] {
            let body = alloc::format!(r#"{{"ResetType":"{kind}"}}"#);
            client.post("/redfish/v1/Systems/2/Actions/ComputerSystem.Reset", &body);
            assert_eq!(client.read("/redfish/v1/Systems/2")["Oem"]["Salp"].get("Agent"), None, "{kind}");
        }
    }
}
