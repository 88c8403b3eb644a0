/* metrics.c - a snapshot as Prometheus text. */
#include "health/admin/metrics.h"

#include <inttypes.h>
#include <string.h>

#include "base/kinds.h"
#include "base/text/buf.h"
#include "health/admin/snapshot.h"

#define PART_NODES 32u /* of a histogram, at once */

#define US_PER_SECOND 1e6

/* 100 us times powers of two, where the scoreboard's buckets double in width. */
const uint64_t metrics_bound_us[METRICS_BOUNDS] = {
    800,    1600,   3200,    6400,    12800,   25600,    51200,    102400,   204800,
    409600, 819200, 1638400, 3276800, 6553600, 13107200, 26214400, 52428800, 209715200,
};

/* Appends `text` as the inside of a label value. */
static void escape(struct buf *out, const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '\\')
            buf_str(out, "\\\\");
        else if (*text == '"')
            buf_str(out, "\\\"");
        else if (*text == '\n')
            buf_str(out, "\\n");
        else
            buf_add(out, text, 1);
    }
}

uint64_t metrics_below(const struct histogram *h, uint64_t bound_us)
{
    uint64_t below = 0;

    for (unsigned b = 0; b < HISTOGRAM_BUCKETS && histogram_upper_us(b) <= bound_us; b++)
        below += h->bucket[b];
    return below;
}

/* ---- pieces of a line ---- */

static void head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void label(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "%s=\"", name);
    escape(out, value);
    buf_str(out, "\"");
}

static void value_u(struct buf *out, uint64_t value)
{
    buf_printf(out, " %" PRIu64 "\n", value);
}

static void value_d(struct buf *out, double value)
{
    buf_printf(out, " %.9g\n", value);
}

static void single(struct buf *out, const char *name, const char *type, const char *help,
                   uint64_t value)
{
    head(out, name, type, help);
    buf_str(out, name);
    value_u(out, value);
}

/* ---- nodes ---- */

static unsigned shown(const struct snapshot *snapshot)
{
    return snapshot->nodes_count < METRICS_MAX_NODES ? snapshot->nodes_count
                                                     : METRICS_MAX_NODES;
}

static void node_line(struct buf *out, const char *name, const struct snapshot_node *node)
{
    buf_printf(out, "%s{", name);
    label(out, "node", node->info.name);
    buf_str(out, "}");
}

static double seconds(uint64_t us)
{
    return (double)us / US_PER_SECOND;
}

static uint64_t age_us(uint64_t now_mono_us, uint64_t then_mono_us)
{
    return now_mono_us > then_mono_us ? now_mono_us - then_mono_us : 0;
}

/* One gauge of every node, by a function of the node. */
struct node_gauge {
    const char *name, *help;
    double (*of)(const struct snapshot *snapshot, const struct snapshot_node *node);
};

#define NODE_GAUGE(function, expression)                                                      \
    static double function(const struct snapshot *snapshot, const struct snapshot_node *node) \
    {                                                                                         \
        (void)snapshot;                                                                       \
        return (double)(expression);                                                          \
    }

NODE_GAUGE(of_slots, node->info.slots)
NODE_GAUGE(of_slots_now, node->status.slots_now)
NODE_GAUGE(of_queue, node->info.queue)
NODE_GAUGE(of_inflight, node->gauge.inflight)
NODE_GAUGE(of_backlog, seconds(node->gauge.charged_us))
NODE_GAUGE(of_running, node->status.reported_running)
NODE_GAUGE(of_queued, node->status.reported_queued)
NODE_GAUGE(of_kv, node->status.kv_used_fraction)
NODE_GAUGE(of_rtt, seconds(node->status.rtt_us))
NODE_GAUGE(of_command, node->status.drain_wanted)
NODE_GAUGE(of_since, seconds(age_us(snapshot->now_mono_us, node->status.since_mono_us)))
NODE_GAUGE(of_checked,
           node->status.checked_mono_us == 0
               ? -1.0
               : seconds(age_us(snapshot->now_mono_us, node->status.checked_mono_us)))
