/*
 * sim_model.h - how a simulated engine spends its time: slots, steps, prefix cache.
 *
 * The engine works in steps, as continuous batching does.  A request waits in one FIFO until a
 * slot is free.  At the start of a step the model admits what it can, then takes up to
 * `chunk_tokens` prompt tokens from the requests in prefill, first come first served, and one
 * token from each of the b requests that decode.  The step lasts
 *
 *     base_us + slope_us * b + chunk / prefill_tokens_per_s
 *
 * and at its end each of the b requests, and each whose prefill it completed, gives one token.
 * With `rate` there are no steps: prefill takes no time, the first token comes at admission and
 * the others at a fixed pace.
 *
 * Pure: time is passed in, nothing is read, and nothing is allocated after init, except by the
 * slot cache.
 */
#ifndef DROVER_SIM_MODEL_H
#define DROVER_SIM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "sim/model/sim_cache.h"

enum sim_cache_mode {
    SIM_CACHE_NONE = 0,
    SIM_CACHE_BLOCK, /* one LRU of blocks for all slots; filled when a prefill ends */
    SIM_CACHE_SLOT,  /* each slot keeps its last prompt; the best match above 10 % is chosen,
                        else the slot that has been idle longest */
};

struct sim_model_config {
    uint32_t slots;              /* >= 1 */
    double prefill_tokens_per_s; /* > 0 */
    double base_us, slope_us;    /* >= 0 */
    uint32_t chunk_tokens;       /* >= 1; prompt tokens in one step at most */
    enum sim_cache_mode cache;
    uint32_t block_tokens; /* >= 1 */
    uint32_t cache_blocks; /* of the block cache */
    double rate;           /* tokens per second of each stream; 0 = steps */
    uint32_t spread;       /* with rate: >= 1; the streams take turns in so many groups, so that
                              not all tokens come at the same instant */
};

/*
 *   from      when                            to
 *   --------  ------------------------------  --------
 *   IDLE      sim_model_add()                 QUEUED
 *   QUEUED    a slot is free and its turn     PREFILL   (DECODE with rate)
 *   PREFILL   the last prompt token is done   DECODE
 *   any       sim_model_remove()              IDLE
 */
enum sim_phase {
    SIM_IDLE = 0,
    SIM_QUEUED,
    SIM_PREFILL,
    SIM_DECODE,
};

/* One request in the model; embedded by the caller, which zeroes it and sets the first part. */
struct sim_seq {
    uint32_t prompt_tokens; /* >= 1 */
    const uint64_t *blocks; /* borrowed until removed; chained hashes of the whole blocks */
    size_t n_blocks;
    uint32_t stride; /* gives a token in every stride-th step only; 0 is 1 */
    bool stalled;    /* gives none and costs nothing; may change at any time */

    enum sim_phase phase;
    uint32_t cached_tokens; /* of the prompt, found at admission */
    uint32_t prefilled;     /* prompt tokens done, cached ones included */
    uint32_t slot;          /* valid in PREFILL and DECODE */
    uint64_t admitted_mono_us;
    uint32_t chunk;   /* prompt tokens in the present step */
    uint32_t skipped; /* steps since the last token */
    bool due;         /* gives a token at the end of the present step */
    struct sim_seq *prev, *next;
};

struct sim_list {
    struct sim_seq *first, *last;
};

struct sim_slot {
    struct sim_seq *seq; /* NULL = free */
    uint64_t *blocks;    /* owned; what the slot still knows (SIM_CACHE_SLOT) */
    size_t n_blocks, cap_blocks;
    uint64_t freed_at; /* counts up; the least is idle longest */
};

struct sim_model {
    struct sim_model_config config;
    struct sim_slot *slots; /* owned */
    uint32_t *free_slots;   /* owned; a stack, the lowest on top at first */
    uint32_t n_free;
    struct sim_list queue, prefill;
    uint32_t queued, running;
    uint64_t step_end_us;             /* 0 = no step under way */
    uint32_t step_first, step_stride; /* the slots that decode in this step: with rate, the
                                         group whose turn it is; else all */
    uint64_t progress;                /* prompt and output tokens done, ever */
    uint64_t releases;
    struct sim_cache cache;
};

/* DRV_ENOMEM. */
MUST_CHECK int sim_model_init(struct sim_model *model, const struct sim_model_config *config);
void sim_model_finish(struct sim_model *model);

/* Queues a request.  It gets nothing before the next sim_model_advance(). */
void sim_model_add(struct sim_model *model, struct sim_seq *seq);

/* Takes a request out, in any phase; its slot is free at once. */
void sim_model_remove(struct sim_model *model, struct sim_seq *seq);

/*
 * Brings the model up to `now_us`: ends the steps that are over and begins the next.  Calls
 * on_token for each token; the callback may remove any request and add some.  Returns when to
 * call again, or 0 when there is nothing to do until a request is added or un-stalled.
 */
uint64_t sim_model_advance(struct sim_model *model, uint64_t now_us,
                           void (*on_token)(struct sim_seq *seq, void *data), void *data);

/*
 * Names the whole blocks of a prompt: block i is the chained hash of all bytes up to the end of
 * it, `seed` being what went before.  Writes at most `max` and returns how many there are.
 */
size_t sim_blocks(uint64_t *out, size_t max, uint64_t seed, const void *prompt, size_t len,
                  uint32_t block_tokens);

/* Bytes that count as one token. */
#define SIM_TOKEN_BYTES 4

/* Tokens in a text of `len` bytes: rounded up, at least 1. */
static inline uint32_t sim_tokens(size_t len)
{
    size_t n = (len + SIM_TOKEN_BYTES - 1) / SIM_TOKEN_BYTES;

    if (n == 0)
        return 1;
    return n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

#endif
