//! What the machine had before, so that it gets that back: name servers, default routes, and what a device that stays
//! had: addresses, bridge, and how it was set up.
//!
//! DHCP clients write `/etc/resolv.conf` and leave it so. What is there is written down directly before the client starts,
//! in a file of the card's own folder (`folder.rs`); at the end it is put back, and the file goes. Whoever finds that file
//! at the start comes after a crash, and does it then. What somebody else has changed meanwhile stays as it is: name
//! servers are put back only over those that the client was seen to make.
//!
//! Network namespaces may each have a device of the same name, and share that folder: a file belongs to a process, and
//! as long as that one runs nobody touches it; nor does anybody of another namespace.
#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::libc;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::folder::{self, failed};
use crate::client::via::secret;
use crate::sys::clock::monotonic;
use crate::tick::Tick;

/// Where things stand.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Where it is written down.
    pub(super) folder: PathBuf,
    /// The file with name servers.
    pub(super) resolver: PathBuf,
    /// Name of the device.
    pub(super) device: String,
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Keeper {
    places: Places,
    note: PathBuf,
    found: Found,
    /// What changes until then is the DHCP client's work; `None`: it has not changed anything yet.
    follow_until: Option<Tick>,
    done: bool,
}

/// As it stands in the file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    /// When the process has started, in ticks of the kernel: its number may be somebody else's meanwhile.
    started: u64,
    /// Which start of the machine and which namespace it was: addresses and routes do not outlive them.
    place: String,
    /// With a DHCP client.
    resolver: Option<Resolver>,
    /// What the client made of it.
    made: Option<Resolver>,
    /// Default routes by other devices, as `ip route` shows them; the family comes first.
    routes: Vec<String>,
    /// Of a device that stays.
    device: Option<Standing>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Resolver {
    /// Where it points, if it is a symbolic link.
    link: Option<PathBuf>,
    /// None: there is no such file.
    text: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Standing {
    bridge: Option<String>,
    /// With the lengths of their prefixes.
    addresses: Vec<String>,
    up: bool,
    /// What else is set, with its name to `ip link set`.
    settings: Vec<(String, String)>,
}

impl Keeper {
    /// If something is going to change: `dhcp` is going to run, or the device stays, which is written down.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub(super) fn begin(places: Places, dhcp: bool) -> Result<Option<Self>, String> {
        let device = standing(&places.device);
        if !dhcp && device.is_none() {
            return Ok(None);
        }
        let me = std::process::id();
        let found = Found { started: started(me).unwrap_or(0), place: place(), device, ..Found::default() };
        let note = places.folder.join(format!("restore-{}-{me}.json", places.device));
        let keeper = Self { places, note, found, follow_until: None, done: false };
        if keeper.found.device.is_some() {
            keeper.write_down()?;
        }
        Ok(Some(keeper))
    }

    /// Writes down what a DHCP client changes; directly before it starts, since days may have passed until then.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub(super) fn before_dhcp(&mut self) -> Result<(), String> {
        let file = &self.places.resolver;
        self.found.resolver = Some(resolver(file).map_err(|error| failed(file, "read", &error))?);
        self.found.routes = default_routes(&self.places.device);
        self.write_down()
    }

    /// Puts back what a process found that could not do it itself, and says what.
    ///
    /// # Errors
    /// If what it has written down cannot be read.
    pub(super) fn after_crash(places: &Places) -> Result<Vec<String>, String> {
        let mut said = Vec::new();
        for (process, note) in notes(places)? {
            let read = folder::read(&note)?;
            let found: Found = serde_json::from_slice(&read).map_err(|error| {
                format!("{} is no note of a run before ({error}); see what it says, and remove it", note.display())
            })?;
            if started(process) != Some(found.started) && !is_of_another_namespace(&found.place) {
                let mut keeper = Self { places: places.clone(), note, found, follow_until: None, done: false };
                said.extend(keeper.put_back(true));
            }
        }
        Ok(said)
    }

    /// Looks at what the DHCP client has made of the name servers. Only what it does soon after its first change counts:
    /// later somebody else may have come, whose name servers are right.
    pub(super) fn look(&mut self) {
        let Some(found) = &self.found.resolver else { return };
        let Ok(now) = resolver(&self.places.resolver) else { return };
        let time = monotonic();
        if self.follow_until.is_some_and(|until| time >= until) || now == *self.found.made.as_ref().unwrap_or(found) {
            return;
        }
        self.follow_until.get_or_insert(time + FOLLOW);
        self.found.made = Some(now);
        // Better without this than to give up: after a crash nothing is put back then.
        let _ = self.write_down();
    }

    /// The DHCP client is going to end, and may once more change what it has made.
    pub(super) fn before_dhcp_ends(&mut self) {
        self.look();
        if self.found.made.is_some() && resolver(&self.places.resolver).ok() == self.found.made {
            self.follow_until = Some(monotonic() + FOLLOW);
        }
    }

    /// Puts everything back, and says what.
    pub(super) fn end(mut self) -> Vec<String> {
        self.put_back(false)
    }

    fn put_back(&mut self, crashed: bool) -> Vec<String> {
        self.done = true;
        if !crashed {
            self.look();
        }
        let mut said = Vec::new();
        if self.put_back_resolver() {
            said.push(self.places.resolver.display().to_string());
        }
        if self.found.place == place() {
            self.put_back_device(&mut said);
            self.put_back_routes(&mut said);
        }
        // It would only be found again, and do no more harm than now.
        let _ = std::fs::remove_file(&self.note);
        said
    }

    fn put_back_resolver(&self) -> bool {
        let (Some(found), Some(made)) = (&self.found.resolver, &self.found.made) else { return false };
        let file = &self.places.resolver;
        let Ok(now) = resolver(file) else { return false };
        now == *made && now != *found && write_resolver(file, &now, found).is_ok_and(|changed| changed)
    }

    fn put_back_device(&self, said: &mut Vec<String>) {
        let device = &self.places.device;
        let (Some(found), Some(now)) = (&self.found.device, standing(device)) else { return };
        for address in now.addresses.iter().filter(|address| !found.addresses.contains(address)) {
            if ip(&["addr", "del", address, "dev", device]).is_some() {
                said.push(format!("{device} without {address}"));
            }
        }
        if now.bridge != found.bridge {
            let done = match &found.bridge {
                Some(bridge) => ip(&["link", "set", device, "master", bridge]),
                None => ip(&["link", "set", device, "nomaster"]),
            };
            if done.is_some() {
                said.push(format!("{device} in {}", found.bridge.as_deref().unwrap_or("no bridge")));
            }
        }
        let settings = found.settings.iter().filter(|setting| !now.settings.contains(setting));
        let settings = settings.map(|(name, value)| vec![name.as_str(), value]);
        let down = (now.up && !found.up).then(|| vec!["down"]);
        for words in down.into_iter().chain(settings) {
            if ip(&[&["link", "set", "dev", device], &words[..]].concat()).is_some() {
                said.push(format!("{device} {}", words.join(" ")));
            }
        }
        // Switching it off has taken some.
        let Some(now) = standing(device) else { return };
        for address in found.addresses.iter().filter(|address| !now.addresses.contains(address)) {
            if ip(&["addr", "add", address, "dev", device]).is_some() {
                said.push(format!("{device} with {address}"));
            }
        }
    }

    /// Only where none is left: the network may be another one meanwhile.
    fn put_back_routes(&self, said: &mut Vec<String>) {
        let now = default_routes(&self.places.device);
        for route in &self.found.routes {
            let Some((family, words)) = default_route(route) else { continue };
            if now.iter().any(|other| other.starts_with(family)) {
                continue;
            }
            if ip(&[&[family, "route", "add"], &words[..]].concat()).is_some() {
                said.push(words.join(" "));
            }
        }
    }

    fn write_down(&self) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(&self.found).map_err(|error| error.to_string())?;
        folder::write(&self.note, &text)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if !self.done {
            self.put_back(false);
        }
    }
}

