/* The burst path of the user-space data plane: what the whole of it shares.
 *
 * One call takes a batch from the TUN device (or a raw socket), does everything to it that needs no decision,
 * and hands it on. Decisions are Python's (`driver/datapath.py`): which flow belongs to which SA, which flow an
 * SA may carry. Python teaches them to the flow table; whatever is not in there, or is unusual in any way, is
 * handed back untouched ("punted") and goes the Python way, which is the reference for all of this. So no
 * verdict, counter or event is made in two places.
 *
 * Threads: Python's, and where there are several queues of the TUN device a worker for each (`workers.c` has the rules,
 * in short: everything that Python calls has all of this for itself, but `burst_run` lets the workers in; what is sealed
 * is sealed and sent under a lock of its SA). No function here is for two of Python's threads at once.
 */
#ifndef STOCKADE_BURST_H
#define STOCKADE_BURST_H

#define _GNU_SOURCE
#define OPENSSL_SUPPRESS_DEPRECATED /* the plain hash states can be copied; EVP's cost a microsecond to begin */

#include <arpa/inet.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/md5.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#define BURST_ABI 7

enum {
    SLOTS = 64,             /* packets in one recvmmsg or sendmmsg */
    READS = 8,              /* reads from the device in one call */
    VNET = 10,              /* virtio_net_hdr */
    HEADROOM = 128,         /* before a packet: an IPv6 header, an IV */
    PACKET = 65536,         /* no packet is longer */
    IN_SLOT = HEADROOM + PACKET,
    COPIES = PACKET + 128 * 28, /* the segments of one merged datagram with headers of their own */
    SEND_SLOT = 10240,      /* a sealed packet: the largest MTU here and the rest that padding may bring */
    MAXIMUM_MTU = 9216,
    UNSENT = 64,            /* packets that an interface does not take, for Python to cut */
    FLOWS = 1 << 15,        /* places in the flow table */
    WAYS = 4,               /* of them in which one flow may stand */
    KEY = 38,               /* the longest flow key */
    GRO_READS = 8,          /* datagrams of merged segments in one recvmmsg */
    SEGMENTS = 128,         /* at most so many in one of them; the kernel's limit */
    PUNTS = GRO_READS * SEGMENTS,
    TOUCHES = 2 * PUNTS,    /* SAs in one report */
    EXTENDED_HEADER = 12,   /* SPI and 64 bits of sequence number, as they are authenticated */
    WATCHES = 16,           /* descriptors that `burst_run` waits for */
    MAXIMUM_GSO = 64,       /* segments in one send; older kernels' limit */
    WORKERS = 4,            /* queues of the device with a thread each, at most */
    LANES = WORKERS + 1,    /* Python's own thread is the first */
    RUNS = 8,               /* TCP flows that are merged at a time */
    RUN_PACKETS = 64,
    MAXIMUM_JOINED = 65000,
    TCP = 6, UDP = 17, ESP = 50,
    UDP_HEADER = 8, NAT_PORT = 4500, IPV4_HEADER = 20, IPV6_HEADER = 40, ESP_HEADER = 8, TCP_HEADER = 20,
};

enum { CIPHER_GCM = 1, CIPHER_AES_CBC = 2, CIPHER_3DES_CBC = 3, CIPHER_NULL = 4 };
enum { HASH_NONE = 0, HASH_MD5 = 1, HASH_SHA1 = 2, HASH_SHA256 = 3, HASH_SHA384 = 4, HASH_SHA512 = 5 };
enum { MEND_ANEW = 1, MEND_BY_DIFFERENCE = 2 };
enum { WATCH_DEVICE = 1, WATCH_ESP = 2, WATCH_UDP = 3, WATCH_DATAGRAMS = 4 };
enum { PUNTED = 1, REPLAYED = 2, INTEGRITY_FAILED = 3 };
enum { OPTION_PLAIN = 1, OPTION_NO_MERGE = 2, OPTION_TIMES = 4, OPTION_NO_IPSEC_MB = 8, OPTION_NO_REST = 16 };

#define UNLIMITED UINT64_MAX

typedef union {
    MD5_CTX md5;
    SHA_CTX sha1;
    SHA256_CTX sha256;
    SHA512_CTX sha512;
} hash_state;

/* As `_Parameters` in engine.py has it. */
typedef struct {
    uint64_t id;
    uint32_t spi;
    uint32_t mtu;
    uint32_t window;
    uint16_t udp_source, udp_destination;
    uint8_t outbound, tunnel, version, udp;
    uint8_t cipher, hash, icv_size, encryption_size;
    uint8_t integrity_size, salt_size, limited, mend;
    uint16_t difference;
    uint8_t extended, pad[5];
    uint8_t source[16], destination[16];
    uint8_t encryption_key[36];
    uint8_t integrity_key[64];
} parameters;

