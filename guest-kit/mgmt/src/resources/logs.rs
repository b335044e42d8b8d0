//! Logs: what a VM wrote to its console, line by line, what became of it, who changed what, and what
//! the hypervisor says. Before: [`table`](crate::table). After:
//! [`console`](crate::console), [`events`](crate::events), [`audit`](crate::audit).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_hvc::manager::CONSOLE_SIZE;
use salp_json::{Value, json};

use super::body::Body;
use super::managers::SALP;
use super::{Call, Outcome, collection, systems, time};
use crate::audit::Entry;
use crate::console::Follow;
use crate::events::journal::Event;
use crate::message::{Failure, REGISTRY};

/// How much of a console is read at a time.
const PIECE: usize = 16 << 10;

/// Returns where the logs of a resource are.
pub fn path(owner: &str) -> String {
    format!("{owner}/LogServices")
}

fn services(owner: &str, logs: &[&str]) -> Outcome {
    let path = path(owner);
    let members = logs.iter().map(|log| format!("{path}/{log}"));
    Outcome::Resource(collection(&path, "LogServiceCollection", "Logs", members))
}

fn service(owner: &str, log: &'static str, name: &'static str, kind: &'static str) -> Outcome {
    let path = format!("{}/{log}", path(owner));
    Outcome::Resource(json!({
        "@odata.id": &path,
        "@odata.type": "#LogService.v1_9_0.LogService",
        "Id": log,
        "Name": name,
        "ServiceEnabled": true,
        "Status": { "State": "Enabled", "Health": "OK" },
        "LogEntryType": kind,
        "OverWritePolicy": "WrapsWhenFull",
        "Entries": { "@odata.id": format!("{path}/Entries") },
    }))
}

/// Returns the entries of a log, which the standard wants to be there as they are, not as links.
fn entries(owner: &str, log: &str, members: Vec<Value>) -> Outcome {
    let path = format!("{}/{log}/Entries", path(owner));
    let mut value = collection(&path, "LogEntryCollection", "Entries", core::iter::empty());
    (value["Members@odata.count"], value["Members"]) = (members.len().into(), members.into());
    Outcome::Resource(value)
}

/// Returns an entry with what all of them have.
fn entry(owner: &str, log: &str, id: u64, kind: &'static str, key: &str, message: &str) -> Value {
    json!({
        "@odata.id": format!("{}/{log}/Entries/{id}", path(owner)),
        "@odata.type": "#LogEntry.v1_21_0.LogEntry",
        "Id": id.to_string(),
        "Name": "Entry",
        "EntryType": kind,
        "Severity": "OK",
        "Message": message.to_string(),
        "MessageId": key.to_string(),
    })
}

/// Returns the one entry that the path asks for.
fn one(call: &Call<'_>, id: &str, members: Vec<Value>) -> Result<Outcome, Failure> {
    members.into_iter().find(|entry| entry["Id"] == id).map(Outcome::Resource).ok_or_else(|| call.missing())
}

/// Lists the logs of a VM.
pub fn of_system(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(services(&systems::path(systems::find(call)?.id.get()), &["Console", "Events"]))
}

/// Answers the log of a console.
pub fn console(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let owner = systems::path(systems::find(call)?.id.get());
    Ok(service(&owner, "Console", "What the VM wrote to its console", "OEM"))
}

/// Returns the lines that are kept of a console. Each has the position of its first byte as identifier, so that it keeps it.
fn lines(call: &Call<'_>) -> Result<(String, Vec<Value>), Failure> {
    let id = systems::find(call)?.id.get();
    let owner = systems::path(id);
    let (mut follow, mut bytes) = (Follow { id, position: 0 }, Vec::new());
    while bytes.len() < CONSOLE_SIZE {
        let most = PIECE.min(CONSOLE_SIZE - bytes.len());
        let what = |refused| Failure::refused(refused, &call.request.path);
        if follow.read(call.hypervisor, &mut bytes, most).map_err(what)? == 0 {
            break;
        }
    }
    let (mut at, mut members) = (follow.position - bytes.len() as u64, Vec::new());
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let text: String = String::from_utf8_lossy(line).chars().filter(|character| !character.is_control()).collect();
        if !text.is_empty() {
            let mut entry = entry(&owner, "Console", at, "Oem", "Salp.Console", &text);
            entry["OemRecordFormat"] = "Salp console line".into();
            members.push(entry);
        }
        at += line.len() as u64;
    }
    Ok((owner, members))
}

/// Lists what a VM wrote to its console.
pub fn console_entries(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    lines(call).map(|(owner, members)| entries(&owner, "Console", members))
}

/// Answers one line of a console.
pub fn console_entry(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let (_, members) = lines(call)?;
    one(call, call.variables[1], members)
}

/// Answers the log of what became of a VM.
pub fn events(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let owner = systems::path(systems::find(call)?.id.get());
    Ok(service(&owner, "Events", "What became of the VM", "Event"))
}

