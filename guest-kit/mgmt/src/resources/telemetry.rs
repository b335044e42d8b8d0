//! Metrics: what they are, reports of them, thresholds. Before: [`table`](crate::table). After: [`telemetry`](crate::telemetry).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_json::{Parsed, Value, json};

use super::body::Body;
use super::fields::{Field, SHORT, Shape, field, needed};
use super::{Call, Outcome, collection, time};
use crate::events::journal::News;
use crate::message::Failure;
use crate::telemetry::figures::{FIGURES, Figure};
use crate::telemetry::{Definition, LEVELS, MOST, REPORTS, Scope, Trigger, VALUES, When, report};

const SERVICE: &str = "/redfish/v1/TelemetryService";
const METRICS: &str = "/redfish/v1/TelemetryService/MetricDefinitions";
const DEFINITIONS: &str = "/redfish/v1/TelemetryService/MetricReportDefinitions";
const TRIGGERS: &str = "/redfish/v1/TelemetryService/Triggers";
const TEST: &str = "TelemetryService.SubmitTestMetricReport";

/// The name of the wildcard that stands for a system.
const WILDCARD: &str = "SystemId";
/// How often a report is made at most and at least, in seconds.
const INTERVALS: core::ops::RangeInclusive<u64> = 1..=86400;
/// What is done with reports, and when thresholds are reached.
const LOG: &str = "LogToMetricReportsCollection";
const SEND: &str = "RedfishEvent";

const ID: Field = field("Id", Shape::Text("^[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}$"));
const NAME: Field = field("Name", Shape::Text("^[ -~]{0,128}$"));
const PROPERTY: &str = "^/redfish/v1/(Systems/(\\{SystemId\\}|[1-9])|Managers/salp)#/Oem/Salp/Statistics/[A-Za-z]+$";
const PROPERTIES: Field = field("MetricProperties", Shape::Texts(64, PROPERTY));
const WILDCARDS: Field = field(
    "Wildcards",
    Shape::List(
        1,
        &[needed("Name", Shape::Word(&[WILDCARD])), field("Values", Shape::Texts(64, "^(\\*|[1-9][0-9]{0,5})$"))],
    ),
);
const NAMED: Field =
    field("Metrics", Shape::List(64, &[needed("MetricId", Shape::Text("^(Machine|System)[A-Za-z]+$")), PROPERTIES]));
const SCHEDULE: Field =
    field("Schedule", Shape::Object(&[field("RecurrenceInterval", Shape::Text("^PT[1-9][0-9]{0,3}S$"))]));
const REPORTS_ENABLED: Field = field("MetricReportDefinitionEnabled", Shape::Flag);
const ENABLED: Field = field("TriggerEnabled", Shape::Flag);
const UPPER: Shape =
    Shape::Object(&[field("Activation", Shape::Word(&["Increasing"])), needed("Reading", Shape::Number(0, u64::MAX))]);
const LOWER: Shape =
    Shape::Object(&[field("Activation", Shape::Word(&["Decreasing"])), needed("Reading", Shape::Number(0, u64::MAX))]);
const THRESHOLDS: Shape = Shape::Object(&[
    field("UpperCritical", UPPER),
    field("UpperWarning", UPPER),
    field("LowerWarning", LOWER),
    field("LowerCritical", LOWER),
]);

