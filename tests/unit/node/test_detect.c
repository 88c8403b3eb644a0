/* test_detect.c - which engine answers, and what it says about itself. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/attrs.h"
#include "detect_rig.h"
#include "proto/drover_common.pb-c.h"

#define LLAMA_MODELS                                                                      \
    "{'models':[{'name':'tiny'}],'object':'list','data':[{'id':'tiny','aliases':['tiny'," \
    "'small'],'object':'model','owned_by':'llamacpp','meta':{'n_ctx':2048,'n_ctx_train':" \
    "32768}}]}"
#define LLAMA_PROPS                                                                        \
    "{'default_generation_settings':{'n_ctx':2048},'total_slots':4,'modalities':{'audio':" \
    "false},'build_info':'b10573-d775b8967','is_sleeping':false}"
#define LLAMA_SLOTS                                                                       \
    "[{'id':0,'n_ctx':2048,'is_processing':true},{'id':1,'is_processing':false},{'id':2," \
    "'is_processing':true},{'id':3,'is_processing':false}]"
#define LLAMA_METRICS                                                                  \
    "# HELP llamacpp:requests_processing Number of requests processing\n"              \
    "llamacpp:prompt_tokens_total 2380\nllamacpp:prompt_seconds_total 2\n"             \
    "llamacpp:tokens_predicted_total 300\nllamacpp:tokens_predicted_seconds_total 6\n" \
    "llamacpp:n_decode_total 15732\nllamacpp:requests_processing 2\n"                  \
    "llamacpp:requests_deferred 3\n"

static const struct page llama[] = {
    {"/v1/models", 200, LLAMA_MODELS},   {"/props", 200, LLAMA_PROPS},
    {"/slots", 200, LLAMA_SLOTS},        {"/metrics", 200, LLAMA_METRICS},
    {"/health", 200, "{'status':'ok'}"},
};

/* The vocabulary number made of a llama-server's facts about its model. */
static uint64_t vocabulary(const char *meta)
{
    static struct detector r;
    char models[512];
    const struct page pages[] = {{"/v1/models", 200, models},
                                 {"/props", 200, LLAMA_PROPS},
                                 {"/slots", 200, LLAMA_SLOTS},
                                 {"/metrics", 200, LLAMA_METRICS},
                                 {"/health", 200, "{'status':'ok'}"}};
    struct site site = SITE("llama.cpp", pages);

    (void)snprintf(models, sizeof(models),
                   "{'object':'list','data':[{'id':'tiny','aliases':['small'],'owned_by':"
                   "'llamacpp','meta':%s}]}",
                   meta);
    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.models_count, 2);
    cr_assert_eq(r.facts.models[1].vocabulary, r.facts.models[0].vocabulary, "an alias");
    return r.facts.models[0].vocabulary;
}

Test(detect, equal_vocabularies_are_distinguished_from_others_however_a_model_is_quantised)
{
    uint64_t tiny =
        vocabulary("{'vocab_type':2,'n_vocab':1259,'n_ctx':2048,'n_ctx_train':32768,"
                   "'n_embd':192,'n_params':2058048,'size':8232192,'ftype':'all F32'}");

    cr_assert_neq(tiny, 0);
    cr_assert_eq(tiny, vocabulary("{'vocab_type':2,'n_vocab':1259,'n_ctx':512,'n_embd':192,"
                                  "'n_params':2058048,'size':2058048,'ftype':'Q8_0'}"));
    cr_assert_neq(tiny, vocabulary("{'vocab_type':2,'n_vocab':1260,'n_embd':192,'n_params':"
                                   "2058048}"));
    cr_assert_neq(tiny, vocabulary("{'vocab_type':1,'n_vocab':1259,'n_embd':192,'n_params':"
                                   "2058048}"));
    cr_assert_eq(vocabulary("{'n_ctx':2048}"), 0, "not told");
    cr_assert_eq(vocabulary("null"), 0);
}

