//! NICs of VMs. Before: [`table`](crate::table). After: [`hypervisor`](crate::hypervisor).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use salp_hvc::agent::AgentReport;
use salp_hvc::manager::{LINK_DISCONNECTED, LINK_QUARANTINED, LINK_UP, NicChange, NicInfo};
use salp_json::{Value, json};

use super::body::Body;
use super::fields::{Field, RATE, SEGMENT, Shape, VLAN, field};
use super::systems::{find, mac, path};
use super::{Call, Outcome, collection};
use crate::agent;
use crate::hypervisor::{is_segment, name_text, padded};
use crate::message::Failure;

/// The highest rate, in bytes a second.
pub const MAX_RATE: u64 = 1 << 40;
/// The highest VLAN.
pub const MAX_VLAN: u64 = 4094;

/// Returns where the NICs of a VM are.
pub fn collection_path(id: u64) -> String {
    path(id) + "/EthernetInterfaces"
}

/// Reads the identifier of a NIC: its number, as this service writes it.
pub fn index(text: &str) -> Option<u64> {
    text.parse().ok().filter(|index: &u64| index.to_string() == text)
}

/// Lists the NICs of a VM.
pub fn list(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let info = find(call)?;
    let path = collection_path(info.id.get());
    let members = (0..info.nics.get()).map(|index| format!("{path}/{index}"));
    Ok(Outcome::Resource(collection(&path, "EthernetInterfaceCollection", "NICs", members)))
}

/// Returns the NIC of the path, and whose it is.
fn find_nic(call: &Call<'_>) -> Result<(u64, u64, NicInfo), Failure> {
    let id = find(call)?.id.get();
    let index = index(call.variables[1]).ok_or_else(|| call.missing())?;
    let what = |refused| Failure::refused(refused, &call.request.path);
    call.hypervisor.nic(id, index).map(|nic| (id, index, nic)).map_err(what)
}

/// Answers a NIC.
pub fn nic(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let (id, index, nic) = find_nic(call)?;
    let told = agent::find(call.hypervisor, &find(call)?);
    let report = told.as_ref().map(|told| &told.report);
    Ok(Outcome::Resource(value(&collection_path(id), index, &nic, report)))
}

/// Returns a NIC of those at `place` as it is shown.
pub fn value(place: &str, index: u64, nic: &NicInfo, told: Option<&AgentReport>) -> Value {
    let has = |bit| nic.link.get() & bit != 0;
    let status = match () {
        () if has(LINK_DISCONNECTED) => "NoLink",
        () if has(LINK_UP) => "LinkUp",
        () => "LinkDown",
    };
    let mut value = json!({
        "@odata.id": format!("{place}/{index}"),
        "@odata.type": "#EthernetInterface.v1_12_4.EthernetInterface",
        "Id": format!("{index}"),
        "Name": format!("NIC {index}"),
        "Status": { "State": if has(LINK_DISCONNECTED) { "Disabled" } else { "Enabled" }, "Health": "OK" },
        "InterfaceEnabled": !has(LINK_DISCONNECTED),
        "LinkStatus": status,
        "MACAddress": mac(&nic.mac),
        "PermanentMACAddress": mac(&nic.mac),
        "FullDuplex": true,
        "IPv4Addresses": [],
        "IPv6Addresses": [],
        "VLAN": { "VLANEnable": nic.vlan.get() != 0 },
        "Oem": { "Salp": {
            "@odata.type": "#SalpEthernetInterface.v1_0_0.SalpEthernetInterface",
            "Segment": name_text(&nic.segment).to_string(),
            "Quarantined": has(LINK_QUARANTINED),
            "RateBytesPerSecond": nic.rate.get(),
            "Statistics": {
                "SentFrames": nic.sent[0].get(),
                "SentBytes": nic.sent[1].get(),
                "ReceivedFrames": nic.received[0].get(),
                "ReceivedBytes": nic.received[1].get(),
                "RefusedForQuarantine": nic.refused[0].get(),
                "RefusedForAddress": nic.refused[1].get(),
                "RefusedForRate": nic.refused[2].get(),
                "RefusedMalformed": nic.refused[3].get(),
                "MissedFrames": nic.missed.get(),
            },
        } },
    });
    if nic.vlan.get() != 0 {
        value["VLAN"]["VLANId"] = nic.vlan.get().into();
    }
    // What the guest has claimed, and what its agent tells; how it came to it, nobody but the guest knows.
    let (four, six) = told.map(|report| agent::addresses(report, Some(&nic.mac))).unwrap_or_default();
    let claimed = (nic.ipv4 != [0; 4]).then(|| Ipv4Addr::from(nic.ipv4).to_string());
    value["IPv4Addresses"] = addresses(claimed, four);
    let claimed = (nic.ipv6 != [0; 16]).then(|| Ipv6Addr::from(nic.ipv6).to_string());
    value["IPv6Addresses"] = addresses(claimed, six);
    value
}

/// Returns addresses as they are shown, each once.
fn addresses(claimed: Option<String>, told: Vec<String>) -> Value {
    let told = told.into_iter().filter(|address| claimed.as_ref() != Some(address));
    claimed.iter().cloned().chain(told).map(|address| json!({ "Address": address })).collect::<Vec<_>>().into()
}

