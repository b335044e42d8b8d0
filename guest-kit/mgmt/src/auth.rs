//! Who may do what: accounts, sessions, roles. Before: [`service`](crate::service). After: nothing.
//!
//! Passwords are kept as Argon2id hashes, tokens as SHA-256. A password that was right is remembered as a keyed hash, so
//! that a client that sends it with each request pays for Argon2 once; wrong ones are counted, and above [`MAX_FAILURES`] in
//! a window nobody is asked for a password until it is over: guessing must not take the CPU from who is logged in.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use argon2::{Algorithm, Argon2, Params, Version};
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::state::{self, KeptAccount, KeptSession};
use salp_provider::entropy::Entropy;

/// The name of the account that is made at first start.
pub const ADMINISTRATOR: &str = "admin";
/// The greatest number of accounts.
pub const MAX_ACCOUNTS: usize = 64;
/// The greatest number of sessions.
pub const MAX_SESSIONS: usize = 64;
/// How long a session lives without a request, in seconds, unless it is set.
pub const SESSION_TIMEOUT: u64 = 1800;
/// How many wrong passwords are looked at in a window.
pub const MAX_FAILURES: u32 = 10;
/// How long the window is, in seconds.
const WINDOW: u64 = 10;
/// How many characters a password has at least; the policy may ask for more.
pub const LEAST_PASSWORD: usize = 8;
/// How many characters a password has at most.
pub const MOST_PASSWORD: usize = 128;
/// Argon2id: KiB of memory and passes. A guest of 32 MiB has no more to spare for who is not logged in yet.
const COST: (u32, u32) = (1024, 3);

/// What a role allows, as Redfish names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Everybody, logged in or not.
    Open,
    /// Whoever is logged in.
    Login,
    /// Change what is one's own.
    ConfigureSelf,
    /// Change VMs.
    ConfigureComponents,
    /// Change this service.
    ConfigureManager,
}

/// A role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// May do everything.
    Administrator,
    /// May change VMs.
    Operator,
    /// May read.
    ReadOnly,
}

impl Role {
    /// All roles, by name.
    pub const ALL: [(&str, Self); 3] =
        [("Administrator", Self::Administrator), ("Operator", Self::Operator), ("ReadOnly", Self::ReadOnly)];

    /// Returns the name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|&&(_, role)| role == self).map_or("", |(name, _)| name)
    }

    /// Returns true if the role has the right.
    pub fn has(self, right: Right) -> bool {
        match right {
            Right::Open | Right::Login | Right::ConfigureSelf => true,
            Right::ConfigureComponents => self != Self::ReadOnly,
            Right::ConfigureManager => self == Self::Administrator,
        }
    }
}

/// Somebody who is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The account's name.
    pub user: String,
    /// Its role.
    pub role: Role,
    /// The session, if there is one.
    pub session: Option<String>,
    /// Whether nothing but another password is open to it.
    pub must_change: bool,
}

/// An account, as its administrator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its role.
    pub role: Role,
    /// Whether it can log in.
    pub is_enabled: bool,
    /// Whether its password has to be changed before anything else.
    pub must_change: bool,
    /// Until when its password is not looked at, in seconds since 1970.
    pub locked_until: u64,
    /// Wrong passwords since the last right one, and when the last one came.
    failures: (u32, u64),
    salt: [u8; 16],
    hash: [u8; 32],
    /// The keyed hash of the password that was right last.
    remembered: Option<[u8; 32]>,
}

impl Account {
    /// Returns whether its password is not looked at.
    pub fn is_locked(&self, now: u64) -> bool {
        now < self.locked_until
    }

    /// Returns a number that changes with the account, its password included.
    pub fn version(&self, now: u64) -> u64 {
        let flags = [self.is_enabled, self.must_change, self.is_locked(now)].map(u8::from);
        let hash = sha256(&[&self.hash, self.role.name().as_bytes(), &flags]);
        hash.iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    }
}

/// What is asked of passwords and of who does not know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// After how many wrong passwords an account is locked; 0 for never. Never is the default: whoever reaches the port could
    /// lock the administrator out, and guessing is slow without it.
    pub threshold: u32,
    /// For how long it is locked, in seconds.
    pub duration: u64,
    /// After how many seconds without a wrong password they are forgotten.
    pub forget: u64,
    /// How many characters a password has at least.
    pub least: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self { threshold: 0, duration: 300, forget: 300, least: LEAST_PASSWORD }
    }
}

