/*
 * enqueue.c - a request's place in the queue: its key, its need, and whether it may wait at
 * all.
 *
 * The queue itself (worker/queue/) sees no request: this file owns the entries.  A key is the
 * time a request came, plus what its class and its size cost, which is bounded
 * (policy/route/order.h).  A need is all that decides which nodes could serve a request: model,
 * operation, whether it is a retry, and the nodes it may not be sent to.
 */
#include "worker/select/enqueue.h"

#include "base/clock.h"
#include "base/config/config.h"
#include "base/io/loop.h"
#include "policy/route/admission.h"
#include "policy/route/order.h"
#include "shm/share/model_queues.h"
#include "worker/context.h"
#include "worker/http/client_request.h"
#include "worker/request/request_state.h"
#include "worker/select/demand.h"
#include "worker/select/select.h"
#include "worker/upstreams/upstreams.h"

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

static enum queue_start start(struct queue_entry *entry, const struct queue_rights *rights)
{
    struct request *req = owner_of(entry);

    if (rights->overcommit_only && !may_match(req))
        return enqueue_look(req) ? QUEUE_STARTED : QUEUE_DECLINED;
    switch (req->context->try_start(req, rights)) {
    case REQUEST_TRY_STARTED:
        return QUEUE_STARTED;
    case REQUEST_TRY_LOST:
        return QUEUE_LOST;
    case REQUEST_TRY_NO_ROOM:
        break;
    }
    return QUEUE_DECLINED;
}

static void reach(const struct queue_entry *entry, struct queue_reach *out)
{
    select_reach(owner_of(entry), out);
}

static const struct queue_owner owner = {.start = start, .reach = reach};

void enqueue_init(struct worker_context *context)
{
    queue_init(&context->queue, context->loop, context->board, context->worker,
               context->wake_fds, &owner);
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

    if (queue_add(&context->queue, &req->queued, select_need(req), key_of(req)) != 0)
        return false;
    req->wait_mono_us = loop_now_us(context->loop);
    req->queue_row = row_of(upstreams_find(context->upstreams, req->model));
    model_queues_enter(context->board, context->worker, req->queue_row);
    return true;
}

/* Requests of any size have one need until a node comes that takes only the small ones. */
void enqueue_renew(struct worker_context *context)
{
    struct request *req = context->queue.waiting == 0 ? NULL : context->first;

    for (; req != NULL; req = req->next) {
        if (req->queued.list != NULL)
            queue_move(&context->queue, &req->queued, select_need(req));
    }
    queue_renew(&context->queue);
}

void enqueue_remove(struct request *req)
{
    struct worker_context *context = req->context;

    if (req->queued.list == NULL)
        return;
    queue_remove(&context->queue, &req->queued);
    model_queues_leave(context->board, context->worker, req->queue_row);
    req->waited_us += loop_now_us(context->loop) - req->wait_mono_us;
}

bool enqueue_look(struct request *req)
{
    const struct queue_rights none = {.overcommit_only = true};

    return req->excluded.count != 0 &&
           req->context->try_start(req, &none) == REQUEST_TRY_STARTED;
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
    if (entry != NULL)
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
    line->places_per_s = model->places_per_s;
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

    if (req->was_dispatched)
        return false; /* a node that fails, or is full, must not cost it what it had */
    (void)look(req, &line);
    return !admission_allows(&line);
}

uint64_t enqueue_limit_us(const struct request *req)
{
    struct admission_queue line;

    if (req->attempts != 0)
        return config_queue_for(req->context->config, req->model)->max_wait_ms * US_PER_MS;
    (void)look_at_queue(req, &line);
    return admission_limit_us(&line);
}

void enqueue_estimate(const struct request *req, unsigned *ahead, unsigned *eta_s)
{
    struct admission_queue line;

    (void)look(req, &line);
    *ahead = (unsigned)(line.ahead + 0.5);
    *eta_s = admission_seconds(admission_wait_us(&line));
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
