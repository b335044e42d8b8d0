//! Media in the drive of a stock guest, put there over the network: what its driver reads, and what it starts from.

use hadris_iso::read::PathSeparator;
use hadris_iso::write::options::{CreationFeatures, IsoFormatOptions};
use hadris_iso::write::{File, InputFiles, IsoImageWriter};
use salp_qemu::debian::Stock;
use salp_qemu::initrd::Initrd;
use salp_tests::server::serve;
use salp_tests::{Api, Setup, Vm, guest, vm};
use serde_json::{Value, json};
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, thread};

const IMAGES: &str = "/redfish/v1/Oem/Salp/Images";

/// Loads what a drive needs, and then a shell on the console.
const SHELL: &str = "modprobe virtio_mmio; modprobe virtio_blk; modprobe isofs; cd /; setsid cttyhack sh";

/// Returns an initial RAM disk with drivers for a drive and what is on media.
fn initrd() -> Initrd {
    let stock = Stock::named("debian").expect("a stock guest");
    let modules = ["virtio_mmio", "virtio_blk", "isofs"];
    let initrd =
        Initrd::busybox().and_then(|initrd| modules.iter().try_fold(initrd, |initrd, name| initrd.module(stock, name)));
    initrd.unwrap_or_else(|error| panic!("{error:#}"))
}

/// Returns a Debian that says that these are its own images, and has a shell.
fn debian() -> Vm {
    let command = format!("echo MY OWN IMAGES\n{SHELL}");
    vm::linux_with("debian", initrd(), &command).named("web").append("quiet").mib(256).stays()
}

/// Returns bytes that differ from place to place, and from one number to another.
fn bytes(number: u64, count: usize) -> Vec<u8> {
    let step = |state: &mut u64| {
        *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        Some((*state >> 56) as u8)
    };
    std::iter::repeat(()).scan(number, |state, ()| step(state)).take(count).collect()
}

/// Returns an ISO 9660 file system with these files, `directory/name` or `name`.
fn iso(files: Vec<(&str, Vec<u8>)>) -> Vec<u8> {
    let size = files.iter().map(|(_, contents)| contents.len() + 4096).sum::<usize>() + (1 << 20);
    let mut all: Vec<File> = Vec::new();
    for (path, contents) in files {
        let mut names = path.rsplit('/');
        let name = Arc::new(names.next().unwrap_or_default().to_string());
        let file = File::File { name, contents };
        let nested =
            names.fold(file, |inner, name| File::Directory { name: Arc::new(name.into()), children: vec![inner] });
        all.push(nested);
    }
    let options = IsoFormatOptions {
        volume_name: "SALP".into(),
        system_id: None,
        volume_set_id: None,
        publisher_id: None,
        preparer_id: None,
        application_id: None,
        sector_size: 2048,
        path_separator: PathSeparator::ForwardSlash,
        features: CreationFeatures::rock_ridge(),
        strict_charset: false,
    };
    let mut image = Cursor::new(vec![0; size]);
    IsoImageWriter::create(&mut image, InputFiles { path_separator: PathSeparator::ForwardSlash, files: all }, options)
        .unwrap_or_else(|error| panic!("{error}"));
    image.into_inner()
}

/// A VM with a drive, and a client that manages it.
struct Guest<'a> {
    api: &'a Api,
    path: String,
}

impl<'a> Guest<'a> {
    fn new(api: &'a Api, name: &str) -> Self {
        let systems = api.get(&format!("/redfish/v1/Systems?$filter=Name%20eq%20'{name}'&$expand=.")).is(200).json();
        let path = systems["Members"][0]["@odata.id"].as_str().unwrap_or_else(|| panic!("{systems}")).into();
        Self { api, path }
    }

    fn console(&self) -> String {
        self.api.get(&format!("{}/Oem/Salp/Console", self.path)).is(200).text()
    }

    /// Waits until the console shows a text so many times. The machine's own limit ends what never is.
    fn shows(&self, text: &str, times: usize) {
        for _ in 0..900 {
            if self.console().matches(text).count() >= times {
                return;
            }
            thread::sleep(Duration::from_millis(200));
        }
        panic!("{text:?} did not come {times} times:\n{}", self.console());
    }

