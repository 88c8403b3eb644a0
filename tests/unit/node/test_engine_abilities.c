/* test_engine_abilities.c - what engines say their models take and are, in the words of each,
 * and how many pages they are asked for it. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/kinds.h"
#include "detect_rig.h"

#define VISION ABILITY_BIT(ABILITY_VISION)
#define AUDIO  ABILITY_BIT(ABILITY_AUDIO)
#define TOOLS  ABILITY_BIT(ABILITY_TOOLS)

static struct detector detector;

static const struct engine_model *model_of(const char *id)
{
    const struct engine_model *model = facts_model(&detector.facts, id);

    cr_assert_not_null(model, "no model %s", id);
    return model;
}

static void expect_abilities(const char *id, uint32_t has, uint32_t lacks)
{
    cr_expect_eq(model_of(id)->has, has, "%s has %x", id, model_of(id)->has);
    cr_expect_eq(model_of(id)->lacks, lacks, "%s lacks %x", id, model_of(id)->lacks);
}

static void first_look(struct site *site)
{
    detect_init(&detector, "http://engine:1", &all);
    look(&detector, site);
    cr_assert(detector.facts.reachable, "%s", detector.facts.detail);
}

Test(engine_abilities, a_llama_server_says_what_it_sees_and_hears)
{
    static const struct page pages[] = {
        {"/v1/models", 200, "{'data':[{'id':'m','aliases':['n'],'owned_by':'llamacpp'}]}"},
        {"/props", 200,
         "{'total_slots':2,'build_info':'b1','modalities':{'vision':true,'video':false,"
         "'audio':false}}"},
    };
    struct site site = SITE("llama.cpp", pages);

    first_look(&site);
    expect_abilities("m", VISION, AUDIO);
    expect_abilities("n", VISION, AUDIO);
}

Test(engine_abilities, a_router_says_it_of_each_model)
{
    static const struct page pages[] = {
        {"/v1/models", 200,
         "{'data':[{'id':'eyes','owned_by':'llamacpp','status':{'value':'loaded'},"
         "'architecture':{'input_modalities':['text','image'],'output_modalities':['text']}},"
         "{'id':'blind','owned_by':'llamacpp','status':{'value':'unloaded'},"
         "'architecture':{'input_modalities':['text']}}]}"},
        {"/props", 200, "{'role':'router','build_info':'b1'}"},
    };
    struct site site = SITE("llama.cpp", pages);

    first_look(&site);
    expect_abilities("eyes", VISION, AUDIO);
    expect_abilities("blind", 0, VISION | AUDIO);
}

Test(engine_abilities, ollama_lists_capabilities_and_lacks_the_others)
{
    static const struct page pages[] = {
        {"/v1/models", 200,
         "{'data':[{'id':'a:latest','owned_by':'library'},{'id':'e:latest','owned_by':"
         "'library'},{'id':'old:latest','owned_by':'library'}]}"},
        {"/api/version", 200, "{'version':'0.14.0'}"},
        {"/api/tags", 200,
         "{'models':[{'name':'a:latest','capabilities':['completion','vision','tools']},"
         "{'name':'e:latest','capabilities':['embedding']},{'name':'old:latest'}]}"},
        {"/api/ps", 200, "{'models':[{'name':'a:latest','context_length':8192}]}"},
    };
    struct site site = SITE("", pages);

    first_look(&site);
    cr_assert_eq(detector.facts.kind, KIND(OLLAMA));
    expect_abilities("a:latest", VISION | TOOLS, AUDIO);
    expect_abilities("a", VISION | TOOLS, AUDIO);
    expect_abilities("e", 0, VISION | AUDIO | TOOLS);
    expect_abilities("old", 0, 0);
    cr_expect_eq(model_of("e")->operations & BIT(CHAT_COMPLETIONS), 0);
    cr_expect_neq(model_of("e")->operations & BIT(EMBEDDINGS), 0);
    cr_expect_neq(model_of("old")->operations & BIT(CHAT_COMPLETIONS), 0);
    look_at(&detector, &site, LOOK_LIGHT, 2);
    expect_abilities("a", VISION | TOOLS, AUDIO);
}

static const struct page lm_studio[] = {
    {"/v1/models", 200,
     "{'data':[{'id':'q','owned_by':'organization_owner'},{'id':'v','owned_by':"
     "'organization_owner'},{'id':'e','owned_by':'organization_owner'}],'object':'list'}"},
    {"/api/v0/models", 200,
     "{'data':[{'id':'q','type':'llm','state':'not-loaded','max_context_length':32768,"
     "'capabilities':['tool_use']},"
     "{'id':'v','type':'vlm','state':'loaded','max_context_length':131072,"
     "'loaded_context_length':4096},{'id':'v','type':'vlm','state':'not-loaded',"
     "'max_context_length':131072},"
     "{'id':'e','type':'embeddings','state':'loaded','max_context_length':2048}]}"},
};

Test(engine_abilities, lm_studio_says_type_state_and_context)
{
    struct site site = SITE("", lm_studio);

    first_look(&site);
    cr_expect_str_eq(site.asked, "/v1/models,/api/v0/models,");
    for (unsigned again = 0; again < 2; again++) {
        cr_expect_eq(detector.facts.kind, KIND(OPENAI));
        expect_abilities("q", TOOLS, VISION);
        expect_abilities("v", VISION, 0);
        cr_expect_eq(model_of("q")->state, STATE(LOADABLE));
        cr_expect_eq(model_of("q")->max_context, 32768);
        cr_expect_eq(model_of("v")->state, STATE(READY));
        cr_expect_eq(model_of("v")->max_context, 4096);
        cr_expect_eq(model_of("e")->operations & BIT(CHAT_COMPLETIONS), 0);
        cr_expect_neq(model_of("e")->operations & BIT(EMBEDDINGS), 0);
        look_at(&detector, &site, LOOK_LIGHT, 2);
        cr_expect_str_eq(site.asked, "/v1/models,");
    }
}

Test(engine_abilities, tgi_says_its_context)
{
    static const struct page pages[] = {
        {"/v1/models", 200, "{'object':'list','data':[{'id':'org/m','owned_by':'org/m'}]}"},
        {"/info", 200,
         "{'model_id':'org/m','max_concurrent_requests':128,'max_input_tokens':4095,"
         "'max_total_tokens':4096,'router':'text-generation-router','version':'3.3.6'}"},
    };
    struct site site = SITE("", pages);

    first_look(&site);
    cr_expect_str_eq(site.asked, "/v1/models,/info,");
    look_at(&detector, &site, LOOK_LIGHT, 2);
    cr_expect_eq(model_of("org/m")->max_context, 4096);
    cr_expect_str_eq(detector.facts.version, "3.3.6");
    cr_expect_eq(detector.facts.slots, 0, "that many wait, too");
}

Test(engine_abilities, tabbyapi_says_the_parameters_of_the_loaded_model)
{
    static const struct page pages[] = {
        {"/v1/models", 200,
         "{'object':'list','data':[{'id':'other','owned_by':'tabbyAPI'},"
         "{'id':'q','owned_by':'tabbyAPI'}]}"},
        {"/v1/model", 200,
         "{'id':'q','owned_by':'tabbyAPI','parameters':{'max_seq_len':131072,"
         "'cache_size':262144,'max_batch_size':6,'use_vision':false}}"},
    };
    struct site site = SITE("uvicorn", pages);

    first_look(&site);
    look_at(&detector, &site, LOOK_LIGHT, 2);
    expect_abilities("q", 0, VISION);
    expect_abilities("other", 0, 0);
    cr_expect_eq(model_of("q")->max_context, 131072);
    cr_expect_eq(model_of("other")->max_context, 0);
    cr_expect_eq(detector.facts.slots, 6);
}

Test(engine_abilities, sglang_says_what_its_model_takes_on_the_new_page_or_the_old)
{
    struct page pages[] = {
        {"/v1/models", 200, "{'data':[{'id':'m','owned_by':'sglang','max_model_len':64}]}"},
        {"/server_info", 200, "{'version':'0.5.6','max_running_requests':48}"},
        {"/model_info", 200,
         "{'model_path':'m','is_generation':true,'has_image_understanding':true,"
         "'has_audio_understanding':false}"},
    };
    struct site site = SITE("uvicorn", pages);

    first_look(&site);
    cr_expect_null(strstr(site.asked, "/get_"));
    expect_abilities("m", VISION, AUDIO);
    look_at(&detector, &site, LOOK_LIGHT, 2);
    expect_abilities("m", VISION, AUDIO);
    cr_expect_eq(detector.facts.slots, 48);
    pages[2].path = "/get_model_info";
    pages[2].body = "{'is_generation':false,'has_image_understanding':false}";
    first_look(&site);
    expect_abilities("m", 0, VISION);
    cr_expect_eq(model_of("m")->operations & BIT(CHAT_COMPLETIONS), 0);
}

Test(engine_abilities, lists_of_proxies_and_paid_apis_are_read)
{
    static const struct page pages[] = {
        {"/v1/models", 200,
         "{'data':[{'id':'swap','owned_by':'llama-swap','capabilities':{'vision':true,"
         "'function_calling':true},'context_length':7,'architecture':{'input_modalities':"
         "['text','image']},'supported_parameters':['tools','tool_choice']},"
         "{'id':'router','architecture':{'input_modalities':['text']},"
         "'supported_parameters':['temperature'],'context_length':9},"
         "{'id':'mistral','capabilities':{'completion_chat':true,'function_calling':false,"
         "'vision':false},'max_context_length':8},"
         "{'id':'groq','context_window':5},{'id':'bare'}]}"},
    };
    struct site site = SITE("", pages);

    first_look(&site);
    expect_abilities("swap", VISION | TOOLS, AUDIO);
    expect_abilities("router", 0, VISION | AUDIO | TOOLS);
    expect_abilities("mistral", 0, VISION | TOOLS);
    expect_abilities("bare", 0, 0);
    cr_expect_eq(model_of("swap")->max_context, 7);
    cr_expect_eq(model_of("router")->max_context, 9);
    cr_expect_eq(model_of("mistral")->max_context, 8);
    cr_expect_eq(model_of("groq")->max_context, 5);
}

/* Nothing of this is what it should be. */
Test(engine_abilities, odd_descriptions_say_nothing)
{
    static const struct page pages[] = {
        {"/v1/models", 200,
         "{'data':[{'id':'a','capabilities':'vision','modalities':['vision'],'architecture':7,"
         "'supported_parameters':[],'parameters':{'use_vision':'yes'},'input_modalities':[]},"
         "{'id':'b','capabilities':[1,null,{}],'input_modalities':[null],"
         "'has_image_understanding':'true','max_context_length':-1}]}"},
    };
    struct site site = SITE("", pages);

    first_look(&site);
    expect_abilities("a", 0, 0);
    expect_abilities("b", 0, 0);
    cr_expect_eq(model_of("b")->max_context, 0);
}

