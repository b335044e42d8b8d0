//! Management calls about what VMs are made from, and about their power ([`salp_hvc::manager`]): taken out of a manager's
//! registers. Before: [`super::manage`]; after: [`crate::images`] and the machine, which carry a [`Request`] out.

use crate::addr::Ipa;
use salp_hvc::manager::{
    IMAGE_CREATE, IMAGE_DELETE, IMAGE_FINISH, IMAGE_LABEL, IMAGE_NEXT, IMAGE_READ, IMAGE_WRITE, VM_CHANGE, VM_CREATE,
    VM_RESET, VM_START, VM_STOP,
};

/// What a manager asks for. Addresses are in its RAM and not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Request {
    /// Make the VM that the records describe.
    Create { from: Ipa, size: u64 },
    /// Describe the VM anew.
    Change { vm: u64, from: Ipa, size: u64 },
    /// Start the VM, which is off.
    Start { vm: u64 },
    /// Turn the VM off.
    Stop { vm: u64 },
    /// Start the VM again.
    Reset { vm: u64 },
    /// Make the image that the record describes.
    CreateImage { from: Ipa },
    /// Copy bytes into the image.
    WriteImage { image: u64, offset: u64, from: Ipa, size: u64 },
    /// Copy bytes out of the image.
    ReadImage { image: u64, offset: u64, to: Ipa, size: u64 },
    /// Finish the image.
    FinishImage { image: u64 },
    /// Delete the image.
    DeleteImage { image: u64 },
    /// Write what is known of the first image after this identifier.
    NextImage { after: u64, to: Ipa },
    /// Give the image this label.
    LabelImage { image: u64, from: Ipa },
}

/// Returns what such a call asks for, or `None` if there is no such call.
pub const fn decode(id: u32, [a, b, c, d]: [u64; 4]) -> Option<Request> {
    Some(match id {
        VM_CREATE => Request::Create { from: Ipa(a), size: b },
        VM_CHANGE => Request::Change { vm: a, from: Ipa(b), size: c },
        VM_START => Request::Start { vm: a },
        VM_STOP => Request::Stop { vm: a },
        VM_RESET => Request::Reset { vm: a },
        IMAGE_CREATE => Request::CreateImage { from: Ipa(a) },
        IMAGE_WRITE => Request::WriteImage { image: a, offset: b, from: Ipa(c), size: d },
        IMAGE_READ => Request::ReadImage { image: a, offset: b, to: Ipa(c), size: d },
        IMAGE_FINISH => Request::FinishImage { image: a },
        IMAGE_DELETE => Request::DeleteImage { image: a },
        IMAGE_NEXT => Request::NextImage { after: a, to: Ipa(b) },
        IMAGE_LABEL => Request::LabelImage { image: a, from: Ipa(b) },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_where_the_calls_say() {
        assert_eq!(decode(VM_CHANGE, [7, 8, 9, 0]), Some(Request::Change { vm: 7, from: Ipa(8), size: 9 }));
        let write = Request::WriteImage { image: 1, offset: 2, from: Ipa(3), size: 4 };
        assert_eq!(decode(IMAGE_WRITE, [1, 2, 3, 4]), Some(write));
        assert_eq!(decode(0xc600_0047, [0; 4]), None);
    }
}