NODE_GAUGE(of_success, node->status.success_fraction)
NODE_GAUGE(of_ttft_p50, seconds(node->status.ttft_p50_us))
NODE_GAUGE(of_ttft_p99, seconds(node->status.ttft_p99_us))
NODE_GAUGE(of_tpot_p50, seconds(node->status.tpot_p50_us))

static const struct node_gauge node_gauges[] = {
    {"drover_node_slots", "Requests the node runs at once.", of_slots},
    {"drover_node_slots_open", "Slots open to traffic at present.", of_slots_now},
    {"drover_node_queue_slots", "Requests the node may hold beyond its slots.", of_queue},
    {"drover_node_requests_inflight", "Requests sent to the node and not finished.",
     of_inflight},
    {"drover_node_backlog_seconds",
     "Prefill that the requests before their first token were expected to take when sent.",
     of_backlog},
    {"drover_node_reported_running", "Requests in the engine, as the node reports.",
     of_running},
    {"drover_node_reported_queued", "Requests waiting in the node, as it reports.", of_queued},
    {"drover_node_kv_used_ratio", "Part of the engine's KV cache in use, as reported.", of_kv},
    {"drover_node_probe_rtt_seconds", "Round trip of the last probe; 0 when unknown.", of_rtt},
    {"drover_node_checked_age_seconds", "Time since the last verdict; -1 when never.",
     of_checked},
    {"drover_node_state_age_seconds", "Time in the present state.", of_since},
    {"drover_node_drain_wanted", "Whether the operator wants the node drained.", of_command},
    {"drover_node_success_ratio_1m", "Successful part of the attempts of the last minute.",
     of_success},
    {"drover_node_ttft_p50_1m_seconds", "Median time to first token, last minute.",
     of_ttft_p50},
    {"drover_node_ttft_p99_1m_seconds", "99th percentile of time to first token, last minute.",
     of_ttft_p99},
    {"drover_node_tpot_p50_1m_seconds", "Median time per output token, last minute.",
     of_tpot_p50},
};

static void build_node_gauge(struct buf *out, const struct snapshot *snapshot, unsigned g)
{
    head(out, node_gauges[g].name, "gauge", node_gauges[g].help);
    for (unsigned i = 0; i < shown(snapshot); i++) {
        node_line(out, node_gauges[g].name, &snapshot->nodes[i]);
        value_d(out, node_gauges[g].of(snapshot, &snapshot->nodes[i]));
    }
}

static void build_node_states(struct buf *out, const struct snapshot *snapshot)
{
    head(out, "drover_node_state", "gauge",
         "1 for the state the node is in, 0 for the others.");
    for (unsigned i = 0; i < shown(snapshot); i++) {
        for (int state = NODE_JOINING; state <= NODE_GONE; state++) {
            buf_str(out, "drover_node_state{");
            label(out, "node", snapshot->nodes[i].info.name);
            buf_str(out, ",");
            label(out, "state", node_state_name((enum node_state)state));
            buf_str(out, "}");
            value_u(out, snapshot->nodes[i].status.state == (enum node_state)state);
        }
    }
    head(out, "drover_node_info", "gauge", "Facts about the node; always 1.");
    for (unsigned i = 0; i < shown(snapshot); i++) {
        const struct node_info *info = &snapshot->nodes[i].info;

        buf_str(out, "drover_node_info{");
        label(out, "node", info->name);
        buf_str(out, ",");
        label(out, "address", info->address);
        buf_str(out, ",");
        label(out, "engine", engine_kind_name(info->engine));
        buf_str(out, ",");
        label(out, "engine_version", info->engine_version);
        buf_str(out, ",");
        label(out, "agent_version", info->agent_version);
        buf_str(out, ",");
        label(out, "origin", info->origin == NODE_ORIGIN_STATIC ? "static" : "registry");
        buf_str(out, ",");
        label(out, "reason", node_reason_name(snapshot->nodes[i].status.reason));
        buf_str(out, "}");
        value_u(out, 1);
    }
    head(out, "drover_nodes", "gauge", "Nodes by state.");
    for (int state = NODE_JOINING; state <= NODE_GONE; state++) {
        uint64_t count = 0;

        for (unsigned i = 0; i < snapshot->nodes_count; i++)
            count += snapshot->nodes[i].status.state == (enum node_state)state;
        buf_str(out, "drover_nodes{");
        label(out, "state", node_state_name((enum node_state)state));
        buf_str(out, "}");
        value_u(out, count);
    }
    single(out, "drover_metrics_nodes_omitted", "gauge",
           "Nodes left out of this page because there are too many.",
           snapshot->nodes_count - shown(snapshot));
}

