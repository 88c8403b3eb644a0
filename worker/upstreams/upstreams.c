/* upstreams.c - this worker's picture of the nodes, and its own connection to each. */
#include "worker/upstreams/upstreams.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/attrs.h"
#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/io/loop.h"
#include "base/io/net.h"
#include "base/log.h"
#include "policy/fault/noise.h"
#include "proto/drover_common.pb-c.h"
#include "proto/rpc/grpc/client.h"
#include "proto/rpc/h2/tls.h"
#include "shm/facts/procs.h"
#include "shm/facts/stats.h"
#include "shm/queue/model_queues.h"
#include "shm/scoreboard.h"
#include "shm/share/gauges.h"
#include "shm/share/taught.h"
#include "worker/upstreams/model_table.h"

#define RENEW_INTERVAL_US (10 * US_PER_MS)
#define UNJOINED_US       (60 * US_PER_S)  /* see upstreams_may_have_any() */
#define ENGINE_DOWN_US    (300 * US_PER_S) /* the same */
/* After the coordinator's start the nodes of a former one come back within this: the longest
 * pause of node/report/registration.c is that of a node that was sent away, 12 s. */
#define REJOIN_US (12 * US_PER_S)

struct upstreams {
    struct loop *loop;
    const struct config *config;
    struct scoreboard *board;
    unsigned worker; /* own column of the gauges */
    void (*on_change)(void *data, bool models);
    void *data;

    struct upstream **nodes; /* owned; by node_id, NULL = none */
    uint32_t nodes_cap;
    size_t nodes_count;
    struct upstream *retired; /* owned list: nodes that attempts still hold */

    struct model_table models;
    struct noise noise; /* of lines about connections to nodes */

    SSL_CTX **node_tls;             /* owned; by index in config->nodes, NULL = cleartext */
    SSL_CTX *registry_tls;          /* owned; for nodes that joined by themselves with TLS */
    uint64_t epoch;                 /* of the table, when last renewed; 0 = never */
    uint64_t renew_mono_us;         /* when last renewed */
    uint64_t lessons;               /* taught_epoch() of the lessons in `models` */
    uint64_t lessons_until_mono_us; /* when the first of them is forgotten */
};

/* ---- channels -------------------------------------------------------------------------- */

/* Why a connection could not be had, or is no more. */
static void log_connection(struct upstream *node, const char *event, const char *why)
{
    uint32_t missed;

    if (noise_allows(&node->upstreams->noise, node->info.name, clock_mono_us(), &missed))
        log_warn("event=%s node=%s address=%s why=%s missed=%u", event, node->info.name,
                 node->info.address, log_quote(why), missed);
}

static void on_channel_state(struct channel *channel, enum channel_state state, const char *why,
                             void *data)
{
    struct upstream *node = data;
    struct upstreams *upstreams = node->upstreams;
    bool was_reachable = node->reachable;

    node->reachable = state != CHANNEL_BACKOFF;
    switch (state) {
    case CHANNEL_READY:
        log_debug("event=node_connected node=%s", node->info.name);
        stats_note(upstreams->board, node->node_id, node->info.generation, STATS_CONNECT,
                   channel_connect_us(channel));
        break;
    case CHANNEL_BACKOFF:
        log_connection(node, "node_connection_failed", why);
        break;
    case CHANNEL_IDLE:
        /* Empty: the connection was given up here, for a new one. */
        if (why[0] != '\0')
            log_connection(node, "node_connection_lost", why);
        break;
    case CHANNEL_CONNECTING:
        break;
    }
    if (!node->retired && (state == CHANNEL_READY || node->reachable != was_reachable))
        upstreams->on_change(upstreams->data, false);
}

/* The name a node's certificate must carry: what the config says, or the host it was given. */
static void tls_name(const struct upstreams *upstreams, const struct node_info *info, char *out,
                     size_t cap)
{
    const struct config_node *node;
    uint16_t port;

    out[0] = '\0';
    if (info->config_index == 0 || info->config_index > upstreams->config->nodes_count)
        return;
    node = &upstreams->config->nodes[info->config_index - 1];
    if (node->tls.server_name != NULL)
        (void)strlcpy(out, node->tls.server_name, cap);
    else if (net_split(node->address, out, cap, &port, NULL) != 0)
        out[0] = '\0';
}

