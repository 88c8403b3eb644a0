/* gather.c - the nodes that could serve a request: what is known, and a place on one. */
#include "worker/select/gather.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "policy/route/estimate.h"
#include "policy/route/hold.h"
#include "proto/drover_common.pb-c.h"
#include "shm/facts/decisions.h"
#include "shm/facts/nodes.h"
#include "shm/facts/outcomes.h"
#include "shm/facts/speeds.h"
#include "shm/queue/plans.h"
#include "shm/share/gauges.h"
#include "shm/share/loads.h"
#include "shm/share/prefix.h"
#include "worker/upstreams/upstreams.h"

/* For a load without a known time. */
#define DEFAULT_LOAD_MS 10000

/* While one request loads a model, the others look this often whether it is there. */
#define LOAD_LOOK_US (10 * US_PER_MS)
/* The claim of a load lasts as long as the load may.  It ends with its attempt; this is for a
 * worker that hangs. */
#define LOAD_SLACK_US (10 * US_PER_S)

/* The facts about the request before any node is looked at. */
struct outlook {
    uint32_t matched[SELECT_MAX]; /* windows each node's row has seen */
    int session_node;             /* as in struct eligible */
    struct speeds_view speeds;    /* of the model and class */
    uint64_t now_us;              /* by their clock */
};

/* ---- gathering ------------------------------------------------------------------------- */

static ALWAYS_INLINE bool can_serve(const struct upstream_server *server,
                                    const struct select_request *request)
{
    return (server->operations & (UINT32_C(1) << request->operation)) != 0 &&
           upstreams_takes(server, request->message_bytes) && server->node->reachable &&
           server->state != DROVER__V1__MODEL_STATE__MODEL_STATE_LOADING &&
           server->state != DROVER__V1__MODEL_STATE__MODEL_STATE_FAILED &&
           upstreams_is_holder(server, request->holder);
}

uint64_t gather_score(const struct upstream_server *server,
                      const struct select_request *request)
{
    struct abilities_known known = server->known;
    bool unstreamed =
        request->need->stream && (server->refused_streams >> request->operation & 1u) != 0;
    uint64_t score;

    if ((server->refused_operations >> request->operation & 1u) != 0)
        known.lacks |= ABILITY_BIT(ABILITY_OPERATION);
    if (server->refused_bytes != 0 && request->message_bytes >= server->refused_bytes)
        known.lacks |= ABILITY_BIT(ABILITY_MESSAGE_BYTES);
    score = abilities_score(&known, request->need);
    /* A stream that is made of a document comes all at once: better than none, and no more. */
    if (unstreamed && score < ABILITIES_SCORE(ABILITIES_LACKS))
        score = ABILITIES_SCORE(ABILITIES_LACKS) - 1;
    return score;
}

/* Does another node answer better to what the request needs? */
static bool is_outdone(const struct upstream_server *server,
                       const struct select_request *request)
{
    return request->need != NULL && gather_score(server, request) > request->most_score;
}

static const struct excluded_node *find_excluded(const struct select_request *request,
                                                 const struct upstream_server *server)
{
    for (uint32_t i = 0; i < request->excluded_count; i++) {
        const struct excluded_node *b = &request->excluded[i];

        if (b->node == server->node_id && b->generation == server->generation &&
            b->until_mono_us > request->now_mono_us)
            return b;
    }
    return NULL;
}

/* It is no node that the request could wait for. */
static bool has_failed(const struct excluded_node *excluded)
{
    return excluded != NULL && (excluded->away || excluded->until_mono_us == UINT64_MAX);
}

/* Seconds of regret for which the node may be tried: see struct balance_candidate.  One prompt
 * at a time, which nothing else there is before. */
