/* test_edit.c - the node's changes to a client's body, and nothing else. */
#include <criterion/criterion.h>

#include "base/error.h"
#include "base/text/form.h"
#include "base/text/splices.h"
#include "node/body/edit.h"
#include "proto/drover_common.pb-c.h"
#include "stream_rig.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

/* The same edits as splices, read in pieces of every length. */
static void expect_splices(const struct edit_source *source, const struct edit_options *opts,
                           const struct edit_outcome *wanted, const struct buf *want)
{
    struct edit_outcome outcome;
    struct splices splices;
    struct error err = {0};

    cr_assert_eq(edit_splices(&splices, source, opts, &outcome, &err), 0, "%s", err.text);
    cr_assert_eq(memcmp(&outcome, wanted, sizeof(outcome)), 0);
    cr_assert_eq(splices_size(&splices), buf_size(want));
    for (size_t piece = 1; piece <= buf_size(want) + 1; piece++) {
        struct splices_reader reader = {0};
        struct buf got = BUF_INIT;
        char bytes[1024];
        size_t n;

        cr_assert_leq(piece, sizeof(bytes));
        while ((n = splices_read(&splices, &reader, bytes, piece)) != 0)
            buf_add(&got, bytes, n);
        cr_assert(splices_at_end(&splices, &reader));
        cr_assert_eq(buf_size(&got), buf_size(want));
        cr_assert_eq(memcmp(buf_head(&got), buf_head(want), buf_size(want)), 0);
        buf_finish(&got);
    }
    splices_finish(&splices);
}

static struct edit_outcome expect(int operation, const char *body, struct edit_options opts,
                                  const char *wanted)
{
    struct buf in = BUF_INIT, out = BUF_INIT, want = BUF_INIT;
    struct edit_outcome outcome;
    struct edit_source source;
    struct error err = {0};

    if (opts.model == NULL)
        opts.model = "";
    rig_add(&in, body);
    rig_add(&want, wanted);
    cr_assert_eq(edit_check(&source, operation, buf_head(&in), buf_size(&in), &err), 0, "%s",
                 err.text);
    cr_assert_eq(edit_body(&out, &source, &opts, &outcome, &err), 0, "%s", err.text);
    cr_assert_str_eq(buf_cstr(&out), buf_cstr(&want));
    expect_splices(&source, &opts, &outcome, &want);
    buf_finish(&in);
    buf_finish(&out);
    buf_finish(&want);
    return outcome;
}

Test(edit, a_streaming_body_without_edits_passes_byte_for_byte)
{
    static const char body[] = "{ 'model' : 'm',  'stream':true, 'x': 1e0 }";
    struct edit_outcome o =
        expect(OP(CHAT_COMPLETIONS), body, (struct edit_options){.stream = true}, body);

    cr_assert(o.streaming);
    cr_assert_not(o.usage_added);
}

Test(edit, usage_is_asked_for_in_chat_and_completions_only)
{
    struct edit_options opts = {.stream = true, .usage = true};
    struct edit_outcome o;

    o = expect(OP(CHAT_COMPLETIONS), "{'stream':true}", opts,
               "{'stream_options':{'include_usage':true},'stream':true}");
    cr_assert(o.usage_added);
    cr_assert_not(o.usage_asked);
    o = expect(OP(RESPONSES), "{'stream':true}", opts, "{'stream':true}");
    cr_assert_not(o.usage_added);
    o = expect(OP(MESSAGES), "{'stream':true}", opts, "{'stream':true}");
    cr_assert_not(o.usage_added);
}

Test(edit, usage_that_the_client_asked_for_is_its_own)
{
    static const char body[] = "{'stream':true,'stream_options':{'include_usage':true}}";
    struct edit_outcome o = expect(OP(COMPLETIONS), body,
                                   (struct edit_options){.stream = true, .usage = true}, body);

    cr_assert_not(o.usage_added);
    cr_assert(o.usage_asked);
}

Test(edit, other_stream_options_stay)
{
    (void)expect(OP(CHAT_COMPLETIONS), "{'stream':true,'stream_options':{'x':1}}",
                 (struct edit_options){.stream = true, .usage = true},
                 "{'stream':true,'stream_options':{'include_usage':true,'x':1}}");
}

Test(edit, an_engine_that_refuses_stream_options_gets_none)
{
    struct edit_outcome o =
        expect(OP(CHAT_COMPLETIONS), "{'a':1}", (struct edit_options){.no_usage = true},
               "{'stream':true,'a':1}");

    cr_assert_not(o.usage_added);
}

Test(edit, a_client_that_wants_one_answer_still_gets_the_engine_streaming)
{
    (void)expect(OP(CHAT_COMPLETIONS), "{'stream':false,'n':1}", (struct edit_options){0},
                 "{'stream_options':{'include_usage':true},'stream':true,'n':1}");
    (void)expect(OP(OLLAMA_CHAT), "{'stream':false}", (struct edit_options){0},
                 "{'stream':true}");
}

Test(edit, answers_that_differ_when_streamed_are_not_streamed)
{
    struct edit_outcome o =
        expect(OP(COMPLETIONS), "{'best_of':3}", (struct edit_options){0}, "{'best_of':3}");

    cr_assert_not(o.streaming);
    o = expect(OP(EMBEDDINGS), "{'input':'x'}", (struct edit_options){.usage = true},
               "{'input':'x'}");
    cr_assert_not(o.streaming);
}

