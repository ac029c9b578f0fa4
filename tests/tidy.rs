//! Holds the borders of the code: what may stand where, how long it may grow, and what must not be forgotten.
//!
//! Modules of one crate can name each other freely, so the borders that crates would give are kept here: sources are
//! read as text, split into code and comments, and searched. Each rule is one test, and its message says what to do.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders without I/O, clock and threads. Those that do not exist (yet) have nothing to check.
const PURE: &[&str] = &["src/tls/", "src/tunnel/", "src/wire/", "src/hub/", "src/gateway/", "src/nat/"];

/// What a pure folder may not name, in product code.
const IMPURE: &[&str] = &[
    "libc",
    "io_uring",
    "nix",
    "tokio",
    "socket2",
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::thread",
    "Instant::now",
    "SystemTime",
];

/// The files a frame passes (README, "Life of a frame").
const HOT: &[&str] = &[
    "src/worker/turn.rs",
    "src/worker/ingress.rs",
    "src/worker/egress.rs",
    "src/worker/exchange.rs",
    "src/worker/parcel.rs",
    "src/hub/mod.rs",
    "src/hub/fdb.rs",
    "src/hub/limiter.rs",
    "src/hub/meta.rs",
    "src/hub/port.rs",
    "src/hub/shared.rs",
    "src/hub/view.rs",
    "src/nat/flows.rs",
    "src/nat/hash.rs",
    "src/nat/mod.rs",
    "src/nat/parse.rs",
    "src/nat/rewrite.rs",
    "src/nat/table.rs",
    "src/nat/tcp.rs",
    "src/tunnel/buffer.rs",
    "src/tunnel/codec.rs",
    "src/tunnel/conn.rs",
    "src/tunnel/deframe.rs",
    "src/tunnel/egress.rs",
    "src/tunnel/enframe.rs",
    "src/tunnel/link.rs",
    "src/tunnel/queue.rs",
    "src/tls/aead.rs",
    "src/tls/layer.rs",
    "src/tls/record.rs",
    "src/wire/ethernet.rs",
    "src/wire/flow.rs",
    "src/wire/kinds.rs",
    "src/wire/vlan.rs",
    "src/metrics/counters.rs",
    "src/sys/ring.rs",
    "src/sys/bufring.rs",
    "src/sys/uring.rs",
    "src/sys/packet.rs",
    "src/sys/umem.rs",
    "src/sys/xsk/frames.rs",
    "src/sys/xsk/rings.rs",
    "src/lane/merge.rs",
    "src/lane/outlet.rs",
    "src/client/card/mod.rs",
    "src/client/card/cut.rs",
];

/// What they may not name, in product code.
const HEAVY: &[&str] = &[
    "Mutex",
    "RwLock",
    "Condvar",
    "format!",
    "write!",
    "writeln!",
    "to_string",
    "println!",
    "eprintln!",
    "Instant::now",
    "SystemTime",
    "dyn",
];

/// Except these, each once: file, name, why it is no matter of frames.
const RARE: &[(&str, &str, &str)] = &[
    ("src/worker/egress.rs", "to_string", "a port that could not be opened"),
    ("src/wire/ethernet.rs", "write!", "an address shown to people"),
];

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

#[test]
fn unsafe_stands_only_in_sys() {
    let found = every_source(|s| {
        if s.path.starts_with("src/sys/") {
            return Vec::new();
        }
        s.lines_naming(&s.code, &["unsafe", "allow(unsafe_code)"])
    });
    report("unsafe code belongs into src/sys, behind a safe wrapper", found);
}

#[test]
fn pure_folders_do_no_io() {
    let found = every_source(|s| {
        if !s.is_pure() || s.is_test {
            return Vec::new();
        }
        let mut found = s.lines_naming(&s.product, IMPURE);
        for path in use_paths(&s.product) {
            // Grouped imports hide the full path from the search above.
            if let Some(name) = IMPURE.iter().find(|name| names(&path, name)) {
                found.push(format!("{}: imports {path} ({name})", s.path));
            }
        }
        found
    });
    report("tls, tunnel, wire, hub, gateway and nat do no I/O and know no clock: take a Tick, return a verdict", found);
}