Test(detect, a_llama_server_shows_models_slots_context_and_load)
{
    struct site site = SITE("llama.cpp", llama);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    cr_assert_not(r.facts.reachable);
    look(&r, &site);
    cr_assert_str_eq(site.asked, "/v1/models,/props,/slots,/metrics,");
    cr_assert(r.facts.reachable);
    cr_assert_eq(r.facts.kind, KIND(LLAMA_SERVER));
    cr_assert_str_eq(r.facts.version, "b10573-d775b8967");
    cr_assert_eq(r.facts.slots, 4);
    cr_assert_eq(r.facts.running, 2);
    cr_assert_eq(r.facts.queued, 3);
    cr_assert(r.facts.has_load);
    cr_assert_eq(r.facts.progress, 15732);
    cr_assert_float_eq(r.facts.prefill_tokens_per_s, 1190, 0.01); /* 2380 tokens in 2 s */
    cr_assert_float_eq(r.facts.decode_tokens_per_s, 50, 0.01);    /* 300 tokens in 6 s */
    cr_assert_eq(r.facts.models_count, 2);
    cr_assert_str_eq(r.facts.models[0].id, "tiny");
    cr_assert_eq(r.facts.models[0].max_context, 2048);
    cr_assert_eq(r.facts.models[0].alias_of, 0);
    cr_assert_str_eq(r.facts.models[1].id, "small");
    cr_assert_eq(r.facts.models[1].alias_of, 1);
    cr_assert_neq(r.facts.models[0].operations & BIT(MESSAGES), 0);
    cr_assert_eq(r.facts.models[0].operations & BIT(OLLAMA_CHAT), 0);

    look(&r, &site); /* only the load, from now on */
    cr_assert_str_eq(site.asked, "/slots,/metrics,");
}

Test(detect, a_llama_server_without_slots_and_metrics_has_no_load)
{
    static const struct page pages[] = {
        {"/v1/models", 200, LLAMA_MODELS},
        {"/props", 200, LLAMA_PROPS},
        {"/slots", 501, "{'error':{'code':501}}"},
        {"/metrics", 501, "{'error':{'code':501}}"},
        {"/health", 200, "{}"},
    };
    struct site site = SITE("llama.cpp", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert(r.facts.reachable);
    cr_assert_not(r.facts.has_load);
    cr_assert_eq(r.facts.slots, 4);
    look(&r, &site);
    cr_assert_str_eq(site.asked, "/health,");
    cr_assert(r.facts.reachable);
}

Test(detect, without_slots_every_look_reads_the_load_from_the_metrics)
{
    struct page pages[] = {{"/v1/models", 200, LLAMA_MODELS},
                           {"/props", 200, LLAMA_PROPS},
                           {"/metrics", 200, LLAMA_METRICS}};
    struct site site = SITE("llama.cpp", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.running, 2);
    pages[2].body = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n";
    look(&r, &site);
    cr_assert_eq(r.facts.running, 1, "the load of the look before");
    cr_assert_eq(r.facts.queued, 0);
}

Test(detect, a_loading_llama_server_is_reachable_but_not_ready)
{
    static const struct page pages[] = {
        {"/v1/models", 503,
         "{'error':{'message':'Loading model','type':'unavailable_error','code':503}}"},
    };
    struct site loading = SITE("llama.cpp", pages), ready = SITE("llama.cpp", llama);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &loading);
    cr_assert(r.facts.reachable && r.facts.loading);
    cr_assert_eq(r.facts.kind, KIND(LLAMA_SERVER));
    look(&r, &ready);
    cr_assert_not(r.facts.loading);
    cr_assert_eq(r.facts.slots, 4);
    cr_assert_eq(r.facts.models[0].state, STATE(READY));
}

