//! Every key, every mistake.
#![forbid(unsafe_code)]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::hub::policy::Item;

fn build(text: &str) -> Result<Config, ConfigError> {
    Config::build("test.toml", text, Path::new("/etc/hublane"), RawServer::default())
}

fn typed(option: &'static str, value: &str) -> Option<Located<String>> {
    Some(Located { value: value.to_owned(), place: Place::Option(option) })
}

#[test]
fn without_a_file_there_is_the_public_hub() {
    let config = Config::load(None, RawServer::default()).unwrap();
    assert_eq!(config.hubs.len(), 1);
    let hub = &config.hubs[0];
    assert_eq!((hub.name.as_str(), hub.profile, hub.compression), ("PUBLIC", Profile::Public, false));
    assert_eq!((hub.ageing.as_secs(), hub.fdb_entries, hub.session_timeout.as_secs()), (300, 65_536, 20));
    let ports: Vec<_> = config.server.listen.iter().map(|l| (l.address.to_string(), l.required)).collect();
    let want = ["[::]:443", "[::]:992", "[::]:1194", "[::]:5555"].map(|address| (address.to_owned(), false));
    assert_eq!(ports, want);
    assert_eq!(config.server.certificate, Certificate::Auto);
    assert_eq!((config.server.handshakes_max, config.server.login_timeout.as_secs()), (1024, 30));
}

#[test]
fn every_key_is_read() {
    let config = build(
        r#"
        [server]
        listen = ["127.0.0.1:443", "[::1]:5555"]
        workers = "0-3"
        control_cpus = "4"
        queue_depth = 256
        kernel_features = "5.15"
        tls_versions = ["1.3"]
        certificate_chain = "chain.pem"
        private_key = "/keys/key.pem"
        handshakes_max = 7
        handshake_timeout_s = 8
        login_timeout_s = 9
        connections_per_source_max = 10
        rekey_after_records = 1000
        aead = "aes-gcm"

        [[hub]]
        name = "PUBLIC"
        isolate_members = true

        [[hub]]
        name = "Home"
        profile = "lan"
        ageing_s = 600
        fdb_entries = 1024
        sessions_max = 5
        macs_per_session = 3
        session_timeout_s = 60
        max_connections = 8
        compression = "refuse"
        same_member = "refuse"
        [hub.policy]
        NoBridge = true
        MultiLogins = 4
        "#,
    )
    .unwrap();
    let server = &config.server;
    assert!(server.listen.iter().all(|listen| listen.required) && server.listen.len() == 2);
    assert_eq!(server.workers.as_ref().map(|cpus| cpus.numbers().len()), Some(4));
    assert_eq!(server.control_cpus.as_ref().map(ToString::to_string).as_deref(), Some("4"));
    assert_eq!((server.queue_depth, server.kernel_features), (256, FeatureMask::K5_15));
    assert_eq!(server.tls_versions, TlsVersions::Only13);
    let own = Certificate::Own { chain: "/etc/hublane/chain.pem".into(), key: "/keys/key.pem".into() };
    assert_eq!(server.certificate, own);
    assert_eq!((server.handshakes_max, server.connections_per_source_max), (7, 10));
    assert_eq!((server.handshake_timeout.as_secs(), server.login_timeout.as_secs()), (8, 9));
    assert_eq!((server.rekey_after_records, server.aead), (Some(1000), AeadBackend::RustCrypto));
    assert!(config.hubs[0].isolate_members && config.hubs[0].profile == Profile::Public);
    let (index, home) = config.hub("HOME").unwrap();
    assert_eq!((index, home.profile, home.ageing.as_secs(), home.fdb_entries), (1, Profile::Lan, 600, 1024));
    assert_eq!((home.sessions_max, home.macs_per_session, home.max_connections), (5, Some(3), 8));
    assert_eq!((home.session_timeout.as_secs(), home.compression), (60, false));
    assert_eq!(home.same_member, SameMember::Refuse);
    assert_eq!(home.policy.set_items().collect::<Vec<_>>(), [(Item::NoBridge, 1), (Item::MultiLogins, 4)]);
}

