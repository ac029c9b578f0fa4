//! Holds `docs/` to the program: keys, options, policies, fields, counters and reasons stand there, all of them and
//! no others, and every example loads.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::{CommandFactory, Parser};
use hublane::cli::{Cli, Command};
use hublane::commands;
use hublane::config::Config;
use hublane::config::problem::{ConfigError, Problem};
use hublane::config::raw::RawServer;
use hublane::control::admin::router::{GatewayView, LeaseRow, NatExplained, NatRow, NatStatsRow, NatView};
use hublane::control::admin::{HubView, MacRow, SessionRow, StatusView, WorkerView};
use hublane::event::Refusal;
use hublane::hub::policy::Item;
use hublane::metrics::counters::Counters;
use hublane::server::{self, Paths};
use serde_json::Value;

type Names = BTreeSet<String>;

/// Sections of the configuration: title in `docs/config.md`, and a file to which a key of the section can be added.
const SECTIONS: [(&str, &str); 6] = [
    ("## `[server]`", "[server]\n"),
    ("## `[[hub]]`", "[[hub]]\nname = \"x\"\n"),
    ("## `[hub.gateway]`", "[[hub]]\nname = \"x\"\n[hub.gateway]\n"),
    (
        "### `[[hub.gateway.reservation]]`",
        "[[hub]]\nname = \"x\"\n[hub.gateway]\n[[hub.gateway.reservation]]\naddress = \"100.64.0.9\"\nuser = \"a\"\n",
    ),
    ("## `[hub.nat]`", "[[hub]]\nname = \"x\"\n[hub.gateway]\n[hub.nat]\ndevice = \"e\"\n"),
    (
        "### `[[hub.nat.forward]]`",
        "[[hub]]\nname = \"x\"\n[hub.gateway]\n[hub.nat]\ndevice = \"e\"\n[[hub.nat.forward]]\nport = 80\nto = \"100.64.0.9:1\"\n",
    ),
];

#[test]
fn every_key_is_described_and_no_other() {
    let text = read("docs/config.md");
    for (title, start) in SECTIONS {
        let described: Names = rows(section(&text, title)).into_iter().map(|row| name(&row[0])).collect();
        assert_eq!(described, known_keys(start), "left: {title} of docs/config.md; right: what the program reads");
    }
}

#[test]
fn ranges_and_defaults_are_those_of_the_program() {
    let text = read("docs/config.md");
    let mut checked = 0;
    for (title, start) in SECTIONS {
        for row in rows(section(&text, title)).iter().filter(|row| row[1].starts_with(|c: char| c.is_ascii_digit())) {
            let problem = only_problem(&format!("{start}{} = 1000000000", name(&row[0])));
            let hint = problem.hint.replace(" if not said", "");
            let (range, default) = hint.split_once("; ").unwrap();
            let said = row[1].split(',').next().unwrap();
            assert_eq!(said, range, "range of {}", row[0]);
            if row[2].parse::<u64>().is_ok() {
                assert_eq!(row[2], default, "default of {}", row[0]);
            }
            checked += 1;
        }
    }
    assert!(checked >= 10, "{checked} rows with a range: has the table another form?");
}

/// The item called exactly so.
fn item(name: &str) -> Option<Item> {
    Item::ALL.into_iter().find(|item| item.name() == name)
}

#[test]
fn policies_are_described_as_they_are_taken() {
    let text = read("docs/config.md");
    let text = section(&text, "## `[hub.policy]`");
    let mut described = Names::new();
    for row in rows(text) {
        let item = item(&name(&row[0])).unwrap_or_else(|| panic!("there is no item {}", row[0]));
        let default = if row[1] == "flag" { row[2] == "true" } else { row[2] != "0" };
        assert_eq!(u32::from(default), item.default_value(), "default of {}", item.name());
        let largest = largest(&row[1]);
        assert!(load(&policy_file(item.name(), largest)).is_ok(), "{} = {largest} is refused", item.name());
        assert!(load(&policy_file(item.name(), largest + 1)).is_err(), "{} takes more than {largest}", item.name());
        described.insert(item.name().to_owned());
    }
    let refused = text.split("are refused").skip(1).flat_map(|part| quoted(part.split("```").next().unwrap()));
    for item in refused.filter_map(|word| item(&word)) {
        assert!(
            load(&policy_file(item.name(), 1)).is_err(),
            "{} is taken, but docs/config.md says refused",
            item.name()
        );
        described.insert(item.name().to_owned());
    }
    let all: Names = Item::ALL.into_iter().map(|item| item.name().to_owned()).collect();
    assert_eq!(described, all, "left: [hub.policy] of docs/config.md; right: the items there are");
}

