/* edit.c - the few changes the node makes to a client's JSON body. */
#include "node/body/edit.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "base/text/form.h"
#include "base/text/json.h"
#include "base/text/json_check.h"
#include "base/text/splices.h"
#include "node/stream/meter.h"
#include "proto/drover_common.pb-c.h"
#include "proto/operations.h"

#define OP(name)  DROVER__V1__OPERATION__OPERATION_##name
#define MAX_EDITS 4

struct edit_plan {
    struct json_edit edits[MAX_EDITS];
    size_t count;
    struct buf model, stream_options; /* owned: values of edits */
};

static void finish_plan(struct edit_plan *plan)
{
    buf_finish(&plan->model);
    buf_finish(&plan->stream_options);
}

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
static int splice_form(struct splices *out, const struct edit_source *source,
                       const struct edit_options *opts)
{
    const char *old;
    size_t old_len;

    if (opts->model[0] == '\0' || strpbrk(opts->model, "\r\n") != NULL ||
        !form_find(opts->content_type, source->body, source->n, "model", &old, &old_len))
        return 0;
    return splices_add(out, (size_t)(old - (const char *)source->body), old_len, opts->model,
                       strlen(opts->model));
}

/* The members that are there are replaced where they stand, the others go to the front. */
static int splice_members(struct splices *out, const struct json_value *root,
                          const struct edit_plan *plan)
{
    size_t front = (size_t)(root->text + 1 - (const char *)out->text);
    struct json_value key, value;
    struct json_iter it;
    struct buf missing = BUF_INIT;
    uint64_t present = 0;
    bool empty = true;
    int rc = 0;

    json_iter_init(&it, root);
    while (rc == 0 && json_iter_next(&it, &key, &value)) {
        empty = false;
        for (size_t i = 0; rc == 0 && i < plan->count; i++) {
            const char *put = plan->edits[i].value;

            if (!json_equal(&key, plan->edits[i].name))
                continue;
            present |= UINT64_C(1) << i;
            rc = splices_add(out, (size_t)(value.text - (const char *)out->text), value.len,
                             put, strlen(put));
        }
    }
    for (size_t i = 0; i < plan->count; i++) {
        if ((present >> i & 1) != 0)
            continue;
        if (buf_size(&missing) != 0)
            buf_add(&missing, ",", 1);
        json_quote_str(&missing, plan->edits[i].name);
        buf_add(&missing, ":", 1);
        buf_str(&missing, plan->edits[i].value);
    }
    if (buf_size(&missing) != 0 && !empty)
        buf_add(&missing, ",", 1);
    if (rc == 0 && missing.failed)
        rc = DRV_ENOMEM;
    if (rc == 0 && buf_size(&missing) != 0)
        rc = splices_add(out, front, 0, buf_head(&missing), buf_size(&missing));
    buf_finish(&missing);
    return rc;
}

/* Appends the form with its model's name changed. */
static int edit_form(struct buf *out, const struct edit_source *source,
                     const struct edit_options *opts)
{
    struct splices splices;
    struct splices_reader reader = {0};
    uint8_t *to;
    size_t n;
    int rc;

    splices_init(&splices, source->body, source->n);
    rc = splice_form(&splices, source, opts);
    n = splices_size(&splices);
    to = rc != 0 || n == 0 ? NULL : buf_reserve(out, n);
    if (to != NULL)
        out->len += splices_read(&splices, &reader, to, n);
    splices_finish(&splices);
    return rc == 0 && out->failed ? DRV_ENOMEM : rc;
}

struct edit_checker {
    int operation;
    struct json_checker json;
    struct json_skips skips;
};

struct edit_checker *edit_checker_create(int operation)
{
    struct edit_checker *checker = calloc(1, sizeof(*checker));

    if (checker == NULL)
        return NULL;
    checker->operation = operation;
    json_checker_init(&checker->json, &checker->skips, false);
    return checker;
}

void edit_checker_destroy(struct edit_checker *checker)
{
    if (checker != NULL)
        json_skips_finish(&checker->skips);
    free(checker);
}

static bool takes_form(const struct edit_source *source)
{
    return operation_takes_form(source->operation,
                                source->n != 0 && *(const char *)source->body != '-');
}

