/* answer_names.c - what a model calls itself in answers. */
#include "node/answer/answer_names.h"

#include <string.h>

#include "base/hash.h"
#include "base/model_name.h"
#include "base/text/json.h"
#include "node/engine/facts.h"

void answer_names_read(char *out, size_t cap, const struct json_value *root)
{
    /* Anthropic's first event has it in `message`, that of a response in `response`. */
    static const char *const holders[] = {"message", "response"};
    struct json_value name = json_get(root, "model");

    for (size_t i = 0; name.type != JSON_STRING && i < ARRAY_LEN(holders); i++) {
        struct json_value holder = json_get(root, holders[i]);

        if (holder.type == JSON_OBJECT)
            name = json_get(&holder, "model");
    }
    if (name.type != JSON_STRING || !json_name(out, cap, &name))
        out[0] = '\0';
}

static bool is_alias(const struct engine_facts *facts, const char *model, const char *answered)
{
    const struct engine_model *asked = facts_model(facts, model);
    const struct engine_model *found = facts_model(facts, answered);
    uint32_t asked_of, found_of;

    if (asked == NULL || found == NULL)
        return false;
    asked_of = asked->alias_of != 0 ? asked->alias_of : (uint32_t)(asked - facts->models) + 1;
    found_of = found->alias_of != 0 ? found->alias_of : (uint32_t)(found - facts->models) + 1;
    return asked_of == found_of;
}

static bool is_learned(const struct answer_names *names, const char *model,
                       const char *answered)
{
    uint32_t used = names->count < ANSWER_NAMES_MAX ? names->count : ANSWER_NAMES_MAX;
    uint64_t of = hash_text(model), name = hash_text(answered);
    uint32_t others = 0;

    for (uint32_t i = 0; i < used; i++) {
        if (names->pairs[i].model != of)
            continue;
        if (names->pairs[i].name == name)
            return true;
        others++;
    }
    return others >= ANSWER_NAMES_VARY;
}

bool answer_names_expect(const struct answer_names *names, const struct engine_facts *facts,
                         const char *model, const char *sent, const char *answered)
{
    return answered[0] == '\0' || model[0] == '\0' || model_name_equal(answered, model) ||
           model_name_equal(answered, sent) || is_alias(facts, model, answered) ||
           is_learned(names, model, answered);
}

void answer_names_learn(struct answer_names *names, const char *model, const char *answered)
{
    uint32_t at = names->count % ANSWER_NAMES_MAX;

    names->pairs[at].model = hash_text(model);
    names->pairs[at].name = hash_text(answered);
    names->count++;
}

void answer_names_forget(struct answer_names *names)
{
    names->count = 0;
}
