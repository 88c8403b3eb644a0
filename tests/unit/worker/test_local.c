/* test_local.c - what the server answers by itself: refusals, models, health. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/text/json.h"
#include "http_fixture.h"
#include "proto/drover_common.pb-c.h"
#include "shm/facts/nodes.h"
#include "shm/facts/usage.h"

TestSuite(local, .init = setup, .fini = teardown, .timeout = 60);

/* ---- refusals ---------------------------------------------------------------------------- */

static const char *post_text(const char *path, const char *type, const char *body)
{
    static struct buf out;

    buf_reset(&out);
    buf_printf(&out, "POST %s HTTP/1.1\r\n" HOST "connection: close\r\ncontent-length: %zu\r\n",
               path, strlen(body));
    if (type != NULL)
        buf_printf(&out, "content-type: %s\r\n", type);
    buf_printf(&out, "\r\n%s", body);
    return ask(buf_cstr(&out));
}

Test(local, a_request_that_cannot_be_served_is_refused_in_its_own_shape)
{
    const char *a;

    start();
    a = get("/v1/nothing?x=1");
    cr_expect(begins(a, "HTTP/1.1 404 "));
    cr_expect_not_null(strstr(a, "\"message\":\"there is nothing at /v1/nothing\""));
    cr_expect_not_null(strstr(a, "x-drover-reason: not_found\r\n"));
    cr_expect_not_null(strstr(a, "x-request-id: req-"));
    a = get("/v1/chat/completions");
    cr_expect(begins(a, "HTTP/1.1 405 "));
    cr_expect_not_null(strcasestr(a, "allow: POST\r\n"));
    a = post_text("/api/chat", "multipart/form-data; boundary=x", "{}");
    cr_expect(begins(a, "HTTP/1.1 415 "));
    cr_expect_not_null(strstr(a, "\r\n\r\n{\"error\":\"the content type must be "
                                 "application/json, not multipart/form-data\"}"));
    a = post_text("/v1/messages", "application/json", "{\"model\":1}");
    cr_expect(begins(a, "HTTP/1.1 400 "));
    cr_expect_not_null(
        strstr(a, "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\""));
    a = post_text("/v1/chat/completions", NULL, "{\"model\":\"a\",\"model\":\"b\"}");
    cr_expect(begins(a, "HTTP/1.1 400 "));
    cr_expect_not_null(strstr(a, "\"param\":\"model\""));
    a = post_text("/v1/chat/completions", NULL, "");
    cr_expect_not_null(strstr(a, "the request body is empty"));
    a = post_text("/v1/audio/transcriptions", "application/json", "{}");
    cr_expect(begins(a, "HTTP/1.1 415 "));
    cr_expect_eq(exchanges_count, 0);
    cr_expect_eq(counter(PROC_REQUESTS_REJECTED), 7);
    cr_expect_not_null(strstr(logged(), "\"path\":\"/v1/nothing\",\"status\":404,"
                                        "\"outcome\":\"rejected\",\"reason\":\"not_found\""));
}

Test(local, the_type_that_curl_sends_unasked_is_taken_for_json)
{
    start();
    cr_expect_not_null(strstr(
        post_text("/api/generate", "application/x-www-form-urlencoded", "{\"model\":\"echo\"}"),
        "\r\n\r\n{\"model\":\"echo\"}"));
    cr_expect_not_null(strstr(
        post_text("/api/generate", "application/json; charset=utf-8", "{\"model\":\"echo\"}"),
        "\r\n\r\n{\"model\":\"echo\"}"));
}

/* The answer to a chat request with these header lines. */
static const char *chat_with(const char *path, const char *headers)
{
    static const char body[] = "{\"model\":\"echo\"}";
    static struct buf out;

    buf_reset(&out);
    buf_printf(&out, "POST %s HTTP/1.1\r\n" HOST "connection: close\r\n%s", path, headers);
    buf_printf(&out, "content-length: %zu\r\n\r\n%s", sizeof(body) - 1, body);
    return ask(buf_cstr(&out));
}

