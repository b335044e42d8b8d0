//! Figures, as reports that are made on request or again and again, and thresholds that are told of when they are reached. Before:
//! [`telemetry`](crate::resources::telemetry), which defines them. After: [`figures`]; [`events`](crate::events), which tells.

pub mod figures;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_hvc::calls::{STATE_SNAPSHOT, VmInfo};
use salp_json::{Parsed, Value, json};

use crate::events::Events;
use crate::events::journal::News;
use crate::hypervisor::{self, Hypervisor};
use crate::resources::time;
use figures::{FIGURES, Figure, Vm};

/// The most definitions of reports, and the most triggers.
pub const MOST: usize = 16;
/// The most values of a report.
pub const VALUES: usize = 256;
/// How often figures are compared with thresholds, in seconds.
const COMPARE: u64 = 5;

/// Where reports are.
pub const REPORTS: &str = "/redfish/v1/TelemetryService/MetricReports";

/// What a report, or a trigger, is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Identifiers of figures; none for all.
    pub metrics: Vec<String>,
    /// Identifiers of systems; none for all.
    pub systems: Vec<String>,
}

impl Scope {
    fn kept(&self) -> Value {
        json!([&self.metrics, &self.systems])
    }

    fn put_back(kept: &Parsed) -> Self {
        Self { metrics: crate::events::texts(&kept[0]), systems: crate::events::texts(&kept[1]) }
    }

    /// Returns the figures.
    pub fn figures(&self) -> impl Iterator<Item = &'static Figure> {
        FIGURES.iter().filter(|figure| self.metrics.is_empty() || self.metrics.iter().any(|id| id == figure.id))
    }

    /// Calls with each figure, where it is, and its value.
    fn each(&self, hypervisor: &dyn Hypervisor, mut take: impl FnMut(&'static Figure, String, u64)) {
        if let Ok(machine) = hypervisor.machine() {
            for figure in self.figures() {
                if let Some(value) = figure.of_machine(&machine) {
                    take(figure, figure.property(""), value);
                }
            }
        }
        if !self.figures().any(Figure::is_of_vm) {
            return;
        }
        let is_wanted = |info: &VmInfo| {
            let id = info.id.get().to_string();
            info.state.get() != STATE_SNAPSHOT && (self.systems.is_empty() || self.systems.contains(&id))
        };
        for info in hypervisor::all(hypervisor).filter(is_wanted) {
            let vm = Vm::new(hypervisor, &info);
            for figure in self.figures().filter(|figure| figure.is_of_vm()) {
                // One that has just gone has no figures.
                if let Ok(value) = figure.of_vm(&vm) {
                    take(figure, figure.property(&info.id.get().to_string()), value);
                }
            }
        }
    }
}

/// When reports are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// When somebody asks.
    Request,
    /// Every so many seconds.
    Every(u64),
    /// When a figure is another one than in the last report.
    Change,
}

impl When {
    fn kept(self) -> Value {
        match self {
            Self::Request => Value::Null,
            Self::Every(seconds) => seconds.into(),
            Self::Change => true.into(),
        }
    }

    fn put_back(kept: &Parsed) -> Self {
        match kept {
            Parsed::Bool(true) => Self::Change,
            kept => kept.as_u64().map_or(Self::Request, Self::Every),
        }
    }
}

/// What reports are made of.
#[derive(Clone, Debug)]
pub struct Definition {
    /// What people call it.
    pub name: String,
    /// What it is about.
    pub scope: Scope,
    /// When a report is made.
    pub when: When,
    /// Whether listeners get it.
    pub is_sent: bool,
    /// Whether reports are made.
    pub is_enabled: bool,
    /// Whether it is the service's own, and stays.
    pub is_built_in: bool,
    due: u64,
}

impl Definition {
    /// Returns a definition that somebody has made.
    pub fn new(name: String, scope: Scope, when: When, is_sent: bool) -> Self {
        Self { name, scope, when, is_sent, is_enabled: true, is_built_in: false, due: 0 }
    }
}

/// Levels of thresholds, as the standard names them: whether each is an upper one, and how grave it is.
pub const LEVELS: [(&str, bool); 4] =
    [("UpperCritical", true), ("UpperWarning", true), ("LowerWarning", false), ("LowerCritical", false)];

