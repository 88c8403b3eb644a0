/* batching.c - reads the answers of the engines that batch continuously, vLLM and SGLang. */
#include "node/engine/kinds/batching.h"

#include "base/text/json.h"
#include "node/engine/facts.h"
#include "node/engine/kinds/fields.h"
#include "node/engine/kinds/kind.h"
#include "node/engine/kinds/metrics.h"

/* The names of one kind's metrics. */
struct names {
    const char *running, *waiting, *kv_used, *kv_used_before, *preempted, *prompt, *output;
};

static const struct names vllm = {
    .running = "vllm:num_requests_running",
    .waiting = "vllm:num_requests_waiting",
    .kv_used = "vllm:kv_cache_usage_perc",
    .kv_used_before = "vllm:gpu_cache_usage_perc",
    .preempted = "vllm:num_preemptions_total",
    .prompt = "vllm:prompt_tokens_total",
    .output = "vllm:generation_tokens_total",
};

static const struct names sglang = {
    .running = "sglang:num_running_reqs",
    .waiting = "sglang:num_queue_reqs",
    .kv_used = "sglang:token_usage",
    .kv_used_before = "sglang:token_usage",
    .prompt = "sglang:prompt_tokens_total",
    .output = "sglang:generation_tokens_total",
};

void batching_read_metrics(struct engine_facts *facts, const void *text, size_t n)
{
    const struct names *names = facts->kind == KIND(VLLM) ? &vllm : &sglang;
    double running, queued, used, preempted, prompt, output;

    if (metrics_sum(text, n, names->running, &running) &&
        metrics_sum(text, n, names->waiting, &queued)) {
        facts->running = metrics_count(running);
        facts->queued = metrics_count(queued);
        facts->has_load = true;
    }
    if (metrics_sum(text, n, names->kv_used, &used) ||
        metrics_sum(text, n, names->kv_used_before, &used))
        facts->kv_used_fraction = used >= 0 && used <= 1 ? (float)used : -1;
    if (names->preempted != NULL && metrics_sum(text, n, names->preempted, &preempted))
        facts->preemptions = metrics_total(preempted);
    if (metrics_sum(text, n, names->prompt, &prompt) &&
        metrics_sum(text, n, names->output, &output)) {
        facts->progress = metrics_total(prompt + output);
        facts->progress_mono_us = facts->looked_mono_us;
    }
}

void batching_read_server_info(struct engine_facts *facts, const struct json_value *root)
{
    fields_name(root, "version", facts->version, sizeof(facts->version));
    facts->slots = fields_count(root, "max_running_requests");
}
