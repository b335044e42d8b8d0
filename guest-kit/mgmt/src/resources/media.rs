//! Drives of VMs. Before: [`table`](crate::table). After: [`media`](crate::media), [`hypervisor`](crate::hypervisor).

use alloc::format;
use alloc::string::{String, ToString};

use base64ct::{Base64, Encoding};
use salp_json::{Value, json};

use super::body::Body;
use super::fields::{Field, Shape, field, needed};
use super::systems::{find, path};
use super::{Call, Outcome, collection};
use crate::hypervisor;
use crate::images::label::Label;
use crate::images::upload::hex_digest;
use crate::images::{self, IMAGES};
use crate::media;
use crate::media::fetch::Order;
use crate::media::jobs::Then;
use crate::media::url::{self, Url};
use crate::message::Failure;
use crate::tasks::fetch::Fetching;

/// The name of the only drive.
const DRIVE: &str = "Cd";

/// What a medium may be: the guest sees a disk that cannot be written.
const TYPES: [&str; 3] = ["CD", "DVD", "USBStick"];

/// The whole medium is fetched before it is in the drive.
const METHODS: [&str; 1] = ["Upload"];
/// By which it is fetched.
const PROTOCOLS: [&str; 2] = ["HTTP", "HTTPS"];

/// A medium for a drive.
pub const INSERT: &[Field] = &[
    needed("Image", Shape::Text("^(https?://|/redfish/v1/Oem/Salp/Images/)[!-~]+$")),
    field("Inserted", Shape::Only(true)),
    field("WriteProtected", Shape::Only(true)),
    field("VerifyCertificate", Shape::Only(false)),
    field("MediaType", Shape::Word(&TYPES)),
    field("TransferMethod", Shape::Word(&METHODS)),
    field("TransferProtocolType", Shape::Word(&PROTOCOLS)),
    field("UserName", Shape::Text("")),
    field("Password", Shape::Text("")),
    field("Oem", Shape::Object(&[field("Salp", Shape::Object(&[field("SHA256", Shape::Text("^[0-9a-fA-F]{64}$"))]))])),
];

/// Returns where the drives of a VM are.
pub fn collection_path(id: u64) -> String {
    path(id) + "/VirtualMedia"
}

/// Lists the drives of a VM.
pub fn list(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let path = collection_path(find(call)?.id.get());
    let members = [format!("{path}/{DRIVE}")].into_iter();
    Ok(Outcome::Resource(collection(&path, "VirtualMediaCollection", "Drives", members)))
}

/// Returns the VM whose drive the path means.
fn find_drive(call: &Call<'_>) -> Result<u64, Failure> {
    let id = find(call)?.id.get();
    if call.variables[1] == DRIVE { Ok(id) } else { Err(call.missing()) }
}

/// Answers a drive.
pub fn drive(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = find_drive(call)?;
    let medium = call.hypervisor.medium(id).map_err(|refused| Failure::refused(refused, &call.request.path))?;
    let path = format!("{}/{DRIVE}", collection_path(id));
    let action = |name: &str| format!("{path}/Actions/VirtualMedia.{name}");
    let mut value = json!({
        "@odata.id": &path,
        "@odata.type": "#VirtualMedia.v1_6_5.VirtualMedia",
        "Id": DRIVE,
        "Name": "Drive",
        "MediaTypes": TYPES,
        "ConnectedVia": "NotConnected",
        "Inserted": medium.is_some(),
        "Image": Value::Null,
        "ImageName": Value::Null,
        "WriteProtected": true,
        "TransferMethod": METHODS[0],
        "VerifyCertificate": false,
        "Status": { "State": "Enabled", "Health": "OK" },
        "Actions": {
            "#VirtualMedia.InsertMedia": {
                "target": action("InsertMedia"),
                "MediaType@Redfish.AllowableValues": TYPES,
                "TransferMethod@Redfish.AllowableValues": METHODS,
                "TransferProtocolType@Redfish.AllowableValues": PROTOCOLS,
            },
            "#VirtualMedia.EjectMedia": { "target": action("EjectMedia") },
        },
    });
    let Some(image) = medium else { return Ok(Outcome::Resource(value)) };
    let known = hypervisor::image(call.hypervisor, image).ok();
    let label = known.and_then(|info| Label::read(&info.label));
    let origin = media::origin(call.hypervisor, image);
    value["ConnectedVia"] = if origin.is_some() { "URI" } else { "Oem" }.into();
    value["ImageName"] = label.map(|label| label.name().to_string()).into();
    value["Image"] =
        origin.or_else(|| label.filter(|label| label.kind().is_visible()).map(|label| images::path(&label))).into();
    Ok(Outcome::Resource(value))
}