/// What runs before have written down about the device, with the numbers of their processes.
fn notes(places: &Places) -> Result<Vec<(u32, PathBuf)>, String> {
    folder::check(&places.folder)?;
    let entries = match std::fs::read_dir(&places.folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed(&places.folder, "read", &error))?,
    };
    let prefix = format!("restore-{}-", places.device);
    let note = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let process = name.strip_prefix(&prefix)?.strip_suffix(".json")?.parse().ok()?;
        Some((process, entry.path()))
    };
    Ok(entries.filter_map(|entry| note(entry.ok()?)).collect())
}

/// When this process has started; `None` if there is none.
fn started(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // proc(5): the second field is a name in parentheses, which may have any in it; starttime is the 22nd.
    stat.rsplit(") ").next()?.split(' ').nth(19)?.parse().ok()
}

fn place() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/thread-self/ns/net").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
}

/// Of this start of the machine, but not of our network namespace.
fn is_of_another_namespace(of: &str) -> bool {
    let here = place();
    of != here && of.split(' ').next() == here.split(' ').next()
}

fn resolver(file: &Path) -> io::Result<Resolver> {
    let link = std::fs::read_link(file).ok();
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Resolver { link, text: Some(text) }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Resolver { link, text: None }),
        Err(error) => Err(error),
    }
}

