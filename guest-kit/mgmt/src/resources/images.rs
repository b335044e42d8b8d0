//! The collection of images. Before: [`table`](crate::table). After: [`images`](crate::images).

use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;

use salp_hvc::manager::{ImageInfo, MAX_IMAGE};
use salp_hvc::status;
use salp_json::{Value, json};

use super::body::Body;
use super::fields::{Field, Shape, field, names, needed};
use super::{Call, Outcome, collection, media, time};
use crate::auth::hex;
use crate::http::Method;
use crate::hypervisor::{Hypervisor, Refused};
use crate::images::label::{Kind, Label};
use crate::images::upload::{self, Plan, Upload};
use crate::images::{self, IMAGES, Library};
use crate::media::fetch::Order;
use crate::media::jobs::Then;
use crate::media::url::{self, Url};
use crate::message::Failure;
use crate::systems;
use crate::table::Place;
use crate::tasks::fetch::Fetching;

/// What is said of bytes that come.
pub const PARAMETERS: &[(Method, Place, Field)] = &[
    (Method::Put, Place::Header, field("X-Salp-Kind", Shape::Word(&KINDS))),
    (Method::Put, Place::Header, field("X-Salp-Size", Shape::Number(1, MAX_IMAGE))),
    (Method::Put, Place::Header, field("X-Content-SHA256", Shape::Text("^[0-9a-f]{64}$"))),
    (Method::Patch, Place::Header, needed("Content-Range", Shape::Text("^bytes [0-9]+-[0-9]+/[0-9]+$"))),
];

/// Words for [`Kind`]s.
const KINDS: [&str; Kind::NAMES.len()] = names(&Kind::NAMES);

/// An image that is fetched.
pub const FETCHED: &[Field] = &[
    needed("Name", Shape::Text("^[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}$")),
    needed("ImageURI", Shape::Text("^https?://[!-~]+$")),
    field("Kind", Shape::Word(&KINDS)),
    field("SHA256", Shape::Text("^[0-9a-fA-F]{64}$")),
    field("UserName", Shape::Text("")),
    field("Password", Shape::Text("")),
];

/// Fetches an image, as a task.
pub fn fetch(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_resource(call.request)?;
    let name = body.needed_text("Name", images::is_name);
    let address = body.needed_text("ImageURI", |text| text.len() <= url::MAX && Url::parse(text).is_some());
    let kind = body.word("Kind", &KINDS);
    let digest = body.parsed("SHA256", |text| upload::hex_digest(text).ok());
    let authorization = media::login(&mut body);
    body.finish()?;
    let (name, address) = (name.unwrap_or_default(), address.unwrap_or_default());
    if images::find(call.hypervisor, &name).is_some() {
        return Err(images::taken(&name));
    }
    let url = Url::parse(&address).ok_or(Failure::new(400, "UnrecognizedRequestBody", &[]))?;
    let kind = kind.as_deref().and_then(Kind::new).unwrap_or(Kind::Raw);
    let order = Order { url, authorization, digest, image: Some((name, kind)) };
    call.fetch("Fetch an image", Fetching::new(order, &address, Then::Keep), false)
}

/// Lists images.
pub fn list(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    images::sweep(call.hypervisor, call.now);
    let members = images::visible(call.hypervisor).map(|(_, label)| images::path(&label));
    Ok(Outcome::Resource(collection(IMAGES, "SalpImageCollection", "Images", members)))
}

/// Returns an image as it is shown.
pub fn value(hypervisor: &dyn Hypervisor, library: &Library, info: &ImageInfo, label: &Label) -> Value {
    let is_finished = info.finished.get() == 1;
    let mut value = json!({
        "@odata.id": images::path(label),
        "@odata.type": "#SalpImage.v1_0_0.SalpImage",
        "Id": label.name().to_string(),
        "Name": label.name().to_string(),
        "Kind": label.kind().name(),
        "State": if is_finished { "Ready" } else { "Uploading" },
        "Status": { "State": if is_finished { "Enabled" } else { "Updating" }, "Health": "OK" },
        "SizeBytes": info.size.get(),
        "ReceivedBytes": label.received.get(),
        "Users": systems::users(hypervisor, library, info),
        "ModifiedTime": time(label.time.get()),
    });
    if is_finished {
        value["SHA256"] = hex(&label.digest).into();
    }
    value
}

