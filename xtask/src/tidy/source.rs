//! Reads Rust text without compiling it: blanks out comments and literals, finds test blocks and paths.
//!
//! A small lexer, not a parser: enough to see `crate::` paths, `mod` lines and `#[cfg(test)]` blocks exactly.
//! INVARIANT: the masked text has the same length and the same line breaks as the original.
//! Limits: paths that a macro glues together are not seen; neither are `use` renames of whole rooms.

/// The text of one Rust file with comments and literals blanked.
#[derive(Debug)]
pub(crate) struct Source {
    masked: Vec<char>,
}

impl Source {
    /// Masks a text.
    pub(crate) fn new(text: &str) -> Self {
        Self { masked: mask(&text.chars().collect::<Vec<_>>()) }
    }

    /// The masked text.
    pub(crate) fn code(&self) -> String {
        self.masked.iter().collect()
    }

    /// Lines that are not inside a `#[cfg(test)] mod`.
    pub(crate) fn non_test_lines(&self) -> usize {
        let code = self.code();
        let mut count = 0;
        let mut lines = code.lines();
        while let Some(line) = lines.next() {
            if line.trim_start().starts_with("#[cfg(test)]") {
                skip_item(line, &mut lines);
            } else {
                count += 1;
            }
        }
        count
    }

    /// Files declared by `mod NAME;`, with the path attribute if there is one.
    pub(crate) fn declared_modules(&self) -> Vec<String> {
        let code = self.code();
        let mut names = Vec::new();
        for statement in code.split([';', '{', '}']) {
            let words: Vec<&str> = statement.split_whitespace().collect();
            if let [.., "mod", name] = words.as_slice() {
                names.push((*name).to_owned());
            }
        }
        names
    }

