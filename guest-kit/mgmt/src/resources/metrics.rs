//! For machines that watch machines: metrics in the format that they ask for, and a word for load balancers. Before: [`table`](crate::table). After:
//! [`hypervisor`](crate::hypervisor).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use salp_hvc::calls::{STATE_SNAPSHOT, VmInfo, state_word};

use super::{Call, Outcome};
use crate::hypervisor::{self, name_text};
use crate::message::Failure;
use crate::telemetry::figures::{FIGURES, Figure, NANOSECONDS, Read, Vm};

/// The media type of OpenMetrics.
pub const OPEN_METRICS: &str = "application/openmetrics-text";

/// Says that this service answers.
pub fn health(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Text { kind: "text/plain; charset=utf-8", body: "ok\n".into() })
}

/// Metrics, one family after the other, as OpenMetrics or as the text format before it, which gives the names of counters
/// whole.
struct Text {
    text: String,
    is_open: bool,
}

impl Text {
    /// Writes the head of a family, and returns the name of its samples; what is counted in bytes or seconds says so.
    fn family(&mut self, name: &str, kind: &str, help: &str) -> String {
        let samples = if kind == "counter" { format!("{name}_total") } else { name.into() };
        let name = if self.is_open { name } else { &samples };
        let unit = ["bytes", "seconds"].into_iter().find(|unit| name.ends_with(unit));
        if let Some(unit) = unit.filter(|_| self.is_open) {
            // A string takes everything.
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        let _ = write!(self.text, "# TYPE {name} {kind}\n# HELP {name} {help}\n");
        samples
    }

    /// Writes the head of a family of figures, and returns the name of its samples.
    fn figures(&mut self, first: &Figure) -> String {
        let help = if first.label.is_empty() { first.help } else { "Memory of the machine by use." };
        self.family(first.family, if first.counts { "counter" } else { "gauge" }, help)
    }

    fn sample(&mut self, name: &str, labels: &str, value: u64) {
        let _ = writeln!(self.text, "{name}{labels} {value}");
    }

    /// Writes a sample of a figure: seconds, where it is in nanoseconds.
    fn figure(&mut self, name: &str, labels: &str, figure: &Figure, value: u64) {
        if figure.unit == NANOSECONDS {
            let (seconds, rest) = (value / 1_000_000_000, value % 1_000_000_000);
            let _ = writeln!(self.text, "{name}{labels} {seconds}.{rest:09}");
        } else {
            self.sample(name, labels, value);
        }
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        let samples = self.family(name, kind, help);
        self.sample(&samples, "", value);
    }
}

/// Answers all metrics.
pub fn metrics(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let machine = call.hypervisor.machine().map_err(|refused| Failure::refused(refused, &call.request.path))?;
    let is_open = call.request.get("accept").is_some_and(|accept| accept.contains("application/openmetrics-text"));
    let mut text = Text { text: String::with_capacity(8192), is_open };
    let families = FIGURES.chunk_by(|left, right| left.family == right.family);
    for figures in families.clone().filter(|figures| !figures[0].is_of_vm()) {
        let samples = text.figures(&figures[0]);
        for figure in figures {
            let labels = if figure.label.is_empty() { "".into() } else { format!("{{use=\"{}\"}}", figure.label) };
            text.figure(&samples, &labels, figure, figure.of_machine(&machine).unwrap_or_default());
        }
    }
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
    // To count memory is to look at all tables of it: too much for who asks again and again.
    let is_quick = |figure: &Figure| figure.is_of_vm() && !matches!(figure.read, Read::Memory(_));
    let all: Vec<(&String, Vm<'_>)> =
        vms.iter().map(|(labels, info)| (labels, Vm::new(&*call.hypervisor, info))).collect();
    for figures in families.filter(|figures| is_quick(&figures[0])) {
        let samples = text.figures(&figures[0]);
        for (labels, vm) in &all {
            // One that has just gone has no NICs.
            if let Ok(value) = figures[0].of_vm(vm) {
                text.figure(&samples, &format!("{{{labels}}}"), &figures[0], value);
            }
        }
    }
    let kind = if is_open {
        text.text += "# EOF\n";
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    Ok(Outcome::Text { kind, body: text.text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::http::Method;
    use crate::testing::Client;
    use std::collections::BTreeMap;

    fn metrics(accept: Option<&str>) -> String {
        let mut client = Client::new(Role::ReadOnly);
        let mut request = client.request(Method::Get, "/metrics", "");
        request.others.extend(accept.map(|accept| ("accept", accept.into())));
        String::from_utf8(client.send(&request).body).unwrap()
    }

    #[test]
    fn every_sample_belongs_to_the_family_before_it() {
        for (accept, counted) in
            [(Some("text/plain;q=0.5,application/openmetrics-text;version=1.0.0"), "_total"), (None, "")]
        {
            let body = metrics(accept);
            assert_eq!(body.ends_with("\n# EOF\n"), accept.is_some());
            let (mut family, mut kinds) = (String::new(), BTreeMap::new());
            for line in body.lines().filter(|line| *line != "# EOF") {
                if let Some(rest) = line.strip_prefix("# TYPE ") {
                    let (name, kind) = rest.split_once(' ').unwrap();
                    family = name.into();
                    assert!(kinds.insert(family.clone(), kind).is_none(), "{name} comes twice");
                    assert_eq!(kind == "counter" && accept.is_none(), name.ends_with("_total"), "{name}");
                } else if !line.starts_with('#') {
                    let suffix = if kinds[&family] == "counter" { counted } else { "" };
                    let name = line.split(['{', ' ']).next().unwrap();
                    assert_eq!(name, format!("{family}{suffix}"), "{line}");
                    assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
                }
            }
            assert!(body.contains("salp_vm_state{id=\"2\",name=\"web\",state=\"running\"} 1"), "{body}");
        }
    }

    #[test]
    fn health_is_a_word() {
        assert_eq!(Client::stranger().get("/healthz").body, b"ok\n");
    }
}
