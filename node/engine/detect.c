/* detect.c - detects which engine answers at a URL, and reads its facts. */
#include "node/engine/detect.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/text/json.h"
#include "node/engine/kinds/batching.h"
#include "node/engine/kinds/fields.h"
#include "node/engine/kinds/kind.h"
#include "node/engine/kinds/llama_server.h"
#include "node/engine/kinds/ollama.h"
#include "node/engine/kinds/openai.h"

/* A full look every so many quick ones: models and context sizes change rarely. */
#define QUICK_LOOKS 10

void detect_init(struct detector *r)
{
    memset(r, 0, sizeof(*r));
    r->facts.kv_used_fraction = -1;
    (void)strlcpy(r->facts.detail, "not asked yet", sizeof(r->facts.detail));
}

static const char *path_of(uint32_t step)
{
    switch ((enum detect_step)step) {
    case DETECT_MODELS:
        return "/v1/models";
    case DETECT_OLLAMA_VERSION:
        return "/api/version";
    case DETECT_VERSION:
        return "/version";
    case DETECT_PROPS:
        return "/props";
    case DETECT_SLOTS:
        return "/slots";
    case DETECT_METRICS:
        return "/metrics";
    case DETECT_SERVER_INFO:
        return "/get_server_info";
    case DETECT_TAGS:
        return "/api/tags";
    case DETECT_PS:
        return "/api/ps";
    case DETECT_HEALTH:
        return "/health";
    }
    assert(false && "step outside the enum");
    return "/health";
}

/* The questions of a full look at a kind, after /v1/models. */
static uint32_t steps_of(uint32_t kind, bool router)
{
    switch ((Drover__V1__EngineKind)kind) {
    case KIND(LLAMA_SERVER):
        return router ? DETECT_PROPS : DETECT_PROPS | DETECT_SLOTS | DETECT_METRICS;
    case KIND(SIMULATED):
        return DETECT_PROPS | DETECT_METRICS;
    case KIND(OLLAMA):
        return DETECT_OLLAMA_VERSION | DETECT_TAGS | DETECT_PS;
    case KIND(VLLM):
        return DETECT_VERSION | DETECT_METRICS;
    case KIND(SGLANG):
        return DETECT_SERVER_INFO | DETECT_METRICS;
    case KIND(UNSPECIFIED):
        return DETECT_OLLAMA_VERSION | DETECT_VERSION | DETECT_PROPS;
    case KIND(OPENAI):
    case _DROVER__V1__ENGINE_KIND_IS_INT_SIZE:
        break;
    }
    return 0;
}

static uint32_t quick_steps_of(struct detector *r)
{
    uint32_t steps = 0;

    switch ((Drover__V1__EngineKind)r->facts.kind) {
    case KIND(LLAMA_SERVER):
        steps = r->facts.router ? DETECT_MODELS : DETECT_SLOTS | DETECT_METRICS;
        break;
    case KIND(OLLAMA):
        steps = DETECT_PS;
        break;
    case KIND(VLLM):
    case KIND(SGLANG):
        steps = DETECT_METRICS;
        break;
    case KIND(SIMULATED):
        steps = DETECT_MODELS | DETECT_METRICS; /* its models load when they are asked for */
        break;
    case KIND(UNSPECIFIED):
    case KIND(OPENAI):
    case _DROVER__V1__ENGINE_KIND_IS_INT_SIZE:
        steps = DETECT_MODELS;
        break;
    }
    steps &= ~r->missing;
    if (steps != 0)
        return steps;
    r->missing &= ~(uint32_t)DETECT_HEALTH; /* even a 404 shows that a server is there */
    return DETECT_HEALTH;
}

static const char *ask(struct detector *r)
{
    r->todo &= ~r->missing;
    r->asking = r->todo & (~r->todo + 1); /* the lowest bit */
    r->todo &= ~r->asking;
    return r->asking == 0 ? NULL : path_of(r->asking);
}

const char *detect_begin(struct detector *r)
{
    bool full = !r->facts.reachable || r->facts.loading || r->quick >= QUICK_LOOKS;

    r->next = r->facts;
    r->next.detail[0] = '\0';
    r->next.loading = false;
    r->answered = false;
    r->slots_seen = false;
    if (full) {
        if (!r->facts.reachable)
            r->next.kind = KIND(UNSPECIFIED); /* another engine may have taken its place */
        r->missing = 0;
        r->quick = 0;
        r->todo = DETECT_MODELS;
    } else {
        r->quick++;
        r->todo = quick_steps_of(r);
    }
    return ask(r);
}

void detect_abandon(struct detector *r)
{
    r->asking = 0;
    r->todo = 0;
}

static const char *finish(struct detector *r)
{
    struct engine_facts *next = &r->next;

    if (next->reachable && !next->loading && next->kind == KIND(UNSPECIFIED)) {
        next->kind = KIND(OPENAI);
        for (uint32_t i = 0; i < next->models_count; i++)
            next->models[i].operations = kind_operations(KIND(OPENAI));
    }
    if (next->reachable && !next->loading && next->models_count == 0)
        (void)strlcpy(next->detail, "the engine lists no model", sizeof(next->detail));
    if (!next->reachable)
        r->quick = QUICK_LOOKS;
    r->facts = *next;
    r->asking = 0;
    r->todo = 0;
    return NULL;
}