Test(detect, a_router_lists_models_that_are_not_loaded)
{
    static const struct page pages[] = {
        {"/v1/models", 200,
         "{'data':[{'id':'tiny-bpe','aliases':[],'owned_by':'llamacpp','status':{'value':'"
         "loaded',"
         "'args':['llama-server','--ctx-size','2048','--parallel','2']},'meta':{'n_ctx':1024}},"
         "{'id':'tiny-trained','aliases':[],'owned_by':'llamacpp','status':{'value':'unloaded',"
         "'args':['llama-server','--ctx-size','4096','--parallel','2']}}],'object':'list'}"},
        {"/props", 200,
         "{'role':'router','max_instances':1,'default_generation_settings':{'params':null,'n_"
         "ctx':0"
         "},'build_info':'b10573'}"},
        {"/slots", 400, "{'error':{'code':400}}"},
    };
    struct site site = SITE("llama.cpp", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_str_eq(site.asked, "/v1/models,/props,");
    cr_assert_eq(r.facts.models_count, 2);
    cr_assert_eq(r.facts.models[0].state, STATE(READY));
    cr_assert_eq(r.facts.models[0].max_context, 1024);
    cr_assert_eq(r.facts.models[1].state, STATE(LOADABLE));
    cr_assert_eq(r.facts.models[1].max_context, 2048); /* 4096 for two in parallel */
    cr_assert_eq(r.facts.slots, 2);
    cr_assert_not(r.facts.has_load);
    look(&r, &site);
    cr_assert_str_eq(site.asked, "/v1/models,");
    cr_assert_eq(r.facts.slots, 2);
}

static const struct page ollama[] = {
    {"/v1/models", 200,
     "{'object':'list','data':[{'id':'llama3:latest','object':'model','owned_by':'library'}]}"},
    {"/api/version", 200, "{'version':'0.14.2'}"},
    {"/api/tags", 200,
     "{'models':[{'name':'llama3:latest','details':{'context_length':131072}},"
     "{'name':'qwen:7b'}]}"},
    {"/api/ps", 200, "{'models':[{'name':'qwen:7b','context_length':4096}]}"},
};

#define SIM_MODEL(id, state, able)                                                  \
    "{'id':'" id "','owned_by':'drover-sim','capabilities':[" able                  \
    "],'status':{'value':'" state                                                   \
    "'},'meta':{'n_ctx':4096,'load_ms':70,'vocab_type':0,'n_vocab':230,'n_embd':0," \
    "'n_params':0}}"
#define SIM_MODELS(state)                                                          \
    "{'data':[" SIM_MODEL("sim", state, "'completion','embedding'") "," SIM_MODEL( \
        "sim-embed", "loaded", "'embedding'") "]}"

Test(detect, drover_sim_shows_each_model_and_its_load_like_a_llama_server)
{
    struct page pages[] = {{"/v1/models", 200, SIM_MODELS("unloaded")},
                           {"/props", 200,
                            "{'total_slots':8,'build_info':'0.1','default_generation_"
                            "settings':{'n_ctx':4096}}"},
                           {"/metrics", 200, LLAMA_METRICS}};
    struct site site = SITE("drover-sim", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_str_eq(site.asked, "/v1/models,/props,/metrics,");
    cr_assert_eq(r.facts.kind, KIND(SIMULATED));
    cr_assert_str_eq(r.facts.version, "0.1");
    cr_assert_eq(r.facts.slots, 8);
    cr_assert(r.facts.has_load);
    cr_assert_eq(r.facts.running, 2);
    cr_assert_eq(r.facts.queued, 3);
    cr_assert_eq(r.facts.progress, 15732);
    cr_assert_float_eq(r.facts.prefill_tokens_per_s, 1190, 0.1);
    cr_assert_eq(r.facts.models_count, 2);
    cr_assert_eq(r.facts.models[0].state, STATE(LOADABLE));
    cr_assert_eq(r.facts.models[0].max_context, 4096);
    cr_assert_eq(r.facts.models[0].load_ms, 70);
    cr_assert_neq(r.facts.models[0].vocabulary, 0);
    cr_assert_neq(r.facts.models[0].operations & BIT(OLLAMA_CHAT), 0);
    cr_assert_neq(r.facts.models[0].operations & BIT(COUNT_TOKENS), 0);
    cr_assert_eq(r.facts.models[1].operations & BIT(CHAT_COMPLETIONS), 0);
    cr_assert_neq(r.facts.models[1].operations & BIT(EMBEDDINGS), 0);

    pages[0].body = SIM_MODELS("loading");
    look(&r, &site);
    cr_assert_str_eq(site.asked, "/v1/models,/metrics,", "the load");
    cr_assert_eq(r.facts.models[0].state, STATE(LOADING));
    cr_assert_eq(r.facts.slots, 8, "known from the full look");

    pages[0] = (struct page){"/v1/models", 503, "{'error':{'message':'Loading model'}}"};
    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(SIMULATED), "by its server header");
    cr_assert(r.facts.loading);
}

Test(detect, ollama_shows_what_is_on_disk_and_what_is_in_memory)
{
    struct site site = SITE("", ollama);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(OLLAMA));
    cr_assert_str_eq(r.facts.version, "0.14.2");
    cr_assert_eq(r.facts.slots, 0);
    cr_assert_not(r.facts.has_load);
    cr_assert_eq(r.facts.models_count, 3);
    cr_assert_str_eq(r.facts.models[2].id, "llama3");
    cr_assert_eq(r.facts.models[2].alias_of, 1);
    cr_assert_eq(r.facts.models[0].state, STATE(LOADABLE));
    cr_assert_eq(r.facts.models[1].state, STATE(READY));
    cr_assert_eq(r.facts.models[1].max_context, 4096);
    cr_assert_neq(r.facts.models[0].operations & BIT(OLLAMA_GENERATE), 0);
    look(&r, &site);
    cr_assert_str_eq(site.asked, "/api/ps,");
}

