/*
 * status.h - gRPC status codes and the small text forms of the protocol.  Pure.
 *
 * Sources: grpc/grpc doc/statuscodes.md, doc/PROTOCOL-HTTP2.md,
 * doc/http-grpc-status-mapping.md.
 */
#ifndef DROVER_PROTO_RPC_GRPC_STATUS_H
#define DROVER_PROTO_RPC_GRPC_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct buf;

enum grpc_status {
    GRPC_OK = 0,
    GRPC_CANCELLED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_ALREADY_EXISTS = 6,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_FAILED_PRECONDITION = 9,
    GRPC_ABORTED = 10,
    GRPC_OUT_OF_RANGE = 11,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_DATA_LOSS = 15,
    GRPC_UNAUTHENTICATED = 16,
};

/* "UNAVAILABLE"; "UNKNOWN" for a number outside the enum. */
const char *grpc_status_name(enum grpc_status status);

/* The value of a grpc-status field; anything but a number 0..16 without leading zeros is
 * UNKNOWN. */
enum grpc_status grpc_status_parse(const void *value, size_t n);

/* The meaning of a response without grpc-status, by its :status (client side only). */
enum grpc_status grpc_status_from_http(unsigned http_status);

/* The meaning of RST_STREAM with this HTTP/2 error code.  CANCEL from a server is CANCELLED. */
enum grpc_status grpc_status_from_h2(uint32_t h2_error_code);

/* grpc-message: percent-encodes all but 0x20..0x24 and 0x26..0x7e; decoding never fails. */
void grpc_message_encode(struct buf *out, const char *text);
void grpc_message_decode(struct buf *out, const void *value, size_t n);

/* grpc-timeout.  Encoding rounds up and never gives 0; decoding is strict (1 to 8 digits and
 * one of H M S m u n) and saturates.  Durations in microseconds. */
#define GRPC_TIMEOUT_TEXT_BYTES 16
void grpc_timeout_encode(char out[GRPC_TIMEOUT_TEXT_BYTES], uint64_t timeout_us);
MUST_CHECK bool grpc_timeout_decode(uint64_t *timeout_us, const void *value, size_t n);

/* Base64 of "-bin" metadata: emitted without padding, accepted with and without. */
void grpc_bin_encode(struct buf *out, const void *bytes, size_t n);
MUST_CHECK bool grpc_bin_decode(struct buf *out, const void *text, size_t n);

#endif
