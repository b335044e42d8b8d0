//! Which events somebody wants: what a subscription says, or the `$filter` of a stream (DSP0266). Before:
//! [`subscription`](super::subscription), [`stream`](super::stream). After: [`filter`](crate::query::filter).

use alloc::string::String;
use alloc::vec::Vec;

use salp_json::{Map, Parsed, Value, json};

use super::journal::Event;
use super::registry;
use crate::query::filter::Filter;

/// What the format of events is called.
pub const EVENT: &str = "Event";
/// What the format of metric reports is called.
pub const REPORT: &str = "MetricReport";

/// Properties that a stream can be filtered by.
pub const PROPERTIES: [&str; 7] = [
    "EventFormatType",
    "EventType",
    "MessageId",
    "MetricReportDefinition",
    "OriginResource",
    "RegistryPrefix",
    "ResourceType",
];

/// Properties of a subscription that name what is wanted, or not.
pub const LISTS: [&str; 7] = [
    "RegistryPrefixes",
    "ExcludeRegistryPrefixes",
    "ResourceTypes",
    "MessageIds",
    "ExcludeMessageIds",
    "OriginResources",
    "Severities",
];

/// What a subscription wants: lists of texts by the names of [`LISTS`]; one that is empty wants all.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The lists, in the order of their names.
    pub lists: [Vec<String>; LISTS.len()],
    /// Whether resources below those that are named are wanted too.
    pub subordinate: bool,
    /// Definitions of the metric reports that are wanted; none for all.
    pub reports: Vec<String>,
    /// Whether metric reports are wanted, and not events.
    pub wants_reports: bool,
}

/// Returns the definition of a report.
fn definition(report: &str) -> String {
    report.replace("/MetricReports/", "/MetricReportDefinitions/")
}

/// Returns whether a message identifier is one that was named: whole, or without the registry's version.
fn is_message(named: &str, event: &Event) -> bool {
    let entry = event.entry;
    named == entry.id()
        || named.strip_prefix(entry.registry.prefix).and_then(|rest| rest.strip_prefix('.')) == Some(entry.key)
}

impl Choice {
    /// Returns whether an event is wanted.
    pub fn takes(&self, event: &Event) -> bool {
        if let Some(report) = event.report() {
            return self.wants_reports && (self.reports.is_empty() || self.reports.contains(&definition(report)));
        }
        if self.wants_reports {
            return false;
        }
        let [prefixes, no_prefixes, types, messages, no_messages, origins, severities] = &self.lists;
        let prefix = event.entry.registry.prefix;
        let has = |list: &Vec<String>, text: &str| list.iter().any(|known| known == text);
        let is_wanted = |list: &Vec<String>, is: &dyn Fn(&String) -> bool| list.is_empty() || list.iter().any(is);
        let is_origin = |named: &String| {
            let rest = event.origin.strip_prefix(&**named);
            rest.is_some_and(|rest| rest.is_empty() || self.subordinate && rest.starts_with('/'))
        };
        is_wanted(prefixes, &|known| known == prefix)
            && !has(no_prefixes, prefix)
            && is_wanted(types, &|known| registry::type_of(&event.origin) == Some(known))
            && is_wanted(messages, &|known| is_message(known, event))
            && !no_messages.iter().any(|known| is_message(known, event))
            && is_wanted(origins, &is_origin)
            && is_wanted(severities, &|known| known == event.entry.severity)
    }

    /// Puts what is wanted into a subscription as it is shown.
    pub fn show(&self, value: &mut Value) {
        value["EventFormatType"] = if self.wants_reports { REPORT } else { EVENT }.into();
        value["SubordinateResources"] = self.subordinate.into();
        for (name, list) in LISTS.iter().zip(&self.lists).filter(|(_, list)| !list.is_empty()) {
            let links = |path: &String| json!({ "@odata.id": path });
            value[*name] = if *name == "OriginResources" { list.iter().map(links).collect() } else { json!(list) };
        }
        if !self.reports.is_empty() {
            value["MetricReportDefinitions"] = self.reports.iter().map(|path| json!({ "@odata.id": path })).collect();
        }
    }

    /// Returns it as it is kept.
    pub fn kept(&self) -> Value {
        let lists: Map = LISTS.into_iter().zip(&self.lists).map(|(name, list)| (name, json!(list))).collect();
        json!({ "lists": lists, "below": self.subordinate, "reports": &self.reports, "format": self.wants_reports })
    }

