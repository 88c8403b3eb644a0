/*
 * enqueue.c - a request's place in the queue: its key, its need, and whether it may wait at
 * all.
 *
 * The queue itself (worker/queue/) sees no request: this file owns the entries.  A key is the
 * time a request came, plus what its class and its size cost, which is bounded
 * (policy/queue/order.h).  A need is all that decides which nodes could serve a request: model,
 * operation, whether it is a retry, the nodes it may not be sent to, and where it is planned.
 */
#include "worker/select/enqueue.h"

#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/hash.h"
#include "base/io/loop.h"
#include "policy/queue/admission.h"
#include "policy/queue/order.h"
#include "shm/facts/nodes.h"
#include "shm/queue/model_queues.h"
#include "worker/context.h"
#include "worker/http/client_request.h"
#include "worker/request/request_state.h"
#include "worker/select/demand.h"
#include "worker/select/select.h"
#include "worker/upstreams/upstreams.h"

/* A client that has an answer coming, though not the best, waits no longer for another node. */
#define KEPT_US US_PER_S

static uint64_t key_of(const struct request *req)
{
    return order_key_us(req->started_mono_us, req->client->priority, req->prefill_s,
                        &req->context->times);
}

/* ---- callbacks of the queue ------------------------------------------------------------ */

static struct request *owner_of(const struct queue_entry *entry)
{
    return CONTAINER_OF(entry, struct request, queued);
}

/* Is a place beyond the slots of any use to it?  Only a cache match is worth one. */
static bool may_match(const struct request *req)
{
    return req->windows_count != 0 &&
           config_policy_for(req->context->config, req->model) == POLICY_FASTEST;
}

static bool is_planned(const struct request *req)
{
    return req->plan.charge_us != 0;
}

/* Those that are planned on one node are alike only among themselves. */
static uint64_t need_of(const struct request *req)
{
    uint64_t need = select_need(req);

    if (!is_planned(req))
        return need;
    return need +
           hash_spread(hash_spread((uint64_t)req->plan.node << 32 | req->plan.generation) +
                       HASH_GOLDEN);
}

/* Counts it among those that wait for a slot, or as one that has one in prospect. */
static void count(struct request *req)
{
    const struct worker_context *context = req->context;
    uint64_t now = loop_now_us(context->loop);

    req->queued.planned = is_planned(req);
    if (req->queued.planned) {
        req->planned_mono_us = now;
    } else {
        model_queues_enter(context->board, context->worker, req->queue_row);
    }
}

static void uncount(struct request *req)
{
    const struct worker_context *context = req->context;

    if (!req->queued.planned) {
        model_queues_leave(context->board, context->worker, req->queue_row);
        return;
    }
    req->planned_us += loop_now_us(context->loop) - req->planned_mono_us;
    req->planned_mono_us = 0;
}

/* It waits on, and its plan may be another now, or void. */
static void settle(struct request *req)
{
    if (req->queued.list == NULL)
        return;
    if (req->queued.planned != is_planned(req)) {
        uncount(req);
        count(req);
    }
    queue_move(&req->context->queue, &req->queued, need_of(req));
}

static enum request_try try_start(struct request *req, const struct queue_rights *rights)
{
    enum request_try result = req->context->try_start(req, rights);

    if (result != REQUEST_TRY_STARTED)
        settle(req);
    return result;
}

/* Is a look at the nodes of any use to it, beside the slots that come free? */
static bool wants_look(const struct request *req)
{
    if (req->context->hold_us != 0 && select_look_is_due(req))
        return true;
    return !is_planned(req) && may_match(req);
}

static enum queue_start start(struct queue_entry *entry, const struct queue_rights *rights)
{
    struct request *req = owner_of(entry);

    if (rights->overcommit_only && !wants_look(req))
        return enqueue_look(req) ? QUEUE_STARTED : QUEUE_DECLINED;
    switch (try_start(req, rights)) {
    case REQUEST_TRY_STARTED:
        return QUEUE_STARTED;
    case REQUEST_TRY_PLANNED:
        return QUEUE_PLANNED;
    case REQUEST_TRY_LOST:
        return QUEUE_LOST;
    case REQUEST_TRY_NO_ROOM:
        break;
    }
    return QUEUE_DECLINED;
}

static void reach(const struct queue_entry *entry, struct queue_reach *out)
{
    const struct request *req = owner_of(entry);
    bool is_there;

    select_reach(req, out);
    if (!is_planned(req))
        return;
    is_there = node_set_has(&out->nodes, req->plan.node) &&
               out->generation[req->plan.node] == req->plan.generation;
    memset(&out->nodes, 0, sizeof(out->nodes));
    if (is_there)
        node_set_add(&out->nodes, req->plan.node);
}

