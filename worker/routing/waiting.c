/*
 * waiting.c - the line of requests that no node has room for, one order over all workers.
 *
 * Each worker keeps a line per model, in the order of keys, and publishes its length and its
 * first key in the scoreboard (shm/routing/lines.h).  A key is the time a request came, plus
 * what its priority class costs (5 s for default, 20 s for bulk): so an urgent request
 * overtakes what has waited less than that longer, and nothing is overtaken for ever.
 *
 * Only the first of all workers' lines may take a slot.  Whoever gives a place back looks who
 * is first and wakes that worker through its eventfd; a worker that finds it is not first wakes
 * the one that is.  A slow timer covers what no wake-up can: a place freed by a process that
 * died, a claim that was lost in a race.
 *
 * Those behind the first may take a place beyond the slots, which only a cache match admits
 * (see policy.h): that place is none the first could have had.
 */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/loop.h"
#include "shm/routing/lines.h"
#include "worker/exchange_private.h"
#include "worker/http/request.h"

#define POLL_US     (20 * US_PER_MS)
#define LOOK_BEHIND 16 /* how many behind the first are looked at for a cache match */
#define RATE_ALPHA  0.1

/* What the classes cost.  Both are less than the usual longest wait (queue.max_wait_ms). */
#define DEFAULT_CLASS_US (5 * US_PER_S)
#define BULK_CLASS_US    (20 * US_PER_S)

struct wait_line {
    struct wait_line *next;
    uint64_t model_hash;
    struct exchange *first, *last; /* by key */
    uint32_t count;
    bool published; /* false: the worker has more lines than it can publish */
};

static uint64_t key_of(const struct exchange *x)
{
    switch (x->request->priority) {
    case REQUEST_PRIORITY_INTERACTIVE:
        return x->started_mono_us;
    case REQUEST_PRIORITY_DEFAULT:
        return x->started_mono_us + DEFAULT_CLASS_US;
    case REQUEST_PRIORITY_BULK:
        return x->started_mono_us + BULK_CLASS_US;
    }
    return x->started_mono_us + DEFAULT_CLASS_US;
}

/* ---- waking --------------------------------------------------------------------------------
 */

static void wake_worker(struct exchange_core *core, unsigned worker)
{
    static const uint64_t one = 1;

    if (worker == core->slot)
        exchange_wake(core);
    else if (core->wake_fds != NULL && write(core->wake_fds[worker], &one, sizeof(one)) == -1)
        return; /* full: it is awake already */
}

void waiting_released(struct exchange_core *core)
{
    uint64_t now = loop_now_us(core->loop);
    uint64_t models[16];
    uint32_t n;

    if (core->released_mono_us != 0) {
        double interval = (double)(now - core->released_mono_us);

        core->release_interval_us =
            core->release_interval_us == 0
                ? interval
                : core->release_interval_us * (1 - RATE_ALPHA) + interval * RATE_ALPHA;
    }
    core->released_mono_us = now;
    if (!lines_any(core->board))
        return;
    n = lines_models(core->board, models, ARRAY_LEN(models));
    for (uint32_t i = 0; i < n; i++) {
        unsigned worker;

        if (lines_first(core->board, models[i], now, &worker, NULL))
            wake_worker(core, worker);
    }
}

/* ---- the pass ------------------------------------------------------------------------------
 */

static bool is_first_of_all(struct exchange_core *core, const struct wait_line *line)
{
    unsigned worker;

    if (!line->published ||
        !lines_first(core->board, line->model_hash, loop_now_us(core->loop), &worker, NULL) ||
        worker == core->slot)
        return true;
    wake_worker(core, worker);
    return false;
}

/* Starts what may start.  A start takes x out of the line, and may free the line. */
static void pass_line(struct exchange_core *core, uint64_t model_hash)
{
    struct wait_line *line;
    struct exchange *x, *next;
    unsigned looks = 0;

    for (;;) {
        for (line = core->lines; line != NULL && line->model_hash != model_hash;)
            line = line->next;
        if (line == NULL)
            return;
        if (!is_first_of_all(core, line) ||
            exchange_try_start(line->first) != EXCHANGE_TRY_STARTED)
            break;
    }
    if (config_policy_for(core->config, line->first->model) != POLICY_FASTEST)
        return;
    for (x = line->first->wait_next; x != NULL && looks < LOOK_BEHIND; x = next, looks++) {
        next = x->wait_next;
        /* The first stays, so the line does. */
        if (x->windows_count != 0)
            (void)exchange_try_start(x);
    }
}

