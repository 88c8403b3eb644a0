/*
 * join.h - proofs that a peer holds the join token, which itself never crosses the wire.  Pure.
 *
 *   join   HMAC-SHA-256(token, "drover.v1 join" 0 server_nonce node_nonce len16(node_id)
 * node_id instance_id len16(host) host port16) coord  the same with "drover.v1 coordinator"
 *   call   HMAC-SHA-256(token, "drover.v1 call" 0 instance_id), sent as metadata
 *          drover-call-proof-bin with every Inference call but Describe, which reports the
 *          instance.  It proves the token to this one instance; without TLS an eavesdropper
 *          can replay it against the same instance, so untrusted networks need TLS.
 */
#ifndef DROVER_PROTO_JOIN_H
#define DROVER_PROTO_JOIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

#define JOIN_PROOF_BYTES    32
#define JOIN_NONCE_BYTES    32
#define JOIN_INSTANCE_BYTES 16
#define JOIN_CALL_METADATA  "drover-call-proof-bin"
/* A second proof, of the previous token, while there are two: a node may know only that. */
#define JOIN_CALL_PREVIOUS_METADATA "drover-call-proof-previous-bin"

struct join_facts {
    uint8_t server_nonce[JOIN_NONCE_BYTES];
    uint8_t node_nonce[JOIN_NONCE_BYTES];
    uint8_t instance_id[JOIN_INSTANCE_BYTES];
    const char *node_id;
    const char *host; /* as in Register; "" = peer address */
    uint16_t port;
};

void join_proof(uint8_t out[JOIN_PROOF_BYTES], const char *token,
                const struct join_facts *facts);
void join_coordinator_proof(uint8_t out[JOIN_PROOF_BYTES], const char *token,
                            const struct join_facts *facts);
void join_call_proof(uint8_t out[JOIN_PROOF_BYTES], const char *token,
                     const uint8_t instance_id[JOIN_INSTANCE_BYTES]);

/* Constant-time comparison. */
MUST_CHECK bool join_equal(const uint8_t *a, const uint8_t b[JOIN_PROOF_BYTES]);

#endif
