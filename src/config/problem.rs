//! What is wrong with a configuration, where it was written, and what would be right.
//!
//! All problems of a file are gathered before anything is said, so that one run is enough to mend it.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::{Range, RangeInclusive};

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Byte range of the file.
    Bytes(Range<usize>),
    /// Command line option, such as `--workers`.
    Option(&'static str),
    /// The configuration as a whole: something is missing.
    Whole,
}

/// A value and the place it was written at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// As written.
    pub value: T,
    /// Where.
    pub place: Place,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `FILE:LINE:COLUMN`, the file alone, or the command line option.
    pub place: String,
    /// Number (from 1) and text of the line, if it stands in a file.
    pub line: Option<(usize, String)>,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        if let Some((number, text)) = &self.line {
            write!(f, "\n  {number:>5} | {text}")?;
        }
        write!(f, "\n  hint: {}", self.hint)
    }
}

/// Everything that is wrong with a configuration. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// In the order they were found.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            let gap = if i == 0 { "" } else { "\n" };
            write!(f, "{gap}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Gathers problems while a configuration is read.
#[derive(Debug)]
pub struct Report<'t> {
    file: &'t str,
    text: &'t str,
    problems: Vec<Problem>,
}

impl<'t> Report<'t> {
    /// For the file named `file` with the content `text`; both empty if there is none.
    pub fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, text, problems: Vec::new() }
    }

    /// Notes a problem. Beyond the first 50 they are no longer kept.
    pub fn add(&mut self, place: &Place, what: impl Into<String>, hint: impl Into<String>) {
        if self.problems.len() >= PROBLEMS_MAX {
            return;
        }
        let (place, line) = self.describe(place);
        self.problems.push(Problem { place, line, what: what.into(), hint: hint.into() });
    }

    /// `Ok` with `config` if nothing was wrong.
    pub fn finish<T>(self, config: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() { Ok(config) } else { Err(ConfigError { problems: self.problems }) }
    }

    /// `given` if it lies in `range`, `default` if absent; otherwise a problem, and `default`.
    pub fn number<T>(&mut self, given: Option<Located<i64>>, key: &str, range: RangeInclusive<T>, default: T) -> T
    where
        T: TryFrom<i64> + PartialOrd + fmt::Display + Copy,
    {
        let Some(given) = given else { return default };
        match T::try_from(given.value) {
            Ok(value) if range.contains(&value) => value,
            _ => {
                let what = format!("{key} = {} is out of range", given.value);
                let hint = format!("{} to {}; {default} if not said", range.start(), range.end());
                self.add(&given.place, what, hint);
                default
            }
        }
    }

    /// The value that `choices` has for the word given, `default` if absent; otherwise a problem, and `default`.
    pub fn choice<T: Copy>(
        &mut self,
        given: Option<Located<String>>,
        key: &str,
        choices: &[(&str, T)],
        default: T,
    ) -> T {
        let Some(given) = given else { return default };
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == given.value) {
            return *value;
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.add(&given.place, format!("{key} = {:?} is not known", given.value), nearest(&given.value, &words));
        default
    }

    fn describe(&self, place: &Place) -> (String, Option<(usize, String)>) {
        match place {
            Place::Option(option) => ((*option).to_owned(), None),
            Place::Whole if self.file.is_empty() => ("command line".to_owned(), None),
            Place::Whole => (self.file.to_owned(), None),
            Place::Bytes(range) => {
                let (number, column, line) = line_at(self.text, range.start);
                (format!("{}:{number}:{column}", self.file), Some((number, shown(line))))
            }
        }
    }
}

/// "did you mean …" if a word of `known` is near, and the list of all of them.
pub fn nearest(word: &str, known: &[&str]) -> String {
    let folded = word.to_ascii_lowercase();
    let near = known
        .iter()
        .map(|known| (strsim::jaro_winkler(&folded, &known.to_ascii_lowercase()), *known))
        .filter(|(similarity, _)| *similarity >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let all = known.join(", ");
    match near {
        Some((_, near)) => format!("did you mean {near:?}? Allowed: {all}"),
        None => format!("allowed: {all}"),
    }
}

/// Number (from 1), column (from 1, in characters) and text of the line that holds byte `at`.
fn line_at(text: &str, at: usize) -> (usize, usize, &str) {
    let at = (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    let number = text[..start].matches('\n').count() + 1;
    (number, text[start..at].chars().count() + 1, &text[start..end])
}

/// A line fit for a terminal: no control characters, and no more of it than one can read.
fn shown(line: &str) -> String {
    line.trim_end().chars().take(LINE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Nobody reads further; keeps a hostile file from growing the list without end.
const PROBLEMS_MAX: usize = 50;
/// Two lines of a wide terminal.
const LINE_CHARS_MAX: usize = 200;
/// Jaro-Winkler similarity from which a word passes for a misspelling.
const NEAR: f64 = 0.8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_names_line_column_and_text() {
        let text = "[server]\n  lisen = 1\nx = 2";
        for (at, want) in [(0, (1, 1, "[server]")), (11, (2, 3, "  lisen = 1")), (999, (3, 6, "x = 2"))] {
            assert_eq!(line_at(text, at), want, "byte {at}");
        }
        assert_eq!(line_at("é", 1), (1, 1, "é"), "inside a character");
    }

    #[test]
    fn nearest_word_is_named_if_there_is_one() {
        assert!(nearest("lisen", &["workers", "listen"]).starts_with("did you mean \"listen\"?"));
        assert_eq!(nearest("zzz", &["workers", "listen"]), "allowed: workers, listen");
    }

    #[test]
    fn problems_are_bounded_and_lines_cleaned() {
        let text = format!("a\u{1b}[31m{}", "b".repeat(5000));
        let mut report = Report::new("f", &text);
        for _ in 0..1000 {
            report.add(&Place::Bytes(0..1), "x", "y");
        }
        let error = report.finish(()).expect_err("problems were added");
        assert_eq!(error.problems.len(), PROBLEMS_MAX);
        let (_, line) = error.problems[0].line.clone().expect("stands in a file");
        assert_eq!(line.chars().count(), LINE_CHARS_MAX);
        assert!(!line.contains('\u{1b}'));
    }
}
