//! The caller's own terminal: raw while a process in a container has the keyboard, and as before afterwards.

use rustix::termios::{
    OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr,
};

/// The caller's terminal in raw mode, until this is dropped.
#[derive(Debug)]
pub(super) struct Screen {
    /// None if standard input is no terminal.
    before: Option<Termios>,
}

impl Screen {
    /// Keys such as ^C are the process's now. A caller without a terminal, a script, is fine.
    pub(super) fn raw() -> Screen {
        let input = rustix::stdio::stdin();
        let before = isatty(input).then(|| tcgetattr(input).ok()).flatten();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            // A terminal that cannot be set stays as it is.
            tcsetattr(input, OptionalActions::Drain, &raw).ok();
        }
        Screen { before }
    }

    /// How large it is, if it is one.
    pub(super) fn size() -> Option<Winsize> {
        let all = [
            rustix::stdio::stdin(),
            rustix::stdio::stdout(),
            rustix::stdio::stderr(),
        ];
        let size = all.into_iter().find_map(|fd| tcgetwinsize(fd).ok());
        size.filter(|size| size.ws_row != 0 || size.ws_col != 0)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, before).ok();
        }
    }
}
