//! Programs of others, unchanged, manage the appliance: `docs/fleet-tools.md` has the same commands for people.

use salp_qemu::debian;
use salp_tests::stock::Stock;
use salp_tests::tools::{both, cargo, succeed};
use salp_tests::{Api, Running, Setup, guest};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Seek, Write};
use std::process::{Child, Command, Stdio};

/// A machine with two VMs, and what is needed to reach it.
fn machine() -> (Running, Api, Stock) {
    let setup = Setup::of(guest("spin").named("first").mib(16)).vm(guest("spin").named("last").mib(16));
    let mut machine = setup.managed().seconds(1200).start();
    let (api, contact) = (machine.api(), machine.contact());
    (machine, api, Stock::new(&contact))
}

/// Returns the identifier of a VM.
fn vm(api: &Api, name: &str) -> String {
    let systems = api.get(&format!("/redfish/v1/Systems?$filter=Name%20eq%20'{name}'&$expand=.")).is(200).json();
    systems["Members"][0]["Id"].as_str().unwrap_or_else(|| panic!("{systems}")).into()
}

fn power(api: &Api, vm: &str) -> String {
    let system = api.get(&format!("/redfish/v1/Systems/{vm}")).is(200).json();
    system["PowerState"].as_str().unwrap_or_default().into()
}

fn accounts(api: &Api) -> Value {
    api.get("/redfish/v1/AccountService/Accounts").is(200).json()["Members@odata.count"].clone()
}

fn redfishtool(stock: &Stock, api: &Api, vm: &str) {
    let (host, port) = stock.address();
    let (user, password) = (&*stock.contact.user, &*stock.contact.password);
    let place = format!("{host}:{port}");
    let run = |words: &str| {
        stock.run("redfishtool.py", &["-r", &place, "-u", user, "-p", password, "-S", "Always", "-T", "60"], words)
    };
    assert!(run("Systems list").contains(&format!("/redfish/v1/Systems/{vm}")));
    run(&format!("Systems -I {vm} Processors -a"));
    run(&format!("Systems -I {vm} EthernetInterfaces -a"));
    run("raw GET /redfish/v1/Managers/salp/LogServices/Audit/Entries");
    run("Chassis -I 1");
    run("Managers -I salp");
    for (kind, state) in [("ForceOff", "Off"), ("On", "On"), ("ForceRestart", "On")] {
        run(&format!("Systems -I {vm} reset {kind}"));
        assert_eq!(power(api, vm), state, "{kind}");
    }
    run("AccountService adduser tool a-long-password Operator");
    run("AccountService setpassword tool another-password");
    run("AccountService useradmin tool disable");
    assert_eq!(accounts(api), 2);
    run("AccountService deleteuser tool");
    assert_eq!(accounts(api), 1);
}

fn utilities(stock: &Stock, api: &Api, vm: &str) {
    let (user, password) = (&*stock.contact.user, &*stock.contact.password);
    let run = |name: &str, words: &str| stock.run(name, &["-u", user, "-p", password, "-r", stock.origin()], words);
    assert!(run("rf_power_reset.py", &format!("-s {vm} -i")).contains("ForceRestart"));
    for (kind, state) in [("ForceOff", "Off"), ("On", "On"), ("ForceRestart", "On")] {
        run("rf_power_reset.py", &format!("-s {vm} -t {kind}"));
        assert_eq!(power(api, vm), state, "{kind}");
    }
    run("rf_sys_inventory.py", "");
    assert!(run("rf_logs.py", "-m salp -l Audit").contains("POST"));
    run("rf_logs.py", &format!("-s {vm} -l Events"));
    run("rf_manager_config.py", "-m salp info");
    run("rf_certificates.py", "info");
    run("rf_accounts.py", "-add tool a-long-password Operator");
    run("rf_accounts.py", "-setrole tool ReadOnly");
    run("rf_accounts.py", "-setpassword tool another-password");
    assert_eq!(accounts(api), 2);
    run("rf_accounts.py", "-delete tool");
    assert_eq!(accounts(api), 1);
}

fn ansible(stock: &Stock, vm: &str) {
    let (host, port) = stock.address();
    let contact = &stock.contact;
    let facts = json!({
        "host": format!("{host}:{port}"), "user": contact.user, "password": contact.password, "ca": contact.ca, "vm": vm,
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    });
    let mut play = stock.program("ansible-playbook");
    play.args(["-i", "localhost,", "tests/stock/fleet.yml", "-e", &facts.to_string()]);
    let text = both(&succeed(&mut play));
    assert!(text.contains("failed=0") && text.contains("changed=8"), "{text}");
}