Test(detect, an_ollama_without_models_is_known_by_its_version)
{
    static const struct page pages[] = {
        {"/v1/models", 200, "{'object':'list','data':null}"},
        {"/api/version", 200, "{'version':'0.14.2'}"},
        {"/api/tags", 200, "{'models':[]}"},
        {"/api/ps", 200, "{'models':[]}"},
    };
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(OLLAMA));
    cr_assert_neq(r.facts.detail[0], '\0');
}

Test(detect, vllm_shows_its_load_as_metrics)
{
    static const struct page pages[] = {
        {"/v1/models", 200,
         "{'object':'list','data':[{'id':'Qwen/Q','owned_by':'vllm','max_model_len':32768}]}"},
        {"/version", 200, "{'version':'0.19.0'}"},
        {"/metrics", 200,
         "vllm:num_requests_running{engine=\"0\",model_name=\"a}b\"} 3.0\n"
         "vllm:num_requests_running{engine=\"1\"} 2.0\n"
         "vllm:num_requests_waiting{engine=\"0\"} 4.0\n"
         "vllm:num_requests_waiting_by_reason{engine=\"0\"} 9.0\n"
         "vllm:kv_cache_usage_perc{engine=\"0\"} 0.125\n"
         "vllm:kv_cache_usage_perc{engine=\"1\"} 0.25\n"
         "vllm:prompt_tokens_total{engine=\"0\"} 100\n"
         "vllm:generation_tokens_total{engine=\"0\"} 11\n"},
    };
    struct site site = SITE("uvicorn", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(VLLM));
    cr_assert_eq(r.facts.running, 5);
    cr_assert_eq(r.facts.queued, 4);
    cr_assert_float_eq(r.facts.kv_used_fraction, 0.25, 1e-6);
    cr_assert_eq(r.facts.progress, 111 + 250000, "tokens, and what is cached of them");
    cr_assert(r.facts.progress_counts);
    cr_assert_eq(r.facts.models[0].max_context, 32768);
}

Test(detect, sglang_says_how_many_requests_it_runs)
{
    static const struct page pages[] = {
        {"/v1/models", 200, "{'object':'list','data':[{'id':'m','owned_by':'sglang'}]}"},
        {"/get_server_info", 200, "{'version':'0.5.4','max_running_requests':48}"},
        {"/metrics", 200,
         "sglang:num_running_reqs{a=\"b\"} 7\nsglang:num_queue_reqs{a=\"b\"} 1\n"
         "sglang:token_usage{a=\"b\"} 0.5\n"},
    };
    struct site site = SITE("uvicorn", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(SGLANG));
    cr_assert_eq(r.facts.slots, 48);
    cr_assert_eq(r.facts.running, 7);
    cr_assert_eq(r.facts.queued, 1);
}

Test(detect, any_other_server_with_a_model_list_is_openai)
{
    static const struct page pages[] = {
        {"/v1/models", 200, "{'object':'list','data':[{'id':'gpt','owned_by':'me'}]}"},
    };
    struct site site = SITE("x", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(OPENAI));
    cr_assert_eq(r.facts.models_count, 1);
    cr_assert_not(r.facts.has_load);
    look_at(&r, &site, LOOK_LIGHT, 1);
    cr_assert_str_eq(site.asked, "/v1/models,");
}

Test(detect, an_engine_that_does_not_answer_is_not_reachable_and_says_why)
{
    static const struct page dead[] = {
        {"/v1/models", 0, ""}, {"/slots", 0, ""}, {"/health", 0, ""}};
    struct site up = SITE("llama.cpp", llama), down = SITE("", dead);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &up);
    look(&r, &down);
    cr_assert_not(r.facts.reachable);
    cr_assert_str_eq(r.facts.detail, "GET http://engine:1/health: Connection refused");
    cr_assert_eq(r.facts.models_count, 2); /* what it had stays known */
    look(&r, &up);
    cr_assert_str_eq(up.asked, "/v1/models,/props,/slots,/metrics,");
    cr_assert(r.facts.reachable);
}