/// Thresholds.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// What people call it.
    pub name: String,
    /// What is compared.
    pub scope: Scope,
    /// With what, in the order of [`LEVELS`].
    pub readings: [Option<u64>; LEVELS.len()],
    /// Whether it is told of.
    pub is_told: bool,
    /// Whether anything is compared.
    pub is_enabled: bool,
}

/// Definitions and triggers.
#[derive(Debug)]
pub struct Telemetry {
    definitions: BTreeMap<String, Definition>,
    triggers: BTreeMap<String, Trigger>,
    /// Thresholds that are reached, by trigger, property and level.
    reached: BTreeSet<(String, String, usize)>,
    compared: u64,
    is_changed: bool,
}

impl Default for Telemetry {
    fn default() -> Self {
        let own = |name: &str, prefix: &str| {
            let metrics = FIGURES.iter().map(|figure| figure.id).filter(|id| id.starts_with(prefix));
            let scope = Scope { metrics: metrics.map(Into::into).collect(), systems: Vec::new() };
            let definition =
                Definition { is_built_in: true, ..Definition::new(name.into(), scope, When::Request, false) };
            (prefix.to_string(), definition)
        };
        Self {
            definitions: BTreeMap::from([own("The machine", "Machine"), own("Systems", "System")]),
            triggers: BTreeMap::new(),
            reached: BTreeSet::new(),
            compared: 0,
            is_changed: false,
        }
    }
}

impl Telemetry {
    /// Returns definitions of reports, by their identifiers.
    pub fn definitions(&self) -> &BTreeMap<String, Definition> {
        &self.definitions
    }

    /// Returns definitions of reports, to change them.
    pub fn definitions_mut(&mut self) -> &mut BTreeMap<String, Definition> {
        self.is_changed = true;
        &mut self.definitions
    }

    /// Returns triggers, by their identifiers.
    pub fn triggers(&self) -> &BTreeMap<String, Trigger> {
        &self.triggers
    }

    /// Returns triggers, to change them.
    pub fn triggers_mut(&mut self) -> &mut BTreeMap<String, Trigger> {
        self.is_changed = true;
        self.reached.clear();
        &mut self.triggers
    }

    /// Makes reports that are due and compares figures with thresholds.
    pub fn work(&mut self, hypervisor: &dyn Hypervisor, events: &mut Events, now: u64) {
        let is_due = |definition: &Definition| definition.is_enabled && definition.due <= now;
        let due = self.definitions.iter().find(|(_, one)| one.when != When::Request && is_due(one));
        // One a turn: a turn is short.
        if let Some(id) = due.map(|(id, _)| id.clone()) {
            let report = self.make(&id, hypervisor, now);
            if let (Some(definition), Some(report)) = (self.definitions.get_mut(&id), report) {
                definition.due = now + if let When::Every(seconds) = definition.when { seconds } else { COMPARE };
                let path = alloc::format!("{REPORTS}/{id}");
                let last = events.reports.get(&path).and_then(|last| serde_json::from_str::<Parsed>(last).ok());
                if definition.when != When::Change
                    || last.is_none_or(|last| figures_of(&last.into()) != figures_of(&report))
                {
                    if definition.is_sent {
                        events.journal.tell(News::new("ResourceChanged", &[], &path), now);
                    }
                    events.reports.insert(path, report.to_string());
                }
            }
        }
        if now >= self.compared + COMPARE && !self.triggers.is_empty() {
            self.compared = now;
            self.compare(hypervisor, events, now);
        }
    }

    /// Makes the report of a definition.
    pub fn make(&self, id: &str, hypervisor: &dyn Hypervisor, now: u64) -> Option<Value> {
        let definition = self.definitions.get(id)?;
        let (mut values, mut left_out) = (Vec::new(), 0u64);
        definition.scope.each(hypervisor, |figure, property, value| {
            if values.len() < VALUES {
                values.push(json!({
                    "MetricId": figure.id,
                    "MetricProperty": property,
                    "MetricValue": value.to_string(),
                    "Timestamp": time(now),
                }));
            } else {
                left_out += 1;
            }
        });
        Some(report(id, &definition.name, values, left_out, now))
    }