static int check_json(struct json_checker *json, struct edit_source *out, bool last,
                      struct error *err)
{
    switch (json_checker_go(json, out->body, out->n, last, &out->root, err)) {
    case JSON_CHECK_MORE:
        return DRV_EAGAIN;
    case JSON_CHECK_BAD:
        return error_wrap(err, DRV_EINVAL, "the body is not JSON");
    case JSON_CHECKED:
        break;
    }
    if (out->root.type != JSON_OBJECT)
        return error_set(err, DRV_EINVAL, "the body is not a JSON object");
    return 0;
}

int edit_checker_go(struct edit_checker *checker, struct edit_source *out, const void *body,
                    size_t n, bool last, struct error *err)
{
    *out = (struct edit_source){.operation = checker->operation, .body = body, .n = n};
    if (takes_form(out))
        return last ? 0 : DRV_EAGAIN;
    return check_json(&checker->json, out, last, err);
}

int edit_check(struct edit_source *out, int operation, const void *body, size_t n,
               struct error *err)
{
    struct json_checker json;

    *out = (struct edit_source){.operation = operation, .body = body, .n = n};
    if (takes_form(out))
        return 0;
    json_checker_init(&json, NULL, false);
    return check_json(&json, out, true, err);
}

/* Asks for usage, where it is wanted and allowed. */
static int plan_usage(struct edit_plan *plan, const struct edit_source *source,
                      const struct edit_options *opts, const struct json_value *options,
                      struct edit_outcome *outcome)
{
    struct json_value asked = json_get(options, "include_usage");
    int rc;

    outcome->usage_asked = asked.type == JSON_TRUE;
    if (outcome->usage_asked || opts->no_usage || !(opts->usage || !opts->stream) ||
        (source->operation != OP(CHAT_COMPLETIONS) && source->operation != OP(COMPLETIONS)))
        return 0;
    rc = edit_inside(&plan->stream_options, options, "include_usage", "true");
    if (rc != 0)
        return rc;
    add(plan, "stream_options", buf_cstr(&plan->stream_options));
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

/* All edits of a body that is JSON. */
static int make_plan(struct edit_plan *plan, const struct edit_source *source,
                     const struct edit_options *opts, struct edit_outcome *outcome)
{
    struct json_value found[MEMBERS];
    int rc = 0;

    if (opts->model[0] != '\0') {
        json_quote_str(&plan->model, opts->model);
        add(plan, "model", buf_cstr(&plan->model));
    }
    find_members(found, &source->root);
    outcome->prompts = count_prompts(source->operation, &found[PROMPT]);
    outcome->choices = count_choices(&found[N]);
    outcome->streaming =
        meter_streams(source->operation) && !must_not_stream(source->operation, found);
    if (outcome->streaming) {
        if (found[STREAM].type != JSON_TRUE)
            add(plan, "stream", "true");
        rc = plan_usage(plan, source, opts, &found[STREAM_OPTIONS], outcome);
    }
    if (opts->token_ids)
        add(plan, "logprobs", "1");
    return rc == 0 && (plan->model.failed || plan->stream_options.failed) ? DRV_ENOMEM : rc;
}

static int no_memory(struct error *err, int rc)
{
    return rc == 0 ? 0 : error_set(err, rc, "the body cannot be edited: out of memory");
}

int edit_body(struct buf *out, const struct edit_source *source,
              const struct edit_options *opts, struct edit_outcome *outcome, struct error *err)
{
    struct edit_plan plan = {0};
    int rc;

    memset(outcome, 0, sizeof(*outcome));
    if (source->root.type == JSON_NONE)
        return no_memory(err, edit_form(out, source, opts));
    rc = make_plan(&plan, source, opts, outcome);
    if (rc == 0 && plan.count == 0)
        buf_add(out, source->body, source->n);
    else if (rc == 0)
        rc = json_edit(out, &source->root, plan.edits, plan.count);
    if (rc == 0 && out->failed)
        rc = DRV_ENOMEM;
    finish_plan(&plan);
    return no_memory(err, rc);
}

int edit_splices(struct splices *out, const struct edit_source *source,
                 const struct edit_options *opts, struct edit_outcome *outcome,
                 struct error *err)
{
    struct edit_plan plan = {0};
    int rc;

    memset(outcome, 0, sizeof(*outcome));
    splices_init(out, source->body, source->n);
    if (source->root.type == JSON_NONE)
        return no_memory(err, splice_form(out, source, opts));
    rc = make_plan(&plan, source, opts, outcome);
    if (rc == 0)
        rc = splice_members(out, &source->root, &plan);
    finish_plan(&plan);
    return no_memory(err, rc);
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
