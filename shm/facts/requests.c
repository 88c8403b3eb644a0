/*
 * requests.c - the requests each worker has open.
 *
 * A row changes hands under its sequence counter: phase FREE is stored first when it is opened
 * and when it is closed, so a reader that finds the counter unchanged has id, model and words
 * of one and the same request.  In between, phase, node and tokens move on their own.
 */
#include "shm/facts/requests.h"

#include <stdlib.h>
#include <string.h>

#include "shm/segment.h"
#include "shm/seqlock.h"

static_assert(REQUEST_ID_BYTES == SB_REQUEST_ID_BYTES, "new layout version");
static_assert(REQUEST_MODEL_BYTES == SB_REQUEST_MODEL_BYTES, "new layout version");

const char *request_phase_name(enum request_phase phase)
{
    switch (phase) {
    case REQUEST_FREE:
        return "free";
    case REQUEST_QUEUED:
        return "queued";
    case REQUEST_SENT:
        return "sent";
    case REQUEST_PREFILL:
        return "prefill";
    case REQUEST_DECODE:
        return "decode";
    case REQUEST_FLUSH:
        return "flush";
    }
    return "unknown";
}

/* The row that the calling worker has open under this number, or NULL. */
static struct sb_request *own_row(struct scoreboard *board, unsigned worker, int row)
{
    if (!board->writable || row < 0)
        return NULL;
    return segment_request(board, worker, (unsigned)row);
}

/* A free row of the calling worker's table, or -1.  Rows given back are used first, so that
 * `high` stays low. */
static int take_row(struct scoreboard *board, unsigned worker)
{
    struct row_stack *stack = &board->free_rows[worker];
    struct sb_table *table = segment_table(board, worker);
    uint32_t high;

    if (stack->row == NULL) {
        stack->row = calloc(board->geometry.requests_per_worker, sizeof(*stack->row));
        if (stack->row == NULL)
            return -1;
    }
    if (stack->len != 0)
        return (int)stack->row[--stack->len];
    high = atomic_load_explicit(&table->high, memory_order_relaxed);
    if (high >= board->geometry.requests_per_worker)
        return -1;
    atomic_store_explicit(&table->high, high + 1, memory_order_release);
    return (int)high;
}

int requests_open(struct scoreboard *board, unsigned worker, const char *id, const char *model,
                  uint32_t prompt_tokens, uint64_t now_mono_us)
{
    struct sb_table *table = segment_table(board, worker);
    struct sb_request_text text = {0};
    struct sb_request *to;
    int row;

    if (!board->writable || !segment_has_column(board, worker))
        return -1;
    row = take_row(board, worker);
    to = own_row(board, worker, row);
    if (to == NULL)
        return -1;
    (void)strlcpy(text.id, id, sizeof(text.id));
    (void)strlcpy(text.model, model, sizeof(text.model));
    seqlock_begin(&to->seq);
    seqlock_store(to->text, &text, sizeof(text));
    atomic_store_explicit(&to->node, REQUEST_NO_NODE, memory_order_release);
    atomic_store_explicit(&to->attempt, 0, memory_order_release);
    atomic_store_explicit(&to->tokens_out, 0, memory_order_release);
    atomic_store_explicit(&to->prompt_tokens, prompt_tokens, memory_order_release);
    atomic_store_explicit(&to->opened_mono_us, now_mono_us, memory_order_release);
    atomic_store_explicit(&to->phase_mono_us, now_mono_us, memory_order_release);
    atomic_store_explicit(&to->phase, REQUEST_QUEUED, memory_order_release);
    seqlock_end(&to->seq);
    atomic_fetch_add_explicit(&table->count, 1, memory_order_relaxed);
    return row;
}

void requests_phase(struct scoreboard *board, unsigned worker, int row,
                    enum request_phase phase, uint64_t now_mono_us)
{
    struct sb_request *to = own_row(board, worker, row);

    if (to == NULL || phase == REQUEST_FREE)
        return; /* only requests_close() frees */
    atomic_store_explicit(&to->phase_mono_us, now_mono_us, memory_order_release);
    atomic_store_explicit(&to->phase, (uint32_t)phase, memory_order_release);
}

void requests_node(struct scoreboard *board, unsigned worker, int row, uint32_t node,
                   uint32_t attempt)
{
    struct sb_request *to = own_row(board, worker, row);

    if (to == NULL)
        return;
    atomic_store_explicit(&to->node, node, memory_order_release);
    atomic_store_explicit(&to->attempt, attempt, memory_order_release);
}

