/* agent.c - see agent.h. */
#include "node/agent.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/kinds.h"
#include "base/log.h"
#include "base/text/buf.h"
#include "proto/rpc/grpc/server.h"

#define NEWS_PER_S   10
#define MODELS_PER_S 20 /* of a list that changes as a whole */

/* ---- what changes ---------------------------------------------------------------------- */

void agent_listen(struct agent *agent, struct agent_listener *listener)
{
    TAILQ_INSERT_TAIL(&agent->listeners, listener, link);
    listener->listening = true;
}

void agent_unlisten(struct agent *agent, struct agent_listener *listener)
{
    if (!listener->listening)
        return;
    TAILQ_REMOVE(&agent->listeners, listener, link);
    listener->listening = false;
}

void agent_changed(struct agent *agent, unsigned changes)
{
    struct agent_listener *listener, *next;

    if ((changes & AGENT_MODELS_CHANGED) != 0)
        agent->models_version++;
    TAILQ_FOREACH_SAFE(listener, &agent->listeners, link, next)
        listener->on_change(listener, changes);
}

/* The places that the node keeps beyond its slots. */
static uint32_t queue_of(const struct agent *agent)
{
    if (agent->config.queue >= 0)
        return (uint32_t)agent->config.queue;
    return (agent->limit.limit + 1) / 2;
}

/* Are the slots a number that may be wrong? */
static bool is_learned(const struct agent *agent)
{
    enum slot_source source = slot_limit_source(&agent->limit);

    return source == SLOT_SOURCE_LEARNED || source == SLOT_SOURCE_GUESSED;
}

/* A request whose model is being loaded keeps no request for another model from running, where
 * the number is not one that the operator or the engine gave. */
static uint32_t slots_now(const struct agent *agent)
{
    return agent->limit.limit + (is_learned(agent) ? agent->loads : 0);
}

void agent_resize(struct agent *agent)
{
    if (slots_now(agent) == agent->slots.slots)
        return;
    log_debug("event=slots slots=%u proven=%u", (unsigned)slots_now(agent),
              (unsigned)agent->limit.proven);
    slots_resize(&agent->slots, slots_now(agent), queue_of(agent));
    agent_changed(agent, AGENT_LOAD_CHANGED | AGENT_SLOTS_CHANGED);
}

/* Another process stands there now, or the same with other models.  Ollama loads and lists
 * other models all the time, with the same settings. */
static bool is_other_engine(const struct engine_facts *now, const struct engine_facts *before)
{
    if (now->reachable && !before->reachable)
        return true;
    if (now->kind != before->kind || strcmp(now->version, before->version) != 0)
        return true;
    if (now->kind == DROVER__V1__ENGINE_KIND__ENGINE_KIND_OLLAMA)
        return false;
    if (now->models_count != before->models_count)
        return true;
    for (uint32_t i = 0; i < now->models_count; i++)
        if (strcmp(now->models[i].id, before->models[i].id) != 0)
            return true;
    return false;
}

/* Takes from the facts which models a router has in memory. */
static void note_models(struct slots *slots, const struct engine_facts *facts)
{
    if (!slots_models(slots, facts->models_at_once, facts->models_in_memory,
                      facts->models_mono_us))
        return;
    for (uint32_t i = 0; i < facts->models_count; i++)
        slots_model(slots, hash_text(facts->models[i].id), facts->models[i].in_memory);
}

/* Takes from the facts how many requests run at once. */
static void note_slots(struct agent *agent, const struct engine_facts *facts)
{
    bool ollama = facts->kind == DROVER__V1__ENGINE_KIND__ENGINE_KIND_OLLAMA;
    bool is_news = facts->has_load && facts->looked_mono_us != 0 &&
                   facts->looked_mono_us != agent->looked_mono_us;

    slot_limit_engine(&agent->limit, facts->slots, ollama ? 1 : SLOT_LIMIT_GUESS);
    if (is_other_engine(facts, &agent->reported))
        slot_limit_forget(&agent->limit);
    if (is_news && facts->slots == 0) {
        struct slot_figures figures = {.running = facts->running,
                                       .waiting = facts->queued,
                                       .kv_used_fraction = facts->kv_used_fraction,
                                       .preemptions = facts->preemptions};

        (void)slot_limit_looked(&agent->limit, &figures);
    }
    slots_resize(&agent->slots, slots_now(agent), queue_of(agent));
    note_models(&agent->slots, facts);
    if (is_news)
        slots_looked(&agent->slots, facts->running, facts->looked_mono_us);
    agent->looked_mono_us = facts->looked_mono_us;
}

