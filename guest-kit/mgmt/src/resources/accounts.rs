//! Accounts and roles. Before: [`table`](crate::table). After: [`auth`](crate::auth).

use alloc::format;
use alloc::vec::Vec;

use serde_json::{Value, json};

use super::body::Body;
use super::{Call, Outcome, collection};
use crate::auth::{Right, Role};
use crate::message::Failure;

const SERVICE: &str = "/redfish/v1/AccountService";
const ACCOUNTS: &str = "/redfish/v1/AccountService/Accounts";
const ROLES: &str = "/redfish/v1/AccountService/Roles";

/// How many characters a password has.
const PASSWORD: core::ops::RangeInclusive<usize> = 8..=128;

/// Answers the service of accounts.
pub fn service(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    Ok(Outcome::Resource(json!({
        "@odata.id": SERVICE,
        "@odata.type": "#AccountService.v1_18_1.AccountService",
        "Id": "AccountService",
        "Name": "Accounts",
        "ServiceEnabled": true,
        "Status": { "State": "Enabled", "Health": "OK" },
        "MinPasswordLength": PASSWORD.start(),
        "MaxPasswordLength": PASSWORD.end(),
        "Accounts": { "@odata.id": ACCOUNTS },
        "Roles": { "@odata.id": ROLES },
    })))
}

/// Lists accounts.
pub fn list(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = call.auth.users().into_iter().map(|user| format!("{ACCOUNTS}/{user}"));
    Ok(Outcome::Resource(collection(ACCOUNTS, "ManagerAccountCollection", "Accounts", members)))
}

/// Returns an account as it is shown.
fn value(call: &Call<'_>) -> Result<Value, Failure> {
    let user = call.variables[0];
    let (role, version) = call.auth.account(user).ok_or_else(|| call.missing())?;
    let role = role.name();
    Ok(json!({
        "@odata.id": format!("{ACCOUNTS}/{user}"),
        "@odata.type": "#ManagerAccount.v1_14_1.ManagerAccount",
        // The password is not shown, and yet changes the account.
        "@odata.etag": format!("W/\"{version:016x}\""),
        "Id": user,
        "Name": "Account",
        "UserName": user,
        "Password": null,
        "PasswordChangeRequired": false,
        "RoleId": role,
        "Enabled": true,
        "Locked": false,
        "AccountTypes": ["Redfish"],
        "Links": { "Role": { "@odata.id": format!("{ROLES}/{role}") } },
    }))
}

/// Returns whether the caller may see the account in the path: it is the caller's own, or the caller may everything.
fn may(call: &Call<'_>) -> Result<(), Failure> {
    let may = |who: &crate::auth::Who| who.user == call.variables[0] || who.role.has(Right::ConfigureManager);
    if call.who.is_some_and(may) { Ok(()) } else { Err(Failure::new(403, "InsufficientPrivilege", &[])) }
}

/// Answers an account.
pub fn account(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    may(call)?;
    value(call).map(Outcome::Resource)
}

/// Gives an account another password. All its sessions end but the one that did it.
pub fn patch(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    may(call)?;
    let user = call.variables[0];
    let (role, _) = call.auth.account(user).ok_or_else(|| call.missing())?;
    let mut body = Body::of_resource(call.request)?;
    let password = body
        .text("Password", |text| PASSWORD.contains(&text.chars().count()) && !text.contains(|c: char| c.is_control()));
    body.finish()?;
    let password = password.ok_or(Failure::new(400, "NoOperation", &[]))?;
    if !call.auth.set(user, &password, role) {
        return Err(Failure::new(507, "ResourceExhaustion", &[&call.request.path]));
    }
    let own = call.who.and_then(|who| who.session.as_deref());
    call.auth.close_others(user, own);
    value(call).map(Outcome::Resource)
}

/// Lists roles.
pub fn roles(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = Role::ALL.iter().map(|(name, _)| format!("{ROLES}/{name}"));
    Ok(Outcome::Resource(collection(ROLES, "RoleCollection", "Roles", members)))
}

