//! A container's life from create to delete.

mod support;

use longshore_runtime::container::State;
use support::{Host, Root, wait};

#[test]
#[ignore = "needs root"]
fn a_program_runs_and_its_exit_code_is_recorded() {
    let host = Host::new();
    let spec = host.spec(&["/bin/true"], |_| {});
    let container = host.create(&spec, Root::busybox()).unwrap();
    assert!(matches!(container.state().unwrap(), State::Created { pid } if pid > 0));
    container.start().unwrap();
    let exit = wait(&container);
    assert_eq!((exit.code, exit.started, exit.oom_kills), (0, true, 0));
    assert_eq!(container.state().unwrap(), State::Stopped(exit));
    container.delete().unwrap();
    host.assert_nothing_left();
}
