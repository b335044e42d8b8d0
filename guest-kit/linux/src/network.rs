//! The network part of an identity: MAC address, addresses and default routes of one interface.
//!
//! [`apply`](crate::apply) calls it; [`netlink`](crate::netlink) does the changes. A change of the MAC address takes the
//! interface down and up again, so that nothing that the kernel made of the old one stays (an IPv6 link-local address); what
//! goes away with that and is still right is put back.

use crate::config::Config;
use crate::identity::{Identity, Mac};
use crate::netlink::{Gateway, Held, Link, Prefix, Request, Socket};
use crate::report::Report;
use anyhow::{Context, Result, anyhow, ensure};
use std::fmt::Display;
use std::net::IpAddr;

/// What the configuration says of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    interface: Option<String>,
    mac: Option<Mac>,
    addresses: Vec<Prefix>,
    gateways: Vec<IpAddr>,
}

impl Wanted {
    fn read(config: &Config) -> Result<Self> {
        let words = |key| config.get(key).unwrap_or_default().split_whitespace();
        let gateway = |word: &str| word.parse().with_context(|| format!("gateway: {word} is no address"));
        Ok(Self {
            interface: config.get("interface").map(String::from),
            mac: config.get("mac").map(mac).transpose()?,
            addresses: words("address").map(|word| word.parse().context("address")).collect::<Result<_>>()?,
            gateways: words("gateway").map(gateway).collect::<Result<_>>()?,
        })
    }
}

fn mac(text: &str) -> Result<Mac> {
    let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
    let byte = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| is_byte(part));
    let bytes: Option<Vec<u8>> = text.split([':', '-']).map(byte).collect();
    let mac = bytes.and_then(|bytes| bytes.try_into().ok()).map(Mac);
    mac.with_context(|| format!("mac: {text} is none, as 52:54:00:12:34:56 is"))
}