static void log_facts(const struct agent *agent, const struct engine_facts *facts)
{
    bool ready = facts->reachable && !facts->loading && facts->models_count != 0;

    if (ready)
        log_info("event=engine state=ready kind=%s version=%s models=%u slots=%u queue=%u",
                 engine_kind_name(facts->kind), log_quote(facts->version),
                 (unsigned)facts->models_count, (unsigned)agent->slots.slots,
                 (unsigned)agent->slots.queue);
    if (facts->detail[0] != '\0')
        log_warn("event=engine state=%s kind=%s detail=%s",
                 ready              ? "ready"
                 : facts->loading   ? "loading"
                 : facts->reachable ? "no_models"
                                    : "unreachable",
                 engine_kind_name(facts->kind), log_quote(facts->detail));
}

/* How the model was, or NULL; mostly in the same place. */
static const struct engine_model *model_before(const struct engine_facts *before, uint32_t at,
                                               const char *id)
{
    if (at < before->models_count && strcmp(before->models[at].id, id) == 0)
        return &before->models[at];
    return facts_model(before, id);
}

static bool is_other_model(const struct engine_model *a, const struct engine_model *b)
{
    return a->state != b->state || a->max_context != b->max_context || a->has != b->has ||
           a->lacks != b->lacks;
}

static void add_abilities(struct buf *out, const char *mark, uint32_t mask)
{
    for (unsigned a = 0; a < ABILITIES; a++)
        if ((mask & ABILITY_BIT(a)) != 0 && ability_name(a) != NULL)
            buf_printf(out, "%s%s%s", buf_size(out) == 0 ? "" : ",", mark, ability_name(a));
}

/* `abilities=vision,!tools`: it has the first and lacks the second. */
static void log_model(struct agent *agent, const char *change, const struct engine_model *model)
{
    struct buf abilities = BUF_INIT;
    uint32_t missed;

    if (!log_limit_ok(&agent->models_limit, MODELS_PER_S, &missed))
        return;
    add_abilities(&abilities, "", model->has);
    add_abilities(&abilities, "!", model->lacks);
    log_info("event=model change=%s model=%s state=%s context=%u abilities=%s missed=%u",
             change, log_quote(model->id), model_state_name(model->state),
             (unsigned)model->max_context,
             buf_size(&abilities) == 0 ? "-" : buf_cstr(&abilities), (unsigned)missed);
    buf_finish(&abilities);
}

/* Of an engine that is ready and was: which models came, went or are others now.  Names that
 * only stand for one change with it. */
static void log_models(struct agent *agent, const struct engine_facts *facts)
{
    const struct engine_facts *before = &agent->reported;

    if (facts->models_count == 0 || before->models_count == 0 || !facts->reachable ||
        !before->reachable)
        return;
    for (uint32_t i = 0; i < facts->models_count; i++) {
        const struct engine_model *model = &facts->models[i];
        const struct engine_model *was = model_before(before, i, model->id);

        if (model->alias_of == 0 && (was == NULL || is_other_model(was, model)))
            log_model(agent, was == NULL ? "new" : "other", model);
    }
    for (uint32_t i = 0; i < before->models_count; i++)
        if (before->models[i].alias_of == 0 &&
            model_before(facts, i, before->models[i].id) == NULL)
            log_model(agent, "gone", &before->models[i]);
}

/* A change of the engine that the operator may look for.  Not the first look's being due. */
static bool is_news(const struct agent *agent, const struct engine_facts *facts)
{
    const struct engine_facts *before = &agent->reported;

    return facts->full_mono_us != 0 &&
           (facts->reachable != before->reachable || facts->loading != before->loading ||
            facts->kind != before->kind || facts->slots != before->slots ||
            facts->models_count != before->models_count ||
            strcmp(facts->detail, before->detail) != 0 ||
            strcmp(facts->version, before->version) != 0);
}

static void on_facts(void *data)
{
    struct agent *agent = data;
    const struct engine_facts *facts = engine_facts(agent->engine);
    unsigned changes = AGENT_SLOTS_CHANGED;
    uint32_t slots = agent->slots.slots, missed;

    note_slots(agent, facts);
    if (is_news(agent, facts) && log_limit_ok(&agent->news_limit, NEWS_PER_S, &missed))
        log_facts(agent, facts);
    if (describe_differs(facts, &agent->described)) {
        log_models(agent, facts);
        facts_copy(&agent->described, facts);
        changes |= AGENT_MODELS_CHANGED;
    }
    if (facts->reachable != agent->reported.reachable ||
        facts->loading != agent->reported.loading ||
        facts->running != agent->reported.running || facts->queued != agent->reported.queued ||
        agent->slots.slots != slots || strcmp(facts->detail, agent->reported.detail) != 0)
        changes |= AGENT_LOAD_CHANGED;
    if (!facts->reachable && agent->reported.reachable) {
        agent->no_stream_options = false; /* another engine may come up here */
        agent->no_streams = (struct operations_missing){0};
        answer_names_forget(&agent->answer_names);
    }
    facts_copy(&agent->reported, facts);
    agent_changed(agent, changes);
}