#[test]
fn the_way_of_a_frame_neither_locks_nor_formats() {
    let mut allowed: Vec<_> = RARE.iter().map(|(path, name, _)| (*path, *name)).collect();
    let mut found = Vec::new();
    let sources = sources();
    for path in HOT {
        let s = sources.iter().find(|s| s.path == *path);
        let Some(s) = s else { panic!("{path} is gone: name the files of a frame's way in HOT") };
        for (number, line) in (1..).zip(s.product.lines()) {
            for name in HEAVY.iter().filter(|name| names(line, name)) {
                match allowed.iter().position(|rare| *rare == (*path, *name)) {
                    Some(at) => drop(allowed.swap_remove(at)),
                    None => found.push(format!("{path}:{number}: {name}")),
                }
            }
        }
    }
    found.extend(allowed.iter().map(|(path, name)| format!("{path}: {name} is allowed and does not occur")));
    report(
        "no lock, formatting, clock or dyn on the way of a frame; what is rare stands in RARE, with its reason",
        found,
    );
}

#[test]
fn pure_files_forbid_unsafe() {
    let found = every_source(|s| {
        let missing = s.is_pure() && !s.code.contains("#![forbid(unsafe_code)]");
        missing.then(|| s.path.clone()).into_iter().collect()
    });
    report("begin each file of a pure folder with #![forbid(unsafe_code)] after its module text", found);
}

#[test]
fn files_begin_with_a_module_text() {
    let found = every_source(|s| {
        let missing = !s.text.starts_with("//! ");
        missing.then(|| s.path.clone()).into_iter().collect()
    });
    report("say at the top of the file (//!) what it is and why", found);
}

#[test]
fn files_are_short() {
    let found = every_source(|s| {
        let lines = s.text.lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines", s.path)).into_iter().collect()
    });
    report("split the file by stage (at most 800 lines)", found);
}

#[test]
fn functions_are_short() {
    let found = every_source(|s| {
        if s.is_test {
            return Vec::new();
        }
        functions(&s.product)
            .into_iter()
            .filter(|f| f.lines > FUNCTION_LINES_MAX)
            .map(|f| format!("{}:{}: fn {} has {} lines", s.path, f.at_line, f.name, f.lines))
            .collect()
    });
    report("split the function by stage (at most 70 lines)", found);
}

#[test]
fn nothing_is_left_for_later() {
    let found = every_source(|s| s.lines_naming(&s.code, &["todo!", "unimplemented!", "#[ignore"]));
    report("finish it, or leave it out", found);
}

#[test]
fn comments_tell_reasons_not_history() {
    const HISTORY: &[&str] = &[
        "TODO",
        "FIXME",
        "XXX",
        "HACK",
        "formerly",
        "previously",
        "refactored",
        "renamed from",
        "moved from",
        "used to be",
        "no longer needed",
        "no longer used",
        "old implementation",
        "new implementation",
        "/home/",
        "as discussed",
    ];
    let mut found = every_source(|s| s.lines_naming(&s.comments, HISTORY));
    for script in scripts() {
        found.extend(script.lines_naming(&script.comments, HISTORY));
    }
    report("say why it is so, not how it came to be (version control knows that)", found);
}

#[test]
fn reasons_are_raised() {
    let sources = sources();
    let mut found = Vec::new();
    for (name, home) in [("DropReason", "src/metrics/drops.rs"), ("CloseReason", "src/metrics/closes.rs")] {
        let variants = lines_in_block(&read(home), &format!("{name} {{"), " = \"");
        assert!(!variants.is_empty(), "{home} has no variants of {name}: has its form changed?");
        for variant in variants {
            let path = format!("{name}::{variant}");
            if !product_elsewhere(&sources, home).any(|s| names(&s.product, &path)) {
                found.push(path);
            }
        }
    }
    report("raise the reason where it happens, or remove it", found);
}

#[test]
fn counters_are_raised() {
    let sources = sources();
    let home = "src/metrics/counters.rs";
    let counters = lines_in_block(&read(home), "counters! {", ",");
    assert!(!counters.is_empty(), "{home} has no counters: has its form changed?");
    let found = counters
        .into_iter()
        .filter(|counter| {
            let raised = [format!(".{counter}.add("), format!(".{counter}.set(")];
            !product_elsewhere(&sources, home).any(|s| {
                let dense: String = s.product.split_whitespace().collect();
                raised.iter().any(|r| dense.contains(r))
            })
        })
        .collect();
    report("count it where it happens, or remove the counter", found);
}