static float regret_of(const struct gauge *gauge, struct estimate_speed learned,
                       const struct upstream_server *server,
                       const struct select_request *request, const struct outlook *outlook)
{
    if (gauge->charged_us != 0)
        return -1;
    if (!(learned.seconds > 0) && !(server->prefill_tokens_per_s > 0))
        return INFINITY;
    return (float)estimate_regret_s(speeds_tried_us(outlook->speeds, server->node_id),
                                    gauge->inflight != 0, outlook->now_us, request->times);
}

/* The engine loads the model for the request, or loads it anew. */
static bool has_to_load(const struct upstream_server *server,
                        const struct select_request *request)
{
    return server->state == DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE ||
           (request->wanted_context != 0 &&
            abilities_reloads(&server->known, request->wanted_context));
}

/* A model that another request is loading there, or that has to wait for other loads. */
static bool waits_for_load(const struct scoreboard *board, const struct upstream_server *server,
                           const struct select_request *request)
{
    return has_to_load(server, request) &&
           loads_blocked(board, server->node_id, server->generation, server->model_hash,
                         request->now_mono_us);
}

/* Is there a node for it that is not on probation? */
static bool has_proven(const struct scoreboard *board, const struct upstream_model *model,
                       const struct select_request *request)
{
    for (size_t i = 0; i < model->servers_count; i++) {
        const struct upstream_server *server = &model->servers[i];

        if (can_serve(server, request) && !is_outdone(server, request) &&
            find_excluded(request, server) == NULL &&
            nodes_state(board, server->node_id) == NODE_UP)
            return true;
    }
    return false;
}

uint64_t gather_least_score(const struct scoreboard *board, const struct upstream_model *model,
                            const struct select_request *request)
{
    uint64_t least = UINT64_MAX;

    for (size_t i = 0; i < model->servers_count; i++) {
        const struct upstream_server *server = &model->servers[i];
        enum node_state state = nodes_state(board, server->node_id);
        uint64_t score;

        if (!can_serve(server, request) || (state != NODE_UP && state != NODE_PROBATION) ||
            has_failed(find_excluded(request, server)))
            continue;
        score = gather_score(server, request);
        if (score < least)
            least = score;
    }
    return least;
}

static void bring_forward(uint64_t *until_mono_us, uint64_t to_mono_us)
{
    if (to_mono_us < *until_mono_us)
        *until_mono_us = to_mono_us;
}

/* As gather_reach() has it, for one node. */
static bool reaches(const struct scoreboard *board, const struct upstream_server *server,
                    const struct select_request *request, bool spare_probation,
                    uint64_t *until_mono_us)
{
    const struct excluded_node *excluded = find_excluded(request, server);
    uint64_t full_mono_us = server->node->full_mono_us;

    if (!can_serve(server, request) || is_outdone(server, request))
        return false;
    if (excluded != NULL) {
        bring_forward(until_mono_us, excluded->until_mono_us);
        return false;
    }
    if (full_mono_us > request->now_mono_us) {
        bring_forward(until_mono_us, full_mono_us);
        return false;
    }
    if (waits_for_load(board, server, request)) {
        bring_forward(until_mono_us, request->now_mono_us + LOAD_LOOK_US);
        return false;
    }
    return !spare_probation || nodes_state(board, server->node_id) != NODE_PROBATION;
}

void gather_reach(const struct scoreboard *board, const struct upstream_model *model,
                  const struct select_request *request, struct node_set *nodes,
                  uint32_t *generation, uint64_t *until_mono_us)
{
    bool spare_probation = request->spare_probation && has_proven(board, model, request);

    for (size_t i = 0; i < model->servers_count; i++) {
        const struct upstream_server *server = &model->servers[i];

        if (!reaches(board, server, request, spare_probation, until_mono_us))
            continue;
        node_set_add(nodes, server->node_id);
        generation[server->node_id] = server->generation;
    }
}