    /// Lets the shell do something until it says this; the command's own echo does not.
    fn does(&self, command: &str, answer: &str) {
        self.types(command);
        self.shows(answer, 1);
    }

    /// Types: as much at a time as the guest takes.
    fn types(&self, command: &str) {
        let (path, keys) = (format!("{}/Oem/Salp/Console", self.path), format!("{command}\n"));
        let mut left = keys.as_bytes();
        while !left.is_empty() {
            let taken = self.api.send("POST", &path, &[], left).is(200).json()["AcceptedBytes"].as_u64();
            left = &left[taken.unwrap_or(0) as usize..];
        }
    }

    /// Waits until its driver knows of a medium of so many sectors.
    fn sees(&self, sectors: u64) {
        let size = "/sys/block/vda/size";
        let wait = format!("until [ $(cat {size}) = {sectors} ]; do :; done; echo IT SEES $(cat {size}) SECTORS");
        let times = self.console().matches(&format!("IT SEES {sectors} SECTORS\r\n")).count();
        self.types(&wait);
        self.shows(&format!("IT SEES {sectors} SECTORS\r\n"), times + 1);
    }

    fn reset(&self, kind: &str) {
        let action = format!("{}/Actions/ComputerSystem.Reset", self.path);
        self.api.post(&action, &json!({ "ResetType": kind })).is(204);
    }

    fn insert(&self, image: &str) {
        let action = format!("{}/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia", self.path);
        self.api.post(&action, &json!({ "Image": format!("{IMAGES}/{image}") })).is(204);
    }

    fn eject(&self) {
        let action = format!("{}/VirtualMedia/Cd/Actions/VirtualMedia.EjectMedia", self.path);
        self.api.post(&action, &json!({})).is(204);
    }

    fn boot(&self) -> Value {
        self.api.get(&self.path).is(200).json()["Boot"].clone()
    }
}

/// Uploads an image, and returns its digest as the endpoint knows it.
fn upload(api: &Api, name: &str, bytes: &[u8]) -> String {
    let path = format!("{IMAGES}/{name}");
    api.put(&path, bytes).is(201);
    api.get(&path).is(200).json()["SHA256"].as_str().expect("a digest").into()
}

#[test]
fn a_debian_reads_media_as_they_come_and_go() {
    let mut machine = Setup::of(debian()).managed().seconds(900).start();
    let api = machine.api();
    let guest = Guest::new(&api, "web");
    // One is no multiple of a sector, and larger than a request.
    let (first, second) = (bytes(1, 3_000_700), bytes(2, 512 * 100));
    let (first_sum, second_sum) = (upload(&api, "first", &first), upload(&api, "second", &second));
    // What is typed before is lost when the shell takes the line over.
    guest.shows("/ # ", 1);
    guest.does("echo SECTORS $(cat /sys/block/vda/size)", "SECTORS 0\r\n");

    guest.insert("first");
    guest.sees(5861);
    guest.does("echo READ ONLY $(cat /sys/block/vda/ro)", "READ ONLY 1\r\n");
    guest.does(&format!("head -c {} /dev/vda | sha256sum", first.len()), &first_sum);
    guest.does("echo BEHIND $(tail -c 132 /dev/vda | tr -d '\\0' | wc -c)", "BEHIND 0\r\n");
    guest.does("cat /sys/block/vda/serial; echo", "salp-virtual-media\r\n");

    guest.eject();
    guest.sees(0);
    guest.insert("second");
    guest.sees(100);
    guest.does("sha256sum </dev/vda", &second_sum);

    // A clone has in its drive what its source has, and goes on with it when that is empty.
    let clone = format!("{}/Actions/Oem/SalpComputerSystem.InstantClone", guest.path);
    api.post(&clone, &json!({ "Name": "clone" })).is(201);
    guest.eject();
    let clone = Guest::new(&api, "clone");
    clone.does("echo 3 >/proc/sys/vm/drop_caches; echo IT HAS $(sha256sum </dev/vda)", &format!("IT HAS {second_sum}"));
    assert_eq!(api.delete(&format!("{IMAGES}/second")).status, 409, "it is in the clone's drive");
    api.delete(&clone.path).is(204);
    api.delete(&format!("{IMAGES}/second")).is(204);
    guest.sees(0);
    machine.stop();
}

