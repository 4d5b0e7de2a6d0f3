/* The loop of the data plane for as long as nothing needs Python: packets in and out, many wakes a call. */
#include "burst.h"

#include <poll.h>

enum { SLOW_READY = 1, DEVICE_GONE = 2, REPORT_NS = 20000000 };

/* A raw socket from which a few packets came at once is left alone for a moment, in which more of them come: each
 * wake and each call then has a batch, which halves what a packet costs. One packet alone (a request, its answer) never
 * waits, and neither does anything where the batches are full anyway. The device is watched meanwhile. */
enum { REST_NS = 100000, REST_FROM = 4, REST_TO = 48 };

int burst_watch(burst_t *b, int descriptor, int kind, int version)
{
    if (b->watches == WATCHES)
        return -1;
    b->watched[b->watches].descriptor = descriptor;
    b->watched[b->watches].kind = kind;
    b->watched[b->watches].rests_until = 0;
    b->watched[b->watches++].version = version;
    return 0;
}

void burst_unwatch(burst_t *b, int descriptor)
{
    for (uint32_t n = 0; n < b->watches; n++)
        if (b->watched[n].descriptor == descriptor)
            b->watched[n--] = b->watched[--b->watches];
}

/* Leave out of `entries` what rests, and say for how long; 0 where nothing does. */
static uint64_t rest_of(const burst_t *b, struct pollfd *entries, uint64_t now)
{
    uint64_t least = 0;
    for (uint32_t n = 0; n < b->watches; n++) {
        uint64_t until = b->watched[n].rests_until, rest = until > now ? until - now : 0;
        entries[n].fd = rest ? -1 : b->watched[n].descriptor;
        if (rest && (!least || rest < least))
            least = rest;
    }
    return least;
}

/* Whether somebody has removed the device: it would wake us for ever, with nothing to read. */
static bool is_gone(const burst_t *b, const struct pollfd *entries)
{
    for (uint32_t n = 0; n < b->watches; n++)
        if (b->watched[n].kind == WATCH_DEVICE && entries[n].revents & ~POLLIN)
            return true;
    return __atomic_load_n(&b->tables->gone, __ATOMIC_ACQUIRE);
}

static int carry(burst_t *b, int slow, int timeout_ms)
{
    result_t *result = &b->result;
    struct pollfd entries[WATCHES + 2];
    uint64_t now = now_ns(), end = now + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * 1000000u;
    uint32_t count = b->watches;
    for (uint32_t n = 0; n < b->watches; n++)
        entries[n] = (struct pollfd){b->watched[n].descriptor, POLLIN, 0};
    entries[count++] = (struct pollfd){slow, POLLIN, 0};
    if (b->tables->workers)
        entries[count++] = (struct pollfd){b->tables->nudge, POLLIN, 0};
    for (;;) {
        uint64_t rest = rest_of(b, entries, now), left = end > now ? end - now : 0;
        if (rest && rest < left)
            left = rest;
        struct timespec wait = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
        int ready = ppoll(entries, count, &wait, NULL);
        if (ready < 0 || (!ready && !rest))
            return 0; /* a signal is Python's, or the time is over */
        if (is_gone(b, entries))
            return DEVICE_GONE;
        uint64_t began = now_ns();
        enter(b);
        for (uint32_t n = 0; n < b->watches; n++) {
            if (!entries[n].revents)
                continue;
            int sock = b->watched[n].descriptor, came = 0;
            switch (b->watched[n].kind) {
            case WATCH_DEVICE: take_outbound(b, sock); break;
            case WATCH_ESP: came = take_inbound(b, sock, b->watched[n].version, false); break;
            case WATCH_UDP: came = take_inbound(b, sock, b->watched[n].version, true); break;
            case WATCH_DATAGRAMS: take_datagrams(b, sock); break;
            }
            if (came >= REST_FROM && came < REST_TO && !(b->options & OPTION_NO_REST))
                b->watched[n].rests_until = began + REST_NS;
            /* What was handed back stands where the next packets would be read to. */
            if (result->punts || result->unsent) {
                result->kind = (uint32_t)b->watched[n].kind;
                break;
            }
        }
        leave(b);
        now = now_ns();
        if (b->options & OPTION_TIMES)
            result->total_ns += now - began;
        if (entries[b->watches].revents)
            return SLOW_READY;
        if (result->punts || result->unsent || b->leave || result->touched >= PUNTS)
            return 0;
        bool touched = result->touched;
        if (b->tables->workers && entries[b->watches + 1].revents) {
            if (heed_workers(b))
                return 0;
            touched = true;
        }
        if (touched && end > now + REPORT_NS)
            end = now + REPORT_NS;
        if (end <= now)
            return 0;
    }
}

/* Carry packets until `slow` (an epoll descriptor, with all that is Python's) has something, a packet is Python's to
 * decide, an SA has used up the bytes up to a lifetime, the time is over, or 20 ms after the first packet: then the
 * counters are told, of the workers too. 1 where `slow` has something, 2 where the device is gone, else 0. */
int burst_run(burst_t *b, int slow, int device, int send4, int send6, int timeout_ms)
{
    begin(b, device);
    b->send[0] = send4;
    b->send[1] = send6;
    open_door(b);
    int ready = carry(b, slow, timeout_ms);
    close_door(b);
    return ready;
}
