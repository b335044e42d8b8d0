//! For machines that watch machines: OpenMetrics, and a word for load balancers. Before: [`table`](crate::table). After:
//! [`hypervisor`](crate::hypervisor).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use salp_hvc::calls::{STATE_SNAPSHOT, VmInfo, state_word};

use super::{Call, Outcome};
use crate::hypervisor::{self, name_text};
use crate::message::Failure;

/// Says that this service answers.
pub fn health(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Text { kind: "text/plain; charset=utf-8", body: "ok\n".into() })
}

/// Metrics, one family after the other.
struct Text(String);

impl Text {
    /// Writes the head of a family; what is counted in bytes says so.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let unit = if name.ends_with("_bytes") { format!("# UNIT {name} bytes\n") } else { String::new() };
        // A string takes everything.
        let _ = write!(self.0, "# TYPE {name} {kind}\n{unit}# HELP {name} {help}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: u64) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        let suffix = if kind == "counter" { "_total" } else { "" };
        self.sample(&format!("{name}{suffix}"), "", value);
    }
}

/// Answers all metrics.
pub fn metrics(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let machine = call.hypervisor.machine().map_err(|refused| Failure::refused(refused, &call.request.path))?;
    let mut text = Text(String::with_capacity(8192));
    text.family("salp_memory_bytes", "gauge", "Memory of the machine by use.");
    for (kind, value) in [
        ("total", machine.total),
        ("free", machine.free),
        ("promised", machine.promised),
        ("guests", machine.guests),
        ("tables", machine.nodes),
        ("hypervisor", machine.hypervisor),
        ("images", machine.images),
    ] {
        text.sample("salp_memory_bytes", &format!("{{use=\"{kind}\"}}"), value.get());
    }
    text.one("salp_vms", "gauge", "VMs and snapshots.", machine.vms.get().into());
    text.one("salp_vms_waiting_for_memory", "gauge", "VMs that stand still.", machine.starved.get().into());
    text.one("salp_api_requests", "counter", "Requests to the management endpoint.", call.requests);
    let uptime = call.now.saturating_sub(call.facts.started);
    text.one("salp_api_uptime_seconds", "gauge", "Time since the endpoint started.", uptime);
    let vms: Vec<(String, VmInfo)> = hypervisor::all(call.hypervisor)
        .filter(|info| info.state.get() != STATE_SNAPSHOT)
        // Names have no character that would need escaping.
        .map(|info| (format!("id=\"{}\",name=\"{}\"", info.id.get(), name_text(&info.name)), info))
        .collect();
    text.family("salp_vm_state", "gauge", "1 for the state that the VM is in.");
    for (labels, info) in &vms {
        text.sample("salp_vm_state", &format!("{{{labels},state=\"{}\"}}", state_word(info.state.get())), 1);
    }
    type Read = fn(&VmInfo) -> u64;
    let families: [(&str, &str, &str, Read); 8] = [
        ("salp_vm_memory_bytes", "gauge", "RAM of the VM.", |info| info.memory.get()),
        ("salp_vm_promised_bytes", "gauge", "Memory set aside for the VM.", |info| info.promised.get()),
        ("salp_vm_vcpus", "gauge", "vCPUs of the VM.", |info| info.vcpus.get().into()),
        ("salp_vm_exits", "counter", "Exits to the hypervisor.", |info| info.exits.get()),
        ("salp_vm_faults", "counter", "Stage 2 faults.", |info| info.faults.get()),
        ("salp_vm_copied_pages", "counter", "Pages copied for the VM.", |info| info.copied_pages.get()),
        ("salp_vm_copied_tables", "counter", "Table nodes copied for the VM.", |info| info.copied_nodes.get()),
        ("salp_vm_merged_pages", "counter", "Pages merged with equal ones.", |info| info.merged_pages.get()),
    ];
    for (name, kind, help, read) in families {
        text.family(name, kind, help);
        let suffix = if kind == "counter" { "_total" } else { "" };
        for (labels, info) in &vms {
            text.sample(&format!("{name}{suffix}"), &format!("{{{labels}}}"), read(info));
        }
    }
    text.0 += "# EOF\n";
    Ok(Outcome::Text { kind: "application/openmetrics-text; version=1.0.0; charset=utf-8", body: text.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::testing::Client;
    use std::collections::BTreeMap;

    #[test]
    fn every_sample_belongs_to_the_family_before_it() {
        let body = String::from_utf8(Client::new(Role::ReadOnly).get("/metrics").body).unwrap();
        assert!(body.ends_with("\n# EOF\n"));
        let (mut family, mut kinds) = (String::new(), BTreeMap::new());
        for line in body.lines().filter(|line| *line != "# EOF") {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                family = name.into();
                assert!(kinds.insert(family.clone(), kind).is_none(), "{name} comes twice");
            } else if !line.starts_with('#') {
                let suffix = if kinds[&family] == "counter" { "_total" } else { "" };
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(name, format!("{family}{suffix}"), "{line}");
                assert!(line.rsplit(' ').next().unwrap().parse::<u64>().is_ok(), "{line}");
            }
        }
        assert!(body.contains("salp_vm_state{id=\"2\",name=\"web\",state=\"running\"} 1"), "{body}");
    }

    #[test]
    fn health_is_a_word() {
        assert_eq!(Client::stranger().get("/healthz").body, b"ok\n");
    }
}
