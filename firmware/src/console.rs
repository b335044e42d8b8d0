//! The machine's console: EL2's log, and the consoles of the VMs behind one serial line.
//!
//! Three views. In the log view every line has a prefix, `salp| ` or `NAME| `; keys go to the first VM. Attached to a VM its
//! bytes go both ways as they are, and nobody else's are shown. One key goes round these. Another one opens the monitor, where
//! a person types commands; the same key leaves it.

use crate::vm::{Records, Vm};
use crate::{commands, exits, machine};
use core::fmt::{self, Write};
use heapless::Deque;
use salp_core::handover::Full;
use salp_core::monitor::editor::{Editor, EditorEvent};
use salp_core::ring::Ring;
use salp_hvc::handover::{self, LOG_TEXT, kind};
use salp_hw::boot;
use salp_hw::lock::Mutex;
use salp_hw::uart::Pl011;
use spin::Once;
use zerocopy::IntoBytes;

/// Ctrl-^: shows the next VM's console, and after the last one the log.
pub const SWITCH_KEY: u8 = 0x1e;
/// Ctrl-_: opens the monitor, or leaves it.
pub const MONITOR_KEY: u8 = 0x1f;

const PROMPT: &str = "salp> ";

static CONSOLE: Once<Mutex<Console>> = Once::new();

/// Who wrote the last, unfinished line: the VM that the console is attached to, or one whose lines are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Fresh,
    Attached,
    Of(usize),
}

struct Console {
    uart: Pl011,
    attached: Option<usize>,
    /// The monitor is open, over the view that it was opened in.
    monitor: bool,
    line: Line,
    /// Keys for which the VM had no room yet.
    typed: Deque<u8, 1024>,
}

/// Takes the console.
pub fn init() {
    CONSOLE.call_once(|| {
        Mutex::new(Console {
            uart: salp_hw::boot::console(),
            attached: None,
            monitor: false,
            line: Line::Fresh,
            typed: Deque::new(),
        })
    });
}

impl Console {
    fn text(&self, text: &str) {
        text.bytes().for_each(|byte| self.uart.send(byte));
    }

    fn prompt(&mut self, before: &str) {
        if self.monitor {
            self.text(before);
            self.text(PROMPT);
        }
    }

    fn toggle_monitor(&mut self) {
        self.monitor = !self.monitor;
        self.typed.clear();
        self.fresh_line();
        if self.monitor {
            self.text("\r\nsalp| monitor; help lists the commands, Ctrl-_ leaves\r\n");
            self.prompt("");
        } else {
            self.text("\r\nsalp| monitor left\r\n");
        }
    }

    /// Returns true if lines of this VM are shown, which the console is not attached to: all in the log view, and those of
    /// managers beside others' bytes too, since they are for who runs the machine.
    fn shows(&self, vm: &Vm) -> bool {
        !self.monitor && (self.attached.is_none() || vm.spec.is_manager() && self.attached != Some(vm.slot))
    }

    /// Goes on with a line of this VM, or begins one.
    fn begin_line(&mut self, vm: &Vm) {
        if self.line != Line::Of(vm.slot) {
            self.fresh_line();
            let _ = write!(self, "{}| ", vm.name());
        }
    }

    fn fresh_line(&mut self) {
        if self.line != Line::Fresh {
            self.text("\r\n");
            self.line = Line::Fresh;
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text(text);
        Ok(())
    }
}

/// Writes a line of EL2's log, and keeps it with its time, in seconds since 1970, before it.
pub fn write_log(text: fmt::Arguments<'_>) {
    let Some(console) = CONSOLE.get() else { return };
    let mut console = console.lock();
    console.fresh_line();
    let _ = write!(console, "salp| {text}\r\n");
    let _ = writeln!(Kept(&mut kept().lock()), "{} {text}", machine::wall_clock());
}

/// How much of the log is kept, in bytes.
pub const LOG: usize = 16 << 10;

fn kept() -> &'static Mutex<Ring<LOG>> {
    static KEPT: Once<&Mutex<Ring<LOG>>> = Once::new();
    KEPT.call_once(|| boot::get().keep(const { Mutex::new(Ring::EMPTY) }))
}