#[test]
fn every_example_loads() {
    for (page, least) in [("docs/config.md", 5), ("docs/operating.md", 0)] {
        let text = read(page);
        let examples = blocks(&text, "toml");
        assert!(examples.len() >= least, "{page} has {} examples", examples.len());
        for example in examples {
            if let Err(error) = load(&example) {
                panic!("an example of {page} does not load:\n{example}\n{error}");
            }
        }
    }
}

#[test]
fn every_option_is_described_and_no_other() {
    let text = read("docs/config.md");
    let rows = rows(section(&text, "## Options of"));
    let described: Names = rows.iter().map(|row| name(&row[0]).split(' ').next().unwrap().to_owned()).collect();
    let cli = Cli::command();
    let serve = cli.find_subcommand("serve").unwrap();
    let options = serve.get_arguments().filter_map(|arg| arg.get_long()).filter(|long| *long != "help");
    assert_eq!(described, options.map(|long| format!("--{long}")).collect::<Names>());
    let keys = known_keys("[server]\n");
    for row in rows.iter().filter(|row| !row[1].is_empty()) {
        assert!(keys.contains(&name(&row[1])), "{} is no key of [server]", row[1]);
    }
}

#[test]
fn every_option_of_connect_is_described_and_no_other() {
    let text = read("docs/connect.md");
    let rows = rows(section(&text, "## Options"));
    let described: Names = rows.iter().map(|row| name(&row[0])).collect();
    let cli = Cli::command();
    let connect = cli.find_subcommand("connect").unwrap();
    let options = connect.get_arguments().filter_map(|arg| arg.get_long()).filter(|long| *long != "help");
    assert_eq!(described, options.map(|long| format!("--{long}")).collect::<Names>());
}

#[test]
fn reasons_are_the_output_of_the_program() {
    let cli = Cli::parse_from(["hublane", "drops"]);
    let mut said = Vec::new();
    commands::run(&cli.command, &mut std::io::empty(), &mut said).unwrap();
    let said = String::from_utf8(said).unwrap();
    let text = read("docs/operating.md");
    assert!(blocks(&text, "text").contains(&said), "put this in the place of the block in docs/operating.md:\n{said}");
    for reason in quoted(&text).iter().filter(|word| word.starts_with("hub_") || word.starts_with("egress_")) {
        assert!(said.contains(&format!("{reason} ")), "there is no reason {reason}");
    }
}

#[test]
fn fields_and_counters_are_described() {
    let view =
        StatusView { workers: vec![WorkerView::default()], hubs: vec![HubView::default()], ..StatusView::default() };
    let mut wanted = Names::new();
    for value in [
        serde_json::to_value(view).unwrap(),
        serde_json::to_value(SessionRow::default()).unwrap(),
        serde_json::to_value(MacRow::default()).unwrap(),
        serde_json::to_value(GatewayView::default()).unwrap(),
        serde_json::to_value(NatView::default()).unwrap(),
        serde_json::to_value(LeaseRow::default()).unwrap(),
        serde_json::to_value(NatRow::default()).unwrap(),
        serde_json::to_value(NatStatsRow::default()).unwrap(),
        serde_json::to_value(NatExplained::default()).unwrap(),
    ] {
        fields(&value, &mut wanted);
    }
    wanted.extend(Counters::default().plain().into_iter().map(|(name, _)| name.to_owned()));
    wanted.extend(Refusal::ALL.map(|refusal| format!("login_refused_{}", refusal.label())));
    let text = read("docs/operating.md");
    let described = quoted(section(&text, "## Asking a running server"));
    let missing: Vec<_> = wanted.difference(&described).collect();
    assert!(missing.is_empty(), "not in docs/operating.md: {missing:?}");
}

#[test]
fn the_unit_is_shown_as_it_is_and_starts_the_program() {
    let unit = read("packaging/hublane.service");
    assert!(blocks(&read("docs/operating.md"), "ini").contains(&unit), "docs/operating.md shows another unit");
    let rights = read("packaging/hublane-nat.conf");
    assert!(blocks(&read("docs/operating.md"), "ini").contains(&rights), "docs/operating.md shows another drop-in");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let cli = Cli::try_parse_from(start.split_whitespace()).unwrap();
    assert!(matches!(cli.command, Command::Serve(_)), "{start}");
}

#[test]
fn the_unit_of_a_card_is_shown_as_it_is_and_starts_the_program() {
    let (unit, page) = (read("packaging/hublane-connect@.service"), read("docs/connect.md"));
    assert!(blocks(&page, "ini").contains(&unit), "docs/connect.md shows another unit");
    let value = |name: &str| unit.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    // The example of the page, as systemd parts it.
    let options = page.lines().find_map(|line| line.strip_prefix("echo 'CONNECT=")?.split('\'').next()).unwrap();
    let start = value("ExecStart=").replace("$CONNECT", options);
    let cli = Cli::try_parse_from(start.split_whitespace()).unwrap();
    assert!(matches!(cli.command, Command::Connect(_)), "{start}");
    // What the page says about them: only a failure of this machine may pass.
    let mut codes: Vec<&str> = section(&page, "## Exit codes").lines().filter_map(|line| line.get(2..3)).collect();
    codes.retain(|code| code.parse::<u8>().is_ok_and(|code| code > 1));
    assert_eq!(value("RestartPreventExitStatus=").split_whitespace().collect::<Vec<_>>(), codes);
}

