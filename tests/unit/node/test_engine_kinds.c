/* test_engine_kinds.c - engines are known by what they can do, and offer what they have. */
#include <criterion/criterion.h>
#include <string.h>

#include "detect_rig.h"
#include "node/engine/kinds/llama_server.h"

static const struct engine_model *model_of(const struct detector *r, const char *id)
{
    return facts_model(&r->facts, id);
}

static bool offers(const struct detector *r, const char *id, uint32_t operations)
{
    const struct engine_model *model = model_of(r, id);

    return model != NULL && (model->operations & operations) == operations;
}

Test(engine_kinds, llama_swap_is_no_ollama_although_it_has_a_version)
{
    struct page pages[] = {
        {"/v1/models", 200,
         "{'object':'list','data':[{'id':'a','object':'model','owned_by':'llama-swap',"
         "'status':{'value':'loaded'}}]}"},
        {"/api/version", 200, "{'version':'v201','commit':'c','build_date':'d'}"},
    };
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(OPENAI));
    cr_assert(offers(&r, "a", BIT(MESSAGES) | BIT(RERANK) | BIT(COUNT_TOKENS)));
    cr_assert(!offers(&r, "a", BIT(OLLAMA_CHAT)));
    pages[0].body = "{'object':'list','data':[{'id':'a','owned_by':'llama-swap'},"
                    "{'id':'b','owned_by':'llama-swap','status':{'value':'unloaded'}}]}";
    look_at(&r, &site, LOOK_LIGHT, 1);
    cr_assert_not_null(model_of(&r, "b"), "a model that came later");
    cr_assert_eq(model_of(&r, "b")->state, STATE(LOADABLE));
}

Test(engine_kinds, a_version_of_ollamas_without_its_list_is_no_ollama)
{
    static const struct page pages[] = {
        {"/v1/models", 200, "{'object':'list','data':[{'id':'a','owned_by':'me'}]}"},
        {"/api/version", 200, "{'version':'1.0'}"},
    };
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(OPENAI));
    cr_assert_not_null(model_of(&r, "a"));
}

Test(engine_kinds, localai_offers_the_names_that_its_openai_api_takes)
{
    static const struct page pages[] = {
        {"/v1/models", 200, "{'object':'list','data':[{'id':'gpt-4','object':'model'}]}"},
        {"/api/version", 200, "{'version':'0.9.0'}"},
        {"/api/tags", 200, "{'models':[{'name':'gpt-4:latest','model':'gpt-4:latest'}]}"},
        {"/api/ps", 200, "{'models':[]}"},
        {"/version", 200, "{'version':'v3.1.0 (abc)'}"},
    };
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(OPENAI));
    cr_assert_eq(r.facts.models_count, 1);
    cr_assert(offers(&r, "gpt-4", BIT(TRANSCRIPTIONS) | BIT(RERANK) | BIT(OLLAMA_CHAT)));
    cr_assert_str_eq(r.facts.version, "v3.1.0 (abc)");
    look(&r, &site);
    cr_assert_eq(r.facts.models_count, 1);
    cr_assert(offers(&r, "gpt-4", BIT(OLLAMA_CHAT)), "after a quick look");
}

Test(engine_kinds, an_ollama_with_models_of_one_user_only_is_known_by_its_lists)
{
    static const struct page pages[] = {
        {"/v1/models", 200,
         "{'object':'list','data':[{'id':'me/x:latest','object':'model','owned_by':'me'}]}"},
        {"/api/version", 200, "{'version':'0.14.2'}"},
        {"/api/tags", 200, "{'models':[{'name':'me/x:latest'}]}"},
        {"/api/ps", 200, "{'models':[]}"},
    };
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(OLLAMA));
    cr_assert_eq(model_of(&r, "me/x")->alias_of, 1);
}

Test(engine_kinds, a_version_alone_makes_no_vllm)
{
    struct page pages[] = {
        {"/v1/models", 200, "{'object':'list','data':[{'id':'a','owned_by':'me'}]}"},
        {"/version", 200, "{'version':'1.0'}"},
        {"/metrics", 200, "http_requests_total 1\n"},
    };
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(OPENAI));
    cr_assert_not(r.facts.has_load);
    pages[2].body = "# HELP x\nvllm:num_requests_running 1\nvllm:num_requests_waiting 2\n";
    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(VLLM));
    cr_assert_eq(r.facts.queued, 2);
}

Test(engine_kinds, tabbyapi_has_props_and_is_no_llama_server)
{
    static const struct page pages[] = {
        {"/v1/models", 200,
         "{'object':'list','data':[{'id':'q','owned_by':'tabbyAPI','parameters':{"
         "'max_seq_len':131072}}]}"},
        {"/props", 200, "{'total_slots':1,'default_generation_settings':{'n_ctx':4096}}"},
    };
    struct site site = SITE("uvicorn", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(OPENAI));
    cr_assert_eq(model_of(&r, "q")->max_context, 131072);
}

