/* test_client_request.c - the members of a body that decide where it goes. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "proto/drover_common.pb-c.h"
#include "worker/http/client_request.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

static struct inspected seen;
static const char *param;
static struct error err;

static int inspect(int operation, const char *body)
{
    return inspect_body(&seen, operation, (const uint8_t *)body, strlen(body), &param, &err);
}

Test(request, model_stream_and_usage_are_read)
{
    cr_assert_eq(
        inspect(OP(CHAT_COMPLETIONS),
                "{\"messages\":[{\"model\":\"no\"}],\"model\":\"qwen:7b\",\"stream\":true,"
                "\"stream_options\":{\"include_usage\":true}}"),
        0);
    cr_expect_str_eq(seen.model, "qwen:7b");
    cr_expect(seen.stream);
    cr_expect(seen.client_usage);
    cr_expect_eq(seen.root.type, JSON_OBJECT, "it need not be checked again");
    cr_assert_eq(inspect(OP(CHAT_COMPLETIONS), "{\"mod\\u0065l\":\"m\",\"stream\":null}"), 0);
    cr_expect_str_eq(seen.model, "m");
    cr_expect(!seen.stream);
    cr_expect(!seen.client_usage);
    cr_assert_eq(inspect(OP(CHAT_COMPLETIONS), "{}"), 0);
    cr_expect_str_eq(seen.model, "");
    cr_assert_eq(inspect(OP(CHAT_COMPLETIONS), "{\"model\":null}"), 0);
    cr_expect_str_eq(seen.model, "", "llama-server and vLLM take null for a model not named");
    cr_assert_eq(inspect(OP(OLLAMA_SHOW), "{\"model\":null,\"name\":\"m\"}"), 0);
    cr_expect_str_eq(seen.model, "m");
}

Test(request, only_ollamas_chat_and_generate_stream_by_default)
{
    cr_assert_eq(inspect(OP(OLLAMA_CHAT), "{\"model\":\"m\"}"), 0);
    cr_expect(seen.stream);
    cr_assert_eq(inspect(OP(OLLAMA_GENERATE), "{\"model\":\"m\",\"stream\":null}"), 0);
    cr_expect(seen.stream);
    cr_assert_eq(inspect(OP(OLLAMA_CHAT), "{\"model\":\"m\",\"stream\":false}"), 0);
    cr_expect(!seen.stream);
    cr_assert_eq(inspect(OP(MESSAGES), "{\"model\":\"m\"}"), 0);
    cr_expect(!seen.stream);
    cr_assert_eq(inspect(OP(EMBEDDINGS), "{\"model\":\"m\",\"stream\":true}"), 0);
    cr_expect(!seen.stream, "there is nothing to stream");
}

Test(request, ollama_show_may_say_name_for_model)
{
    cr_assert_eq(inspect(OP(OLLAMA_SHOW), "{\"name\":\"m\"}"), 0);
    cr_expect_str_eq(seen.model, "m");
    cr_assert_eq(inspect(OP(OLLAMA_SHOW), "{\"name\":\"n\",\"model\":\"m\"}"), 0);
    cr_expect_str_eq(seen.model, "m");
    cr_assert_eq(inspect(OP(CHAT_COMPLETIONS), "{\"name\":\"m\"}"), 0);
    cr_expect_str_eq(seen.model, "");
}

Test(request, a_body_that_two_parsers_could_read_differently_is_refused)
{
    static const struct {
        const char *body, *param;
    } rows[] = {
        {"{\"model\":\"a\",\"model\":\"b\"}", "model"},
        {"{\"model\":\"a\",\"\\u006dodel\":\"a\"}", "model"},
        {"{\"stream\":true,\"stream\":false}", "stream"},
        {"{\"model\":\"a\",\"Model\":\"b\"}", "model"},
        {"{\"MODEL\":\"b\"}", "model"},
        {"{\"\\u004dodel\":\"b\"}", "model"},
        {"{\"model\":\"a\",\"\xc5\xbftream\":true}", "stream"},
        {"{\"model\":\"a\",\"\\u017ftream\":true}", "stream"},
        {"{\"model\":\"a\",\"Stream\":true}", "stream"},
        {"{\"stream_options\":{},\"stream_options\":{}}", "stream_options"},
        {"{\"Stream_Options\":{}}", "stream_options"},
        {"{\"stream\":\"true\"}", "stream"},
        {"{\"stream\":1}", "stream"},
        {"{\"model\":7}", "model"},
        {"{\"model\":\"a\\u0000b\"}", "model"},
        {"{\"model\":\"a\\nb\"}", "model"},
        {"{\"model\":\"\\ud800\"}", "model"},
        {"[{\"model\":\"a\"}]", NULL},
        {"\"model\"", NULL},
        {"", NULL},
        {"{\"model\":\"a\"", NULL},
        {"\xef\xbb\xbf{\"model\":\"a\"}", NULL},
        {"{\"model\":\"a\"} trailing", NULL},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        cr_expect_eq(inspect(OP(CHAT_COMPLETIONS), rows[i].body), DRV_EINVAL, "%s",
                     rows[i].body);
        if (rows[i].param == NULL)
            cr_expect_null(param, "%s", rows[i].body);
        else
            cr_expect_str_eq(param, rows[i].param, "%s", rows[i].body);
        cr_expect_neq(err.text[0], '\0');
    }
}

/* Members that decide what the worker or the node does. */
Test(request, no_member_that_is_acted_on_may_be_read_in_two_ways)
{
    static const char *const names[] = {
        "model",
        "stream",
        "stream_options",
        "n",
        "best_of",
        "keep_alive",
        "options",
        "max_tokens",
        "prompt",
        "messages",
        "input",
        "max_completion_tokens",
        "n_predict",
        "num_predict?",
        "tools",
        "previous_response_id",
        "background",
        "format",
        "response_format",
        "continue_final_message",
        "logprobs",
        "conversation",
        "audio",
        "web_search_options",
        "guided_json",
        "suffix",
        "max_output_tokens",
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        bool ours = strchr(names[i], '?') == NULL;
        char body[160], other[64];

        (void)snprintf(body, sizeof(body), "{\"%s\":null,\"x\":1,\"%s\":null}", names[i],
                       names[i]);
        cr_expect_eq(inspect(OP(CHAT_COMPLETIONS), body), ours ? DRV_EINVAL : 0, "%s", body);
        if (ours)
            cr_expect_str_eq(param, names[i]);
        (void)strlcpy(other, names[i], sizeof(other));
        other[0] = (char)(other[0] - 'a' + 'A');
        (void)snprintf(body, sizeof(body), "{\"%s\":null}", other);
        cr_expect_eq(inspect(OP(CHAT_COMPLETIONS), body), ours ? DRV_EINVAL : 0, "%s", body);
        if (ours)
            cr_expect_not_null(strstr(err.text, "is ambiguous"));
    }
    /* The longest, with each k and s as beyond ASCII. */
    cr_expect_eq(inspect(OP(CHAT_COMPLETIONS), "{\"max_completion_to\xe2\x84\xaa"
                                               "en\xc5\xbf\":1}"),
                 DRV_EINVAL);
    cr_expect_str_eq(param, "max_completion_tokens");
}

