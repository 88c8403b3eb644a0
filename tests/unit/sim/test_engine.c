/* test_engine.c - the simulated engine on a loop of its own: slots, time, faults, loading. */
#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "base/text/buf.h"
#include "sim/sim_engine.h"

#define CHAT   SIM_OP_CHAT_COMPLETIONS
#define LLAMAS "\"messages\":[{\"role\":\"user\",\"content\":\"Tell me about llamas.\"}]"

/* No test waits longer for anything. */
#define PATIENCE_US (20 * US_PER_S)

static struct loop loop;
static struct sim_engine *engine;

/* The events of one run. */
struct seen {
    struct sim_run *run;
    unsigned status; /* 0 before the head */
    char content_type[64];
    struct buf body;
    unsigned pieces;
    bool ended;
    enum sim_end end;
    bool pause_in_body; /* pauses the run when body bytes come */
};

static void on_head(void *data, unsigned status, const char *content_type)
{
    struct seen *seen = data;

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
    if (seen->pause_in_body)
        sim_run_pause(seen->run, true);
}

static void on_end(void *data, enum sim_end end)
{
    struct seen *seen = data;

    cr_assert_not(seen->ended, "two ends");
    seen->ended = true;
    seen->end = end;
    seen->run = NULL;
}

static const struct sim_events EVENTS = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end};

static void up(const char *spec)
{
    struct error err = {0};

    cr_assert_eq(loop_init(&loop, &err), 0);
    cr_assert_eq(sim_engine_create(&engine, &loop, spec, &err), 0, "%s", err.text);
}

static void down(void)
{
    sim_engine_destroy(engine);
    loop_finish(&loop);
}

static void start_with(struct seen *seen, enum sim_operation operation, const void *body,
                       size_t len, uint32_t attempt)
{
    struct sim_input input = {
        .operation = operation,
        .content_type = "application/json",
        .body = body,
        .body_len = len,
        .attempt = attempt,
    };

    memset(seen, 0, sizeof(*seen));
    cr_assert_eq(sim_run_start(&seen->run, engine, &input, &EVENTS, seen), 0);
    cr_assert_eq(seen->status, 0, "an event from inside the start");
}

static void start(struct seen *seen, enum sim_operation operation, const char *body)
{
    start_with(seen, operation, body, strlen(body), 0);
}

static bool turn_until(const bool *flag)
{
    uint64_t until = clock_mono_us() + PATIENCE_US;

    while (!*flag && clock_mono_us() < until)
        loop_turn(&loop, 10000);
    return *flag;
}

static void ask(struct seen *seen, enum sim_operation operation, const char *body)
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

#define QUICK "base_ms=0.1,slope_ms=0,length=limit,tokens=12,name=a"

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

    up("base_ms=0.2,slope_ms=0,tokens=99,length=limit,cache=slot,seed=2");
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
    ask(&seen, SIM_OP_MESSAGES, "{\"max_tokens\":1," LLAMAS "}");
    root = parsed(&seen);
    cr_assert_eq(NUMBER(root, "usage", "cache_read_input_tokens"), 8);
    cr_assert_eq(NUMBER(root, "usage", "input_tokens"), 2, "Anthropic counts them apart");
    cJSON_Delete(root);
    buf_finish(&seen.body);
    down();
}

Test(sim_engine, a_length_of_its_own_ends_an_answer_long_before_a_large_limit)
{
    struct seen seen;
    cJSON *root;
    double first = 0;
    unsigned differ = 0;

    up("rate=100000,tokens=100,length=natural");
    for (unsigned i = 0; i < 8; i++) {
        char body[256];
        double n;

        (void)snprintf(body, sizeof(body),
                       "{\"max_tokens\":32000,\"messages\":[{\"role\":\"user\",\"content\":"
                       "\"Question %u\"}]}",
                       i);
        ask(&seen, CHAT, body);
        root = parsed(&seen);
        n = NUMBER(root, "usage", "completion_tokens");
        cr_assert(n >= 50 && n <= 150, "%g tokens", n);
        cr_assert_str_eq(TEXT(root, "choices", "0", "finish_reason"), "stop");
        first = i == 0 ? n : first;
        differ += n != first;
        cJSON_Delete(root);
        buf_finish(&seen.body);
    }
    cr_assert_gt(differ, 0, "eight prompts, one length");
    down();
}

Test(sim_engine, a_continued_answer_ends_where_the_whole_one_would)
{
    struct seen seen;
    char whole[4096], part[4096], rest[4096], mark[13];

    up("rate=100000,tokens=100");
    ask(&seen, CHAT, "{\"model\":\"sim\",\"stream\":true," LLAMAS "}");
    chat_text(&seen, whole, sizeof(whole), mark);
    buf_finish(&seen.body);
    ask(&seen, CHAT, "{\"model\":\"sim\",\"stream\":true,\"max_tokens\":30," LLAMAS "}");
    chat_text(&seen, part, sizeof(part), mark);
    buf_finish(&seen.body);
    continue_chat(rest, sizeof(rest), part, 9999);
    cr_assert_str_eq(rest, whole + strlen(part));
    down();
}

