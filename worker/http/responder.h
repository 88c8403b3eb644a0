/*
 * responder.h - the answer to one HTTP request, written as it comes.
 *
 * Bytes given to responder_write() are gathered and leave in one write per client at the end of
 * the loop's turn; while that write is under way the next ones gather.  Two buffers per
 * responder, reused; nothing is allocated per write once they have grown.  A client that takes
 * no byte for write_stall_ms, or leaves (FIN counts unless config->allow_half_close), is gone:
 * noticed by an epoll set that watches every open request for EPOLLRDHUP, so at once and
 * without polling.
 *
 * Life: server.c makes a responder per request and hands it to its user, who sets events and
 * must call responder_end() or learn of on_gone.  Exactly one of on_done and on_gone comes,
 * from the loop and never from inside a responder_* call; after it returns the responder and
 * the request's memory are gone.
 */
#ifndef DROVER_WORKER_HTTP_RESPONDER_H
#define DROVER_WORKER_HTTP_RESPONDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct client_request;
struct responder; /* opaque */

struct responder_events {
    void (*on_drain)(void *data,
                     size_t n);  /* n more body bytes are in the client's socket; may be NULL */
    void (*on_gone)(void *data); /* the client left, or stalled, before the end */
    void (*on_done)(void *data); /* everything up to responder_end() is in the socket */
};
void responder_set_events(struct responder *r, const struct responder_events *events,
                          void *data);

/* The head.  Headers are copied; call header before start; a second value replaces the first.
 * content_length -1: chunked.  start adds x-request-id, and what keeps proxies from holding
 * back an event stream. */
void responder_header(struct responder *r, const char *name, const char *value);
void responder_start(struct responder *r, unsigned status, const char *content_type,
                     int64_t content_length);

/* Body bytes (copied).  After responder_start(). */
void responder_write(struct responder *r, const void *bytes, size_t n);
/* No more; the connection is kept for the next request.  After responder_start(). */
void responder_end(struct responder *r);
/* Cuts the answer off: closes the connection without a proper end, so that the client knows.
 * Unsent bytes are dropped.  on_gone follows. */
void responder_abort(struct responder *r);

/* Body bytes written and not yet in the socket; total body bytes written. */
size_t responder_pending(const struct responder *r);
uint64_t responder_read(const struct responder *r); /* bytes of the request's body */
uint64_t responder_written(const struct responder *r);

/* Frees the request's body before the end of the answer: no other attempt will be made.
 * request->body is NULL afterwards. */
void http_drop_body(struct client_request *request);

#endif
