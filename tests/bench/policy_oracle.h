/*
 * policy_oracle.h - when a simulated engine would give a request its first token.
 *
 * The engine is copied as it stands, the request is added to the copy, and the copy runs on
 * until the first token comes: later arrivals are not known, everything else is.  Evictions of
 * the prefix cache meanwhile are left out, and a request that waits for a slot is taken to find
 * every prefix of those before it.
 */
#ifndef DROVER_TESTS_BENCH_POLICY_ORACLE_H
#define DROVER_TESTS_BENCH_POLICY_ORACLE_H

#include <stdint.h>

#include "sim/model/sim_model.h"

/* Output tokens that a sequence in the engine has still to give; at least 1. */
typedef uint32_t oracle_left(const struct sim_seq *seq);

/* The instant of the first token of `own`, which is not in the engine yet.  Not reentrant. */
uint64_t oracle_first_token_us(const struct sim_model *model, const struct sim_seq *own,
                               uint64_t now_us, oracle_left *left);

#endif
