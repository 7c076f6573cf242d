//! Lets the program begin before libc does: see `start` of longshore-sys.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=longshore-runtime=-Wl,-e,longshore_start");
}
