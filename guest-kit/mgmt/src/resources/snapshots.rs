//! Snapshots of VMs, which may outlive the VMs. Before: [`table`](crate::table). After:
//! [`hypervisor`](crate::hypervisor).

use alloc::format;
use alloc::string::{String, ToString};

use salp_hvc::calls::{STATE_SNAPSHOT, VmInfo};
use salp_json::{Value, json};

use super::{Call, Outcome, clones, collection};
use crate::hypervisor::{self, name_text};
use crate::message::Failure;

const SNAPSHOTS: &str = "/redfish/v1/Oem/Salp/Snapshots";

/// Returns where a snapshot is.
pub fn path(id: u64) -> String {
    format!("{SNAPSHOTS}/{id}")
}

/// Returns which snapshot is at a path.
pub fn id_of(path: &str) -> Option<u64> {
    path.strip_prefix(SNAPSHOTS)?.strip_prefix('/')?.parse().ok().filter(|id| self::path(*id) == path)
}

/// Lists snapshots.
pub fn list(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = hypervisor::all(call.hypervisor).filter(|info| info.state.get() == STATE_SNAPSHOT);
    let members = members.map(|info| path(info.id.get()));
    Ok(Outcome::Resource(collection(SNAPSHOTS, "SalpSnapshotCollection", "Snapshots", members)))
}

fn find(call: &Call<'_>) -> Result<VmInfo, Failure> {
    hypervisor::snapshot(call.hypervisor, call.id()?).map_err(|refused| Failure::refused(refused, &call.request.path))
}

/// Returns a snapshot as it is shown.
pub fn value(info: &VmInfo) -> Value {
    let path = path(info.id.get());
    json!({
        "@odata.id": &path,
        "@odata.type": "#SalpSnapshot.v1_0_0.SalpSnapshot",
        "Id": format!("{}", info.id.get()),
        "Name": name_text(&info.name).to_string(),
        "SourceId": format!("{}", info.source.get()),
        "FamilyId": format!("{}", info.family.get()),
        "MemoryBytes": info.memory.get(),
        "Actions": { "#SalpSnapshot.InstantClone": { "target": format!("{path}/Actions/SalpSnapshot.InstantClone") } },
    })
}

/// Answers a snapshot.
pub fn snapshot(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Resource(value(&find(call)?)))
}

/// Removes a snapshot.
pub fn delete(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = find(call)?.id.get();
    call.hypervisor.destroy(id).map_err(|refused| Failure::refused(refused, &call.request.path))?;
    Ok(Outcome::Done)
}

/// Makes clones of a snapshot.
pub fn instant_clone(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let source = find(call)?.id.get();
    clones::clones(call, source, "SalpSnapshot.InstantClone")
}
