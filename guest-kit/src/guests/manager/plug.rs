//! What a manager does to a NIC: its own, the first. Needs a VM with one in the segment `lan`.

use salp_hvc::bootset::VIRTIO_BASE;
use salp_hvc::manager::{LINK_DISCONNECTED, LINK_UP, NicChange};
use salp_hvc::status;

use super::all;
use crate::rt::mmio;
use crate::salp::{self, Name, Refused};
use crate::test::Outcome;
use crate::{cases, check_eq};

/// The state of the link, as a driver sees it.
const STATUS: u64 = VIRTIO_BASE + 0x106;

/// Runs all cases.
pub fn main() {
    cases!(a_nic_is_known, the_plug_is_pulled, it_moves, what_is_not_there);
}

fn own() -> u64 {
    all().find(|info| Ok(Name(info.name)) == salp::name()).map_or(0, |info| info.id.get())
}

fn change(segment: &[u8], vlan: u16, connected: u16, rate: u64) -> NicChange {
    let mut name = [0; 16];
    name[..segment.len()].copy_from_slice(segment);
    NicChange {
        segment: name,
        vlan: vlan.into(),
        connected: connected.into(),
        reserved: 0.into(),
        rate: rate.into(),
        vlans: Default::default(),
    }
}

fn a_nic_is_known() -> Outcome {
    let info = salp::vm_nic(own(), 0).map_err(|refused| crate::test::fail(format_args!("VM_NIC: {refused:?}")))?;
    let mac = core::array::from_fn(|at| mmio::read8(VIRTIO_BASE + 0x100 + at as u64));
    check_eq!(info.mac, mac, "the address");
    check_eq!(&info.segment[..4], b"lan\0", "the segment");
    check_eq!((info.link.get(), info.ipv4), (LINK_UP, [0; 4]), "link and claims");
    Ok(())
}

fn the_plug_is_pulled() -> Outcome {
    for (connected, link) in [(0, LINK_DISCONNECTED), (1, LINK_UP)] {
        check_eq!(salp::vm_nic_change(own(), 0, &change(b"", 0, connected, 0)), Ok(()), "VM_NIC_CHANGE");
        check_eq!(salp::vm_nic(own(), 0).map(|info| info.link.get()), Ok(link), "the link");
        check_eq!(u16::from(mmio::read8(STATUS)), connected, "the link as the driver sees it");
    }
    Ok(())
}

fn it_moves() -> Outcome {
    for (segment, vlan, rate) in [(b"dmz", 7, 1000), (b"lan", 0, 0)] {
        check_eq!(salp::vm_nic_change(own(), 0, &change(segment, vlan, 1, rate)), Ok(()), "VM_NIC_CHANGE");
        let place = salp::vm_nic(own(), 0).map(|info| (info.segment[0], info.vlan.get(), info.rate.get()));
        check_eq!(place, Ok((segment[0], vlan, rate)), "segment, VLAN and rate");
    }
    Ok(())
}

fn what_is_not_there() -> Outcome {
    let [missing, invalid] = [status::NOT_FOUND, status::INVALID].map(|status| Err(Refused(status)));
    check_eq!(salp::vm_nic(own(), 1).map(drop), missing, "a second NIC");
    check_eq!(salp::vm_nic(own(), u64::MAX).map(drop), missing, "the last NIC");
    check_eq!(salp::vm_nic(u64::MAX, 0).map(drop), missing, "the last VM");
    check_eq!(salp::vm_nic_change(own(), 1, &change(b"", 0, 1, 0)), missing, "a change of a second NIC");
    for bad in [change(b"", 0, 2, 0), change(b"a b", 0, 1, 0), change(b"lan", 4095, 1, 0), change(b"", 0, 1, u64::MAX)]
    {
        check_eq!(salp::vm_nic_change(own(), 0, &bad), invalid, "a change that makes no sense");
    }
    Ok(())
}