#[test]
fn pages_name_only_what_exists() {
    let root = root();
    let pages =
        ["README.md", "CONTRIBUTING.md", "docs/config.md", "docs/operating.md", "docs/connect.md", "perf/method.md"];
    let found = pages
        .into_iter()
        .flat_map(|page| quoted_paths(&read(page)).into_iter().map(move |path| (page, path)))
        .filter(|(_, path)| !root.join(path).exists() && !root.join("src").join(path).exists())
        .map(|(page, path)| format!("{page}: {path}"))
        .collect();
    report("these files or folders do not exist", found);
}

#[test]
fn files_name_no_checkout() {
    let (root, mut paths) = (root(), Vec::new());
    collect(&root, &mut paths);
    let found = paths
        .iter()
        .filter_map(|path| Some((relative(path), fs::read_to_string(path).ok()?)))
        .flat_map(|(path, text)| checkouts(&text, &root).into_iter().map(move |found| format!("{path}: {found}")))
        .collect();
    report("name files by their path from the root: nobody else has this folder", found);
}

/// A rule that cannot see anything would always hold.
#[test]
fn the_search_sees_what_it_should() {
    let text = concat!(
        "//! Text with unsafe.\n",
        "fn a<'x>(s: &'x str) -> char {\n    let _ = \"libc // { \\\" \"; /* std::fs */ '{'\n}\n",
        "#[cfg(test)]\nmod tests {\n    use std::thread;\n    fn b() {}\n}\n",
        "use std::{io, net::{IpAddr, TcpStream}};\nfn c() { r#\"unsafe \"# ; libc::close(0) }\n",
    );
    let s = Source::new("src/hub/x.rs".into(), text.into());
    assert!(s.lines_naming(&s.code, &["unsafe", "std::fs"]).is_empty(), "comments and strings are not code");
    assert_eq!(s.lines_naming(&s.comments, &["unsafe"]).len(), 1);
    assert_eq!(s.lines_naming(&s.product, &["libc"]), ["src/hub/x.rs:11: libc"]);
    assert!(names(&s.code, "std::thread") && !names(&s.product, "std::thread"), "test modules are not product");
    assert_eq!(use_paths(&s.product), ["std::io", "std::net::IpAddr", "std::net::TcpStream"]);
    let all = functions(&s.code);
    assert_eq!(all.iter().map(|f| (f.name.as_str(), f.lines)).collect::<Vec<_>>(), [("a", 3), ("b", 1), ("c", 1)]);
    let roots = ["\"", "/a/b", "/scripts/run\", $ROOT/scripts/run, https://a.b/scripts/run /scripts/run"].concat();
    assert_eq!(checkouts(&roots, Path::new("/c")), [["/a/b", "/scripts/run"].concat()]);
    assert_eq!(checkouts("in /c/d/e: /cd/e", Path::new("/c/d")), ["/c/d/e"]);
    assert_eq!(quoted_paths("`src/a.rs` `x` `lan|public` `scripts/run --now` `10.0.0.0/8` `hub/`").len(), 3);
}

// ---- reading ---------------------------------------------------------------------------------------------

/// A file, and views of it with equal layout in which everything else is blanked.
struct Source {
    path: String,
    text: String,
    /// Without comments and the contents of literals.
    code: String,
    /// `code` without items marked `#[cfg(test)]`.
    product: String,
    comments: String,
    /// All of it is test code.
    is_test: bool,
}

impl Source {
    fn new(path: String, text: String) -> Self {
        let (code, comments) = split(&text);
        let product = without_tests(&code);
        let is_test = path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/");
        Self { path, text, code, product, comments, is_test }
    }

    fn is_pure(&self) -> bool {
        PURE.iter().any(|folder| self.path.starts_with(folder))
    }

