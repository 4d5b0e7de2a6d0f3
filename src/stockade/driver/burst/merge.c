/* Clear packets into the TUN device, consecutive segments of a TCP flow as one write of up to 64 KiB.
 *
 * What may be joined is what `userspace/virtio.py` joins; here several flows are merged at a time, which with many
 * streams on one SA is the usual case. Order within a flow is kept: a packet of a flow that cannot join writes out
 * what the flow has.
 */
#include "burst.h"

enum { FLAG_ACK = 0x10, FLAG_PSH = 0x08, NEEDS_CHECKSUM = 1, DATA_VALID = 2, GSO_TCPV4 = 1, GSO_TCPV6 = 4 };

static void write_out(burst_t *b, int device, const struct iovec *parts, int count)
{
    uint64_t began = b->options & OPTION_TIMES ? now_ns() : 0;
    /* The stack refuses what it finds wrong and drops what is too much: as from any device. */
    ssize_t written = writev(device, parts, count);
    (void)written;
    b->result.writes++;
    if (began)
        b->result.system_ns += now_ns() - began;
}

static void write_single(burst_t *b, int device, const uint8_t *packet, size_t size)
{
    uint8_t header[VNET] = {DATA_VALID};
    struct iovec parts[2] = {{header, VNET}, {(void *)packet, size}};
    write_out(b, device, parts, 2);
}

static void put_native16(uint8_t *at, uint16_t value) { memcpy(at, &value, 2); }

static void write_run(burst_t *b, run_t *run)
{
    uint32_t count = run->packets;
    run->packets = 0;
    if (!count)
        return;
    if (count == 1) {
        write_single(b, run->device, run->first, run->header + run->parts[1].iov_len);
        return;
    }
    uint8_t head[VNET + 128];
    uint8_t *ip = head + VNET, *tcp = ip + run->at;
    uint32_t tcp_length = run->total - run->at;
    bool is_v4 = run->at == IPV4_HEADER;
    memset(head, 0, VNET);
    head[0] = NEEDS_CHECKSUM;
    head[1] = is_v4 ? GSO_TCPV4 : GSO_TCPV6;
    put_native16(head + 2, (uint16_t)run->header);
    put_native16(head + 4, (uint16_t)run->size);
    put_native16(head + 6, (uint16_t)run->at);
    put_native16(head + 8, 16);
    memcpy(ip, run->first, run->header);
    uint64_t pseudo;
    uint16_t word, length = htons((uint16_t)tcp_length), protocol = htons(TCP);
    if (is_v4) {
        put16(ip + 2, (uint16_t)run->total);
        memset(ip + 10, 0, 2);
        word = checksum_of(sum_bytes(ip, IPV4_HEADER));
        memcpy(ip + 10, &word, 2);
        pseudo = sum_bytes(ip + 12, 8);
    } else {
        put16(ip + 4, (uint16_t)tcp_length);
        pseudo = sum_bytes(ip + 8, 32);
    }
    tcp[13] |= run->last_flags & FLAG_PSH;
    /* The pseudo header's sum, not inverted: the stack (or a device behind it) goes on from there. */
    word = checksum_of(pseudo + length + protocol);
    word = word ? (uint16_t)~word : 0;
    memcpy(tcp + 16, &word, 2);
    run->parts[0] = (struct iovec){head, VNET + run->header};
    write_out(b, run->device, run->parts, (int)count + 1);
}

static run_t *run_of(burst_t *b, const flow_key_t *flow)
{
    for (int n = 0; n < RUNS; n++) {
        run_t *run = b->runs + n;
        if (run->packets && run->flow.length == flow->length && !memcmp(run->flow.bytes, flow->bytes, flow->length))
            return run;
    }
    return NULL;
}

static run_t *free_run(burst_t *b)
{
    run_t *oldest = b->runs;
    for (int n = 0; n < RUNS; n++) {
        if (!b->runs[n].packets)
            return b->runs + n;
        if ((int32_t)(b->runs[n].order - oldest->order) < 0)
            oldest = b->runs + n;
    }
    write_run(b, oldest);
    return oldest;
}

/* All of both headers but lengths, IPv4 identification and checksum, sequence number, PSH, checksum. */
static bool same_shape(const run_t *run, const uint8_t *packet, uint32_t header)
{
    const uint8_t *first = run->first, *tcp = packet + run->at, *first_tcp = first + run->at;
    if (header != run->header)
        return false;
    if (run->at == IPV4_HEADER) {
        if (memcmp(packet, first, 2) || memcmp(packet + 6, first + 6, 3) || memcmp(packet + 12, first + 12, 8))
            return false;
    } else if (memcmp(packet, first, 4) || memcmp(packet + 6, first + 6, 34))
        return false;
    return !memcmp(tcp, first_tcp, 4) && !memcmp(tcp + 8, first_tcp + 8, 5) && !memcmp(tcp + 14, first_tcp + 14, 2)
           && !memcmp(tcp + 20, first_tcp + 20, header - run->at - 20);
}

/* `packet` stays where it is until `deliver_rest`. */
void deliver(burst_t *b, const uint8_t *packet, size_t size, const place_t *place)
{
    flow_key_t flow;
    uint32_t at = place->at;
    if ((b->options & OPTION_NO_MERGE) || place->protocol != TCP || !make_key(packet, size, place, &flow)) {
        write_single(b, b->device, packet, size);
        return;
    }
    run_t *run = run_of(b, &flow);
    uint32_t header = 0, length = 0;
    bool joinable = size > at + TCP_HEADER && at == (place->version == 4 ? IPV4_HEADER : IPV6_HEADER);
    if (joinable) {
        header = at + (packet[at + 12] >> 4) * 4u;
        length = (uint32_t)size - header;
        joinable = header >= at + TCP_HEADER && header < size && (packet[at + 13] & ~FLAG_PSH) == FLAG_ACK;
    }
    if (run
        && (!joinable || get32(packet + at + 4) != run->expected || length > run->size
            || run->total + length > MAXIMUM_JOINED || run->packets == RUN_PACKETS
            || !same_shape(run, packet, header))) {
        write_run(b, run);
        run = NULL;
    }
    if (!joinable) {
        write_single(b, b->device, packet, size);
        return;
    }
    if (!run) {
        run = free_run(b);
        run->flow = flow;
        run->first = packet;
        run->at = at;
        run->header = header;
        run->size = length;
        run->total = header;
        run->order = b->run_order++;
        run->device = b->device;
    }
    run->parts[++run->packets] = (struct iovec){(void *)(packet + header), length};
    run->total += length;
    run->expected = get32(packet + at + 4) + length;
    run->last_flags = packet[at + 13];
    if ((run->last_flags & FLAG_PSH) || length < run->size)
        write_run(b, run);
}

void deliver_rest(burst_t *b)
{
    for (int n = 0; n < RUNS; n++)
        write_run(b, b->runs + n);
}
