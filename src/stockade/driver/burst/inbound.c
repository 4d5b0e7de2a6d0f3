/* From the wire to the TUN device: what `Inbound.receive` and `_open` do, for flows that are decided.
 *
 * An SA's state changes only when a packet is wholly accepted here. What is replayed or forged is handed back with
 * that verdict; what is unusual is handed back sealed as it came, and so is all that follows it on the same SA in
 * the same call, so that the window does not move on before Python has looked at it. Only a packet whose integrity
 * is right has that effect: nobody else can push an SA's packets onto the slow path.
 */
#include "burst.h"

#include <netinet/in.h>
#include <netinet/udp.h>

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { ECN = 3, CAPABLE_1 = 1, CAPABLE_0 = 2, CONGESTION = 3 };

/* The header of an IPv6 packet, which its raw socket leaves out, from what the kernel says about it. */
static uint8_t *with_ipv6_header(burst_t *b, uint32_t slot, size_t *size, uint8_t protocol)
{
    struct msghdr *message = &b->in_messages[slot].msg_hdr;
    const struct in6_pktinfo *info = NULL;
    int hops = -1, class = -1;
    for (struct cmsghdr *each = CMSG_FIRSTHDR(message); each; each = CMSG_NXTHDR(message, each)) {
        if (each->cmsg_level != IPPROTO_IPV6)
            continue;
        if (each->cmsg_type == IPV6_PKTINFO && each->cmsg_len >= CMSG_LEN(sizeof *info))
            info = (const struct in6_pktinfo *)CMSG_DATA(each);
        else if (each->cmsg_type == IPV6_HOPLIMIT && each->cmsg_len >= CMSG_LEN(sizeof hops))
            memcpy(&hops, CMSG_DATA(each), sizeof hops);
        else if (each->cmsg_type == IPV6_TCLASS && each->cmsg_len >= CMSG_LEN(sizeof class))
            memcpy(&class, CMSG_DATA(each), sizeof class);
    }
    const struct sockaddr_in6 *name = (const struct sockaddr_in6 *)&b->in_names[slot];
    if (!info || hops < 0 || class < 0 || *size > 65535 || message->msg_namelen < sizeof *name)
        return NULL;
    uint8_t *header = (uint8_t *)b->in_vectors[slot].iov_base - IPV6_HEADER;
    put32(header, 6u << 28 | (uint32_t)(class & 0xFF) << 20);
    put16(header + 4, (uint16_t)*size);
    header[6] = protocol;
    header[7] = (uint8_t)hops;
    memcpy(header + 8, &name->sin6_addr, 16);
    memcpy(header + 24, &info->ipi6_addr, 16);
    *size += IPV6_HEADER;
    return header;
}

/* As `packets.exchange_payload`: an IPv4 checksum is updated (RFC 1624), so a wrong one stays wrong. */
static void clear_header(uint8_t *to, const uint8_t *packet, const place_t *place, size_t plain, uint8_t protocol)
{
    memcpy(to, packet, place->at);
    if (place->version == 6) {
        put16(to + 4, (uint16_t)plain);
        to[6] = protocol;
        return;
    }
    uint32_t total = place->at + (uint32_t)plain;
    int64_t value = (int64_t)get16(packet + 10) + get16(packet + 2) + packet[9] - total - protocol;
    value %= 65535;
    put16(to + 2, (uint16_t)total);
    to[9] = protocol;
    put16(to + 10, (uint16_t)(value < 0 ? value + 65535 : value));
}

/* As `driver/nat.py`: TCP and UDP computed their checksums over the addresses that the sending host has. */
static void mend_checksum(const sa_t *sa, uint8_t *packet, uint32_t at, size_t size, uint8_t protocol)
{
    if ((protocol != TCP && protocol != UDP) || size < (protocol == TCP ? TCP_HEADER : UDP_HEADER))
        return;
    uint8_t *field = packet + at + (protocol == TCP ? 16 : 6);
    uint32_t old = get16(field);
    if (protocol == UDP && !old)
        return; /* without a checksum (RFC 768) */
    if (sa->mend == MEND_BY_DIFFERENCE) {
        uint32_t value = (old + sa->difference) % 65535;
        put16(field, value ? (uint16_t)value : 0xFFFF);
        return;
    }
    bool is_v4 = packet[0] >> 4 == 4;
    memset(field, 0, 2);
    uint64_t sum = sum_bytes(packet + (is_v4 ? 12 : 8), is_v4 ? 8 : 32) + htons(protocol) + htons((uint16_t)size);
    uint16_t value = checksum_of(sum + sum_bytes(packet + at, size));
    if (!value)
        value = 0xFFFF; /* as there: 65535 - 0 */
    memcpy(field, &value, 2);
}

