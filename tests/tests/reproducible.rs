//! What is built says nothing of where it was built: two builds of one commit are equal to the bit.

use salp_qemu::{paths, remap};
use salp_tests::{long, machine};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_release_image_names_no_path_of_this_host() {
    let image = read(&machine::image().bin);
    let places = [remap::cargo_home(), remap::sysroot()].map(|place| place.unwrap_or_else(|error| panic!("{error:#}")));
    for place in places.into_iter().chain([paths::checkout()]) {
        let name = place.as_os_str().as_encoded_bytes();
        assert!(!image.windows(name.len()).any(|bytes| bytes == name), "{} is in it", place.display());
    }
}

/// Copies the files that git has of the checkout.
fn copy_checkout(to: &Path) {
    let listed = Command::new("git").current_dir(paths::checkout()).args(["ls-files", "-z"]).output().expect("git");
    assert!(listed.status.success(), "git does not list its files");
    for name in String::from_utf8(listed.stdout).expect("names").split_terminator('\0') {
        let file = to.join(name);
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
        fs::copy(paths::checkout().join(name), &file).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// It takes minutes: nothing is built yet in the other directory.
#[test]
fn two_builds_of_one_commit_are_equal_to_the_bit() {
    if !long() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let other = directory.path().join("elsewhere");
    copy_checkout(&other);
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .current_dir(&other)
        .env_remove("CARGO_TARGET_DIR")
        .args(["run", "--quiet", "--", "image"])
        .status()
        .expect("cargo");
    assert!(built.success(), "it cannot be built in {}", other.display());
    let ours = &machine::image().bundle;
    let theirs = other.join("target/salp").join(ours.file_name().expect("a name"));
    assert!(read(ours) == read(&theirs), "{} and {} differ", ours.display(), theirs.display());
}
