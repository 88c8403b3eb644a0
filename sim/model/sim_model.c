/* sim_model.c - how a simulated engine spends its time: slots, steps, prefix cache. */
#include "sim/model/sim_model.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"

/* A step that starts late, because the process did, starts where the last one ended, so that
 * the pace is right on average; but not further back than this.  A promised rate is caught up
 * with for longer. */
#define MAX_LAG_US      20000
#define MAX_RATE_LAG_US 500000

#define SLOT_SIMILARITY 0.10

/* ---- lists ----------------------------------------------------------------------------- */

static void list_append(struct sim_list *list, struct sim_seq *seq)
{
    seq->prev = list->last;
    seq->next = NULL;
    if (list->last != NULL)
        list->last->next = seq;
    else
        list->first = seq;
    list->last = seq;
}

static void list_remove(struct sim_list *list, struct sim_seq *seq)
{
    if (seq->prev != NULL)
        seq->prev->next = seq->next;
    else
        list->first = seq->next;
    if (seq->next != NULL)
        seq->next->prev = seq->prev;
    else
        list->last = seq->prev;
    seq->prev = NULL;
    seq->next = NULL;
}

/* ---- life ------------------------------------------------------------------------------ */

int sim_model_init(struct sim_model *model, const struct sim_model_config *config)
{
    uint32_t i;

    memset(model, 0, sizeof(*model));
    model->config = *config;
    model->slots = calloc(config->slots, sizeof(*model->slots));
    model->free_slots = calloc(config->slots, sizeof(*model->free_slots));
    if (model->slots == NULL || model->free_slots == NULL ||
        sim_cache_init(&model->cache,
                       config->cache == SIM_CACHE_BLOCK ? config->cache_blocks : 0) != 0) {
        sim_model_finish(model);
        return DRV_ENOMEM;
    }
    for (i = 0; i < config->slots; i++)
        model->free_slots[i] = config->slots - 1 - i;
    model->n_free = config->slots;
    model->step_stride = config->rate > 0 ? config->spread : 1;
    return 0;
}

void sim_model_finish(struct sim_model *model)
{
    uint32_t i;

    for (i = 0; model->slots != NULL && i < model->config.slots; i++)
        free(model->slots[i].blocks);
    free(model->slots);
    free(model->free_slots);
    sim_cache_finish(&model->cache);
    memset(model, 0, sizeof(*model));
}

size_t sim_blocks(uint64_t *out, size_t max, uint64_t seed, const void *prompt, size_t len,
                  uint32_t block_tokens)
{
    const uint8_t *p = prompt;
    size_t block_bytes = (size_t)block_tokens * SIM_TOKEN_BYTES, n = len / block_bytes, i;
    uint64_t hash = seed;

    for (i = 0; i < n && i < max; i++) {
        hash = XXH3_64bits_withSeed(p + i * block_bytes, block_bytes, hash);
        out[i] = hash;
    }
    return n;
}

/* ---- slots and cache ------------------------------------------------------------------- */

static size_t common(const struct sim_slot *slot, const struct sim_seq *seq)
{
    size_t n = 0;

    while (n < slot->n_blocks && n < seq->n_blocks && slot->blocks[n] == seq->blocks[n])
        n++;
    return n;
}

/* Remembers the first n blocks of the request in its slot. */
static void slot_remember(struct sim_slot *slot, const struct sim_seq *seq, size_t n)
{
    if (n > slot->cap_blocks) {
        uint64_t *grown = realloc(slot->blocks, n * sizeof(*grown));

        if (grown == NULL)
            return; /* a smaller hit later */
        slot->blocks = grown;
        slot->cap_blocks = n;
    }
    if (n != 0)
        memcpy(slot->blocks, seq->blocks, n * sizeof(*slot->blocks));
    slot->n_blocks = n;
}