/// What passes here is set without another look when a member logs in.
#[test]
fn the_hub_takes_every_policy_that_passes() {
    for item in policy::settable() {
        let text = format!("[[hub]]\nname = \"a\"\n[hub.policy]\n{} = {}", item.name(), item.range().end());
        let passed = build(&text).unwrap().hubs[0].policy.clone();
        for (item, value) in passed.set_items() {
            assert_eq!(crate::hub::policy::Policy::default().set(item, value), Ok(()));
        }
    }
}

/// Text, line of the problem, part of what is said, part of the hint.
const MISTAKES: &[(&str, usize, &str, &str)] = &[
    ("[server]\nlisen = \"[::]:1\"", 2, "unknown key \"lisen\" in [server]", "did you mean \"listen\"?"),
    ("[server]\nzzz = 1", 2, "unknown key \"zzz\"", "allowed: listen, workers"),
    ("[sever]", 1, "unknown key \"sever\" in the file", "did you mean \"server\"?"),
    ("[[hub]]\nname = \"a\"\nprofil = \"lan\"", 3, "unknown key \"profil\" in [[hub]]", "\"profile\""),
    ("[server]\nlisten = ", 2, "not TOML", "key = value"),
    ("[server]\nlisten = \"[::]:443", 2, "not TOML", "quotes"),
    ("[server]\naead = \"aws-lc\"\naead = \"aes-gcm\"", 3, "not TOML: duplicate key", "key = value"),
    ("server = 3", 1, "server must be a section", "[server]"),
    ("[hub]\nname = \"x\"", 1, "hub must be a list of sections", "[[hub]]"),
    ("[server]\nlisten = 443", 2, "listen must be text in quotes, found a whole number", "listen = \"…\""),
    ("[server]\nlisten = []", 2, "listen is an empty list", "at least one"),
    ("[server]\nlisten = [\n \"0.0.0.0:1\",\n \"443\",\n]", 4, "\"443\" is not ADDRESS:PORT", "[::]:443"),
    ("[server]\nlisten = [\"1.2.3.4:5\", \"1.2.3.4:5\"]", 2, "stands twice", "once"),
    ("[server]\nworkers = 4", 2, "workers must be text in quotes", "workers = \"…\""),
    ("[server]\nworkers = \"3-0\"", 2, "not a list of processors", "ends before it begins"),
    ("[server]\nworkers = \"0-63\"", 2, "64 workers are too many", "at most 63"),
    ("[server]\ncontrol_cpus = \"all\"", 2, "control_cpus = \"all\" is not a list", "0-3"),
    ("[server]\nqueue_depth = 1000", 2, "not a power of two", "512 or 1024"),
    ("[server]\nqueue_depth = 1", 2, "queue_depth = 1 is out of range", "64 to 32768; 1024 if not said"),
    ("[server]\nqueue_depth = \"64\"", 2, "queue_depth must be a whole number, found text", "without quotes"),
    ("[server]\nkernel_features = 6.1", 2, "found a number with a point", "in quotes"),
    ("[server]\nkernel_features = \"6.2\"", 2, "kernel_features = \"6.2\" is not known", "all, 6.1, 5.15"),
    ("[server]\ntls_versions = [\"1.1\"]", 2, "TLS version \"1.1\"", "\"1.2\", \"1.3\" or both"),
    ("[server]\ncertificate = \"ec\"", 2, "certificate = \"ec\" is not known", "did you mean \"ecdsa\"?"),
    ("[server]\ncertificate_chain = \"a\"", 2, "without private_key", "go together"),
    ("[server]\nprivate_key = \"a\"", 2, "without certificate_chain", "go together"),
    (
        "[server]\ncertificate = \"rsa\"\ncertificate_chain = \"a\"\nprivate_key = \"b\"",
        2,
        "but a chain is given",
        "leave away certificate",
    ),
    ("[server]\nhandshakes_max = 0", 2, "out of range", "1 to 65536; 1024 if not said"),
    ("[server]\nhandshake_timeout_s = 121", 2, "out of range", "1 to 120"),
    ("[server]\nlogin_timeout_s = -1", 2, "out of range", "1 to 300"),
    ("[server]\nconnections_per_source_max = 9999999", 2, "out of range", "1 to 1000000"),
    ("[server]\nrekey_after_records = 0", 2, "out of range", "leave it away"),
    ("[server]\nrekey_after_records = 99999999999999999999", 2, "out of range", ""),
    ("[server]\naead = \"AWS-LC\"", 2, "is not known", "did you mean \"aws-lc\"?"),
    ("[[hub]]\nprofile = \"lan\"", 1, "hub without a name", "name = \"…\""),
    ("[[hub]]\nname = \"a/b\"", 2, "cannot be the name of a hub", "A-Z"),
    ("[[hub]]\nname = \"a\"\n[[hub]]\nname = \"A\"", 4, "a second hub is called \"A\"", "upper and lower case"),
    ("[[hub]]\nname = \"a\"\nprofile = \"pubic\"", 3, "is not known", "did you mean \"public\"?"),
    ("[[hub]]\nname = \"a\"\nisolate_members = 1", 3, "must be true or false", "isolate_members = true"),
    ("[[hub]]\nname = \"a\"\nageing_s = 9", 3, "out of range", "10 to 1000000; 300 if not said"),
    ("[[hub]]\nname = \"a\"\nfdb_entries = 0", 3, "out of range", "64 to 1048576"),
    ("[[hub]]\nname = \"a\"\nsessions_max = 0", 3, "out of range", "1 to 262144"),
    ("[[hub]]\nname = \"a\"\nmacs_per_session = 70000", 3, "out of range", "1 to 65535"),
    ("[[hub]]\nname = \"a\"\nsession_timeout_s = 61", 3, "out of range", "5 to 60; 20 if not said"),
    ("[[hub]]\nname = \"a\"\nmax_connections = 300", 3, "max_connections = 300 is out of range", "1 to 32"),
    ("[[hub]]\nname = \"PUBLIC\"\ncompression = \"allow\"", 3, "never compresses", "profile = \"lan\""),
    ("[[hub]]\nname = \"a\"\nsame_member = \"takeover\"", 3, "is not known", "did you mean \"take-over\"?"),
    ("[[hub]]\nname = \"a\"\n[hub.policy]\nNoBrige = true", 4, "unknown policy item", "did you mean \"NoBridge\"?"),
    ("[[hub]]\nname = \"a\"\n[hub.policy]\nMaxIP = 4", 4, "does not enforce it", "can be set: Access, DHCPFilter"),
    ("[[hub]]\nname = \"a\"\n[hub.policy]\nTimeOut = 20", 4, "is not set in [hub.policy]", "session_timeout_s"),
    ("[[hub]]\nname = \"a\"\n[hub.policy]\nNoBridge = 2", 4, "NoBridge = 2 is out of range", "true or false"),
    ("[[hub]]\nname = \"a\"\n[hub.policy]\nMultiLogins = true", 4, "must be a whole number", "1 to 65535, or 0"),
    ("[[hub]]\nname = \"a\"\n[hub.policy]\nMultiLogins = \"4\"", 4, "true, false or a whole number, found text", ""),
];

