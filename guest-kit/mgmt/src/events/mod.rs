//! What has happened, and who is told: changes of VMs, which the hypervisor tells, and what this service does itself. Before:
//! [`service`](crate::service). After: [`logs`](crate::resources::logs), which shows it, and listeners.
//!
//! [`registry`] is what events mean, [`journal`] the one list of them, which everybody reads at a pace of their own: who is too
//! slow learns how many were lost. [`source`] reads the hypervisor, [`agents`] what guests tell, [`choice`] is which events somebody wants, [`stream`] is a
//! listener that is connected (SSE), [`subscription`] one that events are sent to.

pub mod agents;
pub mod choice;
pub mod journal;
pub mod registry;
pub mod source;
pub mod stream;
pub mod subscription;

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_json::{Parsed, Value};

use crate::http::{Method, Request};
use crate::hypervisor::{self, Hypervisor};
use journal::{Journal, News};
use stream::Streams;
use subscription::Subscriptions;

/// All of it.
#[derive(Debug, Default)]
pub struct Events {
    /// What has happened.
    pub journal: Journal,
    /// Who events are sent to.
    pub subscriptions: Subscriptions,
    /// Who is connected.
    pub streams: Streams,
    /// The last metric reports, by their paths, as they are sent.
    pub reports: BTreeMap<String, String>,
    /// Which guests are up.
    pub agents: agents::Agents,
    /// The identifier of this VM itself.
    own: Option<u64>,
}

impl Events {
    /// Takes note of what became of VMs.
    pub fn look(&mut self, hypervisor: &dyn Hypervisor, now: u64) {
        if self.own.is_none() {
            let own = hypervisor.own_uuid();
            self.own = hypervisor::everything(hypervisor).find(|info| Some(info.uuid) == own).map(|info| info.id.get());
        }
        source::look(&mut self.journal, hypervisor, self.own, now);
        self.agents.look(&mut self.journal, hypervisor, now);
    }

    /// Takes note of what a request that was carried out has changed.
    pub fn note(&mut self, request: &Request, location: Option<&str>, now: u64) {
        if let Some((key, origin)) = change(request, location) {
            self.journal.tell(News::new(key, &[], origin), now);
        }
    }
}

/// Paths of which the hypervisor, or whoever works there, tells itself.
const OTHERS: [&str; 4] = [
    "/redfish/v1/Systems",
    "/redfish/v1/Oem/Salp/Snapshots",
    "/redfish/v1/TaskService",
    "/redfish/v1/TelemetryService/MetricReports",
];

/// Returns what a request has done to which resource, if it was carried out.
fn change<'a>(request: &'a Request, location: Option<&'a str>) -> Option<(&'static str, &'a str)> {
    let path = &*request.path;
    let told = match (request.method, location) {
        (Method::Get | Method::Head | Method::Other, _) => return None,
        (Method::Post | Method::Put, Some(made)) => ("ResourceCreated", made),
        (Method::Delete, _) => ("ResourceRemoved", path),
        (Method::Patch, _) if !request.is_streamed() => ("ResourceChanged", path),
        (Method::Post, None) if path.ends_with(".ReplaceCertificate") => {
            ("ResourceChanged", crate::resources::certificates::SERVER)
        }
        _ => return None,
    };
    let is_told = |other: &str| told.1.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (!OTHERS.into_iter().any(is_told)).then_some(told)
}

/// Returns what is sent to a listener: events as they are, and what it said when it subscribed.
pub fn payload(number: u64, context: Option<&str>, records: &[&str]) -> String {
    let context =
        context.map_or(String::new(), |context| alloc::format!(r#""Context":{},"#, Value::from(context.to_string())));
    let records = records.join(",");
    alloc::format!(
        r##"{{"@odata.type":"#{}","Id":"{number}","Name":"Events",{context}"Events":[{records}]}}"##,
        registry::EVENT
    )
}

/// Returns the path of a resource and those below it, from the longest on.
pub fn above(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.char_indices().rev().filter(|&(_, character)| character == '/').map(|(at, _)| at);
    core::iter::once(path.len()).chain(ends).map(|end| &path[..end])
}

/// Returns texts of a list.
pub fn texts(value: &Parsed) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| Some(item.as_str()?.into())).collect()
}