/// A definition of reports.
pub const DEFINITION: &[Field] = &[
    ID,
    NAME,
    field("MetricReportDefinitionType", Shape::Word(&WHENS)),
    SCHEDULE,
    field("ReportActions", Shape::Words(&[LOG, SEND])),
    field("ReportUpdates", Shape::Word(&["Overwrite"])),
    REPORTS_ENABLED,
    PROPERTIES,
    WILDCARDS,
    NAMED,
];
/// What can be changed of one.
pub const DEFINITION_CHANGES: &[Field] = &[REPORTS_ENABLED, SCHEDULE];
/// A trigger.
pub const TRIGGER: &[Field] = &[
    ID,
    NAME,
    field("MetricType", Shape::Word(&["Numeric"])),
    field("TriggerActions", Shape::Words(&[SEND])),
    needed("NumericThresholds", THRESHOLDS),
    ENABLED,
    needed("MetricProperties", Shape::Texts(64, PROPERTY)),
    WILDCARDS,
    NAMED,
];
/// What can be changed of one.
pub const TRIGGER_CHANGES: &[Field] = &[ENABLED, field("NumericThresholds", THRESHOLDS)];
/// A report that says what somebody wants.
pub const TEST_REPORT: &[Field] = &[
    needed("MetricReportName", Shape::Text("^[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}$")),
    field(
        "GeneratedMetricReportValues",
        Shape::List(
            VALUES,
            &[
                field("MetricId", SHORT),
                field("MetricProperty", SHORT),
                field("MetricValue", SHORT),
                field("Timestamp", SHORT),
            ],
        ),
    ),
];

/// When reports are made.
const WHENS: [&str; 3] = ["Periodic", "OnChange", "OnRequest"];

/// Answers the service of metrics.
pub fn service(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Resource(json!({
        "@odata.id": SERVICE,
        "@odata.type": "#TelemetryService.v1_4_1.TelemetryService",
        "Id": "TelemetryService",
        "Name": "Metrics",
        "ServiceEnabled": true,
        "Status": { "State": "Enabled", "Health": "OK" },
        "MaxReports": MOST,
        "MinCollectionInterval": "PT1S",
        "MetricDefinitions": { "@odata.id": METRICS },
        "MetricReportDefinitions": { "@odata.id": DEFINITIONS },
        "MetricReports": { "@odata.id": REPORTS },
        "Triggers": { "@odata.id": TRIGGERS },
        "Actions": { (format!("#{TEST}")): { "target": format!("{SERVICE}/Actions/{TEST}") } },
    })))
}

/// Lists what is counted and measured.
pub fn metrics(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = FIGURES.iter().map(|figure| format!("{METRICS}/{}", figure.id));
    Ok(Outcome::Resource(collection(METRICS, "MetricDefinitionCollection", "Metrics", members)))
}

/// Answers what a metric is.
pub fn metric(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let figure = Figure::find(call.variables[0]).ok_or_else(|| call.missing())?;
    let mut value = json!({
        "@odata.id": format!("{METRICS}/{}", figure.id),
        "@odata.type": "#MetricDefinition.v1_3_5.MetricDefinition",
        "Id": figure.id,
        "Name": figure.help,
        "MetricType": if figure.counts { "Counter" } else { "Gauge" },
        "MetricDataType": "Integer",
        "Implementation": "Synthesized",
        "Units": figure.unit,
        "MetricProperties": [figure.property(&format!("{{{WILDCARD}}}"))],
    });
    if figure.is_of_vm() {
        value["Wildcards"] = json!([{ "Name": WILDCARD, "Values": ["*"] }]);
    }
    Ok(Outcome::Resource(value))
}

/// Lists definitions of reports.
pub fn definitions(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = call.telemetry.definitions().keys().map(|id| format!("{DEFINITIONS}/{id}"));
    let name = "Definitions of reports";
    Ok(Outcome::Resource(collection(DEFINITIONS, "MetricReportDefinitionCollection", name, members)))
}

/// Returns what a report or a trigger is about as it is shown.
fn show_scope(scope: &Scope, value: &mut Value) {
    let properties: Vec<String> = scope.figures().map(|figure| figure.property(&format!("{{{WILDCARD}}}"))).collect();
    value["MetricProperties"] = json!(properties);
    if scope.figures().any(Figure::is_of_vm) {
        let all = ["*".to_string()];
        let systems = if scope.systems.is_empty() { &all[..] } else { &scope.systems };
        value["Wildcards"] = json!([{ "Name": WILDCARD, "Values": systems }]);
    }
}

