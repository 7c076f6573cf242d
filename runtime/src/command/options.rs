//! Options as runc takes them: `--name VALUE`, `--name=VALUE`, `-name`, `-n`, before and after the arguments.
//!
//! An option is known or it is an error that names it: none is taken and then forgotten. Deliberately
//! absent: abbreviations, options from the environment, and any type but text; who reads a value judges it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::str::FromStr;

use crate::StepError;

/// An option of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opt {
    /// Without dashes.
    pub(crate) name: &'static str,
    /// One letter that means the same.
    pub(crate) letter: Option<char>,
    /// What its value is called; None: it is a switch and has none.
    pub(crate) value: Option<&'static str>,
    /// What it does, for `--help`.
    pub(crate) help: &'static str,
}

impl Opt {
    /// An option without a value. `--name=false` takes it back.
    pub(crate) const fn switch(name: &'static str, help: &'static str) -> Opt {
        Opt {
            name,
            letter: None,
            value: None,
            help,
        }
    }

    /// An option with a value.
    pub(crate) const fn value(name: &'static str, value: &'static str, help: &'static str) -> Opt {
        Opt {
            name,
            letter: None,
            value: Some(value),
            help,
        }
    }

    /// The letter that means the same.
    pub(crate) const fn or(self, letter: char) -> Opt {
        Opt {
            letter: Some(letter),
            ..self
        }
    }
}

/// Two lists as one; `ALL` is their length together, which the compiler checks.
pub(crate) const fn joined<const A: usize, const B: usize, const ALL: usize>(
    first: [Opt; A],
    then: [Opt; B],
) -> [Opt; ALL] {
    assert!(A + B == ALL);
    let mut all = [Opt::switch("", ""); ALL];
    let mut at = 0;
    while at < ALL {
        all[at] = if at < A { first[at] } else { then[at - A] };
        at += 1;
    }
    all
}

/// How arguments that are no options are taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments {
    /// As `--help` shows them: `ID [SIGNAL]`.
    pub(crate) shown: &'static str,
    /// At least so many.
    pub(crate) least: usize,
    /// At most so many.
    pub(crate) most: usize,
    /// After this many arguments nothing is an option any more: it belongs to somebody else's program.
    pub(crate) end_of_options: Option<usize>,
}

impl Arguments {
    /// None at all.
    pub(crate) const NONE: Arguments = Arguments::between("", 0, 0);
    /// A container's id.
    pub(crate) const ID: Arguments = Arguments::between("ID", 1, 1);

    /// So many, options among them.
    pub(crate) const fn between(shown: &'static str, least: usize, most: usize) -> Arguments {
        Arguments {
            shown,
            least,
            most,
            end_of_options: None,
        }
    }
}

/// What was given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    options: Vec<(&'static str, OsString)>,
    arguments: Vec<OsString>,
    help: bool,
}

/// A misuse of the command line, in words.
pub(crate) type Misuse = String;

impl Given {
    /// Sorts arguments, which are those after the command's name.
    pub(crate) fn of(
        known: &[Opt],
        arguments: &Arguments,
        given: impl Iterator<Item = OsString>,
    ) -> Result<Given, Misuse> {
        let mut sorted = Given::default();
        let mut rest = given;
        let mut ended = arguments.end_of_options == Some(0);
        while let Some(next) = rest.next() {
            if !ended && next == "--" {
                ended = true;
            } else if !ended && next.as_bytes().starts_with(b"-") && next != "-" {
                sorted.take_option(known, &next, &mut rest)?;
            } else {
                sorted.arguments.push(next);
                ended |= arguments.end_of_options == Some(sorted.arguments.len());
            }
            // Whoever asks for help gets it, whatever else is wrong.
            if sorted.help {
                return Ok(sorted);
            }
        }
        let count = sorted.arguments.len();
        if count < arguments.least {
            return Err(format!("an argument is missing: {}", arguments.shown));
        }
        match sorted.arguments.get(arguments.most) {
            Some(extra) => Err(format!("one argument too many: {extra:?}")),
            None => Ok(sorted),
        }
    }

