//! NOR flash as everything above sees it: erasing a block sets all its bits, programming clears some. A cut of power leaves a
//! part of what was under way, and the word that was being written as anything. Before: `salp_hw::cfi`; after:
//! [`crate::slots`], [`crate::update`], [`crate::store`].

#[cfg(test)]
pub mod simulated;

/// The greatest erase block that the flash's layout has room for, in bytes.
pub const MAX_BLOCK: u64 = 256 << 10;

/// How much one [`Flash::program`] may write, in bytes, and where its pages start.
pub const PAGE: usize = 512;

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It takes longer.
    Busy,
    /// Nothing is under way.
    Ready,
    /// It failed: the flash is worn out, or protected.
    Failed,
}

/// A flash. While an operation is under way nothing else is asked of it but [`poll`](Self::poll).
pub trait Flash {
    /// Returns the size of an erase block, in bytes: a power of two, at most [`MAX_BLOCK`].
    fn block(&self) -> u64;

    /// Reads bytes.
    fn read(&self, at: u64, to: &mut [u8]);

    /// Begins to erase the block at `at`.
    fn erase(&mut self, at: u64);

    /// Begins to program bytes, all in one page.
    fn program(&mut self, at: u64, bytes: &[u8]);

    /// Returns how far that is.
    fn poll(&mut self) -> Progress;
}

/// Waits for an operation: for those who have nothing else to do.
///
/// # Errors
///
/// It failed.
pub fn wait(flash: &mut impl Flash) -> Result<(), Worn> {
    loop {
        match flash.poll() {
            Progress::Busy => core::hint::spin_loop(),
            Progress::Ready => return Ok(()),
            Progress::Failed => return Err(Worn),
        }
    }
}

/// Says that the flash did not do what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worn;
