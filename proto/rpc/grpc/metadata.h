/* metadata.h - the custom header fields of one call, as received.  Pure. */
#ifndef DROVER_PROTO_RPC_GRPC_METADATA_H
#define DROVER_PROTO_RPC_GRPC_METADATA_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"
#include "base/text/buf.h"

struct metadata {
    struct buf fields; /* records: lengths, name NUL, value NUL; in order of arrival */
};

void metadata_finish(struct metadata *metadata);

/* Is this field kept?  Not: pseudo fields, grpc-*, and what HTTP itself uses. */
MUST_CHECK bool metadata_is_custom(const void *name, size_t n);

/* Every comma of a "-bin" value makes a record, so few bytes of a peer's could make many here.
 */
#define METADATA_MAX_BYTES 16384

/* Appends a field; "-bin" values are decoded, each part of a comma-separated list by itself.
 * Nothing is appended when it fails.  DRV_EINVAL: bad base64.  DRV_ETOOBIG: a "-bin" value that
 * would go over METADATA_MAX_BYTES.  DRV_ENOMEM. */
MUST_CHECK int metadata_add(struct metadata *metadata, const void *name, size_t name_len,
                            const void *value, size_t value_len);

/* The first value of `name`, NUL-terminated, valid until the next metadata_add(); or NULL.
 * `n` may be NULL. */
const void *metadata_get(const struct metadata *metadata, const char *name, size_t *n);

#endif
