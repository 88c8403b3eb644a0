/* lacks.c - what a request needs, which nodes lack it, and what a refusal teaches. */
#include "worker/select/lacks.h"

#include "base/io/loop.h"
#include "policy/route/abilities.h"
#include "policy/route/prompt.h"
#include "proto/drover_common.pb-c.h"
#include "shm/share/taught.h"
#include "worker/api/surface.h"
#include "worker/context.h"
#include "worker/http/client_request.h"
#include "worker/request/request_state.h"
#include "worker/select/gather.h"
#include "worker/upstreams/upstreams.h"

#define LEAST_CONTEXT 256u /* tokens */

void lacks_read(struct request *req, const struct prompt *prompt)
{
    struct abilities_need *need = &req->need;

    *need = (struct abilities_need){
        .flags = ABILITY_BIT(ABILITY_OPERATION) | ABILITY_BIT(ABILITY_MESSAGE_BYTES) |
                 ABILITY_BIT(ABILITY_ACCESS) | ABILITY_BIT(ABILITY_MODEL),
        .stream = req->client->stream};
    if (req->client->operation == DROVER__V1__OPERATION__OPERATION_TRANSCRIPTIONS ||
        req->client->operation == DROVER__V1__OPERATION__OPERATION_TRANSLATIONS)
        need->flags |= ABILITY_BIT(ABILITY_AUDIO);
    if (prompt == NULL)
        return;
    abilities_read(need, &req->client->root);
    if (req->client->surface != SURFACE_OLLAMA)
        need->wanted_context = 0; /* Ollama's other APIs take no options */
    if (prompt->pictures)
        need->flags |= ABILITY_BIT(ABILITY_VISION);
    if (prompt->sounds)
        need->flags |= ABILITY_BIT(ABILITY_AUDIO);
    /* Many inputs in one request of embeddings are many prompts. */
    if (req->op_class == OP_CLASS_GENERATION)
        abilities_prompt(need, prompt->text_bytes, req->prompt_estimate);
}

/* Has every node of the model, as far as is known, what the request needs? */
static bool all_have(const struct upstream_model *model, const struct abilities_need *need)
{
    return (model->lacks & need->flags) == 0 &&
           (model->least_context == 0 ||
            need->prompt_tokens + need->output_tokens <= model->least_context);
}

void lacks_bar(const struct request *req, const struct upstream_model *model,
               struct select_request *out)
{
    if (model == NULL || all_have(model, &req->need))
        return;
    out->need = &req->need;
    out->most_score = gather_least_score(req->context->board, model, out);
    /* An engine that refuses what may not fit, as vLLM does, is not the last to do so. */
    if (req->refusals == 0 && out->most_score < ABILITIES_SCORE(ABILITIES_TIGHT))
        out->most_score = ABILITIES_SCORE(ABILITIES_TIGHT);
    /* Where none has it, one is asked all the same: it was perhaps started anew, and its own
     * words are the client's answer. */
    if (req->refusals != 0 && out->most_score >= ABILITIES_SCORE(ABILITIES_LACKS))
        out->most_score = ABILITIES_SCORE(ABILITIES_LACKS) - 1;
}

static uint32_t bounded(uint64_t figure)
{
    return figure > UINT32_MAX ? UINT32_MAX : (uint32_t)figure;
}

/* The figure of a lesson; 0 = there is none in this refusal. */
static uint32_t figure_of(const struct attempt *attempt)
{
    const struct request *req = attempt->request;
    const struct attempt_cause *cause = &attempt->cause;

    switch (cause->ability) {
    case ABILITY_CONTEXT:
        /* Of other operations it is the size of a batch. */
        if (req->op_class != OP_CLASS_GENERATION)
            return 0;
        /* Without a figure it may be a cache that all requests share, and that was full.  No
         * engine has a context this small: the words are perhaps the client's own. */
        return cause->limit < LEAST_CONTEXT ? 0 : bounded(cause->limit);
    case ABILITY_VISION:
    case ABILITY_AUDIO:
    case ABILITY_GRAMMAR:
        return cause->limit == 0; /* else it takes some, but not these */
    case ABILITY_MESSAGE_BYTES:
        return bounded(req->envelope_bytes);
    case ABILITY_OPERATION:
    case ABILITY_TOOLS:
    case ABILITY_ACCESS:
    case ABILITY_MODEL:
        return 1;
    case ABILITY_STATE: /* of one response */
    case ABILITY_NONE:
    case ABILITIES:
        break;
    }
    return 0;
}

