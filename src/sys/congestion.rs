//! The congestion control of the tunnel's own TCP connections.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::str::FromStr;

use socket2::{Domain, SockRef, Socket, Type};

/// Which one the sending end uses. By default cubic, if the kernel has it and lets us, whatever the system prefers: what
/// crosses is mostly TCP itself, and one that paces or that measures delays takes the queue inside for the way's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Congestion {
    /// `None`: the default.
    asked: Option<String>,
}

impl Congestion {
    /// Sets it for `socket`.
    ///
    /// # Errors
    /// If one was asked for by name and the kernel refuses it.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let name = self.asked.as_deref().unwrap_or(DEFAULT);
        match SockRef::from(socket).set_tcp_congestion(name.as_bytes()) {
            Err(error) if self.asked.is_some() => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether [`Self::apply`] will work on a TCP socket.
    ///
    /// # Errors
    /// Says what to do.
    pub fn check(&self) -> Result<(), String> {
        let tried = Socket::new(Domain::IPV4, Type::STREAM, None).and_then(|socket| self.apply(&socket));
        tried.map_err(|error| {
            format!("congestion control {self}: {error}; sysctl net.ipv4.tcp_allowed_congestion_control lists those to be had")
        })
    }
}

impl fmt::Display for Congestion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.asked.as_deref().unwrap_or(DEFAULT))
    }
}

impl FromStr for Congestion {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        // TCP_CA_NAME_MAX is 16 with the zero behind it.
        let good =
            (1..16).contains(&name.len()) && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-".contains(&c));
        if good {
            Ok(Self { asked: Some(name.to_owned()) })
        } else {
            Err(format!("{name:?} is no name of a congestion control, such as cubic, bbr or reno"))
        }
    }
}

const DEFAULT: &str = "cubic";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_used() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Every kernel has it, and everybody may use it.
        let reno: Congestion = "reno".parse().unwrap();
        reno.check().unwrap();
        reno.apply(&socket).unwrap();
        assert!(socket.tcp_congestion().unwrap().starts_with(b"reno"));
        Congestion::default().apply(&socket).unwrap();
    }

    #[test]
    fn what_cannot_be_is_told() {
        for name in ["", "a/b", "longer-than-sixteen"] {
            assert!(name.parse::<Congestion>().is_err(), "{name}");
        }
        let told = "nosuch".parse::<Congestion>().unwrap().check().unwrap_err();
        assert!(told.contains("nosuch") && told.contains("tcp_allowed_congestion_control"), "{told}");
    }
}
