/*
 * lines.c - who waits for a place, over all workers.
 *
 * A line is three words that its worker alone writes.  Key and count of a line may change on
 * their own; a reader that pairs a new one with an old one is a moment late, no more.  What it
 * must not do is to take one model's key for another's when a free line is used again: that
 * goes under the line's sequence counter, as in shm/words.h.
 *
 * The total of a worker is stored last and sequentially consistent, and read so: together with
 * the gauges, which are as well, that is what lines.h promises about not missing one another.
 */
#include "shm/routing/lines.h"

#include "shm/procs.h"
#include "shm/segment.h"
#include "shm/words.h"

static_assert(LINES_PER_WORKER == SB_LINES_PER_WORKER, "new layout version");

/* Stored as a model hash: no model.  A model that really has this hash counts as its
 * neighbour. */
#define NO_MODEL UINT64_C(0)

static uint64_t usable(uint64_t model_hash)
{
    return model_hash == NO_MODEL ? NO_MODEL + 1 : model_hash;
}

static uint32_t count_of(const struct sb_line *line)
{
    return atomic_load_explicit(&line->count, memory_order_acquire);
}

static uint64_t model_of(const struct sb_line *line)
{
    return atomic_load_explicit(&line->model_hash, memory_order_acquire);
}

/* The worker's own line of the model, or else a free one, or NULL. */
static struct sb_line *find_own(struct sb_lines *lines, uint64_t model_hash)
{
    struct sb_line *unused = NULL;

    for (unsigned i = 0; i < LINES_PER_WORKER; i++) {
        struct sb_line *line = &lines->line[i];

        if (model_of(line) == model_hash)
            return line;
        if (unused == NULL && count_of(line) == 0)
            unused = line;
    }
    return unused;
}

static void store_total(struct scoreboard *board, unsigned worker)
{
    const struct sb_lines *lines = segment_lines(board, worker);
    uint64_t total = 0;

    for (unsigned i = 0; i < LINES_PER_WORKER; i++)
        total += count_of(&lines->line[i]);
    atomic_store_explicit(&segment_waiting(board)[worker],
                          total > UINT32_MAX ? UINT32_MAX : (uint32_t)total,
                          memory_order_seq_cst);
}

/* Gives a free line to another model. */
static void take_over(struct scoreboard *board, unsigned worker, struct sb_line *line,
                      uint64_t model_hash, uint64_t key)
{
    words_begin(&line->seq);
    atomic_store_explicit(&line->model_hash, model_hash, memory_order_release);
    atomic_store_explicit(&line->key, key, memory_order_release);
    atomic_store_explicit(&line->pressed_mono_us, 0, memory_order_release);
    words_end(&line->seq);
    segment_use_column(board, worker);
}

bool lines_set(struct scoreboard *board, unsigned worker, uint64_t model_hash, uint64_t key,
               uint32_t count)
{
    struct sb_lines *lines = board->writable ? segment_lines(board, worker) : NULL;
    struct sb_line *line;

    if (lines == NULL)
        return false;
    model_hash = usable(model_hash);
    line = find_own(lines, model_hash);
    if (line == NULL)
        return count == 0;
    if (model_of(line) != model_hash) {
        if (count == 0)
            return true;
        take_over(board, worker, line, model_hash, key);
    } else if (count != 0) {
        atomic_store_explicit(&line->key, key, memory_order_release);
    }
    atomic_store_explicit(&line->count, count, memory_order_release);
    store_total(board, worker);
    return true;
}

void lines_press(struct scoreboard *board, unsigned worker, uint64_t model_hash,
                 uint64_t now_mono_us)
{
    struct sb_lines *lines = board->writable ? segment_lines(board, worker) : NULL;
    struct sb_line *line;

    if (lines == NULL)
        return;
    model_hash = usable(model_hash);
    line = find_own(lines, model_hash);
    if (line == NULL)
        return;
    if (model_of(line) != model_hash)
        take_over(board, worker, line, model_hash, 0);
    atomic_store_explicit(&line->pressed_mono_us, now_mono_us, memory_order_release);
}

/* Requests that wait in a worker. */
static uint32_t total_of(const struct scoreboard *board, unsigned worker)
{
    return atomic_load_explicit(&segment_waiting(board)[worker], memory_order_seq_cst);
}

/* Would it hear that it is its turn? */
static bool worker_alive(const struct scoreboard *board, unsigned worker, uint64_t now_mono_us)
{
    const struct sb_proc *proc = segment_proc(board, worker);
    uint32_t state = atomic_load_explicit(&proc->state, memory_order_relaxed);
    uint64_t heartbeat_mono_us =
        atomic_load_explicit(&proc->heartbeat_mono_us, memory_order_relaxed);

    if (state != PROC_RUNNING && state != PROC_DRAINING)
        return false;
    /* It may have moved after the caller looked at the clock. */
    return heartbeat_mono_us >= now_mono_us ||
           now_mono_us - heartbeat_mono_us <= LINES_STALE_US;
}

/* The key of a line, if it is the model's and anybody stands in it. */
static bool read_line(const struct sb_line *line, uint64_t model_hash, uint64_t *key)
{
    for (int i = 0; i < WORDS_TRIES; i++) {
        uint32_t before = atomic_load_explicit(&line->seq, memory_order_acquire);

        if (model_of(line) != model_hash || count_of(line) == 0)
            return false; /* or not any more, or not yet */
        *key = atomic_load_explicit(&line->key, memory_order_acquire);
        if ((before & 1u) == 0 &&
            atomic_load_explicit(&line->seq, memory_order_relaxed) == before)
            return true;
        words_pause();
    }
    return false;
}

