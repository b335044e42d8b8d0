//! Accounts and roles. Before: [`table`](crate::table). After: [`auth`](crate::auth).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_json::{Value, json};

use super::body::Body;
use super::fields::{Field, LINE, Shape, field, needed};
use super::{Call, Outcome, collection};
use crate::auth::{LEAST_PASSWORD, MAX_ACCOUNTS, MOST_PASSWORD, Policy, Right, Role};
use crate::message::Failure;

const SERVICE: &str = "/redfish/v1/AccountService";
const ACCOUNTS: &str = "/redfish/v1/AccountService/Accounts";
const ROLES: &str = "/redfish/v1/AccountService/Roles";

/// The longest name of an account, as records keep it.
const MOST_USER: usize = 63;

/// What can be changed of the service.
pub const SERVICE_FIELDS: &[Field] = &[
    field("AccountLockoutThreshold", Shape::Number(0, 1000)),
    field("AccountLockoutDuration", Shape::Number(1, 86400)),
    field("AccountLockoutCounterResetAfter", Shape::Number(1, 86400)),
    field("MinPasswordLength", Shape::Number(LEAST_PASSWORD as u64, 64)),
];

const ROLE_NAMES: &[&str] = &[Role::ALL[0].0, Role::ALL[1].0, Role::ALL[2].0];

/// What a new account is made of.
pub const NEW_ACCOUNT: &[Field] = &[
    needed("UserName", Shape::Text("^(?!Members$)[A-Za-z0-9_@-][A-Za-z0-9._@-]{0,62}$")),
    needed("Password", Shape::Text(LINE)),
    needed("RoleId", Shape::Word(ROLE_NAMES)),
    field("Enabled", Shape::Flag),
    field("Locked", Shape::Only(false)),
    field("PasswordChangeRequired", Shape::Flag),
    field("AccountTypes", Shape::Words(&["Redfish"])),
];

/// What can be changed of an account.
pub const ACCOUNT_FIELDS: &[Field] = &[
    field("Password", Shape::Text(LINE)),
    field("RoleId", Shape::Word(ROLE_NAMES)),
    field("Enabled", Shape::Flag),
    field("Locked", Shape::Only(false)),
    field("PasswordChangeRequired", Shape::Flag),
];

/// Answers the service of accounts.
pub fn service(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let policy = &call.auth.policy;
    Ok(Outcome::Resource(json!({
        "@odata.id": SERVICE,
        "@odata.type": "#AccountService.v1_18_1.AccountService",
        "Id": "AccountService",
        "Name": "Accounts",
        "ServiceEnabled": true,
        "Status": { "State": "Enabled", "Health": "OK" },
        "AccountLockoutThreshold": policy.threshold,
        "AccountLockoutDuration": policy.duration,
        "AccountLockoutCounterResetAfter": policy.forget,
        "AccountLockoutCounterResetEnabled": true,
        "MinPasswordLength": policy.least,
        "MaxPasswordLength": MOST_PASSWORD,
        "SupportedAccountTypes": ["Redfish"],
        "LocalAccountAuth": "Enabled",
        "Accounts": { "@odata.id": ACCOUNTS },
        "Roles": { "@odata.id": ROLES },
    })))
}

/// Changes what is asked of passwords.
pub fn patch_service(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let old = call.auth.policy;
    let mut body = Body::of_resource(call.request)?;
    let threshold = body.number("AccountLockoutThreshold", 0..=1000);
    let duration = body.number("AccountLockoutDuration", 1..=86400);
    let forget = body.number("AccountLockoutCounterResetAfter", 1..=86400);
    let least = body.number("MinPasswordLength", LEAST_PASSWORD as u64..=64);
    let ignored = body.finish_change()?;
    let policy = Policy {
        // The ranges above fit.
        threshold: threshold.map_or(old.threshold, |count| count as u32),
        duration: duration.unwrap_or(old.duration),
        forget: forget.unwrap_or(old.forget),
        least: least.map_or(old.least, |count| count as usize),
    };
    if policy.forget > policy.duration {
        // The standard says so: who waits until the counter is reset must not be worse off than who waits for the lock.
        return Err(Failure::because(400, "AccountLockoutCounterResetAfter is at most AccountLockoutDuration."));
    }
    call.auth.policy = policy;
    call.auth.mark_changed();
    service(call).map(|outcome| ignored.tell(outcome))
}

/// Lists accounts.
pub fn list(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = call.auth.users().into_iter().map(|user| format!("{ACCOUNTS}/{user}"));
    Ok(Outcome::Resource(collection(ACCOUNTS, "ManagerAccountCollection", "Accounts", members)))
}

