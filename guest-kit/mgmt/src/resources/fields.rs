//! What request bodies hold, as data: the [`table`](crate::table) names it for each method that takes a body, and
//! [`openapi`](crate::openapi) publishes it. Before: resources, which read bodies by [`body`](super::body). After: clients that ask
//! before they send. A test compares what is read with what is here.

use Shape::{Flag, Link, Number, Object, Text};

/// A member of a body.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub shape: Shape,
    /// Whether it has to be there.
    pub is_needed: bool,
}

/// What a value is.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A text that this pattern (ECMA-262) fits.
    Text(&'static str),
    /// The same, or null.
    TextOrNull(&'static str),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of such words.
    Words(&'static [&'static str]),
    /// A list of at most so many texts.
    Texts(usize, &'static str),
    /// A whole number, from here to there.
    Number(u64, u64),
    /// A number of GiB, from and to so many bytes.
    Gibibytes(u64, u64),
    /// Yes or no.
    Flag,
    /// Only this of yes and no.
    Only(bool),
    /// A link to another resource.
    Link,
    /// A link, or null.
    LinkOrNull,
    /// A list of at most so many links.
    Links(usize),
    /// A list of objects with texts of any names, at most so many texts.
    Pairs(usize),
    /// An object with these members.
    Object(&'static [Field]),
    /// A list of at most so many objects.
    List(usize, &'static [Field]),
}

/// Returns a member that may be left away.
pub const fn field(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, is_needed: false }
}

/// Returns a member that has to be there.
pub const fn needed(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, is_needed: true }
}

/// Returns the names in a table, as lists of words want them.
pub const fn names<T, const N: usize>(all: &[(&'static str, T); N]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut index = 0;
    while index < N {
        names[index] = all[index].0;
        index += 1;
    }
    names
}

/// The name of a VM or a snapshot.
pub const NAME: Shape = Text("^[A-Za-z0-9._-]{1,31}$");
/// The name of a segment.
pub const SEGMENT: Shape = Text("^[A-Za-z0-9._-]{1,15}$");
/// Text without control characters.
pub const LINE: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";
/// Short text of any kind.
pub const SHORT: Shape = Text("^[ -~]{0,200}$");

/// The VLAN of a NIC.
pub const VLAN: Field =
    field("VLAN", Object(&[field("VLANEnable", Flag), field("VLANId", Number(1, super::nics::MAX_VLAN))]));
/// How much a NIC may send.
pub const RATE: Field = field("RateBytesPerSecond", Number(0, super::nics::MAX_RATE));

/// No parameters.
pub const NOTHING: &[Field] = &[];
/// The one link that is needed.
pub const fn needed_link(name: &'static str) -> Field {
    needed(name, Link)
}
