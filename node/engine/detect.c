/* detect.c - detects which engine answers at a URL, and reads its facts. */
#include "node/engine/detect.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/text/json.h"
#include "proto/drover_common.pb-c.h"

#define KIND(name)  DROVER__V1__ENGINE_KIND__ENGINE_KIND_##name
#define STATE(name) DROVER__V1__MODEL_STATE__MODEL_STATE_##name
#define BIT(name)   (UINT32_C(1) << DROVER__V1__OPERATION__OPERATION_##name)

/* A full look every so many quick ones: models and context sizes change rarely. */
#define QUICK_LOOKS 10

#define OPS_OPENAI (BIT(CHAT_COMPLETIONS) | BIT(COMPLETIONS) | BIT(EMBEDDINGS) | BIT(RESPONSES))
#define OPS_LLAMA  (OPS_OPENAI | BIT(RERANK) | BIT(MESSAGES) | BIT(COUNT_TOKENS))
#define OPS_VLLM   (OPS_OPENAI | BIT(RERANK) | BIT(MESSAGES) | BIT(TRANSCRIPTIONS))
#define OPS_OLLAMA                                                          \
    (OPS_OPENAI | BIT(MESSAGES) | BIT(OLLAMA_CHAT) | BIT(OLLAMA_GENERATE) | \
     BIT(OLLAMA_EMBED) | BIT(OLLAMA_EMBEDDINGS) | BIT(OLLAMA_SHOW))

#define OPS_EMBED                                                                 \
    (BIT(EMBEDDINGS) | BIT(RERANK) | BIT(OLLAMA_EMBED) | BIT(OLLAMA_EMBEDDINGS) | \
     BIT(OLLAMA_SHOW))
#define OPS_SIM (OPS_LLAMA | OPS_OLLAMA | BIT(TRANSCRIPTIONS))

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
        steps = r->router ? DETECT_MODELS : DETECT_SLOTS | DETECT_METRICS;
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

/* ---- reading --------------------------------------------------------------------------- */

static uint32_t count_in(const struct json_value *object, const char *name)
{
    struct json_value v = json_get(object, name);
    uint64_t n;

    return json_uint(&n, &v, UINT32_MAX) ? (uint32_t)n : 0;
}

static void name_in(const struct json_value *object, const char *name, char *out, size_t cap)
{
    struct json_value v = json_get(object, name);

    if (!json_name(out, cap, &v))
        out[0] = '\0';
}

static struct engine_model *find_model(struct engine_facts *facts, const char *id)
{
    for (uint32_t i = 0; i < facts->models_count; i++)
        if (strcmp(facts->models[i].id, id) == 0)
            return &facts->models[i];
    return NULL;
}

/* Adds a model, unless it is there, has no usable name, or the table is full. */
static struct engine_model *add_model(struct engine_facts *facts, const char *id, uint32_t ops)
{
    struct engine_model *model;

    if (id[0] == '\0' || facts->models_count == ENGINE_MAX_MODELS ||
        find_model(facts, id) != NULL)
        return NULL;
    model = &facts->models[facts->models_count++];
    memset(model, 0, sizeof(*model));
    (void)strlcpy(model->id, id, sizeof(model->id));
    model->operations = ops;
    model->state = STATE(READY);
    return model;
}

static void add_alias(struct engine_facts *facts, uint32_t of, const char *id)
{
    struct engine_model *alias = add_model(facts, id, facts->models[of].operations);

    if (alias == NULL)
        return;
    alias->alias_of = of + 1;
    alias->state = facts->models[of].state;
    alias->max_context = facts->models[of].max_context;
    alias->vocabulary = facts->models[of].vocabulary;
}

static uint32_t ops_of(uint32_t kind)
{
    switch ((Drover__V1__EngineKind)kind) {
    case KIND(LLAMA_SERVER):
        return OPS_LLAMA;
    case KIND(OLLAMA):
        return OPS_OLLAMA;
    case KIND(VLLM):
        return OPS_VLLM;
    case KIND(SGLANG):
        return OPS_OPENAI | BIT(RERANK) | BIT(MESSAGES);
    case KIND(SIMULATED):
        return OPS_SIM;
    case KIND(UNSPECIFIED):
    case KIND(OPENAI):
    case _DROVER__V1__ENGINE_KIND_IS_INT_SIZE:
        break;
    }
    return OPS_OPENAI;
}

