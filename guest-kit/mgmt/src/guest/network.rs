//! Packets and connections: smoltcp, and a fixed number of places for connections. Before: `main`. After: [`Secure`], which
//! gets the bytes.
//!
//! One loop does everything: some packets, then each connection, then sleep until a device or a timer has something. Each
//! turn of it is bounded, whatever comes: who waits too long for a heartbeat takes this guest back to its checkpoint. A place
//! serves one connection after the other; a peer that comes when all are taken is refused by TCP. The first NIC is this
//! guest's own; the others are for [`leases`].

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use guest_kit::rt::sysreg;
use guest_kit::{gic, timer};
use rustls::ServerConfig;
use salp_mgmt::entropy::Entropy;
use salp_mgmt::media::jobs;
use salp_mgmt::service::Service;
use salp_mgmt::tls;
use salp_mgmt::tls::secure::Secure;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::EthernetAddress;

use super::addresses::{self, Addresses};
use super::leases::{self, Segment};
use super::names::Names;
use super::nic::{self, Nic};
use super::time::Time;
use super::wire::{Line, Working};
use super::{clock, life};

/// The port.
const PORT: u16 = 443;
/// How many connections there can be.
const PLACES: usize = salp_mgmt::http::CONNECTIONS;
/// Buffers of a connection, in bytes.
const RECEIVE: usize = 32768;
const SEND: usize = 16384;
/// How many packets are looked at before it is the connections' turn.
const PACKETS: usize = 128;
/// How long TCP may take to open or to close, in milliseconds.
const IMPATIENCE: u64 = 5000;
/// After how long of silence TCP asks whether the peer is there, and for how long it waits.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_secs(60);
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

/// Where one connection at a time is.
struct Place {
    handle: SocketHandle,
    secure: Option<Secure>,
    /// Since when TCP opens or closes.
    since: u64,
}

impl Place {
    fn new(sockets: &mut SocketSet<'_>) -> Self {
        let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
        let mut socket = tcp::Socket::new(buffer(RECEIVE), buffer(SEND));
        // Answers are whole when they are sent.
        socket.set_nagle_enabled(false);
        // Uploads wait for no acknowledgement.
        socket.set_ack_delay(None);
        // A console may be silent for hours; a peer that is gone is found out all the same.
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket.set_timeout(Some(TIMEOUT));
        Self { handle: sockets.add(socket), secure: None, since: 0 }
    }

    /// Returns true if something may be to send though nothing has come.
    fn is_live(&self) -> bool {
        self.secure.as_ref().is_some_and(Secure::is_live)
    }

    /// Moves bytes of the connection; returns true if there is something to send.
    fn drive(&mut self, sockets: &mut SocketSet<'_>, config: &Arc<ServerConfig>, service: &mut Service) -> bool {
        let socket = sockets.get_mut::<tcp::Socket>(self.handle);
        let now = clock::milliseconds();
        match socket.state() {
            tcp::State::Closed | tcp::State::TimeWait => {
                // What a late packet of the old connection does to a new one, sequence numbers and TLS prevent.
                socket.abort();
                self.secure = None;
                // The port is no zero and the socket is closed.
                let _ = socket.listen(PORT);
                return false;
            }
            tcp::State::Listen => {
                self.since = now;
                return false;
            }
            tcp::State::Established if self.secure.is_none() && now.saturating_sub(self.since) <= IMPATIENCE => {
                self.secure = Secure::new(config.clone(), now).ok();
            }
            _ => {}
        }
        let Some(secure) = &mut self.secure else {
            if now.saturating_sub(self.since) > IMPATIENCE {
                socket.abort();
                return true;
            }
            return false;
        };
        while secure.room() > 0 && socket.can_recv() {
            let room = secure.room();
            let taken = socket.recv(|bytes| {
                let taken = bytes.len().min(room);
                secure.receive(&bytes[..taken]);
                (taken, taken)
            });
            if taken.is_err() {
                break;
            }
        }
        let before = service.requests();
        secure.drive(now, &mut service.at(clock::seconds()));
        if service.requests() != before {
            life::note_request();
        }
        let mut has_sent = false;
        while socket.can_send() && !secure.outgoing().is_empty() {
            let Ok(count) = socket.send_slice(secure.outgoing()) else { break };
            secure.sent(count, now);
            has_sent = true;
        }
        let is_gone = !socket.may_recv() && !socket.can_recv() && secure.outgoing().is_empty();
        if secure.is_finished() || is_gone {
            socket.close();
            self.secure = None;
            self.since = now;
            return true;
        }
        if secure.is_overdue(now) {
            socket.abort();
            self.secure = None;
            return true;
        }
        has_sent
    }
}