/// Returns where an account is.
pub fn path(user: &str) -> String {
    format!("{ACCOUNTS}/{user}")
}

/// Returns an account as it is shown.
fn value(call: &Call<'_>, user: &str) -> Result<Value, Failure> {
    let account = call.auth.account(user).ok_or_else(|| call.missing())?;
    let role = account.role.name();
    Ok(json!({
        "@odata.id": path(user),
        "@odata.type": "#ManagerAccount.v1_14_1.ManagerAccount",
        // The password is not shown, and yet changes the account.
        "@odata.etag": format!("W/\"{:016x}\"", account.version(call.now)),
        "Id": user.to_string(),
        "Name": "Account",
        "UserName": user.to_string(),
        "Password": null,
        "PasswordChangeRequired": account.must_change,
        "RoleId": role,
        "Enabled": account.is_enabled,
        "Locked": account.is_locked(call.now),
        "AccountTypes": ["Redfish"],
        "Links": { "Role": { "@odata.id": format!("{ROLES}/{role}") } },
    }))
}

/// What somebody wants an account to be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wish {
    password: Option<String>,
    role: Option<Role>,
    enabled: Option<bool>,
    must_change: Option<bool>,
    /// Accounts are locked by wrong passwords, not by people.
    unlock: bool,
}

fn wish(body: &mut Body, least: usize) -> Wish {
    let is_password = |text: &str| {
        (least..=MOST_PASSWORD).contains(&text.chars().count()) && !text.contains(|c: char| c.is_control())
    };
    let names = Role::ALL.map(|(name, _)| name);
    let role = body.word("RoleId", &names);
    Wish {
        password: body.text("Password", is_password),
        role: role.and_then(|name| Role::ALL.iter().find(|(known, _)| *known == name).map(|&(_, role)| role)),
        enabled: body.flag("Enabled"),
        must_change: body.flag("PasswordChangeRequired"),
        unlock: body.only_flag("Locked", false).is_some(),
    }
}

/// Returns whether this can be the name of an account, which is also its identifier.
fn is_user(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    (1..=MOST_USER).contains(&text.len()) && text.bytes().all(is_good) && !text.starts_with('.') && text != "Members"
}

/// Makes an account.
pub fn create(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_resource(call.request)?;
    let user = body.needed_text("UserName", is_user);
    let wish = wish(&mut body, call.auth.policy.least);
    body.words("AccountTypes", &["Redfish"]);
    body.needed("Password", &wish.password);
    body.needed("RoleId", &wish.role);
    body.finish()?;
    let (Some(user), Some(password), Some(role)) = (user, &wish.password, wish.role) else {
        return Err(Failure::new(400, "UnrecognizedRequestBody", &[]));
    };
    if call.auth.account(&user).is_some() {
        return Err(Failure::new(409, "ResourceAlreadyExists", &["ManagerAccount", "UserName", &user]));
    }
    if call.auth.users().len() >= MAX_ACCOUNTS {
        return Err(Failure::new(507, "CreateLimitReachedForResource", &[]));
    }
    if !call.auth.set(&user, password, role) {
        return Err(Failure::new(507, "ResourceExhaustion", &[ACCOUNTS]));
    }
    if let Some(account) = call.auth.account_mut(&user) {
        account.is_enabled = wish.enabled.unwrap_or(true);
        account.must_change = wish.must_change.unwrap_or(false);
    }
    Ok(Outcome::Created { value: value(call, &user)?, location: path(&user), token: None })
}

fn last() -> Failure {
    Failure::because(409, "It is the last account that can administer: make another one first.")
}

/// Removes an account; its sessions end.
pub fn delete(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let user = call.variables[0];
    call.auth.account(user).ok_or_else(|| call.missing())?;
    if call.auth.is_last(user) {
        return Err(last());
    }
    call.auth.remove(user);
    Ok(Outcome::Done)
}

/// Returns whether the caller may see the account in the path: it is the caller's own, or the caller may everything.
fn may(call: &Call<'_>) -> Result<(), Failure> {
    let may = |who: &crate::auth::Who| who.user == call.variables[0] || who.role.has(Right::ConfigureManager);
    if call.who.is_some_and(may) { Ok(()) } else { Err(Failure::new(403, "InsufficientPrivilege", &[])) }
}

/// Answers an account.
pub fn account(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    may(call)?;
    value(call, call.variables[0]).map(Outcome::Resource)
}

