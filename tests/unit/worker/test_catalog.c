/* test_catalog.c - the nodes' models, added up from a real scoreboard. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/config/config.h"
#include "base/error.h"
#include "base/kinds.h"
#include "base/text/buf.h"
#include "proto/drover_common.pb-c.h"
#include "shm/scoreboard.h"
#include "worker/api/catalog.h"

#define READY    DROVER__V1__MODEL_STATE__MODEL_STATE_READY
#define LOADABLE DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE
#define FAILED   DROVER__V1__MODEL_STATE__MODEL_STATE_FAILED
#define LLAMA    DROVER__V1__ENGINE_KIND__ENGINE_KIND_LLAMA_SERVER
#define OLLAMA   DROVER__V1__ENGINE_KIND__ENGINE_KIND_OLLAMA
#define SIM      DROVER__V1__ENGINE_KIND__ENGINE_KIND_SIMULATED

static struct scoreboard *board;
static struct catalog catalog;
static struct config config;

static void setup(void)
{
    struct scoreboard_params params = {
        .max_nodes = 8, .max_workers = 1, .requests_per_worker = 4};
    struct error err = {0};
    char path[64];

    (void)snprintf(path, sizeof(path), "/tmp/drover-test-catalog-%d", (int)getpid());
    cr_assert_eq(scoreboard_create(&board, path, &params, &err), 0, "%s", err.text);
    (void)unlink(path);
}

static void teardown(void)
{
    catalog_finish(&catalog);
    scoreboard_detach(board);
}

TestSuite(catalog, .init = setup, .fini = teardown);

static struct node_model model(const char *id, uint32_t state, uint32_t max_context)
{
    struct node_model m = {.state = state, .max_context = max_context};

    (void)strlcpy(m.id, id, sizeof(m.id));
    return m;
}

static void add_node(enum node_state state, uint32_t engine, const struct node_model *models,
                     uint32_t n)
{
    struct node_info info = {.slots = 1, .engine = engine, .models_count = n};
    int node = nodes_claim(board, 1);

    cr_assert_geq(node, 0);
    (void)snprintf(info.name, sizeof(info.name), "n%d", node);
    memcpy(info.models, models, n * sizeof(*models));
    nodes_publish(board, (unsigned)node, &info);
    nodes_set_state(board, (unsigned)node, state, NODE_REASON_PROBES_PASS, 1);
    catalog_refresh(&catalog, board, &config);
}

Test(catalog, without_nodes_there_is_no_model)
{
    catalog_refresh(&catalog, board, &config);
    cr_expect_eq(catalog.count, 0);
    cr_expect_null(catalog_default(&catalog, &config));
    cr_expect_null(catalog_find(&catalog, &config, "a"));
}

Test(catalog, a_model_can_what_any_of_its_nodes_can)
{
    struct node_model m = model("a", READY, 8192);

    m.lacks = ABILITY_BIT(ABILITY_VISION) | ABILITY_BIT(ABILITY_AUDIO);
    add_node(NODE_UP, LLAMA, &m, 1);
    m.max_context = 4096;
    m.has = ABILITY_BIT(ABILITY_VISION);
    m.lacks = ABILITY_BIT(ABILITY_AUDIO);
    add_node(NODE_UP, SIM, &m, 1);
    m.max_context = 1024;
    add_node(NODE_DOWN, LLAMA, &m, 1);
    cr_assert_eq(catalog.count, 1);
    cr_expect_eq(catalog.models[0].max_context, 8192);
    cr_expect_eq(catalog.models[0].has, ABILITY_BIT(ABILITY_VISION));
    cr_expect_eq(catalog.models[0].lacks, ABILITY_BIT(ABILITY_AUDIO));
    cr_expect(catalog.models[0].able);
    cr_expect(catalog.models[0].loaded);
    cr_expect(!catalog.models[0].simulated, "one of its nodes is real");
    m.max_context = 0; /* does not know its own: no limit is made up for it */
    add_node(NODE_UP, LLAMA, &m, 1);
    cr_expect_eq(catalog.models[0].max_context, 8192);
}

Test(catalog, a_model_whose_nodes_are_briefly_down_stays_listed)
{
    struct node_model models[] = {model("a", READY, 10), model("broken", FAILED, 10)};

    add_node(NODE_DOWN, SIM, models, 2);
    cr_assert_eq(catalog.count, 1);
    cr_expect_str_eq(catalog.models[0].id, "a");
    cr_expect(!catalog.models[0].able);
    cr_expect(!catalog.models[0].loaded);
    cr_expect(catalog.models[0].simulated);
    cr_expect_eq(catalog.models[0].max_context, 10);
    nodes_set_state(board, 0, NODE_GONE, NODE_REASON_LEAVING, 2);
    catalog_refresh(&catalog, board, &config);
    cr_expect_eq(catalog.count, 0);
}

