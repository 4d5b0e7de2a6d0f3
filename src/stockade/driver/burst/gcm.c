/* AES-GCM by Intel's ipsec-mb, where its library is on the machine: one call a packet and wide vector instructions,
 * for a packet of 1400 bytes a fifth of what libcrypto 3.0 takes. Found at run time, so nothing depends on it; built
 * in where its header was there. Without either, AES-GCM is libcrypto's as all else.
 */
#include "burst.h"

#if defined(__has_include)
#if __has_include(<intel-ipsec-mb.h>) && !defined(WITHOUT_IPSEC_MB)
#define HAVE_IPSEC_MB 1
#endif
#endif

#ifdef HAVE_IPSEC_MB
#include <dlfcn.h>
#include <intel-ipsec-mb.h>
#include <stdlib.h>

struct gcm {
    struct gcm_key_data key;
    aes_gcm_enc_dec_t encrypt, decrypt;
};

static IMB_MGR *manager;

/* What a packet needs while it is worked on: of each thread, not of each SA, so that thousands of those do not push each
 * other out of the cache. */
static __thread struct gcm_context_data context;

/* Loaded once, never unloaded. */
static IMB_MGR *load_manager(void)
{
    static bool tried;
    if (tried)
        return manager;
    tried = true;
    void *library = dlopen("libIPSec_MB.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return NULL;
    unsigned (*version)(void) = (unsigned (*)(void))dlsym(library, "imb_get_version");
    IMB_MGR *(*allocate)(uint64_t) = (IMB_MGR * (*)(uint64_t)) dlsym(library, "alloc_mb_mgr");
    void (*begin)(IMB_MGR *, IMB_ARCH *) = (void (*)(IMB_MGR *, IMB_ARCH *))dlsym(library, "init_mb_mgr_auto");
    /* Its functions are members of a structure: only the version that this was built for is sure to have them there. */
    if (!version || !allocate || !begin || version() != IMB_VERSION_NUM)
        return NULL;
    IMB_MGR *made = allocate(0);
    if (!made)
        return NULL;
    IMB_ARCH arch = IMB_ARCH_NONE;
    begin(made, &arch);
    if (made->imb_errno == 0 && arch >= IMB_ARCH_AVX)
        manager = made;
    return manager;
}

bool gcm_available(void) { return load_manager() != NULL; }

struct gcm *gcm_new(const uint8_t *key, size_t size)
{
    IMB_MGR *with = load_manager();
    struct gcm *gcm;
    if (!with || (size != 16 && size != 24 && size != 32) || posix_memalign((void **)&gcm, 64, sizeof *gcm))
        return NULL;
    memset(gcm, 0, sizeof *gcm);
    switch (size) {
    case 16:
        IMB_AES128_GCM_PRE(with, key, &gcm->key);
        gcm->encrypt = with->gcm128_enc, gcm->decrypt = with->gcm128_dec;
        break;
    case 24:
        IMB_AES192_GCM_PRE(with, key, &gcm->key);
        gcm->encrypt = with->gcm192_enc, gcm->decrypt = with->gcm192_dec;
        break;
    default:
        IMB_AES256_GCM_PRE(with, key, &gcm->key);
        gcm->encrypt = with->gcm256_enc, gcm->decrypt = with->gcm256_dec;
    }
    return gcm;
}

void gcm_free(struct gcm *gcm)
{
    if (gcm)
        OPENSSL_cleanse(gcm, sizeof *gcm);
    free(gcm);
}

void gcm_seal(struct gcm *gcm, uint8_t *body, size_t size, const uint8_t nonce[12], const uint8_t *header,
              size_t header_size, uint8_t *icv)
{
    gcm->encrypt(&gcm->key, &context, body, body, size, nonce, header, header_size, icv, 16);
}

bool gcm_open(struct gcm *gcm, uint8_t *to, const uint8_t *body, size_t size, const uint8_t nonce[12],
              const uint8_t *header, size_t header_size, const uint8_t *icv)
{
    uint8_t found[16];
    gcm->decrypt(&gcm->key, &context, to, body, size, nonce, header, header_size, found, 16);
    return CRYPTO_memcmp(found, icv, 16) == 0;
}

#else
bool gcm_available(void) { return false; }

struct gcm *gcm_new(const uint8_t *key, size_t size)
{
    (void)key, (void)size;
    return NULL;
}

void gcm_free(struct gcm *gcm) { (void)gcm; }

void gcm_seal(struct gcm *gcm, uint8_t *body, size_t size, const uint8_t nonce[12], const uint8_t *header,
              size_t header_size, uint8_t *icv)
{
    (void)gcm, (void)body, (void)size, (void)nonce, (void)header, (void)header_size, (void)icv;
}

bool gcm_open(struct gcm *gcm, uint8_t *to, const uint8_t *body, size_t size, const uint8_t nonce[12],
              const uint8_t *header, size_t header_size, const uint8_t *icv)
{
    (void)gcm, (void)to, (void)body, (void)size, (void)nonce, (void)header, (void)header_size, (void)icv;
    return false;
}
#endif

int burst_has_ipsec_mb(void) { return gcm_available(); }
