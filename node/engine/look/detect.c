/* detect.c - detects which engine answers at a URL, and reads its facts. */
#include "node/engine/look/detect.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/text/json.h"
#include "node/engine/kinds/batching.h"
#include "node/engine/kinds/fields.h"
#include "node/engine/kinds/kind.h"
#include "node/engine/kinds/llama_server.h"
#include "node/engine/kinds/ollama.h"
#include "node/engine/kinds/openai.h"
#include "node/engine/kinds/operations.h"

/* Pages with figures of the present load. */
#define LOADS ((uint32_t)(DETECT_SLOTS | DETECT_METRICS))

void detect_init(struct detector *r, const char *url, const struct engine_offer *offer)
{
    memset(r, 0, sizeof(*r));
    r->url = url;
    r->offer = offer;
    r->facts.kv_used_fraction = -1;
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
        return "/server_info";
    case DETECT_OLD_SERVER_INFO:
        return "/get_server_info";
    case DETECT_TAGS:
        return "/api/tags";
    case DETECT_PS:
        return "/api/ps";
    case DETECT_MODEL_INFO:
        return "/model_info";
    case DETECT_OLD_MODEL_INFO:
        return "/get_model_info";
    case DETECT_LM_STUDIO:
        return "/api/v0/models";
    case DETECT_CARD:
        return "/v1/model";
    case DETECT_INFO:
        return "/info";
    case DETECT_HEALTH:
        return "/health";
    }
    assert(false && "step outside the enum");
    return "/health";
}

static uint32_t page_steps(enum kind_page page)
{
    switch (page) {
    case KIND_PAGE_NONE:
        break;
    case KIND_PAGE_LM_STUDIO:
        return DETECT_LM_STUDIO;
    case KIND_PAGE_TABBY:
        return DETECT_CARD;
    case KIND_PAGE_TGI:
        return DETECT_INFO;
    }
    return 0;
}

/* The questions of a full look at a kind, after /v1/models. */
static uint32_t full_steps(const struct detector *r)
{
    switch ((Drover__V1__EngineKind)r->next.kind) {
    case KIND(LLAMA_SERVER):
        return r->next.router ? DETECT_PROPS : DETECT_PROPS | DETECT_SLOTS | DETECT_METRICS;
    case KIND(SIMULATED):
        return DETECT_PROPS | DETECT_METRICS;
    case KIND(OLLAMA):
        return DETECT_OLLAMA_VERSION | DETECT_TAGS | DETECT_PS;
    case KIND(VLLM):
        return DETECT_VERSION | DETECT_METRICS;
    case KIND(SGLANG):
        return DETECT_SERVER_INFO | DETECT_OLD_SERVER_INFO | DETECT_MODEL_INFO |
               DETECT_OLD_MODEL_INFO | DETECT_METRICS;
    case KIND(UNSPECIFIED):
        return (page_steps(r->page) | DETECT_OLLAMA_VERSION | DETECT_VERSION | DETECT_PROPS |
                DETECT_TAGS) &
               ~r->barren;
    case KIND(OPENAI):
        return page_steps(r->page) & ~r->barren;
    case _DROVER__V1__ENGINE_KIND_IS_INT_SIZE:
        break;
    }
    return 0;
}

/* A router is asked about each model that works for us, in one of two ways. */
static uint32_t routed_steps(const struct detector *r)
{
    if (r->routed.count == 0)
        return 0;
    return (r->missing & DETECT_SLOTS) != 0 ? DETECT_METRICS : DETECT_SLOTS;
}