/// Changes an account: anybody the password of the own one, who may change the service the rest. All its sessions end; after
/// another password but the one that did it.
pub fn patch(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    may(call)?;
    let user = call.variables[0];
    let old = call.auth.account(user).ok_or_else(|| call.missing())?.clone();
    let mut body = Body::of_resource(call.request)?;
    let wish = wish(&mut body, call.auth.policy.least);
    let ignored = body.finish_change()?;
    let who = call.who.ok_or(Failure::new(403, "InsufficientPrivilege", &[]))?;
    let is_own = Wish { password: None, ..wish } == Wish::default();
    if !is_own && !who.role.has(Right::ConfigureManager) {
        return Err(Failure::new(403, "InsufficientPrivilege", &[]));
    }
    let role = wish.role.unwrap_or(old.role);
    let is_enabled = wish.enabled.unwrap_or(old.is_enabled);
    let must_change = wish.must_change.unwrap_or(old.must_change && wish.password.is_none());
    let administers = role == Role::Administrator && is_enabled;
    if !administers && call.auth.is_last(user) {
        return Err(last());
    }
    if let Some(password) = &wish.password
        && !call.auth.set(user, password, role)
    {
        return Err(Failure::new(507, "ResourceExhaustion", &[&call.request.path]));
    }
    if let Some(account) = call.auth.account_mut(user) {
        (account.role, account.is_enabled, account.must_change) = (role, is_enabled, must_change);
        if wish.unlock {
            account.locked_until = 0;
        }
    }
    if (role, is_enabled) != (old.role, old.is_enabled) {
        call.auth.close_others(user, None);
    } else if wish.password.is_some() {
        call.auth.close_others(user, who.session.as_deref());
    }
    value(call, user).map(|value| ignored.tell(Outcome::Resource(value)))
}

/// Lists roles.
pub fn roles(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = Role::ALL.iter().map(|(name, _)| format!("{ROLES}/{name}"));
    Ok(Outcome::Resource(collection(ROLES, "RoleCollection", "Roles", members)))
}