typedef struct security_association sa_t;
struct security_association {
    /* What every packet needs stands first, in few lines of the cache: with thousands of SAs that is what they cost. */
    uint64_t id;
    uint32_t spi;             /* network order */
    uint32_t mtu;
    uint16_t udp_source, udp_destination; /* network order */
    bool outbound, tunnel, udp;
    bool extended;            /* sequence numbers of 64 bits, of which packets carry the lower half */
    uint8_t mend;             /* transport mode behind a NAT: MEND_… */
    uint8_t version;
    uint16_t difference;
    uint8_t cipher, hash, iv_size, alignment, icv_size;
    uint8_t salt[4];
    uint64_t budget;          /* bytes until Python must look at a lifetime; UNLIMITED */
    uint64_t sequence;        /* of the last packet sealed */
    uint32_t number;          /* IPv4 identification of the last outer header */
    EVP_CIPHER_CTX *context;
    struct gcm *gcm;          /* AES-GCM by ipsec-mb, where it is there */
    struct {
        uint64_t touched_in;  /* the call that reported it last */
        uint64_t held_in;     /* the call in which one of its packets went the Python way */
        uint32_t report;      /* its place in the report of that call */
    } in[LANES];
    pthread_mutex_t lock;     /* from the first number that is used until its packet is sent */
    uint8_t source[16], destination[16];
    uint64_t top;             /* replay window: the highest number seen */
    uint32_t window;          /* and its width */
    uint32_t words;           /* of `seen`, a power of two */
    uint64_t *seen;
    uint32_t queue;           /* of the device for what its peer sends, before the remainder is taken */
    sa_t *next;               /* in the table of inbound SAs */
    hash_state inner, outer, work;
};

typedef struct { uint8_t length; uint8_t bytes[KEY]; } flow_key_t;

typedef struct {
    uint64_t generation;
    sa_t *sa;
    flow_key_t key;
} flow_t;

typedef struct { uint64_t address; uint32_t length; uint32_t verdict; uint64_t id; } punt_t;
typedef struct { uint64_t id, packets, bytes; } touched_t;

/* As `_Result` in engine.py has it. */
typedef struct {
    uint32_t received, punts, touched, unsent, dropped, writes;
    uint32_t kind, pad;       /* what the punts came by, of WATCH_… */
    uint64_t total_ns, crypto_ns, system_ns; /* since the start, with OPTION_TIMES */
    punt_t punt[PUNTS];
    touched_t touch[TOUCHES];
    punt_t not_sent[UNSENT];
} result_t;

typedef struct {
    flow_key_t flow;
    const uint8_t *first;     /* the first packet's headers */
    uint32_t at, header, size, total, expected, packets, order;
    uint8_t last_flags;
    int device;
    struct iovec parts[RUN_PACKETS + 1];
} run_t;

typedef struct burst burst_t;

/* What all lanes share. */
typedef struct {
    uint64_t generation;      /* of flows that count */
    flow_t *flows;
    uint32_t next_way;
    sa_t **inbound;           /* by (destination, SPI) */
    uint32_t buckets, inbound_count;
    pthread_rwlock_t door;    /* shared by the lanes that carry packets; Python's alone outside `burst_run` */
    bool closed;              /* Python's thread holds it alone */
    uint32_t workers;
    burst_t *worker[WORKERS];
    int queues[WORKERS];      /* descriptors of the device */
    int nudge;                /* eventfd: a worker has something for Python */
    bool stop;
} tables_t;

struct burst {
    result_t result;
    uint32_t options;
    uint64_t call;            /* number of the call that runs */
    uint32_t lane;            /* 0: Python's own thread */
    tables_t *tables;         /* that lane's, of all */
    tables_t own;
    pthread_t thread;         /* a worker's, and what wakes it: */
    sem_t resume;
    int queue, wake;
    bool waits, told;         /* for Python; Python was told that there is something */
    sa_t *taken[READS];       /* whose locks are held */
    uint32_t taken_count;
    uint8_t *in;              /* SLOTS slots of IN_SLOT: what was read */
    uint8_t *out;             /* inbound: what was opened, in slots like `in`; outbound: SEND_SLOT slots */
    uint8_t *unsent;          /* UNSENT slots of SEND_SLOT */
    uint8_t *copies;          /* packets made of merged segments, for Python */
    struct iovec in_vectors[SLOTS], out_vectors[SLOTS];
    struct mmsghdr in_messages[SLOTS], out_messages[SLOTS];
    struct sockaddr_storage in_names[SLOTS], out_names[SLOTS];
    uint8_t controls[SLOTS][128];
    uint32_t filled;          /* slots of `out` that wait for sendmmsg */
    int filled_version;
    int send[2];              /* sockets for IPv4 and IPv6 */
    int udp;                  /* UDP socket of port 4500, IPv4; -1: ESP in UDP goes by the raw socket */
    bool for_udp[SLOTS];      /* slots of `out` that may go by it */
    int device;
    struct { int descriptor, kind, version; uint64_t rests_until; } watched[WATCHES];
    uint32_t watches;
    bool leave;               /* Python must look at a lifetime now */
    uint8_t noise[SLOTS * 16];
    uint32_t noise_left;
    run_t runs[RUNS];
    uint32_t run_order;
};

