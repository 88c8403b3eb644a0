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
 * Those behind the first may take what it cannot have: a place beyond the slots, which only a
 * cache match admits (see policy.h), and a slot on a node that has failed for the first, or
 * that does not serve its operation.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/loop.h"
#include "policy/route/admission.h"
#include "shm/nodes.h"
#include "shm/routing/lines.h"
#include "shm/stats.h"
#include "worker/exchange_private.h"
#include "worker/fleet.h"
#include "worker/http/request.h"

#define POLL_US (20 * US_PER_MS)
/* Positions in a line of n are counted again after n times this, so that the whole costs next
 * to nothing and who is near the front hears the truth. */
#define COUNT_AGAIN_US 20
#define LOOK_BEHIND    16 /* how many behind the first are looked at for a cache match */
/* The nodes' rates are added up anew after so long. */
#define MEASURE_US (100 * US_PER_MS)

/* What the classes cost.  Both are less than the usual longest wait (queue.max_wait_ms). */
#define DEFAULT_CLASS_US (5 * US_PER_S)
#define BULK_CLASS_US    (20 * US_PER_S)

struct wait_line {
    struct wait_line *next;
    uint64_t model_hash;
    struct exchange *first, *last; /* by key */
    uint32_t count;
    uint64_t counted_mono_us; /* when each got its `position` */
    bool published;           /* false: the worker has more lines than it can publish */
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

/* ---- waking ---------------------------------------------------------------------------- */

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

    if (!lines_any(core->board))
        return;
    n = lines_models(core->board, models, ARRAY_LEN(models));
    for (uint32_t i = 0; i < n; i++) {
        unsigned worker;

        if (lines_first(core->board, models[i], now, &worker, NULL))
            wake_worker(core, worker);
    }
}

/* ---- the pass -------------------------------------------------------------------------- */

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

/* Could x have a slot that the first one, which has just found none, could not? */
static bool differs(const struct exchange *x, const struct exchange *first)
{
    return first->excluded.count != 0 || x->request->operation != first->request->operation;
}

/* Those behind the first.  Only what is none of the first's: where it was the first of all, it
 * has just been refused what it could have; where it was not, slots are the other worker's. */
static void pass_behind(struct exchange_core *core, const struct wait_line *line,
                        bool first_of_all)
{
    bool by_match = config_policy_for(core->config, line->first->model) == POLICY_FASTEST;
    struct exchange *x, *next;
    unsigned looks = 0;

    /* The first stays, so the line does. */
    for (x = line->first->wait_next; x != NULL && looks < LOOK_BEHIND; x = next, looks++) {
        next = x->wait_next;
        if (first_of_all && differs(x, line->first))
            (void)exchange_try_start(x, false);
        else if (by_match && x->windows_count != 0)
            (void)exchange_try_start(x, true);
    }
}

static struct wait_line *find_line(struct exchange_core *core, uint64_t model_hash)
{
    struct wait_line *line = core->lines;

    while (line != NULL && line->model_hash != model_hash)
        line = line->next;
    return line;
}

/* Starts what may start.  A start takes x out of the line, and may free the line. */
static void pass_line(struct exchange_core *core, uint64_t model_hash)
{
    struct wait_line *line;

    while ((line = find_line(core, model_hash)) != NULL) {
        bool first_of_all = is_first_of_all(core, line);

        if (first_of_all && exchange_try_start(line->first, false) == EXCHANGE_TRY_STARTED)
            continue;
        pass_behind(core, line, first_of_all);
        return;
    }
}