#[test]
fn a_check_makes_no_user() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths { state: dir.path().to_owned(), control_socket: dir.path().join("control.sock") };
    let config = load("[server]\nlisten = \"127.0.0.1:0\"\ncertificate = \"ecdsa\"\n").unwrap();
    server::check(&config, &paths).unwrap();
    // Else the first password would be shown to nobody.
    assert!(dir.path().join("certificate-ecdsa.pem").exists() && !dir.path().join("users.json").exists());
}

#[test]
fn commands_are_typed_as_they_are_understood() {
    let mut checked = 0;
    for page in ["README.md", "docs/operating.md", "docs/config.md", "docs/connect.md"] {
        let text = read(page);
        let lines: Vec<String> =
            blocks(&text, "sh").iter().flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        for line in lines.iter().filter(|line| line.starts_with("hublane ")) {
            let words = line.split(['#', '<']).next().unwrap().split_whitespace();
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{page}: {line}\n{error}"));
            checked += 1;
        }
    }
    assert!(checked >= 8, "{checked} commands found: are they written otherwise?");
}

#[test]
fn links_lead_somewhere() {
    for page in [
        "README.md",
        "CONTRIBUTING.md",
        "docs/config.md",
        "docs/operating.md",
        "docs/connect.md",
        "perf/method.md",
        "perf/results/README.md",
    ] {
        let text = read(page);
        let folder = Path::new(page).parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = root().join(folder).join(link);
            assert!(link.starts_with("https:") || target.exists(), "{page} links to {link}");
        }
    }
}

// ---- reading the pages -----------------------------------------------------------------------------------

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// From the heading that begins with `title` to the next one of its level.
fn section<'t>(text: &'t str, title: &str) -> &'t str {
    let at = text.find(&format!("\n{title}")).unwrap_or_else(|| panic!("no heading {title}")) + 1;
    let end = text[at..].find("\n## ").map_or(text.len(), |end| at + end);
    &text[at..end]
}

/// Cells of the first table of `text`, without its head.
fn rows(text: &str) -> Vec<Vec<String>> {
    let table = text.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    table.skip(2).map(cells).collect()
}

/// What stands in the first backquotes of `cell`.
fn name(cell: &str) -> String {
    cell.split('`').nth(1).unwrap_or_else(|| panic!("no name in {cell:?}")).to_owned()
}

/// What stands in backquotes, outside of code blocks.
fn quoted(text: &str) -> Names {
    let mut code = false;
    let mut found = Names::new();
    for line in text.lines() {
        code ^= line.starts_with("```");
        if !code && !line.starts_with("```") {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// Code blocks of language `language`.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    let begins = text.match_indices(&opening).map(|(at, _)| &text[at + opening.len()..]);
    begins.map(|rest| rest[..rest.find("```").unwrap()].to_owned()).collect()
}

fn fields(value: &Value, into: &mut Names) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                into.insert(key.clone());
                fields(value, into);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| fields(value, into)),
        _ => {}
    }
}

// ---- asking the program ----------------------------------------------------------------------------------

fn load(text: &str) -> Result<Config, ConfigError> {
    Config::build("example.toml", text, Path::new("/etc/hublane"), RawServer::default())
}

fn only_problem(text: &str) -> Problem {
    let error = load(text).expect_err("a mistake");
    assert_eq!(error.problems.len(), 1, "{error}");
    error.problems[0].clone()
}

/// The keys that may follow `start`, as the hint for an unknown one names them.
fn known_keys(start: &str) -> Names {
    let problem = only_problem(&format!("{start}zzzz = 1"));
    let known = problem.hint.strip_prefix("allowed: ").expect("no key is near zzzz");
    known.split(", ").map(str::to_owned).collect()
}

fn policy_file(item: &str, value: u64) -> String {
    format!("[[hub]]\nname = \"x\"\n[hub.policy]\n{item} = {value}\n")
}

/// The largest value of "flag" or "limit, 1 to N, unit".
fn largest(kind: &str) -> u64 {
    if kind == "flag" {
        return 1;
    }
    let (_, rest) = kind.split_once("1 to ").unwrap_or_else(|| panic!("no range in {kind:?}"));
    rest.split(',').next().unwrap().parse().unwrap()
}