Test(catalog, aliases_are_listed_and_do_not_count_as_models)
{
    struct config_alias aliases[] = {{(char *)"gpt-4o", (char *)"b"},
                                     {(char *)"x", (char *)"?"}};
    struct node_model models[] = {model("b", LOADABLE, 0), model("b:latest", LOADABLE, 0)};

    models[1].alias_of = 1;
    config = (struct config){.aliases = aliases, .aliases_count = 2};
    add_node(NODE_UP, LLAMA, models, 2);
    cr_assert_eq(catalog.count, 3);
    cr_expect_str_eq(catalog.models[0].id, "b");
    cr_expect_str_eq(catalog.models[1].id, "b:latest");
    cr_expect_str_eq(catalog.models[2].id, "gpt-4o");
    cr_expect_str_eq(catalog_default(&catalog, &config), "b");
    cr_expect_eq(catalog_find(&catalog, &config, "gpt-4o"), &catalog.models[2]);
    cr_expect(!catalog.models[0].loaded);
    models[0] = model("c", READY, 0);
    add_node(NODE_UP, LLAMA, models, 1);
    cr_expect_null(catalog_default(&catalog, &config), "there are two now");
    aliases[1] = (struct config_alias){(char *)"*", (char *)"b"};
    cr_expect_str_eq(catalog_default(&catalog, &config), "b");
}

Test(catalog, a_name_finds_the_model_that_ollama_takes_it_for)
{
    struct config_alias aliases[] = {{(char *)"boss", (char *)"qwen"},
                                     {(char *)"none", (char *)"exact"}};
    struct node_model ollamas[] = {model("Qwen:latest", READY, 0), model("Qwen", READY, 0)};
    struct node_model others[] = {model("Exact", READY, 0), model("Both:latest", READY, 0)};

    ollamas[1].alias_of = 1;
    config = (struct config){.aliases = aliases, .aliases_count = 2};
    add_node(NODE_UP, OLLAMA, ollamas, 2);
    add_node(NODE_UP, LLAMA, others, 2);
    add_node(NODE_UP, OLLAMA, others + 1, 1);
    cr_assert_not_null(catalog_find(&catalog, &config, "library/qwen"));
    cr_expect_not_null(catalog_find(&catalog, &config, "QWEN:latest"));
    cr_expect_not_null(catalog_find(&catalog, &config, "boss"), "as an alias of it does");
    cr_expect_null(catalog_find(&catalog, &config, "Boss"), "an alias is itself alone");
    cr_expect_null(catalog_find(&catalog, &config, "none"));
    cr_expect_null(catalog_find(&catalog, &config, "exact"),
                   "other engines compare every byte");
    cr_expect_null(catalog_find(&catalog, &config, "both"), "one of its engines does");
    cr_expect_not_null(catalog_find(&catalog, &config, "Both:latest"));
}

Test(catalog, errors_say_of_what_a_name_is_an_alias)
{
    static struct config_alias aliases[] = {
        {(char *)"gone", (char *)"nosuch"}, {(char *)"pool", (char *)"a"},
        {(char *)"pool", (char *)"b"},      {(char *)"many", (char *)"a"},
        {(char *)"many", (char *)"b"},      {(char *)"many", (char *)"c"},
        {(char *)"many", (char *)"d"},      {(char *)"claude-*", (char *)"big"},
    };
    static const struct {
        const char *id, *missing, *name;
    } cases[] = {
        {"gone", "'gone' is an alias of 'nosuch', which no node has",
         "'gone' (an alias of 'nosuch')"},
        {"gone:latest", "'gone:latest' is an alias of 'nosuch', which no node has",
         "'gone:latest' (an alias of 'nosuch')"},
        {"pool", "'pool' is an alias of 'a', 'b', which no node has",
         "'pool' (an alias of 'a', 'b')"},
        {"many", "'many' is an alias of 'a', 'b', 'c' and 1 more, which no node has",
         "'many' (an alias of 'a', 'b', 'c' and 1 more)"},
        {"claude-x", "'claude-x' is an alias ('claude-*') of 'big', which no node has",
         "'claude-x' (an alias ('claude-*') of 'big')"},
        {"big", "The model 'big' does not exist", "'big'"},
        {"a", "The model 'a' does not exist", "'a'"},
    };
    struct config named = {.aliases = aliases, .aliases_count = 8};
    struct buf out = BUF_INIT;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        buf_reset(&out);
        catalog_say_missing(&out, &named, cases[i].id);
        cr_expect_str_eq(buf_cstr(&out), cases[i].missing);
        buf_reset(&out);
        catalog_say_name(&out, &named, cases[i].id);
        cr_expect_str_eq(buf_cstr(&out), cases[i].name);
    }
    buf_reset(&out);
    catalog_say_missing(&out, NULL, "gone");
    cr_expect_str_eq(buf_cstr(&out), "The model 'gone' does not exist");
    buf_finish(&out);
}
