//! What the machine had before, so that it gets that back: name servers, default routes, and what a device that stays
//! had of addresses and bridge.
//!
//! DHCP clients write `/etc/resolv.conf` and leave it so. What is there is written down before any change, in a file of
//! the state directory; at the end it is put back, and the file goes. Whoever finds that file at the start comes after a
//! crash, and does it then. What somebody else has changed meanwhile stays as it is.
//!
//! Network namespaces may each have a device of the same name, and share that directory: a file belongs to a process, and
//! as long as that one runs nobody touches it.
#![forbid(unsafe_code)]

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::state::files;

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
    /// What the file said when it was last looked at while the client ran.
    made: Option<String>,
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
}

impl Keeper {
    /// Writes down what there is, if it is going to change: `dhcp` is going to run, or the device stays.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub(super) fn begin(places: Places, dhcp: bool) -> Result<Option<Self>, String> {
        let device = standing(&places.device);
        if !dhcp && device.is_none() {
            return Ok(None);
        }
        let me = std::process::id();
        let mut found = Found { started: started(me).unwrap_or(0), place: place(), device, ..Found::default() };
        if dhcp {
            let read = resolver(&places.resolver);
            found.resolver = Some(read.map_err(|error| failed(&places.resolver, "read", &error))?);
            found.routes = default_routes(&places.device);
        }
        let note = places.folder.join(format!("restore-{}-{me}.json", places.device));
        let keeper = Self { places, note, found, done: false };
        keeper.write_down()?;
        Ok(Some(keeper))
    }

    /// Puts back what a process found that could not do it itself, and says what.
    ///
    /// # Errors
    /// If what it has written down cannot be read.
    pub(super) fn after_crash(places: &Places) -> Result<Vec<String>, String> {
        let mut said = Vec::new();
        for (process, note) in notes(places)? {
            let read = std::fs::read(&note).map_err(|error| failed(&note, "read", &error))?;
            let found: Found = serde_json::from_slice(&read).map_err(|error| {
                format!("{} is no note of a run before ({error}); see what it says, and remove it", note.display())
            })?;
            if started(process) != Some(found.started) {
                let mut keeper = Self { places: places.clone(), note, found, done: false };
                said.extend(keeper.put_back(true));
            }
        }
        Ok(said)
    }

    /// Looks at what the DHCP client has made of the name servers.
    pub(super) fn look(&mut self) {
        let Some(found) = &self.found.resolver else { return };
        let Ok(now) = resolver(&self.places.resolver) else { return };
        if now.text == found.text || now.text == self.found.made {
            return;
        }
        self.found.made = now.text;
        // Better without this than to give up: then it is put back whatever it says.
        let _ = self.write_down();
    }

    /// Puts everything back, and says what.
    pub(super) fn end(mut self) -> Vec<String> {
        self.put_back(false)
    }

    fn put_back(&mut self, crashed: bool) -> Vec<String> {
        self.done = true;
        let mut said = Vec::new();
        if self.put_back_resolver(crashed) {
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

    fn put_back_resolver(&self, crashed: bool) -> bool {
        let (Some(found), file) = (&self.found.resolver, &self.places.resolver) else { return false };
        let Ok(now) = resolver(file) else { return false };
        let by_somebody_else = crashed && self.found.made.is_some() && now.text != self.found.made;
        now != *found && !by_somebody_else && write_resolver(file, &now, found).is_ok()
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
            let family = route.split(' ').next().unwrap_or_default();
            if now.iter().any(|other| other.starts_with(family)) {
                continue;
            }
            let words: Vec<&str> = route.split(' ').skip(1).collect();
            if ip(&[&[family, "route", "add"], &words[..]].concat()).is_some() {
                said.push(words.join(" "));
            }
        }
    }

    fn write_down(&self) -> Result<(), String> {
        let (note, folder) = (&self.note, &self.places.folder);
        let text = serde_json::to_vec_pretty(&self.found).map_err(|error| error.to_string())?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| failed(folder, "make", &error))?;
        files::replace(note, &text).map_err(|error| error.to_string())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if !self.done {
            self.put_back(false);
        }
    }
}

fn failed(path: &Path, doing: &str, error: &io::Error) -> String {
    format!("cannot {doing} {}: {error}", path.display())
}

/// What runs before have written down about the device, with the numbers of their processes.
fn notes(places: &Places) -> Result<Vec<(u32, PathBuf)>, String> {
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

fn resolver(file: &Path) -> io::Result<Resolver> {
    let link = std::fs::read_link(file).ok();
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Resolver { link, text: Some(text) }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Resolver { link, text: None }),
        Err(error) => Err(error),
    }
}

/// In place: the file may be mounted on its own.
fn write_resolver(file: &Path, now: &Resolver, found: &Resolver) -> io::Result<()> {
    if now.link != found.link {
        if now.link.is_some() || now.text.is_some() {
            std::fs::remove_file(file)?;
        }
        if let Some(to) = &found.link {
            symlink(to, file)?;
        }
    }
    match &found.text {
        Some(text) if resolver(file)?.text.as_ref() != Some(text) => std::fs::write(file, text),
        None if found.link.is_none() && file.exists() => std::fs::remove_file(file),
        _ => Ok(()),
    }
}

