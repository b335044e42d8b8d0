//! Tasks that the management guest fails in the middle of, and what is noted of who changed what.

use salp_tests::server::serve_halves;
use salp_tests::{Api, Running, Setup, guest};
use serde_json::{Value, json};
use std::thread;
use std::time::Duration;

const IMAGES: &str = "/redfish/v1/Oem/Salp/Images";

/// At which request the management guest fails, again and again.
const FRAIL: usize = 40;

/// Returns a machine whose management guest crashes at every so-manieth request, and a session, which was the first one.
fn fragile() -> (Running, Api) {
    let setup = Setup::of(guest("spin").named("web").mib(16))
        .managed_with(&format!("fault=crash:{FRAIL}"))
        .mib(4096)
        .seconds(600);
    let mut machine = setup.start();
    let session = machine.api().with_session();
    (machine, session)
}

/// Begins a task right before the management guest fails, and returns where it is.
fn interrupted(machine: &mut Running, session: &Api, path: &str, order: &Value) -> String {
    machine.ask_until_it_fails(session, "/redfish/v1", FRAIL);
    (0..FRAIL - 2).for_each(|_| drop(seen(session, "/redfish/v1", |_| true)));
    let answer = session.with_own_connections(60).post(path, order).is(202);
    let task = answer.location.expect("a monitor").replace("TaskMonitors", "Tasks");
    machine.ask_until_it_fails(session, &task, FRAIL);
    task
}

/// Reads a resource until it is as wanted, over failures.
fn seen(session: &Api, path: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..900 {
        let answer = session.with_own_connections(60).try_send("GET", path, &[], Vec::new());
        if let Ok(answer) = answer
            && answer.status == 200
            && is_wanted(&answer.json())
        {
            return answer.json();
        }
        thread::sleep(Duration::from_millis(500));
    }
    panic!("{path} does not show it");
}

/// Waits until the task is done.
fn completed(session: &Api, task: &str) {
    let task = seen(session, task, |task| !task["EndTime"].is_null());
    assert_eq!(task["TaskState"], "Completed", "{task}");
}

fn systems(session: &Api) -> u64 {
    let systems = seen(session, "/redfish/v1/Systems?$top=1", |_| true);
    systems["Members@odata.count"].as_u64().expect("a number")
}

#[test]
fn clones_that_were_begun_are_made_and_groups_are_deleted_though_the_management_guest_fails() {
    const COUNT: u64 = 900;
    let (mut machine, session) = fragile();
    let clone = "/redfish/v1/Systems/1/Actions/Oem/SalpComputerSystem.InstantClone";
    let task = interrupted(&mut machine, &session, clone, &json!({ "Name": "w", "Count": COUNT }));
    completed(&session, &task);
    assert_eq!(systems(&session), COUNT + 1, "each is made once");

    let delete = "/redfish/v1/AggregationService/Actions/Oem/SalpAggregationService.DeleteSystems";
    let task = interrupted(&mut machine, &session, delete, &json!({ "Filter": "Name ne 'web'" }));
    completed(&session, &task);
    assert_eq!(systems(&session), 1, "all but one are gone");
    machine.stop();
}

#[test]
fn an_image_is_fetched_though_the_management_guest_fails() {
    let bytes: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    let size = bytes.len();
    let (port, say) = serve_halves(bytes);
    let (mut machine, session) = fragile();
    let order = json!({ "Name": "fetched", "ImageURI": format!("http://10.0.2.2:{port}/image"), "Kind": "Raw" });
    let task = interrupted(&mut machine, &session, IMAGES, &order);
    // Who has come back may have it all.
    thread::spawn(move || while say.send(()).is_ok() {});
    completed(&session, &task);
    let image = seen(&session, &format!("{IMAGES}/fetched"), |_| true);
    assert_eq!(image["SizeBytes"], size, "{image}");
    machine.stop();
}

#[test]
fn the_audit_log_has_each_change_of_a_tour_and_nothing_else() {
    let mut machine = Setup::of(guest("spin").named("web").mib(16)).managed().seconds(300).start();
    let admin = machine.api();
    let mut did = Vec::new();
    let mut ask = |api: &Api, user: &str, method: &str, path: &str, body: Value| {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = api.send(method, path, &[("Content-Type", "application/json")], body);
        if method != "GET" {
            did.push(format!("{user}: {method} {path}: {}", answer.status));
        }
        answer
    };
    let accounts = "/redfish/v1/AccountService/Accounts";
    for (user, role) in [("op", "Operator"), ("guest", "ReadOnly")] {
        let account = json!({ "UserName": user, "Password": "a long password", "RoleId": role });
        ask(&admin, "admin", "POST", accounts, account).is(201);
    }
    let [op, reader] = ["op", "guest"].map(|user| admin.with_login(user, "a long password"));
    let web = "/redfish/v1/Systems/1";
    let reset = format!("{web}/Actions/ComputerSystem.Reset");
    ask(&op, "op", "PATCH", web, json!({ "AssetTag": "shelf 3" })).is(200);
    ask(&op, "op", "POST", &reset, json!({ "ResetType": "Pause" })).is(204);
    ask(&reader, "guest", "POST", &reset, json!({ "ResetType": "Resume" })).is(403);
    ask(&reader, "guest", "GET", web, Value::Null).is(200);
    ask(&op, "op", "POST", &reset, json!({ "ResetType": "Sideways" })).is(400);
    let clone = format!("{web}/Actions/Oem/SalpComputerSystem.InstantClone");
    let made = ask(&op, "op", "POST", &clone, json!({ "Name": "twin" })).is(201).location.expect("a location");
    ask(&op, "op", "DELETE", &made, Value::Null).is(204);
    ask(&op, "op", "DELETE", &made, Value::Null).is(404);
    ask(&op, "op", "DELETE", "/redfish/v1/AccountService/Accounts/guest", Value::Null).is(403);
    ask(&admin, "admin", "DELETE", "/redfish/v1/AccountService/Accounts/guest", Value::Null).is(204);
    // Nobody.
    assert_eq!(reader.post(&reset, &json!({ "ResetType": "Resume" })).status, 401);
    let log = admin.get("/redfish/v1/Managers/salp/LogServices/Audit/Entries").is(200).json();
    let noted: Vec<_> = log["Members"].as_array().expect("entries").iter().map(|entry| &entry["Message"]).collect();
    assert_eq!(noted, did.iter().collect::<Vec<_>>());
    machine.stop();
}
