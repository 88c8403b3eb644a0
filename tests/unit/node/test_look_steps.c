/* test_look_steps.c - what a look of each level asks an engine, and what it leaves alone. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "node/engine/look/detect.h"
#include "proto/drover_common.pb-c.h"
#include "stream_rig.h"

#define STATE(name) DROVER__V1__MODEL_STATE__MODEL_STATE_##name

/* An engine as a table of answers; what is not in it is a 404. */
struct page {
    const char *path;
    const char *body; /* ' for " */
};

static const struct engine_offer no_offer;
static struct detector detector;
static char asked[512]; /* the paths of the last look */

static void look(const struct page *pages, enum look_level level)
{
    const char *path = detect_begin(&detector, level, 1);

    asked[0] = '\0';
    while (path != NULL) {
        struct detect_answer answer = {.status = 404, .server = "", .why = ""};
        struct buf body = BUF_INIT;

        (void)strlcat(asked, path, sizeof(asked));
        (void)strlcat(asked, " ", sizeof(asked));
        for (const struct page *page = pages; page->path != NULL; page++) {
            if (strcmp(page->path, path) != 0)
                continue;
            answer.status = 200;
            rig_add(&body, page->body);
        }
        answer.body = buf_head(&body);
        answer.n = buf_size(&body);
        path = detect_next(&detector, &answer);
        buf_finish(&body);
    }
}

#define MODELS "{'object':'list','data':[{'id':'m','owned_by':'%s'}]}"
#define PROPS(sleeps)                                                                \
    "{'default_generation_settings':{'n_ctx':64},'total_slots':2,'build_info':'b1'," \
    "'is_sleeping':" sleeps "}"
#define SLOT(busy, prompt, decoded)                                 \
    "{'is_processing':" busy ",'n_prompt_tokens_processed':" prompt \
    ",'next_token':[{'n_decoded':" decoded "}]}"

static const struct page llama[] = {
    {"/v1/models", "{'object':'list','data':[{'id':'m','owned_by':'llamacpp'}]}"},
    {"/props", PROPS("false")},
    {"/slots", "[" SLOT("true", "10", "1") "," SLOT("false", "900", "7") "]"},
    {"/metrics", "llamacpp:n_decode_total 5\nllamacpp:requests_processing 1\n"
                 "llamacpp:requests_deferred 0\n"},
    {"/health", "{}"},
    {NULL, NULL},
};

Test(look_steps, a_llama_server_that_is_known_is_asked_for_its_load_only_when_busy)
{
    detect_init(&detector, "http://e", &no_offer);
    look(llama, LOOK_LIGHT);
    cr_assert_str_eq(asked, "/v1/models /props /slots /metrics ", "it is not known yet");
    look(llama, LOOK_LIGHT);
    cr_assert_str_eq(asked, "/health ");
    cr_assert_not(detector.load_seen);
    look(llama, LOOK_FULL);
    cr_assert_str_eq(asked, "/v1/models /props ");
    cr_assert_not(detector.load_seen);
    cr_assert(detect_shows_load(&detector));
    look(llama, LOOK_LOAD);
    cr_assert_str_eq(asked, "/slots /metrics ", "the speeds, once after each full look");
    cr_assert(detector.load_seen);
    look(llama, LOOK_LOAD);
    cr_assert_str_eq(asked, "/slots ");
}

Test(look_steps, a_sleeping_llama_server_is_not_woken_by_the_first_look)
{
    const struct page sleeping[] = {
        llama[0], {"/props", PROPS("true")}, llama[2], llama[3], llama[4], {NULL, NULL}};

    detect_init(&detector, "http://e", &no_offer);
    look(sleeping, LOOK_FULL);
    cr_assert_str_eq(asked, "/v1/models /props ");
    cr_assert_eq(detector.facts.slots, 2);
    cr_assert_eq(detector.facts.models[0].state, STATE(LOADABLE));
    cr_assert(detect_shows_load(&detector));
}

Test(look_steps, an_engine_without_slots_shows_its_load_by_metrics)
{
    const struct page pages[] = {llama[0], llama[1], llama[3], llama[4], {NULL, NULL}};

    detect_init(&detector, "http://e", &no_offer);
    look(pages, LOOK_FULL);
    look(pages, LOOK_LOAD);
    cr_assert_str_eq(asked, "/metrics ");
    look(pages, LOOK_FULL);
    look(pages, LOOK_LOAD);
    cr_assert_str_eq(asked, "/slots /metrics ", "perhaps it has been started anew since");
    cr_assert_eq(detector.facts.progress, 5);
}

Test(look_steps, an_engine_that_shows_no_load_says_so)
{
    const struct page pages[] = {llama[0], llama[1], llama[4], {NULL, NULL}};

    detect_init(&detector, "http://e", &no_offer);
    look(pages, LOOK_FULL);
    cr_assert_not(detect_shows_load(&detector));
    look(pages, LOOK_FULL);
    cr_assert(detect_shows_load(&detector), "perhaps it has been started anew since");
    look(pages, LOOK_LOAD);
    cr_assert_not(detect_shows_load(&detector));
    look(pages, LOOK_LIGHT);
    cr_assert_str_eq(asked, "/health ");
}