/// Answers a role.
pub fn role(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let &(id, role) = Role::ALL.iter().find(|(name, _)| *name == call.variables[0]).ok_or_else(|| call.missing())?;
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
    use serde_json::json;

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
        for body in ["{}", r#"{"Password":"short"}"#, r#"{"Password":7}"#, &long] {
            assert_eq!(client.send(&client.request(Method::Patch, ADMIN, body)).status, 400, "{body}");
        }
        let login = client.post("/redfish/v1/SessionService/Sessions", r#"{"UserName":"admin","Password":"secret"}"#);
        assert_eq!(login.status, 201);
    }

    fn change(client: &mut Client, user: &str, body: &str) -> u16 {
        client.send(&client.request(Method::Patch, &path(user), body)).status
    }

    fn make(client: &mut Client, user: &str, role: &str, rest: &str) -> u16 {
        let body = format!(r#"{{"UserName":"{user}","Password":"password","RoleId":"{role}"{rest}}}"#);
        client.post(ACCOUNTS, &body).status
    }

    /// Logs in, and returns a session's token.
    fn login(client: &mut Client, user: &str, password: &str) -> Option<String> {
        let body = format!(r#"{{"UserName":"{user}","Password":"{password}"}}"#);
        client.post("/redfish/v1/SessionService/Sessions", &body).get("X-Auth-Token").map(ToString::to_string)
    }

    fn status(client: &mut Client, token: &str, method: Method, target: &str, body: &str) -> u16 {
        let mut request = client.request(method, target, body);
        request.token = Some(token.to_string());
        client.send(&request).status
    }

    #[test]
    fn an_account_is_made_changed_and_removed_and_its_sessions_end() {
        let mut client = Client::new(Role::Administrator);
        assert_eq!(make(&mut client, "op", "Operator", r#","Enabled":true,"AccountTypes":["Redfish"]"#), 201);
        assert_eq!(make(&mut client, "op", "Operator", ""), 409);
        for (user, role) in [("op", "Guest"), ("", "Operator"), ("a b", "Operator"), ("Members", "Operator")] {
            assert_eq!(make(&mut client, user, role, ""), 400, "{user} {role}");
        }
        let token = login(&mut client, "op", "password").unwrap();
        assert_eq!(status(&mut client, &token, Method::Get, "/redfish/v1/Systems", ""), 200);
        assert_eq!(status(&mut client, &token, Method::Post, ACCOUNTS, "{}"), 403);
        assert_eq!(status(&mut client, &token, Method::Patch, &path("op"), r#"{"RoleId":"Administrator"}"#), 403);
        let before = client.read(&path("op"))["@odata.etag"].clone();
        assert_eq!(change(&mut client, "op", r#"{"RoleId":"ReadOnly"}"#), 200);
        assert_ne!(client.read(&path("op"))["@odata.etag"], before);
        assert_eq!(status(&mut client, &token, Method::Get, "/redfish/v1/Systems", ""), 401);
        assert_eq!(change(&mut client, "op", r#"{"Enabled":false}"#), 200);
        assert_eq!(login(&mut client, "op", "password"), None);
        assert_eq!(change(&mut client, "op", r#"{"Enabled":true}"#), 200);
        let token = login(&mut client, "op", "password").unwrap();
        let delete = client.request(Method::Delete, &path("op"), "");
        assert_eq!(client.send(&delete).status, 204);
        assert_eq!(status(&mut client, &token, Method::Get, "/redfish/v1/Systems", ""), 401);
        assert_eq!(client.send(&delete).status, 404);
    }

    #[test]
    fn the_last_administrator_stays() {
        let mut client = Client::new(Role::Administrator);
        assert_eq!(make(&mut client, "off", "Administrator", r#","Enabled":false"#), 201);
        assert_eq!(client.send(&client.request(Method::Delete, ADMIN, "")).status, 409);
        assert_eq!(change(&mut client, "admin", r#"{"RoleId":"Operator"}"#), 409);
        assert_eq!(change(&mut client, "admin", r#"{"Enabled":false}"#), 409);
        assert_eq!(change(&mut client, "off", r#"{"Enabled":true}"#), 200);
        assert_eq!(client.send(&client.request(Method::Delete, ADMIN, "")).status, 204);
    }

    #[test]
    fn who_has_to_change_the_password_does_nothing_else_before() {
        let mut client = Client::new(Role::Administrator);
        assert_eq!(make(&mut client, "new", "Operator", r#","PasswordChangeRequired":true"#), 201);
        let answer = client.post("/redfish/v1/SessionService/Sessions", r#"{"UserName":"new","Password":"password"}"#);
        let message = &crate::testing::json(&answer)["@Message.ExtendedInfo"][0]["MessageId"];
        assert_eq!(message, "Base.1.19.PasswordChangeRequired");
        let token = answer.get("X-Auth-Token").unwrap().to_string();
        assert_eq!(status(&mut client, &token, Method::Get, "/redfish/v1/Systems", ""), 403);
        assert_eq!(status(&mut client, &token, Method::Get, ADMIN, ""), 403);
        assert_eq!(status(&mut client, &token, Method::Get, &path("new"), ""), 200);
        assert_eq!(status(&mut client, &token, Method::Patch, &path("new"), r#"{"Password":"another one"}"#), 200);
        assert_eq!(status(&mut client, &token, Method::Get, "/redfish/v1/Systems", ""), 200);
        assert_eq!(client.read(&path("new"))["PasswordChangeRequired"], false);
    }

    #[test]
    fn an_account_is_locked_as_the_policy_says_and_unlocked_by_an_administrator() {
        let mut client = Client::new(Role::Administrator);
        assert_eq!(make(&mut client, "op", "Operator", ""), 201);
        let policy =
            r#"{"AccountLockoutThreshold":2,"AccountLockoutDuration":500,"AccountLockoutCounterResetAfter":400}"#;
        assert_eq!(client.send(&client.request(Method::Patch, SERVICE, policy)).status, 200);
        assert_eq!(client.read(SERVICE)["AccountLockoutThreshold"], 2);
        assert!(login(&mut client, "op", "wrong").is_none() && login(&mut client, "op", "wrong").is_none());
        assert_eq!(
            (client.read(&path("op"))["Locked"].clone(), login(&mut client, "op", "password")),
            (json!(true), None)
        );
        assert_eq!(change(&mut client, "op", r#"{"Locked":true}"#), 400);
        assert_eq!(change(&mut client, "op", r#"{"Locked":false}"#), 200);
        assert!(login(&mut client, "op", "password").is_some());
    }

    #[test]
    fn passwords_are_as_long_as_the_policy_says() {
        let mut client = Client::new(Role::Administrator);
        let patch = client.request(Method::Patch, SERVICE, r#"{"MinPasswordLength":12}"#);
        assert_eq!(client.send(&patch).status, 200);
        assert_eq!(change(&mut client, "admin", r#"{"Password":"elevenchars"}"#), 400);
        assert_eq!(change(&mut client, "admin", r#"{"Password":"twelve chars"}"#), 200);
        for bad in ["{}", r#"{"MinPasswordLength":7}"#, r#"{"AccountLockoutDuration":5}"#, r#"{"X":1}"#] {
            assert_eq!(client.send(&client.request(Method::Patch, SERVICE, bad)).status, 400, "{bad}");
        }
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