Test(detect, a_slow_look_at_the_slots_is_no_dead_engine)
{
    static const struct page slow[] = {{"/slots", 0, ""}, {"/health", 200, "{}"}};
    struct site up = SITE("llama.cpp", llama), busy = SITE("llama.cpp", slow);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &up);
    look(&r, &busy);
    cr_assert_str_eq(busy.asked, "/slots,/health,");
    cr_assert(r.facts.reachable);
    cr_assert_eq(r.facts.running, 2);
}

/* The engine's slots at `now_us` are `slots`; the instant at which an earlier process of it is
 * known to have ended. */
static uint64_t gone_after(struct detector *r, const char *slots, uint64_t now_us)
{
    const struct page pages[] = {llama[0], llama[1], {"/slots", 200, slots}};
    struct site site = SITE("llama.cpp", pages);

    look_at(r, &site, LOOK_LOAD, now_us);
    cr_assert(r->facts.has_load, "%s", slots);
    return r->facts.gone_mono_us;
}

Test(detect, a_llama_server_that_cannot_be_reached_has_ended_if_nothing_listens_there)
{
    static const struct page dead[] = {{"/v1/models", 0, ""}, {"/metrics", 0, ""}};
    static const struct page slow[] = {{"/slots", 0, ""}, {"/health", 200, "{}"}};
    const struct page pages[] = {
        llama[0], llama[1], {"/metrics", 200, LLAMA_METRICS}, {"/health", 503, "{}"}};
    struct site up = SITE("llama.cpp", llama), busy = SITE("llama.cpp", slow);
    struct site metrics = SITE("llama.cpp", pages), down = SITE("", dead);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look_at(&r, &up, LOOK_FULL, 10);
    look_at(&r, &busy, LOOK_LOAD, 20);
    cr_assert_eq(r.facts.gone_mono_us, 0, "it is slow");
    look_at(&r, &metrics, LOOK_LOAD, 30);
    look_at(&r, &metrics, LOOK_LIGHT, 40);
    cr_assert_not(r.facts.reachable);
    cr_assert_eq(r.facts.gone_mono_us, 0, "a proxy says that it is down");
    look_at(&r, &metrics, LOOK_FULL, 50);
    look_at(&r, &down, LOOK_LOAD, 60);
    cr_assert_eq(r.facts.gone_mono_us, 60);
    look_at(&r, &up, LOOK_FULL, 70);
    cr_assert_eq(r.facts.gone_mono_us, 60);
}

Test(detect, a_llama_server_whose_tasks_begin_anew_is_another_process)
{
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    cr_assert_eq(gone_after(&r, "[{'id':0,'is_processing':false}]", 10), 0);
    cr_assert_eq(gone_after(&r, "[{'id_task':900,'is_processing':true},{'id_task':7}]", 20), 0);
    cr_assert_eq(gone_after(&r, "[{'id_task':900,'is_processing':false}]", 30), 0, "idle");
    cr_assert_eq(gone_after(&r, "[{'id_task':880,'is_processing':false}]", 40), 0, "deferred");
    cr_assert_eq(gone_after(&r, "[{'id_task':2,'is_processing':true}]", 50), 0, "once");
    cr_assert_eq(gone_after(&r, "[{'id_task':9,'is_processing':true}]", 60), 60);
    cr_assert_eq(gone_after(&r, "[{'id_task':10,'is_processing':true}]", 70), 60);
}

Test(detect, several_llama_servers_behind_one_url_are_none_that_has_ended)
{
    static const char busy[] = "[{'id_task':900,'is_processing':true}]";
    static const char idle[] = "[{'id_task':-1,'is_processing':false}]";
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    cr_assert_eq(gone_after(&r, busy, 10), 0);
    cr_assert_eq(gone_after(&r, "[{'id_task':400,'is_processing':false}]", 20), 0);
    cr_assert_eq(gone_after(&r, busy, 30), 0);
    cr_assert_eq(gone_after(&r, idle, 40), 0, "it may be the other one");
    cr_assert_eq(gone_after(&r, busy, 50), 0, "it is there again");
    cr_assert_eq(gone_after(&r, idle, 60), 0, "the numbers of this one say nothing");
    cr_assert_eq(gone_after(&r, idle, 70), 0);
    cr_assert_eq(gone_after(&r, idle, 80), 0);

    detect_init(&r, "http://engine:1", &all);
    cr_assert_eq(gone_after(&r, busy, 10), 0);
    (void)gone_after(&r, idle, 20);
    (void)gone_after(&r, idle, 30);
    cr_assert_eq(gone_after(&r, busy, 40), 0, "it is there again, after two looks without it");
}

