/* identity.c - a node's report about itself, checked. */
#include "health/registry/identity.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/kinds.h"
#include "base/log.h"
#include "base/text/text.h"

#define MAX_ALIASES        16u
#define MAX_ENGINE_VERSION 127u
#define MAX_AGENT_VERSION  63u

#define DEFAULT_OPERATIONS                                       \
    ((1u << DROVER__V1__OPERATION__OPERATION_CHAT_COMPLETIONS) | \
     (1u << DROVER__V1__OPERATION__OPERATION_COMPLETIONS))

static bool has_model(const struct node_info *info, const char *id)
{
    for (uint32_t i = 0; i < info->models_count; i++) {
        if (strcmp(info->models[i].id, id) == 0)
            return true;
    }
    return false;
}

static uint32_t operations_of(const Drover__V1__Model *model)
{
    uint32_t mask = 0;

    for (size_t i = 0; i < model->n_operations; i++) {
        unsigned op = (unsigned)model->operations[i];

        if (operation_name((int)op) != NULL)
            mask |= 1u << op;
    }
    /* A list with nothing in it that this version knows is not an empty list. */
    return model->n_operations == 0 ? DEFAULT_OPERATIONS : mask;
}

/* Those that an engine can know; others are for a newer version. */
static uint32_t abilities_of(const Drover__V1__Ability *list, size_t n)
{
    uint32_t mask = 0;

    for (size_t i = 0; i < n; i++) {
        if ((unsigned)list[i] < ABILITIES)
            mask |= ABILITY_BIT((unsigned)list[i]);
    }
    return mask & ABILITIES_SAID;
}

/* Texts that clients are to read: one that is odd is left out. */
static void take_text(char *out, size_t cap, const char *text)
{
    out[0] = '\0';
    if (text_is_label(text, cap - 1))
        (void)snprintf(out, cap, "%s", text);
}

static void take_about(struct model_about *to, const Drover__V1__ModelAbout *from)
{
    to->size_bytes = from->size_bytes;
    to->memory_bytes = from->memory_bytes;
    to->vram_bytes = from->vram_bytes;
    take_text(to->digest, sizeof(to->digest), from->digest);
    take_text(to->modified_at, sizeof(to->modified_at), from->modified_at);
    take_text(to->format, sizeof(to->format), from->format);
    take_text(to->family, sizeof(to->family), from->family);
    take_text(to->parameter_size, sizeof(to->parameter_size), from->parameter_size);
    take_text(to->quantization, sizeof(to->quantization), from->quantization);
    take_text(to->expires_at, sizeof(to->expires_at), from->expires_at);
}

static int add_model(struct node_info *info, const Drover__V1__Model *model, struct error *err)
{
    struct node_model *row = &info->models[info->models_count];
    uint32_t state = (uint32_t)model->state;

    if (!text_is_label(model->id, NODE_MODEL_BYTES - 1))
        return error_set(err, DRV_EINVAL, "model id %s is no printable text of 1 to %d bytes",
                         log_quote(model->id), NODE_MODEL_BYTES - 1);
    if (has_model(info, model->id))
        return error_set(err, DRV_EINVAL, "model %s is listed twice", log_quote(model->id));
    if (model->n_aliases > MAX_ALIASES)
        return error_set(err, DRV_EINVAL, "model %s has %zu aliases, more than %u",
                         log_quote(model->id), model->n_aliases, MAX_ALIASES);
    memset(row, 0, sizeof(*row));
    (void)snprintf(row->id, sizeof(row->id), "%s", model->id);
    row->state = state <= DROVER__V1__MODEL_STATE__MODEL_STATE_FAILED ? state : 0;
    row->max_context = model->max_context_tokens;
    row->largest_context = model->largest_context_tokens;
    row->operations = operations_of(model);
    row->load_ms = model->load_ms_hint;
    row->has = abilities_of(model->has, model->n_has);
    row->lacks = abilities_of(model->lacks, model->n_lacks) & ~row->has;
    if (model->about != NULL)
        take_about(&row->about, model->about);
    info->models_count++;
    return 0;
}

static int add_alias(struct node_info *info, uint32_t of, const char *alias, struct error *err)
{
    struct node_model *row;

    if (!text_is_label(alias, NODE_MODEL_BYTES - 1))
        return error_set(err, DRV_EINVAL, "alias %s is no printable text of 1 to %d bytes",
                         log_quote(alias), NODE_MODEL_BYTES - 1);
    /* An alias that is also a model or an alias of another one: the first counts. */
    if (info->models_count == NODE_MAX_MODELS || has_model(info, alias))
        return 0;
    row = &info->models[info->models_count++];
    *row = info->models[of];
    (void)snprintf(row->id, sizeof(row->id), "%s", alias);
    row->alias_of = of + 1;
    return 0;
}

int identity_models(struct node_info *info, Drover__V1__Model *const *models, size_t n,
                    struct error *err)
{
    int rc = 0;