/* The questions that show the load of a kind, and models that load or are dropped. */
static uint32_t load_steps(const struct detector *r)
{
    switch ((Drover__V1__EngineKind)r->facts.kind) {
    case KIND(LLAMA_SERVER):
        if (r->facts.router)
            return DETECT_MODELS | routed_steps(r);
        /* One is enough; the speeds in /metrics change slowly. */
        if (r->facts.slots_show_work && !r->metrics_due && (r->missing & DETECT_SLOTS) == 0)
            return DETECT_SLOTS;
        return DETECT_SLOTS | DETECT_METRICS;
    case KIND(SIMULATED):
        return DETECT_MODELS | DETECT_METRICS;
    case KIND(OLLAMA):
        return DETECT_PS;
    case KIND(VLLM):
    case KIND(SGLANG):
        return DETECT_METRICS;
    case KIND(UNSPECIFIED):
    case KIND(OPENAI):
    case _DROVER__V1__ENGINE_KIND_IS_INT_SIZE:
        break;
    }
    return 0;
}

/* A question that costs an engine no work; the answer shows that the engine lives. */
static uint32_t light_steps(const struct detector *r)
{
    switch ((Drover__V1__EngineKind)r->facts.kind) {
    case KIND(OLLAMA):
        return DETECT_PS; /* a model that was idle for long is dropped by itself */
    case KIND(SGLANG):    /* its /health may generate a token */
    case KIND(UNSPECIFIED):
    case KIND(OPENAI):
        return DETECT_MODELS;
    case KIND(LLAMA_SERVER):
    case KIND(SIMULATED):
    case KIND(VLLM):
    case _DROVER__V1__ENGINE_KIND_IS_INT_SIZE:
        break;
    }
    return DETECT_HEALTH;
}

/* ---- a router's models ------------------------------------------------------------------ */

/* The router passes /slots and /metrics of a model on to the server that it runs for it.
 * Nothing is asked of a server that does nothing for us: it may be about to sleep. */

void detect_none_busy(struct detector *r)
{
    r->routed.count = 0;
}

void detect_busy(struct detector *r, const char *name)
{
    struct detect_routed *routed = &r->routed;
    const struct engine_model *model = facts_model(&r->facts, name);

    if (model != NULL && model->alias_of != 0)
        model = &r->facts.models[model->alias_of - 1];
    if (model == NULL || routed->count == DETECT_MAX_BUSY)
        return;
    for (uint32_t i = 0; i < routed->count; i++)
        if (strcmp(routed->busy[i], model->id) == 0)
            return;
    (void)strlcpy(routed->busy[routed->count++], model->id, ENGINE_MODEL_BYTES);
}

/* Is the question under way one about a router's model? */
static bool asks_routed(const struct detector *r)
{
    return r->next.router && r->level == LOOK_LOAD &&
           (r->asking == DETECT_SLOTS || r->asking == DETECT_METRICS);
}

static const char *routed_path(struct detector *r)
{
    struct detect_routed *routed = &r->routed;
    const char *name = routed->busy[routed->at];
    size_t cap = sizeof(routed->path);
    size_t n = strlcpy(routed->path, path_of(r->asking), cap);

    n += llama_server_query(routed->path + n, cap - n, name);
    /* A model that it does not run any more must not be loaded for the question. */
    (void)strlcpy(routed->path + n, "&autoload=false", cap - n);
    return routed->path;
}

/* The path of the question about the next model that is in memory; NULL: there is none. */
static const char *next_routed(struct detector *r)
{
    struct detect_routed *routed = &r->routed;

    for (; routed->at < routed->count; routed->at++) {
        const struct engine_model *model = facts_model(&r->next, routed->busy[routed->at]);

        if (model != NULL && model->state == STATE(READY))
            return routed_path(r);
    }
    return NULL;
}

static bool read_routed(struct detector *r, const struct detect_answer *answer)
{
    struct json_value root;

    if (answer->status != 200)
        return false;
    if (r->asking == DETECT_METRICS)
        return llama_server_routed_metrics(&r->routed.work, answer->body, answer->n);
    return json_check(&root, answer->body, answer->n, NULL) == 0 &&
           llama_server_routed_slots(&r->routed.work, &root);
}

/* Takes the answer of one server behind the router, which says nothing of the router itself.
 * NULL: that was the last. */