Test(request, names_that_only_look_like_ours_pass)
{
    static const char *const bodies[] = {
        "{\"model\":\"m\",\"models\":[1],\"mode\":1,\"streams\":1,\"stre am\":2}",
        "{\"model\":\"m\",\"Name\":\"n\",\"name\":\"o\",\"name\":\"p\"}",
        "{\"model\":\"m\",\"metadata\":{\"Model\":\"x\",\"Stream\":1}}",
        "{\"model\":\"m\",\"m\\u00f6del\":1,\"\":2,\"USER\":\"u\"}",
    };

    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
        cr_expect_eq(inspect(OP(CHAT_COMPLETIONS), bodies[i]), 0, "%s: %s", bodies[i],
                     err.text);
    cr_expect_eq(inspect(OP(OLLAMA_SHOW), "{\"Name\":\"m\"}"), DRV_EINVAL);
    cr_expect_str_eq(param, "name");
}

Test(request, a_model_name_of_255_bytes_fits_and_one_of_256_does_not)
{
    char body[512] = "{\"model\":\"";
    size_t at = strlen(body);

    memset(body + at, 'm', 256);
    (void)strlcpy(body + at + 255, "\"}", 8);
    cr_expect_eq(inspect(OP(CHAT_COMPLETIONS), body), 0);
    body[at + 255] = 'm';
    (void)strlcpy(body + at + 256, "\"}", 8);
    cr_expect_eq(inspect(OP(CHAT_COMPLETIONS), body), DRV_EINVAL);
}