/* 0 where the packet was dealt with, or the verdict to hand it back with. `packet` is its IP header, `esp` may stand
 * elsewhere. `out` has HEADROOM before it. */
static uint32_t open_esp(burst_t *b, const uint8_t *packet, place_t place, const uint8_t *esp, size_t length, bool udp,
                         uint8_t *out, uint64_t *id)
{
    if (length < ESP_HEADER)
        return PUNTED;
    uint32_t spi;
    memcpy(&spi, esp, 4);
    sa_t *sa = place.version == 4 ? inbound_find(b, packet + 16, 4, spi) : inbound_find(b, packet + 24, 16, spi);
    if (!sa || sa->udp != udp || sa->in[0].held_in == b->call || length < smallest_esp(sa))
        return PUNTED;
    if (udp && memcmp(packet + place.at, &sa->udp_source, 2))
        return PUNTED; /* a NAT has moved the peer, or so it seems: Python looks at it */
    *id = sa->id;
    uint64_t sequence = replay_number(sa, get32(esp + 4));
    if (!replay_check(sa, sequence))
        return REPLAYED;
    uint8_t next_header;
    size_t plain;
    uint64_t began = b->options & OPTION_TIMES ? now_ns() : 0;
    uint8_t *body = sa->tunnel ? out : out + place.at;
    int opened = open_one(sa, esp, length, sequence, body, &next_header, &plain);
    if (began)
        b->result.crypto_ns += now_ns() - began;
    if (opened == 0)
        return INTEGRITY_FAILED;
    flow_key_t key;
    place_t inside = {place.at, next_header, place.version};
    size_t whole = place.at + plain;
    if (opened < 0)
        goto hold;
    if (sa->tunnel) {
        uint8_t class = place.version == 4 ? packet[1] : packet[1] >> 4;
        if ((class & ECN) == CONGESTION || plain < IPV4_HEADER)
            goto hold;
        bool is_v4 = out[0] >> 4 == 4;
        /* As `_joined` in tunnel.py: the other case in which the inner field changes. */
        if ((class & ECN) == CAPABLE_1 && ((is_v4 ? out[1] : out[1] >> 4) & ECN) == CAPABLE_0)
            goto hold;
        whole = is_v4 ? get16(out + 2) : IPV6_HEADER + (size_t)get16(out + 4);
        if (next_header != (is_v4 ? 4 : 41) || whole > plain || !locate(out, whole, &inside))
            goto hold;
    } else {
        if (is_extension(next_header) || whole > 65535)
            goto hold;
        clear_header(out, packet, &place, plain, next_header);
        if (sa->mend)
            mend_checksum(sa, out, place.at, plain, next_header);
    }
    if (!make_key(out, whole, &inside, &key) || flow_find(b, &key, sa) != sa)
        goto hold;
    if (!replay_accept(sa, sequence))
        return REPLAYED;
    touch(b, sa, 1, plain);
    /* By which queue a flow's packets come to us the kernel learns from where ours go in: all of one peer by one, so
     * that two workers seldom want the same SA. */
    if (b->tables->workers)
        b->device = b->tables->queues[sa->queue % b->tables->workers];
    deliver(b, out, whole, &inside);
    return 0;
hold:
    sa->in[0].held_in = b->call;
    return PUNTED;
}

static uint32_t open_packet(burst_t *b, const uint8_t *packet, size_t size, bool udp, uint8_t *out, uint64_t *id)
{
    place_t place;
    if (!locate(packet, size, &place) || place.protocol != (udp ? UDP : ESP))
        return PUNTED;
    const uint8_t *esp = packet + place.at;
    size_t length = size - place.at;
    if (udp) {
        if (length < UDP_HEADER + ESP_HEADER || get16(esp + 4) != length)
            return PUNTED;
        esp += UDP_HEADER;
        length -= UDP_HEADER;
    }
    return open_esp(b, packet, place, esp, length, udp, out, id);
}

