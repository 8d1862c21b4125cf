//! Whatever the shape lexer accepts, PostgreSQL's scanner cuts into the same literals; or the lexer refuses.
//!
//! Our lexer against libpg_query's scanner: the same literals at the same places, or ours refuses.

#![no_main]

use chaperone::sql::Shape;
use libfuzzer_sys::fuzz_target;
use pg_query::protobuf::Token;

/// Literals as PostgreSQL's scanner cuts them; `N'..'` counts from its letter.
fn scanned(sql: &str) -> Option<Vec<(usize, usize)>> {
    let mut literals = Vec::new();
    let mut national = None;
    for token in pg_query::scan(sql).ok()?.tokens {
        let start = usize::try_from(token.start).ok()?;
        let end = usize::try_from(token.end).ok()?;
        match Token::try_from(token.token).ok() {
            Some(Token::Nchar) if end - start == 1 => {
                national = Some(start);
                continue;
            }
            Some(
                Token::Sconst
                | Token::Usconst
                | Token::Bconst
                | Token::Xconst
                | Token::Iconst
                | Token::Fconst,
            ) => {
                literals.push((national.filter(|at| at + 1 == start).unwrap_or(start), end));
            }
            _ => {}
        }
        national = None;
    }
    Some(literals)
}

fuzz_target!(|sql: &str| {
    let Some(shape) = Shape::of(sql) else { return };
    let ours: Vec<_> = shape.literals.iter().map(|literal| (literal.start, literal.end)).collect();
    match scanned(sql) {
        Some(theirs) => assert_eq!(ours, theirs, "{sql:?}"),
        // Bad escapes inside literals are refused by the scanner only; the parser must refuse them, too.
        None => assert!(pg_query::parse(sql, 0).is_err(), "{sql:?}"),
    }
    // The shape of a text without replaced literals is its own shape.
    if shape.literals.iter().all(|literal| literal.kept)
        && let Ok(text) = std::str::from_utf8(&shape.bytes)
    {
        assert_eq!(Shape::of(text).map(|again| again.bytes), Some(shape.bytes.clone()), "{sql:?}");
    }
});
