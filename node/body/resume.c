/* resume.c - which answers can be continued, and the request to the engine for it. */
#include "node/body/resume.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "proto/drover_common.pb-c.h"

#define OP(name)   DROVER__V1__OPERATION__OPERATION_##name
#define KIND(name) DROVER__V1__ENGINE_KIND__ENGINE_KIND_##name

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* ---- which answers --------------------------------------------------------------------- */

/* Absent, or a way to say no. */
static bool is_off(const struct json_value *v)
{
    struct json_iter it;
    struct json_value key, item;
    double number;

    switch (v->type) {
    case JSON_NONE:
    case JSON_NULL:
    case JSON_FALSE:
        return true;
    case JSON_TRUE:
        return false;
    case JSON_STRING:
        return v->len == 2;
    case JSON_NUMBER:
        return json_number(&number, v) && number == 0;
    case JSON_OBJECT:
    case JSON_ARRAY:
        json_iter_init(&it, v);
        return !json_iter_next(&it, &key, &item);
    }
    return false;
}

static bool is_absent(const struct json_value *v)
{
    return v->type == JSON_NONE || v->type == JSON_NULL;
}

/* Members, of whatever engine, that make an answer more than its text, or that already say how
 * the last message is to be continued. */
static bool has_obstacle(const struct json_value *root)
{
    static const char *const names[] = {"tools",
                                        "functions",
                                        "grammar",
                                        "json_schema",
                                        "guided_json",
                                        "guided_regex",
                                        "guided_choice",
                                        "guided_grammar",
                                        "structured_outputs",
                                        "regex",
                                        "ebnf",
                                        "structural_tag",
                                        "logprobs",
                                        "top_logprobs",
                                        "prompt_logprobs",
                                        "n_probs",
                                        "echo",
                                        "suffix",
                                        "audio",
                                        "return_tokens",
                                        "return_token_ids",
                                        "output_format",
                                        "output_config",
                                        "continue_final_message",
                                        "mcp_servers",
                                        "web_search_options"};

    struct json_value found[ARRAY_LEN(names)];

    json_pick(root, names, found, ARRAY_LEN(names));
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (!is_off(&found[i]))
            return true;
    return false;
}

static bool is_at_most_one(const struct json_value *v)
{
    uint64_t n;

    return is_absent(v) || json_uint(&n, v, 1);
}

/* An object with a harmless "type", or nothing. */
static bool type_is_off(const struct json_value *v, const char *harmless)
{
    struct json_value type = json_get(v, "type");

    return is_absent(v) || (type.type == JSON_STRING && json_equal(&type, harmless));
}

static bool is_text_only(const struct json_value *modalities)
{
    struct json_value key, item;
    struct json_iter it;

    if (is_absent(modalities))
        return true;
    if (modalities->type != JSON_ARRAY)
        return false;
    json_iter_init(&it, modalities);
    while (json_iter_next(&it, &key, &item))
        if (item.type != JSON_STRING || !json_equal(&item, "text"))
            return false;
    return true;
}

/* Messages of which the last is not the assistant's: its own text and the answer's could not be
 * separated. */
static bool messages_end_well(const struct json_value *messages)
{
    struct json_value key, item, last = {0}, role;
    struct json_iter it;

    if (messages->type != JSON_ARRAY)
        return false;
    json_iter_init(&it, messages);
    while (json_iter_next(&it, &key, &item))
        last = item;
    role = json_get(&last, "role");
    return role.type == JSON_STRING && !json_equal(&role, "assistant");
}

/* {"format":{"type":"text"}}, or nothing. */
static bool format_is_text(const struct json_value *text)
{
    struct json_value format = json_get(text, "format");

    return is_absent(text) || type_is_off(&format, "text");
}

/* Is the state of a request of the Responses API all in the request? */
static bool holds_its_state(const struct json_value *root)
{
    static const char *const names[] = {"previous_response_id", "conversation", "prompt",
                                        "background", "include"};
    struct json_value found[ARRAY_LEN(names)];

    json_pick(root, names, found, ARRAY_LEN(names));
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (!is_off(&found[i]))
            return false;
    return true;
}