/// What `ip` says to these words; `None` if it fails or is not there.
fn ip(words: &[&str]) -> Option<String> {
    let mut command = Command::new("ip");
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
    Some(Standing { bridge, addresses: infos.into_iter().flatten().filter_map(address).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path) -> Places {
        Places { folder: dir.join("state"), resolver: dir.join("resolv.conf"), device: "no-such-device".into() }
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
        std::fs::write(&places.resolver, "nameserver 192.0.2.1\n").unwrap();
        let mut keeper = Keeper::begin(places.clone(), true).unwrap().unwrap();
        assert_eq!(notes_left(&places), 1);
        std::fs::write(&places.resolver, "nameserver 10.0.0.1\n").unwrap();
        assert!(Keeper::after_crash(&places).unwrap().is_empty(), "its process is still there");
        keeper.look();
        // A later lease.
        std::fs::write(&places.resolver, "nameserver 10.0.0.2\n").unwrap();
        assert_eq!(keeper.end(), [places.resolver.display().to_string()]);
        assert_eq!(std::fs::read_to_string(&places.resolver).unwrap(), "nameserver 192.0.2.1\n");
        assert_eq!(notes_left(&places), 0);
        // Nothing changed, nothing said; dropped is as good as ended.
        drop(Keeper::begin(places.clone(), true).unwrap().unwrap());
        assert_eq!(notes_left(&places), 0);
        assert!(Keeper::after_crash(&places).unwrap().is_empty());
    }

    #[test]
    fn after_a_crash_they_come_back_unless_somebody_has_changed_them() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let text = || std::fs::read_to_string(&places.resolver).unwrap();
        for (looked, later, want) in [(true, None, "old\n"), (false, None, "old\n"), (true, Some("third\n"), "third\n")]
        {
            std::fs::write(&places.resolver, "old\n").unwrap();
            let mut keeper = Keeper::begin(places.clone(), true).unwrap().unwrap();
            std::fs::write(&places.resolver, "leased\n").unwrap();
            if looked {
                keeper.look();
            }
            crash(keeper);
            if let Some(later) = later {
                std::fs::write(&places.resolver, later).unwrap();
            }
            assert_eq!(Keeper::after_crash(&places).unwrap().len(), usize::from(later.is_none()));
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
    fn a_link_is_a_link_again() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let target = dir.path().join("stub");
        std::fs::write(&target, "stub\n").unwrap();
        symlink(&target, &places.resolver).unwrap();
        let keeper = Keeper::begin(places.clone(), true).unwrap().unwrap();
        std::fs::remove_file(&places.resolver).unwrap();
        std::fs::write(&places.resolver, "leased\n").unwrap();
        std::fs::write(&target, "leased, too\n").unwrap();
        assert_eq!(keeper.end().len(), 1);
        assert_eq!(std::fs::read_link(&places.resolver).unwrap(), target);
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "stub\n");
        // None at all is none again.
        std::fs::remove_file(&places.resolver).unwrap();
        let keeper = Keeper::begin(places.clone(), true).unwrap().unwrap();
        std::fs::write(&places.resolver, "leased\n").unwrap();
        keeper.end();
        assert!(!places.resolver.exists());
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
        let said = r#"[{"ifname":"hub0","master":"br0","linkinfo":{"info_kind":"tun","info_data":{"type":"tap","persist":true}},
            "addr_info":[{"family":"inet","local":"10.0.0.5","prefixlen":24,"scope":"global"},
                         {"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link"}]}]"#;
        let want = Standing { bridge: Some("br0".into()), addresses: vec!["10.0.0.5/24".into()] };
        assert_eq!(standing_in(said), Some(want));
        assert_eq!(standing_in(&said.replace("true", "false")), None);
        assert_eq!(standing_in("[{}]"), None);
    }

    /// Addresses and bridge of a device that stays; a default route that has gone.
    #[test]
    fn devices_and_routes() {
        crate::sys::nic::tests::in_namespace(|| {
            let ip = |words: &str| super::ip(&words.split(' ').collect::<Vec<_>>());
            let dir = tempfile::tempdir().unwrap();
            let places = Places { device: "hub0".into(), ..places(dir.path()) };
            for words in [
                "tuntap add dev hub0 mode tap",
                "addr add 10.0.0.5/24 dev hub0",
                "link set hub0 up",
                "link add br0 type bridge",
                "link add eth0 type veth peer name eth1",
                "addr add 192.0.2.9/24 dev eth0",
                "link set eth0 up",
                "route add default via 192.0.2.1 dev eth0 metric 7",
            ] {
                assert!(ip(words).is_some(), "ip {words}");
            }
            crash(Keeper::begin(places.clone(), true).unwrap().unwrap());
            for words in [
                "addr add 10.9.9.9/24 dev hub0",
                "addr del 10.0.0.5/24 dev hub0",
                "link set hub0 master br0",
                "route del default",
            ] {
                assert!(ip(words).is_some(), "ip {words}");
            }
            let said = Keeper::after_crash(&places).unwrap();
            let want = ["hub0 without 10.9.9.9/24", "hub0 in no bridge", "hub0 with 10.0.0.5/24"];
            assert_eq!(said[..3], want);
            assert_eq!(said[3..], ["default via 192.0.2.1 dev eth0 metric 7"]);
            assert_eq!(standing("hub0").unwrap().addresses, ["10.0.0.5/24"]);
            // Another one is there meanwhile: that one is right.
            crash(Keeper::begin(places.clone(), true).unwrap().unwrap());
            assert!(ip("route replace default via 192.0.2.2 dev eth0 metric 7").is_some());
            assert!(Keeper::after_crash(&places).unwrap().is_empty());
        });
    }
}