static const char *take_routed(struct detector *r, const struct detect_answer *answer)
{
    struct detect_routed *routed = &r->routed;
    const char *path;

    if (answer->status == 501 || answer->status == 404) {
        r->missing |= r->asking;
        if (r->asking == DETECT_METRICS)
            return NULL;
        r->asking = DETECT_METRICS;
        routed->at = 0;
        routed->work = 0;
    } else {
        routed->all_shown &= read_routed(r, answer);
        routed->at++;
    }
    path = next_routed(r);
    if (path == NULL && routed->all_shown)
        llama_server_note_work(&r->next, routed->work);
    return path;
}

/* ---- looks ------------------------------------------------------------------------------ */

bool detect_shows_load(const struct detector *r)
{
    return (load_steps(r) & ~r->missing) != 0;
}

static const char *ask(struct detector *r)
{
    r->todo &= ~r->missing;
    r->asking = r->todo & (~r->todo + 1); /* the lowest bit */
    r->todo &= ~r->asking;
    if (asks_routed(r)) {
        const char *path = next_routed(r);

        if (path != NULL)
            return path;
        r->asking = 0;
    }
    return r->asking == 0 ? NULL : path_of(r->asking);
}

const char *detect_begin(struct detector *r, enum look_level level, uint64_t now_mono_us)
{
    bool unknown = !r->facts.reachable || r->facts.loading;

    facts_copy(&r->next, &r->facts);
    r->next.detail[0] = '\0';
    r->next.loading = false;
    r->next.looked_mono_us = now_mono_us;
    r->began_mono_us = now_mono_us;
    r->abandoned = false;
    r->slots_seen = false;
    r->load_seen = false;
    r->lists = false;
    r->has_version = false;
    r->level = unknown ? LOOK_FULL : level;
    r->todo = 0;
    switch (r->level) {
    case LOOK_FULL:
        r->next.kind = KIND(UNSPECIFIED); /* another engine may have taken its place */
        r->next.speaks_ollama = false;
        r->missing = 0;
        /* A llama-server that does nothing for us is not asked for its load. */
        r->skips_load = !unknown && r->facts.kind == KIND(LLAMA_SERVER);
        r->metrics_due = r->skips_load;
        r->todo = DETECT_MODELS;
        break;
    case LOOK_LOAD:
        r->todo = load_steps(r) & ~r->missing;
        r->metrics_due = false;
        r->routed.at = 0;
        r->routed.work = 0;
        r->routed.all_shown = true;
        break;
    case LOOK_LIGHT:
        r->todo = light_steps(r) & ~r->missing;
        break;
    }
    if (r->todo == 0) {
        r->missing &= ~(uint32_t)DETECT_HEALTH; /* even a 404 shows that a server is there */
        r->todo = DETECT_HEALTH;
    }
    return ask(r);
}

void detect_abandon(struct detector *r)
{
    r->asking = 0;
    r->todo = 0;
    r->abandoned = true;
}

/* The operator's list of operations counts, else the engine's. */
static void settle_operations(struct detector *r)
{
    struct engine_facts *next = &r->next;

    for (uint32_t i = 0; i < next->models_count; i++) {
        struct engine_model *model = &next->models[i];
        uint32_t of = model->alias_of != 0 ? model->alias_of - 1 : i;

        if (r->offer->operations != 0)
            model->operations = r->offer->operations;
        else
            model->operations =
                model->offered & ~operations_missing_of(&r->missing_operations,
                                                        next->models[of].id, r->began_mono_us);
    }
}

static void settle_kind(struct engine_facts *next)
{
    next->kind = KIND(OPENAI);
    for (uint32_t i = 0; i < next->models_count; i++) {
        next->models[i].offered = operations_of_kind(KIND(OPENAI));
        if (next->speaks_ollama)
            next->models[i].offered |= OPERATIONS_OLLAMA_API;
    }
}

