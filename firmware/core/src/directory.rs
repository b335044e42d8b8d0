//! Which VM is in which slot, by identifier and by name. Before: [`crate::identity`]; after: everything that a manager asks
//! for by name.
//!
//! An identifier is given once. Names are kept as hashes of 64 bits in a table with open addressing, so that making a
//! thousand clones does not compare a million names.

use crate::identity::Name;

/// The greatest number of VMs and snapshots.
pub const MAX_VMS: usize = 1024;

const BUCKETS: usize = 2 * MAX_VMS;
/// A bucket holds a slot, plus one: an empty directory is all zeros and takes no room in an image.
const EMPTY: u16 = 0;

/// Why a VM gets no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceError {
    /// Every slot is taken.
    TooMany,
    /// Another VM has this name.
    NameTaken,
}

/// A VM's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its slot.
    pub slot: usize,
    /// Its identifier, from 1.
    pub id: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    /// 0 if the slot is free.
    id: u64,
    hash: u64,
}

/// The directory of the machine's VMs.
pub struct Directory {
    entries: [Entry; MAX_VMS],
    buckets: [u16; BUCKETS],
    /// No slot below is free.
    first_free: usize,
    /// No slot from here on was ever taken.
    end: usize,
    /// How many slots are not used at the end.
    unused: usize,
    last_id: u64,
}

/// FNV-1a, then mixed so that its low bits are good: names of clones differ in their last digits.
fn hash(name: &Name) -> u64 {
    let sum = name
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    sum ^ sum >> 32
}

impl Directory {
    /// Returns an empty directory.
    pub const fn new() -> Self {
        Self {
            entries: [Entry { id: 0, hash: 0 }; MAX_VMS],
            buckets: [EMPTY; BUCKETS],
            first_free: 0,
            end: 0,
            unused: 0,
            last_id: 0,
        }
    }

    /// Uses only the first slots: as many as there are VMIDs for.
    pub fn limit(&mut self, slots: usize) {
        self.unused = MAX_VMS - slots.min(MAX_VMS);
    }

    /// Gives a VM of this name a slot and an identifier.
    ///
    /// # Errors
    ///
    /// There is none, or the name is taken. Nothing was changed.
    pub fn take(&mut self, name: &Name) -> Result<Place, PlaceError> {
        let hash = hash(name);
        let bucket = match self.probe(hash) {
            Ok(_) => return Err(PlaceError::NameTaken),
            Err(bucket) => bucket,
        };
        let free = self.entries.get(self.first_free..MAX_VMS - self.unused).unwrap_or_default();
        let slot = self.first_free + free.iter().position(|entry| entry.id == 0).ok_or(PlaceError::TooMany)?;
        self.last_id += 1;
        self.entries[slot] = Entry { id: self.last_id, hash };
        self.buckets[bucket] = slot as u16 + 1;
        self.first_free = slot + 1;
        self.end = self.end.max(slot + 1);
        Ok(Place { slot, id: self.last_id })
    }

    /// Gives a VM of this name a certain slot and identifier, which nobody has: those that it had before a hand-over. Returns
    /// false, and changes nothing, if that cannot be.
    pub fn restore(&mut self, place: Place, name: &Name) -> bool {
        let hash = hash(name);
        let Err(bucket) = self.probe(hash) else { return false };
        let is_free = place.id != 0 && self.by_id(place.id).is_none() && place.slot < MAX_VMS - self.unused;
        let Some(entry) = self.entries.get_mut(place.slot).filter(|entry| is_free && entry.id == 0) else {
            return false;
        };
        *entry = Entry { id: place.id, hash };
        self.buckets[bucket] = place.slot as u16 + 1;
        self.end = self.end.max(place.slot + 1);
        self.last_id = self.last_id.max(place.id);
        true
    }

    /// Returns the last identifier that was given.
    pub const fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Gives no identifier up to this any more.
    pub fn skip_to(&mut self, id: u64) {
        self.last_id = self.last_id.max(id);
    }

    /// Takes back the slot of a VM that is gone.
    pub fn give_back(&mut self, slot: usize) {
        let Some(&Entry { id, hash }) = self.entries.get(slot) else { return };
        if id == 0 {
            return;
        }
        if let Ok(bucket) = self.probe(hash) {
            self.empty(bucket);
        }
        self.entries[slot].id = 0;
        self.first_free = self.first_free.min(slot);
    }

    /// Gives the VM in a slot another name.
    ///
    /// # Errors
    ///
    /// Another VM has it. Nothing was changed.
    pub fn rename(&mut self, slot: usize, name: &Name) -> Result<(), PlaceError> {
        let new = hash(name);
        let Some(&Entry { hash: old, .. }) = self.entries.get(slot) else { return Ok(()) };
        if new == old {
            return Ok(());
        }
        if self.probe(new).is_ok() {
            return Err(PlaceError::NameTaken);
        }
        if let Ok(bucket) = self.probe(old) {
            self.empty(bucket);
        }
        self.entries[slot].hash = new;
        if let Err(bucket) = self.probe(new) {
            self.buckets[bucket] = slot as u16 + 1;
        }
        Ok(())
    }

    /// Returns the slot of the VM with this identifier.
    pub fn by_id(&self, id: u64) -> Option<usize> {
        self.entries[..self.end].iter().position(|entry| entry.id == id && id != 0)
    }