    /// "path:line: name" for each line of `view` (one of ours) that has one of `wanted`.
    fn lines_naming(&self, view: &str, wanted: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        for (i, line) in view.lines().enumerate() {
            if let Some(name) = wanted.iter().find(|name| names(line, name)) {
                found.push(format!("{}:{}: {name}", self.path, i + 1));
            }
        }
        found
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Absolute paths in `text` that lead into a checkout of this repository: below `root`, or to something of ours.
fn checkouts(text: &str, root: &Path) -> Vec<String> {
    const OURS: &[&str] = &["/target/release", "/target/debug", "/scripts/", "/perf/results/", "/src/worker/"];
    let in_path = |c: char| c.is_alphanumeric() || "_-./".contains(c);
    text.split(|c| !in_path(c))
        // Two slashes begin a comment, or what follows the scheme of a URL; a dot follows the end of a variable.
        .filter(|word| word.starts_with('/') && !word.starts_with("//") && !word.starts_with("/."))
        .filter(|word| Path::new(word).starts_with(root) || OURS.iter().any(|ours| word.find(ours) > Some(0)))
        .map(str::to_owned)
        .collect()
}

/// Every Rust file of the package and of bench.
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "bench/src", "bench/tests", "bench/benches"] {
        collect(&root().join(folder), &mut paths);
    }
    let found: Vec<_> = paths
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .map(|p| Source::new(relative(p), fs::read_to_string(p).expect("a source is readable text")))
        .collect();
    assert!(found.len() > 5, "sources are looked for in the wrong place");
    found
}

/// The shell scripts; only their comments matter here.
fn scripts() -> Vec<Source> {
    let mut paths = Vec::new();
    collect(&root().join("scripts"), &mut paths);
    paths
        .iter()
        .filter_map(|p| {
            let text = fs::read_to_string(p).ok()?;
            let comments = text.lines().fold(String::new(), |mut all, line| {
                writeln!(all, "{}", line.find('#').map_or("", |at| &line[at..])).expect("a string takes it");
                all
            });
            let none = String::new();
            Some(Source { path: relative(p), text, code: none.clone(), product: none, comments, is_test: true })
        })
        .collect()
}

/// The files below `folder`, without what version control ignores.
fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    const IGNORED: &[&str] = &[".git", ".cache", "target", "perf/flame"];
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut entries: Vec<_> = entries.map(|e| e.expect("a folder can be listed").path()).collect();
    entries.sort();
    for path in entries {
        if IGNORED.iter().any(|ignored| path.ends_with(ignored)) {
            continue;
        }
        if path.is_dir() {
            collect(&path, into);
        } else {
            into.push(path);
        }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned()
}

fn every_source(rule: impl Fn(&Source) -> Vec<String>) -> Vec<String> {
    sources().iter().flat_map(rule).collect()
}

fn product_elsewhere<'a>(sources: &'a [Source], home: &'a str) -> impl Iterator<Item = &'a Source> {
    sources.iter().filter(move |s| s.path.starts_with("src/") && s.path != home && !s.is_test)
}

fn report(advice: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{advice}:\n  {}\n", found.join("\n  "));
}

// ---- a little of Rust's grammar --------------------------------------------------------------------------

/// True if `text` has `name` as a word (or path) of its own: "libc" is not in "glibc" or "libc_free".
fn names(text: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        let starts = !name.starts_with(word) || !before.is_some_and(word);
        // "std::net::Tcp" is meant as the beginning of names.
        let ends = !name.ends_with(word) || name.ends_with("Tcp") || name.ends_with("Udp") || !after.is_some_and(word);
        starts && ends
    })
}

/// Splits `text` into code and comments, each with all else blanked; literals are blank in both.
fn split(text: &str) -> (String, String) {
    let mut code = String::with_capacity(text.len());
    let mut comments = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (kind, len) = token(rest, code.chars().next_back());
        let (now, later) = rest.split_at(len);
        let blank: String = now.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        match kind {
            Kind::Code => (code.push_str(now), comments.push_str(&blank)),
            Kind::Comment => (code.push_str(&blank), comments.push_str(now)),
            Kind::Literal => (code.push_str(&blank), comments.push_str(&blank)),
        };
        rest = later;
    }
    (code, comments)
}

enum Kind {
    Code,
    Comment,
    Literal,
}