#[test]
fn every_mistake_is_told_with_line_and_hint() {
    for (text, line, what, hint) in MISTAKES {
        let error = build(text).expect_err(text);
        assert_eq!(error.problems.len(), 1, "{text}\n{error}");
        let problem = &error.problems[0];
        let (number, shown) = problem.line.clone().unwrap_or_else(|| panic!("no line: {text}\n{error}"));
        assert_eq!(
            (number, shown.as_str()),
            (*line, text.lines().nth(line - 1).unwrap().trim_end()),
            "{text}\n{error}"
        );
        assert!(problem.place.starts_with(&format!("test.toml:{line}:")), "{text}\n{error}");
        assert!(problem.what.contains(what), "{text}\n{error}");
        assert!(problem.hint.contains(hint) && !problem.hint.is_empty(), "{text}\n{error}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let error = build("[server]\nlisen = 1\naead = \"x\"\n[[hub]]\nname = \"\"").unwrap_err();
    assert_eq!(error.problems.len(), 3, "{error}");
}

#[test]
fn hubs_are_bounded() {
    let text: String = (0..=HUBS_MAX).map(|i| format!("[[hub]]\nname = \"h{i}\"\n")).collect();
    let error = build(&text).unwrap_err();
    assert!(error.to_string().contains("too many hubs"), "{error}");
}

#[test]
fn the_command_line_comes_before_the_file_and_is_named_in_errors() {
    let file = "[server]\nworkers = \"0\"\naead = \"aes-gcm\"";
    let options = RawServer { workers: typed("--workers", "1-2"), ..RawServer::default() };
    let config = Config::build("f", file, Path::new(""), options).unwrap();
    assert_eq!(config.server.workers.unwrap().to_string(), "1-2");
    assert_eq!(config.server.aead, AeadBackend::RustCrypto);

    let options = RawServer { workers: typed("--workers", "x"), ..RawServer::default() };
    let error = Config::build("f", file, Path::new(""), options).unwrap_err();
    assert_eq!((error.problems[0].place.as_str(), &error.problems[0].line), ("--workers", &None));
}

#[test]
fn files_that_strangers_may_have_written_are_refused() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"[server]\n").unwrap();
    let load = || Config::load(Some(file.path()), RawServer::default());
    assert!(load().is_ok());
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(load().unwrap_err().to_string().contains("may be written by anybody (mode 0666)"));
    let gone = Config::load(Some(Path::new("/nonexistent.toml")), RawServer::default()).unwrap_err();
    assert!(gone.to_string().starts_with("/nonexistent.toml: cannot be read: "), "{gone}");
    let folder = Config::load(Some(Path::new("/tmp")), RawServer::default()).unwrap_err();
    assert!(folder.to_string().contains("is not a file"), "{folder}");
}

