//! proc_pid_net(5): the counts of a network namespace's devices, seen through one of its processes, so that
//! nobody needs to enter it.

use std::io::ErrorKind;

use super::Interface;
use crate::StepError;
use crate::error::Context;

/// One on its way out has left its network already, before it counts as ended: it has no devices any more.
pub(super) fn of_process(pid: u32) -> Result<Vec<Interface>, StepError> {
    let path = format!("/proc/{pid}/net/dev");
    match std::fs::read_to_string(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
            Ok(Vec::new())
        }
        text => Ok(parse(&text.context("read", path)?)),
    }
}

/// Two lines of headings, then `NAME: rx... tx...` with eight numbers each.
fn parse(text: &str) -> Vec<Interface> {
    text.lines().skip(2).filter_map(line).collect()
}

fn line(text: &str) -> Option<Interface> {
    // The name may hold a colon, the numbers do not.
    let (name, numbers) = text.rsplit_once(':')?;
    let numbers: Vec<u64> = numbers
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let name = name.trim();
    match numbers[..] {
        [
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            _,
            _,
            _,
            _,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
            ..,
        ] if name != "lo" => Some(Interface {
            name: name.to_owned(),
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_left_its_network_has_no_devices() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let stat = format!("/proc/{}/stat", child.id());
        while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        assert_eq!(of_process(child.id()).unwrap(), []);
        child.wait().unwrap();
        assert!(of_process(std::process::id()).is_ok());
    }

    #[test]
    fn devices_are_read_and_loopback_is_not_one() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets\n\
                    lo: 5 5 0 0 0 0 0 0 5 5 0 0 0 0 0 0\n\
                    eth0: 100 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n  a:b: 1 2\n";
        assert_eq!(
            parse(text),
            [Interface {
                name: "eth0".into(),
                rx_bytes: 100,
                rx_packets: 2,
                rx_errors: 3,
                rx_dropped: 4,
                tx_bytes: 50,
                tx_packets: 6,
                tx_errors: 7,
                tx_dropped: 8,
            }]
        );
    }
}
