//! What outlives this guest, as records that the hypervisor keeps: accounts, sessions, the server's key. Before:
//! [`service`](crate::service) and `main`. After: [`hypervisor`](crate::hypervisor).
//!
//! The hypervisor keeps records in memory that no VM but this one can ask for. Tokens are in them as hashes.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use p256::ecdsa::SigningKey;
use salp_hvc::manager::MAX_RECORD;
use salp_hvc::status::NO_MEMORY;
use salp_json::{Parsed, Value, json};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::audit::Audit;
use crate::auth::{self, Auth, Policy, Role};
use crate::events::Events;
use crate::hypervisor::{Answer, Hypervisor, Refused, name_text, padded};
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;
use crate::tls::certificate::Identity;
use crate::tls::keys::Keys;

/// Record numbers.
const ACCOUNTS: u64 = 0;
const SESSIONS: u64 = 1;
const IDENTITY: u64 = 2;
const PENDING: u64 = 3;
const AUDIT: u64 = 4;
const HAPPENED: u64 = 5;
const LISTENERS: u64 = 6;
/// From where VMs start ([`Boots`](crate::systems::boot::Boots)).
pub const BOOTS: u64 = 7;
/// What the appliance is set to ([`Settings`](crate::appliance::Settings)).
pub const SETTINGS: u64 = 8;
/// Where media were fetched from ([`media`](crate::media)).
pub const MEDIA: u64 = 9;
/// What people say of VMs ([`Notes`](crate::systems::notes::Notes)).
pub const NOTES: u64 = 14;

const AGENTS: u64 = 15;

/// An account, as it is kept.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct KeptAccount {
    /// The name, padded with zeros.
    pub user: [u8; 64],
    /// The salt of the hash.
    pub salt: [u8; 16],
    /// The hash of the password.
    pub hash: [u8; 32],
    /// The role.
    pub role: u8,
    /// 1: disabled; 2: the password has to be changed.
    pub flags: u8,
    /// Wrong passwords since the last right one.
    pub failures: U32,
    /// When the last one came, in seconds since 1970.
    pub failed: U64,
    /// Until when its password is not looked at.
    pub locked_until: U64,
}

/// What is asked of passwords and sessions, as it is kept.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct KeptPolicy {
    timeout: U64,
    threshold: U32,
    least: U32,
    duration: U64,
    forget: U64,
}

/// A session, as it is kept.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct KeptSession {
    /// The name of the account, padded with zeros.
    pub user: [u8; 64],
    /// The identifier, 16 hexadecimal digits.
    pub id: [u8; 16],
    /// The hash of the token.
    pub token: [u8; 32],
    /// When it was made, in seconds since 1970.
    pub created: U64,
}

const _: () = assert!(size_of::<KeptSession>() * auth::MAX_SESSIONS + size_of::<KeptPolicy>() <= MAX_RECORD as usize);
const _: () = assert!(size_of::<KeptAccount>() * auth::MAX_ACCOUNTS <= MAX_RECORD as usize);

/// Returns the number that stands for a role.
pub fn role_code(role: Role) -> u8 {
    Role::ALL.iter().position(|&(_, known)| known == role).unwrap_or(Role::ALL.len()) as u8
}

/// Returns the role that a number stands for.
pub fn role_of(code: u8) -> Option<Role> {
    Role::ALL.get(usize::from(code)).map(|&(_, role)| role)
}

/// Reads a record, if there is one.
pub fn recall(hypervisor: &dyn Hypervisor, record: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; MAX_RECORD as usize];
    let size = hypervisor.recall(record, &mut bytes).ok().filter(|&size| size > 0)?;
    bytes.truncate(size);
    Some(bytes)
}

/// Keeps accounts and sessions.
///
/// # Errors
///
/// If the hypervisor does not keep records, or has no memory for them.
pub fn keep_auth(hypervisor: &mut dyn Hypervisor, auth: &Auth) -> Answer<()> {
    let (accounts, sessions) = auth.kept();
    hypervisor.keep(ACCOUNTS, accounts.as_bytes())?;
    let policy = KeptPolicy {
        timeout: auth.timeout.into(),
        threshold: auth.policy.threshold.into(),
        // At most as many as a password has.
        least: (auth.policy.least as u32).into(),
        duration: auth.policy.duration.into(),
        forget: auth.policy.forget.into(),
    };
    hypervisor.keep(SESSIONS, &[policy.as_bytes(), sessions.as_bytes()].concat())
}