/* ---- how many pages -------------------------------------------------------------------- */

Test(engine_abilities, a_plain_server_is_asked_one_page_when_it_is_known)
{
    struct page pages[] = {
        {"/v1/models", 200, "{'data':[{'id':'m','owned_by':'me'}]}"},
        {"/api/tags", 404, "{'models':[]}"},
    };
    struct site site = SITE("nginx", pages);

    first_look(&site);
    cr_expect_str_eq(site.asked, "/v1/models,/api/version,/version,/props,/api/tags,");
    look_at(&detector, &site, LOOK_FULL, 2);
    cr_expect_str_eq(site.asked, "/v1/models,");
    cr_expect_eq(detector.facts.kind, KIND(OPENAI));
    site.server = "caddy";
    pages[1].status = 200;
    look_at(&detector, &site, LOOK_FULL, 3);
    cr_expect_not_null(strstr(site.asked, "/api/tags"), "another server");
    cr_expect(detector.facts.speaks_ollama);
    look_at(&detector, &site, LOOK_FULL, 4);
    cr_expect_str_eq(site.asked, "/v1/models,/api/tags,", "that page is there");
    cr_expect(detector.facts.speaks_ollama);
    pages[0].status = 0;
    look_at(&detector, &site, LOOK_FULL, 5);
    pages[0].status = 200;
    look_at(&detector, &site, LOOK_FULL, 6);
    cr_expect_not_null(strstr(site.asked, "/props"), "another may have come up there");
}