/// A session.
#[derive(Clone, Debug)]
pub struct Session {
    /// The account's name.
    pub user: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    token: [u8; 32],
    used: u64,
}

/// Accounts and sessions.
#[derive(Debug)]
pub struct Auth {
    entropy: &'static dyn Entropy,
    key: [u8; 32],
    accounts: BTreeMap<String, Account>,
    sessions: BTreeMap<String, Session>,
    /// How long a session lives without a request, in seconds.
    pub timeout: u64,
    /// What is asked of passwords.
    pub policy: Policy,
    failures: u32,
    window: u64,
    /// Whether accounts or sessions are others than those that were kept.
    is_changed: bool,
}

/// Nobody is logged in by what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger;

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

fn slow_hash(password: &str, salt: &[u8; 16]) -> Option<[u8; 32]> {
    let params = Params::new(COST.0, COST.1, 1, None).ok()?;
    let mut out = [0; 32];
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into(password.as_bytes(), salt, &mut out).ok()?;
    Some(out)
}

impl Auth {
    /// Returns accounts with nobody in them.
    pub fn new(entropy: &'static dyn Entropy) -> Self {
        let mut key = [0; 32];
        entropy.fill(&mut key);
        Self {
            entropy,
            key,
            accounts: BTreeMap::new(),
            sessions: BTreeMap::new(),
            timeout: SESSION_TIMEOUT,
            policy: Policy::default(),
            failures: 0,
            window: 0,
            is_changed: false,
        }
    }

    /// Makes an account, or gives it another password; returns false if there is no memory to hash it.
    pub fn set(&mut self, user: &str, password: &str, role: Role) -> bool {
        let mut salt = [0; 16];
        self.entropy.fill(&mut salt);
        let Some(hash) = slow_hash(password, &salt) else { return false };
        let fresh = Account {
            role,
            is_enabled: true,
            must_change: false,
            locked_until: 0,
            failures: (0, 0),
            salt,
            hash,
            remembered: None,
        };
        let account = self.accounts.entry(user.to_string()).or_insert(fresh);
        (account.role, account.salt, account.hash, account.remembered) = (role, salt, hash, None);
        account.must_change = false;
        self.is_changed = true;
        true
    }

    /// Removes an account and ends its sessions.
    pub fn remove(&mut self, user: &str) {
        self.accounts.remove(user);
        self.close_others(user, None);
    }

    /// Returns whether nobody could administer without this account.
    pub fn is_last(&self, user: &str) -> bool {
        let administers =
            |account: &Account| account.role == Role::Administrator && account.is_enabled && !account.must_change;
        !self.accounts.iter().any(|(name, account)| name != user && administers(account))
    }

    /// Returns the names of all accounts.
    pub fn users(&self) -> Vec<String> {
        self.accounts.keys().cloned().collect()
    }

    /// Returns an account.
    pub fn account(&self, user: &str) -> Option<&Account> {
        self.accounts.get(user)
    }

    /// Returns an account to change it.
    pub fn account_mut(&mut self, user: &str) -> Option<&mut Account> {
        self.is_changed = true;
        self.accounts.get_mut(user)
    }

    /// Ends all sessions of an account but this one.
    pub fn close_others(&mut self, user: &str, own: Option<&str>) {
        self.sessions.retain(|id, session| session.user != user || Some(&**id) == own);
        self.is_changed = true;
    }

    /// Returns, once, whether accounts or sessions are others than those that were kept.
    pub fn has_changed(&mut self) -> bool {
        core::mem::take(&mut self.is_changed)
    }

    /// Says that something is another than what was kept.
    pub fn mark_changed(&mut self) {
        self.is_changed = true;
    }

