/* reported.c - the error that an engine's body, or an event of it, reports. */
#include "node/body/reported.h"

#include <stdlib.h>
#include <string.h>

#include "base/attrs.h"
#include "base/text/buf.h"
#include "base/text/json.h"

static bool has_text(const struct json_value *v)
{
    return v->type == JSON_STRING && v->len > 2;
}

static bool type_is(const struct json_value *type, const char *name)
{
    return type->type == JSON_STRING && json_equal(type, name);
}

static void copy_text(char *out, size_t cap, const struct json_value *text)
{
    struct buf decoded = BUF_INIT;

    json_decode(&decoded, text);
    (void)strlcpy(out, buf_cstr(&decoded), cap);
    buf_finish(&decoded);
}

/* A number in 400..599, or a string of one. */
static uint32_t status_in(const struct json_value *code)
{
    char digits[8];
    uint64_t n = 0;

    if (code->type == JSON_STRING && json_name(digits, sizeof(digits), code))
        n = strtoull(digits, NULL, 10);
    else if (!json_uint(&n, code, 599))
        n = 0;
    return n >= 400 && n <= 599 ? (uint32_t)n : 0;
}

/* The HTTP status of an error that has no number: the types and codes that are not the engine's
 * own failure say so by name (Anthropic's and OpenAI's lists); 0 for any other. */
static uint32_t status_of_name(const struct json_value *name)
{
    static const struct {
        const char *name;
        uint32_t status;
    } names[] = {{"invalid_request_error", 400},
                 {"authentication_error", 401},
                 {"invalid_api_key", 401},
                 {"billing_error", 402},
                 {"permission_error", 403},
                 {"not_found_error", 404},
                 {"model_not_found", 404},
                 {"request_too_large", 413},
                 {"rate_limit_error", 429},
                 {"rate_limit_exceeded", 429},
                 {"insufficient_quota", 429},
                 {"overloaded_error", 529},
                 {"context_length_exceeded", 400},
                 {"BadRequestError", 400},
                 {"NotFoundError", 404}};

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (type_is(name, names[i].name))
            return names[i].status;
    return 0;
}

/* The HTTP status that a member of these names gives. */
static uint32_t status_at(const struct json_value *error)
{
    static const char *const names[] = {"code", "status", "status_code", "statusCode"};
    struct json_value v;
    uint32_t status = 0;

    for (size_t i = 0; status == 0 && i < ARRAY_LEN(names); i++) {
        v = json_get(error, names[i]);
        status = status_in(&v);
    }
    return status;
}

/* A value that is more than a way to say "none": {}, [], "", 0, null and false, or an object
 * of these. */
static bool says_something(const struct json_value *v, unsigned depth)
{
    struct json_value key, item;
    struct json_iter it;
    double number;

    if (v->type == JSON_NUMBER)
        return json_number(&number, v) && number != 0;
    if (v->type != JSON_OBJECT && v->type != JSON_ARRAY)
        return has_text(v) || v->type == JSON_TRUE;
    json_iter_init(&it, v);
    while (depth != 0 && json_iter_next(&it, &key, &item))
        if (says_something(&item, depth - 1))
            return true;
    return false;
}

static bool is_failure(const struct json_value *error)
{
    return says_something(error, 2);
}

/* Reads the text and the status of an error that is an object. */
static void read_error(const struct json_value *error, char *text, size_t cap, uint32_t *status)
{
    struct json_value message = json_get(error, "message");
    struct json_value name = json_get(error, "type");

    if (message.type == JSON_STRING && text[0] == '\0')
        copy_text(text, cap, &message);
    *status = status_at(error);
    if (*status == 0)
        *status = status_of_name(&name);
    name = json_get(error, "code");
    if (*status == 0)
        *status = status_of_name(&name);
}

/* The members that show whether a document is an error, read in one walk. */
enum { ERROR, OBJECT, TYPE, MESSAGE, STATUS, MARKS };

/* {"code":500,"message":"text"}, {"status":"error","message":"text"}: no member "error", but no
 * answer has these. */