/* One counter of every node, with one more label whose value names it. */
struct node_counter {
    enum stats_counter which;
    const char *value; /* NULL: no further label */
};

static void build_counter(struct buf *out, const struct snapshot *snapshot, const char *name,
                          const char *help, const char *label_name,
                          const struct node_counter *counters, size_t n)
{
    head(out, name, "counter", help);
    for (unsigned i = 0; i < shown(snapshot); i++) {
        for (size_t c = 0; c < n; c++) {
            buf_printf(out, "%s{", name);
            label(out, "node", snapshot->nodes[i].info.name);
            if (label_name != NULL && counters[c].value != NULL) {
                buf_str(out, ",");
                label(out, label_name, counters[c].value);
            }
            buf_str(out, "}");
            value_u(out, snapshot->nodes[i].counter[counters[c].which]);
        }
    }
}

static void build_node_counters(struct buf *out, const struct snapshot *snapshot)
{
    static const struct node_counter dispatched = {STATS_DISPATCHED, NULL};
    static const struct node_counter retried = {STATS_RETRIED, NULL};
    static const struct node_counter hedges = {STATS_HEDGES, NULL};
    static const struct node_counter hedges_won = {STATS_HEDGES_WON, NULL};
    static const struct node_counter outcomes[] = {
        {STATS_OK, "ok"},
        {STATS_CLIENT_ERROR, "client_error"},
        {STATS_CLIENT_GONE, "client_gone"},
        {STATS_NODE_ERROR, "node_error"},
        {STATS_TIMEOUT, "timeout"},
        {STATS_OVERTAKEN, "overtaken"},
        {STATS_FULL, "full"},
        {STATS_CONNECT_FAILED, "connect_failed"},
    };
    static const struct node_counter tokens[] = {
        {STATS_PROMPT_TOKENS, "prompt"},
        {STATS_CACHED_TOKENS, "cached_prompt"},
        {STATS_OUTPUT_TOKENS, "output"},
    };

    build_counter(out, snapshot, "drover_node_dispatched_total", "Attempts sent to the node.",
                  NULL, &dispatched, 1);
    build_counter(out, snapshot, "drover_node_retried_total",
                  "Attempts on the node that were followed by one elsewhere.", NULL, &retried,
                  1);
    build_counter(out, snapshot, "drover_node_hedges_total",
                  "Attempts sent to the node beside one that was slow elsewhere.", NULL,
                  &hedges, 1);
    build_counter(out, snapshot, "drover_node_hedges_won_total",
                  "Hedges on the node that were the first to give content.", NULL, &hedges_won,
                  1);
    build_counter(out, snapshot, "drover_node_attempts_total", "Ended attempts by outcome.",
                  "outcome", outcomes, ARRAY_LEN(outcomes));
    build_counter(out, snapshot, "drover_node_tokens_total", "Tokens by kind.", "kind", tokens,
                  ARRAY_LEN(tokens));
}

/* ---- histograms ---- */

typedef void labels_fn(struct buf *out, const struct snapshot_node *node);

static void drover_labels(struct buf *out, const struct snapshot_node *node)
{
    label(out, "node", node->info.name);
}

/* The histograms are kept per node.  The model is known where the node serves just one. */
static void genai_labels(struct buf *out, const struct snapshot_node *node)
{
    const char *model = NULL;
    bool one = true;

    for (uint32_t i = 0; i < node->info.models_count; i++) {
        if (node->info.models[i].alias_of != 0)
            continue;
        one = model == NULL;
        model = node->info.models[i].id;
    }
    if (model == NULL || !one)
        model = "";
    label(out, "gen_ai_operation_name", "any");
    buf_str(out, ",");
    label(out, "gen_ai_provider_name", engine_kind_name(node->info.engine));
    buf_str(out, ",");
    label(out, "gen_ai_request_model", model);
    buf_str(out, ",");
    label(out, "gen_ai_response_model", model);
    buf_str(out, ",");
    label(out, "server_address", node->info.name);
}

