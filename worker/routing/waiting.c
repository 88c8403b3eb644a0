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
#include "worker/routing/waiting.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/loop.h"
#include "policy/route/admission.h"
#include "shm/nodes.h"
#include "shm/routing/lines.h"
#include "shm/share/model_queues.h"
#include "worker/context.h"
#include "worker/fleet.h"
#include "worker/http/client_request.h"
#include "worker/request/request_state.h"
#include "worker/routing/demand.h"

#define POLL_US (20 * US_PER_MS)
/* Positions in a line of n are counted again after n times this, so that the whole costs next
 * to nothing and who is near the front hears the truth. */
#define COUNT_AGAIN_US 20
#define LOOK_BEHIND    16 /* how many behind the first are looked at for a cache match */

/* What the classes cost.  Both are less than the usual longest wait (queue.max_wait_ms). */
#define DEFAULT_CLASS_US (5 * US_PER_S)
#define BULK_CLASS_US    (20 * US_PER_S)

struct wait_line {
    struct wait_line *next;
    uint64_t model_hash;
    struct request *first, *last; /* by key */
    uint32_t count;
    uint64_t counted_mono_us; /* when each got its `position` */
    bool published;           /* false: the worker has more lines than it can publish */
};

static uint64_t key_of(const struct request *req)
{
    switch (req->client->priority) {
    case REQUEST_PRIORITY_INTERACTIVE:
        return req->started_mono_us;
    case REQUEST_PRIORITY_DEFAULT:
        return req->started_mono_us + DEFAULT_CLASS_US;
    case REQUEST_PRIORITY_BULK:
        return req->started_mono_us + BULK_CLASS_US;
    }
    return req->started_mono_us + DEFAULT_CLASS_US;
}

/* ---- waking ---------------------------------------------------------------------------- */

static void wake_worker(struct worker_context *context, unsigned worker)
{
    static const uint64_t one = 1;

    if (worker == context->slot)
        waiting_wake(context);
    else if (context->wake_fds != NULL &&
             write(context->wake_fds[worker], &one, sizeof(one)) == -1)
        return; /* full: it is awake already */
}

void waiting_released(struct worker_context *context)
{
    uint64_t now = loop_now_us(context->loop);
    uint64_t models[16];
    uint32_t n;

    if (!lines_any(context->board))
        return;
    n = lines_models(context->board, models, ARRAY_LEN(models));
    for (uint32_t i = 0; i < n; i++) {
        unsigned worker;

        if (lines_first(context->board, models[i], now, &worker, NULL))
            wake_worker(context, worker);
    }
}

/* ---- the pass -------------------------------------------------------------------------- */

static bool is_first_of_all(struct worker_context *context, const struct wait_line *line)
{
    unsigned worker;

    if (!line->published ||
        !lines_first(context->board, line->model_hash, loop_now_us(context->loop), &worker,
                     NULL) ||
        worker == context->slot)
        return true;
    wake_worker(context, worker);
    return false;
}

/* Could req have a slot that the first one, which has just found none, could not? */
static bool differs(const struct request *req, const struct request *first)
{
    return first->excluded.count != 0 || req->client->operation != first->client->operation;
}

/* Those behind the first.  Only what is none of the first's: where it was the first of all, it
 * has just been refused what it could have; where it was not, slots are the other worker's. */
static void pass_behind(struct worker_context *context, const struct wait_line *line,
                        bool first_of_all)
{
    bool by_match = config_policy_for(context->config, line->first->model) == POLICY_FASTEST;
    struct request *req, *next;
    unsigned looks = 0;

    /* The first stays, so the line does. */
    for (req = line->first->wait_next; req != NULL && looks < LOOK_BEHIND;
         req = next, looks++) {
        next = req->wait_next;
        if (first_of_all && differs(req, line->first))
            (void)context->try_start(req, false);
        else if (by_match && req->windows_count != 0)
            (void)context->try_start(req, true);
    }
}

static struct wait_line *find_line(struct worker_context *context, uint64_t model_hash)
{
    struct wait_line *line = context->lines;

    while (line != NULL && line->model_hash != model_hash)
        line = line->next;
    return line;
}

/* Starts what may start.  A start takes req out of the line, and may free the line. */
static void pass_line(struct worker_context *context, uint64_t model_hash)
{
    struct wait_line *line;

    while ((line = find_line(context, model_hash)) != NULL) {
        bool first_of_all = is_first_of_all(context, line);

        if (first_of_all && context->try_start(line->first, false) == REQUEST_TRY_STARTED)
            continue;
        pass_behind(context, line, first_of_all);
        return;
    }
}