Test(engine_abilities, a_server_that_gives_its_page_to_everything_is_asked_for_one)
{
    static const struct page pages[] = {
        {"/v1/models", 200, "<!doctype html>"}, {"/api/version", 200, "<!doctype html>"},
        {"/version", 200, "<!doctype html>"},   {"/props", 200, "<!doctype html>"},
        {"/api/tags", 200, "<!doctype html>"},
    };
    struct site site = SITE("", pages);

    first_look(&site);
    cr_expect_eq(detector.facts.models_count, 0);
    cr_expect_not_null(strstr(detector.facts.detail, "is it an engine?"));
    look_at(&detector, &site, LOOK_FULL, 2);
    cr_expect_str_eq(site.asked, "/v1/models,");
    cr_expect_not_null(strstr(detector.facts.detail, "is it an engine?"));
}

Test(engine_abilities, a_page_on_which_a_plain_server_hangs_makes_it_no_dead_engine)
{
    static const struct page pages[] = {{"/v1/models", 200, "{'data':[{'id':'m'}]}"}};
    const char *path;

    detect_init(&detector, "http://engine:1", &all);
    path = detect_begin(&detector, LOOK_FULL, 1);
    while (path != NULL) {
        bool list = strcmp(path, "/v1/models") == 0;
        struct buf body = BUF_INIT;
        struct detect_answer answer = {
            .status = list ? 200 : 0, .server = "", .why = "slow", .timed_out = !list};

        rig_add(&body, pages[0].body);
        answer.body = buf_head(&body);
        answer.n = list ? buf_size(&body) : 0;
        path = detect_next(&detector, &answer);
        buf_finish(&body);
    }
    cr_assert(detector.facts.reachable, "%s", detector.facts.detail);
    cr_assert_eq(detector.facts.models_count, 1);
}
