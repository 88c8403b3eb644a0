/*
 * waiting.c - the line of requests that no node has room for.
 *
 * One list per worker, oldest first.  A pass over it starts whatever can start; once a request
 * finds its model full, younger ones of the same model are skipped in that pass, so order
 * within a model holds. A pass runs at the end of a turn in which a place came free here, and
 * every few milliseconds while anyone waits, because other workers free places too.
 */
#include <math.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/loop.h"
#include "worker/exchange_private.h"

#define POLL_US    (5 * US_PER_MS)
#define MAX_STUCK  16 /* models found full in one pass; more end the pass */
#define RATE_ALPHA 0.1

bool waiting_has_line(const struct exchange_core *core, const struct exchange *x)
{
    for (const struct exchange *w = core->wait_first; w != NULL; w = w->wait_next) {
        if (w->model_hash == x->model_hash)
            return true;
    }
    return false;
}

static void pass(struct exchange_core *core)
{
    uint64_t stuck[MAX_STUCK];
    size_t stuck_count = 0;
    struct exchange *x, *next;

    for (x = core->wait_first; x != NULL; x = next) {
        bool skip = false;

        next = x->wait_next;
        for (size_t i = 0; i < stuck_count && !skip; i++)
            skip = stuck[i] == x->model_hash;
        if (skip || exchange_try_start(x) == EXCHANGE_TRY_STARTED)
            continue;
        if (stuck_count == MAX_STUCK)
            break;
        stuck[stuck_count++] = x->model_hash;
    }
}

static void on_wake_timer(struct timer *timer)
{
    struct exchange_core *core = CONTAINER_OF(timer, struct exchange_core, wake_timer);

    pass(core);
    if (core->wait_first != NULL)
        timer_start(core->loop, timer, POLL_US, on_wake_timer);
}

static void on_wake(struct deferred *deferred)
{
    pass(CONTAINER_OF(deferred, struct exchange_core, wake));
}

void exchange_wake(struct exchange_core *core)
{
    if (core->wait_first != NULL)
        loop_defer(core->loop, &core->wake, on_wake);
}

bool waiting_add(struct exchange *x)
{
    struct exchange_core *core = x->core;
    uint32_t workers = core->config->workers == 0 ? 1 : core->config->workers;
    uint32_t limit = (core->config->queue.max_waiting + workers - 1) / workers;

    if (core->waiting_count >= limit)
        return false;
    x->phase = EXCHANGE_WAITING;
    x->wait_mono_us = loop_now_us(core->loop);
    x->wait_prev = core->wait_last;
    x->wait_next = NULL;
    if (core->wait_last != NULL)
        core->wait_last->wait_next = x;
    else
        core->wait_first = x;
    core->wait_last = x;
    core->waiting_count++;
    if (!timer_running(&core->wake_timer))
        timer_start(core->loop, &core->wake_timer, POLL_US, on_wake_timer);
    return true;
}

void waiting_remove(struct exchange *x)
{
    struct exchange_core *core = x->core;

    if (x->wait_prev == NULL && core->wait_first != x)
        return; /* not in line */
    if (x->wait_prev != NULL)
        x->wait_prev->wait_next = x->wait_next;
    else
        core->wait_first = x->wait_next;
    if (x->wait_next != NULL)
        x->wait_next->wait_prev = x->wait_prev;
    else
        core->wait_last = x->wait_prev;
    x->wait_prev = NULL;
    x->wait_next = NULL;
    core->waiting_count--;
    x->waited_us += loop_now_us(core->loop) - x->wait_mono_us;
}

void waiting_released(struct exchange_core *core)
{
    uint64_t now = loop_now_us(core->loop);

    if (core->released_mono_us != 0) {
        double interval = (double)(now - core->released_mono_us);

        core->release_interval_us =
            core->release_interval_us == 0
                ? interval
                : core->release_interval_us * (1 - RATE_ALPHA) + interval * RATE_ALPHA;
    }
    core->released_mono_us = now;
    exchange_wake(core);
}

unsigned waiting_retry_after_s(const struct exchange_core *core)
{
    double seconds =
        ceil(core->release_interval_us * (double)(core->waiting_count + 1) / (double)US_PER_S);

    if (!(seconds > 1))
        return 1;
    return seconds > 60 ? 60 : (unsigned)seconds;
}
