//! `salp-guest` in stock Debian guests: what it says of a VM, how a clone takes its identity on, what keeps it from that.

use anyhow::Result;
use salp_qemu::debian::Stock;
use salp_qemu::initrd::Initrd;
use salp_tests::machine::lines_of;
use salp_tests::{Api, Ended, Running, Setup, Vm, vm};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

/// Gives a VM a network interface with addresses of its own, and files for its names.
const READY: &str = "
mkdir -p /etc; echo old > /etc/hostname; echo old > /etc/machine-id
modprobe dummy && ip link set lo up && ip link set dummy0 up
ip addr add 10.0.0.4/24 dev dummy0; ip addr add fd00::4/64 dev dummy0; ip route add default via 10.0.0.1
date -s 2001-01-01 > /dev/null
";

/// Shows who a VM thinks that it is.
const WHO: &str = "
echo \"HOST $(hostname) $(cat /etc/hostname) $(cat /etc/machine-id)\"
echo \"MAC $(cat /sys/class/net/dummy0/address)\"
echo \"V4 $(ip -4 -o addr show dev dummy0 | awk '{print $4}' | xargs)\"
echo \"V6 $(ip -6 -o addr show dev dummy0 scope global | awk '{print $4}' | xargs)\"
echo \"ROUTE $(ip route | grep default | xargs)\"
echo \"YEAR $(date +%Y)\"
echo \"RANDOM $(salp-guest random 16)\"
echo \"WATCHDOG $(cat /proc/sys/kernel/watchdog)\"
";

/// Returns a VM with `salp-guest` and this to do.
fn debian(command: &str) -> Vm {
    vm_with("debian", Initrd::busybox().and_then(Initrd::salp_guest), command)
}

/// Returns a VM with a network interface besides.
fn networked(kernel: &str, command: &str) -> Vm {
    let stock = Stock::named(kernel).expect("a stock guest");
    let initrd = Initrd::busybox().and_then(Initrd::salp_guest).and_then(|initrd| initrd.module(stock, "dummy"));
    vm_with(kernel, initrd, &format!("{READY}\n{command}"))
}

fn vm_with(kernel: &str, initrd: Result<Initrd>, command: &str) -> Vm {
    let initrd = initrd.unwrap_or_else(|error| panic!("{error:#}"));
    vm::linux_with(kernel, initrd, command).named("web").mib(256)
}

/// Sends a line to EL2, which must be done.
fn done(machine: &mut Running, line: &str) {
    let reply = machine.monitor(line);
    assert!(reply.is_ok(), "{line}: {reply:?}");
}

fn has(ended: &Ended, vm: &str, line: &str) {
    let has = ended.lines(vm).contains(&line);
    ended.check(has, format_args!("{vm} does not say {line:?}, but {:#?}", ended.lines(vm)));
}

fn has_end(ended: &Ended, vm: &str, end: &str) {
    let has = ended.lines(vm).iter().any(|line| line.ends_with(end));
    ended.check(has, format_args!("{vm} does not say {end:?}"));
}

/// Returns what follows a word at the start of a line.
fn after<'a>(ended: &'a Ended, vm: &str, word: &str) -> &'a str {
    let lines = lines_of(&ended.text, vm);
    let found = lines.into_iter().rev().find_map(|line| line.strip_prefix(word));
    found.unwrap_or_else(|| panic!("{vm} says no {word}: {}", ended.text))
}

#[test]
fn a_vm_is_told_who_it_is() {
    // The device's page is smaller than that of the second kernel.
    for kernel in ["debian", "debian-16k"] {
        let initrd = Initrd::busybox().and_then(Initrd::salp_guest);
        let vm = vm_with(kernel, initrd, "salp-guest info; echo status=$?");
        let ended = Setup::of(vm).model("max").seconds(420).run().all_off();
        for line in ["name=web", "index=0", "epoch=0", "status=0"] {
            has(&ended, "web", line);
        }
        for key in ["uuid=", "generation=", "mac="] {
            ended.check(!after(&ended, "web", key).replace(['0', ':', '-'], "").is_empty(), key);
        }
    }
}

