//! The service of updates: bundles that are sent, fetched, started. Before: [`table`](crate::table). After:
//! [`updates`](crate::updates), [`media::jobs`](crate::media::jobs).

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};

use base64ct::{Base64, Encoding};
use salp_hvc::update::STANDBY_STAGED;
use salp_hvc::update::layout::SLOT_SIZE;
use salp_json::{Parsed, json};

use super::body::Body;
use super::fields::{Field, Shape, field, needed};
use super::{Call, Outcome, software};
use crate::http::multipart::Reader;
use crate::media::fetch;
use crate::media::url::{self, Url};
use crate::message::Failure;
use crate::tasks::Order;
use crate::updates::install::{self, Install};
use crate::updates::push::{self, Push};
use crate::updates::when::{FIELDS, TIMES, When};
use crate::updates::{self, standby, version};

/// Where it is.
pub const SERVICE: &str = "/redfish/v1/UpdateService";
/// Where bundles are sent to.
const PUSH: &str = "/redfish/v1/UpdateService/update-multipart";
const SIMPLE: &str = "UpdateService.SimpleUpdate";
const START: &str = "UpdateService.StartUpdate";
const ACTIVATE: &str = "UpdateService.Activate";
/// By which they are fetched.
const PROTOCOLS: [&str; 2] = ["HTTP", "HTTPS"];
/// What people call the task.
const NAME: &str = "Update";

/// What is fetched.
pub const SIMPLE_UPDATE: &[Field] = &[
    needed("ImageURI", Shape::Text("^(https?://)?[!-~]+$")),
    field("TransferProtocol", Shape::Word(&PROTOCOLS)),
    field("Targets", Shape::Texts(4, "^/redfish/v1/")),
    field("Username", Shape::Text("")),
    field("Password", Shape::Text("")),
    field("ForceUpdate", Shape::Only(false)),
    field("Stage", Shape::Flag),
    FIELDS[0],
    FIELDS[1],
];

/// Which image is activated.
pub const TARGETS: &[Field] =
    &[needed("Targets", Shape::List(1, &[needed("@odata.id", Shape::Text("^/redfish/v1/"))]))];

/// Answers the service.
pub fn service(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let is_enabled = updates::known(call.hypervisor).is_ok();
    let action = |name: &str| format!("{SERVICE}/Actions/{name}");
    let times = json!({ "@odata.type": "#Settings.v1_4_0.OperationApplyTimeSupport", "SupportedValues": TIMES });
    Ok(Outcome::Resource(json!({
        "@odata.id": SERVICE,
        "@odata.type": "#UpdateService.v1_17_0.UpdateService",
        "Id": "UpdateService",
        "Name": "Updates of the machine's image",
        "ServiceEnabled": is_enabled,
        "Status": { "State": if is_enabled { "Enabled" } else { "Disabled" }, "Health": "OK" },
        "MaxImageSizeBytes": SLOT_SIZE,
        "MultipartHttpPushUri": PUSH,
        "MultipartHttpPushUri@Redfish.OperationApplyTimeSupport": &times,
        "FirmwareInventory": { "@odata.id": software::FIRMWARE },
        "SoftwareInventory": { "@odata.id": format!("{SERVICE}/SoftwareInventory") },
        "Actions": {
            (format!("#{SIMPLE}")): {
                "target": action(SIMPLE),
                "TransferProtocol@Redfish.AllowableValues": PROTOCOLS,
                "@Redfish.OperationApplyTimeSupport": times,
            },
            (format!("#{START}")): { "target": action(START) },
            (format!("#{ACTIVATE}")): { "target": action(ACTIVATE) },
        },
    })))
}

fn order(call: &Call<'_>, body: Option<String>) -> Order {
    let user = call.who.map_or("", |who| &who.user).to_string();
    Order { name: NAME, kind: install::KIND, user, target: call.request.path.clone(), body }
}

