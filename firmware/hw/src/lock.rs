//! Spin locks that tell the machine that they spin: hardware threads and emulators let the holder run.
//!
//! Who holds one may be gone: a CPU that cannot go on [leaves](crate::crash) everything as it was. A CPU that waits while another
//! one has left leaves too; the last one takes over what is locked.

use crate::crash;
use core::sync::atomic::{AtomicBool, Ordering};

/// Waits a moment by YIELD.
pub struct Yield;

impl spin::RelaxStrategy for Yield {
    #[inline]
    fn relax() {
        relax();
    }
}

/// Tells the machine that this CPU spins.
#[inline]
pub fn relax() {
    // SAFETY: a hint.
    unsafe { core::arch::asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// Nobody comes back to locks that are held: one CPU is left, and it has left behind what it did.
static IS_ABANDONED: AtomicBool = AtomicBool::new(false);

/// Lets this CPU take locks that are held: whoever held one is gone.
///
/// To be called when no other CPU is in this image any more, on one that does not return to what it did when it took locks.
pub(crate) fn abandon_all() {
    IS_ABANDONED.store(true, Ordering::Relaxed);
}

/// Waits a moment for another CPU. It does not come back if that may have left: this one leaves too. Returns true if nobody is left
/// who could unlock anything.
#[cold]
#[inline(never)]
pub fn wait() -> bool {
    relax();
    crash::leave_too();
    IS_ABANDONED.load(Ordering::Relaxed)
}

/// Tries until it locks. When nobody is left who could unlock, it is unlocked by force.
#[inline(always)]
fn until_locked<G>(try_lock: impl Fn() -> Option<G>, unlock: impl Fn()) -> G {
    loop {
        if let Some(guard) = try_lock() {
            return guard;
        }
        if wait() {
            unlock();
        }
    }
}

/// A mutex. Each lock is a CPU's, for a moment.
pub struct Mutex<T>(spin::mutex::SpinMutex<T, Yield>);

/// What has locked a [`Mutex`].
pub type MutexGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T, Yield>;

impl<T> Mutex<T> {
    /// Returns one that is not locked.
    pub const fn new(value: T) -> Self {
        Self(spin::mutex::SpinMutex::new(value))
    }

    /// Waits until it is not locked, and locks it.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        // SAFETY: this is the only CPU, and does not come back to where it has a guard of this one: there is no other borrow.
        until_locked(|| self.0.try_lock_weak(), || unsafe { self.0.force_unlock() })
    }

    /// Locks it if it is not locked.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock()
    }

    /// Locks it if one of so many tries finds it not locked.
    #[inline]
    pub fn lock_within(&self, tries: u32) -> Option<MutexGuard<'_, T>> {
        (0..tries).find_map(|_| {
            let guard = self.try_lock();
            if guard.is_none() {
                relax();
            }
            guard
        })
    }

    /// Returns what is in it.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

/// A lock with one writer or many readers.
pub struct RwLock<T>(spin::rwlock::RwLock<T, Yield>);

/// What a reader of an [`RwLock`] has.
pub type RwLockReadGuard<'a, T> = spin::rwlock::RwLockReadGuard<'a, T, Yield>;

/// What a writer of an [`RwLock`] has.
pub type RwLockWriteGuard<'a, T> = spin::rwlock::RwLockWriteGuard<'a, T, Yield>;

impl<T> RwLock<T> {
    /// Returns one that is not locked.
    pub const fn new(value: T) -> Self {
        Self(spin::rwlock::RwLock::new(value))
    }

    /// Waits until nobody writes, and locks it to read.
    #[inline]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        until_locked(|| self.0.try_read(), || self.unlock())
    }

    /// Waits until nobody else uses it, and locks it to write.
    #[inline]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        until_locked(|| self.0.try_write(), || self.unlock())
    }

    /// Locks it to write if nobody uses it.
    #[inline]
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        self.0.try_write()
    }

    /// Takes it from who has it and is gone.
    #[cold]
    fn unlock(&self) {
        // SAFETY: as for a mutex. Who waits to read finds a writer; who waits to write may find readers.
        unsafe {
            if self.0.writer_count() != 0 {
                self.0.force_write_unlock();
            }
            (0..self.0.reader_count()).for_each(|_| self.0.force_read_decrement());
        }
    }
}