    /// Every path that starts at the crate's root, as segments: `crate::a::b` and, for a module at `module`,
    /// chains of `super` that climb to the root. Groups in braces are spread out.
    pub(crate) fn crate_paths(&self, module: &[String]) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        let mut nesting = Nesting::default();
        let mut at = 0;
        while let Some(&sign) = self.masked.get(at) {
            if !is_word(sign) {
                nesting.see(sign);
                at += 1;
                continue;
            }
            let word = self.word(at);
            let after = at + word.chars().count();
            nesting.word(&word);
            match word.as_str() {
                "crate" => self.spread(after, &[], &mut found),
                "super" => at = self.climb(after, module, nesting.modules(), &mut found),
                _ => {}
            }
            at = after.max(at);
        }
        found
    }

    /// Follows `super::super::…` from behind its first `super`; returns where it stopped.
    fn climb(&self, mut at: usize, module: &[String], inner: usize, found: &mut Vec<Vec<String>>) -> usize {
        let mut steps = 1;
        while self.separator(at).is_some_and(|next| self.word(next) == "super") {
            at = self.separator(at).map_or(at, |next| next + "super".len());
            steps += 1;
        }
        let depth = module.len() + inner;
        // Climbing inside an inline module stays in this file; only the rest leaves it.
        if steps > inner {
            let left = module.get(..depth.saturating_sub(steps).min(module.len())).unwrap_or_default();
            self.spread(at, left, found);
        }
        at
    }

    /// Adds the paths that continue at `at` behind `prefix`; braces give one path each.
    fn spread(&self, at: usize, prefix: &[String], found: &mut Vec<Vec<String>>) {
        let Some(mut next) = self.separator(at) else {
            found.push(prefix.to_vec());
            return;
        };
        if self.masked.get(next) != Some(&'{') {
            let word = self.word(next);
            let mut path = prefix.to_vec();
            let after = next + word.chars().count();
            path.push(word);
            // Two segments are enough to tell a room from a room inside a room.
            if path.len() < 3 && self.separator(after).is_some() {
                self.spread(after, &path, found);
            } else {
                found.push(path);
            }
            return;
        }
        let mut depth = 0_u32;
        let mut expects_name = true;
        while let Some(&sign) = self.masked.get(next) {
            match sign {
                '{' => {
                    depth += 1;
                    expects_name = true;
                }
                '}' => depth -= 1,
                ',' => expects_name = true,
                sign if is_word(sign) && expects_name && depth == 1 => {
                    expects_name = false;
                    let word = self.word(next);
                    let mut path = prefix.to_vec();
                    let after = next + word.chars().count();
                    path.push(word);
                    if path.len() < 3 && self.separator(after).is_some() {
                        self.spread(after, &path, found);
                    } else {
                        found.push(path);
                    }
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
            next += 1;
        }
    }

    /// Where the next segment starts, when `::` follows.
    fn separator(&self, at: usize) -> Option<usize> {
        let skip = |mut at: usize| {
            while self.masked.get(at).is_some_and(|sign| sign.is_whitespace()) {
                at += 1;
            }
            at
        };
        let colon = skip(at);
        let both = self.masked.get(colon) == Some(&':') && self.masked.get(colon + 1) == Some(&':');
        both.then(|| skip(colon + 2))
    }

    /// The word that starts at `at`.
    fn word(&self, at: usize) -> String {
        self.masked.iter().skip(at).take_while(|&&sign| is_word(sign)).collect()
    }
}

/// How many inline modules are open.
#[derive(Debug, Default)]
struct Nesting {
    braces: usize,
    open: Vec<usize>,
    last: [String; 2],
}

impl Nesting {
    fn word(&mut self, word: &str) {
        let [_, old] = std::mem::take(&mut self.last);
        self.last = [old, word.to_owned()];
    }

    fn see(&mut self, sign: char) {
        match sign {
            '{' => {
                self.braces += 1;
                let [before, _] = &self.last;
                if before == "mod" {
                    self.open.push(self.braces);
                }
            }
            '}' => {
                self.open.pop_if(|depth| *depth == self.braces);
                self.braces = self.braces.saturating_sub(1);
            }
            _ => {}
        }
        if !sign.is_whitespace() {
            self.last = Default::default();
        }
    }

    fn modules(&self) -> usize {
        self.open.len()
    }
}

/// Skips the item behind a `#[cfg(test)]`, to its closing brace or semicolon.
fn skip_item<'a>(first: &'a str, lines: &mut impl Iterator<Item = &'a str>) {
    let mut depth = 0_usize;
    let mut current = first.trim_start().strip_prefix("#[cfg(test)]");
    while let Some(line) = current {
        for sign in line.chars() {
            match sign {
                '{' => depth += 1,
                '}' if depth <= 1 => return,
                '}' => depth -= 1,
                ';' if depth == 0 => return,
                _ => {}
            }
        }
        current = lines.next();
    }
}

fn is_word(sign: char) -> bool {
    sign.is_alphanumeric() || sign == '_'
}

/// Blanks comments, strings and character literals.
fn mask(text: &[char]) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&sign) = text.get(at) {
        let literal = literal_length(text, at);
        if literal == 0 {
            out.push(sign);
            at += 1;
            continue;
        }
        let blank = text.iter().skip(at).take(literal).map(|&c| if c == '\n' { '\n' } else { ' ' });
        out.extend(blank);
        at += literal;
    }
    out
}

/// Length of the comment or literal that starts at `at`; 0 when none does.
fn literal_length(text: &[char], at: usize) -> usize {
    let sign = |offset: usize| text.get(at + offset).copied().unwrap_or('\0');
    let inside_word = at > 0 && text.get(at - 1).copied().is_some_and(is_word);
    match sign(0) {
        '/' if sign(1) == '/' => text.iter().skip(at).take_while(|&&c| c != '\n').count(),
        '/' if sign(1) == '*' => block_comment(text, at),
        '"' => quoted(text, at),
        'r' | 'b' | 'c' if !inside_word => prefixed_string(text, at),
        // A lifetime has no closing quote two signs on; an escape always is a literal.
        '\'' if sign(1) == '\\' => 3 + text.iter().skip(at + 3).take_while(|&&c| c != '\'').count(),
        '\'' if sign(2) == '\'' => 3,
        _ => 0,
    }
}