/* gcm.c */
struct gcm;
bool gcm_available(void);
struct gcm *gcm_new(const uint8_t *key, size_t size); /* NULL where it cannot be had */
void gcm_free(struct gcm *gcm);
/* `header`: of `header_size` bytes, authenticated and not encrypted. */
void gcm_seal(struct gcm *gcm, uint8_t *body, size_t size, const uint8_t nonce[12], const uint8_t *header,
              size_t header_size, uint8_t *icv);
bool gcm_open(struct gcm *gcm, uint8_t *to, const uint8_t *body, size_t size, const uint8_t nonce[12],
              const uint8_t *header, size_t header_size, const uint8_t *icv);

/* crypto.c */
sa_t *burst_sa_new(const parameters *given, uint32_t options);
void burst_sa_free(sa_t *sa);
int32_t largest_payload(const sa_t *sa, int32_t space);
size_t smallest_esp(const sa_t *sa);
/* Seal `plain` bytes that stand at esp + ESP_HEADER + iv_size, in place; the length of the ESP packet, 0 on failure. */
size_t seal_one(burst_t *b, sa_t *sa, uint8_t *esp, uint8_t next_header, size_t plain);
/* Open into `out` (which has HEADROOM before it). 1, or 0 where integrity fails, -1 where the inside makes no sense.
 * `sequence`: the packet's whole number. */
int open_one(sa_t *sa, const uint8_t *esp, size_t length, uint64_t sequence, uint8_t *out, uint8_t *next_header,
             size_t *plain);

/* tables.c */
uint64_t replay_number(const sa_t *sa, uint32_t lower);
bool replay_check(const sa_t *sa, uint64_t sequence);
bool replay_accept(sa_t *sa, uint64_t sequence);
sa_t *flow_find(const burst_t *b, const flow_key_t *key, const sa_t *of);
sa_t *inbound_find(const burst_t *b, const uint8_t *destination, size_t size, uint32_t spi);
void begin(burst_t *b, int device);
void take_outbound(burst_t *b, int device);
int take_inbound(burst_t *b, int sock, int version, bool udp);
int take_datagrams(burst_t *b, int sock);
void touch(burst_t *b, sa_t *sa, uint64_t packets, uint64_t bytes);
burst_t *lane_new(uint32_t options, uint32_t lane);
void lane_free(burst_t *b);

/* workers.c */
void open_door(burst_t *b);
void close_door(burst_t *b);
void enter(burst_t *b);
void leave(burst_t *b);
bool heed_workers(burst_t *b);
void stop_workers(burst_t *b);

/* packets.c */
typedef struct { uint32_t at; uint8_t protocol, version; } place_t;
bool locate(const uint8_t *packet, size_t size, place_t *place);
bool make_key(const uint8_t *packet, size_t size, const place_t *place, flow_key_t *key);
uint64_t sum_bytes(const uint8_t *data, size_t size);
uint16_t checksum_of(uint64_t sum); /* network order */
uint64_t now_ns(void);
bool is_extension(uint8_t protocol);

/* merge.c */
void deliver(burst_t *b, const uint8_t *packet, size_t size, const place_t *place);
void deliver_rest(burst_t *b);

/* The last number that may be used. */
static inline uint64_t last_sequence(const sa_t *sa) { return sa->extended ? UINT64_MAX : UINT32_MAX; }

static inline uint16_t get16(const uint8_t *at) { uint16_t v; memcpy(&v, at, 2); return ntohs(v); }
static inline uint32_t get32(const uint8_t *at) { uint32_t v; memcpy(&v, at, 4); return ntohl(v); }
static inline void put16(uint8_t *at, uint16_t v) { v = htons(v); memcpy(at, &v, 2); }
static inline void put32(uint8_t *at, uint32_t v) { v = htonl(v); memcpy(at, &v, 4); }

#endif
