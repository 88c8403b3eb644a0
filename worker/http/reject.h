/* reject.h - sends replies of Drover's own: errors, and what needs no node. */
#ifndef DROVER_WORKER_HTTP_REJECT_H
#define DROVER_WORKER_HTTP_REJECT_H

#include "worker/api/surface.h"

struct client_request;
struct reply;

/*
 * Answers `request` with an error of ours in its surface's shape, with x-request-id,
 * x-drover-reason, Retry-After (if retry_after_s != 0, clamped to 1..60) and x-should-retry.
 * Before responder_start() only.
 */
void http_reply_error(struct client_request *request, enum api_error error, const char *message,
                      unsigned retry_after_s);

/* The same for a request rejected before it has an owner, with the name of the wrong field, or
 * NULL.  The server writes the access log. */
void http_reject(struct client_request *request, enum api_error error, const char *message,
                 const char *param, unsigned retry_after_s);
/* Sends a whole reply, which stays the caller's; likewise. */
void http_send_reply(struct client_request *request, const struct reply *reply);

#endif
