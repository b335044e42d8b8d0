//! How the host is reached: the protocol and the NICs of this guest. Before: [`table`](crate::table). After:
//! [`certificates`](super::certificates), [`hypervisor`](crate::hypervisor).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use salp_hvc::calls::VmInfo;
use salp_json::json;

use super::body::Body;
use super::fields::{Field, Shape, field, needed};
use super::managers::SALP;
use super::{Call, Outcome, certificates, collection, nics};
use crate::appliance::{SERVERS, Set, Settings, is_host_name};
use crate::message::Failure;
use crate::{hypervisor, sntp};

/// Where HTTPS is.
pub const HTTPS: &str = "/redfish/v1/Managers/salp/NetworkProtocol/HTTPS";

/// Where NICs of this guest are.
const NICS: &str = "/redfish/v1/Managers/salp/EthernetInterfaces";

const HOST: Shape = Shape::Text("^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$");
const DOTTED: Shape = Shape::Text("^[0-9]{1,3}(\\.[0-9]{1,3}){3}$");

/// What can be changed of what is spoken.
pub const PROTOCOL_FIELDS: &[Field] = &[
    field("HostName", HOST),
    field(
        "NTP",
        Shape::Object(&[
            field("ProtocolEnabled", Shape::Flag),
            field("NTPServers", Shape::Texts(SERVERS, "^[A-Za-z0-9.:-]{1,253}$")),
        ]),
    ),
];

/// What can be changed of the first NIC.
pub const FIELDS: &[Field] = &[
    field("DHCPv4", Shape::Object(&[field("DHCPEnabled", Shape::Flag)])),
    field(
        "IPv4StaticAddresses",
        Shape::List(1, &[needed("Address", DOTTED), needed("SubnetMask", DOTTED), field("Gateway", DOTTED)]),
    ),
    field(
        "IPv6StaticAddresses",
        Shape::List(
            1,
            &[needed("Address", Shape::Text("^[0-9a-fA-F:.]{2,45}$")), needed("PrefixLength", Shape::Number(1, 128))],
        ),
    ),
    field("StaticNameServers", Shape::Texts(SERVERS, "^[0-9a-fA-F:.]{2,45}$")),
    field("FQDN", Shape::Text("^[A-Za-z0-9.-]{1,253}$")),
    field("HostName", HOST),
];

/// Answers what is spoken, and what this guest is called.
pub fn protocol(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let settings = call.appliance.settings();
    Ok(Outcome::Resource(json!({
        "@odata.id": format!("{SALP}/NetworkProtocol"),
        "@odata.type": "#ManagerNetworkProtocol.v1_12_0.ManagerNetworkProtocol",
        "Id": "NetworkProtocol",
        "Name": "What is spoken",
        "Status": { "State": "Enabled", "Health": "OK" },
        "HostName": &settings.host_name,
        "FQDN": settings.full_name(),
        "HTTP": { "ProtocolEnabled": false },
        "HTTPS": {
            "ProtocolEnabled": true,
            "Port": 443,
            "Certificates": { "@odata.id": certificates::collection_path() },
        },
        "NTP": { "ProtocolEnabled": settings.asks_time, "Port": sntp::PORT, "NTPServers": &settings.time_servers },
    })))
}

