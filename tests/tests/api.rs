//! The management endpoint as its users have it: over HTTPS, with the machine behind it.

use salp_tests::{Setup, guest};
use serde_json::json;

#[test]
fn an_operator_finds_clones_pauses_and_destroys_vms() {
    let mut machine = Setup::of(guest("spin").named("web")).managed().start();
    let api = machine.api();
    let root = api.get("/redfish/v1/").is(200).json();
    assert_eq!(root["Systems"]["@odata.id"], "/redfish/v1/Systems");

    let systems = api.get("/redfish/v1/Systems?$expand=.").is(200).json();
    assert_eq!(systems["Members@odata.count"], 1, "the management guest is none of them");
    let web = &systems["Members"][0];
    assert_eq!((&web["Name"], &web["PowerState"]), (&json!("web"), &json!("On")));
    let path = web["@odata.id"].as_str().expect("a path").to_string();

    let clone = format!("{path}/Actions/Oem/SalpComputerSystem.InstantClone");
    let config = json!([{ "Key": "role", "Value": "worker" }]);
    let made = api.post(&clone, &json!({ "Name": "w", "Count": 10, "Config": config })).is(201);
    assert!(made.location.expect("a location").starts_with("/redfish/v1/Systems/"));
    let systems = api.get("/redfish/v1/Systems?$expand=.").is(200).json();
    assert_eq!(systems["Members@odata.count"], 11);
    let name = |index: usize| systems["Members"][index]["Name"].as_str().unwrap_or_default().to_string();
    assert_eq!((name(1), name(10)), ("w-1".into(), "w-10".into()));

    let reset = format!("{path}/Actions/ComputerSystem.Reset");
    api.post(&reset, &json!({ "ResetType": "Pause" })).is(204);
    assert_eq!(api.get(&path).json()["PowerState"], "Paused");
    api.post(&reset, &json!({ "ResetType": "Resume" })).is(204);
    api.delete(&path).is(204);
    assert_eq!(api.get(&path).status, 404, "it is gone, and its clones are not");
    assert_eq!(api.get("/redfish/v1/Systems").json()["Members@odata.count"], 10);
    machine.stop();
}

#[test]
fn strangers_learn_nothing() {
    let mut machine = Setup::of(guest("spin")).managed().start();
    let api = machine.api();
    let stranger = api.with_login("admin", "wrong");
    assert_eq!(stranger.get("/redfish/v1/Systems").status, 401);
    assert_eq!(stranger.get("/redfish/v1/Systems/1").status, 401);
    assert_eq!(stranger.get("/redfish/v1/Nowhere").status, 401);
    assert_eq!(stranger.get("/redfish").json(), json!({ "v1": "/redfish/v1/" }));
    api.get("/redfish/v1/Systems").is(200);
    machine.stop();
}
