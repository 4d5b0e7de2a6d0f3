/* Tables: flows that Python has decided about, inbound SAs by (destination, SPI), replay windows. */
#include "burst.h"

#include <stdlib.h>

/* ---- the replay window: the verdicts of `driver/replay.py`, in a ring of blocks (RFC 6479) ------------------ */

/* The whole number of a packet that carries these bits: as `ReplayWindow.number_of`. */
uint64_t replay_number(const sa_t *sa, uint32_t lower)
{
    if (!sa->extended)
        return lower;
    uint64_t upper = sa->top & ~(uint64_t)UINT32_MAX, space = (uint64_t)1 << 32;
    uint32_t top = (uint32_t)sa->top, bottom = top - sa->window + 1;
    if (top >= sa->window - 1)
        return lower >= bottom ? upper + lower : upper + space + lower;
    if (lower < bottom)
        return upper + lower;
    return upper ? upper - space + lower : 0;
}

bool replay_check(const sa_t *sa, uint64_t sequence)
{
    if (sequence > sa->top)
        return true;
    if (!sa->window || !sequence)
        return sequence != 0;
    if (sa->top - sequence >= sa->window)
        return false;
    return !(sa->seen[(sequence >> 6) & (sa->words - 1)] >> (sequence & 63) & 1);
}

bool replay_accept(sa_t *sa, uint64_t sequence)
{
    if (!replay_check(sa, sequence))
        return false;
    if (sequence > sa->top) {
        if (sa->window) {
            uint64_t ahead = (sequence >> 6) - (sa->top >> 6);
            for (uint64_t n = 1; n <= ahead && n <= sa->words; n++)
                sa->seen[((sa->top >> 6) + n) & (sa->words - 1)] = 0;
        }
        sa->top = sequence;
    }
    if (sa->window)
        sa->seen[(sequence >> 6) & (sa->words - 1)] |= (uint64_t)1 << (sequence & 63);
    return true;
}

/* For Python's side of an SA. */
uint64_t burst_sa_replay_number(const sa_t *sa, uint32_t lower) { return replay_number(sa, lower); }
int burst_sa_check(const sa_t *sa, uint64_t sequence) { return replay_check(sa, sequence); }
int burst_sa_accept(sa_t *sa, uint64_t sequence) { return replay_accept(sa, sequence); }
uint64_t burst_sa_top(const sa_t *sa) { return sa->top; }
uint64_t burst_sa_sequence(const sa_t *sa) { return sa->sequence; }
void burst_sa_set_sequence(sa_t *sa, uint64_t sequence) { sa->sequence = sequence; }
uint32_t burst_sa_number(const sa_t *sa) { return sa->number; }
void burst_sa_set_number(sa_t *sa, uint32_t number) { sa->number = number; }
void burst_sa_set_ports(sa_t *sa, uint32_t source, uint32_t destination)
{
    sa->udp_source = htons((uint16_t)source);
    sa->udp_destination = htons((uint16_t)destination);
}

void burst_sa_set_budget(sa_t *sa, uint64_t bytes) { sa->budget = bytes; }
void burst_sa_set_mtu(sa_t *sa, uint32_t mtu) { sa->mtu = mtu < MAXIMUM_MTU ? mtu : MAXIMUM_MTU; }

/* ---- flows --------------------------------------------------------------------------------------------------- */

static uint32_t hash_of(const uint8_t *bytes, size_t size, uint64_t seed)
{
    uint64_t value = seed;
    while (size >= 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        value = (value ^ word) * 0x9E3779B97F4A7C15u;
        value ^= value >> 32;
        bytes += 8, size -= 8;
    }
    while (size--)
        value = (value ^ *bytes++) * 0x9E3779B97F4A7C15u, value ^= value >> 29;
    return (uint32_t)(value ^ value >> 17);
}

/* The first of the `WAYS` places in which a flow may stand: two flows that meet there do not push each other out, as
 * many of thousands would in a table where each has one. */
static flow_t *set_of(const burst_t *b, const flow_key_t *key, const sa_t *of)
{
    return b->tables->flows + (hash_of(key->bytes, key->length, (uintptr_t)of) & (FLOWS - 1) & ~(uint32_t)(WAYS - 1));
}

