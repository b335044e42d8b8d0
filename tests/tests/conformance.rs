//! The validators of DMTF, unchanged, read an appliance that is in use, and find nothing: the protocol, every resource against DMTF's
//! schemas and the appliance's own.

use salp_qemu::image::build_guest;
use salp_tests::stock::Stock;
use salp_tests::tools::both;
use salp_tests::{Api, Running, Setup, guest};
use serde_json::json;
use std::path::Path;
use std::{env, fs};

const SYSTEMS: &str = "/redfish/v1/Systems";

/// Returns an appliance that has what an appliance can have: 20 VMs, made in all ways, images, a snapshot, accounts, sessions, logs,
/// subscriptions, reports, tasks.
fn in_use() -> (Running, Api) {
    let setup = Setup::of(guest("spin").named("web").mib(16)).vm(guest("button").named("db").mib(16).stays());
    let mut machine = setup.managed().mib(4096).seconds(3000).start();
    let api = machine.api();
    let elf = build_guest("spin").and_then(|path| Ok(fs::read(path)?)).unwrap_or_else(|error| panic!("{error:#}"));
    let image = "/redfish/v1/Oem/Salp/Images/spin";
    api.put(image, &elf).is(201);
    api.send("PUT", "/redfish/v1/Oem/Salp/Images/part", &[("Content-Range", "bytes 0-9/100")], [0; 10]).is(202);
    for number in 1..=6 {
        let nics = json!([{ "Segment": "lan" }, { "Segment": "dmz", "VLAN": { "VLANId": number } }]);
        let own = json!({ "Kernel": { "@odata.id": image }, "NetworkInterfaces": nics });
        let memory = json!({ "TotalSystemMemoryGiB": 0.0625 });
        let order = json!({ "Name": format!("made{number}"), "MemorySummary": memory, "Oem": { "Salp": own } });
        let made = api.post(SYSTEMS, &order).is(201).location.expect("a location");
        if number % 2 == 0 {
            api.post(&format!("{made}/Actions/ComputerSystem.Reset"), &json!({ "ResetType": "On" })).is(204);
        }
    }
    let clones = |of: &str, name: &str, count: u32| {
        let config = json!([{ "Key": "role", "Value": "worker" }]);
        let order = json!({ "Name": name, "Count": count, "Config": config });
        api.post(&format!("{of}/Actions/Oem/SalpComputerSystem.InstantClone"), &order).is(201);
    };
    let all = api.get(&format!("{SYSTEMS}?$expand=.")).is(200).json();
    let named = |name: &str| {
        let found = all["Members"].as_array().and_then(|all| all.iter().find(|system| system["Name"] == name));
        found.and_then(|system| system["@odata.id"].as_str()).unwrap_or_else(|| panic!("{name}: {all}")).to_string()
    };
    let (web, made) = (named("web"), named("made2"));
    clones(&web, "worker", 8);
    clones(&made, "copy", 4);
    let pause = json!({ "ResetType": "Pause" });
    api.post(&format!("{made}/Actions/ComputerSystem.Reset"), &pause).is(204);
    api.post(&format!("{made}/Actions/Oem/SalpComputerSystem.Snapshot"), &json!({ "Name": "before" })).is(201);
    api.post(&format!("{web}/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia"), &json!({ "Image": image })).is(204);
    api.patch(&web, &json!({ "AssetTag": "7", "Description": "a VM" })).is(200);
    let account = json!({ "UserName": "ops", "Password": "a long password", "RoleId": "Operator" });
    api.post("/redfish/v1/AccountService/Accounts", &account).is(201);
    api.with_session();
    api.with_login("ops", "a long password").with_session();
    let listener =
        json!({ "Destination": "http://10.0.2.2:9/", "ResourceTypes": ["ComputerSystem"], "Protocol": "Redfish" });
    api.post("/redfish/v1/EventService/Subscriptions", &listener).is(201);
    let report = json!({ "MetricReportDefinitionType": "OnRequest", "Metrics": [{ "MetricId": "SystemVcpus" }],
        "ReportActions": ["LogToMetricReportsCollection"] });
    api.post("/redfish/v1/TelemetryService/MetricReportDefinitions", &report).is(201);
    // Nobody is there.
    let fetch = json!({ "Name": "far", "ImageURI": "http://10.0.2.2:9/far", "Kind": "Raw" });
    api.post("/redfish/v1/Oem/Salp/Images", &fetch).is(202);
    let count = api.get(SYSTEMS).is(200).json()["Members@odata.count"].as_u64();
    assert_eq!(count, Some(20));
    (machine, api)
}

