/* ESP packets of one SA, sealed and opened with libcrypto: the same bytes as `driver/esp.py` makes.
 *
 * CBC chains from packet to packet as `crypto/packet.py` explains: a random block goes in first, what comes out
 * for it is the packet's IV, unpredictable as SP 800-38A appendix C asks. AES-GCM takes the sequence number as IV
 * (RFC 4106 section 3.1). The upper half of an extended sequence number is authenticated and not sent: within the
 * associated data of AES-GCM, behind everything for HMAC (RFC 4303 section 2.2.1). Everything with a key in it is in the SA and is wiped with it.
 */
#include "burst.h"

#include <stdlib.h>
#include <sys/random.h>

static void hash_begin(int hash, hash_state *s)
{
    switch (hash) {
    case HASH_MD5: MD5_Init(&s->md5); break;
    case HASH_SHA1: SHA1_Init(&s->sha1); break;
    case HASH_SHA256: SHA256_Init(&s->sha256); break;
    case HASH_SHA384: SHA384_Init(&s->sha512); break;
    case HASH_SHA512: SHA512_Init(&s->sha512); break;
    }
}

static void hash_update(int hash, hash_state *s, const void *data, size_t size)
{
    switch (hash) {
    case HASH_MD5: MD5_Update(&s->md5, data, size); break;
    case HASH_SHA1: SHA1_Update(&s->sha1, data, size); break;
    case HASH_SHA256: SHA256_Update(&s->sha256, data, size); break;
    case HASH_SHA384: SHA384_Update(&s->sha512, data, size); break;
    case HASH_SHA512: SHA512_Update(&s->sha512, data, size); break;
    }
}

static size_t hash_end(int hash, hash_state *s, uint8_t *digest)
{
    switch (hash) {
    case HASH_MD5: MD5_Final(digest, &s->md5); return 16;
    case HASH_SHA1: SHA1_Final(digest, &s->sha1); return 20;
    case HASH_SHA256: SHA256_Final(digest, &s->sha256); return 32;
    case HASH_SHA384: SHA384_Final(digest, &s->sha512); return 48;
    default: SHA512_Final(digest, &s->sha512); return 64;
    }
}

static size_t hash_block(int hash) { return hash >= HASH_SHA384 ? 128 : 64; }

static size_t hash_size(int hash)
{
    static const size_t sizes[] = {0, 16, 20, 32, 48, 64};
    return sizes[hash];
}

/* The two hashes of RFC 2104, each begun with its half of the key. */
static void hmac_begin(sa_t *sa, const uint8_t *key, size_t size)
{
    uint8_t pad[128];
    size_t block = hash_block(sa->hash);
    for (int half = 0; half < 2; half++) {
        hash_state *state = half ? &sa->outer : &sa->inner;
        memset(pad, half ? 0x5C : 0x36, sizeof pad);
        for (size_t n = 0; n < size; n++)
            pad[n] ^= key[n];
        hash_begin(sa->hash, state);
        hash_update(sa->hash, state, pad, block);
    }
    OPENSSL_cleanse(pad, sizeof pad);
}

static void hmac(sa_t *sa, const uint8_t *data, size_t size, uint64_t sequence, uint8_t digest[64])
{
    sa->work = sa->inner;
    hash_update(sa->hash, &sa->work, data, size);
    if (sa->extended) {
        uint8_t upper[4];
        put32(upper, (uint32_t)(sequence >> 32));
        hash_update(sa->hash, &sa->work, upper, sizeof upper);
    }
    size_t length = hash_end(sa->hash, &sa->work, digest);
    sa->work = sa->outer;
    hash_update(sa->hash, &sa->work, digest, length);
    hash_end(sa->hash, &sa->work, digest);
}

/* What AES-GCM authenticates of the header; `extended` has room for it where it does not stand so in the packet. */
static const uint8_t *header_of(const sa_t *sa, const uint8_t *esp, uint64_t sequence,
                                uint8_t extended[EXTENDED_HEADER], size_t *size)
{
    if (!sa->extended) {
        *size = ESP_HEADER;
        return esp;
    }
    memcpy(extended, esp, 4);
    put32(extended + 4, (uint32_t)(sequence >> 32));
    put32(extended + 8, (uint32_t)sequence);
    *size = EXTENDED_HEADER;
    return extended;
}

static const EVP_CIPHER *cipher_of(const parameters *given)
{
    switch (given->cipher) {
    case CIPHER_GCM:
        return given->encryption_size == 16   ? EVP_aes_128_gcm()
               : given->encryption_size == 24 ? EVP_aes_192_gcm()
               : given->encryption_size == 32 ? EVP_aes_256_gcm()
                                              : NULL;
    case CIPHER_AES_CBC:
        return given->encryption_size == 16   ? EVP_aes_128_cbc()
               : given->encryption_size == 24 ? EVP_aes_192_cbc()
               : given->encryption_size == 32 ? EVP_aes_256_cbc()
                                              : NULL;
    case CIPHER_3DES_CBC: return given->encryption_size == 24 ? EVP_des_ede3_cbc() : NULL;
    }
    return NULL;
}