struct Kept<'a>(&'a mut Ring<LOG>);

impl Write for Kept<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push(text.as_bytes());
        Ok(())
    }
}

/// Writes what a hand-over has of the log.
///
/// # Errors
///
/// There is no frame for it.
pub fn write_records(out: &mut Records<'_>) -> Result<(), Full> {
    let mut position = 0;
    loop {
        let mut log = handover::Log { used: 0, text: [0; LOG_TEXT] };
        let (first, count, end) = read_log(position, &mut log.text);
        log.used = count as u64;
        out.write(kind::LOG, first, &[log.as_bytes()])?;
        position = first + log.used;
        if position >= end {
            return Ok(());
        }
    }
}

/// Takes over a part of the log of before. What was kept so far that does not go on from there is given up.
pub fn resume_log(position: u64, text: &[u8]) {
    let mut kept = kept().lock();
    if kept.end() != position {
        kept.resume(position);
    }
    kept.push(text);
}

/// Reads what is kept of the log from this position on. Returns the position of the first byte, how many there were, and the
/// position behind the last one written.
pub fn read_log(position: u64, to: &mut [u8]) -> (u64, usize, u64) {
    let kept = kept().lock();
    let (first, count) = kept.read(position, to);
    (first, count, kept.end())
}

/// Writes a line of EL2's log.
macro_rules! log {
    ($($text:tt)*) => { $crate::console::write_log(format_args!($($text)*)) };
}
pub(crate) use log;

/// Shows a byte that a VM sent. In the log view a line appears when it is complete, or as far as it is when the VM goes to
/// sleep over it ([`flush`]).
pub fn output(vm: &Vm, line: &mut LineBuffer, byte: u8) {
    let Some(console) = CONSOLE.get() else { return };
    {
        let mut console = console.lock();
        if console.attached == Some(vm.slot) {
            if !console.monitor {
                console.uart.send(byte);
                console.line = if byte == b'\n' { Line::Fresh } else { Line::Attached };
            }
            return;
        }
    }
    match byte {
        b'\n' => {
            flush(vm, line);
            let mut console = console.lock();
            if !console.shows(vm) {
                return;
            }
            console.begin_line(vm);
            console.text("\r\n");
            console.line = Line::Fresh;
        }
        b'\r' => {}
        _ => {
            if line.is_full() {
                flush(vm, line);
            }
            line.push(byte);
        }
    }
}

/// Shows what the VM has sent of a line so far.
pub fn flush(vm: &Vm, line: &mut LineBuffer) {
    let Some(console) = CONSOLE.get() else { return };
    if line.length == 0 {
        return;
    }
    let mut console = console.lock();
    if console.shows(vm) {
        console.begin_line(vm);
        line.bytes().iter().for_each(|&byte| console.uart.send(byte));
        console.line = Line::Of(vm.slot);
    }
    line.length = 0;
}

/// The unfinished line of a VM.
#[derive(Clone, Copy)]
pub struct LineBuffer {
    bytes: [u8; 120],
    length: u8,
}

impl LineBuffer {
    /// An empty line.
    pub const EMPTY: Self = Self { bytes: [0; 120], length: 0 };

    fn is_full(&self) -> bool {
        usize::from(self.length) == self.bytes.len()
    }

