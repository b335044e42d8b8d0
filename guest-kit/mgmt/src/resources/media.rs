//! Drives of VMs. Before: [`table`](crate::table). After: [`media`](crate::media), [`hypervisor`](crate::hypervisor).

use alloc::format;
use alloc::string::{String, ToString};

use base64ct::{Base64, Encoding};
use serde_json::{Value, json};

use super::body::Body;
use super::fields::{Field, Shape, field, needed};
use super::systems::{find, path};
use super::{Call, Outcome, collection};
use crate::flow;
use crate::http::Response;
use crate::hypervisor;
use crate::images::label::Label;
use crate::images::upload::hex_digest;
use crate::images::{self, IMAGES};
use crate::media;
use crate::media::fetch::Order;
use crate::media::jobs;
use crate::media::url::{self, Url};
use crate::message::Failure;

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
        "@odata.id": path,
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
    let (user, password) = (body.text("UserName", |_| true), body.text("Password", |_| true));
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
    let authorization = user.map(|user| {
        let login = format!("{user}:{}", password.unwrap_or_default());
        format!("Basic {}", Base64::encode_string(login.as_bytes()))
    });
    let order = Order { url, authorization, digest: digest.flatten().flatten() };
    later(call, order, &image, jobs::Then::Insert(id))
}

/// Begins a job, and answers when it has come to its end.
pub fn later(call: &mut Call<'_>, order: Order, address: &str, then: jobs::Then) -> Result<Outcome, Failure> {
    let job = call.jobs.begin(order, address, then)?;
    Ok(Outcome::Answer(Response { then: flow::Then::Later(job), ..Response::new(202) }))
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
    use crate::http::Method;
    use crate::media::fetch::{Link, Wire};
    use crate::media::url::Url;
    use crate::testing::Client;
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

    /// A server that answers everything with these bytes.
    struct Server(Vec<u8>);

    impl Wire for Server {
        fn open(&mut self, _: &Url) {}
        fn link(&mut self) -> Link {
            if self.0.is_empty() { Link::Closed } else { Link::Open }
        }
        fn send(&mut self, bytes: &[u8]) -> usize {
            bytes.len()
        }
        fn receive(&mut self, to: &mut Vec<u8>, most: usize) {
            let count = self.0.len().min(most);
            to.extend(self.0.drain(..count));
        }
        fn close(&mut self) {}
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
        let Then::Later(job) = answer.then else { panic!("{answer:?}") };
        let mut server = Server(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc".to_vec());
        assert!(client.service.jobs.is_busy() && client.service.at(5).poll_job(job).is_none());
        for now in 0..10 {
            client.service.drive_job(0, &mut server, now, 5);
        }
        assert_eq!(client.service.at(5).poll_job(job).map(|answer| answer.status), Some(204));
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
        let Then::Later(job) = answer.then else { panic!("{answer:?}") };
        let mut server = Server(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec());
        for now in 0..10 {
            client.service.drive_job(0, &mut server, now, 5);
        }
        assert_eq!(client.service.at(5).poll_job(job).map(|answer| answer.status), Some(400));
        assert_eq!(client.read(DRIVE)["Inserted"], false);
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