static void say_what_lacks(struct detector *r)
{
    struct engine_facts *next = &r->next;

    if (next->models_count == 0 && (r->lists || next->kind != KIND(OPENAI)))
        (void)snprintf(next->detail, sizeof(next->detail),
                       "the engine at %.128s lists no model: load one there", r->url);
    else if (next->models_count == 0)
        (void)snprintf(next->detail, sizeof(next->detail),
                       "%.128s has no list of models at /v1/models: is it an engine? For one "
                       "without a list give --model NAME",
                       r->url);
    else if (next->left_out != 0)
        (void)snprintf(next->detail, sizeof(next->detail),
                       "%u names of models are left out: a node serves %d, with up to %d "
                       "other names each, of up to %d bytes",
                       (unsigned)next->left_out, ENGINE_MAX_MODELS, ENGINE_MAX_ALIASES,
                       ENGINE_MODEL_BYTES - 1);
    else if (r->refuses_us != NULL)
        (void)strlcpy(next->detail, r->refuses_us, sizeof(next->detail));
}

static const char *finish(struct detector *r)
{
    struct engine_facts *next = &r->next;

    if (next->reachable && !next->loading) {
        if (next->kind == KIND(UNSPECIFIED))
            settle_kind(next);
        if (r->offer->models_count != 0)
            facts_offer(next, r->offer, operations_of_kind(next->kind));
        say_what_lacks(r);
    }
    if (!next->reachable || next->kind != r->facts.kind) {
        /* Another engine may come up here. */
        memset(&r->missing_operations, 0, sizeof(r->missing_operations));
        r->working = 0;
        r->refuses_us = NULL;
    }
    settle_operations(r);
    if (!r->load_seen)
        next->looked_mono_us = r->facts.looked_mono_us;
    facts_copy(&r->facts, next);
    r->asking = 0;
    r->todo = 0;
    return NULL;
}

static const char *unusable(struct detector *r, const char *detail)
{
    r->sort = 0;
    r->next.reachable = false;
    r->next.has_load = false;
    llama_server_note_away(&r->next);
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
    llama_server_note_away(&r->next);
    (void)strlcpy(r->next.detail, "the engine is loading its model", sizeof(r->next.detail));
    for (uint32_t i = 0; i < r->next.models_count; i++)
        r->next.models[i].state = STATE(LOADING);
    return finish(r);
}

static void read_metrics(struct detector *r, const struct detect_answer *answer)
{
    struct engine_facts *next = &r->next;

    if (next->kind == KIND(UNSPECIFIED)) {
        next->kind = kind_of_metrics(answer->body, answer->n);
        for (uint32_t i = 0; i < next->models_count; i++)
            next->models[i].offered = operations_of_kind(next->kind);
    }
    if (next->kind == KIND(LLAMA_SERVER) || next->kind == KIND(SIMULATED))
        llama_server_read_metrics(next, answer->body, answer->n, r->slots_seen);
    else if (next->kind == KIND(VLLM) || next->kind == KIND(SGLANG))
        batching_read_metrics(next, answer->body, answer->n);
    r->load_seen |= next->has_load;
}

/* /api/tags: Ollama's, or those of a server that has its API, too.  False: no list. */
static bool read_tags(struct detector *r, const struct json_value *root)
{
    struct engine_facts *next = &r->next;

    if (json_get(root, "models").type == JSON_NONE)
        return false;
    if (next->kind == KIND(UNSPECIFIED) && !r->has_version && ollama_lists(next, root)) {
        next->kind = KIND(OLLAMA);
        r->todo = DETECT_PS;
    }
    if (next->kind == KIND(OLLAMA)) {
        ollama_read_tags(next, root);
        r->lists = true;
    } else {
        next->speaks_ollama = true;
    }
    return true;
}

