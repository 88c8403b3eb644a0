/* sim_prompt.c - the canonical prompt of each operation. */
#include "sim/sim_prompt.h"

#include <string.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "sim/model/sim_text.h"

#define OP(name) SIM_OP_##name

void sim_prompt_add(struct buf *out, const cJSON *item)
{
    char *json;

    if (cJSON_IsString(item)) {
        buf_str(out, item->valuestring);
        return;
    }
    json = cJSON_PrintUnformatted(item);
    if (json == NULL)
        out->failed = true;
    else
        buf_str(out, json);
    cJSON_free(json);
}

/* A string, or a list of parts of which the texts count as text. */
static void add_content(struct buf *out, const cJSON *content)
{
    const cJSON *part;

    if (content == NULL || cJSON_IsNull(content))
        return;
    if (!cJSON_IsArray(content)) {
        sim_prompt_add(out, content);
        return;
    }
    cJSON_ArrayForEach(part, content)
    {
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(part, "text");

        sim_prompt_add(out, cJSON_IsString(text) ? text : part);
    }
}

static void add_message(struct buf *out, const char *role, const cJSON *content)
{
    buf_str(out, role);
    buf_str(out, "\n");
    add_content(out, content);
    buf_str(out, "\n");
}

static void begin_answer(struct sim_prompt *prompt)
{
    buf_str(prompt->text, "assistant\n");
    prompt->answer_at = buf_size(prompt->text);
    prompt->known = true;
}

static const char *role_of(const cJSON *message)
{
    const cJSON *role = cJSON_GetObjectItemCaseSensitive(message, "role");

    return cJSON_IsString(role) ? role->valuestring : NULL;
}

static bool is_true(const cJSON *root, const char *name)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(root, name));
}

/* Does the answer go on from a last message of the assistant?  In the OpenAI API only on
 * demand, in the others always. */
static bool continues(enum sim_operation operation, const cJSON *root, const cJSON *last)
{
    const char *role = last == NULL ? NULL : role_of(last);

    if (role == NULL || strcmp(role, "assistant") != 0)
        return false;
    return (operation != OP(CHAT_COMPLETIONS) && operation != OP(RESPONSES)) ||
           is_true(root, "continue_final_message");
}

static int build_messages(struct sim_prompt *prompt, enum sim_operation operation,
                          const cJSON *root, struct error *err)
{
    const cJSON *messages = cJSON_GetObjectItemCaseSensitive(root, "messages");
    const cJSON *tools = cJSON_GetObjectItemCaseSensitive(root, "tools");
    const cJSON *system = cJSON_GetObjectItemCaseSensitive(root, "system");
    const cJSON *message, *unfinished = NULL;

    if (messages == NULL)
        return error_set(err, DRV_EINVAL, "'messages' is required");
    if (!cJSON_IsArray(messages))
        return error_set(err, DRV_EINVAL, "'messages' must be an array");
    if (messages->child == NULL)
        return error_set(err, DRV_EINVAL, "'messages' must not be empty");
    if (cJSON_IsArray(tools) && tools->child != NULL) {
        buf_str(prompt->text, "tools\n");
        sim_prompt_add(prompt->text, tools);
        buf_str(prompt->text, "\n");
    }
    if (system != NULL && !cJSON_IsNull(system))
        add_message(prompt->text, "system", system);
    cJSON_ArrayForEach(message, messages)
    {
        const cJSON *calls = cJSON_GetObjectItemCaseSensitive(message, "tool_calls");
        const cJSON *content = cJSON_GetObjectItemCaseSensitive(message, "content");
        const char *role = role_of(message);

        if (role == NULL)
            return error_set(err, DRV_EINVAL, "a message in 'messages' has no 'role'");
        if (message->next == NULL && continues(operation, root, message)) {
            unfinished = content;
            break;
        }
        add_message(prompt->text, role, content);
        if (cJSON_IsArray(calls)) {
            sim_prompt_add(prompt->text, calls);
            buf_str(prompt->text, "\n");
        }
    }
    begin_answer(prompt);
    add_content(prompt->text, unfinished);
    return 0;
}