/// Puts a medium into a drive: an image that is here, at once; or what an address leads to, when it is there.
pub fn insert(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = find_drive(call)?;
    let mut body = Body::of_action(call.request, "VirtualMedia.InsertMedia")?;
    let is_address =
        |text: &str| text.strip_prefix(IMAGES).is_some_and(|rest| rest.starts_with('/')) || Url::parse(text).is_some();
    let image = body.needed_text("Image", |text| text.len() <= url::MAX && is_address(text));
    body.only_flag("Inserted", true);
    body.only_flag("WriteProtected", true);
    body.only_flag("VerifyCertificate", false);
    body.word("MediaType", &TYPES);
    body.word("TransferMethod", &METHODS);
    let protocol = body.word("TransferProtocolType", &PROTOCOLS);
    let authorization = login(&mut body);
    let digest =
        body.inside("Oem", |body| body.inside("Salp", |body| body.parsed("SHA256", |text| hex_digest(text).ok())));
    body.finish()?;
    let image = image.unwrap_or_default();
    let refused = |refused| Failure::refused(refused, &call.request.path);
    if call.hypervisor.medium(id).map_err(refused)?.is_some() {
        return Err(Failure::because(409, "There is a medium in the drive: eject it first."));
    }
    let Some(url) = Url::parse(&image) else {
        let missing = || Failure::new(400, "ResourceNotFound", &["SalpImage", &image]);
        let (info, label) = images::by_link(call.hypervisor, &image).ok_or_else(missing)?;
        if info.finished.get() == 0 {
            return Err(Failure::because(409, "The image is not whole yet."));
        }
        if digest.flatten().flatten().is_some_and(|digest| digest != label.digest) {
            return Err(Failure::because(400, "The image has another SHA-256."));
        }
        call.hypervisor.change_medium(id, Some(info.id.get())).map_err(refused)?;
        return Ok(Outcome::Done);
    };
    if protocol.is_some_and(|protocol| (protocol == "HTTPS") != url.is_secure) {
        return Err(Failure::because(400, "TransferProtocolType and the address differ."));
    }
    let order = Order { url, authorization, digest: digest.flatten().flatten(), image: None };
    // Clients take any answer for a medium that is in the drive: those that know better say so.
    let waits = !call.prefers_task();
    call.fetch("Insert a medium", Fetching::new(order, &image, Then::Insert(id)), waits)
}

/// Takes with which name and password a server is asked.
pub fn login(body: &mut Body) -> Option<String> {
    let (user, password) = (body.text("UserName", |_| true), body.text("Password", |_| true));
    user.map(|user| {
        let login = format!("{user}:{}", password.unwrap_or_default());
        format!("Basic {}", Base64::encode_string(login.as_bytes()))
    })
}

