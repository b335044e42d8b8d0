//! Who did what: a bounded list of requests that change something. Before: [`service`](crate::service). After:
//! [`state`](crate::state), which keeps it, and [`logs`](crate::resources::logs), which shows it.
//!
//! Only who is logged in gets into it: strangers must not be able to push out what others did.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::http::Method;

/// The most bytes of all entries, as they are kept in one record.
const ROOM: usize = 15 << 10;
/// What an entry takes besides its texts: number, time, status, method, two lengths.
const HEAD: usize = 21;
/// Methods that change something, by the numbers that stand for them.
const METHODS: [Method; 4] = [Method::Post, Method::Patch, Method::Put, Method::Delete];

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1 on.
    pub number: u64,
    /// When it was answered, in seconds since 1970.
    pub time: u64,
    /// With what.
    pub status: u16,
    /// What was asked for.
    pub method: Method,
    /// By whom.
    pub user: String,
    /// Of what.
    pub path: String,
}

impl Entry {
    fn size(&self) -> usize {
        HEAD + self.user.len() + self.path.len()
    }
}

/// The list.
#[derive(Debug, Default)]
pub struct Audit {
    entries: VecDeque<Entry>,
    last: u64,
    is_changed: bool,
}

/// Returns the beginning of a text, so long that its length is one byte.
fn short(text: &str) -> String {
    text[..text.floor_char_boundary(255)].to_string()
}

impl Audit {
    /// Appends an entry; the oldest ones make room. What changes nothing is not noted.
    pub fn note(&mut self, time: u64, user: &str, method: Method, path: &str, status: u16) {
        if METHODS.contains(&method) {
            self.last += 1;
            self.entries.push_back(Entry {
                number: self.last,
                time,
                status,
                method,
                user: short(user),
                path: short(path),
            });
            self.is_changed = true;
            while self.entries.iter().map(Entry::size).sum::<usize>() > ROOM {
                self.entries.pop_front();
            }
        }
    }

    /// Returns the entries, the oldest one first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Returns, once, whether there is something that was not kept.
    pub fn has_changed(&mut self) -> bool {
        core::mem::take(&mut self.is_changed)
    }

    /// Says that there is something that was not kept.
    pub fn mark_changed(&mut self) {
        self.is_changed = true;
    }

    /// Returns it as it is kept.
    pub fn kept(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ROOM);
        for entry in &self.entries {
            bytes.extend(entry.number.to_le_bytes());
            bytes.extend(entry.time.to_le_bytes());
            bytes.extend(entry.status.to_le_bytes());
            let code = METHODS.iter().position(|&method| method == entry.method).unwrap_or_default();
            // Texts are at most so long.
            bytes.extend([code as u8, entry.user.len() as u8, entry.path.len() as u8]);
            bytes.extend(entry.user.bytes().chain(entry.path.bytes()));
        }
        bytes
    }

    /// Puts what was kept in place of what is here, as far as it can be read.
    pub fn put_back(&mut self, mut bytes: &[u8]) {
        self.entries.clear();
        while let Some(entry) = read(&mut bytes) {
            self.last = entry.number;
            self.entries.push_back(entry);
        }
        self.is_changed = false;
    }
}

fn read(bytes: &mut &[u8]) -> Option<Entry> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    let (time, rest) = rest.split_first_chunk::<8>()?;
    let (status, rest) = rest.split_first_chunk::<2>()?;
    let (&[code, user, path], rest) = rest.split_first_chunk::<3>()?;
    let (user, rest) = rest.split_at_checked(user.into())?;
    let (path, rest) = rest.split_at_checked(path.into())?;
    *bytes = rest;
    Some(Entry {
        number: u64::from_le_bytes(*number),
        time: u64::from_le_bytes(*time),
        status: u16::from_le_bytes(*status),
        method: *METHODS.get(usize::from(code))?,
        user: str::from_utf8(user).ok()?.to_string(),
        path: str::from_utf8(path).ok()?.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_kept_and_the_oldest_is_forgotten() {
        let mut audit = Audit::default();
        audit.note(5, "admin", Method::Get, "/x", 200);
        assert!(!audit.has_changed());
        for number in 0..1000 {
            audit.note(number, &"ä".repeat(200), Method::Delete, "/redfish/v1/Systems/2", 204);
        }
        let kept = audit.kept();
        assert!(kept.len() <= ROOM && audit.has_changed() && audit.entries().count() > 10);
        let mut later = Audit::default();
        later.put_back(&kept);
        assert_eq!(later.entries, audit.entries);
        assert_eq!((later.last, later.entries.back().map(|entry| entry.user.len())), (1000, Some(254)));
        later.put_back(&kept[..kept.len() - 1]);
        assert_eq!(later.last, 999);
    }
}