static void open_channel(struct upstreams *upstreams, struct upstream *node)
{
    struct channel_config cc = {
        .connect_timeout_us = upstreams->config->limits.connect_timeout_ms * US_PER_MS,
        .keepalive_idle = true,
        .on_state = on_channel_state,
        .data = node,
    };
    struct error err = {0};
    char name[256];

    if (net_parse(&cc.addr, node->info.address, &err) != 0) {
        log_warn("event=node_address_bad node=%s why=%s", node->info.name, log_quote(err.text));
        return;
    }
    if (node->info.tls) {
        uint32_t index = node->info.config_index;

        cc.tls = index != 0 && index <= upstreams->config->nodes_count
                     ? upstreams->node_tls[index - 1]
                     : upstreams->registry_tls;
        if (cc.tls == NULL) {
            log_warn("event=node_tls_missing node=%s", node->info.name);
            return;
        }
        tls_name(upstreams, &node->info, name, sizeof(name));
        cc.tls_name = name[0] == '\0' ? NULL : name;
    }
    if (channel_create(&node->channel, upstreams->loop, &cc, &err) != 0) {
        log_warn("event=node_channel_failed node=%s why=%s", node->info.name,
                 log_quote(err.text));
        return;
    }
    node->reachable = true;
    channel_connect(node->channel);
}

/* ---- nodes ----------------------------------------------------------------------------- */

static void free_node(struct upstream *node)
{
    channel_destroy(node->channel);
    free(node);
}

static void retire(struct upstreams *upstreams, uint32_t node_id)
{
    struct upstream *node = upstreams->nodes[node_id];

    upstreams->nodes[node_id] = NULL;
    upstreams->nodes_count--;
    node->retired = true;
    if (node->refs == 0) {
        free_node(node);
        return;
    }
    node->next_retired = upstreams->retired;
    upstreams->retired = node;
}

void upstreams_hold(struct upstream *node)
{
    node->refs++;
}

void upstreams_let_go(struct upstream *node)
{
    struct upstream **link;

    assert(node->refs > 0);
    if (--node->refs != 0 || !node->retired)
        return;
    for (link = &node->upstreams->retired; *link != NULL; link = &(*link)->next_retired) {
        if (*link == node) {
            *link = node->next_retired;
            break;
        }
    }
    free_node(node);
}

/* Same process at the same place? Then its channel and its open calls can stay. */
static bool same_generation(const struct node_info *a, const struct node_info *b)
{
    return a->generation == b->generation && a->tls == b->tls &&
           strcmp(a->address, b->address) == 0;
}

static struct upstream *add_node(struct upstreams *upstreams, uint32_t node_id)
{
    struct upstream *node = calloc(1, sizeof(*node));

    if (node == NULL)
        return NULL;
    node->node_id = node_id;
    node->upstreams = upstreams;
    upstreams->nodes[node_id] = node;
    upstreams->nodes_count++;
    return node;
}

/* Copies a row that changed.  NULL: not now; the epoch will have moved again by the next turn.
 */
static struct upstream *copy_row(struct upstreams *upstreams, uint32_t node_id,
                                 struct node_info *fresh)
{
    struct upstream *node = upstreams->nodes[node_id];
    uint32_t version = nodes_version(upstreams->board, node_id);

    if (!nodes_read(upstreams->board, node_id, fresh))
        return NULL;
    if (node != NULL && !same_generation(&node->info, fresh)) {
        retire(upstreams, node_id);
        node = NULL;
    }
    if (node == NULL) {
        node = add_node(upstreams, node_id);
        gauges_enter(upstreams->board, upstreams->worker, node_id, fresh->generation);
    }
    if (node != NULL) {
        node_info_copy(&node->info, fresh);
        node->version = version;
    }
    return node;
}

