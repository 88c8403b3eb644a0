/* answer_names.c - what a model calls itself in answers. */
#include "node/answer/answer_names.h"

#include <string.h>

#include "base/attrs.h"
#include "base/hash.h"
#include "base/model_name.h"
#include "base/text/buf.h"
#include "base/text/json.h"
#include "node/engine/facts.h"

/* Anthropic's first event has it in `message`, that of a response in `response`. */
static const char *const holders[] = {"message", "response"};

void answer_names_read(char *out, size_t cap, const struct json_value *root)
{
    struct json_value name = json_get(root, "model");

    for (size_t i = 0; name.type != JSON_STRING && i < ARRAY_LEN(holders); i++) {
        struct json_value holder = json_get(root, holders[i]);

        if (holder.type == JSON_OBJECT)
            name = json_get(&holder, "model");
    }
    if (name.type != JSON_STRING || !json_name(out, cap, &name))
        out[0] = '\0';
}

void answer_names_replace(struct buf *out, const void *bytes, size_t n,
                          const struct json_value *root, const char *name)
{
    struct json_value found[1 + ARRAY_LEN(holders)];
    uintptr_t at = (uintptr_t)bytes, end = at + n;
    size_t count = 0;

    found[count++] = json_get(root, "model");
    for (size_t i = 0; i < ARRAY_LEN(holders); i++) {
        struct json_value holder = json_get(root, holders[i]);

        if (holder.type == JSON_OBJECT)
            found[count++] = json_get(&holder, "model");
    }
    while (at < end) {
        const struct json_value *next = NULL;
        uintptr_t until = end;

        for (size_t i = 0; i < count; i++) {
            uintptr_t text = (uintptr_t)found[i].text;

            if (found[i].type != JSON_STRING || text < at || text + found[i].len > until)
                continue;
            next = &found[i];
            until = text;
        }
        buf_add(out, (const void *)at, until - at);
        at = until;
        if (next != NULL) {
            json_quote_str(out, name);
            at += next->len;
        }
    }
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
