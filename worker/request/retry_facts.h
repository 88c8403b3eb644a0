/*
 * retry_facts.h - the end of an attempt, for its request and for retry_decide().
 *
 * Each function takes one kind of end.  It ends the attempt where there is one, notes what that
 * says of the request (the client's error if no other node helps, the node to pass over, the
 * budget of retries), and returns the facts.  It never decides what follows, and never writes
 * the request's state.
 */
#ifndef DROVER_WORKER_RETRY_FACTS_H
#define DROVER_WORKER_RETRY_FACTS_H

#include "base/attrs.h"
#include "policy/fault/retry.h"

struct attempt;
struct attempt_failure;
struct request;

/* The attempt has failed; its place is still held. */
MUST_CHECK struct retry_facts retry_facts_failed(struct attempt *attempt,
                                                 struct attempt_failure *failure);
/* The answer is whole, and the call is over or overdue. */
MUST_CHECK struct retry_facts retry_facts_answered(struct attempt *attempt);
/* Every node that could take the request has failed. */
MUST_CHECK struct retry_facts retry_facts_no_node_left(const struct request *req);

#endif
