/*
 * budget.h - how much may be retried and hedged: two buckets per model, shared by all workers.
 *
 * The throttle of gRPC (proposal A6): a bucket of 10 tokens; each failed attempt takes one,
 * each success puts back 0.1; retries are allowed while more than half is there.  So a node
 * that fails now and then is retried elsewhere, and when everything fails the retries stop
 * instead of multiplying the load.
 *
 * Hedges have a bucket of their own, empty at first: each answer saves a part of a token, each
 * hedge spends one.  So hedges are at most that part of the answers, whatever the nodes do, and
 * at most ten come at once after a quiet time.
 *
 * Any worker adds, by compare-and-swap on one word per model; nothing is locked.  The table has
 * BUDGET_MODELS places; a model beyond that takes the place of the one unused for longest,
 * which then starts again as a new one.  A model that never failed has a full bucket.
 */
#ifndef DROVER_SHM_SHARE_BUDGET_H
#define DROVER_SHM_SHARE_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct scoreboard;

#define BUDGET_MODELS          64u
#define BUDGET_MAX_MILLI       10000u /* tokens, in thousandths */
#define BUDGET_FAILURE_MILLI   1000u
#define BUDGET_SUCCESS_MILLI   100u
#define BUDGET_THRESHOLD_MILLI (BUDGET_MAX_MILLI / 2) /* retries need more than this */

/* An attempt failed in a way that could be retried / an attempt succeeded. */
void budget_failure(struct scoreboard *board, uint64_t model_hash, uint64_t now_mono_us);
void budget_success(struct scoreboard *board, uint64_t model_hash, uint64_t now_mono_us);
/* May a failed attempt be retried now?  Reads only. */
bool budget_allows(const struct scoreboard *board, uint64_t model_hash);
/* The bucket's content, 0..BUDGET_MAX_MILLI. */
uint32_t budget_milli(const struct scoreboard *board, uint64_t model_hash);

#define BUDGET_HEDGE_MILLI 1000u /* what one hedge costs */

/* Puts so many thousandths of a token into the bucket for hedges, up to BUDGET_MAX_MILLI. */
void budget_save(struct scoreboard *board, uint64_t model_hash, uint64_t now_mono_us,
                 uint32_t milli);
/* Takes what one hedge costs.  False: it is not there, and nothing is taken. */
MUST_CHECK bool budget_spend(struct scoreboard *board, uint64_t model_hash,
                             uint64_t now_mono_us);

#endif
