/* test_engine.c - the simulated engine as a struct engine, on a loop of its own. */
#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/loop.h"
#include "node/engine/engine.h"
#include "proto/drover_common.pb-c.h"
#include "sim/sim_engine.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name
#define CHAT     OP(CHAT_COMPLETIONS)
#define LLAMAS   "\"messages\":[{\"role\":\"user\",\"content\":\"Tell me about llamas.\"}]"

/* No test waits longer for anything. */
#define PATIENCE_US (20 * US_PER_S)

static struct loop loop;
static struct engine *engine;

/* What came of one run. */
struct seen {
    struct engine_run *run;
    unsigned status; /* 0 before the head */
    char content_type[64];
    struct buf body;
    unsigned pieces;
    bool ended;
    enum engine_end end;
    bool cancel_in_body; /* cancels the run when the first body bytes come */
    bool pause_in_body;  /* pauses it then */
};

static void on_head(void *data, unsigned status, const char *content_type,
                    const struct engine_header *headers, size_t n)
{
    struct seen *seen = data;

    (void)headers;
    (void)n;
    cr_assert_eq(seen->status, 0, "two heads");
    seen->status = status;
    (void)strlcpy(seen->content_type, content_type, sizeof(seen->content_type));
}

static void on_body(void *data, const uint8_t *bytes, size_t n)
{
    struct seen *seen = data;

    cr_assert_neq(seen->status, 0, "body before head");
    cr_assert_not(seen->ended);
    buf_add(&seen->body, bytes, n);
    seen->pieces++;
    if (seen->cancel_in_body) {
        engine->ops->cancel(seen->run);
        seen->run = NULL;
    } else if (seen->pause_in_body) {
        engine->ops->pause(seen->run, true);
    }
}

static void on_end(void *data, enum engine_end end, const char *why)
{
    struct seen *seen = data;

    cr_assert_not_null(why);
    cr_assert_not(seen->ended, "two ends");
    seen->ended = true;
    seen->end = end;
    seen->run = NULL;
}

static const struct engine_events EVENTS = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end};

static void up(const char *spec)
{
    struct error err = {0};

    cr_assert_eq(loop_init(&loop, &err), 0);
    cr_assert_eq(sim_engine_create(&engine, &loop, spec, &err), 0, "%s", err.text);
}

static void down(void)
{
    engine->ops->destroy(engine);
    loop_finish(&loop);
}

static void start_with(struct seen *seen, int operation, const char *type, const void *body,
                       size_t len, const char *attempt)
{
    struct engine_header header = {.name = "x-drover-attempt", .value = attempt};
    struct engine_request request = {
        .operation = operation,
        .content_type = type,
        .body = body,
        .body_len = len,
        .headers = &header,
        .headers_count = attempt != NULL,
        .id = "test",
    };
    struct error err = {0};

    memset(seen, 0, sizeof(*seen));
    cr_assert_eq(engine->ops->start(engine, &seen->run, &request, &EVENTS, seen, &err), 0, "%s",
                 err.text);
    cr_assert_eq(seen->status, 0, "an event from inside start");
}

static void start(struct seen *seen, int operation, const char *body)
{
    start_with(seen, operation, "application/json", body, strlen(body), NULL);
}

static bool turn_until(const bool *flag)
{
    uint64_t until = clock_mono_us() + PATIENCE_US;

    while (!*flag && clock_mono_us() < until)
        loop_turn(&loop, 10000);
    return *flag;
}

static void ask(struct seen *seen, int operation, const char *body)
{
    start(seen, operation, body);
    cr_assert(turn_until(&seen->ended), "no end");
}

static cJSON *parsed(const struct seen *seen)
{
    cJSON *root =
        cJSON_ParseWithLength((const char *)buf_head(&seen->body), buf_size(&seen->body));

    cr_assert_not_null(root, "not JSON: %.*s", (int)buf_size(&seen->body),
                       (const char *)buf_head(&seen->body));
    return root;
}

