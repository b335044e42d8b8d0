//! Sessions. Before: [`table`](crate::table). After: [`auth`](crate::auth).

use alloc::format;
use alloc::string::ToString;

use salp_json::{Value, json};

use super::body::Body;
use super::fields::{Field, Shape, field, needed};
use super::{Call, Outcome, accounts, collection, time};
use crate::auth::{Right, Session};
use crate::message::{Failure, Message};

const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";

/// What can be changed of the service.
pub const SERVICE_FIELDS: &[Field] = &[field("SessionTimeout", Shape::Number(30, 86400))];

/// What opens a session.
pub const LOGIN: &[Field] =
    &[needed("UserName", Shape::Text("^.{0,64}$")), needed("Password", Shape::Text("^.{0,256}$"))];

/// Answers the service of sessions.
pub fn service(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Resource(json!({
        "@odata.id": "/redfish/v1/SessionService",
        "@odata.type": "#SessionService.v1_2_0.SessionService",
        "Id": "SessionService",
        "Name": "Sessions",
        "ServiceEnabled": true,
        "Status": { "State": "Enabled", "Health": "OK" },
        "SessionTimeout": call.auth.timeout,
        "Sessions": { "@odata.id": SESSIONS },
    })))
}

/// Changes how long sessions live.
pub fn patch_service(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_resource(call.request)?;
    let timeout = body.number("SessionTimeout", 30..=86400);
    let ignored = body.finish_change()?;
    call.auth.timeout = timeout.unwrap_or(call.auth.timeout);
    call.auth.mark_changed();
    service(call).map(|outcome| ignored.tell(outcome))
}

/// Lists sessions.
pub fn list(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = call.auth.sessions().into_iter().map(|id| format!("{SESSIONS}/{id}"));
    Ok(Outcome::Resource(collection(SESSIONS, "SessionCollection", "Sessions", members)))
}

fn value(id: &str, session: &Session) -> Value {
    json!({
        "@odata.id": format!("{SESSIONS}/{id}"),
        "@odata.type": "#Session.v1_8_0.Session",
        "Id": id.to_string(),
        "Name": "Session",
        "UserName": &session.user,
        "SessionType": "Redfish",
        "CreatedTime": time(session.created),
    })
}

/// Logs in.
pub fn create(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_resource(call.request)?;
    let user = body.needed_text("UserName", |text| text.len() <= 64);
    let password = body.needed_text("Password", |text| text.len() <= 256);
    body.finish()?;
    let (user, password) = user.zip(password).ok_or(Failure::new(400, "UnrecognizedRequestBody", &[]))?;
    let opened = call.auth.open(&user, &password, call.now).map_err(|_| Failure::new(401, "NoValidSession", &[]))?;
    let (id, token) = opened.ok_or(Failure::new(503, "CreateLimitReachedForResource", &[]))?;
    let session = call.auth.session(&id).ok_or(call.missing())?;
    let mut value = value(&id, session);
    if call.auth.account(&user).is_some_and(|account| account.must_change) {
        let message = Message::new("PasswordChangeRequired", &[&accounts::path(&user)]);
        value["@Message.ExtendedInfo"] = json!([message.value()]);
    }
    Ok(Outcome::Created { value, location: format!("{SESSIONS}/{id}"), token: Some(token) })
}

/// Returns whether the caller may see the session in the path: it is the caller's own, or the caller may everything.
fn may(call: &Call<'_>) -> Result<(), Failure> {
    let session = call.auth.session(call.variables[0]).ok_or_else(|| call.missing())?;
    let may = |who: &crate::auth::Who| who.user == session.user || who.role.has(Right::ConfigureManager);
    if call.who.is_some_and(may) { Ok(()) } else { Err(Failure::new(403, "InsufficientPrivilege", &[])) }
}

/// Answers one session.
pub fn session(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    may(call)?;
    let id = call.variables[0];
    call.auth.session(id).map(|session| Outcome::Resource(value(id, session))).ok_or_else(|| call.missing())
}

/// Logs out.
pub fn delete(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    may(call)?;
    call.auth.close(call.variables[0]);
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::http::Method;
    use crate::testing::{Client, json, keys};

    const SESSIONS: &str = super::SESSIONS;

    #[test]
    fn logging_in_gives_a_token_that_opens_and_logging_out_ends_it() {
        let mut client = Client::stranger();
        for target in [SESSIONS, "/redfish/v1/SessionService/Sessions/Members"] {
            let login = client.post(target, r#"{"UserName":"admin","Password":"secret"}"#);
            assert_eq!(login.status, 201);
            assert_eq!(login.get("Location"), json(&login)["@odata.id"].as_str());
            let location = login.get("Location").unwrap();
            let mut request = client.request(Method::Get, location, "");
            request.token = login.get("X-Auth-Token").map(Into::into);
            assert_eq!(json(&client.send(&request))["UserName"], "admin");
            request.method = Method::Delete;
            assert_eq!(client.send(&request).status, 204);
            assert_eq!(client.send(&request).status, 401);
        }
    }

    #[test]
    fn a_bad_login_is_refused_with_a_reason() {
        let mut client = Client::stranger();
        let mut login = |body: &str| {
            let answer = client.post(SESSIONS, body);
            (answer.status, keys(&answer).concat())
        };
        assert_eq!(login(r#"{"UserName":"admin","Password":"wrong"}"#), (401, "NoValidSession".into()));
        assert_eq!(login(r#"{"UserName":"admin"}"#), (400, "PropertyMissing".into()));
        assert_eq!(login(r#"{"UserName":1,"Password":"secret"}"#), (400, "PropertyValueTypeError".into()));
        assert_eq!(login(r#"{"UserName":"a","Password":"b","C":1}"#), (400, "PropertyUnknown".into()));
        assert_eq!(login(r#"{"UserName":"#), (400, "MalformedJSON".into()));
        assert_eq!(login(r#"[]"#), (400, "UnrecognizedRequestBody".into()));
        assert_eq!(login(&"[".repeat(60000)), (400, "MalformedJSON".into()));
        assert_eq!(login(""), (400, "MalformedJSON".into()));
    }

    #[test]
    fn the_time_that_sessions_live_can_be_changed_within_limits() {
        let mut client = Client::new(Role::Administrator);
        let patch = |client: &mut Client, body| {
            let answer = client.send(&client.request(Method::Patch, "/redfish/v1/SessionService", body));
            (answer.status, if answer.status == 200 { "".into() } else { keys(&answer).concat() })
        };
        assert_eq!(patch(&mut client, r#"{"SessionTimeout":60}"#).0, 200);
        assert_eq!(client.read("/redfish/v1/SessionService")["SessionTimeout"], 60);
        assert_eq!(patch(&mut client, r#"{"SessionTimeout":1}"#), (400, "PropertyValueFormatError".into()));
        assert_eq!(patch(&mut client, r#"{}"#), (400, "NoOperation".into()));
        client.now += 61;
        assert_eq!(client.get("/redfish/v1/SessionService").status, 401);
    }
}
