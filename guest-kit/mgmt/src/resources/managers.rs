//! The host: the one manager. Before: [`table`](crate::table). After: [`hypervisor`](crate::hypervisor).

use alloc::format;

use salp_hvc::calls::{WATCHDOG_ARMED, WATCHDOG_EXPIRED};
use salp_json::json;

use super::body::Body;
use super::fields::{Field, Shape, field, needed};
use super::hardware::CHASSIS;
use super::{Call, Outcome, collection, logs, read_time, software, systems, time, uuid};
use crate::hypervisor::MachinePower;
use crate::message::Failure;
use crate::service;
use crate::telemetry::figures;
use crate::updates::install;

/// Where the host is.
pub const SALP: &str = "/redfish/v1/Managers/salp";
/// What resets it.
pub const RESET_ACTION: &str = "/redfish/v1/Managers/salp/Actions/Manager.Reset";

/// How the clock is ahead of UTC: it shows that.
const OFFSETS: [&str; 1] = ["+00:00"];
/// What the clock can be set to: from 2020 up to where the clocks of guests end, in seconds since 1970.
const TIMES: core::ops::Range<u64> = 1_577_836_800..1 << 32;

/// What can become of the machine, and whether its guests are asked to shut down first.
const RESETS: [(&str, MachinePower, bool); 4] = [
    ("ForceRestart", MachinePower::Reset, false),
    ("GracefulRestart", MachinePower::Reset, true),
    ("ForceOff", MachinePower::Off, false),
    ("GracefulShutdown", MachinePower::Off, true),
];

/// Their names.
const RESET_TYPES: [&str; RESETS.len()] = {
    let mut names = [""; RESETS.len()];
    let mut index = 0;
    while index < RESETS.len() {
        names[index] = RESETS[index].0;
        index += 1;
    }
    names
};

/// What can be changed of the host.
pub const FIELDS: &[Field] = &[
    field("DateTime", Shape::Text("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})$")),
    field("DateTimeLocalOffset", Shape::Word(&OFFSETS)),
    field("Links", Shape::Object(&[field("ActiveSoftwareImage", Shape::Link)])),
];

/// What can become of the machine.
pub const RESET: &[Field] = &[needed("ResetType", Shape::Word(&RESET_TYPES))];

/// Lists managers.
pub fn list(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = [SALP.into()].into_iter();
    Ok(Outcome::Resource(collection("/redfish/v1/Managers", "ManagerCollection", "Managers", members)))
}

/// Answers the host.
pub fn salp(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let machine = call.hypervisor.machine().map_err(|refused| Failure::refused(refused, SALP))?;
    let is_so = |flag| machine.watchdog.get() & flag != 0;
    let mut value = json!({
        "@odata.id": SALP,
        "@odata.type": "#Manager.v1_24_0.Manager",
        "Id": "salp",
        "Name": "Salp",
        "ManagerType": "Service",
        "UUID": uuid(&call.facts.uuid),
        "FirmwareVersion": env!("CARGO_PKG_VERSION"),
        "PowerState": "On",
        "Status": { "State": "Enabled", "Health": if machine.starved.get() == 0 { "OK" } else { "Warning" } },
        "DateTime": time(call.now),
        "DateTimeLocalOffset": OFFSETS[0],
        "TimeZoneName": "UTC",
        "ServiceIdentification": "salp",
        "LogServices": { "@odata.id": logs::path(SALP) },
        "Links": {
            "ManagerForChassis": [{ "@odata.id": CHASSIS }],
            "ManagerInChassis": { "@odata.id": CHASSIS },
            "ManagerForServers": systems::links(call.hypervisor),
        },
        "Actions": { "#Manager.Reset": {
            "target": RESET_ACTION,
            "ResetType@Redfish.AllowableValues": RESETS.map(|(name, ..)| name),
        } },
        "NetworkProtocol": { "@odata.id": format!("{SALP}/NetworkProtocol") },
        "EthernetInterfaces": { "@odata.id": format!("{SALP}/EthernetInterfaces") },
        "Oem": { "Salp": {
            "@odata.type": "#SalpManager.v1_0_0.SalpManager",
            "Statistics": figures::of_machine(&machine),
            "Watchdog": { "FunctionEnabled": is_so(WATCHDOG_ARMED), "CausedLastReset": is_so(WATCHDOG_EXPIRED) },
        } },
    });
    software::link(call.hypervisor, &mut value["Links"]);
    Ok(Outcome::Resource(value))
}

