//! Media in drives of VMs. Before: [`resources::media`](crate::resources::media). After: images at EL2, and EL2's drives.
//!
//! [`kernel`] finds what can be started on a medium, [`url`] reads addresses, [`fetch`] gets what they lead to, [`jobs`] are those
//! under way.

pub mod fetch;
pub mod jobs;
pub mod kernel;
pub mod url;

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_hvc::bootset::NicRecord;
use salp_json::{Parsed, Value, json};
use zerocopy::FromZeros;

use crate::hypervisor::{self, Answer, Hypervisor, padded};
use crate::state;

/// Returns a NIC for a description of which only the number of NICs counts.
pub fn some_nic() -> NicRecord {
    NicRecord { segment: padded("any"), ..NicRecord::new_zeroed() }
}

fn kept(hypervisor: &dyn Hypervisor) -> Vec<(u64, String)> {
    let kept = state::recall(hypervisor, state::MEDIA).and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let kept: Vec<Parsed> = kept.unwrap_or_default();
    kept.iter().filter_map(|value| Some((value[0].as_u64()?, value[1].as_str()?.to_string()))).collect()
}

/// Returns where an image was fetched from.
pub fn origin(hypervisor: &dyn Hypervisor, image: u64) -> Option<String> {
    kept(hypervisor).into_iter().find(|(id, _)| *id == image).map(|(_, address)| address)
}

/// Keeps where an image was fetched from; of images that are gone it is forgotten.
///
/// # Errors
///
/// If there is no room for it.
pub fn set_origin(hypervisor: &mut dyn Hypervisor, image: u64, address: &str) -> Answer<()> {
    let mut kept = kept(hypervisor);
    kept.retain(|(id, _)| *id != image && hypervisor::image(hypervisor, *id).is_ok());
    kept.push((image, address.to_string()));
    let kept: Vec<Value> = kept.into_iter().map(|(id, address)| json!([id, address])).collect();
    hypervisor.keep(state::MEDIA, Value::from(kept).to_string().as_bytes())
}
