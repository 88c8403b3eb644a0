/* test_upstreams.c - the worker's picture of the nodes follows the table, and copies what
 * moved. */
#include "worker/upstreams/upstreams.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "base/text/buf.h"
#include "proto/drover_common.pb-c.h"
#include "shm/facts/nodes.h"
#include "shm/facts/procs.h"
#include "shm/scoreboard.h"
#include "shm/segment.h"
#include "shm/share/gauges.h"
#include "worker/http/client_request.h"
#include "worker/upstreams/servable.h"

#define NODES   64
#define MODELS  40 /* of each node; node i also has one of its own */
#define MANY_US UINT64_C(1000000)

static struct loop loop;
static struct scoreboard *board;
static struct config config;
static struct upstreams *upstreams;
static char folder[] = "/tmp/drover-upstreams-XXXXXX";
static unsigned changes;
static bool models_changed; /* as the last one said */

static void on_change(void *data, bool models)
{
    (void)data;
    models_changed = models;
    changes++;
}

/* As at the first turn of a time in which renewals are due. */
static void renew(void)
{
    loop.now_mono_us += MANY_US;
    upstreams_renew(upstreams);
}

static struct node_info describe(unsigned node)
{
    struct node_info info = {.slots = 4, .weight = 100, .models_count = MODELS + 1};

    (void)snprintf(info.name, sizeof(info.name), "node-%u", node);
    (void)strlcpy(info.address, "127.0.0.1:7000", sizeof(info.address));
    for (unsigned m = 0; m < MODELS; m++)
        (void)snprintf(info.models[m].id, sizeof(info.models[m].id), "shared-%u", m);
    (void)snprintf(info.models[MODELS].id, sizeof(info.models[MODELS].id), "own-%u", node);
    return info;
}

static unsigned add_node(unsigned number)
{
    struct node_info info = describe(number);
    int node = nodes_claim(board, 1);

    cr_assert_geq(node, 0);
    nodes_publish(board, (unsigned)node, &info);
    /* Not UP: no connection is made. */
    nodes_set_state(board, (unsigned)node, NODE_DOWN, NODE_REASON_CONNECT_FAILED, 1);
    return (unsigned)node;
}

static void set_up(void)
{
    struct scoreboard_params params = {
        .max_nodes = NODES, .max_workers = 1, .requests_per_worker = 1};
    struct error err = {0};
    char path[64];

    cr_assert_not_null(mkdtemp(folder));
    (void)snprintf(path, sizeof(path), "%s/board", folder);
    cr_assert_eq(scoreboard_create(&board, path, &params, &err), 0, "%s", err.text);
    cr_assert_eq(loop_init(&loop, &err), 0, "%s", err.text);
    loop.now_mono_us = MANY_US;
    cr_assert_eq(upstreams_create(&upstreams, &loop, &config, board, 0, on_change, NULL, &err),
                 0, "%s", err.text);
    for (unsigned i = 0; i < NODES - 1; i++)
        (void)add_node(i);
    (void)unlink(path);
    (void)rmdir(folder);
    renew();
}

static void tear_down(void)
{
    upstreams_destroy(upstreams);
    loop_finish(&loop);
    scoreboard_detach(board);
}

TestSuite(upstreams, .init = set_up, .fini = tear_down);

Test(upstreams, every_model_knows_all_nodes_that_serve_it)
{
    char id[32];

    for (unsigned m = 0; m < MODELS; m++) {
        (void)snprintf(id, sizeof(id), "shared-%u", m);
        cr_assert_not_null(upstreams_find(upstreams, id), "%s", id);
        cr_assert_eq(upstreams_find(upstreams, id)->servers_count, NODES - 1, "%s", id);
    }
    for (unsigned i = 0; i < NODES - 1; i++) {
        (void)snprintf(id, sizeof(id), "own-%u", i);
        cr_assert_not_null(upstreams_find(upstreams, id), "%s", id);
        cr_assert_eq(upstreams_find(upstreams, id)->servers_count, 1, "%s", id);
        cr_assert_eq(upstreams_find(upstreams, id)->servers[0].node_id, i, "%s", id);
    }
    cr_assert_null(upstreams_find(upstreams, "nobody-has-it"));
}

Test(upstreams, the_own_word_in_the_gauges_of_a_node_is_of_its_generation)
{
    struct node_info info = describe(0);

    cr_assert_eq(SB_GAUGE_GENERATION(segment_gauges(board, 0)[0]), 1);
    cr_assert(gauges_claim(board, 0, 0, 1, 5, 9));
    nodes_publish(board, 0, &info);
    renew();
    cr_assert_eq(gauges_sum(board, 0, 1).inflight, 1, "it is no new node");
    nodes_set_state(board, 0, NODE_GONE, NODE_REASON_LEAVING, 2);
    renew();
    (void)add_node(NODES - 1); /* the last row that was free */
    cr_assert_eq(add_node(0), 0);
    renew();
    cr_assert_eq(SB_GAUGE_GENERATION(segment_gauges(board, 0)[0]), 2);
    cr_assert_eq(gauges_sum(board, 0, 2).inflight, 0);
}