/* It decides which keys reach it, so no engine may read another. */
Test(request, a_response_goes_on_with_one_thing)
{
    static const struct {
        const char *body, *kept, *member;
    } rows[] = {
        {"{\"previous_response_id\":\"r\"}", "r", "previous_response_id"},
        {"{\"previous_response_id\":\"r\",\"conversation\":null}", "r", "previous_response_id"},
        {"{\"previous_response_id\":\"\",\"conversation\":\"c\"}", "c", "conversation"},
        {"{\"conversation\":{\"\\u0069d\":\"c\"}}", "c", "conversation"},
        {"{\"conversation\":{\"name\":\"x\"}}", "", NULL},
        {"{\"previous_response_id\":\"r\",\"conversation\":\"c\"}", NULL, NULL},
        {"{\"conversation\":{\"id\":\"c\"},\"previous_response_id\":\"r\"}", NULL, NULL},
        {"{\"conversation\":{\"id\":\"c\",\"id\":\"d\"}}", NULL, NULL},
        {"{\"conversation\":{\"id\":\"c\",\"\\u0069D\":\"d\"}}", NULL, NULL},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int rc = inspect(OP(RESPONSES), rows[i].body);

        cr_expect_eq(rc, rows[i].kept == NULL ? DRV_EINVAL : 0, "%s", rows[i].body);
        if (rc != 0) {
            cr_expect_str_eq(param, "conversation", "%s", rows[i].body);
            continue;
        }
        cr_expect_str_eq(seen.kept_id, rows[i].kept, "%s", rows[i].body);
        if (rows[i].member != NULL)
            cr_expect_str_eq(seen.kept_member, rows[i].member, "%s", rows[i].body);
    }
    cr_expect_eq(inspect(OP(CHAT_COMPLETIONS), "{\"conversation\":{\"id\":1,\"id\":2}}"), 0,
                 "no state of theirs");
}

Test(request, the_session_key_is_the_cache_key_or_else_the_user)
{
    cr_assert_eq(inspect(OP(CHAT_COMPLETIONS), "{\"user\":\"u\",\"prompt_cache_key\":\"k\"}"),
                 0);
    cr_expect_str_eq(seen.session, "k");
    cr_assert_eq(inspect(OP(CHAT_COMPLETIONS), "{\"user\":\"u\",\"prompt_cache_key\":7}"), 0);
    cr_expect_str_eq(seen.session, "u");
    cr_assert_eq(inspect(OP(MESSAGES), "{\"metadata\":{\"user_id\":\"s\"}}"), 0);
    cr_expect_str_eq(seen.session, "s");
    cr_assert_eq(inspect(OP(MESSAGES), "{\"metadata\":[],\"user\":{}}"), 0);
    cr_expect_str_eq(seen.session, "");
}

/* ---- multipart ---- */

static int form(const char *type, const char *body)
{
    size_t n = strlen(body);
    uint8_t *copy = malloc(n == 0 ? 1 : n);
    int rc;

    memcpy(copy, body, n);
    rc = inspect_multipart(&seen, type, copy, n, &err);
    free(copy);
    return rc;
}

#define TYPE "multipart/form-data; boundary=XX"

static const char good_form[] =
    "--XX\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a;name=model.wav\"\r\n"
    "Content-Type: audio/wav\r\n\r\nRIFF\r\n--X\r\n\0\r\n"
    "--XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n"
    "--XX\r\nContent-Disposition: form-data; name=stream\r\n\r\ntrue\r\n--XX--\r\n";

Test(request, the_model_field_of_a_form_is_found)
{
    cr_assert_eq(
        inspect_multipart(&seen, TYPE, (const uint8_t *)good_form, sizeof(good_form) - 1, &err),
        0, "%s", err.text);
    cr_expect_str_eq(seen.model, "whisper-1");
    cr_expect(seen.stream);
    cr_expect_eq(
        form("multipart/form-data; charset=\"x;y\"; boundary=\"X X\"",
             "preamble\r\n--X X\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n"
             "m\r\n--X X--"),
        0);
    cr_expect_str_eq(seen.model, "m");
    cr_expect_eq(form(TYPE, "--XX\r\n\r\nno headers\r\n--XX--"), 0);
    cr_expect_str_eq(seen.model, "");
}

