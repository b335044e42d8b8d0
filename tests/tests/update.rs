//! The appliance is updated over Redfish, as programs of others do it: real images on QEMU's flash.

use salp_qemu::bundle::{self, Release};
use salp_qemu::keys::{self, Signer};
use salp_qemu::place::Placed;
use salp_qemu::{flash, image, management};
use salp_tests::api::Answer;
use salp_tests::server::{serve, serve_halves};
use salp_tests::stock::Stock;
use salp_tests::tools::{both, succeed};
use salp_tests::{Api, Running, Setup, guest, machine};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SERVICE: &str = "/redfish/v1/UpdateService";
const PUSH: &str = "/redfish/v1/UpdateService/update-multipart";
const MANAGER: &str = "/redfish/v1/Managers/salp";
const RESET: &str = "/redfish/v1/Managers/salp/Actions/Manager.Reset";

/// How long something may take, generously: hosts of tests are busy.
const PATIENCE: Duration = Duration::from_secs(400);

/// Returns an image with this management guest and a VM.
fn image_with(management: Placed) -> Vec<u8> {
    let vms = [management, guest("spin").named("web").mib(16).place()];
    image::with_vms(machine::image(), &vms).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Returns the management guest with so much RAM.
fn managing(mib: u64) -> Placed {
    management::guest_on_qemu_with(mib << 20, "", &[]).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Returns an image with the management guest and a VM.
fn image() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| image_with(managing(management::MEMORY >> 20)))
}

fn bundle(release: &Release<'_>, signer: &Signer) -> Vec<u8> {
    bundle_of(image(), release, signer)
}