/// Changes the clock, which shows UTC, or which image starts: after a reset, which is not made here.
pub fn patch(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_resource(call.request)?;
    let in_range = |seconds: &u64| TIMES.contains(seconds);
    let wanted = body.parsed("DateTime", |text| read_time(text).filter(in_range));
    body.word("DateTimeLocalOffset", &OFFSETS);
    let image = body.inside("Links", |body| body.link("ActiveSoftwareImage")).flatten();
    let ignored = body.finish_change()?;
    if let Some(wanted) = wanted {
        let time = wanted * 1_000_000_000;
        call.hypervisor.clock(Some(time)).map_err(|refused| Failure::refused(refused, SALP))?;
        call.auth.shift(wanted as i64 - call.now as i64);
        call.now = wanted;
    }
    let is_to_reset = match &image {
        Some(image) => software::activate(call.hypervisor, image)?,
        None => false,
    };
    let mut outcome = ignored.tell(salp(call)?);
    if let (true, Outcome::Resource(value)) = (is_to_reset, &mut outcome) {
        service::tag(value);
        let others = value["@Message.ExtendedInfo"].as_array().cloned().unwrap_or_default();
        value["@Message.ExtendedInfo"] = others.into_iter().chain([install::reset_required()]).collect();
    }
    Ok(outcome)
}

/// Resets the machine, or turns it off: at once, or when its guests have shut down.
pub fn reset(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_action(call.request, "Manager.Reset")?;
    let kind = body.needed_word("ResetType", &RESET_TYPES);
    body.finish()?;
    let missing = || Failure::new(400, "NoOperation", &[]);
    let (_, how, is_graceful) =
        RESETS.into_iter().find(|(name, ..)| Some(*name) == kind.as_deref()).ok_or_else(missing)?;
    call.appliance.leave(call.hypervisor, how, is_graceful, call.now);
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::http::Method;
    use crate::testing::{Client, json};
    use serde_json::json;

    #[test]
    fn whether_there_is_a_watchdog_and_what_it_did_is_told() {
        let told = |flags| Client::with_watchdog(flags).read(SALP)["Oem"]["Salp"]["Watchdog"].clone();
        let is = |enabled, caused| json!({ "FunctionEnabled": enabled, "CausedLastReset": caused });
        assert_eq!(told(0), is(false, false));
        assert_eq!(told(WATCHDOG_ARMED), is(true, false));
        assert_eq!(told(WATCHDOG_ARMED | WATCHDOG_EXPIRED), is(true, true));
    }

    #[test]
    fn the_clock_is_set_and_nobody_is_logged_out() {
        let mut client = Client::new(Role::Administrator);
        let patch = client.request(Method::Patch, SALP, r#"{"DateTime":"2027-01-01T00:00:00+01:00","Model":"x"}"#);
        let answer = client.send(&patch);
        let value = json(&answer);
        assert_eq!((answer.status, &value["DateTime"]), (200, &json!("2026-12-31T23:00:00Z")));
        assert!(value["Model@Message.ExtendedInfo"].is_array());
        client.now = 1_798_758_001;
        assert_eq!(client.get(SALP).status, 200);
        for bad in
            [r#"{"DateTime":"1999-01-01T00:00:00Z"}"#, r#"{"DateTime":7}"#, r#"{"DateTimeLocalOffset":"+01:00"}"#]
        {
            let patch = client.request(Method::Patch, SALP, bad);
            assert_eq!(client.send(&patch).status, 400, "{bad}");
        }
    }

    #[test]
    fn the_machine_goes_when_its_guests_have() {
        let mut client = Client::new(Role::Administrator);
        let reset = "/redfish/v1/Managers/salp/Actions/Manager.Reset";
        assert_eq!(client.post(reset, r#"{"ResetType":"GracefulRestart"}"#).status, 204);
        assert_eq!(client.read("/redfish/v1/Systems/2")["PowerState"], "Off", "it was asked to shut down");
        assert_eq!(client.post(reset, r#"{"ResetType":"Nmi"}"#).status, 400);
        assert_eq!(client.post(reset, r#"{"ResetType":"ForceRestart"}"#).status, 204);
        let now = client.now;
        client.service.go_on(now + 2);
        assert!(!client.service.appliance.is_leaving());
        assert_eq!(Client::new(Role::Operator).post(reset, r#"{"ResetType":"ForceRestart"}"#).status, 403);
    }
}
