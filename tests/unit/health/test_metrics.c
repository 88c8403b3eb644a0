/* test_metrics.c - the texts of /metrics and /nodes, from numbers made by hand. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/text/buf.h"
#include "base/text/json.h"
#include "health/admin/metrics.h"
#include "health/admin/nodes_json.h"
#include "health/admin/snapshot.h"

static struct snapshot snapshot;
static struct buf out;

static void begin(void)
{
    snapshot.nodes = calloc(METRICS_MAX_NODES + 2, sizeof(*snapshot.nodes));
    snapshot.procs = calloc(4, sizeof(*snapshot.procs));
    cr_assert(snapshot.nodes != NULL && snapshot.procs != NULL);
    snapshot.now_mono_us = 100 * US_PER_S;
    snapshot.created_wall_ms = 1700000000500;
    snapshot.config_generation = 3;
}

static void end(void)
{
    snapshot_finish(&snapshot);
    buf_finish(&out);
}

TestSuite(metrics, .init = begin, .fini = end);

static struct snapshot_node *add_node(const char *name, enum node_state state, uint32_t slots)
{
    struct snapshot_node *node = &snapshot.nodes[snapshot.nodes_count++];

    (void)snprintf(node->info.name, sizeof(node->info.name), "%s", name);
    (void)snprintf(node->info.address, sizeof(node->info.address), "127.0.0.1:7001");
    node->info.generation = 1;
    node->info.slots = slots;
    node->info.engine = 1;
    node->status.state = state;
    node->status.success_fraction = 1.0f;
    return node;
}

Test(metrics, no_part_is_much_work_and_all_parts_are_the_text)
{
    struct buf parts = BUF_INIT;
    unsigned part = 0, nodes = 0;
    bool more = true;

    for (unsigned i = 0; i < METRICS_MAX_NODES; i++) {
        char name[64];

        (void)snprintf(name, sizeof(name), "a-node-with-a-rather-long-name-in-a-rack-%u", i);
        (void)add_node(name, NODE_UP, 4);
    }
    for (; more; part++) {
        size_t before = buf_size(&parts);

        more = metrics_build_part(&parts, &snapshot, part);
        cr_assert_lt(buf_size(&parts) - before, 500000u, "part %u", part);
    }
    metrics_build(&out, &snapshot);
    cr_assert_gt(buf_size(&out), 4000000u);
    cr_assert_eq(buf_size(&parts), buf_size(&out));
    cr_assert_eq(memcmp(buf_head(&parts), buf_head(&out), buf_size(&out)), 0);
    for (const char *at = (const char *)buf_head(&parts);
         (at = memmem(at, buf_size(&parts) - (size_t)(at - (const char *)buf_head(&parts)),
                      "gen_ai_server_request_duration_seconds_count{",
                      strlen("gen_ai_server_request_duration_seconds_count{"))) != NULL;
         at++)
        nodes++;
    cr_assert_eq(nodes, METRICS_MAX_NODES);
    buf_finish(&parts);
}

static struct snapshot_proc *add_worker(unsigned number, enum proc_state state)
{
    struct snapshot_proc *proc = &snapshot.procs[snapshot.procs_count++];

    (void)snprintf(proc->name, sizeof(proc->name), "worker%u", number);
    proc->worker = true;
    proc->view.state = state;
    return proc;
}

static void note(struct histogram *h, uint64_t us, uint64_t times)
{
    h->bucket[histogram_bucket(us)] += times;
    h->count += times;
    h->sum_us += us * times;
}

/* Is `line` one of the lines? */
static bool has(const char *line)
{
    const char *text = buf_cstr(&out);
    size_t n = strlen(line);

    for (const char *at = strstr(text, line); at != NULL; at = strstr(at + 1, line)) {
        if ((at == text || at[-1] == '\n') && at[n] == '\n')
            return true;
    }
    return false;
}