fn value(id: &str, definition: &Definition) -> Value {
    let Definition { name, when, is_sent, is_enabled, .. } = definition;
    let mut value = json!({
        "@odata.id": format!("{DEFINITIONS}/{id}"),
        "@odata.type": "#MetricReportDefinition.v1_4_7.MetricReportDefinition",
        "Id": id.to_string(),
        "Name": name,
        "MetricReportDefinitionType": match when {
            When::Every(_) => WHENS[0],
            When::Change => WHENS[1],
            When::Request => WHENS[2],
        },
        "MetricReportDefinitionEnabled": is_enabled,
        "ReportActions": if *is_sent { json!([LOG, SEND]) } else { json!([LOG]) },
        "ReportUpdates": "Overwrite",
        "Status": { "State": if *is_enabled { "Enabled" } else { "Disabled" }, "Health": "OK" },
        "MetricReport": { "@odata.id": format!("{REPORTS}/{id}") },
    });
    if let When::Every(seconds) = when {
        value["Schedule"] = json!({ "RecurrenceInterval": format!("PT{seconds}S") });
    }
    show_scope(&definition.scope, &mut value);
    value
}

/// Answers a definition of reports.
pub fn definition(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = call.variables[0];
    let found = call.telemetry.definitions().get(id);
    found.map(|definition| Outcome::Resource(value(id, definition))).ok_or_else(|| call.missing())
}

/// Reads a duration (ISO 8601) of days, hours, minutes and whole seconds.
fn duration(text: &str) -> Option<u64> {
    let (date, clock) = text.strip_prefix('P')?.split_once('T').unwrap_or((text.strip_prefix('P')?, ""));
    let mut total = 0u64;
    for (mut rest, units) in [(date, &[('D', 86400)][..]), (clock, &[('H', 3600), ('M', 60), ('S', 1)])] {
        for &(unit, seconds) in units {
            if let Some((digits, after)) = rest.split_once(unit) {
                total = total.checked_add(digits.parse::<u64>().ok()?.checked_mul(seconds)?)?;
                rest = after;
            }
        }
        if !rest.is_empty() {
            return None;
        }
    }
    INTERVALS.contains(&total).then_some(total)
}

/// Returns the figure of a property, and the system in it: a number, or a wildcard.
fn property(text: &str) -> Option<(&'static Figure, &str)> {
    let system = text.strip_prefix("/redfish/v1/Systems/").and_then(|rest| rest.split(['/', '#']).next());
    let system = system.unwrap_or_default();
    FIGURES.iter().find(|figure| figure.property(system) == text).map(|figure| (figure, system))
}

/// Takes what a report or a trigger is about.
fn scope(body: &mut Body) -> Scope {
    let is_property = |text: &str| text.len() <= 256 && property(text).is_some();
    let properties = body.texts("MetricProperties", 64, is_property).unwrap_or_default();
    let is_system = |text: &str| text == "*" || text.parse::<u64>().is_ok_and(|id| id.to_string() == text);
    let wildcards = body.each("Wildcards", 1, |body| {
        body.needed_word("Name", &[WILDCARD]);
        body.texts("Values", 64, is_system).unwrap_or_default()
    });
    let named = body.each("Metrics", 64, |body| {
        let id = body.needed_parsed("MetricId", Figure::find).map(|figure| figure.id);
        let properties = body.texts("MetricProperties", 64, is_property).unwrap_or_default();
        (id, properties)
    });
    let named = named.unwrap_or_default();
    let all: Vec<&String> = properties.iter().chain(named.iter().flat_map(|(_, properties)| properties)).collect();
    let found: Vec<(&Figure, &str)> = all.iter().filter_map(|text| property(text)).collect();
    let mut metrics: Vec<String> = found.iter().map(|(figure, _)| figure.id.to_string()).collect();
    metrics.extend(named.iter().filter_map(|(id, _)| id.map(ToString::to_string)));
    metrics.sort_unstable();
    metrics.dedup();
    let mut systems: Vec<String> = wildcards.unwrap_or_default().concat();
    systems.extend(found.iter().map(|(_, system)| system.to_string()).filter(|system| is_system(system)));
    systems.sort_unstable();
    systems.dedup();
    if systems.iter().any(|system| system == "*") {
        systems.clear();
    }
    Scope { metrics, systems }
}