static uint32_t kind_by_owner(const struct json_value *data)
{
    struct json_value key, model, owner;
    struct json_iter it;

    json_iter_init(&it, data);
    while (json_iter_next(&it, &key, &model)) {
        owner = json_get(&model, "owned_by");
        if (owner.type != JSON_STRING)
            continue;
        if (json_equal(&owner, "llamacpp"))
            return KIND(LLAMA_SERVER);
        if (json_equal(&owner, "vllm"))
            return KIND(VLLM);
        if (json_equal(&owner, "sglang"))
            return KIND(SGLANG);
        if (json_equal(&owner, "library"))
            return KIND(OLLAMA);
        if (json_equal(&owner, "drover-sim"))
            return KIND(SIMULATED);
    }
    return KIND(UNSPECIFIED);
}

static uint32_t kind_by_server(const char *server)
{
    if (strcmp(server, "llama.cpp") == 0)
        return KIND(LLAMA_SERVER);
    return strcmp(server, "drover-sim") == 0 ? KIND(SIMULATED) : KIND(UNSPECIFIED);
}

/* The number after `flag` in a list of arguments, or 0. */
static uint32_t flag_in(const struct json_value *args, const char *flag)
{
    struct json_value key, arg;
    struct json_iter it;
    char digits[16];
    bool next = false;

    json_iter_init(&it, args);
    while (json_iter_next(&it, &key, &arg)) {
        if (next)
            return json_name(digits, sizeof(digits), &arg) ? (uint32_t)strtoul(digits, NULL, 10)
                                                           : 0;
        next = arg.type == JSON_STRING && json_equal(&arg, flag);
    }
    return 0;
}

static uint32_t model_state(const struct json_value *status)
{
    struct json_value value = json_get(status, "value");
    struct json_value failed = json_get(status, "failed");

    if (failed.type == JSON_TRUE)
        return STATE(FAILED);
    if (value.type != JSON_STRING || json_equal(&value, "loaded"))
        return STATE(READY);
    if (json_equal(&value, "loading") || json_equal(&value, "downloading"))
        return STATE(LOADING);
    return STATE(LOADABLE);
}

/* drover-sim reports for each model a llama-server's facts, and its operations. */
static void read_sim_model(struct engine_model *model, const struct json_value *about)
{
    struct json_value status = json_get(about, "status"), meta = json_get(about, "meta");
    struct json_value able = json_get(about, "capabilities"), key, one;
    struct json_iter it;

    model->state = model_state(&status);
    model->load_ms = count_in(&meta, "load_ms");
    model->operations = OPS_EMBED;
    json_iter_init(&it, &able);
    while (json_iter_next(&it, &key, &one))
        if (one.type == JSON_STRING && json_equal(&one, "completion"))
            model->operations = OPS_SIM;
}

/* A router's models come with a state and with the arguments they would be started with. */
static void read_router_model(struct detector *r, struct engine_model *model,
                              const struct json_value *status)
{
    struct json_value args = json_get(status, "args");
    uint32_t parallel = flag_in(&args, "--parallel");
    uint32_t context = flag_in(&args, "--ctx-size");

    r->router = true;
    model->state = model_state(status);
    if (model->max_context == 0)
        model->max_context = parallel > 1 ? context / parallel : context;
    if (parallel != 0 && (r->next.slots == 0 || parallel < r->next.slots))
        r->next.slots = parallel;
}

/* A hash of llama-server's facts about a model's vocabulary, and of enough of the model to
 * distinguish it from another with a vocabulary of that size.  Quantisation does not matter. */
static uint64_t vocabulary_of(const struct json_value *meta)
{
    static const char *const names[] = {"vocab_type", "n_vocab", "n_embd", "n_params"};
    uint64_t hash = HASH_BASIS;

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct json_value v = json_get(meta, names[i]);
        uint64_t n;

        if (!json_uint(&n, &v, INT64_MAX))
            return 0;
        hash = hash_mix(hash, n);
    }
    return hash;
}