/* LM Studio answers every path that it does not know with 200. */
Test(engine_kinds, an_error_inside_a_200_is_no_answer)
{
    static const struct page pages[] = {
        {"/v1/models", 200, "{'object':'list','data':[{'id':'q','owned_by':'someone'}]}"},
        {"/api/version", 200, "{'error':'Unexpected endpoint or method. (GET /api/version)'}"},
        {"/version", 200, "{'error':'Unexpected endpoint or method. (GET /version)'}"},
        {"/props", 200, "{'error':'Unexpected endpoint or method. (GET /props)'}"},
        {"/api/tags", 200, "{'error':'Unexpected endpoint or method. (GET /api/tags)'}"},
    };
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(OPENAI));
    cr_assert_not(r.facts.speaks_ollama);
    cr_assert(offers(&r, "q", BIT(MESSAGES)));
}

Test(engine_kinds, a_proxy_that_copies_ollamas_owner_keeps_its_own_list)
{
    static const struct page pages[] = {
        {"/v1/models", 200, "{'object':'list','data':[{'id':'x','owned_by':'library'}]}"},
    };
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(OPENAI));
    cr_assert_not_null(model_of(&r, "x"));
}

Test(engine_kinds, a_web_server_is_no_engine)
{
    static const struct page html[] = {{"/v1/models", 200, "<html>hello</html>"}};
    static const struct page none[] = {{"/", 200, "<html>hello</html>"}};
    struct site sites[] = {SITE("nginx", html), SITE("nginx", none)};
    static struct detector r;

    for (size_t i = 0; i < ARRAY_LEN(sites); i++) {
        detect_init(&r, "http://engine:1", &all);
        look(&r, &sites[i]);
        cr_assert_eq(r.facts.models_count, 0);
        cr_assert_not_null(strstr(r.facts.detail, "is it an engine?"), "%s", r.facts.detail);
        cr_assert_not_null(strstr(r.facts.detail, "--model"));
    }
}

Test(engine_kinds, drover_itself_is_named_and_not_used)
{
    static const struct page pages[] = {
        {"/v1/models", 200, "{'object':'list','data':[{'id':'a','owned_by':'drover'}]}"},
        {"/api/tags", 200, "{'models':[{'name':'a'}]}"},
    };
    struct site sites[] = {SITE("drover/0.1.0", pages), SITE("nginx", pages)};
    static struct detector r;

    for (size_t i = 0; i < ARRAY_LEN(sites); i++) {
        detect_init(&r, "http://engine:1", &all);
        look(&r, &sites[i]);
        cr_assert_not(r.facts.reachable);
        cr_assert_eq(r.facts.models_count, 0);
        cr_assert_not_null(strstr(r.facts.detail, "is Llama Drover itself"));
    }
}

Test(engine_kinds, too_many_requests_leaves_the_facts_as_they_are)
{
    struct page pages[] = {
        {"/v1/models", 200, "{'object':'list','data':[{'id':'a','owned_by':'me'}]}"}};
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    pages[0].status = 429;
    look(&r, &site);
    cr_assert(r.facts.reachable);
    cr_assert_not_null(model_of(&r, "a"));
}

/* ---- names ----------------------------------------------------------------------------- */

Test(engine_kinds, a_path_as_id_has_the_name_of_the_file_as_well)
{
    static const char *const cases[][2] = {
        {"/home/me/models/x.gguf", "x"},
        {"C:\\models\\Qwen3-8B-Q4_K_M.GGUF", "Qwen3-8B-Q4_K_M"},
        {"x.gguf", "x"},
        {"/m/big-00001-of-00003.gguf", "big"},
        {"ggml-org/gemma-3-4b-it-GGUF:Q4_K_M", ""},
        {"tiny", ""},
        {".gguf", ""},
        {"", ""},
    };
    char out[ENGINE_MODEL_BYTES];

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        llama_server_short_name(out, cases[i][0]);
        cr_assert_str_eq(out, cases[i][1], "of %s: %s", cases[i][0], out);
    }
}

Test(engine_kinds, a_llama_server_without_alias_has_a_short_name)
{
    static const struct page pages[] = {
        {"/v1/models", 200,
         "{'data':[{'id':'/models/tiny.gguf','aliases':['/models/tiny.gguf'],'owned_by':"
         "'llamacpp'}]}"},
        {"/props", 200, "{'total_slots':4,'build_info':'b1'}"},
    };
    struct site site = SITE("llama.cpp", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.models_count, 2);
    cr_assert_eq(model_of(&r, "tiny")->alias_of, 1);
    cr_assert(offers(&r, "tiny", BIT(CHAT_COMPLETIONS)));
}

Test(engine_kinds, names_that_do_not_fit_are_counted_and_said)
{
    static char list[1 << 20];
    const struct page pages[] = {{"/v1/models", 200, list}};
    struct site site = SITE("", pages);
    static struct detector r;
    size_t n = strlcpy(list, "{'data':[", sizeof(list));

    for (unsigned i = 0; i < ENGINE_MAX_MODELS + 5; i++)
        n += (size_t)snprintf(list + n, sizeof(list) - n, "{'id':'model-%u'},", i);
    n += (size_t)snprintf(list + n, sizeof(list) - n, "{'id':'%0300u'}]}", 1);
    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.models_count, ENGINE_MAX_MODELS);
    cr_assert_eq(r.facts.left_out, 6);
    cr_assert(r.facts.reachable);
    cr_assert_not_null(strstr(r.facts.detail, "6 names of models are left out"));
}

