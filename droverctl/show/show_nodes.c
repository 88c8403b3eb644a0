/* show_nodes.c - `nodes` and `node NAME`. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/kinds.h"
#include "droverctl/format/emit.h"
#include "droverctl/format/text.h"
#include "droverctl/view.h"
#include "shm/facts/stats.h"
#include "shm/queue/plans.h"
#include "shm/scoreboard.h"
#include "shm/share/gauges.h"

/* One node, as copied from the scoreboard. */
struct node_copy {
    unsigned node_id;
    struct node_info info;
    struct node_status status;
    struct gauge gauge;
    struct plans plans; /* of requests that are held for it */
};

static bool copy_node(struct node_copy *out, const struct scoreboard *board, unsigned node,
                      uint64_t now_mono_us)
{
    if (!nodes_status(board, node, &out->status) || !nodes_read(board, node, &out->info) ||
        out->info.generation != out->status.generation)
        return false; /* empty, or changing hands at this very moment */
    out->node_id = node;
    out->gauge = gauges_sum(board, node, out->status.generation);
    out->plans = plans_sum(board, node, out->status.generation, now_mono_us);
    return true;
}

/* The members that a row of `nodes` and the answer of `node` have in common. */
static void common_json(struct view *view, const struct node_copy *n)
{
    const struct node_status *s = &n->status;
    struct buf *out = &view->out;

    emit_text(out, "name", n->info.name);
    emit_uint(out, "node_id", n->node_id);
    emit_uint(out, "generation", s->generation);
    emit_text(out, "address", n->info.address);
    emit_text(out, "origin", n->info.origin == NODE_ORIGIN_REGISTRY ? "registry" : "static");
    emit_text(out, "engine", engine_kind_name(n->info.engine));
    emit_text(out, "state", node_state_name(s->state));
    emit_text(out, "reason", node_reason_name(s->reason));
    emit_text(out, "detail", n->info.detail);
    emit_uint(out, "state_age_ms", clock_age_ms(view->now_mono_us, s->since_mono_us));
    emit_bool(out, "drain_wanted", s->drain_wanted);
    emit_uint(out, "slots", n->info.slots);
    emit_uint(out, "slots_open", s->slots_now);
    emit_text(out, "slots_source", nodes_slots_source_name(n->info.slots_source));
    emit_uint(out, "slots_min", n->info.slots_min);
    emit_uint(out, "slots_max", n->info.slots_max);
    emit_uint(out, "queue", n->info.queue);
    emit_uint(out, "weight_pct", n->info.weight);
    emit_uint(out, "inflight", n->gauge.inflight);
    emit_uint(out, "backlog_ms", n->gauge.charged_us / US_PER_MS);
    emit_uint(out, "held", n->plans.count);
    emit_uint(out, "held_ms", n->plans.charged_us / US_PER_MS);
    emit_uint(out, "ttft_p50_us", s->ttft_p50_us);
    emit_uint(out, "ttft_p99_us", s->ttft_p99_us);
    emit_uint(out, "tpot_p50_us", s->tpot_p50_us);
    emit_number(out, "requests_per_s", (double)s->requests_per_s);
    emit_number(out, "tokens_per_s", (double)s->tokens_per_s);
    emit_number(out, "success_fraction", (double)s->success_fraction);
}

/* ---- nodes ---- */

static void node_row(struct view *view, struct table *table, const struct node_copy *n)
{
    const struct node_status *s = &n->status;
    /* that probes pass goes without saying */
    bool dull = s->state == NODE_UP && s->reason == NODE_REASON_PROBES_PASS;
    char a[TEXT_SHORT_BYTES], b[TEXT_SHORT_BYTES];

    table_text(table, &view->style, TONE_PLAIN, n->info.name);
    table_printf(table, view_state_tone(s->state), "%s", node_state_name(s->state));
    table_printf(table, dull ? TONE_DIM : TONE_PLAIN, "%s",
                 dull ? "-" : node_reason_name(s->reason));
    table_printf(table, TONE_PLAIN, "%s", text_age(a, view->now_mono_us, s->since_mono_us));
    table_printf(table, TONE_PLAIN, "%s/%s%s", text_count(a, n->gauge.inflight),
                 nodes_slots_learned(&n->info) ? "~" : "", text_count(b, s->slots_now));
    table_printf(table, TONE_PLAIN, "%s", text_duration(a, n->gauge.charged_us));
    table_printf(table, TONE_PLAIN, "%s", text_duration(a, s->ttft_p50_us));
    table_printf(table, TONE_PLAIN, "%s", text_duration(a, s->ttft_p99_us));
    table_printf(table, TONE_PLAIN, "%s", text_rate(a, (double)s->tokens_per_s));
    table_printf(table, s->success_fraction < 0.95f ? TONE_WARN : TONE_PLAIN, "%.0f%%",
                 (double)s->success_fraction * 100);
}