/// Returns the figures in the row of a validator's table below the one that says `PASS`: passed, warned, failed.
fn figures(text: &str) -> [u32; 3] {
    let row =
        text.lines().skip_while(|line| !line.contains("PASS")).find(|line| line.chars().any(|c| c.is_ascii_digit()));
    let mut all = row.unwrap_or_default().split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
    [(); 3].map(|()| all.next().unwrap_or_else(|| panic!("no totals in {text}")))
}

/// Copies the files of a directory: the validator adds the service's to them.
fn copy_all(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory");
    for file in fs::read_dir(from).expect("files").flatten() {
        fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
    }
}

/// Runs one of the validators that read resources; it is to look at more than so many things, and to find nothing.
fn read_all(stock: &Stock, program: &str, log: &Path, options: &[&str], least: u32) {
    let (user, password) = (&*stock.contact.user, &*stock.contact.password);
    let mut command = stock.program(program);
    command.args(["-u", user, "-p", password, "--authtype", "Session", "-r", stock.origin(), "--logdir"]).arg(log);
    let text = both(&command.args(options).output().expect("a validator"));
    let [passed, warned, failed] = figures(&text);
    let found: Vec<&str> =
        text.lines().filter(|line| ["ERROR", "WARN"].iter().any(|word| line.contains(word))).collect();
    println!("{program}: {passed} passed");
    assert!(passed >= least && (warned, failed) == (0, 0), "{program}: {passed} {warned} {failed}\n{found:#?}");
}

#[test]
fn the_validators_of_resources_find_nothing() {
    let (mut machine, _) = in_use();
    let stock = Stock::new(&machine.contact());
    let place = tempfile::tempdir().expect("a directory");
    let schemas = place.path().join("schemas");
    copy_all(Path::new(nv_redfish_schema::REDFISH_CSDL_DIR), &schemas);
    let schemas = ["--schema_directory", schemas.to_str().expect("a name")];
    read_all(&stock, "validate.py", &place.path().join("service"), &schemas, 10_000);
    // Profiles are other people's papers; none of them is in a package.
    if let Ok(profile) = env::var("SALP_PROFILE") {
        read_all(&stock, "rf_interop_validator", &place.path().join("interop"), &[&profile], 100);
    }
    machine.stop();
}

#[test]
fn the_validator_of_the_protocol_finds_nothing() {
    let (mut machine, _) = in_use();
    let contact = machine.contact();
    let stock = Stock::new(&contact);
    let place = tempfile::tempdir().expect("a directory");
    let mut command = stock.program("rf_protocol_validator");
    command.args(["-u", &contact.user, "-p", &contact.password, "-r", stock.origin(), "--avoid-http-redirect"]);
    command.arg("--ca-bundle").arg(&contact.ca).args(["--report-type", "tsv", "--report-dir"]).arg(place.path());
    let text = both(&command.output().expect("a validator"));
    let row = text.lines().rev().find(|line| line.contains("Summary")).unwrap_or_else(|| panic!("{text}"));
    let figures: Vec<u32> = row.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    println!("{row}");
    let reports = fs::read_dir(place.path()).expect("reports").flatten();
    let reports: String = reports.filter_map(|report| fs::read_to_string(report.path()).ok()).collect();
    let found: Vec<&str> =
        reports.lines().filter(|line| line.contains("\tFAIL\t") || line.contains("\tWARN\t")).collect();
    assert!(figures[0] >= 400 && figures[1..3] == [0, 0], "{row}\n{found:#?}");
    machine.stop();
}