struct node_histogram {
    const char *name, *help;
    enum stats_histogram which;
    labels_fn *labels;
};

/* Of the nodes from `first` on, before `end`. */
static void build_histogram(struct buf *out, const struct snapshot *snapshot,
                            const struct node_histogram *family, unsigned first, unsigned end)
{
    const char *name = family->name;

    if (first == 0)
        head(out, name, "histogram", family->help);
    for (unsigned i = first; i < end; i++) {
        const struct snapshot_node *node = &snapshot->nodes[i];
        const struct histogram *h = &node->histogram[family->which];

        for (unsigned b = 0; b < METRICS_BOUNDS; b++) {
            buf_printf(out, "%s_bucket{", name);
            family->labels(out, node);
            buf_printf(out, ",le=\"%.9g\"}", seconds(metrics_bound_us[b]));
            value_u(out, metrics_below(h, metrics_bound_us[b]));
        }
        buf_printf(out, "%s_bucket{", name);
        family->labels(out, node);
        buf_str(out, ",le=\"+Inf\"}");
        value_u(out, h->count);
        buf_printf(out, "%s_sum{", name);
        family->labels(out, node);
        buf_str(out, "}");
        value_d(out, seconds(h->sum_us));
        buf_printf(out, "%s_count{", name);
        family->labels(out, node);
        buf_str(out, "}");
        value_u(out, h->count);
    }
}

/* Tokens are counted, not put into buckets: the one bucket there is holds everything. */
static void build_token_usage(struct buf *out, const struct snapshot *snapshot)
{
    static const char name[] = "gen_ai_client_token_usage";
    static const struct {
        enum stats_counter which;
        const char *type;
    } kinds[] = {{STATS_PROMPT_TOKENS, "input"}, {STATS_OUTPUT_TOKENS, "output"}};
    static const char *const suffix[] = {"_bucket", "_sum", "_count"};

    head(out, name, "histogram", "Tokens used by successful attempts.");
    for (unsigned i = 0; i < shown(snapshot); i++) {
        const struct snapshot_node *node = &snapshot->nodes[i];

        for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
            for (size_t s = 0; s < ARRAY_LEN(suffix); s++) {
                buf_printf(out, "%s%s{", name, suffix[s]);
                genai_labels(out, node);
                buf_str(out, ",");
                label(out, "gen_ai_token_type", kinds[k].type);
                buf_str(out, s == 0 ? ",le=\"+Inf\"}" : "}");
                value_u(out, s == 1 ? node->counter[kinds[k].which] : node->counter[STATS_OK]);
            }
        }
    }
}

static const struct node_histogram node_histograms[] = {
    {"drover_node_ttft_seconds", "From sending an attempt to its first content.", STATS_TTFT,
     drover_labels},
    {"drover_node_tpot_seconds",
     "Time per output token after the first, one sample an attempt.", STATS_TPOT,
     drover_labels},
    {"drover_node_e2e_seconds", "From sending an attempt to its successful end.", STATS_E2E,
     drover_labels},
    {"drover_node_connect_seconds", "From connecting to the node to its HTTP/2 settings.",
     STATS_CONNECT, drover_labels},
    {"gen_ai_server_time_to_first_token_seconds", "Time to generate the first token.",
     STATS_TTFT, genai_labels},
    {"gen_ai_server_time_per_output_token_seconds", "Time per output token after the first.",
     STATS_TPOT, genai_labels},
    {"gen_ai_server_request_duration_seconds", "Duration of successful attempts.", STATS_E2E,
     genai_labels},
};

/* ---- processes and the whole ---- */

static void proc_line(struct buf *out, const char *name, const struct snapshot_proc *proc)
{
    buf_printf(out, "%s{", name);
    label(out, "proc", proc->name);
    buf_str(out, "}");
}