    /// Returns accounts and sessions as they are kept.
    pub fn kept(&self) -> (Vec<KeptAccount>, Vec<KeptSession>) {
        let account = |(user, account): (&String, &Account)| KeptAccount {
            user: state::user_bytes(user),
            salt: account.salt,
            hash: account.hash,
            role: state::role_code(account.role),
            flags: u8::from(!account.is_enabled) | u8::from(account.must_change) << 1,
            failures: account.failures.0.into(),
            failed: account.failures.1.into(),
            locked_until: account.locked_until.into(),
        };
        let session = |(id, session): (&String, &Session)| KeptSession {
            user: state::user_bytes(&session.user),
            id: id.as_bytes().try_into().unwrap_or_default(),
            token: session.token,
            created: session.created.into(),
        };
        (self.accounts.iter().map(account).collect(), self.sessions.iter().map(session).collect())
    }

    /// Puts accounts and sessions that were kept in place of those that are here; returns false if there is none. Sessions
    /// count as used `now`: nobody knows when they were.
    pub fn put_back(&mut self, accounts: &[KeptAccount], sessions: &[KeptSession], now: u64) -> bool {
        let account = |kept: &KeptAccount| {
            let role = state::role_of(kept.role)?;
            let account = Account {
                role,
                is_enabled: kept.flags & 1 == 0,
                must_change: kept.flags & 2 != 0,
                locked_until: kept.locked_until.get(),
                failures: (kept.failures.get(), kept.failed.get()),
                salt: kept.salt,
                hash: kept.hash,
                remembered: None,
            };
            Some((state::user_text(&kept.user), account))
        };
        let session = |kept: &KeptSession| {
            let id = str::from_utf8(&kept.id).ok()?.to_string();
            let user = state::user_text(&kept.user);
            Some((id, Session { user, created: kept.created.get(), token: kept.token, used: now }))
        };
        self.accounts = accounts.iter().filter_map(account).collect();
        self.sessions = sessions.iter().filter_map(session).collect();
        self.is_changed = false;
        !self.accounts.is_empty()
    }

    /// Returns a password that nobody can guess, easy to read off a console.
    pub fn make_password(&self) -> String {
        // No 0, 1, l, o: they are mistaken for others. 32 letters, five bits each.
        const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
        let mut bytes = [0; 20];
        self.entropy.fill(&mut bytes);
        let mut password = String::with_capacity(24);
        for (index, byte) in bytes.into_iter().enumerate() {
            if index > 0 && index.is_multiple_of(5) {
                password.push('-');
            }
            password.push(char::from(LETTERS[usize::from(byte % 32)]));
        }
        password
    }

    /// Returns who has this password. An account that is disabled or locked is answered like a wrong password, at the same
    /// cost.
    fn check(&mut self, user: &str, password: &str, now: u64) -> Result<Who, Stranger> {
        let remembered = sha256(&[&self.key, user.as_bytes(), &[0], password.as_bytes()]);
        let known = self.accounts.get_mut(user);
        let is_open = known.as_ref().is_some_and(|account| account.is_enabled && !account.is_locked(now));
        let who = known.as_ref().map(|account| Who {
            user: user.to_string(),
            role: account.role,
            session: None,
            must_change: account.must_change,
        });
        let salt = known.as_ref().map_or([0; 16], |account| account.salt);
        if let Some(account) = known
            && is_open
            && account.remembered.is_some_and(|right| bool::from(right.ct_eq(&remembered)))
        {
            self.is_changed |= account.failures.0 > 0;
            account.failures = (0, 0);
            return who.ok_or(Stranger);
        }
        if now.saturating_sub(self.window) >= WINDOW {
            (self.window, self.failures) = (now, 0);
        }
        if self.failures >= MAX_FAILURES {
            return Err(Stranger);
        }
        // Who is unknown costs as much as who is known.
        let hash = slow_hash(password, &salt).ok_or(Stranger)?;
        match self.accounts.get_mut(user) {
            Some(account) if is_open && bool::from(account.hash.ct_eq(&hash)) => {
                account.remembered = Some(remembered);
                self.is_changed |= account.failures.0 > 0;
                account.failures = (0, 0);
                who.ok_or(Stranger)
            }
            account => {
                self.failures += 1;
                if let Some(account) = account.filter(|_| is_open && self.policy.threshold > 0) {
                    let (count, last) = account.failures;
                    let count = if now.saturating_sub(last) > self.policy.forget { 0 } else { count };
                    account.failures = (count + 1, now);
                    if count + 1 >= self.policy.threshold {
                        account.locked_until = now.saturating_add(self.policy.duration);
                        account.failures = (0, 0);
                    }
                    self.is_changed = true;
                }
                Err(Stranger)
            }
        }
    }