/* A member by a path of names and indexes: "choices", "0", "text".  Ends in NULL. */
static const cJSON *at(const cJSON *root, const char *const *path)
{
    for (; *path != NULL && root != NULL; path++)
        root = cJSON_IsArray(root) ? cJSON_GetArrayItem(root, atoi(*path))
                                   : cJSON_GetObjectItemCaseSensitive(root, *path);
    return root;
}
#define AT(root, ...) at(root, (const char *const[]){__VA_ARGS__, NULL})
#define TEXT(root, ...) \
    (AT(root, __VA_ARGS__) == NULL ? "(none)" : AT(root, __VA_ARGS__)->valuestring)
#define NUMBER(root, ...) \
    (AT(root, __VA_ARGS__) == NULL ? -1 : AT(root, __VA_ARGS__)->valuedouble)

/* Joins the texts of a chat stream; `fingerprint` (13 bytes) gets the one that all have. */
static void chat_text(const struct seen *seen, char *out, size_t cap, char *fingerprint)
{
    struct buf body = BUF_INIT;
    const char *line;
    size_t used = 0;

    buf_add(&body, buf_head(&seen->body), buf_size(&seen->body));
    out[0] = '\0';
    fingerprint[0] = '\0';
    for (line = strtok((char *)(uintptr_t)buf_cstr(&body), "\n"); line != NULL;
         line = strtok(NULL, "\n")) {
        cJSON *event;
        const cJSON *text;

        if (strcmp(line, "data: [DONE]") == 0)
            continue;
        cr_assert_eq(strncmp(line, "data: ", 6), 0);
        event = cJSON_Parse(line + 6);
        cr_assert_not_null(event, "%s", line);
        cr_assert(cJSON_IsTrue(AT(event, "simulated")), "%s", line);
        if (fingerprint[0] == '\0')
            (void)strlcpy(fingerprint, TEXT(event, "system_fingerprint"), 13);
        cr_assert_str_eq(fingerprint, TEXT(event, "system_fingerprint"));
        text = AT(event, "choices", "0", "delta", "content");
        if (cJSON_IsString(text)) {
            used += strlen(text->valuestring);
            cr_assert_lt(used, cap);
            (void)strlcat(out, text->valuestring, cap);
        }
        cJSON_Delete(event);
    }
    buf_finish(&body);
}

static bool ends_with(const struct seen *seen, const char *end)
{
    size_t n = strlen(end), size = buf_size(&seen->body);

    return size >= n && memcmp(buf_head(&seen->body) + size - n, end, n) == 0;
}

static bool holds(const struct seen *seen, const char *text)
{
    return memmem(buf_head(&seen->body), buf_size(&seen->body), text, strlen(text)) != NULL;
}

#define QUICK "base_ms=0.1,slope_ms=0,tokens=12,name=a"

Test(sim_engine, a_chat_says_the_same_streamed_and_whole)
{
    struct seen whole, stream;
    char text[1024], mark[13];
    cJSON *root;

    up(QUICK);
    ask(&whole, CHAT, "{\"model\":\"sim\"," LLAMAS "}");
    ask(&stream, CHAT, "{\"model\":\"sim\",\"stream\":true," LLAMAS "}");
    cr_assert_eq(whole.status, 200);
    cr_assert_str_eq(stream.content_type, "text/event-stream");
    root = parsed(&whole);
    chat_text(&stream, text, sizeof(text), mark);
    cr_assert_str_eq(TEXT(root, "choices", "0", "message", "content"), text);
    cr_assert_str_eq(TEXT(root, "choices", "0", "finish_reason"), "stop");
    cr_assert_eq(NUMBER(root, "usage", "completion_tokens"), 12);
    /* "user\nTell me about llamas.\nassistant\n" is 37 bytes. */
    cr_assert_eq(NUMBER(root, "usage", "prompt_tokens"), 10);
    cr_assert(cJSON_IsTrue(AT(root, "simulated")));
    cr_assert_str_neq(TEXT(root, "system_fingerprint"), mark, "two attempts, one nonce");
    cr_assert_eq(strstr(text, mark + 4), NULL, "the nonce is in the text");
    cr_assert(ends_with(&stream, "data: [DONE]\n\n"));
    cr_assert_eq(stream.pieces, 12,
                 "a piece a token; the first has the role, the last the end");
    cJSON_Delete(root);
    buf_finish(&whole.body);
    buf_finish(&stream.body);
    down();
}

