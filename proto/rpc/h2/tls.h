/*
 * tls.h - OpenSSL contexts for every listener and connection: TLS 1.2 or newer, no
 * renegotiation, no compression, no session tickets shared between listeners.
 */
#ifndef DROVER_PROTO_RPC_H2_TLS_H
#define DROVER_PROTO_RPC_H2_TLS_H

#include <openssl/ssl.h>

#include "base/attrs.h"
#include "base/config/config.h"

struct error;

enum tls_protocol {
    TLS_PROTOCOL_H2,   /* ALPN "h2", demanded */
    TLS_PROTOCOL_HTTP1 /* ALPN "http/1.1" only */
};

/* A context for a listener.  Needs cert and key; with `ca` a client certificate is demanded and
 * checked.  DRV_ESYS: a file is missing or unreadable; DRV_EINVAL: it does not fit; `err` names
 * it. */
MUST_CHECK int tls_server_context(SSL_CTX **out, const struct config_tls *tls,
                                  enum tls_protocol protocol, struct error *err);

/* A context for outgoing h2 connections: verifies against `ca`, or the system's store without
 * it; presents cert and key if given. */
MUST_CHECK int tls_client_context(SSL_CTX **out, const struct config_tls *tls,
                                  struct error *err);

/* Gives a context that is in use the certificate, key and authorities of another, of the same
 * side; connections that exist are not touched.  DRV_ENOMEM: nothing has changed, or not all.
 */
MUST_CHECK int tls_context_take(SSL_CTX *to, SSL_CTX *from);

#endif