Test(sim_engine, slots_and_queue_are_in_its_status)
{
    struct seen seen[3];
    unsigned i;

    up("slots=2,base_ms=0.1,slope_ms=0");
    for (i = 0; i < 3; i++)
        start(&seen[i], CHAT,
              "{\"stream\":true,\"drover_sim\":{\"fault\":\"hang\",\"after_tokens\":1}," LLAMAS
              "}");
    while (seen[0].pieces == 0 || seen[1].pieces == 0)
        loop_turn(&loop, 1000);
    cr_assert_eq(sim_engine_status(engine).running, 2);
    cr_assert_eq(sim_engine_status(engine).queued, 1);
    cr_assert_gt(sim_engine_status(engine).progress, 0);
    sim_run_cancel(seen[0].run);
    cr_assert_eq(sim_engine_status(engine).running, 1, "the slot is free at once");
    while (seen[2].pieces == 0)
        loop_turn(&loop, 1000);
    cr_assert_eq(sim_engine_status(engine).queued, 0);
    for (i = 0; i < 3; i++)
        buf_finish(&seen[i].body);
    down(); /* with two runs open */
}

Test(sim_engine, the_time_of_prompts_and_answers_is_counted_when_they_end)
{
    struct seen seen;
    struct sim_status status;

    up("prefill=1000,base_ms=5,slope_ms=0,block=4,length=limit");
    ask(&seen, CHAT, "{\"max_tokens\":20," LLAMAS "}");
    buf_finish(&seen.body);
    ask(&seen, CHAT, "{\"max_tokens\":20," LLAMAS "}");
    buf_finish(&seen.body);
    status = sim_engine_status(engine);
    cr_assert_eq(status.prompt_tokens, 10 + 2, "8 of 10 are cached the second time");
    cr_assert_eq(status.output_tokens, 40);
    cr_assert_geq(status.prompt_us, 12000, "12 tokens at 1,000 a second");
    cr_assert_geq(status.output_us, 140000, "19 steps of 5 ms, twice; a late one is caught up");
    cr_assert_lt(status.prompt_us + status.output_us, PATIENCE_US);
    down();
}

Test(sim_engine, a_paused_run_keeps_its_slot_and_gets_nothing_until_it_goes_on)
{
    struct seen paused, other;

    up("rate=100000,length=limit");
    start(&paused, CHAT, "{\"stream\":true,\"max_tokens\":2000," LLAMAS "}");
    paused.pause_in_body = true;
    ask(&other, CHAT, "{\"stream\":true,\"max_tokens\":2000," LLAMAS "}");
    cr_assert_eq(paused.pieces, 1);
    cr_assert_eq(sim_engine_status(engine).running, 1);
    paused.pause_in_body = false;
    sim_run_pause(paused.run, false);
    cr_assert(turn_until(&paused.ended));
    cr_assert_eq(paused.pieces, other.pieces);
    buf_finish(&paused.body);
    buf_finish(&other.body);
    down();
}

/* ---- faults ---------------------------------------------------------------------------- */

static void ask_fault(struct seen *seen, bool stream, const char *fault, uint32_t attempt)
{
    char body[512];

    (void)snprintf(body, sizeof(body), "{\"stream\":%s,\"drover_sim\":{%s}," LLAMAS "}",
                   stream ? "true" : "false", fault);
    start_with(seen, CHAT, body, strlen(body), attempt);
    cr_assert(turn_until(&seen->ended), "no end");
}

Test(sim_engine, faults_before_any_output)
{
    struct seen seen;

    up(QUICK);
    ask_fault(&seen, true, "\"fault\":\"reset\"", 0);
    cr_assert_eq(seen.end, SIM_END_RESET);
    cr_assert_eq(seen.status, 0);
    ask_fault(&seen, true, "\"fault\":\"garbage\"", 0);
    cr_assert_eq(seen.end, SIM_END_GARBAGE);
    ask_fault(&seen, true, "\"fault\":\"5xx\"", 0);
    cr_assert_eq(seen.end, SIM_END_OK);
    cr_assert_eq(seen.status, 500);
    buf_finish(&seen.body);
    ask_fault(&seen, true, "\"fault\":\"error_first\"", 0);
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
    ask_fault(&seen, true, "\"fault\":\"reset\",\"after_tokens\":2", 0);
    cr_assert_eq(seen.end, SIM_END_RESET);
    cr_assert_eq(seen.pieces, 2);
    buf_finish(&seen.body);
    ask_fault(&seen, true, "\"fault\":\"truncate\",\"after_tokens\":2", 0);
    cr_assert_eq(seen.end, SIM_END_OK);
    cr_assert_eq(seen.pieces, 2);
    cr_assert_not(holds(&seen, "[DONE]"));
    cr_assert_not(holds(&seen, "\"finish_reason\":\""));
    buf_finish(&seen.body);
    ask_fault(&seen, true, "\"fault\":\"5xx\",\"after_tokens\":2", 0);
    cr_assert_eq(seen.status, 200);
    cr_assert(holds(&seen, "data: {\"error\":{"));
    cr_assert_not(holds(&seen, "[DONE]"));
    buf_finish(&seen.body);
    ask_fault(&seen, true, "\"fault\":\"truncate\",\"after_tokens\":12", 0);
    cr_assert_eq(seen.pieces, 12, "all tokens, and no end");
    cr_assert_not(holds(&seen, "[DONE]"));
    buf_finish(&seen.body);
    down();
}

