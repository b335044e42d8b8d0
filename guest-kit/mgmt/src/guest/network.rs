//! Packets and connections: smoltcp, and a fixed number of places for connections. Before: `main`. After: [`place`](super::place).
//!
//! One loop does everything: some packets, then each connection, then sleep until a device or a timer has something. Each
//! turn of it is bounded, whatever comes: who waits too long for a heartbeat takes this guest back to its checkpoint. The first
//! NIC is this guest's own; the others are for [`leases`].
//!
//! TCP here has no queue of peers that come: one that finds nobody who listens is refused. So there are more places than
//! connections that are served, and when few are left who shows least for its place gives it up ([`Claim`]). And packets are
//! moved after each connection that had something to do: they wait in the device's ring, which is finite too.

use alloc::sync::Arc;
use alloc::vec::Vec;

use guest_kit::{gic, timer};
use rustls::ServerConfig;
use salp_mgmt::http::{CONNECTIONS, Claim};
use salp_mgmt::media::jobs;
use salp_mgmt::service::Service;
use salp_mgmt::tls;
use salp_mgmt::tls::client::{Certificates, Tls};
use salp_provider::entropy::Entropy;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::EthernetAddress;

use super::addresses::{self, Addresses};
use super::announce::announce;
use super::farewell::Farewell;
use super::leases::{self, Segment};
use super::names::Names;
use super::nic::{self, Nic};
use super::outbound::Outbound;
use super::place::{self, Place, Progress, Socket};
use super::time::Time;
use super::wire::{Line, Working};
use super::{calls, clock, life};

/// How many places are kept free for who comes.
const SPARE: usize = 8;
/// How many packets are looked at before it is seen to that there are: each can take one.
const BATCH: usize = SPARE;
/// How many connections move before packets do: each look at all sockets costs the more the more there are, and what
/// connections have to send meanwhile fits their buffers.
const TOGETHER: usize = 8;
/// How many are looked at before it is the connections' turn.
const PACKETS: usize = 128;
/// The longest sleep, in milliseconds: the heart beats meanwhile.
const NAP: u64 = life::BEAT;
/// How long it sleeps while somebody follows a console, in milliseconds.
const DOZE: u64 = 20;
/// How often VMs are looked after that are to start when they are off, in milliseconds.
const LOOK: u64 = 500;
/// How long an answer has to leave before what it answers is carried out, in milliseconds.
const GRACE: u64 = 1000;
/// How often it is tidied up, in milliseconds.
const TIDY: u64 = 60_000;

fn now() -> Instant {
    Instant::from_millis(clock::milliseconds() as i64)
}

/// Takes packets that have come, but only so many: they may come faster than they are looked at. Returns how many there were.
fn take(interface: &mut Interface, nic: &mut Nic, sockets: &mut SocketSet<'_>, most: usize) -> usize {
    let now = now();
    let is_there = |_: &usize| interface.poll_ingress_single(now, nic, sockets) != PollIngressSingleResult::None;
    (0..most).take_while(is_there).count()
}

/// Sends what there is to send.
fn send(interface: &mut Interface, nic: &mut Nic, sockets: &mut SocketSet<'_>) {
    let now = now();
    while interface.poll_egress(now, nic, sockets) != PollResult::None {}
}

/// Moves packets, but only so many. Returns true if there may be more.
pub fn poll(interface: &mut Interface, nic: &mut Nic, sockets: &mut SocketSet<'_>) -> bool {
    interface.poll_maintenance(now());
    let count = take(interface, nic, sockets, PACKETS);
    send(interface, nic, sockets);
    count == PACKETS
}

/// This guest's own end of the network.
struct Endpoint {
    interface: Interface,
    nic: Nic,
    sockets: SocketSet<'static>,
    /// Places for connections, and few more.
    places: Vec<Place>,
    /// Where else there could be some: each socket that smoltcp knows costs every look at all of them.
    spare: Vec<Socket>,
    /// How many have come.
    comers: u64,
    farewell: Farewell,
    /// Who has a connection is not as it was kept.
    has_changed: bool,
    /// The time by which peers are slow, in milliseconds, and when it was looked at.
    time: u64,
    seen: u64,
}

impl Endpoint {
    /// Moves packets, but only so many. Returns how many have come.
    fn poll(&mut self) -> usize {
        self.interface.poll_maintenance(now());
        let mut count = 0;
        while count < PACKETS {
            let taken = take(&mut self.interface, &mut self.nic, &mut self.sockets, BATCH);
            count += taken;
            if taken > 0 {
                self.make_room();
            }
            if taken < BATCH {
                break;
            }
        }
        send(&mut self.interface, &mut self.nic, &mut self.sockets);
        self.farewell.finish(&mut self.sockets);
        count
    }

