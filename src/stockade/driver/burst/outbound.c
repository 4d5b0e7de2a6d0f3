/* From the TUN device to the wire: what `Outbound._seal` and `_seal_tunnel` do, for flows that are decided. */
#include "burst.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

enum { GSO_UDP = 5, GSO_KIND = 0x7F }; /* of virtio_net_hdr */
enum { NEEDS_CHECKSUM = 1, UDP_CHECKSUM = 6, SEND_WAIT_MS = 50, SYN_URG = 0x22, FIN_PSH = 0x09, CWR = 0x80 };

static void drop_or_hand_back(burst_t *b, uint32_t slot)
{
    result_t *result = &b->result;
    size_t size = b->out_vectors[slot].iov_len;
    if (result->unsent == UNSENT) {
        result->dropped++;
        return;
    }
    uint8_t *copy = b->unsent + (size_t)result->unsent * SEND_SLOT;
    memcpy(copy, b->out_vectors[slot].iov_base, size);
    result->not_sent[result->unsent++] = (punt_t){(uintptr_t)copy, (uint32_t)size, PUNTED, 0};
}

/* Slots `from` to `end`, as they are. */
static void send_raw(burst_t *b, uint32_t from, uint32_t end)
{
    int sock = b->send[b->filled_version == 6];
    bool waited = false;
    while (from < end) {
        int sent = sendmmsg(sock, b->out_messages + from, end - from, 0);
        if (sent > 0) {
            from += (uint32_t)sent;
            waited = false;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN && !waited) {
            struct pollfd entry = {sock, POLLOUT, 0};
            waited = true;
            if (poll(&entry, 1, SEND_WAIT_MS) > 0)
                continue;
            b->result.dropped++;
        } else if (errno == EMSGSIZE)
            drop_or_hand_back(b, from);
        else
            b->result.dropped++;
        waited = false;
        from++;
    }
}

/* Where the run of datagrams ends that begins in slot `from` and can be one send: to the same port, with the same
 * header, of one size but the last, which may be shorter. */
static uint32_t gso_end(const burst_t *b, uint32_t from)
{
    const uint8_t *first = b->out_vectors[from].iov_base;
    size_t size = b->out_vectors[from].iov_len, total = size;
    uint32_t end = from + 1;
    while (end < b->filled && b->for_udp[end] && end - from < MAXIMUM_GSO) {
        const uint8_t *next = b->out_vectors[end].iov_base;
        size_t length = b->out_vectors[end].iov_len;
        if (length > size || total + length > MAXIMUM_JOINED || next[1] != first[1] || next[8] != first[8]
            || memcmp(next + 12, first + 12, 12) != 0)
            break;
        total += length;
        end++;
        if (length < size)
            break;
    }
    return end;
}

static void add_control(struct msghdr *message, int level, int kind, const void *data, size_t size)
{
    struct cmsghdr *control = (struct cmsghdr *)((uint8_t *)message->msg_control + message->msg_controllen);
    control->cmsg_level = level;
    control->cmsg_type = kind;
    control->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(control), data, size);
    message->msg_controllen += CMSG_SPACE(size);
}

/* ESP in UDP, many datagrams a call: the kernel takes them through its layers as one (UDP_SEGMENT), and where the
 * receiver is on the same machine or its interface can merge, they arrive as one. False where it would not: then
 * they are sent one by one. */