/* Take what waits in the socket (at most `SLOTS` packets), open and deliver it. */
int take_inbound(burst_t *b, int sock, int version, bool udp)
{
    uint64_t began = b->options & OPTION_TIMES ? now_ns() : 0;
    result_t *result = &b->result;
    bool headless = version == 6 && !(b->options & OPTION_PLAIN);
    for (uint32_t n = 0; n < SLOTS; n++) {
        struct msghdr *message = &b->in_messages[n].msg_hdr;
        b->in_vectors[n] = (struct iovec){b->in + (size_t)n * IN_SLOT + HEADROOM, PACKET};
        message->msg_name = headless ? &b->in_names[n] : NULL;
        message->msg_namelen = headless ? sizeof b->in_names[n] : 0;
        message->msg_control = headless ? b->controls[n] : NULL;
        message->msg_controllen = headless ? sizeof b->controls[n] : 0;
    }
    int count = recvmmsg(sock, b->in_messages, SLOTS, MSG_DONTWAIT, NULL);
    if (began)
        result->system_ns += now_ns() - began;
    if (count <= 0)
        return 0;
    result->received += (uint32_t)count;
    for (uint32_t n = 0; n < (uint32_t)count; n++) {
        size_t size = b->in_messages[n].msg_len;
        uint8_t *packet = b->in_vectors[n].iov_base;
        uint64_t id = 0;
        if (b->in_messages[n].msg_hdr.msg_flags & MSG_TRUNC)
            continue;
        if (headless && !(packet = with_ipv6_header(b, n, &size, udp ? UDP : ESP)))
            continue;
        uint32_t verdict = open_packet(b, packet, size, udp, b->out + (size_t)n * IN_SLOT + HEADROOM, &id);
        if (verdict)
            result->punt[result->punts++] = (punt_t){(uintptr_t)packet, (uint32_t)size, verdict, id};
    }
    deliver_rest(b);
    return count;
}

/* The IPv4 and UDP header of the datagrams in a slot, from what the kernel says about them. 0, or -1 where it did not
 * say enough. `segment`: bytes of each but the last. */
static int datagram_header(burst_t *b, uint32_t slot, uint8_t header[IPV4_HEADER + UDP_HEADER], size_t *segment)
{
    struct msghdr *message = &b->in_messages[slot].msg_hdr;
    const struct sockaddr_in *name = (const struct sockaddr_in *)&b->in_names[slot];
    const struct in_pktinfo *info = NULL;
    int hops = 64, class = 0, size;
    *segment = b->in_messages[slot].msg_len;
    for (struct cmsghdr *each = CMSG_FIRSTHDR(message); each; each = CMSG_NXTHDR(message, each)) {
        if (each->cmsg_level == IPPROTO_IP && each->cmsg_type == IP_PKTINFO && each->cmsg_len >= CMSG_LEN(sizeof *info))
            info = (const struct in_pktinfo *)CMSG_DATA(each);
        else if (each->cmsg_level == IPPROTO_IP && each->cmsg_type == IP_TTL && each->cmsg_len >= CMSG_LEN(sizeof hops))
            memcpy(&hops, CMSG_DATA(each), sizeof hops);
        else if (each->cmsg_level == IPPROTO_IP && each->cmsg_type == IP_TOS && each->cmsg_len >= CMSG_LEN(1))
            class = *CMSG_DATA(each);
        else if (each->cmsg_level == IPPROTO_UDP && each->cmsg_type == UDP_GRO
                 && each->cmsg_len >= CMSG_LEN(sizeof size)) {
            memcpy(&size, CMSG_DATA(each), sizeof size);
            if (size <= 0)
                return -1;
            *segment = (size_t)size;
        }
    }
    if (!info || message->msg_namelen < sizeof *name || name->sin_family != AF_INET)
        return -1;
    memset(header, 0, IPV4_HEADER + UDP_HEADER);
    header[0] = 0x45;
    header[1] = (uint8_t)class;
    header[8] = (uint8_t)hops;
    header[9] = UDP;
    memcpy(header + 12, &name->sin_addr, 4);
    memcpy(header + 16, &info->ipi_addr, 4);
    memcpy(header + IPV4_HEADER, &name->sin_port, 2);
    put16(header + IPV4_HEADER + 2, NAT_PORT);
    return 0;
}