void agent_drain(struct agent *agent)
{
    if (agent->draining)
        return;
    agent->draining = true;
    agent_changed(agent, AGENT_LOAD_CHANGED);
}

bool agent_idle(const struct agent *agent)
{
    const struct slots *slots = &agent->slots;

    return slots->active == 0 && slots->queued == 0 && slots->questions == 0;
}

/* A learned number is used up to its end: coordinators get no places beyond it, so that the
 * queue of the node only takes requests that were under way when it shrank. */
static void fill_capacity(const struct agent *agent, Drover__V1__Capacity *out)
{
    uint32_t queue = is_learned(agent) && agent->config.queue < 0 ? 0 : agent->slots.queue;

    describe_capacity(out, engine_facts(agent->engine), &agent->limit, queue,
                      AGENT_MAX_REQUEST_BYTES);
    out->max_body_bytes = AGENT_MAX_BODY_BYTES;
    out->slots = slots_now(agent);
}

void agent_load(struct agent *agent, Drover__V1__LoadReport *out)
{
    const struct engine_facts *facts = engine_facts(agent->engine);

    drover__v1__load_report__init(out);
    out->seq = ++agent->load_seq;
    out->running = slots_busy(&agent->slots);
    out->queued = agent->slots.queued;
    out->engine_reachable = facts->reachable;
    out->loading = facts->loading;
    out->draining = agent->draining;
    out->kv_used_fraction = facts->kv_used_fraction >= 0 ? facts->kv_used_fraction : 0;
    out->engine_detail = (char *)(uintptr_t)facts->detail; /* protobuf-c knows no const */
    out->progress = facts->progress + agent->output_tokens;
    if (is_learned(agent)) {
        fill_capacity(agent, &agent->capacity);
        out->capacity = &agent->capacity;
    }
}

void agent_describe(struct agent *agent, struct describe *out)
{
    describe_models(out, engine_facts(agent->engine));
    fill_capacity(agent, &out->capacity);
}

/* ---- tokens ---------------------------------------------------------------------------- */

void agent_set_tokens(struct agent *agent, char tokens[TOKENS_MAX][TOKEN_MAX_BYTES + 1])
{
    memcpy(agent->tokens, tokens, sizeof(agent->tokens));
    agent->has_token = tokens[0][0] != '\0';
}

/* All tokens are always tried, so that the time does not reveal which one it was. */
static bool proves(const struct agent *agent, const struct server_call *call, const char *name)
{
    uint8_t wanted[JOIN_PROOF_BYTES];
    size_t n = 0;
    const uint8_t *proof = server_call_metadata(call, name, &n);
    bool good = false;

    if (proof == NULL || n != JOIN_PROOF_BYTES)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(agent->tokens); i++) {
        if (agent->tokens[i][0] == '\0')
            continue;
        join_call_proof(wanted, agent->tokens[i], agent->config.instance_id);
        good |= join_equal(proof, wanted);
    }
    return good;
}

bool agent_authorised(const struct agent *agent, struct server_call *call)
{
    bool good = !agent->has_token || proves(agent, call, JOIN_CALL_METADATA) ||
                proves(agent, call, JOIN_CALL_PREVIOUS_METADATA);

    if (good)
        server_call_vouch(call);
    return good;
}

/* ---- life ------------------------------------------------------------------------------ */

int agent_create(struct agent **out, struct loop *loop, struct engine *engine,
                 const struct agent_config *config, struct error *err)
{
    struct agent *agent = calloc(1, sizeof(*agent));

    *out = NULL;
    if (agent == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    agent->loop = loop;
    agent->engine = engine;
    agent->config = *config;
    TAILQ_INIT(&agent->listeners);
    slots_init(&agent->slots, 1, 0);
    slot_limit_init(&agent->limit, config->slots_min, config->slots_max);
    engine_on_facts(engine, on_facts, agent);
    agent->reported.kind = UINT32_MAX; /* so that the first look is news */
    on_facts(agent);
    *out = agent;
    return 0;
}

void agent_destroy(struct agent *agent)
{
    if (agent == NULL)
        return;
    engine_on_facts(agent->engine, NULL, NULL);
    explicit_bzero(agent->tokens, sizeof(agent->tokens));
    free(agent);
}