/* True: the models' copies of it may be wrong now. */
static bool renew_node(struct upstreams *upstreams, uint32_t node_id, struct node_info *fresh)
{
    enum node_state state = nodes_state(upstreams->board, node_id);
    struct upstream *node = upstreams->nodes[node_id];
    bool changed = false;

    if (state == NODE_NONE || state == NODE_GONE) {
        if (node == NULL)
            return false;
        retire(upstreams, node_id);
        return true;
    }
    if (node == NULL || node->version != nodes_version(upstreams->board, node_id)) {
        changed = true;
        node = copy_row(upstreams, node_id, fresh);
        if (node == NULL)
            return upstreams->nodes[node_id] == NULL;
    }
    if (state == NODE_UP || state == NODE_PROBATION) {
        if (node->channel == NULL)
            open_channel(upstreams, node);
        else if (node->state != state)
            channel_connect(node->channel); /* it is back: skip the back-off */
    }
    node->state = state;
    return changed;
}

/* ---- models ---------------------------------------------------------------------------- */

static struct abilities_known known_of(const struct upstream *node,
                                       const struct node_model *served)
{
    struct abilities_known known = {.lacks = served->lacks,
                                    .context_tokens = served->max_context};

    if (node->info.engine != DROVER__V1__ENGINE_KIND__ENGINE_KIND_OLLAMA)
        return known;
    known.largest_context =
        served->largest_context == 0 ? ABILITIES_ANY_CONTEXT : served->largest_context;
    if (known.context_tokens == 0 &&
        served->state != DROVER__V1__MODEL_STATE__MODEL_STATE_READY)
        known.context_tokens = ABILITIES_DEFAULT_CONTEXT;
    return known;
}

/* A message beside the body that it brings, and a text to go on from. */
#define BESIDE_BODY_BYTES (UINT32_C(1) << 20)

/* The largest request, whichever way it comes. */
static uint32_t largest_request(const struct node_info *info)
{
    uint32_t parts = info->max_body_bytes > UINT32_MAX - BESIDE_BODY_BYTES
                         ? UINT32_MAX
                         : info->max_body_bytes + BESIDE_BODY_BYTES;

    if (info->max_body_bytes == 0 || info->max_request_bytes == 0 ||
        parts < info->max_request_bytes)
        return info->max_request_bytes;
    return parts;
}

static bool add_server(struct upstream_model *model, struct upstream *node,
                       const struct node_model *served)
{
    const struct upstream_server server = {
        .node = node,
        .name = served->id,
        .model_hash = hash_text(served->id),
        .state = (uint16_t)served->state,
        .load_ms = served->load_ms,
        .operations = served->operations,
        .node_id = node->node_id,
        .generation = node->info.generation,
        .slots = node->info.slots,
        .queue = node->info.queue,
        .weight = node->info.weight == 0 ? 1 : (uint16_t)node->info.weight,
        .max_request_bytes = largest_request(&node->info),
        .prefill_tokens_per_s = node->info.prefill_tokens_per_s,
        .known = known_of(node, served),
    };

    return model_table_serve(model, &server);
}

/* The figure that a refusal of the server taught, or 0. */
static uint32_t lesson_of(struct upstreams *upstreams, const struct upstream_server *server,
                          enum ability ability, uint32_t detail)
{
    const struct lesson lesson = {
        .model_hash = server->model_hash, .ability = ability, .detail = detail};

    return taught_find(upstreams->board, server->node_id, server->generation, &lesson,
                       loop_now_us(upstreams->loop), &upstreams->lessons_until_mono_us);
}

static void apply_lessons(struct upstreams *upstreams, struct upstream_server *server)
{
    static const enum ability flags[] = {ABILITY_VISION,  ABILITY_AUDIO,  ABILITY_TOOLS,
                                         ABILITY_GRAMMAR, ABILITY_ACCESS, ABILITY_MODEL};
    struct abilities_known *known = &server->known;
    uint32_t context = lesson_of(upstreams, server, ABILITY_CONTEXT, 0);

    if (context != 0 && (known->context_tokens == 0 || context < known->context_tokens))
        known->context_tokens = context;
    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        if (lesson_of(upstreams, server, flags[i], 0) != 0)
            known->lacks |= ABILITY_BIT(flags[i]);
    }
    for (uint32_t op = 0; op < 32; op++) {
        if ((server->operations >> op & 1u) == 0)
            continue;
        if (lesson_of(upstreams, server, ABILITY_OPERATION, op) != 0)
            server->refused_operations |= UINT32_C(1) << op;
        if (lesson_of(upstreams, server, ABILITY_OPERATION, TAUGHT_STREAM + op) != 0)
            server->refused_streams |= UINT32_C(1) << op;
    }
    server->refused_bytes = lesson_of(upstreams, server, ABILITY_MESSAGE_BYTES, 0);
}

