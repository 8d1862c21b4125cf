//! The steps of the demonstration, in order.
//!
//! Each checks its own claim against what the programs printed and what the database's owner sees, and hands back
//! one line of evidence. Raw values come from the sample's formula, so a leak of any of them is noticed.

mod bypass;
mod expiry;
mod hold;
mod masking;
mod record;

use crate::report::Step;

/// All steps.
pub(crate) const ALL: &[Step] = &[
    Step { title: "psql at the database's own address sees masked columns", act: masking::psql },
    Step { title: "psycopg with bound values sees masked columns", act: masking::psycopg },
    Step { title: "an alias or an expression does not unmask", act: masking::alias },
    Step { title: "DROP TABLE is denied and the session lives on", act: masking::denied_drop },
    Step { title: "an UPDATE waits, a second person approves, it runs", act: hold::update },
    Step { title: "a token that expires mid-session ends the access", act: expiry::mid_session },
    Step { title: "ways past the proxy are closed", act: bypass::attempts },
    Step { title: "the record verifies and tells the story", act: record::verify },
    Step { title: "one flipped byte in the record is found", act: record::flip },
];