/// Kind and length of what `rest` begins with; `before` is the last character of code.
fn token(rest: &str, before: Option<char>) -> (Kind, usize) {
    let first = rest.chars().next().expect("rest is not empty");
    if rest.starts_with("//") {
        return (Kind::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, block_comment_len(rest));
    }
    if first == '"' {
        return (Kind::Literal, quoted_len(rest, '"'));
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if first == 'r' && (!in_word || before == Some('b')) {
        let hashes = rest[1..].chars().take_while(|&c| c == '#').count();
        if rest[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let from = 2 + hashes;
            return (Kind::Literal, rest[from..].find(&end).map_or(rest.len(), |at| from + at + end.len()));
        }
    }
    if first == '\'' {
        // A lifetime has no closing quote right after its first character.
        let mut chars = rest[1..].chars();
        if chars.next() == Some('\\') || chars.next() == Some('\'') {
            return (Kind::Literal, quoted_len(rest, '\''));
        }
    }
    (Kind::Code, first.len_utf8())
}

fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// `code` with the items under `#[cfg(test)]` and its like blanked.
fn without_tests(code: &str) -> String {
    let mut product = code.to_owned();
    let mut from = 0;
    while let Some(at) = product[from..].find("#[cfg(").map(|at| from + at) {
        let attribute_end = product[at..].find(']').map_or(product.len(), |end| at + end + 1);
        let attribute = &product[at..attribute_end];
        from = attribute_end;
        if names(attribute, "test") && !attribute.contains("not(test") {
            let end = item_end(&product, attribute_end);
            let blank: String = product[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
            // Blanking may shorten the text (one space for a longer character), never before `at`.
            from = at + blank.len();
            product.replace_range(at..end, &blank);
        }
    }
    product
}

/// Where the item that begins at `from` ends: after its body or its semicolon.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code[from..].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && c == '}' {
                    return from + at + 1;
                }
            }
            ';' if depth == 0 => return from + at + 1,
            _ => {}
        }
    }
    code.len()
}

struct Function {
    name: String,
    at_line: usize,
    lines: usize,
}

/// The functions with a body in `code`, those inside others too.
fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let in_word = code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let body = &code[at..item_end(code, at)];
        if in_word || name.is_empty() || !body.ends_with('}') {
            continue;
        }
        found.push(Function {
            name,
            at_line: code[..at].matches('\n').count() + 1,
            lines: body.matches('\n').count() + 1,
        });
    }
    found
}

/// The paths that the `use` declarations of `code` bring in, groups written out.
fn use_paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let line = code[..at].rsplit('\n').next().unwrap_or_default().trim();
        if !(line.is_empty() || line.starts_with("pub")) {
            continue;
        }
        let tree: String = code[at + 4..].chars().take_while(|&c| c != ';').filter(|c| !c.is_whitespace()).collect();
        expand("", &tree, &mut found);
    }
    found
}

fn expand(prefix: &str, tree: &str, into: &mut Vec<String>) {
    let Some((head, group)) = tree.split_once('{') else {
        into.push(format!("{prefix}{tree}"));
        return;
    };
    let group = group.strip_suffix('}').unwrap_or(group);
    let prefix = format!("{prefix}{head}");
    let mut depth = 0;
    for branch in group.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    }) {
        if !branch.is_empty() {
            expand(&prefix, branch, into);
        }
    }
}

/// First words of the lines with `mark` in the block of `text` that `opening` opens.
fn lines_in_block(text: &str, opening: &str, mark: &str) -> Vec<String> {
    let lines = text.lines().skip_while(|line| !line.trim().ends_with(opening)).skip(1);
    lines
        .take_while(|line| line.trim() != "}")
        .filter(|line| !line.trim().starts_with("//") && line.contains(mark))
        .map(|line| line.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}

/// What stands in `backquotes` and looks like a path of this repository: the first word ends in a known extension or
/// "/", or begins with a folder of ours.
fn quoted_paths(markdown: &str) -> Vec<String> {
    const FILES: &[&str] = &["rs", "md", "toml", "sh", "py"];
    const FOLDERS: &[&str] = &["src", "bench", "scripts", "tests", "perf", "xdp", "fuzz", ".ci"];
    let mut found = Vec::new();
    for line in markdown.lines() {
        for quoted in line.split('`').skip(1).step_by(2) {
            let path = quoted.split_whitespace().next().unwrap_or_default();
            let plain = |c: char| c.is_alphanumeric() || "_-./".contains(c);
            if path.starts_with(['/', '-']) || path.contains("//") || !path.chars().all(plain) {
                continue;
            }
            let is_file = path.rsplit_once('.').is_some_and(|(stem, ext)| !stem.is_empty() && FILES.contains(&ext));
            let is_ours = path.split_once('/').is_some_and(|(first, _)| FOLDERS.contains(&first));
            if is_file || is_ours || (path.ends_with('/') && path.len() > 1) {
                found.push(path.to_owned());
            }
        }
    }
    found
}
