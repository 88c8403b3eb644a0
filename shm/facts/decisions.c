/*
 * decisions.c - the last routing decisions of each worker.
 *
 * Entry n of a worker lives at n % DECISIONS_PER_WORKER and says itself that it is n.  The
 * count moves after the entry is whole, so a worker killed while writing leaves an odd sequence
 * counter behind, and the next process in its row writes the same entry again.  Only existing
 * candidates are written; the bytes behind them belong to older entries.
 */
#include "shm/facts/decisions.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "shm/segment.h"
#include "shm/seqlock.h"

static_assert(sizeof(struct decision_candidate) == 76, "decision: new layout version");
static_assert(sizeof(struct decision) == SB_DECISION_BYTES, "new layout version");
static_assert(DECISIONS_PER_WORKER == SB_DECISIONS_PER_WORKER, "new layout version");

/* The part before the candidates, which is all that a search needs. */
#define HEAD_BYTES offsetof(struct decision, candidate)

const char *decision_exclusion_name(enum decision_exclusion one)
{
    switch (one) {
    case DECISION_EXCLUDED_FULL:
        return "full";
    case DECISION_EXCLUDED_TRIED:
        return "excluded";
    case DECISION_EXCLUDED_STATE:
        return "state";
    case DECISION_EXCLUDED_LOADING:
        return "loading";
    case DECISION_EXCLUDED_LOST:
        return "lost";
    case DECISION_EXCLUDED_WAITED_FOR:
        return "waited for";
    case DECISION_EXCLUDED_HOLD:
        return "hold";
    case DECISION_EXCLUDED_CONTEXT:
        return "context";
    }
    return "unknown";
}

static size_t used_bytes(uint32_t candidates)
{
    return HEAD_BYTES + candidates * sizeof(struct decision_candidate);
}

static uint32_t kept(uint32_t candidates)
{
    return candidates < DECISIONS_CANDIDATES ? candidates : DECISIONS_CANDIDATES;
}

void decisions_add(struct scoreboard *board, unsigned worker, struct decision *decision)
{
    struct sb_ring *ring = board->writable ? segment_ring(board, worker) : NULL;
    struct sb_table *table = segment_table(board, worker);
    struct sb_decision *entry;

    if (ring == NULL)
        return;
    decision->worker = worker;
    decision->number = atomic_load_explicit(&table->decisions, memory_order_relaxed);
    decision->candidates = kept(decision->candidates);
    entry = &ring->entry[decision->number % DECISIONS_PER_WORKER];
    seqlock_begin(&entry->seq);
    seqlock_store(entry->content, decision, used_bytes(decision->candidates));
    seqlock_end(&entry->seq);
    atomic_store_explicit(&table->decisions, decision->number + 1, memory_order_release);
}

uint64_t decisions_count(const struct scoreboard *board, unsigned worker)
{
    const struct sb_table *table = segment_table(board, worker);

    return table == NULL ? 0 : atomic_load_explicit(&table->decisions, memory_order_acquire);
}

static float safe_float(float value)
{
    return isfinite(value) ? value : 0;
}

static uint32_t safe_node(const struct scoreboard *board, uint32_t node)
{
    return node < board->geometry.n_nodes ? node : DECISIONS_NO_NODE;
}

/* The copy can be used, for any bytes. */
static void make_safe(const struct scoreboard *board, struct decision *d)
{
    d->id[sizeof(d->id) - 1] = '\0';
    d->model[sizeof(d->model) - 1] = '\0';
    d->name[sizeof(d->name) - 1] = '\0';
    d->node = safe_node(board, d->node);
    d->candidates = kept(d->candidates);
    if (d->candidates_total < d->candidates)
        d->candidates_total = d->candidates;
    memset(&d->candidate[d->candidates], 0,
           (DECISIONS_CANDIDATES - d->candidates) * sizeof(d->candidate[0]));
    for (uint32_t i = 0; i < d->candidates; i++) {
        struct decision_candidate *c = &d->candidate[i];

        c->node = safe_node(board, c->node);
        c->name[sizeof(c->name) - 1] = '\0';
        c->prefill_per_s = safe_float(c->prefill_per_s);
        c->wait_s = safe_float(c->wait_s);
        c->prefill_s = safe_float(c->prefill_s);
        c->load_s = safe_float(c->load_s);
        c->bonus_s = safe_float(c->bonus_s);
        c->cost_s = safe_float(c->cost_s);
    }
}

/* A consistent copy of the first `bytes` of entry `number`, if that is what is there. */
static bool copy_entry(const struct scoreboard *board, unsigned worker, uint64_t number,
                       struct decision *out, size_t bytes)
{
    const struct sb_ring *ring = segment_ring(board, worker);
    const struct sb_decision *entry;

    if (ring == NULL)
        return false;
    entry = &ring->entry[number % DECISIONS_PER_WORKER];
    if (!seqlock_read(out, entry->content, bytes, &entry->seq))
        return false;
    return out->worker == worker && out->number == number;
}

bool decisions_read(const struct scoreboard *board, unsigned worker, uint64_t number,
                    struct decision *out)
{
    uint64_t count = decisions_count(board, worker);

    if (number >= count || count - number > DECISIONS_PER_WORKER ||
        !copy_entry(board, worker, number, out, sizeof(*out)))
        return false;
    make_safe(board, out);
    return true;
}

/* Does an entry come after the cursor, in the order of time, then worker, then number? */
static bool after_cursor(const struct decision *d, const struct decision_cursor *cursor)
{
    if (cursor->started == 0)
        return true;
    if (d->at_mono_us != cursor->at_mono_us)
        return d->at_mono_us > cursor->at_mono_us;
    if (d->worker != cursor->worker)
        return d->worker > cursor->worker;
    return d->number > cursor->number;
}

static struct decision_cursor cursor_at(const struct decision *d)
{
    return (struct decision_cursor){
        .at_mono_us = d->at_mono_us, .number = d->number, .worker = d->worker, .started = 1};
}

/* The first entry for the request after `from`. */
static bool search(const struct scoreboard *board, const char *id,
                   const struct decision_cursor *from, struct decision_cursor *found)
{
    struct decision head;

    found->started = 0;
    for (uint32_t w = 0; w < board->geometry.n_workers; w++) {
        uint64_t count = decisions_count(board, w);
        uint64_t number = count > DECISIONS_PER_WORKER ? count - DECISIONS_PER_WORKER : 0;

        for (; number < count; number++) {
            if (!copy_entry(board, w, number, &head, HEAD_BYTES))
                continue;
            head.id[sizeof(head.id) - 1] = '\0';
            if (strcmp(head.id, id) != 0 || !after_cursor(&head, from) ||
                (found->started != 0 && after_cursor(&head, found)))
                continue;
            *found = cursor_at(&head);
        }
    }
    return found->started != 0;
}

bool decisions_next(const struct scoreboard *board, const char *id,
                    struct decision_cursor *cursor, struct decision *out)
{
    struct decision_cursor found;

    /* A decision that was overwritten between the search and the copy is skipped. */
    while (search(board, id, cursor, &found)) {
        *cursor = found;
        if (decisions_read(board, found.worker, found.number, out) && strcmp(out->id, id) == 0)
            return true;
    }
    return false;
}