void show_nodes(struct view *view)
{
    static const struct column columns[] = {
        {"NODE", false, 8, 16, 0},   {"STATE", false, 0, 0, 0}, {"REASON", false, 8, 14, 0},
        {"SINCE", true, 0, 0, 2},    {"BUSY", true, 0, 0, 0},   {"PREFILL", true, 0, 0, 4},
        {"TTFT P50", true, 0, 0, 1}, {"P99", true, 0, 0, 3},    {"TOK/S", true, 0, 0, 0},
        {"OK", true, 0, 0, 0}};
    struct node_copy n;
    struct table table;

    table_init(&table, columns, ARRAY_LEN(columns));
    if (view->json) {
        emit_object(&view->out, NULL);
        emit_array(&view->out, "nodes");
    }
    for (unsigned node = 0; node < scoreboard_max_nodes(view->board); node++) {
        if (!copy_node(&n, view->board, node, view->now_mono_us))
            continue;
        if (view->json) {
            emit_object(&view->out, NULL);
            common_json(view, &n);
            emit_end_object(&view->out);
        } else {
            node_row(view, &table, &n);
        }
    }
    if (view->json) {
        emit_end_array(&view->out);
        emit_end_object(&view->out);
    } else if (table.len == 0) {
        buf_str(&view->out, "No node is known.\n");
    } else {
        table_render(&table, &view->style, &view->out);
    }
    table_finish(&table);
}

/* ---- node NAME ---- */

static void models_json(struct buf *out, const struct node_info *info)
{
    emit_array(out, "models");
    for (uint32_t m = 0; m < info->models_count; m++) {
        const struct node_model *model = &info->models[m];

        emit_object(out, NULL);
        emit_text(out, "id", model->id);
        emit_text(out, "state", model_state_name(model->state));
        emit_uint(out, "max_context_tokens", model->max_context);
        emit_uint(out, "load_ms", model->load_ms);
        if (model->alias_of != 0)
            emit_text(out, "alias_of", info->models[model->alias_of - 1].id);
        emit_array(out, "operations");
        for (unsigned op = 0; op < 32; op++)
            if ((model->operations >> op & 1u) != 0 && operation_name((int)op) != NULL)
                emit_text(out, NULL, operation_name((int)op));
        emit_end_array(out);
        emit_end_object(out);
    }
    emit_end_array(out);
}

static void node_json(struct view *view, const struct node_copy *n)
{
    const struct node_status *s = &n->status;
    struct buf *out = &view->out;

    emit_object(out, NULL);
    common_json(view, n);
    emit_text(out, "engine_version", n->info.engine_version);
    emit_text(out, "agent_version", n->info.agent_version);
    emit_bool(out, "tls", n->info.tls != 0);
    emit_number(out, "prefill_tokens_per_s", (double)n->info.prefill_tokens_per_s);
    emit_number(out, "decode_tokens_per_s", (double)n->info.decode_tokens_per_s);
    if (s->checked_mono_us != 0)
        emit_uint(out, "checked_age_ms", clock_age_ms(view->now_mono_us, s->checked_mono_us));
    emit_uint(out, "probe_rtt_us", s->rtt_us);
    if (s->report_mono_us != 0) {
        emit_object(out, "reported");
        emit_uint(out, "running", s->reported_running);
        emit_uint(out, "queued", s->reported_queued);
        emit_number(out, "kv_used_fraction", (double)s->kv_used_fraction);
        emit_uint(out, "age_ms", clock_age_ms(view->now_mono_us, s->report_mono_us));
        emit_end_object(out);
    }
    emit_object(out, "latency");
    for (unsigned which = 0; which < STATS_HISTOGRAMS; which++) {
        struct histogram h;

        stats_read_histogram(view->board, n->node_id, (enum stats_histogram)which, &h);
        emit_object(out, stats_histogram_name((enum stats_histogram)which));
        emit_uint(out, "count", h.count);
        emit_uint(out, "p50_us", histogram_quantile_us(&h, 0.5));
        emit_uint(out, "p90_us", histogram_quantile_us(&h, 0.9));
        emit_uint(out, "p99_us", histogram_quantile_us(&h, 0.99));
        emit_end_object(out);
    }
    emit_end_object(out);
    emit_object(out, "counters");
    for (unsigned c = 0; c < STATS_COUNTERS; c++)
        emit_uint(out, stats_counter_name((enum stats_counter)c),
                  stats_read_counter(view->board, n->node_id, (enum stats_counter)c));
    emit_end_object(out);
    models_json(out, &n->info);
    emit_end_object(out);
}

