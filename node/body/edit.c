/* edit.c - the few changes the node makes to a client's JSON body. */
#include "node/body/edit.h"

#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "base/text/form.h"
#include "base/text/json.h"
#include "node/stream/meter.h"
#include "proto/drover_common.pb-c.h"

#define OP(name)  DROVER__V1__OPERATION__OPERATION_##name
#define MAX_EDITS 4

struct edit_plan {
    struct json_edit edits[MAX_EDITS];
    size_t count;
};

static void add(struct edit_plan *plan, const char *name, const char *value)
{
    plan->edits[plan->count++] = (struct json_edit){.name = name, .value = value};
}

/* The members that decide over the edits, found in one walk: a body is long. */
enum member { AUDIO, BACKGROUND, BEST_OF, N, PROMPT, STREAM, STREAM_OPTIONS, MEMBERS };

static void find_members(struct json_value *found, const struct json_value *root)
{
    static const char *const names[MEMBERS] = {"audio",  "background", "best_of",       "n",
                                               "prompt", "stream",     "stream_options"};

    json_pick(root, names, found, MEMBERS);
}

/* Requests whose answer is not the same thing when it is streamed: audio has other formats
 * then. */
static bool must_not_stream(int operation, const struct json_value *found)
{
    uint64_t n;

    if (operation == OP(CHAT_COMPLETIONS))
        return found[AUDIO].type == JSON_OBJECT && found[STREAM].type != JSON_TRUE;
    if (operation == OP(COMPLETIONS))
        return json_uint(&n, &found[BEST_OF], UINT32_MAX) && n > 1;
    return operation == OP(RESPONSES) && found[BACKGROUND].type == JSON_TRUE;
}

/* A member of an object, replaced or added; the object is made when it is missing. */
static int edit_inside(struct buf *out, const struct json_value *object, const char *name,
                       const char *value)
{
    struct json_edit edit = {.name = name, .value = value};
    struct json_value root;

    if (object->type == JSON_OBJECT)
        return json_edit(out, object, &edit, 1);
    if (json_check(&root, "{}", 2, NULL) != 0)
        return DRV_EINVAL;
    return json_edit(out, &root, &edit, 1);
}

/* A form keeps all its bytes but those of its model's name.  A name with a line end in it could
 * end its part of the form: there is no model of that name. */
static void edit_form(struct buf *out, const void *body, size_t n,
                      const struct edit_options *opts)
{
    const char *bytes = body, *old;
    size_t old_len, before;

    if (opts->model[0] == '\0' || strpbrk(opts->model, "\r\n") != NULL ||
        !form_find(opts->content_type, body, n, "model", &old, &old_len)) {
        buf_add(out, body, n);
        return;
    }
    before = (size_t)(old - bytes);
    buf_add(out, bytes, before);
    buf_str(out, opts->model);
    buf_add(out, old + old_len, n - before - old_len);
}

int edit_check(struct edit_source *out, int operation, const void *body, size_t n,
               struct error *err)
{
    int rc;

    *out = (struct edit_source){.operation = operation, .body = body, .n = n};
    if (operation == OP(TRANSCRIPTIONS))
        return 0;
    rc = json_check(&out->root, body, n, err);
    if (rc != 0)
        return error_wrap(err, rc, "the body is not JSON");
    if (out->root.type != JSON_OBJECT)
        return error_set(err, DRV_EINVAL, "the body is not a JSON object");
    return 0;
}

/* Asks for usage, where it is wanted and allowed.  `text` has the member's value and must
 * stay until the edit is done. */