static bool is_flow(const burst_t *b, const flow_t *flow, const flow_key_t *key)
{
    return flow->generation == b->tables->generation && flow->key.length == key->length
           && !memcmp(flow->key.bytes, key->bytes, key->length);
}

/* `of`: NULL for an outbound flow, the SA for an inbound one. */
sa_t *flow_find(const burst_t *b, const flow_key_t *key, const sa_t *of)
{
    const flow_t *set = set_of(b, key, of);
    for (int n = 0; n < WAYS; n++)
        if (is_flow(b, set + n, key) && (of ? set[n].sa == of : set[n].sa->outbound))
            return set[n].sa;
    return NULL;
}

/* Where all places are taken, a newer flow takes that of an older one: that one goes the Python way again, which
 * teaches it anew. */
void burst_learn(burst_t *b, sa_t *sa, const uint8_t *key, uint32_t size)
{
    flow_key_t wanted = {.length = (uint8_t)size};
    if (size == 0 || size > KEY)
        return;
    memcpy(wanted.bytes, key, size);
    flow_t *set = set_of(b, &wanted, sa->outbound ? NULL : sa), *flow = NULL;
    for (int n = 0; n < WAYS && !flow; n++)
        if (is_flow(b, set + n, &wanted) && (sa->outbound ? set[n].sa->outbound : set[n].sa == sa))
            flow = set + n;
    for (int n = 0; n < WAYS && !flow; n++)
        if (set[n].generation != b->tables->generation)
            flow = set + n;
    if (!flow)
        flow = set + b->tables->next_way++ % WAYS;
    flow->generation = b->tables->generation;
    flow->sa = sa;
    flow->key = wanted;
}

/* Forget all flows: filters or SAs have changed. */
void burst_forget(burst_t *b) { b->tables->generation++; }

/* ---- inbound SAs --------------------------------------------------------------------------------------------- */

static uint32_t bucket_of(const burst_t *b, const uint8_t *destination, size_t size, uint32_t spi)
{
    return hash_of(destination, size, spi) & (b->tables->buckets - 1);
}

sa_t *inbound_find(const burst_t *b, const uint8_t *destination, size_t size, uint32_t spi)
{
    sa_t *sa = b->tables->inbound[bucket_of(b, destination, size, spi)];
    while (sa && (sa->spi != spi || sa->version != (size == 4 ? 4 : 6) || memcmp(sa->destination, destination, size)))
        sa = sa->next;
    return sa;
}

static void link_in(burst_t *b, sa_t *sa)
{
    sa_t **bucket = b->tables->inbound + bucket_of(b, sa->destination, sa->version == 4 ? 4 : 16, sa->spi);
    sa->next = *bucket;
    *bucket = sa;
}

/* 0, or -1 where memory is short. The caller removes the SA before it frees it. */
int burst_add(burst_t *b, sa_t *sa)
{
    if (sa->outbound)
        return 0;
    sa->queue = hash_of(sa->source, sa->version == 4 ? 4 : 16, 0);
    if (b->tables->inbound_count >= b->tables->buckets) {
        uint32_t before = b->tables->buckets;
        sa_t **old = b->tables->inbound, **grown = calloc((size_t)before * 2, sizeof *grown);
        if (!grown)
            return -1;
        b->tables->inbound = grown;
        b->tables->buckets = before * 2;
        for (uint32_t n = 0; n < before; n++)
            for (sa_t *each = old[n], *next; each; each = next) {
                next = each->next;
                link_in(b, each);
            }
        free(old);
    }
    link_in(b, sa);
    b->tables->inbound_count++;
    return 0;
}

void burst_remove(burst_t *b, sa_t *sa)
{
    b->tables->generation++;
    if (sa->outbound)
        return;
    sa_t **at = b->tables->inbound + bucket_of(b, sa->destination, sa->version == 4 ? 4 : 16, sa->spi);
    while (*at && *at != sa)
        at = &(*at)->next;
    if (*at) {
        *at = sa->next;
        b->tables->inbound_count--;
    }
}

