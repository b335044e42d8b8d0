//! The machine's side of the management guest. Before: guest-kit's runtime. After: the service of this package's library.
//!
//! [`network`] moves packets and bytes, [`calls`] is the hypervisor, [`random`] and [`clock`] are what they say.
//!
//! Boot arguments: `address=A.B.C.D/N` and `gateway=A.B.C.D` instead of DHCP.

mod calls;
mod clock;
mod life;
mod network;
mod random;

use alloc::boxed::Box;

use guest_kit::{gic, machine, println, rt, salp};
use salp_hvc::calls::FEATURE_MANAGEMENT;
use salp_mgmt::auth::{ADMINISTRATOR, Role};
use salp_mgmt::fake::Fake;
use salp_mgmt::hypervisor::Hypervisor;
use salp_mgmt::service::{Facts, Service};
use salp_mgmt::tls;
use salp_mgmt::tls::certificate::Identity;

/// Serves for good.
///
/// # Panics
///
/// If the machine lacks what nothing works without: memory, random bytes, a network device.
pub fn main() {
    let heap = rt::heap::init();
    gic::init();
    let entropy = random::source();
    let is_salp = salp::features() & FEATURE_MANAGEMENT != 0;
    let hypervisor: Box<dyn Hypervisor> = if is_salp { Box::new(calls::Calls) } else { Box::<Fake>::default() };
    let mut uuid = [0; 16];
    entropy.fill(&mut uuid);
    // A random UUID (RFC 9562 section 5.4).
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let now = clock::seconds();
    let mut service = Service::new(hypervisor, entropy, Facts { uuid, started: now });
    let password = service.auth.make_password();
    assert!(service.auth.set(ADMINISTRATOR, &password, Role::Administrator), "no memory for the first password");
    let loopback = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let identity = Identity::new(entropy, now, &["salp", "localhost"], &[&[127, 0, 0, 1], &loopback]);
    let config = tls::server(&identity, entropy).expect("the provider is complete");
    let kind = if is_salp { "Salp" } else { "a fake hypervisor: this is no Salp" };
    println!("mgmt: manages {kind}; {heap} bytes of heap of {} MiB", (machine::ram_end() - machine::ram_start()) >> 20);
    println!("mgmt: user {ADMINISTRATOR} password {password}");
    println!("{}", identity.pem());
    network::serve(entropy, &config, &mut service)
}