/* NULL where the parameters are wrong, memory is short or libcrypto lacks the algorithm. */
sa_t *burst_sa_new(const parameters *given, uint32_t options)
{
    static const uint8_t zero[16];
    if (given->cipher < CIPHER_GCM || given->cipher > CIPHER_NULL || given->hash > HASH_SHA512
        || (given->version != 4 && given->version != 6) || given->mtu > MAXIMUM_MTU || given->window > 4096
        || given->encryption_size > sizeof given->encryption_key
        || given->integrity_size > sizeof given->integrity_key)
        return NULL;
    if (given->cipher == CIPHER_GCM ? given->hash != HASH_NONE || given->salt_size != 4 || given->icv_size != 16
                                    : given->hash == HASH_NONE || given->salt_size != 0)
        return NULL;
    if (given->hash != HASH_NONE
        && (given->icv_size > hash_size(given->hash) || given->icv_size < 12
            || given->integrity_size != hash_size(given->hash)))
        return NULL;
    if (given->extended && !given->outbound && !given->window)
        return NULL;
    sa_t *sa = calloc(1, sizeof *sa);
    if (!sa)
        return NULL;
    pthread_mutex_init(&sa->lock, NULL);
    sa->id = given->id;
    sa->spi = htonl(given->spi);
    sa->mtu = given->mtu;
    sa->outbound = given->outbound;
    sa->tunnel = given->tunnel;
    sa->udp = given->udp;
    sa->budget = given->limited ? 0 : UNLIMITED; /* Python says more after the first packet */
    sa->extended = given->extended;
    sa->mend = given->mend;
    sa->difference = given->difference;
    sa->version = given->version;
    sa->udp_source = htons(given->udp_source);
    sa->udp_destination = htons(given->udp_destination);
    sa->cipher = given->cipher;
    sa->hash = given->hash;
    sa->icv_size = given->icv_size;
    memcpy(sa->source, given->source, 16);
    memcpy(sa->destination, given->destination, 16);
    static const uint8_t iv_sizes[] = {0, 8, 16, 8, 0}, alignments[] = {0, 4, 16, 8, 4};
    sa->iv_size = iv_sizes[sa->cipher];
    sa->alignment = alignments[sa->cipher];
    if (sa->cipher == CIPHER_NULL ? given->encryption_size != 0 : !cipher_of(given))
        goto fail;
    if (sa->cipher != CIPHER_NULL) {
        sa->context = EVP_CIPHER_CTX_new();
        if (!sa->context
            || EVP_CipherInit_ex(sa->context, cipher_of(given), NULL, given->encryption_key,
                                 sa->cipher == CIPHER_GCM ? NULL : zero, sa->outbound) != 1
            || EVP_CIPHER_CTX_set_padding(sa->context, 0) != 1)
            goto fail;
        if (sa->cipher == CIPHER_GCM) {
            memcpy(sa->salt, given->encryption_key + given->encryption_size, 4);
            if (!(options & OPTION_NO_IPSEC_MB))
                sa->gcm = gcm_new(given->encryption_key, given->encryption_size);
            if (sa->gcm) {
                EVP_CIPHER_CTX_free(sa->context);
                sa->context = NULL;
            }
        }
    }
    if (sa->hash != HASH_NONE)
        hmac_begin(sa, given->integrity_key, given->integrity_size);
    if (!sa->outbound && given->window) {
        sa->window = given->window;
        for (sa->words = 2; sa->words < given->window / 64 + 2; sa->words *= 2)
            ;
        sa->seen = calloc(sa->words, sizeof *sa->seen);
        if (!sa->seen)
            goto fail;
    }
    return sa;
fail:
    burst_sa_free(sa);
    return NULL;
}

void burst_sa_free(sa_t *sa)
{
    if (!sa)
        return;
    EVP_CIPHER_CTX_free(sa->context); /* wipes */
    gcm_free(sa->gcm);
    free(sa->seen);
    pthread_mutex_destroy(&sa->lock);
    OPENSSL_cleanse(sa, sizeof *sa);
    free(sa);
}

/* As `Sealer.largest_payload`, UDP header taken off before as `OutboundEntry` does. */
int32_t largest_payload(const sa_t *sa, int32_t space)
{
    int32_t left = space - (sa->udp ? UDP_HEADER : 0) - ESP_HEADER - sa->iv_size - sa->icv_size;
    return left < 0 ? -1 : left / sa->alignment * sa->alignment - 2;
}

size_t smallest_esp(const sa_t *sa)
{
    return ESP_HEADER + sa->iv_size + sa->alignment + sa->icv_size;
}

static bool take_noise(burst_t *b, uint8_t *to, size_t size)
{
    if (b->noise_left < size) {
        if (getrandom(b->noise, sizeof b->noise, 0) != (ssize_t)sizeof b->noise)
            return false;
        b->noise_left = sizeof b->noise;
    }
    uint8_t *from = b->noise + sizeof b->noise - b->noise_left;
    memcpy(to, from, size);
    memset(from, 0, size);
    b->noise_left -= size;
    return true;
}