static void read_models(struct detector *r, const struct json_value *root, const char *server)
{
    struct json_value data = json_get(root, "data");
    struct json_value key, model, meta, status, aliases, alias;
    struct engine_facts *facts = &r->next;
    uint32_t kind = kind_by_owner(&data);
    struct json_iter it, names;
    char id[ENGINE_MODEL_BYTES];

    if (kind == KIND(UNSPECIFIED))
        kind = kind_by_server(server);
    if (kind != KIND(UNSPECIFIED))
        facts->kind = kind;
    r->router = false;
    if (facts->kind == KIND(OLLAMA))
        return; /* its own list, /api/tags, says more */
    facts->models_count = 0;
    if (facts->kind != KIND(SIMULATED)) /* /props has them, at a full look only */
        facts->slots = 0;
    json_iter_init(&it, &data);
    while (json_iter_next(&it, &key, &model)) {
        struct engine_model *added;
        uint32_t index = facts->models_count;

        name_in(&model, "id", id, sizeof(id));
        added = add_model(facts, id, ops_of(facts->kind));
        if (added == NULL)
            continue;
        meta = json_get(&model, "meta");
        status = json_get(&model, "status");
        added->max_context = count_in(&meta, "n_ctx");
        if (added->max_context == 0)
            added->max_context = count_in(&model, "max_model_len");
        if (added->max_context == 0)
            added->max_context = count_in(&model, "context_length");
        if (facts->kind == KIND(LLAMA_SERVER) || facts->kind == KIND(SIMULATED))
            added->vocabulary = vocabulary_of(&meta);
        if (facts->kind == KIND(SIMULATED))
            read_sim_model(added, &model);
        if (facts->kind == KIND(LLAMA_SERVER) && status.type == JSON_OBJECT)
            read_router_model(r, added, &status);
        aliases = json_get(&model, "aliases");
        json_iter_init(&names, &aliases);
        while (json_iter_next(&names, &key, &alias))
            if (json_name(id, sizeof(id), &alias))
                add_alias(facts, index, id);
    }
    if (r->router) {
        facts->has_load = false;
        facts->running = 0;
        facts->queued = 0;
    }
}

static void read_props(struct detector *r, const struct json_value *root)
{
    struct json_value settings = json_get(root, "default_generation_settings");
    struct json_value modalities = json_get(root, "modalities");
    struct json_value audio = json_get(&modalities, "audio");
    struct json_value sleeping = json_get(root, "is_sleeping");
    struct json_value build = json_get(root, "build_info");
    uint32_t context = count_in(&settings, "n_ctx");
    uint32_t slots = count_in(root, "total_slots");

    if (build.type == JSON_NONE && slots == 0)
        return;
    if (r->next.kind == KIND(UNSPECIFIED)) {
        r->next.kind = KIND(LLAMA_SERVER);
        r->todo |= DETECT_SLOTS | DETECT_METRICS;
    }
    name_in(root, "build_info", r->next.version, sizeof(r->next.version));
    if (r->router)
        return;
    if (slots != 0)
        r->next.slots = slots;
    if (r->next.kind == KIND(SIMULATED))
        return; /* /v1/models says more of each */
    for (uint32_t i = 0; i < r->next.models_count; i++) {
        struct engine_model *model = &r->next.models[i];

        if (context != 0)
            model->max_context = context;
        model->operations = OPS_LLAMA;
        if (audio.type == JSON_TRUE)
            model->operations |= BIT(TRANSCRIPTIONS);
        model->state = sleeping.type == JSON_TRUE ? STATE(LOADABLE) : STATE(READY);
    }
}

static void read_slots(struct detector *r, const struct json_value *root)
{
    struct json_value key, slot, busy;
    struct json_iter it;
    uint32_t slots = 0, running = 0;

    if (root->type != JSON_ARRAY)
        return;
    json_iter_init(&it, root);
    while (json_iter_next(&it, &key, &slot)) {
        busy = json_get(&slot, "is_processing");
        slots++;
        running += busy.type == JSON_TRUE;
    }
    r->slots_seen = true;
    r->next.slots = slots;
    r->next.running = running;
    r->next.queued = 0; /* unless /metrics says otherwise */
    r->next.has_load = true;
}

