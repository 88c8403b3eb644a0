/*
 * call_proofs.h - the metadata by which a caller proves the token to one instance of a node.
 * Pure.
 *
 * A proof of the newest token, and while there are two, one of the previous token as well: the
 * node may know only that.  join.h has the bytes of a proof.
 */
#ifndef DROVER_PROTO_CALL_PROOFS_H
#define DROVER_PROTO_CALL_PROOFS_H

#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "proto/join.h"
#include "proto/rpc/grpc/client.h"

struct call_proofs {
    uint8_t bytes[2][JOIN_PROOF_BYTES];
    struct call_metadata metadata[2]; /* of these bytes: the struct must not be copied */
};

/* Proves `tokens`, newest first, NULL = none.  Returns how many entries `metadata` has; they
 * must stay until call_start() has copied them. */
MUST_CHECK size_t call_proofs_make(struct call_proofs *out, char *const tokens[2],
                                   const uint8_t instance_id[JOIN_INSTANCE_BYTES]);

#endif
