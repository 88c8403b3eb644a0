/* calls.c - the tool calls of one choice, put together from the deltas of a stream. */
#include "node/stream/calls.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "base/text/json.h"

void calls_finish(struct calls *calls)
{
    for (size_t i = 0; i < calls->count; i++) {
        fields_finish(&calls->list[i].members);
        fields_finish(&calls->list[i].function);
    }
    free(calls->list);
    calls->list = NULL;
    calls->count = 0;
}

static bool has_text(const struct json_value *v)
{
    return v->type == JSON_STRING && v->len > 2;
}

static bool is_same(const struct fields *f, const char *name, const struct json_value *now)
{
    const struct field *field = fields_find_str(f, name);

    return field != NULL && buf_size(&field->value) == now->len &&
           memcmp(buf_head(&field->value), now->text, now->len) == 0;
}

/* Is the member there with another text? */
static bool differs(const struct fields *f, const char *name, const struct json_value *now)
{
    const struct field *field = fields_find_str(f, name);

    return has_text(now) && field != NULL && buf_size(&field->value) > 2 &&
           buf_head(&field->value)[0] == '"' && !is_same(f, name, now);
}

/* More than white space? */
static bool says_something(const struct json_value *arguments)
{
    const char *text = arguments->text;

    if (arguments->type == JSON_OBJECT)
        return true;
    if (arguments->type != JSON_STRING)
        return false;
    for (size_t i = 1; i + 1 < arguments->len; i++) {
        if (text[i] == '\\' && i + 2 < arguments->len && strchr("ntr", text[i + 1]) != NULL)
            i++;
        else if (text[i] != ' ')
            return true;
    }
    return false;
}

/* Does the delta begin another call than this one? */
static bool begins_another(const struct tool_call *call, const struct json_value *delta)
{
    struct json_value id = json_get(delta, "id");
    struct json_value function = json_get(delta, "function");
    struct json_value name = json_get(&function, "name");
    struct json_value arguments = json_get(&function, "arguments");

    /* Before 0.9 vLLM gave each piece an id of its own: a call that goes on has no name. */
    if (differs(&call->members, "id", &id))
        return call->arguments.whole || has_text(&name) ||
               fields_find_str(&call->function, "name") == NULL;
    return call->arguments.whole &&
           (differs(&call->function, "name", &name) || says_something(&arguments));
}

static int add_call(struct calls *calls, uint64_t index, struct tool_call **out)
{
    struct tool_call *grown;

    if (calls->count == CALLS_MAX)
        return DRV_EINVAL;
    grown = realloc(calls->list, (calls->count + 1) * sizeof(*grown));
    if (grown == NULL)
        return DRV_ENOMEM;
    calls->list = grown;
    *out = &grown[calls->count++];
    memset(*out, 0, sizeof(**out));
    (*out)->index = index;
    return 0;
}

/* The last call of this index, or the very last; with an id, the last that has it. */
static struct tool_call *last_call(struct calls *calls, const uint64_t *index,
                                   const struct json_value *id)
{
    for (size_t i = calls->count; i-- > 0;) {
        struct tool_call *call = &calls->list[i];

        if ((index == NULL || call->index == *index) &&
            (id == NULL || is_same(&call->members, "id", id)))
            return call;
    }
    return NULL;
}

/* The call that a delta belongs to, or a new one. */
static int find_call(struct calls *calls, const struct json_value *delta,
                     struct tool_call **out)
{
    struct json_value v = json_get(delta, "index");
    struct json_value id = json_get(delta, "id");
    uint64_t index = 0;
    bool counted = json_uint(&index, &v, UINT32_MAX);
    const uint64_t *of = counted ? &index : NULL;
    struct tool_call *call = has_text(&id) ? last_call(calls, of, &id) : NULL;

    if (call == NULL)
        call = last_call(calls, of, NULL);
    if (call == NULL || begins_another(call, delta))
        return add_call(calls, counted || call == NULL ? index : call->index + 1, out);
    *out = call;
    return 0;
}

static void follow(struct call_arguments *a, const struct json_value *piece)
{
    struct buf text = BUF_INIT;

    json_decode(&text, piece);
    for (size_t i = 0; i < buf_size(&text); i++) {
        char c = (char)buf_head(&text)[i];

        if (a->escaped)
            a->escaped = false;
        else if (a->in_string && c == '\\')
            a->escaped = true;
        else if (c == '"')
            a->in_string = !a->in_string;
        else if (!a->in_string && (c == '{' || c == '['))
            a->depth++;
        else if (!a->in_string && (c == '}' || c == ']') && a->depth != 0 && --a->depth == 0)
            a->whole = true;
    }
    buf_finish(&text);
}

/* An empty text says nothing, and null only fills a gap. */
static void keep(struct fields *f, const struct json_value *key, const struct json_value *value)
{
    if (value->type == JSON_STRING ? value->len > 2
                                   : value->type != JSON_NULL || fields_find(f, key) == NULL)
        fields_set(f, key, value);
}

int calls_add_function(struct fields *function, const struct json_value *delta)
{
    struct json_value key, value;
    struct json_iter it;

    json_iter_init(&it, delta);
    while (json_iter_next(&it, &key, &value)) {
        if (json_equal(&key, "arguments") && value.type == JSON_STRING)
            fields_append(function, &key, &value);
        else
            keep(function, &key, &value);
    }
    return function->failed ? DRV_ENOMEM : 0;
}

int calls_add(struct calls *calls, const struct json_value *delta)
{
    struct json_value function = json_get(delta, "function");
    struct json_value arguments = json_get(&function, "arguments");
    struct json_value key, value;
    struct json_iter it;
    struct tool_call *call;
    int rc = find_call(calls, delta, &call);

    if (rc != 0)
        return rc;
    if (arguments.type == JSON_STRING)
        follow(&call->arguments, &arguments);
    else if (arguments.type == JSON_OBJECT)
        call->arguments.whole = true;
    json_iter_init(&it, delta);
    while (json_iter_next(&it, &key, &value)) {
        if (json_equal(&key, "index"))
            continue;
        if (json_equal(&key, "function") && value.type == JSON_OBJECT)
            rc = calls_add_function(&call->function, &value);
        else if (!json_equal(&key, "id") || !differs(&call->members, "id", &value))
            keep(&call->members, &key, &value);
        if (rc != 0)
            return rc;
    }
    return call->members.failed ? DRV_ENOMEM : 0;
}

void calls_write(const struct calls *calls, struct buf *out)
{
    buf_str(out, "[");
    for (size_t i = 0; i < calls->count; i++) {
        const struct tool_call *call = &calls->list[i];

        buf_str(out, i == 0 ? "{" : ",{");
        if (fields_find_str(&call->members, "type") == NULL)
            buf_str(out, "\"type\":\"function\",");
        if (fields_write(&call->members, out, NULL))
            buf_add(out, ",", 1);
        buf_str(out, "\"function\":{");
        (void)fields_write(&call->function, out, NULL);
        buf_str(out, "}}");
    }
    buf_str(out, "]");
}