static inline void describe(struct balance_candidate *c, const struct scoreboard *board,
                            const struct upstream_server *server, const struct node_hot *hot,
                            const struct select_request *request, const struct outlook *outlook)
{
    struct gauge gauge = gauges_sum(board, server->node_id, server->generation);
    struct speed speed = speeds_at(outlook->speeds, server->node_id);
    struct estimate_speed learned = {.tokens = speed.tokens, .seconds = speed.seconds};
    struct estimate_backlog backlog = estimate_backlog(gauge.charged_us, hot->work_mono_us,
                                                       request->now_mono_us, request->times);

    c->id = server->node_id;
    c->inflight = gauge.inflight;
    c->slots = hot->slots_now == 0 ? 1 : hot->slots_now;
    /* No request waits at a node whose slots are not all open yet. */
    c->cap = c->slots < server->slots ? c->slots : c->slots + server->queue;
    c->weight = server->weight;
    c->planned = 0;
    c->plan_cap = 0;
    c->matched_tokens =
        (uint32_t)(request->tokens_per_window * outlook->matched[server->node_id]);
    c->backlog_s = backlog.left_s;
    c->slowdown = (float)backlog.slowdown;
    c->prefill_tokens_per_s =
        estimate_tokens_per_s(learned, (double)server->prefill_tokens_per_s, request->times);
    c->hold_s = (float)hot->hold_s;
    c->load_s = 0;
    c->regret_s = regret_of(&gauge, learned, server, request, outlook);
    c->same_session = outlook->session_node == (int)server->node_id;
}

/* One place, and none once the probation has a result.  The slots are those that it will have:
 * one request of one is a full node to policies that compare shares, and they would never try
 * it while others have a slot. */
static void limit_probation(struct balance_candidate *c, const struct scoreboard *board,
                            const struct upstream_server *server)
{
    c->slots = server->slots;
    c->cap = outcomes_probed(board, server->node_id) ? 0 : 1;
    /* Its failures made it slow, and while others have a slot nothing else would show that it
     * is well again. */
    if (c->regret_s >= 0)
        c->regret_s = INFINITY;
}

/* A node that has the model on disk, or with another context.  One load at a time: the others
 * wait for it, or go where the model is. */
static uint8_t describe_load(struct balance_candidate *c, const struct scoreboard *board,
                             const struct upstream_server *server,
                             const struct select_request *request)
{
    c->load_s = (float)(server->load_ms == 0 ? DEFAULT_LOAD_MS : server->load_ms) / 1000.0f;
    c->regret_s = -1; /* a load is no trial of the speed */
    if (!waits_for_load(board, server, request))
        return 0;
    c->cap = 0;
    return DECISION_EXCLUDED_LOADING;
}

/* Plans of other requests on the node. */
static struct plans others_planned(const struct scoreboard *board,
                                   const struct upstream_server *server,
                                   const struct select_request *request)
{
    struct plans sum =
        plans_sum(board, server->node_id, server->generation, request->now_mono_us);
    const struct request_plan *own = request->plan;

    if (own != NULL && own->node == server->node_id && own->generation == server->generation) {
        sum.count -= sum.count != 0;
        sum.charged_us -= own->charge_us < sum.charged_us ? own->charge_us : sum.charged_us;
    }
    return sum;
}

/* `c` as it was before plans were counted. */
static bool is_held_back(const struct balance_candidate *c,
                         const struct select_request *request)
{
    return !hold_window_open(c->backlog_s, request->hold_us) &&
           !hold_is_short(balance_own_prefill_s(c, request->policy.tokens), request->hold_us);
}

/* Counts what is planned there, and says whether the request may be sent there now, or planned.
 * Only where something waits: otherwise there are no plans, and select_claim() looks at the
 * window of the node that was chosen. */
static void consider_plans(struct eligible *out, size_t at, const struct scoreboard *board,
                           const struct upstream_server *server,
                           const struct select_request *request)
{
    struct balance_candidate *c = &out->of[at];
    struct plans planned;

    out->planned_s[at] = 0;
    if (request->hold_us == 0 || out->on_probation[at])
        return;
    if (request->may_plan && !(c->load_s > 0))
        c->plan_cap = c->cap;
    if (c->inflight < c->cap && is_held_back(c, request)) {
        c->cap = c->inflight;
        out->exclusions[at] |= DECISION_EXCLUDED_HOLD;
    }
    planned = others_planned(board, server, request);
    c->planned = planned.count;
    out->planned_s[at] = (double)planned.charged_us * 1e-6;
    c->backlog_s += out->planned_s[at];
}