/// An interface as it is.
#[derive(Clone, Debug)]
struct Interface {
    link: Link,
    addresses: Vec<Held>,
    gateways: Vec<Gateway>,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Plan {
    mac: Vec<Request>,
    addresses: Vec<Request>,
    gateways: Vec<Request>,
}

impl Plan {
    fn new(now: &Interface, wanted: &Wanted, mac: Option<Mac>) -> Self {
        let mut plan = Self::default();
        let restarts = now.link.up;
        if let Some(mac) = mac.filter(|_| mac != now.link.mac) {
            plan.mac = vec![Request::SetMac(mac)];
            if restarts {
                plan.mac = vec![Request::Down, Request::SetMac(mac), Request::Up];
                // IPv4 addresses survive that; others come back by themselves, as they came.
                let lost = now.addresses.iter().filter(|held| held.permanent && held.prefix.address.is_ipv6());
                plan.mac.extend(lost.map(|held| Request::Add(held.prefix)).filter(|_| wanted.addresses.is_empty()));
            }
        }
        let held = now.addresses.iter().map(|held| held.prefix);
        if !wanted.addresses.is_empty() {
            let old = held.clone().filter(|prefix| !wanted.addresses.contains(prefix));
            plan.addresses.extend(old.map(Request::Remove));
            plan.addresses.extend((!now.link.up).then_some(Request::Up));
            plan.addresses.extend(wanted.addresses.iter().copied().map(Request::Add));
        }
        let networks = if wanted.addresses.is_empty() { held.collect() } else { wanted.addresses.clone() };
        let given = |family: IpAddr| wanted.gateways.iter().any(|gateway| gateway.is_ipv4() == family.is_ipv4());
        // A clone's network usually is its source's: the way out of it is kept where its addresses still lead there.
        let kept = now.gateways.iter().filter(|gateway| {
            let disturbed = !plan.mac.is_empty() || !plan.addresses.is_empty();
            disturbed && !given(gateway.address) && reaches(&networks, gateway.address)
        });
        let new = wanted.gateways.iter().map(|&address| Gateway { address, metric: 0 });
        plan.gateways = new.chain(kept.copied()).map(Request::Route).collect();
        plan
    }
}

fn reaches(networks: &[Prefix], gateway: IpAddr) -> bool {
    let link_local = matches!(gateway, IpAddr::V6(address) if address.is_unicast_link_local());
    link_local || networks.iter().any(|network| network.contains(gateway))
}

/// Takes the network part of an identity on. Returns whether nothing failed: if something did, this VM may still answer to
/// its source's addresses.
pub fn take_on(identity: &Identity, report: &mut Report<'_>) -> bool {
    let found = Wanted::read(&identity.config).and_then(|wanted| Ok((find(&wanted)?, wanted)));
    match found {
        Ok((Some((mut socket, interface)), wanted)) => change(&mut socket, &interface, &wanted, identity.mac, report),
        Ok((None, _)) => {
            report.say("interface", "there is none to configure");
            true
        }
        Err(error) => {
            report.fail("network", &error);
            false
        }
    }
}

/// Looks at the interface that is to be configured; there need not be one if the configuration wants nothing of it.
fn find(wanted: &Wanted) -> Result<Option<(Socket, Interface)>> {
    let mut socket = Socket::open()?;
    let links = socket.links()?;
    let Some(link) = choose(&links, wanted)? else { return Ok(None) };
    let (addresses, gateways) = (socket.addresses(link.index)?, socket.gateways(link.index)?);
    Ok(Some((socket, Interface { link, addresses, gateways })))
}

fn choose(links: &[Link], wanted: &Wanted) -> Result<Option<Link>> {
    if let Some(name) = &wanted.interface {
        let names = || links.iter().map(|link| &*link.name).collect::<Vec<_>>().join(", ");
        let found = links.iter().find(|link| link.name == *name);
        return found.cloned().map(Some).with_context(|| format!("there is no interface {name}, but {}", names()));
    }
    let others = || links.iter().filter(|link| !link.loopback);
    let found = others().find(|link| link.ethernet).or_else(|| others().next());
    ensure!(
        found.is_some() || *wanted == Wanted::default(),
        "there is no interface but the loopback one, which the configuration would have to name (interface=lo)"
    );
    Ok(found.cloned())
}

fn change(
    socket: &mut Socket,
    interface: &Interface,
    wanted: &Wanted,
    register: [u8; 6],
    report: &mut Report<'_>,
) -> bool {
    let (name, index) = (&interface.link.name, interface.link.index);
    let usual = Some(Mac(register)).filter(|_| !interface.link.loopback && register != [0; 6]);
    let mac = wanted.mac.or(usual);
    let plan = Plan::new(interface, wanted, mac);
    let mut perform = |requests: &[Request]| perform(socket, index, requests).with_context(|| name.clone());
    let mut clean = true;
    match mac {
        None => report.say("mac", format_args!("{name} keeps its own")),
        Some(mac) if plan.mac.is_empty() => report.say("mac", format_args!("{name} {mac} as before")),
        Some(mac) if wanted.mac.is_some() => {
            clean &= report.step("mac", format_args!("{name} {mac}"), || perform(&plan.mac));
        }
        Some(mac) => report.step_if_possible("mac", format_args!("{name} {mac}"), || perform(&plan.mac)),
    }
    if wanted.addresses.is_empty() {
        let held: Vec<Prefix> = interface.addresses.iter().map(|held| held.prefix).collect();
        let held = if held.is_empty() { "none".into() } else { list(&held) };
        report.say("address", format_args!("none is configured, {name} keeps what it has: {held}"));
    } else {
        let what = format!("{name} {}", list(&wanted.addresses));
        clean &= report.step("address", what, || perform(&plan.addresses));
    }
    if plan.gateways.is_empty() {
        report.say("gateway", "none is configured");
    } else {
        let gateways: Vec<IpAddr> = plan.gateways.iter().filter_map(gateway).collect();
        clean &= report.step("gateway", list(&gateways), || perform(&plan.gateways));
    }
    clean
}

fn gateway(request: &Request) -> Option<IpAddr> {
    if let Request::Route(gateway) = request { Some(gateway.address) } else { None }
}

/// Makes all changes, whichever fail: an interface that was taken down comes up again.
fn perform(socket: &mut Socket, index: u32, requests: &[Request]) -> Result<()> {
    let results = requests.iter().map(|request| socket.change(index, request));
    let errors: Vec<String> = results.filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if errors.is_empty() { Ok(()) } else { Err(anyhow!(errors.join("; "))) }
}

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
    const NEW: Mac = Mac([0x52, 0x54, 0, 0, 0, 2]);

    fn wanted(config: &str) -> Wanted {
        Wanted::read(&Config::read(config.as_bytes())).expect("a configuration")
    }

    fn mistake(config: &str) -> String {
        format!("{:#}", Wanted::read(&Config::read(config.as_bytes())).expect_err("a mistake"))
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("an address with a prefix")
    }

    fn held(text: &str) -> Held {
        Held { prefix: prefix(text), permanent: true }
    }

    fn link(index: u32, name: &str) -> Link {
        let loopback = name == "lo";
        Link { index, name: name.into(), loopback, ethernet: name.starts_with("eth"), up: true, mac: Some(OLD) }
    }

    fn route(address: &str, metric: u32) -> Gateway {
        Gateway { address: address.parse().expect("an address"), metric }
    }