Test(look_steps, progress_grows_with_the_tokens_in_slots_and_never_falls)
{
    static const struct {
        const char *slots;
        unsigned progress;
    } seen[] = {
        {"[" SLOT("true", "10", "0") "," SLOT("false", "900", "7") "]", 10},
        {"[" SLOT("true", "64", "0") "," SLOT("false", "900", "7") "]", 64},
        {"[" SLOT("true", "64", "0") "," SLOT("false", "900", "7") "]", 64},
        {"[" SLOT("true", "64", "5") "," SLOT("true", "20", "0") "]", 89},
        {"[" SLOT("false", "64", "5") "," SLOT("true", "30", "0") "]", 119},
        {"[" SLOT("false", "64", "5") "," SLOT("false", "30", "0") "]", 119},
        {"[" SLOT("true", "3", "0") "," SLOT("false", "30", "0") "]", 122},
    };

    detect_init(&detector, "http://e", &no_offer);
    for (size_t i = 0; i < sizeof(seen) / sizeof(seen[0]); i++) {
        const struct page pages[] = {
            llama[0], llama[1], {"/slots", seen[i].slots}, {NULL, NULL}};

        look(pages, LOOK_LOAD);
        cr_assert_eq(detector.facts.progress, seen[i].progress, "%zu: %u", i,
                     (unsigned)detector.facts.progress);
    }
}

Test(look_steps, each_kind_has_a_light_look_that_posts_no_work)
{
    static const struct {
        const char *owner;
        const char *light, *load; /* NULL: it shows none */
    } kinds[] = {
        {"llamacpp", "/health ", "/slots /metrics "},
        {"vllm", "/health ", "/metrics "},
        {"sglang", "/v1/models ", "/metrics "},
        {"library", "/api/ps ", "/api/ps "},
        {"me", "/v1/models ", NULL},
    };

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        char models[128];
        const struct page pages[] = {
            {"/v1/models", models},
            {"/health", "{}"},
            {"/metrics", "vllm:num_requests_running 1\nvllm:num_requests_waiting 0\n"
                         "sglang:num_running_reqs 1\nsglang:num_queue_reqs 0\n"},
            {"/slots", "[]"},
            {"/api/ps", "{'models':[]}"},
            {strcmp(kinds[i].owner, "library") == 0 ? "/api/tags" : "/none",
             "{'models':[{'name':'m'}]}"},
            {NULL, NULL}};

        (void)snprintf(models, sizeof(models), MODELS, kinds[i].owner);
        detect_init(&detector, "http://e", &no_offer);
        look(pages, LOOK_FULL);
        look(pages, LOOK_LIGHT);
        cr_assert_str_eq(asked, kinds[i].light, "%s: %s", kinds[i].owner, asked);
        cr_assert_eq(detect_shows_load(&detector), kinds[i].load != NULL, "%s", kinds[i].owner);
        if (kinds[i].load == NULL)
            continue;
        look(pages, LOOK_LOAD);
        cr_assert_str_eq(asked, kinds[i].load, "%s: %s", kinds[i].owner, asked);
    }
}

Test(look_steps, a_router_shows_by_its_list_which_models_run)
{
    static const struct page router[] = {
        {"/v1/models", "{'object':'list','data':[{'id':'m','owned_by':'llamacpp','status':"
                       "{'value':'unloaded','args':[]}}]}"},
        {"/props", "{'role':'router','max_instances':1,'build_info':'b1'}"},
        {"/health", "{}"},
        {NULL, NULL},
    };

    detect_init(&detector, "http://e", &no_offer);
    look(router, LOOK_FULL);
    cr_assert_str_eq(asked, "/v1/models /props ");
    look(router, LOOK_LOAD);
    cr_assert_str_eq(asked, "/v1/models ");
    look(router, LOOK_LIGHT);
    cr_assert_str_eq(asked, "/health ");
    cr_assert_eq(detector.facts.models_at_once, 1, "it keeps one model at once");
    cr_assert_eq(detector.facts.models_in_memory, 0);
}

#define ROUTED(name, state)              \
    "{'id':'" name "','aliases':['" name \
    "-too'],'owned_by':'llamacpp','status':{'value':'" state "','args':[]}}"
#define ROUTER(states)                                                    \
    {"/v1/models", "{'object':'list','data':[" states "]}"},              \
    {                                                                     \
        "/props", "{'role':'router','max_instances':4,'build_info':'b1'}" \
    }

