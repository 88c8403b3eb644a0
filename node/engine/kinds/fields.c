/* fields.c - members of an engine's answers, read with a sane value for all that is odd. */
#include "node/engine/kinds/fields.h"

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