/// Moves packets, but only so many: they may come faster than they are looked at. Returns true if there are more.
pub fn poll(interface: &mut Interface, nic: &mut Nic, sockets: &mut SocketSet<'_>) -> bool {
    let now = Instant::from_millis(clock::milliseconds() as i64);
    interface.poll_maintenance(now);
    let has_more =
        (0..PACKETS).all(|_| interface.poll_ingress_single(now, nic, sockets) != PollIngressSingleResult::None);
    while interface.poll_egress(now, nic, sockets) != PollResult::None {}
    has_more
}

/// Sleeps until a device has something or so many milliseconds are over. Interrupts are masked: a pending one ends WFI, and is
/// acknowledged here.
fn sleep(nic: &mut Nic, segments: &mut [Segment], milliseconds: u64) {
    sysreg::set_cntv_tval(timer::ticks(milliseconds * 1000));
    sysreg::set_cntv_ctl(timer::ENABLE);
    sysreg::wfi();
    sysreg::set_cntv_ctl(timer::MASKED);
    loop {
        let intid = gic::acknowledge();
        if intid >= gic::SPURIOUS {
            return;
        }
        // Each time: the device may raise it again meanwhile, and a level that nobody lowers never ends.
        nic.acknowledge();
        segments.iter_mut().for_each(Segment::acknowledge);
        gic::end(intid);
    }
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
    let mut seed = [0; 8];
    entropy.fill(&mut seed);
    let seed = u64::from_le_bytes(seed);
    let mut segments = leases::segments(&mut nics, addresses::dns(), seed);
    let mut nic = nics.swap_remove(0);
    let mac = nic.mac_address();
    let mut settings = Config::new(EthernetAddress(mac).into());
    settings.random_seed = seed;
    settings.slaac = true;
    let now = || Instant::from_millis(clock::milliseconds() as i64);
    let mut interface = Interface::new(settings, &mut nic, now());
    let mut sockets = SocketSet::new(Vec::new());
    let mut addresses = Addresses::new(&mut interface, &mut sockets, mac);
    let client = tls::client::config(entropy).expect("the provider is complete");
    let mut names = Names::new(&mut sockets);
    let mut lines: Vec<Line> =
        (0..jobs::MOST as u64).map(|place| Line::new(&mut sockets, seed >> (16 * place))).collect();
    let mut time = Time::new(&mut sockets);
    let (mut version, mut due, mut looked) = (0, None, 0);
    let mut places: Vec<Place> = (0..PLACES).map(|_| Place::new(&mut sockets)).collect();
    let mut tidied = clock::milliseconds();
    loop {
        life::beat();
        let mut is_busy = poll(&mut interface, &mut nic, &mut sockets);
        addresses.poll(&mut interface, &mut sockets);
        for place in &mut places {
            life::beat();
            is_busy |= place.drive(&mut sockets, &config, service);
        }
        if service.appliance.version() != version
            && clock::milliseconds() >= *due.get_or_insert(clock::milliseconds() + delay_of(version))
        {
            (version, due) = (service.appliance.version(), None);
            addresses.apply(service.appliance.settings(), &mut interface, &mut sockets);
        }
        service.appliance.reached = addresses.reached(&interface);
        names.set_servers(&mut sockets, addresses.name_servers());
        time.drive(&mut interface, &mut sockets, &mut names, service, entropy);
        for (place, line) in lines.iter_mut().enumerate() {
            if service.jobs.is_empty() {
                break;
            }
            life::beat();
            let interface = &mut interface;
            let mut wire = Working { line, interface, sockets: &mut sockets, names: &mut names, config: &client };
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
        let mut delay = interface.poll_delay(now(), &sockets).map_or(NAP, |delay| delay.total_millis().min(NAP));
        for segment in &mut segments {
            life::beat();
            delay = segment.drive().unwrap_or(NAP).min(delay);
        }
        if clock::milliseconds().saturating_sub(tidied) > TIDY {
            tidied = clock::milliseconds();
            service.tidy(clock::seconds());
        }
        if places.iter().any(Place::is_live) || service.jobs.is_busy() {
            delay = delay.min(DOZE);
        }
        if !is_busy && delay > 0 {
            sleep(&mut nic, &mut segments, delay);
        }
    }
}