bool detect_metric(const void *text, size_t n, const char *name, double *out)
{
    const char *p = text, *end = p + n;
    size_t len = strlen(name);
    bool some = false;
    double sum = 0;

    while (p < end) {
        const char *line = p;
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        const char *value;
        char number[64];

        if (eol == NULL)
            eol = end;
        p = eol + 1;
        if ((size_t)(eol - line) <= len || memcmp(line, name, len) != 0 ||
            (line[len] != ' ' && line[len] != '{'))
            continue;
        value = line + len;
        if (*value == '{') {
            /* Label values may hold anything, a brace too: the last one ends the labels. */
            value = memrchr(line, '}', (size_t)(eol - line));
            if (value == NULL)
                continue;
            value++;
        }
        while (value < eol && *value == ' ')
            value++;
        if (value == eol || (size_t)(eol - value) >= sizeof(number))
            continue;
        memcpy(number, value, (size_t)(eol - value));
        number[eol - value] = '\0';
        sum += strtod(number, NULL);
        some = true;
    }
    *out = sum;
    return some;
}

static uint32_t to_count(double v)
{
    return v > 0 && v < 1e9 ? (uint32_t)v : 0;
}

static uint64_t to_total(double v)
{
    return v > 0 && v < 1e18 ? (uint64_t)v : 0;
}

static float speed(double tokens, double seconds)
{
    return seconds >= 1 && tokens >= 1 ? (float)(tokens / seconds) : 0;
}

static void read_llama_metrics(struct detector *r, const void *text, size_t n)
{
    struct engine_facts *facts = &r->next;
    double running, deferred, tokens, seconds, decodes;

    if (detect_metric(text, n, "llamacpp:requests_processing", &running) &&
        detect_metric(text, n, "llamacpp:requests_deferred", &deferred)) {
        if (!r->slots_seen)
            facts->running = to_count(running);
        facts->queued = to_count(deferred);
        facts->has_load = true;
    }
    if (detect_metric(text, n, "llamacpp:n_decode_total", &decodes))
        facts->progress = to_total(decodes);
    if (detect_metric(text, n, "llamacpp:prompt_tokens_total", &tokens) &&
        detect_metric(text, n, "llamacpp:prompt_seconds_total", &seconds))
        facts->prefill_tokens_per_s = speed(tokens, seconds);
    if (detect_metric(text, n, "llamacpp:tokens_predicted_total", &tokens) &&
        detect_metric(text, n, "llamacpp:tokens_predicted_seconds_total", &seconds))
        facts->decode_tokens_per_s = speed(tokens, seconds);
}

static void read_metrics(struct detector *r, const void *text, size_t n)
{
    struct engine_facts *facts = &r->next;
    bool vllm = facts->kind == KIND(VLLM);
    double running, queued, used, prompt, output;

    if (facts->kind == KIND(LLAMA_SERVER) || facts->kind == KIND(SIMULATED)) {
        read_llama_metrics(r, text, n);
        return;
    }
    if (detect_metric(text, n, vllm ? "vllm:num_requests_running" : "sglang:num_running_reqs",
                      &running) &&
        detect_metric(text, n, vllm ? "vllm:num_requests_waiting" : "sglang:num_queue_reqs",
                      &queued)) {
        facts->running = to_count(running);
        facts->queued = to_count(queued);
        facts->has_load = true;
    }
    if (detect_metric(text, n, vllm ? "vllm:kv_cache_usage_perc" : "sglang:token_usage",
                      &used) ||
        (vllm && detect_metric(text, n, "vllm:gpu_cache_usage_perc", &used)))
        facts->kv_used_fraction = used >= 0 && used <= 1 ? (float)used : -1;
    if (detect_metric(text, n, vllm ? "vllm:prompt_tokens_total" : "sglang:prompt_tokens_total",
                      &prompt) &&
        detect_metric(text, n,
                      vllm ? "vllm:generation_tokens_total" : "sglang:generation_tokens_total",
                      &output))
        facts->progress = to_total(prompt + output);
}

/* Ollama: the models on disk. */
static void read_tags(struct detector *r, const struct json_value *root)
{
    static const char latest[] = ":latest";
    struct json_value models = json_get(root, "models");
    struct json_value key, model;
    struct json_iter it;
    char id[ENGINE_MODEL_BYTES];

    r->next.models_count = 0;
    json_iter_init(&it, &models);
    while (json_iter_next(&it, &key, &model)) {
        uint32_t index = r->next.models_count;
        struct engine_model *added;
        size_t n;

        name_in(&model, "name", id, sizeof(id));
        added = add_model(&r->next, id, OPS_OLLAMA);
        if (added == NULL)
            continue;
        added->state = STATE(LOADABLE);
        n = strlen(id);
        if (n >= sizeof(latest) && strcmp(id + n - strlen(latest), latest) == 0) {
            id[n - strlen(latest)] = '\0';
            add_alias(&r->next, index, id);
        }
    }
}

