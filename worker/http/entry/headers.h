/* headers.h - what the header lines of a request say, apart from keys.  Inside worker/http
 * only. */
#ifndef DROVER_WORKER_HTTP_ENTRY_HEADERS_H
#define DROVER_WORKER_HTTP_ENTRY_HEADERS_H

#include <h2o.h>
#include <stdbool.h>

#include "base/attrs.h"

struct client_request;
struct inspected;

/* The first value of the header, whose name is in lower case; a NULL base: it is not there. */
h2o_iovec_t header_value(const h2o_req_t *req, const char *name);
MUST_CHECK bool header_is_printable(const h2o_iovec_t *value);
/* In the request's pool, with a NUL. */
const char *header_copy(h2o_req_t *req, const h2o_iovec_t *text);
/* Takes the white space away that libh2o leaves behind values. */
void headers_trim(h2o_req_t *req);

/* Fills request->forward: what engines get. */
void headers_collect_forwarded(struct client_request *request, h2o_req_t *req);
/* The key that keeps a conversation on the node that has it cached, or NULL. */
const char *headers_find_session(h2o_req_t *req, const struct inspected *body);
/* Adds this coordinator to the list of those that the request has passed.  False: it is there
 * already, or the list is too long; a client that sends such a list refuses itself only. */
MUST_CHECK bool headers_pass_on(struct client_request *request, h2o_req_t *req);

#endif