fn find(call: &Call<'_>) -> Result<(ImageInfo, Label), Failure> {
    images::find(call.hypervisor, call.variables[0]).ok_or_else(|| call.missing())
}

/// Answers an image.
pub fn image(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    find(call).map(|(info, label)| Outcome::Resource(value(call.hypervisor, call.library, &info, &label)))
}

/// Removes an image, finished or not.
pub fn delete(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let (info, _) = find(call)?;
    let in_use = || Failure::because(409, "VMs or snapshots are made from the image: delete those first.");
    if systems::users(call.hypervisor, &Library::default(), &info) > 0 {
        return Err(in_use());
    }
    match call.hypervisor.delete_image(info.id.get()) {
        Ok(()) => Ok(Outcome::Done),
        Err(Refused(status::IN_USE)) => Err(in_use()),
        Err(refused) => Err(Failure::refused(refused, &call.request.path)),
    }
}

/// Reads what a request says of the bytes that it brings.
fn plan(call: &Call<'_>) -> Result<Plan, Failure> {
    let header = |name: &'static str| Failure::new(400, "HeaderInvalid", &[name]);
    let request = call.request;
    let mut digest = None;
    for name in ["repr-digest", "digest", "content-digest"] {
        let Some(text) = request.get(name) else { continue };
        // That is of the part, not of the whole.
        if name != "content-digest" || request.get("content-range").is_none() {
            digest = digest.or(upload::digest(text).map_err(|_| header("Digest"))?);
        }
    }
    if let Some(text) = request.get("x-content-sha256") {
        digest = Some(upload::hex_digest(text).map_err(|_| header("X-Content-SHA256"))?);
    }
    let plan = if let Some(text) = request.get("content-range") {
        let (first, length, size) = upload::content_range(text).ok_or(header("Content-Range"))?;
        if request.length.is_some_and(|known| known != length) {
            return Err(header("Content-Range"));
        }
        Plan { first, length: Some(length), size, digest }
    } else {
        let said = match request.get("x-salp-size") {
            Some(text) => Some(text.parse::<u64>().map_err(|_| header("X-Salp-Size"))?),
            None => None,
        };
        let why = "Say the size: by Content-Length, or by X-Salp-Size in front of chunks.";
        let size = request.length.or(said).ok_or(Failure::because(411, why))?;
        if said.is_some_and(|said| said != size) {
            return Err(header("X-Salp-Size"));
        }
        Plan { first: 0, length: Some(size), size, digest }
    };
    match plan.size {
        0 => Err(Failure::because(400, "An image has at least one byte.")),
        size if size > MAX_IMAGE => Err(Failure::because(413, "An image has at most 1 GiB.")),
        _ => Ok(plan),
    }
}