#[test]
fn a_file_cut_anywhere_never_panics() {
    let text = "[server]\nlisten = [\"127.0.0.1:443\"]\n[[hub]]\nname = \"Home é\"\n[hub.policy]\nNoBridge = true\n";
    for end in (0..text.len()).filter(|&end| text.is_char_boundary(end)) {
        let _ = build(&text[..end]);
    }
}

#[test]
fn gateways_and_nats() {
    let good = "[[hub]]\nname = \"PUBLIC\"\n[hub.gateway]\naddress = \"10.9.0.1/24\"\npool = \"10.9.0.9-10.9.0.200\"\n\
        [[hub.gateway.reservation]]\nuser = \"a\"\naddress = \"10.9.0.5\"\n\
        [hub.nat]\ndevice = \"e0\"\naddresses = [\"192.0.2.0/30\"]\n[[hub.nat.forward]]\nport = 80\nto = \"10.9.0.5:8080\"\n";
    let config = Config::build("x", good, Path::new(""), RawServer::default()).unwrap();
    let (gateway, nat) = (config.hubs[0].gateway.as_ref().unwrap(), config.hubs[0].nat.as_ref().unwrap());
    assert_eq!((gateway.network().to_string(), gateway.network_addresses()), ("10.9.0.0".into(), 256));
    assert_eq!((nat.addresses.len(), nat.ports.clone(), config.hubs[0].members_ipv6), (4, 1024..=65_535, false));
    for (wrong, said) in [
        (good.replace("10.9.0.1/24", "10.9.0.0/24"), "is not the address of a gateway"),
        (good.replace("10.9.0.1/24", "10.9.0.1/31"), "is not the address of a gateway"),
        (good.replace("10.9.0.9-", "10.9.0.1-"), "is not a range of addresses"),
        (good.replace("= \"10.9.0.5\"\n", "= \"10.9.0.1\"\n"), "cannot be reserved"),
        (good.replace("user = \"a\"", "mac = \"xy\""), "has no holder"),
        (good.replace("device = \"e0\"", "mtu = 1400"), "without a device"),
        (good.replace("192.0.2.0/30", "10.9.0.64"), "lies in the inside network"),
        (good.replace("port = 80", "port = 2000"), "lies among those"),
        (good.replace("to = \"10.9.0.5:8080\"", "to = \"10.8.0.5:8080\""), "does not lie in the inside network"),
        (
            good.replace("[hub.gateway]\naddress = \"10.9.0.1/24\"\n", "[hub.gateway]\naddres = \"10.9.0.1/24\"\n"),
            "addres",
        ),
        ("[[hub]]\nname = \"x\"\n[hub.nat]\ndevice = \"e0\"\n".into(), "without [hub.gateway]"),
    ] {
        let error = Config::build("x", &wrong, Path::new(""), RawServer::default()).unwrap_err();
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
}