static bool send_gso(burst_t *b, uint32_t from, uint32_t end)
{
    enum { HEADERS = IPV4_HEADER + UDP_HEADER };
    const uint8_t *first = b->out_vectors[from].iov_base;
    struct iovec parts[MAXIMUM_GSO];
    for (uint32_t n = from; n < end; n++)
        parts[n - from] = (struct iovec){(uint8_t *)b->out_vectors[n].iov_base + HEADERS,
                                         b->out_vectors[n].iov_len - HEADERS};
    struct sockaddr_in to = {.sin_family = AF_INET};
    memcpy(&to.sin_addr, first + 16, 4);
    memcpy(&to.sin_port, first + IPV4_HEADER + 2, 2);
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(struct in_pktinfo)) + 2 * CMSG_SPACE(sizeof(int)) + CMSG_SPACE(2)];
    } control;
    memset(&control, 0, sizeof control);
    struct msghdr message = {
        .msg_name = &to, .msg_namelen = sizeof to, .msg_iov = parts, .msg_iovlen = end - from, .msg_control = &control};
    struct in_pktinfo source = {0};
    memcpy(&source.ipi_spec_dst, first + 12, 4);
    int class = first[1], hops = first[8];
    uint16_t segment = (uint16_t)parts[0].iov_len;
    add_control(&message, IPPROTO_IP, IP_PKTINFO, &source, sizeof source);
    add_control(&message, IPPROTO_IP, IP_TOS, &class, sizeof class);
    add_control(&message, IPPROTO_IP, IP_TTL, &hops, sizeof hops);
    if (end - from > 1)
        add_control(&message, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment);
    for (int tries = 0; tries < 3; tries++) {
        if (sendmsg(b->udp, &message, 0) >= 0)
            return true;
        if (errno == EAGAIN) {
            struct pollfd entry = {b->udp, POLLOUT, 0};
            if (poll(&entry, 1, SEND_WAIT_MS) <= 0)
                break;
        } else if (errno == ENOBUFS || errno == EPERM)
            break;
        else if (errno != EINTR)
            return false;
    }
    b->result.dropped += end - from;
    return true;
}

static void flush(burst_t *b)
{
    uint64_t began = b->options & OPTION_TIMES ? now_ns() : 0;
    for (uint32_t from = 0, end; from < b->filled; from = end) {
        if (b->for_udp[from]) {
            end = gso_end(b, from);
            if (send_gso(b, from, end))
                continue;
        } else
            for (end = from + 1; end < b->filled && !b->for_udp[end]; end++)
                ;
        send_raw(b, from, end);
    }
    b->filled = 0;
    if (began)
        b->result.system_ns += now_ns() - began;
}

static void let_go(burst_t *b)
{
    while (b->taken_count)
        pthread_mutex_unlock(&b->taken[--b->taken_count]->lock);
}

/* Have the SA for this thread alone until its packets are sent: no number is used twice, and they leave in the order of
 * their numbers, as a narrow replay window wants it. Nobody waits for one SA while holding another. */
static void take_sa(burst_t *b, sa_t *sa)
{
    if (!b->tables->workers)
        return;
    for (uint32_t n = 0; n < b->taken_count; n++)
        if (b->taken[n] == sa)
            return;
    if (b->taken_count == READS || pthread_mutex_trylock(&sa->lock)) {
        flush(b);
        let_go(b);
        pthread_mutex_lock(&sa->lock);
    }
    b->taken[b->taken_count++] = sa;
}

/* Where the next sealed packet is to stand. */
static uint8_t *next_slot(burst_t *b, int version)
{
    if (b->filled == SLOTS || (b->filled && b->filled_version != version))
        flush(b);
    b->filled_version = version;
    return b->out + (size_t)b->filled * SEND_SLOT;
}

static void slot_done(burst_t *b, const uint8_t *packet, size_t size)
{
    uint32_t slot = b->filled++;
    struct msghdr *message = &b->out_messages[slot].msg_hdr;
    b->out_vectors[slot].iov_len = size;
    /* The kernel makes the header of what goes by the UDP socket, and sets "don't fragment". */
    b->for_udp[slot] = b->udp >= 0 && b->filled_version == 4 && packet[9] == UDP && packet[0] == 0x45
                       && (packet[6] & 0x40) && get16(packet + IPV4_HEADER) == NAT_PORT;
    if (b->options & OPTION_PLAIN)
        return;
    struct sockaddr_storage *name = &b->out_names[slot];
    memset(name, 0, sizeof *name);
    if (b->filled_version == 4) {
        struct sockaddr_in *to = (struct sockaddr_in *)name;
        to->sin_family = AF_INET;
        memcpy(&to->sin_addr, packet + 16, 4);
        message->msg_namelen = sizeof *to;
    } else {
        struct sockaddr_in6 *to = (struct sockaddr_in6 *)name;
        to->sin6_family = AF_INET6;
        memcpy(&to->sin6_addr, packet + 24, 16);
        message->msg_namelen = sizeof *to;
    }
    message->msg_name = name;
}

static void finish_ipv4(uint8_t *header, size_t size, size_t total, uint16_t number, uint8_t protocol)
{
    put16(header + 2, (uint16_t)total);
    put16(header + 4, number);
    header[9] = protocol;
    memset(header + 10, 0, 2);
    uint16_t sum = checksum_of(sum_bytes(header, size));
    memcpy(header + 10, &sum, 2);
}