/* The places that are left to it beside the requests that go first. */
static void consider_rights(struct eligible *out, size_t at,
                            const struct select_request *request)
{
    struct balance_candidate *c = &out->of[at];
    uint32_t cap = queue_rights_cap(request->rights, c->id, c->inflight, c->slots, c->cap);

    if (cap < c->cap)
        out->exclusions[at] |= DECISION_EXCLUDED_WAITED_FOR;
    c->cap = cap;
}

static bool is_tight(const struct upstream_server *server, const struct select_request *request)
{
    return gather_score(server, request) >= ABILITIES_SCORE(ABILITIES_TIGHT);
}

/* For the request, or for a plan of it. */
static bool has_slot(const struct balance_candidate *c)
{
    uint32_t charged = c->inflight + c->planned;

    return (c->inflight < c->slots && c->inflight < c->cap) ||
           (charged < c->slots && charged < c->plan_cap);
}

/* A hedge is optional: it goes to another node, where no request waits for its place, the
 * window is open and nothing has to be loaded. */
static void only_free_slots(struct eligible *eligible, const struct select_request *request)
{
    for (size_t i = 0; i < eligible->count; i++) {
        struct balance_candidate *c = &eligible->of[i];

        if (c->id == request->first_node || c->load_s > 0 ||
            !hold_window_open(c->backlog_s, request->hold_us))
            c->cap = 0;
        else if (c->cap > c->slots)
            c->cap = c->slots;
    }
}

/* Do not spend a retry or a hedge on a speed trial, nor on a node on probation while another
 * could serve it, as one does that is hedged. */
static void spare_probation(struct eligible *eligible, const struct select_request *request)
{
    bool other = request->is_hedge;

    for (size_t i = 0; i < eligible->count; i++) {
        other |= !eligible->on_probation[i];
        eligible->of[i].regret_s = -1;
    }
    for (size_t i = 0; other && i < eligible->count; i++) {
        if (eligible->on_probation[i])
            eligible->of[i].cap = 0;
    }
}

/* A context in which the longest output may not fit is a choice only while no other has a slot
 * for this request: after all else has been barred.  One that is ready does not stand idle for
 * a load elsewhere. */
static void spare_tight(struct eligible *eligible, const struct select_request *request)
{
    bool other = false, other_ready = false;

    for (size_t i = 0; i < eligible->count && !other_ready; i++) {
        const struct balance_candidate *c = &eligible->of[i];

        if (!has_slot(c) || is_tight(eligible->server[i], request))
            continue;
        other = true;
        other_ready = !(c->load_s > 0);
    }
    for (size_t i = 0; i < eligible->count && other; i++) {
        struct balance_candidate *c = &eligible->of[i];

        if (!is_tight(eligible->server[i], request) || (!other_ready && !(c->load_s > 0)))
            continue;
        c->cap = 0;
        c->plan_cap = 0;
        eligible->exclusions[i] |= DECISION_EXCLUDED_CONTEXT;
    }
}

