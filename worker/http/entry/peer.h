/*
 * peer.h - which client a connection and a request are of, where proxies are between:
 * api.trusted_proxies.  Inside worker/http only.
 *
 * A trusted proxy is believed, and no other peer: a PROXY line at the beginning of a
 * connection, before TLS, and X-Forwarded-For in the head of each request.
 */
#ifndef DROVER_WORKER_HTTP_ENTRY_PEER_H
#define DROVER_WORKER_HTTP_ENTRY_PEER_H

#include <h2o.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct client_connection;
struct client_request;
struct error;
struct http_server;
struct peer_address;

MUST_CHECK int peer_init(struct http_server *server, struct error *err);
void peer_finish(struct http_server *server);

/* The client, as a number, of a connection that has just been accepted, as far as the bytes
 * that are there say so. */
uint64_t peer_of_newcomer(const struct http_server *server, int fd,
                          const struct peer_address *peer);

/* The connection's client has this address: sets it, whether it is a trusted proxy, and whose
 * share the connection counts to. */
void peer_set(struct client_connection *conn, const struct peer_address *address);

enum peer_line {
    PEER_LINE_NONE = 0, /* there is none, or it names no client */
    PEER_LINE_CLIENT,   /* the connection is another client's now */
    PEER_LINE_MORE,     /* its end has not come */
    PEER_LINE_BAD,      /* logged; the connection is to be closed */
};
/* Takes the PROXY line off the bytes that have come from a trusted proxy. */
MUST_CHECK enum peer_line peer_take_line(struct client_connection *conn);

/* Sets the request's client. */
void peer_of_request(struct client_request *request, h2o_req_t *req);

#endif