static void build_procs(struct buf *out, const struct snapshot *snapshot)
{
    static const struct {
        const char *name, *type, *help;
        enum proc_counter which;
    } counters[] = {
        {"drover_worker_connections_total", "counter", "Client connections accepted.",
         PROC_CONNECTIONS_TOTAL},
        {"drover_worker_connections", "gauge", "Client connections open.",
         PROC_CONNECTIONS_OPEN},
        {"drover_worker_requests_total", "counter", "Requests whose head was read.",
         PROC_REQUESTS_TOTAL},
        {"drover_worker_requests_rejected_total", "counter", "Requests refused by the worker.",
         PROC_REQUESTS_REJECTED},
        {"drover_worker_requests_unauthorized_total", "counter",
         "Requests without a valid API key.", PROC_REQUESTS_UNAUTHORIZED},
        {"drover_worker_uploads_refused_total", "counter",
         "Requests refused because there was no room for their bodies.", PROC_UPLOADS_REFUSED},
    };

    head(out, "drover_process_running", "gauge",
         "1 when the process runs, 0 when it starts or "
         "drains.");
    for (unsigned i = 0; i < snapshot->procs_count; i++) {
        proc_line(out, "drover_process_running", &snapshot->procs[i]);
        value_u(out, snapshot->procs[i].view.state == PROC_RUNNING);
    }
    head(out, "drover_process_heartbeat_age_seconds", "gauge",
         "Time since the last turn of the process's event loop.");
    for (unsigned i = 0; i < snapshot->procs_count; i++) {
        proc_line(out, "drover_process_heartbeat_age_seconds", &snapshot->procs[i]);
        value_d(out, seconds(age_us(snapshot->now_mono_us,
                                    snapshot->procs[i].view.heartbeat_mono_us)));
    }
    head(out, "drover_process_restarts_total", "counter",
         "Times the master has filled this place after a crash.");
    for (unsigned i = 0; i < snapshot->procs_count; i++) {
        proc_line(out, "drover_process_restarts_total", &snapshot->procs[i]);
        value_u(out, snapshot->procs[i].view.restarts);
    }
    head(out, "drover_process_log_lines_lost_total", "counter", "Lines a log could not take.");
    for (unsigned i = 0; i < snapshot->procs_count; i++) {
        proc_line(out, "drover_process_log_lines_lost_total", &snapshot->procs[i]);
        value_u(out, snapshot->procs[i].view.counter[PROC_LOG_LOST]);
    }
    head(out, "drover_process_connections_gave_way_total", "counter",
         "Connections closed because another client needed one.");
    for (unsigned i = 0; i < snapshot->procs_count; i++) {
        proc_line(out, "drover_process_connections_gave_way_total", &snapshot->procs[i]);
        value_u(out, snapshot->procs[i].view.counter[PROC_CONNECTIONS_GAVE_WAY]);
    }
    for (size_t c = 0; c < ARRAY_LEN(counters); c++) {
        head(out, counters[c].name, counters[c].type, counters[c].help);
        for (unsigned i = 0; i < snapshot->procs_count; i++) {
            if (!snapshot->procs[i].worker)
                continue;
            proc_line(out, counters[c].name, &snapshot->procs[i]);
            value_u(out, snapshot->procs[i].view.counter[counters[c].which]);
        }
    }
    head(out, "drover_worker_requests_open", "gauge", "Requests the worker has open.");
    for (unsigned i = 0; i < snapshot->procs_count; i++) {
        if (!snapshot->procs[i].worker)
            continue;
        proc_line(out, "drover_worker_requests_open", &snapshot->procs[i]);
        value_u(out, snapshot->procs[i].requests_open);
    }
}

