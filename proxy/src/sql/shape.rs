//! The shape of a text: its tokens with literals replaced by their kind, white space and comments by one blank.
//!
//! Lexes as PostgreSQL does with `standard_conforming_strings` on. Placeholders are control bytes, which no accepted text
//! contains. INVARIANT: two texts of the same shape have the same tokens, up to the values of the replaced literals.
//! Refuses (no shape) whatever is rare or depends on the server's version: control bytes, `U&`, hexadecimal and
//! underscored numbers, junk after numbers and parameters, unterminated things.
//! Keeps in clear: integers of ten digits and more (their type depends on the value) and the number after `LIMIT`,
//! `FIRST` and `NEXT`, which is a fact.

/// What sort of literal stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LiteralKind {
    /// `'..'`, with continuations on later lines.
    Text,
    /// `E'..'`.
    EscapeText,
    /// `$tag$..$tag$`.
    DollarText,
    /// `N'..'`.
    NationalText,
    /// `B'..'`.
    Bits,
    /// `X'..'`.
    Hex,
    /// Up to nine digits.
    Integer,
    /// Any other number.
    Decimal,
}

impl LiteralKind {
    /// The placeholder; none is a byte that white space uses.
    fn placeholder(self) -> u8 {
        match self {
            Self::Text => 1,
            Self::EscapeText => 2,
            Self::DollarText => 3,
            Self::NationalText => 4,
            Self::Bits => 5,
            Self::Hex => 6,
            Self::Integer => 7,
            Self::Decimal => 8,
        }
    }
}

/// A literal of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Literal {
    /// First byte.
    pub start: usize,
    /// Byte after the last.
    pub end: usize,
    /// Its sort.
    pub kind: LiteralKind,
    /// Stands in the shape in clear.
    pub kept: bool,
}

/// A text's shape and its literals.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The key under which facts are remembered.
    pub bytes: Vec<u8>,
    /// The literals in their order.
    pub literals: Vec<Literal>,
}

impl Shape {
    /// The shape of a text, or nothing if the lexer refuses it.
    #[must_use]
    pub fn of(sql: &str) -> Option<Self> {
        let mut shape = Self { bytes: Vec::with_capacity(sql.len()), literals: Vec::new() };
        write(sql, &mut shape.bytes, |literal| shape.literals.push(literal)).then_some(shape)
    }
}

/// Whether the literal that starts at `at` stands in the text's shape in clear.
pub(super) fn keeps_literal_at(sql: &str, at: usize) -> bool {
    let mut kept = false;
    let mut bytes = Vec::new();
    let lexed = write(sql, &mut bytes, |literal| kept |= literal.start == at && literal.kept);
    lexed && kept
}

/// Appends the shape to `out`; false if the lexer refuses, in which case `out` is to be thrown away.
pub(super) fn write(sql: &str, out: &mut Vec<u8>, on_literal: impl FnMut(Literal)) -> bool {
    let mut lexer = Lexer { input: sql.as_bytes(), at: 0, out, on_literal, limits: false, blank: true };
    while lexer.at < lexer.input.len() {
        if lexer.token().is_none() {
            return false;
        }
    }
    if lexer.out.last() == Some(&b' ') {
        lexer.out.pop();
    }
    true
}

struct Lexer<'a, F> {
    input: &'a [u8],
    at: usize,
    out: &'a mut Vec<u8>,
    on_literal: F,
    /// The last token was a word after which a number is a row limit.
    limits: bool,
    /// The last byte written is a blank, or nothing is written yet.
    blank: bool,
}

/// Lexing goes on, or (`None`) the text is refused.
type Lexed = Option<()>;

