/* llama_server.c - reads the answers of llama.cpp's llama-server. */
#include "node/engine/kinds/llama_server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/hash.h"
#include "base/text/json.h"
#include "node/engine/facts.h"
#include "node/engine/kinds/fields.h"
#include "node/engine/kinds/kind.h"
#include "node/engine/kinds/metrics.h"
#include "node/engine/kinds/operations.h"

#define FRESH_TASKS 64 /* a process that has numbered fewer began some seconds ago, at most */

/* The number after `flag` in a list of arguments, or 0. */
static uint32_t argument_of(const struct json_value *args, const char *flag)
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

uint32_t llama_server_model_state(const struct json_value *status)
{
    struct json_value value = json_get(status, "value");

    /* `failed` says how its last server ended; the next request starts another. */
    if (value.type != JSON_STRING || json_equal(&value, "loaded"))
        return STATE(READY);
    if (json_equal(&value, "loading") || json_equal(&value, "downloading"))
        return STATE(LOADING);
    return STATE(LOADABLE);
}

/* Does a router run a server for the model?  It counts those that load or sleep. */
static bool is_in_memory(const struct json_value *status)
{
    struct json_value value = json_get(status, "value");

    return json_equal(&value, "loaded") || json_equal(&value, "loading") ||
           json_equal(&value, "sleeping");
}

/* The name of the file without folder, type and number of a part; "": the id is no such file.
 */
void llama_server_short_name(char *out, const char *id)
{
    static const char type[] = ".gguf", part[] = "-00001-of-";
    const char *slash = strrchr(id, '/'), *backslash = strrchr(id, '\\');
    const char *name = id;
    size_t n;

    out[0] = '\0';
    if (slash != NULL)
        name = slash + 1;
    if (backslash != NULL && backslash + 1 > name)
        name = backslash + 1;
    n = strlen(name);
    if (n <= strlen(type) || strcasecmp(name + n - strlen(type), type) != 0)
        return; /* an alias, or the name of a repository */
    n -= strlen(type);
    if (n > 15 && memcmp(name + n - 15, part, strlen(part)) == 0)
        n -= 15;
    if (n >= ENGINE_MODEL_BYTES)
        return;
    memcpy(out, name, n);
    out[n] = '\0';
}

/* A hash of llama-server's facts about a model's vocabulary, and of enough of the model to
 * distinguish it from another with a vocabulary of that size.  Quantisation does not matter. */
uint64_t llama_server_vocabulary(const struct json_value *meta)
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

void llama_server_read_routed(struct engine_facts *facts, struct engine_model *model,
                              const struct json_value *status)
{
    struct json_value args = json_get(status, "args");
    uint32_t parallel = argument_of(&args, "--parallel");
    uint32_t context = argument_of(&args, "--ctx-size");

    facts->router = true;
    model->in_memory = is_in_memory(status);
    facts->models_in_memory += model->in_memory;
    model->state = llama_server_model_state(status);
    if (model->max_context == 0)
        model->max_context = parallel > 1 ? context / parallel : context;
    if (parallel != 0 && (facts->slots == 0 || parallel < facts->slots))
        facts->slots = parallel;
}

bool llama_server_read_props(struct engine_facts *facts, const struct json_value *root)
{
    struct json_value settings = json_get(root, "default_generation_settings");
    struct json_value modalities = json_get(root, "modalities");
    struct json_value audio = json_get(&modalities, "audio");
    struct json_value sleeping = json_get(root, "is_sleeping");
    struct json_value build = json_get(root, "build_info");
    uint32_t context = fields_count(&settings, "n_ctx");
    uint32_t slots = fields_count(root, "total_slots");

    if (build.type == JSON_NONE && (slots == 0 || facts->kind == KIND(UNSPECIFIED)))
        return false;
    if (facts->kind == KIND(UNSPECIFIED))
        facts->kind = KIND(LLAMA_SERVER);
    fields_name(root, "build_info", facts->version, sizeof(facts->version));
    facts->models_at_once = facts->router ? fields_count(root, "max_instances") : 0;
    if (facts->router)
        return true;
    if (slots != 0)
        facts->slots = slots;
    if (facts->kind == KIND(SIMULATED))
        return true; /* /v1/models says more of each */
    for (uint32_t i = 0; i < facts->models_count; i++) {
        struct engine_model *model = &facts->models[i];

        if (context != 0)
            model->max_context = context;
        model->offered = operations_of_kind(KIND(LLAMA_SERVER));
        if (audio.type == JSON_TRUE)
            model->offered |= OPERATION(TRANSCRIPTIONS);
        fields_abilities(model, root);
        model->state = sleeping.type == JSON_TRUE ? STATE(LOADABLE) : STATE(READY);
    }
    return true;
}

/* The tokens that a slot has worked through for its present task, added to `*tokens`.  False:
 * it does not say. */
static bool add_work(uint64_t *tokens, const struct json_value *slot)
{
    struct json_value processed = json_get(slot, "n_prompt_tokens_processed");
    struct json_value list = json_get(slot, "next_token"); /* an object in older versions */
    struct json_value key, next;
    struct json_iter it;
    uint64_t n;

    if (!json_uint(&n, &processed, INT64_MAX))
        return false;
    *tokens += n + fields_count(&list, "n_decoded");
    if (list.type != JSON_ARRAY)
        return true;
    json_iter_init(&it, &list);
    while (json_iter_next(&it, &key, &next))
        *tokens += fields_count(&next, "n_decoded");
    return true;
}