/* The IP header of the packet before `upper`, with this protocol and so many bytes behind it. */
static void inner_header(uint8_t *to, const uint8_t *from, const place_t *place, size_t behind, uint32_t number,
                         uint8_t protocol)
{
    memcpy(to, from, place->at);
    if (place->version == 4) {
        finish_ipv4(to, place->at, place->at + behind, (uint16_t)(get16(from + 4) + number), protocol);
    } else {
        put16(to + 4, (uint16_t)behind);
        to[6] = protocol;
    }
}

/* As `tunnel.outer_header`. */
static void outer_header(sa_t *sa, uint8_t *to, const uint8_t *inner, size_t behind, uint8_t protocol, bool first)
{
    uint8_t class = inner[0] >> 4 == 4 ? inner[1] : (uint8_t)((inner[0] & 15) << 4 | inner[1] >> 4);
    sa->number = (sa->number + 1) & 0xFFFF;
    if (sa->version == 4) {
        memset(to, 0, IPV4_HEADER);
        to[0] = 0x45;
        to[1] = class;
        to[6] = inner[0] >> 4 == 4 ? inner[6] & 0x40 : 0;
        to[8] = 64;
        memcpy(to + 12, sa->source, 4);
        memcpy(to + 16, sa->destination, 4);
        uint16_t number = (uint16_t)sa->number;
        finish_ipv4(to, IPV4_HEADER, IPV4_HEADER + behind, first && !number ? 1 : number, protocol);
    } else {
        put32(to, 6u << 28 | (uint32_t)class << 20);
        put16(to + 4, (uint16_t)behind);
        to[6] = protocol;
        to[7] = 64;
        memcpy(to + 8, sa->source, 16);
        memcpy(to + 24, sa->destination, 16);
    }
}

typedef struct {
    const uint8_t *packet;
    place_t place;
    sa_t *sa;
} work_t;

/* Where the clear text of the next packet is to stand in its slot. */
static uint8_t *plain_place(burst_t *b, const work_t *work, uint8_t **slot)
{
    const sa_t *sa = work->sa;
    *slot = next_slot(b, sa->version);
    size_t outer = !sa->tunnel ? work->place.at : sa->version == 4 ? IPV4_HEADER : IPV6_HEADER;
    return *slot + outer + (sa->udp ? UDP_HEADER : 0) + ESP_HEADER + sa->iv_size;
}

/* Seal what stands in the slot and put the headers around it. `number`: how many of this packet went before. `first`:
 * what `outer_header` wants to know; datagrams of a burst are packets of their own there. */
static bool finish_slot(burst_t *b, const work_t *work, uint8_t *slot, size_t plain, uint32_t number, bool first)
{
    sa_t *sa = work->sa;
    size_t outer = !sa->tunnel ? work->place.at : sa->version == 4 ? IPV4_HEADER : IPV6_HEADER;
    uint8_t *udp = slot + outer, *esp = udp + (sa->udp ? UDP_HEADER : 0);
    uint8_t next_header = !sa->tunnel ? work->place.protocol : work->place.version == 4 ? 4 : 41;
    uint64_t began = b->options & OPTION_TIMES ? now_ns() : 0;
    size_t size = seal_one(b, sa, esp, next_header, plain);
    if (began)
        b->result.crypto_ns += now_ns() - began;
    if (!size) {
        /* libcrypto refused, or there is no randomness: nothing of the packet may leave. */
        OPENSSL_cleanse(slot, SEND_SLOT);
        b->result.dropped++;
        return false;
    }
    if (sa->udp) {
        size += UDP_HEADER;
        memcpy(udp, &sa->udp_source, 2);
        memcpy(udp + 2, &sa->udp_destination, 2);
        put16(udp + 4, (uint16_t)size);
        memset(udp + 6, 0, 2);
    }
    uint8_t protocol = sa->udp ? UDP : ESP;
    if (sa->tunnel)
        outer_header(sa, slot, work->packet, size, protocol, first);
    else
        inner_header(slot, work->packet, &work->place, size, number, protocol);
    slot_done(b, slot, outer + size);
    return true;
}

