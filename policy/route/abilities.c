/* abilities.c - what a request needs of a node, and how well a node answers to it. */
#include "policy/route/abilities.h"

#include "base/attrs.h"
#include "base/text/json.h"

#define MAX_TOKENS UINT32_MAX

/* ---- the request ----------------------------------------------------------------------- */

/* Some of these have a value that means "none". */
static bool binds_output(const struct json_value *value)
{
    struct json_value type = json_get(value, "type");

    switch (value->type) {
    case JSON_OBJECT:
        return !json_equal(&type, "text") && json_has_items(value);
    case JSON_STRING:
        return value->len > 2;
    case JSON_ARRAY:
        return json_has_items(value);
    case JSON_NONE:
    case JSON_NUMBER:
    case JSON_TRUE:
    case JSON_FALSE:
    case JSON_NULL:
        break;
    }
    return false;
}

static void read_output(struct abilities_need *need, const struct json_value *value)
{
    uint64_t tokens;

    if (value->type == JSON_NUMBER && json_uint(&tokens, value, MAX_TOKENS) &&
        tokens > need->output_tokens)
        need->output_tokens = tokens;
}

static bool is_one_of(const struct json_value *key, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (json_equal(key, names[i]))
            return true;
    }
    return false;
}

void abilities_read(struct abilities_need *need, const struct json_value *body)
{
    static const char *const outputs[] = {"max_tokens", "max_completion_tokens",
                                          "max_output_tokens", "n_predict"};
    static const char *const tools[] = {"tools", "functions"};
    static const char *const grammars[] = {"response_format", "format",
                                           "grammar",         "json_schema",
                                           "guided_json",     "guided_grammar",
                                           "guided_regex",    "guided_choice",
                                           "output_format",   "structured_outputs"};
    struct json_value key, value, inner;
    struct json_iter it;
    uint64_t tokens;

    /* One walk: looking a member up walks over the prompt each time. */
    json_iter_init(&it, body);
    while (json_iter_next(&it, &key, &value)) {
        if (is_one_of(&key, outputs, ARRAY_LEN(outputs))) {
            read_output(need, &value);
        } else if (is_one_of(&key, tools, ARRAY_LEN(tools))) {
            if (value.type == JSON_ARRAY && json_has_items(&value))
                need->flags |= ABILITY_BIT(ABILITY_TOOLS);
        } else if (is_one_of(&key, grammars, ARRAY_LEN(grammars))) {
            if (binds_output(&value))
                need->flags |= ABILITY_BIT(ABILITY_GRAMMAR);
        } else if (json_equal(&key, "text") ||          /* Responses */
                   json_equal(&key, "output_config")) { /* Anthropic */
            inner = json_get(&value, "format");
            if (binds_output(&inner))
                need->flags |= ABILITY_BIT(ABILITY_GRAMMAR);
        } else if (json_equal(&key, "options")) { /* Ollama */
            inner = json_get(&value, "num_predict");
            read_output(need, &inner);
            inner = json_get(&value, "num_ctx");
            if (inner.type == JSON_NUMBER && json_uint(&tokens, &inner, MAX_TOKENS))
                need->wanted_context = (uint32_t)tokens;
        }
    }
}

void abilities_prompt(struct abilities_need *need, uint64_t text_bytes, uint64_t tokens)
{
    need->prompt_tokens = tokens;
    need->least_tokens = text_bytes / ABILITIES_BYTES_PER_TOKEN;
    if (need->least_tokens > tokens)
        need->least_tokens = tokens;
}

void abilities_counted(struct abilities_need *need, uint64_t tokens)
{
    if (tokens > need->prompt_tokens)
        need->prompt_tokens = tokens;
    need->least_tokens = tokens;
}

/* ---- a node ---------------------------------------------------------------------------- */

uint32_t abilities_context(const struct abilities_known *known, uint32_t wanted_context)
{
    if (known->largest_context == 0 || wanted_context == 0)
        return known->context_tokens;
    return wanted_context < known->largest_context ? wanted_context : known->largest_context;
}

bool abilities_reloads(const struct abilities_known *known, uint32_t wanted_context)
{
    return known->context_tokens != 0 &&
           abilities_context(known, wanted_context) != known->context_tokens;
}

enum abilities_rank abilities_rank(const struct abilities_known *known,
                                   const struct abilities_need *need)
{
    uint64_t context = abilities_context(known, need->wanted_context);

    if ((known->lacks & need->flags) != 0)
        return ABILITIES_LACKS;
    if (context == 0)
        return ABILITIES_HOLDS;
    if (need->least_tokens > context && known->largest_context == 0)
        return ABILITIES_LACKS;
    if (need->prompt_tokens > context)
        return ABILITIES_DOUBTFUL;
    if (need->prompt_tokens + need->output_tokens <= context)
        return ABILITIES_HOLDS;
    return need->prompt_tokens + ABILITIES_USUAL_OUTPUT <= context ? ABILITIES_TIGHT
                                                                   : ABILITIES_CUTS;
}

uint64_t abilities_score(const struct abilities_known *known, const struct abilities_need *need)
{
    enum abilities_rank rank = abilities_rank(known, need);
    uint32_t context = abilities_context(known, need->wanted_context);
    uint64_t score = ABILITIES_SCORE(rank);

    if (rank >= ABILITIES_DOUBTFUL && context != 0)
        score += UINT32_MAX - context;
    return score;
}
