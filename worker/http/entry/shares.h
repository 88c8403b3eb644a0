/*
 * shares.h - whose a connection is, and what its client holds.  Inside worker/http only.
 *
 * A connection is its address's until a request shows an API key, or comes through a trusted
 * proxy from another address; it is that client's from then on, until another request says
 * otherwise.  policy/share/clients.h has the rules.
 */
#ifndef DROVER_WORKER_HTTP_ENTRY_SHARES_H
#define DROVER_WORKER_HTTP_ENTRY_SHARES_H

#include <stddef.h>
#include <stdint.h>

#include "policy/share/clients.h"

struct client_connection;
struct client_request;

/* A new connection, of the client that has this address. */
void shares_join(struct client_connection *conn, uint64_t address);
void shares_leave(struct client_connection *conn);
/* The connection's present request is admitted, and holds nothing yet: sets its caller. */
void shares_know(struct client_connection *conn, struct client_request *request);

/* Bytes of bodies, of its present request. */
void shares_hold(struct client_connection *conn, size_t n);
void shares_release(struct client_connection *conn, size_t n);
/* May the request hold n more bytes of the body of which it has `one`? */
enum share_verdict shares_judge(const struct client_connection *conn, size_t one, size_t n);

#endif
