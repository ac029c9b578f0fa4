// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The XDP program of the lane: decides for each frame that a network card receives whether it is the lane's or the
// host's. What is the lane's goes straight to the AF_XDP socket of its queue; the host's stack never sees it.
// Everything else passes.
//
// All that can change lies in maps, so the program is loaded and attached once. README.md beside this file has the
// layout of the maps and the decisions as a table. Built by scripts/xdp; lane.o is in version control.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

// The object is built for little endian only, and the loader refuses it elsewhere.
#define htons(number) __builtin_bswap16(number)
#define ntohs(number) __builtin_bswap16(number)

// ---- what the kernel offers -----------------------------------------------------------------------------------------

static void *(*map_lookup)(const void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*redirect_map)(const void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;

// ---- maps -----------------------------------------------------------------------------------------------------------

// The loader creates what it finds in the section "maps", by these five numbers and the name of the symbol.
struct map {
    __u32 type;
    __u32 key_size;
    __u32 value_size;
    __u32 entries;
    __u32 flags;
};

enum { DEDICATED = 1, SOURCES = 2 };

struct config {
    __u8 mac[ETH_ALEN]; // of this card
    __u16 vlan;         // whose frames the lane takes; 0: untagged
    __u32 flags;        // DEDICATED: the addresses are the lane's alone; SOURCES: look into that map
};

struct prefix {
    __u32 bits;
    __be32 address;
};

// Bitmaps of 65,536 bits each in the map "ports", one behind the other.
enum { TCP_PORTS, UDP_PORTS, IDENTIFIERS, BITMAPS };
enum { WORD_BITS = 64, BITMAP_WORDS = 65536 / WORD_BITS };

// What happened to a frame: place of its counter in the map "counts".
enum decision {
    PASSED,        // to the host
    MALFORMED,     // to the host: a header is cut off or impossible
    LISTED_SOURCE, // dropped
    NO_SOCKET,     // dropped: the lane's, but its queue has no socket
    TCP,           // from here on: to the lane
    UDP,
    ICMP,
    OTHER_PROTOCOL,
    FRAGMENT,
    ARP,
    DECISIONS,
};

SECTION("maps") struct map config = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct config), 1, 0};
SECTION("maps") struct map addresses = {BPF_MAP_TYPE_HASH, 4, 4, 1024, 0};
SECTION("maps") struct map ports = {BPF_MAP_TYPE_ARRAY, 4, 8, BITMAPS * BITMAP_WORDS, 0};
SECTION("maps") struct map sources = {BPF_MAP_TYPE_LPM_TRIE, sizeof(struct prefix), 4, 65536, BPF_F_NO_PREALLOC};
SECTION("maps") struct map sockets = {BPF_MAP_TYPE_XSKMAP, 4, 4, 256, 0};
SECTION("maps") struct map counts = {BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, DECISIONS, 0};

// ---- headers that <linux/...> has no handy form of ------------------------------------------------------------------

struct tag {
    __be16 control; // priority (3 bits), drop eligible (1), VLAN (12)
    __be16 protocol;
};

struct arp {
    __u8 forms[6]; // of hardware and protocol addresses
    __be16 operation;
    __u8 sender_mac[ETH_ALEN];
    __be32 sender;
    __u8 target_mac[ETH_ALEN];
    __be32 target;
} __attribute__((packed));

struct ports {
    __be16 source;
    __be16 destination;
};

struct icmp {
    __u8 type;
    __u8 code;
    __be16 checksum;
    __be16 identifier; // of queries and answers
    __be16 sequence;
};

enum { ECHO_REPLY = 0, UNREACHABLE = 3, TIME_EXCEEDED = 11, PARAMETER_PROBLEM = 12, TIMESTAMP_REPLY = 14 };
enum { MORE_FRAGMENTS = 0x2000, FRAGMENT_OFFSET = 0x1fff };

// ---- questions to the maps ------------------------------------------------------------------------------------------

INLINE int is_ours(__be32 address)
{
    return map_lookup(&addresses, &address) != 0;
}

// Whether the lane has this port or identifier (in network order) of the host's own addresses.
INLINE int has_number(__u32 bitmap, __be16 number)
{
    __u32 at = ntohs(number);
    __u32 key = bitmap * BITMAP_WORDS + at / WORD_BITS;
    const __u64 *word = map_lookup(&ports, &key);
    return word && (*word >> at % WORD_BITS & 1);
}

INLINE int is_listed(__be32 address)
{
    struct prefix key = {32, address};
    return map_lookup(&sources, &key) != 0;
}

INLINE void count(__u32 decision)
{
    __u64 *counter = map_lookup(&counts, &decision);
    if (counter)
        *counter += 1; // this CPU's own
}

// ---- decisions ------------------------------------------------------------------------------------------------------
//
// Every header is compared with the frame's end before it is read: the verifier insists.

INLINE enum decision decide_ports(enum decision protocol, __u32 bitmap, const void *at, const void *end)
{
    const struct ports *l4 = at;
    if ((const void *)(l4 + 1) > end)
        return MALFORMED;
    return has_number(bitmap, l4->destination) ? protocol : PASSED;
}