void requests_tokens(struct scoreboard *board, unsigned worker, int row, uint32_t tokens_out)
{
    struct sb_request *to = own_row(board, worker, row);

    if (to != NULL)
        atomic_store_explicit(&to->tokens_out, tokens_out, memory_order_release);
}

void requests_close(struct scoreboard *board, unsigned worker, int row)
{
    struct sb_request *to = own_row(board, worker, row);
    struct row_stack *stack = &board->free_rows[worker % SB_MAX_WORKERS];

    if (to == NULL || stack->row == NULL || stack->len >= board->geometry.requests_per_worker ||
        atomic_load_explicit(&to->phase, memory_order_relaxed) == REQUEST_FREE)
        return; /* a row is given back once */
    seqlock_begin(&to->seq);
    atomic_store_explicit(&to->phase, REQUEST_FREE, memory_order_release);
    seqlock_end(&to->seq);
    stack->row[stack->len++] = (uint32_t)row;
    atomic_fetch_sub_explicit(&segment_table(board, worker)->count, 1, memory_order_relaxed);
}

void requests_clear_worker(struct scoreboard *board, unsigned worker)
{
    struct sb_table *table = segment_table(board, worker);
    uint32_t high;

    if (!board->writable || table == NULL)
        return;
    high = atomic_load_explicit(&table->high, memory_order_relaxed);
    for (uint32_t row = 0; row < high; row++) {
        struct sb_request *to = segment_request(board, worker, row);

        if (to == NULL)
            break;               /* `high` is damaged */
        seqlock_begin(&to->seq); /* it may be odd already: its writer is dead */
        atomic_store_explicit(&to->phase, REQUEST_FREE, memory_order_release);
        seqlock_end(&to->seq);
    }
    atomic_store_explicit(&table->count, 0, memory_order_relaxed);
    atomic_store_explicit(&table->high, 0, memory_order_relaxed);
}

/* One try; false when the row changed hands meanwhile. */
static bool copy_row(struct sb_request *from, uint32_t seq, struct request_view *out,
                     uint32_t *phase)
{
    struct sb_request_text text;

    seqlock_load(&text, from->text, sizeof(text));
    memcpy(out->id, text.id, sizeof(out->id));
    memcpy(out->model, text.model, sizeof(out->model));
    out->id[sizeof(out->id) - 1] = '\0';
    out->model[sizeof(out->model) - 1] = '\0';
    *phase = atomic_load_explicit(&from->phase, memory_order_acquire);
    out->node = atomic_load_explicit(&from->node, memory_order_acquire);
    out->attempt = atomic_load_explicit(&from->attempt, memory_order_acquire);
    out->tokens_out = atomic_load_explicit(&from->tokens_out, memory_order_acquire);
    out->prompt_tokens = atomic_load_explicit(&from->prompt_tokens, memory_order_acquire);
    out->opened_mono_us = atomic_load_explicit(&from->opened_mono_us, memory_order_acquire);
    out->phase_mono_us = atomic_load_explicit(&from->phase_mono_us, memory_order_acquire);
    return atomic_load_explicit(&from->seq, memory_order_relaxed) == seq;
}

bool requests_read(const struct scoreboard *board, unsigned worker, unsigned row,
                   struct request_view *out)
{
    struct sb_request *from = segment_request(board, worker, row);

    *out = (struct request_view){.node = REQUEST_NO_NODE};
    if (from == NULL)
        return false;
    for (int i = 0; i < SEQLOCK_TRIES; i++) {
        uint32_t seq = atomic_load_explicit(&from->seq, memory_order_acquire);
        uint32_t phase;

        if ((seq & 1u) == 0 && copy_row(from, seq, out, &phase)) {
            if (phase == REQUEST_FREE || phase > REQUEST_FLUSH)
                return false;
            out->phase = (enum request_phase)phase;
            if (out->node >= board->geometry.n_nodes)
                out->node = REQUEST_NO_NODE;
            return true;
        }
        seqlock_pause();
    }
    return false;
}

uint32_t requests_count(const struct scoreboard *board, unsigned worker, uint32_t *high)
{
    const struct sb_table *table = segment_table(board, worker);
    uint32_t rows = board->geometry.requests_per_worker;
    uint32_t count = 0, used = 0;

    if (table != NULL) {
        count = atomic_load_explicit(&table->count, memory_order_relaxed);
        used = atomic_load_explicit(&table->high, memory_order_acquire);
    }
    if (high != NULL)
        *high = used < rows ? used : rows;
    return count < rows ? count : rows;
}