static void seal_single(burst_t *b, const work_t *work, size_t size)
{
    uint8_t *slot, *plain = plain_place(b, work, &slot);
    size_t from = work->sa->tunnel ? 0 : work->place.at;
    memcpy(plain, work->packet + from, size - from);
    if (finish_slot(b, work, slot, size - from, 0, true))
        touch(b, work->sa, 1, size - from);
}

/* As `packets.segment_tcp`: false where that cannot be done, and nothing was. */
static bool seal_segments(burst_t *b, const work_t *work, size_t size, int32_t largest)
{
    const uint8_t *packet = work->packet, *tcp = packet + work->place.at;
    uint32_t at = work->place.at;
    sa_t *sa = work->sa;
    if (size < at + TCP_HEADER || largest < 0)
        return false;
    uint32_t header = (tcp[12] >> 4) * 4u;
    int32_t chunk = (largest - (int32_t)header) & ~3;
    if (header < TCP_HEADER || size < at + header || chunk < 8 || (tcp[13] & SYN_URG))
        return false;
    const uint8_t *data = tcp + header, *end = packet + size;
    uint32_t count = (uint32_t)((end - data + chunk - 1) / chunk), number = 0;
    if (count > last_sequence(sa) - sa->sequence)
        return false;
    uint32_t sequence = get32(tcp + 4);
    uint64_t pseudo = sum_bytes(packet + (work->place.version == 4 ? 12 : 8), work->place.version == 4 ? 8 : 32)
                      + htons(TCP);
    uint64_t carried = 0;
    for (; data < end; data += chunk, number++) {
        size_t part = (size_t)(end - data) < (size_t)chunk ? (size_t)(end - data) : (size_t)chunk;
        uint8_t *slot, *plain = plain_place(b, work, &slot), *segment = plain;
        size_t length = header + part;
        if (sa->tunnel) {
            inner_header(plain, packet, &work->place, length, number, TCP);
            segment += at;
        }
        memcpy(segment, tcp, header);
        memcpy(segment + header, data, part);
        put32(segment + 4, sequence + number * (uint32_t)chunk);
        uint8_t flags = tcp[13] & (uint8_t)~(FIN_PSH | CWR);
        if (number == 0)
            flags |= tcp[13] & CWR;
        if (data + part == end)
            flags |= tcp[13] & FIN_PSH;
        segment[13] = flags;
        memset(segment + 16, 0, 2);
        uint16_t sum = checksum_of(pseudo + htons((uint16_t)length) + sum_bytes(segment, length));
        memcpy(segment + 16, &sum, 2);
        if (sa->tunnel)
            length += at;
        if (finish_slot(b, work, slot, length, number, number == 0))
            carried += length;
    }
    touch(b, sa, count, carried);
    return true;
}

/* A burst of UDP datagrams of `each` bytes, as `virtio.take_all` cuts it: false where that cannot be done here, and
 * nothing was. */
static bool seal_datagrams(burst_t *b, const work_t *work, size_t size, int32_t largest, uint32_t each)
{
    const uint8_t *packet = work->packet, *udp = packet + work->place.at;
    uint32_t at = work->place.at, number = 0;
    sa_t *sa = work->sa;
    if (work->place.protocol != UDP || size <= at + UDP_HEADER || !each)
        return false;
    uint32_t left = (uint32_t)size - at - UDP_HEADER, count = (left + each - 1) / each;
    uint32_t longest = UDP_HEADER + (left < each ? left : each) + (sa->tunnel ? at : 0);
    if (count > SEGMENTS || (int64_t)longest > largest || count > last_sequence(sa) - sa->sequence)
        return false;
    const uint8_t *data = udp + UDP_HEADER;
    uint64_t pseudo = sum_bytes(packet + (work->place.version == 4 ? 12 : 8), work->place.version == 4 ? 8 : 32)
                      + htons(UDP);
    uint64_t carried = 0, sealed = 0;
    for (; left; left -= each < left ? each : left, data += each, number++) {
        uint32_t part = left < each ? left : each;
        uint8_t *slot, *plain = plain_place(b, work, &slot), *datagram = plain;
        size_t length = UDP_HEADER + part;
        if (sa->tunnel) {
            inner_header(plain, packet, &work->place, length, number, UDP);
            datagram += at;
        }
        memcpy(datagram, udp, 4);
        put16(datagram + 4, (uint16_t)length);
        memset(datagram + 6, 0, 2);
        memcpy(datagram + UDP_HEADER, data, part);
        uint16_t sum = checksum_of(pseudo + htons((uint16_t)length) + sum_bytes(datagram, length));
        if (!sum)
            sum = 0xFFFF; /* 0 would mean "no checksum" (RFC 768) */
        memcpy(datagram + 6, &sum, 2);
        if (sa->tunnel)
            length += at;
        if (finish_slot(b, work, slot, length, number, true)) {
            carried += length;
            sealed++;
        }
    }
    touch(b, sa, sealed, carried);
    return true;
}

