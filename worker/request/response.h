/*
 * response.h - a node's answer, on its way to the client.
 *
 * Until content comes everything is held, so that a node that fails first leaves no trace.  A
 * single document (no event stream) is held until it is whole.  Afterwards a chunk goes to the
 * responder as it is: nothing is parsed, and nothing is allocated per token.
 *
 * Writes the client's view (enum shown) and the text that another node needs to continue it.
 * It never decides what follows a failure.
 */
#ifndef DROVER_WORKER_RESPONSE_H
#define DROVER_WORKER_RESPONSE_H

#include <stdbool.h>

#include "base/attrs.h"
#include "proto/drover_inference.pb-c.h"
#include "worker/api/surface.h"

struct attempt;
struct attempt_failure;
struct request;

/* The head of an answer.  False: the attempt has failed, and *out has the reason. */
MUST_CHECK bool response_take_head(struct attempt *attempt,
                                   const Drover__V1__ResponseHead *head,
                                   struct attempt_failure *out);

enum response_step {
    RESPONSE_TAKEN = 0,
    RESPONSE_TO_SHOW, /* it is time for response_show(): the client gets this attempt's answer
                       */
    RESPONSE_FAILED,  /* the attempt has failed, and *out has the reason */
    RESPONSE_REFUSED, /* an error where a stream has begun, and enough of it is held: its end
                       * does not matter */
};
/* The client is there. */
MUST_CHECK enum response_step response_take_chunk(struct attempt *attempt,
                                                  const Drover__V1__Chunk *chunk,
                                                  struct attempt_failure *out);
/* Shows the head of the request's attempt and what was held of it.  `whole`: nothing follows.
 */
void response_show(struct request *req, bool whole);

/* Can another node go on from what the client has, so that the body is still needed? */
bool response_may_resume(const struct request *req);
/* Drops the text of an attempt that the client has not seen: the next one must not continue it.
 */
void response_forget_unseen(struct request *req);

/* Does the node wait to be allowed to send more, because the client does not read? */
MUST_CHECK bool response_client_lags(const struct attempt *attempt);
/* Opens the node's window again once little is left on its way to the client. */
void response_release_if_low(struct attempt *attempt);

/* Comments for a client that has heard nothing for comment_after_ms; the first begins the
 * stream's answer before any node has.  The request is in the queue, or has an attempt that
 * runs. */
void response_show_waiting(struct request *req);
void response_show_running(struct request *req);

/* Reports an error: a whole error answer, or the end of the one that has begun. */
void response_error(struct request *req, enum api_error error, const char *message,
                    unsigned retry_after_s);
/* Keeps the attempt's document, unless the one that is kept has a larger figure. */
void response_keep_refusal(struct attempt *attempt);
/* All that nodes gave is refusals: shows the one that is kept, or our words where a node has
 * more than those that were asked. */
void response_show_refusal(struct request *req);
/* The engine refused a request whose stream began with a comment: its own words, as an error
 * event. */
void response_refuse_late(struct request *req);

#endif
