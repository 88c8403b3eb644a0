/*
 * order.h - the order of waiting requests.  Pure.
 *
 * A key is an instant; the least goes first:
 *
 *   arrival + cost of the class + the lesser of ten times its own prefill and 5 s
 *
 * The classes cost 0 (interactive), 5 s (default) and 20 s (bulk).  Both additions are bounded:
 * a request waits at most 25 s longer than one that came with it.  Ten seconds of waiting
 * outweigh one second of prefill: where short and long prompts wait together, short ones go
 * first unless they are much younger.
 */
#ifndef DROVER_POLICY_QUEUE_ORDER_H
#define DROVER_POLICY_QUEUE_ORDER_H

#include <stdint.h>

#include "base/kinds.h"
#include "policy/route/times.h"

/* `prefill_s`: seconds that the prompt takes on the node where it takes least; 0 if not known.
 * A number that makes no sense counts as the most. */
uint64_t order_key_us(uint64_t arrival_mono_us, enum request_priority priority,
                      double prefill_s, const struct route_times *times);

#endif