/* The key of a worker's line of the model, if anybody stands in it. */
static bool read_key(const struct sb_lines *lines, uint64_t model_hash, uint64_t *key)
{
    for (unsigned i = 0; i < LINES_PER_WORKER; i++)
        if (read_line(&lines->line[i], model_hash, key))
            return true;
    return false;
}

bool lines_first(const struct scoreboard *board, uint64_t model_hash, uint64_t now_mono_us,
                 unsigned *worker, uint64_t *key)
{
    uint32_t columns = segment_columns(board);
    bool found = false;
    uint64_t least = 0;

    model_hash = usable(model_hash);
    for (uint32_t w = 0; w < columns; w++) {
        uint64_t one;

        if (total_of(board, w) == 0 || !worker_alive(board, w, now_mono_us) ||
            !read_key(segment_lines(board, w), model_hash, &one))
            continue;
        if (found && one >= least)
            continue;
        found = true;
        least = one;
        if (worker != NULL)
            *worker = w;
    }
    if (found && key != NULL)
        *key = least;
    return found;
}

static uint32_t add_capped(uint32_t a, uint32_t b)
{
    return b > UINT32_MAX - a ? UINT32_MAX : a + b;
}

uint32_t lines_waiting(const struct scoreboard *board, uint64_t model_hash)
{
    uint32_t columns = segment_columns(board), sum = 0;

    model_hash = usable(model_hash);
    for (uint32_t w = 0; w < columns; w++) {
        const struct sb_lines *lines = segment_lines(board, w);

        if (total_of(board, w) == 0)
            continue;
        for (unsigned i = 0; i < LINES_PER_WORKER; i++)
            if (model_of(&lines->line[i]) == model_hash)
                sum = add_capped(sum, count_of(&lines->line[i]));
    }
    return sum;
}

/* 0 unless the line is the model's. */
static uint64_t read_pressed(const struct sb_line *line, uint64_t model_hash)
{
    for (int i = 0; i < WORDS_TRIES; i++) {
        uint32_t before = atomic_load_explicit(&line->seq, memory_order_acquire);
        uint64_t pressed_mono_us;

        if (model_of(line) != model_hash)
            return 0;
        pressed_mono_us = atomic_load_explicit(&line->pressed_mono_us, memory_order_acquire);
        if ((before & 1u) == 0 &&
            atomic_load_explicit(&line->seq, memory_order_relaxed) == before)
            return pressed_mono_us;
        words_pause();
    }
    return 0;
}

uint64_t lines_pressed(const struct scoreboard *board, uint64_t model_hash)
{
    uint32_t columns = segment_columns(board);
    uint64_t last = 0;

    model_hash = usable(model_hash);
    for (uint32_t w = 0; w < columns; w++) {
        const struct sb_lines *lines = segment_lines(board, w);

        for (unsigned i = 0; i < LINES_PER_WORKER; i++) {
            uint64_t one = read_pressed(&lines->line[i], model_hash);

            last = one > last ? one : last;
        }
    }
    return last;
}

uint32_t lines_waiting_total(const struct scoreboard *board)
{
    uint32_t columns = segment_columns(board), sum = 0;

    for (uint32_t w = 0; w < columns; w++)
        sum = add_capped(sum, total_of(board, w));
    return sum;
}

bool lines_any(const struct scoreboard *board)
{
    uint32_t columns = segment_columns(board);

    for (uint32_t w = 0; w < columns; w++)
        if (total_of(board, w) != 0)
            return true;
    return false;
}

uint32_t lines_models(const struct scoreboard *board, uint64_t *model_hashes, uint32_t max)
{
    uint32_t columns = segment_columns(board), n = 0;

    for (uint32_t w = 0; w < columns; w++) {
        const struct sb_lines *lines = segment_lines(board, w);

        if (total_of(board, w) == 0)
            continue;
        for (unsigned i = 0; i < LINES_PER_WORKER && n < max; i++) {
            uint64_t model_hash = model_of(&lines->line[i]);
            uint32_t known = 0;

            if (model_hash == NO_MODEL || count_of(&lines->line[i]) == 0)
                continue;
            while (known < n && model_hashes[known] != model_hash)
                known++;
            if (known == n)
                model_hashes[n++] = model_hash;
        }
    }
    return n;
}

void lines_clear_worker(struct scoreboard *board, unsigned worker)
{
    struct sb_lines *lines = board->writable ? segment_lines(board, worker) : NULL;

    if (lines == NULL)
        return;
    for (unsigned i = 0; i < LINES_PER_WORKER; i++) {
        struct sb_line *line = &lines->line[i];

        words_begin(&line->seq); /* it may be odd already, by the dead one */
        atomic_store_explicit(&line->count, 0, memory_order_release);
        atomic_store_explicit(&line->model_hash, NO_MODEL, memory_order_release);
        atomic_store_explicit(&line->key, 0, memory_order_release);
        atomic_store_explicit(&line->pressed_mono_us, 0, memory_order_release);
        words_end(&line->seq);
    }
    atomic_store_explicit(&segment_waiting(board)[worker], 0, memory_order_seq_cst);
}