    /// Returns who sends this value of `Authorization`.
    pub fn basic(&mut self, value: &str, now: u64) -> Result<Who, Stranger> {
        let (scheme, encoded) = value.split_once(' ').ok_or(Stranger)?;
        if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > 512 {
            return Err(Stranger);
        }
        let text = Base64::decode_vec(encoded.trim()).map_err(|_| Stranger)?;
        let text = String::from_utf8(text).map_err(|_| Stranger)?;
        let (user, password) = text.split_once(':').ok_or(Stranger)?;
        self.check(user, password, now)
    }

    /// Returns who sends this token.
    pub fn token(&mut self, token: &str, now: u64) -> Result<Who, Stranger> {
        self.expire(now);
        let hash = sha256(&[token.as_bytes()]);
        let found = self.sessions.iter_mut().find(|(_, session)| bool::from(session.token.ct_eq(&hash)));
        let (id, session) = found.ok_or(Stranger)?;
        session.used = now;
        let account = self.accounts.get(&session.user).filter(|account| account.is_enabled).ok_or(Stranger)?;
        let (role, must_change) = (account.role, account.must_change);
        Ok(Who { user: session.user.clone(), role, session: Some(id.clone()), must_change })
    }

    /// Counts as a request of a session; returns false if there is no such session.
    pub fn touch(&mut self, id: &str, now: u64) -> bool {
        let session = self.sessions.get_mut(id);
        session.map(|session| session.used = now).is_some()
    }

    /// Starts a session, and returns its identifier and token; none if there are too many.
    pub fn open(&mut self, user: &str, password: &str, now: u64) -> Result<Option<(String, String)>, Stranger> {
        self.check(user, password, now)?;
        self.expire(now);
        if self.sessions.len() >= MAX_SESSIONS {
            return Ok(None);
        }
        let mut bytes = [0; 40];
        self.entropy.fill(&mut bytes);
        let (id, token) = bytes.split_at(8);
        let (id, token) = (hex(id), Base64UrlUnpadded::encode_string(token));
        let session = Session { user: user.to_string(), created: now, token: sha256(&[token.as_bytes()]), used: now };
        self.sessions.insert(id.clone(), session);
        self.is_changed = true;
        Ok(Some((id, token)))
    }

    /// Ends a session; returns false if there is none.
    pub fn close(&mut self, id: &str) -> bool {
        let was_there = self.sessions.remove(id).is_some();
        self.is_changed |= was_there;
        was_there
    }

    /// Returns a session.
    pub fn session(&self, id: &str) -> Option<&Session> {
        self.sessions.get(id)
    }

    /// Returns the identifiers of all sessions.
    pub fn sessions(&self) -> Vec<String> {
        self.sessions.keys().cloned().collect()
    }

    /// Moves all that is remembered with a clock that was set, by so many seconds: nobody's session ends for that.
    pub fn shift(&mut self, by: i64) {
        for session in self.sessions.values_mut() {
            session.created = session.created.saturating_add_signed(by);
            session.used = session.used.saturating_add_signed(by);
        }
        for account in self.accounts.values_mut() {
            account.failures.1 = account.failures.1.saturating_add_signed(by);
            account.locked_until = account.locked_until.saturating_add_signed(by);
        }
        self.window = self.window.saturating_add_signed(by);
        self.is_changed = true;
    }

    fn expire(&mut self, now: u64) {
        let timeout = self.timeout;
        let count = self.sessions.len();
        self.sessions.retain(|_, session| now.saturating_sub(session.used) <= timeout);
        self.is_changed |= self.sessions.len() < count;
    }
}