fn changes(call: &Call<'_>) -> Result<(String, Vec<Value>), Failure> {
    let id = systems::find(call)?.id.get();
    let owner = systems::path(id);
    let change = |event: &Event| {
        let (key, message) = (event.entry.id(), event.entry.say(&event.arguments));
        let mut entry = entry(&owner, "Events", event.number, "Event", &key, &message);
        entry["Created"] = time(event.time).into();
        entry["Severity"] = event.entry.severity.into();
        entry["MessageArgs"] = json!(&event.arguments);
        entry
    };
    let members = call.events.journal.of(&owner).map(change).collect();
    Ok((owner, members))
}

/// Lists what became of a VM.
pub fn event_entries(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    changes(call).map(|(owner, members)| entries(&owner, "Events", members))
}

/// Answers one thing that became of a VM.
pub fn event_entry(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let (_, members) = changes(call)?;
    one(call, call.variables[1], members)
}

/// Lists the logs of the host.
pub fn of_manager(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(services(SALP, &["Audit", "Hypervisor"]))
}

/// Answers the hypervisor's own log.
pub fn hypervisor(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let Outcome::Resource(mut value) = service(SALP, "Hypervisor", "What the hypervisor says", "OEM") else {
        return Err(call.missing());
    };
    let target = format!("{}/Hypervisor/Actions/LogService.ClearLog", path(SALP));
    value["Actions"] = json!({ "#LogService.ClearLog": { "target": target } });
    Ok(Outcome::Resource(value))
}

/// Returns what is kept of the hypervisor's log and was not cleared, and the position behind it.
fn told(call: &Call<'_>) -> Result<(Vec<Value>, u64), Failure> {
    let refused = |refused| Failure::refused(refused, &call.request.path);
    let (mut bytes, mut piece) = (Vec::new(), alloc::vec![0; PIECE]);
    let mut first = call.appliance.settings().cleared;
    loop {
        let heard = call.hypervisor.read_log(first + bytes.len() as u64, &mut piece).map_err(refused)?;
        if bytes.is_empty() {
            first = heard.first;
        }
        if heard.count == 0 || heard.first != first + bytes.len() as u64 {
            break;
        }
        bytes.extend_from_slice(&piece[..heard.count]);
    }
    let mut at = first;
    let mut members = Vec::new();
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let text: String = String::from_utf8_lossy(line).chars().filter(|character| !character.is_control()).collect();
        // Of a line that was dropped in part there is no time.
        if let Some((seconds, text)) = text.split_once(' ')
            && let Ok(seconds) = seconds.parse()
        {
            let mut entry = entry(SALP, "Hypervisor", at, "Oem", "Salp.Hypervisor", text);
            (entry["OemRecordFormat"], entry["Created"]) = ("Salp log line".into(), time(seconds).into());
            let is_bad = ["crashed", "does not answer", "stopped the VM", "no memory left", "stands still"];
            if text.starts_with("before this start: PANIC") {
                entry["Severity"] = "Critical".into();
            } else if is_bad.iter().any(|words| text.contains(words)) {
                entry["Severity"] = "Warning".into();
            }
            members.push(entry);
        }
        at += line.len() as u64;
    }
    Ok((members, at))
}

/// Lists what the hypervisor says.
pub fn hypervisor_entries(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    told(call).map(|(members, _)| entries(SALP, "Hypervisor", members))
}

/// Answers one thing that the hypervisor says.
pub fn hypervisor_entry(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let (members, _) = told(call)?;
    one(call, call.variables[0], members)
}

/// Clears the hypervisor's log: what was in it is not shown any more.
pub fn clear_hypervisor(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Body::of_action(call.request, "LogService.ClearLog")?.finish()?;
    let (_, end) = told(call)?;
    let refused = |refused| Failure::refused(refused, &call.request.path);
    call.appliance.change(call.hypervisor, |settings| settings.cleared = end).map_err(refused)?;
    Ok(Outcome::Done)
}

/// Answers the log of who changed what.
pub fn audit(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(service(SALP, "Audit", "Who changed what", "Event"))
}

fn deeds(call: &Call<'_>) -> Vec<Value> {
    let deed = |deed: &Entry| {
        let Entry { number, user, method, path, status, .. } = deed;
        let key = if *status < 400 { "Success" } else { "GeneralError" };
        let message = format!("{user}: {method} {path}: {status}");
        let mut entry = entry(SALP, "Audit", *number, "Event", &format!("{REGISTRY}.{key}"), &message);
        entry["Created"] = time(deed.time).into();
        entry["Originator"] = user.into();
        entry["OriginatorType"] = "Client".into();
        if *status >= 400 {
            entry["Severity"] = "Warning".into();
        }
        entry
    };
    call.audit.entries().map(deed).collect()
}

/// Lists who changed what.
pub fn audit_entries(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(entries(SALP, "Audit", deeds(call)))
}

