//! The packed area: what the image carries behind its own code and data.
//!
//! The flat image covers `__image_start` to `__packed_start` of the linked firmware. The packed area starts there, at a page
//! boundary, and is made by whoever makes the image:
//!
//! ```text
//! Header | Symbols | Symbol × count | names | padding | boot set, at a page boundary | padding to a whole page
//! ```
//!
//! Offsets are in bytes from the header unless said otherwise, little endian. It ends before `__zeros_start`, where memory
//! begins that is not in the file; `image_size` of the arm64 `Image` header at the image's start counts that too.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first eight bytes of the packed area.
pub const MAGIC: [u8; 8] = *b"SALPPACK";

/// The start of the packed area.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Where [`Symbols`] starts.
    pub symbols_offset: U32,
    /// The size of [`Symbols`], its records and its names, in bytes.
    pub symbols_len: U32,
    /// Where the built-in boot set (see [`bootset`](crate::bootset)) starts: page aligned, or zero if there is none.
    pub bootset_offset: U32,
    /// The size of the boot set in bytes, or zero if there is none.
    pub bootset_len: U32,
    /// The size of the packed area in bytes, this header included: whole pages.
    pub total_size: U64,
}

/// The start of the symbol table: the functions of the image, for backtraces.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Symbols {
    /// How many [`Symbol`]s follow, in ascending order of `offset`. The names follow them.
    pub count: U32,
}

/// A function.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Symbol {
    /// Its first instruction, in bytes from `__image_start`.
    pub offset: U32,
    /// Where its name starts, in bytes from the first name: UTF-8, demangled, ended by a NUL.
    pub name: U32,
}

const _: () = assert!(size_of::<Header>() == 32);
const _: () = assert!(size_of::<Symbols>() == 4);
const _: () = assert!(size_of::<Symbol>() == 8);
