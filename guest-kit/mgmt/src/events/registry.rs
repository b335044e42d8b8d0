//! What messages of events mean. Before: [`journal`](super::journal). After: [`registries`](crate::resources::registries), which
//! publishes what is our own; the rest is published by DMTF.

/// The type of what is sent.
pub const EVENT: &str = "Event.v1_13_0.Event";

/// A registry of messages that events are of: its prefix, its version without the last part, and that.
#[derive(Debug, PartialEq, Eq)]
pub struct Registry {
    /// What message identifiers begin with.
    pub prefix: &'static str,
    /// The version in message identifiers.
    pub version: &'static str,
    /// The version whole.
    pub whole: &'static str,
}

/// Resources come, change and go.
pub const RESOURCE: Registry = Registry { prefix: "ResourceEvent", version: "1.4", whole: "1.4.2" };
/// Tasks.
pub const TASK: Registry = Registry { prefix: "TaskEvent", version: "1.0", whole: "1.0.3" };
/// What only Salp tells.
pub const SALP: Registry = Registry { prefix: "Salp", version: "1.0", whole: "1.0.0" };

/// How grave something can be.
pub const SEVERITIES: [&str; 3] = ["OK", "Warning", "Critical"];

/// All of them.
pub const REGISTRIES: [&Registry; 3] = [&RESOURCE, &TASK, &SALP];

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// The registry that it is of.
    pub registry: &'static Registry,
    /// Its key.
    pub key: &'static str,
    /// How grave it is: OK, Warning, Critical.
    pub severity: &'static str,
    /// What it says, with `%1` and so on for arguments.
    pub text: &'static str,
    /// What to do.
    pub resolution: &'static str,
}

const fn entry(registry: &'static Registry, key: &'static str, text: &'static str) -> Entry {
    Entry { registry, key, severity: "OK", text, resolution: "None." }
}

const fn grave(severity: &'static str, key: &'static str, text: &'static str, resolution: &'static str) -> Entry {
    Entry { registry: &SALP, key, severity, text, resolution }
}

/// All messages of events.
pub const ENTRIES: &[Entry] = &[
    entry(&RESOURCE, "ResourceCreated", "The resource was created successfully."),
    entry(&RESOURCE, "ResourceRemoved", "The resource was removed successfully."),
    entry(&RESOURCE, "ResourceChanged", "One or more resource properties have changed."),
    entry(&RESOURCE, "ResourcePoweredOn", "The resource `%1` has powered on."),
    entry(&RESOURCE, "ResourcePoweredOff", "The resource `%1` has powered off."),
    entry(&RESOURCE, "ResourcePaused", "The resource `%1` has been paused."),
    entry(&RESOURCE, "TestMessage", "Test message."),
    entry(&TASK, "TaskStarted", "The task with Id '%1' has started."),
    entry(&TASK, "TaskProgressChanged", "The task with Id '%1' has changed to progress %2 percent complete."),
    entry(&TASK, "TaskCompletedOK", "The task with Id '%1' has completed."),
    Entry { severity: "Critical", ..entry(&TASK, "TaskAborted", "The task with Id '%1' has completed with errors.") },
    Entry {
        severity: "Warning",
        ..entry(
            &TASK,
            "TaskCancelled",
            "Work on the task with Id '%1' has been halted prior to completion due to an explicit request.",
        )
    },
    Entry { severity: "Warning", ..entry(&TASK, "TaskRemoved", "The task with Id '%1' has been removed.") },
    entry(&SALP, "SystemPoweredOffByGuest", "The guest has turned the system '%1' off, which %2."),
    entry(&SALP, "SystemRestartedByGuest", "The guest has restarted the system '%1', which %2."),
    grave("Critical", "SystemCrashed", "The system '%1' could not go on, and %2.", "Look at its console."),
    entry(&SALP, "SystemReset", "The system '%1' was started again, and %2."),
    entry(&SALP, "SystemResumed", "The system '%1' goes on after it was paused."),
    entry(&SALP, "SystemReverted", "The system '%1' is back in the state of a snapshot."),
    grave(
        "Critical",
        "SystemWaitsForMemory",
        "The system '%1' stands still: the machine has no memory for it.",
        "Delete VMs or snapshots.",
    ),
    entry(&SALP, "SystemHasMemoryAgain", "The system '%1' goes on: there is memory for it again."),
    entry(&SALP, "GuestUp", "The guest of the system '%1' is up: its agent tells so."),
    grave("Warning", "GuestSilent", "The agent in the system '%1' tells nothing any more.", "Look at its console."),
    entry(&SALP, "ApplicationUp", "The application in the system '%1' is up."),
    grave("Warning", "ApplicationDown", "The application in the system '%1' is down.", "Look at the application."),
    grave("Warning", "ManagerRecovered", "The management guest %1, and is back.", "Report it."),
    entry(&SALP, "ManagerReplaced", "The management guest is that of the image %1."),
    grave(
        "Warning",
        "EventsLost",
        "%1 events were lost here: they came faster than they were read.",
        "Look at the resources themselves.",
    ),
    grave(
        "Warning",
        "SubscriptionFailed",
        "Events could not be delivered to the subscription '%1': %2.",
        "Look after the listener.",
    ),
    grave(
        "Warning",
        "MetricThresholdReached",
        "The metric '%1' is %2, and has reached the threshold %3 of %4.",
        "Look at what the metric is of.",
    ),
    entry(&SALP, "ImageStaged", "The image %1 is staged."),
    entry(&SALP, "ImageConfirmed", "The image %1 runs well, and is the one that starts from now on."),
    entry(&SALP, "ImageTakesOver", "The image %1 takes over from the one that runs, under all VMs."),
    grave(
        "Critical",
        "ImageGivenUp",
        "The image %1 is not well: %2. The machine goes back to the image before it.",
        "Look at the log, and report it.",
    ),
    grave(
        "Critical",
        "TaskInterrupted",
        "The service failed while it worked at the task; %1.",
        "Look at the resources themselves, and ask again for what is missing.",
    ),
];

