/* test_identity.c - what nodes say of themselves, in and out of bounds. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/kinds.h"
#include "health/registry/identity.h"

static struct node_info info;
static struct error err;

static Drover__V1__Model model(const char *id)
{
    Drover__V1__Model m = DROVER__V1__MODEL__INIT;

    m.id = (char *)id;
    return m;
}

static int models(Drover__V1__Model *list, size_t n)
{
    static Drover__V1__Model *at[NODE_MAX_MODELS + 1];

    for (size_t i = 0; i < n; i++)
        at[i] = &list[i];
    return identity_models(&info, at, n, &err);
}

Test(identity, a_model_without_operations_does_chat_and_completions)
{
    Drover__V1__Model m = model("qwen");

    m.state = DROVER__V1__MODEL_STATE__MODEL_STATE_READY;
    m.max_context_tokens = 4096;
    cr_assert_eq(models(&m, 1), 0);
    cr_assert_eq(info.models_count, 1);
    cr_assert_str_eq(info.models[0].id, "qwen");
    cr_assert_eq(info.models[0].operations, 0x6, "bits 1 and 2");
    cr_assert_eq(info.models[0].state, 1);
    cr_assert_eq(info.models[0].max_context, 4096);
    cr_assert_eq(info.models[0].alias_of, 0);
}

Test(identity, operations_of_a_newer_version_are_ignored)
{
    Drover__V1__Operation ops[] = {DROVER__V1__OPERATION__OPERATION_EMBEDDINGS,
                                   (Drover__V1__Operation)32, (Drover__V1__Operation)4000};
    Drover__V1__Model m = model("embed");

    m.operations = ops;
    m.n_operations = 3;
    m.state = (Drover__V1__ModelState)99;
    cr_assert_eq(models(&m, 1), 0);
    cr_assert_eq(info.models[0].operations, 0x8);
    cr_assert_eq(info.models[0].state, 0);
    m.operations = ops + 1;
    m.n_operations = 2;
    cr_assert_eq(models(&m, 1), 0);
    cr_assert_eq(info.models[0].operations, 0, "it said what it does, and we know none of it");
}

Test(identity, abilities_are_those_that_an_engine_can_know)
{
    Drover__V1__Ability has[] = {DROVER__V1__ABILITY__ABILITY_VISION,
                                 DROVER__V1__ABILITY__ABILITY_ACCESS,
                                 (Drover__V1__Ability)4000};
    Drover__V1__Ability lacks[] = {DROVER__V1__ABILITY__ABILITY_VISION,
                                   DROVER__V1__ABILITY__ABILITY_AUDIO};
    Drover__V1__Model m = model("eyes");

    m.has = has;
    m.n_has = 3;
    m.lacks = lacks;
    m.n_lacks = 2;
    cr_assert_eq(models(&m, 1), 0);
    cr_assert_eq(info.models[0].has, ABILITY_BIT(ABILITY_VISION));
    cr_assert_eq(info.models[0].lacks, ABILITY_BIT(ABILITY_AUDIO),
                 "what it has it does not lack");
}

Test(identity, aliases_follow_the_models_and_point_at_theirs)
{
    char *of_b[] = {"b:latest", "a", "b"};
    Drover__V1__Model list[] = {model("a"), model("b")};

    list[1].aliases = of_b;
    list[1].n_aliases = 3;
    list[1].max_context_tokens = 77;
    cr_assert_eq(models(list, 2), 0);
    cr_assert_eq(info.models_count, 3, "an alias that is a model's name adds nothing");
    cr_assert_str_eq(info.models[2].id, "b:latest");
    cr_assert_eq(info.models[2].alias_of, 2, "1 + index");
    cr_assert_eq(info.models[2].max_context, 77);
}

Test(identity, values_over_a_limit_are_refused)
{
    char long_id[NODE_MODEL_BYTES + 1];
    char *aliases[17] = {0};
    Drover__V1__Model twice[] = {model("a"), model("a")};
    Drover__V1__Model m = model("");

    memset(long_id, 'x', NODE_MODEL_BYTES);
    long_id[NODE_MODEL_BYTES] = '\0';
    cr_assert_eq(models(&m, 1), DRV_EINVAL, "empty");
    m = model("a\nb");
    cr_assert_eq(models(&m, 1), DRV_EINVAL, "control byte");
    m = model(long_id);
    cr_assert_eq(models(&m, 1), DRV_EINVAL, "256 bytes");
    m = model(long_id + 1);
    cr_assert_eq(models(&m, 1), 0, "255 bytes fit");
    cr_assert_eq(models(twice, 2), DRV_EINVAL, "twice");
    m = model("m");
    for (size_t i = 0; i < 17; i++)
        aliases[i] = "x";
    m.aliases = aliases;
    m.n_aliases = 17;
    cr_assert_eq(models(&m, 1), DRV_EINVAL, "17 aliases");
}

Test(identity, a_full_list_of_models_leaves_no_room_for_aliases)
{
    static char names[NODE_MAX_MODELS + 1][8];
    static Drover__V1__Model list[NODE_MAX_MODELS + 1];
    char *alias[] = {"other"};

    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        (void)snprintf(names[i], sizeof(names[i]), "m%zu", i);
        list[i] = model(names[i]);
    }
    list[0].aliases = alias;
    list[0].n_aliases = 1;
    cr_assert_eq(models(list, NODE_MAX_MODELS), 0);
    cr_assert_eq(info.models_count, NODE_MAX_MODELS);
    cr_assert_str_eq(info.models[NODE_MAX_MODELS - 1].id, names[NODE_MAX_MODELS - 1]);
    cr_assert_eq(models(list, ARRAY_LEN(list)), DRV_EINVAL);
}

Test(identity, capacity_is_bounded_and_never_zero_slots)
{
    Drover__V1__Capacity c = DROVER__V1__CAPACITY__INIT;

    identity_capacity(&info, NULL);
    cr_assert_eq(info.slots, 1);
    cr_assert_eq(info.queue, 0);
    identity_capacity(&info, &c);
    cr_assert_eq(info.slots, 1);
    c.slots = 5;
    c.queue = 100;
    c.prefill_tokens_per_s = NAN;
    c.decode_tokens_per_s = 40.0f;
    c.max_request_bytes = 5 << 20;
    c.max_body_bytes = 100 << 20;
    identity_capacity(&info, &c);
    cr_assert_eq(info.slots, 5);
    cr_assert_eq(info.queue, 3, "half of 5, rounded up");
    cr_assert(info.prefill_tokens_per_s == 0.0f);
    cr_assert(info.decode_tokens_per_s == 40.0f);
    cr_assert_eq(info.max_request_bytes, 5 << 20);
    cr_assert_eq(info.max_body_bytes, 100 << 20);
    c.slots = UINT32_MAX;
    c.max_request_bytes = UINT64_MAX;
    c.max_body_bytes = UINT64_MAX;
    identity_capacity(&info, &c);
    cr_assert_eq(info.slots, IDENTITY_MAX_SLOTS);
    cr_assert_eq(info.max_request_bytes, UINT32_MAX);
    cr_assert_eq(info.max_body_bytes, UINT32_MAX);
    identity_capacity(&info, NULL);
    cr_assert_eq(info.max_request_bytes, 0, "unknown");
    cr_assert_eq(info.max_body_bytes, 0, "no parts");
}

Test(identity, the_configuration_overrides_what_the_node_reports)
{
    Drover__V1__Capacity c = DROVER__V1__CAPACITY__INIT;

    c.slots = 8;
    c.queue = 8;
    identity_capacity(&info, &c);
    identity_override(&info, 0, -1);
    cr_assert_eq(info.slots, 8);
    cr_assert_eq(info.queue, 4);
    identity_override(&info, 2, -1);
    cr_assert_eq(info.slots, 2);
    cr_assert_eq(info.queue, 1);
    identity_override(&info, 2, 9);
    cr_assert_eq(info.queue, 9);
    identity_override(&info, 0, 0);
    cr_assert_eq(info.queue, 0, "0 is a real value");
}

Test(identity, a_long_version_is_cut_between_characters)
{
    char version[] = "0123456789012345678901234567890123456789012345678901234567890"
                     "1\xc3\xa9\xc3\xa9"; /* 62 digits, then e-acute twice */

    cr_assert_eq(identity_versions(&info, DROVER__V1__ENGINE_KIND__ENGINE_KIND_VLLM, version,
                                   "0.1.0", &err),
                 0);
    cr_assert_eq(strlen(info.engine_version), 62, "63 bytes would split the character");
    cr_assert_str_eq(info.agent_version, "0.1.0");
    cr_assert_eq(info.engine, 3);
    cr_assert_eq(identity_versions(&info, (Drover__V1__EngineKind)77, "", "", &err), 0);
    cr_assert_eq(info.engine, 0);
    cr_assert_eq(identity_versions(&info, (Drover__V1__EngineKind)1, "a\x1b[31m", "", &err),
                 DRV_EINVAL);
}

Test(identity, a_load_report_says_why_a_node_cannot_serve)
{
    Drover__V1__LoadReport load = DROVER__V1__LOAD_REPORT__INIT;

    cr_assert_eq(identity_load_reason(&load, 1), NODE_REASON_ENGINE_DOWN);
    load.loading = true;
    cr_assert_eq(identity_load_reason(&load, 0), NODE_REASON_ENGINE_LOADING);
    load.loading = false;
    load.engine_reachable = true;
    cr_assert_eq(identity_load_reason(&load, 1), NODE_REASON_NONE);
    cr_assert_eq(identity_load_reason(&load, 0), NODE_REASON_NO_MODELS);
    load.draining = true;
    cr_assert_eq(identity_load_reason(&load, 0), NODE_REASON_LEAVING);
}