fn is_id(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=63).contains(&text.len()) && text.bytes().all(is_good) && !text.starts_with('.') && text != "Members"
}

/// Takes identifier and name of something new; where there is no identifier, it gets the first number that is free.
fn names(body: &mut Body, is_taken: impl Fn(&str) -> bool) -> Result<(String, String), Failure> {
    let id = body.text("Id", is_id);
    let name = body.text("Name", |text| text.len() <= 128);
    if let Some(id) = id.as_deref().filter(|id| is_taken(id)) {
        return Err(Failure::new(409, "ResourceAlreadyExists", &["Resource", "Id", id]));
    }
    let id = id.or_else(|| (1..).map(|number: u32| number.to_string()).find(|id| !is_taken(id))).unwrap_or_default();
    let name = name.unwrap_or_else(|| id.clone());
    Ok((id, name))
}

/// Takes the interval of reports.
fn interval(body: &mut Body) -> Option<u64> {
    body.inside("Schedule", |body| body.parsed("RecurrenceInterval", duration)).flatten()
}

/// Makes a definition of reports.
pub fn create_definition(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_resource(call.request)?;
    let (id, name) = names(&mut body, |id| call.telemetry.definitions().contains_key(id))?;
    let kind = body.word("MetricReportDefinitionType", &WHENS);
    let interval = interval(&mut body);
    let actions = body.known("ReportActions", &[LOG, SEND]);
    body.word("ReportUpdates", &["Overwrite"]);
    let enabled = body.flag("MetricReportDefinitionEnabled");
    let scope = scope(&mut body);
    let when = match (kind.as_deref(), interval) {
        (Some("OnChange"), _) => When::Change,
        (Some("Periodic") | None, Some(seconds)) => When::Every(seconds),
        _ => When::Request,
    };
    if kind.as_deref() == Some("Periodic") {
        body.needed("Schedule", &interval);
    }
    body.finish()?;
    let full = || Failure::new(507, "CreateLimitReachedForResource", &[]);
    if call.telemetry.definitions().len() >= MOST {
        return Err(full());
    }
    let is_sent = actions.is_some_and(|actions| actions.iter().any(|action| action == SEND));
    let mut definition = Definition::new(name, scope, when, is_sent);
    definition.is_enabled = enabled.unwrap_or(true);
    let shown = value(&id, &definition);
    call.telemetry.definitions_mut().insert(id.clone(), definition);
    if !call.fits() {
        call.telemetry.definitions_mut().remove(&id);
        return Err(full());
    }
    Ok(Outcome::Created { value: shown, location: format!("{DEFINITIONS}/{id}"), token: None })
}

/// Changes a definition of reports.
pub fn patch_definition(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = call.variables[0];
    let old = call.telemetry.definitions().get(id).ok_or_else(|| call.missing())?.clone();
    let mut body = Body::of_resource(call.request)?;
    let enabled = body.flag("MetricReportDefinitionEnabled");
    let interval = interval(&mut body);
    if interval.is_some() && !matches!(old.when, When::Every(_)) {
        body.refuse("Schedule", "Only what is made again and again has one.");
    }
    let ignored = body.finish_change()?;
    if let Some(definition) = call.telemetry.definitions_mut().get_mut(id) {
        definition.is_enabled = enabled.unwrap_or(old.is_enabled);
        definition.when = interval.map_or(old.when, When::Every);
    }
    definition(call).map(|outcome| ignored.tell(outcome))
}

/// Removes a definition of reports that somebody has made, and its report.
pub fn delete_definition(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = call.variables[0];
    let definition = call.telemetry.definitions().get(id).ok_or_else(|| call.missing())?;
    if definition.is_built_in {
        return Err(Failure::because(409, "It is the service's own: it stays."));
    }
    call.telemetry.definitions_mut().remove(id);
    call.events.reports.remove(&format!("{REPORTS}/{id}"));
    Ok(Outcome::Done)
}