Test(sim_engine, usage_comes_in_a_stream_when_asked_for)
{
    struct seen seen;

    up(QUICK);
    ask(&seen, CHAT,
        "{\"stream\":true,\"max_tokens\":3,\"stream_options\":{\"include_usage\":true}," LLAMAS
        "}");
    cr_assert(holds(&seen, "\"finish_reason\":\"length\""));
    cr_assert(holds(&seen, "\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":3,"
                           "\"total_tokens\":13,\"prompt_tokens_details\":{\"cached_tokens\":0}"
                           "}}\n\ndata: [DONE]\n\n"));
    buf_finish(&seen.body);
    down();
}

/* Runs a chat with `partial` as the beginning of its answer. */
static void continue_chat(char *out, size_t cap, const char *partial, unsigned max_tokens)
{
    struct seen seen;
    char body[4096], mark[13];
    cJSON *text = cJSON_CreateString(partial);
    char *quoted = cJSON_PrintUnformatted(text);

    (void)snprintf(body, sizeof(body),
                   "{\"model\":\"sim\",\"stream\":true,\"max_tokens\":%u,"
                   "\"continue_final_message\":true,\"add_generation_prompt\":false,"
                   "\"messages\":[{\"role\":\"user\",\"content\":\"Tell me about llamas.\"},"
                   "{\"role\":\"assistant\",\"content\":%s}]}",
                   max_tokens, quoted);
    ask(&seen, CHAT, body);
    chat_text(&seen, out, cap, mark);
    cJSON_free(quoted);
    cJSON_Delete(text);
    buf_finish(&seen.body);
}

Test(sim_engine, another_engine_continues_an_answer)
{
    struct seen seen;
    char whole[2048], part[2048], rest[2048], mark[13];

    up(QUICK ",seed=1");
    ask(&seen, CHAT, "{\"model\":\"sim\",\"stream\":true,\"max_tokens\":40," LLAMAS "}");
    chat_text(&seen, whole, sizeof(whole), mark);
    buf_finish(&seen.body);
    ask(&seen, CHAT, "{\"model\":\"sim\",\"stream\":true,\"max_tokens\":17," LLAMAS "}");
    chat_text(&seen, part, sizeof(part), mark);
    buf_finish(&seen.body);
    down();

    up("base_ms=0.2,slope_ms=0,tokens=99,name=b,cache=slot,seed=2");
    continue_chat(rest, sizeof(rest), part, 40 - 17);
    cr_assert_eq(strncmp(whole, part, strlen(part)), 0);
    cr_assert_str_eq(rest, whole + strlen(part));
    down();
}

Test(sim_engine, a_limit_ends_with_length_and_a_length_with_stop)
{
    struct seen seen;
    cJSON *root;

    up(QUICK);
    ask(&seen, CHAT, "{\"max_tokens\":9,\"drover_sim\":{\"tokens\":5}," LLAMAS "}");
    root = parsed(&seen);
    cr_assert_eq(NUMBER(root, "usage", "completion_tokens"), 5);
    cr_assert_str_eq(TEXT(root, "choices", "0", "finish_reason"), "stop");
    cJSON_Delete(root);
    buf_finish(&seen.body);
    ask(&seen, CHAT, "{\"max_tokens\":9,\"drover_sim\":{\"tokens\":50}," LLAMAS "}");
    root = parsed(&seen);
    cr_assert_eq(NUMBER(root, "usage", "completion_tokens"), 9);
    cr_assert_str_eq(TEXT(root, "choices", "0", "finish_reason"), "length");
    cJSON_Delete(root);
    buf_finish(&seen.body);
    ask(&seen, CHAT, "{\"max_tokens\":0," LLAMAS "}");
    root = parsed(&seen);
    cr_assert_eq(NUMBER(root, "usage", "completion_tokens"), 0);
    cJSON_Delete(root);
    buf_finish(&seen.body);
    down();
}