/// Puts accounts and sessions in place that were kept; returns false if there are no accounts.
pub fn recall_auth(hypervisor: &dyn Hypervisor, auth: &mut Auth, now: u64) -> bool {
    let Some(accounts) = recall(hypervisor, ACCOUNTS) else { return false };
    let sessions = recall(hypervisor, SESSIONS).unwrap_or_default();
    let (policy, sessions) = match KeptPolicy::read_from_prefix(&sessions) {
        Ok((policy, rest)) => (Some(policy), rest),
        Err(_) => (None, &[][..]),
    };
    let (Ok(accounts), Ok(sessions)) =
        (<[KeptAccount]>::ref_from_bytes(&accounts), <[KeptSession]>::ref_from_bytes(sessions))
    else {
        return false;
    };
    if let Some(kept) = policy {
        auth.timeout = kept.timeout.get();
        let (threshold, least) = (kept.threshold.get(), kept.least.get() as usize);
        auth.policy = Policy { threshold, least, duration: kept.duration.get(), forget: kept.forget.get() };
    }
    auth.put_back(accounts, sessions, now)
}

/// Keeps the server's key and certificate, and the service's UUID.
///
/// # Errors
///
/// If the hypervisor does not keep records, or has no memory for them.
pub fn keep_identity(hypervisor: &mut dyn Hypervisor, identity: &Identity, uuid: [u8; 16]) -> Answer<()> {
    let key = identity.key.to_bytes();
    hypervisor.keep(IDENTITY, &[&uuid[..], &key, &identity.certificate].concat())
}

/// Returns the server's key and certificate, and the service's UUID, if they were kept.
pub fn recall_identity(hypervisor: &dyn Hypervisor) -> Option<(Identity, [u8; 16])> {
    let bytes = recall(hypervisor, IDENTITY)?;
    let (uuid, rest) = bytes.split_first_chunk::<16>()?;
    let (key, certificate) = rest.split_first_chunk::<32>()?;
    let key = SigningKey::from_slice(key).ok()?;
    Some((Identity { key, certificate: certificate.to_vec() }, *uuid))
}

/// Keeps the server's key and certificate, and the key that waits for its certificate.
///
/// # Errors
///
/// If the hypervisor does not keep records, or has no memory for them.
pub fn keep_keys(hypervisor: &mut dyn Hypervisor, keys: &Keys, uuid: [u8; 16]) -> Answer<()> {
    keep_identity(hypervisor, keys.identity(), uuid)?;
    hypervisor.keep(PENDING, keys.pending().map(SigningKey::to_bytes).as_ref().map_or(&[][..], |key| key))
}

/// Puts keys and certificates in place that were kept.
pub fn recall_keys(hypervisor: &dyn Hypervisor, keys: &mut Keys) {
    if let Some((identity, _)) = recall_identity(hypervisor) {
        let pending = recall(hypervisor, PENDING).and_then(|key| SigningKey::from_slice(&key).ok());
        keys.put_back(identity, pending);
    }
}

/// Keeps who changed what.
///
/// # Errors
///
/// If the hypervisor does not keep records, or has no memory for them.
pub fn keep_audit(hypervisor: &mut dyn Hypervisor, audit: &Audit) -> Answer<()> {
    hypervisor.keep(AUDIT, &audit.kept())
}

/// Puts in place who changed what, if that was kept.
pub fn recall_audit(hypervisor: &dyn Hypervisor, audit: &mut Audit) {
    if let Some(bytes) = recall(hypervisor, AUDIT) {
        audit.put_back(&bytes);
    }
}