Test(local, a_foreign_page_cannot_make_its_readers_browser_send_a_request)
{
    static const struct {
        const char *headers, *begins;
    } cases[] = {
        {"origin: https://evil.example\r\n"
         "content-type: application/x-www-form-urlencoded\r\n",
         "HTTP/1.1 403 "},
        {"origin: https://evil.example\r\ncontent-type: text/plain\r\n", "HTTP/1.1 403 "},
        {"origin: https://evil.example\r\ncontent-type: application/json\r\n", "HTTP/1.1 403 "},
        {"origin: null\r\n", "HTTP/1.1 403 "},
        {"origin: https://ui.example\r\ncontent-type: application/json\r\n", "HTTP/1.1 200 "},
        {"origin: https://ui.example\r\ncontent-type: text/plain\r\n", "HTTP/1.1 200 "},
        {"", "HTTP/1.1 200 "},
    };
    static char *listed[] = {"https://ui.example"};

    config.api.cors_origins = listed;
    config.api.cors_origins_count = 1;
    start();
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *a = chat_with("/v1/chat/completions", cases[i].headers);

        cr_expect(begins(a, cases[i].begins), "%s: %s", cases[i].headers, a);
    }
}

Test(local, an_error_of_the_owner_carries_what_clients_act_on)
{
    const char *a;

    start();
    a = post_text("/v1/messages", NULL, "{\"model\":\"full\"}");
    cr_expect(begins(a, "HTTP/1.1 529 "));
    cr_expect_not_null(strstr(a, "retry-after: 60\r\n"));
    cr_expect_not_null(strstr(a, "x-should-retry: true\r\n"));
    cr_expect_not_null(strstr(a, "x-drover-reason: queue_full\r\n"));
    cr_expect_not_null(strstr(a, "\"type\":\"overloaded_error\",\"message\":\"busy\""));
    cr_expect_str_eq(logged(), "", "the owner logs its own");
}

/* printf %s abc | sha256sum */
static struct api_key one_key = {.name = "alice",
                                 .digest = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea,
                                            0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23,
                                            0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c,
                                            0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad}};

Test(local, where_keys_are_asked_for_each_surface_refuses_in_its_own_shape)
{
    struct usage_view usage;
    const char *a;

    config.api.keys = (struct api_keys){&one_key, 1};
    start();
    a = chat_with("/v1/chat/completions", "");
    cr_expect(begins(a, "HTTP/1.1 401 "), "%s", a);
    cr_expect_not_null(strcasestr(a, "www-authenticate: Bearer\r\n"));
    cr_expect_not_null(strstr(a, "\"type\":\"authentication_error\""));
    cr_expect_not_null(strstr(a, "\"code\":\"invalid_api_key\""));
    cr_expect_not_null(strstr(a, "x-should-retry: false\r\n"));
    a = chat_with("/v1/messages", "x-api-key: not-a-key\r\n");
    cr_expect(begins(a, "HTTP/1.1 401 "), "%s", a);
    cr_expect_not_null(strstr(a, "{\"type\":\"error\",\"error\":{\"type\":"
                                 "\"authentication_error\",\"message\":\"the API key is not"));
    a = chat_with("/api/chat", "Authorization: Basic abc\r\n");
    cr_expect(begins(a, "HTTP/1.1 401 "), "%s", a);
    cr_expect_not_null(strstr(a, "\r\n\r\n{\"error\":\"an API key is needed"));
    cr_expect(begins(get("/v1/nothing"), "HTTP/1.1 401 "),
              "what is there is nobody's business");
    cr_expect(begins(get("/v1/models"), "HTTP/1.1 401 "));
    cr_expect(begins(get("/"), "HTTP/1.1 401 "));
    cr_expect(begins(get("/health"), "HTTP/1.1 200 "));
    cr_expect(begins(get("/livez"), "HTTP/1.1 200 "));
    cr_expect(begins(get("/readyz"), "HTTP/1.1 200 "));
    cr_expect_eq(exchanges_count, 0);
    cr_expect_eq(counter(PROC_REQUESTS_UNAUTHORIZED), 6);
    cr_expect_null(strstr(logged(), "not-a-key"));

    cr_expect(begins(chat_with("/v1/chat/completions", "authorization: bearer  abc\r\n"),
                     "HTTP/1.1 200 "));
    cr_expect(begins(chat_with("/v1/messages", "x-api-key: abc\r\n"), "HTTP/1.1 200 "));
    cr_expect(begins(chat_with("/v1/chat/completions", "api-key: abc\r\n"), "HTTP/1.1 200 "));
    cr_expect(
        begins(chat_with("/openai/v1//chat/completions", "api-key: abd\r\n"), "HTTP/1.1 401 "));
    cr_expect(begins(chat_with("/api/chat", "Authorization: Bearer abc\r\n"), "HTTP/1.1 200 "));
    cr_expect(begins(chat_with("/v1/messages", "Authorization: Bearer x\r\nx-api-key: abc\r\n"),
                     "HTTP/1.1 200 "),
              "either of the two");
    cr_expect_eq(exchanges_count, 5);
    cr_assert(usage_read(board, 0, &usage));
    cr_expect_str_eq(usage.name, "alice");
    cr_expect_eq(usage.counter[USAGE_REQUESTS], 5);
    config.api.keys = (struct api_keys){0};
}

