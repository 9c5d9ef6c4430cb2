//! What the launcher prints: its own progress in cargo's manner, and the lines of its children with their names.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

const COLOURS: [&str; 6] = ["36", "33", "35", "34", "32", "31"];

/// Whether colours are wanted on standard output (<https://no-color.org>).
fn coloured() -> bool {
    static COLOURED: OnceLock<bool> = OnceLock::new();
    *COLOURED.get_or_init(|| {
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
    })
}

fn paint(code: &str, text: impl Display) -> String {
    if coloured() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
}

/// One line on standard output. Nobody reading it is no reason to stop.
pub(crate) fn say(line: impl Display) {
    let _nobody_reads = writeln!(io::stdout().lock(), "{line}");
}

/// A step of our own, in the shape of cargo's `   Compiling …`.
pub(crate) fn step(verb: &str, what: impl Display) {
    say(format_args!("{} {what}", paint("1;32", format_args!("{verb:>12}"))));
}

/// Something that went wrong, on standard error.
pub(crate) fn error(text: impl Display) {
    let _nobody_reads = writeln!(io::stderr().lock(), "{}: {text}", paint("1;31", "error"));
}

/// The prefix of a child's lines, `api         │ `; each `number` has its colour.
pub(crate) fn prefix(name: &str, number: usize) -> String {
    paint(COLOURS[number % COLOURS.len()], format_args!("{name:<11} │"))
}