fn bundle_of(image: &[u8], release: &Release<'_>, signer: &Signer) -> Vec<u8> {
    bundle::make(image, release, signer).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Returns the bundle that an appliance is updated to.
fn next() -> Vec<u8> {
    next_with(image())
}

/// Returns one whose image is another.
fn next_with(image: &[u8]) -> Vec<u8> {
    bundle_of(image, &Release { version: "9.0.0", counter: 2, ..Release::this() }, &Signer::development())
}

/// A flash whose image has the management guest.
struct Flash {
    directory: TempDir,
}

impl Flash {
    fn new() -> Self {
        Self::of(image())
    }

    /// Returns one with this image.
    fn of(image: &[u8]) -> Self {
        static STAGE: OnceLock<Vec<u8>> = OnceLock::new();
        let signer = Signer::development();
        let stage = STAGE.get_or_init(|| flash::build_stage(&signer).unwrap_or_else(|error| panic!("{error:#}")));
        let made = flash::make(stage, &bundle_of(image, &Release::this(), &signer), &[signer.public()]);
        let flash = Self { directory: tempfile::tempdir().expect("a directory") };
        fs::write(flash.path(), made.unwrap_or_else(|error| panic!("{error:#}"))).expect("a file");
        flash
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("flash.img")
    }

    fn start(&self) -> Running {
        Setup::builtin().flash(&self.path()).managed().seconds(900).start()
    }

    /// Returns what is in slot A.
    fn slot(&self) -> Vec<u8> {
        fs::read(self.path()).expect("a file")[0x40_0000..0x80_0000].to_vec()
    }
}

/// Returns the type and the bytes of a form with a bundle, as curl makes it: `-F 'UpdateParameters={…};type=application/json' -F UpdateFile=@FILE`.
fn form(parameters: &Value, bundle: &[u8]) -> (String, Vec<u8>) {
    let boundary = "------------------------d74496d66958873e";
    let head = |what: &str| format!("--{boundary}\r\nContent-Disposition: form-data; {what}\r\n\r\n");
    let body = [
        head("name=\"UpdateParameters\"\r\nContent-Type: application/json").as_bytes(),
        parameters.to_string().as_bytes(),
        b"\r\n",
        head("name=\"UpdateFile\"; filename=\"next.salp\"\r\nContent-Type: application/octet-stream").as_bytes(),
        bundle,
        format!("\r\n--{boundary}--\r\n").as_bytes(),
    ]
    .concat();
    (format!("multipart/form-data; boundary={boundary}"), body)
}

/// Sends a bundle.
fn push(api: &Api, parameters: &Value, bundle: &[u8]) -> Answer {
    let (kind, body) = form(parameters, bundle);
    api.send("POST", PUSH, &[("Content-Type", &kind)], body)
}

/// Reads a resource again and again, over a reset too, until it is as wanted.
fn until(api: &Api, path: &str, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let (begun, mut last) = (Instant::now(), String::new());
    loop {
        if let Ok(answer) = api.with_own_connections(20).try_send("GET", path, &[], Vec::new()) {
            last = answer.text();
            if answer.status == 200 && is_wanted(&answer.json()) {
                return answer.json();
            }
        }
        assert!(begun.elapsed() < PATIENCE, "{path} is not {what}: {last}");
        thread::sleep(Duration::from_millis(300));
    }
}

/// Returns the task of a monitor when it has ended.
fn ended(api: &Api, monitor: &str) -> Value {
    let task = monitor.replace("TaskMonitors", "Tasks");
    until(api, &task, "over", |task| !task["EndTime"].is_null())
}

fn slot(api: &Api, slot: &str) -> Value {
    api.get(&format!("{SERVICE}/FirmwareInventory/{slot}")).is(200).json()
}

fn is(word: &'static str) -> impl Fn(&Value) -> bool {
    move |image| image["Oem"]["Salp"]["Standing"] == word && image["Active"] == true
}

#[test]
fn an_immediate_update_takes_over_under_running_vms_and_needs_nobody() {
    let (flash, next) = (Flash::new(), next());
    let mut machine = flash.start();
    let api = machine.api().with_session();
    let service = api.get(SERVICE).is(200).json();
    assert_eq!((&service["ServiceEnabled"], &slot(&api, "A")["Active"]), (&json!(true), &json!(true)));

    let answer = push(&api, &json!({ "@Redfish.OperationApplyTime": "Immediate" }), &next).is(202);
    let monitor = answer.location.expect("a monitor");
    let until_then = machine.expect("salp| hand-over 1: goes on with 2 VMs");
    let task = ended(&api, &monitor);
    assert_eq!(task["TaskState"], "Completed", "{task}");
    assert!(!until_then.contains("salp| slot B: "), "there is no reset: {until_then}");
    assert_eq!(api.get(&monitor).is(200).json()["TaskState"], "Completed");
    let image = until(&api, &format!("{SERVICE}/FirmwareInventory/B"), "confirmed", is("Confirmed"));
    assert_eq!(image["Version"], "9.0.0");
    assert_eq!(slot(&api, "A")["Oem"]["Salp"]["Standing"], "Previous");
    assert_eq!(api.get("/redfish/v1/Systems").is(200).json()["Members@odata.count"], 1);
}

#[test]
fn the_management_guest_of_the_next_image_goes_on_with_sessions_and_tasks() {
    let (flash, next) = (Flash::new(), next_with(&image_with(managing(48))));
    let mut machine = flash.start();
    let api = machine.api().with_session();
    let uuid = api.get(MANAGER).is(200).json()["UUID"].clone();
    let answer = push(&api, &json!({ "@Redfish.OperationApplyTime": "Immediate" }), &next).is(202);
    machine.expect("salp| hand-over 1: goes on with 2 VMs");
    machine.expect("salp| mgmt: is replaced by the image's own");
    machine.expect("of heap of 48 MiB");
    let monitor = answer.location.expect("a monitor");
    let task = ended(&api, &monitor);
    assert_eq!(task["TaskState"], "Completed", "{task}");
    machine.expect("salp| hand-over 1: confirmed");
    assert_eq!(api.get(MANAGER).is(200).json()["UUID"], uuid);
    assert_eq!(api.get("/redfish/v1/Systems").is(200).json()["Members@odata.count"], 1);
    assert_eq!(machine.text().matches("salp| web: ").count(), 1, "it goes on all the time: {}", machine.text());

    // And the one after that, which is smaller, goes to the other slot.
    let release = Release { version: "9.0.1", counter: 3, ..Release::this() };
    let next = bundle_of(image(), &release, &Signer::development());
    let answer = push(&api, &json!({ "@Redfish.OperationApplyTime": "Immediate" }), &next).is(202);
    machine.expect("salp| mgmt: is replaced by the image's own");
    machine.expect("of heap of 32 MiB");
    let task = ended(&api, &answer.location.expect("a monitor"));
    assert_eq!(task["TaskState"], "Completed", "{task}");
    assert_eq!(api.get(&monitor).is(200).json()["TaskState"], "Completed", "the first one is still told of");
}

#[test]
fn an_image_whose_management_guest_never_answers_gives_way_to_the_one_before() {
    let silent = guest("spin").named(management::NAME).manager().mib(16).place();
    let (flash, next) = (Flash::new(), next_with(&image_with(silent)));
    let mut machine = flash.start();
    let api = machine.api().with_session();
    let answer = push(&api, &json!({ "@Redfish.OperationApplyTime": "Immediate" }), &next).is(202);
    machine.expect("salp| mgmt: is replaced by the image's own");
    machine.expect("salp| nobody has confirmed this image: the one before comes back");
    machine.expect("salp| mgmt: is what it was before");
    machine.expect("nobody confirmed it in time; the one before goes on with 2 VMs");
    let task = ended(&api, &answer.location.expect("a monitor"));
    assert_eq!(task["TaskState"], "Exception", "{task}");
    assert!(task.to_string().contains("nobody confirmed it in time"), "{task}");
    let vms = api.get("/redfish/v1/Systems?$expand=.").is(200).json();
    assert_eq!(vms["Members"][0]["PowerState"], "On", "{vms}");
    assert_eq!(machine.text().matches("salp| web: ").count(), 1, "it goes on all the time: {}", machine.text());
    assert_eq!(slot(&api, "A")["Active"], true);
    assert_eq!(slot(&api, "B")["Oem"]["Salp"]["Standing"], "Staged");
}

#[test]
fn an_image_whose_management_guest_finds_no_memory_does_not_take_over() {
    let (flash, next) = (Flash::new(), next_with(&image_with(managing(2048))));
    let mut machine = flash.start();
    let api = machine.api().with_session();
    let answer = push(&api, &json!({ "@Redfish.OperationApplyTime": "Immediate" }), &next).is(202);
    let until_then = machine.expect("salp| no hand-over: the machine has no memory for the next mgmt");
    let task = ended(&api, &answer.location.expect("a monitor"));
    assert!(task["TaskState"] == "Exception" && task.to_string().contains("did not take over: no-memory"), "{task}");
    assert!(!until_then.contains("salp| hand-over "), "no VM stands still for it: {until_then}");
}

#[test]
fn one_goes_back_by_the_link_to_the_active_image_and_one_reset() {
    let (flash, signer) = (Flash::new(), Signer::development());
    let next = bundle(&Release { version: "9.0.0", ..Release::this() }, &signer);
    let mut machine = flash.start();
    let api = machine.api();
    let answer = push(&api, &json!({ "@Redfish.OperationApplyTime": "OnReset" }), &next).is(202);
    let task = ended(&api, &answer.location.expect("a monitor"));
    let required =
        task["Messages"].as_array().into_iter().flatten().find(|one| one["MessageId"] == "Base.1.19.ResetRequired");
    assert_eq!(required.expect("a message")["MessageArgs"], json!([RESET, "ForceRestart"]));
    api.post(RESET, &json!({ "ResetType": "ForceRestart" })).is(204);
    let until_then = machine.expect("salp| slot B: ");
    assert!(!until_then.contains("salp| slot A: "), "it takes one reset: {until_then}");
    until(&api, &format!("{SERVICE}/FirmwareInventory/B"), "confirmed", is("Confirmed"));

    let back = json!({ "Links": { "ActiveSoftwareImage": { "@odata.id": format!("{SERVICE}/FirmwareInventory/A") } } });
    let answer = api.patch(MANAGER, &back).is(200).json();
    assert_eq!(answer["@Message.ExtendedInfo"][0]["MessageId"], "Base.1.19.ResetRequired");
    api.post(RESET, &json!({ "ResetType": "ForceRestart" })).is(204);
    machine.expect("salp| slot A: ");
    let image = until(&api, &format!("{SERVICE}/FirmwareInventory/A"), "confirmed", is("Confirmed"));
    assert_eq!(image["Version"], Release::this().version);
}

#[test]
fn what_must_not_start_is_refused_with_its_reason_and_nothing_changes() {
    let (flash, next) = (Flash::new(), next());
    let stranger = keys::make(&flash.directory.path().join("key")).unwrap_or_else(|error| panic!("{error:#}"));
    let mut machine = flash.start();
    let api = machine.api().with_session();
    let before = flash.slot();
    let board = bundle(&Release { board: "acme,other", ..Release::this() }, &Signer::development());
    let old = bundle(&Release { counter: 0, ..Release::this() }, &Signer::development());
    for (bytes, reason) in [
        (&bundle(&Release::this(), &stranger)[..], "bad signature"),
        (&board, "for another board"),
        (&old, "security counter too low"),
        (&next[..next.len() - 100_000], "truncated"),
        (b"no bundle at all", "not a bundle"),
    ] {
        let answer = push(&api, &json!({ "@Redfish.OperationApplyTime": "Immediate" }), bytes);
        let text = if answer.status == 202 {
            ended(&api, &answer.location.clone().expect("a monitor")).to_string()
        } else {
            answer.is(400).text()
        };
        assert!(text.contains(&format!("refused: {reason}")), "{reason}: {text}");
        assert_eq!(slot(&api, "A")["Active"], true);
    }
    assert!(flash.slot() == before, "what starts has changed");
    api.post(RESET, &json!({ "ResetType": "ForceRestart" })).is(204);
    machine.expect("salp| slot A: ");
}

#[test]
fn an_image_is_fetched_and_started() {
    let (flash, next) = (Flash::new(), next());
    let mut machine = flash.start();
    let api = machine.api();
    let uri = format!("10.0.2.2:{}/next.salp", serve(next));
    let said = json!({ "ImageURI": uri, "TransferProtocol": "HTTP", "@Redfish.OperationApplyTime": "Immediate" });
    let answer = api.post(&format!("{SERVICE}/Actions/UpdateService.SimpleUpdate"), &said).is(202);
    machine.expect("salp| hand-over 1: goes on with 2 VMs");
    let task = ended(&api, &answer.location.expect("a monitor"));
    assert_eq!(task["TaskState"], "Completed", "{task}");
    until(&api, &format!("{SERVICE}/FirmwareInventory/B"), "confirmed", is("Confirmed"));
}

#[test]
fn an_update_that_the_management_guest_fails_in_says_so_and_leaves_nothing() {
    let fragile = management::guest_on_qemu_with(management::MEMORY, "fault=crash:40", &[]);
    let flash = Flash::of(&image_with(fragile.unwrap_or_else(|error| panic!("{error:#}"))));
    let (port, go) = serve_halves(next());
    let mut machine = flash.start();
    let session = machine.api().with_session().with_own_connections(60);
    let said = json!({ "ImageURI": format!("http://10.0.2.2:{port}/next.salp") });
    let update = format!("{SERVICE}/Actions/UpdateService.SimpleUpdate");
    let monitor = session.post(&update, &said).is(202).location.expect("a monitor");
    machine.ask_until_it_fails(&session, &monitor, 40);
    let task = ended(&session, &monitor);
    assert_eq!(task["Messages"][0]["MessageId"], "Salp.1.0.TaskInterrupted", "{task}");
    assert_eq!(session.get(&format!("{SERVICE}/FirmwareInventory/B")).status, 404, "nothing is in the other slot");

    // Who asks again has it.
    thread::spawn(move || while go.send(()).is_ok() {});
    let monitor = session.post(&update, &said).is(202).location.expect("a monitor");
    let task = ended(&session, &monitor);
    assert_eq!(task["TaskState"], "Completed", "{task}");
}

#[test]
fn tools_of_a_fleet_update_an_appliance_and_a_bad_image_stops_them() {
    let (flash, next) = (Flash::new(), next());
    let stranger = keys::make(&flash.directory.path().join("key")).unwrap_or_else(|error| panic!("{error:#}"));
    let [bad, good] = ["bad.salp", "good.salp"].map(|name| flash.directory.path().join(name));
    fs::write(&bad, bundle(&Release::this(), &stranger)).expect("a file");
    fs::write(&good, &next).expect("a file");
    let mut machine = flash.start();
    let contact = machine.contact();
    let stock = Stock::new(&contact);
    let (host, port) = stock.address();
    let facts = json!({
        "host": format!("{host}:{port}"), "user": contact.user, "password": contact.password, "ca": contact.ca,
        "bad": bad, "good": good, "version": "9.0.0", "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    });
    let mut play = stock.program("ansible-playbook");
    play.args(["-i", "localhost,", "tests/stock/update.yml", "-e", &facts.to_string()]);
    let text = both(&succeed(&mut play));
    assert!(text.contains("failed=0"), "{text}");

    let uri = format!("http://10.0.2.2:{}/next.salp", serve(next));
    let mut sushy = stock.program("tour_update.py");
    sushy.args([stock.origin(), &contact.user, &contact.password]).arg(&contact.ca).arg(&uri);
    assert!(both(&succeed(&mut sushy)).contains("DONE"));
}

/// Numbers that are the same each time (xorshift64*).
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

/// Updates an appliance over and over while the power goes at random moments: each start has to be that of a whole signed image,
/// never one before what was confirmed. `SALP_KILLS` is another number of cuts.
#[test]
fn whenever_the_power_goes_in_an_update_a_whole_image_starts_and_never_an_older_one() {
    let count = if salp_tests::long() { 200 } else { 3 };
    let count = std::env::var("SALP_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(count);
    let (flash, signer, mut random) = (Flash::new(), Signer::development(), Seeded(0x5a1b_0001));
    let (mut confirmed, mut version) = (Release::this().counter, Release::this().counter);
    let mut known: Option<Api> = None;
    let (mut updates, mut uploads) = (0, 0);
    for kill in 1..=count {
        let mut machine = flash.start();
        machine.expect("security counter ");
        let api = match &known {
            Some(api) => api.at(machine.port()),
            None => machine.api(),
        };
        known = Some(api.clone());
        let running = until(&api, &format!("{SERVICE}/FirmwareInventory?$expand=."), "there", |all| {
            all["Members"].as_array().is_some_and(|all| all.iter().any(|image| image["Active"] == true))
        });
        let all = running["Members"].as_array().expect("members");
        let counter = |image: &Value| image["Oem"]["Salp"]["SecurityCounter"].as_u64().unwrap_or(0);
        for image in all {
            let standing = image["Oem"]["Salp"]["Standing"].as_str().unwrap_or_default();
            if standing == "Confirmed" {
                assert!(counter(image) >= confirmed, "{kill}: {image} is older than {confirmed}");
                updates += u32::from(counter(image) > confirmed);
                confirmed = counter(image);
            }
            if image["Active"] == true {
                assert!(counter(image) >= confirmed || standing == "Confirmed", "{kill}: {image} runs");
            }
        }
        version = version.max(confirmed) + 1;
        let text = format!("9.0.{version}");
        let next = bundle(&Release { version: &text, counter: version, ..Release::this() }, &signer);
        uploads += 1;
        let sender = thread::spawn(move || {
            let (kind, body) = form(&json!({ "@Redfish.OperationApplyTime": "Immediate" }), &next);
            // The power may go meanwhile; an appliance whose image is on trial refuses the next.
            let _ = api.with_own_connections(60).try_send("POST", PUSH, &[("Content-Type", &kind)], body);
        });
        // Some while the bundle comes, some while the new image is on trial or has just been confirmed.
        let (delay, goes_on) = (random.below(8000), random.below(3) > 0);
        if goes_on {
            let begun = Instant::now();
            while machine.text().matches("salp| ready").count() < 2 && begun.elapsed() < Duration::from_secs(60) {
                thread::sleep(Duration::from_millis(20));
            }
        }
        thread::sleep(Duration::from_millis(if goes_on { 4 * delay } else { delay }));
        drop(machine);
        let _ = sender.join();
        if kill % 10 == 0 {
            eprintln!("{kill} of {count} kills, {updates} updates confirmed");
        }
    }
    eprintln!("{count} kills, {uploads} uploads, {updates} confirmed, the last one {confirmed}");
    let mut machine = flash.start();
    machine.expect("salp| slot ");
    let api = known.expect("a client").at(machine.port());
    until(&api, SERVICE, "there", |service| service["ServiceEnabled"] == true);
}