#[test]
fn clones_of_a_vm_that_freezes_itself_take_their_identities_on() {
    for kernel in ["debian", "debian-6.12"] {
        let hook = "echo HOOK $SALP_CLONE $SALP_INDEX $SALP_NAME $SALP_EPOCH $SALP_CONFIG_ROLE";
        let freeze = format!("salp-guest freeze --before 'echo BEFORE' --after '{hook}' 2>&1; echo status=$?");
        let vm = networked(kernel, &format!("{freeze}\n{WHO}\nsalp-guest info"));
        let mut machine = Setup::of(vm.cpus(2)).mib(1024).monitor().seconds(420).start();
        machine.expect("BEFORE");
        machine.expect("salp| web: is frozen");
        let config = "--config role=worker --config gateway=10.0.0.2 --config \"address=10.0.0.5/24 fd00::5/64\"";
        // One after the other: a line of one VM is cut where another writes.
        for clone in ["clone web --name plain", "clone web --name twin", &format!("clone web --name worker {config}")] {
            done(&mut machine, clone);
            machine.expect(": is off");
        }
        done(&mut machine, "unfreeze web");
        let ended = machine.finish().all_off();
        for (vm, line) in [
            ("web", "source"),
            ("web", "HOOK 0 0 web 0"),
            ("web", "V4 10.0.0.4/24"),
            ("web", "YEAR 2001"),
            ("worker", "clone index=1 name=worker"),
            ("worker", "HOOK 1 1 worker 1 worker"),
            ("worker", "V4 10.0.0.5/24"),
            ("worker", "V6 fd00::5/64"),
            ("worker", "ROUTE default via 10.0.0.2 dev dummy0"),
            ("twin", "V4 10.0.0.4/24"),
            ("twin", "V6 fd00::4/64"),
            ("twin", "ROUTE default via 10.0.0.1 dev dummy0"),
        ] {
            has(&ended, vm, line);
        }
        for vm in ["plain", "twin", "worker"] {
            let id = after(&ended, vm, "uuid=").replace('-', "");
            ended.check(after(&ended, vm, "HOST ") == format!("{vm} {vm} {id}"), vm);
            ended.check(after(&ended, vm, "MAC ") == after(&ended, vm, "mac="), vm);
            ended.check(after(&ended, vm, "YEAR ") > "2020", vm);
            has(&ended, vm, "status=0");
            has(&ended, vm, "acknowledged=1");
            has(&ended, vm, "WATCHDOG 1");
        }
        let random: BTreeSet<_> = ["web", "plain", "twin", "worker"].map(|vm| after(&ended, vm, "RANDOM ")).into();
        ended.check(random.len() == 4, format_args!("{random:?}"));
        if kernel == "debian-6.12" {
            // Its own driver sees the new generation id, too.
            has_end(&ended, "twin", "random: crng reseeded due to virtual machine fork");
        }
    }
}

#[test]
fn a_vm_that_is_cloned_while_it_runs_watches_for_its_identity() {
    let watch = "salp-guest watch --interval 50 --after 'echo HOOK $SALP_NAME; touch /woken' 2>&1 &";
    let command = format!("{watch}\nsleep 1; echo WATCHES\nwhile [ ! -e /woken ]; do sleep 0.1; done\n{WHO}");
    let mut machine = Setup::of(networked("debian", &command)).mib(1024).monitor().seconds(420).start();
    machine.expect("WATCHES");
    done(&mut machine, "clone web --name twin --config interface=lo --config address=10.1.0.1/32");
    machine.expect("salp| twin: is off");
    let ended = machine.stop();
    let lines = ended.lines("twin");
    for line in ["hostname: twin, also in /etc/hostname", "address: lo 10.1.0.1/32", "HOOK twin", "HOST twin twin"] {
        ended.check(lines.iter().any(|said| said.starts_with(line)), format_args!("twin does not say {line:?}"));
    }
    ended.check(!ended.text.contains("web| HOOK"), "the source was told of an identity");
}

#[test]
fn an_identity_that_cannot_be_taken_on_is_not_acknowledged() {
    let command = "salp-guest freeze 2>&1; echo status=$?\nsalp-guest info";
    let mut machine = Setup::of(debian(command)).mib(1024).monitor().seconds(420).start();
    machine.expect("salp| web: is frozen");
    done(&mut machine, "clone web --name lost --config address=10.0.0.5");
    done(&mut machine, "destroy web");
    let ended = machine.finish().all_off();
    for line in ["clone index=1 name=lost", "hostname: lost, also in /etc/hostname", "status=3", "acknowledged=0"] {
        has(&ended, "lost", line);
    }
    ended.says("lost| network: failed: address: 10.0.0.5 does not say how long the prefix is");
}