/// What somebody wants a NIC to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Whether it is connected.
    pub enabled: Option<bool>,
    segment: Option<String>,
    vlan: Option<u16>,
    rate: Option<u64>,
}

impl Wish {
    /// Returns the change that makes a NIC what is wanted.
    pub fn change(&self, now: &NicInfo) -> NicChange {
        let connected = self.enabled.unwrap_or(now.link.get() & LINK_DISCONNECTED == 0);
        // Another VLAN of the same segment is a move, too.
        let stays = if self.vlan.is_some() { now.segment } else { [0; 16] };
        NicChange {
            segment: self.segment.as_deref().map_or(stays, padded),
            vlan: self.vlan.map_or(now.vlan, Into::into),
            connected: u16::from(connected).into(),
            reserved: 0.into(),
            rate: self.rate.map_or(now.rate, Into::into),
            // A trunk port that is given one VLAN is none any more.
            vlans: if self.vlan.is_some() { Default::default() } else { now.vlans },
        }
    }
}

/// Reads segment, VLAN and rate.
pub fn wish(body: &mut Body) -> Wish {
    Wish {
        enabled: body.flag("InterfaceEnabled"),
        segment: body.text("Segment", is_segment),
        vlan: vlan(body),
        rate: body.number("RateBytesPerSecond", 0..=MAX_RATE),
    }
}

/// Reads `VLAN` as Redfish has it; 0 for none.
pub fn vlan(body: &mut Body) -> Option<u16> {
    let (enabled, id) = body.inside("VLAN", |body| (body.flag("VLANEnable"), body.number("VLANId", 1..=MAX_VLAN)))?;
    match (enabled, id) {
        (Some(false), _) => Some(0),
        // The range above fits.
        (_, Some(id)) => Some(id as u16),
        _ => None,
    }
}

/// What can be changed of a NIC.
pub const FIELDS: &[Field] = &[
    field("InterfaceEnabled", Shape::Flag),
    VLAN,
    field("Oem", Shape::Object(&[field("Salp", Shape::Object(&[field("Segment", SEGMENT), RATE]))])),
];

/// Changes a NIC.
pub fn patch(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let (id, index, now) = find_nic(call)?;
    let mut body = Body::of_resource(call.request)?;
    let mut wish = Wish { enabled: body.flag("InterfaceEnabled"), vlan: vlan(&mut body), ..Wish::default() };
    let oem = body.inside("Oem", |body| {
        body.inside("Salp", |body| (body.text("Segment", is_segment), body.number("RateBytesPerSecond", 0..=MAX_RATE)))
    });
    (wish.segment, wish.rate) = oem.flatten().unwrap_or_default();
    let ignored = body.finish_change()?;
    let what = |refused| Failure::refused(refused, &call.request.path);
    call.hypervisor.change_nic(id, index, &wish.change(&now)).map_err(what)?;
    nic(call).map(|outcome| ignored.tell(outcome))
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::http::Method;
    use crate::testing::{Client, json};
    use serde_json::json;

    const NIC: &str = "/redfish/v1/Systems/2/EthernetInterfaces/0";

    #[test]
    fn a_nic_tells_what_its_guest_has_claimed() {
        let nic = Client::new(Role::ReadOnly).read(NIC);
        assert_eq!((&nic["LinkStatus"], &nic["MACAddress"]), (&json!("LinkUp"), &json!("52:54:00:00:00:02")));
        assert_eq!(nic["IPv4Addresses"][0]["Address"], "10.0.0.2");
    }

    #[test]
    fn a_nic_is_unplugged_and_moved_and_the_rest_stays() {
        let mut client = Client::new(Role::Operator);
        let mut patch = |body: &str| {
            let answer = client.send(&client.request(Method::Patch, NIC, body));
            (answer.status, json(&answer))
        };
        let (status, nic) = patch(r#"{"InterfaceEnabled":false}"#);
        assert_eq!(
            (status, &nic["LinkStatus"], &nic["Oem"]["Salp"]["Segment"]),
            (200, &json!("NoLink"), &json!("lan"))
        );
        let (status, nic) =
            patch(r#"{"VLAN":{"VLANId":7},"Oem":{"Salp":{"Segment":"dmz","RateBytesPerSecond":1000}}}"#);
        assert_eq!((status, &nic["VLAN"]["VLANId"], &nic["LinkStatus"]), (200, &json!(7), &json!("NoLink")));
        let (status, nic) = patch(r#"{"InterfaceEnabled":true,"VLAN":{"VLANEnable":false}}"#);
        assert_eq!((status, &nic["LinkStatus"], &nic["VLAN"]), (200, &json!("LinkUp"), &json!({"VLANEnable":false})));
        assert_eq!(nic["Oem"]["Salp"]["RateBytesPerSecond"], 1000);
        for bad in ["{}", r#"{"MACAddress":"x"}"#, r#"{"VLAN":{"VLANId":4095}}"#, r#"{"Oem":{"Salp":{"Segment":""}}}"#]
        {
            assert_eq!(patch(bad).0, 400, "{bad}");
        }
    }

    #[test]
    fn there_is_no_other_nic() {
        let mut client = Client::new(Role::ReadOnly);
        for id in ["1", "00", "+0", "x", "18446744073709551616"] {
            assert_eq!(
                client.get(&alloc::format!("/redfish/v1/Systems/2/EthernetInterfaces/{id}")).status,
                404,
                "{id}"
            );
        }
    }
}