/// Lists reports.
pub fn reports(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = call.telemetry.definitions().keys().map(|id| format!("{REPORTS}/{id}"));
    Ok(Outcome::Resource(collection(REPORTS, "MetricReportCollection", "Reports", members)))
}

/// Answers a report: the last one that is made again and again, or one that is made now.
pub fn one_report(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = call.variables[0];
    let definition = call.telemetry.definitions().get(id).ok_or_else(|| call.missing())?;
    let last = call.events.reports.get(&format!("{REPORTS}/{id}")).filter(|_| definition.when != When::Request);
    if let Some(value) = last.and_then(|report| serde_json::from_str::<Parsed>(report).ok()) {
        return Ok(Outcome::Resource(value.into()));
    }
    let made = call.telemetry.make(id, call.hypervisor, call.now);
    made.map(Outcome::Resource).ok_or_else(|| call.missing())
}

/// Lists triggers.
pub fn triggers(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = call.telemetry.triggers().keys().map(|id| format!("{TRIGGERS}/{id}"));
    Ok(Outcome::Resource(collection(TRIGGERS, "TriggersCollection", "Triggers", members)))
}

fn trigger_value(id: &str, trigger: &Trigger) -> Value {
    let mut value = json!({
        "@odata.id": format!("{TRIGGERS}/{id}"),
        "@odata.type": "#Triggers.v1_4_0.Triggers",
        "Id": id.to_string(),
        "Name": &trigger.name,
        "MetricType": "Numeric",
        "TriggerActions": if trigger.is_told { json!([SEND]) } else { json!([]) },
        "TriggerEnabled": trigger.is_enabled,
        "Status": { "State": if trigger.is_enabled { "Enabled" } else { "Disabled" }, "Health": "OK" },
        "NumericThresholds": {},
    });
    for ((name, is_upper), reading) in LEVELS.iter().zip(trigger.readings) {
        if let Some(reading) = reading {
            let activation = if *is_upper { "Increasing" } else { "Decreasing" };
            value["NumericThresholds"][*name] = json!({ "Reading": reading, "Activation": activation });
        }
    }
    show_scope(&trigger.scope, &mut value);
    value
}

/// Answers a trigger.
pub fn trigger(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = call.variables[0];
    let found = call.telemetry.triggers().get(id);
    found.map(|trigger| Outcome::Resource(trigger_value(id, trigger))).ok_or_else(|| call.missing())
}

/// Takes thresholds.
fn thresholds(body: &mut Body) -> Option<[Option<u64>; LEVELS.len()]> {
    body.inside("NumericThresholds", |body| {
        LEVELS.map(|(name, is_upper)| {
            let reading = body.inside(name, |body| {
                body.word("Activation", &[if is_upper { "Increasing" } else { "Decreasing" }]);
                let reading = body.number("Reading", 0..=u64::MAX);
                body.needed("Reading", &reading);
                reading
            });
            reading.flatten()
        })
    })
}

/// Makes a trigger.
pub fn create_trigger(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_resource(call.request)?;
    let (id, name) = names(&mut body, |id| call.telemetry.triggers().contains_key(id))?;
    body.word("MetricType", &["Numeric"]);
    let actions = body.known("TriggerActions", &[SEND]);
    let readings = thresholds(&mut body);
    body.needed("NumericThresholds", &readings);
    let enabled = body.flag("TriggerEnabled");
    let scope = scope(&mut body);
    body.needed("MetricProperties", &scope.metrics.first());
    body.finish()?;
    let full = || Failure::new(507, "CreateLimitReachedForResource", &[]);
    if call.telemetry.triggers().len() >= MOST {
        return Err(full());
    }
    let trigger = Trigger {
        name,
        scope,
        readings: readings.unwrap_or_default(),
        is_told: actions.is_none_or(|actions| !actions.is_empty()),
        is_enabled: enabled.unwrap_or(true),
    };
    let shown = trigger_value(&id, &trigger);
    call.telemetry.triggers_mut().insert(id.clone(), trigger);
    if !call.fits() {
        call.telemetry.triggers_mut().remove(&id);
        return Err(full());
    }
    Ok(Outcome::Created { value: shown, location: format!("{TRIGGERS}/{id}"), token: None })
}