/// Changes the name and the time servers.
pub fn patch_protocol(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_resource(call.request)?;
    let name = body.text("HostName", |text| is_host_name(text) && !text.contains('.'));
    let there = call.appliance.settings().time_servers.clone();
    let ntp = body.inside("NTP", |body| {
        let is_server = |text: &str| is_host_name(text) || text.parse::<IpAddr>().is_ok();
        (body.flag("ProtocolEnabled"), body.texts_over("NTPServers", SERVERS, &there, is_server))
    });
    let ignored = body.finish_change()?;
    let (is_enabled, servers) = ntp.unwrap_or_default();
    let change = |settings: &mut Settings| {
        settings.host_name = name.unwrap_or(core::mem::take(&mut settings.host_name));
        settings.asks_time = is_enabled.unwrap_or(settings.asks_time);
        settings.time_servers = servers.unwrap_or(core::mem::take(&mut settings.time_servers));
    };
    call.appliance.change(call.hypervisor, change).map_err(|refused| Failure::refused(refused, &call.request.path))?;
    protocol(call).map(|outcome| ignored.tell(outcome))
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

/// Answers a NIC of this guest. The first one is its own, and can be changed.
pub fn nic(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let index = nics::index(call.variables[0]).ok_or_else(|| call.missing())?;
    let id = own(call).ok_or_else(|| call.missing())?.id.get();
    let nic = call.hypervisor.nic(id, index).map_err(|_| call.missing())?;
    let mut value = nics::value(NICS, index, &nic, None);
    if index > 0 {
        return Ok(Outcome::Resource(value));
    }
    let (settings, reached) = (call.appliance.settings(), &call.appliance.reached);
    let texts = |all: &[IpAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    value["HostName"] = settings.host_name.clone().into();
    value["FQDN"] = settings.full_name().into();
    value["DHCPv4"] = json!({ "DHCPEnabled": settings.dhcp.unwrap_or(reached.is_dhcp) });
    value["NameServers"] = texts(&reached.name_servers).into();
    value["StaticNameServers"] = texts(&settings.name_servers).into();
    let of_set = settings.ipv4.iter().map(|set| {
        let mut one = json!({ "Address": set.address.to_string(), "SubnetMask": mask(set.prefix) });
        if let Some(gateway) = set.gateway {
            one["Gateway"] = gateway.to_string().into();
        }
        one
    });
    value["IPv4StaticAddresses"] = of_set.collect::<Vec<_>>().into();
    let of_set =
        settings.ipv6.iter().map(|set| json!({ "Address": set.address.to_string(), "PrefixLength": set.prefix }));
    value["IPv6StaticAddresses"] = of_set.collect::<Vec<_>>().into();
    if let Some((address, prefix)) = reached.ipv4 {
        let origin = if reached.is_dhcp { "DHCP" } else { "Static" };
        let mut one = json!({ "Address": address.to_string(), "SubnetMask": mask(prefix), "AddressOrigin": origin });
        if let Some(gateway) = reached.gateway4 {
            one["Gateway"] = gateway.to_string().into();
        }
        value["IPv4Addresses"] = json!([one]);
    }
    if !reached.ipv6.is_empty() {
        let one = |(address, prefix): &(Ipv6Addr, u8)| {
            let is_static = settings.ipv6.is_some_and(|set| set.address == *address);
            let origin = match () {
                () if is_static => "Static",
                () if address.segments()[0] & 0xffc0 == 0xfe80 => "LinkLocal",
                () => "SLAAC",
            };
            json!({ "Address": address.to_string(), "PrefixLength": prefix, "AddressOrigin": origin, "AddressState": "Preferred" })
        };
        value["IPv6Addresses"] = reached.ipv6.iter().map(one).collect::<Vec<_>>().into();
    }
    Ok(Outcome::Resource(value))
}

/// Returns a prefix as a mask.
fn mask(prefix: u8) -> String {
    Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)).to_string()
}

/// Reads a mask, and returns the length of its prefix.
fn read_mask(text: &str) -> Option<u8> {
    let bits = u32::from(text.parse::<Ipv4Addr>().ok()?);
    let prefix = bits.leading_ones() as u8;
    (mask(prefix).parse() == Ok(Ipv4Addr::from(bits)) && (1..=30).contains(&prefix)).then_some(prefix)
}

/// Returns whether a host can have this address.
fn is_host(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_broadcast() && !address.is_multicast() && !address.is_loopback()
}

