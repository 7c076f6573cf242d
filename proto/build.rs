//! Compiles the .proto files with protox: no protoc on the build machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=longshore");
    let files = protox::compile(
        [
            "longshore/v1/enrollment.proto",
            "longshore/v1/session.proto",
        ],
        ["."],
    )?;
    tonic_prost_build::configure()
        // Both ends bring their own TLS and their own connections (and Session.Connect would clash).
        .build_transport(false)
        // These hold secrets or users' values: src/redacted.rs prints them without.
        .skip_debug([".longshore.v1.JoinRequest", ".longshore.v1.KeyValue"])
        .compile_fds(files)?;
    Ok(())
}