bool resume_possible(int operation, const struct json_value *root)
{
    enum {
        N,
        BEST_OF,
        RESPONSE_FORMAT,
        THINKING,
        MODALITIES,
        GENERATION,
        MESSAGES,
        PROMPT,
        LOGPROBS,
        INPUT,
        TEXT,
        ALL
    };
    static const char *const names[ALL] = {"n",        "best_of",    "response_format",
                                           "thinking", "modalities", "add_generation_prompt",
                                           "messages", "prompt",     "logprobs",
                                           "input",    "text"};
    struct json_value v[ALL];

    if (root->type != JSON_OBJECT || has_obstacle(root))
        return false;
    json_pick(root, names, v, ALL);
    if (!is_at_most_one(&v[N]) || !is_at_most_one(&v[BEST_OF]) ||
        !type_is_off(&v[RESPONSE_FORMAT], "text") || !type_is_off(&v[THINKING], "disabled") ||
        !is_text_only(&v[MODALITIES]) || v[GENERATION].type == JSON_FALSE)
        return false;
    switch (operation) {
    case OP(CHAT_COMPLETIONS):
    case OP(MESSAGES):
        return messages_end_well(&v[MESSAGES]);
    case OP(COMPLETIONS): /* logprobs: 0 asks for some */
        return v[PROMPT].type == JSON_STRING && v[LOGPROBS].type != JSON_NUMBER;
    case OP(RESPONSES):
        return holds_its_state(root) && format_is_text(&v[TEXT]) &&
               (v[INPUT].type == JSON_STRING || messages_end_well(&v[INPUT]));
    default: /* an int from the wire */
        return false;
    }
}

bool resume_engine_can(int kind, int operation)
{
    switch (kind) {
    case KIND(LLAMA_SERVER):
    case KIND(SIMULATED):
        return true;
    case KIND(VLLM):
    case KIND(SGLANG):
        return operation != OP(MESSAGES) && operation != OP(RESPONSES);
    default: /* Ollama puts completions into a template too; of others nothing is known */
        return false;
    }
}

bool resume_engine_knows_ids(int kind, int operation)
{
    return operation == OP(COMPLETIONS) &&
           (kind == KIND(LLAMA_SERVER) || kind == KIND(SIMULATED));
}

bool resume_engine_repeats(int kind, int operation)
{
    return kind == KIND(LLAMA_SERVER) && operation == OP(MESSAGES);
}

size_t resume_text_len(const char *text)
{
    size_t n = strlen(text), mark = strlen(REPLACEMENT);

    while (n >= mark && memcmp(text + n - mark, REPLACEMENT, mark) == 0)
        n -= mark;
    return n;
}

/* ---- the body -------------------------------------------------------------------------- */

#define MAX_EDITS 8

struct resume_plan {
    struct json_edit edits[MAX_EDITS];
    char digits[MAX_EDITS][24];
    size_t count;
    struct buf input; /* owned: the messages, or the prompt */
};

static void add(struct resume_plan *plan, const char *name, const char *value)
{
    plan->edits[plan->count++] = (struct json_edit){.name = name, .value = value};
}

static void add_number(struct resume_plan *plan, const char *name, uint64_t n)
{
    char *digits = plan->digits[plan->count];

    (void)snprintf(digits, sizeof(plan->digits[0]), "%llu", (unsigned long long)n);
    add(plan, name, digits);
}

/* [a, b] becomes [a, b,{the text}]. */
static void plan_messages(struct resume_plan *plan, const struct json_value *messages,
                          const struct resume_request *request)
{
    buf_add(&plan->input, messages->text, messages->len - 1);
    buf_str(&plan->input, ",{\"role\":\"assistant\",\"content\":");
    json_quote(&plan->input, request->text, request->text_len);
    buf_str(&plan->input, "}]");
    add(plan, "messages", buf_cstr(&plan->input));
    if (request->operation == OP(CHAT_COMPLETIONS)) {
        add(plan, "continue_final_message", "true");
        add(plan, "add_generation_prompt", "false");
    }
}

/* "input" or [a, b] becomes [a, b,{the text}]. */
static void plan_input(struct resume_plan *plan, const struct json_value *input,
                       const struct resume_request *request)
{
    if (input->type == JSON_STRING) {
        buf_str(&plan->input, "[{\"role\":\"user\",\"content\":");
        buf_add(&plan->input, input->text, input->len);
        buf_str(&plan->input, "}");
    } else {
        buf_add(&plan->input, input->text, input->len - 1);
    }
    buf_str(&plan->input, ",{\"type\":\"message\",\"role\":\"assistant\",\"content\":["
                          "{\"type\":\"output_text\",\"text\":");
    json_quote(&plan->input, request->text, request->text_len);
    buf_str(&plan->input, "}]}]");
    add(plan, "input", buf_cstr(&plan->input));
    add(plan, "continue_final_message", "true");
    add(plan, "add_generation_prompt", "false");
}