Test(upstreams, a_node_that_changes_its_state_leaves_the_models_as_they_are)
{
    const struct upstream_model *model = upstreams_find(upstreams, "shared-0");
    const struct upstream_server *servers = model->servers;
    unsigned before = changes;

    nodes_set_state(board, 5, NODE_EJECTED, NODE_REASON_FAILURES, 2);
    renew();
    cr_assert_eq(changes, before + 1, "the queue hears of it");
    cr_assert_not(models_changed);
    cr_assert_eq(servers[5].node->state, NODE_EJECTED);
    cr_assert_eq(upstreams_find(upstreams, "shared-0"), model, "all models were made anew");
    cr_assert_eq(model->servers, servers);
}

Test(upstreams, the_picture_is_current_until_a_node_comes_up_that_it_lacks)
{
    cr_assert(upstreams_are_current(upstreams));
    (void)add_node(NODES - 1);
    cr_assert_not(upstreams_are_current(upstreams));
    renew();
    cr_assert(upstreams_are_current(upstreams));
}

Test(upstreams, changes_of_a_node_are_taken_and_nothing_of_the_others)
{
    const struct upstream *other = upstreams_find(upstreams, "own-7")->servers[0].node;
    struct node_info info = describe(5);

    info.slots = 9;
    info.models_count = 1; /* shared-0 */
    nodes_publish(board, 5, &info);
    renew();
    cr_assert(models_changed);
    cr_assert_null(upstreams_find(upstreams, "own-5"));
    cr_assert_eq(upstreams_find(upstreams, "shared-0")->servers[5].slots, 9);
    cr_assert_eq(upstreams_find(upstreams, "shared-1")->servers_count, NODES - 2);
    cr_assert_eq(upstreams_find(upstreams, "own-7")->servers[0].node, other);
}

Test(upstreams, a_newcomer_finds_a_model_that_came_since_the_last_renewal)
{
    unsigned before;

    nodes_set_state(board, 5, NODE_EJECTED, NODE_REASON_FAILURES, 2);
    renew();
    before = changes;
    (void)add_node(200);
    upstreams_renew(upstreams);
    cr_assert_null(upstreams_find(upstreams, "own-200"), "renewals have a pause between them");
    cr_assert_not_null(upstreams_find_fresh(upstreams, "own-200"));
    cr_assert_null(upstreams_find_fresh(upstreams, "none has it"));
    cr_assert_eq(changes, before + 1);
}

Test(upstreams, a_node_that_goes_takes_what_only_it_had_with_it_and_another_may_have_its_row)
{
    uint32_t generation = upstreams_find(upstreams, "own-5")->servers[0].generation;

    nodes_release(board, 5);
    renew();
    cr_assert_eq(upstreams_size(upstreams), NODES - 2);
    cr_assert_null(upstreams_find(upstreams, "own-5"));
    cr_assert_null(upstreams_at(upstreams, 5, generation));
    cr_assert_eq(add_node(100), 5);
    renew();
    cr_assert_eq(upstreams_find(upstreams, "own-100")->servers[0].node_id, 5);
    cr_assert_neq(upstreams_find(upstreams, "own-100")->servers[0].generation, generation);
    cr_assert_eq(upstreams_size(upstreams), NODES - 1);
}

Test(upstreams, lessons_of_a_model_outlive_a_change_of_its_nodes)
{
    upstreams_find(upstreams, "shared-3")->bytes_per_token = 2.5;
    nodes_release(board, 5);
    renew();
    cr_assert_eq(upstreams_find(upstreams, "shared-3")->bytes_per_token, 2.5);
}

Test(upstreams, an_engine_that_loads_may_load_another_model_than_it_had)
{
    config.limits.load_ms = 900000;
    nodes_set_state(board, 3, NODE_DOWN, NODE_REASON_ENGINE_LOADING, 1);
    cr_expect(upstreams_models_unknown(upstreams));
    nodes_set_state(board, 3, NODE_UP, NODE_REASON_PROBES_PASS, 1);
    cr_expect_not(upstreams_models_unknown(upstreams));
}

Test(upstreams, former_nodes_have_twelve_seconds_to_come_back)
{
    struct sb_proc *master = segment_proc(board, procs_master_index(board));

    cr_expect_not(upstreams_models_unknown(upstreams), "no node joins by itself");
    config.registry.listen.address = (char *)(uintptr_t) "127.0.0.1:8082";
    cr_expect_not(upstreams_models_unknown(upstreams),
                  "the worker is new, and the nodes are not");
    master->started_mono_us = loop_now_us(&loop);
    cr_expect(upstreams_models_unknown(upstreams));
    loop.now_mono_us += 12 * US_PER_S - 1;
    cr_expect(upstreams_models_unknown(upstreams), "one was sent away before the start");
    loop.now_mono_us++;
    cr_expect_not(upstreams_models_unknown(upstreams));
    config.registry.listen.address = NULL;
}

