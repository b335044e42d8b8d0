//! The same done to many VMs by one request, as a task. Before: [`table`](crate::table). After:
//! [`tasks::group`](crate::tasks::group).

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use salp_hvc::calls::{MAX_CLONES, STATE_SNAPSHOT};
use salp_json::json;

use super::body::Body;
use super::fields::{Field, Shape, field, needed};
use super::power::RESET_TYPES;
use super::{Call, Outcome, systems};
use crate::hypervisor;
use crate::message::Failure;
use crate::query::filter::Filter;
use crate::tasks::group::{Deed, Group, KIND};

const SERVICE: &str = "/redfish/v1/AggregationService";
const RESET: &str = "AggregationService.Reset";
const DELETE: &str = "SalpAggregationService.DeleteSystems";

/// The most VMs in a group: more there cannot be.
const MOST: usize = MAX_CLONES as usize + 24;

/// Power of many.
pub const RESET_MANY: &[Field] = &[
    needed("ResetType", Shape::Word(&RESET_TYPES)),
    needed("TargetURIs", Shape::Links(MOST)),
    field("BatchSize", Shape::Number(0, MOST as u64)),
    field("DelayBetweenBatchesInSeconds", Shape::Number(0, 3600)),
];

/// Which ones are deleted; one of the two.
pub const DELETE_MANY: &[Field] =
    &[field("TargetURIs", Shape::Links(MOST)), field("Filter", Shape::Text("^[A-Za-z]+ (eq|ne) '[a-z]*'$"))];

/// Answers the service of groups.
pub fn service(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Resource(json!({
        "@odata.id": SERVICE,
        "@odata.type": "#AggregationService.v1_0_3.AggregationService",
        "Id": "AggregationService",
        "Name": "Groups of VMs",
        "ServiceEnabled": true,
        "Status": { "State": "Enabled", "Health": "OK" },
        "Actions": {
            (format!("#{RESET}")): {
                "target": format!("{SERVICE}/Actions/{RESET}"),
                "ResetType@Redfish.AllowableValues": RESET_TYPES,
            },
            "Oem": { (format!("#{DELETE}")): { "target": format!("{SERVICE}/Actions/Oem/{DELETE}") } },
        },
        "Oem": { "Salp": {
            "@odata.type": "#SalpAggregationService.v1_0_0.SalpAggregationService",
            "MaxSystems": MOST,
        } },
    })))
}

/// Returns the VMs that these links lead to, or that a filter takes.
fn members(call: &mut Call<'_>, links: Option<Vec<String>>, filter: Option<String>) -> Result<Vec<u64>, Failure> {
    if let Some(links) = links {
        let one = |link: &String| {
            let id = link.strip_prefix(systems::SYSTEMS).and_then(|rest| rest.strip_prefix('/')?.parse().ok());
            let known = id.filter(|&id| systems::path(id) == *link && hypervisor::vm(call.hypervisor, id).is_ok());
            known.ok_or_else(|| Failure::new(400, "ResourceNotFound", &["ComputerSystem", link]))
        };
        return links.iter().map(one).collect();
    }
    let text = filter.unwrap_or_default();
    let malformed = || Failure::new(400, "ActionParameterValueFormatError", &[&text, "Filter", DELETE]);
    let filter = Filter::new(&text).ok_or_else(malformed)?;
    let vms = hypervisor::all(call.hypervisor).filter(|info| info.state.get() != STATE_SNAPSHOT);
    let taken = vms.filter(|info| filter.takes(&systems::value(call.hypervisor, call.library, info)));
    Ok(taken.map(|info| info.id.get()).collect())
}

/// Changes the power of many VMs.
pub fn reset(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_action(call.request, RESET)?;
    let kind = body.needed_word("ResetType", &RESET_TYPES);
    let links = body.links("TargetURIs", MOST);
    body.needed("TargetURIs", &links);
    let batch = body.number("BatchSize", 0..=MOST as u64);
    let delay = body.number("DelayBetweenBatchesInSeconds", 0..=3600);
    body.finish()?;
    let members = members(call, links, None)?;
    let group = Group::new(Deed::Reset(kind.unwrap_or_default()), members, batch, delay.unwrap_or(0));
    call.start("Change the power of systems", KIND, Box::new(group))
}

/// Deletes many VMs.
pub fn delete(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_action(call.request, DELETE)?;
    let links = body.links("TargetURIs", MOST);
    let filter = body.text("Filter", |text| text.len() <= 1024);
    // One of the two, so that an empty request does not mean all of them.
    if links.is_none() {
        body.needed("Filter", &filter);
    }
    body.finish()?;
    if links.is_some() && filter.is_some() {
        return Err(Failure::because(400, "Say TargetURIs or Filter, not both."));
    }
    let members = members(call, links, filter)?;
    call.start("Delete systems", KIND, Box::new(Group::new(Deed::Delete, members, None, 0)))
}