#[test]
fn a_debian_starts_once_from_a_medium_and_then_from_its_own_images() {
    let mut machine = Setup::of(debian()).managed().mib(2048).seconds(900).start();
    let api = machine.api();
    let guest = Guest::new(&api, "web");
    let stock = Stock::named("debian").expect("a stock guest");
    let kernel = stock.fetch().and_then(|path| Ok(fs::read(path)?)).unwrap_or_else(|error| panic!("{error:#}"));
    let init = "#!/bin/busybox sh\n/bin/busybox mount -t proc proc /proc\n/bin/busybox mount -t sysfs sysfs /sys\n\
         /bin/busybox mount -t devtmpfs devtmpfs /dev\n/bin/busybox --install -s /bin\nexport PATH=/bin\n\
         modprobe virtio_mmio; modprobe virtio_blk; modprobe isofs\n\
         mkdir /medium; mount -t iso9660 /dev/vda /medium; echo FROM THE $(cat /medium/label) WITH $(cat /proc/cmdline)\nreboot -f\n";
    let other = initrd().init(init).build().unwrap_or_else(|error| panic!("{error:#}"));
    let entry = "menuentry Install {\n linux /install/vmlinuz quiet console=ttyAMA0 from=medium\n initrd /install.d/initrd.gz\n}\n";
    let medium = iso(vec![
        ("boot/grub/grub.cfg", entry.into()),
        ("install/vmlinuz", kernel),
        ("label", b"MEDIUM\n".to_vec()),
        ("install.d/initrd.gz", other),
    ]);
    upload(&api, "install.iso", &medium);
    guest.shows("MY OWN IMAGES", 1);
    guest.insert("install.iso");
    let once = json!({ "Boot": { "BootSourceOverrideTarget": "Cd", "BootSourceOverrideEnabled": "Once" } });
    api.patch(&guest.path, &once).is(200);
    guest.reset("ForceRestart");
    assert_eq!(guest.boot()["BootSourceOverrideEnabled"], "Disabled", "it is over as soon as it was used");
    assert_eq!(guest.boot()["BootSourceOverrideTarget"], "None");
    guest.shows("FROM THE MEDIUM WITH quiet console=ttyAMA0 from=medium\r\n", 1);
    // The guest has started itself again since.
    guest.shows("MY OWN IMAGES", 2);
    guest.reset("ForceRestart");
    guest.shows("MY OWN IMAGES", 3);
    assert_eq!(guest.console().matches("FROM THE MEDIUM").count(), 1);
    machine.stop();
}

#[test]
fn media_and_images_come_from_their_addresses() {
    let mut machine = Setup::of(guest("spin").named("web")).managed().seconds(600).start();
    let api = machine.api();
    let web = Guest::new(&api, "web");
    let content = bytes(3, 2_000_000);
    let digest = upload(&api, "same", &content);
    let address = format!("http://10.0.2.2:{}/disk.img", serve(content));

    let insert = format!("{}/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia", web.path);
    let order = json!({ "Image": address, "Oem": { "Salp": { "SHA256": digest } } });
    api.post(&insert, &order).is(204);
    let drive = api.get(&format!("{}/VirtualMedia/Cd", web.path)).is(200).json();
    assert_eq!((&drive["Inserted"], &drive["Image"]), (&json!(true), &json!(address)), "it is there when that is said");

    let order = json!({ "Name": "disk", "ImageURI": address, "Kind": "Raw" });
    let monitor = api.post(IMAGES, &order).is(202).location.expect("a monitor");
    let done = (0..600).find_map(|_| {
        thread::sleep(Duration::from_millis(200));
        Some(api.get(&monitor)).filter(|answer| answer.status != 202)
    });
    let image = done.expect("an end").is(201).location.expect("an image");
    assert_eq!(api.get(&image).is(200).json()["SHA256"], digest);
    assert_eq!(api.get(&monitor).status, 201, "it stays readable");
    machine.stop();
}