    /// Reads what was kept.
    pub fn put_back(kept: &Parsed) -> Self {
        Self {
            lists: LISTS.map(|name| super::texts(&kept["lists"][name])),
            subordinate: kept["below"] == true,
            reports: super::texts(&kept["reports"]),
            wants_reports: kept["format"] == true,
        }
    }
}

/// Returns whether a filter of a stream takes an event.
pub fn takes(filter: &Filter, event: &Event) -> bool {
    let report = event.report().map(definition);
    filter.takes(&json!({
        "EventFormatType": if report.is_some() { REPORT } else { EVENT },
        "EventType": if report.is_some() { "MetricReport" } else { "Other" },
        "MessageId": event.entry.id(),
        "MetricReportDefinition": report,
        "OriginResource": &event.origin,
        "RegistryPrefix": event.entry.registry.prefix,
        "ResourceType": registry::type_of(&event.origin),
    }))
}

/// Returns a property in a filter that no stream can be filtered by.
pub fn unknown(filter: &Filter) -> Option<&str> {
    match filter {
        Filter::Any(parts) | Filter::All(parts) => parts.iter().find_map(unknown),
        Filter::Not(inner) => unknown(inner),
        Filter::Compare { path, .. } => (!PROPERTIES.contains(&&**path)).then_some(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::journal::{Journal, News};
    use alloc::string::ToString;

    fn journal() -> Journal {
        let mut journal = Journal::default();
        for (key, arguments, origin) in [
            ("SystemCrashed", &["web", "is off"][..], "/redfish/v1/Systems/2"),
            ("ResourceChanged", &[], "/redfish/v1/Systems/2/EthernetInterfaces/0"),
            ("TaskStarted", &["1"], "/redfish/v1/TaskService/Tasks/1"),
            ("ResourceChanged", &[], "/redfish/v1/TelemetryService/MetricReports/Machine"),
        ] {
            journal.tell(News::new(key, arguments, origin), 0);
        }
        journal
    }

    fn chosen(change: impl FnOnce(&mut Choice)) -> Vec<u64> {
        let mut choice = Choice::default();
        change(&mut choice);
        let (_, journal) = (0, journal());
        journal.since(1).1.filter(|event| choice.takes(event)).map(|event| event.number).collect()
    }

    #[test]
    fn a_subscription_gets_what_it_names() {
        assert_eq!(chosen(|_| ()), [1, 2, 3]);
        for (list, text, expected) in [
            (0, "Salp", &[1][..]),
            (1, "Salp", &[2, 3]),
            (2, "EthernetInterface", &[2]),
            (3, "TaskEvent.TaskStarted", &[3]),
            (3, "Salp.1.0.SystemCrashed", &[1]),
            (4, "TaskEvent.1.0.TaskStarted", &[1, 2]),
            (5, "/redfish/v1/Systems/2", &[1]),
            (6, "Critical", &[1]),
        ] {
            assert_eq!(chosen(|choice| choice.lists[list].push(text.into())), expected, "{text}");
        }
        let below = |choice: &mut Choice| {
            choice.subordinate = true;
            choice.lists[5].push("/redfish/v1/Systems/2".into());
        };
        assert_eq!(chosen(below), [1, 2]);
        assert_eq!(chosen(|choice| choice.wants_reports = true), [4]);
    }

    #[test]
    fn a_stream_is_filtered_by_the_properties_of_the_standard() {
        let journal = journal();
        for (text, expected) in [
            ("RegistryPrefix eq 'Salp' or ResourceType eq 'Task'", &[1, 3][..]),
            ("OriginResource eq '/redfish/v1/Systems/2'", &[1]),
            ("EventFormatType eq 'MetricReport'", &[4]),
            ("MessageId eq 'ResourceEvent.1.4.ResourceChanged' and EventFormatType eq 'Event'", &[2]),
        ] {
            let filter = Filter::new(text).unwrap();
            assert_eq!(unknown(&filter), None);
            let taken: Vec<u64> =
                journal.since(1).1.filter(|event| takes(&filter, event)).map(|event| event.number).collect();
            assert_eq!(taken, expected, "{text}");
        }
        assert_eq!(unknown(&Filter::new("MessageId eq 'x' and not (Color eq 1)").unwrap()), Some("Color"));
    }

    #[test]
    fn what_is_wanted_is_kept() {
        let mut choice = Choice { subordinate: true, ..Choice::default() };
        choice.lists[3].push("a".into());
        let later = Choice::put_back(&serde_json::from_str(&choice.kept().to_string()).unwrap());
        assert_eq!((later.lists, later.subordinate), (choice.lists, true));
    }
}