static void build_totals(struct buf *out, const struct snapshot *snapshot)
{
    uint64_t open = 0, queued = 0, slots = 0, processing = 0;

    for (unsigned i = 0; i < snapshot->procs_count; i++) {
        open += snapshot->procs[i].requests_open;
        queued += snapshot->procs[i].requests_queued;
    }
    for (unsigned i = 0; i < snapshot->nodes_count; i++) {
        const struct snapshot_node *node = &snapshot->nodes[i];

        if (node->status.state == NODE_UP)
            slots += node->info.slots;
        processing +=
            node->gauge.inflight < node->info.slots ? node->gauge.inflight : node->info.slots;
    }
    head(out, "drover_info", "gauge", "The version of Drover; always 1.");
    buf_str(out, "drover_info{version=\"" DROVER_VERSION "\"}");
    value_u(out, 1);
    single(out, "drover_requests_open", "gauge", "Requests open in all workers.", open);
    single(out, "drover_requests_buffered", "gauge", "Requests waiting for a node.", queued);
    single(out, "drover_slots_processing", "gauge", "Slots of nodes that hold a request.",
           processing);
    single(out, "drover_slots_total", "gauge", "Slots of the nodes that are up.", slots);
    single(out, "drover_workers_wanted", "gauge", "Workers the configuration asks for.",
           snapshot->workers_wanted);
    single(out, "drover_config_generation", "counter",
           "The configuration in force, counted from 1.", snapshot->config_generation);
    head(out, "drover_started_seconds", "gauge", "When the master started, since 1970.");
    buf_printf(out, "drover_started_seconds %.3f\n", (double)snapshot->created_wall_ms / 1e3);
    single(out, "drover_gauge_audit_violations_total", "counter",
           "Times a node's gauges disagreed with the open requests; must stay 0.",
           snapshot->counts.gauge_audit_violations);
    single(out, "drover_ejections_total", "counter",
           "Times a node was taken out because requests failed there.",
           snapshot->counts.ejections);
    single(out, "drover_ejections_kept_total", "counter",
           "Times a node was not taken out, because too few would have been left.",
           snapshot->counts.kept);
    single(out, "drover_registry_attached", "gauge", "Nodes attached to the registry.",
           snapshot->counts.registry_attached);
    single(out, "drover_registry_joins_total", "counter", "Nodes that joined or came back.",
           snapshot->counts.registry_joins);
    single(out, "drover_registry_crowded_total", "counter",
           "Streams and connections that had not proven the token, ended to make room.",
           snapshot->counts.registry_crowded);
    single(out, "drover_registry_refused_total", "counter",
           "Registrations refused: wrong proof, broken rule, over a limit.",
           snapshot->counts.registry_refused);
}

static void build_usage(struct buf *out, const struct snapshot *snapshot)
{
    static const struct {
        const char *name, *help;
        enum usage_counter which;
    } counters[] = {
        {"drover_key_requests_total", "Requests with the API key of this name.",
         USAGE_REQUESTS},
        {"drover_key_prompt_tokens_total", "Prompt tokens of these requests.",
         USAGE_PROMPT_TOKENS},
        {"drover_key_output_tokens_total", "Output tokens of these requests.",
         USAGE_OUTPUT_TOKENS},
    };

    for (size_t c = 0; c < ARRAY_LEN(counters) && snapshot->usage_count != 0; c++) {
        head(out, counters[c].name, "counter", counters[c].help);
        for (unsigned i = 0; i < snapshot->usage_count; i++) {
            buf_printf(out, "%s{", counters[c].name);
            label(out, "key", snapshot->usage[i].name);
            buf_str(out, "}");
            value_u(out, snapshot->usage[i].counter[counters[c].which]);
        }
    }
}

bool metrics_build_part(struct buf *out, const struct snapshot *snapshot, unsigned part)
{
    unsigned blocks = (shown(snapshot) + PART_NODES - 1) / PART_NODES;
    unsigned family, first, end;

    if (part == 0) {
        build_totals(out, snapshot);
        build_procs(out, snapshot);
        build_usage(out, snapshot);
        build_node_states(out, snapshot);
        return true;
    }
    part--;
    if (part < ARRAY_LEN(node_gauges)) {
        build_node_gauge(out, snapshot, part);
        return true;
    }
    part -= (unsigned)ARRAY_LEN(node_gauges);
    if (part == 0) {
        build_node_counters(out, snapshot);
        return true;
    }
    part--;
    if (blocks == 0)
        blocks = 1; /* for the heads */
    family = part / blocks;
    if (family == ARRAY_LEN(node_histograms)) {
        build_token_usage(out, snapshot);
        return false;
    }
    first = part % blocks * PART_NODES;
    end = first + PART_NODES < shown(snapshot) ? first + PART_NODES : shown(snapshot);
    build_histogram(out, snapshot, &node_histograms[family], first, end);
    return true;
}

void metrics_build(struct buf *out, const struct snapshot *snapshot)
{
    for (unsigned part = 0; metrics_build_part(out, snapshot, part);)
        part++;
}