static unsigned lines_with(const char *start)
{
    unsigned count = 0;
    const char *text = buf_cstr(&out);

    for (const char *at = strstr(text, start); at != NULL; at = strstr(at + 1, start))
        count += at == text || at[-1] == '\n';
    return count;
}

Test(metrics, every_bound_is_an_edge_of_the_scoreboards_buckets)
{
    for (unsigned i = 0; i < METRICS_BOUNDS; i++) {
        unsigned b = histogram_bucket(metrics_bound_us[i]);

        cr_assert_eq(histogram_lower_us(b), metrics_bound_us[i], "bound %u", i);
        cr_assert(i == 0 || metrics_bound_us[i] > metrics_bound_us[i - 1]);
    }
}

Test(metrics, histograms_are_cumulative_and_end_at_the_count)
{
    struct histogram *h = &add_node("a", NODE_UP, 4)->histogram[STATS_TTFT];

    note(h, 100, 1);           /* under every bound */
    note(h, 1000, 2);          /* between 0.8 and 1.6 ms */
    note(h, 150000, 3);        /* between 102.4 and 204.8 ms */
    note(h, 3600000000ull, 4); /* over all bounds */
    metrics_build(&out, &snapshot);
    cr_assert(has("drover_node_ttft_seconds_bucket{node=\"a\",le=\"0.0008\"} 1"));
    cr_assert(has("drover_node_ttft_seconds_bucket{node=\"a\",le=\"0.0016\"} 3"));
    cr_assert(has("drover_node_ttft_seconds_bucket{node=\"a\",le=\"0.1024\"} 3"));
    cr_assert(has("drover_node_ttft_seconds_bucket{node=\"a\",le=\"0.2048\"} 6"));
    cr_assert(has("drover_node_ttft_seconds_bucket{node=\"a\",le=\"209.7152\"} 6"));
    cr_assert(has("drover_node_ttft_seconds_bucket{node=\"a\",le=\"+Inf\"} 10"));
    cr_assert(has("drover_node_ttft_seconds_count{node=\"a\"} 10"));
    /* 0.0001 + 0.002 + 0.45 + 14400 */
    cr_assert(has("drover_node_ttft_seconds_sum{node=\"a\"} 14400.4521"));
}

Test(metrics, a_sample_on_a_bound_counts_above_it)
{
    struct histogram h = {0};

    note(&h, 800, 1);
    cr_assert_eq(metrics_below(&h, 800), 0);
    cr_assert_eq(metrics_below(&h, 1600), 1);
}

Test(metrics, a_node_is_in_exactly_one_state)
{
    add_node("a", NODE_DRAINING, 4);
    metrics_build(&out, &snapshot);
    cr_assert(has("drover_node_state{node=\"a\",state=\"DRAINING\"} 1"));
    cr_assert(has("drover_node_state{node=\"a\",state=\"UP\"} 0"));
    cr_assert_eq(lines_with("drover_node_state{"), 7);
    cr_assert(has("drover_nodes{state=\"DRAINING\"} 1"));
    cr_assert(has("drover_nodes{state=\"UP\"} 0"));
}

