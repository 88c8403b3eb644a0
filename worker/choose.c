/* choose.c - finds a node with room for an exchange and claims a place there. */
#include "worker/choose.h"

#include <stdint.h>

#include "base/config.h"
#include "base/loop.h"
#include "proto/drover_common.pb-c.h"
#include "shm/gauges.h"
#include "shm/nodes.h"
#include "worker/exchange_private.h"
#include "worker/fleet.h"
#include "worker/http/request.h"
#include "worker/policy.h"

#define MAX_CANDIDATES 1024 /* as many as the node table can have */

struct choice {
    struct policy_candidate candidates[MAX_CANDIDATES];
    struct fleet_node *nodes[MAX_CANDIDATES];
    size_t count;
    bool any_usable; /* some node could serve it, though it may be full */
    bool any_failed; /* some node could have, but has already failed for this request */
};

static bool can_serve(const struct fleet_server *server, int operation)
{
    return (server->operations & (UINT32_C(1) << operation)) != 0 &&
           server->state != DROVER__V1__MODEL_STATE__MODEL_STATE_LOADING &&
           server->state != DROVER__V1__MODEL_STATE__MODEL_STATE_FAILED;
}

bool choose_any_up(struct exchange_core *core, const char *model)
{
    struct fleet_model *found = fleet_find(core->fleet, model);

    for (size_t i = 0; found != NULL && i < found->servers_count; i++) {
        if (fleet_usable(found->servers[i].node))
            return true;
    }
    return false;
}

static const struct exchange_excluded *excluded(const struct exchange *x,
                                                const struct fleet_node *node, uint64_t now)
{
    for (uint32_t i = 0; i < x->excluded_count; i++) {
        const struct exchange_excluded *e = &x->excluded[i];

        if (e->node == node->slot && e->generation == node->info.generation &&
            e->until_mono_us > now)
            return e;
    }
    return NULL;
}

static void gather(const struct exchange *x, const struct fleet_model *model,
                   struct choice *choice)
{
    uint64_t now = loop_now_us(x->core->loop);

    choice->count = 0;
    choice->any_usable = false;
    choice->any_failed = false;
    for (size_t i = 0; i < model->servers_count && choice->count < MAX_CANDIDATES; i++) {
        const struct fleet_server *server = &model->servers[i];
        const struct exchange_excluded *e;
        struct node_status status;
        struct policy_candidate *c;

        if (!can_serve(server, x->request->operation) || !fleet_usable(server->node))
            continue;
        e = excluded(x, server->node, now);
        if (e != NULL && e->until_mono_us == UINT64_MAX) {
            choice->any_failed = true;
            continue;
        }
        choice->any_usable = true;
        if (e != NULL || !nodes_status(x->core->board, server->node->slot, &status) ||
            status.generation != server->node->info.generation)
            continue;
        c = &choice->candidates[choice->count];
        c->slots = status.slots_now == 0 ? 1 : status.slots_now;
        c->cap = c->slots;
        c->weight = server->node->info.weight == 0 ? 1 : server->node->info.weight;
        c->inflight =
            gauges_sum(x->core->board, server->node->slot, status.generation).inflight;
        choice->nodes[choice->count++] = server->node;
    }
}

static uint64_t next_random(struct exchange_core *core)
{
    core->random = core->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return core->random;
}

enum choose_result choose_node(struct exchange *x, struct fleet_node **out)
{
    static struct choice choice; /* one thread, no recursion; too large for the stack */
    struct exchange_core *core = x->core;
    struct fleet_model *model = fleet_find(core->fleet, x->request->model);
    enum policy_kind policy = config_policy_for(core->config, x->request->model);

    if (model == NULL)
        return CHOOSE_NOBODY;
    gather(x, model, &choice);
    for (;;) {
        int at = policy_choose(policy, choice.candidates, choice.count, &model->cursor,
                               next_random(core));
        struct fleet_node *node;

        if (at < 0)
            break;
        node = choice.nodes[at];
        if (gauges_claim(core->board, core->slot, node->slot, node->info.generation,
                         x->request->est_prompt_tokens, choice.candidates[at].cap)) {
            *out = node;
            return CHOOSE_CLAIMED;
        }
        choice.candidates[at].cap = 0; /* another worker was faster */
    }
    if (choice.any_usable)
        return CHOOSE_FULL;
    return choice.any_failed ? CHOOSE_ALL_FAILED : CHOOSE_NOBODY;
}
