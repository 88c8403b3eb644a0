/* accept.h - accepts connections and closes them.  Inside worker/http only. */
#ifndef DROVER_WORKER_HTTP_ACCEPT_H
#define DROVER_WORKER_HTTP_ACCEPT_H

#include <h2o.h>

#include "base/attrs.h"

struct client_connection;
struct error;
struct http_server;

MUST_CHECK int accept_init(struct http_server *server, struct error *err);
void accept_stop(struct http_server *server);
void accept_finish(struct http_server *server);
struct client_connection *connection_of(h2o_req_t *req);

#endif
