/* policy_oracle.c - when a simulated engine would give a request its first token. */
#include "tests/bench/policy_oracle.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MAX_GHOSTS 512
#define MAX_SLOTS  256

/* A sequence of the copy. */
struct ghost {
    struct sim_seq seq; /* first */
    uint32_t left;
    bool own;
};

struct rollout {
    struct sim_model model;
    struct sim_slot slots[MAX_SLOTS];
    uint32_t free_slots[MAX_SLOTS];
    struct ghost ghosts[MAX_GHOSTS];
    size_t n_ghosts;
    bool done;
};

static struct ghost *copy_seq(struct rollout *r, const struct sim_seq *seq, uint32_t left)
{
    struct ghost *ghost;

    if (r->n_ghosts == MAX_GHOSTS)
        abort();
    ghost = &r->ghosts[r->n_ghosts++];
    ghost->seq = *seq;
    ghost->seq.prev = NULL;
    ghost->seq.next = NULL;
    ghost->left = left;
    ghost->own = false;
    return ghost;
}

static void append(struct sim_list *list, struct sim_seq *seq)
{
    seq->prev = list->last;
    if (list->last != NULL)
        list->last->next = seq;
    else
        list->first = seq;
    list->last = seq;
}

/* How many of its first blocks `seq` has in common with another. */
static size_t common(const struct sim_seq *a, const struct sim_seq *b)
{
    size_t n = 0;

    while (n < a->n_blocks && n < b->n_blocks && a->blocks[n] == b->blocks[n])
        n++;
    return n;
}

/* The copy keeps no cache: a sequence that waits has only its uncached tokens before it. */
static void take_cached(struct sim_seq *seq, const struct sim_model *model, bool waits)
{
    size_t hit = sim_cache_peek(&model->cache, seq->blocks, seq->n_blocks);
    uint64_t cached;

    for (const struct sim_seq *s = model->prefill.first; waits && s != NULL; s = s->next) {
        size_t n = common(seq, s);

        hit = n > hit ? n : hit;
    }
    cached = (uint64_t)hit * model->config.block_tokens;
    seq->prompt_tokens =
        cached < seq->prompt_tokens ? seq->prompt_tokens - (uint32_t)cached : 1;
}

static void copy_model(struct rollout *r, const struct sim_model *model, oracle_left *left)
{
    struct sim_model *copy = &r->model;

    if (model->config.slots > MAX_SLOTS)
        abort();
    *copy = *model;
    copy->config.cache = SIM_CACHE_NONE;
    copy->slots = r->slots;
    copy->free_slots = r->free_slots;
    copy->queue = (struct sim_list){0};
    copy->prefill = (struct sim_list){0};
    memcpy(r->free_slots, model->free_slots, model->config.slots * sizeof(*r->free_slots));
    memset(r->slots, 0, sizeof(r->slots));
    r->n_ghosts = 0;
    r->done = false;
    for (const struct sim_seq *s = model->prefill.first; s != NULL; s = s->next) {
        struct ghost *ghost = copy_seq(r, s, left(s));

        append(&copy->prefill, &ghost->seq);
        r->slots[s->slot].seq = &ghost->seq;
    }
    for (uint32_t i = 0; i < model->config.slots; i++) {
        const struct sim_seq *s = model->slots[i].seq;

        if (s != NULL && s->phase == SIM_DECODE)
            r->slots[i].seq = &copy_seq(r, s, left(s))->seq;
    }
    for (const struct sim_seq *s = model->queue.first; s != NULL; s = s->next) {
        struct ghost *ghost = copy_seq(r, s, left(s));

        take_cached(&ghost->seq, model, true);
        append(&copy->queue, &ghost->seq);
    }
}

static void on_token(struct sim_seq *seq, void *data)
{
    struct rollout *r = data;
    struct ghost *ghost = (struct ghost *)(void *)seq;

    r->done |= ghost->own;
    if (--ghost->left == 0)
        sim_model_remove(&r->model, seq);
}

uint64_t oracle_first_token_us(const struct sim_model *model, const struct sim_seq *own,
                               uint64_t now_us, oracle_left *left)
{
    static struct rollout r; /* too large for the stack */
    struct ghost *ghost;
    uint64_t at = now_us;

    copy_model(&r, model, left);
    ghost = copy_seq(&r, own, left(own));
    ghost->own = true;
    ghost->seq.phase = SIM_IDLE;
    take_cached(&ghost->seq, model, model->n_free <= model->queued);
    sim_model_add(&r.model, &ghost->seq);
    for (;;) {
        uint64_t next = sim_model_advance(&r.model, at, on_token, &r);

        if (r.done)
            return at;
        if (next == 0)
            abort(); /* it has work */
        at = next;
    }
}
