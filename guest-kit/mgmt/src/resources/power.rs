//! A VM's power. Before: [`table`](crate::table). After: [`hypervisor`](crate::hypervisor).

use salp_hvc::calls::{STATE_NO_MEMORY, STATE_OFF, STATE_RUNNING};

use super::body::Body;
use super::fields::{Field, Shape, field, needed};
use super::systems::{act, find};
use super::{Call, Outcome};
use crate::hypervisor::{Answer, Hypervisor, Signal};
use crate::message::Failure;

type Act = fn(&mut dyn Hypervisor, u64) -> Answer<()>;

/// What a VM's power can be changed to, the states in which nothing has to be done for it, and what is done else. Whether it
/// can be done in the VM's present state, the hypervisor says.
const RESETS: [(&str, &[u32], Act); 7] = [
    ("On", &[STATE_RUNNING, STATE_NO_MEMORY], |hypervisor, id| hypervisor.start(id)),
    ("ForceOff", &[STATE_OFF], |hypervisor, id| hypervisor.stop(id)),
    ("GracefulShutdown", &[STATE_OFF], |hypervisor, id| hypervisor.signal(id, Signal::Shutdown)),
    ("GracefulRestart", &[], |hypervisor, id| hypervisor.signal(id, Signal::Restart)),
    // Whoever wants it to run anew wants it to run.
    ("ForceRestart", &[], |hypervisor, id| hypervisor.reset(id).or_else(|_| hypervisor.start(id))),
    ("Pause", &[], |hypervisor, id| hypervisor.freeze(id)),
    ("Resume", &[], |hypervisor, id| hypervisor.unfreeze(id)),
];

/// Their names.
pub const RESET_TYPES: [&str; RESETS.len()] = {
    let mut names = [""; RESETS.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = RESETS[index].0;
        index += 1;
    }
    names
};

/// What a change of power is told.
pub const RESET: &[Field] = &[needed("ResetType", Shape::Word(&RESET_TYPES)), field("Action", Shape::Word(&ACTIONS))];

/// MAAS says once more which action it is.
const ACTIONS: [&str; 1] = ["Reset"];

/// Changes a VM's power.
pub fn reset(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    let mut body = Body::of_action(call.request, "ComputerSystem.Reset")?;
    let kind = body.needed_word("ResetType", &RESET_TYPES);
    body.word("Action", &ACTIONS);
    body.finish()?;
    let state = find(call)?.state.get();
    let missing = || Failure::new(400, "NoOperation", &[]);
    let (_, idle, reset) = RESETS.iter().find(|(name, ..)| Some(*name) == kind.as_deref()).ok_or_else(missing)?;
    if idle.contains(&state) { Ok(Outcome::Done) } else { act(call, *reset) }
}

/// Freezes a VM.
pub fn freeze(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Body::of_action(call.request, "SalpComputerSystem.Freeze")?.finish()?;
    act(call, |hypervisor, id| hypervisor.freeze(id))
}

/// Lets a frozen VM go on.
pub fn unfreeze(call: &mut Call<'_>) -> Result<Outcome, Failure> {
    Body::of_action(call.request, "SalpComputerSystem.Unfreeze")?.finish()?;
    act(call, |hypervisor, id| hypervisor.unfreeze(id))
}

#[cfg(test)]
mod tests {
    use crate::auth::Role;
    use crate::testing::{Client, keys};
    use alloc::format;

    fn action(name: &str) -> alloc::string::String {
        format!("/redfish/v1/Systems/2/Actions/Oem/SalpComputerSystem.{name}")
    }

    #[test]
    fn pausing_and_resuming_follow_each_other() {
        let mut client = Client::new(Role::Operator);
        let reset = "/redfish/v1/Systems/2/Actions/ComputerSystem.Reset";
        assert_eq!(client.post(reset, r#"{"Action":"Reset","ResetType":"Pause"}"#).status, 204);
        assert_eq!(client.read("/redfish/v1/Systems/2")["PowerState"], "Paused");
        assert_eq!(client.post(reset, r#"{"ResetType":"Pause"}"#).status, 409);
        assert_eq!(client.post(reset, r#"{"ResetType":"Resume"}"#).status, 204);
        assert_eq!(client.post(&action("Freeze"), "").status, 204);
        assert_eq!(client.post(&action("Unfreeze"), "{}").status, 204);
        assert_eq!(client.read("/redfish/v1/Systems/2")["PowerState"], "On");
    }

    #[test]
    fn a_bad_reset_says_what_to_change() {
        let mut client = Client::new(Role::Operator);
        let mut reset = |body: &str| {
            let answer = client.post("/redfish/v1/Systems/2/Actions/ComputerSystem.Reset", body);
            (answer.status, keys(&answer).concat())
        };
        assert_eq!(reset("{}"), (400, "ActionParameterMissing".into()));
        assert_eq!(reset(r#"{"ResetType":"Nmi"}"#), (400, "ActionParameterValueNotInList".into()));
        assert_eq!(reset(r#"{"ResetType":7}"#), (400, "ActionParameterValueTypeError".into()));
        assert_eq!(reset(r#"{"ResetType":"Pause","X":1}"#), (400, "ActionParameterUnknown".into()));
    }

    #[test]
    fn power_goes_off_and_on_and_saying_it_twice_does_no_harm() {
        let mut client = Client::new(Role::Operator);
        let mut reset = |kind: &str| {
            let body = format!(r#"{{"ResetType":"{kind}"}}"#);
            let status = client.post("/redfish/v1/Systems/2/Actions/ComputerSystem.Reset", &body).status;
            let power = client.read("/redfish/v1/Systems/2")["PowerState"].as_str().map(alloc::string::String::from);
            (status, power.unwrap())
        };
        for (kind, status, power) in [
            ("On", 204, "On"),
            ("ForceRestart", 204, "On"),
            ("GracefulRestart", 204, "On"),
            ("GracefulShutdown", 204, "Off"),
            ("ForceOff", 204, "Off"),
            ("Pause", 409, "Off"),
            ("ForceRestart", 204, "On"),
            ("On", 204, "On"),
            ("Pause", 204, "Paused"),
            ("On", 409, "Paused"),
            ("ForceOff", 204, "Off"),
        ] {
            assert_eq!(reset(kind), (status, power.into()), "{kind}");
        }
    }
}