static const char *unusable(struct detector *r, const char *detail)
{
    r->next.reachable = false;
    r->next.has_load = false;
    (void)strlcpy(r->next.detail, detail, sizeof(r->next.detail));
    return finish(r);
}

static bool is_loading(const struct detect_answer *answer)
{
    return answer->status == 503 &&
           memmem(answer->body, answer->n, "Loading model", 13) != NULL;
}

static const char *still_loading(struct detector *r, const struct detect_answer *answer)
{
    if (r->next.kind == KIND(UNSPECIFIED))
        r->next.kind = kind_of_server(answer->server);
    r->next.reachable = true;
    r->next.loading = true;
    r->next.has_load = false;
    (void)strlcpy(r->next.detail, "the engine is loading its model", sizeof(r->next.detail));
    for (uint32_t i = 0; i < r->next.models_count; i++)
        r->next.models[i].state = STATE(LOADING);
    return finish(r);
}

static void read_metrics(struct detector *r, const struct detect_answer *answer)
{
    if (r->next.kind == KIND(LLAMA_SERVER) || r->next.kind == KIND(SIMULATED))
        llama_server_read_metrics(&r->next, answer->body, answer->n, r->slots_seen);
    else
        batching_read_metrics(&r->next, answer->body, answer->n);
}

static void read_json(struct detector *r, const struct detect_answer *answer)
{
    struct json_value root;
    bool object, unknown;

    if (json_check(&root, answer->body, answer->n, NULL) != 0) {
        r->missing |= r->asking; /* some web page */
        return;
    }
    object = root.type == JSON_OBJECT;
    switch ((enum detect_step)r->asking) {
    case DETECT_MODELS:
        openai_read_models(&r->next, &root, answer->server);
        if (r->quick == 0) /* a quick look has its own steps */
            r->todo |= steps_of(r->next.kind, r->next.router);
        break;
    case DETECT_OLLAMA_VERSION:
        if (object && r->next.kind == KIND(UNSPECIFIED) &&
            json_get(&root, "version").type == JSON_STRING) {
            r->next.kind = KIND(OLLAMA);
            r->todo = DETECT_TAGS | DETECT_PS;
        }
        if (r->next.kind == KIND(OLLAMA))
            fields_name(&root, "version", r->next.version, sizeof(r->next.version));
        break;
    case DETECT_VERSION:
        if (object && r->next.kind == KIND(UNSPECIFIED) &&
            json_get(&root, "version").type == JSON_STRING) {
            r->next.kind = KIND(VLLM);
            r->todo = DETECT_METRICS;
            for (uint32_t i = 0; i < r->next.models_count; i++)
                r->next.models[i].operations = kind_operations(KIND(VLLM));
        }
        if (r->next.kind == KIND(VLLM))
            fields_name(&root, "version", r->next.version, sizeof(r->next.version));
        break;
    case DETECT_PROPS:
        unknown = r->next.kind == KIND(UNSPECIFIED);
        if (llama_server_read_props(&r->next, &root) && unknown)
            r->todo |= DETECT_SLOTS | DETECT_METRICS;
        break;
    case DETECT_SLOTS:
        r->slots_seen = llama_server_read_slots(&r->next, &root);
        break;
    case DETECT_SERVER_INFO:
        batching_read_server_info(&r->next, &root);
        break;
    case DETECT_TAGS:
        ollama_read_tags(&r->next, &root);
        break;
    case DETECT_PS:
        ollama_read_ps(&r->next, &root);
        break;
    case DETECT_METRICS:
    case DETECT_HEALTH:
        break; /* metrics are not JSON; of health only the status counts */
    }
}

const char *detect_next(struct detector *r, const struct detect_answer *answer)
{
    char detail[256];

    if (answer->status == 0) {
        /* llama-server answers /slots and /metrics between two batches, /health at any time: a
         * long batch must not look like a dead engine. */
        if (answer->timed_out && (r->asking == DETECT_SLOTS || r->asking == DETECT_METRICS)) {
            r->todo = DETECT_HEALTH;
            r->missing &= ~(uint32_t)DETECT_HEALTH;
            return ask(r);
        }
        return unusable(r, answer->why);
    }
    if (is_loading(answer))
        return still_loading(r, answer);
    if (answer->status == 401 || answer->status == 403) {
        (void)snprintf(detail, sizeof(detail), "the engine refuses our API key (GET %s: %u)",
                       path_of(r->asking), answer->status);
        if (r->asking == DETECT_MODELS)
            return unusable(r, detail);
        r->missing |= r->asking;
    } else if (answer->status == 200) {
        r->next.reachable = true;
        if (r->asking == DETECT_METRICS)
            read_metrics(r, answer);
        else if (r->asking != DETECT_HEALTH)
            read_json(r, answer);
    } else if (answer->status >= 500 && answer->status != 501 &&
               (r->asking == DETECT_MODELS || r->asking == DETECT_HEALTH)) {
        (void)snprintf(detail, sizeof(detail), "GET %s answered %u", path_of(r->asking),
                       answer->status);
        return unusable(r, detail);
    } else {
        /* Not offered here (404, 501): remembered until the next full look. */
        r->next.reachable = true;
        r->missing |= r->asking;
        if (r->asking == DETECT_MODELS)
            r->todo |= steps_of(r->next.kind, false);
    }
    r->answered = true;
    ask(r);
    return r->asking != 0 ? path_of(r->asking) : finish(r);
}