static int plan_usage(struct edit_plan *plan, struct buf *text,
                      const struct edit_source *source, const struct edit_options *opts,
                      const struct json_value *options, struct edit_outcome *outcome)
{
    struct json_value asked = json_get(options, "include_usage");
    int rc;

    outcome->usage_asked = asked.type == JSON_TRUE;
    if (outcome->usage_asked || opts->no_usage || !(opts->usage || !opts->stream) ||
        (source->operation != OP(CHAT_COMPLETIONS) && source->operation != OP(COMPLETIONS)))
        return 0;
    rc = edit_inside(text, options, "include_usage", "true");
    if (rc != 0)
        return rc;
    add(plan, "stream_options", buf_cstr(text));
    outcome->usage_added = true;
    return 0;
}

/* [1,2,3] is one prompt, ["a","b"] and [[1],[2]] are two. */
static uint32_t count_prompts(int operation, const struct json_value *prompt)
{
    struct json_value key, item;
    struct json_iter it;
    uint32_t count = 0;

    if (operation != OP(COMPLETIONS) || prompt->type != JSON_ARRAY)
        return 1;
    json_iter_init(&it, prompt);
    while (json_iter_next(&it, &key, &item)) {
        if (item.type == JSON_NUMBER)
            return 1;
        count++;
    }
    return count == 0 ? 1 : count;
}

static uint32_t count_choices(const struct json_value *n)
{
    uint64_t count;

    return json_uint(&count, n, UINT32_MAX) && count != 0 ? (uint32_t)count : 1;
}

int edit_body(struct buf *out, const struct edit_source *source,
              const struct edit_options *opts, struct edit_outcome *outcome, struct error *err)
{
    struct buf model = BUF_INIT, stream_options = BUF_INIT;
    struct json_value found[MEMBERS];
    struct edit_plan plan = {0};
    int rc = 0;

    memset(outcome, 0, sizeof(*outcome));
    if (source->root.type == JSON_NONE) {
        edit_form(out, source->body, source->n, opts);
        return out->failed ? error_set(err, DRV_ENOMEM, "out of memory") : 0;
    }
    if (opts->model[0] != '\0') {
        json_quote_str(&model, opts->model);
        add(&plan, "model", buf_cstr(&model));
    }
    find_members(found, &source->root);
    outcome->prompts = count_prompts(source->operation, &found[PROMPT]);
    outcome->choices = count_choices(&found[N]);
    outcome->streaming =
        meter_streams(source->operation) && !must_not_stream(source->operation, found);
    if (outcome->streaming) {
        if (found[STREAM].type != JSON_TRUE)
            add(&plan, "stream", "true");
        rc = plan_usage(&plan, &stream_options, source, opts, &found[STREAM_OPTIONS], outcome);
    }
    if (opts->token_ids)
        add(&plan, "logprobs", "1");
    if (rc == 0 && plan.count == 0)
        buf_add(out, source->body, source->n);
    else if (rc == 0)
        rc = json_edit(out, &source->root, plan.edits, plan.count);
    if (rc == 0 && (out->failed || model.failed || stream_options.failed))
        rc = DRV_ENOMEM;
    if (rc != 0)
        (void)error_set(err, rc, "the body cannot be edited: out of memory");
    buf_finish(&model);
    buf_finish(&stream_options);
    return rc;
}

static int edit_again(struct buf *out, const void *body, size_t n,
                      const struct json_edit *edits, size_t count)
{
    struct json_value root;
    int rc = json_check(&root, body, n, NULL);

    if (rc == 0)
        rc = json_edit(out, &root, edits, count);
    return rc == 0 && out->failed ? DRV_ENOMEM : rc;
}

int edit_unstreamed(struct buf *out, int operation, const void *body, size_t n,
                    bool usage_added)
{
    /* Ollama streams by default. */
    const struct json_edit edits[] = {
        {.name = "stream", .value = meter_is_ndjson(operation) ? "false" : NULL},
        {.name = "stream_options", .value = NULL}};

    return edit_again(out, body, n, edits, usage_added ? 2 : 1);
}

int edit_without(struct buf *out, const void *body, size_t n, const char *name)
{
    const struct json_edit edit = {.name = name, .value = NULL};

    return edit_again(out, body, n, &edit, 1);
}
