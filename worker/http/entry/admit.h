/* admit.h - may this request be served, by its key and by the web page it comes from?  Inside
 * worker/http only. */
#ifndef DROVER_WORKER_HTTP_ENTRY_ADMIT_H
#define DROVER_WORKER_HTTP_ENTRY_ADMIT_H

#include <h2o.h>
#include <stdbool.h>

#include "base/attrs.h"

struct client_request;
struct route;

/* True: the request goes on.  False: it has its answer.  A page that is not listed never gets
 * past the browser's question; what browsers send without asking reaches nothing where no key
 * protects it. */
MUST_CHECK bool admit_page(struct client_request *request, h2o_req_t *req,
                           const struct route *route);
/* True: the request goes on, and has its key's name.  False: it has been rejected. */
MUST_CHECK bool admit_caller(struct client_request *request, h2o_req_t *req,
                             const struct route *route);

#endif