/* Chooses a free slot for the request and says how many of its blocks that slot has. */
static uint32_t pick_by_content(const struct sim_model *model, const struct sim_seq *seq,
                                size_t *hit)
{
    uint32_t at = 0, best = UINT32_MAX, oldest = UINT32_MAX;
    size_t best_hit = 0;

    for (at = 0; at < model->config.slots; at++) {
        const struct sim_slot *slot = &model->slots[at];
        size_t n;

        if (slot->seq != NULL)
            continue;
        if (oldest == UINT32_MAX || slot->freed_at < model->slots[oldest].freed_at)
            oldest = at;
        n = common(slot, seq);
        if (n > best_hit && (double)n * model->config.block_tokens >
                                SLOT_SIMILARITY * (double)seq->prompt_tokens) {
            best = at;
            best_hit = n;
        }
    }
    if (best == UINT32_MAX) {
        best = oldest;
        best_hit = common(&model->slots[best], seq);
    }
    *hit = best_hit;
    return best;
}

static uint32_t take_slot(struct sim_model *model, struct sim_seq *seq, size_t *hit)
{
    uint32_t at, i;

    *hit = 0;
    if (model->config.cache != SIM_CACHE_SLOT)
        return model->free_slots[--model->n_free];
    at = pick_by_content(model, seq, hit);
    for (i = 0; model->free_slots[i] != at; i++)
        ;
    model->free_slots[i] = model->free_slots[--model->n_free];
    return at;
}

static void prefill_done(struct sim_model *model, struct sim_seq *seq)
{
    seq->phase = SIM_DECODE;
    seq->prefilled = seq->prompt_tokens;
    switch (model->config.cache) {
    case SIM_CACHE_NONE:
        break;
    case SIM_CACHE_BLOCK:
        sim_cache_insert(&model->cache, seq->blocks, seq->n_blocks);
        break;
    case SIM_CACHE_SLOT:
        slot_remember(&model->slots[seq->slot], seq, seq->n_blocks);
        break;
    }
}

static void admit_one(struct sim_model *model, struct sim_seq *seq, uint64_t now_us)
{
    size_t hit;
    uint64_t cached;

    list_remove(&model->queue, seq);
    model->queued--;
    model->running++;
    seq->slot = take_slot(model, seq, &hit);
    model->slots[seq->slot].seq = seq;
    if (model->config.cache == SIM_CACHE_BLOCK)
        hit = sim_cache_hit(&model->cache, seq->blocks, seq->n_blocks);
    if (model->config.cache == SIM_CACHE_SLOT)
        model->slots[seq->slot].n_blocks = hit;
    /* The last prompt token is always worked on: its result is the first output token. */
    cached = (uint64_t)hit * model->config.block_tokens;
    if (cached >= seq->prompt_tokens)
        cached = seq->prompt_tokens - 1;
    seq->cached_tokens = (uint32_t)cached;
    seq->prefilled = seq->cached_tokens;
    seq->phase = SIM_PREFILL;
    seq->admitted_mono_us = now_us;
    list_append(&model->prefill, seq);
}

void sim_model_add(struct sim_model *model, struct sim_seq *seq)
{
    assert(seq->phase == SIM_IDLE && seq->prompt_tokens != 0);
    seq->phase = SIM_QUEUED;
    seq->due = false;
    list_append(&model->queue, seq);
    model->queued++;
}

static void release(struct sim_model *model, struct sim_seq *seq)
{
    struct sim_slot *slot = &model->slots[seq->slot];

    slot->seq = NULL;
    slot->freed_at = ++model->releases;
    model->free_slots[model->n_free++] = seq->slot;
    model->running--;
}

void sim_model_remove(struct sim_model *model, struct sim_seq *seq)
{
    switch (seq->phase) {
    case SIM_IDLE:
        return;
    case SIM_QUEUED:
        list_remove(&model->queue, seq);
        model->queued--;
        break;
    case SIM_PREFILL:
        list_remove(&model->prefill, seq);
        if (model->config.cache == SIM_CACHE_SLOT) {
            size_t whole = seq->prefilled / model->config.block_tokens;

            slot_remember(&model->slots[seq->slot], seq,
                          whole < seq->n_blocks ? whole : seq->n_blocks);
        }
        release(model, seq);
        break;
    case SIM_DECODE:
        release(model, seq);
        break;
    }
    seq->phase = SIM_IDLE;
    seq->due = false;
}

