//! Machines of all shapes; VMs beside each other, VMs that crash, and requests that are refused.

use salp_qemu::machine::Outcome;
use salp_qemu::setup::Qemu;
use salp_tests::machine::{lines_of, qemu};
use salp_tests::tools::{both, salp};
use salp_tests::{Setup, Vm, guest, long};
use std::fs;
use std::path::Path;
use std::process::Output;

/// A guest that works quickly: its vCPUs, interrupts and calls.
fn quick() -> Vm {
    guest("psci").cpus(4).append("count=20")
}

fn runs(setup: Setup) {
    let ended = setup.vm(quick()).run().all_off().passed("psci");
    ended.check(ended.kib_left() == [0], "memory of the guest is still in use");
}

#[test]
fn every_cpu_model_runs_guests() {
    for model in ["cortex-a53", "cortex-a57", "cortex-a72", "neoverse-n1", "neoverse-v1", "max"] {
        if qemu().has_model(model) {
            eprintln!("{model}");
            runs(Setup::builtin().model(model));
        } else {
            assert_eq!(model, "neoverse-v1", "QEMU has no {model}");
        }
    }
}

#[test]
fn the_newest_model_runs_what_depends_on_its_features() {
    for name in ["irq", "debug", "fpsimd", "timer"] {
        let vm = guest(name).cpus(2).append("late=5000000 seconds=1");
        Setup::of(vm).model("max").run().all_off().passed(name);
    }
}

#[test]
fn machines_have_one_to_eight_cpus() {
    let counts: &[u32] = if long() { &[1, 2, 3, 4, 5, 6, 7, 8] } else { &[1, 3, 8] };
    for &cpus in counts {
        eprintln!("{cpus} CPUs");
        runs(Setup::builtin().cpus(cpus));
    }
}

#[test]
fn eight_vcpus_share_one_cpu() {
    Setup::of(guest("psci").cpus(8).append("count=20")).cpus(1).run().all_off().passed("psci");
}

#[test]
fn a_small_machine_runs_guests() {
    runs(Setup::builtin().mib(256));
}

#[test]
fn memory_above_4_gib_is_used() {
    let large = guest("memory").mib(5 << 10).append("rounds=1 size=64");
    let ended = Setup::of(large).mib(6 << 10).run().all_off().passed("memory");
    ended.says("6144 MiB of RAM");
}

#[test]
fn a_large_machine_runs_large_guests() {
    let large = guest("memory").mib(40 << 10).append("rounds=1 size=16");
    Setup::of(large).vm(quick()).mib(64 << 10).run().all_off().passed("memory").passed("psci");
}

#[test]
fn qemu_10_runs_guests() {
    let qemu = Qemu::find_10().unwrap_or_else(|error| panic!("{error:#}"));
    assert!(qemu.version >= (10, 0));
    runs(Setup::builtin().qemu(qemu.clone()));
    runs(Setup::builtin().qemu(qemu).model("max"));
}

#[test]
fn the_packed_guest_has_a_shell() {
    let mut machine = Setup::builtin().attach("builtin").start();
    machine.expect("Type help for the commands.");
    machine.expect("salp> ");
    machine.send("info\r");
    machine.expect("PSCI    1.");
    machine.expect("salp> ");
    machine.send("off\r");
    machine.finish().all_off();
}

#[test]
fn a_vm_started_again_and_again_gives_all_memory_back() {
    let times = if long() { 100 } else { 10 };
    // Each life touches all of the VM's memory: lost pages would soon be missing in a machine of this size.
    let mut machine = Setup::of(guest("builtin").mib(96)).mib(256).attach("builtin").seconds(900).start();
    for _ in 0..times {
        machine.expect("salp> ");
        machine.send("mem\r");
        machine.expect("pages written, 0 wrong");
        machine.expect("salp> ");
        machine.send("reset\r");
        machine.expect("builtin: restarts");
    }
    machine.expect("salp> ");
    machine.send("off\r");
    let ended = machine.finish().all_off();
    ended.check(ended.kib_left() == [0], "memory of the guest is still in use");
}

#[test]
fn a_spinning_vm_does_not_hold_back_others() {
    let mut machine = Setup::of(guest("spin").cpus(4))
        .vm(guest("psci").cpus(2).append("only=version,cpu_on_all,cpu_off_and_on count=20"))
        .vm(guest("memory").mib(32))
        .start();
    let mut left = vec!["salp| psci: is off", "salp| memory: is off"];
    while !left.is_empty() {
        let line = machine.expect("\n");
        left.retain(|end| !line.contains(end));
    }
    let text = machine.stop().text;
    for name in ["psci", "memory"] {
        assert!(lines_of(&text, name).iter().any(|line| line.contains(" failed=0 ")), "{text}");
    }
}

/// Returns a VM that wants more memory than a small machine has.
fn greedy() -> Vm {
    guest("memory").named("greedy").mib(224).append("rounds=2")
}

#[test]
fn a_vm_stands_still_while_there_is_no_memory_for_it_and_goes_on_unharmed() {
    let holder = guest("memory").named("holder").mib(64).append("rounds=1 exit=no");
    let mut machine = Setup::of(holder).vm(greedy().frozen()).mib(256).monitor().start();
    machine.expect("holder| DONE passed=1 failed=0");
    assert!(machine.monitor("unfreeze greedy").is_ok());
    machine.expect("salp| greedy: the machine has no memory left for it");
    let listed = machine.monitor("info greedy");
    assert_eq!(listed.rows[0].text("state"), Some("no-memory"), "{listed:?}");
    assert_eq!(machine.monitor("stats").rows[0].number("starved"), Some(1));
    assert!(machine.monitor("destroy holder").is_ok());
    let ended = machine.finish().all_off().passed("greedy");
    ended.check(ended.kib_left() == [0], "memory of guests is still in use");
}