/* "label     text", escaped; cut to `width` columns. */
static void add_line(struct view *view, const char *label, const char *text, size_t width)
{
    char head[16];
    int n = snprintf(head, sizeof(head), "%-10s", label);
    struct buf escaped = BUF_INIT;

    style_add(&view->out, &view->style, TONE_HEAD, head, (size_t)n);
    text_escape(&escaped, text, view->style.utf8);
    if (buf_size(&escaped) != 0)
        buf_add(&view->out, buf_head(&escaped),
                text_prefix((const char *)buf_head(&escaped), buf_size(&escaped), width));
    buf_str(&view->out, "\n");
    buf_finish(&escaped);
}

static void add_fact(struct view *view, const char *label, const char *text)
{
    add_line(view, label, text, view->style.width - 10);
}

static void node_facts(struct view *view, const struct node_copy *n)
{
    const struct node_status *s = &n->status;
    char text[256], a[TEXT_SHORT_BYTES], b[TEXT_SHORT_BYTES], c[TEXT_SHORT_BYTES];

    add_fact(view, "node", n->info.name);
    (void)snprintf(text, sizeof(text), "%s (%s) for %s%s", node_state_name(s->state),
                   node_reason_name(s->reason),
                   text_age(a, view->now_mono_us, s->since_mono_us),
                   s->drain_wanted ? ", drained by the operator" : "");
    add_fact(view, "state", text);
    if (n->info.detail[0] != '\0') /* whole, however narrow the terminal */
        add_line(view, "because", n->info.detail, sizeof(n->info.detail));
    (void)snprintf(
        text, sizeof(text), "%s%s, %s", n->info.address, n->info.tls != 0 ? " (TLS)" : "",
        n->info.origin == NODE_ORIGIN_REGISTRY ? "joined by itself" : "from the config");
    add_fact(view, "address", text);
    (void)snprintf(text, sizeof(text), "%s%s%s, agent %s", engine_kind_name(n->info.engine),
                   n->info.engine_version[0] == '\0' ? "" : " ", n->info.engine_version,
                   n->info.agent_version[0] == '\0' ? "unknown" : n->info.agent_version);
    add_fact(view, "engine", text);
    (void)snprintf(text, sizeof(text), "last %s ago, round trip %s",
                   text_age(a, view->now_mono_us, s->checked_mono_us),
                   text_duration(b, s->rtt_us));
    add_fact(view, "probe", s->checked_mono_us == 0 ? "never" : text);
    (void)snprintf(text, sizeof(text),
                   "%s in flight on %s of %" PRIu32 " slots, queue %" PRIu32 ", weight %" PRIu32
                   "%%",
                   text_count(a, n->gauge.inflight), text_count(b, s->slots_now), n->info.slots,
                   n->info.queue, n->info.weight);
    add_fact(view, "load", text);
    if (nodes_slots_learned(&n->info)) {
        (void)snprintf(text, sizeof(text), "~%" PRIu32 ", %s, from %" PRIu32 " to %" PRIu32,
                       n->info.slots, nodes_slots_source_name(n->info.slots_source),
                       n->info.slots_min, n->info.slots_max);
        add_fact(view, "slots", text);
    }
    (void)snprintf(text, sizeof(text), "%s for requests before first token",
                   text_duration(a, n->gauge.charged_us));
    add_fact(view, "prefill", text);
    if (n->plans.count != 0) {
        (void)snprintf(text, sizeof(text), "%s requests with %s of prefill wait for their turn",
                       text_count(a, n->plans.count), text_duration(b, n->plans.charged_us));
        add_fact(view, "held", text);
    }
    if (s->report_mono_us != 0) {
        (void)snprintf(text, sizeof(text),
                       "%s running, %s queued, KV cache %.0f%% used, %s ago",
                       text_count(a, s->reported_running), text_count(b, s->reported_queued),
                       (double)(s->kv_used_fraction < 1 ? s->kv_used_fraction : 1) * 100,
                       text_age(c, view->now_mono_us, s->report_mono_us));
        add_fact(view, "reports", text);
    }
    (void)snprintf(text, sizeof(text), "%s requests/s, %s tokens/s, %.1f%% succeed",
                   text_rate(a, (double)s->requests_per_s),
                   text_rate(b, (double)s->tokens_per_s), (double)s->success_fraction * 100);
    add_fact(view, "last 60 s", text);
}

