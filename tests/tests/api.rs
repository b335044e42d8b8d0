//! The management endpoint as its users have it: over HTTPS, with the machine behind it.

use salp_qemu::debian::Stock;
use salp_qemu::initrd::Initrd;
use salp_qemu::management::Contact;
use salp_tests::tools::{salp, succeed};
use salp_tests::{Api, Setup, guest, long};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

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
fn an_operator_makes_a_linux_vm_out_of_uploads_and_clones_it() {
    let mut machine = Setup::of(guest("spin").named("other")).managed().mib(2048).seconds(600).start();
    let api = machine.api();
    let stock = Stock::named("debian").expect("a stock guest");
    let read = |path: anyhow::Result<PathBuf>| {
        path.and_then(|path| Ok(std::fs::read(path)?)).unwrap_or_else(|error| panic!("{error:#}"))
    };
    let images = "/redfish/v1/Oem/Salp/Images";
    let image = |name: &str| json!({ "@odata.id": format!("{images}/{name}") });
    let digest = [("X-Content-SHA256", "00".repeat(32))];
    let initrd = read(Initrd::shell());
    let wrong = api.send("PUT", &format!("{images}/initrd"), &[(digest[0].0, &digest[0].1)], &initrd[..]);
    assert_eq!(wrong.status, 400, "{}", wrong.text());
    assert_eq!(api.get(&format!("{images}/initrd")).status, 404, "a broken upload leaves nothing");
    api.put(&format!("{images}/initrd"), &initrd).is(201);
    api.put(&format!("{images}/kernel"), &read(stock.fetch())).is(201);

    let order = json!({
        "Name": "web", "ProcessorSummary": { "Count": 2 }, "MemorySummary": { "TotalSystemMemoryGiB": 0.25 },
        "Oem": { "Salp": { "Kernel": image("kernel"), "Initrd": image("initrd"), "CommandLine": "console=ttyAMA0" } },
    });
    let web = api.post("/redfish/v1/Systems", &order).is(201).location.expect("a location");
    assert_eq!(api.get(&web).json()["PowerState"], "Off");
    let reset = |path: &str, kind: &str| {
        api.post(&format!("{path}/Actions/ComputerSystem.Reset"), &json!({ "ResetType": kind })).is(204);
    };
    reset(&web, "On");
    let console = |path: &str| format!("{path}/Oem/Salp/Console");
    wait(|| api.get(&console(&web)).text().contains("# "));

    let order = json!({ "Name": "w", "Count": 3 });
    api.post(&format!("{web}/Actions/Oem/SalpComputerSystem.InstantClone"), &order).is(201);
    let systems = api.get("/redfish/v1/Systems?$expand=.").json();
    let members = systems["Members"].as_array().expect("members");
    let clones: Vec<&str> = members
        .iter()
        .filter(|system| system["Name"].as_str().is_some_and(|name| name.starts_with("w-")))
        .filter_map(|system| system["@odata.id"].as_str())
        .collect();
    assert_eq!(clones.len(), 3);
    for (number, clone) in clones.iter().enumerate() {
        api.send("POST", &console(clone), &[], format!("echo THIS IS $(({number} + 40))\n"));
        wait(|| api.get(&console(clone)).text().contains(&format!("THIS IS {}\r\n", number + 40)));
    }
    assert!(!api.get(&console(&web)).text().contains("THIS IS"), "clones have consoles of their own");

    api.send("POST", &console(clones[0]), &[], "poweroff -f\n");
    wait(|| api.get(clones[0]).json()["PowerState"] == "Off");
    reset(clones[0], "On");
    wait(|| api.get(&console(clones[0])).text().matches("built-in shell").count() == 1);
    reset(clones[1], "ForceOff");
    assert_eq!(api.get(clones[1]).json()["PowerState"], "Off");
    assert_eq!(api.delete(&format!("{images}/kernel")).status, 409, "VMs are made from it");
    for path in clones.iter().copied().chain([&*web]) {
        api.delete(path).is(204);
    }
    api.delete(&format!("{images}/kernel")).is(204);
    let metrics = api.get("/metrics").is(200).text();
    assert!(metrics.contains("salp_memory_bytes{use=\"free\"}"), "{metrics}");
    machine.stop();
}

/// Waits until this is so. The machine's own limit ends what never is.
fn wait(mut is_so: impl FnMut() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        thread::sleep(std::time::Duration::from_millis(200));
    }
    panic!("it did not come to be");
}

/// Asks until the management guest has failed so often at every so-manieth request, by a session of before.
fn ask_until_it_has_failed(how: &str, every: usize, times: usize) {
    let web = guest("memory").named("web").append("rounds=0 size=8 pause=10");
    let limit = if long() { 3000 } else { 500 };
    let mut machine = Setup::of(web).managed_with(&format!("fault={how}:{every}")).seconds(limit).start();
    let session = machine.api().with_session().with_own_connections(60);
    let ask = || session.try_send("GET", "/redfish/v1/Systems/1", &[], Vec::new());
    let last = format!("taken back to its checkpoint ({times})");
    let (mut answered, mut lost) = (0, 0);
    while !machine.text().contains(&last) {
        match ask() {
            Ok(answer) => {
                assert_eq!(answer.status, 200, "the session is known: {}", answer.text());
                answered += 1;
            }
            // Its connection ends, though the management guest knows of none any more.
            Err(why) => {
                assert!(
                    !matches!(why, ureq::Error::Timeout(_)),
                    "a request in flight is not told that it is lost: {why}"
                );
                lost += 1;
            }
        }
    }
    // It fails while it answers, so each failure costs one answer, and a connection that was not there yet.
    assert!(answered >= times && lost <= 3 * times, "answered {answered}, lost {lost}");
    let answer = (0..20).find_map(|_| ask().ok()).expect("an answer").json();
    assert_eq!(answer["PowerState"], "On");
    let lines = machine.lines("web");
    assert!(lines.iter().any(|line| line.contains("wrong=0")) && !lines.iter().any(|line| line.contains("FAIL")));
    machine.stop();
}