/// Changes a trigger.
pub fn patch_trigger(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = call.variables[0];
    let old = call.telemetry.triggers().get(id).ok_or_else(|| call.missing())?.clone();
    let mut body = Body::of_resource(call.request)?;
    let enabled = body.flag("TriggerEnabled");
    let readings = thresholds(&mut body);
    let ignored = body.finish_change()?;
    if let Some(trigger) = call.telemetry.triggers_mut().get_mut(id) {
        trigger.is_enabled = enabled.unwrap_or(old.is_enabled);
        for (place, reading) in trigger.readings.iter_mut().zip(readings.unwrap_or_default()) {
            *place = reading.or(*place);
        }
    }
    trigger(call).map(|outcome| ignored.tell(outcome))
}

/// Removes a trigger.
pub fn delete_trigger(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let removed = call.telemetry.triggers_mut().remove(call.variables[0]);
    removed.map(|_| Outcome::Done).ok_or_else(|| call.missing())
}

/// Sends a report that says what somebody wants to those who get reports.
pub fn test(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_action(call.request, TEST)?;
    let name = body.needed_text("MetricReportName", is_id);
    let values = body.each("GeneratedMetricReportValues", VALUES, |body| {
        let mut value = json!({ "Timestamp": time(call.now) });
        for name in ["MetricId", "MetricProperty", "MetricValue", "Timestamp"] {
            if let Some(text) = body.text(name, |text| text.len() <= 256) {
                value[name] = text.into();
            }
        }
        value
    });
    body.finish()?;
    let name = name.unwrap_or_default();
    let path = format!("{REPORTS}/{name}");
    let report = report(&name, &name, values.unwrap_or_default(), 0, call.now);
    call.events.reports.insert(path.clone(), report.to_string());
    // It is read before the next one is made, or at least told of.
    call.events.journal.tell(News::new("ResourceChanged", &[], &path), call.now);
    let tests = call.events.reports.len().saturating_sub(2 * MOST);
    for _ in 0..tests {
        call.events.reports.pop_first();
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::http::Method;
    use crate::testing::{Client, json, keys};
    use serde_json::{Value, json};

    fn values(client: &mut Client, report: &str) -> Vec<(Value, Value)> {
        let report = client.read(report);
        let all = report["MetricValues"].as_array().unwrap().clone();
        all.into_iter().map(|value| (value["MetricProperty"].clone(), value["MetricValue"].clone())).collect()
    }

    #[test]
    fn durations_are_those_of_the_standard() {
        for (text, seconds) in [("PT10S", Some(10)), ("PT1M5S", Some(65)), ("P1D", Some(86400)), ("PT2H", Some(7200))] {
            assert_eq!(duration(text), seconds, "{text}");
        }
        for text in ["", "P", "PT", "10S", "PT0S", "P2D", "PT-1S", "PT1.5S", "PT1", "PTS"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn every_figure_is_reported_and_says_what_it_is() {
        let mut client = Client::new(Role::ReadOnly);
        let machine = values(&mut client, &format!("{REPORTS}/Machine"));
        let systems = values(&mut client, &format!("{REPORTS}/System"));
        assert_eq!(machine.len() + systems.len() / 2, FIGURES.len());
        assert!(systems.contains(&(json!("/redfish/v1/Systems/2#/Oem/Salp/Statistics/Vcpus"), json!("1"))));
        let metric = client.read(&format!("{METRICS}/SystemExits"));
        assert_eq!(metric["MetricProperties"][0], "/redfish/v1/Systems/{SystemId}#/Oem/Salp/Statistics/Exits");
    }

    #[test]
    fn a_report_is_made_again_and_again_and_sent() {
        let mut client = Client::new(Role::Administrator);
        let body = r#"{"Id":"mine","Schedule":{"RecurrenceInterval":"PT10S"},"ReportActions":["RedfishEvent"],
            "MetricProperties":["/redfish/v1/Systems/{SystemId}#/Oem/Salp/Statistics/Exits"],
            "Wildcards":[{"Name":"SystemId","Values":["3"]}]}"#;
        let made = client.post(DEFINITIONS, body);
        assert_eq!((made.status, &json(&made)["MetricReportDefinitionType"]), (201, &json!("Periodic")));
        assert_eq!(client.post(DEFINITIONS, body).status, 409);
        client.service.work(client.now);
        let report = format!("{REPORTS}/mine");
        let properties: Vec<Value> = values(&mut client, &report).into_iter().map(|(property, _)| property).collect();
        assert_eq!(properties, ["/redfish/v1/Systems/3#/Oem/Salp/Statistics/Exits"]);
        let made = |client: &mut Client| client.read(&report)["Timestamp"].clone();
        let first = made(&mut client);
        client.service.work(client.now + 9);
        assert_eq!(made(&mut client), first);
        client.service.work(client.now + 10);
        assert_ne!(made(&mut client), first);
        let told = client.service.events.journal.since(1).1.filter(|event| event.report() == Some(&*report)).count();
        assert_eq!(told, 2);
        client.forget();
        let definition = client.read(&format!("{DEFINITIONS}/mine"));
        assert_eq!(definition["Schedule"]["RecurrenceInterval"], "PT10S");
        let delete = client.request(Method::Delete, &format!("{DEFINITIONS}/mine"), "");
        assert_eq!((client.send(&delete).status, client.get(&report).status), (204, 404));
        let delete = client.request(Method::Delete, &format!("{DEFINITIONS}/Machine"), "");
        assert_eq!(client.send(&delete).status, 409);
    }

    #[test]
    fn a_report_on_change_is_made_when_a_figure_is_another_one() {
        let mut client = Client::new(Role::Administrator);
        let body = r#"{"Id":"power","MetricReportDefinitionType":"OnChange","ReportActions":["RedfishEvent"],
            "Metrics":[{"MetricId":"SystemVcpus"}]}"#;
        assert_eq!(json(&client.post(DEFINITIONS, body))["MetricReportDefinitionType"], "OnChange");
        client.forget();
        let told = |client: &mut Client| {
            client.now += 60;
            client.service.work(client.now);
            client.service.events.journal.since(1).1.filter(|event| event.report().is_some()).count()
        };
        assert_eq!((told(&mut client), told(&mut client)), (1, 1));
        client.post("/redfish/v1/Systems/2/Actions/Oem/SalpComputerSystem.InstantClone", r#"{"Name":"more"}"#);
        assert_eq!((told(&mut client), told(&mut client)), (2, 2));
        let patch = client.request(
            Method::Patch,
            &format!("{DEFINITIONS}/power"),
            r#"{"Schedule":{"RecurrenceInterval":"PT9S"}}"#,
        );
        assert_eq!(client.send(&patch).status, 400, "it has no schedule");
    }

    #[test]
    fn a_threshold_that_is_reached_is_told_once() {
        let mut client = Client::new(Role::Administrator);
        let body = r#"{"Id":"vcpus","NumericThresholds":{"UpperWarning":{"Reading":1,"Activation":"Increasing"}},
            "MetricProperties":["/redfish/v1/Systems/2#/Oem/Salp/Statistics/Vcpus"]}"#;
        assert_eq!(client.post(TRIGGERS, body).status, 201);
        for _ in 0..3 {
            client.now += 10;
            client.service.work(client.now);
        }
        let all = client.service.events.journal.since(1).1;
        let told: Vec<_> = all.filter(|event| event.entry.key == "MetricThresholdReached").collect();
        assert_eq!(told.len(), 1);
        assert_eq!(
            (&*told[0].origin, &told[0].arguments[..]),
            ("/redfish/v1/Systems/2", &["SystemVcpus", "1", "UpperWarning", "1"].map(String::from)[..])
        );
        let bad = r#"{"NumericThresholds":{"UpperWarning":{"Activation":"Increasing"}},"MetricProperties":["x"]}"#;
        assert_eq!(keys(&client.post(TRIGGERS, bad)).len(), 2);
    }
}