Test(metrics, counters_gauges_and_totals_carry_their_numbers)
{
    struct snapshot_node *a = add_node("a", NODE_UP, 4);
    struct snapshot_node *b = add_node("b", NODE_DOWN, 2);
    struct snapshot_proc *w = add_worker(0, PROC_RUNNING);

    a->counter[STATS_DISPATCHED] = 12;
    a->counter[STATS_OK] = 9;
    a->counter[STATS_NODE_ERROR] = 3;
    a->counter[STATS_OVERTAKEN] = 2;
    a->counter[STATS_HEDGES] = 5;
    a->counter[STATS_HEDGES_WON] = 4;
    a->counter[STATS_OUTPUT_TOKENS] = 900;
    a->gauge.inflight = 6; /* two of them wait in the node */
    a->gauge.charged_us = 1500000;
    a->status.rtt_us = 1500;
    b->gauge.inflight = 1;
    w->requests_open = 9;
    w->requests_queued = 2;
    w->view.heartbeat_mono_us = snapshot.now_mono_us - 50000;
    w->view.counter[PROC_REQUESTS_TOTAL] = 77;
    snapshot.counts.gauge_audit_violations = 1;
    metrics_build(&out, &snapshot);
    cr_assert(has("drover_node_dispatched_total{node=\"a\"} 12"));
    cr_assert(has("drover_node_attempts_total{node=\"a\",outcome=\"ok\"} 9"));
    cr_assert(has("drover_node_attempts_total{node=\"a\",outcome=\"node_error\"} 3"));
    cr_assert(has("drover_node_attempts_total{node=\"a\",outcome=\"overtaken\"} 2"));
    cr_assert(has("drover_node_hedges_total{node=\"a\"} 5"));
    cr_assert(has("drover_node_hedges_won_total{node=\"a\"} 4"));
    cr_assert(has("drover_node_tokens_total{node=\"a\",kind=\"output\"} 900"));
    cr_assert(has("drover_node_requests_inflight{node=\"a\"} 6"));
    cr_assert(has("drover_node_backlog_seconds{node=\"a\"} 1.5"));
    cr_assert(has("drover_node_probe_rtt_seconds{node=\"a\"} 0.0015"));
    cr_assert(has("drover_node_checked_age_seconds{node=\"a\"} -1"), "never");
    cr_assert(has("drover_process_heartbeat_age_seconds{proc=\"worker0\"} 0.05"));
    cr_assert(has("drover_worker_requests_total{proc=\"worker0\"} 77"));
    cr_assert(has("drover_requests_open 9"));
    cr_assert(has("drover_requests_buffered 2"));
    cr_assert(has("drover_slots_processing 5"), "4 of a, 1 of b");
    cr_assert(has("drover_slots_total 4"), "b is down");
    cr_assert(has("drover_gauge_audit_violations_total 1"));
    cr_assert(has("drover_config_generation 3"));
    cr_assert(has("drover_started_seconds 1700000000.500"));
}

Test(metrics, genai_names_have_the_engine_and_the_only_model)
{
    struct snapshot_node *node = add_node("a", NODE_UP, 1);

    node->info.models_count = 2;
    (void)snprintf(node->info.models[0].id, NODE_MODEL_BYTES, "qwen");
    (void)snprintf(node->info.models[1].id, NODE_MODEL_BYTES, "qwen:latest");
    node->info.models[1].alias_of = 1;
    node->counter[STATS_OK] = 2;
    node->counter[STATS_PROMPT_TOKENS] = 30;
    metrics_build(&out, &snapshot);
    cr_assert(has("gen_ai_client_token_usage_sum{gen_ai_operation_name=\"any\","
                  "gen_ai_provider_name=\"llama-server\",gen_ai_request_model=\"qwen\","
                  "gen_ai_response_model=\"qwen\",server_address=\"a\","
                  "gen_ai_token_type=\"input\"} 30"));
    cr_assert_eq(lines_with("gen_ai_server_time_to_first_token_seconds_bucket{"),
                 METRICS_BOUNDS + 1);
    node->info.models[1].alias_of = 0;
    buf_reset(&out);
    metrics_build(&out, &snapshot);
    cr_assert_eq(
        lines_with("gen_ai_server_request_duration_seconds_count{"
                   "gen_ai_operation_name=\"any\",gen_ai_provider_name=\"llama-server\","
                   "gen_ai_request_model=\"\""),
        1, "two models: which one is not known");
}

Test(metrics, label_values_are_escaped)
{
    struct snapshot_node *node = add_node("a", NODE_UP, 1);

    (void)snprintf(node->info.engine_version, NODE_VERSION_BYTES, "b\"1\\2\n3");
    metrics_build(&out, &snapshot);
    cr_assert(strstr(buf_cstr(&out), "engine_version=\"b\\\"1\\\\2\\n3\"") != NULL);
}

