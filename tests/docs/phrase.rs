//! A text of the code with holes for what varies, and whether a line is such a text.

use std::{collections::HashMap, sync::Mutex};

/// A text with holes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Phrase(pub(crate) Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Piece {
    Words(String),
    /// The name of what fills it; empty if it has none.
    Hole(String),
}

impl Phrase {
    /// A text without holes.
    pub(crate) fn plain(text: &str) -> Phrase {
        Phrase(vec![Piece::Words(text.to_owned())])
    }

    /// A format string. `names` are those of the arguments without a name of their own, in order.
    pub(crate) fn of_format(text: &str, names: &[String]) -> Phrase {
        let mut phrase = Phrase::default();
        let mut names = names.iter();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            phrase.words(&rest[..at]);
            let mark = &rest[at..=at];
            if rest[at + 1..].starts_with(mark) {
                phrase.words(mark);
                rest = &rest[at + 2..];
                continue;
            }
            let (inner, after) = rest[at + 1..].split_once('}').unwrap_or((&rest[at + 1..], ""));
            let name = inner.split(':').next().unwrap_or_default();
            let name = match name {
                "" => names.next().cloned().unwrap_or_default(),
                number if number.parse::<usize>().is_ok() => String::new(),
                name => name.to_owned(),
            };
            phrase.0.push(Piece::Hole(name));
            rest = after;
        }
        phrase.words(rest);
        phrase
    }

    /// Puts texts in place of the holes that have these names.
    pub(crate) fn filled(self, texts: impl Fn(&str) -> Option<Phrase>) -> Phrase {
        let mut filled = Phrase::default();
        for piece in self.0 {
            match piece {
                Piece::Words(words) => filled.words(&words),
                Piece::Hole(name) => match texts(&name) {
                    Some(text) => text.0.into_iter().for_each(|piece| filled.push(piece)),
                    None => filled.0.push(Piece::Hole(name)),
                },
            }
        }
        filled
    }

    fn push(&mut self, piece: Piece) {
        match piece {
            Piece::Words(words) => self.words(&words),
            hole => self.0.push(hole),
        }
    }

    fn words(&mut self, words: &str) {
        match self.0.last_mut() {
            _ if words.is_empty() => {}
            Some(Piece::Words(last)) => last.push_str(words),
            _ => self.0.push(Piece::Words(words.to_owned())),
        }
    }

    /// The text for readers: `<name>` or `<...>` for what varies.
    pub(crate) fn shown(&self) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Words(words) => words.clone(),
            Piece::Hole(name) if name.is_empty() => "<...>".to_owned(),
            Piece::Hole(name) => format!("<{name}>"),
        };
        self.0.iter().map(piece).collect()
    }

    /// The lines of a text.
    pub(crate) fn lines(self) -> Vec<Phrase> {
        let mut lines = vec![Phrase::default()];
        for piece in self.0 {
            let Piece::Words(words) = piece else {
                lines.last_mut().unwrap().0.push(piece);
                continue;
            };
            for (at, words) in words.split('\n').enumerate() {
                if at > 0 {
                    lines.push(Phrase::default());
                }
                lines.last_mut().unwrap().words(words);
            }
        }
        lines.retain(|line| !line.0.is_empty());
        lines
    }

    /// Letters that are fixed.
    pub(crate) fn letters(&self) -> usize {
        let words = |piece: &Piece| if let Piece::Words(words) = piece { letters(words) } else { 0 };
        self.0.iter().map(words).sum()
    }

    /// Whether it says something by itself, in words of a language and not of SQL.
    pub(crate) fn is_prose(&self) -> bool {
        let fixed: String =
            self.0.iter().map(|piece| if let Piece::Words(words) = piece { words } else { "_" }).collect();
        let is_sql = STATEMENTS.iter().any(|statement| fixed.trim_start().starts_with(statement));
        let words: Vec<&str> = fixed.split_whitespace().collect();
        let is_word = |word: &str| {
            let word = word.trim_matches(|c: char| !c.is_alphanumeric());
            word.len() > 1 && word.chars().all(|c| c.is_ascii_lowercase() || c == '\'' || c == '-')
        };
        !is_sql
            && !fixed.trim_end().contains('\n')
            && words.windows(2).any(|pair| pair.iter().all(|word| is_word(word)))
    }
}

const STATEMENTS: [&str; 14] = [
    "SELECT ", "WITH ", "INSERT ", "UPDATE ", "DELETE ", "CREATE ", "ALTER ", "GRANT ", "DROP ", "FROM ",
    "WHERE ", "LOCK ", "SET ", "BEGIN",
];

fn letters(text: &str) -> usize {
    text.chars().filter(|c| c.is_alphanumeric()).count()
}

/// What of a line is not a placeholder.
fn fixed(line: &str) -> String {
    let mut fixed = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('<') {
        fixed.push_str(before);
        match after.split_once('>') {
            Some((_, after)) => rest = after,
            None => {
                fixed.push('<');
                rest = after;
            }
        }
    }
    fixed + rest
}