/// Makes an image, or goes on where one is.
pub fn put(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let name = call.variables[0];
    if !images::is_name(name) {
        return Err(Failure::because(
            400,
            "The name of an image is 1 to 63 of A-Z a-z 0-9 . _ - and begins with no dot.",
        ));
    }
    let plan = plan(call)?;
    let kind = match call.request.get("x-salp-kind") {
        Some(text) => Kind::new(text).ok_or(Failure::new(400, "HeaderInvalid", &["X-Salp-Kind"]))?,
        None => Kind::Raw,
    };
    images::sweep(call.hypervisor, call.now);
    let refused = |refused| Failure::refused(refused, IMAGES);
    let id = match images::find(call.hypervisor, name) {
        Some((info, _)) if info.finished.get() == 1 => {
            return Err(images::taken(name));
        }
        Some((info, label)) if plan.first > 0 => {
            let (received, size) = (label.received.get(), info.size.get());
            if (plan.first, plan.size) != (received, size) {
                let why = format!("{received} bytes of {size} are here: go on with bytes {received}-.");
                return Err(Failure::because(416, &why));
            }
            info.id.get()
        }
        Some((info, _)) => {
            // It begins anew.
            call.hypervisor.delete_image(info.id.get()).map_err(refused)?;
            call.hypervisor.create_image(plan.size, &Label::new(kind, name, call.now).bytes()).map_err(refused)?
        }
        None if plan.first > 0 => {
            return Err(Failure::because(416, "0 bytes are here: begin with bytes 0-."));
        }
        None => call.hypervisor.create_image(plan.size, &Label::new(kind, name, call.now).bytes()).map_err(refused)?,
    };
    Ok(Outcome::Body(Box::new(Upload::new(call.hypervisor, id, plan).map_err(refused)?)))
}

