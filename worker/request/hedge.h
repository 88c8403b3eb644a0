/*
 * hedge.h - a second attempt beside one that is slow.
 *
 * A request is hedged when its node has given no content for longer than 95 % of the first
 * tokens took there (the node's own histogram, over all workers): by then it is in the slowest
 * twentieth, and another node with a free slot is likely to be sooner.  This is the hedged
 * request of Dean and Barroso ("The Tail at Scale", 2013).
 *
 * There is one hedge at most in a request's life, only before its first content, only where a
 * slot is free at that moment and no request waits for it, only with a body of 1 MiB at most,
 * and only as long as there is budget: so much percent of the answers that were given, over all
 * workers, and none while retries are throttled.  The first attempt to give content is the
 * client's; the other is cancelled in the same turn, and that is no failure of its node.  The
 * client has seen nothing of either before, so it gets one attempt's bytes alone.  An attempt
 * that fails leaves the other to go on as if alone.
 */
#ifndef DROVER_WORKER_HEDGE_H
#define DROVER_WORKER_HEDGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct attempt;
struct config_hedge;
struct histogram;
struct node_call_events;
struct request;

#define HEDGE_QUANTILE 0.95

/* From dispatch to the hedge; `ttft` is the node's, `attempts_left` how many more the request
 * may have.  Pure.  0 = not to be hedged: it is off, there is no attempt left, or too little is
 * known of the node to call anything slow. */
uint64_t hedge_delay_us(const struct config_hedge *config, const struct histogram *ttft,
                        uint32_t attempts_left);

/* An attempt has begun without a rival: works out when it is to be hedged. */
void hedge_plan(struct request *req);
/* It is hedge_due_mono_us: starts the second attempt, or looks again a little later. */
void hedge_try(struct request *req, const struct node_call_events *events);
/* This attempt gave content, or a whole answer: it is the client's from here on, and the other,
 * if there is one, is stopped. */
void hedge_adopt(struct attempt *attempt);
/* This attempt has ended.  True: there is another, now req->attempt; else req->attempt stays.
 */
bool hedge_leave(struct attempt *attempt);
/* An answer was whole: a little more may be hedged. */
void hedge_earn(struct request *req);

#endif