static const struct queue_owner owner = {.start = start, .reach = reach};

void enqueue_init(struct worker_context *context)
{
    queue_init(&context->queue, context->loop, context->board, context->worker,
               context->wake_fds, context->hold_us, &context->times, &owner);
}

void enqueue_finish(struct worker_context *context)
{
    queue_finish(&context->queue);
}

const struct queue_rights *enqueue_rights(const struct request *req, bool is_hedge,
                                          struct queue_rights *rights)
{
    struct queue *queue = &req->context->queue;
    struct queue_reach reached;

    if (queue_is_idle(queue))
        return NULL;
    reached = queue_reach(queue);
    select_reach(req, &reached);
    queue_rights(queue, NULL, is_hedge ? UINT64_MAX : key_of(req), &reached.nodes, rights);
    return rights;
}

/* ---- coming and going ------------------------------------------------------------------ */

/* Where requests for the model are counted; those for a model that no node names share a row.
 */
static uint32_t row_of(const struct upstream_model *model)
{
    return model == NULL ? MODEL_QUEUES_OTHERS : model->queue_row;
}

bool enqueue_add(struct request *req)
{
    struct worker_context *context = req->context;

    req->queued.planned = is_planned(req);
    if (queue_add(&context->queue, &req->queued, need_of(req), key_of(req)) != 0) {
        select_drop_plan(req);
        return false;
    }
    req->wait_mono_us = loop_now_us(context->loop);
    req->queue_row = row_of(upstreams_find(context->upstreams, req->model));
    count(req);
    return true;
}

/* Is its node UP, the same and in reach, and, if models may have changed, could it still serve
 * the request? */
static bool plan_stands(struct worker_context *context, const struct request *req, bool models)
{
    const struct request_plan *plan = &req->plan;
    const struct upstream *node =
        upstreams_at(context->upstreams, plan->node, plan->generation);
    struct queue_reach reached;

    if (node == NULL || !node->reachable || nodes_state(context->board, plan->node) != NODE_UP)
        return false;
    if (!models)
        return true;
    reached = queue_reach(&context->queue);
    select_reach(req, &reached);
    return node_set_has(&reached.nodes, plan->node);
}

/* Requests of any size have one need until a node comes that takes only the small ones. */
void enqueue_renew(struct worker_context *context, bool models)
{
    struct request *req = context->queue.waiting == 0 ? NULL : context->first;

    for (; req != NULL; req = req->next) {
        bool is_void;

        if (req->queued.list == NULL)
            continue;
        is_void = is_planned(req) && !plan_stands(context, req, models);
        if (is_void)
            select_drop_plan(req);
        if (is_void || models)
            settle(req);
        if (is_void)
            queue_price(&context->queue, &req->queued);
    }
    queue_renew(&context->queue);
}

void enqueue_remove(struct request *req)
{
    struct worker_context *context = req->context;

    if (req->queued.list == NULL)
        return;
    queue_remove(&context->queue, &req->queued);
    uncount(req);
    req->waited_us += loop_now_us(context->loop) - req->wait_mono_us;
    if (is_planned(req)) {
        unsigned node = req->plan.node;

        select_drop_plan(req);
        queue_room(&context->queue, node); /* another may be the first there now */
    }
}

bool enqueue_look(struct request *req)
{
    const struct queue_rights none = {.overcommit_only = true};

    return req->excluded.count != 0 && !is_planned(req) &&
           try_start(req, &none) == REQUEST_TRY_STARTED;
}

/* ---- how long it takes ----------------------------------------------------------------- */

bool enqueue_any(const struct request *req)
{
    const struct upstream_model *model = upstreams_find(req->context->upstreams, req->model);

    return model_queues_waiting(req->context->board, row_of(model)) != 0;
}

/* How many requests of any model go before it on the nodes of its model. */
static double count_ahead(struct worker_context *context, const struct request *req,
                          struct upstream_model *model)
{
    const struct queue_entry *entry = req->queued.list == NULL ? NULL : &req->queued;
    uint64_t now = loop_now_us(context->loop);
    struct upstream_model *models;
    struct node_set outranked;
    double own, own_before;
    size_t count;

