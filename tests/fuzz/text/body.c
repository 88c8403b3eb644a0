/*
 * body.c - a client's body on its way: what the worker reads of it, and what the node makes of
 * it for the engine, for every operation.
 *
 * Input: a byte for the operation, a byte of options, then the body.
 */
#include "base/error.h"
#include "base/text/buf.h"
#include "base/text/form.h"
#include "base/text/json.h"
#include "node/body/edit.h"
#include "node/body/resume.h"
#include "policy/route/prompt.h"
#include "proto/drover_common.pb-c.h"
#include "tests/fuzz/fuzz.h"
#include "worker/http/client_request.h"

#define FORM "multipart/form-data; boundary=xyz"

static void read_form(const uint8_t *body, size_t n)
{
    struct edit_options opts = {.model = "other", .content_type = FORM};
    struct edit_outcome outcome;
    struct edit_source source;
    struct inspected got;
    struct error err = {0};
    struct buf out = BUF_INIT;
    const char *value;
    size_t len;
    int rc = inspect_multipart(&got, FORM, body, n, &err);

    MUST(rc == 0 || err.text[0] != '\0');
    if (form_find(FORM, body, n, "model", &value, &len))
        MUST((const uint8_t *)value >= body && (const uint8_t *)value + len <= body + n);
    MUST(edit_check(&source, DROVER__V1__OPERATION__OPERATION_TRANSCRIPTIONS, body, n, &err) ==
         0);
    rc = edit_body(&out, &source, &opts, &outcome, &err);
    if (rc == 0 && form_find(FORM, buf_head(&out), buf_size(&out), "model", &value, &len))
        MUST(len == 5 && memcmp(value, "other", 5) == 0);
    buf_finish(&out);
}

static void read_prompt(const struct json_value *root)
{
    static struct prompt prompt, again;

    prompt_read(&prompt, "m", root, 64);
    MUST(prompt.count <= PROMPT_MAX_WINDOWS && prompt.count <= prompt.bytes / 64);
    prompt_read(&again, "m", root, 64);
    MUST(prompt.bytes == again.bytes && prompt.count == again.count);
    MUST(memcmp(prompt.hash, again.hash, prompt.count * sizeof(prompt.hash[0])) == 0);
}

/* The edited body as the client meant it asks for no stream. */
static void unstream(int operation, const struct buf *body)
{
    struct buf out = BUF_INIT;
    struct json_value root;

    MUST(edit_unstreamed(&out, operation, buf_head(body), buf_size(body), true) == 0);
    MUST(json_check(&root, buf_head(&out), buf_size(&out), NULL) == 0);
    MUST(json_get(&root, "stream").type != JSON_TRUE);
    MUST(json_get(&root, "stream_options").type == JSON_NONE);
    buf_finish(&out);
}

static void edit(int operation, uint32_t wish, const uint8_t *body, size_t n)
{
    struct edit_options opts = {.model = (wish & 1) != 0 ? "other" : "",
                                .usage = (wish & 2) != 0,
                                .no_usage = (wish & 4) != 0,
                                .stream = (wish & 8) != 0};
    struct edit_outcome outcome;
    struct edit_source source;
    struct json_value root;
    struct error err = {0};
    struct buf out = BUF_INIT;

    if (edit_check(&source, operation, body, n, &err) == 0 &&
        edit_body(&out, &source, &opts, &outcome, &err) == 0 && source.root.type != JSON_NONE) {
        struct json_value model;

        MUST(json_check(&root, buf_head(&out), buf_size(&out), NULL) == 0);
        model = json_get(&root, "model");
        MUST((wish & 1) == 0 || json_equal(&model, "other"));
        unstream(operation, &out);
    }
    buf_finish(&out);
}

static void resume(int operation, const struct json_value *root)
{
    const struct resume_request request = {
        .operation = operation, .text = "so far \"\xe2\x98\xba", .text_len = 11, .tokens = 3};
    const struct resume_last last = {.operation = operation,
                                     .id = "chatcmpl-1",
                                     .prompt_tokens = 9,
                                     .output_tokens = 3,
                                     .text = "so far",
                                     .text_len = 6,
                                     .item_id = "msg_1"};
    struct json_value changed;
    struct error err = {0};
    struct buf out = BUF_INIT;
    bool over = false;

    if (!resume_possible(operation, root))
        return;
    if (resume_body(&out, root, &request, &over, &err) == 0 && !over)
        MUST(json_check(&changed, buf_head(&out), buf_size(&out), NULL) == 0);
    buf_reset(&out);
    resume_last_events(&out, root, &last);
    MUST(!out.failed);
    buf_finish(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    int operation = (int)(input_byte(&in) % 14);
    uint32_t wish = input_byte(&in);
    size_t n = in.left;
    uint8_t *body = (uint8_t *)input_copy(in.at, n);
    struct inspected got;
    struct json_value root;
    struct error err = {0};
    const char *param = NULL;

    read_form(body, n);
    if (inspect_body(&got, operation, body, n, &param, &err) == 0)
        MUST(memchr(got.model, '\0', sizeof(got.model)) != NULL);
    else
        MUST(err.text[0] != '\0');
    edit(operation, wish, body, n);
    if (json_check(&root, body, n, NULL) == 0) {
        read_prompt(&root);
        resume(operation, &root);
    }
    free(body);
    return 0;
}