static void add_model(const char *id)
{
    struct node_info info = {.slots = 1, .models_count = 1};
    int node = nodes_claim(board, 1);

    (void)strlcpy(info.models[0].id, id, sizeof(info.models[0].id));
    info.models[0].state = DROVER__V1__MODEL_STATE__MODEL_STATE_READY;
    info.models[0].max_context = 4096;
    info.models[0].operations = UINT32_C(1) << DROVER__V1__OPERATION__OPERATION_OLLAMA_CHAT;
    info.engine = DROVER__V1__ENGINE_KIND__ENGINE_KIND_SIMULATED;
    nodes_publish(board, (unsigned)node, &info);
    nodes_set_state(board, (unsigned)node, NODE_UP, NODE_REASON_PROBES_PASS, 1);
}

Test(local, a_missing_model_is_the_only_one_there_is)
{
    const char *a;

    start();
    a = post_text("/v1/chat/completions", NULL, "{}");
    cr_expect(begins(a, "HTTP/1.1 503 "), "%s", a);
    add_model("echo");
    a = post_text("/v1/chat/completions", NULL, "{}");
    cr_expect(begins(a, "HTTP/1.1 200 "), "%s", a);
    add_model("other");
    a = post_text("/v1/chat/completions", NULL, "{}");
    cr_expect(begins(a, "HTTP/1.1 400 "), "%s", a);
    cr_expect_not_null(strstr(a, "\"message\":\"'model' is missing, and there are several"));
    cr_expect_not_null(strstr(a, "alias '*'"));
}

Test(local, a_request_arrives_with_what_routing_needs)
{
    struct config_alias aliases[] = {{(char *)"gpt-4o", (char *)"wait"}};
    struct client_request *r;
    struct client *c;

    config.aliases = aliases;
    config.aliases_count = 1;
    start();
    c = dial();
    post(c,
         "Authorization: Bearer secret\r\nX-Conversation-Id: 1\r\nAnthropic-Beta: a,b\r\n"
         "traceparent: 00-1\r\nX-Claude-Code-Request-Class: main\r\nx-session-id: s1\r\n"
         "Cookie: c\r\nUser-Agent: u\r\nx-request-id: id1\r\n",
         "{\"model\":\"gpt-4o\",\"stream\":true,\"user\":\"u\"}");
    AWAIT(exchanges_count == 1);
    r = exchanges[0].request;
    cr_expect_str_eq(r->client_model, "gpt-4o");
    cr_expect_str_eq(r->model, "wait");
    cr_expect(r->aliased);
    cr_expect(r->stream);
    cr_expect_str_eq(r->session, "s1");
    cr_expect_str_eq(r->client, "127.0.0.1");
    cr_expect_str_eq(r->id, "id1");
    cr_expect_str_eq(r->content_type, "application/json");
    cr_expect_eq(r->body_len, 43);
    cr_expect_eq(strncmp(r->execution_id, "req-", 4), 0, "%s", r->execution_id);
    cr_assert_eq(r->forward_count, 5);
    cr_expect_str_eq(r->forward[0].name, "x-client-request-id");
    cr_expect_str_eq(r->forward[0].value, "id1");
    cr_expect_str_eq(r->forward[1].name, "anthropic-beta");
    cr_expect_str_eq(r->forward[1].value, "a,b");
    cr_expect_str_eq(r->forward[2].name, "traceparent");
    cr_expect_str_eq(r->forward[3].name, "x-claude-code-request-class");
    cr_expect_str_eq(r->forward[4].name, "x-drover-via");
    hang_up(c);
    AWAIT(exchanges[0].gone == 1);
}

/* ---- local answers ----------------------------------------------------------------------- */

/* The body of an answer, which must be JSON. */
static struct json_value json_of(const char *answer)
{
    const char *body = strstr(answer, "\r\n\r\n");
    struct json_value root;

