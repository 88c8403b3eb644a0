/* join.c - proofs that a peer holds the join token. */
#include "proto/join.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#include "base/text/buf.h"

static void add_be16(struct buf *out, size_t value)
{
    const uint8_t bytes[2] = {(uint8_t)(value >> 8), (uint8_t)value};

    buf_add(out, bytes, sizeof(bytes));
}

/* Names here are at most 255 bytes by the registry's own rules; a longer one is cut, which both
 * sides do alike. */
static void add_text(struct buf *out, const char *text)
{
    size_t n = strnlen(text, UINT16_MAX);

    add_be16(out, n);
    buf_add(out, text, n);
}

/* A proof that cannot be computed must not equal any other, so it is made of random bytes. */
static void seal(uint8_t out[JOIN_PROOF_BYTES], const char *token, struct buf *text)
{
    unsigned n = 0;

    if (text->failed ||
        HMAC(EVP_sha256(), token, (int)strnlen(token, INT16_MAX), buf_head(text),
             buf_size(text), out, &n) == NULL ||
        n != JOIN_PROOF_BYTES)
        arc4random_buf(out, JOIN_PROOF_BYTES);
    buf_finish(text);
}

static void prove(uint8_t out[JOIN_PROOF_BYTES], const char *label, const char *token,
                  const struct join_facts *facts)
{
    struct buf text = BUF_INIT;

    buf_add(&text, label, strlen(label) + 1);
    buf_add(&text, facts->server_nonce, JOIN_NONCE_BYTES);
    buf_add(&text, facts->node_nonce, JOIN_NONCE_BYTES);
    add_text(&text, facts->node_id);
    buf_add(&text, facts->instance_id, JOIN_INSTANCE_BYTES);
    add_text(&text, facts->host);
    add_be16(&text, facts->port);
    seal(out, token, &text);
}

void join_proof(uint8_t out[JOIN_PROOF_BYTES], const char *token,
                const struct join_facts *facts)
{
    prove(out, "drover.v1 join", token, facts);
}

void join_coordinator_proof(uint8_t out[JOIN_PROOF_BYTES], const char *token,
                            const struct join_facts *facts)
{
    prove(out, "drover.v1 coordinator", token, facts);
}

void join_call_proof(uint8_t out[JOIN_PROOF_BYTES], const char *token,
                     const uint8_t instance_id[JOIN_INSTANCE_BYTES])
{
    static const char label[] = "drover.v1 call";
    struct buf text = BUF_INIT;

    buf_add(&text, label, sizeof(label));
    buf_add(&text, instance_id, JOIN_INSTANCE_BYTES);
    seal(out, token, &text);
}

bool join_equal(const uint8_t *a, const uint8_t b[JOIN_PROOF_BYTES])
{
    return CRYPTO_memcmp(a, b, JOIN_PROOF_BYTES) == 0;
}
