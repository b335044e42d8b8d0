//! Objects of EL2 that live in frames of their own: EL2 has no heap.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use salp_core::addr::{PAGE_SIZE, Pa};
use zerocopy::FromBytes;

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
    /// The frame comes from core's frame table, allocated for this call: that is what makes it the caller's to give.
    #[inline(always)] // A value that is made for it is made in place.
    pub fn new(frame: Pa, value: T) -> Self {
        const { assert!(align_of::<T>() <= PAGE_SIZE as usize && size_of::<T>() <= PAGE_SIZE as usize) };
        let place = NonNull::new(frame.0 as *mut T).expect("no frame is at 0");
        // SAFETY: the frame table gave this frame to the caller alone; it is RAM, mapped as itself, large and aligned enough.
        unsafe { place.write(value) };
        Self { value: place, _owns: PhantomData }
    }

    /// Takes over the value that lies in the frame at `frame`: any bytes are one.
    ///
    /// The frame is EL2's own by core's frame table, and a record of a hand-over gives it to the caller alone.
    pub fn adopt(frame: Pa) -> Self
    where
        T: FromBytes,
    {
        const { assert!(align_of::<T>() <= PAGE_SIZE as usize && size_of::<T>() <= PAGE_SIZE as usize) };
        Self { value: NonNull::new(frame.0 as *mut T).expect("no frame is at 0"), _owns: PhantomData }
    }

    /// Returns the frame.
    pub fn frame(&self) -> Pa {
        Pa(self.value.as_ptr() as u64)
    }

    /// Returns the value and its frame.
    pub fn into_inner(self) -> (T, Pa) {
        let frame = Pa(self.value.as_ptr() as u64);
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: moved out once: `this` is not dropped.
        (unsafe { this.value.read() }, frame)
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