    cr_assert_not_null(body);
    cr_assert_eq(json_check(&root, body + 4, strlen(body + 4), NULL), 0, "%s", answer);
    return root;
}

Test(local, models_are_listed_for_every_kind_of_client)
{
    struct json_value root, data, key, model;
    struct json_iter it;
    double number;
    const char *a;

    start();
    a = get("/v1/models");
    cr_expect_not_null(strstr(a, "\"data\":[],"));
    add_model("org/na me");
    root = json_of(get("/v1/models"));
    data = json_get(&root, "data");
    json_iter_init(&it, &data);
    cr_assert(json_iter_next(&it, &key, &model));
    data = json_get(&model, "id");
    cr_expect(json_equal(&data, "org/na me"));
    data = json_get(&model, "owned_by");
    cr_expect(json_equal(&data, "drover"));
    data = json_get(&model, "max_model_len");
    cr_assert(json_number(&number, &data));
    cr_expect_eq((int)number, 4096);
    cr_expect_eq(json_get(&model, "simulated").type, JSON_TRUE);
    cr_expect(!json_iter_next(&it, &key, &model));

    cr_expect(begins(get("/v1/models/org/na%20me"), "HTTP/1.1 200 "));
    cr_expect(begins(get("/v1/models/org%2Fna%20me"), "HTTP/1.1 200 "));
    a = get("/v1/models/other");
    cr_expect(begins(a, "HTTP/1.1 404 "));
    cr_expect_not_null(strstr(a, "\"code\":\"model_not_found\""));
    cr_expect_not_null(strstr(a, "The model 'other' does not exist"));
    cr_expect(begins(get("/v1/models/%zz"), "HTTP/1.1 404 "));
    cr_expect(begins(get("/v1/models/%00"), "HTTP/1.1 404 "));
    cr_expect(begins(get("/v1/models/org%2"), "HTTP/1.1 404 "));

    (void)json_of(get("/api/tags"));
    a = get("/api/ps");
    (void)json_of(a);
    cr_expect_not_null(strstr(a, "\"name\":\"org/na me\""));
    cr_expect_not_null(strstr(a, "\"digest\":\""));
    (void)json_of(get("/api/version"));
    cr_expect_not_null(strstr(logged(), "\"outcome\":\"local\""));
}

Test(local, a_model_that_no_node_has_named_yet_may_come)
{
    static const char *const lists[] = {"/v1/models", "/api/tags"};
    const char *a;

    start();
    models_unknown = true;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        a = get(lists[i]);
        cr_expect(begins(a, "HTTP/1.1 503 "), "%s: %s", lists[i], a);
        cr_expect_not_null(strstr(a, "retry-after: 5\r\n"));
        cr_expect_not_null(strstr(a, "x-drover-reason: no_node\r\n"));
    }
    cr_expect(begins(get("/api/ps"), "HTTP/1.1 200 "), "nothing runs");
    add_model("one");
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        cr_expect(begins(get(lists[i]), "HTTP/1.1 200 "), "%s", lists[i]);
    cr_expect(begins(get("/v1/models/one"), "HTTP/1.1 200 "));
    a = get("/v1/models/other");
    cr_expect(begins(a, "HTTP/1.1 503 "), "%s", a);
    cr_expect_not_null(strstr(a, "retry-after: 5\r\n"));
    models_unknown = false;
    cr_expect(begins(get("/v1/models/other"), "HTTP/1.1 404 "));
}

Test(local, health_is_readiness_and_life_is_life)
{
    const char *a;

    start();
    cr_expect_not_null(strstr(get("/health"), "\r\n\r\n{\"status\":\"ok\"}"));
    ready = false;
    a = get("/readyz");
    cr_expect(begins(a, "HTTP/1.1 503 "));
    cr_expect_not_null(strstr(a, "{\"error\":{\"code\":503,\"message\":\"no node can serve\","
                                 "\"type\":\"unavailable_error\"}}"));
    cr_expect(begins(get("/livez"), "HTTP/1.1 200 "));
}

Test(local, head_is_answered_without_a_body)
{
    struct client *c;

    start();
    c = dial();
    say(c, "HEAD / HTTP/1.1\r\n" HOST "\r\nGET / HTTP/1.1\r\n" HOST "\r\n");
    expect(c, "Content-Length: 17\r\n");
    expect(c, "\r\n\r\nHTTP/1.1 200 OK\r\n");
    expect(c, "\r\n\r\nOllama is running");
}
