/*
 * attempt.h - one try of a request on one node, from its place there to the end of the call.
 *
 * An attempt starts with a place that select_node() has claimed, and gives it back exactly
 * once, when it ends.  It knows nothing of retries and of the client's view; struct attempt and
 * its stages are in request_state.h.
 */
#ifndef DROVER_WORKER_ATTEMPT_H
#define DROVER_WORKER_ATTEMPT_H

#include <stdbool.h>

#include "base/attrs.h"
#include "policy/fault/retry.h"
#include "proto/drover_inference.pb-c.h"
#include "proto/rpc/grpc/client.h"
#include "shm/facts/stats.h"

struct attempt;
struct attempt_failure;
struct upstream;
struct node_call_events;

/* A node that reported it is full gets no request of this worker for this long. */
#define ATTEMPT_FULL_PAUSE_US UINT64_C(50000)

/* Sends the request to the node, with the text so far if the client has some.  `events` get the
 * attempt as their data.  DRV_ENOMEM: the place is given back. */
MUST_CHECK int attempt_start(struct attempt *attempt, struct upstream *node,
                             const struct node_call_events *events);

/* The node's events.  Each also counts as progress. */
void attempt_take_accepted(struct attempt *attempt, const Drover__V1__Accepted *accepted);
/* Looks whether more of a long body has gone: that is progress, too. */
void attempt_note_sent(struct attempt *attempt);
void attempt_take_head(struct attempt *attempt);
/* True: this is the attempt's first content. */
bool attempt_take_content(struct attempt *attempt);
/* The node's sums of tokens, of an answer that may not be the client's. */
void attempt_note_usage(struct attempt *attempt, const Drover__V1__Finish *finish);
/* An engine that died under the request did not die of it: another one answers. */
void attempt_absolve(struct attempt *attempt);
/* Engines died of the same request within the last minute. */
MUST_CHECK bool attempt_is_poison(const struct attempt *attempt);
/* The answer is whole; the node's sums of tokens count. */
void attempt_take_finish(struct attempt *attempt, const Drover__V1__Finish *finish);
/* Why there is no answer; the end follows. */
void attempt_take_cause(struct attempt *attempt, const Drover__V1__Cause *cause);

/* The node may send more again: if it could not, the silence until now was the client's. */
void attempt_note_release(struct attempt *attempt);

/* The call has ended by itself: nothing of it may be used any more.  The place is still held.
 */
void attempt_call_ended(struct attempt *attempt);
/* Classifies such an end without a whole answer. */
void attempt_classify(struct attempt *attempt, const struct call_result *result,
                      struct attempt_failure *out);

/* The same for retry_decide(). */
MUST_CHECK enum retry_end attempt_retry_end(const struct attempt *attempt,
                                            const struct attempt_failure *failure);
/* Did the node refuse the request for what it lacks, or blame it, before any content? */
MUST_CHECK bool attempt_is_refused(const struct attempt *attempt);
/* The attempt ends like this for a request that has a client: what that says of the request,
 * and what it teaches of the node. */
void attempt_note_cause(struct attempt *attempt, enum retry_end end);

/* Ends it: cancels a call that still runs, and gives the place back, which counts as `outcome`.
 * Fine when it has ended. */
void attempt_end(struct attempt *attempt, enum stats_counter outcome);
/* The same after FINISHED: the answer enters the statistics. */
void attempt_end_whole(struct attempt *attempt);

#endif