    /// The options before the command's name, which is left in `given`.
    pub(crate) fn global(
        known: &[Opt],
        given: &mut std::iter::Peekable<impl Iterator<Item = OsString>>,
    ) -> Result<Given, Misuse> {
        let mut sorted = Given::default();
        let is_option = |next: &OsString| next.as_bytes().starts_with(b"-");
        while let Some(next) = given.next_if(is_option) {
            sorted.take_option(known, &next, given)?;
            if sorted.help {
                break;
            }
        }
        Ok(sorted)
    }

    fn take_option(
        &mut self,
        known: &[Opt],
        text: &OsStr,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), Misuse> {
        let bytes = text.as_bytes();
        let bare = bytes.strip_prefix(b"--").unwrap_or(&bytes[1..]);
        let (name, value) = match bare.iter().position(|byte| *byte == b'=') {
            Some(at) => (
                &bare[..at],
                Some(OsString::from_vec(bare[at + 1..].to_vec())),
            ),
            None => (bare, None),
        };
        let named = |option: &&Opt| option.name.as_bytes() == name;
        if let Some(option) = known.iter().find(named) {
            return self.take_value(option, text, value, rest);
        }
        if name == b"help" || bytes == b"-h" {
            self.help = true;
            return Ok(());
        }
        match bytes.starts_with(b"--") {
            true => Err(format!("there is no option {text:?}")),
            false => self.take_letters(known, text, rest),
        }
    }

    /// `-d`, `-dq`, `-b DIR`, `-b=DIR`, `-bDIR`.
    fn take_letters(
        &mut self,
        known: &[Opt],
        text: &OsStr,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), Misuse> {
        let letters = &text.as_bytes()[1..];
        for (at, letter) in letters.iter().enumerate() {
            let named = |option: &&Opt| option.letter == Some(char::from(*letter));
            let Some(option) = known.iter().find(named) else {
                return Err(format!("there is no option {text:?}"));
            };
            let after = &letters[at + 1..];
            let joined = after.strip_prefix(b"=").unwrap_or(after);
            let attached = after.starts_with(b"=") || (option.value.is_some() && !after.is_empty());
            if attached || option.value.is_some() {
                let value = attached.then(|| OsString::from_vec(joined.to_vec()));
                return self.take_value(option, text, value, rest);
            }
            self.options.push((option.name, "true".into()));
        }
        Ok(())
    }

    fn take_value(
        &mut self,
        option: &Opt,
        text: &OsStr,
        value: Option<OsString>,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), Misuse> {
        let value = match (option.value, value) {
            (None, None) => "true".into(),
            (None, Some(value)) => match value.to_str() {
                Some("true" | "1" | "t" | "T" | "TRUE" | "True") => "true".into(),
                Some("false" | "0" | "f" | "F" | "FALSE" | "False") => "false".into(),
                _ => {
                    let name = option.name;
                    return Err(format!("--{name} is true or false and not {value:?}"));
                }
            },
            (Some(_), Some(value)) => value,
            (Some(called), None) => rest
                .next()
                .ok_or_else(|| format!("{text:?} needs a value: {called}"))?,
        };
        self.options.push((option.name, value));
        Ok(())
    }

    /// Whether help was asked for instead.
    pub(crate) fn wants_help(&self) -> bool {
        self.help
    }

    /// Whether a switch is on.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value == "true")
    }

    /// The value of an option; if it was given more than once, the last.
    pub(crate) fn value(&self, name: &str) -> Option<&OsStr> {
        self.values(name).last()
    }

    /// All values of an option, in order.
    pub(crate) fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a OsStr> {
        let name = name.to_owned();
        self.options
            .iter()
            .filter(move |(option, _)| *option == name)
            .map(|(_, value)| value.as_os_str())
    }

    /// A value that is text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, StepError> {
        let value = self.value(name);
        value
            .map(|value| utf8(&format!("--{name}"), value))
            .transpose()
    }

    /// A value that is a number or the like.
    pub(crate) fn parsed<T: FromStr>(
        &self,
        name: &str,
        wanted: &str,
    ) -> Result<Option<T>, StepError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                StepError::refused(
                    "read option",
                    format!("--{name}"),
                    format!("{text:?} is not {wanted}"),
                )
            })
        };
        self.text(name)?.map(parse).transpose()
    }

    /// What is no option, in order.
    pub(crate) fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// The first argument: the container's id.
    pub(crate) fn id(&self) -> Result<&str, StepError> {
        let first = self
            .arguments
            .first()
            .map_or(OsStr::new(""), OsString::as_os_str);
        utf8("container's id", first)
    }
}