    models = upstreams_all_models(context->upstreams, &count);
    demand_renew(&context->demand, context->board, context->worker, models, count, now);
    own = queue_ahead(&context->queue, NULL, UINT64_MAX, &model->serving);
    own_before = queue_ahead(&context->queue, entry, key_of(req), &model->serving);
    if (entry != NULL && !entry->planned)
        own -= 1; /* itself */
    demand_outranked(model, context->board, context->worker, key_of(req), now, &outranked);
    return admission_ahead(demand_on(&context->demand, &outranked) -
                               demand_own(&context->demand, &outranked),
                           own, own_before);
}

/* All of *line but `waiting` and `ahead`.  NULL when no node names the model. */
static struct upstream_model *look_at_queue(const struct request *req,
                                            struct admission_queue *line)
{
    const struct worker_context *context = req->context;
    struct upstream_model *model = upstreams_find(context->upstreams, req->model);
    const struct config_queue *queue = config_queue_for(context->config, req->model);
    uint64_t overloaded = model_queues_refused_mono_us(context->board, row_of(model));

    *line = (struct admission_queue){
        .max_waiting = queue->max_waiting,
        .max_wait_us = queue->max_wait_ms * US_PER_MS,
        .overloaded =
            overloaded != 0 && overloaded + ADMISSION_CALM_US > loop_now_us(context->loop),
    };
    if (model == NULL)
        return NULL;
    demand_measure(model, context->board, loop_now_us(context->loop));
    line->slots = model->slots;
    if (op_class_holds_slot(req->op_class))
        line->places_per_s = model->places_per_s[req->op_class];
    return model;
}

static struct upstream_model *look(const struct request *req, struct admission_queue *line)
{
    struct upstream_model *model = look_at_queue(req, line);

    line->waiting = model_queues_waiting(req->context->board, row_of(model));
    line->ahead = model == NULL ? line->waiting : count_ahead(req->context, req, model);
    return model;
}

bool enqueue_refuses(const struct request *req)
{
    struct admission_queue line;

    if (req->was_dispatched || is_planned(req))
        return false; /* a node that fails, or is full, must not cost it what it had */
    (void)look(req, &line);
    return !admission_allows(&line);
}

/* How long it may wait without a plan. */
static uint64_t limit_of(const struct request *req)
{
    struct admission_queue line;

    if (req->was_dispatched)
        return config_queue_for(req->context->config, req->model)->max_wait_ms * US_PER_MS;
    (void)look_at_queue(req, &line);
    return admission_limit_us(&line);
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t until(const struct request *req, uint64_t mono_us)
{
    uint64_t now = loop_now_us(req->context->loop);

    return mono_us > now ? mono_us - now : 0;
}

void enqueue_estimate(const struct request *req, unsigned *ahead, unsigned *eta_s)
{
    struct admission_queue line;

    (void)look(req, &line);
    *ahead = (unsigned)(line.ahead + 0.5);
    *eta_s = admission_seconds(is_planned(req) ? until(req, req->plan.promised_mono_us)
                                               : admission_wait_us(&line));
}

uint64_t enqueue_due_mono_us(const struct request *req)
{
    uint64_t now = loop_now_us(req->context->loop), limit_us = limit_of(req);
    uint64_t most_us = req->context->config->limits.first_token_ms * US_PER_MS;
    uint64_t waited_us = req->waited_us + now - req->wait_mono_us;
    uint64_t planned_us =
        req->planned_us + (req->planned_mono_us == 0 ? 0 : now - req->planned_mono_us);
    uint64_t free_us = planned_us < most_us ? planned_us : most_us;
    uint64_t unbound_us = waited_us > free_us ? waited_us - free_us : 0;
    uint64_t left_us = limit_us > unbound_us ? limit_us - unbound_us : 0;

    if (req->planned_mono_us != 0)
        left_us += most_us - free_us;
    if (req->refusal.is_answer)
        left_us = least(left_us, until(req, req->wait_mono_us + KEPT_US));
    return now + left_us;
}

unsigned enqueue_reject(struct request *req)
{
    struct worker_context *context = req->context;
    struct admission_queue line;
    struct upstream_model *model = look(req, &line);
    uint64_t now = loop_now_us(context->loop), alone = 0;

    model_queues_refuse(context->board, row_of(model), now);
    return admission_return_s(&line, now, 1.0 / context->config->workers,
                              model == NULL ? &alone : &model->return_mono_us);
}

void enqueue_not_needed(const struct request *req)
{
    struct upstream_model *model = upstreams_find(req->context->upstreams, req->model);

    if (model != NULL)
        model->return_mono_us = 0;
}