static bool read_version(struct detector *r, const struct json_value *root)
{
    if (json_get(root, "version").type != JSON_STRING)
        return false;
    r->has_version = r->asking == DETECT_VERSION;
    if (r->has_version && r->next.kind == KIND(UNSPECIFIED))
        r->todo |= DETECT_METRICS; /* vLLM, if the metrics say so */
    fields_name(root, "version", r->next.version, sizeof(r->next.version));
    return true;
}

static void read_models(struct detector *r, const struct json_value *root, const char *server)
{
    struct json_value data = openai_list(root);
    bool full = r->level == LOOK_FULL;

    if (full) {
        r->page = kind_page_of(&data);
        r->next.slots = 0; /* another page says how many, or none does */
    }
    r->lists = openai_read_models(&r->next, root, server);
    if (!full && (r->next.kind == KIND(OPENAI) || r->next.kind == KIND(SGLANG)))
        facts_keep(&r->next, &r->facts, r->page == KIND_PAGE_LM_STUDIO);
}

/* False: a page of something else. */
static bool read_json(struct detector *r, const struct json_value *root, const char *server)
{
    bool unknown = r->next.kind == KIND(UNSPECIFIED), known;

    switch ((enum detect_step)r->asking) {
    case DETECT_MODELS:
        read_models(r, root, server);
        r->load_seen |= r->next.router && r->level == LOOK_LOAD; /* which models run */
        break;
    case DETECT_OLLAMA_VERSION:
    case DETECT_VERSION:
        return read_version(r, root);
    case DETECT_PROPS:
        known = llama_server_read_props(&r->next, root);
        if (known && unknown)
            r->todo = DETECT_SLOTS | DETECT_METRICS;
        if (r->skips_load || json_get(root, "is_sleeping").type == JSON_TRUE)
            r->todo &= ~(uint32_t)(DETECT_SLOTS | DETECT_METRICS); /* they would wake it */
        return known;
    case DETECT_SLOTS:
        r->slots_seen = llama_server_read_slots(&r->next, root);
        r->load_seen |= r->slots_seen;
        break;
    case DETECT_SERVER_INFO:
        batching_read_server_info(&r->next, root);
        r->todo &= ~(uint32_t)DETECT_OLD_SERVER_INFO;
        break;
    case DETECT_OLD_SERVER_INFO:
        batching_read_server_info(&r->next, root);
        break;
    case DETECT_MODEL_INFO:
        r->todo &= ~(uint32_t)DETECT_OLD_MODEL_INFO;
        batching_read_model_info(&r->next, root);
        break;
    case DETECT_OLD_MODEL_INFO:
        batching_read_model_info(&r->next, root);
        break;
    case DETECT_TAGS:
        return read_tags(r, root);
    case DETECT_PS:
        ollama_read_ps(&r->next, root);
        break;
    case DETECT_LM_STUDIO:
        openai_read_lm_studio(&r->next, root);
        return json_get(root, "data").type == JSON_ARRAY;
    case DETECT_CARD:
        openai_read_card(&r->next, root);
        break;
    case DETECT_INFO:
        if (!openai_read_info(&r->next, root))
            return false;
        r->todo = 0; /* TGI, which has no other page of interest */
        break;
    case DETECT_METRICS:
    case DETECT_HEALTH:
        break; /* metrics are not JSON; of health only the status counts */
    }
    return true;
}

/* Not offered here: remembered until the next full look. */
static void lacks(struct detector *r)
{
    r->missing |= r->asking;
    r->barren |= r->asking;
    if (r->asking == DETECT_MODELS) {
        r->page = KIND_PAGE_NONE;
        facts_clear_models(&r->next); /* what it lists elsewhere comes next */
        r->next.router = false;
        r->next.models_at_once = 0;
    } else if (r->asking == DETECT_TAGS && r->next.kind == KIND(OLLAMA)) {
        r->next.kind = KIND(UNSPECIFIED); /* it only has the owner of Ollama's models */
        r->todo &= ~(uint32_t)DETECT_PS;
    } else if (r->level == LOOK_LOAD && (r->asking & LOADS) != 0 &&
               (load_steps(r) & LOADS & ~r->missing) == 0) {
        r->next.has_load =
            false; /* another server, perhaps: the last figures are not its own */
    }
}

