/*
 * heads.h - shows libh2o one head at a time: whole, well-formed, and without its body if that
 * is not there.  Inside worker/http only.
 *
 * libh2o refuses what it cannot read with a constant text and no request, reads bodies before
 * anything is asked, and takes bytes behind a request for the next one.  So it is not shown
 * such things: a callback in the place of its own looks at the bytes first.  A head that is
 * refused is replaced by one that names the same path, and server.c gives the answer.
 */
#ifndef DROVER_WORKER_HTTP_ENTRY_HEADS_H
#define DROVER_WORKER_HTTP_ENTRY_HEADS_H

#include <h2o.h>

struct client_connection;

/* Looks at what the connection brings from now on, and at what it has brought, before libh2o.
 */
void heads_watch(struct client_connection *conn);
/* The present request is over: likewise for the next one, once this turn is over. */
void heads_next(struct client_connection *conn);
/* Makes libh2o close a connection that has no request open, now. */
void heads_close(struct client_connection *conn);
/* The connection is gone. */
void heads_finish(struct client_connection *conn);

/* Copies the head of a request whose body is not shown: libh2o leaves it in its buffer where it
 * sees no body. */
void heads_keep(h2o_req_t *req);

#endif