    /// Sees to it that there are free places, as long as somebody has less to show for one than to be served now.
    fn make_room(&mut self) {
        let mut free = 0;
        for place in &mut self.places {
            if place.is_free(&self.sockets) {
                free += 1;
            } else if place.number_who_came(self.comers) {
                self.comers += 1;
            }
        }
        while free < SPARE
            && let Some(socket) = self.spare.pop()
        {
            self.places.push(Place::new(&mut self.sockets, socket));
            free += 1;
        }
        for _ in free..SPARE {
            let taken = self.places.iter_mut().filter(|place| !place.is_free(&self.sockets));
            let least = taken.map(|place| (place.claim(&self.sockets), place)).min_by_key(|&(claim, _)| claim);
            let Some((_, place)) = least.filter(|((claim, _), _)| *claim != Claim::Busy) else { return };
            self.has_changed |= place.peer().is_some();
            place.abort(&mut self.sockets);
            // The peer is told before the socket forgets it.
            send(&mut self.interface, &mut self.nic, &mut self.sockets);
            place.listen(&mut self.sockets);
        }
    }

    /// Gives up places that nobody needs any more.
    fn tidy(&mut self) {
        let free = self.places.iter().filter(|place| place.is_free(&self.sockets)).count();
        for _ in 2 * SPARE..free {
            if let Some(index) = self.places.iter().position(|place| place.is_free(&self.sockets)) {
                self.spare.push(self.places.swap_remove(index).leave(&mut self.sockets));
            }
        }
    }

    /// Moves bytes of each connection. Returns true if one goes on though nothing comes.
    fn drive(&mut self, config: &Arc<ServerConfig>, service: &mut Service) -> bool {
        // A turn may take long when many come at once: that is not the slowness of those who wait for it.
        let now = clock::milliseconds();
        self.time += now.saturating_sub(self.seen).min(NAP);
        self.seen = now;
        let (mut is_busy, mut moved) = (false, 0);
        for index in 0..self.places.len() {
            // Most are free, and to look at more of them than that costs each request.
            let Some(place) = self.places.get_mut(index).filter(|place| !place.is_free(&self.sockets)) else {
                continue;
            };
            let before = place.peer();
            let progress = place.drive(&mut self.sockets, config, service, self.time);
            self.has_changed |= place.peer() != before;
            if progress != Progress::Nothing {
                life::beat();
                is_busy |= progress == Progress::More;
                moved += 1;
            }
            // What comes meanwhile may be for one whose turn is over.
            if moved == TOGETHER {
                is_busy |= self.poll() > 0;
                moved = 0;
            }
        }
        if moved > 0 {
            is_busy |= self.poll() > 0;
        }
        if core::mem::take(&mut self.has_changed) {
            let peers = self.places.iter().filter_map(Place::peer);
            service.keep_peers(&mut peers.chain(self.farewell.peers().iter().copied()));
        }
        is_busy
    }
}

/// Sleeps until a device has a packet or so many milliseconds are over. That something has left is no reason to get up.
fn sleep(nic: &mut Nic, segments: &mut [Segment], milliseconds: u64) {
    timer::doze(
        milliseconds,
        &mut (nic, segments),
        |(nic, segments)| nic.has_packet() || segments.iter().any(Segment::has_packet),
        |(nic, segments)| {
            nic.acknowledge();
            segments.iter_mut().for_each(Segment::acknowledge);
        },
    );
}

/// Returns after how many milliseconds settings are carried out: those that there were at once, others when the answer is gone.
fn delay_of(version: u64) -> u64 {
    if version == 0 { 0 } else { GRACE }
}