/// Returns bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Counting;

    fn auth() -> Auth {
        let mut auth = Auth::new(&Counting);
        assert!(auth.set("admin", "right", Role::Administrator));
        auth
    }

    fn basic(user: &str, password: &str) -> String {
        alloc::format!("Basic {}", Base64::encode_string(alloc::format!("{user}:{password}").as_bytes()))
    }

    #[test]
    fn only_the_right_password_is_somebody() {
        let mut auth = auth();
        assert_eq!(auth.basic(&basic("admin", "right"), 0).unwrap().role, Role::Administrator);
        for value in
            [&*basic("admin", "wrong"), &basic("nobody", "right"), &basic("admin", ""), "Basic", "Basic !", "X y"]
        {
            assert_eq!(auth.basic(value, 0), Err(Stranger), "{value}");
        }
    }

    #[test]
    fn another_password_ends_the_old_one_though_it_was_remembered() {
        let mut auth = auth();
        assert!(auth.basic(&basic("admin", "right"), 0).is_ok());
        assert!(auth.set("admin", "other", Role::Administrator));
        assert_eq!(auth.basic(&basic("admin", "right"), 0), Err(Stranger));
        assert!(auth.basic(&basic("admin", "other"), 0).is_ok());
    }

    #[test]
    fn guessing_stops_for_a_while_but_not_for_who_was_right_before() {
        let mut auth = auth();
        assert!(auth.basic(&basic("admin", "right"), 100).is_ok());
        assert!(auth.set("late", "right", Role::ReadOnly));
        for _ in 0..MAX_FAILURES {
            assert_eq!(auth.basic(&basic("admin", "wrong"), 100), Err(Stranger));
        }
        assert!(auth.basic(&basic("admin", "right"), 100).is_ok());
        assert_eq!(auth.basic(&basic("late", "right"), 100), Err(Stranger));
        assert!(auth.basic(&basic("late", "right"), 100 + WINDOW).is_ok());
    }

    #[test]
    fn an_account_is_locked_after_wrong_passwords_for_as_long_as_the_policy_says() {
        let mut auth = auth();
        auth.policy = Policy { threshold: 3, duration: 60, forget: 100, ..Policy::default() };
        let mut say = |password: &str, now| auth.basic(&basic("admin", password), now).is_ok();
        assert!(say("right", 0) && !say("wrong", 1000) && !say("wrong", 1000) && say("right", 1000));
        assert!(!say("wrong", 2000) && !say("wrong", 2001) && !say("wrong", 2200), "the first ones are forgotten");
        assert!(say("right", 2200), "it is not locked yet");
        assert!(!say("wrong", 3000) && !say("wrong", 3000));
        assert!(!say("other", 3010), "the third");
        assert!(!say("right", 3069) && say("right", 3070));
    }

    #[test]
    fn who_is_disabled_is_nobody() {
        let mut auth = auth();
        let (_, token) = auth.open("admin", "right", 0).unwrap().unwrap();
        auth.account_mut("admin").unwrap().is_enabled = false;
        assert_eq!(auth.token(&token, 0), Err(Stranger));
        assert_eq!(auth.basic(&basic("admin", "right"), 0), Err(Stranger));
    }

    #[test]
    fn a_session_lives_until_it_is_closed_or_silent_for_too_long() {
        let mut auth = auth();
        let (id, token) = auth.open("admin", "right", 0).unwrap().unwrap();
        assert_eq!(auth.token(&token, SESSION_TIMEOUT).unwrap().session.as_deref(), Some(&*id));
        assert!(auth.token(&token, 2 * SESSION_TIMEOUT).is_ok());
        assert_eq!(auth.token(&token, 3 * SESSION_TIMEOUT + 1), Err(Stranger));
        let (id, token) = auth.open("admin", "right", 0).unwrap().unwrap();
        assert!(auth.close(&id));
        assert_eq!(auth.token(&token, 0), Err(Stranger));
    }

    #[test]
    fn sessions_are_bounded() {
        let mut auth = auth();
        for _ in 0..MAX_SESSIONS {
            assert!(auth.open("admin", "right", 0).unwrap().is_some());
        }
        assert_eq!(auth.open("admin", "right", 0), Ok(None));
        assert!(auth.open("admin", "right", SESSION_TIMEOUT + 1).unwrap().is_some());
    }

    #[test]
    fn a_made_password_is_a_hundred_bits() {
        let password = auth().make_password();
        assert_eq!(password.len(), 23);
        assert_eq!(password.split('-').map(str::len).collect::<Vec<_>>(), [5; 4]);
    }
}