/// Every text of the code.
#[derive(Debug, Default)]
pub(crate) struct Phrases {
    /// Texts that begin with fixed words, by the first letters of these.
    begun: HashMap<String, Vec<Known>>,
    /// Texts that begin with what varies.
    open: Vec<Known>,
    /// Letters of a line that texts have; by line and depth.
    found: Mutex<HashMap<(String, usize), Option<usize>>>,
}

#[derive(Debug)]
struct Known {
    phrase: Phrase,
    /// It only joins others. Such a text takes no values of several words, or every line would be one.
    joins: bool,
}

/// Whether a line quotes this text: most of the line's letters are fixed words of it.
pub(crate) fn quotes(line: &str, phrase: &Phrase) -> bool {
    let line = collapsed(line.trim());
    let wanted = letters(&fixed(&line));
    let phrase = unnamed(phrase.clone());
    let begins = match (line.strip_suffix(AND_SO_ON), phrase.0.first()) {
        (Some(begun), Some(Piece::Words(words))) => words.starts_with(begun.trim_end()),
        _ => false,
    };
    begins
        || phrase.letters() * 2 > wanted && phrase.0.iter().any(|piece| matches!(piece, Piece::Words(_))) && {
            let strict = line.strip_suffix(AND_SO_ON).unwrap_or(&line);
            has_in_order(&phrase, strict)
        }
}

/// Texts stand in the holes of others so deep.
const DEPTH_MAX: usize = 3;
/// Bytes of a text by which it is looked up.
const BEGINNING: usize = 6;
/// A line that goes on as the text does.
const AND_SO_ON: &str = "<...>";

impl Phrases {
    pub(crate) fn new(phrases: impl IntoIterator<Item = Phrase>) -> Phrases {
        let mut phrases: Vec<Phrase> =
            phrases.into_iter().flat_map(|phrase| variants(&unnamed(phrase))).collect();
        phrases.sort_unstable();
        phrases.dedup();
        let mut all = Phrases { begun: HashMap::new(), open: Vec::new(), found: Mutex::default() };
        for phrase in phrases {
            let known = Known { joins: phrase.letters() < 4, phrase };
            match known.phrase.0.first() {
                Some(Piece::Words(words)) => {
                    all.begun.entry(beginning(words).to_owned()).or_default().push(known);
                }
                _ => all.open.push(known),
            }
        }
        all
    }

    /// Whether the line is a text of the code: `<...>` in the line stands for what varies, and at its end also for the rest of the text.
    pub(crate) fn know(&self, line: &str) -> bool {
        let line = collapsed(line.trim());
        let wanted = letters(&fixed(&line));
        wanted > 0 && self.found(&line, 0).is_some_and(|found| found * 2 >= wanted)
    }

    /// The most letters of a line that texts of the code have, if it consists of such.
    fn found(&self, line: &str, depth: usize) -> Option<usize> {
        let key = (line.to_owned(), depth);
        if let Some(found) = self.found.lock().unwrap().get(&key) {
            return *found;
        }
        let begun = (0..=BEGINNING).filter_map(|length| self.begun.get(line.get(..length)?)).flatten();
        let candidates = begun.chain(&self.open).filter(|known| has_in_order(&known.phrase, line));
        let found = candidates.filter_map(|known| self.rest(&known.phrase.0, line, depth, known.joins)).max();
        self.found.lock().unwrap().insert(key, found);
        found
    }

    fn rest(&self, pieces: &[Piece], line: &str, depth: usize, joins: bool) -> Option<usize> {
        let Some((piece, pieces)) = pieces.split_first() else { return line.is_empty().then_some(0) };
        if line == AND_SO_ON {
            return Some(0);
        }
        match piece {
            Piece::Words(words) => {
                if let Some(rest) = line.strip_prefix(&**words) {
                    return Some(letters(words) + self.rest(pieces, rest, depth, joins)?);
                }
                // The line ends within the words.
                let begun = line.strip_suffix(AND_SO_ON)?.trim_end();
                words.starts_with(begun).then(|| letters(begun))
            }
            // The line ends within what fills the hole.
            Piece::Hole(_) if line.ends_with(AND_SO_ON) && self.value(line, depth, joins).is_some() => {
                self.value(line, depth, joins)
            }
            Piece::Hole(_) => {
                let read = |end: usize| {
                    let value = self.value(&line[..end], depth, joins)?;
                    Some(value + self.rest(pieces, &line[end..], depth, joins)?)
                };
                match pieces.first() {
                    None => read(line.len()),
                    Some(Piece::Words(words)) => {
                        let begins = line.match_indices(&**words).map(|(at, _)| at);
                        // The line ends within the words.
                        let breaks_off =
                            line.ends_with(AND_SO_ON).then(|| line.match_indices(' ').map(|(at, _)| at));
                        begins.chain(breaks_off.into_iter().flatten()).filter_map(read).max()
                    }
                    Some(Piece::Hole(_)) => {
                        let ends = line.match_indices([' ', ',', ';', ':', '.', '(']).map(|(at, _)| at);
                        ends.chain([line.len()]).filter_map(read).max()
                    }
                }
            }
        }
    }

