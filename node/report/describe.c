/* describe.c - an engine's facts as messages for a coordinator. */
#include "node/report/describe.h"

#include <string.h>

#include "base/kinds.h"

static void add_operations(struct describe *d, size_t at, uint32_t mask)
{
    Drover__V1__Model *model = &d->models[at];

    for (unsigned op = 1; op < DESCRIBE_MAX_OPERATIONS; op++)
        if ((mask & (UINT32_C(1) << op)) != 0)
            d->operations[at][model->n_operations++] = (Drover__V1__Operation)op;
    model->operations = d->operations[at];
}

static size_t list_abilities(Drover__V1__Ability *to, uint32_t mask)
{
    size_t n = 0;

    for (unsigned a = 1; a < ABILITIES && n < DESCRIBE_MAX_ABILITIES; a++)
        if ((mask & ABILITIES_SAID & ABILITY_BIT(a)) != 0)
            to[n++] = (Drover__V1__Ability)a;
    return n;
}

static void add_abilities(struct describe *d, size_t at, const struct engine_model *from)
{
    Drover__V1__Model *model = &d->models[at];

    model->n_has = list_abilities(d->has[at], from->has);
    model->has = d->has[at];
    model->n_lacks = list_abilities(d->lacks[at], from->lacks);
    model->lacks = d->lacks[at];
}

/* Nothing is said of most engines' models. */
static void add_about(struct describe *d, size_t at, const struct model_about *from)
{
    Drover__V1__ModelAbout *about = &d->about[at];

    if (from->size_bytes == 0 && from->digest[0] == '\0' && from->memory_bytes == 0)
        return;
    drover__v1__model_about__init(about);
    about->size_bytes = from->size_bytes;
    about->digest = (char *)(uintptr_t)from->digest; /* protobuf-c knows no const */
    about->modified_at = (char *)(uintptr_t)from->modified_at;
    about->format = (char *)(uintptr_t)from->format;
    about->family = (char *)(uintptr_t)from->family;
    about->parameter_size = (char *)(uintptr_t)from->parameter_size;
    about->quantization = (char *)(uintptr_t)from->quantization;
    about->memory_bytes = from->memory_bytes;
    about->vram_bytes = from->vram_bytes;
    about->expires_at = (char *)(uintptr_t)from->expires_at;
    d->models[at].about = about;
}

void describe_capacity(Drover__V1__Capacity *out, const struct engine_facts *facts,
                       const struct slot_limit *limit, uint32_t queue,
                       uint64_t max_request_bytes)
{
    drover__v1__capacity__init(out);
    out->slots = limit->limit;
    out->slots_source = (Drover__V1__SlotsSource)slot_limit_source(limit);
    out->slots_min = limit->min;
    out->slots_max = limit->max;
    out->queue = queue;
    out->prefill_tokens_per_s = facts->prefill_tokens_per_s;
    out->decode_tokens_per_s = facts->decode_tokens_per_s;
    out->max_request_bytes = max_request_bytes;
}

void describe_models(struct describe *d, const struct engine_facts *facts)
{
    size_t place[ENGINE_MAX_MODELS] = {0}; /* of facts->models[i] in d->models */

    d->count = 0;
    for (uint32_t i = 0; i < facts->models_count; i++) {
        const struct engine_model *from = &facts->models[i];
        Drover__V1__Model *model = &d->models[d->count];

        if (from->alias_of != 0) {
            Drover__V1__Model *of = &d->models[place[from->alias_of - 1]];

            if (of->n_aliases < DESCRIBE_MAX_ALIASES)
                of->aliases[of->n_aliases++] = (char *)(uintptr_t)from->id;
            continue;
        }
        drover__v1__model__init(model);
        model->id = (char *)(uintptr_t)from->id; /* protobuf-c knows no const */
        model->aliases = d->aliases[d->count];
        model->state = (Drover__V1__ModelState)from->state;
        model->max_context_tokens = from->max_context;
        model->largest_context_tokens = from->largest_context;
        model->load_ms_hint = from->load_ms;
        add_operations(d, d->count, from->operations);
        add_abilities(d, d->count, from);
        add_about(d, d->count, &from->about);
        d->list[d->count] = model;
        place[i] = d->count++;
    }
}

/* An engine measures its speeds with every request: a tenth more or less is the same speed. */
static bool speed_differs(float a, float b)
{
    float most = a > b ? a : b, least = a > b ? b : a;

    return most > least + most * 0.1f;
}

/* An instant moves on with every use: a change within the minute is none. */
#define INSTANT_MINUTE 16 /* "2026-11-30T12:00" */

static bool about_differs(const struct model_about *a, const struct model_about *b)
{
    return a->size_bytes != b->size_bytes || a->memory_bytes != b->memory_bytes ||
           a->vram_bytes != b->vram_bytes || strcmp(a->digest, b->digest) != 0 ||
           strcmp(a->modified_at, b->modified_at) != 0 ||
           strncmp(a->expires_at, b->expires_at, INSTANT_MINUTE) != 0;
}

static bool model_differs(const struct engine_model *a, const struct engine_model *b)
{
    return strcmp(a->id, b->id) != 0 || a->state != b->state ||
           a->max_context != b->max_context || a->largest_context != b->largest_context ||
           a->operations != b->operations || a->load_ms != b->load_ms || a->has != b->has ||
           a->lacks != b->lacks || about_differs(&a->about, &b->about);
}

bool describe_differs(const struct engine_facts *a, const struct engine_facts *b)
{
    if (a->kind != b->kind || a->slots != b->slots || a->models_count != b->models_count ||
        strcmp(a->version, b->version) != 0 ||
        speed_differs(a->prefill_tokens_per_s, b->prefill_tokens_per_s) ||
        speed_differs(a->decode_tokens_per_s, b->decode_tokens_per_s))
        return true;
    for (uint32_t i = 0; i < a->models_count; i++)
        if (a->models[i].alias_of != b->models[i].alias_of ||
            model_differs(&a->models[i], &b->models[i]))
            return true;
    return false;
}
