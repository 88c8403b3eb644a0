/* agent.c - see agent.h. */
#include "node/agent.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "proto/rpc/grpc/server.h"

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

static void resize(struct agent *agent, const struct engine_facts *facts)
{
    uint32_t slots = agent->config.slots != 0 ? agent->config.slots : facts->slots;
    uint32_t queue;

    if (slots == 0)
        slots = 1;
    queue = agent->config.queue >= 0 ? (uint32_t)agent->config.queue : (slots + 1) / 2;
    slots_resize(&agent->slots, slots, queue);
}

static const char *kind_name(uint32_t kind)
{
    const ProtobufCEnumValue *value =
        protobuf_c_enum_descriptor_get_value(&drover__v1__engine_kind__descriptor, (int)kind);

    return value == NULL ? "UNKNOWN" : value->name;
}

static void log_facts(const struct agent *agent, const struct engine_facts *facts)
{
    if (facts->reachable && !facts->loading)
        log_info("event=engine state=ready kind=%s version=%s models=%u slots=%u queue=%u",
                 kind_name(facts->kind), log_quote(facts->version),
                 (unsigned)facts->models_count, (unsigned)agent->slots.slots,
                 (unsigned)agent->slots.queue);
    else
        log_warn("event=engine state=%s kind=%s detail=%s",
                 facts->loading ? "loading" : "unreachable", kind_name(facts->kind),
                 log_quote(facts->detail));
    if (facts->reachable && !facts->loading && agent->config.slots == 0 && facts->slots == 0)
        log_warn(
            "event=slots_unknown slots=1 hint=\"this engine does not say how many requests "
            "it runs at once: give --slots\"");
}

static void on_facts(void *data)
{
    struct agent *agent = data;
    const struct engine_facts *facts = engine_facts(agent->engine);
    unsigned changes = AGENT_SLOTS_CHANGED;

    resize(agent, facts);
    if (facts->has_load && facts->looked_mono_us != agent->looked_mono_us &&
        facts->looked_mono_us != 0)
        slots_looked(&agent->slots, facts->running, facts->looked_mono_us);
    agent->looked_mono_us = facts->looked_mono_us;
    if (facts->reachable != agent->reported.reachable ||
        facts->loading != agent->reported.loading || facts->kind != agent->reported.kind)
        log_facts(agent, facts);
    if (describe_differs(facts, &agent->described)) {
        agent->described = *facts;
        changes |= AGENT_MODELS_CHANGED;
    }
    if (facts->reachable != agent->reported.reachable ||
        facts->loading != agent->reported.loading ||
        facts->running != agent->reported.running || facts->queued != agent->reported.queued)
        changes |= AGENT_LOAD_CHANGED;
    if (!facts->reachable && agent->reported.reachable)
        agent->no_stream_options = false; /* another engine may come up here */
    agent->reported = *facts;
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
}

void agent_describe(struct agent *agent, struct describe *out)
{
    describe_fill(out, engine_facts(agent->engine), agent->slots.slots, agent->slots.queue,
                  AGENT_MAX_REQUEST_BYTES);
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

bool agent_authorised(const struct agent *agent, const struct server_call *call)
{
    return !agent->has_token || proves(agent, call, JOIN_CALL_METADATA) ||
           proves(agent, call, JOIN_CALL_PREVIOUS_METADATA);
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
    engine_on_facts(engine, on_facts, agent);
    agent->reported.kind = UINT32_MAX; /* so that the first facts are news */
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
