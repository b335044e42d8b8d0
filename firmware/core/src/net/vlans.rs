//! The VLANs of a trunk port. Before: the record of a NIC; after: [`super::port`], which lets frames of them leave, and
//! [`super::switch`], where the NIC has a port in each.

use crate::bootset::MAX_VLAN;
use core::fmt;
use salp_hvc::bootset::MAX_VLANS;
use zerocopy::little_endian::U16;

/// The VLANs whose frames pass with their tags; none if the port is in one VLAN and frames have no tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vlans([u16; MAX_VLANS]);

impl Vlans {
    /// Reads those of the record of a port that is in `vlan` else. `None` if they make no sense.
    pub fn of(record: &[U16; MAX_VLANS], vlan: u16) -> Option<Self> {
        let vlans = Self(record.map(U16::get));
        let is_rising = |pair: &[u16]| matches!(*pair, [before, after] if after == 0 || before != 0 && before < after);
        let is_sound = vlans.0.windows(2).all(is_rising) && vlans.0.iter().all(|&vlan| vlan <= MAX_VLAN);
        (is_sound && (vlan == 0 || !vlans.is_trunk())).then_some(vlans)
    }

    /// Returns them as a record has them.
    pub fn record(&self) -> [U16; MAX_VLANS] {
        self.0.map(U16::new)
    }

    /// Returns true if they make a port a trunk port.
    #[inline]
    pub const fn is_trunk(&self) -> bool {
        self.0[0] != 0
    }

    /// Returns true if frames with the tag of this VLAN pass; 0 stands for frames without a tag.
    #[inline]
    pub fn pass(&self, vlan: u16) -> bool {
        if self.is_trunk() { vlan != 0 && self.0.contains(&vlan) } else { vlan == 0 }
    }

    /// Returns each.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().copied().take_while(|&vlan| vlan != 0)
    }
}

impl fmt::Display for Vlans {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, vlan) in self.iter().enumerate() {
            write!(out, "{}{vlan}", if index == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vlans(list: &[u16]) -> Option<Vlans> {
        let mut record = [U16::ZERO; MAX_VLANS];
        for (to, &from) in record.iter_mut().zip(list) {
            *to = from.into();
        }
        Vlans::of(&record, 0)
    }

    #[test]
    fn a_trunk_port_passes_frames_of_its_vlans_only() {
        let trunk = vlans(&[10, 20]).unwrap();
        assert!(trunk.is_trunk() && trunk.pass(10) && trunk.pass(20));
        assert!(!trunk.pass(0) && !trunk.pass(15) && !trunk.pass(4095));
        assert_eq!(trunk.to_string(), "10:20");
        let access = vlans(&[]).unwrap();
        assert!(!access.is_trunk() && access.pass(0) && !access.pass(10));
    }

    #[test]
    fn a_port_is_in_one_vlan_or_a_trunk_port() {
        let record = vlans(&[10]).unwrap().record();
        assert!(Vlans::of(&record, 0).is_some() && Vlans::of(&record, 7).is_none());
    }

    proptest! {
        #[test]
        fn records_are_lists_of_vlans_that_there_are(list in proptest::collection::vec(0u16..5000, 0..=MAX_VLANS)) {
            let length = list.iter().position(|&vlan| vlan == 0).unwrap_or(list.len());
            let (used, rest) = list.split_at(length);
            let is_sound = used.is_sorted_by(|a, b| a < b)
                && used.iter().all(|&vlan| vlan <= MAX_VLAN)
                && rest.iter().all(|&vlan| vlan == 0);
            let read = vlans(&list);
            prop_assert_eq!(read.is_some(), is_sound);
            if let Some(read) = read {
                prop_assert_eq!(read.iter().collect::<Vec<_>>(), used);
                prop_assert_eq!(Vlans::of(&read.record(), 0), Some(read));
            }
        }
    }
}