static void pass(struct exchange_core *core)
{
    uint64_t models[64];
    size_t n = 0;

    for (const struct wait_line *line = core->lines; line != NULL && n < ARRAY_LEN(models);
         line = line->next)
        models[n++] = line->model_hash;
    for (size_t i = 0; i < n; i++)
        pass_line(core, models[i]);
}

static void on_wake_timer(struct timer *timer)
{
    struct exchange_core *core = CONTAINER_OF(timer, struct exchange_core, wake_timer);

    pass(core);
    if (core->lines != NULL)
        timer_start(core->loop, timer, POLL_US, on_wake_timer);
}

static void on_wake(struct deferred *deferred)
{
    pass(CONTAINER_OF(deferred, struct exchange_core, wake));
}

void exchange_wake(struct exchange_core *core)
{
    if (core->lines != NULL)
        loop_defer(core->loop, &core->wake, on_wake);
}

/* ---- the lines -----------------------------------------------------------------------------
 */

static void publish(struct exchange_core *core, struct wait_line *line)
{
    line->published = lines_set(core->board, core->slot, line->model_hash,
                                line->first == NULL ? 0 : line->first->key, line->count);
}

static struct wait_line *line_for(struct exchange_core *core, uint64_t model_hash)
{
    struct wait_line *line;

    for (line = core->lines; line != NULL; line = line->next) {
        if (line->model_hash == model_hash)
            return line;
    }
    line = calloc(1, sizeof(*line));
    if (line == NULL)
        return NULL;
    line->model_hash = model_hash;
    line->next = core->lines;
    core->lines = line;
    return line;
}

static void drop_line(struct exchange_core *core, struct wait_line *line)
{
    struct wait_line **link = &core->lines;

    while (*link != line)
        link = &(*link)->next;
    *link = line->next;
    free(line);
}

bool waiting_has_line(const struct exchange *x)
{
    return lines_any(x->core->board) && lines_waiting(x->core->board, x->model_hash) != 0;
}

/* It was served or stood in line before: a node's failure must not cost it what it had. */
static bool was_admitted(const struct exchange *x)
{
    return x->attempts != 0 || x->waited_us != 0;
}

bool waiting_add(struct exchange *x)
{
    struct exchange_core *core = x->core;
    struct wait_line *line;
    struct exchange *after;

    if (!was_admitted(x) &&
        lines_waiting(core->board, x->model_hash) >= core->config->queue.max_waiting)
        return false;
    line = line_for(core, x->model_hash);
    if (line == NULL)
        return false;
    x->phase = EXCHANGE_WAITING;
    x->wait_mono_us = loop_now_us(core->loop);
    x->key = key_of(x);
    x->line = line;
    /* Keys mostly come in order, so the place is near the end. */
    for (after = line->last; after != NULL && after->key > x->key;)
        after = after->wait_prev;
    x->wait_prev = after;
    x->wait_next = after == NULL ? line->first : after->wait_next;
    if (x->wait_next != NULL)
        x->wait_next->wait_prev = x;
    else
        line->last = x;
    if (after != NULL)
        after->wait_next = x;
    else
        line->first = x;
    line->count++;
    core->waiting_count++;
    publish(core, line);
    /* A place may have come free between the last look and the publishing. */
    exchange_wake(core);
    if (!timer_running(&core->wake_timer))
        timer_start(core->loop, &core->wake_timer, POLL_US, on_wake_timer);
    return true;
}

void waiting_remove(struct exchange *x)
{
    struct exchange_core *core = x->core;
    struct wait_line *line = x->line;

    if (line == NULL)
        return;
    if (x->wait_prev != NULL)
        x->wait_prev->wait_next = x->wait_next;
    else
        line->first = x->wait_next;
    if (x->wait_next != NULL)
        x->wait_next->wait_prev = x->wait_prev;
    else
        line->last = x->wait_prev;
    x->wait_prev = NULL;
    x->wait_next = NULL;
    x->line = NULL;
    x->waited_us += loop_now_us(core->loop) - x->wait_mono_us;
    line->count--;
    core->waiting_count--;
    publish(core, line);
    if (line->count == 0)
        drop_line(core, line);
}

unsigned waiting_position(const struct exchange *x)
{
    unsigned before = 0;

    for (const struct exchange *w = x->wait_prev; w != NULL; w = w->wait_prev)
        before++;
    return before;
}

unsigned waiting_seconds(const struct exchange_core *core, uint32_t places)
{
    double seconds = ceil(core->release_interval_us * (double)places / (double)US_PER_S);

    if (!(seconds > 1))
        return 1;
    return seconds > 60 ? 60 : (unsigned)seconds;
}