static void sum_up_abilities(struct upstream_model *model)
{
    for (size_t i = 0; i < model->servers_count; i++) {
        const struct upstream_server *server = &model->servers[i];
        uint32_t context = server->known.context_tokens;

        model->lacks |= server->known.lacks;
        if (server->refused_operations != 0 || server->refused_streams != 0)
            model->lacks |= ABILITY_BIT(ABILITY_OPERATION);
        if (server->refused_bytes != 0)
            model->lacks |= ABILITY_BIT(ABILITY_MESSAGE_BYTES);
        if (context != 0 && (model->least_context == 0 || context < model->least_context))
            model->least_context = context;
        if (context > model->most_context)
            model->most_context = context;
    }
}

static void renew_models(struct upstreams *upstreams)
{
    struct model_table old = upstreams->models;
    uint64_t now = loop_now_us(upstreams->loop);

    upstreams->models = (struct model_table){0};
    upstreams->lessons = taught_epoch(upstreams->board);
    upstreams->lessons_until_mono_us = UINT64_MAX;
    for (uint32_t node_id = 0; node_id < upstreams->nodes_cap; node_id++) {
        struct upstream *node = upstreams->nodes[node_id];
        bool taught =
            node != NULL && taught_any(upstreams->board, node_id, node->info.generation, now);

        for (uint32_t m = 0; node != NULL && m < node->info.models_count; m++) {
            struct upstream_model *model =
                model_table_add(&upstreams->models, node->info.models[m].id);

            if (model != NULL && add_server(model, node, &node->info.models[m]) && taught)
                apply_lessons(upstreams, &model->servers[model->servers_count - 1]);
        }
    }
    model_table_join(&upstreams->models, upstreams->config);
    for (size_t i = 0; i < upstreams->models.count; i++) {
        struct upstream_model *model = &upstreams->models.at[i];

        model->queue_row = model_queues_row(upstreams->board, hash_text(model->id));
        sum_up_abilities(model);
    }
    for (size_t i = 0; i < old.count; i++) {
        struct upstream_model *kept = upstreams_find(upstreams, old.at[i].id);

        if (kept != NULL) {
            kept->cursor = old.at[i].cursor;
            kept->bytes_per_token = old.at[i].bytes_per_token;
            kept->return_mono_us = old.at[i].return_mono_us;
        }
    }
    model_table_free(&old);
}

static void renew_rows(struct upstreams *upstreams, uint64_t epoch)
{
    struct node_info *fresh = malloc(sizeof(*fresh));
    bool changed = false;

    if (fresh == NULL)
        return;
    upstreams->epoch = epoch;
    upstreams->renew_mono_us = loop_now_us(upstreams->loop);
    for (uint32_t node_id = 0; node_id < upstreams->nodes_cap; node_id++)
        changed = renew_node(upstreams, node_id, fresh) || changed;
    free(fresh);
    if (changed)
        renew_models(upstreams);
    upstreams->on_change(upstreams->data, changed);
}

void upstreams_renew(struct upstreams *upstreams)
{
    uint64_t epoch = nodes_epoch(upstreams->board), now = loop_now_us(upstreams->loop);

    if (now - upstreams->renew_mono_us < RENEW_INTERVAL_US)
        return;
    if (epoch != upstreams->epoch) {
        renew_rows(upstreams, epoch);
    } else if (taught_epoch(upstreams->board) != upstreams->lessons ||
               now >= upstreams->lessons_until_mono_us) {
        upstreams->renew_mono_us = now;
        renew_models(upstreams);
        upstreams->on_change(upstreams->data, true);
    }
}

/* ---- queries --------------------------------------------------------------------------- */

bool upstreams_are_current(const struct upstreams *upstreams)
{
    return nodes_epoch(upstreams->board) == upstreams->epoch;
}