fn block_comment(text: &[char], at: usize) -> usize {
    let mut depth = 0_u32;
    let mut length = 0;
    loop {
        let pair = (text.get(at + length).copied(), text.get(at + length + 1).copied());
        match pair {
            (Some('/'), Some('*')) => {
                depth += 1;
                length += 2;
            }
            (Some('*'), Some('/')) => {
                depth -= 1;
                length += 2;
            }
            (None, _) => return length,
            _ => length += 1,
        }
        if depth == 0 {
            return length;
        }
    }
}

fn quoted(text: &[char], at: usize) -> usize {
    let mut length = 1;
    loop {
        match text.get(at + length) {
            Some('\\') => length += 2,
            Some('"') => return length + 1,
            Some(_) => length += 1,
            None => return text.len() - at,
        }
    }
}

/// `r"…"`, `r#"…"#`, `b"…"`, `br"…"`, `c"…"`; 0 for anything else.
fn prefixed_string(text: &[char], at: usize) -> usize {
    let letters = text.iter().skip(at).take(2).take_while(|&&c| matches!(c, 'r' | 'b' | 'c')).count();
    let raw = text.iter().skip(at).take(letters).any(|&c| c == 'r');
    let hashes = text.iter().skip(at + letters).take_while(|&&c| c == '#').count();
    let start = at + letters + hashes;
    if text.get(start) != Some(&'"') || (!raw && hashes > 0) {
        return 0;
    }
    if !raw {
        return start - at + quoted(text, start);
    }
    let mut end = start + 1;
    while end < text.len() {
        let closes = text.get(end) == Some(&'"')
            && text.iter().skip(end + 1).take(hashes).filter(|&&c| c == '#').count() == hashes;
        if closes {
            return end + 1 + hashes - at;
        }
        end += 1;
    }
    text.len() - at
}

#[cfg(test)]
mod tests {
    use super::Source;

    fn paths(module: &[&str], text: &str) -> Vec<String> {
        let module: Vec<String> = module.iter().map(|&part| part.to_owned()).collect();
        Source::new(text).crate_paths(&module).into_iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let text =
            "a /* crate::x /* n */ */ \"crate::y \\\" z\" r#\"crate::\"q\"# 'c' '\\'' b<'a> // crate::z\nend";
        let code = Source::new(text).code();
        assert!(!code.contains("crate"), "{code}");
        assert!(code.contains("b<'a>") && code.ends_with("end"));
        assert_eq!(code.chars().count(), text.chars().count());
    }

    #[test]
    fn crate_paths_are_found_in_uses_groups_and_expressions() {
        assert_eq!(paths(&[], "use crate::model::Id;"), ["model::Id"]);
        assert_eq!(
            paths(&[], "use crate::{model::{A, B}, clock, gate::permit::P};"),
            ["model::A", "model::B", "clock", "gate::permit::P"]
        );
        assert_eq!(paths(&[], "fn f() { crate::gate::open() }"), ["gate::open"]);
    }

    #[test]
    fn climbing_out_of_a_room_is_seen() {
        assert_eq!(paths(&["sql", "facts"], "use super::super::gate::Gate;"), ["gate::Gate"]);
        assert_eq!(paths(&["sql", "facts"], "use super::walk::Walk;"), ["sql::walk::Walk"]);
    }

    #[test]
    fn climbing_out_of_an_inline_module_stays_in_the_file() {
        assert!(paths(&["sql"], "mod tests { use super::*; }").is_empty());
        assert_eq!(paths(&["sql"], "mod tests { use super::super::gate::Gate; }"), ["gate::Gate"]);
    }

    #[test]
    fn test_modules_do_not_count_as_lines() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}\n";
        assert_eq!(Source::new(text).non_test_lines(), 2);
        assert_eq!(Source::new("#[cfg(test)]\nmod tests;\nfn a() {}\n").non_test_lines(), 1);
    }

    #[test]
    fn declared_modules_are_listed() {
        let text = "//! x\npub mod a;\nmod b;\n#[cfg(test)]\nmod tests;\nmod inline { fn x() {} }\npub(crate) mod c;";
        assert_eq!(Source::new(text).declared_modules(), ["a", "b", "tests", "inline", "c"]);
    }
}