Test(look_steps, a_router_is_asked_for_the_work_of_the_models_that_work_for_us)
{
    static const char b_c[] =
        "/v1/models /slots?model=b%2Fx&autoload=false /slots?model=c&autoload=false ";
    static const struct page pages[] = {
        ROUTER(ROUTED("a", "loaded") "," ROUTED("b/x", "loaded") "," ROUTED("c", "loaded")),
        {"/slots?model=b%2Fx&autoload=false", "[" SLOT("true", "10", "1") "]"},
        {"/slots?model=c&autoload=false", "[" SLOT("true", "5", "0") "]"},
        {NULL, NULL},
    };
    static const struct page later[] = {
        ROUTER(ROUTED("a", "loaded") "," ROUTED("b/x", "loaded") "," ROUTED("c", "unloaded")),
        {"/slots?model=b%2Fx&autoload=false", "[" SLOT("true", "12", "1") "]"},
        {NULL, NULL},
    };

    detect_init(&detector, "http://e", &no_offer);
    look(pages, LOOK_FULL);
    cr_assert_eq(detector.facts.models_in_memory, 3);
    detect_busy(&detector, "b/x-too");
    detect_busy(&detector, "b/x");
    detect_busy(&detector, "c");
    detect_busy(&detector, "nobody");
    look(pages, LOOK_LOAD);
    cr_assert_str_eq(asked, b_c, "%s", asked);
    cr_assert(detector.load_seen);
    cr_assert(detector.facts.progress_counts);
    cr_assert_neq(detector.facts.progress_mono_us, 0);
    cr_assert_eq(detector.facts.progress, 16);
    look(pages, LOOK_LOAD);
    cr_assert_eq(detector.facts.progress, 16, "nothing moves");
    look(later, LOOK_LOAD);
    cr_assert_str_eq(asked, "/v1/models /slots?model=b%2Fx&autoload=false ");
    cr_assert_neq(detector.facts.progress, 16);
    cr_assert_eq(detector.facts.models_in_memory, 2);
    detect_none_busy(&detector);
    look(later, LOOK_LOAD);
    cr_assert_str_eq(asked, "/v1/models ");
}

Test(look_steps, a_router_whose_models_do_not_say_all_shows_no_work)
{
    static const struct page pages[] = {
        ROUTER(ROUTED("a", "loaded") "," ROUTED("b", "loaded")),
        {"/slots?model=a&autoload=false", "[" SLOT("true", "10", "1") "]"},
        {"/slots?model=b&autoload=false", "{'error':'busy'}"},
        {NULL, NULL},
    };

    detect_init(&detector, "http://e", &no_offer);
    look(pages, LOOK_FULL);
    detect_busy(&detector, "a");
    detect_busy(&detector, "b");
    look(pages, LOOK_LOAD);
    cr_assert_eq(detector.facts.progress_mono_us, 0);
    cr_assert(detector.facts.reachable);
}

Test(look_steps, a_router_without_slots_shows_its_work_by_metrics)
{
    static const struct page pages[] = {
        ROUTER(ROUTED("a", "loaded") "," ROUTED("b", "loaded")),
        {"/metrics?model=a&autoload=false", "llamacpp:n_decode_total 5\n"},
        {"/metrics?model=b&autoload=false", "llamacpp:n_decode_total 7\n"},
        {NULL, NULL},
    };

    detect_init(&detector, "http://e", &no_offer);
    look(pages, LOOK_FULL);
    detect_busy(&detector, "a");
    detect_busy(&detector, "b");
    look(pages, LOOK_LOAD);
    cr_assert_eq(detector.facts.progress, 12);
    look(pages, LOOK_LOAD);
    cr_assert_str_eq(asked, "/v1/models /metrics?model=a&autoload=false "
                            "/metrics?model=b&autoload=false ");
    cr_assert_eq(detector.facts.progress, 12);
}

Test(look_steps, a_light_look_forgets_no_slots)
{
    static const struct page sglang[] = {
        {"/v1/models", "{'object':'list','data':[{'id':'m','owned_by':'sglang'}]}"},
        {"/server_info", "{'version':'0.5','max_running_requests':48}"},
        {"/metrics", "sglang:num_running_reqs 1\nsglang:num_queue_reqs 0\n"},
        {NULL, NULL},
    };

    detect_init(&detector, "http://e", &no_offer);
    look(sglang, LOOK_FULL);
    cr_assert_eq(detector.facts.slots, 48);
    look(sglang, LOOK_LIGHT);
    cr_assert_eq(detector.facts.slots, 48);
}

Test(look_steps, a_look_that_is_refused_shows_no_models)
{
    struct detect_answer busy = {.status = 429, .server = "", .why = ""};

    detect_init(&detector, "http://e", &no_offer);
    look(llama, LOOK_FULL);
    cr_assert_not(detector.abandoned);
    cr_assert_not_null(detect_begin(&detector, LOOK_FULL, 2));
    cr_assert_null(detect_next(&detector, &busy));
    cr_assert(detector.abandoned);
    cr_assert(detector.facts.reachable);
}
