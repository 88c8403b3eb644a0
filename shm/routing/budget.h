/*
 * budget.h - how much may be retried: one bucket per model, shared by all workers.
 *
 * The throttle of gRPC (proposal A6): a bucket of 10 tokens; each failed attempt takes one,
 * each success puts back 0.1; retries are allowed while more than half is there.  So a node
 * that fails now and then is retried elsewhere, and when everything fails the retries stop
 * instead of multiplying the load.
 *
 * Any worker adds, by compare-and-swap on one word per model; nothing is locked.  The table has
 * BUDGET_MODELS places; a model beyond that takes the place of the one unused for longest,
 * which then starts again with a full bucket.  A model that never failed has a full bucket.
 */
#ifndef DROVER_SHM_BUDGET_H
#define DROVER_SHM_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

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
/* What is in the bucket, 0..BUDGET_MAX_MILLI. */
uint32_t budget_milli(const struct scoreboard *board, uint64_t model_hash);

#endif
