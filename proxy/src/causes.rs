//! An error with everything that led to it, in one line: for logs, records and people.
//!
//! Some errors quote their cause in their own message and some do not; what the line says already is not said again.
//! It makes nothing inert: whoever prints an agent's words does that. INVARIANT: the outermost error comes first, its last
//! cause (often the kernel's own words) last.

use std::error::Error;

/// The error itself, its cause, that one's cause, and so on.
pub fn of<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'e (dyn Error + 'static)| error.source())
}

/// `outer: cause: cause of the cause`, each said once.
#[must_use]
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in of(error).skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open `x`: {source}")]
    struct Quoting {
        source: io::Error,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("could not start")]
    struct Silent {
        source: Quoting,
    }

    #[test]
    fn a_cause_that_the_message_holds_is_not_said_again() {
        let quoting = Quoting { source: io::Error::other("no room") };
        assert_eq!(in_one_line(&quoting), "cannot open `x`: no room");
        assert_eq!(in_one_line(&Silent { source: quoting }), "could not start: cannot open `x`: no room");
    }
}