static void node_latency(struct view *view, const struct node_copy *n)
{
    static const struct column columns[] = {
        {"LATENCY", false, 0, 0, 0}, {"COUNT", true, 0, 0, 0}, {"P50", true, 0, 0, 0},
        {"P90", true, 0, 0, 0},      {"P99", true, 0, 0, 3},   {"MEAN", true, 0, 0, 0}};
    struct table table;

    table_init(&table, columns, ARRAY_LEN(columns));
    for (unsigned which = 0; which < STATS_HISTOGRAMS; which++) {
        struct histogram h;
        char a[TEXT_SHORT_BYTES];

        stats_read_histogram(view->board, n->node_id, (enum stats_histogram)which, &h);
        table_printf(&table, TONE_PLAIN, "%s",
                     stats_histogram_name((enum stats_histogram)which));
        table_printf(&table, TONE_PLAIN, "%s", text_count(a, h.count));
        table_printf(&table, TONE_PLAIN, "%s",
                     text_duration(a, histogram_quantile_us(&h, 0.5)));
        table_printf(&table, TONE_PLAIN, "%s",
                     text_duration(a, histogram_quantile_us(&h, 0.9)));
        table_printf(&table, TONE_PLAIN, "%s",
                     text_duration(a, histogram_quantile_us(&h, 0.99)));
        table_printf(&table, TONE_PLAIN, "%s",
                     text_duration(a, h.count == 0 ? 0 : h.sum_us / h.count));
    }
    buf_str(&view->out, "\n");
    table_render(&table, &view->style, &view->out);
    table_finish(&table);
}

/* Three counters a line. */
static void node_counters(struct view *view, const struct node_copy *n)
{
    buf_str(&view->out, "\n");
    for (unsigned c = 0; c < STATS_COUNTERS; c++) {
        char count[TEXT_SHORT_BYTES];

        buf_printf(&view->out, "%-15s %6s%s", stats_counter_name((enum stats_counter)c),
                   text_count(count, stats_read_counter(view->board, n->node_id,
                                                        (enum stats_counter)c)),
                   c % 3 == 2 || c + 1 == STATS_COUNTERS ? "\n" : "    ");
    }
}

static void node_models(struct view *view, const struct node_info *info)
{
    static const struct column columns[] = {{"MODEL", false, 12, 20, 0},
                                            {"STATE", false, 0, 0, 0},
                                            {"CONTEXT", true, 0, 0, 0},
                                            {"LOADS IN", true, 0, 0, 1},
                                            {"ALSO CALLED", false, 8, 12, 2}};
    struct table table;

    table_init(&table, columns, ARRAY_LEN(columns));
    for (uint32_t m = 0; m < info->models_count; m++) {
        const struct node_model *model = &info->models[m];
        char a[TEXT_SHORT_BYTES];
        struct buf names = BUF_INIT;

        if (model->alias_of != 0)
            continue; /* named with the model it stands for */
        for (uint32_t other = 0; other < info->models_count; other++) {
            if (info->models[other].alias_of != m + 1)
                continue;
            buf_str(&names, buf_size(&names) == 0 ? "" : " ");
            buf_str(&names, info->models[other].id);
        }
        table_text(&table, &view->style, TONE_PLAIN, model->id);
        table_printf(&table, TONE_PLAIN, "%s", model_state_name(model->state));
        table_printf(&table, TONE_PLAIN, "%s",
                     model->max_context == 0 ? "-" : text_count(a, model->max_context));
        table_printf(&table, TONE_PLAIN, "%s",
                     text_duration(a, (uint64_t)model->load_ms * 1000));
        table_text(&table, &view->style, TONE_PLAIN, buf_cstr(&names));
        buf_finish(&names);
    }
    if (table.len != 0) {
        buf_str(&view->out, "\n");
        table_render(&table, &view->style, &view->out);
    }
    table_finish(&table);
}

int show_node(struct view *view, const char *name, struct error *err)
{
    int node = view_find_node(view, name, err);
    struct node_copy n;

    if (node < 0)
        return DRV_ENOENT;
    if (!copy_node(&n, view->board, (unsigned)node, view->now_mono_us))
        return error_set(err, DRV_EAGAIN, "node \"%.64s\" is changing; try again", name);
    if (view->json) {
        node_json(view, &n);
        return 0;
    }
    node_facts(view, &n);
    node_latency(view, &n);
    node_counters(view, &n);
    node_models(view, &n.info);
    return 0;
}