#[test]
fn a_hook_that_fails_keeps_a_vm_from_being_frozen() {
    let command = "mkdir -p /etc/salp/hooks.d
printf '#!/bin/sh\\nexit 5\\n' > /etc/salp/hooks.d/10-no; chmod 755 /etc/salp/hooks.d/10-no
salp-guest freeze 2>&1; echo status=$?";
    let ended = Setup::of(debian(command)).seconds(420).run().all_off();
    let why = "the hook /etc/salp/hooks.d/10-no before failed: exit status: 5";
    has(&ended, "web", &format!("salp-guest: this VM was not frozen: {why}"));
    has(&ended, "web", "status=1");
    ended.check(!ended.text.contains("is frozen"), "it was frozen");
}

#[test]
fn what_keeps_the_program_from_its_device_is_said() {
    let command = "rm /dev/mem; salp-guest info; echo status=$?
mknod /dev/mem c 1 1
mkdir -p /etc; echo user:x:1000:1000::/:/bin/sh > /etc/passwd
start-stop-daemon -S -c user -x /bin/salp-guest -- info
mount -t tmpfs none /proc/device-tree/; salp-guest info
umount /proc/device-tree/; umount /proc /sys; salp-guest info";
    let ended = Setup::of(debian(command)).seconds(420).run().all_off();
    has(&ended, "web", "status=1");
    ended.says("cannot open /dev/mem (No such file or directory (os error 2)): mount /dev");
    ended.says("cannot open /dev/mem (Permission denied (os error 13)): salp-guest must be run as root");
    ended.says("this VM does not run on Salp, or on one without cloning");
    ended.says("there is no device tree in /proc/device-tree or /sys/firmware/devicetree/base: mount /proc");
}

#[test]
fn a_stock_debian_hears_its_power_button_by_salp_guest() {
    let command = "echo LISTENING; salp-guest power --then 'echo PRESSED; sleep 5' && echo GOING";
    let mut machine = Setup::of(debian(command)).monitor().start();
    machine.expect("web| LISTENING");
    // The program is not there yet: what comes too early is lost, as on a real machine.
    while !machine.lines("web").iter().any(|line| line == "PRESSED") {
        done(&mut machine, "shutdown web");
        thread::sleep(Duration::from_secs(1));
    }
    let ended = machine.finish().all_off();
    has(&ended, "web", "GOING");
    ended.check(ended.kib_left() == [0], "memory of guests is still in use");
}

/// Waits until a VM shows what is looked for. The machine's own limit ends what never is.
fn shows(api: &Api, vm: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..600 {
        let system = api.get(vm).is(200).json();
        if is_so(&system) {
            return system;
        }
        thread::sleep(Duration::from_millis(200));
    }
    panic!("{vm} does not show it: {}", api.get(vm).text());
}

#[test]
fn an_agent_tells_of_its_guest_and_a_clone_s_tells_for_itself() {
    let agent = "salp-guest agent --interval 300 --application 'test -e /up' &\n\
                 until [ \"$(hostname)\" = shop ]; do hostname shop; done\n\
                 touch /up; salp-guest agent --once; echo once=$?; salp-guest watch & wait";
    let mut machine = Setup::of(networked("debian", agent)).managed().mib(1024).seconds(420).start();
    let api = machine.api();
    let source = "/redfish/v1/Systems/1";
    let told = shows(&api, source, |system| system["Oem"]["Salp"]["Agent"]["ApplicationState"] == "Up");
    let agent = &told["Oem"]["Salp"]["Agent"];
    assert_eq!((&told["HostName"], &agent["GuestState"]), (&json!("shop"), &json!("Up")));
    assert_eq!(agent["Addresses"], json!(["10.0.0.4", "fd00::4"]));
    machine.expect("once=0");

    let action = format!("{source}/Actions/Oem/SalpComputerSystem.InstantClone");
    let clone = api.post(&action, &json!({ "Name": "twin" })).is(201).location.expect("a location");
    let twin = shows(&api, &clone, |system| system["HostName"] == "twin");
    assert!(twin["Oem"]["Salp"]["Agent"]["Statistics"]["Heartbeats"].as_u64() > Some(0), "{twin}");
    let reset = format!("{clone}/Actions/ComputerSystem.Reset");
    api.post(&reset, &json!({ "ResetType": "ForceOff" })).is(204);
    assert_eq!(shows(&api, &clone, |system| system["PowerState"] == "Off").get("HostName"), None);
    // The endpoint looks at agents now and then.
    shows(&api, &format!("{source}/LogServices/Events/Entries"), |entries| {
        let has = |id: &str| {
            entries["Members"].as_array().is_some_and(|all| all.iter().any(|entry| entry["MessageId"] == id))
        };
        has("Salp.1.0.GuestUp") && has("Salp.1.0.ApplicationUp")
    });
    machine.stop();
}