Test(sim_engine, the_second_time_a_prompt_is_cached)
{
    struct seen seen;
    cJSON *root;

    up(QUICK ",block=4");
    ask(&seen, CHAT, "{" LLAMAS "}");
    buf_finish(&seen.body);
    ask(&seen, CHAT, "{" LLAMAS "}");
    root = parsed(&seen);
    cr_assert_eq(NUMBER(root, "usage", "prompt_tokens_details", "cached_tokens"), 8,
                 "37 bytes are two blocks of 16 bytes");
    cJSON_Delete(root);
    buf_finish(&seen.body);
    ask(&seen, OP(MESSAGES), "{\"max_tokens\":1," LLAMAS "}");
    root = parsed(&seen);
    cr_assert_eq(NUMBER(root, "usage", "cache_read_input_tokens"), 8);
    cr_assert_eq(NUMBER(root, "usage", "input_tokens"), 2, "Anthropic counts them apart");
    cJSON_Delete(root);
    buf_finish(&seen.body);
    down();
}

Test(sim_engine, slots_and_queue_are_in_the_facts)
{
    struct seen seen[3];
    const struct engine_facts *facts;
    unsigned i;

    up("slots=2,base_ms=0.1,slope_ms=0");
    facts = engine->ops->facts(engine);
    cr_assert_eq(facts->kind, DROVER__V1__ENGINE_KIND__ENGINE_KIND_SIMULATED);
    cr_assert_eq(facts->slots, 2);
    cr_assert(facts->reachable && facts->has_load && !facts->loading);
    cr_assert_eq(facts->models_count, 3);
    cr_assert_str_eq(facts->models[2].id, "sim-embed");
    cr_assert_eq(facts->models[2].operations & 1u << CHAT, 0);
    cr_assert_neq(facts->models[2].operations & 1u << OP(EMBEDDINGS), 0);
    for (i = 0; i < 3; i++)
        start(&seen[i], CHAT,
              "{\"stream\":true,\"drover_sim\":{\"fault\":\"hang\",\"after_tokens\":1}," LLAMAS
              "}");
    while (seen[0].pieces == 0 || seen[1].pieces == 0)
        loop_turn(&loop, 1000);
    facts = engine->ops->facts(engine);
    cr_assert_eq(facts->running, 2);
    cr_assert_eq(facts->queued, 1);
    cr_assert_gt(facts->progress, 0);
    engine->ops->cancel(seen[0].run);
    cr_assert_eq(engine->ops->facts(engine)->running, 1, "the slot is free at once");
    while (seen[2].pieces == 0)
        loop_turn(&loop, 1000);
    cr_assert_eq(engine->ops->facts(engine)->queued, 0);
    for (i = 0; i < 3; i++)
        buf_finish(&seen[i].body);
    down(); /* with two runs open */
}

Test(sim_engine, a_run_may_be_cancelled_from_its_own_callback)
{
    struct seen seen, other;

    up(QUICK);
    start(&seen, CHAT, "{\"stream\":true," LLAMAS "}");
    seen.cancel_in_body = true;
    ask(&other, CHAT, "{\"stream\":true," LLAMAS "}");
    cr_assert_eq(seen.pieces, 1);
    cr_assert_not(seen.ended);
    cr_assert_eq(engine->ops->facts(engine)->running, 0);
    buf_finish(&seen.body);
    buf_finish(&other.body);
    down();
}

Test(sim_engine, a_paused_run_gives_nothing_stops_at_a_bound_and_loses_nothing)
{
    struct seen paused, free_run;
    char x[65536], y[65536], mark[13];

    up("rate=100000,ctx=100000");
    start(&paused, CHAT, "{\"model\":\"sim\",\"stream\":true,\"max_tokens\":2000," LLAMAS "}");
    paused.pause_in_body = true;
    ask(&free_run, CHAT, "{\"model\":\"sim\",\"stream\":true,\"max_tokens\":2000," LLAMAS "}");
    cr_assert_eq(paused.pieces, 1, "delivered while paused");
    cr_assert_eq(engine->ops->facts(engine)->running, 1, "it has far to go: it was stopped");
    paused.pause_in_body = false;
    engine->ops->pause(paused.run, false);
    cr_assert_eq(paused.pieces, 1, "delivered from inside pause");
    cr_assert(turn_until(&paused.ended));
    chat_text(&paused, x, sizeof(x), mark);
    chat_text(&free_run, y, sizeof(y), mark);
    cr_assert_str_eq(x, y);
    buf_finish(&paused.body);
    buf_finish(&free_run.body);
    down();
}