/// Takes the medium out of a drive. One that was fetched for it goes.
pub fn eject(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = find_drive(call)?;
    Body::of_action(call.request, "VirtualMedia.EjectMedia")?.finish()?;
    let refused = |refused| Failure::refused(refused, &call.request.path);
    if call.hypervisor.medium(id).map_err(refused)?.is_none() {
        return Err(Failure::because(409, "There is no medium in the drive."));
    }
    call.hypervisor.change_medium(id, None).map_err(refused)?;
    images::sweep(call.hypervisor, call.now);
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::flow::Then;
    use crate::http::{Method, Serve};
    use crate::testing::{Client, Server};
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;
    use serde_json::json;

    const DRIVE: &str = "/redfish/v1/Systems/2/VirtualMedia/Cd";
    const INSERT: &str = "/redfish/v1/Systems/2/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia";
    const EJECT: &str = "/redfish/v1/Systems/2/VirtualMedia/Cd/Actions/VirtualMedia.EjectMedia";

    fn upload(client: &mut Client) {
        let mut request = client.request(Method::Put, "/redfish/v1/Oem/Salp/Images/cd", "");
        request.body = [7; 3000].into();
        request.length = Some(3000);
        assert_eq!(client.send(&request).status, 201);
    }

    const FOUND: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";

    /// Begins to insert, and returns the monitor.
    fn begin(client: &mut Client, body: &str) -> String {
        let mut request = client.request(Method::Post, INSERT, body);
        request.others.push(("prefer", "respond-async".into()));
        let answer = client.send(&request);
        assert_eq!((answer.status, answer.get("Preference-Applied")), (202, Some("respond-async")));
        assert!(matches!(answer.then, Then::End));
        answer.get("Location").unwrap().into()
    }

    /// Lets a server answer so, and returns the statuses of tasks that have come to their end.
    fn serve(client: &mut Client, answer: &[u8]) -> Vec<u16> {
        let mut server = Server(answer.to_vec());
        client.service.work(client.now);
        for now in 0..10 {
            client.service.drive_job(0, &mut server, now, 5);
        }
        client.service.work(client.now);
        client.service.tasks.all().filter_map(|(_, task)| Some(task.end.as_ref()?.status)).collect()
    }

    #[test]
    fn an_image_goes_into_the_drive_and_out_again() {
        let mut client = Client::new(Role::Operator);
        upload(&mut client);
        let image = r#"{"Image":"/redfish/v1/Oem/Salp/Images/cd","Inserted":true,"WriteProtected":true}"#;
        assert_eq!(client.post(INSERT, image).status, 204);
        let drive = client.read(DRIVE);
        assert_eq!(
            (&drive["Inserted"], &drive["ImageName"], &drive["ConnectedVia"]),
            (&json!(true), &json!("cd"), &json!("Oem"))
        );
        assert_eq!(drive["Image"], "/redfish/v1/Oem/Salp/Images/cd");
        assert_eq!(client.post(INSERT, image).status, 409, "there is one");
        let delete = client.request(Method::Delete, "/redfish/v1/Oem/Salp/Images/cd", "");
        assert_eq!(client.send(&delete).status, 409, "it is in the drive");
        assert_eq!((client.post(EJECT, "{}").status, client.post(EJECT, "{}").status), (204, 409));
        assert_eq!(client.read(DRIVE)["Inserted"], false);
        assert_eq!(client.send(&delete).status, 204);
    }

    #[test]
    fn an_address_is_acknowledged_when_the_medium_is_in_the_drive() {
        let mut client = Client::new(Role::Operator);
        let answer = client.post(INSERT, r#"{"Image":"http://h/a.iso","TransferProtocolType":"HTTP"}"#);
        let Then::Later(task) = answer.then else { panic!("{answer:?}") };
        assert!(client.service.at(client.now).poll(task).is_none());
        assert_eq!(serve(&mut client, FOUND), [204]);
        assert_eq!(client.service.at(client.now).poll(task).map(|answer| answer.status), Some(204));
        let drive = client.read(DRIVE);
        assert_eq!(
            (&drive["Image"], &drive["ImageName"], &drive["ConnectedVia"]),
            (&json!("http://h/a.iso"), &json!("a.iso"), &json!("URI"))
        );
        assert_eq!(client.read("/redfish/v1/Oem/Salp/Images/a.iso")["Kind"], "Fetched");
        assert_eq!(client.post(EJECT, "").status, 204);
        assert_eq!(client.get("/redfish/v1/Oem/Salp/Images/a.iso").status, 404, "it was for this drive only");
    }

    #[test]
    fn a_medium_that_does_not_come_is_told_and_the_drive_is_empty() {
        let mut client = Client::new(Role::Operator);
        let answer = client.post(INSERT, r#"{"Image":"http://h/a.iso"}"#);
        let Then::Later(task) = answer.then else { panic!("{answer:?}") };
        assert_eq!(serve(&mut client, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), [400]);
        assert_eq!(client.service.at(client.now).poll(task).map(|answer| answer.status), Some(400));
        assert_eq!(client.read(DRIVE)["Inserted"], false);
    }

    #[test]
    fn who_does_not_wait_has_a_task_that_tells_how_far_it_is_and_no_password() {
        let mut client = Client::new(Role::Operator);
        let body = r#"{"Image":"http://h/a.iso","UserName":"me","Password":"secret-of-h"}"#;
        let monitor = begin(&mut client, body);
        let task = "/redfish/v1/TaskService/Tasks/1";
        serve(&mut client, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc");
        client.now += 1;
        client.service.work(client.now);
        let shown = client.read(task);
        assert_eq!((&shown["TaskState"], &shown["PercentComplete"]), (&json!("Running"), &json!(75)));
        assert!(!shown.to_string().contains("secret-of-h"));
        assert_eq!(client.get(&monitor).status, 202);
        client.forget();
        assert_eq!(client.get(&monitor).status, 202, "what became of it is found out first");
        client.service.work(client.now);
        assert_eq!(client.get(&monitor).status, 500, "its password is not kept");
    }

    #[test]
    fn a_fetch_goes_on_after_a_failure_of_this_guest() {
        let mut client = Client::new(Role::Operator);
        let monitor = begin(&mut client, r#"{"Image":"http://h/a.iso"}"#);
        serve(&mut client, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc");
        client.service.jobs = Default::default();
        client.forget();
        assert_eq!(serve(&mut client, FOUND), [204]);
        assert_eq!(client.get(&monitor).status, 204);
        assert_eq!(client.read(DRIVE)["Inserted"], true);
    }

    #[test]
    fn a_fetch_that_is_cancelled_leaves_nothing() {
        let mut client = Client::new(Role::Operator);
        let monitor = begin(&mut client, r#"{"Image":"http://h/a.iso"}"#);
        serve(&mut client, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc");
        assert_eq!(client.send(&client.request(Method::Delete, &monitor, "")).status, 204);
        serve(&mut client, b"");
        assert_eq!(client.get(&monitor).status, 409);
        assert_eq!(client.read("/redfish/v1/TaskService/Tasks/1")["TaskState"], "Cancelled");
        assert!(client.service.jobs.is_empty());
        assert_eq!(client.read("/redfish/v1/Oem/Salp/Images")["Members@odata.count"], 0);
    }

    #[test]
    fn a_medium_that_comes_too_late_does_not_replace_another() {
        let mut client = Client::new(Role::Operator);
        let monitor = begin(&mut client, r#"{"Image":"http://h/a.iso"}"#);
        upload(&mut client);
        assert_eq!(client.post(INSERT, r#"{"Image":"/redfish/v1/Oem/Salp/Images/cd"}"#).status, 204);
        assert_eq!(serve(&mut client, FOUND), [409]);
        assert_eq!(client.get(&monitor).status, 409);
        assert_eq!(client.read(DRIVE)["ImageName"], "cd");
        assert_eq!(client.read("/redfish/v1/Oem/Salp/Images")["Members@odata.count"], 1);
    }

    #[test]
    fn an_image_is_fetched_under_its_name_and_stays() {
        const IMAGES: &str = "/redfish/v1/Oem/Salp/Images";
        let mut client = Client::new(Role::Operator);
        let order = r#"{"Name":"k","ImageURI":"http://h/vmlinuz","Kind":"Kernel"}"#;
        let answer = client.post(IMAGES, order);
        assert_eq!((answer.status, client.read(IMAGES)["Members@odata.count"].clone()), (202, json!(0)));
        assert_eq!(serve(&mut client, FOUND), [201]);
        let done = client.get(answer.get("Location").unwrap());
        assert_eq!((done.status, done.get("Location")), (201, Some("/redfish/v1/Oem/Salp/Images/k")));
        let image = client.read("/redfish/v1/Oem/Salp/Images/k");
        assert_eq!(
            (&image["Kind"], &image["State"], &image["SizeBytes"]),
            (&json!("Kernel"), &json!("Ready"), &json!(3))
        );
        client.service.tidy(client.now);
        assert_eq!(client.post(IMAGES, order).status, 409, "it is there");
        for bad in
            [r#"{"Name":"k2"}"#, r#"{"Name":".k","ImageURI":"http://h/k"}"#, r#"{"Name":"k2","ImageURI":"ftp://h/k"}"#]
        {
            assert_eq!(client.post(IMAGES, bad).status, 400, "{bad}");
        }
    }

    #[test]
    fn bad_media_are_refused_at_once() {
        let mut client = Client::new(Role::Operator);
        for bad in [
            r#"{}"#,
            r#"{"Image":"ftp://h/x"}"#,
            r#"{"Image":"/etc/passwd"}"#,
            r#"{"Image":"/redfish/v1/Oem/Salp/Images/none"}"#,
            r#"{"Image":"http://h/x","WriteProtected":false}"#,
            r#"{"Image":"http://h/x","Inserted":false}"#,
            r#"{"Image":"http://h/x","TransferProtocolType":"HTTPS"}"#,
            r#"{"Image":"http://h/x","TransferMethod":"Stream"}"#,
            r#"{"Image":"http://h/x","Oem":{"Salp":{"SHA256":"7"}}}"#,
        ] {
            assert_eq!(client.post(INSERT, bad).status, 400, "{bad}");
        }
        for _ in 0..crate::media::jobs::MOST {
            assert_eq!(client.post(INSERT, r#"{"Image":"http://h/x"}"#).status, 202);
        }
        assert_eq!(client.post(INSERT, r#"{"Image":"http://h/x"}"#).status, 503);
        assert_eq!(client.get("/redfish/v1/Systems/2/VirtualMedia/Usb").status, 404);
    }
}