impl Entry {
    /// Returns the message with this key.
    pub fn find(key: &str) -> Option<&'static Self> {
        ENTRIES.iter().find(|entry| entry.key == key)
    }

    /// Returns the identifier of the message.
    pub fn id(&self) -> alloc::string::String {
        alloc::format!("{}.{}.{}", self.registry.prefix, self.registry.version, self.key)
    }

    /// Returns how many arguments it has.
    pub fn arguments(&self) -> usize {
        (1..=4).take_while(|number| self.text.contains(&alloc::format!("%{number}"))).count()
    }

    /// Returns the text with these arguments.
    pub fn say(&self, arguments: &[alloc::string::String]) -> alloc::string::String {
        let mut text = alloc::string::String::with_capacity(self.text.len() + 32);
        let mut parts = self.text.split('%');
        text.extend(parts.next());
        for part in parts {
            let number = part.bytes().next().map_or(0, |digit| usize::from(digit.wrapping_sub(b'1')));
            text.extend(arguments.get(number).map(|argument| &**argument));
            text.extend(part.get(1..));
        }
        text
    }
}

/// Types of resources by where they are.
const TYPES: &[(&str, &str)] = &[
    ("/redfish/v1/AccountService/Accounts/", "ManagerAccount"),
    ("/redfish/v1/AccountService", "AccountService"),
    ("/redfish/v1/EventService/Subscriptions/", "EventDestination"),
    ("/redfish/v1/EventService", "EventService"),
    ("/redfish/v1/Managers/salp/EthernetInterfaces/", "EthernetInterface"),
    ("/redfish/v1/Managers/salp/NetworkProtocol/HTTPS/Certificates/", "Certificate"),
    ("/redfish/v1/Managers/salp/NetworkProtocol", "ManagerNetworkProtocol"),
    ("/redfish/v1/Managers/", "Manager"),
    ("/redfish/v1/Oem/Salp/Images/", "SalpImage"),
    ("/redfish/v1/Oem/Salp/Snapshots/", "SalpSnapshot"),
    ("/redfish/v1/SessionService/Sessions/", "Session"),
    ("/redfish/v1/SessionService", "SessionService"),
    ("/redfish/v1/TaskService/Tasks/", "Task"),
    ("/redfish/v1/TelemetryService/MetricReportDefinitions/", "MetricReportDefinition"),
    ("/redfish/v1/TelemetryService/MetricReports/", "MetricReport"),
    ("/redfish/v1/TelemetryService/Triggers/", "Triggers"),
    ("/redfish/v1/TelemetryService", "TelemetryService"),
    ("/redfish/v1/UpdateService/FirmwareInventory/", "SoftwareInventory"),
];

/// Returns the type of the resource at a path, if events tell of it.
pub fn type_of(path: &str) -> Option<&'static str> {
    if let Some(rest) = path.strip_prefix("/redfish/v1/Systems/") {
        return Some(match rest.split('/').nth(1) {
            None => "ComputerSystem",
            Some("EthernetInterfaces") => "EthernetInterface",
            Some("VirtualMedia") => "VirtualMedia",
            Some(_) => "ComputerSystem",
        });
    }
    TYPES.iter().find(|(place, _)| path.starts_with(place)).map(|&(_, kind)| kind)
}

/// Types that events tell of.
pub fn types() -> alloc::vec::Vec<&'static str> {
    let mut types: alloc::vec::Vec<_> = TYPES.iter().map(|&(_, kind)| kind).chain(["ComputerSystem"]).collect();
    types.sort_unstable();
    types.dedup();
    types
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_put_where_they_belong_and_not_where_they_say() {
        let entry = Entry::find("SystemCrashed").unwrap();
        assert_eq!(entry.say(&["%2".into(), "is off".into()]), "The system '%2' could not go on, and is off.");
        assert_eq!((entry.arguments(), entry.id()), (2, "Salp.1.0.SystemCrashed".into()));
    }

    #[test]
    fn resources_have_types() {
        for (path, kind) in [
            ("/redfish/v1/Systems/2", "ComputerSystem"),
            ("/redfish/v1/Systems/2/EthernetInterfaces/0", "EthernetInterface"),
            ("/redfish/v1/SessionService/Sessions/x", "Session"),
        ] {
            assert_eq!(type_of(path), Some(kind), "{path}");
        }
        assert_eq!(type_of("/metrics"), None);
    }
}