Test(request, a_form_that_can_be_read_in_two_ways_is_refused)
{
    static const char *const bodies[] = {
        "",
        "--YY\r\n\r\n\r\n--YY--",
        "--XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm",
        "--XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--XX",
        "--XX\r\nContent-Disposition: form-data; name=\"model\"",
        "--XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n\r\n--XX--",
        "--XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\na\nb\r\n--XX--",
        "--XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\na\r\n--XX\r\n"
        "Content-Disposition: form-data; name=\"model\"\r\n\r\nb\r\n--XX--",
        "--XX\r\nX: y\r\n--XX\r\nContent-Disposition: form-data; "
        "name=\"model\"\r\n\r\nb\r\n--XX--",
        "--XXjunk\r\n\r\n\r\n--XX--",
    };

    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
        cr_expect_eq(form(TYPE, bodies[i]), DRV_EINVAL, "%s", bodies[i]);
    cr_expect_eq(inspect_multipart(&seen, TYPE, NULL, 0, &err), DRV_EINVAL);
    cr_expect_eq(form("multipart/form-data", "--XX--"), DRV_EINVAL);
    cr_expect_eq(form("multipart/form-data; boundary=", "----"), DRV_EINVAL);
    cr_expect_eq(form("multipart/form-data; boundary=\"XX", "--XX--"), DRV_EINVAL);
}

Test(request, a_form_cut_at_any_byte_is_refused_or_complete)
{
    size_t whole = sizeof(good_form) - 1;

    for (size_t n = 0; n < whole - 4; n++) { /* the last "--" and line break may be missing */
        uint8_t *copy = malloc(n == 0 ? 1 : n);

        memcpy(copy, good_form, n);
        cr_assert_eq(inspect_multipart(&seen, TYPE, copy, n, &err), DRV_EINVAL, "cut at %zu",
                     n);
        free(copy);
    }
}

/* ---- a piece at a time ---- */

static int in_pieces(int operation, const char *type, const char *body, size_t n, size_t step)
{
    struct json_skips skips = {0};
    struct inspection inspection;
    int rc;

    seen = (struct inspected){0};
    rc = inspection_begin(&inspection, operation, type, (const uint8_t *)body, n, &skips, &err);
    if (rc == 0)
        do
            rc = inspection_go(&inspection, step, &seen, &param, &err);
        while (rc == DRV_EAGAIN);
    json_skips_finish(&skips);
    return rc;
}

Test(request, a_body_may_be_looked_through_in_pieces)
{
    static const char body[] = "{\"messages\":[{\"content\":\"aaaa\"}],\"stream\":true,"
                               "\"user\":\"u\",\"model\":\"late\"}";

    for (size_t step = 1; step <= sizeof(body); step++) {
        cr_assert_eq(in_pieces(OP(CHAT_COMPLETIONS), NULL, body, sizeof(body) - 1, step), 0);
        cr_assert_str_eq(seen.model, "late");
        cr_assert(seen.stream);
        cr_assert_str_eq(seen.session, "u");
        cr_assert_eq(in_pieces(OP(CHAT_COMPLETIONS), NULL, body, sizeof(body) - 2, step),
                     DRV_EINVAL);
        cr_assert_eq(
            in_pieces(OP(TRANSCRIPTIONS), TYPE, good_form, sizeof(good_form) - 1, step), 0,
            "%s", err.text);
        cr_assert_str_eq(seen.model, "whisper-1");
        cr_assert(seen.stream);
        cr_assert_eq(
            in_pieces(OP(TRANSCRIPTIONS), TYPE, good_form, sizeof(good_form) - 9, step),
            DRV_EINVAL);
    }
}

Test(request, thousands_of_members_are_refused)
{
    static char body[16384];
    size_t n = 1;

    body[0] = '{';
    for (int i = 0; i < 1025; i++)
        n += (size_t)sprintf(body + n, "\"k%d\":1,", i);
    body[n - 1] = '}';
    cr_assert_eq(
        inspect_body(&seen, OP(CHAT_COMPLETIONS), (const uint8_t *)body, n, &param, &err),
        DRV_EINVAL);
    cr_assert(strstr(err.text, "1024 members") != NULL, "%s", err.text);
}
