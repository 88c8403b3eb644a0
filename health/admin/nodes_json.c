/* nodes_json.c - everything about the nodes as JSON. */
#include "health/admin/nodes_json.h"

#include <inttypes.h>
#include <stdbool.h>

#include "base/clock.h"
#include "base/kinds.h"
#include "base/text/buf.h"
#include "base/text/json.h"
#include "health/admin/snapshot.h"

static void text(struct buf *out, const char *key, const char *value)
{
    buf_printf(out, "\"%s\":", key);
    json_quote_str(out, value);
    buf_str(out, ",");
}

static void whole(struct buf *out, const char *key, uint64_t value)
{
    buf_printf(out, "\"%s\":%" PRIu64 ",", key, value);
}

static void real(struct buf *out, const char *key, double value)
{
    buf_printf(out, "\"%s\":%.6g,", key, value);
}

static void truth(struct buf *out, const char *key, bool value)
{
    buf_printf(out, "\"%s\":%s,", key, value ? "true" : "false");
}

/* Replaces the comma after the last node or element. */
static void close_with(struct buf *out, const char *bracket)
{
    if (!out->failed && buf_size(out) != 0 && out->data[out->len - 1] == ',')
        out->len--;
    buf_str(out, bracket);
}

static void build_abilities(struct buf *out, const char *name, uint32_t mask)
{
    buf_printf(out, "\"%s\":[", name);
    for (unsigned a = 0; a < ABILITIES; a++) {
        if ((mask & ABILITY_BIT(a)) != 0 && ability_name(a) != NULL)
            buf_printf(out, "\"%s\",", ability_name(a));
    }
    close_with(out, "],");
}

static void build_models(struct buf *out, const struct node_info *info)
{
    buf_str(out, "\"models\":[");
    for (uint32_t i = 0; i < info->models_count; i++) {
        const struct node_model *model = &info->models[i];

        buf_str(out, "{");
        text(out, "id", model->id);
        text(out, "state", model_state_name(model->state));
        whole(out, "max_context_tokens", model->max_context);
        if (model->load_ms != 0)
            whole(out, "load_ms", model->load_ms);
        if (model->alias_of != 0 && model->alias_of <= info->models_count)
            text(out, "alias_of", info->models[model->alias_of - 1].id);
        buf_str(out, "\"operations\":[");
        for (unsigned op = 0; op < 32; op++) {
            if ((model->operations & (UINT32_C(1) << op)) != 0 &&
                operation_name((int)op) != NULL)
                buf_printf(out, "\"%s\",", operation_name((int)op));
        }
        close_with(out, "],");
        build_abilities(out, "has", model->has);
        build_abilities(out, "lacks", model->lacks);
        close_with(out, "},");
    }
    close_with(out, "],");
}

static void build_latency(struct buf *out, const struct snapshot_node *node)
{
    buf_str(out, "\"latency\":{");
    for (unsigned h = 0; h < STATS_HISTOGRAMS; h++) {
        const struct histogram *of = &node->histogram[h];

        buf_printf(out, "\"%s\":{", stats_histogram_name((enum stats_histogram)h));
        whole(out, "count", of->count);
        whole(out, "p50_us", histogram_quantile_us(of, 0.50));
        whole(out, "p90_us", histogram_quantile_us(of, 0.90));
        whole(out, "p99_us", histogram_quantile_us(of, 0.99));
        close_with(out, "},");
    }
    close_with(out, "},");
    buf_str(out, "\"last_minute\":{");
    whole(out, "ttft_p50_us", node->status.ttft_p50_us);
    whole(out, "ttft_p99_us", node->status.ttft_p99_us);
    whole(out, "tpot_p50_us", node->status.tpot_p50_us);
    real(out, "requests_per_s", (double)node->status.requests_per_s);
    real(out, "tokens_per_s", (double)node->status.tokens_per_s);
    real(out, "success_fraction", (double)node->status.success_fraction);
    close_with(out, "},");
}

static void build_node(struct buf *out, const struct snapshot_node *node, uint64_t now_mono_us)
{
    const struct node_info *info = &node->info;
    const struct node_status *status = &node->status;

    buf_str(out, "{");
    text(out, "name", info->name);
    whole(out, "node_id", node->node_id);
    whole(out, "generation", info->generation);
    text(out, "address", info->address);
    text(out, "origin", info->origin == NODE_ORIGIN_STATIC ? "static" : "registry");
    text(out, "state", node_state_name(status->state));
    text(out, "reason", node_reason_name(status->reason));
    text(out, "detail", info->detail);
    whole(out, "state_age_ms", clock_age_ms(now_mono_us, status->since_mono_us));
    truth(out, "drain_wanted", status->drain_wanted);
    if (status->checked_mono_us != 0)
        whole(out, "checked_age_ms", clock_age_ms(now_mono_us, status->checked_mono_us));
    whole(out, "probe_rtt_us", status->rtt_us);
    text(out, "engine", engine_kind_name(info->engine));
    text(out, "engine_version", info->engine_version);
    text(out, "agent_version", info->agent_version);
    buf_str(out, "\"instance_id\":\"");
    for (unsigned i = 0; i < sizeof(info->instance_id); i++)
        buf_printf(out, "%02x", info->instance_id[i]);
    buf_str(out, "\",");
    truth(out, "tls", info->tls != 0);
    whole(out, "slots", info->slots);
    whole(out, "slots_open", status->slots_now);
    text(out, "slots_source", nodes_slots_source_name(info->slots_source));
    whole(out, "slots_min", info->slots_min);
    whole(out, "slots_max", info->slots_max);
    whole(out, "queue", info->queue);
    whole(out, "weight_pct", info->weight);
    whole(out, "inflight", node->gauge.inflight);
    whole(out, "backlog_ms", node->gauge.charged_us / US_PER_MS);
    if (status->report_mono_us != 0) {
        buf_str(out, "\"reported\":{");
        whole(out, "running", status->reported_running);
        whole(out, "queued", status->reported_queued);
        real(out, "kv_used_fraction", (double)status->kv_used_fraction);
        whole(out, "age_ms", clock_age_ms(now_mono_us, status->report_mono_us));
        close_with(out, "},");
    }
    real(out, "prefill_tokens_per_s", (double)info->prefill_tokens_per_s);
    real(out, "decode_tokens_per_s", (double)info->decode_tokens_per_s);
    buf_str(out, "\"counters\":{");
    for (unsigned c = 0; c < STATS_COUNTERS; c++)
        whole(out, stats_counter_name((enum stats_counter)c), node->counter[c]);
    close_with(out, "},");
    build_latency(out, node);
    build_models(out, info);
    close_with(out, "},");
}

void nodes_json_build(struct buf *out, const struct snapshot *snapshot)
{
    buf_str(out, "{");
    text(out, "version", DROVER_VERSION);
    whole(out, "now_wall_ms", snapshot->now_wall_ms);
    whole(out, "config_generation", snapshot->config_generation);
    buf_str(out, "\"nodes\":[");
    for (unsigned i = 0; i < snapshot->nodes_count; i++)
        build_node(out, &snapshot->nodes[i], snapshot->now_mono_us);
    close_with(out, "]}\n");
}
