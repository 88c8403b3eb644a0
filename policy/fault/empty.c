/* empty.c - is an answer without output right? */
#include "policy/fault/empty.h"

#include <strings.h>

#include "base/attrs.h"
#include "base/text/json.h"

static bool is_one_of(const char *reason, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcasecmp(reason, names[i]) == 0)
            return true;
    return false;
}

/* A limit, which hidden reasoning may have reached: then it was counted. */
static bool is_limit(const char *reason)
{
    static const char *const reasons[] = {
        "length",       "max_tokens", "max_output_tokens",
        "model_length", "incomplete", "model_context_window_exceeded"};

    return is_one_of(reason, reasons, ARRAY_LEN(reasons));
}

static bool says_why(const char *reason)
{
    static const char *const reasons[] = {
        /* a filter, or the model's own no */
        "content_filter", "content-filter", "safety", "recitation", "refusal",
        /* no text is due */
        "tool_calls", "tool_use", "function_call", "pause_turn", "requires_action",
        "stop_sequence",
        /* not over yet, or ended by others: a response in the background */
        "queued", "in_progress", "cancelled", "abort"};

    return is_one_of(reason, reasons, ARRAY_LEN(reasons));
}

/* 0, and the strings "0" and "0s", which Ollama takes. */
static bool is_zero(const struct json_value *value)
{
    double number;

    if (value->type == JSON_STRING)
        return json_equal(value, "0") || json_equal(value, "0s") || json_equal(value, "0m");
    return value->type == JSON_NUMBER && json_number(&number, value) && number == 0;
}

static bool is_empty(const struct json_value *value)
{
    return value->type == JSON_NONE || value->type == JSON_NULL ||
           (value->type == JSON_STRING && value->len <= 2) ||
           (value->type == JSON_ARRAY && !json_has_items(value));
}

/* Is it the result of a tool, or has it one among its parts? */
static bool is_result(const struct json_value *message)
{
    struct json_value role = json_get(message, "role"), type = json_get(message, "type");
    struct json_value content = json_get(message, "content"), key, part;
    struct json_iter it;

    if (json_equal(&role, "tool") || json_equal(&role, "function") ||
        json_equal(&type, "function_call_output"))
        return true;
    json_iter_init(&it, &content);
    while (content.type == JSON_ARRAY && json_iter_next(&it, &key, &part)) {
        type = json_get(&part, "type");
        if (json_equal(&type, "tool_result"))
            return true;
    }
    return false;
}

/* After these a model often has nothing to add. */
static bool ends_in_an_answer(const struct json_value *messages)
{
    struct json_value key, message, last = {0}, role;
    struct json_iter it;

    if (messages->type != JSON_ARRAY)
        return false;
    json_iter_init(&it, messages);
    while (json_iter_next(&it, &key, &message))
        last = message;
    role = json_get(&last, "role");
    return json_equal(&role, "assistant") || is_result(&last);
}

bool empty_is_explained(const struct json_value *body, const char *reason,
                        uint32_t output_tokens)
{
    enum {
        MAX_TOKENS,
        MAX_COMPLETION,
        MAX_OUTPUT,
        N_PREDICT,
        MESSAGES,
        INPUT,
        PROMPT,
        CONVERSATION,
        SUFFIX,
        INFIX,
        STOP,
        STOPS,
        OPTIONS,
        ALL
    };
    static const char *const names[ALL] = {"max_tokens",
                                           "max_completion_tokens",
                                           "max_output_tokens",
                                           "n_predict",
                                           "messages",
                                           "input",
                                           "prompt",
                                           "conversation",
                                           "suffix",
                                           "input_suffix",
                                           "stop",
                                           "stop_sequences",
                                           "options"};
    struct json_value v[ALL], limit, stop;

    if (says_why(reason) || (is_limit(reason) && output_tokens != 0))
        return true;
    json_pick(body, names, v, ALL);
    limit = json_get(&v[OPTIONS], "num_predict");
    stop = json_get(&v[OPTIONS], "stop");
    for (unsigned i = MAX_TOKENS; i <= N_PREDICT; i++)
        if (is_zero(&v[i]))
            return true;
    if (is_zero(&limit))
        return true;
    if (is_empty(&v[MESSAGES]) && is_empty(&v[INPUT]) && is_empty(&v[PROMPT]) &&
        is_empty(&v[CONVERSATION]))
        return true;
    if (!is_empty(&v[SUFFIX]) || !is_empty(&v[INFIX]))
        return true;
    if (ends_in_an_answer(&v[MESSAGES]) || ends_in_an_answer(&v[INPUT]))
        return true;
    return output_tokens != 0 &&
           !(is_empty(&v[STOP]) && is_empty(&v[STOPS]) && is_empty(&stop));
}