struct upstream_model *upstreams_find_fresh(struct upstreams *upstreams, const char *id)
{
    uint64_t epoch = nodes_epoch(upstreams->board);

    if (epoch != upstreams->epoch && model_table_find(&upstreams->models, id) == NULL)
        renew_rows(upstreams, epoch);
    return model_table_find(&upstreams->models, id);
}

struct upstream_model *upstreams_find(struct upstreams *upstreams, const char *id)
{
    return model_table_find(&upstreams->models, id);
}

void upstreams_settle_name(struct upstreams *upstreams, char model[NODE_MODEL_BYTES])
{
    const struct upstream_model *found;

    if (upstreams_find_fresh(upstreams, model) != NULL)
        return;
    found = model_table_find_spelled(&upstreams->models, model);
    if (found != NULL)
        (void)strlcpy(model, found->id, NODE_MODEL_BYTES);
}

unsigned upstreams_resolve(struct upstreams *upstreams, char model[NODE_MODEL_BYTES])
{
    unsigned models = 0;
    const struct config_alias *alias = config_find_alias(upstreams->config, model, &models);

    /* One that stands for nothing takes no model's place. */
    if (models == 1 && upstreams_find_fresh(upstreams, model) != NULL &&
        model_table_find_spelled(&upstreams->models, alias->model) == NULL)
        return 0;
    if (alias == NULL) {
        upstreams_settle_name(upstreams, model);
        if (upstreams_find(upstreams, model) == NULL)
            alias = config_find_wildcard(upstreams->config, model, &models);
    }
    if (alias == NULL)
        return 0;
    (void)strlcpy(model, models > 1 ? alias->name : alias->model, NODE_MODEL_BYTES);
    if (models == 1)
        upstreams_settle_name(upstreams, model);
    return models;
}

const struct config *upstreams_config(const struct upstreams *upstreams)
{
    return upstreams->config;
}

struct upstream_model *upstreams_all_models(struct upstreams *upstreams, size_t *count)
{
    *count = upstreams->models.count;
    return upstreams->models.at;
}

struct upstream *upstreams_at(struct upstreams *upstreams, unsigned node_id,
                              uint32_t generation)
{
    struct upstream *node = node_id < upstreams->nodes_cap ? upstreams->nodes[node_id] : NULL;

    return node != NULL && node->info.generation == generation ? node : NULL;
}

/* Health may have written the instants after this turn's began. */
bool upstreams_may_have_any(const struct node_status *status, uint64_t load_us,
                            uint64_t now_mono_us)
{
    bool waits = status->state == NODE_JOINING || status->state == NODE_DOWN;

    if (status->reason == NODE_REASON_ENGINE_LOADING)
        return waits && now_mono_us < status->reason_mono_us + load_us;
    if (status->reason == NODE_REASON_ENGINE_DOWN)
        return waits && now_mono_us < status->since_mono_us + ENGINE_DOWN_US;
    return status->state == NODE_JOINING && status->reason != NODE_REASON_NO_MODELS &&
           now_mono_us < status->since_mono_us + UNJOINED_US;
}

/* Has the coordinator just started?  Later, a worker that starts finds the nodes in the table.
 */
static bool nodes_may_rejoin(const struct upstreams *upstreams, uint64_t now_mono_us)
{
    struct proc_view master;

    return upstreams->config->registry.listen.address != NULL &&
           procs_read(upstreams->board, procs_master_index(upstreams->board), &master) &&
           master.started_mono_us != 0 && now_mono_us < master.started_mono_us + REJOIN_US;
}

bool upstreams_models_awaited(const struct upstreams *upstreams)
{
    uint64_t load_us = upstreams->config->limits.load_ms * US_PER_MS;
    uint64_t now = loop_now_us(upstreams->loop);
    struct node_status status;

    if (nodes_may_rejoin(upstreams, now))
        return true;
    for (uint32_t node_id = 0; node_id < upstreams->nodes_cap; node_id++) {
        const struct upstream *node = upstreams->nodes[node_id];

        if (node == NULL || !nodes_status(upstreams->board, node_id, &status))
            continue;
        /* An engine that loads may load another model than the node had. */
        if ((node->info.models_count == 0 || status.reason == NODE_REASON_ENGINE_LOADING) &&
            upstreams_may_have_any(&status, load_us, now))
            return true;
    }
    return false;
}

