/* fields.c - members of an engine's answers, read with a sane value for all that is odd. */
#include "node/engine/kinds/fields.h"

#include "base/kinds.h"
#include "base/text/json.h"
#include "node/engine/facts.h"

uint32_t fields_count(const struct json_value *object, const char *name)
{
    struct json_value v = json_get(object, name);
    uint64_t n;

    return json_uint(&n, &v, UINT32_MAX) ? (uint32_t)n : 0;
}

void fields_name(const struct json_value *object, const char *name, char *out, size_t cap)
{
    struct json_value v = json_get(object, name);

    if (!json_name(out, cap, &v))
        out[0] = '\0';
}

void fields_model(struct engine_facts *facts, const struct json_value *text, char *out)
{
    if (json_name(out, ENGINE_MODEL_BYTES, text))
        return;
    out[0] = '\0';
    if (text->type == JSON_STRING)
        facts->left_out++;
}

/* ---- abilities ------------------------------------------------------------------------- */

struct word {
    const char *name;
    enum ability ability;
    bool denies; /* false means that it is missing */
};

static const struct word capabilities[] = {
    {"vision", ABILITY_VISION, true},
    {"audio", ABILITY_AUDIO, true},
    {"tools", ABILITY_TOOLS, true},
    {"function_calling", ABILITY_TOOLS, true},
    {"tool_use", ABILITY_TOOLS, true},
    {"trained_for_tool_use", ABILITY_TOOLS, false}, /* LM Studio: tools work all the same */
};

static const struct word described[] = {
    {"has_image_understanding", ABILITY_VISION, true}, /* SGLang */
    {"has_audio_understanding", ABILITY_AUDIO, true},
};

static const struct word modalities[] = {
    {"image", ABILITY_VISION, true},
    {"audio", ABILITY_AUDIO, true},
};

void fields_say(struct engine_model *model, unsigned ability, bool has)
{
    uint32_t bit = ABILITY_BIT(ability);

    model->has = has ? model->has | bit : model->has & ~bit;
    model->lacks = has ? model->lacks & ~bit : model->lacks | bit;
}

bool fields_list_has(const struct json_value *list, const char *text)
{
    struct json_value key, item;
    struct json_iter it;

    if (list->type != JSON_ARRAY)
        return false;
    json_iter_init(&it, list);
    while (json_iter_next(&it, &key, &item))
        if (item.type == JSON_STRING && json_equal(&item, text))
            return true;
    return false;
}

/* Booleans of an object. */
static void read_flags(struct engine_model *model, const struct json_value *object,
                       const struct word *words, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct json_value v = json_get(object, words[i].name);

        if (v.type == JSON_TRUE)
            fields_say(model, words[i].ability, true);
        else if (v.type == JSON_FALSE && words[i].denies &&
                 (model->has & ABILITY_BIT(words[i].ability)) == 0)
            fields_say(model, words[i].ability, false);
    }
}

/* `whole`: what the list has not, the model lacks. */
static void read_list(struct engine_model *model, const struct json_value *list, bool whole,
                      const struct word *words, size_t n)
{
    if (list->type != JSON_ARRAY)
        return;
    for (size_t i = 0; i < n; i++) {
        if (fields_list_has(list, words[i].name))
            fields_say(model, words[i].ability, true);
        else if (whole)
            fields_say(model, words[i].ability, false);
    }
}

void fields_abilities(struct engine_model *model, const struct json_value *about)
{
    struct json_value able = json_get(about, "capabilities");
    struct json_value kinds = json_get(about, "modalities");
    struct json_value architecture = json_get(about, "architecture");
    struct json_value parameters = json_get(about, "supported_parameters");
    struct json_value set = json_get(about, "parameters");
    struct json_value inputs = json_get(about, "input_modalities");
    struct json_value vision = json_get(&set, "use_vision");

    if (inputs.type == JSON_NONE)
        inputs = json_get(&architecture, "input_modalities");
    read_list(model, &able, false, capabilities, ARRAY_LEN(capabilities));
    read_flags(model, &able, capabilities, ARRAY_LEN(capabilities));
    read_flags(model, &kinds, capabilities, ARRAY_LEN(capabilities));
    read_flags(model, about, described, ARRAY_LEN(described));
    if (fields_list_has(&inputs, "text") || fields_list_has(&inputs, "image") ||
        fields_list_has(&inputs, "audio"))
        read_list(model, &inputs, true, modalities, ARRAY_LEN(modalities));
    if (parameters.type == JSON_ARRAY && parameters.len > 2)
        fields_say(model, ABILITY_TOOLS, fields_list_has(&parameters, "tools"));
    if (vision.type == JSON_TRUE || vision.type == JSON_FALSE)
        fields_say(model, ABILITY_VISION, vision.type == JSON_TRUE);
}