static bool is_bare_error(const struct json_value *root, const struct json_value marks[MARKS])
{
    return type_is(&marks[OBJECT], "error") || type_is(&marks[TYPE], "error") ||
           (has_text(&marks[MESSAGE]) &&
            (type_is(&marks[STATUS], "error") || status_at(root) != 0));
}

/* The forms seen in the wild: {"error":{"message","code"}}, {"error":"text"},
 * {"error":true,"message"}, {"error":502,"message"}, {"error":[..]}, {"object":"error",
 * "message"}, {"type":"error","error":{..}}, {"code":500,"message"}. */
bool reported_in(const struct json_value *root, char *text, size_t cap, uint32_t *status)
{
    static const char *const names[MARKS] = {"error", "object", "type", "message", "status"};
    struct json_value marks[MARKS], error, key;
    struct json_iter it;

    *status = 0;
    text[0] = '\0';
    json_pick(root, names, marks, MARKS);
    error = marks[ERROR];
    if (!is_failure(&error) && !is_bare_error(root, marks))
        return false;
    if (error.type == JSON_ARRAY) {
        json_iter_init(&it, &marks[ERROR]);
        if (!json_iter_next(&it, &key, &error))
            error = marks[ERROR];
    }
    if (error.type == JSON_STRING)
        copy_text(text, cap, &error);
    read_error(error.type == JSON_OBJECT ? &error : root, text, cap, status);
    if (*status == 0)
        *status = status_in(&error);
    return true;
}

void reported_as_error(const struct json_value *root, char *text, size_t cap, uint32_t *status)
{
    if (!reported_in(root, text, cap, status))
        read_error(root, text, cap, status);
}

bool reported_in_choice(const struct json_value *choice, bool given, char *text, size_t cap,
                        uint32_t *status)
{
    struct json_value reason = json_get(choice, "finish_reason");
    struct json_value error = json_get(choice, "error");

    if (is_failure(&error))
        return reported_in(choice, text, cap, status);
    *status = 0;
    if (!type_is(&reason, "error") &&
        (given || !(type_is(&reason, "abort") || type_is(&reason, "aborted"))))
        return false;
    (void)strlcpy(text, "the answer ended with finish_reason ", cap);
    (void)strlcat(text, type_is(&reason, "error") ? "\"error\"" : "\"abort\"", cap);
    return true;
}

bool reported_in_choices(const struct json_value *root, char *text, size_t cap,
                         uint32_t *status)
{
    struct json_value choices = json_get(root, "choices");
    struct json_value key, choice;
    struct json_iter it;

    json_iter_init(&it, &choices);
    while (json_iter_next(&it, &key, &choice))
        if (reported_in_choice(&choice, true, text, cap, status))
            return true;
    return false;
}

/* Its `input` is what the client sent: it must not be read as the engine's words. */
static void copy_first_message(char *text, size_t cap, const struct json_value *detail)
{
    struct json_value key, item, message;
    struct json_iter it;

    json_iter_init(&it, detail);
    while (json_iter_next(&it, &key, &item)) {
        message = json_get(&item, "msg");
        if (message.type == JSON_STRING) {
            copy_text(text, cap, &message);
            return;
        }
    }
}

bool reported_text(const void *body, size_t n, char *text, size_t cap, uint32_t *status)
{
    struct json_value root, detail;
    size_t keep;

    *status = 0;
    text[0] = '\0';
    if (json_check(&root, body, n, NULL) == 0) {
        if (reported_in(&root, text, cap, status))
            return true;
        detail = json_get(&root, "detail");
        if (detail.type == JSON_STRING) {
            copy_text(text, cap, &detail);
            return true;
        }
        if (detail.type == JSON_ARRAY) { /* of a request that did not pass FastAPI's checks */
            copy_first_message(text, cap, &detail);
            return true;
        }
    }
    keep = n < cap ? n : cap - 1;
    if (keep != 0)
        memcpy(text, body, keep);
    text[keep] = '\0';
    return false;
}
