//! Objects of EL2 that live in frames of their own: EL2 has no heap.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use salp_core::addr::{PAGE_SIZE, Pa};

/// One `T` in frames that it owns. Dropping it drops the value and leaks the frames: [`Own::release`] gives them back.
pub struct Own<T> {
    value: NonNull<T>,
    _owns: PhantomData<T>,
}

// SAFETY: an `Own` is the only way to its value, as a box is.
unsafe impl<T: Send> Send for Own<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Own<T> {}

impl<T> Own<T> {
    /// Puts `value` into the frames at `frames`.
    ///
    /// # Safety
    ///
    /// The frames are contiguous, hold at least `size_of::<T>()` bytes, and belong to the caller, who gives them away.
    pub unsafe fn new(frames: Pa, value: T) -> Self {
        const { assert!(align_of::<T>() <= PAGE_SIZE as usize) };
        let place = NonNull::new(frames.0 as *mut T).expect("no frame is at 0");
        // SAFETY: the caller's promise; a page is aligned for any `T`.
        unsafe { place.write(value) };
        Self { value: place, _owns: PhantomData }
    }

    /// Drops the value and returns its frames.
    pub fn release(self) -> Pa {
        let frames = Pa(self.value.as_ptr() as u64);
        drop(self);
        frames
    }
}

impl<T> Deref for Own<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: valid since `new`; shared borrows follow those of the `Own`.
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for Own<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: valid since `new`; the `Own` is borrowed exclusively.
        unsafe { self.value.as_mut() }
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        // SAFETY: the value is dropped once: the `Own` is gone afterwards.
        unsafe { self.value.drop_in_place() };
    }
}
