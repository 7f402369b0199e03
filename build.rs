//! Packs the relocations of the program: they are a tenth of it otherwise.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // glibc reads them from 2.36 on, which is Debian 12's.
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