Test(sim_engine, a_run_paused_before_its_head_gets_all_of_it_later)
{
    struct seen seen, other;

    up(QUICK);
    start(&seen, CHAT, "{" LLAMAS "}");
    engine->ops->pause(seen.run, true);
    ask(&other, CHAT, "{\"max_tokens\":50," LLAMAS "}");
    cr_assert_eq(seen.status, 0);
    cr_assert_eq(engine->ops->facts(engine)->running, 0, "its slot is free all the same");
    engine->ops->pause(seen.run, false);
    cr_assert(turn_until(&seen.ended));
    cr_assert_eq(seen.status, 200);
    cJSON_Delete(parsed(&seen));
    buf_finish(&seen.body);
    buf_finish(&other.body);
    down();
}

/* ---- faults ---------------------------------------------------------------------------- */

static void ask_fault(struct seen *seen, bool stream, const char *fault, const char *attempt)
{
    char body[512];

    (void)snprintf(body, sizeof(body), "{\"stream\":%s,\"drover_sim\":{%s}," LLAMAS "}",
                   stream ? "true" : "false", fault);
    start_with(seen, CHAT, NULL, body, strlen(body), attempt);
    cr_assert(turn_until(&seen->ended), "no end");
}

Test(sim_engine, faults_before_any_output)
{
    struct seen seen;

    up(QUICK);
    ask_fault(&seen, true, "\"fault\":\"reset\"", NULL);
    cr_assert_eq(seen.end, ENGINE_END_LOST);
    cr_assert_eq(seen.status, 0);
    ask_fault(&seen, true, "\"fault\":\"garbage\"", NULL);
    cr_assert_eq(seen.end, ENGINE_END_GARBAGE);
    ask_fault(&seen, true, "\"fault\":\"5xx\"", NULL);
    cr_assert_eq(seen.end, ENGINE_END_OK);
    cr_assert_eq(seen.status, 500);
    buf_finish(&seen.body);
    ask_fault(&seen, true, "\"fault\":\"error_first\"", NULL);
    cr_assert_eq(seen.status, 200);
    cr_assert(holds(&seen, "data: {\"error\":{"));
    cr_assert_not(holds(&seen, "choices"));
    buf_finish(&seen.body);
    down();
}

Test(sim_engine, faults_after_two_tokens)
{
    struct seen seen;

    up(QUICK);
    ask_fault(&seen, true, "\"fault\":\"reset\",\"after_tokens\":2", NULL);
    cr_assert_eq(seen.end, ENGINE_END_LOST);
    cr_assert_eq(seen.pieces, 2);
    buf_finish(&seen.body);
    ask_fault(&seen, true, "\"fault\":\"truncate\",\"after_tokens\":2", NULL);
    cr_assert_eq(seen.end, ENGINE_END_OK);
    cr_assert_eq(seen.pieces, 2);
    cr_assert_not(holds(&seen, "[DONE]"));
    cr_assert_not(holds(&seen, "\"finish_reason\":\""));
    buf_finish(&seen.body);
    ask_fault(&seen, true, "\"fault\":\"5xx\",\"after_tokens\":2", NULL);
    cr_assert_eq(seen.status, 200);
    cr_assert(holds(&seen, "data: {\"error\":{"));
    cr_assert_not(holds(&seen, "[DONE]"));
    buf_finish(&seen.body);
    ask_fault(&seen, true, "\"fault\":\"truncate\",\"after_tokens\":12", NULL);
    cr_assert_eq(seen.pieces, 12, "all tokens, and no end");
    cr_assert_not(holds(&seen, "[DONE]"));
    buf_finish(&seen.body);
    down();
}

Test(sim_engine, a_fault_may_be_for_one_node_or_attempt_only)
{
    struct seen seen;

    up(QUICK);
    ask_fault(&seen, true, "\"fault\":\"reset\",\"only_node\":\"b\"", NULL);
    cr_assert_eq(seen.end, ENGINE_END_OK);
    buf_finish(&seen.body);
    ask_fault(&seen, true, "\"fault\":\"reset\",\"only_node\":\"a\"", NULL);
    cr_assert_eq(seen.end, ENGINE_END_LOST);
    ask_fault(&seen, true, "\"fault\":\"reset\",\"only_attempt\":0", "1");
    cr_assert_eq(seen.end, ENGINE_END_OK);
    buf_finish(&seen.body);
    ask_fault(&seen, true, "\"fault\":\"reset\",\"only_attempt\":1", "1");
    cr_assert_eq(seen.end, ENGINE_END_LOST);
    down();
}