size_t seal_one(burst_t *b, sa_t *sa, uint8_t *esp, uint8_t next_header, size_t plain)
{
    uint8_t *iv = esp + ESP_HEADER, *body = iv + sa->iv_size, *at = body + plain, nonce[12], extended[EXTENDED_HEADER];
    const uint8_t *header;
    size_t header_size;
    size_t padding = (sa->alignment - (plain + 2) % sa->alignment) % sa->alignment;
    int done = 0;
    for (size_t n = 1; n <= padding; n++)
        *at++ = (uint8_t)n;
    *at++ = (uint8_t)padding;
    *at++ = next_header;
    int encrypted = (int)(at - body);
    uint64_t sequence = ++sa->sequence; /* taken before the first byte: whatever fails, it is not used twice */
    memcpy(esp, &sa->spi, 4);
    put32(esp + 4, (uint32_t)sequence);
    switch (sa->cipher) {
    case CIPHER_GCM:
        put32(iv, (uint32_t)(sequence >> 32));
        put32(iv + 4, (uint32_t)sequence);
        header = header_of(sa, esp, sequence, extended, &header_size);
        memcpy(nonce, sa->salt, 4);
        memcpy(nonce + 4, iv, 8);
        if (sa->gcm) {
            gcm_seal(sa->gcm, body, (size_t)encrypted, nonce, header, header_size, at);
            return at + 16 - esp;
        }
        if (EVP_EncryptInit_ex(sa->context, NULL, NULL, NULL, nonce) != 1
            || EVP_EncryptUpdate(sa->context, NULL, &done, header, (int)header_size) != 1
            || EVP_EncryptUpdate(sa->context, body, &done, body, encrypted) != 1 || done != encrypted
            || EVP_EncryptFinal_ex(sa->context, at, &done) != 1
            || EVP_CIPHER_CTX_ctrl(sa->context, EVP_CTRL_AEAD_GET_TAG, 16, at) != 1)
            return 0;
        return at + 16 - esp;
    case CIPHER_AES_CBC:
    case CIPHER_3DES_CBC:
        if (!take_noise(b, iv, sa->iv_size)
            || EVP_EncryptUpdate(sa->context, iv, &done, iv, sa->iv_size + encrypted) != 1
            || done != sa->iv_size + encrypted)
            return 0;
        break;
    }
    uint8_t digest[64];
    hmac(sa, esp, at - esp, sequence, digest);
    memcpy(at, digest, sa->icv_size);
    return at + sa->icv_size - esp;
}

int open_one(sa_t *sa, const uint8_t *esp, size_t length, uint64_t sequence, uint8_t *out, uint8_t *next_header,
             size_t *plain)
{
    const uint8_t *iv = esp + ESP_HEADER, *body = iv + sa->iv_size;
    size_t end = length - sa->icv_size; /* the caller has seen that it is at least smallest_esp */
    size_t encrypted = end - ESP_HEADER - sa->iv_size;
    uint8_t nonce[12], digest[64], icv[16], extended[EXTENDED_HEADER];
    int done = 0;
    if (sa->cipher == CIPHER_GCM) {
        size_t header_size;
        const uint8_t *header = header_of(sa, esp, sequence, extended, &header_size);
        memcpy(nonce, sa->salt, 4);
        memcpy(nonce + 4, iv, 8);
        if (sa->gcm) {
            if (!gcm_open(sa->gcm, out, body, encrypted, nonce, header, header_size, esp + end))
                return 0;
            goto opened;
        }
        memcpy(icv, esp + end, 16); /* libcrypto wants to be given what it could write to */
        if (EVP_DecryptInit_ex(sa->context, NULL, NULL, NULL, nonce) != 1
            || EVP_DecryptUpdate(sa->context, NULL, &done, header, (int)header_size) != 1
            || EVP_DecryptUpdate(sa->context, out, &done, body, (int)encrypted) != 1
            || EVP_CIPHER_CTX_ctrl(sa->context, EVP_CTRL_AEAD_SET_TAG, 16, icv) != 1
            || EVP_DecryptFinal_ex(sa->context, out + encrypted, &done) != 1)
            return 0;
    } else {
        hmac(sa, esp, end, sequence, digest);
        if (CRYPTO_memcmp(digest, esp + end, sa->icv_size) != 0)
            return 0;
        if ((end - ESP_HEADER) % sa->alignment)
            return -1;
        if (sa->cipher == CIPHER_NULL)
            memcpy(out, body, encrypted);
        /* The IV goes in as if it were ciphertext: rubbish comes out for it, before `out`. */
        else if (EVP_DecryptUpdate(sa->context, out - sa->iv_size, &done, iv, (int)(sa->iv_size + encrypted)) != 1
                 || done != (int)(sa->iv_size + encrypted))
            return 0;
    }
opened:;
    size_t padding = out[encrypted - 2];
    if (encrypted < 2 + padding)
        return -1;
    *plain = encrypted - 2 - padding;
    *next_header = out[encrypted - 1];
    for (size_t n = 0; n < padding; n++)
        if (out[*plain + n] != n + 1)
            return -1;
    return 1;
}