fn utf8<'a>(what: &str, text: &'a OsStr) -> Result<&'a str, StepError> {
    let cause = || StepError::refused("read", what, format!("{text:?} is not UTF-8"));
    text.to_str().ok_or_else(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Opt; 4] = [
        Opt::value("bundle", "DIR", "").or('b'),
        Opt::switch("detach", "").or('d'),
        Opt::switch("quiet", "").or('q'),
        Opt::value("env", "NAME=VALUE", "").or('e'),
    ];

    fn of(arguments: Arguments, given: &[&str]) -> Result<Given, Misuse> {
        Given::of(&KNOWN, &arguments, given.iter().map(OsString::from))
    }

    #[test]
    fn every_spelling_of_an_option_is_the_same() {
        for given in [
            &["--bundle", "x", "id"][..],
            &["--bundle=x", "id"],
            &["-bundle", "x", "id"],
            &["-bundle=x", "id"],
            &["-b", "x", "id"],
            &["-b=x", "id"],
            &["-bx", "id"],
            &["id", "--bundle", "x"],
            &["-dqb", "x", "id"],
            &["--bundle", "y", "id", "-b", "x"],
        ] {
            let sorted = of(Arguments::ID, given).unwrap();
            assert_eq!(sorted.value("bundle"), Some(OsStr::new("x")), "{given:?}");
            assert_eq!(sorted.id().unwrap(), "id");
        }
    }

    #[test]
    fn a_switch_can_be_taken_back() {
        let on = |given: &[&str]| of(Arguments::NONE, given).unwrap().has("detach");
        assert!(on(&["-d"]) && on(&["--detach=true"]) && on(&["--detach=1"]));
        assert!(!on(&[]) && !on(&["-d", "--detach=false"]));
        assert!(of(Arguments::NONE, &["--detach=maybe"]).is_err());
    }

    #[test]
    fn somebody_else_s_options_are_left_alone() {
        let arguments = Arguments {
            end_of_options: Some(1),
            ..Arguments::between("ID COMMAND", 2, usize::MAX)
        };
        let sorted = of(arguments, &["-e", "A=1", "-e=B=2=3", "id", "ls", "-d"]).unwrap();
        assert_eq!(sorted.arguments(), ["id", "ls", "-d"]);
        assert!(!sorted.has("detach"));
        let env: Vec<_> = sorted.values("env").collect();
        assert_eq!(env, ["A=1", "B=2=3"]);
        let sorted = of(Arguments::ID, &["--", "--detach"]).unwrap();
        assert_eq!(sorted.id().unwrap(), "--detach");
    }

    #[test]
    fn misuse_is_named() {
        for (given, words) in [
            (&["--frobnicate", "id"][..], "--frobnicate"),
            (&["-x", "id"], "-x"),
            (&["-dx", "id"], "-dx"),
            (&["id", "--bundle"], "needs a value: DIR"),
            (&[], "missing: ID"),
            (&["id", "other"], "\"other\""),
        ] {
            let misuse = of(Arguments::ID, given).unwrap_err();
            assert!(misuse.contains(words), "{misuse} lacks {words}");
        }
    }

    #[test]
    fn help_comes_before_all_misuse() {
        for given in [&["--help"][..], &["-h"], &["id", "other", "--help"]] {
            assert!(of(Arguments::ID, given).unwrap().wants_help());
        }
    }

    #[test]
    fn global_options_end_at_the_command() {
        let given = ["-b", "x", "run", "-d"].map(OsString::from);
        let mut given = given.into_iter().peekable();
        let sorted = Given::global(&KNOWN, &mut given).unwrap();
        assert_eq!(sorted.value("bundle"), Some(OsStr::new("x")));
        assert_eq!(given.next().unwrap(), "run");
    }
}