/// In place: the file may be mounted on its own. Never through a link, which may point anywhere: what stands behind it is
/// its owner's. False: nothing was to be done.
fn write_resolver(file: &Path, now: &Resolver, found: &Resolver) -> io::Result<bool> {
    if now.link != found.link {
        if now.link.is_some() || now.text.is_some() {
            std::fs::remove_file(file)?;
        }
        if let Some(to) = &found.link {
            symlink(to, file)?;
        }
    }
    match &found.text {
        _ if found.link.is_some() => return Ok(now.link != found.link),
        Some(text) => {
            let mut open = OpenOptions::new();
            open.write(true).create(true).truncate(true).mode(0o644).custom_flags(libc::O_NOFOLLOW);
            open.open(file)?.write_all(text.as_bytes())?;
        }
        None if file.exists() => std::fs::remove_file(file)?,
        None => {}
    }
    Ok(true)
}

/// What `ip` says to these words; `None` if it fails or is not there.
fn ip(words: &[&str]) -> Option<String> {
    let mut command = secret::program("ip");
    // Started by a service manager, its folder may not be among those that are searched.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin"));
    let said = command.args(words).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    if said.status.success() { String::from_utf8(said.stdout).ok() } else { None }
}

fn default_routes(device: &str) -> Vec<String> {
    let of = |family: &'static str| {
        let said = ip(&[family, "-o", "route", "show", "default"]).unwrap_or_default();
        routes_in(&said, device).into_iter().map(move |route| format!("{family} {route}"))
    };
    of("-4").chain(of("-6")).collect()
}

/// Those that can be said again: not the ones by `device`, nor those of router advertisements, which come by themselves.
fn routes_in(said: &str, device: &str) -> Vec<String> {
    const STATES: [&str; 2] = ["linkdown", "dead"];
    let words = |line: &str| -> Vec<String> {
        line.split_whitespace().filter(|word| !STATES.contains(word)).map(str::to_owned).collect()
    };
    let has =
        |words: &[String], key: &str, value: &str| words.windows(2).any(|pair| pair[0] == key && pair[1] == value);
    let lines = said.lines().map(words).filter(|words| !words.is_empty());
    lines
        .filter(|words| !has(words, "dev", device) && !has(words, "proto", "ra"))
        .map(|words| words.join(" "))
        .collect()
}

/// Family and words of a default route as [`default_routes`] makes it; nothing else may be said to `ip`.
fn default_route(route: &str) -> Option<(&str, Vec<&str>)> {
    let (family, words) = route.split_once(' ')?;
    let words: Vec<&str> = words.split(' ').collect();
    let good = ["-4", "-6"].contains(&family) && words.first() == Some(&"default");
    let is_option = |word: &&str| word.is_empty() || word.starts_with('-');
    (good && !words.iter().any(is_option)).then_some((family, words))
}

/// What a device has that stays when we go; `None` if it does not stay.
fn standing(device: &str) -> Option<Standing> {
    standing_in(&ip(&["-j", "-d", "addr", "show", "dev", device])?)
}

