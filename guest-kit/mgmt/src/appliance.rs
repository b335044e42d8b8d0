//! The appliance itself: what it is called and how it is reached, where its time comes from, and when it goes. Before:
//! [`resources`](crate::resources). After: [`hypervisor`](crate::hypervisor), and the guest, which makes its interfaces what
//! [`Settings`] say.
//!
//! Settings are kept in a record at EL2. A change is carried out a moment after its answer: it may cut off who asked for it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use salp_hvc::calls::{STATE_OFF, STATE_SNAPSHOT};
use salp_hvc::status;
use salp_json::{Parsed, Value, json};

use crate::hypervisor::{self, Answer, Hypervisor, MachinePower, Refused, Signal};
use crate::state;

/// The most name servers, and the most time servers.
pub const SERVERS: usize = 3;
/// The name at first.
const NAME: &str = "salp";
/// How long guests may take to shut down before the machine goes, in seconds.
const PATIENCE: u64 = 120;

/// An address that was set, and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set<A> {
    /// The address.
    pub address: A,
    /// The length of the prefix.
    pub prefix: u8,
    /// The router, if there is one.
    pub gateway: Option<A>,
}

/// What an operator has set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What it is called.
    pub host_name: String,
    /// The domain that it is in; empty for none.
    pub domain: String,
    /// Whether DHCP gives it its IPv4 address; none if the boot arguments decide.
    pub dhcp: Option<bool>,
    /// Its IPv4 address without DHCP.
    pub ipv4: Option<Set<Ipv4Addr>>,
    /// A further IPv6 address.
    pub ipv6: Option<Set<Ipv6Addr>>,
    /// Name servers in place of those of DHCP.
    pub name_servers: Vec<IpAddr>,
    /// Whether time servers are asked.
    pub asks_time: bool,
    /// Which.
    pub time_servers: Vec<String>,
    /// Entries of the hypervisor's log before this position were cleared.
    pub cleared: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host_name: NAME.to_string(),
            domain: String::new(),
            dhcp: None,
            ipv4: None,
            ipv6: None,
            name_servers: Vec::new(),
            asks_time: false,
            time_servers: Vec::new(),
            cleared: 0,
        }
    }
}

fn set<A: core::str::FromStr>(value: &Parsed) -> Option<Set<A>> {
    let address = |value: &Parsed| value.as_str()?.parse().ok();
    let prefix = value["Prefix"].as_u64().and_then(|prefix| u8::try_from(prefix).ok())?;
    Some(Set { address: address(&value["Address"])?, prefix, gateway: address(&value["Gateway"]) })
}

fn kept<A: ToString>(set: &Option<Set<A>>) -> Value {
    let Some(set) = set else { return Value::Null };
    let gateway = set.gateway.as_ref().map(ToString::to_string);
    json!({ "Address": set.address.to_string(), "Prefix": set.prefix, "Gateway": gateway })
}

impl Settings {
    /// Returns what is kept.
    pub fn recall(hypervisor: &dyn Hypervisor) -> Self {
        let kept = state::recall(hypervisor, state::SETTINGS).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(kept): Option<Parsed> = kept else { return Self::default() };
        let text = |name: &str| kept[name].as_str().unwrap_or_default().to_string();
        let texts = |name: &str| {
            let items = kept[name].as_array().map(|items| &items[..]).unwrap_or_default();
            items.iter().filter_map(|item| item.as_str().map(ToString::to_string)).collect::<Vec<String>>()
        };
        Self {
            host_name: text("HostName"),
            domain: text("Domain"),
            dhcp: kept["Dhcp"].as_bool(),
            ipv4: set(&kept["IPv4"]),
            ipv6: set(&kept["IPv6"]),
            name_servers: texts("NameServers").iter().filter_map(|text| text.parse().ok()).collect(),
            asks_time: kept["AsksTime"] == true,
            time_servers: texts("TimeServers"),
            cleared: kept["Cleared"].as_u64().unwrap_or(0),
        }
    }

    fn keep(&self, hypervisor: &mut dyn Hypervisor) -> Answer<()> {
        let servers: Vec<String> = self.name_servers.iter().map(ToString::to_string).collect();
        let kept = json!({
            "HostName": &self.host_name,
            "Domain": &self.domain,
            "Dhcp": self.dhcp,
            "IPv4": kept(&self.ipv4),
            "IPv6": kept(&self.ipv6),
            "NameServers": servers,
            "AsksTime": self.asks_time,
            "TimeServers": &self.time_servers,
            "Cleared": self.cleared,
        });
        hypervisor.keep(state::SETTINGS, kept.to_string().as_bytes())
    }

    /// Returns the name with its domain.
    pub fn full_name(&self) -> String {
        if self.domain.is_empty() { self.host_name.clone() } else { [&*self.host_name, &self.domain].join(".") }
    }
}

/// Returns whether this can be a host's name: one label, or several with dots between them.
pub fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_good = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (1..=63).contains(&label.len()) && is_good && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// How the guest is reached now, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Its IPv4 address with its prefix.
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// Its IPv4 router.
    pub gateway4: Option<Ipv4Addr>,
    /// Whether DHCP gave it that.
    pub is_dhcp: bool,
    /// Its IPv6 addresses with their prefixes.
    pub ipv6: Vec<(Ipv6Addr, u8)>,
    /// Name servers.
    pub name_servers: Vec<IpAddr>,
}

