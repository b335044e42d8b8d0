//! Versions of hand-overs and of their records: the writer writes what the reader knows, the reader makes the newest of what is older.
//!
//! Before: [`Writer`](super::Writer) and [`read`](super::read), beside which nobody knows of older versions. After:
//! [`salp_hvc::handover`].
//!
//! A hand-over has a version, the greatest that both images know ([`common`]). It says which layout of each kind is written: the
//! newest of those that have come with it or before it. Who changes a layout raises the greatest of [`VERSIONS`], gives the new one
//! the next version of its kind and this version of hand-overs, and moves the one before to [`OLDER`], with what makes its body of a
//! new one; what makes a new body of it is where it is read.

#[cfg(feature = "next-formats")]
mod next;

use super::VcpuRecord;
use crate::bootset::VmSpec;
use crate::dev::drive::DriveRecord;
use crate::dev::net::NicRecord;
use crate::dev::pl011::Pl011;
use crate::dev::pl031::Pl031;
use crate::dev::pl061::Pl061;
use crate::vgic::Vgic;
use salp_hvc::handover::{self, Record, VERSIONS, kind};

/// A layout of the bodies of a kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub kind: u16,
    pub version: u16,
    /// The version of hand-overs that it has come with.
    since: u16,
    /// The size of the body, in bytes.
    pub length: usize,
    /// Lays a body out whose parts, in the newest layout, are these, one behind the other; with zeros behind it.
    pub lay: fn(&[&[u8]], &mut [u8]),
}

#[cfg(test)]
impl Layout {
    /// Returns one that there is not.
    pub fn forged(kind: u16, version: u16, length: usize, lay: fn(&[&[u8]], &mut [u8])) -> Self {
        Self { kind, version, since: 1, length, lay }
    }
}

const fn first<T>(kind: u16) -> Layout {
    Layout { kind, version: 1, since: 1, length: size_of::<T>(), lay: join }
}

/// The newest layout of each kind, in the order of kinds: it is looked up for each record.
const NEWEST: &[Layout] = &[
    first::<handover::Machine>(kind::MACHINE),
    first::<handover::Frames>(kind::FRAMES),
    first::<handover::Merging>(kind::MERGING),
    first::<handover::Image>(kind::IMAGE),
    first::<handover::Pages>(kind::KEPT),
    first::<handover::Pool>(kind::POOL),
    first::<handover::Events>(kind::EVENTS),
    first::<handover::Log>(kind::LOG),
    first::<handover::Store>(kind::STORE),
    first::<handover::Vm>(kind::VM),
    first::<VmSpec>(kind::SPEC),
    first::<handover::Identity>(kind::IDENTITY),
    first::<handover::Memory>(kind::MEMORY),
    first::<Vgic>(kind::VGIC),
    #[cfg(not(feature = "next-formats"))]
    first::<handover::Power>(kind::POWER),
    #[cfg(feature = "next-formats")]
    next::POWER,
    first::<Pl011>(kind::UART),
    first::<Pl031>(kind::RTC),
    first::<Pl061>(kind::GPIO),
    first::<handover::Pages>(kind::WRITTEN),
    first::<NicRecord>(kind::NIC),
    first::<VcpuRecord>(kind::VCPU),
    first::<VmSpec>(kind::OWN),
    first::<DriveRecord>(kind::DRIVE),
    first::<handover::Agent>(kind::AGENT),
    first::<()>(kind::END),
    #[cfg(feature = "next-formats")]
    first::<handover::Parts>(kind::PARTS),
];

/// Layouts of before that are read and written still, the newer ones of a kind first.
const OLDER: &[Layout] = &[
    #[cfg(feature = "next-formats")]
    next::POWER_V1,
];

/// Returns the layouts of a kind, the newest first.
fn layouts(kind: u16) -> impl Iterator<Item = &'static Layout> {
    let newest = NEWEST.binary_search_by_key(&kind, |layout| layout.kind).ok().and_then(|index| NEWEST.get(index));
    newest.into_iter().chain(OLDER.iter().filter(move |layout| layout.kind == kind))
}

/// Returns the greatest version of a hand-over that an image which knows these, the least and the greatest, and this one know.
pub fn common(theirs: [u16; 2]) -> Option<u16> {
    let (least, greatest) = (VERSIONS[0].max(theirs[0]), VERSIONS[1].min(theirs[1]));
    (least <= greatest).then_some(greatest)
}

/// Returns the layout in which records of a kind are written in a hand-over of this version; none if it has no such kind.
pub(super) fn written(kind: u16, version: u16) -> Option<Layout> {
    layouts(kind).find(|layout| layout.since <= version).copied()
}

/// Returns true if records of this kind, version and length can be read.
pub(super) fn is_known(head: &Record) -> bool {
    let (version, length) = (head.version, head.length as usize);
    layouts(head.kind).any(|layout| (layout.version, layout.length) == (version, length))
}

/// Lays out a body as it is.
fn join(parts: &[&[u8]], mut body: &mut [u8]) {
    for part in parts {
        let Some((to, behind)) = core::mem::take(&mut body).split_at_mut_checked(part.len()) else { return };
        to.copy_from_slice(part);
        body = behind;
    }
    body.fill(0);
}

/// Reads which vCPUs are on. `None` if the record does not say so.
#[cfg(not(feature = "next-formats"))]
pub(super) fn power(_version: u16, body: &[u8]) -> Option<handover::Power> {
    zerocopy::FromBytes::read_from_bytes(body).ok()
}

#[cfg(feature = "next-formats")]
pub(super) use next::power;

#[cfg(test)]
mod tests;