/* A text and the ids of tokens that follow it, as llama-server takes them. */
static int add_mixed(struct sim_prompt *prompt, const cJSON *list, struct error *err)
{
    const cJSON *item;

    cJSON_ArrayForEach(item, list)
    {
        struct sim_token token;

        if (cJSON_IsString(item)) {
            buf_str(prompt->text, item->valuestring);
            continue;
        }
        if (!cJSON_IsNumber(item) || item->valuedouble < 0 ||
            item->valuedouble >= sim_text_ids())
            return error_set(err, DRV_EINVAL, "'prompt' holds an element that is no token id");
        token = sim_text_of_id((uint32_t)item->valuedouble);
        buf_add(prompt->text, token.text, token.text_len);
    }
    return 0;
}

/* A string, a list with one string, a string and token ids, or a list of token ids. */
static int build_completion(struct sim_prompt *prompt, const cJSON *root, struct error *err)
{
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(root, "prompt");

    if (text == NULL || cJSON_IsNull(text))
        return error_set(err, DRV_EINVAL, "'prompt' is required");
    prompt->answer_at = 0;
    prompt->known = false;
    if (cJSON_IsArray(text) && cJSON_IsString(text->child)) {
        if (cJSON_IsNumber(text->child->next))
            return add_mixed(prompt, text, err);
        if (text->child->next != NULL)
            return error_set(err, DRV_EINVAL,
                             "'prompt' holds several prompts; the simulated engine takes one");
        text = text->child;
    }
    if (!cJSON_IsString(text) && !(cJSON_IsArray(text) && cJSON_IsNumber(text->child)))
        return error_set(err, DRV_EINVAL, "'prompt' must be a string or a list of token ids");
    sim_prompt_add(prompt->text, text);
    return 0;
}

static int build_responses(struct sim_prompt *prompt, const cJSON *root, struct error *err)
{
    const cJSON *input = cJSON_GetObjectItemCaseSensitive(root, "input");
    const cJSON *instructions = cJSON_GetObjectItemCaseSensitive(root, "instructions");
    const cJSON *item, *unfinished = NULL;

    if (input == NULL)
        return error_set(err, DRV_EINVAL, "'input' is required");
    if (!cJSON_IsString(input) && !cJSON_IsArray(input))
        return error_set(err, DRV_EINVAL, "'input' must be a string or an array");
    if (cJSON_IsString(instructions))
        add_message(prompt->text, "system", instructions);
    if (cJSON_IsString(input))
        add_message(prompt->text, "user", input);
    cJSON_ArrayForEach(item, input)
    {
        const char *role = role_of(item);

        if (item->next == NULL && continues(OP(RESPONSES), root, item))
            unfinished = cJSON_GetObjectItemCaseSensitive(item, "content");
        else if (role != NULL)
            add_message(prompt->text, role, cJSON_GetObjectItemCaseSensitive(item, "content"));
        else
            add_message(prompt->text, "item", item);
    }
    begin_answer(prompt);
    add_content(prompt->text, unfinished);
    return 0;
}

static int build_generate(struct sim_prompt *prompt, const cJSON *root, struct error *err)
{
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(root, "prompt");
    const cJSON *system = cJSON_GetObjectItemCaseSensitive(root, "system");

    if (!cJSON_IsString(text))
        return error_set(err, DRV_EINVAL, "'prompt' is required");
    if (cJSON_IsString(system))
        add_message(prompt->text, "system", system);
    add_message(prompt->text, "user", text);
    begin_answer(prompt);
    return 0;
}

int sim_prompt_build(struct sim_prompt *prompt, enum sim_operation operation, const cJSON *root,
                     struct error *err)
{
    int rc;

    switch (operation) {
    case OP(COMPLETIONS):
        rc = build_completion(prompt, root, err);
        break;
    case OP(RESPONSES):
        rc = build_responses(prompt, root, err);
        break;
    case OP(OLLAMA_GENERATE):
        rc = build_generate(prompt, root, err);
        break;
    default: /* chat completions, messages, count_tokens, Ollama's chat */
        rc = build_messages(prompt, operation, root, err);
        break;
    }
    if (rc == 0 && prompt->text->failed)
        rc = error_set(err, DRV_ENOMEM, "out of memory");
    return rc;
}