/* Whether the frame was dealt with here; otherwise nothing has happened to it. */
static bool seal_frame(burst_t *b, uint8_t *frame, size_t length)
{
    work_t work;
    flow_key_t key;
    if (length <= VNET)
        return false;
    uint8_t *packet = frame + VNET;
    size_t size = length - VNET;
    work.packet = packet;
    if (!locate(packet, size, &work.place) || !make_key(packet, size, &work.place, &key))
        return false;
    sa_t *sa = work.sa = flow_find(b, &key, NULL);
    if (!sa || sa->in[b->lane].held_in == b->call || b->send[sa->version == 6] < 0)
        return false;
    if (!sa->tunnel && sa->version != work.place.version)
        return false;
    take_sa(b, sa);
    int32_t outer = sa->version == 4 ? IPV4_HEADER : IPV6_HEADER;
    int32_t whole = sa->tunnel ? (int32_t)size : (int32_t)(size - work.place.at);
    int32_t largest = largest_payload(sa, (int32_t)sa->mtu - (sa->tunnel ? outer : (int32_t)work.place.at));
    if ((frame[1] & GSO_KIND) == GSO_UDP) {
        uint16_t each, start;
        memcpy(&each, frame + 4, 2);
        memcpy(&start, frame + 6, 2);
        if (start == work.place.at && seal_datagrams(b, &work, size, largest, each))
            return true;
    } else if (whole > largest) {
        if (work.place.protocol == TCP
            && seal_segments(b, &work, size, sa->tunnel ? largest - (int32_t)work.place.at : largest))
            return true;
    } else if (sa->sequence < last_sequence(sa)) {
        if (frame[0] & NEEDS_CHECKSUM) {
            uint16_t start, offset;
            memcpy(&start, frame + 6, 2);
            memcpy(&offset, frame + 8, 2);
            size_t at = (size_t)start + offset;
            if (at + 2 <= size && start <= size) {
                uint16_t sum = checksum_of(sum_bytes(packet + start, size - start));
                if (!sum && offset == UDP_CHECKSUM)
                    sum = 0xFFFF; /* 0 would mean "no checksum" (RFC 768) */
                memcpy(packet + at, &sum, 2);
            }
        }
        seal_single(b, &work, size);
        return true;
    }
    sa->in[b->lane].held_in = b->call; /* what follows of this SA must not overtake it */
    return false;
}

/* A new report. */
void begin(burst_t *b, int device)
{
    result_t *result = &b->result;
    b->call++;
    b->device = device;
    b->leave = false;
    b->filled = 0;
    b->told = false;
    result->received = result->punts = result->touched = result->unsent = result->dropped = 0;
}

/* Read what waits in the device (at most `READS`), seal and send it. What is not done here is in the result. */
void take_outbound(burst_t *b, int device)
{
    result_t *result = &b->result;
    bool times = b->options & OPTION_TIMES;
    for (int n = 0; n < READS; n++) {
        uint8_t *frame = b->in + (size_t)n * IN_SLOT;
        uint64_t before = times ? now_ns() : 0;
        ssize_t length = read(device, frame, VNET + 65535);
        if (times)
            result->system_ns += now_ns() - before;
        if (length < 0 && errno == EINTR)
            continue;
        if (length <= 0)
            break;
        result->received++;
        if (!seal_frame(b, frame, (size_t)length))
            result->punt[result->punts++] = (punt_t){(uintptr_t)frame, (uint32_t)length, PUNTED, 0};
    }
    if (b->filled)
        flush(b);
    let_go(b);
}

int burst_outbound(burst_t *b, int device, int send4, int send6)
{
    uint64_t began = b->options & OPTION_TIMES ? now_ns() : 0;
    begin(b, device);
    b->send[0] = send4;
    b->send[1] = send6;
    take_outbound(b, device);
    if (began)
        b->result.total_ns += now_ns() - began;
    return (int)b->result.received;
}