Test(detect, a_slot_of_an_older_llama_server_is_busy_by_its_state)
{
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    (void)gone_after(&r, "[{'id':0,'state':0},{'id':1,'state':1},{'id':2,'state':5}]", 10);
    cr_assert_eq(r.facts.running, 2);
    (void)gone_after(&r, "[{'state':0,'is_processing':true},{'state':1,'is_processing':false}]",
                     20);
    cr_assert_eq(r.facts.running, 1);
}

Test(detect, figures_of_a_load_that_is_shown_no_more_are_forgotten)
{
    static const struct page router[] = {
        {"/slots", 400, "{'error':{'code':400}}"},
        {"/metrics", 400, "{'error':{'code':400}}"},
    };
    struct site up = SITE("llama.cpp", llama), other = SITE("llama.cpp", router);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look_at(&r, &up, LOOK_FULL, 1);
    cr_assert(r.facts.has_load);
    look_at(&r, &other, LOOK_LOAD, 2);
    cr_assert_str_eq(other.asked, "/slots,/metrics,");
    cr_assert_not(r.facts.has_load);
}

Test(detect, a_refused_key_is_reported_as_that)
{
    static const struct page pages[] = {{"/v1/models", 401, "{'error':{'code':401}}"}};
    struct site site = SITE("llama.cpp", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_not(r.facts.reachable);
    cr_assert_not_null(strstr(r.facts.detail, "API key"));
}

Test(detect, a_llama_server_that_lists_its_models_to_everybody_refuses_our_key_all_the_same)
{
    static const struct page pages[] = {
        {"/v1/models", 200, "{'data':[{'id':'m','owned_by':'llamacpp'}]}"},
        {"/props", 401, "{'error':{'code':401,'message':'Invalid API Key'}}"},
    };
    struct site site = SITE("llama.cpp", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_not(r.facts.reachable);
    cr_assert_not_null(
        strstr(r.facts.detail, "refuses our API key (GET http://engine:1/props"));
}

Test(detect, a_proxy_that_keeps_props_to_itself_refuses_no_key)
{
    static const unsigned statuses[] = {401, 403};

    for (size_t i = 0; i < ARRAY_LEN(statuses); i++) {
        struct page pages[] = {
            {"/v1/models", 200, "{'data':[{'id':'m','owned_by':'llamacpp'}]}"},
            {"/props", statuses[i], "<html>Forbidden</html>"},
        };
        struct site site = SITE("nginx", pages);
        static struct detector r;

        detect_init(&r, "http://engine:1", &all);
        look(&r, &site);
        cr_assert(r.facts.reachable, "%u: %s", statuses[i], r.facts.detail);
    }
}

Test(detect, a_refusal_of_our_requests_is_said_until_one_is_answered)
{
    static const struct page pages[] = {{"/v1/models", 200, "{'data':[{'id':'m'}]}"}};
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert(detect_refuses_us(&r, "a key"));
    cr_assert_not(detect_refuses_us(&r, "a key"), "no news");
    cr_assert_str_eq(r.facts.detail, "a key");
    look(&r, &site);
    cr_assert(r.facts.reachable);
    cr_assert_str_eq(r.facts.detail, "a key");
    cr_assert(detect_operation_works(&r, 1));
    cr_assert_str_eq(r.facts.detail, "");
    look(&r, &site);
    cr_assert_str_eq(r.facts.detail, "");
    cr_assert_not(detect_operation_works(&r, 1));
}

Test(detect, a_list_of_models_may_be_all_of_the_answer)
{
    static const struct page pages[] = {
        {"/v1/models", 200, "[{'id':'m','object':'model'},{'id':'n','context_length':4096}]"}};
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.kind, KIND(OPENAI));
    cr_assert_eq(r.facts.models_count, 2);
    cr_assert_eq(r.facts.models[1].max_context, 4096);
}

Test(detect, names_that_are_no_names_are_left_out)
{
    static const struct page pages[] = {
        {"/v1/models", 200,
         "{'data':[{'id':''},{'id':7},{'id':'a\\u0000b'},{'id':'good'},{'id':'good'}]}"},
    };
    struct site site = SITE("", pages);
    static struct detector r;

    detect_init(&r, "http://engine:1", &all);
    look(&r, &site);
    cr_assert_eq(r.facts.models_count, 1);
    cr_assert_str_eq(r.facts.models[0].id, "good");
}