static void lengths_of(uint8_t *header, size_t length)
{
    put16(header + 2, (uint16_t)(IPV4_HEADER + UDP_HEADER + length));
    put16(header + IPV4_HEADER + 4, (uint16_t)(UDP_HEADER + length));
    memset(header + 10, 0, 2);
    uint16_t sum = checksum_of(sum_bytes(header, IPV4_HEADER));
    memcpy(header + 10, &sum, 2);
}

/* Take what waits in the UDP socket of port 4500 (IPv4), datagrams that the kernel has merged (UDP_GRO) included. */
int take_datagrams(burst_t *b, int sock)
{
    enum { HEADERS = IPV4_HEADER + UDP_HEADER };
    uint64_t began = b->options & OPTION_TIMES ? now_ns() : 0;
    result_t *result = &b->result;
    uint8_t header[HEADERS];
    for (uint32_t n = 0; n < GRO_READS; n++) {
        struct msghdr *message = &b->in_messages[n].msg_hdr;
        b->in_vectors[n] = (struct iovec){b->in + (size_t)n * IN_SLOT + HEADROOM, PACKET};
        message->msg_name = &b->in_names[n];
        message->msg_namelen = sizeof b->in_names[n];
        message->msg_control = b->controls[n];
        message->msg_controllen = sizeof b->controls[n];
    }
    int count = recvmmsg(sock, b->in_messages, GRO_READS, MSG_DONTWAIT, NULL);
    if (began)
        result->system_ns += now_ns() - began;
    if (count <= 0)
        return 0;
    result->received += (uint32_t)count;
    uint8_t *out = b->out, *copy = b->copies, *copies_end = b->copies + (size_t)GRO_READS * COPIES;
    const uint8_t *out_end = b->out + (size_t)SLOTS * IN_SLOT;
    for (uint32_t n = 0; n < (uint32_t)count; n++) {
        const uint8_t *esp = b->in_vectors[n].iov_base;
        size_t left = b->in_messages[n].msg_len, segment;
        if ((b->in_messages[n].msg_hdr.msg_flags & MSG_TRUNC) || datagram_header(b, n, header, &segment) < 0)
            continue;
        for (uint32_t number = 0; left && number < SEGMENTS; number++) {
            size_t length = left < segment ? left : segment;
            uint64_t id = 0;
            /* Key exchange and keepalives, which are not for us (RFC 3948 section 2.2), and what is too long. */
            if (length >= ESP_HEADER && length <= 65535 - HEADERS && get32(esp) != 0
                && out + HEADROOM + HEADERS + length <= out_end) {
                place_t place = {IPV4_HEADER, UDP, 4};
                lengths_of(header, length);
                uint32_t verdict = open_esp(b, header, place, esp, length, true, out + HEADROOM, &id);
                if (!verdict)
                    out += (HEADROOM + HEADERS + length + 15) & ~(size_t)15;
                else if (result->punts < PUNTS && copy + HEADERS + length <= copies_end) {
                    memcpy(copy, header, HEADERS);
                    memcpy(copy + HEADERS, esp, length);
                    result->punt[result->punts++] =
                        (punt_t){(uintptr_t)copy, (uint32_t)(HEADERS + length), verdict, id};
                    copy += HEADERS + length;
                }
            }
            esp += length;
            left -= length;
        }
    }
    deliver_rest(b);
    return count;
}

int burst_inbound(burst_t *b, int sock, int device, int version, int udp)
{
    uint64_t began = b->options & OPTION_TIMES ? now_ns() : 0;
    begin(b, device);
    int count = take_inbound(b, sock, version, udp);
    if (began)
        b->result.total_ns += now_ns() - began;
    return count > 0 ? count : 0;
}

int burst_inbound_gro(burst_t *b, int sock, int device)
{
    uint64_t began = b->options & OPTION_TIMES ? now_ns() : 0;
    begin(b, device);
    int count = take_datagrams(b, sock);
    if (began)
        b->result.total_ns += now_ns() - began;
    return count > 0 ? count : 0;
}