Test(engine_kinds, short_names_of_an_ollama_that_do_not_fit_are_not_missing)
{
    static char list[1 << 20], tags[1 << 20];
    const struct page pages[] = {
        {"/v1/models", 200, list}, {"/api/tags", 200, tags}, {"/api/ps", 200, "{'models':[]}"}};
    struct site site = SITE("", pages);
    static struct detector r;
    size_t n = strlcpy(list, "{'data':[", sizeof(list));
    size_t m = strlcpy(tags, "{'models':[", sizeof(tags));

    for (unsigned i = 0; i < 700; i++) {
        n += (size_t)snprintf(list + n, sizeof(list) - n,
                              "%s{'id':'m%u:latest','owned_by':'library'}", i == 0 ? "" : ",",
                              i);
        m += (size_t)snprintf(tags + m, sizeof(tags) - m, "%s{'name':'m%u:latest'}",
                              i == 0 ? "" : ",", i);
    }
    (void)strlcat(list, "]}", sizeof(list));
    (void)strlcat(tags, "]}", sizeof(tags));
    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(OLLAMA));
    cr_assert_not_null(model_of(&r, "m699:latest"));
    cr_assert_eq(r.facts.left_out, 0);
    cr_assert_str_eq(r.facts.detail, "");
}

Test(engine_kinds, long_names_and_hundreds_of_models_fit)
{
    static char list[1 << 20];
    const struct page pages[] = {{"/v1/models", 200, list}};
    struct site site = SITE("", pages);
    static struct detector r;
    char last[ENGINE_MODEL_BYTES];
    size_t n = strlcpy(list, "{'data':[", sizeof(list));

    for (unsigned i = 0; i < 900; i++)
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s{'id':'%0255u'}",
                              i == 0 ? "" : ",", i);
    (void)strlcat(list, "]}", sizeof(list));
    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.models_count, 900);
    cr_assert_str_eq(r.facts.detail, "");
    (void)snprintf(last, sizeof(last), "%0255u", 899u);
    cr_assert_not_null(model_of(&r, last));
}

/* ---- what the operator says, and what is learned ---------------------------------------- */

Test(engine_kinds, the_operator_names_the_models_of_a_server_without_a_list)
{
    static const char *const names[] = {"whisper-1"};
    static const struct engine_offer offer = {
        .models = names, .models_count = 1, .operations = BIT(TRANSCRIPTIONS)};
    static const struct page pages[] = {{"/health", 200, "{}"}};
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &offer);
    look(&r, &site);
    cr_assert(r.facts.reachable);
    cr_assert_eq(r.facts.models_count, 1);
    cr_assert_eq(model_of(&r, "whisper-1")->operations, BIT(TRANSCRIPTIONS));
    cr_assert_str_eq(r.facts.detail, "");
    look(&r, &site);
    cr_assert_eq(model_of(&r, "whisper-1")->operations, BIT(TRANSCRIPTIONS));
    cr_assert_not(detect_operation_missing(&r, "whisper-1",
                                           DROVER__V1__OPERATION__OPERATION_TRANSCRIPTIONS, 1));
}

Test(engine_kinds, the_operator_chooses_from_a_long_list)
{
    static const char *const names[] = {"b"};
    static const struct engine_offer offer = {.models = names, .models_count = 1};
    static const struct page pages[] = {
        {"/v1/models", 200, "{'data':[{'id':'a'},{'id':'b','context_length':77},{'id':'c'}]}"}};
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &offer);
    look(&r, &site);
    cr_assert_eq(r.facts.models_count, 1);
    cr_assert_eq(model_of(&r, "b")->max_context, 77);
}

Test(engine_kinds, an_operation_that_is_missing_is_tried_again_after_a_while)
{
    static const struct page pages[] = {
        {"/v1/models", 200, "{'data':[{'id':'a'},{'id':'b'}]}"}};
    const int rerank = DROVER__V1__OPERATION__OPERATION_RERANK;
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert(offers(&r, "a", BIT(RERANK)));
    cr_assert(detect_operation_missing(&r, "a", rerank, 1000));
    cr_assert_not(detect_operation_missing(&r, "a", rerank, 1000), "it is known");
    cr_assert_not(detect_operation_missing(&r, "none", rerank, 1000));
    cr_assert_not(offers(&r, "a", BIT(RERANK)));
    cr_assert(offers(&r, "a", BIT(CHAT_COMPLETIONS)));
    cr_assert(offers(&r, "b", BIT(RERANK)));
    (void)detect_begin(&r, LOOK_FULL, 2000);
    detect_abandon(&r);
    look_at(&r, &site, LOOK_LIGHT, 2000);
    cr_assert_not(offers(&r, "a", BIT(RERANK)), "a look shows it again");
    look_at(&r, &site, LOOK_LIGHT, 1000 + OPERATIONS_MISSING_US);
    cr_assert(offers(&r, "a", BIT(RERANK)));
}
