/*
 * hedge.h - when a request deserves a second attempt beside one that is slow.  Pure.
 *
 * A request is hedged when its node has given no content for longer than 95 % of the first
 * tokens took there (the node's own histogram, over all workers): by then it is in the slowest
 * twentieth, and another node with a free slot is likely to be sooner.  This is the hedged
 * request of Dean and Barroso ("The Tail at Scale", 2013).  How many may be started is a matter
 * of shm/routing/budget.h.
 */
#ifndef DROVER_WORKER_HEDGE_H
#define DROVER_WORKER_HEDGE_H

#include <stdint.h>

struct config_hedge;
struct histogram;

#define HEDGE_QUANTILE 0.95

/* From dispatch to the hedge; `ttft` is the node's, `attempts_left` how many more the request
 * may have.  0 = not to be hedged: it is off, there is no attempt left, or too little is known
 * of the node to call anything slow. */
uint64_t hedge_delay_us(const struct config_hedge *config, const struct histogram *ttft,
                        uint32_t attempts_left);

#endif
