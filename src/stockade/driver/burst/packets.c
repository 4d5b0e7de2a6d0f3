/* IP headers, flow keys and checksums: what `driver/packets.py` has, for the packets that are not unusual. */
#include "burst.h"

#include <time.h>

uint64_t now_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

bool is_extension(uint8_t protocol)
{
    return protocol == 0 || protocol == 43 || protocol == 44 || protocol == 60;
}

/* Whole packets without IPv6 extension headers, exactly as long as they say; false for all else. */
bool locate(const uint8_t *packet, size_t size, place_t *place)
{
    if (size < IPV4_HEADER)
        return false;
    place->version = packet[0] >> 4;
    if (place->version == 4) {
        place->at = (packet[0] & 15) * 4u;
        place->protocol = packet[9];
        return place->at >= IPV4_HEADER && place->at <= size && size == get16(packet + 2) && !(packet[6] & 0x3F)
               && !packet[7];
    }
    if (place->version != 6 || size < IPV6_HEADER || size != IPV6_HEADER + (size_t)get16(packet + 4))
        return false;
    place->at = IPV6_HEADER;
    place->protocol = packet[6];
    return !is_extension(place->protocol);
}

static bool has_ports(uint8_t protocol)
{
    return protocol == TCP || protocol == UDP || protocol == 33 || protocol == 132 || protocol == 136;
}

/* The bytes of `packets.flow_key`; false where that would be cut short. */
bool make_key(const uint8_t *packet, size_t size, const place_t *place, flow_key_t *key)
{
    uint8_t *to = key->bytes;
    size_t addresses = place->version == 4 ? 8 : 32;
    *to++ = place->protocol;
    memcpy(to, packet + (place->version == 4 ? 12 : 8), addresses);
    to += addresses;
    if (has_ports(place->protocol)) {
        if (size < place->at + 4)
            return false;
        memcpy(to, packet + place->at, 4);
        to += 4;
    }
    key->length = (uint8_t)(to - key->bytes);
    return true;
}

/* The sum of the data as 16-bit words in this machine's byte order; RFC 1071 section 2 (B) says why that does not
 * matter until the end. Wider than 16 bits; `checksum_of` folds. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) \
    && !defined(__SANITIZE_THREAD__) && defined(__GLIBC__)
__attribute__((target_clones("avx2", "default")))
#endif
uint64_t sum_bytes(const uint8_t *data, size_t size)
{
    uint64_t sum = 0;
    size_t words = size / 4;
    for (size_t n = 0; n < words; n++) {
        uint32_t word;
        memcpy(&word, data + n * 4, 4);
        sum += word;
    }
    data += words * 4;
    if (size & 2) {
        uint16_t word;
        memcpy(&word, data, 2);
        sum += word;
        data += 2;
    }
    if (size & 1) {
        uint8_t last[2] = {*data, 0};
        uint16_t word;
        memcpy(&word, last, 2);
        sum += word;
    }
    return sum;
}

uint16_t checksum_of(uint64_t sum)
{
    sum = (sum & 0xFFFFFFFF) + (sum >> 32);
    sum = (sum & 0xFFFFFFFF) + (sum >> 32);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    /* 65535 and 0 are the same sum; the Python path gives 0 for both, so does this. */
    return sum == 0 || sum == 0xFFFF ? 0 : (uint16_t)~sum;
}