/* "prompt" becomes "prompttext". */
static void plan_prompt(struct resume_plan *plan, const struct json_value *prompt,
                        const struct resume_request *request)
{
    struct buf quoted = BUF_INIT;

    json_quote(&quoted, request->text, request->text_len);
    buf_add(&plan->input, prompt->text, prompt->len - 1);
    if (buf_size(&quoted) != 0)
        buf_add(&plan->input, buf_head(&quoted) + 1, buf_size(&quoted) - 1);
    plan->input.failed |= quoted.failed;
    buf_finish(&quoted);
    add(plan, "prompt", buf_cstr(&plan->input));
}

/* "prompt" becomes ["prompt",1,2,3]: a text and the ids that follow it. */
static void plan_ids(struct resume_plan *plan, const struct json_value *prompt,
                     const struct resume_request *request)
{
    buf_str(&plan->input, "[");
    buf_add(&plan->input, prompt->text, prompt->len);
    for (size_t i = 0; i < request->token_ids_count; i++)
        buf_printf(&plan->input, ",%u", (unsigned)request->token_ids[i]);
    buf_str(&plan->input, "]");
    add(plan, "prompt", buf_cstr(&plan->input));
}

/* 0, negative and unreadable limits are none, as for the engines that gave the text so far. */
static void plan_limits(struct resume_plan *plan, const struct json_value *root,
                        uint32_t tokens, bool *over)
{
    static const char *const most[] = {"max_tokens", "max_completion_tokens", "n_predict",
                                       "max_output_tokens"};
    struct json_value v;
    uint64_t n;

    if (tokens == 0)
        return;
    for (size_t i = 0; i < ARRAY_LEN(most); i++) {
        v = json_get(root, most[i]);
        if (!json_uint(&n, &v, INT64_MAX) || n == 0)
            continue;
        if (n <= tokens)
            *over = true;
        else
            add_number(plan, most[i], n - tokens);
    }
    v = json_get(root, "min_tokens");
    if (json_uint(&n, &v, INT64_MAX))
        add_number(plan, "min_tokens", n <= tokens ? 0 : n - tokens);
}

int resume_body(struct buf *out, const struct json_value *root,
                const struct resume_request *request, bool *over, struct error *err)
{
    struct resume_plan plan = {0};
    struct json_value input;
    int rc = 0;

    *over = false;
    if (!resume_possible(request->operation, root))
        return error_set(err, DRV_EINVAL, "an answer to this request cannot be continued");
    if (request->token_ids_count != 0 && request->operation == OP(COMPLETIONS)) {
        input = json_get(root, "prompt");
        plan_ids(&plan, &input, request);
    } else if (request->text_len == 0) {
        /* no text so far: nothing to continue from */
    } else if (request->operation == OP(COMPLETIONS)) {
        input = json_get(root, "prompt");
        plan_prompt(&plan, &input, request);
    } else if (request->operation == OP(RESPONSES)) {
        input = json_get(root, "input");
        plan_input(&plan, &input, request);
    } else {
        input = json_get(root, "messages");
        plan_messages(&plan, &input, request);
    }
    plan_limits(&plan, root, request->tokens, over);
    if (plan.count == 0)
        buf_add(out, root->text, root->len);
    else
        rc = json_edit(out, root, plan.edits, plan.count);
    if (rc == 0 && (out->failed || plan.input.failed))
        rc = DRV_ENOMEM;
    buf_finish(&plan.input);
    return rc == 0 ? 0 : error_set(err, rc, "the body cannot be edited: out of memory");
}

/* ---- nothing is left ------------------------------------------------------------------- */

/* An event of chat completions or completions up to its choices. */
static void open_event(struct buf *out, const struct json_value *root,
                       const struct resume_last *last)
{
    struct json_value model = json_get(root, "model");

    buf_str(out, "data: {\"id\":");
    json_quote_str(out, last->id);
    buf_printf(out, ",\"object\":\"%s\",\"created\":%llu,\"model\":",
               last->operation == OP(COMPLETIONS) ? "text_completion" : "chat.completion.chunk",
               (unsigned long long)last->created);
    if (model.type == JSON_STRING)
        buf_add(out, model.text, model.len);
    else
        buf_str(out, "\"\"");
    buf_str(out, ",\"choices\":[");
}

