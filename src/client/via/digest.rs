//! Proofs of who one is towards an HTTP proxy: Basic (RFC 7617) and Digest (RFC 7616: MD5 and SHA-256, also `-sess`,
//! with `qop=auth` or, as RFC 2069 had it, without). Pure: the client's nonce is an argument.
//!
//! Written here since it is a hundred lines on digests that are in the program anyway; crates for it bring a second
//! set of those and a random generator.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use zeroize::Zeroizing;

/// What a proxy wants to be shown: one of its `Proxy-Authenticate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Such as `Digest`, as written.
    pub scheme: String,
    params: Vec<(String, String)>,
}

impl Challenge {
    /// All challenges of one header's value; several may stand in it.
    pub fn parse_all(value: &str) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        let mut rest = value;
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() || all.len() > CHALLENGES_MAX {
                return all;
            }
            let (word, behind) = token(rest);
            if word.is_empty() {
                return all;
            }
            let after = behind.trim_start_matches([' ', '\t']);
            match (after.strip_prefix('='), all.last_mut()) {
                // `name = value` belongs to the scheme before it; padding of a token68 has no value.
                (Some(value), Some(challenge)) if !value.is_empty() && !value.starts_with(['=', ',']) => {
                    let (value, behind) = word_or_string(value.trim_start_matches([' ', '\t']));
                    challenge.params.push((word.to_ascii_lowercase(), value));
                    rest = behind;
                }
                (Some(_), _) => rest = after.trim_start_matches('='),
                (None, _) => {
                    all.push(Self { scheme: word.to_owned(), params: Vec::new() });
                    rest = behind;
                }
            }
        }
    }

    fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The proxy says that only its nonce was too old.
    pub fn is_stale(&self) -> bool {
        self.param("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true"))
    }
}

/// A way to prove who one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// User and password as they are.
    Basic,
    /// A digest of them and the proxy's nonce.
    Digest(Digest),
}

/// A Digest challenge that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    hash: Hash,
    is_sess: bool,
    has_qop: bool,
    hashes_user: bool,
    realm: String,
    nonce: String,
    opaque: Option<String>,
    algorithm: Option<String>,
    /// Only the nonce before was too old.
    pub is_stale: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hash {
    Md5,
    Sha256,
}

impl Proof {
    /// The best of `challenges`: Digest before Basic, SHA-256 before MD5. `None` if all are of other kinds.
    pub fn choose(challenges: &[Challenge]) -> Option<Self> {
        let digests = challenges.iter().filter_map(Digest::new);
        // The first one among equals, as RFC 7616 §3.7 wants it.
        let best = digests.reduce(|best, next| if next.hash > best.hash { next } else { best });
        match best {
            Some(digest) => Some(Self::Digest(digest)),
            None => challenges.iter().any(|challenge| challenge.is("Basic")).then_some(Self::Basic),
        }
    }

    /// The value of `Proxy-Authorization` for a request of `method` for `uri`.
    pub fn header(&self, user: &str, password: &str, method: &str, uri: &str, cnonce: &str) -> Zeroizing<String> {
        match self {
            Self::Basic => {
                let plain = Zeroizing::new(format!("{user}:{password}"));
                Zeroizing::new(format!("Basic {}", STANDARD.encode(plain.as_bytes())))
            }
            Self::Digest(digest) => Zeroizing::new(digest.header(user, password, method, uri, cnonce)),
        }
    }
}

impl Digest {
    fn new(challenge: &Challenge) -> Option<Self> {
        let algorithm = challenge.param("algorithm");
        let name = algorithm.unwrap_or("MD5").to_ascii_lowercase();
        let (name, is_sess) = name.strip_suffix("-sess").map_or((name.as_str(), false), |name| (name, true));
        let hash = match name {
            "md5" => Hash::Md5,
            "sha-256" => Hash::Sha256,
            _ => return None,
        };
        let has_qop = match challenge.param("qop") {
            Some(offered) if !offered.split(',').any(|qop| qop.trim().eq_ignore_ascii_case("auth")) => return None,
            offered => offered.is_some(),
        };
        Some(Self {
            hash,
            is_sess,
            has_qop,
            hashes_user: challenge.param("userhash").is_some_and(|value| value.eq_ignore_ascii_case("true")),
            realm: challenge.param("realm")?.to_owned(),
            nonce: challenge.param("nonce")?.to_owned(),
            opaque: challenge.param("opaque").map(str::to_owned),
            algorithm: algorithm.map(str::to_owned),
            is_stale: challenge.is_stale(),
        })
        .filter(|_| challenge.is("Digest"))
    }