/* `of_stream`: of an operation, its streamed form. */
static struct lesson lesson_of(const struct attempt *attempt, enum ability ability,
                               bool of_stream)
{
    struct lesson lesson = {.model_hash = attempt->model_hash, .ability = ability};

    if (ability == ABILITY_OPERATION)
        lesson.detail =
            (uint32_t)attempt->request->client->operation + (of_stream ? TAUGHT_STREAM : 0);
    return lesson;
}

void lacks_learn(struct attempt *attempt)
{
    struct request *req = attempt->request;
    const struct attempt_cause *cause = &attempt->cause;
    /* The figure of an operation: perhaps only its streamed form was refused. */
    const struct lesson lesson = lesson_of(attempt, cause->ability, cause->limit != 0);

    /* A request that does not need it has met something else. */
    if (cause->ability == ABILITY_CONTEXT ||
        (req->need.flags & ABILITY_BIT(cause->ability)) != 0)
        taught_note(req->context->board, attempt->node, attempt->generation, &lesson,
                    figure_of(attempt), loop_now_us(req->context->loop));
    if (cause->ability == ABILITY_CONTEXT && cause->needed != 0 &&
        req->op_class == OP_CLASS_GENERATION)
        abilities_counted(&req->need, cause->needed);
}

/* The lesson was about a request and not about this node, so it is wrong of the others that one
 * request taught it of; else all would go to this node. */
static void unlearn(const struct attempt *attempt, const struct upstream_model *model,
                    const struct lesson *lesson)
{
    struct scoreboard *board = attempt->request->context->board;

    if (!taught_forget(board, attempt->node, attempt->generation, lesson))
        return;
    for (size_t i = 0; i < model->servers_count; i++) {
        const struct upstream_server *server = &model->servers[i];
        struct lesson same = *lesson;

        same.model_hash = server->model_hash;
        (void)taught_forget(board, server->node_id, server->generation, &same);
    }
}

void lacks_unlearn(struct attempt *attempt)
{
    struct request *req = attempt->request;
    const struct upstream_model *model = upstreams_find(req->context->upstreams, req->model);
    uint32_t flags = model == NULL ? 0 : model->lacks & req->need.flags;

    for (unsigned ability = 0; flags != 0 && ability < ABILITIES; ability++) {
        struct lesson lesson = lesson_of(attempt, (enum ability)ability, false);

        if ((flags & ABILITY_BIT(ability)) == 0 || ability == ABILITY_MESSAGE_BYTES)
            continue;
        unlearn(attempt, model, &lesson);
        if (ability != ABILITY_OPERATION || !req->need.stream)
            continue;
        lesson = lesson_of(attempt, ABILITY_OPERATION, true);
        unlearn(attempt, model, &lesson);
    }
}

bool lacks_is_away(const struct request *req)
{
    const struct upstream_model *model = upstreams_find(req->context->upstreams, req->model);
    const struct select_request request = {.need = &req->need,
                                           .operation = (int)req->client->operation,
                                           .message_bytes = req->envelope_bytes};

    for (size_t i = 0; model != NULL && i < model->servers_count; i++) {
        const struct upstream_server *server = &model->servers[i];

        if (req->refusal.ability == ABILITY_OPERATION && upstreams_drains(server->node))
            continue; /* as servable_operation() has it */
        if (!upstreams_usable(server->node) &&
            (server->operations >> request.operation & 1u) != 0 &&
            upstreams_is_holder(server, req->client->holder) &&
            upstreams_takes(server, request.message_bytes) &&
            gather_score(server, &request) < ABILITIES_SCORE(ABILITIES_LACKS))
            return true;
    }
    return false;
}

uint32_t lacks_most_context(const struct request *req)
{
    const struct upstream_model *model = upstreams_find(req->context->upstreams, req->model);

    return model == NULL ? 0 : model->most_context;
}