/// Returns a list that was kept; an empty one if there is none that makes sense.
pub fn recall_list(hypervisor: &dyn Hypervisor, record: u64) -> Vec<Parsed> {
    recall(hypervisor, record).and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Keeps a list; of an empty one nothing.
///
/// # Errors
///
/// If there is no room for it.
pub fn keep_list(hypervisor: &mut dyn Hypervisor, record: u64, list: Vec<Value>) -> Answer<()> {
    let kept = if list.is_empty() { String::new() } else { Value::from(list).to_string() };
    if kept.len() as u64 > MAX_RECORD {
        return Err(Refused(NO_MEMORY));
    }
    hypervisor.keep(record, kept.as_bytes())
}

/// Keeps what has happened, tasks, listeners and reports, if they have changed; what cannot be kept is tried again.
pub fn keep_events(hypervisor: &mut dyn Hypervisor, events: &mut Events, tasks: &mut Tasks, telemetry: &mut Telemetry) {
    let (is_told, is_done) = (events.journal.has_changed(), tasks.has_changed());
    if is_told || is_done {
        // Tasks have at most two thirds of the record; events have what is left.
        let before = alloc::format!(r#"{{"tasks":{},"journal":"#, tasks.kept());
        let journal = events.journal.kept((MAX_RECORD as usize).saturating_sub(before.len() + 1));
        let kept = before + &journal + "}";
        let is_kept = hypervisor.keep(AGENTS, &events.agents.kept()).is_ok();
        if hypervisor.keep(HAPPENED, kept.as_bytes()).is_err() || !is_kept {
            events.journal.mark_changed();
            tasks.mark_changed();
        }
    }
    let (is_sent, is_defined) = (events.subscriptions.has_changed(), telemetry.has_changed());
    if (is_sent || is_defined) && hypervisor.keep(LISTENERS, listeners(events, telemetry).as_bytes()).is_err() {
        events.subscriptions.mark_changed();
        telemetry.mark_changed();
    }
}

/// Returns listeners and reports as they are kept.
fn listeners(events: &Events, telemetry: &Telemetry) -> String {
    json!({ "subscriptions": events.subscriptions.kept(), "telemetry": telemetry.kept() }).to_string()
}

/// Returns whether what is to be kept of listeners and reports fits into its record.
pub fn fits(events: &Events, telemetry: &Telemetry) -> bool {
    listeners(events, telemetry).len() <= MAX_RECORD as usize
}

/// Puts what has happened, tasks, listeners and reports in place that were kept.
pub fn recall_events(hypervisor: &dyn Hypervisor, events: &mut Events, tasks: &mut Tasks, telemetry: &mut Telemetry) {
    let read = |record| recall(hypervisor, record).and_then(|bytes| serde_json::from_slice::<Parsed>(&bytes).ok());
    if let Some(kept) = recall(hypervisor, AGENTS) {
        events.agents.put_back(&kept);
    }
    if let Some(kept) = read(HAPPENED) {
        tasks.put_back(&kept["tasks"]);
        events.journal.put_back(&kept["journal"]);
    }
    if let Some(kept) = read(LISTENERS) {
        events.subscriptions.put_back(&kept["subscriptions"]);
        telemetry.put_back(&kept["telemetry"]);
    }
}

/// Returns a name as it is kept.
pub fn user_bytes(user: &str) -> [u8; 64] {
    padded(user)
}

/// Returns a name that was kept.
pub fn user_text(user: &[u8; 64]) -> String {
    name_text(user).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::testing::Counting;

    #[test]
    fn who_was_logged_in_still_is() {
        let (mut fake, mut auth) = (Fake::default(), Auth::new(&Counting));
        assert!(!recall_auth(&fake, &mut auth, 0));
        assert!(auth.set("admin", "right", Role::Administrator) && auth.set("me", "right", Role::ReadOnly));
        let (id, token) = auth.open("me", "right", 5).unwrap().unwrap();
        auth.timeout = 99;
        auth.policy = Policy { threshold: 3, duration: 4, forget: 5, least: 12 };
        let me = auth.account_mut("me").unwrap();
        (me.must_change, me.locked_until) = (true, 2000);
        keep_auth(&mut fake, &auth).unwrap();
        let mut later = Auth::new(&Counting);
        assert!(recall_auth(&fake, &mut later, 1000));
        let who = later.token(&token, 1001).unwrap();
        assert_eq!((&*who.user, who.role, who.session.as_deref()), ("me", Role::ReadOnly, Some(&*id)));
        assert!(who.must_change && later.account("me").unwrap().is_locked(1001));
        assert_eq!((later.timeout, later.policy), (99, auth.policy));
        assert_eq!(later.session(&id).unwrap().created, 5);
        assert!(later.open("admin", "right", 1002).is_ok());
    }

    #[test]
    fn the_server_stays_who_it_is() {
        let mut fake = Fake::default();
        assert!(recall_identity(&fake).is_none());
        let identity = Identity::new(&Counting, 0, &["salp"], &[]);
        keep_identity(&mut fake, &identity, [7; 16]).unwrap();
        let (later, uuid) = recall_identity(&fake).unwrap();
        assert_eq!((later.certificate, later.key.to_bytes()), (identity.certificate, identity.key.to_bytes()));
        assert_eq!(uuid, [7; 16]);
    }
}
