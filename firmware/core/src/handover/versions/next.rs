//! The records of a version to come, for tests: a kind with a new layout, whose older one is read and written still.

use super::{Layout, join};
use salp_hvc::handover::{Power, PowerV1, kind};
use zerocopy::{FromBytes, IntoBytes};

/// [`Power`] has come with version 2 of hand-overs.
pub const POWER: Layout = Layout { kind: kind::POWER, version: 2, since: 2, length: size_of::<Power>(), lay: join };

/// [`PowerV1`] was there before.
pub const POWER_V1: Layout =
    Layout { kind: kind::POWER, version: 1, since: 1, length: size_of::<PowerV1>(), lay: lay_v1 };

fn lay_v1(parts: &[&[u8]], body: &mut [u8]) {
    let new = parts.first().and_then(|bytes| Power::read_from_bytes(bytes).ok());
    join(&[PowerV1::new(new.map_or([[0; 3]; 8], |new| new.states)).as_bytes()], body);
}

/// Reads which vCPUs are on, of either version. `None` if the record does not say so.
pub fn power(version: u16, body: &[u8]) -> Option<Power> {
    match version {
        1 => PowerV1::read_from_bytes(body).ok().map(|old| Power::new(old.states)),
        _ => Power::read_from_bytes(body).ok().filter(|new| new.as_bytes() == Power::new(new.states).as_bytes()),
    }
}