    fn source() -> Interface {
        Interface {
            link: link(2, "eth0"),
            addresses: vec![held("10.0.0.4/24"), held("fd00::4/64")],
            gateways: vec![route("10.0.0.1", 100), route("fe80::1", 1024)],
        }
    }

    #[test]
    fn a_new_mac_address_takes_the_interface_down_and_what_that_loses_is_put_back() {
        let plan = Plan::new(&source(), &wanted(""), Some(NEW));
        let readded = Request::Add(prefix("fd00::4/64"));
        assert_eq!(plan.mac, [Request::Down, Request::SetMac(NEW), Request::Up, readded]);
        assert_eq!(plan.addresses, []);
        assert_eq!(plan.gateways, [Request::Route(route("10.0.0.1", 100)), Request::Route(route("fe80::1", 1024))]);
    }

    #[test]
    fn an_address_that_the_interface_got_for_a_time_is_not_put_back() {
        let mut now = source();
        now.addresses[1].permanent = false;
        let plan = Plan::new(&now, &wanted(""), Some(NEW));
        assert_eq!(plan.mac, [Request::Down, Request::SetMac(NEW), Request::Up]);
    }

    #[test]
    fn new_addresses_replace_all_that_the_interface_had() {
        let plan = Plan::new(&source(), &wanted("address=10.0.0.5/24 10.0.0.4/24\n"), Some(OLD));
        assert_eq!(plan.mac, []);
        let adds = ["10.0.0.5/24", "10.0.0.4/24"].map(|text| Request::Add(prefix(text)));
        assert_eq!(plan.addresses, [Request::Remove(prefix("fd00::4/64")), adds[0], adds[1]]);
    }

    #[test]
    fn an_interface_that_is_down_comes_up_with_its_first_address() {
        let now = Interface { link: Link { up: false, ..link(2, "eth0") }, addresses: vec![], gateways: vec![] };
        let plan = Plan::new(&now, &wanted("address=10.0.0.5/24\n"), Some(NEW));
        assert_eq!(plan.mac, [Request::SetMac(NEW)]);
        assert_eq!(plan.addresses, [Request::Up, Request::Add(prefix("10.0.0.5/24"))]);
    }

    #[test]
    fn a_gateway_that_the_new_addresses_do_not_lead_to_is_left_out() {
        let plan = Plan::new(&source(), &wanted("address=10.0.1.5/24\n"), None);
        assert_eq!(plan.gateways, [Request::Route(route("fe80::1", 1024))]);
    }

    #[test]
    fn a_configured_gateway_replaces_the_one_of_its_family() {
        let plan = Plan::new(&source(), &wanted("address=10.0.0.5/24\ngateway=10.0.0.2\n"), None);
        assert_eq!(plan.gateways, [Request::Route(route("10.0.0.2", 0)), Request::Route(route("fe80::1", 1024))]);
    }

    #[test]
    fn nothing_is_done_to_an_interface_that_is_as_wanted() {
        assert_eq!(Plan::new(&source(), &wanted(""), Some(OLD)), Plan::default());
        assert_eq!(Plan::new(&source(), &wanted(""), None), Plan::default());
    }

    #[test]
    fn the_first_ethernet_interface_is_configured_unless_another_is_named() {
        let links = [link(1, "lo"), link(2, "sit0"), link(3, "eth0"), link(4, "eth1")];
        let chosen = |links: &[Link], config| choose(links, &wanted(config)).map(|link| link.map(|link| link.name));
        assert_eq!(chosen(&links, "").expect("chosen").as_deref(), Some("eth0"));
        assert_eq!(chosen(&links, "interface=lo\n").expect("chosen").as_deref(), Some("lo"));
        assert_eq!(chosen(&links[..2], "").expect("chosen").as_deref(), Some("sit0"));
        assert_eq!(chosen(&links[..1], "").expect("nothing to do"), None);
        let refusal = chosen(&links[..1], "address=10.0.0.5/24\n").expect_err("refused").to_string();
        assert!(refusal.contains("interface=lo"), "{refusal}");
        let refusal = chosen(&links, "interface=eth7\n").expect_err("refused").to_string();
        assert_eq!(refusal, "there is no interface eth7, but lo, sit0, eth0, eth1");
    }

    #[test]
    fn mistakes_in_the_configuration_are_said() {
        assert_eq!(mistake("mac=52:54:00\n"), "mac: 52:54:00 is none, as 52:54:00:12:34:56 is");
        assert!(mistake("mac=+2:54:00:12:34:56\n").contains("is none"));
        assert!(mistake("gateway=router\n").starts_with("gateway: router is no address"));
        assert!(mistake("address=10.0.0.5\n").contains("prefix"));
    }
}