fn fence(stock: &Stock, api: &Api, vm: &str) {
    let uri = format!("--systems-uri=/redfish/v1/Systems/{vm}");
    for (action, state) in [("off", "Off"), ("on", "On"), ("reboot", "On")] {
        succeed(stock.fence().args(["-o", action, &uri]));
        assert_eq!(power(api, vm), state, "{action}");
    }
    assert!(both(&succeed(stock.fence().args(["-o", "status", &uri]))).contains("Status: ON"));
    // Without a system it takes the last one: never the host, which is not among them.
    succeed(stock.fence().args(["-o", "off"]));
    assert_eq!((power(api, &self::vm(api, "last")), power(api, &self::vm(api, "first"))), ("Off".into(), "On".into()));
    api.get("/redfish/v1/Managers/salp").is(200);
    succeed(stock.fence().args(["-o", "on"]));
}

/// Gives what Prometheus would read to its own checker.
fn metrics(api: &Api) {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&api.get("/metrics").is(200).bytes).expect("written");
    file.rewind().expect("its start");
    let program = debian::promtool().unwrap_or_else(|error| panic!("{error:#}"));
    let output = succeed(Command::new(program).args(["check", "metrics"]).stdin(file));
    assert_eq!(both(&output), "");
}

/// Does what MAAS does, which knows of one system: the first.
fn first_member(api: &Api) {
    let systems = api.get("/redfish/v1/Systems").is(200).json();
    let first = systems["Members"][0]["@odata.id"].as_str().expect("a member").trim_matches('/').rsplit('/').next();
    let vm = first.expect("an identifier").to_string();
    for (kind, state) in [("ForceOff", "Off"), ("On", "On")] {
        let action = format!("/redfish/v1/Systems/{vm}/Actions/ComputerSystem.Reset");
        api.post(&action, &json!({ "Action": "Reset", "ResetType": kind })).is(204);
        assert_eq!(power(api, &vm), state, "{kind}");
    }
}

fn checkers(stock: &Stock, place: &std::path::Path) {
    let (user, password) = (&*stock.contact.user, &*stock.contact.password);
    let mut checkers = stock.program("rf_use_case_checkers");
    checkers.args(["-u", user, "-p", password, "-r", stock.origin(), "--report-dir"]).arg(place);
    checkers.args(["--test-list", "AccountManagement", "PowerControl", "BootOverride", "QueryParameters"]);
    let text = both(&succeed(&mut checkers));
    let row = text.lines().skip_while(|line| !line.contains("PASS")).nth(2).unwrap_or_default();
    let counts: Vec<&str> = row.split('|').map(str::trim).collect();
    assert!(matches!(counts[..], ["", passed, "0", "0", _, ""] if passed != "0"), "{text}");
}

#[test]
fn stock_tools_manage_vms() {
    let (machine, api, stock) = machine();
    let vm = vm(&api, "first");
    redfishtool(&stock, &api, &vm);
    utilities(&stock, &api, &vm);
    fence(&stock, &api, &vm);
    first_member(&api);
    metrics(&api);
    let contact = &stock.contact;
    let mut sushy = stock.program("tour_sushy.py");
    sushy.args([stock.origin(), &contact.user, &contact.password]).arg(&contact.ca).arg(&vm);
    assert!(both(&succeed(&mut sushy)).contains("DONE"));
    ansible(&stock, &vm);
    machine.stop();
}

#[test]
fn the_use_case_checkers_find_nothing() {
    // They ask guests to restart, and wait until that is done; one that is off is not to be gone.
    let polite = |name: &str| guest("button").named(name).mib(16).stays();
    let mut machine = Setup::of(polite("first")).vm(polite("last")).managed().seconds(1200).start();
    let stock = Stock::new(&machine.contact());
    let place = tempfile::tempdir().expect("a directory");
    checkers(&stock, place.path());
    machine.stop();
}

/// The service on the host; it ends with this value.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn schemathesis_finds_no_answer_that_is_not_published() {
    let mut build = cargo();
    succeed(build.args(["build", "--quiet", "--package", "salp-mgmt", "--example", "serve"]));
    let mut command = Command::new(salp_qemu::paths::target().join("debug/examples/serve"));
    let mut service =
        Service(command.args(["127.0.0.1:0", "password"]).stdout(Stdio::piped()).spawn().expect("a service"));
    let mut url = String::new();
    BufReader::new(service.0.stdout.take().expect("its output")).read_line(&mut url).expect("its address");
    let contact = salp_qemu::management::Contact {
        url: url.trim().into(),
        user: "admin".into(),
        password: "password".into(),
        ca: Default::default(),
    };
    let mut schemathesis = Stock::new(&contact).program("contract.py");
    schemathesis.args([url.trim(), "admin", "password", "--", "-n", "3", "--no-shrink", "--phases", "fuzzing"]);
    let text = both(&succeed(&mut schemathesis));
    assert!(text.contains(" generated, ") && !text.contains(" failed"), "{text}");
}