static void pass(struct worker_context *context)
{
    struct wait_line *line, *next;

    /* Those who start leave their own line, which may end it, and no other. */
    for (line = context->lines; line != NULL; line = next) {
        next = line->next;
        pass_line(context, line->model_hash);
    }
}

static void on_wake_timer(struct timer *timer)
{
    struct worker_context *context = CONTAINER_OF(timer, struct worker_context, wake_timer);

    pass(context);
    if (context->lines != NULL)
        timer_start(context->loop, timer, POLL_US, on_wake_timer);
}

static void on_wake(struct deferred *deferred)
{
    pass(CONTAINER_OF(deferred, struct worker_context, wake));
}

void waiting_wake(struct worker_context *context)
{
    if (context->lines != NULL)
        loop_defer(context->loop, &context->wake, on_wake);
}

/* ---- the lines ------------------------------------------------------------------------- */

static void publish(struct worker_context *context, struct wait_line *line)
{
    line->published = lines_set(context->board, context->slot, line->model_hash,
                                line->first == NULL ? 0 : line->first->key, line->count);
}

static struct wait_line *line_for(struct worker_context *context, uint64_t model_hash)
{
    struct wait_line *line = find_line(context, model_hash);

    if (line != NULL)
        return line;
    line = calloc(1, sizeof(*line));
    if (line == NULL)
        return NULL;
    line->model_hash = model_hash;
    line->next = context->lines;
    context->lines = line;
    return line;
}

static void drop_line(struct worker_context *context, struct wait_line *line)
{
    struct wait_line **link = &context->lines;

    while (*link != line)
        link = &(*link)->next;
    *link = line->next;
    free(line);
}

bool waiting_has_line(const struct request *req)
{
    return lines_any(req->context->board) &&
           lines_waiting(req->context->board, req->model_hash) != 0;
}

bool waiting_add(struct request *req)
{
    struct worker_context *context = req->context;
    struct wait_line *line;
    struct request *after;

    line = line_for(context, req->model_hash);
    if (line == NULL)
        return false;
    req->wait_mono_us = loop_now_us(context->loop);
    req->key = key_of(req);
    req->line = line;
    /* Keys mostly come in order, so the place is near the end. */
    for (after = line->last; after != NULL && after->key > req->key;)
        after = after->wait_prev;
    req->wait_prev = after;
    req->wait_next = after == NULL ? line->first : after->wait_next;
    req->position = after == NULL ? 0 : after->position + 1;
    if (req->wait_next != NULL)
        req->wait_next->wait_prev = req;
    else
        line->last = req;
    if (after != NULL)
        after->wait_next = req;
    else
        line->first = req;
    line->count++;
    context->waiting_count++;
    model_queues_enter(context->board, context->slot, req->queue_row);
    publish(context, line);
    /* A place may have come free between the last look and the publishing. */
    waiting_wake(context);
    if (!timer_running(&context->wake_timer))
        timer_start(context->loop, &context->wake_timer, POLL_US, on_wake_timer);
    return true;
}

void waiting_remove(struct request *req)
{
    struct worker_context *context = req->context;
    struct wait_line *line = req->line;

    if (line == NULL)
        return;
    if (req->wait_prev != NULL)
        req->wait_prev->wait_next = req->wait_next;
    else
        line->first = req->wait_next;
    if (req->wait_next != NULL)
        req->wait_next->wait_prev = req->wait_prev;
    else
        line->last = req->wait_prev;
    req->wait_prev = NULL;
    req->wait_next = NULL;
    req->line = NULL;
    req->waited_us += loop_now_us(context->loop) - req->wait_mono_us;
    line->count--;
    context->waiting_count--;
    model_queues_leave(context->board, context->slot, req->queue_row);
    publish(context, line);
    if (line->count == 0)
        drop_line(context, line);
}

/* How many of its line are before it; about, if they are many. */
static unsigned position_in_line(const struct request *req)
{
    struct wait_line *line = req->line;
    uint64_t now = loop_now_us(req->context->loop);
    unsigned before = 0;

    if (now - line->counted_mono_us >= (uint64_t)COUNT_AGAIN_US * line->count) {
        line->counted_mono_us = now;
        for (struct request *w = line->first; w != NULL; w = w->wait_next)
            w->position = before++;
    }
    return req->position < line->count ? req->position : line->count - 1;
}