/// Takes a bundle that is sent as a part of a form.
pub fn push(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    updates::known(call.hypervisor)?;
    if !call.request.has_parts() {
        let why = "Send multipart/form-data with the parts UpdateParameters and UpdateFile.";
        return Err(Failure::because(415, why));
    }
    let kind = call.request.content_type.as_deref().unwrap_or_default();
    let reader = Reader::new(kind).ok_or_else(|| Failure::new(400, "HeaderInvalid", &["Content-Type"]))?;
    if call.request.length.is_some_and(|length| length > push::MOST) {
        return Err(push::too_large());
    }
    let lease = call.updates.claim(call.tasks)?;
    Ok(Outcome::Body(Box::new(Push::new(reader, order(call, None), lease))))
}

/// Returns the address of a bundle: with its scheme, or without where the protocol is said.
fn address(text: &str, protocol: Option<&str>) -> Option<Url> {
    if text.contains("://") {
        return Url::parse(text).filter(|url| protocol.is_none_or(|protocol| (protocol == "HTTPS") == url.is_secure));
    }
    Url::parse(&format!("{}://{text}", protocol?.to_ascii_lowercase()))
}

/// Fetches a bundle.
pub fn simple(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_action(call.request, SIMPLE)?;
    let protocol = body.word("TransferProtocol", &PROTOCOLS);
    let read = |text: &str| address(text, protocol.as_deref()).filter(|_| text.len() <= url::MAX);
    let url = body.needed_parsed("ImageURI", read);
    let is_known = |target: &str| target == software::MANAGER || target.starts_with(software::FIRMWARE);
    body.texts("Targets", 4, is_known);
    let (user, password) = (body.text("Username", |_| true), body.text("Password", |_| true));
    body.only_flag("ForceUpdate", false);
    let stages = body.flag("Stage") == Some(true);
    let when = When::read(&mut body, call.now);
    body.finish()?;
    updates::known(call.hypervisor)?;
    drop(call.updates.claim(call.tasks)?);
    let url = url.ok_or_else(|| call.missing())?;
    let authorization = user.map(|user| {
        let login = format!("{user}:{}", password.unwrap_or_default());
        format!("Basic {}", Base64::encode_string(login.as_bytes()))
    });
    let from = fetch::Order { url, authorization, digest: None, image: None };
    // What people read of the request later has no password in it.
    let mut said: Parsed = serde_json::from_slice(&call.request.body).unwrap_or_default();
    said.as_object_mut().map(|said| said.remove("Password"));
    let order = order(call, Some(said.to_string()));
    let when = if stages { When::OnRequest } else { when };
    call.begin(order, Box::new(Install::of_fetch(from, when)))
}

/// Starts what is staged.
pub fn start(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Body::of_action(call.request, START)?.finish()?;
    let info = updates::known(call.hypervisor)?;
    drop(call.updates.claim(call.tasks)?);
    if info.standby.get() != STANDBY_STAGED {
        return Err(Failure::because(409, "No image is staged."));
    }
    let order = order(call, None);
    call.begin(order, Box::new(Install::of_staged(version(&info, standby(&info)))))
}