/// Answers one change.
pub fn audit_entry(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    one(call, call.variables[0], deeds(call))
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::http::Method;
    use crate::testing::Client;
    use alloc::string::String;
    use serde_json::json;

    #[test]
    fn a_console_is_a_log_whose_entries_keep_their_names() {
        let mut client = Client::new(Role::Operator);
        client.post("/redfish/v1/Systems/2/Oem/Salp/Console", "root\r\n\r\n# ");
        let entries = client.read("/redfish/v1/Systems/2/LogServices/Console/Entries");
        let entry =
            |index: usize| (entries["Members"][index]["Id"].clone(), entries["Members"][index]["Message"].clone());
        assert_eq!(entry(0), (json!("0"), json!("web login: root")));
        assert_eq!((entry(1), &entries["Members@odata.count"]), ((json!("19"), json!("# ")), &json!(2)));
        assert_eq!(client.read("/redfish/v1/Systems/2/LogServices/Console/Entries/19")["Message"], "# ");
        assert_eq!(client.get("/redfish/v1/Systems/2/LogServices/Console/Entries/1").status, 404);
    }

    #[test]
    fn the_hypervisor_tells_what_it_logged_until_that_is_cleared() {
        let mut client = Client::new(Role::Administrator);
        let path = "/redfish/v1/Managers/salp/LogServices/Hypervisor";
        let entries = client.read(&alloc::format!("{path}/Entries"));
        let entry = &entries["Members"][1];
        assert_eq!(entry["Message"], "mgmt: crashed: taken back to its checkpoint (1)");
        assert_eq!((&entry["Created"], &entry["Severity"]), (&json!("1970-01-01T00:00:08Z"), &json!("Warning")));
        assert_eq!(client.read(entry["@odata.id"].as_str().unwrap())["Id"], entry["Id"]);
        assert_eq!(client.post(&alloc::format!("{path}/Actions/LogService.ClearLog"), "{}").status, 204);
        assert_eq!(client.read(&alloc::format!("{path}/Entries"))["Members@odata.count"], 0);
    }

    #[test]
    fn what_becomes_of_a_vm_is_told() {
        let mut client = Client::new(Role::Operator);
        for kind in ["Pause", "Resume"] {
            let body = alloc::format!(r#"{{"ResetType":"{kind}"}}"#);
            assert_eq!(client.post("/redfish/v1/Systems/2/Actions/ComputerSystem.Reset", &body).status, 204);
        }
        let entries = client.read("/redfish/v1/Systems/2/LogServices/Events/Entries");
        let told: std::vec::Vec<_> =
            entries["Members"].as_array().unwrap().iter().map(|entry| &entry["MessageId"]).collect();
        let expected = [
            "ResourceEvent.1.4.ResourceCreated",
            "Salp.1.0.GuestUp",
            "Salp.1.0.ApplicationUp",
            "ResourceEvent.1.4.ResourcePaused",
            "Salp.1.0.SystemResumed",
        ];
        assert_eq!(told, expected);
        let last = &entries["Members"][4];
        assert_eq!(last["Message"], "The system 'web' goes on after it was paused.");
        assert_eq!(client.read(last["@odata.id"].as_str().unwrap())["Severity"], "OK");
    }

    #[test]
    fn who_changed_what_is_told_and_outlives_the_guest() {
        let mut client = Client::new(Role::Administrator);
        client.read("/redfish/v1/Systems");
        client.post("/redfish/v1/Systems/2/Actions/ComputerSystem.Reset", r#"{"ResetType":"Pause"}"#);
        client.post("/redfish/v1/Systems/2/Actions/ComputerSystem.Reset", r#"{"ResetType":"Pause"}"#);
        let told = |client: &mut Client| {
            let entries = client.read("/redfish/v1/Managers/salp/LogServices/Audit/Entries");
            let members = entries["Members"].as_array().unwrap().clone();
            members.iter().map(|entry| String::from(entry["Message"].as_str().unwrap())).collect::<std::vec::Vec<_>>()
        };
        let reset = "admin: POST /redfish/v1/Systems/2/Actions/ComputerSystem.Reset: ";
        let expected = [
            "admin: POST /redfish/v1/SessionService/Sessions: 201".into(),
            String::from(reset) + "204",
            String::from(reset) + "409",
        ];
        assert_eq!(told(&mut client), expected);
        let now = client.now;
        client.service.audit.put_back(&[]);
        assert!(client.service.recall(now));
        assert_eq!(told(&mut client), expected);
        assert_eq!(client.read("/redfish/v1/Managers/salp/LogServices/Audit/Entries/3")["Severity"], "Warning");
    }

    #[test]
    fn strangers_do_not_fill_the_log() {
        let mut client = Client::new(Role::Administrator);
        let mut request = client.request(Method::Delete, "/redfish/v1/Systems/2", "");
        request.token = None;
        assert_eq!(client.send(&request).status, 401);
        let body = r#"{"UserName":"admin","Password":"wrong"}"#;
        let mut request = client.request(Method::Post, "/redfish/v1/SessionService/Sessions", body);
        request.token = None;
        assert_eq!(client.send(&request).status, 401);
        let entries = client.read("/redfish/v1/Managers/salp/LogServices/Audit/Entries");
        assert_eq!(entries["Members@odata.count"], 1);
    }
}