/* ---- how long it takes ----------------------------------------------------------------- */

/* How many of a line have a lower key than the request; about, of its own. */
static uint32_t count_before(const struct wait_line *line, const struct request *req)
{
    uint64_t key = key_of(req);
    uint32_t before = line->count;

    if (req->line == line)
        return position_in_line(req);
    for (const struct request *w = line->last; w != NULL && w->key > key; w = w->wait_prev)
        before--;
    return before;
}

/* How many requests go before it on the nodes of its model, whatever their models. */
static double count_ahead(struct worker_context *context, const struct request *req,
                          struct fleet_model *model)
{
    uint64_t now = loop_now_us(context->loop);
    double own = 0, own_before = 0;
    struct fleet_model *models;
    size_t count;

    models = fleet_all_models(context->fleet, &count);
    demand_renew(&context->demand, context->board, context->slot, models, count, now);
    for (const struct wait_line *line = context->lines; line != NULL; line = line->next) {
        struct fleet_model *rival = fleet_find(context->fleet, line->first->model);
        double part;

        if (rival == NULL)
            continue;
        demand_measure(rival, context->board, now);
        part = demand_part(rival, model);
        if (part == 0)
            continue;
        own += part * (line->count - (req->line == line)); /* without itself */
        own_before += part * count_before(line, req);
    }
    return admission_ahead(demand_on(&context->demand, model) -
                               demand_own(&context->demand, model),
                           own, own_before);
}

static uint32_t row_of(const struct fleet_model *model)
{
    return model == NULL ? MODEL_QUEUES_OTHERS : model->queue_row;
}

uint32_t waiting_row(const struct request *req)
{
    return row_of(fleet_find(req->context->fleet, req->model));
}

/* All but what goes before it.  NULL when no node names the model. */
static struct fleet_model *look_at_line(const struct request *req, struct admission_line *line)
{
    const struct worker_context *context = req->context;
    struct fleet_model *model = fleet_find(context->fleet, req->model);
    const struct config_queue *queue = config_queue_for(context->config, req->model);
    uint64_t pressed = model_queues_refused_mono_us(context->board, row_of(model));

    *line = (struct admission_line){
        .max_waiting = queue->max_waiting,
        .max_wait_us = queue->max_wait_ms * US_PER_MS,
        .pressed = pressed != 0 && pressed + ADMISSION_CALM_US > loop_now_us(context->loop),
    };
    if (model == NULL)
        return NULL;
    demand_measure(model, context->board, loop_now_us(context->loop));
    line->slots = model->slots;
    line->places_per_s = model->places_per_s;
    return model;
}

static struct fleet_model *look(const struct request *req, struct admission_line *line)
{
    struct fleet_model *model = look_at_line(req, line);

    line->waiting = model_queues_waiting(req->context->board, row_of(model));
    line->ahead = model == NULL ? line->waiting : count_ahead(req->context, req, model);
    return model;
}

bool waiting_refuses(const struct request *req)
{
    struct admission_line line;

    if (req->was_dispatched)
        return false; /* a node that fails, or is full, must not cost it what it had */
    (void)look(req, &line);
    return !admission_allows(&line);
}

uint64_t waiting_limit_us(const struct request *req)
{
    struct admission_line line;

    if (req->attempts != 0)
        return config_queue_for(req->context->config, req->model)->max_wait_ms * US_PER_MS;
    (void)look_at_line(req, &line);
    return admission_limit_us(&line);
}

unsigned waiting_position(const struct request *req)
{
    struct admission_line line;

    (void)look(req, &line);
    return (unsigned)(line.ahead + 0.5);
}

unsigned waiting_eta_s(const struct request *req)
{
    struct admission_line line;

    (void)look(req, &line);
    return admission_seconds(admission_wait_us(&line));
}

unsigned waiting_turn_away(struct request *req)
{
    struct worker_context *context = req->context;
    struct admission_line line;
    struct fleet_model *model = look(req, &line);
    uint64_t now = loop_now_us(context->loop), alone = 0;

    model_queues_refuse(context->board, row_of(model), now);
    return admission_return_s(&line, now, 1.0 / context->config->workers,
                              model == NULL ? &alone : &model->return_mono_us);
}

void waiting_not_needed(const struct request *req)
{
    struct fleet_model *model = fleet_find(req->context->fleet, req->model);

    if (model != NULL)
        model->return_mono_us = 0;
}
