//! Images of the machine and the management guest, as they run, wait or are kept. Before: [`table`](crate::table). After:
//! [`updates`](crate::updates).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use salp_hvc::update::{
    NO_SLOT, STANDBY_FAILED, STANDBY_PREVIOUS, STANDBY_STAGED, STANDBY_TRIAL, STANDBY_WRITING, SlotInfo, UpdateInfo,
};
use salp_json::{Value, json};

use super::managers::SALP;
use super::{Call, Outcome, collection};
use crate::auth::hex;
use crate::hypervisor::{Hypervisor, SlotChange, name_text};
use crate::message::Failure;
use crate::updates::{self, standby, stream};

/// Where images of the machine are.
pub const FIRMWARE: &str = "/redfish/v1/UpdateService/FirmwareInventory";
/// Where the rest is.
const SOFTWARE: &str = "/redfish/v1/UpdateService/SoftwareInventory";
/// What images are of.
pub const MANAGER: &str = SALP;

/// The names of the slots, and of an image that was not started from one.
const SLOTS: [&str; 2] = ["A", "B"];
const RUNNING: &str = "Running";
/// The name of the management guest.
const GUEST: &str = "ManagementGuest";
/// What identifies images of Salp.
const SALP_ID: &str = "salp";

/// Returns where the image in a slot is.
pub fn path(slot: u32) -> String {
    format!("{FIRMWARE}/{}", SLOTS.get(slot as usize).unwrap_or(&RUNNING))
}

/// Returns what is known of the slots, or that there are none.
fn slots(hypervisor: &dyn Hypervisor) -> Option<UpdateInfo> {
    hypervisor.slots().ok().filter(updates::is_enabled)
}

/// Returns the names of images.
fn names(hypervisor: &dyn Hypervisor) -> Vec<&'static str> {
    let Some(info) = slots(hypervisor) else { return Vec::from([RUNNING]) };
    let kept = |slot: &u32| updates::slot(&info, *slot).is_some();
    (0..2).filter(kept).map(|slot| SLOTS[slot as usize]).collect()
}

/// Lists images of the machine.
pub fn firmware(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = names(call.hypervisor).into_iter().map(|name| format!("{FIRMWARE}/{name}"));
    Ok(Outcome::Resource(collection(FIRMWARE, "SoftwareInventoryCollection", "Images of the machine", members)))
}

/// Lists what else there is.
pub fn software(_: &mut Call<'_>) -> Result<Outcome, Failure> {
    let members = [format!("{SOFTWARE}/{GUEST}")].into_iter();
    Ok(Outcome::Resource(collection(SOFTWARE, "SoftwareInventoryCollection", "Software", members)))
}

/// Returns what all of them say.
fn inventory(path: &str, name: &str, version: &str) -> Value {
    json!({
        "@odata.id": path.to_string(),
        "@odata.type": "#SoftwareInventory.v1_13_0.SoftwareInventory",
        "Id": path.rsplit('/').next().map(ToString::to_string),
        "Name": name.to_string(),
        "Manufacturer": "Salp",
        "SoftwareId": SALP_ID,
        "Version": version.to_string(),
        "Status": { "State": "Enabled", "Health": "OK" },
        "RelatedItem": [{ "@odata.id": MANAGER }],
    })
}

/// Returns the word for what a slot is good for, and the standard's words for that.
fn standing(info: &UpdateInfo, slot: u32) -> (&'static str, &'static str, &'static str) {
    let is_running = slot == info.running.get();
    if slot == info.confirmed.get() {
        return ("Confirmed", if is_running { "Enabled" } else { "StandbySpare" }, "OK");
    }
    match info.standby.get() {
        STANDBY_TRIAL if is_running => ("Trial", "Enabled", "OK"),
        STANDBY_TRIAL => ("Trial", "StandbySpare", "OK"),
        STANDBY_STAGED => ("Staged", "StandbyOffline", "OK"),
        STANDBY_PREVIOUS => ("Previous", "StandbyOffline", "OK"),
        STANDBY_WRITING => ("Empty", "Updating", "OK"),
        STANDBY_FAILED => ("Failed", "Disabled", "Critical"),
        _ => ("Empty", "Disabled", "OK"),
    }
}

/// Answers an image of the machine.
pub fn image(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let name = call.variables[0];
    let known = names(call.hypervisor).into_iter().find(|known| *known == name).ok_or_else(|| call.missing())?;
    let path = format!("{FIRMWARE}/{known}");
    let slot = SLOTS.iter().position(|slot| *slot == known);
    let found =
        slots(call.hypervisor).zip(slot).and_then(|(info, slot)| Some((info, slot as u32, *info.slots.get(slot)?)));
    let Some((info, slot, kept)) = found else {
        let mut value = inventory(&path, "The image that runs", env!("CARGO_PKG_VERSION"));
        (value["Active"], value["Staged"], value["Updateable"]) = (true.into(), false.into(), false.into());
        return Ok(Outcome::Resource(value));
    };
    Ok(Outcome::Resource(value(&info, slot, &kept, &path)))
}

