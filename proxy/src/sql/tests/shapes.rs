//! The lexer against PostgreSQL's own, and what may be remembered by shape.

use pg_query::protobuf::Token;

use super::super::shape::{Literal, LiteralKind, Shape};
use super::*;

fn shape(sql: &str) -> Option<String> {
    Shape::of(sql).map(|shape| String::from_utf8(shape.bytes).unwrap())
}

/// Literals as PostgreSQL's scanner cuts them; `N'..'` counts from its letter.
fn scanned(sql: &str) -> Option<Vec<(usize, usize)>> {
    let tokens = pg_query::scan(sql).ok()?.tokens;
    let mut literals = Vec::new();
    let mut national = None;
    for token in tokens {
        let (start, end) = (usize::try_from(token.start).unwrap(), usize::try_from(token.end).unwrap());
        match Token::try_from(token.token).ok() {
            Some(Token::Nchar) if end - start == 1 => {
                national = Some(start);
                continue;
            }
            Some(
                Token::Sconst
                | Token::Bconst
                | Token::Xconst
                | Token::Usconst
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

/// Whatever the lexer accepts, PostgreSQL accepts with the same literals.
#[track_caller]
pub(super) fn agree(sql: &str) {
    let Some(shape) = Shape::of(sql) else { return };
    let ours: Vec<_> = shape.literals.iter().map(|literal| (literal.start, literal.end)).collect();
    match scanned(sql) {
        Some(theirs) => assert_eq!(ours, theirs, "{sql:?}"),
        // Bad escapes are refused by the scanner only; the parser refuses them, too, whatever the shape says.
        None => assert!(pg_query::parse(sql, 0).is_err(), "{sql:?}"),
    }
}

#[test]
fn literals_comments_and_white_space_do_not_count() {
    let one = shape("SELECT a FROM t WHERE b = 'x' AND c = 12").unwrap();
    for same in [
        "SELECT a FROM t WHERE b = '' AND c = 0",
        "SELECT a\tFROM t\n WHERE b = 'it''s' AND c = 999999999",
        "SELECT a FROM t WHERE b = '\\' AND c = 1 -- x",
        "SELECT a /* x /* y */ */ FROM t WHERE b = 'x'\n  -- more\n 'y' AND c = 3  ",
    ] {
        assert_eq!(shape(same).as_ref(), Some(&one), "{same}");
    }
    for other in [
        "SELECT a FROM t WHERE b = E'x' AND c = 12",
        "SELECT a FROM t WHERE b = $$x$$ AND c = 12",
        "SELECT a FROM t WHERE b = 'x' AND c = 1.2",
        "SELECT a FROM t WHERE b = 'x' AND c = 1234567890",
        "SELECT a FROM t WHERE b = 'x' AND d = 12",
        "SELECT A FROM t WHERE b = 'x' AND c = 12",
        "SELECT a FROM t WHERE b = 'x' 'y' AND c = 12",
        "SELECT a FROM t WHERE b = $1 AND c = 12",
    ] {
        assert_ne!(shape(other).as_ref(), Some(&one), "{other}");
    }
}

#[test]
fn the_number_after_limit_is_kept() {
    assert_ne!(shape("SELECT a FROM t LIMIT 1"), shape("SELECT a FROM t LIMIT 2"));
    assert_ne!(
        shape("SELECT a FROM t FETCH FIRST 1 ROWS ONLY"),
        shape("SELECT a FROM t FETCH FIRST 2 ROWS ONLY")
    );
    assert_eq!(shape("SELECT 1 LIMIT 5 OFFSET 7"), shape("SELECT 2 LIMIT 5 OFFSET 8"));
}

#[test]
fn what_is_rare_or_differs_between_versions_has_no_shape() {
    for sql in [
        "SELECT 0x1F",
        "SELECT 1_000",
        "SELECT 12abc",
        "SELECT $1a",
        "SELECT U&'x'",
        "SELECT u&\"x\"",
        "SELECT 'x",
        "SELECT \"x",
        "SELECT /* x",
        "SELECT $a$ x",
        "SELECT E'x\\'",
        "SELECT '\u{1}'",
        "SELECT \u{2}",
        "SELECT 1e",
        "SELECT 1..2",
        "SELECT X'1''2'",
        "SELECT B'1'\n'0'",
        "SELECT $",
        "SELECT \u{b}1",
    ] {
        assert_eq!(shape(sql), None, "{sql}");
    }
}

#[test]
fn kinds_of_literals_are_told_apart() {
    let literals = Shape::of("'a' E'b' $$c$$ N'd' B'0' X'f' 1 1.5 .5e3 1234567890").unwrap().literals;
    let kinds: Vec<_> = literals.iter().map(|literal| literal.kind).collect();
    assert_eq!(
        kinds,
        [
            LiteralKind::Text,
            LiteralKind::EscapeText,
            LiteralKind::DollarText,
            LiteralKind::NationalText,
            LiteralKind::Bits,
            LiteralKind::Hex,
            LiteralKind::Integer,
            LiteralKind::Decimal,
            LiteralKind::Decimal,
            LiteralKind::Integer,
        ]
    );
    assert_eq!(
        literals.last(),
        Some(&Literal { start: 41, end: 51, kind: LiteralKind::Integer, kept: true })
    );
}

#[test]
fn the_lexer_agrees_with_postgresql_on_the_corpora() {
    let corpora =
        concat!(include_str!("../corpus/psql_and_pg_dump.sql"), include_str!("../corpus/drivers.sql"));
    let mut shaped = 0;
    for sql in corpora.split("\n-- ##\n") {
        agree(sql);
        shaped += usize::from(Shape::of(sql).is_some());
    }
    assert!(shaped > 200, "{shaped}");
}

/// What random texts are made of.
const PIECES: &[&str] = &[
    "'",
    "'",
    "''",
    "\"",
    "$",
    "$$",
    "$a$",
    "$é$",
    "\\",
    "\\'",
    "E'",
    "e'",
    "b'01'",
    "x'ff'",
    "N'",
    "n'",
    "U&'",
    "--",
    "/*",
    "*/",
    "/",
    "*",
    "\n",
    "\r",
    " ",
    "\t",
    "@",
    "-",
    "+",
    "a",
    "e",
    "x",
    "select",
    "limit",
    "1",
    "12",
    "1.5",
    ".5",
    "1e3",
    "1.",
    "..",
    "0x1",
    "_",
    "é",
    "$1",
    ";",
    ",",
    "(",
    ")",
    "::",
    ":=",
    "#",
    "?",
    "|",
    "<>",
    "uescape",
    "0",
    "9999999999",
    "'a'\n'b'",
    "'a' --\n 'b'",
    "\u{c}",
    "1_0",
];

#[test]
fn the_lexer_agrees_with_postgresql_on_random_texts() {
    let seed = 0x5eed_u64;
    let mut state = seed;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut shaped = 0_u32;
    for _ in 0..60_000 {
        let count = next() % 12 + 1;
        let text: String = (0..count)
            .map(|_| PIECES[usize::try_from(next() % u64::try_from(PIECES.len()).unwrap()).unwrap()])
            .collect();
        agree(&text);
        shaped += u32::from(Shape::of(&text).is_some());
    }
    assert!(shaped > 10_000, "seed {seed}: only {shaped} texts had a shape");
}

#[test]
fn only_facts_that_no_literal_influenced_hold_by_shape() {
    for sql in [
        "SELECT a FROM t WHERE b = 1",
        "SELECT a FROM t WHERE b = 1 LIMIT 10",
        "SELECT a FROM t FETCH FIRST 2 ROWS ONLY",
        "INSERT INTO t VALUES (1, 'x')",
        "UPDATE t SET a = 1.5 WHERE b = E'x'",
        "DELETE FROM t WHERE a = 1",
        "SELECT INTERVAL '1' DAY, DATE '2020-01-01', 'x'::varchar(3)",
    ] {
        assert!(analyse_text(sql).by_shape, "{sql}");
    }
    for sql in [
        "SELECT set_config('search_path', '', false)",
        "SET search_path = ''",
        "SELECT a FROM t LIMIT (10)",
        "SELECT a FROM t LIMIT '10'::int LIMIT 1",
        "SELECT 1; SELECT 2",
        "SELECT 0x10 LIMIT 5",
        "PREPARE p AS SELECT 1",
        "EXPLAIN (ANALYZE 0) SELECT 1",
        "SELECT lo_get(1)",
        "",
    ] {
        assert!(!analyse_text(sql).by_shape, "{sql}");
    }
}

#[test]
fn texts_of_one_shape_have_one_analysis() {
    let with = |text: &str, number: u32| {
        analyse_text(&format!("SELECT a, '{text}' FROM t WHERE b = {number} AND c = $x${text}$x$ LIMIT 5"))
    };
    let first = with("x", 1);
    for (text, number) in [("'' OR true --", 7), ("\\", 0), ("/* ", 999_999_999), ("from customers", 2)] {
        assert_eq!(with(text, number), first);
    }
}