Test(upstreams, an_engine_that_loads_for_longer_than_a_load_may_take_makes_no_model_unknown)
{
    config.limits.load_ms = 900000;
    loop.now_mono_us = 3600 * US_PER_S;
    nodes_set_state(board, 3, NODE_DOWN, NODE_REASON_ENGINE_LOADING, loop_now_us(&loop));
    loop.now_mono_us += 899 * US_PER_S;
    cr_expect(upstreams_models_unknown(upstreams), "it was down for an hour before");
    loop.now_mono_us += US_PER_S;
    cr_expect_not(upstreams_models_unknown(upstreams));
}

static bool may_have(enum node_state state, enum node_reason reason, unsigned minutes)
{
    struct node_status status = {.state = state,
                                 .reason = reason,
                                 .since_mono_us = US_PER_S,
                                 .reason_mono_us = US_PER_S};

    return upstreams_may_have_any(&status, 900 * US_PER_S, US_PER_S + minutes * 60 * US_PER_S);
}

Test(upstreams, a_machine_that_stays_off_makes_no_model_unknown)
{
    cr_expect(may_have(NODE_JOINING, NODE_REASON_ENGINE_DOWN, 4));
    cr_expect(may_have(NODE_DOWN, NODE_REASON_ENGINE_DOWN, 4));
    cr_expect_not(may_have(NODE_JOINING, NODE_REASON_ENGINE_DOWN, 5));
    cr_expect_not(may_have(NODE_DOWN, NODE_REASON_ENGINE_DOWN, 5));
    cr_expect(may_have(NODE_DOWN, NODE_REASON_ENGINE_LOADING, 14), "it says that it will");
    cr_expect_not(may_have(NODE_DOWN, NODE_REASON_ENGINE_LOADING, 15), "for ages");
    cr_expect_not(may_have(NODE_JOINING, NODE_REASON_ENGINE_LOADING, 15));
    cr_expect(may_have(NODE_JOINING, NODE_REASON_NONE, 0));
    cr_expect_not(may_have(NODE_JOINING, NODE_REASON_NONE, 1));
    cr_expect_not(may_have(NODE_JOINING, NODE_REASON_NO_MODELS, 0), "it has said so");
    cr_expect_not(may_have(NODE_UP, NODE_REASON_NONE, 0));
}

Test(upstreams, a_state_that_is_newer_than_this_turn_is_new)
{
    struct node_status status = {.state = NODE_DOWN,
                                 .reason = NODE_REASON_ENGINE_LOADING,
                                 .since_mono_us = US_PER_S,
                                 .reason_mono_us = US_PER_S};

    cr_expect(upstreams_may_have_any(&status, US_PER_S, US_PER_S - 1));
    status.reason = NODE_REASON_ENGINE_DOWN;
    cr_expect(upstreams_may_have_any(&status, US_PER_S, US_PER_S - 1));
    status.state = NODE_JOINING;
    status.reason = NODE_REASON_NONE;
    cr_expect(upstreams_may_have_any(&status, US_PER_S, US_PER_S - 1));
}

Test(upstreams, a_request_finds_an_ollamas_model_by_the_name_that_it_came_to_have)
{
    static struct node_info info;
    struct client_request request = {.model = "OWN-3"};
    struct buf message = BUF_INIT;

    cr_expect_eq(servable_check(upstreams, &request, 0, &message), API_ERROR_MODEL_NOT_FOUND);
    info = describe(3);
    info.engine = DROVER__V1__ENGINE_KIND__ENGINE_KIND_OLLAMA;
    info.models[MODELS].operations = 1u << request.operation;
    nodes_publish(board, 3, &info);
    renew();
    cr_expect_eq(servable_check(upstreams, &request, 0, &message), API_ERROR_NONE);
    cr_expect_str_eq(request.model, "OWN-3");
    buf_finish(&message);
}

Test(upstreams, an_ollama_has_the_context_that_a_request_wants)
{
    static struct node_info info;
    const struct abilities_known *known;

    info = describe(0);
    info.engine = DROVER__V1__ENGINE_KIND__ENGINE_KIND_OLLAMA;
    info.models[0].max_context = 8192;
    info.models[0].largest_context = 32768;
    info.models[0].state = DROVER__V1__MODEL_STATE__MODEL_STATE_READY;
    info.models[1].state = DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE;
    nodes_publish(board, 0, &info);
    renew();
    known = &upstreams_find(upstreams, "shared-0")->servers[0].known;
    cr_assert_eq(known->context_tokens, 8192);
    cr_assert_eq(known->largest_context, 32768);
    known = &upstreams_find(upstreams, "shared-1")->servers[0].known;
    cr_assert_eq(known->context_tokens, ABILITIES_DEFAULT_CONTEXT, "it is not loaded");
    cr_assert_eq(known->largest_context, ABILITIES_ANY_CONTEXT);
    known = &upstreams_find(upstreams, "shared-0")->servers[1].known;
    cr_assert_eq(known->largest_context, 0, "another kind of engine");
    cr_assert_eq(known->context_tokens, 0);
}
