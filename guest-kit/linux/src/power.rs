//! Waits for the power button, for guests in which nobody else does (systemd-logind does).
//!
//! A kernel with `gpio-keys` makes a key of the button; Debian's cloud kernels have none, and there the line of the GPIO
//! controller that the button is at tells. After: [`sys`](crate::sys), which asks for that line.

use crate::sys;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Waits until the button is pressed.
///
/// # Errors
///
/// There is no button, or somebody else has it.
pub fn wait() -> Result<()> {
    if let Some(events) = key(Path::new("/sys/class/input")) {
        let events = Path::new("/dev/input").join(events);
        let open = || File::open(&events).with_context(|| format!("cannot open {}", events.display()));
        return is_pressed(open()?).with_context(|| format!("cannot read {}", events.display()));
    }
    for chip in chips(Path::new("/dev"))? {
        let file = File::open(&chip).with_context(|| format!("cannot open {}", chip.display()))?;
        if sys::gpio_label(&file).is_ok_and(|label| label.starts_with(CONTROLLER)) {
            let mut line = sys::gpio_rising(&file, LINE)
                .with_context(|| format!("cannot have line {LINE} of {}", chip.display()))?;
            line.read_exact(&mut [0; sys::GPIO_EVENT]).context("cannot read the line")?;
            return Ok(());
        }
    }
    bail!("this VM has no power button: neither a gpio-keys device nor a GPIO controller {CONTROLLER:?} is there")
}

/// How the label of the GPIO controller begins: its address.
const CONTROLLER: &str = "9030000.";
/// The line of the button.
const LINE: u32 = 3;

/// The size of `struct input_event` on 64-bit machines.
const EVENT: usize = 24;
/// `EV_KEY`.
const KEY: u16 = 1;
/// `KEY_POWER`.
const POWER: u16 = 116;

/// Returns the name of the device file of gpio-keys' events.
fn key(class: &Path) -> Option<String> {
    let entries = fs::read_dir(class).ok()?.filter_map(Result::ok).map(|entry| entry.file_name());
    let mut names = entries.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with("event"));
    names.find(|name| {
        let name = fs::read_to_string(class.join(name).join("device/name"));
        name.is_ok_and(|name| name.trim_end() == "gpio-keys")
    })
}

/// Reads events until the key is pressed.
fn is_pressed(mut events: impl Read) -> std::io::Result<()> {
    let mut event = [0; EVENT];
    loop {
        events.read_exact(&mut event)?;
        let [.., a, b, c, d, e, f, g, h] = event;
        let pressed = i32::from_ne_bytes([e, f, g, h]) == 1;
        if u16::from_ne_bytes([a, b]) == KEY && u16::from_ne_bytes([c, d]) == POWER && pressed {
            return Ok(());
        }
    }
}

/// Returns the device files of GPIO controllers.
fn chips(dev: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dev).with_context(|| format!("cannot read {}", dev.display()))?;
    let names = entries.filter_map(Result::ok).map(|entry| entry.file_name());
    Ok(names.filter(|name| name.to_string_lossy().starts_with("gpiochip")).map(|name| dev.join(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        [&[9; 16][..], &kind.to_ne_bytes(), &code.to_ne_bytes(), &value.to_ne_bytes()].concat()
    }

    #[test]
    fn only_a_press_of_the_power_key_counts() {
        let other = [event(1, 116, 0), event(0, 0, 0), event(1, 115, 1), event(2, 116, 1), event(1, 116, 2)].concat();
        assert!(is_pressed(&other[..]).is_err(), "the events end");
        let all = [other, event(1, 116, 1)].concat();
        assert!(is_pressed(&all[..]).is_ok());
    }

    #[test]
    fn the_key_is_found_by_its_drivers_name() {
        let class = tempfile::tempdir().expect("a directory");
        for (event, name) in [("event0", "AT keyboard"), ("event1", "gpio-keys"), ("mouse0", "gpio-keys")] {
            let device = class.path().join(event).join("device");
            fs::create_dir_all(&device).expect("made");
            fs::write(device.join("name"), format!("{name}\n")).expect("written");
        }
        assert_eq!(key(class.path()).as_deref(), Some("event1"));
        assert_eq!(key(&class.path().join("none")), None);
    }

    #[test]
    fn controllers_are_found_among_other_devices() {
        let dev = tempfile::tempdir().expect("a directory");
        for name in ["gpiochip0", "null", "gpio"] {
            fs::write(dev.path().join(name), "").expect("written");
        }
        assert_eq!(chips(dev.path()).expect("readable"), [dev.path().join("gpiochip0")]);
    }
}
