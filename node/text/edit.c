/* edit.c - the few changes the node makes to a client's JSON body. */
#include "node/text/edit.h"

#include <string.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/form.h"
#include "base/json.h"
#include "node/engine/observe.h"
#include "proto/drover_common.pb-c.h"

#define OP(name)  DROVER__V1__OPERATION__OPERATION_##name
#define MAX_EDITS 4

struct plan {
    struct json_edit edits[MAX_EDITS];
    size_t count;
};

static void add(struct plan *plan, const char *name, const char *value)
{
    plan->edits[plan->count++] = (struct json_edit){.name = name, .value = value};
}

/* Requests whose answer is not the same thing when it is streamed. */
static bool must_not_stream(int operation, const struct json_value *root)
{
    struct json_value best_of, background;
    uint64_t n;

    if (operation == OP(COMPLETIONS)) {
        best_of = json_get(root, "best_of");
        return json_uint(&n, &best_of, UINT32_MAX) && n > 1;
    }
    background = json_get(root, "background");
    return operation == OP(RESPONSES) && background.type == JSON_TRUE;
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
                      const struct edit_wishes *wishes)
{
    const char *bytes = body, *old;
    size_t old_len, before;

    if (wishes->model[0] == '\0' || strpbrk(wishes->model, "\r\n") != NULL ||
        !form_find(wishes->content_type, body, n, "model", &old, &old_len)) {
        buf_add(out, body, n);
        return;
    }
    before = (size_t)(old - bytes);
    buf_add(out, bytes, before);
    buf_str(out, wishes->model);
    buf_add(out, old + old_len, n - before - old_len);
}

static bool has_json_body(int operation)
{
    return operation != OP(TRANSCRIPTIONS);
}

int edit_body(struct buf *out, int operation, const void *body, size_t n,
              const struct edit_wishes *wishes, struct edit_outcome *outcome, struct error *err)
{
    struct buf model = BUF_INIT, stream_options = BUF_INIT;
    struct plan plan = {0};
    struct json_value root, object, asked;
    int rc;

    memset(outcome, 0, sizeof(*outcome));
    if (!has_json_body(operation)) {
        edit_form(out, body, n, wishes);
        return out->failed ? error_set(err, DRV_ENOMEM, "out of memory") : 0;
    }
    outcome->json = true;
    rc = json_check(&root, body, n, err);
    if (rc != 0)
        return error_wrap(err, rc, "the body is not JSON");
    if (root.type != JSON_OBJECT)
        return error_set(err, DRV_EINVAL, "the body is not a JSON object");

    if (wishes->model[0] != '\0') {
        json_quote_str(&model, wishes->model);
        add(&plan, "model", buf_cstr(&model));
    }
    outcome->streaming = observe_streams(operation) && !must_not_stream(operation, &root);
    if (outcome->streaming) {
        object = json_get(&root, "stream");
        if (object.type != JSON_TRUE)
            add(&plan, "stream", "true");
    }
    if (outcome->streaming && !wishes->no_usage && (wishes->usage || !wishes->stream) &&
        (operation == OP(CHAT_COMPLETIONS) || operation == OP(COMPLETIONS))) {
        object = json_get(&root, "stream_options");
        asked = json_get(&object, "include_usage");
        if (asked.type != JSON_TRUE) {
            rc = edit_inside(&stream_options, &object, "include_usage", "true");
            if (rc != 0)
                goto out;
            add(&plan, "stream_options", buf_cstr(&stream_options));
            outcome->usage_added = true;
        }
    }
    if (wishes->token_ids)
        add(&plan, "logprobs", "1");
    if (plan.count == 0)
        buf_add(out, body, n);
    else
        rc = json_edit(out, &root, plan.edits, plan.count);
    if (rc == 0 && (out->failed || model.failed || stream_options.failed))
        rc = DRV_ENOMEM;
out:
    if (rc != 0)
        (void)error_set(err, rc, "the body cannot be edited: out of memory");
    buf_finish(&model);
    buf_finish(&stream_options);
    return rc;
}