Test(sim_engine, faults_of_answers_that_are_no_text)
{
    static const char *const FAULTS[] = {"reset", "garbage", "5xx", "error_first", "truncate"};
    static const char *const STREAM[] = {"true", "false"};
    struct seen seen;
    char body[256];

    up(QUICK);
    for (size_t i = 0; i < 2 * ARRAY_LEN(FAULTS); i++) {
        (void)snprintf(body, sizeof(body),
                       "{\"input\":\"llamas\",\"stream\":%s,\"drover_sim\":{\"fault\":\"%s\"}}",
                       STREAM[i % 2], FAULTS[i / 2]);
        start(&seen, SIM_OP_EMBEDDINGS, body);
        cr_assert(turn_until(&seen.ended), "%s", body);
        cr_assert_not(buf_size(&seen.body) != 0 && holds(&seen, "\"usage\""),
                      "whole in spite of %s", body);
        buf_finish(&seen.body);
    }
    down();
}

Test(sim_engine, a_fault_may_be_for_one_node_or_attempt_only)
{
    struct seen seen;

    up(QUICK);
    ask_fault(&seen, true, "\"fault\":\"reset\",\"only_node\":\"b\"", 0);
    cr_assert_eq(seen.end, SIM_END_OK);
    buf_finish(&seen.body);
    ask_fault(&seen, true, "\"fault\":\"reset\",\"only_node\":\"a\"", 0);
    cr_assert_eq(seen.end, SIM_END_RESET);
    ask_fault(&seen, true, "\"fault\":\"reset\",\"only_attempt\":0", 1);
    cr_assert_eq(seen.end, SIM_END_OK);
    buf_finish(&seen.body);
    ask_fault(&seen, true, "\"fault\":\"reset\",\"only_attempt\":1", 1);
    cr_assert_eq(seen.end, SIM_END_RESET);
    down();
}

Test(sim_engine, the_spec_can_fail_the_nth_request)
{
    struct seen seen;

    up(QUICK ",fail=reset@2,fail_after=1");
    ask(&seen, CHAT, "{\"stream\":true," LLAMAS "}");
    cr_assert_eq(seen.end, SIM_END_OK);
    buf_finish(&seen.body);
    ask(&seen, CHAT, "{\"stream\":true," LLAMAS "}");
    cr_assert_eq(seen.end, SIM_END_RESET);
    cr_assert_eq(seen.pieces, 1);
    buf_finish(&seen.body);
    ask(&seen, CHAT, "{\"stream\":true," LLAMAS "}");
    cr_assert_eq(seen.end, SIM_END_OK);
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

Test(sim_engine, answers_503_while_it_loads)
{
    struct seen seen;
    uint64_t until = clock_mono_us() + PATIENCE_US;

    up(QUICK ",load_ms=300");
    cr_assert(sim_engine_status(engine).loading);
    ask(&seen, CHAT, "{" LLAMAS "}");
    cr_assert_eq(seen.status, 503);
    cr_assert(holds(&seen, "\"Loading model\""));
    buf_finish(&seen.body);
    while (sim_engine_status(engine).loading && clock_mono_us() < until)
        loop_turn(&loop, 10000);
    ask(&seen, CHAT, "{" LLAMAS "}");
    cr_assert_eq(seen.status, 200);
    buf_finish(&seen.body);
    down();
}

Test(sim_engine, a_model_on_demand_is_loaded_by_its_first_request)
{
    struct seen seen, gone;

    up(QUICK ",models=sim;big@100@50");
    cr_assert_eq(sim_engine_model_state(engine, 0), SIM_MODEL_LOADED);
    cr_assert_eq(sim_engine_model_state(engine, 1), SIM_MODEL_UNLOADED);
    start(&gone, CHAT, "{\"model\":\"big\"," LLAMAS "}");
    start(&seen, CHAT, "{\"model\":\"big\"," LLAMAS "}");
    cr_assert_eq(sim_engine_model_state(engine, 1), SIM_MODEL_LOADING);
    cr_assert_eq(sim_engine_status(engine).queued, 2);
    sim_run_cancel(gone.run);
    cr_assert_eq(sim_engine_status(engine).queued, 1);
    cr_assert(turn_until(&seen.ended));
    cr_assert_eq(seen.status, 200);
    cr_assert_eq(sim_engine_model_state(engine, 1), SIM_MODEL_LOADED);
    buf_finish(&seen.body);
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
        start_with(&seen, CHAT, BODY, n, 0);
        cr_assert(turn_until(&seen.ended));
        cr_assert_eq(seen.status, 400, "cut after %zu bytes", n);
        buf_finish(&seen.body);
    }
    ask(&seen, CHAT, BODY);
    cr_assert(holds(&seen, "\"completion_tokens\":2"));
    buf_finish(&seen.body);
    down();
}
