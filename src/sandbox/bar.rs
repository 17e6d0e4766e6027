//! How far a long command is: one line on the terminal, drawn over itself, gone at its end.

use std::io::{IsTerminal, Write as _};

/// Columns of the bar itself.
const WIDTH: usize = 40;

/// The line on standard error. Dropping it takes it away.
#[derive(Debug, Default)]
pub(super) struct Bar {
    shown: String,
}

impl Bar {
    /// `None` where nobody would see it.
    pub(super) fn new() -> Option<Bar> {
        std::io::stderr().is_terminal().then(Bar::default)
    }

    /// Shows that this part (0 to 1) is done, between these words.
    pub(super) fn show(&mut self, before: &str, part: f64, after: &str) {
        let line = line(before, part, after);
        if line != self.shown {
            // A terminal that is narrower cuts it instead of beginning a second line, which would stay.
            let _ = write!(std::io::stderr(), "\r\x1b[?7l{line}\x1b[K\x1b[?7h");
            self.shown = line;
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if !self.shown.is_empty() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(before: &str, part: f64, after: &str) -> String {
    let full = ((part * WIDTH as f64) as usize).min(WIDTH);
    let (done, rest) = ("█".repeat(full), "░".repeat(WIDTH - full));
    format!("{before}{done}{rest} {after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_from_the_left_and_keeps_its_width() {
        let bar = |part| line("", part, "").trim_end().to_owned();
        assert_eq!(bar(0.0), "░".repeat(40));
        assert_eq!(bar(0.25), "█".repeat(10) + &"░".repeat(30));
        assert_eq!(bar(1.0), "█".repeat(40));
        assert_eq!(bar(1.2), bar(1.0), "late");
        assert_eq!(bar(f64::NAN), bar(0.0), "nothing of nothing");
        let words = line("   9 users ", 1.0, "0 s left");
        assert!(words.starts_with("   9 users █") && words.ends_with("█ 0 s left"));
    }
}