/// Goes on where an image is.
pub fn patch(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    find(call)?;
    if call.request.get("content-range").is_none() {
        let why = "Say which bytes come: Content-Range: bytes FIRST-LAST/SIZE.".to_string();
        return Err(Failure::because(400, &why));
    }
    put(call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::http::{Method, Request, Response};
    use crate::testing::{Client, json};
    use alloc::string::String;
    use alloc::vec::Vec;
    use serde_json::json;
    use sha2::{Digest, Sha256};

    fn upload(client: &Client, name: &str, body: &[u8], fields: &[(&'static str, &str)]) -> Request {
        let mut request = client.request(Method::Put, &format!("{IMAGES}/{name}"), "");
        request.body = body.to_vec();
        request.length = Some(body.len() as u64);
        for (name, value) in fields {
            request.others.push((name, value.to_string()));
        }
        request
    }

    fn put(client: &mut Client, name: &str, body: &[u8], fields: &[(&'static str, &str)]) -> Response {
        let request = upload(client, name, body, fields);
        client.send(&request)
    }

    #[test]
    fn an_image_is_kept_with_its_digest() {
        let mut client = Client::new(Role::Operator);
        let body: Vec<u8> = (0..200_000u32).map(|at| at as u8).collect();
        let digest = hex(&Sha256::digest(&body));
        let answer = put(&mut client, "k", &body, &[("x-content-sha256", &digest), ("x-salp-kind", "kernel")]);
        assert_eq!((answer.status, answer.get("Location")), (201, Some("/redfish/v1/Oem/Salp/Images/k")));
        let image = client.read("/redfish/v1/Oem/Salp/Images/k");
        assert_eq!((&image["SHA256"], &image["State"]), (&json!(digest), &json!("Ready")));
        assert_eq!((&image["SizeBytes"], &image["Kind"]), (&json!(200_000), &json!("Kernel")));
        assert_eq!(client.read(IMAGES)["Members"][0]["@odata.id"], "/redfish/v1/Oem/Salp/Images/k");
        assert_eq!(put(&mut client, "k", &body, &[]).status, 409);
    }

    #[test]
    fn an_image_with_another_digest_is_refused_and_gone() {
        let mut client = Client::new(Role::Operator);
        assert_eq!(put(&mut client, "k", b"abc", &[("x-content-sha256", &"0".repeat(64))]).status, 400);
        assert_eq!(client.get("/redfish/v1/Oem/Salp/Images/k").status, 404);
    }

    #[test]
    fn a_broken_upload_goes_on_where_it_was() {
        let mut client = Client::new(Role::Operator);
        let body: Vec<u8> = (0..5000u32).map(|at| (at / 7) as u8).collect();
        let digest = upload::digest_field(&Sha256::digest(&body).into());
        for (from, to) in [(0, 1001), (1001, 3000)] {
            let range = format!("bytes {from}-{}/5000", to - 1);
            assert_eq!(put(&mut client, "k", &body[from..to], &[("content-range", &range)]).status, 202);
        }
        let image = client.read("/redfish/v1/Oem/Salp/Images/k");
        assert_eq!((&image["State"], &image["ReceivedBytes"]), (&json!("Uploading"), &json!(3000)));
        let stale = put(&mut client, "k", &body[1001..], &[("content-range", "bytes 1001-4999/5000")]);
        assert_eq!(stale.status, 416);
        assert!(String::from_utf8(stale.body).unwrap().contains("3000 bytes of 5000 are here"));
        let last = [("content-range", "bytes 3000-4999/5000"), ("repr-digest", &*digest)];
        assert_eq!(put(&mut client, "k", &body[3000..], &last).status, 201);
        assert_eq!(client.read("/redfish/v1/Oem/Salp/Images/k")["State"], "Ready");
    }

    #[test]
    fn an_upload_that_another_overtakes_ends() {
        use crate::flow::Then;
        use crate::http::Serve;
        let mut client = Client::new(Role::Operator);
        let request = upload(&client, "k", b"abcdef", &[]);
        let first = client.service.at(0).begin(&request);
        let Then::Body(mut sink) = first.then else { panic!("{first:?}") };
        assert!(client.service.at(0).take(&mut *sink, b"abc").is_ok());
        assert_eq!(client.send(&request).status, 201);
        assert_eq!(client.service.at(0).take(&mut *sink, b"def").unwrap_err().status, 409);
    }

    #[test]
    fn an_upload_that_nobody_goes_on_with_is_removed() {
        let mut client = Client::new(Role::Operator);
        client.service.auth.timeout = 2 * images::PATIENCE;
        put(&mut client, "k", b"abc", &[("content-range", "bytes 0-2/9")]);
        client.now += images::PATIENCE;
        assert_eq!(client.read(IMAGES)["Members@odata.count"], 1);
        client.now += 1;
        assert_eq!(client.read(IMAGES)["Members@odata.count"], 0);
    }

    #[test]
    fn a_bad_upload_makes_nothing() {
        let mut client = Client::new(Role::Operator);
        for (name, body, field, status) in [
            (".k", &b"abc"[..], ("x", ""), 400),
            ("a%20b", b"abc", ("x", ""), 400),
            ("k", b"", ("x", ""), 400),
            ("k", b"abc", ("content-range", "bytes 0-3/9"), 400),
            ("k", b"abc", ("content-range", "bytes 3-5/9"), 416),
            ("k", b"abc", ("content-range", "bytes 0-2/1073741825"), 413),
            ("k", b"abc", ("content-range", "bytes 0-2/1073741824"), 507),
            ("k", b"abc", ("digest", "sha-256=x"), 400),
            ("k", b"abc", ("x-content-sha256", "0"), 400),
            ("k", b"abc", ("x-salp-kind", "disk"), 400),
            ("k", b"abc", ("x-salp-size", "4"), 400),
        ] {
            assert_eq!(put(&mut client, name, body, &[field]).status, status, "{name} {field:?}");
        }
        let mut request = upload(&client, "k", b"abc", &[]);
        request.length = None;
        assert_eq!(client.send(&request).status, 411);
        request.others.push(("x-salp-size", "2".into()));
        assert_eq!(client.send(&request).status, 400);
        let delete = client.request(Method::Delete, "/redfish/v1/Oem/Salp/Images/k", "");
        client.send(&delete);
        assert_eq!(client.read(IMAGES)["Members@odata.count"], 0);
        let mut reader = Client::new(Role::ReadOnly);
        assert_eq!(put(&mut reader, "k", b"abc", &[]).status, 403);
    }

    #[test]
    fn chunks_need_their_size_in_front() {
        let mut client = Client::new(Role::Operator);
        let mut request = upload(&client, "k", b"abc", &[("x-salp-size", "3")]);
        request.length = None;
        let answer = client.send(&request);
        assert_eq!((answer.status, &json(&answer)["SizeBytes"]), (201, &json!(3)));
    }
}
