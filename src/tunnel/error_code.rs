//! Error numbers of the protocol (note §3.5). There is no text on the wire: the client renders its
//! own, so the number is all we can say.
#![forbid(unsafe_code)]

macro_rules! error_codes {
    ($( $(#[doc = $help:literal])+ $variant:ident = $number:literal, )+) => {
        /// What a server refuses with. Numbers that only clients or functions we lack would use are
        /// left out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $( $(#[doc = $help])+ $variant, )+ }

        impl ErrorCode {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];

            /// The number on the wire.
            pub const fn number(self) -> u32 {
                match self { $( Self::$variant => $number, )+ }
            }

            /// From the number on the wire; `None` if it is not one of ours.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $( $number => Some(Self::$variant), )+ _ => None }
            }

            /// What it means.
            pub const fn help(self) -> &'static str {
                match self { $( Self::$variant => concat!($($help),+).trim_ascii(), )+ }
            }
        }
    };
}

error_codes! {
    /// Protocol error: a field is missing, or the message does not belong here.
    Protocol = 4,
    /// The peer did not send a VPN signature.
    NotVpnClient = 5,
    /// This kind of authentication is not offered.
    AuthTypeNotSupported = 7,
    /// There is no such hub.
    HubNotFound = 8,
    /// Unknown user or wrong secret; which of them is not told.
    AuthFailed = 9,
    /// The hub is offline.
    HubStopping = 10,
    /// The session was removed.
    SessionRemoved = 11,
    /// The user may not log in here, or no longer.
    AccessDenied = 12,
    /// The session does not exist any more; the client logs in again.
    SessionTimeout = 13,
    /// The connection does not fit the session's transport.
    InvalidProtocol = 14,
    /// The session has all the connections it may have.
    TooManyConnections = 15,
    /// The hub has all the sessions it may have.
    HubBusy = 16,
    /// This user has all the sessions he may have.
    TooManySessionsOfUser = 20,
    /// Internal error of the server.
    Internal = 23,
    /// The object does not exist.
    ObjectNotFound = 29,
    /// The function is not supported.
    NotSupported = 33,
    /// A parameter is invalid.
    InvalidParameter = 38,
    /// A value is invalid.
    InvalidValue = 45,
    /// The server is not the controller of a cluster.
    NotFarmController = 46,
    /// An empty password works from the server's own machine only.
    EmptyPasswordLocalOnly = 51,
    /// Not enough rights.
    NotEnoughRights = 52,
    /// There is no such listener.
    ListenerNotFound = 53,
    /// There is such a listener already.
    ListenerExists = 54,
    /// There is such a hub already.
    HubExists = 57,
    /// The server has all the hubs it may have.
    TooManyHubs = 58,
    /// There is such a cascade already.
    CascadeExists = 59,
    /// The cascade is offline.
    CascadeOffline = 61,
    /// The hub has all the access lists it may have.
    TooManyAccessLists = 62,
    /// The hub has all the users it may have.
    TooManyUsers = 63,
    /// The hub has all the groups it may have.
    TooManyGroups = 64,
    /// There is no such group.
    GroupNotFound = 65,
    /// There is such a user already.
    UserExists = 66,
    /// There is such a group already.
    GroupExists = 67,
    /// The user does not log in by a password of ours, so it cannot be changed here.
    UserNotPasswordType = 68,
    /// The old password is wrong.
    OldPasswordWrong = 69,
    /// The cascade's own session cannot be disconnected.
    CascadeSession = 73,
    /// Already online.
    AlreadyOnline = 75,
    /// Already offline.
    AlreadyOffline = 76,
    /// The SecureNAT session cannot be disconnected.
    SecureNatSession = 78,
    /// SecureNAT is not running.
    SecureNatNotRunning = 80,
    /// The bridge's own session cannot be disconnected.
    BridgeSession = 82,
    /// The client is too old for this hub.
    ClientTooOld = 87,
    /// The virtual router's session cannot be disconnected.
    RouterSession = 91,
    /// A name has characters that are not allowed.
    InvalidName = 94,
    /// The server does not accept connections now.
    CannotAccept = 105,
    /// Monitor mode is not allowed for this user.
    MonitorModeDenied = 107,
    /// Bridging and routing are not allowed for this user.
    BridgeModeDenied = 108,
    /// The client's address is not allowed.
    SourceAddressDenied = 109,
    /// Too many items.
    TooManyItems = 110,
    /// The server is out of memory.
    OutOfMemory = 111,
    /// The object exists already.
    ObjectExists = 112,
    /// Fatal error of the server.
    Fatal = 113,
    /// The client must tell an id.
    ClientIdRequired = 127,
    /// Too many users were created.
    TooManyUsersCreated = 128,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_come_back() {
        assert!(ErrorCode::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
            assert!(code.help().ends_with('.') && !code.help().starts_with(' '), "{code:?}");
        }
        assert_eq!(ErrorCode::from_number(0), None);
    }

    #[test]
    fn codes_that_clients_react_to() {
        let table = [
            (ErrorCode::AuthFailed, 9),
            (ErrorCode::HubStopping, 10),
            (ErrorCode::SessionTimeout, 13),
            (ErrorCode::TooManyConnections, 15),
            (ErrorCode::HubBusy, 16),
            (ErrorCode::TooManySessionsOfUser, 20),
        ];
        for (code, number) in table {
            assert_eq!(code.number(), number);
        }
    }
}
