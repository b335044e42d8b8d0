//! Spin locks that tell the machine that they spin: hardware threads and emulators let the holder run.

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

/// A mutex.
pub type Mutex<T> = spin::mutex::Mutex<T, Yield>;

/// A lock with one writer or many readers.
pub type RwLock<T> = spin::rwlock::RwLock<T, Yield>;

/// What a writer of an [`RwLock`] has.
pub type RwLockWriteGuard<'a, T> = spin::rwlock::RwLockWriteGuard<'a, T, Yield>;
