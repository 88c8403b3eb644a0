/* fields.h - header fields on their way out, for client_call.c and server_call.c. */
#ifndef DROVER_PROTO_RPC_GRPC_FIELDS_H
#define DROVER_PROTO_RPC_GRPC_FIELDS_H

#include <nghttp2/nghttp2.h>
#include <stddef.h>

#include "base/attrs.h"

struct buf;

#define FIELDS_MAX_CUSTOM 48

/* Both strings are borrowed; nghttp2 copies them on submission. */
nghttp2_nv field_of(const char *name, const char *value);

/* Appends a custom field to `packed`: name NUL value NUL, "-bin" values in base64.  DRV_EINVAL:
 * reserved name, or a NUL in a text value (HTTP has none).  DRV_ENOMEM. */
MUST_CHECK int fields_pack(struct buf *packed, const char *name, const void *value, size_t n);

/* Adds the fields from text[0..n) to `to`, which has room for FIELDS_MAX_CUSTOM of them;
 * returns how many. */
size_t fields_unpack(nghttp2_nv *to, const char *text, size_t n);

#endif
