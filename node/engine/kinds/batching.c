/* batching.c - reads the answers of the engines that batch continuously, vLLM and SGLang. */
#include "node/engine/kinds/batching.h"

#include "base/attrs.h"
#include "base/text/json.h"
#include "node/engine/facts.h"
#include "node/engine/kinds/fields.h"
#include "node/engine/kinds/kind.h"
#include "node/engine/kinds/metrics.h"
#include "node/engine/kinds/operations.h"

/* The names of one kind's metrics. */
struct names {
    const char *running, *waiting, *kv_used, *kv_used_before, *preempted;
    const char *work[3]; /* counts of tokens */
    bool counts_all;     /* ... and every token is counted when it is made */
};

static const struct names vllm = {
    .running = "vllm:num_requests_running",
    .waiting = "vllm:num_requests_waiting",
    .kv_used = "vllm:kv_cache_usage_perc",
    .kv_used_before = "vllm:gpu_cache_usage_perc",
    .preempted = "vllm:num_preemptions_total",
    .work = {"vllm:prompt_tokens_total", "vllm:generation_tokens_total"},
    .counts_all = true,
};

static const struct names sglang = {
    .running = "sglang:num_running_reqs",
    .waiting = "sglang:num_queue_reqs",
    .kv_used = "sglang:token_usage",
    .kv_used_before = "sglang:token_usage",
    /* Of a request that runs only the third counts, and not every version has it. */
    .work = {"sglang:prompt_tokens_total", "sglang:generation_tokens_total",
             "sglang:realtime_tokens_total"},
};

/* A prompt is counted when it has been read; until then its part of the cache grows. */
static void read_progress(struct engine_facts *facts, const struct names *names,
                          const void *text, size_t n)
{
    double sum = 0, tokens;
    bool some = false;

    for (size_t i = 0; i < ARRAY_LEN(names->work) && names->work[i] != NULL; i++) {
        if (!metrics_sum(text, n, names->work[i], &tokens))
            continue;
        sum += tokens;
        some = true;
    }
    if (!some)
        return;
    facts->progress = metrics_total(sum);
    if (facts->kv_used_fraction > 0)
        facts->progress += (uint64_t)(facts->kv_used_fraction * 1e6F);
    facts->progress_mono_us = facts->looked_mono_us;
    facts->progress_counts = names->counts_all;
}

void batching_read_metrics(struct engine_facts *facts, const void *text, size_t n)
{
    const struct names *names = facts->kind == KIND(VLLM) ? &vllm : &sglang;
    double running, queued, used, preempted;

    if (metrics_sum(text, n, names->running, &running) &&
        metrics_sum(text, n, names->waiting, &queued)) {
        facts->running = metrics_count(running);
        facts->queued = metrics_count(queued);
        facts->has_load = true;
    }
    /* Of several caches (--data-parallel-size) the fullest is the first to have no room. */
    if (metrics_largest(text, n, names->kv_used, &used) ||
        metrics_largest(text, n, names->kv_used_before, &used))
        facts->kv_used_fraction = used >= 0 && used <= 1 ? (float)used : -1;
    if (names->preempted != NULL && metrics_sum(text, n, names->preempted, &preempted))
        facts->preemptions = metrics_total(preempted);
    read_progress(facts, names, text, n);
}

void batching_read_server_info(struct engine_facts *facts, const struct json_value *root)
{
    fields_name(root, "version", facts->version, sizeof(facts->version));
    facts->slots = fields_count(root, "max_running_requests");
}

void batching_read_model_info(struct engine_facts *facts, const struct json_value *root)
{
    struct json_value generates = json_get(root, "is_generation");

    for (uint32_t i = 0; i < facts->models_count; i++) {
        fields_abilities(&facts->models[i], root);
        if (generates.type == JSON_FALSE)
            facts->models[i].offered &= OPERATIONS_EMBEDDING;
    }
}
