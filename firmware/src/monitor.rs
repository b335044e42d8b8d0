//! EL2's monitor: programs on the second line of the machine, a virtio console, send commands and read answers, a line
//! each. People have [`console`](crate::console). [`commands`] carries the commands of both out.
//!
//! A command may end the VM that it came in on the time of. So bytes wait in the line until the CPU that takes its interrupt
//! has left its vCPU and holds no lock ([`serve`]). Who holds the line is the machine's operator: guests may wait for him.
//!
//! A new reader does not know what the last one left unfinished: [`CANCEL`] forgets it.

use crate::commands;
use crate::console::log;
use crate::machine::{self, Machine};
use crate::operation;
use core::fmt::{self, Write};
use heapless::Vec;
use salp_core::monitor::{CommandError, MAX_LINE, reply};
use salp_hvc::status;
use salp_hw::lock::Mutex;
use salp_hw::own::Own;
use salp_hw::virtio::Broken;
use salp_hw::virtio::console::Line;
use spin::Once;

/// Forgets what has come of a line (ASCII CAN).
const CANCEL: u8 = 0x18;

static LINE: Once<Monitor> = Once::new();

struct Monitor {
    /// The INTID of the line.
    interrupt: u32,
    /// `None` once the device was given up.
    session: Mutex<Option<Own<Session>>>,
}

struct Session {
    line: Own<Line>,
    command: Vec<u8, MAX_LINE>,
    /// The line became longer than a command may be.
    overlong: bool,
}

/// Takes the line, if the machine has one. Its interrupt comes to this CPU.
pub fn init(machine: &Machine) {
    let frame = machine::take_driver_frame;
    let line = match Line::probe(frame) {
        Ok(Some(line)) => line,
        Ok(None) => return,
        Err(error) => return log!("the monitor has no line: the virtio console is unusable: {error}"),
    };
    let interrupt = line.interrupt();
    let (Some(first), Some(second)) = (frame(), frame()) else {
        return log!("the monitor has no line: no frame is free");
    };
    let session = Session { line: Own::new(first, line), command: Vec::new(), overlong: false };
    let session = Own::new(second, session);
    LINE.call_once(|| Monitor { interrupt: interrupt.id, session: Mutex::new(Some(session)) });
    machine.gic.lock().enable_shared(interrupt);
}

/// Returns true if `intid` is the interrupt of the line.
pub fn is_interrupt(intid: u32) -> bool {
    LINE.get().is_some_and(|monitor| monitor.interrupt == intid)
}

/// Carries out what has arrived. No lock is held by the caller, and no vCPU is loaded.
pub fn serve() {
    let Some(monitor) = LINE.get() else { return };
    let mut slot = monitor.session.lock();
    let Some(session) = slot.as_deref_mut() else { return };
    if let Err(error) = session.serve() {
        log!("the monitor's line is given up: {error}");
        *slot = None;
    }
}

/// Answers a command for a hand-over, whoever is on the line now.
pub fn tell(answer: operation::Answer) {
    let Some(monitor) = LINE.get() else { return };
    if let Some(session) = monitor.session.lock().as_deref_mut() {
        let mut out = Answer { line: &mut session.line, sent: Ok(()) };
        let _ = commands::answer_handover(answer, &mut out);
        let _ = out.sent.and_then(|()| session.line.flush());
    }
}

impl Session {
    fn serve(&mut self) -> Result<(), Broken> {
        while let Some(byte) = self.line.receive()? {
            match byte {
                b'\n' => {
                    let answered = self.answer();
                    self.forget();
                    answered?;
                }
                CANCEL => self.forget(),
                _ => self.overlong |= self.command.push(byte).is_err(),
            }
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.command.clear();
        self.overlong = false;
    }

    fn answer(&mut self) -> Result<(), Broken> {
        let mut answer = Answer { line: &mut self.line, sent: Ok(()) };
        if self.command.last() == Some(&b'\r') {
            self.command.pop();
        }
        if self.overlong {
            let _ = reply::error(&mut answer, status::INVALID, &CommandError::TooLong);
        } else if !self.command.is_empty() {
            commands::carry_out(&mut self.command, true, &mut answer);
        }
        answer.sent.and_then(|()| self.line.flush())
    }
}

/// An answer on its way. Writing cannot fail: what goes wrong is kept.
struct Answer<'a> {
    line: &'a mut Line,
    sent: Result<(), Broken>,
}

impl Write for Answer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.sent = self.sent.and_then(|()| self.line.write(text.as_bytes()));
        Ok(())
    }
}