void select_gather(struct eligible *out, const struct scoreboard *board,
                   const struct upstream_model *model, const struct select_request *request)
{
    static struct outlook outlook; /* one thread; too large for the stack */

    out->count = 0;
    out->any_usable = false;
    out->any_failed = false;
    outlook.session_node =
        request->session_hash == 0 ? -1 : prefix_session_get(board, request->session_hash);
    out->session_node = outlook.session_node;
    out->speeds_row = speeds_find(board, request->model_hash, request->op_class);
    outlook.speeds = speeds_view(board, out->speeds_row);
    outlook.now_us =
        speeds_now_us(outlook.speeds, request->now_mono_us, request->times->trial_gap_us);
    out->now_us = outlook.now_us;
    if (prefix_match(board, request->windows, request->windows_count, outlook.matched) == 0 &&
        request->rights != NULL && request->rights->overcommit_only && !request->may_plan &&
        request->excluded_count == 0) {
        out->any_usable = true; /* perhaps; but nothing is cached, so nothing is for it */
        return;
    }
    for (size_t i = 0; i < model->servers_count && out->count < SELECT_MAX; i++) {
        const struct upstream_server *server = &model->servers[i];
        const struct excluded_node *excluded;
        struct balance_candidate *c = &out->of[out->count];
        struct node_hot hot;

        if (!can_serve(server, request) || !nodes_hot(board, server->node_id, &hot) ||
            (hot.state != NODE_UP && hot.state != NODE_PROBATION))
            continue;
        excluded = find_excluded(request, server);
        if (has_failed(excluded)) {
            out->any_failed = true;
            continue;
        }
        if (is_outdone(server, request))
            continue;
        out->any_usable = true;
        if (excluded != NULL || server->node->full_mono_us > request->now_mono_us ||
            hot.generation != server->generation)
            continue;
        describe(c, board, server, &hot, request, &outlook);
        if (c->regret_s >= 0)
            out->tried_us[out->count] = speeds_tried_us(outlook.speeds, server->node_id);
        out->exclusions[out->count] = 0;
        out->on_probation[out->count] = hot.state == NODE_PROBATION;
        if (hot.state == NODE_PROBATION)
            limit_probation(c, board, server);
        if (has_to_load(server, request))
            out->exclusions[out->count] = describe_load(c, board, server, request);
        if (request->rights != NULL) {
            consider_plans(out, out->count, board, server, request);
            consider_rights(out, out->count, request);
        }
        out->server[out->count++] = server;
    }
    if (request->is_hedge)
        only_free_slots(out, request);
    if (request->spare_probation)
        spare_probation(out, request);
    if (request->need != NULL)
        spare_tight(out, request);
}

/* ---- claiming -------------------------------------------------------------------------- */

/* The places a claim may use: the slots, or those beyond them if the policy chose one of those.
 */
static bool claim(struct scoreboard *board, unsigned worker,
                  const struct upstream_server *server, const struct balance_candidate *c,
                  const struct select_request *request, struct eligible_place *place)
{
    uint32_t cap = c->inflight < c->slots && c->slots < c->cap ? c->slots : c->cap;

    place->loads_model = false;
    if (c->load_s > 0) {
        place->loads_model =
            loads_claim(board, worker, server->node_id, server->generation, server->model_hash,
                        request->now_mono_us, request->load_us + LOAD_SLACK_US);
        if (!place->loads_model)
            return false;
    }
    if (gauges_claim(board, worker, server->node_id, server->generation, place->charge_us, cap))
        return true;
    if (place->loads_model)
        loads_done(board, worker, server->node_id, server->generation, server->model_hash);
    return false;
}

/* Is there one that would have cost less? */
static bool is_trial(const struct eligible *eligible, size_t at)
{
    bool cheaper = false;

    for (size_t i = 0; eligible->of[at].regret_s >= 0 && i < eligible->count; i++)
        cheaper |= eligible->cost_s[i] < eligible->cost_s[at];
    return cheaper;
}

/* The candidate where the request is planned; -1 = it is none any more, or there is no plan. */
static int own_candidate(const struct eligible *eligible, const struct request_plan *plan)
{
    for (size_t i = 0; i < eligible->count; i++)
        if (eligible->server[i]->node_id == plan->node &&
            eligible->server[i]->generation == plan->generation)
            return (int)i;
    return -1;
}