#[test]
fn sessions_outlive_crashes_of_the_management_guest() {
    ask_until_it_has_failed("crash", 4, if long() { 100 } else { 5 });
}

#[test]
fn sessions_outlive_a_management_guest_that_hangs() {
    ask_until_it_has_failed("hang", 4, if long() { 100 } else { 2 });
}

#[test]
fn packets_of_many_clients_at_once_find_buffers() {
    let mut machine = Setup::of(guest("spin")).managed().monitor().start();
    let session = machine.api().with_session();
    thread::scope(|scope| {
        for _ in 0..64 {
            let client = session.with_own_connections(200);
            scope.spawn(move || (0..10).for_each(|_| drop(client.get("/redfish/v1/Systems/1").is(200))));
        }
    });
    let nics = machine.monitor("net mgmt");
    let count = |key: &str| nics.rows.first().and_then(|row| row.number(key)).unwrap_or_else(|| panic!("{nics:?}"));
    // TCP waits a second for each. A few come before there is a driver, or while EL2 is at work on the VM's memory, which a
    // busy host can make long; a ring that is too small loses one in twenty.
    let (missed, received) = (count("missed"), count("received"));
    assert!(missed * 50 <= received, "of {received} packets {missed} found no buffer");
    machine.stop();
}

#[test]
fn a_script_learns_from_the_runner_how_to_log_in() {
    let mut command = salp(200);
    command.args(["up", "--headless", "--https", "0", "--vm", "name=web,kernel=kit:spin,memory=16M"]);
    let mut runner = command.stdout(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("{error}"));
    let mut line = String::new();
    let output = runner.stdout.take().expect("its output");
    BufReader::new(output).read_line(&mut line).unwrap_or_else(|error| panic!("{error}"));
    let told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    let text = |name: &str| told[name].as_str().unwrap_or_else(|| panic!("{name}: {line}")).to_string();
    let contact = Contact { url: text("url"), user: text("user"), password: text("password"), ca: text("ca").into() };
    let systems = Api::new(&contact).get("/redfish/v1/Systems?$expand=.").is(200).json();
    assert_eq!(systems["Members"][0]["Name"], "web");
    // As Ctrl-C does: the machine ends with it.
    succeed(Command::new("kill").arg(runner.id().to_string()));
    runner.wait().unwrap_or_else(|error| panic!("{error}"));
}

/// Returns whether a role has a privilege of the standard.
fn has(role: &str, privilege: &str) -> bool {
    match privilege {
        "ConfigureManager" => role == "Administrator",
        "ConfigureComponents" => role != "ReadOnly",
        _ => true,
    }
}

#[test]
fn everybody_may_over_the_network_what_is_published_and_nothing_else() {
    let mut machine = Setup::of(guest("spin")).managed().start();
    let api = machine.api();
    let document = api.get("/redfish/v1/openapi.yaml").is(200).json();
    let stranger = api.with_login("nobody", "wrong");
    let who = ["ReadOnly", "Operator", "Administrator"].map(|role| {
        let account = json!({ "UserName": role, "Password": "a long password", "RoleId": role });
        api.post("/redfish/v1/AccountService/Accounts", &account).is(201);
        (role, api.with_login(role, "a long password"))
    });
    let mut refused = 0;
    for (pattern, methods) in document["paths"].as_object().expect("paths") {
        let path = pattern.replace("{SystemId}", "1").replace(['{', '}'], "");
        for (method, operation) in
            methods.as_object().expect("methods").iter().filter(|(name, _)| *name != "parameters")
        {
            let Some(privilege) = operation["x-redfish-privilege"].as_str() else { continue };
            // What does not end is not read to its end.
            if operation["responses"]["200"]["content"]["text/event-stream"].is_object() {
                continue;
            }
            let (method, fields) = (method.to_uppercase(), [("Content-Type", "application/json")]);
            let place = format!("{method} {path}");
            assert_eq!(stranger.send(&method, &path, &fields, []).status, 401, "{place}");
            for (role, api) in who.iter().filter(|(role, _)| method == "GET" || !has(role, privilege)) {
                let status = api.send(&method, &path, &fields, []).status;
                refused += u32::from(status == 403);
                // What is one's own is looked at first.
                let is_own = privilege == "ConfigureSelf" && *role != "Administrator";
                assert!((status == 403) != has(role, privilege) || is_own, "{role} {place}: {status}");
            }
        }
    }
    assert!(refused > 30, "{refused}");
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