bool upstreams_models_unknown(const struct upstreams *upstreams)
{
    return upstreams->nodes_count == 0 || upstreams_models_awaited(upstreams);
}

size_t upstreams_size(const struct upstreams *upstreams)
{
    return upstreams->nodes_count;
}

bool upstreams_any_up(const struct upstreams *upstreams)
{
    for (uint32_t node_id = 0; node_id < upstreams->nodes_cap; node_id++) {
        enum node_state state = nodes_state(upstreams->board, node_id);

        if (upstreams->nodes[node_id] != NULL && (state == NODE_UP || state == NODE_PROBATION))
            return true;
    }
    return false;
}

bool upstreams_usable(const struct upstream *node)
{
    enum node_state state = nodes_state(node->upstreams->board, node->node_id);

    return node->reachable && (state == NODE_UP || state == NODE_PROBATION);
}

bool upstreams_drains(const struct upstream *node)
{
    return nodes_state(node->upstreams->board, node->node_id) == NODE_DRAINING;
}

/* ---- life ------------------------------------------------------------------------------ */

static int make_tls(struct upstreams *upstreams, struct error *err)
{
    const struct config *config = upstreams->config;
    const struct config_tls *join = &config->registry.listen.tls;
    int rc;

    upstreams->node_tls = calloc(config->nodes_count + 1, sizeof(SSL_CTX *));
    if (upstreams->node_tls == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    for (unsigned i = 0; i < config->nodes_count; i++) {
        if (!config->nodes[i].tls.enabled)
            continue;
        rc = tls_client_context(&upstreams->node_tls[i], &config->nodes[i].tls, err);
        if (rc != 0)
            return error_wrap(err, rc, "nodes[%u].tls", i);
    }
    if (!join->enabled && join->ca == NULL)
        return 0;
    rc = tls_client_context(&upstreams->registry_tls, join, err);
    return rc == 0 ? 0 : error_wrap(err, rc, "registry.tls");
}

int upstreams_create(struct upstreams **out, struct loop *loop, const struct config *config,
                     struct scoreboard *board, unsigned worker,
                     void (*on_change)(void *data, bool models), void *data, struct error *err)
{
    struct upstreams *upstreams = calloc(1, sizeof(*upstreams));
    int rc;

    *out = NULL;
    if (upstreams == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    upstreams->loop = loop;
    upstreams->config = config;
    upstreams->board = board;
    upstreams->worker = worker;
    upstreams->on_change = on_change;
    upstreams->data = data;
    upstreams->nodes_cap = scoreboard_max_nodes(board);
    upstreams->lessons_until_mono_us = UINT64_MAX;
    upstreams->nodes = calloc(upstreams->nodes_cap, sizeof(*upstreams->nodes));
    rc = upstreams->nodes == NULL ? error_set(err, DRV_ENOMEM, "out of memory")
                                  : make_tls(upstreams, err);
    if (rc != 0) {
        upstreams_destroy(upstreams);
        return rc;
    }
    *out = upstreams;
    return 0;
}

void upstreams_destroy(struct upstreams *upstreams)
{
    if (upstreams == NULL)
        return;
    for (uint32_t node_id = 0; upstreams->nodes != NULL && node_id < upstreams->nodes_cap;
         node_id++) {
        if (upstreams->nodes[node_id] != NULL)
            free_node(upstreams->nodes[node_id]);
    }
    while (upstreams->retired != NULL) {
        struct upstream *node = upstreams->retired;

        upstreams->retired = node->next_retired;
        free_node(node);
    }
    model_table_free(&upstreams->models);
    for (unsigned i = 0; upstreams->node_tls != NULL && i < upstreams->config->nodes_count; i++)
        SSL_CTX_free(upstreams->node_tls[i]);
    free(upstreams->node_tls);
    SSL_CTX_free(upstreams->registry_tls);
    free(upstreams->nodes);
    free(upstreams);
}