    fn compare(&mut self, hypervisor: &dyn Hypervisor, events: &mut Events, now: u64) {
        let mut still = BTreeSet::new();
        for (id, trigger) in self.triggers.iter().filter(|(_, trigger)| trigger.is_enabled) {
            trigger.scope.each(hypervisor, |figure, property, value| {
                for (level, ((name, is_upper), reading)) in LEVELS.iter().zip(trigger.readings).enumerate() {
                    let Some(reading) = reading else { continue };
                    if (*is_upper && value < reading) || (!is_upper && value > reading) {
                        continue;
                    }
                    let key = (id.clone(), property.clone(), level);
                    if !self.reached.contains(&key) && trigger.is_told {
                        let (value, reading) = (value.to_string(), reading.to_string());
                        let arguments = [figure.id, &value, name, &reading];
                        let origin = property.split('#').next().unwrap_or_default();
                        events.journal.tell(News::new("MetricThresholdReached", &arguments, origin), now);
                    }
                    still.insert(key);
                }
            });
        }
        self.reached = still;
    }

    /// Returns, once, whether there is something that was not kept.
    pub fn has_changed(&mut self) -> bool {
        core::mem::take(&mut self.is_changed)
    }

    /// Says that there is something that was not kept.
    pub fn mark_changed(&mut self) {
        self.is_changed = true;
    }

    /// Returns what somebody has made, as it is kept.
    pub fn kept(&self) -> Value {
        let definition = |(id, one): (&String, &Definition)| {
            json!([id, &one.name, one.scope.kept(), one.when.kept(), one.is_sent, one.is_enabled])
        };
        let trigger = |(id, one): (&String, &Trigger)| {
            json!([id, &one.name, one.scope.kept(), one.readings, one.is_told, one.is_enabled])
        };
        let definitions: Vec<Value> =
            self.definitions.iter().filter(|(_, one)| !one.is_built_in).map(definition).collect();
        json!({ "definitions": definitions, "triggers": self.triggers.iter().map(trigger).collect::<Vec<_>>() })
    }

    /// Puts what was kept in place of what is here.
    pub fn put_back(&mut self, kept: &Parsed) {
        *self = Self::default();
        let items = |name: &str| kept[name].as_array().into_iter().flatten();
        for one in items("definitions") {
            let (Some(id), Some(name)) = (one[0].as_str(), one[1].as_str()) else { continue };
            let scope = Scope::put_back(&one[2]);
            let definition = Definition {
                is_enabled: one[5] == true,
                ..Definition::new(name.to_string(), scope, When::put_back(&one[3]), one[4] == true)
            };
            self.definitions.insert(id.to_string(), definition);
        }
        for one in items("triggers") {
            let (Some(id), Some(name)) = (one[0].as_str(), one[1].as_str()) else { continue };
            let readings = core::array::from_fn(|level| one[3][level].as_u64());
            let (scope, is_told, is_enabled) = (Scope::put_back(&one[2]), one[4] == true, one[5] == true);
            let trigger = Trigger { name: name.to_string(), scope, readings, is_told, is_enabled };
            self.triggers.insert(id.to_string(), trigger);
        }
    }
}

/// Returns the figures of a report, without when they were taken.
fn figures_of(report: &Value) -> Vec<(&Value, &Value)> {
    let all = report["MetricValues"].as_array();
    all.into_iter().flatten().map(|value| (&value["MetricProperty"], &value["MetricValue"])).collect()
}

/// Returns a report.
pub fn report(id: &str, name: &str, values: Vec<Value>, left_out: u64, now: u64) -> Value {
    json!({
        "@odata.id": alloc::format!("{REPORTS}/{id}"),
        "@odata.type": "#MetricReport.v1_5_2.MetricReport",
        "Id": id.to_string(),
        "Name": name.to_string(),
        "Timestamp": time(now),
        "MetricReportDefinition": { "@odata.id": alloc::format!("/redfish/v1/TelemetryService/MetricReportDefinitions/{id}") },
        "MetricValues@odata.count": values.len(),
        "MetricValues": values,
        "Oem": { "Salp": {
            "@odata.type": "#SalpMetricReport.v1_0_0.SalpMetricReport",
            "LeftOutValues": left_out,
        } },
    })
}