/* The policy's verdict about out->at, with its terms. */
static enum hold_verdict decide(struct eligible_place *out, struct eligible *eligible,
                                enum policy_kind policy, const struct select_request *request,
                                uint32_t *cursor, uint64_t bits)
{
    struct hold_choice choice;

    if (request->plan != NULL) {
        hold_choose(&choice, eligible->of, eligible->count, &request->policy,
                    own_candidate(eligible, request->plan), request->plan->promised_mono_us,
                    bits, eligible->cost_s, request->now_mono_us, request->times);
        out->at = choice.at;
        out->terms = choice.terms;
        return choice.verdict;
    }
    out->at = balance_choose(policy, eligible->of, eligible->count, &request->policy, cursor,
                             bits, eligible->cost_s);
    if (out->at < 0)
        return HOLD_NOWHERE;
    balance_terms(&out->terms, &eligible->of[out->at], &request->policy);
    return policy != POLICY_FASTEST || out->terms.may_send ? HOLD_SEND : HOLD_PLAN;
}

/* Nothing waits, so nothing has looked at its window. */
static bool meets_closed_window(const struct eligible *eligible, size_t at,
                                const struct select_request *request)
{
    const struct balance_candidate *c = &eligible->of[at];

    return request->rights == NULL && request->may_plan && !eligible->on_probation[at] &&
           !(c->load_s > 0) && is_held_back(c, request);
}

/* The trial of a node is one request's.  False: it is another's. */
static bool take_trial(struct eligible *eligible, struct scoreboard *board,
                       enum policy_kind policy, struct eligible_place *place)
{
    size_t at = (size_t)place->at;
    const struct upstream_server *server = eligible->server[at];

    place->trial = policy == POLICY_FASTEST && is_trial(eligible, at);
    if (!place->trial ||
        speeds_take_trial(board, eligible->speeds_row, server->node_id, server->generation,
                          eligible->tried_us[at], eligible->now_us))
        return true;
    eligible->of[at].regret_s = -1;
    return false;
}

enum select_place select_claim(struct eligible *eligible, struct scoreboard *board,
                               unsigned worker, enum policy_kind policy,
                               const struct select_request *request, uint32_t *cursor,
                               uint64_t *random, struct eligible_place *out)
{
    out->lost = false;
    for (;;) {
        enum hold_verdict verdict =
            decide(out, eligible, policy, request, cursor, balance_random(random));
        struct balance_candidate *c;

        if (verdict == HOLD_NOWHERE)
            return SELECT_PLACE_NONE;
        c = &eligible->of[out->at];
        out->charge_us =
            estimate_charge_us(out->terms.uncached_tokens, c->prefill_tokens_per_s);
        out->left_s = c->backlog_s;
        if (request->rights != NULL)
            out->left_s -= eligible->planned_s[out->at];
        if (verdict == HOLD_STAY)
            return SELECT_PLACE_KEPT;
        if (verdict == HOLD_PLAN || meets_closed_window(eligible, (size_t)out->at, request))
            return SELECT_PLACE_PLAN;
        if (!take_trial(eligible, board, policy, out))
            continue;
        if (claim(board, worker, eligible->server[out->at], c, request, out))
            return SELECT_PLACE_CLAIMED;
        c->cap = 0;
        c->plan_cap = 0;
        if (c->load_s > 0 && waits_for_load(board, eligible->server[out->at], request)) {
            eligible->exclusions[out->at] |= DECISION_EXCLUDED_LOADING;
            continue;
        }
        out->lost = true;
        eligible->exclusions[out->at] |= DECISION_EXCLUDED_LOST;
    }
}

/* ---- the record ------------------------------------------------------------------------ */

/* The beginning of it, and no look for its end. */
static void copy_name(char name[static DECISIONS_NAME_BYTES], const struct upstream *node)
{
    memcpy(name, node->info.name, DECISIONS_NAME_BYTES - 1);
    name[DECISIONS_NAME_BYTES - 1] = '\0';
}

