//! A VM's power. Before: [`table`](crate::table). After: [`systems::boot`](crate::systems::boot), [`hypervisor`](crate::hypervisor).

use salp_hvc::calls::{STATE_FROZEN, STATE_NO_MEMORY, STATE_OFF, STATE_RUNNING, VmInfo};
use salp_hvc::status;

use super::body::Body;
use super::fields::{Field, Shape, field, needed};
use super::systems::{act, find, path};
use super::{Call, Outcome};
use crate::hypervisor::{Answer, Hypervisor, Refused, Signal};
use crate::media::fetch::Order;
use crate::media::jobs::Then;
use crate::media::url::Url;
use crate::message::Failure;
use crate::systems::boot::{self, Source};
use crate::tasks::fetch::Fetching;

/// What is done for a change of power.
#[derive(Clone, Copy)]
enum Act {
    /// This.
    Call(fn(&mut dyn Hypervisor, u64) -> Answer<()>),
    /// A VM that is off starts from where it is to, one that is on does so again.
    Start,
    /// The guest is asked to shut down, and starts from where it is to.
    Restart,
    /// What the button does.
    Button,
}

const STOP: Act = Act::Call(|hypervisor, id| hypervisor.stop(id));
const SHUT_DOWN: Act = Act::Call(|hypervisor, id| hypervisor.signal(id, Signal::Shutdown));

/// What a VM's power can be changed to, the states in which nothing has to be done for it, those in which it cannot be done by
/// starting, and what is done else. Whether anything else can be done in the VM's present state, the hypervisor says.
const RESETS: [(&str, &[u32], &[u32], Act); 9] = [
    ("On", &[STATE_RUNNING, STATE_NO_MEMORY], &[STATE_FROZEN], Act::Start),
    ("ForceOff", &[STATE_OFF], &[], STOP),
    ("GracefulShutdown", &[STATE_OFF], &[], SHUT_DOWN),
    ("GracefulRestart", &[], &[STATE_OFF, STATE_FROZEN, STATE_NO_MEMORY], Act::Restart),
    // Whoever wants it to run anew wants it to run.
    ("ForceRestart", &[], &[], Act::Start),
    ("PowerCycle", &[], &[STATE_OFF], Act::Start),
    ("PushPowerButton", &[], &[], Act::Button),
    ("Pause", &[], &[], Act::Call(|hypervisor, id| hypervisor.freeze(id))),
    ("Resume", &[], &[], Act::Call(|hypervisor, id| hypervisor.unfreeze(id))),
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
    let kind = kind.unwrap_or_default();
    let info = find(call)?;
    match plan(&info, &kind)? {
        Some(Act::Start) => start(call, info.id.get()),
        _ => change(call.hypervisor, &info, &kind, call.now).map(|()| Outcome::Done),
    }
}

/// Returns what is to be done for a change of a VM's power; nothing if it is as wanted already.
fn plan(info: &VmInfo, kind: &str) -> Result<Option<Act>, Failure> {
    let (_, idle, impossible, what) =
        RESETS.iter().find(|(name, ..)| *name == kind).ok_or_else(|| Failure::new(400, "NoOperation", &[]))?;
    let state = info.state.get();
    if impossible.contains(&state) {
        return Err(Failure::refused(Refused(status::WRONG_STATE), &path(info.id.get())));
    }
    let what = match *what {
        Act::Button if state == STATE_OFF => Act::Start,
        Act::Button => SHUT_DOWN,
        what => what,
    };
    Ok((!idle.contains(&state)).then_some(what))
}

/// Changes a VM's power at once, unless it is as wanted already.
///
/// # Errors
///
/// What the hypervisor refuses, and a start from what would have to be fetched first.
pub fn change(hypervisor: &mut dyn Hypervisor, info: &VmInfo, kind: &str, now: u64) -> Result<(), Failure> {
    let id = info.id.get();
    let refused = |refused| Failure::refused(refused, &path(id));
    match plan(info, kind)? {
        Some(Act::Call(what)) => what(hypervisor, id).map_err(refused),
        Some(Act::Start) => boot::start(hypervisor, id, None, now),
        Some(Act::Restart) if boot::starts_as_it_runs(hypervisor, id) => {
            hypervisor.signal(id, Signal::Restart).map_err(refused)
        }
        Some(Act::Restart) => {
            if let Source::Address(_) = boot::source(hypervisor, id).map_err(refused)? {
                return Err(Failure::because(409, "What comes from HttpBootUri is started by ForceRestart or On."));
            }
            hypervisor.signal(id, Signal::Shutdown).map_err(refused)?;
            boot::change(hypervisor, id, |boot| boot.waits = true).map_err(refused)
        }
        Some(Act::Button) | None => Ok(()),
    }
}

/// Starts a VM from where it is to start, again if it is on.
fn start(call: &mut Call<'_>, id: u64) -> Result<Outcome, Failure> {
    let source = boot::source(call.hypervisor, id).map_err(|refused| Failure::refused(refused, &call.request.path))?;
    if let Source::Address(address) = source {
        let why = "The VM is to start from HttpBootUri, which is none.";
        let url = Url::parse(&address).ok_or_else(|| Failure::because(409, why))?;
        let order = Order { url, authorization: None, digest: None, image: None };
        return call.fetch("Start a system", Fetching::new(order, &address, Then::Start(id)), false);
    }
    boot::start(call.hypervisor, id, None, call.now).map(|()| Outcome::Done)
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