/// Serves for good.
///
/// # Panics
///
/// If there is no network device.
pub fn serve(entropy: &'static dyn Entropy, mut config: Arc<ServerConfig>, service: &mut Service) {
    let mut nics = nic::all();
    assert!(!nics.is_empty(), "there is a network device");
    gic::enable(timer::VIRTUAL_INTID);
    gic::set_edge(calls::EVENT_INTID, true);
    gic::enable(calls::EVENT_INTID);
    let mut seed = [0; 8];
    entropy.fill(&mut seed);
    let seed = u64::from_le_bytes(seed);
    let mut segments = leases::segments(&mut nics, addresses::dns(), seed);
    let mut nic = nics.swap_remove(0);
    let mac = nic.mac_address();
    let mut settings = Config::new(EthernetAddress(mac).into());
    settings.random_seed = seed;
    settings.slaac = true;
    let mut interface = Interface::new(settings, &mut nic, now());
    let mut sockets = SocketSet::new(Vec::new());
    let mut addresses = Addresses::new(&mut interface, &mut sockets, mac);
    let tls = Tls::new(entropy);
    let client = Arc::new(tls.config(&Certificates::Any, 0).expect("the provider is complete"));
    let mut names = Names::new(&mut sockets);
    let mut lines: Vec<Line> =
        (0..jobs::MOST as u64).map(|place| Line::new(&mut sockets, seed >> (16 * place))).collect();
    let mut outbound = Outbound::new(&mut sockets, tls, seed);
    let mut time = Time::new(&mut sockets);
    let (mut version, mut due, mut looked) = (0, None, 0);
    // All that there can ever be: nobody finds none later.
    let spare = (0..CONNECTIONS + SPARE).map(|_| place::socket()).collect();
    let farewell = Farewell::new(service.recall_peers(), clock::milliseconds());
    let seen = clock::milliseconds();
    let mut endpoint = Endpoint {
        interface,
        nic,
        sockets,
        places: Vec::new(),
        spare,
        comers: 0,
        farewell,
        has_changed: false,
        time: seen,
        seen,
    };
    endpoint.make_room();
    let (mut tidied, mut announced) = (seen, None);
    loop {
        life::beat();
        let rest = endpoint.farewell.prepare(&endpoint.interface, &mut endpoint.sockets, clock::milliseconds());
        let mut is_busy = endpoint.poll() >= PACKETS;
        endpoint.tidy();
        addresses.poll(&mut endpoint.interface, &mut endpoint.sockets);
        // What has happened is told in this turn.
        is_busy |= service.work(clock::seconds());
        is_busy |= endpoint.drive(&config, service);
        if service.appliance.version() != version
            && clock::milliseconds() >= *due.get_or_insert(clock::milliseconds() + delay_of(version))
        {
            (version, due) = (service.appliance.version(), None);
            addresses.apply(service.appliance.settings(), &mut endpoint.interface, &mut endpoint.sockets);
        }
        service.appliance.reached = addresses.reached(&endpoint.interface);
        let own = service.appliance.reached.ipv4.map(|(address, _)| address);
        if own != announced && own.is_none_or(|own| announce(&mut endpoint.nic, own, now())) {
            announced = own;
        }
        names.set_servers(&mut endpoint.sockets, addresses.name_servers());
        time.drive(&mut endpoint.interface, &mut endpoint.sockets, &mut names, service, entropy);
        is_busy |= outbound.drive(&mut names, &mut endpoint.interface, &mut endpoint.sockets, service);
        for (place, line) in lines.iter_mut().enumerate() {
            if service.jobs.is_empty() {
                break;
            }
            life::beat();
            let (interface, sockets) = (&mut endpoint.interface, &mut endpoint.sockets);
            let mut wire = Working { line, interface, sockets, names: &mut names, config: &client };
            service.drive_job(place, &mut wire, clock::milliseconds(), clock::seconds());
        }
        if clock::milliseconds().saturating_sub(looked) > LOOK {
            looked = clock::milliseconds();
            service.go_on(clock::seconds());
        }
        // Connections that there are go on with what they began with.
        if let Some(renewed) = service.keys.renewed().and_then(|identity| tls::server(identity, entropy).ok()) {
            config = renewed;
        }
        let mut delay = rest.unwrap_or(NAP).min(NAP);
        for segment in &mut segments {
            life::beat();
            delay = segment.drive().unwrap_or(NAP).min(delay);
        }
        if clock::milliseconds().saturating_sub(tidied) > TIDY {
            tidied = clock::milliseconds();
            service.tidy(clock::seconds());
        }
        if is_busy {
            continue;
        }
        if endpoint.places.iter().any(Place::is_live) || service.jobs.is_busy() || outbound.is_live() {
            delay = delay.min(DOZE);
        }
        let due = endpoint.interface.poll_delay(now(), &endpoint.sockets);
        delay = due.map_or(delay, |due| due.total_millis().min(delay));
        if delay > 0 {
            sleep(&mut endpoint.nic, &mut segments, delay);
        }
    }
}