static void read_answer(struct detector *r, const struct detect_answer *answer)
{
    struct json_value root;

    r->next.reachable = true;
    if (r->asking == DETECT_METRICS)
        read_metrics(r, answer);
    else if (r->asking == DETECT_HEALTH)
        return;
    else if (json_check(&root, answer->body, answer->n, NULL) != 0)
        lacks(r); /* some web page */
    else if (!read_json(r, &root, answer->server))
        r->barren |= r->asking;
}

/* Is it the same sort of server as before?  Else the pages that brought nothing are tried
 * again.
 */
static void note_sort(struct detector *r, const struct detect_answer *answer)
{
    struct json_value root = {0}, data, key, model, owner = {0};
    uint64_t sort = hash_mix(hash_text(answer->server), answer->status);
    struct json_iter it;

    if (json_check(&root, answer->body, answer->n, NULL) != 0)
        root = (struct json_value){0};
    data = openai_list(&root);
    json_iter_init(&it, &data);
    if (json_iter_next(&it, &key, &model))
        owner = json_get(&model, "owned_by");
    for (size_t i = 0; i < owner.len; i++)
        sort = hash_mix(sort, (unsigned char)owner.text[i]);
    if (sort != r->sort)
        r->barren = 0;
    r->sort = sort;
}

/* llama-server answers /slots and /metrics between two batches, /health at any time: a long
 * batch must not look like a dead engine. */
static bool ask_health_instead(struct detector *r, const struct detect_answer *answer)
{
    if (!answer->timed_out || (r->asking != DETECT_SLOTS && r->asking != DETECT_METRICS))
        return false;
    r->todo = DETECT_HEALTH;
    r->missing &= ~(uint32_t)DETECT_HEALTH;
    return true;
}

/* A page that not every server has, and on which this one hangs. */
static bool is_beside(const struct detector *r, const struct detect_answer *answer)
{
    return answer->timed_out && r->level == LOOK_FULL && r->asking != DETECT_MODELS &&
           (r->next.kind == KIND(UNSPECIFIED) || r->next.kind == KIND(OPENAI));
}

/* Our key is not the server's.  Older llama-servers show their models to everybody; what stands
 * before one may keep all but those to itself, in words of its own. */
static bool refuses_key(const struct detector *r, const struct detect_answer *answer)
{
    static const char words[] = "Invalid API Key"; /* llama-server's */

    if (r->asking == DETECT_MODELS)
        return answer->status == 401 || answer->status == 403;
    return r->asking == DETECT_PROPS && r->next.kind == KIND(LLAMA_SERVER) &&
           answer->status == 401 &&
           memmem(answer->body, answer->n, words, sizeof(words) - 1) != NULL;
}

/* The whole server is unusable by this answer; `detail` says why. */
static bool is_hopeless(const struct detector *r, const struct detect_answer *answer,
                        char *detail, size_t cap)
{
    const char *path = path_of(r->asking);
    bool first = r->asking == DETECT_MODELS;
    struct json_value root = {0}, data = {0};

    if (answer->status == 0) {
        (void)snprintf(detail, cap, "GET %.100s%s: %s", r->url, path, answer->why);
        return true;
    }
    if (first && answer->status == 200 && json_check(&root, answer->body, answer->n, NULL) == 0)
        data = openai_list(&root);
    if (first && kind_is_drover(&data, answer->server)) {
        (void)snprintf(
            detail, cap,
            "%.100s is Llama Drover itself and no engine: give --engine the URL of an "
            "engine",
            r->url);
        return true;
    }
    if (refuses_key(r, answer)) {
        (void)snprintf(detail, cap,
                       "the engine refuses our API key (GET %.100s%s: %u): its key belongs in "
                       "the file of --engine-key-file",
                       r->url, path, answer->status);
        return true;
    }
    if (first && answer->status >= 300 && answer->status < 400) {
        (void)snprintf(detail, cap,
                       "GET %.100s%s answered %u: it points to another URL; give that to "
                       "--engine",
                       r->url, path, answer->status);
        return true;
    }
    if ((first || r->asking == DETECT_HEALTH ||
         (r->asking == DETECT_TAGS && r->next.kind == KIND(OLLAMA))) &&
        ((answer->status >= 500 && answer->status != 501) || answer->status == 429)) {
        (void)snprintf(detail, cap, "GET %.100s%s answered %u: see the engine's log", r->url,
                       path, answer->status);
        return true;
    }
    return false;
}