impl<F: FnMut(Literal)> Lexer<'_, F> {
    fn peek(&self, ahead: usize) -> u8 {
        // NUL is never accepted, so it can stand for the end.
        self.at.checked_add(ahead).and_then(|at| self.input.get(at)).copied().unwrap_or(0)
    }

    fn skip(&mut self, count: usize) {
        self.at = self.at.saturating_add(count);
    }

    fn copy(&mut self, from: usize) -> Lexed {
        let bytes = self.input.get(from..self.at)?;
        self.out.extend_from_slice(bytes);
        self.blank = false;
        Some(())
    }

    fn literal(&mut self, start: usize, kind: LiteralKind) -> Lexed {
        self.out.push(kind.placeholder());
        self.blank = false;
        self.limits = false;
        (self.on_literal)(Literal { start, end: self.at, kind, kept: false });
        Some(())
    }

    fn token(&mut self) -> Lexed {
        let start = self.at;
        match (self.peek(0), self.peek(1)) {
            (b' ' | b'\t' | b'\n' | b'\r' | 0x0c, _) | (b'-', b'-') | (b'/', b'*') => return self.space(),
            (b'\'', _) => {
                self.quoted(false)?;
                return self.literal(start, LiteralKind::Text);
            }
            (b'e' | b'E', b'\'') => {
                self.skip(1);
                self.quoted(true)?;
                return self.literal(start, LiteralKind::EscapeText);
            }
            (b'n' | b'N', b'\'') => {
                self.skip(1);
                self.quoted(false)?;
                return self.literal(start, LiteralKind::NationalText);
            }
            (b'b' | b'B', b'\'') => return self.bits(start, LiteralKind::Bits),
            (b'x' | b'X', b'\'') => return self.bits(start, LiteralKind::Hex),
            // Two dots belong to loops of PL/pgSQL and lex as one token, even before a digit.
            (b'.', b'.') => return None,
            (b'u' | b'U', b'&') if matches!(self.peek(2), b'\'' | b'"') => return None,
            (b'"', _) => {
                self.identifier_quoted()?;
                self.limits = false;
                return self.copy(start);
            }
            (b'0'..=b'9', _) | (b'.', b'0'..=b'9') => return self.number(start),
            (b'$', _) => return self.dollar(start),
            (byte, _) if is_word_start(byte) => return self.word(start),
            (byte, _) if byte < 0x20 || byte == 0x7f => return None,
            _ => {}
        }
        // Operators and punctuation; comment starts inside operators were caught above, byte by byte.
        self.skip(1);
        self.limits = false;
        self.copy(start)
    }

    fn space(&mut self) -> Lexed {
        while self.at < self.input.len() {
            match (self.peek(0), self.peek(1)) {
                (b' ' | b'\t' | b'\n' | b'\r' | 0x0c, _) => self.skip(1),
                (b'-', b'-') => self.line_comment()?,
                (b'/', b'*') => self.block_comment()?,
                _ => break,
            }
        }
        if !self.blank {
            self.out.push(b' ');
            self.blank = true;
        }
        Some(())
    }

    fn line_comment(&mut self) -> Lexed {
        while self.at < self.input.len() {
            match self.peek(0) {
                b'\n' | b'\r' => break,
                byte => self.inner(byte)?,
            }
        }
        Some(())
    }

    fn block_comment(&mut self) -> Lexed {
        let mut depth: usize = 0;
        while self.at < self.input.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth = depth.saturating_add(1);
                    self.skip(2);
                }
                (b'*', b'/') => {
                    depth = depth.saturating_sub(1);
                    self.skip(2);
                    if depth == 0 {
                        return Some(());
                    }
                }
                (byte, _) => self.inner(byte)?,
            }
        }
        None
    }

    /// One byte inside a comment, a literal or a quoted identifier.
    fn inner(&mut self, byte: u8) -> Lexed {
        let control = byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c) || byte == 0x7f;
        if control {
            return None;
        }
        self.skip(1);
        Some(())
    }

    /// From an opening quote to behind the last closing one, over continuations on later lines.
    fn quoted(&mut self, escapes: bool) -> Lexed {
        loop {
            self.skip(1);
            loop {
                match (self.peek(0), self.peek(1)) {
                    (b'\'', b'\'') => self.skip(2),
                    (b'\'', _) => break,
                    (b'\\', next) if escapes => {
                        self.skip(1);
                        self.inner(next)?;
                    }
                    (byte, _) => self.inner(byte)?,
                }
            }
            self.skip(1);
            if !self.continued()? {
                return Some(());
            }
        }
    }

    /// Moves to the next quote if only white space and line comments with a line end lie between.
    fn continued(&mut self) -> Option<bool> {
        let end = self.at;
        let mut line_end = false;
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'\n' | b'\r', _) => {
                    line_end = true;
                    self.skip(1);
                }
                (b' ' | b'\t' | 0x0c, _) => self.skip(1),
                (b'-', b'-') => self.line_comment()?,
                (b'\'', _) if line_end => return Some(true),
                _ => {
                    self.at = end;
                    return Some(false);
                }
            }
        }
    }

    /// `B'..'` and `X'..'`: no doubled quotes; a continuation is refused.
    fn bits(&mut self, start: usize, kind: LiteralKind) -> Lexed {
        self.skip(2);
        while self.peek(0) != b'\'' {
            self.inner(self.peek(0))?;
        }
        self.skip(1);
        if self.peek(0) == b'\'' || self.continued()? {
            return None;
        }
        self.literal(start, kind)
    }

    fn identifier_quoted(&mut self) -> Lexed {
        self.skip(1);
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'"', b'"') => self.skip(2),
                (b'"', _) => {
                    self.skip(1);
                    return Some(());
                }
                (byte, _) => self.inner(byte)?,
            }
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek(0).is_ascii_digit() {
            self.skip(1);
        }
        self.at.saturating_sub(start)
    }

    fn number(&mut self, start: usize) -> Lexed {
        let count = self.digits();
        let mut whole = count > 0;
        if self.peek(0) == b'.' {
            // `1..2` lexes as three tokens.
            if self.peek(1) == b'.' {
                return None;
            }
            whole = false;
            self.skip(1);
            self.digits();
        }
        if matches!(self.peek(0), b'e' | b'E') {
            whole = false;
            self.skip(1);
            if matches!(self.peek(0), b'+' | b'-') {
                self.skip(1);
            }
            if self.digits() == 0 {
                return None;
            }
        }
        if is_word_start(self.peek(0)) {
            return None;
        }
        if !whole {
            return self.literal(start, LiteralKind::Decimal);
        }
        if self.limits || count > 9 {
            self.limits = false;
            self.copy(start)?;
            (self.on_literal)(Literal { start, end: self.at, kind: LiteralKind::Integer, kept: true });
            return Some(());
        }
        self.literal(start, LiteralKind::Integer)
    }

    fn dollar(&mut self, start: usize) -> Lexed {
        self.skip(1);
        if self.peek(0).is_ascii_digit() {
            self.digits();
            self.limits = false;
            return if is_word_start(self.peek(0)) { None } else { self.copy(start) };
        }
        if is_word_start(self.peek(0)) {
            while is_word_start(self.peek(0)) || self.peek(0).is_ascii_digit() {
                self.skip(1);
            }
        }
        if self.peek(0) != b'$' {
            return None;
        }
        self.skip(1);
        let tag = self.input.get(start..self.at)?;
        loop {
            if self.input.get(self.at..)?.starts_with(tag) {
                self.skip(tag.len());
                return self.literal(start, LiteralKind::DollarText);
            }
            self.inner(self.peek(0))?;
        }
    }

    fn word(&mut self, start: usize) -> Lexed {
        while is_word_start(self.peek(0)) || self.peek(0).is_ascii_digit() || self.peek(0) == b'$' {
            self.skip(1);
        }
        let word = self.input.get(start..self.at)?;
        self.limits = [b"limit".as_slice(), b"first", b"next"].iter().any(|w| word.eq_ignore_ascii_case(w));
        self.copy(start)
    }
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}
