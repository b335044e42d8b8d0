//! A NIC as it was asked for: `SEGMENT[:MAC][+vlan=N|+vlans=N:N...][+ip=ADDRESS]...[+rate=BYTES]`.
//!
//! [`vm`](crate::vm) reads it; [`pack`](crate::pack) puts it in the boot set.

use crate::vm::number;
use anyhow::{Context, Error, Result, bail, ensure};
use salp_hvc::bootset::{MAX_VLANS, NicRecord};
use std::net::IpAddr;
use std::str::FromStr;

/// A NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nic {
    /// The segment that it is plugged into: it reaches the NICs of the same segment and VLAN.
    pub segment: String,
    /// The VLAN; 0 for none.
    pub vlan: u16,
    /// The VLANs of a trunk port, rising; none if the port is in one.
    pub vlans: Vec<u16>,
    /// The MAC address. `None`: one of EL2's choice.
    pub mac: Option<[u8; 6]>,
    /// The only IPv4 address that it may send with.
    pub ipv4: Option<[u8; 4]>,
    /// The only IPv6 address that it may send with, link-local ones aside.
    pub ipv6: Option<[u8; 16]>,
    /// How many bytes it may send in a second; 0 for no limit.
    pub rate: u64,
}

impl Nic {
    /// Returns its record in the boot set, for VM number `vm`.
    pub fn record(&self, vm: u32) -> NicRecord {
        let mut segment = [0; 16];
        for (to, from) in segment.iter_mut().zip(self.segment.bytes().take(15)) {
            *to = from;
        }
        let mut vlans = [0.into(); MAX_VLANS];
        for (to, &from) in vlans.iter_mut().zip(&self.vlans) {
            *to = from.into();
        }
        NicRecord {
            vm: vm.into(),
            vlan: self.vlan.into(),
            mac: self.mac.unwrap_or_default(),
            segment,
            ipv4: self.ipv4.unwrap_or_default(),
            vlans,
            ipv6: self.ipv6.unwrap_or_default(),
            rate: self.rate.into(),
        }
    }
}

impl FromStr for Nic {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split('+');
        let place = words.next().unwrap_or_default();
        let (segment, address) = place.split_once(':').map_or((place, None), |(name, rest)| (name, Some(rest)));
        let is_good = segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        ensure!(
            (1..=15).contains(&segment.len()) && is_good,
            "segment {segment:?}: names are 1 to 15 of A-Z a-z 0-9 . _ -"
        );
        let mut nic = Self { segment: segment.into(), mac: address.map(mac).transpose()?, ..Self::default() };
        for word in words {
            match word.split_once('=') {
                Some(("vlan", value)) => nic.vlan = vlan(value)?,
                Some(("vlans", value)) => {
                    nic.vlans = value.split(':').map(vlan).collect::<Result<_>>()?;
                    nic.vlans.sort_unstable();
                    nic.vlans.dedup();
                    ensure!(nic.vlans.len() <= MAX_VLANS, "vlans={value}: there are at most {MAX_VLANS}");
                }
                Some(("ip", value)) => match value.parse().with_context(|| format!("{value} is no IP address"))? {
                    IpAddr::V4(address) => nic.ipv4 = Some(address.octets()),
                    IpAddr::V6(address) => nic.ipv6 = Some(address.octets()),
                },
                Some(("rate", value)) => {
                    nic.rate = number(value)?;
                    ensure!(nic.rate <= 1 << 40, "rate={value}: it is at most 2^40 bytes per second");
                }
                _ => bail!(
                    "{word:?} is not known: a NIC is SEGMENT[:MAC][+vlan=N|+vlans=N:N...][+ip=ADDRESS]...[+rate=BYTES]"
                ),
            }
        }
        ensure!(nic.vlan == 0 || nic.vlans.is_empty(), "{text}: it is in one VLAN, or a trunk port of several");
        Ok(nic)
    }
}

fn vlan(text: &str) -> Result<u16> {
    let vlan = number(text)?;
    ensure!((1..=4094).contains(&vlan), "vlan={vlan}: it is 1 to 4094");
    Ok(vlan as u16)
}

/// Reads the MAC address of one NIC.
fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = text.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let mac: [u8; 6] =
        bytes.try_into().ok().with_context(|| format!("{text} is no MAC address, as 52:54:00:12:34:56 is"))?;
    ensure!(mac[0] & 1 == 0 && mac != [0; 6], "{text} is not the MAC address of one NIC");
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_says_all_that_it_wants() {
        let text = "lan:52:54:00:00:00:0a+vlan=7+ip=10.0.0.1+ip=fd00::1+rate=1000000";
        let nic: Nic = text.parse().expect("a NIC");
        assert_eq!((nic.segment.as_str(), nic.vlan, nic.rate), ("lan", 7, 1_000_000));
        assert_eq!((nic.mac, nic.ipv4), (Some([0x52, 0x54, 0, 0, 0, 10]), Some([10, 0, 0, 1])));
        assert_eq!(nic.ipv6.map(|ip| (ip[0], ip[15])), Some((0xfd, 1)));
        assert_eq!("lan".parse::<Nic>().ok(), Some(Nic { segment: "lan".into(), ..Nic::default() }));
        assert_eq!(nic.record(3).segment, *b"lan\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn a_trunk_port_has_its_vlans_in_order() {
        let nic: Nic = "lan+vlans=20:10:20".parse().expect("a NIC");
        assert_eq!(nic.vlans, [10, 20]);
        assert_eq!(nic.record(0).vlans.map(|vlan| vlan.get()), [10, 20, 0, 0]);
    }

    #[test]
    fn mistakes_are_named_with_what_is_expected() {
        let refusal = |text: &str| format!("{:#}", text.parse::<Nic>().expect_err(text));
        assert!(refusal("").contains("1 to 15"));
        assert!(refusal("a-name-of-16-chars").contains("1 to 15"));
        assert!(refusal("lan:52:54:00").contains("52:54:00:12:34:56"));
        assert!(refusal("lan:ff:ff:ff:ff:ff:ff").contains("one NIC"));
        assert!(refusal("lan+vlan=4095").contains("1 to 4094"));
        assert!(refusal("lan+vlans=10:0").contains("1 to 4094"));
        assert!(refusal("lan+vlans=1:2:3:4:5").contains("at most 4"));
        assert!(refusal("lan+vlan=1+vlans=2").contains("trunk"));
        assert!(refusal("lan+ip=x").contains("no IP address"));
        assert!(refusal("lan+speed=1").contains("SEGMENT"));
    }
}