/* Ollama: the models in memory. */
static void read_ps(struct detector *r, const struct json_value *root)
{
    struct json_value models = json_get(root, "models");
    struct engine_facts *facts = &r->next;
    struct json_value key, model;
    struct json_iter it;
    char id[ENGINE_MODEL_BYTES];

    for (uint32_t i = 0; i < facts->models_count; i++)
        facts->models[i].state = STATE(LOADABLE);
    json_iter_init(&it, &models);
    while (json_iter_next(&it, &key, &model)) {
        struct engine_model *found;

        name_in(&model, "name", id, sizeof(id));
        found = find_model(facts, id);
        if (found == NULL)
            continue;
        found->state = STATE(READY);
        found->max_context = count_in(&model, "context_length");
    }
    for (uint32_t i = 0; i < facts->models_count; i++) {
        uint32_t of = facts->models[i].alias_of;

        if (of == 0)
            continue;
        facts->models[i].state = facts->models[of - 1].state;
        facts->models[i].max_context = facts->models[of - 1].max_context;
    }
}

/* ---- the course of a look -------------------------------------------------------------- */

static const char *finish(struct detector *r)
{
    struct engine_facts *next = &r->next;

    if (next->reachable && !next->loading && next->kind == KIND(UNSPECIFIED)) {
        next->kind = KIND(OPENAI);
        for (uint32_t i = 0; i < next->models_count; i++)
            next->models[i].operations = OPS_OPENAI;
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
        r->next.kind = kind_by_server(answer->server);
    r->next.reachable = true;
    r->next.loading = true;
    r->next.has_load = false;
    (void)strlcpy(r->next.detail, "the engine is loading its model", sizeof(r->next.detail));
    for (uint32_t i = 0; i < r->next.models_count; i++)
        r->next.models[i].state = STATE(LOADING);
    return finish(r);
}

static void read_json(struct detector *r, const struct detect_answer *answer)
{
    struct json_value root;
    bool object;

    if (json_check(&root, answer->body, answer->n, NULL) != 0) {
        r->missing |= r->asking; /* some web page */
        return;
    }
    object = root.type == JSON_OBJECT;
    switch ((enum detect_step)r->asking) {
    case DETECT_MODELS:
        read_models(r, &root, answer->server);
        if (r->quick == 0) /* a quick look has its own steps */
            r->todo |= steps_of(r->next.kind, r->router);
        break;
    case DETECT_OLLAMA_VERSION:
        if (object && r->next.kind == KIND(UNSPECIFIED) &&
            json_get(&root, "version").type == JSON_STRING) {
            r->next.kind = KIND(OLLAMA);
            r->todo = DETECT_TAGS | DETECT_PS;
        }
        if (r->next.kind == KIND(OLLAMA))
            name_in(&root, "version", r->next.version, sizeof(r->next.version));
        break;
    case DETECT_VERSION:
        if (object && r->next.kind == KIND(UNSPECIFIED) &&
            json_get(&root, "version").type == JSON_STRING) {
            r->next.kind = KIND(VLLM);
            r->todo = DETECT_METRICS;
            for (uint32_t i = 0; i < r->next.models_count; i++)
                r->next.models[i].operations = OPS_VLLM;
        }
        if (r->next.kind == KIND(VLLM))
            name_in(&root, "version", r->next.version, sizeof(r->next.version));
        break;
    case DETECT_PROPS:
        read_props(r, &root);
        break;
    case DETECT_SLOTS:
        read_slots(r, &root);
        break;
    case DETECT_SERVER_INFO:
        name_in(&root, "version", r->next.version, sizeof(r->next.version));
        r->next.slots = count_in(&root, "max_running_requests");
        break;
    case DETECT_TAGS:
        read_tags(r, &root);
        break;
    case DETECT_PS:
        read_ps(r, &root);
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
            read_metrics(r, answer->body, answer->n);
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
