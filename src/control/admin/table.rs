//! Tables for terminals, and numbers as people read them.
#![forbid(unsafe_code)]

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table whose columns are as wide as their widest cell. Cells are cleaned: see [`plain`].
#[derive(Debug)]
pub struct Table {
    aligns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With the titles and alignments of its columns.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let titles = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        Self { aligns: columns.iter().map(|(_, align)| *align).collect(), rows: vec![titles] }
    }

    /// Adds a row of as many cells as there are columns.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.aligns.len(), "a cell for each column");
        self.rows.push(cells.iter().map(|cell| plain(cell)).collect());
    }

    /// True if it has no rows but its titles.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The table, a line for each row, two spaces between columns.
    pub fn text(&self) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, align), width) in row.iter().zip(&self.aligns).zip(&widths) {
                let gap = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line.extend([cell.as_str(), &gap, "  "]),
                    Align::Right => line.extend([&gap, cell.as_str(), "  "]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = vec![0; self.aligns.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        widths
    }
}

/// `text` without anything that a terminal would obey: what is not printable stands as `\n` or `\u{…}`.
pub fn plain(text: &str) -> String {
    let quoted = format!("{text:?}");
    quoted[1..quoted.len() - 1].replace("\\\"", "\"").replace("\\\\", "\\")
}

/// A span of seconds in its two largest units: `1d 02h`, `3h 04m`, `5m 06s`, `7s`.
pub fn age(s: u64) -> String {
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m {:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h {:02}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d {:02}h", s / 86_400, s / 3_600 % 24),
    }
}

/// A number of bytes in decimal units: `999 B`, `1.5 MB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if n < 1000 {
        return format!("{n} B");
    }
    // Tenths of the unit, so that no float is needed; cut, not rounded: never more than there is.
    let mut tenths = n / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A number with a comma between thousands.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i != 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (s, want) in [(0, "0s"), (59, "59s"), (61, "1m 01s"), (3_600, "1h 00m"), (90_061, "1d 01h")] {
            assert_eq!(age(s), want);
        }
        for (n, want) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_999, "999.9 kB"),
            (1_500_000, "1.5 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(n), want);
        }
        for (n, want) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(n), want);
        }
    }

    #[test]
    fn columns_are_aligned_and_cells_cleaned() {
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right)]);
        table.row(["é\u{202e}".to_owned(), "5".to_owned()]);
        table.row(["\"q\" \\".to_owned(), "1000".to_owned()]);
        assert_eq!(table.text(), "NAME          N\né\\u{202e}     5\n\"q\" \\      1000\n");
    }
}