/* The sum falls when a task ends; the count of progress never does. */
void llama_server_note_work(struct engine_facts *facts, uint64_t work)
{
    if (work > facts->slots_work)
        facts->progress += work - facts->slots_work;
    else if (work != facts->slots_work)
        facts->progress += work; /* of tasks that began since */
    facts->slots_work = work;
    facts->progress_mono_us = facts->looked_mono_us;
    facts->progress_counts = true;
}

/* Does a request run in the slot?  Older versions, and forks of them, have a `state` for it. */
static bool is_busy(const struct json_value *slot)
{
    struct json_value busy = json_get(slot, "is_processing");
    struct json_value state = json_get(slot, "state");
    uint64_t n;

    if (busy.type == JSON_TRUE || busy.type == JSON_FALSE)
        return busy.type == JSON_TRUE;
    return json_uint(&n, &state, INT64_MAX) && n != 0;
}

/* A process numbers its tasks from 0, and a slot shows its last one.  So one that shows much
 * less than before, in two looks in a row, is another process, which has just begun.  Several
 * servers behind one URL show more and less in turn. */
static void note_tasks(struct engine_facts *facts, uint64_t tasks)
{
    if (facts->tasks_before == 0) {
        if (tasks <= facts->tasks / 2 && facts->tasks != 0 && tasks < FRESH_TASKS) {
            facts->tasks_fell++;
            facts->tasks_before = facts->tasks_fell == 1 ? facts->tasks : 0;
            facts->tasks_below = 1;
        }
    } else if (tasks < facts->tasks_before) {
        facts->tasks_below++;
        if (facts->tasks_below == 2)
            facts->gone_mono_us = facts->looked_mono_us;
    } else {
        if (facts->tasks_below >= 2)
            facts->gone_mono_us = 0;
        facts->tasks_before = 0;
    }
    facts->tasks = tasks;
}

void llama_server_note_away(struct engine_facts *facts)
{
    facts->tasks_fell = 0;
    facts->tasks_before = 0;
}

bool llama_server_read_slots(struct engine_facts *facts, const struct json_value *root)
{
    struct json_value key, slot, task;
    struct json_iter it;
    uint32_t slots = 0, running = 0;
    uint64_t work = 0, tasks = 0, n;

    if (root->type != JSON_ARRAY)
        return false;
    json_iter_init(&it, root);
    while (json_iter_next(&it, &key, &slot)) {
        slots++;
        task = json_get(&slot, "id_task");
        if (json_uint(&n, &task, INT64_MAX) && n >= tasks)
            tasks = n + 1;
        if (!is_busy(&slot))
            continue;
        running++;
        facts->slots_show_work |= add_work(&work, &slot);
    }
    if (facts->slots_show_work)
        llama_server_note_work(facts, work);
    note_tasks(facts, tasks);
    facts->slots = slots;
    facts->running = running;
    facts->queued = 0; /* unless /metrics says otherwise */
    facts->has_load = true;
    return true;
}

bool llama_server_routed_slots(uint64_t *work, const struct json_value *root)
{
    struct json_value key, slot;
    struct json_iter it;

    json_iter_init(&it, root);
    while (json_iter_next(&it, &key, &slot)) {
        if (is_busy(&slot) && !add_work(work, &slot))
            return false;
    }
    return root->type == JSON_ARRAY;
}

bool llama_server_routed_metrics(uint64_t *work, const void *text, size_t n)
{
    double decodes;

    if (!metrics_sum(text, n, "llamacpp:n_decode_total", &decodes))
        return false;
    *work += metrics_total(decodes);
    return true;
}

static float speed(double tokens, double seconds)
{
    return seconds >= 1 && tokens >= 1 ? (float)(tokens / seconds) : 0;
}

void llama_server_read_metrics(struct engine_facts *facts, const void *text, size_t n,
                               bool slots_seen)
{
    double running, deferred, tokens, seconds, decodes;

    if (metrics_sum(text, n, "llamacpp:requests_processing", &running) &&
        metrics_sum(text, n, "llamacpp:requests_deferred", &deferred)) {
        if (!slots_seen)
            facts->running = metrics_count(running);
        facts->queued = metrics_count(deferred);
        facts->has_load = true;
    }
    if (!facts->slots_show_work && metrics_sum(text, n, "llamacpp:n_decode_total", &decodes)) {
        facts->progress = metrics_total(decodes);
        facts->progress_mono_us = facts->looked_mono_us;
        facts->progress_counts = true;
    }
    if (metrics_sum(text, n, "llamacpp:prompt_tokens_total", &tokens) &&
        metrics_sum(text, n, "llamacpp:prompt_seconds_total", &seconds))
        facts->prefill_tokens_per_s = speed(tokens, seconds);
    if (metrics_sum(text, n, "llamacpp:tokens_predicted_total", &tokens) &&
        metrics_sum(text, n, "llamacpp:tokens_predicted_seconds_total", &seconds))
        facts->decode_tokens_per_s = speed(tokens, seconds);
}

size_t llama_server_query(char *out, size_t cap, const char *name)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                "0123456789-._~";
    size_t n = strlcpy(out, "?model=", cap);

    for (; *name != '\0' && n + 4 < cap; name++) {
        if (strchr(plain, *name) != NULL)
            out[n++] = *name;
        else
            n += (size_t)snprintf(out + n, cap - n, "%%%02X", (unsigned char)*name);
    }
    out[n] = '\0';
    return n;
}
