/*
 * tls_stream.h - one TLS connection as a filter between byte buffers.  Does no I/O.
 *
 * libh2o could run TLS under its sockets, but version 2.2.5 hides the SSL object (so a peer
 * cannot be verified by address, nor our alert be sent) and treats a TLS 1.3 key update as an
 * error.  Here ciphertext goes in and out by memory BIOs and the session does the socket.
 */
#ifndef DROVER_PROTO_RPC_H2_TLS_STREAM_H
#define DROVER_PROTO_RPC_H2_TLS_STREAM_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct buf;
struct error;
struct tls_stream; /* opaque */

enum tls_progress {
    TLS_MORE = 0, /* needs more from the peer */
    TLS_DONE,     /* handshake over, and ALPN is h2 */
    TLS_FAILED,
};

/* `name`, for clients: host name (SNI, verified) or IP address (verified); NULL = neither. */
MUST_CHECK int tls_stream_create(struct tls_stream **out, SSL_CTX *ctx, bool server,
                                 const char *name, struct error *err);
void tls_stream_destroy(struct tls_stream *tls); /* NULL is allowed */

/* Ciphertext from the peer.  DRV_ENOMEM. */
MUST_CHECK int tls_stream_feed(struct tls_stream *tls, const void *bytes, size_t n);

/* Goes on with the handshake; with TLS_FAILED `err` has the reason. */
MUST_CHECK enum tls_progress tls_stream_handshake(struct tls_stream *tls, struct error *err);

/* Decrypts: bytes stored (0 = none now); DRV_ECLOSED after close_notify, DRV_EPROTO for garbage
 * or an alert, with `err` set. */
MUST_CHECK int tls_stream_read(struct tls_stream *tls, void *out, size_t cap,
                               struct error *err);

/* Encrypts.  DRV_EPROTO. */
MUST_CHECK int tls_stream_write(struct tls_stream *tls, const void *bytes, size_t n);

/* Queues close_notify. */
void tls_stream_close(struct tls_stream *tls);

/* Moves the ciphertext made so far to `out`. */
void tls_stream_drain(struct tls_stream *tls, struct buf *out);

#endif