/// Lets the next reset start an image.
pub fn activate(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_action(call.request, ACTIVATE)?;
    let targets = body.each("Targets", 1, |body| body.needed_text("@odata.id", |text| text.len() < 128));
    body.needed("Targets", &targets);
    body.finish()?;
    let image = targets.into_iter().flatten().flatten().next().unwrap_or_default();
    let is_to_reset = software::activate(call.hypervisor, &image)?;
    let messages = if is_to_reset { json!([install::reset_required()]) } else { json!([]) };
    Ok(Outcome::Resource(json!({ "@Message.ExtendedInfo": messages })))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::flow::Then;
    use crate::http::{Method, Response, Serve};
    use crate::resources::managers::RESET_ACTION;
    use crate::testing::{Client, Server, json, keys};
    use crate::updates::WELL;
    use alloc::vec::Vec;
    use serde_json::{Value, json};

    /// A bundle, as the flash of tests knows them.
    pub const BUNDLE: &[u8] = b"salp 2.0\nwhat is in it is of no interest, but there is more than one judges at once.";

    /// Returns what a form with these parts is.
    fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let part = |(name, bytes): &(&str, &[u8])| {
            let head = format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\r\n");
            [head.as_bytes(), bytes, b"\r\n"].concat()
        };
        [parts.iter().flat_map(part).collect(), b"--x--\r\n".to_vec()].concat()
    }

    fn send(client: &mut Client, body: Vec<u8>) -> Response {
        let mut request = client.request(Method::Post, PUSH, "");
        request.content_type = Some("multipart/form-data; boundary=x".into());
        (request.length, request.body) = (Some(body.len() as u64), body);
        client.send(&request)
    }

    /// Sends a bundle as clients do.
    pub fn push(client: &mut Client, parameters: &str, bundle: &[u8]) -> Response {
        send(client, form(&[("UpdateParameters", parameters.as_bytes()), ("UpdateFile", bundle)]))
    }

    fn work(client: &mut Client) {
        for _ in 0..100 {
            client.now += 1;
            client.service.work(client.now);
        }
    }

    fn task(client: &mut Client) -> Value {
        client.read("/redfish/v1/TaskService/Tasks/1")
    }

    fn standing(client: &mut Client, slot: u32) -> String {
        let image = client.get(&software::path(slot));
        json(&image)["Oem"]["Salp"]["Standing"].as_str().unwrap_or("none").into()
    }

    /// Looks at the machine for as long as a trial takes.
    fn settle(client: &mut Client) {
        client.service.appliance.reached.ipv4 = Some((core::net::Ipv4Addr::LOCALHOST, 8));
        for _ in 0..=WELL {
            client.service.go_on(client.now);
        }
    }

    #[test]
    fn a_bundle_is_staged_and_a_tool_is_told_to_reset_the_machine() {
        let mut client = Client::new(Role::Administrator);
        let answer = push(&mut client, "{}", BUNDLE);
        assert_eq!(answer.status, 202, "{answer:?}");
        let monitor = answer.get("Location").unwrap().to_string();
        assert!(monitor.starts_with("/redfish/v1/TaskService/TaskMonitors/"));
        work(&mut client);
        let task = json(&client.get(&monitor));
        assert_eq!((&task["TaskState"], &task["PercentComplete"]), (&json!("Completed"), &json!(100)), "{task}");
        let ids: Vec<&str> =
            task["Messages"].as_array().unwrap().iter().filter_map(|one| one["MessageId"].as_str()).collect();
        assert_eq!(ids, ["Salp.1.0.ImageStaged", "Base.1.19.ResetRequired"]);
        let image = client.read(&software::path(1));
        assert_eq!(
            (&image["Version"], &image["Staged"], &image["Active"]),
            (&json!("2.0"), &json!(true), &json!(false))
        );
    }

    #[test]
    fn an_immediate_update_takes_over_and_its_task_follows_it() {
        let mut client = Client::new(Role::Administrator);
        let answer = push(&mut client, r#"{"@Redfish.OperationApplyTime":"Immediate","Targets":[]}"#, BUNDLE);
        assert_eq!(answer.status, 202);
        work(&mut client);
        // What the machine remembers is what was kept.
        client.forget();
        let running = task(&mut client);
        assert_eq!(
            (&running["TaskState"], &running["Messages"][0]["MessageId"]),
            (&json!("Running"), &json!("Salp.1.0.ImageTakesOver"))
        );
        assert_eq!(standing(&mut client, 1), "Trial");
        settle(&mut client);
        work(&mut client);
        assert_eq!(
            (&task(&mut client)["TaskState"], standing(&mut client, 1)),
            (&json!("Completed"), "Confirmed".into())
        );
    }

    #[test]
    fn an_image_that_does_not_take_over_is_told_with_its_reason() {
        let mut client = Client::with_images_that_fail(salp_hvc::handover::FAILED_PANIC);
        assert_eq!(push(&mut client, r#"{"@Redfish.OperationApplyTime":"Immediate"}"#, BUNDLE).status, 202);
        work(&mut client);
        settle(&mut client);
        work(&mut client);
        let task = task(&mut client);
        let text = task["Messages"][0]["Message"].as_str().unwrap();
        assert!(text.contains("2.0 did not take over: it panicked."), "{task}");
        assert_eq!((&task["TaskState"], standing(&mut client, 0)), (&json!("Exception"), "Confirmed".into()));
    }

    /// Updates at once, resets the machine until the update has no attempts left, and returns the task.
    fn never_confirmed(client: &mut Client) -> Value {
        assert_eq!(push(client, r#"{"@Redfish.OperationApplyTime":"Immediate"}"#, BUNDLE).status, 202);
        work(client);
        for _ in 0..=salp_hvc::update::MAX_ATTEMPTS {
            client.post(RESET_ACTION, r#"{"ResetType":"ForceRestart"}"#);
            client.now += 2;
            client.service.go_on(client.now);
        }
        client.forget();
        work(client);
        task(client)
    }

    #[test]
    fn an_update_that_is_not_confirmed_says_so_in_its_task() {
        let mut client = Client::new(Role::Administrator);
        let task = never_confirmed(&mut client);
        assert_eq!((&task["TaskState"], standing(&mut client, 1)), (&json!("Exception"), "Failed".into()));
        assert!(task["Messages"][0]["Message"].as_str().unwrap().contains("2.0 was tried and not confirmed"), "{task}");
    }

    #[test]
    fn an_update_that_the_watchdog_has_ended_says_so_in_its_task() {
        let mut client = Client::with_watchdog(salp_hvc::calls::WATCHDOG_EXPIRED);
        let task = never_confirmed(&mut client);
        let text = task["Messages"][0]["Message"].as_str().unwrap();
        assert!(text.contains("2.0 was tried and ended by the watchdog: "), "{task}");
    }

    #[test]
    fn each_refusal_is_told_with_its_reason_and_nothing_is_staged() {
        for refusal in 1..=9 {
            let mut client = Client::new(Role::Administrator);
            let bundle = [format!("refuse {refusal}\n").as_bytes(), &[b'x'; 9000]].concat();
            let answer = push(&mut client, "{}", &bundle);
            let text = String::from_utf8(answer.body).unwrap();
            assert_eq!(answer.status, 400, "{text}");
            assert!(text.contains(&format!("refused: {}.", salp_hvc::update::refusal_word(refusal))), "{text}");
            assert_eq!((standing(&mut client, 0), standing(&mut client, 1)), ("Confirmed".into(), "none".into()));
            assert_eq!(push(&mut client, "{}", BUNDLE).status, 202, "the next one is taken");
        }
    }

    #[test]
    fn a_bundle_that_ends_too_early_is_told_in_its_task() {
        let mut client = Client::new(Role::Administrator);
        assert_eq!(push(&mut client, "{}", &BUNDLE[..BUNDLE.len() - 1]).status, 202);
        work(&mut client);
        let task = task(&mut client);
        assert_eq!(task["TaskState"], "Exception");
        assert!(task["Messages"][0]["Message"].as_str().unwrap().contains("refused: truncated"), "{task}");
        assert_eq!(client.get("/redfish/v1/TaskService/TaskMonitors/1").status, 400);
    }

    #[test]
    fn a_form_that_makes_no_sense_is_refused() {
        let mut client = Client::new(Role::Administrator);
        let parameters = ("UpdateParameters", &b"{}"[..]);
        for body in [
            b"--y--".to_vec(),
            form(&[parameters]),
            form(&[("UpdateFile", BUNDLE), ("UpdateFile", BUNDLE)]),
            form(&[("UpdateParameters", b"{"), ("UpdateFile", BUNDLE)]),
            form(&[("UpdateParameters", br#"{"Color":"red"}"#), ("UpdateFile", BUNDLE)]),
            form(&[("UpdateParameters", br#"{"ForceUpdate":true}"#), ("UpdateFile", BUNDLE)]),
            form(&[("UpdateParameters", br#"{"@Redfish.OperationApplyTime":"AtMaintenanceWindowStart"}"#)]),
            form(&[("UpdateFile", BUNDLE)])[..100].to_vec(),
        ] {
            assert_eq!(send(&mut client, body.clone()).status, 400, "{}", String::from_utf8_lossy(&body));
        }
        assert_eq!(client.post(PUSH, "{}").status, 415);
        let mut large = client.request(Method::Post, PUSH, "");
        (large.content_type, large.length) = (Some("multipart/form-data; boundary=x".into()), Some(1 << 30));
        assert_eq!(client.send(&large).status, 413);
        let mut elsewhere = client.request(Method::Post, "/redfish/v1/Systems", "");
        elsewhere.content_type = Some("multipart/form-data; boundary=x".into());
        assert_eq!(client.send(&elsewhere).status, 415);
        assert_eq!(standing(&mut client, 1), "none");
    }

    #[test]
    fn there_is_one_update_at_a_time() {
        let mut client = Client::new(Role::Administrator);
        let mut request = client.request(Method::Post, PUSH, "");
        request.content_type = Some("multipart/form-data; boundary=x".into());
        let Then::Body(first) = client.service.at(0).handle(&request).then else { panic!("it is refused") };
        assert_eq!(push(&mut client, "{}", BUNDLE).status, 409);
        drop(first);
        assert_eq!(push(&mut client, "{}", BUNDLE).status, 202);
        assert_eq!(push(&mut client, "{}", BUNDLE).status, 409, "its task goes on");
    }

    #[test]
    fn a_window_is_waited_for() {
        let mut client = Client::new(Role::Administrator);
        client.service.auth.timeout = 86400;
        client.service.auth.mark_changed();
        let window = |start: &str| {
            let window =
                format!(r#"{{"MaintenanceWindowStartTime":"{start}","MaintenanceWindowDurationInSeconds":600}}"#);
            format!(
                r#"{{"@Redfish.OperationApplyTime":"AtMaintenanceWindowStart","@Redfish.MaintenanceWindow":{window}}}"#
            )
        };
        assert_eq!(push(&mut client, &window("1970-01-01T00:00:00Z"), BUNDLE).status, 400, "it is over");
        assert_eq!(push(&mut client, &window("1970-01-01T01:00:00Z"), BUNDLE).status, 202);
        work(&mut client);
        assert_eq!((&task(&mut client)["TaskState"], standing(&mut client, 1)), (&json!("Running"), "Staged".into()));
        client.forget();
        client.now = 3600;
        work(&mut client);
        assert_eq!(standing(&mut client, 1), "Trial");
        settle(&mut client);
        work(&mut client);
        assert_eq!(task(&mut client)["TaskState"], "Completed");
    }

    #[test]
    fn a_window_that_was_missed_leaves_the_image_staged() {
        let mut client = Client::new(Role::Administrator);
        client.service.auth.timeout = 86400;
        client.service.auth.mark_changed();
        let window = r#"{"MaintenanceWindowStartTime":"1970-01-01T01:00:00Z","MaintenanceWindowDurationInSeconds":9}"#;
        let said = format!(
            r#"{{"@Redfish.OperationApplyTime":"AtMaintenanceWindowStart","@Redfish.MaintenanceWindow":{window}}}"#
        );
        assert_eq!(push(&mut client, &said, BUNDLE).status, 202);
        work(&mut client);
        client.now = 4000;
        work(&mut client);
        assert_eq!((&task(&mut client)["TaskState"], standing(&mut client, 1)), (&json!("Exception"), "Staged".into()));
    }

    #[test]
    fn what_is_only_staged_is_started_by_request() {
        let mut client = Client::new(Role::Administrator);
        let start = format!("{SERVICE}/Actions/{START}");
        assert_eq!(client.post(&start, "").status, 409);
        assert_eq!(push(&mut client, r#"{"Stage":true}"#, BUNDLE).status, 202);
        work(&mut client);
        assert_eq!(standing(&mut client, 1), "Staged");
        assert_eq!(client.post(&start, "").status, 202);
        work(&mut client);
        assert_eq!(standing(&mut client, 1), "Trial");
        let activate = format!(r#"{{"Targets":[{{"@odata.id":"{}"}}]}}"#, software::path(0));
        let answer = client.post(&format!("{SERVICE}/Actions/{ACTIVATE}"), &activate);
        assert_eq!(
            json(&answer)["@Message.ExtendedInfo"][0]["MessageId"],
            "Base.1.19.ResetRequired",
            "back to the one before"
        );
    }

    #[test]
    fn a_task_that_is_cancelled_leaves_what_starts_as_it_was() {
        let mut client = Client::new(Role::Administrator);
        assert_eq!(push(&mut client, r#"{"@Redfish.OperationApplyTime":"Immediate"}"#, BUNDLE).status, 202);
        for _ in 0..5 {
            client.service.work(client.now);
        }
        let delete = client.request(Method::Delete, "/redfish/v1/TaskService/Tasks/1", "");
        assert_eq!(client.send(&delete).status, 204);
        work(&mut client);
        assert_eq!(task(&mut client)["TaskState"], "Cancelled");
        assert_eq!((standing(&mut client, 0), standing(&mut client, 1)), ("Confirmed".into(), "Failed".into()));
    }

    /// Fetches what a server has, and returns the task.
    fn fetch(client: &mut Client, said: &str, answer: &[u8]) -> Value {
        let begun = client.post(&format!("{SERVICE}/Actions/{SIMPLE}"), said);
        assert_eq!(begun.status, 202, "{begun:?}");
        let mut server = Server(answer.to_vec());
        for _ in 0..100 {
            client.now += 1;
            let now = client.now;
            client.service.drive_job(0, &mut server, now * 1000, now);
            client.service.work(now);
        }
        task(client)
    }

    #[test]
    fn a_bundle_is_fetched_and_its_password_is_told_to_nobody() {
        let mut client = Client::new(Role::Administrator);
        let answer =
            [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", BUNDLE.len()).as_bytes(), BUNDLE].concat();
        let said = r#"{"ImageURI":"h/next.salp","TransferProtocol":"HTTP","Username":"me","Password":"secret"}"#;
        let task = fetch(&mut client, said, &answer);
        assert_eq!((&task["TaskState"], standing(&mut client, 1)), (&json!("Completed"), "Trial".into()), "{task}");
        assert!(!task.to_string().contains("secret") && task.to_string().contains("next.salp"), "{task}");
    }

    #[test]
    fn what_is_fetched_and_is_no_bundle_is_refused_in_its_task() {
        for (answer, why) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 80\r\n\r\nrefuse 3\n", "bad signature"),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answers 404"),
        ] {
            let mut client = Client::new(Role::Administrator);
            let answer = [answer.as_bytes(), &[b'x'; 71]].concat();
            let task = fetch(&mut client, r#"{"ImageURI":"http://h/x"}"#, &answer);
            assert_eq!((&task["TaskState"], standing(&mut client, 1)), (&json!("Exception"), "none".into()));
            assert!(task["Messages"][0]["Message"].as_str().unwrap().contains(why), "{task}");
        }
    }

    #[test]
    fn bad_addresses_are_refused_at_once() {
        let mut client = Client::new(Role::Administrator);
        let simple = format!("{SERVICE}/Actions/{SIMPLE}");
        for bad in [
            "{}",
            r#"{"ImageURI":"h/x"}"#,
            r#"{"ImageURI":"ftp://h/x"}"#,
            r#"{"ImageURI":"http://h/x","TransferProtocol":"HTTPS"}"#,
            r#"{"ImageURI":"http://h/x","TransferProtocol":"TFTP"}"#,
            r#"{"ImageURI":"http://h/x","Targets":["/redfish/v1/Systems/2"]}"#,
        ] {
            assert_eq!(client.post(&simple, bad).status, 400, "{bad}");
        }
    }

    #[test]
    fn a_machine_without_a_flash_says_that_it_cannot_be_updated() {
        let mut client = Client::without_flash();
        let service = client.read(SERVICE);
        assert_eq!((&service["ServiceEnabled"], &service["Status"]["State"]), (&json!(false), &json!("Disabled")));
        assert_eq!(push(&mut client, "{}", BUNDLE).status, 503);
        let answer = client.post(&format!("{SERVICE}/Actions/{SIMPLE}"), r#"{"ImageURI":"http://h/x"}"#);
        assert_eq!((answer.status, keys(&answer).concat()), (503, "GeneralError".into()));
        assert_eq!(client.post(&format!("{SERVICE}/Actions/{START}"), "").status, 503);
    }

    #[test]
    fn only_administrators_update_the_machine() {
        for role in [Role::Operator, Role::ReadOnly] {
            let mut client = Client::new(role);
            assert_eq!(push(&mut client, "{}", BUNDLE).status, 403);
            assert_eq!(client.read(SERVICE)["ServiceEnabled"], true);
        }
    }
}