    fn header(&self, user: &str, password: &str, method: &str, uri: &str, cnonce: &str) -> String {
        let response = self.response(user, password, method, uri, cnonce);
        let user = if self.hashes_user { self.hash.hex(&format!("{user}:{}", self.realm)) } else { user.to_owned() };
        let mut text = format!(
            "Digest username={}, realm={}, nonce={}, uri={}, response=\"{response}\"",
            quoted(&user),
            quoted(&self.realm),
            quoted(&self.nonce),
            quoted(uri),
        );
        if let Some(algorithm) = &self.algorithm {
            text.push_str(&format!(", algorithm={algorithm}"));
        }
        if let Some(opaque) = &self.opaque {
            text.push_str(&format!(", opaque={}", quoted(opaque)));
        }
        if self.has_qop {
            text.push_str(&format!(", qop=auth, nc={COUNT}"));
        }
        if self.has_qop || self.is_sess {
            text.push_str(&format!(", cnonce={}", quoted(cnonce)));
        }
        if self.hashes_user {
            text.push_str(", userhash=true");
        }
        text
    }

    /// RFC 7616 §3.4.
    fn response(&self, user: &str, password: &str, method: &str, uri: &str, cnonce: &str) -> String {
        let hex = |text: &str| self.hash.hex(text);
        let mut a1 = Zeroizing::new(hex(&Zeroizing::new(format!("{user}:{}:{password}", self.realm))));
        if self.is_sess {
            a1 = Zeroizing::new(hex(&format!("{}:{}:{cnonce}", *a1, self.nonce)));
        }
        let a2 = hex(&format!("{method}:{uri}"));
        if self.has_qop {
            hex(&format!("{}:{}:{COUNT}:{cnonce}:auth:{a2}", *a1, self.nonce))
        } else {
            hex(&format!("{}:{}:{a2}", *a1, self.nonce))
        }
    }
}

impl Hash {
    fn hex(self, text: &str) -> String {
        match self {
            Self::Md5 => hex(&Md5::digest(text.as_bytes())),
            Self::Sha256 => hex(digest(&SHA256, text.as_bytes()).as_ref()),
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut all, byte| {
        write!(all, "{byte:02x}").expect("a string takes it");
        all
    })
}

/// As a quoted-string (RFC 9110 §5.6.4); what came from the proxy as one goes back the same.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn token(text: &str) -> (&str, &str) {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
    text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len()))
}

