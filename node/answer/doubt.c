/* doubt.c - an answer of another model than the asked one is held until the engine was looked
 * at.
 */
#include "node/answer/doubt.h"

#include "base/log.h"
#include "node/answer/answer_names.h"
#include "node/answer/sender.h"
#include "node/node_request.h"

static bool is_expected(const struct node_request *req)
{
    return answer_names_expect(&req->agent->answer_names, engine_facts(req->agent->engine),
                               req->model, req->sent_model, req->answered_as);
}

/* The name is the engine's own: the answer goes on. */
static void dispel(struct node_request *req)
{
    if (!is_expected(req)) {
        answer_names_learn(&req->agent->answer_names, req->model, req->answered_as);
        log_info("event=answer_name model=%s answers_as=%s", log_quote(req->model),
                 log_quote(req->answered_as));
    }
    if (req->refused)
        return; /* an error of the engine is about to be looked at */
    if (req->pass_due)
        sender_pass(req);
    else if (sender_flush(req))
        sender_writable(req); /* if the engine is paused */
}

static void settle(struct deferred *deferred)
{
    struct node_request *req = CONTAINER_OF(deferred, struct node_request, settle);
    const struct engine_facts *facts = engine_facts(req->agent->engine);

    agent_unlisten(req->agent, &req->listener);
    req->doubted = false;
    if (!facts->reachable || facts->loading)
        node_request_fail(req, GRPC_UNAVAILABLE, "another engine has come: %s", facts->detail);
    else if (facts_model(facts, req->model) == NULL)
        node_request_fail(req, GRPC_NOT_FOUND,
                          "no such model on this node any more: %s (%s answered)", req->model,
                          req->answered_as);
    else
        dispel(req);
}

/* Requests end and listeners leave by what follows: not inside of the agent's round. */
static void on_change(struct agent_listener *listener, unsigned changes)
{
    struct node_request *req = CONTAINER_OF(listener, struct node_request, listener);

    (void)changes;
    if (engine_facts(req->agent->engine)->full_mono_us >= req->doubted_us)
        loop_defer(req->agent->loop, &req->settle, settle);
}

/* Holds the answer until a full look that begins at `since_us` or later has ended. */
static void hold(struct node_request *req, uint64_t since_us)
{
    req->doubted = true;
    req->doubted_us = since_us;
    req->listener.on_change = on_change;
    agent_listen(req->agent, &req->listener);
    on_change(&req->listener, 0);
}

/* May the answer be another model's, whatever name it has?  A full look that began with the
 * request is under way, or shows that the model is gone. */
static bool is_overtaken(const struct node_request *req)
{
    const struct engine_facts *facts = engine_facts(req->agent->engine);

    if (facts->full_mono_us < req->started_us)
        return engine_full_look_since(req->agent->engine, req->started_us);
    return req->model[0] != '\0' && facts_model(facts, req->model) == NULL;
}

void doubt_check(struct node_request *req, const struct json_value *root)
{
    if (req->named || req->doubted || req->head_sent || root->type != JSON_OBJECT)
        return;
    answer_names_read(req->answered_as, sizeof(req->answered_as), root);
    req->named = req->answered_as[0] != '\0'; /* else a later event may have it */
    if (!is_expected(req)) {
        hold(req, loop_now_us(req->agent->loop));
        engine_doubt(req->agent->engine);
    } else if (is_overtaken(req)) {
        hold(req, req->started_us);
    }
}

void doubt_reset(struct node_request *req)
{
    agent_unlisten(req->agent, &req->listener);
    loop_undefer(req->agent->loop, &req->settle);
    req->doubted = false;
    req->named = false;
    req->pass_due = false;
}