/// Changes how this guest is reached. It does so a moment after the answer.
pub fn patch(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    nic(call)?;
    if call.variables[0] != "0" {
        return Err(Failure::because(409, "Only the first NIC is this guest's own."));
    }
    let mut body = Body::of_resource(call.request)?;
    let dhcp = body.inside("DHCPv4", |body| body.flag("DHCPEnabled")).flatten();
    let now = call.appliance.settings();
    let ipv4 = body.each("IPv4StaticAddresses", 1, |body| {
        if body.is_empty() {
            return now.ipv4;
        }
        let read = |text: &str| text.parse::<Ipv4Addr>().ok().filter(|address| is_host(*address));
        let (address, prefix) = (body.needed_parsed("Address", read), body.needed_parsed("SubnetMask", read_mask));
        let gateway = body.parsed("Gateway", read);
        address.zip(prefix).map(|(address, prefix)| Set { address, prefix, gateway })
    });
    let ipv6 = body.each("IPv6StaticAddresses", 1, |body| {
        if body.is_empty() {
            return now.ipv6;
        }
        let is_host =
            |address: &Ipv6Addr| !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
        let address = body.needed_parsed("Address", |text| text.parse::<Ipv6Addr>().ok().filter(is_host));
        let prefix = body.number("PrefixLength", 1..=128);
        body.needed("PrefixLength", &prefix);
        // The range above fits.
        address.zip(prefix).map(|(address, prefix)| Set { address, prefix: prefix as u8, gateway: None })
    });
    let there: Vec<String> = now.name_servers.iter().map(ToString::to_string).collect();
    let servers = body.texts_over("StaticNameServers", SERVERS, &there, |text| text.parse::<IpAddr>().is_ok());
    let name = body.text("FQDN", is_host_name);
    let host_name = body.text("HostName", |text| is_host_name(text) && !text.contains('.'));
    let has_address = ipv4.as_ref().map_or(now.ipv4.is_some(), |all| !all.is_empty());
    if dhcp == Some(false) && !has_address {
        body.refuse("DHCPv4/DHCPEnabled", "Without DHCP there has to be an address in IPv4StaticAddresses.");
    }
    let ignored = body.finish_change()?;
    let change = |settings: &mut Settings| {
        settings.ipv4 = ipv4.map_or(settings.ipv4, |all| all.into_iter().flatten().next());
        settings.ipv6 = ipv6.map_or(settings.ipv6, |all| all.into_iter().flatten().next());
        settings.dhcp = dhcp.or(settings.dhcp);
        if settings.ipv4.is_none() && settings.dhcp == Some(false) {
            settings.dhcp = Some(true);
        }
        if let Some(servers) = servers {
            settings.name_servers = servers.iter().filter_map(|text| text.parse().ok()).collect();
        }
        if let Some(name) = name {
            let (host, domain) = name.split_once('.').unwrap_or((&name, ""));
            (settings.host_name, settings.domain) = (host.into(), domain.into());
        }
        settings.host_name = host_name.unwrap_or(core::mem::take(&mut settings.host_name));
    };
    call.appliance.change(call.hypervisor, change).map_err(|refused| Failure::refused(refused, &call.request.path))?;
    nic(call).map(|outcome| ignored.tell(outcome))
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::http::Method;
    use crate::testing::{Client, json};
    use serde_json::json;

    #[test]
    fn the_host_tells_how_it_is_reached() {
        let mut client = Client::new(Role::ReadOnly);
        let protocol = client.read("/redfish/v1/Managers/salp/NetworkProtocol");
        assert_eq!((&protocol["HTTPS"]["Port"], &protocol["HTTP"]["ProtocolEnabled"]), (&443.into(), &false.into()));
        let nic = client.read("/redfish/v1/Managers/salp/EthernetInterfaces/0");
        assert_eq!(nic["MACAddress"], "52:54:00:00:00:01");
        assert_eq!(client.get("/redfish/v1/Managers/salp/EthernetInterfaces/1").status, 404);
    }

    const NIC: &str = "/redfish/v1/Managers/salp/EthernetInterfaces/0";

    #[test]
    fn an_operator_says_how_the_host_is_reached() {
        let mut client = Client::new(Role::Administrator);
        let mut patch = |body: &str| {
            let answer = client.send(&client.request(Method::Patch, NIC, body));
            (answer.status, json(&answer))
        };
        let address = r#"{"Address":"10.0.0.5","SubnetMask":"255.255.255.0","Gateway":"10.0.0.1"}"#;
        let body = alloc::format!(
            r#"{{"DHCPv4":{{"DHCPEnabled":false}},"IPv4StaticAddresses":[{address}],"FQDN":"a.example.org","StaticNameServers":["9.9.9.9"]}}"#
        );
        let (status, nic) = patch(&body);
        assert_eq!(
            (status, &nic["DHCPv4"]["DHCPEnabled"], &nic["FQDN"]),
            (200, &json!(false), &json!("a.example.org"))
        );
        assert_eq!(nic["IPv4StaticAddresses"][0]["SubnetMask"], "255.255.255.0");
        for bad in [
            r#"{"IPv4StaticAddresses":[{"Address":"10.0.0.5"}]}"#,
            r#"{"IPv4StaticAddresses":[{"Address":"224.0.0.5","SubnetMask":"255.255.255.0"}]}"#,
            r#"{"IPv4StaticAddresses":[{"Address":"10.0.0.5","SubnetMask":"255.0.255.0"}]}"#,
            r#"{"IPv6StaticAddresses":[{"Address":"::1","PrefixLength":64}]}"#,
            r#"{"StaticNameServers":["a"]}"#,
            r#"{"IPv4StaticAddresses":[],"DHCPv4":{"DHCPEnabled":false}}"#,
        ] {
            assert_eq!(patch(bad).0, 400, "{bad}");
        }
        assert_eq!(
            patch(r#"{"IPv4StaticAddresses":[]}"#).1["DHCPv4"]["DHCPEnabled"],
            true,
            "it has to be reached somehow"
        );
        assert_eq!(client.service.appliance.version(), 2);
    }

    #[test]
    fn an_operator_names_time_servers() {
        let mut client = Client::new(Role::Administrator);
        let path = "/redfish/v1/Managers/salp/NetworkProtocol";
        let mut patch = |body: &str| {
            let answer = client.send(&client.request(Method::Patch, path, body));
            (answer.status, json(&answer))
        };
        let (status, protocol) =
            patch(r#"{"HostName":"b","NTP":{"ProtocolEnabled":true,"NTPServers":["time.example.org","10.0.0.1"]}}"#);
        assert_eq!(
            (status, &protocol["NTP"]["NTPServers"][1], &protocol["HostName"]),
            (200, &json!("10.0.0.1"), &json!("b"))
        );
        let servers = |answer: (u16, serde_json::Value)| answer.1["NTP"]["NTPServers"].clone();
        assert_eq!(servers(patch(r#"{"NTP":{"NTPServers":[{},"c"]}}"#)), json!(["time.example.org", "c"]));
        assert_eq!(servers(patch(r#"{"NTP":{"NTPServers":[null,{}]}}"#)), json!(["c"]));
        assert_eq!(patch(r#"{"NTP":{"NTPServers":["a b"]}}"#).0, 400);
        assert_eq!(patch(r#"{"HostName":"a.b"}"#).0, 400);
    }
}