fn word_or_string(text: &str) -> (String, &str) {
    let Some(inside) = text.strip_prefix('"') else {
        let (word, behind) = text.split_at(text.find([',', ' ', '\t']).unwrap_or(text.len()));
        return (word.to_owned(), behind);
    };
    let (mut value, mut is_escaped) = (String::new(), false);
    for (at, c) in inside.char_indices() {
        match c {
            _ if is_escaped => {
                value.push(c);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            '"' => return (value, &inside[at + 1..]),
            _ => value.push(c),
        }
    }
    (value, "")
}

/// Each nonce is used once: a proxy that is asked again has another.
const COUNT: &str = "00000001";

/// Challenges that are looked at.
const CHALLENGES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7616 §3.9.1.
    const EXAMPLE: &str = r#"Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=ALG, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS""#;
    const CNONCE: &str = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";

    fn answer(challenge: &str, user: &str, password: &str, method: &str, uri: &str, cnonce: &str) -> String {
        let all = Challenge::parse_all(challenge);
        Proof::choose(&all).expect("known").header(user, password, method, uri, cnonce).to_string()
    }

    #[test]
    fn the_examples_of_rfc_7616() {
        for (algorithm, response) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let challenge = EXAMPLE.replace("ALG", algorithm);
            let header = answer(&challenge, "Mufasa", "Circle of Life", "GET", "/dir/index.html", CNONCE);
            assert!(header.contains(&format!("response=\"{response}\"")), "{header}");
            assert!(header.starts_with("Digest username=\"Mufasa\", realm=\"http-auth@example.org\""), "{header}");
            assert!(header.contains(&format!("algorithm={algorithm}, opaque=\"FQhe/qaU925kf")), "{header}");
            assert!(header.ends_with(&format!("qop=auth, nc=00000001, cnonce=\"{CNONCE}\"")), "{header}");
        }
    }

    /// RFC 2069 §2.4 with the response of its erratum 749.
    #[test]
    fn without_qop_as_in_rfc_2069() {
        let challenge = r#"Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41""#;
        let header = answer(challenge, "Mufasa", "CircleOfLife", "GET", "/dir/index.html", "x");
        assert!(header.contains("response=\"1949323746fe6a43ef61f9606e7febea\""), "{header}");
        assert!(!header.contains("cnonce") && !header.contains("algorithm"), "{header}");
    }

    /// Worked out by hand from the formulas of RFC 7616 §3.4.2 with Python's hashlib.
    #[test]
    fn sessions_and_hashed_users() {
        let challenge = r#"Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256-sess, userhash=true"#;
        let header = answer(challenge, "u", "p", "CONNECT", "h:1", "c");
        assert!(header.contains("userhash=true") && header.contains("cnonce=\"c\""), "{header}");
        assert!(header.contains(SESS_RESPONSE) && header.contains(USER_HASH), "{header}");
    }
    const SESS_RESPONSE: &str = "619debf7bea4b756df18901a41ee577b801136819fb488f8560adc84d2049c56";
    const USER_HASH: &str = "1d8a03a6e21a4ce775060ea57360329ac750dea5d847297b42f0d46539af8ab2";

    /// RFC 7617 §2 and §2.1.
    #[test]
    fn the_examples_of_rfc_7617() {
        let header = answer("Basic realm=\"x\"", "Aladdin", "open sesame", "CONNECT", "h:1", "");
        assert_eq!(header, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let header = answer("basic realm=\"foo\", charset=\"UTF-8\"", "test", "123\u{a3}", "CONNECT", "h:1", "");
        assert_eq!(header, "Basic dGVzdDoxMjPCow==");
    }

    #[test]
    fn the_best_is_chosen() {
        let chosen = |text: &str| Proof::choose(&Challenge::parse_all(text));
        let hash = |text: &str| match chosen(text) {
            Some(Proof::Digest(digest)) => Some(digest.hash),
            _ => None,
        };
        let md5 = "Digest realm=\"a, b\", nonce=\"1\", qop=\"auth\"";
        let sha = "Digest realm=a, nonce=2, qop=auth, algorithm=SHA-256";
        assert_eq!(hash(&format!("Basic realm=\"x\", {md5}, {sha}")), Some(Hash::Sha256));
        assert_eq!(hash(&format!("{md5}, Negotiate, NTLM TlRMTVNTUAAB==, Basic realm=x")), Some(Hash::Md5));
        assert_eq!(chosen("Negotiate abc==, NTLM, Basic realm=x"), Some(Proof::Basic));
        assert_eq!(chosen("Negotiate, NTLM"), None);
        assert_eq!(chosen("Digest realm=a, nonce=b, qop=\"auth-int\""), None);
        assert_eq!(chosen("Digest realm=a, nonce=b, algorithm=SHA-512-256, Basic realm=x"), Some(Proof::Basic));
        assert_eq!(chosen("Digest realm=a"), None);
        assert_eq!(chosen(""), None);
    }

    #[test]
    fn challenges_are_read_as_written() {
        let all = Challenge::parse_all("Digest realm=\"a \\\"b\\\", c\" , nonce = \"n\",stale=TRUE, Basic");
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].param("realm"), all[0].param("nonce")), (Some("a \"b\", c"), Some("n")));
        assert!(all[0].is_stale() && !all[1].is_stale());
        for odd in ["=", "a=", ",,,", "\"", "Digest realm=\"", "Digest =x", "a b c d", "Basic realm=\"x\\"] {
            Challenge::parse_all(odd);
        }
        assert!(Challenge::parse_all(&"a ".repeat(1000)).len() <= CHALLENGES_MAX + 1);
    }
}