const char *detect_next(struct detector *r, const struct detect_answer *answer)
{
    bool first = r->asking == DETECT_MODELS;
    const char *path;
    char detail[256];

    if (asks_routed(r) && (answer->status != 0 || answer->timed_out)) {
        path = take_routed(r, answer);
        return path != NULL ? path : finish(r);
    }
    if (answer->status == 0 && ask_health_instead(r, answer))
        return ask(r);
    if (answer->status == 0 && is_beside(r, answer)) {
        path = ask(r);
        return path != NULL ? path : finish(r);
    }
    /* One that ends stops listening first, and gives nothing more. */
    if (answer->refused && r->facts.kind == KIND(LLAMA_SERVER) && !r->facts.router)
        r->next.gone_mono_us = r->began_mono_us;
    if (is_loading(answer))
        return still_loading(r, answer);
    if (answer->status == 429 && r->facts.reachable) {
        detect_abandon(r); /* it lives, and it is asked too often */
        return NULL;
    }
    if (is_hopeless(r, answer, detail, sizeof(detail)))
        return unusable(r, detail);
    if (first && r->level == LOOK_FULL)
        note_sort(r, answer);
    if (answer->status == 200) {
        read_answer(r, answer);
    } else {
        r->next.reachable = true; /* 404, 501: it does not have this */
        lacks(r);
    }
    if (first && r->level == LOOK_FULL) /* other looks have their own steps */
        r->todo |= full_steps(r);
    path = ask(r);
    return path != NULL ? path : finish(r);
}

static uint32_t bit_of(int operation)
{
    return operation > 0 && operation < 32 ? UINT32_C(1) << operation : 0;
}

bool detect_operation_works(struct detector *r, int operation)
{
    bool news = r->refuses_us != NULL;

    r->working |= bit_of(operation);
    if (news && strcmp(r->facts.detail, r->refuses_us) == 0)
        r->facts.detail[0] = '\0';
    r->refuses_us = NULL;
    return news;
}

bool detect_refuses_us(struct detector *r, const char *why)
{
    if (r->refuses_us != NULL)
        return false;
    r->refuses_us = why;
    if (r->facts.detail[0] == '\0')
        (void)strlcpy(r->facts.detail, why, sizeof(r->facts.detail));
    return true;
}

bool detect_operation_missing(struct detector *r, const char *model, int operation,
                              uint64_t now_mono_us)
{
    const struct engine_model *found = facts_find_model(&r->facts, model);
    uint32_t bit = bit_of(operation);

    if (found == NULL || r->offer->operations != 0 || (found->operations & bit) == 0 ||
        (r->working & bit) != 0)
        return false;
    if (found->alias_of != 0)
        found = &r->facts.models[found->alias_of - 1];
    operations_note_missing(&r->missing_operations, found->id, operation, now_mono_us);
    for (uint32_t i = 0; i < r->facts.models_count; i++)
        if (&r->facts.models[i] == found ||
            r->facts.models[i].alias_of == (uint32_t)(found - r->facts.models) + 1)
            r->facts.models[i].operations &= ~bit;
    return true;
}