static void describe_for_people(struct decision_candidate *to,
                                const struct balance_candidate *c,
                                const struct upstream_server *server, uint8_t exclusions,
                                const struct balance_request *request)
{
    struct balance_terms terms;

    balance_terms(&terms, c, request);
    to->node = server->node_id;
    copy_name(to->name, server->node);
    to->inflight = c->inflight;
    to->slots = c->slots;
    to->cap = c->cap;
    to->backlog_ms =
        c->backlog_s < UINT32_MAX / 1000 ? (uint32_t)(c->backlog_s * 1000) : UINT32_MAX;
    to->matched_tokens = c->matched_tokens;
    to->prefill_per_s = (float)c->prefill_tokens_per_s;
    to->wait_s = (float)terms.wait_s;
    to->prefill_s = (float)terms.prefill_s;
    to->load_s = (float)terms.load_s;
    to->bonus_s = (float)terms.bonus_s;
    to->cost_s = (float)terms.cost_s;
    to->exclusions =
        exclusions != 0 || terms.eligible ? exclusions : (uint32_t)DECISION_EXCLUDED_FULL;
}

/* The cost of each: fastest has worked it out already. */
static const float *costs(const struct eligible *eligible, const struct decision *decision,
                          const struct balance_request *request)
{
    static float cost_s[SELECT_MAX]; /* one thread */

    if (decision->policy == (uint32_t)POLICY_FASTEST)
        return eligible->cost_s;
    for (size_t i = 0; i < eligible->count; i++) {
        struct balance_terms terms;

        balance_terms(&terms, &eligible->of[i], request);
        cost_s[i] = terms.eligible ? (float)terms.cost_s : INFINITY;
    }
    return cost_s;
}

/* The chosen one and, of more than DECISIONS_CANDIDATES, the cheapest others, in that order. */
static void keep_cheapest(uint16_t *kept, const float *cost_s, size_t count, size_t chosen)
{
    float cost[DECISIONS_CANDIDATES]; /* rising from 1 on */
    size_t n = 1;

    kept[0] = (uint16_t)chosen;
    cost[0] = -INFINITY;
    for (size_t i = 0; i < count; i++) {
        float c = cost_s[i];
        size_t at;

        if (i == chosen || (n == DECISIONS_CANDIDATES && c >= cost[n - 1]))
            continue;
        n += n < DECISIONS_CANDIDATES;
        for (at = n - 1; cost[at - 1] > c; at--) {
            cost[at] = cost[at - 1];
            kept[at] = kept[at - 1];
        }
        cost[at] = c;
        kept[at] = (uint16_t)i;
    }
}

void select_record(const struct eligible *eligible, struct scoreboard *board, unsigned worker,
                   const struct select_request *request, int chosen, struct decision *decision)
{
    uint16_t kept[DECISIONS_CANDIDATES];

    decision->candidates = 0;
    decision->at_mono_us = request->now_mono_us;
    decision->prompt_tokens = request->policy.tokens;
    decision->node = eligible->server[chosen]->node_id;
    copy_name(decision->name, eligible->server[chosen]->node);
    decision->candidates_total = (uint32_t)eligible->count;
    if (eligible->count > DECISIONS_CANDIDATES) {
        keep_cheapest(kept, costs(eligible, decision, &request->policy), eligible->count,
                      (size_t)chosen);
        /* The decision has not read the names before: all are fetched at once. */
        for (size_t i = 0; i < DECISIONS_CANDIDATES; i++)
            __builtin_prefetch(eligible->server[kept[i]]->node->info.name);
    }
    for (size_t i = 0; i < eligible->count && i < DECISIONS_CANDIDATES; i++) {
        size_t from = eligible->count > DECISIONS_CANDIDATES ? kept[i] : i;

        describe_for_people(&decision->candidate[i], &eligible->of[from],
                            eligible->server[from], eligible->exclusions[from],
                            &request->policy);
        decision->candidates = (uint32_t)i + 1;
    }
    decisions_add(board, worker, decision);
}