    fn push(&mut self, byte: u8) {
        // A guest's control bytes must not move the cursor over other lines of the log.
        let shown = if byte.is_ascii_control() && byte != b'\t' && byte != 0x1b && byte != 8 { b'.' } else { byte };
        if let Some(place) = self.bytes.get_mut(usize::from(self.length)) {
            *place = shown;
            self.length += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// Takes what was typed and gives it to the VM that has the console, as far as its FIFO has room; the rest waits in a
/// queue. The switch key is seen at once, whatever a VM does with its keys. Returns true if keys wait for the monitor
/// ([`serve`]).
pub fn take_keys() -> bool {
    let Some(console) = CONSOLE.get() else { return false };
    loop {
        let byte = console.lock().uart.receive();
        match byte {
            Some(SWITCH_KEY) => {
                console.lock().typed.clear();
                machine::next_console();
            }
            Some(MONITOR_KEY) => console.lock().toggle_monitor(),
            // A full queue drops the key, as a full FIFO does.
            Some(byte) => drop(console.lock().typed.push_back(byte)),
            None => break,
        }
    }
    let monitor = console.lock().monitor;
    if !monitor {
        give_keys();
    }
    monitor
}

static EDITOR: Mutex<Editor> = Mutex::new(Editor::new());

/// Gives waiting keys to the monitor and carries out the lines that they make. Called by a CPU that has no vCPU loaded and
/// holds no lock.
pub fn serve() {
    let Some(console) = CONSOLE.get() else { return };
    let mut editor = EDITOR.lock();
    loop {
        let key = {
            let mut console = console.lock();
            if console.monitor { console.typed.pop_front() } else { None }
        };
        let Some(key) = key else { return };
        match editor.key(key) {
            EditorEvent::Nothing => {}
            EditorEvent::Echo(byte) => console.lock().uart.send(byte),
            EditorEvent::Erase(count) => (0..count).for_each(|_| console.lock().text("\x08 \x08")),
            EditorEvent::Full => console.lock().text("\x07"),
            EditorEvent::Cancelled => console.lock().prompt("^C\r\n"),
            EditorEvent::Line => {
                console.lock().text("\r\n");
                if !editor.line().is_empty() {
                    commands::carry_out(editor.line(), false, &mut Screen);
                }
                console.lock().prompt("");
            }
        }
    }
}

/// The console as the monitor writes to it.
struct Screen;

impl Write for Screen {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(console) = CONSOLE.get() {
            let console = console.lock();
            for byte in text.bytes() {
                if byte == b'\n' {
                    console.uart.send(b'\r');
                }
                console.uart.send(byte);
            }
        }
        Ok(())
    }
}

/// Gives waiting keys to the VM that has the console.
pub fn give_keys() {
    let Some(console) = CONSOLE.get() else { return };
    let Some(slot) = machine::console_vm() else { return };
    let slot = machine::slot(slot).read();
    let Some(vm) = slot.as_deref() else { return };
    loop {
        // The lock is not held while the VM takes the key: that may print.
        let Some(byte) = console.lock().typed.pop_front() else { return };
        if !exits::type_key(vm, byte) {
            let _ = console.lock().typed.push_front(byte);
            return;
        }
    }
}

/// Forgets a VM that is gone: the console shows the log if it was attached to it.
pub fn forget(slot: usize) {
    if attached() == Some(slot) {
        attach(None, "");
    }
}

/// Shows the console of a VM as before a hand-over: nothing is said of it.
pub fn attach_again(slot: usize) {
    if let Some(console) = CONSOLE.get() {
        console.lock().attached = Some(slot);
    }
}

/// Returns the VM that the console is attached to.
pub fn attached() -> Option<usize> {
    CONSOLE.get()?.lock().attached
}

/// Attaches the console to a VM, or shows the log.
pub fn attach(slot: Option<usize>, name: &str) {
    let Some(console) = CONSOLE.get() else { return };
    let mut console = console.lock();
    console.fresh_line();
    match slot {
        Some(_) => {
            let _ = write!(console, "\r\nsalp| console of {name}; Ctrl-^ shows the next one\r\n");
        }
        None => console.text("\r\nsalp| log of all VMs; Ctrl-^ shows the first VM's console\r\n"),
    }
    console.attached = slot;
    console.monitor = false;
}