    /// Letters of texts in what fills a hole; `None` if it cannot.
    fn value(&self, text: &str, depth: usize, joins: bool) -> Option<usize> {
        let said = fixed(text);
        let words = said.split_whitespace().filter(|word| letters(word) > 0).count();
        let is_value = if joins { words == 0 || words == 1 && !text.contains(' ') } else { words <= 2 };
        if is_value {
            return Some(0);
        }
        (depth < DEPTH_MAX).then(|| self.found(text.trim(), depth + 1)).flatten()
    }
}

/// A text as it is compared: no names, and blanks as one.
fn unnamed(phrase: Phrase) -> Phrase {
    let pieces = phrase.0.into_iter().map(|piece| match piece {
        Piece::Words(words) => Piece::Words(collapsed(&words)),
        Piece::Hole(_) => Piece::Hole(String::new()),
    });
    Phrase(pieces.collect())
}

/// A text, and what of it follows a text in front: `{waits}. Another instance ...`. Nothing of a text that only joins others with more
/// than a colon or a semicolon, for that would make a text of every line.
fn variants(phrase: &Phrase) -> Vec<Phrase> {
    let joins = |piece: &Piece| matches!(piece, Piece::Words(words) if words != ": " && words != "; ");
    if phrase.letters() < 4 && phrase.0.iter().any(joins) {
        return Vec::new();
    }
    let mut variants = vec![phrase.clone()];
    if let [Piece::Hole(_), Piece::Words(words), rest @ ..] = &*phrase.0
        && let Some((mark, words)) = words.split_once(' ')
        && mark.len() == 1
        && !words.is_empty()
    {
        let begins = Piece::Words(words.to_owned());
        variants.push(Phrase([&[begins], rest].concat()));
    }
    variants
}

/// The first bytes of a text, as far as they are whole letters.
fn beginning(words: &str) -> &str {
    (0..=BEGINNING).rev().find_map(|length| words.get(..length)).unwrap_or_default()
}

/// Whether the line has the fixed words of a text one after the other, as far as the line goes.
fn has_in_order(phrase: &Phrase, line: &str) -> bool {
    let mut rest = line;
    for (at, piece) in phrase.0.iter().enumerate() {
        let Piece::Words(words) = piece else { continue };
        match rest.split_once(&**words) {
            Some((_, after)) => rest = after,
            None => {
                let Some(begun) = line.strip_suffix(AND_SO_ON) else { return false };
                // The first words may be cut off, too; later ones may be missing.
                return at > 0 || words.starts_with(begun.trim_end());
            }
        }
    }
    true
}

/// Blanks as one, as a reader sees them.
fn collapsed(words: &str) -> String {
    let mut collapsed = String::new();
    for c in words.chars() {
        match c {
            c if c.is_whitespace() && collapsed.ends_with(' ') => {}
            c if c.is_whitespace() => collapsed.push(' '),
            c => collapsed.push(c),
        }
    }
    collapsed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phrases() -> Phrases {
        let of = |text| Phrase::of_format(text, &["detail".to_owned()]);
        Phrases::new(
            [
                "slot \"{slot}\" {gap}. No new slot is made silently",
                "was dropped and created again",
                "FAILED   {}: {what}; {cure}",
                "{}: {}",
                "{} {}",
                "wal_level is {}",
                "ALTER SYSTEM SET wal_level = 'logical';",
                "a {{brace}} stays",
            ]
            .map(of),
        )
    }

    #[test]
    fn a_format_string_shows_its_holes() {
        let phrase = Phrase::of_format("{0} of {} is {it:?} {{x}}", &["place".to_owned()]);
        assert_eq!(phrase.shown(), "<...> of <place> is <it> {x}");
    }

    #[test]
    fn a_text_of_the_code_is_known_with_its_holes_filled_or_named() {
        for line in [
            "slot \"<slot>\" was dropped and created again. No new slot is made silently",
            "slot \"outboxd_orders\" <gap>. No new slot is made silently",
            "FAILED   wal_level: wal_level is replica; ALTER SYSTEM SET wal_level = 'logical';",
            "orders: wal_level is <level>",
            "slot \"<slot>\" was dropped and <...>",
            "a {brace} stays",
        ] {
            assert!(phrases().know(line), "{line}");
        }
    }

    #[test]
    fn a_line_that_the_code_does_not_have_is_unknown() {
        for line in [
            "slot \"<slot>\" was dropped and made again. No new slot is made silently",
            "slot \"<slot>\" is lost for ever. No new slot is made silently",
            "wal_level was replica",
            "one two three four",
            "FAILED   wal_level: some other words; and some more of them",
            "<...>",
            "",
        ] {
            assert!(!phrases().know(line), "{line}");
        }
    }
}