fn value(info: &UpdateInfo, slot: u32, kept: &SlotInfo, path: &str) -> Value {
    let (word, state, health) = standing(info, slot);
    let is_running = info.running.get() == slot;
    let mut value =
        inventory(path, &format!("The image in slot {}", SLOTS[slot as usize & 1]), name_text(&kept.version));
    value["Active"] = is_running.into();
    value["Staged"] = (!is_running && matches!(word, "Staged" | "Trial")).into();
    value["Updateable"] = true.into();
    value["SizeBytes"] = kept.size.get().into();
    value["Status"] = json!({ "State": state, "Health": health });
    value["Oem"] = json!({ "Salp": {
        "@odata.type": "#SalpSoftwareInventory.v1_0_0.SalpSoftwareInventory",
        "Standing": word,
        "Attempts": if matches!(word, "Trial") { info.attempts.get() } else { 0 },
        "SecurityCounter": kept.counter.get(),
        "SHA256": hex(&kept.digest),
    } });
    value
}

/// Answers the management guest.
pub fn guest(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    if call.variables[0] != GUEST {
        return Err(call.missing());
    }
    let mut value = inventory(&format!("{SOFTWARE}/{GUEST}"), "The management guest", env!("CARGO_PKG_VERSION"));
    // It comes in the image of the machine.
    (value["Active"], value["Updateable"]) = (true.into(), false.into());
    Ok(Outcome::Resource(value))
}

/// Adds links to images to those of the manager.
pub fn link(hypervisor: &dyn Hypervisor, links: &mut Value) {
    let running = slots(hypervisor).map_or(NO_SLOT, |info| info.running.get());
    links["ActiveSoftwareImage"] = json!({ "@odata.id": path(running) });
    links["SoftwareImages"] =
        names(hypervisor).iter().map(|name| json!({ "@odata.id": format!("{FIRMWARE}/{name}") })).collect();
}

/// Lets the next reset start this image, and returns whether a reset is needed for that.
pub fn activate(hypervisor: &mut dyn Hypervisor, image: &str) -> Result<bool, Failure> {
    let missing = || Failure::new(400, "ResourceNotFound", &["SoftwareInventory", image]);
    let info = updates::known(hypervisor)?;
    let slot = (0..2).find(|&slot| path(slot) == image && updates::slot(&info, slot).is_some()).ok_or_else(missing)?;
    let is_on_trial = info.standby.get() == STANDBY_TRIAL;
    let change = match slot == standby(&info) {
        true if is_on_trial => return Ok(slot != info.running.get()),
        true => SlotChange::Activate,
        false if is_on_trial => SlotChange::Cancel,
        false => return Ok(false),
    };
    hypervisor.change_slots(change).map_err(|why| stream::refused(hypervisor, why))?;
    Ok(slot != info.running.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::http::Method;
    use crate::resources::managers::RESET_ACTION;
    use crate::resources::updates::tests::{BUNDLE, push};
    use crate::testing::{Client, json};
    use crate::updates::WELL;
    use alloc::string::ToString;
    use serde_json::json;

    /// Resets the machine, and looks at it for so long as a trial takes.
    fn reset(client: &mut Client) {
        assert_eq!(client.post(RESET_ACTION, r#"{"ResetType":"ForceRestart"}"#).status, 204);
        client.service.appliance.reached.ipv4 = Some((core::net::Ipv4Addr::LOCALHOST, 8));
        for _ in 0..WELL + 3 {
            client.now += 1;
            client.service.go_on(client.now);
        }
    }

    fn active(client: &mut Client) -> String {
        client.read(SALP)["Links"]["ActiveSoftwareImage"]["@odata.id"].as_str().unwrap().to_string()
    }

    #[test]
    fn one_goes_back_by_saying_which_image_is_active() {
        let mut client = Client::new(Role::Administrator);
        assert_eq!(push(&mut client, "{}", BUNDLE).status, 202);
        while client.service.work(client.now) {}
        reset(&mut client);
        assert_eq!(active(&mut client), path(1));
        let old = client.read(&path(0));
        assert_eq!((&old["Active"], &old["Oem"]["Salp"]["Standing"]), (&json!(false), &json!("Previous")));
        let body = format!(r#"{{"Links":{{"ActiveSoftwareImage":{{"@odata.id":"{}"}}}}}}"#, path(0));
        let patch = client.request(Method::Patch, SALP, &body);
        let answer = client.send(&patch);
        let message = &json(&answer)["@Message.ExtendedInfo"][0];
        assert_eq!((answer.status, &message["MessageId"]), (200, &json!("Base.1.19.ResetRequired")));
        assert_eq!(message["MessageArgs"], json!([RESET_ACTION, "ForceRestart"]));
        reset(&mut client);
        assert_eq!(active(&mut client), path(0));
        assert_eq!(client.read(&path(1))["Oem"]["Salp"]["Standing"], "Previous");
    }

    #[test]
    fn an_image_that_is_nowhere_is_not_activated() {
        let mut client = Client::new(Role::Administrator);
        let mut patch = |image: &str| {
            let body = format!(r#"{{"Links":{{"ActiveSoftwareImage":{{"@odata.id":"{image}"}}}}}}"#);
            client.send(&client.request(Method::Patch, SALP, &body)).status
        };
        assert_eq!([patch(&path(1)), patch("/x"), patch(&path(0))], [400, 400, 200]);
    }

    #[test]
    fn a_machine_that_was_not_started_from_its_flash_has_the_image_that_runs() {
        let mut client = Client::without_flash();
        assert_eq!(client.read(FIRMWARE)["Members@odata.count"], 1);
        assert_eq!(active(&mut client), format!("{FIRMWARE}/Running"));
        assert_eq!(client.read(&format!("{FIRMWARE}/Running"))["Active"], true);
        assert_eq!(client.get(&path(0)).status, 404);
    }
}