/// The appliance.
#[derive(Debug, Default)]
pub struct Appliance {
    settings: Settings,
    /// How often settings have changed.
    version: u64,
    /// How it is reached now.
    pub reached: Reached,
    /// What is to become of the machine, and when at the latest, in seconds since 1970.
    leaving: Option<(MachinePower, u64)>,
}

impl Appliance {
    /// Takes what was kept.
    pub fn recall(&mut self, hypervisor: &dyn Hypervisor) {
        self.settings = Settings::recall(hypervisor);
        self.version += 1;
    }

    /// Returns what an operator has set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns how often settings have changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Changes settings, and keeps them.
    ///
    /// # Errors
    ///
    /// If they cannot be kept; they are as before then.
    pub fn change(&mut self, hypervisor: &mut dyn Hypervisor, change: impl FnOnce(&mut Settings)) -> Answer<()> {
        let mut settings = self.settings.clone();
        change(&mut settings);
        if settings != self.settings {
            settings.keep(hypervisor)?;
            (self.settings, self.version) = (settings, self.version + 1);
        }
        Ok(())
    }

    /// Returns true if the guest has an address that others reach it by.
    pub fn is_reached(&self) -> bool {
        let is_far = |(address, _): &(Ipv6Addr, u8)| !address.is_unicast_link_local();
        self.reached.ipv4.is_some() || self.reached.ipv6.iter().any(is_far)
    }

    /// Returns true if the machine is about to go.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Lets the machine go: a moment after the answer, or after its guests were asked to shut down and are off, or have taken too
    /// long.
    pub fn leave(&mut self, hypervisor: &mut dyn Hypervisor, how: MachinePower, is_graceful: bool, now: u64) {
        self.leaving = Some((how, if is_graceful { now + PATIENCE } else { now }));
        if is_graceful {
            let ids: Vec<u64> = running(hypervisor).collect();
            for id in ids {
                // One that does not listen is waited for, and then goes with the machine.
                let _ = hypervisor.signal(id, Signal::Shutdown);
            }
        }
    }

    /// Goes on with that.
    pub fn go_on(&mut self, hypervisor: &mut dyn Hypervisor, now: u64) {
        let Some((how, latest)) = self.leaving else { return };
        if now > latest || (latest > now + 1 && running(hypervisor).next().is_none()) {
            // What is to be written down first keeps it; if it is refused for another reason, there is no such machine below.
            if hypervisor.power(how) != Err(Refused(status::BUSY)) {
                self.leaving = None;
            }
        }
    }
}

/// Returns VMs that are not off.
fn running(hypervisor: &dyn Hypervisor) -> impl Iterator<Item = u64> + '_ {
    let is_on = |info: &salp_hvc::calls::VmInfo| !matches!(info.state.get(), STATE_OFF | STATE_SNAPSHOT);
    hypervisor::all(hypervisor).filter(is_on).map(|info| info.id.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    #[test]
    fn settings_are_kept_as_they_are() {
        let (mut fake, mut appliance) = (Fake::default(), Appliance::default());
        appliance.recall(&fake);
        assert_eq!(*appliance.settings(), Settings::default());
        let wanted = Settings {
            host_name: "a".into(),
            domain: "example.org".into(),
            dhcp: Some(false),
            ipv4: Some(Set {
                address: Ipv4Addr::new(10, 0, 0, 5),
                prefix: 24,
                gateway: Some(Ipv4Addr::new(10, 0, 0, 1)),
            }),
            ipv6: Some(Set { address: Ipv6Addr::LOCALHOST, prefix: 64, gateway: None }),
            name_servers: Vec::from([IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9))]),
            asks_time: true,
            time_servers: Vec::from(["t".to_string()]),
            cleared: 7,
        };
        appliance.change(&mut fake, |settings| settings.clone_from(&wanted)).unwrap();
        let mut later = Appliance::default();
        later.recall(&fake);
        assert_eq!((later.settings(), later.settings().full_name()), (&wanted, "a.example.org".into()));
    }

    #[test]
    fn names_of_hosts_are_those_of_the_standard() {
        assert!(is_host_name("a") && is_host_name("a-1.example.org"));
        for bad in ["", "-a", "a-", "a..b", "a_b", "a b", &"a".repeat(64)] {
            assert!(!is_host_name(bad), "{bad}");
        }
    }

    #[test]
    fn the_machine_waits_for_its_guests_if_it_is_to() {
        let (mut fake, mut appliance) = (Fake::default(), Appliance::default());
        // One of them is frozen, and does not listen.
        appliance.leave(&mut fake, MachinePower::Reset, true, 100);
        appliance.go_on(&mut fake, 101);
        assert!(appliance.is_leaving() && running(&fake).count() == 1);
        fake.stop(3).unwrap();
        appliance.go_on(&mut fake, 102);
        assert!(!appliance.is_leaving());
        appliance.leave(&mut fake, MachinePower::Reset, false, 200);
        appliance.go_on(&mut fake, 200);
        assert!(appliance.is_leaving(), "the answer goes first");
        appliance.go_on(&mut fake, 201);
        assert!(!appliance.is_leaving());
    }
}