Test(edit, the_model_is_replaced_where_it_stands)
{
    (void)expect(OP(EMBEDDINGS), "{'input':'x','model':'alias','z':0}",
                 (struct edit_options){.model = "real"}, "{'input':'x','model':'real','z':0}");
}

Test(edit, a_body_that_is_no_json_object_is_refused)
{
    static const char *const bad[] = {"", "{\"messages\":[", "[]", "7", "{} {}"};

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct edit_source source;
        struct error err = {0};

        cr_assert_eq(edit_check(&source, OP(CHAT_COMPLETIONS), bad[i], strlen(bad[i]), &err),
                     DRV_EINVAL, "case %zu", i);
        cr_assert_neq(err.text[0], '\0');
    }
}

/* In parts a body is judged as it is whole, at the latest with its last byte. */
Test(edit, a_body_in_parts_is_checked_as_it_comes)
{
    static const char *const bodies[] = {
        "{\"model\":\"m\",\"messages\":[{\"content\":\"a\\\"b\"}],\"n\":1.5e3} ",
        "{}",
        "[1]",
        "3",
        "{\"a\":1",
        "{\"a\":1}}",
        "{\"a\":tru}",
        "{\"a\":\"\x01\"}",
        "--x\r\nno form, no JSON"};

    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        size_t n = strlen(bodies[i]);
        struct edit_source whole, source;
        struct error err = {0}, whole_err = {0};
        int expected = edit_check(&whole, OP(CHAT_COMPLETIONS), bodies[i], n, &whole_err);

        for (size_t part = 1; part <= n; part++) {
            struct edit_checker *checker = edit_checker_create(OP(CHAT_COMPLETIONS));
            size_t have = 0;
            int rc = DRV_EAGAIN;

            cr_assert_not_null(checker);
            while (rc == DRV_EAGAIN) {
                cr_assert_lt(have, n, "body %zu is not judged", i);
                have += part < n - have ? part : n - have;
                rc = edit_checker_go(checker, &source, bodies[i], have, have == n, &err);
            }
            cr_expect_eq(rc, expected, "body %zu in parts of %zu", i, part);
            if (rc == 0)
                cr_expect(have == n && source.n == n && source.root.len == whole.root.len);
            else
                cr_expect_str_eq(err.text, whole_err.text);
            edit_checker_destroy(checker);
        }
    }
    edit_checker_destroy(NULL);
}

Test(edit, a_multipart_body_passes_whatever_it_holds)
{
    (void)expect(OP(TRANSCRIPTIONS), "--x\r\nnot json", (struct edit_options){.model = "m"},
                 "--x\r\nnot json");
}

Test(edit, no_body_at_all_is_a_form_without_fields)
{
    const char *value;
    size_t n;

    cr_assert_not(form_find("multipart/form-data; boundary=b", NULL, 0, "model", &value, &n));
}

Test(edit, the_model_in_a_form_is_replaced_and_no_other_byte)
{
#define FORM(model)                                        \
    "--b\r\nContent-Disposition: form-data; name='file'; " \
    "filename='model'\r\n\r\nRIFF\r\n--b\r\n"              \
    "Content-Disposition: form-data; name='model'\r\n\r\n" model "\r\n--b--\r\n"
    struct edit_options opts = {.model = "whisper-1",
                                .content_type = "multipart/form-data; boundary=b"};

    (void)expect(OP(TRANSCRIPTIONS), FORM("alias"), opts, FORM("whisper-1"));
    (void)expect(OP(TRANSCRIPTIONS), FORM(""), opts, FORM("whisper-1"));
    opts.model = "";
    (void)expect(OP(TRANSCRIPTIONS), FORM("alias"), opts, FORM("alias"));
    opts.model = "a\r\n--b--";
    (void)expect(OP(TRANSCRIPTIONS), FORM("alias"), opts, FORM("alias"));
    opts.model = "whisper-1";
    opts.content_type = "multipart/form-data; boundary=c";
    (void)expect(OP(TRANSCRIPTIONS), FORM("alias"), opts, FORM("alias"));
}

Test(edit, splices_have_a_limit_and_copies_have_none)
{
    struct edit_options opts = {.model = "real"};
    struct edit_outcome outcome;
    struct edit_source source;
    struct splices splices;
    struct buf body = BUF_INIT, out = BUF_INIT;
    struct error err = {0};

    buf_str(&body, "{");
    for (int i = 0; i < SPLICES_MAX + 1; i++)
        buf_str(&body, i == 0 ? "\"model\":1" : ",\"model\":1");
    buf_str(&body, "}");
    cr_assert_eq(edit_check(&source, OP(EMBEDDINGS), buf_head(&body), buf_size(&body), &err),
                 0);
    cr_assert_eq(edit_splices(&splices, &source, &opts, &outcome, &err), DRV_EFULL);
    splices_finish(&splices);
    cr_assert_eq(edit_body(&out, &source, &opts, &outcome, &err), 0);
    cr_assert_null(strstr(buf_cstr(&out), "1"));
    buf_finish(&body);
    buf_finish(&out);
}