static void pass(struct exchange_core *core)
{
    struct wait_line *line, *next;

    /* Those who start leave their own line, which may end it, and no other. */
    for (line = core->lines; line != NULL; line = next) {
        next = line->next;
        pass_line(core, line->model_hash);
    }
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

/* ---- the lines ------------------------------------------------------------------------- */

static void publish(struct exchange_core *core, struct wait_line *line)
{
    line->published = lines_set(core->board, core->slot, line->model_hash,
                                line->first == NULL ? 0 : line->first->key, line->count);
}

static struct wait_line *line_for(struct exchange_core *core, uint64_t model_hash)
{
    struct wait_line *line = find_line(core, model_hash);

    if (line != NULL)
        return line;
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

bool waiting_add(struct exchange *x)
{
    struct exchange_core *core = x->core;
    struct wait_line *line;
    struct exchange *after;

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
    x->position = after == NULL ? 0 : after->position + 1;
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
    struct wait_line *line = x->line;
    uint64_t now = loop_now_us(x->core->loop);
    unsigned before = 0;

    if (now - line->counted_mono_us >= (uint64_t)COUNT_AGAIN_US * line->count) {
        line->counted_mono_us = now;
        for (struct exchange *w = line->first; w != NULL; w = w->wait_next)
            w->position = before++;
    }
    return x->position < line->count ? x->position : line->count - 1;
}

/* ---- how long it takes ----------------------------------------------------------------- */

/* What the nodes of the model can do; all of it is shared, so every worker finds the same. */
static void measure(const struct exchange_core *core, struct fleet_model *model)
{
    uint64_t now = loop_now_us(core->loop);

    if (model->measured_mono_us != 0 && now - model->measured_mono_us < MEASURE_US)
        return;
    model->measured_mono_us = now;
    model->slots = 0;
    model->places_per_s = 0;
    for (size_t i = 0; i < model->servers_count; i++) {
        const struct fleet_node *node = model->servers[i].node;
        struct node_status status;
        double hold_s;

        if (!fleet_usable(node) || !nodes_status(core->board, node->slot, &status))
            continue;
        hold_s = stats_read_average(core->board, node->slot, STATS_AVG_HOLD_S);
        model->slots += status.slots_now;
        if (hold_s > 0)
            model->places_per_s += status.slots_now / hold_s;
    }
}

/* How many of all lines of the model would go before x: those in this worker's, and as large a
 * share of the others'. */
static uint32_t count_ahead(const struct exchange *x, uint32_t waiting)
{
    const struct wait_line *line = find_line(x->core, x->model_hash);
    uint64_t key = key_of(x);
    uint32_t ahead;

    if (line == NULL)
        return waiting;
    if (x->line != NULL) {
        ahead = waiting_position(x);
    } else {
        ahead = line->count;
        for (const struct exchange *w = line->last; w != NULL && w->key > key; w = w->wait_prev)
            ahead--;
    }
    if (waiting <= line->count)
        return ahead;
    return ahead + (uint32_t)((uint64_t)(waiting - line->count) * ahead / line->count);
}

/* NULL when no node names the model. */
static struct fleet_model *look(const struct exchange *x, struct admission_line *line)
{
    const struct exchange_core *core = x->core;
    struct fleet_model *model = fleet_find(core->fleet, x->model);
    const struct config_queue *queue = config_queue_for(core->config, x->model);
    uint64_t pressed = lines_pressed(core->board, x->model_hash);

    *line = (struct admission_line){
        .max_waiting = queue->max_waiting,
        .max_wait_us = queue->max_wait_ms * US_PER_MS,
        .waiting = lines_waiting(core->board, x->model_hash),
        .pressed = pressed != 0 && pressed + ADMISSION_CALM_US > loop_now_us(core->loop),
    };
    line->ahead = count_ahead(x, line->waiting);
    if (model == NULL)
        return NULL;
    measure(core, model);
    line->slots = model->slots;
    line->places_per_s = model->places_per_s;
    return model;
}

bool waiting_refuses(const struct exchange *x)
{
    struct admission_line line;

    if (x->placed)
        return false; /* a node that fails, or is full, must not cost it what it had */
    (void)look(x, &line);
    return !admission_allows(&line);
}

uint64_t waiting_limit_us(const struct exchange *x)
{
    struct admission_line line;

    if (x->attempts != 0)
        return config_queue_for(x->core->config, x->model)->max_wait_ms * US_PER_MS;
    (void)look(x, &line);
    return admission_limit_us(&line);
}

unsigned waiting_eta_s(const struct exchange *x)
{
    struct admission_line line;

    (void)look(x, &line);
    return admission_seconds(admission_wait_us(&line));
}

unsigned waiting_turn_away(struct exchange *x)
{
    struct exchange_core *core = x->core;
    struct admission_line line;
    struct fleet_model *model = look(x, &line);
    uint64_t now = loop_now_us(core->loop), alone = 0;

    lines_press(core->board, core->slot, x->model_hash, now);
    return admission_return_s(&line, now, 1.0 / core->config->workers,
                              model == NULL ? &alone : &model->return_mono_us);
}

void waiting_not_needed(const struct exchange *x)
{
    struct fleet_model *model = fleet_find(x->core->fleet, x->model);

    if (model != NULL)
        model->return_mono_us = 0;
}