    if (n > NODE_MAX_MODELS)
        return error_set(err, DRV_EINVAL, "%zu models, more than %d", n, NODE_MAX_MODELS);
    info->models_count = 0;
    /* Models first: an alias never takes the place of a model. */
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = add_model(info, models[i], err);
    for (size_t i = 0; i < n && rc == 0; i++) {
        for (size_t a = 0; a < models[i]->n_aliases && rc == 0; a++)
            rc = add_alias(info, (uint32_t)i, models[i]->aliases[a], err);
    }
    return rc;
}

static float speed(float tokens_per_s)
{
    return isfinite(tokens_per_s) && tokens_per_s > 0.0f ? tokens_per_s : 0.0f;
}

static uint32_t at_most(uint32_t n, uint32_t most)
{
    return n > most ? most : n;
}

static uint32_t message_bytes(uint64_t said)
{
    return said > UINT32_MAX ? UINT32_MAX : (uint32_t)said;
}

static uint32_t half(uint32_t slots)
{
    return slots / 2 + slots % 2;
}

void identity_capacity(struct node_info *info, const Drover__V1__Capacity *capacity)
{
    info->slots = 1;
    info->queue = 0;
    info->slots_source = info->slots_min = info->slots_max = 0;
    info->prefill_tokens_per_s = 0.0f;
    info->decode_tokens_per_s = 0.0f;
    info->max_request_bytes = 0;
    info->max_body_bytes = 0;
    if (capacity == NULL)
        return;
    if (capacity->slots != 0)
        info->slots = at_most(capacity->slots, IDENTITY_MAX_SLOTS);
    info->queue = at_most(capacity->queue, half(info->slots));
    info->slots_source = (uint32_t)capacity->slots_source;
    info->slots_min = at_most(capacity->slots_min, IDENTITY_MAX_SLOTS);
    info->slots_max = at_most(capacity->slots_max, IDENTITY_MAX_SLOTS);
    info->prefill_tokens_per_s = speed(capacity->prefill_tokens_per_s);
    info->decode_tokens_per_s = speed(capacity->decode_tokens_per_s);
    info->max_request_bytes = message_bytes(capacity->max_request_bytes);
    info->max_body_bytes = message_bytes(capacity->max_body_bytes);
}

/* Copies, cutting between two characters when it does not fit. */
static void cut_text(char *out, size_t cap, const char *text)
{
    size_t n = strlen(text);

    if (n >= cap) {
        n = cap - 1;
        while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
            n--;
    }
    memcpy(out, text, n);
    out[n] = '\0';
}

int identity_versions(struct node_info *info, Drover__V1__EngineKind engine,
                      const char *engine_version, const char *agent_version, struct error *err)
{
    if (engine_version[0] != '\0' && !text_is_label(engine_version, MAX_ENGINE_VERSION))
        return error_set(err, DRV_EINVAL, "engine_version is no printable text of %u bytes",
                         MAX_ENGINE_VERSION);
    if (agent_version[0] != '\0' && !text_is_label(agent_version, MAX_AGENT_VERSION))
        return error_set(err, DRV_EINVAL, "agent_version is no printable text of %u bytes",
                         MAX_AGENT_VERSION);
    info->engine =
        (size_t)engine <= DROVER__V1__ENGINE_KIND__ENGINE_KIND_SIMULATED ? (uint32_t)engine : 0;
    cut_text(info->engine_version, sizeof(info->engine_version), engine_version);
    cut_text(info->agent_version, sizeof(info->agent_version), agent_version);
    return 0;
}

int identity_register(struct node_info *info, const Drover__V1__Register *said,
                      struct error *err)
{
    int rc;

    memset(info, 0, offsetof(struct node_info, models));
    (void)snprintf(info->name, sizeof(info->name), "%s", said->node_id);
    memcpy(info->instance_id, said->instance_id.data, sizeof(info->instance_id));
    info->origin = NODE_ORIGIN_REGISTRY;
    info->weight = 100;
    info->tls = said->tls != 0;
    rc = identity_versions(info, said->engine, said->engine_version, said->agent_version, err);
    if (rc == 0)
        rc = identity_models(info, said->models, said->n_models, err);
    if (rc == 0)
        identity_capacity(info, said->capacity);
    return rc;
}

void identity_override(struct node_info *info, uint32_t slots, int32_t queue)
{
    if (slots != 0) {
        info->slots = at_most(slots, IDENTITY_MAX_SLOTS);
        info->slots_source = DROVER__V1__SLOTS_SOURCE__SLOTS_SOURCE_CONFIGURED;
        info->queue = at_most(info->queue, half(info->slots));
    }
    if (queue >= 0)
        info->queue = at_most((uint32_t)queue, IDENTITY_MAX_SLOTS);
}

enum node_reason identity_load_reason(const Drover__V1__LoadReport *load, size_t models_count)
{
    if (load->draining)
        return NODE_REASON_LEAVING;
    if (load->loading)
        return NODE_REASON_ENGINE_LOADING;
    if (!load->engine_reachable)
        return NODE_REASON_ENGINE_DOWN;
    if (models_count == 0)
        return NODE_REASON_NO_MODELS;
    return NODE_REASON_NONE;
}