Test(sim_engine, the_spec_can_fail_the_nth_request)
{
    struct seen seen;

    up(QUICK ",fail=reset@2,fail_after=1");
    ask(&seen, CHAT, "{\"stream\":true," LLAMAS "}");
    cr_assert_eq(seen.end, ENGINE_END_OK);
    buf_finish(&seen.body);
    ask(&seen, CHAT, "{\"stream\":true," LLAMAS "}");
    cr_assert_eq(seen.end, ENGINE_END_LOST);
    cr_assert_eq(seen.pieces, 1);
    buf_finish(&seen.body);
    ask(&seen, CHAT, "{\"stream\":true," LLAMAS "}");
    cr_assert_eq(seen.end, ENGINE_END_OK);
    buf_finish(&seen.body);
    down();
}

Test(sim_engine, die_ends_the_process, .exit_code = 1)
{
    struct seen seen;

    up(QUICK);
    start(&seen, CHAT, "{\"drover_sim\":{\"fault\":\"die\"}," LLAMAS "}");
    (void)turn_until(&seen.ended);
}

/* ---- loading --------------------------------------------------------------------------- */

static void note_facts(void *data)
{
    *(bool *)data = true;
}

Test(sim_engine, answers_503_while_it_loads_and_tells_when_it_is_done)
{
    struct seen seen;
    bool told = false;

    up(QUICK ",load_ms=300");
    engine->on_facts = note_facts;
    engine->on_facts_data = &told;
    cr_assert(engine->ops->facts(engine)->loading);
    cr_assert_eq(engine->ops->facts(engine)->models[0].state,
                 DROVER__V1__MODEL_STATE__MODEL_STATE_LOADING);
    ask(&seen, CHAT, "{" LLAMAS "}");
    cr_assert_eq(seen.status, 503);
    cr_assert(holds(&seen, "\"code\":503"));
    buf_finish(&seen.body);
    cr_assert(turn_until(&told));
    cr_assert_not(engine->ops->facts(engine)->loading);
    ask(&seen, CHAT, "{" LLAMAS "}");
    cr_assert_eq(seen.status, 200);
    buf_finish(&seen.body);
    down();
}

Test(sim_engine, a_model_on_demand_is_loaded_by_its_first_request)
{
    struct seen seen, gone;

    up(QUICK ",models=sim;big@100@50");
    cr_assert_eq(engine->ops->facts(engine)->models[1].state,
                 DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE);
    start(&gone, CHAT, "{\"model\":\"big\"," LLAMAS "}");
    start(&seen, CHAT, "{\"model\":\"big\"," LLAMAS "}");
    cr_assert_eq(engine->ops->facts(engine)->models[1].state,
                 DROVER__V1__MODEL_STATE__MODEL_STATE_LOADING);
    cr_assert_eq(engine->ops->facts(engine)->queued, 2);
    engine->ops->cancel(gone.run);
    cr_assert_eq(engine->ops->facts(engine)->queued, 1);
    cr_assert(turn_until(&seen.ended));
    cr_assert_eq(seen.status, 200);
    cr_assert_eq(engine->ops->facts(engine)->models[1].state,
                 DROVER__V1__MODEL_STATE__MODEL_STATE_READY);
    buf_finish(&seen.body);
    down();
}

/* ---- the other surfaces ---------------------------------------------------------------- */

/* Asks and expects a status and a few words in the answer. */
static void expect(int operation, const char *body, unsigned status, const char *words)
{
    struct seen seen;

    ask(&seen, operation, body);
    cr_assert_eq(seen.status, status, "%s: %u", body, seen.status);
    cr_assert(holds(&seen, words), "%s: %.*s", body, (int)buf_size(&seen.body),
              (const char *)buf_head(&seen.body));
    buf_finish(&seen.body);
}

