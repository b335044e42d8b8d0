//! The machine's side of the management guest. Before: guest-kit's runtime. After: the service of this package's library.
//!
//! [`network`] moves bytes, over [`nic`]s with [`addresses`] ([`announce`]d), between [`place`]s and their peers ([`farewell`] to those that
//! were lost), and [`leases`] serves addresses to others; [`outbound`] tells listeners, [`wire`] are connections to servers, by
//! their [`names`], [`time`] asks servers for it; [`calls`] is the
//! hypervisor, [`life`] is how this guest outlives its own death, [`random`] and [`clock`] are what they say.
//!
//! Boot arguments: `address=A.B.C.D/N` and `gateway=A.B.C.D` instead of DHCP; `address6=` and `gateway6=` besides what routers
//! say; `dhcp=NIC:A.B.C.D/N` to serve addresses on a further NIC, and `dns=A.B.C.D` to be told to who gets one; `fault=` to [fail](life::note_request) on purpose.

mod addresses;
mod announce;
mod calls;
mod clock;
mod farewell;
mod leases;
mod life;
mod names;
mod network;
mod nic;
mod outbound;
mod place;
mod random;
mod time;
mod wire;

use alloc::boxed::Box;

use guest_kit::{gic, machine, println, rt, salp};
use life::Begin;
use salp_hvc::calls::FEATURE_MANAGEMENT;
use salp_hvc::manager::RECOVERY_HANG;
use salp_mgmt::auth::{ADMINISTRATOR, Role};
use salp_mgmt::fake::Fake;
use salp_mgmt::hypervisor::Hypervisor;
use salp_mgmt::service::{Facts, Service};
use salp_mgmt::tls::certificate::Identity;
use salp_mgmt::{state, tls};
use salp_provider::entropy::Entropy;

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
    // The fake one's images share the heap with connections.
    let mut hypervisor: Box<dyn Hypervisor> =
        if is_salp { Box::new(calls::Calls::default()) } else { Box::new(Fake::new(heap as usize / 4)) };
    let kind = if is_salp { "Salp" } else { "a fake hypervisor: this is no Salp" };
    println!("mgmt: manages {kind}; {heap} bytes of heap of {} MiB", (machine::ram_end() - machine::ram_start()) >> 20);
    let now = clock::seconds();
    let (identity, uuid) = identity(&mut *hypervisor, entropy, now);
    let config = tls::server(&identity, entropy).expect("the provider is complete");
    let mut service = Service::new(hypervisor, entropy, identity, Facts { uuid, started: now });
    if !service.recall(now) {
        first_contact(&mut service);
    }
    // All from here on is done again after each return to the checkpoint; what is above is as it was then.
    if let Begin::Again(count, why) = life::checkpoint() {
        let how = if why == RECOVERY_HANG { "hung" } else { "crashed" };
        println!("mgmt: it {how}, and is back ({count})");
        // There are accounts: they were kept before.
        service.recall(clock::seconds());
    }
    network::serve(entropy, config, &mut service)
}

/// Returns the server's key and certificate and the service's UUID: those of the first start, or new ones.
fn identity(hypervisor: &mut dyn Hypervisor, entropy: &'static dyn Entropy, now: u64) -> (Identity, [u8; 16]) {
    if let Some(kept) = state::recall_identity(hypervisor) {
        return kept;
    }
    let mut uuid = [0; 16];
    entropy.fill(&mut uuid);
    // A random UUID (RFC 9562 section 5.4).
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let loopback = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let identity = Identity::new(entropy, now, &["salp", "localhost"], &[&[127, 0, 0, 1], &loopback]);
    if state::keep_identity(hypervisor, &identity, uuid).is_err() {
        println!("mgmt: the key and the certificate are not kept: the next start makes others");
    }
    (identity, uuid)
}

/// Makes the first account, and tells whoever reads the console what opens it, for people and for programs. It is told once.
fn first_contact(service: &mut Service) {
    let password = service.auth.make_password();
    assert!(service.auth.set(ADMINISTRATOR, &password, Role::Administrator), "no memory for the first password");
    service.keep();
    println!("mgmt: user {ADMINISTRATOR} password {password}");
    println!(r#"mgmt: first-contact {{"user":"{ADMINISTRATOR}","password":"{password}"}}"#);
    println!("{}", service.keys.identity().pem());
}
