//! Every frame we decide not to carry has a reason here: one line is variant, label and help text.
#![forbid(unsafe_code)]

macro_rules! reasons {
    ($(#[$outer:meta])* $name:ident { $( $(#[doc = $help:literal])+ $variant:ident = $label:literal, )+ }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $( $(#[doc = $help])+ $variant, )+ }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [$name] = &[ $( $name::$variant, )+ ];

            /// Name in status output and metrics.
            pub const fn label(self) -> &'static str {
                match self { $( $name::$variant => $label, )+ }
            }

            /// What it means and what to do about it.
            pub const fn help(self) -> &'static str {
                match self { $( $name::$variant => concat!($($help),+), )+ }
            }

            /// Index into a table with one place per reason.
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}
pub(crate) use reasons;

reasons! {
    /// Why a frame was not carried.
    DropReason {
        /// Frame shorter than its Ethernet header (14 bytes, 18 with a VLAN tag).
        FrameTooShort = "frame_too_short",
        /// Frame above 1600 bytes, the limit of the protocol.
        FrameTooLong = "frame_too_long",
        /// Compressed frame that does not inflate to at most 1600 bytes.
        FrameInflate = "frame_inflate",
        /// Super-frame whose headers do not say how to cut it into frames.
        FrameNotCuttable = "frame_not_cuttable",
        /// Frame from a port that is not open in this hub (any more).
        HubPortClosed = "hub_port_closed",
        /// Source address is a group address or zero.
        HubGroupSource = "hub_group_source",
        /// Destination lives behind the port the frame came from.
        HubSamePort = "hub_same_port",
        /// Source address was seen behind another port within 13 s and is held for it.
        HubMacHeld = "hub_mac_held",
        /// The port has as many source addresses as its profile or policy allows.
        HubMacLimit = "hub_mac_limit",
        /// Destination 01-80-C2-00-00-00 to 0F, which a bridge does not forward.
        HubReservedGroup = "hub_reserved_group",
        /// Unknown destination, in a hub that does not flood such frames.
        HubUnknownUnicast = "hub_unknown_unicast",
        /// Chatter protocol (NetBIOS, LLMNR, SSDP, mDNS) that this hub does not flood.
        HubChatter = "hub_chatter",
        /// More flooded frames (broadcast, multicast, unknown destination) than the port may send.
        HubStorm = "hub_storm",
        /// A policy of the port refuses this frame.
        HubPolicy = "hub_policy",
        /// VLAN that the port does not carry.
        HubVlan = "hub_vlan",
        /// Both ends have the privacy filter, or the hub isolates its members.
        HubPrivacy = "hub_privacy",
        /// DHCP server message from a port that may not serve.
        HubDhcpServer = "hub_dhcp_server",
        /// Router advertisement from a port that may not route.
        HubRouterAdvert = "hub_router_advert",
        /// IPv6, in a hub that does not carry it between members or for a member whose policy refuses it.
        HubIpv6 = "hub_ipv6",
        /// More answers of the gateway than fit behind what one member sent at once.
        GatewayAnswersFull = "gateway_answers_full",
        /// DHCP answer given up because the lease file is written too slowly.
        GatewayJournalSlow = "gateway_journal_slow",
        /// Packet from outside for a member who has gone.
        NatNoMember = "nat_no_member",
        /// Packet from outside that is for none of the public addresses and ports.
        NatNotOurs = "nat_not_ours",
        /// Packet from outside that claims to come from inside, from an address of ours or from nowhere.
        NatForgedSource = "nat_forged_source",
        /// Packet for the Internet in a hub that has no way there.
        NatNoLane = "nat_no_lane",
        /// Too many packets from member to member by public addresses at once.
        NatHairpinFull = "nat_hairpin_full",
        /// A defect of this server at the gateway, contained to this packet. Please report it.
        RouterDefect = "router_defect",
        /// The port it was for closed before the frame reached it.
        EgressPortGone = "egress_port_gone",
        /// The egress queue of the port is full: its member reads too slowly. The flow with the most in it pays.
        EgressQueueFull = "egress_queue_full",
        /// Frames of this flow wait too long for their member: one is dropped now and then, so that TCP slows down.
        EgressLate = "egress_late",
        /// The worker has no frame storage left: many members read too slowly.
        EgressPoolEmpty = "egress_pool_empty",
        /// The session has no connection that may send.
        EgressNoConnection = "egress_no_connection",
        /// The connection was closed before the frame had left.
        EgressConnectionLost = "egress_connection_lost",
        /// The mailbox to another worker is full: that worker is overloaded.
        MailboxFull = "mailbox_full",
        /// For the gateway, with a header that lies, a wrong checksum or bytes missing.
        GatewayMalformed = "gateway_malformed",
        /// To the gateway from a port, MAC and address that have no lease together.
        GatewayNotBound = "gateway_not_bound",
        /// To everybody or to a service the gateway does not have: IGMP, discovery, IPv6; ARP for addresses of nobody.
        GatewayIgnored = "gateway_ignored",
        /// Fragment to the gateway, which takes whole packets only.
        GatewayFragment = "gateway_fragment",
        /// Sent to the gateway for another member, whom the sender reaches directly or not at all.
        GatewayInside = "gateway_inside",
        /// ARP that claims the gateway's address or the leased address of somebody else.
        GatewayArpClaim = "gateway_arp_claim",
        /// More questions by ARP, echo requests or packets to closed ports than are answered a session, or the hub, each second.
        GatewayRate = "gateway_rate",
        /// The gateway has no room for another session's limits.
        GatewaySessions = "gateway_sessions",
        /// To a port of the gateway where nobody listens: refused by a reset or "port unreachable".
        GatewayPortClosed = "gateway_port_closed",
        /// TCP connection to the gateway beyond what it, or a session, may have.
        GatewayTcpFull = "gateway_tcp_full",
        /// No question that the DNS forwarder could understand.
        GatewayDnsMalformed = "gateway_dns_malformed",
        /// More DNS questions than a session may ask each second.
        GatewayDnsRate = "gateway_dns_rate",
        /// Too many DNS questions wait for answers.
        GatewayDnsBusy = "gateway_dns_busy",
        /// DNS question sent again while its answer is on the way.
        GatewayDnsRepeated = "gateway_dns_repeated",
        /// DNS answer for which nobody waits any more.
        GatewayDnsLate = "gateway_dns_late",
        /// DNS answer to another question than was asked.
        GatewayDnsForged = "gateway_dns_forged",
        /// DHCP message that is truncated, has lengths that lie, no end, or options that contradict each other.
        DhcpMalformed = "dhcp_malformed",
        /// DHCP message for another card than the one that sent it.
        DhcpSourceMac = "dhcp_source_mac",
        /// DHCP message relayed by a member, or for a network that is not the gateway's.
        DhcpRelay = "dhcp_relay",
        /// DHCP message for another server.
        DhcpOtherServer = "dhcp_other_server",
        /// DHCP message about an address that this client does not have, which RFC 2131 leaves without answer.
        DhcpUnknownClient = "dhcp_unknown_client",
        /// No address is left in the pool for this client.
        DhcpPoolEmpty = "dhcp_pool_empty",
        /// The client changes its lease, or declines addresses, more often than makes sense.
        DhcpRate = "dhcp_rate",
        /// NAT: IP header that lies about length or checksum or has a source route, or a payload shorter than its header.
        NatMalformed = "nat_malformed",
        /// NAT: protocol other than TCP, UDP and ICMP.
        NatProtocol = "nat_protocol",
        /// NAT: source address that was not leased to the sender.
        NatSource = "nat_source",
        /// NAT: ICMP type that is not translated.
        NatIcmpType = "nat_icmp_type",
        /// NAT: ICMP error with a bad checksum, or about a packet of no flow.
        NatIcmpError = "nat_icmp_error",
        /// NAT: time to live used up.
        NatTtl = "nat_ttl",
        /// NAT: longer than the next link carries, and not to be fragmented.
        NatTooBig = "nat_too_big",
        /// NAT: destination that the egress policy closes.
        NatPolicy = "nat_policy",
        /// NAT: the member has as many mappings as he may.
        NatPortLimit = "nat_port_limit",
        /// NAT: the member has as many flows as he may.
        NatFlowLimit = "nat_flow_limit",
        /// NAT: the member began more flows in a second than he may.
        NatFlowRate = "nat_flow_rate",
        /// NAT: the member began flows to more destinations in a minute than he may.
        NatScan = "nat_scan",
        /// NAT: no external port is left for this flow.
        NatExhausted = "nat_exhausted",
        /// NAT: the tables of the worker are full.
        NatTableFull = "nat_table_full",
        /// NAT: from outside to a port that has no mapping.
        NatNoMapping = "nat_no_mapping",
        /// NAT: from outside, from somebody the mapping has not sent to.
        NatFiltered = "nat_filtered",
        /// NAT: TCP segment of no known connection that does not open one.
        NatNoFlow = "nat_no_flow",
        /// NAT: fragment that overlaps others, is too small, or comes too late for them.
        NatFragment = "nat_fragment",
        /// NAT: no room for another fragment.
        NatFragmentLimit = "nat_fragment_limit",
        /// To the Internet: the device or its socket took no more.
        LaneTxFull = "lane_tx_full",
        /// To the Internet: the device is down or gone.
        LaneTxDown = "lane_tx_down",
        /// To the Internet: the kernel refused the frame.
        LaneTxRefused = "lane_tx_refused",
        /// To the Internet: longer than the device carries.
        LaneTxTooLong = "lane_tx_too_long",
        /// To the Internet: no whole IPv4 packet.
        LaneTxMalformed = "lane_tx_malformed",
        /// To the Internet: its public address is still being asked for, or somebody else there uses it.
        LaneTxUnclaimed = "lane_tx_unclaimed",
        /// To the Internet: nothing says which next hop leads there; set next_hop.
        LaneTxNoRoute = "lane_tx_no_route",
        /// To the Internet: the next hop does not answer ARP.
        LaneTxNoNeighbour = "lane_tx_no_neighbour",
        /// To the Internet: too many packets wait for the next hop to answer ARP.
        LaneTxWaitingFull = "lane_tx_waiting_full",
        /// From the Internet: lost in the kernel because the worker read too slowly.
        LaneRxOverflow = "lane_rx_overflow",
        /// From the Internet: cut off, or no whole IPv4 packet.
        LaneRxMalformed = "lane_rx_malformed",
        /// From the Internet: neither IPv4 nor ARP.
        LaneRxForeign = "lane_rx_foreign",
    }
}
