//! Tests that a host cannot run.

use std::io::Write;

/// Says which test does not run here, and why. Past the capture of a test's output, so that nobody takes it for one
/// that has passed.
pub(crate) fn skip(reason: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    let line = format!("skipped: {name}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).ok();
}