fn standing_in(said: &str) -> Option<Standing> {
    let all: Value = serde_json::from_str(said).ok()?;
    let device = all.get(0)?;
    device.pointer("/linkinfo/info_data/persist")?.as_bool().filter(|stays| *stays)?;
    let bridge = device.get("master").and_then(Value::as_str).map(str::to_owned);
    let infos = device.get("addr_info").and_then(Value::as_array);
    let address = |info: &Value| {
        // The kernel's own, as long as the device is up.
        let own = info.get("scope").and_then(Value::as_str) == Some("link");
        let (local, prefix) = (info.get("local")?.as_str()?, info.get("prefixlen")?.as_u64()?);
        (!own).then(|| format!("{local}/{prefix}"))
    };
    let addresses = infos.into_iter().flatten().filter_map(address).collect();
    let up = device.get("flags")?.as_array()?.iter().any(|flag| flag == "UP");
    let setting = |(key, name): (&str, &str)| {
        let value = device.get(key)?;
        Some((name.to_owned(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
    };
    let settings = [("address", "address"), ("mtu", "mtu"), ("txqlen", "txqueuelen")];
    Some(Standing { bridge, addresses, up, settings: settings.into_iter().filter_map(setting).collect() })
}

/// How long a DHCP client takes to change what it changes, once it has begun.
const FOLLOW: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path) -> Places {
        Places { folder: dir.join("state"), resolver: dir.join("resolv.conf"), device: "no-such-device".into() }
    }

    fn begun(places: &Places) -> Keeper {
        let mut keeper = Keeper::begin(places.clone(), true).unwrap().unwrap();
        keeper.before_dhcp().unwrap();
        keeper
    }

    /// As if the process were another one, which has gone.
    fn crash(mut keeper: Keeper) {
        keeper.found.started += 1;
        keeper.write_down().unwrap();
        std::mem::forget(keeper);
    }

    fn notes_left(places: &Places) -> usize {
        std::fs::read_dir(&places.folder).unwrap().count()
    }

    #[test]
    fn name_servers_come_back_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        std::fs::write(&places.resolver, "before it was started\n").unwrap();
        let mut keeper = Keeper::begin(places.clone(), true).unwrap().unwrap();
        assert!(!places.folder.exists(), "nothing is going to change yet");
        std::fs::write(&places.resolver, "nameserver 192.0.2.1\n").unwrap();
        keeper.before_dhcp().unwrap();
        assert_eq!(notes_left(&places), 1);
        std::fs::write(&places.resolver, "nameserver 10.0.0.1\n").unwrap();
        assert!(Keeper::after_crash(&places).unwrap().is_empty(), "its process is still there");
        keeper.look();
        // In two steps.
        std::fs::write(&places.resolver, "nameserver 10.0.0.2\n").unwrap();
        assert_eq!(keeper.end(), [places.resolver.display().to_string()]);
        assert_eq!(std::fs::read_to_string(&places.resolver).unwrap(), "nameserver 192.0.2.1\n");
        assert_eq!(notes_left(&places), 0);
        // Nothing changed, nothing said; dropped is as good as ended.
        drop(begun(&places));
        assert_eq!(notes_left(&places), 0);
        assert!(Keeper::after_crash(&places).unwrap().is_empty());
    }

    #[test]
    fn name_servers_that_came_later_stay() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let text = || std::fs::read_to_string(&places.resolver).unwrap();
        for (by_client_at_end, want) in [(false, "newer\n"), (true, "old\n")] {
            std::fs::write(&places.resolver, "old\n").unwrap();
            let mut keeper = begun(&places);
            std::fs::write(&places.resolver, "leased\n").unwrap();
            keeper.look();
            keeper.follow_until = Some(monotonic());
            if by_client_at_end {
                keeper.before_dhcp_ends();
            }
            std::fs::write(&places.resolver, "newer\n").unwrap();
            keeper.before_dhcp_ends();
            keeper.end();
            assert_eq!((text().as_str(), notes_left(&places)), (want, 0));
        }
    }

    #[test]
    fn after_a_crash_they_come_back_unless_somebody_has_changed_them() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let text = || std::fs::read_to_string(&places.resolver).unwrap();
        for (looked, later, want) in
            [(true, None, "old\n"), (false, None, "leased\n"), (true, Some("third\n"), "third\n")]
        {
            std::fs::write(&places.resolver, "old\n").unwrap();
            let mut keeper = begun(&places);
            std::fs::write(&places.resolver, "leased\n").unwrap();
            if looked {
                keeper.look();
            }
            crash(keeper);
            if let Some(later) = later {
                std::fs::write(&places.resolver, later).unwrap();
            }
            assert_eq!(Keeper::after_crash(&places).unwrap().len(), usize::from(want == "old\n"));
            assert_eq!((text().as_str(), notes_left(&places)), (want, 0));
        }
        let note = places.folder.join(format!("restore-{}-7.json", places.device));
        std::fs::write(&note, "{").unwrap();
        let error = Keeper::after_crash(&places).unwrap_err();
        assert!(error.contains(&note.display().to_string()), "{error}");
        let other = Places { device: "no-such".into(), ..places };
        assert!(Keeper::after_crash(&other).unwrap().is_empty(), "of another device");
    }

    #[test]
    fn a_note_of_another_namespace_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let text = || std::fs::read_to_string(&places.resolver).unwrap();
        let boot = place().split(' ').next().unwrap().to_owned();
        for (at, applied) in [(format!("{boot} net:[1]"), false), ("another-boot net:[1]".to_owned(), true)] {
            std::fs::write(&places.resolver, "old\n").unwrap();
            let mut keeper = begun(&places);
            std::fs::write(&places.resolver, "leased\n").unwrap();
            keeper.look();
            keeper.found.place = at;
            crash(keeper);
            assert_eq!(!Keeper::after_crash(&places).unwrap().is_empty(), applied);
            assert_eq!((text() == "old\n", notes_left(&places)), (applied, usize::from(!applied)));
            std::fs::remove_dir_all(&places.folder).unwrap();
        }
    }

    /// What a note says that somebody else could have written is not done.
    #[test]
    fn notes_of_others_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        std::fs::write(&places.resolver, "old\n").unwrap();
        let mut keeper = begun(&places);
        std::fs::write(&places.resolver, "leased\n").unwrap();
        keeper.look();
        crash(keeper);
        for (path, mode) in [(places.folder.clone(), 0o777), (places.folder.clone(), 0o700)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Keeper::after_crash(&places).is_err(), mode == 0o777);
        }
        assert_eq!(std::fs::read_to_string(&places.resolver).unwrap(), "old\n");
        let elsewhere = dir.path().join("elsewhere");
        std::fs::write(&elsewhere, "{}").unwrap();
        symlink(&elsewhere, places.folder.join(format!("restore-{}-7.json", places.device))).unwrap();
        assert!(Keeper::after_crash(&places).is_err(), "a link is followed");
    }

    #[test]
    fn a_link_is_a_link_again_and_nothing_is_written_through_it() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let target = dir.path().join("stub");
        let target_text = || std::fs::read_to_string(&target).unwrap();
        std::fs::write(&target, "stub\n").unwrap();
        symlink(&target, &places.resolver).unwrap();
        let keeper = begun(&places);
        std::fs::remove_file(&places.resolver).unwrap();
        std::fs::write(&places.resolver, "leased\n").unwrap();
        std::fs::write(&target, "its owner's\n").unwrap();
        assert_eq!(keeper.end().len(), 1);
        assert_eq!(
            (std::fs::read_link(&places.resolver).unwrap(), target_text()),
            (target.clone(), "its owner's\n".into())
        );
        // The client has written through it.
        let keeper = begun(&places);
        std::fs::write(&places.resolver, "leased\n").unwrap();
        assert!(keeper.end().is_empty());
        assert_eq!(target_text(), "leased\n");
        // None at all is none again, a file is a file again where the client has made a link.
        for before in [None, Some("before\n")] {
            std::fs::remove_file(&places.resolver).unwrap();
            before.iter().for_each(|text| std::fs::write(&places.resolver, text).unwrap());
            let keeper = begun(&places);
            let _ = std::fs::remove_file(&places.resolver);
            symlink(&target, &places.resolver).unwrap();
            assert_eq!(keeper.end().len(), 1);
            assert!(places.resolver.read_link().is_err());
            assert_eq!(
                (std::fs::read_to_string(&places.resolver).ok().as_deref(), target_text().as_str()),
                (before, "leased\n")
            );
            std::fs::write(&places.resolver, "").unwrap();
        }
        // Had it become a link meanwhile, the link would not be followed.
        std::fs::remove_file(&places.resolver).unwrap();
        symlink(&target, &places.resolver).unwrap();
        let (plain, want) = (Resolver { link: None, text: None }, Resolver { link: None, text: Some("x".into()) });
        assert!(write_resolver(&places.resolver, &plain, &want).is_err());
        assert_eq!(target_text(), "leased\n");
    }

    #[test]
    fn only_default_routes_are_said_to_ip() {
        let words = |route| default_route(route).map(|(_, words)| words.len());
        assert_eq!(words("-4 default via 192.0.2.1 dev eth0 metric 7"), Some(7));
        assert_eq!(words("-6 default via fe80::1 dev eth0"), Some(5));
        for route in [
            "",
            "-4",
            "-4 10.0.0.0/8 dev eth0",
            "-batch default x",
            "-4 default -batch x",
            "-4 default  dev x",
            "-4  default",
        ] {
            assert_eq!(words(route), None, "{route}");
        }
    }

    #[test]
    fn nothing_to_keep() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Keeper::begin(places(dir.path()), false).unwrap().is_none());
    }

    #[test]
    fn what_ip_says() {
        let said = "default via 192.0.2.1 dev eth0 proto dhcp src 192.0.2.9 metric 100 linkdown \n\
                    default via 10.0.0.1 dev hub0 \ndefault via fe80::1 dev eth1 proto ra metric 1024 expires 900sec\n";
        assert_eq!(routes_in(said, "hub0"), ["default via 192.0.2.1 dev eth0 proto dhcp src 192.0.2.9 metric 100"]);
        let said = r#"[{"ifname":"hub0","master":"br0","flags":["UP"],"mtu":1400,"txqlen":500,
            "address":"02:00:00:00:00:01","linkinfo":{"info_kind":"tun","info_data":{"type":"tap","persist":true}},
            "addr_info":[{"family":"inet","local":"10.0.0.5","prefixlen":24,"scope":"global"},
                         {"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link"}]}]"#;
        let settings = [("address", "02:00:00:00:00:01"), ("mtu", "1400"), ("txqueuelen", "500")];
        let want = Standing {
            bridge: Some("br0".into()),
            addresses: vec!["10.0.0.5/24".into()],
            up: true,
            settings: settings.map(|(name, value)| (name.into(), value.into())).to_vec(),
        };
        assert_eq!(standing_in(said), Some(want));
        assert_eq!(standing_in(&said.replace("true", "false")), None);
        assert_eq!(standing_in("[{}]"), None);
    }

    fn ip(words: &str) -> Option<String> {
        super::ip(&words.split(' ').collect::<Vec<_>>())
    }

    /// Each line is a command that must work.
    fn ip_all(lines: &[&str]) {
        for words in lines {
            assert!(ip(words).is_some(), "ip {words}");
        }
    }

    #[test]
    fn a_device_is_set_up_as_before() {
        use crate::sys::tap::{Tap, TapSettings};
        crate::sys::nic::tests::in_namespace(|| {
            let dir = tempfile::tempdir().unwrap();
            let places = Places { device: "hub0".into(), ..places(dir.path()) };
            ip_all(&[
                "tuntap add dev hub0 mode tap",
                "link set hub0 address 02:00:00:00:00:01 mtu 1400 txqueuelen 500",
                "addr add 2001:db8::5/64 dev hub0",
            ]);
            let before = standing("hub0").unwrap();
            let tap = Tap::attach("hub0").unwrap();
            let keeper = Keeper::begin(places.clone(), false).unwrap().unwrap();
            assert_eq!(keeper.found.device.as_ref(), Some(&before), "taken is not changed");
            let mac = crate::wire::ethernet::Mac([0x5e, 1, 2, 3, 4, 5]);
            tap.set_up(&TapSettings { mac, mtu: 1500, queue: 200 }).unwrap();
            let during = standing("hub0").unwrap();
            assert!(
                during.up && during.settings.iter().all(|setting| !before.settings.contains(setting)),
                "{during:?}"
            );
            drop(tap);
            let said = keeper.end().join(", ");
            assert_eq!(standing("hub0").unwrap(), before);
            assert!(
                said.starts_with("hub0 down, hub0 address 02:00:00:00:00:01, hub0 mtu 1400, hub0 txqueuelen 500"),
                "{said}"
            );
        });
    }

    /// Addresses and bridge of a device that stays; a default route that has gone.
    #[test]
    fn devices_and_routes() {
        crate::sys::nic::tests::in_namespace(|| {
            let dir = tempfile::tempdir().unwrap();
            let places = Places { device: "hub0".into(), ..places(dir.path()) };
            ip_all(&[
                "tuntap add dev hub0 mode tap",
                "addr add 10.0.0.5/24 dev hub0",
                "link set hub0 up",
                "link add br0 type bridge",
                "link add eth0 type veth peer name eth1",
                "addr add 192.0.2.9/24 dev eth0",
                "link set eth0 up",
                "route add default via 192.0.2.1 dev eth0 metric 7",
            ]);
            crash(begun(&places));
            ip_all(&[
                "addr add 10.9.9.9/24 dev hub0",
                "addr del 10.0.0.5/24 dev hub0",
                "link set hub0 master br0",
                "route del default",
            ]);
            let said = Keeper::after_crash(&places).unwrap();
            let want = ["hub0 without 10.9.9.9/24", "hub0 in no bridge", "hub0 with 10.0.0.5/24"];
            assert_eq!(said[..3], want);
            assert_eq!(said[3..], ["default via 192.0.2.1 dev eth0 metric 7"]);
            assert_eq!(standing("hub0").unwrap().addresses, ["10.0.0.5/24"]);
            // Another one is there meanwhile: that one is right.
            crash(begun(&places));
            assert!(ip("route replace default via 192.0.2.2 dev eth0 metric 7").is_some());
            assert!(Keeper::after_crash(&places).unwrap().is_empty());
        });
    }
}