Test(metrics, too_many_nodes_are_left_out_and_counted)
{
    for (unsigned i = 0; i < METRICS_MAX_NODES + 2; i++)
        add_node("n", NODE_UP, 1);
    metrics_build(&out, &snapshot);
    cr_assert(has("drover_metrics_nodes_omitted 2"));
    cr_assert_eq(lines_with("drover_node_slots{"), METRICS_MAX_NODES);
    cr_assert(has("drover_nodes{state=\"UP\"} 258"), "totals count all of them");
}

Test(metrics, every_metric_is_introduced_once_before_its_samples)
{
    const char *text;

    add_node("a", NODE_UP, 1);
    add_node("b", NODE_UP, 1);
    add_worker(0, PROC_RUNNING);
    metrics_build(&out, &snapshot);
    text = buf_cstr(&out);
    for (const char *at = strstr(text, "# TYPE "); at != NULL; at = strstr(at + 1, "# TYPE ")) {
        char line[200];
        size_t n = strcspn(at + 7, " ");

        (void)snprintf(line, sizeof(line), "# TYPE %.*s ", (int)n, at + 7);
        cr_assert_eq(lines_with(line), 1, "%s", line);
        (void)snprintf(line, sizeof(line), "# HELP %.*s ", (int)n, at + 7);
        cr_assert_eq(lines_with(line), 1, "%s", line);
    }
}

Test(metrics, nodes_json_is_json_with_the_numbers_in_it)
{
    struct snapshot_node *node = add_node("a", NODE_UP, 4);
    struct json_value root, nodes, value, key;
    struct json_iter it;
    uint64_t number = 0;
    double real = 0;

    node->info.models_count = 1;
    (void)snprintf(node->info.models[0].id, NODE_MODEL_BYTES, "qu\"en");
    node->info.models[0].operations = 0x6;
    node->gauge.inflight = 3;
    node->status.since_mono_us = snapshot.now_mono_us - 2500000;
    node->status.report_mono_us = snapshot.now_mono_us;
    node->status.kv_used_fraction = 0.25f;
    note(&node->histogram[STATS_E2E], 1000000, 10);
    nodes_json_build(&out, &snapshot);
    cr_assert_eq(json_check(&root, buf_head(&out), buf_size(&out), NULL), 0);
    nodes = json_get(&root, "nodes");
    json_iter_init(&it, &nodes);
    cr_assert(json_iter_next(&it, &key, &value));
    nodes = json_get(&value, "inflight");
    cr_assert(json_uint(&number, &nodes, 100));
    cr_assert_eq(number, 3);
    nodes = json_get(&value, "state_age_ms");
    cr_assert(json_uint(&number, &nodes, 10000));
    cr_assert_eq(number, 2500);
    nodes = json_get(&value, "state");
    cr_assert(json_equal(&nodes, "UP"));
    nodes = json_get(&value, "reported");
    nodes = json_get(&nodes, "kv_used_fraction");
    cr_assert(json_number(&real, &nodes));
    cr_assert(real == 0.25);
    nodes = json_get(&value, "models");
    json_iter_init(&it, &nodes);
    cr_assert(json_iter_next(&it, &key, &value));
    nodes = json_get(&value, "id");
    cr_assert(json_equal(&nodes, "qu\"en"));
    nodes = json_get(&value, "operations");
    json_iter_init(&it, &nodes);
    cr_assert(json_iter_next(&it, &key, &value));
    cr_assert(json_equal(&value, "chat_completions"));
}

Test(metrics, without_nodes_both_texts_are_still_whole)
{
    struct json_value root;

    metrics_build(&out, &snapshot);
    cr_assert(has("drover_slots_total 0"));
    buf_reset(&out);
    nodes_json_build(&out, &snapshot);
    cr_assert_eq(json_check(&root, buf_head(&out), buf_size(&out), NULL), 0);
}
