//! What calls answer in x0: zero, or why not. The first three are those of SMCCC and PSCI.

/// It was done.
pub const OK: i64 = 0;
/// There is no such call, or not for this VM.
pub const NOT_SUPPORTED: i64 = -1;
/// An argument makes no sense.
pub const INVALID: i64 = -2;
/// The caller has no right to it.
pub const DENIED: i64 = -3;
/// There is no VM (or snapshot) with this identifier or name, or not any more.
pub const NOT_FOUND: i64 = -16;
/// Another operation on the same VM is not finished.
pub const BUSY: i64 = -17;
/// The machine's memory does not allow it. Nothing was changed.
pub const NO_MEMORY: i64 = -18;
/// There are as many VMs as the machine has room or identifiers for. Nothing was changed.
pub const TOO_MANY: i64 = -19;
/// A VM or snapshot has this name already.
pub const NAME_TAKEN: i64 = -20;
/// The VM's present state does not allow it: it is not frozen, it is ending, it is no snapshot of this VM.
pub const WRONG_STATE: i64 = -21;
/// An address of the caller's is not in its RAM.
pub const BAD_ADDRESS: i64 = -22;
/// A VM is made from the image.
pub const IN_USE: i64 = -23;
/// The bundle is refused; x1 says why.
pub const REFUSED: i64 = -24;
/// The flash has no room for it. What it held is as it was.
pub const NO_ROOM: i64 = -25;
/// The new image of the hypervisor did not take over: the one before goes on.
pub const FAILED: i64 = -28;

/// Returns the word that stands for a status, for people and scripts.
pub const fn word(status: i64) -> &'static str {
    match status {
        OK => "ok",
        NOT_SUPPORTED => "not-supported",
        INVALID => "invalid",
        DENIED => "denied",
        NOT_FOUND => "not-found",
        BUSY => "busy",
        NO_MEMORY => "no-memory",
        TOO_MANY => "too-many",
        NAME_TAKEN => "name-taken",
        WRONG_STATE => "wrong-state",
        BAD_ADDRESS => "bad-address",
        IN_USE => "in-use",
        FAILED => "failed",
        REFUSED => "refused",
        NO_ROOM => "no-room",
        _ => "error",
    }
}