// An error of ICMP carries the begin of the packet it is about: one that was sent from here.
INLINE enum decision decide_inner(const void *at, const void *end)
{
    const struct iphdr *inner = at;
    if ((const void *)(inner + 1) > end || inner->version != 4 || inner->ihl < 5)
        return MALFORMED;
    if (!is_ours(inner->saddr))
        return PASSED;
    // Only a first fragment has ports.
    if (inner->frag_off & htons(FRAGMENT_OFFSET))
        return PASSED;
    const void *l4 = at + inner->ihl * 4;
    __u8 protocol = inner->protocol;
    if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
        const struct ports *sent = l4;
        if ((const void *)(sent + 1) > end)
            return MALFORMED;
        return has_number(protocol == IPPROTO_TCP ? TCP_PORTS : UDP_PORTS, sent->source) ? ICMP : PASSED;
    }
    if (protocol == IPPROTO_ICMP) {
        const struct icmp *sent = l4;
        if ((const void *)(sent + 1) > end)
            return MALFORMED;
        return has_number(IDENTIFIERS, sent->identifier) ? ICMP : PASSED;
    }
    return PASSED;
}

INLINE enum decision decide_icmp(const void *at, const void *end)
{
    const struct icmp *icmp = at;
    if ((const void *)(icmp + 1) > end)
        return MALFORMED;
    switch (icmp->type) {
    case ECHO_REPLY:
    case TIMESTAMP_REPLY:
        return has_number(IDENTIFIERS, icmp->identifier) ? ICMP : PASSED;
    case UNREACHABLE:
    case TIME_EXCEEDED:
    case PARAMETER_PROBLEM:
        return decide_inner(icmp + 1, end);
    default:
        return PASSED;
    }
}

INLINE enum decision decide_ip(const struct config *config, const void *at, const void *end)
{
    const struct iphdr *ip = at;
    if ((const void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
        return MALFORMED;
    const void *l4 = at + ip->ihl * 4;
    if (l4 > end)
        return MALFORMED;
    if (config->flags & SOURCES && is_listed(ip->saddr))
        return LISTED_SOURCE;
    if (!is_ours(ip->daddr))
        return PASSED;
    // Fragments but the first have no ports, so whose they are is known only when all are there.
    if (ip->frag_off & htons(MORE_FRAGMENTS | FRAGMENT_OFFSET))
        return FRAGMENT;
    int dedicated = config->flags & DEDICATED;
    switch (ip->protocol) {
    case IPPROTO_TCP:
        return dedicated ? TCP : decide_ports(TCP, TCP_PORTS, l4, end);
    case IPPROTO_UDP:
        return dedicated ? UDP : decide_ports(UDP, UDP_PORTS, l4, end);
    case IPPROTO_ICMP:
        return dedicated ? ICMP : decide_icmp(l4, end);
    default:
        return dedicated ? OTHER_PROTOCOL : PASSED;
    }
}

// For an address that the host has too, the host does ARP. For one of its own the lane gets what asks for it, what
// answers it, and what somebody else sends in its name.
INLINE enum decision decide_arp(const struct config *config, const void *at, const void *end)
{
    const struct arp *arp = at;
    if (!(config->flags & DEDICATED))
        return PASSED;
    if ((const void *)(arp + 1) > end)
        return MALFORMED;
    return is_ours(arp->target) || is_ours(arp->sender) ? ARP : PASSED;
}

INLINE int is_mac(const __u8 *mac, const __u8 *other)
{
    int differ = 0;
    for (int i = 0; i < ETH_ALEN; i++)
        differ |= mac[i] ^ other[i];
    return !differ;
}

INLINE int is_broadcast(const __u8 *mac)
{
    int all = 0xff;
    for (int i = 0; i < ETH_ALEN; i++)
        all &= mac[i];
    return all == 0xff;
}

INLINE enum decision decide(const void *at, const void *end)
{
    __u32 key = 0;
    const struct config *settings = map_lookup(&config, &key);
    const struct ethhdr *ethernet = at;
    if (!settings || (const void *)(ethernet + 1) > end)
        return MALFORMED;
    __be16 protocol = ethernet->h_proto;
    const void *next = ethernet + 1;
    // A tag of VLAN 0 has a priority only. Two tags that name a VLAN each are a VLAN inside another: not ours.
    __u16 vlan = 0;
    for (int tags = 0; tags < 2; tags++) {
        if (protocol != htons(ETH_P_8021Q) && protocol != htons(ETH_P_8021AD))
            break;
        const struct tag *tag = next;
        if ((const void *)(tag + 1) > end)
            return MALFORMED;
        __u16 named = ntohs(tag->control) & 0xfff;
        if (vlan && named)
            return PASSED;
        vlan |= named;
        protocol = tag->protocol;
        next = tag + 1;
    }
    if (vlan != settings->vlan)
        return PASSED;
    int to_card = is_mac(ethernet->h_dest, settings->mac);
    // A packet to one host in a frame to all is nobody's (RFC 1122, 3.3.6); the host knows that too.
    if (protocol == htons(ETH_P_IP) && to_card)
        return decide_ip(settings, next, end);
    if (protocol == htons(ETH_P_ARP) && (to_card || is_broadcast(ethernet->h_dest)))
        return decide_arp(settings, next, end);
    return PASSED;
}

// "frags": takes frames of several buffers, of which it sees the first; headers lie there.
SECTION("xdp.frags") int lane(struct xdp_md *frame)
{
    enum decision decision = decide((const void *)(long)frame->data, (const void *)(long)frame->data_end);
    int action = XDP_PASS;
    if (decision == LISTED_SOURCE)
        action = XDP_DROP;
    if (decision >= TCP) {
        // Without a socket it is dropped: the host would answer packets for the lane's ports with resets.
        action = redirect_map(&sockets, frame->rx_queue_index, XDP_DROP);
        if (action != XDP_REDIRECT)
            decision = NO_SOCKET;
    }
    count(decision);
    return action;
}

// No helper above asks for the GPL.
SECTION("license") const char licence[] = "MIT";