/* What an SA carried in this call, for Python's counters and lifetimes. */
void touch(burst_t *b, sa_t *sa, uint64_t packets, uint64_t bytes)
{
    if (sa->in[b->lane].touched_in != b->call) {
        sa->in[b->lane].touched_in = b->call;
        sa->in[b->lane].report = b->result.touched++; /* `burst_run` leaves room */
        b->result.touch[sa->in[b->lane].report] = (touched_t){sa->id, 0, 0};
    }
    if (sa->budget != UNLIMITED) {
        b->leave |= bytes >= sa->budget;
        sa->budget -= bytes < sa->budget ? bytes : sa->budget;
    }
    b->result.touch[sa->in[b->lane].report].packets += packets;
    b->result.touch[sa->in[b->lane].report].bytes += bytes;
}

/* ---- the whole ------------------------------------------------------------------------------------------------- */

#ifdef BURST_ABI_FOR_TESTS
uint32_t burst_abi(void) { return BURST_ABI_FOR_TESTS; }
#else
uint32_t burst_abi(void) { return BURST_ABI; }
#endif

/* Sizes of the structures that engine.py lays out itself. */
uint32_t burst_sizes(void) { return (uint32_t)(sizeof(parameters) << 20 | sizeof(result_t)); }

void lane_free(burst_t *b)
{
    size_t in = b->lane ? READS * (size_t)IN_SLOT : SLOTS * (size_t)IN_SLOT;
    size_t out = b->lane ? SLOTS * (size_t)SEND_SLOT : SLOTS * (size_t)IN_SLOT;
    if (b->out)
        OPENSSL_cleanse(b->out, out);
    if (b->in)
        OPENSSL_cleanse(b->in, in);
    free(b->in);
    free(b->out);
    free(b->unsent);
    free(b->copies);
    OPENSSL_cleanse(b, sizeof *b);
    free(b);
}

/* What one thread needs for itself; a worker only takes packets from the device. NULL where memory is short. */
burst_t *lane_new(uint32_t options, uint32_t lane)
{
    burst_t *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->options = options;
    b->lane = lane;
    b->tables = &b->own;
    b->in = calloc(lane ? READS : SLOTS, IN_SLOT);
    b->out = calloc(SLOTS, lane ? SEND_SLOT : IN_SLOT);
    b->unsent = calloc(UNSENT, SEND_SLOT);
    b->copies = lane ? NULL : calloc(GRO_READS, COPIES);
    b->udp = b->wake = -1;
    if (!b->in || !b->out || !b->unsent || (!lane && !b->copies)) {
        lane_free(b);
        return NULL;
    }
    for (int n = 0; n < SLOTS; n++) {
        struct msghdr *in = &b->in_messages[n].msg_hdr, *out = &b->out_messages[n].msg_hdr;
        in->msg_iov = &b->in_vectors[n];
        out->msg_iov = &b->out_vectors[n];
        in->msg_iovlen = out->msg_iovlen = 1;
        b->out_vectors[n].iov_base = b->out + (size_t)n * SEND_SLOT;
    }
    return b;
}

void burst_free(burst_t *b)
{
    if (!b)
        return;
    stop_workers(b);
    free(b->own.flows);
    free(b->own.inbound);
    lane_free(b);
}

burst_t *burst_new(uint32_t options)
{
    burst_t *b = lane_new(options, 0);
    if (!b)
        return NULL;
    tables_t *tables = &b->own;
    tables->generation = 1;
    tables->buckets = 64;
    tables->nudge = -1;
    tables->flows = calloc(FLOWS, sizeof *tables->flows);
    tables->inbound = calloc(tables->buckets, sizeof *tables->inbound);
    if (!tables->flows || !tables->inbound) {
        burst_free(b);
        return NULL;
    }
    return b;
}

/* The UDP socket of port 4500 that ESP in UDP over IPv4 goes out by, many segments a call; -1 for none. */
void burst_use_udp(burst_t *b, int sock) { b->udp = sock; }

const result_t *burst_result(const burst_t *b) { return &b->result; }

/* For tests, which compare with the Python path: the next random blocks. */
int burst_preload_noise(burst_t *b, const uint8_t *noise, uint32_t size)
{
    if (size > sizeof b->noise)
        return -1;
    memcpy(b->noise + sizeof b->noise - size, noise, size);
    b->noise_left = size;
    return 0;
}