Test(sim_engine, errors_have_the_shape_of_their_api)
{
    up(QUICK);
    expect(CHAT, "{", 400, "{\"error\":{\"message\":\"the body is not a JSON object\"");
    expect(CHAT, "[]", 400, "\"type\":\"invalid_request_error\"");
    expect(CHAT, "{}", 400, "'messages' is required");
    expect(CHAT, "{\"messages\":[]}", 400, "'messages' must not be empty");
    expect(CHAT, "{\"messages\":[1]}", 400, "has no 'role'");
    expect(CHAT, "{\"n\":2," LLAMAS "}", 400, "'n' is more than 1");
    expect(CHAT, "{\"model\":7," LLAMAS "}", 400, "'model' must be a string");
    expect(CHAT, "{\"model\":\"x\"," LLAMAS "}", 404, "\"code\":\"model_not_found\"");
    expect(CHAT, "{\"model\":\"sim-embed\"," LLAMAS "}", 400, "does not do this");
    expect(CHAT, "{\"drover_sim\":{\"prompt_tokens\":8192}," LLAMAS "}", 400,
           "\"code\":\"context_length_exceeded\"");
    expect(CHAT, "{\"drover_sim\":{\"fault\":\"boom\"}," LLAMAS "}", 400, "must be one of die");
    expect(OP(COMPLETIONS), "{}", 400, "'prompt' is required");
    expect(OP(COMPLETIONS), "{\"prompt\":[\"a\",\"b\"]}", 400, "takes one");
    expect(OP(RESPONSES), "{}", 400, "'input' is required");
    expect(OP(EMBEDDINGS), "{\"input\":[]}", 400, "'input' must be");
    expect(OP(RERANK), "{\"query\":\"q\"}", 400, "'documents' must be");
    expect(OP(MESSAGES), "{}", 400,
           "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":");
    expect(OP(OLLAMA_CHAT), "{}", 400, "{\"error\":\"'messages' is required\"");
    expect(99, "{}", 404, "no such endpoint");
    down();
}

Test(sim_engine, a_body_cut_anywhere_is_refused)
{
    static const char BODY[] =
        "{\"model\":\"sim\",\"max_tokens\":3,\"drover_sim\":{\"tokens\":2},"
        "\"tools\":[{\"type\":\"function\"}],\"stop\":[\"\\u00e9\"]," LLAMAS "}";
    struct seen seen;
    size_t n;

    up(QUICK);
    for (n = 0; n < sizeof(BODY) - 1; n++) {
        start_with(&seen, CHAT, NULL, BODY, n, NULL);
        cr_assert(turn_until(&seen.ended));
        cr_assert_eq(seen.status, 400, "cut after %zu bytes", n);
        buf_finish(&seen.body);
    }
    expect(CHAT, BODY, 200, "\"completion_tokens\":2");
    down();
}

Test(sim_engine, every_surface_streams_its_own_events)
{
    up(QUICK);
    expect(OP(COMPLETIONS), "{\"prompt\":\"x\",\"stream\":true,\"max_tokens\":1}", 200,
           "\"index\":0,\"logprobs\":null,\"finish_reason\":\"length\"}]");
    expect(OP(MESSAGES), "{\"stream\":true,\"max_tokens\":1," LLAMAS "}", 200,
           "\"stop_reason\":\"max_tokens\",\"stop_sequence\":null},\"usage\":{"
           "\"input_tokens\":10,\"cache_read_input_tokens\":0,"
           "\"cache_creation_input_tokens\":0,\"output_tokens\":1}");
    expect(OP(RESPONSES), "{\"input\":\"x\",\"stream\":true}", 200,
           "event: response.completed\ndata: {\"type\":\"response.completed\",");
    expect(OP(OLLAMA_CHAT), "{" LLAMAS "}", 200,
           "{\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,"
           "\"done_reason\":\"stop\"");
    expect(OP(OLLAMA_GENERATE), "{\"prompt\":\"x\",\"options\":{\"num_predict\":1}}", 200,
           "{\"response\":\"\",\"done\":true,\"done_reason\":\"length\"");
    expect(OP(COUNT_TOKENS), "{" LLAMAS "}", 200, "{\"input_tokens\":10,");
    expect(OP(OLLAMA_SHOW), "{\"model\":\"sim\"}", 200, "\"simulated.context_length\":8192");
    expect(CHAT,
           "{\"stream\":true,\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"look\"}"
           "}],\"tool_choice\":\"required\"," LLAMAS "}",
           200, "\"function\":{\"name\":\"look\",\"arguments\":\"\"}}]}");
    down();
}

Test(sim_engine, embeddings_are_unit_vectors_in_both_encodings)
{
    struct seen seen;
    cJSON *root;
    double sum = 0;
    int i;

    up(QUICK);
    ask(&seen, OP(EMBEDDINGS), "{\"model\":\"sim-embed\",\"input\":[\"one\",\"two\",\"one\"]}");
    root = parsed(&seen);
    cr_assert_eq(cJSON_GetArraySize(AT(root, "data")), 3);
    cr_assert_eq(cJSON_GetArraySize(AT(root, "data", "0", "embedding")), 8);
    for (i = 0; i < 8; i++) {
        double x = cJSON_GetArrayItem(AT(root, "data", "0", "embedding"), i)->valuedouble;

        cr_assert_float_eq(
            x, cJSON_GetArrayItem(AT(root, "data", "2", "embedding"), i)->valuedouble, 0);
        sum += x * x;
    }
    cr_assert_float_eq(sum, 1, 1e-6);
    cr_assert(!cJSON_Compare(AT(root, "data", "0", "embedding"),
                             AT(root, "data", "1", "embedding"), true));
    cJSON_Delete(root);
    buf_finish(&seen.body);

    ask(&seen, OP(EMBEDDINGS),
        "{\"model\":\"sim-embed\",\"input\":\"one\",\"encoding_format\":\"base64\"}");
    root = parsed(&seen);
    cr_assert_eq(strlen(TEXT(root, "data", "0", "embedding")), 44, "32 bytes in base64");
    cJSON_Delete(root);
    buf_finish(&seen.body);
    down();
}

Test(sim_engine, a_ranking_is_sorted_and_cut)
{
    struct seen seen;
    cJSON *root;

    up(QUICK);
    ask(&seen, OP(RERANK),
        "{\"query\":\"q\",\"documents\":[\"a\",{\"text\":\"b\"},\"c\"],\"top_n\":2}");
    root = parsed(&seen);
    cr_assert_eq(cJSON_GetArraySize(AT(root, "results")), 2);
    cr_assert_geq(NUMBER(root, "results", "0", "relevance_score"),
                  NUMBER(root, "results", "1", "relevance_score"));
    cJSON_Delete(root);
    buf_finish(&seen.body);
    down();
}

Test(sim_engine, a_transcription_depends_on_the_sound_and_not_on_the_boundary)
{
    static const char FORM[] = "--%s\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n"
                               "sim\r\n--%s\r\nContent-Disposition: form-data; name=\"file\"; "
                               "filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n"
                               "RIFF sound\r\n--%s--\r\n";
    struct seen x, y;
    char body[1024];
    cJSON *a, *b;

    up(QUICK);
    (void)snprintf(body, sizeof(body), FORM, "abc", "abc", "abc");
    start_with(&x, OP(TRANSCRIPTIONS), "multipart/form-data; boundary=abc", body, strlen(body),
               NULL);
    cr_assert(turn_until(&x.ended));
    (void)snprintf(body, sizeof(body), FORM, "xyz", "xyz", "xyz");
    start_with(&y, OP(TRANSCRIPTIONS), "multipart/form-data; boundary=\"xyz\"", body,
               strlen(body), NULL);
    cr_assert(turn_until(&y.ended));
    a = parsed(&x);
    b = parsed(&y);
    cr_assert_str_eq(TEXT(a, "text"), TEXT(b, "text"));
    cr_assert_gt(strlen(TEXT(a, "text")), 20);
    cJSON_Delete(a);
    cJSON_Delete(b);
    buf_finish(&x.body);
    buf_finish(&y.body);
    start_with(&x, OP(TRANSCRIPTIONS), "multipart/form-data; boundary=abc", "--abc--", 7, NULL);
    cr_assert(turn_until(&x.ended));
    cr_assert_eq(x.status, 400);
    buf_finish(&x.body);
    down();
}