/// Answers a role.
pub fn role(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let id = call.variables[0];
    let &(_, role) = Role::ALL.iter().find(|(name, _)| *name == id).ok_or_else(|| call.missing())?;
    let rights = [
        ("Login", Right::Login),
        ("ConfigureSelf", Right::ConfigureSelf),
        ("ConfigureComponents", Right::ConfigureComponents),
        ("ConfigureManager", Right::ConfigureManager),
        // Who may change the service may change who uses it.
        ("ConfigureUsers", Right::ConfigureManager),
    ];
    let privileges: Vec<&str> = rights.iter().filter(|(_, right)| role.has(*right)).map(|(name, _)| *name).collect();
    Ok(Outcome::Resource(json!({
        "@odata.id": format!("{ROLES}/{id}"),
        "@odata.type": "#Role.v1_3_3.Role",
        "Id": id,
        "Name": id,
        "RoleId": id,
        "IsPredefined": true,
        "AssignedPrivileges": privileges,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Method;
    use crate::testing::Client;
    use alloc::string::ToString;

    const ADMIN: &str = "/redfish/v1/AccountService/Accounts/admin";

    #[test]
    fn another_password_opens_and_the_old_one_does_not() {
        let mut client = Client::new(Role::Administrator);
        let login = |client: &mut Client, password: &str| {
            let body = format!(r#"{{"UserName":"admin","Password":"{password}"}}"#);
            client.post("/redfish/v1/SessionService/Sessions", &body).status
        };
        assert_eq!(login(&mut client, "secret"), 201);
        let before = client.get(ADMIN).get("ETag").map(ToString::to_string);
        let mut patch = client.request(Method::Patch, ADMIN, r#"{"Password":"correct horse"}"#);
        patch.if_match = before.clone();
        assert_eq!(client.send(&patch).status, 200);
        assert_ne!(client.get(ADMIN).get("ETag").map(ToString::to_string), before);
        assert_eq!(client.send(&patch).status, 412);
        assert_eq!((login(&mut client, "secret"), login(&mut client, "correct horse")), (401, 201));
        // The other session ended, its own did not.
        assert_eq!(client.service.auth.sessions().len(), 2);
    }

    #[test]
    fn a_bad_password_changes_nothing() {
        let mut client = Client::new(Role::Administrator);
        let long = format!(r#"{{"Password":"{}"}}"#, "x".repeat(129));
        for body in ["{}", r#"{"Password":"short"}"#, r#"{"Password":7}"#, r#"{"Password":"12345678","X":1}"#, &long] {
            assert_eq!(client.send(&client.request(Method::Patch, ADMIN, body)).status, 400, "{body}");
        }
        let login = client.post("/redfish/v1/SessionService/Sessions", r#"{"UserName":"admin","Password":"secret"}"#);
        assert_eq!(login.status, 201);
    }

    #[test]
    fn an_account_is_its_users_own() {
        let mut client = Client::new(Role::ReadOnly);
        assert!(client.service.auth.set("boss", "secret", Role::Administrator));
        assert_eq!(client.read(ADMIN)["RoleId"], "ReadOnly");
        assert_eq!(client.get("/redfish/v1/AccountService/Accounts/boss").status, 403);
        assert_eq!(Client::new(Role::Administrator).get("/redfish/v1/AccountService/Accounts/no").status, 404);
    }

    #[test]
    fn roles_say_what_they_may() {
        let mut client = Client::new(Role::ReadOnly);
        let rights =
            |client: &mut Client, role: &str| client.read(&format!("{ROLES}/{role}"))["AssignedPrivileges"].clone();
        assert_eq!(rights(&mut client, "ReadOnly"), json!(["Login", "ConfigureSelf"]));
        assert_eq!(rights(&mut client, "Operator"), json!(["Login", "ConfigureSelf", "ConfigureComponents"]));
        assert_eq!(client.get("/redfish/v1/AccountService/Roles/Guest").status, 404);
    }
}