    /// Returns the slot of the VM with this name.
    pub fn by_name(&self, name: &Name) -> Option<usize> {
        self.probe(hash(name)).ok().map(|bucket| usize::from(self.buckets[bucket]) - 1)
    }

    /// Returns the VM with the least identifier above `id`.
    pub fn after(&self, id: u64) -> Option<Place> {
        let above = self.entries[..self.end].iter().enumerate().filter(|(_, entry)| entry.id > id);
        above.min_by_key(|(_, entry)| entry.id).map(|(slot, entry)| Place { slot, id: entry.id })
    }

    /// Returns the slots that are in use, or were.
    pub fn slots(&self) -> core::ops::Range<usize> {
        0..self.end
    }

    /// Returns how many VMs there are.
    pub fn count(&self) -> usize {
        self.entries[..self.end].iter().filter(|entry| entry.id != 0).count()
    }

    /// Finds the bucket with this hash, or the empty one where it would be.
    fn probe(&self, hash: u64) -> Result<usize, usize> {
        let mut bucket = hash as usize % BUCKETS;
        // Half of the buckets are empty: it ends.
        loop {
            match self.buckets[bucket] {
                EMPTY => return Err(bucket),
                slot if self.hash_of(slot) == hash => return Ok(bucket),
                _ => bucket = (bucket + 1) % BUCKETS,
            }
        }
    }

    /// Returns the hash of the name whose bucket holds this.
    fn hash_of(&self, bucket: u16) -> u64 {
        self.entries.get(usize::from(bucket.wrapping_sub(1))).map_or(0, |entry| entry.hash)
    }

    /// Empties a bucket, and moves up what had to go on because of it.
    fn empty(&mut self, mut hole: usize) {
        let mut bucket = hole;
        loop {
            bucket = (bucket + 1) % BUCKETS;
            let slot = self.buckets[bucket];
            if slot == EMPTY {
                break;
            }
            let home = self.hash_of(slot) as usize % BUCKETS;
            // It may move to the hole unless its home lies behind the hole.
            if (bucket + BUCKETS - home) % BUCKETS >= (bucket + BUCKETS - hole) % BUCKETS {
                self.buckets[hole] = slot;
                hole = bucket;
            }
        }
        self.buckets[hole] = EMPTY;
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn name(number: u64) -> Name {
        Name::new(b"vm").unwrap().numbered(number)
    }

    #[test]
    fn as_many_vms_fit_as_there_are_slots() {
        let mut directory = Directory::new();
        directory.limit(3);
        for n in 0..3 {
            assert_eq!(directory.take(&name(n)), Ok(Place { slot: n as usize, id: n + 1 }));
        }
        assert_eq!(directory.take(&name(3)), Err(PlaceError::TooMany));
        assert_eq!(directory.take(&name(1)), Err(PlaceError::NameTaken));
        directory.give_back(1);
        assert_eq!(directory.by_id(2), None);
        assert_eq!(directory.take(&name(1)), Ok(Place { slot: 1, id: 4 }), "an identifier is given once");
        assert_eq!(directory.after(1), Some(Place { slot: 2, id: 3 }));
    }

    proptest! {
        #[test]
        fn every_vm_is_found_and_no_other(ops in proptest::collection::vec((any::<bool>(), 0u64..60), 1..300)) {
            let mut directory = Directory::new();
            let mut model: BTreeMap<u64, Place> = BTreeMap::new();
            let mut last = 0;
            for (add, n) in ops {
                match model.get(&n).copied() {
                    None if add => {
                        let place = directory.take(&name(n)).unwrap();
                        prop_assert!(place.id > last && model.values().all(|other| other.slot != place.slot));
                        last = place.id;
                        model.insert(n, place);
                    }
                    Some(place) if !add => {
                        directory.give_back(place.slot);
                        model.remove(&n);
                    }
                    // It is called otherwise for a while.
                    Some(place) if n % 3 == 0 => {
                        prop_assert_eq!(directory.rename(place.slot, &name(n + 100)), Ok(()));
                        prop_assert_eq!(directory.by_name(&name(n)), None);
                        prop_assert_eq!(directory.by_name(&name(n + 100)), Some(place.slot));
                        let other = model.iter().find(|(other, _)| **other != n);
                        if let Some((&other, _)) = other {
                            let taken = directory.rename(place.slot, &name(other));
                            prop_assert_eq!(taken, Err(PlaceError::NameTaken));
                        }
                        prop_assert_eq!(directory.rename(place.slot, &name(n)), Ok(()));
                    }
                    Some(_) => prop_assert_eq!(directory.take(&name(n)), Err(PlaceError::NameTaken)),
                    None => {}
                }
                prop_assert_eq!(directory.count(), model.len());
                for n in 0..60 {
                    prop_assert_eq!(directory.by_name(&name(n)), model.get(&n).map(|place| place.slot));
                }
                for place in model.values() {
                    prop_assert_eq!(directory.by_id(place.id), Some(place.slot));
                }
                let mut ids: Vec<u64> = model.values().map(|place| place.id).collect();
                ids.sort_unstable();
                let mut found = vec![];
                while let Some(place) = directory.after(found.last().copied().unwrap_or(0)) {
                    found.push(place.id);
                }
                prop_assert_eq!(found, ids);
            }
        }
    }
}