/* The events of a response up to a member of their own. */
static void open_numbered(struct buf *out, const char *type, uint32_t *sequence)
{
    buf_printf(out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%u,", type, type,
               (unsigned)(*sequence)++);
}

/* The four events that close the text, its part, its item and the response. */
static void end_response(struct buf *out, const struct json_value *root,
                         const struct resume_last *last)
{
    struct json_value model = json_get(root, "model");
    struct buf id = BUF_INIT, text = BUF_INIT, part = BUF_INIT, item = BUF_INIT;
    uint32_t sequence = last->next_sequence;

    json_quote_str(&id, last->item_id);
    json_quote(&text, last->text, last->text_len);
    buf_printf(&part, "{\"type\":\"output_text\",\"annotations\":[],\"text\":%s}",
               buf_cstr(&text));
    buf_printf(&item,
               "{\"type\":\"message\",\"id\":%s,\"role\":\"assistant\",\"status\":"
               "\"incomplete\",\"content\":[%s]}",
               buf_cstr(&id), buf_cstr(&part));
    open_numbered(out, "response.output_text.done", &sequence);
    buf_printf(out, "\"item_id\":%s,\"output_index\":0,\"content_index\":0,\"text\":%s}\n\n",
               buf_cstr(&id), buf_cstr(&text));
    open_numbered(out, "response.content_part.done", &sequence);
    buf_printf(out, "\"item_id\":%s,\"output_index\":0,\"content_index\":0,\"part\":%s}\n\n",
               buf_cstr(&id), buf_cstr(&part));
    open_numbered(out, "response.output_item.done", &sequence);
    buf_printf(out, "\"output_index\":0,\"item\":%s}\n\n", buf_cstr(&item));
    open_numbered(out, "response.incomplete", &sequence);
    buf_str(out, "\"response\":{\"id\":");
    json_quote_str(out, last->id);
    buf_printf(out, ",\"object\":\"response\",\"created_at\":%llu,\"model\":%.*s,",
               (unsigned long long)last->created,
               model.type == JSON_STRING ? (int)model.len : 2,
               model.type == JSON_STRING ? model.text : "\"\"");
    buf_printf(out,
               "\"status\":\"incomplete\",\"error\":null,\"incomplete_details\":{\"reason\":"
               "\"max_output_tokens\"},\"output\":[%s],\"usage\":{\"input_tokens\":%u,"
               "\"output_tokens\":%u,\"total_tokens\":%llu}}}\n\n",
               buf_cstr(&item), (unsigned)last->prompt_tokens, (unsigned)last->output_tokens,
               (unsigned long long)last->prompt_tokens + last->output_tokens);
    out->failed |= id.failed || text.failed || part.failed || item.failed;
    buf_finish(&id);
    buf_finish(&text);
    buf_finish(&part);
    buf_finish(&item);
}

void resume_last_events(struct buf *out, const struct json_value *root,
                        const struct resume_last *last)
{
    struct json_value options = json_get(root, "stream_options");
    struct json_value usage = json_get(&options, "include_usage");

    if (last->operation == OP(RESPONSES)) {
        end_response(out, root, last);
        return;
    }
    if (last->operation == OP(MESSAGES)) {
        buf_printf(
            out,
            "event: content_block_stop\n"
            "data: {\"type\":\"content_block_stop\",\"index\":0}\n\n"
            "event: message_delta\n"
            "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"max_tokens\","
            "\"stop_sequence\":null},\"usage\":{\"output_tokens\":%u}}\n\n"
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            (unsigned)last->output_tokens);
        return;
    }
    open_event(out, root, last);
    buf_str(out, "{\"index\":0,");
    buf_str(out, last->operation == OP(COMPLETIONS) ? "\"text\":\"\"" : "\"delta\":{}");
    buf_str(out, ",\"logprobs\":null,\"finish_reason\":\"length\"}]}\n\n");
    if (usage.type == JSON_TRUE) {
        open_event(out, root, last);
        buf_printf(out,
                   "],\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,"
                   "\"total_tokens\":%llu}}\n\n",
                   (unsigned)last->prompt_tokens, (unsigned)last->output_tokens,
                   (unsigned long long)last->prompt_tokens + last->output_tokens);
    }
    buf_str(out, "data: [DONE]\n\n");
}
