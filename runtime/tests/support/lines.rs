//! What a program says, line by line, for as long as a test has patience: one that says nothing fails its test and does
//! not hold the whole suite.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};

use super::PATIENCE;

/// The lines of a child's standard output.
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    /// Takes the standard output, which must be a pipe. It is read to its end by a thread of its own.
    pub(crate) fn of(child: &mut Child) -> Lines {
        let output = child.stdout.take().unwrap();
        let (tell, told) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                // A test that listens no longer has no need of the rest, but the program must not meet a closed pipe.
                tell.send(line.unwrap()).ok();
            }
        });
        Lines(told)
    }

    /// The next one, without its end.
    #[track_caller]
    pub(crate) fn next(&self) -> String {
        self.0.recv_timeout(PATIENCE).expect("a line")
    }
}
