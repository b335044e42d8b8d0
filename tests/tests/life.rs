//! What outlives a management guest, and how it is brought back; consoles and power buttons of VMs.

use salp_tests::{Setup, guest};

#[test]
fn calls_about_what_outlives_a_manager_answer_as_described() {
    let manager = guest("manager").manager().append("do=life");
    let source = guest("clone").named("source").append("role=frozen then=wait");
    let ended = Setup::of(manager).vm(source).run().all_off().passed("manager");
    ended.check(ended.kib_left().last() == Some(&0), "memory of guests is still in use");
}