/* ---- time ------------------------------------------------------------------------------ */

typedef void token_fn(struct sim_seq *seq, void *data);

static void give_token(struct sim_model *model, struct sim_seq *seq, token_fn *on_token,
                       void *data)
{
    seq->due = false;
    seq->skipped = 0;
    model->progress++;
    on_token(seq, data);
}

static void admit(struct sim_model *model, uint64_t now_us, token_fn *on_token, void *data)
{
    while (model->queue.first != NULL && model->n_free != 0) {
        struct sim_seq *seq = model->queue.first;

        admit_one(model, seq, now_us);
        if (model->config.rate > 0) {
            list_remove(&model->prefill, seq);
            prefill_done(model, seq);
            model->progress += seq->prompt_tokens - seq->cached_tokens;
            give_token(model, seq, on_token, data);
        }
    }
}

/* Marks a decoding request for a token in this step, unless it is in a slow fit. */
static void mark(struct sim_seq *seq)
{
    seq->skipped++;
    seq->due = seq->skipped >= seq->stride;
}

/* Returns how long the step takes; 0 when there is nothing to do. */
static uint64_t begin_step(struct sim_model *model)
{
    const struct sim_model_config *config = &model->config;
    uint32_t i, decoding = 0, budget = config->chunk_tokens, chunk = 0;
    struct sim_seq *seq;
    double us;

    if (config->rate > 0)
        model->step_first = (model->step_first + 1) % config->spread;
    for (i = model->step_first; i < config->slots; i += model->step_stride) {
        seq = model->slots[i].seq;
        if (seq == NULL || seq->phase != SIM_DECODE || seq->stalled)
            continue;
        decoding++;
        mark(seq);
    }
    if (config->rate > 0) {
        if (model->running == 0)
            return 0;
        us = 1e6 / (config->rate * config->spread);
        return us < 1 ? 1 : (uint64_t)(us + 0.5);
    }
    for (seq = model->prefill.first; seq != NULL; seq = seq->next) {
        uint32_t left = seq->prompt_tokens - seq->prefilled;

        seq->chunk = left < budget ? left : budget;
        budget -= seq->chunk;
        chunk += seq->chunk;
    }
    if (decoding == 0 && chunk == 0)
        return 0;
    us = config->base_us + config->slope_us * decoding +
         1e6 * chunk / config->prefill_tokens_per_s;
    return us < 1 ? 1 : (uint64_t)(us + 0.5);
}

static void end_step(struct sim_model *model, token_fn *on_token, void *data)
{
    struct sim_seq *seq, *next;
    uint32_t i;

    for (seq = model->prefill.first; seq != NULL; seq = next) {
        next = seq->next;
        seq->prefilled += seq->chunk;
        model->progress += seq->chunk;
        seq->chunk = 0;
        if (seq->prefilled == seq->prompt_tokens) {
            list_remove(&model->prefill, seq);
            prefill_done(model, seq);
            seq->due = true;
        }
    }
    /* By slot, because the callback may take any request out; none comes in before admit(). */
    for (i = model->step_first; i < model->config.slots; i += model->step_stride) {
        seq = model->slots[i].seq;
        if (seq != NULL && seq->due)
            give_token(model, seq, on_token, data);
    }
}

uint64_t sim_model_advance(struct sim_model *model, uint64_t now_us, token_fn *on_token,
                           void *data)
{
    uint64_t max_lag_us = model->config.rate > 0 ? MAX_RATE_LAG_US : MAX_LAG_US;

    for (;;) {
        uint64_t start_us = now_us, took_us;

        if (model->step_end_us > now_us) {
            if (model->config.rate > 0)
                admit(model, now_us, on_token, data);
            return model->step_end_us;
        }
        if (model->step_end_us != 0) {
            if (now_us - model->step_end_us <= max_lag_us)
                start_us = model->step_end_us;
            model->step_end_us = 0;
            end_step(model, on_token, data);
        }
        admit(model, start_us, on_token, data);
        took_us = begin_step(model);
        if (took_us == 0)
            return 0;
        model->step_end_us = start_us + took_us;
    }
}