#[test]
fn a_vm_that_cannot_go_on_starts_again_if_so_asked() {
    let mut machine = Setup::of(guest("crash").append("kind=all-off").restarts_on_crash()).start();
    for _ in 0..3 {
        machine.expect("crash: all-off");
        machine.expect("salp| crash: crashed and restarts");
    }
    machine.stop();
}

#[test]
fn a_guest_that_ruins_itself_ruins_nobody_else() {
    for kind in ["storm", "tables", "sleep", "all-off", "reset"] {
        eprintln!("{kind}");
        let mut machine = Setup::of(guest("crash").cpus(2).append(&format!("kind={kind}")))
            .vm(guest("memory").mib(16).append("rounds=2"))
            .start();
        machine.expect("memory| DONE passed=1 failed=0 ");
        machine.expect("salp| memory: is off");
        let text = machine.stop().text;
        assert!(text.contains("crash| crash: ") && !text.contains("salp| PANIC"), "{text}");
    }
}

/// Runs `salp up` with these words, for two minutes at most.
fn up(words: &[&str]) -> Output {
    let mut command = salp(120);
    command.args(["up", "--headless", "--exit-when-idle", "--no-management"]).args(words);
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

#[test]
fn the_runner_says_how_the_machine_ended() {
    let good = up(&["--vm", "kernel=builtin,append=exit,memory=16M"]);
    assert_eq!(good.status.code(), Some(0), "{}", both(&good));
    let json = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(json.starts_with('{') && json.contains("\"serial\"") && json.contains("\"qmp\""), "{json}");
    assert!(json.contains("\"monitor\""), "{json}");

    let crash = salp_qemu::image::build_guest("crash").unwrap_or_else(|error| panic!("{error:#}"));
    let bad = up(&["--vm", &format!("kernel={},append=kind=all-off,memory=16M", crash.display())]);
    assert_eq!(bad.status.code(), Some(3), "{}", both(&bad));
}

#[test]
fn what_cannot_run_is_refused_before_anything_runs() {
    let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        path
    };
    let builtin = salp_qemu::image::build_guest("builtin").unwrap_or_else(|error| panic!("{error:#}"));
    let whole = fs::read(&builtin).unwrap_or_else(|error| panic!("{error}"));
    let mut foreign = whole.clone();
    foreign[18..20].copy_from_slice(&62_u16.to_le_bytes());
    let empty = file("empty", b"");
    let flat = file("flat", &[0; 8192]);
    let vm = |path: &Path, more: &str| format!("kernel={}{more}", path.display());

    let refused = |vm: &str, reasons: &[&str]| {
        let output = up(&["--vm", vm]);
        let text = both(&output);
        assert_eq!(output.status.code(), Some(1), "{vm}: {text}");
        for reason in reasons {
            assert!(text.contains(reason), "{vm}: no {reason:?} in: {text}");
        }
        assert!(!text.contains("starting"), "{vm}: {text}");
    };
    refused(&vm(&directory.path().join("missing"), ""), &["missing", "No such file"]);
    refused(&vm(&empty, ""), &["empty", "the file is empty"]);
    refused(&vm(&file("half", &whole[..4096]), ""), &["half", "truncated"]);
    refused(&vm(&file("x86", &foreign), ""), &["x86", "another processor"]);
    refused(&vm(&flat, ",load=0x10000000"), &["flat", "RAM"]);
    refused(&vm(&flat, ",entry=0x40000000"), &["flat", "entry="]);
    refused(&vm(&file("large", &vec![1; 3 << 20]), ",memory=2M"), &["large", "2 MiB"]);
    refused(&vm(&builtin, &format!(",initrd={}", empty.display())), &["initrd", "empty"]);
    let disk = file("disk", &vec![0; 20 << 20]);
    refused(&vm(&builtin, &format!(",memory=16M,initrd={}", disk.display())), &["disk", "16 MiB"]);
}

#[test]
fn more_than_the_machine_has_is_refused() {
    for (words, reason) in [
        (&["--cpus", "9"][..], "1 to 8"),
        (&["--memory", "128M", "--vm", "kernel=builtin,memory=16M"], "256 MiB"),
        (&["--cpu", "z80"], "z80"),
        (&["--memory", "512M", "--vm", "kernel=builtin,memory=1G"], "--overcommit"),
    ] {
        let output = up(words);
        assert_eq!(output.status.code(), Some(1), "{}", both(&output));
        assert!(both(&output).contains(reason), "{words:?}: {}", both(&output));
    }
}

#[test]
fn a_crash_of_el2_is_reported_with_functions_and_resets_the_machine() {
    for crash in ["panic", "overflow"] {
        let ended = Setup::builtin().option(&format!("crash={crash}")).run();
        ended.check(ended.outcome == Outcome::Reset, format_args!("{:?}", ended.outcome));
        ended.says("salp| PANIC on CPU 0x0");
        ended.says("salp_firmware::machine::");
    }
}

#[test]
fn what_el2_said_before_a_reset_is_told_by_the_next_start() {
    let mut machine = Setup::builtin().option("crash=panic").resets().start();
    machine.expect("salp| resetting the machine");
    let start = machine.expect("salp| ready");
    assert!(start.contains("salp| before this start: PANIC on CPU 0x0"), "{start}");
    assert!(start.contains("salp| before this start:   0x"), "{start}");
    machine.stop();
}
